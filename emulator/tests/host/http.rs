//! The front door: routes, keys, methods, manual runs, and requests passed on.

use emulator::host::{Fault, FunctionsHost};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::app::App;
use crate::listener::{Raw, read};

async fn send(host: &FunctionsHost, request: &str, headers: &str, body: &str) -> Raw {
    let mut stream = TcpStream::connect(host.url().trim_start_matches("http://")).await.expect("connected");
    let text = format!("{request} HTTP/1.1\r\nHost: app\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await.expect("written");
    read(&mut stream, &mut Vec::new()).await.expect("an answer")
}

fn status(raw: &Raw) -> &str {
    raw.words().1
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_methods_and_keys_are_the_hosts_affair() {
    let app = App::new()
        .http("Open", &json!({"authLevel": "anonymous", "route": "items/{id:int}", "methods": ["get"]}))
        .http("Keyed", &json!({"methods": ["post"]}))
        .http("Admin", &json!({"authLevel": "admin"}))
        .host(|json| json["extensions"] = json!({"http": {"routePrefix": "v1/api"}}));
    let host = FunctionsHost::start(app.options()).await.unwrap();
    let asked = async |request: &str, headers: &str| status(&send(&host, request, headers, "").await).to_owned();
    assert_eq!(asked("GET /v1/api/items/7", "").await, "200");
    assert_eq!(asked("GET /v1/api/items/seven", "").await, "404");
    assert_eq!(asked("POST /v1/api/items/7", "").await, "404");
    assert_eq!(asked("GET /api/items/7", "").await, "404");
    assert_eq!(asked("POST /v1/api/Keyed", "").await, "401");
    assert_eq!(asked("POST /v1/api/Keyed?code=emulated-function-key", "").await, "200");
    assert_eq!(asked("POST /v1/api/Keyed?code=emulated-function-key", "x-functions-key: wrong\r\n").await, "401");
    assert_eq!(asked("POST /v1/api/Keyed", "x-functions-key: emulated-master-key\r\n").await, "200");
    assert_eq!(asked("GET /v1/api/Admin?code=emulated-function-key", "").await, "401");
    assert_eq!(asked("GET /v1/api/Admin?code=emulated-master-key", "").await, "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_run_is_accepted_and_runs() {
    let app = App::new().queue("Work", "work").timer("Tick", "0 0 5 * * *");
    let host = FunctionsHost::start(app.options()).await.unwrap();
    let key = "x-functions-key: emulated-master-key\r\nContent-Type: application/json\r\n";
    let input = r#"{"input":"hello"}"#;
    assert_eq!(status(&send(&host, "POST /admin/functions/Work", "", input).await), "401");
    assert_eq!(status(&send(&host, "POST /admin/functions/Nobody", key, input).await), "404");
    let accepted = send(&host, "POST /admin/functions/Work", key, input).await;
    assert_eq!((status(&accepted), accepted.body.len()), ("202", 0));
    assert!(host.completed("Work", 1).await.results.logs[0].contains("hello"));
    send(&host, "POST /admin/functions/Tick", key, input).await;
    let log = host.completed("Tick", 1).await.results.logs[0].clone();
    assert!(log.contains("\"IsPastDue\":false") && log.contains("\"timer\":\"\\\"hello\\\"\""), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_survives_one_broken_connection_and_a_post_does_not() {
    let app = App::new().http("Open", &json!({"authLevel": "anonymous"}));
    let host = FunctionsHost::start(app.options()).await.unwrap();
    host.inject("Open", Fault::DropConnection).unwrap();
    let answer = send(&host, "GET /api/Open?x=1", "", "").await;
    assert_eq!((status(&answer), String::from_utf8_lossy(&answer.body).starts_with("GET /api/open?x=1 by")), ("200", true));
    host.inject("Open", Fault::DropConnection).unwrap();
    assert_eq!(status(&send(&host, "POST /api/Open", "", "body").await), "500");
    assert_eq!(status(&send(&host, "POST /api/Open", "", "body").await), "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_answer_arrives_while_it_is_still_being_written() {
    let handler = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = App::new().http("Open", &json!({"authLevel": "anonymous"}));
    let mut options = app.options();
    options.attach = Some(handler.local_addr().unwrap().port());
    let host = FunctionsHost::start(options).await.unwrap();
    let (mut asked, _) = handler.accept().await.unwrap();
    let mut buffer = Vec::new();
    read(&mut asked, &mut buffer).await.unwrap();
    asked.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert!(host.ready().await);
    let mut client = TcpStream::connect(host.url().trim_start_matches("http://")).await.unwrap();
    client.write_all(b"POST /api/Open HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n").await.unwrap();
    // The handler gets the first half of the body, and answers with the first half of its own.
    let until = async |stream: &mut TcpStream, wanted: &str| {
        let mut bytes = Vec::new();
        while !String::from_utf8_lossy(&bytes).contains(wanted) {
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "{}", String::from_utf8_lossy(&bytes));
        }
    };
    until(&mut asked, "\r\nhe\r\n").await;
    asked.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nwo\r\n").await.unwrap();
    until(&mut client, "\r\nwo\r\n").await;
    client.write_all(b"3\r\nllo\r\n0\r\n\r\n").await.unwrap();
    until(&mut asked, "llo\r\n0\r\n").await;
    asked.write_all(b"3\r\nrld\r\n0\r\n\r\n").await.unwrap();
    until(&mut client, "rld\r\n0\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_route_with_an_optional_parameter_passes_handshakes_and_deliveries_on() {
    let handler = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let trigger = json!({"authLevel": "anonymous", "methods": ["post"], "route": "notifications/{profile?}"});
    let app = App::new().http("ReceiveNotifications", &trigger);
    let mut options = app.options();
    options.attach = Some(handler.local_addr().unwrap().port());
    let host = FunctionsHost::start(options).await.unwrap();
    // Each request has a connection of its own: whether the host keeps one in time for the next is its affair.
    let answered = async |answer: &str| {
        let (mut asked, _) = handler.accept().await.unwrap();
        let got = read(&mut asked, &mut Vec::new()).await.unwrap();
        asked.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
        got
    };
    answered("200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert!(host.ready().await);
    let plain = "Content-Type: text/plain; charset=utf-8\r\n";
    let (query, body) = ("?code=k%3d1&validationToken=Validation%3a+a%2bb%25", "{\"value\":[]}");
    let cases = [
        (format!("/api/notifications{query}"), plain, ""),
        (format!("/api/notifications/guide{query}"), plain, ""),
        ("/api/notifications".to_owned(), "Content-Type: application/json\r\n", body),
        ("/api/notifications/guide".to_owned(), "Content-Type: application/json\r\n", body),
    ];
    for (target, headers, body) in cases {
        let request = format!("POST {target}");
        let accepted = "202 Accepted\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: 5\r\n\r\na+b %";
        let (answer, got) = tokio::join!(send(&host, &request, headers, body), answered(accepted));
        assert_eq!(got.words(), ("POST", target.as_str()), "every byte of path and query");
        assert_eq!(String::from_utf8_lossy(&got.body), body);
        assert_eq!((status(&answer), String::from_utf8_lossy(&answer.body).as_ref()), ("202", "a+b %"));
        assert_eq!(
            (answer.header("content-type"), answer.header("x-content-type-options")),
            (Some("text/plain; charset=utf-8"), Some("nosniff"))
        );
    }
    assert_eq!(status(&send(&host, "GET /api/notifications", "", "").await), "404", "another method is another route");
    assert_eq!(status(&send(&host, "POST /api/notifications/guide/more", "", "").await), "404");
}
