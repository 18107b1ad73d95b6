//! Time as an argument: the only reader of the ambient clock.
#![expect(clippy::disallowed_methods, reason = "this is the room that the rule points to")]

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A future that owns what it needs, for traits used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Wall time, time that only goes forward, and waiting. The system's in production, settable in tests.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Wall time; may jump.
    fn now(&self) -> Timestamp;
    /// Time since some fixed instant; never goes back.
    fn monotonic(&self) -> Duration;
    /// Completes when `duration` has passed on this clock. Who calls has nothing else to do: a settable clock may jump there.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    /// The same, beside other work: a settable clock does not jump for it.
    fn alarm(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep(duration)
    }
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}
