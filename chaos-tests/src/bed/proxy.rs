//! The network of those who have no rights: everybody on loopback, and every TCP connection to a master through this proxy.
//!
//! What always holds: each direction of each connection is decided by [`Links`], as the link between the two nodes that it
//! connects. Who connects is found by the kernel's own table of sockets, for masters tell all others one address. A cut link
//! holds what was sent on it, as TCP itself would, and an end of the stream as well; nothing of a stream can be lost, doubled or
//! overtaken. A connect is accepted although the node may be dead: then the connection ends at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::links::{Link, Links, Spot, Verdict};
use crate::ports::Port;
use crate::process::PLACE;

/// One read of a stream.
const CHUNK: usize = 16 << 10;
/// Chunks that are on their way on one direction of one connection.
const ON_THE_WAY: usize = 64;
/// How soon what was held by a cut goes on after it.
const LOOK: Duration = Duration::from_millis(5);

/// Carries streams until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    runtime: Option<Runtime>,
    links: Arc<Links>,
    folder: PathBuf,
    doors: Mutex<BTreeMap<Spot, Vec<(Port, AbortHandle)>>>,
}

impl Proxy {
    /// Starts one for nodes whose folders lie in `folder`.
    ///
    /// # Errors
    /// If there are no threads to be had.
    pub fn start(links: Arc<Links>, folder: &Path) -> Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("proxy").enable_all().build()?;
        Ok(Self { runtime: Some(runtime), links, folder: folder.to_owned(), doors: Mutex::default() })
    }

    /// Opens a door to a node that listens at `target`, and returns its address.
    ///
    /// # Errors
    /// If there is no port to be had.
    pub fn serve(&self, to: Spot, target: &str) -> Result<String> {
        let runtime = self.runtime.as_ref().context("the proxy has ended")?;
        let port = Port::take()?;
        let address = port.address();
        let listener = runtime.block_on_elsewhere(TcpListener::bind(address.clone()))?;
        let door = Door { links: self.links.clone(), folder: self.folder.clone(), to, target: target.parse()? };
        let task = runtime.spawn(door.open(listener)).abort_handle();
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.entry(to).or_default().push((port, task));
        Ok(address)
    }

    /// Closes all doors to a node. Connections end when the node does.
    pub fn close(&self, to: Spot) {
        let closed = self.doors.lock().unwrap_or_else(PoisonError::into_inner).remove(&to);
        closed.iter().flatten().for_each(|(_, task)| task.abort());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Dropping a runtime inside of another one is not allowed to wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Blocking on a runtime from within another one is not allowed: wait on a channel instead.
trait BlockOnElsewhere {
    fn block_on_elsewhere<T: Send + 'static, E: Send + Into<anyhow::Error> + 'static>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T>;
}

impl BlockOnElsewhere for Runtime {
    fn block_on_elsewhere<T: Send + 'static, E: Send + Into<anyhow::Error> + 'static>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T> {
        let (done, result) = std::sync::mpsc::sync_channel(1);
        self.spawn(async move { done.send(work.await) });
        result.recv()?.map_err(Into::into)
    }
}

struct Door {
    links: Arc<Links>,
    folder: PathBuf,
    to: Spot,
    target: SocketAddr,
}

impl Door {
    async fn open(self, listener: TcpListener) {
        let door = Arc::new(self);
        loop {
            // An accept can fail because its client has gone.
            if let Ok((client, peer)) = listener.accept().await {
                tokio::spawn(door.clone().carry(client, peer));
            }
        }
    }

    async fn carry(self: Arc<Self>, client: TcpStream, peer: SocketAddr) {
        let folder = self.folder.clone();
        let from = tokio::task::spawn_blocking(move || who_is(peer, &folder)).await.unwrap_or(Spot::Runner);
        while !self.links.open(from, self.to) {
            tokio::time::sleep(LOOK).await;
        }
        let Ok(server) = TcpStream::connect(self.target).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
        let there = pump(self.links.clone(), (from, self.to), client_in, server_out);
        let back = pump(self.links.clone(), (self.to, from), server_in, client_out);
        // When one direction breaks, the other has nobody to talk to.
        tokio::select! { () = there => {}, () = back => {} }
    }
}

/// One direction. Returns when it has ended or broken.
async fn pump(links: Arc<Links>, link: Link, from: OwnedReadHalf, to: OwnedWriteHalf) {
    let (chunks, on_the_way) = mpsc::channel(ON_THE_WAY);
    tokio::join!(take_in(links.clone(), link, from, chunks), let_out(links, link, on_the_way, to));
}

/// Reads, and decides when each chunk is due. An empty chunk is the end of the stream.
async fn take_in(links: Arc<Links>, link: Link, mut from: OwnedReadHalf, chunks: mpsc::Sender<(Instant, Vec<u8>)>) {
    loop {
        let mut chunk = vec![0; CHUNK];
        // A reset ends the stream like its end does.
        let bytes = from.read(&mut chunk).await.unwrap_or(0);
        chunk.truncate(bytes);
        let due = loop {
            match links.decide(link, bytes, Instant::now()) {
                Verdict::Pass(due, _) => break due,
                Verdict::Drop => tokio::time::sleep(LOOK).await,
            }
        };
        if chunks.send((due, chunk)).await.is_err() || bytes == 0 {
            return;
        }
    }
}

async fn let_out(
    links: Arc<Links>,
    link: Link,
    mut on_the_way: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
) {
    while let Some((due, chunk)) = on_the_way.recv().await {
        tokio::time::sleep_until(due.into()).await;
        while links.policy(link).cut {
            tokio::time::sleep(LOOK).await;
        }
        if chunk.is_empty() || to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}

/// Whose socket of this machine that is: a node's by its environment, else the runner's.
fn who_is(peer: SocketAddr, folder: &Path) -> Spot {
    let found = inode_of(peer.port()).and_then(process_with_socket);
    found.and_then(|pid| node_of(pid, folder)).unwrap_or(Spot::Runner)
}

/// The inode of the socket on loopback that has this local port.
fn inode_of(port: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!(":{port:04X}");
    let row = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    // The row of the other end has the port in its remote column.
    let own = row.filter(|row| row.get(1).is_some_and(|at| at.ends_with(&local)));
    own.filter_map(|row| row.get(9)?.parse().ok()).find(|inode| *inode != 0)
}

fn process_with_socket(inode: u64) -> Option<u32> {
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid: &u32| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|link| link == wanted)
    })
}

/// Which node's folder the environment of a process names.
fn node_of(pid: u32, folder: &Path) -> Option<Spot> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let variables = environ.split(|byte| *byte == 0).filter_map(|variable| std::str::from_utf8(variable).ok());
    let place = variables.filter_map(|variable| variable.strip_prefix(PLACE)?.strip_prefix('=')).next()?;
    let own = Path::new(place).strip_prefix(folder).ok()?.components().next()?;
    let name = own.as_os_str().to_str()?;
    name.strip_prefix('m').and_then(|id| id.parse().ok()).map(Spot::Master).or_else(|| Spot::worker(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::links::{Policy, between, one_way};
    use super::*;

    /// An echo, the proxy before it, and a connection of the runner through it.
    async fn through_the_proxy(links: &Arc<Links>) -> (Proxy, TcpStream) {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = echo.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut io, _) = echo.accept().await.unwrap();
            let (mut from, mut to) = io.split();
            tokio::io::copy(&mut from, &mut to).await
        });
        let proxy = Proxy::start(links.clone(), Path::new("/nowhere")).unwrap();
        let address = proxy.serve(Spot::Master(1), &target).unwrap();
        (proxy, TcpStream::connect(address).await.unwrap())
    }

    async fn says(io: &mut TcpStream, within: Duration) -> Option<u8> {
        tokio::time::timeout(within, io.read_u8()).await.ok()?.ok()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cut_holds_what_was_sent_and_its_end_lets_it_go() {
        let (links, soon) = (Arc::new(Links::new(1)), Duration::from_secs(5));
        let (_proxy, mut io) = through_the_proxy(&links).await;
        io.write_u8(1).await.unwrap();
        assert_eq!(says(&mut io, soon).await, Some(1));
        // Only the answer is held.
        let cut = links.lay(one_way(&[Spot::Master(1)], &[Spot::Runner], Policy::CUT));
        io.write_u8(2).await.unwrap();
        assert_eq!(says(&mut io, Duration::from_millis(200)).await, None);
        links.lift(cut);
        assert_eq!(says(&mut io, soon).await, Some(2));
        let slow = Policy { delay: Duration::from_millis(40), ..Policy::default() };
        links.lay(between(&[Spot::Runner], &[Spot::Master(1)], slow));
        let began = Instant::now();
        io.write_u8(3).await.unwrap();
        assert_eq!(says(&mut io, soon).await, Some(3));
        assert!(began.elapsed() >= Duration::from_millis(80));
    }

    #[test]
    fn a_process_is_known_by_its_socket_and_its_environment() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read -r line <&3");
        let mut child =
            std::process::Command::new("bash").args(["-c", &script]).env(PLACE, "/runs/x/m3/").spawn().unwrap();
        let (_io, peer) = listener.accept().unwrap();
        let spots = [Path::new("/runs/x"), Path::new("/runs/y")].map(|folder| who_is(peer, folder));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(spots, [Spot::Master(3), Spot::Runner]);
    }
}
