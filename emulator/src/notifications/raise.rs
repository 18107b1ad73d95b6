//! From a change in the world to the items that subscriptions are owed.
//!
//! Not imitated: latency other than [`super::Notifications::delay`], one item per touched property, user principal names in a
//! subscription's path where the change names the id.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::table::{Family, segments};
use super::{Changed, Subscription, Waiting, after, create, hosts, seven};
use crate::faults::next;
use crate::odata;
use crate::world::World;

/// Something changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub tenant: String,
    /// What changed: `Users/{id}/Messages/{id}`, `Users/{id}`, `drives/{id}/root`, `chats/{id}/messages/{id}`, …
    pub resource: String,
    pub changed: Changed,
    /// The object before and after, for filters, folders and resource data; none where it was not, is not, or is not known.
    pub before: Option<Value>,
    pub after: Option<Value>,
}

impl Change {
    /// Of something of which only the path is known.
    #[must_use]
    pub fn new(tenant: &str, resource: &str, changed: Changed) -> Self {
        Self { tenant: tenant.to_owned(), resource: resource.to_owned(), changed, before: None, after: None }
    }
}

/// What happens to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    ReauthorizationRequired,
    SubscriptionRemoved,
    Missed,
}

impl Lifecycle {
    fn name(self) -> &'static str {
        match self {
            Self::ReauthorizationRequired => "reauthorizationRequired",
            Self::SubscriptionRemoved => "subscriptionRemoved",
            Self::Missed => "missed",
        }
    }
}

impl World {
    /// Tells all subscriptions that are about it; how many items wait now because of that.
    pub fn raise(&mut self, change: &Change, now: Timestamp) -> usize {
        let live = self.notifications.subscriptions(now);
        let mine = live.into_iter().filter(|one| one.tenant == change.tenant);
        let owed: Vec<(Subscription, Changed)> = mine.filter_map(|one| Some((one.clone(), reported(one, change)?))).collect();
        for (subscription, changed) in &owed {
            let item = item(self, subscription, change, *changed, now);
            let object = subscription.rich.then(|| content(subscription, change));
            self.queue(subscription, item, object, now);
        }
        owed.len()
    }

    /// A change of something made up that this subscription is about.
    pub(super) fn raise_for(&mut self, subscription: &Subscription, now: Timestamp) {
        let Some(changed) = subscription.changes().first().copied() else { return };
        let path = subscription.resource.split('?').next().unwrap_or_default();
        let change = Change::new(&subscription.tenant, &format!("{path}/eager"), changed);
        let item = item(self, subscription, &change, changed, now);
        let object = subscription.rich.then(|| content(subscription, &change));
        self.queue(subscription, item, object, now);
    }

    /// Sends a lifecycle event to a subscription, ended ones too; false if it has no URL for that or is not known.
    pub fn raise_lifecycle(&mut self, subscription: &str, event: Lifecycle, now: Timestamp) -> bool {
        let Some(one) = self.notifications.subscription(subscription).cloned() else { return false };
        self.queue_lifecycle(&one, event, now)
    }

    /// The service ends a subscription and says so, if it has a URL for that.
    pub fn remove_subscription(&mut self, subscription: &str, now: Timestamp) -> bool {
        let Some(one) = self.notifications.subscription(subscription).cloned() else { return false };
        self.notifications.subscriptions.retain(|other| other.id != one.id);
        self.queue_lifecycle(&one, Lifecycle::SubscriptionRemoved, now);
        true
    }

    /// The token behind a subscription is out of date: it is asked for reauthorization, and deliveries wait for that.
    pub fn pause_subscription(&mut self, subscription: &str, now: Timestamp) -> bool {
        let Some(one) = self.notifications.subscription_mut(subscription) else { return false };
        one.paused = Some(now);
        self.raise_lifecycle(subscription, Lifecycle::ReauthorizationRequired, now)
    }

    /// One item, as it is, to a URL: for what no rule above makes.
    pub fn raise_item(&mut self, url: &str, item: Value, now: Timestamp) {
        let subscription = item["subscriptionId"].as_str().unwrap_or_default().to_owned();
        let waiting = Waiting { subscription, url: url.to_owned(), item, object: None, lifecycle: true, since: now, due: now };
        self.notifications.waiting.push(waiting);
    }

    /// A whole body, as it is, to a URL, once; it is retried like any other.
    pub fn raise_body(&mut self, url: &str, body: &str, now: Timestamp) {
        self.notifications.batches.push(super::Batch::raw(url, body, now));
    }

    fn queue_lifecycle(&mut self, one: &Subscription, event: Lifecycle, now: Timestamp) -> bool {
        let Some(url) = one.lifecycle_url.clone() else { return false };
        let item = json!({
            "subscriptionId": one.id,
            "subscriptionExpirationDateTime": offset(one.expires),
            "clientState": one.client_state,
            "lifecycleEvent": event.name(),
            "organizationId": one.tenant,
        });
        let subscription = one.id.clone();
        self.notifications.waiting.push(Waiting { subscription, url, item, object: None, lifecycle: true, since: now, due: now });
        true
    }

    fn queue(&mut self, subscription: &Subscription, item: Value, object: Option<Value>, now: Timestamp) {
        let notifications = &mut self.notifications;
        let mut waiting = Waiting {
            subscription: subscription.id.clone(),
            url: subscription.notification_url.clone(),
            item,
            object,
            lifecycle: false,
            since: now,
            due: after(now, notifications.delay),
        };
        let host = notifications.hosts.get(&hosts::name(&waiting.url));
        match host.map_or(hosts::Admission::Now, |host| host.admits(now)) {
            hosts::Admission::Now => {}
            hosts::Admission::Later(at) => waiting.due = waiting.due.max(at),
            hosts::Admission::Never => return self.lose(&waiting, "dropped", now),
        }
        if self.notifications.chance(self.notifications.lost_permille) {
            return self.lose(&waiting, "a fault", now);
        }
        if self.notifications.chance(self.notifications.doubled_permille) {
            let due = after(waiting.due, std::time::Duration::from_secs(1));
            self.notifications.waiting.push(Waiting { due, ..waiting.clone() });
        }
        self.notifications.waiting.push(waiting);
    }

    /// Nobody will be sent this any more; Outlook says so, once as long as that was not delivered.
    pub(super) fn lose(&mut self, waiting: &Waiting, why: &'static str, now: Timestamp) {
        self.notifications.lost.push((waiting.item.clone(), why));
        let Some(one) = self.notifications.subscription(&waiting.subscription).cloned() else { return };
        let missed = Lifecycle::Missed.name();
        let told = |other: &Waiting| other.subscription == one.id && other.item["lifecycleEvent"] == missed;
        if !waiting.lifecycle && one.is_outlook() && !self.notifications.waiting.iter().any(told) {
            self.queue_lifecycle(&one, Lifecycle::Missed, now);
        }
    }
}

/// What a subscription is told of a change, if anything: what leaves a filter of Outlook is `deleted`, what enters it `created`.
fn reported(one: &Subscription, change: &Change) -> Option<Changed> {
    let kind = one.kind()?;
    let (mine, theirs) = (segments(&one.resource), segments(&change.resource));
    let filter = create::filter(&one.resource).and_then(|text| odata::parse(&text).ok());
    let folder = mine.get(2).filter(|name| *name == "mailfolders").and(mine.get(3));
    let near = match folder {
        Some(_) => theirs.len() == 4 && theirs[1] == mine[1] && theirs[2] == "messages",
        None => covers(&mine, &theirs),
    };
    if !near {
        return None;
    }
    let fits = |object: Option<&Value>, unknown: bool| {
        let Some(object) = object else { return unknown };
        let get = |name: &str| object.pointer(&format!("/{name}")).cloned().unwrap_or_default();
        let in_folder =
            folder.is_none_or(|folder| object["parentFolderId"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(folder)));
        in_folder && filter.as_ref().is_none_or(|filter| filter.matches(&get))
    };
    let unknown = change.before.is_none() && change.after.is_none();
    // An update of which only the outcome is known did not cross the filter.
    let before = if change.changed == Changed::Updated {
        change.before.as_ref().or(change.after.as_ref())
    } else {
        change.before.as_ref()
    };
    let (before, after) = (fits(before, unknown), fits(change.after.as_ref(), unknown));
    let changed = match (change.changed, before, after) {
        (changed, true, true) => changed,
        (_, false, false) => return None,
        (Changed::Deleted, _, _) | (_, true, false) if kind.family == Family::Outlook => Changed::Deleted,
        (_, false, true) if kind.family == Family::Outlook => Changed::Created,
        (changed, _, _) => changed,
    };
    one.changes().contains(&changed).then_some(changed)
}

/// The path itself, or what is right below it; and the collections of everybody's messages.
fn covers(mine: &[String], theirs: &[String]) -> bool {
    if theirs.starts_with(mine) && theirs.len() <= mine.len() + 1 {
        return true;
    }
    let is_message = theirs.len() >= 4 && theirs[theirs.len() - 2] == "messages";
    match mine.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["chats", "getallmessages"] | ["users", _, "chats", "getallmessages"] => is_message && theirs[0] == "chats",
        ["teams", "getallmessages"] => is_message && theirs[0] == "teams",
        _ => false,
    }
}

fn item(world: &mut World, one: &Subscription, change: &Change, changed: Changed, now: Timestamp) -> Value {
    let family = one.kind().map_or(Family::Other, |kind| kind.family);
    let by_root = matches!(family, Family::Drive | Family::List);
    let path = one.resource.split('?').next().unwrap_or_default();
    json!({
        "subscriptionId": one.id,
        "subscriptionExpirationDateTime": offset(one.expires),
        "clientState": one.client_state,
        "changeType": changed.name(),
        "resource": if by_root { path } else { &change.resource },
        "tenantId": one.tenant,
        "resourceData": resource_data(world, one, change, now),
    })
}

fn resource_data(world: &mut World, one: &Subscription, change: &Change, now: Timestamp) -> Value {
    let Some(kind) = one.kind() else { return Value::Null };
    let id = change.resource.rsplit('/').next().unwrap_or_default().to_owned();
    let odata_type = format!("#Microsoft.Graph.{}", kind.type_name);
    let mut data = Map::new();
    data.insert("@odata.type".to_owned(), odata_type.into());
    match kind.family {
        Family::Drive | Family::List if world.notifications.no_drive_data => return Value::Null,
        Family::Drive | Family::List => return data.into(),
        Family::Security => {
            data.insert("@odata.type".to_owned(), "#IsgWebApi.SecurityGraphModel.Alert".into());
            data.insert("@odata.id".to_owned(), format!("security/{id}").into());
        }
        Family::Directory => {
            world.notifications.sequence += 1 + next(&mut world.notifications.dice) % 1_000;
            data.insert("@odata.id".to_owned(), change.resource.clone().into());
            data.insert("organizationId".to_owned(), one.tenant.clone().into());
            data.insert("eventTime".to_owned(), seven(now).into());
            data.insert("sequenceNumber".to_owned(), world.notifications.sequence.into());
        }
        Family::Outlook | Family::Teams | Family::Other => {
            data.insert("@odata.id".to_owned(), change.resource.clone().into());
            let object = change.after.as_ref().or(change.before.as_ref());
            if let Some(etag) = object.and_then(|object| object.get("@odata.etag")) {
                data.insert("@odata.etag".to_owned(), etag.clone());
            }
        }
    }
    data.insert("id".to_owned(), id.into());
    data.into()
}

/// What is encrypted: the object as it is now, of it what was selected.
fn content(one: &Subscription, change: &Change) -> Value {
    let object = change.after.as_ref().or(change.before.as_ref()).cloned();
    let id = change.resource.rsplit('/').next().unwrap_or_default();
    let object = object.unwrap_or_else(|| json!({"id": id}));
    let Some(selected) = create::select(&one.resource) else { return object };
    let Value::Object(members) = object else { return Value::Null };
    let kept = |name: &str| name == "id" || name.starts_with('@') || selected.iter().any(|one| one.eq_ignore_ascii_case(name));
    Value::Object(members.into_iter().filter(|(name, _)| kept(name)).collect())
}

/// As deliveries write it: an offset, and seven fraction digits.
fn offset(at: Timestamp) -> String {
    seven(at).replace('Z', "+00:00")
}
