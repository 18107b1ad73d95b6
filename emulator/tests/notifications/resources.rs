//! What a client reads after it was told: objects, deltas, and the alerts that it must poll.

use std::time::Duration;

use emulator::TENANT;
use serde_json::{Value, json};

use crate::rig::{Rig, message};

fn ids(page: &Value) -> Vec<&str> {
    page["value"].as_array().expect("rows").iter().map(|row| row["id"].as_str().expect("an id")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_read_by_their_path_however_it_is_written() {
    let rig = Rig::new().await;
    {
        let (mut world, now) = (rig.emulator.world(), rig.now());
        world.put_user(TENANT, "u1", json!({"userPrincipalName": "Ann@a.example", "accountEnabled": true}), now);
        world.put_group(TENANT, "g1", json!({"displayName": "Admins"}), now);
        world.put_message(TENANT, "u1", "AAMk=+-_x", json!({"subject": "s"}), now);
    }
    for path in ["users/u1", "users('u1')", "users/ann%40A.example", "Users/U1"] {
        let (status, user, _) = rig.get(path).await;
        assert_eq!((status, &user["id"]), (200, &json!("u1")), "{path}");
    }
    let (_, user, _) = rig.get("users/u1?$select=id,accountEnabled").await;
    assert_eq!((&user["accountEnabled"], &user["userPrincipalName"]), (&json!(true), &Value::Null));
    for id in ["AAMk=+-_x", "AAMk%3D%2B-_x"] {
        assert_eq!(rig.get(&format!("users/u1/messages/{id}")).await.1["subject"], "s", "{id}");
    }
    assert_eq!(rig.get("groups/g1").await.1["displayName"], "Admins");
    assert_eq!(message(&rig.get("groups/none").await).0, 404);
    let (status, body, _) = rig.get("users/none").await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("Request_ResourceNotFound")));
    let (status, body, _) = rig.get("users/u1/messages/none").await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("ErrorItemNotFound")));
    rig.emulator.world().apps[0].roles.retain(|role| role != "Mail.Read");
    assert_eq!(rig.get("users/u1/messages/none").await.0, 403);
    assert_eq!(rig.graph("POST", "users/u1", &json!({})).await.0, 405);
    assert_eq!(rig.get("users//u1").await.0, 400);
    let now = rig.now();
    {
        let mut world = rig.emulator.world();
        world.delete_user(TENANT, "u1", now);
        world.resources.visible_after = Duration::from_secs(5);
        world.put_user(TENANT, "u2", json!({}), now);
    }
    assert_eq!(rig.get("users/u1").await.0, 404);
    assert_eq!(rig.get("users/u2").await.0, 404, "it is new");
    rig.advance(5);
    assert_eq!(rig.get("users/u2").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_tells_what_changed_since_the_last_one() {
    let rig = Rig::new().await;
    let now = rig.now();
    {
        let mut world = rig.emulator.world();
        world.add_drive(TENANT, "d1", Some("u1"));
        world.resources.page = 2;
        for i in 0..5 {
            world.put_drive_item(TENANT, "d1", &format!("i{i}"), json!({"name": i}), now);
        }
        world.delete_drive_item(TENANT, "d1", "i0", now);
    }
    let walk = async |start: &str| {
        let (mut next, mut found) = (start.to_owned(), Vec::new());
        loop {
            let (status, page, _) = rig.get(&next).await;
            assert_eq!(status, 200, "{page}");
            found.extend(page["value"].as_array().expect("rows").clone());
            match page["@odata.nextLink"].as_str() {
                Some(link) => next = link.to_owned(),
                None => return (found, page["@odata.deltaLink"].as_str().expect("a link").to_owned()),
            }
        }
    };
    let (found, link) = walk("users/u1/drive/root/delta").await;
    assert_eq!(found.iter().map(|item| item["id"].as_str().expect("an id")).collect::<Vec<_>>(), ["i1", "i2", "i3", "i4"]);
    let (found, link) = walk(&link).await;
    assert!(found.is_empty());
    let (_, latest) = walk("drives/d1/root/delta?token=latest").await;
    {
        let mut world = rig.emulator.world();
        world.put_drive_item(TENANT, "d1", "i2", json!({"name": "new"}), now);
        world.delete_drive_item(TENANT, "d1", "i3", now);
    }
    for link in [&link, &latest] {
        let (found, _) = walk(link).await;
        assert_eq!(found, [json!({"id": "i2", "name": "new"}), json!({"id": "i3", "deleted": {"state": "deleted"}})]);
    }
    rig.emulator.world().resources.forget_deltas();
    let (status, body, _) = rig.get(&link).await;
    assert_eq!((status, &body["error"]["code"]), (410, &json!("resyncRequired")));
    assert_eq!(walk("drives/d1/root/delta").await.0.len(), 3);
    assert_eq!(rig.get("drives/d1/root/delta?token=x").await.0, 400);
    // A folder's messages have one, a mailbox's do not; lists of SharePoint do.
    rig.subscribe("sites/s/lists/l", "updated", 60).await;
    {
        let mut world = rig.emulator.world();
        world.put_message(TENANT, "u1", "m1", json!({}), now);
        world.put_message(TENANT, "u1", "m2", json!({"parentFolderId": "archive"}), now);
        assert_eq!(world.put(TENANT, "sites/s/lists/l/items/1", json!({"webUrl": "u"}), now), 1);
    }
    let (found, _) = walk("users/u1/mailFolders/inbox/messages/delta").await;
    assert_eq!((found.len(), &found[0]["id"]), (1, &json!("m1")));
    assert_eq!(rig.get("users/u1/messages/delta").await.0, 400);
    assert_eq!(ids(&rig.get("users/u1/messages").await.1).len(), 2);
    assert_eq!(walk("sites/s/lists/l/items/delta").await.0.len(), 1);
    // The directory has it, too, with links of its own.
    rig.emulator.world().put_user(TENANT, "u1", json!({}), now);
    let (found, link) = walk("users/delta").await;
    assert!(found.len() == 1 && link.contains("$deltatoken"));
    rig.emulator.world().purge_user(TENANT, "u1", now);
    assert_eq!(walk(&link).await.0, [json!({"id": "u1", "@removed": {"reason": "deleted"}})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_incidents_are_polled() {
    let rig = Rig::new().await;
    for i in 0..6 {
        let now = rig.now();
        let severity = if i % 2 == 0 { "high" } else { "low" };
        rig.emulator.world().put_alert(TENANT, &format!("a{i}"), json!({"severity": severity, "title": "t"}), now);
        rig.advance(60);
    }
    let now = rig.now();
    rig.emulator.world().put_incident(TENANT, "1", json!({"severity": "high"}), now);
    let asked = async |query: &str| rig.get(&format!("security/alerts_v2?{query}")).await;
    let (status, page, _) = asked("$filter=severity%20eq%20'high'%20and%20lastUpdateDateTime%20gt%202026-11-24T09:00:00Z").await;
    let mut found = ids(&page);
    found.sort_unstable();
    assert_eq!((status, found), (200, vec!["a2", "a4"]));
    let (_, page, _) = asked("$filter=createdDateTime%20ge%202026-11-24T09:05:00Z").await;
    assert_eq!(ids(&page), ["a5"]);
    let (_, page, _) = asked("$top=4").await;
    let link = page["@odata.nextLink"].as_str().expect("a link");
    let (_, rest, _) = rig.get(link).await;
    let mut all = [ids(&page), ids(&rest)].concat();
    assert!(!all.is_sorted(), "no order: {all:?}");
    all.sort_unstable();
    assert_eq!(all, ["a0", "a1", "a2", "a3", "a4", "a5"]);
    assert!(rest["@odata.nextLink"].is_null());
    assert_eq!(rig.get("security/alerts_v2/a1").await.1["title"], "t");
    assert_eq!(ids(&rig.get("security/incidents").await.1), ["1"]);
    for wrong in ["$orderby=createdDateTime", "$filter=title%20eq%20't'", "$filter=severity", "$top=1001"] {
        assert_eq!(asked(wrong).await.0, 400, "{wrong}");
    }
    // Changed: it is newer, and as old as before.
    let now = rig.now();
    rig.emulator.world().put_alert(TENANT, "a0", json!({"severity": "high"}), now);
    let (_, alert, _) = rig.get("security/alerts_v2/a0").await;
    assert_eq!(
        (&alert["createdDateTime"], &alert["lastUpdateDateTime"]),
        (&json!("2026-11-24T09:00:00.0000000Z"), &json!("2026-11-24T09:06:00.0000000Z"))
    );
    for _ in 11..150 {
        rig.get("security/alerts_v2/a0").await;
    }
    let mut limited = 0;
    for _ in 0..3 {
        let (status, _, wait) = rig.get("security/alerts_v2/a0").await;
        limited += i32::from(status == 429 && wait.is_some());
    }
    assert!(limited > 0, "150 in a minute");
    rig.emulator.world().apps[0].roles.retain(|role| role != "SecurityAlert.Read.All");
    rig.advance(60);
    assert_eq!(rig.get("security/alerts_v2").await.0, 403);
}
