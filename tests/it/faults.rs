//! Services that refuse, break off, throttle or lie.

use emulator::Service;
use emulator::faults::{Effect, Fault, When};

use crate::rig::{HOUR, Rig};

fn status(status: u16, body: &str) -> Effect {
    Effect::Status { status, body: body.to_owned(), retry_after: None }
}

#[tokio::test]
async fn one_429_is_waited_out() {
    let mut rig = Rig::new().await;
    rig.add_hosts(1_000);
    let body = r#"{"statusCode":429,"message":"Rate limit is exceeded. Try again in 7 seconds."}"#;
    rig.emulator.world().faults.nth(Service::Sentinel, 3, status(429, body));
    let report = rig.run().await;
    assert_eq!(
        (report.complete, report.outcomes.accepted, report.requests.retried, report.requests.throttled),
        (true, 1_000, 1, 1)
    );
    assert_eq!(rig.emulator.world().requests(Service::Sentinel), 11);
}

#[tokio::test]
async fn one_500_is_tried_again() {
    let mut rig = Rig::new().await;
    rig.add_hosts(1_000);
    rig.emulator.world().faults.nth(
        Service::Sentinel,
        5,
        status(500, "{\"statusCode\":500,\"message\":\"Internal server error\"}"),
    );
    let report = rig.run().await;
    assert_eq!((report.complete, report.outcomes.accepted, report.requests.sink), (true, 1_000, 11));
}

#[tokio::test]
async fn one_record_refused_for_good_is_rejected_alone_and_not_sent_again() {
    let mut rig = Rig::new().await;
    rig.add_hosts(1_000);
    rig.emulator.world().sentinel.refuse.push("'h77.example'".to_owned());
    let report = rig.run().await;
    assert_eq!(
        (report.complete, report.outcomes.accepted, report.outcomes.rejected, report.changes.newly_rejected),
        (true, 999, 1, 1)
    );
    let app = rig.app();
    let entry = &app.exporter.registered().await.expect("a list")[0];
    let rejected = app.exporter.rejections(entry).await.expect("a list");
    assert_eq!((rejected.len(), rejected[0].value.as_str()), (1, "h77.example"));
    assert!(rejected[0].reason.contains("Property=pattern") && rejected[0].correlation.is_some());
    rig.clock.advance(HOUR);
    let again = rig.run().await;
    assert_eq!((again.outcomes.rejected, again.changes.newly_rejected, again.requests.sink), (1, 0, 0));
    rig.emulator.world().sentinel.refuse.clear();
    let retried =
        rig.run_job("default", indicator_relay::export::Request { full: true, retry_rejected: true, ..Default::default() }).await;
    assert_eq!((retried.outcomes.accepted, rig.live().len()), (1, 1_000));
    assert!(rig.app().exporter.rejections(entry).await.expect("a list").is_empty());
}

#[tokio::test]
async fn a_lasting_500_ends_the_run_and_the_next_one_goes_on() {
    let mut rig = Rig::new().await;
    rig.add_hosts(1_000);
    rig.emulator
        .world()
        .faults
        .always(Service::Sentinel, status(500, "{\"statusCode\":500,\"message\":\"Internal server error\"}"));
    let report = rig.run().await;
    let error = report.error.clone().expect("an error");
    assert!(error.contains("status 500") && !report.complete && report.not_before.is_some(), "{error}");
    assert_eq!((report.outcomes.accepted, report.withdrawn, report.watermark), (0, 0, None));
    rig.emulator.world().faults.clear();
    rig.clock.advance(HOUR);
    let report = rig.run().await;
    assert_eq!((report.complete, report.outcomes.accepted, rig.live().len()), (true, 1_000, 1_000), "{report:#?}");
}

#[tokio::test]
async fn an_answer_that_is_lost_is_sent_again_without_harm() {
    let mut rig = Rig::new().await;
    rig.add_hosts(300);
    rig.emulator.world().faults.nth(Service::Sentinel, 2, Effect::CutAfter);
    let report = rig.run().await;
    assert_eq!((report.complete, report.outcomes.accepted), (true, 300), "{report:#?}");
    rig.assert_nothing_stale();
}

#[tokio::test]
async fn everything_refused_alike_marks_nothing_as_rejected() {
    let mut rig = Rig::new().await;
    rig.add_hosts(300);
    rig.emulator.world().sentinel.refuse.push("indicator".to_owned());
    let report = rig.run().await;
    let error = report.error.expect("an error");
    assert!(error.contains("refused all 300 items alike"), "{error}");
    assert_eq!(report.outcomes.rejected, 0);
    rig.emulator.world().sentinel.refuse.clear();
    rig.clock.advance(HOUR);
    let report = rig.run().await;
    assert_eq!((report.complete, report.outcomes.accepted), (true, 300), "{report:#?}");
}

#[tokio::test]
async fn a_missing_role_names_the_role() {
    let mut rig = Rig::new().await;
    rig.add_hosts(3);
    rig.emulator.world().faults.always(Service::Sentinel, status(403, "{\"statusCode\":403,\"message\":\"no\"}"));
    let error = rig.run().await.error.expect("an error");
    assert!(error.contains("Microsoft Sentinel Contributor"), "{error}");
}

#[tokio::test]
async fn wrong_secrets_are_told_apart() {
    let mut rig = Rig::new().await;
    rig.add_hosts(3);
    for (key, value, expected) in [
        ("THREATCONNECT_SECRET_KEY", "wrong", "THREATCONNECT_SECRET_KEY does not belong to API_USER"),
        ("API_USER", "1", "API_USER (guide: Api User) is unknown"),
        (
            "MICROSOFT_GRAPH_CLIENT_SECRET",
            "wrong",
            "MICROSOFT_GRAPH_CLIENT_SECRET (guide: Microsoft Graph Client Secret) is wrong",
        ),
        ("MICROSOFT_GRAPH_CLIENT_ID", "wrong", "MICROSOFT_GRAPH_CLIENT_ID (guide: Microsoft Graph Client ID) is unknown"),
        ("MICROSOFT_GRAPH_TENANT_ID", "wrong", "MICROSOFT_GRAPH_TENANT_ID (guide: Microsoft Graph Tenant ID) is unknown"),
        ("SENTINEL_SCOPE", "https://graph.microsoft.com/.default", "SENTINEL_SCOPE"),
        ("SENTINEL_WORKSPACE_ID", "00000000-0000-4000-8000-000000000000", "SENTINEL_WORKSPACE_ID"),
    ] {
        let before = rig.settings.insert(key.to_owned(), value.to_owned());
        let error = rig.run().await.error.unwrap_or_else(|| panic!("{key} was not noticed"));
        assert!(error.contains(expected), "{key}: {error}");
        assert!(!error.contains('\n'), "one line: {error}");
        match before {
            Some(before) => drop(rig.settings.insert(key.to_owned(), before)),
            None => drop(rig.settings.remove(key)),
        }
        rig.clock.advance(HOUR);
    }
    assert_eq!(rig.run().await.outcomes.accepted, 3);
}

#[tokio::test]
async fn a_source_that_answers_nonsense_moves_and_withdraws_nothing() {
    let mut rig = Rig::new().await;
    let ids = rig.add_hosts(40);
    let first = rig.run().await;
    rig.emulator.world().delete(ids[0]);
    for (effect, expected) in [
        (Effect::Body("<html><head><title>Sign in</title></head></html>".to_owned()), "an HTML page (Sign in)"),
        (Effect::Body("{\"status\":\"Success\",\"data\":[{\"id\":".to_owned()), "cut off"),
        (status(401, "{\"status\":\"Error\",\"message\":\"Unauthorized\"}"), "credentials are not accepted"),
        (status(503, "<html><title>Unavailable</title></html>"), "licensed"),
        (status(400, "{\"status\":\"Error\",\"message\":\"Invalid TQL\"}"), "check TQL and the filters (Invalid TQL)"),
        (Effect::Truncate, "broke off"),
        (Effect::Cut, "THREATCONNECT_URL"),
    ] {
        rig.clock.advance(HOUR);
        rig.emulator.world().faults.clear();
        rig.emulator.world().faults.push(Fault {
            service: Service::ThreatConnect,
            path: "/v3/indicators".to_owned(),
            body: String::new(),
            when: When::Always,
            effect: effect.clone(),
        });
        let report = rig.run().await;
        let error = report.error.unwrap_or_else(|| panic!("{effect:?} was not noticed"));
        assert!(error.contains(expected) && !error.contains('\n'), "{effect:?}: {error}");
        assert_eq!((report.watermark, report.withdrawn), (first.watermark, 0));
    }
    rig.emulator.world().faults.clear();
    rig.clock.advance(HOUR);
    assert_eq!((rig.run().await.withdrawn, rig.live().len()), (1, 39));
}

#[tokio::test]
async fn a_page_that_never_ends_is_an_error() {
    let mut rig = Rig::new().await;
    rig.add_hosts(3);
    let page =
        r#"{"status":"Success","data":[{"id":5,"type":"Host","dateAdded":"2026-01-01T00:00:00Z","hostName":"a.example"}]}"#;
    rig.emulator.world().faults.push(Fault {
        service: Service::ThreatConnect,
        path: "/v3/indicators".to_owned(),
        body: String::new(),
        when: When::Always,
        effect: Effect::Body(page.to_owned()),
    });
    let error = rig.run().await.error.expect("an error");
    assert!(error.contains("would never end"), "{error}");
}

#[tokio::test]
async fn an_item_that_breaks_the_service_is_found_by_halving_and_rejected_after_three_runs() {
    let mut rig = Rig::new().await;
    rig.add_hosts(100);
    rig.add("Host", "poison.example");
    rig.emulator.world().faults.push(Fault {
        service: Service::Sentinel,
        path: String::new(),
        body: "poison.example".to_owned(),
        when: When::Always,
        effect: status(500, "{\"statusCode\":500,\"message\":\"Internal server error\"}"),
    });
    for run in 1..=2 {
        let report = rig.run().await;
        assert_eq!((report.complete, report.outcomes.unanswered, report.watermark), (false, 1, None), "run {run}: {report:#?}");
        assert_eq!(rig.live().len(), 100);
        rig.clock.advance(HOUR);
    }
    let report = rig.run().await;
    assert_eq!((report.complete, report.outcomes.rejected, report.outcomes.unanswered), (true, 1, 0), "{report:#?}");
    rig.emulator.world().faults.clear();
    rig.clock.advance(HOUR);
    let request = indicator_relay::export::Request { full: true, retry_rejected: true, ..Default::default() };
    assert_eq!(rig.run_job("default", request).await.outcomes.accepted, 1);
    rig.assert_nothing_stale();
}

#[tokio::test]
async fn a_third_of_all_answers_bad_and_still_everything_arrives() {
    let mut rig = Rig::new().await;
    rig.add_hosts(1_500);
    {
        let mut world = rig.emulator.world();
        let kinds = [
            status(429, "{\"statusCode\":429,\"message\":\"Rate limit is exceeded. Try again in 2 seconds.\"}"),
            status(500, "{}"),
            Effect::Cut,
            Effect::CutAfter,
            Effect::Truncate,
        ];
        for (i, effect) in kinds.into_iter().enumerate() {
            for service in [Service::Sentinel, Service::ThreatConnect] {
                let when = When::Chance { permille: 60, state: i as u64 };
                world.faults.push(Fault { service, path: String::new(), body: String::new(), when, effect: effect.clone() });
            }
        }
        world.sentinel.refuse.push("'h5".to_owned());
    }
    for _ in 0..10 {
        let report = rig.run().await;
        if report.complete {
            break;
        }
        rig.clock.advance(HOUR);
    }
    rig.emulator.world().faults.clear();
    rig.clock.advance(HOUR);
    let report = rig.full().await;
    let refused = (0..1_500).filter(|i| format!("'h{i}").starts_with("'h5")).count() as u64;
    assert_eq!((report.complete, report.outcomes.rejected, report.outcomes.unanswered), (true, refused, 0), "{report:#?}");
    assert_eq!(rig.live().len() as u64, 1_500 - refused);
    rig.assert_nothing_stale();
}
