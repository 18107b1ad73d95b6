//! Playbooks on one path with different filters, while their subscriptions are being replaced: each is told what its own filter lets
//! through, and nothing else.

use emulator::TENANT;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Served, USER};

/// Two playbooks on the mail of one user, one of them for what is important.
fn playbooks(changes: &str) -> String {
    let playbook = |name: &str, filter: &str| {
        format!(
            r#"
[[playbook]]
name = "{name}"

  [playbook.source]
  resource = "users/{USER}/messages{filter}"
  change_types = [{changes}]

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
    format!("version = 1\n{}{}", playbook("important", "?$filter=importance eq 'high'"), playbook("all", ""))
}

/// A message comes about; how many subscriptions tell of it.
async fn mail(served: &Served, id: &str, importance: &str) -> usize {
    let message = json!({"subject": id, "importance": importance});
    let told = served.emulator.world().put_message(TENANT, USER, id, message, Timestamp::now());
    served.deliver().await;
    told
}

#[tokio::test]
async fn while_it_is_replaced_a_subscription_tells_those_whose_filter_it_has() {
    let mut served = Served::new(&playbooks(r#""created""#)).await;
    // Nothing is replaced while this looks.
    served.set("SUBSCRIPTION_SCHEDULE", "0 0 0 1 1 *");
    let mut child = served.start().await;
    served.subscribe().await;
    child.kill().await.expect("killed");
    let text = playbooks(r#""created", "updated""#).replace("WEBHOOK", &served.emulator.playbook_url(super::WEBHOOK));
    std::fs::write(served.folder.path().join("playbooks.toml"), text).expect("written");
    let _child = served.start().await;
    assert_eq!(mail(&served, "m1", "normal").await, 1);
    assert_eq!(mail(&served, "m2", "high").await, 2);
    // Each message of its own; one may have had to wait for its turn.
    served.until("all is handled", |_| served.log().matches("\"done\":1,").count() >= 3).await;
    let mut told: Vec<String> = served.bodies().iter().map(Value::to_string).collect();
    told.sort();
    let of = |playbook: &str, id: &str| json!({"playbook": playbook, "id": id}).to_string();
    assert_eq!(told, [of("all", "m1"), of("all", "m2"), of("important", "m2")], "{}", served.log());
}
