//! One notification in the shape in which it waits in a queue, whoever made it: Microsoft Graph, or a poll of ours.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The queue that is worked off first.
pub const URGENT_QUEUE: &str = "notifications-urgent";
/// All else.
pub const QUEUE: &str = "notifications";

/// Who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Delivered by Microsoft Graph: to be proven.
    Graph,
    /// Found by our own poll of what cannot be subscribed to.
    Poll,
    /// Found by our own look at what may have been missed.
    CatchUp,
}

/// A change of a resource, as subscriptions name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChangeType {
    Created,
    Updated,
    Deleted,
}

/// What happens to a subscription (vendor page "Reduce missing subscriptions and change notifications").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LifecycleEvent {
    ReauthorizationRequired,
    SubscriptionRemoved,
    Missed,
}

/// A notification is about one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Change(ChangeType),
    Lifecycle(LifecycleEvent),
}

impl ChangeType {
    pub const ALL: [Self; 3] = [Self::Created, Self::Updated, Self::Deleted];

    /// As Microsoft Graph writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }

    /// Without regard to case, as samples of the vendor vary in it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(text.trim()))
    }
}

impl LifecycleEvent {
    pub const ALL: [Self; 3] = [Self::ReauthorizationRequired, Self::SubscriptionRemoved, Self::Missed];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReauthorizationRequired => "reauthorizationRequired",
            Self::SubscriptionRemoved => "subscriptionRemoved",
            Self::Missed => "missed",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(text.trim()))
    }
}

/// The ciphertext of a resource with all that is needed to open it (vendor page "Set up Microsoft Graph change notifications
/// with resource data"); binary members in base64, as they came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptedContent {
    pub data: String,
    pub data_key: String,
    /// HMAC-SHA-256 over the bytes of `data`. None is a reason to refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_signature: Option<String>,
    /// The label that the subscription gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_thumbprint: Option<String>,
}

/// One notification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub origin: Origin,
    /// When we got it, on our clock.
    pub received: Timestamp,
    pub event: Event,
    /// Id of the subscription, as it came; blank for a poll.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subscription: String,
    /// The subscription group that a proven client state names; none while it was not checked, and for polls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kept only while it could not be checked. Never shown, never handed to a playbook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_state: Option<String>,
    /// `tenantId`, else `organizationId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// As it came; not to be trusted as an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Members under their documented names, without client state, ciphertext and tokens: what playbooks see as `notification`.
    pub notification: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<EncryptedContent>,
    /// Tokens of the delivery, where the item is encrypted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<String>,
    /// The object itself, where the producer has it: a poll does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Value>,
    /// When the read began that found the object, where that was after the receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Timestamp>,
}

impl Item {
    /// Of which nothing else is known yet.
    #[must_use]
    pub fn new(origin: Origin, received: Timestamp, event: Event) -> Self {
        Self {
            origin,
            received,
            event,
            subscription: String::new(),
            group: None,
            client_state: None,
            tenant: None,
            resource: None,
            notification: Map::new(),
            encrypted: None,
            tokens: Vec::new(),
            object: None,
            read: None,
        }
    }

    /// `resourceData`, unless it is null or no object.
    #[must_use]
    pub fn resource_data(&self) -> Option<&Map<String, Value>> {
        self.notification.get("resourceData")?.as_object()
    }

    /// The id of the resource: `resourceData.id`.
    #[must_use]
    pub fn resource_id(&self) -> Option<&str> {
        self.resource_data()?.get("id")?.as_str()
    }

    /// The path by which it names the resource: `resourceData.@odata.id`, else `resource`. Not to be trusted as an address.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        let own = self.resource_data().and_then(|data| data.get("@odata.id")).and_then(Value::as_str);
        own.filter(|own| !own.is_empty()).or(self.resource.as_deref())
    }
}

/// What waits in a queue: one item with what was done about it, or the items of a large delivery, to be split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    Item(Box<Task>),
    /// More items than one request can put one by one in time.
    Batch(Vec<Item>),
}

/// One item on its way through the playbooks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub item: Item,
    /// How often it was tried before; neither the host's own tries are counted nor looks.
    #[serde(default)]
    pub attempt: u32,
    /// How often its object was looked for, and was not there (yet).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub looks: u32,
    /// None: all playbooks that match. Else the one that is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playbook: Option<String>,
    /// Keys of the actions that are done; those that were refused stand here too, as `!{key} {reason}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<String>,
    /// Playbooks that have had it, where all others are asked: it was set aside while some could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub had: Vec<String>,
}

impl Task {
    #[must_use]
    pub fn first(item: Item) -> Self {
        Self { item, attempt: 0, looks: 0, playbook: None, done: Vec::new(), had: Vec::new() }
    }

    /// Of two copies of one run, the later one has more.
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.attempt.saturating_add(self.looks)
    }
}

impl Work {
    #[must_use]
    pub fn first(item: Item) -> Self {
        Self::Item(Box::new(Task::first(item)))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
