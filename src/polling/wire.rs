//! Alerts and incidents as Microsoft Graph sends them, and the items that they become. Lenient: one that cannot be read spoils no other.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Source;
use crate::notifications::item::{ChangeType, Event, Item, Origin};
use crate::platform::json;

/// One page.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub found: Vec<Found>,
    /// The address of the next page.
    pub next: Option<String>,
    pub unreadable: usize,
}

/// An alert or incident.
#[derive(Debug)]
pub(super) struct Found {
    pub id: String,
    pub created: Option<Timestamp>,
    pub updated: Timestamp,
    /// As it came.
    pub updated_text: String,
    object: Value,
}

pub(super) fn decode(body: &[u8]) -> Result<Page, String> {
    let Ok(Value::Object(mut page)) = json::read(body) else { return Err("the answer is no JSON object".to_owned()) };
    let Some(Value::Array(rows)) = page.remove("value") else { return Err("the answer holds no list".to_owned()) };
    let next = page.get("@odata.nextLink").and_then(Value::as_str).map(str::to_owned);
    let mut decoded = Page { next, ..Page::default() };
    for row in rows {
        match found(row) {
            Some(found) => decoded.found.push(found),
            None => decoded.unreadable += 1,
        }
    }
    Ok(decoded)
}

fn found(object: Value) -> Option<Found> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let time = |name: &str| text(name).and_then(|text| text.parse::<Timestamp>().ok());
    let created = time("createdDateTime");
    let updated = time("lastUpdateDateTime").or(created)?;
    let updated_text = text("lastUpdateDateTime").or_else(|| text("createdDateTime"))?.to_owned();
    Some(Found { id: text("id")?.to_owned(), created, updated, updated_text, object })
}

impl Found {
    /// As a notification would look; `time` is what tells one change from the next.
    pub(super) fn item(&self, source: &Source, change: ChangeType, time: &str, received: Timestamp) -> Item {
        let path = source.resource.trim_start_matches('/').split('?').next().unwrap_or_default();
        let resource = format!("{path}/{}", self.id);
        let kind = if path.ends_with("incidents") { "incident" } else { "alert" };
        let data = json!({
            "@odata.type": format!("#microsoft.graph.security.{kind}"),
            "@odata.id": resource,
            "id": self.id,
            "eventTime": time,
        });
        let mut notification = Map::new();
        notification.insert("changeType".to_owned(), json!(change.name()));
        notification.insert("resource".to_owned(), json!(resource));
        if let Some(tenant) = &source.tenant {
            notification.insert("tenantId".to_owned(), json!(tenant));
        }
        notification.insert("resourceData".to_owned(), data);
        Item {
            group: source.group.clone(),
            tenant: source.tenant.clone(),
            resource: Some(resource),
            notification,
            object: Some(self.object.clone()),
            ..Item::new(Origin::Poll, received, Event::Change(change))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_character_spoils_no_page() {
        let body = br#"{"value":[{"id":"a","createdDateTime":"2026-06-01T00:00:00Z","description":"so nice \ud83d"}]}"#;
        let page = decode(body).expect("a page");
        assert_eq!((page.found.len(), page.unreadable), (1, 0));
        assert_eq!(page.found[0].object["description"], "so nice \u{fffd}");
    }
}
