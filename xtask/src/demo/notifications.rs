//! Change notifications: what changes in Microsoft Graph arrives at a playbook's webhook, step by step with times.
//!
//! The product runs as a process of its own; what it does is read from its log and from what the emulated services were asked.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use emulator::notifications::{Delivery, Subscription};
use emulator::{Emulator, FreePort, Playbook, Received, SystemTime, TENANT, Time as _};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Arguments;

const PLAYBOOKS: &str = include_str!("playbooks.toml");
/// Of the webhook.
const TRIGGER: &str = "9f0c1f36-2c4c-4a7e-8f43-7d7e5a1f2b11";
const USER: &str = "3f6c2a10-0000-4000-8000-000000000001";
const ALERT: &str = "da637551227677560813_-961444813";
/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who does something.
const GRAPH: &str = "Microsoft Graph";
const RELAY: &str = "Indicator Relay";
const WEBHOOK: &str = "ThreatConnect";
const STRANGER: &str = "a stranger";

/// Shows all of it, with the settings and the state of the exports.
pub(super) async fn show(
    program: &Path,
    environment: &BTreeMap<String, String>,
    emulator: &Emulator,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let port = FreePort::find()?;
    let address = format!("127.0.0.1:{}", port.number());
    let environment = settings(environment, emulator, folder.path(), &address)?;
    emulator.world().playbooks.insert(TRIGGER.to_owned(), Playbook::default());
    arguments.say(&format!(
        "\nNow the other way round: what happens at Microsoft reaches ThreatConnect. A playbook of Indicator Relay says what is done about \
         which change. Two are in playbooks.toml; both call the webhook of a playbook in ThreatConnect:\n\n{}\n\
         The product runs beside this, at an address that Microsoft Graph can reach, and subscribes at its start to what the playbooks ask for:\n\n\
         $ export PLAYBOOKS_FILE=playbooks.toml PUBLIC_URL=http://{address} TC_PLAYBOOK_URL=...\n\
         $ indicator-relay serve --listen {address} &\n\
         $ indicator-relay subscriptions list\n",
        indented(PLAYBOOKS)
    ));
    let began = SystemTime.now();
    let served = Served::start(program, &environment, &address).await?;
    let mut stage = Stage { emulator, arguments, served, began };
    stage.subscribe(program, &environment).await?;
    let delivered = stage.change().await?;
    stage.again(&delivered).await?;
    stage.forge(&delivered).await?;
    stage.alert().await?;
    stage.served.child.kill().await.context("failed to end indicator-relay")
}

/// Those of the exports, and what notifications need beyond.
fn settings(
    given: &BTreeMap<String, String>,
    emulator: &Emulator,
    folder: &Path,
    address: &str,
) -> anyhow::Result<BTreeMap<String, String>> {
    let file = folder.join("playbooks.toml");
    std::fs::write(&file, PLAYBOOKS)?;
    let mut settings = given.clone();
    let more = [
        ("PLAYBOOKS_FILE", file.display().to_string()),
        ("PUBLIC_URL", format!("http://{address}")),
        ("TC_PLAYBOOK_URL", emulator.playbook_url(TRIGGER)),
        ("ALERT_POLL_SCHEDULE", "*/2 * * * * *".to_owned()),
        // What is made at the start is all that is shown.
        ("SUBSCRIPTION_SCHEDULE", "0 0 0 1 1 *".to_owned()),
        ("LOGGING_LEVEL", "info".to_owned()),
    ];
    settings.extend(more.map(|(key, value)| (key.to_owned(), value)));
    Ok(settings)
}

/// The product, and what it says.
struct Served {
    child: Child,
    lines: UnboundedReceiver<Value>,
}

impl Served {
    async fn start(program: &Path, environment: &BTreeMap<String, String>, address: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(["serve", "--listen", address]).envs(environment).kill_on_drop(true);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("failed to start indicator-relay")?;
        let (said, lines) = unbounded_channel();
        listen(child.stdout.take(), said.clone());
        listen(child.stderr.take(), said);
        let mut served = Self { child, lines };
        // It listens by then.
        served.until(|line| line["message"].as_str().is_some_and(|text| text.starts_with("serving"))).await?;
        Ok(served)
    }

    /// The next line of the log that fits.
    async fn until(&mut self, fits: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let next = async {
            while let Some(line) = self.lines.recv().await {
                ensure!(line["level"] != "ERROR", "indicator-relay failed: {}", line["message"]);
                if fits(&line) {
                    return Ok(line);
                }
            }
            bail!("indicator-relay has ended")
        };
        tokio::time::timeout(PATIENCE, next).await.unwrap_or_else(|_| bail!("indicator-relay did not do it within a minute"))
    }
}

/// A message of the queues was handled to an end.
fn is_handled(line: &Value) -> bool {
    let ended = ["done", "skipped", "duplicate", "covered", "dead"];
    line["event"] == "notification.handled" && ended.iter().any(|key| number(line, key) > 0)
}

/// Sends on each line; one that is no JSON is an error's.
fn listen(stream: Option<impl AsyncRead + Send + Unpin + 'static>, said: UnboundedSender<Value>) {
    let Some(stream) = stream else { return };
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let value = serde_json::from_str(&line).unwrap_or_else(|_| json!({"level": "ERROR", "message": line}));
            if said.send(value).is_err() {
                return;
            }
        }
    });
}

struct Stage<'a> {
    emulator: &'a Emulator,
    arguments: &'a Arguments,
    served: Served,
    /// Of the step that is shown.
    began: Timestamp,
}

impl Stage<'_> {
    /// What comes next, and why.
    fn head(&mut self, text: &str) {
        self.arguments.say(&format!("\n{text}\n"));
        self.began = SystemTime.now();
    }

    fn line(&self, at: Timestamp, who: &str, text: &str) {
        let after = format!("+{} ms", at.duration_since(self.began).as_millis());
        self.arguments.say(&format!("  {}  {after:>8}  {who:15}  {text}", at.strftime("%H:%M:%S%.3f")));
    }

    /// More of the line before.
    fn more(&self, text: &str) {
        self.arguments.say(&format!("{:43}{text}", ""));
    }

    async fn subscribe(&mut self, program: &Path, environment: &BTreeMap<String, String>) -> anyhow::Result<()> {
        self.served.until(|line| line["event"] == "subscriptions.reconciled").await?;
        let mut command = Command::new(program);
        command.args(["subscriptions", "list"]).envs(environment).stderr(Stdio::inherit());
        let output = command.output().await.context("failed to start indicator-relay")?;
        self.arguments.pass_on(String::from_utf8_lossy(&output.stdout).trim_end());
        ensure!(output.status.success(), "the subscriptions cannot be listed: {}", output.status);
        let (handshakes, made) = {
            let world = self.emulator.world();
            let made: Vec<Subscription> = world.notifications.subscriptions(self.began).into_iter().cloned().collect();
            let mut handshakes = world.notifications.handshakes.clone();
            // One address for changes and for what becomes of the subscription: it is asked for each.
            handshakes.dedup_by_key(|handshake| handshake.url.split('?').next().unwrap_or_default().to_owned());
            (handshakes, made)
        };
        self.arguments.say("\nWhat Microsoft Graph did (times are UTC; then the milliseconds since the step began):\n");
        for handshake in handshakes {
            let url = handshake.url.split('?').next().unwrap_or_default();
            let status = handshake.status.unwrap_or_default();
            self.line(handshake.at, GRAPH, &format!("handshake: sends a token to {url}"));
            self.more(&format!("and gets it back, with {status}: the address is ours, and may be delivered to"));
        }
        for one in made {
            let until = one.expires.strftime("%Y-%m-%d %H:%M:%SZ");
            self.line(one.created, GRAPH, &format!("makes the subscription {}", one.id));
            self.more(&format!(
                "to {} that are {}, until {until}; Indicator Relay renews it in time",
                one.resource, one.change_type
            ));
        }
        Ok(())
    }

    async fn change(&mut self) -> anyhow::Result<Delivery> {
        let user = json!({"displayName": "Jane Doe", "accountEnabled": false});
        self.head("Somebody disables an account:");
        let told = self.emulator.world().put_user(TENANT, USER, user, self.began);
        ensure!(told == 1, "{told} subscriptions are told of the change");
        self.line(self.began, GRAPH, "the user Jane Doe changes");
        let delivered = self.deliver(GRAPH, "delivers a notification").await?;
        let handled = self.served.until(is_handled).await?;
        ensure!(number(&handled, "done") == 1, "the notification was not acted on: {handled}");
        let (read, received) = self.seen(&format!("/v1.0/users/{USER}"))?;
        self.line(read, RELAY, "fetches the user: a notification holds no more than the id");
        self.arrived(&received);
        Ok(delivered)
    }

    /// When something was first found at Microsoft Graph, and what came to the webhook last.
    fn seen(&self, path: &str) -> anyhow::Result<(Timestamp, Received)> {
        let world = self.emulator.world();
        let read = world.log.iter().find(|logged| logged.items > 0 && logged.target.starts_with(path)).map(|logged| logged.at);
        let received = world.playbooks[TRIGGER].received.last().cloned();
        Ok((read.with_context(|| format!("{path} was not read"))?, received.context("nothing came to the webhook")?))
    }

    fn arrived(&self, received: &Received) {
        let after = received.at.duration_since(self.began).as_millis();
        self.line(received.at, WEBHOOK, &format!("the playbook's webhook is called, after {after} ms"));
        self.more(&received.body);
        self.more(&format!("Idempotency-Key: {}", received.header("idempotency-key").unwrap_or_default()));
    }

    /// Sends what is due, which is one delivery.
    async fn deliver(&self, who: &str, what: &str) -> anyhow::Result<Delivery> {
        let delivered = self.emulator.deliver_due().await;
        let [one] = &delivered[..] else { bail!("{} deliveries instead of one", delivered.len()) };
        let status = one.status.context("a delivery was not answered in time")?;
        self.line(one.at, who, &format!("{what}: answered {status} in {} ms", one.took.as_millis()));
        Ok(one.clone())
    }

    async fn again(&mut self, delivered: &Delivery) -> anyhow::Result<()> {
        self.head("The same notification is delivered once more, as happens when an answer is lost on its way:");
        self.emulator.world().raise_body(&delivered.url, &delivered.body, self.began);
        self.deliver(GRAPH, "delivers it again").await?;
        let handled = self.served.until(is_handled).await?;
        ensure!(number(&handled, "duplicate") == 1, "the duplicate was not seen: {handled}");
        self.line(
            time(&handled),
            RELAY,
            &format!("knows it (1 duplicate) and does nothing: the webhook was called {} in all", self.calls()),
        );
        Ok(())
    }

    async fn forge(&mut self, delivered: &Delivery) -> anyhow::Result<()> {
        self.head("A stranger makes up a notification, but cannot know the clientState that proves where one comes from:");
        let mut body: Value = serde_json::from_str(&delivered.body)?;
        let item = &mut body["value"][0];
        let state = item["clientState"].as_str().unwrap_or_default();
        // The form is right, the code at its end is not.
        let guess = state.rsplit_once('.').map(|(told, code)| format!("{told}.{}", "A".repeat(code.len())));
        item["clientState"] = guess.context("a delivery without a client state")?.into();
        item["resource"] = "Users/made-up".into();
        self.emulator.world().raise_body(&delivered.url, &body.to_string(), self.began);
        self.deliver(STRANGER, "delivers it").await?;
        let dropped = |line: &Value| line["event"] == "notification.received" && number(line, "dropped") > 0;
        let received = self.served.until(dropped).await?;
        let (accepted, wrong) = (number(&received, "accepted"), number(&received, "wrong_client_state"));
        ensure!((accepted, wrong) == (0, 1), "what was made up was not dropped: {received}");
        self.line(
            time(&received),
            RELAY,
            &format!("drops it, and counts it: {wrong} with a wrong clientState, {accepted} accepted"),
        );
        self.more(&format!(
            "the answer is as before, and tells the stranger nothing; the webhook was called {} in all",
            self.calls()
        ));
        Ok(())
    }

    async fn alert(&mut self) -> anyhow::Result<()> {
        self.head(
            "An alert. Microsoft Graph offers no subscriptions to alerts any more, so Indicator Relay polls them: here every 2 s, \
             else every 5 min (ALERT_POLL_SCHEDULE). What it finds becomes the same kind of item and goes the same way:",
        );
        let alert = json!({
            "title": "Connection to a known command and control server", "severity": "high", "status": "new",
            "evidence": [{"@odata.type": "#microsoft.graph.security.ipEvidence", "ipAddress": "203.0.113.7"}],
        });
        self.emulator.world().put_alert(TENANT, ALERT, alert, self.began);
        self.line(self.began, GRAPH, "an alert of high severity appears");
        // What is found may be handled before the poll has told of it.
        let is_poll = |line: &Value| line["event"] == "poll.finished" && number(line, "created") > 0;
        let first = self.served.until(|line| is_poll(line) || is_handled(line)).await?;
        let second = self.served.until(|line| is_poll(line) || is_handled(line)).await?;
        let (polled, handled) = if is_poll(&first) { (first, second) } else { (second, first) };
        ensure!(number(&handled, "done") == 1, "the alert was not acted on: {handled}");
        let (read, received) = self.seen("/v1.0/security/alerts_v2")?;
        self.line(read, RELAY, &format!("polls security/alerts_v2: {} new", number(&polled, "created")));
        self.arrived(&received);
        Ok(())
    }

    fn calls(&self) -> String {
        match self.emulator.world().playbooks[TRIGGER].received.len() {
            1 => "once".to_owned(),
            count => format!("{count} times"),
        }
    }
}

/// When a line of the log was written.
fn time(line: &Value) -> Timestamp {
    line["time"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn number(line: &Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or(0)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") }).collect()
}

#[cfg(test)]
mod tests {
    use super::PLAYBOOKS;

    #[test]
    fn the_playbooks_that_are_shown_have_no_mistakes() {
        let loaded = indicator_relay::playbooks::load(PLAYBOOKS, &|name| name == "TC_PLAYBOOK_URL");
        assert!(loaded.problems.is_empty() && loaded.playbooks.len() == 2, "{:?}", loaded.problems);
    }
}
