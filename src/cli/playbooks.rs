//! `playbooks test FILE`: what the playbooks would do about a notification from a file. Contacts nothing, does nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Exit, render};
use crate::app::Surroundings;
use crate::notifications::item::{ChangeType, Event, Item, Origin};
use crate::notifications::receipt::{Drop, read_file};
use crate::notifications::resources::{Resource, segments};
use crate::platform::json;
use crate::playbooks::action::{Action, Address, Body};
use crate::playbooks::evaluate::{Context, Evaluated, RunError};
use crate::playbooks::{FetchMode, Loaded, Playbook, Severity, SourceKind, load};

const DEFAULT_FILE: &str = "playbooks.toml";
const REMEDY: &str = "name a file with JSON";

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

/// One item and what each playbook makes of it.
struct Tried<'a> {
    shown: String,
    /// Why it would reach no playbook.
    dropped: Option<Drop>,
    runs: Vec<Run<'a>>,
}

struct Run<'a> {
    playbook: &'a Playbook,
    fetch: &'static str,
    /// None: it does not match.
    result: Result<Option<Evaluated>, RunError>,
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
    let text = read(&path, "give the playbooks with --playbooks or PLAYBOOKS_FILE")?;
    let loaded = load(&text, &|name| has_secret(&around.environment, name));
    let path = path.display().to_string();
    if !arguments.json {
        loaded.problems.iter().for_each(|problem| render::line(&format!("{path}:{problem}")));
    }
    let playbooks = chosen(&loaded, arguments.playbook.as_deref())?;
    let fetched = arguments.fetched.as_deref().map(document).transpose()?;
    let now = around.clock.now();
    let tried: Vec<Tried<'_>> = if arguments.resource {
        let object = document(&arguments.file)?;
        let run = |playbook| Run { playbook, fetch: "none", result: as_changed(playbook, &object, now) };
        let runs = playbooks.iter().copied().map(run).collect();
        vec![Tried { shown: "the object, as if it had changed".to_owned(), dropped: None, runs }]
    } else {
        items(&arguments.file, now)?.iter().map(|item| try_item(&playbooks, item.as_ref(), fetched.as_ref())).collect()
    };
    let page = if arguments.json { as_json(&path, &loaded, &tried) } else { as_text(&tried) };
    render::print(&page);
    let failed = tried.iter().any(|one| one.dropped.is_some() || one.runs.iter().any(|run| run.result.is_err()));
    Ok(match (loaded.has_errors(), failed) {
        (true, _) => Exit::Usage,
        (false, true) => Exit::Failed,
        (false, false) => Exit::Done,
    })
}

fn chosen<'a>(loaded: &'a Loaded, name: Option<&str>) -> Result<Vec<&'a Playbook>, String> {
    let chosen: Vec<&Playbook> =
        loaded.playbooks.iter().filter(|playbook| name.is_none_or(|name| name == playbook.name)).collect();
    match name {
        Some(name) if chosen.is_empty() => {
            let names: Vec<&str> = loaded.playbooks.iter().map(|playbook| playbook.name.as_str()).collect();
            Err(format!("no playbook that can run is called `{name}`; there are: {}", names.join(", ")))
        }
        _ => Ok(chosen),
    }
}

/// In the vault, which is not asked here, any name may be.
fn has_secret(environment: &BTreeMap<String, String>, name: &str) -> bool {
    let set = |key: &str| environment.get(key).is_some_and(|value| !value.trim().is_empty());
    set(name) || set("KEY_VAULT_URL")
}

fn read(path: &Path, remedy: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| unread(path, &error, remedy))
}

fn unread(path: &Path, error: &io::Error, remedy: &str) -> String {
    format!("{} cannot be read: {error}; {remedy}", path.display())
}

fn document(path: &Path) -> Result<Value, String> {
    let text = read(path, REMEDY)?;
    json::read(text.trim_start_matches('\u{feff}').as_bytes()).map_err(|error| format!("{} is no JSON: {error}", path.display()))
}

fn try_item<'a>(playbooks: &[&'a Playbook], item: Result<&Item, &Drop>, fetched: Option<&Value>) -> Tried<'a> {
    let item = match item {
        Ok(item) => item,
        Err(reason) => return Tried { shown: format!("dropped: {reason}"), dropped: Some(*reason), runs: Vec::new() },
    };
    let change = match item.event {
        Event::Change(change) => change.name(),
        Event::Lifecycle(event) => event.name(),
    };
    let mut shown = format!("{change} {}", render::printable(item.resource.as_deref().unwrap_or("(no resource)")));
    match (&item.encrypted, fetched) {
        (None, _) => {}
        (Some(_), None) => shown.push_str(" (encrypted: it is not opened here; --fetched gives what it holds)"),
        (Some(_), Some(_)) => shown.push_str(" (encrypted: --fetched stands for what it holds)"),
    }
    let run = |playbook: &'a Playbook| {
        let mode = playbook.fetch_for(item);
        if !playbook.matches(item, None) {
            return Run { playbook, fetch: fetch(mode), result: Ok(None) };
        }
        let comes_along = item.origin == Origin::Poll || item.encrypted.is_some();
        let reads = mode != FetchMode::None || comes_along || playbook.source.rich;
        let resource = fetched.filter(|_| reads);
        let result = playbook.evaluate(&Context { item, resource, attempt: 0 }).map(Some);
        Run { playbook, fetch: fetch(mode), result }
    };
    Tried { shown, dropped: None, runs: playbooks.iter().copied().map(run).collect() }
}

/// The playbook's own first change, of this object.
fn as_changed(playbook: &Playbook, object: &Value, now: Timestamp) -> Result<Option<Evaluated>, RunError> {
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
    playbook.evaluate(&Context { item: &item, resource: Some(object), attempt: 0 }).map(Some)
}

/// The notifications of a delivery, of a list, or the one that stands alone, as the endpoint reads them. Only the client state is
/// not checked: who tries a playbook has none that is good, and nobody sent the file.
fn items(path: &Path, now: Timestamp) -> Result<Vec<Result<Item, Drop>>, String> {
    let bytes = std::fs::read(path).map_err(|error| unread(path, &error, REMEDY))?;
    let items = read_file(&bytes, now).map_err(|error| format!("{} is no JSON: {error}", path.display()))?;
    if items.is_empty() {
        return Err(format!("{} holds no notification", path.display()));
    }
    Ok(items.into_iter().map(|item| item.map(polled)).collect())
}

/// What cannot be subscribed to comes from a poll.
fn polled(item: Item) -> Item {
    let polled = item.resource.as_deref().and_then(Resource::of_object).is_some_and(|row| row.minutes.is_none());
    Item { origin: if polled { Origin::Poll } else { item.origin }, ..item }
}

fn state(playbook: &Playbook) -> &'static str {
    match (playbook.enabled, playbook.paused) {
        (false, _) => "disabled",
        (true, true) => "paused",
        (true, false) => "enabled",
    }
}

fn fetch(mode: FetchMode) -> &'static str {
    match mode {
        FetchMode::None => "none",
        FetchMode::Resource => "resource",
        FetchMode::Delta => "delta",
    }
}

fn as_text(tried: &[Tried<'_>]) -> String {
    let mut page = String::new();
    for (index, one) in tried.iter().enumerate() {
        let _ = writeln!(page, "Item {}: {}", index + 1, one.shown);
        for Run { playbook, fetch, result } in &one.runs {
            let held = match state(playbook) {
                "enabled" => "",
                "paused" => " (paused: it would be held)",
                _ => " (disabled: it would be put with the dead letters)",
            };
            let _ = match result {
                Ok(None) => writeln!(page, "  {}: does not match", playbook.name),
                Ok(Some(evaluated)) if !evaluated.applies => {
                    writeln!(page, "  {}: matches, skipped because `when` is not true{held}", playbook.name)
                }
                Ok(Some(evaluated)) => {
                    let _ = writeln!(page, "  {}: matches{held}; fetch: {fetch}", playbook.name);
                    page.push_str(&outcome(playbook, evaluated));
                    Ok(())
                }
                Err(error) => writeln!(page, "  {}: matches, and FAILS: {error}", playbook.name),
            };
        }
        if one.runs.is_empty() && one.dropped.is_none() {
            page.push_str("  there is no playbook that can run\n");
        }
    }
    page
}

fn outcome(playbook: &Playbook, evaluated: &Evaluated) -> String {
    let mut page = String::new();
    let width = evaluated.variables.keys().map(String::len).max().unwrap_or_default();
    for (name, value) in &evaluated.variables {
        let _ = writeln!(page, "    {name:<width$} = {}", render::reason(&value.json().to_string()));
    }
    for (spec, action) in playbook.actions.iter().zip(&evaluated.actions) {
        let _ = writeln!(page, "    → {} {}: {}", spec.label, spec.kind(), render::reason(&summary(action)));
    }
    page
}

/// One action on one line.
fn summary(action: &Action) -> String {
    match action {
        Action::TriggerExport { job, coalesce_seconds } => {
            format!("an export of {} at most every {coalesce_seconds} s", job.as_deref().unwrap_or("all jobs"))
        }
        Action::ThreatConnectIndicator { values, .. } if values.is_empty() => "nothing: there is no value".to_owned(),
        Action::ThreatConnectIndicator { owner, indicator_type, values, .. } => {
            format!("{} of type {indicator_type} in {owner}: {}", values.len(), values.join(", "))
        }
        Action::ThreatConnectCase { name, severity, xid, artifacts, .. } => {
            format!("`{name}`, {severity}, {} artifacts ({xid})", artifacts.len())
        }
        Action::Queue { queue, body } => format!("to `{queue}`: {}", body_text(body)),
        Action::Webhook { address, body, .. } => {
            let target = match address {
                Address::Url(url) => url.clone(),
                Address::Secret(name) => format!("the address in the secret `{name}`"),
            };
            format!("POST to {target}: {}", body_text(body))
        }
    }
}

fn body_text(body: &Body) -> String {
    match body {
        Body::Json(value) => value.to_string(),
        Body::Text(text) => text.clone(),
    }
}

fn as_json(path: &str, loaded: &Loaded, tried: &[Tried<'_>]) -> String {
    let problems: Vec<Value> = loaded
        .problems
        .iter()
        .map(|problem| {
            let severity = if problem.severity == Severity::Error { "error" } else { "warning" };
            json!({"line": problem.line, "column": problem.column, "severity": severity, "text": problem.text})
        })
        .collect();
    let run = |Run { playbook, fetch, result }: &Run<'_>| {
        let mut shown = json!({"name": playbook.name, "state": state(playbook), "matches": !matches!(result, Ok(None))});
        match result {
            Ok(None) => {}
            Ok(Some(evaluated)) => {
                let variables = evaluated.variables.iter().map(|(name, value)| (name.clone(), value.json()));
                let actions = playbook.actions.iter().zip(&evaluated.actions);
                shown["applies"] = evaluated.applies.into();
                shown["fetch"] = (*fetch).into();
                shown["variables"] = Value::Object(variables.collect());
                shown["actions"] = actions.map(|(spec, action)| json!({"label": spec.label, "action": action})).collect();
            }
            Err(error) => shown["error"] = json!({"reason": error.reason(), "text": error.to_string()}),
        }
        shown
    };
    let item = |one: &Tried<'_>| {
        let mut shown = json!({"item": one.shown, "playbooks": one.runs.iter().map(run).collect::<Vec<_>>()});
        if let Some(reason) = one.dropped {
            shown["dropped"] = reason.to_string().into();
        }
        shown
    };
    let items: Vec<Value> = tried.iter().map(item).collect();
    let document = json!({"file": path, "problems": problems, "items": items});
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}
