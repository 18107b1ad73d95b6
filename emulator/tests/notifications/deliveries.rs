//! Section 2 of the reference, and the events of section 4: what is delivered, when, how often, and what is lost.

use std::time::Duration;

use emulator::TENANT;
use emulator::notifications::{Change, Changed, Health, Lifecycle, Outcome};
use serde_json::{Value, json};

use crate::receiver::Manner;
use crate::rig::{Rig, SLACK};

fn changes(items: &[Value]) -> Vec<(&str, &str)> {
    items.iter().map(|item| (item["changeType"].as_str().unwrap_or("-"), item["resource"].as_str().unwrap_or("-"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_become_items_of_the_subscriptions_that_are_about_them() {
    let rig = Rig::new().await;
    let id = rig.subscribe("users", "updated,deleted", 60).await;
    rig.subscribe("users/u1/mailFolders('inbox')/messages", "created,updated,deleted", 60).await;
    rig.subscribe("users/u1/drive/root", "updated", 60).await;
    {
        let (mut world, now) = (rig.emulator.world(), rig.now());
        world.add_drive(TENANT, "d1", Some("u1"));
        assert_eq!(world.put_user(TENANT, "u1", json!({"userPrincipalName": "u1@a.example"}), now), 1);
        assert_eq!(world.put_message(TENANT, "u1", "m1", json!({"subject": "s"}), now), 1);
        assert_eq!(world.put_message(TENANT, "u2", "m1", json!({"subject": "s"}), now), 0);
        assert_eq!(world.put_message(TENANT, "u1", "m2", json!({"parentFolderId": "archive"}), now), 0);
        let moved = world.move_message(TENANT, "u1", "m1", "archive", now).expect("a new id");
        assert_ne!(moved, "m1");
        assert_eq!(world.put_drive_item(TENANT, "d1", "i1", json!({"name": "n"}), now), 1);
        assert_eq!(world.put_user("another tenant", "u9", json!({}), now), 0);
        world.delete_user(TENANT, "u1", now);
        world.purge_user(TENANT, "u1", now);
    }
    let sent = rig.emulator.deliver_due().await;
    assert_eq!((sent.len(), sent[0].items, sent[0].status, sent[0].attempt), (1, 6, Some(202), 1), "one batch");
    let items = rig.receiver.items();
    let mut seen = changes(&items);
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("created", "Users/u1/Messages/m1"),
            ("deleted", "Users/u1"),
            ("deleted", "Users/u1/Messages/m1"),
            ("updated", "Users/u1"),
            ("updated", "Users/u1"),
            ("updated", "users/u1/drive/root"),
        ]
    );
    let of = |resource: &str| items.iter().find(|item| item["resource"] == resource).expect("an item");
    let user = of("Users/u1");
    assert_eq!((&user["subscriptionId"], &user["tenantId"], &user["clientState"]), (&json!(id), &json!(TENANT), &json!("state")));
    assert_eq!(user["subscriptionExpirationDateTime"], "2026-11-24T10:00:00.0000000+00:00");
    let data = &user["resourceData"];
    assert_eq!((&data["@odata.type"], &data["organizationId"]), (&json!("#Microsoft.Graph.User"), &json!(TENANT)));
    assert!(data["sequenceNumber"].as_u64().is_some_and(|number| number > 1 << 53) && data["eventTime"].is_string());
    assert!(of("Users/u1/Messages/m1")["resourceData"]["@odata.etag"].is_string());
    assert_eq!(of("users/u1/drive/root")["resourceData"], json!({"@odata.type": "#Microsoft.Graph.DriveItem"}));
    assert!(rig.receiver.seen().iter().filter(|seen| !seen.body.is_empty()).all(|seen| seen.target == "/n?code=k%3d1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_a_filter_is_deleted_and_what_enters_it_created() {
    let rig = Rig::new().await;
    rig.subscribe("users/u/messages?$filter=isRead eq false", "created,updated,deleted", 60).await;
    for read in [false, false, true, true, false] {
        let now = rig.now();
        rig.emulator.world().put_message(TENANT, "u", "m", json!({"isRead": read}), now);
    }
    rig.deliver_all().await;
    let items = rig.receiver.items();
    assert_eq!(
        changes(&items).iter().map(|(changed, _)| *changed).collect::<Vec<_>>(),
        ["created", "updated", "deleted", "created"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_accepted_is_tried_for_four_hours_with_growing_pauses() {
    let rig = Rig::new().await;
    let id = rig.subscribe("users/u/messages", "created", 600).await;
    rig.receiver.set(Manner::Status(503));
    let start = rig.now();
    rig.emulator.world().put_message(TENANT, "u", "m", json!({}), start);
    let mut pauses = Vec::new();
    loop {
        let sent = rig.emulator.deliver_due().await;
        let Outcome::Retry(due) = sent[0].outcome else { break };
        pauses.push(due.duration_since(rig.now()).as_secs());
        rig.clock.advance_to(due);
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_120]);
    assert!(rig.now().duration_since(start).as_hours() < 4);
    rig.receiver.set(Manner::Good);
    rig.deliver_all().await;
    let last = rig.receiver.items().pop().expect("an item");
    assert_eq!(
        (&last["lifecycleEvent"], &last["subscriptionId"]),
        (&json!("missed"), &json!(id)),
        "Outlook says that it lost something"
    );
    assert_eq!(rig.emulator.world().notifications.lost.len(), 1);
    // Any 2xx accepts, and the body is the same at each try.
    rig.receiver.set(Manner::Status(404));
    let now = rig.now();
    rig.emulator.world().put_message(TENANT, "u", "m2", json!({}), now);
    rig.emulator.deliver_due().await;
    rig.receiver.set(Manner::Status(201));
    assert_eq!(rig.deliver_all().await, 1);
    let bodies = rig.receiver.bodies();
    assert_eq!(bodies[bodies.len() - 1], bodies[bodies.len() - 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_answers_hold_a_host_back_and_slower_ones_lose_everything() {
    let rig = Rig::new().await;
    rig.subscribe("users/u/messages", "created", 600).await;
    let message = |id: &str| rig.emulator.world().put_message(TENANT, "u", id, json!({}), rig.now());
    let host = rig.receiver.host();
    let health = || rig.emulator.world().notifications.health(&host);
    let limits = rig.emulator.world().notifications.limits;
    assert_eq!((limits.first, limits.retry), (Duration::from_secs(3) * SLACK, Duration::from_secs(10) * SLACK));
    rig.emulator.world().notifications.network = Duration::from_secs(4) * SLACK;
    message("m1");
    let sent = rig.emulator.deliver_due().await;
    assert_eq!((sent[0].status, rig.receiver.items().len()), (None, 1), "it came, but the answer was late");
    let Health::Slow { until } = health() else { panic!("{:?}", health()) };
    assert_eq!(until.duration_since(rig.now()).as_mins(), 10);
    rig.emulator.world().notifications.network = Duration::ZERO;
    message("m2");
    rig.advance(10);
    assert_eq!(rig.emulator.deliver_due().await.len(), 1, "the retry goes on, within 10 s");
    rig.advance(589);
    assert!(rig.emulator.deliver_due().await.is_empty(), "what is new waits for 10 minutes");
    rig.advance(1);
    assert_eq!(rig.emulator.deliver_due().await.len(), 1);
    assert_eq!(health(), Health::Good);
    rig.emulator.world().notifications.network = Duration::from_secs(11) * SLACK;
    message("m3");
    rig.emulator.deliver_due().await;
    rig.advance(10);
    rig.emulator.deliver_due().await;
    assert!(matches!(health(), Health::Dropping { .. }));
    message("m4");
    let lost: Vec<&str> = rig.emulator.world().notifications.lost.iter().map(|(_, why)| *why).collect();
    assert_eq!(lost, ["dropped"]);
    rig.emulator.world().notifications.network = Duration::ZERO;
    rig.advance(600);
    message("m5");
    rig.deliver_all().await;
    assert_eq!(health(), Health::Good);
    let items = rig.receiver.items();
    assert!(
        items.iter().any(|item| item["resource"] == "Users/u/Messages/m5")
            && items.iter().all(|item| item["resource"] != "Users/u/Messages/m4")
    );
    assert!(items.iter().any(|item| item["lifecycleEvent"] == "missed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_hangs_is_left_after_the_limit() {
    let rig = Rig::new().await;
    rig.subscribe("users", "updated", 600).await;
    rig.emulator.world().notifications.limits.first = Duration::from_millis(100);
    rig.receiver.set(Manner::Hang);
    let now = rig.now();
    let is_settled = || rig.emulator.world().notifications.is_settled();
    assert!(is_settled());
    rig.emulator.world().put_user(TENANT, "u", json!({}), now);
    let mut sending = std::pin::pin!(rig.emulator.deliver_due());
    let sent = loop {
        assert!(!is_settled(), "also while it is under way");
        tokio::select! {
            sent = &mut sending => break sent,
            () = tokio::task::yield_now() => {}
        }
    };
    assert!(sent[0].status.is_none() && matches!(sent[0].outcome, Outcome::Retry(_)));
    rig.receiver.set(Manner::Good);
    assert!(!is_settled());
    rig.deliver_all().await;
    assert!(is_settled());
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_double_lose_and_shuffle() {
    let rig = Rig::new().await;
    rig.subscribe("users/u/messages", "created", 600).await;
    {
        let mut world = rig.emulator.world();
        let now = rig.now();
        world.notifications.doubled_permille = 1_000;
        world.notifications.shuffled = true;
        world.notifications.batch = 4;
        world.notifications.parallel = 3;
        for i in 0..20 {
            world.put_message(TENANT, "u", &format!("m{i:02}"), json!({}), now);
        }
        world.notifications.doubled_permille = 0;
        world.notifications.lost_permille = 1_000;
        world.put_message(TENANT, "u", "lost", json!({}), now);
        world.put_message(TENANT, "u", "lost too", json!({}), now);
    }
    assert_eq!(rig.emulator.deliver_due().await.len(), 6, "five batches of four, and one lifecycle event");
    rig.deliver_all().await;
    let items = rig.receiver.items();
    let missed = items.iter().filter(|item| item["lifecycleEvent"] == "missed").count();
    let mut ids: Vec<&str> = items.iter().filter_map(|item| item["resourceData"]["id"].as_str()).collect();
    assert_eq!((missed, ids.len()), (1, 40));
    assert!(!ids.is_sorted(), "{ids:?}");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    assert_eq!(rig.emulator.world().notifications.delivered_items().len(), 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn lifecycle_events_go_to_their_own_url() {
    let rig = Rig::new().await;
    let id = rig.subscribe("users/u/messages", "created", 60).await;
    let mut quiet = rig.wanted("groups", "updated", 60);
    quiet["lifecycleNotificationUrl"] = Value::Null;
    let (_, quiet, _) = rig.graph("POST", "subscriptions", &quiet).await;
    let now = rig.now();
    {
        let mut world = rig.emulator.world();
        assert!(world.raise_lifecycle(&id, Lifecycle::Missed, now));
        assert!(!world.raise_lifecycle(quiet["id"].as_str().expect("an id"), Lifecycle::Missed, now), "it has no such URL");
        assert!(world.pause_subscription(&id, now));
        world.put_message(TENANT, "u", "m", json!({}), now);
    }
    rig.emulator.deliver_due().await;
    let seen: Vec<String> =
        rig.receiver.seen().into_iter().filter(|seen| !seen.body.is_empty()).map(|seen| seen.target).collect();
    assert_eq!(seen, ["/l"], "both in one delivery; the change waits");
    let items = rig.receiver.items();
    assert_eq!(
        items[1],
        json!({"subscriptionId": id, "subscriptionExpirationDateTime": "2026-11-24T10:00:00.0000000+00:00", "clientState": "state",
            "lifecycleEvent": "reauthorizationRequired", "organizationId": TENANT})
    );
    assert_eq!(rig.graph("POST", &format!("subscriptions/{id}/reauthorize"), &Value::Null).await.0, 204);
    rig.emulator.deliver_due().await;
    assert_eq!(rig.receiver.items().len(), 3, "it goes on");
    assert!(rig.emulator.world().remove_subscription(&id, now));
    rig.emulator.deliver_due().await;
    assert_eq!(rig.receiver.items()[3]["lifecycleEvent"], "subscriptionRemoved");
    assert_eq!(rig.get(&format!("subscriptions/{id}")).await.0, 404);
    // Near the end it is asked every 15 minutes.
    rig.subscribe("users/u/events", "created", 120).await;
    rig.emulator.world().notifications.challenges = true;
    let mut asked = 0;
    for _ in 0..24 {
        asked += rig.emulator.deliver_due().await.len();
        rig.advance(300);
    }
    assert_eq!(asked, 4, "in its last hour; the quiet one has no URL");
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_can_be_sent_by_hand() {
    let rig = Rig::new().await;
    let id = rig.subscribe("chats/getAllMessages", "created", 60).await;
    let now = rig.now();
    {
        let mut world = rig.emulator.world();
        let url = rig.receiver.url("/raw");
        world.raise_body(&url, "not JSON", now);
        world.raise_item(&url, json!("no object"), now);
        assert_eq!(world.raise(&Change::new(TENANT, "chats/c/messages/m", Changed::Created), now), 1);
        assert_eq!(world.raise(&Change::new(TENANT, "chats/c/messages/m", Changed::Updated), now), 0);
        world.notifications.alter = Some(|item| {
            if let Some(changed) = item.as_object_mut().and_then(|item| item.remove("changeType")) {
                item["ChangeType"] = json!(changed.as_str().unwrap_or_default().to_uppercase());
            }
        });
    }
    rig.emulator.deliver_due().await;
    let seen: Vec<String> = rig.receiver.seen().into_iter().map(|seen| seen.body).filter(|body| !body.is_empty()).collect();
    assert_eq!(seen[0], "not JSON");
    assert!(seen.iter().any(|body| body == r#"{"value":["no object"]}"#));
    let chat = rig.receiver.items().into_iter().find(|item| item["subscriptionId"] == id.as_str()).expect("an item");
    assert_eq!(chat["ChangeType"], "CREATED");
    rig.graph("DELETE", &format!("subscriptions/{id}"), &Value::Null).await;
    let now = rig.now();
    rig.emulator.world().raise(&Change::new(TENANT, "chats/c/messages/m", Changed::Created), now);
    assert!(rig.emulator.deliver_due().await.is_empty(), "nobody is told any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_change_the_world_through_the_plain_door() {
    let mut rig = Rig::new().await;
    rig.subscribe("users", "updated", 60).await;
    rig.emulator.deliver_always();
    let door = rig.emulator.control_url().to_owned();
    let user = json!({"tenant": TENANT, "path": "users/u1", "object": {"displayName": "Ann"}});
    let (status, told, _) = rig.send("POST", &format!("{door}/objects"), &[], &user.to_string()).await;
    assert_eq!((status, &told["told"]), (200, &json!(1)));
    // It is sent by itself, within a second.
    while rig.receiver.items().is_empty() {
        tokio::task::yield_now().await;
    }
    let (_, subscription, _) = rig.send("GET", &format!("{door}/subscriptions"), &[], "").await;
    assert_eq!(subscription["resource"], "users");
    assert_eq!(rig.send("POST", &format!("{door}/playbooks/u-1"), &[], "").await.0, 200);
    assert_eq!(rig.send("POST", &rig.emulator.playbook_url("u-1"), &[], "{}").await.0, 200);
    assert_eq!(rig.send("GET", &format!("{door}/nothing"), &[], "").await.0, 404);
}
