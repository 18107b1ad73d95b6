//! A playbook that is left out because of a mistake, as far as it can be read: whose items it would have had, so that they are
//! kept for it.

use super::reader::Problem;
use super::{Playbook, SourceKind};
use crate::notifications::item::{Event, Item};
use crate::notifications::wanted::Wanted;

/// One of them, or something in a document that may have been one.
#[derive(Debug, Clone, PartialEq)]
pub struct LeftOut {
    /// None: it has none, or one that is another's.
    pub name: Option<String>,
    pub enabled: bool,
    /// What it waits for and how that is read, without condition and actions; none: it may be anything.
    pub(super) shadow: Option<Playbook>,
    /// The shadow wants what the playbook will want; else it wants at least that.
    pub(super) certain: bool,
    /// Its first mistake; none: it names another tenant.
    pub(super) problem: Option<Problem>,
}

impl LeftOut {
    /// Something that nobody can read.
    pub(super) fn unknown(problem: Problem) -> Self {
        Self { name: None, enabled: true, shadow: None, certain: false, problem: Some(problem) }
    }

    pub(super) fn of_another_tenant(playbook: Playbook) -> Self {
        let (name, enabled) = (Some(playbook.name.clone()), playbook.enabled);
        Self { name, enabled, shadow: Some(playbook), certain: true, problem: None }
    }

    /// The line of its first mistake.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.problem.as_ref().map(|problem| problem.line)
    }

    /// As a playbook to which its items can be given by name.
    #[must_use]
    pub fn known(&self) -> Option<&Playbook> {
        self.shadow.as_ref().filter(|_| self.certain && self.name.is_some())
    }

    /// Whether an item may be its own.
    #[must_use]
    pub fn may_want(&self, item: &Item, made_for: Option<&Wanted>) -> bool {
        let change = matches!(item.event, Event::Change(_));
        self.shadow.as_ref().map_or(change, |shadow| shadow.matches(item, made_for))
    }

    /// What is wrong, for people.
    #[must_use]
    pub fn why(&self, document: &str) -> String {
        let why = match &self.problem {
            Some(problem) => format!("{document}:{problem}"),
            None => format!("{document}: it names another `tenant` than that of the first job"),
        };
        match &self.name {
            Some(name) if self.known().is_none() => format!("playbook `{name}` cannot be read: {why}"),
            _ => why,
        }
    }
}

/// What its subscription would be, where it would have one.
pub(super) fn wants(left_out: &[LeftOut]) -> impl Iterator<Item = Wanted> {
    let shadows = left_out.iter().filter_map(|left| left.shadow.as_ref());
    shadows.filter(|shadow| shadow.enabled && shadow.source.kind == SourceKind::Graph).map(Playbook::wants)
}
