//! A fake master on 127.0.0.1 that answers from a closure, for the tests of the client.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use steersman_client::codes::{self, Code};
use steersman_client::v1::cluster_server::{Cluster, ClusterServer};
use steersman_client::v1::events_server::{Events, EventsServer};
use steersman_client::v1::tasks_server::{Tasks, TasksServer};
use steersman_client::v1::*;
use steersman_client::{Client, World};
use tonic::{Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

pub type Answer<Q, A> = Arc<dyn Fn(Q, u32) -> Reply<A> + Send + Sync>;
pub type EventsAnswer = Arc<dyn Fn(SubscribeRequest, u32) -> Vec<Result<EventBatch, Status>> + Send + Sync>;
type Reply<A> = BoxFutureOf<Result<A, Status>>;
type BoxFutureOf<T> = futures::future::BoxFuture<'static, T>;

/// What a fake does when asked. The number is how often this rpc was called before.
#[derive(Clone, Default)]
pub struct Script {
    pub submit: Option<Answer<SubmitRequest, SubmitResponse>>,
    pub get: Option<Answer<GetTaskRequest, GetTaskResponse>>,
    pub info: Option<Answer<InfoRequest, InfoResponse>>,
    pub step_down: Option<Answer<StepDownRequest, StepDownResponse>>,
    pub events: Option<EventsAnswer>,
    pub leader: Option<LeaderInfo>,
    /// What answers to a submit tell of the membership.
    pub membership: Option<u64>,
}

pub fn at_once<Q: 'static, A: Send + 'static>(
    f: impl Fn(Q, u32) -> Result<A, Status> + Send + Sync + 'static,
) -> Option<Answer<Q, A>> {
    Some(Arc::new(move |q, n| {
        let answer = f(q, n);
        Box::pin(async move { answer })
    }))
}

pub fn never<Q: 'static, A: Send + 'static>() -> Option<Answer<Q, A>> {
    Some(Arc::new(|_, _| Box::pin(std::future::pending())))
}

#[derive(Default)]
struct Calls(Mutex<HashMap<&'static str, AtomicU32>>);

impl Calls {
    fn count(&self, rpc: &'static str) -> u32 {
        self.0.lock().entry(rpc).or_default().fetch_add(1, Ordering::SeqCst)
    }
}

/// A running fake. Stops when dropped.
pub struct Fake {
    pub address: String,
    script: Arc<Mutex<Script>>,
    calls: Arc<Calls>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone)]
struct Served {
    script: Arc<Mutex<Script>>,
    calls: Arc<Calls>,
}

impl Fake {
    pub async fn start(script: Script) -> Self {
        let incoming = World::real().net.bind("127.0.0.1:0".into()).await.unwrap();
        let address = incoming.local.to_string();
        let served = Served { script: Arc::new(Mutex::new(script)), calls: Arc::default() };
        let (script, calls) = (served.script.clone(), served.calls.clone());
        let server = tonic::transport::Server::builder()
            .add_service(TasksServer::new(served.clone()))
            .add_service(ClusterServer::new(served.clone()))
            .add_service(EventsServer::new(served));
        let server = tokio::spawn(async move { server.serve_with_incoming(incoming.stream).await.unwrap() });
        Self { address, script, calls, server }
    }

    pub fn calls(&self, rpc: &'static str) -> u32 {
        self.calls.0.lock().get(rpc).map_or(0, |n| n.load(Ordering::SeqCst))
    }

    pub fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock());
    }
}

/// An address where nobody listens.
pub fn dead_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A listener that accepts connections into its backlog and never says a word.
pub fn mute() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

pub fn client(addresses: &[&str], timeout_ms: u64) -> Client {
    Client::builder(World::real())
        .addresses(addresses.iter().copied())
        .timeout(std::time::Duration::from_millis(timeout_ms))
        .build()
        .unwrap()
}

pub fn status(code: Code, grpc: tonic::Code, metadata: &[(&str, String)]) -> Status {
    let mut map: HashMap<String, String> = metadata.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    map.insert("code".into(), code.id.into());
    let details = ErrorDetails::with_error_info(code.reason, codes::DOMAIN, map);
    Status::with_error_details(grpc, format!("told to answer {}", code.reason), details)
}

pub fn not_leader(api: &str, term: u64) -> Status {
    let metadata = [("leader_api", api.to_owned()), ("leader_id", "9".to_owned()), ("term", term.to_string())];
    status(codes::NOT_LEADER, tonic::Code::Unavailable, &metadata)
}

pub fn no_leader() -> Status {
    status(codes::NO_LEADER, tonic::Code::Unavailable, &[])
}

pub fn submitted(first_id: u64) -> SubmitResponse {
    SubmitResponse { first_id, count: 1, log_index: 1 }
}

pub fn batch(index: u64) -> EventBatch {
    let kind = event::Kind::TasksTrimmed(TasksTrimmed { count: index });
    EventBatch { index, events: vec![Event { kind: Some(kind) }], ..EventBatch::default() }
}

fn unscripted<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not in the script"))
}

#[tonic::async_trait]
impl Tasks for Served {
    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
        let n = self.calls.count("submit");
        let Some(answer) = self.script.lock().submit.clone() else { return unscripted() };
        let mut response = Response::new(answer(request.into_inner(), n).await?);
        if let Some(index) = self.script.lock().membership {
            response.metadata_mut().insert("steersman-membership", index.into());
        }
        Ok(response)
    }
    /// As if each had been asked by itself.
    async fn submit_many(&self, request: Request<SubmitManyRequest>) -> Result<Response<SubmitManyResponse>, Status> {
        self.calls.count("submit_many");
        let each = request.into_inner().submits.into_iter().map(|submit| async {
            let fate = match self.submit(Request::new(submit)).await {
                Ok(done) => submit_outcome::Fate::Done(done.into_inner()),
                Err(status) => submit_outcome::Fate::Refused(Refusal {
                    code: status.code().into(),
                    message: status.message().to_owned(),
                    details: status.details().to_vec().into(),
                }),
            };
            SubmitOutcome { fate: Some(fate) }
        });
        Ok(Response::new(SubmitManyResponse { outcomes: futures::future::join_all(each).await }))
    }
    async fn get(&self, request: Request<GetTaskRequest>) -> Result<Response<GetTaskResponse>, Status> {
        let n = self.calls.count("get");
        let Some(answer) = self.script.lock().get.clone() else { return unscripted() };
        answer(request.into_inner(), n).await.map(Response::new)
    }
    async fn list(&self, _: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        unscripted()
    }
    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        unscripted()
    }
    async fn retry(&self, _: Request<RetryRequest>) -> Result<Response<RetryResponse>, Status> {
        unscripted()
    }
    async fn wait(&self, _: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        unscripted()
    }
    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        unscripted()
    }
    async fn read_log(&self, _: Request<ReadLogRequest>) -> Result<Response<ReadLogResponse>, Status> {
        unscripted()
    }
}

#[tonic::async_trait]
impl Cluster for Served {
    type WatchLeaderStream = BoxStream<'static, Result<LeaderInfo, Status>>;
    type SaveSnapshotStream = BoxStream<'static, Result<SnapshotChunk, Status>>;

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let n = self.calls.count("info");
        let Some(answer) = self.script.lock().info.clone() else { return unscripted() };
        answer(request.into_inner(), n).await.map(Response::new)
    }
    async fn watch_leader(&self, _: Request<WatchLeaderRequest>) -> Result<Response<Self::WatchLeaderStream>, Status> {
        self.calls.count("watch_leader");
        let Some(leader) = self.script.lock().leader.clone() else { return unscripted() };
        Ok(Response::new(futures::stream::iter([Ok(leader)]).chain(futures::stream::pending()).boxed()))
    }
    async fn step_down(&self, request: Request<StepDownRequest>) -> Result<Response<StepDownResponse>, Status> {
        let n = self.calls.count("step_down");
        let Some(answer) = self.script.lock().step_down.clone() else { return unscripted() };
        answer(request.into_inner(), n).await.map(Response::new)
    }
    async fn add_master(&self, _: Request<AddMasterRequest>) -> Result<Response<MembershipResponse>, Status> {
        unscripted()
    }
    async fn promote_master(&self, _: Request<PromoteMasterRequest>) -> Result<Response<MembershipResponse>, Status> {
        unscripted()
    }
    async fn remove_master(&self, _: Request<RemoveMasterRequest>) -> Result<Response<MembershipResponse>, Status> {
        unscripted()
    }
    async fn audit(&self, _: Request<AuditRequest>) -> Result<Response<AuditResponse>, Status> {
        unscripted()
    }
    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<VerifyResponse>, Status> {
        unscripted()
    }
    async fn set_brake(&self, _: Request<SetBrakeRequest>) -> Result<Response<SetBrakeResponse>, Status> {
        unscripted()
    }
    async fn save_snapshot(
        &self,
        _: Request<SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        unscripted()
    }
}

#[tonic::async_trait]
impl Events for Served {
    type SubscribeStream = BoxStream<'static, Result<EventBatch, Status>>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let n = self.calls.count("subscribe");
        let Some(answer) = self.script.lock().events.clone() else { return unscripted() };
        Ok(Response::new(futures::stream::iter(answer(request.into_inner(), n)).boxed()))
    }
}
