//! Real work, end to end: the example script, with the leader killed in the middle.
//!
//! What always holds: the example is run as a user runs it, and it compares by itself; here it is only made hard for it.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use steersman_chaos_tests::audit;
use steersman_chaos_tests::poll::until;
use steersman_chaos_tests::process::{PLACE, binary, place_of};
use steersman_chaos_tests::{Cluster, PATIENCE, Settings};

/// Files of the tree, each a task.
const FILES: u64 = 2_000;
/// All of it, on a busy machine.
const ALL_WORK: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_two_thousand_checksums_are_right_though_the_leader_is_killed_in_the_middle() {
    let mut cluster = Cluster::start(Settings { capacity: 8, ..Settings::default() }).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/sha256-tree.sh");
    let mut example = tokio::process::Command::new(script);
    example.args(["/usr", &FILES.to_string()]).env("STEERSMAN", binary().unwrap());
    example.env("STEERSMAN_ADDRESS", cluster.addresses().join(",")).env(PLACE, place_of(cluster.folder()));
    let example = example.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let client = cluster.client();
    let reign = cluster.wait_leader().await;
    until("a third of the work to be done", PATIENCE, async || {
        let tasks = client.info().await.map_err(|error| error.to_string())?.tasks.unwrap_or_default();
        if tasks.finished_total >= FILES / 3 { Ok(()) } else { Err(format!("{tasks:?}")) }
    })
    .await;
    cluster.kill_master(reign.leader);
    let next = cluster.wait_newer_leader(reign).await;
    let left = client.info().await.unwrap().tasks.unwrap();
    assert!(left.finished_total < FILES, "the leader was killed in the middle: {left:?}");
    assert_ne!(next.leader, reign.leader);
    let output = tokio::time::timeout(ALL_WORK, example.wait_with_output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.starts_with(&format!("equal: {FILES} sums")), "{text}");
    let history = audit::sound(&client, &(1..=FILES).collect::<Vec<u64>>(), PATIENCE).await;
    let again = (1..=FILES).filter(|id| history.tokens(*id).len() > 1).count();
    eprintln!("{FILES} tasks, {again} of them with more than one attempt");
    assert_eq!(again, 0, "no worker was lost, so nothing ran twice");
    cluster.start_master(reign.leader);
    cluster.wait_agreement().await;
}
