//! The messages that are at work in this process, so that each can be given back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;

use crate::storage::{Message, Queue};

/// By queue and id; without their bodies.
#[derive(Debug, Default)]
pub(super) struct InHand(Mutex<BTreeMap<(&'static str, String), Message>>);

impl InHand {
    pub(super) fn take(&self, queue: &'static str, message: &Message) {
        let known = Message {
            id: message.id.clone(),
            receipt: message.receipt.clone(),
            body: Vec::new(),
            blob: message.blob.clone(),
            tries: message.tries,
        };
        self.lock().insert((queue, message.id.clone()), known);
    }

    /// It was handled.
    pub(super) fn done(&self, queue: &'static str, id: &str) {
        self.lock().remove(&(queue, id.to_owned()));
    }

    /// Gives one back. Where that fails, it comes again when its time is over.
    pub(super) async fn release(&self, queue: &dyn Queue, name: &'static str, id: &str, after: Duration) {
        let Some(message) = self.lock().remove(&(name, id.to_owned())) else { return };
        if let Err(error) = queue.release(name, &message, after).await {
            tracing::warn!("{error}; the message comes again after some minutes");
        }
    }

    /// Gives all of them back at once; how many there were.
    pub(super) async fn give_back(&self, queue: &Arc<dyn Queue>) -> usize {
        let all: Vec<(&'static str, String)> = self.lock().keys().cloned().collect();
        join_all(all.iter().map(|(name, id)| self.release(queue.as_ref(), name, id, Duration::ZERO))).await;
        all.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(&'static str, String), Message>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
