//! The product as Azure runs it: its package under the emulated Functions host, Azurite for storage, a managed identity for all
//! that asks who it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use emulator::azurite::{Azurite, AzuriteOptions};
use emulator::host::{FunctionsHost, HostOptions};
use emulator::{Emulator, MANAGED_CLIENT_ID, Options, SECRET_KEY, SystemTime, TENANT, Time as _, WORKSPACE};
use indicator_relay::export::QUEUE;
use serde_json::{Value, json};
use xtask::package::pack;

use super::{Arguments, DEFENDER, build, change, console, doubled, fill};
use crate::docs::root;

/// The main targets by their own interfaces.
const JOBS: [&str; 2] = ["sentinel", "defender"];
const TIMER: &str = "ExportIndicators";
const WORKER: &str = "RunExport";
/// In the vault, under the name that the product looks for by itself.
const SECRET: &str = "threatconnect-secret-key";

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let say = |text: &str| arguments.say(text);
    say("Starting Azurite for storage; the first time, npm installs it.");
    let azurite = Azurite::start(AzuriteOptions { https: true, folder: None }).await?;
    let program = build().await?;
    let folder = tempfile::tempdir()?;
    let options = Options::default();
    let now = options.time.now();
    let emulator = Emulator::start(options).await.context("failed to start the emulator")?;
    let count = fill(&emulator, &arguments.indicators, now)?;
    let settings = settings(&emulator, &azurite, folder.path())?;
    say(&format!(
        "ThreatConnect, Key Vault, Sentinel, Defender, a managed identity and the Functions host are emulated on this machine; \
         ThreatConnect holds {count} indicators. No app setting holds a secret: storage, vault and targets know the identity, and the \
         secret key of ThreatConnect is in the vault.\n"
    ));
    let package = package(&program, folder.path(), arguments).await?;
    let mut options = HostOptions::new(package);
    options.settings = settings;
    // What the host itself does with storage is not what is shown here: it has the key.
    options.storage = Some(azurite.connection_string());
    options.storage_ca = azurite.ca_pem().map(str::to_owned);
    options.timers = false; // nobody is to wait for a full minute
    let key = options.master_key.clone();
    let host = FunctionsHost::start(options).await.context("failed to start the Functions host")?;
    let mut watch = Watch { host: &host, arguments, lines: 0, invocations: 0 };
    ensure!(host.ready().await, "the handler does not start:\n{}", console_of(&host));
    say(&format!(
        "The host has unpacked it and started a process for each function. The timer of {TIMER} is due at each full minute; \
         it is fired now, and what it puts into the queue `{QUEUE}` is exported: at the services' documented rates in about {} s.\n",
        count / 160 + 5
    ));
    host.fire(TIMER).await?;
    let first = watch.until_complete(JOBS.len()).await?;
    let changed = change(&emulator, now);
    say(&format!("\nIn ThreatConnect, {changed}. Now the same by hand, as in the portal:\n"));
    for job in JOBS {
        ask(&host, &key, job, arguments).await?;
    }
    let second = watch.until_complete(JOBS.len()).await?;
    host.stop().await;
    end(&emulator, &[first, second].concat(), arguments)
}

/// The zip as it would be deployed, but for the build.
async fn package(program: &Path, folder: &Path, arguments: &Arguments) -> anyhow::Result<PathBuf> {
    let (program, out) = (program.to_owned(), folder.join("indicator-relay.zip"));
    let to = out.clone();
    let size = tokio::task::spawn_blocking(move || {
        let binary = std::fs::read(&program).with_context(|| format!("failed to read {}", program.display()))?;
        anyhow::Ok(pack(&binary, &root(), &to)?.len())
    });
    arguments.say(&format!(
        "The package has {} MiB, with the debug build that cargo has just made; `cargo xtask package` makes the one for Azure.",
        size.await?? >> 20
    ));
    Ok(out)
}

/// The app settings: none is a secret.
fn settings(emulator: &Emulator, azurite: &Azurite, folder: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    emulator.world().vault.insert(SECRET.to_owned(), Some(SECRET_KEY.to_owned()));
    let mut settings = emulator.environment();
    for of_secrets in ["THREATCONNECT_SECRET_KEY", "MICROSOFT_GRAPH_CLIENT_ID", "MICROSOFT_GRAPH_CLIENT_SECRET"] {
        settings.remove(of_secrets);
    }
    settings.extend(emulator.identity_environment());
    // The processes trust the emulator and Azurite; each has a CA of its own.
    let ca = folder.join("ca.pem");
    std::fs::write(&ca, format!("{}\n{}", emulator.ca_pem(), azurite.ca_pem().unwrap_or_default()))?;
    let ca = ca.display().to_string();
    let jobs = JOBS.join(",");
    let more = [
        ("SSL_CERT_FILE", ca.as_str()),
        ("IDENTITY", "managed"),
        ("KEY_VAULT_URL", emulator.key_vault_url()),
        ("AzureWebJobsStorage__blobServiceUri", azurite.blob_url()),
        ("AzureWebJobsStorage__queueServiceUri", azurite.queue_url()),
        ("AzureWebJobsStorage__tableServiceUri", azurite.table_url()),
        ("AzureWebJobsStorage__credential", "managedidentity"),
        ("AzureWebJobsStorage__clientId", MANAGED_CLIENT_ID),
        ("JOBS", &jobs),
        ("DEFENDER__TARGET_PRODUCT", DEFENDER),
        // Due in the minute that has just been, whenever that is.
        ("EXPORT_SCHEDULE", "0 * * * * *"),
    ];
    settings.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
    Ok(settings)
}

/// Runs a job by the host's own door.
#[expect(clippy::disallowed_methods, reason = "a person's request to the host, not one of the product")]
async fn ask(host: &FunctionsHost, key: &str, job: &str, arguments: &Arguments) -> anyhow::Result<()> {
    let url = format!("{}/admin/functions/{WORKER}", host.url());
    let body = json!({ "input": json!({ "job": job }).to_string() }).to_string();
    arguments.say(&format!(
        "$ curl {url} -H \"x-functions-key: $MASTER_KEY\" \\\n\
         \x20   -H 'content-type: application/json' -d '{body}'"
    ));
    let request = reqwest::Client::builder().build()?.post(url).header("x-functions-key", key);
    let answer = request.header("content-type", "application/json").body(body).send().await?;
    ensure!(answer.status().as_u16() == 202, "the host answered {}", answer.status());
    Ok(())
}

/// Shows what happens under the host.
struct Watch<'a> {
    host: &'a FunctionsHost,
    arguments: &'a Arguments,
    /// Shown so far.
    lines: usize,
    invocations: usize,
}

impl Watch<'_> {
    /// Shows it until so many more runs are complete; the fields of their lines. A run that fails ends it.
    async fn until_complete(&mut self, runs: usize) -> anyhow::Result<Vec<Value>> {
        let mut complete = Vec::new();
        while complete.len() < runs {
            let (invocations, lines) = self.news().await;
            for function in invocations.iter().filter(|function| *function == WORKER) {
                let now = SystemTime.now().strftime("%H:%M:%S").to_string();
                self.arguments.say(&console::shown(&now, function, "a message came"));
            }
            for said in lines.iter().filter_map(console::read) {
                self.arguments.say(&said.text);
                ensure!(!said.fails, "the demo ends here: the last line above says why");
                complete.extend(said.finished);
            }
            let broken = self.host.contract_errors();
            ensure!(broken.is_empty(), "the handler broke the contract of the host: {broken:?}");
        }
        Ok(complete)
    }

    /// Functions that were called, and lines, since the last look.
    async fn news(&mut self) -> (Vec<String>, Vec<emulator::host::Line>) {
        let (lines, invocations) = (self.lines, self.invocations);
        let news = self.host.until(|record| {
            let called: Vec<String> = record.invocations.iter().skip(invocations).map(|run| run.function.clone()).collect();
            let said = record.lines.get(lines..).unwrap_or_default().to_vec();
            (!called.is_empty() || !said.is_empty()).then_some((called, said))
        });
        let news = news.await;
        self.invocations += news.0.len();
        self.lines += news.1.len();
        news
    }
}

/// All that was said so far, for an error.
fn console_of(host: &FunctionsHost) -> String {
    host.lines().into_iter().map(|line| line.text).collect::<Vec<String>>().join("\n")
}

fn end(emulator: &Emulator, runs: &[Value], arguments: &Arguments) -> anyhow::Result<()> {
    let live: BTreeMap<&str, usize> = {
        let (world, now) = (emulator.world(), SystemTime.now());
        JOBS.into_iter().zip([world.live(WORKSPACE, now).len(), world.at_defender(TENANT, now).len()]).collect()
    };
    let shown = JOBS.map(|job| format!("{job} {}", live[job])).join(", ");
    let doubled = doubled(emulator);
    ensure!(doubled == 0, "the targets hold {shown}, but {doubled} observables are there twice");
    arguments.say(&format!("\nThe targets now hold, by job: {shown}; nothing is there twice."));
    if arguments.json {
        super::print(&json!({ "runs": runs, "live_at_target": live }).to_string());
    } else {
        arguments.say(
            "\nWhere to look next:\n\
             \x20 functions/, host.json   what the host is told of the app\n\
             \x20 cargo xtask package     the package for Azure\n\
             \x20 infra/, azure.yaml      where it goes: `azd up` makes all of it and deploys the package\n\
             \x20 cargo demo              all targets, as a command",
        );
    }
    Ok(())
}
