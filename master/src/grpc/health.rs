//! The standard health service: serving means progress (a leader with a recent quorum), not a live process.
//!
//! What always holds: `Check` answers from memory at once, for the whole server and for each service by name. The answer
//! is the same for all of them: this master makes progress, or it does not.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::node::Node;
use crate::observe::progress;

/// How often a watched status is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// Services that can be asked for by name; empty is the server.
const SERVICES: &[&str] = &[
    "",
    "steersman.v1.Tasks",
    "steersman.v1.Workers",
    "steersman.v1.Cluster",
    "steersman.v1.Events",
    "steersman.worker.v1.Session",
];

/// The service.
pub fn server(node: Arc<Node>) -> HealthServer<HealthApi> {
    HealthServer::new(HealthApi { node })
}

/// Health of one node.
pub struct HealthApi {
    node: Arc<Node>,
}

type Watch = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

fn serving(node: &Node) -> ServingStatus {
    if progress(node).1 { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn known(request: &Request<HealthCheckRequest>) -> bool {
    SERVICES.contains(&request.get_ref().service.as_str())
}

#[tonic::async_trait]
impl Health for HealthApi {
    type WatchStream = Watch;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !known(&request) {
            return Err(Status::not_found(format!("no service of that name; known are {}", SERVICES.join(" "))));
        }
        Ok(Response::new(HealthCheckResponse { status: serving(&self.node).into() }))
    }

    /// Tells the status at once and whenever it changes, until the node goes down.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Watch>, Status> {
        // The protocol wants an unknown service to be told so, and the stream kept.
        let known = known(&request);
        let changes = stream::unfold((self.node.clone(), None), move |(node, told)| async move {
            loop {
                if told.is_some() && node.shutting_down() {
                    return None;
                }
                let now = if known { serving(&node) } else { ServingStatus::ServiceUnknown };
                if told != Some(now) {
                    return Some((Ok(HealthCheckResponse { status: now.into() }), (node, Some(now))));
                }
                tokio::time::sleep(WATCH_EVERY).await;
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
