//! Model workers: what the leader sees of a worker, spoken to the product's own session code over the links of the run.
//!
//! What always holds: Hello tells every held token; an end is reported until it is acknowledged; a newer leader is followed
//! at once; the lease counts from when a heartbeat was sent and is a fifth shorter than the master's. Attempts run on the
//! worker's machine (`machine` below), not in its process: a frozen process does not stop them, their keeper does when the
//! lease ends (for `on_partition = stop`). A killed worker's attempts die with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::Mutex;
use steersman_evidence::record::{FencedWrite, Interval, Record};
use steersman_proto::v1::{OnPartition, Outcome, TaskSpec, task_spec};
use steersman_proto::worker::v1 as pb;
use steersman_proto::worker::v1::master_message::Kind as Heard;
use steersman_proto::worker::v1::worker_message::Kind as Say;
use steersman_world::Entropy as _;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::hub::{Asked, Hub};
use super::links::{Mouth, Pipe, Place, pipe};
use super::plan::WORKERS_AT;
use crate::scope::Scope;

/// The worker's lease is a fifth shorter than the master's, as the product's worker has it.
const MARGIN_PERCENT: u32 = 20;
/// As the product's worker.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// Ends that were not acknowledged are told again after so long.
const REPEAT: Duration = Duration::from_millis(500);
/// A look at who leads, between two masters.
const LOOK: Duration = Duration::from_millis(250);

/// An attempt on this machine.
struct Attempt {
    task: u64,
    exclusive: bool,
    began_us: u64,
    stop: Arc<Notify>,
    stopped_as: Option<Outcome>,
    started_told: bool,
    ended: Option<(Outcome, u64)>,
    told: Option<Instant>,
}

#[derive(Default)]
struct Book {
    incarnation: u64,
    /// Sessions asked for.
    openings: u64,
    held: BTreeMap<u64, Attempt>,
    lease_until: Option<Instant>,
    lease: Duration,
    term: u64,
    leader: Option<u64>,
    /// Reports are held back for so many ms.
    late_ms: u64,
}

/// One worker.
pub struct Worker {
    hub: Arc<Hub>,
    /// Where it is.
    pub place: Place,
    /// Its name.
    pub name: String,
    capacity: u32,
    book: Mutex<Book>,
    bell: Notify,
    scope: Mutex<Option<Arc<Scope>>>,
}

/// The register that attempts write to: it takes only rising tokens.
#[derive(Default)]
pub struct Register(Mutex<BTreeMap<u64, u64>>);

impl Register {
    fn write(&self, hub: &Hub, key: u64, token: u64) {
        let mut kept = self.0.lock();
        let highest = kept.entry(key).or_default();
        let accepted = token > *highest;
        *highest = token.max(*highest);
        hub.journal.push(Record::FencedWrite(FencedWrite { at_us: hub.journal.now_us(), key, token, accepted }));
    }
}

impl Worker {
    /// Worker `number`, not yet started.
    pub fn new(hub: &Arc<Hub>, number: u64) -> Arc<Self> {
        let capacity = 2 + hub.numbers.below(4) as u32;
        Arc::new(Self {
            hub: hub.clone(),
            place: WORKERS_AT + number,
            name: format!("w{number}"),
            capacity,
            book: Mutex::default(),
            bell: Notify::new(),
            scope: Mutex::new(None),
        })
    }

    /// Starts its process, as a new incarnation, unless it runs.
    pub fn start(self: &Arc<Self>) {
        let mut scope = self.scope.lock();
        if scope.is_some() {
            return;
        }
        let process = Scope::new();
        *scope = Some(process.clone());
        let incarnation = self.book.lock().incarnation + 1;
        *self.book.lock() = Book { incarnation, ..Book::default() };
        let me = self.clone();
        process.spawn(async move { me.run().await });
    }

    /// Its machine dies, with everything on it.
    pub fn kill(&self) {
        let Some(scope) = self.scope.lock().take() else { return };
        scope.kill();
        let held = std::mem::take(&mut self.book.lock().held);
        for (token, attempt) in held.into_iter().filter(|(_, attempt)| attempt.ended.is_none()) {
            self.interval(token, &attempt);
        }
    }

    /// Its process stands still; its attempts go on.
    pub fn freeze(&self, frozen: bool) {
        if let Some(scope) = &*self.scope.lock() {
            if frozen { scope.freeze() } else { scope.thaw() }
        }
    }

    /// From now on its reports come so late.
    pub fn report_late(&self, ms: u64) {
        self.book.lock().late_ms = ms;
    }

    fn interval(&self, token: u64, attempt: &Attempt) {
        let (now, worker) = (self.hub.journal.now_us(), self.name.clone());
        let Attempt { task, exclusive, began_us: from_us, .. } = *attempt;
        let interval = Interval { task, token, worker, exclusive, from_us, to_us: Some(now), seen_us: now };
        self.hub.journal.push(Record::Interval(interval));
    }

    async fn run(self: Arc<Self>) {
        loop {
            if let Some(leader) = self.find_leader().await {
                let why = self.converse(leader).await;
                tracing::debug!(worker = self.name, leader, why, "the session ended");
                self.book.lock().leader = None;
            }
            tokio::time::sleep(Duration::from_millis(20 + self.hub.numbers.below(80))).await;
        }
    }

    /// Asks one master after the other who leads.
    async fn find_leader(&self) -> Option<u64> {
        let known = self.hub.known();
        let first = self.hub.numbers.below(known.len() as u64) as usize;
        let mut best = None;
        for at in 0..known.len() {
            let view = self.look(known[(first + at) % known.len()]).await;
            best = best.max(view);
        }
        let (term, leader) = best?;
        let mut book = self.book.lock();
        book.term = book.term.max(term);
        Some(leader)
    }

    /// The term and leader that a master knows.
    async fn look(&self, master: u64) -> Option<(u64, u64)> {
        let limit = Duration::from_millis(300);
        let act = |bare: Arc<steersman_master::bare::Bare>| -> futures::future::BoxFuture<'static, _> {
            Box::pin(async move {
                let view = bare.node.leader_watch().borrow().clone();
                view.leader.map(|leader| (view.term, leader.id))
            })
        };
        match self.hub.ask(self.place, master, limit, act).await {
            Asked::Answer(view) => view,
            _ => None,
        }
    }

    /// One session, until it ends or some master knows a newer leader. Returns why it ended.
    async fn converse(self: &Arc<Self>, leader: u64) -> &'static str {
        self.book.lock().leader = Some(leader);
        tokio::select! {
            biased;
            why = self.watch_terms() => why,
            why = self.talk(leader) => why,
        }
    }

    async fn talk(self: &Arc<Self>, leader: u64) -> &'static str {
        let Some(life) = self.hub.life(leader) else { return "nobody there" };
        let Some(bare) = life.up() else { return "not up" };
        let links = &self.hub.links;
        let (up, heard) = pipe::<pb::WorkerMessage>(links.clone(), self.place, leader);
        let (down, mut mouth) = pipe::<Result<pb::MasterMessage, tonic::Status>>(links.clone(), leader, self.place);
        life.scope.spawn(serve(bare, heard, down));
        let hello_sent = Instant::now();
        up.send(say(Say::Hello(self.hello())));
        // As the product's worker: at most half of the lease, once that is known.
        let lease = Some(self.book.lock().lease).filter(|lease| !lease.is_zero());
        let patience = lease.map_or(WELCOME_TIMEOUT, |lease| (lease / 2).min(WELCOME_TIMEOUT));
        let welcome = match tokio::time::timeout(patience, mouth.next()).await {
            Ok(Some(Ok(pb::MasterMessage { kind: Some(Heard::Welcome(welcome)) }))) => welcome,
            Ok(Some(Err(_))) => return "refused",
            Ok(_) => return "broken",
            Err(_) => return "no welcome",
        };
        self.welcomed(leader, &welcome, hello_sent);
        let beat = Duration::from_millis(u64::from(welcome.heartbeat_ms).max(50));
        Talking { me: self.clone(), up, beat }.run(mouth).await
    }

    fn hello(&self) -> pb::Hello {
        let mut book = self.book.lock();
        book.openings += 1;
        let mut uid = vec![0; 16];
        uid[15] = (self.place - WORKERS_AT) as u8;
        pb::Hello {
            protocol: 1,
            name: self.name.clone(),
            uid: uid.into(),
            incarnation: book.incarnation,
            opening: book.openings,
            host: self.name.clone(),
            port: 1,
            capacity: self.capacity,
            held_tokens: book.held.keys().copied().collect(),
            version: "model".to_owned(),
            heartbeat_ms: self.hub.plan.heartbeat_ms as u32,
            ..pb::Hello::default()
        }
    }

    fn welcomed(&self, leader: u64, welcome: &pb::Welcome, sent: Instant) {
        let mut book = self.book.lock();
        book.leader = Some(leader);
        book.term = book.term.max(welcome.term);
        book.lease = Duration::from_millis(u64::from(welcome.lease_ms));
        renew(&mut book, sent);
        for attempt in book.held.values_mut() {
            attempt.told = None;
        }
        drop(book);
        for token in &welcome.drop_tokens {
            let dropped = self.book.lock().held.remove(token);
            if let Some(attempt) = dropped {
                if attempt.ended.is_none() {
                    self.interval(*token, &attempt);
                }
                attempt.stop.notify_one();
            }
        }
    }

    /// Returns when some master knows a newer leader.
    async fn watch_terms(&self) -> &'static str {
        loop {
            tokio::time::sleep(LOOK).await;
            let known = self.hub.known();
            let master = known[self.hub.numbers.below(known.len() as u64) as usize];
            if let Some((term, leader)) = self.look(master).await {
                let book = self.book.lock();
                if term > book.term || (term == book.term && Some(leader) != book.leader) {
                    return "a newer leader";
                }
            }
        }
    }

    /// Assignments: what is held already is a repetition.
    fn assigned(self: &Arc<Self>, assign: pb::AssignTasks) {
        for one in assign.assignments {
            let Some(spec) = assign.specs.get(one.spec as usize) else { continue };
            let exclusive = spec.on_partition == OnPartition::Stop as i32;
            let stop = Arc::new(Notify::new());
            let attempt = Attempt {
                task: one.task_id,
                exclusive,
                began_us: self.hub.journal.now_us(),
                stop: stop.clone(),
                stopped_as: None,
                started_told: false,
                ended: None,
                told: None,
            };
            let mut book = self.book.lock();
            if book.held.contains_key(&one.token) {
                continue;
            }
            book.held.insert(one.token, attempt);
            let incarnation = book.incarnation;
            drop(book);
            tokio::spawn(machine(self.clone(), incarnation, one.token, work(spec), stop));
        }
        self.bell.notify_one();
    }

    fn cancelled(&self, token: u64) {
        let mut book = self.book.lock();
        if let Some(attempt) = book.held.get_mut(&token) {
            attempt.stopped_as.get_or_insert(Outcome::Cancelled);
            attempt.stop.notify_one();
        }
    }

    fn acknowledged(&self, ack: &pb::ReportsAck) {
        let mut book = self.book.lock();
        for token in &ack.tokens {
            if book.held.get(token).is_some_and(|attempt| attempt.ended.is_some()) {
                book.held.remove(token);
            }
        }
    }

    /// What is to be told now, and marks it as told.
    fn news(&self) -> Vec<pb::Report> {
        let mut book = self.book.lock();
        let now = Instant::now();
        let mut reports = Vec::new();
        for (token, attempt) in &mut book.held {
            let (token, task_id) = (*token, attempt.task);
            match attempt.ended {
                None if !attempt.started_told => {
                    attempt.started_told = true;
                    reports.push(pb::Report { token, task_id, ended: None });
                }
                Some((outcome, ran_ms)) if attempt.told.is_none_or(|told| told + REPEAT <= now) => {
                    attempt.told = Some(now);
                    let exit_code = i32::from(outcome == Outcome::Exited);
                    let ended = pb::Ended { outcome: outcome.into(), exit_code, ran_ms, ..pb::Ended::default() };
                    reports.push(pb::Report { token, task_id, ended: Some(ended) });
                }
                _ => {}
            }
        }
        reports
    }
}

fn renew(book: &mut Book, sent: Instant) {
    let until = sent + book.lease * (100 - MARGIN_PERCENT) / 100;
    if book.lease_until.is_none_or(|old| old < until) {
        book.lease_until = Some(until);
    }
}

fn say(kind: Say) -> pb::WorkerMessage {
    pb::WorkerMessage { kind: Some(kind) }
}

/// The leader's side: the product's own session, fed from the pipe.
async fn serve(
    bare: Arc<steersman_master::bare::Bare>,
    heard: Mouth<pb::WorkerMessage>,
    down: Pipe<Result<pb::MasterMessage, tonic::Status>>,
) {
    let incoming = futures::stream::unfold(heard, |mut heard| async move { Some((Ok(heard.next().await?), heard)) });
    match steersman_master::grpc::converse(&bare.node, Box::pin(incoming)).await {
        Err(status) => {
            down.send(Err(status));
        }
        Ok(mut outgoing) => {
            while let Some(message) = outgoing.next().await {
                if !down.send(message) {
                    return;
                }
            }
        }
    }
}

/// How long an attempt runs and how it ends, from its payload: ms in two bytes, then 1 for a failure.
fn work(spec: &TaskSpec) -> (Duration, Outcome) {
    let payload = match &spec.work {
        Some(task_spec::Work::Handler(handler)) => handler.payload.clone(),
        _ => bytes::Bytes::new(),
    };
    let ms = payload.get(..2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    let outcome = if payload.get(2) == Some(&1) { Outcome::HandlerError } else { Outcome::Succeeded };
    (Duration::from_millis(u64::from(ms)), outcome)
}

/// One attempt on the worker's machine, with its keeper.
async fn machine(me: Arc<Worker>, incarnation: u64, token: u64, work: (Duration, Outcome), stop: Arc<Notify>) {
    let began = Instant::now();
    let ends = began + work.0;
    let outcome = loop {
        let Some((exclusive, lease_until)) = me.peek(incarnation, token) else { return };
        let now = Instant::now();
        if exclusive && lease_until.is_none_or(|until| until <= now) {
            if now == began {
                return me.declined(token);
            }
            break Outcome::PartitionStop;
        }
        if now >= ends {
            break work.1;
        }
        let until = if exclusive { lease_until.map_or(ends, |until| until.min(ends)) } else { ends };
        tokio::select! {
            biased;
            () = stop.notified() => {
                let stopped = me.book.lock().held.get(&token).and_then(|attempt| attempt.stopped_as);
                let Some(outcome) = stopped else { return };
                break outcome;
            }
            () = tokio::time::sleep_until(until) => {}
        }
    };
    let mut book = me.book.lock();
    if book.incarnation != incarnation {
        return;
    }
    let Some(attempt) = book.held.get_mut(&token) else { return };
    attempt.ended = Some((outcome, began.elapsed().as_millis() as u64));
    me.interval(token, attempt);
    let task = attempt.task;
    drop(book);
    me.hub.register.write(&me.hub, task, token);
    me.bell.notify_one();
}

impl Worker {
    /// An assignment that came after the lease was over: it is not begun, and that is told.
    fn declined(&self, token: u64) {
        if let Some(attempt) = self.book.lock().held.get_mut(&token) {
            attempt.ended = Some((Outcome::PartitionStop, 0));
        }
        self.bell.notify_one();
    }

    fn peek(&self, incarnation: u64, token: u64) -> Option<(bool, Option<Instant>)> {
        let book = self.book.lock();
        let attempt = book.held.get(&token).filter(|_| book.incarnation == incarnation)?;
        Some((attempt.exclusive, book.lease_until))
    }
}

/// A session that is open.
struct Talking {
    me: Arc<Worker>,
    up: Pipe<pb::WorkerMessage>,
    beat: Duration,
}

impl Talking {
    async fn run(self, mut mouth: Mouth<Result<pb::MasterMessage, tonic::Status>>) -> &'static str {
        let mut sent: BTreeMap<u64, Instant> = BTreeMap::new();
        let (mut seq, mut next_beat) = (0_u64, Instant::now());
        let mut next_news = Instant::now();
        // As the product's worker: soon enough to open another session within the lease.
        let lease = self.me.book.lock().lease;
        let silence = (self.beat * 3).min(lease / 2).max(self.beat * 3 / 2).max(Duration::from_millis(500));
        loop {
            let now = Instant::now();
            if sent.values().next().is_some_and(|oldest| now.duration_since(*oldest) > silence) {
                return "heartbeats are not answered";
            }
            if now >= next_beat {
                seq += 1;
                sent.insert(seq, now);
                next_beat = now + self.beat;
                if !self.up.send(say(Say::Heartbeat(pb::Heartbeat { seq, load: None }))) {
                    return "the session is gone";
                }
            }
            if now >= next_news {
                let reports = self.me.news();
                if !reports.is_empty() {
                    self.up.send(say(Say::Reports(pb::Reports { reports })));
                }
                next_news = now + REPEAT / 2;
            }
            tokio::select! {
                biased;
                message = mouth.next() => match message {
                    Some(Ok(message)) => self.hear(message, &mut sent),
                    Some(Err(_)) => return "the leader ended it",
                    None => return "the connection broke",
                },
                () = self.me.bell.notified() => {
                    let late = self.me.book.lock().late_ms;
                    next_news = Instant::now() + Duration::from_millis(late);
                }
                () = tokio::time::sleep_until(next_beat.min(next_news)) => {}
            }
        }
    }

    fn hear(&self, message: pb::MasterMessage, sent: &mut BTreeMap<u64, Instant>) {
        match message.kind {
            Some(Heard::HeartbeatAck(ack)) => {
                if let Some(at) = sent.remove(&ack.seq) {
                    renew(&mut self.me.book.lock(), at);
                    *sent = sent.split_off(&ack.seq);
                }
            }
            Some(Heard::Assign(assign)) => self.me.assigned(assign),
            Some(Heard::Cancel(cancel)) => cancel.tokens.iter().for_each(|token| self.cancel(*token)),
            Some(Heard::ReportsAck(ack)) => self.me.acknowledged(&ack),
            Some(Heard::UpdateConfig(config)) => {
                self.up.send(say(Say::ConfigApplied(pb::ConfigApplied { version: config.version })));
            }
            _ => {}
        }
    }

    /// What this worker never had has surely ended: told at once.
    fn cancel(&self, token: u64) {
        if self.me.book.lock().held.contains_key(&token) {
            return self.me.cancelled(token);
        }
        let ended = pb::Ended { outcome: Outcome::Cancelled.into(), ..pb::Ended::default() };
        let reports = vec![pb::Report { token, task_id: 0, ended: Some(ended) }];
        self.up.send(say(Say::Reports(pb::Reports { reports })));
    }
}
