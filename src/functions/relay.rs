//! What the adapters share: the product, opened by the first invocation that needs it.
//!
//! The listener is there before that: the host waits for it, and a vault that is slow must not look like a program that does
//! not start. What cannot be opened fails the invocation with one line, and the next one tries anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Failure;
use super::body::Room;
use super::opening::Opening;
use crate::app::receiver::Receiver;
use crate::app::{App, Surroundings};
use crate::notifications::receipt::Drop;
use crate::platform::clock::{BoxFuture, Clock};

/// `functionTimeout` of `host.json`: the host kills the process, and all that it does, when an invocation takes longer.
pub const FUNCTION_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// An app setting that overrides it.
const TIMEOUT_KEY: &str = "AzureFunctionsJobHost__functionTimeout";
/// How long the product may take to open. Whoever waits longer for a vault only holds invocations up.
const OPENING: Duration = Duration::from_secs(60);
/// From the host's first question until what is around is looked at without being asked.
const AFTER_READINESS: Duration = Duration::from_millis(20);
/// Between two lines about deliveries that hold nothing to keep, for one reason.
const QUIET: Duration = Duration::from_secs(60);
/// The longest time that the host can write, in days.
const LONGEST_DAYS: u64 = 10_675_199;

type Look = Box<dyn Fn() -> BoxFuture<'static, Result<Surroundings, String>> + Send + Sync>;
/// The product, and how long an invocation may take; none: as long as it likes.
type Opened = (Arc<App>, Option<Duration>);

/// The product behind the functions, and beside it what receives notifications: neither waits for the other.
pub struct Relay {
    look: Look,
    clock: Arc<dyn Clock>,
    app: Opening<Opened>,
    receiver: Opening<Arc<Receiver>>,
    /// For the bodies of deliveries.
    room: Room,
    /// The Functions host hands over what comes.
    hosted: bool,
    /// When a delivery that was lost was last told of, by the reason, on the clock that only goes forward.
    told_of_lost: Mutex<BTreeMap<Drop, Duration>>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}

impl Relay {
    /// `look` gives what is around; it is called when it is first needed, and again after a failure.
    pub fn new(
        clock: Arc<dyn Clock>,
        look: impl Fn() -> BoxFuture<'static, Result<Surroundings, String>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            look: Box::new(look),
            clock,
            app: Opening::default(),
            receiver: Opening::default(),
            room: Room::default(),
            hosted: true,
            told_of_lost: Mutex::default(),
        })
    }

    /// The same, for who has opened the product already; an invocation may take as long as it likes.
    pub fn opened(clock: Arc<dyn Clock>, app: impl Into<Arc<App>>) -> Arc<Self> {
        let look: Look = Box::new(|| Box::pin(std::future::ready(Err("the product is open".to_owned()))));
        let app = Opening::done((app.into(), None));
        let (receiver, room, told_of_lost) = (Opening::default(), Room::default(), Mutex::default());
        Arc::new(Self { look, clock, app, receiver, room, hosted: false, told_of_lost })
    }

    /// Whether the Functions host is in front.
    pub(super) fn is_hosted(&self) -> bool {
        self.hosted
    }

    /// Whether a delivery that is lost for this reason is to be told of now: anybody can send such, and fill the log with it.
    pub(super) fn may_tell_of(&self, reason: Drop) -> bool {
        let now = self.clock.monotonic();
        let mut told = self.told_of_lost.lock().unwrap_or_else(PoisonError::into_inner);
        let may = told.get(&reason).is_none_or(|before| now.saturating_sub(*before) >= QUIET);
        if may {
            told.insert(reason, now);
        }
        may
    }

    /// Notifications are received with this one, in place of one that is opened when the first comes.
    pub fn receive_with(&self, receiver: Receiver) {
        self.receiver.set(Arc::new(receiver));
    }

    /// Looks at what is around before an invocation needs it: certificates take longer to read than all else at the start.
    pub(super) async fn prepare(&self) {
        // An invocation that comes at once looks by itself, and a handshake that does needs none of it.
        self.clock.alarm(AFTER_READINESS).await;
        let needed = !self.app.has_begun() && !self.receiver.has_begun();
        if needed && let Err(error) = (self.look)().await {
            tracing::error!("{error}");
        }
    }

    /// Sends what the invocation that ends now has measured; the process may be gone before the next one.
    pub(super) async fn flush(&self) {
        if let Some((app, _)) = self.app.opened() {
            app.telemetry.flush().await;
        } else if let Some(receiver) = self.receiver.opened() {
            receiver.telemetry.flush().await;
        }
    }

    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The product, and what is left of the time that the invocation may take since now; none: as long as it likes.
    pub(super) async fn app(self: &Arc<Self>) -> Result<Opened, Failure> {
        let began = self.clock.monotonic();
        let (app, budget) = self.app.get(|| self.open()).await?;
        let spent = self.clock.monotonic().saturating_sub(began);
        Ok((app, budget.map(|budget| budget.saturating_sub(spent))))
    }

    /// What receives notifications, whatever becomes of the product.
    pub(super) async fn receiver(self: &Arc<Self>) -> Result<Arc<Receiver>, Failure> {
        let open = || {
            let relay = Arc::clone(self);
            self.bounded(async move {
                let around = (relay.look)().await.map_err(Failure)?;
                Receiver::open(&around).await.map(Arc::new).map_err(Failure::new)
            })
        };
        self.receiver.get(open).await
    }

    fn open(self: &Arc<Self>) -> BoxFuture<'static, Result<Opened, Failure>> {
        let relay = Arc::clone(self);
        self.bounded(async move {
            let around = (relay.look)().await.map_err(Failure)?;
            let app = App::open(&around).await.map_err(Failure::new)?;
            let timeout = function_timeout(around.environment.get(TIMEOUT_KEY).map(String::as_str))?;
            let budget = budget(app.settings.time_budget, timeout)?;
            Ok((Arc::new(app), budget))
        })
    }

    /// Whoever waits for it is not held up for ever.
    fn bounded<T: 'static>(
        &self,
        opening: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Failure>> {
        let clock = Arc::clone(&self.clock);
        Box::pin(async move {
            tokio::select! {
                biased;
                opened = opening => opened,
                () = clock.alarm(OPENING) => Err(Failure(format!(
                    "what is needed to start gave no answer in {} s; check KEY_VAULT_URL, its firewall and private endpoint",
                    OPENING.as_secs()
                ))),
            }
        })
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
    let seconds = match (days.parse::<u64>(), parts.as_slice(), clock.split(':').count()) {
        (Ok(days), &[hours, minutes, seconds], 3) => in_seconds(days, hours, minutes, seconds),
        _ => None,
    };
    match seconds {
        Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
        None => Err(Failure(format!("{TIMEOUT_KEY} is `{text}`: give hours, minutes and seconds such as `00:30:00`"))),
    }
}

/// None for more than the host can count itself.
fn in_seconds(days: u64, hours: u64, minutes: u64, seconds: u64) -> Option<u64> {
    let hours = days.checked_mul(24)?.checked_add(hours)?;
    let minutes = hours.checked_mul(60)?.checked_add(minutes)?;
    minutes.checked_mul(60)?.checked_add(seconds).filter(|seconds| *seconds <= LONGEST_DAYS * 86_400)
}

/// `TIME_BUDGET`, of which the host must leave a tenth, else four fifths of the time-out, so that a run ends by itself before the host ends it.
fn budget(given: Option<Duration>, timeout: Option<Duration>) -> Result<Option<Duration>, Failure> {
    match (given, timeout) {
        (Some(budget), Some(timeout)) if budget > timeout * 9 / 10 => Err(Failure(format!(
            "TIME_BUDGET is {} s, but the host ends an invocation after {} s (functionTimeout): give at most 90 % of it, or leave it out for 80 %",
            budget.as_secs(),
            timeout.as_secs()
        ))),
        (Some(budget), _) => Ok(Some(budget)),
        (None, timeout) => Ok(timeout.map(|timeout| timeout * 4 / 5)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Its alarms ring at once.
    #[derive(Debug)]
    struct Late;

    impl Clock for Late {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    #[tokio::test]
    async fn what_never_opens_fails_all_who_wait_at_once_and_is_tried_anew() {
        let asked = Arc::new(AtomicU32::new(0));
        let relay = Relay::new(Arc::new(Late), {
            let asked = Arc::clone(&asked);
            move || {
                asked.fetch_add(1, Ordering::SeqCst);
                Box::pin(std::future::pending())
            }
        });
        let (one, another) = tokio::join!(relay.app(), relay.app());
        for failed in [one, another] {
            assert!(failed.is_err_and(|e| e.0.contains("KEY_VAULT_URL")));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(relay.app().await.is_err());
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

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
        assert_eq!(seconds(Some(Duration::from_secs(540)), Some("00:10:00")), Ok(Some(540)));
        assert!(seconds(Some(Duration::from_secs(541)), Some("00:10:00")).is_err_and(|e| e.0.contains("90 %")));
        let huge =
            ["18446744073709551615.00:00:00", "18446744073709551615:00:00", "10675200.00:00:00", "00:00:18446744073709551615"];
        for wrong in huge {
            assert!(seconds(None, Some(wrong)).is_err_and(|e| e.0.contains(wrong)), "{wrong}");
        }
        for wrong in ["10", "10:00", "00:10:00:00", "x", "00:1x:00"] {
            assert!(seconds(None, Some(wrong)).is_err_and(|e| e.0.contains(wrong)), "{wrong}");
        }
    }
}
