//! One handler process: its environment, when it is ready, its console, and what the host does when it ends.
//!
//! Each group has a host of its own, as on Flex Consumption: if that stops, the others go on. Not imitated: the health monitor,
//! placeholders.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::app::{HostJson, Settings};
use super::record::{Journal, Level};
use super::wire::{Broken, Outgoing, Wire};
use crate::port::FreePort;

/// Between two looks whether the handler answers.
const POLL: Duration = Duration::from_millis(25);
/// So long what a process wrote last is waited for; a child of its own may keep its console open.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// So many errors stop the host…
const ERRORS: usize = 3;
/// …unless two of them are further apart than this.
const WINDOW: Duration = Duration::from_secs(1_800);

/// How handlers are started.
#[derive(Debug)]
pub(crate) struct Launch {
    pub folder: PathBuf,
    pub host_json: HostJson,
    pub settings: Settings,
    pub start_limit: Duration,
    /// Talk to this port instead of starting anything.
    pub attach: Option<u16>,
    /// Later hosts restart a handler that exits with 0.
    pub restart_after_zero: bool,
    /// The platform starts a stopped host anew.
    pub recycle: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum State {
    Starting,
    Ready(Arc<Wire>),
    /// It will not be started again.
    Stopped,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Kill,
    TimedOut,
    /// The host shuts down.
    End,
}

/// How a process ended.
enum End {
    Shutdown,
    Code(i32),
    TimedOut,
    NotReady,
}

/// A group of functions that share a process.
#[derive(Debug)]
pub(crate) struct Group {
    pub name: String,
    launch: Arc<Launch>,
    journal: Arc<Journal>,
    state: watch::Sender<State>,
    commands: mpsc::UnboundedSender<Order>,
    /// 0: no process.
    pid: AtomicU32,
}

impl Group {
    /// Starts the process, and a task that looks after it.
    pub(crate) fn start(name: &str, launch: Arc<Launch>, journal: Arc<Journal>) -> (Arc<Self>, tokio::task::JoinHandle<()>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let state = watch::Sender::new(State::Starting);
        let group = Arc::new(Self { name: name.to_owned(), launch, journal, state, commands, pid: AtomicU32::new(0) });
        let task = tokio::spawn(Arc::clone(&group).supervise(receiver));
        (group, task)
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::SeqCst)).filter(|pid| *pid != 0)
    }

    /// SIGKILL, as if the process crashed.
    pub(crate) fn kill(&self) {
        self.order(Order::Kill);
    }

    /// SIGKILL and a restart that does not count as an error.
    pub(crate) fn time_out(&self) {
        self.order(Order::TimedOut);
    }

    /// From now on, invocations wait for the next process.
    fn order(&self, order: Order) {
        if self.launch.attach.is_none() && !self.commands.is_closed() {
            self.state.send_replace(State::Starting);
            _ = self.commands.send(order);
        }
    }

    /// SIGKILL for good; waits until the process is gone.
    pub(crate) async fn end(&self) {
        if self.launch.attach.is_none() && self.commands.send(Order::End).is_ok() {
            self.commands.closed().await;
        }
    }

    /// The connections to the handler, once it is ready; none if it never will be.
    pub(crate) async fn wire(&self) -> Option<Arc<Wire>> {
        let mut state = self.state.subscribe();
        let state = state.wait_for(|state| !matches!(state, State::Starting)).await.ok()?;
        if let State::Ready(wire) = &*state { Some(Arc::clone(wire)) } else { None }
    }

    async fn supervise(self: Arc<Self>, mut commands: mpsc::UnboundedReceiver<Order>) {
        let mut errors: Vec<Instant> = Vec::new();
        loop {
            let end = match self.launch.attach {
                Some(port) => self.attached(port).await,
                None => self.one_life(&mut commands).await,
            };
            // After an exit with 0 the host goes on calling a port where nobody listens.
            let given_up = matches!(end, End::Code(0)) && !self.launch.restart_after_zero;
            if !given_up {
                self.state.send_replace(State::Starting);
            }
            // Last: who sees that there is no process finds that invocations wait for the next.
            self.pid.store(0, Ordering::SeqCst);
            let what = match end {
                End::Code(0) if given_up => {
                    self.journal.line(
                        Some(&self.name),
                        Level::Warning,
                        "the handler exited with 0; the host does not start it again",
                    );
                    return;
                }
                End::Shutdown => return,
                End::Code(0 | 200) | End::TimedOut => continue,
                End::Code(code) => format!("the handler exited with code {code}"),
                End::NotReady => "the handler was not ready in time".to_owned(),
            };
            let last_words = self.last_errors();
            self.journal.line(None, Level::Error, format!("{}: {what}{last_words}", self.name));
            if errors.last().is_some_and(|last| last.elapsed() > WINDOW) {
                errors.clear();
            }
            errors.push(Instant::now());
            if errors.len() < ERRORS {
                continue;
            }
            let reason = format!("{}: exceeded restart retry count; the host stops", self.name);
            if !self.launch.recycle {
                self.state.send_replace(State::Stopped);
                self.journal.stop(&reason);
                return;
            }
            self.journal.line(None, Level::Error, reason);
            errors.clear();
        }
    }

    /// The last three lines on standard error, for the error that reports the end.
    fn last_errors(&self) -> String {
        let record = self.journal.record();
        let lines =
            record.lines.iter().rev().filter(|line| line.group.as_ref() == Some(&self.name) && line.level > Level::Information);
        let mut lines: Vec<&str> = lines.take(3).map(|line| line.text.as_str()).collect();
        lines.reverse();
        if lines.is_empty() { String::new() } else { format!(": {}", lines.join(" | ")) }
    }

    async fn attached(&self, port: u16) -> End {
        let wire = Arc::new(Wire::new(port));
        if !ready(&wire, self.launch.start_limit).await {
            return End::NotReady;
        }
        self.state.send_replace(State::Ready(wire));
        std::future::pending().await
    }

    /// From the start of a process to its end.
    async fn one_life(&self, commands: &mut mpsc::UnboundedReceiver<Order>) -> End {
        let (mut child, port) = match self.spawn() {
            Ok(started) => started,
            Err(error) => {
                self.journal.line(Some(&self.name), Level::Error, format!("failed to start the handler: {error}"));
                return End::Code(126);
            }
        };
        self.pid.store(child.id().unwrap_or(0), Ordering::SeqCst);
        let stdout = child.stdout.take().map(|out| self.console(out, false));
        let stderr = child.stderr.take().map(|out| self.console(out, true));
        let wire = Arc::new(Wire::kept(port));
        let mut starting = std::pin::pin!(ready(&wire, self.launch.start_limit));
        let mut is_ready = false;
        let mut ordered = None;
        let end = loop {
            tokio::select! {
                status = child.wait() => break End::Code(status.map_or(1, exit_code)),
                ready = &mut starting, if !is_ready => {
                    if !ready {
                        drop(child.kill().await);
                        break End::NotReady;
                    }
                    is_ready = true;
                    self.state.send_replace(State::Ready(Arc::clone(&wire)));
                }
                Some(command) = commands.recv() => {
                    ordered = match command {
                        Order::Kill => ordered,
                        Order::TimedOut => ordered.or(Some(End::TimedOut)),
                        Order::End => Some(End::Shutdown),
                    };
                    drop(child.start_kill());
                }
            }
        };
        // What it wrote last is read before its end is told.
        for task in [stdout, stderr].into_iter().flatten() {
            drop(tokio::time::timeout(LAST_WORDS, task).await);
        }
        ordered.unwrap_or(end)
    }

    fn spawn(&self) -> std::io::Result<(Child, FreePort)> {
        let port = FreePort::find()?;
        let launch = &self.launch;
        let program = launch.folder.join(&launch.host_json.executable);
        let program = if program.is_file() { program } else { PathBuf::from(&launch.host_json.executable) };
        let mut command = Command::new(program);
        command.args(&launch.host_json.arguments).current_dir(directory(&launch.folder, &launch.host_json));
        command.env_clear().envs(search_path()).envs(&launch.settings);
        let (port_text, id) = (port.number().to_string(), super::identifiers::guid());
        for (name, value) in [
            ("FUNCTIONS_CUSTOMHANDLER_PORT", &port_text),
            ("FUNCTIONS_HTTPWORKER_PORT", &port_text),
            ("FUNCTIONS_CUSTOMHANDLER_WORKER_ID", &id),
            ("FUNCTIONS_HTTPWORKER_ID", &id),
        ] {
            command.env(name, value);
        }
        command.env("FUNCTIONS_APP_ROOT_PATH", &launch.folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        loop {
            match command.spawn() {
                // Another thread of this process forked while the file was being written.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                child => return Ok((child?, port)),
            }
        }
    }

    /// Reads lines and gives them the level that the host gives them.
    fn console(&self, stream: impl AsyncRead + Send + Unpin + 'static, errors: bool) -> tokio::task::JoinHandle<()> {
        let (journal, name) = (Arc::clone(&self.journal), self.name.clone());
        let errors_only = self.launch.host_json.errors_only_on_stderr;
        tokio::spawn(async move {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line).await, Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
                line.clear();
                // The first goes to the system's log, the second to tools.
                if text.starts_with("LanguageWorkerConsoleLog") || text.starts_with("azfuncjsonlog:") {
                    continue;
                }
                journal.line(Some(&name), level(&text, errors, errors_only), text);
            }
        })
    }
}

/// The level of a line.
fn level(text: &str, on_stderr: bool, errors_only: bool) -> Level {
    let text = text.to_ascii_lowercase();
    if !on_stderr {
        Level::Information
    } else if text.contains("warn") {
        Level::Warning
    } else if errors_only || text.contains("error") {
        Level::Error
    } else {
        Level::Information
    }
}

fn directory(folder: &Path, host_json: &HostJson) -> PathBuf {
    host_json.working_directory.as_ref().map_or_else(|| folder.to_owned(), |below| folder.join(below))
}

#[expect(clippy::disallowed_methods, reason = "the handler finds its commands as this program does")]
fn search_path() -> Option<(&'static str, std::ffi::OsString)> {
    std::env::var_os("PATH").map(|path| ("PATH", path))
}

/// A signal counts as 128 and its number.
fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Asks `GET /` until anything answers. An answer that does not come is waited for beyond the limit.
async fn ready(wire: &Wire, limit: Duration) -> bool {
    let mut ticks = tokio::time::interval(POLL);
    let mut waited = Duration::ZERO;
    loop {
        ticks.tick().await;
        match wire.follow(Outgoing::get("/")).await {
            Err(Broken::Refused) if waited < limit => waited += POLL,
            Err(Broken::Refused) => return false,
            Err(_) => return true,
            Ok(reply) => {
                drop(reply.read(wire).await);
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_get_the_hosts_level() {
        assert_eq!(level("an Error", false, true), Level::Information);
        assert_eq!(level("anything", true, true), Level::Error);
        assert_eq!(level("Forewarned", true, true), Level::Warning);
        assert_eq!(level("anything", true, false), Level::Information);
        assert_eq!(level("an ERROR", true, false), Level::Error);
    }
}
