//! What can be read at Microsoft Graph, and how tests change it: users, groups, mail, drives, alerts, whatever has a path.
//!
//! An object lies at its path: `users/{id}`, `users/{id}/messages/{id}`, `drives/{id}/items/{id}`, `security/alerts_v2/{id}`. Each
//! change also tells the subscriptions that are about it; alerts (v2) and incidents tell nobody, as they cannot be subscribed to.
//! Not imitated: relations between objects, recoverable objects.

mod read;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

use crate::notifications::{Change, Changed, segments};
use crate::rate::Recent;
use crate::world::World;

pub(crate) use read::answer;

/// All objects of all tenants.
#[derive(Debug)]
pub struct Resources {
    pub(crate) tenants: BTreeMap<String, Tenant>,
    pub(crate) recent: HashMap<(String, String), Recent>,
    /// Counts changes.
    pub(crate) sequence: u64,
    /// Delta links from before this are good for nothing.
    pub(crate) forgotten: u64,
    pub enforce_rate: bool,
    /// Rows in a page, if `$top` does not ask for fewer.
    pub page: usize,
    /// What is new answers 404 for so long: the service is not the same everywhere at once.
    pub visible_after: Duration,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            tenants: BTreeMap::new(),
            recent: HashMap::new(),
            sequence: 0,
            forgotten: 0,
            enforce_rate: true,
            page: 100,
            visible_after: Duration::ZERO,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tenant {
    /// By path in lower case.
    objects: BTreeMap<String, Kept>,
    /// Users' drives: user id in lower case to drive id.
    drives: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) struct Kept {
    /// None: it was deleted.
    value: Option<Value>,
    id: String,
    since: Timestamp,
    sequence: u64,
}

impl Resources {
    /// Delta links that were given out so far are answered with 410 from now on.
    pub fn forget_deltas(&mut self) {
        self.sequence += 1;
        self.forgotten = self.sequence;
    }

    fn keep(&mut self, tenant: &str, path: &str, value: Option<Value>, now: Timestamp) -> Option<Value> {
        self.sequence += 1;
        let id = path.rsplit('/').next().unwrap_or_default().to_owned();
        let objects = &mut self.tenants.entry(tenant.to_owned()).or_default().objects;
        let before = objects.remove(&key(path));
        let since = before.as_ref().filter(|kept| kept.value.is_some()).map_or(now, |kept| kept.since);
        objects.insert(key(path), Kept { value, id, since, sequence: self.sequence });
        before.and_then(|kept| kept.value)
    }

    /// An object, however its path is written.
    #[must_use]
    pub fn get(&self, tenant: &str, path: &str) -> Option<&Value> {
        self.tenants.get(tenant)?.objects.get(&key(path))?.value.as_ref()
    }
}

fn key(path: &str) -> String {
    segments(path).join("/")
}

/// As notifications write a path: `Users/{id}/Messages/{id}`.
fn capitalised(path: &str) -> String {
    let one = |(i, part): (usize, &str)| {
        let mut letters = part.chars();
        match letters.next().filter(|_| i % 2 == 0) {
            Some(first) => first.to_uppercase().chain(letters).collect(),
            None => part.to_owned(),
        }
    };
    path.trim_matches('/').split('/').enumerate().map(one).collect::<Vec<_>>().join("/")
}

impl World {
    /// Puts an object at a path, `id` added, and tells who wants to know; how many items wait because of that. A new user or
    /// group is `updated`.
    pub fn put(&mut self, tenant: &str, path: &str, object: Value, now: Timestamp) -> usize {
        let mut object = object;
        object["id"] = path.rsplit('/').next().unwrap_or_default().into();
        let before = self.resources.keep(tenant, path, Some(object.clone()), now);
        let changed = if before.is_some() || is_directory(path) { Changed::Updated } else { Changed::Created };
        self.tell(tenant, path, changed, before, Some(object), now)
    }

    /// Deletes what lies at a path for good, and tells who wants to know.
    pub fn remove(&mut self, tenant: &str, path: &str, now: Timestamp) -> usize {
        let before = self.resources.keep(tenant, path, None, now);
        self.tell(tenant, path, Changed::Deleted, before, None, now)
    }

    pub fn put_user(&mut self, tenant: &str, id: &str, user: Value, now: Timestamp) -> usize {
        self.put(tenant, &format!("users/{id}"), user, now)
    }

    /// As somebody deletes a user: it can be recovered for a while, and is reported as `updated`.
    pub fn delete_user(&mut self, tenant: &str, id: &str, now: Timestamp) -> usize {
        let path = format!("users/{id}");
        let before = self.resources.keep(tenant, &path, None, now);
        self.tell(tenant, &path, Changed::Updated, before.clone(), before, now)
    }

    /// As it is gone for good: `deleted`.
    pub fn purge_user(&mut self, tenant: &str, id: &str, now: Timestamp) -> usize {
        self.remove(tenant, &format!("users/{id}"), now)
    }

    pub fn put_group(&mut self, tenant: &str, id: &str, group: Value, now: Timestamp) -> usize {
        self.put(tenant, &format!("groups/{id}"), group, now)
    }

    /// A message in a mailbox, with an etag of its own; `parentFolderId` is the inbox where it does not say.
    pub fn put_message(&mut self, tenant: &str, user: &str, id: &str, message: Value, now: Timestamp) -> usize {
        let mut message = message;
        if message["parentFolderId"].is_null() {
            message["parentFolderId"] = "inbox".into();
        }
        message["@odata.etag"] = format!("W/\"{}\"", self.resources.sequence + 1).into();
        self.put(tenant, &format!("users/{user}/messages/{id}"), message, now)
    }

    pub fn delete_message(&mut self, tenant: &str, user: &str, id: &str, now: Timestamp) -> usize {
        self.remove(tenant, &format!("users/{user}/messages/{id}"), now)
    }

    /// A moved message is another one: deleted, and created under a new id, which is returned.
    pub fn move_message(&mut self, tenant: &str, user: &str, id: &str, folder: &str, now: Timestamp) -> Option<String> {
        let path = format!("users/{user}/messages/{id}");
        let mut message = self.resources.get(tenant, &path)?.clone();
        self.remove(tenant, &path, now);
        message["parentFolderId"] = folder.into();
        let new = format!("{id}-{}", self.resources.sequence);
        self.put_message(tenant, user, &new, message, now);
        Some(new)
    }

    /// A drive, of a user where one is named.
    pub fn add_drive(&mut self, tenant: &str, drive: &str, user: Option<&str>) {
        let drives = &mut self.resources.tenants.entry(tenant.to_owned()).or_default().drives;
        drives.insert(user.unwrap_or(drive).to_lowercase(), drive.to_owned());
    }

    /// A file or folder in a drive; the drive's root is told of.
    pub fn put_drive_item(&mut self, tenant: &str, drive: &str, id: &str, item: Value, now: Timestamp) -> usize {
        self.put(tenant, &format!("drives/{drive}/items/{id}"), item, now)
    }

    pub fn delete_drive_item(&mut self, tenant: &str, drive: &str, id: &str, now: Timestamp) -> usize {
        self.remove(tenant, &format!("drives/{drive}/items/{id}"), now)
    }

    /// An alert (v2); where they are absent, `lastUpdateDateTime` is now and `createdDateTime` when it was first put.
    pub fn put_alert(&mut self, tenant: &str, id: &str, alert: Value, now: Timestamp) {
        self.put_dated(tenant, &format!("security/alerts_v2/{id}"), alert, now);
    }

    /// An incident, with times as an alert has them.
    pub fn put_incident(&mut self, tenant: &str, id: &str, incident: Value, now: Timestamp) {
        self.put_dated(tenant, &format!("security/incidents/{id}"), incident, now);
    }

    fn put_dated(&mut self, tenant: &str, path: &str, object: Value, now: Timestamp) {
        let mut object = object;
        let before = self.resources.get(tenant, path).map(|before| before["createdDateTime"].clone());
        let stamp = crate::notifications::seven(now);
        for (name, value) in [("lastUpdateDateTime", json!(stamp)), ("createdDateTime", before.unwrap_or(json!(stamp)))] {
            if object[name].is_null() {
                object[name] = value;
            }
        }
        self.put(tenant, path, object, now);
    }

    fn tell(
        &mut self,
        tenant: &str,
        path: &str,
        changed: Changed,
        before: Option<Value>,
        after: Option<Value>,
        now: Timestamp,
    ) -> usize {
        let change = Change { before, after, ..Change::new(tenant, &capitalised(path), changed) };
        let parts = segments(path);
        // Of a list nothing is told but that it changed.
        if parts.first().is_some_and(|first| first == "sites") {
            let list = path.split('/').take(4).collect::<Vec<_>>().join("/");
            return self.raise(&Change::new(tenant, &list, Changed::Updated), now);
        }
        let Some(("drives", drive)) = parts.first().map(String::as_str).zip(parts.get(1)) else {
            return self.raise(&change, now);
        };
        // Of a drive nothing is told but that its root changed; by every path to it.
        let known = self.resources.tenants.get(tenant).map(|tenant| tenant.drives.clone()).unwrap_or_default();
        let users = known.iter().filter(|(user, id)| id.eq_ignore_ascii_case(drive) && *user != drive);
        let mut roots = vec![format!("drives/{drive}/root")];
        roots.extend(users.map(|(user, _)| format!("users/{user}/drive/root")));
        roots.iter().map(|root| self.raise(&Change::new(tenant, root, Changed::Updated), now)).sum()
    }
}

fn is_directory(path: &str) -> bool {
    let parts = segments(path);
    parts.len() == 2 && matches!(parts[0].as_str(), "users" | "groups")
}

/// From when an object that was put then can be seen.
fn visible(since: Timestamp, after: Duration) -> Timestamp {
    since.checked_add(i64::try_from(after.as_secs()).unwrap_or(0).seconds()).unwrap_or(since)
}
