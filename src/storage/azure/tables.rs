//! Rows in Table Storage: a thin client, for no kept one exists.
//!
//! A row is an entity of one table. Its version is the entity's ETag: the time of its last write in units of 100 ns, given by
//! the one server that holds the partition, so that no later write of the row has the same one. Each commit is one entity
//! group transaction, also of a single row. Sources: "Table service REST API", "Query timeout and pagination".

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use percent_encoding::utf8_percent_encode;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use super::Access;
use super::batch::{self, Outcome};
use super::entity::{self, Entity};
use super::remedy::{Caller, Part, Refusal};
use crate::platform::clock::{BoxFuture, Clock};
use crate::platform::http::{Bounds, Dialect, ENCODED, Failure, Http, Reply, Request};
use crate::storage::{CommitError, Row, StateStore, StoreError, Version, Write, check_transaction};

const HEADERS: &[(&str, &str)] =
    &[("x-ms-version", super::API_VERSION), ("dataserviceversion", "3.0;NetFx"), ("maxdataserviceversion", "3.0;NetFx")];
const ROWS: Dialect =
    Dialect { accept: "application/json;odata=minimalmetadata", content_type: "application/json", headers: HEADERS };
const BATCHES: Dialect =
    Dialect { accept: "multipart/mixed, application/json", content_type: batch::CONTENT_TYPE, headers: HEADERS };

/// Entities in one answer, at most.
const PAGE: usize = 1_000;
/// Reads of single rows at once. A filter over many keys would make the service read the whole partition.
const READS: usize = 32;
/// What a transaction may take, its answer included; the service allows 30 s.
const BOUNDS: Bounds = Bounds {
    attempts: 5,
    total: std::time::Duration::from_secs(60),
    attempt: std::time::Duration::from_secs(35),
    body: 64 << 20,
};

/// The rows of one account.
#[derive(Debug)]
pub(super) struct Tables {
    rows: Http,
    batches: Http,
    base: String,
    table: String,
    access: Access,
    caller: Caller,
    clock: Arc<dyn Clock>,
    /// On loopback, where nobody deploys anything, the table is made on first use.
    makes: bool,
}

/// Entities of one answer.
#[derive(Deserialize)]
struct Page {
    value: Vec<Entity>,
}

/// Why a call has no result.
enum Trouble {
    Refused(Refusal),
    /// It may have taken effect.
    Unknown(Refusal),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        if failure.unknown { Self::Unknown((&failure).into()) } else { Self::Refused((&failure).into()) }
    }
}

impl Tables {
    pub(super) fn new(
        account: &super::Account,
        access: Access,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
        table: &str,
    ) -> Self {
        let base = account.table.as_str().trim_end_matches('/').to_owned();
        let authorize = access.authorize(&clock);
        let http = Http::new("Table Storage", client, Arc::clone(&clock), account.table.clone(), authorize).bounded(BOUNDS);
        Self {
            rows: http.clone().speaking(ROWS),
            batches: http.speaking(BATCHES),
            base,
            table: table.to_owned(),
            caller: account.caller(),
            access,
            clock,
            makes: account.is_local(),
        }
    }

    /// Sends to a path, with what the account's signature adds to it.
    async fn send(
        &self,
        http: &Http,
        operation: &'static str,
        request: (Method, String, Option<Bytes>),
    ) -> Result<Reply, Failure> {
        let (method, path, body) = request;
        let idempotent = method == Method::GET;
        http.send(Request { operation, method, path: self.access.signed(path), body, idempotent }).await
    }

    async fn read(&self, path: String) -> Result<Reply, Failure> {
        self.send(&self.rows, "read state", (Method::GET, path, None)).await
    }

    async fn make(&self) -> Result<(), StoreError> {
        let body = serde_json::json!({ "TableName": self.table }).to_string();
        let reply = self.send(&self.rows, "make the table", (Method::POST, "/Tables".to_owned(), Some(body.into()))).await;
        match reply {
            Ok(reply) if matches!(reply.status, 201 | 204 | 409) => Ok(()),
            Ok(reply) => Err(self.failed("make", &(&reply).into())),
            Err(failure) => Err(self.failed("make", &(&failure).into())),
        }
    }

    fn failed(&self, operation: &'static str, refusal: &Refusal) -> StoreError {
        let cause = self.caller.explain(Part::Table(&self.table), refusal, self.clock.now());
        StoreError { operation, place: self.caller.account.clone(), cause }
    }

    async fn row(&self, partition: &str, key: &str) -> Result<Option<Row>, StoreError> {
        let path = entity::address(&self.table, &entity::partition_key(partition), key);
        let reply = self.read(path).await.map_err(|failure| self.failed("read", &(&failure).into()))?;
        if reply.status == 200 {
            return self.parse::<Entity>(&reply.body).map(|entity| Some(entity.0));
        }
        let refusal = Refusal::from(&reply);
        let absent = refusal.is(&["ResourceNotFound", "EntityNotFound"]) || refusal.missing() && self.makes;
        if absent { Ok(None) } else { Err(self.failed("read", &refusal)) }
    }

    fn parse<'a, T: Deserialize<'a>>(&self, body: &'a [u8]) -> Result<T, StoreError> {
        serde_json::from_slice(body).map_err(|e| {
            let cause = format!("an answer of Table Storage cannot be read: {e}");
            StoreError { operation: "read", place: self.caller.account.clone(), cause }
        })
    }

    /// An answer may hold fewer rows than asked for, even none, and say where to go on.
    async fn range(&self, partition: &str, from: &str, to: &str, limit: usize) -> Result<Vec<Row>, StoreError> {
        let filter = format!(
            "PartitionKey eq {} and RowKey ge {} and RowKey lt {}",
            entity::literal(&entity::partition_key(partition)),
            entity::literal(from),
            entity::literal(to)
        );
        let filter = utf8_percent_encode(&filter, ENCODED).to_string();
        let mut rows = Vec::new();
        let mut next = String::new();
        while rows.len() < limit && from < to {
            let top = (limit - rows.len()).min(PAGE);
            let path = format!("/{}()?$filter={filter}&$top={top}{next}", self.table);
            let reply = self.read(path).await.map_err(|failure| self.failed("read", &(&failure).into()))?;
            if reply.status != 200 {
                let refusal = Refusal::from(&reply);
                return if refusal.missing() && self.makes { Ok(rows) } else { Err(self.failed("read", &refusal)) };
            }
            rows.extend(self.parse::<Page>(&reply.body)?.value.into_iter().map(|entity| entity.0));
            match continuation(&reply.headers) {
                Some(found) => next = found,
                None => break,
            }
        }
        rows.truncate(limit);
        Ok(rows)
    }

    /// Deleting an absent row fails a whole transaction. It is sent as if all were there; when one is not, those that are
    /// there are looked up, the absent ones are left out, and the rest is sent again. Nothing of the refused transaction
    /// happened, so it stays one; only a row that another writer makes between look and second try would survive, and
    /// whoever shares a partition guards it with a [`Write::PutIf`], which then refuses.
    async fn transact(&self, partition: &str, writes: &[Write]) -> Result<Vec<Version>, CommitError> {
        let mut wanted: Vec<&Write> = writes.iter().collect();
        // Each turn leaves out a row or makes the table; more turns than rows mean that the service contradicts itself.
        for _ in 0..writes.len() + 2 {
            if wanted.is_empty() {
                return Ok(Vec::new());
            }
            let (index, refusal) = match self.attempt(partition, &wanted).await? {
                Outcome::Done(tags) => return self.versions(&wanted, tags),
                Outcome::Refused { index, status, code, body } => {
                    let detail = crate::platform::http::excerpt(&body).unwrap_or_default();
                    (index, Refusal { status: Some(status), code, detail, date: None })
                }
                Outcome::Unreadable => return Err(self.unknown("the answer cannot be read")),
            };
            let write = index.and_then(|index| wanted.get(index)).copied();
            if refusal.missing() && self.makes {
                self.make().await?;
            } else if refusal.is(&["ResourceNotFound", "EntityNotFound"])
                && !matches!(write, Some(Write::PutIf { .. } | Write::DeleteIf { .. }))
            {
                self.leave_out_absent(partition, &mut wanted).await?;
            } else if matches!(refusal.status, Some(409 | 412)) || refusal.is(&["ResourceNotFound", "EntityNotFound"]) {
                return Err(conflict(write, &wanted));
            } else {
                return Err(self.failed("write", &refusal).into());
            }
        }
        Err(StoreError {
            operation: "write",
            place: self.caller.account.clone(),
            cause: "the service contradicts itself".to_owned(),
        }
        .into())
    }

    async fn attempt(&self, partition: &str, writes: &[&Write]) -> Result<Outcome, CommitError> {
        let body = batch::body(&self.base, &self.table, partition, writes);
        let sent = self.send(&self.batches, "write state", (Method::POST, "/$batch".to_owned(), Some(body.into()))).await;
        let reply = match sent.map_err(Trouble::from) {
            Ok(reply) => reply,
            Err(Trouble::Refused(refusal)) => return Err(self.failed("write", &refusal).into()),
            Err(Trouble::Unknown(refusal)) => return Err(self.unknown(&self.failed("write", &refusal).cause)),
        };
        if reply.status == 202 {
            return Ok(batch::outcome(&reply.body, writes.len()));
        }
        let refusal = Refusal::from(&reply);
        if refusal.missing() && self.makes {
            return Ok(Outcome::Refused { index: None, status: reply.status, code: refusal.code, body: Vec::new() });
        }
        Err(self.failed("write", &refusal).into())
    }

    fn unknown(&self, cause: &str) -> CommitError {
        let cause = format!("{cause}; it is unknown whether it was written");
        StoreError { operation: "write", place: self.caller.account.clone(), cause }.into()
    }

    fn versions(&self, writes: &[&Write], tags: Vec<Option<Version>>) -> Result<Vec<Version>, CommitError> {
        let conditional = writes.iter().zip(tags).filter(|(write, _)| matches!(write, Write::PutIf { .. }));
        let versions: Option<Vec<Version>> = conditional.map(|(_, tag)| tag).collect();
        versions.ok_or_else(|| {
            let cause = "it was written, but the answer holds no version".to_owned();
            StoreError { operation: "write", place: self.caller.account.clone(), cause }.into()
        })
    }

    async fn leave_out_absent(&self, partition: &str, wanted: &mut Vec<&Write>) -> Result<(), StoreError> {
        let deleted = |write: &&Write| match write {
            Write::Delete { key } => Some(key.clone()),
            _ => None,
        };
        let keys: Vec<String> = wanted.iter().filter_map(deleted).collect();
        let found = self.many(partition, keys).await?;
        let mut there = found.iter().map(Option::is_some);
        wanted.retain(|write| deleted(write).is_none() || there.next().unwrap_or(true));
        Ok(())
    }

    async fn many(&self, partition: &str, keys: Vec<String>) -> Result<Vec<Option<Row>>, StoreError> {
        stream::iter(keys).map(|key| async move { self.row(partition, &key).await }).buffered(READS).try_collect().await
    }
}

/// The row that another writer changed; where the service does not say which, the first that has a condition.
fn conflict(write: Option<&Write>, writes: &[&Write]) -> CommitError {
    let conditional = || writes.iter().copied().find(|write| matches!(write, Write::PutIf { .. } | Write::DeleteIf { .. }));
    let key = match write.or_else(conditional) {
        Some(Write::Put { key, .. } | Write::PutIf { key, .. } | Write::Delete { key } | Write::DeleteIf { key, .. }) => {
            key.clone()
        }
        None => String::new(),
    };
    CommitError::Conflict { key }
}

/// The query of the next answer.
fn continuation(headers: &HeaderMap) -> Option<String> {
    let token = |name: &str| {
        let value = headers.get(format!("x-ms-continuation-{name}"))?.to_str().ok().filter(|value| !value.is_empty())?;
        Some(format!("&{name}={}", utf8_percent_encode(value, ENCODED)))
    };
    let partition = token("NextPartitionKey")?;
    Some(partition + &token("NextRowKey").unwrap_or_default())
}

impl StateStore for Tables {
    fn get<'a>(&'a self, partition: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Row>, StoreError>> {
        Box::pin(self.row(partition, key))
    }

    fn get_many<'a>(&'a self, partition: &'a str, keys: Vec<String>) -> BoxFuture<'a, Result<Vec<Option<Row>>, StoreError>> {
        Box::pin(self.many(partition, keys))
    }

    fn scan<'a>(
        &'a self,
        partition: &'a str,
        from: &'a str,
        to: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Row>, StoreError>> {
        Box::pin(self.range(partition, from, to, limit))
    }

    fn commit<'a>(&'a self, partition: &'a str, writes: Vec<Write>) -> BoxFuture<'a, Result<Vec<Version>, CommitError>> {
        Box::pin(async move {
            check_transaction(&writes).map_err(|cause| StoreError {
                operation: "write",
                place: self.caller.account.clone(),
                cause,
            })?;
            self.transact(partition, &writes).await
        })
    }
}
