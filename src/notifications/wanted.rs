//! A subscription that playbooks want, and the name of its group: the seam between playbooks, which want, and subscriptions,
//! which make and keep.

use std::fmt::Write as _;

use aws_lc_rs::digest;

use super::item::ChangeType;
use super::resources::{Resource, pattern_of, segments};

/// A subscription that playbooks want; playbooks with the same resource, change types and kind share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub tenant: String,
    pub resource: String,
    /// Sorted.
    pub change_types: Vec<ChangeType>,
    /// With the changed object, encrypted.
    pub rich: bool,
    pub lifecycle: bool,
    /// How long each subscription is to live; none: as long as the resource allows.
    pub minutes: Option<u32>,
    pub profile: Option<String>,
    pub urgent: bool,
    pub playbooks: Vec<String>,
}

impl Wanted {
    /// Names the subscription in a client state: `u` (urgent) or `n`, and 12 hexadecimal digits.
    #[must_use]
    pub fn group(&self) -> String {
        let queue = if self.urgent { 'u' } else { 'n' };
        format!("{queue}{}", digits(&self.tenant, &self.resource, &self.change_types, self.rich))
    }
}

/// The digits of a group: what makes two subscriptions the same, whoever wants them and however urgently.
#[must_use]
pub fn digits(tenant: &str, resource: &str, change_types: &[ChangeType], rich: bool) -> String {
    let mut changes: Vec<&str> = change_types.iter().map(|change| change.name()).collect();
    changes.sort_unstable();
    changes.dedup();
    let kind = if rich { "rich" } else { "basic" };
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [tenant, &normal(resource), &changes.join(","), kind] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    context.finish().as_ref().iter().take(6).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A resource path in the one spelling: no leading slash, keys as segments, the words of the path in lower case. Ids and the query
/// stay as they are.
#[must_use]
pub fn normal(resource: &str) -> String {
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
    use ChangeType::{Deleted, Updated};

    #[test]
    fn one_resource_has_one_spelling() {
        assert_eq!(normal("/Users('3f6C')/Messages"), "users/3f6C/messages");
        assert_eq!(normal("users/3f6C/mailFolders('AAMk=')/messages?$filter=isRead eq false"), {
            "users/3f6C/mailfolders/AAMk=/messages?$filter=isRead eq false"
        });
        assert_eq!(normal("unknown/Thing"), "unknown/Thing");
    }

    #[test]
    fn a_group_depends_on_what_the_subscription_is_and_not_on_who_wants_it() {
        let one = digits("default", "users", &[Updated, Deleted], false);
        assert_eq!(one.len(), 12);
        assert_eq!(one, digits("default", "/Users", &[Deleted, Updated], false));
        assert_ne!(one, digits("default", "users", &[Updated], false));
        assert_ne!(one, digits("other", "users", &[Deleted, Updated], false));
        assert_ne!(one, digits("default", "users", &[Deleted, Updated], true));
    }
}
