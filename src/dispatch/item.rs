//! One item on its way through the playbooks that want it, while it is its turn at the resource.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::fetch::Trouble;
use super::key::{Names, action_key, run_key};
use super::order::{Place, Written, by_turn, cover, creates, open_runs, waits, writes};
use super::plan::{Context, Decision, Fetch, Plan, Reading, change_of, found_gone, is_deletion, reads_by_itself};
use super::turns::{Run, Turn, TurnError, look};
use super::{Dead, DispatchError, Dispatcher, Handled, TURN, Told, backoff, dead, path};
use crate::actions::{Order, Outcome};
use crate::notifications::item::{ChangeType, Item, Task, Work};
use crate::notifications::resources::{Fetch as Kind, Resource};
use crate::notifications::wanted::Wanted;
use crate::playbooks::action::Action;
use crate::playbooks::{NotFound, OnFailure};

/// Between looks for an object that is not there (yet): the service tells of things before it shows them.
const LOOKS: [Duration; 4] = [Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(15), Duration::from_secs(60)];
/// Who asks for a longer wait is asked again all the same.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3_600);
/// A target that has no place free is asked again after this.
const FULL: Duration = Duration::from_secs(5);

/// Among the keys of what is done: this one was refused, and why. A replay tries it again.
const REFUSED: &str = "!";

/// How a run at one playbook ended.
pub(super) enum Ended {
    /// With the time at which its read began, if it read.
    Done {
        read: Option<Timestamp>,
        skipped: bool,
    },
    Again {
        wait: Option<Duration>,
        costs: Costs,
        cause: String,
        done: Vec<String>,
    },
    Dead {
        reason: String,
        done: Vec<String>,
    },
    /// What changed below a root was read, and each object has its own message.
    Found {
        read: Timestamp,
        objects: usize,
        playbooks: Vec<String>,
    },
}

/// What it costs to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Costs {
    Attempt,
    /// The object is not there yet: what comes after it has all its attempts.
    Look,
    Nothing,
}

/// One message at work.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    /// Where it came from, and where its copies go.
    pub queue: &'a str,
    pub task: &'a Task,
    pub names: &'a Names,
    /// All that there are.
    pub plans: &'a [Plan],
    /// What the item's subscription was made for, where no playbook wants just that any more.
    pub made_for: Option<&'a Wanted>,
}

impl<'a> Job<'a> {
    /// Below what the subscription is made on that told of it: the playbook may have wanted something else then. Where the one tells
    /// of objects and the other of changes below a root, the read that the playbook asks for fits its own resource alone.
    pub(super) fn root(&self, reading: &'a Reading) -> &'a str {
        let tells_of_changes = |resource: &str| Resource::of(resource).is_some_and(|kind| kind.fetch == Kind::Delta);
        let own = reading.resource.as_str();
        let made_for = self.made_for.map(|made_for| made_for.resource.as_str());
        made_for.filter(|made_for| tells_of_changes(made_for) == tells_of_changes(own)).unwrap_or(own)
    }
}

/// Objects that were read for this item, by path: playbooks that ask alike share one read.
type Read = HashMap<String, (Timestamp, Result<Value, Trouble>)>;

impl Dispatcher {
    pub(super) async fn run(
        &self,
        queue: &str,
        task: Task,
        (plans, made_for): (&[Plan], Option<&Wanted>),
    ) -> Result<Handled, DispatchError> {
        let mut handled = Handled::default();
        let gone = task.playbook.as_ref().filter(|name| !plans.iter().any(|plan| plan.name == **name));
        let gone = gone.map(|name| Plan::gone(name, plans));
        let wanted: Vec<&Plan> = match &task.playbook {
            Some(name) => plans.iter().chain(&gone).filter(|plan| plan.name == *name).collect(),
            None => wanting(plans, &task, made_for).collect(),
        };
        if wanted.is_empty() {
            return Ok(Handled { dropped: Some("no playbook wants it"), ..Handled::default() });
        }
        let (names, now) = (Names::of(&task.item), self.clock.now());
        let seen = look(self.state.as_ref(), &names.resource, now).await?;
        let names = names.after(&task.item, seen.resource.gone);
        let job = Job { queue, task: &task, names: &names, plans, made_for };
        let open = open_runs(&seen.resource, &task, &names, wanted, now, &mut handled);
        if open.is_empty() {
            return Ok(handled);
        }
        let (ready, waiting) = by_turn(&seen.resource, &task, &names, &open, now);
        if ready.is_empty() {
            return self.wait_turn(job, &waiting, seen.resource.held_until(now).is_some()).await;
        }
        let mut turn = match Turn::take(&self.state, &self.clock, seen, &names.item, &self.turns).await {
            Ok(turn) => turn,
            Err(TurnError::TakenOver) => {
                let all: Vec<_> = open.into_iter().map(|plan| (plan, TURN)).collect();
                return self.wait_turn(job, &all, true).await;
            }
            Err(error) => return Err(error.into()),
        };
        match self.work(job, (&ready, &waiting), &mut turn, &mut handled).await {
            Ok(()) => turn.end().await?,
            Err(error) => {
                turn.give_up().await;
                return Err(error);
            }
        }
        Ok(handled)
    }

    /// Runs the playbooks one after the other; what is to come is in a queue or store before the turn ends.
    async fn work(
        &self,
        job: Job<'_>,
        (ready, waiting): (&[&Plan], &[(&Plan, Duration)]),
        turn: &mut Turn,
        handled: &mut Handled,
    ) -> Result<(), DispatchError> {
        let Job { task, names, .. } = job;
        let mut read = Read::new();
        let mut opened = None;
        for plan in ready {
            if turn.resource.runs.get(&run_key(&names.item, &plan.name)).is_some_and(|run| matches!(run, Run::Done(_)))
                && plan.reads(&task.item)
            {
                // A read for a playbook before it stood for this one too.
                continue;
            }
            let ended = match &plan.fetch {
                Fetch::Delta(reading) if plan.reads(&task.item) => self.changes(job, plan, reading, turn).await?,
                _ if let Some(held) = &plan.held => Ended::Dead { reason: held.reason().to_owned(), done: task.done.clone() },
                _ => self.one(job, plan, turn, &mut read, &mut opened).await?,
            };
            self.record(job, plan, ended, turn, handled).await?;
        }
        for (run, waits) in self.put_off(job, waiting).await? {
            turn.resource.note(&run, &waits);
        }
        handled.waits = !waiting.is_empty();
        if is_deletion(&task.item) {
            turn.resource.deleted = turn.resource.deleted.max(Some(task.item.received));
        }
        if found_gone(&task.item) {
            turn.resource.gone = turn.resource.gone.max(task.item.read);
        }
        Ok(())
    }

    /// Puts what follows from a run, and notes it in the row.
    async fn record(
        &self,
        job: Job<'_>,
        plan: &Plan,
        ended: Ended,
        turn: &mut Turn,
        handled: &mut Handled,
    ) -> Result<(), DispatchError> {
        let Job { task, names, .. } = job;
        let (now, run) = (self.clock.now(), run_key(&names.item, &plan.name));
        let clean = task.attempt == 0 && task.playbook.is_none() && task.done.is_empty() && !turn.resource.is_broken(&names.item);
        let told = |reason: String, next| Told { playbook: plan.name.clone(), reason, next };
        match ended {
            Ended::Done { read, skipped } => {
                turn.resource.runs.insert(run, Run::Done(now.as_second()));
                // Only a first attempt's read stands for other items: the target may know a later one's key from an earlier attempt,
                // and has then kept what that one had read.
                if let Some(read) = read.filter(|_| clean) {
                    cover(&mut turn.resource, &plan.name, change_of(&task.item), read, now);
                }
                if !skipped && change_of(&task.item) == Some(ChangeType::Created) {
                    turn.resource.created.insert(creates(&plan.name), now);
                }
                if skipped { handled.skipped += 1 } else { handled.done += 1 }
            }
            Ended::Found { read, objects, playbooks } => {
                for playbook in playbooks {
                    turn.resource.runs.insert(run_key(&names.item, &playbook), Run::Done(now.as_second()));
                    if !reads_by_itself(task) {
                        cover(&mut turn.resource, &playbook, change_of(&task.item), read, now);
                    }
                }
                handled.found += objects;
                handled.done += 1;
            }
            Ended::Again { costs: Costs::Attempt, cause, done, .. } if task.attempt + 1 >= plan.max_attempts => {
                let cause = refusal(&done).map_or(cause.clone(), |refused| format!("{refused}; {cause}"));
                self.bury(job, plan, cause.clone(), done).await?;
                turn.resource.runs.remove(&run);
                handled.dead.push(told(cause, None));
            }
            Ended::Again { wait, costs, cause, done } => {
                let mut copy = Task { playbook: Some(plan.name.clone()), done, ..task.clone() };
                let least = match costs {
                    Costs::Attempt => {
                        copy.attempt += 1;
                        backoff(task.attempt, &run)
                    }
                    Costs::Look => {
                        copy.looks += 1;
                        Duration::ZERO
                    }
                    Costs::Nothing => Duration::ZERO,
                };
                let wait = wait.unwrap_or_default().min(LONGEST_WAIT).max(least);
                let next = self.after(wait);
                let waits = waits(plan, &copy, next);
                self.put(job.queue, Work::Item(Box::new(copy)), wait).await?;
                turn.resource.runs.insert(run, Run::Waits(waits));
                handled.again.push(told(cause, Some(next)));
            }
            Ended::Dead { reason, done } => {
                self.bury(job, plan, reason.clone(), done).await?;
                // Forgotten, so that a replay runs.
                turn.resource.runs.remove(&run);
                handled.dead.push(told(reason, None));
            }
        }
        Ok(())
    }

    async fn bury(&self, job: Job<'_>, plan: &Plan, reason: String, mut done: Vec<String>) -> Result<(), DispatchError> {
        done.retain(|key| !key.starts_with(REFUSED));
        let mut again = Task { attempt: 0, looks: 0, playbook: Some(plan.name.clone()), done, ..job.task.clone() };
        if !plan.is_named() {
            // Who would have wanted it is known once the document can be read: then all are asked, but for those that have it now.
            again.playbook = None;
            let others = wanting(job.plans, job.task, job.made_for).filter(|plan| plan.is_named());
            again.had.extend(others.map(|plan| plan.name.clone()));
        }
        let mut dead = Dead {
            playbook: again.playbook.clone(),
            task: again,
            reason,
            at: self.clock.now(),
            queue: job.queue.to_owned(),
            attempts: job.task.attempt + 1,
            body: None,
        };
        Ok(dead::keep(self.state.as_ref(), &mut dead).await?)
    }

    /// One playbook: its object is had, it says what is to be done, and that is done.
    async fn one(
        &self,
        job: Job<'_>,
        plan: &Plan,
        turn: &mut Turn,
        read: &mut Read,
        opened: &mut Option<Result<Value, super::Sealed>>,
    ) -> Result<Ended, DispatchError> {
        let task = job.task;
        let item = &task.item;
        let mut began = None;
        let object = if item.object.is_some() {
            item.object.clone()
        } else if item.encrypted.is_some() {
            if opened.is_none() {
                *opened = Some((self.hooks.open)(item.clone()).await);
            }
            match opened {
                Some(Ok(value)) => Some(value.clone()),
                Some(Err(sealed)) if sealed.transient => {
                    return Ok(again(None, sealed.cause.clone(), task));
                }
                Some(Err(sealed)) => return Ok(Ended::Dead { reason: sealed.cause.clone(), done: task.done.clone() }),
                None => None,
            }
        } else if let Fetch::Resource(reading) = &plan.fetch
            && plan.reads(item)
        {
            match self.object(job, plan, reading, turn, read).await? {
                Ok((at, object)) => {
                    began = at;
                    object
                }
                Err(ended) => return Ok(ended),
            }
        } else {
            None
        };
        match decide(plan, item.clone(), object, task.attempt).await {
            Err(reason) => Ok(Ended::Dead { reason, done: task.done.clone() }),
            Ok(Decision::Skip) => Ok(Ended::Done { read: began, skipped: true }),
            Ok(Decision::Perform(actions)) => self.perform(job, plan, actions, began, turn).await,
        }
    }

    /// The object with the time at which its read began, if it was read, or what follows from not having it.
    async fn object(
        &self,
        job: Job<'_>,
        plan: &Plan,
        reading: &Reading,
        turn: &mut Turn,
        read: &mut Read,
    ) -> Result<Result<(Option<Timestamp>, Option<Value>), Ended>, DispatchError> {
        let task = job.task;
        let without = |at: Timestamp| Ok(Ok((Some(at), None)));
        let path = match path::of_object(job.root(reading), &task.item, reading.select.as_deref()) {
            Ok(path) => path,
            // Nothing was read that could stand for another item.
            Err(refused) if !reading.sets_aside(&refused) => {
                tracing::info!(playbook = plan.name, "{refused}: the playbook sees the notification alone");
                return Ok(Ok((None, None)));
            }
            Err(refused) => return Ok(Err(Ended::Dead { reason: refused.to_string(), done: task.done.clone() })),
        };
        if !read.contains_key(&path) {
            turn.keep().await?;
            let at = self.clock.now();
            let answer = self.reader.object(&path).await;
            read.insert(path.clone(), (at, answer));
        }
        let Some((at, answer)) = read.get(&path).cloned() else { return without(self.clock.now()) };
        let last = task.attempt + 1 >= plan.max_attempts;
        let ended = match answer {
            Ok(value) => return Ok(Ok((Some(at), Some(value)))),
            Err(Trouble::NotFound | Trouble::Expired) => {
                let reason = "not found";
                // Who was told of a deletion after it does not look for long.
                let gone = turn.resource.deleted.is_some_and(|deleted| deleted >= task.item.received);
                let look = LOOKS.get(usize::try_from(task.looks).unwrap_or(usize::MAX)).filter(|_| !gone);
                match (look, reading.not_found) {
                    (Some(wait), _) => {
                        Ended::Again { wait: Some(*wait), costs: Costs::Look, cause: reason.to_owned(), done: task.done.clone() }
                    }
                    // No more often than it was looked for last.
                    (None, NotFound::Retry) => again(LOOKS.last().copied(), reason.to_owned(), task),
                    (None, NotFound::Continue) => return without(at),
                    (None, NotFound::Drop) => Ended::Done { read: None, skipped: true },
                }
            }
            Err(Trouble::Later(wait, cause)) if !last => again(wait, cause, task),
            Err(_) if reading.on_failure == OnFailure::Continue => return without(at),
            Err(Trouble::Later(_, reason) | Trouble::Forbidden(reason) | Trouble::Refused(reason)) => {
                Ended::Dead { reason, done: task.done.clone() }
            }
        };
        Ok(Err(ended))
    }

    /// Performs what is not done yet. What fails stops nothing that comes after it.
    async fn perform(
        &self,
        job: Job<'_>,
        plan: &Plan,
        actions: Vec<(String, Action)>,
        read: Option<Timestamp>,
        turn: &mut Turn,
    ) -> Result<Ended, DispatchError> {
        let mut done = job.task.done.clone();
        let mut later = None;
        let (writes, place) = (writes(&plan.name), Place::of(&job.task.item));
        for Step { number, label, action } in steps(actions) {
            let key = action_key(&plan.name, &label, &job.names.item);
            let mark = format!("{REFUSED}{key} ");
            if done.iter().any(|known| *known == key || known.starts_with(&mark)) {
                continue;
            }
            turn.keep().await?;
            let outdated = turn.resource.written.get(&writes).is_some_and(|written| written.is_newer_than(place, read));
            let order = Order { action: &action, key: &key, ends: turn.ends(), outdated };
            match self.performer.perform(&order).await {
                Outcome::Done => {
                    if action.replaces() && !outdated {
                        turn.resource.written.insert(writes.clone(), Written { place, read });
                    }
                    done.push(key);
                }
                Outcome::Busy => {
                    let cause = format!("action {number}: the target has no place free");
                    later = later.or(Some((Some(FULL), Costs::Nothing, cause)));
                }
                // The longest wait that anybody asks for, and an attempt that counts.
                Outcome::Later { after, cause } => {
                    let longest = later.as_ref().and_then(|(wait, ..)| *wait).max(after);
                    later = Some((longest, Costs::Attempt, format!("action {number}: {cause}")));
                }
                // Carried with the copy: it is not asked again while others are tried again.
                Outcome::Refused(reason) => done.push(format!("{mark}action {number}: {reason}")),
            }
        }
        Ok(match (later, refusal(&done).map(str::to_owned)) {
            (Some((wait, costs, cause)), _) => Ended::Again { wait, costs, cause, done },
            (None, Some(reason)) => Ended::Dead { reason, done },
            (None, None) => Ended::Done { read, skipped: false },
        })
    }
}

/// Those that an item is for whose message names nobody.
fn wanting<'a>(plans: &'a [Plan], task: &Task, made_for: Option<&Wanted>) -> impl Iterator<Item = &'a Plan> {
    plans.iter().filter(move |plan| !task.had.contains(&plan.name) && (plan.matches)(&task.item, made_for))
}

/// Whether what is read of the playbooks keeps the item from one of them: it is held, or of none that is there.
pub(super) fn would_hold(plans: &[Plan], task: &Task, made_for: Option<&Wanted>) -> bool {
    match &task.playbook {
        Some(name) => plans.iter().find(|plan| plan.name == *name).is_none_or(|plan| plan.held.is_some()),
        None => wanting(plans, task, made_for).any(|plan| plan.held.is_some()),
    }
}

/// Why an action was refused, the first of them if there are several.
fn refusal(done: &[String]) -> Option<&str> {
    done.iter().find_map(|key| key.strip_prefix(REFUSED)?.split_once(' ')).map(|(_, reason)| reason)
}

/// Asks the playbook on a thread of its own: an expression may take a second, and a bug in it ends one run.
async fn decide(plan: &Plan, item: Item, object: Option<Value>, attempt: u32) -> Result<Decision, String> {
    let decide = std::sync::Arc::clone(&plan.decide);
    let asked = tokio::task::spawn_blocking(move || {
        let context = Context { item: &item, resource: object.as_ref(), attempt };
        decide(&context)
    });
    asked.await.unwrap_or_else(|_| Err("the program has a bug: the playbook panicked".to_owned()))
}

fn again(wait: Option<Duration>, cause: String, task: &Task) -> Ended {
    Ended::Again { wait, costs: Costs::Attempt, cause, done: task.done.clone() }
}

/// What is done, or not, as one.
struct Step {
    /// Of the action in its playbook, from 1.
    number: usize,
    label: String,
    action: Action,
}

/// Values are sent one by one, so that each is done or not.
fn steps(actions: Vec<(String, Action)>) -> Vec<Step> {
    let mut steps = Vec::with_capacity(actions.len());
    for (number, (label, action)) in (1..).zip(actions) {
        let mut each = Vec::new();
        if let Action::ThreatConnectIndicator { values, .. } = &action {
            each.clone_from(values);
        }
        if each.len() < 2 {
            steps.push(Step { number, label, action });
            continue;
        }
        for value in each {
            let mut one = Step { number, label: format!("{label} {value}"), action: action.clone() };
            if let Action::ThreatConnectIndicator { values, .. } = &mut one.action {
                *values = vec![value];
            }
            steps.push(one);
        }
    }
    steps
}
