//! Workers and masters that do not belong here: wrong version, wrong cluster, a name that is taken, nonsense as first words.

use steersman_chaos_tests::cluster::Cluster;
use steersman_chaos_tests::raw_worker::{RawWorker, hello};
use steersman_chaos_tests::settings::{CLUSTER, Settings};
use steersman_proto::raft::v1::raft_client::RaftClient;
use steersman_proto::raft::v1::{Header, ReadIndexRequest, Vote, VoteRequest};
use steersman_proto::worker::v1::worker_message::Kind;
use steersman_proto::worker::v1::{Heartbeat, Hello};
use tonic::Status;

use crate::api::text_of;
use crate::{Table, alive};

async fn opened(api: &str, first: Kind) -> String {
    let mut worker = match RawWorker::open(api, first).await {
        Ok(worker) => worker,
        Err(status) => return text_of(&status),
    };
    match worker.next().await {
        Ok(kind) => format!("it was answered: {kind:?}"),
        Err(status) => text_of(&status),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_workers_that_do_not_belong_here_are_refused_by_name() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let leader = cluster.wait_leader().await.leader;
    let api = cluster.master(leader).addresses().api;
    let rows: Vec<(&str, Kind, &[&str])> = vec![
        (
            "another protocol",
            Kind::Hello(Hello { protocol: 99, ..hello("x", 1, 1) }),
            &["WRONG_VERSION", "STM-2008", "speaks 99"],
        ),
        (
            "another cluster",
            Kind::Hello(Hello { cluster_id: "other".into(), ..hello("x", 1, 1) }),
            &["WRONG_CLUSTER", "STM-2007", "\"other\""],
        ),
        (
            "a name that is taken",
            Kind::Hello(hello("w1", 1, 1)),
            &["DUPLICATE_WORKER", "STM-2004", "w1", "choose another name"],
        ),
        ("no name", Kind::Hello(hello("", 1, 1)), &["InvalidArgument", "name"]),
        ("a name of control characters", Kind::Hello(hello("a\nb", 1, 1)), &["InvalidArgument", "name"]),
        ("a short uid", Kind::Hello(Hello { uid: vec![1].into(), ..hello("x", 1, 1) }), &["InvalidArgument", "uid"]),
        ("no capacity", Kind::Hello(Hello { capacity: 0, ..hello("x", 1, 1) }), &["InvalidArgument", "capacity"]),
        (
            "too much capacity",
            Kind::Hello(Hello { capacity: u32::MAX, ..hello("x", 1, 1) }),
            &["InvalidArgument", "capacity"],
        ),
        ("a port of no machine", Kind::Hello(Hello { port: 70_000, ..hello("x", 1, 1) }), &["InvalidArgument", "port"]),
        ("no hello", Kind::Heartbeat(Heartbeat::default()), &["InvalidArgument", "begins with Hello"]),
    ];
    let mut table = Table::default();
    for (name, first, words) in rows {
        table.words(name, &opened(&api, first).await, words);
    }
    let follower = cluster.master(leader % 3 + 1).addresses().api;
    table.words("at a follower", &opened(&follower, Kind::Hello(hello("x", 1, 1))).await, &["NOT_LEADER", &api]);
    let (_first, _) = RawWorker::welcomed(&api, hello("twice", 5, 7)).await.unwrap();
    let older = opened(&api, Kind::Hello(hello("twice", 5, 6))).await;
    table.words("an older process", &older, &["STALE_INCARNATION", "STM-2012"]);
    table.finish(12);
    let workers = steersman_chaos_tests::cluster::workers(&cluster.client()).await.unwrap();
    assert_eq!(workers.len(), 2, "nobody else was registered: {workers:?}");
    alive(&mut cluster).await;
}

/// What a master answers to a vote and to a read index with this header.
async fn asked(raft: &str, header: Option<Header>) -> Vec<String> {
    let mut client = RaftClient::connect(format!("http://{raft}")).await.unwrap();
    let vote = Some(Vote { term: 1_000_000, node_id: Some(9), committed: true });
    let said = |answer: Result<String, Status>| answer.unwrap_or_else(|status| text_of(&status));
    let request = VoteRequest { header: header.clone(), vote, ..VoteRequest::default() };
    let voted = client.vote(request.clone()).await.map(|answer| format!("{answer:?}"));
    let pre_voted = client.pre_vote(request).await.map(|answer| format!("{answer:?}"));
    let read = client.read_index(ReadIndexRequest { header }).await.map(|answer| format!("{answer:?}"));
    vec![said(voted), said(pre_voted), said(read)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_masters_that_do_not_belong_here_are_refused_and_the_leader_stays() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let reign = cluster.wait_leader().await;
    let good = |to: u64| Header { cluster_id: CLUSTER.to_owned(), from: 9, to, version: 1, to_store: String::new() };
    let mut table = Table::default();
    for id in cluster.master_ids() {
        let raft = cluster.master(id).addresses().raft;
        let rows: Vec<(&str, Option<Header>, &str)> = vec![
            ("no header", None, "header"),
            (
                "another cluster",
                Some(Header { cluster_id: "other".into(), ..good(id) }),
                "this is cluster \"chaos\", not \"other\"",
            ),
            ("another master", Some(good(id + 1)), "this is master"),
            ("another version", Some(Header { version: 77, ..good(id) }), "not 77"),
        ];
        for (name, header, words) in rows {
            for answer in asked(&raft, header).await {
                table.words(name, &answer, &[words]);
            }
        }
    }
    table.finish(36);
    assert_eq!(cluster.wait_leader().await, reign, "nobody was unseated");
    alive(&mut cluster).await;
}
