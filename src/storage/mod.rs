//! State that survives: rows with versions, and queues. Two traits, each with two real implementations and one
//! conformance suite (`tests/it/storage.rs`).
//!
//! The narrower of the stores, Azure Table Storage, sets the contract: a transaction holds at most 100 rows of one
//! partition and some MiB, a scan returns rows in key order, keys are short, ASCII and hold no `/ \ # ? %`.

pub mod azure;
pub mod document;
pub mod overlay;
pub mod sqlite;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::platform::clock::{BoxFuture, Clock};

/// Rows in one transaction, at most.
pub const TRANSACTION_ROWS: usize = 100;
/// Bytes of keys and values in one transaction, at most: in base64, with what is around each row, they are a request of
/// 4 MiB, the most that Table Storage takes.
pub const TRANSACTION_BYTES: usize = 2_750 << 10;
/// Bytes of one value, at most: an entity of Table Storage is at most 1 MiB, which Azurite counts in base64.
pub const VALUE_BYTES: usize = 700 << 10;
/// Receipts after which a message belongs to the poison queue; the Functions host's `maxDequeueCount`.
pub const TRIES: u32 = 5;
/// A message is hidden for at most so long; longer delays are cut.
pub const LONGEST_DELAY: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Changes with each write of its row; equal versions mean the same write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub Box<str>);

/// A stored row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub key: String,
    pub value: Vec<u8>,
    pub version: Version,
}

/// One change of a transaction. A key appears at most once in a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Creates or replaces.
    Put { key: String, value: Vec<u8> },
    /// Replaces the row with exactly this version; `None`: the row must not exist.
    PutIf { key: String, value: Vec<u8>, version: Option<Version> },
    /// Deletes; an absent row is fine.
    Delete { key: String },
    /// Deletes the row with exactly this version.
    DeleteIf { key: String, version: Version },
}

/// Why a transaction did not happen. Nothing of it was written, unless `Failed` says that it is unknown.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A [`Write::PutIf`] or [`Write::DeleteIf`] met another version.
    #[error("row `{key}` was changed by somebody else")]
    Conflict { key: String },
    #[error(transparent)]
    Failed(#[from] StoreError),
}

/// The store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("failed to {operation} state in {place}: {cause}")]
pub struct StoreError {
    pub operation: &'static str,
    /// File or account, for the user.
    pub place: String,
    pub cause: String,
}

/// Partitions of rows in key order (byte order), with transactions.
pub trait StateStore: fmt::Debug + Send + Sync {
    fn get<'a>(&'a self, partition: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Row>, StoreError>>;

    /// The rows of `keys`, in their order.
    fn get_many<'a>(&'a self, partition: &'a str, keys: Vec<String>) -> BoxFuture<'a, Result<Vec<Option<Row>>, StoreError>>;

    /// Rows with `from <= key < to`, ascending, at most `limit`.
    fn scan<'a>(
        &'a self,
        partition: &'a str,
        from: &'a str,
        to: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Row>, StoreError>>;

    /// All or nothing. Returns the new versions of the [`Write::PutIf`] rows, in their order.
    fn commit<'a>(&'a self, partition: &'a str, writes: Vec<Write>) -> BoxFuture<'a, Result<Vec<Version>, CommitError>>;
}

/// A message that was received and not yet deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: String,
    /// Proves that this receipt is the latest; needed to delete.
    pub receipt: String,
    pub body: Vec<u8>,
    /// Where the body is kept, if no message can hold it; goes with the message.
    pub blob: Option<String>,
    /// How often it was received, this time included.
    pub tries: u32,
}

/// What the text of a message stands for, for who is handed only the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub body: Vec<u8>,
    /// Where the body is kept, if no message can hold it.
    pub blob: Option<String>,
}

/// Queues with visibility time-outs. A message that was received five times without being deleted belongs to `{queue}-poison`.
pub trait Queue: fmt::Debug + Send + Sync {
    /// Visible after `delay`, at most [`LONGEST_DELAY`]; kept until it is deleted.
    fn put<'a>(&'a self, queue: &'a str, body: Vec<u8>, delay: Duration) -> BoxFuture<'a, Result<(), StoreError>>;

    /// At most `limit` visible messages, invisible to others for `visibility`.
    fn receive<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        visibility: Duration,
    ) -> BoxFuture<'a, Result<Vec<Message>, StoreError>>;

    /// At most `limit` visible messages (and 32), untouched; a queue that does not exist has none. Their receipts are blank.
    fn peek<'a>(&'a self, queue: &'a str, limit: usize) -> BoxFuture<'a, Result<Vec<Message>, StoreError>>;

    /// Deletes; false if the message was received again by somebody else, or is gone.
    fn delete<'a>(&'a self, queue: &'a str, message: &'a Message) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Gives a message back before its time: visible after `delay`, at most [`LONGEST_DELAY`]. It counts as tried, and this receipt
    /// deletes it no more. False if the message was received again by somebody else, or is gone.
    fn release<'a>(&'a self, queue: &'a str, message: &'a Message, delay: Duration) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// What the text of a message stands for, where somebody else received it (the Functions host) and will delete it.
    /// None: it was handled already, and its body is gone.
    fn open<'a>(&'a self, text: &'a str) -> BoxFuture<'a, Result<Option<Opened>, StoreError>>;

    /// Drops what is kept beside a message that was [`Queue::open`]ed, once it is handled.
    fn discard<'a>(&'a self, opened: &'a Opened) -> BoxFuture<'a, Result<(), StoreError>>;

    /// About how many messages there are, hidden ones included; a queue that does not exist has none.
    fn count<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64, StoreError>>;

    /// Reaches the queue, and where large bodies are kept, with the least call.
    fn probe<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// The queue of messages that could not be handled, as the Functions host names it.
#[must_use]
pub fn poison_of(queue: &str) -> String {
    format!("{queue}-poison")
}

/// Nothing moves on from there: the messages of such a queue wait for a person, however often one looks at them.
pub(crate) fn is_poison(queue: &str) -> bool {
    queue.ends_with("-poison")
}

/// Where state and queues are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A SQLite file.
    Embedded(PathBuf),
    Azure(Box<azure::Account>),
}

/// The rows and queues of one place.
#[derive(Debug, Clone)]
pub struct Stores {
    pub state: Arc<dyn StateStore>,
    pub queue: Arc<dyn Queue>,
}

/// Opens a place; an account is not asked yet.
///
/// # Errors
/// One line: the file and what is wrong with it, or the setting of the account that cannot be used.
pub fn open(place: &Place, http: &reqwest::Client, clock: &Arc<dyn Clock>) -> Result<Stores, String> {
    match place {
        Place::Embedded(path) => {
            let store = sqlite::SqliteStore::open(path, Arc::clone(clock)).map_err(|e| e.to_string())?;
            Ok(Stores { state: Arc::new(store.clone()), queue: Arc::new(store) })
        }
        Place::Azure(account) => azure::open(account, &azure::Names::default(), http, clock),
    }
}

/// Keys are at most so long (Table Storage: 1 KiB of UTF-16).
const KEY_BYTES: usize = 512;

/// How many bytes it is. What every store refuses, so that none accepts what another cannot keep: one line that names the limit.
pub(crate) fn check_transaction(writes: &[Write]) -> Result<usize, String> {
    if writes.len() > TRANSACTION_ROWS {
        return Err(format!("a transaction of {} rows; at most {TRANSACTION_ROWS}", writes.len()));
    }
    let mut bytes = 0;
    let mut keys = std::collections::HashSet::with_capacity(writes.len());
    for write in writes {
        let (key, value) = match write {
            Write::Put { key, value } | Write::PutIf { key, value, .. } => (key, value.len()),
            Write::Delete { key } | Write::DeleteIf { key, .. } => (key, 0),
        };
        let refused = |byte: u8| !(b' '..=b'~').contains(&byte) || matches!(byte, b'/' | b'\\' | b'#' | b'?' | b'%');
        if key.is_empty() || key.len() > KEY_BYTES || key.bytes().any(refused) {
            return Err("a row key is empty, too long or holds a character that no key may hold".to_owned());
        }
        if value > VALUE_BYTES {
            return Err(format!("a value of {value} bytes; at most {VALUE_BYTES}"));
        }
        if !keys.insert(key.as_str()) {
            return Err(format!("row `{key}` appears twice in one transaction"));
        }
        bytes += key.len() + value;
    }
    if bytes > TRANSACTION_BYTES {
        return Err(format!("a transaction of {bytes} bytes; at most {TRANSACTION_BYTES}"));
    }
    Ok(bytes)
}
