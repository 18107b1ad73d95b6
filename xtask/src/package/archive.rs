//! The zip: the content root at its root, modes that survive unpacking, the same bytes for the same input.

use std::io::{Cursor, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

const HANDLER: &str = "handler";
/// Of everybody else.
const READABLE: u32 = 0o644;
/// The host starts it; on some plans it sets the bit itself, on others it does not.
const EXECUTABLE: u32 = 0o755;

/// One entry.
struct Entry {
    name: String,
    mode: u32,
    bytes: Vec<u8>,
}

/// Packs `binary` as `handler` with `host.json` and the folders of `functions/` below `root`, writes the zip to `out`, and returns it.
///
/// The host looks for `function.json` only directly beneath the content root, so the folders are lifted there.
///
/// # Errors
/// Something is missing, is no JSON, or does not belong into a package; `out` cannot be written.
pub fn pack(binary: &[u8], root: &Path, out: &Path) -> anyhow::Result<Vec<u8>> {
    let mut entries = vec![Entry { name: HANDLER.to_owned(), mode: EXECUTABLE, bytes: binary.to_vec() }, host(root)?];
    entries.extend(functions(&root.join("functions"))?);
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    let zip = write(&entries)?;
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    std::fs::write(out, &zip).with_context(|| format!("failed to write {}", out.display()))?;
    Ok(zip)
}

fn write(entries: &[Entry]) -> anyhow::Result<Vec<u8>> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for entry in entries {
        // What would differ between two machines is set: time, mode, level.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(9))
            .last_modified_time(DateTime::default())
            .unix_permissions(entry.mode);
        writer.start_file(&entry.name, options)?;
        writer.write_all(&entry.bytes)?;
    }
    Ok(writer.finish()?.into_inner())
}

fn host(root: &Path) -> anyhow::Result<Entry> {
    let entry = json(&root.join("host.json"), "host.json".to_owned())?;
    let host: serde_json::Value = serde_json::from_slice(&entry.bytes)?;
    let started = &host["customHandler"]["description"]["defaultExecutablePath"];
    ensure!(started == HANDLER, "host.json starts {started}, but the package holds `{HANDLER}`: make them agree");
    Ok(entry)
}

/// `<Function>/function.json` each, and nothing else: what lies about must not be shipped unseen.
fn functions(folder: &Path) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for function in children(folder)? {
        let path = folder.join(&function);
        ensure!(path.is_dir(), "{} does not belong into the package: functions/ holds a folder per function", path.display());
        let named = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(function.chars().all(named), "`{function}` is no name of a function: letters, digits, `-` and `_` only");
        for file in children(&path)? {
            if file != "function.json" {
                bail!("{} does not belong into the package: a function is its function.json", path.join(file).display());
            }
        }
        entries.push(json(&path.join("function.json"), format!("{function}/function.json"))?);
    }
    ensure!(!entries.is_empty(), "{} holds no function", folder.display());
    Ok(entries)
}

fn children(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn json(path: &Path, name: String) -> anyhow::Result<Entry> {
    let bytes = std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    let _: serde_json::Value = serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))?;
    Ok(Entry { name, mode: READABLE, bytes })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use zip::ZipArchive;

    use super::*;

    /// A content root as the repository's.
    fn content() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("host.json", r#"{"version": "2.0", "customHandler": {"description": {"defaultExecutablePath": "handler"}}}"#);
        write("functions/RunExport/function.json", "{}");
        write("functions/ExportIndicators/function.json", r#"{"bindings": []}"#);
        write("README.md", "not in the package");
        folder
    }

    fn refused(root: &Path) -> String {
        format!("{:#}", pack(b"binary", root, &root.join("dist/a.zip")).unwrap_err())
    }

    #[test]
    fn functions_are_lifted_and_the_handler_can_be_executed() {
        let folder = content();
        let out = folder.path().join("dist/a.zip");
        let zip = pack(b"binary", folder.path(), &out).unwrap();
        assert_eq!(std::fs::read(&out).unwrap(), zip);
        let mut archive = ZipArchive::new(Cursor::new(zip)).unwrap();
        let mut found = Vec::new();
        for i in 0..archive.len() {
            let mut file = archive.by_index(i).unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            found.push((file.name().unwrap().into_owned(), file.unix_mode().unwrap() & 0o777, text.len()));
        }
        let expected =
            [("ExportIndicators/function.json", 0o644, 16), ("RunExport/function.json", 0o644, 2), ("handler", 0o755, 6)];
        for (name, mode, length) in expected {
            assert!(found.contains(&(name.to_owned(), mode, length)), "{found:?}");
        }
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found.is_sorted(), "{found:?}");
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let (one, other) = (content(), content());
        // Another order of making and other times.
        std::fs::remove_file(other.path().join("host.json")).unwrap();
        std::fs::copy(one.path().join("host.json"), other.path().join("host.json")).unwrap();
        let pack = |folder: &Path| pack(b"binary", folder, &folder.join("a.zip")).unwrap();
        assert_eq!(pack(one.path()), pack(other.path()));
    }

    #[test]
    fn what_does_not_belong_is_refused_and_named() {
        for name in
            ["functions/notes.txt", "functions/RunExport/local.settings.json", "functions/RunExport/.env", "functions/a b/x"]
        {
            let folder = content();
            std::fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(folder.path().join(name), "secret").unwrap();
            let error = refused(folder.path());
            let last = name.trim_end_matches("/x").rsplit('/').next().unwrap();
            assert!(error.contains(last) && !folder.path().join("dist/a.zip").exists(), "{error}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let folder = content();
        let host = folder.path().join("host.json");
        std::fs::write(&host, r#"{"customHandler": {"description": {"defaultExecutablePath": "other"}}}"#).unwrap();
        assert!(refused(folder.path()).contains("\"other\""));
        std::fs::write(&host, "{").unwrap();
        assert!(refused(folder.path()).contains("host.json is no JSON"));
        std::fs::remove_file(&host).unwrap();
        assert!(refused(folder.path()).contains("host.json"));
        let folder = content();
        std::fs::remove_file(folder.path().join("functions/RunExport/function.json")).unwrap();
        assert!(refused(folder.path()).contains("RunExport"));
    }

    #[test]
    fn the_repositorys_own_functions_can_be_packed() {
        let folder = tempfile::tempdir().unwrap();
        let root = super::super::root();
        assert!(pack(b"binary", &root, &folder.path().join("a.zip")).is_ok());
    }
}
