//! `playbooks test FILE`: what the playbooks would do about a notification from a file. Contacts nothing, does nothing.

mod page;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Exit, render};
use crate::app::Surroundings;
use crate::dispatch::{Fetch, Plan, Unnamed};
use crate::notifications::item::{ChangeType, Event, Item, LifecycleEvent, Origin};
use crate::notifications::receipt::{Drop, read_file};
use crate::notifications::resources::{Resource, says_kind, segments};
use crate::platform::json;
use crate::platform::secret::Secret;
use crate::playbooks::evaluate::{Context, Evaluated, RunError};
use crate::playbooks::{Known, Loaded, Playbook, SourceKind, load_knowing};

const DEFAULT_FILE: &str = "playbooks.toml";
const OBJECT: &str = "name a file with one object as JSON";
const DELIVERY: &str = "name a file with a delivery as Microsoft Graph posts it, or one notification; with --resource, an object";
/// What notifications have and objects do not.
const EVENT_MEMBERS: [&str; 3] = ["value", "changeType", "lifecycleEvent"];

#[derive(Debug, clap::Args)]
pub(super) struct Test {
    /// A delivery as Microsoft Graph posts it (clientState is not checked), one notification of it, or with --resource an object.
    file: PathBuf,
    /// The playbooks; else PLAYBOOKS_FILE, else playbooks.toml.
    #[arg(long, value_name = "PATH")]
    playbooks: Option<PathBuf>,
    /// FILE is the object itself, such as a user or an alert: every playbook is run as if it had changed.
    #[arg(long, conflicts_with = "fetched")]
    resource: bool,
    /// A file with the object that would be fetched.
    #[arg(long, value_name = "PATH")]
    fetched: Option<PathBuf>,
    /// Only this playbook.
    #[arg(long, value_name = "NAME")]
    playbook: Option<String>,
    /// One JSON document on standard output, nothing else there.
    #[arg(long)]
    json: bool,
}

/// What there is to try, and what came of it.
struct Trial<'a> {
    /// The file of the playbooks.
    path: &'a str,
    loaded: &'a Loaded,
    /// All playbooks are tried, and those that were left out are named.
    all: bool,
    tried: Vec<Tried<'a>>,
}

/// One item and what each playbook makes of it.
struct Tried<'a> {
    shown: String,
    /// Why it would reach no playbook.
    dropped: Option<Drop>,
    /// What is done about a subscription, which no playbook sees.
    lifecycle: Option<&'static str>,
    /// It is taken for what each playbook's own subscription tells.
    assumed: bool,
    runs: Vec<Run<'a>>,
}

struct Run<'a> {
    playbook: &'a Playbook,
    fetch: Fetching,
    result: Result<Outcome, RunError>,
}

/// How `resource` would be read.
struct Fetching {
    mode: &'static str,
    /// Below the version of the interface.
    path: Option<String>,
    /// What that means here; blank: nothing that needs words.
    note: String,
}

enum Outcome {
    /// The playbook does not match, and why.
    Other(String),
    Evaluated(Evaluated),
}

pub(super) fn test(arguments: &Test, around: &Surroundings) -> Exit {
    match run(arguments, around) {
        Ok(exit) => exit,
        Err(line) => {
            render::error(&line);
            Exit::Usage
        }
    }
}

fn run(arguments: &Test, around: &Surroundings) -> Result<Exit, String> {
    let given = around.environment.get("PLAYBOOKS_FILE").filter(|path| !path.trim().is_empty()).map(PathBuf::from);
    let path = arguments.playbooks.clone().or(given).unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let text = std::fs::read_to_string(&path)
        .map_err(|error| unread(&path, &error, "give the playbooks with --playbooks or PLAYBOOKS_FILE"))?;
    let loaded = load_knowing(&text, &|name| known(&around.environment, name));
    let path = path.display().to_string();
    if !arguments.json {
        loaded.problems.iter().for_each(|problem| render::line(&format!("{path}:{problem}")));
    }
    let playbooks = chosen(&path, &loaded, arguments.playbook.as_deref())?;
    let fetched = arguments.fetched.as_deref().map(document).transpose()?;
    let now = around.clock.now();
    let tried: Vec<Tried<'_>> = if arguments.resource {
        let object = object(&arguments.file)?;
        let runs = playbooks.iter().map(|playbook| as_changed(playbook, &object, now)).collect();
        vec![Tried { shown: "the object, as if it had changed".to_owned(), dropped: None, lifecycle: None, assumed: false, runs }]
    } else {
        items(&arguments.file, now)?.iter().map(|item| try_item(&playbooks, item.as_ref(), fetched.as_ref())).collect()
    };
    let trial = Trial { path: &path, loaded: &loaded, all: arguments.playbook.is_none(), tried };
    render::print(&if arguments.json { trial.as_json() } else { trial.as_text() });
    let failed = trial.tried.iter().any(|one| one.dropped.is_some() || one.runs.iter().any(|run| run.result.is_err()));
    Ok(match (loaded.has_errors(), failed) {
        (true, _) => Exit::Usage,
        (false, true) => Exit::Failed,
        (false, false) => Exit::Done,
    })
}

fn chosen<'a>(path: &str, loaded: &'a Loaded, name: Option<&str>) -> Result<Vec<&'a Playbook>, String> {
    let chosen: Vec<&Playbook> =
        loaded.playbooks.iter().filter(|playbook| name.is_none_or(|name| name == playbook.name)).collect();
    let Some(name) = name.filter(|_| chosen.is_empty()) else { return Ok(chosen) };
    let names: Vec<&str> = loaded.playbooks.iter().map(|playbook| playbook.name.as_str()).collect();
    let others = if names.is_empty() { "no other one is there".to_owned() } else { format!("there are: {}", names.join(", ")) };
    Err(match loaded.left_out.iter().find(|one| one.name.as_deref() == Some(name)) {
        Some(left_out) => {
            let line = left_out.line().map(|line| format!(", line {line}")).unwrap_or_default();
            format!("`{name}` ({path}{line}) cannot run because of its mistakes; {others}")
        }
        None => format!("no playbook in {path} is called `{name}`; {others}"),
    })
}

/// Nothing is done here, so nothing is missing. In the vault, which is not asked, any name may be.
fn known(environment: &BTreeMap<String, String>, name: &str) -> Known {
    let set = |key: &str| environment.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
    match (set(name), set("KEY_VAULT_URL")) {
        (Some(value), _) => Known::Given(Secret::new(value)),
        (None, Some(_)) => Known::Kept,
        (None, None) => Known::NotHere,
    }
}

fn unread(path: &Path, error: &io::Error, remedy: &str) -> String {
    format!("{} cannot be read: {error}; {remedy}", path.display())
}

fn bytes_of(path: &Path, remedy: &str) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(path).map_err(|error| unread(path, &error, remedy))?;
    if bytes.trim_ascii().is_empty() { Err(format!("{} is empty; {remedy}", path.display())) } else { Ok(bytes) }
}

fn no_json(path: &Path, error: &serde_json::Error) -> String {
    let toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
    let hint = if toml { "; playbooks are given with --playbooks" } else { "" };
    format!("{} is no JSON: {error}{hint}", path.display())
}

fn document(path: &Path) -> Result<Value, String> {
    let bytes = bytes_of(path, OBJECT)?;
    json::read(bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes)).map_err(|error| no_json(path, &error))
}

/// What `--resource` takes: no delivery, of which nothing would be found.
fn object(path: &Path) -> Result<Value, String> {
    let object = document(path)?;
    let Some(members) = object.as_object() else { return Err(format!("{} holds no object; {OBJECT}", path.display())) };
    match members.keys().find(|key| EVENT_MEMBERS.iter().any(|member| member.eq_ignore_ascii_case(key))) {
        Some(key) => Err(format!("{} has `{key}`: it is a delivery or a notification; leave --resource out", path.display())),
        None => Ok(object),
    }
}

fn try_item<'a>(playbooks: &[&'a Playbook], item: Result<&Item, &Drop>, fetched: Option<&Value>) -> Tried<'a> {
    let none = Tried { shown: String::new(), dropped: None, lifecycle: None, assumed: false, runs: Vec::new() };
    let item = match item {
        Ok(item) => item,
        Err(reason) => return Tried { shown: format!("dropped: {reason}"), dropped: Some(*reason), ..none },
    };
    let change = match item.event {
        Event::Change(change) => change.name(),
        Event::Lifecycle(event) => return Tried { shown: event.name().to_owned(), lifecycle: Some(done_about(event)), ..none },
    };
    let mut shown = format!("{change} {}", render::printable(item.resource.as_deref().unwrap_or("(no resource)")));
    match (&item.encrypted, fetched) {
        (None, _) => {}
        (Some(_), None) => shown.push_str(" (encrypted: it is not opened here; --fetched gives what it holds)"),
        (Some(_), Some(_)) => shown.push_str(" (encrypted: --fetched stands for what it holds)"),
    }
    let run = |playbook: &&'a Playbook| try_playbook(playbook, item, fetched);
    Tried { shown, assumed: !says_kind(item.resource.as_deref()), runs: playbooks.iter().map(run).collect(), ..none }
}

fn try_playbook<'a>(playbook: &'a Playbook, item: &Item, fetched: Option<&Value>) -> Run<'a> {
    let fetch = fetching(playbook, item, fetched.is_some());
    if let Some(why) = playbook.mismatch(item) {
        return Run { playbook, fetch, result: Ok(Outcome::Other(why)) };
    }
    let comes_along = item.origin == Origin::Poll || item.encrypted.is_some();
    let resource = fetched.filter(|_| comes_along || fetch.path.is_some());
    let result = playbook.evaluate(&Context { item, resource, attempt: 0 }).map(Outcome::Evaluated);
    Run { playbook, fetch, result }
}

/// As `subscriptions::lifecycle` answers it.
fn done_about(event: LifecycleEvent) -> &'static str {
    match event {
        LifecycleEvent::ReauthorizationRequired => "the subscription would be renewed, which reauthorizes it",
        LifecycleEvent::SubscriptionRemoved => "the subscription would be made anew, and what was missed meanwhile looked up",
        LifecycleEvent::Missed => "what was missed would be looked up",
    }
}

/// As the worker would read, with what stands for it here.
fn fetching(playbook: &Playbook, item: &Item, given: bool) -> Fetching {
    let plan = Plan::of(playbook.clone());
    let mode = match &plan.fetch {
        Fetch::Nothing => "none",
        Fetch::Resource(_) => "resource",
        Fetch::Delta(_) => "delta",
    };
    let not_here =
        if given { "--fetched stands for it" } else { "not read here: `resource` is null; give the object with --fetched FILE" };
    let nothing = |note: &str| Fetching { mode: "none", path: None, note: note.to_owned() };
    if item.encrypted.is_some() || item.origin == Origin::Poll {
        let note = if given {
            not_here
        } else {
            "it comes along, and is not here: `resource` is null; give the object with --fetched FILE"
        };
        return nothing(note);
    }
    match plan.address(item) {
        Ok(Some(path)) => Fetching { mode, path: Some(path), note: not_here.to_owned() },
        Ok(None) if mode != "none" => nothing("there is nothing left to read: `resource` is null"),
        Ok(None) if given => nothing("--fetched has no effect"),
        Ok(None) => nothing(""),
        Err(Unnamed { why, is_set_aside: true }) => Fetching { mode, path: None, note: format!("{why}: it would be set aside") },
        Err(Unnamed { why, .. }) => nothing(&format!("{why}: `resource` is null")),
    }
}

/// The playbook's own first change, of this object.
fn as_changed<'a>(playbook: &'a Playbook, object: &Value, now: Timestamp) -> Run<'a> {
    let change = playbook.source.change_types.first().copied().unwrap_or(ChangeType::Updated);
    let id = object.get("id").and_then(Value::as_str).unwrap_or_default();
    let parent = segments(&playbook.source.resource).join("/");
    let resource = if parent.ends_with(id) { parent } else { format!("{parent}/{id}") };
    let mut notification = Map::new();
    notification.insert("changeType".to_owned(), change.name().into());
    notification.insert("resource".to_owned(), resource.as_str().into());
    let known = ["id", "@odata.type", "@odata.id", "@odata.etag"];
    let data = known.into_iter().filter_map(|key| Some((key.to_owned(), object.get(key)?.clone())));
    notification.insert("resourceData".to_owned(), Value::Object(data.collect()));
    let origin = if playbook.source.kind == SourceKind::Poll { Origin::Poll } else { Origin::Graph };
    let item = Item {
        resource: Some(resource),
        notification,
        object: Some(object.clone()),
        ..Item::new(origin, now, Event::Change(change))
    };
    let result = playbook.evaluate(&Context { item: &item, resource: Some(object), attempt: 0 }).map(Outcome::Evaluated);
    Run { playbook, fetch: Fetching { mode: "none", path: None, note: "the object is given".to_owned() }, result }
}

/// The notifications of a delivery, of a list, or the one that stands alone, as the endpoint reads them. Only the client state is
/// not checked: who tries a playbook has none that is good, and nobody sent the file.
fn items(path: &Path, now: Timestamp) -> Result<Vec<Result<Item, Drop>>, String> {
    let bytes = bytes_of(path, DELIVERY)?;
    let items = read_file(&bytes, now).map_err(|error| no_json(path, &error))?;
    let name = path.display();
    if items.is_empty() {
        return Err(format!("{name} holds no notification: its list is empty"));
    }
    if items.as_slice() == [Err(Drop::UnknownEvent)] && is_an_object_itself(path) {
        return Err(format!(
            "{name} is no notification: it has no `changeType`; if it is the object itself, such as a user or an alert, give --resource"
        ));
    }
    Ok(items.into_iter().map(|item| item.map(polled)).collect())
}

fn is_an_object_itself(path: &Path) -> bool {
    let object = document(path).ok();
    object
        .as_ref()
        .and_then(Value::as_object)
        .is_some_and(|members| !members.keys().any(|key| EVENT_MEMBERS.iter().any(|member| member.eq_ignore_ascii_case(key))))
}

/// What cannot be subscribed to comes from a poll.
fn polled(item: Item) -> Item {
    let polled = item.resource.as_deref().and_then(Resource::of_object).is_some_and(|row| row.minutes.is_none());
    Item { origin: if polled { Origin::Poll } else { item.origin }, ..item }
}
