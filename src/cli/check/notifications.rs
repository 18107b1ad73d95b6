//! What `check` says of playbooks: their document, whether Microsoft Graph can be reached and may be asked, and whether it would
//! reach us.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use crate::app::App;
use crate::app::playbooks::reach::{Grant, Needed, Reached, grant};
use crate::app::playbooks::{Asked, Subscribing};

/// What lives shortest is renewed in time by a timer that is no slower (presence: an hour, renewed at half of it).
const SLOWEST: Duration = Duration::from_secs(600);

/// False if something has to be mended.
pub(super) async fn check(app: &App, page: &mut String) -> bool {
    let asked = match app.playbooks.asked().await {
        Ok(asked) => asked,
        Err(error) => {
            let _ = writeln!(page, "FAIL  playbooks: {error}");
            return false;
        }
    };
    if asked.document.is_empty() {
        let name = &app.settings.notifications.playbooks_file;
        let _ = match &asked.missing {
            Some(missing) => writeln!(page, "FAIL  playbooks: {missing}"),
            None => writeln!(page, "note  playbooks: none ({name} does not exist)"),
        };
        return asked.missing.is_none();
    }
    for line in &asked.check.0 {
        let _ = writeln!(page, "{line}");
    }
    let mut good = asked.check.1;
    good &= address(&asked, page).await;
    let reached = app.playbooks.reach(&asked).await;
    good &= remote(&reached, page);
    good &= permissions(&asked, reached.roles.as_ref(), page);
    if let Some((_, _, told)) = asked.ending(app.exporter.now()) {
        let _ = writeln!(page, "note  notifications: {told}");
    }
    if !asked.wanted.is_empty() && app.settings.notifications.subscription_schedule.longest_gap() > SLOWEST {
        let _ = writeln!(
            page,
            "note  notifications: SUBSCRIPTION_SCHEDULE lets more than {} minutes pass: subscriptions that live for an hour may end before they are renewed; keep it at {0} minutes or less",
            SLOWEST.as_secs() / 60
        );
    }
    good
}

/// Whether Microsoft Graph would reach us.
async fn address(asked: &Asked, page: &mut String) -> bool {
    let problem = match &asked.subscribing {
        Some(Subscribing { wanted, .. }) if wanted.is_empty() => return true,
        None if asked.wanted.is_empty() => return true,
        Some(subscribing) => subscribing.reconciler.probe().await.err(),
        None => Some(asked.why_not.clone()),
    };
    let _ = match &problem {
        None => writeln!(page, "ok    notifications: the address of PUBLIC_URL answers as Microsoft Graph wants it"),
        Some(problem) => writeln!(page, "FAIL  notifications: {problem}"),
    };
    problem.is_none()
}

/// Whether Microsoft Graph can be reached.
fn remote(reached: &Reached, page: &mut String) -> bool {
    let mut good = true;
    match &reached.subscriptions {
        None => {}
        Some(Ok(count)) => {
            let of = if *count == 1 { "subscription" } else { "subscriptions" };
            let _ = writeln!(page, "ok    notifications: Microsoft Graph answers; this app has {count} {of} there");
        }
        Some(Err(error)) => {
            good = false;
            let _ = writeln!(page, "FAIL  notifications: {error}");
        }
    }
    for (resource, problem) in &reached.polls {
        good &= problem.is_none();
        let _ = match problem {
            None => writeln!(page, "ok    notifications: {resource} can be read"),
            Some(problem) => writeln!(page, "FAIL  notifications: {problem}"),
        };
    }
    good
}

/// What the app must be permitted, and whether it is, as far as its token tells.
fn permissions(asked: &Asked, roles: Option<&BTreeSet<String>>, page: &mut String) -> bool {
    let mut good = true;
    for need in asked.needs() {
        let resource = &need.resource;
        let (name, renews) = match need.what {
            Needed::Role { name, renews } => (name, if renews { " to renew" } else { "" }),
            Needed::Told(text) => {
                let _ = writeln!(page, "note  notifications: {resource} {text}");
                continue;
            }
        };
        let _ = match roles.map(|roles| grant(roles, name)) {
            None => writeln!(page, "note  notifications: {resource} needs {name}{renews}"),
            Some(Grant::Given) => writeln!(page, "ok    notifications: {resource}: {name}{renews} is granted"),
            Some(Grant::Wider(role)) => writeln!(
                page,
                "note  notifications: {resource} needs {name}{renews}; the app has {role}, which allows more and may do"
            ),
            Some(Grant::Missing) => {
                good = false;
                writeln!(
                    page,
                    "FAIL  notifications: {resource} needs {name}{renews}, which the app has not been granted; an administrator of the tenant consents"
                )
            }
        };
    }
    good
}
