//! Tokens of Microsoft Entra: one credential, one token per audience, through the official client.
//!
//! The official client caches a token until five minutes before its end and fetches one at a time; we only add a way to
//! forget what it cached, for a service that refuses a token early, and words that say which setting to change.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{AccessToken, TokenCredential};
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, RetryOptions, Transport};
use azure_identity::{
    ClientSecretCredential, ClientSecretCredentialOptions, DeveloperToolsCredential, ManagedIdentityCredential,
    ManagedIdentityCredentialOptions, UserAssignedId,
};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use url::Url;

use super::clock::{BoxFuture, Clock};
use super::http::{Authorize, AuthorizeError, Authorized};
use super::secret::Secret;

/// Seconds before its end at which a token is fetched anew.
const EARLY: i64 = 300;

/// How the product signs in to Microsoft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The guide's way: an app registration with a client secret.
    ClientSecret { tenant: String, client_id: String, secret: Secret, login: Url },
    /// A managed identity; the client id of a user-assigned one.
    Managed { client_id: Option<String> },
    /// Who is signed in on this machine (`az login`).
    Developer,
}

/// The tokens of one identity.
pub struct Tokens {
    identity: Identity,
    client: reqwest::Client,
    credential: RwLock<Arc<dyn TokenCredential>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Tokens {
    /// `client`: the HTTP client that the official credential uses too.
    ///
    /// # Errors
    /// One line that names the setting, when the official client refuses tenant, id or login address.
    pub fn new(identity: Identity, client: reqwest::Client) -> Result<Self, String> {
        let credential = RwLock::new(credential(&identity, &client)?);
        Ok(Self { identity, client, credential })
    }

    /// A bearer token of one audience, for [`super::http::Http`].
    #[must_use]
    pub fn bearer(self: &Arc<Self>, scope: &str) -> Arc<dyn Authorize> {
        Arc::new(Bearer { tokens: Arc::clone(self), scope: scope.to_owned() })
    }

    fn current(&self) -> Arc<dyn TokenCredential> {
        Arc::clone(&self.credential.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn forget(&self) {
        if let Ok(fresh) = credential(&self.identity, &self.client) {
            *self.credential.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }
}

/// The official credential of an identity.
///
/// # Errors
/// One line that names the setting, when the official client refuses it.
pub fn credential(identity: &Identity, client: &reqwest::Client) -> Result<Arc<dyn TokenCredential>, String> {
    let mut options = ClientOptions {
        transport: Some(Transport::new(Arc::new(client.clone()))),
        retry: RetryOptions::none(), // `Http` retries, within the bounds of the call that needs the token
        ..ClientOptions::default()
    };
    match identity {
        Identity::ClientSecret { tenant, client_id, secret, login } => {
            let mut cloud = CustomConfiguration::default();
            login.as_str().trim_end_matches('/').clone_into(&mut cloud.authority_host);
            options.cloud = Some(Arc::new(CloudConfiguration::from(cloud)));
            let secret = azure_core::credentials::Secret::new(secret.expose().to_owned());
            let options = ClientSecretCredentialOptions { client_options: options };
            let made = ClientSecretCredential::new(tenant, client_id.clone(), secret, Some(options));
            made.map(|made| made as Arc<dyn TokenCredential>).map_err(|e| {
                format!(
                    "MICROSOFT_GRAPH_TENANT_ID, MICROSOFT_GRAPH_CLIENT_ID or LOGIN_URL cannot be used: {}",
                    first_line(&e.to_string())
                )
            })
        }
        Identity::Managed { client_id } => {
            let user_assigned_id = client_id.clone().map(UserAssignedId::ClientId);
            let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options: options };
            let made = ManagedIdentityCredential::new(Some(options));
            made.map(|made| made as Arc<dyn TokenCredential>)
                .map_err(|e| format!("a managed identity cannot be used here: {}", first_line(&e.to_string())))
        }
        Identity::Developer => {
            let made = DeveloperToolsCredential::new(None);
            made.map(|made| made as Arc<dyn TokenCredential>)
                .map_err(|e| format!("sign in with `az login`, or use a managed identity ({})", first_line(&e.to_string())))
        }
    }
}

/// The token of one audience.
#[derive(Debug)]
struct Bearer {
    tokens: Arc<Tokens>,
    scope: String,
}

impl Authorize for Bearer {
    fn headers<'a>(&'a self, _method: &'a Method, _target: &'a str) -> BoxFuture<'a, Authorized> {
        Box::pin(async move {
            let token = self.tokens.current().get_token(&[&self.scope], None).await.map_err(|e| explain(&e))?;
            header(&token)
        })
    }

    fn renew(&self) -> bool {
        self.tokens.forget();
        true
    }
}

fn header(token: &AccessToken) -> Authorized {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.token.secret()))
        .map_err(|_| AuthorizeError { message: "the token endpoint sent a token that is none".to_owned(), transient: false })?;
    value.set_sensitive(true);
    Ok(vec![(AUTHORIZATION, value)])
}

/// A bearer token of one audience from a credential that may fetch anew for each call, as that of the developer tools does:
/// kept until five minutes before its end.
#[must_use]
pub fn bearer(credential: Arc<dyn TokenCredential>, scope: &'static str, clock: Arc<dyn Clock>) -> Arc<dyn Authorize> {
    Arc::new(Kept { credential, scope, clock, token: RwLock::default() })
}

struct Kept {
    credential: Arc<dyn TokenCredential>,
    scope: &'static str,
    clock: Arc<dyn Clock>,
    token: RwLock<Option<AccessToken>>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Authorize for Kept {
    fn headers<'a>(&'a self, _method: &'a Method, _target: &'a str) -> BoxFuture<'a, Authorized> {
        Box::pin(async move {
            let kept = self.token.read().unwrap_or_else(PoisonError::into_inner).clone();
            let now = self.clock.now().as_second();
            if let Some(token) = kept.filter(|token| token.expires_on.unix_timestamp() - now > EARLY) {
                return header(&token);
            }
            // Who signs in on a machine or is signed in by Azure has no setting of ours: the words are the store's.
            let token = self.credential.get_token(&[self.scope], None).await;
            let token = token.map_err(|_| AuthorizeError { message: "no sign-in".to_owned(), transient: false })?;
            *self.token.write().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
            header(&token)
        })
    }

    fn renew(&self) -> bool {
        self.token.write().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

/// What the token endpoint's refusal means for the settings. Branches on error codes, not on texts that may be translated.
fn explain(error: &azure_core::Error) -> AuthorizeError {
    let mut codes = String::new();
    let mut status = None;
    let mut reached = true;
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<azure_core::Error>() {
            match inner.kind() {
                ErrorKind::HttpResponse { status: answered, error_code, .. } => {
                    status = Some(u16::from(*answered));
                    codes = error_code.clone().unwrap_or_default();
                }
                ErrorKind::Io | ErrorKind::Connection => reached = false,
                _ => {}
            }
        }
        source = inner.source();
    }
    if !reached && status.is_none() {
        let message = "no token: the login host (LOGIN_URL, CLOUD) could not be reached".to_owned();
        return AuthorizeError { message, transient: true };
    }
    if status.is_none() && codes.is_empty() {
        let message =
            "no token: the answer of the login host (LOGIN_URL, CLOUD) could not be read; it may be out of order".to_owned();
        return AuthorizeError { message, transient: true };
    }
    let has = |code: &str| codes.split(',').any(|c| c == code);
    let advice = if has("7000215") || has("7000222") {
        "MICROSOFT_GRAPH_CLIENT_SECRET (guide: Microsoft Graph Client Secret) is wrong or has expired"
    } else if has("700016") {
        "MICROSOFT_GRAPH_CLIENT_ID (guide: Microsoft Graph Client ID) is unknown in this tenant"
    } else if has("90002") || has("900023") {
        "MICROSOFT_GRAPH_TENANT_ID (guide: Microsoft Graph Tenant ID) is unknown"
    } else if has("500011") || has("70011") || has("1002012") {
        "the scope (SENTINEL_SCOPE, DEFENDER_SCOPE or GRAPH_SCOPE; CLOUD) is unknown in this tenant"
    } else if status.is_some_and(|status| status == 429 || status >= 500) {
        "the login host is busy or out of order"
    } else {
        "check MICROSOFT_GRAPH_TENANT_ID, MICROSOFT_GRAPH_CLIENT_ID and MICROSOFT_GRAPH_CLIENT_SECRET"
    };
    let detail = match (status, codes.is_empty()) {
        (Some(status), false) => format!(" (status {status}, AADSTS{codes})"),
        (Some(status), true) => format!(" (status {status})"),
        (None, _) => String::new(),
    };
    AuthorizeError {
        message: format!("no token: {advice}{detail}"),
        transient: status.is_some_and(|status| status == 429 || status >= 500),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
