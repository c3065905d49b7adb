//! What peers ask of this master: the server side of `steersman.raft.v1`, on its own listener and runtime.
//!
//! What always holds: every conversation begins with a header, and a foreign cluster, a wrong target or an unknown
//! version is refused before anything is looked at. Malformed messages are answered, never panicked upon.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{Stream, StreamExt as _};
use openraft::error::Fatal;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult, TransferLeaderRequest, VoteRequest};
use openraft::{Raft, ReadPolicy};
use steersman_proto::raft::v1 as pb;
use steersman_proto::raft::v1::raft_server::{Raft as RaftRpc, RaftServer};
use steersman_raft_store::{Control, Snapshot, SnapshotReceiver, StateMachine, TypeConfig};
use steersman_state::effect::ElectionCause;
use tonic::{Request, Response, Status, Streaming};

use crate::bootstrap::{self, Gate};
use crate::fitness::Fitness;
use crate::network::{Peers, RAFT_MESSAGE_BYTES_MAX, append_answer_out};
use crate::node::Listening;
use crate::wire::{self, WIRE_VERSION, WireError, log_id_in, log_id_out, vote_in, vote_out};

/// openraft with our types.
pub type RaftHandle = Raft<TypeConfig, StateMachine>;

/// Serves Raft to the peers of one master. Cheap to clone.
#[derive(Clone)]
pub struct RaftService {
    /// Peers of another cluster are refused.
    pub cluster: String,
    /// This master; messages for another one are refused.
    pub id: u64,
    /// Id of this master's data directory.
    pub store: String,
    /// Consensus.
    pub raft: RaftHandle,
    /// Shut until it is settled that this master takes part.
    pub gate: Gate,
    /// Learns the addresses that peers introduce themselves with.
    pub peers: Peers,
    /// For incoming snapshots.
    pub control: Control,
    /// Notes signs of life of the leader.
    pub listening: Arc<Listening>,
    /// An unfit master takes no office.
    pub fitness: Fitness,
}

impl RaftService {
    /// The tonic service, with its message limits.
    pub fn server(self) -> RaftServer<Self> {
        RaftServer::new(self)
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX)
    }

    fn check(&self, header: Option<&pb::Header>) -> Result<(), Status> {
        // First: a master that waits for others, which may be gone for good, still learns that it is a stranger here.
        self.check_header(header)?;
        if !self.gate.is_open() {
            return Err(Status::unavailable("this master has not settled yet whether it takes part"));
        }
        Ok(())
    }

    fn check_header(&self, header: Option<&pb::Header>) -> Result<(), Status> {
        let header = header.ok_or_else(|| Status::invalid_argument("the first message has no header"))?;
        if header.version != WIRE_VERSION {
            let message = format!("Raft protocol version {} is spoken here, not {}", WIRE_VERSION, header.version);
            return Err(Status::failed_precondition(message));
        }
        if header.cluster_id != self.cluster {
            let message = format!("this is cluster {:?}, not {:?}", self.cluster, header.cluster_id);
            return Err(Status::failed_precondition(message));
        }
        if header.to != self.id {
            return Err(Status::failed_precondition(format!("this is master {}, not {}", self.id, header.to)));
        }
        if !header.to_store.is_empty() && header.to_store != self.store {
            // It lost what it once acknowledged, and must not vouch for anything again.
            self.gate.shut_out(self.id, header.from);
            return Err(Status::failed_precondition(format!("master {} has another data directory", self.id)));
        }
        Ok(())
    }

    fn vote_request(&self, request: &pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, Status> {
        self.check(request.header.as_ref())?;
        let vote = vote_in(request.vote.as_ref()).map_err(malformed)?;
        let mut rpc = VoteRequest::new(vote, request.last_log_id.as_ref().map(log_id_in));
        rpc.leadership_transfer = request.leadership_transfer;
        Ok(rpc)
    }
}

fn malformed(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn broken(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this master's Raft does not run: {error}"))
}

fn append_request(request: pb::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    Ok(AppendEntriesRequest {
        vote: vote_in(request.vote.as_ref())?,
        prev_log_id: request.prev_log_id.as_ref().map(log_id_in),
        entries: request.entries.into_iter().map(wire::entry_in).collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.as_ref().map(log_id_in),
    })
}

fn vote_answer(answer: openraft::raft::VoteResponse<TypeConfig>) -> Response<pb::VoteResponse> {
    Response::new(pb::VoteResponse {
        vote: Some(vote_out(&answer.vote)),
        granted: answer.vote_granted,
        last_log_id: answer.last_log_id.as_ref().map(log_id_out),
    })
}

/// Well-formed appends, until the peer stops, breaks, or sends nonsense.
fn appends(
    first: pb::AppendRequest,
    rest: Streaming<pb::AppendRequest>,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static {
    let all = futures::stream::once(async move { Ok(first) }).chain(rest);
    let well_formed = |message: Result<pb::AppendRequest, Status>| {
        let request = message.ok().map(append_request)?;
        request.inspect_err(|error| tracing::error!(%error, "a peer's append was refused")).ok()
    };
    all.map(well_formed).take_while(|request| std::future::ready(request.is_some())).filter_map(std::future::ready)
}

#[tonic::async_trait]
impl RaftRpc for RaftService {
    type StreamAppendStream = Pin<Box<dyn Stream<Item = Result<pb::AppendResponse, Status>> + Send>>;

    async fn stream_append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::StreamAppendStream>, Status> {
        let mut incoming = request.into_inner();
        let service = self.clone();
        // The response headers go out at once: the leader waits for them before it sends its first append.
        let answers = futures::stream::once(async move {
            let first = incoming.message().await?.ok_or_else(|| Status::invalid_argument("an empty append stream"))?;
            service.check(first.header.as_ref())?;
            let (raft, listening, elections) =
                (service.raft.clone(), service.listening.clone(), service.peers.elections().clone());
            let leader = first.header.as_ref().map_or(0, |header| header.from);
            let answers = append_all(&raft, appends(first, incoming));
            Ok::<_, Status>(answers.map(move |answer| {
                if matches!(answer, Ok(Ok(_))) {
                    listening.leader_heard();
                    elections.heard(leader);
                }
                answer.map(append_answer_out).map_err(broken)
            }))
        });
        Ok(Response::new(Box::pin(flatten(answers))))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        let rpc = self.vote_request(request.get_ref())?;
        Ok(vote_answer(self.raft.vote(rpc).await.map_err(broken)?))
    }

    async fn pre_vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        let rpc = self.vote_request(request.get_ref())?;
        Ok(vote_answer(self.raft.pre_vote(rpc).await.map_err(broken)?))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Result<Response<pb::InstallSnapshotResponse>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.ok_or_else(|| Status::invalid_argument("an empty snapshot stream"))?;
        self.check(first.header.as_ref())?;
        let vote = vote_in(first.vote.as_ref()).map_err(malformed)?;
        let receiver = self.control.receive_snapshot().map_err(disk)?;
        let snapshot = receive(receiver, incoming).await?;
        let answer = self.raft.install_full_snapshot(vote, snapshot).await.map_err(broken)?;
        // A snapshot that this master does not need, for it has received the entries themselves, is answered at once, and the
        // leader then counts those entries as kept here: so they have to be.
        self.control.canary().await.map_err(disk)?;
        Ok(Response::new(pb::InstallSnapshotResponse { vote: Some(vote_out(&answer.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        let from = vote_in(request.from.as_ref()).map_err(malformed)?;
        if request.to == self.id && !self.fitness.is_fit() {
            let refused = format!("master {} is not fit to lead", self.id);
            return Ok(Response::new(pb::TransferLeaderResponse { accepted: false, refused }));
        }
        if request.to == self.id {
            self.peers.elections().suspected(ElectionCause::Handover);
        }
        let rpc = TransferLeaderRequest::new(from, request.to, request.last_log_id.as_ref().map(log_id_in));
        let answer = self.raft.handle_transfer_leader(rpc).await.map_err(broken)?;
        let refused = answer.as_ref().err().map(ToString::to_string).unwrap_or_default();
        Ok(Response::new(pb::TransferLeaderResponse { accepted: answer.is_ok(), refused }))
    }

    async fn probe(&self, request: Request<pb::ProbeRequest>) -> Result<Response<pb::ProbeResponse>, Status> {
        let request = request.into_inner();
        self.check_header(request.header.as_ref())?;
        if let Some(asker) = request.self_.filter(|asker| !asker.raft.is_empty()) {
            self.peers.learn(asker.id, &asker.raft);
        }
        Ok(Response::new(bootstrap::answer(&self.store, &self.raft)))
    }

    async fn digest(&self, request: Request<pb::DigestRequest>) -> Result<Response<pb::DigestResponse>, Status> {
        self.check(request.get_ref().header.as_ref())?;
        let index = request.get_ref().index;
        let audits = self.control.audits();
        let found = audits.borrow().iter().find(|audited| audited.index == index).map(|audited| audited.digest);
        let digest = found.map(|digest| digest.to_be_bytes().to_vec()).unwrap_or_default();
        Ok(Response::new(pb::DigestResponse { digest: digest.into() }))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        self.check(request.get_ref().header.as_ref())?;
        let (read, _) = self.raft.get_read_log_id(ReadPolicy::ReadIndex).await.map_err(broken)?;
        let term = read.committed_leader_id().term;
        Ok(Response::new(pb::ReadIndexResponse { index: read.index(), term }))
    }
}

type AppendAnswers = Pin<Box<dyn Stream<Item = Result<StreamAppendResult<TypeConfig>, Fatal<TypeConfig>>> + Send>>;

/// openraft's answers to a stream of appends. The box forgets the borrow of the handle, which openraft does not need.
fn append_all(
    raft: &RaftHandle,
    appends: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
) -> AppendAnswers {
    Box::pin(raft.stream_append(appends))
}

/// A stream that first has to be made: its error becomes its only item.
fn flatten<T, S>(made: impl Stream<Item = Result<S, Status>> + Send) -> impl Stream<Item = Result<T, Status>> + Send
where
    T: Send,
    S: Stream<Item = Result<T, Status>> + Send,
{
    made.flat_map(|made| match made {
        Ok(stream) => stream.left_stream(),
        Err(status) => futures::stream::once(async move { Err(status) }).right_stream(),
    })
}

async fn receive(
    mut receiver: SnapshotReceiver,
    mut incoming: Streaming<pb::InstallSnapshotRequest>,
) -> Result<Snapshot, Status> {
    while let Some(chunk) = incoming.message().await? {
        if !chunk.data.is_empty() {
            receiver.write(&chunk.data).await.map_err(disk)?;
        }
        if chunk.last {
            let snapshot = receiver.finish(chunk.crc).await.map_err(disk)?;
            let meta = snapshot.meta().map_err(disk)?;
            return Ok(Snapshot { meta, snapshot });
        }
    }
    Err(Status::aborted("the snapshot stream ended early"))
}

fn disk(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this master could not take the snapshot: {error}"))
}
