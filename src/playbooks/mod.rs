//! Playbooks: a document that says what is to be done about which changes, and what it makes of one item: actions, as data.
//!
//! Does no I/O: who calls reads the file, asks for subscriptions, fetches and acts.

pub mod action;
mod action_reader;
pub mod address;
mod cost;
mod document;
pub mod evaluate;
pub mod expression;
pub mod keys;
mod left_out;
mod mismatch;
mod near;
mod reader;
mod render;
mod secrets;
mod source;
pub mod template;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use document::{load, load_knowing};
pub use left_out::LeftOut;
pub use reader::{Problem, Severity};
pub use render::{markdown, schema};
pub use secrets::Known;
pub use source::{FetchMode, FetchPlan, NotFound, OnFailure, Source, SourceKind};

use action::ActionSpec;
use evaluate::{Context, Select};
use expression::Expression;

use crate::notifications::item::{ChangeType, Event, Item, Origin};
use crate::notifications::profile::Profile;
use crate::notifications::resources::Fetch;
use crate::notifications::wanted::{Wanted, normalised, shared};

/// What a document holds.
#[derive(Debug)]
pub struct Loaded {
    /// Those that can run, in the order of the file; disabled ones too.
    pub playbooks: Vec<Playbook>,
    /// Those that cannot.
    pub left_out: Vec<LeftOut>,
    pub together: Arc<Together>,
    pub profiles: BTreeMap<String, Profile>,
    /// In the order of the file.
    pub problems: Vec<Problem>,
}

/// Which queue its items wait in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    Normal,
    Urgent,
}

/// What expressions see of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// `{notification, resource, meta}`.
    Context,
    /// The notification.
    Item,
    /// Its `resourceData`.
    ResourceData,
}

/// One playbook, proven: its expressions compile, its resource can be had, its secrets have names that exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Playbook {
    pub name: String,
    /// Off: it wants no subscription; an item that still matches is not acted on.
    pub enabled: bool,
    /// It keeps its subscription; an item that matches is held.
    pub paused: bool,
    pub priority: Priority,
    /// The job whose Microsoft tenant is meant.
    pub tenant: String,
    pub root: Root,
    pub source: Source,
    pub fetch: FetchPlan,
    pub when: Option<Expression>,
    pub select: Select,
    pub actions: Vec<ActionSpec>,
    pub max_attempts: u32,
    /// The digits of its subscription's group; playbooks on one resource share a subscription.
    pub group: String,
    pub all: Arc<Together>,
}

/// What the playbooks of a document are together.
#[derive(Debug, Default, PartialEq)]
pub struct Together {
    /// Groups of the subscriptions that are wanted: an item of another group is of one that is being replaced.
    pub groups: BTreeSet<String>,
    enabled: Circle,
    disabled: Circle,
    /// Of each that is left out because of a mistake it is known what it wants.
    whole: bool,
}

/// Some of the playbooks of a document.
#[derive(Debug, Default, PartialEq)]
struct Circle {
    /// What is subscribed to, in one spelling.
    resources: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl Circle {
    fn of<'a>(playbooks: impl Iterator<Item = &'a Playbook>) -> Self {
        let mut circle = Self::default();
        for playbook in playbooks.filter(|playbook| playbook.source.kind == SourceKind::Graph) {
            circle.resources.insert(normalised(&playbook.source.resource));
            circle.names.insert(playbook.name.clone());
        }
        // Of those whose name cannot be read.
        circle.names.remove("");
        circle
    }
}

impl Loaded {
    /// Only playbooks of the tenant that this installation works for are kept; `tenant` is what its first job is called, and
    /// `default` is another name of it. The names of the others.
    pub fn keep_tenant(&mut self, tenant: &str) -> Vec<String> {
        let ours = |playbook: &Playbook| playbook.tenant == keys::TENANT.default || playbook.tenant == tenant;
        let (kept, others): (Vec<Playbook>, Vec<Playbook>) = std::mem::take(&mut self.playbooks).into_iter().partition(ours);
        let names = others.iter().map(|playbook| playbook.name.clone()).collect();
        self.playbooks = kept;
        self.left_out.extend(others.into_iter().map(LeftOut::of_another_tenant));
        for playbook in self.each() {
            keys::TENANT.default.clone_into(&mut playbook.tenant);
        }
        self.name_groups();
        names
    }

    /// Every playbook whose source is known, those with mistakes included.
    fn each(&mut self) -> impl Iterator<Item = &mut Playbook> {
        self.playbooks.iter_mut().chain(self.left_out.iter_mut().filter_map(|left| left.shadow.as_mut()))
    }

    /// What each playbook can know only when all are read. Items go as if those with mistakes were right: they are kept for them,
    /// and nobody else has them instead.
    fn name_groups(&mut self) {
        let mut wanted = Playbook::wanted(&self.playbooks);
        let missing = left_out::wants(&self.left_out).filter(|missing| !wanted.iter().any(|wanted| wanted.is_beside(missing)));
        let missing = shared(&missing.collect::<Vec<_>>());
        wanted.extend(missing);
        for playbook in self.each() {
            playbook.group = playbook.group_among(&wanted);
        }
        let all: Vec<&Playbook> = self.each().map(|playbook| &*playbook).collect();
        // What a disabled one once shared with others is the others'.
        let enabled = || all.iter().copied().filter(|playbook| playbook.enabled);
        let mut together = Together {
            groups: enabled().map(|playbook| playbook.group.clone()).collect(),
            enabled: Circle::of(enabled()),
            disabled: Circle::of(all.iter().copied().filter(|playbook| !playbook.enabled)),
            whole: false,
        };
        together.whole = self.left_out.iter().all(|left| left.known().is_some());
        let together = Arc::new(together);
        self.together = Arc::clone(&together);
        for playbook in self.each() {
            playbook.all = Arc::clone(&together);
        }
    }

    /// Whether something is left out because of a mistake.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// Lines for `check`, and whether all is well.
    #[must_use]
    pub fn check(&self, path: &str) -> (Vec<String>, bool) {
        let enabled = self.playbooks.iter().filter(|playbook| playbook.enabled).count();
        let mut lines = Vec::new();
        for problem in &self.problems {
            let word = if problem.severity == Severity::Error { "FAIL " } else { "note " };
            lines.push(format!("{word} playbooks: {path}:{}", problem.bare()));
        }
        if !self.has_errors() {
            lines.push(format!("ok    playbooks: {} in {path}, {enabled} enabled", self.playbooks.len()));
        }
        (lines, !self.has_errors())
    }
}

impl Playbook {
    /// Whether an item is of this playbook's source: its change, and its subscription group where that is proven; where that is
    /// of no playbook any more, what its subscription was made for; only else its path. Does not look at `enabled`, `paused` and
    /// `when`.
    #[must_use]
    pub fn matches(&self, item: &Item, made_for: Option<&Wanted>) -> bool {
        let Event::Change(change) = item.event else { return false };
        let polled = item.origin == Origin::Poll;
        if polled != (self.source.kind == SourceKind::Poll) {
            return false;
        }
        if !self.waits_for(change, polled) {
            return false;
        }
        // The letter of the queue aside: playbooks of both priorities may share a subscription.
        match item.group.as_ref().and_then(|group| group.get(1..)).filter(|group| self.all.groups.contains(*group)) {
            Some(group) => group == self.group,
            None => made_for.and_then(|made_for| self.inherits(made_for)).unwrap_or_else(|| self.source.covers(item)),
        }
    }

    /// New alerts came as `updated` to the guide's trigger, the only change that it could ask for.
    fn waits_for(&self, change: ChangeType, polled: bool) -> bool {
        let wants = |change: ChangeType| self.source.change_types.contains(&change);
        wants(change) || polled && change == ChangeType::Created && wants(ChangeType::Updated)
    }

    /// Whether what a subscription tells that is being replaced is for this one: for those that are on the same resource now, its
    /// filter included, else for those that wanted it, whatever they want instead. None: nobody is either, and all are read.
    fn inherits(&self, made_for: &Wanted) -> Option<bool> {
        let resource = normalised(&made_for.resource);
        if normalised(&self.source.resource) == resource {
            return Some(true);
        }
        // One that is disabled takes nothing away from one that runs.
        for circle in [&self.all.enabled, &self.all.disabled] {
            if circle.resources.contains(&resource) {
                return Some(false);
            }
            if made_for.playbooks.iter().any(|name| circle.names.contains(name)) {
                return Some(made_for.playbooks.contains(&self.name));
            }
        }
        (!self.all.whole).then_some(false)
    }

    /// How the object of an item is to be read: nothing is, where it comes along or is gone.
    #[must_use]
    pub fn fetch_for(&self, item: &Item) -> FetchMode {
        let gone = item.event == Event::Change(ChangeType::Deleted);
        if item.object.is_some() || gone && self.fetch.mode == FetchMode::Resource { FetchMode::None } else { self.fetch.mode }
    }

    /// What is to be subscribed to; playbooks on one resource share a subscription.
    #[must_use]
    pub fn wanted(playbooks: &[Self]) -> Vec<Wanted> {
        let wanting = playbooks.iter().filter(|playbook| playbook.enabled && playbook.source.kind == SourceKind::Graph);
        shared(&wanting.map(Self::wants).collect::<Vec<_>>())
    }

    /// The digits of the group of its subscription, which is that of all on its resource, whether it is enabled or not: what is
    /// told to others is told to it.
    fn group_among(&self, wanted: &[Wanted]) -> String {
        let digits = |wanted: &Wanted| wanted.group().split_off(1);
        let own = self.wants();
        match self.source.kind {
            // Whoever polls for the same gets the same.
            SourceKind::Poll => digits(&Wanted { change_types: Vec::new(), ..own }),
            SourceKind::Graph => digits(wanted.iter().find(|wanted| wanted.is_beside(&own)).unwrap_or(&own)),
        }
    }

    fn wants(&self) -> Wanted {
        Wanted {
            tenant: self.tenant.clone(),
            resource: self.source.resource.clone(),
            change_types: self.source.change_types.clone(),
            rich: self.source.rich,
            lifecycle: self.source.lifecycle,
            minutes: self.source.expiration_minutes,
            profile: self.source.profile.clone(),
            urgent: self.priority == Priority::Urgent,
            playbooks: vec![self.name.clone()],
        }
    }

    /// Cases are told apart by tenant: whoever finds a change has to write it as Microsoft Graph does.
    #[must_use]
    pub fn makes_cases(&self) -> bool {
        self.actions.iter().any(|action| matches!(action.work, action::Work::Case { .. }))
    }

    /// The external id of the case for an item: the same for every change of one resource of one tenant.
    fn case_id(&self, context: &Context<'_>) -> Option<String> {
        let item = context.item;
        let of_object = |object: Option<&serde_json::Value>| object?.get("id")?.as_str().map(str::to_owned);
        let id = of_object(context.resource)
            .or_else(|| of_object(item.object.as_ref()))
            .or_else(|| item.resource_id().map(str::to_owned))
            .or_else(|| item.resource.as_deref().map(normalised))
            .filter(|id| !id.is_empty())?;
        let kind = self.source.row().map_or("", |row| row.name);
        let digest = action::hash(&[item.tenant.as_deref().unwrap_or(&self.tenant), kind, &id]);
        Some(format!("ir-{}", &digest[..32]))
    }
}

impl From<Fetch> for FetchMode {
    fn from(fetch: Fetch) -> Self {
        match fetch {
            Fetch::Resource => Self::Resource,
            Fetch::Delta => Self::Delta,
            Fetch::None => Self::None,
        }
    }
}
