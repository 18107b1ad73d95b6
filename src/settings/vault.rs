//! Which secrets come from the vault: a value is never taken for a name, so that a pasted secret cannot end in an address.

use std::collections::BTreeMap;

use url::Url;

use super::{PARAMS, Problem, Texts, filled, parse, prefix_of};

/// What is to be fetched before the settings can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultPlan {
    pub url: Url,
    pub secrets: Vec<VaultSecret>,
}

/// One secret setting and where its value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSecret {
    /// The setting, with the job's prefix if the name of the secret is the job's own.
    pub key: String,
    /// The secret's name in the vault.
    pub name: String,
    /// Not every way to sign in needs it: absent in the vault is as good as not given.
    pub optional: bool,
}

/// With `KEY_VAULT_URL`, the secrets to fetch; the caller puts their values into the map. None without a vault.
///
/// # Errors
/// A secret given as a value beside a vault, a vault's address that is none, or a name that no secret can have.
pub fn plan_vault(given: &BTreeMap<String, String>) -> Result<Option<VaultPlan>, Vec<Problem>> {
    let Some(text) = filled(given.get("KEY_VAULT_URL")) else { return Ok(None) };
    let texts = Texts::read(given);
    let mut problems = Vec::new();
    let url = parse::url(text).map_err(|why| problems.push(problem("KEY_VAULT_URL", format!("`{text}` {why}; accepted: {}", parse::URL))));
    let mut secrets = Vec::new();
    let managed = texts.parsed(None, "IDENTITY", parse::identity) == Some(true);
    for param in PARAMS.iter().filter(|param| param.secret) {
        let prefixes = std::iter::once(String::new()).chain(texts.jobs.iter().map(|job| format!("{}__", prefix_of(job))));
        for prefix in prefixes {
            let key = format!("{prefix}{}", param.key);
            if filled(given.get(&key)).is_some() {
                problems.push(problem(&key, "is given as a value though KEY_VAULT_URL is set; store it in the vault and remove it here".to_owned()));
            }
            let named = filled(given.get(&format!("{key}_SECRET_NAME")));
            if named.is_none() && !prefix.is_empty() {
                continue;
            }
            let name = named.map_or_else(|| param.key.to_ascii_lowercase().replace('_', "-"), str::to_owned);
            if name.is_empty() || name.len() > 127 || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                problems.push(problem(&format!("{key}_SECRET_NAME"), "is no name of a secret; accepted: letters, digits and `-`".to_owned()));
                continue;
            }
            let wanted = match param.key {
                "THREATCONNECT_TOKEN" => named.is_some(),
                "MICROSOFT_GRAPH_CLIENT_SECRET" => !managed,
                _ => named.is_some() || !has_token(&texts),
            };
            if wanted {
                secrets.push(VaultSecret { key, name, optional: named.is_none() && !prefix.is_empty() });
            }
        }
    }
    match url {
        Ok(url) if problems.is_empty() => Ok(Some(VaultPlan { url, secrets })),
        _ => Err(problems),
    }
}

/// Every job signs in with a token.
fn has_token(texts: &Texts<'_>) -> bool {
    texts.jobs.iter().all(|job| texts.get(Some(job), "API_USER").is_none())
}

fn problem(key: &str, message: String) -> Problem {
    Problem { key: key.to_owned(), guide_name: PARAMS.iter().find(|param| param.key == key).and_then(|param| param.guide), message }
}
