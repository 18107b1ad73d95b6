//! In which order what happens to one resource reaches a playbook: deletions, what comes back after them, and what is read.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use indicator_relay::dispatch::{self, Fetch, Plan, Reading};
use indicator_relay::notifications::item::{ChangeType, Event, Item, QUEUE, Work};
use indicator_relay::notifications::wanted::Wanted;
use indicator_relay::playbooks::NotFound;
use indicator_relay::playbooks::action::Action;
use indicator_relay::storage::Queue as _;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::dispatch::{created, deleted, tags};
use crate::functions::ready;
use crate::worker::{Answer, World, ok, plan, reading};

const HOUR: Duration = Duration::from_secs(3_600);

/// A target with one case, whose name a playbook writes: the tag of each item.
async fn with_case(fetch: Fetch) -> World {
    let mut name = Value::Null;
    let mut world = World::new(move |call| {
        let path = call.target.split('?').next().unwrap_or_default();
        let list = |rows: Vec<Value>| Answer::Json(200, json!({"data": rows, "status": "Success"}));
        match (call.method.as_str(), path) {
            ("GET", "/api/v3/cases") if name.is_null() => list(Vec::new()),
            ("GET", "/api/v3/cases") => list(vec![json!({"id": 7, "name": name})]),
            ("GET", path) if path.starts_with("/v1.0") => Answer::Json(200, json!({"id": "m1"})),
            ("GET", _) => list(Vec::new()),
            _ => {
                name = call.json()["name"].clone();
                Answer::Json(200, json!({"data": {"id": 7}}))
            }
        }
    })
    .await;
    world.plans = vec![plan("cases", fetch, 20, |item, _| vec![case_of(item)])];
    world
}

fn case_of(item: &Item) -> Action {
    let tag = item.resource_data().and_then(|data| data.get("@odata.etag")).and_then(Value::as_str);
    Action::ThreatConnectCase {
        xid: "ir-5d41402abc4b2a76b9719d911017c592".to_owned(),
        name: tag.unwrap_or_default().to_owned(),
        status: "Open",
        severity: "High",
        description: None,
        tags: Vec::new(),
        artifacts: Vec::new(),
        notes: Vec::new(),
    }
}

/// The names that the case was given.
fn written(world: &World) -> Vec<String> {
    let calls = world.server.calls();
    let writes = calls.iter().filter(|call| call.method != "GET" && call.target.starts_with("/api/v3/cases"));
    writes.map(|call| call.json()["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn message(world: &World, tag: &str) -> Item {
    world.item("users/u1/messages", "m1", tag)
}

#[tokio::test]
async fn a_deletion_reaches_its_case_though_the_update_before_it_was_read_after_both_came() {
    let world = with_case(Fetch::Resource(reading("users/u1/messages"))).await;
    world.deliver(&message(&world, "updated")).await;
    world.deliver(&deleted(message(&world, "deleted"))).await;
    world.clock.advance(Duration::from_secs(1));
    world.work().await;
    assert_eq!(written(&world), ["updated", "deleted"]);
}

#[tokio::test]
async fn what_comes_back_after_a_deletion_reaches_its_case_and_a_late_deletion_does_not() {
    for fetch in [Fetch::Nothing, Fetch::Resource(reading("users/u1/messages"))] {
        let world = with_case(fetch).await;
        world.deliver(&message(&world, "updated")).await;
        world.deliver(&deleted(message(&world, "left"))).await;
        world.work_for(Duration::ZERO).await;
        world.clock.advance(Duration::from_secs(2));
        world.deliver(&created(message(&world, "back"))).await;
        world.work().await;
        assert_eq!(written(&world), ["updated", "left", "back"], "while the deletion waited");
        // Its holder goes away with it, and it comes again when the message is back once more.
        world.deliver(&deleted(message(&world, "left again"))).await;
        assert_eq!(world.store.receive(QUEUE, 1, HOUR).await.expect("a queue").len(), 1);
        world.clock.advance(Duration::from_secs(60));
        world.deliver(&created(message(&world, "back again"))).await;
        world.work().await;
        assert_eq!(written(&world), ["updated", "left", "back", "back again"]);
    }
}

#[tokio::test]
async fn the_case_of_a_user_stays_deleted() {
    let world = with_case(Fetch::Resource(reading("users"))).await;
    world.deliver(&deleted(world.item("users", "u1", "deleted"))).await;
    world.work().await;
    world.clock.advance(Duration::from_secs(60));
    world.deliver(&world.item("users", "u1", "late")).await;
    world.work().await;
    assert_eq!(written(&world), ["deleted"], "an update that comes a minute late");
}

/// The first of two notifications is read last, since its holder went away.
#[tokio::test]
async fn an_object_that_a_later_read_finds_is_the_later_state() {
    let mut world = with_case(Fetch::Nothing).await;
    let mut pages = 0;
    let name = Arc::new(std::sync::Mutex::new(Value::Null));
    world.server = crate::worker::Server::start(move |call| {
        let list = |rows: Vec<Value>| Answer::Json(200, json!({"data": rows, "status": "Success"}));
        let mut name = name.lock().expect("nobody panicked");
        if call.target.starts_with("/v1.0") {
            pages += 1;
            let object = json!({"id": "f1", "eTag": format!("v{pages}"), "lastModifiedDateTime": "2099-01-01T00:00:00Z"});
            return Answer::Json(
                200,
                json!({"value": [object], "@odata.deltaLink": format!("http://{}/v1.0/changes?token={pages}", call.header("host"))}),
            );
        }
        match (call.method.as_str(), call.target.split('?').next().unwrap_or_default()) {
            ("GET", "/api/v3/cases") if !name.is_null() => list(vec![json!({"id": 7, "name": *name})]),
            ("GET", _) => list(Vec::new()),
            _ => {
                *name = call.json()["name"].clone();
                Answer::Json(200, json!({"data": {"id": 7}}))
            }
        }
    })
    .await;
    world.plans = vec![plan("cases", Fetch::Delta(reading("drives/d1/root")), 20, |item, _| vec![case_of(item)])];
    let root = |subscription: &str| Item { subscription: subscription.to_owned(), ..world.item("drives/d1/root", "", "") };
    world.deliver(&root("s1")).await;
    assert_eq!(world.store.receive(QUEUE, 1, Duration::from_secs(120)).await.expect("a queue").len(), 1);
    world.clock.advance(Duration::from_millis(500));
    world.deliver(&root("s1")).await;
    world.clock.advance(Duration::from_millis(500));
    world.work().await;
    assert_eq!(written(&world), ["v1", "v2"]);
}

fn made_for(resource: &str) -> Wanted {
    Wanted {
        tenant: "default".to_owned(),
        resource: resource.to_owned(),
        change_types: vec![ChangeType::Updated],
        rich: false,
        lifecycle: true,
        minutes: None,
        profile: None,
        urgent: false,
        playbooks: vec!["moved".to_owned()],
    }
}

/// What is inherited from the subscription that a playbook wanted before.
#[tokio::test]
async fn what_is_inherited_is_read_where_it_is() {
    let mut failures = 1;
    let mut world = World::new(move |call| match call.target.as_str() {
        "/v1.0/users/u1" => Answer::Json(200, json!({"id": "u1"})),
        "/hook/moved" if failures > 0 => {
            failures -= 1;
            Answer::Json(503, json!({}))
        }
        "/hook/moved" => ok(),
        _ => Answer::Json(404, json!({})),
    })
    .await;
    let made_for = made_for("users");
    world.hooks.made_for = Arc::new(move |_| ready(Ok(Some(made_for.clone()))));
    let dropping = Reading { not_found: NotFound::Drop, ..reading("groups") };
    world.plans = vec![Plan { fetch: Fetch::Resource(dropping), ..world.hook("moved") }];
    world.deliver(&world.item("users", "u1", "e1")).await;
    world.work().await;
    assert_eq!(tags(&world, "moved"), ["e1", "e1"], "also when it is tried again");
    assert_eq!((world.read(), world.dead().await.len()), (vec!["/users/u1".to_owned(); 2], 0));
}

/// A playbook that moves from users to a drive reads that, and none of its old objects is taken for a root.
#[tokio::test]
async fn what_is_inherited_from_another_kind_of_resource_is_no_root() {
    let mut world = World::new(|call| match call.target.as_str() {
        "/v1.0/drives/d1/root/delta" => {
            let link = format!("http://{}/v1.0/changes?token=1", call.header("host"));
            Answer::Json(200, json!({"value": [], "@odata.deltaLink": link}))
        }
        _ => ok(),
    })
    .await;
    let made_for = made_for("users");
    world.hooks.made_for = Arc::new(move |_| ready(Ok(Some(made_for.clone()))));
    world.plans = vec![Plan { fetch: Fetch::Delta(reading("drives/d1/root")), ..world.hook("moved") }];
    world.deliver(&world.item("users", "u1", "e1")).await;
    world.work().await;
    assert_eq!((world.read(), world.dead().await.len()), (vec!["/drives/d1/root/delta".to_owned()], 0));
}

#[tokio::test]
async fn another_playbooks_failing_target_holds_up_nobody() {
    let failing = Arc::new(AtomicBool::new(true));
    let script = Arc::clone(&failing);
    let mut world = World::new(move |call| {
        let fails = call.target == "/hook/bad" && script.load(Ordering::Relaxed);
        if fails { Answer::Json(503, json!({})) } else { ok() }
    })
    .await;
    world.plans = vec![world.hook("good"), world.fetching_hook("reads", "users/u1/messages"), world.hook("bad")];
    world.deliver(&created(message(&world, "e1"))).await;
    world.work_for(Duration::from_secs(1)).await;
    world.clock.advance(Duration::from_secs(7));
    world.deliver(&deleted(message(&world, "e2"))).await;
    world.clock.advance(Duration::from_secs(3));
    world.deliver(&created(message(&world, "e3"))).await;
    world.work_for(Duration::from_secs(20)).await;
    for name in ["good", "reads"] {
        assert_eq!(tags(&world, name), ["e1", "e2", "e3"], "{name}, at once");
    }
    world.deliver(&deleted(message(&world, "e2"))).await;
    world.work_for(HOUR).await;
    failing.store(false, Ordering::Relaxed);
    world.work().await;
    let mut order = tags(&world, "bad");
    order.dedup();
    assert_eq!(order, ["e1", "e2", "e3"]);
    let keys: BTreeSet<String> = world.hooked().iter().map(|call| call.header("idempotency-key").to_owned()).collect();
    let others = tags(&world, "good").len() + tags(&world, "reads").len();
    assert_eq!((keys.len(), others, world.dead().await.len()), (9, 6, 0), "each once");
}

/// A deletion that waits is set aside for whoever cannot be read, and for nobody else.
#[tokio::test]
async fn a_deletion_that_waits_is_kept_for_who_cannot_be_read_while_it_comes() {
    let mut world = World::new(|_| ok()).await;
    let good = world.hook("good");
    world.plans = vec![good.clone(), Plan::unreadable("playbooks.toml:1:1: no TOML", Arc::new(|_, _| true))];
    world.deliver(&deleted(message(&world, "e1"))).await;
    world.work_for(Duration::ZERO).await;
    world.deliver(&deleted(message(&world, "e1"))).await;
    world.work().await;
    assert_eq!((tags(&world, "good").len(), world.dead().await.len()), (1, 1));
    world.plans = vec![good, world.hook("mended")];
    for (key, _) in world.dead().await {
        assert!(dispatch::replay(world.store.as_ref(), world.store.as_ref(), &key).await.expect("stored"));
    }
    world.work().await;
    assert_eq!((tags(&world, "good").len(), tags(&world, "mended").len(), world.dead().await.len()), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_deletion_that_meets_somebody_at_work_keeps_its_place() {
    let (go, wait) = mpsc::channel::<()>();
    let reads = Arc::new(Notify::new());
    let read = Arc::clone(&reads);
    let mut first = true;
    let mut world = World::new(move |call| {
        if !call.target.starts_with("/v1.0") {
            return ok();
        }
        if std::mem::take(&mut first) {
            read.notify_one();
            wait.recv().expect("released");
        }
        Answer::Json(200, json!({"id": "m1"}))
    })
    .await;
    world.plans = vec![world.fetching_hook("reads", "users/u1/messages")];
    let (busy, other) = (world.dispatcher(), world.dispatcher());
    let at_work = message(&world, "e1");
    let at_work = tokio::spawn(async move { busy.handle(QUEUE, Work::first(at_work)).await });
    reads.notified().await;
    world.clock.advance(Duration::from_secs(10));
    world.deliver(&deleted(message(&world, "e2"))).await;
    world.clock.advance(Duration::from_secs(6));
    assert!(world.handle_one(&other).await.expect("a message").expect("handled").waits);
    go.send(()).expect("there");
    at_work.await.expect("no panic").expect("nobody took it over");
    world.clock.advance(Duration::from_millis(1_500));
    world.deliver(&created(message(&world, "e3"))).await;
    world.work().await;
    assert_eq!(tags(&world, "reads"), ["e1", "e2", "e3"]);
}

/// What happens next to a message.
#[derive(Debug, Clone)]
enum Step {
    Change(ChangeType),
    Pass(u16),
    /// The target of one playbook fails, or does so no more.
    Fails(usize, bool),
    Work(u16),
    /// Two processes at once.
    Two,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::sample::select(&ChangeType::ALL[..]).prop_map(Step::Change),
        2 => (0_u16..90).prop_map(Step::Pass),
        2 => (0_usize..2, any::<bool>()).prop_map(|(which, fails)| Step::Fails(which, fails)),
        4 => (0_u16..60).prop_map(Step::Work),
        2 => Just(Step::Two),
    ]
}

const NAMES: [&str; 2] = ["plain", "reads"];

async fn history(steps: &[Step]) -> Result<(), TestCaseError> {
    let failing: Arc<[AtomicBool; 2]> = Arc::default();
    let script = Arc::clone(&failing);
    let mut world = World::new(move |call| {
        let which = NAMES.iter().position(|name| call.target == format!("/hook/{name}"));
        let fails = which.is_some_and(|which| script[which].load(Ordering::Relaxed));
        if fails { Answer::Json(503, json!({})) } else { ok() }
    })
    .await;
    world.plans = vec![world.hook(NAMES[0]), world.fetching_hook(NAMES[1], "users/u1/messages")];
    let mut told: Vec<ChangeType> = Vec::new();
    for step in steps {
        match step {
            Step::Change(change) => {
                // So far apart that their order is plain, and each is seen before the next one comes.
                let item = Item { event: Event::Change(*change), ..message(&world, &told.len().to_string()) };
                world.deliver(&item).await;
                told.push(*change);
                world.work_for(Duration::ZERO).await;
                world.clock.advance(Duration::from_secs(2));
            }
            Step::Pass(seconds) => world.clock.advance(Duration::from_secs(u64::from(*seconds))),
            Step::Fails(which, fails) => failing[*which].store(*fails, Ordering::Relaxed),
            Step::Work(seconds) => drop(world.work_for(Duration::from_secs(u64::from(*seconds))).await),
            Step::Two => {
                let (one, other) = (world.dispatcher(), world.dispatcher());
                tokio::join!(world.handle_one(&one), world.handle_one(&other));
            }
        }
    }
    for fails in failing.iter() {
        fails.store(false, Ordering::Relaxed);
    }
    world.work().await;
    prop_assert!(world.dead().await.is_empty());
    for name in NAMES {
        // What failed acted on nothing: the last call of each is its effect.
        let calls: Vec<usize> = tags(&world, name).iter().filter_map(|tag| tag.parse().ok()).collect();
        let at = |number: usize| calls.iter().rposition(|call| *call == number);
        for (number, change) in told.iter().enumerate() {
            let is_deletion = *change == ChangeType::Deleted;
            prop_assert!(at(number).is_some() || name == "reads" && !is_deletion, "{} has not had {}", name, number);
            for other in (0..told.len()).filter(|_| is_deletion) {
                let (Some(deletion), Some(other_at)) = (at(number), at(other)) else { continue };
                prop_assert_eq!(deletion.cmp(&other_at), number.cmp(&other), "{} of {:?}: {:?}", name, told, calls);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn deletions_keep_their_place_whatever_fails(steps in prop::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(history(&steps))?;
    }
}
