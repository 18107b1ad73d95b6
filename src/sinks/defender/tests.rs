//! What is sent, kind by kind; and the calls that an answer leads to, over a small server that plays what a test tells it.

use std::collections::BTreeSet;
use std::sync::Mutex;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::There;
use super::super::guide::{Fill, GUIDE};
use super::super::tests::{Nobody, indicator};
use super::super::{Terms, tests};
use super::*;
use crate::indicator::{ActionToTake, Kind, NeverSend, ThreatRating};
use crate::platform::clock::SystemClock;

const MD5: &str = "a8e936f771d9f26bb3410172817c6d3c";
const SHA1: &str = "220e7d15b011d7fac48f2bd61114db1022197f7f";
const SHA256: &str = "2233223322332233223322332233223322332233223322332233223322332222";

fn config() -> Config {
    Config {
        url: Url::parse("https://api.security.microsoft.com").expect("a URL"),
        tenant: "8ecf8077-cf51-4820-aadd-14040956f35d".to_owned(),
        device_groups: Vec::new(),
        file_hashes: FileHashes::Longest,
        sharing: 0, // no limit: tests do not wait
    }
}

fn sink(config: Config) -> Defender {
    let lanes = config.lanes();
    Defender::new(config, reqwest::Client::default(), Arc::new(SystemClock::new()), Arc::new(Nobody), &lanes)
}

fn terms(action: ActionToTake) -> Terms {
    Terms { allow_private_addresses: true, ..tests::terms(action) }
}

fn stamp() -> Stamp {
    Stamp {
        modified: "2026-11-24T09:00:00.125Z".parse().expect("a time"),
        expires: "2026-12-01T09:00:00.125Z".parse().expect("a time"),
    }
}

fn observable(kind: Kind, value: &str) -> Observable {
    Observable::parse(kind, value).expect("a value")
}

fn sent(sink: &Defender, indicator: &Indicator, kind: Kind, value: &str) -> Result<Value, Skip> {
    let draft = sink.draft(indicator, &observable(kind, value), &terms(ActionToTake::Block))?;
    Ok(serde_json::from_slice(&sink.payload(&draft, stamp())).expect("JSON"))
}

fn accepted(id: &str) -> Answer {
    Answer::Accepted { remote_id: Some(id.to_owned()) }
}

#[test]
fn an_indicator_is_sent_with_all_its_context() {
    let sink = sink(Config { device_groups: vec!["A".to_owned(), "B".to_owned()], ..config() });
    assert_eq!(
        sent(&sink, &indicator(), Kind::Address, "203.0.113.10").expect("a payload"),
        json!({
            "indicatorValue": "203.0.113.10",
            "indicatorType": "IpAddress",
            "action": "Block",
            "generateAlert": true,
            "title": "Address: 203.0.113.10",
            "description": "ThreatConnect | Owner: Acme Org",
            "severity": "High",
            "recommendedActions": "Details: https://example.threatconnect.com/#/details/indicators/1001",
            "rbacGroupNames": ["A", "B"],
            "externalId": "1-1001",
            "application": "Indicator Relay",
            "expirationTime": "2026-12-01T09:00:00Z",
        })
    );
}

#[test]
fn what_is_absent_is_left_out() {
    let bare = Indicator { rating: None, web_link: None, ..indicator() };
    assert_eq!(
        sent(&sink(config()), &bare, Kind::Host, "Evil.Example.").expect("a payload"),
        json!({
            "indicatorValue": "evil.example",
            "indicatorType": "DomainName",
            "action": "Block",
            "generateAlert": true,
            "title": "Host: evil.example",
            "description": "ThreatConnect | Owner: Acme Org",
            "severity": "Informational",
            "externalId": "1-1001",
            "application": "Indicator Relay",
            "expirationTime": "2026-12-01T09:00:00Z",
        })
    );
}

#[test]
fn each_kind_has_its_type_and_value() {
    let sink = sink(config());
    for (kind, value, indicator_type, sent_value, id) in [
        (Kind::Address, "2001:DB8::25", "IpAddress", "2001:db8:0:0:0:0:0:25", "1-1001"),
        (Kind::Host, "bücher.example", "DomainName", "xn--bcher-kva.example", "1-1001"),
        (Kind::Url, "HTTP://Evil.Example/A?b=%20", "Url", "http://evil.example/A?b=%20", "1-1001"),
        (Kind::Md5, MD5, "FileMd5", MD5, "1-1001-md5"),
        (Kind::Sha1, SHA1, "FileSha1", SHA1, "1-1001-sha1"),
        (Kind::Sha256, SHA256, "FileSha256", SHA256, "1-1001-sha256"),
    ] {
        let payload = sent(&sink, &indicator(), kind, value).expect("a payload");
        assert_eq!(
            (&payload["indicatorType"], &payload["indicatorValue"], &payload["externalId"]),
            (&json!(indicator_type), &json!(sent_value), &json!(id))
        );
    }
}

#[test]
fn what_defender_does_not_take_is_declined_with_the_words_of_its_row() {
    let sink = sink(config());
    for (row, kind, value) in [
        (11, Kind::EmailAddress, "a@evil.example"),
        (12, Kind::EmailSubject, "Invoice"),
        (14, Kind::Cidr, "203.0.113.0/24"),
        (19, Kind::UserAgent, "curl/8"),
    ] {
        let skip = sent(&sink, &indicator(), kind, value).expect_err("declined");
        assert_eq!(Fill::Declined(skip.reason()), COLUMN.fields[row], "{}", GUIDE[row].field);
    }
    for value in ["10.0.0.1", "127.0.0.1", "fe80::1", "::ffff:192.168.0.1"] {
        let skip = sent(&sink, &indicator(), Kind::Address, value).expect_err("declined");
        assert!(skip.reason().contains("public addresses only"), "{value}");
    }
}

#[test]
fn only_the_longest_hash_that_is_sent_is_sent() {
    let file = |values: &[(Kind, &str)]| Indicator {
        values: values.iter().map(|(kind, value)| (*kind, (*value).to_owned())).collect(),
        ..indicator()
    };
    let longest = sink(config());
    let whole = file(&[(Kind::Md5, MD5), (Kind::Sha1, SHA1), (Kind::Sha256, SHA256)]);
    let declined = sent(&longest, &whole, Kind::Sha1, SHA1).expect_err("declined");
    assert!(declined.reason().contains("DEFENDER_FILE_HASHES=all"));
    assert!(sent(&longest, &whole, Kind::Md5, MD5).is_err() && sent(&longest, &whole, Kind::Sha256, SHA256).is_ok());
    let malformed = file(&[(Kind::Md5, MD5), (Kind::Sha256, "none")]);
    assert!(sent(&longest, &malformed, Kind::Md5, MD5).is_ok());
    let all = sink(Config { file_hashes: FileHashes::All, ..config() });
    assert!(sent(&all, &whole, Kind::Md5, MD5).is_ok());
    assert_eq!((longest.limits().per_indicator, all.limits().per_indicator), (1, 3));

    let draft = |terms: &Terms| longest.draft(&whole, &observable(Kind::Sha1, SHA1), terms);
    let deselected = Terms { kinds: vec![Kind::Md5, Kind::Sha1], ..terms(ActionToTake::Block) };
    assert!(draft(&deselected).is_ok());
    let never_send = NeverSend::parse(&[SHA256.to_owned()]).expect("a list");
    assert!(draft(&Terms { never_send, ..terms(ActionToTake::Block) }).is_ok());
}

#[test]
fn long_texts_are_cut_on_a_character() {
    let long = Indicator { owner: "ä".repeat(300), ..indicator() };
    let url = format!("http://evil.example/{}", "ü".repeat(300));
    let payload = sent(&sink(config()), &long, Kind::Url, &url).expect("a payload");
    let characters = |name: &str| payload[name].as_str().map_or(0, |text| text.chars().count());
    assert_eq!((characters("description"), characters("title")), (100, 200));
    assert_eq!(payload["indicatorValue"], json!(url));
}

#[test]
fn severities_follow_the_rounded_rating() {
    let severity = |rating: Option<f64>| {
        let rated = Indicator { rating: rating.and_then(ThreatRating::from_f64), ..indicator() };
        sent(&sink(config()), &rated, Kind::Host, "evil.example").expect("a payload")["severity"].clone()
    };
    let severities = [None, Some(0.4), Some(0.5), Some(2.0), Some(2.5), Some(3.0), Some(3.5), Some(5.0)].map(severity);
    assert_eq!(severities, ["Informational", "Informational", "Low", "Low", "Medium", "Medium", "High", "High"].map(Value::from));
}

#[test]
fn the_keys_that_are_written_are_the_ones_that_are_listed() {
    let sink = sink(Config { device_groups: vec!["A".to_owned()], ..config() });
    let mut written = BTreeSet::new();
    for (kind, value) in [
        (Kind::Address, "203.0.113.10"),
        (Kind::Host, "evil.example"),
        (Kind::Url, "http://evil.example/"),
        (Kind::Sha256, SHA256),
    ] {
        let draft = sink.draft(&indicator(), &observable(kind, value), &terms(ActionToTake::Block)).expect("a draft");
        let bytes = sink.payload(&draft, stamp());
        let object: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(object.to_string().len(), bytes.len(), "a key written twice would be read once");
        written.extend(object.as_object().expect("an object").keys().cloned());
    }
    let listed = COLUMN.fields.iter().filter_map(|fill| match fill {
        Fill::Property { path, .. } => Some((*path).to_owned()),
        Fill::Declined(_) => None,
    });
    let beyond = COLUMN.beyond.iter().flat_map(|(name, _)| name.split('`').skip(1).step_by(2).map(str::to_owned));
    assert_eq!(written, listed.chain(beyond).collect());
}

#[test]
fn another_action_is_another_indicator_and_so_are_other_groups() {
    let plain = sink(config());
    let host = observable(Kind::Host, "evil.example");
    let draft = |action| plain.draft(&indicator(), &host, &terms(action)).expect("a draft");
    let (alert, block) = (draft(ActionToTake::Alert), draft(ActionToTake::Block));
    assert_ne!(alert.identity, block.identity);
    let text = String::from_utf8(alert.content).expect("text");
    assert!(text.contains("\"action\":\"Audit\",\"generateAlert\":true"), "{text}");

    let grouped = |names: &[&str]| sink(Config { device_groups: names.iter().map(|n| (*n).to_owned()).collect(), ..config() });
    assert_eq!(plain.key(&host), host.key());
    assert_ne!(grouped(&["a"]).key(&host), plain.key(&host));
    assert_ne!(grouped(&["a"]).key(&host), grouped(&["a", "b"]).key(&host));
    assert_eq!(grouped(&["a", "b"]).key(&host), grouped(&["B", "a "]).key(&host));
    let entry = Entry {
        id: "7".to_owned(),
        value: "EVIL.example".to_owned(),
        indicator_type: "DomainName".to_owned(),
        action: "Block".to_owned(),
        groups: Some(vec!["b".to_owned(), "A".to_owned()]),
        application: mapping::APPLICATION.to_owned(),
    };
    let known = Found { id: "7".to_owned(), key: Some(grouped(&["a", "b"]).key(&host)), identity: block.identity, ours: true };
    assert_eq!(found(entry.clone()), known);
    assert!(matches!(found(Entry { groups: None, ..entry.clone() }), Found { key: None, ours: false, .. }));
    let certificate = Entry { indicator_type: "CertificateThumbprint".to_owned(), application: String::new(), ..entry };
    assert!(matches!(found(certificate), Found { key: None, ours: false, .. }));
}

proptest! {
    #[test]
    fn the_times_of_sending_do_not_change_the_hash(seconds in 0_i64..1_000_000) {
        let sink = sink(config());
        let host = observable(Kind::Host, "bad.example");
        let later = Indicator { last_modified: jiff::Timestamp::from_second(1_700_000_000 + seconds).expect("in range"), ..indicator() };
        let hash = |indicator: &Indicator| sink.draft(indicator, &host, &terms(ActionToTake::Block)).expect("a draft").hash;
        prop_assert_eq!(hash(&indicator()), hash(&later));
    }

    #[test]
    fn a_survey_knows_every_address_by_the_key_that_it_was_sent_under(bits in any::<u128>()) {
        let sent = observable(Kind::Address, &std::net::Ipv6Addr::from_bits(bits).to_string());
        let known = mapping::observable("IpAddress", &mapping::value(&sent));
        prop_assert_eq!(known.map(|known| known.key()), Some(sent.key()));
    }
}

/// A request that the fake got: method and target, body.
type Asked = (String, String);
/// What it answers: status and body.
type Told = (u16, Value);

/// A server on this machine that answers as `play` says, and a sink that writes to it.
async fn playing(config: Config, play: impl Fn(&str, &str) -> Told + Send + 'static) -> (Defender, Arc<Mutex<Vec<Asked>>>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}/prefix", listener.local_addr().expect("an address"));
    let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            let (line, body) = loop {
                let mut chunk = [0; 4096];
                let count = stream.read(&mut chunk).await.expect("bytes");
                read.extend_from_slice(&chunk[..count]);
                let text = String::from_utf8_lossy(&read).to_lowercase();
                let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
                if read.len() < head.len() + 4 + length.unwrap_or(0) {
                    continue;
                }
                let text = String::from_utf8_lossy(&read).into_owned();
                let line = text.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").replace("/prefix", "");
                break (line, text[head.len() + 4..].to_owned());
            };
            let (status, answer) = play(&line, &body);
            log.lock().expect("a log").push((line, body));
            let answer = if answer.is_null() { String::new() } else { answer.to_string() };
            let length = answer.len();
            let head =
                format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nx-ms-request-id: r-1\r\nconnection: close\r\n\r\n");
            stream.write_all(format!("{head}{answer}").as_bytes()).await.expect("written");
        }
    });
    let url = Url::parse(&url).expect("a URL");
    (sink(Config { url, ..config }), asked)
}

fn lines(asked: &Mutex<Vec<Asked>>) -> Vec<String> {
    asked.lock().expect("a log").iter().map(|(line, _)| line.clone()).collect()
}

/// Ids of the deletions that were asked for.
fn deletions(asked: &Mutex<Vec<Asked>>) -> Vec<Value> {
    let asked = asked.lock().expect("a log");
    let deletions = asked.iter().filter(|(line, _)| line.ends_with("/BatchDelete"));
    deletions.map(|(_, body)| serde_json::from_str::<Value>(body).expect("JSON")["IndicatorIds"].clone()).collect()
}

fn upload(kind: Kind, value: &str, there: There) -> Upload {
    let (observable, payload) = (observable(kind, value), json!({"indicatorValue": value}).to_string().into_bytes());
    Upload { observable, external_id: "1-1".to_owned(), payload, there }
}

fn withdrawal(value: &str, id: Option<&str>) -> Withdrawal {
    Withdrawal {
        observable: observable(Kind::Host, value),
        external_id: "1-1".to_owned(),
        there: There { id: id.map(str::to_owned), ..There::default() },
        created: stamp().modified,
        valid_from: stamp().modified,
        stamp: stamp(),
    }
}

fn replaced(id: &str) -> There {
    There { id: Some(id.to_owned()), replaced: true, unsure: Vec::new() }
}

fn listed(id: &str, value: &str, application: &str) -> Value {
    json!({"id": id, "indicatorValue": value, "indicatorType": "DomainName", "action": "Block", "application": application, "rbacGroupNames": []})
}

/// Accepts everything, with ids from 1 on in the order of the body.
fn accept_all(body: &str) -> Told {
    let body: Value = serde_json::from_str(body).expect("JSON");
    let line = |(i, item): (usize, &Value)| json!({"id": (i + 1).to_string(), "indicator": item["indicatorValue"], "isFailed": false, "failureReason": null});
    (200, json!({"value": body["Indicators"].as_array().expect("a list").iter().enumerate().map(line).rev().collect::<Vec<_>>()}))
}

fn not_found() -> Told {
    (404, json!({"error": {"code": "NotFound", "message": "no such indicator", "target": "t-1"}}))
}

#[tokio::test]
async fn values_that_an_answer_could_not_tell_apart_go_in_calls_of_their_own() {
    let (sink, asked) = playing(config(), |_, body| accept_all(body)).await;
    let items =
        ["http://a.example/X", "http://b.example", "http://a.example/x/"].map(|url| upload(Kind::Url, url, There::default()));
    let answers = sink.send(&items).await.expect("answers");
    assert_eq!(answers, [accepted("1"), accepted("2"), accepted("1")]);
    assert_eq!(lines(&asked), ["POST /api/indicators/import"; 2]);
    assert_eq!(sink.traffic().requests.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_later_call_that_fails_leaves_the_answers_of_the_earlier_ones() {
    let (sink, _) = playing(config(), |_, body| if body.contains("/x") { (403, Value::Null) } else { accept_all(body) }).await;
    let items = ["http://a.example/X", "http://a.example/x"].map(|url| upload(Kind::Url, url, There::default()));
    let answers = sink.send(&items).await.expect("answers");
    assert_eq!(answers[0], accepted("1"));
    assert!(matches!(&answers[1], Answer::Unanswered { reason } if reason.contains("Ti.ReadWrite.All")), "{answers:?}");
    let error = sink.send(&items[1..]).await.expect_err("nothing was answered");
    assert_eq!(error.kind, SendErrorKind::Systemic);
}

#[tokio::test]
async fn a_refused_call_names_its_reason_and_one_for_want_of_room_answers_all() {
    let text = "The maximum of 15,000 active indicators per tenant is reached.";
    let told = |code: &str, text: &str| (400, json!({"error": {"code": code, "message": text, "target": "t-1"}}));
    let (full, _) = playing(config(), move |_, _| told("BadRequest", text)).await;
    let items = ["a.example", "b.example"].map(|host| upload(Kind::Host, host, There::default()));
    assert!(full.send(&items).await.expect("answers").iter().all(|answer| matches!(answer, Answer::Full { .. })));

    let (refusing, _) = playing(config(), move |_, _| told("MaximumBatchSizeExceeded", "too many")).await;
    let error = refusing.send(&items).await.expect_err("refused");
    assert_eq!((error.kind, error.correlation.as_deref()), (SendErrorKind::Refused, Some("t-1")));
    assert_eq!(error.message, "Defender refused the request: MaximumBatchSizeExceeded: too many");
    let single = refusing.send(&items[..1]).await.expect("an answer");
    assert!(matches!(&single[0], Answer::Refused { correlation: Some(id), .. } if id == "t-1"), "{single:?}");
}

#[tokio::test]
async fn the_old_indicator_goes_once_the_new_one_is_there() {
    let refused = |body: &str| {
        let (status, mut answer) = accept_all(body);
        answer["value"][0] = json!({"id": null, "indicator": "c.example", "isFailed": true, "failureReason": "No."});
        (status, answer)
    };
    let (sink, asked) =
        playing(config(), move |line, body| if line.ends_with("/import") { refused(body) } else { (204, Value::Null) }).await;
    let items =
        [("a.example", "77"), ("b.example", "2"), ("c.example", "78")].map(|(host, id)| upload(Kind::Host, host, replaced(id)));
    let answers = sink.send(&items).await.expect("answers");
    assert_eq!(answers[..2], [accepted("1"), accepted("2")]);
    assert!(matches!(&answers[2], Answer::Refused { correlation: Some(id), .. } if id == "r-1"), "{answers:?}");
    assert_eq!(deletions(&asked), [json!(["77"])]); // not the one whose id was kept, nor the one that was refused
}

#[tokio::test]
async fn an_old_indicator_that_stays_leaves_its_item_unanswered() {
    let (sink, _) =
        playing(config(), |line, body| if line.ends_with("/import") { accept_all(body) } else { (403, Value::Null) }).await;
    let items = [upload(Kind::Host, "a.example", replaced("77")), upload(Kind::Host, "b.example", There::default())];
    let answers = sink.send(&items).await.expect("answers");
    assert!(matches!(&answers[0], Answer::Unanswered { reason } if reason.contains("is there still")), "{answers:?}");
    assert_eq!(answers[1], accepted("2"));
}

#[tokio::test]
async fn a_new_indicator_without_an_id_is_looked_up_before_the_old_one_goes() {
    let (sink, asked) = playing(config(), |line, body| match line {
        line if line.ends_with("/import") => {
            let (status, mut answer) = accept_all(body);
            answer["value"].as_array_mut().expect("a list").iter_mut().for_each(|line| line["id"] = Value::Null);
            (status, answer)
        }
        line if line.starts_with("GET") => {
            let own = [("9", "a.example"), ("77", "a.example"), ("100", "a.example"), ("78", "b.example")];
            let mut list: Vec<Value> = own.iter().map(|(id, value)| listed(id, value, mapping::APPLICATION)).collect();
            list.push(listed("200", "a.example", "Another"));
            (200, json!({ "value": list }))
        }
        _ => (204, Value::Null),
    })
    .await;
    let items = [("a.example", "77"), ("b.example", "78")].map(|(host, id)| upload(Kind::Host, host, replaced(id)));
    assert_eq!(sink.send(&items).await.expect("answers"), [accepted("100"), accepted("78")]);
    assert_eq!(deletions(&asked), [json!(["77"])]);
}

#[tokio::test]
async fn what_has_no_id_is_looked_up_by_value_and_only_our_own_is_taken_back() {
    let (sink, asked) = playing(config(), |line, _| match line {
        line if line.starts_with("GET") => {
            let another = json!({"id": 12, "indicatorValue": "a.example", "indicatorType": "DomainName", "application": "Indicator Relay", "rbacGroupNames": ["A"]});
            (200, json!({"value": [listed("10", "A.example", "Indicator Relay"), listed("11", "a.example", "Another"), another]}))
        }
        _ => (204, Value::Null),
    })
    .await;
    let items = [withdrawal("b.example", Some("5")), withdrawal("a.example", None), withdrawal("c.example", None)];
    let answers = sink.withdraw(&items).await.expect("answers");
    assert_eq!(answers, vec![Answer::Accepted { remote_id: None }; 3]);
    assert_eq!(deletions(&asked), [json!(["5", "10"])]);
    let filter = "indicatorValue%20eq%20%27a.example%27%20or%20indicatorValue%20eq%20%27c.example%27".to_owned();
    assert_eq!(lines(&asked)[0], format!("GET /api/indicators?$top=5000&$filter={filter}"));
}

#[tokio::test]
async fn a_deletion_whose_id_is_gone_is_made_without_it() {
    let (sink, asked) = playing(config(), |line, body| match line {
        line if line.starts_with("GET") => (200, json!({"value": [listed("1", "a.example", ""), listed("3", "c.example", "")]})),
        _ if body.contains("\"2\"") => not_found(),
        _ => (204, Value::Null),
    })
    .await;
    let items = [("a.example", "1"), ("b.example", "2"), ("c.example", "3")].map(|(host, id)| withdrawal(host, Some(id)));
    assert!(sink.withdraw(&items).await.is_ok());
    assert_eq!(deletions(&asked), [json!(["1", "2", "3"]), json!(["1", "3"])]);
}

#[tokio::test]
async fn where_the_list_is_not_shown_halves_find_the_id_that_is_gone() {
    let (sink, asked) = playing(config(), |line, body| match line {
        line if line.starts_with("GET") => (403, Value::Null),
        _ if body.contains("\"3\"") => not_found(),
        _ => (204, Value::Null),
    })
    .await;
    let ids = ["1", "2", "3", "4"].map(str::to_owned);
    assert!(sink.discard(&ids).await.is_ok());
    let asked = deletions(&asked);
    assert_eq!(asked, [json!(["1", "2", "3", "4"]), json!(["1", "2"]), json!(["3", "4"]), json!(["3"]), json!(["4"])]);
}

#[tokio::test]
async fn a_wrong_address_is_no_missing_id() {
    let (sink, _) = playing(config(), |_, _| not_found()).await;
    let error = sink.withdraw(&[withdrawal("a.example", Some("1"))]).await.expect_err("no API");
    assert_eq!(error.kind, SendErrorKind::Systemic);
    assert!(error.message.contains("DEFENDER_URL"), "{}", error.message);
}

#[tokio::test]
async fn a_list_goes_on_where_its_link_leads_unless_that_is_another_host() {
    let (sink, asked) = playing(config(), |line, _| match line.split_once("$skip=").map(|(_, skip)| skip) {
        None => (200, json!({"value": [listed("1", "a.example", "")], "@odata.nextLink": "https://elsewhere.example/api/indicators?$skip=1"})),
        Some("1") => (200, json!({"value": [listed("1", "a.example", ""), listed("2", "b.example", "")], "@odata.nextLink": "/prefix/api/indicators?$top=9&$skip=3"})),
        _ => (200, json!({"value": [listed("3", "c.example", "")]})),
    })
    .await;
    let found = sink.survey().await.expect("a list").expect("shown");
    assert_eq!(found.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
    let pages = ["?$top=5000", "?$top=5000&$skip=1", "?$top=9&$skip=3"].map(|query| format!("GET /api/indicators{query}"));
    assert_eq!(lines(&asked), pages);
}

#[tokio::test]
async fn a_list_that_is_not_shown_is_no_failure_and_one_that_cannot_be_read_is() {
    let (hidden, _) = playing(config(), |_, _| (403, Value::Null)).await;
    assert_eq!(hidden.survey().await.expect("no failure"), None);
    let (garbled, _) = playing(config(), |_, _| (200, json!("no list"))).await;
    assert_eq!(garbled.survey().await.expect_err("unreadable").kind, SendErrorKind::Transient);
}

#[tokio::test]
async fn each_status_names_what_to_change() {
    for (status, words) in
        [(401, "DEFENDER_SCOPE and CLOUD"), (403, "Ti.ReadWrite.All"), (404, "DEFENDER_URL"), (410, "DEFENDER_URL")]
    {
        let said = json!({"error": {"code": "C", "message": "two\nlines", "target": "t-1"}});
        let (sink, _) = playing(config(), move |_, _| (status, said.clone())).await;
        let error = sink.probe().await.expect_err("no access");
        assert!(error.message.contains(words) && error.message.ends_with("(C: two lines)"), "{}", error.message);
        assert_eq!((error.kind, error.correlation.as_deref()), (SendErrorKind::Systemic, Some("t-1")));
    }
}
