//! Microsoft Graph: `tiIndicator`, the way of the guide (deprecated by Microsoft).

use std::sync::Arc;

use url::Url;

use super::{
    Answer, Destination, Draft, Limits, SendError, SendErrorKind, Sink, Skip, Stamp, TargetProduct, Terms, Upload, Withdrawal,
    fingerprint,
};
use crate::indicator::{Indicator, Observable};
use crate::platform::clock::{BoxFuture, Clock};
use crate::platform::http::{Authorize, Http, Traffic};
use crate::platform::pacer::{Lanes, Pacer};

/// Requests a minute for one app and tenant (vendor page "Microsoft Graph service-specific throttling limits").
const REQUESTS: u32 = 1_000;
/// Requests that may go together after a rest.
const BURST: u32 = 8;

/// Where and how to deliver.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://graph.microsoft.com`.
    pub url: Url,
    pub tenant: String,
    /// Of the app (or managed identity) that signs in: an app sees only what it created.
    pub client_id: String,
    pub product: TargetProduct,
    /// Destinations that share the identity, and so its rate.
    pub sharing: u32,
}

impl Config {
    /// Keeps this sink's share of the documented rate.
    #[must_use]
    pub fn lanes(&self) -> Lanes {
        Lanes::one(Pacer::part(REQUESTS, self.sharing, BURST))
    }

    /// What it writes to: the app's indicators for one product in one tenant.
    #[must_use]
    pub fn destination(&self) -> Destination {
        let (tenant, client_id) = (self.tenant.to_ascii_lowercase(), self.client_id.to_ascii_lowercase());
        Destination {
            product: self.product.name(),
            fingerprint: fingerprint("graph", &[&tenant, &client_id, self.product.name()]),
            shown: format!("tenant {tenant} through Microsoft Graph"),
        }
    }
}

/// The tiIndicators of one app for one product.
#[derive(Debug)]
pub struct GraphTi {
    destination: Destination,
    http: Http,
}

impl GraphTi {
    /// `lanes`: shared by all that count against the same limit ([`Config::lanes`] makes them).
    #[must_use]
    pub fn new(
        config: Config,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
        bearer: Arc<dyn Authorize>,
        lanes: &Lanes,
    ) -> Self {
        let http = Http::new("Microsoft Graph", client, clock, config.url.clone(), bearer).paced(Arc::clone(&lanes.sending));
        Self { destination: config.destination(), http }
    }
}

fn later() -> SendError {
    SendError { kind: SendErrorKind::Systemic, message: "not there yet".to_owned(), retry_after: None, correlation: None }
}

impl Sink for GraphTi {
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
