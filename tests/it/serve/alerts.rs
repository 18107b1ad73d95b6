//! Alerts, which nobody can subscribe to: polled by the real program, and written to ThreatConnect.

use emulator::{Service, TENANT};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Served;

const ALERTS: &str = r#"
version = 1

[[playbook]]
name = "alerts"

  [playbook.source]
  kind = "poll"
  resource = "security/alerts_v2"
  change_types = ["created", "updated"]

  [playbook.select]
  string = { change = "notification.changeType", title = "resource.title", status = "resource.status" }
  string_array = { ips = "resource.evidence[].ipAddress" }

  [[playbook.action]]
  kind = "threatconnect_indicator"
  owner = "Acme Org"
  type = "Address"
  values = "ips"
  rating = 4
  tags = ["Microsoft Defender"]

  [[playbook.action]]
  kind = "threatconnect_case"
  name = "{title}"
  severity = "High"
  artifacts = [{ type = "IP Address", values = "ips" }]

  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK"
  allow_private_address = true
  body = "selected"
"#;

fn alert(status: &str, addresses: &[&str]) -> Value {
    let evidence: Vec<Value> = addresses.iter().map(|ip| json!({"ipAddress": ip, "verdict": "malicious"})).collect();
    json!({"title": "Beacon", "severity": "high", "status": status, "evidence": evidence})
}

#[tokio::test]
async fn an_alert_is_told_once_when_it_is_new_and_once_when_it_changes_and_has_one_case() {
    let mut served = Served::new(ALERTS).await;
    served.emulator.world().add_owner("Acme Org");
    served.set("ALERT_POLL_SCHEDULE", "*/1 * * * * *");
    let put = |status, addresses: &[&str]| {
        served.emulator.world().put_alert(TENANT, "a1", alert(status, addresses), Timestamp::now());
    };
    put("new", &["198.51.100.7", "203.0.113.9"]);
    let _child = served.start().await;
    served.until_received(1).await;
    put("inProgress", &["198.51.100.7", "203.0.113.9", "192.0.2.44"]);
    served.until_received(2).await;
    // Two more polls see nothing new.
    let polls = |emulator: &emulator::Emulator| {
        let world = emulator.world();
        world.log.iter().filter(|logged| logged.service == Service::Graph && logged.target.contains("alerts_v2")).count()
    };
    let so_far = polls(&served.emulator);
    served.until("two more polls", |emulator| polls(emulator) >= so_far + 3).await;

    let told: Vec<(Value, Value)> = served.bodies().iter().map(|body| (body["change"].clone(), body["status"].clone())).collect();
    assert_eq!(told, [(json!("created"), json!("new")), (json!("updated"), json!("inProgress"))]);
    let world = served.emulator.world();
    let mut addresses: Vec<(String, String, Option<f64>)> =
        world.indicators().map(|one| (one.owner.clone(), one.summary(), one.rating)).collect();
    addresses.sort_by(|one, other| one.1.cmp(&other.1));
    let expected = ["192.0.2.44", "198.51.100.7", "203.0.113.9"].map(|ip| ("Acme Org".to_owned(), ip.to_owned(), Some(4.0)));
    assert_eq!(addresses, expected);
    let cases: Vec<&str> = world.cases.cases.values().filter_map(|case| case.members["name"].as_str()).collect();
    assert_eq!(cases, ["Beacon"], "one case, told of twice");
    let mut artifacts: Vec<&str> = world.cases.artifacts.values().map(|artifact| artifact.summary.as_str()).collect();
    artifacts.sort_unstable();
    assert_eq!(artifacts, ["192.0.2.44", "198.51.100.7", "203.0.113.9"]);
}
