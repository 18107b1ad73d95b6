//! The table of settings for readers: terminal, README, schema and example files. Pure; shows no secret.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::Serializer;
use serde_json::{Value, json};

use super::given::{Reader, may_show};
use super::params::{Param, Required, TABLE};
use super::parse::Shape;

/// In place of what is, or may be, a secret.
const NOT_SHOWN: &str = "(not shown)";

/// How the settings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a terminal.
    Table,
    Json,
    /// JSON Schema of the settings as an object of strings.
    Schema,
    /// `KEY=value` lines.
    Env,
    /// The tables of the README.
    Markdown,
}

/// All settings, one entry per row of the table, with what is in effect if `given` is there. Ends with a line feed.
#[must_use]
pub fn render(format: Format, given: Option<&BTreeMap<String, String>>) -> String {
    match format {
        Format::Table => table(&entries(given), given.is_some()),
        Format::Json => document(&entries(given)),
        Format::Schema => document(&schema()),
        Format::Env => env(&entries(given)),
        Format::Markdown => markdown(),
    }
}

/// Schedules that the host reads by itself: a function whose `%NAME%` is not set is dropped without a word.
const READ_BY_THE_HOST: [&str; 2] = ["SUBSCRIPTION_SCHEDULE", "ALERT_POLL_SCHEDULE"];

/// `local.settings.json` of Azure Functions for one job: the guide's settings and the others that are required, with an
/// example, their default or blank. Secrets are blank.
#[must_use]
pub fn local_settings_example() -> String {
    let host = [("FUNCTIONS_WORKER_RUNTIME", "custom"), ("AzureWebJobsStorage", "UseDevelopmentStorage=true")];
    let is_needed =
        |row: &&&Param| row.guide_name.is_some() || row.required != Required::No || READ_BY_THE_HOST.contains(&row.key);
    let needed = TABLE.iter().filter(is_needed);
    let ours = needed.map(|row| (row.key, row.default.unwrap_or(row.example)));
    document(&LocalSettings { is_encrypted: false, values: Ordered(host.into_iter().chain(ours).collect()) })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct LocalSettings {
    is_encrypted: bool,
    values: Ordered,
}

/// An object whose members keep their order.
#[derive(Debug)]
struct Ordered(Vec<(&'static str, &'static str)>);

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// A row as readers see it.
#[derive(Debug, Serialize)]
struct Entry {
    key: &'static str,
    guide_name: Option<&'static str>,
    required: String,
    accepts: String,
    default: Option<&'static str>,
    secret: bool,
    per_job: bool,
    help: &'static str,
    /// In effect for all jobs that have none of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// By the keys of single jobs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    of_jobs: Vec<(String, String)>,
}

fn entries(given: Option<&BTreeMap<String, String>>) -> Vec<Entry> {
    let jobs = given.map(|given| Reader::new(given).jobs).unwrap_or_default();
    let text = |row: &Param, key: &str| {
        let text = given?.get(key)?.trim();
        let shown = || if may_show(row, text) { text.to_owned() } else { NOT_SHOWN.to_owned() };
        (!text.is_empty()).then(shown)
    };
    let entry = |row: &'static Param| {
        let keys = jobs.iter().filter(|_| row.per_job).map(|job| job.key(row.key));
        Entry {
            key: row.key,
            guide_name: row.guide_name,
            required: required(row),
            accepts: row.shape.accepts(),
            default: row.default,
            secret: row.secret,
            per_job: row.per_job,
            help: row.help,
            value: text(row, row.key).or_else(|| given.and(row.default).map(str::to_owned)),
            of_jobs: keys.filter_map(|key| text(row, &key).map(|text| (key, text))).collect(),
        }
    };
    TABLE.iter().copied().map(entry).collect()
}

fn required(row: &Param) -> String {
    match row.required {
        Required::Yes => "yes".to_owned(),
        Required::If(condition) => format!("if {condition}"),
        Required::No => String::new(),
    }
}

fn table(entries: &[Entry], effective: bool) -> String {
    let third = if effective { "VALUE" } else { "DEFAULT" };
    let mut rows = vec![["SETTING".to_owned(), "REQUIRED".to_owned(), third.to_owned(), "MEANING".to_owned()]];
    for entry in entries {
        let value = if effective { entry.value.as_deref() } else { entry.default };
        let meaning = entry.guide_name.map(|name| format!("[{name}] {}", entry.help)).unwrap_or(entry.help.to_owned());
        rows.push([entry.key.to_owned(), entry.required.clone(), one_line(value.unwrap_or_default(), 40), meaning]);
        let of_jobs = entry.of_jobs.iter().map(|(key, value)| [key.clone(), String::new(), one_line(value, 40), String::new()]);
        rows.extend(of_jobs);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2)];
    let line = |row: &[String; 4]| {
        let line = format!("{:3$}  {:4$}  {:5$}  ", row[0], row[1], row[2], widths[0], widths[1], widths[2]) + &row[3];
        line.trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Values stand as they are: readers of such files differ in what they make of quotes. A default is a comment.
fn env(entries: &[Entry]) -> String {
    let line = |key: &str, value: &str| {
        let comment = if value == NOT_SHOWN { "# " } else { "" };
        format!("{comment}{key}={}\n", one_line(value, usize::MAX))
    };
    let block = |entry: &Entry| {
        let name = entry.guide_name.map(|name| format!("{name}: ")).unwrap_or_default();
        let required = if entry.required.is_empty() { String::new() } else { format!(" Required: {}.", entry.required) };
        let for_all = match &entry.value {
            Some(value) if Some(value.as_str()) != entry.default => line(entry.key, value),
            None if entry.required == "yes" => line(entry.key, ""),
            _ => format!("# {}={}\n", entry.key, entry.default.unwrap_or_default()),
        };
        let of_jobs: String = entry.of_jobs.iter().map(|(key, value)| line(key, value)).collect();
        format!("# {name}{}{required}\n# Takes {}.\n{for_all}{of_jobs}\n", entry.help, entry.accepts)
    };
    entries.iter().map(block).collect()
}

fn markdown() -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let default = |row: &Param| row.default.map(|text| format!("`{}`", cell(text))).unwrap_or_default();
    let takes = |row: &Param| format!("{} Takes {}.", cell(row.help), cell(&row.shape.accepts()));
    let guide = TABLE.iter().enumerate().filter_map(|(place, row)| {
        let (number, name, required) = (place + 1, row.guide_name?, cell(&required(row)));
        Some(format!("| {number} | {name} | `{}` | {required} | {} | {} |\n", row.key, default(row), takes(row)))
    });
    let ours = TABLE.iter().filter(|row| row.guide_name.is_none()).map(|row| {
        let per_job = if row.per_job { "yes" } else { "" };
        format!("| `{}` | {} | {} | {per_job} | {} |\n", row.key, cell(&required(row)), default(row), takes(row))
    });
    let heads = [
        "| # | Guide | Key | Required | Default | Meaning |\n|--:|---|---|---|---|---|\n",
        "\n| Key | Required | Default | Per job | Meaning |\n|---|---|---|---|---|\n",
    ]
    .map(str::to_owned);
    let [first, second] = heads;
    [first].into_iter().chain(guide).chain([second]).chain(ours).collect()
}

/// Spellings are the table's; the parser is more generous about case and blanks.
fn schema() -> Value {
    let property = |row: &Param| {
        let name = row.guide_name.map(|name| format!("{name}: ")).unwrap_or_default();
        let mut property = json!({
            "type": "string",
            "description": format!("{name}{} Takes {}.", row.help, row.shape.accepts()),
        });
        if let Shape::Choice(names) = row.shape {
            property["enum"] = names.into();
        }
        if let Shape::Whole { .. } = row.shape {
            property["pattern"] = "^[0-9]+$".into();
        }
        if let Some(default) = row.default {
            property["default"] = default.into();
        }
        if row.secret {
            property["writeOnly"] = true.into();
        }
        property
    };
    let properties: BTreeMap<_, _> = TABLE.iter().map(|row| (row.key, property(row))).collect();
    let of_jobs: BTreeMap<_, _> = TABLE
        .iter()
        .filter(|row| row.per_job)
        .map(|row| (format!("^[A-Z][A-Z0-9_]*__{}$", row.key), json!({ "$ref": format!("#/properties/{}", row.key) })))
        .collect();
    let required: Vec<_> = TABLE.iter().filter(|row| row.required == Required::Yes).map(|row| row.key).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of Indicator Relay",
        "type": "object",
        "properties": properties,
        "patternProperties": of_jobs,
        // Jobs may each have their own.
        "if": { "not": { "required": ["JOBS"] } },
        "then": { "required": required },
    })
}

fn document(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("maps with string keys serialise") + "\n"
}

/// Without control characters, cut to `longest`.
fn one_line(text: &str, longest: usize) -> String {
    let clean = |letter: char| if letter.is_control() { ' ' } else { letter };
    if text.chars().count() <= longest {
        return text.chars().map(clean).collect();
    }
    text.chars().take(longest - 1).map(clean).chain(['…']).collect()
}
