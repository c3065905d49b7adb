//! Faults of disks: power loss, full, slow, and syncs that fail, lie or crawl.
//!
//! What always holds: a disk that lies breaks what promise P1 rests on (a quorum has really synced), so only one master of a
//! minority has one, it counts as impaired all the while, and no power is lost meanwhile but its own. If it is, what it had
//! acknowledged is gone: it is never started again with that data but replaced under a new id, so that the promise still
//! holds for the others. If not, everything is really synced before it counts as well.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::clocks::no_shim;
use super::undo::{Undo, wait_done};
use super::{Class, Done, Skipped, aim};
use crate::bed::Bed;
use crate::bed::books::Harm;
use crate::bed::disk::Disk;
use crate::bed::links::{Policy, Spot, between};
use crate::bed::orders::{Done as Did, Order, Orders};

/// Longer than elections take.
const NOTICED: Duration = Duration::from_secs(1);
/// An idle cluster syncs seldom.
const TRICKLE: Duration = Duration::from_secs(10);

fn no_disk() -> Skipped {
    Skipped::Unable("masters have no disks of their own, which takes root and loop devices".to_owned())
}

fn has_disk(bed: &Bed, id: u64) -> bool {
    bed.footing(Spot::Master(id)).is_some_and(|footing| footing.disk.is_some())
}

/// Power off for all of them, then the end of the processes: the kernel gets no chance to write anything back.
pub(super) fn cut_power(bed: &mut Bed, ids: &[u64]) -> anyhow::Result<()> {
    for id in ids {
        let footing = bed.footing(Spot::Master(*id));
        footing.as_ref().and_then(|footing| footing.disk.as_ref()).map_or(Ok(()), Disk::power_off)?;
    }
    for id in ids {
        if bed.cluster().master_node(*id).is_some() {
            bed.cluster().master(*id).process.kill_all();
        }
    }
    Ok(())
}

fn lose_power(bed: &mut Bed, ids: Vec<u64>) -> Result<Done, Skipped> {
    if !ids.iter().all(|id| has_disk(bed, *id)) {
        return Err(no_disk());
    }
    // A machine without power says nothing any more: no FIN, no RST.
    let (own, mut rest) = (aim::spots(&ids), aim::spots(&bed.masters()));
    rest.extend(aim::workers(bed).into_iter().map(|(_, spot)| spot));
    rest.push(Spot::Runner);
    let layer = bed.links().lay(between(&own, &rest, Policy::CUT));
    let mut undo: Vec<Undo> = ids.iter().copied().map(Undo::PowerOn).collect();
    undo.push(Undo::Lift(layer));
    undo.extend(ids.iter().copied().map(Undo::Start));
    let harm = Harm::masters(ids.clone());
    match cut_power(bed, &ids) {
        Ok(()) => Ok(Done { target: aim::names(&ids), harm, undo, at_least: NOTICED }),
        Err(error) => {
            bed.links().lift(layer);
            Err(Skipped::Unable(format!("{error:#}")))
        }
    }
}

/// One master.
pub(super) async fn power_loss(bed: &mut Bed, dice: &mut StdRng) -> Result<Done, Skipped> {
    let id = aim::master(bed, dice).await?;
    lose_power(bed, vec![id])
}

/// All masters.
pub(super) fn power_loss_all(bed: &mut Bed) -> Result<Done, Skipped> {
    // Above all no disk may lie at this moment.
    aim::all_well(bed)?;
    lose_power(bed, bed.masters())
}

/// A disk without room: really so if it is its own, else by the word of the shim.
pub(super) async fn full(bed: &mut Bed, dice: &mut StdRng) -> Result<Done, Skipped> {
    let id = aim::master(bed, dice).await?;
    let harm = Harm::masters([id]);
    let mut undo = if let Some(footing) = bed.footing(Spot::Master(id)).filter(|footing| footing.disk.is_some()) {
        let filled =
            tokio::task::spawn_blocking(move || footing.disk.as_ref().map_or(Ok(()), |disk| disk.fill())).await;
        let filled = filled.map_err(anyhow::Error::from).and_then(|result| result);
        filled.map_err(|error| Skipped::Unable(format!("{error:#}")))?;
        vec![Undo::Free(id)]
    } else {
        let no_space = nix::errno::Errno::ENOSPC as u64;
        order(bed, id, |orders| orders.set(Order::WriteErrno, no_space))?;
        vec![Undo::Obey(Spot::Master(id), vec![Order::WriteErrno])]
    };
    undo.push(Undo::Start(id));
    Ok(Done { target: format!("master {id}"), harm, undo, at_least: NOTICED })
}

fn order(bed: &Bed, id: u64, tell: impl FnOnce(&Orders) -> std::io::Result<()>) -> Result<(), Skipped> {
    let told = bed.order(Spot::Master(id), tell).ok_or_else(no_shim)?;
    told.map_err(|error| Skipped::Unable(format!("cannot order it: {error}")))
}

/// Syncs that are slow, fail or lie, and writes that are slow.
pub(super) async fn bad_syncs(bed: &mut Bed, class: Class, dice: &mut StdRng) -> Result<Done, Skipped> {
    let id = aim::master(bed, dice).await?;
    let did = match class {
        Class::SyncFails => Did::SyncsFailed,
        Class::SyncLies => Did::SyncsLied,
        _ => Did::SyncsDelayed,
    };
    let before = bed.order(Spot::Master(id), |orders| orders.count(did)).ok_or_else(no_shim)?;
    let ms = |dice: &mut StdRng, range| Duration::from_millis(dice.random_range(range));
    let (how, orders) = match class {
        Class::SyncFails => {
            order(bed, id, |orders| orders.set(Order::SyncErrno, nix::errno::Errno::EIO as u64))?;
            ("syncs fail".to_owned(), vec![Order::SyncErrno])
        }
        Class::SyncLies => {
            order(bed, id, |orders| orders.set(Order::SyncLies, 1))?;
            ("syncs lie".to_owned(), vec![Order::SyncLies])
        }
        Class::SyncSlow => {
            let by = ms(dice, 50..600);
            order(bed, id, |orders| orders.delay_syncs(by))?;
            (format!("syncs take {by:?} more"), vec![Order::SyncDelayUs])
        }
        _ => {
            let (sync, write) = (ms(dice, 20..150), ms(dice, 2..20));
            order(bed, id, |orders| orders.delay_syncs(sync))?;
            order(bed, id, |orders| orders.set(Order::WriteDelayUs, write.as_micros() as u64))?;
            (format!("writes take {write:?} more, syncs {sync:?}"), vec![Order::SyncDelayUs, Order::WriteDelayUs])
        }
    };
    let obey = Undo::Obey(Spot::Master(id), orders);
    if !wait_done(bed, id, did, before, TRICKLE).await {
        let _ = obey.run(bed).await;
        return Err(Skipped::NotNow(format!("master {id} did not sync anything within {TRICKLE:?}")));
    }
    let (how, undo) = undo_syncs(bed, class, id, (how, obey), dice);
    Ok(Done { target: format!("master {id}: {how}"), harm: Harm::masters([id]), undo, at_least: NOTICED })
}

/// A lie ends in one of two ways: unnoticed, with a real sync; or with a power loss, after which nobody trusts the data.
fn undo_syncs(bed: &Bed, class: Class, id: u64, told: (String, Undo), dice: &mut StdRng) -> (String, Vec<Undo>) {
    let (how, obey) = told;
    if class != Class::SyncLies {
        return (how, vec![obey, Undo::Start(id)]);
    }
    if has_disk(bed, id) && dice.random_bool(0.5) {
        return (format!("{how} until the power goes"), vec![Undo::LoseUnsynced(id), Undo::Replace(id)]);
    }
    (how, vec![obey, Undo::Sync(id), Undo::Start(id)])
}
