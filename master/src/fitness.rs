//! Whether this master is fit to lead: its disk writes, and a quorum answers. Who is not gives up its office by itself.
//!
//! What always holds: an unfit master has no reign, takes no proposals and, if its disk is the reason, sends no heartbeats
//! and stands for no election, so that the others replace it by their timers even if the hand-over that it asks for never
//! arrives; it is fit again by itself. Time in which this process did not run proves nothing about the disk. The canary is a
//! small write through the store's only writer, made when nothing else is written: a disk is judged by the path that counts.
//! What it does not do: decide who leads next, or end the process (a disk that fails does that).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use steersman_raft_store::Control;
use steersman_world::Spawner;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::node::{Node, READY_ACK_AGE_MS, Role, choose_heir};
use crate::propose::led_term;

/// Between two looks: a small share of the shortest sensible bound.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A look that comes later than this found the process stopped in between.
const PAUSE_MIN: Duration = Duration::from_millis(400);
/// Asking Raft's core to hand over; a core that waits for the disk itself does not answer.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// Why a master is not fit to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// A write has been under way for longer than `raft.disk_stall_ms`, or was until a moment ago.
    Disk,
    /// It leads, and no quorum has answered for [`READY_ACK_AGE_MS`].
    Quorum,
}

/// What is known of this master's fitness. Cheap to clone.
#[derive(Clone)]
pub struct Fitness(watch::Sender<Option<Unfit>>);

impl Default for Fitness {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Fitness {
    /// It may lead.
    pub fn is_fit(&self) -> bool {
        self.0.borrow().is_none()
    }

    /// Its disk has stalled.
    pub fn disk_stalled(&self) -> bool {
        *self.0.borrow() == Some(Unfit::Disk)
    }

    /// Follows every change.
    pub fn watch(&self) -> watch::Receiver<Option<Unfit>> {
        self.0.subscribe()
    }
}

/// Watches a master until it goes down.
pub fn start(node: &Arc<Node>, control: &Control, spawner: &Spawner) {
    let now = node.world.clock.now();
    let bound = Duration::from_millis(node.config.raft.disk_stall_ms);
    let (node, control) = (node.clone(), control.clone());
    let canary = Arc::new(AtomicBool::new(false));
    spawner.spawn(Watchman { node, control, bound, canary, looked: now, stalled: None, led: None }.run());
}

struct Watchman {
    node: Arc<Node>,
    control: Control,
    /// A write that takes longer has stalled.
    bound: Duration,
    /// A canary is under way.
    canary: Arc<AtomicBool>,
    looked: Instant,
    /// When the disk was last seen stalled.
    stalled: Option<Instant>,
    /// The term that is led, and since when.
    led: Option<(u64, Instant)>,
}

impl Watchman {
    async fn run(mut self) {
        while !self.node.shutting_down() {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.node.world.clock.now();
            let pause = now - std::mem::replace(&mut self.looked, now);
            if pause > PAUSE_MIN {
                self.woke_up(pause);
                continue;
            }
            self.send_canary();
            let found = self.look(now);
            self.settle(found);
        }
    }

    /// Somebody else may lead by now: an answer to a heartbeat tells it before anybody is told otherwise here.
    fn woke_up(&mut self, pause: Duration) {
        tracing::warn!(paused_ms = pause.as_millis() as u64, "this process did not run");
        // A write that was under way says nothing yet: its time counts from here.
        self.control.metrics().forgive(self.looked);
        let raft = self.node.raft.clone();
        self.node.spawn_raft(async move { drop(raft.trigger().heartbeat().await) });
    }

    /// Without other writes nobody would know that the disk has stalled.
    fn send_canary(&self) {
        let metrics = self.control.metrics();
        let quiet = metrics.quiet_for() > self.bound / 4;
        if !quiet || self.canary.swap(true, Ordering::Relaxed) {
            return;
        }
        let (control, canary) = (self.control.clone(), self.canary.clone());
        self.node.spawn_raft(async move {
            // A store that has failed ends the process; that is not for the canary to say.
            let _ = control.canary().await;
            canary.store(false, Ordering::Relaxed);
        });
    }

    fn look(&mut self, now: Instant) -> Option<Unfit> {
        if self.control.metrics().stalled_for() > self.bound {
            self.stalled = Some(now);
        }
        // A disk that stalls again and again would pass the office around: it has to be well for as long as the bound.
        if self.stalled.is_some_and(|stalled| now - stalled < self.bound) {
            return Some(Unfit::Disk);
        }
        let term = led_term(&self.node.raft);
        self.led = term.map(|term| self.led.filter(|(led, _)| *led == term).unwrap_or((term, now)));
        let silence = Duration::from_millis(self.node.quorum_age_ms().min(u64::from(u32::MAX)));
        let (_, since) = self.led?;
        let lost = silence.min(now - since) > Duration::from_millis(READY_ACK_AGE_MS);
        lost.then_some(Unfit::Quorum)
    }

    fn settle(&self, found: Option<Unfit>) {
        let before = *self.node.fitness.0.borrow();
        if before == found {
            return;
        }
        match (before, found) {
            (_, Some(Unfit::Disk)) => self.disk_stalled(),
            (Some(Unfit::Disk), _) => self.disk_recovered(),
            (_, Some(Unfit::Quorum)) => tracing::warn!("no quorum answers: this master gives up its reign"),
            (_, None) => tracing::info!("a quorum answers again"),
        }
        self.node.fitness.0.send_replace(found);
    }

    fn disk_stalled(&self) {
        let stalled_ms = self.control.metrics().stalled_for().as_millis() as u64;
        tracing::error!(stalled_ms, "the disk has stalled: this master gives up its office and stands for none");
        self.node.metrics.disk_stalled();
        let raft = self.node.raft.clone();
        raft.runtime_config().heartbeat(false);
        raft.runtime_config().elect(false);
        let status = self.node.status();
        if status.role != Role::Leader {
            return;
        }
        let Ok(heir) = choose_heir(self.node.id, &status.members, None) else { return };
        self.node.spawn_raft(async move {
            drop(tokio::time::timeout(HAND_OVER_MAX, raft.trigger().transfer_leader(heir)).await);
        });
    }

    fn disk_recovered(&self) {
        tracing::info!("the disk writes again: this master may lead again");
        let raft = &self.node.raft;
        raft.runtime_config().heartbeat(true);
        raft.runtime_config().elect(true);
    }
}
