//! `steersman cluster verify`: what is in order passes, a replica whose state is another one is found and stops.

use std::collections::BTreeMap;
use std::sync::Arc;

use steersman_chaos_tests::audit::all_succeed;
use steersman_chaos_tests::cluster::PATIENCE;
use steersman_chaos_tests::poll::until;
use steersman_chaos_tests::spec::{group, nothing};
use steersman_chaos_tests::{Cluster, Settings};
use steersman_raft_store::{ApplyObserver, Options, RealDisk, Store};
use steersman_state::{Applied, Batch, Command, Envelope, Limits, Stamp};

/// Nobody listens to a store that is opened between two lives of its master.
struct Deaf;

impl ApplyObserver for Deaf {
    fn applied(&self, _: u64, _: u64, _: &Applied) {}
    fn installed(&self, _: u64) {}
}

/// Has a master write a snapshot of its own.
async fn snapshot_of(cluster: &Cluster, id: u64) {
    let mut download = cluster.client_of(id).save_snapshot().await.unwrap();
    while download.next().await.unwrap().is_some() {}
}

/// Gives a stopped master's state a limit that nobody has set, and writes that as a whole snapshot onto its disk.
async fn corrupt(data: &std::path::Path, id: u64) {
    let opened =
        steersman_raft_store::open(Arc::new(RealDisk::new(data)), Options::new(id, None), Arc::new(Deaf)).await;
    let Store { machine, state, control, .. } = opened.unwrap();
    {
        let mut state = state.write();
        let limits = state.limits().clone();
        let command = Command::SetLimits(Limits { workers_max: limits.workers_max + 1, ..limits });
        let (term, time_ms, index) = (state.term(), state.time_ms(), state.applied_index());
        let leader = state.leader().unwrap();
        let stamp = Stamp { term, leader, time_ms, wall_ms: state.wall_ms(), entropy: 0 };
        state.apply(index, &Batch { stamp, commands: vec![Envelope { request: None, command }] });
    }
    machine.rewrite_snapshot().await.unwrap();
    control.close().await.unwrap();
}

fn results(json: &str) -> BTreeMap<(String, u64), String> {
    let rows: Vec<serde_json::Value> = serde_json::from_str(json).unwrap();
    let row = |row: &serde_json::Value| {
        let word = |key: &str| row[key].as_str().unwrap().to_owned();
        ((word("check"), row["master"].as_u64().unwrap_or(0)), word("result"))
    };
    rows.iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_order_passes_and_too_few_masters_are_told_from_wrong_ones() {
    let settings = Settings {
        master_keys: vec![("raft.snapshot_entries", "100"), ("raft.keep_entries", "50")],
        ..Settings::default()
    };
    let mut cluster = Cluster::start(settings).await;
    let client = cluster.client();
    for _ in 0..40 {
        let first = client.submit(group(nothing(), 5)).await.unwrap().first_id;
        all_succeed(&client, first, 5, PATIENCE).await;
    }
    let cli = cluster.cli();
    let deep = cli.run(&["cluster", "verify", "--deep", "-o", "json"]).await.ok();
    let found = results(&deep);
    assert!(found.values().all(|result| result == "ok"), "{deep}");
    for check in ["digest", "invariants", "log", "snapshot"] {
        for master in 1..=3 {
            assert!(found.contains_key(&(check.to_owned(), master)), "{check} of {master}: {deep}");
        }
    }
    let table = cli.run(&["cluster", "verify"]).await.ok();
    assert!(table.contains("digest") && table.contains("3 of 3 answer"), "{table}");

    cluster.kill_master(3);
    cluster.wait_leader().await;
    let said = cli.run(&["cluster", "verify"]).await;
    assert_eq!(said.code, 7, "{said:?}");
    assert!(said.out.contains("2 of 3 answer"), "{said:?}");
    cluster.kill_master(2);
    let said = cli.run(&["cluster", "verify", "--timeout", "3s"]).await;
    assert_eq!(said.code, 4, "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_another_state_is_found_and_stops_with_its_exit_code() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let client = cluster.client();
    let first = client.submit(group(nothing(), 20)).await.unwrap().first_id;
    all_succeed(&client, first, 20, PATIENCE).await;
    cluster.wait_agreement().await;
    snapshot_of(&cluster, 3).await;
    cluster.stop_master(3).await;
    let data = cluster.master(3).data();
    corrupt(&data, 3).await;
    cluster.start_master(3);
    cluster.wait_agreement().await;

    let said = cluster.cli().run(&["cluster", "verify", "-o", "json"]).await;
    assert_eq!(said.code, 7, "{said:?}");
    let found = results(&said.out);
    let digest = |master: u64| found.get(&("digest".to_owned(), master)).map(String::as_str);
    assert_eq!([digest(1), digest(2)], [Some("ok"), Some("ok")], "{said:?}");
    assert_ne!(digest(3), Some("ok"), "{said:?}");

    let ended = cluster.master(3).process.ended(PATIENCE).await;
    assert_eq!(ended.code, Some(70), "{}", ended.text);
    assert!(ended.text.contains("is not that of the majority (masters [1, 2])"), "{}", ended.text);
    let first = client.submit(group(nothing(), 20)).await.unwrap().first_id;
    all_succeed(&client, first, 20, PATIENCE).await;
    until("the other two to be without findings of their own", PATIENCE, async || {
        let checked = client.verify(false).await.map_err(|error| error.to_string())?;
        let own = checked.findings().into_iter().filter(|finding| finding.master.is_some());
        let bad: Vec<_> = own.filter(|finding| finding.verdict != steersman_client::Verdict::Ok).collect();
        if bad.is_empty() { Ok(()) } else { Err(format!("{bad:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_has_the_states_compared_by_itself() {
    let settings =
        Settings { workers: 1, master_keys: vec![("raft.audit_interval_ms", "1000")], ..Settings::default() };
    let mut cluster = Cluster::start(settings).await;
    cluster.wait_agreement().await;
    snapshot_of(&cluster, 2).await;
    cluster.stop_master(2).await;
    let data = cluster.master(2).data();
    corrupt(&data, 2).await;
    cluster.start_master(2);
    let ended = cluster.master(2).process.ended(PATIENCE).await;
    assert_eq!(ended.code, Some(70), "{}", ended.text);
    assert!(ended.text.contains("STM-3006"), "{}", ended.text);
}
