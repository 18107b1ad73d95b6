//! NCRONTAB schedules as the Functions timer reads them, UTC.

use std::time::Duration;

use jiff::Timestamp;

/// A parsed schedule.
#[derive(Debug, Clone)]
pub struct Schedule {}

impl Schedule {
    /// Five fields, or six with seconds first.
    ///
    /// # Errors
    /// One line that says what is wrong and what would be accepted.
    pub fn parse(_text: &str) -> Result<Self, String> {
        todo!()
    }

    /// The first occurrence strictly after `after`.
    #[must_use]
    pub fn next_after(&self, _after: Timestamp) -> Option<Timestamp> {
        todo!()
    }

    /// The longest time between two neighbouring occurrences.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        todo!()
    }
}
