//! Wall clocks that are wrong.
//!
//! What always holds: only wall clocks: monotonic ones are the kernel's own, which its timers follow.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::undo::Undo;
use super::{Class, Done, Skipped, aim};
use crate::bed::Bed;
use crate::bed::books::Harm;
use crate::bed::links::Spot;
use crate::bed::orders::Order;

const SECOND_NS: i64 = 1_000_000_000;
/// Small enough to be overlooked, an hour of a wrong time zone, a day, a dead battery.
const JUMPS_S: [i64; 5] = [1, 30, 3_600, 86_400, 10 * 365 * 86_400];
/// A bad crystal, a bad virtual machine, nonsense; in millionths.
const DRIFTS_PPM: [i64; 4] = [200, 20_000, 200_000, 900_000];

/// Some nodes, each with an error of its own.
pub(super) fn wrong(bed: &Bed, class: Class, dice: &mut StdRng) -> Result<Done, Skipped> {
    let mut all = aim::spots(&bed.masters());
    all.extend(aim::workers(bed).into_iter().map(|(_, spot)| spot));
    let mut hit: Vec<Spot> = all.iter().copied().filter(|_| dice.random_bool(0.5)).collect();
    if hit.is_empty() {
        hit.extend(all.choose(dice));
    }
    let (mut told, mut undo) = (Vec::new(), Vec::new());
    for spot in hit {
        let sign = if dice.random_bool(0.5) { 1 } else { -1 };
        let set = if class == Class::ClockJump {
            let seconds = sign * JUMPS_S.choose(dice).copied().unwrap_or(1);
            told.push(format!("{spot} by {seconds} s"));
            bed.order(spot, |orders| orders.wall_offset(seconds * SECOND_NS))
        } else {
            let ppm = sign * DRIFTS_PPM.choose(dice).copied().unwrap_or(200);
            told.push(format!("{spot} by {ppm} ppm"));
            bed.order(spot, |orders| orders.wall_drift(ppm))
        };
        set.ok_or_else(no_shim)?.map_err(|error| Skipped::Unable(format!("cannot order it: {error}")))?;
        let order = if class == Class::ClockJump { Order::WallOffsetNs } else { Order::WallDriftPpm };
        undo.push(Undo::Obey(spot, vec![order]));
    }
    Ok(Done { target: told.join(", "), harm: Harm::default(), undo, at_least: Duration::from_secs(1) })
}

pub(super) fn no_shim() -> Skipped {
    Skipped::Unable("the bed was made without the shim".to_owned())
}
