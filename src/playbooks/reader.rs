//! Reads tables of the document by the rows of `keys`: what is unknown, missing or of another type is a problem with its place.

use std::fmt;

use super::expression::Expression;
use super::keys::{KEYS, Key, Scope, Shape};
use super::near::nearest;
use super::template::Template;
use super::tree::{Entry, Node, Value, place};

/// Whether a playbook can run in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// What it stands in is left out.
    Error,
    Warning,
}

/// One mistake in the file. Shown as `line:column: text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub severity: Severity,
    /// What is wrong, and what to do. Holds no secret.
    pub text: String,
}

impl Problem {
    /// Without a word for its severity, where what stands around it says that.
    #[must_use]
    pub fn bare(&self) -> String {
        format!("{}:{}: {}", self.line, self.column, self.text)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.severity == Severity::Warning { "warning: " } else { "" };
        write!(f, "{}:{}: {word}{}", self.line, self.column, self.text)
    }
}

/// A value with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) at: usize,
    pub(super) value: T,
}

/// All that is found, while it is found.
#[derive(Debug)]
pub(super) struct Problems<'a> {
    document: &'a str,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(document: &'a str) -> Self {
        Self { document, found: Vec::new() }
    }

    pub(super) fn error(&mut self, at: usize, text: impl AsRef<str>) {
        self.push(at, Severity::Error, text.as_ref());
    }

    pub(super) fn warning(&mut self, at: usize, text: impl AsRef<str>) {
        self.push(at, Severity::Warning, text.as_ref());
    }

    fn push(&mut self, at: usize, severity: Severity, text: &str) {
        let (line, column) = place(self.document, at);
        let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.found.push(Problem { line, column, severity, text });
    }

    /// How many there are, warnings included.
    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// The first in the text of those that were found after `count` others, and stand in the way.
    pub(super) fn first_error(&self, count: usize) -> Option<Problem> {
        let errors = self.found.iter().skip(count).filter(|problem| problem.severity == Severity::Error);
        errors.min_by_key(|problem| (problem.line, problem.column)).cloned()
    }

    /// So far. More than before: what was read in between is not to be used.
    pub(super) fn errors(&self) -> usize {
        self.found.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    /// In the order of the text.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|problem| (problem.line, problem.column));
        self.found
    }
}

/// A table whose keys are those of `scopes`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section<'a> {
    pub(super) at: usize,
    scopes: [Scope; 2],
    entries: &'a [Entry],
}

impl<'a> Section<'a> {
    /// Unknown keys are told here.
    pub(super) fn open(node: &'a Node, scope: Scope, problems: &mut Problems<'_>) -> Option<Self> {
        Self::open_both(node, [scope, scope], problems)
    }

    /// The keys of two scopes together.
    pub(super) fn open_both(node: &'a Node, scopes: [Scope; 2], problems: &mut Problems<'_>) -> Option<Self> {
        let section = Self::peek(node, scopes)?;
        for entry in section.entries {
            let known = || KEYS.iter().filter(|key| scopes.contains(&key.scope)).map(|key| key.key);
            if !known().any(|key| key == entry.key) {
                let near = nearest(&entry.key, known()).map_or_else(
                    || format!("{} has {}", scopes[1].header(), known().collect::<Vec<_>>().join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                problems.error(entry.at, format!("`{}` is no key here; {near}", entry.key));
            }
        }
        Some(section)
    }

    /// The same, without a look at unknown keys.
    pub(super) fn peek(node: &'a Node, scopes: [Scope; 2]) -> Option<Self> {
        let Value::Table(entries) = &node.value else { return None };
        Some(Self { at: node.at, scopes, entries })
    }

    pub(super) fn entry(&self, key: &Key) -> Option<&'a Entry> {
        debug_assert!(self.scopes.contains(&key.scope), "{} is of another table", key.key);
        self.entries.iter().find(|entry| entry.key == key.key)
    }

    /// Where the key stands, or else its table.
    pub(super) fn place(&self, key: &Key) -> usize {
        self.entry(key).map_or(self.at, |entry| entry.at)
    }

    /// The value; if it is required and missing, that is told.
    fn value(&self, key: &Key, problems: &mut Problems<'_>) -> Option<&'a Node> {
        let found = self.entry(key).map(|entry| &entry.node);
        if found.is_none() && key.required {
            let what = match key.shape {
                Shape::Whole { from, to } if from == to => format!("write `{} = {from}`", key.key),
                shape => shape.accepts(),
            };
            problems.error(self.at, format!("`{}` is missing in {}: {what}", key.key, self.scopes[1].header()));
        }
        found
    }

    pub(super) fn text(&self, key: &Key, problems: &mut Problems<'_>) -> Option<At<&'a str>> {
        let node = self.value(key, problems)?;
        match &node.value {
            Value::Text(text) if !text.trim().is_empty() || !key.required => Some(At { at: node.at, value: text }),
            Value::Text(_) => {
                problems.error(node.at, format!("`{}` is empty; it takes {}", key.key, key.shape.accepts()));
                None
            }
            _ => wrong(key, node, problems),
        }
    }

    pub(super) fn flag(&self, key: &Key, problems: &mut Problems<'_>) -> bool {
        let default = key.default == "true";
        let Some(node) = self.value(key, problems) else { return default };
        match &node.value {
            Value::Flag(flag) => *flag,
            _ => wrong(key, node, problems).unwrap_or(default),
        }
    }

    pub(super) fn whole(&self, key: &Key, problems: &mut Problems<'_>) -> Option<At<i64>> {
        let node = self.value(key, problems)?;
        let Shape::Whole { from, to } = key.shape else { return None };
        match &node.value {
            Value::Whole(number) if (from..=to).contains(number) => Some(At { at: node.at, value: *number }),
            Value::Whole(number) => {
                let demand = if from == to { "must be" } else { "takes" };
                problems.error(node.at, format!("`{}` is {number}; it {demand} {}", key.key, key.shape.accepts()));
                None
            }
            _ => wrong(key, node, problems),
        }
    }

    /// The place of the choice in the row's list; the default's, if there is one.
    pub(super) fn choice(&self, key: &Key, problems: &mut Problems<'_>) -> Option<usize> {
        let Shape::Choice(choices) = key.shape else { return None };
        let Some(node) = self.value(key, problems) else {
            return choices.iter().position(|choice| *choice == key.default);
        };
        match &node.value {
            Value::Text(text) => one_of(key, choices, At { at: node.at, value: text }, problems),
            _ => wrong(key, node, problems),
        }
    }

    /// Places in the row's list.
    pub(super) fn choices(&self, key: &Key, problems: &mut Problems<'_>) -> Option<Vec<At<usize>>> {
        let Shape::Choices(choices) = key.shape else { return None };
        let texts = self.texts(key, problems)?;
        if texts.is_empty() {
            problems.error(self.place(key), format!("`{}` is empty; it takes {}", key.key, key.shape.accepts()));
            return None;
        }
        // What is known is judged further, so that all mistakes are told at once.
        let known = |text: At<&str>| Some(At { at: text.at, value: one_of(key, choices, text, problems)? });
        Some(texts.into_iter().filter_map(known).collect())
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &Key, problems: &mut Problems<'_>) -> Option<Vec<At<&'a str>>> {
        let node = self.value(key, problems)?;
        let Value::List(list) = &node.value else { return wrong(key, node, problems) };
        let mut texts = Vec::new();
        for one in list {
            match &one.value {
                Value::Text(text) => texts.push(At { at: one.at, value: text.as_str() }),
                _ => wrong::<()>(key, one, problems).unwrap_or_default(),
            }
        }
        (texts.len() == list.len()).then_some(texts)
    }

    /// A table of texts, in the order of the file.
    pub(super) fn named_texts(&self, key: &Key, problems: &mut Problems<'_>) -> Vec<(&'a Entry, &'a str)> {
        let Some(node) = self.value(key, problems) else { return Vec::new() };
        let Value::Table(entries) = &node.value else {
            return wrong(key, node, problems).unwrap_or_default();
        };
        let mut texts = Vec::new();
        for entry in entries {
            match &entry.node.value {
                Value::Text(text) => texts.push((entry, text.as_str())),
                other => problems
                    .error(entry.node.at, format!("`{}` in `{}` is {}; it takes a text", entry.key, key.key, other.name())),
            }
        }
        texts
    }

    pub(super) fn expression(&self, key: &Key, problems: &mut Problems<'_>) -> Option<Expression> {
        let text = self.text(key, problems)?;
        compile(key.key, text, problems)
    }

    pub(super) fn template(&self, key: &Key, problems: &mut Problems<'_>) -> Option<At<Template>> {
        let text = self.text(key, problems)?;
        Some(At { at: text.at, value: Template::parse(text.value) })
    }

    pub(super) fn templates(&self, key: &Key, problems: &mut Problems<'_>) -> Vec<At<Template>> {
        let texts = self.texts(key, problems).unwrap_or_default();
        texts.into_iter().map(|text| At { at: text.at, value: Template::parse(text.value) }).collect()
    }

    /// A table within this one.
    pub(super) fn table(&self, key: &Key, problems: &mut Problems<'_>) -> Option<Section<'a>> {
        let node = self.value(key, problems)?;
        let Shape::Table(scope) = key.shape else { return None };
        match node.value {
            Value::Table(_) => Section::open(node, scope, problems),
            _ => wrong(key, node, problems),
        }
    }

    /// A list of tables, unopened.
    pub(super) fn tables(&self, key: &Key, problems: &mut Problems<'_>) -> Vec<&'a Node> {
        let Some(node) = self.value(key, problems) else { return Vec::new() };
        let Value::List(list) = &node.value else { return wrong(key, node, problems).unwrap_or_default() };
        if list.is_empty() && key.required {
            problems.error(node.at, format!("`{}` is empty; at least one is needed", key.key));
        }
        let mut tables = Vec::new();
        for one in list {
            match one.value {
                Value::Table(_) => tables.push(one),
                _ => wrong::<()>(key, one, problems).unwrap_or_default(),
            }
        }
        tables
    }

    /// Named tables, unopened.
    pub(super) fn named_tables(&self, key: &Key, problems: &mut Problems<'_>) -> Vec<&'a Entry> {
        let Some(node) = self.value(key, problems) else { return Vec::new() };
        let Value::Table(entries) = &node.value else { return wrong(key, node, problems).unwrap_or_default() };
        let mut tables = Vec::new();
        for entry in entries {
            match entry.node.value {
                Value::Table(_) => tables.push(entry),
                _ => wrong::<()>(key, &entry.node, problems).unwrap_or_default(),
            }
        }
        tables
    }
}

/// Compiled; what is wrong with it is told.
pub(super) fn compile(name: &str, text: At<&str>, problems: &mut Problems<'_>) -> Option<Expression> {
    Expression::compile(text.value)
        .map_err(|error| problems.error(text.at, format!("the expression `{name}` is refused: {error}")))
        .ok()
}

fn one_of(key: &Key, choices: &[&str], text: At<&str>, problems: &mut Problems<'_>) -> Option<usize> {
    let found = choices.iter().position(|choice| *choice == text.value);
    if found.is_none() {
        let near = nearest(text.value, choices.iter().copied());
        let near = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
        problems.error(text.at, format!("`{}` is \"{}\"; it takes {}{near}", key.key, text.value, key.shape.accepts()));
    }
    found
}

fn wrong<T>(key: &Key, node: &Node, problems: &mut Problems<'_>) -> Option<T> {
    problems.error(node.at, format!("`{}` is {}; it takes {}", key.key, node.value.name(), key.shape.accepts()));
    None
}

/// Whether it may be the name of a playbook, profile, action or job.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 63 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// Whether it may be the name of a variable.
pub(super) fn is_variable(text: &str) -> bool {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts_well && text.len() <= 63 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
