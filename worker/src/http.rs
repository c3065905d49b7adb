//! The small HTTP listener: `/metrics`, `/livez`, `/readyz`. It changes nothing and knows no tasks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use futures::StreamExt as _;
use steersman_world::{BoxIo, Clock, Incoming, World};
use tokio_util::sync::CancellationToken;

use crate::error::WorkerError;
use crate::lease::Lease;
use crate::metrics::Metrics;

struct Accepting(Incoming);

impl axum::serve::Listener for Accepting {
    type Io = BoxIo;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoxIo, SocketAddr) {
        loop {
            match self.0.stream.next().await {
                Some(Ok(io)) => {
                    let peer = io.peer.unwrap_or(self.0.local);
                    return (io, peer);
                }
                // One failed accept (e.g. out of descriptors): a pause, so that it does not spin.
                Some(Err(_)) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local)
    }
}

/// Serves until `stop`; returns where it listens.
pub(crate) async fn serve(
    world: &World,
    addr: String,
    metrics: Arc<Metrics>,
    lease: Arc<Lease>,
    stop: CancellationToken,
) -> Result<SocketAddr, WorkerError> {
    let incoming = world.net.bind(addr.clone()).await.map_err(|source| WorkerError::Listen { addr, source })?;
    let local = incoming.local;
    let clock = world.clock.clone();
    let ready = metrics.clone();
    let app = Router::new()
        .route("/metrics", get(move || async move { metrics.render() }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { readiness(&ready, &lease, &*clock) }));
    tokio::spawn(async move {
        let serving = axum::serve(Accepting(incoming), app).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::error!(%error, "the HTTP listener ended");
        }
    });
    Ok(local)
}

fn readiness(metrics: &Metrics, lease: &Lease, clock: &dyn Clock) -> (StatusCode, &'static str) {
    let open = metrics.session_open.load(std::sync::atomic::Ordering::Relaxed);
    match (open, lease.expired(clock.now())) {
        (true, false) => (StatusCode::OK, "ready: a leader believes in this worker\n"),
        (true, true) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: the leader does not acknowledge heartbeats\n"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: no session with a leader\n"),
    }
}
