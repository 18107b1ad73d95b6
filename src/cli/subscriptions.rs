//! `subscriptions plan|apply|list|delete|resources`: what is subscribed to at Microsoft Graph, and what it would be.

use std::fmt::Write as _;

use clap::Subcommand;
use serde_json::{Value, json};

use super::render::{self, printable};
use super::{Exit, failed};
use crate::app::App;
use crate::app::playbooks::Subscribing;
use crate::notifications::resources::{Fetch, Permission, RESOURCES, Resource, Rich};
use crate::subscriptions::{Change, Listed, Report, Standing, SubscriptionError, Unwanted};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Shows what `apply` would do, and does nothing.
    Plan {
        /// One JSON document on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Makes the subscriptions what the playbooks want; the timer does the same by itself.
    Apply {
        #[arg(long)]
        json: bool,
    },
    /// Lists all subscriptions of the app, with what is known of ours.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Deletes one of ours; `apply` and the timer make it anew while a playbook wants it.
    Delete { id: String },
    /// Shows what can be subscribed to: life, changes, permissions.
    Resources {
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: Command, app: &App) -> Exit {
    let asked = match app.playbooks.asked().await {
        Ok(asked) => asked,
        Err(error) => return failed(&error),
    };
    let Some(subscribing) = &asked.subscribing else {
        render::error(&asked.why_not);
        return Exit::Usage;
    };
    let unwanted = if subscribing.complete { Unwanted::Delete } else { Unwanted::Keep };
    match execute(command, subscribing, unwanted).await {
        Ok((text, exit)) => {
            render::print(&text);
            exit
        }
        Err(error @ SubscriptionError::Unknown(_)) => {
            render::error(&error.to_string());
            Exit::Usage
        }
        Err(error) => failed(&error.to_string()),
    }
}

async fn execute(command: Command, around: &Subscribing, unwanted: Unwanted) -> Result<(String, Exit), SubscriptionError> {
    let Subscribing { reconciler, wanted, complete } = around;
    Ok(match command {
        Command::Plan { json } => {
            let planned = reconciler.plan(wanted, unwanted).await?;
            let document = || json!({ "changes": planned.changes.iter().map(change_as_json).collect::<Vec<_>>(), "subscriptions": planned.standing });
            (if json { format!("{}\n", document()) } else { plan(&planned.changes, *complete) }, Exit::Done)
        }
        Command::Apply { json } => {
            let report = reconciler.run(wanted, unwanted, true).await?;
            let good =
                report.error.is_none() && report.paused_until.is_none() && report.done.iter().all(|done| done.error.is_none());
            let text = if json { format!("{}\n", json!(report)) } else { applied(&report) };
            (text, if good { Exit::Done } else { Exit::Failed })
        }
        Command::List { json } => {
            let listed = reconciler.list().await?;
            (if json { format!("{}\n", json!({ "subscriptions": listed })) } else { table(&listed) }, Exit::Done)
        }
        Command::Delete { id } => {
            reconciler.delete(&id).await?;
            (format!("deleted {id}\n"), Exit::Done)
        }
        Command::Resources { json } => (table_of_resources(json), Exit::Done),
    })
}

/// What, which one, of what, why.
fn parts(change: &Change) -> (&'static str, Option<&str>, &str, &str, Option<u32>) {
    match change {
        Change::Forget { id, resource, why } => ("forget", Some(id), resource, why, None),
        Change::Renew { id, resource, minutes, why } => ("renew", Some(id), resource, why, Some(*minutes)),
        Change::Reauthorize { id, resource, why } => ("reauthorize", Some(id), resource, why, None),
        Change::Adopt { id, wanted, why, .. } => ("adopt", Some(id), &wanted.resource, why, None),
        Change::Create { wanted, minutes, instead: None, why } => ("create", None, &wanted.resource, why, Some(*minutes)),
        Change::Create { wanted, minutes, instead: Some(id), why } => {
            ("replace", Some(id), &wanted.resource, why, Some(*minutes))
        }
        Change::Delete { id, resource, why, .. } => ("delete", Some(id), resource, why, None),
        Change::Wait { resource, why, .. } => ("wait", None, resource, why, None),
    }
}

fn change_as_json(change: &Change) -> Value {
    let (what, id, resource, why, minutes) = parts(change);
    let until = if let Change::Wait { until, .. } = change { Some(until) } else { None };
    json!({ "what": what, "id": id, "resource": resource, "why": why, "minutes": minutes, "until": until })
}

fn plan(changes: &[Change], complete: bool) -> String {
    let mut page = String::new();
    for change in changes {
        let (what, id, resource, why, minutes) = parts(change);
        let id = id.map(|id| format!(" [{}]", printable(id))).unwrap_or_default();
        let minutes = minutes.map(|minutes| format!(", for {}", span(minutes))).unwrap_or_default();
        let _ = writeln!(page, "{what:<11} {}{id}: {}{minutes}", printable(resource), render::reason(why));
    }
    if changes.is_empty() {
        page.push_str("nothing to do: every subscription is as the playbooks want it\n");
    }
    if !complete {
        page.push_str("note: not all playbooks could be read, so nothing is deleted\n");
    }
    page
}

fn applied(report: &Report) -> String {
    let mut page = String::new();
    for done in &report.done {
        let id = done.id.as_ref().map(|id| format!(" [{}]", printable(id))).unwrap_or_default();
        let said =
            done.error.as_ref().map_or_else(|| render::reason(&done.why), |error| format!("FAILED: {}", render::reason(error)));
        let _ = writeln!(page, "{:<11} {}{id}: {said}", done.what, printable(&done.resource));
    }
    if let Some(error) = &report.error {
        let _ = writeln!(page, "error: {}", render::reason(error));
    }
    if let Some(until) = report.paused_until {
        let _ = writeln!(page, "Microsoft Graph asks for a pause until {}", until.strftime("%Y-%m-%d %H:%M:%SZ"));
    }
    let alive = report.standing.iter().filter(|standing| standing.minutes_left > 0).count();
    let _ = writeln!(page, "{alive} of {} subscriptions are there", report.standing.len());
    page
}

fn table(listed: &[Listed]) -> String {
    let mut page = String::new();
    for one in listed {
        let _ = writeln!(
            page,
            "{}  {:<16} {} [{}]  until {}{}",
            printable(&one.id),
            one.change_type,
            printable(&one.resource),
            if one.ours { "ours" } else { "another's" },
            one.expires.strftime("%Y-%m-%d %H:%M:%SZ"),
            one.standing.as_ref().map(heartbeat).unwrap_or_default()
        );
    }
    let ours = listed.iter().filter(|one| one.ours).count();
    let _ = writeln!(page, "{} subscriptions of this app, {ours} of them ours", listed.len());
    page
}

fn heartbeat(standing: &Standing) -> String {
    let at =
        |at: Option<jiff::Timestamp>| at.map_or_else(|| "never".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
    let mut text = format!(
        "\n    {}, {} left of {}; renewed {}, last notification {}, last caught up {}; for {}",
        standing.state.name(),
        span(standing.minutes_left),
        span(standing.granted_minutes),
        at(standing.last_renewed),
        at(standing.last_notification),
        at(standing.last_catch_up),
        standing.playbooks.join(", ")
    );
    if let Some(problem) = &standing.problem {
        let _ = write!(text, "\n    {}", render::reason(problem));
    }
    text
}

fn span(minutes: u32) -> String {
    let (days, hours) = (minutes / 1_440, minutes % 1_440 / 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min"),
        (0, hours) => format!("{hours} h {} min", minutes % 60),
        (days, hours) => format!("{days} d {hours} h"),
    }
}

fn permission(resource: &Resource) -> String {
    match resource.permission {
        Permission::App { create, renew } if create == renew => create.to_owned(),
        Permission::App { create, renew } => format!("{create}; to renew {renew}"),
        Permission::DelegatedOnly(name) => format!("{name}, of a signed-in user only: not possible here"),
        Permission::Unknown => "not documented".to_owned(),
    }
}

fn changes(resource: &Resource) -> String {
    let names = |changes: &[crate::notifications::item::ChangeType]| {
        changes.iter().map(|change| change.name()).collect::<Vec<_>>().join(", ")
    };
    resource.changes.map_or_else(|| "not documented: all are let through".to_owned(), names)
}

/// The table, which needs no settings.
pub(super) fn table_of_resources(json: bool) -> String {
    if json { format!("{}\n", resources_as_json()) } else { resources() }
}

/// As a person reads it: what is to be put in the place of a segment.
fn shown(path: &str) -> String {
    path.replace("{}", "{id}")
}

fn resources() -> String {
    let mut page =
        "What playbooks can wait for. In place of `{id}` put an id: of the user, group, chat or whatever stands before it.\n\n"
            .to_owned();
    for resource in RESOURCES {
        let life = resource.minutes.map_or_else(|| "polled".to_owned(), span);
        let rich = if let Rich::Allowed(minutes) = resource.rich {
            format!(", {} with resource data", span(minutes))
        } else {
            String::new()
        };
        let _ = writeln!(page, "{} ({life}{rich})", resource.name);
        let _ = writeln!(page, "    {}", resource.paths.iter().map(|path| shown(path)).collect::<Vec<_>>().join(", "));
        let _ = writeln!(page, "    changes: {}", changes(resource));
        let _ = writeln!(page, "    permission: {}", permission(resource));
        if !resource.note.is_empty() {
            let _ = writeln!(page, "    {}", resource.note);
        }
    }
    page
}

fn resources_as_json() -> Value {
    let row = |resource: &Resource| {
        let fetch = match resource.fetch {
            Fetch::Resource => "resource",
            Fetch::Delta => "delta",
            Fetch::None => "none",
        };
        json!({
            "name": resource.name,
            "paths": resource.paths.iter().map(|path| shown(path)).collect::<Vec<_>>(),
            "minutes": resource.minutes,
            "rich_minutes": if let Rich::Allowed(minutes) = resource.rich { Some(minutes) } else { None },
            "changes": resource.changes.map(|changes| changes.iter().map(|change| change.name()).collect::<Vec<_>>()),
            "permission": permission(resource),
            "fetch": fetch,
            "note": resource.note,
        })
    };
    json!({ "resources": RESOURCES.iter().map(row).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscriptions::Done;

    #[test]
    fn a_plan_is_one_line_for_each_step() {
        let change = |id: &str| Change::Renew {
            id: id.to_owned(),
            resource: "users".to_owned(),
            minutes: 41_750,
            why: "half of its life is gone",
        };
        let gone =
            Change::Delete { id: "7d0c".to_owned(), resource: "groups".to_owned(), after: None, why: "no playbook wants it" };
        assert_eq!(
            plan(&[change("5522"), gone], false),
            "renew       users [5522]: half of its life is gone, for 28 d 23 h\n\
             delete      groups [7d0c]: no playbook wants it\n\
             note: not all playbooks could be read, so nothing is deleted\n"
        );
        assert!(plan(&[], true).starts_with("nothing to do"));
    }

    #[test]
    fn what_was_done_names_its_remedy_where_it_failed() {
        let done = |error: Option<&str>| Done {
            what: "created",
            id: None,
            resource: "users".to_owned(),
            why: "there is none".to_owned(),
            error: error.map(str::to_owned),
        };
        let report = Report { done: vec![done(None), done(Some("grant it"))], ..Report::default() };
        assert_eq!(
            applied(&report),
            "created     users: there is none\ncreated     users: FAILED: grant it\n0 of 0 subscriptions are there\n"
        );
    }
}
