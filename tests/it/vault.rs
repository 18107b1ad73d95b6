//! The emulated vault and token endpoint, asked as their documents say.
#![expect(clippy::disallowed_methods, reason = "this asks the emulator without the product's client")]

use emulator::{CLIENT_ID, CLIENT_SECRET, Emulator, Options, TENANT};
use serde_json::Value;

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
