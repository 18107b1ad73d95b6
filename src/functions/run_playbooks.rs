//! `RunPlaybooks` and `RunUrgentPlaybooks`: one notification, or one large delivery, each.

use std::sync::Arc;

use super::{Answer, Envelope, Failure, Function, Relay, Trigger};
use crate::dispatch::{self, Handled, Hold};
use crate::notifications::item::{Item, Origin, QUEUE, URGENT_QUEUE, Work};

const BINDING: &str = "message";

pub(super) const NORMAL: Function = Function {
    name: "RunPlaybooks",
    trigger: Trigger::Queue { binding: BINDING, queue: QUEUE },
    answer: Answer::Envelope(|relay, envelope| Box::pin(answer(relay, envelope, QUEUE))),
};

pub(super) const URGENT: Function = Function {
    name: "RunUrgentPlaybooks",
    trigger: Trigger::Queue { binding: BINDING, queue: URGENT_QUEUE },
    answer: Answer::Envelope(|relay, envelope| Box::pin(answer(relay, envelope, URGENT_QUEUE))),
};

async fn answer(relay: Arc<Relay>, envelope: Envelope, name: &'static str) -> Result<(), Failure> {
    let text = envelope.message(BINDING).unwrap_or_default();
    let (app, _) = relay.app().await?;
    let Some(opened) = app.queue.open(&text).await.map_err(Failure::new)? else {
        tracing::warn!("the message's body is gone from the storage: it was handled before, or somebody has deleted it");
        return Ok(());
    };
    let work = dispatch::read(name, &opened.body).map_err(Failure::new)?;
    let told = first(&work);
    if let Some(group) = told.and_then(|item| item.group.as_deref()) {
        app.playbooks.meet(group).await;
    }
    let told = told.filter(|item| item.origin == Origin::Graph && !item.subscription.is_empty());
    let subscription = told.map(|item| item.subscription.clone());
    let handled = app.dispatcher.handle(name, work).await.map_err(Failure::new)?;
    if let Some(subscription) = subscription {
        app.playbooks.heard(&subscription).await;
    }
    // The host deletes the message when we answer; its body is ours. The work is done, whatever becomes of it.
    if let Err(error) = app.queue.discard(&opened).await {
        tracing::warn!("{error}; the body of a message that was handled stays there");
    }
    tell(name, &handled);
    Ok(())
}

/// The notification; of a large delivery the first.
fn first(work: &Work) -> Option<&Item> {
    match work {
        Work::Item(task) => Some(&task.item),
        Work::Batch(items) => items.first(),
    }
}

fn tell(queue: &str, handled: &Handled) {
    if handled.waits {
        // It looks every two seconds, and was not handled.
        tracing::debug!(queue, "a notification waits for an earlier change of the same object");
        return;
    }
    let Handled { split, done, skipped, duplicate, covered, found, waits, dropped, .. } = handled;
    let (again, dead) = (handled.again.len(), handled.dead.len());
    tracing::info!(
        event = "notification.handled",
        queue,
        split,
        done,
        skipped,
        duplicate,
        covered,
        found,
        again,
        dead,
        waits,
        dropped = dropped.unwrap_or_default(),
        "a message of the queue `{queue}` was handled"
    );
    for told in &handled.again {
        tracing::warn!(playbook = told.playbook, reason = told.reason, "a notification is tried again later: {}", told.reason);
    }
    for told in &handled.dead {
        let (playbook, reason) = (&told.playbook, &told.reason);
        if [Hold::Paused, Hold::Disabled].iter().any(|hold| hold.reason() == reason) {
            tracing::info!(
                event = "notification.held",
                queue,
                playbook,
                reason,
                "playbook `{playbook}` is {reason}: its notification is held; `playbooks dead replay` puts it back"
            );
        } else {
            let whose = if playbook.is_empty() { String::new() } else { format!(" for playbook `{playbook}`") };
            tracing::error!(
                event = "notification.dead",
                queue,
                playbook,
                reason,
                "a notification{whose} is set aside: {reason}; mend that, then `playbooks dead replay` puts it back"
            );
        }
    }
}
