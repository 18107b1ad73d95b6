//! `cargo xtask package`: the zip that the Functions host runs, from the same sources always the same bytes.
//!
//! `build` makes the binary, `symbols` says on which systems it starts, `archive` packs it.

mod archive;
mod build;
mod symbols;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

pub use archive::pack;
pub use build::INSTALL;
pub use symbols::{GLIBC, judge};

/// Largest binary, in bytes: what a cold start has to load.
const BINARY_LIMIT: usize = 15 << 20;

/// Arguments of `cargo xtask package`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Packs this binary as it is, whatever it was built for, instead of building one (to try the package on this machine).
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where to write the package.
    #[arg(long, value_name = "FILE", default_value = "dist/indicator-relay.zip")]
    out: PathBuf,
}

/// Builds, checks, packs, and says how large it became.
///
/// # Errors
/// A tool is not installed (with the command that installs it), the build fails, or the binary must not be shipped.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let root = root();
    let out = root.join(&arguments.out);
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("failed to read {}", path.display()));
    let binary = if let Some(binary) = &arguments.binary {
        read(binary)?
    } else {
        let places = build::Places::of_this_machine(&root)?;
        let binary = read(&build::build(&root, &places)?)?;
        may_ship(&binary, &places)?;
        binary
    };
    let zip = pack(&binary, &root, &out)?;
    println!("binary   {:>11} bytes, {}", binary.len(), mebibytes(binary.len()));
    println!("package  {:>11} bytes, {}", zip.len(), mebibytes(zip.len()));
    println!("sha-256  {}", sha256(&zip));
    println!("{}", out.display());
    Ok(())
}

/// # Errors
/// The binary is too large, does not start everywhere, or tells where it was built.
fn may_ship(binary: &[u8], places: &build::Places) -> anyhow::Result<()> {
    let newest = judge(binary, GLIBC)?;
    println!("needs    glibc {}.{} of at most {}.{}", newest.0, newest.1, GLIBC.0, GLIBC.1);
    let told = places.told_by(binary);
    ensure!(told.is_empty(), "the binary holds paths of this machine, so another one builds other bytes: {}", told.join(", "));
    let size = binary.len();
    ensure!(size <= BINARY_LIMIT, "the binary has {size} bytes, more than the {BINARY_LIMIT} allowed: find what made it grow");
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let hex = |byte: &u8| [byte >> 4, byte & 15].map(|half| char::from_digit(u32::from(half), 16).unwrap_or('?'));
    digest.as_ref().iter().flat_map(hex).collect()
}

fn mebibytes(bytes: usize) -> String {
    let hundredths = bytes * 100 / (1 << 20);
    format!("{}.{:02} MiB", hundredths / 100, hundredths % 100)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(mebibytes(15 << 20), "15.00 MiB");
        assert_eq!(mebibytes((1 << 20) + (1 << 19)), "1.50 MiB");
        assert!(sha256(b"").starts_with("e3b0c44298fc1c14") && sha256(b"").ends_with("b855"));
    }
}
