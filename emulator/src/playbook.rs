//! Playbooks of ThreatConnect with a WebHook trigger, from the caller's side: `/api/playbook/{uuid}`.
//!
//! The reference leaves open what a wrong password and an unknown trigger are answered: 401 and 404 here. Not imitated: answers
//! that the playbook itself makes, caching, IP filters, sizes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::server::{Answer, Call};
use crate::world::World;

const PATH: &str = "/api/playbook/";

/// One trigger, with what came to it.
#[derive(Debug, Clone, Default)]
pub struct Playbook {
    /// User name and password of HTTP Basic; none: open.
    pub basic: Option<(String, String)>,
    /// Answers to the next requests, in order; then 200 without a body.
    pub script: VecDeque<Answered>,
    /// All requests with the right password, newest last.
    pub received: Vec<Received>,
    /// Requests without.
    pub refused: usize,
}

/// A scripted answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answered {
    pub status: u16,
    pub body: String,
    pub retry_after: Option<String>,
    /// It comes so much later, on the machine's clock.
    pub hang: Duration,
}

impl Answered {
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub at: Timestamp,
    pub method: String,
    /// Path and query as they were sent.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// The status it was answered with.
    pub answered: u16,
}

impl Received {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Playbook {
    /// How often each `Idempotency-Key` came with a request that was accepted; more than once is a run too many.
    #[must_use]
    pub fn runs_by_key(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for received in self.received.iter().filter(|received| (200..300).contains(&received.answered)) {
            *counts.entry(received.header("idempotency-key").unwrap_or_default().to_owned()).or_default() += 1;
        }
        counts
    }
}

pub(crate) fn is_one(call: &Call) -> bool {
    call.path.starts_with(PATH)
}

/// The answer, and how long it takes.
pub(crate) fn answer(world: &mut World, call: &Call, now: Timestamp) -> (Answer, Duration) {
    let plain = |status: u16, text: &str| Answer::text(status, "text/plain", text.to_owned());
    // A slash behind the UUID fails.
    let Some(playbook) = call.path.strip_prefix(PATH).and_then(|uuid| world.playbooks.get_mut(uuid)) else {
        return (plain(404, "Not found"), Duration::ZERO);
    };
    if let Some((name, password)) = &playbook.basic {
        let wanted = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        if call.header("authorization") != Some(wanted.as_str()) {
            playbook.refused += 1;
            let refusal = plain(401, "Unauthorized").with("www-authenticate", "Basic realm=\"ThreatConnect\"");
            return (refusal, Duration::ZERO);
        }
    }
    let scripted = playbook.script.pop_front().unwrap_or_else(|| Answered::status(200));
    playbook.received.push(Received {
        at: now,
        method: call.method.clone(),
        target: call.target.clone(),
        headers: call.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        body: String::from_utf8_lossy(&call.body).into_owned(),
        answered: scripted.status,
    });
    let mut answer = plain(scripted.status, &scripted.body);
    if let Some(wait) = &scripted.retry_after {
        answer = answer.with("retry-after", wait);
    }
    (answer, scripted.hang)
}
