//! The process killed at every state write, before it and after it: nothing is lost, and what is sent twice is little.

use std::sync::Arc;

use indicator_relay::export::Request;
use indicator_relay::storage::StateStore;

use crate::between::Mortal;
use crate::rig::{HOUR, Rig};

/// A world with something to add, change, hand over and withdraw.
async fn world() -> (Rig, Vec<u64>) {
    let mut rig = Rig::new().await;
    rig.set("THREATCONNECT_PAGE_SIZE", "20");
    let ids = rig.add_hosts(50);
    rig.add_of("Acme Source", "Host", "h1.example", |i| i.score = Some(900));
    assert!(rig.run().await.complete);
    rig.clock.advance(HOUR);
    let now = rig.now();
    {
        let mut world = rig.emulator.world();
        for id in &ids[10..20] {
            world.touch(*id, now, |i| i.confidence = Some(77));
        }
        for id in &ids[30..35] {
            world.delete(*id);
        }
        world.edit(ids[1], |i| i.score = Some(1_000));
    }
    for i in 0..60 {
        rig.add("Host", &format!("new{i}.example"));
    }
    (rig, ids)
}

async fn killed_at(writes: i64, after: bool) -> bool {
    let (mut rig, _) = world().await;
    let uploaded = rig.emulator.world().sentinel.uploaded;
    let dying = Mortal::at(&rig.store, writes, after);
    let killed = rig.run_over(Arc::clone(&dying) as Arc<dyn StateStore>, "default", Request::default()).await;
    let died = dying.is_dead();
    assert_eq!(killed.complete, !died || killed.complete);
    let mut report = rig.run().await;
    for _ in 0..3 {
        if report.complete {
            break;
        }
        report = rig.run().await;
    }
    assert!(report.complete, "killed at {writes} (after: {after}): {report:#?}");
    rig.clock.advance(HOUR);
    let last = rig.full().await;
    assert!(last.complete, "{last:#?}");
    let live = rig.live_hosts();
    assert_eq!(live.len(), 105, "killed at {writes} (after: {after})");
    assert!(!live.contains(&"h30.example".to_owned()));
    assert_eq!(rig.object("h10.example")["confidence"], 77);
    assert_eq!(rig.object("h1.example")["description"], "ThreatConnect | Owner: Acme Org", "killed at {writes} (after: {after})");
    rig.assert_nothing_stale();
    // 60 new, 10 changed, 1 handed over, 5 withdrawn; what was under way may go twice.
    let sent = rig.emulator.world().sentinel.uploaded - uploaded;
    assert!(sent <= 76 + 76, "killed at {writes} (after: {after}): {sent} sent");
    died
}

#[tokio::test]
async fn killed_at_every_write_nothing_is_lost() {
    let mut writes = 1;
    loop {
        let before = killed_at(writes, false).await;
        let after = killed_at(writes, true).await;
        if !before && !after {
            break;
        }
        writes += 1;
    }
    assert!(writes > 10, "{writes} writes were tried");
}

#[tokio::test]
async fn killed_a_hundred_times_a_large_export_still_arrives_whole() {
    let mut rig = Rig::new().await;
    rig.set("THREATCONNECT_PAGE_SIZE", "100");
    rig.add_hosts(9_000);
    let (mut kills, mut dice) = (0, 0x9e37_79b9_u64);
    let report = loop {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let writes = if kills < 100 { 5 + i64::try_from(dice >> 61).expect("small") } else { i64::MAX };
        let dying = Mortal::at(&rig.store, writes, dice & (1 << 40) != 0);
        let report = rig.run_over(Arc::clone(&dying) as Arc<dyn StateStore>, "default", Request::default()).await;
        if !dying.is_dead() {
            break report;
        }
        kills += 1;
    };
    assert!(kills >= 100, "{kills} kills");
    assert_eq!((report.complete, report.read.indicators, rig.live().len()), (true, 9_000, 9_000), "{report:#?}");
    assert_eq!(report.outcomes.accepted, 9_000, "what was sent before a kill counts as accepted by the run");
    let uploaded = rig.emulator.world().sentinel.uploaded;
    assert!(uploaded <= 9_000 + kills * 400, "{uploaded} uploads: no more than the pages under way at each kill");
    rig.assert_nothing_stale();
}
