//! What a master shows of itself: Prometheus metrics and HTTP probes.
//!
//! What always holds: observing changes nothing and waits for nobody but a short read lock. Names are `steersman_*` with
//! units, labels are bounded. It decides nothing.

pub mod http;
pub mod metrics;
mod store;

pub use metrics::Metrics;
