//! Ids are newtypes: a task id can't be passed where a token is meant. All are small, sequential and never used again.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

id! {
    /// One unit of work. Assigned by `apply` in submit order, starting at 1.
    TaskId;
    /// A registered worker. Assigned by `apply` at its first registration, starting at 1.
    WorkerId;
    /// The fencing token of one attempt: unique and rising in the whole cluster, over failovers, snapshots and restores.
    Token;
    /// A master: chosen by the operator, never used again.
    MasterId;
}

/// Names one mutation of one caller, so that a retry has no second effect. 16 bytes chosen at random by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub [u8; 16]);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// 16 random bytes that a worker keeps in its data directory: who it is, whatever its name or address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerUid(pub [u8; 16]);
