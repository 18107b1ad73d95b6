//! What makes two notifications the same, and which resource they are about: hashes, since rows hold no raw values. Pure.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

use crate::notifications::item::{Event, Item};
use crate::notifications::resources::segments;

/// SHA-256 in lower-case hex over parts, each with its length, so that no two lists of parts are one text.
pub(super) fn hash(parts: &[&str]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for part in parts {
        let _ = write!(text, "{}:{part}", part.len());
    }
    let mut hex = String::with_capacity(64);
    for byte in digest(&SHA256, text.as_bytes()).as_ref() {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The resource in one spelling, whatever the notification writes: `Users('x')/Messages('y')` and `/users/x/messages/y` are one.
pub(super) fn normalised(item: &Item) -> String {
    let mut path = segments(item.resource.as_deref().unwrap_or_default()).join("/").to_lowercase();
    if let Some(id) = item.resource_id().map(str::to_lowercase)
        && !path.ends_with(&id)
    {
        path = format!("{path}/{id}");
    }
    if path.is_empty() {
        // Nothing is known but who sent it: such items take turns.
        path.clone_from(&item.subscription);
    }
    path
}

/// Names the row of the resource: those that are about it take turns.
pub(super) fn resource_key(item: &Item) -> String {
    let tenant = item.tenant.as_deref().unwrap_or_default().to_lowercase();
    hash(&["resource", &tenant, &normalised(item)])[..40].to_owned()
}

/// Names the notification. Where it says what makes it one (entity tag, or event time and sequence number), a second delivery has
/// the same name; else it is named by all that it says and when it came, so that only our own copies of it are the same.
pub(super) fn item_key(item: &Item) -> String {
    let event = match item.event {
        Event::Change(change) => change.name(),
        Event::Lifecycle(event) => event.name(),
    };
    let resource = normalised(item);
    // A poll and a catch-up have no subscription; what they found stands for itself.
    let named = ["item", item.subscription.as_str(), resource.as_str(), event];
    if let Some(mark) = discriminator(item) {
        return hash(&[&named[..], &["mark", &mark]].concat());
    }
    let said = Value::Object(item.notification.clone()).to_string();
    let sealed = item.encrypted.as_ref().map(|content| content.data.as_str()).unwrap_or_default();
    hash(&[&named[..], &["received", &item.received.to_string(), &said, sealed]].concat())
}

/// What tells one change of a resource from the next.
fn discriminator(item: &Item) -> Option<String> {
    let data = item.resource_data()?;
    let text = |name: &str| match data.get(name)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    if let Some(tag) = text("@odata.etag") {
        return Some(format!("tag {tag}"));
    }
    let (time, number) = (text("eventTime"), text("sequenceNumber"));
    (time.is_some() || number.is_some()).then(|| format!("time {} {}", time.unwrap_or_default(), number.unwrap_or_default()))
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
        Item {
            origin: Origin::Graph,
            received: "2026-11-24T09:00:00Z".parse().expect("a time"),
            event: Event::Change(ChangeType::Updated),
            subscription: "s".to_owned(),
            group: None,
            client_state: None,
            tenant: None,
            resource: Some(resource.to_owned()),
            notification,
            encrypted: None,
            tokens: Vec::new(),
            object: None,
        }
    }

    #[test]
    fn one_resource_has_one_row_however_it_is_spelt() {
        let data = json!({"id": "AB="});
        let key = |resource: &str| resource_key(&item(resource, &data));
        assert_eq!(key("Users/u1/Messages/AB="), key("users('u1')/messages('AB=')"));
        assert_eq!(key("/users/u1/messages"), key("Users/u1/Messages/AB="), "the id is in the data");
        assert_ne!(key("users/u1/messages/AB="), key("users/u2/messages/AB="));
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
    fn without_a_mark_only_our_own_copy_is_the_same() {
        let first = item("drives/d/root", &Value::Null);
        let mut second = first.clone();
        assert_eq!(item_key(&first), item_key(&second));
        second.received = "2026-11-24T09:00:01Z".parse().expect("a time");
        assert_ne!(item_key(&first), item_key(&second));
    }
}
