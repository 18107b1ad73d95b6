//! What Graph says of a subscription itself: it wants to be reauthorized, it is gone, something was missed.
//!
//! The dispatcher hands such items over after their client state was proven. Events that come many times cost a row each at
//! most: a renewal is not sent twice within ten minutes, one that is gone is made anew once, and what was missed is looked up
//! once for all requests that wait.

use std::time::Duration;

use jiff::Timestamp;

use super::renewal::{Touch, Touched};
use super::rows::{Book, Held, Named, Reason, Resync, keyed, put, resync};
use super::{Reconciler, SubscriptionError, limits};
use crate::notifications::item::{Event, Item, LifecycleEvent};
use crate::notifications::wanted::Wanted;

/// The row of a new subscription may not be written yet.
const PARKED: Duration = Duration::from_secs(60);
/// A notification is noted at most so often.
const NOTED: Duration = Duration::from_secs(300);

/// What became of a lifecycle item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// Done; what was missed is to be looked up, and is stored for that.
    Done(Option<Resync>),
    /// Nobody knows the subscription yet: hand the item over again after this.
    Later(Duration),
}

impl Reconciler {
    /// Does what a lifecycle item asks for.
    ///
    /// # Errors
    /// [`SubscriptionError`]: hand it over again.
    pub async fn lifecycle(&self, item: &Item) -> Result<Answered, SubscriptionError> {
        let Event::Lifecycle(event) = item.event else { return Ok(Answered::Done(None)) };
        let held = self.rows.held(&item.subscription).await?.map(|(held, _)| held);
        let Some(held) = held else { return self.of_another(event, item).await };
        match event {
            LifecycleEvent::ReauthorizationRequired => self.reauthorize(&held).await,
            LifecycleEvent::SubscriptionRemoved => self.removed(&held).await,
            LifecycleEvent::Missed => self.ask(&held.group, &held.wanted, held.created, Reason::Missed).await,
        }
    }

    /// One that is not there any more, or of which the row is not written yet.
    async fn of_another(&self, event: LifecycleEvent, item: &Item) -> Result<Answered, SubscriptionError> {
        let book = self.rows.load().await?;
        let Some((group, wanted, since)) = whose(&book, item) else {
            tracing::warn!(
                subscription = item.subscription,
                event_kind = event.name(),
                "a lifecycle notification is about a subscription that nobody here knows"
            );
            return self.park(&book, event, item).await;
        };
        match event {
            // Whoever replaced it has renewed what counts; one that is just being made is asked about again.
            LifecycleEvent::ReauthorizationRequired if book.tombstones.contains_key(&item.subscription) => {
                Ok(Answered::Done(None))
            }
            LifecycleEvent::ReauthorizationRequired => self.park(&book, event, item).await,
            LifecycleEvent::SubscriptionRemoved => self.ask(&group, &wanted, since, Reason::Removed).await,
            LifecycleEvent::Missed => self.ask(&group, &wanted, since, Reason::Missed).await,
        }
    }

    /// Whoever made it may be about to write its row, or was killed before that: then a run of the reconciler finds it. One that is
    /// gone by then has no tombstone, and needs none: there is nothing to reauthorize.
    async fn park(&self, book: &Book, event: LifecycleEvent, item: &Item) -> Result<Answered, SubscriptionError> {
        let being_made = item.group.as_ref().is_some_and(|group| book.intents.contains_key(group));
        let may_be_gone = event == LifecycleEvent::ReauthorizationRequired && !being_made;
        if may_be_gone && self.graph.read(&item.subscription).await?.is_none() {
            return Ok(Answered::Done(None));
        }
        Ok(Answered::Later(PARKED))
    }

    /// A new end does both. The mark stays until it worked, so that a run of the reconciler makes up for it.
    async fn reauthorize(&self, held: &Held) -> Result<Answered, SubscriptionError> {
        if self.rows.amend(&held.id, |held| held.challenged = true).await?.is_none() {
            return Ok(Answered::Done(None));
        }
        let said = self.rows.read::<Named<u32>>(&keyed('m', &limits::kind(&held.wanted))).await?;
        let said = said.into_iter().map(|(limit, _)| (limit.name, limit.value)).collect();
        match self.touch(&held.id, Touch::Renew { minutes: limits::requested(&held.wanted, &said) }).await? {
            Touched::Gone(asked) => {
                self.make_anew(&held.wanted).await?;
                Ok(Answered::Done(Some(asked)))
            }
            Touched::Failed(error) => {
                tracing::warn!(subscription = held.id, "{error}; the next runs try again");
                Ok(Answered::Done(None))
            }
            Touched::Done(_) | Touched::TooSoon | Touched::Unknown => Ok(Answered::Done(None)),
        }
    }

    /// Anybody may be wrong: Graph is asked whether it is gone.
    async fn removed(&self, held: &Held) -> Result<Answered, SubscriptionError> {
        if self.graph.read(&held.id).await?.is_some() {
            return self.ask(&held.group, &held.wanted, held.created, Reason::Removed).await;
        }
        let asked = self.bury(held, Reason::Removed).await?;
        self.make_anew(&held.wanted).await?;
        Ok(Answered::Done(Some(asked)))
    }

    /// Stores that what was missed is to be looked up.
    async fn ask(
        &self,
        group: &str,
        wanted: &Wanted,
        otherwise: Timestamp,
        reason: Reason,
    ) -> Result<Answered, SubscriptionError> {
        let caught = self.rows.read::<super::Caught>(&keyed('c', group)).await?;
        let since = caught.map_or(otherwise, |(caught, _)| caught.last);
        let asked = Resync { group: group.to_owned(), resource: wanted.resource.clone(), since, reason };
        self.rows.write(vec![resync(&asked, self.clock.now())]).await?;
        Ok(Answered::Done(Some(asked)))
    }

    /// Notes that a notification of this subscription came; writes at most one row in some minutes.
    ///
    /// # Errors
    /// [`SubscriptionError`]: of no consequence for the notification.
    pub async fn heard(&self, subscription: &str) -> Result<(), SubscriptionError> {
        let now = self.clock.now();
        {
            let mut noted = self.noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if noted.get(subscription).is_some_and(|at| at.checked_add(NOTED).is_ok_and(|until| until > now)) {
                return Ok(());
            }
            noted.retain(|_, at| at.checked_add(NOTED).is_ok_and(|until| until > now));
            noted.insert(subscription.to_owned(), now);
        }
        let row = Named { name: subscription.to_owned(), value: now };
        self.rows.write(vec![put(keyed('n', subscription), &row)]).await
    }
}

/// What a subscription was for that is gone, or that is not known yet: by its tombstone, else by the group that its client
/// state proves.
fn whose(book: &Book, item: &Item) -> Option<(String, Wanted, Timestamp)> {
    if let Some(tombstone) = book.tombstones.get(&item.subscription) {
        return Some((tombstone.group.clone(), tombstone.wanted.clone(), tombstone.at));
    }
    let group = item.group.as_deref()?;
    let held = book.held.values().find(|held| held.group == group).map(|held| (&held.wanted, held.created));
    let intent = || book.intents.get(group).map(|intent| (&intent.wanted, intent.at));
    let (wanted, since) = held.or_else(intent)?;
    Some((group.to_owned(), wanted.clone(), since))
}
