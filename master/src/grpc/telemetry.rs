//! Counts and times every call of the API by method and code.
//!
//! What always holds: labels come from the compiled-in descriptors and gRPC's own codes, so a caller can't invent series.
//! A stream counts when its first answer is there; what ends it later is not counted.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use prost::Message as _;
use steersman_world::Clock;
use tonic::Code;

use crate::observe::Metrics;

/// Every method that there is, as `package.Service/Method`.
static METHODS: LazyLock<BTreeSet<&'static str>> = LazyLock::new(methods);

/// The router with every call counted.
pub fn measured(router: axum::Router, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> axum::Router {
    router.layer(from_fn_with_state((metrics, clock), measure))
}

type Meter = (Arc<Metrics>, Arc<dyn Clock>);

async fn measure(State((metrics, clock)): State<Meter>, request: Request, next: Next) -> Response {
    let method = METHODS.get(request.uri().path().trim_start_matches('/')).copied();
    let since = clock.now();
    let response = next.run(request).await;
    metrics.api_call(method.unwrap_or("unknown"), code_of(&response), clock.now() - since);
    response
}

/// An error comes as a header; success is told in the trailers only.
fn code_of(response: &Response) -> &'static str {
    let header = response.headers().get("grpc-status");
    name(header.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes())))
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::Unknown => "UNKNOWN",
    }
}

/// What the descriptors know. Leaked, once: labels live as long as the process.
fn methods() -> BTreeSet<&'static str> {
    let sets = [steersman_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let files =
        sets.into_iter().filter_map(|set| prost_types::FileDescriptorSet::decode(set).ok()).flat_map(|set| set.file);
    let mut methods = BTreeSet::new();
    for file in files {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                methods.insert(&*name.leak());
            }
        }
    }
    methods
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_of_all_services_are_known() {
        let methods = methods();
        for method in [
            "steersman.v1.Tasks/Submit",
            "steersman.v1.Cluster/WatchLeader",
            "steersman.v1.Events/Subscribe",
            "steersman.worker.v1.Session/Open",
            "grpc.health.v1.Health/Check",
        ] {
            assert!(methods.contains(method), "{method} in {methods:?}");
        }
    }
}
