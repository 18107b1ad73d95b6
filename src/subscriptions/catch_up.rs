//! What nobody told of, looked up: periodically, after each creation, and when something is known to be missing.
//!
//! Directory objects, drives and lists by delta queries, mail, events and contacts by windows of time that overlap; what is
//! found becomes items as notifications would have been. How far a look is, is stored with each page, after its items were
//! handed on: what is cut off goes on, and at worst an item comes twice. Who waits longest has the next page, so that a resource
//! with very many changes holds up no other. Other resources offer neither way: for them only notifications count.
//!
//! Sources: vendor pages "Use delta query to track changes", "driveItem: delta", "listItem: delta".

use std::time::Duration;

use jiff::Timestamp;
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::lease::Lease;
use super::rows::{Book, Caught, Reason, after_pause, delete, keyed, put};
use super::{Reconciler, SubscriptionError, Unwanted};
use crate::graph::{GraphError, Page, Trouble, timestamp};
use crate::notifications::item::{ChangeType, Event, Item, Origin};
use crate::notifications::resources::{Resource, segments};
use crate::notifications::wanted::{Wanted, normalised};
use crate::platform::clock::BoxFuture;
use crate::platform::http::ENCODED;

/// Windows begin so long before the end of the last one.
const OVERLAP: Duration = Duration::from_secs(900);
/// After a creation, and after a failure.
const SOON: Duration = Duration::from_secs(900);
const OPERATION: &str = "look up what changed";

/// Takes the items of one page; the next page is asked for when they are safe.
pub type HandOn<'a> = &'a (dyn Fn(Vec<Item>) -> BoxFuture<'a, Result<(), String>> + Send + Sync);

/// What was looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CaughtUp {
    /// Resources that were looked at to the end.
    pub looked: Vec<String>,
    pub items: u64,
    /// Resources of which something may be missing that cannot be looked up, and why where that can be changed.
    pub not_possible: Vec<String>,
    /// One line each.
    pub errors: Vec<String>,
}

/// How a resource can be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// Path of the query from the beginning, and from now on. `object`: what one of its items is; none: that anything changed
    /// is all there is to tell, as in notifications.
    Delta { all: String, latest: String, object: Option<(&'static str, &'static str)> },
    /// Path of the collection without its filter, and what one of its items is.
    Window { path: String, filter: Option<String>, object: &'static str, born: &'static str },
}

impl Way {
    fn of(wanted: &Wanted) -> Option<Self> {
        let parts = segments(&wanted.resource);
        let path: Vec<String> = parts.iter().map(|part| utf8_percent_encode(part, ENCODED).to_string()).collect();
        let path = format!("/v1.0/{}", path.join("/"));
        let directory = |collection: &'static str, object: &'static str| {
            let one =
                parts.get(1).map(|id| utf8_percent_encode(&format!("id eq '{}'", id.replace('\'', "''")), ENCODED).to_string());
            let members = if parts.len() > 2 { "&$select=members" } else { "" };
            let filter = one.map(|filter| format!("$filter={filter}{members}"));
            let all = format!("/v1.0/{collection}/delta");
            let query = |token: Option<&str>| {
                let parts: Vec<&str> = filter.as_deref().into_iter().chain(token).collect();
                if parts.is_empty() { all.clone() } else { format!("{all}?{}", parts.join("&")) }
            };
            Self::Delta { latest: query(Some("$deltatoken=latest")), object: Some((collection, object)), all: query(None) }
        };
        let window = |object: &'static str, born: &'static str| {
            let query = wanted.resource.split_once('?').map_or("", |(_, query)| query);
            let filter = query.split('&').find_map(|part| part.strip_prefix("$filter="));
            let filter = filter.map(|text| percent_decode_str(text).decode_utf8_lossy().into_owned());
            Self::Window { path: path.clone(), filter, object, born }
        };
        let at = |delta: String| Self::Delta { latest: format!("{delta}?token=latest"), all: delta, object: None };
        match Resource::of(&wanted.resource)?.name {
            "user" | "group" if needs_id(&parts) => None,
            "user" => Some(directory("users", "#Microsoft.Graph.User")),
            "group" => Some(directory("groups", "#Microsoft.Graph.Group")),
            "driveItem" => Some(at(format!("{path}/delta"))),
            "list" => Some(at(format!("{path}/items/delta"))),
            "message" => Some(window("#Microsoft.Graph.Message", "receivedDateTime")),
            "event" => Some(window("#Microsoft.Graph.Event", "createdDateTime")),
            "contact" => Some(window("#Microsoft.Graph.Contact", "createdDateTime")),
            _ => None,
        }
    }

    /// The first request of a look at what changed since then.
    fn first(&self, since: Timestamp, known: bool) -> String {
        match self {
            Self::Delta { all, latest, .. } => if known { all } else { latest }.clone(),
            Self::Window { path, filter, born, .. } => {
                let since = since.round(jiff::Unit::Second).unwrap_or(since);
                let own = filter.as_ref().map(|own| format!(" and ({own})")).unwrap_or_default();
                let filter = format!("lastModifiedDateTime ge {since}{own}");
                format!(
                    "{path}?$filter={}&$select=id,lastModifiedDateTime,{born}&$top=100",
                    utf8_percent_encode(&filter, ENCODED)
                )
            }
        }
    }
}

/// One resource under way.
struct Look<'a> {
    wanted: &'a Wanted,
    group: String,
    way: Way,
    /// Since when it waits for its next page.
    waits: Timestamp,
    /// Requests that this look answers.
    asked: Vec<String>,
    row: Caught,
    since: Timestamp,
    /// After this one, when to look again.
    rest: Duration,
    subscription: Option<String>,
}

/// What a page was.
enum Turn {
    More,
    Last,
}

impl Look<'_> {
    /// Graph does not know the page or the state any more: the look begins anew, at worst with everything, since what changed
    /// meanwhile cannot be told from the rest.
    fn begins_anew(&mut self, error: &GraphError) -> bool {
        match error.trouble {
            Trouble::Expired | Trouble::Gone | Trouble::Refused if self.row.page.take().is_some() => {
                self.row.began = None;
                true
            }
            Trouble::Expired => self.row.delta.take().is_some(),
            _ => false,
        }
    }
}

impl Reconciler {
    /// Looks up what is due, for at most `budget`. `unwanted`: as in the run before it, so that what it made is looked up.
    ///
    /// # Errors
    /// [`SubscriptionError`]; what was handed on is not handed on again.
    pub async fn catch_up(
        &self,
        wanted: &[Wanted],
        unwanted: Unwanted,
        budget: Option<Duration>,
        hand_on: HandOn<'_>,
    ) -> Result<CaughtUp, SubscriptionError> {
        let began = self.clock.monotonic();
        let mut lease = Lease::take(&self.rows, &self.clock, (self.random)()).await?;
        let until = budget.map(|budget| began + budget);
        let looked = self.look_at_all((wanted, unwanted), until, &mut lease, hand_on).await;
        let released = lease.release().await;
        let told = looked?;
        released.map(|()| told)
    }

    async fn look_at_all(
        &self,
        (wanted, unwanted): (&[Wanted], Unwanted),
        until: Option<Duration>,
        lease: &mut Lease,
        hand_on: HandOn<'_>,
    ) -> Result<CaughtUp, SubscriptionError> {
        let mut told = CaughtUp::default();
        if lease.paused_until().is_some() {
            return Ok(told);
        }
        let book = self.rows.load().await?;
        let told_of = self.told_of(wanted, unwanted, &book);
        let mut looks = Vec::new();
        for wanted in &told_of {
            looks.extend(self.due(&book, wanted, lease, &mut told).await?);
        }
        // A page each: one that never comes to its end has, in the next run too, its turn after the others.
        while let Some(first) = (0..looks.len()).min_by_key(|at| looks[*at].waits) {
            if until.is_some_and(|until| self.clock.monotonic() >= until) {
                break;
            }
            let mut look = looks.remove(first);
            match self.look(&mut look, lease, hand_on, &mut told).await? {
                Ok(Turn::More) => looks.push(look),
                Ok(Turn::Last) => told.looked.push(look.wanted.resource.clone()),
                Err(error) => told.errors.push(format!("{}: {error}", look.wanted.resource)),
            }
        }
        Ok(told)
    }

    /// The look that a resource needs now.
    async fn due<'a>(
        &self,
        book: &Book,
        wanted: &'a Wanted,
        lease: &mut Lease,
        told: &mut CaughtUp,
    ) -> Result<Option<Look<'a>>, SubscriptionError> {
        let (group, now) = (wanted.group(), self.clock.now());
        let asked: Vec<_> = book.resyncs.iter().filter(|(_, resync)| resync.group == group).collect();
        let keys: Vec<String> = asked.iter().map(|(key, _)| (*key).clone()).collect();
        let Some(way) = Way::of(wanted) else {
            if !keys.is_empty() {
                told.not_possible.push(without_way(&wanted.resource));
                lease.commit(keys.into_iter().take(90).map(delete).collect()).await?;
            }
            return Ok(None);
        };
        let known = book.caught.get(&group);
        // After a failure even a request waits: Graph may have asked for a pause.
        if known.is_some_and(|caught| caught.next > now && (asked.is_empty() || caught.problem.is_some())) {
            return Ok(None);
        }
        let earliest = asked.iter().map(|(_, resync)| resync.since).min();
        let last = known.map(|caught| caught.last).or(earliest).unwrap_or(now).min(now);
        // What is asked for waits since it was last looked at, as long as nothing of it was read.
        let waits = known.map_or(Timestamp::MIN, |caught| match earliest {
            Some(since) if caught.began.is_none() => caught.next.min(since),
            _ => caught.next,
        });
        let created = known.is_none() || asked.iter().any(|(_, resync)| resync.reason == Reason::Created);
        Ok(Some(Look {
            wanted,
            way,
            waits,
            asked: keys,
            row: known.cloned().unwrap_or(Caught { last, next: now, delta: None, page: None, began: None, problem: None }),
            since: last.checked_sub(OVERLAP).unwrap_or(last),
            rest: if created { SOON } else { self.config.catch_up_every },
            subscription: book.held.values().find(|held| held.group == group).map(|held| held.id.clone()),
            group,
        }))
    }

    /// Reads one page, and stores how far it is once the items of it are handed on.
    async fn look(
        &self,
        look: &mut Look<'_>,
        lease: &mut Lease,
        hand_on: HandOn<'_>,
        told: &mut CaughtUp,
    ) -> Result<Result<Turn, GraphError>, SubscriptionError> {
        let known = look.row.page.clone().or_else(|| look.row.delta.clone());
        let mut path = known.unwrap_or_else(|| look.way.first(look.since, false));
        let (began, page) = loop {
            // With the first of the pages that are kept; an attempt that got none is no beginning.
            let began = look.row.began.unwrap_or_else(|| self.clock.now());
            match self.page(&look.way, &path).await {
                Ok(page) => break (began, page),
                Err(error) if look.begins_anew(&error) => {
                    path = look.row.delta.clone().unwrap_or_else(|| look.way.first(look.since, true));
                }
                Err(error) => {
                    look.row.problem = Some(error.to_string());
                    // What one resource asks for concerns no other, and no subscription.
                    look.row.next = after_pause(self.clock.now(), error.retry_after.unwrap_or_default().max(SOON));
                    lease.commit(vec![put(keyed('c', &look.group), &look.row)]).await?;
                    return Ok(Err(error));
                }
            }
        };
        let items = self.items(look, &page.items);
        if !items.is_empty() {
            told.items += items.len() as u64;
            hand_on(items).await.map_err(SubscriptionError::NotHandedOn)?;
        }
        if let Some(next) = page.next {
            look.waits = self.clock.now();
            look.row.began = Some(began);
            look.row.page = Some(next);
            look.row.next = look.waits;
            lease.commit(vec![put(keyed('c', &look.group), &look.row)]).await?;
            return Ok(Ok(Turn::More));
        }
        let next = self.clock.now() + look.rest;
        look.row = Caught { last: began, next, delta: page.delta, page: None, began: None, problem: None };
        let done = look.asked.iter().take(90).cloned().map(delete);
        lease.commit(done.chain([put(keyed('c', &look.group), &look.row)]).collect()).await?;
        Ok(Ok(Turn::Last))
    }

    /// Of a root, that anything changed is all there is to tell: after the first change the rest need not be read. The new
    /// place is asked for before the item is handed on, so that whoever reads the changes then sees all up to that place.
    async fn page(&self, way: &Way, path: &str) -> Result<Page, GraphError> {
        let page = self.graph.page(OPERATION, path).await?;
        match way {
            Way::Delta { object: None, latest, .. } if !page.items.is_empty() && path != latest => {
                let end = self.graph.page(OPERATION, latest).await?;
                Ok(Page { items: page.items, ..end })
            }
            _ => Ok(page),
        }
    }

    /// Items as notifications would have been; of a root one, whatever changed in it.
    fn items(&self, look: &Look<'_>, found: &[Value]) -> Vec<Item> {
        let collection = normalised(&look.wanted.resource);
        let collection = collection.split('?').next().unwrap_or_default();
        match &look.way {
            Way::Delta { object: None, .. } => {
                let data = json!({ "@odata.type": "#Microsoft.Graph.DriveItem" });
                let told = (!found.is_empty()).then(|| self.item(look, ChangeType::Updated, collection.to_owned(), data));
                told.into_iter().collect()
            }
            Way::Delta { object: Some((collection, kind)), .. } => {
                let changes = found.iter().filter_map(|value| Some((value["id"].as_str()?, directory_change(value))));
                let changes = changes.filter(|(_, change)| look.wanted.change_types.contains(change));
                let item = |(id, change): (&str, ChangeType)| {
                    let path = format!("{collection}/{id}");
                    let data = json!({ "@odata.type": kind, "@odata.id": path, "id": id });
                    self.item(look, change, path, data)
                };
                changes.map(item).collect()
            }
            Way::Window { object, born, .. } => {
                let wanted = &look.wanted.change_types;
                let changes = found.iter().filter_map(|value| {
                    let id = value["id"].as_str()?;
                    let new = value[*born].as_str().and_then(timestamp).is_some_and(|at| at >= look.since);
                    // What is new has been changed as well.
                    let change =
                        if new && wanted.contains(&ChangeType::Created) { ChangeType::Created } else { ChangeType::Updated };
                    wanted.contains(&change).then_some((id, value, change))
                });
                let item = |(id, value, change): (&str, &Value, ChangeType)| {
                    let path = format!("{collection}/{id}");
                    let mut data = json!({ "@odata.type": object, "@odata.id": path, "id": id });
                    if let Some(etag) = value.get("@odata.etag") {
                        data["@odata.etag"] = etag.clone();
                    }
                    self.item(look, change, path, data)
                };
                changes.map(item).collect()
            }
        }
    }

    fn item(&self, look: &Look<'_>, change: ChangeType, resource: String, data: Value) -> Item {
        let mut notification = Map::new();
        let subscription = look.subscription.clone().unwrap_or_default();
        if !subscription.is_empty() {
            notification.insert("subscriptionId".to_owned(), json!(subscription));
        }
        notification.insert("changeType".to_owned(), json!(change.name()));
        notification.insert("resource".to_owned(), json!(resource));
        notification.insert("resourceData".to_owned(), data);
        let tenant = self.config.tenant.clone();
        if let Some(tenant) = &tenant {
            notification.insert("tenantId".to_owned(), json!(tenant));
        }
        Item {
            subscription,
            group: Some(look.group.clone()),
            tenant,
            resource: Some(resource),
            notification,
            ..Item::new(Origin::CatchUp, self.clock.now(), Event::Change(change))
        }
    }
}

/// Delta queries of directory objects are filtered by object id only (vendor page "Use delta query to track changes"); a user's
/// principal name does for a subscription.
fn needs_id(parts: &[String]) -> bool {
    parts.get(1).is_some_and(|id| !is_guid(id))
}

fn is_guid(text: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    let fits = |(at, byte): (usize, u8)| if hyphens.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

/// For people: what cannot be looked up, and what would change that.
fn without_way(resource: &str) -> String {
    let by_name = Resource::of(resource).is_some_and(|kind| ["user", "group"].contains(&kind.name));
    if by_name {
        format!("{resource} (name it by its object id: only by that can changes be asked for)")
    } else {
        resource.to_owned()
    }
}

/// A soft deletion is `updated` in notifications too; only what cannot be restored is `deleted`.
fn directory_change(value: &Value) -> ChangeType {
    match value.get("@removed").map(|removed| removed["reason"].as_str()) {
        Some(Some("deleted")) => ChangeType::Deleted,
        _ => ChangeType::Updated,
    }
}
