//! State that survives: rows with versions, and queues. Two traits, each with two real implementations and one
//! conformance suite (`tests/it/storage.rs`).
//!
//! The narrower of the stores, Azure Table Storage, sets the contract: a transaction holds at most 100 rows and
//! 4 MiB of one partition, a scan returns rows in key order, keys are short and hold no `/ \ # ?`.

pub mod overlay;
pub mod sqlite;

use std::fmt;
use std::time::Duration;

use crate::platform::clock::BoxFuture;

/// Rows in one transaction, at most.
pub const TRANSACTION_ROWS: usize = 100;
/// Bytes of keys and values in one transaction, at most.
pub const TRANSACTION_BYTES: usize = 4 << 20;
/// Bytes of one value, at most (an entity of Table Storage is at most 1 MiB).
pub const VALUE_BYTES: usize = 900 << 10;

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
}

/// Why a transaction did not happen. Nothing of it was written, unless `Failed` says that it is unknown.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A [`Write::PutIf`] met another version.
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
    /// How often it was received, this time included.
    pub tries: u32,
}

/// Queues with visibility time-outs. A message that was received five times without being deleted belongs to `{queue}-poison`.
pub trait Queue: fmt::Debug + Send + Sync {
    /// Visible after `delay`; kept until it is deleted.
    fn put<'a>(&'a self, queue: &'a str, body: Vec<u8>, delay: Duration) -> BoxFuture<'a, Result<(), StoreError>>;

    /// At most `limit` visible messages, invisible to others for `visibility`.
    fn receive<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        visibility: Duration,
    ) -> BoxFuture<'a, Result<Vec<Message>, StoreError>>;

    /// Deletes; false if the message was received again by somebody else, or is gone.
    fn delete<'a>(&'a self, queue: &'a str, message: &'a Message) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Moves it to `{queue}-poison`, in one step where the store can.
    fn poison<'a>(&'a self, queue: &'a str, message: &'a Message) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Keys are at most so long (Table Storage: 1 KiB of UTF-16).
const KEY_BYTES: usize = 512;

/// What every store refuses, so that none accepts what another cannot keep: one line that names the limit.
pub(crate) fn check_transaction(writes: &[Write]) -> Result<(), String> {
    if writes.len() > TRANSACTION_ROWS {
        return Err(format!("a transaction of {} rows; at most {TRANSACTION_ROWS}", writes.len()));
    }
    let mut bytes = 0;
    let mut keys = std::collections::HashSet::with_capacity(writes.len());
    for write in writes {
        let (key, value) = match write {
            Write::Put { key, value } | Write::PutIf { key, value, .. } => (key, value.len()),
            Write::Delete { key } => (key, 0),
        };
        if key.is_empty() || key.len() > KEY_BYTES || key.chars().any(|c| matches!(c, '/' | '\\' | '#' | '?') || c.is_control()) {
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
    Ok(())
}
