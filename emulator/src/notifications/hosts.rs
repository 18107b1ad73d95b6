//! What slow answers do to a host: the slow state and the drop state. The unit is the host of the notification URL.
//!
//! Whether a minimum of answers is needed today is not documented; [`super::Notifications::fewest_answers`] says it here.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::after;

const WINDOW: Duration = Duration::from_secs(600);
/// Above so many percent of answers after 3 s it is slow; below, good again.
const SLOW: usize = 10;
/// Above so many percent of answers after the retry's 10 s everything is dropped.
const DROP: usize = 15;
/// Deliveries that are tried to see whether it is better.
pub(super) const SAMPLE: usize = 5;

/// How a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Good,
    /// What is new is held back for 10 minutes; at this time a few deliveries are tried.
    Slow {
        until: Timestamp,
    },
    /// What is new is lost until this time; then a few deliveries are tried.
    Dropping {
        until: Timestamp,
    },
}

/// How one answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speed {
    InTime,
    /// Not within the first try's time.
    Slow,
    /// Not within a retry's time.
    VerySlow,
}

/// What becomes of a new item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Now,
    Later(Timestamp),
    Never,
}

/// One host.
#[derive(Debug, Default)]
pub(crate) struct Host {
    answers: VecDeque<(Timestamp, Speed)>,
    state: Option<Health>,
    /// Answers of the sample that is under way.
    sample: Vec<Speed>,
}

/// The host of a URL, with its port.
pub(crate) fn name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default().to_ascii_lowercase()
}

impl Host {
    pub(super) fn health(&self) -> Health {
        self.state.unwrap_or(Health::Good)
    }

    pub(super) fn admits(&self, now: Timestamp) -> Admission {
        match self.health() {
            Health::Slow { .. } => Admission::Later(after(now, WINDOW)),
            Health::Dropping { until } if now < until => Admission::Never,
            Health::Good | Health::Dropping { .. } => Admission::Now,
        }
    }

    /// How many deliveries of what waits may go now; none: all.
    pub(super) fn room(&self, now: Timestamp) -> Option<usize> {
        match self.health() {
            Health::Good => None,
            Health::Slow { until } | Health::Dropping { until } => Some(if now < until { 0 } else { SAMPLE }),
        }
    }

    pub(super) fn answered(&mut self, now: Timestamp, speed: Speed, fewest: usize) {
        let is_sample = matches!(self.health(), Health::Slow { until } | Health::Dropping { until } if until <= now);
        if is_sample {
            self.sample.push(speed);
            return;
        }
        self.answers.push_back((now, speed));
        while self
            .answers
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > SignedDuration::try_from(WINDOW).unwrap_or_default())
        {
            self.answers.pop_front();
        }
        let all = self.answers.len();
        if all < fewest {
            return;
        }
        let share = |fits: fn(Speed) -> bool| self.answers.iter().filter(|(_, speed)| fits(*speed)).count() * 100;
        let until = after(now, WINDOW);
        if share(|speed| speed == Speed::VerySlow) > DROP * all {
            self.enter(Health::Dropping { until });
        } else if share(|speed| speed != Speed::InTime) > SLOW * all && self.state.is_none() {
            self.enter(Health::Slow { until });
        }
    }

    fn enter(&mut self, state: Health) {
        self.state = Some(state);
        self.answers.clear();
    }

    /// The sample is through, if there was one: good again, or as bad for 10 more minutes.
    pub(super) fn judge(&mut self, now: Timestamp) {
        let sample = std::mem::take(&mut self.sample);
        if sample.is_empty() {
            return;
        }
        let share = |fits: fn(Speed) -> bool| sample.iter().filter(|speed| fits(**speed)).count() * 100;
        let until = after(now, WINDOW);
        self.state = match self.health() {
            Health::Slow { .. } if share(|speed| speed != Speed::InTime) >= SLOW * sample.len() => Some(Health::Slow { until }),
            Health::Dropping { .. } if share(|speed| speed != Speed::InTime) >= DROP * sample.len() => {
                Some(Health::Dropping { until })
            }
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).expect("a time")
    }

    #[test]
    fn more_than_a_tenth_is_slow_and_a_good_sample_ends_it() {
        let mut host = Host::default();
        for i in 0..9 {
            host.answered(at(i), Speed::InTime, 1);
        }
        host.answered(at(9), Speed::Slow, 1);
        assert_eq!(host.health(), Health::Good, "a tenth is not more than a tenth");
        host.answered(at(10), Speed::Slow, 1);
        assert_eq!((host.health(), host.room(at(11))), (Health::Slow { until: at(610) }, Some(0)));
        assert_eq!(host.admits(at(11)), Admission::Later(at(611)));
        assert_eq!(host.room(at(610)), Some(SAMPLE));
        host.answered(at(610), Speed::Slow, 1);
        host.judge(at(610));
        assert_eq!(host.health(), Health::Slow { until: at(1_210) });
        host.answered(at(1_210), Speed::InTime, 1);
        host.judge(at(1_210));
        assert_eq!(host.health(), Health::Good);
    }

    #[test]
    fn answers_after_the_retrys_time_lose_what_is_new() {
        let mut host = Host::default();
        for i in 0..5 {
            host.answered(at(i), Speed::InTime, 1);
        }
        host.answered(at(6), Speed::VerySlow, 1);
        assert_eq!((host.health(), host.admits(at(7))), (Health::Dropping { until: at(606) }, Admission::Never));
        assert_eq!(host.admits(at(606)), Admission::Now);
        // What is old enough does not count, and few answers do not where a minimum is set.
        let mut host = Host::default();
        host.answered(at(0), Speed::Slow, 100);
        assert_eq!(host.health(), Health::Good);
    }
}
