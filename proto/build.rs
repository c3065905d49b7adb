//! Compiles the .proto files with protox (pure Rust, no protoc) and writes the descriptor set for reflection.
use std::path::{Path, PathBuf};

use prost::Message as _;

const FILES: &[&str] = &[
    "steersman/v1/common.proto",
    "steersman/v1/tasks.proto",
    "steersman/v1/workers.proto",
    "steersman/v1/cluster.proto",
    "steersman/v1/events.proto",
    "steersman/worker/v1/session.proto",
    "steersman/raft/v1/raft.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, [Path::new("proto")])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("steersman.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
