//! What reads share: freshness, and lists that fit a message.
//!
//! What always holds: a state lock is taken after the read was confirmed and is never held across an `.await`; an answer's
//! size is bounded, however large the single tasks are.

use prost::Message as _;
use steersman_proto::v1 as pb;
use steersman_state::{State, TaskFilter, TaskId, TaskView};
use tonic::Status;

use super::convert::{self, PageRequest};
use super::forward::Edge;
use crate::propose::ProposeError;

/// Tasks of one answer, encoded: below the 4 MiB that gRPC clients accept by default.
const LIST_BYTES_MAX: usize = 2 << 20;

impl Edge {
    /// Returns when the local state may be read, and how fresh it is. Waits once for a leader if there is none.
    ///
    /// # Errors
    /// If a linearizable read can't be confirmed now.
    pub async fn fresh(&self, stale: bool) -> Result<pb::ReadInfo, Status> {
        let mut stamp = self.node.read(stale).await;
        if matches!(stamp, Err(ProposeError::NotLeader(None))) {
            self.node.await_leader().await;
            stamp = self.node.read(stale).await;
        }
        let stamp = stamp.map_err(|error| self.refused(&error))?;
        Ok(convert::read_out(&stamp, self.node.id))
    }
}

/// One page of tasks, cut where the answer would grow too large, and the token of the next one.
pub fn list_tasks(
    state: &State,
    filter: &TaskFilter,
    page: &PageRequest,
    newest_first: bool,
    now_ms: u64,
) -> (Vec<pb::Task>, String) {
    let cursor = page.cursor.map(TaskId);
    let (views, mut next) = state.list_tasks(filter, cursor, newest_first, page.size);
    let tasks = fitting(&views, now_ms);
    if tasks.len() < views.len() {
        next = state.list_tasks(filter, cursor, newest_first, tasks.len()).1;
    }
    (tasks, page.token(next.map(|id| id.0)))
}

/// As many tasks as fit an answer, and at least one.
fn fitting(views: &[TaskView], now_ms: u64) -> Vec<pb::Task> {
    let mut bytes = 0;
    let mut tasks = Vec::with_capacity(views.len());
    for view in views {
        let task = convert::task_out(view, now_ms);
        bytes += task.encoded_len();
        if bytes > LIST_BYTES_MAX && !tasks.is_empty() {
            break;
        }
        tasks.push(task);
    }
    tasks
}
