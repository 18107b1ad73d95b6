//! `playbooks test FILE`: what the playbooks would do about a notification from a file. Contacts nothing, does nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Exit, render};
use crate::app::Surroundings;
use crate::notifications::item::{ChangeType, Event, Item, LifecycleEvent, Origin};
use crate::notifications::resources::{Resource, segments};
use crate::platform::json;
use crate::playbooks::action::{Action, Address, Body};
use crate::playbooks::evaluate::{Context, Evaluated, RunError};
use crate::playbooks::{FetchMode, Loaded, Playbook, Severity, SourceKind, load};

const DEFAULT_FILE: &str = "playbooks.toml";

#[derive(Debug, clap::Args)]
pub(super) struct Test {
    /// A delivery as Microsoft Graph posts it, one notification of it, or with --resource an object.
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
    let body = document(&arguments.file)?;
    let fetched = arguments.fetched.as_ref().map(document).transpose()?;
    let now = around.clock.now();
    let tried: Vec<Tried<'_>> = if arguments.resource {
        let runs =
            playbooks.iter().map(|playbook| Run { playbook, fetch: "none", result: as_changed(playbook, &body, now) }).collect();
        vec![Tried { shown: "the object, as if it had changed".to_owned(), runs }]
    } else {
        items(&body, now)?.iter().map(|item| try_item(&playbooks, item, fetched.as_ref())).collect()
    };
    let page = if arguments.json { as_json(&path, &loaded, &tried) } else { as_text(&tried) };
    render::print(&page);
    let failed = tried.iter().flat_map(|tried| &tried.runs).any(|run| run.result.is_err());
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

fn read(path: &PathBuf, remedy: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}; {remedy}", path.display()))
}

fn document(path: &PathBuf) -> Result<Value, String> {
    let text = read(path, "name a file with JSON")?;
    json::read(text.trim_start_matches('\u{feff}').as_bytes()).map_err(|error| format!("{} is no JSON: {error}", path.display()))
}

fn try_item<'a>(playbooks: &[&'a Playbook], item: &Item, fetched: Option<&Value>) -> Tried<'a> {
    let change = match item.event {
        Event::Change(change) => change.name(),
        Event::Lifecycle(event) => event.name(),
    };
    let shown = format!("{change} {}", render::printable(item.resource.as_deref().unwrap_or("(no resource)")));
    let run = |playbook: &'a Playbook| {
        let mode = playbook.fetch_for(item);
        if !playbook.matches(item) {
            return Run { playbook, fetch: fetch(mode), result: Ok(None) };
        }
        let reads = mode != FetchMode::None || item.origin == Origin::Poll || playbook.source.rich;
        let resource = fetched.filter(|_| reads);
        let result = playbook.evaluate(&Context { item, resource, attempt: 0 }).map(Some);
        Run { playbook, fetch: fetch(mode), result }
    };
    Tried { shown, runs: playbooks.iter().copied().map(run).collect() }
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

/// The notifications of a delivery, or the one that stands alone.
fn items(body: &Value, now: Timestamp) -> Result<Vec<Item>, String> {
    let list = match body.get("value").or(Some(body).filter(|body| body.is_array())) {
        Some(Value::Array(list)) => list.as_slice(),
        _ => std::slice::from_ref(body),
    };
    let read = |(index, item): (usize, &Value)| item_of(item, now).map_err(|error| format!("item {}: {error}", index + 1));
    list.iter().enumerate().map(read).collect()
}

const MEMBERS: [&str; 9] = [
    "id",
    "subscriptionId",
    "subscriptionExpirationDateTime",
    "changeType",
    "lifecycleEvent",
    "resource",
    "resourceData",
    "tenantId",
    "organizationId",
];

fn item_of(value: &Value, now: Timestamp) -> Result<Item, String> {
    let given = value.as_object().ok_or("it is no object")?;
    let mut notification = Map::new();
    for (key, value) in given {
        if let Some(name) = MEMBERS.into_iter().find(|name| name.eq_ignore_ascii_case(key)) {
            notification.insert(name.to_owned(), value.clone());
        }
    }
    let text = |name: &str| notification.get(name).and_then(Value::as_str);
    let change = text("changeType").and_then(ChangeType::parse).map(Event::Change);
    let lifecycle = text("lifecycleEvent").and_then(LifecycleEvent::parse).map(Event::Lifecycle);
    let event = change.or(lifecycle).ok_or("it has neither a `changeType` nor a `lifecycleEvent` that is known")?;
    let resource = text("resource").map(str::to_owned);
    // What cannot be subscribed to comes from a poll.
    let parent = resource.as_deref().map(segments).and_then(|all| Some(all.split_last()?.1.join("/")));
    let polled = parent.and_then(|parent| Resource::of(&parent)).is_some_and(|row| row.minutes.is_none());
    Ok(Item {
        subscription: text("subscriptionId").unwrap_or_default().to_owned(),
        tenant: text("tenantId").or_else(|| text("organizationId")).map(str::to_owned),
        resource,
        notification,
        ..Item::new(if polled { Origin::Poll } else { Origin::Graph }, now, event)
    })
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
        if one.runs.is_empty() {
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
    let items: Vec<Value> =
        tried.iter().map(|one| json!({"item": one.shown, "playbooks": one.runs.iter().map(run).collect::<Vec<_>>()})).collect();
    let document = json!({"file": path, "problems": problems, "items": items});
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}
