//! The least of Microsoft Graph that the stories of subscriptions need, and our own public address beside it: on one loopback
//! port, with faults by script. Written for these stories only; the emulator is the second opinion.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use indicator_relay::graph::{self, Graph};
use indicator_relay::notifications::item::ChangeType;
use indicator_relay::notifications::wanted::Wanted;
use indicator_relay::platform::clock::{BoxFuture, Clock};
use indicator_relay::platform::http::{Authorize, Authorized};
use indicator_relay::storage::StateStore;
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::subscriptions::{Config, Reconciler, Report, States, Unwanted};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::rig::TestClock;

/// What the service does instead of what it is asked.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Nothing but this answer.
    Answer(u16, Value),
    /// The same, with the pause in seconds that it asks for.
    Pause(u16, u64),
    /// It does it; the answer breaks off.
    Lost,
}

#[derive(Debug, Clone)]
pub(crate) struct Subscription {
    pub(crate) body: Value,
    pub(crate) state: String,
    pub(crate) expires: Timestamp,
}

/// What the fake holds.
#[derive(Debug)]
pub(crate) struct World {
    clock: TestClock,
    pub(crate) subscriptions: BTreeMap<String, Subscription>,
    made: u32,
    /// By method and a part of the path, each used once.
    pub(crate) faults: VecDeque<(Method, &'static str, Fault)>,
    /// As long as it is set, every call about subscriptions meets it.
    pub(crate) outage: Option<Fault>,
    pub(crate) log: Vec<(Timestamp, String)>,
    /// What our public address answers to a handshake: status, content type, and whether the token is decoded.
    pub(crate) receiver: (u16, &'static str, bool),
    pub(crate) most_minutes: Option<i64>,
    /// Whether a second one on the same resource is refused.
    pub(crate) jealous: bool,
    /// Whether reading one tells its client state.
    pub(crate) tells_state: bool,
    /// Answers to other reading, by the beginning of path and query; the longest one holds.
    pub(crate) pages: BTreeMap<String, (u16, Value)>,
}

impl World {
    pub(crate) fn calls(&self, beginning: &str) -> usize {
        self.log.iter().filter(|(_, line)| line.starts_with(beginning)).count()
    }

    pub(crate) fn alive(&self, resource: &str) -> usize {
        let now = self.clock.now();
        self.subscriptions.values().filter(|one| one.body["resource"] == resource && one.expires > now).count()
    }

    pub(crate) fn only(&self) -> (&String, &Subscription) {
        assert_eq!(self.subscriptions.len(), 1, "{:?}", self.subscriptions);
        self.subscriptions.iter().next().expect("one")
    }

    /// One that others made.
    pub(crate) fn add(&mut self, resource: &str, url: &str, state: &str) -> String {
        self.made += 1;
        let id = format!("00000000-0000-4000-8000-{:012}", self.made);
        let body = json!({"id": id, "resource": resource, "changeType": "updated", "notificationUrl": url, "lifecycleNotificationUrl": url});
        let expires = self.clock.now() + Duration::from_secs(86_400);
        self.subscriptions.insert(id.clone(), Subscription { body, state: state.to_owned(), expires });
        id
    }

    fn fault(&mut self, method: &Method, path: &str) -> Option<Fault> {
        let at = self.faults.iter().position(|(of, part, _)| of == method && path.contains(part));
        at.and_then(|at| self.faults.remove(at)).map(|(_, _, fault)| fault).or_else(|| self.outage.clone())
    }

    fn answer(&mut self, method: &Method, uri: &Uri, body: &[u8]) -> Response {
        let now = self.clock.now();
        let target = uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
        if uri.path().starts_with("/relay") {
            self.log.push((now, format!("PROBE {}", uri.path())));
            return self.echo(uri.query().unwrap_or_default());
        }
        let fault = self.fault(method, uri.path());
        // What is answered so was certainly not taken.
        let not_taken = matches!(fault, Some(Fault::Answer(503, _) | Fault::Pause(..)));
        self.log.push((now, format!("{}{method} {target}", if not_taken { "refused " } else { "" })));
        match fault {
            Some(Fault::Answer(status, body)) => return answer(status, &body),
            Some(Fault::Pause(status, seconds)) => {
                return (StatusCode::from_u16(status).expect("a status"), [("retry-after", seconds.to_string())], "{}")
                    .into_response();
            }
            _ => {}
        }
        self.subscriptions.retain(|_, one| one.expires > now);
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let id = uri.path().strip_prefix("/v1.0/subscriptions/").map(|id| id.trim_end_matches("/reauthorize").to_owned());
        let done = match (method.as_str(), id) {
            ("GET", None) if uri.path() == "/v1.0/subscriptions" => self.list(&target),
            ("POST", None) => self.create(&body),
            ("GET", None) => self.page(&target),
            (_, Some(id)) if !self.subscriptions.contains_key(&id) => {
                refusal(404, "ResourceNotFound", "The object was not found.")
            }
            ("GET", Some(id)) => answer(200, &shown(&self.subscriptions[&id], self.tells_state)),
            ("PATCH", Some(id)) => self.patch(&id, &body),
            ("DELETE", Some(id)) => {
                self.subscriptions.remove(&id);
                answer(204, &Value::Null)
            }
            ("POST", Some(_)) => answer(204, &Value::Null),
            _ => refusal(405, "x", "x"),
        };
        if method == Method::PATCH
            && done.status() == StatusCode::BAD_REQUEST
            && let Some((_, line)) = self.log.last_mut()
        {
            line.insert_str(0, "refused ");
        }
        if matches!(fault, Some(Fault::Lost)) { broken() } else { done }
    }

    fn echo(&self, query: &str) -> Response {
        let (status, kind, decoded) = self.receiver;
        let raw = query.split_once('=').map_or("", |(_, token)| token);
        let token = if decoded {
            percent_encoding::percent_decode_str(&raw.replace('+', " ")).decode_utf8_lossy().into_owned()
        } else {
            raw.to_owned()
        };
        (StatusCode::from_u16(status).expect("a status"), [("content-type", kind)], token).into_response()
    }

    fn list(&self, target: &str) -> Response {
        // Two on a page, as every client must be able to read on.
        let skip: usize = target.split_once("$skiptoken=").map_or(0, |(_, at)| at.parse().expect("a number"));
        let items: Vec<Value> = self.subscriptions.values().skip(skip).take(2).map(|one| shown(one, false)).collect();
        let mut page = json!({"value": items});
        if skip + 2 < self.subscriptions.len() {
            page["@odata.nextLink"] = json!(format!("{{base}}/v1.0/subscriptions?$skiptoken={}", skip + 2));
        }
        answer(200, &page)
    }

    fn create(&mut self, body: &Value) -> Response {
        if self.receiver != GOOD {
            return refusal(
                400,
                "ValidationError",
                "Subscription validation request failed. HTTP status code is 'Unauthorized'.",
            );
        }
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let same = |one: &&Subscription| one.body["resource"] == body["resource"] && one.body["changeType"] == body["changeType"];
        if let Some(found) = self.subscriptions.values().find(same).filter(|_| self.jealous) {
            let id = found.body["id"].as_str().unwrap_or_default();
            return refusal(409, "Conflict", &format!("Subscription Id {id} already exists for the requested combination"));
        }
        let expires = match self.granted(&text("expirationDateTime")) {
            Ok(expires) => expires,
            Err(text) => return refusal(400, "ExtensionError", &text),
        };
        self.made += 1;
        let id = format!("00000000-0000-4000-8000-{:012}", self.made);
        let mut kept = body.clone();
        kept["id"] = json!(id);
        kept.as_object_mut().expect("an object").remove("clientState");
        let one = Subscription { body: kept, state: text("clientState"), expires };
        let told = shown(&one, true);
        self.subscriptions.insert(id, one);
        answer(201, &told)
    }

    fn granted(&self, asked: &str) -> Result<Timestamp, String> {
        let now = self.clock.now();
        let asked: Timestamp = asked.parse().expect("a time");
        if let Some(most) = self.most_minutes.filter(|most| asked.duration_since(now).as_secs() > most * 60) {
            return Err(format!("Subscription expiration can only be {most} minutes in the future."));
        }
        Ok(asked.max(now + Duration::from_secs(45 * 60)))
    }

    fn patch(&mut self, id: &str, body: &Value) -> Response {
        let expires = match self.granted(body["expirationDateTime"].as_str().expect("an end")) {
            Ok(expires) => expires,
            Err(text) => return refusal(400, "ExtensionError", &text),
        };
        let one = self.subscriptions.get_mut(id).expect("there");
        one.expires = expires;
        for (name, value) in body.as_object().expect("an object") {
            one.body[name] = value.clone();
        }
        answer(200, &shown(one, false))
    }

    fn page(&self, target: &str) -> Response {
        let fits = self.pages.iter().filter(|(beginning, _)| target.starts_with(beginning.as_str()));
        match fits.max_by_key(|(beginning, _)| beginning.len()) {
            Some((_, (status, body))) => answer(*status, body),
            None => refusal(404, "NotFound", target),
        }
    }
}

pub(crate) const GOOD: (u16, &str, bool) = (200, "text/plain; charset=utf-8", true);

fn shown(one: &Subscription, with_state: bool) -> Value {
    let mut value = one.body.clone();
    value["expirationDateTime"] = json!(one.expires.to_string());
    value["clientState"] = if with_state { json!(one.state) } else { Value::Null };
    value
}

fn answer(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    if body.is_null() { status.into_response() } else { (status, axum::Json(body)).into_response() }
}

pub(crate) fn error(code: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message}})
}

fn refusal(status: u16, code: &str, message: &str) -> Response {
    answer(status, &error(code, message))
}

fn broken() -> Response {
    let cut = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("cut"))]);
    Response::new(Body::from_stream(cut))
}

#[derive(Clone)]
struct Served {
    world: Arc<Mutex<World>>,
    base: String,
}

async fn handle(State(served): State<Served>, method: Method, uri: Uri, body: Bytes) -> Response {
    let response = served.world.lock().expect("no panic").answer(&method, &uri, &body);
    let (mut parts, body) = response.into_parts();
    if parts.headers.get("content-type").is_none_or(|kind| kind != "application/json") {
        return Response::from_parts(parts, body);
    }
    // Links are below the address that only now is known.
    let bytes = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let text = String::from_utf8_lossy(&bytes).replace("{base}", &served.base);
    parts.headers.remove("content-length");
    Response::from_parts(parts, Body::from(text))
}

#[derive(Debug)]
struct Signed;

impl Authorize for Signed {
    fn headers<'a>(&'a self, _: &'a Method, _: &'a str) -> BoxFuture<'a, Authorized> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
    fn renew(&self) -> bool {
        false
    }
}

/// A world with one of our instances beside it.
pub(crate) struct Bench {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) clock: TestClock,
    pub(crate) store: Arc<dyn StateStore>,
    pub(crate) base: String,
    pub(crate) key: &'static str,
    /// Below which path the app is.
    pub(crate) path: &'static str,
    pub(crate) certificate: Option<(String, String)>,
    pub(crate) client: reqwest::Client,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let clock = TestClock::new();
        let world = World {
            clock: clock.clone(),
            subscriptions: BTreeMap::new(),
            made: 0,
            faults: VecDeque::new(),
            outage: None,
            log: Vec::new(),
            receiver: GOOD,
            most_minutes: None,
            jealous: true,
            tells_state: true,
            pages: BTreeMap::new(),
        };
        let world = Arc::new(Mutex::new(world));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let served = Served { world: Arc::clone(&world), base: base.clone() };
        let router = Router::new().fallback(handle).with_state(served);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let store = Arc::new(SqliteStore::open_in_memory(Arc::new(clock.clone())).expect("SQLite"));
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        Self { world, clock, store, base, key: "one", path: "relay", certificate: None, client }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panic")
    }

    pub(crate) fn calls(&self, beginning: &str) -> usize {
        self.world().calls(beginning)
    }

    pub(crate) fn alive(&self, resource: &str) -> usize {
        self.world().alive(resource)
    }

    /// The only subscription that there is.
    pub(crate) fn only(&self) -> (String, Subscription) {
        let world = self.world();
        let (id, one) = world.only();
        (id.clone(), one.clone())
    }

    pub(crate) fn receiver(&self) -> String {
        format!("{}/{}/api/notifications", self.base, self.path)
    }

    /// One instance, as a new process would be.
    pub(crate) fn reconciler(&self) -> Reconciler {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let config = graph::Config { url: self.base.parse().expect("an address") };
        let graph = Graph::new(config, self.client.clone(), Arc::clone(&clock), Arc::new(Signed), &Graph::lanes());
        let key = self.key;
        let states = States {
            key: key.to_owned(),
            make: Box::new(move |group| format!("v1.{group}.random.mac-{key}")),
            check: Box::new(move |text| {
                let mut parts = text.split('.').skip(1);
                let group = parts.next()?.to_owned();
                let mac = parts.nth(1)?.strip_prefix("mac-")?;
                Some((group, mac == key))
            }),
        };
        let config = Config {
            public_url: format!("{}/{}/", self.base, self.path).parse().expect("an address"),
            tenant: Some("c0ff".to_owned()),
            certificate: self.certificate.clone(),
            catch_up_every: Duration::from_secs(6 * 3_600),
        };
        Reconciler::new(Arc::clone(&self.store), graph, self.client.clone(), clock, (config, states), || "random".to_owned())
    }

    pub(crate) async fn run(&self, wanted: &[Wanted]) -> Report {
        self.reconciler().run(wanted, Unwanted::Delete, false).await.expect("a report")
    }

    /// Runs each five minutes, for so long.
    pub(crate) async fn run_for(&self, wanted: &[Wanted], minutes: u64) -> Vec<Report> {
        let mut reports = Vec::new();
        for _ in 0..minutes / 5 {
            self.clock.advance(Duration::from_secs(300));
            reports.push(self.run(wanted).await);
        }
        reports
    }

    pub(crate) fn advance(&self, minutes: u64) {
        self.clock.advance(Duration::from_secs(minutes * 60));
    }
}

pub(crate) fn wanted(resource: &str) -> Wanted {
    Wanted {
        tenant: "default".to_owned(),
        resource: resource.to_owned(),
        change_types: vec![ChangeType::Updated],
        rich: false,
        lifecycle: true,
        minutes: None,
        profile: None,
        urgent: false,
        playbooks: vec!["changes".to_owned()],
    }
}
