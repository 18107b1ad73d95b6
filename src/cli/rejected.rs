//! `rejected list` and `rejected retry`: items that the target refused, with its reasons.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde_json::json;

use super::render::{self, number, printable};
use super::{Exit, Surroundings, export, failed, show};
use crate::app::App;
use crate::export::{LedgerError, Registered, Rejection, Request};
use crate::indicator::Kind;

/// What to list.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Of one job only.
    #[arg(long)]
    job: Option<String>,
    /// Of one type only: Address, Host, URL, MD5, …
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Of one ThreatConnect owner only.
    #[arg(long)]
    owner: Option<String>,
    /// Whose value contains this text.
    #[arg(long, value_name = "TEXT")]
    value: Option<String>,
    /// Whose reason contains this text.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[arg(long, value_enum, default_value_t = Shape::Table)]
    format: Shape,
    /// The same as `--format json`.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    Table,
    Json,
    Csv,
}

impl List {
    fn wants(&self, item: &Rejection) -> bool {
        let is = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(text));
        let lower = |text: &str| text.to_lowercase();
        let holds = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|w| lower(text).contains(&lower(w)));
        self.kind.as_ref().is_none_or(|wanted| names(item.kind).iter().any(|name| wanted.eq_ignore_ascii_case(name)))
            && is(&self.owner, &item.owner)
            && holds(&self.value, &item.value)
            && holds(&self.reason, &item.reason)
    }
}

/// What users call a kind.
fn names(kind: Kind) -> [&'static str; 3] {
    [kind.report_name(), kind.guide_name(), kind.type_name()]
}

/// One item and where it was refused.
struct Listed {
    product: String,
    item: Rejection,
}

pub(super) async fn list(app: &App, wanted: &List) -> Exit {
    let all = match of_all(app, wanted.job.as_deref()).await {
        Ok(all) => all,
        Err(error) => return failed(&error.to_string()),
    };
    let known = |name: &str| Kind::ALL.iter().any(|kind| names(*kind).iter().any(|known| known.eq_ignore_ascii_case(name)));
    if let Some(unknown) = wanted.kind.as_deref().filter(|name| !known(name)) {
        let types = Kind::ALL.map(Kind::report_name).join(", ");
        render::error(&format!("there is no type `{unknown}`; the types are {types}, and File for all hashes"));
        return Exit::Usage;
    }
    let configured = |name: &str| app.exporter.jobs().iter().any(|job| job.name == name);
    if let Some(unknown) = wanted.job.as_deref().filter(|name| all.is_empty() && !configured(name)) {
        return export::no_such_job(app, unknown);
    }
    let listed: Vec<Listed> = all
        .into_iter()
        .flat_map(|(entry, items)| items.into_iter().map(move |item| Listed { product: entry.product.clone(), item }))
        .filter(|listed| wanted.wants(&listed.item))
        .collect();
    match if wanted.json { Shape::Json } else { wanted.format } {
        Shape::Table => render::print(&table(&listed)),
        Shape::Json => render::print(&format!("{}\n", as_json(&listed))),
        Shape::Csv => match as_csv(&listed) {
            Ok(text) => render::print(&text),
            Err(error) => return failed(&format!("failed to write CSV: {error}")),
        },
    }
    Exit::Done
}

async fn of_all(app: &App, job: Option<&str>) -> Result<Vec<(Registered, Vec<Rejection>)>, LedgerError> {
    let mut all = Vec::new();
    for entry in app.exporter.registered().await?.into_iter().filter(|entry| job.is_none_or(|job| entry.job == job)) {
        let items = app.exporter.rejections(&entry).await?;
        all.push((entry, items));
    }
    Ok(all)
}

fn table(listed: &[Listed]) -> String {
    let mut page = String::new();
    for Listed { product, item } in listed {
        let id = item.correlation.as_ref().map(|id| format!(" [{id}]")).unwrap_or_default();
        let _ = writeln!(
            page,
            "{}  {:<13} {}  (indicator {} of {}, job {} → {product}): {}{id}",
            item.at.strftime("%Y-%m-%d %H:%M:%SZ"),
            item.kind.report_name(),
            printable(&item.value),
            item.id,
            printable(&item.owner),
            item.job,
            render::reason(&item.reason)
        );
    }
    let _ = writeln!(page, "{} rejected", number(listed.len() as u64));
    page
}

fn as_json(listed: &[Listed]) -> serde_json::Value {
    let items = listed.iter().map(|Listed { product, item }| {
        let mut value = serde_json::to_value(item).unwrap_or_default();
        value["target_product"] = product.as_str().into();
        value["kind"] = item.kind.report_name().into();
        value
    });
    json!({ "rejected": items.collect::<Vec<_>>() })
}

/// One line per item below a head; values that a spreadsheet would take for a formula get a quote in front.
fn as_csv(listed: &[Listed]) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "at",
        "job",
        "target_product",
        "type",
        "value",
        "owner",
        "indicator",
        "reason",
        "correlation",
        "run",
    ])?;
    for Listed { product, item } in listed {
        writer.write_record([
            item.at.to_string(),
            item.job.clone(),
            product.clone(),
            item.kind.report_name().to_owned(),
            tame(&item.value),
            tame(&item.owner),
            item.id.to_string(),
            tame(&item.reason),
            item.correlation.clone().unwrap_or_default(),
            item.run.clone(),
        ])?;
    }
    let bytes = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn tame(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

/// Sends again what was refused: a full run of each job that has something refused.
pub(super) async fn retry(app: &App, job: Option<&str>, as_json: bool, around: &Surroundings) -> Exit {
    if let Some(unknown) = job.filter(|name| !app.exporter.jobs().iter().any(|job| job.name == **name)) {
        return export::no_such_job(app, unknown);
    }
    let all = match of_all(app, job).await {
        Ok(all) => all,
        Err(error) => return failed(&error.to_string()),
    };
    let with: Vec<&Registered> = all.iter().filter(|(_, items)| !items.is_empty()).map(|(entry, _)| entry).collect();
    let here = app.exporter.jobs().iter().filter(|job| with.iter().any(|entry| show::is_of(job, entry)));
    let jobs: Vec<String> = here.map(|job| job.name.clone()).collect();
    if jobs.is_empty() {
        render::print(if as_json { "{\"runs\":[]}\n" } else { "0 rejected: nothing to send again\n" });
        return Exit::Done;
    }
    let request = Request { full: true, retry_rejected: true, budget: app.settings.time_budget, ..Request::default() };
    export::run_jobs(app, around, &jobs, request, as_json).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_a_formula_in_a_spreadsheet() {
        assert_eq!((tame("=cmd|' /C calc'!A0").as_str(), tame("h1.example").as_str()), ("'=cmd|' /C calc'!A0", "h1.example"));
    }
}
