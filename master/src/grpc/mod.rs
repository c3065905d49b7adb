//! The gRPC edge: translates, forwards one hop, and answers from the state. It decides nothing and changes no state.
//!
//! What always holds: a request is checked in full before anything is proposed; a mutation goes through
//! [`Node::propose`](crate::node::Node::propose) and nowhere else; no state lock is held across an `.await`; every error
//! carries its stable code.

mod cluster_api;
pub mod convert;
mod events_api;
mod forward;
mod health;
mod membership;
mod reading;
mod session_api;
pub mod status;
mod tasks_api;
mod telemetry;
mod verify;
mod workers_api;

pub use events_api::EventsApi;
pub use forward::Edge;
pub use session_api::converse;
pub use tasks_api::TasksApi;
pub use workers_api::WorkersApi;

use std::sync::Arc;

use steersman_proto::FILE_DESCRIPTOR_SET;
use steersman_proto::v1::cluster_server::ClusterServer;
use steersman_proto::v1::events_server::EventsServer;
use steersman_proto::v1::tasks_server::TasksServer;
use steersman_proto::v1::workers_server::WorkersServer;
use tonic::service::{Routes, RoutesBuilder};

use crate::node::Node;

/// Every service of the API listener, with limits and metrics.
pub fn api_router(node: Arc<Node>) -> Routes {
    let limit = node.config.limits.message_bytes_max as usize;
    let edge = forward::Edge::new(node.clone());
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service).max_decoding_message_size(limit).max_encoding_message_size(limit)
        };
    }
    let mut services = RoutesBuilder::default();
    services
        .add_service(limited!(TasksServer, tasks_api::TasksApi::new(edge.clone())))
        .add_service(limited!(WorkersServer, workers_api::WorkersApi::new(edge.clone())))
        .add_service(limited!(ClusterServer, cluster_api::ClusterApi::new(edge)))
        .add_service(limited!(EventsServer, events_api::EventsApi::new(node.clone())))
        .add_service(session_api::SessionApi::server(node.clone()))
        .add_service(health::server(node.clone()));
    add_reflection(&mut services);
    let (metrics, clock) = (node.metrics.clone(), node.world.clock.clone());
    let told = membership::told(services.routes().into_axum_router(), node);
    let measured = telemetry::measured(told, metrics, clock);
    RoutesBuilder::from(measured).routes()
}

/// Reflection in both versions that tools ask for.
fn add_reflection(services: &mut RoutesBuilder) {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => {
            services.add_service(v1).add_service(v1alpha);
        }
        // The descriptors are compiled in, and a test builds them.
        (v1, v1alpha) => {
            let error = v1.err().or(v1alpha.err());
            tracing::error!(error = error.map(|e| e.to_string()), "no reflection");
        }
    }
}
