//! Random histories of changes, second deliveries, processes that die, targets that fail before or after they act, documents that
//! break and are mended: each item has its effect once, and what reads ends at the latest state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicator_relay::dispatch::{self, Hold, Plan};
use indicator_relay::notifications::item::{Item, QUEUE};
use indicator_relay::platform::clock::Clock as _;
use indicator_relay::storage::{Queue as _, poison_of};
use proptest::prelude::*;
use serde_json::json;

use crate::between::Mortal;
use crate::worker::{Answer, Call, World, ok};

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Change(u8),
    /// Right after it is read next.
    ChangeAfterRead(u8),
    /// An earlier item comes once more.
    Again(u8),
    Pass(u16),
    /// The target fails so often: without acting, or after it has acted.
    Fail {
        times: u8,
        acts: bool,
    },
    /// A process handles so many messages, or dies at a write.
    Work {
        messages: u8,
        dies: Option<(u8, bool)>,
    },
    /// Two processes at once.
    Two,
    /// The document of the playbooks is another one.
    Document(Document),
    /// A person puts back what is set aside.
    Replay,
}

/// What is wrong with the document.
#[derive(Debug, Clone, Copy)]
enum Document {
    Right,
    /// A playbook has a mistake: the first or the second.
    Mistaken(usize),
    /// The same, and nobody can read what it wants.
    Unknown(usize),
    /// It cannot be read at all.
    Unreadable,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..3).prop_map(Step::Change),
        2 => (0_u8..3).prop_map(Step::ChangeAfterRead),
        2 => any::<u8>().prop_map(Step::Again),
        2 => (0_u16..300).prop_map(Step::Pass),
        2 => (1_u8..4, any::<bool>()).prop_map(|(times, acts)| Step::Fail { times, acts }),
        6 => (1_u8..5, prop::option::weighted(0.6, (1_u8..9, any::<bool>()))).prop_map(|(messages, dies)| Step::Work { messages, dies }),
        2 => Just(Step::Two),
        2 => prop_oneof![
            Just(Document::Right),
            (0_usize..2).prop_map(Document::Mistaken),
            (0_usize..2).prop_map(Document::Unknown),
            Just(Document::Unreadable),
        ]
        .prop_map(Step::Document),
        1 => Just(Step::Replay),
    ]
}

/// The service and the target, as they really are.
#[derive(Debug, Default)]
struct Truth {
    versions: BTreeMap<String, u64>,
    changes_after_read: BTreeSet<String>,
    /// Changed and not told yet.
    untold: Vec<String>,
    failures: (u8, bool),
    keys: BTreeSet<String>,
    /// Playbook, resource, tag and version, in the order in which the target acted.
    effects: Vec<(String, String, String, u64)>,
}

impl Truth {
    fn answer(&mut self, call: &Call) -> Answer {
        if let Some(id) = call.target.strip_prefix("/v1.0/users/") {
            let version = self.versions.get(id).copied().unwrap_or_default();
            if self.changes_after_read.remove(id) {
                self.versions.insert(id.to_owned(), version + 1);
                self.untold.push(id.to_owned());
            }
            return Answer::Json(200, json!({"id": id, "version": version}));
        }
        let acts = self.failures.0 == 0 || self.failures.1;
        if acts && self.keys.insert(call.header("idempotency-key").to_owned()) {
            let body = call.json();
            let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
            let version = body["resource"]["version"].as_u64().unwrap_or_default();
            self.effects.push((call.target.clone(), text("id"), text("tag"), version));
        }
        if self.failures.0 > 0 {
            self.failures.0 -= 1;
            return Answer::Json(500, json!({}));
        }
        ok()
    }
}

fn locked(truth: &Arc<Mutex<Truth>>) -> MutexGuard<'_, Truth> {
    truth.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A world with the items that were ever delivered.
struct History {
    world: World,
    truth: Arc<Mutex<Truth>>,
    items: Vec<Item>,
}

impl History {
    async fn new() -> Self {
        let truth = Arc::new(Mutex::new(Truth::default()));
        let script = Arc::clone(&truth);
        let mut world = World::new(move |call| locked(&script).answer(call)).await;
        world.plans = plans(&world, Document::Right);
        Self { world, truth, items: Vec::new() }
    }

    async fn replay(&self) -> bool {
        let dead = self.world.dead().await;
        for (key, _) in &dead {
            assert!(dispatch::replay(self.world.store.as_ref(), self.world.store.as_ref(), key).await.expect("stored"));
        }
        !dead.is_empty()
    }

    async fn change(&mut self, id: &str) {
        let version = {
            let mut truth = locked(&self.truth);
            let version = truth.versions.entry(id.to_owned()).or_default();
            *version += 1;
            *version
        };
        self.tell(id, version).await;
    }

    async fn tell(&mut self, id: &str, version: u64) {
        let item = self.world.item("users", id, &version.to_string());
        self.world.deliver(&item).await;
        self.items.push(item);
    }

    /// What changed while it was read is told like all else.
    async fn tell_rest(&mut self) -> bool {
        let untold = std::mem::take(&mut locked(&self.truth).untold);
        for id in &untold {
            let version = locked(&self.truth).versions.get(id).copied().unwrap_or_default();
            self.tell(id, version).await;
        }
        !untold.is_empty()
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Change(id) => self.change(&format!("u{id}")).await,
            Step::ChangeAfterRead(id) => {
                locked(&self.truth).changes_after_read.insert(format!("u{id}"));
            }
            Step::Again(number) => {
                if !self.items.is_empty() {
                    let item = self.items[usize::from(*number) % self.items.len()].clone();
                    self.world.deliver(&Item { received: self.world.clock.now(), ..item }).await;
                }
            }
            Step::Pass(seconds) => self.world.clock.advance(Duration::from_secs(u64::from(*seconds))),
            Step::Fail { times, acts } => locked(&self.truth).failures = (*times, *acts),
            Step::Work { messages, dies: None } => {
                let dispatcher = self.world.dispatcher();
                for _ in 0..*messages {
                    self.world.handle_one(&dispatcher).await;
                    self.tell_rest().await;
                }
            }
            Step::Work { messages, dies: Some((writes, after)) } => {
                let mortal = Mortal::at(&self.world.store, i64::from(*writes), *after);
                let dispatcher = self.world.dispatcher_over(Arc::clone(&mortal) as _, Arc::clone(&mortal) as _);
                for _ in 0..*messages {
                    if !mortal.is_dead() {
                        self.world.handle_one(&dispatcher).await;
                        self.tell_rest().await;
                    }
                }
            }
            Step::Two => {
                let (one, other) = (self.world.dispatcher(), self.world.dispatcher());
                tokio::join!(self.world.handle_one(&one), self.world.handle_one(&other));
                self.tell_rest().await;
            }
            Step::Document(document) => self.world.plans = plans(&self.world, *document),
            Step::Replay => drop(self.replay().await),
        }
    }

    async fn end(&mut self) {
        {
            let mut truth = locked(&self.truth);
            truth.failures = (0, false);
        }
        self.world.plans = plans(&self.world, Document::Right);
        loop {
            self.world.work().await;
            if !self.tell_rest().await && !self.replay().await {
                return;
            }
        }
    }

    async fn check(&self) -> Result<(), TestCaseError> {
        self.check_effects()?;
        prop_assert!(self.world.dead().await.is_empty());
        prop_assert_eq!(self.world.store.count(&poison_of(QUEUE)).await.expect("a queue"), 0);
        Ok(())
    }

    fn check_effects(&self) -> Result<(), TestCaseError> {
        let truth = locked(&self.truth);
        let told: BTreeSet<(String, String)> =
            self.items.iter().map(|item| (item.resource_id().unwrap_or_default().to_owned(), tag_of(item))).collect();
        let mut each: BTreeMap<(String, String), usize> = BTreeMap::new();
        let mut latest: BTreeMap<(String, String), usize> = BTreeMap::new();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for (playbook, id, tag, version) in &truth.effects {
            let about = (id.clone(), tag.clone());
            if playbook == "/hook/each" {
                *each.entry(about).or_default() += 1;
            } else {
                *latest.entry(about).or_default() += 1;
                let before = last.insert(id.clone(), *version).unwrap_or_default();
                prop_assert!(before <= *version, "an older state of {} came after a newer one", id);
            }
        }
        prop_assert_eq!(each.keys().cloned().collect::<BTreeSet<_>>(), told, "each item has its effect");
        prop_assert!(each.values().chain(latest.values()).all(|count| *count == 1), "and has it once");
        for (id, version) in truth.versions.iter().filter(|(_, version)| **version > 0) {
            prop_assert_eq!(last.get(id), Some(version), "{} ends at its latest state", id);
        }
        Ok(())
    }
}

/// One that acts on each item, and one that reads.
fn plans(world: &World, document: Document) -> Vec<Plan> {
    let mut plans = vec![world.hook("each"), world.fetching_hook("latest", "users")];
    let unreadable = || Plan::unreadable("playbooks.toml:1:1: no TOML", Arc::new(|_, _| true));
    match document {
        Document::Right => {}
        Document::Mistaken(which) => plans[which].held = Some(Hold::Absent("playbooks.toml:9:1: `kind` is missing".into())),
        Document::Unknown(which) => plans[which] = unreadable(),
        Document::Unreadable => plans = vec![unreadable()],
    }
    plans
}

fn tag_of(item: &Item) -> String {
    let tag = item.resource_data().and_then(|data| data.get("@odata.etag")).and_then(serde_json::Value::as_str);
    tag.unwrap_or_default().to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_item_has_its_effect_once_and_reads_end_at_the_latest_state(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut history = History::new().await;
            for step in &steps {
                Box::pin(history.step(step)).await;
            }
            history.end().await;
            history.check().await
        })?;
    }
}
