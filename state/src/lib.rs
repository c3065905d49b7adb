//! The truth: commands, `apply`, effects, placement, views, invariants. Pure and deterministic.
//!
//! Same state, same entry: same state, replies and effects, on every master and every replay. No clock, no randomness, no
//! IO, no async, no logging, no `HashMap`; no panic on any input that a user can send.

mod apply;
mod brake;
mod chain;
mod codec;
pub mod command;
pub mod effect;
mod events;
pub mod ids;
mod image;
mod invariants;
pub mod limits;
mod plan;
mod ranges;
mod reads;
mod registry;
mod request;
mod state;
mod table;
pub mod task;
mod timers;
pub mod view;
pub mod worker;

pub use apply::{
    FORMAT_LEVEL, MESSAGE_BYTES_MAX, PLACEMENTS_PER_ENTRY, RESULT_BYTES_MAX, SUBMIT_GROUPS_MAX, SUBMIT_TASKS_MAX,
};
pub use brake::BrakePolicy;
pub use codec::{BATCH_BYTES_MAX, DecodeError};
pub use command::*;
pub use effect::*;
pub use ids::*;
pub use image::{Image, SNAPSHOT_MAGIC, SNAPSHOT_VERSION};
pub use invariants::{Inspection, Violation};
pub use limits::Limits;
pub use reads::SCAN_TASKS_MAX;
pub use state::State;
pub use task::*;
pub use view::*;
pub use worker::*;

pub(crate) use plan::Requirements;
