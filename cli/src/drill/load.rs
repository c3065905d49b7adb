//! The load that a drill drives by itself: short tasks from several clients, a probe that follows each of its tasks to the end, and a
//! few long tasks that ought to run through whatever happens.
//!
//! What always holds: a submit whose outcome is unknown is repeated under its request id until it is known or the load ends; every
//! call is in the history; what was acknowledged is read again in the end, one task at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use parking_lot::Mutex;
use steersman_client::v1::{Command, Handler, TaskGroup, TaskSpec, TaskState, task_spec::Work};
use steersman_client::{Class, Client, World, codes};
use steersman_evidence::answers;
use steersman_evidence::record::Call;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::history::{Probe, Recorder};
use crate::exit::{Failure, Outcome};

/// Between two submits of one client: a load that shows gaps of a few ms and burdens nobody.
const PACE: Duration = Duration::from_millis(25);
/// How long a probe follows its task at a time.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);
/// The total deadline of a call: longer than any failover that is worth the name.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Reads at a time when everything is read again.
const READERS: u64 = 8;
/// Between two reads of a task that is not finished yet.
const READ_AGAIN: Duration = Duration::from_millis(100);
/// Long tasks at most.
const HOLDERS_MAX: u64 = 4;
/// They are cancelled in the end; should that fail, they end by themselves.
const HOLDER_SECONDS: u32 = 900;

/// Numbers of the logical clients in the history.
const PROBE: u64 = 50;
const HOLDER: u64 = 60;
const READER: u64 = 100;

/// What runs.
pub struct Load {
    recorder: Recorder,
    client: Client,
    stop: Arc<AtomicBool>,
    acked: Arc<Mutex<Vec<u64>>>,
    holders: Vec<u64>,
    running: JoinSet<()>,
}

/// What became of acknowledged tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Audit {
    /// Tasks that were acknowledged.
    pub acknowledged: u64,
    /// Not there.
    pub lost: u64,
    /// There, and not finished in time.
    pub unfinished: u64,
}

fn nothing() -> Vec<TaskGroup> {
    let handler = Handler { name: "noop".to_owned(), ..Handler::default() };
    group("drill", Work::Handler(handler))
}

fn group(name: &str, work: Work) -> Vec<TaskGroup> {
    let spec = TaskSpec { name: name.to_owned(), work: Some(work), ..TaskSpec::default() };
    vec![TaskGroup { spec: Some(spec), count: 1 }]
}

impl Load {
    /// Begins: first the long tasks, as many as leave most slots free, then everybody at once.
    ///
    /// # Errors
    /// If not even the long tasks can be submitted, or the workers don't run the handler `noop`.
    pub async fn start(addresses: &[String], clients: u64, free_slots: u64, recorder: &Recorder) -> Outcome<Self> {
        let client = client(addresses, 0)?;
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut load =
            Self { recorder: recorder.clone(), client, stop, acked, holders: Vec::new(), running: JoinSet::new() };
        load.try_out().await?;
        load.hold((free_slots / 4).min(HOLDERS_MAX)).await?;
        for process in 1..=clients {
            let caller = load.caller(client_at(addresses, process)?, process);
            load.running.spawn(caller.submit_all());
        }
        let probe = load.caller(client_at(addresses, PROBE)?, PROBE);
        load.running.spawn(probe.probe_all());
        Ok(load)
    }

    fn caller(&self, client: Client, process: u64) -> Caller {
        let (recorder, stop, acked) = (self.recorder.clone(), self.stop.clone(), self.acked.clone());
        Caller { client, process, recorder, stop, acked }
    }

    /// One task, before anything is broken: do the workers of this cluster run what the load submits?
    async fn try_out(&self) -> Outcome {
        let caller = self.caller(self.client.clone(), HOLDER);
        let task = caller.submit(nothing()).await.ok_or_else(|| no_load("a task was not accepted"))?;
        let totals = self.client.wait(task, 1, Some(CALL_TIMEOUT)).await?;
        if totals.succeeded == 1 {
            return Ok(());
        }
        let hint = "see: steersman task explain last";
        Err(no_load(format!("a first task (handler noop) has not succeeded within {CALL_TIMEOUT:?}")).hint(hint))
    }

    async fn hold(&mut self, count: u64) -> Outcome {
        let caller = self.caller(self.client.clone(), HOLDER);
        for _ in 0..count {
            let argv = vec!["sleep".to_owned(), HOLDER_SECONDS.to_string()];
            let work = Work::Command(Command { argv, ..Command::default() });
            let task = caller.submit(group("drill-long", work)).await;
            self.holders.push(task.ok_or_else(|| no_load("a long task was not accepted"))?);
        }
        Ok(())
    }

    /// Ends the load; calls that are under way are waited for.
    pub async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while self.running.join_next().await.is_some() {}
    }

    /// Cancels the long tasks. What fails is in the history.
    pub async fn release(&self) {
        for task in &self.holders {
            let id = self.client.new_request_id();
            let (op, _) = self.recorder.invoke(HOLDER, Call::Cancel { request: hex(&id), task: *task });
            self.recorder.complete(op, answers::cancelled(&self.client.cancel_with_id(id, vec![*task]).await));
        }
    }

    /// Reads every acknowledged task until it is finished or `patience` has passed.
    pub async fn audit(&self, patience: Duration) -> Audit {
        let until = Instant::now() + patience;
        let acked = std::mem::take(&mut *self.acked.lock());
        let acknowledged = acked.len() as u64;
        let lanes = (0..READERS).map(|lane| {
            let mine: Vec<u64> = acked.iter().copied().skip(lane as usize).step_by(READERS as usize).collect();
            let caller = self.caller(self.client.clone(), READER + lane);
            async move {
                let mut audit = Audit::default();
                for task in mine {
                    caller.look_again(task, until, &mut audit).await;
                }
                audit
            }
        });
        let parts: Vec<Audit> = stream::iter(lanes).buffer_unordered(READERS as usize).collect().await;
        let sum = |count: fn(&Audit) -> u64| parts.iter().map(count).sum();
        Audit { acknowledged, lost: sum(|part| part.lost), unfinished: sum(|part| part.unfinished) }
    }
}

fn no_load(what: impl std::fmt::Display) -> Failure {
    Failure::coded(crate::exit::REFUSED, &codes::FAILED_PRECONDITION, format!("the load does not run: {what}"))
        .hint("see: steersman worker list")
}

/// A client of its own, that begins at another master than the others.
fn client_at(addresses: &[String], process: u64) -> Outcome<Client> {
    client(addresses, process as usize % addresses.len().max(1))
}

fn client(addresses: &[String], first: usize) -> Outcome<Client> {
    let rotated = addresses.iter().cycle().skip(first).take(addresses.len());
    Ok(Client::builder(World::real()).addresses(rotated.cloned()).timeout(CALL_TIMEOUT).build()?)
}

fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One logical client.
struct Caller {
    client: Client,
    process: u64,
    recorder: Recorder,
    stop: Arc<AtomicBool>,
    acked: Arc<Mutex<Vec<u64>>>,
}

impl Caller {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn submit_all(self) {
        let _watch = self.client.watch_leader();
        while !self.stopped() {
            self.submit(nothing()).await;
            tokio::time::sleep(PACE).await;
        }
    }

    /// The id of the task, once it is acknowledged; `None` if that failed.
    async fn submit(&self, groups: Vec<TaskGroup>) -> Option<u64> {
        let id = self.client.new_request_id();
        loop {
            let (op, _) = self.recorder.invoke(self.process, Call::Submit { request: hex(&id), count: 1 });
            let answer = self.client.submit_with_id(id, groups.clone()).await;
            let at_us = self.recorder.complete(op, answers::submitted(&answer));
            match answer {
                Ok(done) => {
                    self.recorder.live().acked_us.fetch_max(at_us, Ordering::Relaxed);
                    if self.process != HOLDER {
                        self.acked.lock().push(done.first_id);
                    }
                    return Some(done.first_id);
                }
                Err(error) if error.class() == Class::OutcomeUnknown && !self.stopped() => {}
                Err(_) => return None,
            }
        }
    }

    async fn probe_all(self) {
        let _watch = self.client.watch_leader();
        while !self.stopped() {
            let began_us = self.recorder.now_us();
            if let Some(task) = self.submit(nothing()).await {
                let acked_us = self.recorder.now_us();
                let waited = self.client.wait(task, 1, Some(PROBE_PATIENCE)).await;
                let done = waited.is_ok_and(|totals| totals.done);
                let finished_us = done.then(|| self.recorder.now_us());
                self.recorder.probed(Probe { began_us, acked_us, finished_us });
                // What it says is in the history.
                let _ = self.read(task).await;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Its state now; `None` if there is no such task; `Err` if nobody could say.
    async fn read(&self, task: u64) -> Result<Option<TaskState>, ()> {
        let (op, _) = self.recorder.invoke(self.process, Call::Read { task, stale: false });
        let answer = self.client.get(task).await;
        self.recorder.complete(op, answers::read(&answer));
        match answer {
            Ok(answer) => Ok(answer.task.map(|task| task.state())),
            Err(error) if error.is(codes::TASK_NOT_FOUND) => Ok(None),
            Err(_) => Err(()),
        }
    }

    async fn look_again(&self, task: u64, until: Instant, audit: &mut Audit) {
        loop {
            match self.read(task).await {
                Ok(Some(TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled)) => return,
                Ok(None) => return audit.lost += 1,
                Ok(Some(_)) | Err(()) if Instant::now() >= until => return audit.unfinished += 1,
                Ok(Some(_)) | Err(()) => tokio::time::sleep(READ_AGAIN).await,
            }
        }
    }
}
