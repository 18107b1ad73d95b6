//! The least roles, and no more: which the app's identity has, and where.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use indicator_relay::notifications::resources::{Permission, RESOURCES};
use serde_json::Value;

use super::laws::Snapshot;

/// Kind of the resource that a role is given on, the role's id, and what it is for.
const OF_APP: [(&str, &str, &str); 5] = [
    (
        "Microsoft.Storage/storageAccounts",
        "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",
        "Storage Blob Data Owner: host, package, bodies",
    ),
    ("Microsoft.Storage/storageAccounts", "974c5e8b-45b9-4653-ba55-5f855dd0fb88", "Storage Queue Data Contributor: queues"),
    ("Microsoft.Storage/storageAccounts", "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3", "Storage Table Data Contributor: state"),
    ("Microsoft.KeyVault/vaults", "4633458b-17de-408a-b874-0445c86b69e6", "Key Vault Secrets User: secrets"),
    ("Microsoft.Insights/components", "3913510d-42f4-4e42-8a64-420c390055eb", "Monitoring Metrics Publisher: telemetry"),
];

/// On the workspace of Sentinel, which is not made here: only where the parameters ask for it.
const SENTINEL: (&str, &str) = ("Microsoft.OperationalInsights/workspaces", "ab8e14d6-4a74-4a29-9ba8-549422addade");

/// How the templates ask for application permissions: Defender's by its name, Graph's by a list of names that is a parameter.
const ASKED: [&str; 2] = ["'Ti.ReadWrite.All'", "parameters('graphPermissions')["];
/// Of Microsoft Graph, for jobs with DELIVERY=graph.
const INDICATORS: &str = "ThreatIndicators.ReadWrite.OwnedBy";

pub(super) fn violations(snapshots: &[Snapshot]) -> Vec<String> {
    let one = |snapshot: &Snapshot| {
        let found = if snapshot.has_app() { [lacking(snapshot), needless(snapshot)].concat() } else { permissions(snapshot) };
        found.into_iter().map(|problem| format!("{}: {problem}", snapshot.name)).collect::<Vec<_>>()
    };
    snapshots.iter().flat_map(one).collect()
}

/// The resource that an assignment is on: its id, in lower case. It stands first in the assignment's own id.
fn scope(assignment: &Value) -> String {
    let id = assignment["id"].as_str().unwrap_or_default().to_lowercase();
    let start = id.find("/subscriptions/").unwrap_or_default();
    id[start..]
        .split(['\'', ','])
        .next()
        .unwrap_or_default()
        .split("/providers/microsoft.authorization")
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn role(assignment: &Value) -> &str {
    let id = assignment.pointer("/properties/roleDefinitionId").and_then(Value::as_str).unwrap_or_default();
    id.trim_end_matches(['\'', ')', ']']).rsplit(['/', '\'']).next().unwrap_or_default()
}

/// `…/providers/A/b/name` is of the kind `a/b`.
fn kind_of(id: &str) -> String {
    let rest = id.rsplit("/providers/").next().unwrap_or_default();
    rest.split('/').take(2).collect::<Vec<_>>().join("/")
}

fn assignments(snapshot: &Snapshot) -> impl Iterator<Item = (String, &str, &Value)> {
    snapshot.of("Microsoft.Authorization/roleAssignments").map(|assignment| (scope(assignment), role(assignment), assignment))
}

fn lacking(snapshot: &Snapshot) -> Vec<String> {
    let given: BTreeSet<(String, &str)> = assignments(snapshot).map(|(scope, role, _)| (kind_of(&scope), role)).collect();
    let missing = OF_APP.iter().filter(|(kind, role, _)| !given.contains(&(kind.to_lowercase(), role)));
    missing.map(|(kind, _, what)| format!("no assignment of {what} on {kind}")).collect()
}

fn needless(snapshot: &Snapshot) -> Vec<String> {
    let ids = snapshot.ids();
    let mut problems = Vec::new();
    for (scope, role, assignment) in assignments(snapshot) {
        let kind = kind_of(&scope);
        let principal = assignment.pointer("/properties/principalId").and_then(Value::as_str).unwrap_or_default();
        let ours = OF_APP.iter().any(|(expected, id, _)| kind == expected.to_lowercase() && role == *id) && ids.contains(&scope);
        let sentinel = kind == SENTINEL.0.to_lowercase() && role == SENTINEL.1 && !ids.contains(&scope);
        if !ours && !sentinel {
            problems.push(format!("role `{role}` on `{scope}` is more than the app needs"));
        }
        if ours && !(principal.contains("userAssignedIdentities") && principal.ends_with(".principalId]")) {
            problems.push(format!("role `{role}` goes to `{principal}`, not to the app's identity"));
        }
    }
    problems
}

fn permissions(snapshot: &Snapshot) -> Vec<String> {
    let named = |assignment: &&Value| {
        let role = assignment.pointer("/properties/appRoleId").and_then(Value::as_str).unwrap_or_default();
        !ASKED.iter().any(|asked| role.contains(asked))
    };
    let assignments =
        snapshot.resources.iter().filter(|r| r["type"].as_str().is_some_and(|kind| kind.contains("appRoleAssignedTo")));
    assignments.filter(named).map(|assignment| format!("a permission that no target asks for: {assignment}")).collect()
}

/// What a parameters file asks of Microsoft Graph beyond what any job, subscription or poll of the product needs.
///
/// # Errors
/// The file cannot be read.
pub(super) fn graph_permissions(root: &Path) -> anyhow::Result<Vec<String>> {
    let file = "infra/app-registration.bicepparam";
    let text = fs::read_to_string(root.join(file)).with_context(|| format!("failed to read {file}"))?;
    let list = text.split_once("graphPermissions = [").and_then(|(_, rest)| rest.split_once(']')).map_or("", |(list, _)| list);
    let known: BTreeSet<&str> = RESOURCES
        .iter()
        .flat_map(|resource| match resource.permission {
            Permission::App { create, renew } => vec![create, renew],
            Permission::DelegatedOnly(_) | Permission::Unknown => Vec::new(),
        })
        .chain([INDICATORS])
        .collect();
    let names = list.split('\'').skip(1).step_by(2).filter(|name| !known.contains(name));
    Ok(names.map(|name| format!("{file}: `{name}` is a permission that nothing here needs")).collect())
}
