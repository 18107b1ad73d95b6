//! `ReconcileSubscriptions`: makes the subscriptions what playbooks want, and looks up what nobody told of.

use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Envelope, Failure, Function, Relay, Trigger, When};
use crate::app::App;
use crate::app::playbooks::Subscribing;
use crate::notifications::item::{Item, QUEUE, URGENT_QUEUE, Work};
use crate::subscriptions::catch_up::CaughtUp;
use crate::subscriptions::{Report, Standing, SubscriptionError, Unwanted};

const BINDING: &str = "timer";
/// Less than the time between two ticks: renewals must not wait for a long look at what was missed, which goes on next time.
const CATCHING_UP: Duration = Duration::from_secs(180);

pub(crate) const FUNCTION: Function = Function {
    name: "ReconcileSubscriptions",
    trigger: Trigger::Timer { binding: BINDING, schedule: When::Setting("SUBSCRIPTION_SCHEDULE") },
    answer: Answer::Envelope(|relay, envelope| Box::pin(answer(relay, envelope))),
};

async fn answer(relay: Arc<Relay>, _: Envelope) -> Result<(), Failure> {
    let (app, budget) = relay.app().await?;
    let asked = app.playbooks.asked().await.map_err(Failure)?;
    let Some(Subscribing { reconciler, wanted, complete }) = &asked.subscribing else {
        match &asked.missing {
            Some(missing) => tracing::error!("nothing is subscribed to: {missing}"),
            None if asked.wanted.is_empty() => tracing::info!("nothing is subscribed to: {}", asked.why_not),
            None => tracing::warn!("nothing is subscribed to: {}", asked.why_not),
        }
        return Ok(());
    };
    if let Some((secret, days, told)) = asked.ending(app.exporter.now()) {
        tracing::warn!(event = "secret.expiring", secret, days, "{told}");
    }
    let unwanted = if *complete { Unwanted::Delete } else { Unwanted::Keep };
    let report = match reconciler.run(wanted, unwanted, false).await {
        Ok(report) => report,
        Err(error @ (SubscriptionError::Busy { .. } | SubscriptionError::TakenOver)) => {
            tracing::info!("{error}");
            return Ok(());
        }
        Err(error) => return Err(Failure::new(error)),
    };
    let hand_on =
        |items: Vec<Item>| -> crate::platform::clock::BoxFuture<'_, Result<(), String>> { Box::pin(hand_on(&app, items)) };
    let budget = budget.unwrap_or(CATCHING_UP).min(CATCHING_UP);
    let caught = reconciler.catch_up(wanted, unwanted, Some(budget), &hand_on).await;
    tell(&report, caught.as_ref().ok());
    match caught {
        Ok(_) | Err(SubscriptionError::Busy { .. } | SubscriptionError::TakenOver) => Ok(()),
        Err(error) => Err(Failure::new(error)),
    }
}

async fn hand_on(app: &App, items: Vec<Item>) -> Result<(), String> {
    for item in items {
        let urgent = item.group.as_deref().is_some_and(|group| group.starts_with('u'));
        let body = serde_json::to_vec(&Work::first(item)).map_err(|error| error.to_string())?;
        let queue = if urgent { URGENT_QUEUE } else { QUEUE };
        app.queue.put(queue, body, Duration::ZERO).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The lines of a run; alerts wait for some of them.
fn tell(report: &Report, caught: Option<&CaughtUp>) {
    for done in report.done.iter().filter(|done| done.what != "waits") {
        let (what, id, resource) = (done.what, &done.id, &done.resource);
        match &done.error {
            None => tracing::info!(what, subscription = id, resource, "subscription to {resource}: {what} ({})", done.why),
            Some(error) => {
                let next = next_try(report, resource);
                tracing::warn!(what, subscription = id, resource, "subscription to {resource}: not {what}: {error}{next}");
            }
        }
    }
    if let Some(error) = report.error.as_ref().filter(|_| report.lasting) {
        let (subscription, resource) = (None::<&str>, "all");
        tracing::error!(event = "subscription.failed", subscription, resource, error, "no subscription can be made: {error}");
    }
    // What was told with a subscription is not told again.
    let told = |error: &&String| report.done.iter().any(|done| done.error.as_ref() == Some(error));
    for error in report.error.iter().filter(|error| !told(error)).chain(caught.iter().flat_map(|caught| &caught.errors)) {
        tracing::warn!("{error}");
    }
    for resource in caught.iter().flat_map(|caught| &caught.not_possible) {
        tracing::warn!(resource, "changes of {resource} may have been missed, and this resource offers no way to look them up");
    }
    report.standing.iter().for_each(standing);
    let count = |done: bool| report.done.iter().filter(|step| step.what != "waits" && step.error.is_none() == done).count();
    let (wanted, active) = (report.count.wanted, report.count.there);
    let waiting: Vec<String> = report.standing.iter().filter_map(waits).collect();
    let waiting = if waiting.is_empty() { String::new() } else { format!("; {}", waiting.join("; ")) };
    tracing::info!(
        event = "subscriptions.reconciled",
        wanted,
        active,
        changed = count(true),
        failed = count(false),
        caught_up = caught.map_or(0, |caught| caught.items),
        "compared the subscriptions with what playbooks want: {}{waiting}",
        report.count
    );
}

/// What is missing, and when it is tried again.
fn waits(standing: &Standing) -> Option<String> {
    let next = standing.next_try.filter(|_| standing.minutes_left == 0)?;
    Some(format!("{} is tried again after {}", standing.resource, next.strftime("%Y-%m-%d %H:%M:%SZ")))
}

fn next_try(report: &Report, resource: &str) -> String {
    let next = report.standing.iter().find(|standing| standing.resource == resource).and_then(|standing| standing.next_try);
    next.map_or_else(String::new, |next| format!("; tried again after {}", next.strftime("%Y-%m-%d %H:%M:%SZ")))
}

fn standing(standing: &Standing) {
    let (subscription, resource) = (standing.id.as_deref(), &standing.resource);
    if standing.expiring {
        let minutes = standing.minutes_left;
        tracing::error!(
            event = "subscription.expiring",
            subscription,
            resource,
            minutes,
            "the subscription to {resource} ends in {minutes} minutes and could not be renewed: {}",
            standing.problem.as_deref().unwrap_or("nobody has tried")
        );
    }
    if let Some(error) = standing.problem.as_ref().filter(|_| standing.serious) {
        tracing::error!(event = "subscription.failed", subscription, resource, error, "the subscription to {resource}: {error}");
    }
}
