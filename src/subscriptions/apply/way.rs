//! What is in the way of a new subscription: taken over if it will do, deleted if it is ours and will not, and left alone else,
//! with a word on who has to do something.

use url::Url;

use super::super::SubscriptionError;
use super::super::plan::is_for;
use super::Run;
use crate::graph::Subscription;
use crate::notifications::wanted::Wanted;

/// What stands in the way of a new subscription.
pub(super) enum Way {
    Adopted,
    Cleared,
    Blocked(String),
}

impl Run<'_> {
    /// Graph has one already: it is taken over if it will do, deleted if it is ours and will not, and left alone else.
    pub(super) async fn make_way(
        &mut self,
        wanted: &Wanted,
        id: Option<&str>,
        instead: Option<&str>,
    ) -> Result<Way, SubscriptionError> {
        let there = self.listed.iter().find(|listed| self.is_ours(listed) && is_for(listed, wanted));
        // Where there is room for one, it may be the one that tells of other changes.
        let there = there.map(|listed| listed.id.as_str()).or(instead);
        let Some(id) = id.or(there).map(str::to_owned) else {
            let text = "Graph does not say which one, and none of ours is listed: find it with `subscriptions list`, and delete it with what made it, or use another app registration";
            return Ok(Way::Blocked(text.to_owned()));
        };
        let found = match self.reconciler.graph.read(&id).await {
            Ok(Some(found)) => found,
            Ok(None) if self.is_known(&id) => return Ok(Way::Cleared),
            // It would be refused again: somebody else has to make way.
            Ok(None) => return Ok(Way::Blocked(unseen(&id))),
            Err(error) => {
                self.heed(&error);
                return Ok(Way::Blocked(error.to_string()));
            }
        };
        if !self.is_ours(&found) {
            return Ok(Way::Blocked(format!(
                "the subscription {id} of the same app registration tells another address{}; delete it with what made it, or use another app registration",
                host_of(&found.notification_url)
            )));
        }
        let state = found.client_state.as_ref().and_then(|state| (self.reconciler.states.check)(state.expose()));
        let fits = is_for(&found, wanted) && state == Some((wanted.group(), true)) && instead != Some(id.as_str());
        if fits {
            self.keep(&found, wanted, "it was there already").await?;
            return Ok(Way::Adopted);
        }
        if self.delete(&id, &wanted.resource, "its client state is not the present one").await? {
            Ok(Way::Cleared)
        } else {
            Ok(Way::Blocked(format!("the subscription {id} is in the way and cannot be deleted")))
        }
    }

    fn is_known(&self, id: &str) -> bool {
        self.book.held.contains_key(id) || self.listed.iter().any(|listed| listed.id == id)
    }

    fn is_ours(&self, subscription: &Subscription) -> bool {
        self.book.held.contains_key(&subscription.id) || self.ours.owns(&subscription.notification_url)
    }
}

/// One that Graph names and neither lists nor shows.
fn unseen(id: &str) -> String {
    format!(
        "Graph names the subscription {id} and does not show it to this app: who made it, such as a user who signed in to the same app registration, deletes it; else it is in the way until it ends"
    )
}

/// The rest of an address may hold a key of its receiver.
fn host_of(address: &str) -> String {
    let url = Url::parse(address).ok();
    url.and_then(|url| url.host_str().map(|host| format!(" ({host})"))).unwrap_or_default()
}
