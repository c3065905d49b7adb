//! The kinds of drill: what each does, how long it lasts, and what an operator may expect of a healthy cluster meanwhile.

use std::time::Duration;

use clap::ValueEnum;

/// What is rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// The leader's process dies at once (SIGKILL)
    LeaderKill,
    /// The leader's process is frozen (SIGSTOP): it answers nobody, and nobody is told
    LeaderPause,
    /// The leader can reach no other master and no worker, nor they it; clients still reach everybody
    Partition,
    /// A worker's process dies at once, and stays away until its lease has run out
    WorkerKill,
    /// Every master and every worker is restarted in good order, one after the other, the leader last of the masters
    RollingRestart,
    /// Every write of the leader's log and snapshots fails as on a full disk
    DiskFull,
    /// The leader's wall clock jumps one hour ahead, then two hours back
    ClockJump,
}

impl Kind {
    /// In the order in which `all` runs them.
    pub const ALL: [Self; 7] = [
        Self::LeaderKill,
        Self::LeaderPause,
        Self::Partition,
        Self::WorkerKill,
        Self::RollingRestart,
        Self::DiskFull,
        Self::ClockJump,
    ];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeaderKill => "leader-kill",
            Self::LeaderPause => "leader-pause",
            Self::Partition => "partition",
            Self::WorkerKill => "worker-kill",
            Self::RollingRestart => "rolling-restart",
            Self::DiskFull => "disk-full",
            Self::ClockJump => "clock-jump",
        }
    }

    /// Another master has to take over.
    pub fn moves_office(self) -> bool {
        matches!(self, Self::LeaderKill | Self::LeaderPause | Self::Partition | Self::DiskFull)
    }

    /// Workers go down, so that their tasks run again elsewhere.
    pub fn stops_workers(self) -> bool {
        matches!(self, Self::WorkerKill | Self::RollingRestart)
    }

    /// How long the fault stays in force once its consequences were seen.
    pub fn hold(self) -> Duration {
        match self {
            Self::LeaderKill | Self::WorkerKill => Duration::from_secs(1),
            Self::RollingRestart => Duration::ZERO,
            Self::LeaderPause | Self::Partition | Self::DiskFull | Self::ClockJump => Duration::from_secs(2),
        }
    }

    /// The longest time without an acknowledged write that is fine, unless the operator says otherwise. A dead process is noticed
    /// by its reset connections; a silent one by timers, and by a client when its try of 1 s has run out.
    pub fn gap_max(self) -> Duration {
        match self {
            Self::LeaderKill | Self::RollingRestart => Duration::from_secs(2),
            Self::WorkerKill | Self::ClockJump => Duration::from_secs(1),
            Self::LeaderPause | Self::Partition => Duration::from_secs(4),
            Self::DiskFull => Duration::from_secs(5),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
