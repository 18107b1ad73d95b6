//! What is sent, kind by kind.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::guide::Fill;
use super::super::tests::{Nobody, bare, indicator, terms};
use super::*;
use crate::indicator::{ActionToTake, Kind, NetworkUse};
use crate::platform::clock::SystemClock;

fn sink(user_agents: bool, severity_extension: bool) -> Sentinel {
    let config = Config {
        url: Url::parse("https://api.ti.sentinel.azure.com").expect("a URL"),
        workspace_id: "8ecf8077-cf51-4820-aadd-14040956f35d".to_owned(),
        source_system: "Indicator Relay".to_owned(),
        user_agents,
        severity_extension,
        sharing: 1,
    };
    let lanes = config.lanes();
    Sentinel::new(config, reqwest::Client::default(), Arc::new(SystemClock::new()), Arc::new(Nobody), &lanes)
}

fn stamp() -> Stamp {
    Stamp {
        modified: "2026-11-24T09:00:00.125Z".parse().expect("a time"),
        expires: "2026-12-01T09:00:00Z".parse().expect("a time"),
    }
}

fn sent(sink: &Sentinel, indicator: &Indicator, kind: Kind, value: &str) -> Result<Value, Skip> {
    let observable = Observable::parse(kind, value).expect("a value");
    let draft = sink.draft(indicator, &observable, &terms(ActionToTake::Block))?;
    Ok(serde_json::from_slice(&sink.payload(&draft, stamp())).expect("JSON"))
}

#[test]
fn an_indicator_is_sent_with_all_its_context() {
    let object = sent(&sink(false, false), &indicator(), Kind::Address, "203.0.113.10").expect("a payload");
    assert_eq!(
        object,
        json!({
            "type": "indicator",
            "spec_version": "2.1",
            "id": object["id"],
            "created": "2023-11-10T07:15:00.000Z",
            "modified": "2026-11-24T09:00:00.125Z",
            "name": "203.0.113.10",
            "description": "ThreatConnect | Owner: Acme Org",
            "indicator_types": ["watchlist"],
            "pattern": "[ipv4-addr:value = '203.0.113.10']",
            "pattern_type": "stix",
            "pattern_version": "2.1",
            "valid_from": "2023-11-10T07:15:00.000Z",
            "valid_until": "2026-12-01T09:00:00.000Z",
            "confidence": 85,
            "kill_chain_phases": [
                {"kill_chain_name": "lockheed-martin-cyber-kill-chain", "phase_name": "delivery"},
                {"kill_chain_name": "lockheed-martin-cyber-kill-chain", "phase_name": "actions-on-objectives"}
            ],
            "labels": ["APT29", "C2"],
            "object_marking_refs": ["marking-definition--f88d31f6-486f-44da-b317-01333bde0b82"],
            "external_references": [{
                "source_name": "ThreatConnect",
                "description": "ThreatAssess 721; Threat Rating 3.5; False positives 0; Last seen 2026-11-20T08:00:00Z; Action Block; Port 443/TCP",
                "url": "https://example.threatconnect.com/#/details/indicators/1001",
                "external_id": "1-1001"
            }]
        })
    );
}

#[test]
fn what_is_absent_is_left_out() {
    let bare = bare(indicator());
    let object = sent(&sink(false, true), &bare, Kind::Host, "Bad.Example.").expect("a payload");
    let keys: BTreeSet<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    assert!(
        !keys.contains("confidence")
            && !keys.contains("labels")
            && !keys.contains("kill_chain_phases")
            && !keys.contains("extensions")
    );
    assert_eq!(object["object_marking_refs"][0], "marking-definition--34098fce-860f-48ae-8e50-ebd3cc5e41da", "Default TLP Level");
    assert_eq!(object["external_references"][0]["description"], "Action Block");
}

#[test]
fn a_link_that_is_no_url_and_a_protocol_without_a_port_keep_the_object_valid() {
    let odd = Indicator { web_link: Some("not a link".to_owned()), network: NetworkUse::read(&["UDP"]), ..indicator() };
    let object = sent(&sink(false, false), &odd, Kind::Host, "bad.example").expect("a payload");
    let reference = &object["external_references"][0];
    assert_eq!(reference.get("url"), None);
    assert!(reference["description"].as_str().is_some_and(|line| line.ends_with("; Protocol UDP")), "{reference}");
}

#[test]
fn an_indicator_from_the_future_is_not_modified_before_it_was_created() {
    let ahead = Indicator { date_added: "2026-11-24T09:05:00Z".parse().expect("a time"), ..indicator() };
    let object = sent(&sink(false, false), &ahead, Kind::Host, "bad.example").expect("a payload");
    assert_eq!(object["modified"], object["created"]);
}

#[test]
fn each_kind_has_its_pattern() {
    let sink = sink(true, false);
    let pattern =
        |kind, value: &str| sent(&sink, &indicator(), kind, value).expect("a payload")["pattern"].as_str().map(str::to_owned);
    let is = |kind, value: &str, expected: &str| assert_eq!(pattern(kind, value).as_deref(), Some(expected));
    is(Kind::Address, "2001:0db8::0001", "[ipv6-addr:value = '2001:db8::1']");
    is(Kind::Cidr, "198.51.100.9/24", "[ipv4-addr:value = '198.51.100.0/24']");
    is(Kind::Cidr, "2001:db8::/48", "[ipv6-addr:value = '2001:db8::/48']");
    is(Kind::Url, "HTTP://a.example/it's\\x", r"[url:value = 'http://a.example/it\'s\\x']");
    is(Kind::EmailAddress, "A@B.example", "[email-addr:value = 'a@b.example']");
    is(Kind::EmailSubject, "Ihre Rechnung – Konto", "[email-message:subject = 'Ihre Rechnung – Konto']");
    is(Kind::Md5, &"A".repeat(32), &format!("[file:hashes.'MD5' = '{}']", "a".repeat(32)));
    is(Kind::Sha1, &"b".repeat(40), &format!("[file:hashes.'SHA-1' = '{}']", "b".repeat(40)));
    is(Kind::Sha256, &"c".repeat(64), &format!("[file:hashes.'SHA-256' = '{}']", "c".repeat(64)));
    is(
        Kind::UserAgent,
        "Evil 'UA'",
        r"[network-traffic:extensions.'http-request-ext'.request_header.'User-Agent' = 'Evil \'UA\'']",
    );
}

#[test]
fn a_user_agent_is_declined_with_the_text_of_its_row() {
    let declined = sent(&sink(false, false), &indicator(), Kind::UserAgent, "Evil").expect_err("declined");
    let row = super::super::guide::GUIDE.iter().position(|row| row.field == "Indicator: User Agent").expect("a row");
    assert_eq!(Fill::Declined(declined.reason()), COLUMN.fields[row]);
}

#[test]
fn the_keys_that_are_written_are_the_ones_that_are_listed() {
    let sink = sink(true, true);
    let mut written = BTreeSet::new();
    for (kind, value) in [(Kind::Address, "203.0.113.10"), (Kind::Url, "http://a.example/"), (Kind::UserAgent, "x")] {
        let object = sent(&sink, &indicator(), kind, value).expect("a payload");
        written.extend(object.as_object().expect("an object").keys().cloned());
    }
    let listed = COLUMN.fields.iter().filter_map(|fill| match fill {
        Fill::Property { path, .. } => Some(path.split(['[', '.']).next().unwrap_or(path).to_owned()),
        Fill::Declined(_) => None,
    });
    let beyond = COLUMN.beyond.iter().flat_map(|(name, _)| name.split('`').skip(1).step_by(2).map(str::to_owned));
    let mut listed: BTreeSet<String> = listed.chain(beyond).collect();
    listed.insert("extensions".to_owned()); // named in the note of its row
    assert_eq!(written, listed);
}

#[test]
fn every_listed_property_is_written_and_none_twice() {
    let sink = sink(false, true);
    let observable = Observable::parse(Kind::Host, "bad.example").expect("a value");
    let bytes = sink.payload(&sink.draft(&indicator(), &observable, &terms(ActionToTake::Block)).expect("a draft"), stamp());
    let object: Value = serde_json::from_slice(&bytes).expect("JSON");
    for fill in COLUMN.fields {
        if let Fill::Property { path, .. } = fill {
            let pointer = format!("/{}", path.replace("[0].", "/0/"));
            assert!(object.pointer(&pointer).is_some(), "`{path}` is listed and not written");
        }
    }
    // A key written twice would be read once.
    assert_eq!(object.to_string().len(), bytes.len());
}

#[test]
fn a_withdrawal_ends_in_the_past_but_after_it_began() {
    let sink = sink(false, false);
    let observable = Observable::parse(Kind::Host, "bad.example").expect("a value");
    let began: jiff::Timestamp = "2026-11-24T08:59:59.500Z".parse().expect("a time");
    let item = Withdrawal {
        external_id: mapping::stix_id(&observable),
        observable,
        there: crate::sinks::There::default(),
        created: began,
        valid_from: began,
        stamp: Stamp { expires: "2026-11-24T08:59:58Z".parse().expect("a time"), ..stamp() },
    };
    let object = mapping::farewell(&item, &sink.config).expect("an object");
    let bytes = closed(open_ended(&object), in_order(item.created, item.valid_from, item.stamp));
    let object: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(
        (&object["valid_from"], &object["valid_until"]),
        (&json!("2026-11-24T08:59:59.500Z"), &json!("2026-11-24T09:00:00.500Z"))
    );
}

#[test]
fn another_way_to_sign_in_or_spell_the_workspace_is_not_another_destination() {
    let one = sink(false, false);
    let other = Config {
        workspace_id: one.config.workspace_id.to_uppercase(),
        url: Url::parse("https://x.example").expect("a URL"),
        ..one.config.clone()
    };
    assert_eq!(one.destination().fingerprint, other.destination().fingerprint);
    let moved = Config { source_system: "Other".to_owned(), ..one.config.clone() };
    assert_ne!(one.destination().fingerprint, moved.destination().fingerprint);
}

/// Reads a STIX string literal as a service does.
fn read_literal(pattern: &str) -> Option<String> {
    let inner = pattern.split_once(" = '")?.1.strip_suffix("']")?;
    let (mut value, mut chars) = (String::new(), inner.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?),
            '\'' => return None,
            c => value.push(c),
        }
    }
    Some(value)
}

proptest! {
    #[test]
    fn escaping_loses_nothing(subject in "[^\u{0}]{1,40}") {
        prop_assume!(!subject.trim().is_empty());
        let object = sent(&sink(false, false), &indicator(), Kind::EmailSubject, &subject).expect("a payload");
        prop_assert_eq!(read_literal(object["pattern"].as_str().expect("text")), Some(subject));
    }

    #[test]
    fn the_times_of_sending_do_not_change_the_hash(seconds in 0_i64..1_000_000) {
        let sink = sink(false, false);
        let observable = Observable::parse(Kind::Host, "bad.example").expect("a value");
        let draft = sink.draft(&indicator(), &observable, &terms(ActionToTake::Block)).expect("a draft");
        let later = Indicator { last_modified: jiff::Timestamp::from_second(1_700_000_000 + seconds).expect("in range"), ..indicator() };
        prop_assert_eq!(draft.hash, sink.draft(&later, &observable, &terms(ActionToTake::Block)).expect("a draft").hash);
    }
}
