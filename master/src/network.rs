//! How this master reaches its peers: openraft's network traits over `steersman.raft.v1`.
//!
//! What always holds: one cached channel per peer and purpose (replication, heartbeats and votes, snapshots), so that a
//! large append never delays a heartbeat; a channel that timed out is dropped, because a lost segment can wedge HTTP/2;
//! every stream opens with who speaks to whom in which cluster. Connect errors and time-outs are `Unreachable`.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use steersman_proto::raft::v1 as pb;
use steersman_proto::raft::v1::raft_client::RaftClient;
use steersman_raft_store::{Control, MasterNode, SnapshotData, TypeConfig};
use steersman_world::{Connector, Net, World};
use tonic::transport::{Channel, Endpoint};

use crate::election::Elections;
use crate::wire::{self, WIRE_VERSION, log_id_in, log_id_out, vote_in, vote_out};

type C = TypeConfig;

/// Largest Raft message: an append holds entries of at most `batch_bytes_max` each, cut by the log reader to a few MiB.
pub const RAFT_MESSAGE_BYTES_MAX: usize = 64 << 20;
/// A connection attempt to a peer that takes longer has failed: a LAN's round trip is below 1 ms.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// An append that gets no answer for so long has lost its stream. Heartbeats, on a channel of their own, judge liveness;
/// this only frees a wedged stream, so it is generous towards a peer with a slow disk.
const APPEND_SILENCE_MAX: Duration = Duration::from_secs(3);
/// Shortest deadline of a vote: it includes a sync on the peer's disk.
const VOTE_TIMEOUT_MIN: Duration = Duration::from_millis(500);
/// Addresses remembered per peer: from its own word, the membership and the configuration.
const ADDRESSES_PER_PEER_MAX: usize = 4;
/// Snapshot bytes per message.
const SNAPSHOT_CHUNK_BYTES: usize = 512 << 10;

/// Which of a peer's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Replication,
    Control,
    Snapshot,
}

/// The channels to all peers. Cheap to clone.
#[derive(Clone)]
pub struct Peers(Arc<PeersInner>);

struct PeersInner {
    cluster: String,
    from: u64,
    net: Arc<dyn Net>,
    elections: Elections,
    /// This master's own store.
    store: Control,
    channels: Mutex<BTreeMap<(String, Purpose), Channel>>,
    addresses: Mutex<BTreeMap<u64, Vec<String>>>,
    /// Peers that did not answer when they were last asked: so that each change is told once.
    silent: Mutex<BTreeSet<u64>>,
}

impl Peers {
    /// Peers of master `from` in `cluster`, reached through the world's net.
    pub fn new(cluster: String, from: u64, world: &World, store: Control) -> Self {
        Self(Arc::new(PeersInner {
            cluster,
            from,
            net: world.net.clone(),
            elections: Elections::new(world.clock.clone()),
            store,
            channels: Mutex::default(),
            addresses: Mutex::default(),
            silent: Mutex::default(),
        }))
    }

    /// Where the milestones of elections are noted.
    pub fn elections(&self) -> &Elections {
        &self.0.elections
    }

    /// Notes where a peer's Raft listener may be; the newest word is tried first. A peer is its id and its data, not its
    /// address: all words are kept (at most [`ADDRESSES_PER_PEER_MAX`]) and tried in turn when one fails.
    pub fn learn(&self, id: u64, raft_address: &str) {
        let mut addresses = self.0.addresses.lock();
        let known = addresses.entry(id).or_default();
        known.retain(|address| address != raft_address);
        known.insert(0, raft_address.to_owned());
        known.truncate(ADDRESSES_PER_PEER_MAX);
    }

    /// Where to try a peer's Raft listener next.
    pub fn raft_address(&self, id: u64) -> Option<String> {
        self.0.addresses.lock().get(&id).and_then(|known| known.first().cloned())
    }

    fn answered(&self, id: u64) {
        if self.0.silent.lock().remove(&id) {
            tracing::info!(master = id, "the master answers again");
        }
    }

    fn did_not_answer(&self, id: u64, why: &str) {
        if self.0.silent.lock().insert(id) {
            tracing::warn!(master = id, why, "the master does not answer");
        }
    }

    fn try_next_address(&self, id: u64, failed: &str) {
        let mut addresses = self.0.addresses.lock();
        if let Some(known) = addresses.get_mut(&id)
            && known.first().is_some_and(|first| first == failed)
        {
            known.rotate_left(1);
        }
    }

    /// The first thing that is said to peer `to`.
    pub fn header(&self, to: u64) -> pb::Header {
        let to_store = String::new();
        pb::Header { cluster_id: self.0.cluster.clone(), from: self.0.from, to, version: WIRE_VERSION, to_store }
    }

    /// A client on the control channel of the master at `address`: votes, heartbeats, read indexes.
    pub fn control(&self, address: &str) -> RaftClient<Channel> {
        client(self.channel(address, Purpose::Control))
    }

    /// Forgets the control channel to `address`: the next use connects anew.
    pub fn drop_control(&self, address: &str) {
        self.drop_channel(address, Purpose::Control);
    }

    /// A cached channel to any listener of a peer (API forwarding uses this with the API's address).
    pub fn channel_to(&self, address: &str) -> Channel {
        self.channel(address, Purpose::Control)
    }

    fn channel(&self, address: &str, purpose: Purpose) -> Channel {
        let mut channels = self.0.channels.lock();
        let key = (address.to_owned(), purpose);
        channels.entry(key).or_insert_with(|| connect_lazily(address, self.0.net.clone())).clone()
    }

    fn drop_channel(&self, address: &str, purpose: Purpose) {
        self.0.channels.lock().remove(&(address.to_owned(), purpose));
    }
}

fn connect_lazily(address: &str, net: Arc<dyn Net>) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .unwrap_or_else(|_| Endpoint::from_static("http://invalid.invalid"));
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .connect_with_connector_lazy(Connector(net))
}

fn client(channel: Channel) -> RaftClient<Channel> {
    RaftClient::new(channel)
        .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX)
}

impl RaftNetworkFactory<C> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &MasterNode) -> Peer {
        Peer::new(self, target, node, Purpose::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &MasterNode) -> Peer {
        Peer::new(self, target, node, Purpose::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &MasterNode) -> Peer {
        Peer::new(self, target, node, Purpose::Snapshot)
    }
}

/// A status and the innermost reason that its source gives: the message alone is often only "transport error".
fn short(status: &tonic::Status) -> String {
    let mut innermost: Option<&dyn std::error::Error> = std::error::Error::source(status);
    while let Some(next) = innermost.and_then(std::error::Error::source) {
        innermost = Some(next);
    }
    let reason = innermost.map(|error| format!(" ({error})")).unwrap_or_default();
    format!("{}: {}{reason}", status.code(), status.message())
}

/// One peer, for one purpose.
#[derive(Clone)]
pub struct Peer {
    peers: Peers,
    target: u64,
    node: MasterNode,
    purpose: Purpose,
}

impl Peer {
    fn new(peers: &Peers, target: u64, node: &MasterNode, purpose: Purpose) -> Self {
        Self { peers: peers.clone(), target, node: node.clone(), purpose }
    }

    /// Heartbeats are empty, and must arrive however far behind the follower is.
    fn lacks_purged(&self, request: &AppendEntriesRequest<C>) -> bool {
        let purged = || self.peers.0.store.purged_upto().filter(|_| request.entries.is_empty());
        self.purpose == Purpose::Replication
            && wire::lacks_purged(request.prev_log_id.as_ref(), &request.entries, purged())
    }

    fn address(&self) -> String {
        self.peers.raft_address(self.target).unwrap_or_else(|| self.node.raft.clone())
    }

    /// Says which data directory is meant: a peer that comes back with another one must not take part (promise P13).
    fn header(&self) -> pb::Header {
        pb::Header { to_store: self.node.store.clone(), ..self.peers.header(self.target) }
    }

    fn client(&self, purpose: Purpose) -> RaftClient<Channel> {
        client(self.peers.channel(&self.address(), purpose))
    }

    /// Runs one call under a deadline; a failure costs the channel.
    async fn call<T>(
        &self,
        purpose: Purpose,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Unreachable<C>> {
        let answer = self.open(purpose, limit, call).await?;
        self.peers.answered(self.target);
        Ok(answer)
    }

    /// As [`Peer::call`], for a stream of answers: that it was opened is no answer yet.
    async fn open<T>(
        &self,
        purpose: Purpose,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Unreachable<C>> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failed(purpose, short(&status))),
            Err(_) => Err(self.failed(purpose, format!("no answer within {limit:?}"))),
        }
    }

    fn failed(&self, purpose: Purpose, what: String) -> Unreachable<C> {
        let address = self.address();
        self.peers.drop_channel(&address, purpose);
        self.peers.try_next_address(self.target, &address);
        self.peers.did_not_answer(self.target, &what);
        Unreachable::from_string(format!("master {} at {address}: {what}", self.target))
    }

    async fn ask_vote(
        &self,
        rpc: VoteRequest<C>,
        option: RPCOption,
        pre: bool,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        let request = pb::VoteRequest {
            header: Some(self.header()),
            vote: Some(vote_out(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(log_id_out),
            leadership_transfer: rpc.leadership_transfer,
        };
        self.peers.elections().asked();
        let limit = option.hard_ttl().max(VOTE_TIMEOUT_MIN);
        let mut client = self.client(Purpose::Control);
        let answer = if pre {
            self.call(Purpose::Control, limit, client.pre_vote(request)).await?
        } else {
            self.call(Purpose::Control, limit, client.vote(request)).await?
        };
        if answer.granted && !pre {
            self.peers.elections().granted();
        }
        let vote = vote_in(answer.vote.as_ref()).map_err(|error| Unreachable::new(&error))?;
        Ok(VoteResponse::new(vote, answer.last_log_id.as_ref().map(log_id_in), answer.granted))
    }
}

impl NetVote<C> for Peer {
    async fn vote(&mut self, rpc: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        self.ask_vote(rpc, option, false).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        self.ask_vote(rpc, option, true).await
    }
}

impl NetBackoff<C> for Peer {
    fn backoff(&self) -> Option<Backoff> {
        None // Config::backoff decides
    }
}

impl NetTransferLeader<C> for Peer {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        let request = pb::TransferLeaderRequest {
            header: Some(self.header()),
            from: Some(vote_out(req.from_leader())),
            to: *req.to_node_id(),
            last_log_id: req.last_log_id().map(log_id_out),
        };
        let limit = option.hard_ttl().max(VOTE_TIMEOUT_MIN);
        let mut client = self.client(Purpose::Control);
        let answer = self.call(Purpose::Control, limit, client.transfer_leader(request)).await?;
        if answer.accepted {
            return Ok(Ok(()));
        }
        let (expected, actual) = (*req.from_leader(), *req.from_leader());
        tracing::warn!(target = self.target, refused = answer.refused, "leadership transfer was refused");
        Ok(Err(TransferLeaderError::VoteChanged { expected, actual }))
    }
}

impl NetStreamAppend<C> for Peer {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<C>, RPCError<C>>>, RPCError<C>>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft's backoff is a wait inside of `input`: whoever dials first and asks for requests afterwards never
            // comes to it, and dials a dead peer a thousand times a second.
            let mut input = input;
            let Some(first) = input.next().await else { return Ok(futures::stream::empty().boxed()) };
            if self.lacks_purged(&first) {
                return Err(Unreachable::from_string("what this follower needs was purged meanwhile").into());
            }
            let input = futures::stream::once(std::future::ready(first)).chain(input);
            let sent = Arc::new(AtomicU64::new(0));
            let peer = self.clone();
            let input = input.take_while(move |request| std::future::ready(!peer.lacks_purged(request)));
            let outgoing = outgoing_appends(input, self.header(), sent.clone());
            let mut client = self.client(self.purpose);
            let limit = CONNECT_TIMEOUT + VOTE_TIMEOUT_MIN;
            let incoming = self.open(self.purpose, limit, client.stream_append(outgoing)).await?;
            let answers = Answers { incoming, sent, received: 0, peer: self, done: false };
            Ok(futures::stream::unfold(answers, Answers::next).boxed())
        })
    }
}

/// Requests in their wire form; the first one carries the header. Counts what was sent.
fn outgoing_appends<S>(
    input: S,
    header: pb::Header,
    sent: Arc<AtomicU64>,
) -> impl Stream<Item = pb::AppendRequest> + Send + 'static
where
    S: Stream<Item = AppendEntriesRequest<C>> + Send + 'static,
{
    let mut header = Some(header);
    input.map(move |request| {
        sent.fetch_add(1, Ordering::Relaxed);
        pb::AppendRequest {
            header: header.take(),
            vote: Some(vote_out(&request.vote)),
            prev_log_id: request.prev_log_id.as_ref().map(log_id_out),
            entries: request.entries.iter().map(wire::entry_out).collect(),
            leader_commit: request.leader_commit.as_ref().map(log_id_out),
        }
    })
}

/// The answers of one append stream, watched: an answer that is owed and does not come ends the stream.
struct Answers<'p> {
    incoming: tonic::Streaming<pb::AppendResponse>,
    sent: Arc<AtomicU64>,
    received: u64,
    peer: &'p Peer,
    done: bool,
}

impl Answers<'_> {
    async fn next(mut self) -> Option<(Result<StreamAppendResult<C>, RPCError<C>>, Self)> {
        if self.done {
            return None;
        }
        let answer = match self.receive().await {
            Ok(None) => return None,
            Ok(Some(answer)) => append_answer_in(answer).map_err(RPCError::Unreachable),
            Err(unreachable) => Err(RPCError::Unreachable(unreachable)),
        };
        self.received += 1;
        self.done = !matches!(answer, Ok(Ok(_)));
        Some((answer, self))
    }

    async fn receive(&mut self) -> Result<Option<pb::AppendResponse>, Unreachable<C>> {
        loop {
            match tokio::time::timeout(APPEND_SILENCE_MAX, self.incoming.message()).await {
                Ok(Ok(answer)) => {
                    if self.received == 0 {
                        self.peer.peers.answered(self.peer.target);
                    }
                    return Ok(answer);
                }
                Ok(Err(status)) => return Err(self.peer.failed(self.peer.purpose, short(&status))),
                Err(_) if self.sent.load(Ordering::Relaxed) <= self.received => {} // idle: nothing is owed
                Err(_) => {
                    let silence = format!("an append was not answered within {APPEND_SILENCE_MAX:?}");
                    return Err(self.peer.failed(self.peer.purpose, silence));
                }
            }
        }
    }
}

fn append_answer_in(answer: pb::AppendResponse) -> Result<StreamAppendResult<C>, Unreachable<C>> {
    use pb::append_response::Result as Answer;
    match answer.result {
        Some(Answer::Success(id)) => Ok(Ok(Some(log_id_in(&id)))),
        Some(Answer::SuccessEmpty(_)) => Ok(Ok(None)),
        Some(Answer::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(log_id_in(&id)))),
        Some(Answer::HigherVote(vote)) => {
            let vote = vote_in(Some(&vote)).map_err(|error| Unreachable::new(&error))?;
            Ok(Err(StreamAppendError::HigherVote(vote)))
        }
        None => Err(Unreachable::from_string("an empty append answer")),
    }
}

/// An answer to an append for the wire.
pub fn append_answer_out(result: StreamAppendResult<C>) -> pb::AppendResponse {
    use pb::append_response::Result as Answer;
    let answer = match result {
        Ok(Some(id)) => Answer::Success(log_id_out(&id)),
        Ok(None) => Answer::SuccessEmpty(true),
        Err(StreamAppendError::Conflict(id)) => Answer::Conflict(log_id_out(&id)),
        Err(StreamAppendError::HigherVote(vote)) => Answer::HigherVote(vote_out(&vote)),
    };
    pb::AppendResponse { result: Some(answer) }
}

impl NetSnapshot<C> for Peer {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let first = pb::InstallSnapshotRequest {
            header: Some(self.header()),
            vote: Some(vote_out(&vote)),
            ..Default::default()
        };
        let chunks = snapshot_chunks(first, snapshot.snapshot);
        let mut client = self.client(Purpose::Snapshot);
        let sending = self.call(Purpose::Snapshot, option.hard_ttl(), client.install_snapshot(chunks));
        let answer = tokio::select! {
            answer = sending => answer?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        let vote = vote_in(answer.vote.as_ref()).map_err(|error| Unreachable::new(&error))?;
        Ok(SnapshotResponse::new(vote))
    }
}

/// The messages of one snapshot: who and what, the bytes, and a last one with their checksum. Reading stops early if
/// the receiver does; a read error ends the stream without the last message, which the receiver refuses.
fn snapshot_chunks(
    first: pb::InstallSnapshotRequest,
    data: SnapshotData,
) -> impl Stream<Item = pb::InstallSnapshotRequest> + Send + 'static {
    let body = futures::stream::unfold((data, false), |(mut data, done)| async move {
        if done {
            return None;
        }
        match data.next_chunk(SNAPSHOT_CHUNK_BYTES).await {
            Ok(Some(bytes)) => Some((pb::InstallSnapshotRequest { data: bytes, ..Default::default() }, (data, false))),
            Ok(None) => {
                let crc = data.crc();
                Some((pb::InstallSnapshotRequest { last: true, crc, ..Default::default() }, (data, true)))
            }
            Err(error) => {
                tracing::error!(%error, "reading a snapshot to send it failed");
                None
            }
        }
    });
    futures::stream::once(async move { first }).chain(body)
}
