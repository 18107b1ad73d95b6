//! HMAC signatures and tokens, computed anew for each attempt.

use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::Credentials;
use crate::platform::clock::{BoxFuture, Clock};
use crate::platform::http::{Authorize, AuthorizeError, Authorized};

/// Signs requests, or adds the token.
#[derive(Debug)]
pub(crate) struct Signer {
    pub credentials: Credentials,
    pub clock: Arc<dyn Clock>,
}

impl Authorize for Signer {
    fn headers<'a>(&'a self, method: &'a Method, target: &'a str) -> BoxFuture<'a, Authorized> {
        Box::pin(async move {
            match &self.credentials {
                Credentials::Token(token) => {
                    Ok(vec![(AUTHORIZATION, header(&format!("TC-Token {}", token.read().await?.expose()))?)])
                }
                Credentials::Hmac { access_id, secret } => {
                    let secret = secret.read().await?;
                    let seconds = self.clock.now().as_second();
                    let signature = sign(secret.expose(), method.as_str(), target, seconds);
                    Ok(vec![
                        (HeaderName::from_static("timestamp"), HeaderValue::from(seconds)),
                        (AUTHORIZATION, header(&format!("TC {access_id}:{signature}"))?),
                    ])
                }
            }
        })
    }

    /// A signature with a fresh time may pass where the last did not; a token changes in the vault only.
    fn renew(&self) -> bool {
        match &self.credentials {
            Credentials::Token(token) => token.doubt(),
            Credentials::Hmac { secret, .. } => {
                secret.doubt();
                true
            }
        }
    }
}

fn header(text: &str) -> Result<HeaderValue, AuthorizeError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| AuthorizeError {
        message: "API_USER, THREATCONNECT_SECRET_KEY or THREATCONNECT_TOKEN holds a character that no header may hold".to_owned(),
        transient: false,
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Base64 of HMAC-SHA256 over `{path and query}:{METHOD}:{Unix seconds}`; the secret is used as it is given, never decoded.
fn sign(secret: &str, method: &str, target: &str, seconds: i64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    STANDARD.encode(hmac::sign(&key, format!("{target}:{method}:{seconds}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "mAdEuP/kEy+NotReal9x8y7z6w5v4u3t2s1r0q==";
    const SECONDS: i64 = 1_700_000_000;

    /// Checked against the vendor's own client and OpenSSL.
    const VECTORS: [(&str, &str, &str); 8] = [
        ("GET", "/api/v3/security/owners", "Lt2YBl/mImNaiRKfncRQn4JioZ/SZ0W3DqDFmjdxeds="),
        (
            "GET",
            "/api/v3/indicators?resultStart=0&resultLimit=1000&sorting=id%20asc&fields=tags&fields=threatAssess&tql=typeName%20in%20(%22Address%22%2C%20%22Host%22)",
            "DJBXVtOfEQIUbudPotBJSigF1oDc8HIRMiNO1yk+Dhs=",
        ),
        (
            "GET",
            "/api/v3/indicators?resultLimit=1000&fields=tags&fields=threatAssess&tql=typeName+in+%28%22Address%22%2C+%22Host%22%29",
            "RptCFsgFDytpQi5L/SttdEP1OU5Rneok9kLIfyP71Nk=",
        ),
        ("PUT", "/api/v3/indicators/75?fields=falsePositives", "jzlD8ToP7YJfi+p4FDz8ycQutH4p0O2BiIaFlX15kNI="),
        (
            "GET",
            "/api/v3/indicators?tql=securityLabel%20%3D%20%22TLP%3AAMBER%2BSTRICT%22%20and%20ownerName%20%3D%20%22Caf%C3%A9%20%5C%22R%26D%5C%22%22",
            "jZcpOOO13YOWuSl6Y5n8lI0+O3eDcV4itn1EJdFYEqE=",
        ),
        ("POST", "/api/v3/cases", "p5bBwDzDDiBp/jeNI4Db9T3qOlTcJuG+vA7TIxxcICM="),
        ("PUT", "/api/v3/cases/412?fields=tags", "PjRUmtHjlbe0SK1Scq4y6PUstLKYDYxEt7KodCAIrn4="),
        (
            "POST",
            "/api/v3/indicators?owner=Acme%20Source&fields=tags&fields=attributes",
            "Gv7rWIsAFuO8od0Bsp3n6s/lqXLpElrLx9JczwuL1Mc=",
        ),
    ];

    #[test]
    fn signatures_equal_the_vendors() {
        for (method, target, signature) in VECTORS {
            assert_eq!(sign(SECRET, method, target, SECONDS), signature, "{method} {target}");
        }
    }

    #[test]
    fn a_secret_that_looks_like_base64_is_not_decoded() {
        assert_ne!(sign(SECRET, "GET", "/api/v3/security/owners", SECONDS), "9A0TzIPN0VXteGgLcEynnR+zrn419iAI5nMw9ELgR+c=");
    }
}
