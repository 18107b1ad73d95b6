//! The guide's seven filters, and its custom query, as one TQL expression.

use crate::indicator::{Confidence, Kind, ThreatAssessScore, ThreatRating};

/// What a job wants from ThreatConnect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Empty: all that the API user sees.
    pub owners: Vec<String>,
    /// Empty: all ten.
    pub kinds: Vec<Kind>,
    /// At least one of them.
    pub tags: Vec<String>,
    pub minimum_score: Option<ThreatAssessScore>,
    pub minimum_confidence: Option<Confidence>,
    pub minimum_rating: Option<ThreatRating>,
    /// 0 is meaningful.
    pub false_positive_threshold: Option<u64>,
    /// Replaces all of the above.
    pub tql: Option<String>,
}

impl Filter {
    /// The whole expression, without the clause of the place.
    #[must_use]
    pub fn tql(&self, _since: Option<jiff::Timestamp>) -> String {
        todo!()
    }
}
