//! The program as Azure runs it: under the Functions host, on Azurite, one process per function.

mod notified;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emulator::azurite::{Azurite, AzuriteOptions};
use emulator::host::{Fault, FunctionsHost, HostOptions, Level, Line, QueueClient};
use emulator::{Emulator, Indicator, Options, TENANT, WORKSPACE};
use indicator_relay::export::QUEUE;
use indicator_relay::functions::{EVENTS, FUNCTIONS};
use indicator_relay::notifications::client_state::{self, Keys};
use indicator_relay::notifications::item;
use indicator_relay::platform::secret::Secret;
use indicator_relay::storage::poison_of;
use serde_json::{Value, json};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The app's folder as the package has it, around the program of this build.
fn unpacked(folder: &Path) -> PathBuf {
    let app = tempfile::Builder::new().prefix("app").tempdir_in(folder).expect("a folder").keep();
    for (name, from) in contents() {
        let to = app.join(name);
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("made");
        // The program is large: a link will do where one can be made.
        if std::fs::hard_link(&from, &to).is_err() {
            std::fs::copy(&from, &to).expect("copied");
        }
    }
    app
}

fn contents() -> Vec<(String, PathBuf)> {
    let mut all = vec![
        ("handler".to_owned(), PathBuf::from(env!("CARGO_BIN_EXE_indicator-relay"))),
        ("host.json".to_owned(), root().join("host.json")),
    ];
    for entry in std::fs::read_dir(root().join("functions")).expect("functions").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        all.push((format!("{name}/function.json"), entry.path().join("function.json")));
    }
    all
}

/// The services, the storage, and what an app is told of them.
struct Cloud {
    emulator: Emulator,
    azurite: Azurite,
    folder: tempfile::TempDir,
    settings: BTreeMap<String, String>,
}

impl Cloud {
    /// Storage by its key, secrets in the settings: as on a laptop with `func start`.
    async fn with_keys() -> Self {
        let mut cloud = Self::start(false).await;
        cloud.set("AzureWebJobsStorage", &cloud.azurite.connection_string());
        cloud
    }

    /// A managed identity for everything; the one secret that ThreatConnect needs is in the vault.
    async fn with_identity() -> Self {
        let mut cloud = Self::start(true).await;
        cloud.settings.extend(cloud.emulator.identity_environment());
        let uris =
            [("blob", cloud.azurite.blob_url()), ("queue", cloud.azurite.queue_url()), ("table", cloud.azurite.table_url())];
        let uris = uris.map(|(service, url)| (format!("AzureWebJobsStorage__{service}ServiceUri"), url.to_owned()));
        cloud.settings.extend(uris);
        cloud.set("AzureWebJobsStorage__credential", "managedidentity");
        cloud.set("AzureWebJobsStorage__clientId", emulator::MANAGED_CLIENT_ID);
        let vault = cloud.emulator.key_vault_url().to_owned();
        cloud.set("KEY_VAULT_URL", &vault);
        cloud.set("IDENTITY", "managed");
        for key in ["THREATCONNECT_SECRET_KEY", "MICROSOFT_GRAPH_CLIENT_ID", "MICROSOFT_GRAPH_CLIENT_SECRET"] {
            cloud.settings.remove(key);
        }
        cloud.keep("threatconnect-secret-key", emulator::SECRET_KEY);
        cloud
    }

    async fn start(https: bool) -> Self {
        let emulator = Emulator::start(Options { enforce_rate: false, ..Options::default() }).await.expect("free ports");
        let azurite = Azurite::start(AzuriteOptions { https, folder: None }).await.unwrap_or_else(|e| panic!("{e:#}"));
        let folder = tempfile::tempdir().expect("a folder");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, emulator.ca_pem().to_owned() + azurite.ca_pem().unwrap_or_default()).expect("written");
        let mut settings = emulator.environment();
        // Whenever a test begins, an occurrence has just been.
        settings.insert("EXPORT_SCHEDULE".to_owned(), "0 * * * * *".to_owned());
        settings.insert("SSL_CERT_FILE".to_owned(), ca.display().to_string());
        // As the deployment does: the host drops a timer whose `%NAME%` is not set, without a word.
        for key in ["SUBSCRIPTION_SCHEDULE", "ALERT_POLL_SCHEDULE"] {
            settings.insert(key.to_owned(), "0 */5 * * * *".to_owned());
        }
        Self { emulator, azurite, folder, settings }
    }

    fn set(&mut self, key: &str, value: &str) {
        self.settings.insert(key.to_owned(), value.to_owned());
    }

    fn keep(&self, secret: &str, value: &str) {
        self.emulator.world().vault.insert(secret.to_owned(), Some(value.to_owned()));
    }

    fn add_hosts(&self, prefix: &str, count: usize) {
        let now = emulator::Time::now(&emulator::SystemTime);
        let mut world = self.emulator.world();
        for i in 0..count {
            world.add(Indicator::new("Acme Org", "Host", &format!("{prefix}{i}.example"), now));
        }
    }

    fn live(&self) -> usize {
        self.emulator.world().live(WORKSPACE, emulator::Time::now(&emulator::SystemTime)).len()
    }

    fn uploaded(&self) -> u64 {
        self.emulator.world().sentinel.uploaded
    }

    /// A host that fires timers only when told, and hardly waits.
    fn options(&self, app: PathBuf) -> HostOptions {
        let mut options = HostOptions::new(app);
        options.settings = self.settings.clone();
        options.storage = Some(self.azurite.connection_string());
        options.storage_ca = self.azurite.ca_pem().map(str::to_owned);
        options.timers = false;
        options.queue_times.first_poll = Duration::from_millis(20);
        options.queue_times.longest_poll = Some(Duration::from_millis(200));
        options.queue_times.after_failure = Some(Duration::ZERO);
        options
    }

    async fn host(&self) -> FunctionsHost {
        let host = FunctionsHost::start(self.options(unpacked(self.folder.path()))).await.expect("a host");
        assert!(host.ready().await, "{:#?}", host.lines());
        host
    }

    fn queues(&self) -> QueueClient {
        QueueClient::trusting(&self.azurite.connection_string(), self.azurite.ca_pem()).expect("a client")
    }

    async fn put(&self, text: &str) {
        self.queues().put_creating(QUEUE, &STANDARD.encode(text)).await.expect("put");
    }
}

/// The n-th line of an event.
async fn told(host: &FunctionsHost, event: &str, n: usize) -> (Level, Value) {
    let found = host.until(|record| {
        let mut lines = record.lines.iter().filter_map(|line| Some((line.level, event_of(line, event)?)));
        lines.nth(n - 1)
    });
    let found = tokio::time::timeout(Duration::from_secs(600), found).await;
    found.unwrap_or_else(|_| panic!("`{event}` did not come: {:#?}", host.lines()))
}

fn event_of(line: &Line, event: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(&line.text).ok()?;
    (value["event"] == event).then_some(value)
}

/// Lines of the handler are JSON, of the level that they say, and hold no secret.
fn assert_lines_are_sound(host: &FunctionsHost, secrets: &[&str]) {
    for line in host.lines().iter().filter(|line| line.group.is_some()) {
        let value: Value = serde_json::from_str(&line.text).unwrap_or_else(|_| panic!("no JSON: {line:?}"));
        let level = match value["level"].as_str() {
            Some("ERROR") => Level::Error,
            Some("WARN") => Level::Warning,
            _ => Level::Information,
        };
        assert_eq!(line.level, level, "{line:?}");
        for secret in secrets {
            assert!(!line.text.contains(secret), "{line:?}");
        }
        if let Some(name) = value["event"].as_str() {
            let event = EVENTS.iter().find(|event| event.name == name).unwrap_or_else(|| panic!("{name} is in no table"));
            assert_eq!(value["level"], event.level, "{line:?}");
            for field in event.fields {
                assert!(value.get(*field).is_some(), "{name} has no {field}: {line:?}");
            }
            assert!(value["invocation_id"].is_string() && value["function"].is_string(), "{line:?}");
        }
    }
    assert_eq!(host.contract_errors(), []);
}

/// The package, or what it would be with this build's program.
#[expect(clippy::disallowed_methods, reason = "the check of the project names the package that it has built")]
fn package(folder: &Path) -> PathBuf {
    if let Some(path) = std::env::var_os("INDICATOR_RELAY_PACKAGE") {
        return root().join(path);
    }
    let zip = folder.join("indicator-relay.zip");
    let binary = std::fs::read(env!("CARGO_BIN_EXE_indicator-relay")).expect("the program");
    xtask::package::pack(&binary, &root(), &zip).expect("a package");
    zip
}

#[tokio::test(flavor = "multi_thread")]
async fn the_package_runs_read_only_and_a_tick_leads_to_a_finished_export() {
    let cloud = Cloud::with_keys().await;
    cloud.add_hosts("h", 250);
    let mut options = cloud.options(package(cloud.folder.path()));
    options.allow_execution = false; // the package itself makes the handler executable
    let host = FunctionsHost::start(options).await.expect("a host");
    assert!(host.ready().await, "{:#?}", host.lines());
    assert_eq!(host.pids().len(), FUNCTIONS.len(), "each function is a process of its own");
    assert!(host.fire("ExportIndicators").await.expect("a timer").succeeded());
    let (_, finished) = told(&host, "run.finished", 1).await;
    assert_eq!((&finished["complete"], &finished["accepted"]), (&true.into(), &250.into()), "{finished}");
    assert_eq!(cloud.live(), 250);
    assert!(host.fire("ExportIndicators").await.expect("a timer").succeeded());
    assert_lines_are_sound(&host, &[emulator::SECRET_KEY, emulator::CLIENT_SECRET, emulator::azurite::KEY]);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_identity_no_setting_holds_a_secret_and_one_that_changes_needs_no_restart() {
    let cloud = Cloud::with_identity().await;
    cloud.add_hosts("h", 20);
    let secrets = [emulator::SECRET_KEY, emulator::CLIENT_SECRET, emulator::azurite::KEY, "another~secret"];
    for (key, value) in &cloud.settings {
        assert!(secrets.iter().all(|secret| !value.contains(secret)), "{key} holds a secret");
    }
    let host = cloud.host().await;
    let before = host.pids();
    let run = r#"{"job": "default"}"#;
    assert!(host.fire("ExportIndicators").await.expect("a timer").succeeded(), "{:#?}", host.lines());
    assert_eq!(told(&host, "run.finished", 1).await.1["accepted"], 20);
    // Rotated at ThreatConnect and in the vault, while the handlers run.
    cloud.emulator.world().users[0].secret = "another~secret".to_owned();
    cloud.keep("threatconnect-secret-key", "another~secret");
    cloud.add_hosts("later", 5);
    cloud.put(run).await;
    let (_, second) = told(&host, "run.finished", 2).await;
    assert_eq!((&second["complete"], &second["accepted"]), (&true.into(), &5.into()), "{second}");
    assert_eq!(host.pids(), before);
    // One that ends soon is told by the timer.
    let soon = emulator::Time::now(&emulator::SystemTime) + Duration::from_secs(86_400 * 3 + 43_200);
    cloud.emulator.world().vault_ends.insert("threatconnect-secret-key".to_owned(), soon);
    host.kill("ExportIndicators").expect("a group");
    assert!(host.ready().await);
    host.fire("ExportIndicators").await.expect("a timer");
    assert_eq!(told(&host, "secret.expiring", 1).await.1["days"], 3);
    assert_lines_are_sound(&host, &secrets);
}

/// Through the host's own front, with the storage by identity and the key of client states in the vault.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "this asks the host as Microsoft Graph does, without the product's client")]
async fn a_delivery_is_in_its_queue_when_the_host_answers() {
    const KEY: &str = "a key that only the vault knows";
    let cloud = Cloud::with_identity().await;
    cloud.keep("client-state-key", KEY);
    let app = unpacked(cloud.folder.path());
    // Nobody takes out of the queues what is to be counted there.
    for function in FUNCTIONS.iter().filter(|function| function.name != "ReceiveNotifications") {
        std::fs::remove_dir_all(app.join(function.name)).expect("removed");
    }
    let host = FunctionsHost::start(cloud.options(app)).await.expect("a host");
    assert!(host.ready().await, "{:#?}", host.lines());
    let (client, url) = (reqwest::Client::new(), format!("{}/api/notifications", host.url()));
    let post = async |query: &str, body: String| {
        let answer = client.post(format!("{url}{query}")).body(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    assert_eq!(post("/guide?validationToken=a+b%2Bc%3a", String::new()).await, (200, "a b+c:".to_owned()));
    let item = |key: &str, group: &str, more: usize| {
        let keys = Keys { current: Secret::new(key), previous: None };
        let state = client_state::make(&keys, group, [3; 16]);
        json!({"clientState": state, "changeType": "updated", "resourceData": {"id": "x", "more": "x".repeat(more)}})
    };
    // What is forged comes until it is known for that: a slow machine may ask the vault for longer than a delivery waits for it.
    let forged = json!({"value": [item("another key", "n0123456789ab", 0)]}).to_string();
    let mut told_of = 0;
    loop {
        if post("", forged.clone()).await.0 != 202 {
            continue;
        }
        told_of += 1;
        if told(&host, "notification.received", told_of).await.1["wrong_client_state"] == 1 {
            break;
        }
    }
    let before = told_of as u64 - 1;
    // The second is too large for a message.
    let body = json!({"value": [item(KEY, "n0123456789ab", 0), item(KEY, "n0123456789ab", 70_000), item(KEY, "u0123456789ab", 0), {"clientState": "NA"}]});
    assert_eq!(post("", body.to_string()).await, (202, String::new()));
    let (queues, (_, received)) = (cloud.queues(), told(&host, "notification.received", told_of + 1).await);
    let counts = ["accepted", "urgent", "foreign_client_state"].map(|name| received[name].as_u64());
    assert_eq!(counts, [Some(3), Some(1), Some(1)], "{received}");
    assert_eq!(received["unproven"], 0, "the vault has told the key: {received}");
    let count = async |queue: &str| queues.count(queue).await.expect("counted");
    assert_eq!((count(item::QUEUE).await, count(item::URGENT_QUEUE).await), (Some(before + 2), Some(1)));
    assert_lines_are_sound(&host, &[KEY, "v1.n0123456789ab"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_secret_that_changes_needs_no_restart() {
    let mut cloud = Cloud::with_identity().await;
    cloud.set("IDENTITY", "secret");
    cloud.set("MICROSOFT_GRAPH_CLIENT_ID", emulator::CLIENT_ID);
    cloud.set("TARGET_PRODUCT", "Microsoft Defender for Endpoint");
    cloud.keep("microsoft-graph-client-secret", emulator::CLIENT_SECRET);
    cloud.add_hosts("h", 3);
    let host = cloud.host().await;
    cloud.put(r#"{"job": "default"}"#).await;
    assert_eq!(told(&host, "run.finished", 1).await.1["accepted"], 3);
    {
        let mut world = cloud.emulator.world();
        world.apps[0].secret = "another~secret".to_owned();
        world.revoke_tokens(emulator::CLIENT_ID);
    }
    cloud.keep("microsoft-graph-client-secret", "another~secret");
    cloud.add_hosts("later", 2);
    cloud.put(r#"{"job": "default"}"#).await;
    let (_, second) = told(&host, "run.finished", 2).await;
    assert_eq!((&second["complete"], &second["accepted"]), (&true.into(), &2.into()), "{second}\n{:#?}", host.lines());
    let now = emulator::Time::now(&emulator::SystemTime);
    assert_eq!(cloud.emulator.world().at_defender(TENANT, now).len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_fails_the_function_in_one_line_until_it_can() {
    let cloud = Cloud::with_identity().await;
    cloud.add_hosts("h", 4);
    let secret = "threatconnect-secret-key";
    let identity = cloud.emulator.world().apps.iter().position(|app| app.managed).expect("an identity");
    let host = cloud.host().await;
    let mut failed = 0;
    let mut expect = async |words: &[&str]| {
        let invocation = host.fire("ExportIndicators").await.expect("a timer");
        assert!(!invocation.succeeded(), "{words:?}");
        failed += 1;
        let (level, line) = told(&host, "invocation.failed", failed).await;
        let error = line["error"].as_str().expect("an error");
        assert!(level == Level::Error && words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    };
    cloud.emulator.world().vault.insert(secret.to_owned(), None);
    expect(&[secret, "disabled"]).await;
    cloud.emulator.world().vault.remove(secret);
    expect(&["no such secret", "az keyvault secret set"]).await;
    cloud.keep(secret, emulator::SECRET_KEY);
    cloud.emulator.world().apps[identity].may_read_vault = false;
    expect(&["Key Vault Secrets User"]).await;
    cloud.emulator.world().apps[identity].may_read_vault = true;
    cloud.emulator.world().apps[identity].client_id = "another".to_owned();
    expect(&["MANAGED_IDENTITY_CLIENT_ID"]).await;
    cloud.emulator.world().apps[identity].client_id = emulator::MANAGED_CLIENT_ID.to_owned();
    assert!(host.fire("ExportIndicators").await.expect("a timer").succeeded(), "{:#?}", host.lines());
    assert_eq!(told(&host, "run.finished", 1).await.1["accepted"], 4);
    assert_lines_are_sound(&host, &[emulator::SECRET_KEY]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_alerts_wait_for_is_written_whatever_the_level() {
    let mut cloud = Cloud::with_keys().await;
    cloud.set("LOGGING_LEVEL", "error");
    cloud.add_hosts("h", 2);
    let host = cloud.host().await;
    assert!(host.fire("ExportIndicators").await.expect("a timer").succeeded());
    told(&host, "tick.finished", 1).await;
    assert_eq!(told(&host, "run.finished", 1).await.1["accepted"], 2);
    let others = host.lines().into_iter().filter(|line| line.level == Level::Information && !line.text.contains("\"event\""));
    assert_eq!(others.filter(|line| line.group.is_some()).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_certificates_the_log_says_what_to_look_at() {
    let mut cloud = Cloud::with_keys().await;
    cloud.set("SSL_CERT_FILE", "/nonexistent/ca.pem");
    let host = cloud.host().await;
    assert!(!host.fire("ExportIndicators").await.expect("a timer").succeeded());
    let (level, line) = told(&host, "invocation.failed", 1).await;
    assert!(level == Level::Error && line["error"].as_str().is_some_and(|error| error.contains("SSL_CERT_FILE")), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_can_handle_ends_as_poison_and_is_told() {
    let cloud = Cloud::with_keys().await;
    let host = cloud.host().await;
    cloud.put("no run at all").await;
    let poison = poison_of(QUEUE);
    host.until(|record| record.lines.iter().any(|line| line.text.contains(&format!("moved to `{poison}`"))).then_some(())).await;
    assert_eq!(host.invocations().len(), 5);
    assert!(host.fire("ExportIndicators").await.expect("a timer").succeeded());
    let (level, line) = told(&host, "queue.poison", 1).await;
    assert_eq!((level, &line["queue"], &line["count"]), (Level::Error, &poison.as_str().into(), &1.into()));
    let said = line["message"].as_str().unwrap_or_default();
    assert!(said.contains("holds 1 message that could not be handled") && said.contains("delete what is there"), "{said}");
    assert_lines_are_sound(&host, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_on_one_queue_send_nothing_twice() {
    let mut cloud = Cloud::with_keys().await;
    cloud.set("THREATCONNECT_PAGE_SIZE", "100");
    cloud.add_hosts("h", 3_000);
    cloud.emulator.world().latency.insert(emulator::Service::Sentinel, Duration::from_millis(50));
    let (one, other) = (cloud.host().await, cloud.host().await);
    one.inject("RunExport", Fault::DuplicateDelivery).expect("a function");
    other.inject("RunExport", Fault::DuplicateDelivery).expect("a function");
    one.inject("RunExport", Fault::KillBeforeDelete).expect("a function");
    assert!(one.fire("ExportIndicators").await.expect("a timer").succeeded());
    // The run goes on when the other ticks, also if a minute ends between the two: else there would be two runs.
    let mut look = tokio::time::interval(Duration::from_millis(20));
    while cloud.uploaded() == 0 {
        look.tick().await;
    }
    assert!(other.fire("ExportIndicators").await.expect("a timer").succeeded());
    let (first, second) = (told(&one, "run.finished", 1), told(&other, "run.finished", 1));
    let (_, finished) = tokio::select! { told = first => told, told = second => told };
    assert_eq!((&finished["complete"], &finished["accepted"]), (&true.into(), &3_000.into()), "{finished}");
    assert_eq!((cloud.live(), cloud.uploaded()), (3_000, 3_000));
    for host in [&one, &other] {
        assert_eq!(host.contract_errors(), []);
    }
}

/// Kills a handler at a random moment of its work, again and again.
async fn killed(world: u64, kills: u32) {
    let mut cloud = Cloud::with_keys().await;
    cloud.set("THREATCONNECT_PAGE_SIZE", "100");
    cloud.add_hosts("h", 6_000);
    cloud.emulator.world().latency.insert(emulator::Service::Sentinel, Duration::from_millis(40));
    let mut options = cloud.options(unpacked(cloud.folder.path()));
    options.recycle = true;
    options.timers = true;
    let host = FunctionsHost::start(options).await.expect("a host");
    assert!(host.ready().await);
    host.fire("ExportIndicators").await.expect("a timer");
    let mut dice = world.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for kill in 0..kills {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = cloud.uploaded() + 1 + (dice >> 56);
        // One kill in five hits the timer.
        let group = if kill % 5 == 4 { "ExportIndicators" } else { "RunExport" };
        let work = async {
            let mut look = tokio::time::interval(Duration::from_millis(20));
            while group == "RunExport" && cloud.uploaded() < after && cloud.live() < 6_000 {
                look.tick().await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(400), work).await.is_ok(), "no progress: {:#?}", host.lines());
        host.kill(group).expect("a group");
    }
    let finished = host.until(|record| {
        let mut finished = record.lines.iter().filter_map(|line| event_of(line, "run.finished"));
        finished.find(|line| line["complete"] == true)
    });
    let finished = tokio::time::timeout(Duration::from_secs(1_200), finished).await.expect("a finished run");
    let uploaded = cloud.uploaded();
    println!("world {world}: {kills} kills, {} at the target, {uploaded} uploaded, {finished}", cloud.live());
    assert_eq!((cloud.live(), &finished["complete"]), (6_000, &true.into()));
    assert!(uploaded <= 6_000 + u64::from(kills) * 400, "{uploaded}: no more than what was under way");
    // A message whose handler was killed five times is poison to the host; the run goes on without it.
    let poison = cloud.queues().count(&poison_of(QUEUE)).await.expect("counted").unwrap_or(0);
    assert!(poison <= u64::from(kills / 5), "{poison} messages in the poison queue");
}

/// `cargo test --test it hosted::fifty -- --ignored --nocapture`: some ten minutes, because a lease outlives its holder by one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten minutes"]
async fn fifty_random_kills_lose_nothing() {
    let worlds: Vec<_> = (1..=5).map(|world| tokio::spawn(killed(world, 10))).collect();
    for world in worlds {
        world.await.expect("a world without a loss");
    }
}
