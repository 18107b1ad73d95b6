//! Microsoft Sentinel: STIX objects through the upload API.

mod mapping;
mod wire;

use std::sync::Arc;

use url::Url;

use super::{Answer, Destination, Draft, Limits, SendError, Sink, Skip, Stamp, Terms, Withdrawal};
use crate::indicator::{Indicator, Observable};
use crate::platform::clock::{BoxFuture, Clock};
use crate::platform::http::{Authorize, Traffic};

/// Where and how to upload.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://api.ti.sentinel.azure.com`.
    pub url: Url,
    /// Log Analytics workspace GUID.
    pub workspace_id: String,
    /// Constant for ever: changing it orphans everything uploaded before.
    pub source_system: String,
    pub user_agents: bool,
    pub severity_extension: bool,
    /// Upload requests a minute that this sink may use: the documented 100, divided by the destinations that share the identity.
    pub requests_per_minute: u32,
}

/// The upload API of one workspace.
#[derive(Debug)]
pub struct Sentinel {}

impl Sentinel {
    #[must_use]
    pub fn new(_config: Config, _client: reqwest::Client, _clock: Arc<dyn Clock>, _bearer: Arc<dyn Authorize>) -> Self {
        todo!()
    }
}

impl Sink for Sentinel {
    fn destination(&self) -> &Destination {
        todo!()
    }

    fn limits(&self) -> Limits {
        todo!()
    }

    fn traffic(&self) -> &Traffic {
        todo!()
    }

    fn draft(&self, _indicator: &Indicator, _observable: &Observable, _terms: &Terms) -> Result<Draft, Skip> {
        todo!()
    }

    fn payload(&self, _draft: &Draft, _stamp: Stamp) -> Vec<u8> {
        todo!()
    }

    fn send<'a>(&'a self, _payloads: &'a [Vec<u8>]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        todo!()
    }

    fn withdraw<'a>(&'a self, _items: &'a [Withdrawal]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        todo!()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), SendError>> {
        todo!()
    }
}
