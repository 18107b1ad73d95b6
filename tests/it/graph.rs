//! Microsoft Graph's tiIndicator, the guide's own way: what either product takes through it, and what goes wrong there.

use std::collections::BTreeMap;
use std::sync::Arc;

use emulator::faults::{Effect, Fault, When};
use emulator::{Gone, GraphOperation, Indicator, Service, TENANT};
use indicator_relay::export::Request;
use indicator_relay::storage::StateStore;
use indicator_relay::storage::sqlite::SqliteStore;
use serde_json::{Value, json};

use crate::between::Mortal;
use crate::rig::{DEFENDER, HOUR, Rig, SENTINEL, assert_sent};

const PRODUCTS: [&str; 2] = [SENTINEL, DEFENDER];

fn fault(path: &str, when: When, effect: Effect) -> Fault {
    Fault { service: Service::Graph, path: path.to_owned(), body: String::new(), when, effect }
}

fn status(status: u16, retry_after: Option<&str>) -> Effect {
    let body = r#"{"error":{"code":"X","message":"said by a fault","innerError":{"request-id":"corr-1"}}}"#.to_owned();
    Effect::Status { status, body, retry_after: retry_after.map(str::to_owned) }
}

/// Nothing was sent that could not be told apart, and nothing is there twice.
#[track_caller]
fn assert_clean(rig: &Rig, about: &str) {
    let world = rig.emulator.world();
    assert_eq!(world.graph.ambiguous, Vec::<String>::new(), "{about}");
    assert_eq!(world.doubles_at_graph(TENANT, rig.now()), BTreeMap::new(), "{about}");
}

/// What came and went so far.
fn counts(rig: &Rig) -> (u64, u64, u64) {
    let world = rig.emulator.world();
    (world.graph.created, world.graph.updated, world.graph.deleted)
}

fn asked(rig: &Rig, operation: GraphOperation) -> u64 {
    rig.emulator.world().graph.requests.get(&operation).copied().unwrap_or_default()
}

/// Hosts that are live there.
fn hosts(rig: &Rig, product: &str) -> Vec<String> {
    let mut hosts: Vec<String> =
        rig.at_graphs(product).values().filter_map(|entity| entity["domainName"].as_str().map(str::to_owned)).collect();
    hosts.sort();
    hosts
}

fn entity(rig: &Rig, product: &str, host: &str) -> Value {
    let all = rig.at_graphs(product);
    all.into_values().find(|entity| entity["domainName"] == host).unwrap_or_else(|| panic!("{host} is not there"))
}

/// All the context that the guide maps.
fn context(indicator: &mut Indicator) {
    let attributes = [
        ("Phase of Intrusion", "C2"),
        ("Phase of Intrusion", "Delivery"),
        ("Last Seen", "2026-11-20T09:00:00+01:00"),
        ("Network Protocol Analysis", "TCP/443"),
    ];
    indicator.rating = Some(3.5);
    indicator.confidence = Some(85);
    indicator.false_positives = Some(2);
    indicator.tags = vec!["APT29".to_owned(), "C2".to_owned()];
    indicator.labels = vec!["TLP:GREEN".to_owned()];
    indicator.attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
}

fn add_with_context(rig: &Rig, kind: &str, value: &str) -> u64 {
    rig.add_of("Acme Org", kind, value, context)
}

/// One of each kind; the address's id.
fn add_all_kinds(rig: &Rig) -> u64 {
    let address = add_with_context(rig, "Address", "203.0.113.7");
    for (kind, value) in [
        ("Address", "2001:db8::7"),
        ("Address", "10.1.2.3"),
        ("CIDR", "198.51.100.0/24"),
        ("Host", "a.example"),
        ("URL", "https://a.example/x"),
        ("EmailAddress", "a@a.example"),
        ("Email Subject", "hello"),
        ("User Agent", "EvilBot/1.0"),
    ] {
        add_with_context(rig, kind, value);
    }
    rig.add_of("Acme Org", "File", &"a".repeat(64), |file| {
        context(file);
        file.md5 = Some("b".repeat(32));
        file.sha1 = Some("c".repeat(40));
    });
    address
}

#[tokio::test]
async fn all_kinds_are_sent_with_their_context_and_what_defender_does_not_take_is_skipped() {
    for (product, target, accepted, skipped) in [(SENTINEL, "Azure Sentinel", 12, 0), (DEFENDER, "Microsoft Defender ATP", 7, 5)]
    {
        let mut rig = Rig::at_graph(product).await;
        let address = add_all_kinds(&rig);
        let report = rig.run().await;
        assert_eq!(
            (report.complete, report.outcomes.accepted, report.outcomes.skipped),
            (true, accepted, skipped),
            "{report:#?}"
        );
        let mut reasons: Vec<(&str, u64)> = report.reasons.iter().map(|reason| (reason.reason.as_str(), reason.count)).collect();
        reasons.sort_unstable();
        let expected = [
            ("Defender takes no e-mail indicators", 1),
            ("Defender takes no e-mail indicators", 1),
            ("Defender takes no ranges", 1),
            ("Defender takes no user agents", 1),
            ("Defender takes public addresses only", 1),
        ];
        assert_eq!(reasons, if product == DEFENDER { expected.to_vec() } else { Vec::new() });
        let there = rig.at_graphs(product);
        assert_eq!(there.len() as u64, accepted);
        let mut wanted = json!({
            "targetProduct": target,
            "action": "alert",
            "confidence": 85,
            "description": "ThreatConnect | Owner: Acme Org",
            "externalId": format!("1-{address}"),
            "killChain": ["Delivery", "C2"],
            "knownFalsePositives": "2",
            "lastReportedDateTime": "2026-11-20T08:00:00Z",
            "severity": 4,
            "tags": ["APT29", "C2"],
            "tlpLevel": "green",
            "threatType": "WatchList",
            "additionalInformation": format!("https://example.threatconnect.com/#/details/indicators/{address}"),
            "networkIPv4": "203.0.113.7",
            "networkPort": 443,
            "networkProtocol": 6,
            "expirationDateTime": "2026-12-24T09:00:00Z"
        });
        if product == DEFENDER {
            wanted["networkDestinationIPv4"] = json!("203.0.113.7");
        }
        let mut found = there[&format!("1-{address}")].clone();
        let own = found.as_object_mut().expect("an object");
        for name in ["id", "azureTenantId", "ingestedDateTime", "isActive", "passiveOnly"] {
            assert!(own.remove(name).is_some(), "{name}");
        }
        assert_eq!(found, wanted);
        let values: Vec<Value> = [
            "networkIPv6",
            "networkCidrBlock",
            "domainName",
            "url",
            "emailSenderAddress",
            "emailSubject",
            "userAgent",
            "fileHashValue",
        ]
        .iter()
        .map(|name| there.values().filter(|entity| !entity[name].is_null()).count().into())
        .collect();
        let expected = if product == DEFENDER { json!([1, 0, 1, 1, 0, 0, 0, 3]) } else { json!([1, 1, 1, 1, 1, 1, 1, 3]) };
        assert_eq!(Value::Array(values), expected);
        let hash = there.values().find(|entity| entity["fileHashType"] == "sha1").expect("a hash");
        assert_eq!((&hash["fileHashValue"], &hash["networkPort"]), (&json!("c".repeat(40)), &Value::Null));
        assert_eq!(hash["expirationDateTime"], "2027-02-22T09:00:00Z");
        let requests = rig.emulator.world().requests(Service::Graph);
        rig.clock.advance(HOUR);
        let second = rig.run().await;
        assert_sent(&second, 0, accepted, 0);
        assert_eq!((rig.emulator.world().requests(Service::Graph), second.requests.sink), (requests, 0));
        assert_clean(&rig, product);
    }
}

#[tokio::test]
async fn what_an_update_can_change_changes_in_place_and_the_rest_makes_another_object() {
    type Change = fn(&mut Indicator);
    let confidence: Change = |indicator| indicator.confidence = Some(7);
    let tag: Change = |indicator| indicator.tags.push("new".to_owned());
    let severity: Change = |indicator| indicator.rating = Some(1.0);
    let port: Change = |indicator| indicator.attributes.retain(|(name, _)| name != "Network Protocol Analysis");
    for (product, change, property, value, in_place) in [
        (SENTINEL, confidence, "confidence", json!(7), true),
        (SENTINEL, tag, "tags", json!(["APT29", "C2", "new"]), true),
        (SENTINEL, severity, "severity", json!(1), true),
        (SENTINEL, port, "networkPort", Value::Null, false),
        (DEFENDER, severity, "severity", json!(1), true),
        (DEFENDER, tag, "tags", json!(["APT29", "C2", "new"]), false),
        (DEFENDER, confidence, "confidence", json!(7), false),
    ] {
        let mut rig = Rig::at_graph(product).await;
        rig.add_hosts(3);
        let id = add_with_context(&rig, "Host", "a.example");
        assert_sent(&rig.run().await, 4, 0, 0);
        let before = entity(&rig, product, "a.example");
        rig.clock.advance(HOUR);
        let now = rig.now();
        rig.emulator.world().touch(id, now, change);
        let report = rig.run().await;
        assert_sent(&report, 1, 3, 0);
        assert_eq!(report.changes.changed, 1);
        let after = entity(&rig, product, "a.example");
        assert_eq!((&after[property], after["id"] == before["id"]), (&value, in_place), "{product}: {property}");
        assert_eq!(after["expirationDateTime"], "2026-12-24T10:00:00Z");
        assert_eq!(counts(&rig), if in_place { (4, 1, 0) } else { (5, 0, 1) }, "{product}: {property}");
        assert_eq!(rig.at_graphs(product).len(), 4);
        assert_clean(&rig, product);
        rig.clock.advance(HOUR);
        assert_sent(&rig.run().await, 0, 4, 0);
    }
}

#[tokio::test]
async fn a_red_label_is_passive_and_no_longer_red_is_no_longer_passive() {
    for product in PRODUCTS {
        let mut rig = Rig::at_graph(product).await;
        let id = add_with_context(&rig, "Host", "a.example");
        for (label, level, passive) in [("TLP:AMBER", "amber", false), ("TLP:RED", "red", true), ("TLP:WHITE", "white", false)] {
            rig.emulator.world().edit(id, |indicator| indicator.labels = vec![label.to_owned()]);
            assert_sent(&rig.run().await, 1, 0, 0);
            let entity = entity(&rig, product, "a.example");
            assert_eq!((&entity["tlpLevel"], &entity["passiveOnly"]), (&json!(level), &json!(passive)), "{product}");
            assert_eq!(rig.at_graphs(product).len(), 1);
            rig.clock.advance(HOUR);
        }
        assert_clean(&rig, product);
    }
}

#[tokio::test]
async fn what_leaves_is_withdrawn_by_its_id() {
    for product in PRODUCTS {
        let mut rig = Rig::at_graph(product).await;
        let ids = rig.add_hosts(200);
        assert_sent(&rig.run().await, 200, 0, 0);
        for id in &ids[..15] {
            rig.emulator.world().delete(*id);
        }
        rig.clock.advance(HOUR);
        assert_sent(&rig.run().await, 0, 185, 15);
        assert_eq!((rig.at_graphs(product).len(), counts(&rig)), (185, (200, 0, 15)));
        assert_eq!(asked(&rig, GraphOperation::DeleteMany), u64::from(product == SENTINEL), "{product}");
        assert_eq!(asked(&rig, GraphOperation::Delete), if product == SENTINEL { 0 } else { 15 }, "{product}");
        assert_eq!(asked(&rig, GraphOperation::DeleteByExternalId), 0);
        let back = add_with_context(&rig, "Host", "h3.example");
        rig.clock.advance(HOUR);
        assert_sent(&rig.run().await, 1, 185, 0);
        assert_eq!(entity(&rig, product, "h3.example")["externalId"], format!("1-{back}"));
        assert_clean(&rig, product);
    }
}

#[tokio::test]
async fn results_of_a_delete_are_read_in_every_spelling() {
    for switches in 0..32_u8 {
        let on = |switch: u8| switches & (1 << switch) != 0;
        let mut rig = Rig::at_graph(SENTINEL).await;
        {
            let graph = &mut rig.emulator.world().graph;
            graph.delete_code_is_text = on(0);
            graph.delete_sub_code = on(1);
            graph.delete_without_message = on(2);
            graph.failures_are_200 = on(3);
        }
        let ids = rig.add_hosts(20);
        assert_sent(&rig.run().await, 20, 0, 0);
        for id in &ids[..8] {
            rig.emulator.world().delete(*id);
        }
        let vanished = if on(4) { rig.emulator.world().delete_at_graph(TENANT, &format!("1-{}", ids[5])) } else { 0 };
        rig.clock.advance(HOUR);
        assert_sent(&rig.run().await, 0, 12, 8);
        assert_eq!((rig.at_graphs(SENTINEL).len(), vanished), (12, usize::from(on(4))), "{switches:05b}");
    }
}

#[tokio::test]
async fn a_submit_on_which_the_service_chokes_is_halved_until_it_passes() {
    for product in PRODUCTS {
        for code in [500, 400, 504] {
            let mut rig = Rig::at_graph(product).await;
            {
                let graph = &mut rig.emulator.world().graph;
                (graph.chokes_above, graph.chokes_with, graph.list_needs_top, graph.page) = (Some(10), code, true, 3);
            }
            rig.add_hosts(230);
            assert_sent(&rig.run().await, 230, 0, 0);
            assert_eq!((rig.at_graphs(product).len(), counts(&rig)), (230, (230, 0, 0)), "{product}, {code}");
            assert_clean(&rig, product);
        }
    }
}

#[tokio::test]
async fn a_refused_item_is_rejected_alone_with_its_reason_and_correlation() {
    for product in PRODUCTS {
        for failures_are_200 in [false, true] {
            let mut rig = Rig::at_graph(product).await;
            {
                let graph = &mut rig.emulator.world().graph;
                graph.failures_are_200 = failures_are_200;
                graph.refuse.push("h7.example".to_owned());
            }
            rig.add_hosts(30);
            let report = rig.run().await;
            assert_eq!((report.complete, report.outcomes.accepted, report.changes.newly_rejected), (true, 29, 1), "{report:#?}");
            let app = rig.app();
            let entry = &app.exporter.registered().await.expect("a list")[0];
            let rejected = app.exporter.rejections(entry).await.expect("a list");
            assert_eq!((rejected.len(), rejected[0].value.as_str()), (1, "h7.example"));
            assert_eq!(rejected[0].reason, "The indicator is not accepted (InvalidInput)");
            assert!(rejected[0].correlation.is_some(), "{rejected:?}");
            rig.clock.advance(HOUR);
            let again = rig.run().await;
            assert_eq!((again.outcomes.rejected, again.changes.newly_rejected, again.requests.sink), (1, 0, 0), "{again:#?}");
            rig.emulator.world().graph.refuse.clear();
            let retried = rig.run_job("default", Request { full: true, retry_rejected: true, ..Request::default() }).await;
            assert_eq!((retried.outcomes.accepted, rig.at_graphs(product).len()), (1, 30));
            assert_clean(&rig, product);
        }
    }
}

#[tokio::test]
async fn an_item_without_a_line_is_unanswered_and_nothing_is_doubled() {
    for product in PRODUCTS {
        let mut rig = Rig::at_graph(product).await;
        let ids = rig.add_hosts(30);
        rig.emulator.world().graph.omit.push("h7.example".to_owned());
        let report = rig.run().await;
        assert_eq!((report.complete, report.outcomes.accepted, report.outcomes.unanswered), (false, 29, 1), "{report:#?}");
        let id = entity(&rig, product, "h7.example")["id"].clone();
        rig.emulator.world().graph.omit.clear();
        rig.clock.advance(HOUR);
        assert_sent(&rig.run().await, 1, 29, 0);
        assert_eq!(entity(&rig, product, "h7.example")["id"], id, "the object that was made is kept");
        assert_eq!((counts(&rig), rig.emulator.world().graph.doubled.len()), ((30, 1, 0), 0));
        // An update and a withdrawal whose lines are missing.
        rig.emulator.world().graph.omit.extend(["h8.example".to_owned(), format!("1-{}", ids[8])]);
        rig.emulator.world().edit(ids[8], |indicator| indicator.rating = Some(5.0));
        rig.emulator.world().delete(ids[9]);
        for _ in 0..2 {
            rig.clock.advance(HOUR);
            rig.run().await;
            rig.emulator.world().graph.omit.clear();
        }
        assert_eq!((entity(&rig, product, "h8.example")["severity"].as_u64(), rig.at_graphs(product).len()), (Some(5), 29));
        assert_clean(&rig, product);
    }
}

#[tokio::test]
async fn an_answer_to_a_submit_that_is_lost_is_looked_up_and_one_object_is_kept() {
    for product in PRODUCTS {
        for (effect, when) in [
            (Effect::CutAfter, When::First(1)),
            (Effect::Truncate, When::First(1)),
            (Effect::CutAfter, When::Always),
            (Effect::Truncate, When::Always),
            (status(502, None), When::Always),
            (Effect::Cut, When::Always),
        ] {
            let about = format!("{product}: {effect:?} {when:?}");
            let mut rig = Rig::at_graph(product).await;
            rig.add_hosts(40);
            add_with_context(&rig, "URL", "https://a.example/It's");
            rig.emulator.world().faults.push(fault("submitTiIndicators", when, effect.clone()));
            let first = rig.run().await;
            // What the service made is found in the same run.
            let made = when == When::First(1) || matches!(effect, Effect::CutAfter | Effect::Truncate);
            assert_eq!((first.complete, first.outcomes.rejected), (made, 0), "{about}: {first:#?}");
            rig.emulator.world().faults.clear();
            for _ in 0..2 {
                rig.clock.advance(HOUR);
                let report = rig.run().await;
                assert!(report.complete, "{about}: {report:#?}");
            }
            assert_eq!(rig.at_graphs(product).len(), 41, "{about}");
            let world = rig.emulator.world();
            assert_eq!((world.graph.created, world.graph.deleted, world.graph.doubled.len()), (41, 0, 0), "{about}");
            drop(world);
            assert_clean(&rig, &about);
        }
    }
}

#[tokio::test]
async fn an_answer_to_an_update_a_replacement_or_a_delete_that_is_lost_does_no_harm() {
    for product in PRODUCTS {
        for (path, effect) in [
            ("tiIndicators/", Effect::CutAfter),
            ("tiIndicators/", Effect::Truncate),
            ("tiIndicators/", status(500, None)),
            ("tiIndicators/", status(429, Some("7200"))),
            ("submitTiIndicators", Effect::CutAfter),
            ("updateTiIndicators", Effect::CutAfter),
            ("deleteTiIndicators", Effect::CutAfter),
            ("deleteTiIndicators", status(503, None)),
        ] {
            let about = format!("{product}: {path} {effect:?}");
            let mut rig = Rig::at_graph(product).await;
            let ids: Vec<u64> = (0..8).map(|i| add_with_context(&rig, "Host", &format!("c{i}.example"))).collect();
            assert_sent(&rig.run().await, 8, 0, 0);
            {
                let mut world = rig.emulator.world();
                // In place, beside the old one (at Defender), beside the old one (at both), gone.
                world.edit(ids[0], |indicator| indicator.rating = Some(1.0));
                world.edit(ids[1], |indicator| indicator.tags.push("new".to_owned()));
                world.edit(ids[2], |indicator| indicator.attributes.clear());
                world.delete(ids[3]);
                world.faults.push(fault(path, When::Always, effect.clone()));
            }
            for _ in 0..2 {
                rig.clock.advance(HOUR);
                let report = rig.run().await;
                assert_eq!(report.outcomes.rejected, 0, "{about}: {report:#?}");
            }
            rig.emulator.world().faults.clear();
            for _ in 0..2 {
                rig.clock.advance(HOUR * 3);
                let report = rig.run().await;
                assert!(report.complete, "{about}: {report:#?}");
            }
            assert_eq!(rig.at_graphs(product).len(), 7, "{about}");
            assert_eq!(entity(&rig, product, "c0.example")["severity"], 1, "{about}");
            assert_eq!(entity(&rig, product, "c1.example")["tags"], json!(["APT29", "C2", "new"]), "{about}");
            assert_eq!(entity(&rig, product, "c2.example")["killChain"], Value::Null, "{about}");
            assert_clean(&rig, &about);
        }
    }
}

#[tokio::test]
async fn an_object_that_vanished_is_made_again_when_it_changes_and_is_withdrawn_without_ado() {
    for product in PRODUCTS {
        let mut rig = Rig::at_graph(product).await;
        let ids: Vec<u64> = (0..20).map(|i| add_with_context(&rig, "Host", &format!("v{i}.example"))).collect();
        assert_sent(&rig.run().await, 20, 0, 0);
        for id in &ids[..4] {
            let name = format!("1-{id}");
            assert_eq!(rig.emulator.world().delete_at_graph(TENANT, &name), 1);
        }
        {
            let mut world = rig.emulator.world();
            for id in &ids[1..7] {
                world.edit(*id, |indicator| indicator.rating = Some(1.0));
            }
            world.delete(ids[0]);
            world.delete(ids[19]);
        }
        rig.clock.advance(HOUR);
        assert_sent(&rig.run().await, 6, 12, 2);
        assert_eq!(rig.at_graphs(product).len(), 18);
        assert!((1..7).all(|i| entity(&rig, product, &format!("v{i}.example"))["severity"] == 1));
        assert_clean(&rig, product);
    }
}

#[tokio::test]
async fn a_service_that_is_gone_fails_the_run_in_one_line_and_harms_neither_the_items_nor_the_other_job() {
    for gone in [Gone::Status(404), Gone::Status(410), Gone::Status(403), Gone::Empty] {
        for product in PRODUCTS {
            // From the start; and later, with something new, something changed, something that leaves, or two of these.
            for (new, change, leave) in
                [(true, false, false), (false, true, false), (false, false, true), (true, true, false), (false, true, true)]
            {
                let about = format!("{gone:?}, {product}, {:?}", (new, change, leave));
                let mut rig = Rig::at_graph(product).await;
                rig.set("JOBS", "one,two");
                rig.set("TWO__TARGET_PRODUCT", SENTINEL);
                rig.set("TWO__DELIVERY", "product");
                let ids: Vec<u64> = (0..12).map(|i| add_with_context(&rig, "Host", &format!("h{i}.example"))).collect();
                if change || leave {
                    assert!(rig.run_job("one", Request::default()).await.complete);
                    rig.clock.advance(HOUR);
                }
                {
                    let mut world = rig.emulator.world();
                    world.graph.gone = Some(gone);
                    if change {
                        world.edit(ids[0], |indicator| indicator.rating = Some(1.0));
                        world.edit(ids[1], |indicator| indicator.tags.push("new".to_owned()));
                    }
                    if leave {
                        world.delete(ids[2]);
                    }
                }
                if new && change {
                    rig.add("Host", "new.example");
                }
                let report = rig.run_job("one", Request::default()).await;
                let error = report.error.clone().unwrap_or_else(|| panic!("{about}: {report:#?}"));
                assert!(error.contains("DELIVERY") && !error.contains('\n'), "{about}: {error}");
                let found = (report.complete, report.outcomes.accepted, report.outcomes.rejected, report.withdrawn);
                assert_eq!(found, (false, 0, 0, 0), "{about}: {report:#?}");
                let two = rig.run_job("two", Request::default()).await;
                assert!(two.complete && two.outcomes.accepted >= 11, "{about}: {two:#?}");
                rig.emulator.world().graph.gone = None;
                rig.clock.advance(HOUR);
                let report = rig.run_job("one", Request::default()).await;
                let wanted = 12 + usize::from(new && change) - usize::from(leave);
                assert!(report.complete && rig.at_graphs(product).len() == wanted, "{about}: {report:#?}");
                assert_clean(&rig, &about);
            }
        }
    }
}

#[tokio::test]
async fn a_permission_lost_in_the_middle_fails_the_run_and_marks_nothing() {
    for product in PRODUCTS {
        let mut rig = Rig::at_graph(product).await;
        rig.set("THREATCONNECT_PAGE_SIZE", "200");
        rig.add_hosts(1_000);
        rig.emulator.world().faults.push(fault("submitTiIndicators", When::From(4), status(403, None)));
        let report = rig.run().await;
        let error = report.error.clone().expect("an error");
        assert!(error.contains("ThreatIndicators.ReadWrite.OwnedBy") && !error.contains('\n'), "{error}");
        assert_eq!((report.complete, report.outcomes.rejected, report.withdrawn), (false, 0, 0));
        rig.emulator.world().faults.clear();
        rig.clock.advance(HOUR);
        let report = rig.run().await;
        assert!(report.complete && rig.at_graphs(product).len() == 1_000, "{report:#?}");
        assert_clean(&rig, product);
        rig.emulator.world().apps[0].roles.retain(|role| role.starts_with("Ti."));
        rig.clock.advance(HOUR);
        rig.add("Host", "later.example");
        let error = rig.run().await.error.expect("an error");
        assert!(error.contains("ThreatIndicators.ReadWrite.OwnedBy"), "{error}");
    }
}

#[tokio::test]
async fn every_form_of_retry_after_is_lived_with() {
    for product in PRODUCTS {
        for (header, complete) in
            [(Some("2.5"), true), (None, true), (Some("-5"), true), (Some("soon"), true), (Some("99999999999"), false)]
        {
            let mut rig = Rig::at_graph(product).await;
            let id = add_with_context(&rig, "Host", "a.example");
            rig.add_hosts(9);
            rig.emulator.world().faults.push(fault("submitTiIndicators", When::First(1), status(429, header)));
            let report = rig.run().await;
            assert_eq!((report.complete, report.outcomes.rejected), (complete, 0), "{header:?}: {report:#?}");
            if !complete {
                assert!(report.not_before.is_some() && report.error.is_some(), "{report:#?}");
                rig.clock.advance(HOUR);
                assert_sent(&rig.run().await, 10, 0, 0);
            }
            rig.emulator.world().faults.clear();
            // An update; a lookup and a withdrawal go the same way.
            rig.emulator.world().edit(id, |indicator| indicator.rating = Some(1.0));
            rig.emulator.world().faults.push(fault("tiIndicators/", When::First(1), status(429, header)));
            rig.clock.advance(HOUR);
            let report = rig.run().await;
            assert_eq!((report.complete, report.outcomes.rejected), (complete, 0), "{header:?}: {report:#?}");
            rig.clock.advance(HOUR);
            assert!(rig.run().await.complete);
            assert_eq!((entity(&rig, product, "a.example")["severity"].as_u64(), counts(&rig).0), (Some(1), 10));
            assert_clean(&rig, product);
        }
    }
}

#[tokio::test]
async fn two_jobs_on_one_destination_agree_on_alert_or_block() {
    for product in PRODUCTS {
        let mut rig = Rig::at_graph(product).await;
        rig.set("JOBS", "alerts,blocks");
        rig.set("ALERTS__OWNERS", "Acme Org");
        rig.set("BLOCKS__OWNERS", "Acme Source");
        rig.set("BLOCKS__ACTION_TO_TAKE", "Block");
        rig.add_of("Acme Org", "Host", "both.example", |i| i.score = Some(700));
        rig.add("Host", "alert.example");
        let other = rig.add_of("Acme Source", "Host", "both.example", |i| i.score = Some(900));
        for (score, action) in [(900, "block"), (100, "alert"), (800, "block")] {
            rig.score(other, score);
            for job in ["alerts", "blocks"] {
                let report = rig.run_job(job, Request { full: true, ..Request::default() }).await;
                assert!(report.complete, "{report:#?}");
                rig.clock.advance(HOUR);
            }
            assert_eq!(entity(&rig, product, "both.example")["action"], action, "{product}: {score}");
            assert_eq!(entity(&rig, product, "alert.example")["action"], "alert");
            assert_eq!(hosts(&rig, product), ["alert.example", "both.example"]);
            assert_clean(&rig, product);
        }
    }
}

#[tokio::test]
async fn a_value_of_two_owners_is_one_object_with_the_better_context() {
    for product in PRODUCTS {
        let mut rig = Rig::at_graph(product).await;
        rig.add("Host", "other.example");
        let low = rig.add_of("Acme Org", "Host", "dup.example", |i| i.score = Some(100));
        let high = rig.add_of("Acme Source", "Host", "DUP.example.", |i| i.score = Some(900));
        let owner = |rig: &Rig| entity(rig, product, "dup.example")["description"].as_str().map(str::to_owned);
        let report = rig.run().await;
        assert_eq!((report.outcomes.accepted, report.outcomes.duplicate), (2, 1));
        assert_eq!(owner(&rig).as_deref(), Some("ThreatConnect | Owner: Acme Source"));
        rig.clock.advance(HOUR);
        rig.emulator.world().edit(high, |indicator| indicator.score = Some(50));
        let report = rig.full().await;
        assert_eq!(owner(&rig).as_deref(), Some("ThreatConnect | Owner: Acme Org"), "{report:#?}");
        assert_eq!(entity(&rig, product, "dup.example")["externalId"], format!("1-{low}"));
        rig.clock.advance(HOUR);
        rig.emulator.world().delete(low);
        let report = rig.full().await;
        assert_eq!(report.withdrawn, 0);
        assert_eq!(owner(&rig).as_deref(), Some("ThreatConnect | Owner: Acme Source"), "{report:#?}");
        assert_eq!(hosts(&rig, product), ["dup.example", "other.example"]);
        assert_clean(&rig, product);
    }
}

/// Something to add, to change in place, to replace, to hand over and to withdraw.
async fn world_to_kill(product: &str) -> Rig {
    let mut rig = Rig::at_graph(product).await;
    rig.set("THREATCONNECT_PAGE_SIZE", "16");
    let ids: Vec<u64> = (0..16).map(|i| add_with_context(&rig, "Host", &format!("h{i}.example"))).collect();
    rig.add_of("Acme Source", "Host", "h1.example", |i| i.score = Some(900));
    assert!(rig.run().await.complete);
    rig.clock.advance(HOUR);
    {
        let mut world = rig.emulator.world();
        world.edit(ids[1], |indicator| indicator.score = Some(1_000));
        for id in &ids[2..5] {
            world.edit(*id, |indicator| indicator.rating = Some(1.0));
        }
        for id in &ids[5..8] {
            world.edit(*id, |indicator| indicator.tags.push("new".to_owned()));
        }
        for id in &ids[8..11] {
            world.edit(*id, |indicator| indicator.attributes.clear());
        }
        for id in &ids[11..14] {
            world.delete(*id);
        }
    }
    for i in 0..8 {
        add_with_context(&rig, "Host", &format!("n{i}.example"));
    }
    rig
}

async fn killed_at(product: &str, writes: i64, after: bool) -> bool {
    let about = format!("{product}: killed at {writes} (after: {after})");
    let mut rig = world_to_kill(product).await;
    let dying = Mortal::at(&rig.store, writes, after);
    rig.run_over(Arc::clone(&dying) as Arc<dyn StateStore>, "default", Request::default()).await;
    for _ in 0..2 {
        rig.clock.advance(HOUR);
        let report = rig.run().await;
        assert!(report.complete, "{about}: {report:#?}");
    }
    assert_eq!((rig.at_graphs(product).len(), hosts(&rig, product).len()), (21, 21), "{about}");
    assert!((11..14).all(|i| !hosts(&rig, product).contains(&format!("h{i}.example"))), "{about}");
    assert_eq!(entity(&rig, product, "h1.example")["description"], "ThreatConnect | Owner: Acme Org", "{about}");
    assert!((2..5).all(|i| entity(&rig, product, &format!("h{i}.example"))["severity"] == 1), "{about}");
    assert!((5..8).all(|i| entity(&rig, product, &format!("h{i}.example"))["tags"][2] == "new"), "{about}");
    assert!((8..11).all(|i| entity(&rig, product, &format!("h{i}.example"))["networkPort"].is_null()), "{about}");
    assert_clean(&rig, &about);
    rig.clock.advance(HOUR);
    let last = rig.run().await;
    assert_eq!((last.complete, last.requests.sink), (true, 0), "{about}: {last:#?}");
    dying.is_dead()
}

#[tokio::test]
async fn killed_at_every_write_each_observable_is_there_once() {
    for product in PRODUCTS {
        let mut writes = 1;
        while killed_at(product, writes, false).await | killed_at(product, writes, true).await {
            writes += 1;
        }
        assert!(writes > 10, "{writes} writes were tried");
    }
}

/// A rig whose job fills ten places at Defender with the best of thirty.
async fn rig_with_ten_places() -> (Rig, Vec<(u64, String, u16)>) {
    let mut rig = Rig::at_graph(DEFENDER).await;
    rig.set("INDICATOR_RESERVE_COUNT", "14990");
    let mut scores = Vec::new();
    for i in 0..30_u16 {
        let (value, score) = (format!("s{i}.example"), (i * 37) % 31 * 10);
        let id = rig.add_of("Acme Org", "Host", &value, |indicator| {
            context(indicator);
            indicator.score = Some(score);
        });
        scores.push((id, value, score));
    }
    (rig, scores)
}

fn best_ten(scores: &[(u64, String, u16)]) -> Vec<String> {
    let mut ranked: Vec<&(u64, String, u16)> = scores.iter().collect();
    ranked.sort_by_key(|(_, _, score)| std::cmp::Reverse(*score));
    let mut values: Vec<String> = ranked.into_iter().take(10).map(|(_, value, _)| value.clone()).collect();
    values.sort();
    values
}

/// The last become the first.
fn turn_around(rig: &Rig, scores: &mut [(u64, String, u16)]) {
    for (id, _, score) in scores {
        *score = 1_000 - *score;
        rig.score(*id, *score);
    }
}

fn peak(rig: &Rig) -> usize {
    rig.emulator.world().defender.peak(TENANT)
}

#[tokio::test]
async fn ten_places_at_defender_are_filled_with_the_best_and_never_more() {
    let (mut rig, mut scores) = rig_with_ten_places().await;
    let first = rig.run().await;
    assert_eq!((first.complete, first.outcomes.accepted, first.outcomes.over_cap), (true, 10, 20), "{first:#?}");
    assert_eq!(hosts(&rig, DEFENDER), best_ten(&scores));
    rig.clock.advance(HOUR);
    assert_sent(&rig.run().await, 0, 10, 0);
    turn_around(&rig, &mut scores);
    rig.clock.advance(HOUR);
    let turned = rig.run().await;
    assert!(turned.complete, "{turned:#?}");
    assert_eq!((hosts(&rig, DEFENDER), peak(&rig)), (best_ten(&scores), 10), "{turned:#?}");
    // All of them become other objects, for which one place is not enough at once.
    for (id, _, _) in &scores {
        rig.emulator.world().edit(*id, |indicator| indicator.tags.push("new".to_owned()));
    }
    for _ in 0..2 {
        rig.clock.advance(HOUR);
        assert!(rig.full().await.complete);
    }
    assert_eq!((hosts(&rig, DEFENDER), peak(&rig)), (best_ten(&scores), 10));
    assert!(rig.at_graphs(DEFENDER).values().all(|entity| entity["tags"][2] == "new"));
    assert_clean(&rig, "ten places");
}

#[tokio::test]
async fn ten_places_are_not_overrun_by_what_is_lost() {
    for (path, effect) in [
        ("submitTiIndicators", Effect::CutAfter),
        ("submitTiIndicators", Effect::Truncate),
        ("tiIndicators/", Effect::CutAfter),
        ("tiIndicators/", status(500, None)),
    ] {
        let (mut rig, mut scores) = rig_with_ten_places().await;
        for round in 0..3 {
            let about = format!("{path} {effect:?}, round {round}");
            rig.emulator.world().faults.push(fault(path, When::First(6), effect.clone()));
            rig.clock.advance(HOUR);
            rig.run().await;
            rig.emulator.world().faults.clear();
            for _ in 0..2 {
                rig.clock.advance(HOUR);
                let report = rig.full().await;
                assert!(report.complete, "{about}: {report:#?}");
            }
            assert_eq!((hosts(&rig, DEFENDER), peak(&rig)), (best_ten(&scores), 10), "{about}");
            assert_clean(&rig, &about);
            turn_around(&rig, &mut scores);
        }
    }
}

#[tokio::test]
async fn a_tenant_that_others_fill_rejects_nothing() {
    let (mut rig, scores) = rig_with_ten_places().await;
    rig.emulator.world().add_others(TENANT, 14_994);
    let report = rig.run().await;
    assert_eq!((report.outcomes.accepted, report.outcomes.rejected, report.outcomes.over_cap), (6, 0, 24), "{report:#?}");
    rig.emulator.world().remove_others(TENANT, 100);
    for _ in 0..2 {
        rig.clock.advance(HOUR);
        assert!(rig.full().await.complete);
    }
    assert_eq!(hosts(&rig, DEFENDER), best_ten(&scores));
}

#[tokio::test]
async fn ten_places_killed_at_every_write_are_never_overrun() {
    let mut writes = 1;
    loop {
        let mut died = false;
        for after in [false, true] {
            let about = format!("killed at {writes} (after: {after})");
            let (mut rig, mut scores) = rig_with_ten_places().await;
            rig.set("THREATCONNECT_PAGE_SIZE", "16");
            assert!(rig.run().await.complete);
            for (id, _, score) in scores.iter_mut().step_by(3) {
                *score = 900 - *score;
                rig.score(*id, *score);
            }
            for (id, _, _) in scores.iter().step_by(2) {
                rig.emulator.world().edit(*id, |indicator| indicator.tags.push("new".to_owned()));
            }
            rig.clock.advance(HOUR);
            let dying = Mortal::at(&rig.store, writes, after);
            rig.run_over(Arc::clone(&dying) as Arc<dyn StateStore>, "default", Request::default()).await;
            died |= dying.is_dead();
            // What was sent before the end becomes another object at once.
            for (id, _, _) in &scores {
                rig.emulator.world().edit(*id, |indicator| indicator.tags.push("later".to_owned()));
            }
            for _ in 0..4 {
                rig.clock.advance(HOUR);
                rig.run().await;
            }
            assert_eq!((hosts(&rig, DEFENDER), peak(&rig)), (best_ten(&scores), 10), "{about}");
            assert_clean(&rig, &about);
        }
        if !died {
            break;
        }
        writes += 1;
    }
    assert!(writes > 10, "{writes} writes were tried");
}

#[tokio::test]
async fn what_is_there_is_found_again_when_the_state_is_lost() {
    for product in PRODUCTS {
        let mut rig = Rig::at_graph(product).await;
        let ids: Vec<u64> = (0..70).map(|i| add_with_context(&rig, "Host", &format!("h{i}.example"))).collect();
        assert_sent(&rig.run().await, 70, 0, 0);
        assert_eq!(asked(&rig, GraphOperation::List), 1, "one look at what is empty");
        rig.store = Arc::new(SqliteStore::open_in_memory(Arc::new(rig.clock.clone())).expect("SQLite"));
        rig.emulator.world().edit(ids[0], |indicator| indicator.rating = Some(1.0));
        rig.emulator.world().edit(ids[1], |indicator| indicator.attributes.clear());
        rig.add("Host", "new.example");
        rig.clock.advance(HOUR);
        assert_sent(&rig.run().await, 71, 0, 0);
        assert_eq!(counts(&rig), (72, 69, 1), "{product}");
        assert_clean(&rig, product);
        rig.clock.advance(HOUR);
        assert_sent(&rig.run().await, 0, 71, 0);
    }
}

#[tokio::test]
async fn what_changes_after_an_answer_was_lost_overruns_no_places() {
    let (mut rig, scores) = rig_with_ten_places().await;
    // The service acts, and the run ends before it can look.
    rig.emulator.world().faults.push(fault("submitTiIndicators", When::Always, Effect::CutAfter));
    rig.emulator.world().faults.push(fault("filter=", When::Always, status(500, None)));
    rig.run().await;
    assert_eq!(hosts(&rig, DEFENDER).len(), 10);
    rig.emulator.world().faults.clear();
    for (id, _, _) in &scores {
        rig.emulator.world().edit(*id, |indicator| indicator.tags.push("new".to_owned()));
    }
    for _ in 0..3 {
        rig.clock.advance(HOUR);
        rig.full().await;
    }
    assert_eq!((hosts(&rig, DEFENDER), peak(&rig)), (best_ten(&scores), 10));
    assert_clean(&rig, "ten places");
}

#[tokio::test]
async fn a_third_of_all_answers_bad_and_still_everything_is_there_once() {
    for product in PRODUCTS {
        let mut rig = Rig::at_graph(product).await;
        let ids: Vec<u64> = (0..400).map(|i| add_with_context(&rig, "Host", &format!("h{i}.example"))).collect();
        let kinds = [status(429, None), status(500, None), Effect::Cut, Effect::CutAfter, Effect::Truncate];
        for (i, effect) in kinds.into_iter().enumerate() {
            let when = When::Chance { permille: 60, state: i as u64 };
            rig.emulator.world().faults.push(fault("", when, effect));
        }
        for round in 0..6_usize {
            {
                let mut world = rig.emulator.world();
                for id in ids.iter().skip(round).step_by(9) {
                    world.edit(*id, |indicator| match round % 3 {
                        0 => indicator.rating = Some(1.0),
                        1 => indicator.tags.push(format!("t{round}")),
                        _ => indicator.attributes.clear(),
                    });
                }
                world.delete(ids[round * 20]);
            }
            rig.run().await;
            rig.clock.advance(HOUR);
        }
        rig.emulator.world().faults.clear();
        for _ in 0..2 {
            rig.clock.advance(HOUR);
            assert!(rig.full().await.complete);
        }
        assert_eq!((rig.at_graphs(product).len(), hosts(&rig, product).len()), (394, 394));
        let first = entity(&rig, product, "h9.example");
        assert_eq!((first["severity"].as_u64(), first["tags"].as_array().map(Vec::len)), (Some(1), Some(2)), "{first}");
        assert_clean(&rig, product);
    }
}

#[tokio::test]
async fn the_documented_rate_is_kept_by_both_products_together() {
    let mut rig = Rig::at_graph(DEFENDER).await;
    rig.set("JOBS", "one,two");
    rig.set("TWO__TARGET_PRODUCT", SENTINEL);
    let ids = rig.add_hosts(1_300);
    for job in ["one", "two"] {
        assert!(rig.run_job(job, Request::default()).await.complete);
    }
    for id in &ids {
        rig.emulator.world().edit(*id, |indicator| indicator.false_positives = None);
        rig.emulator.world().edit(*id, |indicator| indicator.owner = "Acme Source".to_owned());
    }
    for job in ["one", "two"] {
        let report = rig.run_job(job, Request::default()).await;
        assert!(report.complete && report.outcomes.accepted == 1_300, "{report:#?}");
    }
    let world = rig.emulator.world();
    assert!(world.graph.requests.values().sum::<u64>() > 1_300);
    assert_eq!(world.graph.throttled, 0);
}
