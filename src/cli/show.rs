//! Commands that only look: `runs`, `explain`.

use std::fmt::Write as _;

use serde_json::json;

use super::render::{self, number, printable};
use super::{Exit, export, failed};
use crate::app::App;
use crate::export::{Explanation, Job, Registered};

pub(super) async fn runs(app: &App, as_json: bool, last: usize) -> Exit {
    match runs_of_all(app, as_json, last).await {
        Ok(text) => {
            render::print(&text);
            Exit::Done
        }
        Err(error) => failed(&error.to_string()),
    }
}

async fn runs_of_all(app: &App, as_json: bool, last: usize) -> Result<String, crate::export::LedgerError> {
    let mut page = String::new();
    let mut all = Vec::new();
    for entry in app.exporter.registered().await? {
        let left = if is_configured(app, &entry) { "" } else { " (no longer configured; `jobs retire` withdraws what it left)" };
        let _ = writeln!(page, "{} → {} ({}){left}", entry.job, entry.product, entry.shown);
        let reports: Vec<_> = app.exporter.history(&entry).await?.into_iter().take(last).collect();
        for report in &reports {
            let state = match (export::exit_of(report), &report.error) {
                (_, Some(error)) => printable(error),
                (Exit::Failed, None) => "withdrawal refused".to_owned(),
                _ => "complete".to_owned(),
            };
            let _ = writeln!(
                page,
                "  {}  {:<11} read {:>9}  accepted {:>9}  withdrawn {:>6}  {state}",
                report.started.strftime("%Y-%m-%d %H:%M:%SZ"),
                format!("{:?}", report.mode).to_lowercase(),
                number(report.read.indicators),
                number(report.outcomes.accepted),
                number(report.withdrawn)
            );
        }
        all.push(json!({"job": entry.job, "product": entry.product, "destination": entry.shown, "configured": left.is_empty(), "runs": reports}));
    }
    if all.is_empty() {
        page.push_str("no run yet; `indicator-relay export` does one\n");
    }
    Ok(if as_json { format!("{}\n", json!({ "jobs": all })) } else { page })
}

pub(super) fn is_configured(app: &App, entry: &Registered) -> bool {
    app.exporter.jobs().iter().any(|job| is_of(job, entry))
}

/// The job still writes where it was registered.
pub(super) fn is_of(job: &Job, entry: &Registered) -> bool {
    job.name == entry.job && job.sink.destination().fingerprint == entry.destination
}

pub(super) async fn explain(app: &App, value: &str, as_json: bool) -> Exit {
    let mut all = Vec::new();
    for job in app.exporter.jobs() {
        match app.exporter.explain(job, value).await {
            Ok(explanation) => all.push(explanation),
            Err(error) => return failed(&error.to_string()),
        }
    }
    if as_json {
        render::print(&format!("{}\n", json!({ "value": value, "jobs": all })));
    } else {
        let page: Vec<String> = all.iter().map(explained).collect();
        render::print(&page.join("\n"));
    }
    Exit::Done
}

fn explained(explanation: &Explanation) -> String {
    let mut page = String::new();
    let _ = writeln!(page, "Job {} → {}\n  {}", explanation.job, explanation.destination, explanation.verdict);
    for indicator in &explanation.indicators {
        let value = |text: Option<String>| text.unwrap_or_else(|| "unset".to_owned());
        let _ = writeln!(
            page,
            "  in ThreatConnect: indicator {} of {} ({}{}), modified {}; score {}, rating {}, confidence {}",
            indicator.id,
            indicator.owner,
            indicator.type_name,
            if indicator.active { "" } else { ", inactive" },
            indicator.last_modified,
            value(indicator.threat_assess_score.map(|n| n.to_string())),
            value(indicator.threat_rating.clone()),
            value(indicator.confidence.map(|n| n.to_string()))
        );
        for (key, passes) in &indicator.filters {
            let _ = writeln!(page, "    {} {key}", if *passes { "passes" } else { "FAILS " });
        }
        if let Some(skipped) = &indicator.skipped {
            let _ = writeln!(page, "    not sent by this job: {skipped}");
        }
        if let Some(payload) = &indicator.payload {
            let _ = writeln!(page, "    its content would be: {payload}");
        }
    }
    for target in &explanation.targets {
        let state = match (target.at_target, target.withdrawn) {
            (true, _) => "at the target",
            (false, true) => "withdrawn from the target",
            (false, false) => "not at the target",
        };
        let _ = writeln!(
            page,
            "  {} {} is {state}, as {}",
            target.kind,
            printable(&target.value),
            target.remote_id.as_ref().unwrap_or(&target.external_id)
        );
        if let Some(winner) = &target.winner {
            let _ = writeln!(page, "    shows the content of {winner}");
        }
        for claim in &target.claims {
            let _ = writeln!(page, "    claimed by {claim}");
        }
        if let Some(sent) = target.last_sent {
            let expires = target.expires.map_or_else(|| "unknown".to_owned(), |at| at.to_string());
            let _ = writeln!(page, "    last sent {sent}, expires {expires}");
        }
        if let Some(rejection) = &target.rejection {
            let _ = writeln!(page, "    refused {}: {}", rejection.at, render::reason(&rejection.reason));
        }
    }
    page
}
