//! The simulated surroundings of a node: turmoil's network, tokio's paused time, numbers from the seed.

use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::StreamExt as _;
use steersman_world::{BoxIo, Incoming, Net, SeededEntropy, World};

use crate::clock::NodeClock;

/// The world of one simulated host.
pub fn world(seed: u64, clock: Arc<NodeClock>) -> World {
    World { clock, entropy: Arc::new(SeededEntropy::new(seed)), net: Arc::new(SimNet) }
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
