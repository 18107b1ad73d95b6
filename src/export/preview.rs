//! A sink that sends nothing: drafts and payloads of the real one, every item accepted.

use std::sync::Arc;

use crate::indicator::{Indicator, Observable};
use crate::platform::clock::BoxFuture;
use crate::platform::http::Traffic;
use crate::sinks::{Answer, Destination, Draft, Limits, SendError, Sink, Skip, Stamp, Terms, Withdrawal};

/// For `export --dry-run`.
#[derive(Debug)]
pub(crate) struct Silent {
    real: Arc<dyn Sink>,
    traffic: Traffic,
}

impl Silent {
    pub(crate) fn new(real: Arc<dyn Sink>) -> Self {
        Self { real, traffic: Traffic::default() }
    }
}

impl Sink for Silent {
    fn destination(&self) -> &Destination {
        self.real.destination()
    }

    fn limits(&self) -> Limits {
        self.real.limits()
    }

    fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn draft(&self, indicator: &Indicator, observable: &Observable, terms: &Terms) -> Result<Draft, Skip> {
        self.real.draft(indicator, observable, terms)
    }

    fn payload(&self, draft: &Draft, stamp: Stamp) -> Vec<u8> {
        self.real.payload(draft, stamp)
    }

    fn send<'a>(&'a self, payloads: &'a [Vec<u8>]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        Box::pin(async move { Ok(vec![Answer::Accepted { remote_id: None }; payloads.len()]) })
    }

    fn withdraw<'a>(&'a self, items: &'a [Withdrawal]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        Box::pin(async move { Ok(vec![Answer::Accepted { remote_id: None }; items.len()]) })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), SendError>> {
        Box::pin(async { Ok(()) })
    }
}
