//! Serves a router over HTTP: to the Functions host over loopback, or to anybody.
//!
//! Not `axum::serve`: for the host, that one closes a connection whose next request is slow to come, and the host fails an invocation whose
//! connection is closed under it (it does not post an envelope twice).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use crate::platform::clock::Clock;

/// After an error of the listener (no file descriptors left), so that it is not asked again at once.
const REST: Duration = Duration::from_millis(100);

/// Serves until the process ends. `patience`: how long a client may take for the head of a request; the host, any time.
pub async fn serve(listener: TcpListener, router: Router, clock: Arc<dyn Clock>, patience: Option<Duration>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!("failed to accept a connection: {error}");
                clock.alarm(REST).await;
                continue;
            }
        };
        drop(stream.set_nodelay(true));
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(patience);
            // How a connection ends is the client's affair; an invocation that it began goes on.
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
}
