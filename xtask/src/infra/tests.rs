//! Each law notices when it is broken: the committed snapshots, changed in one place.

use serde_json::{Value, json};

use super::documents::{against, agreement, read};
use super::laws::{Snapshot, snapshots};
use super::parameters::settings;
use super::queries::{Query, deployed, unlike_events, unwatched};
use super::{parameters_are_current, violations};
use crate::docs::root;

const STORAGE: &str = "Microsoft.Storage/storageAccounts";
const SITE: &str = "Microsoft.Web/sites";
const CONFIG: &str = "Microsoft.Web/sites/config";
const ROLE: &str = "Microsoft.Authorization/roleAssignments";

/// What is said when the first resource of `kind` in the full snapshot is changed.
fn said_after(kind: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut all = snapshots(&root()).expect("committed snapshots");
    let full = all.iter_mut().find(|snapshot| snapshot.name == "full").expect("a full one");
    let mut resources = full.resources.clone();
    change(resources.iter_mut().find(|resource| resource["type"] == kind).expect("such a resource"));
    *full = Snapshot::new("full", &json!({ "predictedResources": resources }));
    violations(&all, &settings().expect("a table")).join("\n")
}

/// The same, with one more resource.
fn said_with(resource: Value) -> String {
    let mut all = snapshots(&root()).expect("committed snapshots");
    let full = all.iter_mut().find(|snapshot| snapshot.name == "full").expect("a full one");
    let resources = [full.resources.clone(), vec![resource]].concat();
    *full = Snapshot::new("full", &json!({ "predictedResources": resources }));
    violations(&all, &settings().expect("a table")).join("\n")
}

#[track_caller]
fn assert_says(said: &str, what: &str) {
    assert!(said.contains(what), "expected `{what}` in:\n{said}");
}

fn setting<'a>(config: &'a mut Value, key: &str) -> &'a mut Value {
    &mut config["properties"][key]
}

#[test]
fn the_committed_snapshots_break_no_law() {
    let all = snapshots(&root()).expect("committed snapshots");
    assert_eq!(violations(&all, &settings().expect("a table")), Vec::<String>::new());
}

#[test]
fn the_parameters_are_those_of_the_table() {
    let outcome = parameters_are_current(&root(), &settings().expect("a table")).expect("templates");
    assert!(matches!(outcome, super::Outcome::Passed(_)), "cargo xtask infra --update");
}

#[test]
fn a_setting_left_out_is_noticed() {
    let said = said_after(CONFIG, |config| drop(config["properties"].as_object_mut().expect("settings").remove("TAGS_FILTER")));
    assert_says(&said, "full: no app setting TAGS_FILTER");
    let said = said_after(CONFIG, |config| drop(config["properties"].as_object_mut().expect("settings").remove("KEY_VAULT_URL")));
    assert_says(&said, "full: no app setting KEY_VAULT_URL");
}

#[test]
fn a_setting_that_the_product_does_not_know_is_noticed() {
    let said = said_after(CONFIG, |config| *setting(config, "OWNRES") = "x".into());
    assert_says(&said, "OWNRES is no setting of the product");
    let said = said_after(CONFIG, |config| *setting(config, "SENTINEL__LOGGING_LEVEL") = "info".into());
    assert_says(&said, "SENTINEL__LOGGING_LEVEL cannot be given per job");
}

#[test]
fn a_value_that_the_product_refuses_is_noticed() {
    let said = said_after(CONFIG, |config| *setting(config, "EXPORT_SCHEDULE") = "0 */15 * * *  * *".into());
    assert_says(&said, "full: the handler would say: EXPORT_SCHEDULE");
    let said = said_after(CONFIG, |config| *setting(config, "DEFENDER__ACTION_TO_TAKE") = "Blok".into());
    assert_says(&said, "full: the handler would say: DEFENDER__ACTION_TO_TAKE");
}

#[test]
fn a_secret_in_a_setting_is_noticed() {
    let said = said_after(CONFIG, |config| *setting(config, "DEFENDER__THREATCONNECT_TOKEN") = "x".into());
    assert_says(&said, "DEFENDER__THREATCONNECT_TOKEN is a secret");
    let said = said_after(CONFIG, |config| *setting(config, "AzureWebJobsStorage") = "UseDevelopmentStorage=true".into());
    assert_says(&said, "AzureWebJobsStorage: a connection string holds a key");
}

#[test]
fn a_key_is_noticed_wherever_it_is() {
    let said = said_after(CONFIG, |config| *setting(config, "OWNERS") = "[listKeys('x', '2025-01-01').keys[0].value]".into());
    assert_says(&said, "holds `listkeys`");
    let said = said_after(STORAGE, |account| account["properties"]["allowSharedKeyAccess"] = true.into());
    assert_says(&said, "allowSharedKeyAccess must be false");
    let said = said_after(STORAGE, |account| {
        drop(account["properties"].as_object_mut().expect("properties").remove("allowSharedKeyAccess"));
    });
    assert_says(&said, "allowSharedKeyAccess must be false");
}

#[test]
fn a_name_of_nothing_is_noticed() {
    let said =
        said_after(CONFIG, |config| *setting(config, "KEY_VAULT_URL") = "[format('https://{0}{1}', 'kv-other', 'x')]".into());
    assert_says(&said, "KEY_VAULT_URL names nothing that is created");
    let said = said_after(SITE, |site| {
        let text = site.to_string().replace("serverfarms/plan-", "serverfarms/other-");
        *site = serde_json::from_str(&text).expect("JSON");
    });
    assert_says(&said, "which is not created");
}

#[test]
fn a_role_too_few_is_noticed() {
    let said = said_after(ROLE, |role| role["type"] = "Microsoft.Authorization/other".into());
    assert_says(&said, "no assignment of Storage Blob Data Owner");
}

#[test]
fn a_role_too_many_is_noticed() {
    let scope = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg-indicator-relay";
    let contributor = "b24988ac-6180-42a0-ab88-20f7382dd24c";
    let said = said_with(json!({
        "id": format!("{scope}/providers/Microsoft.Authorization/roleAssignments/x"), "type": ROLE, "name": "x",
        "properties": { "principalId": "x", "roleDefinitionId": format!("/providers/Microsoft.Authorization/roleDefinitions/{contributor}") },
    }));
    assert_says(&said, &format!("role `{contributor}` on `{}`", scope.to_lowercase()));
    let said = said_after(ROLE, |role| role["properties"]["principalId"] = "44444444-4444-4444-4444-444444444444".into());
    assert_says(&said, "not to the app's identity");
}

#[test]
fn what_flex_consumption_forbids_is_noticed() {
    let said = said_after(CONFIG, |config| *setting(config, "FUNCTIONS_WORKER_RUNTIME") = "custom".into());
    assert_says(&said, "FUNCTIONS_WORKER_RUNTIME is not for Flex Consumption");
    let said = said_after(SITE, |site| site["properties"]["siteConfig"]["alwaysOn"] = true.into());
    assert_says(&said, "property alwaysOn is not for Flex Consumption");
    let said = said_after(SITE, |site| site["properties"]["functionAppConfig"]["runtime"]["version"] = "1".into());
    assert_says(&said, "runtime/version must be \"1.0\"");
}

#[test]
fn other_names_in_storage_and_missing_tags_are_noticed() {
    let queue = "Microsoft.Storage/storageAccounts/queueServices/queues";
    let said = said_after(queue, |queue| queue["name"] = "stindicatorrelayfull/default/export-run".into());
    assert_says(&said, "the code uses");
    let said = said_after(STORAGE, |account| account["tags"] = json!({}));
    assert_says(&said, "lacks the tag `azd-env-name`");
    let said = said_after(SITE, |site| site["tags"] = json!({ "azd-env-name": "full" }));
    assert_says(&said, "lacks the tag `azd-service-name`");
}

#[test]
fn a_rule_that_tells_nobody_is_noticed() {
    let rule = "Microsoft.Insights/scheduledQueryRules";
    let said = said_after(rule, |rule| rule["properties"]["actions"] = json!({ "actionGroups": [] }));
    assert_says(&said, "tells nobody");
}

#[test]
fn a_query_for_what_the_handler_does_not_write_is_noticed() {
    let query = |text: &str| vec![Query { place: "here".to_owned(), text: text.to_owned() }];
    let wrong_event = query("AppTraces | where tostring(parse_json(Message).event) == \"run.fialed\"");
    assert_eq!(unlike_events(&wrong_event), ["here: the handler writes no event `run.fialed`"]);
    let wrong_field = query(
        "AppTraces | where Message has \"run.failed\" | extend line = parse_json(Message) | project line.jbo, line[\"rnu\"]",
    );
    assert_eq!(
        unlike_events(&wrong_field),
        ["here: no event that it names has a field `jbo`", "here: no event that it names has a field `rnu`"]
    );
}

#[test]
fn every_event_that_somebody_must_hear_of_has_a_rule() {
    let all = snapshots(&root()).expect("committed snapshots");
    let queries: Vec<Query> = all.iter().flat_map(deployed).collect();
    assert_eq!(unwatched(&queries), Vec::<String>::new());
    let without: Vec<Query> = queries.into_iter().filter(|query| !query.place.ends_with("queue-poison")).collect();
    assert_eq!(unwatched(&without), ["no alert rule waits for `queue.poison`"]);
}

/// What the schema says of a committed document, changed in one place.
fn said_of(file: &str, schema: &str, pointer: &str, value: Value) -> String {
    let mut document = read(&root(), file).expect("a document");
    assert_eq!(against(&root(), file, &document, schema).expect("a schema"), Vec::<String>::new());
    *document.pointer_mut(pointer).expect("such a place") = value;
    against(&root(), file, &document, schema).expect("a schema").join("\n")
}

#[test]
fn documents_that_their_schemas_refuse_are_noticed() {
    let workflow = ".github/workflows/deploy.yml";
    assert_says(
        &said_of("host.json", "host.json", "/extensions/queues/messageEncoding", 64.into()),
        "/extensions/queues/messageEncoding",
    );
    assert_says(
        &said_of("host.json", "host.json", "/customHandler", json!({ "enableForwardingHttpRequest": "yes" })),
        "/customHandler",
    );
    let function = "functions/RunExport/function.json";
    assert_says(&said_of(function, "function.json", "/bindings/0/direction", "out".into()), "/bindings/0");
    assert_says(
        &said_of("azure.yaml", "azure.yaml.json", "/services/indicator-relay/hooks/prepackage/shell", "zsh".into()),
        "zsh",
    );
    assert_says(&said_of(workflow, "github-workflow.json", "/jobs/deploy/steps/0", json!({ "use": "x" })), "/jobs/deploy");
    assert_says(&said_of("local.settings.example.json", "local.settings.json", "/Values", "x".into()), "/Values");
}

#[test]
fn a_host_that_the_handler_does_not_expect_is_noticed() {
    let mut host = read(&root(), "host.json").expect("a document");
    assert_eq!(agreement(&host, &[]), Vec::<String>::new());
    host["extensions"]["queues"]["messageEncoding"] = "none".into();
    host["logging"]["applicationInsights"]["samplingSettings"]["excludedTypes"] = "Request".into();
    let said = agreement(&host, &[("RunExport".to_owned(), json!({ "bindings": [] }))]).join("\n");
    assert_says(&said, "/extensions/queues/messageEncoding must be \"base64\"");
    assert_says(&said, "exclude Trace and Request from sampling");
    assert_says(&said, "functions/RunExport: exactly one trigger");
}
