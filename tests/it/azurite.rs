//! Azurite as tests start it: on ports of its own, gone when it is dropped, and over HTTPS with bearer tokens.
#![expect(clippy::disallowed_methods, reason = "this asks Azurite without the product's client, by the machine's time")]

use emulator::azurite::{Azurite, AzuriteOptions, token};
use jiff::Timestamp;

/// Lists tables with a bearer token.
async fn tables(client: &reqwest::Client, azurite: &Azurite, token: &str) -> u16 {
    let request = client.get(format!("{}/Tables", azurite.table_url())).header("authorization", format!("Bearer {token}"));
    let request = request.header("x-ms-version", "2020-12-06").header("accept", "application/json;odata=nometadata");
    request.send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn two_azurites_run_beside_each_other_and_end_when_dropped() {
    let start = || Azurite::start(AzuriteOptions::default());
    let (one, other) = tokio::join!(start(), start());
    let (one, other) = (one.expect("Azurite"), other.expect("Azurite"));
    let urls = [&one, &other].map(|azurite| [azurite.blob_url(), azurite.queue_url(), azurite.table_url()].map(str::to_owned));
    let all: std::collections::BTreeSet<&String> = urls.iter().flatten().collect();
    assert_eq!(all.len(), 6, "{urls:?}");
    let client = reqwest::Client::new();
    for url in all {
        assert!(client.get(url).send().await.is_ok(), "{url} answers");
    }
    drop(one);
    assert!(client.get(&urls[0][0]).send().await.is_err(), "the first is gone");
    assert!(client.get(&urls[1][0]).send().await.is_ok(), "the other is not");
}

#[tokio::test]
async fn over_https_a_token_is_looked_at() {
    let azurite = Azurite::start(AzuriteOptions { https: true, folder: None }).await.expect("Azurite");
    let root = reqwest::Certificate::from_pem(azurite.ca_pem().expect("a CA").as_bytes()).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_only([root]).build().expect("a client");
    let now = Timestamp::now();
    assert_eq!(tables(&client, &azurite, &token(now)).await, 200);
    let expired = token(now - jiff::SignedDuration::from_hours(2));
    assert_eq!(tables(&client, &azurite, &expired).await, 403);
}
