//! Microsoft Graph: `tiIndicator`, the way of the guide (deprecated by Microsoft), for either product.
//!
//! The service gives ids, and no page says what a second object with the same external id does: what is there is updated
//! by its id, and after a send without an answer it is looked up first.

mod calls;
mod deliver;
mod mapping;
mod plan;
mod trouble;
mod wire;

use std::sync::Arc;

use url::Url;

use super::guide::Column;
use super::{
    Answer, Destination, Draft, Limits, SendError, Sink, Skip, Sole, Stamp, TargetProduct, Terms, There, Upload, Withdrawal,
    fingerprint, seconds,
};
use crate::indicator::{Indicator, Observable};
use crate::platform::clock::{BoxFuture, Clock};
use crate::platform::http::{Authorize, Bounds, Http, Traffic};
use crate::platform::pacer::{Lanes, Pacer};

pub(crate) const COLUMN: Column = mapping::COLUMN;

/// Objects in one request (vendor page "submitTiIndicators"; taken to hold for updates and deletions as well).
const BATCH: usize = 100;
/// Requests under way at once.
const CONCURRENCY: usize = 8;
/// Where updates go one by one, a batch is that many requests, several of them at once.
const SINGLY_UPDATED_BATCH: usize = 50;
const SINGLY_UPDATED_CONCURRENCY: usize = 2;
/// Answers repeat the objects that were sent; longer ones are none.
const LONGEST_ANSWER: usize = 16 << 20;
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
    config: Config,
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
        let http = Http::new("Microsoft Graph", client, clock, config.url.clone(), bearer)
            .paced(Arc::clone(&lanes.sending))
            .bounded(Bounds { body: LONGEST_ANSWER, ..Bounds::default() });
        Self { destination: config.destination(), config, http }
    }
}

impl Sink for GraphTi {
    fn destination(&self) -> &Destination {
        &self.destination
    }

    fn limits(&self) -> Limits {
        let (batch, concurrency) = match self.config.product {
            TargetProduct::Sentinel => (BATCH, CONCURRENCY),
            TargetProduct::Defender => (SINGLY_UPDATED_BATCH, SINGLY_UPDATED_CONCURRENCY),
        };
        Limits { batch, concurrency, capacity: self.config.product.capacity(), per_indicator: 3 }
    }

    fn traffic(&self) -> &Traffic {
        self.http.traffic()
    }

    fn draft(&self, indicator: &Indicator, observable: &Observable, terms: &Terms) -> Result<Draft, Skip> {
        let object = mapping::object(indicator, observable, terms, self.config.product)?;
        let mut content = serde_json::to_vec(&object).expect("an object of strings and numbers cannot fail to serialise");
        let identity = mapping::identity(&content, self.config.product);
        // Without its closing brace: the end of its life follows.
        content.pop();
        Ok(Draft::new((indicator, observable.kind()), terms, content, identity, object.external_id))
    }

    fn payload(&self, draft: &Draft, stamp: Stamp) -> Vec<u8> {
        let end = format!(",\"expirationDateTime\":\"{}\"}}", seconds(stamp.expires));
        [draft.content.as_slice(), end.as_bytes()].concat()
    }

    fn send<'a>(&'a self, items: &'a [Upload]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        Box::pin(self.deliver(items))
    }

    fn withdraw<'a>(&'a self, items: &'a [Withdrawal]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        Box::pin(self.take_back(items))
    }

    fn single_out<'a>(&'a self, items: &'a [(Observable, There)]) -> BoxFuture<'a, Result<Vec<Sole>, SendError>> {
        Box::pin(self.thin_out(items))
    }

    fn is_empty(&self) -> BoxFuture<'_, Result<bool, SendError>> {
        Box::pin(self.read_collection())
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), SendError>> {
        Box::pin(async { self.read_collection().await.map(drop) })
    }
}

#[cfg(test)]
mod tests;
