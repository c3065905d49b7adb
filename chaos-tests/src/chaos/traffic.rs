//! What all workloads share, and how one operation is made: invoked, awaited, completed.
//!
//! What always holds: a logical client has one operation open at a time; after one whose outcome is unknown it goes on under
//! another number, for that operation may still happen.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use steersman_client::RequestId;
use steersman_evidence::record::{Call, Outcome};
use steersman_world::{Entropy, SeededEntropy};
use tokio::sync::watch;
use tokio::time::Instant;

use super::keys::Keys;
use super::recorder::Recorder;
use super::targets::Targets;
use super::work::Places;
use steersman_evidence::answers::Told;

/// A process that fell behind its pace by more than this does not catch up: it would flood what just came back.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// What all workloads share.
#[derive(Debug)]
pub struct Traffic {
    /// Where everything is written down.
    pub recorder: Arc<Recorder>,
    /// Whom to ask.
    pub targets: Targets,
    /// The tasks that are shared.
    pub keys: Keys,
    /// Where tasks find things.
    pub places: Places,
    /// Numbers from the seed.
    pub entropy: SeededEntropy,
    /// True: no new operations.
    pub stop: watch::Receiver<bool>,
}

impl Traffic {
    /// Whether it is time to end.
    pub fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Sleeps, but not beyond the end. Returns whether work goes on.
    pub async fn pause(&self, time: Duration) -> bool {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        !self.stopped()
    }

    /// A number in `0..n`.
    pub fn below(&self, n: u64) -> u64 {
        self.entropy.below(n)
    }

    /// A time between `from` and `to`, in ms.
    pub fn ms(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.entropy.below(to - from + 1))
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&self, percent: u64) -> bool {
        self.entropy.below(100) < percent
    }

    /// A request id, and how the history names it.
    pub fn request(&self) -> (RequestId, String) {
        let id = self.entropy.next_id();
        (id, id.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// One logical client.
#[derive(Debug)]
pub struct Actor {
    recorder: Arc<Recorder>,
    process: u64,
}

impl Actor {
    /// A new one.
    pub fn new(recorder: &Arc<Recorder>) -> Self {
        Self { recorder: recorder.clone(), process: recorder.new_process() }
    }

    /// Makes one operation: `answer` is awaited between its two lines in the history.
    pub async fn perform(&mut self, master: Option<u64>, call: Call, answer: impl Future<Output = Told>) -> Outcome {
        let op = self.recorder.invoke(self.process, master, call);
        let (answered_by, outcome) = answer.await;
        self.recorder.complete(op, answered_by, outcome.clone());
        if matches!(outcome, Outcome::Unknown { .. }) {
            self.process = self.recorder.new_process();
        }
        outcome
    }
}

/// Keeps one process to so many operations per second, each at a moment of its own.
#[derive(Debug)]
pub struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    /// `rate` per second.
    pub fn new(rate: f64) -> Self {
        Self { every: Duration::from_secs_f64(1.0 / rate.max(0.001)), next: Instant::now() }
    }

    /// Waits for the next turn. Returns whether work goes on.
    pub async fn turn(&mut self, traffic: &Traffic) -> bool {
        let now = Instant::now();
        let jitter = 0.5 + traffic.entropy.below(1_000) as f64 / 1_000.0;
        self.next = (self.next + self.every.mul_f64(jitter)).max(now - BEHIND_MAX);
        traffic.pause(self.next.saturating_duration_since(now)).await
    }
}
