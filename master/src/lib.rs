//! The node: one door to the log, peers, the gRPC and HTTP edge, and the leader's duties.
//!
//! [`run`] starts a master on the real machine, [`start`] one in any [`Surroundings`]: the same code in both. What always
//! holds: the state decides, this crate carries. It never decides what `steersman-state` could.

mod audit;
pub mod bare;
mod bootstrap;
mod clock;
pub mod config;
mod election;
pub mod exit;
mod fitness;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod grpc;
pub mod leader;
mod network;
pub mod node;
pub mod observe;
mod propose;
mod raft_service;
mod reads;
mod start;
mod takeover;
pub mod waiters;
mod wire;

pub use exit::NodeError;
pub use start::{Running, Surroundings, run, run_on, start};
