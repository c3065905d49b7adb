//! Real chaos: real processes under load and under faults, and everything that was seen of it in one history.
//!
//! What always holds: workloads see only what clients see; the schedule of faults comes from the seed alone; whatever happens
//! (a failure, Ctrl-C), faults are healed, processes are ended and the history stays. Verdicts are the business of
//! `steersman-evidence`: nothing here judges the product, and a run that showed too little is unknown, never good.

pub mod clock;
pub mod demands;
pub mod ending;
pub mod fenced;
pub mod ground;
pub mod intervals;
pub mod judge;
pub mod keys;
pub mod recorder;
pub mod run;
pub mod schedule;
pub mod storm;
pub mod targets;
pub mod traffic;
pub mod watcher;
pub mod work;
pub mod workloads;

pub use recorder::{Counts, Recorder};
