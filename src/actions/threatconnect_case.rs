//! A case at ThreatConnect, created or updated by its external id.

use super::threatconnect_indicator::{TARGET, failed, unset};
use super::{Order, Outcome, Performer};
use crate::playbooks::action::Action;
use crate::threatconnect::CaseWrite;

impl Performer {
    pub(super) async fn write_case(&self, order: &Order<'_>) -> Outcome {
        let Action::ThreatConnectCase { xid, name, status, severity, description, tags, artifacts, notes } = order.action else {
            return Outcome::Refused("this is no case".to_owned());
        };
        let Some(client) = &self.tools.threatconnect else { return unset() };
        let Some(_place) = self.place(TARGET).await else { return Outcome::Busy };
        let case = CaseWrite {
            xid,
            name,
            status,
            severity,
            description: description.as_deref(),
            tags,
            artifacts,
            notes,
            mark: order.key,
            outdated: order.outdated,
        };
        match client.put_case(&case, self.tools.timeout, &|| self.has_time(order)).await {
            Ok(()) => Outcome::Done,
            Err(error) => failed(error),
        }
    }
}
