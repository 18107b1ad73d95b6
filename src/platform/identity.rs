//! Tokens of Microsoft Entra: one credential, one token per audience, through the official client.

use std::sync::Arc;

use url::Url;

use super::http::Authorize;
use super::secret::Secret;

/// How the product signs in to Microsoft.
#[derive(Debug, Clone)]
pub enum Identity {
    /// The guide's way: an app registration with a client secret.
    ClientSecret { tenant: String, client_id: String, secret: Secret, login: Url },
    /// A managed identity; the client id of a user-assigned one.
    Managed { client_id: Option<String> },
}

/// The tokens of one identity.
#[derive(Debug)]
pub struct Tokens {}

impl Tokens {
    /// `client`: the HTTP client that the official credential uses too.
    ///
    /// # Errors
    /// One line that names the setting, when the official client refuses tenant, id or login address.
    pub fn new(_identity: Identity, _client: reqwest::Client) -> Result<Self, String> {
        todo!()
    }

    /// A bearer token of one audience, for [`super::http::Http`].
    #[must_use]
    pub fn bearer(self: &Arc<Self>, _scope: &str) -> Arc<dyn Authorize> {
        todo!()
    }
}
