//! Where a binary starts: the symbol versions that it needs, and the libraries.
//!
//! A loader refuses a program that needs one version its glibc does not have, before the first line runs; the host then only
//! says that the process ended.

use anyhow::{Context as _, bail, ensure};
use object::elf;
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSymbol as _};

/// The newest glibc that a platform image is sure to have.
pub const GLIBC: (u32, u32) = (2, 28);

/// What every glibc brings; others need not be there.
const LIBRARIES: [&str; 6] = ["ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1"];

/// The newest glibc version that `binary` needs, if that is at most `limit` and it needs no other library.
///
/// # Errors
/// What it needs beyond that, each with library and symbol; or that it is no 64-bit ELF file.
pub fn judge(binary: &[u8], limit: (u32, u32)) -> anyhow::Result<(u32, u32)> {
    let file = ElfFile64::<object::Endianness>::parse(binary).context("the binary is no 64-bit ELF file")?;
    let (endian, sections) = (file.endian(), file.elf_section_table());
    let mut offends = Vec::new();
    let table = file.elf_dynamic_table()?;
    for entry in table.iter().filter(|entry| entry.tag == elf::DT_NEEDED) {
        let library = String::from_utf8_lossy(table.string(entry)?);
        if !LIBRARIES.contains(&library.as_ref()) {
            offends.push(format!("the library {library}"));
        }
    }
    let mut newest = (0, 0);
    let Some(versions) = sections.versions(endian, binary)? else { bail!("the binary names no version of any symbol") };
    for symbol in file.dynamic_symbols().filter(object::ObjectSymbol::is_undefined) {
        let Some(needed) = versions.version(versions.version_index(endian, symbol.index()).index())? else { continue };
        let (version, library) = (String::from_utf8_lossy(needed.name()), needed.file().unwrap_or_default());
        match glibc(&version) {
            Some(version) if version <= limit => newest = newest.max(version),
            _ => offends.push(format!("{} of {version} in {}", symbol.name()?, String::from_utf8_lossy(library))),
        }
    }
    // Versions that no symbol names, such as that of a format of relocations.
    if let Some((mut libraries, strings)) = sections.gnu_verneed(endian, binary)? {
        let strings = sections.strings(endian, binary, strings)?;
        while let Some((_, mut needed)) = libraries.next()? {
            while let Some(needed) = needed.next()? {
                let version = String::from_utf8_lossy(needed.name(endian, strings)?);
                if glibc(&version).is_none() {
                    offends.push(version.into_owned());
                }
            }
        }
    }
    ensure!(
        offends.is_empty(),
        "the binary needs more than glibc {}.{} brings, so it would not start on every image: {}",
        limit.0,
        limit.1,
        offends.join(", ")
    );
    Ok(newest)
}

/// `GLIBC_2.3.4` is 2.3; other names are no versions of glibc that can be compared.
fn glibc(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix("GLIBC_")?.split('.').map(str::parse);
    let numbers = (parts.next()?.ok()?, parts.next()?.ok()?);
    parts.all(|part| part.is_ok()).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of this machine: the test itself.
    fn own() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn a_symbol_that_is_too_new_is_named_with_its_library() {
        let error = judge(&own(), (2, 2)).unwrap_err().to_string();
        assert!(error.contains(" of GLIBC_2.") && error.contains("libc.so.6"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn a_library_that_glibc_does_not_bring_is_named() {
        // Programs that unwind need it where they are linked by the system's compiler.
        let error = judge(&own(), (3, 0)).unwrap_err().to_string();
        assert!(error.contains("the library libgcc_s.so.1") && !error.contains("libc.so.6"), "{error}");
    }

    #[test]
    fn versions_are_numbers() {
        assert_eq!(glibc("GLIBC_2.28"), Some((2, 28)));
        assert_eq!(glibc("GLIBC_2.3.4"), Some((2, 3)));
        assert!(glibc("GLIBC_2.4") < glibc("GLIBC_2.28"));
        for other in ["GLIBC_PRIVATE", "GLIBC_ABI_DT_RELR", "GCC_3.0", "GLIBC_2", "GLIBC_2.3.x"] {
            assert_eq!(glibc(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_binary_is_said_to_be_none() {
        assert!(judge(b"#!/bin/sh", GLIBC).unwrap_err().to_string().contains("no 64-bit ELF file"));
    }
}
