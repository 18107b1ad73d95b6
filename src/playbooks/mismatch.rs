//! Why an item is not for a playbook, in one line for people; what decides is `Playbook::matches`.

use super::{Playbook, SourceKind};
use crate::notifications::item::{Event, Item, Origin};
use crate::notifications::resources::says_kind;

impl Playbook {
    /// None: it matches, as far as that is known without its subscription. The worker knows it: what says not what it is about is
    /// taken for what this playbook's own subscription tells.
    #[must_use]
    pub fn mismatch(&self, item: &Item) -> Option<String> {
        let made_for = (!says_kind(item.resource.as_deref())).then(|| self.wants());
        if self.matches(item, made_for.as_ref()) {
            return None;
        }
        let Event::Change(change) = item.event else {
            return Some("it is about a subscription, no playbook's affair".to_owned());
        };
        let polled = item.origin == Origin::Poll;
        let changes: Vec<&str> = self.source.change_types.iter().map(|change| change.name()).collect();
        let (changes, resource) = (changes.join(", "), &self.source.resource);
        let (change_name, path) = (change.name(), item.resource.as_deref().unwrap_or("of no resource"));
        Some(match (made_for.is_some() || self.source.covers(item), self.waits_for(change, polled)) {
            (false, true) => format!("it waits for {resource}; this is {path}"),
            (true, false) => format!("it waits for {changes}; this is {change_name}"),
            (false, false) => format!("it waits for {changes} of {resource}; this is {change_name}, {path}"),
            (true, true) if polled => "it waits for a subscription (kind = \"graph\"); this is found by a poll".to_owned(),
            (true, true) if self.source.kind == SourceKind::Poll => {
                "it waits for a poll (kind = \"poll\"); this comes from a subscription".to_owned()
            }
            (true, true) => "it is of the subscription of another playbook".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notifications::item::{ChangeType, LifecycleEvent};
    use crate::playbooks::load;

    #[test]
    fn what_does_not_fit_is_said() {
        let text = "version = 1\n[[playbook]]\nname = \"p\"\n\
            source = { resource = \"users\", change_types = [\"updated\", \"deleted\"] }\naction = [{ kind = \"trigger_export\" }]\n";
        let playbook = load(text, &|_| true).playbooks.remove(0);
        let item = |origin, event, path: &str| {
            let at = "2026-11-24T09:00:00Z".parse().expect("a time");
            Item { resource: Some(path.to_owned()), ..Item::new(origin, at, event) }
        };
        let of = |origin, change, path| playbook.mismatch(&item(origin, Event::Change(change), path));
        for path in [
            "Users/3f6c",
            "https://graph.microsoft.com/v1.0/users/3f6c",
            "https://outlook.office365.com/api/beta/Users('3f6c')",
            "9f00aa",
            "https://a.example/3f6c",
        ] {
            assert_eq!(of(Origin::Graph, ChangeType::Updated, path), None, "{path}");
        }
        for (origin, change, path, expected) in [
            (Origin::Graph, ChangeType::Created, "Users/3f6c", "it waits for updated, deleted; this is created"),
            (Origin::Graph, ChangeType::Updated, "groups/1234", "it waits for users; this is groups/1234"),
            (Origin::Graph, ChangeType::Created, "9f00aa", "it waits for updated, deleted; this is created"),
            (
                Origin::Graph,
                ChangeType::Updated,
                "https://graph.microsoft.com/v1.0/groups/1",
                "it waits for users; this is https://graph.microsoft.com/v1.0/groups/1",
            ),
            (Origin::Graph, ChangeType::Created, "groups/1", "it waits for updated, deleted of users; this is created, groups/1"),
            (
                Origin::Poll,
                ChangeType::Updated,
                "users/3f6c",
                "it waits for a subscription (kind = \"graph\"); this is found by a poll",
            ),
        ] {
            assert_eq!(of(origin, change, path).as_deref(), Some(expected));
        }
        let missed = item(Origin::Graph, Event::Lifecycle(LifecycleEvent::Missed), "users");
        assert!(playbook.mismatch(&missed).is_some_and(|why| why.contains("about a subscription")));
    }
}
