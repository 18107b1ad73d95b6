//! What can be subscribed to: paths, longest lives, changes, roles.
//!
//! From the vendor pages "subscription resource type", "Create subscription" and "Set up notifications for changes in resource
//! data", read anew, not from the product's table. Rows without a stated set of changes take all. Not imitated: beta-only
//! resources, Universal Print's query options, national clouds.

use super::Changed::{self, Created, Deleted, Updated};

/// Resources that share rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Directory,
    Outlook,
    Teams,
    Drive,
    List,
    Security,
    Other,
}

/// One kind of resource.
#[derive(Debug)]
pub(crate) struct Kind {
    /// As `@odata.type` names it.
    pub type_name: &'static str,
    pub family: Family,
    /// `{}` stands for one segment.
    pub paths: &'static [&'static str],
    /// The longest life, in minutes.
    pub minutes: i64,
    /// The same with resource data; none: there is none.
    pub rich_minutes: Option<i64>,
    pub changes: &'static [Changed],
    /// One of these creates; none: only a signed-in user may.
    pub create: &'static [&'static str],
    /// One of these renews and reauthorizes.
    pub renew: &'static [&'static str],
}

const ALL: &[Changed] = &[Created, Updated, Deleted];

const fn outlook(type_name: &'static str, paths: &'static [&'static str], role: &'static [&'static str]) -> Kind {
    // The pages say 10,080; the service allows 10,070.
    Kind {
        type_name,
        family: Family::Outlook,
        paths,
        minutes: 10_070,
        rich_minutes: Some(1_440),
        changes: ALL,
        create: role,
        renew: role,
    }
}

const fn teams(type_name: &'static str, paths: &'static [&'static str], role: &'static [&'static str]) -> Kind {
    Kind {
        type_name,
        family: Family::Teams,
        paths,
        minutes: 4_320,
        rich_minutes: Some(4_320),
        changes: ALL,
        create: role,
        renew: role,
    }
}

const fn other(type_name: &'static str, paths: &'static [&'static str], minutes: i64, role: &'static [&'static str]) -> Kind {
    Kind { type_name, family: Family::Other, paths, minutes, rich_minutes: None, changes: ALL, create: role, renew: role }
}

const KINDS: &[Kind] = &[
    Kind {
        family: Family::Directory,
        changes: &[Updated, Deleted],
        ..other("User", &["users", "users/{}"], 41_760, &["User.Read.All"])
    },
    Kind {
        family: Family::Directory,
        changes: &[Updated, Deleted],
        ..other("Group", &["groups", "groups/{}", "groups/{}/members", "groups/{}/owners"], 41_760, &["Group.Read.All"])
    },
    outlook("Message", &["users/{}/messages", "users/{}/mailfolders/{}/messages"], &["Mail.Read"]),
    outlook("Event", &["users/{}/events"], &["Calendars.Read"]),
    outlook("Contact", &["users/{}/contacts"], &["Contacts.Read"]),
    Kind {
        family: Family::Drive,
        changes: &[Updated],
        renew: &["Files.ReadWrite.All"],
        ..other("DriveItem", &["users/{}/drive/root", "drives/{}/root"], 42_300, &["Files.Read.All"])
    },
    Kind {
        family: Family::List,
        changes: &[Updated],
        renew: &["Sites.ReadWrite.All"],
        ..other("ListItem", &["sites/{}/lists/{}"], 42_300, &["Sites.Read.All"])
    },
    // A change that never comes is taken without a word: the guide's "silent error".
    Kind {
        family: Family::Security,
        ..other("Alert", &["security/alerts", "security/alerts/{}"], 43_200, &["SecurityEvents.ReadWrite.All"])
    },
    teams(
        "ChatMessage",
        &[
            "chats/{}/messages",
            "chats/getallmessages",
            "users/{}/chats/getallmessages",
            "teams/{}/channels/{}/messages",
            "teams/getallmessages",
        ],
        &["Chat.Read.All", "ChannelMessage.Read.All"],
    ),
    teams(
        "ConversationMember",
        &["chats/{}/members", "chats/getallmembers", "teams/{}/members", "teams/{}/channels/{}/members"],
        &["ChatMember.Read.All", "TeamMember.Read.All"],
    ),
    teams("Chat", &["chats", "chats/{}"], &["Chat.ReadBasic.All"]),
    teams("Channel", &["teams/{}/channels", "teams/getallchannels"], &["Channel.ReadBasic.All"]),
    teams("Team", &["teams", "teams/{}"], &["Team.ReadBasic.All"]),
    Kind {
        changes: &[Created, Updated],
        ..other("CallRecord", &["communications/callrecords"], 4_230, &["CallRecords.Read.All"])
    },
    Kind {
        changes: &[Updated],
        rich_minutes: Some(60),
        ..other("Presence", &["communications/presences", "communications/presences/{}"], 60, &[])
    },
    other("ConversationThread", &["groups/{}/conversations"], 4_230, &[]),
    other("TodoTask", &["users/{}/todo/lists/{}/tasks"], 4_230, &[]),
];

/// The kind that a subscription's resource names, without its query.
pub(crate) fn find(resource: &str) -> Option<&'static Kind> {
    let segments = segments(resource);
    KINDS.iter().find(|kind| {
        kind.paths.iter().any(|path| {
            let wanted: Vec<&str> = path.split('/').collect();
            wanted.len() == segments.len() && wanted.iter().zip(&segments).all(|(a, b)| *a == "{}" || a == b)
        })
    })
}

/// Lower-case segments of a path; a key in parentheses is one of its own. Without the query.
pub(crate) fn segments(resource: &str) -> Vec<String> {
    let path = resource.split('?').next().unwrap_or_default().to_lowercase();
    let mut found = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        match part.strip_suffix(')').and_then(|part| part.split_once('(')) {
            Some((name, key)) => {
                found.push(name.to_owned());
                if !key.is_empty() {
                    found.push(key.trim_matches('\'').to_owned());
                }
            }
            None => found.push(part.to_owned()),
        }
    }
    found
}

/// One of these reads what a path is about, too.
pub(crate) fn kind_roles(path: &str) -> Vec<&'static str> {
    find(path).map(|kind| [kind.create, kind.renew].concat()).unwrap_or_default()
}

/// Every role that some row asks for: what the emulated apps begin with.
pub(crate) fn roles() -> Vec<String> {
    let mut roles: Vec<String> =
        KINDS.iter().flat_map(|kind| kind.create.iter().chain(kind.renew)).map(|role| (*role).to_owned()).collect();
    roles.extend(["SecurityAlert.Read.All", "SecurityIncident.Read.All"].map(str::to_owned));
    roles.sort();
    roles.dedup();
    roles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_however_they_are_written() {
        let name = |path: &str| find(path).map(|kind| (kind.type_name, kind.minutes));
        assert_eq!(name("/Users/x/mailFolders('inbox')/messages?$filter=a eq 'b/c'"), Some(("Message", 10_070)));
        assert_eq!(name("users('x')/drive/root"), Some(("DriveItem", 42_300)));
        assert_eq!(name("users"), Some(("User", 41_760)));
        assert_eq!(name("chats/getAllMessages"), Some(("ChatMessage", 4_320)));
        for none in ["security/alerts_v2", "security/incidents", "me/messages", "drives/x/items/y", ""] {
            assert_eq!(name(none), None, "{none}");
        }
    }
}
