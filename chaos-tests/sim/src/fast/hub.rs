//! What everything in a run shares: who lives, the links, the disks, the journal.
//!
//! What always holds: a process is known by its place and the number of its life; whoever asks a place finds the life that
//! is there when the question arrives, and an answer of a life that ended on the way never arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use steersman_master::bare::Bare;
use steersman_raft_store::MemDisk;
use steersman_world::SeededEntropy;
use tokio::sync::oneshot;

use super::journal::Journal;
use super::links::{Links, Place};
use super::plan::Plan;
use super::watch::Truth;
use crate::clock::NodeClock;
use crate::scope::Scope;

/// One life of a master's process.
pub struct Life {
    /// Which master.
    pub id: u64,
    /// Which of all lives in the run.
    pub number: u64,
    /// Its tasks.
    pub scope: Arc<Scope>,
    /// Its disk.
    pub disk: MemDisk,
    /// Itself, once it is up.
    pub bare: std::sync::OnceLock<Arc<Bare>>,
    /// The far ends of connections to its listener: they break when it dies.
    pub holds: Mutex<Vec<tokio::io::DuplexStream>>,
}

impl Life {
    /// The master, if it is up.
    pub fn up(&self) -> Option<Arc<Bare>> {
        self.bare.get().cloned()
    }
}

/// What came of a question to another place.
#[derive(Debug)]
pub enum Asked<T> {
    /// It was answered.
    Answer(T),
    /// Nobody listens there: it did not arrive.
    Refused,
    /// No answer in time: it may have arrived.
    Silence,
}

/// The run.
pub struct Hub {
    /// What the run is.
    pub plan: Plan,
    /// All links.
    pub links: Arc<Links>,
    /// What is written down.
    pub journal: Journal,
    /// What was committed.
    pub truth: Truth,
    /// Masters that live now.
    pub lives: Mutex<BTreeMap<u64, Arc<Life>>>,
    /// Every master's disk, of dead ones too.
    pub disks: Mutex<BTreeMap<u64, MemDisk>>,
    /// Every master's clock.
    pub clocks: Mutex<BTreeMap<u64, Arc<NodeClock>>>,
    /// Disks with an injected failure: their masters may stop.
    pub sick: Mutex<BTreeSet<u64>>,
    /// Masters that were removed for good.
    pub retired: Mutex<BTreeSet<u64>>,
    /// Hosts without power.
    pub dark: Arc<Mutex<BTreeSet<u64>>>,
    /// Connections that a power cut left hanging.
    pub graves: Mutex<Vec<tokio::io::DuplexStream>>,
    /// What attempts write to.
    pub register: super::worker::Register,
    /// Tasks that a submit was acknowledged for, and whether somebody asked to cancel them.
    pub tasks: Mutex<BTreeMap<u64, bool>>,
    /// The next index that each follower of the event stream wants.
    pub heard: Mutex<BTreeMap<u64, u64>>,
    /// How many faults in force may cost a worker its lease, by worker.
    pub disturbances: Mutex<BTreeMap<String, u64>>,
    /// For everything that is not a fault or a message.
    pub numbers: SeededEntropy,
    /// Faults are over.
    pub calm: AtomicBool,
    /// Clients and followers end.
    pub over: AtomicBool,
    lives_ever: AtomicU64,
    faults_ever: AtomicU64,
}

impl Hub {
    /// A run in which nobody lives yet.
    pub fn new(plan: Plan) -> Arc<Self> {
        let seed = plan.seed;
        Arc::new(Self {
            links: Arc::new(Links::new(seed ^ 0x11_4B5)),
            journal: Journal::new(),
            truth: Truth::default(),
            lives: Mutex::default(),
            disks: Mutex::default(),
            clocks: Mutex::default(),
            sick: Mutex::default(),
            retired: Mutex::default(),
            dark: Arc::default(),
            heard: Mutex::default(),
            disturbances: Mutex::default(),
            register: super::worker::Register::default(),
            tasks: Mutex::default(),
            graves: Mutex::default(),
            numbers: SeededEntropy::new(seed ^ 0xAB5),
            calm: AtomicBool::new(false),
            over: AtomicBool::new(false),
            lives_ever: AtomicU64::new(0),
            faults_ever: AtomicU64::new(0),
            plan,
        })
    }

    /// A number for a new life.
    pub fn next_life(&self) -> u64 {
        self.lives_ever.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A number for a new fault.
    pub fn next_fault(&self) -> u64 {
        self.faults_ever.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether no more faults come.
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Whether clients end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A fault that may cost a worker its lease begins or ends.
    pub fn disturbed(&self, worker: &str, begins: bool) {
        let now = {
            let mut disturbances = self.disturbances.lock();
            let count = disturbances.entry(worker.to_owned()).or_default();
            *count = if begins { *count + 1 } else { count.saturating_sub(1) };
            *count
        };
        if (begins && now == 1) || (!begins && now == 0) {
            self.journal.reach(worker, !begins);
        }
    }

    /// The same of all workers.
    pub fn all_disturbed(&self, begins: bool) {
        (1..=self.plan.workers).for_each(|number| self.disturbed(&format!("w{number}"), begins));
    }

    /// The life at a master's place.
    pub fn life(&self, id: u64) -> Option<Arc<Life>> {
        self.lives.lock().get(&id).cloned()
    }

    /// Masters that are up, by id.
    pub fn ups(&self) -> Vec<(u64, Arc<Bare>)> {
        self.lives.lock().iter().filter_map(|(id, life)| Some((*id, life.up()?))).collect()
    }

    /// Every master that was ever started and not removed for good.
    pub fn known(&self) -> Vec<u64> {
        let retired = self.retired.lock();
        self.disks.lock().keys().copied().filter(|id| !retired.contains(id)).collect()
    }

    /// The master whose reign has begun, in the highest term if there are several.
    pub fn leader(&self) -> Option<(u64, Arc<Bare>)> {
        let reigning = |(_, bare): &(u64, Arc<Bare>)| bare.node.reign().map(|reign| reign.term);
        self.ups().into_iter().filter(|up| reigning(up).is_some()).max_by_key(reigning)
    }

    /// Asks the master at `to`: the act runs in its process.
    pub async fn ask<T: Send + 'static>(
        &self,
        from: Place,
        to: u64,
        limit: Duration,
        act: impl FnOnce(Arc<Bare>) -> BoxFuture<'static, T> + Send + 'static,
    ) -> Asked<T> {
        let asking = async {
            if !self.links.carry(from, to).await {
                return std::future::pending().await;
            }
            let Some((life, bare)) = self.life(to).and_then(|life| Some((life.clone(), life.up()?))) else {
                let _ = self.links.carry(to, from).await;
                return Asked::Refused;
            };
            let (done, answer) = oneshot::channel();
            life.scope.spawn(async move { drop(done.send(act(bare).await)) });
            match answer.await {
                Err(_) => Asked::Silence,
                Ok(answer) if self.links.carry(to, from).await => Asked::Answer(answer),
                Ok(_) => std::future::pending().await,
            }
        };
        tokio::time::timeout(limit, asking).await.unwrap_or(Asked::Silence)
    }
}
