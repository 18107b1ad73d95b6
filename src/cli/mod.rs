//! The command line: reads arguments, calls one entry point, prints what it says.

mod check;
mod export;
mod rejected;
mod render;
mod show;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::app::App;
use crate::platform::clock::Clock;
use crate::platform::identity::Identity;
use crate::platform::secret::Secret;
use crate::platform::vault::Vault;
use crate::settings::{self, LoggingLevel, Problem, Settings, vault_secrets};
use crate::storage::{self, Queue};

/// Keeps Microsoft Sentinel and Microsoft Defender equal to the indicators in ThreatConnect. Settings come from the environment; `settings` lists them.
#[derive(Debug, Parser)]
#[command(name = "indicator-relay", version, about, max_term_width = 100)]
pub struct Arguments {
    /// Say more: -v what is done, -vv every request.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one export now, for all jobs or one.
    Export(export::Arguments),
    /// Checks settings and permissions: reaches every remote with the least call.
    Check,
    /// Lists the latest runs of every job.
    Runs {
        /// One JSON document on standard output.
        #[arg(long)]
        json: bool,
        /// Runs to show of each job.
        #[arg(long, default_value_t = 5)]
        last: usize,
    },
    /// Items that the target refused.
    #[command(subcommand)]
    Rejected(Rejected),
    /// Says why one indicator is, or is not, at the target.
    Explain {
        /// The value: an address, host, URL, hash, …
        value: String,
        #[arg(long)]
        json: bool,
    },
    /// Manages jobs.
    #[command(subcommand)]
    Jobs(Jobs),
    /// Shows all settings, what they accept, and what is set.
    Settings {
        #[arg(long, value_enum, default_value_t = Shape::Table)]
        format: Shape,
    },
    /// Prints completions for a shell.
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
enum Rejected {
    /// Lists them with the target's reasons.
    List(rejected::List),
    /// Sends them again, though their content has not changed: a full run of each job that has some.
    Retry {
        /// Of one job only.
        #[arg(long)]
        job: Option<String>,
        /// One JSON document on standard output, nothing else there.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Jobs {
    /// Withdraws all that only this job brought, and forgets the job.
    Retire { name: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    Table,
    Json,
    Schema,
    Env,
    Markdown,
}

/// What the command line is given from outside: no other part reads the environment or makes clients.
#[derive(Debug)]
pub struct Surroundings {
    pub environment: BTreeMap<String, String>,
    pub client: reqwest::Client,
    pub clock: Arc<dyn Clock>,
    /// Standard error is a terminal: a progress bar makes sense.
    pub terminal: bool,
}

/// How a command ended; the numbers are the exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// Complete, with items that were rejected for the first time.
    Rejections = 3,
    /// Failed, incomplete, withdrawal refused, or the lease is held.
    Failed = 1,
    /// Wrong usage or settings.
    Usage = 2,
}

impl Exit {
    /// How bad: of several runs, the worst is told.
    fn severity(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Rejections => 1,
            Self::Failed => 2,
            Self::Usage => 3,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The level to log at: what `LOGGING_LEVEL` says, more with `-v`, and only warnings where neither says anything.
#[must_use]
pub fn logging_level(arguments: &Arguments, environment: &BTreeMap<String, String>) -> LoggingLevel {
    match arguments.verbose {
        0 => match environment.get("LOGGING_LEVEL").map(|text| text.trim().to_ascii_lowercase()).as_deref() {
            Some("trace") => LoggingLevel::Trace,
            Some("debug") => LoggingLevel::Debug,
            Some("info") => LoggingLevel::Info,
            Some("error") => LoggingLevel::Error,
            _ => LoggingLevel::Warn,
        },
        1 => LoggingLevel::Info,
        _ => LoggingLevel::Debug,
    }
}

/// Runs one command.
pub async fn run(arguments: Arguments, around: &Surroundings) -> Exit {
    match arguments.command {
        Command::Settings { format } => {
            let format = match format {
                Shape::Table => settings::Format::Table,
                Shape::Json => settings::Format::Json,
                Shape::Schema => settings::Format::Schema,
                Shape::Env => settings::Format::Env,
                Shape::Markdown => settings::Format::Markdown,
            };
            render::print(&settings::render(format, Some(&around.environment)));
            Exit::Done
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "indicator-relay", &mut text);
            render::print(&String::from_utf8_lossy(&text));
            Exit::Done
        }
        command => {
            let (app, queue) = match open(around).await {
                Ok(opened) => opened,
                Err(exit) => return exit,
            };
            with_app(command, &app, queue.as_ref(), around).await
        }
    }
}

async fn with_app(command: Command, app: &App, queue: &dyn Queue, around: &Surroundings) -> Exit {
    match command {
        Command::Export(arguments) => export::run(arguments, app, around).await,
        Command::Check => check::run(app, queue).await,
        Command::Runs { json, last } => show::runs(app, json, last).await,
        Command::Rejected(Rejected::List(wanted)) => rejected::list(app, &wanted).await,
        Command::Rejected(Rejected::Retry { job, json }) => rejected::retry(app, job.as_deref(), json, around).await,
        Command::Explain { value, json } => show::explain(app, &value, json).await,
        Command::Jobs(Jobs::Retire { name }) => export::retire(app, &name).await,
        Command::Settings { .. } | Command::Completions { .. } => Exit::Done,
    }
}

/// Settings, secrets, store: or what is wrong with them, printed.
async fn open(around: &Surroundings) -> Result<(App, Arc<dyn Queue>), Exit> {
    let given = secrets(around).await?;
    let settings = Settings::from_map(&given).map_err(|problems| complain(&problems))?;
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    let stores = storage::open(&settings.storage, &around.client, &around.clock).map_err(|error| failed(&error))?;
    let app = App::new(settings, &around.client, &around.clock, stores.state).map_err(|error| {
        render::error(&error);
        Exit::Usage
    })?;
    Ok((app, stores.queue))
}

/// The environment with the values of secrets that are in the vault.
async fn secrets(around: &Surroundings) -> Result<BTreeMap<String, String>, Exit> {
    let Some(plan) = vault_secrets(&around.environment).map_err(|problems| complain(&problems))? else {
        return Ok(around.environment.clone());
    };
    let managed = around.environment.get("IDENTITY").is_some_and(|text| text.trim().eq_ignore_ascii_case("managed"));
    let client_id = around.environment.get("MANAGED_IDENTITY_CLIENT_ID").cloned();
    let identity = if managed { Identity::Managed { client_id } } else { Identity::Developer };
    let failed = |error: String| {
        render::error(&error);
        Exit::Failed
    };
    let vault = Vault::new(plan.url.clone(), &identity, around.client.clone()).map_err(failed)?;
    let mut values: BTreeMap<String, Secret> = BTreeMap::new();
    for secret in &plan.secrets {
        values.insert(secret.name.clone(), vault.secret(&secret.name).await.map_err(failed)?);
    }
    Ok(plan.fill(&around.environment, &values))
}

fn complain(problems: &[Problem]) -> Exit {
    let lines: Vec<String> = problems.iter().map(|problem| format!("  {problem}")).collect();
    let count =
        if problems.len() == 1 { "one setting is wrong".to_owned() } else { format!("{} settings are wrong", problems.len()) };
    render::error(&format!("{count} (nothing was contacted; `indicator-relay settings` lists all):\n{}", lines.join("\n")));
    Exit::Usage
}

/// One line, and what it means for the exit code.
fn failed(error: &str) -> Exit {
    render::error(error);
    Exit::Failed
}

/// Two random names: of a run and of its worker.
fn names() -> (String, String) {
    let name = || uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
    (name(), name())
}
