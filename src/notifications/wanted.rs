//! What is to be subscribed to: asked for by playbooks, made by subscriptions, which do not know each other.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::item::ChangeType;
use super::resources::{Resource, pattern_of, segments};
use crate::platform::hex;

/// A subscription that playbooks want; playbooks with the same resource, change types and kind share one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub tenant: String,
    /// Relative, with its query.
    pub resource: String,
    /// Sorted.
    pub change_types: Vec<ChangeType>,
    /// The changed object is to come with the notification, encrypted.
    pub rich: bool,
    /// Tell of what happens to the subscription itself.
    pub lifecycle: bool,
    /// Life to ask for; none: as long as the resource allows, less a margin.
    pub minutes: Option<u32>,
    /// What answers its notifications; none: the default.
    pub profile: Option<String>,
    /// Its notifications go to the queue that is worked off first.
    pub urgent: bool,
    /// Names of those who want it.
    pub playbooks: Vec<String>,
}

impl Wanted {
    /// `u` (urgent) or `n`, and 12 lower-case hexadecimal characters that name tenant, resource, changes and kind: the part of
    /// a client state that says which subscription a notification belongs to.
    #[must_use]
    pub fn group(&self) -> String {
        let mut changes: Vec<&str> = self.change_types.iter().map(|change| change.name()).collect();
        changes.sort_unstable();
        changes.dedup();
        let text = format!("{}\n{}\n{}\n{}", self.tenant, normalised(&self.resource), changes.join(","), self.rich);
        let hash = digest(&SHA256, text.as_bytes());
        let queue = if self.urgent { "u" } else { "n" };
        format!("{queue}{}", hex::digits(&hash.as_ref()[..6]))
    }

    /// Of the same resource: one subscription serves both.
    #[must_use]
    pub fn is_beside(&self, other: &Self) -> bool {
        self.tenant == other.tenant && normalised(&self.resource) == normalised(&other.resource)
    }

    /// As Graph writes it, in lower case and sorted.
    #[must_use]
    pub fn change_type(&self) -> String {
        let mut names: Vec<&str> = self.change_types.iter().map(|change| change.name()).collect();
        names.sort_unstable();
        names.dedup();
        names.join(",")
    }
}

/// Each resource once: Graph refuses a second subscription on the same resource and changes, and one that tells of more serves
/// all. Playbooks see only the changes that they ask for.
#[must_use]
pub fn shared(wanted: &[Wanted]) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    for one in wanted {
        let Some(other) = all.iter_mut().find(|other| other.is_beside(one)) else {
            let mut one = one.clone();
            one.change_types.sort();
            one.change_types.dedup();
            all.push(one);
            continue;
        };
        other.change_types.extend(&one.change_types);
        other.change_types.sort();
        other.change_types.dedup();
        other.rich |= one.rich;
        other.lifecycle |= one.lifecycle;
        other.urgent |= one.urgent;
        other.minutes = [other.minutes, one.minutes].into_iter().flatten().min();
        other.profile = other.profile.take().or_else(|| one.profile.clone());
        let new = one.playbooks.iter().filter(|name| !other.playbooks.contains(name)).cloned().collect::<Vec<_>>();
        other.playbooks.extend(new);
    }
    all
}

/// A resource in one spelling: `/Users('x')/Messages` is `users/x/messages`. Ids and the query stay as they are.
#[must_use]
pub fn normalised(resource: &str) -> String {
    let (path, query) = resource.split_once('?').map_or((resource, ""), |(path, query)| (path, query.trim()));
    let segments = segments(path.trim());
    let pattern = Resource::of(path).and_then(|kind| pattern_of(kind, &segments));
    let words: Vec<String> = match pattern {
        Some(pattern) => {
            let parts = pattern.split('/').zip(segments);
            parts.map(|(word, segment)| if word == "{}" { segment } else { segment.to_ascii_lowercase() }).collect()
        }
        None => segments,
    };
    let path = words.join("/");
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(resource: &str, change_types: &[ChangeType]) -> Wanted {
        Wanted {
            tenant: "default".to_owned(),
            resource: resource.to_owned(),
            change_types: change_types.to_vec(),
            rich: false,
            lifecycle: true,
            minutes: None,
            profile: None,
            urgent: false,
            playbooks: vec!["p".to_owned()],
        }
    }

    #[test]
    fn a_group_names_what_is_subscribed_to_however_it_is_written() {
        use ChangeType::{Deleted, Updated};
        let group = wanted("users('x')/messages?$filter=isRead eq false", &[Updated, Deleted]).group();
        assert_eq!(group.len(), 13);
        assert!(group.starts_with('n') && group[1..].bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        assert_eq!(wanted("/users/x/messages?$filter=isRead eq false", &[Deleted, Updated]).group(), group);
        for other in
            [wanted("users/x/messages", &[Updated, Deleted]), wanted("users/x/messages?$filter=isRead eq false", &[Updated])]
        {
            assert_ne!(other.group(), group);
        }
        let urgent = Wanted { urgent: true, ..wanted("users('x')/messages?$filter=isRead eq false", &[Updated, Deleted]) };
        assert_eq!(urgent.group(), format!("u{}", &group[1..]));
    }

    #[test]
    fn one_resource_has_one_spelling() {
        assert_eq!(normalised("/Users('3f6C')/Messages"), "users/3f6C/messages");
        assert_eq!(normalised("users/3f6C/mailFolders('AAMk=')/messages?$filter=isRead eq false"), {
            "users/3f6C/mailfolders/AAMk=/messages?$filter=isRead eq false"
        });
        assert_eq!(normalised("unknown/Thing"), "unknown/Thing");
    }

    #[test]
    fn one_resource_has_one_subscription() {
        use ChangeType::{Deleted, Updated};
        let second = Wanted { urgent: true, minutes: Some(60), playbooks: vec!["q".to_owned()], ..wanted("/users", &[Deleted]) };
        let all = shared(&[wanted("users", &[Updated]), wanted("groups", &[Updated]), second]);
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].change_type().as_str(), all[0].urgent, all[0].minutes), ("deleted,updated", true, Some(60)));
        assert_eq!(all[0].playbooks, ["p", "q"]);
    }
}
