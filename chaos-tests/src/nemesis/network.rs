//! Faults of the network.
//!
//! What always holds: a majority of the masters can talk in both directions, whatever is cut; the runner's own links are cut
//! only where the text of the target says so.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::undo::Undo;
use super::{Class, Done, Skipped, aim};
use crate::bed::books::Harm;
use crate::bed::links::{Link, Policy, Spot, between, one_way};
use crate::bed::{Bed, Network};

/// Longer than the longest election: a cut that nobody notices means nothing.
const NOTICED: Duration = Duration::from_secs(2);

fn lay(bed: &Bed, target: String, links: Vec<(Link, Policy)>, harm: Harm) -> Result<Done, Skipped> {
    if !bed.affords(&harm, &links) {
        return Err(Skipped::NotNow(format!("masters {:?} are impaired already", bed.impaired())));
    }
    let undo = vec![Undo::Lift(bed.links().lay(links))];
    Ok(Done { target, harm, undo, at_least: NOTICED })
}

/// A minority of the masters, with some workers, cut off from everybody else.
pub(super) async fn halves(bed: &Bed, dice: &mut StdRng) -> Result<Done, Skipped> {
    let first = aim::master(bed, dice).await?;
    let size = dice.random_range(1..=bed.spare().max(1));
    let mut few = vec![first];
    few.extend(aim::masters(bed, dice).into_iter().filter(|id| *id != first).take(size - 1));
    let many: Vec<u64> = bed.masters().into_iter().filter(|id| !few.contains(id)).collect();
    let (with_few, with_many): (Vec<_>, Vec<_>) = aim::workers(bed).into_iter().partition(|_| dice.random_bool(0.25));
    let (mut here, mut there) = (aim::spots(&few), aim::spots(&many));
    here.extend(with_few.iter().map(|(_, spot)| *spot));
    there.extend(with_many.iter().map(|(_, spot)| *spot));
    let runner_too = dice.random_bool(0.5);
    if runner_too {
        there.push(Spot::Runner);
    }
    let cut_off: Vec<String> = with_few.into_iter().map(|(name, _)| name).collect();
    let runner = if runner_too { ", unseen by clients" } else { "" };
    let target = format!("{} with workers {cut_off:?} | {}{runner}", aim::names(&few), aim::names(&many));
    let harm = Harm::masters(few).and(Harm::workers(cut_off));
    lay(bed, target, between(&here, &there, Policy::CUT), harm)
}

/// One master that the others do not hear, or that does not hear them.
pub(super) async fn one_sided(bed: &Bed, dice: &mut StdRng) -> Result<Done, Skipped> {
    let id = aim::master(bed, dice).await?;
    let (own, others) = ([Spot::Master(id)], others(bed, id));
    let (links, how) = if dice.random_bool(0.5) {
        (one_way(&own, &others, Policy::CUT), "is not heard by the others")
    } else {
        (one_way(&others, &own, Policy::CUT), "does not hear the others")
    };
    lay(bed, format!("master {id} {how}"), links, Harm::masters([id]))
}

fn others(bed: &Bed, id: u64) -> Vec<Spot> {
    let others: Vec<u64> = bed.masters().into_iter().filter(|other| *other != id).collect();
    aim::spots(&others)
}

/// The leader without the other masters; workers and clients still reach it.
pub(super) async fn leader_isolated(bed: &Bed) -> Result<Done, Skipped> {
    let id = aim::leader(bed).await?;
    let links = between(&[Spot::Master(id)], &others(bed, id), Policy::CUT);
    lay(bed, format!("leader {id} from all other masters"), links, Harm::masters([id]))
}

/// Two masters that see each other no more, while all others see both.
pub(super) fn bridge(bed: &Bed, dice: &mut StdRng) -> Result<Done, Skipped> {
    let masters = aim::masters(bed, dice);
    let (Some(&a), Some(&b)) = (masters.first(), masters.get(1)) else {
        return Err(Skipped::Unable("there are no two masters".to_owned()));
    };
    // In three masters one of the two must be spared: it may lose its leader and not be able to become one.
    aim::spare(bed, &Harm::masters([b]))?;
    let links = between(&[Spot::Master(a)], &[Spot::Master(b)], Policy::CUT);
    lay(bed, format!("masters {a} and {b} from each other"), links, Harm::default())
}

/// A master that is cut off and back again, many times.
pub(super) async fn flapping(bed: &Bed, dice: &mut StdRng) -> Result<Done, Skipped> {
    let id = aim::master(bed, dice).await?;
    let cut = between(&[Spot::Master(id)], &others(bed, id), Policy::CUT);
    let (off, on) = (dice.random_range(150..900), dice.random_range(150..900));
    let harm = Harm::masters([id]);
    let mut done = lay(bed, format!("master {id}, {off} ms off, {on} ms on"), cut.clone(), harm)?;
    let (links, layer) = (
        bed.links().clone(),
        done.undo.iter().find_map(|undo| match undo {
            Undo::Lift(layer) => Some(*layer),
            _ => None,
        }),
    );
    let flap = async move {
        while let Some(layer) = layer {
            tokio::time::sleep(Duration::from_millis(off)).await;
            links.change(layer, Vec::new());
            tokio::time::sleep(Duration::from_millis(on)).await;
            links.change(layer, cut.clone());
        }
    };
    done.undo.insert(0, Undo::Quiet(tokio::spawn(flap).abort_handle()));
    done.at_least = Duration::from_millis(3 * (off + on));
    Ok(done)
}

/// Everything everywhere is late, lost, doubled or overtaken, within what a cluster has to bear.
pub(super) fn bad_weather(bed: &Bed, class: Class, dice: &mut StdRng) -> Result<Done, Skipped> {
    let streams = bed.network() == Network::Proxy;
    if streams && matches!(class, Class::Loss | Class::Duplicate | Class::Reorder) {
        let why = "a proxy of streams loses, doubles and reorders nothing: it takes a network namespace per node";
        return Err(Skipped::Unable(why.to_owned()));
    }
    let clear = Policy::default();
    let ms = |dice: &mut StdRng, range| Duration::from_millis(dice.random_range(range));
    let (policy, how) = match class {
        Class::Delay => {
            let delay = ms(dice, 5..45);
            (Policy { delay, ..clear }, format!("{delay:?} late"))
        }
        Class::Jitter => {
            let jitter = ms(dice, 10..60);
            (Policy { jitter, ..clear }, format!("up to {jitter:?} late"))
        }
        Class::Loss => {
            let loss = dice.random_range(0.005..0.05);
            (Policy { loss, ..clear }, format!("{:.1} % lost", loss * 100.0))
        }
        Class::Duplicate => {
            let duplicate = dice.random_range(0.05..0.3);
            (Policy { duplicate, ..clear }, format!("{:.0} % twice", duplicate * 100.0))
        }
        _ => {
            let reorder = dice.random_range(0.02..0.15);
            (Policy { reorder, ..clear }, format!("{:.0} % overtaken", reorder * 100.0))
        }
    };
    let mut all = aim::spots(&bed.masters());
    all.extend(aim::workers(bed).into_iter().map(|(_, spot)| spot));
    all.push(Spot::Runner);
    lay(bed, format!("all links, {how}"), one_way(&all, &all, policy), Harm::default())
}

/// One master behind a narrow line.
pub(super) async fn throttle(bed: &Bed, dice: &mut StdRng) -> Result<Done, Skipped> {
    let id = aim::master(bed, dice).await?;
    let bytes_per_s = dice.random_range(48_000..256_000);
    let mut rest = others(bed, id);
    rest.extend(aim::workers(bed).into_iter().map(|(_, spot)| spot));
    rest.push(Spot::Runner);
    let links = between(&[Spot::Master(id)], &rest, Policy { bytes_per_s, ..Policy::default() });
    lay(bed, format!("master {id}, {} kB/s", bytes_per_s / 1_000), links, Harm::masters([id]))
}
