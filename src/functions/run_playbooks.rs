//! `RunPlaybooks` and `RunUrgentPlaybooks`: one notification, or one large delivery, each.

use std::sync::Arc;

use super::{Answer, Envelope, Failure, Function, Relay, Trigger};
use crate::dispatch::{self, Handled, Hold, Told};
use crate::notifications::item::{Item, Origin, QUEUE, URGENT_QUEUE, Work};

const BINDING: &str = "message";
/// Characters of a resource that are shown.
const LONGEST: usize = 200;

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
    let about = about(&work);
    let handled = app.dispatcher.handle(name, work).await.map_err(Failure::new)?;
    if let Some(subscription) = subscription {
        app.playbooks.heard(&subscription).await;
    }
    // The host deletes the message when we answer; its body is ours. The work is done, whatever becomes of it.
    if let Err(error) = app.queue.discard(&opened).await {
        tracing::warn!("{error}; the body of a message that was handled stays there");
    }
    tell(name, &about, &handled);
    Ok(())
}

/// The notification; of a large delivery the first.
fn first(work: &Work) -> Option<&Item> {
    match work {
        Work::Item(task) => Some(&task.item),
        Work::Batch(items) => items.first(),
    }
}

/// The resource as the notification names it, in short; blank where there are several, or none.
fn about(work: &Work) -> String {
    let Work::Item(task) = work else { return String::new() };
    let Some(resource) = &task.item.resource else { return String::new() };
    let named: String = resource.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect();
    format!(" about `{named}`")
}

fn once_more(about: &str, told: &Told) -> String {
    let next = told.next.map_or_else(|| "later".to_owned(), |next| next.strftime("at %Y-%m-%dT%H:%M:%SZ").to_string());
    format!("a notification{about} is tried again {next}: {}", told.reason)
}

fn tell(queue: &str, about: &str, handled: &Handled) {
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
        tracing::warn!(playbook = told.playbook, reason = told.reason, "{}", once_more(about, told));
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
                "a notification{about}{whose} is set aside: {reason}; mend that, then `playbooks dead replay` puts it back"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notifications::item::{ChangeType, Event};

    #[test]
    fn what_is_tried_again_is_named_with_the_time() {
        let received = "2026-11-24T09:00:00Z".parse().expect("a time");
        let item = Item::new(Origin::Graph, received, Event::Change(ChangeType::Updated));
        let named = Item { resource: Some(format!("users/3f6c\r\n{}", "x".repeat(LONGEST))), ..item.clone() };
        let next = "2026-11-24T09:00:02.5Z".parse().ok();
        let line = |item| {
            once_more(&about(&Work::first(item)), &Told { playbook: "p".to_owned(), reason: "not found".to_owned(), next })
        };
        let short = "x".repeat(LONGEST - 10);
        assert_eq!(
            line(named),
            format!("a notification about `users/3f6c{short}` is tried again at 2026-11-24T09:00:02Z: not found")
        );
        assert_eq!(line(item), "a notification is tried again at 2026-11-24T09:00:02Z: not found");
    }
}
