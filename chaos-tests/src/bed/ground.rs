//! The ground under the nodes of a bed: for each its place in the network, its disk, and its orders for the shim.
//!
//! What always holds: what could not be had is noted with its reason, never silently replaced; a node that is retired leaves
//! nothing behind but its folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use steersman_client::World;

use super::disk::Disk;
use super::links::{Links, Spot};
use super::orders::{self, Orders};
use super::place::Place;
use super::proxy::Proxy;
use super::router::{self, PlaceNet, Router};
use super::{Network, Wanted};
use crate::cluster::Site;
use crate::process::Launch;
use crate::settings::{Addresses, Lodging};

/// What carries the traffic.
#[derive(Debug)]
enum Carrier {
    Router(Router),
    Proxy(Proxy),
}

/// What one node stands on.
#[derive(Debug)]
pub struct Footing {
    /// Its namespaces.
    pub place: Place,
    /// Its own file system.
    pub disk: Option<Disk>,
    /// What the shim in it is told.
    pub orders: Option<Orders>,
}

/// The ground under all nodes.
#[derive(Debug)]
pub struct Ground {
    links: Arc<Links>,
    carrier: Carrier,
    /// The bed's mount namespace, if masters have disks.
    mounts: Option<Place>,
    runner: Place,
    shim: Option<PathBuf>,
    footings: Mutex<BTreeMap<Spot, Arc<Footing>>>,
    missing: Vec<String>,
    keep_disks: Arc<AtomicBool>,
}

impl Ground {
    /// Lays it.
    ///
    /// # Errors
    /// If what was asked for by name is not to be had.
    pub fn lay(wanted: &Wanted) -> Result<Self> {
        std::fs::create_dir_all(&wanted.folder)?;
        let mut missing = Vec::new();
        let network = choose_network(wanted.network, &mut missing)?;
        let links = Arc::new(Links::new(wanted.seed));
        let mounts = wanted.separate_disks.then(|| try_disks(&wanted.folder)).transpose();
        let mounts = mounts.unwrap_or_else(|error| {
            missing.push(format!("no disks that can lose power or be full: {error:#}"));
            None
        });
        let shim = if wanted.shim { Some(orders::library()?) } else { None };
        let (mut runner, carrier) = (Place::default(), carrier(network, &links, &wanted.folder)?);
        if let Carrier::Router(router) = &carrier {
            runner = runner.with_new_network()?;
            router.connect(Spot::Runner, &runner)?;
        }
        Ok(Self {
            links,
            carrier,
            mounts,
            runner,
            shim,
            footings: Mutex::default(),
            missing,
            keep_disks: Arc::default(),
        })
    }

    /// How the nodes are connected.
    pub fn network(&self) -> Network {
        match self.carrier {
            Carrier::Router(_) => Network::Namespaces,
            Carrier::Proxy(_) => Network::Proxy,
        }
    }

    /// What was wished for and is not to be had, with reasons.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Leaves the images of all disks behind.
    pub fn keep_disks(&self) {
        self.keep_disks.store(true, Ordering::Relaxed);
    }

    /// All links.
    pub fn links(&self) -> &Arc<Links> {
        &self.links
    }

    /// The runner's own place.
    pub fn runner(&self) -> &Place {
        &self.runner
    }

    /// What a node stands on.
    pub fn footing(&self, spot: Spot) -> Option<Arc<Footing>> {
        self.footings().get(&spot).cloned()
    }

    fn footings(&self) -> MutexGuard<'_, BTreeMap<Spot, Arc<Footing>>> {
        self.footings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the ground from under a node that is no more.
    pub fn retire(&self, spot: Spot) {
        match &self.carrier {
            Carrier::Router(router) => router.disconnect(spot),
            Carrier::Proxy(proxy) => proxy.close(spot),
        }
        self.footings().remove(&spot);
    }

    fn lodge(&self, spot: Spot, folder: &Path) -> Result<Lodging> {
        self.retire(spot);
        let mut lodging = self.connect(spot, folder)?;
        let place = lodging.launch.place.clone();
        let disk = match (&self.mounts, spot) {
            (Some(mounts), Spot::Master(_)) => Some(Disk::make(&folder.join("disk"), mounts, self.keep_disks.clone())?),
            _ => None,
        };
        if let Some(disk) = &disk {
            lodging.data = disk.path().join("data");
        }
        let orders = self.shim.as_ref().map(|_| Orders::create(&folder.join("orders"))).transpose()?;
        if let (Some(library), Some(orders)) = (&self.shim, &orders) {
            lodging.launch.env.push(("LD_PRELOAD", library.clone()));
            lodging.launch.env.push((orders::VARIABLE, orders.path().to_owned()));
        }
        self.footings().insert(spot, Arc::new(Footing { place, disk, orders }));
        Ok(lodging)
    }

    fn connect(&self, spot: Spot, folder: &Path) -> Result<Lodging> {
        let base = self.mounts.clone().unwrap_or_default();
        match &self.carrier {
            Carrier::Router(router) => {
                let place = base.with_new_network()?;
                let ip = router.connect(spot, &place)?;
                let at = |port: u16| format!("{ip}:{port}");
                let addresses = Addresses { api: at(7400), raft: at(7401), http: at(7402) };
                let launch = Launch { place, env: Vec::new() };
                Ok(Lodging { insecure: true, launch, ..Lodging::new(&folder.join("data"), &addresses) })
            }
            Carrier::Proxy(proxy) => {
                let mut lodging = Lodging::here(folder)?;
                lodging.launch.place = base;
                if matches!(spot, Spot::Master(_)) {
                    lodging.advertise.api = proxy.serve(spot, &lodging.listen.api)?;
                    lodging.advertise.raft = proxy.serve(spot, &lodging.listen.raft)?;
                }
                Ok(lodging)
            }
        }
    }
}

impl Site for Ground {
    fn world(&self) -> World {
        match self.carrier {
            Carrier::Router(_) => World { net: Arc::new(PlaceNet(self.runner.clone())), ..World::real() },
            Carrier::Proxy(_) => World::real(),
        }
    }

    fn master(&self, id: u64, folder: &Path) -> Result<Lodging> {
        self.lodge(Spot::Master(id), folder).with_context(|| format!("no place for master {id}"))
    }

    fn worker(&self, name: &str, folder: &Path) -> Result<Lodging> {
        let spot = Spot::worker(name).ok_or_else(|| anyhow!("{name} is no name of a worker here: w1, w2, …"))?;
        self.lodge(spot, folder).with_context(|| format!("no place for worker {name}"))
    }
}

fn choose_network(wanted: Option<Network>, missing: &mut Vec<String>) -> Result<Network> {
    match (wanted, router::possible()) {
        (Some(Network::Proxy), _) => Ok(Network::Proxy),
        (_, Ok(())) => Ok(Network::Namespaces),
        (Some(Network::Namespaces), Err(error)) => Err(error.context("no network namespaces")),
        (None, Err(error)) => {
            missing.push(format!("no network namespaces, so a proxy carries streams instead of packets: {error:#}"));
            Ok(Network::Proxy)
        }
    }
}

fn carrier(network: Network, links: &Arc<Links>, folder: &Path) -> Result<Carrier> {
    Ok(match network {
        Network::Namespaces => Carrier::Router(Router::start(links.clone())?),
        Network::Proxy => Carrier::Proxy(Proxy::start(links.clone(), folder)?),
    })
}

/// A mount namespace, after a disk was made in it to see whether that works.
fn try_disks(folder: &Path) -> Result<Place> {
    let mounts = Place::default().with_new_mounts()?;
    Disk::make(&folder.join("trial"), &mounts, Arc::default())?;
    Ok(mounts)
}
