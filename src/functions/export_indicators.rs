//! `ExportIndicators`: each minute, one message per job that is due, and a look at what nobody else would notice.

use std::sync::Arc;

use super::{Answer, Envelope, FUNCTIONS, Failure, Function, Relay, Trigger, When};
use crate::app::{App, names};
use crate::notifications::item as notifications;
use crate::storage::poison_of;

const BINDING: &str = "timer";

pub(super) const FUNCTION: Function = Function {
    name: "ExportIndicators",
    trigger: Trigger::Timer { binding: BINDING, schedule: When::Always("0 * * * * *") },
    answer: Answer::Envelope(|relay, envelope| Box::pin(answer(relay, envelope))),
};

async fn answer(relay: Arc<Relay>, envelope: Envelope) -> Result<(), Failure> {
    let (app, _) = relay.app().await?;
    let past_due = envelope.timer(BINDING).is_past_due;
    let ticked = app.exporter.tick(app.queue.as_ref(), || names().0).await.map_err(Failure::new);
    if let Ok(messages) = &ticked {
        tracing::info!(event = "tick.finished", enqueued = messages.len(), past_due, "looked for runs that are due");
    }
    let watched = watch(&app).await;
    ticked.and(watched)
}

/// What a person must hear of, though no run tells it.
async fn watch(app: &App) -> Result<(), Failure> {
    for function in FUNCTIONS {
        let Trigger::Queue { queue, .. } = function.trigger else { continue };
        let remedy = if [notifications::QUEUE, notifications::URGENT_QUEUE].contains(&queue) {
            "`playbooks dead list` shows what, and once that is mended, `playbooks dead replay` puts it back"
        } else {
            "delete what is there once that is mended"
        };
        let queue = poison_of(queue);
        let count = app.queue.count(&queue).await.map_err(Failure::new)?;
        if count > 0 {
            let messages = if count == 1 { "message" } else { "messages" };
            tracing::error!(
                event = "queue.poison",
                queue,
                count,
                "the queue `{queue}` holds {count} {messages} that could not be handled; the log says why; {remedy}"
            );
        }
    }
    for job in app.exporter.jobs() {
        if let Some(age) = app.exporter.overdue(job).await.map_err(Failure::new)? {
            let (job, minutes) = (&job.name, age.as_secs() / 60);
            tracing::error!(
                event = "run.overdue",
                job,
                minutes,
                "job `{job}` has completed no run for {minutes} minutes, more than twice its schedule; `indicator-relay runs` says why"
            );
        }
    }
    // Here nobody needs a secret: without this, only what the start has read would be known.
    if let Some(vault) = &app.vault {
        for error in vault.refresh().await {
            tracing::warn!("{}", error.message);
        }
    }
    for (secret, days) in app.vault.iter().flat_map(|vault| vault.ending(app.exporter.now())) {
        tracing::warn!(
            event = "secret.expiring",
            secret,
            days,
            "the secret `{secret}` of the vault ends in {days} days; set a new version, no restart is needed"
        );
    }
    Ok(())
}
