//! `serve`: everything in one process, until it is asked to stop.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

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
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return failed(&format!("failed to wait for signals: {error}")),
    };
    let (stop, stops) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // Further ones say nothing new.
            let _ = stop.try_send(());
        }
    });
    tracing::info!(
        "serving {} job(s); notifications at http://{listen}/api/notifications; Ctrl-C stops",
        app.exporter.jobs().len()
    );
    match standalone::serve(app, receiver, Arc::clone(clock), listener, stops).await {
        Ok(()) => Exit::Done,
        Err(error) => failed(&error),
    }
}
