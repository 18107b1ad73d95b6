//! `playbooks dead list` and `playbooks dead replay`: notifications that could not be acted on, or are held.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::render::{self, number, printable};
use super::{Exit, failed};
use crate::app::App;
use crate::dispatch::{self, Dead};
use crate::notifications::item::{Event, Item, QUEUE, URGENT_QUEUE, Work};
use crate::storage::{Message, StoreError, poison_of};

/// A message of a poison queue is hidden from others so long while it is put back.
const PUT_BACK: Duration = Duration::from_secs(60);
/// Messages that are taken at once.
const MESSAGES: usize = 32;

/// What to do with what is dead.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Lists it with its reasons: the dead store, and the first 32 messages of each poison queue.
    List {
        /// One JSON document on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Puts it back into its queue.
    Replay {
        /// Everything, poison queues included.
        #[arg(long, conflicts_with = "keys")]
        all: bool,
        /// Keys as `list` shows them.
        #[arg(value_name = "KEY", required_unless_present = "all")]
        keys: Vec<String>,
    },
}

/// A message of a poison queue.
struct Poisoned {
    queue: &'static str,
    message: Message,
}

impl Poisoned {
    fn key(&self) -> String {
        format!("{}:{}", poison_of(self.queue), self.message.id)
    }
}

pub(super) async fn run(app: &App, command: Command) -> Exit {
    let ran = match command {
        Command::List { json } => list(app, json).await,
        Command::Replay { all: true, .. } => replay_all(app).await,
        Command::Replay { keys, .. } => replay(app, keys.into_iter().collect()).await,
    };
    ran.unwrap_or_else(|error| failed(&error.to_string()))
}

async fn list(app: &App, as_json: bool) -> Result<Exit, StoreError> {
    let (mut page, mut rows, mut after) = (String::new(), Vec::new(), None::<String>);
    let mut count = 0_u64;
    loop {
        let dead = dispatch::list(app.state.as_ref(), after.as_deref()).await?;
        let Some((last, _)) = dead.last() else { break };
        after = Some(last.clone());
        for (key, dead) in &dead {
            count += 1;
            if as_json {
                rows.push(row(key, dead.as_ref()));
            } else {
                line(&mut page, key, dead.as_ref());
            }
        }
    }
    let (mut poisoned, mut waiting) = (Vec::new(), 0);
    for queue in [QUEUE, URGENT_QUEUE] {
        let poison = poison_of(queue);
        waiting += app.queue.count(&poison).await?;
        let messages = app.queue.peek(&poison, MESSAGES).await?;
        poisoned.extend(messages.into_iter().map(|message| Poisoned { queue, message }));
    }
    if as_json {
        let messages = poisoned.iter().map(|poisoned| {
            json!({"key": poisoned.key(), "queue": poisoned.queue, "bytes": poisoned.message.body.len(), "resources": resources(&poisoned.message.body)})
        });
        render::print(&format!(
            "{}\n",
            json!({"dead": rows, "poison": messages.collect::<Vec<_>>(), "in_poison_queues": waiting})
        ));
        return Ok(Exit::Done);
    }
    for poisoned in &poisoned {
        let about = resources(&poisoned.message.body).join(", ");
        let about = if about.is_empty() { "no notification".to_owned() } else { printable(&about) };
        let _ = writeln!(page, "{}  {about}: could not be handled, the log says why", poisoned.key());
    }
    let _ = writeln!(page, "{} dead or held, {} in poison queues", number(count), number(waiting));
    render::print(&page);
    Ok(Exit::Done)
}

fn line(page: &mut String, key: &str, dead: Option<&Dead>) {
    let Some(dead) = dead else {
        let _ = writeln!(page, "{key}  a row that this version cannot read");
        return;
    };
    let _ = writeln!(
        page,
        "{key}  {}  {} {} (playbook {}, {}): {}",
        dead.at.strftime("%Y-%m-%d %H:%M:%SZ"),
        event(&dead.task.item),
        printable(dead.task.item.resource.as_deref().unwrap_or("-")),
        printable(dead.playbook.as_deref().unwrap_or("-")),
        if dead.attempts == 1 { "1 try".to_owned() } else { format!("{} tries", dead.attempts) },
        render::whole(&dead.reason)
    );
}

fn row(key: &str, dead: Option<&Dead>) -> Value {
    let Some(dead) = dead else { return json!({"key": key, "reason": "a row that this version cannot read"}) };
    json!({
        "key": key,
        "at": dead.at,
        "received": dead.task.item.received,
        "event": event(&dead.task.item),
        "resource": dead.task.item.resource,
        "playbook": dead.playbook,
        "queue": dead.queue,
        "attempts": dead.attempts,
        "reason": dead.reason,
    })
}

fn event(item: &Item) -> &'static str {
    match item.event {
        Event::Change(change) => change.name(),
        Event::Lifecycle(event) => event.name(),
    }
}

/// What a message is about, and nothing else of it.
fn resources(body: &[u8]) -> Vec<String> {
    match serde_json::from_slice::<Work>(body) {
        Ok(Work::Item(task)) => task.item.resource.into_iter().collect(),
        Ok(Work::Batch(items)) => items.into_iter().filter_map(|item| item.resource).collect(),
        Err(_) => Vec::new(),
    }
}

/// The messages of a poison queue, each once.
async fn take(app: &App, queue: &'static str) -> Result<Vec<Poisoned>, StoreError> {
    let poison = poison_of(queue);
    // A queue that never held anything does not exist.
    if app.queue.count(&poison).await? == 0 {
        return Ok(Vec::new());
    }
    let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
    loop {
        let messages = app.queue.receive(&poison, MESSAGES, PUT_BACK).await?;
        let news: Vec<Message> = messages.into_iter().filter(|message| seen.insert(message.id.clone())).collect();
        if news.is_empty() {
            return Ok(all);
        }
        all.extend(news.into_iter().map(|message| Poisoned { queue, message }));
    }
}

async fn replay_all(app: &App) -> Result<Exit, StoreError> {
    let (mut count, mut after) = (0_u64, None::<String>);
    loop {
        let dead = dispatch::list(app.state.as_ref(), after.as_deref()).await?;
        let Some((last, _)) = dead.last() else { break };
        after = Some(last.clone());
        for (key, _) in &dead {
            count += u64::from(dispatch::replay(app.state.as_ref(), app.queue.as_ref(), key).await?);
        }
    }
    for queue in [QUEUE, URGENT_QUEUE] {
        for poisoned in take(app, queue).await? {
            put_back(app, &poisoned).await?;
            count += 1;
        }
    }
    render::print(&format!("{} put back\n", number(count)));
    Ok(Exit::Done)
}

async fn replay(app: &App, mut keys: BTreeSet<String>) -> Result<Exit, StoreError> {
    let mut count = 0_u64;
    for queue in [QUEUE, URGENT_QUEUE] {
        let prefix = format!("{}:", poison_of(queue));
        if !keys.iter().any(|key| key.starts_with(&prefix)) {
            continue;
        }
        for poisoned in take(app, queue).await? {
            if keys.remove(&poisoned.key()) {
                put_back(app, &poisoned).await?;
                count += 1;
            }
        }
    }
    let mut unknown = Vec::new();
    for key in keys {
        // No key of a row holds a colon, and some characters can be in none.
        let possible = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
        if possible && dispatch::replay(app.state.as_ref(), app.queue.as_ref(), &key).await? {
            count += 1;
        } else {
            unknown.push(key);
        }
    }
    render::print(&format!("{} put back\n", number(count)));
    if unknown.is_empty() {
        return Ok(Exit::Done);
    }
    render::error(&format!("nothing is dead under {}; `playbooks dead list` shows the keys", unknown.join(", ")));
    Ok(Exit::Usage)
}

/// First the copy, then the original: killed in between it is there twice, and acted on once.
async fn put_back(app: &App, poisoned: &Poisoned) -> Result<(), StoreError> {
    app.queue.put(poisoned.queue, poisoned.message.body.clone(), Duration::ZERO).await?;
    app.queue.delete(&poison_of(poisoned.queue), &poisoned.message).await.map(drop)
}
