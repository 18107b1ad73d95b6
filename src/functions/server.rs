//! Serves the router to the Functions host over loopback.
//!
//! Not `axum::serve`: that one closes a connection whose next request is slow to come, and the host fails an invocation whose
//! connection is closed under it (it does not post an envelope twice).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use crate::platform::clock::Clock;

/// After an error of the listener (no file descriptors left), so that it is not asked again at once.
const REST: Duration = Duration::from_millis(100);

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, router: Router, clock: Arc<dyn Clock>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!("failed to accept a connection of the Functions host: {error}");
                clock.alarm(REST).await;
                continue;
            }
        };
        drop(stream.set_nodelay(true));
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(stream), service);
            // How a connection ends is the host's affair; an invocation that it began goes on.
            if let Err(error) = connection.await {
                tracing::debug!("a connection of the Functions host ended: {error}");
            }
        });
    }
}
