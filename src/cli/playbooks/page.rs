//! What `playbooks test` shows, as text for people and as one JSON document. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::super::render;
use super::{Fetching, Outcome, Run, Trial, Tried};
use crate::playbooks::action::{Action, ActionSpec, Address, Body};
use crate::playbooks::evaluate::Evaluated;
use crate::playbooks::{LeftOut, Playbook, Severity};

const ASSUMED: &str =
    "its `resource` does not say what it is about, which the worker knows by the subscription: taken for each playbook's own";

impl Trial<'_> {
    pub(super) fn as_text(&self) -> String {
        let mut page = String::new();
        for (index, one) in self.tried.iter().enumerate() {
            let _ = write!(page, "Item {}: {}", index + 1, one.shown);
            if let Some(done) = one.lifecycle {
                let _ = write!(page, ": no playbook's affair; {done}");
            }
            page.push('\n');
            if one.assumed {
                let _ = writeln!(page, "  {ASSUMED}");
            }
            one.runs.iter().for_each(|run| run.show(&mut page));
            if one.dropped.is_some() || one.lifecycle.is_some() {
                continue;
            }
            for left_out in self.loaded.left_out.iter().filter(|_| self.all) {
                let _ = writeln!(page, "  {}: left out because of its mistakes", name_of(left_out));
            }
            if one.runs.is_empty() {
                page.push_str("  there is no playbook that can run\n");
            }
        }
        if self.tried.len() > 1 {
            let _ = writeln!(page, "{}", self.sums());
        }
        page
    }

    /// All items on one line.
    fn sums(&self) -> String {
        let runs = || self.tried.iter().flat_map(|one| &one.runs);
        let evaluated = || {
            runs().filter_map(|run| match &run.result {
                Ok(Outcome::Evaluated(evaluated)) => Some(evaluated),
                _ => None,
            })
        };
        let items = |fits: &dyn Fn(&Tried<'_>) -> bool| self.tried.iter().filter(|one| fits(one)).count();
        let nobodys = |one: &Tried<'_>| {
            let matches = |run: &Run<'_>| !matches!(run.result, Ok(Outcome::Other(_)));
            one.dropped.is_none() && one.lifecycle.is_none() && !one.runs.iter().any(matches)
        };
        let acting = evaluated().filter(|evaluated| evaluated.applies).count();
        let actions: usize = evaluated().map(|evaluated| evaluated.actions.len()).sum();
        let mut parts = Vec::new();
        if acting > 0 {
            parts.push(format!("{} with {}", counted(acting, "run"), counted(actions, "action")));
        }
        for (count, words) in [
            (evaluated().filter(|evaluated| !evaluated.applies).count(), "skipped"),
            (runs().filter(|run| run.result.is_err()).count(), "failed"),
            (items(&nobodys), "for no playbook"),
            (items(&|one| one.lifecycle.is_some()), "about a subscription"),
            (items(&|one| one.dropped.is_some()), "dropped"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {words}"));
            }
        }
        format!("{}: {}", counted(self.tried.len(), "item"), parts.join(", "))
    }

    pub(super) fn as_json(&self) -> String {
        let problems: Vec<Value> = self
            .loaded
            .problems
            .iter()
            .map(|problem| {
                let severity = if problem.severity == Severity::Error { "error" } else { "warning" };
                json!({"line": problem.line, "column": problem.column, "severity": severity, "text": problem.text})
            })
            .collect();
        let left_out: Vec<Value> = self.loaded.left_out.iter().map(|one| json!({"name": one.name, "line": one.line()})).collect();
        let item = |one: &Tried<'_>| {
            let mut shown = json!({"item": one.shown, "playbooks": one.runs.iter().map(Run::as_json).collect::<Vec<_>>()});
            if let Some(reason) = one.dropped {
                shown["dropped"] = reason.to_string().into();
            }
            if let Some(done) = one.lifecycle {
                shown["lifecycle"] = done.into();
            }
            if one.assumed {
                shown["assumed"] = ASSUMED.into();
            }
            shown
        };
        let items: Vec<Value> = self.tried.iter().map(item).collect();
        let document = json!({"file": self.path, "problems": problems, "left_out": left_out, "items": items});
        serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
    }
}

impl Run<'_> {
    fn show(&self, page: &mut String) {
        let name = &self.playbook.name;
        let held = match state(self.playbook) {
            "enabled" => "",
            "paused" => " (paused: it would be held)",
            _ => " (disabled: it would be put with the dead letters)",
        };
        let fetch = self.fetch.text();
        let _ = match &self.result {
            Ok(Outcome::Other(why)) => writeln!(page, "  {name}: does not match: {}", render::reason(why)),
            Ok(Outcome::Evaluated(evaluated)) if !evaluated.applies => {
                writeln!(page, "  {name}: matches, skipped because `when` is not true{held}; {fetch}")
            }
            Ok(Outcome::Evaluated(evaluated)) => {
                let _ = writeln!(page, "  {name}: matches{held}; {fetch}");
                page.push_str(&outcome(self.playbook, evaluated));
                Ok(())
            }
            Err(error) => writeln!(page, "  {name}: matches, and FAILS: {error}; {fetch}"),
        };
    }

    fn as_json(&self) -> Value {
        let Self { playbook, fetch, result } = self;
        let mut shown = json!({"name": playbook.name, "state": state(playbook)});
        shown["matches"] = (!matches!(result, Ok(Outcome::Other(_)))).into();
        match result {
            Ok(Outcome::Other(why)) => shown["why_not"] = why.as_str().into(),
            Ok(Outcome::Evaluated(evaluated)) => {
                let variables = evaluated.variables.iter().map(|(name, value)| (name.clone(), value.json()));
                let actions = playbook.actions.iter().zip(&evaluated.actions);
                shown["applies"] = evaluated.applies.into();
                shown["fetch"] = fetch.mode.into();
                shown["fetch_path"] = fetch.path.as_deref().into();
                shown["variables"] = Value::Object(variables.collect());
                shown["actions"] = actions.map(|(spec, action)| json!({"label": spec.label, "action": action})).collect();
            }
            Err(error) => shown["error"] = json!({"reason": error.reason(), "text": error.to_string()}),
        }
        shown
    }
}

impl Fetching {
    fn text(&self) -> String {
        let path = self.path.as_ref().map(|path| format!(" {}", render::reason(path.trim_start_matches('/'))));
        let note = if self.note.is_empty() { String::new() } else { format!(" ({})", self.note) };
        format!("fetch: {}{}{note}", self.mode, path.unwrap_or_default())
    }
}

fn counted(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

fn name_of(left_out: &LeftOut) -> String {
    match (&left_out.name, left_out.line()) {
        (Some(name), _) => render::printable(name),
        (None, Some(line)) => format!("what line {line} may belong to"),
        (None, None) => "a playbook without a name".to_owned(),
    }
}

fn state(playbook: &Playbook) -> &'static str {
    match (playbook.enabled, playbook.paused) {
        (false, _) => "disabled",
        (true, true) => "paused",
        (true, false) => "enabled",
    }
}

fn outcome(playbook: &Playbook, evaluated: &Evaluated) -> String {
    let mut page = String::new();
    let width = evaluated.variables.keys().map(String::len).max().unwrap_or_default();
    for (name, value) in &evaluated.variables {
        let _ = writeln!(page, "    {name:<width$} = {}", cut(&value.json().to_string()));
    }
    for (index, (spec, action)) in playbook.actions.iter().zip(&evaluated.actions).enumerate() {
        let _ = writeln!(page, "    → action {}, {}", number(index + 1, spec), summary(spec, action));
    }
    page
}

/// Its place, and its label where it has one of its own.
fn number(place: usize, spec: &ActionSpec) -> String {
    let place = place.to_string();
    if spec.label == place { place } else { format!("{place} ({})", spec.label) }
}

/// Foreign text on one line that says where the rest is.
fn cut(text: &str) -> String {
    let short = render::reason(text);
    let is_cut = short.ends_with('…') && !text.ends_with('…');
    if is_cut { format!("{short} (cut; --json shows all)") } else { short }
}

/// One action on one line.
fn summary(spec: &ActionSpec, action: &Action) -> String {
    let kind = spec.kind();
    match action {
        Action::TriggerExport { job, coalesce_seconds } => {
            format!("{kind}: an export of {} at most every {coalesce_seconds} s", job.as_deref().unwrap_or("all jobs"))
        }
        Action::ThreatConnectIndicator { values, .. } if values.is_empty() => format!("{kind}: nothing: there is no value"),
        Action::ThreatConnectIndicator { owner, indicator_type, values, .. } => {
            format!("{kind}: {} of type {indicator_type} in {}: {}", values.len(), cut(owner), cut(&values.join(", ")))
        }
        Action::ThreatConnectCase { name, severity, xid, artifacts, .. } => {
            format!("{kind}: `{}`, {severity}, {} ({xid})", cut(name), counted(artifacts.len(), "artifact"))
        }
        // Who puts the message adds the key, which is another one for each change.
        Action::Queue { queue, body: Body::Json(Value::Object(body)) } => {
            format!("{kind} {queue}, with `idempotencyKey` added: {}", cut(&json!(body).to_string()))
        }
        Action::Queue { queue, body } => format!("{kind} {queue}, as `body` beside `idempotencyKey`: {}", cut(&body_text(body))),
        Action::Webhook { address, body, .. } => {
            let target = match address {
                Address::Url(url) => cut(url),
                Address::Secret(name) => format!("<{name}>"),
            };
            format!("{kind}: POST to {target}: {}", cut(&body_text(body)))
        }
    }
}

fn body_text(body: &Body) -> String {
    match body {
        Body::Json(value) => value.to_string(),
        Body::Text(text) => text.clone(),
    }
}
