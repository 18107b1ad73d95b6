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
    /// At most `per_minute` requests in any sixty seconds, `burst` of them together: the services count in a sliding
    /// window, so the burst is taken off the steady rate.
    #[must_use]
    pub fn per_minute(per_minute: u32, burst: u32) -> Self {
        let burst = burst.clamp(1, per_minute.max(1));
        Self {
            interval: Duration::from_secs(60) / per_minute.saturating_sub(burst).max(1),
            burst,
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
        let gone = departures(&mut Pacer::per_minute(100, 2), &[0; 1_000]);
        let minutes = gone.last().expect("a thousand").as_secs_f64() / 60.0;
        assert!(1_000.0 / minutes >= 97.0, "{} a minute", 1_000.0 / minutes);
        assert!(most_in_a_minute(&gone) <= 100);
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
