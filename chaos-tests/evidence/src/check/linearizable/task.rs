//! The register of one task: submit, cancel, read.
//!
//! What always holds: a task moves by itself, but only forwards: through the attempts in the order of their tokens, within an
//! attempt from scheduled to running to waiting, and at last to an end that never changes. It is cancelled only by a
//! caller. The state of the model is the earliest that the task can be, so each read says where it is.

use super::search::Model;
use crate::record::{TaskState, TaskView};

/// How one task may behave.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    /// Nobody but the recorded clients cancels or submits.
    pub closed: bool,
}

/// What is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ask {
    /// It is made.
    Create,
    /// A cancel that was answered: whether it ended the task.
    Cancel {
        /// As answered.
        changed: bool,
    },
    /// A cancel of which nobody knows what came.
    CancelMaybe,
    /// A read, and what it showed.
    Read(Option<Seen>),
}

/// What matters of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The state.
    pub state: TaskState,
    /// Token of the last attempt; 0 if there was none.
    pub token: u64,
}

impl Seen {
    /// Of a view.
    pub fn of(view: &TaskView) -> Self {
        Self { state: view.state, token: view.attempts.last().map_or(0, |last| last.token) }
    }
}

/// Where a task is at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It was not made.
    Absent,
    /// It has no end: its last attempt, and how far that is.
    Open {
        /// Token; 0 before the first.
        token: u64,
        /// From [`stage`].
        stage: u8,
    },
    /// It has an end.
    Over {
        /// Which; `None` if nobody has seen it, except that it is no cancel (of a recorded client).
        end: Option<TaskState>,
        /// Token of the last attempt, or a lower bound of it.
        token: u64,
        /// The token is exact.
        exact: bool,
    },
}

/// How far an attempt is: scheduled, running, waiting for the next one's time, waiting for the next one's slot. None for a
/// state that is final, or that a task without attempts can't have.
fn stage(seen: Seen) -> Option<u8> {
    match (seen.state, seen.token) {
        (TaskState::Pending, _) => Some(4),
        (_, 0) => None,
        (TaskState::Scheduled, _) => Some(1),
        (TaskState::Running, _) => Some(2),
        (TaskState::Retrying, _) => Some(3),
        _ => None,
    }
}

/// The stage from which an attempt can't succeed any more: it has ended.
const ENDED: u8 = 3;

impl Model for Task {
    type State = State;
    type Input = Ask;

    fn start(&self) -> State {
        State::Absent
    }

    fn step(&self, state: &State, input: &Ask) -> Option<State> {
        match input {
            Ask::Create => (*state == State::Absent).then_some(State::Open { token: 0, stage: 4 }),
            Ask::Cancel { changed } => self.cancel(*state, *changed),
            Ask::CancelMaybe => Some(self.cancel(*state, true).unwrap_or(*state)),
            Ask::Read(None) => (*state == State::Absent).then_some(State::Absent),
            Ask::Read(Some(seen)) => self.read(*state, *seen),
        }
    }
}

impl Task {
    fn cancel(&self, state: State, changed: bool) -> Option<State> {
        let cancelled = |token, exact| Some(State::Over { end: Some(TaskState::Cancelled), token, exact });
        match (state, changed) {
            (State::Absent, _) => None,
            (State::Open { token, .. }, true) => cancelled(token, false),
            (State::Open { token, .. }, false) => Some(State::Over { end: None, token, exact: false }),
            // An answer may say "changed" of what an earlier cancel did.
            (State::Over { end: Some(TaskState::Cancelled), token, exact }, true) => cancelled(token, exact),
            (State::Over { end: None, token, exact }, true) if !self.closed => cancelled(token, exact),
            (State::Over { .. }, true) => None,
            (State::Over { .. }, false) => Some(state),
        }
    }

    fn read(&self, state: State, seen: Seen) -> Option<State> {
        match state {
            State::Absent => None,
            State::Open { token, stage: from } if seen.state.is_final() => self.ends(seen, token, from),
            State::Open { token, stage: from } => {
                let to = stage(seen)?;
                let ahead = seen.token > token || (seen.token == token && to >= from);
                ahead.then_some(State::Open { token: seen.token, stage: to })
            }
            State::Over { end, token, exact } => {
                let known = match end {
                    Some(end) => seen.state == end,
                    None => seen.state.is_final() && (seen.state != TaskState::Cancelled || !self.closed),
                };
                let same = if exact { seen.token == token } else { seen.token >= token };
                (known && same).then(|| over(seen))
            }
        }
    }

    /// A task that was open is seen with an end.
    fn ends(&self, seen: Seen, token: u64, from: u8) -> Option<State> {
        let may = match seen.state {
            TaskState::Succeeded => seen.token > token || (seen.token == token && token > 0 && from < ENDED),
            TaskState::Cancelled => seen.token >= token && !self.closed,
            _ => seen.token >= token,
        };
        may.then(|| over(seen))
    }
}

fn over(seen: Seen) -> State {
    State::Over { end: Some(seen.state), token: seen.token, exact: true }
}
