//! `PollAlerts`: reads what cannot be subscribed to, and forgets what needs no memory any more.

use std::sync::Arc;

use super::{Answer, Envelope, Failure, Function, Relay, Trigger, When};

/// Pages of rows that one tick looks at, to forget some.
const SWEPT_PAGES: usize = 20;

pub(super) const FUNCTION: Function = Function {
    name: "PollAlerts",
    trigger: Trigger::Timer { binding: "timer", schedule: When::Setting("ALERT_POLL_SCHEDULE") },
    answer: Answer::Envelope(|relay, envelope| Box::pin(answer(relay, envelope))),
};

async fn answer(relay: Arc<Relay>, _: Envelope) -> Result<(), Failure> {
    let (app, _) = relay.app().await?;
    let asked = app.playbooks.asked().await.map_err(Failure)?;
    if let Some(poller) = &asked.poller {
        for source in poller.sources() {
            let resource = &source.resource;
            match poller.poll(source).await {
                Ok(polled) => tracing::info!(
                    event = "poll.finished",
                    resource,
                    pages = polled.pages,
                    created = polled.created,
                    updated = polled.updated,
                    known = polled.known,
                    unreadable = polled.unreadable,
                    "polled `{resource}`"
                ),
                // The other sources have their turn. It is told here, with its own alert: that the invocation failed would be another.
                Err(error) => {
                    let error = error.to_string();
                    tracing::error!(event = "poll.failed", resource, error, "{error}");
                }
            }
        }
    }
    let swept = app.dispatcher.sweep(SWEPT_PAGES).await.map_err(Failure::new)?;
    tracing::debug!(looked_at = swept.looked_at, forgotten = swept.forgotten, "forgot resources that are quiet");
    Ok(())
}
