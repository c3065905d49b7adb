//! The userspace router: every packet between two nodes passes through one thread of this process.
//!
//! What always holds: a packet is delivered where its destination address says or nowhere; where it comes from is known from
//! the device on which it was read, not from what it says of itself; each one is decided by [`Links`]. The kernel's own queueing
//! disciplines take no part. One thread of its own, so that a busy runtime does not slow the network down.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::epoll;
use rustix::time::Timespec;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::links::{Links, Spot, Verdict};
use super::place::Place;

/// Jumbo frames: fewer packets for one thread to carry, and still several for each snapshot chunk.
const MTU: u16 = 9_000;
/// All nodes are in one network of this prefix; it exists only in namespaces of ours.
const PREFIX: u8 = 16;
/// Packets read from one device before the next has its turn.
const TURN: usize = 64;
/// How soon the thread notices that it should end.
const LOOK_UP: Duration = Duration::from_millis(50);

/// The address of a place: 10.77.0.1 for the runner, 10.77.1.1 and on for masters, 10.77.128.1 and on for workers.
pub fn address_of(spot: Spot) -> Ipv4Addr {
    let within = |base: u64, n: u64| {
        // 250 addresses in each third octet, so that none ends with 0 or 255.
        let (high, low) = (base + n / 250, n % 250 + 1);
        Ipv4Addr::new(10, 77, (high % 256) as u8, low as u8)
    };
    match spot {
        Spot::Runner => within(0, 0),
        Spot::Master(id) => within(1, id.saturating_sub(1)),
        Spot::Worker(n) => within(128, u64::from(n.saturating_sub(1))),
    }
}

/// One node's end of the router.
struct End {
    spot: Spot,
    device: SyncDevice,
}

/// Carries packets until it is dropped.
pub struct Router {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    ends: Mutex<BTreeMap<Ipv4Addr, Arc<End>>>,
    epoll: std::os::fd::OwnedFd,
    links: Arc<Links>,
    stop: AtomicBool,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let spots: Vec<Spot> = self.shared.ends().values().map(|end| end.spot).collect();
        f.debug_struct("Router").field("ends", &spots).finish()
    }
}

impl Router {
    /// Starts one without any ends.
    ///
    /// # Errors
    /// If there is no thread or no epoll to be had.
    pub fn start(links: Arc<Links>) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let shared = Arc::new(Shared { ends: Mutex::default(), epoll, links, stop: AtomicBool::new(false) });
        let run = shared.clone();
        let thread = std::thread::Builder::new().name("router".into()).spawn(move || run.carry())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Gives a network namespace its device and address, and returns the address.
    ///
    /// # Errors
    /// If this process may not make the device.
    pub fn connect(&self, spot: Spot, place: &Place) -> Result<Ipv4Addr> {
        let address = address_of(spot);
        let made = place.within(|| DeviceBuilder::new().name("node").ipv4(address, PREFIX, None).mtu(MTU).build_sync());
        let device = made?.with_context(|| format!("cannot make a TUN device for {spot}"))?;
        rustix::io::ioctl_fionbio(&device, true)?;
        let data = epoll::EventData::new_u64(u64::from(u32::from(address)));
        epoll::add(&self.shared.epoll, &device, data, epoll::EventFlags::IN)?;
        self.shared.ends().insert(address, Arc::new(End { spot, device }));
        Ok(address)
    }

    /// Takes a node's device away.
    pub fn disconnect(&self, spot: Spot) {
        if let Some(end) = self.shared.ends().remove(&address_of(spot)) {
            let _ = epoll::delete(&self.shared.epoll, &end.device);
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet that is on its way: due, number, destination, bytes.
type Flying = Reverse<(Instant, u64, Ipv4Addr, Vec<u8>)>;

impl Shared {
    fn ends(&self) -> MutexGuard<'_, BTreeMap<Ipv4Addr, Arc<End>>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry(&self) {
        // The network must not wait for the processors that the nodes keep busy; without the right to say so, it does.
        let _ = rustix::process::setpriority_process(None, -10);
        let (mut flying, mut number) = (BinaryHeap::new(), 0);
        let mut events = Vec::with_capacity(64);
        while !self.stop.load(Ordering::Relaxed) {
            events.clear();
            let wait = until_next(&flying);
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // Only a descriptor that is none any more could do that.
                Err(_) => return,
            }
            for event in &events {
                let address = Ipv4Addr::from(event.data.u64() as u32);
                let end = self.ends().get(&address).cloned();
                if let Some(end) = end {
                    self.read_from(&end, &mut flying, &mut number);
                }
            }
            self.deliver_due(&mut flying);
        }
    }

    fn read_from(&self, end: &End, flying: &mut BinaryHeap<Flying>, number: &mut u64) {
        let mut buffer = [0; MTU as usize + 64];
        for _ in 0..TURN {
            let Ok(bytes) = end.device.recv(&mut buffer) else { return };
            let Some((to, target)) =
                buffer.get(..bytes).and_then(destination).and_then(|to| Some((to, self.end_at(to)?)))
            else {
                continue;
            };
            let now = Instant::now();
            let Verdict::Pass(first, again) = self.links.decide((end.spot, target.spot), bytes, now) else { continue };
            if first <= now {
                let _ = target.device.send(&buffer[..bytes]);
            }
            for due in [Some(first).filter(|due| *due > now), again].into_iter().flatten() {
                *number += 1;
                flying.push(Reverse((due, *number, to, buffer[..bytes].to_vec())));
            }
        }
    }

    fn end_at(&self, address: Ipv4Addr) -> Option<Arc<End>> {
        self.ends().get(&address).cloned()
    }

    fn deliver_due(&self, flying: &mut BinaryHeap<Flying>) {
        let now = Instant::now();
        while flying.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, _, to, packet))) = flying.pop() else { return };
            if let Some(end) = self.end_at(to) {
                // A device whose namespace is going away takes nothing: so would a network card.
                let _ = end.device.send(&packet);
            }
        }
    }
}

/// The destination of an IPv4 packet.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let version = packet.first()? >> 4;
    let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    (version == 4).then(|| Ipv4Addr::from(octets))
}

fn until_next(flying: &BinaryHeap<Flying>) -> Timespec {
    let due = flying.peek().map(|Reverse((due, ..))| due.saturating_duration_since(Instant::now()));
    let wait = due.unwrap_or(LOOK_UP).min(LOOK_UP);
    Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) }
}

/// Whether this process may make namespaces and devices; if not, why.
///
/// # Errors
/// With the first thing that failed.
pub fn possible() -> Result<()> {
    let router = Router::start(Arc::new(Links::new(0)))?;
    let place = Place::default().with_new_network()?;
    router.connect(Spot::Runner, &place).map(drop)
}

/// Opens connections from a place.
#[derive(Debug, Clone)]
pub struct PlaceNet(pub Place);

impl steersman_world::Net for PlaceNet {
    fn bind(&self, addr: String) -> futures::future::BoxFuture<'static, io::Result<steersman_world::Incoming>> {
        let refused = format!("nobody listens in the runner's place: {addr}");
        Box::pin(async move { Err(io::Error::new(io::ErrorKind::Unsupported, refused)) })
    }

    fn connect(&self, addr: String) -> futures::future::BoxFuture<'static, io::Result<steersman_world::BoxIo>> {
        let place = self.0.clone();
        Box::pin(async move {
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("{addr}: {error}"));
            let target: std::net::SocketAddr = addr.parse().map_err(invalid)?;
            // A socket belongs to the namespace of the thread that makes it, wherever it is used afterwards.
            let made = tokio::task::spawn_blocking(move || place.within(tokio::net::TcpSocket::new_v4));
            let io = made.await.map_err(io::Error::other)???.connect(target).await?;
            io.set_nodelay(true)?;
            Ok(steersman_world::BoxIo::new(io, Some(target)))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::super::links::{Policy, between, one_way};
    use super::*;

    const A: Spot = Spot::Master(1);
    const B: Spot = Spot::Worker(1);

    struct Two {
        links: Arc<Links>,
        _router: Router,
        a: Place,
        b: Place,
    }

    fn two(test: &str) -> Option<Two> {
        let links = Arc::new(Links::new(3));
        let made = || -> Result<Two> {
            let router = Router::start(links.clone())?;
            let (a, b) = (Place::default().with_new_network()?, Place::default().with_new_network()?);
            router.connect(A, &a)?;
            router.connect(B, &b)?;
            Ok(Two { links: links.clone(), _router: router, a, b })
        };
        made().inspect_err(|error| eprintln!("SKIPPED {test}: {error:#}")).ok()
    }

    /// Sends a megabyte there and back through an echo, and says how long it took.
    fn echo(two: &Two) -> Duration {
        let listener = two.b.within(|| TcpListener::bind((address_of(B), 7400))).unwrap().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut io, _) = listener.accept().unwrap();
                let mut bytes = vec![0; 1 << 20];
                io.read_exact(&mut bytes).unwrap();
                io.write_all(&bytes).unwrap();
            });
            let began = Instant::now();
            let mut io = two.a.within(|| TcpStream::connect((address_of(B), 7400))).unwrap().unwrap();
            let sent: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
            io.write_all(&sent).unwrap();
            let mut back = vec![0; 1 << 20];
            io.read_exact(&mut back).unwrap();
            assert!(back == sent, "what came back is what was sent");
            began.elapsed()
        })
    }

    #[test]
    fn addresses_are_all_different() {
        let masters = (1..=600).map(Spot::Master);
        let spots: Vec<Spot> = masters.chain((1..=300).map(Spot::Worker)).chain([Spot::Runner]).collect();
        let addresses: std::collections::BTreeSet<Ipv4Addr> = spots.iter().map(|spot| address_of(*spot)).collect();
        assert_eq!(addresses.len(), spots.len());
    }

    #[test]
    fn streams_pass_through_a_bad_network_unharmed() {
        let Some(two) = two("streams_pass_through_a_bad_network_unharmed") else { return };
        echo(&two);
        let ms = Duration::from_millis;
        let bad =
            Policy { delay: ms(2), jitter: ms(3), loss: 0.02, duplicate: 0.1, reorder: 0.05, ..Policy::default() };
        two.links.lay(between(&[A], &[B], bad));
        assert!(echo(&two) > ms(4), "two ways of at least 2 ms");
        let counts = two.links.counts((A, B));
        assert!(counts.late > 0 && counts.doubled > 0, "{counts:?}");
    }

    #[test]
    fn what_is_cut_in_one_direction_only_does_not_arrive_there() {
        let Some(two) = two("what_is_cut_in_one_direction_only_does_not_arrive_there") else { return };
        let socket =
            |place: &Place, spot| place.within(|| std::net::UdpSocket::bind((address_of(spot), 9))).unwrap().unwrap();
        let (a, b) = (socket(&two.a, A), socket(&two.b, B));
        let heard = |by: &std::net::UdpSocket| by.recv(&mut [0; 8]).is_ok();
        for socket in [&a, &b] {
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        }
        let cut = two.links.lay(one_way(&[A], &[B], Policy::CUT));
        a.send_to(b"x", (address_of(B), 9)).unwrap();
        b.send_to(b"x", (address_of(A), 9)).unwrap();
        assert!(heard(&a) && !heard(&b));
        two.links.lift(cut);
        a.send_to(b"x", (address_of(B), 9)).unwrap();
        assert!(heard(&b));
    }
}
