//! The program as a user runs it: arguments, output, exit codes.

mod notifications;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use emulator::{Emulator, Indicator, Options};
use indicator_relay::dispatch::Dead;
use indicator_relay::notifications::item::{QUEUE, Task, URGENT_QUEUE, Work};
use indicator_relay::platform::clock::SystemClock;
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::storage::{Queue as _, StateStore as _, Write, poison_of};
use serde_json::Value;

struct Session {
    emulator: Emulator,
    folder: tempfile::TempDir,
    environment: BTreeMap<String, String>,
}

impl Session {
    async fn new(hosts: usize) -> Self {
        let options = Options::default();
        let now = options.time.now();
        let emulator = Emulator::start(options).await.expect("free ports");
        for i in 0..hosts {
            emulator.world().add(Indicator::new("Acme Org", "Host", &format!("h{i}.example"), now));
        }
        let folder = tempfile::tempdir().expect("a folder");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, emulator.ca_pem()).expect("written");
        let mut environment = emulator.environment();
        environment.insert("SSL_CERT_FILE".to_owned(), ca.display().to_string());
        environment.insert("STATE_FILE".to_owned(), folder.path().join("state.db").display().to_string());
        Self { emulator, folder, environment }
    }

    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        run(arguments, &self.environment, self.folder.path()).await
    }
}

async fn run(arguments: &[&str], environment: &BTreeMap<String, String>, folder: &Path) -> (i32, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_indicator-relay"));
    let Output { status, stdout, stderr } =
        command.args(arguments).env_clear().envs(environment).current_dir(folder).output().await.expect("started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

#[tokio::test]
async fn wrong_settings_are_told_at_once_and_nothing_is_contacted() {
    let mut session = Session::new(1).await;
    session.environment.insert("ACTION_TO_TAKE".to_owned(), "Delete".to_owned());
    session.environment.insert("MINIMUM_CONFIDENCE_RATING".to_owned(), "101".to_owned());
    session.environment.remove("DEFAULT_TLP_LEVEL");
    let (code, out, err) = session.run(&["export"]).await;
    assert_eq!((code, out.as_str()), (2, ""));
    for key in ["ACTION_TO_TAKE", "MINIMUM_CONFIDENCE_RATING", "DEFAULT_TLP_LEVEL"] {
        assert!(err.contains(key), "{err}");
    }
    assert!(session.emulator.world().log.is_empty());
    assert!(!session.folder.path().join("state.db").exists());
}

#[tokio::test]
async fn json_is_one_document_and_nothing_else() {
    let session = Session::new(120).await;
    let (code, out, _) = session.run(&["export", "--json", "-v"]).await;
    let report: Value = serde_json::from_str(&out).expect("one document");
    let run = &report["runs"][0];
    assert_eq!((code, &run["complete"], &run["outcomes"]["accepted"]), (0, &true.into(), &120.into()));
    for key in [
        "job",
        "target_product",
        "delivery",
        "mode",
        "dry_run",
        "since",
        "watermark",
        "read",
        "withdrawn",
        "by_type",
        "reasons",
        "requests",
        "duration_ms",
        "error",
    ] {
        assert!(run.get(key).is_some(), "{key} is missing");
    }
    assert_eq!(run["by_type"]["Host"]["accepted"], 120);
}

#[tokio::test]
async fn every_command_works_with_a_storage_account() {
    let mut session = Session::new(5).await;
    let account = crate::azurite::shared().await.connection_string();
    session.environment.remove("STATE_FILE");
    session.environment.insert("AzureWebJobsStorage".to_owned(), account.clone());
    for (arguments, expected) in [
        (vec!["check"], "ok    job default"),
        (vec!["export"], "5"),
        (vec!["runs"], "complete"),
        (vec!["explain", "h1.example"], "at the target, as it should be"),
        (vec!["jobs", "retire", "default"], "5 rows withdrawn"),
    ] {
        let (code, out, err) = session.run(&arguments).await;
        assert!(code == 0 && out.contains(expected), "{arguments:?}: {code}\n{out}\n{err}");
    }
    assert!(!session.folder.path().join("indicator-relay.db").exists());

    session.environment.insert("AzureWebJobsStorage".to_owned(), account.replace("AccountKey=Eby8", "AccountKey=Ebz8"));
    let (code, out, err) = session.run(&["check"]).await;
    assert!(code == 1 && out.contains("FAIL  storage: ") && out.contains("FAIL  state: "), "{code}\n{out}\n{err}");
    assert!(!format!("{out}{err}").contains("Ebz8"), "{out}{err}");
}

#[tokio::test]
async fn every_command_answers() {
    let session = Session::new(5).await;
    assert_eq!(session.run(&["check"]).await.0, 0);
    assert_eq!(session.run(&["export"]).await.0, 0);
    for (arguments, expected) in [
        (vec!["runs"], "complete"),
        (vec!["rejected", "list"], "0 rejected"),
        (vec!["explain", "h1.example"], "at the target, as it should be"),
        (vec!["settings"], "THREATCONNECT_URL"),
        (vec!["completions", "bash"], "indicator-relay"),
        (vec!["export", "--dry-run", "--full", "--out", "preview"], "preview, nothing was sent"),
        (vec!["jobs", "retire", "default"], "5 rows withdrawn"),
    ] {
        let (code, out, err) = session.run(&arguments).await;
        assert!(code == 0 && out.contains(expected), "{arguments:?}: {code}\n{out}\n{err}");
        assert!(
            !format!("{out}{err}").contains(emulator::CLIENT_SECRET) && !format!("{out}{err}").contains(emulator::SECRET_KEY)
        );
    }
    assert!(session.folder.path().join("preview/unchanged.jsonl").exists());
    assert_eq!(session.run(&["export", "--job", "nobody"]).await.0, 2);
    assert_eq!(session.run(&["export", "--approve-withdraw", "default"]).await.0, 1);
    assert_eq!(session.run(&["nonsense"]).await.0, 2);
}

#[tokio::test]
async fn exit_codes_tell_new_rejections_from_failures() {
    let session = Session::new(5).await;
    session.emulator.world().sentinel.refuse.push("'h3.example'".to_owned());
    assert_eq!(session.run(&["export"]).await.0, 3);
    assert_eq!(session.run(&["export"]).await.0, 0, "the same rejection is not new");
    assert!(session.run(&["rejected", "list"]).await.1.contains("h3.example"));
    let mut wrong = session.environment.clone();
    wrong.insert("THREATCONNECT_SECRET_KEY".to_owned(), "wrong".to_owned());
    let (code, out, err) = run(&["check"], &wrong, session.folder.path()).await;
    assert!(code == 1 && out.contains("FAIL") && out.contains("THREATCONNECT_SECRET_KEY"), "{out}{err}");
}

#[tokio::test]
async fn a_job_that_fails_does_not_stop_the_others() {
    let mut session = Session::new(7).await;
    for (key, value) in [
        ("JOBS", "defender,broken,through-graph"),
        ("DEFENDER__TARGET_PRODUCT", "Microsoft Defender for Endpoint"),
        ("BROKEN__MICROSOFT_GRAPH_CLIENT_SECRET", "wrong"),
        ("THROUGH_GRAPH__DELIVERY", "graph"),
    ] {
        session.environment.insert(key.to_owned(), value.to_owned());
    }
    let (code, out, _) = session.run(&["export", "--json"]).await;
    let report: Value = serde_json::from_str(&out).expect("one document");
    let told = |i: usize| {
        let run = &report["runs"][i];
        (
            run["target_product"].as_str(),
            run["delivery"].as_str(),
            run["complete"].as_bool(),
            run["outcomes"]["accepted"].as_u64(),
        )
    };
    let (sentinel, defender) = (Some("Microsoft Sentinel"), Some("Microsoft Defender for Endpoint"));
    assert_eq!(code, 1);
    assert_eq!(told(0), (defender, Some("product"), Some(true), Some(7)));
    assert_eq!(told(1), (sentinel, Some("product"), Some(false), Some(0)));
    assert_eq!(told(2), (sentinel, Some("graph"), Some(true), Some(7)));
    assert!(report["runs"][1]["error"].as_str().is_some_and(|error| error.contains("MICROSOFT_GRAPH_CLIENT_SECRET")));
    assert_eq!((&report["runs"][0]["cap"]["places"], &report["runs"][0]["cap"]["filled"]), (&15_000.into(), &7.into()));
    let (code, out, _) = session.run(&["check"]).await;
    assert!(code == 1 && out.contains("FAIL  job broken") && out.contains("ok    job through-graph"), "{out}");
}

#[tokio::test]
async fn what_was_refused_is_listed_by_filters_and_sent_again() {
    let mut session = Session::new(6).await;
    session.environment.insert("TARGET_PRODUCT".to_owned(), "Microsoft Defender for Endpoint".to_owned());
    {
        let mut world = session.emulator.world();
        world.defender.refuse = vec!["h1.example".to_owned(), "=evil".to_owned()];
        let now = emulator::Time::now(&emulator::SystemTime);
        world.add(Indicator::new("=Owner", "URL", "https://u.example/=evil", now));
    }
    assert_eq!(session.run(&["export"]).await.0, 3);
    let lines = |out: &str| out.lines().count();
    for (filter, count) in [
        (vec![], 2),
        (vec!["--type", "host"], 1),
        (vec!["--owner", "=owner"], 1),
        (vec!["--value", "EVIL"], 1),
        (vec!["--reason", "no such words"], 0),
    ] {
        let (code, out, _) = session.run(&[&["rejected", "list"], filter.as_slice()].concat()).await;
        assert_eq!((code, lines(&out)), (0, count + 1), "{filter:?}\n{out}");
        let (_, out, _) = session.run(&[&["rejected", "list", "--format", "csv"], filter.as_slice()].concat()).await;
        assert_eq!(lines(&out), count + 1, "{filter:?}\n{out}");
        assert!(out.starts_with("at,job,target_product,type,value,owner,indicator,reason,correlation,run\n"), "{out}");
        let (_, out, _) = session.run(&[&["rejected", "list", "--json"], filter.as_slice()].concat()).await;
        let list: Value = serde_json::from_str(&out).expect("one document");
        assert_eq!(list["rejected"].as_array().map(Vec::len), Some(count), "{filter:?}\n{out}");
    }
    let (_, out, _) = session.run(&["rejected", "list", "--format", "csv"]).await;
    assert!(out.contains(",'=Owner,"), "no formula for a spreadsheet: {out}");
    session.emulator.world().defender.refuse.clear();
    assert_eq!(session.run(&["export"]).await.0, 0, "the content has not changed: not sent");
    let (code, out, _) = session.run(&["rejected", "retry", "--json"]).await;
    let report: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!((code, &report["runs"][0]["outcomes"]["accepted"]), (0, &2.into()), "{out}");
    assert_eq!(lines(&session.run(&["rejected", "list"]).await.1), 1);
    assert!(session.run(&["rejected", "retry"]).await.1.contains("nothing to send again"));
}

#[tokio::test]
async fn check_tells_a_missing_role_from_a_wrong_audience_from_a_wrong_secret() {
    let session = Session::new(1).await;
    let with = |key: &str, value: &str| {
        let mut environment = session.environment.clone();
        environment.insert(key.to_owned(), value.to_owned());
        environment
    };
    let audience = with("SENTINEL_SCOPE", "https://graph.microsoft.com/.default");
    let secret = with("MICROSOFT_GRAPH_CLIENT_SECRET", "wrong~secret");
    let (code, out, _) = run(&["check"], &audience, session.folder.path()).await;
    assert!(code == 1 && out.contains("SENTINEL_SCOPE") && !out.contains("Contributor"), "{out}");
    let (code, out, _) = run(&["check"], &secret, session.folder.path()).await;
    assert!(code == 1 && out.contains("MICROSOFT_GRAPH_CLIENT_SECRET") && !out.contains("wrong~secret"), "{out}");
    session.emulator.world().apps[0].workspaces.clear();
    let (code, out, _) = session.run(&["check"]).await;
    assert!(code == 1 && out.contains("Microsoft Sentinel Contributor") && !out.contains("SENTINEL_SCOPE"), "{out}");
    assert!(out.lines().filter(|line| line.starts_with("FAIL")).count() == 1, "{out}");
}

const ENCRYPTED: &str = r#"
version = 1
[[playbook]]
name = "mail"
  [playbook.source]
  resource = "users/u/messages?$select=subject"
  change_types = ["created"]
  include_resource_data = true
  [[playbook.action]]
  kind = "threatconnect_case"
  name = "{title}"
  [playbook.select]
  string = { title = "resource.subject" }
"#;

#[tokio::test]
async fn check_names_the_setting_without_which_encrypted_notifications_are_refused() {
    let session = Session::new(1).await;
    std::fs::write(session.folder.path().join("playbooks.toml"), ENCRYPTED).expect("written");
    let told = async |changes: &[(&str, &str)]| {
        let mut environment = session.environment.clone();
        environment.extend(session.emulator.identity_environment());
        environment.extend(changes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let (code, out, err) = run(&["check"], &environment, session.folder.path()).await;
        assert_eq!(code, 1, "there is no PUBLIC_URL: {out}{err}");
        out.lines().filter(|line| line.contains("playbooks: `mail`")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(told(&[]).await, Vec::<String>::new());
    let lines = told(&[("MICROSOFT_GRAPH_TENANT_ID", "contoso.onmicrosoft.com")]).await;
    assert!(
        lines[0].starts_with("FAIL  playbooks: `mail` (include_resource_data): MICROSOFT_GRAPH_TENANT_ID: give"),
        "{lines:?}"
    );
    assert!(lines.len() == 2 && lines[1].starts_with("note  playbooks: `mail` makes cases: give MICROSOFT_GRAPH"), "{lines:?}");
    let system = [("IDENTITY", "managed"), ("MICROSOFT_GRAPH_CLIENT_ID", ""), ("MANAGED_IDENTITY_CLIENT_ID", "")];
    let lines = told(&system).await;
    assert!(lines.len() == 1 && lines[0].starts_with("FAIL  playbooks: `mail`"), "{lines:?}");
    assert!(lines[0].contains("TOKEN_AUDIENCES: give the application (client) id"), "{lines:?}");
}

#[tokio::test]
async fn what_is_dead_is_listed_and_put_back() {
    let session = Session::new(0).await;
    let store = SqliteStore::open(&session.folder.path().join("state.db"), Arc::new(SystemClock::new())).expect("SQLite");
    let mut item = crate::worker::item(&crate::rig::TestClock::new(), "users", "u1", "e1");
    item.client_state = Some("never shown".to_owned());
    let task = Task { playbook: Some("p".to_owned()), ..Task::first(item) };
    let at = task.item.received;
    let (reason, queue) = (format!("the target has no room{}; mend that", " at all".repeat(20)), URGENT_QUEUE.to_owned());
    let dead = Dead { task, reason, playbook: Some("p".to_owned()), at, queue, attempts: 8, body: None };
    let write = Write::Put { key: dead.key(), value: serde_json::to_vec(&dead).expect("JSON") };
    store.commit("dead", vec![write]).await.expect("stored");
    store.put(&poison_of(QUEUE), b"nonsense".to_vec(), Duration::ZERO).await.expect("a queue");

    let (code, out, _) = session.run(&["playbooks", "dead", "list"]).await;
    assert!(code == 0 && out.contains("updated users/u1 (playbook p, 8 tries): the target has no room at all"), "{out}");
    assert!(out.contains(" at all; mend that\n"), "a reason stands whole: {out}");
    assert!(out.ends_with("1 dead or held, 1 in poison queues\n") && !out.contains("never shown"), "{out}");
    let (_, out, err) = session.run(&["playbooks", "dead", "replay", "none", "a/b"]).await;
    assert!(out == "0 put back\n" && err.contains("a/b, none"), "{out}{err}");
    let (code, out, _) = session.run(&["playbooks", "dead", "replay", &dead.key()]).await;
    assert_eq!((code, out.as_str()), (0, "1 put back\n"));
    let back = store.receive(URGENT_QUEUE, 10, Duration::from_secs(60)).await.expect("a queue");
    let Work::Item(task) = serde_json::from_slice(&back[0].body).expect("work") else { panic!("an item") };
    assert_eq!(*task, dead.task);
    let (_, out, _) = session.run(&["playbooks", "dead", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!((listed["dead"].as_array().map(Vec::len), listed["poison"].is_array()), (Some(0), true), "{listed}");
    assert_eq!(store.count(QUEUE).await.expect("a queue"), 0);
    assert_eq!(session.run(&["playbooks", "dead", "replay", "--all"]).await.1, "1 put back\n");
    assert_eq!(store.count(QUEUE).await.expect("a queue"), 1);
}
