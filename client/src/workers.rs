//! Typed calls of `steersman.v1.Workers`.

use steersman_proto::v1::workers_client::WorkersClient;
use steersman_proto::v1::{
    BrakeAction, BrakeInfo, BrakePolicy, CheckRequest, CheckResponse, EvictRequest, GetWorkerRequest,
    GetWorkerResponse, ListWorkersRequest, ListWorkersResponse, SetBrakeRequest, SetConfigRequest, SetModeRequest,
    ShutdownRequest, WorkerMode, WorkerRef, WorkerResponse,
};
use tonic::transport::Channel;

use crate::channels::Connection;
use crate::error::Error;
use crate::retry::{Call, Kind};
use crate::{Client, MESSAGE_BYTES_MAX, RequestId};

fn service(connection: Connection) -> WorkersClient<Channel> {
    WorkersClient::new(connection.channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A worker by what a person writes: a number is its id, everything else its name.
pub fn worker_ref(text: &str) -> WorkerRef {
    match text.parse() {
        Ok(id) if id != 0 => WorkerRef { id, name: String::new() },
        _ => WorkerRef { id: 0, name: text.to_owned() },
    }
}

impl Client {
    /// One page of the registry.
    ///
    /// # Errors
    /// As every read.
    pub async fn worker_list(&self, request: ListWorkersRequest) -> Result<ListWorkersResponse, Error> {
        self.unary(
            Call::new(Kind::Read),
            request,
            |channel, request| async move { service(channel).list(request).await },
        )
        .await
    }

    /// One worker, linearizable.
    ///
    /// # Errors
    /// `WORKER_NOT_FOUND`, or as every read.
    pub async fn worker_get(&self, worker: WorkerRef) -> Result<GetWorkerResponse, Error> {
        let request = GetWorkerRequest { worker: Some(worker), consistency: 0 };
        self.unary(
            Call::new(Kind::Read),
            request,
            |channel, request| async move { service(channel).get(request).await },
        )
        .await
    }

    /// Drains a worker, opens it again or takes it into maintenance. `deadline_ms` is a drain's; 0 means none.
    ///
    /// # Errors
    /// `WORKER_NOT_FOUND`, `FAILED_PRECONDITION`, or as every mutation.
    pub async fn worker_set_mode(
        &self,
        worker: WorkerRef,
        mode: WorkerMode,
        deadline_ms: u64,
    ) -> Result<WorkerResponse, Error> {
        self.worker_set_mode_with_id(self.new_request_id(), worker, mode, deadline_ms).await
    }

    /// [`Client::worker_set_mode`] under a request id of the caller's: repeating it has no second effect.
    ///
    /// # Errors
    /// As [`Client::worker_set_mode`].
    pub async fn worker_set_mode_with_id(
        &self,
        id: RequestId,
        worker: WorkerRef,
        mode: WorkerMode,
        deadline_ms: u64,
    ) -> Result<WorkerResponse, Error> {
        let request =
            SetModeRequest { request_id: id.to_vec().into(), worker: Some(worker), mode: mode.into(), deadline_ms };
        let call = Call::new(Kind::Mutation(id));
        self.unary(call, request, |channel, request| async move { service(channel).set_mode(request).await }).await
    }

    /// Sets the policy of the brake on mass failure, engages it or releases it. How it stands is in
    /// [`Client::info`].
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, `FAILED_PRECONDITION` (to release what is not engaged), or as every mutation.
    pub async fn brake(&self, action: BrakeAction, policy: Option<BrakePolicy>) -> Result<BrakeInfo, Error> {
        let id = self.new_request_id();
        let request = SetBrakeRequest { request_id: id.to_vec().into(), action: action.into(), policy };
        let call = Call::new(Kind::Mutation(id));
        let send = |channel, request| async move { crate::cluster::service(channel).set_brake(request).await };
        Ok(self.unary(call, request, send).await?.brake.unwrap_or_default())
    }

    /// Declares a worker lost now; its tasks run elsewhere.
    ///
    /// # Errors
    /// `WORKER_NOT_FOUND`, or as every mutation.
    pub async fn worker_evict(&self, worker: WorkerRef) -> Result<WorkerResponse, Error> {
        let id = self.new_request_id();
        let request = EvictRequest { request_id: id.to_vec().into(), worker: Some(worker) };
        let call = Call::new(Kind::Mutation(id));
        self.unary(call, request, |channel, request| async move { service(channel).evict(request).await }).await
    }

    /// Changes a worker's replicated config; the request's own request id is replaced by a new one.
    ///
    /// # Errors
    /// `WORKER_NOT_FOUND`, `INVALID_ARGUMENT`, or as every mutation.
    pub async fn worker_set_config(&self, mut request: SetConfigRequest) -> Result<WorkerResponse, Error> {
        let id = self.new_request_id();
        request.request_id = id.to_vec().into();
        let call = Call::new(Kind::Mutation(id));
        self.unary(call, request, |channel, request| async move { service(channel).set_config(request).await }).await
    }

    /// Ends a worker's process: after a drain, or `now`.
    ///
    /// # Errors
    /// `WORKER_NOT_FOUND`, `WORKER_UNREACHABLE`, or as every mutation.
    pub async fn worker_shutdown(&self, worker: WorkerRef, now: bool) -> Result<WorkerResponse, Error> {
        let id = self.new_request_id();
        let request = ShutdownRequest { request_id: id.to_vec().into(), worker: Some(worker), now };
        let call = Call::new(Kind::Mutation(id));
        self.unary(call, request, |channel, request| async move { service(channel).shutdown(request).await }).await
    }

    /// Asks a worker itself, through its session with the leader.
    ///
    /// # Errors
    /// `WORKER_NOT_FOUND`, `WORKER_UNREACHABLE` (after a few seconds), or as every read.
    pub async fn worker_check(&self, worker: WorkerRef) -> Result<CheckResponse, Error> {
        let request = CheckRequest { worker: Some(worker) };
        self.unary(
            Call::new(Kind::Read),
            request,
            |channel, request| async move { service(channel).check(request).await },
        )
        .await
    }
}
