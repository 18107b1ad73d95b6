//! Lists of what a run does, and the exact payloads, as files of JSON lines: `export --out`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::json;

use super::decide::{Change, Sighting, Verdict};
use crate::sinks::Answer;

/// One file per list: `added`, `changed`, `refreshed`, `unchanged`, `duplicates`, `skipped`, `rejected`, `unanswered`,
/// `withdrawn`, `payloads`.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    files: Mutex<BTreeMap<&'static str, BufWriter<File>>>,
    broken: Mutex<Option<String>>,
}

impl Journal {
    /// # Errors
    /// One line, when the folder cannot be made.
    pub fn new(dir: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(dir).map_err(|e| format!("failed to make the folder {}: {e}", dir.display()))?;
        Ok(Self { dir: dir.to_owned(), files: Mutex::default(), broken: Mutex::default() })
    }

    pub(crate) fn payload(&self, payload: &[u8]) {
        self.line("payloads", payload);
    }

    pub(crate) fn withdrawn(&self, kind: &str, value: &str) {
        self.line("withdrawn", json!({"type": kind, "value": value}).to_string().as_bytes());
    }

    pub(crate) fn sighting(&self, sighting: &Sighting) {
        let (list, reason) = list_of(sighting);
        let value = sighting.observable.as_ref().map_or(sighting.raw.as_str(), |(observable, _)| observable.value());
        let mut line = json!({"type": sighting.kind.report_name(), "value": value, "id": sighting.id, "owner": sighting.owner});
        if let Some(reason) = reason {
            line["reason"] = reason.into();
        }
        self.line(list, line.to_string().as_bytes());
    }

    fn line(&self, list: &'static str, line: &[u8]) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let written = (|| {
            if !files.contains_key(list) {
                files.insert(list, BufWriter::new(File::create(self.dir.join(format!("{list}.jsonl")))?));
            }
            let Some(file) = files.get_mut(list) else { return Ok(()) };
            file.write_all(line)?;
            file.write_all(b"\n")
        })();
        if let Err(error) = written {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            broken.get_or_insert_with(|| format!("failed to write {}: {error}", self.dir.display()));
        }
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// The first failure of any line.
    pub fn finish(self) -> Result<(), String> {
        for (_, mut file) in self.files.into_inner().unwrap_or_else(PoisonError::into_inner) {
            file.flush().map_err(|e| format!("failed to write {}: {e}", self.dir.display()))?;
        }
        self.broken.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

fn list_of(sighting: &Sighting) -> (&'static str, Option<&str>) {
    if let Err(skip) = &sighting.made {
        return ("skipped", Some(skip.reason()));
    }
    match (sighting.verdict, &sighting.answer) {
        (Verdict::Send(_), Some(Answer::Refused { reason, .. })) => ("rejected", Some(reason)),
        (Verdict::Send(_), Some(Answer::Unanswered { reason })) => ("unanswered", Some(reason)),
        (Verdict::Send(_), Some(Answer::Full { reason })) => ("over_cap", Some(reason)),
        (Verdict::Send(_), None) => ("unanswered", None),
        (Verdict::Send(Change::Added) | Verdict::Replayed | Verdict::Later, _) => ("added", None),
        (Verdict::Send(Change::Changed), _) => ("changed", None),
        (Verdict::Send(Change::Refreshed), _) => ("refreshed", None),
        (Verdict::Unchanged, _) => ("unchanged", None),
        (Verdict::StillRejected, _) => ("rejected", None),
        (Verdict::LeftToOthers, _) => ("skipped", Some("made by another application")),
        (Verdict::OverCap(reason), _) => ("over_cap", Some(reason)),
        _ => ("duplicates", None),
    }
}
