//! A handshake with ourselves, over our public address: what Graph will ask is asked first, so that the instance is awake and a
//! gateway that answers in our place is told of in words that help.
//!
//! Source: vendor page "Receive change notifications through webhooks" (10 s, status 200, `text/plain`, the decoded token).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::utf8_percent_encode;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use url::Url;

use crate::platform::clock::{BoxFuture, Clock};
use crate::platform::http::{Authorize, Authorized, Bounds, Dialect, ENCODED, Failure, Http, Reply, Request, excerpt};

const PATIENCE: Duration = Duration::from_secs(10);
const BODY: usize = 64 << 10;
const DIALECT: Dialect = Dialect { accept: "*/*", content_type: "text/plain; charset=utf-8", headers: &[] };

/// Graph sends no credentials either.
#[derive(Debug)]
struct Unsigned;

impl Authorize for Unsigned {
    fn headers<'a>(&'a self, _: &'a Method, _: &'a str) -> BoxFuture<'a, Authorized> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn renew(&self) -> bool {
        false
    }
}

/// Asks `url` for a handshake as Graph would. `name` is random.
///
/// # Errors
/// One line: what the answer is instead of the echo.
pub(super) async fn probe(client: &reqwest::Client, clock: &Arc<dyn Clock>, url: &str, name: &str) -> Result<(), String> {
    let told = |what: String| format!("our own address {url} does not answer as Graph needs it: {what}");
    let base = Url::parse(url).map_err(|error| told(format!("it is no address ({error}); check PUBLIC_URL")))?;
    // Blanks and signs that who decodes twice, or not at all, gives back changed.
    let token = format!("Validation: a look at our own address, {name} 1+1=2 100%25");
    let http = Http::new("our own address", client.clone(), Arc::clone(clock), base, Arc::new(Unsigned))
        .bounded(Bounds { attempts: 1, total: PATIENCE, attempt: PATIENCE, body: BODY })
        .speaking(DIALECT);
    let query = utf8_percent_encode(&token, ENCODED);
    let path = format!("?validationToken={query}");
    let request = Request { operation: "a handshake", method: Method::POST, path, body: Some(Bytes::new()), idempotent: false };
    match http.send(request).await {
        Ok(reply) => difference(&reply, &token).map_or(Ok(()), |what| Err(told(what))),
        Err(failure) => Err(told(unanswered(&failure))),
    }
}

fn unanswered(failure: &Failure) -> String {
    match failure.status {
        Some(_) => format!("{}; something in front of the app answers, or the app fails", failure.cause),
        None if failure.cause == "timed out" => format!(
            "no answer within {} s; the app starts too slowly (keep an instance ready), or a firewall swallows the request",
            PATIENCE.as_secs()
        ),
        None => format!("{}; check PUBLIC_URL, DNS and the certificate", failure.cause),
    }
}

/// What differs from the echo; none if nothing.
fn difference(reply: &Reply, token: &str) -> Option<String> {
    let said = || excerpt(&reply.body).map(|said| format!(" ({said})")).unwrap_or_default();
    match reply.status {
        200 => {}
        300..=399 => {
            return Some(format!(
                "it redirects with status {}; a login in front of the app? Graph must be let through",
                reply.status
            ));
        }
        401 | 403 => {
            return Some(format!(
                "status {}{}; a login, client certificate or web filter in front of the app: Graph must be let through",
                reply.status,
                said()
            ));
        }
        404 => return Some(format!("status 404{}; PUBLIC_URL leads to another app, or without its path", said())),
        status => return Some(format!("status {status} instead of 200{}", said())),
    }
    let body = String::from_utf8_lossy(&reply.body);
    if body != token {
        let encoded = utf8_percent_encode(token, ENCODED).to_string();
        let what = if body.trim() == token {
            "the token comes back with blanks or a new line around it"
        } else if body.trim_matches('"') == token {
            "the token comes back in quotes"
        } else if body.eq_ignore_ascii_case(&encoded) {
            "the token comes back still encoded"
        } else if body.is_empty() {
            "the answer is empty; the query is lost on the way"
        } else {
            return Some(format!("the answer is not the token but something else{}; PUBLIC_URL leads to another app", said()));
        };
        return Some(what.to_owned());
    }
    let kind = reply.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let plain = kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/plain");
    (!plain).then(|| format!("the answer is `{kind}` instead of text/plain; something on the way changes it"))
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn each_way_to_get_the_echo_wrong_has_its_own_words() {
        let answer = |status, kind: &'static str, body: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            difference(&Reply { status, headers, body: Bytes::from_static(body.as_bytes()) }, "a b+c")
        };
        assert_eq!(answer(200, "text/plain; charset=utf-8", "a b+c"), None);
        for (status, kind, body, word) in [
            (200, "text/plain", "a%20b%2Bc", "still encoded"),
            (200, "text/plain", "a b+c\n", "new line"),
            (200, "text/plain", "\"a b+c\"", "quotes"),
            (200, "text/plain", "", "empty"),
            (200, "text/html", "<title>Sign in</title>", "Sign in"),
            (200, "application/json", "a b+c", "instead of text/plain"),
            (202, "text/plain", "a b+c", "instead of 200"),
            (302, "text/plain", "", "redirects"),
            (401, "text/plain", "", "login"),
            (404, "text/plain", "", "PUBLIC_URL"),
        ] {
            let said = answer(status, kind, body).unwrap_or_default();
            assert!(said.contains(word), "{status} {body}: {said}");
        }
    }
}
