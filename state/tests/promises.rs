//! Promises that one short story shows best. The others are properties: see the numbers in their names.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, ended, hello, spec};
use steersman_state::*;

/// p03: fencing tokens rise over failovers, snapshots and restores, and never repeat.
#[test]
fn p03_tokens_never_repeat_after_a_restore() {
    let mut node = Node::default();
    node.submit(spec("a"), 10);
    node.open(hello(1, 1, 3, vec![]));
    let backup = common::reread(&node.state);
    // Work goes on after the backup was taken...
    let worker = WorkerId(1);
    (1..7).for_each(|id| drop(node.end(worker, 1, TaskId(id), ended(Outcome::Succeeded, 0))));
    let newest = node.token(TaskId(9));
    // ...and is lost; the backup comes back, twice.
    for epoch in [0, 0] {
        let state = common::reread(&backup).restored(epoch);
        let mut again = Node { state, ..Node::default() };
        again.open(hello(1, 2, 3, vec![]));
        assert!(again.token(TaskId(1)) > newest, "{} after {newest}", again.token(TaskId(1)));
        let twice = common::reread(&again.state).restored(epoch);
        let mut twice = Node { state: twice, ..Node::default() };
        twice.open(hello(1, 3, 3, vec![]));
        assert!(twice.token(TaskId(1)) > again.token(TaskId(3)));
    }
}

/// p04: a change of leader neither stops nor restarts a running task, nor does it lose a live worker.
#[test]
fn p04_a_change_of_leader_neither_stops_nor_restarts_what_runs() {
    let mut node = Node::default();
    let first = node.submit(spec("long"), 3);
    let worker = node.open(hello(1, 1, 3, vec![])).worker;
    (0..3).for_each(|n| drop(node.start(worker, 1, TaskId(first.0 + n))));
    let held: Vec<_> = (0..3).map(|n| node.token(TaskId(first.0 + n))).collect();
    for _ in 0..2 {
        node.term += 1;
        let begun = node.apply(vec![Command::BeginReign]);
        assert!(begun.effects.is_empty());
        let resumed = node.apply(vec![Command::OpenSession(hello(1, 1, 3, held.clone()))]);
        assert!(resumed.effects.is_empty(), "{:?}", resumed.effects);
        assert!(node.state.outstanding(worker).is_empty());
    }
    assert_eq!(node.state.counts().running, 3);
    assert!(held.iter().enumerate().all(|(n, token)| node.token(TaskId(first.0 + n as u64)) == *token));
}

/// p09: a worker that waited in vain says Hello again, and work comes over the second session before the first Hello does.
#[test]
fn p09_a_hello_that_was_overtaken_ends_nothing_that_began_since() {
    let mut node = Node::default();
    let ask = |opening, held| OpenSession { opening, ..hello(1, 1, 2, held) };
    let worker = node.open(ask(2, vec![])).worker;
    let task = node.submit(spec("t"), 1);
    node.start(worker, 1, task);
    let token = node.token(task);
    for late in [1, 2] {
        let answer = node.one(Command::OpenSession(ask(late, vec![])));
        assert!(matches!(&answer, Reply::Rejected(Rejection::Precondition(why)) if why.contains("late")), "{answer:?}");
    }
    assert_eq!((node.token(task), node.state.task(task).unwrap().attempts_total), (token, 1));
    assert!(node.open(ask(3, vec![token])).drop.is_empty());
    // A new process counts from the beginning, and does not hold what the last one held.
    node.open(OpenSession { opening: 1, ..hello(1, 2, 2, vec![]) });
    assert_ne!(node.token(task), token);
}

/// p05: the verdict on a worker and the new places of its tasks are one entry, also in the first entries of a reign.
#[test]
fn p05_a_lost_workers_tasks_run_elsewhere_in_the_same_entry() {
    let mut node = Node::default();
    let first = node.submit(spec("a"), 2);
    let lost = node.open(hello(1, 1, 2, vec![]));
    node.term += 1;
    node.apply(vec![Command::BeginReign]);
    let other = node.open(hello(2, 1, 2, vec![])).worker;
    let (worker, session) = (lost.worker, lost.session);
    let verdict = node.apply(vec![Command::WorkerLost { worker, incarnation: 1, session }]);
    let runs: Vec<_> =
        verdict.effects.iter().filter(|it| matches!(it, Effect::StartRun(run) if run.worker == other)).collect();
    assert_eq!(runs.len(), 2, "{:?}", verdict.effects);
    assert_eq!(node.state.task(first).unwrap().attempts_total, 2);
}

/// p12: whatever share of however many workers falls silent, no more than the policy allows are lost within the window,
/// the others keep their attempts, and all of them are whole again when they are back.
#[test]
fn p12_no_more_workers_are_lost_within_the_window_than_the_policy_allows() {
    for (count, silent) in [(2, 2), (3, 3), (5, 4), (10, 9), (40, 20), (100, 100)] {
        let mut node = Node::default();
        node.submit(spec("t"), count);
        let opened: Vec<_> = (0..count).map(|n| node.open(hello(n as u8, 1, 1, vec![]))).collect();
        let allowed = node.state.brake(0).allowed;
        for one in &opened[..silent] {
            node.time_ms += 100;
            node.one(Command::WorkerLost { worker: one.worker, incarnation: 1, session: one.session });
        }
        let brake = node.state.brake(1_000);
        let offline = u64::from(node.state.worker_counts().offline);
        assert_eq!(offline, allowed.min(silent as u64), "{silent} of {count}");
        assert_eq!(brake.held_total, silent as u64 - offline);
        for &id in &brake.held {
            let view = node.state.worker(id).unwrap();
            assert!(!view.attempts.is_empty() && !view.connected, "{view:?}");
        }
        node.term += 1;
        node.apply(vec![Command::BeginReign]);
        node.pass(3_600_000);
        assert_eq!(node.state.brake(1_000).held, brake.held, "neither a new leader nor time changes it");
        for (n, one) in opened.iter().enumerate() {
            let held = node.state.worker(one.worker).unwrap().attempts;
            node.open(hello(n as u8, 1, 1, held));
        }
        let after = node.state.brake(1);
        assert_eq!((after.engaged_since_ms, after.held_total, after.lost), (None, 0, 0), "{silent} of {count}");
        assert_eq!(node.state.counts().scheduled, u64::from(count));
    }
}

/// p05, p12: what an operator does to workers, and workers that go in good order, engage no brake.
#[test]
fn p12_evicted_and_departed_workers_are_no_failures() {
    let mut node = Node::default();
    let opened: Vec<_> = (0..10).map(|n| node.open(hello(n, 1, 1, vec![])).worker).collect();
    for (n, &worker) in opened.iter().enumerate() {
        match n % 2 {
            0 => node.one(Command::EvictWorker { worker: WorkerRef::Id(worker) }),
            _ => node.one(Command::WorkerLeft { worker, incarnation: 1 }),
        };
    }
    let brake = node.state.brake(1);
    assert_eq!((brake.engaged_since_ms, brake.lost, node.state.worker_counts().offline), (None, 0, 10));
}

/// p14: however long it goes on, what is kept stays within its limits.
#[test]
fn p14_the_state_stays_bounded() {
    let mut node = Node::default();
    let limits = Limits {
        tasks_finished_kept_max: 50,
        replies_kept_max: 20,
        events_kept_max: 100,
        workers_offline_kept_ms: 5_000,
        ..Limits::default()
    };
    node.one(Command::SetLimits(limits));
    let mut sizes = Vec::new();
    for round in 0..400_u32 {
        let request =
            Some(RequestId([(round % 256) as u8, (round / 256) as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        node.apply_envelopes(vec![Envelope { request, command: common::submit(spec("t"), 3) }]);
        // Every worker comes, works and goes for good.
        let mut ask = hello(1, 1, 3, vec![]);
        ask.uid = WorkerUid([(round % 251) as u8; 16]);
        let worker = node.open(ask).worker;
        for n in 1..4 {
            node.end(worker, 1, TaskId(u64::from(round) * 3 + n), ended(Outcome::Succeeded, 0));
        }
        node.one(Command::WorkerLeft { worker, incarnation: 1 });
        node.pass(1_000);
        let mut bytes = Vec::new();
        node.state.image().write(&mut bytes).unwrap();
        sizes.push(bytes.len());
    }
    let counts = node.state.counts();
    assert_eq!((counts.succeeded, counts.finished_total, counts.unfinished()), (50, 1_200, 0));
    assert!(node.state.list_workers(None, 1_000).0.len() <= 6);
    let events: usize = node.state.events_from(1, usize::MAX).entries.iter().map(|entry| entry.events.len()).sum();
    assert!(events <= 100, "{events}");
    let (early, late) = (sizes[100], sizes[399]);
    assert!(late < early + early / 5, "{early} bytes after 100 rounds, {late} after 400");
}

/// One reply with many results weighs more than one: memory is what the limit on replies bounds.
#[test]
fn p14_long_replies_are_bounded_too() {
    let mut node = Node::default();
    node.one(Command::SetLimits(Limits { replies_kept_max: 1_000, ..Limits::default() }));
    let cancel = Command::Cancel { tasks: (1..4_001).map(TaskId).collect() };
    for n in 0..10 {
        let request = Some(RequestId([n; 16]));
        node.apply_envelopes(vec![Envelope { request, command: cancel.clone() }]);
    }
    let kept = (0..10).filter(|n| node.state.remembered(RequestId([*n; 16])).is_some()).count();
    assert_eq!(kept, 1);
    assert!(node.state.remembered(RequestId([9; 16])).is_some());
}

/// What one entry leaves undone is due at once, and the next entry goes on with it.
#[test]
fn a_large_share_of_work_is_done_in_pieces() {
    let mut node = Node::default();
    node.submit(spec("t"), 50_000);
    let ask = |n: u8| Command::OpenSession(hello(n, 1, 25_000, vec![]));
    let placed = node.apply(vec![ask(1), ask(2)]).effects.len();
    assert_eq!(placed, PLACEMENTS_PER_ENTRY);
    assert_eq!(node.state.next_timer_ms(), Some(node.time_ms));
    node.pass(0);
    node.pass(0);
    assert_eq!(node.state.counts().scheduled, 50_000);
    assert_ne!(node.state.next_timer_ms(), Some(node.time_ms));
}

#[test]
fn a_state_can_be_shared_by_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&State::new());
    shared(&State::new().image());
}

/// Ten thousand equal tasks that are submitted one by one cost one spec.
#[test]
fn equal_neighbours_share_their_spec() {
    let mut node = Node::default();
    let group = |name| TaskGroup { spec: std::sync::Arc::new(spec(name)), count: 1 };
    node.one(Command::Submit { groups: vec![group("a"), group("a"), group("b"), group("a")] });
    let spec = |id| node.state.task(TaskId(id)).unwrap().spec;
    assert!(std::sync::Arc::ptr_eq(&spec(1), &spec(2)));
    assert_eq!([&*spec(2).name, &*spec(3).name, &*spec(4).name], ["a", "b", "a"]);
}

/// The report of an election is an event of its entry and changes nothing else: the state is as after an empty entry.
#[test]
fn a_report_of_an_election_is_an_event_and_nothing_else() {
    let report = ElectionReport {
        term: 2,
        leader: MasterId(3),
        former: Some(MasterId(1)),
        cause: ElectionCause::Timer,
        suspected_us: 210_000,
        asked_us: 210_500,
        granted_us: 220_000,
        elected_us: 221_000,
        committed_us: 230_000,
        dispatched_us: Some(231_000),
        workers_back_us: Some(260_000),
        workers_believed: 2,
        workers_back: 2,
        reported_us: 280_000,
        reported_wall_ms: 1_700_000_000_000,
    };
    let mut node = Node::default();
    node.submit(spec("a"), 1);
    let before = (node.state.counts(), node.state.worker_counts());
    let applied = node.apply(vec![Command::ElectionReport(report)]);
    assert_eq!((&applied.events[..], &applied.replies[..]), (&[Event::ElectionReport(report)][..], &[Reply::Done][..]));
    assert!(applied.effects.is_empty());
    assert_eq!((node.state.counts(), node.state.worker_counts()), before);
    let page = node.state.events_from(node.state.applied_index(), 10);
    assert_eq!(page.entries.last().unwrap().events[..], [Event::ElectionReport(report)]);
}
