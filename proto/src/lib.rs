//! The wire: code generated from `proto/`. No behaviour lives here.
//!
//! `v1` is what clients speak, `worker::v1` the session between a worker and the leader, `raft::v1` what masters say to
//! each other. [`codes`] is the table of stable error codes that both ends of the wire share.
#![allow(missing_docs)]
#![allow(clippy::all)]

pub mod codes;

/// What clients and operators speak.
pub mod v1 {
    tonic::include_proto!("steersman.v1");
}

/// The session between a worker and the leader.
pub mod worker {
    pub mod v1 {
        tonic::include_proto!("steersman.worker.v1");
    }
}

/// What masters say to each other.
pub mod raft {
    pub mod v1 {
        tonic::include_proto!("steersman.raft.v1");
    }
}

/// The compiled descriptors of all packages, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/steersman.bin"));
