//! `cargo demo`: the product as a user runs it, over emulated services, twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use emulator::{Emulator, Options, SystemTime, Time as _, WORKSPACE, generate, load_csv};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::docs::root;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many indicators to make up, or a CSV file (type,value,md5,sha1,sha256,tags,description,source,first_seen).
    #[arg(long, default_value = "3000")]
    indicators: String,
    /// End when the exports are done.
    #[arg(long)]
    exit: bool,
    /// One JSON document on standard output: the reports of both runs.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let say = |text: &str| if arguments.json { eprintln!("{text}") } else { println!("{text}") };
    let program = build().await?;
    let folder = tempfile::tempdir()?;
    let options = Options::default();
    let now = options.time.now();
    let emulator = Emulator::start(options).await.context("failed to start the emulator")?;
    let count = fill(&emulator, &arguments.indicators, now)?;
    let mut environment = emulator.environment();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, emulator.ca_pem())?;
    environment.insert("SSL_CERT_FILE".to_owned(), ca.display().to_string());
    environment.insert("STATE_FILE".to_owned(), folder.path().join("indicator-relay.db").display().to_string());

    say(&format!(
        "ThreatConnect, Entra and Sentinel are emulated on this machine; ThreatConnect holds {count} indicators.\n\
         Sentinel takes 100 requests a minute with 100 objects each, so the first run takes about {} s.\n\n\
         $ indicator-relay export\n",
        count / 160
    ));
    let first = export(&program, &environment, arguments.json).await?;
    let changed = change(&emulator, now);
    say(&format!("\nIn ThreatConnect, {changed}.\n\n$ indicator-relay export\n"));
    let second = export(&program, &environment, arguments.json).await?;

    let live = emulator.world().live(WORKSPACE, SystemTime.now()).len();
    let refused = emulator.world().sentinel.stale.len();
    say(&format!("\nSentinel now holds {live} live indicators, each shown once; {refused} uploads came out of order."));
    if arguments.json {
        let runs: Vec<Value> = [first, second].into_iter().flatten().collect();
        println!("{}", json!({ "runs": runs, "live_at_target": live }));
    } else {
        say("\nWhere to look next:\n\
             \x20 README.md                                   settings, commands, mapping\n\
             \x20 cargo run -p emulator                       the same services, left running, with the settings to paste\n\
             \x20 cargo run -- settings                       every setting and what it accepts\n\
             \x20 cargo run -- export --dry-run --out preview what would be sent, as files\n\
             \x20 cargo test                                  all tests");
    }
    Ok(())
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

/// One run of the product as a process of its own, its output on the terminal; with `--json` its reports.
async fn export(program: &Path, environment: &BTreeMap<String, String>, as_json: bool) -> anyhow::Result<Vec<Value>> {
    let mut command = Command::new(program);
    command.arg("export").envs(environment).env_remove("JOBS");
    if !as_json {
        let status = command.status().await.context("failed to start indicator-relay")?;
        ensure!(status.success(), "the export ended with {status}");
        return Ok(Vec::new());
    }
    let output = command.arg("--json").stderr(Stdio::inherit()).output().await.context("failed to start indicator-relay")?;
    let report: Value = serde_json::from_slice(&output.stdout).context("the export printed no JSON")?;
    Ok(report["runs"].as_array().cloned().unwrap_or_default())
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
