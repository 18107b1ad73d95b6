//! Running functions: from a trigger to an invocation that ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::HOST_VERSION;
use super::app::{Function, HostJson, OutputKind};
use super::envelope::{self, Trigger};
use super::failure::Failure;
use super::group::Group;
use super::identifiers::{guid, traceparent};
use super::metadata::System;
use super::queue_client::Storage;
use super::record::{Invocation, Journal, Outcome};
use super::timers::Timers;
use super::verdict::{Answer, Results, Verdict, judge};
use super::wire::{Broken, Outgoing, Payload, Wire};
use crate::time::Time;

/// What goes wrong once, at the next occasion of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A message of its queue is delivered twice, at the same time.
    DuplicateDelivery,
    /// The host is lost between the handler's answer and the deletion of the message: the handler is killed, and the message
    /// comes again when its lease ends.
    KillBeforeDelete,
    /// The connection to the handler breaks when its answer begins.
    DropConnection,
}

/// What the parts of the host share.
#[derive(Debug)]
pub(crate) struct Core {
    pub functions: Vec<Arc<Function>>,
    pub groups: BTreeMap<String, Arc<Group>>,
    pub host_json: HostJson,
    pub journal: Arc<Journal>,
    pub time: Arc<dyn Time>,
    pub storage: Storage,
    pub timers: Timers,
    pub function_timeout: Option<Duration>,
    pub start_limit: Duration,
    pub function_key: String,
    pub master_key: String,
    pub faults: Mutex<Vec<(String, Fault)>>,
}

/// An invocation under way.
pub(crate) struct Running {
    pub id: String,
    pub wire: Arc<Wire>,
}

impl Core {
    pub(crate) fn function(&self, name: &str) -> Option<Arc<Function>> {
        self.functions.iter().find(|function| function.name.eq_ignore_ascii_case(name)).cloned()
    }

    pub(crate) fn group_of(&self, function: &Function) -> &Arc<Group> {
        &self.groups[function.group()]
    }

    /// Whether this fault is to happen now; then it will not again.
    pub(crate) fn strikes(&self, function: &Function, fault: Fault) -> bool {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let found = faults.iter().position(|(name, known)| *name == function.name && *known == fault);
        found.map(|place| faults.remove(place)).is_some()
    }

    /// Runs a function by an envelope, to its end.
    pub(crate) async fn run(&self, function: &Function, trigger: &Trigger) -> Invocation {
        let parent = if let Trigger::Http(request) = trigger { request.header("traceparent").map(str::to_owned) } else { None };
        let results = async |running: Running| {
            let system = System { now: self.time.now(), guid: guid() };
            let body = envelope::body(function, trigger, &system);
            let outgoing = with_host_headers(
                Outgoing { method: "POST".to_owned(), ..Outgoing::get(&format!("/{}", function.name)) }
                    .with("Content-Type", "application/json; charset=utf-8")
                    .with("User-Agent", format!("Azure-Functions-Host/{HOST_VERSION}"))
                    .with("traceparent", traceparent(parent.as_deref())),
                &running.id,
            );
            let outgoing = Outgoing { payload: Payload::Chunked(Bytes::from(body)), ..outgoing };
            let answer = self.exchange(function, &running.wire, outgoing).await?;
            match judge(function, &answer) {
                Verdict::Success(results) => Ok(results),
                Verdict::Failure(failure) => Err(failure),
                Verdict::Pending(why) => {
                    let message = format!("the invocation will hang until the function time-out: {why}");
                    self.journal.contract_error(&function.name, &running.id, &message);
                    std::future::pending().await
                }
            }
        };
        let (id, results) = self.within_limits(function, results).await;
        let mut invocation = Invocation {
            id,
            function: function.name.clone(),
            outcome: Outcome::Success,
            results: Results::default(),
            messages: Vec::new(),
        };
        match results {
            Ok(results) => {
                invocation.results = results;
                if let Err(failure) = self.write_messages(function, &mut invocation).await {
                    invocation.outcome = Outcome::Failure(failure);
                }
            }
            Err(failure) => invocation.outcome = Outcome::Failure(failure),
        }
        self.journal.end(&invocation);
        invocation
    }

    /// Waits for the handler, then works with it until the function time-out, which kills the handler. The caller ends the
    /// invocation in the journal.
    pub(crate) async fn within_limits<T, F: AsyncFnOnce(Running) -> Result<T, Failure>>(
        &self,
        function: &Function,
        work: F,
    ) -> (String, Result<T, Failure>) {
        let id = guid();
        self.journal.begin(&id, &function.name);
        let group = self.group_of(function);
        // Three errors and one more start.
        let patience = self.start_limit.saturating_mul(4);
        let wire = match tokio::time::timeout(patience, group.wire()).await {
            Ok(Some(wire)) => wire,
            Ok(None) => return (id, Err(Failure::new("System.InvalidOperationException", "The handler is stopped"))),
            Err(_) => {
                self.journal.stop(&format!("{}: initialization timed out and the host is shutting down", group.name));
                return (id, Err(Failure::new("System.TimeoutException", "The handler did not initialize")));
            }
        };
        let work = work(Running { id: id.clone(), wire });
        let result = match self.function_timeout {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                group.time_out();
                Err(Failure::timed_out(&function.name, limit))
            }),
        };
        (id, result)
    }

    async fn exchange(&self, function: &Function, wire: &Wire, mut outgoing: Outgoing) -> Result<Answer, Failure> {
        let reply = if self.host_json.forwarding { wire.send(&mut outgoing).await } else { wire.follow(outgoing).await };
        let reply = reply.map_err(|broken| failure(broken, wire))?;
        if self.strikes(function, Fault::DropConnection) {
            return Err(Failure::ended(false));
        }
        reply.read(wire).await.map_err(|broken| failure(broken, wire))
    }

    /// Writes the queue outputs; each is tried, the first failure counts.
    async fn write_messages(&self, function: &Function, invocation: &mut Invocation) -> Result<(), Failure> {
        let mut first = Ok(());
        for (name, value) in &invocation.results.outputs {
            let output = function.outputs.iter().find(|output| output.name == *name);
            let Some(OutputKind::Queue { queue, connection }) = output.map(|output| &output.kind) else { continue };
            match value.messages() {
                Ok(messages) => {
                    for message in messages {
                        if let Some(client) = self.storage.client(connection)
                            && let Err(error) = client.put_creating(queue, &self.encode(&message)).await
                        {
                            first = first.and(Err(Failure::new("Azure.RequestFailedException", error.to_string())));
                        }
                        invocation.messages.push((name.clone(), message));
                    }
                }
                Err(failure) => first = first.and(Err(failure)),
            }
        }
        first
    }

    /// A message's text in the queue.
    pub(crate) fn encode(&self, message: &[u8]) -> String {
        if self.host_json.queues.base64 {
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, message)
        } else {
            String::from_utf8_lossy(message).into_owned()
        }
    }
}

/// The headers that each request of the host carries.
pub(crate) fn with_host_headers(outgoing: Outgoing, invocation: &str) -> Outgoing {
    outgoing.with("X-Azure-Functions-HostVersion", HOST_VERSION).with("X-Azure-Functions-InvocationId", invocation)
}

pub(crate) fn failure(broken: Broken, wire: &Wire) -> Failure {
    match broken {
        Broken::Refused => Failure::refused(wire.port),
        Broken::Ended => Failure::ended(false),
        Broken::WithinBody => Failure::ended(true),
        Broken::BodyGone => Failure::new("System.Net.Http.HttpRequestException", "An error occurred while sending the request.")
            .caused_by("System.InvalidOperationException", "Stream was already consumed."),
    }
}
