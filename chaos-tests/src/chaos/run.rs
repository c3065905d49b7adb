//! One run: a bed, the workloads, the storm, the end, and what it all proves.
//!
//! What always holds: whatever goes wrong, faults are taken back, processes are ended, and the history that there is stays in the
//! run's folder. A run that was interrupted, or in which the harness itself failed, is unknown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use steersman_evidence::record::{FORMAT, Run};
use steersman_evidence::{Finding, Verdict};
use steersman_world::SeededEntropy;
use tokio::sync::watch;

use super::demands;
use super::ending;
use super::fenced::Register;
use super::ground::Ground;
use super::intervals;
use super::keys::Keys;
use super::recorder::{Counts, Recorder};
use super::schedule::{self, Test};
use super::storm::{Forces, Storm};
use super::targets::Targets;
use super::traffic::Traffic;
use super::watcher::{self, Complaints, Watcher};
use super::work::Places;
use super::workloads::{Rates, Workloads};
use crate::settings::Settings;

/// Fair weather before the storm, so that there is something to break.
const WARM_UP: Duration = Duration::from_secs(3);
/// Traffic goes on so long after the last fault: that the cluster serves again has to be seen.
const AFTERMATH: Duration = Duration::from_secs(8);
/// How long the queue may take to drain before the run gives up waiting.
const DRAIN: Duration = Duration::from_secs(200);
/// How long followers may take to get the last events.
const CATCH_UP: Duration = Duration::from_secs(30);
/// How long the last operation of a client may take to end.
const LAST_WORD: Duration = Duration::from_secs(60);

/// What a run is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which faults.
    pub test: Test,
    /// How long the storm blows.
    pub time: Duration,
    /// Decides the schedule and the workloads.
    pub seed: u64,
    /// Operations per second, roughly.
    pub rate: f64,
    /// Where everything goes. Exists.
    pub folder: PathBuf,
    /// This program, as tasks are to find it.
    pub program: PathBuf,
}

impl Plan {
    /// The cluster that such a run wants: short leases, snapshots that come often enough, everything kept to the end.
    pub fn settings(&self, masters: u64, workers: usize) -> Settings {
        // A snapshot holds all kept tasks: in long runs they are large, and come seldom enough all the same.
        let long = self.time > Duration::from_secs(600);
        let (snapshot, keep) = if long { ("2000", "200") } else { ("300", "50") };
        let master_keys = vec![
            ("raft.snapshot_entries", snapshot),
            ("raft.keep_entries", keep),
            // Nothing that was ever submitted is forgotten before it is read at the end.
            ("retention.finished_max", "5000000"),
            ("retention.events_max", "5000000"),
        ];
        Settings { masters, workers, capacity: 6, master_keys, ..Settings::default() }
    }

    /// The first record of the history.
    fn first_record(&self, masters: u64, workers: usize, facts: BTreeMap<String, String>) -> Run {
        let wanted = schedule::wanted(&self.test, self.seed, self.time);
        let mut all = BTreeMap::from([
            (demands::TIME_MS.to_owned(), self.time.as_millis().to_string()),
            (demands::RATE.to_owned(), self.rate.to_string()),
            ("test".to_owned(), self.test.to_string()),
        ]);
        all.extend(facts);
        Run {
            format: FORMAT,
            kind: "chaos".to_owned(),
            seed: self.seed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            masters,
            workers: workers as u64,
            began_wall_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            faults_wanted: wanted.into_iter().map(|class| class.name().to_owned()).collect(),
            facts: all,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The history's file.
    pub fn history(&self) -> PathBuf {
        self.path("history.jsonl")
    }
}

/// How a run went, before it is judged by its history.
#[derive(Debug, Clone)]
pub struct Went {
    /// Operations of the workloads.
    pub counts: Counts,
    /// Reads at the end, by pages, which are in the history besides.
    pub reads_at_end: u64,
    /// Verdicts of the runner itself, on what is not in the history.
    pub verdicts: Vec<Verdict>,
}

/// A line of progress, for who waits.
pub fn say(text: &str) {
    eprintln!("chaos: {text}");
}

/// Runs on a cluster that is up. `stop` turning true ends it early.
///
/// # Errors
/// If it cannot begin, or its history cannot be written.
pub async fn run(
    plan: &Plan,
    ground: &mut impl Ground,
    settings: &Settings,
    facts: BTreeMap<String, String>,
    stop: watch::Receiver<bool>,
) -> Result<Went> {
    let mut facts = facts;
    facts.insert(demands::LEASE_MS.to_owned(), settings.lease_ms.to_string());
    let first = plan.first_record(settings.masters, settings.workers, facts);
    let recorder = Arc::new(Recorder::create(&plan.history(), first)?);
    let mut stage = Stage::set(plan, ground, recorder, stop)?;
    stage.play(plan, ground).await;
    stage.close(plan).await
}

/// Everything that goes on in a run.
struct Stage {
    recorder: Arc<Recorder>,
    targets: Targets,
    complaints: Complaints,
    watcher: Watcher,
    workloads: Workloads,
    end_traffic: watch::Sender<bool>,
    stop: watch::Receiver<bool>,
    troubles: Vec<String>,
    /// As they were when the workloads had ended.
    counts: Counts,
    _register: Register,
    _sockets: tempfile::TempDir,
}

impl Stage {
    fn set(plan: &Plan, ground: &impl Ground, recorder: Arc<Recorder>, stop: watch::Receiver<bool>) -> Result<Self> {
        // A socket's path has to be short, and the run's folder may be anywhere.
        let sockets = tempfile::Builder::new().prefix("steersman-chaos-").tempdir()?;
        let register = Register::serve(&sockets.path().join("fenced.sock"), recorder.clone())?;
        let intervals = plan.path("intervals");
        std::fs::create_dir_all(&intervals).with_context(|| format!("cannot make {}", intervals.display()))?;
        let places = Places { program: plan.program.clone(), register: register.path().to_owned(), intervals };
        let each = ground.masters().into_iter().map(|id| (id, ground.client_of(id))).collect();
        let targets = Targets::new(ground.client(), each);
        let complaints = Complaints::default();
        let end_traffic = watch::Sender::new(false);
        let traffic = Arc::new(Traffic {
            recorder: recorder.clone(),
            targets: targets.clone(),
            keys: Keys::default(),
            places,
            entropy: SeededEntropy::new(plan.seed),
            stop: end_traffic.subscribe(),
        });
        let watcher = Watcher::start(&recorder, &targets, &plan.folder, &complaints);
        let workloads = Workloads::start(&traffic, &Rates::of(plan.rate), &ground.workers());
        Ok(Self {
            recorder,
            targets,
            complaints,
            watcher,
            workloads,
            end_traffic,
            stop,
            troubles: Vec::new(),
            counts: Counts::default(),
            _register: register,
            _sockets: sockets,
        })
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    async fn pause(&self, time: Duration) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// The storm, with fair weather around it.
    async fn play(&mut self, plan: &Plan, ground: &mut impl Ground) {
        self.pause(WARM_UP).await;
        let wanted = schedule::wanted(&plan.test, plan.seed, plan.time);
        let forces = Forces {
            recorder: self.recorder.clone(),
            targets: self.targets.clone(),
            complaints: self.complaints.clone(),
            stop: self.stop.clone(),
        };
        let mut storm = Storm::new(forces, &plan.test, plan.seed, plan.time, wanted);
        let shown = storm.shown();
        if plan.test == Test::Calm {
            self.with_progress(plan, shown, self.pause(plan.time)).await;
        } else if !self.with_progress(plan, shown, storm.blow(ground)).await {
            self.troubles.push("the cluster could not be made whole again".to_owned());
        }
        self.recorder.note("run", "the storm is over");
        self.pause(AFTERMATH).await;
        self.end_traffic.send_replace(true);
        match tokio::time::timeout(LAST_WORD, self.workloads.clients_ended()).await {
            Ok(panics) => self.troubles.extend(panics),
            Err(_) => self.troubles.push(format!("some clients did not end within {LAST_WORD:?}")),
        }
        self.counts = self.recorder.counts();
        self.recorder.note("run", "the clients have ended");
    }

    async fn with_progress<T>(&self, plan: &Plan, shown: Shown, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let began = tokio::time::Instant::now();
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = tick.tick() => say(&self.progress(plan, began.elapsed(), &shown)),
            }
        }
    }

    fn progress(&self, plan: &Plan, elapsed: Duration, shown: &Shown) -> String {
        let Counts { ok, fail, unknown, .. } = self.recorder.counts();
        let faults = shown.lock().map(|shown| shown.join(", ")).unwrap_or_default();
        let standing = self.watcher.standing();
        let leader = standing.leader.map_or("none".to_owned(), |(master, term)| format!("m{master} (term {term})"));
        let faults = if faults.is_empty() { "no fault".to_owned() } else { faults };
        let (now, all) = (elapsed.as_secs(), plan.time.as_secs());
        let queue = standing.unfinished;
        format!("{now:>4}/{all} s  ok {ok}, fail {fail}, unknown {unknown}  leader {leader}  queue {queue}  {faults}")
    }

    /// Draining, catching up, the last look at everything.
    async fn close(mut self, plan: &Plan) -> Result<Went> {
        if !self.stopped() {
            self.last_look().await;
        }
        if self.stopped() {
            self.recorder.note("run", demands::INTERRUPTED);
            self.troubles.push(demands::INTERRUPTED.to_owned());
        }
        let logs = intervals::fold(&plan.path("intervals"), &self.recorder)?;
        say(&format!("{logs} interval logs"));
        if let Err(error) = self.recorder.finish() {
            self.troubles.push(format!("{error:#}"));
        }
        let reads_at_end = self.recorder.counts().total() - self.counts.total();
        Ok(Went { reads_at_end, verdicts: self.verdicts(), counts: self.counts })
    }

    async fn last_look(&mut self) {
        say("draining");
        let drained = tokio::select! {
            drained = ending::drained(&self.watcher, DRAIN) => drained,
            () = self.pause(DRAIN) => return,
        };
        if let Err(why) = &drained {
            self.recorder.note("run", why.clone());
            say(why);
        }
        let told = watcher::audit_once(&self.recorder, &self.targets, &self.complaints, true).await;
        say(&format!("{told} masters gave a digest at the end"));
        let applied = self.watcher.standing().applied;
        let late = self.workloads.followers_ended(applied, CATCH_UP).await;
        self.troubles.extend(late);
        match ending::read_all(&self.recorder, &self.targets.all()).await {
            Ok(count) => say(&format!("{count} tasks read at the end")),
            Err(why) => self.troubles.push(format!("not every task could be read at the end: {why}")),
        }
    }

    /// On what is not in the history: what masters said of themselves, and how the harness did.
    fn verdicts(&self) -> Vec<Verdict> {
        let (complaints, looked) = self.complaints.all();
        let finding = if self.troubles.is_empty() { Finding::Good } else { Finding::Unknown(self.troubles.join("; ")) };
        let harness = Verdict { checker: "harness".to_owned(), finding, examined: self.recorder.counts().total() };
        vec![Verdict::of("own-word", looked, complaints), harness]
    }
}

/// What is in force, as the storm shows it.
type Shown = Arc<std::sync::Mutex<Vec<String>>>;

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Makes a run's folder: a new one, or that of an older run, which is cleared.
///
/// # Errors
/// If there is something else in it.
pub fn make_folder(folder: &Path) -> Result<()> {
    let used = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    let ours = ["history.jsonl", "steersman-chaos"].iter().any(|name| folder.join(name).exists());
    if used && !ours {
        anyhow::bail!("{} is not empty and holds no older run: name another folder with --out", folder.display());
    }
    if used {
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}
