//! What Defender holds, tenant by tenant, and what tests ask of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::rules::normal;
use crate::rate::Recent;
use crate::world::World;

/// Indicators that a tenant may hold, whoever created them.
const CAP: usize = 15_000;

/// What Defender holds, and how it behaves.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Defender {
    pub(crate) tenants: HashMap<String, Held>,
    pub(crate) recent: HashMap<(String, DefenderOperation), Recent>,
    pub(crate) last_id: u64,
    /// Where links to the next page point.
    pub base: String,
    pub enforce_rate: bool,
    /// Active indicators per tenant, those of Graph for Defender among them.
    pub cap: usize,
    /// The most rows that a list gives at once.
    pub page: usize,
    /// Indicators whose JSON contains one of these are refused for good.
    pub refuse: Vec<String>,
    /// No `FileMd5` is created.
    pub refuse_md5: bool,
    /// Results give the value in its normal form instead of as it was sent.
    pub normalise_echo: bool,
    /// Values that contain one of these are stored, but have no line in the result.
    pub omit: Vec<String>,
    /// Each result has one line more, for this value.
    pub stranger: Option<String>,
    /// A bulk delete that answers 404 has deleted the ids that it found.
    pub batch_deletes_rest: bool,
    /// Values that came twice in one import: the answer cannot be told apart.
    pub ambiguous: Vec<String>,
    /// Values of other applications' indicators that were written over.
    pub overwritten: Vec<String>,
    pub created: u64,
    pub updated: u64,
    pub deleted: u64,
    /// Indicators that were deleted at their own time.
    pub expired: u64,
    /// Creations that failed because the tenant was full.
    pub over_cap: u64,
    /// Requests with a good token and role, refused ones too.
    pub requests: BTreeMap<DefenderOperation, u64>,
    /// Of these, the ones that came too fast.
    pub throttled: u64,
}

impl Default for Defender {
    fn default() -> Self {
        Self {
            tenants: HashMap::new(),
            recent: HashMap::new(),
            last_id: 5_000,
            base: "https://localhost".to_owned(),
            enforce_rate: false,
            cap: CAP,
            page: 10_000,
            refuse: Vec::new(),
            refuse_md5: false,
            normalise_echo: false,
            omit: Vec::new(),
            stranger: None,
            batch_deletes_rest: false,
            ambiguous: Vec::new(),
            overwritten: Vec::new(),
            created: 0,
            updated: 0,
            deleted: 0,
            expired: 0,
            over_cap: 0,
            requests: BTreeMap::new(),
            throttled: 0,
        }
    }
}

/// The operations, each with its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DefenderOperation {
    Submit,
    Import,
    List,
    Delete,
    BatchDelete,
}

/// One indicator; serialised, it is the entity.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DefenderIndicator {
    /// A decimal number.
    pub id: String,
    #[serde(rename = "indicatorValue")]
    pub value: String,
    #[serde(rename = "indicatorType")]
    pub kind: String,
    pub action: String,
    pub title: String,
    pub description: String,
    pub severity: Option<String>,
    pub generate_alert: bool,
    pub recommended_actions: Option<String>,
    pub expiration_time: Option<Timestamp>,
    pub rbac_group_names: Vec<String>,
    pub rbac_group_ids: Vec<String>,
    pub educate_url: Option<String>,
    pub external_id: Option<String>,
    /// Set on creation only.
    pub application: Option<String>,
    /// The client id of the app that created it.
    pub created_by: String,
    pub created_by_display_name: String,
    pub created_by_source: &'static str,
    pub last_updated_by: Option<String>,
    #[serde(rename = "creationTimeDateTimeUtc")]
    pub created: Timestamp,
    #[serde(rename = "lastUpdateTime")]
    pub updated: Timestamp,
    /// Members that the resource page does not list.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl DefenderIndicator {
    /// What is one indicator: type, value, action and device groups.
    fn key(&self) -> String {
        key(&self.kind, &normal(&self.value), &self.action, &self.rbac_group_names)
    }

    fn is_active(&self, now: Timestamp) -> bool {
        self.expiration_time.is_none_or(|at| at > now)
    }
}

pub(crate) fn key(kind: &str, normal: &str, action: &str, groups: &[String]) -> String {
    let mut groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    groups.sort_unstable();
    format!("{kind}\n{action}\n{normal}\n{}", groups.join("\n"))
}

/// The indicators of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub rows: BTreeMap<u64, DefenderIndicator>,
    keys: HashMap<String, u64>,
    ends: BTreeSet<(Timestamp, u64)>,
    peak: usize,
}

impl Held {
    pub(crate) fn find(&self, key: &str) -> Option<u64> {
        self.keys.get(key).copied()
    }

    /// Adds an indicator, or puts it in the place of the one with its number.
    pub(crate) fn put(&mut self, number: u64, row: DefenderIndicator) {
        self.remove(number);
        self.keys.insert(row.key(), number);
        if let Some(end) = row.expiration_time {
            self.ends.insert((end, number));
        }
        self.rows.insert(number, row);
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<DefenderIndicator> {
        let row = self.rows.remove(&number)?;
        self.keys.remove(&row.key());
        if let Some(end) = row.expiration_time {
            self.ends.remove(&(end, number));
        }
        Some(row)
    }

    fn expire(&mut self, now: Timestamp) -> u64 {
        let mut count = 0;
        while let Some((_, number)) = self.ends.first().copied().filter(|(end, _)| *end <= now) {
            self.remove(number);
            count += 1;
        }
        count
    }
}

impl Defender {
    /// The most that a tenant has ever held at once.
    #[must_use]
    pub fn peak(&self, tenant: &str) -> usize {
        self.tenants.get(tenant).map_or(0, |held| held.peak)
    }

    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl World {
    /// Active indicators of a tenant by id, everybody's; without those of Graph.
    #[must_use]
    pub fn at_defender(&self, tenant: &str, now: Timestamp) -> Vec<&DefenderIndicator> {
        let rows = self.defender.tenants.get(tenant).into_iter().flat_map(|held| held.rows.values());
        rows.filter(|row| row.is_active(now)).collect()
    }

    /// Adds so many indicators that another product created, whatever the cap.
    pub fn add_others(&mut self, tenant: &str, count: usize) {
        let first = self.defender.last_id + 1;
        for number in first..first + count as u64 {
            self.put_of_others(tenant, &format!("other-{number}.example"), "Block");
        }
        self.note_peak(tenant);
    }

    /// Somebody adds a domain in the portal, beside what is there.
    pub fn add_at_defender(&mut self, tenant: &str, domain: &str, action: &str) {
        self.put_of_others(tenant, domain, action);
        self.note_peak(tenant);
    }

    fn put_of_others(&mut self, tenant: &str, domain: &str, action: &str) {
        let (number, at) = (self.defender.fresh_id(), Timestamp::UNIX_EPOCH);
        let row = DefenderIndicator {
            id: number.to_string(),
            value: domain.to_owned(),
            kind: "DomainName".to_owned(),
            action: action.to_owned(),
            title: "Another product's".to_owned(),
            description: "Not from ThreatConnect".to_owned(),
            severity: None,
            generate_alert: false,
            recommended_actions: None,
            expiration_time: None,
            rbac_group_names: Vec::new(),
            rbac_group_ids: Vec::new(),
            educate_url: None,
            external_id: None,
            application: Some("Another Product".to_owned()),
            created_by: "someone.else@example.com".to_owned(),
            created_by_display_name: "Someone Else".to_owned(),
            created_by_source: "Portal",
            last_updated_by: None,
            created: at,
            updated: at,
            extra: Map::new(),
        };
        self.defender.tenants.entry(tenant.to_owned()).or_default().put(number, row);
    }

    /// Somebody gives the indicators of a value another action in the portal; how many that were.
    pub fn change_at_defender(&mut self, tenant: &str, value: &str, action: &str) -> usize {
        let Some(held) = self.defender.tenants.get_mut(tenant) else { return 0 };
        let numbers: Vec<u64> = held.rows.iter().filter(|(_, row)| row.value == value).map(|(number, _)| *number).collect();
        let changed = numbers.iter().filter_map(|number| Some((*number, held.remove(*number)?)));
        let changed: Vec<(u64, DefenderIndicator)> = changed.collect();
        for (number, row) in &changed {
            held.put(*number, DefenderIndicator { action: action.to_owned(), ..row.clone() });
        }
        changed.len()
    }

    /// Takes away so many of those; the number that there were.
    pub fn remove_others(&mut self, tenant: &str, count: usize) -> usize {
        let Some(held) = self.defender.tenants.get_mut(tenant) else { return 0 };
        let others = held.rows.iter().filter(|(_, row)| row.created_by_source == "Portal");
        let others: Vec<u64> = others.map(|(number, _)| *number).take(count).collect();
        others.iter().filter(|number| held.remove(**number).is_some()).count()
    }

    /// Somebody deletes a value in the portal; how many indicators that were.
    pub fn delete_at_defender(&mut self, tenant: &str, value: &str) -> usize {
        let Some(held) = self.defender.tenants.get_mut(tenant) else { return 0 };
        let numbers: Vec<u64> = held.rows.iter().filter(|(_, row)| row.value == value).map(|(number, _)| *number).collect();
        numbers.iter().filter(|number| held.remove(**number).is_some()).count()
    }

    /// What counts against a tenant's cap, as of the last request: both services' indicators.
    #[must_use]
    pub fn held_for_defender(&self, tenant: &str) -> usize {
        self.defender.tenants.get(tenant).map_or(0, |held| held.rows.len()) + self.graph.at_defender(tenant)
    }

    /// Deletes what has reached its time.
    pub(crate) fn expire(&mut self, tenant: &str, now: Timestamp) {
        if let Some(held) = self.defender.tenants.get_mut(tenant) {
            self.defender.expired += held.expire(now);
        }
        self.graph.expire(tenant, now);
    }

    /// For people: counts.
    pub(crate) fn defender_counts(&self) -> Value {
        let of = &self.defender;
        let held: BTreeMap<&String, usize> = of.tenants.keys().map(|tenant| (tenant, self.held_for_defender(tenant))).collect();
        let peak: BTreeMap<&String, usize> = of.tenants.iter().map(|(tenant, held)| (tenant, held.peak)).collect();
        json!({"held": held, "peak": peak, "created": of.created, "updated": of.updated, "deleted": of.deleted, "expired": of.expired, "over_cap": of.over_cap, "ambiguous": of.ambiguous.len(), "overwritten": of.overwritten.len(), "throttled": of.throttled})
    }

    /// For people: all indicators.
    pub(crate) fn defender_lines(&self) -> Vec<Value> {
        let rows = self.defender.tenants.iter().flat_map(|(tenant, held)| held.rows.values().map(move |row| (tenant, row)));
        rows.map(|(tenant, row)| json!({"tenant": tenant, "indicator": row})).collect()
    }

    pub(crate) fn note_peak(&mut self, tenant: &str) {
        let count = self.held_for_defender(tenant);
        let held = self.defender.tenants.entry(tenant.to_owned()).or_default();
        held.peak = held.peak.max(count);
    }
}
