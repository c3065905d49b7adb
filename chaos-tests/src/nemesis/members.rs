//! Masters come and go.
//!
//! What always holds: one change at a time, with all masters well before it, as `docs/operations.md` tells operators.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::undo::Undo;
use super::{Class, Done, Skipped, aim, broken};
use crate::bed::Bed;
use crate::bed::books::Harm;
use crate::bed::operator::{last_words, try_until};
use crate::cluster::PATIENCE;

/// One more master, then one less: learner, voter, removed.
pub(super) async fn change(bed: &mut Bed, dice: &mut StdRng) -> Result<Done, Skipped> {
    aim::all_well(bed)?;
    let old = bed.masters();
    let gone = old.choose(dice).copied().ok_or_else(|| Skipped::NotNow("there are no masters".to_owned()))?;
    let changed = async {
        let new = bed.add_member().await?;
        bed.remove_member(gone).await?;
        bed.dismiss(gone).await;
        anyhow::Ok(new)
    };
    let new = match changed.await {
        Ok(new) => new,
        Err(error) => {
            bed.look_up_voters().await;
            return Err(Skipped::Broken(format!("a change of members that nothing stood against failed: {error:#}")));
        }
    };
    let target = format!("master {new} added, master {gone} removed");
    Ok(Done { target, harm: Harm::default(), undo: Vec::new(), at_least: Duration::ZERO })
}

/// A voter forgets everything and must not be let in.
pub(super) async fn wipe_rejoin(bed: &mut Bed, dice: &mut StdRng) -> Result<Done, Skipped> {
    let id = aim::master(bed, dice).await?;
    let cluster = bed.cluster();
    cluster.kill_master(id);
    cluster.wipe_master(id);
    cluster.master(id).process.start().map_err(|error| Skipped::Unable(format!("{error:#}")))?;
    let process = &mut cluster.master(id).process;
    let ended = try_until("its end", PATIENCE, async || process.try_ended().ok_or_else(|| anyhow::anyhow!("it runs")));
    let (class, harm, undo) = (Class::WipeRejoin, Harm::masters([id]), vec![Undo::Replace(id)]);
    match ended.await {
        Ok(ended) if class.explains(&ended) => {
            let target = format!("master {id}, refused with exit code 75");
            Ok(Done { target, harm, undo, at_least: Duration::from_secs(1) })
        }
        Ok(ended) => Err(broken(bed, class, (harm, undo), format!("wiped master {id} {}", last_words(&ended))).await),
        Err(error) => {
            Err(broken(bed, class, (harm, undo), format!("wiped master {id} is not refused: {error:#}")).await)
        }
    }
}
