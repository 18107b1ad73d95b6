//! The one place that sends PATCH or reauthorize: never twice within ten minutes for one subscription, whoever asks, over
//! restarts and instances. Only one that asks for too long a life is sent again at once, with the life that Graph names.
//!
//! The row says when either was last sent. That is written first, under the row's version: of two who want to send, one does,
//! and one that ends in between has sent as far as anybody knows.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::plan::tombstone;
use super::rows::{Held, Problem, Reason, Resync, delete, held_key, keyed, minutes_between, put, resync};
use super::{Reconciler, SubscriptionError, limits};
use crate::graph::{GraphError, Renewal, Subscription, Trouble, end_of_life};

/// Between two tries of a renewal that failed by itself.
const SOON: Duration = Duration::from_secs(600);
/// Where somebody has to change something: consent that is given again is noticed after this.
const SLOWLY: Duration = Duration::from_secs(3_600);

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    /// A new end, and with it address and certificate as they are to be; reauthorizes as well.
    Renew {
        minutes: u32,
    },
    Reauthorize,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Touched {
    Done(Box<Held>),
    /// There is none; it is forgotten, and what was missed is to be looked up.
    Gone(Resync),
    /// Sent less than ten minutes ago, or by somebody else just now: nothing was sent.
    TooSoon,
    Failed(GraphError),
    /// We have no row of it.
    Unknown,
}

impl Reconciler {
    pub(super) async fn touch(&self, id: &str, touch: Touch) -> Result<Touched, SubscriptionError> {
        let Some((mut held, version)) = self.rows.held(id).await? else { return Ok(Touched::Unknown) };
        let (now, before) = (self.clock.now(), held.touched);
        if held.touchable_at(now).is_some() {
            return Ok(Touched::TooSoon);
        }
        held.touched = Some(now);
        if self.rows.replace(held_key(id), &held, Some(version)).await?.is_none() {
            return Ok(Touched::TooSoon);
        }
        let sent = match self.send(&held, touch, now).await {
            // A refusal has touched nothing, and what Graph allows is known now.
            Err(GraphError { trouble: Trouble::TooFar(most), .. }) if matches!(touch, Touch::Renew { .. }) => {
                self.rows.write(vec![super::apply::limit(&held.wanted, most)]).await?;
                let said = BTreeMap::from([(limits::kind(&held.wanted), most)]);
                self.send(&held, Touch::Renew { minutes: limits::requested(&held.wanted, &said) }, now).await
            }
            sent => sent,
        };
        let (url, certificate) = (self.ours().url_of(&held.wanted), self.certificate_for(&held.wanted));
        match sent {
            Ok(renewed) => {
                let label = certificate.map(|(label, _)| label);
                let done = self.rows.amend(id, |held| succeed(held, renewed.as_ref(), (&url, label.as_ref()), now)).await?;
                Ok(done.map_or(Touched::Unknown, |held| Touched::Done(Box::new(held))))
            }
            Err(error) if error.trouble == Trouble::Gone => Ok(Touched::Gone(self.bury(&held, Reason::Removed).await?)),
            Err(error) => {
                self.rows.amend(id, |held| fail(held, &error, before, now)).await?;
                Ok(Touched::Failed(error))
            }
        }
    }

    /// The row of one that is gone becomes a tombstone, with a request to look up what was missed; all at once.
    pub(super) async fn bury(&self, held: &Held, reason: Reason) -> Result<Resync, SubscriptionError> {
        let now = self.clock.now();
        let caught = self.rows.read::<super::Caught>(&keyed('c', &held.group)).await?;
        let since = caught.map_or(held.created, |(caught, _)| caught.last);
        let asked = Resync { group: held.group.clone(), resource: held.wanted.resource.clone(), since, reason };
        let writes = vec![delete(held_key(&held.id)), put(keyed('t', &held.id), &tombstone(held, now)), resync(&asked, now)];
        self.rows.write(writes).await?;
        Ok(asked)
    }

    async fn send(&self, held: &Held, touch: Touch, now: Timestamp) -> Result<Option<Subscription>, GraphError> {
        let Touch::Renew { minutes } = touch else { return self.graph.reauthorize(&held.id).await.map(|()| None) };
        let (url, certificate) = (self.ours().url_of(&held.wanted), self.certificate_for(&held.wanted));
        let renewal = Renewal {
            expires: end_of_life(now, minutes),
            notification_url: Some(url).filter(|url| *url != held.url),
            certificate: certificate.filter(|(label, _)| Some(label) != held.certificate.as_ref()),
        };
        self.graph.renew(&held.id, &renewal).await.map(Some)
    }
}

fn succeed(held: &mut Held, renewed: Option<&Subscription>, (url, certificate): (&str, Option<&String>), now: Timestamp) {
    held.challenged = false;
    held.reauthorized = Some(now);
    let Some(renewed) = renewed else { return };
    held.problem = None;
    held.renewed = now;
    held.expires = renewed.expires;
    held.granted_minutes = minutes_between(now, renewed.expires);
    url.clone_into(&mut held.url);
    held.certificate = certificate.cloned();
}

/// `before`: when it was last touched before this. What was certainly not taken does not count as sent.
fn fail(held: &mut Held, error: &GraphError, before: Option<Timestamp>, now: Timestamp) {
    let passing = matches!(error.trouble, Trouble::Throttled | Trouble::Unavailable | Trouble::NoToken | Trouble::NoTokenNow);
    let not_taken = !error.unknown && passing;
    if not_taken {
        held.touched = before;
    }
    let left = Duration::try_from(held.expires.duration_since(now)).unwrap_or_default();
    // Of a short life, a slow retry must not take what is left.
    let longest = SLOWLY.min((left / 4).max(SOON));
    let shortest = if not_taken { Duration::from_secs(60) } else { SOON };
    held.problem = Some(Problem::again(held.problem.as_ref(), error, now, (shortest, longest)));
}
