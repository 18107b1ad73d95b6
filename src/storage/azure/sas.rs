//! Account SAS from the account's key: what a connection string becomes, so that every client proves itself in one way.
//!
//! Source: "Create an account SAS". It goes into the query of each request; no log line and no error holds it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::utf8_percent_encode;

use crate::platform::clock::Clock;
use crate::platform::http::ENCODED;
use crate::platform::secret::Secret;

/// Of the way to sign, not of the requests.
const VERSION: &str = "2020-12-06";
/// Read, write, delete, list, add, create, update, process.
const PERMISSIONS: &str = "rwdlacup";
/// Blob, queue, table.
const SERVICES: &str = "bqt";
/// Service, container, object.
const TYPES: &str = "sco";
const LIFE: SignedDuration = SignedDuration::from_hours(4);
/// Anew when less than this is left: far more than any request takes, and than a clock is off.
const RENEWED: SignedDuration = SignedDuration::from_hours(2);

/// Signatures of one account.
pub(super) struct Sas {
    account: String,
    key: hmac::Key,
    /// For an account over HTTPS, nothing else is allowed.
    protocols: &'static str,
    clock: Arc<dyn Clock>,
    current: RwLock<Option<(Timestamp, Secret)>>,
}

impl fmt::Debug for Sas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sas").field("account", &self.account).finish_non_exhaustive()
    }
}

impl Sas {
    /// None if the key is no base64.
    pub(super) fn new(account: &str, key: &Secret, https: bool, clock: Arc<dyn Clock>) -> Option<Self> {
        let key = STANDARD.decode(key.expose()).ok()?;
        let protocols = if https { "https" } else { "https,http" };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Some(Self { account: account.to_owned(), key, protocols, clock, current: RwLock::new(None) })
    }

    /// The query that allows a request from now on for some time.
    pub(super) fn query(&self) -> Secret {
        let now = self.clock.now();
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        // A clock that was set back must not keep what lasts longer than it may.
        if let Some((until, query)) = current
            && until.duration_since(now) > RENEWED
            && until.duration_since(now) <= LIFE
        {
            return query;
        }
        let until = now.saturating_add(LIFE).unwrap_or(now);
        let query = self.sign(until);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some((until, query.clone()));
        query
    }

    /// Without a start, so that a clock that is a little fast does no harm.
    fn sign(&self, until: Timestamp) -> Secret {
        let until = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let (account, protocols) = (&self.account, self.protocols);
        // Start, addresses and encryption scope are empty lines.
        let text = format!("{account}\n{PERMISSIONS}\n{SERVICES}\n{TYPES}\n\n{until}\n\n{protocols}\n{VERSION}\n\n");
        let signature = STANDARD.encode(hmac::sign(&self.key, text.as_bytes()));
        let [until, protocols, signature] = [&until, protocols, &signature].map(|text| utf8_percent_encode(text, ENCODED));
        Secret::new(&format!(
            "sv={VERSION}&ss={SERVICES}&srt={TYPES}&sp={PERMISSIONS}&se={until}&spr={protocols}&sig={signature}"
        ))
    }
}

/// Adds the signature to each call of an official client.
#[derive(Debug)]
pub(super) struct Signing(pub(super) Arc<Sas>);

#[async_trait]
impl Policy for Signing {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let own = request.url().query().map(|query| format!("{query}&")).unwrap_or_default();
        let query = self.0.query();
        request.url_mut().set_query(Some(&format!("{own}{}", query.expose())));
        match next {
            [first, rest @ ..] => first.send(context, request, rest).await,
            [] => Err(azure_core::Error::with_message(azure_core::error::ErrorKind::Other, "no transport follows")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::platform::clock::BoxFuture;

    #[derive(Debug)]
    struct Set(Mutex<Timestamp>);

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            *self.0.lock().expect("no panic")
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn it_is_renewed_long_before_it_ends_and_when_the_clock_was_set_back() {
        let clock = Arc::new(Set(Mutex::new(at("2026-11-24T09:00:00Z"))));
        let sas = Sas::new("contoso", &Secret::new("a2V5"), true, Arc::clone(&clock) as Arc<dyn Clock>).expect("a key");
        let first = sas.query();
        assert!(first.expose().contains("se=2026-11-24T13%3A00%3A00Z&spr=https&sig="), "{}", first.expose());
        *clock.0.lock().expect("no panic") = at("2026-11-24T10:59:00Z");
        assert!(sas.query() == first);
        *clock.0.lock().expect("no panic") = at("2026-11-24T11:00:00Z");
        let second = sas.query();
        assert!(second.expose().contains("se=2026-11-24T15%3A00%3A00Z"), "{}", second.expose());
        *clock.0.lock().expect("no panic") = at("2026-11-24T09:00:00Z");
        assert!(sas.query() == first, "the same time is signed the same");
    }

    #[test]
    fn nothing_shows_the_key() {
        let clock = Arc::new(Set(Mutex::new(at("2026-11-24T09:00:00Z"))));
        let sas = Sas::new("contoso", &Secret::new("a2V5"), true, clock).expect("a key");
        drop(sas.query());
        assert_eq!(format!("{sas:?}"), "Sas { account: \"contoso\", .. }");
    }
}
