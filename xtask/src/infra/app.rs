//! What the function app is told: every setting of the product, none that Flex forbids, none that holds a secret.

use std::collections::{BTreeMap, BTreeSet};

use indicator_relay::settings::vault_secrets;
use serde_json::Value;

use super::laws::Snapshot;
use super::parameters::{FROM_RESOURCES, NEVER_SET, Setting};

/// The parameters file that gives everything.
const FULL: &str = "full";

/// Settings that the host reads and the product does not.
const OF_HOST: [&str; 1] = ["APPLICATIONINSIGHTS_AUTHENTICATION_STRING"];

/// Deprecated or invalid on Flex Consumption (App settings reference, Flex Consumption plan deprecations).
const FORBIDDEN_SETTINGS: [&str; 15] = [
    "FUNCTIONS_EXTENSION_VERSION",
    "FUNCTIONS_WORKER_RUNTIME",
    "FUNCTIONS_WORKER_RUNTIME_VERSION",
    "WEBSITE_RUN_FROM_PACKAGE",
    "WEBSITE_CONTENTAZUREFILECONNECTIONSTRING",
    "WEBSITE_CONTENTSHARE",
    "WEBSITE_CONTENTOVERVNET",
    "WEBSITE_DNS_SERVER",
    "WEBSITE_VNET_ROUTE_ALL",
    "WEBSITE_MAX_DYNAMIC_APPLICATION_SCALE_OUT",
    "WEBSITE_SKIP_CONTENTSHARE_VALIDATION",
    "SCM_DO_BUILD_DURING_DEPLOYMENT",
    "ENABLE_ORYX_BUILD",
    "FUNCTIONS_WORKER_PROCESS_COUNT",
    "FUNCTIONS_MAX_HTTP_CONCURRENCY",
];

/// The same for properties of the site.
const FORBIDDEN_PROPERTIES: [&str; 9] = [
    "alwaysOn",
    "linuxFxVersion",
    "use32BitWorkerProcess",
    "ftpsState",
    "vnetRouteAllEnabled",
    "functionAppScaleLimit",
    "preWarmedInstanceCount",
    "containerSize",
    "isReserved",
];

pub(super) fn violations(snapshots: &[Snapshot], settings: &[Setting]) -> Vec<String> {
    let mut problems = Vec::new();
    if !snapshots.iter().any(|snapshot| snapshot.name == FULL) {
        problems.push(format!("infra/{FULL}.snapshot.json is missing: it shows every setting"));
    }
    for snapshot in snapshots.iter().filter(|snapshot| snapshot.has_app()) {
        let given = app_settings(snapshot);
        let found = [
            missing(snapshot, &given, settings),
            unknown(&given, settings),
            unnamed(snapshot, &given),
            forbidden(snapshot, &given),
            refused(&given),
        ];
        problems.extend(found.concat().into_iter().map(|problem| format!("{}: {problem}", snapshot.name)));
    }
    problems
}

fn app_settings(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let config =
        snapshot.of("Microsoft.Web/sites/config").find(|r| r["name"].as_str().is_some_and(|n| n.ends_with("/appsettings")));
    let members = config.and_then(|config| config["properties"].as_object());
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    members.into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

/// `MY_JOB__KEY` without the job.
fn bare(key: &str) -> &str {
    key.split_once("__").filter(|(job, _)| *job == job.to_uppercase()).map_or(key, |(_, key)| key)
}

fn missing(snapshot: &Snapshot, given: &BTreeMap<String, String>, settings: &[Setting]) -> Vec<String> {
    let keys: BTreeSet<&str> = given.keys().map(|key| bare(key)).collect();
    let needed = |setting: &&Setting| setting.is_parameter() && (snapshot.name == FULL || setting.required == "yes");
    let of_table = settings.iter().filter(needed).map(|setting| setting.key.as_str());
    let of_resources = FROM_RESOURCES.iter().map(|(key, _)| *key).filter(|key| snapshot.name == FULL || *key != "JOBS");
    let all = of_table.chain(of_resources).chain(OF_HOST);
    all.filter(|key| !keys.contains(key)).map(|key| format!("no app setting {key}")).collect()
}

fn unknown(given: &BTreeMap<String, String>, settings: &[Setting]) -> Vec<String> {
    let ours = |key: &str| settings.iter().find(|setting| setting.key == bare(key));
    let mut problems = Vec::new();
    for (key, value) in given {
        let never = NEVER_SET.iter().find(|(never, _)| never == key);
        let from_resources = FROM_RESOURCES.iter().any(|(known, _)| known == key) || OF_HOST.contains(&key.as_str());
        match (never, ours(key)) {
            (Some((_, why)), _) => problems.push(format!("app setting {key}: {why}")),
            (None, Some(setting)) if setting.secret => problems.push(format!("app setting {key} is a secret: into the vault")),
            (None, Some(setting)) if !setting.per_job && bare(key) != key => {
                problems.push(format!("{key} cannot be given per job"));
            }
            (None, None) if !from_resources => problems.push(format!("app setting {key} is no setting of the product")),
            _ if value.trim().is_empty() => problems.push(format!("app setting {key} is blank: leave it out")),
            _ => {}
        }
    }
    problems
}

/// Every value that follows from resources names one that is made: by id, or by name.
fn unnamed(snapshot: &Snapshot, given: &BTreeMap<String, String>) -> Vec<String> {
    let ids = snapshot.ids();
    let names: Vec<&str> = ids.iter().filter_map(|id| id.rsplit('/').next()).collect();
    let resolves = |value: &str| {
        let value = value.to_lowercase();
        ids.iter().any(|id| value.contains(&format!("'{id}'"))) || names.iter().any(|name| value.contains(&format!("'{name}'")))
    };
    let mut computed: Vec<(&str, &str)> =
        given.iter().filter(|(_, v)| v.starts_with('[') && v.ends_with(")]")).map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let clients = given.iter().filter(|(key, _)| FROM_RESOURCES.iter().any(|(known, _)| known == key));
    computed.extend(
        clients
            .filter(|(key, _)| !matches!(key.as_str(), "JOBS" | "AzureWebJobsStorage__credential"))
            .map(|(k, v)| (k.as_str(), v.as_str())),
    );
    let container = snapshot
        .of("Microsoft.Web/sites")
        .filter_map(|site| site.pointer("/properties/functionAppConfig/deployment/storage/value")?.as_str());
    computed.extend(container.map(|value| ("the deployment container", value)));
    let wrong: BTreeSet<&str> = computed.iter().filter(|(_, value)| !resolves(value)).map(|(key, _)| *key).collect();
    wrong.into_iter().map(|key| format!("{key} names nothing that is created")).collect()
}

fn forbidden(snapshot: &Snapshot, given: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems: Vec<String> = Vec::new();
    let settings = FORBIDDEN_SETTINGS.iter().filter(|key| given.contains_key(**key));
    problems.extend(settings.map(|key| format!("app setting {key} is not for Flex Consumption")));
    for site in snapshot.of("Microsoft.Web/sites") {
        let text = site["properties"].to_string();
        let properties = FORBIDDEN_PROPERTIES.iter().filter(|name| text.contains(&format!("\"{name}\":")));
        problems.extend(properties.map(|name| format!("property {name} is not for Flex Consumption")));
        if site.pointer("/tags/azd-service-name").is_none() {
            problems.push("the app lacks the tag `azd-service-name`".to_owned());
        }
        let authentication = site.pointer("/properties/functionAppConfig/deployment/storage/authentication/type");
        if authentication.and_then(Value::as_str) != Some("UserAssignedIdentity") {
            problems.push("the package is not fetched with the app's identity".to_owned());
        }
    }
    problems
}

/// What the product itself says of the settings, with something in place of what only the deployment knows.
fn refused(given: &BTreeMap<String, String>) -> Vec<String> {
    let mut settings = given.clone();
    let stand_ins = [
        ("KEY_VAULT_URL", "https://vault.example"),
        ("MANAGED_IDENTITY_CLIENT_ID", "an-identity"),
        ("PUBLIC_URL", "https://app.example"),
    ];
    for (key, stand_in) in stand_ins {
        settings.entry(key.to_owned()).and_modify(|value| stand_in.clone_into(value));
    }
    // Storage is checked by the names of what is created.
    settings.retain(|key, _| !key.starts_with("AzureWebJobsStorage"));
    vault_secrets(&settings).err().into_iter().flatten().map(|problem| format!("the handler would say: {problem}")).collect()
}
