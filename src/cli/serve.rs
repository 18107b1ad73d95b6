//! `serve`: everything in one process, until it is asked to stop.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, failed};
use crate::app::receiver::Receiver;
use crate::app::{App, Surroundings};
use crate::standalone;

pub(super) async fn run(listen: SocketAddr, app: App, around: &Surroundings) -> Exit {
    let clock = &around.clock;
    let listener = match TcpListener::bind(listen).await {
        Ok(listener) => listener,
        Err(error) => return failed(&format!("failed to listen on {listen}: {error}; choose another with --listen")),
    };
    let receiver = Receiver::beside(&app, clock);
    let stop = match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = tokio::signal::ctrl_c() => {}
                }
            }
        }
        Err(error) => return failed(&format!("failed to wait for signals: {error}")),
    };
    tracing::info!(
        "serving {} job(s); notifications at http://{listen}/api/notifications; Ctrl-C stops",
        app.exporter.jobs().len()
    );
    match standalone::serve(app, receiver, Arc::clone(clock), listener, stop).await {
        Ok(()) => Exit::Done,
        Err(error) => failed(&error),
    }
}
