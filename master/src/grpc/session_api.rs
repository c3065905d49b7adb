//! The worker's door: `steersman.worker.v1.Session`. Opens sessions through the log, then carries both directions.
//!
//! What always holds: a session is open only after its `OpenSession` was committed in this reign; it ends with the reign.
//! A report is acknowledged after it is committed, never before. Heartbeats touch memory only, and are answered only by a leader
//! that a quorum has confirmed: the answer renews the worker's lease, which must end before that of any newer leader.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{Stream, StreamExt as _};
use steersman_proto::worker::v1 as pb;
use steersman_proto::worker::v1::master_message::Kind as Say;
use steersman_proto::worker::v1::session_server::{Session as SessionRpc, SessionServer};
use steersman_proto::worker::v1::worker_message::Kind as Hear;
use steersman_state::command::{Command, OpenSession};
use steersman_state::effect::{Effect, Reply, Run, SessionOpened};
use steersman_state::ids::WorkerId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::status::{not_leader, status_of_propose, status_of_rejection};
use crate::leader::Reign;
use crate::leader::streams::{AnswerFrom, Outgoing, Session};
use crate::node::{Node, QuorumClock};

/// A worker that connects says hello at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Effects packed into one message at most.
const PACK_MAX: usize = 1_024;
/// A heartbeat may have arrived so much later than a quorum was last asked: this part of the lease. It is half of the margin by
/// which the worker's lease is shorter than ours; the other half is for clocks that run at other rates.
const QUORUM_SHARE: u32 = 10;
/// Between two looks whether a quorum has answered meanwhile: a share of Raft's heartbeat.
const CONFIRMED_LOOK_EVERY: Duration = Duration::from_millis(10);
/// Version of the session protocol.
const PROTOCOL: u32 = 1;

/// What goes to a worker.
pub type Outbound = Pin<Box<dyn Stream<Item = Result<pb::MasterMessage, Status>> + Send>>;

/// Serves workers' sessions.
pub struct SessionApi {
    node: Arc<Node>,
}

impl SessionApi {
    /// The service, with the node's message limits.
    pub fn server(node: Arc<Node>) -> SessionServer<Self> {
        let limit = node.config.limits.message_bytes_max as usize;
        SessionServer::new(Self { node }).max_decoding_message_size(limit).max_encoding_message_size(limit * 4)
    }
}

#[tonic::async_trait]
impl SessionRpc for SessionApi {
    type OpenStream = Outbound;

    async fn open(&self, request: Request<Streaming<pb::WorkerMessage>>) -> Result<Response<Outbound>, Status> {
        converse(&self.node, request.into_inner()).await.map(Response::new)
    }
}

/// One session from its Hello on: what the worker says comes in by `incoming`, the stream that is returned goes to it.
///
/// # Errors
/// Who leads, if this master does not; what is wrong with the Hello; why its registration was refused.
pub async fn converse(node: &Node, mut incoming: impl FromWorker) -> Result<Outbound, Status> {
    let reign = reign(node).await?;
    let hello = first_word(&mut incoming).await?;
    let (opening, opened) = register(node, &reign, hello).await?;
    let (session, queue) = Session::new(opened.worker, opened.session);
    let welcome = welcome(node, &reign, &opened);
    session.send(Outgoing::Message(Say::Welcome(welcome)));
    reign.open_session(session.clone());
    // Registered first, looked up second: an effect that comes in between is sent twice rather than never.
    let now = node.world.clock.now();
    for effect in node.state.read().outstanding(opened.worker) {
        #[cfg(feature = "seeded-bugs")]
        if steersman_bugs::planted("outstanding-forgotten") {
            break;
        }
        session.send(Outgoing::Effect(effect, now));
    }
    let (close, closed) = oneshot::channel();
    let lease = Duration::from_millis(u64::from(opened.config.lease_ms));
    let (reign_too, quorum, incarnation) = (reign.clone(), node.quorum_clock(), opening.incarnation);
    let listener = Listener { reign: reign_too, session, incarnation, quorum, lease };
    reign.office().spawner.spawn(listener.run(incoming, close));
    Ok(outbound(reign, queue, closed))
}

/// The reign of this master. Workers hear of a new leader before its reign has begun: they are not sent away for that moment.
async fn reign(node: &Node) -> Result<Arc<Reign>, Status> {
    if node.reign().is_none() && node.leader_hint().is_none() {
        node.await_leader().await;
    }
    node.reign().ok_or_else(|| not_leader(node.leader_hint().as_ref()))
}

/// What a worker says, in order, until its stream ends or breaks.
pub trait FromWorker: Stream<Item = Result<pb::WorkerMessage, Status>> + Send + Unpin + 'static {}

impl<S: Stream<Item = Result<pb::WorkerMessage, Status>> + Send + Unpin + 'static> FromWorker for S {}

async fn first_word(incoming: &mut impl FromWorker) -> Result<pb::Hello, Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, incoming.next())
        .await
        .map_err(|_| Status::deadline_exceeded(format!("no Hello within {HELLO_TIMEOUT:?}")))?
        .transpose()?;
    match first.and_then(|message| message.kind) {
        Some(Hear::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("a session begins with Hello")),
    }
}

async fn register(node: &Node, reign: &Reign, hello: pb::Hello) -> Result<(OpenSession, SessionOpened), Status> {
    if hello.protocol != PROTOCOL {
        let message = format!("session protocol {PROTOCOL} is spoken here, the worker speaks {}", hello.protocol);
        return Err(super::status::status(steersman_proto::codes::WRONG_VERSION, message));
    }
    let cluster = node.cluster_id();
    if !hello.cluster_id.is_empty() && hello.cluster_id != cluster {
        let message = format!("this is cluster {cluster:?}; the worker belongs to {:?}", hello.cluster_id);
        return Err(super::status::status(steersman_proto::codes::WRONG_CLUSTER, message));
    }
    let opening = convert::open_session_in(hello, node.config.workers.heartbeat_ms)?;
    let command = Command::OpenSession(opening.clone());
    let committed = reign.office().proposer.propose(None, command).await.map_err(|error| status_of_propose(&error))?;
    match committed.reply {
        Reply::SessionOpened(opened) => Ok((opening, opened)),
        Reply::Rejected(rejection) => Err(status_of_rejection(&rejection)),
        other => Err(Status::internal(format!("unexpected answer to OpenSession: {other:?}"))),
    }
}

fn welcome(node: &Node, reign: &Reign, opened: &SessionOpened) -> pb::Welcome {
    let config = &opened.config;
    pb::Welcome {
        worker_id: opened.worker.0,
        cluster_id: node.cluster_id(),
        term: reign.term,
        leader_id: node.id,
        heartbeat_ms: config.heartbeat_ms,
        lease_ms: config.lease_ms,
        capacity: config.capacity,
        labels: convert::labels_out(&config.labels),
        drop_tokens: opened.drop.iter().map(|token| token.0).collect(),
        masters: node.status().members.into_iter().map(|member| convert::address_out(&member.addr)).collect(),
        config_version: config.version,
    }
}

/// The stream to the worker: packed effects and messages, until the session closes or the reign ends.
fn outbound(reign: Arc<Reign>, queue: mpsc::UnboundedReceiver<Outgoing>, closed: oneshot::Receiver<()>) -> Outbound {
    let sender = Sender { reign, queue, closed, done: false };
    Box::pin(futures::stream::unfold(sender, Sender::next).flat_map(futures::stream::iter))
}

struct Sender {
    reign: Arc<Reign>,
    queue: mpsc::UnboundedReceiver<Outgoing>,
    closed: oneshot::Receiver<()>,
    done: bool,
}

impl Sender {
    async fn next(mut self) -> Option<(Vec<Result<pb::MasterMessage, Status>>, Self)> {
        if self.done {
            return None;
        }
        let mut chunk = Vec::new();
        tokio::select! {
            biased;
            () = self.reign.over() => {
                self.done = true;
                return Some((vec![Err(not_leader(None))], self));
            }
            _ = &mut self.closed => return None,
            taken = self.queue.recv_many(&mut chunk, PACK_MAX) => if taken == 0 { return None },
        }
        self.count(&chunk);
        // A worker that is no longer believed must not go on with acknowledged heartbeats: its stream ends, and its next
        // Hello tells it what to drop.
        self.done = chunk.iter().any(|outgoing| matches!(outgoing, Outgoing::Effect(Effect::EndSession { .. }, _)));
        let mut messages: Vec<_> = pack(chunk).into_iter().map(Ok).collect();
        if self.done {
            messages.push(Err(Status::aborted("this worker was declared gone: open a new session")));
        }
        Some((messages, self))
    }
}

impl Sender {
    /// Tells the metrics what goes out now, and how long the oldest of it waited since it was applied.
    fn count(&self, chunk: &[Outgoing]) {
        let run = |outgoing: &Outgoing| match outgoing {
            Outgoing::Effect(Effect::StartRun(_), applied) => Some(*applied),
            _ => None,
        };
        let mut runs = chunk.iter().filter_map(run);
        if let Some(oldest) = runs.next() {
            let office = self.reign.office();
            let now = office.world.clock.now();
            self.reign.beginnings.dispatched(now);
            office.metrics.dispatch(now - oldest);
            office.metrics.runs_sent(1 + runs.count() as u64);
        }
    }
}

/// Turns queued things into as few messages as possible, in order.
fn pack(chunk: Vec<Outgoing>) -> Vec<pb::MasterMessage> {
    let mut messages = Vec::new();
    let mut assign = pb::AssignTasks::default();
    let mut last_spec: Option<Arc<steersman_state::task::TaskSpec>> = None;
    for outgoing in chunk {
        match outgoing {
            Outgoing::Effect(Effect::StartRun(run), _) => {
                if !last_spec.as_ref().is_some_and(|last| Arc::ptr_eq(last, &run.spec)) {
                    assign.specs.push(convert::spec_out(&run.spec));
                    last_spec = Some(run.spec.clone());
                }
                assign.assignments.push(assignment(&run, assign.specs.len() as u32 - 1));
            }
            other => {
                flush(&mut messages, &mut assign, &mut last_spec);
                messages.extend(single(other).map(|kind| pb::MasterMessage { kind: Some(kind) }));
            }
        }
    }
    flush(&mut messages, &mut assign, &mut last_spec);
    messages
}

fn assignment(run: &Run, spec: u32) -> pb::Assignment {
    let (task_id, token, array_index) = (run.task.0, run.token.0, u64::from(run.array_index));
    pb::Assignment { task_id, token, attempt: run.attempt, array_index, spec }
}

fn flush(
    messages: &mut Vec<pb::MasterMessage>,
    assign: &mut pb::AssignTasks,
    last_spec: &mut Option<Arc<steersman_state::task::TaskSpec>>,
) {
    if !assign.assignments.is_empty() {
        messages.push(pb::MasterMessage { kind: Some(Say::Assign(std::mem::take(assign))) });
        *last_spec = None;
    }
}

fn single(outgoing: Outgoing) -> Option<Say> {
    match outgoing {
        Outgoing::Message(kind) => Some(kind),
        Outgoing::Effect(Effect::CancelRun { token, .. }, _) => {
            Some(Say::Cancel(pb::CancelTasks { tokens: vec![token.0] }))
        }
        Outgoing::Effect(Effect::PushConfig { config, .. }, _) => Some(Say::UpdateConfig(pb::UpdateConfig {
            version: config.version,
            capacity: config.capacity,
            heartbeat_ms: config.heartbeat_ms,
            labels: convert::labels_out(&config.labels),
        })),
        Outgoing::Effect(Effect::ShutdownWorker { now, .. }, _) => {
            Some(Say::Shutdown(pb::Shutdown { now, deadline_ms: 0 }))
        }
        // EndSession ends the stream, see Sender::next; StartRun is packed.
        Outgoing::Effect(Effect::EndSession { .. } | Effect::StartRun(_), _) => None,
    }
}

/// Hears one worker out.
struct Listener {
    reign: Arc<Reign>,
    session: Arc<Session>,
    incarnation: u64,
    quorum: QuorumClock,
    lease: Duration,
}

impl Listener {
    async fn run(self, mut incoming: impl FromWorker, close: oneshot::Sender<()>) {
        let me = Arc::new(self);
        loop {
            let message = tokio::select! {
                message = incoming.next() => message,
                () = me.reign.over() => break,
            };
            let Some(Ok(message)) = message else { break };
            #[cfg(feature = "seeded-bugs")]
            if steersman_bugs::planted("heartbeats-unheard") {
                message.kind.into_iter().for_each(|kind| me.hear(kind));
                continue;
            }
            me.reign.heard(me.session.worker);
            if let Some(kind) = message.kind {
                me.hear(kind);
            }
        }
        drop(close);
        me.reign.close_session(&me.session);
        let (worker, incarnation, session) = (me.session.worker, me.incarnation, me.session.number);
        let _ = me.reign.office().proposer.propose(None, Command::CloseSession { worker, incarnation, session }).await;
    }

    fn hear(self: &Arc<Self>, kind: Hear) {
        match kind {
            Hear::Heartbeat(heartbeat) => self.heartbeat(heartbeat),
            Hear::Reports(reports) => self.reign.spawn(self.clone().reports(reports)),
            Hear::Health(reply) => self.session.answered(reply.nonce, AnswerFrom::Health(reply)),
            Hear::Log(reply) => self.session.answered(reply.nonce, AnswerFrom::Log(reply)),
            Hear::Goodbye(goodbye) => self.reign.spawn(self.clone().goodbye(goodbye)),
            Hear::ConfigApplied(applied) => {
                tracing::debug!(worker = %self.session.worker, version = applied.version, "config applied");
            }
            Hear::Hello(_) => tracing::warn!(worker = %self.session.worker, "a second Hello in one session is ignored"),
        }
    }

    fn heartbeat(self: &Arc<Self>, heartbeat: pb::Heartbeat) {
        self.reign.office().metrics.heartbeat();
        if let Some(load) = heartbeat.load {
            self.session.note_load(load);
        }
        let arrived = self.reign.office().world.clock.now();
        if self.confirmed(arrived) {
            self.answer(heartbeat.seq);
        } else {
            self.reign.spawn(self.clone().answer_once_confirmed(heartbeat.seq, arrived));
        }
    }

    fn answer(&self, seq: u64) {
        self.session.send(Outgoing::Message(Say::HeartbeatAck(pb::HeartbeatAck { seq })));
    }

    /// Whether a quorum was asked after `arrived`, or so shortly before that the lease's margin covers it, and has answered. A
    /// newer leader's leases begin later than that.
    fn confirmed(&self, arrived: Instant) -> bool {
        let waited = self.reign.office().world.clock.now().saturating_duration_since(arrived);
        self.quorum.age().is_some_and(|age| age <= waited + self.lease / QUORUM_SHARE)
    }

    /// An answer later than a lease is worth nothing.
    async fn answer_once_confirmed(self: Arc<Self>, seq: u64, arrived: Instant) {
        let confirmed = async {
            while !self.confirmed(arrived) {
                tokio::time::sleep(CONFIRMED_LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(self.lease, confirmed).await.is_ok() {
            self.answer(seq);
        }
    }

    /// Commits reports, then acknowledges them. The worker repeats what is not acknowledged, so this may give up.
    async fn reports(self: Arc<Self>, reports: pb::Reports) {
        let (accepted, ack) = convert::reports_in(reports);
        self.reign.office().metrics.reports(accepted.len() as u64);
        if !accepted.is_empty() {
            let (worker, incarnation) = (self.session.worker, self.incarnation);
            let command = Command::Reports { worker, incarnation, reports: accepted };
            let office = self.reign.office();
            match office.proposer.propose(None, command).await {
                Ok(committed) => self.note_echoes(&committed.reply),
                Err(error) => {
                    tracing::debug!(%worker, %error, "reports were not committed; the worker repeats them");
                    return;
                }
            }
        }
        self.session.send(Outgoing::Message(Say::ReportsAck(ack)));
    }

    fn note_echoes(&self, reply: &Reply) {
        if let Reply::Reported { ignored } = reply
            && *ignored > 0
        {
            self.reign.office().metrics.stale_reports(u64::from(*ignored));
        }
    }

    async fn goodbye(self: Arc<Self>, goodbye: pb::Goodbye) {
        let WorkerId(worker) = self.session.worker;
        tracing::info!(worker, reason = goodbye.reason, "the worker leaves");
        let (worker, incarnation) = (self.session.worker, self.incarnation);
        let _ = self.reign.office().proposer.propose(None, Command::WorkerLeft { worker, incarnation }).await;
    }
}
