//! Encrypted notifications at the real program: what proves itself is opened, and what is forged reaches nobody.

use emulator::TENANT;
use emulator::notifications::{ContentFlaw, TokenFlaw};
use jiff::Timestamp;
use serde_json::json;

use super::{Served, USER};

const MAIL: &str = r#"
version = 1

[[playbook]]
name = "mail"

  [playbook.source]
  resource = "users/3f6c2a10-0000-4000-8000-000000000001/messages?$select=subject"
  change_types = ["created"]
  include_resource_data = true

  [playbook.select]
  string = { subject = "resource.subject" }

  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK"
  allow_private_address = true
  body = "selected"
"#;

/// A message comes about, and the program is told.
async fn mail(served: &Served, id: &str, subject: &str) {
    let message = json!({"subject": subject, "body": {"content": "not selected"}});
    let told = served.emulator.world().put_message(TENANT, USER, id, message, Timestamp::now());
    assert_eq!(told, 1, "one subscription");
    served.deliver().await;
}

#[tokio::test]
async fn an_encrypted_subject_arrives_and_a_forged_one_is_set_aside_with_its_reason() {
    let mut served = Served::new(MAIL).await;
    let certificate = served.folder.path().join("relay.pem");
    std::fs::write(&certificate, include_str!("../../fixtures/rich/2048-pkcs8.txt")).expect("written");
    served.set("ENCRYPTION_CERTIFICATES", &certificate.display().to_string());
    let _child = served.start().await;
    served.subscribe().await;
    mail(&served, "m1", "Invoice 1").await;
    served.until_received(1).await;
    assert_eq!(served.bodies(), [json!({"subject": "Invoice 1"})]);

    let forgeries: [(&str, Option<TokenFlaw>, Option<ContentFlaw>, &str); 10] = [
        ("wrong-key", Some(TokenFlaw::WrongKey), None, "validation token"),
        ("audience", Some(TokenFlaw::Audience), None, "validation token"),
        ("tenant", Some(TokenFlaw::Tenant), None, "validation token"),
        ("tampered", Some(TokenFlaw::Tampered), None, "validation token"),
        ("expired", Some(TokenFlaw::Expired), None, "expired"),
        ("publisher", Some(TokenFlaw::Publisher), None, "Change Tracking"),
        ("no-algorithm", Some(TokenFlaw::NoAlgorithm), None, "malformed"),
        ("symmetric", Some(TokenFlaw::Symmetric), None, "RS256"),
        ("data", None, Some(ContentFlaw::Data), "was changed on its way"),
        ("signature", None, Some(ContentFlaw::Signature), "was changed on its way"),
    ];
    for (count, (id, token, content, _)) in forgeries.iter().enumerate() {
        {
            let mut world = served.emulator.world();
            world.notifications.tokens.flaw = *token;
            world.notifications.content_flaw = *content;
        }
        mail(&served, id, "Forged").await;
        served.until("it is set aside", |_| served.log().matches("notification.dead").count() > count).await;
    }
    {
        let mut world = served.emulator.world();
        world.notifications.tokens.flaw = None;
        world.notifications.content_flaw = None;
    }
    mail(&served, "m2", "Invoice 2").await;
    served.until_received(2).await;
    assert_eq!(served.bodies(), [json!({"subject": "Invoice 1"}), json!({"subject": "Invoice 2"})]);

    let (dead, poison) = served.dead().await;
    assert_eq!((dead.len(), poison), (forgeries.len(), 0), "{dead:#?}");
    for (id, _, _, words) in forgeries {
        let row = dead.iter().find(|row| row["resource"].as_str().is_some_and(|resource| resource.ends_with(id)));
        let reason = row.and_then(|row| row["reason"].as_str()).unwrap_or_default();
        assert!(reason.contains(words) && !reason.contains('\n'), "{id}: {reason}\n{dead:#?}");
    }
    assert!(!served.log().contains("Invoice") && !served.log().contains("Forged"), "logs hold no content");
}
