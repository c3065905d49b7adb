//! Typed calls of `steersman.v1.Tasks`.

use std::time::Duration;

use prost::Message as _;
use steersman_proto::v1::tasks_client::TasksClient;
use steersman_proto::v1::{
    CancelRequest, CancelResponse, ExplainRequest, ExplainResponse, GetTaskRequest, GetTaskResponse, ListTasksRequest,
    ListTasksResponse, ReadInfo, ReadLogRequest, ReadLogResponse, RetryRequest, RetryResponse, SubmitRequest,
    SubmitResponse, Task, TaskGroup, WaitRequest, WaitResponse,
};
use tonic::transport::Channel;

use crate::channels::Connection;
use crate::error::Error;
use crate::retry::{Call, Kind};
use crate::{Client, MESSAGE_BYTES_MAX, RequestId};

/// One long poll of [`Client::wait`], in ms: short enough that a master that froze is left within seconds.
const WAIT_POLL_MS: u64 = 5_000;
/// Tasks that one `Wait` may cover.
const WAIT_TASKS_MAX: u64 = 1_000_000;
/// What a big batch may take longer, per task: about what applying and placing it costs a busy master.
const SUBMIT_EXTRA_PER_TASK: Duration = Duration::from_micros(50);

/// How the tasks of a range stand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WaitTotals {
    /// Every task of the range is finished (or gone).
    pub done: bool,
    /// Tasks that succeeded.
    pub succeeded: u64,
    /// Tasks that failed.
    pub failed: u64,
    /// Tasks that were cancelled.
    pub cancelled: u64,
    /// Tasks that are not finished yet.
    pub unfinished: u64,
    /// Finished so long ago that they are no longer kept, or never submitted.
    pub gone: u64,
    /// The task itself, when the range is one task.
    pub task: Option<Task>,
    /// How fresh the last answer is.
    pub read: Option<ReadInfo>,
}

impl WaitTotals {
    fn add(&mut self, answer: WaitResponse) {
        self.done &= answer.done;
        self.succeeded += answer.succeeded;
        self.failed += answer.failed;
        self.cancelled += answer.cancelled;
        self.unfinished += answer.unfinished;
        self.gone += answer.gone;
        self.task = answer.tasks.into_iter().next();
        self.read = answer.read;
    }
}

pub(crate) fn service(connection: Connection) -> TasksClient<Channel> {
    TasksClient::new(connection.channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

impl Client {
    /// Submits tasks under a new request id. Ids are `first_id .. first_id + count`, in the order of `groups`.
    ///
    /// # Errors
    /// As every mutation: see [`crate::Class`].
    pub async fn submit(&self, groups: Vec<TaskGroup>) -> Result<SubmitResponse, Error> {
        self.submit_with_id(self.new_request_id(), groups).await
    }

    /// [`Client::submit`] under a request id of the caller's: repeating it has no second effect.
    ///
    /// # Errors
    /// As every mutation.
    pub async fn submit_with_id(&self, id: RequestId, groups: Vec<TaskGroup>) -> Result<SubmitResponse, Error> {
        self.submit_request(id, groups, false).await
    }

    /// Checks what would be submitted, and changes nothing.
    ///
    /// # Errors
    /// What [`Client::submit`] would be refused for.
    pub async fn validate(&self, groups: Vec<TaskGroup>) -> Result<SubmitResponse, Error> {
        self.submit_request(self.new_request_id(), groups, true).await
    }

    async fn submit_request(
        &self,
        id: RequestId,
        groups: Vec<TaskGroup>,
        validate_only: bool,
    ) -> Result<SubmitResponse, Error> {
        let tasks: u64 = groups.iter().map(|group| u64::from(group.count.max(1))).sum();
        let request = SubmitRequest { request_id: id.to_vec().into(), groups, validate_only };
        let mebibytes = (request.encoded_len() >> 20) as u32;
        let extra =
            SUBMIT_EXTRA_PER_TASK * u32::try_from(tasks).unwrap_or(u32::MAX) + Duration::from_secs(1) * mebibytes;
        let call = Call::new(Kind::Mutation(id)).extra(extra);
        #[cfg(feature = "seeded-bugs")]
        if steersman_bugs::planted("new-request-id-per-try") {
            let anew = |mut request: tonic::Request<SubmitRequest>| {
                request.get_mut().request_id = self.new_request_id().to_vec().into();
                request
            };
            let submit = |connection: Connection, request| connection.submit(anew(request));
            return self.unary(call, request, submit).await;
        }
        self.unary(call, request, Connection::submit).await
    }

    /// One task, linearizable.
    ///
    /// # Errors
    /// `TASK_NOT_FOUND`, or as every read.
    pub async fn get(&self, id: u64) -> Result<GetTaskResponse, Error> {
        self.get_with(GetTaskRequest { id, consistency: 0 }).await
    }

    /// One task, with the consistency that the request asks for.
    ///
    /// # Errors
    /// `TASK_NOT_FOUND`, or as every read.
    pub async fn get_with(&self, request: GetTaskRequest) -> Result<GetTaskResponse, Error> {
        self.unary(
            Call::new(Kind::Read),
            request,
            |channel, request| async move { service(channel).get(request).await },
        )
        .await
    }

    /// One page of tasks.
    ///
    /// # Errors
    /// As every read.
    pub async fn list(&self, request: ListTasksRequest) -> Result<ListTasksResponse, Error> {
        self.unary(
            Call::new(Kind::Read),
            request,
            |channel, request| async move { service(channel).list(request).await },
        )
        .await
    }

    /// Cancels tasks; each result says how its task stands afterwards.
    ///
    /// # Errors
    /// As every mutation.
    pub async fn cancel(&self, ids: Vec<u64>) -> Result<CancelResponse, Error> {
        self.cancel_with_id(self.new_request_id(), ids).await
    }

    /// [`Client::cancel`] under a request id of the caller's.
    ///
    /// # Errors
    /// As every mutation.
    pub async fn cancel_with_id(&self, id: RequestId, ids: Vec<u64>) -> Result<CancelResponse, Error> {
        let request = CancelRequest { request_id: id.to_vec().into(), ids };
        let call = Call::new(Kind::Mutation(id));
        self.unary(call, request, |channel, request| async move { service(channel).cancel(request).await }).await
    }

    /// Submits failed or cancelled tasks anew, under new ids.
    ///
    /// # Errors
    /// As every mutation.
    pub async fn retry(&self, ids: Vec<u64>) -> Result<RetryResponse, Error> {
        self.retry_with_id(self.new_request_id(), ids).await
    }

    /// [`Client::retry`] under a request id of the caller's.
    ///
    /// # Errors
    /// As every mutation.
    pub async fn retry_with_id(&self, id: RequestId, ids: Vec<u64>) -> Result<RetryResponse, Error> {
        let request = RetryRequest { request_id: id.to_vec().into(), ids };
        let call = Call::new(Kind::Mutation(id));
        self.unary(call, request, |channel, request| async move { service(channel).retry(request).await }).await
    }

    /// Waits until every task of `first_id .. first_id + count` is finished, or `patience` has passed (`done` is false
    /// then). Survives failovers; the client's own timeout bounds how long it goes without any master.
    ///
    /// # Errors
    /// As every read.
    pub async fn wait(&self, first_id: u64, count: u64, patience: Option<Duration>) -> Result<WaitTotals, Error> {
        let deadline = patience.map(|patience| self.inner.world.clock.now() + patience);
        let mut totals = WaitTotals { done: true, ..WaitTotals::default() };
        let mut from = first_id;
        let end = first_id.saturating_add(count.max(1));
        while from < end {
            let part = (end - from).min(WAIT_TASKS_MAX);
            totals.add(self.wait_part(from, part, deadline).await?);
            from += part;
        }
        Ok(totals)
    }

    async fn wait_part(
        &self,
        first_id: u64,
        count: u64,
        deadline: Option<tokio::time::Instant>,
    ) -> Result<WaitResponse, Error> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(self.inner.world.clock.now()));
            let left_ms = left.map_or(WAIT_POLL_MS, |left| left.as_millis() as u64);
            let answer = self.wait_once(first_id, count, left_ms.min(WAIT_POLL_MS)).await?;
            if answer.done || left_ms == 0 {
                return Ok(answer);
            }
        }
    }

    /// One long poll: answers when every task of the range is finished or `wait_ms` has passed.
    ///
    /// # Errors
    /// As every read.
    pub async fn wait_once(&self, first_id: u64, count: u64, wait_ms: u64) -> Result<WaitResponse, Error> {
        let request = WaitRequest { first_id, count, wait_ms };
        let call = Call::new(Kind::Read).extra(Duration::from_millis(wait_ms));
        self.unary(call, request, |channel, request| async move { service(channel).wait(request).await }).await
    }

    /// Why a task is not running.
    ///
    /// # Errors
    /// `TASK_NOT_FOUND`, or as every read.
    pub async fn explain(&self, id: u64) -> Result<ExplainResponse, Error> {
        let (call, request) = (Call::new(Kind::Read), ExplainRequest { id });
        self.unary(call, request, |channel, request| async move { service(channel).explain(request).await }).await
    }

    /// One piece of a task's output. Ask again from `next_offset` to follow.
    ///
    /// # Errors
    /// `TASK_NOT_FOUND`, `LOG_NOT_FOUND`, `WORKER_UNREACHABLE` (after a few seconds), or as every read.
    pub async fn read_log(&self, request: ReadLogRequest) -> Result<ReadLogResponse, Error> {
        let call = Call::new(Kind::Read).extra(Duration::from_millis(request.wait_ms.into()));
        self.unary(call, request, |channel, request| async move { service(channel).read_log(request).await }).await
    }
}
