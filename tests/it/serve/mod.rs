//! The product without Azure Functions, as its own process: what Microsoft Graph tells arrives at a playbook's target.
#![expect(clippy::disallowed_methods, reason = "this asks the program from outside")]

mod alerts;
mod killed;
mod lifecycle;
mod mended;
mod mixed;
mod replaced;
mod rich;
mod started;
mod stopped;
mod timers;
mod told;

use std::collections::BTreeMap;
use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use emulator::notifications::{Delivery, Limits, Outcome};
use emulator::{Emulator, FreePort, Options, Playbook, Received, TENANT};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

const WEBHOOK: &str = "9f0c1f36-2c4c-4a7e-8f43-7d7e5a1f2b11";
const USER: &str = "3f6c2a10-0000-4000-8000-000000000001";
/// Of the program's first answer, and of what follows from a change. Less than what a dead program holds is held for.
const PATIENCE: Duration = Duration::from_secs(120);

struct Served {
    emulator: Emulator,
    environment: BTreeMap<String, String>,
    folder: tempfile::TempDir,
    port: FreePort,
}

impl Served {
    async fn new(playbooks: &str) -> Self {
        let emulator = Emulator::start(Options::default()).await.expect("free ports");
        {
            let mut world = emulator.world();
            world.playbooks.insert(WEBHOOK.to_owned(), Playbook::default());
            // On a machine that is busy with other things, an answer that comes late tells nothing of the program.
            let notifications = &mut world.notifications;
            notifications.limits = Limits { handshake: PATIENCE, first: PATIENCE, retry: PATIENCE };
            notifications.first_retry = Duration::from_millis(200);
            notifications.fewest_answers = usize::MAX;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, emulator.ca_pem()).expect("written");
        let port = FreePort::find().expect("a port");
        let mut environment = emulator.environment();
        for (key, value) in [
            ("SSL_CERT_FILE", ca.display().to_string()),
            ("STATE_FILE", folder.path().join("state.db").display().to_string()),
            ("PUBLIC_URL", format!("http://127.0.0.1:{}", port.number())),
            ("PLAYBOOKS_FILE", folder.path().join("playbooks.toml").display().to_string()),
        ] {
            environment.insert(key.to_owned(), value);
        }
        let served = Self { emulator, environment, folder, port };
        served.write(playbooks);
        served
    }

    /// The document, which a program reads when it starts, and each minute.
    fn write(&self, playbooks: &str) {
        let playbooks = playbooks.replace("WEBHOOK", &self.emulator.playbook_url(WEBHOOK));
        std::fs::write(self.folder.path().join("playbooks.toml"), playbooks).expect("written");
    }

    fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_indicator-relay"));
        command.args(arguments).env_clear().envs(&self.environment).current_dir(self.folder.path()).kill_on_drop(true);
        command
    }

    /// What a command that succeeds writes.
    async fn command(&self, arguments: &[&str]) -> String {
        let output = self.program(arguments).output().await.expect("it ran");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// The program may be about to do the same: one at a time.
    async fn subscribe(&self) {
        let done = async {
            loop {
                let output = self.program(&["subscriptions", "apply"]).output().await.expect("it ran");
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                if output.status.success() {
                    return;
                }
                assert!(said.contains("another process is at the subscriptions"), "{said}{}", self.log());
            }
        };
        assert!(tokio::time::timeout(PATIENCE, done).await.is_ok(), "not in time: {}", self.log());
    }

    async fn signal(child: &Child, name: &str) {
        let pid = child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args([name, &pid]).status().await.expect("kill").success());
    }

    /// Started; it may not answer yet. All that it says is in one file: nobody reads a pipe here.
    fn spawn(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).expect("a file");
        let mut command = self.program(&["serve", "--listen", &format!("127.0.0.1:{}", self.port.number())]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a handle")).stderr(log);
        command.spawn().expect("started")
    }

    /// Started, and answering.
    async fn start(&self) -> Child {
        let child = self.spawn();
        let client = reqwest::Client::new();
        let listens = async {
            while client.get(format!("http://127.0.0.1:{}/", self.port.number())).send().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, listens).await.is_ok(), "no answer in time: {}", self.log());
        child
    }

    /// Whole lines: the program may be about to write one.
    fn log(&self) -> String {
        let mut log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.truncate(log.rfind('\n').map_or(0, |end| end + 1));
        log
    }

    async fn until(&self, what: &str, fits: impl Fn(&Emulator) -> bool) {
        let seen = async {
            while !fits(&self.emulator) {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, seen).await.is_ok(), "not in time: {what}\n{}", self.log());
    }

    /// Sends what is due until all of it is taken. What the program could not keep in time, it says so, and gets it again.
    async fn deliver(&self) -> Vec<Delivery> {
        let taken = async {
            let mut tries = self.emulator.deliver_due().await;
            while !self.emulator.world().notifications.is_settled() {
                tokio::task::yield_now().await;
                tries.extend(self.emulator.deliver_due().await);
            }
            tries
        };
        let Ok(tries) = tokio::time::timeout(PATIENCE, taken).await else { panic!("not taken in time: {}", self.log()) };
        let (delivered, others): (Vec<_>, Vec<_>) = tries.into_iter().partition(|one| one.outcome == Outcome::Delivered);
        assert!(!delivered.is_empty() && others.iter().all(|one| one.status == Some(503)), "{delivered:?} {others:?}");
        delivered
    }

    /// What arrived at the webhook.
    fn received(&self) -> Vec<Received> {
        self.emulator.world().playbooks[WEBHOOK].received.clone()
    }

    /// The bodies of that.
    fn bodies(&self) -> Vec<Value> {
        self.received().iter().map(|received| serde_json::from_str(&received.body).expect("JSON")).collect()
    }

    /// Waits for so many requests at the webhook.
    async fn until_received(&self, count: usize) {
        let what = format!("{count} requests at the webhook");
        self.until(&what, |emulator| emulator.world().playbooks[WEBHOOK].received.len() >= count).await;
    }

    /// What was set aside, and how many messages are in the poison queues.
    async fn dead(&self) -> (Vec<Value>, u64) {
        let said: Value = serde_json::from_str(&self.command(&["playbooks", "dead", "list", "--json"]).await).expect("JSON");
        (said["dead"].as_array().expect("rows").clone(), said["in_poison_queues"].as_u64().expect("a number"))
    }
}

const USERS: &str = r#"
version = 1

[profile.guide]
code = 201
body = "Accepted"

[[playbook]]
name = "users"

  [playbook.source]
  kind = "graph"
  resource = "users"
  change_types = ["updated", "deleted"]
  profile = "guide"

  [playbook.select]
  string = { name = "resource.displayName" }

  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK"
  allow_private_address = true
  body = "selected"
"#;

#[tokio::test]
async fn a_change_in_graph_arrives_at_a_webhook_and_a_signal_stops_the_program() {
    let served = Served::new(USERS).await;
    let mut child = served.start().await;
    served.subscribe().await;
    let told = served.emulator.world().put_user(TENANT, USER, json!({"displayName": "Jane"}), Timestamp::now());
    assert_eq!(told, 1, "one subscription");
    let delivered = served.deliver().await;
    assert!(delivered.iter().all(|delivery| delivery.status == Some(201)), "as the profile says: {delivered:?}");
    served.until_received(1).await;
    let received = served.received();
    assert!(received[0].body.contains("Jane") && received[0].header("idempotency-key").is_some(), "{received:?}");
    Served::signal(&child, "-TERM").await;
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("in time").expect("it ended");
    assert_eq!(ended.code(), Some(0));
}
