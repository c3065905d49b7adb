//! Steps that take a fault back.
//!
//! What always holds: each step is harmless if what it undoes is no longer so (the node was ended or replaced meanwhile).

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tokio::task::AbortHandle;

use crate::bed::Bed;
use crate::bed::links::{Layer, Spot};
use crate::bed::orders::{Done, Order};

/// One step.
#[derive(Debug)]
pub(crate) enum Undo {
    /// Opens links.
    Lift(Layer),
    /// Ends what toggles links.
    Quiet(AbortHandle),
    /// Lets a frozen master go on.
    Thaw(u64),
    /// Lets a frozen worker go on, with all that it runs.
    ThawWorker(String),
    /// Starts a master if it does not run.
    Start(u64),
    /// Starts a worker if it does not run.
    StartWorker(String),
    /// Gives a master's disk its power back.
    PowerOn(u64),
    /// Frees a full disk.
    Free(u64),
    /// Takes orders back.
    Obey(Spot, Vec<Order>),
    /// Really syncs what a lying disk had not.
    Sync(u64),
    /// The machine of a lying disk loses its power.
    LoseUnsynced(u64),
    /// Replaces a master under a new id.
    Replace(u64),
}

impl Undo {
    /// Does it.
    pub async fn run(self, bed: &mut Bed) -> Result<()> {
        match self {
            Self::Lift(layer) => bed.links().lift(layer),
            Self::Quiet(task) => task.abort(),
            Self::Thaw(id) => thaw(bed, id),
            Self::ThawWorker(name) => bed.cluster().worker(&name).process.signal_all(Signal::SIGCONT),
            Self::Start(id) => drop(bed.start_if_down(id)?),
            Self::StartWorker(name) => bed.start_worker_if_down(&name)?,
            Self::PowerOn(id) => power_on(bed, id).await?,
            Self::Free(id) => free(bed, id)?,
            Self::Obey(spot, orders) => obey(bed, spot, &orders)?,
            Self::Sync(id) => sync(bed, id)?,
            Self::LoseUnsynced(id) => super::disks::cut_power(bed, &[id])?,
            Self::Replace(id) => drop(bed.replace(id).await?),
        }
        Ok(())
    }
}

fn exists(bed: &mut Bed, id: u64) -> bool {
    bed.cluster().master_node(id).is_some()
}

fn thaw(bed: &mut Bed, id: u64) {
    if exists(bed, id) && bed.cluster().master(id).process.runs() {
        bed.cluster().master(id).process.signal(Signal::SIGCONT);
    }
}

async fn power_on(bed: &mut Bed, id: u64) -> Result<()> {
    let Some(footing) = bed.footing(Spot::Master(id)) else { return Ok(()) };
    // Mounting replays a journal: not on a thread of the runtime.
    let on =
        tokio::task::spawn_blocking(move || footing.disk.as_ref().map_or(Ok(()), crate::bed::disk::Disk::power_on));
    on.await?.with_context(|| format!("the disk of master {id} does not come back"))
}

fn free(bed: &Bed, id: u64) -> Result<()> {
    let footing = bed.footing(Spot::Master(id));
    footing.as_ref().and_then(|footing| footing.disk.as_ref()).map_or(Ok(()), crate::bed::disk::Disk::free)
}

fn obey(bed: &Bed, spot: Spot, orders: &[Order]) -> Result<()> {
    let taken_back = bed.order(spot, |file| orders.iter().try_for_each(|order| file.set(*order, 0)));
    Ok(taken_back.unwrap_or(Ok(()))?)
}

fn sync(bed: &mut Bed, id: u64) -> Result<()> {
    if !exists(bed, id) {
        return Ok(());
    }
    let master = bed.cluster().master(id);
    let data = master.data();
    master.process.place().run("sync", &["-f", &data.to_string_lossy()])
}

/// Waits until the shim of a master has done something at least once more than `than`, or `within` is over.
pub(super) async fn wait_done(bed: &Bed, id: u64, done: Done, than: u64, within: Duration) -> bool {
    let seen = crate::bed::operator::try_until("the shim", within, async || {
        let count = bed.order(Spot::Master(id), |orders| orders.count(done)).unwrap_or(0);
        anyhow::ensure!(count > than, "{count}");
        Ok(())
    });
    seen.await.is_ok()
}
