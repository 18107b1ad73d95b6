//! An emulator with a clock that stands, an app that is signed in, and an endpoint.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emulator::{ACCESS_ID, CLIENT_ID, CLIENT_SECRET, Emulator, Options, SECRET_KEY, SimClock, TENANT, Time as _};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

use crate::receiver::Receiver;

pub(crate) struct Rig {
    pub(crate) emulator: Emulator,
    pub(crate) clock: SimClock,
    pub(crate) receiver: Receiver,
    client: reqwest::Client,
    token: String,
}

/// The service waits so many times longer than the reference says: what is late here is so by the test's will, and not because
/// the machine stood still.
pub(crate) const SLACK: u32 = 20;

/// Status, body, `Retry-After`.
pub(crate) type Answer = (u16, Value, Option<String>);

impl Rig {
    pub(crate) async fn new() -> Self {
        let clock = SimClock::at("2026-11-24T09:00:00Z".parse().expect("a time"));
        let options = Options { time: std::sync::Arc::new(clock.clone()), ..Options::default() };
        let emulator = Emulator::start(options).await.expect("free ports");
        {
            let limits = &mut emulator.world().notifications.limits;
            for limit in [&mut limits.handshake, &mut limits.first, &mut limits.retry] {
                *limit *= SLACK;
            }
        }
        let ca = reqwest::Certificate::from_pem(emulator.ca_pem().as_bytes()).expect("a certificate");
        let client = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().expect("a client");
        let mut rig = Self { emulator, clock, receiver: Receiver::start().await, client, token: String::new() };
        rig.sign_in().await;
        rig
    }

    pub(crate) async fn sign_in(&mut self) {
        let form = format!(
            "grant_type=client_credentials&client_id={CLIENT_ID}&client_secret={CLIENT_SECRET}&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default"
        );
        let url = format!("{}/{TENANT}/oauth2/v2.0/token", self.emulator.login_url());
        let (status, body, _) = self.send("POST", &url, &[("content-type", "application/x-www-form-urlencoded")], &form).await;
        assert_eq!(status, 200, "{body}");
        body["access_token"].as_str().expect("a token").clone_into(&mut self.token);
    }

    #[expect(clippy::disallowed_methods, reason = "the test's own request")]
    pub(crate) async fn send(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = self.client.request(method.parse().expect("a method"), url).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let status = response.status().as_u16();
        let body = response.text().await.expect("a body");
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)), retry_after)
    }

    pub(crate) async fn graph(&self, method: &str, target: &str, body: &Value) -> Answer {
        let url = if target.starts_with("https://") {
            target.to_owned()
        } else {
            format!("{}/v1.0/{target}", self.emulator.graph_url())
        };
        let authorization = format!("Bearer {}", self.token);
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
        self.send(method, &url, &headers, &if body.is_null() { String::new() } else { body.to_string() }).await
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.graph("GET", target, &Value::Null).await
    }

    /// A signed call of ThreatConnect; `target` begins with `/v3/`.
    pub(crate) async fn threatconnect(&self, method: &str, target: &str, body: &Value) -> Answer {
        let seconds = self.now().as_second();
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET_KEY.as_bytes());
        let signature = hmac::sign(&key, format!("/api{target}:{method}:{seconds}").as_bytes());
        let authorization = format!("TC {ACCESS_ID}:{}", STANDARD.encode(signature.as_ref()));
        let seconds = seconds.to_string();
        let headers = [("authorization", authorization.as_str()), ("timestamp", &seconds), ("content-type", "application/json")];
        let url = format!("{}{target}", self.emulator.threatconnect_url());
        self.send(method, &url, &headers, &if body.is_null() { String::new() } else { body.to_string() }).await
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn minutes(&self, minutes: i64) -> String {
        self.now().checked_add(minutes.minutes()).expect("a time").to_string()
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// What a subscription asks for, on this rig's endpoint.
    pub(crate) fn wanted(&self, resource: &str, changes: &str, minutes: i64) -> Value {
        json!({
            "changeType": changes,
            "notificationUrl": self.receiver.url("/n?code=k%3d1"),
            "lifecycleNotificationUrl": self.receiver.url("/l"),
            "resource": resource,
            "expirationDateTime": self.minutes(minutes),
            "clientState": "state",
        })
    }

    /// Makes a subscription; its id.
    pub(crate) async fn subscribe(&self, resource: &str, changes: &str, minutes: i64) -> String {
        let (status, body, _) = self.graph("POST", "subscriptions", &self.wanted(resource, changes, minutes)).await;
        assert_eq!(status, 201, "{body}");
        body["id"].as_str().expect("an id").to_owned()
    }

    /// The clock goes on until nothing waits any more; how many deliveries that took.
    pub(crate) async fn deliver_all(&self) -> usize {
        let mut count = self.emulator.deliver_due().await.len();
        loop {
            let Some(due) = self.emulator.world().notifications.next_due() else { return count };
            self.clock.advance_to(due);
            count += self.emulator.deliver_due().await.len();
        }
    }
}

/// The message of a refusal.
pub(crate) fn message(answer: &Answer) -> (u16, &str) {
    (answer.0, answer.1["error"]["message"].as_str().unwrap_or_default())
}
