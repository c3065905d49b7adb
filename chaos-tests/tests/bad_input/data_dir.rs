//! Data directories that are not this node's: another's, emptied, damaged, in use, or no directory; and ports in use.

use std::path::{Path, PathBuf};

use steersman_chaos_tests::audit::all_succeed;
use steersman_chaos_tests::cluster::PATIENCE;
use steersman_chaos_tests::process::Process;
use steersman_chaos_tests::settings::{Addresses, Ports};
use steersman_chaos_tests::spec::{group, nothing};
use steersman_chaos_tests::{Cluster, Settings};

use crate::{Table, alive};

/// What of a master's configuration is not as it should be.
struct Odd {
    name: &'static str,
    id: u64,
    data: PathBuf,
    /// Replaced in the text of the configuration.
    edit: (String, String),
    exit: i32,
    words: Vec<String>,
}

impl Odd {
    fn new(name: &'static str, id: u64, data: &Path, exit: i32, words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { name, id, data: data.to_owned(), edit: Default::default(), exit, words }
    }

    fn edit(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.edit = (from.into(), to.into());
        self
    }
}

/// Starts a master with that configuration and puts how it ended into the table.
async fn run_master(cluster: &Cluster, table: &mut Table, odd: Odd, roster: &[(u64, Addresses)]) {
    let ports = Ports::take().unwrap();
    let mut roster = roster.to_vec();
    roster.iter_mut().filter(|(id, _)| *id == odd.id).for_each(|(_, addresses)| *addresses = ports.addresses());
    let text = cluster.settings.master_config(odd.id, &odd.data, &ports.addresses(), &roster);
    let own = ports.addresses();
    let from = match odd.edit.0.as_str() {
        "{api}" => own.api,
        "{raft}" => own.raft,
        "{http}" => own.http,
        other => other.to_owned(),
    };
    let text = if from.is_empty() { text } else { text.replace(&from, &odd.edit.1) };
    let folder = cluster.folder().join(format!("odd-{}", odd.name.replace(' ', "-")));
    let mut process = Process::new(odd.name, &folder, &["master", "start", "--config", "odd.toml"]).unwrap();
    std::fs::write(folder.join("odd.toml"), text).unwrap();
    process.start().unwrap();
    let ended = process.ended(PATIENCE).await;
    let words: Vec<&str> = odd.words.iter().map(String::as_str).collect();
    table.row(odd.name, (ended.code, &ended.text), odd.exit, &words);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A copy of a master's data, changed.
fn changed(cluster: &Cluster, data: &Path, name: &str, change: impl FnOnce(&Path)) -> PathBuf {
    let copied = cluster.folder().join(format!("data-{name}"));
    copy(data, &copied);
    change(&copied);
    copied
}

fn largest_file(folder: &Path) -> PathBuf {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let (path, metadata) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
            if metadata.is_dir() { folders.push(path) } else { files.push((metadata.len(), path)) }
        }
    }
    files.into_iter().max().unwrap().1
}

fn damage_everywhere(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let from = bytes.len() / 8;
    bytes[from..].iter_mut().step_by(512).for_each(|byte| *byte ^= 0xff);
    std::fs::write(file, bytes).unwrap();
}

fn only_identity(data: &Path) {
    for entry in std::fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else if path.file_name().is_some_and(|name| name != "identity") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// Copies of a stopped master's data, each changed in one way; and directories that are none.
struct Samples {
    running: PathBuf,
    stopped: PathBuf,
    mislabelled: PathBuf,
    newer: PathBuf,
    damaged: PathBuf,
    emptied: PathBuf,
    nameless: PathBuf,
    file: PathBuf,
    fresh: PathBuf,
}

impl Samples {
    fn make(cluster: &Cluster, running: PathBuf, stopped: PathBuf) -> Self {
        let identity = |data: &Path| data.join("identity");
        let edited = |name: &str, from: &str, to: &str| {
            changed(cluster, &stopped, name, |data| {
                let text = std::fs::read_to_string(identity(data)).unwrap();
                assert!(text.contains(from), "{text}");
                std::fs::write(identity(data), text.replacen(from, to, 1)).unwrap();
            })
        };
        let file = cluster.folder().join("a-file");
        std::fs::write(&file, "x").unwrap();
        Self {
            running,
            mislabelled: edited("id", "node_id 2", "node_id 7"),
            newer: edited("v9", "identity 1", "identity 9"),
            damaged: changed(cluster, &stopped, "damaged", |data| damage_everywhere(&largest_file(data))),
            emptied: changed(cluster, &stopped, "emptied", only_identity),
            nameless: changed(cluster, &stopped, "nameless", |data| std::fs::remove_file(identity(data)).unwrap()),
            stopped,
            file,
            fresh: cluster.folder().join("data-9"),
        }
    }

    fn rows(&self) -> Vec<Odd> {
        vec![
            Odd::new("data in use", 1, &self.running, 75, &["STM-3003", "in use by another process"]),
            Odd::new("another masters data", 3, &self.stopped, 75, &["STM-3003", "belongs to master 2, not master 3"]),
            Odd::new(
                "another clusters data",
                2,
                &self.stopped,
                75,
                &["STM-3003", "belongs to cluster \"chaos", "the configuration says \"other\""],
            )
            .edit("cluster = \"chaos\"", "cluster = \"other\""),
            Odd::new("a damaged identity", 2, &self.mislabelled, 65, &["STM-3002", "identity", "checksum"]),
            Odd::new("a newer identity", 2, &self.newer, 76, &["STM-2008", "format 9"]),
            Odd::new("an emptied directory", 2, &self.emptied, 75, &["STM-3003"]),
            Odd::new("no identity", 2, &self.nameless, 75, &["STM-3003", "no identity file"]),
            Odd::new("damaged data", 2, &self.damaged, 65, &["STM-3002", "damaged"]),
            Odd::new("a file for a directory", 2, &self.file, 74, &["STM-3004", "a-file"]),
            Odd::new("no place", 2, Path::new("/proc/steersman/x"), 74, &["STM-3004", "/proc/steersman"]),
            Odd::new("not a member", 9, &self.fresh, 75, &["STM-3003", "not a member of it", "join = true"]),
        ]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_a_data_directory_that_is_not_this_masters_is_refused_with_its_exit_code() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let client = cluster.client();
    client.submit(group(nothing(), 50)).await.unwrap();
    all_succeed(&client, 1, 50, PATIENCE).await;
    let roster: Vec<_> = cluster.master_ids().into_iter().map(|id| (id, cluster.master(id).addresses())).collect();
    let (running, stopped) = (cluster.master(1).data(), cluster.master(2).data());
    cluster.stop_master(2).await;
    let (mut table, own) = (Table::default(), Ports::take().unwrap());
    for odd in Samples::make(&cluster, running, stopped).rows() {
        let mut roster = roster.clone();
        if odd.id == 9 {
            roster.push((9, own.addresses()));
        }
        run_master(&cluster, &mut table, odd, &roster).await;
    }
    let taken = &roster[0].1;
    let ports = [
        ("{api}", "listen.api", &taken.api),
        ("{raft}", "listen.raft", &taken.raft),
        ("{http}", "listen.http", &taken.http),
    ];
    for (what, key, address) in ports {
        let data = cluster.folder().join(format!("data-{key}"));
        let odd = Odd::new("a port in use", 8, &data, 69, &["STM-3005", key, address]).edit(what, address.clone());
        run_master(&cluster, &mut table, odd, &[]).await;
    }
    table.finish(14);
    cluster.start_master(2);
    cluster.wait_agreement().await;
    alive(&mut cluster).await;
}

/// Runs a worker with that configuration to its end.
async fn run_worker(cluster: &Cluster, table: &mut Table, (name, text): (&str, String), exit: i32, words: &[&str]) {
    let folder = cluster.folder().join(format!("odd-{}", name.replace(' ', "-")));
    let mut process = Process::new(name, &folder, &["worker", "start", "--config", "odd.toml"]).unwrap();
    std::fs::write(folder.join("odd.toml"), text).unwrap();
    process.start().unwrap();
    let ended = process.ended(PATIENCE).await;
    table.row(name, (ended.code, &ended.text), exit, words);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_a_worker_that_cannot_be_this_worker_ends_with_its_exit_code() {
    let mut cluster = Cluster::start(Settings { workers: 2, ..Settings::default() }).await;
    let other = Cluster::start(Settings { masters: 1, workers: 0, ..Settings::default() }).await;
    let (masters, mut table) = (cluster.addresses(), Table::default());
    let free = steersman_chaos_tests::ports::Port::take().unwrap().address();
    let config = |name: &str, data: &Path, http: &str, masters: &[String]| {
        cluster.settings.worker_config(name, data, http, masters)
    };
    let blank = cluster.folder().join("blank");
    let file = cluster.folder().join("a-file");
    std::fs::write(&file, "x").unwrap();
    let taken_http = cluster.client_of(1).info().await.unwrap().self_.unwrap().http;
    let running = cluster.folder().join("w1/data");
    let text = config("new", &blank, &taken_http, &masters);
    run_worker(&cluster, &mut table, ("a port in use", text), 69, &["STM-3005", &taken_http]).await;
    let text = config("w1", &running, &free, &masters);
    run_worker(&cluster, &mut table, ("data in use", text), 75, &["STM-3003", "in use by another worker process"])
        .await;
    let text = config("new", &file, &free, &masters);
    run_worker(&cluster, &mut table, ("a file for a directory", text), 74, &["STM-3004", "a-file"]).await;
    let text = config("w1", &blank, &free, &masters);
    run_worker(&cluster, &mut table, ("a name that is taken", text), 75, &["STM-2004", "w1", "choose another name"])
        .await;
    let data = cluster.folder().join("w2/data");
    let moved = config("w2", &data, &free, &other.addresses());
    cluster.worker("w2").process.kill_all();
    run_worker(&cluster, &mut table, ("another cluster", moved), 75, &["STM-2007", "belongs to"]).await;
    let identity = data.join("identity");
    let whole = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, whole.replacen("uid ", "uid 0", 1)).unwrap();
    let text = cluster.settings.worker_config("w2", &data, &free, &masters);
    run_worker(&cluster, &mut table, ("a damaged identity", text), 65, &["STM-3002", "identity is damaged"]).await;
    std::fs::write(&identity, whole).unwrap();
    table.finish(6);
    cluster.start_worker("w2");
    cluster.wait_workers(2).await;
    alive(&mut cluster).await;
}
