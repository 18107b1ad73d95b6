//! What is sent, kind by kind and for either product; what answers mean; and what is done in which order.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::plan::{Plan, plan};
use super::wire::{Asked, Line, entries, lines};
use super::*;
use crate::indicator::{ActionToTake, Confidence, KillChainPhase, Kind, NetworkUse, ThreatRating, Tlp};
use crate::platform::clock::SystemClock;
use crate::platform::http::Reply;
use crate::sinks::guide::{Fill, GUIDE};
use crate::sinks::tests::{self, Nobody, terms};
use crate::sinks::{SendErrorKind, There};

use TargetProduct::{Defender, Sentinel};

fn sink_at(url: &str, product: TargetProduct) -> GraphTi {
    let config = Config {
        url: Url::parse(url).expect("a URL"),
        tenant: "8ecf8077-cf51-4820-aadd-14040956f35d".to_owned(),
        client_id: "3d6f0d9a-7b1c-4f7e-9a53-0f3f4f2b8c11".to_owned(),
        product,
        sharing: 0,
    };
    let lanes = config.lanes();
    GraphTi::new(config, reqwest::Client::default(), Arc::new(SystemClock::new()), Arc::new(Nobody), &lanes)
}

fn sink(product: TargetProduct) -> GraphTi {
    sink_at("https://graph.microsoft.com", product)
}

fn indicator() -> Indicator {
    Indicator {
        false_positives: Some(2),
        last_seen: "2026-11-20T09:00:00+01:00".parse().ok(),
        phases: vec![KillChainPhase::Delivery, KillChainPhase::C2, KillChainPhase::Actions],
        ..tests::indicator()
    }
}

fn bare() -> Indicator {
    tests::bare(indicator())
}

fn stamp() -> Stamp {
    Stamp {
        modified: "2026-11-24T09:00:00.125Z".parse().expect("a time"),
        expires: "2026-12-01T09:00:00Z".parse().expect("a time"),
    }
}

fn observable(kind: Kind, value: &str) -> Observable {
    Observable::parse(kind, value).expect("a value")
}

fn sent(product: TargetProduct, indicator: &Indicator, kind: Kind, value: &str) -> Result<Value, Skip> {
    let sink = sink(product);
    let draft = sink.draft(indicator, &observable(kind, value), &terms(ActionToTake::Block))?;
    Ok(serde_json::from_slice(&sink.payload(&draft, stamp())).expect("JSON"))
}

const VALUES: [(Kind, &str); 11] = [
    (Kind::Address, "203.0.113.10"),
    (Kind::Address, "2001:db8::25"),
    (Kind::Cidr, "198.51.100.0/24"),
    (Kind::EmailAddress, "a@b.example"),
    (Kind::EmailSubject, "Ihre Rechnung"),
    (Kind::Md5, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    (Kind::Sha1, "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"),
    (Kind::Sha256, "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"),
    (Kind::Host, "bad.example"),
    (Kind::Url, "http://bad.example/A?b=C"),
    (Kind::UserAgent, "Evil \"UA\"/1.0"),
];

#[test]
fn the_rows_are_the_guides_word_for_word() {
    let properties: Vec<&str> = COLUMN
        .fields
        .iter()
        .filter_map(|fill| match fill {
            Fill::Property { path, .. } => Some(*path),
            Fill::Declined(_) => None,
        })
        .collect();
    assert_eq!(properties, GUIDE.map(|row| row.graph));
}

#[test]
fn an_indicator_is_sent_with_all_its_context() {
    let mut expected = json!({
        "targetProduct": "Azure Sentinel",
        "action": "block",
        "confidence": 85,
        "description": "ThreatConnect | Owner: Acme Org",
        "externalId": "1-1001",
        "killChain": ["Delivery", "C2", "Actions"],
        "knownFalsePositives": "2",
        "lastReportedDateTime": "2026-11-20T08:00:00Z",
        "severity": 4,
        "tags": ["APT29", "C2"],
        "tlpLevel": "amber",
        "threatType": "WatchList",
        "additionalInformation": "https://example.threatconnect.com/#/details/indicators/1001",
        "networkIPv4": "203.0.113.10",
        "networkPort": 443,
        "networkProtocol": 6,
        "expirationDateTime": "2026-12-01T09:00:00Z"
    });
    assert_eq!(sent(Sentinel, &indicator(), Kind::Address, "203.0.113.10").expect("a payload"), expected);
    expected["targetProduct"] = json!("Microsoft Defender ATP");
    expected["networkDestinationIPv4"] = json!("203.0.113.10");
    assert_eq!(sent(Defender, &indicator(), Kind::Address, "203.0.113.10").expect("a payload"), expected);
}

#[test]
fn each_kind_has_its_property_for_either_product() {
    let common = sent(Sentinel, &bare(), Kind::Host, "bad.example").expect("a payload");
    let common: BTreeSet<&String> = common.as_object().expect("an object").keys().filter(|key| *key != "domainName").collect();
    let own = |product, kind, value: &str| {
        sent(product, &bare(), kind, value).map(|object| {
            let own = object.as_object().expect("an object").iter().filter(|(key, _)| !common.contains(key));
            Value::Object(own.map(|(key, value)| (key.clone(), value.clone())).collect()).to_string()
        })
    };
    let both = |kind, value: &str| (own(Sentinel, kind, value), own(Defender, kind, value));
    let same = |text: &str| (Ok(text.to_owned()), Ok(text.to_owned()));
    let declined = |text: &str, reason| (Ok(text.to_owned()), Err(Skip::Declined(reason)));
    assert_eq!(
        both(Kind::Address, "2001:0db8::0025"),
        (
            Ok(r#"{"networkIPv6":"2001:db8::25"}"#.to_owned()),
            Ok(r#"{"networkDestinationIPv6":"2001:db8::25","networkIPv6":"2001:db8::25"}"#.to_owned())
        )
    );
    assert_eq!(
        both(Kind::Address, "10.1.2.3"),
        declined(r#"{"networkIPv4":"10.1.2.3"}"#, "Defender takes public addresses only")
    );
    assert_eq!(
        both(Kind::Cidr, "198.51.100.9/24"),
        declined(r#"{"networkCidrBlock":"198.51.100.0/24"}"#, "Defender takes no ranges")
    );
    assert_eq!(both(Kind::Host, "Bad.Example."), same(r#"{"domainName":"bad.example"}"#));
    assert_eq!(both(Kind::Url, "HTTP://a.example/It's"), same(r#"{"url":"http://a.example/It's"}"#));
    assert_eq!(both(Kind::UserAgent, "Evil"), declined(r#"{"userAgent":"Evil"}"#, "Defender takes no user agents"));
    let no_email = "Defender takes no e-mail indicators";
    assert_eq!(both(Kind::EmailAddress, "A@b.example"), declined(r#"{"emailSenderAddress":"a@b.example"}"#, no_email));
    assert_eq!(both(Kind::EmailSubject, "Hi"), declined(r#"{"emailSubject":"Hi"}"#, no_email));
    for (kind, digits, name) in [(Kind::Md5, 32, "md5"), (Kind::Sha1, 40, "sha1"), (Kind::Sha256, 64, "sha256")] {
        let hash = "A".repeat(digits);
        assert_eq!(
            both(kind, &hash),
            same(&format!(r#"{{"fileHashType":"{name}","fileHashValue":"{}"}}"#, hash.to_ascii_lowercase()))
        );
    }
}

#[test]
fn what_is_declined_is_said_in_its_row() {
    for (kind, value) in VALUES.into_iter().chain([(Kind::Address, "192.168.1.1"), (Kind::Address, "fd00::1")]) {
        let Err(skip) = sent(Defender, &indicator(), kind, value) else { continue };
        let property = super::mapping::holders(kind)[0];
        let row = GUIDE.iter().position(|row| row.graph == property).expect("a row");
        assert_eq!(COLUMN.fields[row], Fill::Property { path: property, note: skip.reason() });
    }
}

#[test]
fn the_keys_that_are_written_are_the_ones_that_are_listed() {
    let red = Indicator { tlp: Some(Tlp::Red), ..indicator() };
    let mut keys = BTreeSet::new();
    for product in TargetProduct::ALL {
        for (kind, value) in VALUES {
            let Ok(object) = sent(product, &red, kind, value) else { continue };
            keys.extend(object.as_object().expect("an object").keys().cloned());
        }
    }
    let guides = GUIDE.iter().map(|row| row.graph.to_owned());
    let beyond = COLUMN.beyond.iter().flat_map(|(name, _)| name.split('`').skip(1).step_by(2).map(str::to_owned));
    let listed: BTreeSet<String> = guides.chain(beyond).collect();
    assert_eq!(keys, listed);
    let compared: BTreeSet<String> =
        super::mapping::written().map(str::to_owned).chain(["expirationDateTime".to_owned()]).collect();
    assert_eq!(compared, listed);
}

#[test]
fn no_key_is_written_twice() {
    let sink = sink(Defender);
    let draft =
        sink.draft(&indicator(), &observable(Kind::Address, "203.0.113.10"), &terms(ActionToTake::Block)).expect("a draft");
    let bytes = sink.payload(&draft, stamp());
    // A key written twice would be read once.
    assert_eq!(serde_json::from_slice::<Value>(&bytes).expect("JSON").to_string().len(), bytes.len());
}

#[test]
fn what_is_absent_is_left_out() {
    let object = sent(Sentinel, &bare(), Kind::Host, "bad.example").expect("a payload");
    let keys: Vec<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        ["action", "description", "domainName", "expirationDateTime", "externalId", "targetProduct", "threatType", "tlpLevel"]
    );
    assert_eq!(object["tlpLevel"], "green", "Default TLP Level");
}

#[test]
fn a_description_is_cut_on_a_character() {
    let long = Indicator { owner: "ü".repeat(90), ..indicator() };
    let object = sent(Defender, &long, Kind::Host, "bad.example").expect("a payload");
    let text = object["description"].as_str().expect("text");
    assert_eq!(text, format!("ThreatConnect | Owner: {}", "ü".repeat(77)));
    assert_eq!(text.chars().count(), 100);
}

#[test]
fn red_is_passive_and_port_and_protocol_are_of_network_kinds() {
    let red = Indicator { tlp: Some(Tlp::Red), network: NetworkUse::read(&["UDP"]), ..indicator() };
    let object = sent(Sentinel, &red, Kind::Url, "http://a.example/").expect("a payload");
    assert_eq!(
        (&object["tlpLevel"], &object["passiveOnly"], &object["networkProtocol"]),
        (&json!("red"), &json!(true), &json!(17))
    );
    assert_eq!(object.get("networkPort"), None);
    let file = sent(Sentinel, &red, Kind::Md5, &"a".repeat(32)).expect("a payload");
    assert_eq!((file.get("networkProtocol"), &file["externalId"]), (None, &json!("1-1001-md5")));
}

/// Which of hash and identity differ after a change, at Sentinel and at Defender: `=` none, `h` the hash, `hi` both.
fn differs(change: impl Fn(&mut Indicator, &mut Terms)) -> [&'static str; 2] {
    TargetProduct::ALL.map(|product| {
        let (sink, host) = (sink(product), observable(Kind::Host, "bad.example"));
        let (mut indicator, mut terms) = (indicator(), terms(ActionToTake::Block));
        let before = sink.draft(&indicator, &host, &terms).expect("a draft");
        change(&mut indicator, &mut terms);
        let after = sink.draft(&indicator, &host, &terms).expect("a draft");
        match (before.hash == after.hash, before.identity == after.identity) {
            (true, true) => "=",
            (false, true) => "h",
            (false, false) => "hi",
            (true, false) => "an identity without a hash",
        }
    })
}

#[test]
fn what_no_update_changes_makes_another_object() {
    assert_eq!(differs(|indicator, _| indicator.last_modified = indicator.date_added), ["=", "="]);
    assert_eq!(differs(|_, terms| terms.expiration_days.network = 9), ["h", "h"]);
    assert_eq!(differs(|indicator, _| indicator.rating = ThreatRating::from_f64(1.0)), ["h", "h"]);
    assert_eq!(differs(|indicator, _| "Other".clone_into(&mut indicator.owner)), ["h", "h"]);
    assert_eq!(differs(|indicator, _| indicator.id = 2), ["h", "hi"], "the external id");
    assert_eq!(differs(|indicator, _| indicator.confidence = Confidence::new(1)), ["h", "hi"]);
    assert_eq!(differs(|indicator, _| indicator.tags = vec!["Other".to_owned()]), ["h", "hi"]);
    assert_eq!(differs(|indicator, _| indicator.tlp = Some(Tlp::White)), ["h", "hi"]);
    assert_eq!(differs(|_, terms| terms.action = ActionToTake::Alert), ["h", "hi"]);
    assert_eq!(differs(|indicator, _| indicator.network = NetworkUse::read(&["TCP/80"])), ["hi", "hi"]);
}

#[test]
fn what_goes_makes_another_object_because_no_update_clears_it() {
    assert_eq!(differs(|indicator, _| indicator.rating = None), ["hi", "hi"]);
    assert_eq!(differs(|indicator, _| indicator.tags.clear()), ["hi", "hi"]);
    assert_eq!(differs(|indicator, _| indicator.tlp = Some(Tlp::Red)), ["hi", "hi"], "passiveOnly comes");
    assert_eq!(differs(|indicator, _| indicator.web_link = None), ["hi", "hi"]);
}

fn payload(product: TargetProduct, indicator: &Indicator) -> Vec<u8> {
    let sink = sink(product);
    sink.payload(
        &sink.draft(indicator, &observable(Kind::Host, "bad.example"), &terms(ActionToTake::Block)).expect("a draft"),
        stamp(),
    )
}

#[test]
fn an_update_says_what_it_can_change_and_must_hold() {
    let keys = |id, product| {
        let body: Value = serde_json::from_slice(&wire::update(id, &payload(product, &indicator()), product)).expect("JSON");
        body.as_object().expect("an object").keys().cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        keys(Some("7"), Sentinel),
        "action additionalInformation confidence description expirationDateTime externalId id killChain knownFalsePositives \
         lastReportedDateTime severity tags targetProduct tlpLevel"
    );
    assert_eq!(keys(None, Defender), "description expirationDateTime severity targetProduct");
}

fn said(body: &Value, asked: &[Asked<'_>]) -> Vec<Line> {
    lines(&entries(body.to_string().as_bytes()).expect("entries"), asked)
}

fn asked(external_id: &'static str) -> Asked<'static> {
    Asked { external_id, id: None }
}

fn accepted(id: &str) -> Line {
    Line::Accepted(id.to_owned())
}

const NO_OBJECT: &str = "Unable to create the indicator, see the Error element";

#[test]
fn entries_belong_to_their_items_whatever_their_order() {
    let body = json!({"@odata.context": "…#Collection(tiIndicator)", "value": [
        {"id": "C0FFEE", "externalId": "1-3"},
        {"id": NO_OBJECT, "externalId": "1-2",
         "Error": r#"{"error":{"code":"InvalidInput","message":"Missing\nindicators value","target":"0a-1b"}}"#},
        {"id": "77", "externalId": "1-1"},
        {"id": "88", "externalId": "1-9"},
    ]});
    let refused = Line::Refused {
        reason: "Missing indicators value (InvalidInput)".to_owned(),
        correlation: Some("0a-1b".to_owned()),
        not_there: false,
    };
    let lines = said(&body, &["1-1", "1-2", "1-3", "1-4"].map(asked));
    assert_eq!(lines, [accepted("77"), refused, accepted("C0FFEE"), Line::Open("Microsoft Graph's answer does not name it")]);
}

#[test]
fn an_error_is_one_in_every_spelling_and_a_sentence_is_no_id() {
    let one = |entry: Value| said(&json!({"value": [entry]}), &[asked("a")]).remove(0);
    let refused = |reason: &str| Line::Refused { reason: reason.to_owned(), correlation: None, not_there: false };
    assert_eq!(one(json!({"id": "1", "externalId": "a", "Error": "not JSON"})), refused("not JSON"));
    assert_eq!(one(json!({"id": "1", "externalId": "a", "Error": {"code": 5}})), refused("5"));
    assert_eq!(one(json!({"id": "1", "externalId": "a", "Error": "{}"})), refused("refused without a message"));
    assert_eq!(one(json!({"id": "1", "externalId": "a", "Error": null})), accepted("1"));
    let no_id = Line::Open("Microsoft Graph's answer holds no id for it");
    assert_eq!(one(json!({"id": NO_OBJECT, "externalId": "a"})), no_id);
    assert_eq!(one(json!({"id": "", "externalId": "a"})), no_id);
    assert_eq!(one(json!({"externalId": "a"})), no_id);
    assert_eq!(one(json!({"id": "1"})), accepted("1"), "the one entry is the one item's");
    assert_eq!(one(json!({"id": "1", "externalId": "b"})), Line::Open("Microsoft Graph's answer does not name it"));
}

#[test]
fn two_entries_for_one_item_are_none() {
    let body = json!({"value": [{"id": "1", "externalId": "a"}, {"id": "2", "externalId": "a"}]});
    assert_eq!(said(&body, &[asked("a")]), [Line::Open("Microsoft Graph's answer names it twice")]);
}

#[test]
fn an_updated_object_is_known_by_its_id() {
    let asked = [Asked { external_id: "a", id: Some("1") }, Asked { external_id: "b", id: Some("2") }];
    let gone = r#"{"error":{"code":"ResourceNotFound"}}"#;
    let lines =
        said(&json!({"value": [{"id": "sentence of many words", "externalId": "b", "Error": gone}, {"id": "1"}]}), &asked);
    assert_eq!(lines[0], accepted("1"));
    assert!(matches!(lines[1], Line::Refused { not_there: true, .. }));
}

#[test]
fn an_answer_without_entries_is_none() {
    for body in ["", "<html>", "{}", r#"{"value":null}"#, r#"{"value":[]}"#, "[]"] {
        assert_eq!(entries(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn deletions_are_read_in_every_spelling() {
    let all = |results: Value, count| wire::all_deleted(json!({ "value": results }).to_string().as_bytes(), count);
    assert!(all(json!([{"code": 0, "message": "", "subCode": "string"}, {"code": "204", "message": "1-1"}]), 2));
    assert!(all(json!([{"code": 200, "subcode": 0}, {"code": "0", "subCode": "204"}]), 2));
    assert!(!all(json!([{"code": 0}]), 2), "fewer");
    assert!(!all(json!([{"code": 0}, {"code": 404, "message": "not found"}]), 2));
    assert!(!all(json!([{"code": 0, "subcode": 400}]), 1));
    assert!(!all(json!([{"message": "done"}]), 1));
    assert!(!all(json!([]), 0));
}

fn entity(id: &str, payload: &[u8], change: impl Fn(&mut Value)) -> wire::Entity {
    let mut entry: Value = serde_json::from_slice(payload).expect("JSON");
    entry["id"] = json!(id);
    change(&mut entry);
    let (mut found, _) = wire::page(json!({ "value": [entry] }).to_string().as_bytes()).expect("a page");
    found.remove(0)
}

#[test]
fn an_object_is_ours_by_observable_and_product() {
    let payload = payload(Sentinel, &indicator());
    let same =
        |change: &dyn Fn(&mut Value)| entity("1", &payload, change).stands_for(&observable(Kind::Host, "bad.example"), Sentinel);
    assert!(same(&|_| {}));
    assert!(same(&|entry| entry["domainName"] = json!("BAD.example")));
    assert!(!same(&|entry| entry["domainName"] = json!("other.example")));
    assert!(!same(&|entry| entry["targetProduct"] = json!("Microsoft Defender ATP")));
}

#[test]
fn an_update_makes_right_what_differs_in_nothing_else() {
    let can = |product, change: &dyn Fn(&mut Value)| {
        let payload = payload(product, &indicator());
        entity("1", &payload, change).can_become(&payload, product)
    };
    let echoed = |entry: &mut Value| {
        entry["tlpLevel"] = json!("Amber");
        entry["passiveOnly"] = json!(false);
        entry["userAgent"] = Value::Null;
        entry["azureTenantId"] = json!("t");
        entry["lastReportedDateTime"] = json!("2026-11-20T08:00:00.0000000+00:00");
    };
    for product in TargetProduct::ALL {
        assert!(can(product, &echoed));
        assert!(can(product, &|entry| entry["severity"] = json!(1)));
        assert!(!can(product, &|entry| entry["networkPort"] = json!(80)));
        assert!(!can(product, &|entry| entry["severity"] = Value::Null));
        assert!(!can(product, &|entry| entry["passiveOnly"] = json!(true)));
    }
    let unrated = payload(Sentinel, &Indicator { rating: None, ..indicator() });
    let rated = |severity: u8| entity("1", &unrated, |entry| entry["severity"] = json!(severity)).can_become(&unrated, Sentinel);
    assert!(rated(3) && !rated(4), "the service rates by itself what nobody rated");
    let other_tags = |entry: &mut Value| entry["tags"] = json!(["x"]);
    assert!(can(Sentinel, &other_tags) && !can(Defender, &other_tags));
}

#[test]
fn one_object_is_kept_and_the_others_go() {
    let payload = payload(Sentinel, &indicator());
    let found = |ids: &[&str]| ids.iter().map(|id| entity(id, &payload, |_| {})).collect::<Vec<_>>();
    let there = |id: Option<&str>, replaced| There { id: id.map(str::to_owned), replaced, unsure: vec!["1-1001".to_owned()] };
    let planned =
        |there: &There, ids: &[&str], fits: &[&str]| plan(there, &found(ids), |entity| fits.contains(&entity.id.as_str()));
    let expected = |keep: Option<&str>, extra: &[&str]| Plan {
        keep: keep.map(str::to_owned),
        extra: extra.iter().map(|id| (*id).to_owned()).collect(),
    };
    assert_eq!(planned(&There::default(), &[], &[]), expected(None, &[]));
    assert_eq!(planned(&there(Some("1"), false), &["2", "1"], &["1", "2"]), expected(Some("1"), &["2"]));
    assert_eq!(planned(&there(Some("1"), true), &["1", "2"], &["1", "2"]), expected(Some("2"), &["1"]));
    assert_eq!(planned(&there(Some("1"), true), &["2"], &[]), expected(None, &["1", "2"]));
    assert_eq!(planned(&there(None, false), &["2", "3", "3"], &["3"]), expected(Some("3"), &["2"]));
    assert_eq!(plan::all(&there(Some("1"), false), &found(&["2", "1"])), ["1", "2"]);
}

#[test]
fn a_lookup_quotes_ids_and_pages_stay_on_the_host() {
    assert_eq!(
        wire::lookup_path(&["1-1", "it's"]),
        "/beta/security/tiIndicators?$top=100&$filter=externalId%20eq%20%271-1%27%20or%20externalId%20eq%20%27it%27%27s%27"
    );
    let next = |base: &str, link: &str| wire::next_path(&Url::parse(base).expect("a URL"), link);
    assert_eq!(
        next("https://graph.microsoft.com", "https://graph.microsoft.com/beta/x?$skiptoken=a%20b").as_deref(),
        Some("/beta/x?$skiptoken=a%20b")
    );
    assert_eq!(next("http://127.0.0.1:8/graph/", "http://127.0.0.1:8/graph/beta/x").as_deref(), Some("/beta/x"));
    for link in ["https://evil.example/beta/x", "http://graph.microsoft.com/beta/x", "https://graph.microsoft.com:8/x", "/beta/x"]
    {
        assert_eq!(next("https://graph.microsoft.com", link), None, "{link}");
    }
    assert_eq!(next("https://graph.microsoft.com/a", "https://graph.microsoft.com/ab/x"), None);
}

#[test]
fn a_refused_call_names_what_to_change_in_one_line() {
    let told = |status, body: &str| {
        let reply = Reply { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec().into() };
        let error = trouble::refused("submit indicators", &reply);
        assert!(!error.message.contains('\n'), "{error}");
        (error.kind, error.message)
    };
    let gone = "failed to submit indicators through Microsoft Graph: its tiIndicator API is gone or closed for this tenant; use DELIVERY=product";
    assert_eq!(told(404, ""), (SendErrorKind::Systemic, gone.to_owned()));
    let body = r#"{"error":{"code":"ApiDeprecated","message":"a\nb"}}"#;
    assert_eq!(told(400, body), (SendErrorKind::Systemic, format!("{gone} (a b)")));
    let (kind, message) = told(403, "");
    assert!(
        kind == SendErrorKind::Systemic
            && message.contains("ThreatIndicators.ReadWrite.OwnedBy")
            && message.contains("DELIVERY=product")
    );
    let (kind, message) = told(401, "");
    assert!(kind == SendErrorKind::Systemic && message.contains("GRAPH_SCOPE") && message.contains("CLOUD"));
    assert_eq!(told(400, "{}").0, SendErrorKind::Refused);
    assert_eq!(told(400, r#"{"error":{"code":"UnknownError","message":""}}"#).0, SendErrorKind::TooMuch);
}

/// Status and body for a request line, without the collection's path, and a body.
type Answering = fn(&str, &str) -> (u16, String);

/// A service on this machine, and what it was asked.
async fn scripted(answering: Answering) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
                let (head, body) = loop {
                    let n = stream.read(&mut chunk).await.unwrap_or(0);
                    bytes.extend_from_slice(&chunk[..n]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    if n == 0 {
                        return;
                    }
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.to_ascii_lowercase().split_once("content-length: ").map_or(0, |(_, rest)| {
                        rest.split_whitespace().next().and_then(|length| length.parse().ok()).unwrap_or(0)
                    });
                    if body.len() >= length {
                        break (head.to_owned(), body.to_owned());
                    }
                };
                let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1");
                let line = line.replace("/beta/security/tiIndicators", "");
                let (status, answer) = answering(&line, &body);
                log.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{line} {body}").trim().to_owned());
                let answer = format!(
                    "HTTP/1.1 {status} x\r\nconnection: close\r\nrequest-id: r-1\r\ncontent-length: {}\r\n\r\n{answer}",
                    answer.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (url, asked)
}

/// The items' payloads say no more than what the calls read.
fn upload(product: TargetProduct, host: &str, id: Option<&str>, replaced: bool, unsure: &[&str]) -> Upload {
    let external_id = format!("x-{host}");
    let payload = json!({
        "targetProduct": mapping::target(product),
        "externalId": external_id,
        "domainName": format!("{host}.example"),
        "expirationDateTime": "2026-12-01T09:00:00Z"
    });
    Upload {
        observable: observable(Kind::Host, &format!("{host}.example")),
        external_id,
        payload: payload.to_string().into_bytes(),
        there: There { id: id.map(str::to_owned), replaced, unsure: unsure.iter().map(|name| (*name).to_owned()).collect() },
    }
}

fn lines_of(asked: &Mutex<Vec<String>>) -> Vec<String> {
    let cut = |line: &String| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    asked.lock().unwrap_or_else(PoisonError::into_inner).iter().map(cut).collect()
}

fn ids_of(answers: &[Answer]) -> Vec<&str> {
    answers
        .iter()
        .map(|answer| match answer {
            Answer::Accepted { remote_id } => remote_id.as_deref().unwrap_or("-"),
            Answer::Refused { .. } => "refused",
            Answer::Unanswered { .. } => "unanswered",
            Answer::Full { .. } => "full",
        })
        .collect()
}

/// Creates with the id `new-{external id}`, updates and deletes whatever it is asked to but for the id `lost`.
fn obliging(line: &str, body: &str) -> (u16, String) {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let each = |entry: &dyn Fn(&Value) -> Value| {
        let entries = body["value"].as_array().map(|items| items.iter().map(entry).collect::<Vec<_>>());
        (206, json!({ "value": entries }).to_string())
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match line {
        "POST /submitTiIndicators" => {
            each(&|item| json!({"id": format!("new-{}", text(&item["externalId"])), "externalId": item["externalId"]}))
        }
        "POST /updateTiIndicators" => each(&|item| match text(&item["id"]).as_str() {
            "lost" => json!({"id": "no such indicator", "externalId": item["externalId"], "Error": "{\"code\":\"NotFound\"}"}),
            id => json!({"id": id, "externalId": item["externalId"]}),
        }),
        "POST /deleteTiIndicators" => each(&|id| json!({"code": if *id == "lost" { 404 } else { 0 }})),
        line if line.ends_with("/lost") => (404, String::new()),
        line if line.starts_with("PATCH") || line.starts_with("DELETE") => (204, String::new()),
        _ => (200, json!({"value": []}).to_string()),
    }
}

#[tokio::test]
async fn items_are_updated_created_and_replaced_in_that_order() {
    for product in TargetProduct::ALL {
        let (url, asked) = scripted(obliging).await;
        let items = [
            upload(product, "fresh", None, false, &[]),
            upload(product, "kept", Some("1"), false, &[]),
            upload(product, "missed", Some("lost"), false, &[]),
            upload(product, "other", Some("2"), true, &[]),
        ];
        let answers = sink_at(&url, product).send(&items).await.expect("answers");
        assert_eq!(ids_of(&answers), ["new-x-fresh", "1", "new-x-missed", "new-x-other"]);
        let mut lines = lines_of(&asked);
        if product == Sentinel {
            assert_eq!(lines, ["POST /updateTiIndicators", "POST /submitTiIndicators", "POST /deleteTiIndicators"]);
        } else {
            lines[..2].sort();
            assert_eq!(lines, ["PATCH /1", "PATCH /lost", "POST /submitTiIndicators", "DELETE /2"]);
        }
    }
}

#[tokio::test]
async fn who_is_refused_in_a_bulk_update_is_asked_for_and_made_again_where_it_is_gone() {
    let (url, asked) = scripted(|line, body| match line {
        "POST /updateTiIndicators" => {
            let body: Value = serde_json::from_str(body).unwrap_or_default();
            let refused = |item: &Value| json!({"id": "no id", "externalId": item["externalId"], "Error": "no"});
            let entries = body["value"].as_array().map(|items| items.iter().map(refused).collect::<Vec<_>>());
            (206, json!({ "value": entries }).to_string())
        }
        "GET /1" => (200, json!({"id": "1"}).to_string()),
        _ => obliging(line, body),
    })
    .await;
    let items = [upload(Sentinel, "there", Some("1"), false, &[]), upload(Sentinel, "gone", Some("lost"), false, &[])];
    let answers = sink_at(&url, Sentinel).send(&items).await.expect("answers");
    assert_eq!(ids_of(&answers), ["refused", "new-x-gone"]);
    let mut lines = lines_of(&asked);
    lines[1..3].sort();
    assert_eq!(lines, ["POST /updateTiIndicators", "GET /1", "GET /lost", "POST /submitTiIndicators"]);
}

#[tokio::test]
async fn a_list_in_answer_to_a_single_call_says_that_the_api_is_gone() {
    let (url, _) = scripted(|_, _| (200, json!({"value": []}).to_string())).await;
    let sink = sink_at(&url, Defender);
    assert!(sink.is_empty().await.expect("an answer"));
    let error = sink.send(&[upload(Defender, "a", Some("1"), false, &[])]).await.expect_err("gone");
    assert!(error.kind == SendErrorKind::Systemic && error.message.contains("DELIVERY=product"), "{error}");
}

#[tokio::test]
async fn a_tenant_that_is_full_is_no_matter_of_the_item() {
    const FULL: &str = "The maximum of 15,000 active indicators per tenant is reached.";
    for (product, said) in [(Defender, "full"), (Sentinel, "refused")] {
        let (url, _) = scripted(|_, _| {
            let error = json!({"error": {"code": "InvalidInput", "message": FULL}}).to_string();
            (206, json!({"value": [{"id": "no id", "externalId": "x-a", "Error": error}]}).to_string())
        })
        .await;
        let answers = sink_at(&url, product).send(&[upload(product, "a", None, false, &[])]).await.expect("answers");
        assert_eq!(ids_of(&answers), [said]);
    }
    for other in ["Missing indicators value", "description exceeds the maximum length", "1.2.3.4 is not a valid IP address"] {
        assert!(!crate::sinks::says_full(other), "{other}");
    }
}

#[tokio::test]
async fn items_with_the_same_external_id_go_one_after_the_other() {
    let (url, asked) = scripted(obliging).await;
    let twin = Upload { observable: observable(Kind::Host, "twin.example"), ..upload(Sentinel, "a", None, false, &[]) };
    let answers = sink_at(&url, Sentinel).send(&[upload(Sentinel, "a", None, false, &[]), twin]).await.expect("answers");
    assert_eq!(ids_of(&answers), ["new-x-a", "new-x-a"]);
    assert_eq!(lines_of(&asked), ["POST /submitTiIndicators", "POST /submitTiIndicators"]);
}

#[tokio::test]
async fn what_may_be_there_is_looked_up_and_one_object_stays() {
    let (url, asked) = scripted(|line, body| {
        if !line.starts_with("GET") {
            return obliging(line, body);
        }
        let entry = |id, host: &str| {
            json!({"id": id, "externalId": "x-a", "domainName": format!("{host}.example"), "targetProduct": "Azure Sentinel"})
        };
        (200, json!({"value": [entry("7", "a"), entry("8", "a"), entry("9", "another")]}).to_string())
    })
    .await;
    let sink = sink_at(&url, Sentinel);
    let answers = sink.send(&[upload(Sentinel, "a", None, false, &["x-a"])]).await.expect("answers");
    assert_eq!(ids_of(&answers), ["7"]);
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(asked[0], "GET ?$top=100&$filter=externalId%20eq%20%27x-a%27");
    assert!(asked[1].starts_with("POST /updateTiIndicators") && asked[1].contains(r#""id":"7""#), "{asked:?}");
    assert_eq!(asked[2..], [r#"POST /deleteTiIndicators {"value":["8"]}"#]);
}

#[tokio::test]
async fn an_object_that_stays_beside_its_successor_leaves_the_item_unanswered() {
    let (url, _) = scripted(|line, body| match line {
        "DELETE /2" | "POST /deleteTiIndicators" => (400, json!({"error": {"code": "x", "message": "no"}}).to_string()),
        _ => obliging(line, body),
    })
    .await;
    let answers = sink_at(&url, Sentinel).send(&[upload(Sentinel, "a", Some("2"), true, &[])]).await.expect("answers");
    let [Answer::Unanswered { reason }] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(reason, "sent, but another object of it stays: no");
}

#[tokio::test]
async fn an_api_that_is_gone_is_said_so_whatever_it_answers() {
    let gone: [Answering; 5] = [
        |_, _| (404, String::new()),
        |_, _| (410, String::new()),
        |_, _| (200, String::new()),
        |_, _| (404, json!({"error": {"code": "UnknownError", "message": ""}}).to_string()),
        |_, _| {
            (
                400,
                json!({"error": {"code": "BadRequest", "message": "Resource not found for the segment 'tiIndicators'."}})
                    .to_string(),
            )
        },
    ];
    for answering in gone {
        for product in TargetProduct::ALL {
            let (url, _) = scripted(answering).await;
            let sink = sink_at(&url, product);
            let there = There { id: Some("1".to_owned()), ..There::default() };
            let withdrawal = Withdrawal {
                observable: observable(Kind::Host, "a.example"),
                external_id: "x".to_owned(),
                there,
                created: stamp().modified,
                valid_from: stamp().modified,
                stamp: stamp(),
            };
            let mut errors = vec![
                sink.probe().await.expect_err("gone"),
                sink.send(&[upload(product, "a", None, false, &[])]).await.expect_err("gone"),
            ];
            // A single update or deletion without a body is a success and says no more.
            if !matches!(answering("", ""), (200, _)) {
                errors.push(sink.send(&[upload(product, "a", Some("1"), false, &[])]).await.expect_err("gone"));
                errors.push(sink.withdraw(&[withdrawal]).await.expect_err("gone"));
            }
            for error in errors {
                assert_eq!(error.kind, SendErrorKind::Systemic, "{error}");
                assert!(error.message.contains("gone or closed") && error.message.contains("DELIVERY=product"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_batch_that_is_refused_or_choked_on_is_halved_by_the_caller() {
    let (url, _) = scripted(|line, body| match line {
        "POST /submitTiIndicators" => (400, "{}".to_owned()),
        _ => obliging(line, body),
    })
    .await;
    let error = sink_at(&url, Sentinel).send(&[upload(Sentinel, "a", None, false, &[])]).await.expect_err("refused");
    assert_eq!(error.kind, SendErrorKind::Refused);
    let (url, asked) = scripted(|_, _| (500, json!({"error": {"code": "UnknownError"}}).to_string())).await;
    let error = sink_at(&url, Sentinel).send(&[upload(Sentinel, "a", None, false, &[])]).await.expect_err("choked");
    assert_eq!((error.kind, lines_of(&asked).len()), (SendErrorKind::TooMuch, 1), "not sent again blindly");
}

#[tokio::test]
async fn what_is_not_there_is_withdrawn() {
    for product in TargetProduct::ALL {
        let (url, _) = scripted(obliging).await;
        let withdrawal = |id: Option<&str>, unsure: &[&str]| {
            let item = upload(product, "a", id, false, unsure);
            Withdrawal {
                observable: item.observable,
                external_id: item.external_id,
                there: item.there,
                created: stamp().modified,
                valid_from: stamp().modified,
                stamp: stamp(),
            }
        };
        let items = [withdrawal(Some("1"), &[]), withdrawal(Some("lost"), &[]), withdrawal(None, &["x-a"])];
        let answers = sink_at(&url, product).withdraw(&items).await.expect("answers");
        assert!(answers.iter().all(|answer| matches!(answer, Answer::Accepted { .. })), "{answers:?}");
    }
}

proptest! {
    #[test]
    fn a_payload_is_what_was_drafted_whatever_the_text(owner in ".{0,120}", subject in "[^\u{0}]{1,40}") {
        prop_assume!(!subject.trim().is_empty());
        let owned = Indicator { owner: owner.clone(), ..indicator() };
        let object = sent(Sentinel, &owned, Kind::EmailSubject, &subject).expect("a payload");
        prop_assert_eq!(object["emailSubject"].as_str(), Some(subject.as_str()));
        let whole = format!("ThreatConnect | Owner: {owner}");
        let kept = object["description"].as_str().expect("text");
        prop_assert!(whole.starts_with(kept) && kept.chars().count() == whole.chars().count().min(100));
    }

    #[test]
    fn no_answer_makes_it_stumble(body in "[\\[\\]{}\":,a-z0-9 ]{0,60}", code in any::<i64>()) {
        let _ = (entries(body.as_bytes()), wire::page(body.as_bytes()), wire::all_deleted(body.as_bytes(), 1));
        let line = said(&json!({"value": [{"externalId": "a", "id": code, "Error": body}, code, body]}), &[asked("a")]);
        prop_assert_eq!(line.len(), 1);
    }
}
