//! The truth: commands, `apply`, effects, placement, views, invariants. Pure and deterministic.
//!
//! Same state, same entry: same state, replies and effects, on every master and every replay. No clock, no randomness, no
//! IO, no async, no logging, no `HashMap`; no panic on any input that a user can send.

pub mod command;
pub mod effect;
pub mod ids;
pub mod limits;
pub mod task;
pub mod worker;
