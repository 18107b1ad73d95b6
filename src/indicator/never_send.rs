//! What must never go out, whatever the source says: own domains, own networks, public resolvers.

use super::Observable;

/// The user's list, parsed: values, domains (with their subdomains), networks.
#[derive(Debug, Clone, Default)]
pub struct NeverSend {}

impl NeverSend {
    /// True if the observable must not go out.
    #[must_use]
    pub fn covers(&self, _observable: &Observable) -> bool {
        false
    }
}
