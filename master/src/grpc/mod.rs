//! The gRPC edge.

pub mod status;
