//! Masters come and go: wiped, replaced, joined from a snapshot, moved to other addresses.

use std::time::Duration;

use steersman_chaos_tests::audit::{self, all_tasks, wait_state};
use steersman_chaos_tests::cluster::PATIENCE;
use steersman_chaos_tests::load::Load;
use steersman_chaos_tests::poll::until;
use steersman_chaos_tests::spec::{group, nothing, one};
use steersman_chaos_tests::{Cluster, Settings};
use steersman_client::v1::{Consistency, GetTaskRequest, InfoResponse, MasterRole, TaskState};
use steersman_client::{Client, codes};

/// `(id, voter)` of all members, as one master sees them.
fn members(info: &InfoResponse) -> Vec<(u64, bool)> {
    let ids = info.masters.iter().map(|master| (master.address.as_ref().map_or(0, |a| a.id), master.voter));
    let mut ids: Vec<(u64, bool)> = ids.collect();
    ids.sort_unstable();
    ids
}

async fn run_one(client: &Client) -> u64 {
    let id = client.submit(one(nothing())).await.unwrap().first_id;
    wait_state(client, id, TaskState::Succeeded, PATIENCE).await;
    id
}

/// Adds a master that waits to be added, lets it catch up, and makes it a voter.
async fn add_and_promote(cluster: &mut Cluster, client: &Client, id: u64) {
    let address = cluster.master(id).address();
    client.add_master(address).await.unwrap();
    until(&format!("master {id} to catch up"), PATIENCE, async || {
        let goal = client.info().await.map_err(|error| error.to_string())?.applied_index;
        let own = cluster.info_of(id).await.ok_or("no answer")?;
        let caught_up = own.applied_index >= goal && own.role() == MasterRole::Learner;
        if caught_up { Ok(()) } else { Err(format!("{} of {goal}, {:?}", own.applied_index, own.role())) }
    })
    .await;
    client.promote_master(id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_a_wiped_follower_is_refused_under_its_old_id_and_replaced_under_a_new_one() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let client = cluster.client();
    let load = Load::start(&client, 2, group(nothing(), 1));
    load.answered(20).await;
    let reign = cluster.wait_leader().await;
    let wiped = reign.leader % 3 + 1;
    cluster.kill_master(wiped);
    cluster.wipe_master(wiped);
    cluster.start_master(wiped);
    let ended = cluster.master(wiped).process.ended(PATIENCE).await;
    assert_eq!(ended.code, Some(75), "{}", ended.text);
    for words in [codes::FOREIGN_DATA.id, "its data directory is new", "under an id that was never used"] {
        assert!(ended.text.contains(words), "{words:?} is missing in: {}", ended.text);
    }
    client.remove_master(wiped).await.unwrap();
    cluster.start_blank_master(4).await;
    add_and_promote(&mut cluster, &client, 4).await;
    let info = client.info().await.unwrap();
    let mut wanted: Vec<(u64, bool)> = (1..=4).filter(|id| *id != wiped).map(|id| (id, true)).collect();
    wanted.sort_unstable();
    assert_eq!(members(&info), wanted);
    load.answered(20).await;
    let reign = cluster.wait_leader().await;
    cluster.kill_master(if reign.leader == 4 { wanted[0].0 } else { reign.leader });
    load.answered(20).await;
    let report = load.stop().await;
    assert_eq!(report.failed, Vec::<String>::new(), "the new master counts towards the quorum");
    audit::sound(&client, &report.acknowledged, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_a_master_that_had_joined_and_was_wiped_is_refused_under_its_old_id() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let client = cluster.client();
    cluster.start_blank_master(4).await;
    add_and_promote(&mut cluster, &client, 4).await;
    run_one(&client).await;
    cluster.kill_master(4);
    cluster.wipe_master(4);
    // Its configuration still says that it waits to be added: it knows nobody whom it could ask.
    cluster.start_master(4);
    let ended = cluster.master(4).process.ended(PATIENCE).await;
    assert_eq!(ended.code, Some(75), "{}", ended.text);
    for words in [codes::FOREIGN_DATA.id, "its data directory is new", "under an id that was never used"] {
        assert!(ended.text.contains(words), "{words:?} is missing in: {}", ended.text);
    }
    run_one(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_a_wiped_master_is_refused_though_none_that_its_configuration_names_is_a_member_any_more() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let client = cluster.client();
    for (new, old) in [(4, 1), (5, 2)] {
        cluster.start_blank_master(new).await;
        add_and_promote(&mut cluster, &client, new).await;
        if cluster.wait_leader().await.leader == old {
            client.step_down(3).await.unwrap();
        }
        client.remove_master(old).await.unwrap();
        cluster.kill_master(old);
    }
    if cluster.wait_leader().await.leader == 3 {
        client.step_down(4).await.unwrap();
    }
    cluster.kill_master(3);
    cluster.wipe_master(3);
    cluster.start_master(3);
    let ended = cluster.master(3).process.ended(PATIENCE).await;
    assert_eq!(ended.code, Some(75), "{}", ended.text);
    assert!(ended.text.contains("its data directory is new"), "{}", ended.text);
    run_one(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_a_blank_master_joins_from_a_snapshot_of_a_log_that_was_purged() {
    let keys = vec![("raft.snapshot_entries", "100"), ("raft.keep_entries", "0")];
    let mut cluster = Cluster::start(Settings { workers: 1, master_keys: keys, ..Settings::default() }).await;
    let client = cluster.client();
    for _ in 0..130 {
        client.submit(group(nothing(), 3)).await.unwrap();
    }
    audit::all_succeed(&client, 1, 390, PATIENCE).await;
    until("a snapshot at the leader", PATIENCE, async || {
        let info = client.info_of(&leader_api(&cluster).await).await.map_err(|error| error.to_string())?;
        if info.snapshot_index > 100 { Ok(()) } else { Err(format!("snapshot at {}", info.snapshot_index)) }
    })
    .await;
    cluster.start_blank_master(4).await;
    add_and_promote(&mut cluster, &client, 4).await;
    let own = cluster.info_of(4).await.unwrap();
    let since = own.applied_index - own.snapshot_index;
    assert!(own.snapshot_index > 100 && since < 100, "its snapshot came from elsewhere: {own:?}");
    let stale = |id: u64| GetTaskRequest { id, consistency: Consistency::Stale.into() };
    for id in [1, 200, 390] {
        let answer = cluster.client_of(4).get_with(stale(id)).await.unwrap();
        assert_eq!(answer.task.unwrap().state(), TaskState::Succeeded, "task {id} came with the snapshot");
    }
    cluster.wait_agreement().await;
    // Of four voters three are needed: the new one among them.
    let reign = cluster.wait_leader().await;
    cluster.kill_master(if reign.leader == 4 { 1 } else { reign.leader });
    run_one(&client).await;
    assert_eq!(all_tasks(&client).await.len(), 391);
    audit::sound(&client, &(1..=391).collect::<Vec<u64>>(), PATIENCE).await;
}

async fn leader_api(cluster: &Cluster) -> String {
    let reign = cluster.wait_leader().await;
    let infos = cluster.infos().await;
    let own = infos.get(&reign.leader).and_then(|info| info.self_.clone());
    own.map(|own| own.api).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_masters_that_come_back_at_other_addresses_are_found_again() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let client = cluster.client();
    for id in [1, 2] {
        run_one(&client).await;
        let reign = cluster.wait_leader().await;
        let old = cluster.master(id).addresses();
        cluster.stop_master(id).await;
        cluster.move_master(id);
        cluster.start_master(id);
        let new = cluster.master(id).addresses();
        assert_ne!(new, old);
        until(&format!("all to know where master {id} is now"), PATIENCE, async || {
            let infos = cluster.infos().await;
            let knows = |info: &&InfoResponse| {
                let own = info.masters.iter().filter_map(|master| master.address.as_ref()).find(|a| a.id == id);
                own.is_some_and(|own| own.api == new.api && own.raft == new.raft && own.http == new.http)
            };
            let count = infos.values().filter(knows).count();
            if count == 3 { Ok(()) } else { Err(format!("{count} of 3 know; leader was {reign:?}")) }
        })
        .await;
    }
    // A client that knows the old addresses learns the new ones from any master that it still reaches.
    client.info().await.unwrap();
    // The two that moved are the majority now.
    cluster.kill_master(3);
    let new_client = cluster.client().with_timeout(Duration::from_secs(20));
    run_one(&new_client).await;
    assert_eq!(run_one(&client).await, 4);
    audit::sound(&new_client, &[1, 2, 3, 4], PATIENCE).await;
}
