//! `export` and `jobs retire`: one run now.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Exit, Surroundings, failed, render};
use crate::app::{App, names};
use crate::export::{Exporter, Job, Journal, Progress, Report, Request};
use crate::storage::sqlite::SqliteStore;

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Arguments {
    /// One job only.
    #[arg(long)]
    job: Option<String>,
    /// Does everything but send and store.
    #[arg(long)]
    dry_run: bool,
    /// Reads everything that the filters match, whatever is due.
    #[arg(long)]
    full: bool,
    /// Sends everything, also what is unchanged (after the target was changed behind our back).
    #[arg(long)]
    resend: bool,
    /// A folder for lists (added, changed, skipped with reasons, …) and the exact payloads, as JSON lines; one folder per job if there are several.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Fills the places that Indicator Reserve Count keeps free, in this run.
    #[arg(long)]
    use_reserve: bool,
    /// One JSON document on standard output, nothing else there.
    #[arg(long)]
    json: bool,
    /// Approves the withdrawal that the job's last full run refused, and runs the job in full.
    #[arg(long, value_name = "JOB", conflicts_with_all = ["job", "dry_run"])]
    approve_withdraw: Option<String>,
}

pub(super) async fn run(arguments: Arguments, app: &App, around: &Surroundings) -> Exit {
    let exporter = &app.exporter;
    let wanted = arguments.approve_withdraw.as_deref().or(arguments.job.as_deref());
    let jobs: Vec<&Job> = exporter.jobs().iter().filter(|job| wanted.is_none_or(|name| job.name == name)).collect();
    if jobs.is_empty() {
        return no_such_job(app, wanted.unwrap_or_default());
    }
    if arguments.approve_withdraw.is_some() {
        match exporter.approve_withdrawal(jobs[0]).await {
            Ok(refused) => tracing::info!(job = jobs[0].name, rows = refused.rows, "the withdrawal is approved"),
            Err(error) => return failed(&error.to_string()),
        }
    }
    let preview;
    let exporter = if arguments.dry_run {
        let scratch = match SqliteStore::open_in_memory(Arc::clone(&around.clock)) {
            Ok(scratch) => Arc::new(scratch),
            Err(error) => return failed(&error.to_string()),
        };
        preview = exporter.preview(scratch);
        &preview
    } else {
        exporter
    };
    let request = Request {
        full: arguments.full || arguments.resend || arguments.use_reserve || arguments.approve_withdraw.is_some(),
        resend: arguments.resend,
        retry_rejected: false,
        use_reserve: arguments.use_reserve,
        budget: app.settings.time_budget,
    };
    let several = jobs.len() > 1;
    let mut all = All::new(around, arguments.json);
    for name in jobs.iter().map(|job| &job.name) {
        let folder = arguments.out.as_ref().map(|out| if several { out.join(name) } else { out.clone() });
        if let Err(error) = all.add(exporter, name, &request, folder, arguments.dry_run).await {
            return failed(&error);
        }
    }
    all.finish()
}

/// Runs these jobs as `request` says, one after the other: one that fails does not stop the others.
pub(super) async fn run_jobs(app: &App, around: &Surroundings, jobs: &[String], request: Request, as_json: bool) -> Exit {
    let mut all = All::new(around, as_json);
    for name in jobs {
        if let Err(error) = all.add(&app.exporter, name, &request, None, false).await {
            return failed(&error);
        }
    }
    all.finish()
}

pub(super) fn no_such_job(app: &App, name: &str) -> Exit {
    let known: Vec<&str> = app.exporter.jobs().iter().map(|job| job.name.as_str()).collect();
    render::error(&format!("there is no job `{name}`; the jobs are {}", known.join(", ")));
    Exit::Usage
}

/// The runs of one call, and how they are told.
struct All<'a> {
    around: &'a Surroundings,
    as_json: bool,
    reports: Vec<Report>,
    exit: Exit,
    /// By Ctrl-C: no further job begins.
    stopped: bool,
}

impl<'a> All<'a> {
    fn new(around: &'a Surroundings, as_json: bool) -> Self {
        Self { around, as_json, reports: Vec::new(), exit: Exit::Done, stopped: false }
    }

    /// # Errors
    /// The lists that were asked for cannot be written.
    async fn add(
        &mut self,
        exporter: &Exporter,
        name: &str,
        request: &Request,
        folder: Option<PathBuf>,
        dry_run: bool,
    ) -> Result<(), String> {
        let Some(job) = exporter.jobs().iter().find(|job| job.name == name && !self.stopped) else { return Ok(()) };
        let progress =
            folder.map_or_else(|| Ok(Progress::default()), |folder| Journal::new(&folder).map(Progress::with_journal))?;
        let visible = !self.as_json && std::io::stderr().is_terminal();
        let mut report = one(exporter, job, request, &progress, &bar(name, visible), self.around).await;
        report.dry_run = dry_run;
        self.around.telemetry.record(&report);
        self.stopped = progress.is_stopped();
        if let Some(journal) = progress.into_journal() {
            journal.finish()?;
        }
        self.exit = worse(self.exit, exit_of(&report));
        if !self.as_json {
            render::print(&format!("{}\n", render::report(&report)));
        }
        self.reports.push(report);
        Ok(())
    }

    fn finish(self) -> Exit {
        if self.as_json {
            let text = serde_json::to_string(&json!({ "runs": self.reports })).unwrap_or_default();
            render::print(&format!("{text}\n"));
        } else if self.reports.len() > 1 {
            render::print(&render::summary(&self.reports));
        }
        // On a terminal the report above says it already.
        for report in self.reports.iter().filter(|_| self.as_json || !std::io::stderr().is_terminal()) {
            for line in report.error.iter().cloned().chain(render::refusal(report)) {
                tracing::error!(job = report.job, "{line}");
            }
        }
        self.exit
    }
}

async fn one(
    exporter: &Exporter,
    job: &Job,
    request: &Request,
    progress: &Progress,
    bar: &ProgressBar,
    around: &Surroundings,
) -> Report {
    let (run, worker) = names();
    let mut work = std::pin::pin!(exporter.run(job, request, (&run, &worker), progress));
    let report = loop {
        tokio::select! {
            report = &mut work => break report,
            () = around.clock.alarm(Duration::from_millis(100)) => draw(bar, progress),
            _ = tokio::signal::ctrl_c() => {
                tracing::warn!("saving the place; the next export goes on from there");
                progress.stop();
            }
        }
    };
    bar.finish_and_clear();
    report
}

fn bar(job: &str, visible: bool) -> ProgressBar {
    let bar =
        ProgressBar::with_draw_target(None, if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
    let style = ProgressStyle::with_template("{prefix:>12} [{bar:30}] {human_pos}/{human_len} indicators  {msg}  {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.set_prefix(job.to_owned());
    bar
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    let now = progress.now();
    bar.set_length(now.expected.max(now.read));
    bar.set_position(now.settled);
    bar.set_message(format!("{} accepted", render::number(now.accepted)));
}

pub(super) fn exit_of(report: &Report) -> Exit {
    if report.error.is_some() || report.refused_withdrawal.is_some() || (!report.complete && !report.dry_run) {
        Exit::Failed
    } else if report.changes.newly_rejected > 0 {
        Exit::Rejections
    } else {
        Exit::Done
    }
}

fn worse(one: Exit, other: Exit) -> Exit {
    if one.severity() >= other.severity() { one } else { other }
}

pub(super) async fn retire(app: &App, name: &str) -> Exit {
    let (run, worker) = names();
    match app.exporter.retire(name, (&run, &worker), &Progress::default()).await {
        Ok(retired) => {
            for one in retired {
                let line = format!(
                    "{}: {} claims of `{name}` ended, {} rows withdrawn (the others have another job)\n",
                    one.destination,
                    render::number(one.claims),
                    render::number(one.withdrawn)
                );
                render::print(&line);
            }
            Exit::Done
        }
        Err(error) => {
            render::error(&error.to_string());
            Exit::Failed
        }
    }
}
