//! Subscriptions as stories: what playbooks want is made, kept alive, replaced and given up; against a service over real HTTP.

mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use indicator_relay::app::playbooks::{Asked, Playbooks, Subscribing};
use indicator_relay::functions::Relay;
use indicator_relay::notifications::item::{ChangeType, Event, Item, LifecycleEvent, Origin, URGENT_QUEUE, Work};
use indicator_relay::notifications::wanted::Wanted;
use indicator_relay::platform::clock::{BoxFuture, Clock};
use indicator_relay::platform::http::{Authorize, Authorized, Http, Request};
use indicator_relay::subscriptions::catch_up::CaughtUp;
use indicator_relay::subscriptions::lifecycle::Answered;
use indicator_relay::subscriptions::{Change, Reason, Report, SubscriptionError, Unwanted};
use proptest::prelude::*;
use reqwest::Method;
use serde_json::json;

use crate::between::Mortal;
use crate::functions::{Handler, timer};
use crate::rig::Rig;
use world::{Bench, Fault, GOOD, error, wanted};

fn whats(report: &Report) -> Vec<&'static str> {
    report.done.iter().map(|done| done.what).collect()
}

fn failures(report: &Report) -> String {
    report.done.iter().filter_map(|done| done.error.clone()).collect::<Vec<_>>().join("\n")
}

fn lifecycle(subscription: &str, event: LifecycleEvent, group: Option<String>) -> Item {
    let received = "2026-11-24T09:00:00Z".parse().expect("a time");
    let item = Item::new(Origin::Graph, received, Event::Lifecycle(event));
    Item { subscription: subscription.to_owned(), group, ..item }
}

#[tokio::test]
async fn what_is_wanted_is_made_once_after_a_look_at_our_own_address() {
    let bench = Bench::new().await;
    let all = [wanted("users"), wanted("/users/"), Wanted { profile: Some("guide".to_owned()), ..wanted("groups") }];
    let report = bench.run(&all).await;
    assert_eq!(whats(&report), ["created", "created"], "two playbooks share the first: {report:#?}");
    {
        let world = bench.world();
        let first = world.log.iter().position(|(_, line)| line.starts_with("POST ")).expect("a POST");
        assert!(world.log[..first].iter().any(|(_, line)| line == "PROBE /relay/api/notifications"), "{:?}", world.log);
        let of =
            |resource: &str| world.subscriptions.values().find(|one| one.body["resource"] == resource).expect("made").clone();
        let users = of("users");
        assert_eq!(users.body["lifecycleNotificationUrl"], json!(bench.receiver()));
        assert_eq!(users.state, format!("v1.{}.random.mac-one", wanted("users").group()));
        assert_eq!(users.expires.duration_since(bench.clock.now()).as_mins(), 41_750);
        assert_eq!(of("groups").body["notificationUrl"], json!(format!("{}/guide", bench.receiver())));
        assert_eq!(of("groups").body["lifecycleNotificationUrl"], json!(bench.receiver()));
    }
    let lists = bench.calls("GET /v1.0/subscriptions");
    let report = bench.run(&all).await;
    assert_eq!(report.done, []);
    assert_eq!(bench.calls("GET /v1.0/subscriptions"), lists + 1, "one list call in a run");
    assert!(report.standing.iter().all(|standing| standing.minutes_left > 41_000 && !standing.expiring), "{report:#?}");
}

#[tokio::test]
async fn nothing_is_asked_of_graph_while_our_own_address_does_not_answer() {
    let bench = Bench::new().await;
    for (receiver, word) in [
        ((401, "text/html", true), "login"),
        ((200, "text/plain", false), "still encoded"),
        ((200, "text/html", true), "instead of text/plain"),
        ((503, "text/plain", true), "503"),
    ] {
        bench.world().receiver = receiver;
        let report = bench.reconciler().run(&[wanted("users")], Unwanted::Delete, true).await.expect("a report");
        assert!(failures(&report).contains(word) && failures(&report).contains("/relay/api/notifications"), "{report:#?}");
    }
    assert_eq!(bench.calls("POST /v1.0"), 0);
    bench.world().receiver = GOOD;
    bench.run_for(&[wanted("users")], 15).await;
    assert_eq!(bench.alive("users"), 1, "mended, it is tried again by itself");
}

#[tokio::test]
async fn half_of_a_life_later_one_update_gives_a_new_end() {
    let bench = Bench::new().await;
    let all = [Wanted { minutes: Some(60), ..wanted("users") }];
    bench.run(&all).await;
    bench.run_for(&all, 25).await;
    assert_eq!(bench.calls("PATCH"), 0, "not before");
    // What Graph certainly did not take is not counted: five minutes later it is sent again.
    bench.world().faults.push_back((Method::PATCH, "", Fault::Answer(503, json!({}))));
    let reports = bench.run_for(&all, 10).await;
    assert_eq!(reports.iter().flat_map(whats).collect::<Vec<_>>(), ["renewed", "renewed"]);
    assert!(failures(&reports[0]).contains("503") && failures(&reports[1]).is_empty(), "{reports:#?}");
    bench.run_for(&all, 24 * 60).await;
    let world = bench.world();
    assert_eq!((world.alive("users"), world.calls("POST")), (1, 1), "it was never made anew");
    assert!((45..=60).contains(&world.calls("PATCH")), "{}", world.calls("PATCH"));
}

#[tokio::test]
async fn what_is_gone_is_made_anew_and_what_was_missed_is_to_be_looked_up() {
    let bench = Bench::new().await;
    let all = [Wanted { minutes: Some(120), ..wanted("users") }];
    bench.run(&all).await;
    bench.advance(20);
    bench.world().subscriptions.clear();
    let report = bench.run(&all).await;
    assert_eq!(whats(&report), ["forgotten", "created"]);
    assert!(report.resyncs.iter().any(|resync| resync.reason == Reason::Removed), "{report:#?}");
    // Gone between the list and the update.
    bench.advance(61);
    bench.world().faults.push_back((Method::PATCH, "", Fault::Answer(404, error("ResourceNotFound", "gone"))));
    bench.world().jealous = false;
    let report = bench.run(&all).await;
    assert_eq!(whats(&report), ["forgotten", "created"]);
    bench.run(&all).await;
    assert_eq!(bench.alive("users"), 1, "what turned out to be there after all is not wanted twice");
}

#[tokio::test]
async fn the_number_of_minutes_that_graph_names_is_used_and_kept() {
    let bench = Bench::new().await;
    bench.world().most_minutes = Some(4_230);
    let report = bench.run(&[wanted("users")]).await;
    assert_eq!((whats(&report), failures(&report).as_str()), (vec!["created"], ""));
    assert_eq!(bench.calls("POST"), 2);
    let left = bench.only().1.expires.duration_since(bench.clock.now()).as_mins();
    assert_eq!(left, 4_229);
    bench.run(&[wanted("users"), wanted("users/x")]).await;
    assert_eq!(bench.calls("POST"), 3, "the next of its kind asks for no more");
}

#[tokio::test]
async fn a_renewal_for_too_long_is_sent_again_at_once_with_what_graph_allows() {
    let bench = Bench::new().await;
    let all = [Wanted { minutes: Some(2_880), ..wanted("users") }];
    bench.run(&all).await;
    bench.world().most_minutes = Some(1_440);
    bench.advance(1_441);
    let report = bench.reconciler().run(&all, Unwanted::Delete, true).await.expect("a report");
    assert_eq!((whats(&report), failures(&report).as_str()), (vec!["renewed"], ""), "{report:#?}");
    let left = bench.only().1.expires.duration_since(bench.clock.now()).as_mins();
    assert_eq!((left, bench.calls("refused PATCH"), bench.calls("PATCH")), (1_439, 1, 1));
    bench.advance(720);
    bench.run(&all).await;
    assert_eq!((bench.calls("refused PATCH"), bench.calls("PATCH")), (1, 2), "it is remembered");
}

#[tokio::test]
async fn one_that_has_ended_and_is_still_known_counts_once_and_not_as_there() {
    let bench = Bench::new().await;
    let all = [Wanted { minutes: Some(60), ..wanted("users") }];
    let report = bench.run(&all).await;
    assert_eq!(report.count.to_string(), "1 of 1 subscription is there");
    bench.advance(61);
    bench.world().outage = Some(Fault::Answer(503, json!({})));
    let report = bench.run(&all).await;
    assert_eq!((report.standing.len(), report.count.to_string().as_str()), (2, "0 of 1 subscription is there"), "{report:#?}");
}

#[tokio::test]
async fn a_lost_answer_is_resolved_by_the_next_list_and_nothing_is_made_twice() {
    let bench = Bench::new().await;
    for (jealous, tells_state) in [(true, true), (false, false)] {
        {
            let mut world = bench.world();
            (world.jealous, world.tells_state) = (jealous, tells_state);
            world.faults.push_back((Method::POST, "", Fault::Lost));
        }
        let all = [wanted(if jealous { "users" } else { "groups" })];
        let report = bench.reconciler().run(&all, Unwanted::Keep, false).await.expect("a report");
        assert!(failures(&report).contains("connection broke"), "{report:#?}");
        let rows = bench.store.scan("subscriptions", "a", "z", 1_000).await.expect("rows");
        let texts: Vec<String> = rows.iter().map(|row| String::from_utf8_lossy(&row.value).into_owned()).collect();
        let intent = texts.iter().any(|text| text.contains(&format!("v1.{}.random", all[0].group())));
        assert!(intent && !texts.iter().any(|text| text.contains("mac-")), "no client state is stored whole: {texts:#?}");
        bench.advance(5);
        let posts = bench.calls("POST");
        let report = bench.reconciler().run(&all, Unwanted::Keep, false).await.expect("a report");
        assert!(report.done.iter().any(|done| done.what == "created" && done.error.is_none()), "taken over: {report:#?}");
        assert_eq!(bench.calls("POST"), posts);
        assert_eq!(bench.alive(&all[0].resource), 1);
    }
    // The request itself was lost.
    bench.world().faults.push_back((Method::POST, "", Fault::Answer(500, json!({}))));
    bench.run(&[wanted("users"), wanted("groups"), wanted("users/y")]).await;
    assert_eq!(bench.alive("users/y"), 0);
    bench.run_for(&[wanted("users"), wanted("groups"), wanted("users/y")], 10).await;
    assert_eq!(bench.alive("users/y"), 1);
}

#[tokio::test]
async fn one_of_ours_that_nobody_remembers_is_taken_over_or_replaced() {
    let bench = Bench::new().await;
    let group = wanted("users").group();
    let (genuine, foreign) = (format!("v1.{group}.random.mac-one"), "somebody's".to_owned());
    let ours = bench.receiver();
    let good = bench.world().add("users", &ours, &genuine);
    assert_eq!(whats(&bench.run(&[wanted("users")]).await), ["created"]);
    assert_eq!((bench.only().0, bench.calls("POST")), (good, 0), "its client state is genuine");
    let old = bench.world().add("groups", &ours, &foreign);
    let report = bench.run(&[wanted("users"), wanted("groups")]).await;
    assert_eq!(whats(&report), ["deleted", "created"], "{report:#?}");
    assert!(!bench.world().subscriptions.contains_key(&old));
}

#[tokio::test]
async fn one_that_graph_names_and_does_not_show_is_in_the_way_and_asked_for_once() {
    let bench = Bench::new().await;
    let id = "5522bd62-7c96-4530-85b0-00b916f6151a";
    let taken = error("Conflict", &format!("Subscription Id {id} already exists for the requested combination"));
    bench.world().faults.push_back((Method::POST, "", Fault::Answer(409, taken)));
    let failed = failures(&bench.run(&[wanted("users")]).await);
    assert!(failed.contains(id) && failed.contains("who made it") && failed.contains("subscriptions list"), "{failed}");
    assert_eq!(bench.calls("POST"), 1);
}

/// Tokens with these roles, one after another.
#[derive(Debug)]
struct Roles {
    left: Mutex<Vec<&'static str>>,
    /// Another call has the next one made as soon as the first is used.
    elsewhere: bool,
}

impl Authorize for Roles {
    fn headers<'a>(&'a self, _: &'a Method, _: &'a str) -> BoxFuture<'a, Authorized> {
        let mut left = self.left.lock().expect("no panic");
        let claims = json!({"roles": [left[0]]});
        if self.elsewhere && left.len() > 1 {
            left.remove(0);
        }
        let token = format!("Bearer e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
        Box::pin(std::future::ready(Ok(vec![(reqwest::header::AUTHORIZATION, token.parse().expect("a header value"))])))
    }
    fn renew(&self) -> bool {
        assert!(!self.elsewhere, "it is made already");
        self.left.lock().expect("no panic").remove(0);
        true
    }
}

#[tokio::test]
async fn what_is_forbidden_is_asked_again_only_with_a_token_that_allows_more() {
    for (first, second, elsewhere, answered, calls) in
        [("a", "a", false, 403, 1), ("a", "b", false, 200, 2), ("a", "b", true, 200, 2)]
    {
        let bench = Bench::new().await;
        bench.world().faults.push_back((Method::GET, "subscriptions", Fault::Answer(403, error("Forbidden", "no"))));
        let (clock, base) = (Arc::new(bench.clock.clone()), bench.base.parse().expect("an address"));
        let bearer = Arc::new(Roles { left: Mutex::new(vec![first, second]), elsewhere });
        let http = Http::new("Graph", bench.client.clone(), clock, base, bearer);
        let path = "/v1.0/subscriptions".to_owned();
        let request = Request { operation: "look", method: Method::GET, path, body: None, idempotent: true };
        let reply = http.send(request).await.expect("an answer");
        assert_eq!((reply.status, bench.calls("GET")), (answered, calls), "{first} {second} {elsewhere}");
    }
}

#[tokio::test]
async fn what_others_made_is_never_touched() {
    let bench = Bench::new().await;
    let other = bench.world().add("users", "https://other.example/hook", "theirs");
    let stray = bench.world().add("groups", &bench.receiver(), "ours");
    let report = bench.run(&[wanted("users")]).await;
    assert!(failures(&report).contains(&other) && failures(&report).contains("another address (other.example)"), "{report:#?}");
    assert!(bench.world().subscriptions.contains_key(&other));
    assert!(!bench.world().subscriptions.contains_key(&stray), "it tells our address, and nobody wants it");
    let refused = bench.reconciler().delete(&other).await;
    assert!(matches!(refused, Err(SubscriptionError::Unknown(id)) if id == other));
    bench.world().jealous = false;
    bench.run_for(&[wanted("users")], 65).await;
    assert_eq!(bench.alive("users"), 2);
    bench.run(&[]).await;
    assert_eq!(bench.only().0, other);
}

#[tokio::test]
async fn what_nobody_wants_goes_unless_playbooks_could_not_be_read() {
    let bench = Bench::new().await;
    bench.run(&[wanted("users"), wanted("groups")]).await;
    let kept = bench.reconciler().run(&[wanted("users")], Unwanted::Keep, false).await.expect("a report");
    assert_eq!(kept.done, []);
    let planned = bench.reconciler().plan(&[wanted("users")], Unwanted::Delete).await.expect("a plan");
    assert!(matches!(planned.changes.as_slice(), [Change::Delete { resource, .. }] if resource == "groups"), "{planned:?}");
    assert_eq!(bench.world().subscriptions.len(), 2, "a plan does nothing");
    assert_eq!(whats(&bench.run(&[wanted("users")]).await), ["deleted"]);
    assert_eq!(bench.only().1.body["resource"], "users");
}

#[tokio::test]
async fn what_is_kept_and_what_is_wanted_of_one_resource_are_one_subscription() {
    use ChangeType::{Created, Deleted, Updated};
    let bench = Bench::new().await;
    let of = |changes: &[ChangeType]| [Wanted { change_types: changes.to_vec(), ..wanted("users/x/messages") }];
    let keep = async |all: &[Wanted]| bench.reconciler().run(all, Unwanted::Keep, true).await.expect("a report");
    let change_type = || bench.only().1.body["changeType"].as_str().unwrap_or_default().to_owned();
    bench.run(&of(&[Created, Updated])).await;
    // The one that wants what is created cannot be read any more, and another one wants deletions.
    bench.world().faults.push_back((Method::POST, "", Fault::Answer(403, error("Forbidden", "Insufficient privileges"))));
    let refused = keep(&of(&[Updated, Deleted])).await;
    assert_eq!(change_type(), "created,updated", "it is kept until there is another one: {refused:#?}");
    let report = keep(&of(&[Updated, Deleted])).await;
    assert_eq!((whats(&report), change_type().as_str()), (vec!["created", "deleted"], "created,deleted,updated"), "{report:#?}");
    assert!(report.standing.len() == 1 && report.standing[0].problem.is_none(), "{report:#?}");
    let report = keep(&of(&[Updated, Deleted])).await;
    assert_eq!((whats(&report), change_type().as_str()), (vec!["waits"], "created,deleted,updated"), "it tells of all");
    assert_eq!(report.standing.len(), 1, "{report:#?}");
    bench.run(&of(&[Updated, Deleted])).await;
    assert_eq!(change_type(), "deleted,updated", "mended, nobody wants the rest");
}

#[tokio::test]
async fn other_changes_of_a_resource_leave_no_gap() {
    let bench = Bench::new().await;
    bench.run(&[wanted("users")]).await;
    let more = [Wanted { change_types: vec![ChangeType::Updated, ChangeType::Deleted], ..wanted("users") }];
    bench.world().faults.push_back((Method::POST, "", Fault::Answer(403, error("Forbidden", "Insufficient privileges"))));
    let report = bench.run(&more).await;
    assert!(failures(&report).contains("permission"), "{report:#?}");
    assert_eq!(bench.alive("users"), 1, "the old one stays until there is a new one");
    let report = bench.reconciler().run(&more, Unwanted::Delete, true).await.expect("a report");
    assert_eq!(whats(&report), ["created", "deleted"]);
    assert_eq!(bench.only().1.body["changeType"], "deleted,updated");
}

#[tokio::test]
async fn where_there_is_room_for_one_other_changes_take_its_place() {
    let (quota, exists) = ("Subscription quota exceeded: limit of 1 reached", "A subscription already exists");
    for (status, code, said) in [(403, "Forbidden", quota), (409, "Conflict", exists)] {
        let bench = Bench::new().await;
        bench.run(&[wanted("teams/t/members")]).await;
        let more =
            [Wanted { change_types: vec![ChangeType::Created, ChangeType::Updated], urgent: true, ..wanted("teams/t/members") }];
        bench.world().faults.push_back((Method::POST, "", Fault::Answer(status, error(code, said))));
        let report = bench.run(&more).await;
        assert_eq!((whats(&report), failures(&report).as_str()), (vec!["deleted", "created"], ""), "{report:#?}");
        assert_eq!(bench.only().1.body["changeType"], "created,updated");
        assert_eq!(bench.run(&more).await.done, []);
    }
}

#[tokio::test]
async fn what_is_gone_before_it_is_replaced_is_not_made_anew() {
    let bench = Bench::new().await;
    bench.run(&[Wanted { minutes: Some(60), ..wanted("users") }]).await;
    bench.advance(31);
    bench.world().faults.push_back((Method::PATCH, "", Fault::Answer(404, error("ResourceNotFound", "gone"))));
    bench.world().jealous = false;
    let more = [Wanted { change_types: vec![ChangeType::Updated, ChangeType::Deleted], ..wanted("users") }];
    assert_eq!(whats(&bench.run(&more).await), ["forgotten", "created"]);
    assert_eq!(bench.calls("POST"), 2, "the first one, and what replaces it");
    bench.run(&more).await;
    assert_eq!(bench.only().1.body["changeType"], "deleted,updated");
}

#[tokio::test]
async fn an_address_is_updated_and_a_key_needs_a_new_subscription() {
    let mut bench = Bench::new().await;
    bench.run(&[wanted("users")]).await;
    let id = bench.only().0;
    let guided = [Wanted { profile: Some("guide".to_owned()), ..wanted("users") }];
    assert_eq!(whats(&bench.run(&guided).await), ["renewed"]);
    assert_eq!(bench.only().1.body["notificationUrl"], json!(format!("{}/guide", bench.receiver())));
    bench.key = "two";
    for jealous in [true, false] {
        bench.world().jealous = jealous;
        let report = bench.run(&guided).await;
        assert_eq!(failures(&report), "");
        assert_ne!(bench.only().0, id);
        assert!(bench.only().1.state.ends_with(bench.key));
        assert_eq!(bench.run(&guided).await.done, []);
        bench.key = "three";
    }
}

#[tokio::test]
async fn another_public_address_needs_new_subscriptions() {
    let mut bench = Bench::new().await;
    bench.run(&[wanted("users")]).await;
    bench.path = "relay-2";
    for (jealous, steps) in [(true, ["deleted", "created"]), (false, ["created", "deleted"])] {
        bench.world().jealous = jealous;
        assert_eq!(whats(&bench.run(&[wanted("users")]).await), steps, "there are never two where Graph allows one");
        assert_eq!(bench.only().1.body["lifecycleNotificationUrl"], json!(bench.receiver()));
        assert_eq!(bench.run(&[wanted("users")]).await.done, []);
        bench.path = "relay-3";
    }
    assert_eq!(bench.calls("PATCH"), 0);
}

#[tokio::test]
async fn a_new_certificate_comes_with_an_update() {
    let mut bench = Bench::new().await;
    let rich = [Wanted { rich: true, ..wanted("users/x/messages?$select=subject") }];
    let report = bench.run(&rich).await;
    assert!(report.done[0].why.contains("ENCRYPTION_CERTIFICATES"), "{report:#?}");
    bench.certificate = Some(("first".to_owned(), "QUJD".to_owned()));
    bench.run(&rich).await;
    assert_eq!(bench.only().1.body["encryptionCertificateId"], "first");
    assert_eq!(bench.only().1.body["includeResourceData"], true);
    bench.certificate = Some(("second".to_owned(), "REVG".to_owned()));
    assert_eq!(whats(&bench.run(&rich).await), ["renewed"]);
    let world = bench.world();
    assert_eq!(world.only().1.body["encryptionCertificateId"], "second");
    assert_eq!(world.only().1.body["encryptionCertificate"], "REVG");
    assert_eq!(world.calls("POST"), 1);
}

#[tokio::test]
async fn a_pause_that_graph_asks_for_is_kept_by_every_run() {
    let bench = Bench::new().await;
    bench.world().faults.push_back((Method::GET, "subscriptions", Fault::Pause(429, 1_800)));
    let report = bench.run(&[wanted("users")]).await;
    assert!(report.paused_until.is_some(), "{report:#?}");
    let calls = bench.world().log.len();
    bench.run_for(&[wanted("users")], 25).await;
    assert_eq!(bench.world().log.len(), calls, "nothing was asked meanwhile");
    bench.run_for(&[wanted("users")], 10).await;
    assert_eq!(bench.alive("users"), 1);
}

#[tokio::test]
async fn consent_that_is_gone_is_asked_for_slowly_and_told() {
    let bench = Bench::new().await;
    let all = [Wanted { minutes: Some(1_440), ..wanted("users") }];
    bench.run(&all).await;
    for _ in 0..20 {
        let denied = error("Authorization_RequestDenied", "Insufficient privileges to complete the operation.");
        bench.world().faults.push_back((Method::PATCH, "", Fault::Answer(403, denied)));
    }
    bench.advance(720);
    bench.run_for(&all, 240).await;
    let tries = bench.calls("PATCH");
    assert!((4..=5).contains(&tries), "about once an hour: {tries}");
    let standing = &bench.reconciler().standing(&all).await.expect("rows")[0];
    assert!(standing.serious && standing.problem.as_ref().is_some_and(|text| text.contains("permission")), "{standing:#?}");
    assert!(!standing.expiring);
    bench.run_for(&all, 150).await;
    assert!(bench.reconciler().standing(&all).await.expect("rows")[0].expiring, "under a quarter of its life");
    bench.world().faults.clear();
    bench.run_for(&all, 65).await;
    let standing = &bench.reconciler().standing(&all).await.expect("rows")[0];
    assert!(!standing.serious && standing.problem.is_none() && standing.minutes_left > 1_300, "{standing:#?}");
}

#[tokio::test]
async fn what_stands_between_us_and_graph_is_told_by_a_look_at_ourselves() {
    let bench = Bench::new().await;
    assert_eq!(bench.reconciler().probe().await, Ok(()));
    bench.world().receiver = (302, "text/plain", true);
    assert!(bench.reconciler().probe().await.is_err_and(|error| error.contains("redirects")));
}

#[tokio::test]
async fn the_command_line_shows_what_can_be_subscribed_to_and_says_what_is_missing() {
    let run = async |arguments: &[&str], environment: &std::collections::BTreeMap<String, String>| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_indicator-relay"));
        let output = command.args(arguments).env_clear().envs(environment).output().await.expect("started");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, _) = run(&["subscriptions", "resources", "--json"], &std::collections::BTreeMap::new()).await;
    let table: serde_json::Value = serde_json::from_str(&out).expect("one document");
    let rows = table["resources"].as_array().expect("rows");
    let user = rows.iter().find(|row| row["name"] == "user").expect("users");
    assert_eq!(user["paths"], json!(["users", "users/{id}"]));
    let (_, page, _) = run(&["subscriptions", "resources"], &std::collections::BTreeMap::new()).await;
    assert!(page.lines().next().is_some_and(|heading| heading.contains("In place of `{id}` put an id")) && !page.contains("{}"));
    assert_eq!((code, &user["minutes"], &user["changes"]), (Some(0), &json!(41_760), &json!(["updated", "deleted"])));
    let (rig, folder) = (Rig::new().await, tempfile::tempdir().expect("a folder"));
    let around = rig.surroundings(folder.path());
    let (code, _, err) = run(&["subscriptions", "plan"], &around.environment).await;
    assert!(code == Some(2) && err.contains("PLAYBOOKS_FILE"), "{err}");
}

#[tokio::test]
async fn one_instance_reconciles_at_a_time() {
    let bench = Bench::new().await;
    let (one, another) = (bench.reconciler(), bench.reconciler());
    let all = [wanted("users")];
    let ended = tokio::join!(one.run(&all, Unwanted::Delete, false), another.run(&all, Unwanted::Delete, false));
    let busy = [&ended.0, &ended.1].into_iter().filter(|ended| matches!(ended, Err(SubscriptionError::Busy { .. }))).count();
    assert_eq!((busy, bench.alive("users"), bench.calls("POST")), (1, 1, 1));
}

#[tokio::test]
async fn a_challenge_that_comes_many_times_is_answered_once() {
    let bench = Bench::new().await;
    bench.run(&[wanted("users")]).await;
    let id = bench.only().0;
    let item = lifecycle(&id, LifecycleEvent::ReauthorizationRequired, None);
    for _ in 0..5 {
        assert_eq!(bench.reconciler().lifecycle(&item).await.expect("answered"), Answered::Done(None));
        bench.advance(1);
    }
    assert_eq!((bench.calls("PATCH"), bench.calls("POST")), (1, 1));
    // The last ones may be about what came after the update: they are answered when that may be.
    bench.run_for(&[wanted("users")], 10).await;
    assert_eq!(bench.calls("PATCH"), 2);
    bench.run_for(&[wanted("users")], 30).await;
    assert_eq!(bench.calls("PATCH"), 2);
}

#[tokio::test]
async fn a_removed_subscription_is_made_anew_at_once() {
    let bench = Bench::new().await;
    bench.run(&[wanted("users/x/messages")]).await;
    let id = bench.only().0;
    let removed = lifecycle(&id, LifecycleEvent::SubscriptionRemoved, None);
    let asked = bench.reconciler().lifecycle(&removed).await.expect("answered");
    assert!(matches!(asked, Answered::Done(Some(_))));
    assert_eq!(bench.only().0, id, "Graph was asked: it is still there");
    bench.world().subscriptions.clear();
    for _ in 0..3 {
        let Answered::Done(Some(asked)) = bench.reconciler().lifecycle(&removed).await.expect("answered") else {
            panic!("a request to look up what was missed");
        };
        assert_eq!((asked.resource.as_str(), asked.reason), ("users/x/messages", Reason::Removed));
    }
    assert_eq!((bench.alive("users/x/messages"), bench.calls("POST")), (1, 2));
    // What was missed by one that is gone is still looked up.
    let missed = lifecycle(&id, LifecycleEvent::Missed, None);
    let Answered::Done(Some(asked)) = bench.reconciler().lifecycle(&missed).await.expect("answered") else {
        panic!("a request to look up what was missed");
    };
    assert_eq!(asked.reason, Reason::Missed);
    // Nobody knows this one yet; its group is known.
    let unknown = lifecycle("77", LifecycleEvent::Missed, None);
    assert!(matches!(bench.reconciler().lifecycle(&unknown).await, Ok(Answered::Later(_))));
    let group = Some(wanted("users/x/messages").group());
    let by_group = lifecycle("77", LifecycleEvent::Missed, group);
    assert!(matches!(bench.reconciler().lifecycle(&by_group).await, Ok(Answered::Done(Some(_)))));
}

#[tokio::test]
async fn a_challenge_of_one_that_was_made_unseen_waits_for_its_row_and_not_for_one_that_is_gone() {
    let bench = Bench::new().await;
    let all = [wanted("users")];
    let challenged = |id: &str| lifecycle(id, LifecycleEvent::ReauthorizationRequired, Some(wanted("users").group()));
    // The answer is lost: there is one, and an intent.
    bench.world().faults.push_back((Method::POST, "", Fault::Lost));
    bench.run(&all).await;
    let id = bench.only().0;
    assert!(matches!(bench.reconciler().lifecycle(&challenged(&id)).await, Ok(Answered::Later(_))));
    // Gone before anybody has seen it; it may still be about to be seen.
    bench.world().subscriptions.clear();
    assert!(matches!(bench.reconciler().lifecycle(&challenged(&id)).await, Ok(Answered::Later(_))));
    bench.run_for(&all, 10).await;
    assert_ne!(bench.only().0, id, "another one took its place");
    assert_eq!(bench.reconciler().lifecycle(&challenged(&id)).await.expect("answered"), Answered::Done(None));
    assert_eq!((bench.calls("PATCH"), bench.alive("users")), (0, 1));
    // One that is there and unknown is looked at again.
    let receiver = bench.receiver();
    let another = bench.world().add("users", &receiver, "?");
    assert!(matches!(bench.reconciler().lifecycle(&challenged(&another)).await, Ok(Answered::Later(_))));
}

async fn caught(bench: &Bench, all: &[Wanted]) -> (CaughtUp, Vec<Item>) {
    caught_by(bench, all, Unwanted::Delete).await
}

async fn caught_by(bench: &Bench, all: &[Wanted], unwanted: Unwanted) -> (CaughtUp, Vec<Item>) {
    let found = Arc::new(Mutex::new(Vec::new()));
    let hand_on = |items: Vec<Item>| -> indicator_relay::platform::clock::BoxFuture<'_, Result<(), String>> {
        found.lock().expect("no panic").extend(items);
        Box::pin(std::future::ready(Ok(())))
    };
    let told = bench.reconciler().catch_up(all, unwanted, None, &hand_on).await.expect("looked");
    let items = found.lock().expect("no panic").clone();
    (told, items)
}

#[tokio::test]
async fn what_was_missed_is_looked_up_while_one_subscription_tells_of_all() {
    use ChangeType::{Created, Deleted, Updated};
    let bench = Bench::new().await;
    let of = |changes: &[ChangeType]| [Wanted { change_types: changes.to_vec(), ..wanted("users") }];
    bench.run(&of(&[Created, Updated])).await;
    let now = of(&[Updated, Deleted]);
    let none = (200, json!({"value": [], "@odata.deltaLink": "{base}/v1.0/users/delta?$deltatoken=a"}));
    for token in ["latest", "a"] {
        bench.world().pages.insert(format!("/v1.0/users/delta?$deltatoken={token}"), none.clone());
    }
    bench.reconciler().run(&now, Unwanted::Keep, true).await.expect("a report");
    assert_eq!(caught_by(&bench, &now, Unwanted::Keep).await.0.looked, ["users"], "after a new one");
    bench.advance(20);
    caught_by(&bench, &now, Unwanted::Keep).await; // once more, as after each new one
    bench.advance(20);
    assert_eq!(caught_by(&bench, &now, Unwanted::Keep).await.0.looked, [""; 0]);
    let missed = lifecycle(&bench.only().0, LifecycleEvent::Missed, None);
    bench.reconciler().lifecycle(&missed).await.expect("answered");
    assert_eq!(caught_by(&bench, &now, Unwanted::Keep).await.0.looked, ["users"], "Graph says that something was missed");
}

#[tokio::test]
async fn directory_objects_are_looked_up_by_what_changed_since_the_last_look() {
    let bench = Bench::new().await;
    let all = [Wanted { change_types: vec![ChangeType::Updated, ChangeType::Deleted], ..wanted("users") }];
    bench.run(&all).await;
    let page = |name: &str, body| bench.world().pages.insert(name.to_owned(), (200, body));
    page(
        "/v1.0/users/delta?$deltatoken=latest",
        json!({"value": [], "@odata.deltaLink": "{base}/v1.0/users/delta?$deltatoken=a"}),
    );
    let (told, items) = caught(&bench, &all).await;
    assert_eq!((told.looked.len(), items.len()), (1, 0), "a first look only marks the place");
    assert_eq!(caught(&bench, &all).await.0.looked.len(), 0, "nothing is due");
    page(
        "/v1.0/users/delta?$deltatoken=a",
        json!({"value": [{"id": "u1"}], "@odata.nextLink": "{base}/v1.0/users/delta?$skiptoken=b"}),
    );
    page(
        "/v1.0/users/delta?$skiptoken=b",
        json!({"value": [{"id": "u2", "@removed": {"reason": "changed"}}, {"id": "u3", "@removed": {"reason": "deleted"}}],
            "@odata.deltaLink": "{base}/v1.0/users/delta?$deltatoken=c"}),
    );
    // Soon after a creation, while it spreads.
    bench.advance(16);
    let (_, items) = caught(&bench, &all).await;
    let seen: Vec<_> = items.iter().map(|item| (item.resource_id().unwrap_or_default(), item.event)).collect();
    let change = Event::Change;
    assert_eq!(
        seen,
        [("u1", change(ChangeType::Updated)), ("u2", change(ChangeType::Updated)), ("u3", change(ChangeType::Deleted))]
    );
    let first = &items[0];
    assert_eq!(
        (first.origin, first.group.clone(), first.resource.as_deref()),
        (Origin::CatchUp, Some(all[0].group()), Some("users/u1"))
    );
    assert_eq!(first.subscription, bench.only().0);
    // Hours later, and the state is too old: everything may have changed.
    bench.world().pages.insert("/v1.0/users/delta?$deltatoken=c".to_owned(), (410, error("syncStateNotFound", "resync")));
    page(
        "/v1.0/users/delta",
        json!({"value": [{"id": "u1"}, {"id": "u4"}], "@odata.deltaLink": "{base}/v1.0/users/delta?$deltatoken=d"}),
    );
    bench.advance(5 * 60);
    assert_eq!(caught(&bench, &all).await.0.looked.len(), 0);
    bench.advance(61);
    assert_eq!(caught(&bench, &all).await.1.len(), 2);
}

#[tokio::test]
async fn a_user_is_looked_up_by_id_and_one_who_is_named_otherwise_is_told_of_once() {
    let bench = Bench::new().await;
    let all = [wanted("users/ada@contoso.example"), wanted("users('4b7c9d20-0000-4000-8000-00000000000a')")];
    bench.run(&all).await;
    let page = "/v1.0/users/delta?$filter=id%20eq%20%274b7c9d20-0000-4000-8000-00000000000a%27&$deltatoken=latest";
    let end = json!({"value": [], "@odata.deltaLink": "{base}/v1.0/users/delta?$deltatoken=a"});
    bench.world().pages.insert(page.to_owned(), (200, end));
    let (told, _) = caught(&bench, &all).await;
    assert_eq!((told.looked.len(), told.errors.as_slice()), (1, [].as_slice()), "{told:?}");
    assert!(told.not_possible.len() == 1 && told.not_possible[0].contains("ada@contoso.example (name it by"), "{told:?}");
    assert_eq!(bench.calls("GET /v1.0/users/delta"), 1, "Graph is not asked for the other one");
    bench.advance(5);
    assert_eq!(caught(&bench, &all).await.0, CaughtUp::default(), "once");
}

#[tokio::test]
async fn mail_is_looked_up_by_windows_that_overlap() {
    let bench = Bench::new().await;
    let both = vec![ChangeType::Created, ChangeType::Updated];
    let all = [Wanted { change_types: both, ..wanted("users/x/messages?$filter=isRead eq false") }];
    bench.run(&all).await;
    let items = json!([
        {"id": "m1", "@odata.etag": "W/1", "receivedDateTime": "2026-11-24T08:50:00Z", "lastModifiedDateTime": "2026-11-24T08:50:00Z"},
        {"id": "m2", "receivedDateTime": "2026-01-01T00:00:00Z", "lastModifiedDateTime": "2026-11-24T08:59:00Z"},
    ]);
    let page =
        "/v1.0/users/x/messages?$filter=lastModifiedDateTime%20ge%202026-11-24T08%3A45%3A00Z%20and%20%28isRead%20eq%20false%29";
    bench.world().pages.insert(page.to_owned(), (200, json!({"value": items})));
    let (told, found) = caught(&bench, &all).await;
    assert_eq!(told.errors, Vec::<String>::new());
    let seen: Vec<_> = found.iter().map(|item| (item.resource.clone().unwrap_or_default(), item.event)).collect();
    assert_eq!(
        seen,
        [
            ("users/x/messages/m1".to_owned(), Event::Change(ChangeType::Created)),
            ("users/x/messages/m2".to_owned(), Event::Change(ChangeType::Updated))
        ]
    );
    assert_eq!(found[0].resource_data().expect("data")["@odata.etag"], "W/1");
    // Graph says that something was missed: the next window begins before the end of the last one.
    let id = bench.only().0;
    bench.reconciler().lifecycle(&lifecycle(&id, LifecycleEvent::Missed, None)).await.expect("answered");
    caught(&bench, &all).await;
    assert_eq!(bench.calls(&format!("GET {page}")), 2);
}

#[tokio::test]
async fn a_drive_is_told_of_as_notifications_do_and_what_offers_no_way_is_said() {
    let bench = Bench::new().await;
    let all = [wanted("drives/d/root"), wanted("teams/getAllChannels")];
    bench.run(&all).await;
    let page = |name: &str, body| bench.world().pages.insert(name.to_owned(), (200, body));
    let link = |token: &str| format!("{{base}}/v1.0/drives/d/root/delta?token={token}");
    page("/v1.0/drives/d/root/delta?token=latest", json!({"value": [], "@odata.deltaLink": link("a")}));
    let (told, items) = caught(&bench, &all).await;
    assert_eq!((told.not_possible.as_slice(), items.len()), (["teams/getAllChannels".to_owned()].as_slice(), 0));
    page("/v1.0/drives/d/root/delta?token=a", json!({"value": [{"id": "1"}, {"id": "2"}], "@odata.nextLink": link("b")}));
    page("/v1.0/drives/d/root/delta?token=latest", json!({"value": [], "@odata.deltaLink": link("c")}));
    bench.advance(16);
    let (told, items) = caught(&bench, &all).await;
    assert_eq!(items.iter().map(|item| item.resource.as_deref()).collect::<Vec<_>>(), [Some("drives/d/root")]);
    assert_eq!((told.looked.len(), bench.calls("GET /v1.0/drives/d/root/delta?token=b")), (1, 0), "the rest is not read");
    page("/v1.0/drives/d/root/delta?token=c", json!({"value": [], "@odata.deltaLink": link("c")}));
    bench.advance(6 * 60 + 1);
    assert_eq!(caught(&bench, &all).await.1.len(), 0, "nothing changed");
}

#[tokio::test]
async fn a_look_at_a_drive_that_is_longer_than_its_time_goes_on_where_it_was() {
    let bench = Bench::new().await;
    let all = [wanted("drives/d/root")];
    bench.run(&all).await;
    let link = |token: &str| format!("{{base}}/v1.0/drives/d/root/delta?token={token}");
    let page = |token: &str, body| bench.world().pages.insert(format!("/v1.0/drives/d/root/delta?token={token}"), (200, body));
    page("latest", json!({"value": [], "@odata.deltaLink": link("a")}));
    caught(&bench, &all).await;
    for (token, next) in [("a", "b"), ("b", "c")] {
        page(token, json!({"value": [], "@odata.nextLink": link(next)}));
    }
    page("c", json!({"value": [{"id": "1"}], "@odata.nextLink": link("d")}));
    bench.advance(16);
    // The time goes by with a pause.
    bench.world().faults.push_back((Method::GET, "drives", Fault::Pause(429, 5)));
    let hand_on =
        |_: Vec<Item>| -> BoxFuture<'_, Result<(), String>> { Box::pin(std::future::ready(Err("too early".to_owned()))) };
    let budget = Some(Duration::from_secs(3));
    let told = bench.reconciler().catch_up(&all, Unwanted::Delete, budget, &hand_on).await.expect("looked");
    assert_eq!((told.looked.len(), told.items), (0, 0), "{told:?}");
    assert_eq!(bench.calls("GET /v1.0/drives/d/root/delta?token=b"), 0);
    let (told, items) = caught(&bench, &all).await;
    assert_eq!((told.looked.len(), items.len()), (1, 1), "{told:?}");
    let read = ["a", "b", "c", "d"].map(|token| bench.calls(&format!("GET /v1.0/drives/d/root/delta?token={token}")));
    assert_eq!(read, [1, 1, 1, 0], "each once, and none after the first change");
}

#[tokio::test]
async fn a_pause_that_one_look_is_asked_for_holds_up_nothing_else() {
    let bench = Bench::new().await;
    let all = [wanted("users/x/messages"), Wanted { minutes: Some(60), ..wanted("users/y/messages") }];
    bench.run(&all).await;
    for user in ["x", "y"] {
        bench.world().pages.insert(format!("/v1.0/users/{user}/messages"), (200, json!({"value": []})));
    }
    // Longer than time lasts.
    bench.world().faults.push_back((Method::GET, "users/x/messages", Fault::Pause(429, 9_999_999_999_999)));
    let (told, _) = caught(&bench, &all).await;
    assert_eq!((told.looked.as_slice(), told.errors.len()), (["users/y/messages".to_owned()].as_slice(), 1), "{told:?}");
    assert!(bench.run_for(&all, 35).await.iter().all(|report| report.paused_until.is_none()));
    assert_eq!(bench.calls("PATCH"), 1, "what is due is renewed meanwhile");
    caught(&bench, &all).await;
    assert_eq!(bench.calls("GET /v1.0/users/x/messages"), 0, "the pause is kept, though a look is asked for");
    bench.advance(30);
    assert!(caught(&bench, &all).await.0.looked.contains(&"users/x/messages".to_owned()), "for an hour at most");
    bench.world().faults.push_back((Method::GET, "subscriptions", Fault::Pause(429, 9_999_999_999_999)));
    assert!(bench.run(&all).await.paused_until.is_some_and(|until| until <= bench.clock.now() + Duration::from_secs(3_600)));
}

#[tokio::test]
async fn what_a_subscription_was_made_for_is_known_as_long_as_its_items_may_come() {
    let bench = Bench::new().await;
    let before = wanted("users/x/messages?$filter=isRead eq false");
    bench.run(std::slice::from_ref(&before)).await;
    let id = bench.only().0;
    let made_for = async |group: String| bench.reconciler().made_for(&id, &group).await.expect("rows");
    assert_eq!(made_for(before.group()).await.map(|made| made.resource), Some(before.resource.clone()));
    let after = Wanted { change_types: vec![ChangeType::Created, ChangeType::Updated], ..before.clone() };
    bench.run(std::slice::from_ref(&after)).await;
    assert_ne!(bench.only().0, id);
    assert_eq!(made_for(before.group()).await.map(|made| made.resource), Some(before.resource.clone()), "it is gone");
    assert_eq!(made_for(after.group()).await, None, "the proven group is of another one");
}

#[tokio::test]
async fn a_look_begins_with_the_first_of_the_pages_that_are_kept() {
    let bench = Bench::new().await;
    let all = [wanted("users/u/messages")];
    bench.run(&all).await;
    let page = |query: &str, status: u16, more: &str| {
        let mut body = json!({"value": []});
        if !more.is_empty() {
            body["@odata.nextLink"] = json!(format!("{{base}}/v1.0/users/u/messages?$skiptoken={more}"));
        }
        bench.world().pages.insert(format!("/v1.0/users/u/messages?{query}"), (status, body));
    };
    let last = async || {
        bench.reconciler().standing(&all).await.expect("rows")[0].last_catch_up.expect("a time").to_string()[..16].to_owned()
    };
    page("$filter", 404, "");
    assert_eq!(caught(&bench, &all).await.0.errors.len(), 1);
    bench.advance(31);
    page("$filter", 200, "");
    assert_eq!(caught(&bench, &all).await.0.looked.len(), 1);
    assert_eq!(last().await, "2026-11-24T09:31", "an attempt that got nothing is no beginning");
    // The next one is cut off twice, each time after a page.
    bench.advance(16);
    page("$filter", 200, "a");
    page("$skiptoken=a", 503, "");
    assert_eq!(caught(&bench, &all).await.0.errors.len(), 1);
    assert_eq!(bench.calls("GET /v1.0/users/u/messages?$filter=lastModifiedDateTime%20ge%202026-11-24T09%3A16%3A00Z"), 1);
    bench.advance(60);
    page("$skiptoken=a", 200, "b");
    page("$skiptoken=b", 503, "");
    assert_eq!(caught(&bench, &all).await.0.errors.len(), 1);
    bench.advance(60);
    page("$skiptoken=b", 200, "");
    assert_eq!(caught(&bench, &all).await.0.looked.len(), 1);
    assert_eq!(last().await, "2026-11-24T09:47", "with its first page");
    // One whose second page Graph does not know any more is another look from then on.
    bench.advance(361);
    page("$filter", 200, "a");
    page("$skiptoken=a", 503, "");
    assert_eq!(caught(&bench, &all).await.0.errors.len(), 1);
    bench.advance(60);
    page("$filter", 200, "");
    page("$skiptoken=a", 410, "");
    assert_eq!(caught(&bench, &all).await.0.looked.len(), 1);
    assert_eq!(last().await, "2026-11-24T18:48", "with the page that it began anew with");
}

/// A run of three minutes, in which each page with items takes one to hand on: the resources that were read, page by page.
async fn three_minutes(bench: &Bench, all: &[Wanted]) -> (CaughtUp, Vec<String>) {
    let before = bench.world().log.len();
    let hand_on = |_: Vec<Item>| -> BoxFuture<'_, Result<(), String>> {
        bench.advance(1);
        Box::pin(std::future::ready(Ok(())))
    };
    let told =
        bench.reconciler().catch_up(all, Unwanted::Delete, Some(Duration::from_secs(180)), &hand_on).await.expect("looked");
    let world = bench.world();
    let read = world.log[before..].iter().filter_map(|(_, line)| line.strip_prefix("GET /v1.0/users/")?.split_once('/'));
    (told, read.map(|(user, _)| user.to_owned()).collect())
}

#[tokio::test]
async fn a_resource_that_has_no_end_holds_up_no_other() {
    let bench = Bench::new().await;
    let of = |user: &str| wanted(&format!("users/{user}/messages"));
    let page = |user: &str, more: bool| {
        let mut page = json!({"value": [{"id": "m"}]});
        if more {
            page["@odata.nextLink"] = json!(format!("{{base}}/v1.0/users/{user}/messages?$skiptoken=more"));
        }
        bench.world().pages.insert(format!("/v1.0/users/{user}/messages"), (200, page));
    };
    // Two without an end come first, and all the others together are more than one run has time for.
    let all = ["big", "huge", "a", "b", "c", "d"].map(of);
    for (user, more) in [("big", true), ("huge", true), ("a", false), ("b", false), ("c", false), ("d", false)] {
        page(user, more);
    }
    bench.run(&all).await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(three_minutes(&bench, &all).await.1.join(" "));
        bench.advance(2);
    }
    assert_eq!(runs, ["big huge a", "b c d", "big huge big"], "each in its turn, whoever never ends as well");
    // What is asked for goes before what has just had its turn, for its first page; then it has its turn like all others.
    page("d", true);
    let id = |user: &str| {
        let world = bench.world();
        let found = world.subscriptions.iter().find(|(_, one)| one.body["resource"] == format!("users/{user}/messages"));
        found.expect("there").0.clone()
    };
    for user in ["d", "c"] {
        bench.reconciler().lifecycle(&lifecycle(&id(user), LifecycleEvent::Missed, None)).await.expect("answered");
    }
    let (told, read) = three_minutes(&bench, &all).await;
    assert_eq!((read.join(" ").as_str(), told.looked), ("c d huge", vec!["users/c/messages".to_owned()]));
    bench.advance(2);
    assert_eq!(three_minutes(&bench, &all).await.1.join(" "), "big d huge");
}

#[tokio::test]
async fn a_notification_is_noted_at_most_once_in_five_minutes() {
    let bench = Bench::new().await;
    let all = [wanted("users")];
    bench.run(&all).await;
    let id = bench.only().0;
    let reconciler = bench.reconciler();
    let at = bench.clock.now();
    for _ in 0..3 {
        reconciler.heard(&id).await.expect("noted");
        bench.advance(1);
    }
    let standing = &reconciler.standing(&all).await.expect("rows")[0];
    assert_eq!(standing.last_notification, Some(at));
}

#[tokio::test]
async fn the_timer_reconciles_and_puts_what_was_missed_into_the_queue_of_its_priority() {
    let (bench, rig) = (Bench::new().await, Rig::new().await);
    let urgent = Wanted { urgent: true, ..wanted("users/x/messages") };
    let mut app = rig.app();
    let queue = Arc::clone(&app.queue);
    let subscribing = Some(Subscribing { reconciler: bench.reconciler(), wanted: vec![urgent], complete: true });
    app.playbooks = Playbooks::given(Asked { subscribing, ..Asked::default() });
    let beginning = "/v1.0/users/x/messages?".to_owned();
    bench.world().pages.insert(beginning, (200, json!({"value": [{"id": "m1"}]})));
    let clock: Arc<dyn Clock> = Arc::new(rig.clock.clone());
    let handler = Handler::start(Relay::opened(Arc::clone(&clock), app), clock).await;
    let (status, answer) = handler.post("ReconcileSubscriptions", &timer()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(bench.alive("users/x/messages"), 1);
    let messages = queue.receive(URGENT_QUEUE, 10, Duration::from_secs(60)).await.expect("received");
    let Ok(Work::Item(task)) = serde_json::from_slice(&messages[0].body) else { panic!("an item") };
    assert_eq!((messages.len(), task.item.resource_id(), task.item.origin), (1, Some("m1"), Origin::CatchUp));
    assert_eq!(handler.post("ReconcileSubscriptions", &timer()).await.0, 200);
    assert_eq!(queue.count(URGENT_QUEUE).await.expect("counted"), 1, "once");
}

/// Made, then with another key and without one of the two, each time killed at the n-th write.
async fn killed_at(n: i64, written: bool, jealous: bool, tells_state: bool) -> bool {
    let mut bench = Bench::new().await;
    (bench.world().jealous, bench.world().tells_state) = (jealous, tells_state);
    let (store, mut died) = (Arc::clone(&bench.store), false);
    let both = [Wanted { minutes: Some(600), ..wanted("users") }, wanted("groups")];
    for (key, all) in [("one", &both[..]), ("two", &both[..1])] {
        bench.key = key;
        bench.store = Mortal::at(&store, n, written);
        died |= bench.reconciler().run(all, Unwanted::Delete, false).await.is_err();
        bench.store = Arc::clone(&store);
        bench.run_for(all, 20).await;
        let found: Vec<_> = {
            let world = bench.world();
            world.subscriptions.values().map(|one| (one.body["resource"].clone(), one.state.clone())).collect()
        };
        assert_eq!(found.len(), all.len(), "killed at {n}: {found:?}");
        assert!(found.iter().all(|(_, state)| state.ends_with(key)), "killed at {n}: {found:?}");
        assert_eq!(bench.run(all).await.done, [], "killed at {n}");
        let asked = store.scan("subscriptions", "r.", "r/", 100).await.expect("rows");
        assert!(!asked.is_empty(), "killed at {n}: what was missed is looked up");
    }
    died
}

#[tokio::test]
async fn a_process_killed_at_any_write_leaves_each_subscription_once_and_nothing_forgotten() {
    let mut deaths = 0;
    for (written, jealous, tells_state) in [(false, true, true), (true, true, false), (true, false, false), (false, false, true)]
    {
        for n in 1..=16 {
            deaths += u32::from(killed_at(n, written, jealous, tells_state).await);
        }
    }
    assert!(deaths > 20, "{deaths}");
}

/// Faults that a service of this kind has, for some minutes each.
#[derive(Debug, Clone)]
enum Trouble {
    Outage,
    Unknown,
    LostAnswers,
    NoList,
    Removed,
    TooFar(i64),
    Quiet,
}

fn troubles() -> impl Strategy<Value = Vec<(u64, Trouble)>> {
    let one = prop_oneof![
        Just(Trouble::Outage),
        Just(Trouble::Unknown),
        Just(Trouble::LostAnswers),
        Just(Trouble::NoList),
        Just(Trouble::Removed),
        (40_i64..60).prop_map(Trouble::TooFar),
        Just(Trouble::Quiet),
    ];
    prop::collection::vec((30_u64..180, one), 6..14)
}

fn set(bench: &Bench, trouble: &Trouble) {
    let mut world = bench.world();
    world.outage = None;
    world.faults.clear();
    match trouble {
        Trouble::Outage => world.outage = Some(Fault::Answer(503, json!({}))),
        Trouble::Unknown => world.outage = Some(Fault::Answer(500, json!({}))),
        Trouble::LostAnswers => world.outage = Some(Fault::Lost),
        Trouble::NoList => {
            for _ in 0..8 {
                world.faults.push_back((Method::GET, "subscriptions", Fault::Answer(502, json!({}))));
            }
        }
        Trouble::Removed => world.subscriptions.clear(),
        Trouble::TooFar(minutes) => world.most_minutes = Some((*minutes).max(46)),
        Trouble::Quiet => {}
    }
}

/// No two updates or reauthorizations that Graph may have acted on within ten minutes.
fn assert_apart(bench: &Bench) {
    let world = bench.world();
    let mut last = std::collections::BTreeMap::new();
    for (at, line) in &world.log {
        let touches = line.starts_with("PATCH ") || line.ends_with("/reauthorize");
        let id = line.split("/subscriptions/").nth(1).unwrap_or_default().trim_end_matches("/reauthorize");
        if touches && let Some(before) = last.insert(id.to_owned(), *at) {
            assert!(at.duration_since(before).as_secs() >= 600, "{line} twice within ten minutes, at {before} and {at}");
        }
    }
}

async fn week(history: Vec<(u64, Trouble)>, minutes: u64) {
    let bench = Bench::new().await;
    let all = [
        Wanted { minutes: Some(60), ..wanted("users") },
        Wanted { minutes: Some(600), ..wanted("groups") },
        wanted("users/x/messages"),
    ];
    bench.run(&all).await;
    let (mut passed, mut history) = (0, history.into_iter().cycle());
    while passed < minutes {
        let (quiet, trouble) = history.next().expect("it goes round");
        set(&bench, &trouble);
        // Shorter than half of the shortest life, less the ten minutes that follow an update.
        let removed = matches!(trouble, Trouble::Removed);
        for _ in 0..3 {
            bench.clock.advance(Duration::from_secs(300));
            bench.run(&all).await;
            challenge(&bench, "groups").await;
            assert_alive(&bench, &all, removed);
        }
        set(&bench, &Trouble::Quiet);
        for tick in 0..quiet / 5 {
            bench.clock.advance(Duration::from_secs(300));
            bench.run(&all).await;
            assert_alive(&bench, &all, removed && tick < 4);
        }
        challenge(&bench, "users/x/messages").await;
        passed += 15 + quiet;
    }
    assert_apart(&bench);
    let world = bench.world();
    assert_eq!(world.subscriptions.len(), all.len(), "each once: {:#?}", world.subscriptions);
}

/// Graph asks for a reauthorization, whatever was just sent.
async fn challenge(bench: &Bench, resource: &str) {
    let ids: Vec<String> = {
        let world = bench.world();
        let of = world.subscriptions.iter().filter(|(_, one)| one.body["resource"] == resource);
        of.map(|(id, _)| id.clone()).collect()
    };
    for id in ids {
        let item = lifecycle(&id, LifecycleEvent::ReauthorizationRequired, None);
        bench.reconciler().lifecycle(&item).await.expect("answered");
    }
}

/// Only what Graph itself removed may be missing, for as long as it takes to see that.
#[track_caller]
fn assert_alive(bench: &Bench, all: &[Wanted], removed: bool) {
    for one in all.iter().filter(|_| !removed) {
        let now = bench.clock.now();
        let tail: Vec<String> = bench.world().log.iter().rev().take(30).map(|(at, line)| format!("{at} {line}")).collect();
        assert!(bench.alive(&one.resource) > 0, "{} is not there at {now}:\n{}", one.resource, tail.join("\n"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_for_a_day_everything_stays_alive_and_nothing_is_sent_too_often(history in troubles()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(week(history, 24 * 60));
    }
}

#[tokio::test]
async fn a_week_with_every_kind_of_trouble_leaves_all_alive() {
    let history = vec![
        (40, Trouble::Outage),
        (35, Trouble::Unknown),
        (60, Trouble::LostAnswers),
        (45, Trouble::TooFar(50)),
        (50, Trouble::NoList),
        (90, Trouble::Removed),
        (170, Trouble::Quiet),
    ];
    week(history, 7 * 24 * 60).await;
}
