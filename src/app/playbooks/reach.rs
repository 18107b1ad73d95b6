//! Whether Microsoft Graph can be reached for what playbooks want, and whether the app may: for who asks before it is needed.

use std::collections::BTreeSet;

use reqwest::Method;

use super::{Asked, Playbooks, Source};
use crate::notifications::resources::{Permission, Resource};
use crate::platform::claims;
use crate::polling::Poller;
use crate::subscriptions::{self, Listed, SubscriptionError};

/// What Microsoft Graph answered to the least that can be asked.
#[derive(Debug, Default)]
pub struct Reached {
    /// How many subscriptions the app has; none where no playbook wants one.
    pub subscriptions: Option<Result<usize, String>>,
    /// What is polled, and why it cannot be.
    pub polls: Vec<(String, Option<String>)>,
    /// What the app has been granted; none: it could not be seen.
    pub roles: Option<BTreeSet<String>>,
}

/// What the app must be permitted for one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub resource: String,
    pub what: Needed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needed {
    Role {
        name: &'static str,
        /// Only to renew a subscription.
        renews: bool,
    },
    /// Nothing that could be granted to an app: how that is said.
    Told(String),
}

/// Whether a role has been granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    Given,
    /// Not this one, but one of the same things that allows more; whether it will do is up to the service.
    Wider(String),
    Missing,
}

impl Asked {
    /// What the app must be permitted for its subscriptions and polls, each once.
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        let subscribed = self.wanted.iter().map(|wanted| (&wanted.resource, true));
        let polled = self.poller.iter().flat_map(Poller::sources).map(|source| (&source.resource, false));
        let mut needs: Vec<Need> = Vec::new();
        for (resource, renewed) in subscribed.chain(polled) {
            let what = match Resource::of(resource).map(|row| row.permission) {
                Some(Permission::App { create, renew }) if create == renew || !renewed => {
                    vec![Needed::Role { name: create, renews: false }]
                }
                Some(Permission::App { create, renew }) => {
                    vec![Needed::Role { name: create, renews: false }, Needed::Role { name: renew, renews: true }]
                }
                Some(Permission::DelegatedOnly(name)) => {
                    vec![Needed::Told(format!("can be had with {name} of a signed-in user only"))]
                }
                Some(Permission::Unknown) | None => vec![Needed::Told("needs a permission that no page names".to_owned())],
            };
            for what in what {
                let need = Need { resource: resource.clone(), what };
                if !needs.contains(&need) {
                    needs.push(need);
                }
            }
        }
        needs
    }
}

/// Whether `roles` hold this one.
#[must_use]
pub fn grant(roles: &BTreeSet<String>, name: &str) -> Grant {
    if roles.contains(name) {
        return Grant::Given;
    }
    let wider = roles.iter().find(|role| is_wider(role, name));
    wider.map_or(Grant::Missing, |role| Grant::Wider(role.clone()))
}

/// `Thing.Verb` or `Thing.Verb.All`; who may write may read, and the directory's roles are about its users and groups.
fn is_wider(role: &str, than: &str) -> bool {
    let parts = |name: &str| {
        let (thing, rest) = name.split_once('.').unwrap_or((name, ""));
        let (verb, reach) = rest.split_once('.').unwrap_or((rest, ""));
        let verb = ["ReadBasic", "Read", "ReadWrite"].iter().position(|known| *known == verb);
        (thing.to_owned(), verb, reach.to_owned())
    };
    let ((thing, verb, reach), (wanted, least, wanted_reach)) = (parts(role), parts(than));
    let about = thing == wanted || thing == "Directory" && ["User", "Group"].contains(&wanted.as_str());
    about && reach == wanted_reach && verb.is_some() && least.is_some() && verb >= least
}

impl Playbooks {
    /// All subscriptions of the app, whatever playbooks there are.
    ///
    /// # Errors
    /// [`SubscriptionError`].
    pub async fn subscriptions(&self) -> Result<Vec<Listed>, SubscriptionError> {
        match &self.0 {
            Source::Given(asked) => match &asked.subscribing {
                Some(subscribing) => subscribing.reconciler.list().await,
                None => Ok(Vec::new()),
            },
            Source::Read(reading) => {
                let parts = &reading.parts;
                let public_url = parts.settings.public_url.as_ref();
                subscriptions::listed(&parts.state, &parts.graph(), public_url, parts.clock.now()).await
            }
        }
    }

    /// Lists the subscriptions where playbooks want some, reads the first of what is polled, and looks at what the token says of
    /// the app.
    pub async fn reach(&self, asked: &Asked) -> Reached {
        let Source::Read(reading) = &self.0 else { return Reached::default() };
        let mut reached = Reached::default();
        if !asked.wanted.is_empty() {
            let listed = reading.parts.graph().list().await;
            reached.subscriptions = Some(listed.map(|listed| listed.len()).map_err(|error| error.to_string()));
        }
        if let Some(poller) = &asked.poller {
            for source in poller.sources() {
                let probed = poller.probe(source).await;
                reached.polls.push((source.resource.clone(), probed.err().map(|error| error.to_string())));
            }
        }
        if reached.subscriptions.is_some() || !reached.polls.is_empty() {
            // Kept since the calls above, if there is one.
            let headers = reading.parts.bearer.headers(&Method::GET, "/").await;
            reached.roles = headers.ok().and_then(|headers| claims::roles(&headers));
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_allows_more_is_told_from_one_that_is_missing() {
        let of = |role: &str, name: &str| grant(&BTreeSet::from([role.to_owned()]), name);
        assert_eq!(of("User.Read.All", "User.Read.All"), Grant::Given);
        for (role, name) in [
            ("User.ReadWrite.All", "User.Read.All"),
            ("Directory.Read.All", "User.Read.All"),
            ("Mail.ReadWrite", "Mail.Read"),
            ("Chat.Read.All", "Chat.ReadBasic.All"),
        ] {
            assert_eq!(of(role, name), Grant::Wider(role.to_owned()));
        }
        for (role, name) in [
            ("Directory.Read.All", "Files.Read.All"),
            ("Files.Read.All", "Files.ReadWrite.All"),
            ("Mail.ReadBasic", "Mail.Read"),
            ("User.Invite.All", "User.Read.All"),
            ("ThreatIndicators.ReadWrite.OwnedBy", "ThreatIndicators.Read.All"),
        ] {
            assert_eq!(of(role, name), Grant::Missing, "{role}");
        }
    }
}
