//! Pace under a documented rate limit: a pure state machine over a monotonic clock.

use std::time::Duration;

/// Spreads requests evenly with a small burst, and waits as long as the other side asked.
#[derive(Debug, Clone)]
pub struct Pacer {
    /// Between two requests.
    interval: Duration,
    /// How many may go at once after a rest.
    burst: u32,
    /// When the next request would be due if none were early.
    due: Duration,
    /// Nothing before this.
    closed_until: Duration,
}

impl Pacer {
    /// `per_minute` requests a minute, at most `burst` of them together.
    #[must_use]
    pub fn per_minute(per_minute: u32, burst: u32) -> Self {
        Self {
            interval: Duration::from_secs(60) / per_minute.max(1),
            burst: burst.max(1),
            due: Duration::ZERO,
            closed_until: Duration::ZERO,
        }
    }

    /// Takes the next place: how long to wait from `now` (monotonic) before the request may go.
    pub fn reserve(&mut self, now: Duration) -> Duration {
        let earliest = self.due.saturating_sub(self.interval * (self.burst - 1));
        let at = now.max(earliest).max(self.closed_until);
        self.due = self.due.max(at) + self.interval;
        at.saturating_sub(now)
    }

    /// The other side said when to come back: nothing goes before.
    pub fn close_until(&mut self, until: Duration) {
        self.closed_until = self.closed_until.max(until);
        self.due = self.due.max(until);
    }
}
