//! Sinks: where indicators go. One folder per sink; this file holds what they share.

pub mod guide;
pub mod sentinel;

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::indicator::{ActionToTake, Group, Indicator, Kind, NeverSend, Observable, Tlp};
use crate::platform::clock::BoxFuture;
use crate::platform::http::Traffic;

/// What the user wants of every payload, whatever the sink.
#[derive(Debug, Clone)]
pub struct Terms {
    pub default_tlp: Tlp,
    pub action: ActionToTake,
    pub expiration_days: ExpirationDays,
    /// The selected Indicator Types; all ten if none was selected or TQL replaces the choice.
    pub kinds: Vec<Kind>,
    pub never_send: NeverSend,
    pub allow_private_addresses: bool,
}

/// Days, 1 to 3650.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpirationDays {
    pub email: u16,
    pub file: u16,
    pub network: u16,
}

impl ExpirationDays {
    #[must_use]
    pub fn of(self, kind: Kind) -> u16 {
        match kind.group() {
            Group::Email => self.email,
            Group::File => self.file,
            Group::Network => self.network,
        }
    }

    #[must_use]
    pub fn shortest(self) -> u16 {
        self.email.min(self.file).min(self.network)
    }
}

/// Why an observable is not sent. Each is a text that users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Skip {
    /// The value is none of its kind.
    Malformed(&'static str),
    /// Its kind is not among the selected Indicator Types.
    NotSelected,
    NeverSend,
    /// A private or reserved address with Block.
    PrivateAddress,
    /// The mapping row of the sink declines it.
    Declined(&'static str),
    /// Its `dateAdded` lies after the day on which it would expire.
    ExpiresBeforeItBegins,
}

impl Skip {
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed(reason) | Self::Declined(reason) => reason,
            Self::NotSelected => "not among the Indicator Types selected",
            Self::NeverSend => "never_send",
            Self::PrivateAddress => "private or reserved address, not sent with Block (ALLOW_PRIVATE_ADDRESSES=on sends it)",
            Self::ExpiresBeforeItBegins => "dateAdded lies after its expiry",
        }
    }
}

/// What a sink makes of one sighting. The times of sending are not in it, so equal drafts mean nothing to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The payload without times of sending; only the sink reads it.
    pub content: Vec<u8>,
    /// Over `content` and the expiration days.
    pub hash: ContentHash,
    /// What the target calls the object before it gives it an id.
    pub external_id: String,
    pub created: Timestamp,
    pub valid_from: Timestamp,
    pub expiration_days: u16,
}

/// First 16 bytes of a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 16]);

/// When a payload is sent and when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Later than that of any earlier payload of the same observable.
    pub modified: Timestamp,
    pub expires: Timestamp,
}

/// What is at the target and shall go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    pub observable: Observable,
    pub external_id: String,
    pub remote_id: Option<String>,
    pub created: Timestamp,
    pub valid_from: Timestamp,
    pub stamp: Stamp,
}

/// What the target said of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Accepted {
        remote_id: Option<String>,
    },
    /// For good: the same content would be refused again.
    Refused {
        reason: String,
        correlation: Option<String>,
    },
    /// The answer came, but says nothing usable about this item.
    Unanswered {
        reason: String,
    },
}

/// How a whole batch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendErrorKind {
    /// 429, 5xx, time-out, cut connection: it is unknown whether any of it took effect.
    Transient,
    /// 400 or 413: nothing took effect; smaller batches find the culprit.
    Refused,
    /// 401, 403, 404, 410, a retired API: no item will pass until something is changed.
    Systemic,
}

/// A batch without per-item answers.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SendError {
    pub kind: SendErrorKind,
    /// One line: what failed and, if systemic, the setting or permission to change.
    pub message: String,
    pub retry_after: Option<Duration>,
    pub correlation: Option<String>,
}

/// What a sink takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Items in one request.
    pub batch: usize,
    /// Requests under way at once.
    pub concurrency: usize,
}

/// What a sink writes to; its fingerprint keys everything that says what is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// `Microsoft Sentinel`.
    pub product: &'static str,
    /// Names it in stored keys: letters, digits, `-`.
    pub fingerprint: String,
    /// For users: `workspace …, source system …`.
    pub shown: String,
}

/// A target that takes indicators in batches.
pub trait Sink: fmt::Debug + Send + Sync {
    fn destination(&self) -> &Destination;

    fn limits(&self) -> Limits;

    fn traffic(&self) -> &Traffic;

    /// The payload of one sighting, or why there is none. Pure.
    ///
    /// # Errors
    /// [`Skip::Declined`] with the text of the mapping row, or another reason of this sink.
    fn draft(&self, indicator: &Indicator, observable: &Observable, terms: &Terms) -> Result<Draft, Skip>;

    /// The bytes of one item as they are sent. Pure.
    fn payload(&self, draft: &Draft, stamp: Stamp) -> Vec<u8>;

    /// Sends payloads; one answer per payload, in their order.
    fn send<'a>(&'a self, payloads: &'a [Vec<u8>]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>>;

    /// Takes items back; one answer per item, in their order.
    fn withdraw<'a>(&'a self, items: &'a [Withdrawal]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>>;

    /// The least call that proves access.
    fn probe(&self) -> BoxFuture<'_, Result<(), SendError>>;
}

/// What holds for every sink, before it is asked for a draft.
///
/// # Errors
/// The first reason, in the order of [`Skip`].
pub fn screen(_observable: &Observable, _terms: &Terms) -> Result<(), Skip> {
    todo!()
}
