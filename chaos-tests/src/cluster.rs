//! A cluster of real processes on this machine: started, watched, broken and mended by tests.
//!
//! What always holds: tests see only what clients see (the client crate, probes, the command line, exit codes and logs);
//! everything that was started is killed when the [`Cluster`] is dropped; the folder of a test that failed is kept, its
//! path and the ends of all logs are printed. Nothing here waits by sleeping, and nothing judges the product.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use steersman_client::v1::{InfoResponse, ListWorkersRequest, MasterAddress, MasterRole, Worker, WorkerStatus};
use steersman_client::{Client, World, worker_ref};

use crate::poll::until;
use crate::process::{Ended, Process, kill_all, place_of};
use crate::settings::{Addresses, Lodging, Settings};

/// A debug build on a busy machine with two cores needs a while to come up; what is measured is measured otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Lines of each log that a failed test shows.
const TAIL_LINES: usize = 25;

/// One master.
#[derive(Debug)]
pub struct Master {
    /// Its id.
    pub id: u64,
    /// Its process and folder.
    pub process: Process,
    lodging: Lodging,
}

impl Master {
    /// Where it is reached.
    pub fn addresses(&self) -> Addresses {
        self.lodging.advertise.clone()
    }

    /// Its addresses as the API has them.
    pub fn address(&self) -> MasterAddress {
        let Addresses { api, raft, http } = self.addresses();
        MasterAddress { id: self.id, api, raft, http }
    }

    /// Its data directory, as seen from its place (see [`Process::place`]).
    pub fn data(&self) -> PathBuf {
        self.lodging.data.clone()
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.process.folder().join("master.toml")
    }
}

/// One worker.
#[derive(Debug)]
pub struct WorkerNode {
    /// Its name.
    pub name: String,
    /// Its process and folder.
    pub process: Process,
    lodging: Lodging,
}

impl WorkerNode {
    /// Where it serves metrics and probes.
    pub fn http(&self) -> String {
        self.lodging.advertise.http.clone()
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.lodging.data.clone()
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.process.folder().join("worker.toml")
    }
}

/// Who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reign {
    /// The leader's id.
    pub leader: u64,
    /// Its term.
    pub term: u64,
}

/// Where nodes live and how they are reached.
pub trait Site: std::fmt::Debug + Send + Sync {
    /// The world as clients of this process see it.
    fn world(&self) -> World {
        World::real()
    }

    /// A place for a master whose folder this is.
    ///
    /// # Errors
    /// If none is to be had.
    fn master(&self, id: u64, folder: &Path) -> Result<Lodging>;

    /// A place for a worker whose folder this is.
    ///
    /// # Errors
    /// If none is to be had.
    fn worker(&self, name: &str, folder: &Path) -> Result<Lodging>;
}

/// Everybody on loopback, on ports of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Loopback;

impl Site for Loopback {
    fn master(&self, _id: u64, folder: &Path) -> Result<Lodging> {
        Lodging::here(folder)
    }

    fn worker(&self, _name: &str, folder: &Path) -> Result<Lodging> {
        Lodging::here(folder)
    }
}

/// A cluster of real processes.
#[derive(Debug)]
pub struct Cluster {
    /// What it is like.
    pub settings: Settings,
    site: Arc<dyn Site>,
    folder: PathBuf,
    /// Whether the folder is somebody else's to delete.
    keep: bool,
    masters: BTreeMap<u64, Master>,
    workers: BTreeMap<String, WorkerNode>,
    roster: Vec<(u64, Addresses)>,
    began: Instant,
}

impl Cluster {
    /// Starts one and waits until it has a leader and all its workers.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn start(settings: Settings) -> Self {
        let mut cluster = Self::form(settings).unwrap_or_else(|error| panic!("no cluster: {error:#}"));
        cluster.start_all();
        cluster.wait_leader().await;
        let workers = cluster.settings.workers;
        cluster.wait_workers(workers).await;
        cluster
    }

    /// Folders and configurations; nothing runs yet.
    ///
    /// # Errors
    /// If folders, ports or the binary are not to be had.
    pub fn form(settings: Settings) -> Result<Self> {
        let folder = run_folder()?;
        Self::form_at(settings, Arc::new(Loopback), folder, false)
    }

    /// As [`Cluster::form`], elsewhere and in a folder of the caller's, which is kept at the end if so.
    ///
    /// # Errors
    /// As [`Cluster::form`].
    pub fn form_at(settings: Settings, site: Arc<dyn Site>, folder: PathBuf, keep: bool) -> Result<Self> {
        crate::process::binary()?;
        let (masters, workers) = (BTreeMap::new(), BTreeMap::new());
        let (roster, began) = (Vec::new(), Instant::now());
        let mut cluster = Self { settings, site, folder, keep, masters, workers, roster, began };
        for id in 1..=cluster.settings.masters {
            cluster.put_master(id)?;
        }
        cluster.roster = cluster.masters.iter().map(|(id, master)| (*id, master.addresses())).collect();
        for master in cluster.masters.values() {
            cluster.write_config(master, &cluster.roster)?;
        }
        for n in 1..=cluster.settings.workers {
            cluster.put_worker(&format!("w{n}"))?;
        }
        Ok(cluster)
    }

    fn put_master(&mut self, id: u64) -> Result<&mut Master> {
        let folder = self.folder.join(format!("m{id}"));
        let process = Process::new(&format!("master {id}"), &folder, &["master", "start", "--config", "master.toml"])?;
        let lodging = self.site.master(id, &folder)?;
        let master = Master { id, process: process.launched(lodging.launch.clone()), lodging };
        Ok(self.masters.entry(id).or_insert(master))
    }

    fn put_worker(&mut self, name: &str) -> Result<()> {
        let folder = self.folder.join(name);
        let process =
            Process::new(&format!("worker {name}"), &folder, &["worker", "start", "--config", "worker.toml"])?;
        let lodging = self.site.worker(name, &folder)?;
        let process = process.launched(lodging.launch.clone());
        self.workers.insert(name.to_owned(), WorkerNode { name: name.to_owned(), process, lodging });
        self.tell_worker(name)
    }

    /// Writes a worker's configuration with the masters as they are at the moment, for its next start.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn tell_worker(&self, name: &str) -> Result<()> {
        let worker = self.workers.get(name).with_context(|| format!("there is no worker {name}"))?;
        let Lodging { data, listen, insecure, .. } = &worker.lodging;
        let mut text = self.settings.worker_config(name, data, &listen.http, &self.addresses());
        if *insecure {
            text.insert_str(0, "insecure = true\n");
        }
        std::fs::write(worker.config(), text).context("cannot write a configuration")
    }

    fn write_config(&self, master: &Master, roster: &[(u64, Addresses)]) -> Result<()> {
        let text = self.settings.lodged_master_config(master.id, &master.lodging, roster);
        std::fs::write(master.config(), text).context("cannot write a configuration")
    }

    /// A folder for what the tasks of a test write.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn scratch(&self) -> PathBuf {
        let scratch = self.folder.join("scratch");
        std::fs::create_dir_all(&scratch).unwrap_or_else(|error| panic!("no scratch folder: {error}"));
        scratch
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A master.
    ///
    /// # Panics
    /// If there is none of that id.
    pub fn master(&mut self, id: u64) -> &mut Master {
        self.masters.get_mut(&id).unwrap_or_else(|| panic!("there is no master {id}"))
    }

    /// A worker.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn worker(&mut self, name: &str) -> &mut WorkerNode {
        self.workers.get_mut(name).unwrap_or_else(|| panic!("there is no worker {name}"))
    }

    /// A master, to be looked at.
    pub fn master_node(&self, id: u64) -> Option<&Master> {
        self.masters.get(&id)
    }

    /// A worker, to be looked at.
    pub fn worker_node(&self, name: &str) -> Option<&WorkerNode> {
        self.workers.get(name)
    }

    /// Ids of all masters that were put here and not taken away, in order.
    pub fn master_ids(&self) -> Vec<u64> {
        self.masters.keys().copied().collect()
    }

    /// Names of all workers, in order.
    pub fn worker_names(&self) -> Vec<String> {
        self.workers.keys().cloned().collect()
    }

    /// Ends a master for good: nobody asks it any more. Its folder stays.
    pub fn take_master_away(&mut self, id: u64) {
        self.masters.remove(&id);
    }

    /// API addresses of all masters.
    pub fn addresses(&self) -> Vec<String> {
        self.masters.values().map(|master| master.addresses().api).collect()
    }

    /// A new client that knows all masters.
    ///
    /// # Panics
    /// Never with addresses of ours.
    pub fn client(&self) -> Client {
        let built = Client::builder(self.site.world()).addresses(self.addresses()).timeout(PATIENCE).build();
        built.unwrap_or_else(|error| panic!("no client: {error}"))
    }

    /// A new client of one master alone: one try for each call, no redirects.
    pub fn client_of(&self, id: u64) -> Client {
        self.client().only(&self.masters[&id].addresses().api)
    }

    /// Starts every node that does not run.
    ///
    /// # Panics
    /// If one cannot be started.
    pub fn start_all(&mut self) {
        let masters = self.masters.values_mut().map(|master| &mut master.process);
        for process in masters.chain(self.workers.values_mut().map(|worker| &mut worker.process)) {
            if process.pid().is_none() {
                process.start().unwrap_or_else(|error| panic!("{error:#}"));
            }
        }
    }

    /// Starts a master again.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_master(&mut self, id: u64) {
        self.master(id).process.start().unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Starts a worker again.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_worker(&mut self, name: &str) {
        self.worker(name).process.start().unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Kills a master with SIGKILL.
    pub fn kill_master(&mut self, id: u64) {
        self.master(id).process.kill();
    }

    /// Kills all masters with SIGKILL, at one moment.
    pub fn kill_all_masters(&mut self) {
        for master in self.masters.values().filter(|master| master.process.pid().is_some()) {
            master.process.signal(Signal::SIGSTOP);
        }
        for master in self.masters.values_mut().filter(|master| master.process.pid().is_some()) {
            master.process.kill();
        }
    }

    /// Stops a master in good order and says how it ended.
    pub async fn stop_master(&mut self, id: u64) -> Ended {
        let process = &mut self.master(id).process;
        process.signal(Signal::SIGTERM);
        process.ended(PATIENCE).await
    }

    /// Deletes a master's data.
    ///
    /// # Panics
    /// If it cannot be deleted.
    pub fn wipe_master(&mut self, id: u64) {
        let master = self.master(id);
        let data = master.data();
        let wiped = master.process.place().within(|| std::fs::remove_dir_all(&data)).flatten();
        wiped.unwrap_or_else(|error| panic!("cannot wipe {}: {error}", data.display()));
    }

    /// Makes and starts a blank master that waits to be added, and waits until it answers.
    ///
    /// # Panics
    /// If that cannot be done.
    pub async fn start_blank_master(&mut self, id: u64) {
        self.put_blank_master(id).unwrap_or_else(|error| panic!("{error:#}"));
        self.start_master(id);
        until(&format!("master {id} to answer"), PATIENCE, async || {
            self.info_of(id).await.map(drop).ok_or_else(|| "no answer".to_owned())
        })
        .await;
    }

    /// Makes a blank master that waits to be added; it does not run yet.
    ///
    /// # Errors
    /// If there is no place for it.
    pub fn put_blank_master(&mut self, id: u64) -> Result<()> {
        self.put_master(id)?;
        self.write_config(&self.masters[&id], &[])
    }

    /// Gives a stopped master other addresses, in its own configuration alone.
    ///
    /// # Panics
    /// If there are no ports left.
    pub fn move_master(&mut self, id: u64) {
        let folder = self.master(id).process.folder().to_owned();
        let lodging = self.site.master(id, &folder).unwrap_or_else(|error| panic!("{error:#}"));
        self.master(id).lodging = lodging;
        let master = &self.masters[&id];
        let mut roster = self.roster.clone();
        roster.iter_mut().filter(|(own, _)| *own == id).for_each(|(_, addresses)| *addresses = master.addresses());
        self.write_config(master, &roster).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// What a master says of the cluster, if it answers.
    pub async fn info_of(&self, id: u64) -> Option<InfoResponse> {
        self.client_of(id).with_timeout(Duration::from_secs(1)).info().await.ok()
    }

    /// Waits until one master leads and is ready, and a majority of all that run agree on it.
    pub async fn wait_leader(&self) -> Reign {
        self.wait_reign("a leader", |_| true).await
    }

    /// Waits for a leader of a newer term.
    pub async fn wait_newer_leader(&self, than: Reign) -> Reign {
        self.wait_reign("a newer leader", move |reign| reign.term > than.term).await
    }

    async fn wait_reign(&self, what: &str, wanted: impl Fn(Reign) -> bool) -> Reign {
        until(what, PATIENCE, async || {
            let infos = self.infos().await;
            let leads = |info: &&InfoResponse| info.role() == MasterRole::Leader && info.ready;
            let leader = infos.values().filter(leads).max_by_key(|info| info.leader.as_ref().map(|l| l.term));
            let reign = leader.and_then(|info| {
                let term = info.leader.as_ref()?.term;
                Some(Reign { leader: info.self_.as_ref()?.id, term })
            });
            reign.filter(|reign| wanted(*reign)).ok_or_else(|| summary(&infos))
        })
        .await
    }

    /// What every master that answers says.
    pub async fn infos(&self) -> BTreeMap<u64, InfoResponse> {
        let asks = self.masters.keys().map(|id| async move { (*id, self.info_of(*id).await) });
        let answers = futures::future::join_all(asks).await;
        answers.into_iter().filter_map(|(id, info)| Some((id, info?))).collect()
    }

    /// Waits until so many workers are connected and open for work, and returns all there are.
    pub async fn wait_workers(&self, count: usize) -> Vec<Worker> {
        let client = self.client();
        until(&format!("{count} connected workers"), PATIENCE, async || {
            let workers = workers(&client).await?;
            let works = |worker: &&Worker| {
                worker.connected && matches!(worker.status(), WorkerStatus::Online | WorkerStatus::Busy)
            };
            if workers.iter().filter(works).count() == count { Ok(workers) } else { Err(format!("{workers:?}")) }
        })
        .await
    }

    /// Waits until a worker has that status.
    pub async fn wait_worker(&self, name: &str, status: WorkerStatus) -> Worker {
        let client = self.client();
        until(&format!("worker {name} to be {status:?}"), PATIENCE, async || {
            let answer = client.worker_get(worker_ref(name)).await.map_err(|error| error.to_string())?;
            let worker = answer.worker.ok_or("no worker in the answer")?;
            if worker.status() == status { Ok(worker) } else { Err(format!("{worker:?}")) }
        })
        .await
    }

    /// Waits until all running masters have applied the same index, and returns it.
    pub async fn wait_agreement(&self) -> u64 {
        until("all masters to have applied the same", PATIENCE, async || {
            let infos = self.infos().await;
            let running = self.masters.values().filter(|master| master.process.pid().is_some()).count();
            let applied: Vec<u64> = infos.values().map(|info| info.applied_index).collect();
            match applied.first() {
                Some(first) if applied.len() == running && applied.iter().all(|index| index == first) => Ok(*first),
                _ => Err(format!("{applied:?}")),
            }
        })
        .await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        kill_all(&place_of(&self.folder));
        if std::thread::panicking() || std::env::var_os("STEERSMAN_KEEP_RUNS").is_some() {
            self.show();
        } else if !self.keep {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

impl Cluster {
    /// Prints where everything is, and the end of each log.
    fn show(&self) {
        let masters = self.masters.values().map(|master| &master.process);
        for process in masters.chain(self.workers.values().map(|worker| &worker.process)) {
            let log = std::fs::read_to_string(process.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            eprintln!("---- {} (last {} of {} lines)", process.log().display(), tail.len(), lines.len());
            tail.iter().for_each(|line| eprintln!("{line}"));
        }
        eprintln!("---- the cluster's folder is kept: {} (it lived {:?})", self.folder.display(), self.began.elapsed());
    }
}

/// All workers in the registry.
///
/// # Errors
/// What the cluster answered instead.
pub async fn workers(client: &Client) -> Result<Vec<Worker>, String> {
    let answer = client.worker_list(ListWorkersRequest::default()).await.map_err(|error| error.to_string())?;
    Ok(answer.workers)
}

fn summary(infos: &BTreeMap<u64, InfoResponse>) -> String {
    let one = |(id, info): (&u64, &InfoResponse)| {
        let term = info.leader.as_ref().map_or(0, |leader| leader.term);
        format!("master {id}: {:?}, term {term}, ready {}", info.role(), info.ready)
    };
    let all: Vec<String> = infos.iter().map(one).collect();
    if all.is_empty() { "no master answers".to_owned() } else { all.join("; ") }
}

/// A new folder below `chaos-tests/runs`, named after the test.
fn run_folder() -> Result<PathBuf> {
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
    std::fs::create_dir_all(&runs).with_context(|| format!("cannot make {}", runs.display()))?;
    let folder = tempfile::Builder::new().prefix(&format!("{}-", test_name())).tempdir_in(&runs)?;
    Ok(folder.keep())
}

/// The thread is named after the test, but for a runner that starts a process for each: there the test is an argument.
fn test_name() -> String {
    let last = |path: &str| path.rsplit("::").next().unwrap_or("run").to_owned();
    match std::thread::current().name() {
        Some(name) if name != "main" => last(name),
        _ => std::env::args()
            .skip(1)
            .find(|arg| !arg.starts_with('-'))
            .map_or_else(|| "run".to_owned(), |arg| last(&arg)),
    }
}
