//! Whom a fault hits.
//!
//! What always holds: only those that are well are hit, so that faults do not pile up on one node; leaders are hit more often
//! than chance would, for that is where it hurts.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::Skipped;
use crate::bed::Bed;
use crate::bed::books::Harm;
use crate::bed::links::Spot;

/// How often the leader is the one.
const LEADER: f64 = 0.5;

/// One fit master that can be spared.
pub(super) async fn master(bed: &Bed, dice: &mut StdRng) -> Result<u64, Skipped> {
    let leader = if dice.random_bool(LEADER) { bed.leader().await.map(|reign| reign.leader) } else { None };
    let fit: Vec<u64> = bed.fit().into_iter().collect();
    let id = leader.filter(|id| fit.contains(id)).or_else(|| fit.choose(dice).copied());
    let id = id.ok_or_else(|| Skipped::NotNow("no master is well".to_owned()))?;
    spare(bed, &Harm::masters([id]))?;
    Ok(id)
}

/// Whether all of them can be spared.
pub(super) fn spare(bed: &Bed, harm: &Harm) -> Result<(), Skipped> {
    if bed.affords(harm, &[]) {
        return Ok(());
    }
    let impaired = bed.impaired();
    Err(Skipped::NotNow(format!("masters {impaired:?} of {:?} are impaired already", bed.masters())))
}

/// Nothing at all is impaired.
pub(super) fn all_well(bed: &Bed) -> Result<(), Skipped> {
    match bed.impaired() {
        none if none.is_empty() => Ok(()),
        impaired => Err(Skipped::NotNow(format!("masters {impaired:?} are impaired"))),
    }
}

/// The leader.
pub(super) async fn leader(bed: &Bed) -> Result<u64, Skipped> {
    let reign = bed.leader().await.ok_or_else(|| Skipped::NotNow("nobody leads".to_owned()))?;
    Ok(reign.leader)
}

/// A worker that is well, while another one is.
pub(super) fn worker(bed: &Bed, dice: &mut StdRng) -> Result<String, Skipped> {
    let all = bed.workers();
    let well: Vec<String> = all.iter().filter(|name| bed.reachable(name)).cloned().collect();
    if well.len() < all.len().min(2) {
        return Err(Skipped::NotNow(format!("only {well:?} of {} workers are well", all.len())));
    }
    well.choose(dice).cloned().ok_or_else(|| Skipped::NotNow("no worker is well".to_owned()))
}

/// All masters, in a random order.
pub(super) fn masters(bed: &Bed, dice: &mut StdRng) -> Vec<u64> {
    let mut ids = bed.masters();
    ids.shuffle(dice);
    ids
}

/// Places of masters.
pub(super) fn spots(ids: &[u64]) -> Vec<Spot> {
    ids.iter().copied().map(Spot::Master).collect()
}

/// Places of all workers.
pub(super) fn workers(bed: &Bed) -> Vec<(String, Spot)> {
    bed.workers().into_iter().filter_map(|name| Spot::worker(&name).map(|spot| (name, spot))).collect()
}

/// In words.
pub(super) fn names(ids: &[u64]) -> String {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    format!("{} {}", if ids.len() == 1 { "master" } else { "masters" }, ids.join(", "))
}
