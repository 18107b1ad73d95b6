//! The JSON of a delivery, read with patience: names in any case, members twice, dates that are none.
//!
//! Sources: "changeNotificationCollection" and "changeNotification resource type"; official samples that do not keep to them are
//! in the tests below. An item that cannot be read costs nothing but itself, so each is kept as text until it is looked at.
//! Knows the spelling of members and nothing of what they are worth.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::item::{ChangeType, EncryptedContent, LifecycleEvent};
use crate::platform::json::mended;

/// Of an item, and of what it holds: playbooks and queues wrap it, and readers of JSON end at 128.
const DEEPEST: usize = 32;

/// Members of an item whose name is known, as documented.
const MEMBERS: [&str; 9] = [
    "id",
    "subscriptionId",
    "subscriptionExpirationDateTime",
    "changeType",
    "lifecycleEvent",
    "resource",
    "resourceData",
    "tenantId",
    "organizationId",
];
/// What is no part of a notification as playbooks see it.
const APART: [&str; 3] = ["clientState", "encryptedContent", "validationTokens"];
/// Members of `resourceData` that do not depend on the resource.
const DATA_MEMBERS: [&str; 7] =
    ["@odata.type", "@odata.id", "@odata.etag", "id", "organizationId", "eventTime", "sequenceNumber"];

/// A delivery: items as text, and the tokens that prove those with resource data.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    pub(super) items: Vec<&'a RawValue>,
    pub(super) tokens: Vec<String>,
}

/// Why there is no item in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    NotJson,
    /// JSON without an array `value`.
    NoItems,
}

/// An item of which only the names are known. What anybody sent is not taken apart before it is proven: a few bytes of text
/// can become many of memory.
#[derive(Debug)]
pub(super) struct Unread<'a>(Members<'a>);

/// An item as it came, under documented names.
#[derive(Debug)]
pub(super) struct Foreign {
    /// The ciphertext, however broken: without it, the item would pass for one that never had any.
    pub(super) encrypted: Option<EncryptedContent>,
    pub(super) notification: Map<String, Value>,
}

/// Why an item cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    NoObject,
    /// Too deep, or with a text or number that nobody can hold.
    Broken,
}

/// One broken character costs a character, not a delivery.
pub(super) fn text(body: &[u8]) -> Cow<'_, str> {
    match String::from_utf8_lossy(body) {
        Cow::Borrowed(text) => mended(text),
        Cow::Owned(text) => Cow::Owned(mended(&text).into_owned()),
    }
}

pub(super) fn delivery(text: &str) -> Result<Delivery<'_>, Malformed> {
    let text = without_mark(text);
    let members: Members<'_> =
        serde_json::from_str(text).map_err(|e| if e.is_data() { Malformed::NoItems } else { Malformed::NotJson })?;
    let items = members.last("value").and_then(|raw| serde_json::from_str(raw.get()).ok()).ok_or(Malformed::NoItems)?;
    Ok(Delivery { items, tokens: members.last("validationTokens").map(tokens).unwrap_or_default() })
}

/// What a person may have in a file: a delivery, a list of items, or one item.
///
/// # Errors
/// It is no JSON.
pub(super) fn items_of_file(text: &str) -> Result<Vec<&RawValue>, serde_json::Error> {
    if let Ok(delivery) = delivery(text) {
        return Ok(delivery.items);
    }
    let whole: &RawValue = serde_json::from_str(without_mark(text))?;
    Ok(serde_json::from_str(whole.get()).unwrap_or_else(|_| vec![whole]))
}

/// Some editors and tools begin a text with a mark of its byte order.
fn without_mark(text: &str) -> &str {
    text.trim_start_matches('\u{feff}')
}

/// One entry of `value`.
pub(super) fn item(raw: &RawValue) -> Result<Unread<'_>, Unreadable> {
    if !raw.get().starts_with('{') {
        return Err(Unreadable::NoObject);
    }
    serde_json::from_str(raw.get()).map(Unread).map_err(|_| Unreadable::Broken)
}

impl Unread<'_> {
    pub(super) fn client_state(&self) -> Option<String> {
        self.0.text("clientState")
    }

    pub(super) fn read(&self) -> Result<Foreign, Unreadable> {
        let mut notification = Map::new();
        for (name, raw) in &self.0.0 {
            if APART.iter().any(|apart| name.eq_ignore_ascii_case(apart)) {
                continue;
            }
            let name = documented(name, &MEMBERS);
            let value = if name == "resourceData" { resource_data(raw) } else { value(raw) };
            notification.insert(name.to_owned(), canonical(name, value.ok_or(Unreadable::Broken)?));
        }
        Ok(Foreign { encrypted: self.0.last("encryptedContent").and_then(encrypted), notification })
    }
}

/// Members in the order in which they came, so that the last of several is known, whatever their case.
#[derive(Debug)]
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    fn last(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, raw)| *raw)
    }

    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.last(name)?.get()).ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Ordered).map(Self)
    }
}

/// The documented spelling of a name, if there is one.
fn documented<'a>(name: &'a str, known: &[&'static str]) -> &'a str {
    known.iter().find(|known| known.eq_ignore_ascii_case(name)).copied().unwrap_or(name)
}

fn value(raw: &RawValue) -> Option<Value> {
    let value = serde_json::from_str(raw.get()).ok()?;
    is_flat(&value, DEEPEST).then_some(value)
}

fn resource_data(raw: &RawValue) -> Option<Value> {
    if !raw.get().starts_with('{') {
        return value(raw);
    }
    let members: Members<'_> = serde_json::from_str(raw.get()).ok()?;
    let mut data = Map::new();
    for (name, raw) in &members.0 {
        data.insert(documented(name, &DATA_MEMBERS).to_owned(), value(raw)?);
    }
    Some(Value::Object(data))
}

fn is_flat(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(values) => levels > 0 && values.iter().all(|value| is_flat(value, levels - 1)),
        Value::Object(members) => levels > 0 && members.values().all(|value| is_flat(value, levels - 1)),
        _ => true,
    }
}

/// One spelling of what has only few values; a date that is none is null.
fn canonical(name: &str, value: Value) -> Value {
    let Some(text) = value.as_str() else {
        return if name == "subscriptionExpirationDateTime" { Value::Null } else { value };
    };
    match name {
        "changeType" => ChangeType::parse(text).map(|known| known.name().into()).unwrap_or(value),
        "lifecycleEvent" => LifecycleEvent::parse(text).map(|known| known.name().into()).unwrap_or(value),
        "subscriptionExpirationDateTime" if text.parse::<Timestamp>().is_err() => Value::Null,
        _ => value,
    }
}

fn encrypted(raw: &RawValue) -> Option<EncryptedContent> {
    if raw.get() == "null" {
        return None;
    }
    let members = serde_json::from_str(raw.get()).unwrap_or(Members(Vec::new()));
    Some(EncryptedContent {
        data: members.text("data").unwrap_or_default(),
        data_key: members.text("dataKey").unwrap_or_default(),
        data_signature: members.text("dataSignature"),
        certificate_id: members.text("encryptionCertificateId"),
        certificate_thumbprint: members.text("encryptionCertificateThumbprint"),
    })
}

/// What is no text proves nothing; the list may be null.
fn tokens(raw: &RawValue) -> Vec<String> {
    let tokens: Vec<&RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
    tokens.into_iter().filter_map(|token| serde_json::from_str(token.get()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    fn read(text: &str) -> Foreign {
        item(&raw(text)).and_then(|item| item.read()).expect("an item")
    }

    fn told(text: &str) -> Value {
        Value::Object(read(text).notification)
    }

    /// In the shapes of the official samples, one per variation that they hold.
    #[test]
    fn names_and_values_have_one_spelling_however_they_came() {
        assert_eq!(
            told(
                r##"{"ChangeType":"Created","SubscriptionExpirationDateTime":"2026-06-02T09:30:00.1234567+05:30","SubscriptionId":"s",
                "Resource":"https://outlook.office365.com/api/v2.0/Users('a')/Messages('b')","ClientState":"x","TENANTID":"t",
                "ResourceData":{"@Odata.Type":"#Microsoft.OutlookServices.Message","od@ata.id":"x","Id":"b","@odata.etag":null}}"##
            ),
            json!({
                "changeType": "created",
                "subscriptionExpirationDateTime": "2026-06-02T09:30:00.1234567+05:30",
                "subscriptionId": "s",
                "resource": "https://outlook.office365.com/api/v2.0/Users('a')/Messages('b')",
                "tenantId": "t",
                "resourceData": {"@odata.type": "#Microsoft.OutlookServices.Message", "od@ata.id": "x", "id": "b", "@odata.etag": null},
            })
        );
        assert_eq!(
            told(
                r#"{"subscriptionId":"a","subscriptionId":"b","SUBSCRIPTIONID":"c","notificationUrl":"u","expirationDateTime":"x"}"#
            ),
            json!({"subscriptionId": "c", "notificationUrl": "u", "expirationDateTime": "x"}),
            "the last one counts, what is unknown stays"
        );
        assert_eq!(
            told(
                r#"{"changeType":"DELETED","changeType":"Validation: NA","subscriptionExpirationDateTime":"NA","resourceData":null}"#
            ),
            json!({"changeType": "Validation: NA", "subscriptionExpirationDateTime": null, "resourceData": null})
        );
        assert_eq!(
            told(r#"{"lifecycleEvent":"ReauthorizationRequired","organizationId":"o","subscriptionExpirationDateTime":5}"#),
            json!({"lifecycleEvent": "reauthorizationRequired", "organizationId": "o", "subscriptionExpirationDateTime": null})
        );
        let big =
            told(r#"{"resourceData":{"sequenceNumber":637000000000000001,"n":18446744073709551615,"m":-9223372036854775808}}"#);
        assert_eq!(
            big.to_string(),
            r#"{"resourceData":{"m":-9223372036854775808,"n":18446744073709551615,"sequenceNumber":637000000000000001}}"#
        );
        assert_eq!(told(r#"{"resourceData":"NA"}"#), json!({"resourceData": "NA"}));
    }

    #[test]
    fn what_is_secret_or_large_is_no_part_of_what_playbooks_see() {
        let text = raw(
            r#"{"clientState":"old","ClientState":"new","validationTokens":["t"],"EncryptedContent":{"Data":"d","DATAKEY":"k",
            "dataSignature":"s","encryptionCertificateId":"c","encryptionCertificateThumbprint":"p","more":1}}"#,
        );
        let unread = item(&text).expect("an item");
        assert_eq!(unread.client_state().as_deref(), Some("new"));
        let item = unread.read().expect("an item");
        assert!(item.notification.is_empty());
        let content = item.encrypted.expect("content");
        assert_eq!((content.data.as_str(), content.data_key.as_str(), content.data_signature.as_deref()), ("d", "k", Some("s")));
        assert_eq!((content.certificate_id.as_deref(), content.certificate_thumbprint.as_deref()), (Some("c"), Some("p")));
        assert_eq!(read(r#"{"encryptedContent":null}"#).encrypted, None);
        for broken in [r#"{"encryptedContent":{}}"#, r#"{"encryptedContent":"NA"}"#, r#"{"encryptedContent":{"data":1}}"#] {
            let content = read(broken).encrypted.expect("it is still an encrypted one");
            assert_eq!((content.data.as_str(), content.data_signature), ("", None));
        }
        assert_eq!(super::item(&raw(r#"{"clientState":5}"#)).expect("an item").client_state(), None);
    }

    #[test]
    fn an_item_that_cannot_be_read_says_why() {
        let problem = |text: &str| item(&raw(text)).and_then(|item| item.read()).err();
        for text in ["null", "1", "\"x\"", "[]", "[{}]"] {
            assert_eq!(problem(text), Some(Unreadable::NoObject), "{text}");
        }
        let nested = |levels: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        assert_eq!(problem(&nested(DEEPEST)), None);
        for text in [nested(DEEPEST + 1), nested(200_000), r#"{"n":1e999}"#.to_owned()] {
            assert_eq!(problem(&text), Some(Unreadable::Broken));
        }
        let deep = format!(r#"{{"resourceData":{{"x":{}1{}}}}}"#, "[".repeat(DEEPEST + 1), "]".repeat(DEEPEST + 1));
        assert_eq!(problem(&deep), Some(Unreadable::Broken));
    }

    #[test]
    fn the_envelope_is_found_in_any_spelling_and_its_tokens_with_it() {
        let of = |text: &str| delivery(text).map(|delivery| (delivery.items.len(), delivery.tokens));
        let tokens = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(of(r#"{"value":[{},1,{}]}"#), Ok((3, vec![])));
        assert_eq!(of("\u{feff} {\"Value\":[],\"more\":{\"value\":[1]}}"), Ok((0, vec![])));
        assert_eq!(of(r#"{"value":[{}],"validationTokens":["a","b",null,5]}"#), Ok((1, tokens(&["a", "b"]))));
        assert_eq!(of(r#"{"validationTokens":null,"value":[{}],"VALUE":[{},{}]}"#), Ok((2, vec![])));
        for text in ["{}", "[]", "[1]", "5", "null", r#"{"value":null}"#, r#"{"value":{}}"#, r#"{"value":"[]"}"#] {
            assert_eq!(of(text), Err(Malformed::NoItems), "{text}");
        }
        for text in ["<html>", "{", r#"{"value":[{]}"#, r#"{"value":[]} x"#, "validationToken=x", "{'value':[]}"] {
            assert_eq!(of(text), Err(Malformed::NotJson), "{text}");
        }
    }

    #[test]
    fn a_file_may_hold_a_delivery_a_list_or_one_item() {
        let of = |text: &str| items_of_file(text).map(|items| items.len()).map_err(|error| error.line());
        for (text, items) in [
            (r#"{"Value":[{},1]}"#, 2),
            ("\u{feff}[{},{},5]", 3),
            ("[]", 0),
            (r#"{"changeType":"updated"}"#, 1),
            (r#"{"value":null}"#, 1),
            ("5", 1),
        ] {
            assert_eq!(of(text), Ok(items), "{text}");
        }
        assert_eq!(of("{\n\"value\": [{]}"), Err(2));
    }

    #[test]
    fn half_a_character_costs_itself() {
        let body = br#"{"value":[{"resourceData":{"preview":"so nice \ud83d","\ude00":"\ud83d\ude00"}}]}"#;
        let text = text(body);
        let delivery = delivery(&text).expect("a delivery");
        let item = item(delivery.items[0]).and_then(|item| item.read()).expect("an item");
        let data = json!({"preview": "so nice \u{fffd}", "\u{fffd}": "😀"});
        assert_eq!(Value::Object(item.notification), json!({ "resourceData": data }));
        assert_eq!(super::text(b"a\xff\\ud800").as_ref(), "a\u{fffd}\\ufffd");
    }

    fn any_member() -> impl Strategy<Value = (String, Value)> {
        let names = MEMBERS.map(str::to_owned).to_vec();
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
            Just("UPDATED".into()),
            Just("2026-06-02T09:30:00Z".into()),
        ];
        let data = prop::collection::btree_map("@?[a-zA-Z.]{1,6}|Id|@ODATA.ID", leaf.clone(), 0..4)
            .prop_map(|members| Value::Object(members.into_iter().collect()));
        let case = |(name, upper): (String, bool)| if upper { name.to_uppercase() } else { name };
        let name = prop_oneof![(prop::sample::select(names), any::<bool>()).prop_map(case), "[a-z]{1,8}"];
        (name, prop_oneof![3 => leaf, 1 => data])
    }

    proptest! {
        #[test]
        fn what_was_read_is_read_again_as_it_is(members in prop::collection::vec(any_member(), 0..12)) {
            let text: Vec<String> = members.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))).collect();
            let once = told(&format!("{{{}}}", text.join(",")));
            prop_assert_eq!(&told(&once.to_string()), &once);
        }
    }
}
