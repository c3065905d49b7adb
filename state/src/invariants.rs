//! Everything that must hold between the parts of the state, checked from scratch.

/// Something that must hold does not. The node stops: going on would spread it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant broken: {0}")]
pub struct Violation(pub String);
