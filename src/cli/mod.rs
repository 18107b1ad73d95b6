//! The command line: reads arguments, calls one entry point, prints what it says.

mod check;
mod dead;
mod export;
mod playbooks;
mod rejected;
mod render;
mod serve;
mod show;
mod subscriptions;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::app::{App, OpenError, Surroundings};
use crate::settings::{self, LoggingLevel, Problem};

/// Keeps Microsoft Sentinel and Microsoft Defender equal to the indicators in ThreatConnect, and runs playbooks on Microsoft Graph's change notifications. Settings come from the environment; `settings` lists them.
#[derive(Debug, Parser)]
#[command(name = "indicator-relay", version, about, max_term_width = 100)]
pub struct Arguments {
    /// Say more: -v what is done, -vv every request.
    #[arg(short, long, global = true, display_order = 100, action = clap::ArgAction::Count)]
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
        /// One JSON document on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Manages jobs.
    #[command(subcommand)]
    Jobs(Jobs),
    /// Runs everything in this process, without Azure Functions: schedules, notifications and workers.
    Serve {
        /// Address and port for notifications; HTTPS is the affair of what stands in front.
        #[arg(long, default_value = "127.0.0.1:7071")]
        listen: std::net::SocketAddr,
    },
    /// Playbooks: what is done about change notifications.
    #[command(subcommand)]
    Playbooks(Playbooks),
    /// Subscriptions to change notifications of Microsoft Graph.
    #[command(subcommand)]
    Subscriptions(subscriptions::Command),
    /// Shows all settings, what they accept, and what is set.
    Settings {
        /// For people, programs, editors, shells or documents.
        #[arg(long, value_enum, default_value_t = Shape::Table)]
        format: Shape,
    },
    /// Prints completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
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
enum Playbooks {
    /// Prints what the playbooks would do about a notification from a file. Contacts nothing.
    Test(playbooks::Test),
    /// Notifications that could not be acted on, or are held.
    #[command(subcommand)]
    Dead(dead::Command),
}

#[derive(Debug, Subcommand)]
enum Jobs {
    /// Withdraws all that only this job brought, and forgets the job.
    Retire {
        /// The job, as `JOBS` named it.
        name: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    Table,
    Json,
    Schema,
    Env,
    Markdown,
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
        0 => settings::logging_level(environment).unwrap_or(if serves(arguments) {
            LoggingLevel::Info
        } else {
            LoggingLevel::Warn
        }),
        1 => LoggingLevel::Info,
        _ => LoggingLevel::Debug,
    }
}

/// The program stays, and is most often watched by nobody.
#[must_use]
pub fn serves(arguments: &Arguments) -> bool {
    matches!(arguments.command, Command::Serve { .. })
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
        Command::Playbooks(Playbooks::Test(wanted)) => playbooks::test(&wanted, around),
        Command::Subscriptions(subscriptions::Command::Resources { json }) => {
            render::print(&subscriptions::table_of_resources(json));
            Exit::Done
        }
        command => {
            let patience = matches!(command, Command::Check).then_some(check::PATIENCE);
            let app = match open(around, patience).await {
                Ok(app) => app,
                Err(exit) => return exit,
            };
            if let Command::Serve { listen } = command {
                return serve::run(listen, app, around).await;
            }
            with_app(command, &app, around).await
        }
    }
}

async fn with_app(command: Command, app: &App, around: &Surroundings) -> Exit {
    match command {
        Command::Export(arguments) => export::run(arguments, app, around).await,
        Command::Check => check::run(app).await,
        Command::Runs { json, last } => show::runs(app, json, last).await,
        Command::Rejected(Rejected::List(wanted)) => rejected::list(app, &wanted).await,
        Command::Rejected(Rejected::Retry { job, json }) => rejected::retry(app, job.as_deref(), json, around).await,
        Command::Explain { value, json } => show::explain(app, &value, json).await,
        Command::Jobs(Jobs::Retire { name }) => export::retire(app, &name).await,
        Command::Subscriptions(command) => subscriptions::run(command, app).await,
        Command::Playbooks(Playbooks::Dead(command)) => dead::run(app, command).await,
        Command::Settings { .. }
        | Command::Completions { .. }
        | Command::Playbooks(Playbooks::Test(_))
        | Command::Serve { .. } => Exit::Done,
    }
}

/// The product, or what is wrong with its settings, printed.
async fn open(around: &Surroundings, patience: Option<Duration>) -> Result<App, Exit> {
    App::open_within(around, patience).await.map_err(|error| match error {
        OpenError::Settings(problems) => complain(&problems),
        OpenError::Setting(line) => {
            render::error(&line);
            Exit::Usage
        }
        OpenError::Failed(line) => failed(&line),
    })
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
