//! Which address is read for an item: built from what the subscription is made on and an id, never taken over. Pure.
//!
//! A notification is text from outside. Nothing in it chooses a host, leaves the subscription's resource, or is decoded twice.

use std::iter;

use percent_encoding::utf8_percent_encode;

use crate::notifications::item::Item;
use crate::notifications::resources::{Resource, fixed, pattern_of, segments};
use crate::platform::http::ENCODED;

/// Ids are shorter; a longer one is no id.
const LONGEST_SEGMENT: usize = 1_024;
/// Resources are not nested deeper.
const MOST_SEGMENTS: usize = 16;

/// Members of an object that changed by which we see which one it is, its state, whether it is gone and whether it is news (vendor
/// pages "driveItem resource type" and "listItem resource type": both have them all).
const TOLD_BY: [&str; 5] = ["id", "eTag", "createdDateTime", "lastModifiedDateTime", "deleted"];

/// Why nothing is read: one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(&'static str);

const NO_ID: Refused = Refused("the notification names no object that could be read");
const OUTSIDE: Refused = Refused("the notification names an object outside the subscription's resource");
const UNSAFE: Refused = Refused("the notification names an address that may not be read");

impl Refused {
    /// It says so much that nobody should act on it unseen.
    pub(super) fn is_unsafe(&self) -> bool {
        *self == UNSAFE
    }
}

/// The path of the item's object, beginning with `/`, each segment percent-encoded once. `subscribed`: what the subscription is made
/// on.
pub(super) fn of_object(subscribed: &str, item: &Item, select: Option<&str>) -> Result<String, Refused> {
    let root = checked(subscribed)?;
    let words: Vec<String> = root.iter().map(|segment| segment.to_ascii_lowercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let path = match words.as_slice() {
        // One user, group, chat, team, presence: the subscription names it.
        [collection, one] if names_one(collection) && !one.starts_with("getall") => root,
        ["groups", _, "members" | "owners"] => root[..2].to_vec(),
        ["communications", "presences", _] => root,
        // A message is read where the mailbox has it, whatever folder it is in now.
        ["users", _, "mailfolders", _, "messages"] => {
            vec![root[0].clone(), root[1].clone(), root[4].clone(), id(&root, item)?]
        }
        // What lies below several parents can be found by its whole path only.
        ["chats" | "teams", ..] => below(&root, item)?,
        _ if fixed(&root).len() < root.len() => below(&root, item)?,
        _ => with_id(root, item)?,
    };
    Ok(with_select(&encoded(&path), select))
}

/// The path of what changed below a root. Whatever a playbook selects, what is found is told apart by [`TOLD_BY`].
pub(super) fn of_delta(subscribed: &str, select: Option<&str>) -> Result<String, Refused> {
    let root = checked(subscribed)?;
    let list = root.first().is_some_and(|first| first.eq_ignore_ascii_case("sites"));
    let select = select.map(|select| {
        let named = |member: &&str| select.split(',').any(|name| name.eq_ignore_ascii_case(member));
        let missing = TOLD_BY.into_iter().filter(|member| !named(member));
        iter::once(select).chain(missing).collect::<Vec<_>>().join(",")
    });
    let path = format!("{}{}", encoded(&root), if list { "/items/delta" } else { "/delta" });
    Ok(with_select(&path, select.as_deref()))
}

fn names_one(collection: &str) -> bool {
    matches!(collection, "users" | "groups" | "chats" | "teams")
}

fn with_id(mut root: Vec<String>, item: &Item) -> Result<Vec<String>, Refused> {
    // The id of a virtual event or a meeting is its whole path. Those of Exchange hold a slash too, and are none.
    let begins = |(first, _): (&str, &str)| root.first().is_some_and(|own| own.eq_ignore_ascii_case(first));
    if let Some(id) = item.resource_id().filter(|id| id.split_once('/').is_some_and(begins)) {
        return by_path(&root, id);
    }
    let id = id(&root, item)?;
    // `security/alerts/{id}` names it already.
    if root.last() != Some(&id) {
        root.push(id);
    }
    Ok(root)
}

fn by_path(root: &[String], id: &str) -> Result<Vec<String>, Refused> {
    let path = checked(id)?;
    match is_told_of(root, &path) {
        // What is found by a query alone cannot be read.
        _ if id.contains(['?', '#']) => Err(NO_ID),
        true => Ok(path),
        false => Err(OUTSIDE),
    }
}

/// Whether a subscription to `root` tells of objects at `path`: of its kind, and of no other parent. A user has several names, of
/// which only two GUIDs are surely not those of one.
fn is_told_of(root: &[String], path: &[String]) -> bool {
    let Some(kind) = Resource::of(&root.join("/")) else { return false };
    let Some(pattern) = pattern_of(kind, root) else { return false };
    let differ = |word: &str, one: &str, other: &str| {
        let guids = || uuid::Uuid::parse_str(one).is_ok() && uuid::Uuid::parse_str(other).is_ok();
        !one.eq_ignore_ascii_case(other) && (!word.eq_ignore_ascii_case("users") || guids())
    };
    let parents = root.windows(2).zip(pattern.split('/').skip(1)).filter(|(_, word)| *word == "{}").map(|(pair, _)| pair);
    let mut pairs = parents.flat_map(|own| path.windows(2).map(move |given| (own, given)));
    Resource::of_object(&path.join("/")).is_some_and(|object| object.name == kind.name)
        && !pairs.any(|(own, given)| own[0].eq_ignore_ascii_case(&given[0]) && differ(&own[0], &own[1], &given[1]))
}

fn id(root: &[String], item: &Item) -> Result<String, Refused> {
    match item.resource_id().filter(|id| !id.trim().is_empty()) {
        Some(id) if is_safe(id) => Ok(id.to_owned()),
        Some(_) => Err(UNSAFE),
        None => id_in_path(root, item.path().ok_or(NO_ID)?),
    }
}

/// The id at the end of a path that the subscription tells of. What is above it is never taken over.
fn id_in_path(root: &[String], path: &str) -> Result<String, Refused> {
    let named = checked(path)?;
    let pattern = Resource::of(&root.join("/")).and_then(|kind| pattern_of(kind, root));
    let (own, is_ours) = match pattern {
        Some(pattern) if pattern.ends_with("{}") => (&root[..root.len() - 1], is_told_of(root, &named)),
        Some(_) => (root, is_told_of(root, &named)),
        None => {
            let same = |(own, given): (&String, &String)| own.eq_ignore_ascii_case(given);
            (root, named.len() <= root.len() + 1 && root.iter().zip(&named).all(same))
        }
    };
    match named.as_slice() {
        _ if !is_ours => Err(OUTSIDE),
        [.., above, id] if own.last().is_some_and(|own| own.eq_ignore_ascii_case(above)) && !path.contains(['?', '#']) => {
            Ok(id.clone())
        }
        _ => Err(NO_ID),
    }
}

/// The object by its own path, if that leads below the subscription's root.
fn below(root: &[String], item: &Item) -> Result<Vec<String>, Refused> {
    let whole = fixed(root);
    // An id alone says nothing of its parent.
    let alone = || if whole.len() < root.len() { Err(NO_ID) } else { with_id(root.to_vec(), item) };
    let Some(named) = item.path() else { return alone() };
    let path = checked(named)?;
    // `users/{id}/chats/getAllMessages` tells of `chats/{id}/…`: of the root's last collection, if not of the root itself.
    let last = whole.last().filter(|_| whole.len() < root.len());
    let fits = |prefix: &[String]| {
        !prefix.is_empty() && path.len() > prefix.len() && prefix.iter().zip(&path).all(|(a, b)| a.eq_ignore_ascii_case(b))
    };
    if fits(whole) || last.is_some_and(|last| fits(std::slice::from_ref(last))) {
        return Ok(path);
    }
    // `users/{id}/onlineMeetings/getAllTranscripts` tells of `communications/onlineMeetings/{id}/…`, which is read below the user.
    let at = last.and_then(|last| path.iter().position(|word| word.eq_ignore_ascii_case(last)));
    let own = at.map(|at| [whole, &path[at + 1..]].concat());
    own.filter(|own| is_told_of(root, &path) && is_told_of(root, own)).ok_or(OUTSIDE)
}

/// The segments of a relative path, if nothing in it could lead elsewhere.
fn checked(path: &str) -> Result<Vec<String>, Refused> {
    let relative = path.strip_prefix('/').unwrap_or(path);
    let bare = relative.split(['?', '#']).next().unwrap_or_default();
    if bare.contains("//") || bare.contains("://") || bare.starts_with('/') || bare.contains('\\') {
        return Err(UNSAFE);
    }
    let found = segments(bare);
    if found.is_empty() || found.len() > MOST_SEGMENTS || !found.iter().all(|segment| is_safe(segment)) {
        return Err(UNSAFE);
    }
    Ok(found)
}

/// May be one segment once it is encoded. What is encoded already would be decoded into something else by whoever decodes twice.
fn is_safe(segment: &str) -> bool {
    let decoded_elsewhere = ["%2e", "%2f", "%5c", "%00", "%25"];
    let lower = segment.to_ascii_lowercase();
    !segment.trim().is_empty()
        && segment.len() <= LONGEST_SEGMENT
        && segment != "."
        && !segment.contains("..")
        && !segment.contains("://")
        && !segment.chars().any(char::is_control)
        && !decoded_elsewhere.iter().any(|code| lower.contains(code))
}

fn encoded(path: &[String]) -> String {
    let segments: Vec<String> = path.iter().map(|segment| utf8_percent_encode(segment, ENCODED).to_string()).collect();
    format!("/{}", segments.join("/"))
}

fn with_select(path: &str, select: Option<&str>) -> String {
    match select {
        None => path.to_owned(),
        Some(select) => format!("{path}?$select={}", utf8_percent_encode(select, ENCODED)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::notifications::item::{ChangeType, Event, Origin};

    fn item(data: &Value) -> Item {
        let Value::Object(notification) = json!({ "resourceData": data }) else { unreachable!("an object") };
        let received = "2026-11-24T09:00:00Z".parse().expect("a time");
        Item { notification, ..Item::new(Origin::Graph, received, Event::Change(ChangeType::Updated)) }
    }

    fn path(subscribed: &str, data: &Value) -> Result<String, Refused> {
        of_object(subscribed, &item(data), None)
    }

    #[test]
    fn an_object_is_read_below_what_the_subscription_is_made_on() {
        let with_id = |subscribed: &str, id: &str| path(subscribed, &json!({ "id": id })).expect("a path");
        assert_eq!(with_id("users", "3f6c"), "/users/3f6c");
        assert_eq!(with_id("/users/3f6c?$select=id", "3f6c"), "/users/3f6c");
        assert_eq!(with_id("groups/g/members", "g"), "/groups/g");
        assert_eq!(with_id("users('u@x.example')/messages", "AB/c+="), "/users/u%40x.example/messages/AB%2Fc%2B%3D");
        assert_eq!(with_id("users/u/mailFolders('inbox')/messages?$filter=isRead eq false", "AB"), "/users/u/messages/AB");
        assert_eq!(with_id("communications/callRecords", "c"), "/communications/callRecords/c");
        assert_eq!(with_id("security/alerts?$filter=x", "a"), "/security/alerts/a");
        assert_eq!(with_id("security/alerts/a", "a"), "/security/alerts/a");
        assert_eq!(of_delta("users/u/drive/root", None).expect("a path"), "/users/u/drive/root/delta");
        assert_eq!(of_delta("sites/s,1,2/lists/l", None).expect("a path"), "/sites/s%2C1%2C2/lists/l/items/delta");
        let chosen = of_delta("drives/d/root", Some("name,etag,deleted")).expect("a path");
        let added = "id%2CcreatedDateTime%2ClastModifiedDateTime";
        assert_eq!(chosen, format!("/drives/d/root/delta?$select=name%2Cetag%2Cdeleted%2C{added}"), "what we need, and once");
        let chosen = of_object("users", &item(&json!({"id": "u"})), Some("id,mail"));
        assert_eq!(chosen.expect("a path"), "/users/u?$select=id%2Cmail");
    }

    /// What is read where `resource` and `resourceData` are these.
    fn named(subscribed: &str, resource: &str, data: &Value) -> Result<String, Refused> {
        of_object(subscribed, &Item { resource: Some(resource.to_owned()), ..item(data) }, None)
    }

    #[test]
    fn an_object_without_an_id_is_read_by_the_id_in_its_path() {
        for (subscribed, resource, data, expected) in [
            ("groups", "groups/G1", Value::Null, Ok("/groups/G1")),
            ("groups", "/Groups('G1')", json!({}), Ok("/groups/G1")),
            ("groups", "groups", json!({"@odata.id": "Groups/G1"}), Ok("/groups/G1")),
            ("groups", "groups/G1", json!({"@odata.id": "", "id": ""}), Ok("/groups/G1")),
            ("groups", "groups/7", json!({"id": 7}), Ok("/groups/7")),
            ("users/u/messages", "Users('x')/Messages('AB=')", Value::Null, Ok("/users/u/messages/AB%3D")),
            ("users/u/mailFolders/f/messages", "Users/x/Messages/AB", Value::Null, Ok("/users/u/messages/AB")),
            ("security/alerts/a", "security/alerts/a", Value::Null, Ok("/security/alerts/a")),
            ("books/b/pages", "Books/b/pages/1", Value::Null, Ok("/books/b/pages/1")),
            ("groups", "groups", Value::Null, Err(NO_ID)),
            ("groups", "groups/G1/members", Value::Null, Err(NO_ID)),
            ("groups", "groups/G1?$expand=members", Value::Null, Err(NO_ID)),
            ("users/u/messages", "users/u/messages", Value::Null, Err(NO_ID)),
            ("books/b/pages", "books/b/pages", json!({"id": 7}), Err(NO_ID)),
            ("groups", "users/G1", Value::Null, Err(OUTSIDE)),
            ("security/alerts/a", "security/alerts/b", Value::Null, Err(OUTSIDE)),
            ("users/u/messages", "users/u/events/AB", Value::Null, Err(OUTSIDE)),
            ("books/b/pages", "books/c/pages/1", Value::Null, Err(OUTSIDE)),
            ("books/b/pages", "books/b/pages/1/notes/2", Value::Null, Err(OUTSIDE)),
        ] {
            assert_eq!(
                named(subscribed, resource, &data).as_deref(),
                expected.as_ref().copied(),
                "{subscribed}: {resource} {data}"
            );
        }
        for resource in
            ["groups/../users/u", "groups/%2e%2e", "groups/a\r\nHost: evil", "https://evil.example/groups/G1", "groups//G1"]
        {
            assert_eq!(named("groups", resource, &Value::Null), Err(UNSAFE), "{resource}");
        }
        assert_eq!(named("groups", "groups/G1", &json!({"id": "../users/u"})), Err(UNSAFE), "whatever else it says");
    }

    #[test]
    fn what_has_several_parents_is_read_by_its_own_path() {
        let named = |subscribed: &str, id: &str| path(subscribed, &json!({ "@odata.id": id, "id": "x" }));
        assert_eq!(
            named("chats/getAllMessages", "chats('19:a@thread.v2')/messages('160')").expect("a path"),
            "/chats/19%3Aa%40thread.v2/messages/160"
        );
        assert_eq!(
            named("teams/t/channels/c/messages", "teams('t')/channels('c')/messages('1')/replies('2')").expect("a path"),
            "/teams/t/channels/c/messages/1/replies/2"
        );
        assert_eq!(named("users/u/chats/getAllMessages", "chats('1')/messages('2')").expect("a path"), "/chats/1/messages/2");
        assert_eq!(named("teams/t/channels/c/messages", "teams('other')/channels('c')/messages('1')"), Err(OUTSIDE));
        assert_eq!(named("chats/getAllMessages", "users('u')"), Err(OUTSIDE));
        assert_eq!(named("teams/t/channels", "teams"), Err(OUTSIDE));
    }

    /// The subscription's resource, a body's `@odata.id` and `id` as the vendor pages "Get change notifications for …" show them, and
    /// what is read.
    type Body<'a> = (&'a str, &'a str, &'a str, Result<&'a str, Refused>);

    fn are_read(bodies: &[Body<'_>]) {
        for (subscribed, named, id, expected) in bodies {
            let read = path(subscribed, &json!({ "@odata.id": named, "id": id }));
            assert_eq!(read.as_deref(), expected.as_ref().copied(), "{subscribed}: {named}");
        }
    }

    #[test]
    fn what_a_subscription_to_many_tells_of_is_read_where_it_is() {
        const TRANSCRIPT: &str = "communications/onlineMeetings('MSo5NzZm')/transcripts('MSMjMCMj')";
        are_read(&[
            (
                "communications/onlineMeetings/getAllTranscripts",
                TRANSCRIPT,
                "MSMjMCMj",
                Ok("/communications/onlineMeetings/MSo5NzZm/transcripts/MSMjMCMj"),
            ),
            (
                "communications/onlineMeetings/MSo5NzZm/transcripts",
                TRANSCRIPT,
                "MSMjMCMj",
                Ok("/communications/onlineMeetings/MSo5NzZm/transcripts/MSMjMCMj"),
            ),
            (
                "users/jane@a.example/onlineMeetings/getAllTranscripts",
                TRANSCRIPT,
                "MSMjMCMj",
                Ok("/users/jane%40a.example/onlineMeetings/MSo5NzZm/transcripts/MSMjMCMj"),
            ),
            (
                "users/u/onlineMeetings/getAllRecordings",
                "communications/onlineMeetings('m')/recordings('r=')",
                "r=",
                Ok("/users/u/onlineMeetings/m/recordings/r%3D"),
            ),
            ("users/u/onlineMeetings/getAllRecordings", TRANSCRIPT, "MSMjMCMj", Err(OUTSIDE)),
            (
                "copilot/interactionHistory/getAllEnterpriseInteractions",
                "copilot/interactionHistory/interactions('1731')",
                "1731",
                Ok("/copilot/interactionHistory/interactions/1731"),
            ),
            (
                "copilot/users/u/interactionHistory/getAllEnterpriseInteractions",
                "copilot/interactionHistory/interactions('1731')",
                "1731",
                Ok("/copilot/users/u/interactionHistory/interactions/1731"),
            ),
            (
                "copilot/users/3f6c0000-0000-4000-8000-00000000000a/interactionHistory/getAllEnterpriseInteractions",
                "copilot/users('3f6c0000-0000-4000-8000-00000000000b')/interactionHistory/interactions('1731')",
                "1731",
                Err(OUTSIDE),
            ),
            ("teams/getAllMembers", "teams('t')/members('ZWUw=')", "ZWUw=", Ok("/teams/t/members/ZWUw%3D")),
            (
                "teams/t/channels/getAllMembers",
                "teams('t')/channels('c')/members('ZWUw=')",
                "ZWUw=",
                Ok("/teams/t/channels/c/members/ZWUw%3D"),
            ),
            ("teams/t/channels/getAllMembers", "teams('o')/channels('c')/members('ZWUw=')", "ZWUw=", Err(OUTSIDE)),
        ]);
    }

    #[test]
    fn an_id_that_is_a_path_is_read_as_one() {
        const WEBINAR: &str = "solutions/virtualEvents/webinars/w1/";
        const SESSION: &str = "solutions/virtualEvents/webinars/w1/sessions/s1";
        const MEETING: &str =
            "communications/onlineMeetings?$filter=joinWebUrl+eq+'https%3A%2F%2Fteams.example%2Fl%2Fmeetup-join'";
        are_read(&[
            ("solutions/virtualEvents/events", WEBINAR, WEBINAR, Ok("/solutions/virtualEvents/webinars/w1")),
            (
                "solutions/virtualEvents/events/getEventsFromOrganizers(organizerIds=['a', 'b'])",
                WEBINAR,
                WEBINAR,
                Ok("/solutions/virtualEvents/webinars/w1"),
            ),
            ("solutions/virtualEvents/webinars/w1", WEBINAR, WEBINAR, Ok("/solutions/virtualEvents/webinars/w1")),
            (
                "solutions/virtualEvents/webinars/w1/sessions",
                SESSION,
                SESSION,
                Ok("/solutions/virtualEvents/webinars/w1/sessions/s1"),
            ),
            ("solutions/virtualEvents/webinars/w2/sessions", SESSION, SESSION, Err(OUTSIDE)),
            ("solutions/virtualEvents/webinars/w1/registrations", SESSION, SESSION, Err(OUTSIDE)),
            ("communications/onlineMeetings?$filter=JoinWebUrl eq 'https://teams.example/l'", MEETING, MEETING, Err(NO_ID)),
            ("communications/callRecords", "communications/callRecords/c", "c", Ok("/communications/callRecords/c")),
            (
                "users/u/contactFolders/f/contacts",
                "Users/u/Contacts/AAMk=",
                "AAMk=",
                Ok("/users/u/contactFolders/f/contacts/AAMk%3D"),
            ),
        ]);
    }

    #[test]
    fn an_id_that_is_a_path_leads_no_further_than_an_id() {
        for id in [
            "solutions/virtualEvents/../../users/u",
            "solutions/virtualEvents/webinars/%2e%2e",
            "solutions/virtualEvents/webinars",
            "solutions/virtualEvents/webinars/w1/sessions/s1",
            "solutions//virtualEvents/webinars/w1",
            "solutions/virtualEvents/webinars/w1?$expand=sessions",
            "solutions/virtualEvents/webinars/w1#",
            "Solutions/approval/approvalItems/a",
        ] {
            assert!(path("solutions/virtualEvents/events", &json!({ "id": id })).is_err(), "{id}");
        }
        let opaque = path("solutions/virtualEvents/events", &json!({ "id": "users/u" }));
        assert_eq!(opaque.as_deref(), Ok("/solutions/virtualEvents/events/users%2Fu"), "one segment, as an id of Exchange");
    }

    #[test]
    fn nothing_leads_elsewhere() {
        let hostile = [
            "https://evil.example/users/u",
            "//evil.example/users",
            "chats//messages",
            "chats/../users/u",
            "chats/..%2fusers",
            "chats/%2e%2e/users",
            "chats\\..\\users",
            "chats/a\r\nHost: evil",
            "chats/a\u{0}",
            "",
            "/",
        ];
        for named in hostile {
            let refused = path("chats/getAllMessages", &json!({ "@odata.id": named, "id": "x" }));
            assert!(refused.is_err(), "{named}: {refused:?}");
        }
        for id in ["..", ".", "", " ", "a\nb", "%2e%2e", "..%2f..", "https://evil.example/users/u"] {
            assert!(path("users", &json!({ "id": id })).is_err(), "{id}");
        }
        assert_eq!(path("users", &Value::Null), Err(NO_ID));
    }

    proptest! {
        /// Whatever a notification says, what is read stays below the root, and its segments stay segments.
        #[test]
        fn no_text_escapes(id in "\\PC{0,40}", named in "[a-z./%\\\\:?#'()@ ]{0,40}", root in prop::sample::select(vec!["users", "chats/getAllMessages", "users/u/messages"])) {
            if let Ok(path) = path(root, &json!({ "id": id, "@odata.id": named })) {
                let prefix = format!("/{}", root.trim_end_matches("/getAllMessages"));
                prop_assert!(path.starts_with(&prefix), "{path}");
                prop_assert!(!path.contains("//") && !path.contains("..") && !path.contains('?') && !path.contains('#'), "{path}");
                let base = url::Url::parse("https://graph.microsoft.com/v1.0").expect("an address");
                let mut url = base;
                url.set_path(&format!("/v1.0{path}"));
                prop_assert_eq!(url.path(), format!("/v1.0{path}"), "nothing is left to be normalised");
            }
        }
    }
}
