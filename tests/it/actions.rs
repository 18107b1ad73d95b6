//! Each kind of action against a small server: what is sent, what a repetition changes, what each refusal means.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicator_relay::actions::{Order, Outcome, Performer};
use indicator_relay::export;
use indicator_relay::platform::clock::Clock as _;
use indicator_relay::playbooks::action::{Action, Address, Auth, Body};
use indicator_relay::storage::Queue as _;
use serde_json::{Value, json};

use crate::between::Mortal;
use crate::worker::{Answer, Call, World, in_turn, ok};

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn performer(world: &World) -> Performer {
    Performer::new(world.tools(Arc::clone(&world.store) as _, Arc::clone(&world.store) as _))
}

async fn perform(world: &World, action: &Action) -> Outcome {
    let ends = world.clock.monotonic() + Duration::from_secs(180);
    performer(world).perform(&Order { action, key: KEY, ends, outdated: false }).await
}

fn hook(address: Address, auth: Auth, body: Body) -> Action {
    let headers = vec![("X-Origin".to_owned(), "relay".to_owned())];
    Action::Webhook { address, auth, headers, body, allow_plain_http: true, allow_private_address: true }
}

fn plain(world: &World, path: &str) -> Action {
    hook(Address::Url(world.server.url(path)), Auth::None, Body::Json(json!({"a": 1})))
}

#[tokio::test]
async fn a_webhook_gets_the_item_with_its_key_and_what_proves_us() {
    let world = World::new(|_| Answer::Json(204, json!({}))).await;
    let auth = Auth::Basic { username_secret: "PASSWORD".to_owned(), password_secret: "PASSWORD".to_owned() };
    let url = Address::Url(world.server.url("/api/playbook/1/?q=a%2Fb"));
    assert_eq!(perform(&world, &hook(url, auth, Body::Json(json!({"a": 1})))).await, Outcome::Done);
    let call = &world.server.calls()[0];
    assert_eq!((call.method.as_str(), call.target.as_str()), ("POST", "/api/playbook/1/?q=a%2Fb"), "as it is written");
    assert_eq!((call.header("idempotency-key"), call.header("x-origin")), (KEY, "relay"));
    assert_eq!(call.header("authorization"), "Basic aHVudGVyMjpodW50ZXIy");
    assert_eq!((call.header("content-type"), call.json()), ("application/json", json!({"a": 1})));
    let auth = Auth::Header { header: "X-Key".to_owned(), header_secret: "PASSWORD".to_owned() };
    let mut text = hook(Address::Url(world.server.url("/t")), auth, Body::Text("plain".to_owned()));
    assert_eq!(perform(&world, &text).await, Outcome::Done);
    if let Action::Webhook { headers, .. } = &mut text {
        headers.push(("content-type".to_owned(), "text/csv".to_owned()));
    }
    assert_eq!(perform(&world, &text).await, Outcome::Done);
    let calls = world.server.calls();
    assert_eq!((calls[1].header("x-key"), calls[1].body.as_str()), ("hunter2", "plain"));
    assert_eq!(calls[1].header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(calls[2].headers.get_all("content-type").iter().collect::<Vec<_>>(), ["text/csv"]);
}

#[tokio::test]
async fn a_webhook_that_is_busy_is_tried_later_and_one_that_refuses_is_not() {
    let answers = vec![
        Answer::Wait(429, "77"),
        Answer::Json(500, json!({})),
        Answer::Json(408, json!({})),
        Answer::Json(400, json!({"message": "no"})),
        Answer::Json(302, json!({})),
        Answer::Json(401, json!({})),
    ];
    let world = World::new(in_turn(answers)).await;
    let action = plain(&world, "/x");
    let after = |outcome| match outcome {
        Outcome::Later { after, .. } => Some(after.map(|wait: Duration| wait.as_secs())),
        _ => None,
    };
    assert_eq!(after(perform(&world, &action).await), Some(Some(77)));
    assert_eq!(after(perform(&world, &action).await), Some(None));
    assert_eq!(after(perform(&world, &action).await), Some(None));
    for status in ["400", "302", "401"] {
        let outcome = perform(&world, &action).await;
        assert!(matches!(&outcome, Outcome::Refused(line) if line.contains(status)), "{outcome:?}");
    }
    assert_eq!(world.server.calls().len(), 6, "once each, and no redirect is followed");
}

#[tokio::test]
async fn a_webhook_goes_only_where_it_may() {
    let world = World::new(|_| ok()).await;
    let to = |address: &str, plain: bool, private: bool| Action::Webhook {
        address: Address::Url(address.to_owned()),
        auth: Auth::None,
        headers: Vec::new(),
        body: Body::Json(Value::Null),
        allow_plain_http: plain,
        allow_private_address: private,
    };
    let here = world.server.url("/x");
    let by_name = here.replace("127.0.0.1", "localhost");
    for (address, plain, private) in [
        (here.as_str(), false, true),
        (here.as_str(), true, false),
        (by_name.as_str(), true, false),
        ("https://169.254.169.254/metadata", false, false),
        ("ftp://a.example/", true, true),
        ("https://user:hunter2@a.example/", false, false),
    ] {
        let outcome = perform(&world, &to(address, plain, private)).await;
        assert!(matches!(&outcome, Outcome::Refused(line) if !line.contains("hunter2")), "{address}: {outcome:?}");
    }
    let unknown = hook(Address::Secret("NONE".to_owned()), Auth::None, Body::Json(Value::Null));
    assert!(matches!(perform(&world, &unknown).await, Outcome::Refused(line) if line.contains("`NONE`")));
    let secret = hook(Address::Secret("PASSWORD".to_owned()), Auth::None, Body::Json(Value::Null));
    assert!(matches!(perform(&world, &secret).await, Outcome::Refused(line) if !line.contains("hunter2")));
    assert!(world.server.calls().is_empty());
}

#[tokio::test]
async fn a_message_holds_its_key_whatever_its_body_is() {
    let world = World::new(|_| ok()).await;
    let long = "x".repeat(200_000);
    for body in [Body::Json(json!({"a": 1})), Body::Json(json!([1])), Body::Text(long.clone())] {
        let action = Action::Queue { queue: "mine".to_owned(), body };
        assert_eq!(perform(&world, &action).await, Outcome::Done);
    }
    let messages = world.store.receive("mine", 10, Duration::from_secs(60)).await.expect("a queue");
    let bodies: Vec<Value> = messages.iter().map(|message| serde_json::from_slice(&message.body).expect("JSON")).collect();
    assert!(bodies.contains(&json!({"a": 1, "idempotencyKey": KEY})));
    assert!(bodies.contains(&json!({"body": [1], "idempotencyKey": KEY})));
    assert!(bodies.contains(&json!({"body": long, "idempotencyKey": KEY})));
}

#[tokio::test]
async fn a_webhook_is_not_called_once_its_secrets_have_used_up_the_time() {
    let world = World::new(|_| ok()).await;
    let mut tools = world.tools(Arc::clone(&world.store) as _, Arc::clone(&world.store) as _);
    let (clock, secrets) = (world.clock.clone(), Arc::clone(&tools.secrets));
    tools.secrets = Arc::new(move |name| {
        clock.advance(Duration::from_secs(150));
        secrets(name)
    });
    let auth = Auth::Header { header: "X-Key".to_owned(), header_secret: "PASSWORD".to_owned() };
    let action = hook(Address::Url(world.server.url("/x")), auth, Body::Json(json!({})));
    let ends = world.clock.monotonic() + Duration::from_secs(180);
    let outcome = Performer::new(tools).perform(&Order { action: &action, key: KEY, ends, outdated: false }).await;
    assert!(matches!(outcome, Outcome::Later { .. }), "{outcome:?}");
    assert!(world.server.calls().is_empty(), "somebody else may have the turn by then");
}

fn indicator(values: &[&str]) -> Action {
    Action::ThreatConnectIndicator {
        owner: "Acme Source".to_owned(),
        indicator_type: "Address",
        values: values.iter().map(|value| (*value).to_owned()).collect(),
        rating: Some(4),
        confidence: None,
        tags: vec!["Graph".to_owned()],
        attributes: Vec::new(),
        security_label: None,
    }
}

#[tokio::test]
async fn an_indicator_is_created_or_updated_by_its_value() {
    let made = json!({"data": {"id": 1020}, "message": "Created", "status": "Success"});
    let excluded = json!({"message": "The value is contained in an Exclusion List", "status": "Error"});
    let answers = vec![
        Answer::Json(201, made.clone()),
        Answer::Json(200, made.clone()),
        Answer::Json(503, json!({})),
        Answer::Json(400, excluded.clone()),
        Answer::Json(403, excluded),
        Answer::Json(200, json!({"status": "Failure", "message": "odd"})),
    ];
    let world = World::new(in_turn(answers)).await;
    assert_eq!(perform(&world, &indicator(&["203.0.113.10", "203.0.113.11"])).await, Outcome::Done);
    let call = &world.server.calls()[0];
    assert_eq!((call.method.as_str(), call.target.as_str()), ("POST", "/api/v3/indicators?owner=Acme%20Source"));
    assert_eq!(call.header("authorization"), "TC-Token token");
    assert_eq!((&call.json()["ip"], &call.json()["tags"]["mode"]), (&json!("203.0.113.10"), &json!("append")));
    assert!(matches!(perform(&world, &indicator(&["203.0.113.12"])).await, Outcome::Later { .. }));
    for _ in 0..2 {
        let outcome = perform(&world, &indicator(&["10.0.0.1"])).await;
        assert!(matches!(&outcome, Outcome::Refused(line) if line.contains("exclusion list")), "{outcome:?}");
    }
    assert!(matches!(perform(&world, &indicator(&["203.0.113.13"])).await, Outcome::Refused(_)));
    assert_eq!(perform(&world, &indicator(&[])).await, Outcome::Done, "nothing to do");
}

/// Cases with their artifacts and notes, as ThreatConnect keeps them.
#[derive(Default)]
struct Cases {
    made: Vec<Value>,
    artifacts: Vec<Value>,
    notes: Vec<Value>,
    /// A case that somebody makes right after the next search.
    race: Option<Value>,
    /// So many searches do not find yet what is there.
    lags: u32,
    /// Calls left until one fails.
    fails_in: Option<u32>,
}

impl Cases {
    fn answer(&mut self, call: &Call) -> Answer {
        if let Some(left) = &mut self.fails_in {
            if *left == 0 {
                self.fails_in = None;
                return Answer::Json(500, json!({}));
            }
            *left -= 1;
        }
        let (path, query) = call.target.split_once('?').unwrap_or((call.target.as_str(), ""));
        let list = |rows: &[Value]| Answer::Json(200, json!({"data": rows, "status": "Success"}));
        let made = |row: &Value| Answer::Json(201, json!({"data": row, "message": "Created", "status": "Success"}));
        match (call.method.as_str(), path) {
            ("GET", "/api/v3/cases") if self.lags > 0 => {
                self.lags -= 1;
                list(&[])
            }
            ("GET", "/api/v3/cases") => {
                let found: Vec<Value> = self
                    .made
                    .iter()
                    .filter(|case| query.contains(&format!("%22{}%22", case["xid"].as_str().unwrap_or_default())))
                    .cloned()
                    .collect();
                self.made.extend(self.race.take());
                list(&found)
            }
            ("POST", "/api/v3/cases") => {
                let mut case = call.json();
                if self.made.iter().any(|known| known["xid"] == case["xid"]) {
                    let taken =
                        json!({"errCode": "0x1006", "message": "An item already exists with the same unique information."});
                    return Answer::Json(409, taken);
                }
                case["id"] = json!(412 + self.made.len());
                self.made.push(case.clone());
                made(&case)
            }
            ("PUT", path) => {
                let id: u64 = path.rsplit('/').next().and_then(|id| id.parse().ok()).expect("an id");
                let Some(case) = self.made.iter_mut().find(|case| case["id"] == id) else {
                    return Answer::Json(404, json!({}));
                };
                let (case, given) = (case.as_object_mut().expect("an object"), call.json());
                case.extend(given.as_object().expect("an object").clone());
                Answer::Json(200, json!({"data": case, "message": "Updated", "status": "Success"}))
            }
            ("GET", "/api/v3/artifacts") => list(&self.artifacts),
            ("GET", "/api/v3/notes") => list(&self.notes),
            ("POST", "/api/v3/artifacts") => {
                self.artifacts.push(call.json());
                made(&call.json())
            }
            ("POST", "/api/v3/notes") => {
                self.notes.push(call.json());
                made(&call.json())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn case(severity: &'static str) -> Action {
    Action::ThreatConnectCase {
        xid: "ir-5d41402abc4b2a76b9719d911017c592".to_owned(),
        name: "Graph alert 7f3a".to_owned(),
        status: "Open",
        severity,
        description: None,
        tags: vec!["Graph".to_owned()],
        artifacts: vec![
            ("IP Address".to_owned(), "203.0.113.10".to_owned()),
            ("IP Address".to_owned(), "203.0.113.10".to_owned()),
            ("Host".to_owned(), "a.example".to_owned()),
        ],
        notes: vec!["First seen.".to_owned(), "Second.".to_owned()],
    }
}

async fn with_cases(cases: Cases) -> (World, Arc<Mutex<Cases>>) {
    let cases = Arc::new(Mutex::new(cases));
    let script = Arc::clone(&cases);
    let world = World::new(move |call| script.lock().unwrap_or_else(PoisonError::into_inner).answer(call)).await;
    (world, cases)
}

#[tokio::test]
async fn a_case_is_made_once_and_then_updated_with_nothing_doubled() {
    let (world, cases) = with_cases(Cases::default()).await;
    assert_eq!(perform(&world, &case("Low")).await, Outcome::Done);
    assert_eq!(perform(&world, &case("High")).await, Outcome::Done);
    let posted = world.server.calls().iter().find(|call| call.method == "POST").expect("a post").json();
    assert_eq!((posted["tags"]["mode"].as_str(), posted["severity"].as_str()), (Some("append"), Some("Low")));
    let cases = cases.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!((cases.made.len(), cases.artifacts.len(), cases.notes.len()), (1, 2, 2));
    assert_eq!(cases.made[0]["severity"], "High");
    assert!(cases.notes[0]["text"].as_str().is_some_and(|text| text.starts_with("First seen.\n[0123456789abcdef.0]")));
}

#[tokio::test]
async fn a_case_that_somebody_closed_stays_closed() {
    let (world, cases) = with_cases(Cases::default()).await;
    assert_eq!(perform(&world, &case("Low")).await, Outcome::Done);
    assert_eq!(cases.lock().unwrap_or_else(PoisonError::into_inner).made[0]["status"], "Open");
    cases.lock().unwrap_or_else(PoisonError::into_inner).made[0]["status"] = json!("Closed");
    assert_eq!(perform(&world, &case("High")).await, Outcome::Done);
    let cases = cases.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!((&cases.made[0]["status"], &cases.made[0]["severity"]), (&json!("Closed"), &json!("High")));
}

#[tokio::test]
async fn what_is_outdated_makes_a_case_and_only_adds_to_one_that_is_there() {
    let (world, cases) = with_cases(Cases::default()).await;
    let outdated = async |severity, key| {
        let ends = world.clock.monotonic() + Duration::from_secs(180);
        let order = Order { action: &case(severity), key, ends, outdated: true };
        assert_eq!(performer(&world).perform(&order).await, Outcome::Done);
    };
    outdated("Low", KEY).await;
    outdated("High", &KEY.replace('0', "1")).await;
    let cases = cases.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!((cases.made.len(), cases.artifacts.len(), cases.notes.len()), (1, 2, 4));
    assert_eq!(cases.made[0]["severity"], "Low");
}

#[tokio::test]
async fn a_case_that_somebody_makes_at_the_same_time_is_updated() {
    let race = json!({"id": 7, "xid": "ir-5d41402abc4b2a76b9719d911017c592", "severity": "Low"});
    let (world, cases) = with_cases(Cases { race: Some(race), ..Cases::default() }).await;
    assert_eq!(perform(&world, &case("Critical")).await, Outcome::Done);
    let cases = cases.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!((cases.made.len(), &cases.made[0]["severity"]), (1, &json!("Critical")));
}

#[tokio::test]
async fn a_case_that_a_search_does_not_find_yet_is_searched_for_again_later() {
    let (world, cases) = with_cases(Cases::default()).await;
    assert_eq!(perform(&world, &case("Low")).await, Outcome::Done);
    cases.lock().unwrap_or_else(PoisonError::into_inner).lags = 3;
    let outcome = perform(&world, &case("High")).await;
    assert!(matches!(&outcome, Outcome::Later { cause, .. } if cause.contains("taken")), "{outcome:?}");
    assert_eq!(perform(&world, &case("High")).await, Outcome::Done, "one of its two searches finds it");
    let cases = cases.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!((cases.made.len(), &cases.made[0]["severity"]), (1, &json!("High")));
}

#[tokio::test]
async fn whichever_call_fails_the_next_try_ends_with_the_same_case() {
    for call in 0..8 {
        let (world, cases) = with_cases(Cases { fails_in: Some(call), ..Cases::default() }).await;
        assert!(matches!(perform(&world, &case("Low")).await, Outcome::Later { .. }), "call {call}");
        assert_eq!(perform(&world, &case("Low")).await, Outcome::Done);
        let cases = cases.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!((cases.made.len(), cases.artifacts.len(), cases.notes.len()), (1, 2, 2), "call {call}");
    }
}

#[tokio::test]
async fn a_case_that_takes_longer_than_the_turn_goes_on_later() {
    let (world, cases) = with_cases(Cases::default()).await;
    let order = Order { action: &case("Low"), key: KEY, ends: world.clock.monotonic(), outdated: false };
    assert!(matches!(performer(&world).perform(&order).await, Outcome::Later { .. }));
    assert!(cases.lock().unwrap_or_else(PoisonError::into_inner).made.is_empty());
}

/// When the messages of the queue of runs become visible, in seconds from now on.
async fn triggered(world: &World) -> Vec<u64> {
    let mut visible = Vec::new();
    for second in 0..200 {
        for message in world.store.receive(export::QUEUE, 10, Duration::from_secs(9_999)).await.expect("a queue") {
            let parsed: export::Message = serde_json::from_slice(&message.body).expect("a message");
            assert_eq!((parsed.job.as_str(), parsed.run), ("default", None));
            visible.push(second);
        }
        world.clock.advance(Duration::from_secs(1));
    }
    visible
}

#[tokio::test]
async fn exports_asked_for_within_a_minute_are_one_now_and_one_after_it() {
    let world = World::new(|_| ok()).await;
    let action = Action::TriggerExport { job: None, coalesce_seconds: 60 };
    for _ in 0..10 {
        assert_eq!(perform(&world, &action).await, Outcome::Done);
    }
    assert_eq!(triggered(&world).await, [0, 60], "who asks after the first has begun is served by the second");
    assert_eq!(perform(&world, &action).await, Outcome::Done);
    assert_eq!(triggered(&world).await, [0]);
    let unknown = Action::TriggerExport { job: Some("other".to_owned()), coalesce_seconds: 60 };
    assert!(matches!(perform(&world, &unknown).await, Outcome::Refused(line) if line.contains("JOBS")));
}

#[tokio::test]
async fn an_export_that_is_asked_for_comes_wherever_the_process_dies() {
    for (writes, after) in [(1, false), (1, true), (2, false), (2, true)] {
        let world = World::new(|_| ok()).await;
        let mortal = Mortal::at(&world.store, writes, after);
        let dying = Performer::new(world.tools(Arc::clone(&mortal) as _, Arc::clone(&mortal) as _));
        let action = Action::TriggerExport { job: Some("default".to_owned()), coalesce_seconds: 60 };
        let order = Order { action: &action, key: KEY, ends: Duration::MAX, outdated: false };
        let outcome = dying.perform(&order).await;
        assert!(matches!(outcome, Outcome::Later { .. }), "{outcome:?}");
        assert_eq!(perform(&world, &action).await, Outcome::Done);
        assert!(!triggered(&world).await.is_empty(), "killed at {writes} (after: {after})");
    }
}
