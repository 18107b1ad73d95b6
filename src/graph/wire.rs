//! The JSON of subscriptions and pages, as Graph writes it.
//!
//! Sources: vendor pages "subscription resource type", "Create subscription", "Update subscription", "Use delta query to
//! track changes". Members that nobody set are left out: Graph refuses some of them where they are null.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::platform::json;
use crate::platform::secret::Secret;

/// A subscription as Graph tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub id: String,
    pub resource: String,
    /// In lower case, sorted, separated by commas: `created,updated`.
    pub change_type: String,
    pub notification_url: String,
    pub lifecycle_url: Option<String>,
    pub expires: Timestamp,
    /// The changed object comes with the notification.
    pub rich: bool,
    /// Told, if at all, where one subscription is read by its id.
    pub client_state: Option<Secret>,
    /// The label of the certificate.
    pub certificate: Option<String>,
}

/// What a subscription is to be.
#[derive(Debug, Clone)]
pub struct NewSubscription {
    pub resource: String,
    /// As in [`Subscription`].
    pub change_type: String,
    pub notification_url: String,
    pub lifecycle_url: Option<String>,
    pub expires: Timestamp,
    pub client_state: Secret,
    /// Label, and the public certificate (DER in base64): the changed object is to come with the notification.
    pub certificate: Option<(String, String)>,
}

/// What an update changes.
#[derive(Debug, Clone)]
pub struct Renewal {
    pub expires: Timestamp,
    pub notification_url: Option<String>,
    /// Label and certificate, as in [`NewSubscription`].
    pub certificate: Option<(String, String)>,
}

impl NewSubscription {
    pub(super) fn body(&self) -> Bytes {
        let mut body = json!({
            "changeType": self.change_type,
            "notificationUrl": self.notification_url,
            "resource": self.resource,
            "expirationDateTime": self.expires.to_string(),
            "clientState": self.client_state.expose(),
        });
        if let Some(url) = &self.lifecycle_url {
            body["lifecycleNotificationUrl"] = json!(url);
        }
        if self.certificate.is_some() {
            body["includeResourceData"] = json!(true);
        }
        with_certificate(&mut body, self.certificate.as_ref());
        body.to_string().into()
    }
}

impl Renewal {
    pub(super) fn body(&self) -> Bytes {
        let mut body = json!({ "expirationDateTime": self.expires.to_string() });
        if let Some(url) = &self.notification_url {
            body["notificationUrl"] = json!(url);
        }
        with_certificate(&mut body, self.certificate.as_ref());
        body.to_string().into()
    }
}

fn with_certificate(body: &mut Value, certificate: Option<&(String, String)>) {
    if let Some((label, der)) = certificate {
        body["encryptionCertificateId"] = json!(label);
        body["encryptionCertificate"] = json!(der);
    }
}

pub(super) fn subscription(body: &[u8]) -> Option<Subscription> {
    subscription_of(&json::read(body).ok()?)
}

/// None without what every subscription has.
pub(super) fn subscription_of(value: &Value) -> Option<Subscription> {
    let object = value.as_object()?;
    let text = |name: &str| member(object, name)?.as_str().map(str::to_owned);
    let expires = text("expirationDateTime").as_deref().and_then(timestamp);
    Some(Subscription {
        id: text("id").filter(|id| !id.is_empty())?,
        resource: text("resource").unwrap_or_default(),
        change_type: sorted(&text("changeType").unwrap_or_default()),
        notification_url: text("notificationUrl").unwrap_or_default(),
        lifecycle_url: text("lifecycleNotificationUrl"),
        expires: expires?,
        rich: member(object, "includeResourceData").and_then(Value::as_bool).unwrap_or(false),
        client_state: text("clientState").map(|state| Secret::new(&state)),
        certificate: text("encryptionCertificateId"),
    })
}

/// Graph varies in the case of names.
fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

fn sorted(change_type: &str) -> String {
    let mut words: Vec<String> = change_type.split(',').map(|word| word.trim().to_ascii_lowercase()).collect();
    words.sort();
    words.join(",")
}

/// Items, the link to the next page, and the link to later changes.
pub(super) fn page(body: &[u8]) -> Option<(Vec<Value>, Option<String>, Option<String>)> {
    let Value::Object(mut object) = json::read(body).ok()? else { return None };
    let Some(Value::Array(items)) = object.remove("value") else { return None };
    let link = |name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
    Some((items, link("@odata.nextLink"), link("@odata.deltaLink")))
}

/// An instant as Graph writes it, with any offset and up to seven digits of a second.
#[must_use]
pub fn timestamp(text: &str) -> Option<Timestamp> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_read_however_it_is_spelled() {
        let read = subscription_of(&json!({
            "@odata.context": "…", "Id": "7d0c", "resource": "users", "changeType": "Updated, deleted",
            "notificationUrl": "https://relay.example/api/notifications", "lifecycleNotificationUrl": null,
            "expirationDateTime": "2026-12-01T10:00:00.1234567+02:00", "clientState": null, "includeResourceData": null,
        }));
        let read = read.expect("a subscription");
        assert_eq!((read.id.as_str(), read.change_type.as_str(), read.rich), ("7d0c", "deleted,updated", false));
        assert_eq!(read.expires, "2026-12-01T08:00:00.1234567Z".parse().expect("a time"));
        assert_eq!(subscription_of(&json!({ "resource": "users" })), None);
    }

    #[test]
    fn half_a_character_spoils_no_page() {
        let (items, _, _) = page(br#"{"value":[{"bodyPreview":"so nice \ud83d"}]}"#).expect("a page");
        assert_eq!(items, [json!({"bodyPreview": "so nice \u{fffd}"})]);
    }

    #[test]
    fn what_nobody_set_is_not_sent() {
        let new = NewSubscription {
            resource: "users".to_owned(),
            change_type: "updated".to_owned(),
            notification_url: "https://relay.example".to_owned(),
            lifecycle_url: None,
            expires: "2026-12-01T10:00:00Z".parse().expect("a time"),
            client_state: Secret::new("state"),
            certificate: None,
        };
        let sent: Value = serde_json::from_slice(&new.body()).expect("JSON");
        assert_eq!(
            sent,
            json!({
                "changeType": "updated", "notificationUrl": "https://relay.example", "resource": "users",
                "expirationDateTime": "2026-12-01T10:00:00Z", "clientState": "state",
            })
        );
    }
}
