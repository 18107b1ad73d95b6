//! An Azure Storage account behind the two traits: rows in Table Storage, messages in Storage Queues, large bodies in blobs.
//!
//! A connection string becomes an account SAS, an identity a bearer token; nothing else differs. Tables, queues and the
//! container are deployed (`infra/`); only at a loopback address they are made on first use, for Azurite.

mod batch;
mod blobs;
mod entity;
mod queues;
mod remedy;
mod sas;
mod tables;

use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use azure_core::http::{ClientOptions, ExponentialRetryOptions, RetryOptions, Transport};
use url::Url;

use self::blobs::Blobs;
use self::queues::Queues;
use self::remedy::Caller;
use self::sas::{Sas, Signing};
use self::tables::Tables;
use super::{StoreError, Stores};
use crate::platform::clock::{BoxFuture, Clock};
use crate::platform::http::{Authorize, Authorized, is_loopback};
use crate::platform::identity::{self, Resident};
use crate::platform::secret::Secret;
pub use queues::MESSAGE_ENCODING;

/// Of all requests: the first with all that is used, so that older versions of Azurite will do.
const API_VERSION: &str = "2021-12-02";
const SCOPE: &str = "https://storage.azure.com/.default";

/// The account of `UseDevelopmentStorage=true`.
pub const DEVELOPMENT_ACCOUNT: &str = "devstoreaccount1";
/// Its key, which is public.
pub const DEVELOPMENT_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A storage account: where it is, and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub blob: Url,
    pub queue: Url,
    pub table: Url,
    pub credential: Credential,
}

/// How to prove who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// The account's key, in base64.
    Key(Secret),
    Identity(Resident),
}

/// The table of all state.
pub const TABLE: &str = "indicatorrelay";
/// The container of bodies that no message can hold.
pub const CONTAINER: &str = "indicator-relay";

/// The names of what is used in an account; queues are named where they are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub table: String,
    pub container: String,
}

impl Default for Names {
    fn default() -> Self {
        Self { table: TABLE.to_owned(), container: CONTAINER.to_owned() }
    }
}

impl Account {
    /// All of it is on this machine.
    fn is_local(&self) -> bool {
        [&self.blob, &self.queue, &self.table].into_iter().all(is_loopback)
    }

    fn caller(&self) -> Caller {
        Caller { account: self.name.clone(), by_key: matches!(self.credential, Credential::Key(_)) }
    }
}

/// What makes requests acceptable to the account.
#[derive(Clone)]
enum Access {
    Sas(Arc<Sas>),
    Token(Arc<dyn TokenCredential>),
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sas(_) => "Access::Sas",
            Self::Token(_) => "Access::Token",
        })
    }
}

impl Access {
    /// For the tables: what goes into headers.
    fn authorize(&self, clock: &Arc<dyn Clock>) -> Arc<dyn Authorize> {
        match self {
            Self::Sas(_) => Arc::new(InQuery),
            Self::Token(credential) => identity::bearer(Arc::clone(credential), SCOPE, Arc::clone(clock)),
        }
    }

    /// For the tables: what goes into the query.
    fn signed(&self, path: String) -> String {
        let Self::Sas(sas) = self else { return path };
        let joint = if path.contains('?') { '&' } else { '?' };
        format!("{path}{joint}{}", sas.query().expose())
    }

    /// For the official clients.
    fn credential(&self) -> Option<Arc<dyn TokenCredential>> {
        match self {
            Self::Sas(_) => None,
            Self::Token(credential) => Some(Arc::clone(credential)),
        }
    }

    fn client_options(&self, http: &reqwest::Client) -> ClientOptions {
        // Within the minute that an invocation can spare: its message comes again.
        let retry = ExponentialRetryOptions { max_retries: 3, ..ExponentialRetryOptions::default() };
        let mut options = ClientOptions {
            transport: Some(Transport::new(Arc::new(http.clone()))),
            retry: RetryOptions::exponential(retry),
            ..ClientOptions::default()
        };
        if let Self::Sas(sas) = self {
            options.per_call_policies.push(Arc::new(Signing(Arc::clone(sas))));
        }
        options
    }
}

/// Nothing in the headers: the signature is in the query.
#[derive(Debug)]
struct InQuery;

impl Authorize for InQuery {
    fn headers<'a>(&'a self, _method: &'a reqwest::Method, _target: &'a str) -> BoxFuture<'a, Authorized> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn renew(&self) -> bool {
        false
    }
}

/// Rows and queues of an account; nothing is sent yet.
///
/// # Errors
/// One line that names the setting, when key or identity cannot be used.
pub fn open(account: &Account, names: &Names, http: &reqwest::Client, clock: &Arc<dyn Clock>) -> Result<Stores, String> {
    wire(account, names, http, clock, access(account, http, clock)?)
}

/// Blobs of a container that people write.
#[derive(Debug)]
pub(super) struct Shelf {
    blobs: Blobs,
    caller: Caller,
    clock: Arc<dyn Clock>,
}

impl Shelf {
    /// # Errors
    /// As [`open`].
    pub(super) fn open(
        account: &Account,
        container: &str,
        http: &reqwest::Client,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let access = access(account, http, clock)?;
        let blobs = Blobs::new(account, &access, http, container).map_err(|_| HTTPS_ONLY.to_owned())?;
        Ok(Self { blobs, caller: account.caller(), clock: Arc::clone(clock) })
    }

    /// None if there is no such blob, nor such a container.
    pub(super) async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.blobs.get(name).await {
            Ok(read) => Ok(read),
            Err(refusal) if refusal.missing() => Ok(None),
            Err(refusal) => {
                let cause = self.caller.explain(self.blobs.part(), &refusal, self.clock.now());
                Err(StoreError { operation: "read", place: self.caller.account.clone(), cause })
            }
        }
    }
}

fn access(account: &Account, http: &reqwest::Client, clock: &Arc<dyn Clock>) -> Result<Access, String> {
    Ok(match &account.credential {
        Credential::Key(key) => {
            let https = [&account.blob, &account.queue, &account.table].into_iter().all(|url| url.scheme() == "https");
            let sas = Sas::new(&account.name, key, https, Arc::clone(clock));
            Access::Sas(Arc::new(sas.ok_or("AzureWebJobsStorage: its AccountKey is no base64")?))
        }
        Credential::Identity(identity) => Access::Token(identity.credential(http)?),
    })
}

/// The only refusal that is left: that of a token over plain HTTP.
const HTTPS_ONLY: &str = "an identity is used over HTTPS only: give `https://` addresses, or a connection string";

/// The same, for who holds a credential already.
///
/// # Errors
/// As [`open`].
pub fn open_with(
    account: &Account,
    names: &Names,
    http: &reqwest::Client,
    clock: &Arc<dyn Clock>,
    credential: Arc<dyn TokenCredential>,
) -> Result<Stores, String> {
    wire(account, names, http, clock, Access::Token(credential))
}

fn wire(
    account: &Account,
    names: &Names,
    http: &reqwest::Client,
    clock: &Arc<dyn Clock>,
    access: Access,
) -> Result<Stores, String> {
    let queues = Queues::new(account, &access, http, Arc::clone(clock), &names.container).map_err(|_| HTTPS_ONLY.to_owned())?;
    let tables = Tables::new(account, access, http.clone(), Arc::clone(clock), &names.table);
    Ok(Stores { state: Arc::new(tables), queue: Arc::new(queues) })
}

/// The address of a resource of a service.
fn below(service: &Url, name: &str) -> Url {
    let mut url = service.clone();
    url.set_path(&format!("{}/{name}", service.path().trim_end_matches('/')));
    url
}
