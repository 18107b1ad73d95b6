//! The file of the playbooks breaks while users change, and is mended: what came meanwhile reaches each playbook once, when it is
//! asked for.

use emulator::TENANT;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{PATIENCE, Served, WEBHOOK};

/// Two playbooks on users.
fn playbooks() -> String {
    let playbook = |name: &str| {
        format!(
            r#"
[[playbook]]
name = "{name}"

  [playbook.source]
  resource = "users"
  change_types = ["updated"]

  [playbook.fetch]
  mode = "none"

  [playbook.select]
  string = {{ playbook = "'{name}'", id = "notification.resourceData.id" }}

  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK"
  allow_private_address = true
  body = "selected"
"#
        )
    };
    format!("version = 1\n{}{}", playbook("a"), playbook("b"))
}

/// The program ends as it should, so that no message is left half handled.
async fn stop(mut child: Child) {
    let pid = child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill").success());
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("in time").expect("it ended");
    assert_eq!(ended.code(), Some(0));
}

/// Runs with this document while one user changes, until that many notifications are set aside, in all; then compares subscriptions.
async fn change(served: &Served, document: &str, user: &str, dead: usize) {
    let text = document.replace("WEBHOOK", &served.emulator.playbook_url(WEBHOOK));
    std::fs::write(served.folder.path().join("playbooks.toml"), text).expect("written");
    let child = served.start().await;
    let told = served.emulator.world().put_user(TENANT, user, json!({"displayName": user}), Timestamp::now());
    assert_eq!(told, 1, "one subscription");
    served.deliver().await;
    let lines = || served.log().matches("\"event\":\"notification.dead\"").count();
    served.until("it is set aside", |_| lines() >= dead).await;
    stop(child).await;
    drop(served.program(&["subscriptions", "apply"]).output().await.expect("it ran"));
    let count = served.emulator.world().notifications.subscriptions(Timestamp::now()).len();
    assert_eq!(count, 1, "it is kept: {}", served.log());
}

#[tokio::test]
async fn what_came_while_the_file_had_mistakes_is_replayed_to_each_playbook_once() {
    const USERS: [&str; 3] =
        ["3f6c2a10-0000-4000-8000-00000000000a", "3f6c2a10-0000-4000-8000-00000000000b", "3f6c2a10-0000-4000-8000-00000000000c"];
    let right = playbooks();
    let mut served = Served::new(&right).await;
    served.set("SUBSCRIPTION_SCHEDULE", "0 0 0 1 1 *");
    let child = served.start().await;
    served.subscribe().await;
    stop(child).await;

    change(&served, &right.replacen("\"webhook\"", "\"webhok\"", 1), USERS[0], 1).await;
    let log = served.log();
    let line = log.lines().find(|line| line.contains("notification.dead")).expect("a line");
    for part in
        ["\"level\":\"ERROR\"", "for playbook `a`", "playbooks.toml:17:10: `kind` is", "mend that", "`playbooks dead replay`"]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    change(&served, &right.replacen("resource =", "resorce =", 1), USERS[1], 2).await;
    change(&served, &(right.clone() + "\n[[playbook]\n"), USERS[2], 3).await;

    let mut whose: Vec<Value> = served.dead().await.0.iter().map(|row| row["playbook"].clone()).collect();
    whose.sort_by_key(Value::to_string);
    assert_eq!(whose, [json!("a"), Value::Null, Value::Null]);
    let listed = served.command(&["playbooks", "dead", "list"]).await;
    assert!(listed.contains("playbook `a` cannot be read") && listed.matches("playbooks.toml:").count() == 3, "{listed}");
    assert!(!listed.contains("(unreadable)") && !served.log().contains("(unreadable)"), "{listed}");

    let text = right.replace("WEBHOOK", &served.emulator.playbook_url(WEBHOOK));
    std::fs::write(served.folder.path().join("playbooks.toml"), text).expect("written");
    let child = served.start().await;
    assert_eq!(served.command(&["playbooks", "dead", "replay", "--all"]).await, "3 put back\n");
    served.until_received(6).await;
    stop(child).await;
    assert!(served.dead().await.0.is_empty());
    let mut told: Vec<String> = served.bodies().iter().map(Value::to_string).collect();
    told.sort();
    let expected = ["a", "b"].map(|name| USERS.map(|id| json!({"playbook": name, "id": id}).to_string()));
    let mut expected: Vec<String> = expected.into_iter().flatten().collect();
    expected.sort();
    assert_eq!(told, expected, "each once: {}", served.log());
}
