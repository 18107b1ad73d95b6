//! The login host's keys: fetched once for all, kept through outages, asked for anew sparingly.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::Full;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use indicator_relay::graph::keys::{Keys, KeysError};
use indicator_relay::notifications::rich::tokens::{Keyset, TokenError, check};
use tokio::net::TcpListener;

use super::{audiences, fixture, tenants, token};
use crate::rig::{HOUR, TestClock};

const DOCUMENT: &str = "/common/.well-known/openid-configuration";
const MINUTE: Duration = Duration::from_secs(60);

/// A login host: what it answers, and what it was asked for.
#[derive(Debug, Default)]
struct World {
    /// Of every answer, if not 200.
    status: Option<u16>,
    document: String,
    keys: String,
    asked: Vec<String>,
}

struct Login {
    address: String,
    clock: TestClock,
    world: Arc<Mutex<World>>,
}

impl Login {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let world = Arc::new(Mutex::new(in_order(&address)));
        let shared = Arc::clone(&world);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let world = Arc::clone(&shared);
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let answer = answer(&mut world.lock().expect("no panic"), request.uri());
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, clock: TestClock::new(), world }
    }

    fn in_order(&self) -> World {
        in_order(&self.address)
    }

    fn keys(&self) -> Keys<Keyset> {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        Keys::new(client, Arc::new(self.clock.clone()), self.address.parse().expect("an address"), Keyset::parse)
    }

    fn set(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().expect("no panic"));
    }

    /// How often the document was asked for since the last call.
    fn asked(&self) -> usize {
        let asked = std::mem::take(&mut self.world.lock().expect("no panic").asked);
        asked.iter().filter(|path| *path == DOCUMENT).count()
    }
}

fn in_order(address: &str) -> World {
    let document = format!("{{\"jwks_uri\":\"{address}/common/discovery/keys?x=1\"}}");
    World { document, keys: fixture("keys.json"), ..World::default() }
}

fn answer(world: &mut World, uri: &hyper::Uri) -> Response<Full<Bytes>> {
    world.asked.push(uri.to_string());
    let body = match uri.to_string().as_str() {
        DOCUMENT => Some(world.document.clone()),
        "/common/discovery/keys?x=1" => Some(world.keys.clone()),
        _ => None,
    };
    let status = world.status.unwrap_or(if body.is_some() { 200 } else { 404 });
    let answer = Response::builder().status(status).header("location", "/elsewhere");
    answer.body(Full::new(Bytes::from(body.unwrap_or_default()))).expect("an answer")
}

#[tokio::test]
async fn many_who_need_keys_fetch_them_once_and_keep_them_for_an_hour() {
    let login = Login::start().await;
    let keys = login.keys();
    let many = futures_util::future::join_all((0..8).map(|_| keys.current())).await;
    let first = many[0].as_ref().expect("keys");
    assert!(many.iter().all(|keys| Arc::ptr_eq(keys.as_ref().expect("keys"), first)));
    assert_eq!(login.asked(), 1);
    let token = token("2.0", |claims| {
        claims["iss"] = format!("{}/{}/v2.0", login.address, super::TENANT).into();
    });
    assert!(check(&token, first, &audiences(), &tenants(), super::now()).is_ok());
    login.clock.advance(Duration::from_secs(3_599));
    keys.current().await.expect("keys");
    assert_eq!(login.asked(), 0);
    login.clock.advance(Duration::from_secs(1));
    keys.current().await.expect("keys");
    assert_eq!(login.asked(), 1);
}

#[tokio::test]
async fn a_key_that_was_withdrawn_is_trusted_for_an_hour() {
    let login = Login::start().await;
    let keys = login.keys();
    let judge = |keys: &Keyset| {
        let token = token("1.0", |_| ());
        check(&token, keys, &audiences(), &tenants(), super::now())
    };
    assert!(judge(&keys.current().await.expect("keys")).is_ok());
    login.set(|world| world.keys = world.keys.replace("\"published\"", "\"another\""));
    login.clock.advance(HOUR);
    assert_eq!(judge(&keys.current().await.expect("keys")), Err(TokenError::UnknownKey));
}

#[tokio::test]
async fn while_one_asks_a_slow_login_host_the_others_go_on_with_the_keys_that_there_are() {
    let login = Login::start().await;
    let keys = login.keys();
    let first = keys.current().await.expect("keys");
    login.clock.advance(HOUR);
    login.asked();
    let mut slow = std::pin::pin!(keys.current());
    assert!(futures_util::poll!(slow.as_mut()).is_pending(), "asks");
    let at_once = keys.current().now_or_never().expect("no waiting");
    assert!(Arc::ptr_eq(&at_once.expect("old keys"), &first));
    assert!(!Arc::ptr_eq(&slow.await.expect("new keys"), &first));
    assert_eq!(login.asked(), 1);
    login.clock.advance(24 * HOUR);
    let (one, other) = futures_util::join!(keys.current(), keys.current());
    assert!(Arc::ptr_eq(&one.expect("new keys"), &other.expect("new keys")), "what is too old is no help");
}

#[tokio::test]
async fn an_outage_is_survived_for_a_day_and_not_longer() {
    let login = Login::start().await;
    let keys = login.keys();
    let first = keys.current().await.expect("keys");
    login.set(|world| world.status = Some(503));
    login.clock.advance(2 * HOUR);
    login.asked();
    assert!(Arc::ptr_eq(&keys.current().await.expect("old keys"), &first));
    let tries = login.asked();
    assert!(tries > 0);
    assert!(Arc::ptr_eq(&keys.current().await.expect("old keys"), &first));
    assert_eq!(login.asked(), 0, "not asked again at once");
    login.clock.advance(21 * HOUR);
    keys.current().await.expect("old keys");
    login.clock.advance(HOUR);
    let error = keys.current().await.expect_err("too old");
    assert!(matches!(&error, KeysError::NoAnswer(failure) if failure.status == Some(503)), "{error}");
    assert!(keys.anew(&first).await.is_err(), "nor by another way");
    login.set(|world| world.status = None);
    assert!(keys.current().await.is_err(), "not within a minute");
    login.clock.advance(MINUTE);
    keys.current().await.expect("new keys");
}

#[tokio::test]
async fn an_unknown_key_is_looked_for_once_in_five_minutes() {
    let login = Login::start().await;
    let keys = login.keys();
    let published = fixture("keys.json");
    login.set(|world| world.keys = published.replace("\"published\"", "\"yesterday\""));
    let first = keys.current().await.expect("keys");
    let judge = |keys: &Keyset| {
        let token = token("1.0", |_| ());
        check(&token, keys, &audiences(), &tenants(), super::now())
    };
    assert_eq!(judge(&first), Err(TokenError::UnknownKey));
    login.set(|world| world.keys = published);
    login.asked();
    assert!(Arc::ptr_eq(&keys.anew(&first).await.expect("keys"), &first), "asked just now");
    login.clock.advance(5 * MINUTE);
    let many = futures_util::future::join_all((0..8).map(|_| keys.anew(&first))).await;
    assert_eq!(login.asked(), 1);
    for keys in many {
        assert!(judge(&keys.expect("keys")).is_ok());
    }
    let second = keys.current().await.expect("keys");
    for _ in 0..100 {
        keys.anew(&second).await.expect("keys");
    }
    assert_eq!(login.asked(), 0, "forgeries do not make us ask");
    login.clock.advance(6 * MINUTE);
    assert!(Arc::ptr_eq(&keys.anew(&first).await.expect("keys"), &second), "newer ones are there already");
    assert_eq!(login.asked(), 0);
    login.set(|world| world.status = Some(500));
    assert!(Arc::ptr_eq(&keys.anew(&second).await.expect("the keys that we have"), &second));
}

#[tokio::test]
async fn without_keys_nothing_is_proven_and_the_host_is_not_stormed() {
    let login = Login::start().await;
    let elsewhere = |address: &str| World { document: format!("{{\"jwks_uri\":\"{address}\"}}"), ..login.in_order() };
    let rows = [
        ("status 404", World { status: Some(404), ..login.in_order() }),
        ("status 302", World { status: Some(302), ..login.in_order() }),
        ("no JSON", World { document: "<html>".to_owned(), ..login.in_order() }),
        ("names no keys", World { document: "{}".to_owned(), ..login.in_order() }),
        ("another place", elsewhere("https://forger.example/keys")),
        ("another place", elsewhere("http://127.0.0.1:1/keys")),
        ("another place", elsewhere("file:///etc/passwd")),
        ("key set", World { keys: r#"{"keys":[]}"#.to_owned(), ..login.in_order() }),
        ("key set", World { keys: "x".repeat(100), ..login.in_order() }),
    ];
    for (story, broken) in rows {
        let keys = login.keys();
        login.set(|world| *world = broken);
        let error = keys.current().await.expect_err(story);
        let line = error.to_string();
        assert!(line.contains(story) && !line.contains('\n'), "{story}: {line}");
        login.asked();
        assert_eq!(keys.current().await.expect_err(story).to_string(), line);
        assert_eq!(login.asked(), 0, "{story}: not within a minute");
        login.set(|world| *world = login.in_order());
        login.clock.advance(MINUTE);
        keys.current().await.expect("keys, once it is in order");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_none() {
    let login = Login::start().await;
    login.set(|world| world.keys = " ".repeat(2 << 20));
    let error = login.keys().current().await.expect_err("too large");
    assert!(matches!(error, KeysError::NoAnswer(_)), "{error}");
}
