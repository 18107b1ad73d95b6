//! Rich notifications: proven to be Microsoft Graph's by their tokens, then opened with our private key.
//!
//! Fails closed, item by item, and has no switch. Does no I/O: published keys and certificates are arguments.

pub mod certificates;
pub mod decrypt;
mod pkcs12;
pub mod tokens;
mod wire;

use serde_json::Value;

use self::certificates::Certificates;
use self::decrypt::OpenError;
use self::tokens::{Keyset, TokenError};
use super::item::Item;

/// Why the resource of a rich notification is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RichError {
    #[error("the notification holds no encrypted resource")]
    NotEncrypted,
    /// The vendor page names one lawful cause.
    #[error(
        "the delivery proves nothing: it has no validation token; allow \"Microsoft Graph Change Tracking\" to use the application if it requires assignment"
    )]
    NoToken,
    /// One wrong token makes the whole delivery suspicious.
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("no validation token of the delivery is for the tenant of the notification")]
    OtherTenant,
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl RichError {
    /// For counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotEncrypted => "not_encrypted",
            Self::NoToken => "no_token",
            Self::Token(error) => error.name(),
            Self::OtherTenant => "other_tenant",
            Self::Open(error) => error.name(),
        }
    }
}

/// The resource of an encrypted notification, once its delivery is proven by every token, and its tenant by one of them.
/// `audiences`: ids of our applications; `tenants`: ours. The time of the tokens is judged by when the delivery came, so that
/// a retry or a replay is worth as much as the first try.
///
/// # Errors
/// [`RichError`]. [`TokenError::UnknownKey`] only if no token is wrong for another reason: then newer keys may help.
pub fn open_item(
    item: &Item,
    keys: &Keyset,
    certificates: &Certificates,
    audiences: &[String],
    tenants: &[String],
) -> Result<Value, RichError> {
    let content = item.encrypted.as_ref().ok_or(RichError::NotEncrypted)?;
    if item.tokens.is_empty() {
        return Err(RichError::NoToken);
    }
    let mut proven = Vec::new();
    let mut unknown = false;
    for token in &item.tokens {
        match tokens::check(token, keys, audiences, tenants, item.received) {
            Ok(token) => proven.push(token.tenant),
            Err(TokenError::UnknownKey) => unknown = true,
            Err(error) => return Err(error.into()),
        }
    }
    if unknown {
        return Err(TokenError::UnknownKey.into());
    }
    let tenant = item.tenant.as_deref().ok_or(RichError::OtherTenant)?;
    if !proven.iter().any(|proven| proven.eq_ignore_ascii_case(tenant)) {
        return Err(RichError::OtherTenant);
    }
    Ok(decrypt::open(content, certificates)?)
}
