//! Every seeded bug: its name, what goes wrong, which promise it breaks, where it is planted, and who has to catch it.
//!
//! What always holds: each name stands in the source of the files that are listed with it, and nowhere else in the product
//! (`tests/planted.rs` compares).

/// Which simulation looks for a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The whole stack.
    Full,
    /// Core, store and consensus.
    Fast,
}

/// Who has to catch a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Simulated runs, with these further words on their command line.
    Simulation(Engine, &'static [&'static str]),
    /// Tests of one crate: the simulated world does nothing that would show it. The crate, the test's file (or `lib`) and a
    /// filter.
    Tests(&'static str, &'static str, &'static str),
}

/// One known class of mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bug {
    /// In kebab case, as `STEERSMAN_BUG` names it.
    pub name: &'static str,
    /// What the code does instead of the right thing.
    pub mistake: &'static str,
    /// The promise that it breaks, as docs/guarantees.md numbers them.
    pub promise: &'static str,
    /// Files that make the mistake, from the project's root.
    pub planted_in: &'static [&'static str],
    /// Who has to catch it.
    pub suite: Suite,
}

const FULL: Suite = Suite::Simulation(Engine::Full, &["--masters", "3"]);
const STORIES: Suite = Suite::Tests("steersman-state", "stories", "stories");
const FAST: Suite = Suite::Simulation(Engine::Fast, &[]);

const fn bug_in(
    name: &'static str,
    promise: &'static str,
    planted_in: &'static [&'static str],
    suite: Suite,
    mistake: &'static str,
) -> Bug {
    Bug { name, mistake, promise, planted_in, suite }
}

/// All of them.
pub const BUGS: &[Bug] = &[
    bug_in(
        "ack-before-sync",
        "P1",
        &["raft-store/src/writer.rs"],
        FAST,
        "the log acknowledges what was written and not synced; only every sixteenth batch is synced",
    ),
    bug_in(
        "vote-not-durable",
        "P1",
        &["raft-store/src/writer.rs"],
        FAST,
        "votes are kept in memory alone, so that a restart forgets them",
    ),
    bug_in(
        "torn-write-left",
        "P1",
        &["raft-store/src/recovery.rs"],
        Suite::Tests("steersman-raft-store", "reopen", "cut_at_every_write"),
        "recovery leaves the rest of a torn write where it is, below what is written there next",
    ),
    bug_in(
        "checksum-ignored",
        "P1",
        &["raft-store/src/record.rs"],
        Suite::Tests("steersman-raft-store", "reopen", "every_flipped_bit_in_the_log"),
        "log entries are read whatever their checksum says",
    ),
    bug_in(
        "leader-restored",
        "P1",
        &["master/src/start.rs"],
        Suite::Tests("steersman-master", "lib", "leader_restore_stays_off"),
        "openraft's default: a leader that restarts fast goes on in its old term, without its unsynced tail",
    ),
    bug_in(
        "snapshot-misses-pending",
        "P1",
        &["state/src/image.rs"],
        FAST,
        "tasks that wait are not written to snapshots",
    ),
    bug_in(
        "forget-requests-in-snapshot",
        "P2",
        &["state/src/image.rs"],
        FAST,
        "remembered replies are not written to snapshots",
    ),
    bug_in(
        "requests-remembered-by-leader-only",
        "P2",
        &["state/src/apply/mod.rs"],
        FAST,
        "remembered replies end with the reign, as if only the leader's memory held them",
    ),
    bug_in(
        "new-request-id-per-try",
        "P2",
        &["client/src/tasks.rs"],
        FULL,
        "the client retries a submit under another request id",
    ),
    bug_in(
        "accept-old-report",
        "P3",
        &["state/src/apply/reports.rs"],
        STORIES,
        "a report with the token of an older attempt counts for the open one",
    ),
    bug_in(
        "repeated-report-ends-twice",
        "P3",
        &["state/src/apply/reports.rs"],
        FAST,
        "a report that comes again ends its finished task once more, as failed",
    ),
    bug_in(
        "success-overtakes-cancel",
        "P6",
        &["state/src/apply/reports.rs"],
        FAST,
        "a success that is reported after an acknowledged cancel replaces it",
    ),
    bug_in(
        "forget-token-counter-in-snapshot",
        "P3",
        &["state/src/image.rs"],
        FAST,
        "a state that was read from a snapshot goes on with the highest token that is still held",
    ),
    bug_in(
        "assign-twice",
        "P3",
        &["state/src/apply/tasks.rs"],
        FAST,
        "every eighth token: the task stays in the queue and is given to a second worker",
    ),
    bug_in("place-on-draining", "P3", &["state/src/registry.rs"], FAST, "a draining worker is given new tasks"),
    bug_in("place-on-lost", "P5", &["state/src/registry.rs"], FAST, "a lost worker is given new tasks"),
    bug_in("exceed-capacity", "P3", &["state/src/registry.rs"], FAST, "a full worker is given one more task"),
    bug_in(
        "reuse-worker-id",
        "P3",
        &["state/src/apply/workers.rs"],
        STORIES,
        "a new worker gets the id of one that is offline",
    ),
    bug_in(
        "apply-by-hash-order",
        "P1",
        &["state/src/plan.rs"],
        FAST,
        "placement follows the order of a hash set, which differs from master to master",
    ),
    bug_in(
        "time-goes-back",
        "P10",
        &["state/src/apply/mod.rs", "master/src/clock.rs"],
        FAST,
        "a new leader stamps its own clock, however far behind, and the state takes it",
    ),
    bug_in(
        "read-without-index",
        "P7",
        &["master/src/reads.rs"],
        FAST,
        "a linearizable read is answered from the local state, without asking a quorum who leads",
    ),
    bug_in(
        "lease-from-former-reign",
        "P4",
        &["master/src/leader/mod.rs"],
        FAST,
        "a new reign counts silence from the start of its process instead of from its own beginning",
    ),
    bug_in(
        "heartbeats-unheard",
        "P4",
        &["master/src/grpc/session_api.rs"],
        FAST,
        "only the opening of a session renews a lease, heartbeats do not",
    ),
    bug_in(
        "outstanding-forgotten",
        "P5",
        &["master/src/grpc/session_api.rs"],
        FAST,
        "a session that opens is not sent what is outstanding: effects that died with the former leader never come",
    ),
    bug_in(
        "partition-stop-ignored",
        "P9",
        &["worker/src/runner.rs"],
        FULL,
        "a worker that is cut off lets attempts with on_partition=stop run on",
    ),
    bug_in(
        "reports-die-with-session",
        "P5",
        &["worker/src/runner.rs"],
        FULL,
        "a worker forgets unacknowledged reports when its session changes",
    ),
    bug_in(
        "event-skipped-on-resume",
        "P8",
        &["client/src/events.rs"],
        FULL,
        "a follower of the events that reconnects asks for one index too far",
    ),
    bug_in(
        "event-twice-on-resume",
        "P8",
        &["client/src/events.rs"],
        FULL,
        "a follower of the events that reconnects is given the last entry again",
    ),
];

/// The bug of that name.
pub fn bug(name: &str) -> Option<&'static Bug> {
    BUGS.iter().find(|bug| bug.name == name)
}
