//! Tokens of Microsoft Entra: one credential, one token per audience, through the official client.
//!
//! The official client caches a token until five minutes before its end and fetches one at a time. We add a way to forget
//! what it cached, for a service that refuses a token early; a secret that is read anew when it is refused, so that it can be
//! changed in the vault while we run; and words that say which setting to change.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

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
use super::login::Login;
use super::secret::Secret;
use super::vault::SecretSource;

/// Seconds before its end at which a token is fetched anew.
const EARLY: i64 = 300;
/// What an error of [`bearer`] says: the words for it are those of who asked.
pub const NO_SIGN_IN: &str = "no sign-in";

/// How the product signs in to Microsoft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The guide's way: an app registration with a client secret.
    ClientSecret { tenant: String, client_id: String, secret: SecretSource, login: Url },
    /// A managed identity; the client id of a user-assigned one.
    Managed { client_id: Option<String> },
}

/// Who the app itself is, for its own storage and vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resident {
    /// The app's managed identity; the client id of a user-assigned one.
    Managed { client_id: Option<String> },
    /// Who is signed in on this machine (`az login`).
    Developer,
}

impl Resident {
    /// What to do when there is no token for it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Managed { .. } => {
                "no sign-in: the app has no such managed identity; see whether MANAGED_IDENTITY_CLIENT_ID is one of its identities"
            }
            Self::Developer => "no sign-in: on this machine use `az login`; in Azure, give the app a managed identity",
        }
    }

    /// What to do about a refusal.
    pub(super) fn advice(&self, refusal: &Refusal) -> &'static str {
        match self {
            Self::Managed { .. } if refusal.will_pass() => refusal.advice_for_managed(refusal.is_busy()),
            _ => self.remedy(),
        }
    }

    /// # Errors
    /// One line, when no credential can be made here.
    pub fn credential(&self, client: &reqwest::Client) -> Result<Arc<dyn TokenCredential>, String> {
        match self {
            Self::Managed { client_id } => {
                let client_options =
                    ClientOptions { transport: Some(Transport::new(Arc::new(client.clone()))), ..ClientOptions::default() };
                managed(client_id.as_deref(), client_options)
            }
            Self::Developer => {
                let made = DeveloperToolsCredential::new(None);
                made.map(|made| made as Arc<dyn TokenCredential>).map_err(|e| {
                    format!("sign in with `az login`, or set IDENTITY=managed in Azure ({})", first_line(&e.to_string()))
                })
            }
        }
    }
}

fn managed(client_id: Option<&str>, client_options: ClientOptions) -> Result<Arc<dyn TokenCredential>, String> {
    let user_assigned_id = client_id.map(|id| UserAssignedId::ClientId(id.to_owned()));
    let made = ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions { user_assigned_id, client_options }));
    made.map(|made| made as Arc<dyn TokenCredential>)
        .map_err(|e| format!("IDENTITY=managed cannot be used here: {}", first_line(&e.to_string())))
}

/// The tokens of one identity.
pub struct Tokens {
    identity: Identity,
    client: reqwest::Client,
    current: Mutex<Option<Current>>,
}

/// The official credential, and the client secret that it was made with.
#[derive(Clone)]
struct Current {
    credential: Arc<dyn TokenCredential>,
    secret: Option<Secret>,
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
        let given = match &identity {
            Identity::ClientSecret { secret: SecretSource::Given(secret), .. } => Some(secret.clone()),
            Identity::ClientSecret { .. } => Some(Secret::new("not read yet")),
            Identity::Managed { .. } => None,
        };
        drop(credential(&identity, given.as_ref(), &client)?);
        Ok(Self { identity, client, current: Mutex::default() })
    }

    /// A bearer token of one audience, for [`super::http::Http`].
    #[must_use]
    pub fn bearer(self: &Arc<Self>, scope: &str) -> Arc<dyn Authorize> {
        Arc::new(Bearer { tokens: Arc::clone(self), scope: scope.to_owned() })
    }

    /// The credential for the secret as it is now.
    async fn current(&self) -> Result<Arc<dyn TokenCredential>, AuthorizeError> {
        let secret = match &self.identity {
            Identity::ClientSecret { secret, .. } => Some(secret.read().await?),
            Identity::Managed { .. } => None,
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = current.as_ref().filter(|made| made.secret == secret) {
            return Ok(Arc::clone(&made.credential));
        }
        let credential = credential(&self.identity, secret.as_ref(), &self.client)
            .map_err(|message| AuthorizeError { message, transient: false })?;
        *current = Some(Current { credential: Arc::clone(&credential), secret });
        Ok(credential)
    }

    /// Forgets what is cached: the next token is a new one.
    fn forget(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn token(&self, scope: &str) -> Result<AccessToken, AuthorizeError> {
        let refused = match self.current().await?.get_token(&[scope], None).await {
            Ok(token) => return Ok(token),
            Err(error) => Refusal::of(&error),
        };
        // The secret may have changed in the vault since it was read.
        let changed = match &self.identity {
            Identity::ClientSecret { secret, .. } => refused.is_of_the_secret() && secret.doubt(),
            Identity::Managed { .. } => false,
        };
        if !changed {
            return Err(refused.explain(&self.identity));
        }
        self.forget();
        let again = self.current().await?.get_token(&[scope], None).await;
        again.map_err(|error| Refusal::of(&error).explain(&self.identity))
    }
}

fn credential(
    identity: &Identity,
    secret: Option<&Secret>,
    client: &reqwest::Client,
) -> Result<Arc<dyn TokenCredential>, String> {
    let mut options = ClientOptions {
        transport: Some(Transport::new(Arc::new(client.clone()))),
        retry: RetryOptions::none(), // `Http` retries, within the bounds of the call that needs the token
        ..ClientOptions::default()
    };
    match identity {
        Identity::ClientSecret { tenant, client_id, login, .. } => {
            let mut cloud = CustomConfiguration::default();
            login.as_str().trim_end_matches('/').clone_into(&mut cloud.authority_host);
            options.transport = Some(Transport::new(Arc::new(Login(client.clone()))));
            options.cloud = Some(Arc::new(CloudConfiguration::from(cloud)));
            let secret = azure_core::credentials::Secret::new(secret.map_or("", Secret::expose).to_owned());
            let options = ClientSecretCredentialOptions { client_options: options };
            let made = ClientSecretCredential::new(tenant, client_id.clone(), secret, Some(options));
            made.map(|made| made as Arc<dyn TokenCredential>).map_err(|e| {
                format!(
                    "MICROSOFT_GRAPH_TENANT_ID, MICROSOFT_GRAPH_CLIENT_ID or LOGIN_URL cannot be used: {}",
                    first_line(&e.to_string())
                )
            })
        }
        Identity::Managed { client_id } => managed(client_id.as_deref(), options),
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
            let token = self.tokens.token(&self.scope).await?;
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
    Arc::new(Kept { credential, scope, clock, token: Mutex::default(), asking: tokio::sync::Mutex::default() })
}

struct Kept {
    credential: Arc<dyn TokenCredential>,
    scope: &'static str,
    clock: Arc<dyn Clock>,
    token: Mutex<Option<AccessToken>>,
    /// Held while a token is fetched, so that many who need it fetch one.
    asking: tokio::sync::Mutex<()>,
}

impl Kept {
    fn good(&self) -> Option<AccessToken> {
        let kept = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = self.clock.now().as_second();
        kept.filter(|token| token.expires_on.unix_timestamp() - now > EARLY)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Authorize for Kept {
    fn headers<'a>(&'a self, _method: &'a Method, _target: &'a str) -> BoxFuture<'a, Authorized> {
        Box::pin(async move {
            if let Some(token) = self.good() {
                return header(&token);
            }
            let _asking = self.asking.lock().await;
            if let Some(token) = self.good() {
                return header(&token);
            }
            let token = self.credential.get_token(&[self.scope], None).await.map_err(|error| {
                let refusal = Refusal::of(&error);
                AuthorizeError { message: NO_SIGN_IN.to_owned(), transient: refusal.is_busy() }
            })?;
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
            header(&token)
        })
    }

    fn renew(&self) -> bool {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

/// A refusal of the token endpoint, in codes: its texts may be translated.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    status: Option<u16>,
    /// Separated by commas.
    codes: String,
    unreached: bool,
}

impl Refusal {
    pub(super) fn of(error: &azure_core::Error) -> Self {
        let mut refusal = Self::default();
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(inner) = source {
            if let Some(inner) = inner.downcast_ref::<azure_core::Error>() {
                match inner.kind() {
                    ErrorKind::HttpResponse { status, error_code, .. } => {
                        refusal.status = Some(u16::from(*status));
                        refusal.codes = error_code.clone().unwrap_or_default();
                    }
                    ErrorKind::Io | ErrorKind::Connection => refusal.unreached = true,
                    _ => {}
                }
            }
            source = inner.source();
        }
        refusal
    }

    fn is_busy(&self) -> bool {
        self.status.is_some_and(|status| status == 429 || status >= 500)
    }

    /// Nothing is wrong with the identity: nobody could answer for it.
    pub(super) fn will_pass(&self) -> bool {
        self.is_busy() || self.status.is_none() && self.unreached
    }

    fn has(&self, code: &str) -> bool {
        self.codes.split(',').any(|known| known == code)
    }

    fn is_of_the_secret(&self) -> bool {
        self.has("7000215") || self.has("7000222")
    }

    /// What it means for the settings.
    fn explain(&self, identity: &Identity) -> AuthorizeError {
        let busy = self.is_busy();
        let transient = busy || self.status.is_none() && (self.unreached || self.codes.is_empty());
        let detail = match (self.status, self.codes.is_empty()) {
            (Some(status), false) => format!(" (status {status}, AADSTS{})", self.codes),
            (Some(status), true) => format!(" (status {status})"),
            (None, _) => String::new(),
        };
        let advice = match identity {
            Identity::ClientSecret { .. } => self.advice_for_secret(busy),
            Identity::Managed { .. } => self.advice_for_managed(busy),
        };
        AuthorizeError { message: format!("no token: {advice}{detail}"), transient }
    }

    fn advice_for_secret(&self, busy: bool) -> &'static str {
        if self.status.is_none() && self.unreached {
            "the login host (LOGIN_URL, CLOUD) could not be reached"
        } else if self.status.is_none() && self.codes.is_empty() {
            "the answer of the login host (LOGIN_URL, CLOUD) could not be read; it may be out of order"
        } else if self.is_of_the_secret() {
            "MICROSOFT_GRAPH_CLIENT_SECRET (guide: Microsoft Graph Client Secret) is wrong or has expired"
        } else if self.has("700016") {
            "MICROSOFT_GRAPH_CLIENT_ID (guide: Microsoft Graph Client ID) is unknown in this tenant"
        } else if self.has("90002") || self.has("900023") {
            "MICROSOFT_GRAPH_TENANT_ID (guide: Microsoft Graph Tenant ID) is unknown"
        } else if self.has("500011") || self.has("70011") || self.has("1002012") {
            "the scope (SENTINEL_SCOPE, DEFENDER_SCOPE or GRAPH_SCOPE; CLOUD) is unknown in this tenant"
        } else if busy {
            "the login host is busy or out of order"
        } else {
            "check MICROSOFT_GRAPH_TENANT_ID, MICROSOFT_GRAPH_CLIENT_ID and MICROSOFT_GRAPH_CLIENT_SECRET"
        }
    }

    fn advice_for_managed(&self, busy: bool) -> &'static str {
        match self.status {
            None => "the managed identity's endpoint gives no answer; IDENTITY=managed works in Azure only",
            Some(_) if busy => "the managed identity's endpoint is busy or out of order",
            Some(_) => {
                "the app has no such managed identity: check MANAGED_IDENTITY_CLIENT_ID and the app's identities, and the scope (SENTINEL_SCOPE, DEFENDER_SCOPE or GRAPH_SCOPE; CLOUD)"
            }
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
