//! Disks of masters that stall or fill up, and masters that freeze: the office goes to somebody who makes progress, and
//! everybody is told.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use steersman_chaos_tests::audit::all_succeed;
use steersman_chaos_tests::bed::links::Spot;
use steersman_chaos_tests::bed::orders::Order;
use steersman_chaos_tests::bed::{Bed, Network, Wanted};
use steersman_chaos_tests::cluster::{PATIENCE, Reign};
use steersman_chaos_tests::load::Load;
use steersman_chaos_tests::poll::until;
use steersman_chaos_tests::spec::{nothing, one};
use steersman_chaos_tests::{Cluster, Settings, http};
use steersman_client::Client;

/// `raft.disk_stall_ms` of these tests.
const BOUND: Duration = Duration::from_millis(600);
/// A takeover by timers or a hand-over, on a machine that does much else.
const TAKEOVER: Duration = Duration::from_millis(2_000);
/// What a client's tries at a master that is going down cost it at most.
const CLIENT: Duration = Duration::from_secs(3);
/// Syncs that take so long have stalled; one that is under way still takes it when the disk is well again.
const STALL: Duration = Duration::from_secs(6);

/// A cluster with a leader, and somebody who submits.
struct Scene {
    bed: Bed,
    client: Client,
    reign: Reign,
    load: Load,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut bed = bed(&folder).await;
        let (client, reign) = (bed.client(), bed.cluster().wait_leader().await);
        let load = Load::start(&client, 2, one(nothing()));
        load.answered(20).await;
        Self { bed, client, reign, load, _folder: folder }
    }

    /// No submit failed, all masters hold the same, everything acknowledged succeeds.
    async fn end(mut self) {
        let report = self.load.stop().await;
        assert_eq!(report.failed, Vec::<String>::new());
        self.bed.cluster().wait_agreement().await;
        all_succeed(&self.client, 1, report.acknowledged.len() as u64, PATIENCE).await;
        self.bed.stop().await;
    }
}

async fn bed(folder: &tempfile::TempDir) -> Bed {
    let wanted = Wanted {
        masters: 3,
        workers: 1,
        network: Some(Network::Proxy),
        seed: 1,
        folder: folder.path().to_owned(),
        separate_disks: false,
        shim: true,
    };
    let settings = Settings { master_keys: vec![("raft.disk_stall_ms", "600")], ..Settings::default() };
    Bed::start_with(wanted, settings).await.unwrap()
}

fn stall(bed: &Bed, master: u64, by: Duration) {
    bed.order(Spot::Master(master), |orders| orders.delay_syncs(by).unwrap()).unwrap();
}

/// Waits until a master says of its disk what is true, in every way that it has.
async fn told(cluster: &mut Cluster, master: u64, stalled: bool) {
    let probe = cluster.master(master).addresses().http;
    until(&format!("master {master} to say stalled: {stalled}"), PATIENCE, async || {
        let info = cluster.info_of(master).await.ok_or("no answer")?;
        let (code, text) = http::get(&probe, "/readyz").await.map_err(|error| error.to_string())?;
        let seen = (info.disk_stalled, info.ready, code == 200, text.contains("the disk has stalled"));
        if seen == (stalled, !stalled, !stalled, stalled) { Ok(()) } else { Err(format!("{seen:?} {text}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_a_leader_whose_disk_stalls_hands_over_and_is_fit_again_by_itself() {
    let mut scene = Scene::begin().await;
    let reign = scene.reign;
    let began = Instant::now();
    stall(&scene.bed, reign.leader, STALL);
    let newer = scene.bed.cluster().wait_newer_leader(reign).await;
    let took = began.elapsed();
    eprintln!("another leader {took:?} after the disk stalled, bound {BOUND:?}");
    assert_ne!(newer.leader, reign.leader);
    assert!(took < BOUND + TAKEOVER, "{took:?}");
    scene.load.answered(20).await;
    told(scene.bed.cluster(), reign.leader, true).await;
    let metrics = http::get(&scene.bed.cluster().master(reign.leader).addresses().http, "/metrics").await.unwrap().1;
    assert!(metrics.contains("steersman_raft_disk_stalls_total 1"), "{metrics}");
    let health = scene.bed.cluster().cli().run(&["cluster", "health"]).await;
    let named = format!("stalled at master {}", reign.leader);
    assert!(health.code == 7 && health.out.contains(&named), "{health:?}");

    stall(&scene.bed, reign.leader, Duration::ZERO);
    told(scene.bed.cluster(), reign.leader, false).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_a_follower_whose_disk_stalls_says_so_and_takes_no_office() {
    let folder = tempfile::tempdir().unwrap();
    let mut bed = bed(&folder).await;
    let client = bed.client();
    let reign = bed.cluster().wait_leader().await;
    let follower = bed.masters().into_iter().find(|id| *id != reign.leader).unwrap();
    stall(&bed, follower, STALL);
    // Nobody writes anything: the canary finds it.
    told(bed.cluster(), follower, true).await;
    assert_eq!(bed.cluster().wait_leader().await, reign, "the leader is another one, and goes on");
    let id = client.submit(one(nothing())).await.unwrap().first_id;
    all_succeed(&client, id, 1, PATIENCE).await;
    stall(&bed, follower, Duration::ZERO);
    told(bed.cluster(), follower, false).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_a_leader_whose_disk_is_full_costs_a_takeover_and_no_more() {
    let mut scene = Scene::begin().await;
    let reign = scene.reign;
    let began = Instant::now();
    let no_space = rustix::io::Errno::NOSPC.raw_os_error() as u64;
    scene.bed.order(Spot::Master(reign.leader), |orders| orders.set(Order::WriteErrno, no_space).unwrap()).unwrap();
    scene.bed.cluster().wait_newer_leader(reign).await;
    let led = began.elapsed();
    scene.load.answered(5).await;
    let took = began.elapsed();
    eprintln!("another leader {led:?}, writes {took:?} after the leader's disk was full");
    assert!(led < TAKEOVER && took < TAKEOVER + CLIENT, "{led:?} {took:?}");
    let ended = scene.bed.cluster().master(reign.leader).process.ended(PATIENCE).await;
    assert_eq!(ended.code, Some(74), "{}", ended.text);
    assert!(ended.text.contains("No space left on device") && ended.text.contains("STM-3004"), "{}", ended.text);
    scene.bed.order(Spot::Master(reign.leader), |orders| orders.set(Order::WriteErrno, 0).unwrap()).unwrap();
    scene.bed.cluster().start_master(reign.leader);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_a_leader_that_was_frozen_accepts_nothing_in_its_former_office() {
    let mut cluster = Cluster::start(Settings { workers: 0, ..Settings::default() }).await;
    let client = cluster.client();
    for _ in 0..3 {
        let reign = cluster.wait_leader().await;
        let frozen = cluster.client_of(reign.leader).with_timeout(Duration::from_secs(8));
        cluster.master(reign.leader).process.signal(Signal::SIGSTOP);
        cluster.wait_newer_leader(reign).await;
        // These wait at its door and are read the moment it thaws.
        let early: Vec<_> = (0..8)
            .map(|_| {
                let frozen = frozen.clone();
                tokio::spawn(async move { frozen.submit(one(nothing())).await })
            })
            .collect();
        tokio::task::yield_now().await;
        cluster.master(reign.leader).process.signal(Signal::SIGCONT);
        let probe = cluster.master(reign.leader).addresses().http;
        until("the thawed master to know that it leads no more", Duration::from_secs(2), async || {
            let (code, text) = http::get(&probe, "/leaderz").await.map_err(|error| error.to_string())?;
            if code == 503 { Ok(()) } else { Err(text) }
        })
        .await;
        for answer in early {
            if let Ok(submitted) = answer.await.unwrap() {
                let task = client.get(submitted.first_id).await.unwrap().task.unwrap();
                assert_eq!(task.id, submitted.first_id, "what it acknowledged is there");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_a_leader_without_a_quorum_refuses_at_once_and_says_that_nothing_happened() {
    let mut cluster = Cluster::start(Settings { workers: 0, ..Settings::default() }).await;
    let client = cluster.client().with_timeout(Duration::from_secs(4));
    let reign = cluster.wait_leader().await;
    cluster.wait_agreement().await;
    let killed: Vec<u64> = cluster.master_ids().into_iter().filter(|id| *id != reign.leader).collect();
    killed.iter().for_each(|id| cluster.kill_master(*id));
    let probe = cluster.master(reign.leader).addresses().http;
    until("the leader to lead no more and to be not ready", PATIENCE, async || {
        let leads = http::is_ok(&probe, "/leaderz").await || http::is_ok(&probe, "/readyz").await;
        if leads { Err("it does".to_owned()) } else { Ok(()) }
    })
    .await;
    let error = client.submit(one(nothing())).await.unwrap_err();
    assert_eq!(error.reason(), "NO_LEADER", "{error}");
    killed.iter().for_each(|id| cluster.start_master(*id));
    cluster.wait_leader().await;
    client.submit(one(nothing())).await.unwrap();
}
