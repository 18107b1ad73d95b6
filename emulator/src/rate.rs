//! Requests in sliding windows, as services count them.

use std::collections::VecDeque;

use jiff::Timestamp;

/// So many requests in so many seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub requests: usize,
    pub seconds: i64,
}

/// When one caller's requests came, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Recent(VecDeque<i64>);

impl Recent {
    /// Milliseconds until another request fits within all limits; none: it fits now.
    pub(crate) fn wait(&mut self, limits: &[Limit], now: Timestamp) -> Option<i64> {
        let now = now.as_millisecond();
        let longest = limits.iter().map(|limit| limit.seconds).max().unwrap_or(0) * 1_000;
        while self.0.front().is_some_and(|at| at + longest <= now) {
            self.0.pop_front();
        }
        let waits = limits.iter().filter_map(|limit| {
            // It fits when the request that is `requests` places back has left the window.
            let at = self.0.get(self.0.len().checked_sub(limit.requests)?)?;
            let wait = at + limit.seconds * 1_000 - now;
            (wait > 0).then_some(wait)
        });
        waits.max()
    }

    pub(crate) fn count(&mut self, now: Timestamp) {
        self.0.push_back(now.as_millisecond());
    }
}

/// Whole seconds, never too few.
pub(crate) fn seconds(milliseconds: i64) -> i64 {
    milliseconds.div_euclid(1_000) + i64::from(milliseconds.rem_euclid(1_000) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_window_that_is_full_decides() {
        let limits = [Limit { requests: 2, seconds: 60 }, Limit { requests: 3, seconds: 3_600 }];
        let at = |second| Timestamp::from_second(second).expect("a time");
        let mut recent = Recent::default();
        for second in [0, 10] {
            assert_eq!(recent.wait(&limits, at(second)), None);
            recent.count(at(second));
        }
        assert_eq!(recent.wait(&limits, at(10)), Some(50_000));
        assert_eq!(recent.wait(&limits, at(60)), None, "the first has left the minute");
        recent.count(at(60));
        assert_eq!(recent.wait(&limits, at(130)), Some(3_470_000), "and the hour is full");
        assert_eq!(recent.wait(&limits, at(3_600)), None);
        assert_eq!((seconds(1), seconds(1_000), seconds(1_001)), (1, 1, 2));
    }
}
