//! Scripted faults: what goes wrong, where, and on which requests. Consumed in order, so that a test can count on them.

use std::time::Duration;

use crate::world::Service;

/// One fault.
#[derive(Debug, Clone)]
pub struct Fault {
    pub service: Service,
    /// Only requests whose path and query contain this.
    pub path: String,
    /// Only requests whose body contains this.
    pub body: String,
    pub when: When,
    pub effect: Effect,
}

/// Which of the requests that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Always,
    /// The first so many.
    First(u32),
    /// Only the n-th, counted from 1.
    Nth(u32),
    /// The n-th and all that follow.
    From(u32),
    /// So many in a thousand, by a generator with this state.
    Chance {
        permille: u32,
        state: u64,
    },
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// This answer instead of the service's.
    Status { status: u16, body: String, retry_after: Option<String> },
    /// The connection is closed before the service acts.
    Cut,
    /// The service acts, then the connection is closed: the answer is lost.
    CutAfter,
    /// The service acts; half of the answer's body is sent.
    Truncate,
    /// The service acts; this is sent with its status.
    Body(String),
    /// The answer takes so long.
    Slow(Duration),
}

/// All faults that are still to come.
#[derive(Debug, Default)]
pub struct Faults {
    list: Vec<(Fault, u32)>,
}

impl Faults {
    pub fn push(&mut self, fault: Fault) {
        self.list.push((fault, 0));
    }

    /// A fault on every request of a service until it is cleared.
    pub fn always(&mut self, service: Service, effect: Effect) {
        self.push(Fault { service, path: String::new(), body: String::new(), when: When::Always, effect });
    }

    /// A fault on the n-th request of a service from now.
    pub fn nth(&mut self, service: Service, n: u32, effect: Effect) {
        self.push(Fault { service, path: String::new(), body: String::new(), when: When::Nth(n), effect });
    }

    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// The effect on this request, if any.
    pub(crate) fn take(&mut self, service: Service, target: &str, body: &[u8]) -> Option<Effect> {
        let mut found = None;
        for (fault, seen) in &mut self.list {
            let in_body = || fault.body.is_empty() || String::from_utf8_lossy(body).contains(&fault.body);
            if fault.service != service || !target.contains(&fault.path) || !in_body() {
                continue;
            }
            *seen += 1;
            let hit = match &mut fault.when {
                When::Always => true,
                When::First(count) => *seen <= *count,
                When::Nth(n) => *seen == *n,
                When::From(n) => *seen >= *n,
                When::Chance { permille, state } => next(state) % 1_000 < u64::from(*permille),
            };
            if hit && found.is_none() {
                found = Some(fault.effect.clone());
            }
        }
        found
    }
}

/// `SplitMix64`.
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
