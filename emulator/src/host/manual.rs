//! Manual runs of timer and queue functions: the trigger that the host makes up.

use super::app::{Function, TriggerKind};
use super::core::Core;
use super::dates::DotNetDate;
use super::envelope::{MessageBody, QueueTrigger, TimerTrigger, Trigger};

/// None: HTTP functions are run by a request.
pub(crate) fn trigger(core: &Core, function: &Function, input: &str) -> Option<Trigger> {
    match &function.trigger {
        TriggerKind::Timer { schedule, monitored, .. } => Some(Trigger::Timer(TimerTrigger {
            adjust_for_daylight: schedule.adjusts_for_daylight(),
            status: core.timers.status(&function.name).filter(|_| *monitored),
            past_due: false,
            manual_input: Some(input.to_owned()),
            retry: None,
        })),
        TriggerKind::Queue { binary, .. } => Some(Trigger::Queue(QueueTrigger {
            body: if *binary { MessageBody::Bytes(input.as_bytes().to_vec()) } else { MessageBody::Text(input.to_owned()) },
            dequeue_count: 0,
            expiration: DotNetDate::NEVER,
            id: None,
            insertion: DotNetDate::local(core.time.now()),
            next_visible: DotNetDate::NEVER,
            pop_receipt: None,
            manual: true,
        })),
        TriggerKind::Http { .. } => None,
    }
}
