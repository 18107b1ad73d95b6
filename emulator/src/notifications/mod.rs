//! Change notifications of Microsoft Graph: subscriptions, and what is delivered to them.
//!
//! What tests do: make subscriptions over HTTPS (or [`World::subscribe`]), change the world ([`World::put_user`],
//! [`World::put_message`], [`World::raise`], …), then call [`crate::Emulator::deliver_due`], which sends all that is due by the
//! emulator's clock with real requests, and look at [`Notifications::log`]. Nothing is sent without that call, unless
//! [`crate::Emulator::deliver_always`] runs.
//!
//! Not imitated: Event Hubs and Event Grid, browser push, delegated sign-in, national clouds, beta. What the documents leave open
//! is a field of [`Notifications`], set to the harsher reading.

mod api;
mod create;
mod delivery;
mod der;
mod handshake;
mod hosts;
mod raise;
mod rich;
mod table;
mod tokens;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use serde_json::Value;

use crate::faults::next;
use crate::rate::Recent;
use crate::world::World;

pub(crate) use api::answer;
pub(crate) use delivery::{Batch, deliver_due};
pub use delivery::{Delivery, Outcome};
pub use handshake::Handshake;
pub use hosts::Health;
pub use raise::{Change, Lifecycle};
pub use rich::{ContentFlaw, encrypt};
pub(crate) use table::{kind_roles, roles, segments};
pub(crate) use tokens::documents;
pub use tokens::{CHANGE_TRACKING, TokenFlaw, TokenForm, Tokens};

/// A change of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Changed {
    Created,
    Updated,
    Deleted,
}

impl Changed {
    /// As it stands in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Created, Self::Updated, Self::Deleted].into_iter().find(|changed| changed.name().eq_ignore_ascii_case(text))
    }
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub id: String,
    pub tenant: String,
    /// The client id of the app that made it; only that one sees it.
    pub app: String,
    /// As it was sent, with its query.
    pub resource: String,
    /// As it was sent: `created,updated`.
    pub change_type: String,
    pub notification_url: String,
    pub lifecycle_url: Option<String>,
    pub client_state: Option<String>,
    /// As it was granted.
    pub expires: Timestamp,
    /// With resource data.
    pub rich: bool,
    /// Base64 DER.
    pub certificate: Option<String>,
    pub certificate_id: Option<String>,
    /// The app id that validation tokens are for, where it is not `app`.
    pub token_app: Option<String>,
    pub created: Timestamp,
    /// When it was changed by PATCH, and when reauthorized.
    pub patched: Vec<Timestamp>,
    pub reauthorized: Vec<Timestamp>,
    /// Its token is out of date: nothing is delivered from then on, and what is older than 4 h is lost.
    pub paused: Option<Timestamp>,
}

impl Subscription {
    /// The changes that it asks for, sorted.
    #[must_use]
    pub fn changes(&self) -> Vec<Changed> {
        let mut changes: Vec<Changed> = self.change_type.split(',').filter_map(|text| Changed::read(text.trim())).collect();
        changes.sort_unstable();
        changes.dedup();
        changes
    }

    fn is_live(&self, now: Timestamp) -> bool {
        self.expires > now
    }

    fn kind(&self) -> Option<&'static table::Kind> {
        table::find(&self.resource)
    }

    fn is_outlook(&self) -> bool {
        self.kind().is_some_and(|kind| kind.family == table::Family::Outlook)
    }
}

/// How long answers may take, on the machine's clock; tests shorten it where a handler really hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// 10 s.
    pub handshake: Duration,
    /// Of the first try: 3 s.
    pub first: Duration,
    /// Of a retry: 10 s.
    pub retry: Duration,
}

/// What the service does with an expiry further ahead than allowed, where it is announced only that this will fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooFar {
    Refused,
    /// The most is granted. Outlook and Teams refuse all the same.
    Lowered,
}

/// An item that waits to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub subscription: String,
    pub url: String,
    pub item: Value,
    /// To be encrypted for it when it is sent.
    pub object: Option<Value>,
    pub lifecycle: bool,
    pub since: Timestamp,
    pub due: Timestamp,
}

/// All of it, with its switches.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Notifications {
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) batches: Vec<Batch>,
    /// Batches that were taken to be sent, and have no answer yet.
    pub(crate) under_way: usize,
    pub(crate) hosts: BTreeMap<String, hosts::Host>,
    pub(crate) recent: HashMap<(&'static str, String), Recent>,
    /// When a subscription was last asked to reauthorize.
    pub(crate) challenged: BTreeMap<String, Timestamp>,
    pub(crate) dice: u64,
    pub(crate) sequence: u64,
    /// All deliveries, tried ones too, in the order in which they ended.
    pub log: Vec<Delivery>,
    pub handshakes: Vec<Handshake>,
    /// Items that nobody will be sent any more, with the reason.
    pub lost: Vec<(Value, &'static str)>,
    /// Subscriptions for which PATCH and reauthorize came within 10 minutes, which the vendor warns of.
    pub too_close: Vec<String>,
    pub tokens: Tokens,
    pub enforce_rate: bool,
    pub limits: Limits,
    /// Added to what each answer took, on paper: nobody waits.
    pub network: Duration,
    /// Between a change and its first try.
    pub delay: Duration,
    /// Before the first retry; doubled for each further one.
    pub first_retry: Duration,
    /// The most items in one delivery.
    pub batch: usize,
    /// How many deliveries are under way at once.
    pub parallel: usize,
    /// Answers in a window before a host can be slow.
    pub fewest_answers: usize,
    /// So many in a thousand items are delivered twice.
    pub doubled_permille: u32,
    /// So many in a thousand are not delivered; Outlook then tells `missed`.
    pub lost_permille: u32,
    /// Items are delivered in another order than they came about.
    pub shuffled: bool,
    /// Changes an item before it is sent: letter case, absent members, …
    pub alter: Option<fn(&mut Value)>,
    /// `resourceData` of drives is null.
    pub no_drive_data: bool,
    /// What is wrong with the encryption of content.
    pub content_flaw: Option<ContentFlaw>,
    /// In the last hour of a subscription, reauthorization is asked for every 15 minutes.
    pub challenges: bool,
    /// The text of handshakes instead of the usual one.
    pub handshake_text: Option<String>,
    pub too_far: TooFar,
    /// Minutes that are granted at most, whatever is asked for.
    pub granted_at_most: Option<i64>,
    /// Subscriptions on `security/alerts` are refused.
    pub no_alerts: bool,
    /// A change of the kind that is subscribed to is delivered before the answer to the subscription is sent.
    pub eager: bool,
    /// Subscriptions in one page of a list.
    pub page: usize,
}

impl Default for Notifications {
    fn default() -> Self {
        Self {
            subscriptions: Vec::new(),
            waiting: Vec::new(),
            batches: Vec::new(),
            under_way: 0,
            hosts: BTreeMap::new(),
            recent: HashMap::new(),
            challenged: BTreeMap::new(),
            dice: 7,
            sequence: 637_000_000_000_000_000,
            log: Vec::new(),
            handshakes: Vec::new(),
            lost: Vec::new(),
            too_close: Vec::new(),
            tokens: Tokens::default(),
            enforce_rate: true,
            limits: Limits { handshake: Duration::from_secs(10), first: Duration::from_secs(3), retry: Duration::from_secs(10) },
            network: Duration::ZERO,
            delay: Duration::ZERO,
            first_retry: Duration::from_secs(10),
            batch: 10,
            parallel: 1,
            fewest_answers: 1,
            doubled_permille: 0,
            lost_permille: 0,
            shuffled: false,
            alter: None,
            no_drive_data: false,
            content_flaw: None,
            challenges: false,
            handshake_text: None,
            too_far: TooFar::Refused,
            granted_at_most: None,
            no_alerts: false,
            eager: false,
            page: 100,
        }
    }
}

impl Notifications {
    /// Subscriptions that have not ended, in the order in which they were made.
    #[must_use]
    pub fn subscriptions(&self, now: Timestamp) -> Vec<&Subscription> {
        self.subscriptions.iter().filter(|subscription| subscription.is_live(now)).collect()
    }

    #[must_use]
    pub fn subscription(&self, id: &str) -> Option<&Subscription> {
        self.subscriptions.iter().find(|subscription| subscription.id == id)
    }

    /// To change what a client could not: its expiry, say.
    pub fn subscription_mut(&mut self, id: &str) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.id == id)
    }

    /// Whether everything that was to be sent is accepted or lost: nothing waits, and nothing is under way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.batches.is_empty() && self.under_way == 0
    }

    /// When something is to be sent next.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.waiting.iter().map(|waiting| waiting.due).chain(self.batches.iter().map(|batch| batch.due)).min()
    }

    /// How a host does: `localhost:1234`, as in the notification URL.
    #[must_use]
    pub fn health(&self, host: &str) -> Health {
        self.hosts.get(host).map_or(Health::Good, hosts::Host::health)
    }

    /// A fresh GUID.
    pub(crate) fn guid(&mut self) -> String {
        let (a, b) = (next(&mut self.dice), next(&mut self.dice));
        let (b, c) = (b >> 48, b & 0xffff_ffff_ffff);
        format!("{:08x}-{:04x}-4{:03x}-9{:03x}-{c:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff, b & 0xfff)
    }

    /// So many in a thousand.
    fn chance(&mut self, permille: u32) -> bool {
        permille > 0 && next(&mut self.dice) % 1_000 < u64::from(permille)
    }
}

impl World {
    /// Makes a subscription as if it had been there before: no rule is held against it and nobody is asked. Its id.
    pub fn subscribe(&mut self, subscription: Subscription) -> String {
        let mut subscription = subscription;
        if subscription.id.is_empty() {
            subscription.id = self.notifications.guid();
        }
        let id = subscription.id.clone();
        self.notifications.subscriptions.push(subscription);
        id
    }
}

/// Minutes ahead of a time.
fn ahead(now: Timestamp, minutes: i64) -> Timestamp {
    now.checked_add(minutes.minutes()).unwrap_or(Timestamp::MAX)
}

/// A time in the future or past by this.
fn after(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Seven fraction digits, as Microsoft Graph writes them.
pub(crate) fn seven(at: Timestamp) -> String {
    format!("{}.{:07}Z", at.strftime("%Y-%m-%dT%H:%M:%S"), at.subsec_nanosecond() / 100)
}
