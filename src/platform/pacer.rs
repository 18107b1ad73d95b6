//! Pace under a documented rate limit: a pure state machine over a monotonic clock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The pacers of one destination, shared by all who send there.
#[derive(Debug, Clone)]
pub struct Lanes {
    /// Requests that carry items.
    pub sending: Arc<Mutex<Pacer>>,
    /// All others, where the service counts them apart.
    pub other: Arc<Mutex<Pacer>>,
}

impl Lanes {
    /// All requests count against one limit.
    #[must_use]
    pub fn one(pacer: Pacer) -> Self {
        let sending = Arc::new(Mutex::new(pacer));
        Self { other: Arc::clone(&sending), sending }
    }

    /// Two limits.
    #[must_use]
    pub fn two(sending: Pacer, other: Pacer) -> Self {
        Self { sending: Arc::new(Mutex::new(sending)), other: Arc::new(Mutex::new(other)) }
    }
}

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
    /// At most `per_minute` requests in any sixty seconds, `burst` of them together: the services count in a sliding
    /// window, so the burst is taken off the steady rate. Two percent are left for requests that overtake others on their way.
    #[must_use]
    pub fn per_minute(per_minute: u32, burst: u32) -> Self {
        let burst = burst.clamp(1, per_minute.max(1));
        Self {
            interval: Duration::from_millis(61_200) / (per_minute.max(1) - burst + 1),
            burst,
            due: Duration::ZERO,
            closed_until: Duration::ZERO,
        }
    }

    /// One of `sharing` equal parts of a limit; all of no limit at all if nobody shares (measurements).
    #[must_use]
    pub fn part(per_minute: u32, sharing: u32, burst: u32) -> Self {
        per_minute.checked_div(sharing).map_or_else(|| Self::per_minute(u32::MAX, u32::MAX), |part| Self::per_minute(part, burst))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// When requests go that are offered at `offers` (gaps in milliseconds).
    fn departures(pacer: &mut Pacer, gaps: &[u64]) -> Vec<Duration> {
        let mut now = Duration::ZERO;
        let mut gone = Vec::new();
        for gap in gaps {
            now += Duration::from_millis(*gap);
            now += pacer.reserve(now);
            gone.push(now);
        }
        gone
    }

    fn most_in_a_minute(gone: &[Duration]) -> usize {
        let within = |start: &Duration| gone.iter().filter(|at| *at >= start && **at < *start + Duration::from_secs(60)).count();
        gone.iter().map(within).max().unwrap_or(0)
    }

    #[test]
    fn a_steady_load_uses_nearly_all_of_the_limit() {
        for (limit, burst) in [(100, 2), (30, 1), (1_000, 8)] {
            let gone = departures(&mut Pacer::per_minute(limit, burst), &vec![0; 5_000]);
            let used = 5_000.0 / (gone.last().expect("five thousand").as_secs_f64() / 60.0) / f64::from(limit);
            assert!(used >= 0.97, "{used} of {limit} a minute");
            assert!(most_in_a_minute(&gone) <= limit as usize);
        }
    }

    #[test]
    fn nothing_goes_before_the_time_that_was_asked_for() {
        let mut pacer = Pacer::per_minute(100, 3);
        pacer.close_until(Duration::from_secs(30));
        assert_eq!(pacer.reserve(Duration::from_secs(1)), Duration::from_secs(29));
    }

    proptest! {
        #[test]
        fn no_minute_holds_more_than_the_limit(per_minute in 5_u32..150, burst in 1_u32..4, gaps in prop::collection::vec(0_u64..3_000, 1..400)) {
            let gone = departures(&mut Pacer::per_minute(per_minute, burst), &gaps);
            prop_assert!(most_in_a_minute(&gone) <= per_minute as usize);
        }
    }
}
