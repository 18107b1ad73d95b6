//! `check`: reaches every remote with the least call; each failure names what to change.

mod notifications;

use std::fmt::Write as _;
use std::time::Duration;

use super::{Exit, render, show};
use crate::app::App;
use crate::export::{Job, QUEUE};
use crate::storage::{Place, poison_of};

/// Somebody looks at the screen: a vault that is away is told of before all tries of the official client are over.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

pub(super) async fn run(app: &App) -> Exit {
    let mut page = String::new();
    let mut good = true;
    let _ = writeln!(page, "ok    settings: {} job(s)", app.exporter.jobs().len());
    for note in &app.settings.notes {
        let _ = writeln!(page, "note  {note}");
    }
    if let Some(vault) = &app.vault {
        let _ = writeln!(page, "ok    vault: the secrets of {} can be read", vault.url());
        for (name, days) in vault.ending(app.exporter.now()) {
            let _ = writeln!(page, "note  vault: the secret `{name}` ends in {days} days; set a new version");
        }
    }
    good &= storage(app, &mut page).await;
    for job in app.exporter.jobs() {
        let mut line = |result: Result<String, String>| {
            good &= result.is_ok();
            let (word, text) = match &result {
                Ok(text) => ("ok   ", text),
                Err(text) => ("FAIL ", text),
            };
            let _ = writeln!(page, "{word} job {}: {text}", job.name);
        };
        line(source(job).await);
        let target = job.sink.destination();
        line(job.sink.probe().await.map(|()| format!("{} answers ({})", target.product, target.shown)).map_err(|e| e.message));
        let known = app.exporter.has_history(job).await;
        match known {
            Ok(true) => {}
            Ok(false) => {
                let _ = writeln!(
                    page,
                    "note  job {}: no complete run is known here. If this destination was written to before, its ledger was lost: what left ThreatConnect meanwhile goes when it expires",
                    job.name
                );
            }
            Err(error) => line(Err(error.to_string())),
        }
    }
    good &= notifications::check(app, &mut page).await;
    match app.exporter.registered().await {
        Ok(entries) => {
            for entry in entries.iter().filter(|entry| !show::is_configured(app, entry)) {
                let _ = writeln!(
                    page,
                    "note  job {} left {} ({}); what it brought stays until it expires, or `jobs retire {}`",
                    entry.job, entry.product, entry.shown, entry.job
                );
            }
        }
        Err(error) => {
            good = false;
            let _ = writeln!(page, "FAIL  state: {error}");
        }
    }
    render::print(&page);
    if good { Exit::Done } else { Exit::Failed }
}

/// Where state and queues are. The rows are read with each job.
async fn storage(app: &App, page: &mut String) -> bool {
    let place = match &app.settings.storage {
        Place::Embedded(path) => format!("the file {}", path.display()),
        Place::Azure(account) => format!("the storage account `{}`", account.name),
    };
    let poison = poison_of(QUEUE);
    let looked = async {
        app.queue.probe(QUEUE).await?;
        app.queue.count(&poison).await
    };
    match looked.await {
        Ok(count) => {
            let _ = writeln!(page, "ok    storage: {place}");
            if count > 0 {
                let messages = if count == 1 { "message" } else { "messages" };
                let _ = writeln!(
                    page,
                    "note  storage: `{poison}` holds {count} {messages} that could not be handled; the log says why"
                );
            }
            true
        }
        Err(error) => {
            let _ = writeln!(page, "FAIL  storage: {error}");
            false
        }
    }
}

async fn source(job: &Job) -> Result<String, String> {
    let owners = job.client.owners().await.map_err(|error| error.message)?;
    let readable: Vec<&str> = owners.iter().filter(|owner| owner.readable).map(|owner| owner.name.as_str()).collect();
    let missing: Vec<&String> = job.filter.owners.iter().filter(|name| !readable.contains(&name.as_str())).collect();
    if !missing.is_empty() {
        let missing: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
        return Err(format!(
            "OWNERS (guide: Owners) names {}, which the API user does not see; it sees: {}",
            missing.join(", "),
            readable.join(", ")
        ));
    }
    job.client.accepts(&job.filter).await.map_err(|error| error.message)?;
    Ok(format!("ThreatConnect answers; {} owners can be read; the query is accepted", readable.len()))
}
