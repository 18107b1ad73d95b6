//! The least that a custom handler can be: axum, listening where the Functions host says, with an answer to `GET /`. What
//! `cargo xtask bench --start` measures the product's start against.

use std::net::Ipv4Addr;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "the host tells the port by the environment")]
    let port = std::env::var("FUNCTIONS_CUSTOMHANDLER_PORT")?.parse()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    axum::serve(listener, Router::new().route("/", get(|| async { "ready" }))).await?;
    Ok(())
}
