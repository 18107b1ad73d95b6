//! Forgets resources of which nothing is needed any more: a few pages of rows at each tick, going round.

use super::turns::{PARTITION, ROWS, Resource};
use super::{DispatchError, Dispatcher};
use crate::storage::{CommitError, Row, StoreError, TRANSACTION_ROWS, Write};

/// Where the last tick stopped.
const PLACE: &str = "swept";
/// Rows that are looked at together.
const PAGE: usize = 500;

/// What one tick did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    pub looked_at: usize,
    pub forgotten: usize,
}

impl Dispatcher {
    /// Looks at no more than `pages` times 500 rows.
    ///
    /// # Errors
    /// When the store gives no answer; the next tick goes on.
    pub async fn sweep(&self, pages: usize) -> Result<Swept, DispatchError> {
        let state = self.state.as_ref();
        let place = state.get(PARTITION, PLACE).await?.and_then(|row| String::from_utf8(row.value).ok());
        let mut from = place.filter(|place| place.starts_with(ROWS.0)).unwrap_or_else(|| ROWS.0.to_owned());
        let mut swept = Swept::default();
        for _ in 0..pages {
            let rows = state.scan(PARTITION, &from, ROWS.1, PAGE).await?;
            swept.looked_at += rows.len();
            let last = rows.last().map(|row| format!("{}!", row.key)).filter(|_| rows.len() == PAGE);
            swept.forgotten += self.forget(rows).await?;
            from = last.clone().unwrap_or_else(|| ROWS.0.to_owned());
            if last.is_none() {
                break;
            }
        }
        self.commit(vec![Write::Put { key: PLACE.to_owned(), value: from.into_bytes() }]).await?;
        Ok(swept)
    }

    async fn forget(&self, rows: Vec<Row>) -> Result<usize, StoreError> {
        let now = self.clock.now();
        // A row that nobody can read helps nobody.
        let over = |row: &Row| serde_json::from_slice::<Resource>(&row.value).map_or(true, |resource| resource.is_over(now));
        let deletes: Vec<Write> =
            rows.into_iter().filter(over).map(|row| Write::DeleteIf { key: row.key, version: row.version }).collect();
        let mut forgotten = 0;
        for chunk in deletes.chunks(TRANSACTION_ROWS) {
            if self.commit(chunk.to_vec()).await? {
                forgotten += chunk.len();
                continue;
            }
            // One of them is needed again.
            for delete in chunk {
                forgotten += usize::from(self.commit(vec![delete.clone()]).await?);
            }
        }
        Ok(forgotten)
    }

    /// False: a row was changed meanwhile.
    async fn commit(&self, writes: Vec<Write>) -> Result<bool, StoreError> {
        match self.state.commit(PARTITION, writes).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict { .. }) => Ok(false),
            Err(CommitError::Failed(error)) => Err(error),
        }
    }
}
