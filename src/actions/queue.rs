//! A message in a queue of the app's own storage. A message may come twice; its key tells.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Outcome, Performer};
use crate::playbooks::action::Body;

/// The member of the message that holds the key.
const KEY: &str = "idempotencyKey";

impl Performer {
    pub(super) async fn enqueue(&self, queue: &str, body: &Body, key: &str) -> Outcome {
        let message = keyed(body, key).to_string().into_bytes();
        match self.tools.queue.put(queue, message, Duration::ZERO).await {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Later { after: None, cause: error.to_string() },
        }
    }
}

/// The key beside the members of an object; anything else is wrapped.
fn keyed(body: &Body, key: &str) -> Value {
    match body {
        Body::Json(Value::Object(members)) => {
            let mut members = members.clone();
            members.insert(KEY.to_owned(), json!(key));
            Value::Object(members)
        }
        Body::Json(value) => json!({ KEY: key, "body": value }),
        Body::Text(text) => json!({ KEY: key, "body": text }),
    }
}
