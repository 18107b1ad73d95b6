//! A delivery judged: which items are put into which queue, and what is dropped on purpose, with the reason.
//!
//! Data only: who calls it puts and answers. What is dropped is answered like what is kept, since Microsoft Graph would only send
//! it again, for four hours, and count the refusals against us (`Drop` for each reason).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;

use super::client_state::{self, Keys, Verdict};
use super::item::{ChangeType, Event, Item, LifecycleEvent, Origin, QUEUE, URGENT_QUEUE, Work};
use super::wire::{self, Malformed, Unread, Unreadable};

/// Items of one delivery that get a message each; more than these are one message for each queue, so that the answer is in time.
pub const SINGLE_ITEMS: usize = 32;
/// Every encrypted item carries all tokens of its delivery. Real ones come to some kilobytes; what comes to more than this is
/// made to fill our storage.
const TOKEN_BYTES: usize = 32 << 20;

/// What to do about a delivery.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Receipt {
    pub put: Vec<Put>,
    /// How many items were dropped, by reason. A delivery without items counts as one.
    pub dropped: BTreeMap<Drop, u64>,
}

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    pub queue: &'static str,
    pub work: Work,
}

/// Why an item, or a whole delivery, is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Drop {
    /// Neither token nor body: something in front of us loses bodies, and notifications with them.
    #[error("there is no body")]
    EmptyBody,
    /// The same bytes would come again.
    #[error("it is no JSON")]
    NotJson,
    #[error("it is JSON without an array `value`, or with nothing in it")]
    NoItems,
    #[error("it is no object")]
    NoObject,
    #[error("it is too deep, or has a text or number that cannot be held")]
    Unreadable,
    /// Of a subscription that is not ours, or no notification at all.
    #[error("it has no client state, or one that is not of our form")]
    ForeignClientState,
    #[error("its client state is of our form, but made with no key that we know")]
    WrongClientState,
    /// `unknownFutureValue` and probes.
    #[error("it has neither a `changeType` nor a `lifecycleEvent` that is known")]
    UnknownEvent,
    #[error("it is encrypted, in a delivery with more tokens than can be kept")]
    TooManyTokens,
}

impl Receipt {
    /// Items that are kept.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.put.iter().flat_map(|put| match &put.work {
            Work::Item(task) => std::slice::from_ref(&task.item),
            Work::Batch(items) => items,
        })
    }

    /// Whether an item was dropped that a newer key may prove.
    #[must_use]
    pub fn may_be_ours(&self) -> bool {
        self.dropped.contains_key(&Drop::WrongClientState)
    }

    fn drop(&mut self, reason: Drop) {
        *self.dropped.entry(reason).or_default() += 1;
    }
}

/// Judges a delivery that came `now`. Without `keys` nothing is proven: items whose client state has our form are kept with it,
/// to be checked before anything is done about them.
#[must_use]
pub fn receive(body: &[u8], keys: Option<&Keys>, now: Timestamp) -> Receipt {
    let mut receipt = Receipt::default();
    if body.trim_ascii().is_empty() {
        receipt.drop(Drop::EmptyBody);
        return receipt;
    }
    let text = wire::text(body);
    let delivery = match wire::delivery(&text) {
        Ok(delivery) => delivery,
        Err(malformed) => {
            receipt.drop(match malformed {
                Malformed::NotJson => Drop::NotJson,
                Malformed::NoItems => Drop::NoItems,
            });
            return receipt;
        }
    };
    if delivery.items.is_empty() {
        receipt.drop(Drop::NoItems);
    }
    let mut items = Vec::new();
    for raw in &delivery.items {
        match judge(raw, keys, now) {
            Ok(item) => items.push(item),
            Err(reason) => receipt.drop(reason),
        }
    }
    hand_out(&delivery.tokens, &mut items, &mut receipt);
    receipt.put = messages(items);
    receipt
}

/// The items of a file as a delivery of them would be read, each of them or why it would be dropped. Nobody has sent a file:
/// client states are not looked at, and what is encrypted comes without the tokens that prove it.
///
/// # Errors
/// It is no JSON.
pub fn read_file(bytes: &[u8], now: Timestamp) -> Result<Vec<Result<Item, Drop>>, serde_json::Error> {
    let text = wire::text(bytes);
    let items = wire::items_of_file(&text)?;
    Ok(items.into_iter().map(|raw| item(&wire::item(raw)?, now)).collect())
}

impl From<Unreadable> for Drop {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::NoObject => Self::NoObject,
            Unreadable::Broken => Self::Unreadable,
        }
    }
}

fn judge(raw: &RawValue, keys: Option<&Keys>, now: Timestamp) -> Result<Item, Drop> {
    let unread = wire::item(raw)?;
    let claim = unread.client_state().filter(|text| client_state::claimed(text).is_some());
    let claim = claim.ok_or(Drop::ForeignClientState)?;
    let (group, client_state) = match keys.map(|keys| client_state::check(keys, Some(&claim))) {
        Some(Verdict::Good { group, .. }) => (Some(group), None),
        Some(Verdict::Wrong) => return Err(Drop::WrongClientState),
        None => (None, Some(claim)),
    };
    Ok(Item { group, client_state, ..item(&unread, now)? })
}

/// What it says, whoever says so.
fn item(unread: &Unread<'_>, now: Timestamp) -> Result<Item, Drop> {
    let foreign = unread.read()?;
    let text = |name: &str| foreign.notification.get(name).and_then(Value::as_str);
    let lifecycle = text("lifecycleEvent").and_then(LifecycleEvent::parse).map(Event::Lifecycle);
    let change = || text("changeType").and_then(ChangeType::parse).map(Event::Change);
    let event = lifecycle.or_else(change).ok_or(Drop::UnknownEvent)?;
    Ok(Item {
        subscription: text("subscriptionId").unwrap_or_default().to_owned(),
        tenant: text("tenantId").or_else(|| text("organizationId")).map(str::to_owned),
        resource: text("resource").map(str::to_owned),
        encrypted: foreign.encrypted,
        notification: foreign.notification,
        ..Item::new(Origin::Graph, now, event)
    })
}

/// Gives the delivery's tokens to the items that are nothing without them.
fn hand_out(tokens: &[String], items: &mut Vec<Item>, receipt: &mut Receipt) {
    let bytes: usize = tokens.iter().map(String::len).sum();
    let encrypted = items.iter().filter(|item| item.encrypted.is_some()).count();
    if bytes.saturating_mul(encrypted) > TOKEN_BYTES {
        items.retain(|item| item.encrypted.is_none());
        receipt.dropped.insert(Drop::TooManyTokens, encrypted as u64);
        return;
    }
    for item in items.iter_mut().filter(|item| item.encrypted.is_some()) {
        item.tokens = tokens.to_vec();
    }
}

fn messages(items: Vec<Item>) -> Vec<Put> {
    if items.len() <= SINGLE_ITEMS {
        return items.into_iter().map(|item| Put { queue: queue_of(&item), work: Work::first(item) }).collect();
    }
    let (urgent, normal): (Vec<Item>, Vec<Item>) = items.into_iter().partition(|item| queue_of(item) == URGENT_QUEUE);
    let batches = [(URGENT_QUEUE, urgent), (QUEUE, normal)].into_iter().filter(|(_, items)| !items.is_empty());
    batches.map(|(queue, items)| Put { queue, work: Work::Batch(items) }).collect()
}

/// What was not proven yet says itself where it belongs: an urgent one must not wait because a vault is slow.
fn queue_of(item: &Item) -> &'static str {
    let claimed = item.client_state.as_deref().and_then(client_state::claimed);
    let group = item.group.as_deref().or(claimed);
    if group.is_some_and(client_state::is_urgent) { URGENT_QUEUE } else { QUEUE }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::platform::secret::Secret;

    const NORMAL: &str = "n0123456789ab";
    const URGENT: &str = "u0123456789ab";

    fn keys() -> Keys {
        Keys { current: Secret::new("the key"), previous: Some(Secret::new("the old key")) }
    }

    fn state(key: &str, group: &str) -> String {
        client_state::make(&Keys { current: Secret::new(key), previous: None }, group, [1; 16])
    }

    fn now() -> Timestamp {
        "2026-06-01T09:30:01Z".parse().expect("a time")
    }

    fn change(id: usize, group: &str) -> Value {
        json!({"subscriptionId": "s", "clientState": state("the key", group), "changeType": "updated", "resource": "Users/a",
            "tenantId": "t", "resourceData": {"id": id.to_string()}})
    }

    fn judged(items: &[Value]) -> Receipt {
        receive(json!({ "value": items }).to_string().as_bytes(), Some(&keys()), now())
    }

    fn dropped(receipt: &Receipt) -> Vec<(Drop, u64)> {
        receipt.dropped.iter().map(|(reason, count)| (*reason, *count)).collect()
    }

    #[test]
    fn an_item_is_kept_under_its_proven_group_without_what_proved_it() {
        let receipt = judged(&[change(1, NORMAL), change(2, URGENT)]);
        assert_eq!(dropped(&receipt), []);
        let queues: Vec<_> = receipt.put.iter().map(|put| put.queue).collect();
        assert_eq!(queues, [QUEUE, URGENT_QUEUE]);
        let item = receipt.items().next().expect("an item");
        assert_eq!((item.origin, item.received, item.event), (Origin::Graph, now(), Event::Change(ChangeType::Updated)));
        assert_eq!((item.subscription.as_str(), item.group.as_deref(), item.client_state.as_deref()), ("s", Some(NORMAL), None));
        assert_eq!(
            (item.tenant.as_deref(), item.resource.as_deref(), item.resource_id()),
            (Some("t"), Some("Users/a"), Some("1"))
        );
        assert!(!json!(item).to_string().contains("v1."), "what was given to Microsoft stays there");
    }

    #[test]
    fn what_is_not_ours_is_dropped_with_the_reason_and_the_rest_goes_on() {
        let with = |name: &str, value: Value| {
            let mut item = change(1, NORMAL);
            item[name] = value;
            item
        };
        let mut items = vec![
            json!(5),
            with("clientState", Value::Null),
            with("clientState", "secretClientValue".into()),
            with("clientState", state("another key", NORMAL).into()),
            with("changeType", "unknownFutureValue".into()),
            with("changeType", Value::Null),
            with("more", (0..40).fold(json!(1), |inner, _| json!([inner]))),
        ];
        items.push(with("clientState", state("the old key", NORMAL).into()));
        let receipt = judged(&items);
        assert_eq!(
            dropped(&receipt),
            [
                (Drop::NoObject, 1),
                (Drop::Unreadable, 1),
                (Drop::ForeignClientState, 2),
                (Drop::WrongClientState, 1),
                (Drop::UnknownEvent, 2)
            ]
        );
        assert_eq!(receipt.items().count(), 1, "the key before this one still counts");
        assert!(receipt.may_be_ours());
    }

    #[test]
    fn a_delivery_without_items_is_counted_once() {
        for (body, reason) in [
            ("", Drop::EmptyBody),
            (" \r\n", Drop::EmptyBody),
            ("<html>", Drop::NotJson),
            ("{}", Drop::NoItems),
            (r#"{"value":[]}"#, Drop::NoItems),
        ] {
            let receipt = receive(body.as_bytes(), Some(&keys()), now());
            assert_eq!((dropped(&receipt), receipt.put.len()), (vec![(reason, 1)], 0), "{body}");
        }
    }

    #[test]
    fn without_a_key_items_of_our_form_are_kept_to_be_checked_later() {
        let mut items = vec![change(1, URGENT), change(2, NORMAL), change(3, NORMAL)];
        items[2]["clientState"] = "NA".into();
        let receipt = receive(json!({ "value": items }).to_string().as_bytes(), None, now());
        assert_eq!(dropped(&receipt), [(Drop::ForeignClientState, 1)], "no key will ever prove it");
        let kept: Vec<_> = receipt.items().map(|item| (item.group.clone(), item.client_state.clone())).collect();
        assert_eq!(kept, [(None, Some(state("the key", URGENT))), (None, Some(state("the key", NORMAL)))]);
        assert_eq!(receipt.put[0].queue, URGENT_QUEUE);
    }

    #[test]
    fn lifecycle_events_go_the_same_way_and_name_their_tenant_otherwise() {
        let item = json!({"subscriptionId": "s", "subscriptionExpirationDateTime": "2026-06-02T00:00:00.0000000Z",
            "clientState": state("the key", URGENT), "lifecycleEvent": "missed", "organizationId": "o", "changeType": "updated"});
        let receipt = judged(&[item]);
        let item = receipt.items().next().expect("an item");
        assert_eq!((item.event, item.tenant.as_deref()), (Event::Lifecycle(LifecycleEvent::Missed), Some("o")));
        assert_eq!(receipt.put[0].queue, URGENT_QUEUE);
    }

    #[test]
    fn more_than_fit_into_the_time_are_one_message_for_each_queue() {
        let of = |count: usize, urgent: usize| {
            let items: Vec<_> = (0..count).map(|i| change(i, if i < urgent { URGENT } else { NORMAL })).collect();
            judged(&items)
        };
        assert_eq!(of(SINGLE_ITEMS, 3).put.len(), SINGLE_ITEMS);
        let receipt = of(SINGLE_ITEMS + 1, 3);
        let sizes: Vec<_> = receipt
            .put
            .iter()
            .map(|put| match &put.work {
                Work::Batch(items) => (put.queue, items.len()),
                Work::Item(_) => panic!("a single item"),
            })
            .collect();
        assert_eq!(sizes, [(URGENT_QUEUE, 3), (QUEUE, SINGLE_ITEMS - 2)]);
        assert_eq!(of(SINGLE_ITEMS + 1, 0).put.len(), 1);
    }

    #[test]
    fn encrypted_items_carry_the_tokens_and_no_others_do() {
        let mut rich = change(1, NORMAL);
        rich["encryptedContent"] = json!({"data": "d", "dataKey": "k", "dataSignature": "s"});
        let of = |tokens: &[String]| {
            let body = json!({"validationTokens": tokens, "value": [rich, change(2, NORMAL)]});
            receive(body.to_string().as_bytes(), Some(&keys()), now())
        };
        let receipt = of(&["one".to_owned(), "two".to_owned()]);
        let tokens: Vec<_> = receipt.items().map(|item| item.tokens.len()).collect();
        assert_eq!(tokens, [2, 0]);
        let receipt = of(&["x".repeat(TOKEN_BYTES + 1)]);
        assert_eq!((dropped(&receipt), receipt.items().count()), (vec![(Drop::TooManyTokens, 1)], 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(body in prop::collection::vec(any::<u8>(), 0..300), keyed in any::<bool>()) {
            let keys = keys();
            let receipt = receive(&body, Some(&keys).filter(|_| keyed), now());
            prop_assert_eq!((receipt.items().count(), receipt.dropped.values().sum::<u64>()), (0, 1));
        }

        #[test]
        fn any_json_is_judged(text in r#"\{"value":\[(\{("[a-zA-Z]{1,3}":("x"|1|null|\[\]),?){0,3}\},?|1,?|null,?){0,4}\](,"validationTokens":("x"|null|\["a"\]))?\}"#) {
            let receipt = receive(text.as_bytes(), None, now());
            prop_assert!(receipt.put.is_empty() && !receipt.dropped.is_empty());
        }

        #[test]
        fn every_accepted_item_is_put_exactly_once(kinds in prop::collection::vec(0..4_u8, 0..80)) {
            let items: Vec<_> = kinds.iter().enumerate().map(|(i, kind)| match kind {
                0 => change(i, NORMAL),
                1 => change(i, URGENT),
                2 => json!({"clientState": state("another", NORMAL), "changeType": "updated"}),
                _ => Value::Null,
            }).collect();
            let receipt = judged(&items);
            let mut put: Vec<usize> = receipt.items().filter_map(|item| item.resource_id()?.parse().ok()).collect();
            put.sort_unstable();
            let wanted: Vec<usize> = (0..kinds.len()).filter(|i| kinds[*i] < 2).collect();
            prop_assert_eq!(&put, &wanted);
            let lost: u64 = receipt.dropped.values().sum();
            prop_assert_eq!(usize::try_from(lost), Ok((kinds.len() - wanted.len()).max(usize::from(kinds.is_empty()))));
            for put in &receipt.put {
                let letter = if put.queue == URGENT_QUEUE { 'u' } else { 'n' };
                let one = Receipt { put: vec![put.clone()], ..Receipt::default() };
                prop_assert!(one.items().all(|item| item.group.as_ref().is_some_and(|group| group.starts_with(letter))));
            }
        }
    }
}
