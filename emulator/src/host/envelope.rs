//! The request that the host makes of a trigger: `{"Data": …, "Metadata": …}`, byte for byte.

use super::app::Function;
use super::dates::DotNetDate;
use super::failure::Failure;
use super::json::Json;
use super::metadata::{BindingData, Bound, System};
use super::request::HttpRequest;

/// What made a function run.
#[derive(Debug, Clone)]
pub enum Trigger {
    Timer(TimerTrigger),
    Queue(QueueTrigger),
    Http(HttpRequest),
}

/// A timer that is due.
#[derive(Debug, Clone, Default)]
pub struct TimerTrigger {
    /// A cron expression; a time span repeats without regard to daylight.
    pub adjust_for_daylight: bool,
    /// None: it is not monitored.
    pub status: Option<ScheduleStatus>,
    pub past_due: bool,
    /// The input of a manual run.
    pub manual_input: Option<String>,
    pub retry: Option<RetryContext>,
}

/// What the host stores of a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleStatus {
    /// The zero date before the first run.
    pub last: DotNetDate,
    pub next: DotNetDate,
    pub last_updated: DotNetDate,
}

/// A message of a queue.
#[derive(Debug, Clone)]
pub struct QueueTrigger {
    pub body: MessageBody,
    pub dequeue_count: i64,
    pub expiration: DotNetDate,
    pub id: Option<String>,
    pub insertion: DotNetDate,
    pub next_visible: DotNetDate,
    pub pop_receipt: Option<String>,
    /// A manual run: the message is its input.
    pub manual: bool,
}

#[derive(Debug, Clone)]
pub enum MessageBody {
    Text(String),
    /// With `dataType` `binary`.
    Bytes(Vec<u8>),
}

/// Which attempt of a run this is.
#[derive(Debug, Clone)]
pub struct RetryContext {
    pub count: i64,
    pub limit: i64,
    /// Why the attempt before failed.
    pub failure: Option<Failure>,
}

/// The body of the request.
pub(crate) fn body(function: &Function, trigger: &Trigger, system: &System) -> String {
    let mut binding_data = BindingData::default();
    let (data, retry) = match trigger {
        Trigger::Timer(timer) => {
            if let Some(input) = &timer.manual_input {
                binding_data.set(&function.binding, Bound::Text(input.clone()));
            }
            binding_data.add_system(&function.name, system);
            (timer_info(timer), timer.retry.as_ref())
        }
        Trigger::Queue(message) => (queue_message(function, message, &mut binding_data, system), None),
        Trigger::Http(request) => {
            request.bind(&mut binding_data);
            binding_data.add_system(&function.name, system);
            (request.json(), None)
        }
    };
    let mut metadata = binding_data.into_metadata();
    if let Some(retry) = retry {
        metadata.push(("RetryContext".to_owned(), retry_context(retry, &function.name)));
    }
    object([("Data", Json::Object(vec![(function.binding.clone(), data)])), ("Metadata", Json::Object(metadata))]).compact()
}

fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn timer_info(timer: &TimerTrigger) -> Json {
    let status = timer.status.map_or(Json::Null, |status| {
        object([
            ("Last", Json::Text(status.last.iso())),
            ("Next", Json::Text(status.next.iso())),
            ("LastUpdated", Json::Text(status.last_updated.iso())),
        ])
    });
    object([
        ("Schedule", object([("AdjustForDST", Json::Bool(timer.adjust_for_daylight))])),
        ("ScheduleStatus", status),
        ("IsPastDue", Json::Bool(timer.past_due)),
    ])
}

fn queue_message(function: &Function, message: &QueueTrigger, data: &mut BindingData, system: &System) -> Json {
    let text = |text: &Option<String>| text.clone().map_or(Bound::Null, Bound::Text);
    data.set("DequeueCount", Bound::Number(message.dequeue_count));
    data.set("ExpirationTime", Bound::Instant(message.expiration));
    data.set("Id", text(&message.id));
    data.set("InsertionTime", Bound::Instant(message.insertion));
    data.set("NextVisibleTime", Bound::Instant(message.next_visible));
    data.set("PopReceipt", text(&message.pop_receipt));
    let value = match &message.body {
        MessageBody::Text(text) => Bound::Text(text.clone()),
        MessageBody::Bytes(bytes) => Bound::Bytes(bytes.clone()),
    };
    if message.manual {
        data.set(&function.binding, value.clone());
    }
    data.add_system(&function.name, system);
    if let MessageBody::Text(text) = &message.body {
        data.leak(text);
    }
    value.json()
}

fn retry_context(retry: &RetryContext, function: &str) -> Json {
    object([
        ("RetryCount", Json::Integer(retry.count.to_string())),
        ("MaxRetryCount", Json::Integer(retry.limit.to_string())),
        ("Exception", retry.failure.as_ref().map_or(Json::Null, |failure| failure.retry_exception(function))),
        ("Instance", Json::Null),
        ("State", object([])),
    ])
}
