//! What a playbook makes of one item: its context, its variables, and the actions that follow, as data.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::action::{Action, ActionSpec, FillError, Given};
use super::expression::{Expression, INPUT_BYTES, Input, TooLarge};
use super::{FetchMode, Playbook, Root};
use crate::notifications::item::{Event, Item, Origin};

/// One item with what is known of it when its playbook runs.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub item: &'a Item,
    /// The object itself: fetched, decrypted, or from a poll. None: there is none, or it was not read.
    pub resource: Option<&'a Value>,
    /// From 0.
    pub attempt: u32,
}

/// The variables by name: those of `select`, and `meta.…`.
pub type Variables = BTreeMap<String, Selected>;

/// The value of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    Text(String),
    Texts(Vec<String>),
}

impl Selected {
    /// An array joined by a comma and a blank.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Texts(texts) => texts.join(", "),
        }
    }

    #[must_use]
    pub fn json(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Texts(texts) => texts.as_slice().into(),
        }
    }

    /// One text is an array of one; an empty text is none.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        match self {
            Self::Text(text) if text.is_empty() => Vec::new(),
            Self::Text(text) => vec![text.clone()],
            Self::Texts(texts) => texts.clone(),
        }
    }
}

/// What a playbook makes of one item.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// `when` was true, or there is none. Else there is nothing to do, and the item counts as skipped.
    pub applies: bool,
    /// Of `select`.
    pub variables: Variables,
    /// One for each action of the playbook, in its order.
    pub actions: Vec<Action>,
}

/// Why a run failed. Another try gives the same: the item goes to the dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RunError {
    #[error("the context has {bytes} bytes; expressions take at most {INPUT_BYTES}; {remedy}")]
    TooLarge { bytes: usize, remedy: &'static str },
    #[error("the expression `{name}` failed: {reason}")]
    Expression { name: String, reason: String },
    #[error("the variable `{name}` has no result, and `fail_on_no_results` is on")]
    NoResults { name: String },
    #[error("action {number} cannot be done: {reason}")]
    Action { number: usize, reason: FillError },
}

impl RunError {
    /// One word, for counters and dead letters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "input_too_large",
            Self::Expression { .. } => "expression_failed",
            Self::NoResults { .. } => "no_results",
            Self::Action { .. } => "action_impossible",
        }
    }
}

/// How results become text.
#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    pub strings: Vec<(String, Expression)>,
    pub string_arrays: Vec<(String, Expression)>,
    pub strip_quotes: bool,
    pub strip_json: bool,
    pub fail_on_no_results: bool,
}

impl Default for Select {
    fn default() -> Self {
        Self { strings: Vec::new(), string_arrays: Vec::new(), strip_quotes: true, strip_json: false, fail_on_no_results: false }
    }
}

impl Playbook {
    /// Conditions, variables and actions for one item. Pure; takes about a second at most, by the bounds of [`Expression`], and
    /// much less for what comes in practice: a caller that serves others should still run it on a thread of its own.
    ///
    /// # Errors
    /// [`RunError`]: the item is for the dead letters.
    pub fn evaluate(&self, context: &Context<'_>) -> Result<Evaluated, RunError> {
        let whole = self.context(context);
        let seen = match self.root {
            Root::Context => &whole,
            Root::Item => &whole["notification"],
            Root::ResourceData => &whole["notification"]["resourceData"],
        };
        let input = Input::new(seen).map_err(|TooLarge { bytes }| {
            const LARGE: &str = "it comes that large, and no playbook can take it";
            let remedy = match self.fetch.mode {
                _ if context.resource.is_none() => LARGE,
                FetchMode::Resource | FetchMode::Delta if self.root == Root::Context => "fetch less with `fetch.select`",
                FetchMode::None if self.source.rich => "ask for less with `$select` in `source.resource`",
                _ => LARGE,
            };
            RunError::TooLarge { bytes, remedy }
        })?;
        let run = |name: &str, expression: &Expression| {
            expression.run(&input).map_err(|reason| RunError::Expression { name: name.to_owned(), reason })
        };
        if let Some(when) = &self.when
            && !Expression::is_true(&run("when", when)?)
        {
            return Ok(Evaluated { applies: false, variables: Variables::new(), actions: Vec::new() });
        }
        let mut variables = Variables::new();
        for (name, expression) in &self.select.strings {
            let found = self.select.present(name, run(name, expression)?)?;
            variables.insert(name.clone(), Selected::Text(found.map(|found| self.select.text(&found)).unwrap_or_default()));
        }
        for (name, expression) in &self.select.string_arrays {
            let found = self.select.present(name, without_nulls(run(name, expression)?))?;
            variables.insert(name.clone(), Selected::Texts(found.map(|found| self.select.texts(found)).unwrap_or_default()));
        }
        let all = with_meta(&variables, &whole["meta"]);
        let case = self.case_id(context);
        let given = Given { context: &whole, selected: &variables, all: &all, case: case.as_deref() };
        let fill = |(index, spec): (usize, &ActionSpec)| {
            spec.work.fill(&given).map_err(|reason| RunError::Action { number: index + 1, reason })
        };
        let actions = self.actions.iter().enumerate().map(fill).collect::<Result<_, _>>()?;
        Ok(Evaluated { applies: true, variables, actions })
    }

    /// `{notification, resource, meta}`, as expressions see it and as bodies carry it.
    #[must_use]
    pub fn context(&self, context: &Context<'_>) -> Value {
        let item = context.item;
        // Never shown, even if a producer left them in.
        let hidden = ["clientState", "encryptedContent", "validationTokens"];
        let shown = item.notification.iter().filter(|(key, _)| !hidden.iter().any(|hidden| hidden.eq_ignore_ascii_case(key)));
        let notification: Map<String, Value> = shown.map(|(key, value)| (key.clone(), value.clone())).collect();
        let type_of = |object: Option<&Value>| object?.get("@odata.type")?.as_str().map(str::to_owned);
        let odata_type = type_of(context.resource).or_else(|| type_of(item.notification.get("resourceData")));
        let change = match item.event {
            Event::Change(change) => Some(change.name()),
            Event::Lifecycle(_) => None,
        };
        let origin = match item.origin {
            Origin::Graph => "graph",
            Origin::Poll => "poll",
            Origin::CatchUp => "catch_up",
        };
        json!({
            "notification": notification,
            "resource": context.resource,
            "meta": {
                "playbook": self.name,
                "tenant": item.tenant.as_deref().unwrap_or(&self.tenant),
                "receivedAt": item.received.to_string(),
                "origin": origin,
                "attempt": context.attempt,
                "odataType": odata_type,
                "changeType": change,
            },
        })
    }
}

/// The names under which templates find what is known of every item.
pub(super) const META: [&str; 7] =
    ["meta.playbook", "meta.tenant", "meta.receivedAt", "meta.origin", "meta.attempt", "meta.odataType", "meta.changeType"];

fn with_meta(variables: &Variables, meta: &Value) -> Variables {
    let mut all = variables.clone();
    for name in META {
        let value = name.strip_prefix("meta.").and_then(|member| meta.get(member)).unwrap_or(&Value::Null);
        all.insert(name.to_owned(), Selected::Text(Select::default().text(value)));
    }
    all
}

/// Elements that are null are dropped; a scalar is an array of one.
fn without_nulls(found: Value) -> Value {
    match found {
        Value::Null => Value::Null,
        Value::Array(list) => list.into_iter().filter(|one| !one.is_null()).collect(),
        scalar => vec![scalar].into(),
    }
}

impl Select {
    /// None where there is no result: null, or an empty array. An empty text is one.
    fn present(&self, name: &str, found: Value) -> Result<Option<Value>, RunError> {
        let empty = found.is_null() || found.as_array().is_some_and(Vec::is_empty);
        match empty {
            true if self.fail_on_no_results => Err(RunError::NoResults { name: name.to_owned() }),
            true => Ok(None),
            false => Ok(Some(found)),
        }
    }

    fn texts(&self, found: Value) -> Vec<String> {
        match found {
            Value::Array(list) => list.iter().map(|one| self.text(one)).collect(),
            other => vec![self.text(&other)],
        }
    }

    /// One result as text.
    fn text(&self, found: &Value) -> String {
        match found {
            Value::Null => String::new(),
            Value::String(text) if self.strip_quotes => text.clone(),
            Value::Array(_) | Value::Object(_) if self.strip_json => {
                let mut leaves = Vec::new();
                self.leaves(found, &mut leaves);
                leaves.join(", ")
            }
            other => other.to_string(),
        }
    }

    fn leaves(&self, found: &Value, leaves: &mut Vec<String>) {
        match found {
            Value::Null => {}
            Value::Array(list) => list.iter().for_each(|one| self.leaves(one, leaves)),
            Value::Object(members) => members.values().for_each(|one| self.leaves(one, leaves)),
            scalar => leaves.push(self.text(scalar)),
        }
    }
}
