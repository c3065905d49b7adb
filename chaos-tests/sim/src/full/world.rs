//! The simulated surroundings of a node: turmoil's network, tokio's paused time, numbers from the seed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::StreamExt as _;
use steersman_world::{BoxIo, Clock, Incoming, Net, SeededEntropy, World};
use tokio::time::Instant;

/// Unix time at which every simulation begins: an arbitrary fixed date, only ever shown.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// The world of one simulated host. `shift_ms` moves its wall clock, which must change nothing.
pub fn world(seed: u64, shift_ms: u64) -> World {
    World { clock: Arc::new(SimClock { shift_ms }), entropy: Arc::new(SeededEntropy::new(seed)), net: Arc::new(SimNet) }
}

struct SimClock {
    shift_ms: u64,
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_ms(&self) -> u64 {
        EPOCH_MS + self.shift_ms + elapsed().as_millis() as u64
    }
}

/// Simulated time since the simulation began.
pub fn elapsed() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

struct SimNet;

impl Net for SimNet {
    fn bind(&self, addr: String) -> BoxFuture<'static, io::Result<Incoming>> {
        Box::pin(async move {
            let listener = turmoil::net::TcpListener::bind(addr).await?;
            let local = listener.local_addr()?;
            let stream = futures::stream::unfold(listener, |listener| async move {
                let accepted = listener.accept().await.map(|(io, peer)| BoxIo::new(io, Some(peer)));
                Some((accepted, listener))
            });
            Ok(Incoming { local, stream: stream.boxed() })
        })
    }

    fn connect(&self, addr: String) -> BoxFuture<'static, io::Result<BoxIo>> {
        Box::pin(async move {
            let io = turmoil::net::TcpStream::connect(addr).await?;
            let peer = io.peer_addr().ok();
            Ok(BoxIo::new(io, peer))
        })
    }
}
