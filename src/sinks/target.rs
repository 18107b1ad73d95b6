//! Which sinks there are: one variant each, and what has to be known of one before it is built.

use std::fmt::Write as _;
use std::sync::Arc;

use url::Url;

use super::guide::{Column, Fill, GUIDE};
use super::{Destination, Sink, TargetProduct, defender, graph_ti, sentinel};
use crate::platform::clock::Clock;
use crate::platform::http::Authorize;
use crate::platform::pacer::Lanes;

/// Where a job delivers.
#[derive(Debug, Clone)]
pub enum Target {
    Sentinel(sentinel::Config),
    Defender(defender::Config),
    Graph(graph_ti::Config),
}

impl Target {
    /// The guide's "Target Product", and our `DELIVERY`.
    #[must_use]
    pub fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Sentinel(_) => (TargetProduct::Sentinel.name(), "product"),
            Self::Defender(_) => (TargetProduct::Defender.name(), "product"),
            Self::Graph(config) => (config.product.name(), "graph"),
        }
    }

    #[must_use]
    pub fn destination(&self) -> Destination {
        match self {
            Self::Sentinel(config) => config.destination(),
            Self::Defender(config) => config.destination(),
            Self::Graph(config) => config.destination(),
        }
    }

    /// Objects that the product holds at most.
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        match self {
            Self::Sentinel(_) => TargetProduct::Sentinel.capacity(),
            Self::Defender(_) => TargetProduct::Defender.capacity(),
            Self::Graph(config) => config.product.capacity(),
        }
    }

    /// The service whose rate it uses.
    #[must_use]
    pub fn url(&self) -> &Url {
        match self {
            Self::Sentinel(config) => &config.url,
            Self::Defender(config) => &config.url,
            Self::Graph(config) => &config.url,
        }
    }

    /// So many destinations share the service's rate with this one, itself included.
    pub fn share(&mut self, destinations: u32) {
        match self {
            Self::Sentinel(config) => config.sharing = destinations,
            Self::Defender(config) => config.sharing = destinations,
            Self::Graph(config) => config.sharing = destinations,
        }
    }

    /// Keeps this destination's share of the documented rates.
    #[must_use]
    pub fn lanes(&self) -> Lanes {
        match self {
            Self::Sentinel(config) => config.lanes(),
            Self::Defender(config) => config.lanes(),
            Self::Graph(config) => config.lanes(),
        }
    }

    #[must_use]
    pub fn build(
        &self,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
        bearer: Arc<dyn Authorize>,
        lanes: &Lanes,
    ) -> Arc<dyn Sink> {
        match self {
            Self::Sentinel(config) => Arc::new(sentinel::Sentinel::new(config.clone(), client, clock, bearer, lanes)),
            Self::Defender(config) => Arc::new(defender::Defender::new(config.clone(), client, clock, bearer, lanes)),
            Self::Graph(config) => Arc::new(graph_ti::GraphTi::new(config.clone(), client, clock, bearer, lanes)),
        }
    }
}

/// The columns of the sinks that there are.
pub static COLUMNS: [Column; 3] = [graph_ti::COLUMN, sentinel::COLUMN, defender::COLUMN];

/// The mapping tables of the README.
#[must_use]
pub fn render_mapping() -> String {
    let mut page = String::from("| # | ThreatConnect field (guide) |");
    for column in &COLUMNS {
        let _ = write!(page, " {} |", column.product);
    }
    page.push_str("\n|---|---|");
    page.push_str(&"---|".repeat(COLUMNS.len()));
    for (i, field) in GUIDE.iter().enumerate() {
        let _ = write!(page, "\n| {} | {} |", i + 1, field.field.replace('|', "\\|"));
        for column in &COLUMNS {
            let _ = match column.fields[i] {
                Fill::Property { path, note: "" } => write!(page, " `{path}` |"),
                Fill::Property { path, note } => write!(page, " `{path}`: {note} |"),
                Fill::Declined(why) => write!(page, " declined: {why} |"),
            };
        }
    }
    for column in &COLUMNS {
        let _ = write!(page, "\n\nBeyond the guide, for {}:\n\n| Property | Value |\n|---|---|", column.product);
        for (property, value) in column.beyond {
            let _ = write!(page, "\n| {property} | {value} |");
        }
    }
    page.push('\n');
    page
}
