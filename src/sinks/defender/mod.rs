//! Microsoft Defender for Endpoint: its Indicators API.

use std::sync::Arc;

use url::Url;

use super::{
    Answer, Destination, Draft, Limits, SendError, SendErrorKind, Sink, Skip, Stamp, Terms, Upload, Withdrawal, fingerprint,
};
use crate::indicator::{Indicator, Observable};
use crate::platform::clock::{BoxFuture, Clock};
use crate::platform::http::{Authorize, Http, Traffic};
use crate::platform::pacer::{Lanes, Pacer};

/// Requests a minute that carry items (vendor page "Import indicators").
const IMPORTS: u32 = 30;
/// All others: 1,500 an hour.
const OTHERS: u32 = 25;

/// Where and how to deliver.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://api.security.microsoft.com`.
    pub url: Url,
    pub tenant: String,
    /// Device groups that the indicators apply to, sorted; all devices if empty.
    pub device_groups: Vec<String>,
    pub file_hashes: FileHashes,
    /// Destinations that share the identity, and so its rate.
    pub sharing: u32,
}

/// Which of a File's hashes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileHashes {
    /// The longest only: places are few, and the longest is the one that Defender heeds.
    Longest,
    All,
}

impl Config {
    /// Keeps this sink's share of the documented rates.
    #[must_use]
    pub fn lanes(&self) -> Lanes {
        Lanes::two(Pacer::part(IMPORTS, self.sharing, 1), Pacer::part(OTHERS, self.sharing, 3))
    }

    /// What it writes to: the tenant.
    #[must_use]
    pub fn destination(&self) -> Destination {
        let tenant = self.tenant.to_ascii_lowercase();
        Destination {
            product: "Microsoft Defender for Endpoint",
            fingerprint: fingerprint("defender", &[&tenant]),
            shown: format!("tenant {tenant}"),
        }
    }
}

/// The Indicators API of one tenant.
#[derive(Debug)]
pub struct Defender {
    destination: Destination,
    http: Http,
}

impl Defender {
    /// `lanes`: shared by all that count against the same limit ([`Config::lanes`] makes them).
    #[must_use]
    pub fn new(
        config: Config,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
        bearer: Arc<dyn Authorize>,
        lanes: &Lanes,
    ) -> Self {
        let http = Http::new("Microsoft Defender", client, clock, config.url.clone(), bearer).paced(Arc::clone(&lanes.sending));
        Self { destination: config.destination(), http }
    }
}

fn later() -> SendError {
    SendError { kind: SendErrorKind::Systemic, message: "not there yet".to_owned(), retry_after: None, correlation: None }
}

impl Sink for Defender {
    fn destination(&self) -> &Destination {
        &self.destination
    }

    fn limits(&self) -> Limits {
        Limits { batch: 500, concurrency: 2, capacity: Some(15_000), per_indicator: 1 }
    }

    fn traffic(&self) -> &Traffic {
        self.http.traffic()
    }

    fn draft(&self, _: &Indicator, _: &Observable, _: &Terms) -> Result<Draft, Skip> {
        Err(Skip::Declined("not there yet"))
    }

    fn payload(&self, draft: &Draft, _: Stamp) -> Vec<u8> {
        draft.content.clone()
    }

    fn send<'a>(&'a self, _: &'a [Upload]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        Box::pin(async { Err(later()) })
    }

    fn withdraw<'a>(&'a self, _: &'a [Withdrawal]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        Box::pin(async { Err(later()) })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), SendError>> {
        Box::pin(async { Err(later()) })
    }
}
