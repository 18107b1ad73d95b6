//! Something that is opened once for all who wait: they share a failure too, after which the next one tries anew.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{FutureExt as _, Shared};
use tracing::Instrument as _;

use super::Failure;
use crate::platform::clock::BoxFuture;

type Opened<T> = Shared<BoxFuture<'static, Result<T, Failure>>>;

/// Under way, or done; nothing at first and after a failure.
pub(super) struct Opening<T>(Mutex<Option<Opened<T>>>);

impl<T> Default for Opening<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone + Send + Sync + 'static> Opening<T> {
    pub(super) fn done(value: T) -> Self {
        let opening = Self::default();
        opening.set(value);
        opening
    }

    pub(super) fn set(&self, value: T) {
        let done: BoxFuture<'static, _> = Box::pin(std::future::ready(Ok(value)));
        let done = done.shared();
        // Looked at once, so that `opened` finds it.
        drop(done.clone().now_or_never());
        *self.lock() = Some(done);
    }

    /// What is open, or `open` makes it, in a task of its own: nobody who goes away ends it, and a panic stays with nobody.
    pub(super) async fn get(&self, open: impl FnOnce() -> BoxFuture<'static, Result<T, Failure>>) -> Result<T, Failure> {
        let opening = self
            .lock()
            .get_or_insert_with(|| {
                let task = tokio::spawn(open().in_current_span());
                let ended: BoxFuture<'static, _> = Box::pin(task.map(|ended| ended.unwrap_or_else(|_| Err(Failure::bug()))));
                ended.shared()
            })
            .clone();
        let opened = opening.clone().await;
        if opened.is_err() {
            // Unless another one tries anew already.
            self.lock().take_if(|known| known.ptr_eq(&opening));
        }
        opened
    }

    /// Opened, or about to be.
    pub(super) fn has_begun(&self) -> bool {
        self.lock().is_some()
    }

    /// What is open by now.
    pub(super) fn opened(&self) -> Option<T> {
        self.lock().as_ref().and_then(Shared::peek).and_then(|opened| opened.as_ref().ok()).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Opened<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
