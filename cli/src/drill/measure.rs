//! What a drill's records say: figures and the timeline of a failover. Pure: everything comes from what was seen.
//!
//! What always holds: a figure that could not be measured is absent, never 0. Times are µs on the drill's clock. Milestones that only
//! the new leader knows come from its own report and carry its clock over: by the wall clock of a machine that both share, else by
//! the moment at which it was first seen to lead.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use steersman_client::v1::{ElectionReport, event::Kind as Wire};
use steersman_evidence::record::{Answer, Call, Outcome, Record};

use super::history::{Arrived, Seen, Sighting};
use super::load::Audit;

/// Two ways to tell when an election was that differ by more: the clocks are not the same.
const SAME_CLOCK_US: u64 = 500_000;
/// A wall clock that is off by more has jumped, in ms.
const JUMPED_MS: u64 = 600_000;

/// When things were done by the drill.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moments {
    /// The load ran since.
    pub loaded_us: u64,
    /// The fault came into force; absent if it never did.
    pub struck_us: Option<u64>,
    /// Healing began.
    pub healed_us: Option<u64>,
    /// Everybody was back.
    pub whole_us: Option<u64>,
    /// The load ended.
    pub unloaded_us: u64,
    /// Unix time of the beginning, in ms.
    pub began_wall_ms: u64,
}

/// The middle and the far end of some times, in µs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantiles {
    /// How many.
    pub count: u64,
    /// Half took at most this.
    pub p50_us: u64,
    /// 99 of 100 did.
    pub p99_us: u64,
    /// All did.
    pub max_us: u64,
}

/// Latencies of one stretch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latency {
    /// Submit to acknowledgement, of all clients.
    pub ack: Option<Quantiles>,
    /// Submit to finished, of the probe.
    pub whole: Option<Quantiles>,
}

/// A moment of the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Milestone {
    /// When.
    pub at_us: u64,
    /// Stable word for scripts.
    pub name: &'static str,
    /// For people.
    pub what: String,
    /// Who knows: `drill`, `client`, `event`, `master-2`.
    pub source: String,
}

/// Everything that was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// The longest stretch without an acknowledged write.
    pub gap: Option<(u64, u64)>,
    /// Acknowledged submits.
    pub acknowledged: u64,
    /// Of them, not there in the end.
    pub lost: u64,
    /// There, and not finished.
    pub unfinished: u64,
    /// Tasks given to a second worker while an attempt was open.
    pub twice: u64,
    /// Attempts after a task's first.
    pub reruns: u64,
    /// Names (or ids) of workers declared lost that nobody had touched.
    pub false_lost: Vec<String>,
    /// Failed calls by code.
    pub errors: BTreeMap<String, u64>,
    /// From the healing until everybody was back.
    pub recovery_us: Option<u64>,
    /// Before the fault.
    pub before: Latency,
    /// While it was in force, until everybody was back.
    pub during: Latency,
    /// From then on.
    pub after: Latency,
    /// Leaders that were elected after the fault: term and master.
    pub elected: Vec<(u64, u64)>,
}

impl Figures {
    /// The longest stretch, in µs.
    pub fn gap_us(&self) -> Option<u64> {
        self.gap.map(|(from, to)| to - from)
    }
}

/// All figures.
pub fn figures(
    seen: &Seen,
    moments: &Moments,
    audit: Audit,
    struck: &BTreeSet<String>,
    names: &BTreeMap<u64, String>,
) -> Figures {
    let submits = submits(seen);
    let acks: Vec<u64> = submits.iter().map(|(_, acked_us)| *acked_us).collect();
    let struck_us = moments.struck_us.unwrap_or(moments.unloaded_us);
    let whole_us = moments.whole_us.unwrap_or(moments.unloaded_us);
    let stretch = |from: u64, to: u64| latency(seen, &submits, from, to);
    let (twice, reruns) = attempts(&seen.events);
    Figures {
        gap: longest_gap(acks, moments),
        acknowledged: audit.acknowledged,
        lost: audit.lost,
        unfinished: audit.unfinished,
        twice,
        reruns,
        false_lost: false_lost(seen, struck, names),
        errors: errors(seen),
        recovery_us: moments.healed_us.zip(moments.whole_us).map(|(healed, whole)| whole.saturating_sub(healed)),
        before: stretch(moments.loaded_us, struck_us),
        during: stretch(struck_us, whole_us),
        after: stretch(whole_us, u64::MAX),
        elected: elected(&seen.events, struck_us),
    }
}

/// Begin and acknowledgement of every submit that was acknowledged.
pub fn submits(seen: &Seen) -> Vec<(u64, u64)> {
    let mut began = HashMap::new();
    let mut submits = Vec::new();
    for record in &seen.records {
        match record {
            Record::Invoke(invoke) if matches!(invoke.call, Call::Submit { .. }) => {
                began.insert(invoke.op, invoke.at_us);
            }
            Record::Complete(complete) => {
                let acked = matches!(&complete.outcome, Outcome::Ok { answer: Answer::Submitted { .. } });
                if let Some(began_us) = began.remove(&complete.op).filter(|_| acked) {
                    submits.push((began_us, complete.at_us));
                }
            }
            _ => {}
        }
    }
    submits
}

/// From the last acknowledgement before the fault to the end of the load: between two acknowledgements, or between one and that
/// end. None if nothing was acknowledged at all.
fn longest_gap(mut acks: Vec<u64>, moments: &Moments) -> Option<(u64, u64)> {
    acks.retain(|at| *at <= moments.unloaded_us);
    acks.sort_unstable();
    let before = acks.iter().copied().rfind(|at| Some(*at) <= moments.struck_us).unwrap_or(moments.loaded_us);
    let later: Vec<u64> = acks.iter().copied().filter(|at| *at >= before).collect();
    if later.is_empty() {
        return None;
    }
    let ends = std::iter::once(before).chain(later.iter().copied());
    let nexts = later.iter().copied().chain([moments.unloaded_us]);
    ends.zip(nexts).max_by_key(|(from, to)| to.saturating_sub(*from))
}

fn latency(seen: &Seen, submits: &[(u64, u64)], from_us: u64, to_us: u64) -> Latency {
    let within = |began: u64| (from_us..to_us).contains(&began);
    let acks = submits.iter().filter(|(began, _)| within(*began)).map(|(began, acked)| acked - began);
    let probes = seen.probes.iter().filter(|probe| within(probe.began_us));
    let whole = probes.filter_map(|probe| Some(probe.finished_us?.saturating_sub(probe.began_us)));
    Latency { ack: quantiles(acks.collect()), whole: quantiles(whole.collect()) }
}

fn quantiles(mut times: Vec<u64>) -> Option<Quantiles> {
    times.sort_unstable();
    let rank = |share: usize| times.get((times.len() * share).div_ceil(100).max(1) - 1).copied();
    Some(Quantiles { count: times.len() as u64, p50_us: rank(50)?, p99_us: rank(99)?, max_us: *times.last()? })
}

/// Tasks with two open attempts at a time, and attempts beyond the first, as the events tell them.
fn attempts(events: &[Arrived]) -> (u64, u64) {
    let mut open: HashMap<u64, BTreeSet<u64>> = HashMap::new();
    let mut known: BTreeSet<u64> = BTreeSet::new();
    let (mut twice, mut reruns) = (BTreeSet::new(), 0);
    for kind in kinds(events) {
        match kind {
            Wire::TaskAssigned(e) => {
                let attempts = open.entry(e.task_id).or_default();
                attempts.insert(e.token);
                if attempts.len() > 1 {
                    twice.insert(e.task_id);
                }
                reruns += u64::from(!known.insert(e.task_id));
            }
            Wire::AttemptEnded(e) => {
                open.entry(e.task_id).or_default().remove(&e.token);
            }
            _ => {}
        }
    }
    (twice.len() as u64, reruns)
}

fn kinds(events: &[Arrived]) -> impl Iterator<Item = &Wire> {
    events.iter().flat_map(|arrived| &arrived.batch.events).filter_map(|event| event.kind.as_ref())
}

fn false_lost(seen: &Seen, struck: &BTreeSet<String>, names: &BTreeMap<u64, String>) -> Vec<String> {
    let mut names = names.clone();
    let mut lost = Vec::new();
    for kind in kinds(&seen.events) {
        let Wire::WorkerChanged(change) = kind else { continue };
        if !change.name.is_empty() {
            names.insert(change.worker_id, change.name.clone());
        }
        let name = names.get(&change.worker_id).cloned().unwrap_or_else(|| format!("worker {}", change.worker_id));
        if change.change == "lost" && !struck.contains(&name) {
            lost.push(name);
        }
    }
    lost
}

fn errors(seen: &Seen) -> BTreeMap<String, u64> {
    let mut errors = BTreeMap::new();
    for record in &seen.records {
        if let Record::Complete(complete) = record
            && let Outcome::Fail { error } | Outcome::Unknown { error } = &complete.outcome
        {
            *errors.entry(error.split(':').next().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    errors
}

fn elected(events: &[Arrived], from_us: u64) -> Vec<(u64, u64)> {
    let later: Vec<&Arrived> = events.iter().filter(|arrived| arrived.at_us >= from_us).collect();
    let kinds = later.into_iter().flat_map(|arrived| &arrived.batch.events).filter_map(|event| event.kind.as_ref());
    let leader = |kind: &Wire| if let Wire::LeaderElected(e) = kind { Some((e.term, e.master_id)) } else { None };
    kinds.filter_map(leader).collect()
}

/// Whether a wall clock of the cluster was seen to be far off the drill's own.
pub fn clock_jumped(seen: &Seen, moments: &Moments) -> bool {
    let Some(struck_us) = moments.struck_us else { return false };
    let off = |arrived: &Arrived| {
        let here_ms = moments.began_wall_ms + arrived.at_us / 1_000;
        arrived.at_us >= struck_us && arrived.batch.wall_ms.abs_diff(here_ms) > JUMPED_MS
    };
    seen.events.iter().any(off)
}

/// The timeline, in order of time.
pub fn timeline(seen: &Seen, moments: &Moments, names: &BTreeMap<u64, String>) -> Vec<Milestone> {
    let Some(struck_us) = moments.struck_us else { return Vec::new() };
    let mut line = by_clients(seen, struck_us, moments.healed_us.unwrap_or(moments.unloaded_us));
    let one = |at_us, name, what: &str| milestone(at_us, name, what, "drill");
    line.push(one(struck_us, "fault", "the fault is in force"));
    line.extend(moments.healed_us.map(|at| one(at, "healed", "healing begins")));
    line.extend(moments.whole_us.map(|at| one(at, "whole", "all masters and workers are back")));
    let mut told = BTreeSet::new();
    for arrived in seen.events.iter().filter(|arrived| arrived.at_us >= struck_us) {
        for kind in arrived.batch.events.iter().filter_map(|event| event.kind.as_ref()) {
            match kind {
                // The report of an election before the fault may come after it.
                Wire::ElectionReport(report)
                    if zero_us(report, seen, moments) + report.elected_us >= struck_us && told.insert(report.term) =>
                {
                    line.extend(by_leader(report, seen, moments));
                }
                Wire::WorkerChanged(e) if matches!(e.change.as_str(), "lost" | "left" | "draining" | "registered") => {
                    let name = names.get(&e.worker_id).cloned().unwrap_or_else(|| format!("worker {}", e.worker_id));
                    line.push(milestone(arrived.at_us, "worker", &format!("{name} {}", e.change), "event"));
                }
                _ => {}
            }
        }
    }
    line.sort_by_key(|milestone| milestone.at_us);
    line
}

fn milestone(at_us: u64, name: &'static str, what: &str, source: &str) -> Milestone {
    Milestone { at_us, name, what: what.to_owned(), source: source.to_owned() }
}

/// The last acknowledgement before the longest gap while the fault was in force, the first one after it, and what masters were seen
/// to become.
fn by_clients(seen: &Seen, struck_us: u64, healed_us: u64) -> Vec<Milestone> {
    let mut acks: Vec<u64> = submits(seen).into_iter().map(|(_, acked)| acked).collect();
    acks.sort_unstable();
    let before = seen.sightings.iter().filter(|seen| seen.at_us < struck_us).map(|seen| seen.term).max().unwrap_or(0);
    // Where the office moves, the gap of interest is the one that begins before the new leader is seen.
    let moved = seen.sightings.iter().find(|sighting| sighting.at_us >= struck_us && leads_newly(sighting, before));
    let begins_by = moved.map_or(healed_us, |sighting| sighting.at_us);
    let pairs = acks.windows(2).map(|pair| (pair[0], pair[1]));
    let gap = pairs.filter(|(from, to)| *to >= struck_us && *from <= begins_by).max_by_key(|(from, to)| to - from);
    let mut line = Vec::new();
    if let Some((last, first)) = gap {
        line.push(milestone(last, "last_ack", "last acknowledged write before the longest gap of the fault", "client"));
        line.push(milestone(first, "first_ack", "first acknowledged write after it", "client"));
    }
    let (mut terms, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for sighting in seen.sightings.iter().filter(|sighting| sighting.at_us >= struck_us) {
        let Sighting { at_us, master, term, .. } = *sighting;
        if leads_newly(sighting, before) && terms.insert(term) {
            let what = format!("master {master} is seen to lead in term {term}");
            line.push(milestone(at_us, "leader_seen", &what, "client"));
        }
        if sighting.role == "silent" && silent.insert(master) {
            line.push(milestone(at_us, "master_silent", &format!("master {master} no longer answers"), "client"));
        } else if sighting.role != "silent" && silent.remove(&master) {
            line.push(milestone(at_us, "master_back", &format!("master {master} answers again"), "client"));
        }
    }
    line
}

fn leads_newly(sighting: &Sighting, before: u64) -> bool {
    sighting.term > before && sighting.role == "leader" && sighting.ready
}

/// The milestones that the new leader reported, on the drill's clock.
fn by_leader(report: &ElectionReport, seen: &Seen, moments: &Moments) -> Vec<Milestone> {
    let zero = zero_us(report, seen, moments);
    let source = format!("master-{}", report.master_id);
    let why = match report.cause.as_str() {
        "handover" => "planned: the office was handed over".to_owned(),
        "reset" => "suspicion: the leader's connection broke and the next connect was refused".to_owned(),
        "timer" => "suspicion: the leader fell silent until the election timer ran out".to_owned(),
        "start" => "no leader was heard since the start".to_owned(),
        other => format!("suspicion: {other}"),
    };
    let back = format!("{} of {} workers have their sessions back", report.workers_back, report.workers_believed);
    let elected = format!("master {} holds the office of term {}", report.master_id, report.term);
    let mut line = vec![
        ("last_heard", 0, "the former leader was last heard by the new one".to_owned()),
        ("suspicion", report.suspected_us, why),
        ("votes_asked", report.asked_us, "votes are asked for".to_owned()),
        ("votes_granted", report.granted_us, "the deciding vote is granted".to_owned()),
        ("elected", report.elected_us, elected),
        ("first_commit", report.committed_us, "first commit: the new leader answers".to_owned()),
    ];
    line.extend(report.dispatched_us.map(|us| ("first_dispatch", us, "first attempt goes out to a worker".to_owned())));
    line.extend(report.workers_back_us.map(|us| ("workers_back", us, back)));
    if report.former_id == 0 {
        line.remove(0);
    }
    let milestone = |(name, us, what)| Milestone { at_us: zero.saturating_add(us), name, what, source: source.clone() };
    line.into_iter().map(milestone).collect()
}

/// Where the report's zero lies on the drill's clock.
fn zero_us(report: &ElectionReport, seen: &Seen, moments: &Moments) -> u64 {
    let reported_us = report.reported_wall_ms.saturating_sub(moments.began_wall_ms).saturating_mul(1_000);
    let by_wall = reported_us.saturating_sub(report.reported_us);
    let leads = |sighting: &&Sighting| sighting.term == report.term && sighting.role == "leader";
    let Some(sighted) = seen.sightings.iter().find(leads) else { return by_wall };
    let by_sight = sighted.at_us.saturating_sub(report.elected_us);
    if by_wall.abs_diff(by_sight) <= SAME_CLOCK_US { by_wall } else { by_sight }
}

#[cfg(test)]
mod tests {
    use steersman_client::v1::{AttemptEnded, Event, EventBatch, TaskAssigned, WorkerChanged};

    use super::*;

    fn arrived(at_us: u64, kind: Wire) -> Arrived {
        let events = vec![Event { kind: Some(kind) }];
        Arrived {
            at_us,
            batch: EventBatch { index: at_us, wall_ms: 1_000 + at_us / 1_000, events, ..EventBatch::default() },
        }
    }

    fn assigned(at_us: u64, task_id: u64, token: u64) -> Arrived {
        arrived(at_us, Wire::TaskAssigned(TaskAssigned { task_id, token, ..TaskAssigned::default() }))
    }

    fn ended(at_us: u64, task_id: u64, token: u64) -> Arrived {
        arrived(at_us, Wire::AttemptEnded(AttemptEnded { task_id, token, ..AttemptEnded::default() }))
    }

    #[test]
    fn a_gap_counts_up_to_the_ends_of_the_load() {
        let of = |struck_us: u64, to: u64| Moments {
            loaded_us: 5,
            struck_us: Some(struck_us),
            unloaded_us: to,
            ..Moments::default()
        };
        assert_eq!(longest_gap(vec![30, 10, 21], &of(12, 35)), Some((10, 21)));
        assert_eq!(longest_gap(vec![10, 20], &of(12, 100)), Some((20, 100)));
        assert_eq!(longest_gap(vec![90, 1_000], &of(12, 100)), Some((5, 90)));
        assert_eq!(
            longest_gap(vec![10, 80, 81, 90], &of(80, 91)),
            Some((81, 90)),
            "what was before is not the fault's"
        );
        assert_eq!(longest_gap(Vec::new(), &of(12, 100)), None, "no write at all is not a gap of 0");
    }

    #[test]
    fn a_second_attempt_after_the_first_one_ended_is_a_rerun_and_before_that_a_double_start() {
        let good = [assigned(1, 7, 1), ended(2, 7, 1), assigned(3, 7, 2), assigned(4, 8, 3)];
        assert_eq!(attempts(&good), (0, 1));
        let bad = [assigned(1, 7, 1), assigned(3, 7, 2), ended(4, 7, 1)];
        assert_eq!(attempts(&bad), (1, 1));
    }

    #[test]
    fn a_worker_that_was_struck_may_be_lost_and_no_other() {
        let change = |id: u64, name: &str, change: &str| {
            let (name, change) = (name.to_owned(), change.to_owned());
            arrived(id, Wire::WorkerChanged(WorkerChanged { worker_id: id, name, change, ..WorkerChanged::default() }))
        };
        let events = vec![
            change(1, "a", "registered"),
            change(2, "b", "registered"),
            change(1, "", "lost"),
            change(2, "", "lost"),
            change(3, "", "lost"),
            change(4, "", "lost"),
        ];
        let seen = Seen { events, ..Seen::default() };
        let names = BTreeMap::from([(4, "d".to_owned())]);
        assert_eq!(false_lost(&seen, &BTreeSet::from(["a".to_owned()]), &names), ["b", "worker 3", "d"]);
    }

    #[test]
    fn quantiles_are_of_what_was_measured() {
        assert_eq!(quantiles(Vec::new()), None);
        let all = quantiles((1..=200).rev().collect());
        assert_eq!(all, Some(Quantiles { count: 200, p50_us: 100, p99_us: 198, max_us: 200 }));
    }

    /// The zero of a report is found by the wall clock, and by sight where that is another machine's.
    #[test]
    fn a_report_is_carried_over_to_the_drills_clock() {
        let mut report = ElectionReport { term: 4, master_id: 2, former_id: 1, ..ElectionReport::default() };
        (report.elected_us, report.reported_us, report.reported_wall_ms) = (30_000, 60_000, 2_100);
        let moments = Moments { struck_us: Some(1_000_000), began_wall_ms: 1_000, ..Moments::default() };
        let sighting = Sighting { at_us: 1_072_000, master: 2, role: "leader".to_owned(), term: 4, ready: true };
        let mut seen = Seen { sightings: vec![sighting], ..Seen::default() };
        assert_eq!(zero_us(&report, &seen, &moments), 1_040_000);
        report.reported_wall_ms += 5_000_000;
        assert_eq!(zero_us(&report, &seen, &moments), 1_042_000);
        seen.events.push(arrived(1_100_000, Wire::ElectionReport(report)));
        assert!(!clock_jumped(&seen, &moments));
        seen.events[0].batch.wall_ms += 5_000_000;
        assert!(clock_jumped(&seen, &moments));
        let line = timeline(&seen, &moments, &BTreeMap::new());
        assert!(line.is_sorted_by_key(|milestone| milestone.at_us));
        assert!(line.iter().any(|milestone| milestone.name == "elected" && milestone.at_us == 1_072_000), "{line:?}");
    }
}
