//! Faults that a node of `steersman dev` does to itself when `dev` tells it so: links that are cut, a disk that is full, a wall
//! clock that jumped.
//!
//! What always holds: none of this exists unless the hidden flag `--faults` was given, and a node with that flag refuses to start if
//! any of its addresses is not loopback. Commands come only through the pipe that is the node's stdin, which its parent holds; when the
//! pipe ends, so does the node. A cut is made where a connection is dialled: bytes wait in both directions and connects hang, as
//! if packets were dropped; a connection that is given up meanwhile stays open for the other end until the cut heals.
//! It does not lose bytes that the kernel already has, and it does not touch the monotonic clock, which no fault can move.

use std::collections::BTreeSet;
use std::io;
use std::net::ToSocketAddrs as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use steersman_raft_store::{Disk, DiskFile, DiskLock, DiskWriter, Job, KeyBatch, Keys, Lane, StoreError};
use steersman_world::{BoxIo, Clock, Incoming, Net, World};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::exit::{Failure, Outcome};

/// What is wrong with a node at the moment. Each command replaces the whole set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultSet {
    /// Addresses that this node cannot reach, as it dials them.
    pub cut: BTreeSet<String>,
    /// Writes fail as on a full disk (masters only).
    pub disk_full: bool,
    /// Added to the wall clock, in ms.
    pub clock_ms: i64,
}

#[derive(Default)]
struct Inner {
    set: FaultSet,
    /// Connections that wait for their link.
    waiting: Vec<Waker>,
    /// Given up while cut: the other end must not see that yet.
    given_up: Vec<(String, BoxIo)>,
}

/// The faults of this process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Inner>>);

impl Faults {
    /// For a node that listens and is reached at these addresses.
    ///
    /// # Errors
    /// If one of them is not loopback.
    pub fn on_loopback<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Outcome<Self> {
        for address in addresses {
            let loopback = address.to_socket_addrs().is_ok_and(|mut found| found.all(|at| at.ip().is_loopback()));
            if !loopback {
                let message = format!("--faults is for nodes on loopback only, and {address} is not");
                return Err(Failure::usage(message, "leave --faults to steersman dev"));
            }
        }
        Ok(Self::default())
    }

    /// The same world with these faults in it.
    pub fn world(&self, world: World) -> World {
        let net = Arc::new(FaultyNet { inner: world.net, faults: self.clone() });
        let clock = Arc::new(FaultyClock { inner: world.clock, faults: self.clone() });
        World { clock, net, entropy: world.entropy }
    }

    /// The same disk with these faults on it.
    pub fn disk(&self, inner: impl Disk) -> FaultyDisk {
        FaultyDisk { inner: Box::new(inner), faults: self.clone() }
    }

    /// Takes one line of the pipe. What is no command is told and changes nothing.
    pub fn obey(&self, line: &str) {
        match serde_json::from_str(line) {
            Ok(set) => self.replace(set),
            Err(error) => tracing::warn!(%error, "this is no set of faults"),
        }
    }

    fn replace(&self, set: FaultSet) {
        tracing::warn!(?set, "faults injected by steersman dev");
        let (woken, closed) = {
            let mut inner = self.0.lock();
            inner.set = set;
            let (still, closed): (Vec<_>, Vec<_>) =
                std::mem::take(&mut inner.given_up).into_iter().partition(|(to, _)| inner.set.cut.contains(to));
            inner.given_up = still;
            (std::mem::take(&mut inner.waiting), closed)
        };
        drop(closed);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Whether the link is cut; then the task is woken at the next change.
    fn is_cut(&self, to: &str, cx: &Context<'_>) -> bool {
        let mut inner = self.0.lock();
        let cut = inner.set.cut.contains(to);
        if cut && !inner.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            inner.waiting.push(cx.waker().clone());
        }
        cut
    }

    fn check_disk(&self) -> io::Result<()> {
        if self.0.lock().set.disk_full {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        Ok(())
    }
}

struct FaultyClock {
    inner: Arc<dyn Clock>,
    faults: Faults,
}

impl Clock for FaultyClock {
    fn now(&self) -> tokio::time::Instant {
        self.inner.now()
    }

    fn wall_ms(&self) -> u64 {
        self.inner.wall_ms().saturating_add_signed(self.faults.0.lock().set.clock_ms)
    }
}

struct FaultyNet {
    inner: Arc<dyn Net>,
    faults: Faults,
}

impl Net for FaultyNet {
    fn bind(&self, addr: String) -> BoxFuture<'static, io::Result<Incoming>> {
        self.inner.bind(addr)
    }

    fn connect(&self, addr: String) -> BoxFuture<'static, io::Result<BoxIo>> {
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        Box::pin(async move {
            std::future::poll_fn(|cx| if faults.is_cut(&addr, cx) { Poll::Pending } else { Poll::Ready(()) }).await;
            let io = inner.connect(addr.clone()).await?;
            let peer = io.peer;
            Ok(BoxIo::new(Link { io: Some(io), to: addr, faults }, peer))
        })
    }
}

/// A connection whose link can be cut.
struct Link {
    /// Present until it is dropped.
    io: Option<BoxIo>,
    to: String,
    faults: Faults,
}

impl Link {
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(Pin<&mut BoxIo>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.faults.is_cut(&self.to, cx) {
            return Poll::Pending;
        }
        match &mut self.io {
            Some(io) => act(Pin::new(io), cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, |io, cx| io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(cx, |io, cx| io.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, |io, cx| io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, |io, cx| io.poll_shutdown(cx))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let Some(io) = self.io.take() else { return };
        let mut inner = self.faults.0.lock();
        if inner.set.cut.contains(&self.to) {
            inner.given_up.push((self.to.clone(), io));
        }
    }
}

/// A disk that can be full.
pub struct FaultyDisk {
    inner: Box<dyn Disk>,
    faults: Faults,
}

impl Disk for FaultyDisk {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn lock(&self) -> Result<DiskLock, StoreError> {
        self.inner.lock()
    }

    fn has_keys(&self) -> bool {
        self.inner.has_keys()
    }

    fn open_keys(&self, cache_bytes: u64) -> Result<Box<dyn Keys>, StoreError> {
        let inner = self.inner.open_keys(cache_bytes)?;
        Ok(Box::new(FaultyKeys { inner, faults: self.faults.clone() }))
    }

    fn read_file(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.inner.read_file(name)
    }

    fn open_file(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.inner.open_file(name)
    }

    fn create_file(&self, name: &str) -> io::Result<Box<dyn DiskWriter>> {
        self.faults.check_disk()?;
        let inner = self.inner.create_file(name)?;
        Ok(Box::new(FaultyWriter { inner, faults: self.faults.clone() }))
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.publish(from, to)
    }

    fn remove_file(&self, name: &str) -> io::Result<()> {
        self.inner.remove_file(name)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }

    fn set_witness(&self, number: u64) -> io::Result<()> {
        self.inner.set_witness(number)
    }

    fn witness(&self) -> io::Result<u64> {
        self.inner.witness()
    }

    fn run(&self, name: &'static str, task: BoxFuture<'static, ()>) -> io::Result<()> {
        self.inner.run(name, task)
    }

    fn offload(&self, lane: Lane, job: Job) {
        self.inner.offload(lane, job);
    }
}

struct FaultyKeys {
    inner: Box<dyn Keys>,
    faults: Faults,
}

impl Keys for FaultyKeys {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.inner.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        self.inner.scan(from, to, each)
    }

    fn write(&self, batch: KeyBatch) -> io::Result<()> {
        self.faults.check_disk()?;
        self.inner.write(batch)
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        match self.faults.check_disk() {
            Ok(()) => self.inner.sync(),
            Err(full) => Box::pin(std::future::ready(Err(full))),
        }
    }

    fn size_on_disk(&self) -> io::Result<u64> {
        self.inner.size_on_disk()
    }
}

struct FaultyWriter {
    inner: Box<dyn DiskWriter>,
    faults: Faults,
}

impl io::Write for FaultyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.faults.check_disk()?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl DiskWriter for FaultyWriter {
    fn sync(&mut self) -> io::Result<()> {
        self.faults.check_disk()?;
        self.inner.sync()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use steersman_raft_store::MemDisk;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SOON: Duration = Duration::from_millis(100);

    #[test]
    fn only_loopback_may_be_faulty() {
        assert!(Faults::on_loopback(["127.0.0.1:7400", "localhost:1", "[::1]:7"]).is_ok());
        for address in ["0.0.0.0:7400", "192.168.0.1:7400", "[::]:7400", "no address"] {
            let refused = Faults::on_loopback(["127.0.0.1:7400", address]).err().unwrap();
            assert!(refused.message.contains(address), "{refused:?}");
        }
    }

    #[test]
    fn a_full_disk_refuses_writes_and_serves_reads_and_the_wall_clock_jumps() {
        let faults = Faults::default();
        let disk = faults.disk(MemDisk::new());
        let world = faults.world(World::real());
        disk.create_file("new").unwrap().sync().unwrap();
        disk.publish("new", "before").unwrap();
        let before = world.clock.wall_ms();
        faults.obey("{\"disk_full\": true, \"clock_ms\": -3600000}");
        assert_eq!(disk.create_file("after").err().unwrap().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.read_file("before").unwrap(), Some(Vec::new()));
        assert!(world.clock.wall_ms() < before);
        faults.obey("nonsense");
        assert!(disk.create_file("after").is_err(), "nonsense changes nothing");
        faults.obey("{}");
        assert!(disk.create_file("after").is_ok());
    }

    /// Bytes and connects wait while the link is cut, nobody sees an end, and all of it goes on when it heals.
    #[tokio::test]
    async fn a_cut_link_is_silent_in_both_directions_until_it_heals() {
        let faults = Faults::default();
        let world = faults.world(World::real());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut near = world.net.connect(address.clone()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let cut = serde_json::to_string(&FaultSet { cut: [address.clone()].into(), ..FaultSet::default() }).unwrap();
        faults.obey(&cut);
        far.write_all(b"down").await.unwrap();
        let mut bytes = [0; 4];
        assert!(tokio::time::timeout(SOON, near.read_exact(&mut bytes)).await.is_err());
        assert!(tokio::time::timeout(SOON, near.write_all(b"up")).await.is_err());
        assert!(tokio::time::timeout(SOON, world.net.connect(address)).await.is_err());
        faults.obey("{}");
        near.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"down");
        faults.obey(&cut);
        drop(near);
        assert!(tokio::time::timeout(SOON, far.read(&mut bytes)).await.is_err(), "an end would be news");
        faults.obey("{}");
        assert_eq!(far.read(&mut bytes).await.unwrap(), 0);
    }
}
