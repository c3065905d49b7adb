//! From what the client crate says to what the history says: the one place, for simulations, real chaos and drills.
//!
//! What always holds: `fail` is said only of an operation that surely had no effect and never will; everything that is not known
//! is `unknown`. Nothing is judged here.

use steersman_client::v1::event::Kind;
use steersman_client::v1::{
    CancelResponse, Event as WireEvent, GetTaskResponse, ListTasksResponse, ListWorkersResponse, ReadInfo,
    SubmitResponse, Task, TaskState as WireState, Worker, WorkerStatus,
};
use steersman_client::{Class, Error, codes};

use crate::record::{Answer, AttemptView, Event, Outcome, TaskState, TaskView, WorkerView};

/// An answer with the master that gave it, if it said so.
pub type Told = (Option<u64>, Outcome);

/// Of an error. A refusal by the caller's fault and a call that no master may have acted on had no effect.
pub fn refused(error: &Error) -> Told {
    let text = format!("{} {}: {error}", error.code(), error.reason());
    let outcome = match error.class() {
        Class::Caller | Class::Unavailable | Class::Usage => Outcome::Fail { error: text },
        Class::OutcomeUnknown => Outcome::Unknown { error: text },
    };
    (None, outcome)
}

fn ok(master: Option<u64>, answer: Answer) -> Told {
    (master, Outcome::Ok { answer })
}

/// Of a submit.
pub fn submitted(answer: &Result<SubmitResponse, Error>) -> Told {
    match answer {
        Ok(done) => ok(None, Answer::Submitted { first: done.first_id, count: done.count, index: done.log_index }),
        Err(error) => refused(error),
    }
}

/// Of the cancel of one task.
pub fn cancelled(answer: &Result<CancelResponse, Error>) -> Told {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return refused(error),
    };
    match answer.results.first() {
        Some(result) if !result.not_found => {
            ok(None, Answer::Cancelled { changed: result.cancelled, index: answer.log_index })
        }
        _ => (None, Outcome::Fail { error: format!("{}: no such task", codes::TASK_NOT_FOUND.reason) }),
    }
}

/// Of a read of one task. That there is no such task is an answer.
pub fn read(answer: &Result<GetTaskResponse, Error>) -> Told {
    match answer {
        Ok(answer) => {
            let (index, master) = freshness(answer.read.as_ref());
            ok(master, Answer::Task { task: answer.task.as_ref().map(task_view), index })
        }
        Err(error) if error.is(codes::TASK_NOT_FOUND) => ok(None, Answer::Task { task: None, index: 0 }),
        Err(error) => refused(error),
    }
}

/// Of a read of the registry.
pub fn registry(answer: &Result<ListWorkersResponse, Error>) -> Told {
    match answer {
        Ok(answer) => {
            let (index, master) = freshness(answer.read.as_ref());
            ok(master, Answer::Workers { workers: answer.workers.iter().map(worker_view).collect(), index })
        }
        Err(error) => refused(error),
    }
}

/// Of any other change.
pub fn done(answer: Result<u64, &Error>) -> Told {
    match answer {
        Ok(index) => ok(None, Answer::Done { index }),
        Err(error) => refused(error),
    }
}

/// Each task of a page, as if it had been read alone.
pub fn page(answer: &ListTasksResponse) -> Vec<(u64, Told)> {
    let (index, master) = freshness(answer.read.as_ref());
    let one = |task: &Task| (task.id, ok(master, Answer::Task { task: Some(task_view(task)), index }));
    answer.tasks.iter().map(one).collect()
}

fn freshness(read: Option<&ReadInfo>) -> (u64, Option<u64>) {
    read.map_or((0, None), |read| (read.applied_index, Some(read.served_by)))
}

fn task_view(task: &Task) -> TaskView {
    let attempts = task.attempts.iter().map(|attempt| AttemptView {
        token: attempt.token,
        worker: attempt.worker_id,
        ended: attempt.outcome != 0,
    });
    TaskView { state: state(task.state()), attempts: attempts.collect() }
}

/// A state in the words of the history.
fn state(state: WireState) -> TaskState {
    match state {
        WireState::Unspecified | WireState::Pending => TaskState::Pending,
        WireState::Scheduled => TaskState::Scheduled,
        WireState::Running => TaskState::Running,
        WireState::Retrying => TaskState::Retrying,
        WireState::Succeeded => TaskState::Succeeded,
        WireState::Failed => TaskState::Failed,
        WireState::Cancelled => TaskState::Cancelled,
    }
}

fn worker_view(worker: &Worker) -> WorkerView {
    let status = match worker.status() {
        WorkerStatus::Unspecified => "unspecified",
        WorkerStatus::Online => "online",
        WorkerStatus::Busy => "busy",
        WorkerStatus::Draining => "draining",
        WorkerStatus::Maintenance => "maintenance",
        WorkerStatus::Offline => "offline",
    };
    let (name, status) = (worker.name.clone(), status.to_owned());
    WorkerView { id: worker.id, name, status, used: worker.used.into(), capacity: worker.capacity.into() }
}

/// One event in the words of the history.
pub fn event(event: &WireEvent) -> Event {
    let other = |name: &str| Event::Other { name: name.to_owned() };
    match &event.kind {
        Some(Kind::TasksSubmitted(new)) => Event::Submitted { first: new.first_id, count: new.count },
        Some(Kind::TaskAssigned(to)) => Event::Assigned { task: to.task_id, token: to.token, worker: to.worker_id },
        Some(Kind::TaskStarted(run)) => Event::Started { task: run.task_id, token: run.token },
        Some(Kind::AttemptEnded(end)) => Event::Ended { task: end.task_id, token: end.token },
        Some(Kind::TaskFinished(end)) => Event::Finished { task: end.task_id, state: state(end.state()) },
        Some(Kind::TaskRetrying(task)) => Event::Retrying { task: task.task_id },
        Some(Kind::WorkerChanged(to)) => {
            Event::Worker { worker: to.worker_id, name: to.name.clone(), change: to.change.clone() }
        }
        Some(Kind::LeaderElected(leader)) => Event::Leader { term: leader.term, master: leader.master_id },
        Some(Kind::WorkerLoad(_)) => other("worker_load"),
        Some(Kind::MembershipChanged(_)) => other("membership_changed"),
        Some(Kind::TasksTrimmed(_)) => other("tasks_trimmed"),
        Some(Kind::ElectionReport(_)) => other("election_report"),
        Some(Kind::BrakeChanged(_)) => other("brake_changed"),
        // Of a newer master.
        None => other("unknown"),
    }
}

#[cfg(test)]
mod tests {
    use steersman_client::v1::CancelResult;

    use super::*;

    #[test]
    fn a_cancel_of_nothing_is_no_success() {
        let result = CancelResult { not_found: true, ..CancelResult::default() };
        let (_, outcome) = cancelled(&Ok(CancelResponse { results: vec![result], log_index: 9 }));
        assert!(matches!(outcome, Outcome::Fail { .. }));
    }

    #[test]
    fn a_read_says_what_it_saw_and_where() {
        let task = Task { id: 3, state: WireState::Running.into(), ..Task::default() };
        let read = ReadInfo { applied_index: 7, served_by: 2, ..ReadInfo::default() };
        let (master, outcome) = super::read(&Ok(GetTaskResponse { task: Some(task), read: Some(read) }));
        let view = TaskView { state: TaskState::Running, attempts: Vec::new() };
        assert_eq!(master, Some(2));
        assert_eq!(outcome, Outcome::Ok { answer: Answer::Task { task: Some(view), index: 7 } });
    }
}
