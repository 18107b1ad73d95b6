//! What the stories share in which a program is killed again and again.

use std::collections::{BTreeMap, BTreeSet};

use emulator::Received;
use serde_json::Value;

/// So many kills are a proof: then most must have hit something. When a few do is a matter of the machine.
pub(crate) const A_PROOF: usize = 50;

/// The same throws for the same seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Below the length of a list.
    pub(crate) fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length.max(1) as u64)).expect("small")
    }
}

pub(crate) fn user(number: usize) -> String {
    format!("3f6c2a10-0000-4000-8000-{number:012}")
}

pub(crate) fn key(received: &Received) -> &str {
    received.header("idempotency-key").expect("each has a key")
}

pub(crate) fn body(received: &Received) -> Value {
    serde_json::from_str(&received.body).expect("JSON")
}

/// Of each key the first request: the other side takes a key once.
pub(crate) fn effects<'a>(received: impl IntoIterator<Item = &'a Received>) -> Vec<(&'a str, Value)> {
    let mut taken = BTreeSet::new();
    received.into_iter().filter(|one| taken.insert(key(one))).map(|one| (key(one), body(one))).collect()
}

/// Keys by what the requests are about: their `id`.
pub(crate) fn keys_by_id<'a>(requests: impl IntoIterator<Item = &'a Received>) -> BTreeMap<String, BTreeSet<&'a str>> {
    let mut keys: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for one in requests {
        keys.entry(body(one)["id"].as_str().expect("an id").to_owned()).or_default().insert(key(one));
    }
    keys
}
