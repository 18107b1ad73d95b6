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
mod near;
mod reader;
mod render;
mod source;
pub mod template;
mod tree;

use std::collections::BTreeMap;

pub use document::load;
pub use reader::{Problem, Severity};
pub use render::{markdown, schema};
pub use source::{FetchMode, FetchPlan, NotFound, OnFailure, Source, SourceKind};

use action::ActionSpec;
use evaluate::{Context, Select};
use expression::Expression;

use crate::notifications::item::{ChangeType, Event, Item, Origin};
use crate::notifications::resources::Fetch;
use crate::notifications::wanted::Wanted;

/// What a document holds.
#[derive(Debug)]
pub struct Loaded {
    /// Those that can run, in the order of the file; disabled ones too.
    pub playbooks: Vec<Playbook>,
    pub profiles: BTreeMap<String, Profile>,
    /// In the order of the file.
    pub problems: Vec<Problem>,
}

/// How deliveries to `POST /api/notifications/NAME` are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// 200 to 299.
    pub code: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Default for Profile {
    fn default() -> Self {
        Self { code: 202, headers: Vec::new(), body: String::new() }
    }
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
}

impl Loaded {
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
            lines.push(format!("{word} playbooks: {path}:{problem}"));
        }
        if !self.has_errors() {
            lines.push(format!("ok    playbooks: {} in {path}, {enabled} enabled", self.playbooks.len()));
        }
        (lines, !self.has_errors())
    }
}

impl Playbook {
    /// Whether an item is of this playbook's source: its change, and its subscription group where that is proven, else its
    /// resource. Does not look at `enabled`, `paused` and `when`.
    #[must_use]
    pub fn matches(&self, item: &Item) -> bool {
        let Event::Change(change) = item.event else { return false };
        let polled = item.origin == Origin::Poll;
        if polled != (self.source.kind == SourceKind::Poll) {
            return false;
        }
        // New alerts came as `updated` to the guide's trigger, the only change that it could ask for.
        let wants = |change: &ChangeType| self.source.change_types.contains(change);
        if !(wants(&change) || polled && change == ChangeType::Created && wants(&ChangeType::Updated)) {
            return false;
        }
        match &item.group {
            // The letter of the queue aside: playbooks of both priorities may share a subscription.
            Some(group) => group.get(1..) == Some(self.group().as_str()),
            None => self.source.covers(item),
        }
    }

    /// The digits of its subscription's group.
    #[must_use]
    pub fn group(&self) -> String {
        crate::notifications::wanted::digits(&self.tenant, &self.source.resource, &self.source.change_types, self.source.rich)
    }

    /// How the object of an item is to be read: nothing is, where it comes along or is gone.
    #[must_use]
    pub fn fetch_for(&self, item: &Item) -> FetchMode {
        let gone = item.event == Event::Change(ChangeType::Deleted);
        if item.object.is_some() || gone && self.fetch.mode == FetchMode::Resource { FetchMode::None } else { self.fetch.mode }
    }

    /// What is to be subscribed to; playbooks that want the same share one.
    #[must_use]
    pub fn wanted(playbooks: &[Self]) -> Vec<Wanted> {
        let mut all: Vec<Wanted> = Vec::new();
        for playbook in playbooks.iter().filter(|playbook| playbook.enabled && playbook.source.kind == SourceKind::Graph) {
            let own = playbook.wants();
            let same = |other: &&mut Wanted| other.group().get(1..) == own.group().get(1..);
            match all.iter_mut().find(same) {
                Some(shared) => {
                    shared.lifecycle |= own.lifecycle;
                    shared.urgent |= own.urgent;
                    shared.minutes = [shared.minutes, own.minutes].into_iter().flatten().min();
                    shared.profile = shared.profile.take().or(own.profile);
                    shared.playbooks.extend(own.playbooks);
                }
                None => all.push(own),
            }
        }
        all
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

    /// The key of one of its actions for one change (`evaluate` keeps their order).
    #[must_use]
    pub fn key(&self, action: &ActionSpec, discriminator: &str) -> String {
        action::idempotency_key(&self.name, &action.label, discriminator)
    }

    /// The external id of the case for an item: the same for every change of one resource of one tenant.
    fn case_id(&self, context: &Context<'_>) -> Option<String> {
        let item = context.item;
        let of_object = |object: Option<&serde_json::Value>| object?.get("id")?.as_str().map(str::to_owned);
        let id = of_object(context.resource)
            .or_else(|| of_object(item.object.as_ref()))
            .or_else(|| item.resource_id().map(str::to_owned))
            .or_else(|| item.resource.as_deref().map(crate::notifications::wanted::normal))
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
