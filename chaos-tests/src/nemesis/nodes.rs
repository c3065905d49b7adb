//! Faults of processes: killed, frozen, restarted, told to hand over.
//!
//! What always holds: signals go to processes of this bed alone, by their ids.

use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;

use super::undo::Undo;
use super::{Class, Done, Skipped, aim};
use crate::bed::Bed;
use crate::bed::books::Harm;
use crate::bed::links::{Policy, Spot, between};
use crate::bed::operator::{last_words, try_until};
use crate::cluster::PATIENCE;

/// Longer than elections take.
const NOTICED: Duration = Duration::from_secs(1);

fn master_down(target: String, ids: Vec<u64>) -> Done {
    let undo = ids.iter().copied().map(Undo::Start).collect();
    Done { target, harm: Harm::masters(ids), undo, at_least: NOTICED }
}

/// SIGKILL of a master.
pub(super) async fn kill(bed: &mut Bed, dice: &mut StdRng) -> Result<Done, Skipped> {
    let id = aim::master(bed, dice).await?;
    bed.cluster().kill_master(id);
    Ok(master_down(format!("master {id}"), vec![id]))
}

/// SIGKILL of all masters.
pub(super) fn all_down(bed: &mut Bed) -> Result<Done, Skipped> {
    aim::all_well(bed)?;
    let ids = bed.masters();
    bed.cluster().kill_all_masters();
    Ok(master_down(aim::names(&ids), ids))
}

/// SIGSTOP of a master.
pub(super) async fn pause(bed: &mut Bed, dice: &mut StdRng) -> Result<Done, Skipped> {
    let id = aim::master(bed, dice).await?;
    bed.cluster().master(id).process.signal(Signal::SIGSTOP);
    let undo = vec![Undo::Thaw(id)];
    Ok(Done { target: format!("master {id}"), harm: Harm::masters([id]), undo, at_least: NOTICED })
}

/// The leader hands over.
pub(super) async fn step_down(bed: &mut Bed) -> Result<Done, Skipped> {
    let id = aim::leader(bed).await?;
    let client = bed.client().with_timeout(Duration::from_secs(5));
    // Nobody may be near enough to take over, or the answer may be lost: what counts is whether the office moved.
    let answer = client.step_down(0).await;
    let moved = try_until("another leader", Duration::from_secs(5), async || match bed.leader().await {
        Some(reign) if reign.leader != id => Ok(reign.leader),
        other => Err(anyhow::anyhow!("{other:?}")),
    });
    let to = moved.await.map_err(|error| {
        let said = answer.err().map_or_else(String::new, |error| format!(", it was told: {error}"));
        Skipped::NotNow(format!("leader {id} does not hand over{said} ({error:#})"))
    })?;
    let target = format!("leader {id}, to {to}");
    Ok(Done { target, harm: Harm::default(), undo: Vec::new(), at_least: Duration::ZERO })
}

/// Every master in good order, the leader last.
pub(super) async fn rolling_restart(bed: &mut Bed) -> Result<Done, Skipped> {
    aim::all_well(bed)?;
    let leader = aim::leader(bed).await?;
    let mut ids = bed.masters();
    ids.sort_by_key(|id| *id == leader);
    for id in &ids {
        restart(bed, *id).await?;
    }
    let target = aim::names(&ids);
    Ok(Done { target, harm: Harm::default(), undo: Vec::new(), at_least: Duration::ZERO })
}

async fn restart(bed: &mut Bed, id: u64) -> Result<(), Skipped> {
    let process = &mut bed.cluster().master(id).process;
    if !process.runs() {
        return Err(Skipped::NotNow(format!("master {id} does not run")));
    }
    process.signal(Signal::SIGTERM);
    let ended = try_until("its end", PATIENCE, async || process.try_ended().ok_or_else(|| anyhow::anyhow!("it runs")));
    match ended.await {
        Ok(ended) if ended.code == Some(0) => {}
        Ok(ended) => return Err(Skipped::Broken(format!("master {id}, told to end, {}", last_words(&ended)))),
        Err(error) => return Err(Skipped::Broken(format!("master {id} does not end when it is told to: {error:#}"))),
    }
    let back = match bed.start_if_down(id) {
        Ok(_) => bed.wait_takes_part(id, None).await,
        Err(error) => Err(error),
    };
    back.map_err(|error| Skipped::Broken(format!("after a restart: {error:#}")))
}

/// A worker's machine dies, freezes, or is cut off.
pub(super) fn worker(bed: &mut Bed, class: Class, dice: &mut StdRng) -> Result<Done, Skipped> {
    let name = aim::worker(bed, dice)?;
    let process = &mut bed.cluster().worker(&name).process;
    let undo = match class {
        Class::WorkerKill => {
            process.kill_all();
            Undo::StartWorker(name.clone())
        }
        Class::WorkerPause => {
            process.signal_all(Signal::SIGSTOP);
            Undo::ThawWorker(name.clone())
        }
        _ => {
            let own = Spot::worker(&name).into_iter().collect::<Vec<_>>();
            Undo::Lift(bed.links().lay(between(&own, &aim::spots(&bed.masters()), Policy::CUT)))
        }
    };
    // Only a silence that is longer than the lease has consequences.
    let at_least = bed.cluster().settings.lease() + Duration::from_secs(1);
    let harm = Harm::workers([name.clone()]);
    Ok(Done { target: format!("worker {name}"), harm, undo: vec![undo], at_least })
}
