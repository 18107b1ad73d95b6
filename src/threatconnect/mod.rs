//! ThreatConnect v3: reads indicators. One concrete client; foreign JSON stays in `wire`.

mod filter;
mod signing;
mod wire;

use std::sync::Arc;

use jiff::Timestamp;
use url::Url;

use crate::indicator::Indicator;
use crate::platform::clock::Clock;
use crate::platform::http::Traffic;
use crate::platform::secret::Secret;

pub use filter::Filter;

/// How to reach one ThreatConnect instance.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://{instance}/api`; opaque, `/v3/…` is appended.
    pub url: Url,
    pub credentials: Credentials,
    /// Rows asked for per page, 1 to 10,000.
    pub page_size: u32,
}

/// The two documented schemes.
#[derive(Debug, Clone)]
pub enum Credentials {
    Hmac { access_id: String, secret: Secret },
    Token(Secret),
}

/// An owner that the API user sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub id: u64,
    pub name: String,
    /// `permIndicator` is other than `NONE`.
    pub readable: bool,
}

/// One page of indicators, ids ascending.
#[derive(Debug, Default)]
pub struct Page {
    pub items: Vec<Item>,
    /// Rows that match the query, on the first page of a read only.
    pub count: Option<u64>,
    /// The server's `Date`.
    pub server_time: Option<Timestamp>,
    /// Rows without a readable id.
    pub without_id: u64,
}

/// One row of a page.
#[derive(Debug)]
pub enum Item {
    Indicator(Indicator),
    /// The id could be read, the rest not.
    Unreadable {
        id: u64,
        reason: String,
    },
}

impl Item {
    #[must_use]
    pub fn id(&self) -> u64 {
        match self {
            Self::Indicator(indicator) => indicator.id,
            Self::Unreadable { id, .. } => *id,
        }
    }
}

/// A failed operation at ThreatConnect.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// One line: what failed, what to do. No secret.
    pub message: String,
    /// Trying later may help.
    pub transient: bool,
    /// The service asked for this wait.
    pub retry_after: Option<std::time::Duration>,
}

/// A client of one instance.
#[derive(Debug, Clone)]
pub struct Client {}

impl Client {
    #[must_use]
    pub fn new(_config: Config, _client: reqwest::Client, _clock: Arc<dyn Clock>) -> Self {
        todo!()
    }

    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        todo!()
    }

    /// All owners that the API user sees.
    ///
    /// # Errors
    /// [`Error`] as every call here.
    pub async fn owners(&self) -> Result<Vec<Owner>, Error> {
        todo!()
    }

    /// Reads what `filter` selects and, with `since`, was modified after it, in ascending order of id, beginning after id `after`.
    #[must_use]
    pub fn pages(&self, _filter: &Filter, _since: Option<Timestamp>, _after: u64) -> Pages {
        todo!()
    }

    /// Those of `ids` that the filter still selects (with `since` as in [`Client::pages`]).
    ///
    /// # Errors
    /// [`Error`]; never a part of the answer.
    pub async fn by_ids(&self, _filter: &Filter, _since: Option<Timestamp>, _ids: &[u64]) -> Result<Vec<Item>, Error> {
        todo!()
    }

    /// Every copy of a value that the API user sees, active or not, whatever the filter.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn by_summary(&self, _summary: &str) -> Result<Vec<Item>, Error> {
        todo!()
    }
}

/// A read in progress.
#[derive(Debug)]
pub struct Pages {}

impl Pages {
    /// The next page; an empty one is the end. After an error the read is over.
    ///
    /// # Errors
    /// [`Error`]: no answer, an answer that is no page, ids that do not ascend.
    pub async fn next(&mut self) -> Result<Page, Error> {
        todo!()
    }
}
