//! Subscriptions at Microsoft Graph: what playbooks want, made and kept alive; what was missed, looked up again.
//!
//! A run of the reconciler lists once, plans purely ([`plan`]), and applies. Lifecycle notifications ([`lifecycle`]) and the
//! periodic look for what nobody told of ([`catch_up`]) stand beside it. All of it can end at any instruction: rows say what
//! was intended, what there is, and what is still to be looked up. Knows no playbooks and no queues: what comes in is
//! [`Wanted`], what goes out are items.

mod apply;
pub mod catch_up;
mod lease;
pub mod lifecycle;
mod limits;
pub mod plan;
mod probe;
mod renewal;
mod rows;
mod standing;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use url::Url;

pub use apply::{Done, Report};
pub use limits::{documented, requested};
pub use plan::{Change, Ours, Situation, Unwanted};
pub use rows::{Book, Caught, Held, Intent, Problem, Reason, Resync, Tombstone};
pub use standing::{Count, Standing};

use crate::graph::{Graph, GraphError, Subscription};
use crate::notifications::wanted::{Wanted, shared};
use crate::platform::clock::Clock;
use crate::storage::{StateStore, StoreError};
use rows::Rows;

/// What the receiver answers below [`Config::public_url`].
pub const RECEIVER: &str = "/api/notifications";

/// What the settings say.
#[derive(Debug, Clone)]
pub struct Config {
    /// `PUBLIC_URL`: the address that Graph calls, without the receiver's path.
    pub public_url: Url,
    /// Whose resources they are: the tenant's id as notifications name it, where it is known.
    pub tenant: Option<String>,
    /// Label and public certificate (DER in base64) for resource data, where there is one.
    pub certificate: Option<(String, String)>,
    /// How often what nobody told of is looked up.
    pub catch_up_every: Duration,
}

impl Config {
    /// The receiver's address, without a profile.
    #[must_use]
    pub fn receiver(&self) -> String {
        receiver(&self.public_url)
    }
}

fn receiver(public_url: &Url) -> String {
    format!("{}{RECEIVER}", public_url.as_str().trim_end_matches('/'))
}

/// Makes a client state for a group.
pub type Make = Box<dyn Fn(&str) -> String + Send + Sync>;
/// The group of a genuine client state, and whether the current key made it; none if it is not genuine.
pub type Check = Box<dyn Fn(&str) -> Option<(String, bool)> + Send + Sync>;

/// The current key of client states, as far as this room has to do with it.
pub struct States {
    /// Changes with the key, and tells nothing of it.
    pub key: String,
    pub make: Make,
    pub check: Check,
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("States").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Why nothing could be said or done.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// Another instance reconciles.
    #[error("another process is at the subscriptions until {}; try again after that", until.strftime("%Y-%m-%d %H:%M:%SZ"))]
    Busy { until: Timestamp },
    #[error("another process has taken over the subscriptions; this one wrote nothing more")]
    TakenOver,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// What was found could not be handed on.
    #[error("failed to hand on what was missed: {0}")]
    NotHandedOn(String),
    #[error("failed to read the stored row `{key}`: {cause}; was the state written by a newer version?")]
    Unreadable { key: String, cause: String },
    #[error("there is no subscription `{0}` of ours; `subscriptions list` shows all")]
    Unknown(String),
}

/// Makes and keeps what is wanted.
#[derive(Debug)]
pub struct Reconciler {
    rows: Rows,
    graph: Graph,
    clock: Arc<dyn Clock>,
    config: Config,
    states: States,
    /// For the look at our own address.
    client: reqwest::Client,
    /// Makes random names.
    random: fn() -> String,
    /// When the last notification of a subscription was last noted, so that not each one writes.
    noted: Mutex<std::collections::BTreeMap<String, Timestamp>>,
}

/// What would be done, and what for.
#[derive(Debug)]
pub struct Planned {
    pub changes: Vec<Change>,
    pub standing: Vec<Standing>,
}

/// One row of the table of subscriptions at Graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    pub id: String,
    pub resource: String,
    pub change_type: String,
    pub notification_url: String,
    pub expires: Timestamp,
    pub ours: bool,
    pub standing: Option<Standing>,
}

/// All subscriptions of the app, others' as well. Ours are those of which there is a row, or that tell our address, where that is known.
///
/// # Errors
/// [`SubscriptionError`].
pub async fn listed(
    store: &Arc<dyn StateStore>,
    graph: &Graph,
    public_url: Option<&Url>,
    now: Timestamp,
) -> Result<Vec<Listed>, SubscriptionError> {
    let book = Rows { store: Arc::clone(store) }.load().await?;
    let listed = graph.list().await?;
    let standings = standing::of(&book, &[], now);
    let ours = public_url.map(|url| Ours { url: receiver(url), key: String::new(), certificate: None });
    let of = |one: Subscription| Listed {
        ours: book.held.contains_key(&one.id) || ours.as_ref().is_some_and(|ours| ours.owns(&one.notification_url)),
        standing: standings.iter().find(|standing| standing.id.as_ref() == Some(&one.id)).cloned(),
        id: one.id,
        resource: one.resource,
        change_type: one.change_type,
        notification_url: one.notification_url,
        expires: one.expires,
    };
    Ok(listed.into_iter().map(of).collect())
}

impl Reconciler {
    /// `client` follows no redirects; `random` makes names that nobody can guess.
    #[must_use]
    pub fn new(
        store: Arc<dyn StateStore>,
        graph: Graph,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
        (config, states): (Config, States),
        random: fn() -> String,
    ) -> Self {
        Self { rows: Rows { store }, graph, clock, config, states, client, random, noted: Mutex::default() }
    }

    /// What a run would do, without doing it.
    ///
    /// # Errors
    /// [`SubscriptionError`].
    pub async fn plan(&self, wanted: &[Wanted], unwanted: Unwanted) -> Result<Planned, SubscriptionError> {
        let mut book = self.rows.load().await?;
        let listed = self.graph.list().await?;
        for held in book.held.values_mut() {
            if let Some(listed) = listed.iter().find(|listed| listed.id == held.id) {
                held.see(listed);
            }
        }
        let (wanted, ours, now) = (self.desired(wanted, unwanted, &book), self.ours(), self.clock.now());
        let situation =
            Situation { wanted: &wanted, listed: Some(&listed), book: &book, ours: &ours, unwanted, eager: true, now };
        Ok(Planned { changes: plan::plan(&situation), standing: standing::of(&book, &wanted, now) })
    }

    /// All subscriptions of the app, others' as well.
    ///
    /// # Errors
    /// [`SubscriptionError`].
    pub async fn list(&self) -> Result<Vec<Listed>, SubscriptionError> {
        listed(&self.rows.store, &self.graph, Some(&self.config.public_url), self.clock.now()).await
    }

    /// Where the notifications of a subscription go.
    #[must_use]
    pub fn address_of(&self, wanted: &Wanted) -> String {
        self.ours().url_of(wanted)
    }

    /// Deletes one of ours, at Graph and here. The next run makes it anew, if it is wanted.
    ///
    /// # Errors
    /// [`SubscriptionError::Unknown`] for others', which are never touched.
    pub async fn delete(&self, id: &str) -> Result<(), SubscriptionError> {
        let held = self.rows.held(id).await?;
        if held.is_none() {
            let found = self.graph.read(id).await?;
            let ours = found.is_some_and(|found| self.ours().owns(&found.notification_url));
            if !ours {
                return Err(SubscriptionError::Unknown(id.to_owned()));
            }
        }
        self.graph.delete(id).await?;
        if let Some((held, _)) = held {
            let tombstone = plan::tombstone(&held, self.clock.now());
            self.rows.write(vec![rows::delete(rows::held_key(id)), rows::put(rows::keyed('t', id), &tombstone)]).await?;
        }
        Ok(())
    }

    /// How each wanted subscription is, by the rows alone.
    ///
    /// # Errors
    /// [`SubscriptionError`].
    pub async fn standing(&self, wanted: &[Wanted]) -> Result<Vec<Standing>, SubscriptionError> {
        Ok(standing::of(&self.rows.load().await?, &shared(wanted), self.clock.now()))
    }

    /// What the subscription of this id and group is, was, or is just being made for; none: nobody remembers.
    ///
    /// # Errors
    /// [`SubscriptionError`].
    pub async fn made_for(&self, id: &str, group: &str) -> Result<Option<Wanted>, SubscriptionError> {
        if let Some((held, _)) = self.rows.held(id).await?.filter(|(held, _)| held.group == group) {
            return Ok(Some(held.wanted));
        }
        let buried = self.rows.read::<Tombstone>(&rows::keyed('t', id)).await?;
        if let Some((tombstone, _)) = buried.filter(|(tombstone, _)| tombstone.group == group) {
            return Ok(Some(tombstone.wanted));
        }
        Ok(self.rows.read::<Intent>(&rows::keyed('i', group)).await?.map(|(intent, _)| intent.wanted))
    }

    /// A handshake with ourselves, as Graph would ask for it.
    ///
    /// # Errors
    /// One line: how the answer differs, and what to change.
    pub async fn probe(&self) -> Result<(), String> {
        probe::probe(&self.client, &self.clock, &self.config.receiver(), &(self.random)()).await
    }

    /// Each resource once.
    fn desired(&self, wanted: &[Wanted], unwanted: Unwanted, book: &Book) -> Vec<Wanted> {
        let wanted = shared(wanted);
        if unwanted == Unwanted::Keep { plan::with_kept(wanted, book, &self.ours()) } else { wanted }
    }

    /// What is subscribed to after a run, and so may have been missed: with what is kept, also in place of what is wanted.
    fn told_of(&self, wanted: &[Wanted], unwanted: Unwanted, book: &Book) -> Vec<Wanted> {
        let mut all = self.desired(wanted, unwanted, book);
        if unwanted == Unwanted::Keep {
            let groups: BTreeSet<String> = all.iter().map(Wanted::group).collect();
            let kept = book.held.values().filter(|held| !groups.contains(&held.group));
            let kept: BTreeMap<&str, &Wanted> = kept.map(|held| (held.group.as_str(), &held.wanted)).collect();
            all.retain(|one| !kept.values().any(|kept| plan::covers(kept, one)));
            all.extend(kept.into_values().cloned());
        }
        all
    }

    fn ours(&self) -> Ours {
        Ours {
            url: self.config.receiver(),
            key: self.states.key.clone(),
            certificate: self.config.certificate.as_ref().map(|(label, _)| label.clone()),
        }
    }

    /// The certificate that a subscription is given.
    fn certificate_for(&self, wanted: &Wanted) -> Option<(String, String)> {
        self.config.certificate.clone().filter(|_| wanted.rich)
    }
}
