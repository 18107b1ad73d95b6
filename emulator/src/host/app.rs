//! A function app on disk: `host.json` and the `function.json` of every folder beside it, checked as the host checks them.
//!
//! Not imitated: `customHandler.http.routes`, `httpWorker`, extension bundles (queue bindings are built in), proxies,
//! bindings other than timer, HTTP and queue (each is named in an error).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::cron::Schedule;

/// App settings, by name.
pub type Settings = BTreeMap<String, String>;

/// `host.json`, as far as it matters here.
#[derive(Debug, Clone)]
pub(crate) struct HostJson {
    /// Relative to the app's folder, or a command on the path.
    pub executable: String,
    pub arguments: Vec<String>,
    pub working_directory: Option<String>,
    /// Every line on standard error is an error, unless it says `warn`.
    pub errors_only_on_stderr: bool,
    pub forwarding: bool,
    pub proxying: bool,
    pub start_limit: Duration,
    /// None: unbounded.
    pub function_timeout: Option<Duration>,
    pub route_prefix: String,
    pub queues: Queues,
}

/// `extensions.queues`.
#[derive(Debug, Clone)]
pub(crate) struct Queues {
    pub batch_size: usize,
    pub new_batch_threshold: usize,
    pub max_dequeue_count: i64,
    pub visibility_timeout: Duration,
    pub max_polling_interval: Duration,
    pub base64: bool,
}

/// A function: a folder with a `function.json`.
#[derive(Debug, Clone)]
pub struct Function {
    pub name: String,
    /// The name of the trigger's binding.
    pub binding: String,
    pub trigger: TriggerKind,
    pub outputs: Vec<Output>,
    /// How often a failed run of a timer is repeated, and after which delay.
    pub retry: Option<(i64, Duration)>,
}

#[derive(Debug, Clone)]
pub enum TriggerKind {
    Timer { schedule: Schedule, run_on_startup: bool, monitored: bool },
    Http { route: String, methods: Vec<String>, auth: AuthLevel },
    Queue { queue: String, connection: String, binary: bool },
}

/// Which key a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthLevel {
    Anonymous,
    Function,
    Admin,
}

/// An output binding.
#[derive(Debug, Clone)]
pub struct Output {
    pub name: String,
    pub binary: bool,
    pub kind: OutputKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    Http,
    Queue { queue: String, connection: String },
}

impl Function {
    /// The group of functions that share instances, and so a process.
    #[must_use]
    pub fn group(&self) -> &str {
        if matches!(self.trigger, TriggerKind::Http { .. }) { "http" } else { &self.name }
    }

    /// Exactly an HTTP trigger and an HTTP output: the request itself can be passed on.
    pub(crate) fn passes_http(&self) -> bool {
        matches!(self.trigger, TriggerKind::Http { .. }) && self.outputs.len() == 1 && self.outputs[0].kind == OutputKind::Http
    }
}

/// Reads `host.json`, with the settings `AzureFunctionsJobHost__…` laid over it.
pub(crate) fn host_json(folder: &Path, settings: &Settings) -> anyhow::Result<HostJson> {
    let path = folder.join("host.json");
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let mut json: Value = serde_json::from_str(&text).with_context(|| format!("failed to parse `{}`", path.display()))?;
    for (name, value) in settings {
        if let Some(keys) = name.strip_prefix("AzureFunctionsJobHost__") {
            overlay(&mut json, keys, value);
        }
    }
    if json["version"] != "2.0" {
        bail!("host.json: set `version` to \"2.0\"");
    }
    let handler = &json["customHandler"];
    let description = &handler["description"];
    let Some(executable) = description["defaultExecutablePath"].as_str().filter(|path| !path.trim().is_empty()) else {
        bail!("host.json: name the program in `customHandler.description.defaultExecutablePath`");
    };
    let arguments = match &description["arguments"] {
        Value::String(list) => serde_json::from_str(list).unwrap_or_default(),
        list => serde_json::from_value(list.clone()).unwrap_or_default(),
    };
    if handler["http"]["routes"].is_array() {
        bail!("host.json: `customHandler.http.routes` cannot stand beside function folders; remove it");
    }
    let function_timeout = match json["functionTimeout"].as_str() {
        Some("-1") => None,
        Some(text) => Some(time_span(text).context("host.json: `functionTimeout` is not hh:mm:ss")?),
        None => Some(Duration::from_secs(1_800)),
    };
    Ok(HostJson {
        executable: expand(executable, settings),
        arguments: Vec::into_iter(arguments).map(|argument: String| expand(&argument, settings)).collect(),
        working_directory: description["workingDirectory"].as_str().map(str::to_owned),
        errors_only_on_stderr: flag(&description["useStdErrorStreamForErrorsOnly"]).unwrap_or(true),
        forwarding: flag(&handler["enableForwardingHttpRequest"]).unwrap_or(false),
        proxying: flag(&handler["enableProxyingHttpRequest"]).unwrap_or(false),
        start_limit: span(&handler["initializationTimeout"])?.unwrap_or(Duration::from_secs(30)),
        function_timeout,
        route_prefix: json["extensions"]["http"]["routePrefix"].as_str().unwrap_or("api").trim_matches('/').to_owned(),
        queues: queues(&json["extensions"]["queues"])?,
    })
}

fn queues(json: &Value) -> anyhow::Result<Queues> {
    let number = |key: &str| json[key].as_u64().or_else(|| json[key].as_str()?.parse().ok());
    let batch_size = usize::try_from(number("batchSize").unwrap_or(16))?;
    if !(1..=32).contains(&batch_size) {
        bail!("host.json: `extensions.queues.batchSize` must be from 1 to 32");
    }
    let max_polling_interval = span(&json["maxPollingInterval"])?.unwrap_or(Duration::from_secs(60));
    if max_polling_interval < Duration::from_millis(100) {
        bail!("host.json: `extensions.queues.maxPollingInterval` must be at least 00:00:00.100");
    }
    let base64 = match json["messageEncoding"].as_str().map(str::to_ascii_lowercase).as_deref() {
        None | Some("base64") => true,
        Some("none") => false,
        Some(other) => bail!("host.json: `extensions.queues.messageEncoding` is `{other}`; choose base64 or none"),
    };
    Ok(Queues {
        batch_size,
        new_batch_threshold: number("newBatchThreshold").map_or(Ok(batch_size / 2), usize::try_from)?,
        max_dequeue_count: i64::try_from(number("maxDequeueCount").unwrap_or(5))?,
        visibility_timeout: span(&json["visibilityTimeout"])?.unwrap_or_default(),
        max_polling_interval,
        base64,
    })
}

/// Sets `a__b__c` in a JSON object; names in any case.
fn overlay(json: &mut Value, keys: &str, value: &str) {
    let mut at = json;
    for key in keys.split("__") {
        if !at.is_object() {
            *at = Value::Object(serde_json::Map::new());
        }
        let Some(members) = at.as_object_mut() else { return };
        let name = members.keys().find(|name| name.eq_ignore_ascii_case(key)).cloned().unwrap_or_else(|| key.to_owned());
        at = members.entry(name).or_insert(Value::Null);
    }
    *at = Value::String(value.to_owned());
}

fn flag(json: &Value) -> Option<bool> {
    json.as_bool().or_else(|| json.as_str()?.to_ascii_lowercase().parse().ok())
}

fn span(json: &Value) -> anyhow::Result<Option<Duration>> {
    json.as_str().map(|text| time_span(text).with_context(|| format!("host.json: `{text}` is not hh:mm:ss"))).transpose()
}

/// `[d.]hh:mm:ss[.fff]`.
pub(crate) fn time_span(text: &str) -> Option<Duration> {
    let (days, clock) = match text.split_once('.') {
        Some((days, clock)) if !days.contains(':') => (days.parse::<u64>().ok()?, clock),
        _ => (0, text),
    };
    let mut parts = clock.split(':');
    let (hours, minutes) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
    let seconds: f64 = parts.next()?.parse().ok()?;
    if parts.next().is_some() || hours > 23 || minutes > 59 || !(0.0..60.0).contains(&seconds) {
        return None;
    }
    Some(Duration::from_secs((days * 24 + hours) * 3_600 + minutes * 60) + Duration::from_secs_f64(seconds))
}

/// Puts settings in the place of `%NAME%`; an unset name becomes empty.
fn expand(text: &str, settings: &Settings) -> String {
    replaced(text, |name| Some(settings.get(name).cloned().unwrap_or_default())).unwrap_or_else(|| text.to_owned())
}

/// Puts settings in the place of `%NAME%`; none if one is not set.
fn resolve(text: &str, settings: &Settings) -> Option<String> {
    replaced(text, |name| settings.get(name).cloned())
}

fn replaced(text: &str, value: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, name, after)) = rest.split_once('%').and_then(|(b, r)| r.split_once('%').map(|(n, a)| (b, n, a))) {
        out.push_str(before);
        out.push_str(&value(name)?);
        rest = after;
    }
    Some(out + rest)
}

/// What became of the folders: functions, and what the host says of those it leaves out.
#[derive(Debug, Default)]
pub(crate) struct Indexed {
    pub functions: Vec<Function>,
    pub errors: Vec<String>,
}

/// Reads the `function.json` of every immediate subfolder.
pub(crate) fn functions(folder: &Path, settings: &Settings) -> anyhow::Result<Indexed> {
    let mut indexed = Indexed::default();
    let mut folders: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    for folder in folders {
        let Ok(text) = fs::read_to_string(folder.join("function.json")) else { continue };
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match function(&name, &text, settings) {
            Ok(Some(function)) => indexed.functions.push(function),
            Ok(None) => {}
            Err(error) => indexed.errors.push(format!("{name}: {error:#}")),
        }
    }
    Ok(indexed)
}

/// One function; none if it is disabled, or its schedule names a setting that is not there.
fn function(name: &str, text: &str, settings: &Settings) -> anyhow::Result<Option<Function>> {
    let mut characters = name.chars();
    let well_named = characters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && name.len() <= 128
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !well_named || name.eq_ignore_ascii_case("host") {
        bail!("name the folder with a letter, then up to 127 letters, digits, `_` or `-`; `host` is taken");
    }
    let json: Value = serde_json::from_str(text).context("failed to parse function.json")?;
    let disabled = [format!("AzureWebJobs.{name}.Disabled"), format!("AzureWebJobs__{name}__Disabled")];
    let switched = disabled.iter().find_map(|key| settings.get(key)).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if switched || flag(&json["disabled"]) == Some(true) {
        return Ok(None);
    }
    let mut trigger = None;
    let mut outputs = Vec::new();
    for binding in json["bindings"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let kind = binding["type"].as_str().unwrap_or_default();
        let binding_name = binding_name(binding)?;
        match (kind.to_ascii_lowercase().as_str(), binding["direction"].as_str().unwrap_or("in")) {
            (kind, "in") if kind.ends_with("trigger") => {
                if trigger.is_some() {
                    bail!("only one trigger is allowed");
                }
                let Some(found) = trigger_kind(kind, name, binding, settings)? else { return Ok(None) };
                trigger = Some((binding_name, found));
            }
            ("http", "out") => outputs.push(Output { name: binding_name, binary: false, kind: OutputKind::Http }),
            ("queue", "out") => {
                let (queue, connection) = queue(binding, settings)?;
                outputs.push(Output {
                    name: binding_name,
                    binary: binary(binding),
                    kind: OutputKind::Queue { queue, connection },
                });
            }
            ("http", _) => bail!("an `http` binding can only be an output"),
            (other, "in" | "out") => bail!("bindings of type `{other}` are not emulated"),
            (_, other) => bail!("`{other}` is not a direction; choose in or out"),
        }
    }
    let (binding, trigger) = trigger.context("no trigger in `bindings`")?;
    Ok(Some(Function { name: name.to_owned(), binding, trigger, outputs, retry: retry(&json["retry"])? }))
}

fn binding_name(binding: &Value) -> anyhow::Result<String> {
    let name = binding["name"].as_str().unwrap_or_default();
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric());
    if name != "$return" && (!plain || name.len() > 128) {
        bail!("the binding name `{name}` is invalid: use a letter, then letters and digits, or `$return`");
    }
    Ok(name.to_owned())
}

fn trigger_kind(kind: &str, function: &str, binding: &Value, settings: &Settings) -> anyhow::Result<Option<TriggerKind>> {
    Ok(Some(match kind {
        "timertrigger" => {
            let expression = binding["schedule"].as_str().context("a timer needs a `schedule`")?;
            let Some(expression) = resolve(expression, settings) else { return Ok(None) };
            let schedule: Schedule = expression.parse()?;
            let monitored = flag(&binding["useMonitor"]).unwrap_or(true) && !schedule.is_frequent();
            TriggerKind::Timer { schedule, run_on_startup: flag(&binding["runOnStartup"]).unwrap_or(false), monitored }
        }
        "httptrigger" => TriggerKind::Http {
            route: binding["route"].as_str().unwrap_or(function).to_owned(),
            methods: serde_json::from_value(binding["methods"].clone()).unwrap_or_default(),
            auth: match binding["authLevel"].as_str().unwrap_or("function").to_ascii_lowercase().as_str() {
                "anonymous" => AuthLevel::Anonymous,
                "function" => AuthLevel::Function,
                "admin" => AuthLevel::Admin,
                other => bail!("`{other}` is not an authLevel; choose anonymous, function or admin"),
            },
        },
        "queuetrigger" => {
            let (queue, connection) = queue(binding, settings)?;
            TriggerKind::Queue { queue, connection, binary: binary(binding) }
        }
        other => bail!("triggers of type `{other}` are not emulated"),
    }))
}

fn queue(binding: &Value, settings: &Settings) -> anyhow::Result<(String, String)> {
    let name = binding["queueName"].as_str().context("a queue binding needs a `queueName`")?;
    let queue = resolve(name, settings).with_context(|| format!("`{name}` names an app setting that is not there"))?;
    let connection = binding["connection"].as_str().filter(|c| !c.is_empty()).unwrap_or("AzureWebJobsStorage");
    Ok((queue, connection.to_owned()))
}

fn binary(binding: &Value) -> bool {
    binding["dataType"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("binary"))
}

/// Exponential back-off is imitated by its first interval.
fn retry(json: &Value) -> anyhow::Result<Option<(i64, Duration)>> {
    if json.is_null() {
        return Ok(None);
    }
    let count = json["maxRetryCount"].as_i64().context("`retry` needs a `maxRetryCount`")?;
    let delay = match json["strategy"].as_str() {
        Some("fixedDelay") => span(&json["delayInterval"])?,
        Some("exponentialBackoff") => span(&json["minimumInterval"])?,
        _ => bail!("`retry.strategy` must be fixedDelay or exponentialBackoff"),
    };
    Ok(Some((count, delay.context("`retry` needs its interval")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, json: &str) -> Result<Option<Function>, String> {
        let settings = Settings::from([("Every".to_owned(), "0 */5 * * * *".to_owned())]);
        function(name, json, &settings).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn functions_are_checked() {
        let timer = |schedule: &str| {
            format!(r#"{{"bindings":[{{"type":"timerTrigger","direction":"in","name":"timer","schedule":"{schedule}"}}]}}"#)
        };
        assert!(read("Tick", &timer("%Every%")).unwrap().is_some());
        assert!(read("Tick", &timer("%NotThere%")).unwrap().is_none(), "dropped without a word");
        for name in ["1Tick", "host", "Tick.x", ""] {
            assert!(read(name, &timer("0 * * * * *")).is_err(), "{name}");
        }
        assert!(read("Tick", &timer("every day")).unwrap_err().contains("every day"));
        assert!(
            read("T", r#"{"bindings":[{"type":"blobTrigger","direction":"in","name":"b"}]}"#)
                .unwrap_err()
                .contains("blobtrigger")
        );
        assert!(
            read("T", r#"{"bindings":[{"type":"queue","direction":"sideways","name":"b"}]}"#).unwrap_err().contains("sideways")
        );
        assert!(read("T", r#"{"bindings":[]}"#).unwrap_err().contains("no trigger"));
        assert!(read("T", &timer("0 * * * * *").replace("\"timer\"", "\"my_timer\"")).is_err());
    }

    #[test]
    fn time_spans_are_read() {
        assert_eq!(time_span("00:30:00"), Some(Duration::from_secs(1_800)));
        assert_eq!(time_span("1.02:00:00"), Some(Duration::from_secs(93_600)));
        assert_eq!(time_span("00:00:00.100"), Some(Duration::from_millis(100)));
        assert_eq!(time_span("25:00:00"), None);
    }
}
