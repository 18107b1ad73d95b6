//! The queue trigger on Azurite: tries, poison, leases, duplicates.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emulator::azurite::{Azurite, AzuriteOptions};
use emulator::host::{Fault, FunctionsHost, HostOptions, QueueClient};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::app::App;

/// One Azurite for all tests here; each has queues of its own.
static AZURITE: OnceCell<Azurite> = OnceCell::const_new();

struct Rig {
    connection: String,
    client: QueueClient,
}

impl Rig {
    async fn new() -> Self {
        let start = async || Azurite::start(AzuriteOptions::default()).await.expect("Azurite");
        let connection = AZURITE.get_or_init(start).await.connection_string();
        let client = QueueClient::new(&connection).expect("a client");
        Self { connection, client }
    }

    /// Short waits between looks. Leases are the usual ones: no test is slow enough to outlive one.
    fn options(&self, app: &App) -> HostOptions {
        let mut options = app.options();
        options.settings.insert("AzureWebJobsStorage".to_owned(), self.connection.clone());
        options.queue_times.first_poll = Duration::from_millis(20);
        options.queue_times.longest_poll = Some(Duration::from_millis(100));
        options
    }

    async fn put(&self, queue: &str, text: &str) {
        self.client.put_creating(queue, &STANDARD.encode(text)).await.expect("put");
    }

    /// Waits for a message of a queue.
    async fn take(&self, queue: &str) -> emulator::host::Message {
        loop {
            let found = self.client.fetch(queue, 1, Duration::from_secs(30)).await.expect("fetched").unwrap_or_default();
            match found.into_iter().next() {
                Some(message) => return message,
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// Waits until a queue holds nothing, hidden or not.
    async fn emptied(&self, queue: &str) {
        while self.client.count(queue).await.expect("counted") != Some(0) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_handled_and_deleted() {
    let rig = Rig::new().await;
    let app = App::new().queue("Work", "handled");
    // The trigger does not make its queue: it waits for it.
    let host = FunctionsHost::start(rig.options(&app)).await.unwrap();
    assert!(host.ready().await);
    rig.put("handled", "{\"n\":1}").await;
    let log = host.completed("Work", 1).await.results.logs[0].clone();
    assert!(log.contains("\"DequeueCount\":\"1\"") && log.contains("\"n\":\"\\\"1\\\"\""), "{log}");
    rig.emptied("handled").await;
    assert_eq!(rig.client.count("handled-poison").await.unwrap(), None);
    assert_eq!(host.invocations().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_failures_make_a_message_poison() {
    let rig = Rig::new().await;
    let app = App::new().queue("Work", "failing");
    let host = FunctionsHost::start(rig.options(&app)).await.unwrap();
    rig.put("failing", "do:fail").await;
    let poison = rig.take("failing-poison").await;
    assert_eq!(STANDARD.decode(poison.text).unwrap(), b"do:fail");
    assert_eq!(host.invocations().len(), 5);
    host.said("moved to `failing-poison`").await;
    rig.emptied("failing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_base64_is_poison_without_a_run() {
    let rig = Rig::new().await;
    let app = App::new().queue("Work", "plain");
    let host = FunctionsHost::start(rig.options(&app)).await.unwrap();
    rig.client.put_creating("plain", "{not base64}").await.unwrap();
    assert_eq!(rig.take("plain-poison").await.text, "{not base64}");
    assert!(host.invocations().is_empty());
    let app =
        App::new().queue("Work", "unencoded").host(|json| json["extensions"] = json!({"queues": {"messageEncoding": "none"}}));
    let host = FunctionsHost::start(rig.options(&app)).await.unwrap();
    rig.client.put_creating("unencoded", "<plain & simple>").await.unwrap();
    assert!(host.completed("Work", 1).await.results.logs[0].contains("<plain & simple>"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_while_the_function_runs() {
    let rig = Rig::new().await;
    let app = App::new().queue("Work", "slow");
    let mut options = rig.options(&app);
    // Renewed half-way: what is left until its end is for a machine that stands still.
    options.queue_times.lease = Duration::from_secs(8);
    let host = FunctionsHost::start(options).await.unwrap();
    rig.put("slow", "do:rest 9000").await;
    assert!(host.completed("Work", 1).await.succeeded());
    rig.emptied("slow").await;
    assert_eq!(host.invocations().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_is_delivered_beside_the_first() {
    let rig = Rig::new().await;
    let app = App::new().queue("Work", "twice");
    let host = FunctionsHost::start(rig.options(&app)).await.unwrap();
    host.inject("Work", Fault::DuplicateDelivery).unwrap();
    rig.put("twice", "hello").await;
    host.completed("Work", 2).await;
    rig.emptied("twice").await;
    let ids: Vec<String> = host.invocations().into_iter().map(|run| run.id).collect();
    assert!(ids.len() == 2 && ids[0] != ids[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_comes_again_when_the_host_is_lost_before_the_delete() {
    let rig = Rig::new().await;
    let app = App::new().queue("Work", "again");
    let host = FunctionsHost::start(rig.options(&app)).await.unwrap();
    host.inject("Work", Fault::KillBeforeDelete).unwrap();
    rig.put("again", "hello").await;
    let first = host.completed("Work", 1).await;
    host.said("exited with code 137").await;
    // Its lease ends, when the test says so.
    let told: Value = serde_json::from_str(&first.results.logs[0]).unwrap();
    let property = |name: &str| serde_json::from_str::<String>(told["Metadata"][name].as_str().unwrap()).unwrap();
    rig.client.hide("again", &property("Id"), &property("PopReceipt"), Duration::ZERO).await.unwrap();
    let second = host.completed("Work", 2).await;
    assert!(first.succeeded() && second.succeeded());
    assert!(second.results.logs[0].contains("\"DequeueCount\":\"2\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_binding_makes_its_queue_and_writes() {
    let rig = Rig::new().await;
    let bindings = json!([
        {"type": "queueTrigger", "direction": "in", "name": "message", "queueName": "%InQueue%"},
        {"type": "queue", "direction": "out", "name": "out", "queueName": "written"},
    ]);
    let app = App::new().function("Work", &bindings);
    let mut options = rig.options(&app);
    options.settings.insert("InQueue".to_owned(), "read".to_owned());
    let host = FunctionsHost::start(options).await.unwrap();
    rig.put("read", "do:output two words!").await;
    assert_eq!(STANDARD.decode(rig.take("written").await.text).unwrap(), b"two words!");
    assert_eq!(host.completed("Work", 1).await.messages, [("out".to_owned(), b"two words!".to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_a_connection_string_is_told() {
    let app = App::new().queue("Work", "nowhere");
    let host = FunctionsHost::start(app.options()).await.unwrap();
    host.until(|record| record.lines.iter().any(|l| l.text.contains("`AzureWebJobsStorage` is not set")).then_some(())).await;
}
