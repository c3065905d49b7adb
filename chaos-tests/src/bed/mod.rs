//! The bed of a chaos run: a cluster of real binaries in which network, disks, clocks and processes can be made to fail.
//!
//! What always holds: everything that a bed sets up (namespaces, mounts, loop devices, proxies, processes) ends with the
//! value, also on a panic, and with the process at the latest: nothing is pinned or named in the system. The bed keeps book of
//! what is impaired, so that nobody has to guess whether a minority still works. It does not judge the product.

pub mod books;
pub mod disk;
pub mod ground;
mod ioctls;
pub mod links;
pub mod operator;
pub mod orders;
pub mod place;
pub mod proxy;
pub mod router;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use steersman_client::{Client, World};

use self::books::{Books, Harm};
use self::ground::{Footing, Ground};
use self::links::{Link, Links, Policy, Spot};
use self::orders::Orders;
use crate::cluster::{Cluster, Site as _};
use crate::nemesis::{Class, InForce};
use crate::process::is_alive;
use crate::settings::Settings;

/// How the nodes are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Each node in a network namespace of its own; a router in this process carries every packet.
    Namespaces,
    /// All nodes on loopback; a proxy in this process carries every TCP connection to a master.
    Proxy,
}

/// What a bed should be like.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Masters at the beginning, with the ids 1, 2, …
    pub masters: u64,
    /// Workers, named `w1`, `w2`, …
    pub workers: usize,
    /// None: the best that there is.
    pub network: Option<Network>,
    /// Of the router's dice.
    pub seed: u64,
    /// Where folders, logs and disks are. Kept when the bed ends, but for the disks.
    pub folder: PathBuf,
    /// A file system of its own for each master, on a loop device, if this process may do that.
    pub separate_disks: bool,
    /// Preload the shim into every node: faults of syncs, writes and wall clocks.
    pub shim: bool,
}

/// A cluster on which faults can be inflicted.
#[derive(Debug)]
pub struct Bed {
    // Dropped in this order: processes first, then what they stand on.
    cluster: Cluster,
    ground: Arc<Ground>,
    books: Books,
    in_force: Vec<InForce>,
    /// Of masters: an id is never used twice in a cluster.
    next_master: u64,
}

impl Bed {
    /// Starts a cluster with the usual short leases and waits until it has a leader and all its workers.
    ///
    /// # Errors
    /// If something that was asked for by name is not to be had. What is only *better* is noted in [`Bed::missing`].
    ///
    /// # Panics
    /// If the cluster does not come up.
    pub async fn start(wanted: Wanted) -> Result<Self> {
        Self::start_with(wanted, Settings::default()).await
    }

    /// As [`Bed::start`], with other settings; the counts of masters and workers are those of `wanted`.
    ///
    /// # Errors
    /// As [`Bed::start`].
    ///
    /// # Panics
    /// As [`Bed::start`].
    pub async fn start_with(wanted: Wanted, settings: Settings) -> Result<Self> {
        let settings = Settings { masters: wanted.masters, workers: wanted.workers, ..settings };
        std::fs::create_dir_all(&wanted.folder)?;
        // Nodes work in folders of their own: a path that is relative to ours would mean something else there.
        let wanted = Wanted { folder: wanted.folder.canonicalize()?, ..wanted };
        let ground = Arc::new(Ground::lay(&wanted).context("no bed")?);
        let mut cluster = Cluster::form_at(settings, ground.clone(), wanted.folder, true)?;
        cluster.start_all();
        cluster.wait_leader().await;
        cluster.wait_workers(wanted.workers).await;
        let books = Books::new((1..=wanted.masters).collect());
        let next_master = wanted.masters + 1;
        Ok(Self { cluster, ground, books, in_force: Vec::new(), next_master })
    }

    /// What this bed cannot do, each with its reason: to be told loudly.
    pub fn missing(&self) -> Vec<String> {
        self.ground.missing().to_vec()
    }

    /// Keeps the images of all disks (`m1/disk.img`, …, to be mounted with `mount -o loop`) when the bed ends: for a run
    /// that failed. What was in an unsynced cache is not in them unless the processes ended in good order.
    pub fn keep_disks(&self) {
        self.ground.keep_disks();
    }

    /// How the nodes are connected.
    pub fn network(&self) -> Network {
        self.ground.network()
    }

    /// What is wrong with the links, and what was done on them.
    pub fn links(&self) -> &Arc<Links> {
        self.ground.links()
    }

    /// What a node stands on.
    pub fn footing(&self, spot: Spot) -> Option<Arc<Footing>> {
        self.ground.footing(spot)
    }

    /// Calls `tell` with the orders of a node's shim; none if it has no shim.
    pub fn order<T>(&self, spot: Spot, tell: impl FnOnce(&Orders) -> T) -> Option<T> {
        self.footing(spot)?.orders.as_ref().map(tell)
    }

    /// The world as seen from the runner's own place in the network: for clients of one's own making.
    pub fn world(&self) -> World {
        self.ground.world()
    }

    /// A new client of all masters, in the runner's own place.
    pub fn client(&self) -> Client {
        self.cluster.client()
    }

    /// A new client of one master alone: one try for each call, no redirects.
    ///
    /// # Panics
    /// If there is no such master: see [`Bed::masters`].
    pub fn client_of(&self, master: u64) -> Client {
        self.cluster.client_of(master)
    }

    /// Starts a program in the runner's own place, for example the command line.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, command: Command) -> std::io::Result<Child> {
        self.ground.runner().spawn(command)
    }

    /// Ids of the masters that are voters by the bed's books, in order.
    pub fn masters(&self) -> Vec<u64> {
        self.books.voters.iter().copied().collect()
    }

    /// Names of all workers.
    pub fn workers(&self) -> Vec<String> {
        self.cluster.worker_names()
    }

    /// Whether a worker is alive, runs, and can talk in both directions with every master that could lead, of which
    /// there is one; by the bed's own books. A worker of which this was always true must never be lost.
    pub fn reachable(&self, worker: &str) -> bool {
        let Some(spot) = Spot::worker(worker) else { return false };
        let alive = self.cluster.worker_node(worker).and_then(|node| node.process.pid()).is_some_and(is_alive);
        let harmed = self.harms().any(|harm| harm.workers.contains(worker)) || self.books.late.workers.contains(worker);
        let fit = self.fit();
        alive && !harmed && !fit.is_empty() && fit.iter().all(|id| self.links().open(spot, Spot::Master(*id)))
    }

    /// Masters that cannot do their part at the moment: down, frozen, cut off from a majority, or with a failing disk.
    pub fn impaired(&self) -> BTreeSet<u64> {
        let fit = self.fit();
        self.books.voters.iter().copied().filter(|id| !fit.contains(id)).collect()
    }

    /// How many further masters may be impaired while a majority works.
    pub fn spare(&self) -> usize {
        self.books.spare_of_all().saturating_sub(self.impaired().len())
    }

    /// Masters of which nothing bad is known and that can talk with enough others.
    pub fn fit(&self) -> BTreeSet<u64> {
        self.fit_if(&Harm::default(), &[])
    }

    /// The same, if this happened besides.
    fn fit_if(&self, harm: &Harm, cuts: &[(Link, Policy)]) -> BTreeSet<u64> {
        let alive = |id: &u64| self.cluster.master_node(*id).and_then(|node| node.process.pid()).is_some_and(is_alive);
        let harmed = |id: &u64| {
            let known = self.harms().chain([&self.books.late, harm]);
            known.into_iter().any(|harm| harm.masters.contains(id))
        };
        let well: BTreeSet<u64> = self.books.voters.iter().copied().filter(|id| alive(id) && !harmed(id)).collect();
        let cut: BTreeSet<Link> = cuts.iter().filter(|(_, policy)| policy.cut).map(|(link, _)| *link).collect();
        self.books.fit(&well, |a, b| {
            let (a, b) = (Spot::Master(a), Spot::Master(b));
            self.links().open(a, b) && !cut.contains(&(a, b)) && !cut.contains(&(b, a))
        })
    }

    /// Whether a majority would still work, with as many in reserve as are promised, if this happened besides.
    pub(crate) fn affords(&self, harm: &Harm, cuts: &[(Link, Policy)]) -> bool {
        let fit = self.fit_if(harm, cuts).len();
        fit > 0 && self.books.voters.len() - fit <= self.books.spare_of_all()
    }

    fn harms(&self) -> impl Iterator<Item = &Harm> {
        self.in_force.iter().map(|fault| &fault.harm)
    }

    /// Nodes that ended although nothing was done to them that explains it, with their exit codes and last words. Each is
    /// told once and started again, as its supervisor would; it counts as impaired until the next heal sees it take part.
    pub fn crashed(&mut self) -> Vec<String> {
        let excused: Harm = self.harms().cloned().fold(self.books.late.clone(), Harm::and);
        let mut told = Vec::new();
        for id in self.cluster.master_ids().into_iter().filter(|id| !excused.masters.contains(id)) {
            let Some(ended) = self.cluster.master(id).process.try_ended() else { continue };
            let again = self.start_if_down(id).err().map(|error| format!("; {error:#}")).unwrap_or_default();
            told.push(format!("master {id} {}{again}", operator::last_words(&ended)));
            self.books.late.masters.insert(id);
        }
        for name in self.workers().into_iter().filter(|name| !excused.workers.contains(name)) {
            let Some(ended) = self.cluster.worker(&name).process.try_ended() else { continue };
            let again = self.start_worker_if_down(&name).err().map(|error| format!("; {error:#}")).unwrap_or_default();
            told.push(format!("worker {name} {}{again}", operator::last_words(&ended)));
            self.books.late.workers.insert(name);
        }
        told
    }

    /// Undoes whatever is still in force: all nodes run, all links are open, damaged masters are replaced.
    ///
    /// # Errors
    /// If that was not possible: with what was tried last.
    pub async fn heal_all(&mut self) -> Result<()> {
        let mut first_error = Ok(());
        while let Some((class, since)) = self.in_force.first().map(|fault| (fault.class, fault.since)) {
            let healed = self.take_back(class, since).await;
            first_error = first_error.and(healed);
        }
        // What could not come back while something else was wrong can now.
        first_error.and(self.all_take_part().await)
    }

    /// Ends every process and takes everything down.
    pub async fn stop(self) {
        // Killing and unmounting wait for the kernel: not on a thread of the runtime.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// The cluster.
    pub fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// Puts a fault on the books.
    pub(crate) fn enter(&mut self, fault: InForce) {
        self.in_force.push(fault);
    }

    fn fault(&mut self, class: Class, since: Instant) -> Option<usize> {
        self.in_force.iter().position(|fault| fault.class == class && fault.since == since)
    }

    /// Undoes a fault. It stays on the books while that lasts, and is off them in any case afterwards.
    pub(crate) async fn take_back(&mut self, class: Class, since: Instant) -> Result<()> {
        let Some(at) = self.fault(class, since) else { return Ok(()) };
        let mut first_error = Ok(());
        for step in std::mem::take(&mut self.in_force[at].undo) {
            let undone = step.run(self).await;
            first_error = first_error.and(undone);
        }
        if let Some(at) = self.fault(class, since) {
            let harm = self.in_force.remove(at).harm;
            self.books.late = std::mem::take(&mut self.books.late).and(harm);
        }
        let back = self.those_back(class).await;
        first_error.and(back).with_context(|| format!("healing {class}"))
    }
}
