//! What is known of the secrets that a document names. The document itself never holds one.

use crate::platform::secret::Secret;

/// What is known of a secret of some name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It is kept somewhere, and looked at when it is used.
    Kept,
    /// It is given: what it is used for judges it, and does not repeat it.
    Given(Secret),
    /// There is none: what needs it cannot run.
    Missing,
    /// It is not here, where nothing is done. Where the playbooks run it may well be.
    NotHere,
}

impl Known {
    /// The value, where it is at hand.
    pub(super) fn value(&self) -> Option<&str> {
        if let Self::Given(secret) = self { Some(secret.expose()) } else { None }
    }
}
