//! Section 16 of ThreatConnect's reference: indicators, cases and what hangs on them are written, and playbooks are called.

use std::time::Duration;

use emulator::{Answered, Indicator, Playbook};
use serde_json::{Value, json};

use crate::rig::Rig;

fn owners(rig: &Rig) {
    let mut world = rig.emulator.world();
    world.add_owner("Acme Org");
    world.add_owner("Acme Source");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_posted_indicator_is_made_or_updated_by_owner_type_and_value() {
    let rig = Rig::new().await;
    owners(&rig);
    let target = "/v3/indicators?owner=Acme%20Source&fields=tags&fields=attributes";
    let address = json!({"type": "Address", "ip": "203.0.113.10", "active": true, "rating": 4, "confidence": 85,
        "tags": {"data": [{"name": "Graph"}, {"techniqueId": "T1071"}]},
        "attributes": {"data": [{"type": "Description", "value": "From alert 7f3a.", "source": "Microsoft Graph", "default": true}]},
        "securityLabels": {"data": [{"name": "TLP:AMBER"}]}});
    let (status, made, _) = rig.threatconnect("POST", target, &address).await;
    assert_eq!((status, &made["message"], &made["status"]), (201, &json!("Created"), &json!("Success")), "{made}");
    let data = &made["data"];
    assert_eq!(
        (&data["ownerName"], &data["summary"], &data["rating"]),
        (&json!("Acme Source"), &json!("203.0.113.10"), &json!(4.0))
    );
    assert_eq!(data["tags"]["data"][1]["name"], "T1071");
    assert!(data["securityLabels"].is_null(), "not asked for");
    let id = data["id"].as_u64().expect("an id");
    // Again: the same one, with tags added.
    let again = json!({"type": "Address", "ip": "203.0.113.10", "tags": {"data": [{"name": "Again"}, {"name": "Graph"}]}});
    let (status, updated, _) = rig.threatconnect("POST", target, &again).await;
    assert_eq!((status, &updated["message"], &updated["data"]["id"]), (200, &json!("Updated"), &json!(id)));
    assert_eq!(rig.emulator.world().indicator(id).expect("it is there").tags, ["Graph", "T1071", "Again"]);
    rig.emulator.world().writing.update_is_created = true;
    assert_eq!(rig.threatconnect("POST", target, &again).await.0, 201);
    // Elsewhere it is another one; without an owner it is the organization's.
    let (_, other, _) = rig.threatconnect("POST", "/v3/indicators", &again).await;
    assert_eq!((&other["data"]["ownerName"], other["data"]["id"] == id), (&json!("Acme Org"), false));
    let change = json!({"confidence": 92, "tags": {"data": [{"name": "Botnet"}], "mode": "replace"}, "active": false});
    let (status, changed, _) = rig.threatconnect("PUT", &format!("/v3/indicators/{id}?fields=tags"), &change).await;
    assert_eq!((status, &changed["data"]["confidence"], &changed["data"]["active"]), (200, &json!(92), &json!(false)));
    assert_eq!(changed["data"]["tags"]["data"].as_array().map(Vec::len), Some(1));
    rig.threatconnect("POST", target, &again).await;
    assert!(!rig.emulator.world().indicator(id).expect("it is there").active, "it is not activated unless that is said");
    let by_summary = "/v3/indicators/203.0.113.10?owner=Acme%20Source";
    assert_eq!(rig.threatconnect("PUT", by_summary, &json!({"rating": 1})).await.0, 200);
    assert_eq!(rig.threatconnect("PUT", "/v3/indicators/999", &json!({"rating": 1})).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_writes_are_refused() {
    let rig = Rig::new().await;
    owners(&rig);
    rig.emulator.world().writing.excluded = vec!["example.com".to_owned()];
    let host = |more: Value| {
        let mut host = json!({"type": "Host", "hostName": "a.example"});
        host.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        host
    };
    for (body, text) in [
        (json!({"hostName": "a.example"}), "type"),
        (json!({"type": "Host"}), "hostName"),
        (json!({"type": "Url", "text": "https://a.example/"}), "Invalid indicator type"),
        (json!({"type": "URL", "text": "https://A.example/"}), "Invalid value"),
        (json!({"type": "ASN", "AS Number": "64496"}), "Invalid value"),
        (json!({"type": "File", "md5": "00"}), "Invalid md5"),
        (json!({"type": "File"}), "Missing"),
        (json!({"type": "Host", "hostName": "b.example.com"}), "exclusion list"),
        (host(json!({"rating": 6})), "rating"),
        (host(json!({"confidence": 101})), "confidence"),
        (host(json!({"description": "d"})), "read-only"),
        (host(json!({"securityLabels": {"data": [{"name": "TLP:BLUE"}]}})), "does not exist"),
        (host(json!({"tags": {"data": [{"name": "x".repeat(129)}]}})), "128"),
        (host(json!({"tags": [{"name": "x"}]})), "tags"),
    ] {
        let (status, answer, _) = rig.threatconnect("POST", "/v3/indicators", &body).await;
        assert!(status == 400 && answer["message"].as_str().is_some_and(|message| message.contains(text)), "{body}: {answer}");
    }
    assert_eq!(rig.threatconnect("POST", "/v3/indicators?owner=None", &host(json!({}))).await.0, 403);
    rig.emulator.world().owners[1].writable = false;
    assert_eq!(rig.threatconnect("POST", "/v3/indicators?owner=Acme%20Source", &host(json!({}))).await.0, 403);
    let (_, owners, _) = rig.threatconnect("GET", "/v3/security/owners", &Value::Null).await;
    let permissions: Vec<&Value> =
        owners["data"].as_array().expect("owners").iter().map(|owner| &owner["permIndicator"]).collect();
    assert_eq!(permissions, [&json!("FULL"), &json!("READ")]);
    assert_eq!((&owners["data"][0]["permArtifact"], &owners["data"][1]["permArtifact"]), (&json!("FULL"), &json!("NONE")));
    // Hashes are added one by one, unless another File holds them.
    let now = rig.now();
    let (one, other) = ("1".repeat(32), "2".repeat(40));
    let id = rig.emulator.world().add(Indicator::new("Acme Org", "File", &one, now));
    rig.emulator.world().add(Indicator::new("Acme Org", "File", &other, now));
    let target = format!("/v3/indicators/{id}");
    assert_eq!(rig.threatconnect("PUT", &target, &json!({"sha1": other})).await.0, 400);
    assert_eq!(rig.threatconnect("PUT", &target, &json!({"sha1": "3".repeat(40)})).await.0, 200);
    assert_eq!(rig.threatconnect("PUT", &target, &json!({"ip": "203.0.113.1"})).await.0, 400);
    // Nothing is written without a good signature.
    let url = format!("{}/v3/indicators", rig.emulator.threatconnect_url());
    let headers = [("content-type", "application/json"), ("authorization", "TC 48151623420815108001:AAAA"), ("timestamp", "1")];
    assert_eq!(rig.send("POST", &url, &headers, &host(json!({})).to_string()).await.0, 401);
    assert_eq!(rig.emulator.world().writing.created, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_has_one_external_id() {
    let rig = Rig::new().await;
    owners(&rig);
    let now = rig.now();
    let indicator = rig.emulator.world().add(Indicator::new("Acme Org", "Address", "203.0.113.10", now));
    let xid = "5d41402abc4b2a76b9719d911017c592";
    let case = json!({"name": "Graph alert 7f3a", "status": "Open", "severity": "High", "xid": xid,
        "artifacts": {"data": [{"summary": "203.0.113.10", "type": "IP Address"}]}, "tags": {"data": [{"name": "Graph"}]},
        "associatedIndicators": {"data": [{"id": indicator}]}});
    let (status, made, _) = rig.threatconnect("POST", "/v3/cases", &case).await;
    assert_eq!(
        (status, &made["message"], &made["data"]["resolution"]),
        (201, &json!("Created"), &json!("Not Specified")),
        "{made}"
    );
    let id = made["data"]["id"].as_u64().expect("an id");
    let (status, refused, _) = rig.threatconnect("POST", "/v3/cases", &case).await;
    assert_eq!((status, &refused["errCode"]), (409, &json!("0x1006")));
    let (_, found, _) = rig.threatconnect("GET", &format!("/v3/cases?tql=xid%20%3D%20%22{xid}%22"), &Value::Null).await;
    assert_eq!((&found["data"][0]["id"], found["data"].as_array().map(Vec::len)), (&json!(id), Some(1)));
    let (_, none, _) = rig.threatconnect("GET", "/v3/cases?tql=xid%20%3D%20%22none%22", &Value::Null).await;
    assert_eq!(none["data"], json!([]));
    assert_eq!(rig.threatconnect("GET", "/v3/cases?tql=xid%20%3E%201", &Value::Null).await.1["errCode"], "0x2001");
    let change =
        json!({"status": "Closed", "resolution": "False Positive", "tags": {"data": [{"name": "Graph"}], "mode": "delete"}});
    let (status, closed, _) = rig.threatconnect("PUT", &format!("/v3/cases/{id}"), &change).await;
    assert_eq!((status, &closed["message"], closed["data"]["caseCloseTime"].is_string()), (200, &json!("Updated"), true));
    let stored = rig.emulator.world().cases.cases[&id].clone();
    assert!(stored.tags.is_empty() && stored.indicators == [indicator] && stored.xid == xid);
    for (body, code) in [
        (json!({"status": "Open", "severity": "High"}), "0x2003"),
        (json!({"name": "n", "status": "New", "severity": "High"}), "0x1001"),
        (json!({"name": "n", "status": "Open", "severity": "High", "xid": "short"}), "0x1001"),
        (json!({"name": "n", "status": "Open", "severity": "High", "owner": "x"}), "0x1001"),
        (json!({"name": "n", "status": "Open", "severity": "High", "associatedIndicators": {"data": [{"id": 1}]}}), "0x2002"),
    ] {
        let (status, refused, _) = rig.threatconnect("POST", "/v3/cases", &body).await;
        assert_eq!((status, &refused["errCode"]), (400, &json!(code)), "{body}");
    }
    assert_eq!(rig.threatconnect("PUT", &format!("/v3/cases/{id}"), &json!({"xid": "another one"})).await.0, 400);
    assert_eq!(rig.threatconnect("PUT", "/v3/cases/99", &change).await.0, 404);
    let artifact = json!({"caseId": id, "summary": "badguy@bad.example", "type": "Email Address", "source": "exporter", "derivedLink": true});
    let (status, made, _) = rig.threatconnect("POST", "/v3/artifacts", &artifact).await;
    assert_eq!((status, &made["data"]["intelType"]), (201, &json!("indicator-EmailAddress")));
    assert_eq!(
        rig.threatconnect("POST", "/v3/artifacts", &json!({"caseId": id, "summary": "x", "type": "Address"})).await.0,
        400
    );
    let tql = format!("/v3/artifacts?tql=caseId%20%3D%20{id}%20and%20summary%20%3D%20%22203.0.113.10%22");
    assert_eq!(rig.threatconnect("GET", &tql, &Value::Null).await.1["data"].as_array().map(Vec::len), Some(1));
    let text = json!({"caseXid": xid, "text": "Second alert for the same user."});
    let (status, made, _) = rig.threatconnect("POST", "/v3/notes", &text).await;
    assert_eq!((status, &made["data"]["caseId"]), (201, &json!(id)));
    let number = made["data"]["id"].as_u64().expect("an id");
    assert_eq!(
        rig.threatconnect("PUT", &format!("/v3/notes/{number}"), &json!({"text": "Third."})).await.1["data"]["text"],
        "Third."
    );
    assert_eq!(rig.threatconnect("POST", "/v3/notes", &json!({"text": "Nowhere."})).await.0, 400);
    assert_eq!(rig.threatconnect("GET", "/v3/artifactTypes", &Value::Null).await.1["data"][0]["name"], "IP Address");
    rig.emulator.world().cases.forbidden = Some(401);
    assert_eq!(rig.threatconnect("POST", "/v3/cases", &case).await.0, 401);
    assert_eq!(rig.emulator.world().cases.conflicts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_playbook_keeps_what_it_was_sent_and_answers_as_it_was_told() {
    let rig = Rig::new().await;
    let scripted = Answered { retry_after: Some("7".to_owned()), ..Answered::status(503) };
    let hanging = Answered { hang: Duration::from_millis(50), ..Answered::status(200) };
    let basic = Some(("relay".to_owned(), "secret".to_owned()));
    let playbook = Playbook { basic, script: [scripted, hanging].into(), ..Playbook::default() };
    rig.emulator.world().playbooks.insert("uuid-1".to_owned(), playbook);
    let url = rig.emulator.playbook_url("uuid-1");
    let good = [("authorization", "Basic cmVsYXk6c2VjcmV0"), ("idempotency-key", "k1"), ("content-type", "application/json")];
    assert_eq!(rig.send("POST", &url, &[], "{}").await.0, 401);
    assert_eq!(rig.send("POST", &format!("{url}/"), &good, "{}").await.0, 404);
    let (status, _, wait) = rig.send("POST", &format!("{url}?a=1"), &good, "{\"n\":1}").await;
    assert_eq!((status, wait.as_deref()), (503, Some("7")));
    for _ in 0..2 {
        assert_eq!(rig.send("POST", &url, &good, "{\"n\":1}").await.0, 200);
    }
    let playbook = rig.emulator.world().playbooks["uuid-1"].clone();
    assert_eq!((playbook.refused, playbook.received.len()), (1, 3));
    let first = &playbook.received[0];
    assert_eq!(
        (first.target.as_str(), first.header("Idempotency-Key"), first.answered),
        ("/api/playbook/uuid-1?a=1", Some("k1"), 503)
    );
    assert_eq!((first.body.as_str(), first.at), ("{\"n\":1}", rig.now()));
    assert_eq!(playbook.runs_by_key(), [("k1".to_owned(), 2)].into(), "one run too many");
}
