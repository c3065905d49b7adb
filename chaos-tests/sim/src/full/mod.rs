//! The whole stack in one thread: masters, workers, clients, operator and followers of the event stream over simulated TCP, disks
//! and clocks, under faults that are drawn from the seed.
//!
//! One process runs one seed: thread-local randomness and tokio's own are seeded at its start. What always holds: the same seed
//! gives the same records, byte for byte; after the last fault everything is healed, and a run that does not come to rest within its
//! bounds is a bad verdict, not an error. What it does not do: duplicate or reorder messages, which TCP does not either (the fast
//! engine does), or crash between two awaits of one step of a millisecond.

mod cast;
mod clients;
mod hosts;
mod inspect;
mod links;
mod nemesis;
mod operator;
mod recorder;
mod work;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use steersman_evidence::Bounds;
use steersman_evidence::history::History;
use steersman_evidence::record::{FORMAT, Record, Run};
use steersman_evidence::verdict::Verdict;
use steersman_world::{Entropy as _, SeededEntropy};

use cast::{Masters, Setting, Stand, host_master, host_worker};
use clients::{Caller, Wishes};
use hosts::Hosts;
use inspect::Inspector;
use nemesis::Nemesis;
use recorder::Recorder;

use crate::panics;
use crate::run::{Options, Outcome};
use crate::weather;

/// Simulated seconds under faults, unless asked for otherwise.
const SECONDS: u64 = 60;
/// One step.
const TICK: Duration = Duration::from_millis(1);
/// From the last fault until every task is finished: the queue of a flood, the longest backoff, and leases that have to run out.
const DRAIN_MS: u64 = 60_000;
/// So long new work goes on after the last fault.
const ON_MS: u64 = 2_000;
/// From there until everything is read and the masters agree.
const REST_MS: u64 = 20_000;
/// Hosts of clients, of the auditor, of the operator and of followers.
const CALLERS: &[&str] = &["c1", "c2", "c3", "audit", "operator", "f1", "f2"];
/// What a reachable worker may need at most beyond its lease: connections that died in a partition have to be found dead first.
const PUNISH_EXTRA_MS: u64 = 8_000;

/// One run from a seed.
///
/// # Errors
/// Whatever keeps the run from being run at all; broken promises are verdicts.
pub fn run(seed: u64, options: &Options) -> anyhow::Result<Outcome> {
    panics::watch();
    panics::keep();
    crate::machine_clock::hold();
    steersman_raft_store::runtime::seed(Some(seed));
    steersman_raft_store::runtime::around(Some(crate::scope::around));
    let setting = Setting::draw(seed, options.masters, options.wall_shift_ms);
    let mut stage = Stage::build(&setting, options)?;
    if let Err(error) = survive(|| stage.play()) {
        stage.recorder.problem(format!("the run broke off: {error:#}"));
    }
    Ok(stage.judge())
}

/// turmoil ends everything with the first task that panics: here that is an error like any other.
fn survive(play: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    catch_unwind(AssertUnwindSafe(play)).unwrap_or_else(|_| Err(anyhow::anyhow!("a panic ended it")))
}

/// Everything of a run.
struct Stage {
    setting: Setting,
    recorder: Recorder,
    masters: Masters,
    wishes: Wishes,
    nemesis: Nemesis,
    inspector: Inspector,
    sim: turmoil::Sim<'static>,
    storms_end_ms: u64,
    drained_ms: Option<u64>,
}

impl Stage {
    fn build(setting: &Setting, options: &Options) -> anyhow::Result<Self> {
        let recorder = Recorder::default();
        let seconds = options.seconds.unwrap_or(SECONDS);
        let plan = weather::plan(setting.seed, seconds, |class| options.wants(class));
        recorder.push(first_record(setting, seconds));
        let mut sim = turmoil::Builder::new()
            .rng_seed(setting.seed)
            .simulation_duration(Duration::from_secs(86_400))
            .tick_duration(TICK)
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(Duration::from_millis(links::LATENCY_MS))
            .tcp_capacity(4_096)
            .build();
        let (masters, wishes) = (Masters::default(), Wishes::default());
        let stand = Stand { setting: setting.clone(), recorder: recorder.clone(), hosts: Hosts::default() };
        for id in 1..=setting.masters {
            host_master(&mut sim, &stand, &masters, id);
            if let Some(master) = masters.borrow().get(&id) {
                nemesis::healthy(&master.disk, setting, id);
            }
        }
        for id in 1..=setting.workers {
            host_worker(&mut sim, &stand, id);
        }
        host_callers(&mut sim, setting, &recorder, &wishes, &masters)?;
        let nemesis = Nemesis::new(&stand, &masters, &wishes, plan);
        let (setting, inspector) = (setting.clone(), Inspector::default());
        let storms_end_ms = seconds * 1_000;
        Ok(Self { setting, recorder, masters, wishes, nemesis, inspector, sim, storms_end_ms, drained_ms: None })
    }

    fn now_ms(&self) -> u64 {
        self.recorder.now_us() / 1_000
    }

    fn step(&mut self) -> anyhow::Result<()> {
        self.sim.step().map_err(|error| anyhow::anyhow!("{error}"))?;
        anyhow::ensure!(panics::seen().is_empty(), "a task panicked");
        self.recorder.set_now(self.sim.elapsed().as_micros() as u64);
        self.nemesis.step(&mut self.sim);
        self.inspector.look(&self.masters, &self.recorder);
        Ok(())
    }

    /// The whole course of it.
    fn play(&mut self) -> anyhow::Result<()> {
        while self.now_ms() < self.storms_end_ms {
            self.step()?;
        }
        self.nemesis.heal(&mut self.sim);
        self.recorder.note("nemesis", "everything is healed");
        let (healed_ms, submits) = (self.now_ms(), self.recorder.counted("submit ok"));
        while self.now_ms() < healed_ms + ON_MS || self.recorder.counted("submit ok") == submits {
            anyhow::ensure!(
                self.now_ms() < healed_ms + DRAIN_MS,
                "no submit was answered within {DRAIN_MS} ms: {}",
                self.state_of_things()
            );
            self.step()?;
        }
        self.recorder.note("nemesis", "no new work");
        self.wishes.stop.set(true);
        while !self.at_rest() {
            anyhow::ensure!(
                self.now_ms() < healed_ms + DRAIN_MS,
                "not drained within {DRAIN_MS} ms: {}",
                self.state_of_things()
            );
            self.step()?;
        }
        self.drained_ms = Some(self.now_ms() - healed_ms);
        self.recorder.note("nemesis", "every task is finished");
        self.wishes.read_all.set(true);
        let drained_ms = self.now_ms();
        while !(self.wishes.all_read.get() && self.agreed()) {
            anyhow::ensure!(
                self.now_ms() < drained_ms + REST_MS,
                "no agreement within {REST_MS} ms: {}",
                self.state_of_things()
            );
            self.step()?;
        }
        Ok(())
    }

    /// Voters by the word of the leader.
    fn voters(&self) -> Vec<u64> {
        let masters = self.masters.borrow();
        let leader = masters.values().filter_map(|master| master.node.as_ref()).find(|node| node.reign().is_some());
        leader.map_or(Vec::new(), |node| node.state.read().voters().iter().map(|id| id.0).collect())
    }

    /// No errand, no client at work, and no task unfinished on any voter.
    fn at_rest(&self) -> bool {
        let idle = self.wishes.errands.borrow().is_empty() && !self.wishes.busy.get();
        if !idle || self.wishes.stopped.get() < 3 {
            return false;
        }
        let (voters, masters) = (self.voters(), self.masters.borrow());
        let finished = |id: &u64| {
            let node = masters.get(id).and_then(|master| master.node.as_ref());
            node.is_some_and(|node| unfinished(&node.state.read().counts()) == 0)
        };
        !voters.is_empty() && voters.iter().all(finished)
    }

    fn agreed(&mut self) -> bool {
        let voters = self.voters();
        !voters.is_empty() && self.inspector.agreed(&self.masters, &voters, &self.recorder)
    }

    fn state_of_things(&self) -> String {
        let masters = self.masters.borrow();
        let tell = |(id, master): (&u64, &cast::Master)| match &master.node {
            Some(node) => {
                let (status, left) = (node.status(), unfinished(&node.state.read().counts()));
                format!(
                    "m{id} {:?} term {} at {} with {left} tasks unfinished",
                    status.role, status.term, status.applied
                )
            }
            None => format!("m{id} does not run (parked {}, gone {}, {:?})", master.parked, master.gone, master.exit),
        };
        let masters: Vec<String> = masters.iter().map(tell).collect();
        let (clients, errands) = (self.wishes.stopped.get(), self.wishes.errands.borrow().len());
        format!(
            "{}; {clients} clients stopped, {errands} errands left, busy {}",
            masters.join("; "),
            self.wishes.busy.get()
        )
    }

    fn judge(self) -> Outcome {
        let simulated_ms = self.now_ms();
        for panic in panics::seen() {
            self.recorder.problem(format!("a task panicked: {panic}"));
        }
        let bounds = self.bounds();
        let (records, mut coverage, problems) = self.recorder.close();
        coverage.insert("drained within ms".to_owned(), self.drained_ms.unwrap_or(DRAIN_MS));
        let mut verdicts = vec![Verdict::of("inside", coverage.get("reigns").copied().unwrap_or(0), problems)];
        verdicts.extend(steersman_evidence::check(&History::from_records(records.clone()), &bounds));
        Outcome { records, verdicts, coverage, simulated_ms }
    }

    /// Coverage is judged over a whole sweep; what one run must show is that it came to rest.
    fn bounds(&self) -> Bounds {
        Bounds {
            drained: true,
            recovery_us: Some(DRAIN_MS * 1_000),
            drain_us: Some((DRAIN_MS + REST_MS) * 1_000),
            punish_after_us: Some((self.setting.lease_ms + PUNISH_EXTRA_MS) * 1_000),
            ..Bounds::none()
        }
    }
}

fn unfinished(counts: &steersman_state::view::TaskCounts) -> u64 {
    counts.pending + counts.scheduled + counts.running + counts.retrying
}

fn first_record(setting: &Setting, seconds: u64) -> Record {
    let facts = BTreeMap::from([
        ("seconds".to_owned(), seconds.to_string()),
        ("lease_ms".to_owned(), setting.lease_ms.to_string()),
        ("capacity".to_owned(), setting.capacity.to_string()),
        ("raft".to_owned(), setting.raft.replace('\n', "; ")),
    ]);
    Record::Run(Run {
        format: FORMAT,
        kind: "sim".to_owned(),
        seed: setting.seed,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        masters: setting.masters,
        workers: setting.workers,
        began_wall_ms: crate::clock::EPOCH_MS,
        faults_wanted: Vec::new(),
        facts,
    })
}

fn host_callers(
    sim: &mut turmoil::Sim<'static>,
    setting: &Setting,
    recorder: &Recorder,
    wishes: &Wishes,
    masters: &Masters,
) -> anyhow::Result<()> {
    for (number, name) in CALLERS.iter().enumerate() {
        let (setting, recorder, wishes, masters) = (setting.clone(), recorder.clone(), wishes.clone(), masters.clone());
        let process = number as u64 + 1;
        sim.host(*name, move || {
            let (setting, recorder, wishes, masters) =
                (setting.clone(), recorder.clone(), wishes.clone(), masters.clone());
            async move {
                let caller = Caller::new(&setting, &recorder, process)?;
                match *name {
                    "audit" => caller.audit(wishes).await,
                    "operator" => operator::live(caller, wishes, masters).await,
                    "f1" => clients::follow(setting, recorder, 1).await?,
                    "f2" => clients::follow(setting, recorder, 2).await?,
                    _ => {
                        // Not all at once.
                        let numbers = SeededEntropy::new(setting.seed ^ process);
                        tokio::time::sleep(Duration::from_millis(200 + numbers.below(500))).await;
                        caller.live(wishes).await;
                    }
                }
                Ok(())
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_panics_breaks_the_run_off_and_is_told() {
        panics::watch();
        let mut sim = turmoil::Builder::new().build();
        sim.host("m1", || async {
            tokio::spawn(async { panic!("planted") });
            std::future::pending().await
        });
        let came =
            survive(|| (0..10).try_for_each(|_| sim.step().map(drop).map_err(|error| anyhow::anyhow!("{error}"))));
        assert!(came.is_err());
        drop(sim);
        assert!(panics::seen().iter().any(|panic| panic.contains("planted")));
    }
}
