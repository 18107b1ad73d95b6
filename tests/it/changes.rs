//! What changed below a root: told each time that it changed, and once however often it is read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicator_relay::dispatch::{Fetch, Plan, Reading};
use indicator_relay::notifications::item::QUEUE;
use indicator_relay::storage::Queue as _;
use serde_json::{Value, json};

use crate::between::Mortal;
use crate::worker::{Answer, Call, World, ok, reading};

const ROOT: &str = "drives/d1/root";
const HOUR: Duration = Duration::from_secs(3_600);

/// A drive: what each read finds, from the first. The place after it is the number of the next.
#[derive(Clone, Default)]
struct Drive(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    reads: Vec<Value>,
    /// Of which places Graph knows nothing any more.
    forgotten: usize,
    base: String,
}

impl Drive {
    async fn world(&self) -> World {
        let mut world = World::new(|_| ok()).await;
        let drive = self.clone();
        world.server = crate::worker::Server::start(move |call: &Call| drive.answer(call)).await;
        self.inside(|inside| inside.base = world.server.url(""));
        world.plans = ["one", "two"].map(|name| Plan { fetch: Fetch::Delta(reading(ROOT)), ..world.hook(name) }).into();
        world
    }

    fn inside<T>(&self, change: impl FnOnce(&mut Inside) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answer(&self, call: &Call) -> Answer {
        let Some(rest) = call.target.strip_prefix("/v1.0/drives/d1/root/delta") else { return ok() };
        self.inside(|Inside { reads, forgotten, base }| {
            let place = rest.strip_prefix("?token=").map(|place| place.parse::<usize>().expect("a number"));
            if place.is_some_and(|place| place < *forgotten) {
                return Answer::Json(410, json!({}));
            }
            // From the beginning, all that there is now is found.
            let found = place.or(reads.len().checked_sub(1)).and_then(|place| reads.get(place)).cloned();
            let link = format!("{base}/v1.0/drives/d1/root/delta?token={}", reads.len());
            Answer::Json(200, json!({"value": found.into_iter().collect::<Vec<_>>(), "@odata.deltaLink": link}))
        })
    }

    /// The object is now like that, and the root is told of.
    async fn becomes(&self, world: &World, object: Value) {
        self.inside(|inside| inside.reads.push(object));
        world.deliver(&world.item(ROOT, "", "")).await;
    }
}

/// What one playbook was told, in this order.
fn told(world: &World, playbook: &str, member: &str) -> String {
    let path = format!("/hook/{playbook}");
    let calls = world.hooked().into_iter().filter(|call| call.target == path);
    let told: Vec<String> = calls.map(|call| call.json()["resource"][member].to_string().replace('"', "")).collect();
    told.join(" ")
}

#[tokio::test]
async fn an_object_without_a_tag_that_looks_as_it_did_before_has_changed_twice() {
    let drive = Drive::default();
    let world = drive.world().await;
    for name in ["a", "b", "a"] {
        // The content's tag is none: it stays with another name.
        drive.becomes(&world, json!({"id": "q1", "name": name, "cTag": "c1"})).await;
        world.work().await;
        world.clock.advance(HOUR);
    }
    for playbook in ["one", "two"] {
        assert_eq!(told(&world, playbook, "name"), "a b a");
    }
    // Once more, where a full read stands for the place that was forgotten.
    drive.inside(|inside| inside.forgotten = 4);
    drive.becomes(&world, json!({"id": "q1", "name": "a", "cTag": "c1"})).await;
    world.work().await;
    assert_eq!(told(&world, "two", "name"), "a b a a");
}

#[tokio::test]
async fn an_object_may_be_deleted_more_than_once_and_what_lives_is_known_by_its_tag() {
    let drive = Drive::default();
    let world = drive.world().await;
    let file = |tag: &str| json!({"id": "q1", "eTag": tag});
    let gone = json!({"id": "q1", "eTag": "1", "deleted": {"state": "deleted"}});
    // It is restored with the tag that it had, and then found once more, as the folder is of what changed in it.
    for object in [file("1"), file("1"), gone.clone(), file("1"), file("1"), gone.clone(), file("2"), file("2")] {
        drive.becomes(&world, object).await;
        world.work().await;
        world.clock.advance(HOUR / 2);
    }
    assert_eq!(told(&world, "one", "eTag"), "1 1 1 1 2");
    assert_eq!(told(&world, "two", "deleted"), "null {state:deleted} null {state:deleted} null");
    drive.inside(|inside| inside.forgotten = 9);
    drive.becomes(&world, file("2")).await;
    world.work().await;
    assert_eq!(told(&world, "one", "eTag"), "1 1 1 1 2", "a full read tells nothing again that was told");
}

#[tokio::test]
async fn a_page_that_is_read_again_after_a_kill_tells_of_the_same_changes() {
    for place in 0..2 {
        for writes in 1..12 {
            let drive = Drive::default();
            let world = drive.world().await;
            for name in ["a", "b"].iter().take(place) {
                drive.becomes(&world, json!({"id": "q1", "name": name})).await;
                world.work().await;
                world.clock.advance(HOUR);
            }
            drive.becomes(&world, json!({"id": "q2", "name": "new"})).await;
            let mortal = Mortal::at(&world.store, writes, false);
            let dispatcher = world.dispatcher_over(Arc::clone(&mortal) as _, Arc::clone(&mortal) as _);
            while !mortal.is_dead() && world.handle_one(&dispatcher).await.is_some() {}
            world.clock.advance(HOUR);
            // Another notification comes before the one of the read that was cut off, and begins it anew.
            world.store.receive(QUEUE, 32, Duration::from_secs(60)).await.expect("a queue");
            world.deliver(&world.item(ROOT, "", "")).await;
            world.work().await;
            let mut keys: Vec<String> = world
                .hooked()
                .iter()
                .filter(|call| call.json()["id"] == "q2")
                .map(|call| format!("{} {}", call.target, call.header("idempotency-key")))
                .collect();
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), 2, "killed at write {writes} from place {place}: one change at each playbook: {keys:?}");
        }
    }
}

#[tokio::test]
async fn what_a_playbook_selects_hides_no_change_and_makes_nothing_old_news() {
    let mut world = World::new(|call| {
        if !call.target.starts_with("/v1.0") {
            return ok();
        }
        let asked = |member: &str| call.target.contains(member);
        let file = |id: &str, at: &str| {
            let mut file = json!({"id": id, "name": id});
            for (member, value) in [("eTag", "1"), ("lastModifiedDateTime", at)] {
                if asked(member) {
                    file[member] = json!(value);
                }
            }
            file
        };
        let link = format!("http://{}/v1.0/drives/d1/root/delta?token=1", call.header("host"));
        let files = [file("old", "2020-01-01T00:00:00Z"), file("new", "2026-11-24T08:59:00Z")];
        Answer::Json(200, json!({"value": files, "@odata.deltaLink": link}))
    })
    .await;
    let selects = Reading { select: Some("id,name".to_owned()), ..reading(ROOT) };
    world.plans = vec![Plan { fetch: Fetch::Delta(selects), ..world.hook("one") }];
    world.deliver(&world.item(ROOT, "", "")).await;
    world.work().await;
    assert_eq!((told(&world, "one", "name"), told(&world, "one", "eTag")), ("new".to_owned(), "1".to_owned()));
}
