//! The Azure Functions host, as a custom handler meets it: it starts the handler, turns timers, queue messages and HTTP
//! requests into requests to it, and judges the answers.
//!
//! Written from the contract reference and from exchanges recorded from the host's own classes. One process per group of
//! functions, as on Flex Consumption: all HTTP functions share one, each timer and each queue function has its own. Each file
//! says what it does not imitate; nowhere imitated are scaling, telemetry export, and languages other than `custom`.

mod app;
mod core;
mod cron;
mod dates;
mod envelope;
mod failure;
mod front;
mod group;
mod identifiers;
mod json;
mod manual;
mod metadata;
mod outputs;
mod package;
mod proxy;
mod pump;
mod queue_client;
mod record;
mod request;
mod routes;
mod timers;
mod verdict;
mod wire;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub use self::app::{AuthLevel, Function, Output, OutputKind, Settings, TriggerKind};
pub use self::core::Fault;
pub use self::dates::{DotNetDate, Kind};
pub use self::envelope::{MessageBody, QueueTrigger, RetryContext, ScheduleStatus, TimerTrigger, Trigger};
pub use self::failure::{Exception, Failure};
pub use self::json::Json;
pub use self::outputs::{HttpOutput, Value};
pub use self::pump::QueueTimes;
pub use self::queue_client::{Message, QueueClient};
pub use self::record::{ContractError, Invocation, Level, Line, Outcome, Record};
pub use self::request::HttpRequest;
pub use self::timers::TimerStatuses;
pub use self::verdict::{Answer, Results, Verdict, judge};

use self::core::Core;
use self::group::{Group, Launch};
use self::package::Folder;
use self::queue_client::Storage;
use self::record::Journal;
use self::timers::Timers;
use crate::time::{SystemTime, Time};

/// What the host calls itself in headers.
pub const HOST_VERSION: &str = "4.1037.0.0";

/// How a host is started.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own, set by its name")]
pub struct HostOptions {
    /// The folder that holds `host.json`, or a zip of it.
    pub app: PathBuf,
    /// The environment of the handler; with `PATH` and what the host adds, all of it.
    pub settings: Settings,
    /// The connection string for queues whose `connection` is no setting with one (but an identity).
    pub storage: Option<String>,
    /// The CA of a storage service over HTTPS, as PEM.
    pub storage_ca: Option<String>,
    /// For timers and `UtcNow`; queues follow the machine's clock.
    pub time: Arc<dyn Time>,
    /// Whether timers run by the clock; if not, only by [`FunctionsHost::fire`].
    pub timers: bool,
    pub timer_statuses: TimerStatuses,
    pub queue_times: QueueTimes,
    /// How long a handler may take to listen; instead of `initializationTimeout`.
    pub start_limit: Option<Duration>,
    /// Instead of `functionTimeout` of `host.json`.
    pub function_timeout: Option<Duration>,
    /// Make the handler of a zip executable, as Flex Consumption does. If not, the zip must have done it.
    pub allow_execution: bool,
    /// A handler that exits with 0 is started again, as by hosts of 2026; before, it was not.
    pub restart_after_zero: bool,
    /// Start a host anew that stopped after three crashes, as the platform does in its own time. If not, that group of functions
    /// stays stopped, so that a test notices.
    pub recycle: bool,
    /// Use the handler that listens on this port, for all functions, and start none.
    pub attach: Option<u16>,
    /// The front door; 0: any free port.
    pub port: u16,
    pub function_key: String,
    pub master_key: String,
}

impl HostOptions {
    /// For an app folder or zip, with all else as on Flex Consumption.
    #[must_use]
    pub fn new(app: impl Into<PathBuf>) -> Self {
        Self {
            app: app.into(),
            settings: Settings::new(),
            storage: None,
            storage_ca: None,
            time: Arc::new(SystemTime),
            timers: true,
            timer_statuses: TimerStatuses::default(),
            queue_times: QueueTimes::default(),
            start_limit: None,
            function_timeout: None,
            allow_execution: true,
            restart_after_zero: false,
            recycle: false,
            attach: None,
            port: 0,
            function_key: "emulated-function-key".to_owned(),
            master_key: "emulated-master-key".to_owned(),
        }
    }
}

/// A running host; dropped, it kills its handlers, as the real one does.
#[derive(Debug)]
pub struct FunctionsHost {
    core: Arc<Core>,
    url: String,
    tasks: Vec<JoinHandle<()>>,
    nudge: Arc<Notify>,
    /// Removed after the handlers are gone.
    _folder: Folder,
}

impl FunctionsHost {
    /// Starts the front door, the handlers and the triggers. Handlers may not be ready yet: see [`FunctionsHost::ready`].
    ///
    /// # Errors
    /// The app cannot be read, `host.json` is refused, or the port is taken. A function that is refused is an error line.
    pub async fn start(options: HostOptions) -> anyhow::Result<Self> {
        let folder = Folder::open(&options.app)?;
        let host_json = app::host_json(&folder.path, &options.settings)?;
        if options.allow_execution {
            folder.allow_execution(&host_json.executable)?;
        }
        let indexed = app::functions(&folder.path, &options.settings)?;
        let journal = Arc::new(Journal::new());
        for error in indexed.errors {
            journal.line(None, Level::Error, error);
        }
        let functions: Vec<Arc<Function>> = indexed.functions.into_iter().map(Arc::new).collect();
        if functions.is_empty() {
            journal.line(None, Level::Warning, "no functions were found; the handler is not started");
        }
        let start_limit = options.start_limit.unwrap_or(host_json.start_limit);
        let launch = Arc::new(Launch {
            folder: folder.path.clone(),
            host_json: host_json.clone(),
            settings: options.settings.clone(),
            start_limit,
            attach: options.attach,
            restart_after_zero: options.restart_after_zero,
            recycle: options.recycle,
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await.context("failed to open the front door")?;
        let url = format!("http://127.0.0.1:{}", listener.local_addr()?.port());
        let storage =
            Storage::new(&connections(&functions), &options.settings, options.storage.as_deref(), options.storage_ca.as_deref())?;
        let mut tasks = Vec::new();
        let mut groups = BTreeMap::new();
        for function in &functions {
            groups.entry(function.group().to_owned()).or_insert_with_key(|name| {
                let (group, task) = Group::start(name, Arc::clone(&launch), Arc::clone(&journal));
                tasks.push(task);
                group
            });
        }
        let core = Arc::new(Core {
            timers: Timers::new(&functions, options.timer_statuses),
            function_timeout: options.function_timeout.or(host_json.function_timeout),
            functions,
            groups,
            host_json,
            journal,
            time: options.time,
            storage,
            start_limit,
            function_key: options.function_key,
            master_key: options.master_key,
            faults: std::sync::Mutex::default(),
        });
        let nudge = Arc::new(Notify::new());
        tasks.push(tokio::spawn(front::serve(listener, Arc::clone(&core))));
        for function in &core.functions {
            let (core, function) = (Arc::clone(&core), Arc::clone(function));
            match function.trigger {
                TriggerKind::Timer { .. } => {
                    let start = timers::begin(&core, &function).await;
                    if options.timers {
                        tasks.push(tokio::spawn(timers::keep(core, function, start)));
                    }
                }
                TriggerKind::Queue { .. } => {
                    tasks.push(tokio::spawn(pump::keep(core, function, options.queue_times.clone(), Arc::clone(&nudge))));
                }
                TriggerKind::Http { .. } => {}
            }
        }
        Ok(Self { core, url, tasks, nudge, _folder: folder })
    }

    /// The front door: HTTP triggers below `/{routePrefix}`, manual runs below `/admin/functions`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The functions that were indexed.
    #[must_use]
    pub fn functions(&self) -> &[Arc<Function>] {
        &self.core.functions
    }

    /// Waits until each handler answers; false: one never will.
    pub async fn ready(&self) -> bool {
        for group in self.core.groups.values() {
            if group.wire().await.is_none() {
                return false;
            }
        }
        true
    }

    /// Runs a timer now, as if it were due, and waits for the end of the run.
    pub async fn fire(&self, timer: &str) -> anyhow::Result<Invocation> {
        let function = self.function(timer)?;
        timers::run(&self.core, &function, false).await.with_context(|| format!("`{timer}` is not a timer"))
    }

    /// Runs a timer or queue function with an input, as `/admin/functions/{name}` does, and waits for the end of the run.
    pub async fn invoke_manually(&self, name: &str, input: &str) -> anyhow::Result<Invocation> {
        let function = self.function(name)?;
        let trigger = manual::trigger(&self.core, &function, input);
        let trigger = trigger.with_context(|| format!("`{name}` is run by a request"))?;
        Ok(self.core.run(&function, &trigger).await)
    }

    /// Runs a function by exactly this trigger, and waits for the end of the run.
    pub async fn trigger(&self, name: &str, trigger: &Trigger) -> anyhow::Result<Invocation> {
        Ok(self.core.run(&*self.function(name)?, trigger).await)
    }

    /// Looks at the queues at once instead of waiting.
    pub fn poll_queues(&self) {
        self.nudge.notify_waiters();
    }

    /// Lets this happen once, at the next occasion of a function.
    pub fn inject(&self, function: &str, fault: Fault) -> anyhow::Result<()> {
        let name = self.function(function)?.name.clone();
        self.core.faults.lock().unwrap_or_else(PoisonError::into_inner).push((name, fault));
        Ok(())
    }

    /// Asks a handler `GET /`, as the host's monitor does now and then; the status of its answer.
    pub async fn ping(&self, group: &str) -> anyhow::Result<u16> {
        let Some(group) = self.core.groups.get(group) else { bail!("`{group}` is no group of functions") };
        let wire = group.wire().await.context("the handler is stopped")?;
        let reply = wire.follow(wire::Outgoing::get("/")).await.map_err(|broken| anyhow::anyhow!("no answer: {broken:?}"))?;
        let answer = reply.read(&wire).await.map_err(|broken| anyhow::anyhow!("no answer: {broken:?}"))?;
        Ok(answer.status)
    }

    /// Kills a handler, as if it crashed. `http`, or the name of a timer or queue function.
    pub fn kill(&self, group: &str) -> anyhow::Result<()> {
        let Some(group) = self.core.groups.get(group) else { bail!("`{group}` is no group of functions") };
        group.kill();
        Ok(())
    }

    /// The process of each group that has one.
    #[must_use]
    pub fn pids(&self) -> BTreeMap<String, u32> {
        self.core.groups.iter().filter_map(|(name, group)| Some((name.clone(), group.pid()?))).collect()
    }

    /// Waits until the record holds what is looked for.
    pub async fn until<T>(&self, find: impl FnMut(&Record) -> Option<T>) -> T {
        self.core.journal.until(find).await
    }

    /// Waits for the end of the n-th run of a function, counted from 1 in the order of their ends.
    pub async fn completed(&self, function: &str, n: usize) -> Invocation {
        self.until(|record| record.finished(function).nth(n - 1).cloned()).await
    }

    /// Waits for a line with these words. What leads to a line may be seen elsewhere before the line is there.
    pub async fn said(&self, words: &str) -> Line {
        self.until(|record| record.lines.iter().find(|line| line.text.contains(words)).cloned()).await
    }

    /// All runs, in the order they began.
    #[must_use]
    pub fn invocations(&self) -> Vec<Invocation> {
        self.core.journal.record().invocations.clone()
    }

    /// The console of all handlers, and what the host says.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.core.journal.record().lines.clone()
    }

    #[must_use]
    pub fn contract_errors(&self) -> Vec<ContractError> {
        self.core.journal.record().contract_errors.clone()
    }

    /// Kills the handlers (SIGKILL, as the host does) and waits until they are gone.
    pub async fn stop(mut self) {
        for group in self.core.groups.values() {
            group.end().await;
        }
        for task in self.tasks.drain(..) {
            task.abort();
            drop(task.await);
        }
    }

    fn function(&self, name: &str) -> anyhow::Result<Arc<Function>> {
        self.core.function(name).with_context(|| format!("there is no function `{name}`"))
    }
}

impl Drop for FunctionsHost {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// All connections that bindings name.
fn connections(functions: &[Arc<Function>]) -> Vec<String> {
    let mut names = Vec::new();
    for function in functions {
        if let TriggerKind::Queue { connection, .. } = &function.trigger {
            names.push(connection.clone());
        }
        for output in &function.outputs {
            if let OutputKind::Queue { connection, .. } = &output.kind {
                names.push(connection.clone());
            }
        }
    }
    names
}
