//! `host.json`, the functions, the example settings, `azure.yaml` and the pipelines against their published schemas, and
//! against each other. Nothing is fetched: the schemas lie in `infra/schemas/`.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use serde_json::{Map, Value, json};

use super::{Checks, Outcome};

/// Keys that the host reads and its schema lacks, each with its source. They are taken out before the schema is asked.
const NOT_IN_SCHEMA: [(&str, &str, &str); 1] = [(
    "host.json",
    "/customHandler/enableProxyingHttpRequest",
    "hosts since spring 2025 (Azure/azure-functions-host#11025, #11035); the schema knows only enableForwardingHttpRequest",
)];

/// References in schemas that are taken as "nothing", each with its reason.
const CUT: [(&str, &str); 3] = [
    (
        "https://raw.githubusercontent.com/Azure/azure-dev/main/cli/azd/extensions/",
        "files that are not here, for services that are not used",
    ),
    ("#/definitions/sqlBinding", "accepts every type of binding, so that no other one is ever the only match"),
    ("#/definitions/mySqlBinding", "the same for bindings that write"),
];

pub(super) fn checks(root: &Path) -> anyhow::Result<Checks> {
    let mut problems = Vec::new();
    let mut looked_at = 0;
    let mut check = |file: &str, schema: &str| -> anyhow::Result<Value> {
        let document = read(root, file)?;
        looked_at += 1;
        problems.extend(against(root, file, &document, schema)?);
        Ok(document)
    };
    let host = check("host.json", "host.json")?;
    let mut functions = Vec::new();
    for name in folder(root, "functions")? {
        functions.push((name.clone(), check(&format!("functions/{name}/function.json"), "function.json")?));
    }
    check("local.settings.example.json", "local.settings.json")?;
    let azure = check("azure.yaml", "azure.yaml.json")?;
    for name in folder(root, ".github/workflows")? {
        check(&format!(".github/workflows/{name}"), "github-workflow.json")?;
    }
    let schemas = Outcome::of(problems, format!("{looked_at} documents"));
    let services = Outcome::of(services(root, &azure)?, "azure.yaml, main.bicep");
    let host = Outcome::of(agreement(&host, &functions), format!("host.json, {} functions", functions.len()));
    Ok(vec![("schemas", schemas), ("host", host), ("services", services)])
}

/// Names of the entries, sorted.
fn folder(root: &Path, name: &str) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(root.join(name)).with_context(|| format!("failed to read {name}/"))?;
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    anyhow::ensure!(!names.is_empty(), "{name}/ is empty");
    names.sort();
    Ok(names)
}

/// JSON as it is, YAML as the same tree.
pub(super) fn read(root: &Path, file: &str) -> anyhow::Result<Value> {
    let text = fs::read_to_string(root.join(file)).with_context(|| format!("failed to read {file}"))?;
    match file.rsplit('.').next() {
        Some("yaml" | "yml") => serde_saphyr::from_str(&text).with_context(|| format!("{file} is not YAML")),
        _ => serde_json::from_str(&text).with_context(|| format!("{file} is not JSON")),
    }
}

/// One line per violation.
pub(super) fn against(root: &Path, file: &str, document: &Value, schema: &str) -> anyhow::Result<Vec<String>> {
    let mut schema_text: Value = read(root, &format!("infra/schemas/{schema}"))?;
    cut(&mut schema_text);
    let validator = jsonschema::validator_for(&schema_text).with_context(|| format!("infra/schemas/{schema} is no schema"))?;
    let mut document = document.clone();
    for (_, pointer, _) in NOT_IN_SCHEMA.iter().filter(|(excepted, ..)| *excepted == file) {
        remove(&mut document, pointer);
    }
    Ok(validator.iter_errors(&document).flat_map(|error| innermost(&error, file)).collect())
}

/// Where a document may have several forms, what is wrong with it in the form that it comes nearest to.
fn innermost(error: &ValidationError<'_>, file: &str) -> Vec<String> {
    let forms = match error.kind() {
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => &context[..],
        _ => &[],
    };
    let depth = |form: &&Vec<ValidationError<'_>>| form.iter().map(|error| error.instance_path().as_str().len()).max();
    let nearest = forms.iter().filter(|form| !form.is_empty()).max_by_key(depth);
    nearest.map_or_else(
        || vec![format!("{file}{}: {error}", error.instance_path())],
        |form| form.iter().flat_map(|error| innermost(error, file)).collect(),
    )
}

/// Puts "nothing" in the place of each reference in `CUT`: a document that needs one is refused.
fn cut(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            let to = members.get("$ref").and_then(Value::as_str).unwrap_or_default();
            if CUT.iter().any(|(prefix, _)| to.starts_with(prefix)) {
                *members = Map::from_iter([("not".to_owned(), json!({}))]);
            }
            members.values_mut().for_each(cut);
        }
        Value::Array(items) => items.iter_mut().for_each(cut),
        _ => {}
    }
}

fn remove(document: &mut Value, pointer: &str) {
    let Some((parent, key)) = pointer.rsplit_once('/') else { return };
    if let Some(Value::Object(members)) = document.pointer_mut(parent) {
        members.remove(key);
    }
}

/// What schemas cannot say: the settings that the handler relies on.
pub(super) fn agreement(host: &Value, functions: &[(String, Value)]) -> Vec<String> {
    let wanted = [
        ("/version", json!("2.0")),
        ("/customHandler/description/defaultExecutablePath", json!("handler")),
        ("/customHandler/enableProxyingHttpRequest", json!(true)),
        ("/extensions/queues/messageEncoding", json!("base64")),
        ("/extensions/queues/visibilityTimeout", json!("00:01:00")),
        ("/extensions/queues/maxPollingInterval", json!("00:00:05")),
        ("/extensionBundle/version", json!("[4.*, 5.0.0)")),
    ];
    let wrong = wanted.iter().filter(|(pointer, value)| host.pointer(pointer) != Some(value));
    let mut problems: Vec<String> = wrong.map(|(pointer, value)| format!("host.json: {pointer} must be {value}")).collect();
    if host.pointer("/functionTimeout").is_none() {
        problems.push("host.json: write functionTimeout out, the time budget follows from it".to_owned());
    }
    let sampling =
        host.pointer("/logging/applicationInsights/samplingSettings/excludedTypes").and_then(Value::as_str).unwrap_or_default();
    if !["Trace", "Request"].iter().all(|kind| sampling.split(';').any(|excluded| excluded == *kind)) {
        problems.push("host.json: exclude Trace and Request from sampling, alerts wait for them".to_owned());
    }
    for (name, function) in functions {
        let triggers = function["bindings"].as_array().into_iter().flatten();
        let triggers = triggers.filter(|binding| binding["type"].as_str().is_some_and(|kind| kind.ends_with("Trigger")));
        if triggers.count() != 1 {
            problems.push(format!("functions/{name}: exactly one trigger"));
        }
    }
    problems
}

/// `azd` finds the app by the name of its service, and the package by a path from where it runs. Its schema leaves host and
/// language open.
fn services(root: &Path, azure: &Value) -> anyhow::Result<Vec<String>> {
    let main = fs::read_to_string(root.join("infra/main.bicep")).context("failed to read infra/main.bicep")?;
    let wanted = [
        ("/host", "function"),
        ("/language", "custom"),
        ("/dist", "dist/indicator-relay.zip"),
        ("/hooks/prepackage/run", "cargo xtask package"),
    ];
    let mut problems = Vec::new();
    for (name, service) in azure["services"].as_object().into_iter().flatten() {
        if !main.contains(&format!("serviceName: '{name}'")) {
            problems.push(format!("azure.yaml: service `{name}` is not the app's tag in infra/main.bicep"));
        }
        let wrong = wanted.iter().filter(|(pointer, value)| service.pointer(pointer).and_then(Value::as_str) != Some(*value));
        problems.extend(wrong.map(|(pointer, value)| format!("azure.yaml: service `{name}`: {pointer} must be `{value}`")));
    }
    Ok(problems)
}
