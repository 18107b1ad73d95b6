//! What developers run: `cargo demo`, `cargo xtask docs`, `cargo xtask bench`, `cargo xtask package`, `cargo xtask infra`.

mod bench;
mod demo;
mod docs;
mod infra;

use clap::{Parser, Subcommand};
use xtask::package;

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "What developers run")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Exports from an emulated ThreatConnect to emulated Sentinel, Defender and Graph, changes some indicators, and exports again; then
    /// shows a change in Microsoft Graph arrive at a playbook.
    Demo(demo::Arguments),
    /// Writes the generated parts of the documents: README tables and the example settings file.
    Docs,
    /// Measures exports against a floor program that does the least that must be done.
    Bench(bench::Arguments),
    /// Builds the release binary for every Functions image and packs it as the host wants it: `dist/indicator-relay.zip`.
    Package(package::Arguments),
    /// Checks the infrastructure, the function folders and the pipelines with real tools, offline.
    Infra(infra::Arguments),
}

#[tokio::main(worker_threads = 1)]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Demo(arguments) => demo::run(arguments).await,
        Task::Docs => docs::write(),
        Task::Bench(arguments) => bench::run(arguments).await,
        Task::Package(arguments) => package::run(&arguments),
        Task::Infra(arguments) => infra::run(&arguments),
    }
}
