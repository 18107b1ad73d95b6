//! What Azure Storage refuses, loses or asks for, beyond what every store does: remedies, lost answers, tokens over HTTPS.

use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use emulator::FreePort;
use emulator::azurite::{ACCOUNT, Azurite, AzuriteOptions, token};
use indicator_relay::export::{Handled, Progress};
use indicator_relay::platform::clock::{Clock, SystemClock};
use indicator_relay::platform::secret::Secret;
use indicator_relay::storage::azure::{self, Account, Credential, Names};
use indicator_relay::storage::{CommitError, Place, Stores, Write};
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::azurite::{account, client, fresh_names, fresh_queue, shared};
use crate::rig::{HOUR, Rig, assert_sent};
use crate::storage::Hand;

fn system_clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

fn open(account: &Account, client: &reqwest::Client) -> Stores {
    azure::open(account, &fresh_names(), client, &system_clock()).expect("an account")
}

fn put(key: &str) -> Vec<Write> {
    vec![Write::Put { key: key.to_owned(), value: b"v".to_vec() }]
}

/// Every operation once, and what each says that fails.
async fn refusals(stores: &Stores, queue: &str) -> Vec<String> {
    let (state, queues) = (&stores.state, &stores.queue);
    let mut said = vec![
        state.get("p", "k").await.map(drop).map_err(|e| e.to_string()),
        state.scan("p", "a", "z", 1).await.map(drop).map_err(|e| e.to_string()),
        state.commit("p", put("k")).await.map(drop).map_err(|e| e.to_string()),
        queues.put(queue, b"m".to_vec(), Duration::ZERO).await.map_err(|e| e.to_string()),
        queues.receive(queue, 1, Duration::from_secs(1)).await.map(drop).map_err(|e| e.to_string()),
        queues.probe(queue).await.map_err(|e| e.to_string()),
        queues.put(queue, vec![b'm'; 50_000], Duration::ZERO).await.map_err(|e| e.to_string()),
    ];
    said.retain(Result::is_err);
    let said: Vec<String> = said.into_iter().filter_map(Result::err).collect();
    for line in &said {
        assert!(!line.contains('\n') && !line.contains("sig=") && line.len() < 400, "{line}");
    }
    said
}

#[tokio::test]
async fn elsewhere_than_on_this_machine_nothing_is_made_and_each_part_that_is_missing_is_named() {
    // Reached under a name that is not this machine's; Azurite knows this one.
    const NAME: &str = "host.docker.internal";
    let mut elsewhere = account(shared().await);
    for url in [&mut elsewhere.blob, &mut elsewhere.queue, &mut elsewhere.table] {
        url.set_host(Some(NAME)).expect("a host");
    }
    let builder = reqwest::Client::builder().resolve(NAME, ([127, 0, 0, 1], 0).into());
    let queue = fresh_queue();
    let stores = open(&elsewhere, &builder.build().expect("a client"));
    let said = refusals(&stores, &queue).await;
    let kinds = ["table", "table", "table", "queue", "queue", "queue", "container"];
    assert_eq!(said.len(), kinds.len(), "{said:#?}");
    for (line, kind) in said.iter().zip(kinds) {
        let command = format!("az storage {kind} create --name ");
        assert!(line.contains("does not exist: deploy `infra/`") && line.contains(&command) && line.contains(ACCOUNT), "{line}");
    }
    assert_eq!(stores.queue.count(&queue).await.expect("counted"), 0, "a queue that is missing has no messages");
}

#[tokio::test]
async fn a_wrong_key_is_refused_in_one_line_each() {
    let mut wrong = account(shared().await);
    wrong.credential = Credential::Key(Secret::new("d3Jvbmc="));
    let said = refusals(&open(&wrong, &client()), "export-runs").await;
    assert_eq!(said.len(), 7, "{said:#?}");
    assert!(said.iter().all(|line| line.contains("key")), "{said:#?}");
    wrong.credential = Credential::Key(Secret::new("no base64"));
    let place = Place::Azure(Box::new(wrong));
    let refused = indicator_relay::storage::open(&place, &client(), &system_clock());
    assert!(refused.is_err_and(|line| line.contains("AccountKey")));
}

#[tokio::test]
async fn an_account_that_nobody_answers_for_is_named() {
    let port = FreePort::find().expect("a port");
    let url: url::Url = format!("http://127.0.0.1:{}/contoso", port.number()).parse().expect("an address");
    let credential = Credential::Key(Secret::new("a2V5"));
    let nobody = Account { name: "contoso".to_owned(), blob: url.clone(), queue: url.clone(), table: url, credential };
    // Waits between attempts pass at once on a clock that is set; the official client keeps its own.
    let clock: Arc<dyn Clock> = Arc::new(Hand::new());
    let stores = azure::open(&nobody, &fresh_names(), &client(), &clock).expect("an account");
    let lines = [
        stores.state.get("p", "k").await.expect_err("nobody").to_string(),
        stores.state.commit("p", put("k")).await.expect_err("nobody").to_string(),
        stores.queue.count("q").await.expect_err("nobody").to_string(),
    ];
    for line in lines {
        assert!(line.contains("no connection") && line.contains("`contoso`"), "{line}");
        assert!(!line.contains("sig=") && !line.contains('\n') && !line.contains("unknown"), "{line}");
    }
}

/// Answers each request on a connection of its own with the next of these; an empty one breaks the connection.
async fn scripted(answers: Vec<Vec<u8>>) -> (Account, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/contoso", listener.local_addr().expect("an address"));
    let url: url::Url = url.parse().expect("an address");
    let served = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = Vec::new();
            let mut buffer = [0; 4_096];
            loop {
                let read = stream.read(&mut buffer).await.expect("a request");
                request.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&request).to_lowercase();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                if read == 0 || body.len() >= length.unwrap_or(0) {
                    break;
                }
            }
            asked.push(String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned());
            stream.write_all(&answer).await.expect("written");
            stream.shutdown().await.expect("closed");
        }
        asked
    });
    let credential = Credential::Key(Secret::new("a2V5"));
    (Account { name: "contoso".to_owned(), blob: url.clone(), queue: url.clone(), table: url, credential }, served)
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len()).into_bytes()
}

async fn committed(answers: Vec<Vec<u8>>) -> (Result<usize, CommitError>, usize) {
    let (account, served) = scripted(answers).await;
    let clock: Arc<dyn Clock> = Arc::new(Hand::new());
    let stores = azure::open(&account, &Names::default(), &client(), &clock).expect("an account");
    let write = Write::PutIf { key: "lease".to_owned(), value: b"v".to_vec(), version: None };
    let result = stores.state.commit("p", vec![write]).await.map(|versions| versions.len());
    (result, served.await.expect("served").len())
}

const DONE: &str = "--batchresponse_1\r\nContent-Type: multipart/mixed; boundary=changesetresponse_1\r\n\r\n--changesetresponse_1\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\nHTTP/1.1 204 No Content\r\nETag: W/\"datetime'1'\"\r\n\r\n\r\n--changesetresponse_1--\r\n--batchresponse_1--\r\n";

#[tokio::test]
async fn a_commit_whose_answer_is_lost_says_that_it_is_unknown_and_is_not_sent_again() {
    let half = answer("202 Accepted", "", DONE)[..200].to_vec();
    let unreadable = answer("202 Accepted", "", "--batchresponse_1\r\n\r\n--batchresponse_1--\r\n");
    let failed = answer("500 Internal Server Error", "", "");
    for lost in [Vec::new(), half, unreadable, failed] {
        let (result, requests) = committed(vec![lost]).await;
        let Err(CommitError::Failed(error)) = result else { panic!("lost") };
        assert!(error.to_string().contains("it is unknown whether it was written"), "{error}");
        assert_eq!(requests, 1);
    }
}

#[tokio::test]
async fn a_commit_that_was_not_taken_is_sent_again() {
    let busy = || answer("503 Service Unavailable", "retry-after: 1\r\n", "");
    let (result, requests) = committed(vec![busy(), busy(), answer("202 Accepted", "", DONE)]).await;
    assert_eq!((result.expect("committed"), requests), (1, 3));
    let (result, _) = committed((0..5).map(|_| busy()).collect()).await;
    let error = result.expect_err("busy").to_string();
    assert!(!error.contains("unknown") && error.contains("503"), "{error}");
}

#[tokio::test]
async fn a_message_never_expires_and_waits_in_whole_seconds() {
    let sent = "<?xml version=\"1.0\" encoding=\"utf-8\"?><QueueMessagesList><QueueMessage><MessageId>1</MessageId></QueueMessage></QueueMessagesList>";
    let (account, served) = scripted(vec![answer("201 Created", "content-type: application/xml\r\n", sent)]).await;
    let stores = azure::open(&account, &Names::default(), &client(), &system_clock()).expect("an account");
    stores.queue.put("q", b"m".to_vec(), Duration::from_millis(1_500)).await.expect("put");
    let asked = served.await.expect("served");
    assert!(asked[0].starts_with("POST /contoso/q/messages?messagettl=-1&visibilitytimeout=2&sv="), "{asked:?}");
}

#[tokio::test]
async fn each_refusal_of_an_account_has_its_remedy() {
    let body = |code: &str| format!(r#"{{"odata.error":{{"code":"{code}","message":{{"lang":"en-US","value":"sig=abc"}}}}}}"#);
    for (status, code, remedy) in [
        ("403 Forbidden", "KeyBasedAuthenticationNotPermitted", "AzureWebJobsStorage__accountName=contoso"),
        ("403 Forbidden", "AuthenticationFailed", "the account key is wrong or was replaced"),
        ("403 Forbidden", "AuthorizationPermissionMismatch", "Storage Table Data Contributor"),
        ("404 Not Found", "ResourceNotFound", "no such storage account"),
    ] {
        let (result, _) = committed(vec![answer(status, "", &body(code))]).await;
        let error = result.expect_err("refused").to_string();
        assert!(error.contains(remedy) && !error.contains("sig="), "{error}");
    }
    let slow = answer("403 Forbidden", "date: Tue, 24 Nov 2026 12:00:00 GMT\r\n", &body("AuthenticationFailed"));
    let error = committed(vec![slow]).await.0.expect_err("refused").to_string();
    assert!(error.contains("clock is 180 minutes slow"), "{error}");
}

/// Gives the same token each time, and counts.
#[derive(Debug)]
struct Fixed {
    at: Timestamp,
    asked: std::sync::atomic::AtomicU32,
}

#[async_trait::async_trait]
impl TokenCredential for Fixed {
    async fn get_token(&self, scopes: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        assert_eq!(scopes, ["https://storage.azure.com/.default"]);
        self.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let ends = OffsetDateTime::from_unix_timestamp(self.at.as_second() + 3_600).expect("a time");
        Ok(AccessToken::new(token(self.at), ends))
    }
}

fn over_https(azurite: &Azurite, age: SignedDuration) -> (Stores, Arc<Fixed>) {
    let root = reqwest::Certificate::from_pem(azurite.ca_pem().expect("a CA").as_bytes()).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_only([root]).build().expect("a client");
    let at = SystemClock::new().now() - age;
    let credential = Arc::new(Fixed { at, asked: 0.into() });
    let mut account = account(azurite);
    account.credential = Credential::Identity(indicator_relay::platform::identity::Resident::Developer);
    let token = Arc::clone(&credential) as Arc<dyn TokenCredential>;
    (azure::open_with(&account, &Names::default(), &client, &system_clock(), token).expect("an account"), credential)
}

#[tokio::test]
async fn with_an_identity_all_goes_over_https_with_a_token_that_is_kept() {
    let azurite = Azurite::start(AzuriteOptions { https: true, folder: None }).await.expect("Azurite");
    let (stores, credential) = over_https(&azurite, SignedDuration::ZERO);
    for i in 0..5 {
        let write = Write::PutIf { key: format!("k{i}"), value: vec![7; 100_000], version: None };
        assert_eq!(stores.state.commit("p", vec![write]).await.expect("committed").len(), 1);
    }
    assert_eq!(stores.state.scan("p", "k", "l", 10).await.expect("read").len(), 5);
    assert_eq!(credential.asked.load(std::sync::atomic::Ordering::SeqCst), 1, "the token is kept");
    stores.queue.put("export-runs", vec![b'x'; 100_000], Duration::ZERO).await.expect("put");
    let message = stores.queue.receive("export-runs", 1, Duration::from_secs(60)).await.expect("received").remove(0);
    assert_eq!(message.body.len(), 100_000);
    assert!(stores.queue.delete("export-runs", &message).await.expect("deleted"));

    let (expired, _) = over_https(&azurite, SignedDuration::from_hours(3));
    let said = refusals(&expired, "export-runs").await;
    assert_eq!(said.len(), 7, "{said:#?}");
    assert!(said.iter().all(|line| line.contains("the sign-in is not accepted")), "{said:#?}");
}

#[tokio::test]
async fn a_token_never_goes_over_plain_http() {
    let mut plain = account(shared().await);
    plain.credential = Credential::Identity(indicator_relay::platform::identity::Resident::Developer);
    let credential = Arc::new(Fixed { at: SystemClock::new().now(), asked: 0.into() });
    let refused = azure::open_with(&plain, &Names::default(), &client(), &system_clock(), credential);
    assert!(refused.is_err_and(|line| line.contains("HTTPS only")));
}

#[tokio::test]
async fn an_export_over_azure_sends_keeps_and_withdraws_as_over_any_store() {
    let mut rig = Rig::new().await;
    let stores = crate::azurite::stores().await;
    rig.store = Arc::clone(&stores.state);
    rig.set("THREATCONNECT_PAGE_SIZE", "100");
    let ids = rig.add_hosts(250);
    assert_sent(&rig.run().await, 250, 0, 0);
    rig.clock.advance(HOUR);
    for id in &ids[..5] {
        assert!(rig.emulator.world().delete(*id));
    }
    rig.score(ids[9], 900);
    assert_sent(&rig.full().await, 1, 244, 5);
    assert_eq!(rig.live_hosts().len(), 245);

    // By tick, queue and worker too.
    let app = rig.app();
    rig.clock.advance(HOUR);
    let (queue, q) = (stores.queue, indicator_relay::export::QUEUE);
    assert_eq!(app.exporter.tick(queue.as_ref(), || "tick".to_owned()).await.expect("a tick").len(), 1);
    let message = queue.receive(q, 1, Duration::from_secs(60)).await.expect("received").remove(0);
    let names = ("run", "worker");
    let handled = app.exporter.handle(queue.as_ref(), &message.body, names, None, &Progress::default()).await;
    assert!(matches!(handled.expect("handled"), Handled::Over(Some(report)) if report.complete));
    assert!(queue.delete(q, &message).await.expect("deleted"));
}
