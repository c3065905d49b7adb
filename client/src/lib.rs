//! The voice: typed calls, leader redirects, retries with the same request id.
//!
//! A [`Client`] knows some masters of one cluster and finds the rest. It connects lazily, keeps one channel per master,
//! follows redirects to the leader (never to an older term), and retries what the moment refused at other masters until a
//! total deadline. When it gives up, its [`Error`] says which masters were asked and what each of them answered.
//!
//! What always holds: a mutation gets its request id once per logical call and keeps it over all tries, so it has at most
//! one effect; a rejection that is the caller's is never retried; a request whose fate is not known is reported as such.
//!
//! What this crate does not do: it decides nothing about tasks, it writes nothing, it starts nothing in the background
//! except for [`Client::watch_leader`], whose tasks end when its value is dropped.
//!
//! ```no_run
//! # async fn example() -> Result<(), steersman_client::Error> {
//! use steersman_client::{Client, World};
//! let client = Client::builder(World::real()).addresses(["127.0.0.1:7400"]).build()?;
//! let task = client.get(1).await?;
//! println!("{task:?}");
//! # Ok(())
//! # }
//! ```

mod channels;
mod cluster;
mod error;
mod events;
mod gather;
mod leader;
mod redirect;
mod retry;
mod tasks;
mod verify;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;
pub use steersman_proto::{codes, v1};
pub use steersman_world::World;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::channels::Channels;
pub use crate::cluster::SnapshotDownload;
pub use crate::error::{Asked, Class, Error, FieldViolation};
pub use crate::events::{EventItem, EventStream, EventsFrom};
pub use crate::leader::LeaderWatch;
pub use crate::redirect::{Leader, LeaderView};
use crate::redirect::{LeaderHint, Masters};
pub use crate::tasks::WaitTotals;
pub use crate::verify::{Finding, Verdict, Verification};
pub use crate::workers::worker_ref;

/// 16 bytes chosen by the caller of a mutation: a retry with the same id has no second effect.
pub type RequestId = [u8; 16];

/// The port of a master's API where an address names none.
pub const DEFAULT_PORT: u16 = 7400;

/// How long a whole logical call may take, unless the builder says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one connect may take: enough for a LAN or a continent, short against a takeover.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// How long one try of a unary call may take at first; it doubles after each try that ran out of time, up to 8 times.
pub const DEFAULT_TRY_TIMEOUT: Duration = Duration::from_secs(1);

/// The largest message in either direction, in bytes: a page of 1,000 large tasks fits.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What a [`Client`] is made from.
#[must_use]
pub struct Builder {
    world: World,
    addresses: Vec<String>,
    settings: Settings,
    timeout: Duration,
}

/// How long single steps may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) connect_timeout: Duration,
    pub(crate) try_timeout: Duration,
}

impl Builder {
    /// The masters to begin with, each `host:port` or `host` (port 7400). One that works is enough: the others are learnt.
    pub fn addresses<S: Into<String>>(mut self, addresses: impl IntoIterator<Item = S>) -> Self {
        self.addresses = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// The total deadline of a logical call, all its tries and waits included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The deadline of one connect. Default [`DEFAULT_CONNECT_TIMEOUT`].
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// The deadline of one try. Default [`DEFAULT_TRY_TIMEOUT`].
    pub fn try_timeout(mut self, timeout: Duration) -> Self {
        self.settings.try_timeout = timeout;
        self
    }

    /// The client. Does no I/O.
    ///
    /// # Errors
    /// [`Class::Usage`] when there is no address or one of them is malformed.
    pub fn build(self) -> Result<Client, Error> {
        let mut addresses = Vec::new();
        for address in &self.addresses {
            let address = redirect::normalise(address)?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(Error::usage("no master's address is given", "name at least one master, e.g. 127.0.0.1:7400"));
        }
        let home = self.world.entropy.below(addresses.len() as u64) as usize;
        let channels = Channels::new(self.world.net.clone(), self.settings.connect_timeout);
        let inner = Inner {
            masters: Mutex::new(Masters::new(addresses, home)),
            view: watch::Sender::new(LeaderView::default()),
            known: watch::Sender::new(0),
            met: Mutex::new(self.world.clock.now()),
            stale: AtomicBool::new(false),
            membership: AtomicU64::new(0),
            channels,
            settings: self.settings,
            world: self.world,
        };
        Ok(Client { inner: Arc::new(inner), timeout: self.timeout, only: None })
    }
}

/// A client of one cluster. Clones share connections and what is known about the masters.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
    pub(crate) timeout: Duration,
    /// Set: this master alone is asked, once.
    pub(crate) only: Option<Arc<str>>,
}

pub(crate) struct Inner {
    pub(crate) world: World,
    pub(crate) settings: Settings,
    pub(crate) masters: Mutex<Masters>,
    pub(crate) view: watch::Sender<LeaderView>,
    /// Number of known addresses; a change wakes [`LeaderWatch`].
    pub(crate) known: watch::Sender<usize>,
    /// When somebody was last asked who the masters are.
    pub(crate) met: Mutex<tokio::time::Instant>,
    /// Since then a try has failed, or the masters have become others.
    pub(crate) stale: AtomicBool,
    /// Log index of the newest membership that an answer told of; 0 before the first.
    pub(crate) membership: AtomicU64,
    pub(crate) channels: Channels,
}

impl Client {
    /// Begins a client that lives in `world`.
    pub fn builder(world: World) -> Builder {
        let settings = Settings { connect_timeout: DEFAULT_CONNECT_TIMEOUT, try_timeout: DEFAULT_TRY_TIMEOUT };
        Builder { world, addresses: Vec::new(), settings, timeout: DEFAULT_TIMEOUT }
    }

    /// The same client with another total deadline.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same client, bound to one master: each call is one try there, without redirects and without retries.
    #[must_use]
    pub fn only(&self, address: &str) -> Self {
        let address = redirect::normalise(address).unwrap_or_else(|_| address.to_owned());
        Self { only: Some(address.into()), ..self.clone() }
    }

    /// The total deadline of a logical call.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The world that this client lives in.
    pub fn world(&self) -> &World {
        &self.inner.world
    }

    /// A new request id, for the `…_with_id` calls.
    pub fn new_request_id(&self) -> RequestId {
        self.inner.world.entropy.next_id()
    }

    /// The addresses known so far: those given first, then those learnt.
    pub fn masters(&self) -> Vec<String> {
        self.inner.masters.lock().all()
    }

    /// Who leads, as far as is known here. Costs no I/O.
    pub fn leader(&self) -> Option<Leader> {
        self.inner.view.borrow().leader.clone()
    }

    /// Who leads and since which term, with every change of that belief. Costs no I/O; see [`Client::watch_leader`].
    pub fn leader_view(&self) -> watch::Receiver<LeaderView> {
        self.inner.view.subscribe()
    }

    /// Takes word of a leader from elsewhere (a session's redirect). Returns whether it was trusted: its term must not be
    /// older than the newest one seen.
    pub fn learn_leader(&self, info: &v1::LeaderInfo) -> bool {
        self.inner.learn(&LeaderHint::from_info(info))
    }

    /// Adds masters' API addresses to the known ones; malformed ones are passed over.
    pub fn learn_masters<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) {
        self.inner.learn_addresses(addresses);
    }

    /// The one cached channel to a master, connected. For streams that this crate does not know.
    ///
    /// # Errors
    /// [`Class::Unavailable`] when it cannot be connected within the connect timeout.
    pub async fn channel(&self, address: &str) -> Result<Channel, Error> {
        let address = redirect::normalise(address)?;
        match self.inner.channels.get(&address).await {
            Ok(connection) => Ok(connection.channel),
            Err(status) => Err(Error::of_one_try(&address, &status, false)),
        }
    }

    /// Forgets the channel to a master, after a timeout or a transport error on it.
    pub fn drop_channel(&self, address: &str) {
        if let Ok(address) = redirect::normalise(address) {
            self.inner.channels.forget(&address);
        }
    }
}

impl Inner {
    pub(crate) fn learn(&self, hint: &LeaderHint) -> bool {
        let (trusted, view, count) = {
            let mut masters = self.masters.lock();
            (masters.learn(hint), masters.view(), masters.count())
        };
        self.publish(view, count);
        trusted
    }

    pub(crate) fn learn_addresses<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) {
        let (view, count) = {
            let mut masters = self.masters.lock();
            for address in addresses {
                masters.add(address);
            }
            (masters.view(), masters.count())
        };
        self.publish(view, count);
    }

    /// Notes that `address` did not serve as leader and that reads had better go elsewhere.
    pub(crate) fn distrust(&self, address: &str) {
        let (view, count) = {
            let mut masters = self.masters.lock();
            masters.distrust(address);
            (masters.view(), masters.count())
        };
        self.publish(view, count);
    }

    fn publish(&self, view: LeaderView, count: usize) {
        self.view.send_if_modified(|current| {
            // Two publishers may overtake each other: the newer term stays.
            let changed = view.term >= current.term && *current != view;
            if changed {
                *current = view;
            }
            changed
        });
        self.known.send_if_modified(|known| std::mem::replace(known, count) != count);
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("masters", &self.masters()).field("leader", &self.leader()).finish()
    }
}
