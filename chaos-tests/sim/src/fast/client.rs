//! Clients: they submit, cancel, read and steer workers through the product's own services, at any master, over the links of
//! the run; and followers of the event stream, which go on at another master where they were.
//!
//! What always holds: a mutation keeps its request id over all its tries; it is told as failed only if no master may have
//! acted on it; what was not answered in time is unknown. A client has one operation open at a time.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use steersman_evidence::record::{Answer, Call, Event, Events, Outcome, Record};
use steersman_master::bare::Bare;
use steersman_master::grpc::{Edge, EventsApi, TasksApi, WorkersApi};
use steersman_proto::v1 as pb;
use steersman_proto::v1::events_server::Events as _;
use steersman_proto::v1::tasks_server::Tasks as _;
use steersman_proto::v1::workers_server::Workers as _;
use steersman_world::{Entropy as _, SeededEntropy};
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use super::hub::{Asked, Hub};
use super::links::pipe;
use super::plan::CLIENTS_AT;
use steersman_evidence::answers::{self, Told};

/// One operation, with all its tries.
const PATIENCE: Duration = Duration::from_secs(5);
/// One try.
const TRY: Duration = Duration::from_millis(1_200);
/// A worker's mode that somebody changed is set back after so long at most.
const DRAINED_MS: u64 = 3_000;

type Done<T> = Result<T, steersman_client::Error>;
type Act<T> = Arc<dyn Fn(Arc<Bare>) -> BoxFuture<'static, Result<T, Status>> + Send + Sync>;

/// One client.
pub struct Client {
    hub: Arc<Hub>,
    process: u64,
    numbers: SeededEntropy,
    /// A submit whose outcome it does not know, to be tried again later.
    doubtful: parking_lot::Mutex<Option<([u8; 16], Vec<pb::TaskGroup>)>>,
}

/// How a series of tries ended.
enum Tried<T> {
    Answered(u64, T),
    /// The caller's fault, or nobody was there who could have acted.
    Failed(String),
    Unknown(String),
}

impl Client {
    /// Client number `process`.
    pub fn new(hub: &Arc<Hub>, process: u64) -> Self {
        let numbers = SeededEntropy::new(hub.plan.seed ^ (process << 32) ^ 0xC11E);
        Self { hub: hub.clone(), process, numbers, doubtful: parking_lot::Mutex::new(None) }
    }

    fn place(&self) -> u64 {
        CLIENTS_AT + self.process
    }

    /// Goes on until the run says that it is over.
    pub async fn live(self) {
        while !self.hub.is_calm() {
            self.anything().await;
            tokio::time::sleep(Duration::from_millis(20 + self.numbers.below(380))).await;
        }
        self.settle_doubts().await;
    }

    async fn anything(&self) {
        match self.numbers.below(100) {
            0..=29 => {
                let groups = self.groups();
                self.submit(self.numbers.next_id(), groups).await;
            }
            30..=33 => self.settle_doubts().await,
            34..=45 => self.cancel_something().await,
            46..=77 => self.read_something(false).await,
            78..=87 => self.read_something(true).await,
            88..=95 => self.read_workers().await,
            _ => self.drain_for_a_while().await,
        }
    }

    fn anywhere(&self) -> u64 {
        let known = self.hub.known();
        known[self.numbers.below(known.len() as u64) as usize]
    }

    /// Tries until it is answered: first anywhere, then where the leader is said to be.
    async fn at_the_leader<T: Send + 'static>(&self, act: Act<T>) -> Tried<T> {
        let deadline = Instant::now() + PATIENCE;
        let (mut target, mut acted) = (self.anywhere(), false);
        let mut last = "no leader".to_owned();
        while Instant::now() < deadline {
            let act = act.clone();
            let limit = TRY.min(deadline - Instant::now());
            let asked = self.hub.ask(self.place(), target, limit, move |bare| {
                Box::pin(async move {
                    if bare.node.reign().is_none() {
                        return Err(bare.node.leader_hint().map(|hint| hint.id));
                    }
                    Ok(act(bare).await)
                })
            });
            match asked.await {
                Asked::Answer(Ok(Ok(answer))) => return Tried::Answered(target, answer),
                Asked::Answer(Ok(Err(status))) if is_refusal(&status) => {
                    let text = status.message().to_owned();
                    return if acted { Tried::Unknown(text) } else { Tried::Failed(text) };
                }
                Asked::Answer(Ok(Err(status))) => {
                    acted = true;
                    status.message().clone_into(&mut last);
                    target = self.anywhere();
                }
                Asked::Answer(Err(hint)) => target = hint.unwrap_or_else(|| self.anywhere()),
                Asked::Refused => target = self.anywhere(),
                Asked::Silence => {
                    acted = true;
                    target = self.anywhere();
                }
            }
            tokio::time::sleep(Duration::from_millis(10 + self.numbers.below(60))).await;
        }
        if acted { Tried::Unknown(last) } else { Tried::Failed(last) }
    }

    async fn change<T: Send + 'static>(&self, call: Call, act: Act<T>, told: impl FnOnce(&Done<T>) -> Told) -> Outcome {
        let op = self.hub.journal.invoke(self.process, call);
        let (master, outcome) = match self.at_the_leader(act).await {
            Tried::Answered(master, answer) => {
                let (told_by, outcome) = told(&Ok(answer));
                (told_by.or(Some(master)), outcome)
            }
            Tried::Failed(error) => (None, Outcome::Fail { error }),
            Tried::Unknown(error) => (None, Outcome::Unknown { error }),
        };
        self.hub.journal.complete(op, master, outcome.clone());
        outcome
    }

    /// One to a few tasks, sometimes a flood: naps, some of which fail, some of which are exclusive.
    fn groups(&self) -> Vec<pb::TaskGroup> {
        let count = if self.numbers.below(40) == 0 { 40 + self.numbers.below(40) } else { 1 + self.numbers.below(4) };
        vec![group(&self.numbers, count as u32, 1_500)]
    }

    /// Submits; an unknown outcome is looked into later, and a good one is sometimes asked for twice.
    pub async fn submit(&self, id: [u8; 16], groups: Vec<pb::TaskGroup>) {
        let count = groups.iter().map(|group| u64::from(group.count)).sum();
        let twice = self.numbers.below(12) == 0;
        for _ in 0..1 + u64::from(twice) {
            let call = Call::Submit { request: hex(&id), count };
            let asked = groups.clone();
            let act: Act<pb::SubmitResponse> = Arc::new(move |bare| {
                let request =
                    pb::SubmitRequest { request_id: id.to_vec().into(), groups: asked.clone(), validate_only: false };
                Box::pin(async move { inner(tasks(&bare).submit(Request::new(request)).await) })
            });
            match self.change(call, act, answers::submitted).await {
                Outcome::Ok { answer: Answer::Submitted { first, count, .. } } => {
                    let mut known = self.hub.tasks.lock();
                    for task in first..first + count {
                        known.entry(task).or_insert(false);
                    }
                }
                Outcome::Unknown { .. } => {
                    *self.doubtful.lock() = Some((id, groups));
                    return;
                }
                _ => return,
            }
        }
    }

    async fn settle_doubts(&self) {
        let doubtful = self.doubtful.lock().take();
        if let Some((id, groups)) = doubtful {
            self.submit(id, groups).await;
        }
    }

    fn some_task(&self) -> Option<u64> {
        let known = self.hub.tasks.lock();
        let back = self.numbers.below(30.min(known.len() as u64)) as usize;
        known.keys().rev().nth(back).copied()
    }

    /// Each task is asked to be cancelled by one request at most, so that it is clear who ended it.
    async fn cancel_something(&self) {
        let Some(task) = self.some_task() else { return };
        if self.hub.tasks.lock().insert(task, true) == Some(true) {
            return;
        }
        let id = self.numbers.next_id();
        let act: Act<pb::CancelResponse> = Arc::new(move |bare| {
            let request = pb::CancelRequest { request_id: id.to_vec().into(), ids: vec![task] };
            Box::pin(async move { inner(tasks(&bare).cancel(Request::new(request)).await) })
        });
        self.change(Call::Cancel { request: hex(&id), task }, act, answers::cancelled).await;
    }

    /// A read anywhere, once.
    async fn look<T: Send + 'static>(&self, act: Act<T>) -> (u64, Option<Result<T, Status>>) {
        let target = self.anywhere();
        match self.hub.ask(self.place(), target, PATIENCE, move |bare| act(bare)).await {
            Asked::Answer(answer) => (target, Some(answer)),
            _ => (target, None),
        }
    }

    async fn read_something(&self, stale: bool) {
        let Some(task) = self.some_task() else { return };
        let consistency = i32::from(stale);
        let act: Act<pb::GetTaskResponse> = Arc::new(move |bare| {
            let request = pb::GetTaskRequest { id: task, consistency };
            Box::pin(async move { inner(tasks(&bare).get(Request::new(request)).await) })
        });
        let op = self.hub.journal.invoke(self.process, Call::Read { task, stale });
        let (target, answer) = self.look(act).await;
        let (master, outcome) = match answer {
            Some(Ok(answer)) => answers::read(&Ok(answer)),
            Some(Err(status)) if status.code() == Code::NotFound => {
                (Some(target), Outcome::Ok { answer: Answer::Task { task: None, index: 0 } })
            }
            other => (Some(target), Outcome::Fail { error: why(other) }),
        };
        self.hub.journal.complete(op, master, outcome);
    }

    async fn read_workers(&self) {
        let act: Act<pb::ListWorkersResponse> = Arc::new(|bare| {
            let services = WorkersApi::new(Edge::new(bare.node.clone()));
            Box::pin(async move { inner(services.list(Request::new(pb::ListWorkersRequest::default())).await) })
        });
        let op = self.hub.journal.invoke(self.process, Call::ReadWorkers {});
        let (target, answer) = self.look(act).await;
        let (master, outcome) = match answer {
            Some(Ok(answer)) => answers::registry(&Ok(answer)),
            other => (Some(target), Outcome::Fail { error: why(other) }),
        };
        self.hub.journal.complete(op, master, outcome);
    }

    async fn drain_for_a_while(&self) {
        let worker = format!("w{}", 1 + self.numbers.below(self.hub.plan.workers));
        self.set_mode(&worker, pb::WorkerMode::Drain, "drain").await;
        tokio::time::sleep(Duration::from_millis(self.numbers.below(DRAINED_MS))).await;
        self.set_mode(&worker, pb::WorkerMode::Active, "active").await;
    }

    /// Steers a worker. Returns whether it surely happened.
    pub async fn set_mode(&self, worker: &str, mode: pb::WorkerMode, word: &str) -> bool {
        let id = self.numbers.next_id();
        let name = worker.to_owned();
        let act: Act<pb::WorkerResponse> = Arc::new(move |bare| {
            let worker = Some(pb::WorkerRef { id: 0, name: name.clone() });
            let request =
                pb::SetModeRequest { request_id: id.to_vec().into(), worker, mode: mode.into(), deadline_ms: 0 };
            let services = WorkersApi::new(Edge::new(bare.node.clone()));
            Box::pin(async move { inner(services.set_mode(Request::new(request)).await) })
        });
        let call = Call::SetMode { request: hex(&id), worker: worker.to_owned(), mode: word.to_owned() };
        let outcome = self.change(call, act, |done| answers::done(done.as_ref().map(|done| done.log_index))).await;
        matches!(outcome, Outcome::Ok { .. })
    }

    /// Reads every task, page by page, each as if it had been read alone. False if a page could not be read.
    pub async fn read_all(&self) -> bool {
        let mut token = String::new();
        loop {
            let page = Some(pb::Page { page_size: 1_000, page_token: token.clone() });
            let act: Act<pb::ListTasksResponse> = Arc::new(move |bare| {
                let request = pb::ListTasksRequest { page: page.clone(), ..pb::ListTasksRequest::default() };
                Box::pin(async move { inner(tasks(&bare).list(Request::new(request)).await) })
            });
            let invoked_us = self.hub.journal.now_us();
            let (_, Some(Ok(answer))) = self.look(act).await else { return false };
            for (task, (master, outcome)) in answers::page(&answer) {
                self.hub.journal.read_of_page(self.process, invoked_us, task, master, outcome);
            }
            token = answer.next_page_token;
            if token.is_empty() {
                return true;
            }
        }
    }
}

/// From so many tasks on a group is a flood. Its naps are short: what floods ask of a handful of slots has to fit into the time
/// that a queue may take to drain.
const FLOOD: u32 = 20;
/// Longest nap of a flood, in ms.
const FLOOD_NAP_MS: u64 = 200;

/// `count` naps of up to `most_ms` (now and then much longer).
pub fn group(numbers: &SeededEntropy, count: u32, most_ms: u64) -> pb::TaskGroup {
    let long = numbers.below(25) == 0;
    let drawn = if long { 3_000 + numbers.below(5_000) } else { numbers.below(most_ms) };
    let ms = if count < FLOOD { drawn } else { drawn % FLOOD_NAP_MS } as u16;
    let fails = u8::from(numbers.below(12) == 0);
    let payload = [&ms.to_be_bytes()[..], &[fails]].concat();
    let on_partition = i32::from(numbers.below(3) == 0);
    let spec = pb::TaskSpec {
        work: Some(pb::task_spec::Work::Handler(pb::Handler { name: "nap".to_owned(), payload: payload.into() })),
        priority: numbers.below(3) as i32,
        max_attempts: 1 + numbers.below(5) as u32,
        backoff: Some(pb::Backoff { initial_ms: 100, max_ms: 2_000, factor: 2.0, jitter: 0.2 }),
        retry_on: Some(pb::RetryOn {
            worker_lost: true,
            timeout: true,
            any_exit_code: numbers.below(2) == 0,
            exit_codes: Vec::new(),
        }),
        on_partition,
        ..pb::TaskSpec::default()
    };
    pb::TaskGroup { spec: Some(spec), count }
}

fn tasks(bare: &Bare) -> TasksApi {
    TasksApi::new(Edge::new(bare.node.clone()))
}

fn inner<T>(answer: Result<tonic::Response<T>, Status>) -> Result<T, Status> {
    answer.map(tonic::Response::into_inner)
}

/// The caller's fault: nothing happened, and repeating it changes nothing.
fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::NotFound)
}

fn why<T>(answer: Option<Result<T, Status>>) -> String {
    match answer {
        Some(Err(status)) => status.message().to_owned(),
        _ => "no answer".to_owned(),
    }
}

fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

/// Follows the event stream until the run is over; changes the master at times.
pub async fn follow(hub: Arc<Hub>, follower: u64) {
    let numbers = SeededEntropy::new(hub.plan.seed ^ (follower << 24) ^ 0xF0110);
    let mut next = 1;
    while !hub.is_over() {
        let known = hub.known();
        let master = known[numbers.below(known.len() as u64) as usize];
        let until = Instant::now() + Duration::from_millis(1_000 + numbers.below(12_000));
        next = follow_at(&hub, follower, master, next, until).await;
        tokio::time::sleep(Duration::from_millis(20 + numbers.below(100))).await;
    }
}

/// At one master; returns the next index that is wanted.
async fn follow_at(hub: &Arc<Hub>, follower: u64, master: u64, mut next: u64, until: Instant) -> u64 {
    let place = CLIENTS_AT + 500 + follower;
    let Some((life, bare)) = hub.life(master).and_then(|life| Some((life.clone(), life.up()?))) else { return next };
    let (down, mut mouth) = pipe::<pb::EventBatch>(hub.links.clone(), master, place);
    if !hub.links.carry(place, master).await {
        return next;
    }
    let request = pb::SubscribeRequest { from_index: next, oldest: false, follow: true };
    life.scope.spawn(async move {
        let Ok(stream) = EventsApi::new(bare.node.clone()).subscribe(Request::new(request)).await else { return };
        let mut stream = stream.into_inner();
        while let Some(Ok(batch)) = stream.next().await {
            if !down.send(batch) {
                return;
            }
        }
    });
    while let Ok(Some(batch)) = tokio::time::timeout_at(until, mouth.next()).await {
        if let Some(record) = told(hub, follower, master, &batch) {
            hub.journal.push(Record::Events(record));
        }
        next = next.max(batch.index + 1).max(batch.gap_to + 1);
        hub.heard.lock().insert(follower, next);
        if hub.is_over() {
            break;
        }
    }
    next
}

fn told(hub: &Hub, follower: u64, master: u64, batch: &pb::EventBatch) -> Option<Events> {
    let (index, events) = match batch.gap_to {
        0 if batch.events.is_empty() => return None,
        0 => (batch.index, batch.events.iter().map(answers::event).collect()),
        to => (to, vec![Event::Gap { from: batch.gap_from, to }]),
    };
    Some(Events { follower, at_us: hub.journal.now_us(), master: Some(master), index, term: batch.term, events })
}
