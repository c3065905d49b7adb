//! A master that says exactly what a test tells it to: it plays `Session`, pushes `WatchLeader` and records `SetMode`.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::Stream;
use parking_lot::Mutex;
use steersman_proto::codes::Code;
use steersman_proto::v1::cluster_server::{Cluster, ClusterServer};
use steersman_proto::v1::task_spec::Work;
use steersman_proto::v1::workers_server::{Workers, WorkersServer};
use steersman_proto::v1::*;
use steersman_proto::worker::v1::session_server::{Session, SessionServer};
use steersman_proto::worker::v1::{
    AssignTasks, Assignment, CancelTasks, HeartbeatAck, Hello, LogReply, MasterMessage, ReadLog, Report, ReportsAck,
    Welcome, WorkerMessage, master_message, worker_message,
};
use steersman_worker::{KeeperCommand, WorkerConfig, WorkerError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Nothing in these tests takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const CLUSTER: &str = "cluster-one";

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

/// Looks again and again until `look` gives something.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// ---- the master -----------------------------------------------------------------------------------------------------

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
struct Shared {
    leader: watch::Sender<LeaderInfo>,
    sessions: mpsc::UnboundedSender<FakeSession>,
    refusal: Arc<Mutex<Option<Status>>>,
    acks: Arc<AtomicBool>,
    modes: mpsc::UnboundedSender<SetModeRequest>,
}

pub struct FakeMaster {
    pub addr: String,
    shared: Shared,
    sessions: mpsc::UnboundedReceiver<FakeSession>,
    pub modes: mpsc::UnboundedReceiver<SetModeRequest>,
    serving: JoinHandle<()>,
}

impl Drop for FakeMaster {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl FakeMaster {
    /// A master that says it leads in term 1.
    pub async fn leading() -> Self {
        let master = Self::start().await;
        master.says_leads(1, Some(master.addr.clone()));
        master
    }

    /// A master that knows of no leader.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (sessions, sessions_in) = mpsc::unbounded_channel();
        let (modes, modes_in) = mpsc::unbounded_channel();
        let shared = Shared {
            leader: watch::Sender::new(LeaderInfo::default()),
            sessions,
            refusal: Arc::default(),
            acks: Arc::new(AtomicBool::new(true)),
            modes,
        };
        let server = tonic::transport::Server::builder()
            .add_service(SessionServer::new(shared.clone()))
            .add_service(ClusterServer::new(shared.clone()))
            .add_service(WorkersServer::new(shared.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let serving = tokio::spawn(async move { server.await.unwrap() });
        Self { addr, shared, sessions: sessions_in, modes: modes_in, serving }
    }

    pub fn says_leads(&self, term: u64, api: Option<String>) {
        let leader = api.map(|api| MasterAddress { id: 1, api, ..MasterAddress::default() });
        self.shared.leader.send_replace(LeaderInfo { term, leader, masters: Vec::new() });
    }

    /// From now on every session is refused so; `None` accepts again.
    pub fn refuses(&self, status: Option<Status>) {
        *self.shared.refusal.lock() = status;
    }

    pub fn acknowledges_heartbeats(&self, acks: bool) {
        self.shared.acks.store(acks, Ordering::SeqCst);
    }

    /// The next session, not yet welcomed.
    pub async fn session(&mut self) -> FakeSession {
        soon("a session", self.sessions.recv()).await.unwrap()
    }

    /// The next session, welcomed with the defaults.
    pub async fn welcomed(&mut self) -> FakeSession {
        let session = self.session().await;
        session.welcome(welcome()).await;
        session
    }
}

pub fn welcome() -> Welcome {
    Welcome {
        worker_id: 1,
        cluster_id: CLUSTER.into(),
        term: 1,
        leader_id: 1,
        heartbeat_ms: 50,
        lease_ms: 60_000,
        capacity: 4,
        ..Welcome::default()
    }
}

pub fn refusal(code: Code, metadata: &[(&str, &str)]) -> Status {
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let details =
        ErrorDetails::with_error_info(code.reason, "steersman", metadata.collect::<std::collections::HashMap<_, _>>());
    Status::with_error_details(tonic::Code::FailedPrecondition, format!("refused: {}", code.reason), details)
}

#[tonic::async_trait]
impl Session for Shared {
    type OpenStream = Out<MasterMessage>;

    async fn open(&self, request: Request<Streaming<WorkerMessage>>) -> Result<Response<Self::OpenStream>, Status> {
        if let Some(status) = self.refusal.lock().clone() {
            return Err(status);
        }
        let mut from = request.into_inner();
        let first = from.message().await?.and_then(|message| message.kind);
        let Some(worker_message::Kind::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (to_worker, out) = mpsc::channel(1_024);
        let (told, from_worker) = mpsc::unbounded_channel();
        let (acks, answer) = (self.acks.clone(), to_worker.downgrade());
        let heartbeats = watch::Sender::new(Vec::new());
        let seen = heartbeats.subscribe();
        tokio::spawn(async move {
            while let Ok(Some(WorkerMessage { kind: Some(kind) })) = from.message().await {
                let worker_message::Kind::Heartbeat(beat) = kind else {
                    let _ = told.send(kind);
                    continue;
                };
                heartbeats.send_modify(|seen: &mut Vec<_>| seen.push((Instant::now(), beat.load.unwrap())));
                if let Some(answer) = answer.upgrade().filter(|_| acks.load(Ordering::SeqCst)) {
                    let ack = master_message::Kind::HeartbeatAck(HeartbeatAck { seq: beat.seq });
                    let _ = answer.send(Ok(MasterMessage { kind: Some(ack) })).await;
                }
            }
        });
        let _ = self.sessions.send(FakeSession { hello, to_worker, from_worker, heartbeats: seen });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}

#[tonic::async_trait]
impl Cluster for Shared {
    type WatchLeaderStream = Out<LeaderInfo>;
    type SaveSnapshotStream = Out<SnapshotChunk>;

    async fn watch_leader(&self, _: Request<WatchLeaderRequest>) -> Result<Response<Self::WatchLeaderStream>, Status> {
        Ok(Response::new(Box::pin(WatchStream::new(self.leader.subscribe()).map(Ok))))
    }
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn step_down(&self, _: Request<StepDownRequest>) -> Result<Response<StepDownResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn add_master(&self, _: Request<AddMasterRequest>) -> Result<Response<MembershipResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn promote_master(&self, _: Request<PromoteMasterRequest>) -> Result<Response<MembershipResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn remove_master(&self, _: Request<RemoveMasterRequest>) -> Result<Response<MembershipResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn audit(&self, _: Request<AuditRequest>) -> Result<Response<AuditResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<VerifyResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn set_brake(&self, _: Request<SetBrakeRequest>) -> Result<Response<SetBrakeResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn save_snapshot(
        &self,
        _: Request<SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        Err(Status::unimplemented("test"))
    }
}

#[tonic::async_trait]
impl Workers for Shared {
    async fn set_mode(&self, request: Request<SetModeRequest>) -> Result<Response<WorkerResponse>, Status> {
        let _ = self.modes.send(request.into_inner());
        Ok(Response::new(WorkerResponse::default()))
    }
    async fn list(&self, _: Request<ListWorkersRequest>) -> Result<Response<ListWorkersResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn get(&self, _: Request<GetWorkerRequest>) -> Result<Response<GetWorkerResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn evict(&self, _: Request<EvictRequest>) -> Result<Response<WorkerResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn set_config(&self, _: Request<SetConfigRequest>) -> Result<Response<WorkerResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Result<Response<WorkerResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Err(Status::unimplemented("test"))
    }
}

// ---- one session of it ----------------------------------------------------------------------------------------------

pub struct FakeSession {
    pub hello: Hello,
    to_worker: mpsc::Sender<Result<MasterMessage, Status>>,
    pub from_worker: mpsc::UnboundedReceiver<worker_message::Kind>,
    pub heartbeats: watch::Receiver<Vec<(Instant, LoadReport)>>,
}

impl FakeSession {
    pub async fn send(&self, kind: master_message::Kind) {
        self.to_worker.send(Ok(MasterMessage { kind: Some(kind) })).await.unwrap();
    }

    pub async fn welcome(&self, welcome: Welcome) {
        self.send(master_message::Kind::Welcome(welcome)).await;
    }

    /// Token = task id, attempt 1.
    pub async fn assign(&self, tokens: impl IntoIterator<Item = u64>, spec: TaskSpec) {
        let assignment = |token| Assignment { task_id: token, token, attempt: 1, array_index: token, spec: 0 };
        let assignments = tokens.into_iter().map(assignment).collect();
        self.send(master_message::Kind::Assign(AssignTasks { assignments, specs: vec![spec] })).await;
    }

    pub async fn cancel(&self, token: u64) {
        self.send(master_message::Kind::Cancel(CancelTasks { tokens: vec![token] })).await;
    }

    pub async fn acknowledge(&self, token: u64) {
        self.send(master_message::Kind::ReportsAck(ReportsAck { tokens: vec![token], started_tokens: vec![] })).await;
    }

    pub async fn next(&mut self) -> worker_message::Kind {
        soon("a message of the worker", self.from_worker.recv()).await.expect("the worker closed the session")
    }

    /// Reports of the next message that has any.
    pub async fn reports(&mut self) -> Vec<Report> {
        loop {
            if let worker_message::Kind::Reports(reports) = self.next().await {
                return reports.reports;
            }
        }
    }

    /// The end of `token`, not acknowledged.
    pub async fn end_of(&mut self, token: u64) -> Report {
        loop {
            let reports = self.reports().await;
            let end = reports.into_iter().find(|report| report.token == token && report.ended.is_some());
            if let Some(report) = end {
                return report;
            }
        }
    }

    /// The end of `token`, acknowledged.
    pub async fn finish(&mut self, token: u64) -> steersman_proto::worker::v1::Ended {
        let report = self.end_of(token).await;
        self.acknowledge(token).await;
        report.ended.unwrap()
    }

    /// Waits for the report of the start of `token` and acknowledges it.
    pub async fn started(&mut self, token: u64) {
        loop {
            if self.reports().await.iter().any(|report| report.token == token && report.ended.is_none()) {
                let ack = ReportsAck { tokens: vec![], started_tokens: vec![token] };
                return self.send(master_message::Kind::ReportsAck(ack)).await;
            }
        }
    }

    pub async fn read_log(&mut self, token: u64, stream: LogStream, offset: u64, wait_ms: u32) -> LogReply {
        let nonce = token * 1_000_000 + offset;
        let read = ReadLog { nonce, token, stream: stream.into(), offset, max_bytes: 0, wait_ms };
        self.send(master_message::Kind::ReadLog(read)).await;
        loop {
            if let worker_message::Kind::Log(reply) = self.next().await
                && reply.nonce == nonce
            {
                return reply;
            }
        }
    }

    /// All of a stream, following it to its end.
    pub async fn whole_log(&mut self, token: u64, stream: LogStream) -> String {
        let (mut text, mut offset) = (Vec::new(), 0);
        loop {
            let piece = self.read_log(token, stream, offset, 1_000).await;
            assert!(!piece.not_found, "no output of {token}");
            text.extend_from_slice(&piece.data);
            offset = piece.next_offset;
            if piece.end {
                return String::from_utf8(text).unwrap();
            }
        }
    }

    /// True once the worker has closed its side.
    pub async fn is_closed(&mut self) -> bool {
        soon("the end of the session", async { while self.from_worker.recv().await.is_some() {} }).await;
        true
    }
}

// ---- specs ----------------------------------------------------------------------------------------------------------

pub fn handler(name: &str) -> TaskSpec {
    let work = Handler { name: name.into(), payload: "hi".into() };
    TaskSpec { work: Some(Work::Handler(work)), ..TaskSpec::default() }
}

pub fn shell(script: &str) -> TaskSpec {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    command(argv)
}

pub fn command(argv: Vec<String>) -> TaskSpec {
    let work = Command { argv, ..Command::default() };
    TaskSpec { work: Some(Work::Command(work)), ..TaskSpec::default() }
}

// ---- the worker -----------------------------------------------------------------------------------------------------

pub fn config(dir: &Path, masters: &[&FakeMaster]) -> WorkerConfig {
    WorkerConfig {
        name: "w1".into(),
        data_dir: dir.to_owned(),
        masters: masters.iter().map(|master| master.addr.clone()).collect(),
        heartbeat_ms: 50,
        capacity: 4,
        labels: BTreeMap::from([("zone".into(), "a".into())]),
        ..WorkerConfig::default()
    }
}

/// The example, which is a real worker program and its own keeper.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/embedded");
    assert!(program.exists(), "{} is not built: run the tests with their examples", program.display());
    program
}

pub fn keeper() -> KeeperCommand {
    KeeperCommand { argv: vec![program().into(), "worker".into(), "keeper".into()] }
}

/// A worker in this process.
pub struct Local {
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), WorkerError>>,
}

impl Local {
    pub fn run(worker: steersman_worker::Worker) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(worker.run(async move {
            let _ = stopped.await;
        }));
        Self { stop: Some(stop), running }
    }

    /// Asks for an orderly end.
    pub fn shut_down(&mut self) {
        self.stop = None;
    }

    pub async fn ended(self) -> Result<(), WorkerError> {
        soon("the worker's end", self.running).await.unwrap()
    }
}

pub fn is_alive(pid: i32) -> bool {
    // A zombie is dead: its command line is empty.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

pub fn pid_in(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
