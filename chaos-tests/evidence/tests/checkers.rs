//! Every checker against a good history and bad ones: each bad one turns red what it must, and nothing else.
//!
//! What always holds: a bad history is the good one with one thing changed, so that what turns red is due to that.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use steersman_evidence::record::*;
use steersman_evidence::{Bounds, Finding, History, all_good, any_bad, summary};

type Change = fn(&mut Vec<Record>);

/// Name, the checkers that must turn red, and what is changed.
type Case = (&'static str, &'static [&'static str], Change);

fn judge(cases: &[Case]) {
    for (name, expected, change) in cases {
        let mut records = good();
        change(&mut records);
        let mut expected: Vec<&str> = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(red(&records, &bounds()), expected, "{name}\n{}", summary(&judged(&records, &bounds())));
    }
}

#[test]
fn the_good_history_is_good_and_everything_was_looked_at() {
    let verdicts = judged(&good(), &bounds());
    assert!(all_good(&verdicts), "{}", summary(&verdicts));
    assert!(verdicts.iter().all(|verdict| verdict.examined > 0), "{}", summary(&verdicts));
    assert_eq!(verdicts.len(), 16);
    assert!(all_good(&judged(&good(), &Bounds::none())));
    assert!(!all_good(&[]) && !any_bad(&[]));
}

#[test]
fn p07_reads_that_no_order_explains() {
    judge(&[
        ("an acknowledged task is not there", &["linearizable", "lost-submit", "event-stream"], |records| {
            answer(records, 3, Answer::Task { task: None, index: 11 });
        }),
        ("a task goes back from its end", &["linearizable", "log-order"], |records| {
            records.extend([call(50, 6, 12_400, read(1)), ok(50, 12_500, task(TaskState::Running, &[(1, 1)], 11))]);
        }),
        ("a read misses an acknowledged cancel", &["linearizable", "one-outcome", "event-stream"], |records| {
            answer(records, 6, task(TaskState::Running, &[(3, 1)], 15));
        }),
        ("an older attempt again", &["linearizable", "log-order"], |records| {
            records.extend([call(50, 6, 17_400, read(2)), ok(50, 17_500, task(TaskState::Retrying, &[(2, 2)], 13))]);
        }),
        ("running, then scheduled with the same token", &["linearizable", "log-order"], |records| {
            let seen = task(TaskState::Scheduled, &[(2, 2), (4, 1)], 16);
            records.extend([call(50, 6, 17_400, read(2)), ok(50, 17_500, seen)]);
        }),
        ("a task that nobody submitted yet", &["linearizable", "event-stream"], |records| {
            records.extend([call(50, 6, 8_000, read(1)), ok(50, 8_100, task(TaskState::Succeeded, &[(1, 1)], 8))]);
            records.retain(|record| !matches!(record, Record::Invoke(it) if it.op == 8));
            records.retain(|record| !matches!(record, Record::Complete(it) if it.op == 8));
        }),
        ("a mode that was set is not shown", &["linearizable"], |records| {
            let workers = vec![worker(1, "online", 0), worker(2, "maintenance", 0)];
            answer(records, 11, Answer::Workers { workers, index: 21 });
        }),
        ("a mode comes back", &["linearizable"], |records| {
            let workers = vec![worker(1, "online", 0), worker(2, "draining", 0)];
            let again = Answer::Workers { workers, index: 23 };
            records.extend([call(50, 6, 23_000, Call::ReadWorkers {}), ok(50, 23_100, again)]);
        }),
        ("a cancel that changed nothing, of a task that runs on", &["linearizable"], |records| {
            records.extend([
                call(50, 6, 17_400, cancel("c9", 2)),
                ok(50, 17_500, Answer::Cancelled { changed: false, index: 18 }),
                call(51, 6, 17_600, read(2)),
                ok(51, 17_700, task(TaskState::Running, &[(2, 2), (4, 1)], 18)),
            ]);
        }),
    ]);
}

#[test]
fn p07_a_failure_is_drawn_as_its_shortest_bad_prefix() {
    let mut records = good();
    records.extend([call(50, 6, 17_400, read(2)), ok(50, 17_500, task(TaskState::Retrying, &[(2, 2)], 13))]);
    let verdicts = judged(&records, &bounds());
    let Finding::Bad(lines) = &verdicts[0].finding else { panic!("{verdicts:?}") };
    let rows: Vec<&str> = lines[0].lines().collect();
    // The submit, the read that saw attempt 4, and the one that did not; the later read of the end is not needed.
    assert_eq!(rows.len(), 4, "{}", lines[0]);
    assert!(rows[0].starts_with("task 2: no order"), "{}", lines[0]);
    assert!(rows[2].contains("attempt 4 on worker 1 open at 17") && rows[2].contains('├'), "{}", lines[0]);
    assert!(rows[3].ends_with("<- no order explains this"), "{}", lines[0]);
    let drawings = steersman_evidence::linearizable::drawings(&History::from_records(records), &bounds());
    assert_eq!(drawings.len(), 1);
    assert!(drawings[0].svg().starts_with("<svg") && drawings[0].svg().contains("f-bad"));
}

#[test]
fn an_operation_of_unknown_outcome_stays_possible_for_ever() {
    let mut records = good();
    // A cancel of task 2 that timed out takes effect much later: what everybody sees fits.
    records.extend([call(50, 6, 11_000, cancel("c9", 2)), unknown(50, 11_500)]);
    answer(&mut records, 13, task(TaskState::Cancelled, &[(2, 2), (4, 1)], 22));
    rewrite(&mut records, 20, |events| events[1] = finished(2, TaskState::Cancelled));
    assert_eq!(red(&records, &bounds()), Vec::<String>::new());
    // Without it nobody can have cancelled the task.
    forget(&mut records, &[50]);
    assert_eq!(red(&records, &bounds()), ["linearizable"]);
    // Unless the cluster has other users.
    let open = Bounds { closed: false, ..bounds() };
    assert_eq!(red(&records, &open), Vec::<String>::new());
}

#[test]
fn a_submit_of_unknown_outcome_may_show_up() {
    let mut records = good();
    entry(&mut records, 23, 2, vec![Event::Submitted { first: 4, count: 2 }]);
    records.extend([call(50, 6, 23_400, read(5)), ok(50, 23_500, task(TaskState::Pending, &[], 23))]);
    let lenient = Bounds { drained: false, drain_us: None, ..bounds() };
    assert_eq!(red(&records, &lenient), Vec::<String>::new());
}

#[test]
fn too_many_at_a_time_is_unknown() {
    let mut records = good();
    for op in 100..120 {
        records.extend([call(op, op, 11_200, read(1)), ok(op, 11_300, task(TaskState::Running, &[(1, 1)], 11))]);
    }
    let narrow = Bounds { search_max: 1_000, ..bounds() };
    assert!(doubt(&records, &narrow, "linearizable").unwrap().contains("task 1"));
    assert!(!all_good(&judged(&records, &narrow)));
}

#[test]
fn indexes_respect_real_time() {
    judge(&[
        ("a write behind an acknowledged one", &["log-order"], |records| {
            answer(records, 12, Answer::Done { index: 20 });
        }),
        ("two writes one after the other at one index", &["log-order"], |records| {
            answer(records, 12, Answer::Done { index: 21 });
        }),
        ("a read of the past", &["log-order"], |records| {
            answer(records, 9, task(TaskState::Running, &[(2, 2), (4, 1)], 14));
        }),
    ]);
}

#[test]
fn stale_reads_show_an_old_truth() {
    judge(&[
        ("what was never so", &["stale-reads"], |records| {
            answer(records, 7, task(TaskState::Succeeded, &[(2, 2)], 11));
        }),
        ("older than its index", &["stale-reads"], |records| {
            answer(records, 7, task(TaskState::Running, &[(2, 2)], 14))
        }),
        ("nothing, where something was", &["stale-reads"], |records| {
            answer(records, 7, Answer::Task { task: None, index: 12 });
        }),
    ]);
}

#[test]
fn p01_acknowledged_submits_are_not_lost() {
    judge(&[
        ("in no event and in no read", &["lost-submit"], |records| {
            records.extend([call(50, 6, 17_500, submit("r5", 4)), ok(50, 17_900, submitted(10, 4, 18))]);
        }),
        ("not finished at the end", &["lost-submit", "recovery"], |records| {
            unwrite(records, 20);
            records.extend([
                call(50, 6, 30_000, read(2)),
                ok(50, 30_100, task(TaskState::Running, &[(2, 2), (4, 1)], 23)),
            ]);
            forget(records, &[13]);
        }),
        ("gone again", &["lost-submit", "linearizable", "event-stream"], |records| {
            records.extend([call(50, 6, 23_400, read(1)), ok(50, 23_500, Answer::Task { task: None, index: 23 })]);
        }),
    ]);
    let mut records = good();
    records.extend([call(50, 6, 23_400, submit("r5", 4)), ok(50, 23_500, submitted(10, 4, 24))]);
    assert!(doubt(&records, &bounds(), "lost-submit").unwrap().contains("4 of 7"));
}

#[test]
fn p03_one_outcome() {
    judge(&[
        ("finished twice", &["one-outcome"], |records| {
            entry(records, 23, 2, vec![finished(1, TaskState::Succeeded)]);
        }),
        ("assigned after its end", &["one-outcome"], |records| entry(records, 23, 2, vec![assigned(1, 5, 1)])),
        ("a cancel that says it ended what had succeeded", &["one-outcome", "linearizable"], |records| {
            records.extend([
                call(50, 6, 23_400, cancel("c9", 2)),
                ok(50, 23_500, Answer::Cancelled { changed: true, index: 24 }),
            ]);
        }),
        ("another end in a stale read", &["one-outcome", "stale-reads"], |records| {
            answer(records, 7, task(TaskState::Failed, &[(2, 2)], 11));
        }),
    ]);
}

#[test]
fn p03_tokens_rise_and_only_the_open_attempt_is_heard() {
    judge(&[
        ("a token is used again", &["tokens"], |records| {
            rewrite(records, 16, |events| *events = vec![assigned(2, 3, 1)]);
            rewrite(records, 17, |events| *events = vec![started(2, 3)]);
            rewrite(records, 20, |events| events[0] = ended(2, 3));
            answer(records, 9, task(TaskState::Running, &[(2, 2), (3, 1)], 17));
            answer(records, 13, task(TaskState::Succeeded, &[(2, 2), (3, 1)], 22));
            records.retain(|record| !matches!(record, Record::Interval(_) | Record::FencedWrite(_)));
        }),
        ("an old attempt is heard", &["tokens"], |records| {
            rewrite(records, 20, |events| events.insert(0, ended(2, 2)))
        }),
        ("a read forgets an attempt", &["tokens"], |records| {
            answer(records, 13, task(TaskState::Succeeded, &[(4, 1)], 22))
        }),
        ("a read with falling tokens", &["tokens"], |records| {
            answer(records, 13, task(TaskState::Succeeded, &[(4, 1), (2, 2), (4, 1)], 22));
        }),
        ("an attempt that nobody assigned", &["tokens"], |records| {
            let (worker, from_us, to_us, seen_us) = ("w1".into(), ms(12_100), Some(ms(12_200)), ms(12_200));
            let exclusive = false;
            records.push(Record::Interval(Interval { task: 1, token: 2, worker, exclusive, from_us, to_us, seen_us }));
            records.retain(|record| !matches!(record, Record::Interval(it) if it.task == 2 && it.token == 2));
        }),
    ]);
}

#[test]
fn an_attempt_whose_assignment_was_trimmed_is_believed() {
    let mut records = good();
    (16..=17).for_each(|index| unwrite(&mut records, index));
    for follower in [1, 2] {
        let events = vec![Event::Gap { from: 16, to: 17 }];
        records.push(Record::Events(Events { follower, at_us: ms(17_900), master: None, index: 17, term: 2, events }));
    }
    assert!(
        !red(&records, &bounds()).contains(&"tokens".to_owned()),
        "task 2's second attempt was assigned in the gap"
    );
}

#[test]
fn attempts_beyond_those_kept_may_be_left_out() {
    let mut records = good();
    answer(&mut records, 13, task(TaskState::Succeeded, &[(2, 2), (4, 1)], 22));
    let few = Bounds { attempts_kept: 2, ..bounds() };
    // Two more attempts of task 2 between its first and its last one.
    rewrite(&mut records, 16, |events| {
        *events = vec![assigned(2, 4, 1), ended(2, 4), Event::Retrying { task: 2 }, assigned(2, 5, 1)];
    });
    rewrite(&mut records, 17, |events| *events = vec![started(2, 5)]);
    rewrite(&mut records, 20, |events| events[0] = ended(2, 5));
    answer(&mut records, 9, task(TaskState::Running, &[(2, 2), (5, 1)], 17));
    answer(&mut records, 13, task(TaskState::Succeeded, &[(2, 2), (5, 1)], 22));
    records.retain(|record| !matches!(record, Record::Interval(_) | Record::FencedWrite(_)));
    assert_eq!(red(&records, &few), Vec::<String>::new());
    assert_eq!(red(&records, &bounds()), ["tokens"]);
}

#[test]
fn p03_the_fenced_register() {
    judge(&[
        ("an old attempt writes after a newer one", &["fenced-register"], |records| {
            records.push(Record::FencedWrite(FencedWrite { at_us: ms(19_500), key: 2, token: 2, accepted: true }));
        }),
        ("the register refuses the newest", &["fenced-register"], |records| {
            records.push(Record::FencedWrite(FencedWrite { at_us: ms(19_500), key: 2, token: 9, accepted: false }));
        }),
    ]);
}

#[test]
fn no_double_hold() {
    judge(&[
        ("two attempts at a time", &["double-hold"], |records| {
            rewrite(records, 13, |events| drop(events.remove(1)));
        }),
        ("a lost worker gets work", &["double-hold", "event-stream"], |records| {
            rewrite(records, 16, |events| *events = vec![assigned(2, 4, 2)]);
        }),
        ("a draining worker gets work", &["double-hold", "lost-submit"], |records| {
            rewrite(records, 21, |events| {
                events.push(Event::Submitted { first: 4, count: 2 });
                events.push(assigned(4, 5, 2));
            });
            records.extend([call(50, 6, 20_800, submit("r9", 2)), ok(50, 21_200, submitted(4, 2, 21))]);
        }),
        ("more than there are slots", &["double-hold"], |records| {
            rewrite(records, 12, |events| events.rotate_right(1));
        }),
        ("a full worker that is fuller", &["double-hold"], |records| {
            let workers = vec![worker(1, "busy", 2), worker(2, "draining", 0)];
            answer(records, 11, Answer::Workers { workers, index: 21 });
        }),
        ("a name twice", &["double-hold"], |records| {
            let twin = WorkerView { id: 9, ..worker(1, "online", 0) };
            let workers = vec![worker(1, "online", 0), worker(2, "draining", 0), twin];
            answer(records, 11, Answer::Workers { workers, index: 21 });
        }),
        ("a token at two workers", &["double-hold", "event-stream"], |records| {
            answer(records, 9, task(TaskState::Running, &[(2, 2), (4, 2)], 17));
        }),
        ("a token run by two workers", &["double-hold"], |records| {
            let (worker, from_us, to_us, seen_us) = ("w2".into(), ms(21_000), Some(ms(21_100)), ms(21_100));
            let exclusive = true;
            records.push(Record::Interval(Interval { task: 2, token: 4, worker, exclusive, from_us, to_us, seen_us }));
        }),
    ]);
}

#[test]
fn p09_exclusive_attempts_do_not_overlap() {
    judge(&[
        ("the old attempt went on", &["exclusion"], |records| {
            records.iter_mut().for_each(|record| match record {
                Record::Interval(it) if it.token == 2 => it.seen_us = ms(17_100),
                _ => {}
            });
        }),
        ("the old attempt ended late", &["exclusion"], |records| {
            records.iter_mut().for_each(|record| match record {
                Record::Interval(it) if it.token == 2 => it.to_us = Some(ms(17_001)),
                _ => {}
            });
        }),
    ]);
}

#[test]
fn p02_one_request_one_effect() {
    judge(&[
        ("a retry gets another answer", &["idempotence"], |records| answer(records, 14, submitted(4, 3, 23))),
        ("a retry of a cancel gets another answer", &["idempotence"], |records| {
            let again = Answer::Cancelled { changed: false, index: 23 };
            records.extend([call(50, 6, 23_400, cancel("c1", 3)), ok(50, 23_500, again)]);
        }),
        ("a submit is in the log twice", &["idempotence"], |records| {
            entry(records, 23, 2, vec![Event::Submitted { first: 4, count: 3 }]);
            let ends = (4..7).map(|task| finished(task, TaskState::Failed)).collect();
            entry(records, 24, 2, ends);
        }),
        ("a submit of unknown outcome is there twice", &["idempotence"], |records| {
            for (index, first) in [(23, 4), (24, 6)] {
                let ends = (first..first + 2).map(|task| finished(task, TaskState::Failed));
                entry(records, index, 2, [Event::Submitted { first, count: 2 }].into_iter().chain(ends).collect());
            }
        }),
        ("fewer tasks than asked for", &["idempotence", "linearizable"], |records| {
            rewrite(records, 10, |events| events[0] = Event::Submitted { first: 1, count: 3 });
            answer(records, 2, submitted(1, 2, 10));
            answer(records, 14, submitted(1, 2, 23));
        }),
        ("two requests share a task", &["idempotence", "event-stream", "linearizable"], |records| {
            records.extend([call(50, 6, 22_500, submit("r5", 3)), ok(50, 23_150, submitted(3, 3, 23))]);
            entry(records, 23, 2, vec![Event::Submitted { first: 3, count: 3 }]);
            let ends = (4..6).map(|task| finished(task, TaskState::Failed)).collect();
            entry(records, 24, 2, ends);
        }),
    ]);
}

fn of_follower(follower: u64, index: u64) -> impl Fn(&Record) -> bool {
    move |record| matches!(record, Record::Events(it) if (it.follower, it.index) == (follower, index))
}

#[test]
fn p08_the_event_stream() {
    judge(&[
        ("one follower misses an entry", &["event-stream"], |records| {
            let skipped = of_follower(2, 14);
            records.retain(|record| !skipped(record));
        }),
        ("an entry is delivered twice", &["event-stream"], |records| {
            let twice = records.iter().find(|record| of_follower(1, 14)(record)).cloned();
            records.extend(twice.map(|record| match record {
                Record::Events(it) => Record::Events(Events { at_us: it.at_us + 10, ..it }),
                other => other,
            }));
        }),
        ("followers get different events", &["event-stream"], |records| {
            records.iter_mut().filter(|record| of_follower(2, 14)(record)).for_each(|record| {
                if let Record::Events(it) = record {
                    it.events = vec![Event::Other { name: "odd".into() }];
                }
            });
        }),
        ("terms fall", &["event-stream"], |records| {
            records.iter_mut().for_each(|record| match record {
                Record::Events(it) if it.index == 22 => it.term = 1,
                _ => {}
            });
        }),
        ("everybody misses the same entry", &["event-stream"], |records| unwrite(records, 17)),
        ("a gap over what was delivered", &["event-stream"], |records| {
            let events = vec![Event::Gap { from: 20, to: 23 }];
            records.push(Record::Events(Events {
                follower: 1,
                at_us: ms(23_000),
                master: None,
                index: 23,
                term: 2,
                events,
            }));
        }),
        ("a submit that nobody was told of", &["event-stream"], |records| {
            records.extend([
                call(50, 6, 18_300, submit("r5", 1)),
                ok(50, 18_900, submitted(9, 1, 19)),
                call(51, 6, 19_300, read(9)),
                ok(51, 19_400, task(TaskState::Failed, &[], 19)),
            ]);
        }),
        ("a lost worker is shown as online", &["event-stream"], |records| {
            let workers = vec![worker(1, "online", 0), worker(2, "offline", 0)];
            answer(records, 11, Answer::Workers { workers, index: 21 });
        }),
    ]);
}

#[test]
fn p08_an_explicit_gap_is_no_skip() {
    let mut records = good();
    records.retain(|record| !(13..=15).any(|index| of_follower(2, index)(record)));
    let events = vec![Event::Gap { from: 13, to: 15 }];
    records.push(Record::Events(Events { follower: 2, at_us: ms(12_900), master: None, index: 15, term: 1, events }));
    assert_eq!(red(&records, &bounds()), Vec::<String>::new());
}

#[test]
fn replicas_and_leaders() {
    judge(&[
        ("digests differ", &["replicas"], |records| {
            let digest = "bc".into();
            records.push(Record::Digest(Digest { at_us: ms(23_000), master: 2, index: 22, digest }));
        }),
        ("another state after a restart", &["replicas"], |records| {
            let digest = "ab".into();
            records.push(Record::Digest(Digest { at_us: ms(23_000), master: 1, index: 12, digest }));
        }),
        ("two leaders were seen", &["one-leader"], |records| {
            records.push(Record::Leads(Leads { at_us: ms(19_000), master: 3, term: 2 }));
        }),
        ("the log names another leader", &["one-leader"], |records| {
            rewrite(records, 18, |events| *events = vec![Event::Leader { term: 2, master: 3 }]);
        }),
    ]);
}

#[test]
fn p04_nothing_healthy_is_punished() {
    judge(&[
        ("always reachable", &["healthy-punished"], |records| {
            records.retain(|record| !matches!(record, Record::Reach(_)));
        }),
        ("back for long", &["healthy-punished"], |records| {
            records.iter_mut().for_each(|record| match record {
                Record::Reach(it) if !it.reachable => it.at_us = ms(5_000),
                Record::Reach(it) => it.at_us = ms(8_000),
                _ => {}
            });
        }),
        ("cut off for a moment only", &["healthy-punished"], |records| {
            records.iter_mut().for_each(|record| match record {
                Record::Reach(it) if it.reachable => it.at_us = ms(11_540),
                _ => {}
            });
        }),
        ("cut off only afterwards", &["healthy-punished"], |records| {
            records.iter_mut().for_each(|record| match record {
                Record::Reach(it) if !it.reachable => it.at_us = ms(13_100),
                _ => {}
            });
        }),
    ]);
}

#[test]
fn p05_recovery() {
    judge(&[
        ("no write for too long", &["recovery"], |records| {
            records.iter_mut().for_each(|record| match record {
                Record::Fault(it) if it.phase == Phase::Ended => it.at_us = ms(15_200),
                _ => {}
            });
            forget(records, &[8]);
        }),
        ("the queue drains too late", &["recovery"], |records| {
            entry(records, 40, 2, vec![Event::Submitted { first: 4, count: 2 }]);
            entry(records, 41, 2, vec![finished(4, TaskState::Failed), finished(5, TaskState::Failed)]);
        }),
    ]);
    let mut trimmed = good();
    unwrite(&mut trimmed, 20);
    for follower in [1, 2] {
        let events = vec![Event::Gap { from: 20, to: 20 }];
        trimmed.push(Record::Events(Events { follower, at_us: ms(19_900), master: None, index: 20, term: 2, events }));
    }
    assert!(!red(&trimmed, &bounds()).contains(&"recovery".to_owned()), "a read shows how task 2 ended");
    let mut silent = good();
    forget(&mut silent, &[10, 11, 12, 14, 15]);
    assert!(doubt(&silent, &bounds(), "recovery").unwrap().contains("nobody tried to write"));
    silent.extend([call(50, 6, 20_000, submit("r9", 1)), unknown(50, 23_600)]);
    assert_eq!(red(&silent, &bounds()), ["recovery"]);
}

#[test]
fn too_little_seen_is_unknown() {
    let doubts: Vec<(&str, Change)> = vec![
        ("3 completed submit of 4 wanted", |_| {}),
        ("0 lease expiries of 1", |records| unwrite(records, 13)),
        ("0 snapshot installs of 1", |records| records.retain(|record| !matches!(record, Record::Installed(_)))),
        ("fault kill was never in force", |records| records.retain(|record| !matches!(record, Record::Fault(_)))),
        ("fault slow-disk was skipped: no cgroup", |records| {
            let phase = Phase::Skipped { why: "no cgroup".into() };
            records.push(Record::Fault(Fault { at_us: 0, class: "slow-disk".into(), target: "m1".into(), phase }));
        }),
        ("operation 99 completed, but was not invoked", |records| records.push(unknown(99, 1))),
        ("operation 2 was invoked twice", |records| records.push(call(2, 1, 30_000, read(1)))),
        ("replicas looked at 4 of 9 wanted", |_| {}),
    ];
    for (expected, change) in doubts {
        let mut records = good();
        change(&mut records);
        let mut wanted = bounds();
        if expected.contains("submit of 4") {
            records.extend([call(50, 6, 24_000, submit("r1", 3)), ok(50, 24_100, submitted(1, 3, 24))]);
            wanted = wanted.ops("submit", 4);
        }
        if expected.contains("of 9") {
            wanted = wanted.examined("replicas", 9);
        }
        let why = doubt(&records, &wanted, "coverage").unwrap_or_default();
        assert!(why.contains(expected), "{expected}: {why}");
        assert!(!all_good(&judged(&records, &wanted)), "{expected}");
    }
}

#[test]
fn a_history_survives_its_file() {
    let history = History::from_records(good());
    let mut bytes = Vec::new();
    history.write(&mut bytes).unwrap();
    let again = History::read(bytes.as_slice()).unwrap();
    assert_eq!((&again.ops, &again.events, &again.run), (&history.ops, &history.events, &history.run));
    assert_eq!(again.records(), history.records());
    assert!(all_good(&steersman_evidence::check(&again, &bounds())));
    // Torn at the end: told, and never good.
    let torn = History::read(&bytes[..bytes.len() - 5]).unwrap();
    assert_eq!(torn.malformed.len(), 1);
    assert!(!all_good(&steersman_evidence::check(&torn, &Bounds::none())));
    // Anything else is no history.
    let middle = [b"{\"type\":\"odd\"}\n".as_slice(), &bytes].concat();
    assert!(History::read(middle.as_slice()).unwrap_err().to_string().contains("line 1"));
    let foreign = String::from_utf8(bytes).unwrap().replacen("\"format\":1", "\"format\":9", 1);
    assert!(History::read(foreign.as_bytes()).unwrap_err().to_string().contains("format 9"));
}

#[test]
fn a_summary_says_what_is_wrong() {
    let mut records = good();
    answer(&mut records, 14, submitted(4, 3, 23));
    let text = summary(&judged(&records, &bounds()));
    assert!(text.contains("BAD      idempotence") && text.contains("request r1 was answered with"), "{text}");
    assert!(text.ends_with("BAD: 15 good, 1 bad, 0 unknown\n"), "{text}");
    assert!(summary(&[]).contains("UNKNOWN"));
}
