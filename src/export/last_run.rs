//! The texts of the guide's "Last Run".

use jiff::Timestamp;

/// How far back the first run reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRun {
    text: String,
}

impl LastRun {
    /// # Errors
    /// One line that names what is accepted.
    pub fn parse(_text: &str) -> Result<Self, String> {
        todo!()
    }

    /// As the user wrote it: a changed text takes effect once.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The instant that is meant, when read at `now`.
    #[must_use]
    pub fn resolve(&self, _now: Timestamp) -> Timestamp {
        todo!()
    }
}
