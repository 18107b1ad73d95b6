//! A request to an address of somebody else: HTTPS, to public hosts unless the playbook allows more, without redirects.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use url::Url;

use super::{Order, Outcome, Performer};
use crate::platform::clock::BoxFuture;
use crate::platform::http::{Authorize, Authorized, Bounds, Dialect, Failure, Http, Reply, Request, excerpt};
use crate::platform::vault::SecretSource;
use crate::playbooks::action::{Action, Address, Auth, Body};
use crate::playbooks::address;

/// By it the other side tells a second try from a second matter.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Nobody reads the answer; a longer one is no reason to send again.
const ANSWER: usize = 16 << 20;
const TEXT: Dialect = Dialect { accept: "*/*", content_type: "text/plain; charset=utf-8", headers: &[] };
const JSON: Dialect = Dialect { accept: "*/*", content_type: "application/json", headers: &[] };

/// The headers of one request; made anew where a secret was refused and may have changed.
#[derive(Debug)]
struct Stamp {
    headers: Vec<(HeaderName, HeaderValue)>,
    secrets: Vec<SecretSource>,
}

impl Authorize for Stamp {
    fn headers<'a>(&'a self, _: &'a Method, _: &'a str) -> BoxFuture<'a, Authorized> {
        Box::pin(std::future::ready(Ok(self.headers.clone())))
    }

    /// Whoever made it makes another one.
    fn renew(&self) -> bool {
        false
    }
}

impl Performer {
    pub(super) async fn call(&self, order: &Order<'_>) -> Outcome {
        let Action::Webhook { address, allow_plain_http, allow_private_address, body, .. } = order.action else {
            return Outcome::Refused("this is no webhook".to_owned());
        };
        let url = match self.address(address, *allow_plain_http, *allow_private_address).await {
            Ok(url) => url,
            Err(outcome) => return outcome,
        };
        let host = format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        let Some(_place) = self.place(&host).await else { return Outcome::Busy };
        let mut renewed = false;
        loop {
            if !self.has_time(order) {
                return Outcome::Busy;
            }
            let stamp = match self.stamp(order).await {
                Ok(stamp) => stamp,
                Err(outcome) => return outcome,
            };
            // A vault that is slow may have used up the time; such an attempt counts, since the vault may stay slow.
            if !self.has_time(order) {
                let cause = "reading the secrets of the webhook took too long".to_owned();
                return Outcome::Later { after: None, cause };
            }
            let secrets = stamp.secrets.clone();
            let reply = match self.post(url.clone(), stamp, body).await {
                Ok(reply) if (200..300).contains(&reply.status) => return Outcome::Done,
                Ok(reply) => reply,
                Err(failure) => return unanswered(&failure),
            };
            // A secret may have changed in the vault since it was read.
            let doubted = secrets.iter().filter(|secret| secret.doubt()).count() > 0;
            if matches!(reply.status, 401 | 403) && doubted && !renewed {
                renewed = true;
                continue;
            }
            let said = excerpt(&reply.body).map(|text| format!(" ({text})")).unwrap_or_default();
            return Outcome::Refused(format!("the webhook refused the item: status {}{said}", reply.status));
        }
    }

    async fn post(&self, url: Url, stamp: Stamp, body: &Body) -> Result<Reply, Failure> {
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let mut base = url;
        base.set_path("");
        base.set_query(None);
        base.set_fragment(None);
        let (dialect, body) = match body {
            Body::Json(value) => (JSON, Bytes::from(value.to_string())),
            Body::Text(text) => (TEXT, Bytes::from(text.clone())),
        };
        // One attempt: who asks tries again by delayed copies, and a wait that is asked for is handed on.
        let bounds = Bounds { attempts: 1, total: Duration::ZERO, attempt: self.tools.timeout, body: ANSWER };
        let http = Http::new("the webhook", self.tools.client.clone(), Arc::clone(&self.tools.clock), base, Arc::new(stamp));
        let request = Request { operation: "send an item", method: Method::POST, path, body: Some(body), idempotent: true };
        http.bounded(bounds).speaking(dialect).send(request).await
    }

    /// Where it goes. The address may be a secret: nothing repeats it.
    async fn address(&self, address: &Address, plain: bool, private: bool) -> Result<Url, Outcome> {
        let text = match address {
            Address::Url(url) => url.clone(),
            Address::Secret(name) => self.secret(name).await?.1,
        };
        let url = address::judge(&text, plain, private)
            .map_err(|cause| Outcome::Refused(format!("the address of the webhook cannot be used: {cause}")))?;
        if !private && let Some(url::Host::Domain(name)) = url.host() {
            // A public name can lead to a private address. Who asks is the playbook's author, not a stranger: looked at once is enough.
            let port = url.port_or_known_default().unwrap_or(443);
            let found = tokio::net::lookup_host((name, port)).await.map_err(|error| Outcome::Later {
                after: None,
                cause: format!("the host of the webhook cannot be found: {error}"),
            })?;
            if found.into_iter().any(|found| address::is_private(found.ip())) {
                let cause = "the host of the webhook is within a private network; set `allow_private_address` to allow it";
                return Err(Outcome::Refused(cause.to_owned()));
            }
        }
        Ok(url)
    }

    async fn stamp(&self, order: &Order<'_>) -> Result<Stamp, Outcome> {
        let Action::Webhook { auth, headers, .. } = order.action else { return Err(Outcome::Busy) };
        let mut stamp = Stamp { headers: vec![(KEY, value(order.key, "the key")?)], secrets: Vec::new() };
        for (name, text) in headers {
            let name = HeaderName::try_from(name.as_str())
                .map_err(|_| Outcome::Refused(format!("`{name}` is no name of a header; change it in the playbook")))?;
            let text = value(text, name.as_str())?;
            stamp.headers.push((name, text));
        }
        match auth {
            Auth::None => {}
            Auth::Basic { username_secret, password_secret } => {
                let (user_source, user) = self.secret(username_secret).await?;
                let (source, password) = self.secret(password_secret).await?;
                let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
                let mut text = value(&text, "Authorization")?;
                text.set_sensitive(true);
                stamp.headers.push((AUTHORIZATION, text));
                stamp.secrets.extend([user_source, source]);
            }
            Auth::Header { header, header_secret } => {
                let (source, text) = self.secret(header_secret).await?;
                let name = HeaderName::try_from(header.as_str())
                    .map_err(|_| Outcome::Refused(format!("`{header}` is no name of a header; change it in the playbook")))?;
                let mut text = value(&text, header)?;
                text.set_sensitive(true);
                stamp.headers.push((name, text));
                stamp.secrets.push(source);
            }
        }
        // Written once by the playbook, and never twice on the wire.
        if let Some(last) = stamp.headers.iter().rposition(|(name, _)| *name == CONTENT_TYPE) {
            let kept = stamp.headers[last].clone();
            stamp.headers.retain(|(name, _)| *name != CONTENT_TYPE);
            stamp.headers.push(kept);
        }
        Ok(stamp)
    }

    async fn secret(&self, name: &str) -> Result<(SecretSource, String), Outcome> {
        let Some(source) = (self.tools.secrets)(name) else {
            return Err(Outcome::Refused(format!("there is no secret `{name}`; set it, or change the name in the playbook")));
        };
        match source.read().await {
            Ok(secret) => {
                let text = secret.expose().to_owned();
                Ok((source, text))
            }
            Err(error) if error.transient => Err(Outcome::Later { after: None, cause: error.message }),
            Err(error) => Err(Outcome::Refused(error.message)),
        }
    }
}

fn value(text: &str, name: &str) -> Result<HeaderValue, Outcome> {
    HeaderValue::from_str(text)
        .map_err(|_| Outcome::Refused(format!("the header `{name}` would hold a character that no header may hold")))
}

fn unanswered(failure: &Failure) -> Outcome {
    let cause = match failure.status {
        Some(_) => format!("the webhook answered {}", failure.cause),
        None => format!("the webhook did not answer: {}", failure.cause),
    };
    if failure.transient { Outcome::Later { after: failure.retry_after, cause } } else { Outcome::Refused(cause) }
}
