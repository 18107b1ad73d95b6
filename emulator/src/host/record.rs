//! What happened under the host: invocations, console lines, breaches of the contract. Tests wait for it to change.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::failure::Failure;
use super::verdict::Results;

/// One run of a function.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// As the handler got it.
    pub id: String,
    pub function: String,
    pub outcome: Outcome,
    /// What a successful answer held.
    pub results: Results,
    /// Messages that its queue outputs wrote, by binding; those of a failed run too.
    pub messages: Vec<(String, Vec<u8>)>,
}

impl Invocation {
    #[must_use]
    pub fn succeeded(&self) -> bool {
        matches!(self.outcome, Outcome::Success)
    }
}

/// How a run ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Not yet; also if nothing will end it before the function time-out.
    Running,
    Success,
    Failure(Failure),
}

/// A line as the host logs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The handler's process; none: the host itself.
    pub group: Option<String>,
    pub level: Level,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Information,
    Warning,
    Error,
}

/// Something that the host does not forgive, or that a handler must not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractError {
    pub function: String,
    pub invocation: String,
    pub message: String,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Record {
    /// In the order they began.
    pub invocations: Vec<Invocation>,
    pub lines: Vec<Line>,
    pub contract_errors: Vec<ContractError>,
    /// Places in `invocations`, in the order they ended.
    finished: Vec<usize>,
    /// Why the host stopped by itself.
    pub stopped: Option<String>,
}

impl Record {
    /// The invocations of a function that ended, in that order.
    pub fn finished<'a>(&'a self, function: &'a str) -> impl Iterator<Item = &'a Invocation> {
        self.finished.iter().map(|i| &self.invocations[*i]).filter(move |invocation| invocation.function == function)
    }
}

/// A record that tells of its changes.
#[derive(Debug)]
pub(crate) struct Journal {
    record: Mutex<Record>,
    changed: watch::Sender<()>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { record: Mutex::default(), changed: watch::Sender::new(()) }
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let result = change(&mut self.record());
        self.changed.send_replace(());
        result
    }

    /// Waits until `find` finds something.
    pub(crate) async fn until<T>(&self, mut find: impl FnMut(&Record) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(found) = find(&self.record()) {
                return found;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(crate) fn line(&self, group: Option<&str>, level: Level, text: impl Into<String>) {
        let line = Line { group: group.map(str::to_owned), level, text: text.into() };
        self.change(|record| record.lines.push(line));
    }

    pub(crate) fn contract_error(&self, function: &str, invocation: &str, message: &str) {
        let owned = str::to_owned;
        let error = ContractError { function: owned(function), invocation: owned(invocation), message: owned(message) };
        self.change(|record| record.contract_errors.push(error));
    }

    pub(crate) fn begin(&self, id: &str, function: &str) {
        let (id, function) = (id.to_owned(), function.to_owned());
        let invocation =
            Invocation { id, function, outcome: Outcome::Running, results: Results::default(), messages: Vec::new() };
        self.change(|record| record.invocations.push(invocation));
    }

    pub(crate) fn end(&self, ended: &Invocation) {
        if let Outcome::Failure(failure) = &ended.outcome {
            self.line(None, Level::Error, format!("{}: invocation {} failed: {failure}", ended.function, ended.id));
        }
        self.change(|record| {
            if let Some(place) = record.invocations.iter().position(|known| known.id == ended.id) {
                record.invocations[place] = ended.clone();
                record.finished.push(place);
            }
        });
    }

    /// The host stops by itself; the first reason stays.
    pub(crate) fn stop(&self, reason: &str) {
        self.line(None, Level::Error, reason);
        self.change(|record| _ = record.stopped.get_or_insert_with(|| reason.to_owned()));
    }
}
