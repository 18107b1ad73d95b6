//! The emulated vault and token endpoint, asked as their documents say.
#![expect(clippy::disallowed_methods, reason = "this asks the emulator without the product's client")]

use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use emulator::faults::Effect;
use emulator::{CLIENT_ID, CLIENT_SECRET, Emulator, Options, Service, TENANT};
use indicator_relay::platform::identity::Resident;
use indicator_relay::platform::vault::Vault;
use serde_json::Value;

use crate::rig::Rig;

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

/// A token of the app's managed identity, which lasts for a day.
async fn of_the_identity(client: &reqwest::Client, emulator: &Emulator) -> String {
    let environment = emulator.identity_environment();
    let query = format!("api-version=2019-08-01&resource=https://vault.azure.net&client_id={}", emulator::MANAGED_CLIENT_ID);
    let request = client.get(format!("{}?{query}", environment["IDENTITY_ENDPOINT"]));
    let answer = request.header("x-identity-header", emulator::IDENTITY_HEADER).send().await.expect("an answer");
    let body: Value = serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON");
    body["access_token"].as_str().expect("a token").to_owned()
}

/// A token that was fetched by hand.
#[derive(Debug)]
struct Token(String);

#[async_trait::async_trait]
impl TokenCredential for Token {
    async fn get_token(&self, _: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        Ok(AccessToken::new(self.0.clone(), azure_core::time::OffsetDateTime::now_utc() + Duration::from_secs(86_400)))
    }
}

#[tokio::test]
async fn a_secret_is_read_again_after_an_hour_and_when_it_is_doubted_and_outlasts_an_outage() {
    const NAME: &str = "threatconnect-secret-key";
    let rig = Rig::new().await;
    let around = rig.surroundings(std::path::Path::new("unused"));
    let set = |value: &str| drop(rig.emulator.world().vault.insert(NAME.to_owned(), Some(value.to_owned())));
    let reads = || rig.emulator.world().log.iter().filter(|call| call.service == Service::KeyVault && call.status == 200).count();
    set("one");
    let credential = Arc::new(Token(of_the_identity(&around.client, &rig.emulator).await));
    let url = rig.emulator.key_vault_url().parse().expect("an address");
    let vault = Vault::with(url, credential, &Resident::Developer, around.client.clone(), around.clock).expect("a vault");
    let read = async || vault.secret(NAME).await.map(|secret| secret.expose().to_owned());
    assert_eq!(read().await.expect("read"), "one");
    set("two");
    rig.clock.advance(Duration::from_secs(3_599));
    assert_eq!((read().await.expect("kept"), reads()), ("one".to_owned(), 1));
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!((read().await.expect("read again"), reads()), ("two".to_owned(), 2));
    set("three");
    vault.doubt(NAME);
    assert_eq!(read().await.expect("read again"), "three");
    // It is gone for good: what was read before is not used.
    rig.emulator.world().vault.insert(NAME.to_owned(), None);
    vault.doubt(NAME);
    assert!(read().await.is_err_and(|error| error.message.contains("disabled")));
    set("four");
    assert_eq!(read().await.expect("read again"), "four");
    // Too busy to answer: the value that was read before is used, and a minute later the vault is asked again.
    let busy = Effect::Status { status: 503, body: String::new(), retry_after: None };
    rig.emulator.world().faults.always(Service::KeyVault, busy);
    set("five");
    vault.doubt(NAME);
    assert_eq!(read().await.expect("kept"), "four");
    rig.emulator.world().faults.clear();
    rig.clock.advance(Duration::from_secs(59));
    assert_eq!(read().await.expect("kept"), "four");
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(read().await.expect("read again"), "five");
}
