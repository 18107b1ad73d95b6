//! Documents that break while notifications come: what a playbook with a mistake would have had is kept for it, and for nobody else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicator_relay::app::App;
use indicator_relay::dispatch::{self, Fetch, Plan};
use indicator_relay::notifications::item::{Item, QUEUE, Task, Work};
use indicator_relay::playbooks::load;
use indicator_relay::storage::Queue as _;
use serde_json::{Value, json};

use crate::rig::Rig;
use crate::worker::{Answer, Call, World, item, ok, reading};

const HOUR: Duration = Duration::from_secs(3_600);

/// A playbook on users that tells a queue of its own.
fn users(name: &str) -> String {
    format!(
        r#"
[[playbook]]
name = "{name}"
[playbook.source]
resource = "users"
change_types = ["updated"]
[playbook.fetch]
mode = "none"
[playbook.select]
string = {{ id = "notification.resourceData.id" }}
[[playbook.action]]
kind = "queue"
queue = "seen-{name}"
body = "selected"
"#
    )
}

/// The worker over a document.
struct Story {
    world: World,
    seen: BTreeMap<&'static str, Vec<String>>,
}

impl Story {
    async fn new() -> Self {
        Self { world: World::new(|_| ok()).await, seen: BTreeMap::from([("a", Vec::new()), ("b", Vec::new())]) }
    }

    fn document(&mut self, playbooks: &[String]) {
        let text = format!("version = 1\n{}", playbooks.concat());
        self.world.plans = Plan::all(&load(&text, &|_| true), "playbooks.toml").to_vec();
    }

    async fn change(&self, id: &str) {
        let right = load(&format!("version = 1\n{}", users("a")), &|_| true);
        let group = Some(format!("n{}", right.playbooks[0].group));
        self.world.deliver(&Item { group, ..self.world.item("users", id, "e") }).await;
    }

    async fn replay(&self) {
        for (key, _) in self.world.dead().await {
            assert!(dispatch::replay(self.world.store.as_ref(), self.world.store.as_ref(), &key).await.expect("stored"));
        }
    }

    /// What each playbook was told by now.
    async fn told(&mut self) -> String {
        self.world.work().await;
        for (name, seen) in &mut self.seen {
            let queue = format!("seen-{name}");
            while let Some(message) = self.world.store.receive(&queue, 1, HOUR).await.expect("a queue").pop() {
                let body: Value = serde_json::from_slice(&message.body).expect("JSON");
                seen.push(body["id"].as_str().expect("an id").to_owned());
                assert!(self.world.store.delete(&queue, &message).await.expect("a queue"));
            }
        }
        self.seen.iter().map(|(name, ids)| format!("{name}: {}", ids.join(" "))).collect::<Vec<_>>().join("; ")
    }

    /// For whom something is set aside, why, and who has had it.
    async fn dead(&self) -> Vec<(Option<String>, String, Vec<String>)> {
        self.world.dead().await.into_iter().map(|(_, dead)| (dead.playbook, dead.reason, dead.task.had)).collect()
    }
}

#[tokio::test]
async fn what_a_playbook_with_a_mistake_would_have_had_is_kept_under_its_name() {
    let mut story = Story::new().await;
    story.document(&[users("a").replace("\"queue\"", "\"quue\""), users("b")]);
    story.change("u1").await;
    story.change("u1").await;
    assert_eq!(story.told().await, "a: ; b: u1");
    let dead = story.dead().await;
    assert!(dead.len() == 1 && dead[0].0.as_deref() == Some("a"), "{dead:?}");
    assert!(dead[0].1.starts_with("playbooks.toml:13:8: `kind` is \"quue\""), "{dead:?}");
    story.replay().await;
    assert_eq!((story.told().await.as_str(), story.dead().await.len()), ("a: ; b: u1", 1), "replayed too early");
    // Long after all that was done is forgotten.
    story.world.clock.advance(24 * HOUR);
    story.document(&[users("a"), users("b")]);
    story.replay().await;
    assert_eq!((story.told().await.as_str(), story.dead().await.len()), ("a: u1; b: u1", 0));
}

#[tokio::test]
async fn what_may_be_of_one_that_cannot_be_read_is_kept_once_and_no_other_has_it_again() {
    for broken in [
        users("a").replace("resource =", "resorce ="),
        users("a").replace("name = \"a\"", "name = \"b\""),
        users("a").replace("updated", "updatd"),
    ] {
        let mut story = Story::new().await;
        story.document(&[users("b"), broken.clone()]);
        story.change("u1").await;
        assert_eq!(story.told().await, "a: ; b: u1");
        let dead = story.dead().await;
        assert!(dead.len() == 1 && dead[0].0.is_none() && dead[0].2 == ["b"], "{dead:?}");
        assert!(dead[0].1.contains("playbooks.toml:") && !dead[0].1.contains("(unreadable)"), "{dead:?}");
        story.replay().await;
        story.world.clock.advance(24 * HOUR);
        assert_eq!((story.told().await.as_str(), story.dead().await.len()), ("a: ; b: u1", 1), "{broken}");
        story.document(&[users("a"), users("b")]);
        story.replay().await;
        assert_eq!((story.told().await.as_str(), story.dead().await.len()), ("a: u1; b: u1", 0), "{broken}");
    }
}

#[tokio::test]
async fn while_nothing_can_be_read_all_is_kept_for_whoever_wants_it_then() {
    let mut story = Story::new().await;
    story.document(&[users("a"), users("b"), "[[playbook]\n".to_owned()]);
    story.change("u1").await;
    assert_eq!(story.told().await, "a: ; b: ");
    let dead = story.dead().await;
    assert!(dead.len() == 1 && dead[0].0.is_none() && dead[0].1.starts_with("playbooks.toml:"), "{dead:?}");
    story.document(&[users("b"), users("a").replace("resource =", "resorce =")]);
    story.replay().await;
    assert_eq!(story.told().await, "a: ; b: u1", "half of it is mended");
    // Delivered once more while all is broken again: who has had it stays known.
    story.document(&["[[playbook]\n".to_owned()]);
    story.change("u1").await;
    assert_eq!(story.told().await, "a: ; b: u1");
    assert_eq!(story.dead().await.iter().map(|dead| dead.2.clone()).collect::<Vec<_>>(), [["b"]]);
    story.world.clock.advance(24 * HOUR);
    story.document(&[users("a"), users("b")]);
    story.replay().await;
    assert_eq!((story.told().await.as_str(), story.dead().await.len()), ("a: u1; b: u1", 0));
}

#[tokio::test]
async fn what_is_tried_again_while_the_document_breaks_is_kept_for_its_playbook() {
    let mut story = Story::new().await;
    let copy = |story: &Story| {
        let item = story.world.item("users", "u1", "e");
        Work::Item(Box::new(Task { attempt: 1, playbook: Some("a".to_owned()), ..Task::first(item) }))
    };
    for document in [users("a").replace("\"queue\"", "\"quue\""), "[[playbook]\n".to_owned()] {
        story.document(&[document]);
        story.world.put(&copy(&story)).await;
        assert_eq!(story.told().await, "a: ; b: ");
        let dead = story.dead().await;
        assert!(dead.len() == 1 && dead[0].0.as_deref() == Some("a") && dead[0].1.starts_with("playbooks.toml:"), "{dead:?}");
    }
    story.document(&[users("a"), users("b")]);
    story.replay().await;
    assert_eq!(story.told().await, "a: u1; b: ");
}

#[tokio::test]
async fn what_waited_for_its_next_try_when_its_playbook_went_away_is_replayed_all_the_same() {
    let failing = Arc::new(Mutex::new(true));
    let script = Arc::clone(&failing);
    let fails = move || *script.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = World::new(move |_| if fails() { Answer::Json(503, json!({})) } else { ok() }).await;
    let with = vec![world.hook("a")];
    world.plans.clone_from(&with);
    world.deliver(&world.item("users", "u1", "e")).await;
    world.work_for(Duration::ZERO).await;
    world.plans.clear();
    world.work().await;
    let (key, dead) = world.dead().await.remove(0);
    assert_eq!((dead.playbook.as_deref(), dead.reason.as_str()), (Some("a"), "there is no playbook of this name any more"));
    *failing.lock().unwrap_or_else(PoisonError::into_inner) = false;
    world.plans = with;
    assert!(dispatch::replay(world.store.as_ref(), world.store.as_ref(), &key).await.expect("stored"));
    world.work().await;
    assert_eq!((world.hooked().len(), world.dead().await.len()), (2, 0));
}

#[tokio::test]
async fn what_an_enabled_and_a_disabled_playbook_want_is_held_for_the_disabled_one() {
    let mut story = Story::new().await;
    let off = |playbook: String| playbook.replace("[playbook.source]", "enabled = false\n[playbook.source]");
    for a in [
        users("a"),
        users("a").replace("[\"updated\"]", "[\"updated\", \"deleted\"]"),
        users("a").replace("\"queue\"", "\"quue\""),
    ] {
        story.document(&[off(a.clone()), users("b")]);
        story.change("u1").await;
        assert_eq!(story.told().await, "a: ; b: u1");
        assert_eq!(story.dead().await, [(Some("a".to_owned()), "disabled".to_owned(), Vec::new())], "{a}");
    }
    story.document(&[users("a"), users("b")]);
    story.replay().await;
    assert_eq!(story.told().await, "a: u1; b: u1");
    let mut story = Story::new().await;
    story.document(&[off(users("a").replace("resource =", "resorce =")), users("b")]);
    story.change("u1").await;
    assert_eq!((story.told().await.as_str(), story.dead().await.len()), ("a: ; b: u1", 0), "nobody waits for it");
}

/// What the queue holds, worked off; how many runs were done and set aside.
async fn work_off(app: &App) -> (usize, usize) {
    let (mut done, mut dead) = (0, 0);
    while let Some(message) = app.queue.receive(QUEUE, 1, HOUR).await.expect("a queue").pop() {
        let work = dispatch::read(QUEUE, &message.body).expect("a notification");
        let handled = app.dispatcher.handle(QUEUE, work).await.expect("handled");
        done += handled.done;
        dead += handled.dead.len();
        assert!(app.queue.delete(QUEUE, &message).await.expect("a queue"));
    }
    (done, dead)
}

const STRICT: &str = "fail_on_no_results = true\n[[playbook.action]]";

#[tokio::test]
async fn what_is_put_back_right_after_the_file_was_mended_is_acted_on() {
    let whole = format!("version = 1\n{}", users("a"));
    let group = format!("n{}", load(&whole, &|_| true).playbooks[0].group);
    let off = whole.replace("[playbook.source]", "enabled = false\n[playbook.source]");
    let gone = format!("version = 1\n{}", users("b").replace("\"users\"", "\"groups\""));
    for (broken, playbook) in [
        (off, None),
        (whole.replace("\"queue\"", "\"quue\""), None),
        (whole.clone() + "[[playbook]\n", None),
        (gone, Some("a".to_owned())),
        (whole.replace("notification.resourceData.id", "notification.nothing").replace("[[playbook.action]]", STRICT), None),
    ] {
        let (mut rig, folder) = (Rig::new().await, tempfile::tempdir().expect("a folder"));
        let file = folder.path().join("playbooks.toml");
        rig.set("PLAYBOOKS_FILE", file.to_str().expect("text"));
        std::fs::write(&file, &broken).expect("written");
        let app = App::open(&rig.surroundings(folder.path())).await.expect("an app");
        let (state, queue) = (app.state.as_ref(), app.queue.as_ref());
        for id in ["u1", "u2"] {
            let item = Item { group: Some(group.clone()), ..item(&rig.clock, "users", id, "e") };
            let task = Task { playbook: playbook.clone(), ..Task::first(item) };
            queue
                .put(QUEUE, serde_json::to_vec(&Work::Item(Box::new(task))).expect("JSON"), Duration::ZERO)
                .await
                .expect("a queue");
        }
        assert_eq!(work_off(&app).await, (0, 2), "{broken}");
        std::fs::write(&file, &whole).expect("written");
        let dead: Vec<String> = dispatch::list(state, None).await.expect("rows").into_iter().map(|(key, _)| key).collect();
        assert!(dispatch::replay(state, queue, &dead[0]).await.expect("put back"));
        assert_eq!(work_off(&app).await, (0, 1), "the file is not read for each of many: {broken}");
        rig.clock.advance(Duration::from_secs(3));
        for key in &dead {
            assert!(dispatch::replay(state, queue, key).await.expect("put back"));
        }
        assert_eq!(work_off(&app).await, (2, 0), "{broken}");
        assert_eq!(app.queue.count("seen-a").await.expect("a queue"), 2, "{broken}");
    }
}

/// A drive of which each read from a place finds one file more.
async fn drive() -> World {
    let mut world = World::new(|_| ok()).await;
    let url = Arc::new(Mutex::new(String::new()));
    let base = Arc::clone(&url);
    world.server = crate::worker::Server::start(move |call: &Call| {
        let Some(rest) = call.target.strip_prefix("/v1.0/users/u/drive/root/delta") else { return ok() };
        let seen: usize = rest.strip_prefix("?token=").map_or(0, |token| token.parse().expect("a number"));
        let file = |id: usize| json!({"id": format!("f{id}"), "eTag": "1", "lastModifiedDateTime": "2026-11-24T08:59:00Z"});
        let files: Vec<Value> = if seen == 0 { vec![file(0), file(1)] } else { vec![file(seen + 1)] };
        let base = base.lock().unwrap_or_else(PoisonError::into_inner);
        let link = format!("{}/v1.0/users/u/drive/root/delta?token={}", *base, seen + 1);
        Answer::Json(200, json!({"value": files, "@odata.deltaLink": link}))
    })
    .await;
    *url.lock().unwrap_or_else(PoisonError::into_inner) = world.server.url("");
    world
}

#[tokio::test]
async fn what_changed_in_a_drive_meanwhile_is_read_once_more_for_the_one_that_could_not_be_read() {
    let mut world = drive().await;
    let delta = |world: &World, name: &str| Plan { fetch: Fetch::Delta(reading("users/u/drive/root")), ..world.hook(name) };
    let told = |world: &World, name: &str| {
        let path = format!("/hook/{name}");
        let calls = world.hooked().into_iter().filter(|call| call.target == path);
        let mut ids: Vec<String> = calls.map(|call| call.json()["id"].as_str().unwrap_or_default().to_owned()).collect();
        ids.sort();
        ids.join(" ")
    };
    let others = Arc::new(|item: &Item, _: Option<&_>| item.object.is_none());
    world.plans = vec![delta(&world, "b"), Plan::unreadable("playbooks.toml:1:1: no TOML", others)];
    world.deliver(&world.item("users/u/drive/root", "", "")).await;
    world.work().await;
    assert_eq!((told(&world, "b").as_str(), world.dead().await.len()), ("f0 f1", 1));
    world.plans = vec![delta(&world, "a"), delta(&world, "b")];
    world.clock.advance(HOUR);
    world.deliver(&world.item("users/u/drive/root", "", "")).await;
    world.work().await;
    assert_eq!((told(&world, "a").as_str(), told(&world, "b").as_str()), ("f2", "f0 f1 f2"));
    let (key, _) = world.dead().await.remove(0);
    assert!(dispatch::replay(world.store.as_ref(), world.store.as_ref(), &key).await.expect("stored"));
    world.work().await;
    assert_eq!((told(&world, "a").as_str(), told(&world, "b").as_str()), ("f0 f1 f2", "f0 f1 f2"));
    world.clock.advance(HOUR);
    world.deliver(&world.item("users/u/drive/root", "", "")).await;
    world.work().await;
    assert_eq!(told(&world, "a"), "f0 f1 f2 f3", "and goes on where all are");
    assert_eq!(world.read().len(), 4, "{:?}", world.read());
}
