//! Embedded state: rows and queues in one SQLite file.
//!
//! A thread of its own holds the connection (`writer`); calls go to it over a channel, so that nothing blocks the async runtime.
//! Several processes may share the file: every write takes SQLite's write lock first and checks versions under it.

mod queue;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{CommitError, Row, StateStore, StoreError, Version, Write, check_transaction};
use crate::platform::clock::{BoxFuture, Clock};
use writer::{Fault, Writer};

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

/// One file with rows and queues.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    writer: Writer,
    clock: Arc<dyn Clock>,
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
        Ok(Self { writer: Writer::start(connection, place)?, clock })
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().as_millisecond()
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
        self.writer.read(move |connection| {
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
        self.writer.read(move |connection| {
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
        let bytes = match check_transaction(&writes) {
            Ok(bytes) => bytes,
            Err(cause) => {
                let error = StoreError { operation: "write", place: self.writer.place().to_owned(), cause };
                return Box::pin(async move { Err(error.into()) });
            }
        };
        let partition = partition.to_owned();
        self.writer.write("write", bytes, move |connection| write_rows(connection, &partition, &writes))
    }
}

fn write_rows(connection: &Connection, partition: &str, writes: &[Write]) -> Result<Vec<Version>, Fault<CommitError>> {
    connection.prepare_cached("INSERT OR IGNORE INTO partitions (name) VALUES (?1)")?.execute([partition])?;
    let id = partition_id(connection, partition)?.unwrap_or_default();
    // One number per transaction tells its writes from all others, those before a delete included.
    let number: i64 = connection
        .prepare_cached("UPDATE counter SET version = version + 1 RETURNING version")?
        .query_row([], |row| row.get(0))?;
    let mut select = connection.prepare_cached("SELECT version FROM rows WHERE partition = ?1 AND key = ?2")?;
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO rows VALUES (?1, ?2, ?3, ?4)")?;
    let mut delete = connection.prepare_cached("DELETE FROM rows WHERE partition = ?1 AND key = ?2")?;
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
