//! Disks that are full or read-only, by tiny file systems of their own. They need root; without it the tests say that they
//! have shown nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use steersman_chaos_tests::audit::all_succeed;
use steersman_chaos_tests::cluster::PATIENCE;
use steersman_chaos_tests::load::Load;
use steersman_chaos_tests::process::Process;
use steersman_chaos_tests::settings::Ports;
use steersman_chaos_tests::spec::{group, nothing, one};
use steersman_chaos_tests::{Cluster, Settings};
use steersman_client::v1::{Label, TaskSpec};

use crate::{Table, alive};

/// A tmpfs that is gone with this value.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None`, said loudly, where that is not allowed.
    fn mount(at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_owned()));
        }
        eprintln!("SKIPPED, NOTHING WAS SHOWN: mounting a tmpfs needs root");
        None
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_a_master_whose_disk_is_full_stops_by_name_and_comes_back_when_there_is_space() {
    let mut cluster = Cluster::form(Settings { workers: 1, ..Settings::default() }).unwrap();
    let Some(disk) = Tmpfs::mount(&cluster.master(3).data(), "size=6m") else { return };
    cluster.start_all();
    cluster.wait_leader().await;
    cluster.wait_workers(1).await;
    let client = cluster.client();
    let env = vec![Label { key: "LARGE".into(), value: "x".repeat(60_000) }];
    let load = Load::start(&client, 2, one(TaskSpec { env, ..nothing() }));
    let ended = cluster.master(3).process.ended(PATIENCE).await;
    let mut table = Table::default();
    table.row("a full disk", (ended.code, &ended.text), 74, &["STM-3004", "No space left on device", "free space"]);
    load.answered(20).await;
    let report = load.stop().await;
    assert_eq!(report.failed, Vec::<String>::new(), "the other two go on");
    let again = &mut cluster.master(3).process;
    again.start().unwrap();
    let ended = again.ended(PATIENCE).await;
    table.row("a disk that is still full", (ended.code, &ended.text), 74, &["STM-3004"]);
    disk.remount("size=256m");
    cluster.start_master(3);
    cluster.wait_agreement().await;
    table.finish(2);
    all_succeed(&client, 1, report.acknowledged.len() as u64, PATIENCE).await;
    alive(&mut cluster).await;
    // A folder with a file system in it cannot be removed.
    drop(disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_a_read_only_disk_is_refused_by_name() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let place = cluster.folder().join("read-only");
    let Some(_disk) = Tmpfs::mount(&place, "ro,size=1m") else { return };
    let mut table = Table::default();
    let ports = Ports::take().unwrap();
    let data = place.join("data");
    let master = cluster.settings.master_config(8, &data, &ports.addresses(), &[]);
    let worker = cluster.settings.worker_config("new", &data, &ports.addresses().http, &cluster.addresses());
    for (kind, text) in [("master", master), ("worker", worker)] {
        let folder = cluster.folder().join(format!("odd-{kind}"));
        let mut process = Process::new(kind, &folder, &[kind, "start", "--config", "odd.toml"]).unwrap();
        std::fs::write(folder.join("odd.toml"), text).unwrap();
        process.start().unwrap();
        let ended = process.ended(PATIENCE).await;
        table.row(kind, (ended.code, &ended.text), 74, &["STM-3004", "Read-only file system", "read-only/data"]);
    }
    table.finish(2);
    let first = cluster.client().submit(group(nothing(), 5)).await.unwrap().first_id;
    all_succeed(&cluster.client(), first, 5, PATIENCE).await;
    alive(&mut cluster).await;
}
