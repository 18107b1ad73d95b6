//! Azure Key Vault through the official client: reads secrets by name.

use std::sync::Arc;

use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, Transport};
use azure_security_keyvault_secrets::{SecretClient, SecretClientOptions};
use url::Url;

use super::identity::{self, Identity};
use super::secret::Secret;

/// Secrets of one vault.
pub struct Vault {
    client: SecretClient,
    url: Url,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Vault {
    /// # Errors
    /// One line, when no credential can be made here.
    pub fn new(url: Url, identity: &Identity, http: reqwest::Client) -> Result<Self, String> {
        let credential = identity::credential(identity, &http).map_err(|e| format!("the vault cannot be read: {e}"))?;
        let transport = Some(Transport::new(Arc::new(http)));
        let options = SecretClientOptions {
            client_options: ClientOptions { transport, ..ClientOptions::default() },
            ..SecretClientOptions::default()
        };
        let client = SecretClient::new(url.as_str(), credential, Some(options)).map_err(|e| first_line(&e))?;
        Ok(Self { client, url })
    }

    /// The current value of a secret.
    ///
    /// # Errors
    /// One line that names the secret and the role or state to change; never its value.
    pub async fn secret(&self, name: &str) -> Result<Secret, String> {
        let answer = self.client.get_secret(name, None).await.map_err(|e| self.explain(name, &e))?;
        let secret = answer.into_model().map_err(|e| self.explain(name, &e))?;
        secret.value.map(|value| Secret::new(&value)).ok_or_else(|| format!("the secret `{name}` of {} has no value", self.url))
    }

    fn explain(&self, name: &str, error: &azure_core::Error) -> String {
        let advice = match error.kind() {
            ErrorKind::HttpResponse { status, .. } => match u16::from(*status) {
                401 => "the sign-in is not accepted".to_owned(),
                403 => "the role \"Key Vault Secrets User\" is missing, or the secret is disabled".to_owned(),
                404 => "there is no such secret".to_owned(),
                status => format!("status {status}"),
            },
            ErrorKind::Credential => "no sign-in: use `az login`, or IDENTITY=managed in Azure".to_owned(),
            _ => "the vault could not be reached; check KEY_VAULT_URL".to_owned(),
        };
        format!("failed to read the secret `{name}` from {}: {advice}", self.url)
    }
}

fn first_line(error: &azure_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
