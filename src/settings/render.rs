//! The table of parameters for people and programs: README, terminal, JSON, JSON Schema, environment, example file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{PARAMS, Param, Required, Scope, filled};

/// How `settings` is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Table,
    Json,
    Schema,
    Env,
}

/// The table in one of its forms, with the values of `given` where there are any; secrets are never shown.
#[must_use]
pub fn render(format: Format, given: &BTreeMap<String, String>) -> String {
    match format {
        Format::Table => table(given),
        Format::Json => pretty(&Value::Array(PARAMS.iter().map(|param| as_json(param, given)).collect())),
        Format::Schema => pretty(&schema()),
        Format::Env => env(given),
    }
}

/// The README's table.
#[must_use]
pub fn render_markdown() -> String {
    let mut page = String::from("| Guide | Key | Required | Accepted | Default | |\n|---|---|---|---|---|---|");
    for param in &PARAMS {
        let required = match param.required {
            Required::Yes => "yes",
            Required::No => "",
            Required::When(when) => when,
        };
        let default = param.default.map(|default| format!("`{default}`")).unwrap_or_default();
        let mut help = param.help.to_owned();
        for (holds, text) in [(param.secret, "secret"), (param.scope == Scope::Process, "not per job")] {
            if holds {
                help = if help.is_empty() { text.to_owned() } else { format!("{help}; {text}") };
            }
        }
        let accepts = param.accepts.replace('|', "\\|");
        let _ = write!(page, "\n| {} | `{}` | {required} | {accepts} | {default} | {} |", param.guide.unwrap_or(""), param.key, help.replace('|', "\\|"));
    }
    page.push('\n');
    page
}

/// The example of `local.settings.json`: every required key, and the guide's others empty.
#[must_use]
pub fn local_settings_example() -> String {
    let mut values = serde_json::Map::new();
    values.insert("FUNCTIONS_WORKER_RUNTIME".to_owned(), "custom".into());
    values.insert("AzureWebJobsStorage".to_owned(), "UseDevelopmentStorage=true".into());
    for param in &PARAMS {
        let example = match param.key {
            "THREATCONNECT_URL" => "https://app.threatconnect.com/api",
            "DEFAULT_TLP_LEVEL" => "amber",
            "TARGET_PRODUCT" => "Microsoft Sentinel",
            "ACTION_TO_TAKE" => "Alert",
            "EXPIRATION_DAYS_EMAIL" | "EXPIRATION_DAYS_FILE" | "EXPIRATION_DAYS_NETWORK" => "30",
            "LAST_RUN" => "30 days ago",
            _ => param.default.unwrap_or(""),
        };
        let ours_and_optional = param.guide.is_none() && param.required == Required::No && param.default.is_none();
        if !ours_and_optional {
            values.insert(param.key.to_owned(), example.into());
        }
    }
    pretty(&json!({ "IsEncrypted": false, "Values": values }))
}

fn value_of<'a>(param: &Param, given: &'a BTreeMap<String, String>) -> Option<&'a str> {
    filled(given.get(param.key)).map(|text| if param.secret { "(secret)" } else { text })
}

fn table(given: &BTreeMap<String, String>) -> String {
    let width = PARAMS.iter().map(|param| param.key.len()).max().unwrap_or(0);
    let mut page = String::new();
    for param in &PARAMS {
        let value = match (value_of(param, given), param.default) {
            (Some(value), _) => value.to_owned(),
            (None, Some(default)) => format!("{default} (default)"),
            (None, None) if param.required == Required::Yes => "– (required)".to_owned(),
            (None, None) => "–".to_owned(),
        };
        let _ = writeln!(page, "{:width$}  {value}", param.key);
        let guide = param.guide.map(|guide| format!("guide: {guide}; ")).unwrap_or_default();
        let help = if param.help.is_empty() { String::new() } else { format!("{}; ", param.help) };
        let _ = writeln!(page, "{:width$}    {guide}{help}accepted: {}", "", param.accepts);
    }
    page
}

fn as_json(param: &Param, given: &BTreeMap<String, String>) -> Value {
    json!({
        "key": param.key,
        "guide": param.guide,
        "required": match param.required { Required::Yes => json!(true), Required::No => json!(false), Required::When(when) => json!(when) },
        "per_job": param.scope == Scope::Job,
        "secret": param.secret,
        "accepts": param.accepts,
        "default": param.default,
        "help": param.help,
        "value": value_of(param, given),
    })
}

fn schema() -> Value {
    let properties: serde_json::Map<String, Value> = PARAMS
        .iter()
        .map(|param| {
            let about = format!("{}{}. Accepted: {}", param.guide.map(|guide| format!("{guide}. ")).unwrap_or_default(), param.help, param.accepts);
            let mut entry = json!({ "type": "string", "description": about });
            if let Some(default) = param.default {
                entry["default"] = default.into();
            }
            (param.key.to_owned(), entry)
        })
        .collect();
    let required: Vec<&str> = PARAMS.iter().filter(|param| param.required == Required::Yes).map(|param| param.key).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Indicator Relay settings",
        "description": "Application settings; a key can be given for one job as <JOB>__<KEY>",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": { "type": "string" },
    })
}

fn env(given: &BTreeMap<String, String>) -> String {
    let mut page = String::new();
    for param in &PARAMS {
        let value = value_of(param, given).or(param.default).unwrap_or("");
        let comment = if value.is_empty() || param.secret { "# " } else { "" };
        let value = if param.secret { "" } else { value };
        let _ = writeln!(page, "{comment}{}={}", param.key, quoted(value));
    }
    page
}

/// As a shell reads it.
fn quoted(value: &str) -> String {
    let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '%'));
    if plain { value.to_owned() } else { format!("'{}'", value.replace('\'', r"'\''")) }
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("a value with string keys cannot fail to serialise");
    text.push('\n');
    text
}
