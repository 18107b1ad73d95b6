//! A store over another: what is written stays in it, what was not is read from below. For previews, which change nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CommitError, Row, StateStore, StoreError, Version, Write};
use crate::platform::clock::BoxFuture;

/// Before a value that is there; a deleted row is the other byte alone.
const THERE: u8 = 1;
const DELETED: u8 = 0;

/// Writes go to `top`, reads fall through to `base`.
#[derive(Debug)]
pub struct Overlay {
    base: Arc<dyn StateStore>,
    top: Arc<dyn StateStore>,
}

impl Overlay {
    #[must_use]
    pub fn new(base: Arc<dyn StateStore>, top: Arc<dyn StateStore>) -> Self {
        Self { base, top }
    }

    async fn read(&self, partition: &str, keys: Vec<String>) -> Result<Vec<Option<Row>>, StoreError> {
        let mut rows = self.top.get_many(partition, keys.clone()).await?;
        let below: Vec<usize> = (0..rows.len()).filter(|i| rows[*i].is_none()).collect();
        let missing = below.iter().map(|i| keys[*i].clone()).collect();
        let found = self.base.get_many(partition, missing).await?;
        for row in &mut rows {
            *row = row.take().and_then(shown);
        }
        for (i, row) in below.into_iter().zip(found) {
            rows[i] = row;
        }
        Ok(rows)
    }

    async fn merge(&self, partition: &str, from: &str, to: &str, limit: usize) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        let mut from = from.to_owned();
        loop {
            let below = self.base.scan(partition, &from, to, limit).await?;
            let above = self.top.scan(partition, &from, to, limit).await?;
            // Beyond the end of a full chunk there may be rows of that store that were not read yet.
            let end = |chunk: &[Row]| (chunk.len() == limit).then(|| chunk.last().map(|row| row.key.clone())).flatten();
            let bound = [end(&below), end(&above)].into_iter().flatten().min();
            let mut merged: BTreeMap<String, Option<Row>> = below.into_iter().map(|row| (row.key.clone(), Some(row))).collect();
            merged.extend(above.into_iter().map(|row| (row.key.clone(), shown(row))));
            let within = merged.into_iter().filter(|(key, _)| bound.as_ref().is_none_or(|bound| key <= bound));
            rows.extend(within.filter_map(|(_, row)| row));
            rows.truncate(limit);
            match bound {
                Some(bound) if rows.len() < limit => from = format!("{bound}!"),
                _ => return Ok(rows),
            }
        }
    }
}

fn shown(mut row: Row) -> Option<Row> {
    let there = row.value.first() == Some(&THERE);
    there.then(|| {
        row.value.remove(0);
        row
    })
}

fn hidden(value: &[u8]) -> Vec<u8> {
    let mut marked = Vec::with_capacity(value.len() + 1);
    marked.push(THERE);
    marked.extend_from_slice(value);
    marked
}

impl StateStore for Overlay {
    fn get<'a>(&'a self, partition: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Row>, StoreError>> {
        Box::pin(async move { Ok(self.read(partition, vec![key.to_owned()]).await?.pop().flatten()) })
    }

    fn get_many<'a>(&'a self, partition: &'a str, keys: Vec<String>) -> BoxFuture<'a, Result<Vec<Option<Row>>, StoreError>> {
        Box::pin(self.read(partition, keys))
    }

    fn scan<'a>(
        &'a self,
        partition: &'a str,
        from: &'a str,
        to: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Row>, StoreError>> {
        Box::pin(self.merge(partition, from, to, limit))
    }

    fn commit<'a>(&'a self, partition: &'a str, writes: Vec<Write>) -> BoxFuture<'a, Result<Vec<Version>, CommitError>> {
        Box::pin(async move {
            let mut laid = Vec::with_capacity(writes.len());
            for write in writes {
                laid.push(match write {
                    Write::Put { key, value } => Write::Put { key, value: hidden(&value) },
                    Write::Delete { key } => Write::Put { key, value: vec![DELETED] },
                    Write::DeleteIf { key, version } => {
                        let above = self.top.get(partition, &key).await?;
                        if self.get(partition, &key).await?.is_none_or(|row| row.version != version) {
                            return Err(CommitError::Conflict { key });
                        }
                        Write::PutIf { key, value: vec![DELETED], version: above.map(|row| row.version) }
                    }
                    Write::PutIf { key, value, version } => {
                        let above = self.top.get(partition, &key).await?;
                        let there = self.get(partition, &key).await?.map(|row| row.version);
                        if there != version {
                            return Err(CommitError::Conflict { key });
                        }
                        Write::PutIf { key, value: hidden(&value), version: above.map(|row| row.version) }
                    }
                });
            }
            self.top.commit(partition, laid).await
        })
    }
}
