//! Alerts that are polled: none is lost, none has two effects, however late the service shows them and wherever the process dies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicator_relay::notifications::item::{ChangeType, Event, Item, Origin, QUEUE, URGENT_QUEUE, Work};
use indicator_relay::platform::clock::Clock as _;
use indicator_relay::polling::{PollError, Polled, Poller, Source};
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::storage::{Queue as _, StateStore as _};
use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::between::Mortal;
use crate::worker::{Answer, Call, World, graph, ok};

const MINUTE: Duration = Duration::from_secs(60);

/// An alert as the service knows it.
#[derive(Debug, Clone)]
struct Alert {
    id: String,
    severity: &'static str,
    created: Timestamp,
    updated: Timestamp,
    /// The service shows it, in this state, from then on.
    shown: Timestamp,
}

#[derive(Debug, Default)]
struct Alerts {
    base: String,
    now: Option<Timestamp>,
    all: Vec<Alert>,
    asked: Vec<String>,
    fails_at_page: Option<usize>,
}

impl Alerts {
    /// Two to a page, in no order that could be relied on.
    fn answer(&mut self, call: &Call) -> Answer {
        let (_, query) = call.target.split_once('?').unwrap_or_default();
        let query = percent_decode_str(query).decode_utf8_lossy().into_owned();
        self.asked.push(query.clone());
        let since = query.split("lastUpdateDateTime ge ").nth(1).and_then(|rest| rest.get(..20)?.parse::<Timestamp>().ok());
        let since = since.expect("a window");
        let skip: usize = query.split("$skip=").nth(1).and_then(|rest| rest.parse().ok()).unwrap_or_default();
        if self.fails_at_page == Some(skip / 2) {
            return Answer::Json(400, json!({"error": {"message": "no more"}}));
        }
        let now = self.now.expect("a time");
        let high = query.contains("severity eq 'high'");
        let mut shown: Vec<&Alert> = self
            .all
            .iter()
            .filter(|alert| alert.shown <= now && alert.updated >= since && (!high || alert.severity == "high"))
            .collect();
        shown.sort_by_key(|alert| alert.id.chars().rev().collect::<String>());
        let rows: Vec<Value> = shown
            .iter()
            .skip(skip)
            .take(2)
            .map(|alert| {
                json!({"id": alert.id, "severity": alert.severity, "createdDateTime": alert.created.to_string(), "lastUpdateDateTime": alert.updated.to_string()})
            })
            .collect();
        let mut page = json!({ "value": rows });
        if shown.len() > skip + 2 {
            let own = call.target.split("&$skip=").next().unwrap_or_default();
            page["@odata.nextLink"] = json!(format!("{}{own}&$skip={}", self.base, skip + 2));
        }
        Answer::At(now, page)
    }
}

/// Alerts with a poller.
struct Desk {
    world: World,
    alerts: Arc<Mutex<Alerts>>,
    source: Source,
}

impl Desk {
    async fn new(resource: &str) -> Self {
        let alerts = Arc::new(Mutex::new(Alerts::default()));
        let script = Arc::clone(&alerts);
        let world = World::new(move |call| script.lock().unwrap_or_else(PoisonError::into_inner).answer(call)).await;
        let source = Source { resource: resource.to_owned(), tenant: Some("t1".to_owned()), group: None, urgent: false };
        let desk = Self { world, alerts, source };
        desk.alerts().base = desk.world.server.url("");
        desk
    }

    fn alerts(&self) -> MutexGuard<'_, Alerts> {
        self.alerts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.world.clock.now()
    }

    fn add(&self, id: &str, age: Duration) {
        let created = self.now() - SignedDuration::try_from(age).expect("short");
        let alert = Alert { id: id.to_owned(), severity: "high", created, updated: created, shown: self.now() };
        self.alerts().all.push(alert);
    }

    fn touch(&self, id: &str) {
        let now = self.now();
        if let Some(alert) = self.alerts().all.iter_mut().find(|alert| alert.id == id) {
            (alert.updated, alert.shown) = (now, now);
        }
    }

    fn poller(&self) -> Poller {
        self.poller_over(&Mortal::at(&self.world.store, i64::MAX, false))
    }

    fn poller_over(&self, mortal: &Arc<Mortal<SqliteStore>>) -> Poller {
        let base = self.world.server.base("/v1.0");
        let http = graph(&self.world.clock, &base);
        let clock = Arc::new(self.world.clock.clone());
        Poller::new(http, base, Arc::clone(mortal) as _, Arc::clone(mortal) as _, clock, vec![self.source.clone()])
    }

    async fn poll(&self) -> Result<Polled, PollError> {
        self.poll_with(&self.poller()).await
    }

    async fn poll_with(&self, poller: &Poller) -> Result<Polled, PollError> {
        self.alerts().now = Some(self.now());
        poller.poll(&self.source).await
    }

    /// What waits in a queue now, taken away.
    async fn items(&self, queue: &str) -> Vec<Item> {
        let mut items = Vec::new();
        while let Some(message) = self.world.store.receive(queue, 1, MINUTE).await.expect("a queue").pop() {
            assert!(self.world.store.delete(queue, &message).await.expect("a queue"));
            match serde_json::from_slice(&message.body).expect("work") {
                Work::Item(task) => items.push(task.item),
                Work::Batch(_) => panic!("a batch"),
            }
        }
        items.sort_by_key(|item| item.resource_id().unwrap_or_default().to_owned());
        items
    }
}

fn about(items: &[Item]) -> Vec<String> {
    let change = |item: &Item| match item.event {
        Event::Change(change) => change.name(),
        Event::Lifecycle(event) => event.name(),
    };
    items.iter().map(|item| format!("{} {}", item.resource_id().unwrap_or_default(), change(item))).collect()
}

#[tokio::test]
async fn new_alerts_become_items_that_look_like_notifications() {
    let mut desk = Desk::new("security/alerts_v2?$filter=severity eq 'high'").await;
    (desk.source.urgent, desk.source.group) = (true, Some("u0123456789ab".to_owned()));
    for i in 0..5 {
        desk.add(&format!("a{i}"), MINUTE);
    }
    desk.alerts().all[4].severity = "low";
    assert_eq!(desk.poll().await.expect("polled"), Polled { pages: 2, created: 4, ..Polled::default() });
    let items = desk.items(URGENT_QUEUE).await;
    assert_eq!(about(&items), ["a0 created", "a1 created", "a2 created", "a3 created"]);
    let item = &items[0];
    assert_eq!((item.origin, item.resource.as_deref()), (Origin::Poll, Some("security/alerts_v2/a0")));
    assert_eq!((item.group.as_deref(), item.tenant.as_deref()), (Some("u0123456789ab"), Some("t1")));
    assert_eq!(item.object.as_ref().map(|object| &object["severity"]), Some(&json!("high")));
    assert_eq!(item.notification["changeType"], "created");
    assert_eq!(item.event, Event::Change(ChangeType::Created));
    assert!(desk.alerts().asked[0].contains(" and (severity eq 'high')") && !desk.alerts().asked[0].contains("orderby"));
}

#[tokio::test]
async fn each_state_is_told_once_and_an_old_alert_is_an_update() {
    let desk = Desk::new("security/incidents").await;
    desk.add("new", MINUTE);
    desk.add("old", 100 * MINUTE);
    desk.touch("old");
    desk.poll().await.expect("polled");
    assert_eq!(about(&desk.items(QUEUE).await), ["new created", "old updated"]);
    desk.world.clock.advance(5 * MINUTE);
    let again = desk.poll().await.expect("polled");
    assert_eq!((again.known, about(&desk.items(QUEUE).await)), (2, vec![]));
    desk.touch("new");
    desk.poll().await.expect("polled");
    assert_eq!(about(&desk.items(QUEUE).await), ["new updated"]);
    desk.world.clock.advance(600 * MINUTE);
    desk.poll().await.expect("polled");
    desk.touch("new");
    desk.poll().await.expect("polled");
    assert_eq!(about(&desk.items(QUEUE).await), ["new updated"]);
}

#[tokio::test]
async fn what_the_service_shows_late_is_found_and_what_came_while_we_were_away_too() {
    let desk = Desk::new("security/alerts_v2").await;
    desk.poll().await.expect("polled");
    desk.add("late", Duration::ZERO);
    let later = desk.now() + SignedDuration::from_mins(40);
    desk.alerts().all[0].shown = later;
    for _ in 0..9 {
        desk.world.clock.advance(5 * MINUTE);
        desk.poll().await.expect("polled");
    }
    assert_eq!(about(&desk.items(QUEUE).await), ["late created"]);
    desk.add("meanwhile", Duration::ZERO);
    desk.world.clock.advance(3 * 24 * 60 * MINUTE);
    desk.poll().await.expect("polled");
    assert_eq!(about(&desk.items(QUEUE).await), ["meanwhile created"]);
}

#[tokio::test]
async fn a_poll_that_ends_early_is_repeated_from_where_the_last_complete_one_began() {
    let desk = Desk::new("security/alerts_v2").await;
    desk.poll().await.expect("polled");
    desk.world.clock.advance(5 * MINUTE);
    for i in 0..6 {
        desk.add(&format!("a{i}"), MINUTE);
    }
    desk.alerts().fails_at_page = Some(1);
    let failed = desk.poll().await.expect_err("a page is missing").to_string();
    assert!(failed.contains("refused the query"), "{failed}");
    assert_eq!(desk.items(QUEUE).await.len(), 2);
    desk.world.clock.advance(24 * 60 * MINUTE);
    desk.alerts().fails_at_page = None;
    desk.poll().await.expect("polled");
    assert_eq!(desk.items(QUEUE).await.len(), 4, "the others, a day later");
}

#[tokio::test]
async fn what_cannot_be_polled_says_what_to_change() {
    let world = World::new(|_| Answer::Json(403, json!({"error": {"code": "Forbidden", "message": "no"}}))).await;
    let desk = Desk { world, ..Desk::new("security/incidents").await };
    let forbidden = desk.poll().await.expect_err("forbidden").to_string();
    assert!(forbidden.contains("SecurityIncident.Read.All"), "{forbidden}");
    let world = World::new(|_| Answer::Json(410, json!({"error": {"code": "Gone", "message": "no more"}}))).await;
    let desk = Desk { world, ..Desk::new("security/incidents").await };
    let gone = desk.poll().await.expect_err("gone").to_string();
    assert!(gone.contains("status 410") && gone.contains("source.resource") && gone.ends_with("(no more)"), "{gone}");
    let link = json!({"value": [], "@odata.nextLink": "https://evil.example/v1.0/security/incidents"});
    let world = World::new(move |_| Answer::Json(200, link.clone())).await;
    let desk = Desk { world, ..Desk::new("security/incidents").await };
    assert!(desk.poll().await.expect_err("elsewhere").to_string().contains("GRAPH_URL"));
    let world = World::new(|_| ok()).await;
    let desk = Desk { world, ..Desk::new("security/incidents").await };
    assert!(desk.poll().await.is_err());
    let odd = json!({"value": [{"id": 7}, "x", {"id": "a", "createdDateTime": "2026-11-24T08:59:00Z"}]});
    let world = World::new(move |_| Answer::Json(200, odd.clone())).await;
    let desk = Desk { world, ..Desk::new("security/incidents").await };
    let polled = desk.poll().await.expect("polled");
    assert_eq!((polled.created, polled.unreadable), (1, 2), "one that cannot be read spoils no other");
}

#[tokio::test]
async fn requests_keep_to_the_documented_rate() {
    let desk = Desk::new("security/alerts_v2").await;
    for i in 0..600 {
        desk.add(&format!("a{i:03}"), MINUTE);
    }
    let start = desk.now();
    desk.poll().await.expect("polled");
    let took = desk.now().duration_since(start).as_secs();
    assert!((115..140).contains(&took), "300 requests in {took} s");
}

#[tokio::test]
async fn killed_at_every_write_no_alert_is_lost_and_each_state_has_one_name() {
    let mut writes = 1;
    let mut alive = 0;
    while alive < 2 {
        alive = 0;
        for after in [false, true] {
            let desk = Desk::new("security/alerts_v2").await;
            for i in 0..5 {
                desk.add(&format!("a{i}"), MINUTE);
            }
            let mortal = Mortal::at(&desk.world.store, writes, after);
            drop(desk.poll_with(&desk.poller_over(&mortal)).await);
            alive += usize::from(!mortal.is_dead());
            desk.poll().await.expect("polled");
            let items = desk.items(QUEUE).await;
            let ids: BTreeSet<String> = about(&items).into_iter().collect();
            assert_eq!(ids.len(), 5, "killed at {writes} (after: {after}): {ids:?}");
            assert!(ids.iter().all(|about| about.ends_with("created")), "a repetition says the same: {ids:?}");
            assert!(items.len() <= 7, "killed at {writes} (after: {after}): no more than a page comes twice");
        }
        writes += 1;
    }
    assert!(writes > 8, "{writes} writes were tried");
}

#[tokio::test]
async fn what_no_poll_asks_for_any_more_is_forgotten() {
    let desk = Desk::new("security/alerts_v2").await;
    for i in 0..10 {
        desk.add(&format!("a{i}"), MINUTE);
    }
    desk.poll().await.expect("polled");
    let rows = || async { desk.world.store.scan("polling", "s.", "s/", 100).await.expect("readable").len() };
    assert_eq!(rows().await, 10);
    desk.world.clock.advance(26 * 60 * MINUTE);
    desk.poll().await.expect("polled");
    assert_eq!(rows().await, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Add { lag: u8 },
    Touch { which: u8, lag: u8 },
    Poll { dies: Option<(u8, bool)> },
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u8..50).prop_map(|lag| Step::Add { lag }),
        3 => (any::<u8>(), 0_u8..50).prop_map(|(which, lag)| Step::Touch { which, lag }),
        4 => prop::option::weighted(0.5, (1_u8..12, any::<bool>())).prop_map(|dies| Step::Poll { dies }),
        3 => (1_u16..90).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 300, ..ProptestConfig::default() })]

    /// Every state that was ever the latest when it was looked at is told, under one name; and the last state always is.
    #[test]
    fn no_history_of_polls_loses_an_alert(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let desk = Desk::new("security/alerts_v2").await;
            desk.poll().await.expect("polled");
            let shown = |lag: u8| desk.now() + SignedDuration::from_mins(i64::from(lag));
            for (number, step) in steps.iter().enumerate() {
                match step {
                    Step::Add { lag } => {
                        desk.add(&format!("a{number}"), Duration::ZERO);
                        let shown = shown(*lag);
                        if let Some(alert) = desk.alerts().all.last_mut() { alert.shown = shown }
                    }
                    Step::Touch { which, lag } => {
                        let (now, shown) = (desk.now(), shown(*lag));
                        let mut alerts = desk.alerts();
                        if !alerts.all.is_empty() {
                            let at = usize::from(*which) % alerts.all.len();
                            (alerts.all[at].updated, alerts.all[at].shown) = (now, shown);
                        }
                    }
                    Step::Poll { dies: None } => drop(desk.poll().await),
                    Step::Poll { dies: Some((writes, after)) } => {
                        let mortal = Mortal::at(&desk.world.store, i64::from(*writes), *after);
                        drop(desk.poll_with(&desk.poller_over(&mortal)).await);
                    }
                    Step::Pass(minutes) => desk.world.clock.advance(u32::from(*minutes) * MINUTE),
                }
            }
            for _ in 0..12 {
                desk.world.clock.advance(5 * MINUTE);
                desk.poll().await.expect("polled");
            }
            let mut names: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
            for item in desk.items(QUEUE).await {
                let data = item.resource_data().expect("data").clone();
                let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
                names.entry((text("id"), text("eventTime"))).or_default().insert(about(&[item])[0].clone());
            }
            for alert in &desk.alerts().all {
                let state = (alert.id.clone(), alert.updated.to_string());
                prop_assert!(names.contains_key(&state), "{:?} was not told: {:?}", state, names);
            }
            prop_assert!(names.values().all(|names| names.len() == 1), "a repetition says the same: {:?}", names);
            let mut made: BTreeMap<&String, usize> = BTreeMap::new();
            for ((id, _), names) in &names {
                *made.entry(id).or_default() += names.iter().filter(|name| name.ends_with("created")).count();
            }
            prop_assert!(made.values().all(|count| *count <= 1), "what is made is made once: {:?}", names);
            Ok(())
        })?;
    }
}
