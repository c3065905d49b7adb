//! A hand-made history in which everything is right, and the words to change it.
//!
//! What always holds: every checker has something to look at in it, and finds nothing wrong. Log index `n` is committed at
//! about `n` seconds.
#![allow(dead_code)]

use std::collections::BTreeMap;

use steersman_evidence::record::*;
use steersman_evidence::{Bounds, Finding, History, Verdict, check};

/// Milliseconds of the run, in µs.
pub const fn ms(ms: u64) -> u64 {
    ms * 1_000
}

pub fn call(op: u64, process: u64, at_ms: u64, call: Call) -> Record {
    Record::Invoke(Invoke { op, process, at_us: ms(at_ms), master: None, call })
}

pub fn ok(op: u64, at_ms: u64, answer: Answer) -> Record {
    Record::Complete(Complete { op, at_us: ms(at_ms), master: None, outcome: Outcome::Ok { answer } })
}

pub fn fail(op: u64, at_ms: u64) -> Record {
    let outcome = Outcome::Fail { error: "STM-0000".into() };
    Record::Complete(Complete { op, at_us: ms(at_ms), master: None, outcome })
}

pub fn unknown(op: u64, at_ms: u64) -> Record {
    let outcome = Outcome::Unknown { error: "timed out".into() };
    Record::Complete(Complete { op, at_us: ms(at_ms), master: None, outcome })
}

pub fn submit(request: &str, count: u64) -> Call {
    Call::Submit { request: request.into(), count }
}

pub fn cancel(request: &str, task: u64) -> Call {
    Call::Cancel { request: request.into(), task }
}

pub fn read(task: u64) -> Call {
    Call::Read { task, stale: false }
}

pub fn mode(request: &str, worker: &str, mode: &str) -> Call {
    Call::SetMode { request: request.into(), worker: worker.into(), mode: mode.into() }
}

pub fn submitted(first: u64, count: u64, index: u64) -> Answer {
    Answer::Submitted { first, count, index }
}

/// Attempts as token and worker; the last one is open if the state says so.
pub fn task(state: TaskState, attempts: &[(u64, u64)], index: u64) -> Answer {
    let open = matches!(state, TaskState::Scheduled | TaskState::Running);
    let last = attempts.len();
    let view = |(at, (token, worker)): (usize, &(u64, u64))| AttemptView {
        token: *token,
        worker: *worker,
        ended: !(open && at + 1 == last),
    };
    let attempts = attempts.iter().enumerate().map(view).collect();
    Answer::Task { task: Some(TaskView { state, attempts }), index }
}

pub fn worker(id: u64, status: &str, used: u64) -> WorkerView {
    WorkerView { id, name: format!("w{id}"), status: status.into(), used, capacity: 1 }
}

pub fn happened(event: Event) -> Event {
    event
}

pub fn assigned(task: u64, token: u64, worker: u64) -> Event {
    Event::Assigned { task, token, worker }
}

pub fn started(task: u64, token: u64) -> Event {
    Event::Started { task, token }
}

pub fn ended(task: u64, token: u64) -> Event {
    Event::Ended { task, token }
}

pub fn finished(task: u64, state: TaskState) -> Event {
    Event::Finished { task, state }
}

pub fn changed(worker: u64, change: &str) -> Event {
    let name = if change == "registered" { format!("w{worker}") } else { String::new() };
    Event::Worker { worker, name, change: change.into() }
}

/// The log of the good history.
pub fn log() -> Vec<(u64, u64, Vec<Event>)> {
    use TaskState::{Cancelled, Succeeded};
    vec![
        (1, 1, vec![Event::Leader { term: 1, master: 1 }]),
        (2, 1, vec![changed(1, "registered")]),
        (3, 1, vec![changed(2, "registered")]),
        (10, 1, vec![Event::Submitted { first: 1, count: 3 }, assigned(1, 1, 1), assigned(2, 2, 2)]),
        (11, 1, vec![started(1, 1), started(2, 2)]),
        (12, 1, vec![ended(1, 1), finished(1, Succeeded), assigned(3, 3, 1)]),
        (13, 1, vec![changed(2, "lost"), ended(2, 2), Event::Retrying { task: 2 }]),
        (14, 1, vec![started(3, 3)]),
        (15, 1, vec![ended(3, 3), finished(3, Cancelled)]),
        (16, 1, vec![assigned(2, 4, 1)]),
        (17, 1, vec![started(2, 4)]),
        (18, 2, vec![Event::Leader { term: 2, master: 2 }]),
        (19, 2, vec![changed(2, "registered")]),
        (20, 2, vec![ended(2, 4), finished(2, Succeeded)]),
        (21, 2, vec![changed(2, "draining")]),
        (22, 2, vec![changed(2, "active")]),
    ]
}

fn followed() -> Vec<Record> {
    let batch = |follower: u64, late_ms: u64, (index, term, events): &(u64, u64, Vec<Event>)| {
        let at_us = ms(index * 1_000 + late_ms);
        Record::Events(Events { follower, at_us, master: None, index: *index, term: *term, events: events.clone() })
    };
    let first = log().iter().map(|entry| batch(1, 0, entry)).collect::<Vec<_>>();
    let second = log().iter().filter(|entry| entry.0 >= 10).map(|entry| batch(2, 50, entry)).collect::<Vec<_>>();
    first.into_iter().chain(second).collect()
}

fn operations() -> Vec<Record> {
    use TaskState::{Cancelled, Running, Succeeded};
    let stale = Call::Read { task: 2, stale: true };
    let registry =
        |status: &str, index| Answer::Workers { workers: vec![worker(1, "online", 0), worker(2, status, 0)], index };
    vec![
        call(1, 1, 4_100, Call::ReadWorkers {}),
        ok(1, 4_200, registry("online", 3)),
        call(2, 1, 9_900, submit("r1", 3)),
        ok(2, 10_100, submitted(1, 3, 10)),
        call(3, 2, 11_200, read(1)),
        ok(3, 11_300, task(Running, &[(1, 1)], 11)),
        call(4, 2, 12_200, read(1)),
        ok(4, 12_300, task(Succeeded, &[(1, 1)], 12)),
        call(5, 1, 14_800, cancel("c1", 3)),
        ok(5, 15_100, Answer::Cancelled { changed: true, index: 15 }),
        call(6, 2, 15_300, read(3)),
        ok(6, 15_400, task(Cancelled, &[(3, 1)], 15)),
        call(7, 3, 15_500, stale),
        ok(7, 15_600, task(Running, &[(2, 2)], 11)),
        call(8, 1, 15_700, submit("r2", 2)),
        unknown(8, 16_700),
        call(9, 2, 17_200, read(2)),
        ok(9, 17_300, task(Running, &[(2, 2), (4, 1)], 17)),
        call(10, 3, 20_900, mode("m1", "w2", "drain")),
        ok(10, 21_100, Answer::Done { index: 21 }),
        call(11, 3, 21_200, Call::ReadWorkers {}),
        ok(11, 21_300, registry("draining", 21)),
        call(12, 3, 21_900, mode("m2", "w2", "active")),
        ok(12, 22_100, Answer::Done { index: 22 }),
        call(13, 4, 23_000, read(2)),
        ok(13, 23_100, task(Succeeded, &[(2, 2), (4, 1)], 22)),
        call(14, 5, 23_200, submit("r1", 3)),
        ok(14, 23_300, submitted(1, 3, 23)),
        call(15, 5, 23_400, cancel("c2", 1)),
        fail(15, 23_500),
    ]
}

fn rest() -> Vec<Record> {
    let interval = |token, worker: &str, from, to: Option<u64>| {
        let (worker, from_us, to_us, seen_us) = (worker.into(), ms(from), to.map(ms), ms(to.unwrap_or(from + 500)));
        Record::Interval(Interval { task: 2, token, worker, exclusive: true, from_us, to_us, seen_us })
    };
    let write = |at, token, accepted| Record::FencedWrite(FencedWrite { at_us: ms(at), key: 2, token, accepted });
    let digest = |at, master, index, digest: &str| {
        Record::Digest(Digest { at_us: ms(at), master, index, digest: digest.into() })
    };
    let reach = |at, reachable| Record::Reach(Reach { at_us: ms(at), worker: "w2".into(), reachable });
    let fault = |at, phase| Record::Fault(Fault { at_us: ms(at), class: "kill".into(), target: "w2".into(), phase });
    vec![
        Record::Leads(Leads { at_us: ms(1_000), master: 1, term: 1 }),
        interval(2, "w2", 11_000, None),
        write(11_100, 2, true),
        reach(11_500, false),
        fault(11_500, Phase::Began),
        digest(12_500, 1, 12, "aa"),
        digest(12_600, 2, 12, "aa"),
        Record::Installed(Installed { at_us: ms(13_000), master: 3, index: 12 }),
        interval(4, "w1", 17_000, Some(20_000)),
        write(17_100, 4, true),
        Record::Leads(Leads { at_us: ms(18_000), master: 2, term: 2 }),
        reach(18_500, true),
        fault(18_500, Phase::Ended),
        write(19_000, 2, false),
        digest(22_500, 1, 22, "bb"),
        digest(22_600, 3, 22, "bb"),
        Record::Note(Note { at_us: ms(24_000), who: "nemesis".into(), text: "over".into() }),
    ]
}

/// Everything is right in it.
pub fn good() -> Vec<Record> {
    let run = Run {
        format: FORMAT,
        kind: "sim".into(),
        seed: 7,
        version: "1.0.0".into(),
        masters: 3,
        workers: 2,
        began_wall_ms: 0,
        faults_wanted: vec!["kill".into()],
        facts: BTreeMap::new(),
    };
    let parts = [vec![Record::Run(run)], operations(), followed(), rest()];
    parts.into_iter().flatten().collect()
}

/// What it has to have shown.
pub fn bounds() -> Bounds {
    let strict = Bounds {
        drained: true,
        lease_expiries_min: 1,
        snapshot_installs_min: 1,
        elections_min: 2,
        faults: vec!["kill".into()],
        recovery_us: Some(ms(5_000)),
        drain_us: Some(ms(3_000)),
        punish_after_us: Some(ms(1_200)),
        ..Bounds::none()
    };
    strict
        .ops("submit", 2)
        .ops("cancel", 1)
        .ops("read", 5)
        .ops("read_stale", 1)
        .ops("read_workers", 2)
        .ops("set_mode", 2)
}

pub fn judged(records: &[Record], bounds: &Bounds) -> Vec<Verdict> {
    check(&History::from_records(records.to_vec()), bounds)
}

/// Names of the checkers that found something wrong, sorted.
pub fn red(records: &[Record], bounds: &Bounds) -> Vec<String> {
    let verdicts = judged(records, bounds);
    let mut names: Vec<String> = verdicts.into_iter().filter(Verdict::is_bad).map(|verdict| verdict.checker).collect();
    names.sort();
    names
}

/// Why a checker does not know.
pub fn doubt(records: &[Record], bounds: &Bounds, checker: &str) -> Option<String> {
    judged(records, bounds).into_iter().find(|verdict| verdict.checker == checker).and_then(|verdict| {
        match verdict.finding {
            Finding::Unknown(why) => Some(why),
            _ => None,
        }
    })
}

/// Changes the answer of an operation.
pub fn answer(records: &mut [Record], op: u64, new: Answer) {
    for record in records {
        match record {
            Record::Complete(complete) if complete.op == op => complete.outcome = Outcome::Ok { answer: new.clone() },
            _ => {}
        }
    }
}

/// Changes the events of an entry, for all followers.
pub fn rewrite(records: &mut [Record], index: u64, change: impl Fn(&mut Vec<Event>)) {
    for record in records {
        match record {
            Record::Events(batch) if batch.index == index => change(&mut batch.events),
            _ => {}
        }
    }
}

/// A new entry, for all followers.
pub fn entry(records: &mut Vec<Record>, index: u64, term: u64, events: Vec<Event>) {
    for follower in [1, 2] {
        let at_us = ms(index * 1_000 + follower);
        records.push(Record::Events(Events { follower, at_us, master: None, index, term, events: events.clone() }));
    }
}

/// Removes entries, for all followers.
pub fn unwrite(records: &mut Vec<Record>, index: u64) {
    records.retain(|record| !matches!(record, Record::Events(batch) if batch.index == index));
}

/// Removes operations.
pub fn forget(records: &mut Vec<Record>, ops: &[u64]) {
    records.retain(|record| match record {
        Record::Invoke(it) => !ops.contains(&it.op),
        Record::Complete(it) => !ops.contains(&it.op),
        _ => true,
    });
}
