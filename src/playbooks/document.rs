//! Reads the whole document and finds all that is wrong with it at once; a playbook with a mistake does not stop the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::action::ActionSpec;
use super::action_reader::{self, Names};
use super::evaluate::Select;
use super::keys;
use super::near::nearest;
use super::reader::{At, Problem, Problems, Section, compile, is_name, is_variable};
use super::secrets::Known;
use super::tree::{Entry, Node, Value, parse};
use super::{LeftOut, Loaded, Playbook, Priority, Root, source};
use crate::notifications::profile::Profile;
use crate::notifications::wanted::normalised;
use crate::platform::header;

/// With waits that double from 2 s to an hour, some four hours: as long as Microsoft Graph itself tries.
const DEFAULT_ATTEMPTS: u32 = 16;

/// Reads a document, TOML or JSON. `secrets` tells whether a secret of a name is there.
#[must_use]
pub fn load(text: &str, secrets: &dyn Fn(&str) -> bool) -> Loaded {
    load_knowing(text, &|name| if secrets(name) { Known::Kept } else { Known::Missing })
}

/// The same for who knows more of the secrets than whether they are there.
#[must_use]
pub fn load_knowing(text: &str, secrets: &dyn Fn(&str) -> Known) -> Loaded {
    let mut problems = Problems::new(text);
    let mut loaded = Loaded {
        playbooks: Vec::new(),
        left_out: Vec::new(),
        together: Arc::default(),
        profiles: BTreeMap::new(),
        problems: Vec::new(),
    };
    match parse(text) {
        Ok(root) => read(&root, secrets, &mut loaded, &mut problems),
        Err(mistakes) => {
            for (at, mistake) in mistakes {
                problems.error(at, mistake);
            }
            loaded.left_out.extend(problems.first_error(0).map(LeftOut::unknown));
        }
    }
    loaded.problems = problems.finish();
    loaded.name_groups();
    loaded
}

fn read(root: &Node, secrets: &dyn Fn(&str) -> Known, loaded: &mut Loaded, problems: &mut Problems<'_>) {
    use keys::Scope;
    let Some(document) = Section::open(root, Scope::Document, problems) else { return };
    loaded.left_out.extend(problems.first_error(0).filter(|_| has_stray_playbooks(root)).map(LeftOut::unknown));
    let version = document.whole(&keys::VERSION, problems);
    let defaults = document.table(&keys::DEFAULTS_TABLE, problems);
    let attempts = defaults.and_then(|defaults| defaults.whole(&keys::DEFAULT_MAX_ATTEMPTS, problems));
    let attempts = attempts.and_then(|attempts| u32::try_from(attempts.value).ok()).unwrap_or(DEFAULT_ATTEMPTS);
    let mut profiles = BTreeSet::new();
    for entry in document.named_tables(&keys::PROFILES, problems) {
        // One with a mistake is there, too: who names it made none.
        profiles.insert(entry.key.as_str());
        if let Some(profile) = profile(entry, problems) {
            loaded.profiles.insert(entry.key.clone(), profile);
        }
    }
    let mut reading = Reading { secrets, profiles, attempts, names: BTreeSet::new(), answers: BTreeMap::new() };
    let before = problems.count();
    let tables = document.tables(&keys::PLAYBOOKS, problems);
    loaded.left_out.extend(problems.first_error(before).map(LeftOut::unknown));
    for node in tables {
        let before = problems.count();
        let playbook = reading.playbook(node, problems);
        match problems.first_error(before) {
            None => loaded.playbooks.extend(playbook),
            Some(problem) => {
                let left = left_out(node, problem, loaded);
                loaded.left_out.push(left);
            }
        }
    }
    if version.is_none() {
        // Of another version nothing is certain.
        loaded.playbooks.clear();
        loaded.left_out = problems.first_error(0).map(LeftOut::unknown).into_iter().collect();
    }
    if document.entry(&keys::PLAYBOOKS).is_none() {
        problems.warning(root.at, "the document has no `[[playbook]]`");
    }
}

/// Tables of which nobody knows what they are, and that may be playbooks.
fn has_stray_playbooks(root: &Node) -> bool {
    let Value::Table(entries) = &root.value else { return false };
    let known = |key: &str| keys::KEYS.iter().any(|row| row.scope == keys::Scope::Document && row.key == key);
    let like = |entry: &&Entry| {
        matches!(entry.node.value, Value::List(_)) || nearest(&entry.key, [keys::PLAYBOOKS.key].into_iter()).is_some()
    };
    entries.iter().filter(|entry| !known(&entry.key)).any(|entry| like(&entry))
}

/// What can be told of a playbook with a mistake. What is wrong with it was told.
fn left_out(node: &Node, problem: Problem, loaded: &Loaded) -> LeftOut {
    let mut wrong = Problems::new("");
    let Some(section) = Section::peek(node, [keys::Scope::Playbook; 2]) else { return LeftOut::unknown(problem) };
    let taken = |name: &str| {
        let of_others = loaded.left_out.iter().filter_map(|other| other.name.as_deref());
        of_others.chain(loaded.playbooks.iter().map(|other| other.name.as_str())).any(|other| other == name)
    };
    let name = section.text(&keys::NAME, &mut wrong).map(|name| name.value).filter(|name| is_name(name) && !taken(name));
    let enabled = section.flag(&keys::ENABLED, &mut wrong);
    let guessed = section.table(&keys::SOURCE_TABLE, &mut wrong).and_then(|section| source::guess(&section));
    let certain = guessed.as_ref().is_some_and(|(_, certain)| *certain);
    let shadow = guessed.map(|(source, _)| {
        let section_of_fetch = section.table(&keys::FETCH_TABLE, &mut wrong);
        let mut wrong = Problems::new("");
        let mut fetch = source::read_fetch(section_of_fetch.as_ref(), Some(&source), &mut wrong);
        if wrong.errors() > 0 {
            fetch = source::read_fetch(None, Some(&source), &mut wrong);
        }
        Playbook {
            name: name.unwrap_or_default().to_owned(),
            enabled,
            paused: section.flag(&keys::PAUSED, &mut wrong),
            priority: Priority::Normal,
            tenant: section.text(&keys::TENANT, &mut wrong).map_or(keys::TENANT.default, |tenant| tenant.value).to_owned(),
            root: Root::Context,
            source,
            fetch,
            when: None,
            select: Select::default(),
            actions: Vec::new(),
            max_attempts: DEFAULT_ATTEMPTS,
            group: String::new(),
            all: Arc::default(),
        }
    });
    LeftOut { name: name.map(str::to_owned), enabled, shadow, certain, problem: Some(problem) }
}

/// What the playbooks of one document share.
struct Reading<'a> {
    secrets: &'a dyn Fn(&str) -> Known,
    profiles: BTreeSet<&'a str>,
    attempts: u32,
    /// Taken.
    names: BTreeSet<&'a str>,
    /// The profile of each subscription, and the playbook that named it.
    answers: BTreeMap<(String, String), (Option<String>, String)>,
}

impl<'a> Reading<'a> {
    fn playbook(&mut self, node: &'a Node, problems: &mut Problems<'_>) -> Option<Playbook> {
        let section = Section::open(node, keys::Scope::Playbook, problems)?;
        let name = section.text(&keys::NAME, problems);
        if let Some(name) = name {
            self.name(name, problems);
        }
        let enabled = section.flag(&keys::ENABLED, problems);
        let paused = section.flag(&keys::PAUSED, problems);
        let priority = section.choice(&keys::PRIORITY, problems);
        let tenant = section.text(&keys::TENANT, problems);
        if let Some(tenant) = tenant.filter(|tenant| !is_name(tenant.value)) {
            problems.error(tenant.at, format!("`tenant` takes {}", keys::TENANT.shape.accepts()));
        }
        let root = section.choice(&keys::ROOT, problems);
        let when = section.entry(&keys::WHEN).and_then(|_| section.expression(&keys::WHEN, problems));
        let attempts = section.whole(&keys::MAX_ATTEMPTS, problems);
        let source_section = section.table(&keys::SOURCE_TABLE, problems);
        let source = source_section.and_then(|section| source::read(&section, problems));
        let profile_at = source_section.map_or(section.at, |source| source.place(&keys::PROFILE_NAME));
        if let Some(source) = &source {
            self.known_profile(source, profile_at, problems);
        }
        let fetch = section.table(&keys::FETCH_TABLE, problems);
        let fetch = source::read_fetch(fetch.as_ref(), source.as_ref(), problems);
        let selected = section.table(&keys::SELECT_TABLE, problems);
        let (select, names) = selected.map(|selected| select(&selected, problems)).unwrap_or_default();
        let actions = self.actions(&section, &names, problems);
        let playbook = Playbook {
            name: name?.value.to_owned(),
            enabled,
            paused,
            priority: [Priority::Normal, Priority::Urgent][priority?],
            tenant: tenant.map_or(keys::TENANT.default, |tenant| tenant.value).to_owned(),
            root: [Root::Context, Root::Item, Root::ResourceData][root?],
            source: source?,
            fetch,
            when,
            select,
            actions,
            max_attempts: attempts.and_then(|attempts| u32::try_from(attempts.value).ok()).unwrap_or(self.attempts),
            // Once all are read.
            group: String::new(),
            all: Arc::default(),
        };
        self.profile(&playbook, profile_at, problems);
        Some(playbook)
    }

    fn name(&mut self, name: At<&'a str>, problems: &mut Problems<'_>) {
        if !is_name(name.value) {
            problems.error(name.at, format!("`name` takes {}, at most 63", keys::NAME.shape.accepts()));
        } else if !self.names.insert(name.value) {
            problems.error(name.at, format!("another playbook is called `{}`; give each its own name", name.value));
        }
    }

    /// Told whatever else is wrong with the playbook.
    fn known_profile(&self, source: &source::Source, at: usize, problems: &mut Problems<'_>) {
        let named = source.profile.as_deref().filter(|_| source.kind == super::SourceKind::Graph);
        let Some(name) = named.filter(|name| !self.profiles.contains(name)) else { return };
        let near = super::near::nearest(name, self.profiles.iter().copied());
        let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        problems.error(at, format!("there is no `[profile.{name}]`{near}"));
    }

    /// The answer belongs to the address, and one subscription has one address.
    fn profile(&mut self, playbook: &Playbook, at: usize, problems: &mut Problems<'_>) {
        let of_source = &playbook.source;
        if of_source.kind != super::SourceKind::Graph {
            return;
        }
        let own = (of_source.profile.clone(), playbook.name.clone());
        let first = self.answers.entry((playbook.tenant.clone(), normalised(&of_source.resource))).or_insert_with(|| own.clone());
        if first.0 != own.0 {
            let text = format!(
                "playbook `{}` has the same subscription with {}; one subscription has one profile",
                first.1,
                first.0.as_deref().map_or_else(|| "no profile".to_owned(), |name| format!("the profile `{name}`"))
            );
            problems.error(at, text);
        }
    }

    fn actions(&self, section: &Section<'_>, names: &Names, problems: &mut Problems<'_>) -> Vec<ActionSpec> {
        let tables = section.tables(&keys::ACTIONS, problems);
        let mut labels = BTreeSet::new();
        let mut actions = Vec::new();
        for (index, node) in tables.into_iter().enumerate() {
            let Some(action) = action_reader::read(node, index + 1, names, self.secrets, problems) else { continue };
            if !labels.insert(action.label.clone()) {
                problems.error(node.at, format!("another action has the label `{}`; give each its own", action.label));
            }
            actions.push(action);
        }
        actions
    }
}

fn profile(entry: &Entry, problems: &mut Problems<'_>) -> Option<Profile> {
    let before = problems.errors();
    if !is_name(&entry.key) {
        problems.error(entry.at, "the name of a profile is a part of the address: letters, digits, `-` and `_`");
    }
    let section = Section::open(&entry.node, keys::Scope::Profile, problems)?;
    let code = section.whole(&keys::CODE, problems).and_then(|code| u16::try_from(code.value).ok());
    let headers = headers(&section, &keys::HEADERS, problems);
    let body = section.text(&keys::PROFILE_BODY, problems).map(|body| body.value.to_owned()).unwrap_or_default();
    let profile = Profile { code: code.unwrap_or(202), headers, body };
    if let Some(problem) = profile.problem().filter(|_| problems.errors() == before) {
        problems.error(entry.at, problem);
    }
    (problems.errors() == before).then_some(profile)
}

/// Names and values that cannot end a line.
pub(super) fn headers(section: &Section<'_>, key: &keys::Key, problems: &mut Problems<'_>) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    for (entry, value) in section.named_texts(key, problems) {
        if let Some(problem) = header::name_problem(&entry.key) {
            problems.error(entry.at, problem);
        } else if let Some(problem) = header::value_problem(&entry.key, value) {
            problems.error(entry.node.at, problem);
        } else {
            headers.push((entry.key.clone(), value.to_owned()));
        }
    }
    headers
}

fn select(section: &Section<'_>, problems: &mut Problems<'_>) -> (Select, Names) {
    let mut names = Names::default();
    let mut of = |key: &keys::Key, problems: &mut Problems<'_>| {
        let mut expressions = Vec::new();
        for (entry, text) in section.named_texts(key, problems) {
            if !is_variable(&entry.key) {
                let text = format!("`{}` is no name of a variable: letters, digits and `_`, no digit first", entry.key);
                problems.error(entry.at, text);
            } else if !names.add(&entry.key) {
                problems.error(entry.at, format!("the variable `{}` is there twice; give each its own name", entry.key));
            }
            if let Some(expression) = compile(&entry.key, At { at: entry.node.at, value: text }, problems) {
                expressions.push((entry.key.clone(), expression));
            }
        }
        expressions
    };
    let strings = of(&keys::STRING, problems);
    let string_arrays = of(&keys::STRING_ARRAY, problems);
    let select = Select {
        strings,
        string_arrays,
        strip_quotes: section.flag(&keys::STRIP_QUOTES, problems),
        strip_json: section.flag(&keys::STRIP_JSON, problems),
        fail_on_no_results: section.flag(&keys::FAIL_ON_NO_RESULTS, problems),
    };
    (select, names)
}
