//! The release binary: built by `cargo zigbuild` against glibc 2.28, the same wherever it is built.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

/// Zig brings the headers and stubs of every glibc; the target's suffix says which.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const TARGET_WITH_GLIBC: &str = "x86_64-unknown-linux-gnu.2.28";
/// Pinned, because another compiler makes other bytes. `.ci/run` installs them by [`INSTALL`].
const ZIGBUILD: &str = "0.24.1";
const ZIG: &str = "0.17.1";
/// Installs both into the build folder; asks nothing of the system but Python.
pub const INSTALL: &str =
    "python3 -m venv target/tools && target/tools/bin/pip install --quiet cargo-zigbuild==0.24.1 ziglang==0.17.1";
/// What programs that write the time of a build take for it: the start of 2026.
const EPOCH: &str = "1767225600";

/// Folders of this machine that a compiler may write into what it makes, each with what stands for it instead.
#[derive(Debug)]
pub(super) struct Places(Vec<(PathBuf, &'static str)>);

impl Places {
    /// # Errors
    /// `rustc` cannot be asked.
    #[expect(clippy::disallowed_methods, reason = "where the registry's sources are is told by the environment")]
    pub(super) fn of_this_machine(root: &Path) -> anyhow::Result<Self> {
        let sysroot =
            Command::new("rustc").args(["--print", "sysroot"]).current_dir(root).output().context("failed to ask rustc")?;
        let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let cargo = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
        // The later of two that fit is taken: the narrower ones come last.
        Ok(Self(vec![(sysroot, "/rust"), (cargo, "/cargo"), (root.to_owned(), "/indicator-relay")]))
    }

    /// For rustc, as cargo wants it: separated by a character that no path holds.
    fn rust_flags(&self) -> OsString {
        let flags = self.0.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
        flags.collect::<Vec<String>>().join("\u{1f}").into()
    }

    /// For the C that is compiled with it (SQLite, AWS-LC).
    fn c_flags(&self) -> OsString {
        let flags = self.0.iter().map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()));
        flags.collect::<Vec<String>>().join(" ").into()
    }

    /// Those that `binary` tells nevertheless.
    pub(super) fn told_by(&self, binary: &[u8]) -> Vec<String> {
        let paths = self.0.iter().map(|(path, _)| path.display().to_string());
        // A folder as short as `/` would be found everywhere.
        let found = |path: &String| path.len() > 4 && binary.windows(path.len()).any(|part| part == path.as_bytes());
        paths.filter(found).collect()
    }
}

/// The path of the binary.
///
/// # Errors
/// A tool is missing, or the build fails.
pub(super) fn build(root: &Path, places: &Places) -> anyhow::Result<PathBuf> {
    let tools = root.join("target/tools/bin");
    let search = search_path(&tools)?;
    check_tools(&search)?;
    // The target's flags and linker are zigbuild's; ours are added to what it sets.
    let status = command("cargo-zigbuild", &search)
        .args(["zigbuild", "--release", "--locked", "--package", "indicator-relay", "--bin", "indicator-relay"])
        .args(["--target", TARGET_WITH_GLIBC, "--target-dir"])
        .arg(root.join("target"))
        .env("CARGO_ENCODED_RUSTFLAGS", places.rust_flags())
        .env(format!("CFLAGS_{}", TARGET.replace('-', "_")), places.c_flags())
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .current_dir(root)
        .status()
        .context("failed to start cargo-zigbuild")?;
    ensure!(status.success(), "failed to build the release binary; what is above says why");
    Ok(root.join("target").join(TARGET).join("release/indicator-relay"))
}

/// The tools' own folder first, then where the user's are.
#[expect(clippy::disallowed_methods, reason = "tools are looked for where the user's shell looks")]
fn search_path(tools: &Path) -> anyhow::Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(std::iter::once(tools.to_owned()).chain(std::env::split_paths(&path)))?)
}

fn command(program: &str, search: &OsString) -> Command {
    // A program's name is looked for in the parent's path, unless it is found here.
    let found = std::env::split_paths(search).map(|folder| folder.join(program)).find(|path| path.is_file());
    let mut command = Command::new(found.unwrap_or_else(|| program.into()));
    command.env("PATH", search);
    command
}

/// # Errors
/// Which tool is missing, or is another version, and how to install the right one.
fn check_tools(search: &OsString) -> anyhow::Result<()> {
    let zigbuild = version(command("cargo-zigbuild", search).arg("--version"));
    // As cargo-zigbuild itself finds it: Python's package, else a program.
    let zig = version(command("python3", search).args(["-m", "ziglang", "version"]))
        .or_else(|| version(command("zig", search).arg("version")));
    for (tool, wanted, found) in [("cargo-zigbuild", ZIGBUILD, zigbuild), ("Zig", ZIG, zig)] {
        match found {
            Some(found) if found == wanted => {}
            Some(found) => bail!("{tool} is {found}, but packages are built with {wanted}; install it with\n  {INSTALL}"),
            None => bail!("{tool} is not installed; install it with\n  {INSTALL}"),
        }
    }
    Ok(())
}

/// The last word of what a program says of its version.
fn version(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().last().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_the_command_that_installs_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = check_tools(&folder.path().into()).unwrap_err().to_string();
        assert!(error.contains("cargo-zigbuild is not installed") && error.contains(INSTALL), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        // Another process writes it: what this one has open to write, a test beside that starts something may hold a moment longer.
        let write = "printf '#!/bin/sh\necho cargo-zigbuild 0.1.2\n' > cargo-zigbuild && chmod 755 cargo-zigbuild";
        assert!(Command::new("sh").args(["-c", write]).current_dir(folder.path()).status().unwrap().success());
        let error = check_tools(&folder.path().into()).unwrap_err().to_string();
        assert!(error.contains("0.1.2") && error.contains(ZIGBUILD), "{error}");
    }

    #[test]
    fn the_command_installs_what_is_pinned() {
        assert!(INSTALL.contains(&format!("cargo-zigbuild=={ZIGBUILD}")) && INSTALL.contains(&format!("ziglang=={ZIG}")));
        let ci = std::fs::read_to_string(super::super::root().join(".ci/run")).unwrap();
        for part in INSTALL.split(" && ") {
            assert!(ci.contains(part), "`.ci/run` does not install what packages are built with: {part}");
        }
    }

    #[test]
    fn paths_of_the_machine_are_replaced_and_found_where_they_are_not() {
        let places =
            Places(vec![("/home/user/.cargo".into(), "/cargo"), ("/work/relay".into(), "/indicator-relay"), ("/".into(), "/x")]);
        assert!(places.rust_flags().to_string_lossy().starts_with("--remap-path-prefix=/home/user/.cargo=/cargo\u{1f}"));
        assert!(places.c_flags().to_string_lossy().contains(" -ffile-prefix-map=/work/relay=/indicator-relay"));
        assert_eq!(places.told_by(b"..\0/work/relay/src/main.rs\0"), ["/work/relay"]);
        assert!(places.told_by(b"/cargo/registry").is_empty());
    }
}
