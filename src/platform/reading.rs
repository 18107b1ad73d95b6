//! One reading for all who wait for it: a task of its own, which goes on when nobody waits any more.

use std::time::Duration;

use futures_util::future::{FutureExt as _, Shared};
use tokio::task::AbortHandle;

use super::clock::{BoxFuture, Clock};

/// Under way, or ended.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    began: Duration,
    /// Tells the end also where nobody waited for it.
    task: AbortHandle,
    ended: Shared<BoxFuture<'static, ()>>,
}

impl Reading {
    /// Begins it; what it finds, it keeps itself.
    pub(crate) fn begin(clock: &dyn Clock, work: impl Future<Output = ()> + Send + 'static) -> Self {
        let task = tokio::spawn(work);
        let handle = task.abort_handle();
        let ended: BoxFuture<'static, ()> = Box::pin(task.map(drop));
        Self { began: clock.monotonic(), task: handle, ended: ended.shared() }
    }

    /// When, on the clock that only goes forward.
    pub(crate) fn began(&self) -> Duration {
        self.began
    }

    pub(crate) fn is_under_way(&self) -> bool {
        !self.task.is_finished()
    }

    /// Waits for its end, and no longer than `at_most`.
    pub(crate) async fn end(self, clock: &dyn Clock, at_most: Duration) {
        tokio::select! {
            biased;
            () = self.ended => {}
            () = clock.alarm(at_most) => {}
        }
    }
}
