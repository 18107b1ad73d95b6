//! A read in progress: pages by key, or by windows of ids where the server does not sort.
//!
//! Offsets would skip or repeat rows whenever the data moves, so no page is asked for by offset: each asks for ids above
//! the last one seen. A short page is neither an end nor an error; an empty page is the end.

use super::{Client, Error, Item, Page, Query};

/// Ids are signed 64-bit numbers at the server.
pub(crate) const HIGHEST_ID: u64 = i64::MAX.unsigned_abs();
/// A window that came back with less is widened.
const SPARSE: usize = 4;

/// A read in progress.
#[derive(Debug)]
pub struct Pages {
    client: Client,
    tql: String,
    /// Every id up to here was returned or does not match.
    after: u64,
    first: bool,
    way: Way,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    /// `id > after`, sorted by the server.
    Key,
    /// `id > after and id <= after + width`, sorted here.
    Windows {
        width: u64,
    },
    Over,
}

impl Pages {
    pub(super) fn new(client: Client, tql: String, after: u64) -> Self {
        Self { client, tql, after, first: true, way: Way::Key }
    }

    /// The next page; an empty one is the end. After an error the read is over.
    ///
    /// # Errors
    /// [`Error`]: no answer, an answer that is no page, rows that the query excludes.
    pub async fn next(&mut self) -> Result<Page, Error> {
        let page = match self.way {
            Way::Key => self.next_by_key().await,
            Way::Windows { width } => self.next_window(width).await,
            Way::Over => Ok(Page::default()),
        };
        if page.as_ref().map_or(true, |page| page.items.is_empty()) {
            self.way = Way::Over;
        }
        page
    }

    async fn ask(&mut self, up_to: Option<u64>, limit: u32) -> Result<Page, Error> {
        let bound = up_to.map(|id| format!(" and id <= {id}")).unwrap_or_default();
        let tql = format!("{} and id > {}{bound}", self.tql, self.after);
        let query = Query { tql: &tql, limit, start: 0, count: self.first, indicators: true };
        let page = self.client.page("read indicators", &query).await?;
        self.first = false;
        if page.items.is_empty() && page.without_id > 0 {
            return Err(Error::for_good(format!(
                "failed to read indicators from ThreatConnect: {} rows without a readable id, and none with one; the read cannot go on",
                page.without_id
            )));
        }
        let excluded = |item: &Item| item.id() <= self.after || up_to.is_some_and(|end| item.id() > end);
        if let Some(item) = page.items.iter().find(|item| excluded(item)) {
            return Err(Error::for_good(format!(
                "failed to read indicators from ThreatConnect: it returned id {}, which the query excludes (`{tql}`); the read would never end",
                item.id()
            )));
        }
        Ok(page)
    }

    async fn next_by_key(&mut self) -> Result<Page, Error> {
        let page = self.ask(None, self.client.page_size).await?;
        if page.items.is_sorted_by(|a, b| a.id() < b.id()) {
            self.after = page.items.last().map_or(self.after, Item::id);
            return Ok(page);
        }
        tracing::warn!("ThreatConnect does not sort by id; reading by windows of ids instead");
        self.next_window(u64::from(self.client.page_size)).await.map(|first| Page { count: page.count.or(first.count), ..first })
    }

    /// The next window that holds anything; its width follows how densely ids lie.
    async fn next_window(&mut self, mut width: u64) -> Result<Page, Error> {
        let limit = self.client.page_size;
        loop {
            let end = self.after.saturating_add(width).min(HIGHEST_ID);
            let mut page = self.ask(Some(end), limit).await?;
            if page.items.len() >= limit as usize && width > 1 {
                width = (width / 2).max(1);
                continue;
            }
            if page.items.is_empty() {
                if end == HIGHEST_ID || self.ask(None, 1).await?.items.is_empty() {
                    return Ok(page);
                }
                self.after = end;
                width = width.saturating_mul(8);
                continue;
            }
            if page.items.len() * SPARSE < limit as usize {
                width = width.saturating_mul(2);
            }
            page.items.sort_by_key(Item::id);
            if !page.items.is_sorted_by(|a, b| a.id() < b.id()) {
                return Err(Error::for_good("failed to read indicators from ThreatConnect: one page holds an id twice"));
            }
            self.after = end;
            self.way = Way::Windows { width };
            return Ok(page);
        }
    }
}
