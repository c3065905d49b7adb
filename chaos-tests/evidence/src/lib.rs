//! Evidence: what clients, workers and masters were seen to do in a run, and what that proves.
//!
//! Simulations, runs with real processes and drills write the same [`record::Record`]s; the same checkers judge them. What
//! always holds: nothing here performs I/O beyond reading and writing the bytes it is given, and no checker shares code
//! with the product, so that it can't repeat the product's mistakes.

pub mod record;
pub mod verdict;
