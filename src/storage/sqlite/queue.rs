//! Queues in the file: one table, a message a row.
//!
//! Apart from the rows of state, of which it knows nothing.

use std::time::Duration;

use rusqlite::params;

use super::SqliteStore;
use crate::platform::clock::BoxFuture;
use crate::storage::{LONGEST_DELAY, Message, Opened, Queue, StoreError, TRIES, is_poison};

impl Queue for SqliteStore {
    fn put<'a>(&'a self, queue: &'a str, body: Vec<u8>, delay: Duration) -> BoxFuture<'a, Result<(), StoreError>> {
        let (queue, visible_at) = (queue.to_owned(), later(self.now_ms(), delay.min(LONGEST_DELAY)));
        self.writer.write("write", body.len(), move |connection| {
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
        self.writer.write("read", 0, move |connection| {
            if !is_poison(&queue) {
                connection
                    .prepare_cached("UPDATE messages SET queue = ?1 || '-poison', tries = 0, visible_at = ?2 WHERE queue = ?1 AND visible_at <= ?2 AND tries >= ?3")?
                    .execute(params![queue, now, TRIES])?;
            }
            let messages: rusqlite::Result<Vec<Message>> = connection
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
            Ok(messages?)
        })
    }

    fn peek<'a>(&'a self, queue: &'a str, limit: usize) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        let (queue, now) = (queue.to_owned(), self.now_ms());
        self.writer.read(move |connection| {
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
        self.writer.write("write", 0, move |connection| {
            let deleted = connection
                .prepare_cached("DELETE FROM messages WHERE queue = ?1 AND id = ?2 AND receipt = ?3")?
                .execute(params![queue, id, receipt])?;
            Ok(deleted > 0)
        })
    }

    fn release<'a>(&'a self, queue: &'a str, message: &'a Message, delay: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        let (queue, id, receipt) = (queue.to_owned(), number(&message.id), number(&message.receipt));
        let visible_at = later(self.now_ms(), delay.min(LONGEST_DELAY));
        self.writer.write("write", 0, move |connection| {
            let released = connection
                .prepare_cached(
                    "UPDATE messages SET visible_at = ?4, receipt = receipt + 1 WHERE queue = ?1 AND id = ?2 AND receipt = ?3",
                )?
                .execute(params![queue, id, receipt, visible_at])?;
            Ok(released > 0)
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
        self.writer.read(move |connection| {
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
