//! What waits for its turn at a resource. What comes is put back as it is, and a deletion as a copy for each playbook, which is noted
//! in the row: what comes back after the deletion waits behind it.

use std::time::Duration;

use jiff::SignedDuration;

use super::item::Job;
use super::key::run_key;
use super::order::waits;
use super::plan::{Plan, is_deletion};
use super::turns::{Waits, note};
use super::{DispatchError, Dispatcher, Handled, TURN};
use crate::notifications::item::{Task, Work};
use crate::storage::StoreError;

impl Dispatcher {
    /// It is the turn of none of them.
    pub(super) async fn wait_turn(&self, job: Job<'_>, waiting: &[(&Plan, Duration)]) -> Result<Handled, DispatchError> {
        if is_deletion(&job.task.item) {
            // The copies first: a note without a copy would pass for one.
            let notes = self.put_off(job, waiting).await?;
            note(self.state.as_ref(), &job.names.resource, &notes, self.clock.now()).await?;
        } else {
            let wait = waiting.iter().map(|(_, wait)| *wait).min().unwrap_or(TURN);
            self.put(job.queue, Work::Item(Box::new(job.task.clone())), wait).await?;
        }
        Ok(Handled { waits: true, ..Handled::default() })
    }

    /// Puts a copy for each of them, so that a target that fails holds up its own playbook alone. What is to be noted of it: nothing
    /// but deletions, of which there are few, since all else may come by the thousand while a target fails.
    pub(super) async fn put_off(&self, job: Job<'_>, waiting: &[(&Plan, Duration)]) -> Result<Vec<(String, Waits)>, StoreError> {
        let Job { task, names, .. } = job;
        let now = self.clock.now();
        let mut notes = Vec::new();
        for (plan, wait) in waiting {
            // Who would have wanted it is not known of playbooks that cannot be read: all are asked again, and the others are known.
            let playbook = plan.is_named().then(|| plan.name.clone());
            let noted = playbook.is_some() && is_deletion(&task.item);
            let copy = Task { playbook, ..task.clone() };
            self.put(job.queue, Work::Item(Box::new(copy)), *wait).await?;
            if noted {
                let next = now.saturating_add(SignedDuration::try_from(*wait).unwrap_or_default()).unwrap_or(now);
                notes.push((run_key(&names.item, &plan.name), waits(plan, task, task.attempt, next)));
            }
        }
        Ok(notes)
    }
}
