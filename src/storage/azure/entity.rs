//! Rows as entities of Table Storage: names of partitions and keys, values over binary properties. Pure.
//!
//! Source: "Understanding the Table service data model" (a property holds at most 64 KiB, an entity 1 MiB) and "Payload
//! format for Table service operations".

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::utf8_percent_encode;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::platform::http::ENCODED;
use crate::storage::{Row, VALUE_BYTES, Version};

/// Bytes of one binary property.
const PROPERTY: usize = 64 << 10;
/// Properties that a value may need: `v0`, `v1`, …
const PROPERTIES: usize = VALUE_BYTES.div_ceil(PROPERTY);

/// A partition's name with what no key may hold, and what URLs and filters treat apart, as `!` and two hex digits.
pub(super) fn partition_key(name: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'|');
    if name.bytes().all(plain) {
        return Cow::Borrowed(name);
    }
    let mut key = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        if plain(byte) {
            key.push(char::from(byte));
        } else {
            let _ = write!(key, "!{byte:02X}");
        }
    }
    Cow::Owned(key)
}

/// A literal of OData: quotes are doubled.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The address of an entity within its service, percent-encoded.
pub(super) fn address(table: &str, partition: &str, key: &str) -> String {
    let [partition, key] = [partition, key].map(|text| text.replace('\'', "''"));
    let [partition, key] = [&partition, &key].map(|text| utf8_percent_encode(text, ENCODED));
    format!("/{table}(PartitionKey='{partition}',RowKey='{key}')")
}

/// Appends the entity as one line of JSON.
pub(super) fn write(body: &mut String, partition: &str, key: &str, value: &[u8]) {
    let _ = write!(body, r#"{{"PartitionKey":{},"RowKey":{}"#, quoted(partition), quoted(key));
    for (i, part) in value.chunks(PROPERTY).enumerate() {
        let _ = write!(body, r#","v{i}@odata.type":"Edm.Binary","v{i}":""#);
        STANDARD.encode_string(part, body);
        body.push('"');
    }
    body.push('}');
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An entity as it is read.
#[derive(Debug)]
pub(super) struct Entity(pub(super) Row);

impl<'de> Deserialize<'de> for Entity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Properties)
    }
}

struct Properties;

impl<'de> Visitor<'de> for Properties {
    type Value = Entity;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an entity")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entity, A::Error> {
        let (mut key, mut etag, mut timestamp) = (None, None, None);
        let mut parts: [Option<Vec<u8>>; PROPERTIES] = Default::default();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let place = name.strip_prefix('v').and_then(|number| number.parse::<usize>().ok());
            match name.as_ref() {
                "RowKey" => key = Some(map.next_value::<String>()?),
                "odata.etag" => etag = Some(map.next_value::<String>()?),
                "Timestamp" => timestamp = Some(map.next_value::<String>()?),
                _ => match place.and_then(|place| parts.get_mut(place)) {
                    Some(part) => {
                        let text = map.next_value::<Cow<'de, str>>()?;
                        *part =
                            Some(STANDARD.decode(text.as_bytes()).map_err(|_| A::Error::custom("a value that is no base64"))?);
                    }
                    None => drop(map.next_value::<IgnoredAny>()?),
                },
            }
        }
        let key = key.ok_or_else(|| A::Error::missing_field("RowKey"))?;
        // The documents promise the tag with full metadata only; it is the time of the last write.
        let etag = etag.or_else(|| timestamp.map(|time| format!("W/\"datetime'{}'\"", time.replace(':', "%3A"))));
        let etag = etag.ok_or_else(|| A::Error::missing_field("odata.etag"))?;
        let [first, rest @ ..] = parts;
        let mut value = first.unwrap_or_default();
        for part in rest.into_iter().map_while(|part| part) {
            value.extend_from_slice(&part);
        }
        Ok(Entity(Row { key, value, version: Version(etag.into()) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(key: &str, value: &[u8]) -> Row {
        let mut body = String::new();
        write(&mut body, "p", key, value);
        let answer = body.replacen('{', r#"{"odata.etag":"W/\"datetime'1'\"","#, 1);
        serde_json::from_str::<Entity>(&answer).expect("an entity").0
    }

    #[test]
    fn values_of_every_length_come_back() {
        for length in [0, 1, PROPERTY - 1, PROPERTY, PROPERTY + 1, 3 * PROPERTY, VALUE_BYTES] {
            let value: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).expect("small")).collect();
            let row = round_trip("k\"'", &value);
            assert!(row.value == value && row.key == "k\"'", "{length}");
            assert_eq!(&*row.version.0, "W/\"datetime'1'\"");
        }
    }

    #[test]
    fn without_a_tag_it_is_the_time() {
        let entity: Entity =
            serde_json::from_str(r#"{"RowKey":"k","Timestamp":"2026-11-24T09:00:00.1234567Z"}"#).expect("an entity");
        assert_eq!(&*entity.0.version.0, "W/\"datetime'2026-11-24T09%3A00%3A00.1234567Z'\"");
        assert!(serde_json::from_str::<Entity>(r#"{"RowKey":"k"}"#).is_err());
    }

    #[test]
    fn partitions_keep_apart_what_they_escape() {
        assert_eq!(partition_key("sentinel-0a1b"), "sentinel-0a1b");
        assert_eq!(partition_key("a/b'c!é"), "a!2Fb!27c!21!C3!A9");
        assert_eq!(address("t", "p", "it's"), "/t(PartitionKey='p',RowKey='it%27%27s')");
    }
}
