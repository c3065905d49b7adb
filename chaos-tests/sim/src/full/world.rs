//! The simulated surroundings of a node: turmoil's network, tokio's paused time, numbers from the seed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::future::BoxFuture;
use futures::stream::StreamExt as _;
use steersman_world::{BoxIo, Clock, Incoming, Net, SeededEntropy, World};
use tokio::time::Instant;

use super::recorder::Recorder;

/// Unix time at which every simulation begins: an arbitrary fixed date, only ever shown.
pub const EPOCH_MS: u64 = 1_700_000_000_000;

/// How far a host's wall clock is off, in ms. Shared by the host's lives.
pub type WallOffset = Arc<AtomicI64>;

/// The world of one simulated host.
pub fn world(seed: u64, wall: WallOffset, recorder: Recorder) -> World {
    World {
        clock: Arc::new(SimClock { wall, recorder }),
        entropy: Arc::new(SeededEntropy::new(seed)),
        net: Arc::new(SimNet),
    }
}

struct SimClock {
    wall: WallOffset,
    recorder: Recorder,
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_ms(&self) -> u64 {
        let offset = self.wall.load(Ordering::Relaxed);
        (EPOCH_MS + self.recorder.now_us() / 1_000).saturating_add_signed(offset)
    }
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
