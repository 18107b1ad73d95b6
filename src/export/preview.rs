//! A sink that sends nothing: drafts and payloads of the real one, every item accepted.

use std::sync::Arc;

use crate::indicator::{Indicator, Observable, ObservableKey};
use crate::platform::clock::BoxFuture;
use crate::platform::http::Traffic;
use crate::sinks::{Answer, Destination, Draft, Found, Limits, SendError, Sink, Skip, Stamp, Terms, Upload, Withdrawal};

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

    fn key(&self, observable: &Observable) -> ObservableKey {
        self.real.key(observable)
    }

    fn draft(&self, indicator: &Indicator, observable: &Observable, terms: &Terms) -> Result<Draft, Skip> {
        self.real.draft(indicator, observable, terms)
    }

    fn payload(&self, draft: &Draft, stamp: Stamp) -> Vec<u8> {
        self.real.payload(draft, stamp)
    }

    fn send<'a>(&'a self, items: &'a [Upload]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        Box::pin(async move { Ok(vec![Answer::Accepted { remote_id: None }; items.len()]) })
    }

    fn withdraw<'a>(&'a self, items: &'a [Withdrawal]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        Box::pin(async move { Ok(vec![Answer::Accepted { remote_id: None }; items.len()]) })
    }

    /// Reads only, as a preview may.
    fn survey(&self) -> BoxFuture<'_, Result<Option<Vec<Found>>, SendError>> {
        self.real.survey()
    }

    fn is_empty(&self) -> BoxFuture<'_, Result<bool, SendError>> {
        self.real.is_empty()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), SendError>> {
        Box::pin(async { Ok(()) })
    }
}
