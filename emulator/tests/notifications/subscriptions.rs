//! Sections 1, 3 and 4 of the reference: handshakes, subscriptions and what is refused.

use std::time::Duration;

use emulator::Service;
use emulator::faults::Effect;
use emulator::notifications::TooFar;
use serde_json::{Value, json};

use crate::receiver::Manner;
use crate::rig::{Rig, message};

#[tokio::test(flavor = "multi_thread")]
async fn both_urls_are_asked_and_the_granted_expiry_comes_back() {
    let rig = Rig::new().await;
    rig.emulator.world().notifications.handshake_text = Some("a+b c:%41/é".to_owned());
    let wanted = rig.wanted("users", "updated,deleted", 30);
    let (status, made, _) = rig.graph("POST", "subscriptions", &wanted).await;
    assert_eq!((status, &made["clientState"], &made["changeType"]), (201, &json!("state"), &json!("updated,deleted")));
    assert_eq!(made["expirationDateTime"], "2026-11-24T09:45:00.0000000Z", "raised to 45 minutes");
    let seen = rig.receiver.seen();
    let targets: Vec<&str> = seen.iter().map(|seen| seen.target.as_str()).collect();
    assert_eq!(
        targets,
        ["/n?code=k%3d1&validationToken=a%2bb+c%3a%2541%2f%c3%a9", "/l?validationToken=a%2bb+c%3a%2541%2f%c3%a9"]
    );
    assert!(seen.iter().all(|seen| seen.method == "POST" && seen.body.is_empty() && seen.content_type.starts_with("text/plain")));
    // One URL for both is asked twice.
    let mut both = rig.wanted("groups", "updated", 60);
    both["lifecycleNotificationUrl"] = both["notificationUrl"].clone();
    assert_eq!(rig.graph("POST", "subscriptions", &both).await.0, 201);
    assert_eq!(rig.receiver.seen().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answers_wrongly_gets_no_subscription() {
    let rig = Rig::new().await;
    let wanted = rig.wanted("users", "updated", 60);
    let patience = rig.emulator.world().notifications.limits.handshake;
    for (manner, text) in [
        (Manner::Hang, "Subscription validation request timed out."),
        (Manner::Status(403), "HTTP status code is 'Forbidden'"),
        (Manner::Status(404), "HTTP status code is 'NotFound'"),
        (Manner::Status(202), "must respond with 200 OK"),
        (Manner::Typed("application/json"), "text/plain"),
        (Manner::Text("\"quoted\""), "exactly match"),
    ] {
        rig.receiver.set(manner.clone());
        // Nobody waits for what never comes, and everybody for what does.
        let limit = if manner == Manner::Hang { Duration::from_millis(200) } else { patience };
        rig.emulator.world().notifications.limits.handshake = limit;
        let answer = rig.graph("POST", "subscriptions", &wanted).await;
        let (status, message) = message(&answer);
        assert!(status == 400 && message.contains(text), "{manner:?}: {message}");
    }
    assert!(rig.emulator.world().notifications.subscriptions(rig.now()).is_empty());
    assert!(rig.emulator.world().notifications.handshakes.iter().all(|handshake| !handshake.good));
    let mut far = wanted;
    far["notificationUrl"] = json!("https://relay.example/api/notifications");
    let answer = rig.graph("POST", "subscriptions", &far).await;
    assert!(message(&answer).1.contains("timed out"), "nobody is asked outside this machine");
    far["notificationUrl"] = json!("http://relay.example/api/notifications");
    assert_eq!(rig.graph("POST", "subscriptions", &far).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_tables_do_not_allow_is_refused() {
    let rig = Rig::new().await;
    let certificate = json!({"includeResourceData": true});
    let with = |mut wanted: Value, more: Value| {
        wanted.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        wanted
    };
    let cases = [
        (rig.wanted("users", "created", 60), 400, "changeType 'created' is not supported"),
        (rig.wanted("users/u/drive/root", "updated,deleted", 60), 400, "'deleted' is not supported"),
        (rig.wanted("security/alerts_v2", "updated", 60), 400, "not supported for change notifications"),
        (rig.wanted("security/alerts", "updated", 60), 400, "Forbidden"),
        (rig.wanted("users/u/messages?$filter=a", "created", 60), 400, "Invalid filter clause"),
        (rig.wanted("users/u/messages", "created", 10_071), 400, "can only be 10070 minutes in the future"),
        (rig.wanted("chats/c/messages", "created", 4_321), 400, "beyond allowed max '3.00:00:00'"),
        (rig.wanted("users", "updated", 41_761), 400, "can only be 41760 minutes in the future"),
        (with(rig.wanted("users", "updated", 60), certificate.clone()), 400, "not enabled for rich notifications"),
        (with(rig.wanted("users/u/messages", "created", 60), certificate.clone()), 400, "$select is required"),
        (with(rig.wanted("users/u/messages?$select=body", "created", 60), certificate.clone()), 400, "cannot be selected"),
        (with(rig.wanted("users/u/messages?$select=id", "created", 60), certificate), 400, "encryptionCertificate"),
        (with(rig.wanted("users", "updated", 60), json!({"clientState": "x".repeat(129)})), 400, "128"),
        (with(rig.wanted("users", "updated", 60), json!({"encryptionCertificate": "bm8="})), 400, "not a DER certificate"),
        (with(rig.wanted("users", "updated", 60), json!({"vapidPublicKey": null})), 400, "browser push"),
        (with(rig.wanted("users", "updated", 60), json!({"colour": "red"})), 400, "does not exist"),
        (
            with(rig.wanted("chats/c/messages", "created", 61), json!({"lifecycleNotificationUrl": null})),
            400,
            "lifecycleNotificationUrl is a required",
        ),
        (rig.wanted("communications/presences/p", "updated", 60), 403, "signed-in user"),
    ];
    for (wanted, status, text) in cases {
        let answer = rig.graph("POST", "subscriptions", &wanted).await;
        assert!(answer.0 == status && message(&answer).1.contains(text), "{wanted}: {answer:?}");
    }
    assert!(rig.receiver.seen().is_empty(), "nobody is asked for what is refused");
    // A pair that never comes is taken on the old alerts, without a word.
    assert_eq!(rig.graph("POST", "subscriptions", &rig.wanted("security/alerts/a", "created", 60)).await.0, 201);
    let short = with(rig.wanted("chats/c/messages", "created", 60), json!({"lifecycleNotificationUrl": null}));
    assert_eq!(rig.graph("POST", "subscriptions", &short).await.0, 201, "an hour needs no lifecycle URL");
    {
        let mut world = rig.emulator.world();
        world.notifications.too_far = TooFar::Lowered;
        world.notifications.granted_at_most = Some(5_000);
        world.apps[0].roles.retain(|role| role != "Group.Read.All");
    }
    let (_, made, _) = rig.graph("POST", "subscriptions", &rig.wanted("users", "updated", 50_000)).await;
    assert_eq!(made["expirationDateTime"], "2026-11-27T20:20:00.0000000Z");
    assert_eq!(rig.graph("POST", "subscriptions", &rig.wanted("groups", "updated", 60)).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_is_a_conflict_that_names_the_other() {
    let rig = Rig::new().await;
    let id = rig.subscribe("users", "updated,deleted", 60).await;
    let answer = rig.graph("POST", "subscriptions", &rig.wanted("/Users", "deleted,updated", 60)).await;
    let (status, text) = message(&answer);
    assert!(status == 409 && text.contains(&id) && text.contains("already exists for the requested combination"), "{text}");
    assert_eq!(rig.graph("POST", "subscriptions", &rig.wanted("users", "updated", 60)).await.0, 201, "other changes");
    for _ in 0..2 {
        rig.subscribe("sites/s/lists/l", "updated", 60).await;
    }
    rig.advance(60 * 60);
    let mut rig = rig;
    rig.sign_in().await;
    assert_eq!(rig.graph("POST", "subscriptions", &rig.wanted("users", "updated,deleted", 60)).await.0, 201, "it has ended");
    for i in 2..100 {
        rig.subscribe(&format!("groups/g{i}"), "updated", 60).await;
    }
    rig.subscribe("groups/g100", "updated", 60).await;
    assert_eq!(rig.graph("POST", "subscriptions", &rig.wanted("groups/g101", "updated", 60)).await.0, 403, "a hundred each");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_withhold_the_client_state_and_are_paged_and_limited() {
    let rig = Rig::new().await;
    let mut ids = Vec::new();
    for i in 0..5 {
        ids.push(rig.subscribe(&format!("users/u{i}"), "updated", 60).await);
    }
    rig.emulator.world().notifications.page = 2;
    let mut next = "subscriptions".to_owned();
    let mut found = Vec::new();
    loop {
        let (status, page, _) = rig.get(&next).await;
        assert_eq!(status, 200);
        let rows = page["value"].as_array().expect("rows");
        assert!(rows.iter().all(|row| row["clientState"].is_null()));
        found.extend(rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()));
        let Some(link) = page["@odata.nextLink"].as_str() else { break };
        next = link.to_owned();
    }
    assert_eq!(found, ids);
    let (_, one, _) = rig.get(&format!("subscriptions/{}", ids[0])).await;
    assert_eq!(one["clientState"], "state");
    assert_eq!(rig.get("subscriptions?$top=1").await.0, 400);
    for _ in 4..25 {
        assert_eq!(rig.get("subscriptions").await.0, 200);
    }
    let (status, _, wait) = rig.get("subscriptions").await;
    assert_eq!((status, wait.as_deref()), (429, Some("20")), "25 lists in 20 s");
    rig.advance(20);
    assert_eq!(rig.get("subscriptions").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_renewed_moved_reauthorized_and_ends() {
    let rig = Rig::new().await;
    let id = rig.subscribe("users", "updated", 60).await;
    let path = format!("subscriptions/{id}");
    let (status, changed, _) = rig.graph("PATCH", &path, &json!({"expirationDateTime": rig.minutes(120)})).await;
    assert_eq!((status, &changed["expirationDateTime"]), (200, &json!("2026-11-24T11:00:00.0000000Z")));
    for wrong in [
        json!({}),
        json!({"clientState": "x"}),
        json!({"changeType": "deleted"}),
        json!({"lifecycleNotificationUrl": "https://x"}),
        json!({"expirationDateTime": rig.minutes(50_000)}),
    ] {
        assert_eq!(rig.graph("PATCH", &path, &wrong).await.0, 400, "{wrong}");
    }
    rig.receiver.set(Manner::Status(500));
    let moved = json!({"notificationUrl": rig.receiver.url("/elsewhere")});
    assert_eq!(rig.graph("PATCH", &path, &moved).await.0, 400, "a new URL is asked");
    rig.receiver.set(Manner::Good);
    assert_eq!(rig.graph("PATCH", &path, &moved).await.1["notificationUrl"], moved["notificationUrl"]);
    // Two calls that belong 10 minutes apart.
    let (status, body, _) = rig.graph("POST", &format!("{path}/reauthorize"), &Value::Null).await;
    assert_eq!((status, body), (204, json!("")));
    assert_eq!(rig.emulator.world().notifications.too_close.as_slice(), std::slice::from_ref(&id));
    rig.advance(600);
    assert_eq!(rig.graph("PATCH", &path, &json!({"expirationDateTime": rig.minutes(60)})).await.0, 200);
    assert_eq!(rig.emulator.world().notifications.too_close.len(), 1);
    rig.emulator.world().apps[0].roles.retain(|role| role != "Files.ReadWrite.All");
    let drive = rig.subscribe("drives/d/root", "updated", 60).await;
    let renew = json!({"expirationDateTime": rig.minutes(60)});
    assert_eq!(rig.graph("PATCH", &format!("subscriptions/{drive}"), &renew).await.0, 403, "renewing needs more");
    rig.advance(3_599);
    assert_eq!(rig.get(&path).await.0, 401, "the token has ended");
    let mut rig = rig;
    rig.sign_in().await;
    assert_eq!(rig.get(&path).await.0, 200);
    rig.advance(1);
    for (method, target) in
        [("GET", path.clone()), ("PATCH", path.clone()), ("DELETE", path.clone()), ("POST", format!("{path}/reauthorize"))]
    {
        assert_eq!(rig.graph(method, &target, &renew).await.0, 404, "{method}");
    }
    let id = rig.subscribe("users", "updated", 60).await;
    assert_eq!(rig.graph("DELETE", &format!("subscriptions/{id}"), &Value::Null).await.0, 204);
    assert_eq!(rig.graph("DELETE", &format!("subscriptions/{id}"), &Value::Null).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_can_be_lost_and_a_notification_can_be_first() {
    let rig = Rig::new().await;
    rig.emulator.world().notifications.eager = true;
    rig.subscribe("users/u/messages", "created", 60).await;
    assert_eq!(rig.receiver.items().len(), 1, "it came before the answer");
    rig.emulator.world().faults.nth(
        Service::Graph,
        1,
        Effect::Status { status: 503, body: "<html>".to_owned(), retry_after: None },
    );
    let (status, body, _) = rig.graph("POST", "subscriptions", &rig.wanted("users", "updated", 60)).await;
    assert_eq!((status, body), (503, json!("<html>")));
    assert_eq!(rig.emulator.world().notifications.subscriptions(rig.now()).len(), 1);
}
