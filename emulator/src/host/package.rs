//! A packaged app, unpacked into a folder that nobody can write to, as the platform mounts it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

/// The app's folder, and what keeps it.
#[derive(Debug)]
pub(crate) struct Folder {
    pub path: PathBuf,
    unpacked: Option<TempDir>,
}

impl Folder {
    /// A folder as it is, or a zip unpacked.
    pub(crate) fn open(app: &Path) -> anyhow::Result<Self> {
        let path = fs::canonicalize(app).with_context(|| format!("failed to open `{}`", app.display()))?;
        if path.is_dir() {
            return Ok(Self { path, unpacked: None });
        }
        let unpacked = TempDir::new()?;
        let folder = Self { path: unpacked.path().join("wwwroot"), unpacked: Some(unpacked) };
        unpack(&path, &folder.path).with_context(|| format!("failed to unpack `{}`", path.display()))?;
        Ok(folder)
    }

    /// Makes the handler executable, as Flex Consumption does whatever the zip says.
    pub(crate) fn allow_execution(&self, handler: &str) -> anyhow::Result<()> {
        let path = self.path.join(handler);
        if self.unpacked.is_some() && path.is_file() {
            fs::set_permissions(&path, Permissions::from_mode(0o555))?;
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.unpacked.is_some() {
            // Without the right to write, its entries could not be removed.
            drop(each_folder(&self.path, 0o755));
        }
    }
}

fn unpack(zip: &Path, folder: &Path) -> anyhow::Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(zip)?)?;
    fs::create_dir_all(folder)?;
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i)?;
        let Some(name) = entry.enclosed_name() else { bail!("entry {i} leads out of the folder") };
        let path = folder.join(name);
        if entry.is_dir() {
            fs::create_dir_all(&path)?;
            continue;
        }
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        io::copy(&mut entry, &mut File::create(&path)?)?;
        let executable = entry.unix_mode().unwrap_or(0) & 0o111;
        fs::set_permissions(&path, Permissions::from_mode(0o444 | executable))?;
    }
    each_folder(folder, 0o555)?;
    Ok(())
}

/// Sets the mode of a folder and of those below; in an order in which that is allowed.
fn each_folder(folder: &Path, mode: u32) -> io::Result<()> {
    let opening = mode & 0o200 != 0;
    if opening {
        fs::set_permissions(folder, Permissions::from_mode(mode))?;
    }
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            each_folder(&entry.path(), mode)?;
        }
    }
    if !opening {
        fs::set_permissions(folder, Permissions::from_mode(mode))?;
    }
    Ok(())
}
