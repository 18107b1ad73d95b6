//! What tiIndicators holds, tenant by tenant, and what tests ask of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rules::{DEFENDER, Entity, observed};
use crate::faults::next;
use crate::rate::Recent;
use crate::world::World;

/// What tiIndicators holds, and how it behaves.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Graph {
    pub(crate) tenants: HashMap<String, Stock>,
    pub(crate) recent: HashMap<(String, String), Recent>,
    pub(crate) dice: u64,
    /// Where links to the next page point.
    pub base: String,
    pub enforce_rate: bool,
    /// How a 429 says when to come again.
    pub retry_after: RetryAfter,
    /// The service is no more; whoever asks gets this.
    pub gone: Option<Gone>,
    /// A submit of more than so many entities is not answered well.
    pub chokes_above: Option<usize>,
    /// The status of that answer.
    pub chokes_with: u16,
    /// A list without `$top` is not answered well either.
    pub list_needs_top: bool,
    /// The most rows that a list gives at once, if `$top` does not ask for fewer.
    pub page: usize,
    /// Entities whose JSON contains one of these are refused for good.
    pub refuse: Vec<String>,
    /// Entities and ids that contain one of these are processed, but have no element in the result.
    pub omit: Vec<String>,
    /// Failed items do not make a 200 a 206.
    pub failures_are_200: bool,
    /// Results of a delete have a `code` of text, "204" for success, instead of 0.
    pub delete_code_is_text: bool,
    /// They have `subCode`, a text, instead of `subcode`, a number.
    pub delete_sub_code: bool,
    /// Their `message` is null: nothing says which id is meant.
    pub delete_without_message: bool,
    /// Creations of what a live entity of the same app and target is about already.
    pub doubled: Vec<String>,
    /// Entities of a submit without an external id, or with one that came twice: the answer cannot be told apart.
    pub ambiguous: Vec<String>,
    pub created: u64,
    pub updated: u64,
    pub deleted: u64,
    /// Requests with a good token and role, refused ones too.
    pub requests: BTreeMap<GraphOperation, u64>,
    /// Of these, the ones that came too fast.
    pub throttled: u64,
}

impl Default for Graph {
    fn default() -> Self {
        Self {
            tenants: HashMap::new(),
            recent: HashMap::new(),
            dice: 1,
            base: "https://localhost".to_owned(),
            enforce_rate: false,
            retry_after: RetryAfter::Seconds,
            gone: None,
            chokes_above: None,
            chokes_with: 500,
            list_needs_top: false,
            page: 1_000,
            refuse: Vec::new(),
            omit: Vec::new(),
            failures_are_200: false,
            delete_code_is_text: false,
            delete_sub_code: false,
            delete_without_message: false,
            doubled: Vec::new(),
            ambiguous: Vec::new(),
            created: 0,
            updated: 0,
            deleted: 0,
            requests: BTreeMap::new(),
            throttled: 0,
        }
    }
}

/// How a 429 says when to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    Seconds,
    Fractional,
    Absent,
    /// Years.
    Absurd,
}

/// How a service that is no more answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    Status(u16),
    /// 200 with an empty collection, whatever is asked.
    Empty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GraphOperation {
    Create,
    Submit,
    UpdateMany,
    DeleteMany,
    DeleteByExternalId,
    Update,
    Delete,
    Get,
    List,
}

/// One entity.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphObject {
    pub id: String,
    /// The client id of the app that created it; only that one sees it.
    pub created_by: String,
    pub target: String,
    /// All members, as they are sent back.
    pub entity: Entity,
    pub expires: Option<Timestamp>,
}

impl GraphObject {
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|at| at > now) && self.entity.get("isActive") != Some(&Value::Bool(false))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.entity.get(name).and_then(Value::as_str)
    }

    fn about(&self) -> String {
        format!("{} {} {}", self.created_by, self.target, observed(&self.entity))
    }

    fn external(&self) -> Option<(String, String)> {
        self.text("externalId").map(|external| (self.created_by.clone(), external.to_owned()))
    }
}

/// The entities of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    /// In the order of creation.
    pub objects: BTreeMap<u64, GraphObject>,
    last: u64,
    ids: HashMap<String, u64>,
    /// By app and external id.
    externals: HashMap<(String, String), BTreeSet<u64>>,
    about: HashMap<String, BTreeSet<u64>>,
    /// When those for Defender end; the ones for Sentinel stay.
    ends: BTreeSet<(Timestamp, u64)>,
    at_defender: usize,
}

impl Stock {
    pub(crate) fn find(&self, id: &str) -> Option<u64> {
        self.ids.get(id).copied()
    }

    pub(crate) fn with_external(&self, app: &str, external: &str) -> Vec<u64> {
        let found = self.externals.get(&(app.to_owned(), external.to_owned()));
        found.into_iter().flatten().copied().collect()
    }

    /// Whether something live is about the same.
    fn has_double(&self, object: &GraphObject, now: Timestamp) -> bool {
        let others = self.about.get(&object.about()).into_iter().flatten();
        others.filter_map(|number| self.objects.get(number)).any(|other| other.is_live(now))
    }

    fn add(&mut self, object: GraphObject) {
        self.last += 1;
        self.put(self.last, object);
    }

    fn put(&mut self, number: u64, object: GraphObject) {
        self.ids.insert(object.id.clone(), number);
        if let Some(external) = object.external() {
            self.externals.entry(external).or_default().insert(number);
        }
        self.about.entry(object.about()).or_default().insert(number);
        if object.target == DEFENDER {
            self.at_defender += 1;
            if let Some(end) = object.expires {
                self.ends.insert((end, number));
            }
        }
        self.objects.insert(number, object);
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<GraphObject> {
        let object = self.objects.remove(&number)?;
        self.ids.remove(&object.id);
        if let Some(external) = object.external() {
            drop_from(&mut self.externals, &external, number);
        }
        drop_from(&mut self.about, &object.about(), number);
        if object.target == DEFENDER {
            self.at_defender -= 1;
            if let Some(end) = object.expires {
                self.ends.remove(&(end, number));
            }
        }
        Some(object)
    }

    /// Changes members; null takes one away.
    pub(crate) fn change(&mut self, number: u64, changes: Entity) {
        let Some(mut object) = self.remove(number) else { return };
        for (name, value) in changes {
            if value.is_null() {
                object.entity.remove(&name);
            } else {
                object.entity.insert(name, value);
            }
        }
        object.expires = expires(&object.entity);
        self.put(number, object);
    }
}

fn drop_from<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<u64>>, key: &K, number: u64) {
    if let Some(numbers) = index.get_mut(key) {
        numbers.remove(&number);
        if numbers.is_empty() {
            index.remove(key);
        }
    }
}

pub(crate) fn expires(entity: &Entity) -> Option<Timestamp> {
    entity.get("expirationDateTime")?.as_str()?.parse().ok()
}

impl Graph {
    pub(crate) fn at_defender(&self, tenant: &str) -> usize {
        self.tenants.get(tenant).map_or(0, |stock| stock.at_defender)
    }

    /// Deletes what is for Defender and has reached its time.
    pub(crate) fn expire(&mut self, tenant: &str, now: Timestamp) {
        let Some(stock) = self.tenants.get_mut(tenant) else { return };
        while let Some((_, number)) = stock.ends.first().copied().filter(|(end, _)| *end <= now) {
            stock.remove(number);
        }
    }

    pub(crate) fn add(&mut self, tenant: &str, object: GraphObject, now: Timestamp) {
        let stock = self.tenants.entry(tenant.to_owned()).or_default();
        if stock.has_double(&object, now) {
            self.doubled.push(observed(&object.entity));
        }
        stock.add(object);
        self.created += 1;
    }

    /// An id as those of Sentinel look.
    pub(crate) fn hex_id(&mut self) -> String {
        let [a, b, c, d] = std::array::from_fn(|_| next(&mut self.dice));
        format!("{a:016x}{b:016x}{c:016x}{d:016x}")
    }
}

impl World {
    /// Live entities of a tenant for a product, everybody's, in the order of creation.
    #[must_use]
    pub fn at_graph(&self, tenant: &str, target_product: &str, now: Timestamp) -> Vec<&GraphObject> {
        let live = |object: &&GraphObject| object.target == target_product && object.is_live(now);
        self.stored_at_graph(tenant).into_iter().filter(live).collect()
    }

    /// For people: counts.
    pub(crate) fn graph_counts(&self, now: Timestamp) -> Value {
        let of = &self.graph;
        let objects = || of.tenants.values().flat_map(|stock| stock.objects.values());
        let live = objects().filter(|object| object.is_live(now)).count();
        json!({"objects": objects().count(), "live": live, "created": of.created, "updated": of.updated, "deleted": of.deleted, "doubled": of.doubled.len(), "ambiguous": of.ambiguous.len(), "throttled": of.throttled})
    }

    /// For people: all entities.
    pub(crate) fn graph_lines(&self, now: Timestamp) -> Vec<Value> {
        let all =
            self.graph.tenants.iter().flat_map(|(tenant, stock)| stock.objects.values().map(move |object| (tenant, object)));
        let line = |(tenant, object): (&String, &GraphObject)| json!({"tenant": tenant, "created_by": object.created_by, "live": object.is_live(now), "object": object.entity});
        all.map(line).collect()
    }

    /// All entities of a tenant, also expired and inactive ones.
    #[must_use]
    pub fn stored_at_graph(&self, tenant: &str) -> Vec<&GraphObject> {
        self.graph.tenants.get(tenant).into_iter().flat_map(|stock| stock.objects.values()).collect()
    }

    /// Somebody deletes what has this external id; how many entities that were.
    pub fn delete_at_graph(&mut self, tenant: &str, external_id: &str) -> usize {
        let Some(stock) = self.graph.tenants.get_mut(tenant) else { return 0 };
        let named = |object: &GraphObject| object.text("externalId") == Some(external_id);
        let numbers: Vec<u64> = stock.objects.iter().filter(|(_, object)| named(object)).map(|(number, _)| *number).collect();
        numbers.iter().filter(|number| stock.remove(**number).is_some()).count()
    }

    /// What more than one live entity of the same app and target is about, and how many there are.
    #[must_use]
    pub fn doubles_at_graph(&self, tenant: &str, now: Timestamp) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for object in self.stored_at_graph(tenant).into_iter().filter(|object| object.is_live(now)) {
            *counts.entry(object.about()).or_default() += 1;
        }
        counts.retain(|_, count| *count > 1);
        counts
    }
}
