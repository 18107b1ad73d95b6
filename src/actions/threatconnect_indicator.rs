//! Indicators at ThreatConnect, created or updated by their values.

use super::{Order, Outcome, Performer};
use crate::playbooks::action::Action;
use crate::threatconnect::{Error, IndicatorWrite};

pub(super) const TARGET: &str = "ThreatConnect";

impl Performer {
    pub(super) async fn write_indicators(&self, order: &Order<'_>) -> Outcome {
        let Action::ThreatConnectIndicator {
            owner,
            indicator_type,
            values,
            rating,
            confidence,
            tags,
            attributes,
            security_label,
        } = order.action
        else {
            return Outcome::Refused("this is no indicator".to_owned());
        };
        let Some(client) = &self.tools.threatconnect else { return unset() };
        let Some(_place) = self.place(TARGET).await else { return Outcome::Busy };
        for value in values {
            if !self.has_time(order) {
                return Outcome::Busy;
            }
            let indicator = IndicatorWrite {
                owner,
                kind: indicator_type,
                value,
                rating: *rating,
                confidence: *confidence,
                tags,
                attributes,
                label: security_label.as_deref(),
            };
            if let Err(error) = client.put_indicator(&indicator, self.tools.timeout).await {
                return failed(error);
            }
        }
        Outcome::Done
    }
}

pub(super) fn unset() -> Outcome {
    Outcome::Refused("ThreatConnect is not configured; set THREATCONNECT_URL and its credentials".to_owned())
}

pub(super) fn failed(error: Error) -> Outcome {
    if error.transient {
        Outcome::Later { after: error.retry_after, cause: error.message }
    } else {
        Outcome::Refused(error.message)
    }
}
