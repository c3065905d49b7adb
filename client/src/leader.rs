//! Learns of a new leader by push: one open watch per known master.
//!
//! What always holds: the tasks of a watch end with it; a watch that breaks is opened again with a pause; what they learn
//! serves every clone of the client.

use std::collections::BTreeSet;

use steersman_proto::v1::WatchLeaderRequest;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::redirect::{LeaderHint, LeaderView};
use crate::retry::{Backoff, Call, Kind};
use crate::{Client, cluster};

/// Keeps the client's belief about the leader fresh while it lives.
pub struct LeaderWatch {
    view: watch::Receiver<LeaderView>,
    _tasks: JoinSet<()>,
}

impl LeaderWatch {
    /// Who leads, as of now.
    pub fn current(&self) -> LeaderView {
        self.view.borrow().clone()
    }

    /// Waits for the next change and returns it.
    pub async fn changed(&mut self) -> LeaderView {
        if self.view.changed().await.is_err() {
            // The sender lives in the client that our tasks hold: unreachable while the watch lives.
            std::future::pending::<()>().await;
        }
        self.view.borrow_and_update().clone()
    }

    /// Waits until a leader is known.
    pub async fn leader(&mut self) -> crate::Leader {
        loop {
            if let Some(leader) = self.view.borrow_and_update().leader.clone() {
                return leader;
            }
            self.changed().await;
        }
    }
}

impl Client {
    /// Opens a watch at every known master, also at those that become known later.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn watch_leader(&self) -> LeaderWatch {
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_all(self.clone()));
        LeaderWatch { view: self.leader_view(), _tasks: tasks }
    }
}

async fn watch_all(client: Client) {
    let mut known = client.inner.known.subscribe();
    let mut watched = BTreeSet::new();
    let mut tasks = JoinSet::new();
    loop {
        for address in client.masters() {
            if watched.insert(address.clone()) {
                tasks.spawn(watch_one(client.clone(), address));
            }
        }
        if known.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_one(client: Client, address: String) {
    let direct = client.only(&address);
    let mut backoff = Backoff::default();
    loop {
        let call = Call::new(Kind::Read).stream();
        let opened = direct.ask(call, WatchLeaderRequest {}, |channel, request| async move {
            cluster::service(channel).watch_leader(request).await
        });
        if let Ok((_, mut stream)) = opened.await {
            while let Ok(Some(info)) = stream.message().await {
                backoff = Backoff::default();
                client.inner.learn(&LeaderHint::from_info(&info));
                client
                    .learn_masters(info.masters.iter().map(|master| master.api.as_str()).filter(|api| !api.is_empty()));
            }
            client.inner.channels.forget(&address);
        }
        tokio::time::sleep(backoff.pause(&*client.inner.world.entropy)).await;
    }
}
