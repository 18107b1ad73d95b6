//! Defender's own interface: what it takes, what it answers, and what goes wrong there.

use emulator::faults::{Effect, Fault, When};
use emulator::{Service, TENANT};
use indicator_relay::export::Request;

use crate::rig::{HOUR, Rig, assert_sent};

fn fault(path: &str, when: When, effect: Effect) -> Fault {
    Fault { service: Service::Defender, path: path.to_owned(), body: String::new(), when, effect }
}

fn status(status: u16, retry_after: Option<&str>) -> Effect {
    let body = r#"{"error":{"code":"X","message":"said by a fault","target":"corr-1"}}"#.to_owned();
    Effect::Status { status, body, retry_after: retry_after.map(str::to_owned) }
}

/// Nothing was sent that could not be told apart, and nothing is there twice.
#[track_caller]
fn assert_clean(rig: &Rig) {
    let world = rig.emulator.world();
    assert_eq!(world.defender.ambiguous, Vec::<String>::new());
    drop(world);
    let mut values = rig.at_defenders();
    let count = values.len();
    values.dedup();
    assert_eq!(values.len(), count, "something is there twice: {:?}", rig.at_defenders());
}

#[tokio::test]
async fn the_first_run_sends_everything_and_later_ones_what_changed() {
    let mut rig = Rig::at_defender().await;
    let ids = rig.add_hosts(600);
    assert_sent(&rig.run().await, 600, 0, 0);
    assert_eq!(rig.emulator.world().requests(Service::Defender), 1 + 2, "one look, two imports");
    assert_sent(&rig.run().await, 0, 600, 0);
    rig.clock.advance(HOUR);
    let now = rig.now();
    rig.emulator.world().touch(ids[0], now, |indicator| indicator.rating = Some(5.0));
    rig.emulator.world().edit(ids[1], |indicator| indicator.tags.push("no field for it".to_owned()));
    rig.emulator.world().delete(ids[2]);
    assert_sent(&rig.run().await, 1, 598, 1);
    assert_eq!((rig.at_defenders().len(), rig.emulator.world().defender.created), (599, 600));
    let world = rig.emulator.world();
    let h0 = world.at_defender(TENANT, now).into_iter().find(|i| i.value == "h0.example").expect("there").clone();
    assert_eq!((h0.severity.as_deref(), h0.action.as_str(), h0.generate_alert), (Some("High"), "Audit", true));
    drop(world);
    assert_clean(&rig);
}

#[tokio::test]
async fn what_defender_does_not_take_is_skipped_with_the_reason() {
    let mut rig = Rig::at_defender().await;
    for (kind, value) in [
        ("Address", "203.0.113.7"),
        ("Address", "2001:db8::7"),
        ("Address", "10.1.2.3"),
        ("CIDR", "203.0.113.0/24"),
        ("Host", "a.example"),
        ("URL", "https://a.example/x"),
        ("EmailAddress", "a@a.example"),
        ("Email Subject", "hello"),
        ("User Agent", "EvilBot"),
    ] {
        rig.add(kind, value);
    }
    rig.add_of("Acme Org", "File", &"a".repeat(64), |file| {
        file.md5 = Some("b".repeat(32));
        file.sha1 = Some("c".repeat(40));
    });
    let report = rig.run().await;
    assert_eq!((report.complete, report.outcomes.accepted, report.outcomes.skipped), (true, 5, 7), "{report:#?}");
    let expected = ["2001:db8:0:0:0:0:0:7".to_owned(), "203.0.113.7".to_owned(), "a.example".to_owned(), "a".repeat(64)];
    assert_eq!(rig.at_defenders()[..4], expected);
    for reason in ["no e-mail", "no ranges", "no user agents", "public addresses only", "longest hash"] {
        assert!(report.reasons.iter().any(|r| r.reason.contains(reason)), "{reason}: {:#?}", report.reasons);
    }
    rig.set("DEFENDER_FILE_HASHES", "all");
    rig.clock.advance(HOUR);
    assert_sent(&rig.run().await, 2, 5, 0);
}

#[tokio::test]
async fn lines_in_any_order_and_spelling_find_their_items() {
    let mut rig = Rig::at_defender().await;
    rig.emulator.world().defender.normalise_echo = true;
    rig.emulator.world().defender.stranger = Some("stranger.example".to_owned());
    rig.add("Address", "2001:DB8::0:7");
    rig.add("URL", "HTTP://B.Example");
    rig.add_hosts(40);
    assert_sent(&rig.run().await, 42, 0, 0);
    assert_sent(&rig.run().await, 0, 42, 0);
    assert_clean(&rig);
}

#[tokio::test]
async fn an_item_without_a_line_is_unanswered_and_sent_again() {
    let mut rig = Rig::at_defender().await;
    rig.add_hosts(30);
    rig.emulator.world().defender.omit.push("h7.example".to_owned());
    let report = rig.run().await;
    assert_eq!((report.complete, report.outcomes.accepted, report.outcomes.unanswered), (false, 29, 1), "{report:#?}");
    rig.emulator.world().defender.omit.clear();
    rig.clock.advance(HOUR);
    assert_sent(&rig.run().await, 1, 29, 0);
    assert_clean(&rig);
}

#[tokio::test]
async fn a_refused_item_is_rejected_alone_and_told_with_its_reason() {
    let mut rig = Rig::at_defender().await;
    rig.emulator.world().defender.refuse_md5 = true;
    rig.add_hosts(3);
    rig.add_of("Acme Org", "File", &"d".repeat(32), |_| ());
    let report = rig.run().await;
    assert_eq!((report.complete, report.outcomes.accepted, report.changes.newly_rejected), (true, 3, 1), "{report:#?}");
    let app = rig.app();
    let entry = &app.exporter.registered().await.expect("a list")[0];
    let rejected = app.exporter.rejections(entry).await.expect("a list");
    assert!(rejected.len() == 1 && !rejected[0].reason.is_empty(), "{rejected:?}");
    rig.clock.advance(HOUR);
    let again = rig.run().await;
    assert_eq!((again.outcomes.rejected, again.changes.newly_rejected, again.outcomes.accepted), (1, 0, 0));
}

#[tokio::test]
async fn another_action_is_another_object_and_the_old_one_goes_after_it() {
    let mut rig = Rig::at_defender().await;
    rig.add_hosts(5);
    assert_sent(&rig.run().await, 5, 0, 0);
    rig.set("ACTION_TO_TAKE", "Block");
    rig.clock.advance(HOUR);
    assert_sent(&rig.run().await, 5, 0, 0);
    let world = rig.emulator.world();
    let actions: Vec<String> = world.at_defender(TENANT, rig.now()).into_iter().map(|i| i.action.clone()).collect();
    assert_eq!(actions, ["Block"; 5]);
    assert_eq!((world.defender.created, world.defender.deleted), (10, 5));
    drop(world);
    assert_clean(&rig);
}

#[tokio::test]
async fn a_change_of_action_that_is_not_answered_leaves_one_object() {
    for (path, effect) in [
        ("import", Effect::CutAfter),
        ("import", Effect::Truncate),
        ("BatchDelete", Effect::CutAfter),
        ("BatchDelete", status(500, None)),
        ("BatchDelete", status(429, Some("7200"))),
    ] {
        let mut rig = Rig::at_defender().await;
        rig.add_hosts(5);
        assert_sent(&rig.run().await, 5, 0, 0);
        rig.set("ACTION_TO_TAKE", "Block");
        rig.clock.advance(HOUR);
        rig.emulator.world().faults.push(fault(path, When::Always, effect.clone()));
        let failed = rig.run().await;
        assert!(!failed.complete, "{path} {effect:?}: {failed:#?}");
        rig.emulator.world().faults.clear();
        rig.clock.advance(HOUR * 3);
        for _ in 0..2 {
            rig.clock.advance(HOUR);
            let report = rig.run().await;
            assert!(report.complete, "{path} {effect:?}: {report:#?}");
        }
        let actions: Vec<String> =
            rig.emulator.world().at_defender(TENANT, rig.now()).into_iter().map(|i| i.action.clone()).collect();
        assert_eq!(actions, ["Block"; 5], "{path} {effect:?}");
        assert_clean(&rig);
    }
}

#[tokio::test]
async fn a_change_of_action_that_is_taken_back_leaves_nothing_behind() {
    let mut rig = Rig::at_defender().await;
    rig.add_hosts(5);
    assert_sent(&rig.run().await, 5, 0, 0);
    rig.set("ACTION_TO_TAKE", "Block");
    rig.clock.advance(HOUR);
    rig.emulator.world().faults.push(fault("import", When::Always, Effect::CutAfter));
    assert!(!rig.run().await.complete);
    rig.emulator.world().faults.clear();
    rig.set("ACTION_TO_TAKE", "Alert");
    rig.clock.advance(HOUR);
    assert!(rig.run().await.complete);
    let world = rig.emulator.world();
    let actions: Vec<&str> = world.at_defender(TENANT, rig.now()).into_iter().map(|i| i.action.as_str()).collect();
    assert_eq!(actions, ["Audit"; 5]);
}

#[tokio::test]
async fn one_id_that_vanished_does_not_stop_the_other_deletes() {
    for also_deletes_the_rest in [false, true] {
        let mut rig = Rig::at_defender().await;
        rig.emulator.world().defender.batch_deletes_rest = also_deletes_the_rest;
        let ids = rig.add_hosts(60);
        assert_sent(&rig.run().await, 60, 0, 0);
        for id in &ids[..12] {
            rig.emulator.world().delete(*id);
        }
        let vanishes = Fault { body: "IndicatorIds".to_owned(), ..fault("BatchDelete", When::First(1), status(404, None)) };
        rig.emulator.world().faults.push(vanishes);
        rig.clock.advance(HOUR);
        assert_sent(&rig.run().await, 0, 48, 12);
        assert_eq!(rig.at_defenders().len(), 48);
    }
}

#[tokio::test]
async fn what_somebody_deleted_is_back_after_the_next_full_run() {
    let mut rig = Rig::at_defender().await;
    rig.add_hosts(10);
    assert_sent(&rig.run().await, 10, 0, 0);
    rig.emulator.world().delete_at_defender(TENANT, "h3.example");
    rig.clock.advance(HOUR);
    assert_sent(&rig.run().await, 1, 9, 0);
    assert_eq!(rig.at_defenders().len(), 10);
}

#[tokio::test]
async fn a_permission_lost_in_the_middle_fails_the_run_and_marks_nothing() {
    let mut rig = Rig::at_defender().await;
    rig.set("THREATCONNECT_PAGE_SIZE", "500");
    rig.add_hosts(1_500);
    rig.emulator.world().faults.push(fault("import", When::From(2), status(403, None)));
    let report = rig.run().await;
    let error = report.error.clone().expect("an error");
    assert!(error.contains("Ti.ReadWrite.All") && !error.contains('\n'), "{error}");
    assert_eq!((report.complete, report.outcomes.rejected, report.withdrawn), (false, 0, 0));
    rig.emulator.world().faults.clear();
    rig.clock.advance(HOUR);
    let report = rig.run().await;
    assert!(report.complete && rig.at_defenders().len() == 1_500, "{report:#?}");
    rig.emulator.world().apps[0].roles.clear();
    rig.clock.advance(HOUR);
    rig.add("Host", "later.example");
    let error = rig.run().await.error.expect("an error");
    assert!(error.contains("Ti.ReadWrite.All"), "{error}");
}

#[tokio::test]
async fn every_form_of_retry_after_is_lived_with() {
    for (header, complete) in
        [(Some("2.5"), true), (None, true), (Some("-5"), true), (Some("soon"), true), (Some("99999999"), false)]
    {
        let mut rig = Rig::at_defender().await;
        rig.add_hosts(10);
        rig.emulator.world().faults.push(fault("import", When::First(1), status(429, header)));
        let report = rig.run().await;
        assert_eq!(report.complete, complete, "{header:?}: {report:#?}");
        if !complete {
            assert!(report.not_before.is_some() && report.error.is_some(), "{report:#?}");
            rig.clock.advance(HOUR);
            assert_sent(&rig.run().await, 10, 0, 0);
        }
        assert_clean(&rig);
    }
}

#[tokio::test]
async fn what_may_not_be_listed_is_still_delivered() {
    let mut rig = Rig::at_defender().await;
    let ids = rig.add_hosts(5);
    rig.emulator.world().faults.push(fault("/api/indicators?", When::Always, status(403, None)));
    assert_sent(&rig.run().await, 5, 0, 0);
    rig.emulator.world().delete(ids[0]);
    rig.clock.advance(HOUR);
    assert_sent(&rig.run().await, 0, 4, 1);
    assert_eq!(rig.at_defenders().len(), 4);
}

#[tokio::test]
async fn what_another_application_made_is_left_alone() {
    let mut rig = Rig::at_defender().await;
    rig.set("ACTION_TO_TAKE", "Block");
    rig.emulator.world().add_others(TENANT, 1);
    let theirs = rig.at_defenders().remove(0);
    let id = rig.add("Host", &theirs);
    rig.add_hosts(2);
    let report = rig.run().await;
    assert_eq!((report.outcomes.accepted, report.outcomes.skipped), (2, 1), "{report:#?}");
    assert!(report.reasons[0].reason.contains("made by another application"), "{:#?}", report.reasons);
    rig.emulator.world().delete(id);
    rig.clock.advance(HOUR);
    assert_sent(&rig.run().await, 0, 2, 0);
    assert!(rig.at_defenders().contains(&theirs) && rig.emulator.world().defender.overwritten.is_empty());
}

#[tokio::test]
async fn what_an_analyst_adds_beside_ours_stays_theirs() {
    let mut rig = Rig::at_defender().await;
    let id = rig.add_hosts(2)[0];
    assert_sent(&rig.run().await, 2, 0, 0);
    rig.emulator.world().add_at_defender(TENANT, "h0.example", "Block");
    rig.set("ACTION_TO_TAKE", "Block");
    rig.clock.advance(HOUR);
    let report = rig.run().await;
    assert_eq!((report.outcomes.accepted, report.outcomes.skipped), (1, 1), "{report:#?}");
    rig.emulator.world().delete(id);
    rig.clock.advance(HOUR);
    assert_eq!(rig.run().await.withdrawn, 1);
    let world = rig.emulator.world();
    let left: Vec<&str> = world.at_defender(TENANT, rig.now()).into_iter().map(|i| i.action.as_str()).collect();
    assert!(left == ["Block", "Block"] && world.defender.overwritten.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_action_that_was_changed_in_the_portal_is_set_back() {
    let mut rig = Rig::at_defender().await;
    rig.add_hosts(3);
    assert_sent(&rig.run().await, 3, 0, 0);
    rig.emulator.world().change_at_defender(TENANT, "h1.example", "Allowed");
    rig.clock.advance(HOUR);
    assert!(rig.run().await.complete);
    let world = rig.emulator.world();
    let actions: Vec<&str> = world.at_defender(TENANT, rig.now()).into_iter().map(|i| i.action.as_str()).collect();
    assert_eq!(actions, ["Audit"; 3]);
}

#[tokio::test]
async fn device_groups_stand_side_by_side() {
    let mut rig = Rig::at_defender().await;
    rig.set("JOBS", "all,servers");
    rig.set("SERVERS__DEFENDER_DEVICE_GROUPS", "Servers|Jump hosts");
    rig.set("SERVERS__ACTION_TO_TAKE", "Block");
    rig.add_hosts(3);
    for job in ["all", "servers", "all", "servers"] {
        let report = rig.run_job(job, Request::default()).await;
        assert!(report.complete, "{report:#?}");
        rig.clock.advance(HOUR);
    }
    let world = rig.emulator.world();
    let groups = world.at_defender(TENANT, rig.now()).into_iter().map(|i| (i.action.clone(), i.rbac_group_names.len()));
    let mut groups: Vec<(String, usize)> = groups.collect();
    groups.sort();
    let expected = [("Audit".to_owned(), 0), ("Block".to_owned(), 2)].map(|pair| vec![pair; 3]).concat();
    assert_eq!(groups, expected);
}
