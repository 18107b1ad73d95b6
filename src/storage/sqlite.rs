//! Embedded state: rows and queues in one SQLite file.
//!
//! A thread of its own holds the connection; calls go to it over a channel, so that nothing blocks the async runtime.
//! Several processes may share the file: every write takes SQLite's write lock first and checks versions under it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::{
    CommitError, LONGEST_DELAY, Message, Opened, Queue, Row, StateStore, StoreError, TRIES, Version, Write, check_transaction,
    is_poison,
};
use crate::platform::clock::{BoxFuture, Clock};

/// Written into the file; a file of a later layout is refused.
const LAYOUT: i64 = 1;
/// Nothing is lost when the power fails: each commit reaches the disk before it is answered.
const SYNCHRONOUS: &str = "FULL";
/// How long a writer waits for another process.
const BUSY: Duration = Duration::from_secs(30);

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS partitions (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS rows (
    partition INTEGER NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (partition, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY CHECK (id = 0), version INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (0, 0);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, body BLOB NOT NULL,
    visible_at INTEGER NOT NULL, tries INTEGER NOT NULL, receipt INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS messages_visible ON messages (queue, visible_at);
";

type Call = Box<dyn FnOnce(&mut Connection) + Send>;

/// One file with rows and queues.
#[derive(Clone)]
pub struct SqliteStore {
    calls: mpsc::Sender<Call>,
    place: Arc<str>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("place", &self.place).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// One line that names the file: no database, of a newer version, not writable.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let place = path.display().to_string();
        let connection = Connection::open(path).map_err(|e| failed("open", &place, &e))?;
        Self::start(connection, &place, clock)
    }

    /// State that goes with the process, for tests and previews.
    ///
    /// # Errors
    /// When SQLite cannot start.
    pub fn open_in_memory(clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let place = "memory";
        let connection = Connection::open_in_memory().map_err(|e| failed("open", place, &e))?;
        Self::start(connection, place, clock)
    }

    fn start(mut connection: Connection, place: &str, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        prepare(&mut connection).map_err(|e| failed("open", place, &e))?;
        let layout: i64 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(|e| failed("open", place, &e))?;
        if layout > LAYOUT {
            let cause = format!("the file has layout {layout}, this version knows {LAYOUT}; use the newer version");
            return Err(StoreError { operation: "open", place: place.to_owned(), cause });
        }
        connection.pragma_update(None, "user_version", LAYOUT).map_err(|e| failed("open", place, &e))?;
        let (calls, received) = mpsc::channel::<Call>();
        std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || {
                while let Ok(call) = received.recv() {
                    call(&mut connection);
                }
            })
            .map_err(|e| StoreError { operation: "open", place: place.to_owned(), cause: e.to_string() })?;
        Ok(Self { calls, place: place.into(), clock })
    }

    /// Runs `work` on the connection's thread.
    fn call<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Connection) -> Result<T, Fault<E>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, E>> {
        let (answer, answered) = oneshot::channel();
        let place = Arc::clone(&self.place);
        let sent = self.calls.send(Box::new(move |connection| {
            let result = work(connection).map_err(|fault| match fault {
                Fault::Sqlite(error) => E::from(failed(operation, &place, &error)),
                Fault::Own(error) => error,
            });
            drop(answer.send(result)); // a caller that went away needs no answer
        }));
        let place = Arc::clone(&self.place);
        Box::pin(async move {
            let gone = || StoreError { operation, place: place.to_string(), cause: "the store was closed".to_owned() };
            match sent {
                Ok(()) => answered.await.unwrap_or_else(|_| Err(gone().into())),
                Err(_) => Err(gone().into()),
            }
        })
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().as_millisecond()
    }
}

/// What went wrong inside a call: SQLite's error, or one with a meaning of its own.
enum Fault<E> {
    Sqlite(rusqlite::Error),
    Own(E),
}

impl<E> From<rusqlite::Error> for Fault<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", SYNCHRONOUS)?;
    connection.pragma_update(None, "cache_size", -4_096)?;
    connection.execute_batch(SCHEMA)
}

fn failed(operation: &'static str, place: &str, error: &rusqlite::Error) -> StoreError {
    let cause = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => "the file is no SQLite database; name another in STATE_FILE".to_owned(),
        Some(rusqlite::ErrorCode::CannotOpen) => {
            "the file cannot be opened; does its folder exist, and may it be written?".to_owned()
        }
        Some(rusqlite::ErrorCode::ReadOnly) => "the file may not be written".to_owned(),
        Some(rusqlite::ErrorCode::DatabaseBusy) => format!("another process kept it locked for {} s", BUSY.as_secs()),
        Some(rusqlite::ErrorCode::DiskFull) => "the disk is full".to_owned(),
        _ => error.to_string(),
    };
    StoreError { operation, place: place.to_owned(), cause }
}

fn partition_id(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT id FROM partitions WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row { key: row.get(0)?, value: row.get(1)?, version: version(row.get(2)?) })
}

fn version(number: i64) -> Version {
    Version(number.to_string().into())
}

impl StateStore for SqliteStore {
    fn get<'a>(&'a self, partition: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Row>, StoreError>> {
        let many = self.get_many(partition, vec![key.to_owned()]);
        Box::pin(async move { Ok(many.await?.pop().flatten()) })
    }

    fn get_many<'a>(&'a self, partition: &'a str, keys: Vec<String>) -> BoxFuture<'a, Result<Vec<Option<Row>>, StoreError>> {
        let partition = partition.to_owned();
        self.call("read", move |connection| {
            let Some(id) = partition_id(connection, &partition)? else { return Ok(keys.iter().map(|_| None).collect()) };
            let mut select =
                connection.prepare_cached("SELECT key, value, version FROM rows WHERE partition = ?1 AND key = ?2")?;
            let rows: rusqlite::Result<Vec<Option<Row>>> =
                keys.iter().map(|key| select.query_row(params![id, key], row).optional()).collect();
            Ok(rows?)
        })
    }

    fn scan<'a>(
        &'a self,
        partition: &'a str,
        from: &'a str,
        to: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Row>, StoreError>> {
        let (partition, from, to) = (partition.to_owned(), from.to_owned(), to.to_owned());
        self.call("read", move |connection| {
            let Some(id) = partition_id(connection, &partition)? else { return Ok(Vec::new()) };
            let mut select = connection.prepare_cached(
                "SELECT key, value, version FROM rows WHERE partition = ?1 AND key >= ?2 AND key < ?3 ORDER BY key LIMIT ?4",
            )?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows: rusqlite::Result<Vec<Row>> = select.query_map(params![id, from, to, limit], row)?.collect();
            Ok(rows?)
        })
    }

    fn commit<'a>(&'a self, partition: &'a str, writes: Vec<Write>) -> BoxFuture<'a, Result<Vec<Version>, CommitError>> {
        if let Err(cause) = check_transaction(&writes) {
            let error = StoreError { operation: "write", place: self.place.to_string(), cause };
            return Box::pin(async move { Err(error.into()) });
        }
        let partition = partition.to_owned();
        self.call("write", move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let versions = write_rows(&transaction, &partition, &writes)?;
            transaction.commit()?;
            Ok(versions)
        })
    }
}

fn write_rows(transaction: &Transaction<'_>, partition: &str, writes: &[Write]) -> Result<Vec<Version>, Fault<CommitError>> {
    transaction.prepare_cached("INSERT OR IGNORE INTO partitions (name) VALUES (?1)")?.execute([partition])?;
    let id = partition_id(transaction, partition)?.unwrap_or_default();
    // One number per transaction tells its writes from all others, those before a delete included.
    let number: i64 = transaction
        .prepare_cached("UPDATE counter SET version = version + 1 RETURNING version")?
        .query_row([], |row| row.get(0))?;
    let mut select = transaction.prepare_cached("SELECT version FROM rows WHERE partition = ?1 AND key = ?2")?;
    let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO rows VALUES (?1, ?2, ?3, ?4)")?;
    let mut delete = transaction.prepare_cached("DELETE FROM rows WHERE partition = ?1 AND key = ?2")?;
    let mut versions = Vec::new();
    for write in writes {
        match write {
            Write::Put { key, value } => drop(put.execute(params![id, key, value, number])?),
            Write::PutIf { key, value, version: wanted } => {
                let there: Option<i64> = select.query_row(params![id, key], |row| row.get(0)).optional()?;
                if there.map(version) != *wanted {
                    return Err(Fault::Own(CommitError::Conflict { key: key.clone() }));
                }
                put.execute(params![id, key, value, number])?;
                versions.push(version(number));
            }
            Write::Delete { key } => drop(delete.execute(params![id, key])?),
            Write::DeleteIf { key, version: wanted } => {
                let there: Option<i64> = select.query_row(params![id, key], |row| row.get(0)).optional()?;
                if there.map(version).as_ref() != Some(wanted) {
                    return Err(Fault::Own(CommitError::Conflict { key: key.clone() }));
                }
                delete.execute(params![id, key])?;
            }
        }
    }
    Ok(versions)
}

impl Queue for SqliteStore {
    fn put<'a>(&'a self, queue: &'a str, body: Vec<u8>, delay: Duration) -> BoxFuture<'a, Result<(), StoreError>> {
        let (queue, visible_at) = (queue.to_owned(), later(self.now_ms(), delay.min(LONGEST_DELAY)));
        self.call("write", move |connection| {
            connection
                .prepare_cached("INSERT INTO messages (queue, body, visible_at, tries, receipt) VALUES (?1, ?2, ?3, 0, 0)")?
                .execute(params![queue, body, visible_at])?;
            Ok(())
        })
    }

    fn receive<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        visibility: Duration,
    ) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        let (queue, now) = (queue.to_owned(), self.now_ms());
        let until = later(now, visibility);
        self.call("read", move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if !is_poison(&queue) {
                transaction
                    .prepare_cached("UPDATE messages SET queue = ?1 || '-poison', tries = 0, visible_at = ?2 WHERE queue = ?1 AND visible_at <= ?2 AND tries >= ?3")?
                    .execute(params![queue, now, TRIES])?;
            }
            let messages: rusqlite::Result<Vec<Message>> = transaction
                .prepare_cached(
                    "UPDATE messages SET visible_at = ?3, tries = tries + 1, receipt = receipt + 1
                     WHERE id IN (SELECT id FROM messages WHERE queue = ?1 AND visible_at <= ?2 ORDER BY visible_at, id LIMIT ?4)
                     RETURNING id, receipt, body, tries",
                )?
                .query_map(params![queue, now, until, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                    let (id, receipt): (i64, i64) = (row.get(0)?, row.get(1)?);
                    let (body, tries) = (row.get(2)?, row.get(3)?);
                    Ok(Message { id: id.to_string(), receipt: receipt.to_string(), body, blob: None, tries })
                })?
                .collect();
            let messages = messages?;
            transaction.commit()?;
            Ok(messages)
        })
    }

    fn peek<'a>(&'a self, queue: &'a str, limit: usize) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        let (queue, now) = (queue.to_owned(), self.now_ms());
        self.call("read", move |connection| {
            let messages: rusqlite::Result<Vec<Message>> = connection
                .prepare_cached(
                    "SELECT id, body, tries FROM messages WHERE queue = ?1 AND visible_at <= ?2 ORDER BY visible_at, id LIMIT ?3",
                )?
                .query_map(params![queue, now, i64::try_from(limit.min(32)).unwrap_or(32)], |row| {
                    let id: i64 = row.get(0)?;
                    let (body, tries) = (row.get(1)?, row.get(2)?);
                    Ok(Message { id: id.to_string(), receipt: String::new(), body, blob: None, tries })
                })?
                .collect();
            Ok(messages?)
        })
    }

    fn delete<'a>(&'a self, queue: &'a str, message: &'a Message) -> BoxFuture<'a, Result<bool, StoreError>> {
        let (queue, id, receipt) = (queue.to_owned(), number(&message.id), number(&message.receipt));
        self.call("write", move |connection| {
            let deleted = connection
                .prepare_cached("DELETE FROM messages WHERE queue = ?1 AND id = ?2 AND receipt = ?3")?
                .execute(params![queue, id, receipt])?;
            Ok(deleted > 0)
        })
    }

    fn poison<'a>(&'a self, queue: &'a str, message: &'a Message) -> BoxFuture<'a, Result<(), StoreError>> {
        let (queue, id, receipt, now) = (queue.to_owned(), number(&message.id), number(&message.receipt), self.now_ms());
        self.call("write", move |connection| {
            connection
                .prepare_cached(
                    "UPDATE messages SET queue = ?1 || '-poison', tries = 0, visible_at = ?4 WHERE queue = ?1 AND id = ?2 AND receipt = ?3",
                )?
                .execute(params![queue, id, receipt, now])?;
            Ok(())
        })
    }

    fn open<'a>(&'a self, text: &'a str) -> BoxFuture<'a, Result<Option<Opened>, StoreError>> {
        Box::pin(std::future::ready(Ok(Some(Opened { body: text.as_bytes().to_vec(), blob: None }))))
    }

    fn discard<'a>(&'a self, _opened: &'a Opened) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn count<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64, StoreError>> {
        let queue = queue.to_owned();
        self.call("read", move |connection| {
            let count = connection.prepare_cached("SELECT count(*) FROM messages WHERE queue = ?1")?;
            let count: i64 = { count }.query_row([queue], |row| row.get(0))?;
            Ok(u64::try_from(count).unwrap_or_default())
        })
    }

    fn probe<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.count(queue).await.map(drop) })
    }
}

fn later(now_ms: i64, delay: Duration) -> i64 {
    now_ms.saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX))
}

/// Ids and receipts are our own numbers; another text names nothing.
fn number(text: &str) -> i64 {
    text.parse().unwrap_or(-1)
}
