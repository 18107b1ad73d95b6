//! `cargo xtask infra`: checks `infra/`, `host.json`, the functions, `azure.yaml` and the pipelines with real tools, offline.
//!
//! A check that cannot run here is named with the command that installs its tool; a check that runs has to be clean.

mod app;
mod compiler;
mod documents;
mod laws;
mod parameters;
mod queries;
mod roles;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::docs::root;
use compiler::Compiler;
use laws::Snapshot;
use parameters::{Setting, job_type, settings, with_parameters};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Writes what is generated (parameters from the table of settings, canonical format, snapshots) before checking.
    #[arg(long)]
    update: bool,
}

/// What one check said.
pub(crate) enum Outcome {
    /// With what was looked at.
    Passed(String),
    /// One line per problem.
    Failed(Vec<String>),
    /// Which tool is not at hand, and how to get it.
    LeftOut(String),
}

impl Outcome {
    /// Passed if there are no problems.
    pub(crate) fn of(problems: Vec<String>, looked_at: impl Into<String>) -> Self {
        if problems.is_empty() { Self::Passed(looked_at.into()) } else { Self::Failed(problems) }
    }
}

pub(crate) type Checks = Vec<(&'static str, Outcome)>;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let root = root();
    let settings = settings()?;
    let compiler = Compiler::find(&root)?;
    if arguments.update {
        write_parameters(&root, &settings)?;
        match &compiler {
            Some(compiler) => compiler.update(&root)?,
            None => bail!("{}", compiler::INSTALL),
        }
    }
    let mut checks: Checks = vec![("parameters", parameters_are_current(&root, &settings)?)];
    match &compiler {
        Some(compiler) => checks.extend(compiler.checks(&root)?),
        None => checks.push(("bicep", Outcome::LeftOut(compiler::INSTALL.to_owned()))),
    }
    let snapshots = laws::snapshots(&root)?;
    let broken = [violations(&snapshots, &settings), roles::graph_permissions(&root)?].concat();
    checks.push(("laws", Outcome::of(broken, snapshots_named(&snapshots))));
    checks.extend(queries::checks(&root, &snapshots)?);
    checks.extend(documents::checks(&root)?);
    report(&checks)
}

/// What the snapshots hold that they must not hold, or do not hold that they must.
fn violations(snapshots: &[Snapshot], settings: &[Setting]) -> Vec<String> {
    [app::violations(snapshots, settings), roles::violations(snapshots), laws::violations(snapshots)].concat()
}

fn snapshots_named(snapshots: &[Snapshot]) -> String {
    let resources: usize = snapshots.iter().map(|snapshot| snapshot.resources.len()).sum();
    format!("{} snapshots with {resources} resources", snapshots.len())
}

fn write_parameters(root: &Path, settings: &[Setting]) -> anyhow::Result<()> {
    let main = root.join("infra/main.bicep");
    let text = fs::read_to_string(&main).context("failed to read infra/main.bicep")?;
    fs::write(&main, with_parameters(&text, settings)?)?;
    fs::write(root.join("infra/modules/job.bicep"), job_type(settings))?;
    Ok(())
}

/// Compared without regard to format, which the compiler checks.
fn parameters_are_current(root: &Path, settings: &[Setting]) -> anyhow::Result<Outcome> {
    let main = fs::read_to_string(root.join("infra/main.bicep")).context("failed to read infra/main.bicep")?;
    let job = fs::read_to_string(root.join("infra/modules/job.bicep")).context("failed to read infra/modules/job.bicep")?;
    let bare = |text: &str| text.split_whitespace().collect::<String>().replace(',', "").replace("(|", "(");
    let pairs =
        [("infra/main.bicep", with_parameters(&main, settings)?, main), ("infra/modules/job.bicep", job_type(settings), job)];
    let old = pairs.iter().filter(|(_, new, old)| bare(new) != bare(old));
    let problems = old.map(|(file, ..)| format!("{file} is not what the table of settings says: cargo xtask infra --update"));
    let count = settings.iter().filter(|setting| setting.is_parameter()).count();
    Ok(Outcome::of(problems.collect(), format!("{count} settings")))
}

fn report(checks: &Checks) -> anyhow::Result<()> {
    let mut failed = 0;
    for (name, outcome) in checks {
        match outcome {
            Outcome::Passed(looked_at) => println!("ok        {name}: {looked_at}"),
            Outcome::LeftOut(why) => println!("left out  {name}: {why}"),
            Outcome::Failed(problems) => {
                failed += 1;
                println!("FAILED    {name}");
                for problem in problems {
                    println!("          {problem}");
                }
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} checks failed", checks.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
