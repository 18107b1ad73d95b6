//! A playbook as dispatch sees it: what it matches, what it wants read first, and a pure function that says what is to be done.
//!
//! Apart from the playbook itself, so that all else here knows nothing of documents and expressions.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::path::{self, Refused};
use crate::notifications::item::{ChangeType, Event, Item, Task};
use crate::notifications::wanted::Wanted;
use crate::playbooks::action::Action;
use crate::playbooks::{FetchMode, LeftOut, Loaded, NotFound, OnFailure, Playbook, evaluate};

/// What a playbook is shown of one item.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub item: &'a Item,
    /// Read, decrypted or polled; none where there is nothing.
    pub resource: Option<&'a Value>,
    pub attempt: u32,
}

/// What a playbook says about one item.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Its condition does not hold.
    Skip,
    /// With the label of each within the playbook: it stays the same however often the playbook is asked.
    Perform(Vec<(String, Action)>),
}

/// Beside the item, what its subscription was made for, where no playbook wants just that any more.
pub type Matches = Arc<dyn Fn(&Item, Option<&Wanted>) -> bool + Send + Sync>;
/// The error is one line: why it fails for this item, whenever it is tried.
pub type Decide = Arc<dyn Fn(&Context<'_>) -> Result<Decision, String> + Send + Sync>;

/// What is to be read before the playbook runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetch {
    Nothing,
    /// The resource itself; of a deleted one nothing.
    Resource(Reading),
    /// What changed below a root: each object becomes an item of its own.
    Delta(Reading),
}

/// How a read is done, and what follows where it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What the subscription is made on: nothing outside it is read.
    pub resource: String,
    /// Members to ask for, joined by commas.
    pub select: Option<String>,
    /// What follows when the resource is not there after five looks.
    pub not_found: NotFound,
    /// What follows when it cannot be read.
    pub on_failure: OnFailure,
    /// The playbook counts on it; else it is done because it is usual, and where the item names no object, the notification alone
    /// will do.
    pub needed: bool,
}

impl Reading {
    /// What follows where the object cannot be named; else the playbook sees the notification alone.
    pub(super) fn sets_aside(&self, refused: &Refused) -> bool {
        self.on_failure == OnFailure::DeadLetter && (self.needed || refused.is_unsafe())
    }
}

/// The object of an item cannot be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnamed {
    /// One line.
    pub why: String,
    /// Else the playbook sees the notification alone.
    pub is_set_aside: bool,
}

/// One playbook.
#[derive(Clone)]
pub struct Plan {
    /// Unique. Blank: it stands for those that cannot be read ([`Plan::unreadable`]).
    pub name: String,
    /// Why its items are held for a replay instead of being acted on; none: it runs.
    pub held: Option<Hold>,
    pub fetch: Fetch,
    /// How often one item is tried; looks for what is not there yet are not counted.
    pub max_attempts: u32,
    pub matches: Matches,
    pub decide: Decide,
}

/// Why a playbook does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    Paused,
    Disabled,
    /// The document has no such playbook that can run: one line that says why.
    Absent(Arc<str>),
}

impl Hold {
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Absent(why) => why,
        }
    }
}

impl Plan {
    /// Those of a document, which is called `document`. What a playbook with a mistake would have had is set aside under its name;
    /// while nobody can say who it is or what it wants, all that may be its own is set aside for whoever wants it later.
    #[must_use]
    pub fn all(loaded: &Loaded, document: &str) -> Arc<[Self]> {
        let mut plans: Vec<Self> = loaded.playbooks.iter().cloned().map(Self::of).collect();
        let mistaken = |left: &LeftOut| {
            let plan = Self::of(left.known()?.clone());
            let held = if left.enabled { Some(Hold::Absent(left.why(document).into())) } else { plan.held };
            Some(Self { held, ..plan })
        };
        plans.extend(loaded.left_out.iter().filter_map(mistaken));
        let unknown = loaded.left_out.iter().filter(|left| left.known().is_none() && left.enabled);
        let unknown: Vec<LeftOut> = unknown.cloned().collect();
        if let Some(first) = unknown.first() {
            let why = first.why(document);
            let may_want = move |item: &Item, made_for: Option<&Wanted>| unknown.iter().any(|left| left.may_want(item, made_for));
            plans.push(Self::unreadable(&why, Arc::new(may_want)));
        }
        plans.into()
    }

    /// The plan of a playbook as its document has it.
    #[must_use]
    pub fn of(playbook: Playbook) -> Self {
        let held = match (playbook.enabled, playbook.paused) {
            (false, _) => Some(Hold::Disabled),
            (true, true) => Some(Hold::Paused),
            (true, false) => None,
        };
        let reading = Reading {
            resource: playbook.source.resource.clone(),
            select: playbook.fetch.select.clone(),
            not_found: playbook.fetch.not_found,
            on_failure: playbook.fetch.on_failure,
            needed: playbook.fetch.needed,
        };
        let fetch = match playbook.fetch.mode {
            // The object comes along, encrypted; an item that we found ourselves is without it.
            FetchMode::None if playbook.source.rich => Fetch::Resource(reading),
            FetchMode::None => Fetch::Nothing,
            FetchMode::Resource => Fetch::Resource(reading),
            FetchMode::Delta => Fetch::Delta(reading),
        };
        let (name, max_attempts) = (playbook.name.clone(), playbook.max_attempts);
        let playbook = Arc::new(playbook);
        let matching = Arc::clone(&playbook);
        let decide: Decide = Arc::new(move |context| {
            let Context { item, resource, attempt } = *context;
            let evaluated =
                playbook.evaluate(&evaluate::Context { item, resource, attempt }).map_err(|error| error.to_string())?;
            if !evaluated.applies {
                return Ok(Decision::Skip);
            }
            let labels = playbook.actions.iter().map(|action| action.label.clone());
            Ok(Decision::Perform(labels.zip(evaluated.actions).collect()))
        });
        Self {
            name,
            held,
            fetch,
            max_attempts,
            matches: Arc::new(move |item, made_for| matching.matches(item, made_for)),
            decide,
        }
    }

    /// What is read for an item before the playbook runs, below the version of the interface. For who shows it beforehand.
    ///
    /// # Errors
    /// [`Unnamed`].
    pub fn address(&self, item: &Item) -> Result<Option<String>, Unnamed> {
        if !self.reads(item) {
            return Ok(None);
        }
        let (reading, path) = match &self.fetch {
            Fetch::Nothing => return Ok(None),
            Fetch::Resource(reading) => (reading, path::of_object(&reading.resource, item, reading.select.as_deref())),
            Fetch::Delta(reading) => (reading, path::of_delta(&reading.resource, reading.select.as_deref())),
        };
        let unnamed = |refused: Refused| Unnamed { why: refused.to_string(), is_set_aside: reading.sets_aside(&refused) };
        path.map(Some).map_err(unnamed)
    }

    /// Stands for playbooks of which nobody can say who they are or what they want: their items are set aside for whoever wants
    /// them once the document is mended.
    #[must_use]
    pub fn unreadable(why: &str, matches: Matches) -> Self {
        Self { matches, ..Self::absent("", why) }
    }

    /// Stands for one that is in the document no more, or that nobody can find there.
    pub(super) fn gone(name: &str, plans: &[Self]) -> Self {
        let unreadable = plans.iter().find(|plan| !plan.is_named()).and_then(|plan| plan.held.as_ref());
        Self::absent(name, unreadable.map_or("there is no playbook of this name any more", Hold::reason))
    }

    fn absent(name: &str, why: &str) -> Self {
        Self {
            name: name.to_owned(),
            held: Some(Hold::Absent(why.into())),
            fetch: Fetch::Nothing,
            max_attempts: 1,
            matches: Arc::new(|_, _| false),
            decide: Arc::new(|_| Ok(Decision::Skip)),
        }
    }

    pub(super) fn is_named(&self) -> bool {
        !self.name.is_empty()
    }

    /// Reads anew for each item, so that one read can stand for many items.
    pub(super) fn reads(&self, item: &Item) -> bool {
        self.fetch != Fetch::Nothing && item.object.is_none() && item.encrypted.is_none() && !is_deletion(item)
    }
}

/// Others have read what changed, and were told of it. Who could not be read then was not: for it, it is read once more, from a place
/// of its own.
pub(super) fn reads_by_itself(task: &Task) -> bool {
    !task.had.is_empty()
}

/// The resource is gone: there is nothing to read.
pub(super) fn is_deletion(item: &Item) -> bool {
    change_of(item) == Some(ChangeType::Deleted)
}

/// A read of what changed found it deleted.
pub(super) fn found_gone(item: &Item) -> bool {
    item.read.is_some() && item.object.as_ref().is_some_and(is_gone)
}

/// Vendor page "driveItem: delta".
pub(super) fn is_gone(object: &Value) -> bool {
    object.get("deleted").is_some_and(|deleted| !deleted.is_null())
}

/// None: it is about a subscription.
pub(super) fn change_of(item: &Item) -> Option<ChangeType> {
    match item.event {
        Event::Change(change) => Some(change),
        Event::Lifecycle(_) => None,
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("name", &self.name).finish_non_exhaustive()
    }
}
