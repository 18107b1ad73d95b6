//! What the tests of dispatch, actions and polling need: a small scripted server, a process that dies at a given write, and items.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use indicator_relay::actions::{Performer, TIMEOUT, Tools};
use indicator_relay::dispatch::{self, Decision, DispatchError, Dispatcher, Fetch, Handled, Hooks, Plan, Reader, Reading};
use indicator_relay::notifications::item::{ChangeType, Event, Item, Origin, QUEUE, Work};
use indicator_relay::platform::clock::{BoxFuture, Clock};
use indicator_relay::platform::http::{Authorize, Authorized, Http};
use indicator_relay::platform::secret::Secret;
use indicator_relay::platform::vault::SecretSource;
use indicator_relay::playbooks::action::{Action, Address, Auth, Body};
use indicator_relay::playbooks::{NotFound, OnFailure};
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::storage::{Queue, StateStore};
use indicator_relay::threatconnect::{Client, Config, Credentials};
use serde_json::{Map, Value, json};
use url::Url;

use crate::functions::ready;
use crate::rig::TestClock;

/// One request as the server got it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query as they came.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Call {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What the server says.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Json(u16, Value),
    Wait(u16, &'static str),
    /// With the service's own time.
    At(jiff::Timestamp, Value),
    /// Nothing, ever.
    Hang,
}

type Script = Box<dyn FnMut(&Call) -> Answer + Send>;

#[derive(Clone)]
struct Inside {
    calls: Arc<Mutex<Vec<Call>>>,
    script: Arc<Mutex<Script>>,
    came: Arc<tokio::sync::Notify>,
}

/// A server on this machine that does what a closure says.
pub(crate) struct Server {
    address: SocketAddr,
    inside: Inside,
}

impl Server {
    pub(crate) async fn start(script: impl FnMut(&Call) -> Answer + Send + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let script: Script = Box::new(script);
        let inside = Inside { calls: Arc::default(), script: Arc::new(Mutex::new(script)), came: Arc::default() };
        let router = axum::Router::new().fallback(answer).with_state(inside.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, inside }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn base(&self, path: &str) -> Url {
        Url::parse(&self.url(path)).expect("a URL")
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.inside.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Completes when the next request has come.
    pub(crate) async fn called(&self) {
        self.inside.came.notified().await;
    }
}

async fn answer(State(inside): State<Inside>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let target = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let call = Call { method, target, headers, body: String::from_utf8_lossy(&body).into_owned() };
    let answer = (inside.script.lock().unwrap_or_else(PoisonError::into_inner))(&call);
    inside.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    inside.came.notify_one();
    let status = |code| StatusCode::from_u16(code).expect("a status");
    match answer {
        Answer::Json(code, value) => (status(code), axum::Json(value)).into_response(),
        Answer::Wait(code, seconds) => (status(code), [("retry-after", seconds)], axum::Json(json!({}))).into_response(),
        Answer::At(at, value) => {
            let date = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            (StatusCode::OK, [("date", date)], axum::Json(value)).into_response()
        }
        Answer::Hang => std::future::pending().await,
    }
}

#[derive(Debug)]
struct Anonymous;

impl Authorize for Anonymous {
    fn headers<'a>(&'a self, _: &'a Method, _: &'a str) -> BoxFuture<'a, Authorized> {
        ready(Ok(Vec::new()))
    }
    fn renew(&self) -> bool {
        false
    }
}

pub(crate) fn client() -> reqwest::Client {
    let builder = reqwest::Client::builder().tls_certs_only([]).redirect(reqwest::redirect::Policy::none());
    builder.build().expect("a client")
}

pub(crate) fn graph(clock: &TestClock, base: &Url) -> Http {
    Http::new("Microsoft Graph", client(), Arc::new(clock.clone()), base.clone(), Arc::new(Anonymous))
}

/// Dispatch over a store of its own, with a server that is both Microsoft Graph (`/v1.0`) and the webhooks' target (`/hook`).
pub(crate) struct World {
    pub(crate) clock: TestClock,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) server: Server,
    pub(crate) plans: Vec<Plan>,
    pub(crate) hooks: Hooks,
    pub(crate) per_target: usize,
    pub(crate) timeout: Duration,
}

impl World {
    pub(crate) async fn new(script: impl FnMut(&Call) -> Answer + Send + 'static) -> Self {
        let clock = TestClock::new();
        let store = Arc::new(SqliteStore::open_in_memory(Arc::new(clock.clone())).expect("SQLite"));
        let server = Server::start(script).await;
        let hooks = Hooks {
            plans: Arc::new(|| ready(Ok(Arc::from([])))),
            plans_now: Arc::new(|| ready(Ok(Arc::from([])))),
            prove: Arc::new(|_| ready(Ok(None))),
            made_for: Arc::new(|_| ready(Ok(None))),
            lifecycle: Arc::new(|_, _| ready(Ok(()))),
            open: Arc::new(|_| ready(Ok(Value::Null))),
        };
        Self { clock, store, server, plans: Vec::new(), hooks, per_target: 4, timeout: TIMEOUT }
    }

    pub(crate) fn tools(&self, state: Arc<dyn StateStore>, queue: Arc<dyn Queue>) -> Tools {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let config = Config {
            url: self.server.base("/api"),
            credentials: Credentials::Token(SecretSource::Given(Secret::new("token"))),
            page_size: 100,
        };
        Tools {
            state,
            queue,
            clock: Arc::clone(&clock),
            client: client(),
            secrets: Arc::new(|name| (name == "PASSWORD").then(|| SecretSource::Given(Secret::new("hunter2")))),
            threatconnect: Some(Client::new(config, client(), clock)),
            jobs: vec!["default".to_owned()],
            per_target: self.per_target,
            timeout: self.timeout,
        }
    }

    /// The worker as a new process would have it.
    pub(crate) fn dispatcher(&self) -> Dispatcher {
        let (state, queue) = (Arc::clone(&self.store), Arc::clone(&self.store));
        self.dispatcher_over(state, queue)
    }

    pub(crate) fn dispatcher_over(&self, state: Arc<dyn StateStore>, queue: Arc<dyn Queue>) -> Dispatcher {
        let base = self.server.base("/v1.0");
        let plans: Arc<[Plan]> = self.plans.clone().into();
        let plans = Arc::new(move || ready(Ok(Arc::clone(&plans))));
        let hooks = Hooks { plans: Arc::clone(&plans) as _, plans_now: plans, ..self.hooks.clone() };
        let performer = Performer::new(self.tools(Arc::clone(&state), Arc::clone(&queue)));
        let reader = Reader::new(graph(&self.clock, &base), base);
        Dispatcher::new(state, queue, Arc::new(self.clock.clone()), reader, performer, hooks)
    }

    pub(crate) async fn deliver(&self, item: &Item) {
        self.put(&Work::first(item.clone())).await;
    }

    pub(crate) async fn put(&self, work: &Work) {
        let body = serde_json::to_vec(work).expect("JSON");
        self.store.put(QUEUE, body, Duration::ZERO).await.expect("a queue");
    }

    /// Takes one message, handles it, and deletes it if that went well, as the host does. None: none is visible.
    pub(crate) async fn handle_one(&self, dispatcher: &Dispatcher) -> Option<Result<Handled, DispatchError>> {
        let message = self.store.receive(QUEUE, 1, Duration::from_secs(60)).await.expect("a queue").pop()?;
        let handled = match dispatch::read(QUEUE, &message.body) {
            Ok(work) => dispatcher.handle(QUEUE, work).await,
            Err(error) => Err(error),
        };
        if handled.is_ok() {
            assert!(self.store.delete(QUEUE, &message).await.expect("a queue"));
        }
        Some(handled)
    }

    /// Works until the queue is empty; where all that is left is hidden, time passes.
    pub(crate) async fn work(&self) -> Vec<Handled> {
        self.work_for(Duration::from_secs(3 * 86_400)).await
    }

    pub(crate) async fn work_for(&self, limit: Duration) -> Vec<Handled> {
        let dispatcher = self.dispatcher();
        let end = self.clock.now().checked_add(limit).expect("in range");
        let mut all = Vec::new();
        loop {
            match self.handle_one(&dispatcher).await {
                Some(handled) => all.extend(handled.ok()),
                None if self.store.count(QUEUE).await.expect("a queue") == 0 || self.clock.now() >= end => return all,
                None => self.clock.advance(Duration::from_secs(1)),
            }
        }
    }

    /// What the webhooks' target got, by path below `/hook`, in the order of the calls.
    pub(crate) fn hooked(&self) -> Vec<Call> {
        self.server.calls().into_iter().filter(|call| call.target.starts_with("/hook")).collect()
    }

    /// What was read from Microsoft Graph.
    pub(crate) fn read(&self) -> Vec<String> {
        let calls = self.server.calls().into_iter().map(|call| call.target);
        calls.filter_map(|target| target.strip_prefix("/v1.0").map(str::to_owned)).collect()
    }

    pub(crate) fn item(&self, resource: &str, id: &str, tag: &str) -> Item {
        item(&self.clock, resource, id, tag)
    }

    pub(crate) async fn dead(&self) -> Vec<(String, dispatch::Dead)> {
        let rows = dispatch::list(self.store.as_ref(), None).await.expect("readable");
        rows.into_iter().map(|(key, dead)| (key, dead.expect("a row that can be read"))).collect()
    }

    /// A playbook that sends each item to `/hook/{name}`.
    pub(crate) fn hook(&self, name: &str) -> Plan {
        let url = self.server.url(&format!("/hook/{name}"));
        plan(name, Fetch::Nothing, 20, move |item, resource| vec![webhook(&url, item, resource)])
    }

    /// The same, after it has read the object.
    pub(crate) fn fetching_hook(&self, name: &str, subscribed: &str) -> Plan {
        Plan { fetch: Fetch::Resource(reading(subscribed)), ..self.hook(name) }
    }
}

pub(crate) fn reading(subscribed: &str) -> Reading {
    Reading {
        resource: subscribed.to_owned(),
        select: None,
        not_found: NotFound::Retry,
        on_failure: OnFailure::DeadLetter,
        needed: true,
    }
}

pub(crate) fn plan(
    name: &str,
    fetch: Fetch,
    max_attempts: u32,
    decide: impl Fn(&Item, Option<&Value>) -> Vec<Action> + Send + Sync + 'static,
) -> Plan {
    Plan {
        name: name.to_owned(),
        held: None,
        fetch,
        max_attempts,
        matches: Arc::new(|_, _| true),
        decide: Arc::new(move |context| {
            let actions = decide(context.item, context.resource);
            Ok(Decision::Perform(actions.into_iter().enumerate().map(|(i, action)| (i.to_string(), action)).collect()))
        }),
    }
}

pub(crate) fn webhook(url: &str, item: &Item, resource: Option<&Value>) -> Action {
    let tag = item.resource_data().and_then(|data| data.get("@odata.etag")).cloned().unwrap_or_default();
    Action::Webhook {
        address: Address::Url(url.to_owned()),
        auth: Auth::None,
        headers: Vec::new(),
        body: Body::Json(json!({"id": item.resource_id(), "tag": tag, "event": item.event, "resource": resource})),
        allow_plain_http: true,
        allow_private_address: true,
    }
}

pub(crate) fn item(clock: &TestClock, resource: &str, id: &str, tag: &str) -> Item {
    let mut notification = Map::new();
    notification.insert("changeType".to_owned(), json!("updated"));
    if !id.is_empty() {
        notification.insert("resourceData".to_owned(), json!({"id": id, "@odata.etag": tag}));
    }
    Item {
        subscription: "s1".to_owned(),
        group: Some("n0123456789ab".to_owned()),
        tenant: Some("t1".to_owned()),
        resource: Some(if id.is_empty() { resource.to_owned() } else { format!("{resource}/{id}") }),
        notification,
        ..Item::new(Origin::Graph, clock.now(), Event::Change(ChangeType::Updated))
    }
}

/// A script that answers from a list, and repeats its last.
pub(crate) fn in_turn(answers: Vec<Answer>) -> impl FnMut(&Call) -> Answer + Send + 'static {
    let mut answers: VecDeque<Answer> = answers.into();
    move |_| if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }.expect("an answer")
}

pub(crate) fn ok() -> Answer {
    Answer::Json(200, json!({}))
}
