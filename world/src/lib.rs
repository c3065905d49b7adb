//! The seams: the world comes in by parameter.
//!
//! Clocks, randomness, listeners and connectors reach a master, a worker or a client only as values of this crate, so
//! that the very same code runs on a real machine ([`World::real`]) and in a simulated one. Spawning and sleeping go
//! through the ambient tokio runtime, which the simulation owns (turmoil gives every host its own, under simulated time);
//! what must not share threads with Raft is handed its own [`Spawner`]. The disk under the Raft store has its own seam in
//! `steersman-raft-store`.
//!
//! What always holds: nothing here decides anything; wall time ([`Clock::wall_ms`]) is only ever shown.

mod clock;
mod entropy;
mod net;
mod spawner;

pub use clock::{Clock, RealClock};
pub use entropy::{Entropy, RealEntropy, SeededEntropy};
pub use net::{BoxIo, Connector, Incoming, Io, Net, TcpNet};
pub use spawner::{Around, Spawner};

use std::sync::Arc;

/// Everything a node takes from its surroundings. Cheap to clone.
#[derive(Clone)]
pub struct World {
    /// Monotonic and wall time.
    pub clock: Arc<dyn Clock>,
    /// Ids and jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Listeners and connectors.
    pub net: Arc<dyn Net>,
}

impl World {
    /// The real machine: OS clocks, OS randomness, TCP.
    pub fn real() -> Self {
        Self { clock: Arc::new(RealClock), entropy: Arc::new(RealEntropy), net: Arc::new(TcpNet) }
    }
}
