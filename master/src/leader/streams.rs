//! One worker's session: what goes out on its stream, and the questions that wait for its answers.
//!
//! What always holds: sending never blocks. The queue of a session is bounded by what the worker may hold: assignments by
//! its capacity, cancels by its assignments, answers by its reports.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use steersman_proto::v1::LoadReport;
use steersman_proto::worker::v1 as pb;
use steersman_state::effect::Effect;
use steersman_state::ids::{Token, WorkerId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Reign;

/// A worker answers a health check at once; a log question after its own long poll.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Questions that wait for one worker's answer; more are refused.
const QUESTIONS_MAX: usize = 1_000;

/// What can be put on a session's stream.
#[derive(Debug)]
pub enum Outgoing {
    /// From `apply`, and when it was applied here.
    Effect(Effect, Instant),
    /// Anything else, ready to send.
    Message(pb::master_message::Kind),
}

/// What a worker answered.
#[derive(Debug)]
pub enum AnswerFrom {
    /// To a health check.
    Health(pb::HealthReply),
    /// To a question for output.
    Log(pb::LogReply),
}

/// A piece of a task's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// The bytes.
    pub data: Bytes,
    /// Where the next piece begins.
    pub next_offset: u64,
    /// Nothing more will come.
    pub end: bool,
    /// Bytes that were over the worker's bound.
    pub dropped: u64,
}

/// Which piece of an attempt's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogAsk {
    /// Standard error instead of standard output.
    pub stderr: bool,
    /// First byte.
    pub offset: u64,
    /// At most so many bytes.
    pub max_bytes: u32,
    /// Waits so long for new bytes.
    pub wait_ms: u32,
}

/// Why a worker could not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// It has no session with this reign.
    #[error("the worker has no session with the leader")]
    NotConnected,
    /// It did not answer in time.
    #[error("the worker did not answer in time")]
    Timeout,
    /// It does not have what was asked for.
    #[error("the worker does not have it")]
    NotFound,
}

/// One worker's open session with this reign.
pub struct Session {
    /// Whose.
    pub worker: WorkerId,
    /// Number from the log.
    pub number: u64,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    nonce: AtomicU64,
    questions: Mutex<HashMap<u64, oneshot::Sender<AnswerFrom>>>,
    load: Mutex<Option<LoadReport>>,
}

impl Session {
    /// A session and the receiving end of its queue.
    pub fn new(worker: WorkerId, number: u64) -> (Arc<Self>, mpsc::UnboundedReceiver<Outgoing>) {
        let (outgoing, queue) = mpsc::unbounded_channel();
        let (nonce, questions, load) = (AtomicU64::new(1), Mutex::default(), Mutex::default());
        (Arc::new(Self { worker, number, outgoing, nonce, questions, load }), queue)
    }

    /// Puts something on the stream; dropped if the stream is gone.
    pub fn send(&self, outgoing: Outgoing) {
        let _ = self.outgoing.send(outgoing);
    }

    /// An answer came in.
    pub fn answered(&self, nonce: u64, answer: AnswerFrom) {
        if let Some(asker) = self.questions.lock().remove(&nonce) {
            let _ = asker.send(answer);
        }
    }

    /// Notes the load of the last heartbeat.
    pub fn note_load(&self, load: LoadReport) {
        *self.load.lock() = Some(load);
    }

    async fn ask(
        &self,
        limit: Duration,
        question: impl FnOnce(u64) -> pb::master_message::Kind,
    ) -> Result<AnswerFrom, SessionError> {
        let nonce = self.nonce.fetch_add(1, Ordering::Relaxed);
        let (asker, answer) = oneshot::channel();
        {
            let mut questions = self.questions.lock();
            questions.retain(|_, asker| !asker.is_closed());
            if questions.len() >= QUESTIONS_MAX {
                return Err(SessionError::Timeout);
            }
            questions.insert(nonce, asker);
        }
        self.send(Outgoing::Message(question(nonce)));
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(SessionError::NotConnected),
            Err(_) => Err(SessionError::Timeout),
        }
    }
}

impl Reign {
    /// Registers a session; a former one of the same worker is replaced and ends.
    pub fn open_session(&self, session: Arc<Session>) {
        self.heard(session.worker);
        self.beginnings.session_opened(self.office.world.clock.now());
        self.sessions.write().insert(session.worker, session);
    }

    /// Removes a session, unless a newer one took its place.
    pub fn close_session(&self, session: &Session) {
        let mut sessions = self.sessions.write();
        if sessions.get(&session.worker).is_some_and(|open| open.number == session.number) {
            sessions.remove(&session.worker);
        }
    }

    /// The open session of a worker.
    pub fn session(&self, worker: WorkerId) -> Option<Arc<Session>> {
        self.sessions.read().get(&worker).cloned()
    }

    /// How many workers have a session.
    pub fn sessions_open(&self) -> usize {
        self.sessions.read().len()
    }

    /// What a worker said of itself in its last heartbeat.
    pub fn load(&self, worker: WorkerId) -> Option<LoadReport> {
        *self.session(worker)?.load.lock()
    }

    /// Asks a worker for a piece of an attempt's output.
    pub async fn read_log(&self, worker: WorkerId, token: Token, ask: LogAsk) -> Result<LogPiece, SessionError> {
        let LogAsk { stderr, offset, max_bytes, wait_ms } = ask;
        let session = self.session(worker).ok_or(SessionError::NotConnected)?;
        let limit = ANSWER_TIMEOUT + Duration::from_millis(u64::from(wait_ms));
        let stream = i32::from(stderr);
        let question = |nonce| {
            let token = token.0;
            pb::master_message::Kind::ReadLog(pb::ReadLog { nonce, token, stream, offset, max_bytes, wait_ms })
        };
        match session.ask(limit, question).await? {
            AnswerFrom::Log(reply) if reply.not_found => Err(SessionError::NotFound),
            AnswerFrom::Log(pb::LogReply { data, next_offset, end, dropped, .. }) => {
                Ok(LogPiece { data, next_offset, end, dropped })
            }
            AnswerFrom::Health(_) => Err(SessionError::NotFound),
        }
    }

    /// Asks a worker how it is, and how long the answer took.
    pub async fn check_worker(&self, worker: WorkerId) -> Result<(pb::HealthReply, Duration), SessionError> {
        let session = self.session(worker).ok_or(SessionError::NotConnected)?;
        let asked = self.office.world.clock.now();
        let question = |nonce| pb::master_message::Kind::HealthCheck(pb::HealthCheck { nonce });
        match session.ask(ANSWER_TIMEOUT, question).await? {
            AnswerFrom::Health(reply) => Ok((reply, self.office.world.clock.now() - asked)),
            AnswerFrom::Log(_) => Err(SessionError::NotFound),
        }
    }
}
