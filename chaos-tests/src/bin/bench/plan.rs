//! How much is measured: the full plan of the page, and the tiny one that only shows that nothing has rotted.

use std::time::Duration;

/// Sizes of everything that is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Syncs, round trips and calls for each of the machine's limits.
    pub limit_tries: usize,
    /// How long each of the machine's rates is taken.
    pub limit_span: Duration,
    /// Idle latency of one task, for each kind of task.
    pub latency_tries: usize,
    /// `steersman run -- true` as a command.
    pub command_tries: usize,
    /// No-op tasks of one run.
    pub noop_tasks: u32,
    /// Tasks of one submit call.
    pub batch: u32,
    /// Tasks that run a process, of one run.
    pub process_tasks: u32,
    /// Repetitions of each rate.
    pub repetitions: usize,
    /// How long one rate of submits is taken.
    pub commit_span: Duration,
    /// Leaders killed.
    pub kills: usize,
    /// Leaders that hand over, and leaders that are frozen.
    pub handovers: usize,
    /// Pending tasks whose memory is measured.
    pub pending: u32,
    /// How long submits are watched for gaps.
    pub gap_span: Duration,
    /// Log entries between two snapshots while gaps are watched.
    pub gap_snapshot_entries: &'static str,
}

impl Plan {
    /// What the page shows: about ten minutes.
    pub fn full() -> Self {
        Self {
            limit_tries: 1_000,
            limit_span: Duration::from_secs(2),
            latency_tries: 500,
            command_tries: 60,
            noop_tasks: 100_000,
            batch: 10_000,
            process_tasks: 3_000,
            repetitions: 3,
            commit_span: Duration::from_secs(10),
            kills: 30,
            handovers: 10,
            pending: 100_000,
            gap_span: Duration::from_secs(10),
            gap_snapshot_entries: "1500",
        }
    }

    /// As little as possible of everything.
    pub fn smoke() -> Self {
        Self {
            limit_tries: 20,
            limit_span: Duration::from_millis(50),
            latency_tries: 5,
            command_tries: 2,
            noop_tasks: 400,
            batch: 100,
            process_tasks: 10,
            repetitions: 1,
            commit_span: Duration::from_millis(300),
            kills: 1,
            handovers: 1,
            pending: 2_000,
            gap_span: Duration::from_millis(500),
            gap_snapshot_entries: "100",
        }
    }
}
