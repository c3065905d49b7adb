//! Which hosts reach which: the sum of what all present faults do to the links between them.
//!
//! What always holds: a link is in the worst condition that any fault asks for; when the last of them is gone, it is as it was.
//! TCP as turmoil has it: what is sent into a blocked link is lost and with it the rest of that connection; what is sent into a held
//! one arrives when it is let go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One way: nothing gets through.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Directed pairs from which everything is lost.
    pub blocked: BTreeSet<(String, String)>,
    /// Pairs (in either order) whose messages wait.
    pub held: BTreeSet<(String, String)>,
    /// Pairs whose messages take up to so many ms.
    pub delayed: BTreeMap<(String, String), u64>,
}

impl Wish {
    /// Cuts both ways between two sets.
    pub fn cut(&mut self, one: &[String], other: &[String]) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Cuts what `from` sends to `to`.
    pub fn cut_one_way(&mut self, from: &[String], to: &[String]) {
        self.blocked.extend(pairs(from, to));
    }

    /// Holds both ways between two sets.
    pub fn hold(&mut self, one: &[String], other: &[String]) {
        self.held.extend(pairs(one, other).map(ordered));
    }

    /// Slows both ways between two sets.
    pub fn delay(&mut self, one: &[String], other: &[String], ms: u64) {
        self.delayed.extend(pairs(one, other).map(|pair| (ordered(pair), ms)));
    }
}

fn pairs<'a>(one: &'a [String], other: &'a [String]) -> impl Iterator<Item = (String, String)> + 'a {
    one.iter().flat_map(move |a| other.iter().filter(move |b| *b != a).map(move |b| (a.clone(), b.clone())))
}

fn ordered((a, b): (String, String)) -> (String, String) {
    if a < b { (a, b) } else { (b, a) }
}

/// Condition of a pair of hosts, in alphabetical order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Condition {
    out: bool,
    back: bool,
    held: bool,
    delay_ms: u64,
}

/// The links, and what each fault wishes them to be.
#[derive(Default)]
pub struct Links {
    wishes: BTreeMap<u64, Wish>,
    now: BTreeMap<(String, String), Condition>,
}

impl Links {
    /// A fault's wish, from now on. An empty one takes it back.
    pub fn wish(&mut self, sim: &mut turmoil::Sim<'_>, fault: u64, wish: Wish) {
        self.wishes.insert(fault, wish);
        self.set(sim);
    }

    /// The fault is over.
    pub fn forget(&mut self, sim: &mut turmoil::Sim<'_>, fault: u64) {
        if self.wishes.remove(&fault).is_some() {
            self.set(sim);
        }
    }

    /// Whether messages pass both ways and soon.
    pub fn healthy(&self, a: &str, b: &str) -> bool {
        !self.now.contains_key(&ordered((a.to_owned(), b.to_owned())))
    }

    fn wanted(&self) -> BTreeMap<(String, String), Condition> {
        let mut wanted: BTreeMap<(String, String), Condition> = BTreeMap::new();
        for wish in self.wishes.values() {
            for (from, to) in &wish.blocked {
                let condition = wanted.entry(ordered((from.clone(), to.clone()))).or_default();
                if from < to { condition.out = true } else { condition.back = true }
            }
            for pair in &wish.held {
                wanted.entry(pair.clone()).or_default().held = true;
            }
            for (pair, ms) in &wish.delayed {
                let condition = wanted.entry(pair.clone()).or_default();
                condition.delay_ms = condition.delay_ms.max(*ms);
            }
        }
        for condition in wanted.values_mut().filter(|condition| condition.held && (condition.out || condition.back)) {
            // turmoil cannot hold one direction and lose the other; whoever is held must hear nothing.
            (condition.out, condition.back) = (true, true);
        }
        wanted
    }

    fn set(&mut self, sim: &mut turmoil::Sim<'_>) {
        let wanted = self.wanted();
        let touched: BTreeSet<_> = wanted.keys().chain(self.now.keys()).cloned().collect();
        for pair in touched {
            let old = self.now.get(&pair).copied().unwrap_or_default();
            let new = wanted.get(&pair).copied().unwrap_or_default();
            if old != new {
                change(sim, (&pair.0, &pair.1), old, new);
            }
        }
        self.now = wanted;
    }
}

/// The latency of a link that nobody slows, in ms.
pub const LATENCY_MS: u64 = 2;

fn change(sim: &mut turmoil::Sim<'_>, (a, b): (&str, &str), old: Condition, new: Condition) {
    let holds = |condition: Condition| condition.held && !condition.out && !condition.back;
    if holds(old) && !holds(new) {
        sim.release(a, b);
    }
    for (from, to, was, is) in [(a, b, old.out, new.out), (b, a, old.back, new.back)] {
        if is && !was {
            sim.partition_oneway(from, to);
        } else if was && !is {
            sim.repair_oneway(from, to);
        }
    }
    if holds(new) && !holds(old) {
        sim.hold(a, b);
    }
    if old.delay_ms != new.delay_ms {
        sim.set_link_max_message_latency(a, b, Duration::from_millis(new.delay_ms.max(LATENCY_MS)));
    }
}
