//! ThreatConnect's JSON, and how it becomes ours. Lenient: every optional field may be absent, `{}`, or of another type.
//!
//! Each row of a page is decoded alone, so that one that cannot be read spoils no other.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use jiff::Timestamp;
use jiff::civil;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Item, Owner};
use crate::indicator::{Confidence, Indicator, KillChainPhase, Kind, NetworkUse, ThreatAssessScore, ThreatRating, Tlp};

/// A page as it was decoded.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub items: Vec<Item>,
    pub count: Option<u64>,
    pub without_id: u64,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    status: Option<Text<'a>>,
    #[serde(borrow, default)]
    message: Option<Text<'a>>,
    #[serde(borrow, default)]
    data: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    count: Number,
}

/// Decodes a page of indicators.
///
/// # Errors
/// What is wrong with the whole of it: no JSON, cut off, or a status other than `Success`.
pub(crate) fn decode_page(body: &[u8]) -> Result<Decoded, String> {
    let (data, count) = decode_envelope(body)?;
    let mut page = Decoded { items: Vec::with_capacity(data.len()), count, without_id: 0 };
    for row in data {
        match serde_json::from_str::<Row<'_>>(row.get()).map_err(|e| e.to_string()).and_then(Row::into_indicator) {
            Ok(indicator) => page.items.push(Item::Indicator(Box::new(indicator))),
            Err(reason) => match serde_json::from_str::<OnlyId>(row.get()).ok().and_then(|row| row.id.id()) {
                Some(id) => page.items.push(Item::Unreadable { id, reason }),
                None => page.without_id += 1,
            },
        }
    }
    Ok(page)
}

/// Decodes a page of owners.
///
/// # Errors
/// As [`decode_page`]; a row without a name is left out.
pub(crate) fn decode_owners(body: &[u8]) -> Result<(Vec<Owner>, usize), String> {
    let (data, _) = decode_envelope(body)?;
    let rows = data.len();
    let owners = data.into_iter().filter_map(|row| serde_json::from_str::<OwnerRow<'_>>(row.get()).ok());
    let owners = owners.map(|row| Owner {
        id: row.id.id().unwrap_or_default(),
        name: row.name.0.into_owned(),
        readable: row.perm_indicator.is_none_or(|permission| permission.0 != "NONE"),
    });
    Ok((owners.collect(), rows))
}

fn decode_envelope(body: &[u8]) -> Result<(Vec<&RawValue>, Option<u64>), String> {
    let envelope: Envelope<'_> = serde_json::from_slice(body).map_err(|e| {
        let what = if e.is_eof() { "the answer is cut off" } else { "the answer is no page of ThreatConnect" };
        match crate::platform::http::excerpt(body) {
            Some(text) if !e.is_eof() => format!("{what}: {text}"),
            _ => what.to_owned(),
        }
    })?;
    match envelope.status {
        Some(status) if status.0.eq_ignore_ascii_case("success") => {}
        Some(_) => {
            return Err(envelope
                .message
                .map_or_else(|| "an error without a message".to_owned(), |message| message.0.into_owned()));
        }
        None => return Err("the answer is no page of ThreatConnect: it has no `status`".to_owned()),
    }
    let data = envelope.data.ok_or("the answer is no page of ThreatConnect: it has no `data`")?;
    Ok((data, envelope.count.id()))
}

#[derive(Deserialize)]
struct OwnerRow<'a> {
    #[serde(default)]
    id: Number,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow, default, rename = "permIndicator")]
    perm_indicator: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct OnlyId {
    #[serde(default)]
    id: Number,
}

/// An indicator as it comes. Own fields of the types have the type's labels as names.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    id: Number,
    #[serde(default)]
    owner_id: Number,
    #[serde(borrow, default)]
    owner_name: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    type_name: Text<'a>,
    #[serde(borrow, default)]
    summary: Option<Text<'a>>,
    #[serde(borrow)]
    date_added: Text<'a>,
    #[serde(borrow, default)]
    last_modified: Option<Text<'a>>,
    #[serde(default)]
    active: Option<bool>,
    #[serde(default)]
    rating: Number,
    #[serde(default)]
    confidence: Number,
    #[serde(default)]
    threat_assess_score: Number,
    #[serde(default)]
    false_positives: Number,
    #[serde(borrow, default)]
    last_seen: Option<Text<'a>>,
    #[serde(borrow, default)]
    web_link: Option<Text<'a>>,
    #[serde(borrow, default)]
    xid: Option<Text<'a>>,
    #[serde(borrow, default)]
    tags: List<Named<'a>>,
    #[serde(borrow, default)]
    security_labels: List<Named<'a>>,
    #[serde(borrow, default)]
    attributes: List<Attribute<'a>>,
    #[serde(borrow, default)]
    ip: Option<Text<'a>>,
    #[serde(borrow, default)]
    address: Option<Text<'a>>,
    #[serde(borrow, default)]
    md5: Option<Text<'a>>,
    #[serde(borrow, default)]
    sha1: Option<Text<'a>>,
    #[serde(borrow, default)]
    sha256: Option<Text<'a>>,
    #[serde(borrow, default)]
    host_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default, rename = "Block")]
    block: Option<Text<'a>>,
    #[serde(borrow, default, rename = "Subject")]
    subject: Option<Text<'a>>,
    #[serde(borrow, default, rename = "User Agent String")]
    user_agent: Option<Text<'a>>,
    #[serde(borrow, default)]
    value1: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Attribute<'a> {
    #[serde(borrow, default, rename = "type")]
    type_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    value: Option<Text<'a>>,
}

impl<'a> Row<'a> {
    fn into_indicator(self) -> Result<Indicator, String> {
        let id = self.id.id().ok_or("its id is no number")?;
        let date_added = time(&self.date_added.0).ok_or("its `dateAdded` is no date")?;
        let values = self.values();
        let attributes = |name: &'static str| {
            let named = self.attributes.0.iter().filter(move |a| a.type_name.as_ref().is_some_and(|t| t.0.trim() == name));
            named.filter_map(|a| a.value.as_ref().map(|value| value.0.as_ref()))
        };
        let mut phases: Vec<KillChainPhase> =
            attributes("Phase of Intrusion").filter_map(KillChainPhase::from_attribute).collect();
        phases.sort_unstable();
        phases.dedup();
        let protocols: Vec<&str> = attributes("Network Protocol Analysis").collect();
        let last_seen = attributes("Last Seen").filter_map(time).max();
        let labels = self.security_labels.0.iter().filter_map(|label| label.name.as_ref());
        Ok(Indicator {
            id,
            owner_id: self.owner_id.id().unwrap_or_default(),
            owner: owned(self.owner_name.as_ref()).unwrap_or_default(),
            type_name: self.type_name.0.clone().into_owned(),
            summary: owned(self.summary.as_ref()).unwrap_or_default(),
            active: self.active.unwrap_or(true),
            date_added,
            last_modified: self.last_modified.as_ref().and_then(|text| time(&text.0)).unwrap_or(date_added),
            rating: self.rating.0.and_then(ThreatRating::from_f64),
            confidence: self.confidence.id().and_then(Confidence::new),
            score: self.threat_assess_score.id().and_then(ThreatAssessScore::new),
            false_positives: self.false_positives.id(),
            last_seen: last_seen.or_else(|| self.last_seen.as_ref().and_then(|text| time(&text.0))),
            tlp: labels.filter_map(|label| Tlp::from_label(&label.0)).max(),
            network: NetworkUse::read(&protocols),
            phases,
            web_link: owned(self.web_link.as_ref()).filter(|link| !link.is_empty()),
            xid: owned(self.xid.as_ref()).filter(|xid| !xid.is_empty()),
            tags: self.tags.0.into_iter().filter_map(|tag| tag.name).map(|name| name.0.into_owned()).collect(),
            values,
        })
    }

    /// The values of the kinds that we know. With `genericCustomIndicatorValues` a custom type's field is `value1`.
    fn values(&self) -> Vec<(Kind, String)> {
        let one = |kind: Kind, own: &Option<Text<'a>>| {
            let found = [own, &self.value1, &self.summary].into_iter().flatten().find(|text| !text.0.is_empty());
            found.map(|text| (kind, text.0.clone().into_owned())).into_iter().collect()
        };
        match self.type_name.0.as_ref() {
            "Address" => one(Kind::Address, &self.ip),
            "EmailAddress" => one(Kind::EmailAddress, &self.address),
            "Host" => one(Kind::Host, &self.host_name),
            "URL" => one(Kind::Url, &self.text),
            "CIDR" => one(Kind::Cidr, &self.block),
            "Email Subject" => one(Kind::EmailSubject, &self.subject),
            "User Agent" => one(Kind::UserAgent, &self.user_agent),
            "File" => self.hashes(),
            _ => Vec::new(),
        }
    }

    fn hashes(&self) -> Vec<(Kind, String)> {
        let own = [(Kind::Md5, &self.md5), (Kind::Sha1, &self.sha1), (Kind::Sha256, &self.sha256)];
        let mut hashes: Vec<(Kind, String)> = own
            .into_iter()
            .filter_map(|(kind, text)| owned(text.as_ref()).filter(|t| !t.is_empty()).map(|t| (kind, t)))
            .collect();
        if hashes.is_empty() {
            // The summary joins the hashes that there are.
            let summary = self.summary.as_ref().map_or("", |text| text.0.as_ref());
            for hash in summary.split(" : ").map(str::trim) {
                match hash.len() {
                    32 => hashes.push((Kind::Md5, hash.to_owned())),
                    40 => hashes.push((Kind::Sha1, hash.to_owned())),
                    64 => hashes.push((Kind::Sha256, hash.to_owned())),
                    _ => {}
                }
            }
        }
        hashes
    }
}

fn owned(text: Option<&Text<'_>>) -> Option<String> {
    text.map(|text| text.0.clone().into_owned())
}

/// ISO 8601 with or without a zone (then UTC), blanks around it, or a date alone.
pub(crate) fn time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let utc = |at: civil::DateTime| jiff::tz::TimeZone::UTC.to_timestamp(at).ok();
    text.parse::<Timestamp>()
        .ok()
        .or_else(|| text.parse::<civil::DateTime>().ok().and_then(utc))
        .or_else(|| text.parse::<civil::Date>().ok().and_then(|date| utc(date.at(0, 0, 0, 0))))
}

/// Text, or a number written without quotes.
#[derive(Clone)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(number.to_string())))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(number.to_string())))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(number.to_string())))
            }
        }
        from.deserialize_any(TextVisitor)
    }
}

/// A number, as one or as text; nothing where it is anything else.
#[derive(Clone, Copy, Default)]
struct Number(Option<f64>, Option<u64>);

impl Number {
    /// Exact: ids exceed what a float can hold.
    fn id(self) -> Option<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number that is not negative, by the filter"
        )]
        self.1.or_else(|| self.0.filter(|f| *f >= 0.0 && f.fract() == 0.0 && *f < 9e15).map(|f| f as u64))
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NumberVisitor;
        #[expect(clippy::cast_precision_loss, reason = "the float is for decimals; whole numbers are kept beside it")]
        impl<'de> Visitor<'de> for NumberVisitor {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number(Some(number as f64), Some(number)))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(Some(number as f64), None))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Number, E> {
                Ok(Number(Some(number), None))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                Ok(Number(text.trim().parse().ok(), text.trim().parse().ok()))
            }
            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Number, E> {
                Ok(Number::default())
            }
            fn visit_unit<E: de::Error>(self) -> Result<Number, E> {
                Ok(Number::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Number, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Number::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Number, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Number::default())
            }
        }
        from.deserialize_any(NumberVisitor)
    }
}

/// `{"data": […]}`; empty as `{}`, `{"count": 0}`, `null`, `[]` or absent.
struct List<T>(Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = List<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a collection")
            }
            fn visit_unit<E: de::Error>(self) -> Result<List<T>, E> {
                Ok(List::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<List<T>, A::Error> {
                let mut list = List::default();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    if key == "data" {
                        list = map.next_value::<Option<List<T>>>()?.unwrap_or_default();
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(list)
            }
        }
        from.deserialize_any(ListVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &[u8] = include_bytes!("../../tests/fixtures/threatconnect/page-first.json");
    const LAST: &[u8] = include_bytes!("../../tests/fixtures/threatconnect/page-last.json");

    fn indicators(body: &[u8]) -> Vec<Indicator> {
        let page = decode_page(body).expect("a page");
        page.items
            .into_iter()
            .map(|item| match item {
                Item::Indicator(indicator) => *indicator,
                Item::Unreadable { id, reason } => panic!("{id}: {reason}"),
            })
            .collect()
    }

    #[test]
    fn every_stock_type_of_the_documents_is_read() {
        let page = decode_page(FIRST).expect("a page");
        assert_eq!((page.items.len(), page.count, page.without_id), (13, Some(17), 0));
        let all = indicators(FIRST);
        let kinds: Vec<usize> = all.iter().map(|indicator| indicator.values.len()).collect();
        assert_eq!(kinds, [1, 1, 1, 1, 1, 1, 1, 1, 3, 0, 0, 0, 0], "ASN, registry key, mutex and hashtag give nothing");
        let c2 = &all[0];
        assert_eq!(
            (c2.tlp, c2.score.map(ThreatAssessScore::value), c2.rating.map(ThreatRating::hundredths)),
            (Some(Tlp::Amber), Some(712), Some(400))
        );
        assert_eq!(c2.network.map(|n| n.to_string()).as_deref(), Some("443/TCP"));
        assert_eq!(c2.last_seen.map(|t| t.to_string()).as_deref(), Some("2023-11-19T22:41:03Z"));
        assert_eq!(all[2].phases, [KillChainPhase::Delivery, KillChainPhase::Actions]);
        assert_eq!(
            all[2].last_seen.map(|t| t.to_string()).as_deref(),
            Some("2023-11-17T04:00:00Z"),
            "the indicator's own `lastSeen`"
        );
        assert_eq!(all[5].values[0].1, r#"Mozilla/4.0 (compatible; EvilBot "2.0"; \x)"#);
        assert_eq!((all[12].rating, all[12].confidence), (None, None));
    }

    #[test]
    fn the_awkward_shapes_are_read() {
        let all = indicators(LAST);
        assert_eq!((all[0].tlp, all[0].rating.map(ThreatRating::hundredths)), (Some(Tlp::AmberStrict), Some(350)));
        assert_eq!(all[1].values[0].1, "2001:db8:1234:0:0:0:0:0/48");
        assert!(all[1].tags.is_empty() && all[1].confidence.is_none() && all[1].score.is_none());
        assert_eq!((all[2].rating.map(ThreatRating::hundredths), all[2].confidence.map(Confidence::value)), (Some(0), Some(0)));
        assert_eq!((all[2].last_seen, all[2].network), (None, None));
        assert_eq!(all[2].last_modified.to_string(), "2023-11-20T18:00:00Z");
        assert_eq!(all[3].id, 9_007_199_254_918_487);
        assert_eq!(all[3].values.len(), 1);
    }

    #[test]
    fn a_row_that_cannot_be_read_spoils_no_other() {
        let body = br#"{"status":"Success","data":[{"id":1},{"id":"2","type":"Host","dateAdded":"2023-11-10 ","hostName":"a.example"},{"type":"Host"},
            {"id":4,"type":"Host","dateAdded":"soon","hostName":"b.example"},7,{"id":6,"type":"Host","dateAdded":"2023-11-10T00:00:00+02:00","hostName":"c.example","tags":null,"rating":"3.00","attributes":[]}]}"#;
        let page = decode_page(body).expect("a page");
        let ids: Vec<(u64, bool)> = page.items.iter().map(|item| (item.id(), matches!(item, Item::Indicator(_)))).collect();
        assert_eq!(ids, [(1, false), (2, true), (4, false), (6, true)]);
        assert_eq!(page.without_id, 2);
    }

    #[test]
    fn what_is_no_page_says_so() {
        let error = |body: &[u8]| decode_page(body).expect_err("no page");
        assert_eq!(error(b"<html><title>Login</title></html>"), "the answer is no page of ThreatConnect: an HTML page (Login)");
        assert_eq!(error(br#"{"status":"Success","data":[{"id":1"#), "the answer is cut off");
        assert_eq!(error(br#"{"status":"Error","message":"nope"}"#), "nope");
        assert!(error(b"{}").contains("no `status`"));
    }

    #[test]
    fn owners_without_permission_are_known_as_such() {
        let body = include_bytes!("../../tests/fixtures/threatconnect/owners.json");
        let (owners, rows) = decode_owners(body).expect("owners");
        assert_eq!((rows, owners[1].name.as_str(), owners[1].readable), (2, "Acme Source", true));
    }
}
