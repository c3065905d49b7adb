//! Who leads: a warm connection to every master and what they say.
//!
//! One `Cluster.WatchLeader` stream is kept open to each master, so that a new leader is learned by push and its connection
//! is already there. What always holds: news of an older term never replaces news of a newer one; a connection that
//! misbehaved is dropped, not trusted again (a lost segment can wedge HTTP/2). It does not decide when to open a session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use steersman_proto::v1::cluster_client::ClusterClient;
use steersman_proto::v1::{LeaderInfo, WatchLeaderRequest};
use steersman_world::{Connector, World};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// Masters that are followed at most: a membership has few.
const MASTERS_MAX: usize = 32;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// A worker may be assigned a whole submit (8 MiB) and more in one message.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The leader as far as is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The newest term heard of.
    pub term: u64,
    /// `host:port` of its leader's API; `None` while there is none.
    pub leader: Option<String>,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Masters {
    world: World,
    view: watch::Sender<View>,
    /// Raised to ask every master again.
    doubts: watch::Sender<u64>,
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
    stop: CancellationToken,
}

impl Masters {
    /// Follows nobody yet.
    pub fn new(world: World) -> Self {
        Self {
            world,
            view: watch::Sender::new(View::default()),
            doubts: watch::Sender::new(0),
            channels: Arc::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Follows these too, from now on.
    pub fn follow<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) {
        for address in addresses {
            let mut channels = self.channels.lock();
            if address.is_empty() || channels.contains_key(address) || channels.len() >= MASTERS_MAX {
                continue;
            }
            match self.connect_lazily(address) {
                Ok(channel) => {
                    channels.insert(address.to_owned(), channel);
                    drop(channels);
                    tokio::spawn(self.stop.clone().run_until_cancelled_owned(self.clone().watch(address.to_owned())));
                }
                Err(error) => tracing::error!(address, %error, "not a master's address"),
            }
        }
    }

    /// Follows nobody any more.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// What is known, and a way to wait for news.
    pub fn subscribe(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// The warm connection to `address`; it becomes one of those that are followed.
    pub fn channel(&self, address: &str) -> Option<Channel> {
        self.follow([address]);
        self.channels.lock().get(address).cloned()
    }

    /// Drops the connection to `address`; the next use opens another.
    pub fn reset(&self, address: &str) {
        if let Ok(fresh) = self.connect_lazily(address) {
            self.channels.lock().insert(address.to_owned(), fresh);
        }
    }

    /// Somebody said who leads. Ignored if it is older than what is known.
    pub fn learn(&self, term: u64, leader: Option<String>) {
        self.view.send_if_modified(|view| {
            let newer = term > view.term || (term == view.term && leader.is_some() && view.leader != leader);
            if newer {
                *view = View { term, leader };
            }
            newer
        });
    }

    /// Asks every master again and believes the first that says anything: for news that was lost, and for a cluster that was
    /// restored and counts its terms anew.
    pub fn doubt(&self) {
        self.view.send_replace(View::default());
        self.doubts.send_modify(|doubts| *doubts += 1);
    }

    fn connect_lazily(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20);
        Ok(endpoint.connect_with_connector_lazy(Connector(self.world.net.clone())))
    }

    async fn watch(self, address: String) {
        let mut failures = 0;
        loop {
            let heard = self.watch_once(&address).await;
            failures = if heard { 0 } else { failures + 1 };
            self.reset(&address);
            tokio::time::sleep(backoff(&self.world, failures)).await;
        }
    }

    /// True if the master said anything.
    async fn watch_once(&self, address: &str) -> bool {
        let Some(channel) = self.channel(address) else { return false };
        let mut doubts = self.doubts.subscribe();
        let Ok(answer) = ClusterClient::new(channel).watch_leader(WatchLeaderRequest {}).await else { return false };
        let mut news = answer.into_inner();
        let mut heard = false;
        loop {
            let next = tokio::select! {
                next = news.message() => next,
                _ = doubts.changed() => return true,
            };
            let Ok(Some(LeaderInfo { term, leader, masters })) = next else { return heard };
            heard = true;
            self.follow(masters.iter().map(|master| master.api.as_str()));
            self.learn(term, leader.map(|leader| leader.api));
        }
    }
}

/// Grows from about 25 ms to about 1 s, half of it random, so that a thousand workers do not knock at once.
pub(crate) fn backoff(world: &World, failures: u32) -> Duration {
    let most = 50u64 << failures.min(5).saturating_sub(1);
    let most = most.min(1_000);
    Duration::from_millis(most / 2 + world.entropy.below(most / 2 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_terms_teach_nothing() {
        let masters = Masters::new(World::real());
        masters.learn(3, Some("a:1".into()));
        masters.learn(2, Some("b:1".into()));
        masters.learn(3, None);
        let view = masters.subscribe().borrow().clone();
        assert_eq!(view, View { term: 3, leader: Some("a:1".into()) });
        masters.learn(4, None);
        assert_eq!(*masters.subscribe().borrow(), View { term: 4, leader: None });
        masters.doubt();
        masters.learn(1, Some("c:1".into()));
        assert_eq!(masters.subscribe().borrow().leader.as_deref(), Some("c:1"));
    }

    #[test]
    fn backoff_grows_to_a_second() {
        let world = World::real();
        for (failures, low, high) in [(0, 25, 50), (1, 25, 50), (3, 100, 200), (9, 400, 1_000)] {
            let wait = backoff(&world, failures).as_millis();
            assert!((low..=high).contains(&wait), "{failures}: {wait}");
        }
    }
}
