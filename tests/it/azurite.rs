//! Azurite as tests start it: on ports of its own, gone when it is dropped, and over HTTPS with bearer tokens.
#![expect(clippy::disallowed_methods, reason = "this asks Azurite without the product's client, by the machine's time")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use emulator::azurite::{ACCOUNT, Azurite, AzuriteOptions, KEY, token};
use indicator_relay::platform::clock::{Clock, SystemClock};
use indicator_relay::platform::secret::Secret;
use indicator_relay::storage::Stores;
use indicator_relay::storage::azure::{self, Account, Credential, Names};
use jiff::Timestamp;
use tokio::sync::OnceCell;

/// The one of this test program: each test uses names of its own. It ends with the program.
pub(crate) async fn shared() -> &'static Azurite {
    static SHARED: OnceCell<Azurite> = OnceCell::const_new();
    SHARED.get_or_init(|| async { Azurite::start(AzuriteOptions::default()).await.unwrap_or_else(|e| panic!("{e:#}")) }).await
}

/// As the program makes it, each test its own.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::new()
}

/// The account with its key.
pub(crate) fn account(azurite: &Azurite) -> Account {
    let [blob, queue, table] =
        [azurite.blob_url(), azurite.queue_url(), azurite.table_url()].map(|url| url.parse().expect("an address"));
    Account { name: ACCOUNT.to_owned(), blob, queue, table, credential: Credential::Key(Secret::new(KEY)) }
}

/// A table and a container that no other test uses.
pub(crate) fn fresh_names() -> Names {
    let number = number();
    Names { table: format!("rows{number}"), container: format!("bodies{number}") }
}

/// A queue that no other test uses.
pub(crate) fn fresh_queue() -> String {
    format!("queue{}", number())
}

fn number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// Rows and queues in the shared Azurite, in a table and container of their own.
pub(crate) async fn stores() -> Stores {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    azure::open(&account(shared().await), &fresh_names(), &client(), &clock).expect("an account")
}

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
