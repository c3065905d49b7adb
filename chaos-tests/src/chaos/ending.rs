//! The end of a run's storm: the queue drains, followers catch up, every task is read once more, linearizably.
//!
//! What always holds: nothing here waits for ever, and what was waited for in vain is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use steersman_client::v1::{ListTasksRequest, Page, TaskFilter};
use steersman_client::{Client, Error};
use steersman_evidence::record::{Answer, Call, Outcome};
use tokio::time::Instant;

use super::recorder::Recorder;
use super::watcher::{Standing, Watcher};
use steersman_evidence::answers::{self, Told};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Tasks that are read at a time: a page.
const PAGE: u64 = 1_000;
/// How long one page may take, a busy machine included.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Tries for each page.
const PAGE_TRIES: u32 = 3;

/// Waits until there is a leader that knows of no unfinished task.
///
/// # Errors
/// How it stood when `patience` was over.
pub async fn drained(watcher: &Watcher, patience: Duration) -> Result<Standing, String> {
    let until = Instant::now() + patience;
    // What was seen before the last operation ended proves nothing.
    tokio::time::sleep(2 * LOOK_EVERY).await;
    loop {
        let standing = watcher.standing();
        if standing.leader.is_some() && standing.unfinished == 0 {
            return Ok(standing);
        }
        if Instant::now() >= until {
            return Err(format!("the queue did not drain within {patience:?}: {standing:?}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Reads every task that was ever submitted, and writes it down as one read of each. Returns how many were read.
///
/// # Errors
/// If a page cannot be read.
pub async fn read_all(recorder: &Arc<Recorder>, client: &Client) -> Result<u64, String> {
    let client = client.with_timeout(PAGE_TIMEOUT);
    let info = client.info().await.map_err(|error| format!("how many tasks there are is not known: {error}"))?;
    let total = info.tasks.map_or(0, |tasks| tasks.submitted_total);
    let processes: Vec<u64> = (0..PAGE.min(total)).map(|_| recorder.new_process()).collect();
    let mut first = 1;
    while first <= total {
        let last = (first + PAGE - 1).min(total);
        read_range(recorder, &client, &processes, (first, last)).await?;
        first = last + 1;
    }
    Ok(total)
}

async fn read_range(
    recorder: &Recorder,
    client: &Client,
    processes: &[u64],
    (first, last): (u64, u64),
) -> Result<(), String> {
    let mut tries = 0;
    loop {
        let invoke = |(task, process): (u64, &u64)| recorder.invoke(*process, None, Call::Read { task, stale: false });
        let ops: Vec<u64> = (first..=last).zip(processes).map(invoke).collect();
        let answer = list(client, first, last).await;
        tries += 1;
        let (mut found, refusal) = match answer {
            Ok(found) => (found, None),
            Err(error) => (BTreeMap::new(), Some(error)),
        };
        for (task, op) in (first..=last).zip(ops) {
            let (master, outcome) = match &refusal {
                None => found.remove(&task).unwrap_or((None, nothing())),
                Some(error) => answers::refused(error),
            };
            recorder.complete(op, master, outcome);
        }
        match refusal {
            None => return Ok(()),
            Some(error) if tries == PAGE_TRIES => return Err(format!("tasks {first} to {last}: {error}")),
            Some(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// There is no such task.
fn nothing() -> Outcome {
    Outcome::Ok { answer: Answer::Task { task: None, index: 0 } }
}

/// All tasks of a range. A page that is cut for its size is followed by another.
async fn list(client: &Client, first: u64, last: u64) -> Result<BTreeMap<u64, Told>, Error> {
    let (mut found, mut page_token) = (BTreeMap::new(), String::new());
    loop {
        let filter = TaskFilter { id_from: first, id_to: last, ..TaskFilter::default() };
        let page = Some(Page { page_size: PAGE as u32, page_token });
        let request = ListTasksRequest { filter: Some(filter), page, ..ListTasksRequest::default() };
        let answer = client.list(request).await?;
        found.extend(answers::page(&answer));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}
