//! Tells with every answer of the API how new the membership is that this master knows, as the log index of its entry:
//! `steersman-membership`. A client that sees it rise asks who the masters are, before all whom it knows are gone.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::middleware::map_response_with_state;
use axum::response::Response;

use crate::node::Node;

/// The router whose answers tell.
pub fn told(router: axum::Router, node: Arc<Node>) -> axum::Router {
    router.layer(map_response_with_state(node, tell))
}

async fn tell(State(node): State<Arc<Node>>, mut response: Response) -> Response {
    if let Some(index) = node.membership_index() {
        response.headers_mut().insert("steersman-membership", HeaderValue::from(index));
    }
    response
}
