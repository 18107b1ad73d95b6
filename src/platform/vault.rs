//! Azure Key Vault through the official client: reads secrets by name, and keeps them for a while.
//!
//! A secret is read again after an hour, and at once when a service refuses it, so that a new version is in use without a
//! restart. While the vault cannot be reached, what was read before goes on being used.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, RawResponse, Transport};
use azure_security_keyvault_secrets::{SecretClient, SecretClientOptions};
use jiff::Timestamp;
use url::Url;

use super::clock::Clock;
use super::http::{AuthorizeError, is_loopback};
use super::identity::{Refusal, Resident};
use super::secret::Secret;

/// How long a secret is used before the vault is asked again.
const KEPT_FOR: Duration = Duration::from_secs(3_600);
/// How long before its end a secret is told of.
const TOLD_BEFORE_DAYS: i64 = 30;
/// While the vault gives no answer, it is asked again after this.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Secrets of one vault.
pub struct Vault {
    client: SecretClient,
    url: Url,
    resident: Resident,
    clock: Arc<dyn Clock>,
    kept: Mutex<BTreeMap<String, Kept>>,
    /// Held while the vault is asked, so that many who need a secret ask once.
    asking: tokio::sync::Mutex<()>,
    /// How long a person waits for it; none: as long as the official client tries.
    patience: Option<Duration>,
    /// That was not enough: nobody waits as long once more.
    silent: AtomicBool,
}

/// A secret that was read.
#[derive(Debug, Clone)]
struct Kept {
    secret: Secret,
    /// When its version ends, if somebody set that.
    ends: Option<Timestamp>,
    /// When to ask the vault again.
    good_until: Duration,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Vault {
    /// # Errors
    /// One line, when no credential can be made here.
    pub fn new(url: Url, resident: &Resident, http: reqwest::Client, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let credential = resident.credential(&http).map_err(|e| format!("the vault cannot be read: {e}"))?;
        Self::with(url, resident, http, clock, credential)
    }

    /// The same, for who holds a credential already; `resident` is whose it is, for the words of a refusal.
    ///
    /// # Errors
    /// One line, when the official client refuses the address.
    pub fn with(
        url: Url,
        resident: &Resident,
        http: reqwest::Client,
        clock: Arc<dyn Clock>,
        credential: Arc<dyn TokenCredential>,
    ) -> Result<Self, String> {
        let transport = Some(Transport::new(Arc::new(http)));
        let options = SecretClientOptions {
            client_options: ClientOptions { transport, ..ClientOptions::default() },
            // A vault asks for tokens of its own domain, which a vault on this machine cannot have.
            verify_challenge_resource: Some(!is_loopback(&url)),
            ..SecretClientOptions::default()
        };
        let client = SecretClient::new(url.as_str(), credential, Some(options)).map_err(|e| first_line(&e))?;
        let resident = resident.clone();
        let (kept, asking, silent) = (Mutex::default(), tokio::sync::Mutex::default(), AtomicBool::default());
        Ok(Self { client, url, resident, clock, kept, asking, patience: None, silent })
    }

    /// For who waits in front of a screen: a vault that has not answered by then gives no answer.
    #[must_use]
    pub fn within(self, patience: Option<Duration>) -> Self {
        Self { patience, ..self }
    }

    /// The current value of a secret, which was read within the last hour.
    ///
    /// # Errors
    /// One line that names the secret and the role or state to change; never its value.
    pub async fn secret(&self, name: &str) -> Result<Secret, AuthorizeError> {
        if let Some(kept) = self.good(name) {
            return Ok(kept);
        }
        let _asking = self.asking.lock().await;
        if let Some(kept) = self.good(name) {
            return Ok(kept);
        }
        let read = self.ask(name).await;
        let now = self.clock.monotonic();
        let mut all = self.all();
        match (read, all.get_mut(name)) {
            (Ok((secret, ends)), _) => {
                let kept = Kept { secret: secret.clone(), ends, good_until: now + KEPT_FOR };
                all.insert(name.to_owned(), kept);
                Ok(secret)
            }
            (Err(error), Some(kept)) if error.transient => {
                tracing::warn!("{}; the value that was read before is still used", error.message);
                kept.good_until = now + ASK_AGAIN_AFTER;
                Ok(kept.secret.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// A service refused this secret: the vault is asked again when it is next needed.
    pub fn doubt(&self, name: &str) {
        if let Some(kept) = self.all().get_mut(name) {
            kept.good_until = self.clock.monotonic();
        }
    }

    /// Reads again what was read more than an hour ago, for who needs no value but knows of all of them. What could not be
    /// read: one line each, as of [`Self::secret`].
    pub async fn refresh(&self) -> Vec<AuthorizeError> {
        let names: Vec<String> = self.all().keys().cloned().collect();
        let mut failed = Vec::new();
        for name in names {
            failed.extend(self.secret(&name).await.err());
        }
        failed
    }

    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The secrets that were read and end within a month, with the whole days that are left; negative: it has ended.
    #[must_use]
    pub fn ending(&self, now: Timestamp) -> Vec<(String, i64)> {
        let days = |ends: Timestamp| ends.duration_since(now).as_hours().div_euclid(24);
        let all = self.all();
        let ending = all.iter().filter_map(|(name, kept)| Some((name.clone(), days(kept.ends?))));
        ending.filter(|(_, days)| *days < TOLD_BEFORE_DAYS).collect()
    }

    fn good(&self, name: &str) -> Option<Secret> {
        let now = self.clock.monotonic();
        self.all().get(name).filter(|kept| now < kept.good_until).map(|kept| kept.secret.clone())
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, name: &str) -> Result<(Secret, Option<Timestamp>), AuthorizeError> {
        let asked = self.client.get_secret(name, None);
        let answer = match self.patience {
            None => asked.await,
            Some(_) if self.silent.load(Ordering::Relaxed) => return Err(self.is_silent(name)),
            Some(patience) => tokio::select! {
                answer = asked => answer,
                () = self.clock.alarm(patience) => {
                    self.silent.store(true, Ordering::Relaxed);
                    return Err(self.is_silent(name));
                }
            },
        };
        let answer = answer.map_err(|e| self.explain(name, &e))?;
        let secret = answer.into_model().map_err(|e| self.explain(name, &e))?;
        let ends = secret.attributes.and_then(|attributes| attributes.expires);
        let ends = ends.and_then(|at| Timestamp::from_second(at.unix_timestamp()).ok());
        let Some(value) = secret.value else {
            let message = format!("the secret `{name}` of {} has no value; set one", self.url);
            return Err(AuthorizeError { message, transient: false });
        };
        Ok((Secret::new(&value), ends))
    }

    fn explain(&self, name: &str, error: &azure_core::Error) -> AuthorizeError {
        let mut transient = false;
        let advice = match error.kind() {
            ErrorKind::HttpResponse { status, raw_response, .. } => {
                match (u16::from(*status), inner_code(raw_response.as_deref()).as_deref()) {
                    (401, _) => "the sign-in is not accepted: the identity is of another tenant than the vault".to_owned(),
                    (403, Some("SecretDisabled")) => "the secret is disabled; enable it, or set a new version".to_owned(),
                    (403, Some("ForbiddenByFirewall" | "ForbiddenByConnection")) => {
                        "the vault's firewall keeps us out; allow this network, or use a private endpoint".to_owned()
                    }
                    (403, _) => "the identity lacks the role \"Key Vault Secrets User\" on the vault".to_owned(),
                    (404, _) => format!("there is no such secret; `az keyvault secret set --name {name}` makes it"),
                    (status, _) => {
                        transient = status == 408 || status == 429 || status >= 500;
                        format!("status {status}")
                    }
                }
            }
            // Every failure of the sign-in is of this kind: what it is made from tells whether it will pass.
            ErrorKind::Credential => {
                let refusal = Refusal::of(error);
                transient = refusal.will_pass();
                self.resident.advice(&refusal).to_owned()
            }
            _ => {
                transient = true;
                "the vault gives no answer; check KEY_VAULT_URL, its firewall and private endpoint".to_owned()
            }
        };
        AuthorizeError { message: format!("failed to read the secret `{name}` from {}: {advice}", self.url), transient }
    }

    /// Whether it is the vault or the sign-in that hangs, nobody knows.
    fn is_silent(&self, name: &str) -> AuthorizeError {
        let seconds = self.patience.unwrap_or_default().as_secs();
        let message = format!(
            "failed to read the secret `{name}` from {}: no answer within {seconds} s; check KEY_VAULT_URL, the vault's firewall and private endpoint, and the sign-in",
            self.url
        );
        AuthorizeError { message, transient: true }
    }
}

/// A setting's name as a vault spells it, where names have no `_`: `TC_URL` is `tc-url`.
#[must_use]
pub fn spelling(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Where a secret comes from. What is kept in a vault may change while we run.
#[derive(Debug, Clone)]
pub enum SecretSource {
    /// Text of a setting.
    Given(Secret),
    /// A secret of a vault, by its name.
    Kept { vault: Arc<Vault>, name: String },
}

impl SecretSource {
    /// The secret as it is now, as far as the vault was asked lately.
    ///
    /// # Errors
    /// One line from the vault, which names the secret and what to change.
    pub async fn read(&self) -> Result<Secret, AuthorizeError> {
        match self {
            Self::Given(secret) => Ok(secret.clone()),
            Self::Kept { vault, name } => vault.secret(name).await,
        }
    }

    /// A service refused the secret: the vault is asked again when it is next read. True if it may have changed since.
    pub fn doubt(&self) -> bool {
        match self {
            Self::Given(_) => false,
            Self::Kept { vault, name } => {
                vault.doubt(name);
                true
            }
        }
    }
}

/// The same text, or the same place of the same vault.
impl PartialEq for SecretSource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Given(one), Self::Given(another)) => one == another,
            (Self::Kept { vault, name }, Self::Kept { vault: other_vault, name: other_name }) => {
                Arc::ptr_eq(vault, other_vault) && name == other_name
            }
            _ => false,
        }
    }
}

impl Eq for SecretSource {}

/// Why the vault forbids it: its own code says only `Forbidden`.
fn inner_code(response: Option<&RawResponse>) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(response?.body().as_ref()).ok()?;
    body.pointer("/error/innererror/code").and_then(serde_json::Value::as_str).map(str::to_owned)
}

fn first_line(error: &azure_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
