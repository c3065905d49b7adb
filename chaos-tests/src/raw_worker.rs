//! A worker made by hand: it says exactly what a test wants it to say on a session, true or not.
//!
//! What always holds: nothing is said by itself, not even a heartbeat.

use steersman_client::v1::Outcome;
use steersman_proto::worker::v1::session_client::SessionClient;
use steersman_proto::worker::v1::{
    Assignment, Ended, Heartbeat, Hello, MasterMessage, Report, Reports, Welcome, WorkerMessage, master_message,
    worker_message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Messages that may wait to be sent: more than any test says at once.
const QUEUE_MAX: usize = 64;

/// What an honest worker says first. Tests change what they want to lie about.
pub fn hello(name: &str, uid: u8, incarnation: u64) -> Hello {
    Hello {
        protocol: 1,
        name: name.to_owned(),
        uid: vec![uid; 16].into(),
        incarnation,
        host: "127.0.0.1".to_owned(),
        capacity: 4,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        heartbeat_ms: 250,
        ..Hello::default()
    }
}

/// One open session.
#[derive(Debug)]
pub struct RawWorker {
    out: mpsc::Sender<WorkerMessage>,
    incoming: Streaming<MasterMessage>,
}

impl RawWorker {
    /// Opens a stream and says `first`.
    ///
    /// # Errors
    /// The master's refusal to open it.
    pub async fn open(leader_api: &str, first: worker_message::Kind) -> Result<Self, Status> {
        let connect = SessionClient::connect(format!("http://{leader_api}")).await;
        let mut client = connect.map_err(|error| Status::unavailable(error.to_string()))?;
        let (out, receiver) = mpsc::channel(QUEUE_MAX);
        let message = WorkerMessage { kind: Some(first) };
        out.send(message).await.map_err(|_| Status::internal("the queue is closed"))?;
        let incoming = client.open(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { out, incoming })
    }

    /// Opens a session as an honest worker would, up to the welcome.
    ///
    /// # Errors
    /// The master's refusal.
    pub async fn welcomed(leader_api: &str, hello: Hello) -> Result<(Self, Welcome), Status> {
        let mut worker = Self::open(leader_api, worker_message::Kind::Hello(hello)).await?;
        match worker.next().await? {
            master_message::Kind::Welcome(welcome) => Ok((worker, welcome)),
            other => Err(Status::internal(format!("a welcome was due, not {other:?}"))),
        }
    }

    /// Says something.
    ///
    /// # Panics
    /// If the stream is over.
    pub async fn say(&self, kind: worker_message::Kind) {
        let sent = self.out.send(WorkerMessage { kind: Some(kind) }).await;
        assert!(sent.is_ok(), "the session is over");
    }

    /// Sends a sign of life.
    ///
    /// # Panics
    /// As [`RawWorker::say`].
    pub async fn heartbeat(&self, seq: u64) {
        self.say(worker_message::Kind::Heartbeat(Heartbeat { seq, load: None })).await;
    }

    /// Reports the end of an attempt.
    ///
    /// # Panics
    /// As [`RawWorker::say`].
    pub async fn report_end(&self, task_id: u64, token: u64, outcome: Outcome, exit_code: i32) {
        let ended = Ended { outcome: outcome.into(), exit_code, ..Ended::default() };
        let report = Report { token, task_id, ended: Some(ended) };
        self.say(worker_message::Kind::Reports(Reports { reports: vec![report] })).await;
    }

    /// The next message.
    ///
    /// # Errors
    /// How the master ended the stream.
    pub async fn next(&mut self) -> Result<master_message::Kind, Status> {
        let message = self.incoming.message().await?;
        message.and_then(|message| message.kind).ok_or_else(|| Status::cancelled("the stream ended without a word"))
    }

    /// Waits for the next assignment, answering nothing meanwhile.
    ///
    /// # Errors
    /// As [`RawWorker::next`].
    pub async fn assignment(&mut self) -> Result<Assignment, Status> {
        loop {
            if let master_message::Kind::Assign(assign) = self.next().await? {
                let first = assign.assignments.into_iter().next();
                return first.ok_or_else(|| Status::internal("an empty assignment"));
            }
        }
    }

    /// Waits until the end of this token is acknowledged.
    ///
    /// # Errors
    /// As [`RawWorker::next`].
    pub async fn acknowledged(&mut self, token: u64) -> Result<(), Status> {
        loop {
            if let master_message::Kind::ReportsAck(ack) = self.next().await?
                && ack.tokens.contains(&token)
            {
                return Ok(());
            }
        }
    }
}
