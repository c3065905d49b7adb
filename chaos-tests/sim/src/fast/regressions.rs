//! Seeds that once found something, with what was wrong.

/// Seed, and what it found.
pub const REGRESSIONS: &[(u64, &str)] = &[
    (2, "a leader built an append that begins after purged entries; the follower's master would have stopped"),
    (106, "the same, in another build"),
    (
        10,
        "a node's slow clock made a follower of the event stream spin: a sleep until an instant of that clock was none",
    ),
    (
        1_795_458_935_019,
        "floods of long tasks, each with retries: more work than the slots do within the bound of draining",
    ),
    (
        356,
        "the model of a worker began an exclusive attempt whose assignment came after its lease was over, for no time at all",
    ),
    (
        409,
        "a connection that died without a word was noticed after three heartbeats only, when the lease was nearly over",
    ),
    (625, "the run ended before the followers of the event stream had heard of the last tasks"),
    (450, "a follower whose entries were all purged under it got empty appends for ever, and agreed to each"),
    (1_066, "a leader counted time without a quorum, in which nobody can open a session, against its workers' leases"),
    (
        1_244,
        "what was trimmed under both followers was held against the run: how tasks ended, then who was assigned them",
    ),
    (
        1_795_464_102_016,
        "a worker whose hello was lost with its connection waited 5 s for the welcome, longer than its lease",
    ),
];
