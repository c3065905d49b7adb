//! `steersman.v1.Cluster`: the masters themselves.
//!
//! What always holds: `Info` and `WatchLeader` answer from memory and never wait for anybody, so that an operator learns
//! something from a master that has lost all others. Membership changes end at the leader, one at a time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream};
use steersman_proto::codes;
use steersman_proto::v1::cluster_client::ClusterClient;
use steersman_proto::v1::{self as pb, cluster_server::Cluster};
use steersman_state::Image;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert;
use super::events_api::StreamGuard;
use super::forward::{Edge, Hop};
use super::status::{status, status_of_member};
use crate::node::{LeaderView, MemberError, Node, NodeStatus};
use crate::observe::progress;

/// Bytes of one message of a snapshot.
const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// Messages of a snapshot that wait for the network.
const SNAPSHOT_QUEUE: usize = 4;

/// The service.
pub struct ClusterApi {
    edge: Edge,
}

impl ClusterApi {
    /// The service of one node.
    pub fn new(edge: Edge) -> Self {
        Self { edge }
    }

    fn node(&self) -> &Arc<Node> {
        &self.edge.node
    }

    async fn step_down_here(&self, to: u64) -> Result<pb::StepDownResponse, Status> {
        let to = (to != 0).then_some(to);
        let (hint, took) = self.node().transfer(to).await.map_err(|error| self.refused(&error))?;
        let view = self.node().leader_watch().borrow().clone();
        let leader = if view.leader.as_ref().is_some_and(|leader| leader.id == hint.id) {
            convert::leader_out(&view)
        } else {
            let address = pb::MasterAddress { id: hint.id, api: hint.api, ..pb::MasterAddress::default() };
            pb::LeaderInfo { term: hint.term, leader: Some(address) }
        };
        Ok(pb::StepDownResponse { leader: Some(leader), took_ms: took.as_millis() as u64 })
    }

    fn refused(&self, error: &MemberError) -> Status {
        match error {
            MemberError::Propose(error) => self.edge.refused(error),
            other => status_of_member(other),
        }
    }

    fn changed(&self, changed: Result<u64, MemberError>) -> Result<pb::MembershipResponse, Status> {
        let log_index = changed.map_err(|error| self.refused(&error))?;
        let masters = self.node().status().members.iter().map(convert::member_out).collect();
        Ok(pb::MembershipResponse { masters, log_index })
    }
}

type LeaderStream = Pin<Box<dyn Stream<Item = Result<pb::LeaderInfo, Status>> + Send>>;

#[tonic::async_trait]
impl Cluster for ClusterApi {
    type WatchLeaderStream = LeaderStream;
    type SaveSnapshotStream = ReceiverStream<Result<pb::SnapshotChunk, Status>>;

    async fn info(&self, _request: Request<pb::InfoRequest>) -> Result<Response<pb::InfoResponse>, Status> {
        Ok(Response::new(info(self.node())))
    }

    async fn watch_leader(&self, _: Request<pb::WatchLeaderRequest>) -> Result<Response<LeaderStream>, Status> {
        let guard = StreamGuard::open(self.node())?;
        Ok(Response::new(Box::pin(leaders(self.node().clone(), guard))))
    }

    async fn step_down(&self, request: Request<pb::StepDownRequest>) -> Result<Response<pb::StepDownResponse>, Status> {
        let here = async |request: pb::StepDownRequest| self.step_down_here(request.to).await;
        let there = async |channel, request| ClusterClient::new(channel).step_down(request).await;
        self.edge.answer(Hop::Mutation, request, here, there).await
    }

    async fn add_master(
        &self,
        request: Request<pb::AddMasterRequest>,
    ) -> Result<Response<pb::MembershipResponse>, Status> {
        let here = async |request: pb::AddMasterRequest| {
            let master = convert::master_in(request.master)?;
            self.changed(self.node().add_master(master).await)
        };
        let there = async |channel, request| ClusterClient::new(channel).add_master(request).await;
        self.edge.answer(Hop::Mutation, request, here, there).await
    }

    async fn promote_master(
        &self,
        request: Request<pb::PromoteMasterRequest>,
    ) -> Result<Response<pb::MembershipResponse>, Status> {
        let here = async |request: pb::PromoteMasterRequest| {
            let id = convert::master_id_in("id", request.id)?;
            self.changed(self.node().promote_master(id).await)
        };
        let there = async |channel, request| ClusterClient::new(channel).promote_master(request).await;
        self.edge.answer(Hop::Mutation, request, here, there).await
    }

    async fn remove_master(
        &self,
        request: Request<pb::RemoveMasterRequest>,
    ) -> Result<Response<pb::MembershipResponse>, Status> {
        let here = async |request: pb::RemoveMasterRequest| {
            let id = convert::master_id_in("id", request.id)?;
            self.changed(self.node().remove_master(id).await)
        };
        let there = async |channel, request| ClusterClient::new(channel).remove_master(request).await;
        self.edge.answer(Hop::Mutation, request, here, there).await
    }

    /// An image is taken under a short lock and written by a thread of its own, as fast as the caller takes it.
    async fn save_snapshot(
        &self,
        _request: Request<pb::SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        let guard = StreamGuard::open(self.node())?;
        self.edge.fresh(false).await?;
        let image = self.node().state.read().image();
        let (chunks, stream) = mpsc::channel(SNAPSHOT_QUEUE);
        // Nobody waits for its result: the channel's end tells the stream.
        tokio::task::spawn_blocking(move || {
            let _guard = guard;
            write_image(&image, chunks);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// What this master knows, without asking anybody.
fn info(node: &Node) -> pb::InfoResponse {
    let (status, ready) = progress(node);
    let (tasks, workers, format_level) = {
        let state = node.state.read();
        (state.counts(), state.worker_counts(), state.format_level())
    };
    pb::InfoResponse {
        cluster_id: node.cluster_id(),
        self_: Some(own_address(node, &status)),
        role: convert::role_out(status.role).into(),
        leader: Some(convert::leader_out(&LeaderView { term: status.term, leader: status.leader })),
        masters: status.members.iter().map(convert::member_out).collect(),
        applied_index: status.applied,
        committed_index: status.committed,
        last_log_index: status.last_log,
        snapshot_index: status.snapshot,
        quorum_ack_age_ms: status.quorum_ack_age_ms,
        ready,
        tasks: Some(convert::task_counts_out(&tasks)),
        workers: Some(convert::worker_counts_out(&workers)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms: status.uptime_ms,
        cluster_time_ms: node.cluster_time_ms(),
        format_level,
    }
}

/// As the membership knows this master, or as it advertises itself before it is a member.
fn own_address(node: &Node, status: &NodeStatus) -> pb::MasterAddress {
    let known = status.members.iter().find(|member| member.addr.id == node.id);
    known.map_or_else(
        || {
            let own = &node.config.advertise;
            let (api, raft, http) = (own.api.clone(), own.raft.clone(), own.http.clone());
            pb::MasterAddress { id: node.id, api, raft, http }
        },
        |member| convert::address_out(&member.addr),
    )
}

/// Who leads: at once and on every change, until the node goes down.
fn leaders(node: Arc<Node>, guard: StreamGuard) -> impl Stream<Item = Result<pb::LeaderInfo, Status>> + Send {
    let mut watch = node.leader_watch();
    watch.mark_changed();
    stream::unfold(Some((node, watch, guard)), |following| async move {
        let (node, mut watch, guard) = following?;
        let changed = tokio::select! {
            changed = watch.changed() => changed.is_ok(),
            () = node.going_down() => false,
        };
        if !changed {
            return Some((Err(status(codes::SHUTTING_DOWN, "this master is going down: watch another one")), None));
        }
        let view = watch.borrow_and_update().clone();
        Some((Ok(convert::leader_out(&view)), Some((node, watch, guard))))
    })
}

fn write_image(image: &Image, chunks: mpsc::Sender<Result<pb::SnapshotChunk, Status>>) {
    let mut writer = ChunkWriter { chunks, buffer: Vec::new(), log_index: image.applied_index() };
    if let Err(error) = image.write(&mut writer).and_then(|()| writer.send()) {
        let message = format!("the snapshot could not be written: {error}");
        // Fails only if the caller is gone, who then needs no error.
        let _ = writer.chunks.blocking_send(Err(status(codes::OUTCOME_UNKNOWN, message)));
    }
}

/// Cuts what is written into messages.
struct ChunkWriter {
    chunks: mpsc::Sender<Result<pb::SnapshotChunk, Status>>,
    buffer: Vec<u8>,
    /// For the first chunk; 0 afterwards.
    log_index: u64,
}

impl ChunkWriter {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = Bytes::from(std::mem::take(&mut self.buffer));
        let chunk = pb::SnapshotChunk { data, log_index: std::mem::take(&mut self.log_index) };
        self.chunks.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl io::Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = SNAPSHOT_CHUNK_BYTES - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() >= SNAPSHOT_CHUNK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write as _;

    #[test]
    fn what_is_written_arrives_in_bounded_chunks_with_the_index_in_the_first() {
        let (chunks, mut stream) = mpsc::channel(64);
        let written: Vec<u8> = (0..3 * SNAPSHOT_CHUNK_BYTES + 17).map(|n| n as u8).collect();
        let mut writer = ChunkWriter { chunks, buffer: Vec::new(), log_index: 42 };
        writer.write_all(&written[..100]).unwrap();
        writer.write_all(&written[100..]).unwrap();
        writer.send().unwrap();
        drop(writer);
        let mut arrived = Vec::new();
        let mut indexes = Vec::new();
        while let Some(chunk) = stream.blocking_recv() {
            let chunk = chunk.unwrap();
            assert!(chunk.data.len() <= SNAPSHOT_CHUNK_BYTES);
            arrived.extend_from_slice(&chunk.data);
            indexes.push(chunk.log_index);
        }
        assert_eq!(arrived, written);
        assert_eq!(indexes, [42, 0, 0, 0]);
    }

    #[test]
    fn a_caller_that_went_away_ends_the_writing() {
        let (chunks, stream) = mpsc::channel(1);
        drop(stream);
        let mut writer = ChunkWriter { chunks, buffer: Vec::new(), log_index: 1 };
        let error = writer.write_all(&vec![0; SNAPSHOT_CHUNK_BYTES]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
