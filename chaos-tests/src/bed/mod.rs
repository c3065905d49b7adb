//! The bed of a chaos run: a cluster of real binaries in which network, disks, clocks and processes can be made to fail.
//!
//! What always holds: everything that a bed sets up (namespaces, mounts, loop devices, proxies, processes) ends with the
//! value, also on a panic, and with the process at the latest: nothing is pinned or named in the system. The bed keeps book of
//! what is impaired, so that nobody has to guess whether a minority still works. It does not judge the product.

pub mod disk;
pub mod ground;
mod ioctls;
pub mod links;
pub mod orders;
pub mod place;
pub mod proxy;
pub mod router;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use steersman_client::{Client, World};

use crate::cluster::Cluster;
use crate::settings::Settings;

/// How the nodes are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Each node in a network namespace of its own; a router in this process carries every packet.
    Namespaces,
    /// All nodes on loopback; a proxy in this process carries every TCP connection between them.
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
    cluster: Cluster,
}

impl Bed {
    /// Starts a cluster with the usual short leases and waits until it has a leader and all its workers.
    ///
    /// # Errors
    /// If something that was asked for by name is not to be had. What is only *better* is noted in [`Bed::missing`].
    pub async fn start(wanted: Wanted) -> Result<Self> {
        Self::start_with(wanted, Settings::default()).await
    }

    /// As [`Bed::start`], with other settings; the counts of masters and workers are those of `wanted`.
    ///
    /// # Errors
    /// As [`Bed::start`].
    pub async fn start_with(_wanted: Wanted, _settings: Settings) -> Result<Self> {
        anyhow::bail!("under construction")
    }

    /// What this bed cannot do, each with its reason: to be told loudly.
    pub fn missing(&self) -> Vec<String> {
        Vec::new()
    }

    /// How the nodes are connected.
    pub fn network(&self) -> Network {
        Network::Proxy
    }

    /// The world as seen from the runner's own place in the network: for clients of one's own making.
    pub fn world(&self) -> World {
        World::real()
    }

    /// A new client of all masters, in the runner's own place.
    pub fn client(&self) -> Client {
        self.cluster.client()
    }

    /// A new client of one master alone: one try for each call, no redirects.
    pub fn client_of(&self, master: u64) -> Client {
        self.cluster.client_of(master)
    }

    /// Starts a program in the runner's own place, for example the command line.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, mut command: std::process::Command) -> std::io::Result<std::process::Child> {
        command.spawn()
    }

    /// Ids of the masters that are members by the bed's books, in order.
    pub fn masters(&self) -> Vec<u64> {
        self.cluster.master_ids()
    }

    /// Names of all workers.
    pub fn workers(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether a worker is alive, runs, and can talk in both directions with every master that could lead, of which
    /// there is one; by the bed's own books. A worker of which this was always true must never be lost.
    pub fn reachable(&self, _worker: &str) -> bool {
        false
    }

    /// Masters that cannot do their part at the moment: down, frozen, cut off from a majority, or with a failing disk.
    pub fn impaired(&self) -> BTreeSet<u64> {
        BTreeSet::new()
    }

    /// How many further masters may be impaired while a majority works.
    pub fn spare(&self) -> usize {
        0
    }

    /// Nodes that ended although nothing was done to them that explains it, with their exit codes and last words.
    pub fn crashed(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Undoes whatever is still in force: all nodes run, all links are open, damaged masters are replaced.
    ///
    /// # Errors
    /// If that was not possible: with what was tried last.
    pub async fn heal_all(&mut self) -> Result<()> {
        anyhow::bail!("under construction")
    }

    /// Ends every process and takes everything down.
    pub async fn stop(self) {}

    /// The cluster.
    pub fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}
