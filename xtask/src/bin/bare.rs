//! The least that a custom handler can be: axum, listening where the Functions host says, with an answer to `GET /` and to the
//! handshake of Microsoft Graph. What `cargo xtask bench --start` measures the product's start against.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use axum::Router;
use axum::extract::Query;
use axum::routing::{get, post};
use tokio::net::TcpListener;

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "the host tells the port by the environment")]
    let port = std::env::var("FUNCTIONS_CUSTOMHANDLER_PORT")?.parse()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let handshake =
        post(async |Query(mut query): Query<BTreeMap<String, String>>| query.remove("validationToken").unwrap_or_default());
    axum::serve(listener, Router::new().route("/", get(|| async { "ready" })).route("/api/notifications", handshake)).await?;
    Ok(())
}
