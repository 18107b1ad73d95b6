//! The product as a command: one job per target, each by its own interface and through Microsoft Graph.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use emulator::{Emulator, GRAPH_CLIENT_ID, GRAPH_CLIENT_SECRET, GRAPH_TENANT, Options, SystemTime, TENANT, Time as _, WORKSPACE};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Arguments, DEFENDER, build, change, doubled, fill, notifications};

/// One job per target: the two products by their own interfaces, and both through Microsoft Graph. Graph has a tenant of its
/// own, so that nobody shares Defender's places.
const JOBS: [(&str, &[(&str, &str)]); 4] = [
    ("sentinel", &[]),
    ("defender", &[("TARGET_PRODUCT", DEFENDER)]),
    ("graph-sentinel", &[("DELIVERY", "graph")]),
    ("graph-defender", &[("DELIVERY", "graph"), ("TARGET_PRODUCT", DEFENDER)]),
];
const GRAPH_APP: [(&str, &str); 3] = [
    ("MICROSOFT_GRAPH_TENANT_ID", GRAPH_TENANT),
    ("MICROSOFT_GRAPH_CLIENT_ID", GRAPH_CLIENT_ID),
    ("MICROSOFT_GRAPH_CLIENT_SECRET", GRAPH_CLIENT_SECRET),
];

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let say = |text: &str| arguments.say(text);
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

    set_jobs(&mut environment);
    say(&format!(
        "ThreatConnect, Entra, Sentinel, Defender and Microsoft Graph are emulated on this machine; ThreatConnect holds {count} indicators. \
         Four jobs send them to Sentinel and Defender, by their own interfaces and through Microsoft Graph. At the services' documented rates \
         the first run takes about {} s.\n\n\
         $ indicator-relay export\n",
        count / 160 + count / 200 + 10
    ));
    let first = export(&program, &environment, arguments.json).await?;
    let changed = change(&emulator, now);
    say(&format!(
        "\nIn ThreatConnect, {changed}. What a target never took has nothing to change there, and what another indicator \
         brings as well stays.\n\n$ indicator-relay export\n"
    ));
    let second = export(&program, &environment, arguments.json).await?;

    let live = live(&emulator);
    let shown = live.iter().map(|(job, count)| format!("{job} {count}")).collect::<Vec<_>>().join(", ");
    let doubled = doubled(&emulator);
    say(&format!("\nThe targets now hold, by job: {shown}; {doubled} observables are there twice."));
    if !arguments.exit {
        Box::pin(notifications::show(&program, &environment, &emulator, arguments)).await?;
    }
    if arguments.json {
        let runs: Vec<Value> = [first, second].into_iter().flatten().collect();
        super::print(&json!({ "runs": runs, "live_at_target": live.into_iter().collect::<BTreeMap<_, _>>() }).to_string());
    } else {
        say("\nWhere to look next:\n\
             \x20 README.md                                    settings, commands, mapping\n\
             \x20 examples/playbooks/                          playbooks to begin with, and every key\n\
             \x20 cargo run --bin emulator                     the same services, left running, with the settings to paste\n\
             \x20 cargo run -- settings                        every setting and what it accepts\n\
             \x20 cargo run -- --help                          every command\n\
             \x20 cargo test                                   all tests");
    }
    Ok(())
}

fn set_jobs(environment: &mut BTreeMap<String, String>) {
    environment.insert("JOBS".to_owned(), JOBS.map(|(name, _)| name).join(","));
    for (name, settings) in JOBS {
        let prefix = name.to_uppercase().replace('-', "_");
        let app = GRAPH_APP.iter().filter(|_| name.starts_with("graph"));
        for (key, value) in settings.iter().chain(app) {
            environment.insert(format!("{prefix}__{key}"), (*value).to_owned());
        }
    }
}

/// Live indicators at the target of each job; an observable that is there twice would be counted twice.
fn live(emulator: &Emulator) -> Vec<(&'static str, usize)> {
    let (world, now) = (emulator.world(), SystemTime.now());
    let counts = [
        world.live(WORKSPACE, now).len(),
        world.at_defender(TENANT, now).len(),
        world.at_graph(GRAPH_TENANT, "Azure Sentinel", now).len(),
        world.at_graph(GRAPH_TENANT, "Microsoft Defender ATP", now).len(),
    ];
    JOBS.iter().map(|(name, _)| *name).zip(counts).collect()
}

/// One run of the product as a process of its own, its output on the terminal; with `--json` its reports.
async fn export(program: &Path, environment: &BTreeMap<String, String>, as_json: bool) -> anyhow::Result<Vec<Value>> {
    let mut command = Command::new(program);
    command.arg("export").envs(environment);
    if !as_json {
        let status = command.status().await.context("failed to start indicator-relay")?;
        // 3: complete, with items that a target refused, which real data may hold.
        ensure!(matches!(status.code(), Some(0 | 3)), "the export ended with {status}");
        return Ok(Vec::new());
    }
    let output = command.arg("--json").stderr(Stdio::inherit()).output().await.context("failed to start indicator-relay")?;
    let report: Value = serde_json::from_slice(&output.stdout).context("the export printed no JSON")?;
    Ok(report["runs"].as_array().cloned().unwrap_or_default())
}
