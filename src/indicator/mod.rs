//! The domain: what a threat indicator is, independent of where it came from and where it goes.
//!
//! No async, no HTTP, no foreign JSON: values that exist are valid.

mod kill_chain;
mod network;
mod never_send;
mod observable;
mod score;
mod tlp;

use jiff::Timestamp;

pub use kill_chain::KillChainPhase;
pub use network::{NetworkUse, Transport};
pub use never_send::NeverSend;
pub use observable::{Group, Kind, Malformed, Observable, ObservableKey};
pub use score::{Confidence, ThreatAssessScore, ThreatRating};
pub use tlp::Tlp;

/// One ThreatConnect indicator as it was read: context, and the values it gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Indicator {
    /// ThreatConnect's id; one per owner's copy, may exceed 2^53.
    pub id: u64,
    pub owner_id: u64,
    pub owner: String,
    /// ThreatConnect's own name of the type (`Address`, `EmailAddress`, `File`, `Mutex`, …).
    pub type_name: String,
    /// What ThreatConnect shows as the value; for messages.
    pub summary: String,
    /// The values of the kinds that we know, as they came. A File gives up to three; an unsupported type none.
    pub values: Vec<(Kind, String)>,
    pub active: bool,
    pub date_added: Timestamp,
    pub last_modified: Timestamp,
    pub rating: Option<ThreatRating>,
    pub confidence: Option<Confidence>,
    pub score: Option<ThreatAssessScore>,
    pub false_positives: Option<u64>,
    /// Newest "Last Seen" attribute that could be read, else the indicator's own `lastSeen`.
    pub last_seen: Option<Timestamp>,
    pub tags: Vec<String>,
    /// Highest of the TLP labels; none if no label is a TLP one.
    pub tlp: Option<Tlp>,
    /// "Phase of Intrusion" attributes, each phase once, in the order of the chain.
    pub phases: Vec<KillChainPhase>,
    /// "Network Protocol Analysis" where it is unambiguous.
    pub network: Option<NetworkUse>,
    pub web_link: Option<String>,
    /// Only if the server sends one; v3 does not.
    pub xid: Option<String>,
}

/// What a sighting's indicator weighs: a winner is chosen, and the cap filled, by this order.
///
/// Fields in order of weight; an absent value is below every present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Weight {
    pub score: Option<ThreatAssessScore>,
    pub rating: Option<ThreatRating>,
    pub confidence: Option<Confidence>,
    /// Unix seconds.
    pub last_modified: i64,
}

impl Indicator {
    /// The part of the rank that comes from the indicator itself.
    #[must_use]
    pub fn weight(&self) -> Weight {
        Weight {
            score: self.score,
            rating: self.rating,
            confidence: self.confidence,
            last_modified: self.last_modified.as_second(),
        }
    }
}

/// The guide's "Action to Take".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActionToTake {
    Alert,
    Block,
}

impl ActionToTake {
    /// The guide's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Alert => "Alert",
            Self::Block => "Block",
        }
    }
}
