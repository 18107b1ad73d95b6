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
    pub profiles: BTreeMap<String, Profile>,
    /// In the order of the file.
    pub problems: Vec<Problem>,
    /// Those that cannot run because of a mistake.
    pub left_out: Vec<LeftOut>,
}

/// A playbook with a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// None: it has none that could be read.
    pub name: Option<String>,
    /// Where it begins.
    pub line: usize,
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
    /// Nothing is left out because of a mistake.
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
        circle
    }
}

impl Together {
    /// Whether a playbook of this name, one that subscribes, is there.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        [&self.enabled, &self.disabled].iter().any(|circle| circle.names.contains(name))
    }
}

impl Loaded {
    /// Only playbooks of the tenant that this installation works for are kept; `tenant` is what its first job is called, and
    /// `default` is another name of it. The names of the others.
    pub fn keep_tenant(&mut self, tenant: &str) -> Vec<String> {
        let ours = |playbook: &Playbook| playbook.tenant == keys::TENANT.default || playbook.tenant == tenant;
        let others = self.playbooks.iter().filter(|playbook| !ours(playbook)).map(|playbook| playbook.name.clone()).collect();
        self.playbooks.retain(ours);
        for playbook in &mut self.playbooks {
            keys::TENANT.default.clone_into(&mut playbook.tenant);
        }
        self.name_groups();
        others
    }

    /// What each playbook can know only when all are read.
    fn name_groups(&mut self) {
        let wanted = Playbook::wanted(&self.playbooks);
        let digits = |wanted: &Wanted| wanted.group().split_off(1);
        for playbook in &mut self.playbooks {
            let shared = wanted.iter().find(|wanted| wanted.playbooks.contains(&playbook.name));
            playbook.group = match (shared, playbook.source.kind) {
                (Some(shared), _) => digits(shared),
                // Whoever polls for the same gets the same.
                (None, SourceKind::Poll) => digits(&Wanted { change_types: Vec::new(), ..playbook.wants() }),
                (None, SourceKind::Graph) => digits(&playbook.wants()),
            };
        }
        // What a disabled one once shared with others is the others'.
        let enabled = self.playbooks.iter().filter(|playbook| playbook.enabled);
        let all = Arc::new(Together {
            groups: enabled.clone().map(|playbook| playbook.group.clone()).collect(),
            enabled: Circle::of(enabled),
            disabled: Circle::of(self.playbooks.iter().filter(|playbook| !playbook.enabled)),
            whole: !self.has_errors(),
        });
        for playbook in &mut self.playbooks {
            playbook.all = Arc::clone(&all);
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
        // One that is disabled takes nothing away from one that runs.
        for circle in [&self.all.enabled, &self.all.disabled] {
            if circle.resources.contains(&resource) {
                return Some(normalised(&self.source.resource) == resource);
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
