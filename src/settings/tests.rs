//! Settings as users get them wrong and right.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn good() -> BTreeMap<String, String> {
    map(&[
        ("API_USER", "48151623420815108001"),
        ("THREATCONNECT_SECRET_KEY", "hunter2-secret"),
        ("THREATCONNECT_URL", "https://example.threatconnect.com/api"),
        ("MICROSOFT_GRAPH_CLIENT_ID", "11111111-2222-3333-4444-555555555555"),
        ("MICROSOFT_GRAPH_CLIENT_SECRET", "correct-horse-secret"),
        ("MICROSOFT_GRAPH_TENANT_ID", "contoso.onmicrosoft.com"),
        ("DEFAULT_TLP_LEVEL", "amber"),
        ("TARGET_PRODUCT", "Microsoft Sentinel"),
        ("ACTION_TO_TAKE", "Alert"),
        ("EXPIRATION_DAYS_EMAIL", "30"),
        ("EXPIRATION_DAYS_FILE", "90"),
        ("EXPIRATION_DAYS_NETWORK", "7"),
        ("SENTINEL_WORKSPACE_ID", "8ecf8077-cf51-4820-aadd-14040956f35d"),
    ])
}

fn with(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut all = good();
    all.extend(map(pairs));
    all
}

fn problems(given: &BTreeMap<String, String>) -> Vec<String> {
    Settings::from_map(given).expect_err("problems").iter().map(ToString::to_string).collect()
}

#[test]
fn the_guides_required_settings_are_enough() {
    let settings = Settings::from_map(&good()).expect("settings");
    let job = &settings.jobs[0];
    assert_eq!((settings.jobs.len(), job.name.as_str(), job.policy.incremental), (1, "default", false));
    assert_eq!(job.policy.interval(), Duration::from_secs(900));
    assert!(settings.notes.is_empty());
}

#[test]
fn every_problem_is_told_at_once_with_key_guide_name_and_what_is_accepted() {
    let mut given = with(&[
        ("MINIMUM_CONFIDENCE_RATING", "101"),
        ("ACTION_TO_TAKE", "Delete"),
        ("THREATCONNECT_URL", "http://tc.example/api"),
        ("ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN", "on"),
    ]);
    given.remove("DEFAULT_TLP_LEVEL");
    assert_eq!(
        problems(&given),
        [
            "ACTION_TO_TAKE (guide: Action to Take) `Delete` is none of the accepted values; accepted: Alert, Block",
            "DEFAULT_TLP_LEVEL (guide: Default TLP Level) is required; accepted: white (clear), green, amber, red",
            "MINIMUM_CONFIDENCE_RATING (guide: Minimum Confidence Rating) `101` is out of range; accepted: 0 to 100",
            "THREATCONNECT_URL `http://tc.example/api` is neither https nor on this machine; accepted: an https address (http for this machine only)",
        ]
    );
    assert_eq!(
        problems(&with(&[("ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN", "on")])),
        ["LAST_RUN (guide: Last Run) is required; accepted: `30 days ago`, an ISO date"]
    );
}

#[test]
fn one_way_to_sign_in_to_threatconnect() {
    assert!(problems(&with(&[("THREATCONNECT_TOKEN", "APIV2:1")]))[0].contains("both given"));
    let mut token = with(&[("THREATCONNECT_TOKEN", "APIV2:1")]);
    token.remove("API_USER");
    token.remove("THREATCONNECT_SECRET_KEY");
    assert!(matches!(Settings::from_map(&token).expect("settings").jobs[0].source.credentials, Credentials::Token(_)));
}

#[test]
fn full_runs_come_at_least_three_times_within_the_shortest_expiration() {
    let given = with(&[("EXPORT_SCHEDULE", "0 0 3 * * Sun")]);
    assert_eq!(
        problems(&given),
        ["EXPORT_SCHEDULE leaves 7 days between two full runs; at most a third of the shortest expiration (7 days), so 56 h"]
    );
    let given = with(&[("ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN", "on"), ("LAST_RUN", "30 days ago"), ("FULL_RUN_EVERY", "3d")]);
    assert!(problems(&given)[0].starts_with("FULL_RUN_EVERY leaves 3 days"));
}

#[test]
fn jobs_take_their_own_settings_first() {
    let given = with(&[
        ("JOBS", "org,red-team"),
        ("OWNERS", "Acme Org"),
        ("RED_TEAM__OWNERS", "Red|Blue"),
        ("RED_TEAM__ACTION_TO_TAKE", "Block"),
        ("RED_TEAM__SENTINEL_SOURCE_SYSTEM", "Red"),
    ]);
    let settings = Settings::from_map(&given).expect("settings");
    assert_eq!(settings.jobs[0].filter.owners, ["Acme Org"]);
    assert_eq!(settings.jobs[1].filter.owners, ["Red", "Blue"]);
    assert_ne!(settings.jobs[0].fingerprint, settings.jobs[1].fingerprint);
    let Target::Sentinel { config, .. } = &settings.jobs[1].target;
    assert_eq!(config.requests_per_minute, 50, "two destinations share the identity's rate");
}

#[test]
fn a_jobs_mistyped_or_foreign_keys_are_problems_and_others_nobodys_business() {
    let given = with(&[("JOBS", "org"), ("ORG__OWNRS", "x"), ("ORG__LOGGING_LEVEL", "info"), ("PATH", "/bin"), ("OTHER__OWNRS", "x")]);
    assert_eq!(
        problems(&given),
        [
            "ORG__LOGGING_LEVEL (guide: Logging Level) is for the whole process and cannot be set for one job",
            "ORG__OWNRS is no setting; did you mean OWNERS?",
        ]
    );
    let settings = Settings::from_map(&with(&[("TAG_FILTER", "x")])).expect("settings");
    assert_eq!(settings.notes, ["TAG_FILTER is no setting; TAGS_FILTER is one"]);
}

#[test]
fn what_is_ignored_is_said() {
    let given = with(&[("TQL", "rating > 3"), ("OWNERS", "Acme"), ("FALSE_POSITIVE_THRESHOLD", "0"), ("LAST_RUN", "now"), ("INDICATOR_TYPES", "URL")]);
    let settings = Settings::from_map(&given).expect("settings");
    assert_eq!(
        settings.notes,
        [
            "TQL of job `default` replaces OWNERS, INDICATOR_TYPES, FALSE_POSITIVE_THRESHOLD",
            "LAST_RUN of job `default` is ignored: ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN is off",
        ]
    );
    assert_eq!(settings.jobs[0].terms.kinds.len(), 10, "the type filter is ignored for hashes too");
}

#[test]
fn schedules_and_secrets_do_not_change_the_fingerprint_but_filters_do() {
    let fingerprint = |pairs: &[(&str, &str)]| Settings::from_map(&with(pairs)).expect("settings").jobs[0].fingerprint.clone();
    let plain = fingerprint(&[]);
    assert_eq!(plain, fingerprint(&[("EXPORT_SCHEDULE", "0 0 * * * *"), ("MICROSOFT_GRAPH_CLIENT_SECRET", "other")]));
    assert_ne!(plain, fingerprint(&[("TAGS_FILTER", "APT29")]));
    assert_ne!(plain, fingerprint(&[("NEVER_SEND", "contoso.example")]));
}

#[test]
fn secrets_come_from_the_vault_by_name_never_by_value() {
    let mut given = with(&[("KEY_VAULT_URL", "https://kv.vault.azure.net"), ("THREATCONNECT_SECRET_KEY_SECRET_NAME", "tc-key")]);
    let told: Vec<String> = plan_vault(&given).expect_err("values beside a vault").iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|line| !line.contains("secret-") && !line.contains("hunter2")));
    given.remove("THREATCONNECT_SECRET_KEY");
    given.remove("MICROSOFT_GRAPH_CLIENT_SECRET");
    let plan = plan_vault(&given).expect("a plan").expect("a vault");
    let names: Vec<(&str, &str)> = plan.secrets.iter().map(|s| (s.key.as_str(), s.name.as_str())).collect();
    assert_eq!(names, [("MICROSOFT_GRAPH_CLIENT_SECRET", "microsoft-graph-client-secret"), ("THREATCONNECT_SECRET_KEY", "tc-key")]);
}

#[test]
fn the_versions_limits_are_told() {
    assert!(problems(&with(&[("TARGET_PRODUCT", "microsoft defender for endpoint")]))[0].contains("not in this version"));
    assert!(problems(&with(&[("DELIVERY", "graph")]))[0].contains("not in this version"));
}

fn any_settings() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop::sample::select(PARAMS.iter().map(|param| param.key).collect::<Vec<_>>());
    let prefix = prop::sample::select(vec!["", "", "ORG__", "DEFAULT__"]);
    let value = prop_oneof![".{0,20}", "[0-9]{1,6}", "on|off|\\[\"a\"\\]|24h|a\\|b|https://x.example|0 \\* \\* \\* \\* \\*"];
    prop::collection::btree_map((prefix, key).prop_map(|(prefix, key)| format!("{prefix}{key}")), value, 0..20)
}

proptest! {
    #[test]
    fn no_settings_make_it_panic_and_no_problem_is_nameless(extra in any_settings()) {
        let mut given = good();
        given.extend(extra);
        if let Err(problems) = Settings::from_map(&given) {
            prop_assert!(problems.iter().all(|problem| !problem.key.is_empty() && !problem.message.is_empty()));
        }
        drop(plan_vault(&given));
    }

    #[test]
    fn no_output_shows_a_secret(secret in "[a-zA-Z0-9]{12,40}", wrong in any::<bool>()) {
        let mut given = with(&[("THREATCONNECT_SECRET_KEY", &secret), ("MICROSOFT_GRAPH_CLIENT_SECRET", &secret)]);
        if wrong {
            given.insert("ACTION_TO_TAKE".to_owned(), "x".to_owned());
            given.insert("KEY_VAULT_URL".to_owned(), "https://kv.vault.azure.net".to_owned());
        }
        let shown = format!("{:?} {:?}", Settings::from_map(&given), plan_vault(&given));
        prop_assert!(!shown.contains(&secret));
        for format in [Format::Table, Format::Json, Format::Schema, Format::Env] {
            prop_assert!(!render(format, &given).contains(&secret));
        }
    }
}
