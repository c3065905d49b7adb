//! What can be done to a cluster: classes of faults, injected into a [`Bed`] and healed as an operator would.
//!
//! What always holds: a fault that was not installed is never called installed (see [`Skipped`]); no class impairs more masters
//! than a majority can spare, with all that is already impaired, unless [`Class::stops_all`] says so; after [`heal`] the node
//! runs again, the link is open, and data that was damaged has been replaced. Nothing here judges histories.

mod aim;
mod clocks;
mod damage;
mod disks;
mod members;
mod network;
mod nodes;
mod undo;

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng as _};

use crate::bed::Bed;
use crate::bed::books::Harm;
use crate::process::Ended;

pub(crate) use self::undo::Undo;

macro_rules! classes {
    ($($(#[$doc:meta])+ $class:ident = $name:literal,)+) => {
        /// A class of faults.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Class {
            $($(#[$doc])+ $class,)+
        }

        impl Class {
            /// Every class.
            pub fn all() -> &'static [Self] {
                &[$(Self::$class),+]
            }

            /// Its name on the command line, in histories and reports: `partition-halves`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$class => $name,)+
                }
            }
        }
    };
}

classes! {
    /// SIGKILL of a master.
    Kill = "kill",
    /// A master's machine loses power: what was not synced is gone, and nobody says goodbye on the network.
    PowerLoss = "power-loss",
    /// All masters lose power at one moment.
    PowerLossAll = "power-loss-all",
    /// SIGSTOP of a master, later SIGCONT.
    Pause = "pause",
    /// A minority of the masters, with some of the workers, is cut off in both directions.
    PartitionHalves = "partition-halves",
    /// A master hears but is not heard, or is heard but does not hear.
    PartitionOneSided = "partition-one-sided",
    /// The leader alone is cut off from all other masters.
    LeaderIsolated = "leader-isolated",
    /// Two masters that see each other only through the others.
    Bridge = "bridge",
    /// A master's links are cut and restored again and again.
    Flapping = "flapping",
    /// Every packet is late by the same time.
    Delay = "delay",
    /// Every packet is late by a time of its own.
    Jitter = "jitter",
    /// Packets are lost.
    Loss = "loss",
    /// Packets arrive twice.
    Duplicate = "duplicate",
    /// Packets overtake each other.
    Reorder = "reorder",
    /// Links carry little.
    Throttle = "throttle",
    /// Wall clocks jump, by seconds or years, forward or back.
    ClockJump = "clock-jump",
    /// Wall clocks run at wrong rates.
    ClockDrift = "clock-drift",
    /// A master's disk is full.
    DiskFull = "disk-full",
    /// A master's disk is slow to write and to sync.
    DiskSlow = "disk-slow",
    /// A master's syncs fail.
    SyncFails = "sync-fails",
    /// A master's syncs succeed without having synced anything.
    SyncLies = "sync-lies",
    /// A master's syncs are slow.
    SyncSlow = "sync-slow",
    /// Bits flip in the data of a stopped master, which is then started.
    BitFlip = "bit-flip",
    /// A file of a stopped master is cut short, and the master is started.
    Truncate = "truncate",
    /// Every master is ended in good order and started again, one after the other.
    RollingRestart = "rolling-restart",
    /// A new master joins, is promoted, and another one is removed.
    Membership = "membership",
    /// A master comes back with an empty disk under its old id; it must be refused, and is replaced.
    WipeRejoin = "wipe-rejoin",
    /// A worker's machine dies: worker, keeper and tasks.
    WorkerKill = "worker-kill",
    /// A worker is frozen with everything it runs.
    WorkerPause = "worker-pause",
    /// A worker is cut off from all masters.
    WorkerCut = "worker-cut",
    /// SIGKILL of all masters at one moment.
    AllMastersDown = "all-masters-down",
    /// The leader is told to hand over.
    StepDown = "step-down",
}

impl Class {
    /// The class of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::all().iter().copied().find(|class| class.name() == name)
    }

    /// Whether it takes rights that only root has: without them, [`inject`] answers [`Skipped::Unable`].
    pub fn needs_root(self) -> bool {
        matches!(self, Self::PowerLoss | Self::PowerLossAll | Self::Loss | Self::Duplicate | Self::Reorder)
    }

    /// Whether a master that ended like this may have ended because of it: codes of `docs/operations.md`.
    pub fn explains(self, ended: &Ended) -> bool {
        match self {
            Self::DiskFull | Self::DiskSlow | Self::SyncFails | Self::SyncLies | Self::SyncSlow => {
                ended.code == Some(74)
            }
            // Which part of the data was hit decides whether it is damaged, foreign or unreadable.
            Self::BitFlip | Self::Truncate => matches!(ended.code, Some(65 | 75 | 76)),
            Self::WipeRejoin => ended.code == Some(75),
            _ => false,
        }
    }

    /// Whether it stops the whole cluster, by intent.
    pub fn stops_all(self) -> bool {
        matches!(self, Self::PowerLossAll | Self::AllMastersDown)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A fault that is in force, to be given to [`heal`].
#[derive(Debug)]
pub struct Active {
    /// Its class.
    pub class: Class,
    /// What it was done to, and how, in words: `master 2, 80 ms`.
    pub target: String,
    /// Masters that cannot do their part because of it.
    pub masters: BTreeSet<u64>,
    /// Workers that cannot do their part because of it.
    pub workers: BTreeSet<String>,
    /// Since when.
    pub since: Instant,
    /// How long it should be left in force to mean anything; zero for what is over already (a restart, a change of members).
    pub at_least: Duration,
}

/// Why a fault is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skipped {
    /// It can never be installed in this bed: a run that wanted it is *unknown*, not *passed*.
    Unable(String),
    /// Not at the moment: too much else is impaired, or there is no leader. Try again later.
    NotNow(String),
    /// It was installed and the product did not do what it promises (for example, a wiped master was let in): a finding.
    Broken(String),
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unable(why) => write!(f, "unable: {why}"),
            Self::NotNow(why) => write!(f, "not now: {why}"),
            Self::Broken(what) => write!(f, "broken: {what}"),
        }
    }
}

/// A fault on the bed's books.
#[derive(Debug)]
pub(crate) struct InForce {
    pub class: Class,
    /// With its class, what an [`Active`] is found again by: no two faults of a class begin at the same moment.
    pub since: Instant,
    pub harm: Harm,
    /// What takes it back, in order.
    pub undo: Vec<Undo>,
}

/// What an injector did.
struct Done {
    target: String,
    harm: Harm,
    undo: Vec<Undo>,
    at_least: Duration,
}

/// Puts a fault in force. Classes that are over when they are done (restarts, membership) take seconds here.
///
/// # Errors
/// If it is not in force: see [`Skipped`].
pub async fn inject(bed: &mut Bed, class: Class, rng: &mut impl Rng) -> Result<Active, Skipped> {
    // Dice of its own: how much one fault draws does not change the next.
    let mut dice = StdRng::from_rng(rng);
    let done = dispatch(bed, class, &mut dice).await?;
    let Done { target, harm, undo, at_least } = done;
    let Harm { masters, workers } = harm.clone();
    let since = Instant::now();
    bed.enter(InForce { class, since, harm, undo });
    Ok(Active { class, target, masters, workers, since, at_least })
}

async fn dispatch(bed: &mut Bed, class: Class, dice: &mut StdRng) -> Result<Done, Skipped> {
    use Class::*;
    match class {
        Kill => nodes::kill(bed, dice).await,
        PowerLoss => disks::power_loss(bed, dice).await,
        PowerLossAll => disks::power_loss_all(bed),
        Pause => nodes::pause(bed, dice).await,
        PartitionHalves => network::halves(bed, dice).await,
        PartitionOneSided => network::one_sided(bed, dice).await,
        LeaderIsolated => network::leader_isolated(bed).await,
        Bridge => network::bridge(bed, dice),
        Flapping => network::flapping(bed, dice).await,
        Delay | Jitter | Loss | Duplicate | Reorder => network::bad_weather(bed, class, dice),
        Throttle => network::throttle(bed, dice).await,
        ClockJump | ClockDrift => clocks::wrong(bed, class, dice),
        DiskFull => disks::full(bed, dice).await,
        DiskSlow | SyncFails | SyncLies | SyncSlow => disks::bad_syncs(bed, class, dice).await,
        BitFlip | Truncate => damage::damage(bed, class, dice).await,
        RollingRestart => nodes::rolling_restart(bed).await,
        Membership => members::change(bed, dice).await,
        WipeRejoin => members::wipe_rejoin(bed, dice).await,
        WorkerKill | WorkerPause | WorkerCut => nodes::worker(bed, class, dice),
        AllMastersDown => nodes::all_down(bed),
        StepDown => nodes::step_down(bed).await,
    }
}

/// A finding. What was done is undone at once, so that the run can go on.
async fn broken(bed: &mut Bed, class: Class, (harm, undo): (Harm, Vec<Undo>), mut what: String) -> Skipped {
    let since = Instant::now();
    bed.enter(InForce { class, since, harm, undo });
    if let Err(error) = bed.take_back(class, since).await {
        what += &format!("; and then: {error:#}");
    }
    Skipped::Broken(what)
}

/// Takes a fault back, as an operator would: starts, opens, frees, replaces; waits until masters that it started take part.
///
/// # Errors
/// If that was not possible within [`crate::PATIENCE`] and a bit: with what was seen last.
pub async fn heal(bed: &mut Bed, active: Active) -> Result<()> {
    bed.take_back(active.class, active.since).await
}
