//! `steersman.v1.Cluster`: the masters themselves.
//!
//! What always holds: `Info` and `WatchLeader` answer from memory and never wait for anybody, so that an operator learns
//! something from a master that has lost all others. Membership changes end at the leader, one at a time.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{self, Stream};
use steersman_proto::codes;
use steersman_proto::v1::cluster_client::ClusterClient;
use steersman_proto::v1::{self as pb, cluster_server::Cluster};
use steersman_raft_store::SnapshotData;
use steersman_state::{Command, RequestId};
use tonic::{Request, Response, Status};

use super::convert;
use super::events_api::StreamGuard;
use super::forward::{Edge, Hop};
use super::status::{status, status_of_member};
use super::verify;
use crate::node::{LeaderView, MemberError, Node, NodeStatus};
use crate::observe::progress;

/// Ids of held workers that an answer lists.
const HELD_SHOWN_MAX: usize = 100;
/// Bytes of one message of a snapshot.
const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

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
            pb::LeaderInfo { term: hint.term, leader: Some(address), masters: Vec::new() }
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
    type SaveSnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotChunk, Status>> + Send>>;

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
        self.edge.answer(Hop::Once, request, here, there).await
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
        self.edge.answer(Hop::Once, request, here, there).await
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
        self.edge.answer(Hop::Once, request, here, there).await
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
        self.edge.answer(Hop::Once, request, here, there).await
    }

    async fn audit(&self, request: Request<pb::AuditRequest>) -> Result<Response<pb::AuditResponse>, Status> {
        let here = async |_: pb::AuditRequest| {
            let id = RequestId(self.node().world.entropy.next_id());
            let done = self.edge.commit(id, Command::Audit).await?;
            Ok(pb::AuditResponse { log_index: done.log_index })
        };
        let there = async |channel, request| ClusterClient::new(channel).audit(request).await;
        self.edge.answer(Hop::Mutation, request, here, there).await
    }

    async fn verify(&self, request: Request<pb::VerifyRequest>) -> Result<Response<pb::VerifyResponse>, Status> {
        let Some(store) = self.node().store() else {
            return Err(status(codes::SHUTTING_DOWN, "this master is still starting: ask again"));
        };
        Ok(Response::new(verify::verify(self.node(), store, request.get_ref()).await))
    }

    async fn set_brake(&self, request: Request<pb::SetBrakeRequest>) -> Result<Response<pb::SetBrakeResponse>, Status> {
        let here = async |request: pb::SetBrakeRequest| {
            let id = convert::request_id_in(&request.request_id, &*self.node().world.entropy)?;
            let done = self.edge.commit(id, convert::brake_in(&request)?).await?;
            Ok(pb::SetBrakeResponse { brake: Some(brake(self.node())), log_index: done.log_index })
        };
        let there = async |channel, request| ClusterClient::new(channel).set_brake(request).await;
        self.edge.answer(Hop::Mutation, request, here, there).await
    }

    /// The file that `steersman cluster snapshot inspect` and `restore` read: built beside the work, sent as fast as the
    /// caller takes it.
    async fn save_snapshot(
        &self,
        _request: Request<pb::SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        let guard = StreamGuard::open(self.node())?;
        self.edge.fresh(false).await?;
        let data = self.node().fresh_snapshot().await.map_err(no_snapshot)?;
        let meta = data.meta().map_err(no_snapshot)?;
        let log_index = meta.last_log_id.map_or(0, |last| last.index);
        Ok(Response::new(Box::pin(chunks(data, log_index, guard))))
    }
}

fn no_snapshot(error: impl std::fmt::Display) -> Status {
    status(codes::OUTCOME_UNKNOWN, format!("no snapshot could be taken: {error}"))
}

/// The bytes of a snapshot in bounded messages; the first one says its index.
fn chunks(
    data: SnapshotData,
    log_index: u64,
    guard: StreamGuard,
) -> impl Stream<Item = Result<pb::SnapshotChunk, Status>> + Send {
    stream::unfold(Some((data, log_index, guard)), |open| async move {
        let (mut data, log_index, guard) = open?;
        match data.next_chunk(SNAPSHOT_CHUNK_BYTES).await {
            Ok(bytes) => Some((Ok(pb::SnapshotChunk { data: bytes?, log_index }), Some((data, 0, guard)))),
            Err(error) => Some((Err(no_snapshot(error)), None)),
        }
    })
}

fn brake(node: &Node) -> pb::BrakeInfo {
    convert::brake_out(&node.state.read().brake(HELD_SHOWN_MAX), node.cluster_time_ms())
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
        leader: Some(convert::leader_out(&LeaderView {
            term: status.term,
            leader: status.leader,
            members: Vec::new(),
        })),
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
        disk_stalled: status.disk_stalled,
        disk_write_ms: status.disk_write_ms,
        brake: Some(brake(node)),
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
