//! What must never go out, whatever the source says: own domains, own networks, public resolvers.

use super::Observable;

/// The user's list, parsed: values, domains (with their subdomains), networks.
#[derive(Debug, Clone, Default)]
pub struct NeverSend {}

impl NeverSend {
    /// Reads the entries of the user's list.
    ///
    /// # Errors
    /// One line for each bad entry: the entry, what is wrong with it, what is accepted.
    pub fn parse(_entries: &[String]) -> Result<Self, Vec<String>> {
        Ok(Self {})
    }

    /// True if the observable must not go out.
    #[must_use]
    pub fn covers(&self, _observable: &Observable) -> bool {
        false
    }
}
