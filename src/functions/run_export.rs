//! `RunExport`: works on the run that a message names, within the time budget.

use std::sync::Arc;

use super::{Answer, Envelope, Failure, Function, Relay, Trigger};
use crate::app::names;
use crate::export::{Handled, Mode, Progress, QUEUE, Report};

const BINDING: &str = "message";

pub(super) const FUNCTION: Function = Function {
    name: "RunExport",
    trigger: Trigger::Queue { binding: BINDING, queue: QUEUE },
    answer: Answer::Envelope(|relay, envelope| Box::pin(answer(relay, envelope))),
};

async fn answer(relay: Arc<Relay>, envelope: Envelope) -> Result<(), Failure> {
    let text = envelope.message(BINDING).unwrap_or_default();
    tracing::debug!(dequeue_count = envelope.dequeue_count(), "a message came");
    let (app, budget) = relay.app().await?;
    let (run, worker) = names();
    let (queue, progress) = (app.queue.as_ref(), Progress::default());
    let Some(opened) = queue.open(&text).await.map_err(Failure::new)? else {
        // Most often handled before. Else a run is lost, and the next tick begins another.
        tracing::warn!("the message's body is gone from the storage: it was handled before, or somebody has deleted it");
        return Ok(());
    };
    let handled = app.exporter.handle(queue, &opened.body, (&run, &worker), budget, &progress).await;
    let handled = handled.map_err(Failure::new)?;
    // The host deletes the message when we answer; its body is ours. The work is done, whatever becomes of it.
    if let Err(error) = queue.discard(&opened).await {
        tracing::warn!("{error}; the body of a message that was handled stays there");
    }
    match handled {
        Handled::Over(Some(report)) => {
            app.telemetry.record(&report);
            tell(&report);
        }
        Handled::Over(None) => tracing::info!("the message names a run that is over: nothing to do"),
        Handled::Later(wait, Some(report)) => put_off(wait.as_secs(), &report),
        Handled::Later(wait, None) => {
            tracing::info!(
                seconds = wait.as_secs(),
                "the run waits: its time has not come, or another run is at the destination"
            );
        }
    }
    Ok(())
}

/// The run goes on in another invocation: its budget is over, or the other side asks for a pause.
fn put_off(seconds: u64, report: &Report) {
    let (job, run, indicators) = (&report.job, &report.run, report.read.indicators);
    match &report.error {
        None => tracing::info!(job, run, indicators, seconds, "the run goes on in another invocation"),
        Some(error) => tracing::warn!(job, run, indicators, seconds, error, "the run is tried again later: {error}"),
    }
}

/// The lines that a run which is over writes; alerts wait for them.
fn tell(report: &Report) {
    let (job, run, outcomes) = (&report.job, &report.run, &report.outcomes);
    tracing::info!(
        event = "run.finished",
        job,
        run,
        target_product = report.target_product,
        delivery = report.delivery,
        mode = if report.mode == Mode::Full { "full" } else { "incremental" },
        complete = report.complete,
        indicators = report.read.indicators,
        observables = report.read.observables,
        accepted = outcomes.accepted,
        unchanged = outcomes.unchanged,
        duplicate = outcomes.duplicate,
        skipped = outcomes.skipped,
        rejected = outcomes.rejected,
        over_cap = outcomes.over_cap,
        unanswered = outcomes.unanswered,
        withdrawn = report.withdrawn,
        newly_rejected = report.changes.newly_rejected,
        duration_ms = report.duration_ms,
        "a run of job `{job}` is over"
    );
    if let Some(error) = &report.error {
        tracing::error!(event = "run.failed", job, run, error, "a run of job `{job}` failed: {error}");
    }
    if let Some(refused) = &report.refused_withdrawal {
        let (rows, of) = (refused.rows, refused.of);
        tracing::warn!(
            event = "withdrawal.refused",
            job,
            rows,
            of,
            "job `{job}` would take back {rows} of {of}; if that is right, `indicator-relay export --approve-withdraw {job}`"
        );
    }
    if report.changes.newly_rejected > 0 {
        let newly_rejected = report.changes.newly_rejected;
        tracing::warn!(
            event = "items.rejected",
            job,
            newly_rejected,
            "the target refused {newly_rejected} items of job `{job}` that it had not refused before; `indicator-relay rejected list` says why"
        );
    }
}
