//! `steersman.v1.Tasks`: submit, look, cancel, retry, wait, explain, read output.
//!
//! What always holds: mutations end at the leader and carry their request id; reads are served by any master from its own
//! state once a quorum confirmed it (or at once, if a stale answer is good enough).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use steersman_proto::codes;
use steersman_proto::v1::tasks_client::TasksClient;
use steersman_proto::v1::{self as pb, tasks_server::Tasks};
use steersman_state::{AttemptView, Command, Reply, Tally, TaskId, TaskView};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_types::FieldViolation;

use super::convert::{self, LogQuestion, PageOf, PageRequest};
use super::forward::{Edge, Hop};
use super::reading::list_tasks;
use super::status::{invalid, status, status_of_session};
use crate::leader::streams::LogAsk;
use crate::node::Node;

/// Submits in one call.
const SUBMITS_MAX: usize = 1_024;
/// Tasks that are looked at under one read lock.
const LOOK_MAX: u64 = 8_192;

/// The service.
pub struct TasksApi {
    edge: Edge,
}

impl TasksApi {
    /// The service of one node.
    pub fn new(edge: Edge) -> Self {
        Self { edge }
    }

    fn node(&self) -> &Arc<Node> {
        &self.edge.node
    }

    fn client(&self, channel: Channel) -> TasksClient<Channel> {
        let limit = self.node().config.limits.message_bytes_max as usize;
        TasksClient::new(channel).max_decoding_message_size(limit).max_encoding_message_size(limit)
    }

    async fn submit_here(&self, request: pb::SubmitRequest) -> Result<pb::SubmitResponse, Status> {
        let pb::SubmitRequest { request_id, groups, validate_only } = request;
        let request_id = convert::request_id_in(&request_id, &*self.node().world.entropy)?;
        let groups = convert::submit_in(groups, &self.node().config.limits)?;
        if validate_only {
            let count = groups.iter().map(|group| u64::from(group.count)).sum();
            return Ok(pb::SubmitResponse { first_id: 0, count, log_index: 0 });
        }
        let done = self.edge.commit(request_id, Command::Submit { groups }).await?;
        match done.reply {
            Reply::Submitted { first, count } => {
                Ok(pb::SubmitResponse { first_id: first.0, count, log_index: done.log_index })
            }
            other => Err(unexpected("Submit", &other)),
        }
    }

    async fn submit_many_here(&self, request: pb::SubmitManyRequest) -> Result<pb::SubmitManyResponse, Status> {
        let asked = request.submits.len();
        if asked > SUBMITS_MAX {
            let problem = format!("{asked} submits in one call, the limit is {SUBMITS_MAX}");
            return Err(invalid(vec![FieldViolation::new("submits", problem)]));
        }
        let fates = join_all(request.submits.into_iter().map(|submit| self.submit_here(submit))).await;
        Ok(pb::SubmitManyResponse { outcomes: fates.into_iter().map(outcome).collect() })
    }

    async fn cancel_here(&self, request: pb::CancelRequest) -> Result<pb::CancelResponse, Status> {
        let request_id = convert::request_id_in(&request.request_id, &*self.node().world.entropy)?;
        let tasks = convert::task_ids_in(request.ids, &self.node().config.limits)?;
        let done = self.edge.commit(request_id, Command::Cancel { tasks }).await?;
        match done.reply {
            Reply::Cancelled(results) => Ok(pb::CancelResponse {
                results: results.iter().map(convert::cancelled_out).collect(),
                log_index: done.log_index,
            }),
            other => Err(unexpected("Cancel", &other)),
        }
    }

    async fn retry_here(&self, request: pb::RetryRequest) -> Result<pb::RetryResponse, Status> {
        let request_id = convert::request_id_in(&request.request_id, &*self.node().world.entropy)?;
        let tasks = convert::task_ids_in(request.ids, &self.node().config.limits)?;
        let done = self.edge.commit(request_id, Command::Retry { tasks }).await?;
        match done.reply {
            Reply::Retried(results) => Ok(pb::RetryResponse {
                results: results.iter().map(convert::retried_out).collect(),
                log_index: done.log_index,
            }),
            other => Err(unexpected("Retry", &other)),
        }
    }

    async fn read_log_here(&self, question: LogQuestion) -> Result<pb::ReadLogResponse, Status> {
        let reign = self.edge.reign()?;
        let view = self.node().state.read().task(question.task);
        let attempt = attempt_of(view.as_ref().ok_or_else(|| no_task(question.task))?, question.attempt)?;
        let LogQuestion { stderr, offset, max_bytes, wait_ms, .. } = question;
        let ask = LogAsk { stderr, offset, max_bytes, wait_ms };
        let piece = reign.read_log(attempt.worker, attempt.token, ask).await;
        let piece = piece.map_err(|error| status_of_session(&error))?;
        Ok(pb::ReadLogResponse {
            data: piece.data,
            next_offset: piece.next_offset,
            end: piece.end,
            dropped: piece.dropped,
            attempt: attempt.number,
        })
    }

    /// Returns when every task of the range is finished (or gone), or at the deadline.
    async fn wait_for(&self, range: &Range<u64>, deadline: tokio::time::Instant) -> Result<(), Status> {
        let mut rest = range.clone();
        loop {
            let Some(task) = last_unfinished(self.node(), &mut rest).await else { return Ok(()) };
            let Some(bell) = self.node().waiters.subscribe(task) else { return Err(self.too_many_waiters()) };
            self.node().metrics.waiters(self.node().waiters.waiting());
            // Only after the subscription: a finish in between rings the bell.
            if is_finished(self.node(), task) {
                continue;
            }
            let left = deadline.saturating_duration_since(self.node().world.clock.now());
            tokio::select! {
                () = bell.notified() => {}
                () = tokio::time::sleep(left) => return Ok(()),
                () = self.node().going_down() => return Err(status(codes::SHUTTING_DOWN, "this master is going down")),
            }
        }
    }

    fn too_many_waiters(&self) -> Status {
        let max = self.node().waiters.max();
        status(
            codes::OVERLOADED,
            format!("{max} callers wait for tasks already, which is the limit (limits.waiters_max)"),
        )
    }
}

/// A submit's own fate among others.
fn outcome(fate: Result<pb::SubmitResponse, Status>) -> pb::SubmitOutcome {
    let fate = match fate {
        Ok(done) => pb::submit_outcome::Fate::Done(done),
        Err(status) => pb::submit_outcome::Fate::Refused(pb::Refusal {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: status.details().to_vec().into(),
        }),
    };
    pb::SubmitOutcome { fate: Some(fate) }
}

#[tonic::async_trait]
impl Tasks for TasksApi {
    async fn submit(&self, request: Request<pb::SubmitRequest>) -> Result<Response<pb::SubmitResponse>, Status> {
        let there = async |channel, request| self.client(channel).submit(request).await;
        self.edge.answer(Hop::Mutation, request, |request| self.submit_here(request), there).await
    }

    async fn submit_many(
        &self,
        request: Request<pb::SubmitManyRequest>,
    ) -> Result<Response<pb::SubmitManyResponse>, Status> {
        let there = async |channel, request| self.client(channel).submit_many(request).await;
        self.edge.answer(Hop::Mutation, request, |request| self.submit_many_here(request), there).await
    }

    async fn get(&self, request: Request<pb::GetTaskRequest>) -> Result<Response<pb::GetTaskResponse>, Status> {
        let pb::GetTaskRequest { id, consistency } = request.into_inner();
        let id = convert::task_id_in("id", id)?;
        let read = self.edge.fresh(convert::stale_in(consistency)?).await?;
        let view = self.node().state.read().task(id).ok_or_else(|| no_task(id))?;
        let task = convert::task_out(&view, self.node().cluster_time_ms());
        Ok(Response::new(pb::GetTaskResponse { task: Some(task), read: Some(read) }))
    }

    async fn list(&self, request: Request<pb::ListTasksRequest>) -> Result<Response<pb::ListTasksResponse>, Status> {
        let pb::ListTasksRequest { filter, page, newest_first, consistency } = request.into_inner();
        let page = PageRequest::of(PageOf::Tasks, &filter_key(filter.as_ref(), newest_first), page)?;
        let filter = convert::filter_in(filter)?;
        let read = self.edge.fresh(convert::stale_in(consistency)?).await?;
        let now_ms = self.node().cluster_time_ms();
        let (tasks, next_page_token) = list_tasks(&self.node().state.read(), &filter, &page, newest_first, now_ms);
        Ok(Response::new(pb::ListTasksResponse { tasks, next_page_token, read: Some(read) }))
    }

    async fn cancel(&self, request: Request<pb::CancelRequest>) -> Result<Response<pb::CancelResponse>, Status> {
        let there = async |channel, request| self.client(channel).cancel(request).await;
        self.edge.answer(Hop::Mutation, request, |request| self.cancel_here(request), there).await
    }

    async fn retry(&self, request: Request<pb::RetryRequest>) -> Result<Response<pb::RetryResponse>, Status> {
        let there = async |channel, request| self.client(channel).retry(request).await;
        self.edge.answer(Hop::Mutation, request, |request| self.retry_here(request), there).await
    }

    async fn wait(&self, request: Request<pb::WaitRequest>) -> Result<Response<pb::WaitResponse>, Status> {
        let (range, wait_ms) = convert::wait_in(request.into_inner())?;
        let deadline = self.node().world.clock.now() + Duration::from_millis(wait_ms);
        let mut read = self.edge.fresh(false).await?;
        self.wait_for(&range, deadline).await?;
        let tally = tally(self.node(), &range).await;
        if self.node().world.clock.now() >= deadline && wait_ms > 0 {
            // What is finished stays finished; what is not may have finished unseen since the confirmation.
            read = self.edge.fresh(true).await?;
        }
        let one = if range.end - range.start == 1 { self.node().state.read().task(TaskId(range.start)) } else { None };
        let now_ms = self.node().cluster_time_ms();
        Ok(Response::new(pb::WaitResponse {
            done: tally.unfinished == 0,
            succeeded: tally.succeeded,
            failed: tally.failed,
            cancelled: tally.cancelled,
            unfinished: tally.unfinished,
            gone: tally.gone,
            tasks: one.iter().map(|view| convert::task_out(view, now_ms)).collect(),
            read: Some(read),
        }))
    }

    async fn explain(&self, request: Request<pb::ExplainRequest>) -> Result<Response<pb::ExplainResponse>, Status> {
        let id = convert::task_id_in("id", request.into_inner().id)?;
        let read = self.edge.fresh(false).await?;
        let explanation = self.node().state.read().explain(id).ok_or_else(|| no_task(id))?;
        Ok(Response::new(convert::explanation_out(explanation, read)))
    }

    async fn read_log(&self, request: Request<pb::ReadLogRequest>) -> Result<Response<pb::ReadLogResponse>, Status> {
        let question = convert::read_log_in(request.get_ref())?;
        let hop = Hop::Question(Duration::from_millis(u64::from(question.wait_ms)));
        let there = async |channel, request| self.client(channel).read_log(request).await;
        self.edge.answer(hop, request, |_| self.read_log_here(question), there).await
    }
}

/// Everything that selects and orders a list, encoded: what a page token belongs to.
fn filter_key(filter: Option<&pb::TaskFilter>, newest_first: bool) -> Vec<u8> {
    use prost::Message as _;
    let mut key = filter.cloned().unwrap_or_default().encode_to_vec();
    key.push(u8::from(newest_first));
    key
}

fn no_task(id: TaskId) -> Status {
    status(codes::TASK_NOT_FOUND, format!("there is no task {id} (any more: finished tasks are kept for a while)"))
}

/// An answer that `apply` does not give to this command: a bug, told and not hidden.
pub fn unexpected(command: &str, reply: &Reply) -> Status {
    tracing::error!(command, ?reply, "the state answered a command with another one's reply");
    status(codes::INVARIANT, format!("the state answered {command} with another command's reply"))
}

/// The attempt that is meant: the last one, unless a number is given.
fn attempt_of(task: &TaskView, number: Option<u32>) -> Result<&AttemptView, Status> {
    let found = match number {
        None => task.attempts.last(),
        Some(number) => task.attempts.iter().find(|attempt| attempt.number == number),
    };
    found.ok_or_else(|| {
        let (id, total) = (task.id, task.attempts_total);
        let message = match number {
            None => format!("task {id} has not run yet: there is no output"),
            Some(number) => format!("task {id} has no attempt {number} (any more); it had {total}"),
        };
        status(codes::LOG_NOT_FOUND, message)
    })
}

fn is_finished(node: &Node, task: TaskId) -> bool {
    node.state.read().task_state(task).is_none_or(|state| state.is_finished())
}

/// The last unfinished task of the range, which is cut down to what may still hold one. Tasks tend to finish in order, so
/// the last one is the best to wait for.
async fn last_unfinished(node: &Node, rest: &mut Range<u64>) -> Option<TaskId> {
    loop {
        if let Some(task) = look_back(node, rest) {
            return Some(task);
        }
        if rest.is_empty() {
            return None;
        }
        tokio::task::yield_now().await;
    }
}

/// One look at the end of the range.
fn look_back(node: &Node, rest: &mut Range<u64>) -> Option<TaskId> {
    let state = node.state.read();
    // Ids that were never given are gone as far as a wait is concerned.
    rest.end = rest.end.min(state.last_task_id().0.saturating_add(1));
    rest.start = rest.start.max(state.first_task().map_or(rest.end, |first| first.0));
    let from = rest.end.saturating_sub(LOOK_MAX).max(rest.start);
    for id in (from..rest.end).rev() {
        rest.end = id + 1;
        if state.task_state(TaskId(id)).is_some_and(|state| !state.is_finished()) {
            return Some(TaskId(id));
        }
    }
    rest.end = rest.end.min(from);
    None
}

/// What became of the range, looked at piece by piece.
async fn tally(node: &Node, range: &Range<u64>) -> Tally {
    let mut sum = Tally::default();
    let mut from = range.start;
    while from < range.end {
        let count = (range.end - from).min(LOOK_MAX);
        let part = node.state.read().tally(TaskId(from), count);
        sum.succeeded += part.succeeded;
        sum.failed += part.failed;
        sum.cancelled += part.cancelled;
        sum.unfinished += part.unfinished;
        sum.gone += part.gone;
        from += count;
        tokio::task::yield_now().await;
    }
    sum
}
