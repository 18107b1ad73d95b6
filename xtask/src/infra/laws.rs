//! What holds for every deployment, read from the snapshots: what is created, no key and no secret, names that resolve.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use indicator_relay::export;
use indicator_relay::notifications::item;
use indicator_relay::storage::azure::{CONTAINER, TABLE};
use indicator_relay::storage::poison_of;
use serde_json::Value;

/// Names that the code uses; the container of packages is named by the templates alone.
const TABLES: [&str; 1] = [TABLE];
const CONTAINERS: [&str; 3] = ["deployments", CONTAINER, "playbooks"];
/// The host moves what fails five times to a queue beside each.
const QUEUES: [&str; 3] = [export::QUEUE, item::QUEUE, item::URGENT_QUEUE];

/// How keys and secrets look in templates.
const KEYS: [&str; 9] = [
    "listkeys",
    "listsecrets",
    "listaccountsas",
    "listservicesas",
    "accountkey",
    "defaultendpointsprotocol",
    "sharedaccess",
    "primarysharedkey",
    "clientsecret",
];

/// What each kind of resource must say, where it is made.
const MUST_SAY: [(&str, &str, &str); 16] = [
    ("Microsoft.Storage/storageAccounts", "/properties/allowSharedKeyAccess", "false"),
    ("Microsoft.Storage/storageAccounts", "/properties/allowBlobPublicAccess", "false"),
    ("Microsoft.Storage/storageAccounts", "/properties/minimumTlsVersion", "\"TLS1_2\""),
    ("Microsoft.Storage/storageAccounts", "/properties/supportsHttpsTrafficOnly", "true"),
    ("Microsoft.Storage/storageAccounts/blobServices/containers", "/properties/publicAccess", "\"None\""),
    ("Microsoft.KeyVault/vaults", "/properties/enableRbacAuthorization", "true"),
    ("Microsoft.KeyVault/vaults", "/properties/enablePurgeProtection", "true"),
    ("Microsoft.KeyVault/vaults", "/properties/enableSoftDelete", "true"),
    ("Microsoft.Insights/components", "/properties/DisableLocalAuth", "true"),
    ("Microsoft.Web/sites/basicPublishingCredentialsPolicies", "/properties/allow", "false"),
    ("Microsoft.Web/serverfarms", "/sku/name", "\"FC1\""),
    ("Microsoft.Web/sites", "/kind", "\"functionapp,linux\""),
    ("Microsoft.Web/sites", "/properties/httpsOnly", "true"),
    ("Microsoft.Web/sites", "/properties/siteConfig/minTlsVersion", "\"1.2\""),
    ("Microsoft.Web/sites", "/properties/functionAppConfig/runtime/name", "\"custom\""),
    ("Microsoft.Web/sites", "/properties/functionAppConfig/runtime/version", "\"1.0\""),
];

/// What one parameters file deploys.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// Name of the parameters file, without ending.
    pub(crate) name: String,
    pub(crate) resources: Vec<Value>,
    pub(crate) text: String,
}

impl Snapshot {
    pub(crate) fn new(name: &str, read: &Value) -> Self {
        let resources = read["predictedResources"].as_array().cloned().unwrap_or_default();
        Self { name: name.to_owned(), resources, text: read.to_string() }
    }

    /// Whether it makes the app; the registration is a deployment of its own.
    pub(crate) fn has_app(&self) -> bool {
        self.of("Microsoft.Web/sites").next().is_some()
    }

    pub(crate) fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.resources.iter().filter(move |resource| resource["type"] == kind)
    }

    /// Ids of what is made, in lower case.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        self.resources.iter().filter_map(|resource| resource["id"].as_str()).map(str::to_lowercase).collect()
    }
}

/// All committed snapshots, by name.
///
/// # Errors
/// One is not JSON, or there is none.
pub(crate) fn snapshots(root: &Path) -> anyhow::Result<Vec<Snapshot>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join("infra")).context("failed to read infra/")?.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if let Some(name) = file.strip_suffix(".snapshot.json") {
            let text = fs::read_to_string(entry.path())?;
            let read = serde_json::from_str(&text).with_context(|| format!("infra/{file} is not JSON"))?;
            found.push(Snapshot::new(name, &read));
        }
    }
    anyhow::ensure!(!found.is_empty(), "infra/ holds no snapshot: cargo xtask infra --update");
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

pub(super) fn violations(snapshots: &[Snapshot]) -> Vec<String> {
    let one = |snapshot: &Snapshot| {
        let all = [
            keys(snapshot),
            unresolved(snapshot),
            unsaid(snapshot),
            storage_names(snapshot),
            labels(snapshot),
            unheard(snapshot),
        ]
        .concat();
        all.into_iter().map(|problem| format!("{}: {problem}", snapshot.name)).collect::<Vec<_>>()
    };
    snapshots.iter().flat_map(one).collect()
}

fn keys(snapshot: &Snapshot) -> Vec<String> {
    let text = snapshot.text.to_lowercase();
    KEYS.iter()
        .filter(|key| text.contains(**key))
        .map(|key| format!("holds `{key}`: identities only, secrets in the vault"))
        .collect()
}

/// Every id of the resource group that is named anywhere is the id of something made here, or of a part of it.
fn unresolved(snapshot: &Snapshot) -> Vec<String> {
    let ids = snapshot.ids();
    let made = |id: &String| ids.iter().any(|made| id == made || id.starts_with(&format!("{made}/")));
    let group = "/resourcegroups/rg-indicator-relay/providers/";
    let text = snapshot.text.to_lowercase();
    let named: BTreeSet<String> = text
        .match_indices("/subscriptions/")
        .filter_map(|(at, _)| text[at..].split(['\'', '"', '\\', ',', ' ']).next())
        .filter(|id| id.contains(group) && !id.contains("roledefinitions"))
        .map(str::to_owned)
        .collect();
    named.iter().filter(|id| !made(id)).map(|id| format!("names `{id}`, which is not created")).collect()
}

fn unsaid(snapshot: &Snapshot) -> Vec<String> {
    let wrong = |(kind, pointer, value): &(&str, &str, &str)| {
        let found =
            snapshot.of(kind).filter(|resource| resource.pointer(pointer).map(Value::to_string).as_deref() != Some(*value));
        found.map(|resource| format!("{} `{}`: {pointer} must be {value}", kind, resource["name"])).collect::<Vec<_>>()
    };
    MUST_SAY.iter().flat_map(wrong).collect()
}

fn storage_names(snapshot: &Snapshot) -> Vec<String> {
    if !snapshot.has_app() {
        return Vec::new();
    }
    let made = |kind: &str| -> BTreeSet<String> {
        let names = snapshot.of(kind).filter_map(|resource| resource["name"].as_str()?.rsplit('/').next());
        names.map(str::to_owned).collect()
    };
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    let queues = QUEUES.into_iter().flat_map(|queue| [queue.to_owned(), poison_of(queue)]).collect();
    let expected: [(&str, BTreeSet<String>); 3] = [
        ("Microsoft.Storage/storageAccounts/queueServices/queues", queues),
        ("Microsoft.Storage/storageAccounts/tableServices/tables", owned(&TABLES)),
        ("Microsoft.Storage/storageAccounts/blobServices/containers", owned(&CONTAINERS)),
    ];
    let wrong = expected.iter().filter(|(kind, names)| made(kind) != *names);
    wrong.map(|(kind, names)| format!("{kind} are {:?}, the code uses {names:?}", made(kind))).collect()
}

/// Everything that has a place has the tag of its environment, and no version that may be withdrawn.
fn labels(snapshot: &Snapshot) -> Vec<String> {
    let mut problems = Vec::new();
    for resource in &snapshot.resources {
        let name =
            format!("{} `{}`", resource["type"].as_str().unwrap_or_default(), resource["name"].as_str().unwrap_or_default());
        if resource.get("location").is_some() && resource.pointer("/tags/azd-env-name").is_none() {
            problems.push(format!("{name} lacks the tag `azd-env-name`"));
        }
        if resource["apiVersion"].as_str().is_some_and(|version| version.ends_with("-preview")) {
            problems.push(format!("{name} uses a preview of the interface"));
        }
    }
    problems
}

/// Where there are people to tell, every rule tells them.
fn unheard(snapshot: &Snapshot) -> Vec<String> {
    if snapshot.of("Microsoft.Insights/actionGroups").next().is_none() {
        return Vec::new();
    }
    let groups = |rule: &Value| {
        rule.pointer("/properties/actions/actionGroups").and_then(Value::as_array).is_some_and(|groups| !groups.is_empty())
    };
    let rules = snapshot.of("Microsoft.Insights/scheduledQueryRules").filter(|rule| !groups(rule));
    rules.map(|rule| format!("rule {} tells nobody", rule["name"])).collect()
}
