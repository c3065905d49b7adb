//! The stable error codes that both ends of the wire share. A code never changes its meaning and is never used again.
//!
//! On the wire an error carries a `google.rpc.ErrorInfo` with domain [`DOMAIN`], `reason` = [`Code::reason`] and metadata
//! `code` = [`Code::id`], plus what the code's row says (for `NOT_LEADER`: `leader_id`, `leader_api`, `term`).

/// The `domain` of every ErrorInfo.
pub const DOMAIN: &str = "steersman";

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// Stable id, e.g. `STM-1001`.
    pub id: &'static str,
    /// Stable word, e.g. `NOT_LEADER`.
    pub reason: &'static str,
    /// What it means.
    pub about: &'static str,
    /// The next thing to do.
    pub hint: &'static str,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $id:literal, $hint:literal;)*) => {
        $($(#[doc = $doc])* pub const $name: Code =
            Code { id: $id, reason: stringify!($name), about: concat!($($doc),*).trim_ascii(), hint: $hint };)*
        /// All rows.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    // 1xxx: the moment's. Retrying with the same request id makes sense.
    /// This master does not lead. Metadata: leader_id, leader_api, term (absent while there is no leader).
    NOT_LEADER = "STM-1001", "follow the redirect; clients do this by themselves";
    /// No leader is known.
    NO_LEADER = "STM-1002", "see which masters answer: steersman status";
    /// The outcome is unknown: it may or may not have happened.
    OUTCOME_UNKNOWN = "STM-1003", "retry with the same request id: it has no second effect";
    /// A queue is full.
    OVERLOADED = "STM-1004", "retry after a short wait";
    /// The node is going down.
    SHUTTING_DOWN = "STM-1005", "retry at another master";
    /// A quorum did not confirm in time.
    NO_QUORUM = "STM-1006", "see which masters answer: steersman status";
    /// No master could be reached.
    UNREACHABLE = "STM-1007", "check --address and whether the masters run";
    /// The worker that has the data is not connected.
    WORKER_UNREACHABLE = "STM-1008", "see the worker's state: steersman worker list";
    // 2xxx: the caller's.
    /// A field of the request is malformed. BadRequest names it.
    INVALID_ARGUMENT = "STM-2001", "correct the named field";
    /// No such task.
    TASK_NOT_FOUND = "STM-2002", "see: steersman task list";
    /// No such worker.
    WORKER_NOT_FOUND = "STM-2003", "see: steersman worker list";
    /// A live worker of that name has another identity.
    DUPLICATE_WORKER = "STM-2004", "choose another name, or stop the other worker first";
    /// Something is over its limit. The message names the limit.
    LIMIT_EXCEEDED = "STM-2005", "send less at a time, or raise the limit that is named";
    /// The state of the thing does not allow it.
    FAILED_PRECONDITION = "STM-2006", "look at its state first";
    /// Another cluster's node or data.
    WRONG_CLUSTER = "STM-2007", "check the addresses: they belong to different clusters";
    /// The other end speaks another version.
    WRONG_VERSION = "STM-2008", "use the same release everywhere: steersman version";
    /// No such master.
    MASTER_NOT_FOUND = "STM-2009", "see: steersman master list";
    /// A membership change is under way, or the change is not safe.
    MEMBERSHIP = "STM-2010", "one change at a time: see steersman master list";
    /// The output is not there (any more).
    LOG_NOT_FOUND = "STM-2011", "outputs live on the worker that ran the attempt, within its bounds";
    /// The worker was declared lost or replaced by a newer process.
    STALE_INCARNATION = "STM-2012", "only one process may use a worker's data directory";
    // 3xxx: the node's. The process stops; the exit code is in docs/operations.md.
    /// The configuration is not valid.
    CONFIG = "STM-3001", "see every key: steersman config show --kind master (or worker)";
    /// Data on disk is damaged.
    CORRUPT_DATA = "STM-3002", "replace this master: remove it, wipe its data, add it under a new id";
    /// The data directory belongs to another node or cluster, or was emptied.
    FOREIGN_DATA = "STM-3003", "point data_dir at this node's own data";
    /// The disk is full or refuses writes.
    DISK = "STM-3004", "free space or replace the disk, then start again";
    /// A port is in use.
    PORT_IN_USE = "STM-3005", "another process listens there: choose another port";
    /// Replicas disagree, or an invariant is broken.
    INVARIANT = "STM-3006", "keep the data and report it";
    /// A listener beyond loopback without `insecure = true`.
    INSECURE_LISTENER = "STM-3007", "listen on loopback, or set insecure = true on a trusted network";
}

/// The row with that reason.
pub fn by_reason(reason: &str) -> Option<&'static Code> {
    ALL.iter().find(|code| code.reason == reason)
}

/// The row with that id.
pub fn by_id(id: &str) -> Option<&'static Code> {
    ALL.iter().find(|code| code.id.eq_ignore_ascii_case(id))
}
