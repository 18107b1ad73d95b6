//! What Microsoft Graph can tell of: one row for each kind of resource, with the longest life of a subscription, the changes
//! that may be asked for, and what the app must be permitted.
//!
//! Sources are the vendor pages "subscription resource type", "Create subscription" and "Set up notifications for changes in
//! resource data"; a row whose changes no page states has `None` there, and everything is let through with a warning.

use super::item::ChangeType::{self, Created, Deleted, Updated};

/// How an item gets its object before a playbook sees it, where the playbook does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// By its id.
    Resource,
    /// The notification names no object: what changed is asked for.
    Delta,
    /// The producer has it already, or there is nothing to read.
    None,
}

/// Whether the changed object itself can come with the notification, encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rich {
    Never,
    /// With the longest life of such a subscription, in minutes.
    Allowed(u32),
}

/// Who may subscribe: permissions of the app, or only of a signed-in user, which this product has none of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// To create, and to renew, list and reauthorize, where that needs more.
    App {
        create: &'static str,
        renew: &'static str,
    },
    DelegatedOnly(&'static str),
    /// No page says.
    Unknown,
}

/// One kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// For users: `message`.
    pub name: &'static str,
    /// Paths that can be subscribed to; `{}` stands for one segment. Compared without regard to case, and without `?query`.
    pub paths: &'static [&'static str],
    /// Paths under which notifications name its objects, beside those that can be subscribed to and an id below one of them
    /// (vendor pages "Get change notifications for …" of each kind).
    pub objects: &'static [&'static str],
    /// The longest life of a subscription, in minutes; none: it cannot be subscribed to, but polled.
    pub minutes: Option<u32>,
    /// Changes that may be asked for; none: no page says.
    pub changes: Option<&'static [ChangeType]>,
    pub rich: Rich,
    pub permission: Permission,
    pub fetch: Fetch,
    /// `missed` and `subscriptionRemoved` events come for it.
    pub tells_of_gaps: bool,
    /// What users should know.
    pub note: &'static str,
}

const ALL: Option<&[ChangeType]> = Some(&[Created, Updated, Deleted]);

const fn app(create: &'static str) -> Permission {
    Permission::App { create, renew: create }
}

/// A resource of Microsoft Teams, or like one.
const fn teams(name: &'static str, paths: &'static [&'static str], permission: &'static str) -> Resource {
    Resource {
        name,
        paths,
        objects: &[],
        minutes: Some(4_320),
        changes: None,
        rich: Rich::Allowed(4_320),
        permission: app(permission),
        fetch: Fetch::Resource,
        tells_of_gaps: false,
        note: "",
    }
}

/// A resource of Outlook.
const fn outlook(name: &'static str, paths: &'static [&'static str], permission: &'static str) -> Resource {
    Resource {
        name,
        paths,
        objects: &[],
        // The pages say 10,080; the service refuses more than 10,070.
        minutes: Some(10_070),
        changes: ALL,
        rich: Rich::Allowed(1_440),
        permission: app(permission),
        fetch: Fetch::Resource,
        tells_of_gaps: true,
        note: "`deleted` also tells that an item left the filter; with resource data, `$select` is needed",
    }
}

/// A resource of which no page states more than how long a subscription lives.
const fn other(name: &'static str, paths: &'static [&'static str], minutes: u32, permission: Permission) -> Resource {
    Resource {
        name,
        paths,
        objects: &[],
        minutes: Some(minutes),
        changes: None,
        rich: Rich::Never,
        permission,
        fetch: Fetch::Resource,
        tells_of_gaps: false,
        note: "",
    }
}

/// What a meeting or a talk with an assistant leaves behind.
const fn meetings(name: &'static str, paths: &'static [&'static str], objects: &'static [&'static str]) -> Resource {
    Resource { objects, rich: Rich::Allowed(4_320), ..other(name, paths, 4_320, Permission::Unknown) }
}

/// An event that Microsoft Teams holds for an audience (vendor page "Get change notifications for Microsoft Teams virtual event
/// updates").
const fn virtual_event(name: &'static str, paths: &'static [&'static str]) -> Resource {
    Resource { changes: Some(&[Created, Updated]), ..other(name, paths, 1_440, app("VirtualEvent.Read.All")) }
}

/// What is polled.
const fn polled(name: &'static str, paths: &'static [&'static str], permission: &'static str) -> Resource {
    Resource {
        name,
        paths,
        objects: &[],
        minutes: None,
        changes: Some(&[Created, Updated]),
        rich: Rich::Never,
        permission: app(permission),
        fetch: Fetch::None,
        tells_of_gaps: false,
        note: "no subscription can be made on it: `kind = \"poll\"`",
    }
}

/// Every kind that is known; where two rows fit a path, the first one holds.
pub const RESOURCES: &[Resource] = &[
    Resource {
        note: "retired by Microsoft on 2026-10-15: use `kind = \"poll\"` with `security/alerts_v2`",
        changes: Some(&[Updated]),
        ..other("security alert", &["security/alerts", "security/alerts/{}"], 43_200, app("SecurityEvents.ReadWrite.All"))
    },
    polled("security alert (v2)", &["security/alerts_v2"], "SecurityAlert.Read.All"),
    polled("security incident", &["security/incidents"], "SecurityIncident.Read.All"),
    Resource {
        changes: Some(&[Updated, Deleted]),
        note: "a new user is `updated`, and so is a soft deletion",
        ..other("user", &["users", "users/{}"], 41_760, app("User.Read.All"))
    },
    Resource {
        changes: Some(&[Updated, Deleted]),
        note: "a new group is `updated`, and so is a soft deletion",
        ..other("group", &["groups", "groups/{}", "groups/{}/members", "groups/{}/owners"], 41_760, app("Group.Read.All"))
    },
    outlook("message", &["users/{}/messages", "users/{}/mailFolders/{}/messages"], "Mail.Read"),
    outlook("event", &["users/{}/events"], "Calendars.Read"),
    outlook("contact", &["users/{}/contacts", "users/{}/contactFolders/{}/contacts"], "Contacts.Read"),
    Resource {
        changes: Some(&[Updated]),
        fetch: Fetch::Delta,
        note: "the root of a drive only; what changed is asked for",
        ..other(
            "driveItem",
            &["users/{}/drive/root", "drives/{}/root"],
            42_300,
            Permission::App { create: "Files.Read.All", renew: "Files.ReadWrite.All" },
        )
    },
    Resource {
        changes: Some(&[Updated]),
        fetch: Fetch::Delta,
        note: "what changed is asked for",
        ..other(
            "list",
            &["sites/{}/lists/{}"],
            42_300,
            Permission::App { create: "Sites.Read.All", renew: "Sites.ReadWrite.All" },
        )
    },
    Resource {
        changes: ALL,
        tells_of_gaps: true,
        objects: &["chats/{}/messages/{}"],
        ..teams("chatMessage", &["chats/{}/messages", "chats/getAllMessages", "users/{}/chats/getAllMessages"], "Chat.Read.All")
    },
    Resource {
        changes: ALL,
        tells_of_gaps: true,
        objects: &["teams/{}/channels/{}/messages/{}/replies/{}"],
        ..teams("channel message", &["teams/{}/channels/{}/messages", "teams/getAllMessages"], "ChannelMessage.Read.All")
    },
    teams("chat member", &["chats/{}/members", "chats/getAllMembers"], "ChatMember.Read.All"),
    teams("chat", &["chats", "chats/{}", "users/{}/chats"], "Chat.ReadBasic.All"),
    teams("channel", &["teams/{}/channels", "teams/getAllChannels"], "Channel.ReadBasic.All"),
    teams("team member", &["teams/{}/members", "teams/getAllMembers"], "TeamMember.Read.All"),
    teams(
        "channel member",
        &["teams/{}/channels/{}/members", "teams/{}/channels/getAllMembers", "teams/getAllChannels/getAllMembers"],
        "ChannelMember.Read.All",
    ),
    teams("team", &["teams", "teams/{}"], "Team.ReadBasic.All"),
    Resource {
        changes: Some(&[Created, Updated]),
        note: "a new record may be `updated`",
        ..other("callRecord", &["communications/callRecords"], 4_230, app("CallRecords.Read.All"))
    },
    Resource {
        changes: Some(&[Updated]),
        rich: Rich::Allowed(60),
        objects: &["users/{}/presence"],
        ..other(
            "presence",
            &["communications/presences/{}", "communications/presences"],
            60,
            Permission::DelegatedOnly("Presence.Read.All"),
        )
    },
    Resource {
        rich: Rich::Allowed(4_230),
        // Named by the query of the subscription, and what it tells comes along.
        fetch: Fetch::None,
        note: "what happens in the call of a meeting: who came and left",
        ..other("onlineMeeting", &["communications/onlineMeetings"], 4_230, Permission::Unknown)
    },
    meetings(
        "callRecording",
        &[
            "communications/onlineMeetings/getAllRecordings",
            "communications/onlineMeetings/{}/recordings",
            "users/{}/onlineMeetings/getAllRecordings",
        ],
        &["users/{}/onlineMeetings/{}/recordings/{}"],
    ),
    meetings(
        "callTranscript",
        &[
            "communications/onlineMeetings/getAllTranscripts",
            "communications/onlineMeetings/{}/transcripts",
            "users/{}/onlineMeetings/getAllTranscripts",
        ],
        &["users/{}/onlineMeetings/{}/transcripts/{}"],
    ),
    meetings(
        "aiInteraction",
        &[
            "copilot/interactionHistory/getAllEnterpriseInteractions",
            "copilot/users/{}/interactionHistory/getAllEnterpriseInteractions",
        ],
        &["copilot/interactionHistory/interactions/{}", "copilot/users/{}/interactionHistory/interactions/{}"],
    ),
    virtual_event(
        "virtualEvent",
        &[
            "solutions/virtualEvents/events",
            "solutions/virtualEvents/events/getEventsFromOrganizers/{}",
            "solutions/virtualEvents/webinars/{}",
        ],
    ),
    virtual_event("virtualEventSession", &["solutions/virtualEvents/webinars/{}/sessions"]),
    virtual_event("virtualEventRegistration", &["solutions/virtualEvents/webinars/{}/registrations"]),
    other("group conversation", &["groups/{}/conversations"], 4_230, Permission::DelegatedOnly("Group.Read.All")),
    other("todoTask", &["users/{}/todo/lists/{}/tasks"], 4_230, Permission::DelegatedOnly("Tasks.ReadWrite.All")),
    other("printer", &["print/printers/{}/jobs"], 4_230, Permission::Unknown),
    other("printTaskDefinition", &["print/printTaskDefinitions/{}/tasks"], 4_230, Permission::Unknown),
    Resource { objects: &["teams/{}/schedule/{}/{}"], ..other("shifts", &["teams/{}/schedule/{}"], 360, Permission::Unknown) },
    other("approval", &["solutions/approval/approvalItems"], 43_200, Permission::Unknown),
    other("health monitoring alert", &["reports/healthMonitoring/alerts"], 42_300, Permission::Unknown),
];

impl Resource {
    /// The kind that a resource path names. `path` is relative, with or without a leading slash and a query; function-style keys
    /// such as `users('x')` count as segments.
    #[must_use]
    pub fn of(path: &str) -> Option<&'static Self> {
        let segments = segments(path);
        RESOURCES.iter().find(|resource| resource.paths.iter().any(|pattern| fits(pattern, &segments)))
    }

    /// The kind of the object that a notification names: what can be subscribed to itself, what has a path of its own in the
    /// table, or an id below a collection. All that is deeper is another matter: a message is no user.
    #[must_use]
    pub fn of_object(path: &str) -> Option<&'static Self> {
        let path = relative(path)?;
        let named = segments(path);
        let (_, above) = named.split_last()?;
        let own = |row: &&Self| row.objects.iter().any(|pattern| fits(pattern, &named));
        let listed = |row: &&Self| row.paths.iter().any(|pattern| !pattern.ends_with("{}") && fits(pattern, above));
        Self::of(path).or_else(|| RESOURCES.iter().find(own)).or_else(|| RESOURCES.iter().find(listed))
    }

    /// Whether a deletion is the end of the object. Elsewhere it may only tell that something left a filter, a folder or a chat.
    #[must_use]
    pub fn is_gone_for_good(&self) -> bool {
        matches!(self.name, "user" | "group")
    }

    /// Asking for this change is refused by the service, or never answered.
    #[must_use]
    pub fn refuses(&self, change: ChangeType) -> bool {
        self.changes.is_some_and(|changes| !changes.contains(&change))
    }
}

/// The path that a notification names: what follows host and version, where it writes the whole address, as samples of the vendor
/// do (`https://graph.microsoft.com/v1.0/…`, `https://outlook.office365.com/api/beta/…`). None: an address of another form.
#[must_use]
pub fn relative(resource: &str) -> Option<&str> {
    // Of a query that holds an address, what is before that is no scheme.
    let whole = resource.split_once("://").filter(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphabetic()));
    let Some((_, address)) = whole else { return Some(resource) };
    let (_, path) = address.split_once('/')?;
    let (version, path) = path.strip_prefix("api/").unwrap_or(path).split_once('/')?;
    let numbered = |version: &str| version.starts_with('v') && version[1..].starts_with(|digit: char| digit.is_ascii_digit());
    (numbered(version) || version == "beta").then_some(path)
}

/// Whether what a notification names says what it is about. A bare id, as samples of the vendor show for alerts, does not: the
/// subscription alone does.
#[must_use]
pub fn says_kind(resource: Option<&str>) -> bool {
    let path = resource.and_then(relative).unwrap_or_default();
    segments(path).len() > 1 || Resource::of_object(path).is_some()
}

/// The path of `kind` that these segments are.
#[must_use]
pub fn pattern_of(kind: &Resource, segments: &[String]) -> Option<&'static str> {
    kind.paths.iter().copied().find(|pattern| fits(pattern, segments))
}

/// What all that a subscription tells of lies below: its segments before the first `getAll…`.
#[must_use]
pub fn fixed(subscribed: &[String]) -> &[String] {
    let function = |segment: &String| segment.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("getAll"));
    &subscribed[..subscribed.iter().position(function).unwrap_or(subscribed.len())]
}

/// The segments of a path, keys in parentheses as segments of their own.
#[must_use]
pub fn segments(path: &str) -> Vec<String> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut segments = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        match part.split_once('(').and_then(|(name, rest)| Some((name, rest.strip_suffix(')')?))) {
            Some((name, key)) if !name.is_empty() => {
                segments.push(name.to_owned());
                segments.push(key.trim_matches('\'').to_owned());
            }
            _ => segments.push(part.to_owned()),
        }
    }
    segments
}

fn fits(pattern: &str, segments: &[String]) -> bool {
    let wanted: Vec<&str> = pattern.split('/').collect();
    wanted.len() == segments.len()
        && wanted.iter().zip(segments).all(|(wanted, segment)| *wanted == "{}" || wanted.eq_ignore_ascii_case(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_kind_however_it_is_written() {
        let name = |path: &str| Resource::of(path).map(|resource| resource.name);
        assert_eq!(name("/Users/3f6c/Messages"), Some("message"));
        assert_eq!(name("users('x')/mailFolders('inbox')/messages?$filter=isRead eq false"), Some("message"));
        assert_eq!(name("security/alerts_v2?$filter=severity eq 'high'"), Some("security alert (v2)"));
        assert_eq!(name("users"), Some("user"));
        assert_eq!(name("chats/getAllMessages"), Some("chatMessage"));
        assert_eq!(name("teams/getAllChannels"), Some("channel"));
        assert_eq!(name("teams/getAllMembers"), Some("team member"));
        assert_eq!(name("users/x/chats"), Some("chat"));
        assert_eq!(name("me/messages"), None);
        assert_eq!(name(""), None);
    }

    #[test]
    fn a_pair_that_no_page_allows_is_refused() {
        let refuses = |path: &str, change| Resource::of(path).expect("known").refuses(change);
        assert!(refuses("security/alerts", Created), "the guide's silent error");
        assert!(refuses("users", Created) && !refuses("users", Deleted));
        assert!(!refuses("teams", Created), "no page says");
    }

    #[test]
    fn no_path_is_in_two_rows() {
        let mut seen = std::collections::HashSet::new();
        for path in RESOURCES.iter().flat_map(|resource| resource.paths) {
            assert!(seen.insert(path.to_ascii_lowercase()), "{path}");
            assert!(Resource::of(path).is_some_and(|row| row.paths.contains(path)), "{path} is taken for another kind");
        }
        for path in RESOURCES.iter().flat_map(|resource| resource.objects) {
            assert!(seen.insert(path.to_ascii_lowercase()), "{path}");
            assert!(Resource::of_object(path).is_some_and(|row| row.objects.contains(path)), "{path} is taken for another kind");
        }
    }

    #[test]
    fn an_object_is_of_its_own_kind_and_not_of_what_it_lies_below() {
        let name = |path: &str| Resource::of_object(path).map(|resource| resource.name);
        assert_eq!(name("Users/3f6c"), Some("user"));
        assert_eq!(name("Users/3f6c/Messages/AAMk="), Some("message"));
        assert_eq!(name("Users/3f6c/licenseDetails"), None);
        assert_eq!(name("security/alerts_v2/da63"), Some("security alert (v2)"));
        assert_eq!(name("teams('t')/channels('c')/messages('1')/replies('2')"), Some("channel message"));
        assert_eq!(name("teams('t')/channels('c')/messages('1')/hostedContents('2')"), None);
        assert_eq!(name("teams('t')/channels('c')/tabs('1')"), None);
        assert_eq!(name("communications/onlineMeetings('m')/transcripts('t')"), Some("callTranscript"));
        assert_eq!(name("solutions/virtualEvents/webinars/w1/sessions/s1"), Some("virtualEventSession"));
        assert_eq!(name("https://graph.microsoft.com/v1.0/users/3f6c"), Some("user"));
        assert_eq!(name("https://outlook.office365.com/api/beta/Users('3f6c')/Messages('AAMk=')"), Some("message"));
        assert_eq!(name("https://outlook.office365.com/api/v2.0/Users('3f6c')/Events('AAMk=')"), Some("event"));
        assert_eq!(name("https://outlook.office365.com/Users('3f6c')/Events('AAMk=')"), None);
        assert_eq!(name(""), None);
    }

    #[test]
    fn a_path_says_what_it_is_about_and_a_bare_id_does_not() {
        for resource in
            ["users", "Users/3f6c", "/users/3f6c/licenseDetails", "books/b", "https://graph.microsoft.com/beta/users/u"]
        {
            assert!(says_kind(Some(resource)), "{resource}");
        }
        for resource in ["9f00aa", "/9f00aa", "", "https://a.example/9f00aa", "https://a.example"] {
            assert!(!says_kind(Some(resource)), "{resource}");
        }
        assert!(!says_kind(None));
    }
}
