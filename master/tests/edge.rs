//! The edge as a client sees it: three masters in one process, on memory disks and a network of memory pipes.
//!
//! What always holds: nothing here reaches into a node but to find out who leads; every wait has a deadline.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::stream::StreamExt as _;
use parking_lot::Mutex;
use steersman_master::config::{Addresses, MasterConfig, MasterEntry};
use steersman_master::{Running, Surroundings, observe, start};
use steersman_proto::v1 as pb;
use steersman_proto::v1::cluster_client::ClusterClient;
use steersman_proto::v1::events_client::EventsClient;
use steersman_proto::v1::tasks_client::TasksClient;
use steersman_proto::v1::workers_client::WorkersClient;
use steersman_raft_store::MemDisk;
use steersman_state::command::Command;
use steersman_world::{BoxIo, Connector, Incoming, Net, RealClock, RealEntropy, Spawner, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Longer than any election on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Listeners by address; a connection is a pipe in memory.
#[derive(Default)]
struct MemNet(Mutex<BTreeMap<String, mpsc::UnboundedSender<io::Result<BoxIo>>>>);

impl Net for MemNet {
    fn bind(&self, addr: String) -> BoxFuture<'static, io::Result<Incoming>> {
        let (accept, accepted) = mpsc::unbounded_channel();
        self.0.lock().insert(addr.clone(), accept);
        let local = addr.parse().unwrap();
        let stream = UnboundedReceiverStream::new(accepted).boxed();
        Box::pin(async move { Ok(Incoming { local, stream }) })
    }

    fn connect(&self, addr: String) -> BoxFuture<'static, io::Result<BoxIo>> {
        let (ours, theirs) = tokio::io::duplex(256 << 10);
        let listener = self.0.lock().get(&addr).cloned();
        let taken = listener.and_then(|accept| accept.send(Ok(BoxIo::new(theirs, None))).ok());
        Box::pin(async move {
            taken.ok_or(io::ErrorKind::ConnectionRefused)?;
            Ok(BoxIo::new(ours, None))
        })
    }
}

struct Cluster {
    net: Arc<MemNet>,
    masters: BTreeMap<u64, Running>,
    disks: BTreeMap<u64, MemDisk>,
}

fn addresses(id: u64) -> Addresses {
    let at = |port: u16| format!("127.0.0.{id}:{port}");
    Addresses { api: at(7400), raft: at(7401), http: at(7402) }
}

fn config(id: u64) -> MasterConfig {
    let entry = |id| {
        let Addresses { api, raft, http } = addresses(id);
        MasterEntry { id, api, raft, http }
    };
    let mut config = MasterConfig {
        node_id: id,
        listen: addresses(id),
        advertise: addresses(id),
        masters: [1, 2, 3].map(entry).to_vec(),
        ..MasterConfig::default()
    };
    // Slow enough that a busy machine keeps its leader.
    (config.raft.heartbeat_ms, config.raft.election_min_ms, config.raft.election_max_ms) = (100, 800, 1_600);
    config.raft.disk_stall_ms = 1_000;
    (config.shutdown.drain_ms, config.shutdown.transfer_ms) = (200, 0);
    config
}

impl Cluster {
    async fn start() -> Self {
        let net = Arc::new(MemNet::default());
        let disks: BTreeMap<u64, MemDisk> = [1, 2, 3].map(|id| (id, MemDisk::new())).into();
        let starting = [1, 2, 3].map(|id| {
            let world = World { clock: Arc::new(RealClock), entropy: Arc::new(RealEntropy), net: net.clone() };
            let disk = Arc::new(disks[&id].clone());
            let surroundings = Surroundings { disk, raft: Spawner::ambient(), api: Spawner::ambient() };
            async move { (id, start(config(id), world, surroundings).await.unwrap()) }
        });
        let masters = tokio::time::timeout(PATIENCE, join_all(starting)).await.expect("no cluster in time");
        let cluster = Self { net, masters: masters.into_iter().collect(), disks };
        cluster.leader().await;
        cluster
    }

    /// Who leads, once everybody knows.
    async fn leader(&self) -> u64 {
        poll("a leader that all know", || {
            let leader = self.masters.values().find(|master| master.node.reign().is_some())?.node.id;
            let knows = |master: &Running| {
                master.node.id == leader || master.node.leader_hint().is_some_and(|hint| hint.id == leader)
            };
            self.masters.values().all(knows).then_some(leader)
        })
        .await
    }

    async fn followers(&self) -> Vec<u64> {
        let leader = self.leader().await;
        self.masters.keys().copied().filter(|id| *id != leader).collect()
    }

    fn channel(&self, id: u64) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", addresses(id).api)).unwrap();
        endpoint.connect_with_connector_lazy(Connector(self.net.clone()))
    }

    fn tasks(&self, id: u64) -> TasksClient<Channel> {
        TasksClient::new(self.channel(id))
    }

    /// Status line and body of a GET.
    async fn get(&self, id: u64, path: &str) -> (String, String) {
        let mut io = self.net.connect(addresses(id).http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        io.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    async fn stop(&mut self, id: u64) {
        if let Some(master) = self.masters.remove(&id) {
            master.until(std::future::ready(())).await.unwrap();
        }
    }

    async fn stop_all(mut self) {
        for id in [1, 2, 3] {
            self.stop(id).await;
        }
    }
}

async fn poll<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "no {what} in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn submit(request_id: u8, count: u32) -> pb::SubmitRequest {
    let command = pb::Command { argv: vec!["true".to_owned()], ..pb::Command::default() };
    let work = Some(pb::task_spec::Work::Command(command));
    let spec = Some(pb::TaskSpec { name: "t".to_owned(), work, ..pb::TaskSpec::default() });
    let request_id = vec![request_id; 16].into();
    pb::SubmitRequest { request_id, groups: vec![pb::TaskGroup { spec, count }], validate_only: false }
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map_or_else(|| format!("none: {status:?}"), |info| info.reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p02_any_master_takes_a_submit_and_a_retry_elsewhere_gets_the_first_answer() {
    let cluster = Cluster::start().await;
    let (leader, followers) = (cluster.leader().await, cluster.followers().await);
    let first = cluster.tasks(followers[0]).submit(submit(1, 3)).await.unwrap();
    assert_eq!(first.metadata().get("steersman-leader-id").unwrap().to_str().unwrap(), leader.to_string());
    assert_eq!(first.metadata().get("steersman-leader-api").unwrap().to_str().unwrap(), addresses(leader).api);
    assert!(first.metadata().contains_key("steersman-term"));
    assert!(first.metadata().contains_key("steersman-membership"));
    let first = first.into_inner();
    assert_eq!((first.first_id, first.count), (1, 3));
    for id in [followers[1], leader, followers[0]] {
        let again = cluster.tasks(id).submit(submit(1, 3)).await.unwrap().into_inner();
        assert_eq!((again.first_id, again.count), (1, 3), "at master {id}");
    }
    let info = ClusterClient::new(cluster.channel(leader)).info(pb::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.tasks.unwrap().submitted_total, 3);
    let dry = pb::SubmitRequest { validate_only: true, ..submit(9, 7) };
    assert_eq!(cluster.tasks(followers[0]).submit(dry).await.unwrap().into_inner().count, 7);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p07_what_was_acknowledged_is_read_at_once_at_every_master() {
    let cluster = Cluster::start().await;
    for round in 1..=10 {
        let at = u64::from(round % 3) + 1;
        let id = cluster.tasks(at).submit(submit(round, 1)).await.unwrap().into_inner().first_id;
        for master in [1, 2, 3] {
            let request = pb::GetTaskRequest { id, consistency: pb::Consistency::Linearizable.into() };
            let got = cluster.tasks(master).get(request).await.unwrap().into_inner();
            let read = got.read.unwrap();
            assert_eq!((got.task.unwrap().id, read.stale, read.served_by), (id, false, master));
        }
    }
    let request = pb::GetTaskRequest { id: 1, consistency: pb::Consistency::Stale.into() };
    let read = cluster.tasks(cluster.followers().await[0]).get(request).await.unwrap().into_inner().read.unwrap();
    assert!(read.stale && read.age_ms < PATIENCE.as_millis() as u64, "{read:?}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_at_a_follower_ends_when_the_last_task_does() {
    let cluster = Cluster::start().await;
    let follower = cluster.followers().await[0];
    let first_id = cluster.tasks(1).submit(submit(1, 5)).await.unwrap().into_inner().first_id;
    let wait = move |count, wait_ms| pb::WaitRequest { first_id, count, wait_ms };
    let now = cluster.tasks(follower).wait(wait(5, 0)).await.unwrap().into_inner();
    assert_eq!((now.done, now.unfinished, now.gone), (false, 5, 0));
    let mut client = cluster.tasks(follower);
    let waiting = tokio::spawn(async move { client.wait(wait(5, 30_000)).await });
    let node = cluster.masters[&follower].node.clone();
    poll("a waiter", || (node.waiters.waiting() == 1).then_some(())).await;
    for id in [first_id, first_id + 4, first_id + 2, first_id + 1, first_id + 3] {
        let cancel = pb::CancelRequest { request_id: vec![id as u8 + 100; 16].into(), ids: vec![id] };
        let results = cluster.tasks(2).cancel(cancel).await.unwrap().into_inner().results;
        assert!(results[0].cancelled, "{results:?}");
    }
    let done = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap().into_inner();
    assert_eq!((done.done, done.cancelled, done.unfinished), (true, 5, 0));
    let one = cluster.tasks(follower).wait(wait(1, 1_000)).await.unwrap().into_inner();
    assert_eq!(one.tasks[0].state, i32::from(pb::TaskState::Cancelled));
    let beyond = pb::WaitRequest { first_id: 1_000, count: 1_000_000, wait_ms: 1_000 };
    let gone = cluster.tasks(follower).wait(beyond).await.unwrap().into_inner();
    assert_eq!((gone.done, gone.gone), (true, 1_000_000));
    assert_eq!(node.waiters.waiting(), 0);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p08_every_master_tells_the_same_events_in_order() {
    let cluster = Cluster::start().await;
    for n in 1..=20 {
        cluster.tasks(u64::from(n % 3) + 1).submit(submit(n, 1)).await.unwrap();
    }
    let mut told = Vec::new();
    for id in [1, 2, 3] {
        let request = pb::SubscribeRequest { oldest: true, ..pb::SubscribeRequest::default() };
        let stream = EventsClient::new(cluster.channel(id)).subscribe(request).await.unwrap().into_inner();
        let batches: Vec<_> = stream.map(Result::unwrap).collect().await;
        assert!(batches.is_sorted_by(|a, b| a.index < b.index), "indexes rise at master {id}");
        let events: Vec<_> = batches.into_iter().filter(|batch| !batch.events.is_empty()).collect();
        let submits = events
            .iter()
            .flat_map(|batch| &batch.events)
            .filter(|event| matches!(event.kind, Some(pb::event::Kind::TasksSubmitted(_))));
        assert_eq!(submits.count(), 20);
        told.push(events);
    }
    assert!(told[0] == told[1] && told[1] == told[2], "the same at every master");
    let request = pb::SubscribeRequest { follow: true, ..pb::SubscribeRequest::default() };
    let mut live = EventsClient::new(cluster.channel(2)).subscribe(request).await.unwrap().into_inner();
    let first_id = cluster.tasks(1).submit(submit(77, 1)).await.unwrap().into_inner().first_id;
    let seen = async {
        loop {
            let batch = live.next().await.unwrap().unwrap();
            let submitted = pb::event::Kind::TasksSubmitted(pb::TasksSubmitted { first_id, count: 1 });
            if batch.events.iter().any(|event| event.kind.as_ref() == Some(&submitted)) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_goes_on_at_another_master() {
    let cluster = Cluster::start().await;
    cluster.tasks(1).submit(submit(1, 250)).await.unwrap();
    let list = |page_token: String, newest_first| pb::ListTasksRequest {
        page: Some(pb::Page { page_size: 100, page_token }),
        newest_first,
        ..pb::ListTasksRequest::default()
    };
    let (mut ids, mut token, mut sizes) = (Vec::new(), String::new(), Vec::new());
    for master in [1, 2, 3] {
        let page = cluster.tasks(master).list(list(token, false)).await.unwrap().into_inner();
        sizes.push(page.tasks.len());
        ids.extend(page.tasks.iter().map(|task| task.id));
        token = page.next_page_token;
    }
    assert_eq!((sizes, token), (vec![100, 100, 50], String::new()));
    assert_eq!(ids, (1..=250).collect::<Vec<u64>>());
    let token = cluster.tasks(1).list(list(String::new(), false)).await.unwrap().into_inner().next_page_token;
    let refused = cluster.tasks(1).list(list(token, true)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_a_refusal_of_the_leader_passes_a_follower_unchanged() {
    let cluster = Cluster::start().await;
    let follower = cluster.followers().await[0];
    let mut bad = submit(1, 1);
    bad.groups[0].spec.as_mut().unwrap().priority = 5_000;
    let refused = cluster.tasks(follower).submit(bad).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_ARGUMENT");
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "groups[0].spec.priority");
    let drain = pb::SetModeRequest {
        worker: Some(pb::WorkerRef { id: 0, name: "nobody".to_owned() }),
        mode: pb::WorkerMode::Drain.into(),
        ..pb::SetModeRequest::default()
    };
    let refused = WorkersClient::new(cluster.channel(follower)).set_mode(drain).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::NotFound, "WORKER_NOT_FOUND".to_owned()));
    let unknown = pb::PromoteMasterRequest { id: 9 };
    let refused = ClusterClient::new(cluster.channel(follower)).promote_master(unknown).await.unwrap_err();
    assert_eq!(reason(&refused), "MASTER_NOT_FOUND");
    let unknown = pb::ReadLogRequest { id: 4_711, ..pb::ReadLogRequest::default() };
    let refused = cluster.tasks(follower).read_log(unknown).await.unwrap_err();
    assert_eq!(reason(&refused), "TASK_NOT_FOUND");
    let mut forwarded = tonic::Request::new(submit(2, 1));
    forwarded.metadata_mut().insert("steersman-forwarded", "1".parse().unwrap());
    let refused = cluster.tasks(follower).submit(forwarded).await.unwrap_err();
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(info.reason, "NOT_LEADER");
    assert_eq!(info.metadata["leader_api"], addresses(cluster.leader().await).api);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_snapshot_is_the_state() {
    let cluster = Cluster::start().await;
    cluster.tasks(1).submit(submit(1, 1_000)).await.unwrap();
    let follower = cluster.followers().await[0];
    let stream = ClusterClient::new(cluster.channel(follower)).save_snapshot(pb::SaveSnapshotRequest {}).await;
    let chunks: Vec<_> = stream.unwrap().into_inner().map(Result::unwrap).collect().await;
    let bytes: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.data.iter().copied()).collect();
    // The very file that an operator inspects and restores from.
    let info = steersman_raft_store::inspect_snapshot(&bytes[..]).unwrap();
    assert_eq!(info.header.meta().unwrap().last_log_id.unwrap().index, chunks[0].log_index);
    assert_eq!(info.tasks.submitted_total, 1_000);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_down_through_a_follower_is_seen_by_who_watches() {
    let cluster = Cluster::start().await;
    let (leader, followers) = (cluster.leader().await, cluster.followers().await);
    let mut watch = ClusterClient::new(cluster.channel(followers[1]));
    let mut watch = watch.watch_leader(pb::WatchLeaderRequest {}).await.unwrap().into_inner();
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(first.leader.unwrap().id, leader);
    let request = pb::StepDownRequest { to: followers[0] };
    let done = ClusterClient::new(cluster.channel(followers[1])).step_down(request).await.unwrap().into_inner();
    assert_eq!(done.leader.unwrap().leader.unwrap().id, followers[0]);
    let changed = async {
        loop {
            let view = watch.next().await.unwrap().unwrap();
            if view.leader.as_ref().is_some_and(|new| new.id == followers[0]) {
                return view.term;
            }
        }
    };
    let term = tokio::time::timeout(PATIENCE, changed).await.unwrap();
    assert!(term > first.term);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_metrics_health_and_reflection_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let cluster = Cluster::start().await;
    let (leader, follower) = (cluster.leader().await, cluster.followers().await[0]);
    cluster.tasks(follower).submit(submit(1, 4)).await.unwrap();
    let (status, body) = cluster.get(leader, "/leaderz").await;
    assert!(status.contains(" 200 ") && body.contains("leads in term"), "{status} {body}");
    assert!(cluster.get(follower, "/leaderz").await.0.contains(" 503 "));
    for id in [1, 2, 3] {
        assert!(cluster.get(id, "/livez").await.0.contains(" 200 "));
        let (status, body) = cluster.get(id, "/readyz").await;
        assert!(status.contains(" 200 ") && body.starts_with("ready: master"), "{status} {body}");
    }
    // An idle cluster stays ready: heartbeats are progress.
    let nodes: Vec<_> = cluster.masters.values().map(|master| master.node.clone()).collect();
    poll("four idle seconds", || {
        nodes.iter().for_each(|node| assert!(observe::progress(node).1, "{:?}", node.status()));
        (nodes[0].status().uptime_ms > 4_000).then_some(())
    })
    .await;
    let (_, text) = cluster.get(leader, "/metrics").await;
    for line in ["steersman_raft_is_leader 1", "steersman_scheduler_queue_tasks 4"] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(text.contains("steersman_api_call_seconds_count{method=\"steersman.v1.Tasks/Submit\",code=\"OK\"} 1"));
    assert!(text.contains("steersman_raft_peer_lag_entries{peer="), "{text}");
    let check = HealthCheckRequest { service: "steersman.v1.Tasks".to_owned() };
    let health = HealthClient::new(cluster.channel(follower)).check(check).await.unwrap().into_inner();
    assert_eq!(health.status(), tonic_health::ServingStatus::Serving.into());
    let unknown = HealthCheckRequest { service: "x".to_owned() };
    let refused = HealthClient::new(cluster.channel(follower)).check(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(services_by_reflection(cluster.channel(follower)).await.contains(&"steersman.v1.Tasks".to_owned()));
    cluster.stop_all().await;
}

async fn services_by_reflection(channel: Channel) -> Vec<String> {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let asked = futures::stream::iter([request]);
    let mut answers = ServerReflectionClient::new(channel).server_reflection_info(asked).await.unwrap().into_inner();
    match answers.next().await.unwrap().unwrap().message_response.unwrap() {
        MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|service| service.name).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_alone_says_so_and_still_answers_what_it_knows() {
    let mut cluster = Cluster::start().await;
    let (leader, followers) = (cluster.leader().await, cluster.followers().await);
    let (gone, alone) = (followers[0], followers[1]);
    cluster.tasks(alone).submit(submit(1, 2)).await.unwrap();
    let request = pb::GetTaskRequest { id: 1, consistency: pb::Consistency::Linearizable.into() };
    cluster.tasks(alone).get(request).await.unwrap();
    // The leader goes last: the one that is left has nobody to be elected by.
    cluster.stop(gone).await;
    cluster.stop(leader).await;
    let node = cluster.masters[&alone].node.clone();
    poll("silence", || (node.status().quorum_ack_age_ms > 2_500).then_some(())).await;
    let refused = cluster.tasks(alone).submit(submit(2, 1)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "NO_LEADER".to_owned()));
    assert!(refused.message().contains("2 of 3 masters are needed"), "{}", refused.message());
    assert!(refused.get_details_retry_info().is_some());
    let linearizable = cluster.tasks(alone).get(request).await.unwrap_err();
    assert_eq!(linearizable.code(), Code::Unavailable);
    let stale = pb::GetTaskRequest { id: 1, consistency: pb::Consistency::Stale.into() };
    assert_eq!(cluster.tasks(alone).get(stale).await.unwrap().into_inner().task.unwrap().id, 1);
    let info = ClusterClient::new(cluster.channel(alone)).info(pb::InfoRequest {}).await.unwrap().into_inner();
    assert!(!info.ready && info.quorum_ack_age_ms > 2_500 && info.masters.len() == 3, "{info:?}");
    let (status, body) = cluster.get(alone, "/readyz").await;
    assert!(status.contains(" 503 ") && body.contains("2 of 3 masters are needed"), "{status} {body}");
    assert!(cluster.get(alone, "/livez").await.0.contains(" 200 "));
    let request = pb::SubscribeRequest { oldest: true, ..pb::SubscribeRequest::default() };
    let stream = EventsClient::new(cluster.channel(alone)).subscribe(request).await.unwrap().into_inner();
    let kept = stream.map(Result::unwrap).filter(|batch| futures::future::ready(!batch.events.is_empty()));
    assert!(kept.count().await > 0);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_quorum_is_not_ready_and_confirms_nothing() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    cluster.tasks(leader).submit(submit(1, 1)).await.unwrap();
    for follower in cluster.followers().await {
        cluster.stop(follower).await;
    }
    let node = cluster.masters[&leader].node.clone();
    poll("end of the quorum", || (!node.status().ready).then_some(())).await;
    let (status, body) = cluster.get(leader, "/readyz").await;
    assert!(status.contains(" 503 ") && body.contains("2 of 3"), "{status} {body}");
    let check = HealthCheckRequest { service: String::new() };
    let health = HealthClient::new(cluster.channel(leader)).check(check).await.unwrap().into_inner();
    assert_eq!(health.status(), tonic_health::ServingStatus::NotServing.into());
    let request = pb::GetTaskRequest { id: 1, consistency: pb::Consistency::Linearizable.into() };
    let refused = cluster.tasks(leader).get(request).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "NO_QUORUM".to_owned()));
    let unknown = cluster.tasks(leader).submit(submit(2, 1)).await.unwrap_err();
    assert!(["OUTCOME_UNKNOWN", "NO_QUORUM", "NO_LEADER"].contains(&reason(&unknown).as_str()), "{unknown:?}");
    cluster.stop_all().await;
}

/// A meaning of `apply` that this version does not know is switched on: every master stops with the code of a wrong version
/// instead of going on with its own meaning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_an_unknown_format_level_stops_the_masters_with_their_exit_code() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let unknown = Command::SetFormatLevel(steersman_state::FORMAT_LEVEL + 1);
    let node = cluster.masters[&leader].node.clone();
    // The outcome is unknown to whoever asked: its own master stops while it applies the command.
    assert!(node.propose(None, unknown).await.is_err());
    let ended = cluster.masters.remove(&leader).unwrap().until(std::future::pending());
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    assert_eq!(ended.unwrap_err().exit_code(), 76);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_a_leader_whose_disk_stalls_is_replaced_and_leads_no_more_until_it_writes() {
    let cluster = Cluster::start().await;
    let former = cluster.leader().await;
    let node = cluster.masters[&former].node.clone();
    cluster.disks[&former].set_sync_delay(Duration::from_secs(4));
    poll("another leader, found by the canary alone", || {
        let leads = |master: &&Running| master.node.id != former && master.node.reign().is_some();
        cluster.masters.values().find(leads).map(|master| master.node.id)
    })
    .await;
    assert!(node.reign().is_none() && node.status().disk_stalled && !observe::progress(&node).1);
    let refused = node.propose(None, Command::Tick).await;
    assert!(refused.is_err(), "{refused:?}");
    cluster.disks[&former].set_sync_delay(Duration::ZERO);
    poll("the disk to be well again", || (!node.status().disk_stalled && observe::progress(&node).1).then_some(()))
        .await;
    assert!(node.reign().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_a_leader_whose_disk_fails_stops_by_name_and_the_others_go_on() {
    let mut cluster = Cluster::start().await;
    let former = cluster.leader().await;
    cluster.disks[&former].set_failure(Some(io::ErrorKind::StorageFull));
    let failing = cluster.masters.remove(&former).unwrap();
    let ended = tokio::time::timeout(PATIENCE, failing.until(std::future::pending())).await.expect("it goes on");
    assert_eq!(ended.unwrap_err().exit_code(), 74);
    let heir = cluster.leader().await;
    assert_ne!(heir, former);
    cluster.masters[&heir].node.propose(None, Command::Tick).await.unwrap();
}
