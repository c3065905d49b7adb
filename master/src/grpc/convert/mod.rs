//! The only place where prost types meet the types of the state.
//!
//! What always holds: nothing malformed passes inwards. Every bound and every shape error ends here as `INVALID_ARGUMENT`
//! that names each field, its limit and the remedy, all of them at once and at most [`checks::SHOWN_MAX`]. Outwards,
//! everything the state says has a word on the wire. Nothing here asks the state or the cluster anything.

pub mod checks;
mod incoming;
mod outgoing;
mod page;
mod spec;

pub use checks::Checks;
pub use incoming::*;
pub use outgoing::*;
pub use page::{PAGE_SIZE_MAX, PageOf, PageRequest};
pub use spec::{spec_in, submit_in};

#[cfg(test)]
mod tests;
