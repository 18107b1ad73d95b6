//! The Bicep compiler: build, lint, format, parameters files, snapshots. Any line on its standard error is a problem, because
//! it reports wrong properties as warnings and ends well.
//!
//! It works on a copy below `target/`, in which the Microsoft Graph types come from a file instead of a registry.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde_json::Value;

use super::{Checks, Outcome};

pub(super) const INSTALL: &str =
    "the Bicep compiler is not at hand: az bicep install, or https://github.com/Azure/bicep/releases (then `bicep` on the PATH)";

/// Where the compiler lies beside the project, if it is not on the path.
const BESIDE: &str = "../shared/tools/bicep/bicep";
/// Types of the Microsoft Graph extension, as a file.
const GRAPH_TYPES: &str = "../shared/tools/bicep/microsoftgraph-v1.0-1.0.0.tgz";

/// Snapshots are taken as if deployed here.
const PLACE: [&str; 8] = [
    "--subscription-id",
    "00000000-0000-0000-0000-000000000001",
    "--tenant-id",
    "00000000-0000-0000-0000-000000000002",
    "--resource-group",
    "rg-indicator-relay",
    "--location",
    "westeurope",
];

/// A template that must not pass: if it does, the other verdicts are worth nothing.
const WRONG: &str = "resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {\n  name: 'x'\n  location: 'x'\n  skuu: {}\n}\n";

pub(super) struct Compiler {
    program: PathBuf,
    version: String,
}

impl Compiler {
    /// On the path, else beside the project.
    pub(super) fn find(root: &Path) -> anyhow::Result<Option<Self>> {
        for program in [PathBuf::from("bicep"), root.join(BESIDE)] {
            match Command::new(&program).arg("--version").output() {
                Ok(output) => {
                    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                    return Ok(Some(Self { program, version }));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("failed to start `{}`", program.display())),
            }
        }
        Ok(None)
    }

    pub(super) fn checks(&self, root: &Path) -> anyhow::Result<Checks> {
        let copy = copy(root)?;
        let templates = named(&copy, ".bicep")?;
        let files = format!("{} templates", templates.len());
        let mut checks = vec![("compiler", self.notices_wrong_property(root)?)];
        checks.push(("build", self.clean(&copy, &["build", "--pattern", "**/*.bicep"], &files)?));
        checks.push(("lint", self.clean(&copy, &["lint", "--pattern", "**/*.bicep"], &files)?));
        checks.push(("format", self.is_formatted(root, &copy)?));
        let parameters = named(&copy, ".bicepparam")?;
        let files = format!("{} parameters files", parameters.len());
        checks.push(("build-params", self.clean(&copy, &["build-params", "--pattern", "**/*.bicepparam"], &files)?));
        checks.push(("snapshot", self.snapshots_are_current(&copy, &parameters)?));
        Ok(checks)
    }

    /// Writes format and snapshots.
    pub(super) fn update(&self, root: &Path) -> anyhow::Result<()> {
        let copy = copy(root)?;
        self.format(&copy)?;
        for file in [named(&copy, ".bicep")?, named(&copy, ".bicepparam")?].concat() {
            fs::copy(copy.join(&file), root.join("infra").join(&file))?;
        }
        for file in named(&copy, ".bicepparam")? {
            let problems = self.snapshot(&copy, &file)?;
            anyhow::ensure!(problems.is_empty(), "failed to take a snapshot of {file}:\n{}", problems.join("\n"));
            let taken = file.replace(".bicepparam", ".snapshot.json");
            fs::write(root.join("infra").join(&taken), fs::read_to_string(copy.join(&taken))?.trim_end().to_owned() + "\n")?;
        }
        Ok(())
    }

    fn notices_wrong_property(&self, root: &Path) -> anyhow::Result<Outcome> {
        let folder = root.join("target/infra/wrong");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("wrong.bicep"), WRONG)?;
        let answer = self.call(&folder, &["build", "wrong.bicep", "--stdout"])?;
        let noticed = answer.iter().any(|line| line.contains("\"skuu\" is not allowed"));
        let problems = if noticed { Vec::new() } else { vec!["a misspelt property passed: update the compiler".to_owned()] };
        Ok(Outcome::of(problems, format!("{}; notices a misspelt property", self.version)))
    }

    fn clean(&self, copy: &Path, arguments: &[&str], looked_at: &str) -> anyhow::Result<Outcome> {
        Ok(Outcome::of(self.call(copy, arguments)?, looked_at))
    }

    fn format(&self, copy: &Path) -> anyhow::Result<Vec<String>> {
        let templates = self.call(copy, &["format", "--pattern", "**/*.bicep"])?;
        Ok([templates, self.call(copy, &["format", "--pattern", "**/*.bicepparam"])?].concat())
    }

    fn is_formatted(&self, root: &Path, copy: &Path) -> anyhow::Result<Outcome> {
        let mut problems = self.format(copy)?;
        let files = [named(copy, ".bicep")?, named(copy, ".bicepparam")?].concat();
        for file in &files {
            if fs::read(copy.join(file))? != fs::read(root.join("infra").join(file))? {
                problems.push(format!("infra/{file} is not in canonical format: cargo xtask infra --update"));
            }
        }
        Ok(Outcome::of(problems, format!("{} files", files.len())))
    }

    fn snapshots_are_current(&self, copy: &Path, parameters: &[String]) -> anyhow::Result<Outcome> {
        let mut problems = Vec::new();
        for file in parameters {
            if !copy.join(file.replace(".bicepparam", ".snapshot.json")).exists() {
                problems.push(format!("infra/{file} has no snapshot: cargo xtask infra --update"));
                continue;
            }
            let taken = copy.join(file.replace(".bicepparam", ".snapshot.json"));
            let old = json(&taken)?;
            let answer = self.snapshot(copy, file)?;
            let differences = differences(&old, &json(&taken)?);
            if !differences.is_empty() || !answer.is_empty() {
                problems
                    .push(format!("the snapshot of infra/{file} is not what it deploys: cargo xtask infra --update, and look"));
                problems.extend(answer.into_iter().chain(differences));
            }
        }
        Ok(Outcome::of(problems, format!("{} deployments", parameters.len())))
    }

    /// Takes a snapshot beside the parameters file. (The compiler's own comparison does not know Graph resources.)
    fn snapshot(&self, copy: &Path, file: &str) -> anyhow::Result<Vec<String>> {
        self.call(copy, &[&["snapshot", file, "--mode", "overwrite"], &PLACE[..]].concat())
    }

    /// With the environment of a fresh machine, as far as parameters files read it.
    fn call(&self, folder: &Path, arguments: &[&str]) -> anyhow::Result<Vec<String>> {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(folder).env_remove("AZURE_ENV_NAME").env_remove("AZURE_LOCATION");
        let output = command.output().with_context(|| format!("failed to start `{}`", self.program.display()))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let shown = format!("{}/", folder.canonicalize()?.display());
        let lines = stderr.lines().filter(|line| !line.trim().is_empty());
        // The same line comes once for each template that names the file.
        let mut problems: Vec<String> = lines.map(|line| line.replace(&shown, "infra/")).collect();
        problems.sort();
        problems.dedup();
        if problems.is_empty() && !output.status.success() {
            problems.push(format!("`bicep {}` ended with {}", arguments.join(" "), output.status));
        }
        Ok(problems)
    }
}

fn json(file: &Path) -> anyhow::Result<Value> {
    serde_json::from_str(&fs::read_to_string(file)?).with_context(|| format!("{} is not JSON", file.display()))
}

/// What differs between two snapshots: the first lines.
fn differences(old: &Value, new: &Value) -> Vec<String> {
    const SHOWN: usize = 20;
    let (old, new) = (leaves(old), leaves(new));
    let gone = old.iter().filter(|leaf| !new.contains(*leaf)).map(|(path, value)| format!("- {path}: {value}"));
    let made = new.iter().filter(|leaf| !old.contains(*leaf)).map(|(path, value)| format!("+ {path}: {value}"));
    gone.chain(made).take(SHOWN).collect()
}

/// Every value with its path; resources are named by their ids instead of their places.
fn leaves(snapshot: &Value) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (i, resource) in snapshot["predictedResources"].as_array().into_iter().flatten().enumerate() {
        let name = resource["id"].as_str().and_then(|id| id.split("/providers/").nth(1)).map(str::to_owned);
        collect(resource, &name.unwrap_or_else(|| i.to_string()), &mut found);
    }
    collect(&snapshot["outputs"], "outputs", &mut found);
    collect(&snapshot["diagnostics"], "diagnostics", &mut found);
    found
}

fn collect(value: &Value, path: &str, found: &mut BTreeSet<(String, String)>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| collect(value, &format!("{path} {key}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| collect(value, &format!("{path} {i}"), found)),
        _ => drop(found.insert((path.to_owned(), value.to_string()))),
    }
}

/// A copy of `infra/` below `target/`, made anew: what the compiler writes beside its sources does not end up in the sources.
fn copy(root: &Path) -> anyhow::Result<PathBuf> {
    let copy = root.join("target/infra/copy");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    for folder in ["", "modules", "queries"] {
        fs::create_dir_all(copy.join(folder))?;
        for entry in fs::read_dir(root.join("infra").join(folder)).context("failed to read infra/")?.flatten() {
            if entry.path().is_file() {
                fs::copy(entry.path(), copy.join(folder).join(entry.file_name()))?;
            }
        }
    }
    let types = root.join(GRAPH_TYPES);
    if types.exists() {
        let config = copy.join("bicepconfig.json");
        let mut read: Value =
            serde_json::from_str(&fs::read_to_string(&config)?).context("failed to read infra/bicepconfig.json")?;
        read["extensions"]["microsoftGraphV1"] = types.canonicalize()?.display().to_string().into();
        fs::write(&config, read.to_string())?;
    }
    Ok(copy)
}

/// Files of the copy with this ending, as paths below it, sorted.
fn named(copy: &Path, ending: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in ["", "modules/"] {
        for entry in fs::read_dir(copy.join(folder))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(ending) {
                found.push(format!("{folder}{name}"));
            }
        }
    }
    found.sort();
    Ok(found)
}
