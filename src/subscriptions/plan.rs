//! Desired against actual: what to change, as data. Pure.
//!
//! Desired is what playbooks want, each resource once. Actual is what Graph lists and what our rows say of it. Ours is what we
//! have a row of, or what tells our own address; nothing else is ever touched. PATCH changes end, address and certificate;
//! client state, resource, changes, kind and the address of lifecycle notifications need a new subscription (vendor page
//! "Update subscription").

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::limits;
use super::rows::{Book, Held, Tombstone};
use crate::graph::Subscription;
use crate::notifications::wanted::{Wanted, normalised, shared};

/// A subscription that was just made may not be listed yet.
const SPREADS: Duration = Duration::from_secs(600);
/// A request whose answer was lost has ended by then.
const SETTLES: Duration = Duration::from_secs(120);
/// Renewals of subscriptions that were made together are spread over this part of their life.
const JITTER: u32 = 20;

/// One step towards what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is gone, without our doing: the row becomes a tombstone.
    Forget {
        id: String,
        resource: String,
        why: &'static str,
    },
    Renew {
        id: String,
        resource: String,
        minutes: u32,
        why: &'static str,
    },
    /// Only the token behind it.
    Reauthorize {
        id: String,
        resource: String,
        why: &'static str,
    },
    /// It is ours, and we have no row of it. `proven`: an intent of ours is open; else its client state has to be read.
    Adopt {
        id: String,
        wanted: Wanted,
        proven: bool,
        why: &'static str,
    },
    /// `instead`: what it replaces, which is deleted once the new one is there, or before where Graph allows no two.
    Create {
        wanted: Wanted,
        minutes: u32,
        instead: Option<String>,
        why: &'static str,
    },
    /// `after`: only once there is one of this group.
    Delete {
        id: String,
        resource: String,
        after: Option<String>,
        why: &'static str,
    },
    /// Nothing until then.
    Wait {
        resource: String,
        until: Timestamp,
        why: String,
    },
}

/// What is to be done with ours that nobody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwanted {
    Delete,
    /// Not all playbooks could be read: what seems unwanted is kept alive.
    Keep,
}

/// What is ours, and how it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ours {
    /// Address of the receiver, without a profile; told of lifecycle events.
    pub url: String,
    /// Names the key of client states.
    pub key: String,
    /// Label of the newest certificate.
    pub certificate: Option<String>,
}

/// All that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Each resource once ([`crate::notifications::wanted::shared`]).
    pub wanted: &'a [Wanted],
    /// None: Graph did not list them; then nothing is made or deleted, but life is prolonged.
    pub listed: Option<&'a [Subscription]>,
    pub book: &'a Book,
    pub ours: &'a Ours,
    pub unwanted: Unwanted,
    /// A person asks: what failed is tried again now.
    pub eager: bool,
    pub now: Timestamp,
}

impl Ours {
    /// Where the notifications of a subscription go.
    #[must_use]
    pub fn url_of(&self, wanted: &Wanted) -> String {
        wanted.profile.as_ref().map_or_else(|| self.url.clone(), |profile| format!("{}/{profile}", self.url))
    }

    #[must_use]
    pub fn lifecycle_url_of(&self, wanted: &Wanted) -> Option<String> {
        wanted.lifecycle.then(|| self.url.clone())
    }

    /// The address is that of our receiver, whatever the profile.
    #[must_use]
    pub fn owns(&self, url: &str) -> bool {
        let rest = url.strip_prefix(&self.url).unwrap_or("?");
        rest.is_empty() || rest.strip_prefix('/').is_some_and(|profile| !profile.contains(['/', '?']))
    }
}

/// While not all playbooks can be read, ours that nobody seems to want are kept. Where one and what is wanted each tell of something
/// of their own, one that tells of both takes its place: with two, what both tell of would come twice, and chats have no room for
/// a second one.
#[must_use]
pub fn with_kept(wanted: Vec<Wanted>, book: &Book, ours: &Ours) -> Vec<Wanted> {
    let groups: BTreeSet<String> = wanted.iter().map(Wanted::group).collect();
    let widened = |one: Wanted| {
        let kept = book.held.values().filter(|held| same_resource(&held.wanted, &one) && !groups.contains(&held.group));
        let kept: Vec<Wanted> = kept.map(|held| held.wanted.clone()).collect();
        // Nor is one made that nobody could open, where another would do.
        let sealed = !one.rich && ours.certificate.is_none() && kept.iter().any(|held| held.rich);
        if sealed || kept.iter().any(|held| covers(held, &one)) {
            return vec![one];
        }
        shared(&[vec![one], kept].concat())
    };
    wanted.into_iter().flat_map(widened).collect()
}

/// What brings the actual to the desired, in the order in which it is to be done: what prolongs life first, what ends it last.
#[must_use]
pub fn plan(s: &Situation<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut settled = BTreeSet::new();
    for held in s.book.held.values() {
        if let Some(why) = s.is_gone(held) {
            changes.push(Change::Forget { id: held.id.clone(), resource: held.wanted.resource.clone(), why });
            settled.insert(held.id.as_str());
        }
    }
    let groups: Vec<String> = s.wanted.iter().map(Wanted::group).collect();
    for (wanted, group) in s.wanted.iter().zip(&groups) {
        s.plan_group(wanted, group, &mut settled, &mut changes);
    }
    for held in s.book.held.values().filter(|held| !settled.contains(held.id.as_str())) {
        let (id, resource) = (held.id.clone(), held.wanted.resource.clone());
        match s.unwanted {
            Unwanted::Keep if s.is_told_twice(held) => {
                changes.push(Change::Delete { id, resource, after: None, why: "another one tells of as much" });
            }
            Unwanted::Keep => changes.extend(s.prolong(held, &held.wanted)),
            Unwanted::Delete if s.listed.is_none() => {}
            Unwanted::Delete => {
                let after = s.successor(&held.wanted);
                changes.push(Change::Delete { id, resource, after, why: "no playbook wants it" });
            }
        }
    }
    let known = |listed: &&Subscription| s.book.held.contains_key(&listed.id) || settled.contains(listed.id.as_str());
    let strays = s.listed.unwrap_or_default().iter().filter(|listed| !known(listed) && s.ours.owns(&listed.notification_url));
    for stray in strays.filter(|_| s.unwanted == Unwanted::Delete) {
        let why = "it tells our address, and no playbook wants it";
        changes.push(Change::Delete { id: stray.id.clone(), resource: stray.resource.clone(), after: None, why });
    }
    changes.sort_by_key(order);
    changes
}

fn order(change: &Change) -> u8 {
    match change {
        Change::Forget { .. } => 0,
        Change::Renew { .. } | Change::Reauthorize { .. } => 1,
        Change::Adopt { .. } => 2,
        Change::Create { .. } => 3,
        Change::Delete { .. } => 4,
        Change::Wait { .. } => 5,
    }
}

impl<'a> Situation<'a> {
    fn is_gone(&self, held: &Held) -> Option<&'static str> {
        let listed = self.listed?;
        let young = held.created.checked_add(SPREADS).is_ok_and(|until| until > self.now);
        match listed.iter().any(|listed| listed.id == held.id) {
            true => None,
            false if held.expires <= self.now => Some("it has expired"),
            false if young => None,
            false => Some("Graph does not list it any more"),
        }
    }

    /// The subscription of one group: the best that there is is kept, renewed or replaced; further ones are deleted.
    fn plan_group(&self, wanted: &Wanted, group: &str, settled: &mut BTreeSet<&'a str>, changes: &mut Vec<Change>) {
        let mine = |held: &&Held| held.group == group && !settled.contains(held.id.as_str());
        let mut mine: Vec<&'a Held> = self.book.held.values().filter(mine).collect();
        mine.sort_by_key(|held| (self.misfit(held, wanted).is_none(), held.expires));
        let best = mine.pop();
        settled.extend(mine.iter().map(|held| held.id.as_str()));
        if self.listed.is_some() {
            let why = "another one does the same";
            let further = mine.iter().map(|held| (held.id.clone(), held.wanted.resource.clone()));
            changes.extend(further.map(|(id, resource)| Change::Delete { id, resource, after: None, why }));
        }
        let Some(held) = best else {
            let again = self.book.tombstones.values().any(|tombstone| tombstone.group == group);
            let why = if again { "the last one is gone" } else { "there is none" };
            if self.is_told_of(wanted, settled) {
                let (resource, until) = (wanted.resource.clone(), self.now);
                let why = "the one that there is tells of it, and is kept until all playbooks can be read".to_owned();
                return changes.push(Change::Wait { resource, until, why });
            }
            let left = self.left_over(wanted, settled);
            let Some(left) = left else { return self.plan_missing(wanted, group, (None, why), settled, changes) };
            // It lives until there is the new one.
            settled.insert(&left.id);
            changes.extend(self.prolong(left, &left.wanted));
            let why = "what is wanted of the resource has changed";
            return self.plan_missing(wanted, group, (Some(left.id.clone()), why), settled, changes);
        };
        settled.insert(&held.id);
        changes.extend(self.prolong(held, wanted));
        if let Some(why) = self.misfit(held, wanted) {
            self.plan_missing(wanted, group, (Some(held.id.clone()), why), settled, changes);
        }
    }

    /// Those of the same resource that no group has any more.
    fn left_overs(&self, wanted: &Wanted, settled: &BTreeSet<&'a str>) -> impl Iterator<Item = &'a Held> {
        let same = |held: &&Held| same_resource(&held.wanted, wanted) && !settled.contains(held.id.as_str());
        let unwanted = |held: &&Held| !self.wanted.iter().any(|wanted| wanted.group() == held.group);
        self.book.held.values().filter(same).filter(unwanted)
    }

    /// Of a resource with room for one it has to make way; one that is kept only for one that tells of as much ([`with_kept`]).
    fn left_over(&self, wanted: &Wanted, settled: &BTreeSet<&'a str>) -> Option<&'a Held> {
        let yields = |held: &&Held| self.unwanted == Unwanted::Delete || covers(wanted, &held.wanted);
        self.left_overs(wanted, settled).filter(yields).max_by_key(|held| held.expires)
    }

    /// One that is kept delivers all that this one would: with both, everything would come twice.
    fn is_told_of(&self, wanted: &Wanted, settled: &BTreeSet<&'a str>) -> bool {
        let tells = |held: &Held| covers(&held.wanted, wanted) && self.misfit(held, wanted).is_none();
        self.unwanted == Unwanted::Keep && self.left_overs(wanted, settled).any(tells)
    }

    /// Another one that is there delivers all that this one does, as where one that took its place could not delete it.
    fn is_told_twice(&self, held: &Held) -> bool {
        let there = |other: &Held| self.listed.is_some_and(|listed| listed.iter().any(|listed| listed.id == other.id));
        let later = |other: &Held| (other.expires, &other.id) > (held.expires, &held.id);
        let tells = |other: &&Held| covers(&other.wanted, &held.wanted) && self.misfit(other, &other.wanted).is_none();
        let others = self.book.held.values().filter(|other| other.id != held.id).filter(tells);
        others.into_iter().any(|other| there(other) && (later(other) || !covers(&held.wanted, &other.wanted)))
    }

    /// There is no row of one that will do: something of ours that is listed is taken over, else one is made.
    fn plan_missing(
        &self,
        wanted: &Wanted,
        group: &str,
        (instead, why): (Option<String>, &'static str),
        settled: &mut BTreeSet<&'a str>,
        changes: &mut Vec<Change>,
    ) {
        let Some(listed) = self.listed else {
            let (resource, until) = (wanted.resource.clone(), self.now);
            return changes.push(Change::Wait { resource, until, why: "Graph does not list its subscriptions".to_owned() });
        };
        let ours = |listed: &&Subscription| {
            !self.book.held.contains_key(&listed.id) && self.ours.owns(&listed.notification_url) && is_for(listed, wanted)
        };
        let intent = self.book.intents.get(group);
        if let Some(found) = listed.iter().filter(ours).max_by_key(|listed| listed.expires) {
            settled.insert(&found.id);
            let proven = intent
                .is_some_and(|intent| intent.key == self.ours.key && intent.lifecycle_url == self.ours.lifecycle_url_of(wanted));
            let why = if intent.is_some() { "it was made, though the answer was lost" } else { "it tells our address" };
            return changes.push(Change::Adopt { id: found.id.clone(), wanted: wanted.clone(), proven, why });
        }
        if let Some(until) = intent.and_then(|intent| intent.at.checked_add(SETTLES).ok()).filter(|at| *at > self.now) {
            let why = "the answer to the last try was lost; it may still be made".to_owned();
            return changes.push(Change::Wait { resource: wanted.resource.clone(), until, why });
        }
        self.create(wanted, group, instead, why, changes);
    }

    fn create(&self, wanted: &Wanted, group: &str, instead: Option<String>, why: &'static str, changes: &mut Vec<Change>) {
        let resource = || wanted.resource.clone();
        let url = self.ours.url_of(wanted);
        let problem = self.book.problems.get(group).filter(|problem| problem.url == url && !self.eager);
        if let Some(problem) = problem.filter(|problem| problem.not_before > self.now) {
            let (until, why) = (problem.not_before, problem.message.clone());
            return changes.push(Change::Wait { resource: resource(), until, why });
        }
        if wanted.rich && self.ours.certificate.is_none() {
            let why =
                "there is no certificate for resource data that can be used: set or mend ENCRYPTION_CERTIFICATES".to_owned();
            return changes.push(Change::Wait { resource: resource(), until: self.now, why });
        }
        let minutes = limits::requested(wanted, &self.book.limits);
        changes.push(Change::Create { wanted: wanted.clone(), minutes, instead, why });
    }

    /// Why only a new subscription will do.
    fn misfit(&self, held: &Held, wanted: &Wanted) -> Option<&'static str> {
        if held.key != self.ours.key {
            Some("the key of client states has changed")
        } else if wanted.lifecycle && held.lifecycle_url != self.ours.lifecycle_url_of(wanted) {
            let other = held.lifecycle_url.is_some();
            Some(if other { "PUBLIC_URL has changed" } else { "it tells nothing of itself, and is to" })
        } else {
            None
        }
    }

    /// A renewal, if one is due and allowed.
    fn prolong(&self, held: &Held, wanted: &Wanted) -> Option<Change> {
        let why = self.renewal_due(held, wanted)?;
        let (id, resource) = (held.id.clone(), wanted.resource.clone());
        let rest = held.problem.as_ref().map(|problem| problem.not_before).filter(|at| *at > self.now && !self.eager);
        if let Some(until) = held.touchable_at(self.now).max(rest) {
            let why = held.problem.as_ref().map_or_else(|| why.to_owned(), |problem| problem.message.clone());
            return Some(Change::Wait { resource, until, why });
        }
        // What cannot be prolonged can still be kept delivering.
        let refused = held.problem.as_ref().is_some_and(|problem| problem.refused);
        if refused && held.challenged {
            return Some(Change::Reauthorize { id, resource, why });
        }
        Some(Change::Renew { id, resource, minutes: limits::requested(wanted, &self.book.limits), why })
    }

    fn renewal_due(&self, held: &Held, wanted: &Wanted) -> Option<&'static str> {
        if held.challenged {
            Some("Graph asks for a reauthorization")
        } else if renewal_at(held) <= self.now {
            Some("half of its life is gone")
        } else if self.misfit(held, wanted).is_some() {
            // It is replaced: nothing else has to change in it.
            None
        } else if held.url != self.ours.url_of(wanted) {
            Some("its address has changed")
        } else if self.ours.certificate.is_some() && wanted.rich && held.certificate != self.ours.certificate {
            Some("the certificate has changed")
        } else {
            None
        }
    }

    /// The group that takes over the resource of one that nobody wants as it is.
    fn successor(&self, left: &Wanted) -> Option<String> {
        self.wanted.iter().find(|wanted| same_resource(wanted, left)).map(Wanted::group)
    }
}

fn same_resource(one: &Wanted, other: &Wanted) -> bool {
    one.tenant == other.tenant && normalised(&one.resource) == normalised(&other.resource)
}

/// When half of the granted life is gone, and up to a twentieth of it before.
#[must_use]
pub fn renewal_at(held: &Held) -> Timestamp {
    let life = i64::from(held.granted_minutes) * 60;
    let spread: i64 = held.id.bytes().fold(7_i64, |sum, byte| (sum * 31 + i64::from(byte)) % 1_000_003);
    let early = spread % (life / i64::from(JITTER)).max(1);
    Timestamp::from_second(held.expires.as_second() - life / 2 - early).unwrap_or(Timestamp::MIN)
}

/// It is about the same changes of the same resource. Graph may write names in another case.
pub(super) fn is_for(listed: &Subscription, wanted: &Wanted) -> bool {
    normalised(&listed.resource).eq_ignore_ascii_case(&normalised(&wanted.resource))
        && listed.change_type == wanted.change_type()
        && listed.rich == wanted.rich
}

/// A subscription like `one` tells of everything of which one like `other` does.
pub(super) fn covers(one: &Wanted, other: &Wanted) -> bool {
    let changes = other.change_types.iter().all(|change| one.change_types.contains(change));
    same_resource(one, other) && changes && (one.rich || !other.rich)
}

/// What is left of one that is gone.
pub(super) fn tombstone(held: &Held, now: Timestamp) -> Tombstone {
    Tombstone { id: held.id.clone(), group: held.group.clone(), wanted: held.wanted.clone(), at: now }
}

#[cfg(test)]
mod tests {
    use super::super::rows::{Intent, Problem};
    use super::*;
    use crate::notifications::item::ChangeType;

    const NOW: &str = "2026-11-24T09:00:00Z";
    const URL: &str = "https://relay.example/api/notifications";

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(NOW.parse::<Timestamp>().expect("a time").as_second() + minutes * 60).expect("a time")
    }

    fn wanted(resource: &str) -> Wanted {
        Wanted {
            tenant: "default".to_owned(),
            resource: resource.to_owned(),
            change_types: vec![ChangeType::Updated],
            rich: false,
            lifecycle: true,
            minutes: Some(600),
            profile: None,
            urgent: false,
            playbooks: Vec::new(),
        }
    }

    /// Made `age` minutes ago for 600 minutes.
    fn held(id: &str, wanted: &Wanted, age: i64) -> Held {
        Held {
            id: id.to_owned(),
            group: wanted.group(),
            wanted: wanted.clone(),
            url: URL.to_owned(),
            lifecycle_url: Some(URL.to_owned()),
            key: "key".to_owned(),
            certificate: None,
            created: at(-age),
            expires: at(600 - age),
            granted_minutes: 600,
            renewed: at(-age),
            touched: None,
            reauthorized: None,
            challenged: false,
            problem: None,
        }
    }

    fn listed(held: &Held) -> Subscription {
        Subscription {
            id: held.id.clone(),
            resource: held.wanted.resource.clone(),
            change_type: held.wanted.change_type(),
            notification_url: held.url.clone(),
            lifecycle_url: held.lifecycle_url.clone(),
            expires: held.expires,
            rich: held.wanted.rich,
            client_state: None,
            certificate: None,
        }
    }

    fn book(all: &[Held]) -> Book {
        Book { held: all.iter().map(|held| (held.id.clone(), held.clone())).collect(), ..Book::default() }
    }

    /// The steps in short: `create`, `renew one`, …
    fn steps(wanted: &[Wanted], listed: Option<&[Subscription]>, book: &Book) -> Vec<String> {
        steps_with(Unwanted::Delete, wanted, listed, book)
    }

    fn steps_with(unwanted: Unwanted, wanted: &[Wanted], listed: Option<&[Subscription]>, book: &Book) -> Vec<String> {
        let ours = Ours { url: URL.to_owned(), key: "key".to_owned(), certificate: None };
        let wanted = &if unwanted == Unwanted::Keep { with_kept(wanted.to_vec(), book, &ours) } else { wanted.to_vec() };
        let changes = plan(&Situation { wanted, listed, book, ours: &ours, unwanted, eager: false, now: at(0) });
        let short = |change| match change {
            Change::Forget { id, .. } => format!("forget {id}"),
            Change::Renew { id, .. } => format!("renew {id}"),
            Change::Reauthorize { id, .. } => format!("reauthorize {id}"),
            Change::Adopt { id, proven, .. } => format!("adopt {id}{}", if proven { ", proven" } else { "" }),
            Change::Create { instead: None, .. } => "create".to_owned(),
            Change::Create { instead: Some(id), .. } => format!("replace {id}"),
            Change::Delete { id, .. } => format!("delete {id}"),
            Change::Wait { .. } => "wait".to_owned(),
        };
        changes.into_iter().map(short).collect()
    }

    #[test]
    fn each_difference_has_its_step() {
        let users = wanted("users");
        let alter = |age, change: fn(&mut Held)| {
            let mut one = held("one", &users, age);
            change(&mut one);
            one
        };
        let problem = |refused, until| Problem {
            since: at(-60),
            tries: 1,
            message: "refused".to_owned(),
            not_before: at(until),
            lasting: true,
            refused,
            url: URL.to_owned(),
        };
        for (case, one, expected) in [
            ("young and well", alter(10, |_| ()), vec![]),
            ("half of its life is gone", alter(301, |_| ()), vec!["renew one"]),
            ("renewed just now", alter(301, |one| one.touched = Some(at(-9))), vec!["wait"]),
            ("renewed ten minutes ago", alter(301, |one| one.touched = Some(at(-10))), vec!["renew one"]),
            ("challenged", alter(10, |one| one.challenged = true), vec!["renew one"]),
            ("another address", alter(10, |one| one.url = format!("{URL}/guide")), vec!["renew one"]),
            ("another key", alter(10, |one| one.key = "old".to_owned()), vec!["replace one"]),
            ("another key, and old", alter(301, |one| one.key = "old".to_owned()), vec!["renew one", "replace one"]),
            (
                "another PUBLIC_URL",
                alter(10, |one| one.lifecycle_url = Some("https://old.example".to_owned())),
                vec!["replace one"],
            ),
        ] {
            let shown = listed(&one);
            assert_eq!(steps(std::slice::from_ref(&users), Some(&[shown]), &book(&[one])), expected, "{case}");
        }
        let refused = Held { challenged: true, problem: Some(problem(true, 0)), ..held("one", &users, 301) };
        assert_eq!(steps(std::slice::from_ref(&users), Some(&[listed(&refused)]), &book(&[refused])), ["reauthorize one"]);
        let resting = Held { problem: Some(problem(false, 30)), ..held("one", &users, 301) };
        assert_eq!(steps(std::slice::from_ref(&users), Some(&[listed(&resting)]), &book(&[resting])), ["wait"]);
    }

    #[test]
    fn what_is_not_there_is_made_once_it_is_known_not_to_be() {
        let users = [wanted("users")];
        let one = held("one", &users[0], 60);
        assert_eq!(steps(&users, Some(&[]), &Book::default()), ["create"]);
        assert_eq!(steps(&users, None, &Book::default()), ["wait"], "not without a list");
        assert_eq!(steps(&users, Some(&[]), &book(std::slice::from_ref(&one))), ["forget one", "create"]);
        assert_eq!(steps(&users, Some(&[]), &book(&[held("one", &users[0], 5)])), Vec::<String>::new(), "a list may be old");
        let intent = |age: i64| Intent {
            group: users[0].group(),
            wanted: users[0].clone(),
            url: URL.to_owned(),
            lifecycle_url: Some(URL.to_owned()),
            key: "key".to_owned(),
            certificate: None,
            state: String::new(),
            minutes: 600,
            at: at(-age),
        };
        let open = |age| Book { intents: [(users[0].group(), intent(age))].into(), ..Book::default() };
        assert_eq!(steps(&users, Some(&[]), &open(1)), ["wait"], "it may still be made");
        assert_eq!(steps(&users, Some(&[]), &open(5)), ["create"]);
        assert_eq!(steps(&users, Some(&[listed(&one)]), &open(1)), ["adopt one, proven"]);
        assert_eq!(steps(&users, Some(&[listed(&one)]), &Book::default()), ["adopt one"]);
        let other = Subscription { notification_url: "https://other.example".to_owned(), ..listed(&one) };
        assert_eq!(steps(&users, Some(&[other]), &Book::default()), ["create"], "others' are none of ours");
    }

    #[test]
    fn what_is_wanted_otherwise_takes_the_place_of_what_was() {
        let resource = "teams/t/members";
        let (before, urgent) = (wanted(resource), Wanted { urgent: true, ..wanted(resource) });
        let more = Wanted { change_types: vec![ChangeType::Created, ChangeType::Updated], ..wanted(resource) };
        for after in [urgent, more] {
            let after = [after];
            for (age, expected) in [(10, vec!["replace one"]), (301, vec!["renew one", "replace one"])] {
                let one = held("one", &before, age);
                assert_eq!(steps(&after, Some(&[listed(&one)]), &book(&[one])), expected);
            }
            let both = [held("one", &before, 10), held("two", &after[0], 5)];
            let shown: Vec<Subscription> = both.iter().map(listed).collect();
            assert_eq!(steps(&after, Some(&shown), &book(&both)), ["delete one"], "the new one is there");
        }
        let other = held("one", &wanted("teams/u/members"), 10);
        assert_eq!(steps(&[before], Some(&[listed(&other)]), &book(&[other])), ["create", "delete one"]);
    }

    #[test]
    fn what_is_kept_is_not_made_twice() {
        use ChangeType::{Created, Updated};
        let of = |change_types: &[ChangeType]| Wanted { change_types: change_types.to_vec(), ..wanted("users") };
        let rich = |of: Wanted| Wanted { rich: true, ..of };
        let both = of(&[Created, Updated]);
        for (before, after, expected) in [
            (both.clone(), of(&[Updated]), vec!["wait"]),
            (both.clone(), Wanted { urgent: true, ..both.clone() }, vec!["wait"]),
            (rich(both.clone()), both.clone(), vec!["wait"]),
            // The new one tells of all of it.
            (of(&[Updated]), both.clone(), vec!["replace one"]),
            // Each tells of something of its own: one that tells of both takes its place.
            (of(&[Created]), of(&[Updated]), vec!["replace one"]),
            (both.clone(), of(&[Updated, ChangeType::Deleted]), vec!["replace one"]),
            // Without a certificate nobody could open what both tell.
            (rich(of(&[Created])), both.clone(), vec!["create"]),
        ] {
            let (one, after) = (held("one", &before, 10), [after]);
            assert_eq!(steps_with(Unwanted::Keep, &after, Some(&[listed(&one)]), &book(&[one])), expected, "{before:?}");
        }
        let old = Held { key: "old".to_owned(), ..held("one", &both, 10) };
        let all = of(&[Created, Updated, ChangeType::Deleted]);
        let left = [held("one", &both, 10), held("two", &all, 20)];
        let shown: Vec<Subscription> = left.iter().map(listed).collect();
        let steps = steps_with(Unwanted::Keep, &[of(&[Updated, ChangeType::Deleted])], Some(&shown), &book(&left));
        assert_eq!(steps, ["delete one", "wait"], "what could not be deleted when another one took its place");
        let left = [held("one", &both, 10), held("two", &both, 20)];
        assert_eq!(steps_with(Unwanted::Keep, &[], Some(&shown), &book(&left)), ["delete two"], "one of two stays");
        let steps = steps_with(Unwanted::Keep, &[of(&[Updated])], Some(&[listed(&old)]), &book(&[old]));
        assert_eq!(steps, ["create"], "what it tells may not be proven any more");
        let one = held("one", &both, 301);
        let steps = steps_with(Unwanted::Keep, &[of(&[Updated])], Some(&[listed(&one)]), &book(&[one]));
        assert_eq!(steps, ["renew one", "wait"], "it is kept alive");
    }

    #[test]
    fn without_a_list_life_is_prolonged_and_nothing_else() {
        let users = [wanted("users")];
        let all = [held("one", &users[0], 301), held("two", &wanted("groups"), 301)];
        assert_eq!(steps(&users, None, &book(&all)), ["renew one"]);
    }

    #[test]
    fn of_two_that_do_the_same_the_better_stays() {
        let users = [wanted("users")];
        let old = Held { key: "old".to_owned(), ..held("old", &users[0], 10) };
        let all = [old, held("short", &users[0], 200), held("long", &users[0], 100)];
        let shown: Vec<Subscription> = all.iter().map(listed).collect();
        assert_eq!(steps(&users, Some(&shown), &book(&all)), ["delete old", "delete short"]);
    }

    #[test]
    fn only_what_is_ours_and_unwanted_is_deleted() {
        let stray =
            |id: &str, url: &str| Subscription { notification_url: url.to_owned(), ..listed(&held(id, &wanted("users"), 10)) };
        let shown = [
            stray("ours", URL),
            stray("profile", &format!("{URL}/guide")),
            stray("longer", &format!("{URL}-of-others")),
            stray("deeper", &format!("{URL}/a/b")),
            stray("other", "https://other.example/api/notifications"),
        ];
        assert_eq!(steps(&[], Some(&shown), &Book::default()), ["delete ours", "delete profile"]);
    }
}
