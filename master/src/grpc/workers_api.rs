//! `steersman.v1.Workers`: the registry, and what operators do with it.
//!
//! What always holds: what is replicated is served by any master; how much of its lease a worker has left and its last
//! load are known to the leader alone, so they are filled in where this master leads or can ask in one cheap hop, and left
//! empty otherwise.

use std::sync::Arc;
use std::time::Duration;

use steersman_proto::codes;
use steersman_proto::v1::workers_client::WorkersClient;
use steersman_proto::v1::{self as pb, workers_server::Workers};
use steersman_state::{Command, Reply, WorkerId, WorkerRef, WorkerView};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::convert::{self, PageOf, PageRequest};
use super::forward::{Edge, Hop};
use super::status::{status, status_of_rejection, status_of_session};
use super::tasks_api::unexpected;
use crate::leader::Reign;
use crate::node::Node;

/// Workers that are looked at under one read lock.
const LOOK_MAX: usize = 1_000;
/// A worker answers a health check within this, or not at all.
const CHECK_WAIT: Duration = Duration::from_secs(3);

/// The service.
pub struct WorkersApi {
    edge: Edge,
}

impl WorkersApi {
    /// The service of one node.
    pub fn new(edge: Edge) -> Self {
        Self { edge }
    }

    fn node(&self) -> &Arc<Node> {
        &self.edge.node
    }

    fn client(&self, channel: Channel) -> WorkersClient<Channel> {
        let limit = self.node().config.limits.message_bytes_max as usize;
        WorkersClient::new(channel).max_decoding_message_size(limit).max_encoding_message_size(limit)
    }

    /// The worker that is meant.
    fn find(&self, worker: &WorkerRef) -> Result<WorkerView, Status> {
        let state = self.node().state.read();
        let found = state.find_worker(worker).and_then(|id| state.worker(id));
        found.ok_or_else(|| no_worker(worker))
    }

    /// A worker with what only the leader knows, if this master leads.
    fn shown(&self, view: &WorkerView, reign: Option<&Reign>) -> pb::Worker {
        let mut worker = convert::worker_out(view);
        if let Some(reign) = reign.filter(|_| view.connected) {
            worker.lease_left_ms = reign.lease_left_ms(view.id).unwrap_or(0);
            worker.load = reign.load(view.id);
        }
        worker
    }

    async fn change_here(
        &self,
        request_id: &bytes::Bytes,
        command: Result<Command, Status>,
    ) -> Result<pb::WorkerResponse, Status> {
        let request_id = convert::request_id_in(request_id, &*self.node().world.entropy)?;
        let done = self.edge.commit(request_id, command?).await?;
        match done.reply {
            Reply::Worker(id) => {
                let view = self.find(&WorkerRef::Id(id))?;
                let worker = self.shown(&view, self.node().reign().as_deref());
                Ok(pb::WorkerResponse { worker: Some(worker), log_index: done.log_index })
            }
            Reply::Rejected(rejection) => Err(status_of_rejection(&rejection)),
            other => Err(unexpected("a change of a worker", &other)),
        }
    }

    async fn check_here(&self, worker: WorkerRef) -> Result<pb::CheckResponse, Status> {
        let reign = self.edge.reign()?;
        let id = self.find(&worker)?.id;
        let (reply, took) = reign.check_worker(id).await.map_err(|error| status_of_session(&error))?;
        Ok(pb::CheckResponse {
            load: reply.load,
            running: reply.running,
            round_trip_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            version: reply.version,
        })
    }

    /// One page of the workers with these statuses.
    fn page(&self, statuses: &[pb::WorkerStatus], page: &PageRequest) -> (Vec<pb::Worker>, Option<u64>) {
        let reign = self.node().reign();
        let (mut workers, mut cursor) = (Vec::new(), page.cursor.map(WorkerId));
        loop {
            let wanted = LOOK_MAX.min(page.size - workers.len());
            let (views, next) = self.node().state.read().list_workers(cursor, wanted);
            let matching =
                |view: &&WorkerView| statuses.is_empty() || statuses.contains(&convert::worker_status_out(view.status));
            workers.extend(views.iter().filter(matching).map(|view| self.shown(view, reign.as_deref())));
            cursor = next;
            if cursor.is_none() || workers.len() >= page.size {
                return (workers, cursor.map(|id| id.0));
            }
        }
    }
}

#[tonic::async_trait]
impl Workers for WorkersApi {
    async fn list(
        &self,
        request: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersResponse>, Status> {
        let pb::ListWorkersRequest { statuses, page, consistency } = request.into_inner();
        let key: Vec<u8> = statuses.iter().flat_map(|status| status.to_be_bytes()).collect();
        let page = PageRequest::of(PageOf::Workers, &key, page)?;
        let statuses = convert::statuses_in(&statuses)?;
        let read = self.edge.fresh(convert::stale_in(consistency)?).await?;
        let (workers, next) = self.page(&statuses, &page);
        Ok(Response::new(pb::ListWorkersResponse { workers, next_page_token: page.token(next), read: Some(read) }))
    }

    async fn get(&self, request: Request<pb::GetWorkerRequest>) -> Result<Response<pb::GetWorkerResponse>, Status> {
        let pb::GetWorkerRequest { worker, consistency } = request.into_inner();
        let worker = convert::worker_ref_in(worker)?;
        let read = self.edge.fresh(convert::stale_in(consistency)?).await?;
        let view = self.find(&worker)?;
        let worker = self.shown(&view, self.node().reign().as_deref());
        Ok(Response::new(pb::GetWorkerResponse { worker: Some(worker), read: Some(read) }))
    }

    async fn set_mode(&self, request: Request<pb::SetModeRequest>) -> Result<Response<pb::WorkerResponse>, Status> {
        let here = async |mut request: pb::SetModeRequest| {
            let id = std::mem::take(&mut request.request_id);
            self.change_here(&id, convert::set_mode_in(request)).await
        };
        let there = async |channel, request| self.client(channel).set_mode(request).await;
        self.edge.answer(Hop::Mutation, request, here, there).await
    }

    async fn evict(&self, request: Request<pb::EvictRequest>) -> Result<Response<pb::WorkerResponse>, Status> {
        let here = async |mut request: pb::EvictRequest| {
            let id = std::mem::take(&mut request.request_id);
            self.change_here(&id, convert::evict_in(request)).await
        };
        let there = async |channel, request| self.client(channel).evict(request).await;
        self.edge.answer(Hop::Mutation, request, here, there).await
    }

    async fn set_config(&self, request: Request<pb::SetConfigRequest>) -> Result<Response<pb::WorkerResponse>, Status> {
        let here = async |mut request: pb::SetConfigRequest| {
            let id = std::mem::take(&mut request.request_id);
            let lease_ms = self.node().state.read().limits().lease_ms;
            let command = convert::set_config_in(request, lease_ms, &self.node().config.limits);
            self.change_here(&id, command).await
        };
        let there = async |channel, request| self.client(channel).set_config(request).await;
        self.edge.answer(Hop::Mutation, request, here, there).await
    }

    async fn shutdown(&self, request: Request<pb::ShutdownRequest>) -> Result<Response<pb::WorkerResponse>, Status> {
        let here = async |mut request: pb::ShutdownRequest| {
            let id = std::mem::take(&mut request.request_id);
            self.change_here(&id, convert::shutdown_in(request)).await
        };
        let there = async |channel, request| self.client(channel).shutdown(request).await;
        self.edge.answer(Hop::Mutation, request, here, there).await
    }

    async fn check(&self, request: Request<pb::CheckRequest>) -> Result<Response<pb::CheckResponse>, Status> {
        let worker = convert::worker_ref_in(request.get_ref().worker.clone())?;
        let there = async |channel, request| self.client(channel).check(request).await;
        self.edge.answer(Hop::Question(CHECK_WAIT), request, |_| self.check_here(worker), there).await
    }
}

fn no_worker(worker: &WorkerRef) -> Status {
    let message = match worker {
        WorkerRef::Id(id) => format!("there is no worker {id}"),
        WorkerRef::Name(name) => format!("there is no worker named {}", convert::checks::quoted(name)),
    };
    status(codes::WORKER_NOT_FOUND, message)
}
