//! What makes two notifications the same, and which resource they are about: hashes, since rows hold no raw values. Pure.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use serde_json::Value;

use super::plan::found_gone;
use crate::notifications::item::{Event, Item};
use crate::notifications::resources::{Resource, relative, segments};
use crate::notifications::wanted;
use crate::platform::hex;

/// SHA-256 in lower-case hex over parts, each with its length, so that no two lists of parts are one text.
pub(super) fn hash(parts: &[&str]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for part in parts {
        let _ = write!(text, "{}:{part}", part.len());
    }
    hex::digits(digest(&SHA256, text.as_bytes()).as_ref())
}

/// The resource in one spelling, whatever the notification writes: `Users('x')/Messages('y')` and `/users/x/messages/y` are one.
/// Ids keep their case, since those of Exchange differ in nothing else.
pub(super) fn normalised(item: &Item) -> String {
    let id = item.resource_id().filter(|id| !id.is_empty());
    // Without an id, what is read is what the path names.
    let path = if id.is_some() { item.resource.as_deref() } else { item.path() };
    let named = path.unwrap_or_default();
    let written = segments(relative(named).unwrap_or(named));
    // What follows a path that can be subscribed to is an id.
    let known = (1..=written.len()).rev().find(|end| Resource::of(&written[..*end].join("/")).is_some()).unwrap_or_default();
    let (words, ids) = written.split_at(known);
    let words = segments(&wanted::normalised(&words.join("/")));
    let mut path: Vec<String> = words.iter().chain(ids).map(|segment| one_case(segment)).collect();
    if let Some(id) = id.map(one_case) {
        let whole = path.join("/");
        let above = whole.strip_suffix(&id).and_then(|above| above.strip_suffix('/'));
        let above = above.map_or(path.clone(), segments);
        path = match (above.first().map(String::as_str), above.last().map(String::as_str)) {
            // The service names the mailbox by its id and the folder not at all, a subscription by an address and a folder. The ids
            // are unique in themselves, which those of chats and lists are not.
            (Some("users"), Some(last)) if of_mailbox(last) && !above.iter().any(|word| word == "chats") => {
                vec![last.to_owned(), id]
            }
            _ => [above, vec![id]].concat(),
        };
    }
    if path.is_empty() {
        // Nothing is known but who sent it: such items take turns.
        path.push(item.subscription.clone());
    }
    path.join("/")
}

fn of_mailbox(collection: &str) -> bool {
    matches!(collection, "messages" | "events" | "contacts")
}

/// A GUID is the same in either case.
fn one_case(id: &str) -> String {
    let is_guid = id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if is_guid { id.to_ascii_lowercase() } else { id.to_owned() }
}

/// Names the row of the resource: those that are about it take turns. The tenant is no part of it: it is written in several ways.
fn resource_key(item: &Item) -> String {
    hash(&["resource", &normalised(item)])[..40].to_owned()
}

/// Names the notification. Where it says what makes it one (entity tag, or event time with sequence number), a second delivery has
/// the same name, also one by another subscription, as there are two while one takes over from the other; else it is named by all
/// that it says and when it came, so that only our own copies of it are the same.
pub(super) fn item_key(item: &Item) -> String {
    let event = match item.event {
        Event::Change(change) => change.name(),
        Event::Lifecycle(event) => event.name(),
    };
    let resource = normalised(item);
    match discriminator(item) {
        Some(Mark { text, whole: true }) => hash(&["item", &resource, event, "mark", &text]),
        Some(Mark { text, whole: false }) => hash(&["item", &item.subscription, &resource, event, "mark", &text]),
        None => {
            let said = Value::Object(item.notification.clone()).to_string();
            let sealed = item.encrypted.as_ref().map(|content| content.data.as_str()).unwrap_or_default();
            let received = item.received.to_string();
            hash(&["item", &item.subscription, &resource, event, "received", &received, &said, sealed])
        }
    }
}

/// What tells one change of a resource from the next.
struct Mark {
    text: String,
    /// Whoever tells of the change, the mark is the same, and no other change has it.
    whole: bool,
}

fn discriminator(item: &Item) -> Option<Mark> {
    let data = item.resource_data()?;
    let text = |name: &str| match data.get(name)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    if let Some(tag) = text("@odata.etag") {
        return Some(Mark { text: format!("tag {tag}"), whole: true });
    }
    let (time, number) = (text("eventTime"), text("sequenceNumber"));
    let whole = time.is_some() && number.is_some();
    let some = time.is_some() || number.is_some();
    some.then(|| Mark { text: format!("time {} {}", time.unwrap_or_default(), number.unwrap_or_default()), whole })
}

/// Names of one item.
pub(super) struct Names {
    pub resource: String,
    pub item: String,
}

impl Names {
    pub(super) fn of(item: &Item) -> Self {
        Self { resource: resource_key(item), item: item_key(item) }
    }

    /// What is there again after it was gone may have the tag that it had before, and is another change all the same.
    pub(super) fn after(self, item: &Item, gone: Option<Timestamp>) -> Self {
        match gone.filter(|gone| !found_gone(item) && item.read.is_some_and(|read| read > *gone)) {
            Some(gone) => Self { item: hash(&["again", &self.item, &gone.to_string()]), ..self },
            None => self,
        }
    }
}

/// Names one run: an item and a playbook.
pub(super) fn run_key(item: &str, playbook: &str) -> String {
    hash(&["run", item, playbook])[..24].to_owned()
}

/// The idempotency key of an action: of a playbook, about an item.
pub(super) fn action_key(playbook: &str, label: &str, item: &str) -> String {
    hash(&["action", playbook, label, item])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::notifications::item::{ChangeType, Origin};

    fn item(resource: &str, data: &Value) -> Item {
        let Value::Object(notification) = json!({ "resourceData": data }) else { unreachable!("an object") };
        let received = "2026-11-24T09:00:00Z".parse().expect("a time");
        Item {
            subscription: "s".to_owned(),
            resource: Some(resource.to_owned()),
            notification,
            ..Item::new(Origin::Graph, received, Event::Change(ChangeType::Updated))
        }
    }

    #[test]
    fn one_resource_has_one_row_however_it_is_spelt() {
        let data = json!({"id": "AB="});
        let key = |resource: &str| resource_key(&item(resource, &data));
        assert_eq!(key("Users/u1/Messages/AB="), key("users('u1')/messages('AB=')"));
        assert_eq!(key("/users/u1/messages"), key("Users/u1/Messages/AB="), "the id is in the data");
        assert_eq!(key("users/jane@a.example/mailFolders('inbox')/messages/AB="), key("Users/u1/Messages/AB="), "in any folder");
        assert_ne!(key("users/u1/messages/AB="), key("users/u1/events/AB="));
        assert_ne!(key("chats('19:A@x')/messages('AB=')"), key("chats('19:B@x')/messages('AB=')"), "numbers, in each chat anew");
        assert_ne!(key("sites/s/lists/l/items/AB="), key("sites/s/lists/m/items/AB="));
        let mut catch_up = item("users/u1/messages/AB=", &data);
        catch_up.tenant = Some("contoso.example".to_owned());
        assert_eq!(resource_key(&catch_up), key("Users/u1/Messages/AB="), "whatever the tenant is called");
    }

    #[test]
    fn what_is_named_by_its_path_alone_has_a_row_of_its_own() {
        let key = |resource: &str, data: &Value| resource_key(&item(resource, data));
        let by_id = key("groups", &json!({"id": "G1"}));
        assert_eq!(key("groups", &json!({"@odata.id": "Groups/G1"})), by_id);
        assert_eq!(key("groups('G1')", &Value::Null), by_id);
        assert_ne!(key("groups", &json!({"@odata.id": "Groups/G2"})), by_id, "a read of the one stands for no other");
    }

    #[test]
    fn ids_of_exchange_keep_their_case_and_guids_do_not() {
        let key = |resource: &str, id: &str| resource_key(&item(resource, &json!({ "id": id })));
        assert_ne!(key("Users/u1/Messages/AAMkAB=", "AAMkAB="), key("Users/u1/Messages/AAMkAb=", "AAMkAb="));
        assert_ne!(key("Users/u1/Messages", "AAMkAB="), key("Users/u1/Messages", "AAMkAb="));
        let (upper, lower) = ("3F6C0000-0000-4000-8000-00000000000A", "3f6c0000-0000-4000-8000-00000000000a");
        assert_eq!(key(&format!("Users('{upper}')"), lower), key(&format!("users/{lower}"), upper));
        assert_eq!(key("users", upper), key(&format!("Users/{lower}"), lower));
    }

    #[test]
    fn a_second_delivery_of_a_change_is_known_and_a_second_change_is_another() {
        let tagged = |tag: &str| item("users/u1", &json!({"id": "u1", "@odata.etag": tag}));
        let mut late = tagged("1");
        late.received = "2026-11-24T11:00:00Z".parse().expect("a time");
        assert_eq!(item_key(&tagged("1")), item_key(&late));
        assert_ne!(item_key(&tagged("1")), item_key(&tagged("2")));
        let timed = |number: i64| item("users/u1", &json!({"id": "u1", "eventTime": "t", "sequenceNumber": number}));
        assert_ne!(item_key(&timed(637_000_000_000_000_001)), item_key(&timed(637_000_000_000_000_002)));
    }

    #[test]
    fn two_subscriptions_that_tell_of_one_change_tell_of_it_once() {
        let by = |subscription: &str, data: &Value| {
            item_key(&Item { subscription: subscription.to_owned(), ..item("users/u1", data) })
        };
        let tagged = json!({"id": "u1", "@odata.etag": "1"});
        assert_eq!(by("old", &tagged), by("new", &tagged));
        let timed = json!({"id": "u1", "eventTime": "t", "sequenceNumber": 7});
        assert_eq!(by("old", &timed), by("new", &timed));
        let vague = json!({"id": "u1", "eventTime": "t"});
        assert_ne!(by("old", &vague), by("new", &vague), "a time alone is no change");
    }

    #[test]
    fn what_is_there_again_is_another_change_than_before_it_was_gone() {
        let at = |minute: u8| Some(format!("2026-11-24T09:{minute:02}:00Z").parse::<Timestamp>().expect("a time"));
        let found = |object: &Value, minute| {
            let item = item("drives/d/items/q", &json!({"id": "q", "@odata.etag": "1"}));
            Item { object: Some(object.clone()), read: at(minute), ..item }
        };
        let (lives, gone) = (json!({"id": "q", "deleted": null}), json!({"id": "q", "deleted": {"state": "deleted"}}));
        let key = |item: &Item, gone: Option<Timestamp>| Names::of(item).after(item, gone).item;
        for (object, read, gone, another) in [
            (&lives, 2, at(1), true),
            (&lives, 1, at(1), false),
            (&lives, 1, at(2), false),
            (&lives, 2, None, false),
            // Whatever the row says when its message comes once more.
            (&gone, 2, at(1), false),
        ] {
            let item = found(object, read);
            assert_eq!(key(&item, gone) != item_key(&item), another, "{object} {read} {gone:?}");
        }
        assert_ne!(key(&found(&lives, 4), at(1)), key(&found(&lives, 4), at(3)));
    }

    #[test]
    fn a_key_is_of_one_action_of_one_change() {
        let key = action_key("p", "1", "x");
        assert_eq!((key.len(), &key), (64, &action_key("p", "1", "x")));
        for other in [("p", "2", "x"), ("q", "1", "x"), ("p", "1", "y"), ("p1", "", "x"), ("", "p1", "x")] {
            assert_ne!(key, action_key(other.0, other.1, other.2));
        }
    }

    #[test]
    fn without_a_mark_only_our_own_copy_is_the_same() {
        let first = item("drives/d/root", &Value::Null);
        let mut second = first.clone();
        assert_eq!(item_key(&first), item_key(&second));
        second.received = "2026-11-24T09:00:01Z".parse().expect("a time");
        assert_ne!(item_key(&first), item_key(&second));
    }
}
