//! The course of one drill: rails, load, fault, consequences, healing, audit.
//!
//! What always holds: once something was struck it is healed, whatever ends the drill: its own end, Ctrl-C, the deadline, a limit
//! that is passed, an error. What was measured until then is reported. One fault at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use steersman_client::Client;
use steersman_client::v1::{Worker, event::Kind as Wire};
use steersman_evidence::record::{Phase, Record, Run};
use steersman_evidence::report::svg::time;
use steersman_evidence::{Bounds, History, Verdict, any_bad, check};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::history::{Recorder, Seen};
use super::kind::Kind;
use super::limits::{Check, Limits, judge};
use super::load::{Audit, Load};
use super::means::{Map, Means, Node};
use super::measure::{self, Figures, Milestone, Moments};
use super::rails::{self, Health};
use super::watch::Watch;
use crate::context::Ctx;
use crate::exit::{Failure, Outcome};

/// Between two looks at consequences and limits.
const LOOK: Duration = Duration::from_millis(10);
/// Everything acknowledged has to be finished so long after the load ended.
const AUDIT_MAX: Duration = Duration::from_secs(20);
/// As above, for somebody who wants to leave.
const AUDIT_HASTE: Duration = Duration::from_secs(3);
/// A worker may be lost after its lease and a takeover, in ms.
const TAKEOVER_MS: u64 = 2_000;

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Load before the fault.
    pub before: Duration,
    /// How long the fault stays in force after its consequences; absent: by kind.
    pub hold: Option<Duration>,
    /// Load after the recovery.
    pub after: Duration,
    /// From the fault to the end of the healing.
    pub deadline: Duration,
    /// Submitting clients.
    pub clients: u64,
}

/// What a drill is run with.
pub struct Setup<'a> {
    /// Output and notices.
    pub ctx: &'a Ctx,
    /// For questions of the drill's own.
    pub client: &'a Client,
    /// What.
    pub kind: Kind,
    /// When.
    pub timing: Timing,
    /// Within what.
    pub limits: Limits,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Result {
    /// Within all limits, and no checker found anything.
    Passed,
    /// Over a limit, or a promise is broken.
    Failed(Vec<String>),
    /// Nothing of the fault was seen: proves nothing.
    Unknown(String),
    /// Somebody wanted to stop.
    Interrupted,
}

impl Result {
    /// Stable word for scripts.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed(_) => "failed",
            Self::Unknown(_) => "unknown",
            Self::Interrupted => "interrupted",
        }
    }

    /// Why it is not [`Result::Passed`].
    pub fn reasons(&self) -> Vec<String> {
        match self {
            Self::Passed => Vec::new(),
            Self::Failed(reasons) => reasons.clone(),
            Self::Unknown(why) => vec![why.clone()],
            Self::Interrupted => vec!["the drill was interrupted; what was broken is healed".to_owned()],
        }
    }
}

/// A drill that is over.
pub struct Drilled {
    /// What.
    pub kind: Kind,
    /// Who was struck.
    pub victim: String,
    /// What exactly was done.
    pub how: Vec<String>,
    /// How it went.
    pub result: Result,
    /// When things were done.
    pub moments: Moments,
    /// What was measured.
    pub figures: Figures,
    /// Against limits.
    pub checks: Vec<Check>,
    /// What happened when.
    pub timeline: Vec<Milestone>,
    /// What the checkers say.
    pub verdicts: Vec<Verdict>,
    /// Everything that was seen.
    pub seen: Seen,
    /// Masters: ids, in order.
    pub masters: Vec<u64>,
}

/// Ctrl-C and SIGTERM.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// From now on they end nothing by themselves.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Outcome<Self> {
        let watch = |kind| signal(kind).map_err(|error| Failure::local(format!("no signals: {error}"), "try again"));
        Ok(Self { interrupt: watch(SignalKind::interrupt())?, terminate: watch(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Why a drill ended before its own end.
enum Broken {
    Asked,
    Because(String),
}

/// Who is who, and who is to be struck.
///
/// # Errors
/// As the rails.
pub fn cast(health: &Health, kind: Kind) -> Outcome<(Map, Node)> {
    rails::check(health, kind)?;
    let leader = health.leader();
    let masters = leader.map(|info| info.masters.clone()).unwrap_or_default();
    let master = |info: steersman_client::v1::MasterInfo| {
        let at = info.address.filter(|_| info.voter)?;
        Some(Node {
            name: format!("master-{}", at.id),
            id: at.id,
            api: at.api,
            raft: at.raft,
            master: true,
            host: String::new(),
        })
    };
    let worker = |worker: &Worker| Node {
        name: worker.name.clone(),
        id: worker.id,
        host: worker.host.clone(),
        ..Node::default()
    };
    let map = Map {
        masters: masters.into_iter().filter_map(master).collect(),
        workers: health.at_work().map(worker).collect(),
    };
    let leader_id = leader.and_then(|info| info.self_.as_ref()).map_or(0, |own| own.id);
    let busiest = health.at_work().max_by_key(|worker| (worker.used, std::cmp::Reverse(worker.id)));
    let victim = match kind {
        Kind::WorkerKill => busiest.and_then(|busiest| map.workers.iter().find(|node| node.id == busiest.id)),
        _ => map.masters.iter().find(|node| node.id == leader_id),
    };
    let victim = victim.cloned().ok_or_else(|| Failure::local("there is nobody to strike", "see: steersman status"))?;
    Ok((map, victim))
}

/// Runs one drill from its rails to its audit.
///
/// # Errors
/// When it could not begin; whatever goes wrong later is in the result.
pub async fn run(setup: &Setup<'_>, means: &mut Means, stop: &mut Stop) -> Outcome<Drilled> {
    let health = rails::settled(setup.client).await?;
    let (map, victim) = cast(&health, setup.kind)?;
    means.plan(setup.kind, &victim)?;
    let recorder = Recorder::new();
    let watch = begin_watch(setup, &health, &map, &recorder);
    let addresses: Vec<String> = map.masters.iter().map(|node| node.api.clone()).collect();
    let starting = Load::start(&addresses, setup.timing.clients, health.free_slots(), &recorder);
    let load = tokio::select! {
        load = starting => load?,
        () = stop.asked() => return Err(Failure::silent(crate::exit::INTERRUPTED)),
    };
    let moments =
        Moments { loaded_us: recorder.now_us(), began_wall_ms: recorder.began_wall_ms(), ..Moments::default() };
    let mut course = Course { setup, map, victim, recorder, watch, load, moments, how: Vec::new() };
    let broken = course.until_broken(means, stop).await;
    let broken = course.heal(means, stop, broken).await;
    let (broken, audit) = course.wind_up(stop, broken).await;
    Ok(course.conclude(broken, audit, &health, means.is_dev()))
}

fn begin_watch(setup: &Setup<'_>, health: &Health, map: &Map, recorder: &Recorder) -> Watch {
    let masters: Vec<(u64, String)> = map.masters.iter().map(|node| (node.id, node.api.clone())).collect();
    let from = health.leader().map_or(0, |info| info.applied_index);
    let run = Run {
        format: steersman_evidence::record::FORMAT,
        kind: "drill".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        masters: masters.len() as u64,
        workers: map.workers.len() as u64,
        began_wall_ms: recorder.began_wall_ms(),
        faults_wanted: vec![setup.kind.name().to_owned()],
        ..Run::default()
    };
    recorder.push(Record::Run(run));
    Watch::start(setup.client, &masters, names_of(health), from, recorder)
}

/// Workers' names by id: most events have only the id.
fn names_of(health: &Health) -> BTreeMap<u64, String> {
    health.workers.values().map(|worker| (worker.id, worker.name.clone())).collect()
}

struct Course<'a> {
    setup: &'a Setup<'a>,
    map: Map,
    victim: Node,
    recorder: Recorder,
    watch: Watch,
    load: Load,
    moments: Moments,
    how: Vec<String>,
}

impl Course<'_> {
    /// Up to the moment before healing.
    async fn until_broken(&mut self, means: &mut Means, stop: &mut Stop) -> Option<Broken> {
        let guard = guard(self.recorder.clone(), self.setup.limits.clone());
        let deadline = self.setup.timing.before + self.setup.timing.deadline;
        tokio::select! {
            done = self.body(means) => done.err().map(|failure| Broken::Because(failure.message)),
            why = guard => Some(Broken::Because(why)),
            () = stop.asked() => Some(Broken::Asked),
            () = tokio::time::sleep(deadline) => {
                Some(Broken::Because(format!("the deadline of {:?} has passed", self.setup.timing.deadline)))
            }
        }
    }

    async fn body(&mut self, means: &mut Means) -> Outcome {
        tokio::time::sleep(self.setup.timing.before).await;
        if self.setup.kind == Kind::RollingRestart {
            return self.roll(means).await;
        }
        self.strike(means).await?;
        while !self.consequences_seen() {
            tokio::time::sleep(LOOK).await;
        }
        let hold = self.setup.timing.hold.unwrap_or(self.setup.kind.hold());
        tokio::time::sleep(hold / 2).await;
        if let Some(how) = means.strike_again(self.setup.kind, &self.victim).await? {
            self.tell(how);
        }
        tokio::time::sleep(hold - hold / 2).await;
        Ok(())
    }

    async fn strike(&mut self, means: &mut Means) -> Outcome {
        let kind = self.setup.kind;
        if kind == Kind::WorkerKill {
            self.recorder.reach(&self.victim.name, false);
        }
        self.begin_fault(&self.victim.name.clone());
        let struck = means.strike(kind, &self.victim, &self.map, self.setup.client).await?;
        if let (Some(asked_us), Some(wall_us)) = (self.moments.struck_us, struck.wall_us) {
            let done_us = self.recorder.of_wall_us(wall_us).clamp(asked_us, self.recorder.now_us());
            self.moments.struck_us = Some(done_us);
        }
        self.tell(struck.how);
        Ok(())
    }

    /// From now on there is something to heal.
    fn begin_fault(&mut self, target: &str) {
        let at_us = self.recorder.fault(self.setup.kind.name(), target, Phase::Began);
        self.moments.struck_us.get_or_insert(at_us);
        self.recorder.live().struck_at_us.store(at_us, Ordering::Relaxed);
    }

    fn tell(&mut self, how: String) {
        self.setup.ctx.note(&how);
        self.recorder.note(how.clone());
        self.how.push(how);
    }

    /// What the fault has to bring about before it may be healed.
    fn consequences_seen(&self) -> bool {
        match self.setup.kind {
            Kind::WorkerKill => self.victim_gone(),
            kind if kind.moves_office() => self.watch.leader().is_some_and(|leader| leader.master != self.victim.id),
            _ => true,
        }
    }

    fn victim_gone(&self) -> bool {
        let gone = |kind: &Wire| match kind {
            Wire::WorkerChanged(e) => {
                e.worker_id == self.victim.id && matches!(e.change.as_str(), "lost" | "left" | "draining")
            }
            _ => false,
        };
        self.recorder.with(|seen| {
            let events = seen.events.iter().flat_map(|arrived| &arrived.batch.events);
            events.filter_map(|event| event.kind.as_ref()).any(gone)
        })
    }

    /// Masters first, the leader of the moment last; then workers.
    async fn roll(&mut self, means: &mut Means) -> Outcome {
        let mut left: Vec<Node> = self.map.masters.clone();
        while !left.is_empty() {
            let leader = self.watch.leader().map_or(0, |leader| leader.master);
            let next = left.iter().position(|node| node.id != leader).unwrap_or(0);
            self.restart(means, left.remove(next)).await?;
        }
        let workers = if means.is_dev() { self.map.workers.clone() } else { Vec::new() };
        for worker in workers {
            self.recorder.reach(&worker.name, false);
            self.restart(means, worker.clone()).await?;
            self.recorder.reach(&worker.name, true);
        }
        Ok(())
    }

    async fn restart(&mut self, means: &mut Means, node: Node) -> Outcome {
        self.begin_fault(&node.name);
        let how = means.restart(&node, &self.map, self.setup.client).await?;
        self.tell(how);
        let until = Instant::now() + Duration::from_micros(self.setup.limits.recovery_us);
        let whole = rails::whole_again(self.setup.client, &self.worker_names(), until).await;
        self.recorder.fault(self.setup.kind.name(), &node.name, Phase::Ended);
        whole.map_err(|missing| Failure::local(format!("after {}: {missing}", node.name), "see: steersman status"))
    }

    fn worker_names(&self) -> Vec<String> {
        self.map.workers.iter().map(|worker| worker.name.clone()).collect()
    }

    /// Heals what was struck and waits until everybody is back. Whoever asks twice does not wait.
    async fn heal(&mut self, means: &mut Means, stop: &mut Stop, mut broken: Option<Broken>) -> Option<Broken> {
        if let Some(Broken::Because(why)) = &broken {
            self.setup.ctx.warn(format!("healing early: {why}"));
        }
        self.moments.struck_us?;
        self.setup.ctx.note("healing");
        let healed_us = self.recorder.now_us();
        if let Err(failure) = means.heal(self.setup.client).await {
            let what = format!("NOT HEALED: {}", failure.message);
            self.setup.ctx.warn(&what);
            broken = Some(Broken::Because(what));
        }
        self.moments.healed_us = Some(healed_us);
        if self.setup.kind != Kind::RollingRestart {
            self.recorder.fault(self.setup.kind.name(), &self.victim.name, Phase::Ended);
        }
        let until = Instant::now() + Duration::from_micros(self.setup.limits.recovery_us);
        let names = self.worker_names();
        tokio::select! {
            whole = rails::whole_again(self.setup.client, &names, until) => match whole {
                Ok(()) => self.moments.whole_us = Some(self.recorder.now_us()),
                Err(missing) => self.setup.ctx.warn(format!("not everybody is back: {missing}")),
            },
            () = stop.asked() => broken = Some(Broken::Asked),
        }
        if self.setup.kind == Kind::WorkerKill && self.moments.whole_us.is_some() {
            self.recorder.reach(&self.victim.name, true);
        }
        broken
    }

    /// Load on a whole cluster, its end, and the reading of everything that was acknowledged.
    async fn wind_up(&mut self, stop: &mut Stop, mut broken: Option<Broken>) -> (Option<Broken>, Audit) {
        if broken.is_none() && self.moments.whole_us.is_some() {
            tokio::select! {
                () = tokio::time::sleep(self.setup.timing.after) => {}
                () = stop.asked() => broken = Some(Broken::Asked),
            }
        }
        let haste = broken.is_some();
        self.moments.unloaded_us = self.recorder.now_us();
        let audit = async {
            self.load.stop().await;
            self.load.release().await;
            self.setup.ctx.note("reading everything that was acknowledged");
            self.load.audit(if haste { AUDIT_HASTE } else { AUDIT_MAX }).await
        };
        tokio::select! {
            audit = audit => (broken, audit),
            () = stop.asked() => (Some(Broken::Asked), Audit::default()),
        }
    }

    fn conclude(self, broken: Option<Broken>, audit: Audit, health: &Health, dev: bool) -> Drilled {
        let Self { setup, map, victim, recorder, watch, moments, how, load } = self;
        drop((watch, load));
        let struck = recorder.live().struck.lock().clone();
        let seen = recorder.take();
        let figures = measure::figures(&seen, &moments, audit, &struck, &names_of(health));
        let checks = judge(&figures, &setup.limits);
        let verdicts = check(&History::from_records(seen.records.clone()), &bounds(health, &setup.limits));
        let evident = evident(setup.kind, &victim, &figures, &seen, &moments, dev);
        let result = result(broken, &checks, &verdicts, evident);
        let timeline = measure::timeline(&seen, &moments, &names_of(health));
        let masters = map.masters.iter().map(|node| node.id).collect();
        let kind = setup.kind;
        let victim = if kind == Kind::RollingRestart { "every node".to_owned() } else { victim.name };
        Drilled { kind, victim, how, result, moments, figures, checks, timeline, verdicts, seen, masters }
    }
}

/// Others may use the cluster; its past is not known.
fn bounds(health: &Health, limits: &Limits) -> Bounds {
    let lease_ms = health.workers.values().map(|worker| u64::from(worker.lease_ms)).max().unwrap_or(0);
    Bounds {
        closed: false,
        recovery_us: Some(limits.recovery_us.max(limits.gap_us)),
        punish_after_us: Some((lease_ms + TAKEOVER_MS) * 1_000),
        ..Bounds::none()
    }
}

/// Resolves when a limit is passed that can be seen while the fault is in force.
async fn guard(recorder: Recorder, limits: Limits) -> String {
    loop {
        let live = recorder.live();
        let gap_us = recorder.now_us().saturating_sub(live.acked_us.load(Ordering::Relaxed));
        // Pauses before the fault are not the fault's.
        if live.struck_at_us.load(Ordering::Relaxed) > 0 && gap_us > limits.gap_us {
            return format!("no write was acknowledged for {}, the limit is {}", time(gap_us), time(limits.gap_us));
        }
        let errors = live.errors.load(Ordering::Relaxed);
        if errors > limits.errors {
            return format!("the client saw {errors} errors, the limit is {}", limits.errors);
        }
        let lost = live.false_lost.load(Ordering::Relaxed);
        if lost > limits.false_lost {
            return format!("{lost} workers were falsely declared lost, the limit is {}", limits.false_lost);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What shows that the fault really was in force; `Err` if nothing does.
fn evident(
    kind: Kind,
    victim: &Node,
    figures: &Figures,
    seen: &Seen,
    moments: &Moments,
    dev: bool,
) -> std::result::Result<(), String> {
    let moved = figures.elected.iter().any(|(_, master)| *master != victim.id);
    let silent: BTreeSet<u64> =
        seen.sightings.iter().filter(|sighting| sighting.role == "silent").map(|sighting| sighting.master).collect();
    let gone = |kind: &Wire| {
        matches!(kind, Wire::WorkerChanged(e) if e.worker_id == victim.id
        && matches!(e.change.as_str(), "lost" | "left" | "draining"))
    };
    let kinds = || seen.events.iter().flat_map(|at| &at.batch.events).filter_map(|event| event.kind.as_ref());
    let (shown, what) = match kind {
        _ if kind.moves_office() => (moved, "no other master took the office"),
        Kind::WorkerKill => (kinds().any(gone), "the worker was never seen to be gone"),
        Kind::RollingRestart if dev => (silent.len() > 1, "the masters were not seen to restart"),
        Kind::RollingRestart => (moved, "the office was not seen to move"),
        _ => (measure::clock_jumped(seen, moments) || !dev, "no event carried a wall clock that had jumped"),
    };
    if shown { Ok(()) } else { Err(format!("nothing of the fault was seen: {what}")) }
}

fn result(
    broken: Option<Broken>,
    checks: &[Check],
    verdicts: &[Verdict],
    evident: std::result::Result<(), String>,
) -> Result {
    let over = checks.iter().filter(|check| !check.passed());
    let mut reasons: Vec<String> = over
        .map(|check| format!("{}: {}, the limit is {}", check.what, check.value_text(), check.limit_text()))
        .collect();
    if any_bad(verdicts) {
        let bad = verdicts.iter().filter(|verdict| verdict.is_bad()).map(|verdict| verdict.checker.as_str());
        reasons.push(format!("checkers found broken promises: {}", bad.collect::<Vec<_>>().join(", ")));
    }
    match broken {
        Some(Broken::Asked) => return Result::Interrupted,
        Some(Broken::Because(why)) => reasons.insert(0, why),
        None => {}
    }
    match evident {
        _ if !reasons.is_empty() => Result::Failed(reasons),
        Err(why) => Result::Unknown(why),
        Ok(()) => Result::Passed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(value: u64) -> Vec<Check> {
        vec![Check { name: "lost", what: "lost", value: Some(value), limit: Some(0), is_time: false }]
    }

    #[test]
    fn a_drill_of_which_nothing_was_seen_has_not_passed() {
        assert_eq!(result(None, &checked(0), &[], Ok(())), Result::Passed);
        assert_eq!(result(None, &checked(0), &[], Err("nothing".to_owned())).word(), "unknown");
        assert_eq!(result(None, &checked(1), &[], Ok(())).word(), "failed");
        assert_eq!(result(Some(Broken::Asked), &checked(0), &[], Ok(())).word(), "interrupted");
        assert_eq!(result(Some(Broken::Because("late".to_owned())), &checked(0), &[], Ok(())).word(), "failed");
        let bad = Verdict::of("one-outcome", 1, vec!["two".to_owned()]);
        assert_eq!(result(None, &checked(0), &[bad], Ok(())).word(), "failed");
    }
}
