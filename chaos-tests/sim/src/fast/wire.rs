//! openraft's network between masters, over the links of the run: no sockets, no HTTP/2, the same duties.
//!
//! What always holds: an append stream is one connection (in order, a cut wedges it until the sender gives it up); votes,
//! heartbeats and read indexes are single messages that may be lost, doubled and overtaken; what was asked of a dead life
//! is never answered. Entries cross as bytes, so each master decodes its own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{EntryPayload, ReadPolicy};
use parking_lot::Mutex;
use steersman_master::bare::{AskLeader, Bare, RaftHandle, lacks_purged};
use steersman_master::node::{LeaderHint, ProposeError};
use steersman_raft_store::{MasterNode, Proposal, Snapshot, SnapshotData, TypeConfig};
use steersman_world::{BoxIo, Incoming, Net};
use tokio::sync::oneshot;

use super::hub::{Asked, Hub, Life};
use super::links::{Fate, Mouth, Pipe, pipe};

type C = TypeConfig;
type Answer = StreamAppendResult<C>;

/// An append that gets no answer for so long has lost its stream.
const SILENCE_MAX: Duration = Duration::from_millis(1_000);
/// Shortest deadline of a vote, as in the product.
const VOTE_TIMEOUT_MIN: Duration = Duration::from_millis(500);
/// As in the product.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Small pieces, so that a snapshot takes several messages.
const CHUNK_BYTES: usize = 8 << 10;

/// Makes the connections of one master.
#[derive(Clone)]
pub struct Wires {
    /// The run.
    pub hub: Arc<Hub>,
    /// Whose.
    pub from: u64,
}

/// A connection to one peer.
pub struct Wire {
    hub: Arc<Hub>,
    from: u64,
    to: u64,
    /// Heartbeats are single messages.
    pulse: bool,
}

impl Wires {
    fn wire(&self, to: u64, pulse: bool) -> Wire {
        Wire { hub: self.hub.clone(), from: self.from, to, pulse }
    }
}

impl RaftNetworkFactory<C> for Wires {
    type Network = Wire;

    async fn new_client(&mut self, to: u64, _node: &MasterNode) -> Wire {
        self.wire(to, false)
    }

    async fn new_heartbeat_client(&mut self, to: u64, _node: &MasterNode) -> Wire {
        self.wire(to, true)
    }

    async fn new_snapshot_client(&mut self, to: u64, _node: &MasterNode) -> Wire {
        self.wire(to, false)
    }
}

fn unreachable(what: impl std::fmt::Display) -> Unreachable<C> {
    Unreachable::from_string(what)
}

impl Wire {
    /// One message and its answer; the message may arrive twice.
    async fn call<T, F>(&self, limit: Duration, act: F) -> Result<T, Unreachable<C>>
    where
        T: Send + 'static,
        F: Fn(Arc<Bare>) -> BoxFuture<'static, Option<T>> + Clone + Send + 'static,
    {
        if let Fate::Arrives(_, Some(again)) = self.hub.links.fate(self.from, self.to) {
            self.double(again, act.clone());
        }
        match self.hub.ask(self.from, self.to, limit, move |bare| act(bare)).await {
            Asked::Answer(Some(answer)) => Ok(answer),
            Asked::Answer(None) => Err(unreachable("its Raft does not run")),
            Asked::Refused => Err(unreachable("refused")),
            Asked::Silence => Err(unreachable("no answer")),
        }
    }

    fn double<T: Send + 'static>(
        &self,
        after: Duration,
        act: impl Fn(Arc<Bare>) -> BoxFuture<'static, Option<T>> + Send + 'static,
    ) {
        let (hub, to) = (self.hub.clone(), self.to);
        hub.journal.count("message doubled");
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if let Some((life, bare)) = hub.life(to).and_then(|life| Some((life.clone(), life.up()?))) {
                life.scope.spawn(async move { drop(act(bare).await) });
            }
        });
    }

    /// As in the product.
    fn lacks_purged(&self, request: &AppendEntriesRequest<C>) -> bool {
        let own = self.hub.life(self.from).and_then(|life| life.up());
        let purged = own.and_then(|bare| bare.control.purged_upto());
        lacks_purged(request.prev_log_id.as_ref(), &request.entries, purged)
    }

    async fn pulse(&self, request: AppendEntriesRequest<C>, limit: Duration) -> Result<Answer, Unreachable<C>> {
        let from = self.from;
        self.call(limit, move |bare| {
            let request = request.clone();
            Box::pin(async move { one_append(&bare, from, request).await })
        })
        .await
    }

    /// Opens an append stream: a pipe there, a task there that feeds openraft, a pipe back.
    fn open_stream<S>(&self, life: &Arc<Life>, bare: Arc<Bare>, input: S) -> Mouth<Answer>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + Send + Unpin + 'static,
    {
        let (out, requests) = pipe(self.hub.links.clone(), self.from, self.to);
        let (back, answers) = pipe(self.hub.links.clone(), self.to, self.from);
        life.scope.spawn(serve(bare, self.from, requests, back));
        let pump = self.pump(input, out);
        // In the sender's own process: whoever called is one of its tasks.
        tokio::spawn(crate::scope::around(Box::pin(pump)));
        answers
    }

    fn pump<S>(&self, mut input: S, out: Pipe<AppendEntriesRequest<C>>) -> impl Future<Output = ()> + Send + 'static
    where
        S: Stream<Item = AppendEntriesRequest<C>> + Send + Unpin + 'static,
    {
        let wire = Self { hub: self.hub.clone(), from: self.from, to: self.to, pulse: true };
        async move {
            while let Some(request) = input.next().await {
                if wire.lacks_purged(&request) {
                    return;
                }
                // A copy of an append from a connection that is long gone: as late as the weather likes.
                if let Fate::Arrives(_, Some(again)) = wire.hub.links.fate(wire.from, wire.to) {
                    let (copy, from) = (request.clone(), wire.from);
                    wire.double(again, move |bare| {
                        let copy = copy.clone();
                        Box::pin(async move { one_append(&bare, from, copy).await })
                    });
                }
                if !out.send(request) {
                    return;
                }
            }
        }
    }
}

async fn one_append(bare: &Arc<Bare>, from: u64, request: AppendEntriesRequest<C>) -> Option<Answer> {
    let answer = append_all(&bare.raft, stream::iter([as_bytes(request)])).next().await?.ok()?;
    if answer.is_ok() {
        bare.leader_heard(from);
    }
    Some(answer)
}

/// Feeds what arrives to openraft, and sends its answers back until somebody stops.
async fn serve(bare: Arc<Bare>, from: u64, requests: Mouth<AppendEntriesRequest<C>>, back: Pipe<Answer>) {
    let arriving = stream::unfold(requests, |mut requests| async move {
        let request = requests.next().await?;
        Some((as_bytes(request), requests))
    });
    let mut answers = append_all(&bare.raft, Box::pin(arriving));
    while let Some(Ok(answer)) = answers.next().await {
        if answer.is_ok() {
            bare.leader_heard(from);
        }
        if !back.send(answer) {
            return;
        }
    }
}

/// As after the wire: batches are bytes, nothing decoded is shared between masters.
fn as_bytes(mut request: AppendEntriesRequest<C>) -> AppendEntriesRequest<C> {
    for entry in &mut request.entries {
        if let EntryPayload::Normal(proposal) = &entry.payload
            && let Ok(own) = Proposal::from_bytes(proposal.bytes().clone())
        {
            entry.payload = EntryPayload::Normal(own);
        }
    }
    request
}

type AppendAnswers = BoxStream<'static, Result<Answer, openraft::error::Fatal<C>>>;

fn append_all(
    raft: &RaftHandle,
    appends: impl Stream<Item = AppendEntriesRequest<C>> + Send + 'static,
) -> AppendAnswers {
    Box::pin(raft.stream_append(appends))
}

impl NetStreamAppend<C> for Wire {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<Answer, RPCError<C>>>, RPCError<C>>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            // As in the product: openraft's backoff is a wait inside of `input`.
            let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
            if !self.pulse && self.lacks_purged(&first) {
                self.hub.journal.count("append without what was purged held back");
                return Err(unreachable("what this follower needs was purged meanwhile").into());
            }
            if self.pulse {
                let answer = self.pulse(first, option.hard_ttl()).await?;
                return Ok(stream::iter([Ok(answer)]).boxed());
            }
            let dialled = tokio::time::timeout(Duration::from_millis(250), async {
                if !self.hub.links.carry(self.from, self.to).await {
                    std::future::pending::<()>().await;
                }
            });
            dialled.await.map_err(|_| unreachable("no connection"))?;
            let up = self.hub.life(self.to).and_then(|life| Some((life.clone(), life.up()?)));
            let Some((life, bare)) = up else { return Err(unreachable("refused").into()) };
            let input = stream::once(std::future::ready(first)).chain(input);
            let answers = self.open_stream(&life, bare, input);
            Ok(watched(answers).boxed())
        })
    }
}

/// The answers of one stream; the first that is not good, or a long silence, ends it.
fn watched(answers: Mouth<Answer>) -> impl Stream<Item = Result<Answer, RPCError<C>>> + Send {
    stream::unfold(Some(answers), |answers| async move {
        let mut answers = answers?;
        match tokio::time::timeout(SILENCE_MAX, answers.next()).await {
            Ok(Some(answer)) => {
                let rest = answer.is_ok().then_some(answers);
                Some((Ok(answer), rest))
            }
            Ok(None) => Some((Err(unreachable("the connection broke").into()), None)),
            Err(_) => Some((Err(unreachable("silence").into()), None)),
        }
    })
}

impl NetVote<C> for Wire {
    async fn vote(&mut self, rpc: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        let limit = option.hard_ttl().max(VOTE_TIMEOUT_MIN);
        let act = move |bare: Arc<Bare>| -> BoxFuture<'static, Option<VoteResponse<C>>> {
            let rpc = rpc.clone();
            Box::pin(async move { bare.raft.vote(rpc).await.ok() })
        };
        Ok(self.call(limit, act).await?)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        let limit = option.hard_ttl().max(VOTE_TIMEOUT_MIN);
        let act = move |bare: Arc<Bare>| -> BoxFuture<'static, Option<VoteResponse<C>>> {
            let rpc = rpc.clone();
            Box::pin(async move { bare.raft.pre_vote(rpc).await.ok() })
        };
        Ok(self.call(limit, act).await?)
    }
}

impl NetBackoff<C> for Wire {
    fn backoff(&self) -> Option<Backoff> {
        None // Config::backoff decides
    }
}

impl NetTransferLeader<C> for Wire {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        let limit = option.hard_ttl().max(VOTE_TIMEOUT_MIN);
        let act = move |bare: Arc<Bare>| -> BoxFuture<'static, Option<TransferLeaderResponse<C>>> {
            let req = req.clone();
            Box::pin(async move { bare.raft.handle_transfer_leader(req).await.ok() })
        };
        Ok(self.call(limit, act).await?)
    }
}

impl NetSnapshot<C> for Wire {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let sending = tokio::time::timeout(option.hard_ttl(), self.send_snapshot(vote, snapshot));
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => Ok(sent.map_err(|_| unreachable("no answer"))??),
        }
    }
}

/// Of a snapshot on its way.
enum Piece {
    Bytes(bytes::Bytes),
    Last(u32),
}

impl Wire {
    async fn send_snapshot(
        &self,
        vote: VoteOf<C>,
        mut data: SnapshotOf<C, SnapshotData>,
    ) -> Result<SnapshotResponse<C>, Unreachable<C>> {
        let up = self.hub.life(self.to).and_then(|life| Some((life.clone(), life.up()?)));
        let Some((life, bare)) = up else { return Err(unreachable("refused")) };
        let (out, pieces) = pipe(self.hub.links.clone(), self.from, self.to);
        let (done, received) = oneshot::channel();
        life.scope.spawn(async move { drop(done.send(receive(bare, vote, pieces).await)) });
        loop {
            match data.snapshot.next_chunk(CHUNK_BYTES).await {
                Ok(Some(bytes)) => {
                    out.send(Piece::Bytes(bytes));
                    // One piece after the other, so that much can happen in between.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(None) => break,
                Err(error) => return Err(unreachable(error)),
            }
        }
        out.send(Piece::Last(data.snapshot.crc()));
        let limit = Duration::from_secs(10);
        let answer = tokio::time::timeout(limit, received).await.map_err(|_| unreachable("no answer"))?;
        let answer = answer.ok().flatten().ok_or_else(|| unreachable("it broke off"))?;
        if !self.hub.links.carry(self.to, self.from).await {
            return Err(unreachable("the answer was lost"));
        }
        Ok(answer)
    }
}

async fn receive(bare: Arc<Bare>, vote: VoteOf<C>, mut pieces: Mouth<Piece>) -> Option<SnapshotResponse<C>> {
    let mut receiver = bare.control.receive_snapshot().ok()?;
    while let Some(piece) = pieces.next().await {
        match piece {
            Piece::Bytes(bytes) => receiver.write(&bytes).await.ok()?,
            Piece::Last(crc) => {
                let data = receiver.finish(crc).await.ok()?;
                let meta = data.meta().ok()?;
                return bare.raft.install_full_snapshot(vote, Snapshot { meta, snapshot: data }).await.ok();
            }
        }
    }
    None
}

impl AskLeader for Wires {
    fn read_index(&self, leader: LeaderHint) -> BoxFuture<'_, Result<u64, ProposeError>> {
        let wire = self.wire(leader.id, true);
        Box::pin(async move {
            let act = |bare: Arc<Bare>| -> BoxFuture<'static, Option<u64>> {
                Box::pin(async move {
                    let read = bare.raft.get_read_log_id(ReadPolicy::ReadIndex).await.ok()?;
                    Some(read.0.index())
                })
            };
            wire.call(CONFIRM_TIMEOUT, act).await.map_err(|_| ProposeError::NoQuorum)
        })
    }
}

/// Bare connections, for whoever watches whether a leader's process lives.
pub struct SimNet {
    /// The run.
    pub hub: Arc<Hub>,
    /// Who connects.
    pub from: u64,
    /// Hosts that are without power: nobody refuses there.
    pub dark: Arc<Mutex<std::collections::BTreeSet<u64>>>,
}

impl Net for SimNet {
    fn bind(&self, _addr: String) -> BoxFuture<'static, io::Result<Incoming>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn connect(&self, addr: String) -> BoxFuture<'static, io::Result<BoxIo>> {
        let (hub, from, dark) = (self.hub.clone(), self.from, self.dark.clone());
        Box::pin(async move {
            let id = addr.strip_prefix('m').and_then(|rest| rest.split(':').next()).and_then(|id| id.parse().ok());
            let id: u64 = id.ok_or(io::ErrorKind::InvalidInput)?;
            if !hub.links.carry(from, id).await || dark.lock().contains(&id) {
                return std::future::pending().await;
            }
            let Some(life) = hub.life(id).filter(|life| life.up().is_some()) else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (near, far) = tokio::io::duplex(64);
            life.holds.lock().push(far);
            Ok(BoxIo::new(near, None))
        })
    }
}
