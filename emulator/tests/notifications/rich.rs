//! Section 5 of the reference: content that only the subscriber can read, and tokens that prove who sent it.

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use emulator::notifications::{CHANGE_TRACKING, ContentFlaw, TokenFlaw, TokenForm, encrypt};
use emulator::{CLIENT_ID, TENANT};
use serde_json::{Value, json};

use crate::rig::Rig;

/// A private key and the certificate for it.
fn certificate() -> (OaepPrivateDecryptingKey, String) {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("a key");
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = key.as_der().expect("PKCS 8");
    let pair = rcgen::KeyPair::from_der_and_sign_algo(
        &rustls::pki_types::PrivateKeyDer::Pkcs8(der.as_ref().to_vec().into()),
        &rcgen::PKCS_RSA_SHA256,
    )
    .expect("a pair");
    let certificate = rcgen::CertificateParams::default().self_signed(&pair).expect("a certificate");
    (OaepPrivateDecryptingKey::new(key).expect("a key"), STANDARD.encode(certificate.der()))
}

fn bytes(content: &Value, member: &str) -> Vec<u8> {
    STANDARD.decode(content[member].as_str().expect("text")).expect("base64")
}

/// The steps of section 5.3.
fn open(content: &Value, key: &OaepPrivateDecryptingKey) -> Result<Value, &'static str> {
    let mut room = vec![0; key.min_output_size()];
    let symmetric = key.decrypt(&OAEP_SHA1_MGF1SHA1, &bytes(content, "dataKey"), &mut room, None).map_err(|_| "key")?;
    let mut data = bytes(content, "data");
    let signature = content["dataSignature"].as_str().ok_or("no signature")?;
    let signature = STANDARD.decode(signature).map_err(|_| "signature")?;
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, symmetric), &data, &signature).map_err(|_| "signature")?;
    let iv = FixedLength::<16>::from(<[u8; 16]>::try_from(&symmetric[..16]).expect("16 bytes"));
    let cipher = PaddedBlockDecryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, symmetric).expect("32 bytes")).expect("AES");
    let plain = cipher.decrypt(&mut data, DecryptionContext::Iv128(iv)).map_err(|_| "padding")?;
    serde_json::from_slice(plain).map_err(|_| "JSON")
}

/// Header and claims, if the key set proves them.
fn prove(token: &str, keys: &Value) -> Result<Value, &'static str> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else { return Err("no token") };
    let json = |part: &str| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON") };
    if json(header)["alg"] != "RS256" {
        return Err("algorithm");
    }
    let named =
        keys["keys"].as_array().expect("keys").iter().find(|key| key["kid"] == json(header)["kid"]).ok_or("unknown key")?;
    let number = |name: &str| URL_SAFE_NO_PAD.decode(named[name].as_str().expect("text")).expect("base64url");
    let key = RsaPublicKeyComponents { n: number("n"), e: number("e") };
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    key.verify(&RSA_PKCS1_2048_8192_SHA256, format!("{header}.{claims}").as_bytes(), &signature).map_err(|_| "signature")?;
    Ok(json(claims))
}

#[tokio::test(flavor = "multi_thread")]
async fn content_comes_encrypted_with_a_token_for_each_app() {
    let rig = Rig::new().await;
    let (key, certificate) = certificate();
    let mut wanted = rig.wanted("users/u/messages?$select=subject", "created", 1_440);
    wanted["includeResourceData"] = json!(true);
    wanted["encryptionCertificate"] = json!(certificate);
    wanted["encryptionCertificateId"] = json!("first");
    let (status, made, _) = rig.graph("POST", "subscriptions", &wanted).await;
    assert_eq!((status, &made["includeResourceData"]), (201, &json!(true)), "{made}");
    let message = |id: &str| {
        let now = rig.now();
        rig.emulator.world().put_message(TENANT, "u", id, json!({"subject": "Grüße", "body": {"content": "secret"}}), now);
    };
    message("m1");
    message("m2");
    rig.emulator.deliver_due().await;
    let body = rig.receiver.bodies().pop().expect("a delivery");
    let contents: Vec<&Value> = body["value"].as_array().expect("items").iter().map(|item| &item["encryptedContent"]).collect();
    assert_ne!(contents[0]["dataKey"], contents[1]["dataKey"]);
    assert_eq!(
        (&contents[0]["encryptionCertificateId"], contents[0]["encryptionCertificateThumbprint"].as_str().map(str::len)),
        (&json!("first"), Some(40))
    );
    let object = open(contents[0], &key).expect("it opens");
    assert_eq!((&object["subject"], &object["id"], &object["body"]), (&json!("Grüße"), &json!("m1"), &Value::Null));
    assert!(!body.to_string().contains("Grüße"));
    let tokens = body["validationTokens"].as_array().expect("tokens");
    assert_eq!(tokens.len(), 1);
    // The keys are where the configuration says.
    let login = rig.emulator.login_url().to_owned();
    let (_, configuration, _) = rig.send("GET", &format!("{login}/common/.well-known/openid-configuration"), &[], "").await;
    let (_, keys, _) = rig.send("GET", configuration["jwks_uri"].as_str().expect("a URL"), &[], "").await;
    let claims = prove(tokens[0].as_str().expect("text"), &keys).expect("it is proven");
    assert_eq!((&claims["aud"], &claims["azp"], &claims["ver"]), (&json!(CLIENT_ID), &json!(CHANGE_TRACKING), &json!("2.0")));
    assert_eq!(claims["iss"], format!("https://login.microsoftonline.com/{TENANT}/v2.0"));
    assert!(claims["exp"].as_i64() > Some(rig.now().as_second()));
    let (_, same, _) = rig.send("GET", &format!("{login}/common/discovery/v2.0/keys"), &[], "").await;
    assert_eq!(same, keys);
    // Other certificates, withheld tokens, broken content.
    let (other, second) = self::certificate();
    let id = made["id"].as_str().expect("an id");
    let change =
        json!({"expirationDateTime": rig.minutes(60), "encryptionCertificate": second, "encryptionCertificateId": "second"});
    assert_eq!(rig.graph("PATCH", &format!("subscriptions/{id}"), &change).await.0, 200);
    rig.emulator.world().notifications.tokens.withheld = true;
    message("m3");
    rig.emulator.deliver_due().await;
    let body = rig.receiver.bodies().pop().expect("a delivery");
    assert!(body["validationTokens"].is_null() && body.as_object().is_some_and(|body| body.contains_key("validationTokens")));
    assert_eq!(open(&body["value"][0]["encryptedContent"], &key), Err("key"));
    assert_eq!(open(&body["value"][0]["encryptedContent"], &other).expect("it opens")["id"], "m3");
}

#[test]
fn each_flaw_of_content_is_what_it_says() {
    let (key, certificate) = certificate();
    let made = |flaw| encrypt(&json!({"a": 1}), &certificate, "label", flaw).expect("a certificate");
    assert_eq!(open(&made(None), &key), Ok(json!({"a": 1})));
    assert_eq!(open(&made(Some(ContentFlaw::Data)), &key), Err("signature"));
    assert_eq!(open(&made(Some(ContentFlaw::Signature)), &key), Err("signature"));
    assert_eq!(open(&made(Some(ContentFlaw::NoSignature)), &key), Err("no signature"));
    assert_eq!(open(&made(Some(ContentFlaw::Key)), &key), Err("key"));
    assert_eq!(open(&made(Some(ContentFlaw::NoJson)), &key), Err("JSON"));
    assert_eq!(made(Some(ContentFlaw::Label))["encryptionCertificateId"], "unknown");
    assert!(encrypt(&json!({}), "bm8=", "label", None).is_err());
    let elliptic = rcgen::generate_simple_self_signed(Vec::new()).expect("a certificate");
    assert!(encrypt(&json!({}), &STANDARD.encode(elliptic.cert.der()), "label", None).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_flaw_of_a_token_is_what_it_says() {
    let rig = Rig::new().await;
    let mut tokens = rig.emulator.world().notifications.tokens.clone();
    let now = rig.now();
    let claims = |flaw| prove(&tokens.make(TENANT, "app", flaw, now), &tokens.key_set());
    for (flaw, why) in [
        (TokenFlaw::WrongKey, "signature"),
        (TokenFlaw::UnknownKey, "unknown key"),
        (TokenFlaw::Tampered, "signature"),
        (TokenFlaw::NoAlgorithm, "algorithm"),
        (TokenFlaw::Symmetric, "algorithm"),
        (TokenFlaw::NoToken, "no token"),
    ] {
        assert_eq!(claims(Some(flaw)), Err(why), "{flaw:?}");
    }
    let good = claims(None).expect("it is proven");
    let differs = |flaw: TokenFlaw| {
        let wrong = claims(Some(flaw)).expect("it is proven");
        let good = good.as_object().expect("claims");
        good.iter()
            .filter(|(name, value)| wrong[name.as_str()] != **value)
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(differs(TokenFlaw::Audience), "aud");
    assert_eq!(differs(TokenFlaw::Issuer), "iss");
    assert_eq!(differs(TokenFlaw::Publisher), "azp");
    assert_eq!(differs(TokenFlaw::Tenant), "iss tid");
    assert_eq!(differs(TokenFlaw::MixedTenant), "tid");
    let seconds = |flaw: TokenFlaw, name: &str| {
        claims(Some(flaw)).expect("it is proven")[name].as_i64().expect("a number") - now.as_second()
    };
    assert_eq!((seconds(TokenFlaw::Expired, "exp"), seconds(TokenFlaw::NotYet, "nbf")), (-3_600, 3_600));
    // The key changes; the one before is still published, or not.
    let old = tokens.make(TENANT, "app", None, now);
    tokens.rotate(true);
    assert!(prove(&old, &tokens.key_set()).is_ok() && tokens.key_ids().len() == 2);
    tokens.rotate(false);
    assert_eq!(prove(&old, &tokens.key_set()), Err("unknown key"));
    tokens.form = TokenForm::V1;
    let claims = prove(&tokens.make(TENANT, "app", None, now), &tokens.key_set()).expect("it is proven");
    assert_eq!(
        (&claims["iss"], &claims["appid"], &claims["ver"], &claims["azp"]),
        (&json!(format!("https://sts.windows.net/{TENANT}/")), &json!(CHANGE_TRACKING), &json!("1.0"), &Value::Null)
    );
}
