//! Storage Queues through the official client; bodies that a message cannot hold are blobs to which it points.
//!
//! Source: "Queue service REST API": a message holds 64 KiB, is hidden for at most seven days, and carries a new receipt
//! each time it is received.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use azure_core::http::RequestContent;
use azure_storage_queue::models::{
    QueueClientGetPropertiesResultHeaders as _, QueueClientPeekMessagesOptions, QueueClientReceiveMessagesOptions,
    QueueClientSendMessageOptions, QueueMessage, ReceivedMessage,
};
use azure_storage_queue::{QueueClient, QueueServiceClient, QueueServiceClientOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::blobs::Blobs;
use super::remedy::{Caller, Part, Refusal};
use super::{Access, Account};
use crate::platform::clock::{BoxFuture, Clock};
use crate::storage::{LONGEST_DELAY, Message, Opened, Queue, StoreError, TRIES, is_poison, poison_of};

/// How bodies are written in messages: what `host.json` must say as `messageEncoding`.
pub const MESSAGE_ENCODING: &str = "base64";
/// Bytes of a body in a message: 64 KiB after the encoding. More goes to a blob.
const BODY_BYTES: usize = 48 << 10;
/// Messages of one receipt.
const MESSAGES: usize = 32;
/// Kept until it is deleted; the default would lose it after seven days.
const FOR_GOOD: i32 = -1;
/// The receipt is not the latest, or the message is gone, or the receipt is none.
const ANOTHERS: &[&str] = &["PopReceiptMismatch", "MessageNotFound", "InvalidQueryParameterValue"];
/// A body that begins so is a pointer: nothing else may, so such a body becomes a blob itself.
const POINTER: &[u8] = br#"{"indicator-relay-blob":""#;

/// The queues of one account.
pub(super) struct Queues {
    service: QueueServiceClient,
    clients: Mutex<HashMap<String, Arc<QueueClient>>>,
    blobs: Blobs,
    caller: Caller,
    clock: Arc<dyn Clock>,
    /// On loopback, where nobody deploys anything, queues and the container are made on first use.
    makes: bool,
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues").field("account", &self.caller.account).finish_non_exhaustive()
    }
}

impl Queues {
    pub(super) fn new(
        account: &Account,
        access: &Access,
        http: &reqwest::Client,
        clock: Arc<dyn Clock>,
        container: &str,
    ) -> azure_core::Result<Self> {
        let options =
            QueueServiceClientOptions { client_options: access.client_options(http), version: super::API_VERSION.to_owned() };
        Ok(Self {
            service: QueueServiceClient::new(account.queue.clone(), access.credential(), Some(options))?,
            clients: Mutex::default(),
            blobs: Blobs::new(account, access, http, container)?,
            caller: account.caller(),
            clock,
            makes: account.is_local(),
        })
    }

    fn client(&self, queue: &str) -> Result<Arc<QueueClient>, Refusal> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(queue) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(self.service.queue_client(queue).map_err(|e| Refusal::from(&e))?);
        clients.insert(queue.to_owned(), Arc::clone(&client));
        Ok(client)
    }

    fn failed(&self, operation: &'static str, part: Part<'_>, refusal: &Refusal) -> StoreError {
        let cause = self.caller.explain(part, refusal, self.clock.now());
        StoreError { operation, place: self.caller.account.clone(), cause }
    }

    async fn make(&self, client: &QueueClient) -> Result<(), Refusal> {
        match client.create(None).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let refusal = Refusal::from(&error);
                if refusal.status == Some(409) { Ok(()) } else { Err(refusal) }
            }
        }
    }

    /// Puts a text as it is.
    async fn send(&self, queue: &str, body: &[u8], delay: Duration) -> Result<(), StoreError> {
        let text = STANDARD.encode(body);
        let seconds = seconds(delay.min(LONGEST_DELAY));
        let send = || async {
            let client = self.client(queue)?;
            let message = QueueMessage { message_text: Some(text.clone()) };
            let content = RequestContent::try_from(message).map_err(|e| Refusal::from(&e))?;
            let options = QueueClientSendMessageOptions {
                message_time_to_live: Some(FOR_GOOD),
                visibility_timeout: Some(seconds),
                ..QueueClientSendMessageOptions::default()
            };
            client.send_message(content, Some(options)).await.map(drop).map_err(|e| Refusal::from(&e))
        };
        let mut answer = send().await;
        if self.makes && answer.as_ref().is_err_and(Refusal::missing) {
            let made = self.make(&*self.client(queue).map_err(|r| self.failed("write", Part::Queue(queue), &r))?).await;
            answer = match made {
                Ok(()) => send().await,
                refused => refused,
            };
        }
        answer.map_err(|refusal| self.failed("write", Part::Queue(queue), &refusal))
    }

    /// Puts a body where it fits; the text for the message.
    async fn stow(&self, queue: &str, body: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        if body.len() <= BODY_BYTES && !body.starts_with(POINTER) {
            return Ok(body);
        }
        let name = format!("{queue}/{}", uuid::Uuid::new_v4().simple());
        let body = Bytes::from(body);
        let mut put = self.blobs.put(&name, body.clone()).await;
        if self.makes && put.as_ref().is_err_and(Refusal::missing) {
            put = match self.blobs.make().await {
                Ok(()) => self.blobs.put(&name, body).await,
                refused => refused,
            };
        }
        put.map_err(|refusal| self.failed("write", self.blobs.part(), &refusal))?;
        Ok(pointer(&name))
    }

    async fn load(&self, text: &[u8]) -> Result<Option<Opened>, StoreError> {
        let Some(name) = pointed(text) else { return Ok(Some(Opened { body: text.to_vec(), blob: None })) };
        let body = self.blobs.get(&name).await.map_err(|refusal| self.failed("read", self.blobs.part(), &refusal))?;
        Ok(body.map(|body| Opened { body, blob: Some(name) }))
    }

    async fn unload(&self, blob: Option<&str>) -> Result<(), StoreError> {
        let Some(name) = blob else { return Ok(()) };
        self.blobs.delete(name).await.map_err(|refusal| self.failed("delete", self.blobs.part(), &refusal))
    }

    async fn take(&self, queue: &str, limit: usize, visibility: Duration) -> Result<Vec<Message>, StoreError> {
        let options = QueueClientReceiveMessagesOptions {
            number_of_messages: i32::try_from(limit.min(MESSAGES)).ok(),
            visibility_timeout: Some(seconds(visibility.min(LONGEST_DELAY)).max(1)),
            ..QueueClientReceiveMessagesOptions::default()
        };
        let failed = |refusal: Refusal| self.failed("read", Part::Queue(queue), &refusal);
        let received = match self.client(queue).map_err(failed)?.receive_messages(Some(options)).await {
            Ok(received) => received.into_model().map_err(|e| failed(Refusal::from(&e)))?.items.unwrap_or_default(),
            Err(error) => {
                let refusal = Refusal::from(&error);
                return if self.makes && refusal.missing() { Ok(Vec::new()) } else { Err(failed(refusal)) };
            }
        };
        let mut messages = Vec::with_capacity(received.len());
        for received in received {
            let Some((message, text)) = message(received) else { continue };
            if message.tries > TRIES && !is_poison(queue) {
                self.move_away(queue, &message, &text).await?;
                continue;
            }
            match self.load(&text).await? {
                Some(Opened { body, blob }) => messages.push(Message { body, blob, ..message }),
                // Its blob went after it was handled, and before it was deleted.
                None => drop(self.remove(queue, &message).await?),
            }
        }
        Ok(messages)
    }

    async fn look(&self, queue: &str, limit: usize) -> Result<Vec<Message>, StoreError> {
        let options = QueueClientPeekMessagesOptions {
            number_of_messages: i32::try_from(limit.clamp(1, MESSAGES)).ok(),
            ..QueueClientPeekMessagesOptions::default()
        };
        let failed = |refusal: Refusal| self.failed("read", Part::Queue(queue), &refusal);
        let peeked = match self.client(queue).map_err(failed)?.peek_messages(Some(options)).await {
            Ok(peeked) => peeked.into_model().map_err(|e| failed(Refusal::from(&e)))?.items.unwrap_or_default(),
            Err(error) => {
                let refusal = Refusal::from(&error);
                return if refusal.missing() { Ok(Vec::new()) } else { Err(failed(refusal)) };
            }
        };
        let mut messages = Vec::with_capacity(peeked.len());
        for peeked in peeked {
            let text = peeked.message_text.unwrap_or_default();
            let text = STANDARD.decode(&text).unwrap_or_else(|_| text.into_bytes());
            let Some(Opened { body, blob }) = self.load(&text).await? else { continue };
            let tries = peeked.dequeue_count.and_then(|count| u32::try_from(count).ok()).unwrap_or_default();
            messages.push(Message { id: peeked.message_id.unwrap_or_default(), receipt: String::new(), body, blob, tries });
        }
        Ok(messages)
    }

    /// False if the receipt is not the latest, or the message is gone.
    async fn remove(&self, queue: &str, message: &Message) -> Result<bool, StoreError> {
        let client = self.client(queue).map_err(|refusal| self.failed("delete", Part::Queue(queue), &refusal))?;
        match client.delete_message(&message.id, &message.receipt, None).await {
            Ok(_) => Ok(true),
            Err(error) => {
                let refusal = Refusal::from(&error);
                if refusal.is(ANOTHERS) { Ok(false) } else { Err(self.failed("delete", Part::Queue(queue), &refusal)) }
            }
        }
    }

    /// False if the receipt is not the latest, or the message is gone. Its text stays: none is sent.
    async fn let_go(&self, queue: &str, message: &Message, delay: Duration) -> Result<bool, StoreError> {
        let client = self.client(queue).map_err(|refusal| self.failed("write", Part::Queue(queue), &refusal))?;
        let after = seconds(delay.min(LONGEST_DELAY));
        match client.update_message(&message.id, &message.receipt, after, None).await {
            Ok(_) => Ok(true),
            Err(error) => {
                let refusal = Refusal::from(&error);
                if refusal.is(ANOTHERS) { Ok(false) } else { Err(self.failed("write", Part::Queue(queue), &refusal)) }
            }
        }
    }

    /// First the copy, then the original: in between it is there twice, never not at all. A blob stays where it is.
    async fn move_away(&self, queue: &str, message: &Message, text: &[u8]) -> Result<(), StoreError> {
        self.send(&poison_of(queue), text, Duration::ZERO).await?;
        self.remove(queue, message).await.map(drop)
    }
}

/// A message without its body, and its text.
fn message(received: ReceivedMessage) -> Option<(Message, Vec<u8>)> {
    let text = received.message_text.unwrap_or_default();
    // What another program put there in another encoding is handed on as it is; whoever handles it refuses it.
    let text = STANDARD.decode(&text).unwrap_or_else(|_| text.into_bytes());
    let message = Message {
        id: received.message_id?,
        receipt: received.pop_receipt?,
        body: Vec::new(),
        blob: None,
        tries: u32::try_from(received.dequeue_count?).ok()?,
    };
    Some((message, text))
}

fn pointer(blob: &str) -> Vec<u8> {
    let mut text = POINTER.to_vec();
    text.extend_from_slice(blob.as_bytes());
    text.extend_from_slice(b"\"}");
    text
}

fn pointed(text: &[u8]) -> Option<String> {
    let name = text.strip_prefix(POINTER)?.strip_suffix(b"\"}")?;
    String::from_utf8(name.to_vec()).ok()
}

/// Whole ones, so that nothing is visible too early.
fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).unwrap_or(i32::MAX)
}

impl Queue for Queues {
    fn put<'a>(&'a self, queue: &'a str, body: Vec<u8>, delay: Duration) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let text = self.stow(queue, body).await?;
            self.send(queue, &text, delay).await
        })
    }

    fn receive<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        visibility: Duration,
    ) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        Box::pin(self.take(queue, limit, visibility))
    }

    fn peek<'a>(&'a self, queue: &'a str, limit: usize) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        Box::pin(self.look(queue, limit))
    }

    fn delete<'a>(&'a self, queue: &'a str, message: &'a Message) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let deleted = self.remove(queue, message).await?;
            if deleted {
                self.unload(message.blob.as_deref()).await?;
            }
            Ok(deleted)
        })
    }

    fn release<'a>(&'a self, queue: &'a str, message: &'a Message, delay: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.let_go(queue, message, delay))
    }

    fn open<'a>(&'a self, text: &'a str) -> BoxFuture<'a, Result<Option<Opened>, StoreError>> {
        Box::pin(self.load(text.as_bytes()))
    }

    fn discard<'a>(&'a self, opened: &'a Opened) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.unload(opened.blob.as_deref()))
    }

    fn count<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            let failed = |refusal: Refusal| self.failed("read", Part::Queue(queue), &refusal);
            match self.client(queue).map_err(failed)?.get_properties(None).await {
                Ok(found) => {
                    let count = found.approximate_messages_count().map_err(|e| failed(Refusal::from(&e)))?;
                    Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default())
                }
                Err(error) => {
                    let refusal = Refusal::from(&error);
                    if refusal.missing() { Ok(0) } else { Err(failed(refusal)) }
                }
            }
        })
    }

    fn probe<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let failed = |refusal: Refusal| self.failed("reach", Part::Queue(queue), &refusal);
            let reached = self.client(queue).map_err(failed)?.get_properties(None).await;
            if let Err(refusal) = reached.map_err(|e| Refusal::from(&e))
                && !(self.makes && refusal.missing())
            {
                return Err(failed(refusal));
            }
            match self.blobs.probe().await {
                Err(refusal) if !(self.makes && refusal.missing()) => Err(self.failed("reach", self.blobs.part(), &refusal)),
                _ => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pointer_is_read_as_one() {
        assert_eq!(pointed(&pointer("q/1")).as_deref(), Some("q/1"));
        assert_eq!(pointed(br#"{"job":"default"}"#), None);
        assert_eq!(pointed(br#"{"indicator-relay-blob":"q/1"#), None);
    }

    #[test]
    fn delays_are_whole_seconds_and_never_too_short() {
        assert_eq!([0, 1, 999, 1_000, 1_001].map(|ms| seconds(Duration::from_millis(ms))), [0, 1, 1, 1, 2]);
    }
}
