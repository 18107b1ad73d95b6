//! What the adapters share: the product, opened by the first invocation that needs it.
//!
//! The listener is there before that: the host waits for it, and a vault that is slow must not look like a program that does
//! not start. What cannot be opened fails the invocation with one line, and the next one tries anew.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;

use super::Failure;
use crate::app::{App, Surroundings};
use crate::platform::clock::BoxFuture;

/// `functionTimeout` of `host.json`: the host kills the process, and all that it does, when an invocation takes longer.
pub const FUNCTION_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How long settings, vault and store may take; the host's time-out must not run out over a vault that says nothing.
const OPENING: Duration = Duration::from_secs(60);
/// An app setting that overrides it.
const TIMEOUT_KEY: &str = "AzureFunctionsJobHost__functionTimeout";

type Look = Box<dyn Fn() -> BoxFuture<'static, Result<Surroundings, String>> + Send + Sync>;

/// The product behind the functions.
pub struct Relay {
    look: Look,
    app: OnceCell<(Arc<App>, Option<Duration>)>,
    /// How often opening failed, and why it did last.
    failures: AtomicU64,
    failure: Mutex<Option<Failure>>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("app", &self.app).finish_non_exhaustive()
    }
}

impl Relay {
    /// `look` gives what is around; it is called when it is first needed, and again after a failure.
    pub fn new(look: impl Fn() -> BoxFuture<'static, Result<Surroundings, String>> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { look: Box::new(look), app: OnceCell::new(), failures: AtomicU64::new(0), failure: Mutex::default() })
    }

    /// Sends what the invocation that ends now has measured; the process may be gone before the next one.
    pub(super) async fn flush(&self) {
        if let Some((app, _)) = self.app.get() {
            app.telemetry.flush().await;
        }
    }

    /// The product, and how long an invocation may take; none: as long as it likes.
    pub(super) async fn app(&self) -> Result<(Arc<App>, Option<Duration>), Failure> {
        let seen = self.failures.load(Ordering::SeqCst);
        let opened = self.app.get_or_try_init(|| async {
            // What failed while this invocation waited for it has failed for it too: they do not try one after the other.
            if self.failures.load(Ordering::SeqCst) != seen
                && let Some(failure) = self.last().clone()
            {
                return Err(failure);
            }
            let opened = self.open().await;
            if let Err(failure) = &opened {
                *self.last() = Some(failure.clone());
                self.failures.fetch_add(1, Ordering::SeqCst);
            }
            opened
        });
        opened.await.cloned()
    }

    async fn open(&self) -> Result<(Arc<App>, Option<Duration>), Failure> {
        let around = (self.look)().await.map_err(Failure)?;
        let timeout = function_timeout(around.environment.get(TIMEOUT_KEY).map(String::as_str))?;
        let app = tokio::select! {
            app = App::open(&around) => app.map_err(Failure::new)?,
            () = around.clock.alarm(OPENING) => {
                return Err(Failure(format!("vault or storage gave no answer in {} s; see to KEY_VAULT_URL and the network", OPENING.as_secs())));
            }
        };
        let budget = budget(app.settings.time_budget, timeout)?;
        Ok((Arc::new(app), budget))
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the host allows: `[d.]hh:mm:ss`, or `-1` for any time.
fn function_timeout(given: Option<&str>) -> Result<Option<Duration>, Failure> {
    let Some(text) = given.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(Some(FUNCTION_TIMEOUT)) };
    if text == "-1" {
        return Ok(None);
    }
    let (days, clock) = text.split_once('.').unwrap_or(("0", text));
    let parts: Vec<u64> = clock.split(':').map_while(|part| part.parse().ok()).collect();
    match (days.parse::<u64>(), parts.as_slice(), clock.split(':').count()) {
        (Ok(days), [hours, minutes, seconds], 3) if [days, *hours, *minutes, *seconds].iter().all(|part| *part < 1 << 32) => {
            Ok(Some(Duration::from_secs(((days * 24 + hours) * 60 + minutes) * 60 + seconds)))
        }
        _ => Err(Failure(format!("{TIMEOUT_KEY} is `{text}`: give hours, minutes and seconds such as `00:30:00`"))),
    }
}

/// `TIME_BUDGET`, else four fifths of the time-out, so that a run ends by itself before the host ends it.
fn budget(given: Option<Duration>, timeout: Option<Duration>) -> Result<Option<Duration>, Failure> {
    match (given, timeout) {
        (Some(budget), Some(timeout)) if budget > timeout * 9 / 10 => Err(Failure(format!(
            "TIME_BUDGET is {} s, but the host ends an invocation after {} s (functionTimeout), with all that it does: give at most 90 %, or leave it out for 80 %",
            budget.as_secs(),
            timeout.as_secs()
        ))),
        (Some(budget), _) => Ok(Some(budget)),
        (None, timeout) => Ok(timeout.map(|timeout| timeout * 4 / 5)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_by_itself_before_the_host_ends_it() {
        let seconds = |given, timeout: Option<&str>| {
            let timeout = function_timeout(timeout)?;
            budget(given, timeout).map(|budget| budget.map(|budget| budget.as_secs()))
        };
        assert_eq!(seconds(None, None), Ok(Some(24 * 60)));
        assert_eq!(seconds(None, Some("00:10:00")), Ok(Some(8 * 60)));
        assert_eq!(seconds(None, Some("1.00:00:00")), Ok(Some(86_400 * 4 / 5)));
        assert_eq!(seconds(None, Some("-1")), Ok(None));
        assert_eq!(seconds(Some(Duration::from_secs(60)), Some("-1")), Ok(Some(60)));
        assert!(seconds(Some(Duration::from_secs(600)), Some("00:10:00")).is_err_and(|e| e.0.contains("TIME_BUDGET")));
        assert!(seconds(Some(Duration::from_secs(541)), Some("00:10:00")).is_err());
        assert_eq!(seconds(Some(Duration::from_secs(540)), Some("00:10:00")), Ok(Some(540)));
        for wrong in
            ["99999999999999999999:00:00", "18446744073709551615.00:00:00", "10", "10:00", "00:10:00:00", "x", "00:1x:00"]
        {
            assert!(seconds(None, Some(wrong)).is_err_and(|e| e.0.contains(wrong)), "{wrong}");
        }
    }
}
