//! What users do, and what goes wrong around them.

use std::time::Duration;

use emulator::{Indicator, WORKSPACE};
use indicator_relay::export::{Mode, Request};

use crate::rig::{HOUR, Rig};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn the_first_run_sends_everything_and_the_second_nothing() {
    let mut rig = Rig::new().await;
    rig.add_hosts(250);
    let first = rig.run().await;
    assert_eq!((first.complete, first.outcomes.accepted, first.requests.sink), (true, 250, 3), "{first:#?}");
    let second = rig.run().await;
    assert_eq!((second.complete, second.outcomes.unchanged, second.requests.sink), (true, 250, 0));
    assert_eq!(rig.live().len(), 250);
    rig.assert_nothing_stale();
}

#[tokio::test]
async fn what_changes_is_sent_again_and_what_leaves_is_withdrawn() {
    let mut rig = Rig::new().await;
    let ids = rig.add_hosts(30);
    rig.run().await;
    rig.clock.advance(HOUR);
    let now = rig.now();
    {
        let mut world = rig.emulator.world();
        world.touch(ids[0], now, |indicator| indicator.confidence = Some(99));
        world.edit(ids[1], |indicator| indicator.tags.push("APT29".to_owned()));
        world.deactivate(ids[2]);
        world.delete(ids[3]);
    }
    let report = rig.full().await;
    assert_eq!((report.outcomes.accepted, report.outcomes.unchanged, report.withdrawn), (2, 26, 2), "{report:#?}");
    assert_eq!(rig.object("h0.example")["confidence"], 99);
    assert_eq!(rig.object("h1.example")["labels"][0], "APT29");
    assert_eq!(rig.live().len(), 28);
    rig.clock.advance(HOUR);
    rig.emulator.world().edit(ids[2], |indicator| indicator.active = true);
    let back = rig.full().await;
    assert_eq!((back.outcomes.accepted, rig.live().len()), (1, 29), "it comes back under the same id");
    rig.assert_nothing_stale();
}

#[tokio::test]
async fn objects_are_refreshed_before_they_expire() {
    let mut rig = Rig::new().await;
    rig.set("EXPIRATION_DAYS_NETWORK", "7");
    rig.add_hosts(3);
    rig.run().await;
    rig.clock.advance(DAY * 3);
    assert_eq!(rig.run().await.outcomes.unchanged, 3);
    rig.clock.advance(DAY);
    let report = rig.run().await;
    assert_eq!((report.outcomes.accepted, report.changes.refreshed), (3, 3));
    rig.clock.advance(DAY * 6);
    assert_eq!(rig.live().len(), 3);
}

#[tokio::test]
async fn an_incremental_run_reads_what_was_modified_and_a_full_one_sees_tags() {
    let mut rig = Rig::new().await;
    rig.set("ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN", "on");
    rig.set("LAST_RUN", "30 days ago");
    let ids = rig.add_hosts(20);
    rig.clock.advance(HOUR);
    assert_eq!(rig.run().await.mode, Mode::Full);
    rig.clock.advance(HOUR);
    let now = rig.now();
    rig.emulator.world().touch(ids[0], now, |indicator| indicator.rating = Some(5.0));
    rig.emulator.world().edit(ids[1], |indicator| indicator.tags.push("late".to_owned()));
    rig.clock.advance(Duration::from_secs(60));
    let report = rig.run().await;
    assert_eq!((report.mode, report.read.indicators, report.outcomes.accepted), (Mode::Incremental, 1, 1), "{report:#?}");
    rig.clock.advance(DAY);
    let report = rig.run().await;
    assert_eq!((report.mode, report.outcomes.accepted), (Mode::Full, 1), "{report:#?}");
    assert_eq!(rig.object("h1.example")["labels"][0], "late");
}

#[tokio::test]
async fn one_value_of_two_owners_is_one_object_with_the_better_context() {
    let mut rig = Rig::new().await;
    rig.add("Host", "other.example");
    let low = rig.add_of("Acme Org", "Host", "dup.example", |i| i.score = Some(100));
    let high = rig.add_of("Acme Source", "Host", "DUP.example.", |i| i.score = Some(900));
    let report = rig.run().await;
    assert_eq!((report.outcomes.accepted, report.outcomes.duplicate), (2, 1));
    assert_eq!(rig.object("dup.example")["description"], "ThreatConnect | Owner: Acme Source");
    rig.clock.advance(HOUR);
    rig.emulator.world().edit(high, |indicator| indicator.score = Some(50));
    let report = rig.full().await;
    assert_eq!(rig.object("dup.example")["description"], "ThreatConnect | Owner: Acme Org", "{report:#?}");
    rig.clock.advance(HOUR);
    rig.emulator.world().delete(low);
    let report = rig.full().await;
    assert_eq!(report.withdrawn, 0);
    assert_eq!(rig.object("dup.example")["description"], "ThreatConnect | Owner: Acme Source", "{report:#?}");
    rig.assert_nothing_stale();
}

#[tokio::test]
async fn two_jobs_on_one_destination_agree_on_alert_or_block() {
    let mut rig = Rig::new().await;
    rig.set("JOBS", "alerts,blocks");
    rig.set("BLOCKS__ACTION_TO_TAKE", "Block");
    rig.set("BLOCKS__MINIMUM_THREATASSESS_SCORE", "500");
    let id = rig.add_of("Acme Org", "Host", "both.example", |i| i.score = Some(700));
    rig.add_of("Acme Org", "Host", "alert.example", |i| i.score = Some(100));
    for job in ["alerts", "blocks", "alerts", "blocks"] {
        let report = rig.run_job(job, Request::default()).await;
        assert!(report.complete, "{report:#?}");
        rig.clock.advance(HOUR);
    }
    assert_eq!(rig.live_hosts(), ["alert.example", "both.example"]);
    rig.emulator.world().edit(id, |indicator| indicator.score = Some(400));
    for job in ["blocks", "alerts", "blocks"] {
        let report = rig.run_job(job, Request { full: true, ..Request::default() }).await;
        if report.refused_withdrawal.is_some() {
            let app = rig.app();
            app.exporter.approve_withdrawal(&app.exporter.jobs()[1]).await.expect("something to approve");
        }
        rig.clock.advance(HOUR);
    }
    let object = rig.object("both.example");
    assert!(
        object["external_references"][0]["description"].as_str().is_some_and(|text| text.contains("Action Alert")),
        "{object}"
    );
    rig.assert_nothing_stale();
}

#[tokio::test]
async fn an_empty_source_withdraws_nothing_until_it_is_approved() {
    let mut rig = Rig::new().await;
    let ids = rig.add_hosts(100);
    rig.run().await;
    rig.clock.advance(HOUR);
    for id in &ids {
        rig.emulator.world().delete(*id);
    }
    let refused = rig.run().await;
    let told = refused.refused_withdrawal.clone().expect("a refusal");
    assert_eq!(
        (told.rows, told.of, told.owners.as_slice(), rig.live().len()),
        (100, 100, ["Acme Org".to_owned()].as_slice(), 100)
    );
    rig.clock.advance(HOUR);
    {
        let app = rig.app();
        app.exporter.approve_withdrawal(&app.exporter.jobs()[0]).await.expect("something to approve");
    }
    let report = rig.full().await;
    assert_eq!((report.withdrawn, rig.live().len()), (100, 0), "{report:#?}");
    assert!(rig.app().exporter.approve_withdrawal(&rig.app().exporter.jobs()[0]).await.is_err(), "used once");
}

#[tokio::test]
async fn an_approval_lapses_after_seven_days() {
    let mut rig = Rig::new().await;
    let ids = rig.add_hosts(60);
    rig.run().await;
    for id in &ids[..40] {
        rig.emulator.world().delete(*id);
    }
    assert!(rig.full().await.refused_withdrawal.is_some());
    let app = rig.app();
    app.exporter.approve_withdrawal(&app.exporter.jobs()[0]).await.expect("something to approve");
    rig.clock.advance(DAY * 8);
    assert!(rig.full().await.refused_withdrawal.is_some());
    assert_eq!(rig.live().len(), 60);
}

#[tokio::test]
async fn never_send_takes_back_what_went_out_before() {
    let mut rig = Rig::new().await;
    rig.add_hosts(5);
    rig.add("Host", "login.contoso.example");
    rig.add("URL", "https://www.contoso.example/x");
    rig.run().await;
    assert_eq!(rig.live().len(), 7);
    rig.set("NEVER_SEND", "contoso.example");
    rig.clock.advance(HOUR);
    let report = rig.run().await;
    assert_eq!((report.mode, report.outcomes.skipped, report.withdrawn, rig.live().len()), (Mode::Full, 2, 2, 5), "{report:#?}");
}

#[tokio::test]
async fn a_hash_that_left_its_file_is_withdrawn() {
    let mut rig = Rig::new().await;
    rig.add_hosts(3);
    let id = rig.add_of("Acme Org", "File", &"A".repeat(64), |file| file.md5 = Some("B".repeat(32)));
    assert_eq!(rig.run().await.outcomes.accepted, 5);
    rig.clock.advance(HOUR);
    rig.emulator.world().edit(id, |file| file.md5 = None);
    let report = rig.full().await;
    assert_eq!((report.withdrawn, rig.live().len()), (1, 4), "{report:#?}");
}

#[tokio::test]
async fn an_indicator_that_cannot_be_read_protects_what_is_there() {
    let mut rig = Rig::new().await;
    let ids = rig.add_hosts(5);
    rig.run().await;
    rig.clock.advance(HOUR);
    rig.emulator.world().edit(ids[0], |i| i.raw = Some(format!("{{\"id\":{},\"type\":7,\"dateAdded\":[]}}", ids[0])));
    let report = rig.full().await;
    assert_eq!((report.complete, report.read.unreadable, report.withdrawn, rig.live().len()), (true, 1, 0, 5), "{report:#?}");
    rig.emulator.world().edit(ids[1], |i| i.raw = Some("{\"type\":\"Host\"}".to_owned()));
    let report = rig.full().await;
    assert_eq!(
        (report.complete, report.withdrawn, rig.live().len()),
        (false, 0, 5),
        "without an id nobody knows which one it is"
    );
}

#[tokio::test]
async fn a_filter_changed_by_mistake_is_refused_with_its_numbers() {
    let mut rig = Rig::new().await;
    for i in 0..60 {
        rig.add_of("Acme Org", "Host", &format!("h{i}.example"), |indicator| indicator.tags = vec![format!("t{}", i % 3)]);
    }
    rig.run().await;
    rig.set("TAGS_FILTER", "t0");
    rig.clock.advance(HOUR);
    let report = rig.run().await;
    assert_eq!(report.refused_withdrawal.map(|refused| (refused.rows, refused.of)), Some((40, 60)));
    rig.settings.remove("TAGS_FILTER");
    rig.clock.advance(HOUR);
    let report = rig.run().await;
    assert_eq!((report.refused_withdrawal, report.withdrawn, rig.live().len()), (None, 0, 60));
}

#[tokio::test]
async fn settings_changed_in_the_middle_of_a_run_start_a_full_one() {
    let mut rig = Rig::new().await;
    rig.set("THREATCONNECT_PAGE_SIZE", "10");
    rig.add_hosts(100);
    let request = Request { budget: Some(Duration::ZERO), ..Request::default() };
    let begun = rig.run_job("default", request).await;
    assert!(!begun.complete && begun.not_before.is_some(), "{begun:#?}");
    rig.set("DEFAULT_TLP_LEVEL", "red");
    let report = rig.run().await;
    assert_eq!((report.mode, report.complete, report.outcomes.accepted), (Mode::Full, true, 100), "{report:#?}");
    assert_ne!(report.run, begun.run);
    assert_eq!(rig.object("h7.example")["object_marking_refs"][0], "marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed");
}

#[tokio::test]
async fn a_run_whose_time_is_over_goes_on_in_a_continuation() {
    let mut rig = Rig::new().await;
    rig.set("THREATCONNECT_PAGE_SIZE", "100");
    rig.add_hosts(2_000);
    let mut turns = 0;
    let report = loop {
        turns += 1;
        let report = rig.run_job("default", Request { budget: Some(Duration::from_secs(3)), ..Request::default() }).await;
        if report.complete {
            break report;
        }
        assert!(report.error.is_none(), "{report:#?}");
    };
    assert!(turns > 2, "{turns}");
    assert_eq!((report.outcomes.accepted, report.read.indicators, rig.live().len()), (2_000, 2_000, 2_000));
    assert_eq!(rig.emulator.world().sentinel.uploaded, 2_000, "nothing was sent twice");
}

#[tokio::test]
async fn a_lost_ledger_is_right_again_after_one_run_and_one_expiry() {
    let mut rig = Rig::new().await;
    let ids = rig.add_hosts(10);
    rig.run().await;
    rig.emulator.world().delete(ids[0]);
    let clock: std::sync::Arc<dyn indicator_relay::platform::clock::Clock> = std::sync::Arc::new(rig.clock.clone());
    rig.store = std::sync::Arc::new(indicator_relay::storage::sqlite::SqliteStore::open_in_memory(clock).expect("SQLite"));
    rig.clock.advance(HOUR);
    let report = rig.run().await;
    assert_eq!((report.outcomes.accepted, rig.live().len()), (9, 10));
    rig.clock.advance(DAY * 16);
    rig.run().await;
    rig.clock.advance(DAY * 15);
    assert_eq!(rig.live().len(), 9, "what nobody knew of has expired, the rest was refreshed");
    rig.assert_nothing_stale();
}

#[tokio::test]
async fn a_ledger_restored_from_an_old_backup_converges() {
    let mut rig = Rig::new().await;
    rig.set("STATE_FILE", "unused");
    let ids = rig.add_hosts(10);
    let dir = tempfile::tempdir().expect("a folder");
    let clock: std::sync::Arc<dyn indicator_relay::platform::clock::Clock> = std::sync::Arc::new(rig.clock.clone());
    let open = |name: &str| {
        let store = indicator_relay::storage::sqlite::SqliteStore::open(&dir.path().join(name), std::sync::Arc::clone(&clock));
        std::sync::Arc::new(store.expect("SQLite"))
    };
    rig.store = open("state.db");
    rig.run().await;
    rig.store = open("other.db"); // closes the first, whose file is the backup
    std::fs::copy(dir.path().join("state.db"), dir.path().join("backup.db")).expect("a copy");
    drop(std::fs::copy(dir.path().join("state.db-wal"), dir.path().join("backup.db-wal")));
    rig.store = open("state.db");
    rig.clock.advance(HOUR);
    let now = rig.now();
    rig.emulator.world().touch(ids[0], now, |i| i.confidence = Some(1));
    rig.emulator.world().delete(ids[1]);
    rig.full().await;
    rig.store = open("backup.db");
    rig.clock.advance(HOUR);
    let report = rig.full().await;
    assert_eq!((report.complete, rig.live().len()), (true, 9), "{report:#?}");
    assert_eq!(rig.object("h0.example")["confidence"], 1);
    rig.assert_nothing_stale();
}

#[tokio::test]
async fn two_runs_at_once_do_not_mix() {
    let mut rig = Rig::new().await;
    rig.add_hosts(10);
    let begun = rig.run_job("default", Request { budget: Some(Duration::ZERO), ..Request::default() }).await;
    assert!(!begun.complete);
    let app = rig.app();
    let job = &app.exporter.jobs()[0];
    let progress = indicator_relay::export::Progress::default();
    let request = Request::default();
    let one = app.exporter.run(job, &request, ("a", "one"), &progress);
    let other = app.exporter.run(job, &request, ("b", "other"), &progress);
    let (one, other) = tokio::join!(one, other);
    let complete = [&one, &other].into_iter().filter(|report| report.complete).count();
    assert!(complete >= 1, "{one:#?} {other:#?}");
    let waits = [&one, &other].into_iter().find_map(|report| report.error.clone());
    if let Some(text) = waits {
        assert!(text.contains("until") || text.contains("taken over") || text.contains("ended just now"), "{text}");
    }
    assert_eq!(rig.live().len(), 10);
    assert!(rig.run().await.complete);
}

#[tokio::test]
async fn an_unknown_owner_is_an_error_that_names_near_ones() {
    let mut rig = Rig::new().await;
    rig.add_hosts(3);
    rig.set("OWNERS", "Acme Orc");
    let report = rig.run().await;
    let error = report.error.expect("an error");
    assert!(error.contains("`Acme Orc`") && error.contains("Acme Org"), "{error}");
    assert_eq!(rig.live().len(), 0);
}

#[tokio::test]
async fn a_server_that_does_not_sort_is_read_by_windows_of_ids() {
    let mut rig = Rig::new().await;
    rig.set("THREATCONNECT_PAGE_SIZE", "50");
    rig.emulator.world().ignore_sorting = true;
    rig.add_hosts(300);
    rig.add_of("Acme Org", "Host", "far.example", |i| i.id = 9_007_199_254_918_487);
    let report = rig.run().await;
    assert_eq!((report.complete, report.read.indicators, rig.live().len()), (true, 301, 301), "{report:#?}");
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_says_what_would_happen() {
    let mut rig = Rig::new().await;
    let ids = rig.add_hosts(30);
    rig.run().await;
    rig.clock.advance(HOUR);
    rig.emulator.world().delete(ids[0]);
    rig.add("Host", "new.example");
    let uploaded = rig.emulator.world().sentinel.uploaded;
    let app = rig.app();
    let clock: std::sync::Arc<dyn indicator_relay::platform::clock::Clock> = std::sync::Arc::new(rig.clock.clone());
    let scratch = indicator_relay::storage::sqlite::SqliteStore::open_in_memory(clock).expect("SQLite");
    let preview = app.exporter.preview(std::sync::Arc::new(scratch));
    let dir = tempfile::tempdir().expect("a folder");
    let journal = indicator_relay::export::Journal::new(dir.path()).expect("a folder");
    let progress = indicator_relay::export::Progress::with_journal(journal);
    let request = Request { full: true, ..Request::default() };
    let report = preview.run(&preview.jobs()[0], &request, ("p", "w"), &progress).await;
    progress.into_journal().expect("a journal").finish().expect("written");
    assert_eq!((report.changes.added, report.withdrawn, report.outcomes.unchanged), (1, 1, 29), "{report:#?}");
    assert_eq!(rig.emulator.world().sentinel.uploaded, uploaded);
    let payloads = std::fs::read_to_string(dir.path().join("payloads.jsonl")).expect("payloads");
    assert!(emulator::stix::check(payloads.trim()).is_ok(), "{payloads}");
    assert!(std::fs::read_to_string(dir.path().join("withdrawn.jsonl")).expect("a list").contains("h0.example"));
    let real = rig.full().await;
    assert_eq!((real.changes.added, real.withdrawn, real.outcomes.unchanged), (1, 1, 29), "the real run does what was shown");
}

#[tokio::test]
async fn a_retired_job_takes_back_only_what_nobody_else_claims() {
    let mut rig = Rig::new().await;
    rig.set("JOBS", "one,two");
    rig.set("ONE__TAGS_FILTER", "a");
    rig.set("TWO__TAGS_FILTER", "b");
    let tag =
        |tags: &'static [&'static str]| move |i: &mut Indicator| i.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    rig.add_of("Acme Org", "Host", "a.example", tag(&["a"]));
    rig.add_of("Acme Org", "Host", "b.example", tag(&["b"]));
    rig.add_of("Acme Org", "Host", "both.example", tag(&["a", "b"]));
    rig.run_job("one", Request::default()).await;
    rig.run_job("two", Request::default()).await;
    assert_eq!(rig.live().len(), 3);
    rig.clock.advance(HOUR);
    rig.set("JOBS", "two");
    rig.settings.remove("ONE__TAGS_FILTER");
    let app = rig.app();
    let retired = app.exporter.retire("one", ("r", "w"), &indicator_relay::export::Progress::default()).await.expect("retired");
    assert_eq!((retired[0].claims, retired[0].withdrawn), (2, 1));
    assert_eq!(rig.live_hosts(), ["b.example", "both.example"]);
    assert!(rig.app().exporter.registered().await.expect("a list").iter().all(|entry| entry.job == "two"));
}

#[tokio::test]
async fn explain_finds_an_address_however_it_is_written() {
    let mut rig = Rig::new().await;
    rig.add("Address", "2001:0DB8:0000:0000:0000:0000:93DE:FBCC");
    rig.add("CIDR", "2001:75b4:c371:0:0:0:0:0/48");
    assert!(rig.run().await.complete);
    let app = rig.app();
    for asked in ["2001:db8::93de:fbcc", "2001:db8:0:0:0:0:93de:fbcc", "2001:75b4:c371::/48"] {
        let told = app.exporter.explain(&app.exporter.jobs()[0], asked).await.expect("an explanation");
        assert_eq!((told.verdict.as_str(), told.indicators.len()), ("at the target, as it should be", 1), "{asked}");
    }
}

#[tokio::test]
async fn explain_says_why_and_what_would_be_sent() {
    let mut rig = Rig::new().await;
    rig.set("MINIMUM_CONFIDENCE_RATING", "50");
    rig.add_of("Acme Org", "Host", "good.example", |i| i.confidence = Some(80));
    rig.add_of("Acme Org", "Host", "low.example", |i| i.confidence = Some(10));
    rig.add_of("Acme Org", "Mutex", "Global\\x", |i| i.confidence = Some(80));
    rig.add_of("Acme Org", "File", &"AB".repeat(32), |i| i.confidence = Some(80));
    rig.run().await;
    let app = rig.app();
    let job = &app.exporter.jobs()[0];
    let good = app.exporter.explain(job, "good.example").await.expect("an answer");
    assert_eq!(good.verdict, "at the target, as it should be");
    assert!(good.targets[0].last_sent.is_some() && good.indicators[0].payload.is_some());
    let low = app.exporter.explain(job, "low.example").await.expect("an answer");
    assert_eq!(low.verdict, "not sent: the filters do not let it pass");
    assert_eq!(low.indicators[0].filters.get("MINIMUM_CONFIDENCE_RATING"), Some(&false));
    assert_eq!(low.indicators[0].filters.get("INDICATOR_TYPES"), Some(&true));
    let hash = app.exporter.explain(job, &"ab".repeat(32)).await.expect("an answer");
    assert_eq!(hash.verdict, "at the target, as it should be");
    let unknown = app.exporter.explain(job, "nobody.example").await.expect("an answer");
    assert_eq!(unknown.verdict, "not in ThreatConnect, as far as the API user sees");
}

#[tokio::test]
async fn a_token_signs_in_as_well_as_a_key() {
    let mut rig = Rig::new().await;
    rig.settings.remove("API_USER");
    rig.settings.remove("THREATCONNECT_SECRET_KEY");
    rig.set("THREATCONNECT_TOKEN", emulator::API_TOKEN);
    rig.add_hosts(2);
    assert_eq!(rig.run().await.outcomes.accepted, 2);
    assert_eq!(rig.emulator.world().live(WORKSPACE, rig.now()).len(), 2);
}

#[tokio::test]
async fn many_generated_indicators_of_all_types_are_accounted_for() {
    let mut rig = Rig::new().await;
    let now = rig.now();
    {
        let mut world = rig.emulator.world();
        emulator::generate(11, 3_000, now).for_each(|indicator| _ = world.add(indicator));
    }
    rig.set("SENTINEL_USER_AGENTS", "on");
    let report = rig.run().await;
    assert!(report.complete && report.outcomes.rejected == 0, "{report:#?}");
    assert_eq!(report.requests.throttled, 0, "the pace stays under the limit");
    let again = rig.run().await;
    assert_eq!((again.outcomes.accepted, again.requests.sink), (0, 0), "{again:#?}");
}

#[tokio::test]
async fn who_lost_its_row_is_a_duplicate_in_every_run_from_then_on() {
    let mut rig = Rig::new().await;
    rig.set("THREATCONNECT_PAGE_SIZE", "1");
    rig.add_of("Acme Org", "Host", "dup.example", |i| i.score = Some(100));
    assert_eq!(rig.run().await.outcomes.accepted, 1);
    rig.clock.advance(HOUR);
    rig.add_of("Acme Source", "Host", "dup.example", |i| i.score = Some(900));
    let report = rig.run().await;
    assert_eq!((report.outcomes.accepted, report.changes.changed), (1, 1), "{report:#?}");
    for _ in 0..2 {
        rig.clock.advance(HOUR);
        let report = rig.run().await;
        assert_eq!((report.outcomes.unchanged, report.outcomes.duplicate, report.requests.sink), (1, 1, 0), "{report:#?}");
    }
}

#[tokio::test]
async fn changed_settings_force_a_full_run_even_where_only_modified_indicators_are_sent() {
    let mut rig = Rig::new().await;
    rig.set("ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN", "on");
    rig.set("LAST_RUN", "30 days ago");
    rig.add_hosts(10);
    rig.clock.advance(HOUR);
    assert_eq!(rig.run().await.mode, Mode::Full);
    rig.clock.advance(HOUR);
    assert_eq!(rig.run().await.mode, Mode::Incremental);
    rig.set("ACTION_TO_TAKE", "Block");
    let report = rig.run().await;
    assert_eq!((report.mode, report.changes.changed), (Mode::Full, 10), "{report:#?}");
    rig.clock.advance(HOUR);
    assert_eq!(rig.run().await.mode, Mode::Incremental);
}
