//! What waits for its turn at a resource: a copy for each playbook, which is noted in the row. So what comes back after a deletion
//! waits behind it, and the deletion behind what was before it.

use std::time::Duration;

use super::item::Job;
use super::key::run_key;
use super::order::waits;
use super::plan::{Plan, is_deletion};
use super::turns::{Waits, note};
use super::{DispatchError, Dispatcher, Handled, TURN};
use crate::notifications::item::{Task, Work};
use crate::storage::StoreError;

impl Dispatcher {
    /// It is the turn of none of them. Where somebody is `at_work`, each note costs that one a write: deletions alone are worth it,
    /// and all else comes again as it is.
    pub(super) async fn wait_turn(
        &self,
        job: Job<'_>,
        waiting: &[(&Plan, Duration)],
        at_work: bool,
    ) -> Result<Handled, DispatchError> {
        if at_work && !is_deletion(&job.task.item) {
            self.put(job.queue, Work::Item(Box::new(job.task.clone())), TURN).await?;
            return Ok(Handled { waits: true, ..Handled::default() });
        }
        // The copies first: a note without a copy would pass for one.
        let notes = self.put_off(job, waiting).await?;
        note(self.state.as_ref(), &job.names.resource, &notes, self.clock.now()).await?;
        Ok(Handled { waits: true, ..Handled::default() })
    }

    /// Puts a copy for each of them, so that a target that fails holds up its own playbook alone. What is to be noted of it.
    pub(super) async fn put_off(&self, job: Job<'_>, waiting: &[(&Plan, Duration)]) -> Result<Vec<(String, Waits)>, StoreError> {
        let Job { task, names, .. } = job;
        let mut notes = Vec::new();
        for (plan, wait) in waiting {
            // Who would have wanted it is not known of playbooks that cannot be read: all are asked again, and the others are known.
            let playbook = plan.is_named().then(|| plan.name.clone());
            let copy = Task { playbook, ..task.clone() };
            self.put(job.queue, Work::Item(Box::new(copy)), *wait).await?;
            if plan.is_named() {
                let waits = waits(plan, task, self.after(*wait));
                notes.push((run_key(&names.item, &plan.name), Waits { untried: true, ..waits }));
            }
        }
        Ok(notes)
    }
}
