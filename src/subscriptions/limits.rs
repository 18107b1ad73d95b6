//! How long a subscription is asked to live. Pure.

use std::collections::BTreeMap;

use crate::notifications::resources::{Resource, Rich};
use crate::notifications::wanted::{Wanted, normalised};

/// Less than the longest life: clocks differ, and a request takes time.
const MARGIN: u32 = 10;
/// Graph raises shorter lives to this.
const SHORTEST: u32 = 45;
/// Where no page says how long: the shortest that Graph grants to a resource of which a life of days is documented.
const UNKNOWN: u32 = 4_230;

/// What shares a limit: resources of one kind, rich or not.
pub(super) fn kind(wanted: &Wanted) -> String {
    let name = Resource::of(&wanted.resource).map_or_else(|| normalised(&wanted.resource), |known| known.name.to_owned());
    if wanted.rich { format!("{name}, rich") } else { name }
}

/// The documented longest life, in minutes.
#[must_use]
pub fn documented(wanted: &Wanted) -> u32 {
    on_a_page(wanted).unwrap_or(UNKNOWN)
}

fn on_a_page(wanted: &Wanted) -> Option<u32> {
    let known = Resource::of(&wanted.resource);
    let rich = known.and_then(|known| match known.rich {
        Rich::Allowed(minutes) if wanted.rich => Some(minutes),
        _ => None,
    });
    rich.or_else(|| known.and_then(|known| known.minutes))
}

/// Minutes to ask for: the playbook's, but no more than the documented most less a margin, nor than Graph once said it allows.
/// Of playbooks that share a subscription, the one with the longer life may not be the one that wants the data with it.
#[must_use]
pub fn requested(wanted: &Wanted, said: &BTreeMap<String, u32>) -> u32 {
    let most = on_a_page(wanted).map_or(u32::MAX, |most| most.saturating_sub(MARGIN));
    let asked = wanted.minutes.unwrap_or_else(|| documented(wanted).saturating_sub(MARGIN)).min(most);
    // One minute less than was said: by a clock that is ahead it would be too far again.
    let said = said.get(&kind(wanted)).map_or(u32::MAX, |most| most.saturating_sub(1));
    asked.min(said).max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_is_the_most_that_is_allowed_less_a_margin() {
        let wanted = |resource: &str, rich, minutes| Wanted {
            tenant: "default".to_owned(),
            resource: resource.to_owned(),
            change_types: Vec::new(),
            rich,
            lifecycle: true,
            minutes,
            profile: None,
            urgent: false,
            playbooks: Vec::new(),
        };
        let none = BTreeMap::new();
        for (resource, rich, given, minutes) in [
            ("users", false, None, 41_750),
            ("users/x/messages", false, None, 10_060),
            ("users/x/messages?$select=subject", true, None, 1_430),
            ("communications/presences/x", false, None, 50),
            ("users", false, Some(120), 120),
            ("users", false, Some(1), 45),
            ("users/x/messages", false, Some(10_000), 10_000),
            ("users/x/messages?$select=subject", true, Some(10_000), 1_430),
            ("something/else", false, Some(10_000), 10_000),
            ("something/else", false, None, 4_220),
        ] {
            assert_eq!(requested(&wanted(resource, rich, given), &none), minutes, "{resource}");
        }
        let said = BTreeMap::from([("message".to_owned(), 4_230)]);
        assert_eq!(requested(&wanted("users/x/messages", false, None), &said), 4_229);
        assert_eq!(requested(&wanted("users/x/messages", false, Some(600)), &said), 600);
        assert_eq!(requested(&wanted("users/x/messages", true, None), &said), 1_430);
    }
}
