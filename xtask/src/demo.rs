//! `cargo demo`: the product over emulated services, twice: as a command, or under the Functions host as Azure runs it.

mod azure_functions;
mod console;
mod notifications;
mod plain;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use emulator::{Emulator, GRAPH_TENANT, SystemTime, TENANT, Time as _, WORKSPACE, generate, load_csv};
use tokio::process::Command;

use crate::docs::root;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many indicators to make up, or a CSV file (type,value,md5,sha1,sha256,tags,description,source,first_seen).
    #[arg(long, default_value = "3000")]
    indicators: String,
    /// Under the emulated Azure Functions host, with Azurite for storage (needs Node.js 20 or later).
    #[arg(long)]
    azure_functions: bool,
    /// End when the exports are done, before the change notifications.
    #[arg(long)]
    exit: bool,
    /// One JSON document on standard output: the reports of both runs.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Text for people: beside the JSON document, if one is asked for.
    fn say(&self, text: &str) {
        let text: Vec<String> = text.split('\n').map(wrapped).collect();
        self.pass_on(&text.join("\n"));
    }

    /// What a program printed, as it is.
    fn pass_on(&self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            print(text);
        }
    }
}

/// A sentence in lines that fit everywhere; what is indented or a command stays as it is.
fn wrapped(line: &str) -> String {
    const COLUMNS: usize = 80;
    let mut lines = vec![String::new()];
    if line.starts_with([' ', '$']) {
        return line.to_owned();
    }
    for word in line.split(' ') {
        let last = lines.len() - 1;
        let used = lines[last].chars().count();
        if used > 0 && used + 1 + word.chars().count() > COLUMNS {
            lines.push(word.to_owned());
        } else {
            lines[last] += if used > 0 { " " } else { "" };
            lines[last] += word;
        }
    }
    lines.join("\n")
}

/// A line on standard output; the end, if nobody reads it any more.
fn print(line: &str) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

const DEFENDER: &str = "Microsoft Defender for Endpoint";

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.azure_functions { azure_functions::run(&arguments).await } else { plain::run(&arguments).await }
}

/// Observables with more than one live object at one target.
fn doubled(emulator: &Emulator) -> usize {
    let (world, now) = (emulator.world(), SystemTime.now());
    let at_sentinel = surplus(world.live(WORKSPACE, now).values().map(|object| object.pattern.clone()));
    let at_defender = surplus(world.at_defender(TENANT, now).into_iter().map(|i| (i.kind.clone(), i.value.clone())));
    at_sentinel + at_defender + world.doubles_at_graph(GRAPH_TENANT, now).len()
}

/// How many are there beyond the first of each.
fn surplus<T: Ord>(values: impl Iterator<Item = T>) -> usize {
    let mut values: Vec<T> = values.collect();
    let count = values.len();
    values.sort();
    values.dedup();
    count - values.len()
}

async fn build() -> anyhow::Result<PathBuf> {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let status = Command::new(cargo).args(["build", "--quiet", "--bin", "indicator-relay"]).current_dir(root()).status().await?;
    ensure!(status.success(), "failed to build indicator-relay");
    let here = std::env::current_exe()?;
    let folder = here.parent().unwrap_or_else(|| Path::new("."));
    Ok(folder.join("indicator-relay"))
}

fn fill(emulator: &Emulator, what: &str, now: jiff::Timestamp) -> anyhow::Result<usize> {
    let indicators: Vec<emulator::Indicator> = match what.parse::<usize>() {
        Ok(count) => generate(1, count, now).collect(),
        Err(_) => load_csv(Path::new(what), now)?,
    };
    let count = indicators.len();
    let mut world = emulator.world();
    for indicator in indicators {
        world.add(indicator);
    }
    Ok(count)
}

/// What happens to indicators over a day.
fn change(emulator: &Emulator, now: jiff::Timestamp) -> String {
    let mut world = emulator.world();
    let ids: Vec<u64> = world.indicators().filter(|i| i.type_name == "Host" || i.type_name == "URL").map(|i| i.id).collect();
    let (mut rescored, mut tagged, mut gone) = (0, 0, 0);
    for (i, id) in ids.iter().enumerate() {
        match i % 60 {
            0 => rescored += u32::from(world.touch(*id, now, |indicator| indicator.confidence = Some(99))),
            1 => tagged += u32::from(world.edit(*id, |indicator| indicator.tags.push("Seen by the demo".to_owned()))),
            2 => gone += u32::from(world.deactivate(*id)),
            3 if i % 120 == 3 => gone += u32::from(world.delete(*id)),
            _ => {}
        }
    }
    format!("{rescored} indicators got another confidence, {tagged} a new tag, and {gone} are gone")
}
