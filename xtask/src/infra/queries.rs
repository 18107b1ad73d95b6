//! The KQL of alerts and workbook, as deployed: parsed and bound by Microsoft's own parser, and held against the lines that
//! the handler writes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::laws::Snapshot;
use super::{Checks, Outcome};
use indicator_relay::functions::EVENTS;
use indicator_relay::telemetry::{COMMON, EVENT};

/// A query that must not pass: its column is misspelt.
const WRONG: &str = "AppTraces | where Mesage has 'x'";

/// One text of KQL, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) place: String,
    pub(super) text: String,
}

pub(super) fn checks(root: &Path, snapshots: &[Snapshot]) -> anyhow::Result<Checks> {
    let queries: Vec<Query> = snapshots.iter().flat_map(deployed).collect();
    let files = files(root)?;
    let problems = [unused(&files, &queries), unlike_events(&queries), unwatched(&queries)].concat();
    let events = Outcome::of(problems, format!("{} queries against {} events", queries.len(), EVENTS.len()));
    Ok(vec![("events", events), ("kql", parsed(root, &queries)?)])
}

/// What the snapshot deploys: rules, and items of the workbook.
pub(super) fn deployed(snapshot: &Snapshot) -> Vec<Query> {
    let mut found = Vec::new();
    let mut add = |place: String, text: Option<&str>| {
        found.extend(text.map(|text| Query { place: format!("{}: {place}", snapshot.name), text: text.to_owned() }));
    };
    for rule in snapshot.of("Microsoft.Insights/scheduledQueryRules") {
        let criteria = rule.pointer("/properties/criteria/allOf").and_then(Value::as_array);
        for criterion in criteria.into_iter().flatten() {
            add(rule["name"].as_str().unwrap_or_default().to_owned(), criterion["query"].as_str());
        }
    }
    for workbook in snapshot.of("Microsoft.Insights/workbooks") {
        let data = workbook.pointer("/properties/serializedData").and_then(Value::as_str).unwrap_or_default();
        let read: Value = serde_json::from_str(data).unwrap_or_default();
        for item in read["items"].as_array().into_iter().flatten() {
            add(
                format!("workbook, {}", item["name"].as_str().unwrap_or_default()),
                item.pointer("/content/query").and_then(Value::as_str),
            );
        }
    }
    found
}

fn files(root: &Path) -> anyhow::Result<Vec<Query>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join("infra/queries")).context("failed to read infra/queries/")?.flatten() {
        let place = format!("infra/queries/{}", entry.file_name().to_string_lossy());
        found.push(Query { place, text: fs::read_to_string(entry.path())? });
    }
    Ok(found)
}

fn unused(files: &[Query], queries: &[Query]) -> Vec<String> {
    let used: BTreeSet<&str> = queries.iter().map(|query| query.text.as_str()).collect();
    files.iter().filter(|file| !used.contains(file.text.as_str())).map(|file| format!("{} is not deployed", file.place)).collect()
}

/// Names in double quotes that look like events: `run.failed`.
fn events_in(text: &str) -> BTreeSet<&str> {
    let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let is_event = |quoted: &&str| quoted.split_once('.').is_some_and(|(noun, verb)| is_word(noun) && is_word(verb));
    text.split('"').skip(1).step_by(2).filter(is_event).collect()
}

/// Fields that a query takes from a line: `line.job`, `line["of"]`, `parse_json(Message).event`.
fn fields_in(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for (before, ends) in [("line.", None), ("parse_json(Message).", None), ("line[\"", Some('"'))] {
        for rest in text.split(before).skip(1) {
            let end = |c: char| ends.map_or(!(c.is_ascii_alphanumeric() || c == '_'), |quote| c == quote);
            found.extend(rest.split(end).next());
        }
    }
    found
}

/// A query names events that the handler writes, and fields that at least one of them has.
pub(super) fn unlike_events(queries: &[Query]) -> Vec<String> {
    let mut problems = Vec::new();
    for Query { place, text } in queries {
        let named = events_in(text);
        let known: Vec<_> = EVENTS.iter().filter(|event| named.contains(event.name)).collect();
        for name in named.iter().filter(|name| !EVENTS.iter().any(|event| event.name == **name)) {
            problems.push(format!("{place}: the handler writes no event `{name}`"));
        }
        for field in fields_in(text) {
            if field != EVENT && !COMMON.contains(&field) && !known.iter().any(|event| event.fields.contains(&field)) {
                problems.push(format!("{place}: no event that it names has a field `{field}`"));
            }
        }
    }
    problems
}

/// Events of which somebody is to be told, and no rule does.
pub(super) fn unwatched(queries: &[Query]) -> Vec<String> {
    let rules = queries.iter().filter(|query| !query.place.contains("workbook"));
    let watched: BTreeSet<&str> = rules.flat_map(|query| events_in(&query.text)).collect();
    let silent = EVENTS.iter().filter(|event| event.alerts && !watched.contains(event.name));
    silent.map(|event| format!("no alert rule waits for `{}`", event.name)).collect()
}

fn parsed(root: &Path, queries: &[Query]) -> anyhow::Result<Outcome> {
    let folder = match parser(root)? {
        Ok(folder) => folder,
        Err(why) => return Ok(Outcome::LeftOut(why)),
    };
    let wrong = Query { place: "wrong".to_owned(), text: WRONG.to_owned() };
    let said = diagnostics(root, &folder, &[queries, &[wrong]].concat())?;
    let (noticed, mut problems): (Vec<String>, Vec<String>) = said.into_iter().partition(|line| line.starts_with("wrong:"));
    if !noticed.iter().any(|line| line.contains("Mesage")) {
        problems.push("a misspelt column passed: the parser knows no tables".to_owned());
    }
    Ok(Outcome::of(problems, format!("{} queries; notices a misspelt column", queries.len())))
}

/// The folder that holds the parser, installed there from the lock file if it is not yet; or why there is none.
fn parser(root: &Path) -> anyhow::Result<Result<PathBuf, String>> {
    if Command::new("node").arg("--version").output().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(Err("Node is not at hand: apt-get install nodejs npm, or https://nodejs.org".to_owned()));
    }
    let (source, folder) = (root.join("infra/kql"), root.join("target/infra/kql"));
    let lock = fs::read_to_string(source.join("package-lock.json")).context("failed to read infra/kql/package-lock.json")?;
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(Ok(folder));
    }
    fs::create_dir_all(&folder)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(source.join(file), folder.join(file))?;
    }
    let install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    let Ok(output) = Command::new("npm").args(install).current_dir(&folder).output() else {
        return Ok(Err("npm is not at hand: apt-get install npm, or https://nodejs.org".to_owned()));
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().next().unwrap_or_default();
        return Ok(Err(format!("the parser could not be installed: npm ci in infra/kql said `{first}`")));
    }
    fs::write(stamp, lock)?;
    Ok(Ok(folder))
}

fn diagnostics(root: &Path, folder: &Path, queries: &[Query]) -> anyhow::Result<Vec<String>> {
    let tables: Value = serde_json::from_str(&fs::read_to_string(root.join("infra/kql/tables.json"))?)
        .context("failed to read infra/kql/tables.json")?;
    let texts: Vec<Value> = queries.iter().map(|query| json!({ "name": query.place, "text": query.text })).collect();
    let mut command = Command::new("node");
    command.arg(root.join("infra/kql/check.mjs")).arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("failed to start `node`")?;
    let input = json!({ "tables": tables, "queries": texts }).to_string();
    child.stdin.take().context("node has no standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("infra/kql/check.mjs failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}
