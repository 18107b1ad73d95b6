//! Sinks: where indicators go. One folder per sink; this file holds what they share.

pub mod defender;
pub mod graph_ti;
pub mod guide;
pub mod sentinel;
pub mod target;

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::digest;
use ipnet::IpNet;
use jiff::Timestamp;

use crate::indicator::{ActionToTake, Group, Indicator, Kind, NeverSend, Observable, ObservableKey, Tlp};
use crate::platform::clock::BoxFuture;
use crate::platform::hex;
use crate::platform::http::{Failure, Traffic};
pub use target::Target;

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

/// The guide's "Target Product".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetProduct {
    Sentinel,
    Defender,
}

impl TargetProduct {
    pub const ALL: [Self; 2] = [Self::Sentinel, Self::Defender];

    /// The guide's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sentinel => "Microsoft Sentinel",
            Self::Defender => "Microsoft Defender for Endpoint",
        }
    }

    /// Objects that it holds at most, of all applications of a tenant together ("Create indicators" overview of Defender).
    #[must_use]
    pub const fn capacity(self) -> Option<u64> {
        match self {
            Self::Sentinel => None,
            Self::Defender => Some(15_000),
        }
    }
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
    /// Over what the target cannot change in an object: with another identity it is another object. [`ContentHash::NONE`] where
    /// an object is replaced whole by what is sent.
    pub identity: ContentHash,
    /// What the target calls the object before it gives it an id.
    pub external_id: String,
    pub created: Timestamp,
    pub valid_from: Timestamp,
    pub expiration_days: u16,
}

impl Draft {
    /// `content` without the times of sending, which its sink adds.
    pub(crate) fn new(
        (indicator, kind): (&Indicator, Kind),
        terms: &Terms,
        content: Vec<u8>,
        identity: ContentHash,
        external_id: String,
    ) -> Self {
        let expiration_days = terms.expiration_days.of(kind);
        Self {
            hash: ContentHash::of(&[&content, &expiration_days.to_be_bytes()]),
            content,
            identity,
            external_id,
            created: indicator.date_added,
            valid_from: indicator.date_added,
            expiration_days,
        }
    }
}

/// First 16 bytes of a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 16]);

impl ContentHash {
    /// Of nothing.
    pub const NONE: Self = Self([0; 16]);

    /// Of the parts, one after the other.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(part);
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(hash)
    }
}

/// When a payload is sent and when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Later than that of any earlier payload of the same observable.
    pub modified: Timestamp,
    pub expires: Timestamp,
}

/// What is known of an observable's object at the target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct There {
    /// The target's own id of the object; none if there is no object, or its id is not known.
    pub id: Option<String>,
    /// What is sent has another identity: a new object, after which the one with `id` is deleted.
    pub replaced: bool,
    /// External ids of sends without an answer: under each there may be one more object, of which at most one is kept.
    /// A target that gives ids looks them up first.
    pub unsure: Vec<String>,
}

/// One item that is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub observable: Observable,
    pub external_id: String,
    /// [`Sink::payload`] made it.
    pub payload: Vec<u8>,
    pub there: There,
}

/// What is at the target and shall go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    pub observable: Observable,
    pub external_id: String,
    pub there: There,
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
    /// The target has no place for another object.
    Full {
        reason: String,
    },
}

/// One object that a survey found at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub id: String,
    /// Names the observable as [`Sink::key`] does; none if it is of a kind that is never sent.
    pub key: Option<ObservableKey>,
    pub identity: ContentHash,
    /// Made by this product, as far as the target tells.
    pub ours: bool,
}

/// What is at the target of an item of which several objects may have been there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sole {
    /// The object that was known, and no other.
    Known,
    /// One whose id was not known, or none.
    AtMostOne,
    /// Still as many as before, for all that is known.
    Unclear,
}

/// How a whole batch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendErrorKind {
    /// 429, 5xx, time-out, cut connection: it is unknown whether any of it took effect.
    Transient,
    /// 400 or 413: nothing took effect; smaller batches find the culprit.
    Refused,
    /// The service choked on the batch as a whole: it is unknown what took effect, but smaller batches are known to pass.
    TooMuch,
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

impl SendError {
    pub(crate) fn new(kind: SendErrorKind, message: String, correlation: Option<String>) -> Self {
        Self { kind, message, retry_after: None, correlation }
    }

    /// A call without a usable answer. A 429 that does not say when to come back is given `wait`.
    pub(crate) fn unanswered(failure: Failure, wait: Duration) -> Self {
        let kind = if failure.transient { SendErrorKind::Transient } else { SendErrorKind::Systemic };
        let retry_after = failure.retry_after.or_else(|| (failure.status == Some(429)).then_some(wait));
        Self { retry_after, ..Self::new(kind, failure.to_string(), failure.request_id) }
    }
}

/// What a sink takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Items in one request.
    pub batch: usize,
    /// Requests under way at once.
    pub concurrency: usize,
    /// Objects that the target holds at most, whoever made them.
    pub capacity: Option<u64>,
    /// Objects that one indicator can give here, at most.
    pub per_indicator: u64,
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

    /// Names the observable's object in stored rows: two that may stand side by side at the target have different keys.
    fn key(&self, observable: &Observable) -> ObservableKey {
        observable.key()
    }

    /// The payload of one sighting, or why there is none. Pure.
    ///
    /// # Errors
    /// [`Skip::Declined`] with the text of the mapping row, or another reason of this sink.
    fn draft(&self, indicator: &Indicator, observable: &Observable, terms: &Terms) -> Result<Draft, Skip>;

    /// The bytes of one item as they are sent. Pure.
    fn payload(&self, draft: &Draft, stamp: Stamp) -> Vec<u8>;

    /// Creates, updates or replaces one object per item; one answer per item, in their order.
    fn send<'a>(&'a self, items: &'a [Upload]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>>;

    /// Takes items back; one answer per item, in their order.
    fn withdraw<'a>(&'a self, items: &'a [Withdrawal]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>>;

    /// Everything that the target holds, whoever made it; none if it cannot be listed or does not show it to us.
    fn survey(&self) -> BoxFuture<'_, Result<Option<Vec<Found>>, SendError>> {
        Box::pin(async { Ok(None) })
    }

    /// Whether there is surely nothing of ours that a new object could double. Asked where nothing is known of the target: a
    /// target that replaces what is sent again has nothing to look for.
    fn is_empty(&self) -> BoxFuture<'_, Result<bool, SendError>> {
        Box::pin(async { Ok(true) })
    }

    /// Deletes objects that a survey found too many; an id that is not there is deleted already.
    fn discard<'a>(&'a self, _ids: &'a [String]) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async { Ok(()) })
    }

    /// Of each item, deletes all objects that lost answers may have left but one; the known one stays if it is there.
    ///
    /// For targets with few places that cannot be surveyed. One [`Sole`] per item, in their order.
    fn single_out<'a>(&'a self, items: &'a [(Observable, There)]) -> BoxFuture<'a, Result<Vec<Sole>, SendError>> {
        Box::pin(async { Ok(vec![Sole::Unclear; items.len()]) })
    }

    /// The least call that proves access.
    fn probe(&self) -> BoxFuture<'_, Result<(), SendError>>;
}

/// What holds for every sink, before it is asked for a draft.
///
/// # Errors
/// The first reason, in the order of [`Skip`].
pub fn screen(observable: &Observable, terms: &Terms) -> Result<(), Skip> {
    if !terms.kinds.contains(&observable.kind()) {
        return Err(Skip::NotSelected);
    }
    if terms.never_send.covers(observable) {
        return Err(Skip::NeverSend);
    }
    if terms.action == ActionToTake::Block && !terms.allow_private_addresses && is_private(observable) {
        return Err(Skip::PrivateAddress);
    }
    Ok(())
}

/// Addresses that belong to nobody on the internet; blocking them hits one's own network. Documentation ranges are not here.
const PRIVATE: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

pub(crate) fn is_private(observable: &Observable) -> bool {
    static RANGES: LazyLock<Vec<IpNet>> = LazyLock::new(|| PRIVATE.iter().filter_map(|range| range.parse().ok()).collect());
    observable.range().is_some_and(|own| RANGES.iter().any(|range| range.contains(&own) || own.contains(range)))
}

/// v3 has no XID: owner and id, and the hash's kind where one File gives several objects.
pub(crate) fn external_id(indicator: &Indicator, kind: Kind) -> String {
    let base = indicator.xid.clone().unwrap_or_else(|| format!("{}-{}", indicator.owner_id, indicator.id));
    match kind {
        Kind::Md5 | Kind::Sha1 | Kind::Sha256 => format!("{base}-{}", kind.stable_name()),
        _ => base,
    }
}

/// The guide's words for the description.
pub(crate) fn described(indicator: &Indicator) -> String {
    format!("ThreatConnect | Owner: {}", indicator.owner)
}

/// The first so many characters.
pub(crate) fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

/// RFC 3339 in UTC, to the second.
pub(crate) fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A request body whose last member is an open array: `head`, the payloads, `]}`. They are JSON already and not parsed again.
pub(crate) fn body_of<'a>(head: &[u8], payloads: impl Iterator<Item = &'a [u8]> + Clone) -> Vec<u8> {
    let size: usize = payloads.clone().map(|payload| payload.len() + 1).sum();
    let mut body = Vec::with_capacity(head.len() + size + 2);
    body.extend_from_slice(head);
    for (i, payload) in payloads.enumerate() {
        if i > 0 {
            body.push(b',');
        }
        body.extend_from_slice(payload);
    }
    body.extend_from_slice(b"]}");
    body
}

/// Names a destination in stored keys: the product's short name and a hash of what tells it from others.
pub(crate) fn fingerprint(product: &str, parts: &[&str]) -> String {
    let hash = digest::digest(&digest::SHA256, parts.join("\n").as_bytes());
    format!("{product}-{}", hex::digits(&hash.as_ref()[..8]))
}

/// A refusal that says that the tenant holds no more indicators, which is no matter of the item.
///
/// No page says with which words; a limit of a field, a batch or a rate is another matter.
pub(crate) fn says_full(text: &str) -> bool {
    const OF_MANY: [&str; 8] = [
        "15000",
        "per tenant",
        "number of indicators",
        "active indicators",
        "number of active",
        "indicators limit",
        "too many indicators",
        "capacity",
    ];
    const ENDED: [&str; 8] = ["max", "limit", "capacity", "quota", "exceed", "reached", "full", "too many"];
    const OF_ANOTHER: [&str; 6] = ["length", "character", "batch", "rate limit", "per call", "per request"];
    let text = text.to_lowercase().replace([',', '\'', '’'], "");
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    has(&OF_MANY) && has(&ENDED) && !has(&OF_ANOTHER)
}

/// Rounds in which no two items have the same name: a target that answers by name could not tell them apart.
pub(crate) fn rounds<T>(items: &[T], name: impl Fn(&T) -> String) -> Vec<Vec<usize>> {
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        let times = seen.entry(name(item)).or_default();
        if rounds.len() == *times {
            rounds.push(Vec::new());
        }
        rounds[*times].push(i);
        *times += 1;
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indicator::{Confidence, KillChainPhase, NetworkUse, ThreatAssessScore, ThreatRating};
    use crate::platform::http::{Authorize, Authorized};

    /// Signs nothing.
    #[derive(Debug)]
    pub(in crate::sinks) struct Nobody;

    impl Authorize for Nobody {
        fn headers<'a>(&'a self, _: &'a reqwest::Method, _: &'a str) -> BoxFuture<'a, Authorized> {
            Box::pin(async { Ok(Vec::new()) })
        }
        fn renew(&self) -> bool {
            false
        }
    }

    pub(in crate::sinks) fn terms(action: ActionToTake) -> Terms {
        Terms {
            default_tlp: Tlp::Green,
            action,
            expiration_days: ExpirationDays { email: 30, file: 90, network: 7 },
            kinds: Kind::ALL.to_vec(),
            never_send: NeverSend::default(),
            allow_private_addresses: false,
        }
    }

    /// One with all context that there can be.
    pub(in crate::sinks) fn indicator() -> Indicator {
        Indicator {
            id: 1001,
            owner_id: 1,
            owner: "Acme Org".to_owned(),
            type_name: "Address".to_owned(),
            summary: "203.0.113.10".to_owned(),
            values: Vec::new(),
            active: true,
            date_added: "2023-11-10T07:15:00Z".parse().expect("a time"),
            last_modified: "2023-11-20T18:00:00Z".parse().expect("a time"),
            rating: ThreatRating::from_f64(3.5),
            confidence: Confidence::new(85),
            score: ThreatAssessScore::new(721),
            false_positives: Some(0),
            last_seen: "2026-11-20T08:00:00Z".parse().ok(),
            tags: vec!["APT29".to_owned(), "C2".to_owned(), "APT29".to_owned()],
            tlp: Some(Tlp::AmberStrict),
            phases: vec![KillChainPhase::Delivery, KillChainPhase::Actions],
            network: NetworkUse::read(&["TCP/443"]),
            web_link: Some("https://example.threatconnect.com/#/details/indicators/1001".to_owned()),
            xid: None,
        }
    }

    /// The same without any context.
    pub(in crate::sinks) fn bare(full: Indicator) -> Indicator {
        Indicator {
            rating: None,
            confidence: None,
            score: None,
            false_positives: None,
            last_seen: None,
            tags: Vec::new(),
            tlp: None,
            phases: Vec::new(),
            network: None,
            web_link: None,
            ..full
        }
    }

    #[test]
    fn every_private_range_is_one() {
        assert!(PRIVATE.iter().all(|range| range.parse::<IpNet>().is_ok()));
    }

    #[test]
    fn private_addresses_are_not_blocked_but_may_raise_alerts() {
        let screened = |kind, value: &str, action| screen(&Observable::parse(kind, value).expect("a value"), &terms(action));
        assert_eq!(screened(Kind::Address, "10.1.2.3", ActionToTake::Block), Err(Skip::PrivateAddress));
        assert_eq!(screened(Kind::Address, "fe80::1", ActionToTake::Block), Err(Skip::PrivateAddress));
        assert_eq!(screened(Kind::Cidr, "0.0.0.0/0", ActionToTake::Block), Err(Skip::PrivateAddress));
        assert_eq!(screened(Kind::Address, "::ffff:192.168.0.1", ActionToTake::Block), Err(Skip::PrivateAddress));
        assert_eq!(screened(Kind::Cidr, "::ffff:169.254.0.0/112", ActionToTake::Block), Err(Skip::PrivateAddress));
        assert_eq!(screened(Kind::Address, "::ffff:203.0.113.9", ActionToTake::Block), Ok(()));
        assert_eq!(screened(Kind::Address, "203.0.113.9", ActionToTake::Block), Ok(()));
        assert_eq!(screened(Kind::Address, "10.1.2.3", ActionToTake::Alert), Ok(()));
    }

    #[test]
    fn the_guides_tables_are_the_guides() {
        let rendered: Vec<String> = guide::GUIDE.iter().map(|row| format!("{} → {}", row.field, row.graph)).collect();
        assert_eq!(
            rendered.join("; "),
            "Confidence → confidence; \"ThreatConnect | Owner: {Owner}\" → description; XID → externalId; Attribute: \"Phase of Intrusion\" → killChain; False Positive Count → knownFalsePositives; Attribute: \"Last Seen\" → lastReportedDateTime; Threat Rating → severity; Tags → tags; Security Label → tlpLevel; \"Watchlist\" → threatType; Weblink → additionalInformation; Indicator: Email Address → emailSenderAddress; Indicator: Email Subject → emailSubject; Indicator: Host → domainName; Indicator: CIDR → networkCidrBlock; Indicator: Address → networkIPv4; Attribute: \"Network Protocol Analysis\" → networkPort; Attribute: \"Network Protocol Analysis\" → networkProtocol; Indicator: URL → url; Indicator: User Agent → userAgent; File Hash Type → fileHashType; Indicator: File → fileHashValue"
        );
    }
}
