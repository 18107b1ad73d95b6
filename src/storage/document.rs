//! A text that people write and we only read: a file, or a blob of the storage account.

use std::path::PathBuf;
use std::sync::Arc;

use super::Place;
use super::azure::Shelf;
use crate::platform::clock::Clock;

/// Longer than anybody writes by hand.
const LONGEST: usize = 4 << 20;

/// Where the text is.
#[derive(Debug)]
pub struct Document {
    /// As it was given, for users.
    name: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Blob { shelf: Box<Shelf>, blob: String },
}

impl Document {
    /// `name` is a path, or `{container}/{blob}` where the state is in a storage account.
    ///
    /// # Errors
    /// One line: the name cannot be one, or the account cannot be used.
    pub fn open(name: &str, place: &Place, http: &reqwest::Client, clock: &Arc<dyn Clock>) -> Result<Self, String> {
        let source = match (place, name.split_once('/')) {
            (Place::Azure(account), Some((container, blob))) if !container.is_empty() && !blob.is_empty() => {
                Source::Blob { shelf: Box::new(Shelf::open(account, container, http, clock)?), blob: blob.to_owned() }
            }
            // With an account too: a file beside the program, as on a laptop.
            (Place::Embedded(_) | Place::Azure(_), _) => Source::File(PathBuf::from(name)),
        };
        Ok(Self { name: name.to_owned(), source })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text as it is now; none if there is none.
    ///
    /// # Errors
    /// One line with its name: it cannot be read, is no UTF-8, or is longer than 4 MiB.
    pub async fn read(&self) -> Result<Option<String>, String> {
        let bytes = match &self.source {
            Source::File(path) => match tokio::fs::read(path).await {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(self.failed(&error.to_string())),
            },
            Source::Blob { shelf, blob } => shelf.read(blob).await.map_err(|error| self.failed(&error.cause))?,
        };
        match bytes {
            None => Ok(None),
            Some(bytes) if bytes.len() > LONGEST => Err(self.failed("it is longer than 4 MiB")),
            Some(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| self.failed("it is no UTF-8")),
        }
    }

    /// Not as a store says it: whoever wrote the text looks for its name, not for the state.
    fn failed(&self, cause: &str) -> String {
        format!("`{}` cannot be read: {cause}", self.name)
    }
}
