//! Validation tokens, one check after another.

use indicator_relay::notifications::rich::tokens::{Keyset, ProvenToken, TokenError, check};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::{APP, TENANT, audiences, claims, fixture, header, keyset, login, now, sign, signer, tenants, token};
use aws_lc_rs::signature::RSA_PKCS1_SHA256;

/// The tenant that a token proves.
fn judge_by(token: &str, keys: &Keyset, tenants: &[String], now: Timestamp) -> Result<String, TokenError> {
    check(token, keys, &audiences(), tenants, now).map(|ProvenToken { tenant }| tenant)
}

fn judge(token: &str) -> Result<String, TokenError> {
    judge_by(token, &keyset(), &tenants(), now())
}

#[test]
fn tokens_that_openssl_signed_are_good_in_both_versions() {
    for file in ["token-1.txt", "token-2.txt"] {
        assert_eq!(judge(&fixture(file)), Ok(TENANT.to_owned()), "{file}");
    }
}

#[test]
fn an_audience_may_be_one_of_several_and_ids_are_compared_without_case() {
    assert_eq!(judge(&token("2.0", |claims| claims["aud"] = json!(["other", APP]))), Ok(TENANT.to_owned()));
    assert_eq!(judge(&token("2.0", |claims| claims["aud"] = APP.to_uppercase().into())), Ok(TENANT.to_owned()));
    let upper = [TENANT.to_uppercase()];
    assert_eq!(judge_by(&fixture("token-1.txt"), &keyset(), &upper, now()), Ok(TENANT.to_owned()));
}

#[test]
fn keys_that_a_token_brings_along_are_not_looked_at() {
    let mut header = header();
    header["jwk"] = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
    header["jku"] = "https://forger.example/keys".into();
    header["x5u"] = "https://forger.example/certificate".into();
    header["x5c"] = json!(["AAAA"]);
    assert_eq!(judge(&sign(&header, &claims("2.0"), &signer("signing-key.txt"), &RSA_PKCS1_SHA256)), Ok(TENANT.to_owned()));
}

#[test]
fn time_may_differ_by_five_minutes_and_the_systems_clock_is_not_asked() {
    let at = |text: &str| judge_by(&fixture("token-2.txt"), &keyset(), &tenants(), text.parse().expect("a time"));
    assert_eq!(at("2026-11-24T08:49:59Z"), Err(TokenError::NotYetValid));
    assert_eq!(at("2026-11-24T08:50:00Z"), Ok(TENANT.to_owned()));
    assert_eq!(at("2026-11-24T10:04:59Z"), Ok(TENANT.to_owned()));
    assert_eq!(at("2026-11-24T10:05:00Z"), Err(TokenError::Expired));
    let far = |claim: &'static str, value: i64| judge(&token("2.0", move |claims| claims[claim] = value.into()));
    assert_eq!(far("exp", i64::MAX), Ok(TENANT.to_owned()));
    assert_eq!(far("exp", i64::MIN), Err(TokenError::Expired));
    assert_eq!(far("nbf", i64::MIN), Ok(TENANT.to_owned()));
    assert_eq!(far("nbf", i64::MAX), Err(TokenError::NotYetValid));
    let ages = Timestamp::from_second(4_000_000_000).expect("a time") + SignedDuration::from_hours(1);
    let later = token("1.0", |claims| {
        claims["nbf"] = (ages.as_second() - 1).into();
        claims["exp"] = (ages.as_second() + 1).into();
    });
    assert_eq!(judge_by(&later, &keyset(), &tenants(), ages), Ok(TENANT.to_owned()));
}

#[test]
fn issuers_follow_the_cloud() {
    let judged = |host: &str, issuer: String, version: &str| {
        let login = host.parse().expect("an address");
        let keys = Keyset::parse(fixture("keys.json").as_bytes(), &login).expect("keys");
        let token = token(version, |claims| claims["iss"] = issuer.into());
        judge_by(&token, &keys, &tenants(), now())
    };
    let v1 = |base: &str| format!("{base}/{TENANT}/");
    let v2 = |base: &str| format!("{base}/{TENANT}/v2.0");
    let (global, gov) = ("https://login.microsoftonline.com", "https://login.microsoftonline.us");
    let (china, older) = ("https://login.partner.microsoftonline.cn", "https://login.chinacloudapi.cn");
    assert_eq!(judged(gov, v2(gov), "2.0"), Ok(TENANT.to_owned()));
    assert_eq!(judged(gov, v1("https://sts.windows.net"), "1.0"), Ok(TENANT.to_owned()));
    assert_eq!(judged(gov, v2(global), "2.0"), Err(TokenError::Issuer));
    assert_eq!(judged(china, v2(china), "2.0"), Ok(TENANT.to_owned()));
    assert_eq!(judged(older, v2(china), "2.0"), Ok(TENANT.to_owned()));
    assert_eq!(judged(china, v1("https://sts.chinacloudapi.cn"), "1.0"), Ok(TENANT.to_owned()));
    assert_eq!(judged(china, v1("https://sts.windows.net"), "1.0"), Err(TokenError::Issuer));
    assert_eq!(judged("http://127.0.0.1:8080/login/", v2("http://127.0.0.1:8080/login"), "2.0"), Ok(TENANT.to_owned()));
}

#[test]
fn a_key_set_without_a_usable_key_is_none() {
    for document in ["", "{}", "[]", r#"{"keys":[]}"#, r#"{"keys":[1,{"kty":"EC","kid":"x"}]}"#, "<html>"] {
        assert!(Keyset::parse(document.as_bytes(), &login()).is_err(), "{document}");
    }
}

#[test]
fn errors_have_names_of_their_own_and_tell_nothing_of_the_token() {
    let names: std::collections::BTreeSet<&str> = TokenError::ALL.iter().map(|error| error.name()).collect();
    assert_eq!(names.len(), TokenError::ALL.len());
    for error in TokenError::ALL {
        let text = error.to_string();
        assert!(!text.contains('\n') && !text.contains("eyJ") && !text.contains(TENANT), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_passes_or_panics(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(judge(&text).is_err());
        prop_assert!(judge(&String::from_utf8_lossy(&bytes)).is_err());
        let _ = Keyset::parse(&bytes, &login());
    }

    #[test]
    fn no_signed_claims_panic(header in any_json(), claims in any_json()) {
        let mut whole = super::header();
        if let (Some(whole), Some(header)) = (whole.as_object_mut(), header.as_object()) {
            whole.extend(header.clone());
        }
        prop_assert!(judge(&sign(&whole, &claims, &signer("signing-key.txt"), &RSA_PKCS1_SHA256)).is_err());
    }
}

/// Objects with the names of claims and headers, and anything in them.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<i64>().prop_map(Into::into),
        any::<bool>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
        Just(TENANT.into()),
        Just("2.0".into()),
        proptest::collection::vec(".{0,6}", 0..3).prop_map(Into::into),
    ];
    let names = prop_oneof!["exp", "nbf", "aud", "iss", "ver", "tid", "azp", "appid", "kid", "alg", "jwk", "crit", "typ"];
    proptest::collection::btree_map(names, leaf, 0..8).prop_map(|map| serde_json::Value::Object(map.into_iter().collect()))
}
