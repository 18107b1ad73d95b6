//! Settings as a user meets them: a map goes in, meaning or problems come out.

use proptest::prelude::*;
use url::Url;

use super::params::TABLE;
use super::*;
use crate::export::Resend;
use crate::indicator::{ActionToTake, Confidence, Kind, ThreatAssessScore, ThreatRating, Tlp};
use crate::platform::identity::Resident;
use crate::platform::secret::Secret;
use crate::platform::vault::SecretSource;
use crate::storage::azure::{Account, Credential, DEVELOPMENT_KEY};
use crate::threatconnect::Credentials;

const SECRET: &str = "pa55w0rd~hunter2";

type Map = BTreeMap<String, String>;

/// The least that is accepted.
fn least() -> Map {
    map(&[
        ("API_USER", "12345678901234567890"),
        ("THREATCONNECT_SECRET_KEY", SECRET),
        ("THREATCONNECT_URL", "https://example.threatconnect.com/api"),
        ("MICROSOFT_GRAPH_CLIENT_ID", "11111111-2222-3333-4444-555555555555"),
        ("MICROSOFT_GRAPH_CLIENT_SECRET", SECRET),
        ("MICROSOFT_GRAPH_TENANT_ID", "contoso.onmicrosoft.com"),
        ("DEFAULT_TLP_LEVEL", "amber"),
        ("TARGET_PRODUCT", "microsoft sentinel"),
        ("ACTION_TO_TAKE", "Alert"),
        ("EXPIRATION_DAYS_EMAIL", "30"),
        ("EXPIRATION_DAYS_FILE", "90"),
        ("EXPIRATION_DAYS_NETWORK", "14"),
        ("SENTINEL_WORKSPACE_ID", "AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee"),
    ])
}

fn map(pairs: &[(&str, &str)]) -> Map {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The least, changed; a blank value is as good as none.
fn with(changes: &[(&str, &str)]) -> Map {
    let mut settings = least();
    settings.extend(map(changes));
    settings
}

fn accepted(changes: &[(&str, &str)]) -> Settings {
    Settings::from_map(&with(changes)).unwrap_or_else(|problems| panic!("{}", lines(&problems)))
}

fn refused(changes: &[(&str, &str)]) -> String {
    lines(&Settings::from_map(&with(changes)).expect_err("must be refused"))
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

fn sentinel(job: &Job) -> &crate::sinks::sentinel::Config {
    let Target::Sentinel(config) = &job.target else { panic!("another target") };
    config
}

#[test]
fn the_least_settings_mean_one_job_with_the_defaults() {
    let settings = accepted(&[("PATH", "/bin"), ("OWNERS", "  "), ("AzureWebJobsStorage__tenantId", "the host's")]);
    assert_eq!(settings.notes, Vec::<String>::new());
    assert_eq!((settings.logging_level, settings.time_budget), (LoggingLevel::Info, None));
    assert_eq!(settings.storage, Place::Embedded("indicator-relay.db".into()));
    let [job] = &settings.jobs[..] else { panic!("one job") };
    assert_eq!(job.name, "default");
    assert_eq!(job.source.url.as_str(), "https://example.threatconnect.com/api");
    assert_eq!(job.source.page_size, 1000);
    assert_eq!(job.filter, Filter::default());
    assert_eq!(job.terms.kinds, Kind::ALL);
    assert_eq!((job.terms.default_tlp, job.terms.action), (Tlp::Amber, ActionToTake::Alert));
    assert_eq!(job.terms.expiration_days.shortest(), 14);
    assert_eq!(sentinel(job).url.as_str(), "https://api.ti.sentinel.azure.com/");
    assert_eq!(sentinel(job).workspace_id, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    assert_eq!((sentinel(job).source_system.as_str(), sentinel(job).sharing), ("Indicator Relay", 1));
    assert_eq!(job.scope, "https://management.azure.com/.default");
    assert_eq!((job.policy.incremental, job.policy.last_run.is_none()), (false, true));
    assert_eq!((job.policy.resend, job.policy.withdraw, job.policy.withdraw_limit), (Resend::Changed, true, 20));
    let Identity::ClientSecret { login, secret: SecretSource::Given(secret), .. } = &job.identity else {
        panic!("a client secret")
    };
    assert_eq!((login.as_str(), secret.expose()), ("https://login.microsoftonline.com/", SECRET));
}

#[test]
fn nothing_given_names_everything_that_is_required_in_the_guides_order() {
    let problems = Settings::from_map(&Map::new()).expect_err("must be refused");
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    let expected = [
        "API_USER",
        "MICROSOFT_GRAPH_CLIENT_ID",
        "MICROSOFT_GRAPH_CLIENT_SECRET",
        "MICROSOFT_GRAPH_TENANT_ID",
        "DEFAULT_TLP_LEVEL",
        "TARGET_PRODUCT",
        "ACTION_TO_TAKE",
        "EXPIRATION_DAYS_EMAIL",
        "EXPIRATION_DAYS_FILE",
        "EXPIRATION_DAYS_NETWORK",
        "THREATCONNECT_URL",
    ];
    assert_eq!(keys, expected);
    let problems = Settings::from_map(&map(&[("TARGET_PRODUCT", "Microsoft Sentinel")])).expect_err("must be refused");
    assert_eq!(problems.last().map(|problem| problem.key.as_str()), Some("SENTINEL_WORKSPACE_ID"));
    assert_eq!(
        problems[4].to_string(),
        "DEFAULT_TLP_LEVEL (Default TLP Level): is required: give `White`, `Clear`, `Green`, `Amber` or `Red`"
    );
}

#[test]
fn every_problem_is_told_at_once_with_key_guide_name_value_and_what_is_accepted() {
    let told = refused(&[
        ("DEFAULT_TLP_LEVEL", "blue"),
        ("EXPIRATION_DAYS_FILE", "0"),
        ("MINIMUM_CONFIDENCE_RATING", "101"),
        ("EXPORT_SCHEDULE", "0 0 3 * * 7"),
        ("THREATCONNECT_URL", "http://example.com/api"),
        ("NEVER_SEND", "10.0.0.0/99|c"),
        ("WITHDRAW", "maybe"),
    ]);
    for part in [
        "DEFAULT_TLP_LEVEL (Default TLP Level): `blue`: give one of `White`,",
        "EXPIRATION_DAYS_FILE (Expiration Days - File): `0`: give a whole number from 1 to 3650",
        "MINIMUM_CONFIDENCE_RATING (Minimum Confidence Rating): `101`: give a whole number from 0 to 100",
        "EXPORT_SCHEDULE: `0 0 3 * * 7`: `7` is no day of week",
        "THREATCONNECT_URL: `http://example.com/api`: give an `https://` address",
        "NEVER_SEND: `10.0.0.0/99|c`:",
        "WITHDRAW: `maybe`: give `on` or `off`",
    ] {
        assert!(told.contains(part), "{part}\nis not in\n{told}");
    }
    assert_eq!(told.lines().count(), 7, "{told}");
}

#[test]
fn a_value_is_shown_on_one_line_and_not_endlessly() {
    let told = refused(&[("ACTION_TO_TAKE", &format!("a\n\u{1b}[31m{}", "x".repeat(500)))]);
    assert!(told.contains("`a\\n\\u{1b}[31m") && told.contains("x…`") && told.len() < 300, "{told}");
}

#[test]
fn jobs_have_their_own_settings_and_fall_back_to_those_of_all() {
    let settings = accepted(&[
        ("JOBS", "one, two-b"),
        ("OWNERS", "Everybody"),
        ("TWO_B__OWNERS", "Acme Org|Acme, Inc."),
        ("TWO_B__SENTINEL_WORKSPACE_ID", "ffffffff-bbbb-cccc-dddd-eeeeeeeeeeee"),
        ("ONE__TAGS_FILTER", " "),
    ]);
    let [one, two] = &settings.jobs[..] else { panic!("two jobs") };
    assert_eq!((one.name.as_str(), two.name.as_str()), ("one", "two-b"));
    assert_eq!(one.filter.owners, ["Everybody"]);
    assert_eq!(two.filter.owners, ["Acme Org", "Acme, Inc."]);
    assert_ne!(one.fingerprint, two.fingerprint);
    // Two workspaces, one identity.
    assert_eq!((sentinel(one).sharing, sentinel(two).sharing), (2, 2));
}

#[test]
fn requests_are_shared_by_destinations_of_one_identity_only() {
    let same = accepted(&[("JOBS", "a|b")]);
    assert!(same.jobs.iter().all(|job| sentinel(job).sharing == 1));
    let apart = accepted(&[("JOBS", "a|b"), ("B__SENTINEL_SOURCE_SYSTEM", "Other"), ("B__MICROSOFT_GRAPH_CLIENT_ID", "other")]);
    assert!(apart.jobs.iter().all(|job| sentinel(job).sharing == 1));
}

#[test]
fn a_problem_of_one_job_is_named_with_its_prefix_and_one_of_all_jobs_once() {
    let told = refused(&[("JOBS", "a,b"), ("B__MINIMUM_THREAT_RATING", "6"), ("ACTION_TO_TAKE", "Drop"), ("A__LAST_RUN", "1")]);
    assert!(told.contains("B__MINIMUM_THREAT_RATING (Minimum Threat Rating): `6`"), "{told}");
    assert_eq!(told.matches("ACTION_TO_TAKE").count(), 1, "{told}");
    assert!(!told.contains("LAST_RUN"), "ignored while every run reads everything: {told}");
    let told = refused(&[("JOBS", "a,b"), ("ACTION_TO_TAKE", ""), ("A__ACTION_TO_TAKE", "Block")]);
    assert!(told.starts_with("B__ACTION_TO_TAKE (Action to Take): is required"), "{told}");
}

#[test]
fn names_of_jobs_are_checked() {
    for (jobs, reason) in [
        ("Sentinel", "`Sentinel` is no name"),
        ("a_b", "`a_b` is no name"),
        ("a,b,a", "names `a` twice"),
        ("|", "names no job"),
        ("[1]", "no array of strings"),
    ] {
        let told = refused(&[("JOBS", jobs)]);
        assert!(told.contains(reason), "{told}");
    }
}

#[test]
fn what_was_probably_meant_for_us_is_not_ignored_in_silence() {
    let told = refused(&[
        ("JOBS", "a,a--b"),
        ("A__OWNRS", "x"),
        ("A__LOGGING_LEVEL", "info"),
        ("A__B__OWNERS", "fine: the job is called so"),
        ("A__WHATEVER", SECRET),
        ("NEVER_SNED", SECRET),
    ]);
    for part in [
        "A__OWNRS: is no setting of the job `a`; is `A__OWNERS` meant?",
        "A__LOGGING_LEVEL (Logging Level): `LOGGING_LEVEL` holds for all jobs",
        "A__WHATEVER: is no setting of the job `a`",
        "NEVER_SNED: is no setting; is `NEVER_SEND` meant?",
    ] {
        assert!(told.contains(part), "{part}\nis not in\n{told}");
    }
    assert!(told.lines().count() == 4 && !told.contains(SECRET), "{told}");

    let notes = accepted(&[("OWNER", "me"), ("OLD__OWNERS", "x"), ("SQL", "x"), ("SOME__THING", "x"), ("DEFAULT__CLOUD", " ")])
        .notes
        .join("\n");
    assert!(notes.contains("`OWNER` is ignored: is `OWNERS` meant?") && notes.contains("`OLD__OWNERS` is ignored"), "{notes}");
    assert_eq!(notes.lines().count(), 2, "{notes}");
}

#[test]
fn a_user_and_a_token_exclude_each_other() {
    let token = accepted(&[("API_USER", ""), ("THREATCONNECT_SECRET_KEY", ""), ("THREATCONNECT_TOKEN", SECRET)]);
    assert!(
        matches!(&token.jobs[0].source.credentials, Credentials::Token(SecretSource::Given(token)) if token.expose() == SECRET)
    );
    let told = refused(&[("THREATCONNECT_TOKEN", SECRET)]);
    assert!(told.contains("THREATCONNECT_TOKEN: cannot be given together with API_USER") && !told.contains(SECRET), "{told}");
    let told = refused(&[("THREATCONNECT_SECRET_KEY", "")]);
    assert!(told.contains("KEY_VAULT_URL and keep it in the vault as `threatconnect-secret-key`"), "{told}");
}

#[test]
fn a_managed_identity_needs_no_secret() {
    let changes = [
        ("IDENTITY", "Managed"),
        ("MICROSOFT_GRAPH_CLIENT_ID", ""),
        ("MICROSOFT_GRAPH_CLIENT_SECRET", ""),
        ("MANAGED_IDENTITY_CLIENT_ID", "user-assigned"),
    ];
    let settings = accepted(&changes);
    assert!(matches!(&settings.jobs[0].identity, Identity::Managed { client_id: Some(id) } if id == "user-assigned"));
}

#[test]
fn last_run_goes_with_incremental_runs() {
    let on = ("ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN", "on");
    assert!(refused(&[on]).contains("LAST_RUN (Last Run): is required if ONLY_SEND"));
    assert!(refused(&[on, ("LAST_RUN", "202311")]).contains("LAST_RUN (Last Run): `202311`: give `30 days ago`"));
    let policy = accepted(&[on, ("LAST_RUN", "30 days ago")]).jobs[0].policy.clone();
    assert_eq!(policy.last_run.expect("a last run").text(), "30 days ago");
    assert_eq!(policy.full_run_every, Duration::from_hours(24));
    let notes = accepted(&[("LAST_RUN", "30 days ago"), ("FULL_RUN_EVERY", "1h")]).notes;
    assert_eq!(notes.len(), 2);
    assert!(notes[0].starts_with("LAST_RUN is ignored") && notes[1].starts_with("FULL_RUN_EVERY is ignored"), "{notes:?}");
}

#[test]
fn full_runs_come_three_times_before_anything_expires() {
    let on = [("ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN", "on"), ("LAST_RUN", "today")];
    let days = |days| ("EXPIRATION_DAYS_EMAIL", days);
    accepted(&[on[0], on[1], days("3")]);
    let told = refused(&[on[0], on[1], days("2")]);
    assert!(told.contains("FULL_RUN_EVERY: `24h`: full runs could lie 24h apart") && told.contains("(2 days: 16h)"), "{told}");
    accepted(&[on[0], on[1], days("2"), ("FULL_RUN_EVERY", "16h")]);
    let told = refused(&[on[0], on[1], days("2"), ("FULL_RUN_EVERY", "57601s")]);
    assert!(told.contains("57601s apart"), "{told}");

    accepted(&[days("3"), ("EXPORT_SCHEDULE", "0 0 3 * * *")]);
    let told = refused(&[days("2"), ("EXPORT_SCHEDULE", "0 0 3 * * *")]);
    assert!(told.contains("EXPORT_SCHEDULE: `0 0 3 * * *`: full runs could lie 24h apart"), "{told}");
    assert!(refused(&[on[0], on[1], days("20"), ("EXPORT_SCHEDULE", "0 0 3 * * 0")]).contains("168h apart"));
}

#[test]
fn a_query_replaces_the_guides_seven_filters_and_says_so() {
    let settings = accepted(&[
        ("TQL", "typeName in (\"Host\")"),
        ("JOBS", "a"),
        ("A__OWNERS", "x"),
        ("INDICATOR_TYPES", "URL"),
        ("FALSE_POSITIVE_THRESHOLD", "0"),
        ("LAST_RUN", ""),
    ]);
    let job = &settings.jobs[0];
    assert_eq!(job.filter, Filter { tql: Some("typeName in (\"Host\")".to_owned()), ..Filter::default() });
    assert_eq!(job.terms.kinds, Kind::ALL);
    assert_eq!(settings.notes, ["job `a`: TQL replaces A__OWNERS, INDICATOR_TYPES, FALSE_POSITIVE_THRESHOLD: ignored"]);
}

#[test]
fn filters_accept_zero() {
    let settings = accepted(&[
        ("INDICATOR_TYPES", "[\"Host\", \"EmailAddress\"]"),
        ("TAGS_FILTER", "APT29, Russia|Ransomware"),
        ("MINIMUM_THREATASSESS_SCORE", "0"),
        ("MINIMUM_CONFIDENCE_RATING", "100"),
        ("MINIMUM_THREAT_RATING", "3.5"),
        ("FALSE_POSITIVE_THRESHOLD", "0"),
    ]);
    let filter = &settings.jobs[0].filter;
    assert_eq!(filter.kinds, [Kind::EmailAddress, Kind::Host]);
    assert_eq!(settings.jobs[0].terms.kinds, filter.kinds);
    assert_eq!(filter.tags, ["APT29, Russia", "Ransomware"]);
    assert_eq!(filter.minimum_score.map(ThreatAssessScore::value), Some(0));
    assert_eq!(filter.minimum_confidence.map(Confidence::value), Some(100));
    assert_eq!(filter.minimum_rating.map(ThreatRating::hundredths), Some(350));
    assert_eq!(filter.false_positive_threshold, Some(0));
}

#[test]
fn each_product_can_be_reached_in_two_ways() {
    let target = |changes: &[(&str, &str)]| {
        let job = accepted(changes).jobs.remove(0);
        let at = job.target.destination();
        (at.product, job.target.names().1, job.target.url().to_string(), job.scope, at.fingerprint)
    };
    let defender = ("TARGET_PRODUCT", "Microsoft Defender for Endpoint");
    let (product, delivery, url, scope, own) = target(&[defender, ("SENTINEL_WORKSPACE_ID", "")]);
    assert_eq!((product, delivery), (defender.1, "product"));
    assert_eq!(url, "https://api.security.microsoft.com/");
    assert_eq!(scope, "https://api.securitycenter.microsoft.com/.default", "the older audience");
    let (product, delivery, url, scope, through_graph) = target(&[defender, ("DELIVERY", "graph")]);
    assert_eq!((product, delivery), (defender.1, "graph"));
    assert_eq!((url.as_str(), scope.as_str()), ("https://graph.microsoft.com/", "https://graph.microsoft.com/.default"));
    let (product, .., sentinel_through_graph) = target(&[("DELIVERY", "graph"), ("SENTINEL_WORKSPACE_ID", "")]);
    assert_eq!(product, "Microsoft Sentinel");
    assert!(own != through_graph && through_graph != sentinel_through_graph);
    assert!(refused(&[("SENTINEL_WORKSPACE_ID", "")]).contains("SENTINEL_WORKSPACE_ID"));
}

#[test]
fn a_cloud_without_the_service_is_one_clear_line() {
    let told = refused(&[("CLOUD", "usgov"), ("DELIVERY", "graph")]);
    assert!(told.contains("DELIVERY: `graph` is documented for CLOUD=global only") && told.lines().count() == 1, "{told}");
    let told = refused(&[("CLOUD", "china"), ("TARGET_PRODUCT", "Microsoft Defender for Endpoint")]);
    assert!(told.contains("no documented Defender API") && told.lines().count() == 1, "{told}");
}

#[test]
fn two_ways_to_one_defender_are_a_note() {
    let defender = ("TARGET_PRODUCT", "Microsoft Defender for Endpoint");
    let notes = |more: (&str, &str)| accepted(&[defender, ("JOBS", "one,two"), ("TWO__DELIVERY", "graph"), more]).notes;
    let told = notes(("LOGGING_LEVEL", "info"));
    assert!(told.len() == 1 && told[0].contains("jobs `one` and `two` both reach Defender"), "{told:?}");
    assert_eq!(notes(("TWO__MICROSOFT_GRAPH_TENANT_ID", "another.example")), Vec::<String>::new());
}

#[test]
fn the_reserve_is_for_defender() {
    let defender = ("TARGET_PRODUCT", "Microsoft Defender for Endpoint");
    let settings = accepted(&[defender, ("INDICATOR_RESERVE_COUNT", "15001")]);
    assert!(settings.notes[0].contains("nothing is sent there"), "{:?}", settings.notes);
    assert_eq!(settings.jobs[0].policy.reserve, 15_001);
    let notes = accepted(&[("INDICATOR_RESERVE_COUNT", "20000")]).notes;
    assert_eq!(notes, ["INDICATOR_RESERVE_COUNT has no effect at Microsoft Sentinel"]);
}

#[test]
fn clouds_set_addresses_and_each_can_be_overridden() {
    let job = accepted(&[("CLOUD", "china")]).jobs.remove(0);
    assert_eq!(sentinel(&job).url.as_str(), "https://api.ti.sentinel.azure.cn/");
    assert_eq!(job.scope, "https://management.chinacloudapi.cn/.default");
    let overridden =
        [("SENTINEL_URL", "http://127.0.0.1:9/x/"), ("LOGIN_URL", "https://login.example"), ("SENTINEL_SCOPE", "s/.default")];
    let job = accepted(&overridden).jobs.remove(0);
    assert_eq!((sentinel(&job).url.as_str(), job.scope.as_str()), ("http://127.0.0.1:9/x", "s/.default"));
    assert!(matches!(job.identity, Identity::ClientSecret { login, .. } if login.as_str() == "https://login.example/"));
    assert!(refused(&[("CLOUD", "moon")]).contains("CLOUD: `moon`: give one of `global`"));
}

#[test]
fn every_cloud_has_valid_addresses() {
    for (name, _) in cloud::CLOUDS {
        accepted(&[("CLOUD", name)]);
    }
}

#[test]
fn the_fingerprint_follows_what_is_sent_and_nothing_else() {
    let of = |changes: &[(&str, &str)]| accepted(changes).jobs.remove(0).fingerprint;
    let plain = of(&[]);
    assert!(plain.len() == 32 && plain.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let same = [
        ("EXPORT_SCHEDULE", "0 0 * * * *"),
        ("API_USER", "other"),
        ("MICROSOFT_GRAPH_CLIENT_SECRET", "other"),
        ("SENTINEL_SOURCE_SYSTEM", "Indicator Relay"),
        ("LOGGING_LEVEL", "debug"),
        ("INDICATOR_RESERVE_COUNT", "7"),
    ];
    assert!(same.iter().all(|change| of(&[*change]) == plain));
    let different = [
        ("OWNERS", "x"),
        ("INDICATOR_TYPES", "URL"),
        ("DEFAULT_TLP_LEVEL", "red"),
        ("ACTION_TO_TAKE", "Block"),
        ("EXPIRATION_DAYS_FILE", "91"),
        ("SENTINEL_SOURCE_SYSTEM", "Other"),
        ("NEVER_SEND", "example.com"),
        ("TQL", "id > 1"),
    ];
    assert!(different.iter().all(|change| of(&[*change]) != plain));
    // It is stored: when its form changes, the next run is a full one everywhere. Nobody should do that without knowing.
    assert_eq!(plain, "6969d0ccf923999b6cc480cdf1277fe3");
}

fn in_vault(changes: &[(&str, &str)]) -> Map {
    let mut settings = with(&[("KEY_VAULT_URL", "https://v.vault.azure.net/")]);
    settings.retain(|_, value| value != SECRET);
    settings.extend(map(changes));
    settings
}

#[test]
fn the_vault_is_asked_for_the_secrets_that_are_needed_and_no_others() {
    assert_eq!(vault_secrets(&least()), Ok(None));
    let given = in_vault(&[
        ("JOBS", "a,b"),
        ("API_USER", ""),
        ("A__API_USER", "user"),
        ("B__THREATCONNECT_TOKEN_SECRET_NAME", "token-of-b"),
    ]);
    let plan = vault_secrets(&given).map_err(|problems| lines(&problems)).expect("a plan").expect("a vault");
    let secrets: Vec<_> = plan.secrets.iter().map(|secret| (secret.name.as_str(), secret.keys.join(" "))).collect();
    assert_eq!(
        secrets,
        [
            ("microsoft-graph-client-secret", "A__MICROSOFT_GRAPH_CLIENT_SECRET B__MICROSOFT_GRAPH_CLIENT_SECRET".to_owned()),
            ("threatconnect-secret-key", "A__THREATCONNECT_SECRET_KEY".to_owned()),
            ("token-of-b", "B__THREATCONNECT_TOKEN".to_owned()),
        ]
    );
    assert_eq!(plan.url.as_str(), "https://v.vault.azure.net/");

    let values =
        plan.secrets.iter().map(|secret| (secret.name.clone(), Secret::new(&format!("value of {}", secret.name)))).collect();
    let settings = Settings::from_map(&plan.fill(&given, &values)).map_err(|problems| lines(&problems)).expect("settings");
    assert!(
        matches!(&settings.jobs[0].source.credentials, Credentials::Hmac { secret: SecretSource::Given(secret), .. } if secret.expose() == "value of threatconnect-secret-key")
    );
    assert!(
        matches!(&settings.jobs[1].source.credentials, Credentials::Token(SecretSource::Given(token)) if token.expose() == "value of token-of-b")
    );
}

#[test]
fn with_a_vault_no_secret_stands_in_the_settings() {
    let refused = |changes: &[(&str, &str)]| lines(&vault_secrets(&in_vault(changes)).expect_err("must be refused"));
    let told = refused(&[("DEFAULT__THREATCONNECT_SECRET_KEY", SECRET), ("ACTION_TO_TAKE", "Drop")]);
    assert!(told.contains("DEFAULT__THREATCONNECT_SECRET_KEY: is a secret: with KEY_VAULT_URL"), "{told}");
    assert!(told.contains("ACTION_TO_TAKE") && told.lines().count() == 2, "{told}");
    let told = refused(&[("THREATCONNECT_SECRET_KEY_SECRET_NAME", SECRET)]);
    assert!(told.contains("give the name of a secret") && !told.contains(SECRET), "{told}");
    let told = refused(&[("KEY_VAULT_URL", "https://user:hunter2@v.vault.azure.net")]);
    assert!(told.starts_with("KEY_VAULT_URL: give an `https://`") && told.lines().count() == 1, "{told}");
    let told = super::tests::refused(&[("THREATCONNECT_TOKEN_SECRET_NAME", "x")]);
    assert!(
        told.contains("THREATCONNECT_TOKEN_SECRET_NAME: names a secret of a vault, but KEY_VAULT_URL is not given"),
        "{told}"
    );
}

#[test]
fn the_example_file_works_once_its_blanks_are_filled() {
    let example: serde_json::Value = serde_json::from_str(&local_settings_example()).expect("JSON");
    assert_eq!(example["IsEncrypted"], false);
    assert_eq!(example["Values"]["FUNCTIONS_WORKER_RUNTIME"], "custom");
    let mut values: Map = serde_json::from_value(example["Values"].clone()).expect("strings");
    assert!(values.keys().all(|key| !key.contains("__") && !key.contains(':')));
    for key in ["API_USER", "THREATCONNECT_SECRET_KEY", "MICROSOFT_GRAPH_CLIENT_ID", "MICROSOFT_GRAPH_CLIENT_SECRET"] {
        assert_eq!(values.insert(key.to_owned(), "x".to_owned()).as_deref(), Some(""));
    }
    values.extend(map(&[("MICROSOFT_GRAPH_TENANT_ID", "x"), ("SENTINEL_WORKSPACE_ID", "12345678-90ab-cdef-1234-567890abcdef")]));
    let settings = Settings::from_map(&values).unwrap_or_else(|problems| panic!("{}", lines(&problems)));
    assert_eq!(settings.notes, Vec::<String>::new());
    let text = local_settings_example();
    let places: Vec<_> = TABLE[..22].iter().map(|row| text.find(&format!("\"{}\"", row.key))).collect();
    assert!(places.is_sorted() && places[0].is_some(), "in the guide's order");
}

#[test]
fn every_rendering_has_every_key_and_no_secret() {
    let given = with(&[("JOBS", "a"), ("A__OWNERS", "Acme|Org"), ("A__THREATCONNECT_SECRET_KEY", SECRET), ("TQL", "a\nb")]);
    for format in [Format::Table, Format::Json, Format::Schema, Format::Env, Format::Markdown] {
        for given in [None, Some(&given)] {
            let text = render(format, given);
            assert!(TABLE.iter().all(|row| text.contains(row.key)), "{format:?}");
            assert!(!text.contains(SECRET) && text.ends_with('\n'), "{format:?}");
        }
    }
    let table = render(Format::Table, Some(&given));
    assert!(table.contains("A__OWNERS") && table.contains("Acme|Org") && table.contains("(not shown)"), "{table}");
    let env = render(Format::Env, Some(&given));
    assert!(
        env.contains("\nA__OWNERS=Acme|Org\n")
            && env.contains("\nTQL=a b\n")
            && env.contains("\n# THREATCONNECT_SECRET_KEY=(not shown)\n")
    );
    let json: serde_json::Value = serde_json::from_str(&render(Format::Json, Some(&given))).expect("JSON");
    assert_eq!((&json[0]["key"], &json[0]["guide_name"]), (&"API_USER".into(), &"Api User".into()));
    assert_eq!(json[10]["of_jobs"][0][1], "Acme|Org");
}

#[test]
fn env_lines_of_settings_mean_the_same_settings_again() {
    let given = with(&[("JOBS", "a"), ("A__OWNERS", "Acme|Org"), ("WITHDRAW_LIMIT", "5%"), ("LOGGING_LEVEL", "info")]);
    let text = render(Format::Env, Some(&given));
    let mut again: Map = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    again.extend(least().into_iter().filter(|(_, value)| value == SECRET));
    let [first, second] =
        [given, again].map(|map| Settings::from_map(&map).unwrap_or_else(|problems| panic!("{}", lines(&problems))));
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
}

#[test]
fn the_schema_knows_every_setting() {
    let schema: serde_json::Value = serde_json::from_str(&render(Format::Schema, None)).expect("JSON");
    assert_eq!(schema["properties"].as_object().map(serde_json::Map::len), Some(TABLE.len()));
    assert_eq!(schema["properties"]["RESEND"]["enum"], serde_json::json!(["changed", "always"]));
    assert_eq!(schema["patternProperties"]["^[A-Z][A-Z0-9_]*__OWNERS$"]["$ref"], "#/properties/OWNERS");
    assert_eq!(schema["then"]["required"].as_array().map(Vec::len), Some(8));
}

#[test]
fn the_readme_tables_have_the_guides_rows_first() {
    let text = render(Format::Markdown, None);
    let first = text.lines().nth(2).expect("a row");
    assert!(
        first.starts_with("| 1 | Api User | `API_USER` | if THREATCONNECT_TOKEN is not given |  | ThreatConnect access id"),
        "{first}"
    );
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    let mut blocks = text.split("\n\n");
    for expected in [7, 6] {
        let block = blocks.next().expect("a table");
        assert!(block.trim().lines().all(|line| columns(line) == expected), "{block}");
    }
}

fn any_key() -> impl Strategy<Value = String> {
    let known = || prop::sample::select(TABLE).prop_map(|row| row.key.to_owned());
    prop_oneof![
        8 => known(),
        2 => ("A|B_C|DEFAULT|OTHER|a", known()).prop_map(|(job, key)| format!("{job}__{key}")),
        1 => (known(), 0..40_usize).prop_map(|(mut key, place)| { key.remove(place % key.len()); key }),
        1 => "[A-Z_]{0,12}|\\PC{0,8}",
    ]
}

fn any_value() -> impl Strategy<Value = String> {
    const POOL: &[&str] = &[
        "",
        " ",
        "on",
        "off",
        "1",
        "0",
        "20%",
        "a,b-c",
        "default",
        "24h",
        "30 days ago",
        "https://example.com",
        "http://127.0.0.1:1",
        "[\"a\"]",
        "[",
        "|",
        "0 */15 * * * *",
        "0 0 0 29 2 1",
        "managed",
        "graph",
        "Red",
        "Block",
        "10.0.0.0/8",
        "3650",
        "File|Host",
        "https://u:p@example.com",
        "china",
        "name-of-secret",
    ];
    prop_oneof![4 => prop::sample::select(POOL).prop_map(str::to_owned), 1 => "\\PC{0,20}"]
}

fn account(changes: &[(&str, &str)]) -> Account {
    match accepted(changes).storage {
        Place::Azure(account) => *account,
        Place::Embedded(path) => panic!("{}", path.display()),
    }
}

#[test]
fn a_storage_account_is_named_by_its_key_or_by_identity() {
    let contoso = |credential| {
        let [blob, queue, table] = ["blob", "queue", "table"]
            .map(|service| Url::parse(&format!("https://contoso.{service}.core.windows.net")).expect("an address"));
        Account { name: "contoso".to_owned(), blob, queue, table, credential }
    };
    let by_key = account(&[(
        "AzureWebJobsStorage",
        "DefaultEndpointsProtocol=https;AccountName=contoso;AccountKey=a2V5;EndpointSuffix=core.windows.net",
    )]);
    assert_eq!(by_key, contoso(Credential::Key(Secret::new("a2V5"))));

    let name = ("AzureWebJobsStorage__accountName", "contoso");
    let credential = ("AzureWebJobsStorage__credential", "managedidentity");
    let managed = |id: Option<&str>| Credential::Identity(Resident::Managed { client_id: id.map(str::to_owned) });
    assert_eq!(account(&[name]), contoso(Credential::Identity(Resident::Developer)));
    assert_eq!(account(&[name, credential]), contoso(managed(None)));
    assert_eq!(account(&[name, credential, ("AzureWebJobsStorage__clientId", "id")]), contoso(managed(Some("id"))));
    let at_targets = [("IDENTITY", "managed"), ("MANAGED_IDENTITY_CLIENT_ID", "id")];
    assert_eq!(account(&[&[name], &at_targets[..]].concat()), contoso(Credential::Identity(Resident::Developer)));
    let in_azure = ("IDENTITY_ENDPOINT", "http://127.0.0.1:41/msi");
    assert_eq!(account(&[&[name, in_azure], &at_targets[..]].concat()), contoso(managed(Some("id"))));
    assert_eq!(account(&[name, ("IDENTITY_ENDPOINT", "http://127.0.0.1:41/msi")]), contoso(managed(None)));
    let addresses = [
        ("AzureWebJobsStorage__blobServiceUri", "https://contoso.blob.core.windows.net/"),
        ("AzureWebJobsStorage__queueServiceUri", "https://contoso.queue.core.windows.net/"),
        ("AzureWebJobsStorage__tableServiceUri", "https://contoso.table.core.windows.net/"),
        credential,
    ];
    assert_eq!(account(&addresses), contoso(managed(None)));
}

#[test]
fn azurite_is_named_in_short_or_in_full() {
    let short = account(&[("AzureWebJobsStorage", "UseDevelopmentStorage=true")]);
    let full = account(&[(
        "AzureWebJobsStorage",
        &format!(
            "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={DEVELOPMENT_KEY};BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1;TableEndpoint=http://127.0.0.1:10002/devstoreaccount1;"
        ),
    )]);
    assert_eq!(short, full);
}

#[test]
fn each_mistake_in_a_connection_string_is_one_line_without_the_key() {
    let name = "AccountName=contoso";
    let key = "AccountKey=a2V5aHVudGVyMg==";
    for (text, said) in [
        (key.to_owned(), "has no AccountName"),
        (name.to_owned(), "has no AccountKey"),
        (format!("{name};AccountKey=hunter2~"), "AccountKey is no base64"),
        (format!("AccountName=Con toso;{key}"), "AccountName is no name"),
        (format!("{name};{key};SharedAccessSignature=sv=1&sig=hunter2"), "shared access signature"),
        (format!("{name};{key};hunter2"), "a part without `=`"),
        (format!("{name};{key};Hunter2=hunter2"), "no connection string has"),
        (format!("{name};{key};DefaultEndpointsProtocol=http"), "`http://` elsewhere"),
        (format!("{name};{key};DefaultEndpointsProtocol=ftp"), "must be `https`"),
        (format!("{name};{key};TableEndpoint=http://contoso.example"), "TableEndpoint"),
        ("https://contoso.blob.core.windows.net".to_owned(), "a part without `=`"),
    ] {
        let line = refused(&[("AzureWebJobsStorage", &text)]);
        assert!(line.starts_with("AzureWebJobsStorage: ") && line.contains(said) && !line.contains('\n'), "{line}");
        assert!(!line.to_lowercase().contains("hunter2") && !line.contains("a2V5"), "{line}");
        let given = with(&[("AzureWebJobsStorage", &text)]);
        let shown = [Format::Table, Format::Json, Format::Env].map(|format| render(format, Some(&given))).concat();
        assert!(!shown.contains("hunter2") && !shown.contains("a2V5"), "{shown}");
    }
}

#[test]
fn storage_settings_that_contradict_each_other_are_refused() {
    let name = ("AzureWebJobsStorage__accountName", "contoso");
    for (changes, said) in [
        (vec![("AzureWebJobsStorage", "UseDevelopmentStorage=true"), name], "an account key given where identity is set"),
        (vec![name, ("AzureWebJobsStorage__credential", "workload")], "give `managedidentity`"),
        (vec![name, ("AzureWebJobsStorage__clientId", "id")], "AzureWebJobsStorage__credential=managedidentity"),
        (vec![("AzureWebJobsStorage__accountName", "Contoso!")], "3 to 24 lower-case letters"),
        (vec![("AzureWebJobsStorage__credential", "managedidentity")], "AzureWebJobsStorage__blobServiceUri: is required"),
        (vec![name, ("AzureWebJobsStorage__blobServiceUri", "https://a.example")], "__queueServiceUri: is required"),
        (vec![name, ("CLOUD", "usgov")], "__tableServiceUri=https://contoso.table.core.usgovcloudapi.net"),
        (vec![("AzureWebJobsStorage__acountName", "contoso")], "is `AzureWebJobsStorage__accountName` meant?"),
        (vec![("AZUREWEBJOBSSTORAGE__ACCOUNTNAME", "contoso")], "is `AzureWebJobsStorage__accountName` meant?"),
        (vec![("AzureWebJobStorage", "x")], "is `AzureWebJobsStorage` meant?"),
    ] {
        let line = refused(&changes);
        assert!(line.contains(said), "{line}");
    }
    let notes = accepted(&[("STATE_FILE", "x.db"), name]).notes;
    assert!(notes.iter().any(|note| note.contains("STATE_FILE is ignored")), "{notes:?}");
}

#[test]
fn notifications_need_nothing_and_take_their_defaults_from_the_jobs() {
    let found = accepted(&[]).notifications;
    assert_eq!(
        (found.client_state, found.playbooks_file.as_str(), found.public_url),
        (ClientState::Made, "playbooks.toml", None)
    );
    assert_eq!(found.token_audiences, ["11111111-2222-3333-4444-555555555555"]);
    assert_eq!(found.token_tenants, Vec::<String>::new(), "a name of a tenant is in no token");
    let found = accepted(&[
        ("JOBS", "a,b"),
        ("A__MICROSOFT_GRAPH_TENANT_ID", "AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee"),
        ("B__MICROSOFT_GRAPH_CLIENT_ID", "99999999-2222-3333-4444-555555555555"),
        ("PUBLIC_URL", "https://relay.example.com/"),
        ("ENCRYPTION_CERTIFICATES", "new.pem|old.pfx"),
        ("CLIENT_STATE_KEY", "a key of sixteen"),
    ])
    .notifications;
    let current = Secret::new("a key of sixteen");
    assert_eq!(found.client_state, ClientState::Given { current, previous: None });
    assert_eq!(found.token_tenants, ["aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"]);
    let apps = ["11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"];
    assert_eq!(found.token_audiences, apps);
    assert_eq!(found.public_url.map(String::from).as_deref(), Some("https://relay.example.com/"));
    assert_eq!(found.encryption_certificates, ["new.pem", "old.pfx"]);
    let found =
        accepted(&[("TOKEN_TENANTS", "BBBBBBBB-bbbb-cccc-dddd-eeeeeeeeeeee"), ("TOKEN_AUDIENCES", "one|two")]).notifications;
    assert_eq!((found.token_tenants, found.token_audiences.len()), (vec!["bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee".to_owned()], 2));
}

#[test]
fn what_proves_encrypted_notifications_and_is_missing_is_told_with_the_setting() {
    let of = |changes: &[(&str, &str)]| accepted(changes).notifications.unproven.join("\n");
    let named = [("MICROSOFT_GRAPH_TENANT_ID", "contoso.onmicrosoft.com")];
    let told = of(&named);
    assert!(
        told.contains("MICROSOFT_GRAPH_TENANT_ID: give the tenant's id (a GUID) instead of `contoso.onmicrosoft.com`"),
        "{told}"
    );
    let id = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
    assert_eq!(of(&[named[0], ("TOKEN_TENANTS", id)]), "");
    assert_eq!(of(&[("MICROSOFT_GRAPH_TENANT_ID", id)]), "");
    // Notifications come to the first job's tenant.
    let two = [("JOBS", "a,b"), ("A__MICROSOFT_GRAPH_TENANT_ID", "contoso.com"), ("B__MICROSOFT_GRAPH_TENANT_ID", id)];
    assert!(of(&two).contains("`contoso.com`"));
    let managed = [("IDENTITY", "managed"), ("MICROSOFT_GRAPH_CLIENT_ID", ""), ("MICROSOFT_GRAPH_CLIENT_SECRET", "")];
    let with = |name: &str, value: &str| of(&[&managed[..], &[("MICROSOFT_GRAPH_TENANT_ID", id), (name, value)]].concat());
    let told = with("TOKEN_AUDIENCES", "");
    assert!(told.starts_with("TOKEN_AUDIENCES: give the application (client) id of the app's managed identity"), "{told}");
    assert_eq!(with("MANAGED_IDENTITY_CLIENT_ID", id), "");
    assert_eq!(with("TOKEN_AUDIENCES", id), "");
}

#[test]
fn what_is_wrong_with_notifications_is_told_with_all_else() {
    let told = refused(&[
        ("CLIENT_STATE_KEY", "too short"),
        ("PUBLIC_URL", "http://relay.example.com"),
        ("TOKEN_TENANTS", "contoso.com"),
        ("SUBSCRIPTION_SCHEDULE", "* * *"),
        ("A__ALERT_POLL_SCHEDULE", "0 * * * * *"),
        ("JOBS", "a"),
    ]);
    for part in [
        "CLIENT_STATE_KEY: is too short: give at least 16",
        "PUBLIC_URL: `http://relay.example.com`: give an `https://` address",
        "TOKEN_TENANTS: `contoso.com`: give a GUID",
        "SUBSCRIPTION_SCHEDULE: `* * *`",
        "A__ALERT_POLL_SCHEDULE: `ALERT_POLL_SCHEDULE` holds for all jobs",
    ] {
        assert!(told.contains(part), "{part}\nis not in\n{told}");
    }
    assert!(!told.contains("too short\""), "{told}");
    assert!(refused(&[("CLIENT_STATE_KEY_PREVIOUS", "a key of sixteen")]).contains("without CLIENT_STATE_KEY"));
}

#[test]
fn the_keys_of_client_states_are_named_for_a_vault_and_not_read_with_the_others() {
    let given = in_vault(&[("CLIENT_STATE_KEY_SECRET_NAME", "our-key")]);
    let plan = vault_secrets(&given).map_err(|problems| lines(&problems)).expect("a plan").expect("a vault");
    assert!(plan.secrets.iter().all(|secret| !secret.name.contains("our-key")), "{plan:?}");
    let values = plan.secrets.iter().map(|secret| (secret.name.clone(), Secret::new(SECRET))).collect();
    let settings = Settings::from_map(&plan.fill(&given, &values)).map_err(|problems| lines(&problems)).expect("settings");
    let kept = ClientState::Kept { current: "our-key".to_owned(), previous: "client-state-key-previous".to_owned() };
    assert_eq!(settings.notifications.client_state, kept);
    let told = lines(&vault_secrets(&in_vault(&[("CLIENT_STATE_KEY", SECRET)])).expect_err("must be refused"));
    assert!(told.starts_with("CLIENT_STATE_KEY: is a secret: with KEY_VAULT_URL") && told.lines().count() == 1, "{told}");
    let told = lines(&vault_secrets(&in_vault(&[("ENCRYPTION_CERTIFICATES", "a|b.pem")])).expect_err("must be refused"));
    assert!(told.contains("`b.pem` is no name of a certificate in a vault"), "{told}");
}

#[test]
fn a_receiver_reads_what_it_needs_whatever_is_wrong_with_the_rest() {
    let found = Receiving::from_map(&map(&[("JOBS", "Bad Name"), ("STATE_FILE", "x.db"), ("IDENTITY", "?")])).expect("enough");
    assert_eq!(found.storage, Place::Embedded("x.db".into()));
    assert_eq!((found.vault, found.client_state), (None, Ok(ClientState::Made)));
    let found = Receiving::from_map(&map(&[("CLIENT_STATE_KEY", "too short")])).expect("enough to keep what comes");
    assert!(found.client_state.is_err_and(|problem| problem.contains("at least 16") && !problem.contains("too short\"")));
    let vault = [
        ("KEY_VAULT_URL", "https://v.vault.azure.net/"),
        ("IDENTITY_ENDPOINT", "http://here"),
        ("MANAGED_IDENTITY_CLIENT_ID", "me"),
    ];
    let found = Receiving::from_map(&map(&vault)).expect("enough");
    let (url, resident) = found.vault.expect("a vault");
    assert_eq!((url.as_str(), resident), ("https://v.vault.azure.net/", Resident::Managed { client_id: Some("me".to_owned()) }));
    assert!(matches!(found.client_state, Ok(ClientState::Kept { current, .. }) if current == "client-state-key"));
    let told = lines(&Receiving::from_map(&map(&[("AzureWebJobsStorage", "what")])).expect_err("nowhere to put anything"));
    assert!(told.starts_with("AzureWebJobsStorage"), "{told}");
}

proptest! {
    #[test]
    fn any_map_is_accepted_or_refused_without_showing_a_secret(
        changes in prop::collection::btree_map(any_key(), any_value(), 0..8),
        from_least in any::<bool>(),
    ) {
        let mut given = if from_least { least() } else { Map::new() };
        given.extend(changes);
        for (key, value) in &mut given {
            if TABLE.iter().any(|row| row.secret && key.ends_with(row.key)) && !value.trim().is_empty() {
                SECRET.clone_into(value);
            }
        }
        let settings = Settings::from_map(&given);
        let plan = vault_secrets(&given);
        for problem in settings.as_ref().err().into_iter().chain(plan.as_ref().err()).flatten() {
            let known = params::row(&problem.key).or_else(|| problem.key.rsplit("__").next().and_then(params::row));
            prop_assert!(known.is_some() || given.contains_key(&problem.key), "{problem}");
            prop_assert!(!problem.message.is_empty());
            prop_assert_eq!(problem.guide_name, known.and_then(|row| row.guide_name));
        }
        let received = Receiving::from_map(&given);
        let renderings = [Format::Table, Format::Json, Format::Env].map(|format| render(format, Some(&given)));
        let shown = [format!("{settings:?}"), format!("{plan:?}"), format!("{received:?}"), renderings.concat()].concat();
        prop_assert!(!shown.contains(SECRET));
    }
}
