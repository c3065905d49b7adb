//! The search against histories of a plain register: made correct, and mutated, with a brute-force oracle beside it.
//!
//! What always holds: a failing case prints its seed, and the seed makes the same case again.
#![allow(clippy::unwrap_used)]

use steersman_evidence::linearizable::search::{Call, Found, Model, search};

/// A register of a number, 0 at first.
struct Register;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ask {
    Write(u8),
    Read(u8),
    /// Sets the second if it holds the first, and says whether it did.
    Swap(u8, u8, bool),
}

impl Model for Register {
    type State = u8;
    type Input = Ask;

    fn start(&self) -> u8 {
        0
    }

    fn step(&self, state: &u8, input: &Ask) -> Option<u8> {
        match *input {
            Ask::Write(value) => Some(value),
            Ask::Read(seen) => (seen == *state).then_some(*state),
            Ask::Swap(from, to, true) => (from == *state).then_some(to),
            Ask::Swap(from, _, false) => (from != *state).then_some(*state),
        }
    }
}

/// Random numbers from a seed (SplitMix64, Steele et al. 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn ask(&mut self, state: &mut u8) -> Ask {
        let (one, two) = (self.below(3) as u8, self.below(3) as u8);
        match self.below(3) {
            0 => Ask::Read(*state),
            1 => {
                *state = one;
                Ask::Write(one)
            }
            _ => {
                let swapped = *state == one;
                *state = if swapped { two } else { *state };
                Ask::Swap(one, two, swapped)
            }
        }
    }
}

/// Calls whose effects happen one after the other, each somewhere between its invocation and its return. One in eight is a
/// write of unknown outcome; half of those never happen.
fn correct(dice: &mut Dice, count: u64, spread: u64) -> Vec<Call<Ask>> {
    let mut state = 0;
    let call = |at: u64| {
        let moment = 1_000 + at * 10;
        let from_us = moment - dice.below(spread);
        if dice.below(8) > 0 {
            return Call { op: at, from_us, to_us: moment + 1 + dice.below(spread), input: dice.ask(&mut state) };
        }
        let value = dice.below(3) as u8;
        state = if dice.below(2) == 0 { value } else { state };
        Call { op: at, from_us, to_us: u64::MAX, input: Ask::Write(value) }
    };
    (0..count).map(call).collect()
}

/// Tries every order, with every choice of the calls of unknown outcome.
fn brute(calls: &[Call<Ask>], done: u32, state: u8) -> bool {
    let open = |at: &usize| done & (1 << at) == 0;
    let waiting: Vec<usize> = (0..calls.len()).filter(open).collect();
    if waiting.iter().all(|at| calls[*at].to_us == u64::MAX) {
        return true;
    }
    let first_end = waiting.iter().map(|at| calls[*at].to_us).min().unwrap();
    waiting.iter().filter(|at| calls[**at].from_us <= first_end).any(|at| {
        let next = Register.step(&state, &calls[*at].input);
        next.is_some_and(|state| brute(calls, done | (1 << at), state))
    })
}

const LIMIT: usize = 1 << 16;

#[test]
fn p07_correct_histories_of_any_concurrency_have_an_order() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let spread = 1 + dice.below(60);
        let calls = correct(&mut dice, 60, spread);
        assert_eq!(search(&Register, &calls, LIMIT), Found::Order, "seed {seed}");
    }
}

#[test]
fn p07_mutated_histories_are_refused_exactly_if_no_order_exists() {
    let (mut refused, mut accepted) = (0, 0);
    for seed in 0..3_000 {
        let mut dice = Dice(seed);
        let spread = 1 + dice.below(50);
        let mut calls = correct(&mut dice, 8, spread);
        let at = dice.below(8) as usize;
        calls[at].input = match calls[at].input {
            Ask::Read(seen) => Ask::Read((seen + 1) % 3),
            Ask::Write(value) => Ask::Write((value + 1) % 3),
            Ask::Swap(from, to, swapped) => Ask::Swap(from, to, !swapped),
        };
        let expected = brute(&calls, 0, 0);
        let found = search(&Register, &calls, LIMIT);
        assert_eq!(found == Found::Order, expected, "seed {seed}: {found:?} {calls:?}");
        if expected {
            accepted += 1
        } else {
            refused += 1
        }
        if let Found::None { at } = found {
            // What returned before the culprit has an order: the prefix is the shortest.
            let (end, mut prefix) = (calls[at].to_us, calls.clone());
            prefix.retain(|call| call.from_us <= end);
            prefix.iter_mut().filter(|call| call.to_us >= end).for_each(|call| call.to_us = u64::MAX);
            assert!(brute(&prefix, 0, 0), "seed {seed}: {calls:?}");
        }
    }
    // Both kinds were tried in numbers.
    assert!(refused > 300 && accepted > 300, "{refused} refused, {accepted} accepted");
}

#[test]
fn unknown_calls_cost_no_memory() {
    // A thousand writes that timed out, of three values, and reads that see them in any order.
    let mut calls: Vec<Call<Ask>> =
        (0..1_000).map(|op| Call { op, from_us: op, to_us: u64::MAX, input: Ask::Write((op % 3) as u8) }).collect();
    let read = |at: u64| Call {
        op: 1_000 + at,
        from_us: 2_000 + 2 * at,
        to_us: 2_001 + 2 * at,
        input: Ask::Read((at % 3) as u8),
    };
    calls.extend((0..600).map(read));
    assert_eq!(search(&Register, &calls, 100), Found::Order);
}

#[test]
fn a_limit_is_a_limit() {
    let write = |op| Call { op, from_us: op, to_us: 1_000, input: Ask::Write(op as u8) };
    let calls: Vec<Call<Ask>> = (0..20).map(write).collect();
    assert_eq!(search(&Register, &calls, 500), Found::TooMany);
    let wide: Vec<Call<Ask>> = (0..129).map(|op| Call { input: Ask::Read(0), ..write(op) }).collect();
    assert_eq!(search(&Register, &wide, LIMIT), Found::TooMany);
}
