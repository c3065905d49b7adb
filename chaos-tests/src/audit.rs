//! Questions that many tests end with: is everything there, is everything finished, and was it finished once?

use std::collections::BTreeMap;
use std::time::Duration;

use steersman_client::v1::{ListTasksRequest, Page, ReadLogRequest, Task, TaskFilter, TaskState};
use steersman_client::{Client, EventsFrom, worker_ref};

use crate::cluster::PATIENCE;
use crate::history::History;
use crate::poll::until;

/// Tasks in one page of a list: the most there may be.
const PAGE_SIZE: u32 = 1_000;

/// All tasks that are kept, by id, and linearizable at each page.
///
/// # Panics
/// If the cluster does not answer.
pub async fn all_tasks(client: &Client) -> BTreeMap<u64, Task> {
    let (mut tasks, mut page_token) = (BTreeMap::new(), String::new());
    loop {
        let page = Some(Page { page_size: PAGE_SIZE, page_token });
        let request = ListTasksRequest { page, filter: Some(TaskFilter::default()), ..ListTasksRequest::default() };
        let answer = client.list(request).await.unwrap_or_else(|error| panic!("cannot list tasks: {error}"));
        for task in answer.tasks {
            let id = task.id;
            assert!(tasks.insert(id, task).is_none(), "task {id} is listed twice");
        }
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return tasks;
        }
    }
}

/// One task.
///
/// # Panics
/// If the cluster does not answer, or does not know it.
pub async fn task(client: &Client, id: u64) -> Task {
    let answer = client.get(id).await.unwrap_or_else(|error| panic!("cannot get task {id}: {error}"));
    answer.task.unwrap_or_else(|| panic!("no task in the answer for {id}"))
}

/// Waits until a task has that state.
pub async fn wait_state(client: &Client, id: u64, state: TaskState, within: Duration) -> Task {
    wait_task(client, id, &format!("task {id} to be {state:?}"), within, |task| task.state() == state).await
}

/// Waits until a task is as wanted.
pub async fn wait_task(client: &Client, id: u64, what: &str, within: Duration, wanted: impl Fn(&Task) -> bool) -> Task {
    until(what, within, async || {
        let seen = task(client, id).await;
        if wanted(&seen) { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
    .await
}

/// Waits until tasks `first .. first + count` are finished.
///
/// # Panics
/// If they do not all succeed.
pub async fn all_succeed(client: &Client, first: u64, count: u64, within: Duration) {
    let totals = client.wait(first, count, Some(within)).await;
    let totals = totals.unwrap_or_else(|error| panic!("cannot wait: {error}"));
    assert!(totals.done && totals.succeeded == count, "tasks {first}..{}: {totals:?}", first + count - 1);
}

/// What must be true after every storm: each acknowledged task is there and has succeeded, each has exactly one accepted
/// outcome, the history is sound, and a read agrees with it. Returns the history.
///
/// # Panics
/// If any of it is not true.
pub async fn sound(client: &Client, acknowledged: &[u64], within: Duration) -> History {
    let last = acknowledged.iter().max().copied().unwrap_or(0);
    let totals = client.wait(1, last, Some(within)).await.unwrap_or_else(|error| panic!("cannot wait: {error}"));
    assert!(totals.done, "not everything is finished: {totals:?}");
    let history = History::read_from(client, EventsFrom::Oldest).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(history.problems(), Vec::<String>::new());
    assert_eq!(history.gaps, [], "the test outran the retention");
    let (outcomes, tasks) = (history.outcomes(), all_tasks(client).await);
    for id in acknowledged {
        assert_eq!(outcomes.get(id), Some(&TaskState::Succeeded), "task {id} was acknowledged");
    }
    for (id, task) in &tasks {
        assert_eq!(outcomes.get(id), Some(&task.state()), "task {id}: its events and a read of it disagree");
    }
    let lost: Vec<_> = acknowledged.iter().filter(|id| !tasks.contains_key(id)).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    history
}

/// Pid of the only task that runs on a worker, as the worker says itself, once its process is there.
pub async fn pid_on(client: &Client, worker: &str) -> u32 {
    until(&format!("one process on {worker}"), PATIENCE, async || {
        let check = client.worker_check(worker_ref(worker)).await.map_err(|error| error.to_string())?;
        match check.running.as_slice() {
            [only] if only.pid > 0 => Ok(only.pid.cast_unsigned()),
            running => Err(format!("{running:?}")),
        }
    })
    .await
}

/// Standard output of a task's last attempt, to its end.
///
/// # Panics
/// If it cannot be read.
pub async fn output(client: &Client, id: u64) -> String {
    let (mut bytes, mut offset) = (Vec::new(), 0);
    loop {
        let request = ReadLogRequest { id, offset, wait_ms: 1_000, ..ReadLogRequest::default() };
        let piece = client.read_log(request).await.unwrap_or_else(|error| panic!("no output of task {id}: {error}"));
        bytes.extend_from_slice(&piece.data);
        offset = piece.next_offset;
        if piece.end {
            return String::from_utf8_lossy(&bytes).into_owned();
        }
    }
}

/// Whether attempts ran one after the other, by the tokens that they wrote while they ran, in the order of writing.
pub fn one_after_the_other(tokens: &[u64]) -> bool {
    tokens.is_sorted()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_attempt_that_writes_after_a_newer_one_is_an_overlap() {
        assert!(one_after_the_other(&[3, 3, 3, 8, 8]));
        assert!(!one_after_the_other(&[3, 3, 8, 3, 8]));
    }
}
