//! Binding data: what the host knows of a trigger besides its value. It becomes the envelope's `Metadata`.
//!
//! Names are equal in any letter case, and the first spelling stays; so content that reaches binding data can replace what the
//! host put there.

use jiff::Timestamp;

use super::dates::DotNetDate;
use super::json::Json;

/// A value, by its .NET type, as that decides how it looks in the envelope.
#[derive(Debug, Clone)]
pub(crate) enum Bound {
    Null,
    Text(String),
    Number(i64),
    Instant(DotNetDate),
    Bytes(Vec<u8>),
    /// A class, a dictionary or a parsed JSON object.
    Object(Json),
}

impl Bound {
    /// The value rule of the envelope: bytes as base64, objects as they are, all else as a string that holds JSON.
    pub(crate) fn json(&self) -> Json {
        match self {
            Self::Null => Json::text("null"),
            Self::Text(text) => Json::Text(Json::text(text.clone()).compact()),
            Self::Number(number) => Json::Text(number.to_string()),
            Self::Instant(at) => Json::Text(at.iso_seconds()),
            Self::Bytes(bytes) => Json::Text(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)),
            Self::Object(object) => object.clone(),
        }
    }
}

/// What `sys` says, so that a test can know it.
#[derive(Debug, Clone)]
pub(crate) struct System {
    pub now: Timestamp,
    pub guid: String,
}

/// The dictionary.
#[derive(Debug, Clone, Default)]
pub(crate) struct BindingData(Vec<(String, Bound)>);

impl BindingData {
    pub(crate) fn set(&mut self, name: &str, value: Bound) {
        match self.0.iter_mut().find(|(known, _)| equal(known, name)) {
            Some(known) => known.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| equal(known, name))
    }

    /// Adds `sys`, or `$sys` where content took that name already.
    pub(crate) fn add_system(&mut self, function: &str, system: &System) {
        let members = [
            ("MethodName", Json::text(function)),
            ("UtcNow", Json::Text(DotNetDate::utc(system.now).iso())),
            ("RandGuid", Json::text(system.guid.clone())),
        ];
        let object = Json::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
        let name = if self.contains("sys") { "$sys" } else { "sys" };
        self.set(name, Bound::Object(object));
    }

    /// Copies the top-level properties of a text that is one JSON object; anything else leaks nothing.
    pub(crate) fn leak(&mut self, text: &str) {
        if !looks_like_json(text) {
            return;
        }
        let Ok(Json::Object(members)) = Json::parse(text) else { return };
        for (name, value) in members {
            match value {
                Json::Array(_) | Json::Null => {}
                object @ Json::Object(_) => self.set(&name, Bound::Object(object)),
                scalar => self.set(&name, Bound::Text(scalar.display())),
            }
        }
    }

    /// Without nulls, and without names that end in `trigger`.
    pub(crate) fn into_metadata(self) -> Vec<(String, Json)> {
        let shown = |(name, value): &(String, Bound)| !matches!(value, Bound::Null) && !name.to_lowercase().ends_with("trigger");
        self.0.into_iter().filter(shown).map(|(name, value)| (name, value.json())).collect()
    }
}

fn equal(a: &str, b: &str) -> bool {
    a.to_uppercase() == b.to_uppercase()
}

/// Begins and ends with the brackets of an object or array.
pub(crate) fn looks_like_json(text: &str) -> bool {
    let text = text.trim();
    (text.starts_with('{') && text.ends_with('}')) || (text.starts_with('[') && text.ends_with(']'))
}
