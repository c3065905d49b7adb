//! The search for an order that explains what one object's callers saw.
//!
//! Wing and Gong's search in Lowe's just-in-time order ("Testing for linearizability", 2016), for one key at a time as
//! Porcupine does it: all configurations (a state, and which of the open calls have taken effect) are carried from one
//! return to the next, and a call takes effect only when a return needs it. So memory is bounded by what is open at a time and
//! not by the length of the history, and the first return that no configuration survives ends the shortest bad prefix.
//!
//! What always holds: a call of unknown outcome never returns, and may take effect at any time after its invocation or
//! never. Too many configurations make the answer [`Found::TooMany`], never [`Found::Order`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

/// What an object may do.
pub trait Model {
    /// What it is. Where it changes by itself, the earliest that it can be.
    type State: Clone + Eq + Hash;
    /// What is asked of it, with the answer if there was one. Equal inputs have equal effects.
    type Input: PartialEq;

    /// At the beginning.
    fn start(&self) -> Self::State;

    /// What it is after the call took effect; `None` if it can't have given that answer.
    fn step(&self, state: &Self::State, input: &Self::Input) -> Option<Self::State>;
}

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call<I> {
    /// Number of the operation.
    pub op: u64,
    /// When it was invoked, in µs.
    pub from_us: u64,
    /// When it returned; [`u64::MAX`] if its outcome is unknown.
    pub to_us: u64,
    /// What.
    pub input: I,
}

/// What the search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// An order.
    Order,
    /// None: the return of this call can't be explained (its place in the list of calls).
    None {
        /// Place in the list.
        at: usize,
    },
    /// More configurations, or calls open at a time, than allowed.
    TooMany,
}

/// Calls that are open at a time: each is a bit.
const OPEN_MAX: usize = 128;

/// One way in which things may stand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place<S> {
    state: S,
    /// Open calls that have taken effect, by slot.
    done: u128,
}

/// How many calls of unknown outcome have taken effect, by kind. Fewer is better: what is left may still happen.
type Used = Vec<u32>;

/// Places, each with the smallest sets of unknown calls that lead there.
type Places<S> = HashMap<Place<S>, Vec<Used>>;

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Input>],
    limit: usize,
    /// The call in each slot.
    slots: Vec<Option<usize>>,
    /// Kinds of unknown calls: one of each, and how many were invoked.
    kinds: Vec<(usize, u32)>,
    places: Places<M::State>,
}

/// Looks for an order of `calls`, keeping at most `limit` configurations at a time.
pub fn search<M: Model>(model: &M, calls: &[Call<M::Input>], limit: usize) -> Found {
    let start = Place { state: model.start(), done: 0 };
    let places = HashMap::from([(start, vec![Used::new()])]);
    let mut search = Search { model, calls, limit, slots: Vec::new(), kinds: Vec::new(), places };
    for (_, returns, at) in moments(calls) {
        let over = match (returns, calls[at].to_us) {
            (false, u64::MAX) => search.maybe(at),
            (false, _) => search.open(at),
            (true, _) => search.close(at),
        };
        if let Some(found) = over {
            return found;
        }
    }
    Found::Order
}

/// Invocations and returns by time. Of those at one time invocations come first: such calls count as concurrent.
fn moments<I>(calls: &[Call<I>]) -> Vec<(u64, bool, usize)> {
    let begins = calls.iter().enumerate().map(|(at, call)| (call.from_us, false, at));
    let ends = calls.iter().enumerate().filter(|(_, call)| call.to_us != u64::MAX);
    let mut all: Vec<_> = begins.chain(ends.map(|(at, call)| (call.to_us, true, at))).collect();
    all.sort_unstable();
    all
}

impl<M: Model> Search<'_, M> {
    fn maybe(&mut self, at: usize) -> Option<Found> {
        let (calls, input) = (self.calls, &self.calls[at].input);
        match self.kinds.iter_mut().find(|(known, _)| calls[*known].input == *input) {
            Some((_, invoked)) => *invoked += 1,
            None => self.kinds.push((at, 1)),
        }
        None
    }

    fn open(&mut self, at: usize) -> Option<Found> {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free == OPEN_MAX {
            return Some(Found::TooMany);
        }
        self.slots.resize(self.slots.len().max(free + 1), None);
        self.slots[free] = Some(at);
        None
    }

    /// Keeps the configurations in which the call has taken effect, or can now, after whatever has to come before it.
    fn close(&mut self, at: usize) -> Option<Found> {
        let slot = self.slots.iter().position(|open| *open == Some(at))?;
        let (mut kept, mut seen) = (Places::new(), Places::new());
        let mut todo: Vec<(Place<M::State>, Used)> = Vec::new();
        for (place, ways) in std::mem::take(&mut self.places) {
            todo.extend(ways.into_iter().map(|used| (place.clone(), used)));
        }
        while let Some((place, used)) = todo.pop() {
            if place.done & (1 << slot) != 0 {
                let cleared = Place { done: place.done & !(1 << slot), ..place };
                keep(&mut kept, cleared, used);
            } else if keep(&mut seen, place.clone(), used.clone()) {
                self.followers(&place, &used, &mut todo);
            }
            if kept.len() + seen.len() > self.limit {
                return Some(Found::TooMany);
            }
        }
        self.slots[slot] = None;
        self.places = kept;
        self.places.is_empty().then_some(Found::None { at })
    }

    /// What one more call that takes effect leads to.
    fn followers(&self, place: &Place<M::State>, used: &Used, todo: &mut Vec<(Place<M::State>, Used)>) {
        for (kind, (at, invoked)) in self.kinds.iter().enumerate() {
            let spent = used.get(kind).copied().unwrap_or(0);
            let next = self.model.step(&place.state, &self.calls[*at].input).filter(|_| spent < *invoked);
            // One that changes nothing need not have happened.
            if let Some(state) = next.filter(|state| *state != place.state) {
                let mut used = used.clone();
                used.resize(used.len().max(kind + 1), 0);
                used[kind] += 1;
                todo.push((Place { state, done: place.done }, used));
            }
        }
        for (slot, at) in self.slots.iter().enumerate().filter_map(|(slot, at)| Some((slot, (*at)?))) {
            if place.done & (1 << slot) == 0
                && let Some(state) = self.model.step(&place.state, &self.calls[at].input)
            {
                todo.push((Place { state, done: place.done | (1 << slot) }, used.clone()));
            }
        }
    }
}

/// Adds a way to a place, unless one that uses no more of anything is known. Says whether it was added.
fn keep<S: Eq + Hash>(places: &mut Places<S>, place: Place<S>, used: Used) -> bool {
    match places.entry(place) {
        Entry::Vacant(entry) => drop(entry.insert(vec![used])),
        Entry::Occupied(mut entry) => {
            let ways = entry.get_mut();
            if ways.iter().any(|known| at_most(known, &used)) {
                return false;
            }
            ways.retain(|known| !at_most(&used, known));
            ways.push(used);
        }
    }
    true
}

fn at_most(one: &Used, other: &Used) -> bool {
    one.iter().enumerate().all(|(kind, spent)| *spent <= other.get(kind).copied().unwrap_or(0))
}
