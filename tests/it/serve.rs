//! The product without Azure Functions, as its own process: a change in Microsoft Graph arrives at a playbook's webhook.
#![expect(clippy::disallowed_methods, reason = "this asks the program from outside")]

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use emulator::{Emulator, Options, Playbook, TENANT};
use jiff::Timestamp;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

const WEBHOOK: &str = "9f0c1f36-2c4c-4a7e-8f43-7d7e5a1f2b11";

struct Served {
    emulator: Emulator,
    environment: BTreeMap<String, String>,
    folder: tempfile::TempDir,
    port: u16,
}

impl Served {
    async fn new(playbooks: &str) -> Self {
        let emulator = Emulator::start(Options::default()).await.expect("free ports");
        emulator.world().playbooks.insert(WEBHOOK.to_owned(), Playbook::default());
        let folder = tempfile::tempdir().expect("a folder");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, emulator.ca_pem()).expect("written");
        std::fs::write(folder.path().join("playbooks.toml"), playbooks.replace("WEBHOOK", &emulator.playbook_url(WEBHOOK)))
            .expect("written");
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = free.local_addr().expect("an address").port();
        let mut environment = emulator.environment();
        for (key, value) in [
            ("SSL_CERT_FILE", ca.display().to_string()),
            ("STATE_FILE", folder.path().join("state.db").display().to_string()),
            ("PUBLIC_URL", format!("http://127.0.0.1:{port}")),
            ("PLAYBOOKS_FILE", folder.path().join("playbooks.toml").display().to_string()),
        ] {
            environment.insert(key.to_owned(), value);
        }
        Self { emulator, environment, folder, port }
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_indicator-relay"));
        command.args(arguments).env_clear().envs(&self.environment).current_dir(self.folder.path()).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Started, and answering.
    async fn start(&self) -> Child {
        let child = self.program(&["serve", "--listen", &format!("127.0.0.1:{}", self.port)]).spawn().expect("started");
        let client = reqwest::Client::new();
        let listens = async {
            while client.get(format!("http://127.0.0.1:{}/", self.port)).send().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), listens).await.expect("an answer in a minute");
        child
    }

    async fn until(&self, what: &str, fits: impl Fn(&Emulator) -> bool) {
        let seen = async {
            while !fits(&self.emulator) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen).await.unwrap_or_else(|_| panic!("not in a minute: {what}"));
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
    let applied = served.program(&["subscriptions", "apply"]).output().await.expect("it ran");
    let said = String::from_utf8_lossy(&applied.stdout).into_owned() + &String::from_utf8_lossy(&applied.stderr);
    assert_eq!(applied.status.code(), Some(0), "{said}");
    let id = "3f6c2a10-0000-4000-8000-000000000001";
    let user = json!({"id": id, "displayName": "Jane"});
    let told = served.emulator.world().put_user(TENANT, id, user, Timestamp::now());
    assert_eq!(told, 1, "one subscription");
    let delivered = served.emulator.deliver_due().await;
    assert!(delivered.iter().all(|delivery| delivery.status == Some(201)), "as the profile says: {delivered:?}");
    served.until("the webhook", |emulator| !emulator.world().playbooks[WEBHOOK].received.is_empty()).await;
    let received = served.emulator.world().playbooks[WEBHOOK].received.clone();
    assert!(received[0].body.contains("Jane") && received[0].header("idempotency-key").is_some(), "{received:?}");
    let pid = child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill").success());
    let ended = tokio::time::timeout(Duration::from_secs(60), child.wait()).await.expect("within a minute").expect("it ended");
    assert_eq!(ended.code(), Some(0));
}
