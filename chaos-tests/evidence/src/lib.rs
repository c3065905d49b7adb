//! Evidence: what clients, workers and masters were seen to do in a run, and what that proves.
//!
//! Simulations, runs with real processes and drills write the same [`record::Record`]s; the same checkers judge them. What
//! always holds: nothing here performs I/O beyond reading and writing the bytes it is given, and no checker shares code
//! with the product, so that it can't repeat the product's mistakes; [`answers`] alone knows the client's words.

pub mod answers;
pub mod bounds;
mod check;
pub mod edn;
pub mod history;
pub mod record;
pub mod report;
pub mod verdict;

pub use bounds::Bounds;
pub use check::{check, linearizable};
pub use history::{History, Op, ReadError, write_record};
pub use record::Record;
pub use verdict::{Finding, Verdict, all_good, any_bad, summary};
