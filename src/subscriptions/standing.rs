//! How each subscription is: for people, for the status page, and for the lines that alerts wait for. Pure, over the rows.

use jiff::Timestamp;
use serde::Serialize;

use super::plan::covers;
use super::rows::{Book, Held};
use crate::notifications::wanted::Wanted;

/// One subscription, or one that is wanted and is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// None: there is none.
    pub id: Option<String>,
    pub group: String,
    pub resource: String,
    /// As Graph writes it: `created,updated`.
    pub change_type: String,
    pub playbooks: Vec<String>,
    pub state: State,
    pub expires: Option<Timestamp>,
    /// Until it ends; 0 where it has, or is not there.
    pub minutes_left: u32,
    /// Its life when it was last renewed.
    pub granted_minutes: u32,
    /// Less than a quarter of that is left: renewing does not work.
    pub expiring: bool,
    pub last_renewed: Option<Timestamp>,
    /// To within some minutes.
    pub last_notification: Option<Timestamp>,
    pub last_catch_up: Option<Timestamp>,
    /// What failed last, with its remedy.
    pub problem: Option<String>,
    /// When that is tried again.
    pub next_try: Option<Timestamp>,
    /// Somebody has to do something, or it failed several times.
    pub serious: bool,
}

/// What is wanted, in numbers; others' and what is kept for nobody do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub wanted: usize,
    pub there: usize,
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { wanted, there } = self;
        let are = if *wanted == 1 { "subscription is" } else { "subscriptions are" };
        write!(f, "{there} of {wanted} {are} there")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Active,
    /// It lives, and the last renewal failed.
    Failing,
    /// It is there no more, or was never made.
    Missing,
}

impl State {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Failing => "failing",
            Self::Missing => "missing",
        }
    }
}

/// Those that there are, then those that are wanted and missing.
#[must_use]
pub(super) fn of(book: &Book, wanted: &[Wanted], now: Timestamp) -> Vec<Standing> {
    let held = book.held.values().map(|held| of_held(book, held, now));
    held.chain(missing(book, wanted, now).map(|wanted| of_missing(book, wanted, wanted.group()))).collect()
}

/// How many are wanted, and how many of these are there.
pub(super) fn count(book: &Book, wanted: &[Wanted], now: Timestamp) -> Count {
    Count { wanted: wanted.len(), there: wanted.len() - missing(book, wanted, now).count() }
}

/// Those that are wanted, and nothing that lives tells of it.
fn missing<'a>(book: &'a Book, wanted: &'a [Wanted], now: Timestamp) -> impl Iterator<Item = &'a Wanted> {
    // Not all playbooks could be read, and another one that is kept tells of the same.
    let told = |held: &Held, wanted: &Wanted, group: &String| covers(&held.wanted, wanted) && !book.problems.contains_key(group);
    let stands = move |held: &Held, wanted: &Wanted, group: &String| {
        held.expires > now && (held.group == *group || told(held, wanted, group))
    };
    wanted.iter().filter(move |wanted| {
        let group = wanted.group();
        !book.held.values().any(|held| stands(held, wanted, &group))
    })
}

fn of_held(book: &Book, held: &Held, now: Timestamp) -> Standing {
    let seconds = u64::try_from(held.expires.duration_since(now).as_secs()).unwrap_or(0);
    let minutes_left = u32::try_from(seconds / 60).unwrap_or(u32::MAX);
    // A new one that takes its place is not there yet.
    let problem = held.problem.as_ref().or_else(|| book.problems.get(&held.group));
    let state = match (seconds, problem) {
        (0, _) => State::Missing,
        (_, Some(_)) => State::Failing,
        (_, None) => State::Active,
    };
    Standing {
        id: Some(held.id.clone()),
        group: held.group.clone(),
        resource: held.wanted.resource.clone(),
        change_type: held.wanted.change_type(),
        playbooks: held.wanted.playbooks.clone(),
        state,
        expires: Some(held.expires),
        minutes_left,
        granted_minutes: held.granted_minutes,
        expiring: u64::from(held.granted_minutes) * 60 > seconds * 4,
        last_renewed: Some(held.renewed),
        last_notification: book.heard.get(&held.id).copied(),
        last_catch_up: book.caught.get(&held.group).map(|caught| caught.last),
        problem: problem.map(|problem| problem.message.clone()),
        next_try: problem.map(|problem| problem.not_before),
        serious: problem.is_some_and(super::Problem::is_serious),
    }
}

fn of_missing(book: &Book, wanted: &Wanted, group: String) -> Standing {
    let problem = book.problems.get(&group);
    Standing {
        id: None,
        resource: wanted.resource.clone(),
        change_type: wanted.change_type(),
        playbooks: wanted.playbooks.clone(),
        state: State::Missing,
        expires: None,
        minutes_left: 0,
        granted_minutes: 0,
        expiring: false,
        last_renewed: None,
        last_notification: None,
        last_catch_up: book.caught.get(&group).map(|caught| caught.last),
        problem: problem.map(|problem| problem.message.clone()),
        next_try: problem.map(|problem| problem.not_before),
        serious: problem.is_some_and(super::Problem::is_serious),
        group,
    }
}
