//! `subscriptions plan|apply|list|delete|resources`: what is subscribed to at Microsoft Graph, and what it would be.

use std::fmt::Write as _;

use clap::Subcommand;
use serde_json::{Value, json};

use super::render::{self, printable};
use super::{Exit, failed};
use crate::app::App;
use crate::app::playbooks::{Asked, Subscribing};
use crate::notifications::resources::{Fetch, Permission, RESOURCES, Resource, Rich};
use crate::notifications::wanted::Wanted;
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
    let asked = app.playbooks.asked().await;
    let mistakes = complain(asked.as_deref());
    if let Command::List { json } = command {
        return match app.playbooks.subscriptions().await {
            Ok(listed) => {
                render::print(&if json { format!("{}\n", json!({ "subscriptions": listed })) } else { table(&listed) });
                mistakes.unwrap_or(Exit::Done)
            }
            Err(error) => failed(&error.to_string()),
        };
    }
    let Ok(asked) = asked else { return Exit::Failed };
    let Some(subscribing) = &asked.subscribing else {
        if mistakes.is_none() || !asked.wanted.is_empty() {
            render::error(&asked.why_not);
        }
        return Exit::Usage;
    };
    match execute(command, &asked, subscribing).await {
        Ok((text, exit)) => {
            render::print(&text);
            mistakes.unwrap_or(exit)
        }
        Err(error @ SubscriptionError::Unknown(_)) => {
            render::error(&error.to_string());
            Exit::Usage
        }
        Err(error) => failed(&error.to_string()),
    }
}

/// Says what is wrong with the document, before all else; none: nothing is.
fn complain(asked: Result<&Asked, &String>) -> Option<Exit> {
    let asked = match asked {
        Ok(asked) => asked,
        Err(error) => return Some(failed(error)),
    };
    if asked.mistakes.is_empty() {
        return None;
    }
    for mistake in &asked.mistakes {
        render::error(mistake);
    }
    if asked.playbooks == 0 {
        render::error("no playbook could be read: mend the mistakes above; until then subscriptions are kept as they are");
        return Some(Exit::Usage);
    }
    render::error("some playbooks are left out: mend the mistakes above; until then nothing is deleted");
    Some(Exit::Failed)
}

async fn execute(
    command: Command,
    asked: &Asked,
    Subscribing { reconciler, wanted, complete }: &Subscribing,
) -> Result<(String, Exit), SubscriptionError> {
    let unwanted = if *complete { Unwanted::Delete } else { Unwanted::Keep };
    let address = |wanted: &Wanted| reconciler.address_of(wanted);
    Ok(match command {
        Command::Plan { json } => {
            let planned = reconciler.plan(wanted, unwanted).await?;
            let document = || {
                let changes: Vec<Value> = planned.changes.iter().map(|change| change_as_json(change, &address)).collect();
                json!({ "changes": changes, "subscriptions": planned.standing, "problems": asked.mistakes })
            };
            let text = if json { format!("{}\n", document()) } else { plan(&planned.changes, *complete, &address) };
            (text, Exit::Done)
        }
        Command::Apply { json } => {
            let report = reconciler.run(wanted, unwanted, true).await?;
            let good = report.error.is_none()
                && report.paused_until.is_none()
                && report.done.iter().all(|done| done.error.is_none())
                && report.count.there == report.count.wanted;
            let text = if json {
                let mut document = json!(report);
                document["problems"] = json!(asked.mistakes);
                format!("{document}\n")
            } else {
                applied(&report)
            };
            (text, if good { Exit::Done } else { Exit::Failed })
        }
        Command::Delete { id } => {
            reconciler.delete(&id).await?;
            (format!("deleted {id}\n"), Exit::Done)
        }
        Command::Resources { json } => (table_of_resources(json), Exit::Done),
        Command::List { .. } => (String::new(), Exit::Done),
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

/// What a step makes.
fn made(change: &Change) -> Option<&Wanted> {
    match change {
        Change::Create { wanted, .. } | Change::Adopt { wanted, .. } => Some(wanted),
        _ => None,
    }
}

fn change_as_json(change: &Change, address: &dyn Fn(&Wanted) -> String) -> Value {
    let (what, id, resource, why, minutes) = parts(change);
    let until = if let Change::Wait { until, .. } = change { Some(until) } else { None };
    let wanted = made(change);
    json!({
        "what": what,
        "id": id,
        "resource": resource,
        "why": why,
        "minutes": minutes,
        "until": until,
        "change_type": wanted.map(Wanted::change_type),
        "notification_url": wanted.map(address),
        "playbooks": wanted.map(|wanted| &wanted.playbooks),
    })
}

fn plan(changes: &[Change], complete: bool, address: &dyn Fn(&Wanted) -> String) -> String {
    let mut page = String::new();
    for change in changes {
        let (what, id, resource, why, minutes) = parts(change);
        let id = id.map(|id| format!(" [{}]", printable(id))).unwrap_or_default();
        let minutes = minutes.map(|minutes| format!("; lasts {}", span(minutes))).unwrap_or_default();
        let _ = writeln!(page, "{what:<11} {}{id}: {}{minutes}", printable(resource), render::whole(why));
        if let Some(wanted) = made(change) {
            let (changes, playbooks) = (wanted.change_type().replace(',', ", "), wanted.playbooks.join(", "));
            let _ = writeln!(page, "            tells of {changes}; to {}; for {}", address(wanted), printable(&playbooks));
        }
    }
    if changes.is_empty() && complete {
        page.push_str("nothing to do: every subscription is as the playbooks want it\n");
    }
    if !complete {
        page.push_str("note: not all playbooks could be read, so nothing is deleted\n");
    }
    page
}

/// A reason stands whole, once: what fails for the same one refers to it.
fn applied(report: &Report) -> String {
    let mut page = String::new();
    let mut told: Vec<&String> = Vec::new();
    for done in &report.done {
        let id = done.id.as_ref().map(|id| format!(" [{}]", printable(id))).unwrap_or_default();
        let resource = printable(&done.resource);
        let _ = match &done.error {
            None => writeln!(page, "{:<11} {resource}{id}: {}", done.what, render::whole(&done.why)),
            Some(error) if told.contains(&error) => writeln!(page, "{resource}{id}: not {}, for the same reason", done.what),
            Some(error) => {
                told.push(error);
                writeln!(page, "{resource}{id}: not {}: {}", done.what, render::whole(error))
            }
        };
    }
    if let Some(error) = report.error.as_ref().filter(|error| !told.contains(error)) {
        let _ = writeln!(page, "error: {}", render::whole(error));
    }
    if let Some(until) = report.paused_until {
        let _ = writeln!(page, "Microsoft Graph asks for a pause until {}", until.strftime("%Y-%m-%d %H:%M:%SZ"));
    }
    let _ = writeln!(page, "{}", report.count);
    page
}

fn subscriptions(count: usize) -> String {
    if count == 1 { "1 subscription".to_owned() } else { format!("{count} subscriptions") }
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
    let _ = writeln!(page, "{} of this app, {ours} of them ours", subscriptions(listed.len()));
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
        let next = standing.next_try.map(|next| format!("; tried again after {}", at(Some(next)))).unwrap_or_default();
        let _ = write!(text, "\n    {}{next}", render::whole(problem));
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
    use crate::notifications::item::ChangeType;
    use crate::subscriptions::{Count, Done};

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
        let address = |_: &Wanted| "https://relay.example/api/notifications".to_owned();
        let wanted = Wanted {
            tenant: "default".to_owned(),
            resource: "groups".to_owned(),
            change_types: vec![ChangeType::Updated, ChangeType::Deleted],
            rich: false,
            lifecycle: true,
            minutes: None,
            profile: None,
            urgent: false,
            playbooks: vec!["one".to_owned(), "two".to_owned()],
        };
        let create = Change::Create { wanted, minutes: 60, instead: None, why: "there is none" };
        assert_eq!(
            plan(&[change("5522"), create, gone], false, &address),
            "renew       users [5522]: half of its life is gone; lasts 28 d 23 h\n\
             create      groups: there is none; lasts 1 h 0 min\n            \
             tells of deleted, updated; to https://relay.example/api/notifications; for one, two\n\
             delete      groups [7d0c]: no playbook wants it\n\
             note: not all playbooks could be read, so nothing is deleted\n"
        );
        assert!(plan(&[], true, &address).starts_with("nothing to do"));
        assert!(!plan(&[], false, &address).contains("nothing to do"), "nobody knows");
    }

    #[test]
    fn what_was_not_done_names_its_remedy_whole_and_once() {
        let done = |resource: &str, error: Option<&String>| Done {
            what: "created",
            id: None,
            resource: resource.to_owned(),
            why: "there is none".to_owned(),
            error: error.cloned(),
        };
        let long = format!("{} Connection refused", "grant it ".repeat(40));
        let all = vec![done("users", None), done("groups", Some(&long)), done("users/x/messages", Some(&long))];
        let report = Report { done: all, error: Some(long.clone()), count: Count { wanted: 2, there: 0 }, ..Report::default() };
        assert_eq!(
            applied(&report),
            format!(
                "created     users: there is none\ngroups: not created: {long}\nusers/x/messages: not created, for the same reason\n\
                 0 of 2 subscriptions are there\n"
            )
        );
    }
}
