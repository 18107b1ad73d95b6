//! Which secrets to read from the vault before the settings can be read. Reads none itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use url::Url;

use super::given::{JobName, Reader, sorted};
use super::params::{self, Param, SignIn, TABLE};
use super::{Job, Problem, Settings, parse, storage};
use crate::platform::identity::{Identity, Resident};
use crate::platform::secret::Secret;
use crate::platform::vault::{SecretSource, Vault};
use crate::threatconnect::Credentials;

/// What to fetch, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultPlan {
    pub url: Url,
    /// Who reads it.
    pub resident: Resident,
    /// Each name once.
    pub secrets: Vec<VaultSecret>,
}

/// One secret of the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSecret {
    pub name: String,
    /// The keys under which its value goes into the map for [`Settings::from_map`].
    pub keys: Vec<String>,
}

impl VaultPlan {
    /// The map with the values that the vault gave, by secret name, for [`Settings::from_map`].
    #[must_use]
    pub fn fill(&self, given: &BTreeMap<String, String>, values: &BTreeMap<String, Secret>) -> BTreeMap<String, String> {
        fill(given, &self.secrets, |name| values.get(name).map(Secret::expose))
    }
}

/// The job's secrets are read from the vault from now on, not from what was filled in.
pub(super) fn keep(job: &mut Job, plan: &VaultPlan, vault: &Arc<Vault>) {
    let prefix = JobName::prefix_of(&job.name);
    let kept = |row: &Param| {
        let key = format!("{prefix}{}", row.key);
        let secret = plan.secrets.iter().find(|secret| secret.keys.contains(&key))?;
        Some(SecretSource::Kept { vault: Arc::clone(vault), name: secret.name.clone() })
    };
    let (secret, row) = match &mut job.source.credentials {
        Credentials::Hmac { secret, .. } => (secret, &params::THREATCONNECT_SECRET_KEY),
        Credentials::Token(token) => (token, &params::THREATCONNECT_TOKEN),
    };
    if let Some(source) = kept(row) {
        *secret = source;
    }
    if let (Identity::ClientSecret { secret, .. }, Some(source)) =
        (&mut job.identity, kept(&params::MICROSOFT_GRAPH_CLIENT_SECRET))
    {
        *secret = source;
    }
}

fn fill<'a>(
    given: &BTreeMap<String, String>,
    secrets: &[VaultSecret],
    value: impl Fn(&str) -> Option<&'a str>,
) -> BTreeMap<String, String> {
    let mut filled = given.clone();
    for secret in secrets {
        if let Some(value) = value(&secret.name) {
            filled.extend(secret.keys.iter().map(|key| (key.clone(), value.to_owned())));
        }
    }
    filled
}

/// The secrets that the jobs need from the vault of `KEY_VAULT_URL`; none without that setting. Those of notifications are not
/// among them: whoever receives none need not have them.
///
/// # Errors
/// Every problem of the settings, not only those of secrets, so that nothing is fetched for settings that cannot work.
pub fn vault_secrets(given: &BTreeMap<String, String>) -> Result<Option<VaultPlan>, Vec<Problem>> {
    let mut reader = Reader::new(given);
    if reader.given(&params::KEY_VAULT_URL).is_none() {
        return Ok(None);
    }
    // The address is judged below, with all else.
    let url = reader.effective(&params::KEY_VAULT_URL).and_then(|text| parse::address(text).ok());
    let managed = reader.effective(&params::IDENTITY).and_then(|text| parse::choice(text, &params::SIGN_INS).ok());
    let resident = resident(&reader, managed);
    let mut secrets: Vec<VaultSecret> = Vec::new();
    for job in reader.jobs.clone() {
        reader.enter(&job);
        for row in TABLE.iter().filter(|row| row.secret) {
            if reader.given(row).is_some() {
                let message = "is a secret: with KEY_VAULT_URL, keep it in the vault and leave it out here";
                reader.refuse(row, message.to_owned());
            }
        }
        let signs = reader.given(&params::API_USER).is_some();
        let needed: [(&Param, bool); 3] = [
            (&params::MICROSOFT_GRAPH_CLIENT_SECRET, managed != Some(SignIn::Managed)),
            (&params::THREATCONNECT_SECRET_KEY, signs),
            (&params::THREATCONNECT_TOKEN, !signs),
        ];
        for (row, _) in needed.into_iter().filter(|(_, needed)| *needed) {
            let name = row.secret_name().and_then(|name| reader.read(name, parse::secret_name));
            let Some(name) = name else { continue };
            // A key of the job's own: another job may need the same setting from elsewhere, or not at all.
            let key = job.key(row.key);
            match secrets.iter_mut().find(|secret| secret.name == name) {
                Some(secret) => secret.keys.push(key),
                None => secrets.push(VaultSecret { name, keys: vec![key] }),
            }
        }
    }
    let filled = fill(given, &secrets, |_| Some("not read yet"));
    let others = Settings::from_map(&filled).err().unwrap_or_default();
    reader.problems.extend(others);
    if reader.problems.is_empty() {
        Ok(url.map(|url| VaultPlan { url, resident, secrets }))
    } else {
        Err(sorted(reader.problems))
    }
}

/// In Azure the app's own identity reads the vault, also where the targets are reached with a client secret. On a laptop, who
/// is signed in reads it, as the storage account, also where the targets know an identity only.
pub(super) fn resident(reader: &Reader<'_>, sign_in: Option<SignIn>) -> Resident {
    let account = [&params::STORAGE_ACCOUNT_NAME, &params::STORAGE_TABLE_URI];
    let on_laptop = account.into_iter().any(|row| reader.given(row).is_some());
    let wanted = reader.given(&params::STORAGE_CREDENTIAL).is_some_and(|given| storage::is_managed(given.text));
    if wanted || reader.in_azure() || sign_in == Some(SignIn::Managed) && !on_laptop {
        let client_id = reader.given(&params::MANAGED_IDENTITY_CLIENT_ID).map(|given| given.text.to_owned());
        Resident::Managed { client_id }
    } else {
        Resident::Developer
    }
}
