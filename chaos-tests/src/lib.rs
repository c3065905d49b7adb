//! The weather: clusters of real processes on real disks, what is done to them, and what must be true afterwards.
//!
//! What always holds: tests of this crate see only what a client sees; none of them imports a master. They need the built
//! binary (`cargo build -p steersman`, or its path in `STEERSMAN_BIN`) and Linux. Folders of tests that failed stay in
//! `chaos-tests/runs`. The simulated world is a workspace of its own, in `sim/`.

pub mod audit;
pub mod bed;
pub mod chaos;
pub mod cli;
pub mod cluster;
pub mod history;
pub mod http;
pub mod load;
pub mod nemesis;
pub mod poll;
pub mod ports;
pub mod process;
pub mod raw_worker;
pub mod settings;
pub mod spec;

pub use cluster::{Cluster, PATIENCE, Reign};
pub use settings::Settings;
