//! Links and what is wrong with them: one policy per directed link, laid on in layers.
//!
//! What always holds: each fault lays its own layer and lifts that alone, so that faults overlap and heal in any order; what is
//! in force on a link is the sum of its layers. Whatever carries traffic asks here for each piece of it and counts what it
//! did, so that a fault that touched nothing can be told from one that worked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// A place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spot {
    /// The runner itself, with all its clients.
    Runner,
    /// A master, by id.
    Master(u64),
    /// A worker: 1 is `w1`.
    Worker(u32),
}

impl Spot {
    /// The place of a worker of that name.
    pub fn worker(name: &str) -> Option<Self> {
        name.strip_prefix('w')?.parse().ok().map(Self::Worker)
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runner => f.write_str("runner"),
            Self::Master(id) => write!(f, "master {id}"),
            Self::Worker(n) => write!(f, "w{n}"),
        }
    }
}

/// One direction between two places: from, to.
pub type Link = (Spot, Spot);

/// What is wrong with a link. The default is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Policy {
    /// Nothing passes.
    pub cut: bool,
    /// Everything is late by this.
    pub delay: Duration,
    /// And by up to this, differently each time, in order.
    pub jitter: Duration,
    /// Share of packets that are lost.
    pub loss: f64,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
    /// Share of packets that are held back, so that later ones overtake them.
    pub reorder: f64,
    /// What it carries, in bytes per second; 0: no bound.
    pub bytes_per_s: u64,
}

impl Policy {
    /// Nothing passes.
    pub const CUT: Self = Self {
        cut: true,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        bytes_per_s: 0,
    };

    fn and(self, other: Self) -> Self {
        let slower = |a: u64, b: u64| if a == 0 || b == 0 { a.max(b) } else { a.min(b) };
        Self {
            cut: self.cut || other.cut,
            delay: self.delay + other.delay,
            jitter: self.jitter + other.jitter,
            loss: 1.0 - (1.0 - self.loss) * (1.0 - other.loss),
            duplicate: self.duplicate.max(other.duplicate),
            reorder: self.reorder.max(other.reorder),
            bytes_per_s: slower(self.bytes_per_s, other.bytes_per_s),
        }
    }
}

/// What was done on a link since the beginning, in pieces of traffic (packets; chunks of a stream in the proxy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Went through, late ones included.
    pub passed: u64,
    /// Did not, because the link was cut.
    pub cut: u64,
    /// Were lost by the dice, or by a full queue.
    pub lost: u64,
    /// Went through twice.
    pub doubled: u64,
    /// Were held back so that others overtook them.
    pub overtaken: u64,
    /// Went through late.
    pub late: u64,
}

/// What is to be done with a piece of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does not arrive.
    Drop,
    /// It arrives at this moment, and then again if so.
    Pass(Instant, Option<Instant>),
}

/// A link's queue holds at most so much time at the link's rate: more is lost, as in a real one.
const QUEUE_MAX: Duration = Duration::from_millis(400);
/// How long a held-back packet waits: a few others pass in this time, also on an idle cluster with its heartbeats.
const HELD_BACK: Duration = Duration::from_millis(60);

/// Handle of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layer(u64);

/// All links.
#[derive(Debug)]
pub struct Links(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    layers: BTreeMap<Layer, Vec<(Link, Policy)>>,
    next: u64,
    in_force: BTreeMap<Link, Policy>,
    states: BTreeMap<Link, State>,
    dice: StdRng,
}

/// What a link remembers.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    counts: Counts,
    /// The last arrival in order: jitter does not reorder.
    last: Option<Instant>,
    /// When what is queued at the link's rate will have left.
    busy_until: Option<Instant>,
}

impl Links {
    /// All links are well; the dice are of this seed.
    pub fn new(seed: u64) -> Self {
        let dice = StdRng::seed_from_u64(seed);
        let (layers, in_force, states) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self(Mutex::new(Inner { layers, next: 0, in_force, states, dice }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // What is behind the lock is whole at every moment, also after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays a layer on.
    pub fn lay(&self, layer: Vec<(Link, Policy)>) -> Layer {
        let mut inner = self.inner();
        let handle = Layer(inner.next);
        inner.next += 1;
        inner.layers.insert(handle, layer);
        inner.sum_up();
        handle
    }

    /// Replaces what a layer says; nothing if it was lifted.
    pub fn change(&self, handle: Layer, layer: Vec<(Link, Policy)>) {
        let mut inner = self.inner();
        if let Some(old) = inner.layers.get_mut(&handle) {
            *old = layer;
            inner.sum_up();
        }
    }

    /// Lifts a layer.
    pub fn lift(&self, handle: Layer) {
        let mut inner = self.inner();
        inner.layers.remove(&handle);
        inner.sum_up();
    }

    /// What is in force on a link.
    pub fn policy(&self, link: Link) -> Policy {
        self.inner().in_force.get(&link).copied().unwrap_or_default()
    }

    /// Whether traffic passes in both directions.
    pub fn open(&self, a: Spot, b: Spot) -> bool {
        !self.policy((a, b)).cut && !self.policy((b, a)).cut
    }

    /// What was done on a link.
    pub fn counts(&self, link: Link) -> Counts {
        self.inner().states.get(&link).map(|state| state.counts).unwrap_or_default()
    }

    /// Decides about one piece of traffic of so many bytes, and counts it.
    pub fn decide(&self, link: Link, bytes: usize, now: Instant) -> Verdict {
        let mut inner = self.inner();
        let policy = inner.in_force.get(&link).copied().unwrap_or_default();
        let Inner { states, dice, .. } = &mut *inner;
        decide(policy, states.entry(link).or_default(), dice, bytes, now)
    }
}

impl Inner {
    fn sum_up(&mut self) {
        let mut in_force: BTreeMap<Link, Policy> = BTreeMap::new();
        for (link, policy) in self.layers.values().flatten() {
            let sum = in_force.entry(*link).or_default();
            *sum = sum.and(*policy);
        }
        self.in_force = in_force;
    }
}

fn decide(policy: Policy, state: &mut State, dice: &mut StdRng, bytes: usize, now: Instant) -> Verdict {
    if policy == Policy::default() && state.last.is_none_or(|last| last <= now) {
        state.counts.passed += 1;
        return Verdict::Pass(now, None);
    }
    if policy.cut {
        state.counts.cut += 1;
        return Verdict::Drop;
    }
    let Some(sent) = through_bottleneck(policy, state, bytes, now).filter(|_| !dice.random_bool(policy.loss)) else {
        state.counts.lost += 1;
        return Verdict::Drop;
    };
    let late = policy.delay + policy.jitter.mul_f64(fraction(dice));
    let arrival = in_order(state, sent + late);
    state.counts.passed += 1;
    state.counts.late += u64::from(arrival > now);
    if dice.random_bool(policy.reorder) {
        state.counts.overtaken += 1;
        return Verdict::Pass(arrival + HELD_BACK, None);
    }
    state.last = Some(arrival);
    let again = dice.random_bool(policy.duplicate).then(|| arrival + HELD_BACK.mul_f64(fraction(dice)));
    state.counts.doubled += u64::from(again.is_some());
    Verdict::Pass(arrival, again)
}

/// When the link has taken it in; none if its queue is full.
fn through_bottleneck(policy: Policy, state: &mut State, bytes: usize, now: Instant) -> Option<Instant> {
    if policy.bytes_per_s == 0 {
        state.busy_until = None;
        return Some(now);
    }
    let begins = state.busy_until.map_or(now, |until| until.max(now));
    if begins.saturating_duration_since(now) > QUEUE_MAX {
        return None;
    }
    let done = begins + Duration::from_secs_f64(bytes as f64 / policy.bytes_per_s as f64);
    state.busy_until = Some(done);
    Some(done)
}

fn in_order(state: &State, arrival: Instant) -> Instant {
    state.last.map_or(arrival, |last| last.max(arrival))
}

fn fraction(dice: &mut StdRng) -> f64 {
    f64::from(dice.next_u32()) / f64::from(u32::MAX)
}

/// Both directions between every two of these groups.
pub fn between(left: &[Spot], right: &[Spot], policy: Policy) -> Vec<(Link, Policy)> {
    let both = |a: Spot, b: Spot| [((a, b), policy), ((b, a), policy)];
    left.iter().flat_map(|a| right.iter().filter(move |b| *b != a).flat_map(move |b| both(*a, *b))).collect()
}

/// One direction only: from each of the first to each of the second.
pub fn one_way(from: &[Spot], to: &[Spot], policy: Policy) -> Vec<(Link, Policy)> {
    from.iter().flat_map(|a| to.iter().filter(move |b| *b != a).map(move |b| ((*a, *b), policy))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Spot = Spot::Master(1);
    const B: Spot = Spot::Master(2);

    fn arrivals(policy: Policy, count: u32) -> (Vec<Duration>, Counts) {
        let (links, now) = (Links::new(7), Instant::now());
        links.lay(one_way(&[A], &[B], policy));
        let mut seen = Vec::new();
        for _ in 0..count {
            if let Verdict::Pass(first, again) = links.decide((A, B), 1_000, now) {
                seen.extend([Some(first), again].into_iter().flatten().map(|at| at - now));
            }
        }
        (seen, links.counts((A, B)))
    }

    #[test]
    fn layers_add_up_and_are_lifted_one_by_one() {
        let links = Links::new(1);
        let cut = links.lay(between(&[A], &[B], Policy::CUT));
        let slow = links.lay(one_way(&[A], &[B], Policy { delay: Duration::from_millis(5), ..Policy::default() }));
        assert!(links.policy((A, B)).cut && links.policy((B, A)).cut && !links.open(A, B));
        links.lift(cut);
        assert!(links.open(A, B));
        assert_eq!(links.policy((A, B)).delay, Duration::from_millis(5));
        assert_eq!(links.policy((B, A)), Policy::default());
        links.lift(slow);
        assert_eq!(links.policy((A, B)), Policy::default());
    }

    #[test]
    fn a_cut_link_passes_nothing() {
        let (seen, counts) = arrivals(Policy::CUT, 10);
        assert!(seen.is_empty());
        assert_eq!(counts, Counts { cut: 10, ..Counts::default() });
    }

    #[test]
    fn loss_and_doubling_come_in_their_share() {
        let (seen, counts) = arrivals(Policy { loss: 0.3, ..Policy::default() }, 1_000);
        assert!((600..800).contains(&seen.len()), "{counts:?}");
        assert_eq!(counts.lost as usize + seen.len(), 1_000);
        let (seen, counts) = arrivals(Policy { duplicate: 0.2, ..Policy::default() }, 1_000);
        assert_eq!(seen.len() as u64, 1_000 + counts.doubled);
        assert!((100..300).contains(&counts.doubled), "{counts:?}");
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let ms = Duration::from_millis;
        let (seen, counts) = arrivals(Policy { delay: ms(10), jitter: ms(20), ..Policy::default() }, 200);
        assert!(seen.is_sorted() && seen[0] >= ms(10) && seen[199] <= ms(30), "{seen:?}");
        assert_eq!(counts.late, 200);
        let (seen, counts) = arrivals(Policy { reorder: 0.2, ..Policy::default() }, 200);
        assert!(!seen.is_sorted() && counts.overtaken > 10, "{counts:?}");
    }

    #[test]
    fn a_narrow_link_spreads_packets_and_loses_what_its_queue_cannot_hold() {
        // 1,000 bytes at 10,000 bytes per second: one packet each 100 ms, and 400 ms of queue.
        let (seen, counts) = arrivals(Policy { bytes_per_s: 10_000, ..Policy::default() }, 20);
        assert_eq!(seen[..3], [100, 200, 300].map(Duration::from_millis));
        assert_eq!((seen.len() as u64, counts.lost), (5, 15));
    }
}
