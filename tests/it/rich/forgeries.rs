//! Everything that a forger or a broken line could send, in one table: each is refused, for the reason that the table gives.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::OAEP_SHA256_MGF1SHA256;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use indicator_relay::notifications::item::{EncryptedContent, Item};
use indicator_relay::notifications::rich::open_item;
use serde_json::{Value, json};

use super::{
    APP, NEW, OLD, Sealer, TENANT, audiences, certificate, certificates, claims, content, fixture, header, item, keyset, label,
    now, part, published, sign, sign_text, signer, tenants, token,
};

const OTHER: &str = "99999999-9999-4999-8999-999999999999";

/// A notification that must be refused, and the name of the reason.
struct Forgery {
    story: String,
    item: Item,
    reason: &'static str,
}

fn with_tokens(story: impl Into<String>, tokens: Vec<String>, reason: &'static str) -> Forgery {
    Forgery { story: story.into(), item: Item { tokens, ..item() }, reason }
}

fn with_content(story: impl Into<String>, content: EncryptedContent, reason: &'static str) -> Forgery {
    Forgery { story: story.into(), item: Item { encrypted: Some(content), ..item() }, reason }
}

fn good() -> String {
    fixture("token-2.txt")
}

/// Claims that are wrong, missing or of another type, in tokens that are signed as they should be.
fn wrong_claims() -> Vec<Forgery> {
    let now = now().as_second();
    let v1 = format!("https://sts.windows.net/{TENANT}/");
    let v2 = format!("https://login.microsoftonline.com/{TENANT}/v2.0");
    let rows: Vec<(&str, &str, Option<Value>, &'static str)> = vec![
        ("2.0", "exp", Some((now - 300).into()), "token_expired"),
        ("1.0", "exp", Some(0.into()), "token_expired"),
        ("2.0", "exp", Some((-1).into()), "token_expired"),
        ("2.0", "exp", None, "token_malformed"),
        ("2.0", "exp", Some("4000000000".into()), "token_malformed"),
        ("2.0", "exp", Some(json!(1e300)), "token_malformed"),
        ("2.0", "exp", Some(Value::Null), "token_malformed"),
        ("2.0", "nbf", Some((now + 301).into()), "token_not_yet_valid"),
        ("1.0", "nbf", Some(i64::MAX.into()), "token_not_yet_valid"),
        ("2.0", "nbf", None, "token_malformed"),
        ("2.0", "nbf", Some(json!([])), "token_malformed"),
        ("2.0", "aud", None, "token_audience"),
        ("2.0", "aud", Some(OTHER.into()), "token_audience"),
        ("2.0", "aud", Some("".into()), "token_audience"),
        ("2.0", "aud", Some(json!([])), "token_audience"),
        ("2.0", "aud", Some(json!([OTHER, format!("{APP} ")])), "token_audience"),
        ("1.0", "aud", Some(format!("api://{APP}").into()), "token_audience"),
        ("1.0", "aud", Some("https://graph.microsoft.com".into()), "token_audience"),
        ("2.0", "aud", Some(json!({"app": APP})), "token_malformed"),
        ("2.0", "tid", None, "token_tenant"),
        ("2.0", "tid", Some(OTHER.into()), "token_tenant"),
        ("2.0", "tid", Some("".into()), "token_tenant"),
        ("2.0", "tid", Some(json!([TENANT])), "token_malformed"),
        ("2.0", "ver", None, "token_version"),
        ("2.0", "ver", Some("3.0".into()), "token_version"),
        ("2.0", "ver", Some("2".into()), "token_version"),
        ("2.0", "ver", Some(json!(2.0)), "token_malformed"),
        ("2.0", "ver", Some("1.0".into()), "token_issuer"),
        ("1.0", "ver", Some("2.0".into()), "token_issuer"),
        ("2.0", "iss", None, "token_issuer"),
        ("2.0", "iss", Some("".into()), "token_issuer"),
        ("2.0", "iss", Some(v1.clone().into()), "token_issuer"),
        ("1.0", "iss", Some(v2.clone().into()), "token_issuer"),
        ("1.0", "iss", Some(v1.trim_end_matches('/').into()), "token_issuer"),
        ("1.0", "iss", Some(v1.replace("https", "http").into()), "token_issuer"),
        ("2.0", "iss", Some(format!("{v2}/").into()), "token_issuer"),
        ("2.0", "iss", Some(v2.to_uppercase().into()), "token_issuer"),
        ("2.0", "iss", Some(v2.replace(TENANT, OTHER).into()), "token_issuer"),
        ("2.0", "iss", Some(v2.replace(TENANT, "common").into()), "token_issuer"),
        ("2.0", "iss", Some(v2.replace(".com", ".com.forger.example").into()), "token_issuer"),
        ("2.0", "iss", Some(v2.replace("https://", "https://forger.example/https://").into()), "token_issuer"),
        ("2.0", "iss", Some(v2.replace(".com", ".us").into()), "token_issuer"),
        ("2.0", "azp", None, "token_publisher"),
        ("2.0", "azp", Some(APP.into()), "token_publisher"),
        ("2.0", "azp", Some("".into()), "token_publisher"),
        ("1.0", "appid", None, "token_publisher"),
        ("1.0", "appid", Some(OTHER.into()), "token_publisher"),
    ];
    let mut forgeries: Vec<Forgery> = rows
        .into_iter()
        .map(|(version, claim, value, reason)| {
            let story = format!("version {version}: `{claim}` is {value:?}");
            let token = token(version, |claims| match value {
                Some(value) => drop(claims.insert(claim.to_owned(), value)),
                None => drop(claims.remove(claim)),
            });
            with_tokens(story, vec![token], reason)
        })
        .collect();
    // The publisher in the claim of the other version.
    for (version, own, other) in [("2.0", "azp", "appid"), ("1.0", "appid", "azp")] {
        let swapped = token(version, |claims| {
            let publisher = claims.remove(own).expect("the publisher");
            claims.insert(other.to_owned(), publisher);
        });
        forgeries.push(with_tokens(format!("version {version}: the publisher in `{other}`"), vec![swapped], "token_publisher"));
    }
    forgeries
}

/// Signatures that are none, or by other algorithms or keys.
fn wrong_signatures() -> Vec<Forgery> {
    let signing = signer("signing-key.txt");
    let forger = signer("2048-pkcs8.txt");
    let header_of = |name: &str, value: Value| {
        let mut changed = header();
        changed[name] = value;
        changed
    };
    let text = |header: &Value| format!("{}.{}", part(header), part(&claims("2.0")));
    let mut forgeries = Vec::new();
    for name in ["none", "None", "NONE", "nOnE", "", "RS1", "rs256", "HS1"] {
        let unsigned = text(&header_of("alg", name.into()));
        forgeries.push(with_tokens(format!("`{name}` without a signature"), vec![format!("{unsigned}.")], "token_malformed"));
        let signed = sign_text(&unsigned, &signing, &RSA_PKCS1_SHA256);
        forgeries.push(with_tokens(format!("`{name}` with a signature"), vec![signed], "token_malformed"));
    }
    // What is public, taken for a secret, in each form in which somebody might.
    let keys: Value = serde_json::from_str(&fixture("keys.json")).expect("JSON");
    let key = keys["keys"].as_array().expect("keys").iter().find(|key| key["kid"] == "published").expect("a key");
    let modulus = key["n"].as_str().expect("text");
    let der = published();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&der));
    let secrets = [
        der.clone(),
        pem.into_bytes(),
        STANDARD.encode(&der).into_bytes(),
        modulus.as_bytes().to_vec(),
        URL_SAFE_NO_PAD.decode(modulus).expect("base64"),
        key.to_string().into_bytes(),
        Vec::new(),
    ];
    let hashes = [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)];
    for (name, algorithm) in hashes {
        for (form, secret) in secrets.iter().enumerate() {
            let text = text(&header_of("alg", name.into()));
            let signature = hmac::sign(&hmac::Key::new(algorithm, secret), text.as_bytes());
            let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature));
            forgeries.push(with_tokens(format!("{name} with the public key, form {form}"), vec![token], "token_algorithm"));
        }
    }
    let hs_by_name = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &der), text(&header()).as_bytes());
    let mac = format!("{}.{}", text(&header()), URL_SAFE_NO_PAD.encode(hs_by_name));
    forgeries.push(with_tokens("a MAC called RS256", vec![mac], "token_signature"));
    for name in ["RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"] {
        let token = sign(&header_of("alg", name.into()), &claims("2.0"), &signing, &RSA_PSS_SHA256);
        forgeries.push(with_tokens(format!("{name} by the right key"), vec![token], "token_algorithm"));
    }
    let schemes: [(&str, &'static dyn aws_lc_rs::signature::RsaEncoding); 3] =
        [("PSS", &RSA_PSS_SHA256), ("SHA-384", &RSA_PKCS1_SHA384), ("SHA-512", &RSA_PKCS1_SHA512)];
    for (name, scheme) in schemes {
        let token = sign(&header(), &claims("2.0"), &signing, scheme);
        forgeries.push(with_tokens(format!("{name} called RS256"), vec![token], "token_signature"));
    }
    let by_other = |header: Value| sign(&header, &claims("2.0"), &forger, &RSA_PKCS1_SHA256);
    let by_own = |header: Value| sign(&header, &claims("2.0"), &signing, &RSA_PKCS1_SHA256);
    // A forger's key is published nowhere, and what the token says of it is not looked at.
    let mut brought = header();
    brought["jwk"] = json!({"kty": "RSA", "kid": "published", "n": keys["keys"][0]["n"], "e": "AQAB"});
    brought["jku"] = "https://forger.example/keys".into();
    brought["x5u"] = "https://forger.example/certificate".into();
    forgeries.extend([
        with_tokens("another key under a published name", vec![by_other(header())], "token_signature"),
        with_tokens("another key that is brought along", vec![by_other(brought)], "token_signature"),
        with_tokens("a published key that is too short", vec![fixture("token-short.txt")], "token_signature"),
        with_tokens("an unknown key", vec![by_own(header_of("kid", "other".into()))], "token_unknown_key"),
        with_tokens("a key of a curve", vec![by_own(header_of("kid", "curve".into()))], "token_unknown_key"),
        with_tokens("a key that encrypts", vec![by_own(header_of("kid", "encrypts".into()))], "token_unknown_key"),
        with_tokens("no name of a key", vec![by_own(json!({"alg": "RS256"}))], "token_no_key_id"),
        with_tokens("a key of one tenant", vec![by_own(header_of("kid", "one-tenant".into()))], "token_issuer"),
        with_tokens("an extension that must be understood", vec![by_own(header_of("crit", json!(["exp"])))], "token_malformed"),
        with_tokens("the name of a key is a path", vec![by_own(header_of("kid", "../../dev/null".into()))], "token_unknown_key"),
    ]);
    forgeries
}

/// Texts that are no token, and tokens put together from others.
fn wrong_texts() -> Vec<Forgery> {
    let good = good();
    let parts: Vec<&str> = good.split('.').collect();
    let other = fixture("token-1.txt");
    let others: Vec<&str> = other.split('.').collect();
    let twice = |payload: &str| {
        sign_text(
            &format!("{}.{}", part(&header()), URL_SAFE_NO_PAD.encode(payload)),
            &signer("signing-key.txt"),
            &RSA_PKCS1_SHA256,
        )
    };
    let doubled = claims("2.0").to_string().replacen('{', &format!("{{\"aud\":\"{OTHER}\","), 1);
    let texts = [
        ("nothing", String::new(), "token_malformed"),
        ("dots", "..".to_owned(), "token_malformed"),
        ("words", "a.b.c".to_owned(), "token_malformed"),
        ("two parts", format!("{}.{}", parts[0], parts[1]), "token_malformed"),
        ("four parts", format!("{good}.{}", parts[2]), "token_malformed"),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), "token_signature"),
        ("a blank before", format!(" {good}"), "token_malformed"),
        ("a newline after", format!("{good}\n"), "token_malformed"),
        ("with padding", format!("{good}=="), "token_malformed"),
        ("Bearer before", format!("Bearer {good}"), "token_malformed"),
        ("claims of another", format!("{}.{}.{}", parts[0], others[1], parts[2]), "token_signature"),
        ("signature of another", format!("{}.{}.{}", parts[0], parts[1], others[2]), "token_signature"),
        (
            "header of another",
            format!("{}.{}.{}", part(&json!({"alg": "RS256", "kid": "published"})), parts[1], parts[2]),
            "token_signature",
        ),
        ("too long", twice(&json!({"filler": "x".repeat(20_000)}).to_string()), "token_malformed"),
        ("claims that are no object", twice("[]"), "token_malformed"),
        ("claims that are no JSON", twice("exp=1"), "token_malformed"),
        ("no claims", twice("{}"), "token_malformed"),
        ("a claim twice", twice(&doubled), "token_malformed"),
    ];
    texts.into_iter().map(|(story, text, reason)| with_tokens(story, vec![text], reason)).collect()
}

/// Deliveries whose tokens do not prove this item.
fn wrong_deliveries() -> Vec<Forgery> {
    let foreign = token("2.0", |claims| {
        claims["tid"] = emulator::GRAPH_TENANT.into();
        claims["iss"] = format!("https://login.microsoftonline.com/{}/v2.0", emulator::GRAPH_TENANT).into();
    });
    let expired = token("2.0", |claims| claims["exp"] = 0.into());
    let unknown = {
        let mut header = header();
        header["kid"] = "other".into();
        sign(&header, &claims("2.0"), &signer("signing-key.txt"), &RSA_PKCS1_SHA256)
    };
    let of = |tenant: Option<&str>| Item { tenant: tenant.map(str::to_owned), ..item() };
    vec![
        with_tokens("no token", Vec::new(), "no_token"),
        with_tokens("a token of another tenant of ours", vec![foreign], "other_tenant"),
        with_tokens("a good token and a bad one", vec![good(), expired.clone()], "token_expired"),
        with_tokens("a bad token and a good one", vec![expired.clone(), good()], "token_expired"),
        with_tokens("a good token and one of an unknown key", vec![good(), unknown.clone()], "token_unknown_key"),
        with_tokens("one of an unknown key and a bad one", vec![unknown, expired], "token_expired"),
        with_tokens("a good token and an empty one", vec![good(), String::new()], "token_malformed"),
        Forgery { story: "no tenant".to_owned(), item: of(None), reason: "other_tenant" },
        Forgery { story: "an empty tenant".to_owned(), item: of(Some("")), reason: "other_tenant" },
        Forgery { story: "a tenant that the token is not for".to_owned(), item: of(Some(OTHER)), reason: "other_tenant" },
        Forgery { story: "no content".to_owned(), item: Item { encrypted: None, ..item() }, reason: "not_encrypted" },
        Forgery {
            story: "it came after the token's end".to_owned(),
            item: Item { received: "2026-11-24T11:00:00Z".parse().expect("a time"), ..item() },
            reason: "token_expired",
        },
    ]
}

/// Contents that a good token comes with, and that are not what Microsoft Graph makes.
fn wrong_contents() -> Vec<Forgery> {
    let old = certificate(OLD, "2048-pkcs8.txt");
    let resource = fixture("resource.json");
    let base = || content(4_096, &label(NEW));
    let key = |key: Vec<u8>| Sealer { key, iv: None, padding: Sealer::new([0; 32]).padding };
    let sealer = Sealer::new([9; 32]);
    let block = |fill: u8| sealer.wrap(&[fill; 32], &old);
    let over_text = {
        let mut content = sealer.seal(resource.as_bytes(), &old);
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[9; 32]), content.data.as_bytes());
        content.data_signature = Some(STANDARD.encode(signature));
        content
    };
    let with_signature = |signature: Option<String>| EncryptedContent { data_signature: signature, ..base() };
    let signature = base().data_signature.expect("signed");
    let whole = STANDARD.decode(&signature).expect("base64");
    let mixed = content(2_048, &label(OLD));
    let rows = vec![
        ("no signature", with_signature(None)),
        ("an empty signature", with_signature(Some(String::new()))),
        ("half a signature", with_signature(Some(STANDARD.encode(&whole[..16])))),
        ("a signature and more", with_signature(Some(STANDARD.encode([whole.clone(), vec![0]].concat())))),
        ("a signature in escapes", with_signature(Some(whole.escape_ascii().to_string()))),
        ("a signature of zeros", with_signature(Some(STANDARD.encode([0; 32])))),
        ("a signature over the base64", over_text),
        ("the data of another item", EncryptedContent { data: mixed.data.clone(), ..base() }),
        ("the key of another item", EncryptedContent { data_key: mixed.data_key.clone(), ..base() }),
        (
            "data and signature of another item",
            EncryptedContent { data_key: base().data_key, certificate_id: base().certificate_id, ..mixed.clone() },
        ),
        ("no data", EncryptedContent { data: String::new(), ..base() }),
        ("no key", EncryptedContent { data_key: String::new(), ..base() }),
        ("data that is no base64", EncryptedContent { data: "%%%".to_owned(), ..base() }),
        ("data in lines", EncryptedContent { data: format!("{}\n", base().data), ..base() }),
        ("the label of the other certificate", EncryptedContent { certificate_id: Some(label(OLD)), ..base() }),
        (
            "another padding of the key",
            Sealer { padding: &OAEP_SHA256_MGF1SHA256, ..Sealer::new([9; 32]) }.seal(resource.as_bytes(), &old),
        ),
        ("a key of 16 bytes", key(vec![7; 16]).seal(resource.as_bytes(), &old)),
        ("a key of 31 bytes", key(vec![7; 31]).seal(resource.as_bytes(), &old)),
        ("a key of 33 bytes", key(vec![7; 33]).seal(resource.as_bytes(), &old)),
        ("a key of no bytes", key(Vec::new()).seal(resource.as_bytes(), &old)),
        ("another start of the cipher", Sealer { iv: Some([0; 16]), ..Sealer::new([9; 32]) }.seal(resource.as_bytes(), &old)),
        ("no blocks", sealer.wrap(&[], &old)),
        ("half a block", sealer.wrap(&[1; 24], &old)),
        ("blocks of nothing", block(0)),
        ("no JSON", sealer.seal(b"Quarterly figures", &old)),
        ("an array", sealer.seal(b"[{}]", &old)),
        ("a text", sealer.seal(b"\"text\"", &old)),
        ("null", sealer.seal(b"null", &old)),
        ("nothing", sealer.seal(b"", &old)),
        ("two objects", sealer.seal(b"{}{}", &old)),
        ("no UTF-8", sealer.seal(b"{\"subject\":\"\xff\"}", &old)),
        ("UTF-16", sealer.seal(&"{}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(), &old)),
        ("nested without end", sealer.seal("{\"a\":".repeat(10_000).as_bytes(), &old)),
    ];
    let mut forgeries: Vec<Forgery> =
        rows.into_iter().map(|(story, content)| with_content(story, content, "not_opened")).collect();
    for id in [None, Some(String::new()), Some("rich-2024.0123456789abcdef".to_owned()), Some(label(NEW).to_uppercase())] {
        let story = format!("certificate {id:?}");
        forgeries.push(with_content(story, EncryptedContent { certificate_id: id, ..base() }, "unknown_certificate"));
    }
    forgeries
}

/// Each byte of data, key and signature, changed in its lowest and its highest bit.
fn changed_bytes() -> Vec<Forgery> {
    let base = content(2_048, &label(OLD));
    let mut forgeries = Vec::new();
    let member = |content: &EncryptedContent, name: &str| match name {
        "data" => content.data.clone(),
        "dataKey" => content.data_key.clone(),
        _ => content.data_signature.clone().expect("signed"),
    };
    for name in ["data", "dataKey", "dataSignature"] {
        let bytes = STANDARD.decode(member(&base, name)).expect("base64");
        for (at, bit) in (0..bytes.len()).flat_map(|at| [(at, 0x01), (at, 0x80)]) {
            let mut bytes = bytes.clone();
            bytes[at] ^= bit;
            let (mut content, text) = (base.clone(), STANDARD.encode(bytes));
            match name {
                "data" => content.data = text,
                "dataKey" => content.data_key = text,
                _ => content.data_signature = Some(text),
            }
            forgeries.push(with_content(format!("byte {at} of {name}, bit {bit:02x}"), content, "not_opened"));
        }
    }
    forgeries
}

fn refused(forgeries: Vec<Forgery>) -> usize {
    let (keys, certificates) = (keyset(), certificates());
    let count = forgeries.len();
    for Forgery { story, item, reason } in forgeries {
        let opened = open_item(&item, &keys, &certificates, &audiences(), &tenants());
        let error = opened.err().unwrap_or_else(|| panic!("{story}: opened"));
        assert_eq!(error.name(), reason, "{story}: {error}");
        assert!(!error.to_string().contains('\n'), "{story}: {error}");
    }
    count
}

#[test]
fn a_good_one_is_opened_by_either_token_whenever_it_is_looked_at() {
    let resource: Value = serde_json::from_str(&fixture("resource.json")).expect("JSON");
    let several = vec![good(), fixture("token-1.txt")];
    let upper = Some(TENANT.to_uppercase());
    let sealed = Some(Sealer::new([9; 32]).seal(b"{}", &certificate(OLD, "2048-pkcs8.txt")));
    let open = |item: &Item| open_item(item, &keyset(), &certificates(), &audiences(), &tenants());
    assert_eq!(open(&item()), Ok(resource.clone()));
    assert_eq!(open(&Item { tokens: vec![fixture("token-1.txt")], ..item() }), Ok(resource.clone()));
    assert_eq!(open(&Item { tokens: several, tenant: upper, ..item() }), Ok(resource));
    assert_eq!(open(&Item { encrypted: sealed, ..item() }), Ok(json!({})));
}

#[test]
fn every_forgery_is_refused_for_its_reason() {
    let rooms: BTreeMap<&str, Vec<Forgery>> = BTreeMap::from([
        ("claims", wrong_claims()),
        ("signatures", wrong_signatures()),
        ("texts", wrong_texts()),
        ("deliveries", wrong_deliveries()),
        ("contents", wrong_contents()),
        ("changed bytes", changed_bytes()),
    ]);
    let mut total = 0;
    for (room, forgeries) in rooms {
        let count = refused(forgeries);
        println!("{room}: {count} forged cases refused");
        total += count;
    }
    println!("{total} forged cases refused");
    assert!(total > 900, "{total}");
}

#[test]
fn no_changed_character_of_a_token_passes() {
    let (keys, good) = (keyset(), good());
    let mut refused = 0;
    for at in 0..good.len() {
        for other in [b'A', b'B', b'_', b'.', b'=', b' ', good.as_bytes()[at] ^ 0x01] {
            let mut bytes = good.clone().into_bytes();
            if bytes[at] == other {
                continue;
            }
            bytes[at] = other;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let judged = indicator_relay::notifications::rich::tokens::check(&text, &keys, &audiences(), &tenants(), now());
            assert!(judged.is_err(), "character {at} changed to {:?}", char::from(other));
            refused += 1;
        }
        assert!(
            indicator_relay::notifications::rich::tokens::check(&good[..at], &keys, &audiences(), &tenants(), now()).is_err(),
            "cut at {at}"
        );
        refused += 1;
    }
    println!("{refused} tampered tokens refused");
    assert!(refused > 5_000, "{refused}");
}
