//! What the Functions host wraps around a trigger, read leniently: `{"Data": {…}, "Metadata": {…}}`.
//!
//! Only what cannot be forged is read: the value of the trigger in `Data`. Of `Metadata` a few names are read for the log, and
//! doubted even there, because a message's own properties are copied over them.

use serde::Deserialize;
use serde_json::{Map, Value};

/// One request of the host for a timer or queue function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    data: Map<String, Value>,
    metadata: Map<String, Value>,
}

/// The body is no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read the request of the Functions host: {cause}")]
pub struct EnvelopeError {
    cause: String,
}

/// What a timer knows of its schedule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimerInfo {
    /// An occurrence was missed while the app was down; this one stands for it.
    pub is_past_due: bool,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "Data", default)]
    data: Option<Map<String, Value>>,
    #[serde(rename = "Metadata", default)]
    metadata: Option<Map<String, Value>>,
}

impl Envelope {
    /// # Errors
    /// The body is not a JSON object, or one of its two parts is none.
    pub fn parse(body: &[u8]) -> Result<Self, EnvelopeError> {
        let wire: Wire = serde_json::from_slice(body).map_err(|e| EnvelopeError { cause: e.to_string() })?;
        Ok(Self { data: wire.data.unwrap_or_default(), metadata: wire.metadata.unwrap_or_default() })
    }

    /// Of a message that was received without the host.
    pub(crate) fn of_message(binding: &str, text: &str, tries: u32) -> Self {
        let data = Map::from_iter([(binding.to_owned(), Value::from(text))]);
        Self { data, metadata: Map::from_iter([("DequeueCount".to_owned(), tries.into())]) }
    }

    /// The text of a queue message, which the host sends as JSON within JSON, and documents as plain text.
    ///
    /// A text that is itself a JSON string in quotes could be either; no message of ours is one.
    #[must_use]
    pub fn message(&self, binding: &str) -> Option<String> {
        match self.value(binding)? {
            Value::String(text) => Some(unwrapped(text)),
            Value::Null => None,
            other => Some(other.to_string()),
        }
    }

    /// What the host says of a timer; nothing that it says is needed.
    #[must_use]
    pub fn timer(&self, binding: &str) -> TimerInfo {
        let Some(value) = self.value(binding) else { return TimerInfo::default() };
        let parsed = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        let info = parsed.as_ref().unwrap_or(value);
        TimerInfo { is_past_due: info.get("IsPastDue").and_then(Value::as_bool).unwrap_or(false) }
    }

    /// How often the message was handed out, for the log. A message can hold a property of that name, which then stands here.
    #[must_use]
    pub fn dequeue_count(&self) -> Option<u32> {
        match self.metadata.get("DequeueCount")? {
            Value::Number(number) => number.as_u64().and_then(|count| u32::try_from(count).ok()),
            Value::String(text) => unwrapped(text).trim().parse().ok(),
            _ => None,
        }
    }

    /// The binding's value; the only one there is, should the name differ.
    fn value(&self, binding: &str) -> Option<&Value> {
        self.data.get(binding).or_else(|| self.data.values().next().filter(|_| self.data.len() == 1))
    }
}

/// The content of a text that is a JSON string; any other text as it is.
fn unwrapped(text: &str) -> String {
    serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_owned())
}
