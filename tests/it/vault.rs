//! The emulated vault and token endpoint, asked as their documents say; and what the product keeps of a vault, by a clock that is set.
#![expect(clippy::disallowed_methods, reason = "this asks the emulator without the product's client")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_core::http::StatusCode;
use azure_core::time::OffsetDateTime;
use emulator::{CLIENT_ID, CLIENT_SECRET, Emulator, Options, TENANT};
use indicator_relay::platform::clock::Clock;
use indicator_relay::platform::identity::{self, Resident};
use indicator_relay::platform::vault::{SecretSource, Vault};
use serde_json::Value;

use crate::rig::{HOUR, TestClock};

pub(crate) const NAME: &str = "threatconnect-secret-key";

async fn token(client: &reqwest::Client, emulator: &Emulator, scope: &str, secret: &str) -> (u16, Value) {
    let form = format!("grant_type=client_credentials&client_id={CLIENT_ID}&client_secret={secret}&scope={scope}");
    let url = format!("{}/{TENANT}/oauth2/v2.0/token", emulator.login_url());
    let answer =
        client.post(url).header("content-type", "application/x-www-form-urlencoded").body(form).send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON"))
}

#[tokio::test]
async fn a_secret_is_read_with_a_token_for_the_vault_and_not_without() {
    let emulator = Emulator::start(Options::default()).await.expect("free ports");
    {
        let mut world = emulator.world();
        world.vault.insert("threatconnect-secret-key".to_owned(), Some("s3cret".to_owned()));
        world.vault.insert("old".to_owned(), None);
    }
    let root = reqwest::Certificate::from_pem(emulator.ca_pem().as_bytes()).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_only([root]).build().expect("a client");
    let read = |name: &str, bearer: Option<String>| {
        let request = client.get(format!("{}/secrets/{name}?api-version=7.6", emulator.key_vault_url()));
        let request = match bearer {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        async move {
            let answer = request.send().await.expect("an answer");
            let challenge = answer.headers().get("www-authenticate").map(|value| value.to_str().expect("text").to_owned());
            let status = answer.status().as_u16();
            (status, challenge, serde_json::from_slice::<Value>(&answer.bytes().await.expect("a body")).expect("JSON"))
        }
    };
    let (status, challenge, _) = read("threatconnect-secret-key", None).await;
    assert_eq!(status, 401);
    assert!(challenge.is_some_and(|text| text.contains("resource=\"https://vault.azure.net\"")));

    let (status, wrong) = token(&client, &emulator, "https://vault.azure.net/.default", "wrong").await;
    assert_eq!((status, &wrong["error"], &wrong["error_codes"][0]), (401, &"invalid_client".into(), &7_000_215.into()));
    let (_, elsewhere) = token(&client, &emulator, "https://graph.microsoft.com/.default", CLIENT_SECRET).await;
    let elsewhere = elsewhere["access_token"].as_str().map(str::to_owned);
    assert_eq!(read("threatconnect-secret-key", elsewhere).await.0, 401, "a token for another audience");

    let (status, good) = token(&client, &emulator, "https://vault.azure.net/.default", CLIENT_SECRET).await;
    assert_eq!((status, &good["expires_in"]), (200, &3_599.into()));
    let good = good["access_token"].as_str().map(str::to_owned);
    let (status, _, secret) = read("threatconnect-secret-key", good.clone()).await;
    assert_eq!((status, &secret["value"]), (200, &"s3cret".into()));
    assert_eq!(read("old", good.clone()).await.0, 403, "disabled");
    assert_eq!(read("none", good).await.0, 404);
}

/// An identity that is asked for each request, and fails as it is told.
#[derive(Debug)]
pub(crate) struct Signer {
    token: String,
    asked: AtomicUsize,
    fails: Mutex<Option<ErrorKind>>,
}

impl Signer {
    fn fails_as(&self, kind: Option<ErrorKind>) {
        *self.fails.lock().expect("no panic") = kind;
    }
}

#[async_trait::async_trait]
impl TokenCredential for Signer {
    async fn get_token(&self, _: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        match self.fails.lock().expect("no panic").clone() {
            // As the official client wraps whatever goes wrong.
            Some(kind) => Err(azure_core::Error::with_error(ErrorKind::Credential, kind.into_error(), "no sign-in")),
            // It has ended, so that nobody keeps it.
            None => Ok(AccessToken::new(self.token.clone(), OffsetDateTime::UNIX_EPOCH)),
        }
    }
}

/// A vault with one secret, and who opens it.
pub(crate) struct Kept {
    pub(crate) emulator: Emulator,
    pub(crate) clock: TestClock,
    pub(crate) vault: Arc<Vault>,
    signer: Arc<Signer>,
}

impl Kept {
    pub(crate) async fn new() -> Self {
        let emulator = Emulator::start(Options::default()).await.expect("free ports");
        let root = reqwest::Certificate::from_pem(emulator.ca_pem().as_bytes()).expect("a certificate");
        let client = reqwest::Client::builder().tls_certs_only([root]).build().expect("a client");
        let (_, good) = token(&client, &emulator, "https://vault.azure.net/.default", CLIENT_SECRET).await;
        let token = good["access_token"].as_str().expect("a token").to_owned();
        let signer = Arc::new(Signer { token, asked: 0.into(), fails: Mutex::default() });
        let clock = TestClock::new();
        let url = emulator.key_vault_url().parse().expect("an address");
        let credential = Arc::clone(&signer) as Arc<dyn TokenCredential>;
        let resident = Resident::Managed { client_id: None };
        let vault = Vault::with(url, &resident, client, Arc::new(clock.clone()), credential).expect("a vault");
        let kept = Self { emulator, clock, vault: Arc::new(vault), signer };
        kept.set("first");
        kept
    }

    pub(crate) fn set(&self, value: &str) {
        self.emulator.world().vault.insert(NAME.to_owned(), Some(value.to_owned()));
    }

    pub(crate) async fn value(&self) -> Result<String, (bool, String)> {
        let read = self.vault.secret(NAME).await;
        read.map(|secret| secret.expose().to_owned()).map_err(|error| (error.transient, error.message))
    }
}

#[tokio::test]
async fn who_waits_in_front_of_a_screen_is_told_in_time_that_a_vault_is_away() {
    let clock = TestClock::new();
    let (url, resident) = ("https://vault.invalid".parse().expect("an address"), Resident::Managed { client_id: None });
    let credential = Arc::new(crate::notifications::Silent);
    let vault = Vault::with(url, &resident, reqwest::Client::new(), Arc::new(clock.clone()), credential).expect("a vault");
    let vault = vault.within(Some(Duration::from_secs(15)));
    let passes = async {
        clock.advance(Duration::from_secs(15));
    };
    let read = tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(vault.secret("one"), passes).0 }).await;
    let line = read.expect("it does not wait for ever").expect_err("it is away");
    assert!(
        line.transient && line.message.contains("`one`") && line.message.contains("within 15 s; check KEY_VAULT_URL"),
        "{line:?}"
    );
    let line = vault.secret("two").await.expect_err("it is away");
    assert!(line.message.contains("`two`"), "at once: {line:?}");
}

#[tokio::test]
async fn a_secret_is_read_again_after_an_hour_and_at_once_when_it_is_doubted() {
    let kept = Kept::new().await;
    let many = futures_util::future::join_all((0..5).map(|_| kept.value())).await;
    assert!(many.iter().all(|read| *read == Ok("first".to_owned())), "{many:?}");
    let asked = kept.signer.asked.load(Ordering::SeqCst);
    kept.set("second");
    kept.clock.advance(Duration::from_secs(3_599));
    assert_eq!(kept.value().await, Ok("first".to_owned()), "kept for an hour");
    assert_eq!(kept.signer.asked.load(Ordering::SeqCst), asked, "and nobody was asked");
    kept.clock.advance(Duration::from_secs(1));
    assert_eq!(kept.value().await, Ok("second".to_owned()));
    kept.set("third");
    assert_eq!(kept.value().await, Ok("second".to_owned()));
    let source = SecretSource::Kept { vault: Arc::clone(&kept.vault), name: NAME.to_owned() };
    assert!(source.doubt());
    assert_eq!(source.read().await.expect("read").expose(), "third");
}

#[tokio::test]
async fn a_secret_is_kept_through_an_outage_and_asked_for_each_minute() {
    let busy = |status| Some(ErrorKind::HttpResponse { status, error_code: None, raw_response: None });
    for outage in [busy(StatusCode::TooManyRequests), busy(StatusCode::ServiceUnavailable), Some(ErrorKind::Connection)] {
        let kept = Kept::new().await;
        kept.signer.fails_as(outage.clone());
        let (transient, line) = kept.value().await.expect_err("nothing is kept yet");
        assert!(transient && line.contains("the managed identity's endpoint") && line.contains(NAME), "{line}");
        kept.signer.fails_as(None);
        assert_eq!(kept.value().await, Ok("first".to_owned()));
        kept.set("second");
        kept.signer.fails_as(outage);
        kept.clock.advance(HOUR);
        assert_eq!(kept.value().await, Ok("first".to_owned()), "what was read before");
        kept.signer.fails_as(None);
        kept.clock.advance(Duration::from_secs(59));
        assert_eq!(kept.value().await, Ok("first".to_owned()), "not asked again within a minute");
        kept.clock.advance(Duration::from_secs(1));
        assert_eq!(kept.value().await, Ok("second".to_owned()));
    }
}

#[tokio::test]
async fn what_will_not_pass_is_told_though_a_secret_is_kept() {
    let kept = Kept::new().await;
    assert_eq!(kept.value().await, Ok("first".to_owned()));
    kept.clock.advance(HOUR);
    let refused = ErrorKind::HttpResponse { status: StatusCode::BadRequest, error_code: None, raw_response: None };
    kept.signer.fails_as(Some(refused));
    let (transient, line) = kept.value().await.expect_err("no such identity");
    assert!(!transient && line.contains("MANAGED_IDENTITY_CLIENT_ID"), "{line}");
    kept.signer.fails_as(None);
    kept.emulator.world().vault.insert(NAME.to_owned(), None);
    let failed = kept.vault.refresh().await;
    assert!(failed.len() == 1 && failed[0].message.contains("disabled"), "{failed:?}");
}

#[tokio::test]
async fn many_who_need_a_token_fetch_one() {
    let clock: Arc<dyn Clock> = Arc::new(TestClock::new());
    let ends = OffsetDateTime::from_unix_timestamp(clock.now().as_second() + 3_600).expect("a time");
    let good = Arc::new(Lasting { ends, asked: 0.into() });
    let bearer = identity::bearer(Arc::clone(&good) as Arc<dyn TokenCredential>, "scope", clock);
    let all = (0..5).map(|_| bearer.headers(&reqwest::Method::GET, "/"));
    for headers in futures_util::future::join_all(all).await {
        assert_eq!(headers.expect("a token").len(), 1);
    }
    assert_eq!(good.asked.load(Ordering::SeqCst), 1);
}

#[derive(Debug)]
struct Lasting {
    ends: OffsetDateTime,
    asked: AtomicUsize,
}

#[async_trait::async_trait]
impl TokenCredential for Lasting {
    async fn get_token(&self, _: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        Ok(AccessToken::new("token", self.ends))
    }
}
