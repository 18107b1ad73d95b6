//! Secrets that playbooks name: settings, or secrets of the vault.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::platform::secret::Secret;
use crate::platform::vault::{self, SecretSource, Vault};
use crate::playbooks::Known;

/// Secrets that playbooks name.
#[derive(Debug, Clone, Default)]
pub(super) struct Secrets {
    pub(super) given: Arc<BTreeMap<String, String>>,
    pub(super) vault: Option<Arc<Vault>>,
}

impl Secrets {
    /// The setting of this name, else the vault's secret with the name in its spelling: `TC_URL` is `tc-url` there.
    pub(super) fn find(&self, name: &str) -> Option<SecretSource> {
        if let Some(text) = self.given.get(name).filter(|text| !text.trim().is_empty()) {
            return Some(SecretSource::Given(Secret::new(text.trim())));
        }
        let vault = Arc::clone(self.vault.as_ref()?);
        Some(SecretSource::Kept { vault, name: vault::spelling(name) })
    }
    /// What whoever reads playbooks is told: what a vault keeps is not asked for before it is used.
    pub(super) fn known(&self, name: &str) -> Known {
        match self.find(name) {
            Some(SecretSource::Given(secret)) => Known::Given(secret),
            Some(SecretSource::Kept { .. }) => Known::Kept,
            None => Known::Missing,
        }
    }
}
