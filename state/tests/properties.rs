//! What holds over every history, hostile ones included. A failing history is printed with its seed and kept by proptest.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::random::{Round, batch, rounds};
use common::{Node, reread};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use steersman_state::*;

/// Applies a round to a state: a batch, or now and then an entry that carries none.
fn apply(state: &mut State, index: u64, round: &Round, batch: &Batch) -> Applied {
    match round.reign {
        10 => state.apply_blank(index, batch.stamp.term),
        11 => state.apply_membership(index, batch.stamp.term, vec![MasterId(1), MasterId(index % 3)], vec![]),
        _ => state.apply(index, batch),
    }
}

fn same(a: &Applied, b: &Applied) -> bool {
    (&a.replies, &a.effects, &a.events, a.time_ms) == (&b.replies, &b.effects, &b.events, b.time_ms)
}

/// No read panics, whatever is asked.
fn look_everywhere(state: &State) {
    let ends = [0, 1, state.last_task_id().0, state.last_task_id().0 + 1, u64::MAX];
    for (low, high) in ends.into_iter().flat_map(|low| ends.map(|high| (low, high))) {
        let (id_from, id_to) = (Some(TaskId(low)), Some(TaskId(high)));
        let filter = TaskFilter { id_from, id_to, ..TaskFilter::default() };
        for (cursor, newest_first) in [(None, true), (id_from, false), (id_to, true), (id_to, false)] {
            state.list_tasks(&filter, cursor, newest_first, low as usize);
        }
        state.tally(TaskId(low), high);
        state.events_from(low, high as usize);
        state.list_workers(Some(WorkerId(low)), high as usize);
        state.explain(TaskId(low));
        state.outstanding(WorkerId(low));
    }
}

/// What an observer of the views may never see broken.
#[derive(Default)]
struct Shadow {
    finished: BTreeMap<TaskId, TaskView>,
    newest_token: Token,
    outcomes: BTreeSet<TaskId>,
    replies: BTreeMap<RequestId, Reply>,
}

impl Shadow {
    fn watch(&mut self, state: &State, batch: &Batch, applied: &Applied) {
        for event in applied.events.iter() {
            match *event {
                Event::TaskAssigned { task, token, worker, .. } => {
                    assert!(token > self.newest_token, "token {token} after {}", self.newest_token);
                    self.newest_token = token;
                    assert!(!self.finished.contains_key(&task), "finished task {task} assigned");
                    let worker = state.worker(worker).unwrap();
                    assert!(worker.used <= worker.capacity, "overcommitted: {worker:?}");
                    // A worker that came back with less may hold more than it has; it gets nothing of that kind.
                    let needs = state.task(task).unwrap().spec.require_resources.clone();
                    let taken = needs.iter().filter(|(_, need)| **need > 0).map(|(key, _)| key);
                    let room = |key: &String| worker.resources_used[key] <= worker.resources[key];
                    assert!(taken.into_iter().all(room), "overcommitted: {worker:?}");
                    let takes = worker.connected && worker.mode == WorkerMode::Active && worker.shutdown.is_none();
                    assert!(takes && worker.offline_reason.is_none(), "{worker:?} got work");
                }
                Event::TaskFinished { task, .. } => assert!(self.outcomes.insert(task), "task {task} finished twice"),
                _ => {}
            }
        }
        look_everywhere(state);
        self.finals(state);
        self.remember(state, batch, applied);
    }

    /// p06: what is finished stays as it is, until it is trimmed.
    fn finals(&mut self, state: &State) {
        self.finished.retain(|id, before| match state.task(*id) {
            Some(mut now) => {
                // The only thing that may differ is the name of a worker that has left the registry meanwhile.
                now.attempts.iter_mut().zip(&before.attempts).for_each(|(now, before)| {
                    now.worker_name.clone_from(&before.worker_name);
                });
                assert_eq!(&now, before, "a finished task changed");
                true
            }
            None => false,
        });
        let (tasks, _) = state.list_tasks(&TaskFilter::default(), None, false, 10_000);
        let finished = tasks.into_iter().filter(|task| task.state.is_finished());
        for task in finished {
            self.finished.entry(task.id).or_insert(task);
        }
    }

    /// p02: the reply to a request id stays the same while it is remembered.
    fn remember(&mut self, state: &State, batch: &Batch, applied: &Applied) {
        self.replies.retain(|id, reply| match state.remembered(*id) {
            Some(now) => {
                assert_eq!(now, reply);
                true
            }
            None => false,
        });
        for (envelope, reply) in batch.commands.iter().zip(&applied.replies) {
            let (Some(id), false) = (envelope.request, matches!(reply, Reply::Rejected(Rejection::OldReign { .. })))
            else {
                continue;
            };
            if let Some(known) = self.replies.get(&id) {
                assert_eq!(known, reply, "another answer to the same request");
            } else if state.remembered(id).is_some() {
                self.replies.insert(id, state.remembered(id).unwrap().clone());
            }
        }
    }
}

proptest! {
    #![proptest_config(common::cases(2))]

    /// Invariants hold after every entry; two replicas, one of which reads bytes and goes through snapshots, agree on
    /// every reply, effect, event and digest; a replay of the log agrees with both.
    #[test]
    fn p06_p03_p02_replicas_agree_and_nothing_final_changes(
        rounds in rounds(1..60),
        snapshot_every in 1..20usize,
    ) {
        let (mut node, mut twin, mut shadow, mut log) = (Node::default(), State::new(), Shadow::default(), Vec::new());
        for (number, round) in rounds.iter().enumerate() {
            let batch = batch(&mut node, round);
            let applied = apply(&mut node.state, node.index, round, &batch);
            let decoded = Batch::decode(&batch.encode()).unwrap();
            prop_assert_eq!(&decoded, &batch);
            let echoed = apply(&mut twin, node.index, round, &decoded);
            prop_assert!(same(&applied, &echoed), "{applied:?}\n{echoed:?}");
            prop_assert_eq!(node.state.digest(), twin.digest());
            node.state.check().unwrap();
            if round.reign < 10 {
                shadow.watch(&node.state, &batch, &applied);
            }
            if number % snapshot_every == 0 {
                twin = reread(&twin);
                prop_assert_eq!(node.state.digest(), twin.digest());
            }
            log.push((node.index, round, batch));
        }
        let mut replayed = State::new();
        for (index, round, batch) in &log {
            apply(&mut replayed, *index, round, batch);
        }
        prop_assert_eq!(replayed.digest(), node.state.digest());
        prop_assert_eq!(replayed.next_timer_ms(), twin.next_timer_ms());
    }

    /// p10: the wall clock decides nothing: with another one, replies, effects and events are the same.
    #[test]
    fn p10_the_wall_clock_decides_nothing(rounds in rounds(1..40), jumps in prop::collection::vec(any::<u64>(), 40)) {
        let (mut node, mut twin) = (Node::default(), State::new());
        for (round, jump) in rounds.iter().zip(jumps) {
            let mut batch = batch(&mut node, round);
            let applied = apply(&mut node.state, node.index, round, &batch);
            batch.stamp.wall_ms = jump;
            prop_assert!(same(&applied, &apply(&mut twin, node.index, round, &batch)));
            twin.check().unwrap();
        }
        prop_assert_eq!(node.state.counts(), twin.counts());
        prop_assert_eq!(node.state.next_timer_ms(), twin.next_timer_ms());
    }

    /// A batch of an older reign, and a batch of commands that are all rejected, change nothing.
    #[test]
    fn p15_what_is_refused_changes_nothing(rounds in rounds(1..40)) {
        let mut node = Node::default();
        for round in &rounds {
            let mut batch = batch(&mut node, round);
            let before = reread(&node.state);
            let applied = node.state.apply(node.index, &batch);
            let refused: Vec<_> = applied.replies.iter().map(|reply| matches!(reply, Reply::Rejected(_))).collect();
            let old = matches!(applied.replies.first(), Some(Reply::Rejected(Rejection::OldReign { .. })));
            let mut twin = before;
            if old {
                twin.apply_blank(node.index, 0);
                prop_assert!(applied.effects.is_empty() && applied.events.is_empty());
            } else {
                // Without the refused ones (nobody asked for those to be remembered) it is the same batch.
                let kept: Vec<_> = batch.commands.iter().zip(&refused).collect();
                if kept.iter().any(|(envelope, refused)| **refused && envelope.request.is_some()) {
                    continue;
                }
                let kept = kept.into_iter().filter(|(_, refused)| !**refused).map(|(envelope, _)| envelope.clone());
                batch.commands = kept.collect();
                twin.apply(node.index, &batch);
            }
            prop_assert_eq!(twin.digest(), node.state.digest());
        }
    }

    /// p08: the event stream, read in pieces of any size, is every event once, in order; folded, it gives the counts.
    #[test]
    fn p08_the_event_stream_is_whole_and_folds_to_the_counts(rounds in rounds(1..50), piece in 1..9usize) {
        let (mut node, mut all) = (Node::default(), Vec::new());
        for round in &rounds {
            let batch = batch(&mut node, round);
            let applied = apply(&mut node.state, node.index, round, &batch);
            if !applied.events.is_empty() {
                all.push((node.index, applied.events.clone()));
            }
        }
        let (mut from, mut seen) = (1, Vec::new());
        while from <= node.index {
            let page = node.state.events_from(from, piece);
            let count: usize = page.entries.iter().map(|entry| entry.events.len()).sum();
            prop_assert!(count <= piece || page.entries.len() == 1);
            if let Some((low, high)) = page.gap {
                prop_assert_eq!((low, high + 1), (from, node.state.oldest_event_index()));
            }
            prop_assert!(page.upto >= from, "no progress at {from}: {page:?}");
            seen.extend(page.entries.into_iter().map(|entry| (entry.index, entry.events)));
            from = page.upto + 1;
        }
        all.retain(|(index, _)| *index >= node.state.oldest_event_index());
        prop_assert_eq!(&seen, &all);
        if node.state.oldest_event_index() == 1 {
            prop_assert_eq!(fold(&all), unkept(node.state.counts()));
        }
    }

    /// Bytes that were changed anywhere are refused or, at worst, mean something else: never a panic.
    #[test]
    fn mutated_bytes_never_panic(rounds in rounds(1..12), at in any::<u32>(), to in any::<u8>(), fix in any::<bool>()) {
        let mut node = Node::default();
        for round in &rounds {
            let batch = batch(&mut node, round);
            apply(&mut node.state, node.index, round, &batch);
            let mut bytes = batch.encode();
            let place = at as usize % bytes.len();
            let changed = bytes[place] != to;
            bytes[place] = to;
            if fix && place >= 5 {
                let crc = crc32fast::hash(&bytes[5..]);
                bytes[1..5].copy_from_slice(&crc.to_le_bytes());
                if let Ok(batch) = Batch::decode(&bytes) {
                    let mut victim = reread(&node.state);
                    victim.apply(node.index + 1, &batch);
                    victim.check().unwrap();
                }
            } else {
                prop_assert_eq!(Batch::decode(&bytes).is_err(), changed);
            }
            prop_assert!(Batch::decode(&bytes[..place]).is_err());
        }
        mutate_snapshot(&node.state, at, to, fix)?;
    }
}

fn mutate_snapshot(state: &State, at: u32, to: u8, fix: bool) -> Result<(), TestCaseError> {
    let mut bytes = Vec::new();
    state.image().write(&mut bytes).unwrap();
    let place = at as usize % bytes.len();
    prop_assert!(State::read(&mut &bytes[..place]).is_err(), "half a snapshot was read");
    let changed = bytes[place] != to;
    bytes[place] = to;
    if !fix {
        prop_assert_eq!(State::read(&mut bytes.as_slice()).is_err(), changed);
        return Ok(());
    }
    fix_frames(&mut bytes);
    if let Ok(mut victim) = State::read(&mut bytes.as_slice()) {
        victim.check().unwrap();
        let stamp = Stamp { term: u64::MAX, leader: MasterId(1), time_ms: u64::MAX, wall_ms: 0, entropy: 0 };
        victim.apply(u64::MAX, &Batch { stamp, commands: vec![] });
    }
    Ok(())
}

/// Makes every checksum right again, so that what lies behind it is reached.
fn fix_frames(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        let Some(body) = bytes.get(at + 8..at.saturating_add(8).saturating_add(length)) else { return };
        let crc = crc32fast::hash(body).to_le_bytes();
        bytes[at + 4..at + 8].copy_from_slice(&crc);
        at += 8 + length;
    }
}

/// Counts by what the events say.
fn fold(all: &[(u64, std::sync::Arc<[Event]>)]) -> TaskCounts {
    let mut states: BTreeMap<TaskId, TaskState> = BTreeMap::new();
    for event in all.iter().flat_map(|(_, events)| events.iter()) {
        match *event {
            Event::TasksSubmitted { first, count } => {
                states.extend((first.0..first.0 + count).map(|id| (TaskId(id), TaskState::Pending)));
            }
            Event::TaskAssigned { task, .. } => drop(states.insert(task, TaskState::Scheduled)),
            Event::TaskStarted { task, .. } => drop(states.insert(task, TaskState::Running)),
            Event::TaskFinished { task, state, .. } => drop(states.insert(task, state)),
            Event::TaskRetrying { task, .. } => drop(states.insert(task, TaskState::Retrying)),
            _ => {}
        }
    }
    let count = |state| states.values().filter(|other| **other == state).count() as u64;
    TaskCounts {
        // The end of a backoff is no event: both wait.
        pending: count(TaskState::Pending) + count(TaskState::Retrying),
        scheduled: count(TaskState::Scheduled),
        running: count(TaskState::Running),
        retrying: 0,
        succeeded: count(TaskState::Succeeded) + count(TaskState::Failed) + count(TaskState::Cancelled),
        failed: 0,
        cancelled: 0,
        submitted_total: states.len() as u64,
        finished_total: states.values().filter(|state| state.is_finished()).count() as u64,
    }
}

/// Finished ones that were trimmed count as kept: the fold knows no difference.
fn unkept(counts: TaskCounts) -> TaskCounts {
    TaskCounts {
        pending: counts.pending + counts.retrying,
        retrying: 0,
        succeeded: counts.finished_total,
        failed: 0,
        cancelled: 0,
        ..counts
    }
}

/// One word for each reply, event and effect.
fn names(applied: Applied) -> Vec<String> {
    let word = |text: String| text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned();
    let reply = |reply| match reply {
        Reply::Rejected(rejection) => word(format!("{rejection:?}")),
        Reply::Reported { ignored } => format!("Reported{ignored}"),
        other => word(format!("{other:?}")),
    };
    let event = |event: &Event| match event {
        Event::AttemptEnded { outcome, .. } => format!("Ended{outcome:?}"),
        Event::TaskFinished { state, .. } => format!("{state:?}"),
        Event::WorkerChanged { change, .. } => format!("Worker{}", word(format!("{change:?}"))),
        Event::WorkerLoad { level, .. } => format!("Load{level:?}"),
        other => word(format!("{other:?}")),
    };
    let effects = applied.effects.iter().map(|effect| word(format!("{effect:?}")));
    applied.events.iter().map(event).chain(effects).chain(applied.replies.into_iter().map(reply)).collect()
}

/// The random histories reach what they are meant to reach: every event, every reply, every refusal, every state.
#[test]
fn random_histories_reach_everything() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..150 {
        let rounds = rounds(30..60).new_tree(&mut runner).unwrap().current();
        let mut node = Node::default();
        for round in &rounds {
            let batch = batch(&mut node, round);
            let applied = apply(&mut node.state, node.index, round, &batch);
            for name in names(applied) {
                *seen.entry(name).or_default() += 1;
            }
        }
    }
    let wanted = [
        "Submitted",
        "Cancelled",
        "Retried",
        "SessionOpened",
        "Worker",
        "Reported0",
        "Reported1",
        "Reported2",
        "WorkerNotFound",
        "DuplicateWorker",
        "StaleIncarnation",
        "LimitExceeded",
        "Precondition",
        "OldReign",
        "Invalid",
        "TasksSubmitted",
        "TaskAssigned",
        "TaskStarted",
        "TaskRetrying",
        "TasksTrimmed",
        "LeaderElected",
        "MembershipChanged",
        "EndedSucceeded",
        "EndedExited",
        "EndedSignaled",
        "EndedTimedOut",
        "EndedCannotStart",
        "EndedHandlerError",
        "EndedWorkerLost",
        "EndedCancelled",
        "EndedDeadline",
        "EndedPartitionStop",
        "EndedWorkerShutdown",
        "Succeeded",
        "Failed",
        "Cancelled",
        "WorkerRegistered",
        "WorkerResumed",
        "WorkerDisconnected",
        "WorkerMode",
        "WorkerConfig",
        "WorkerOffline",
        "LoadUnder",
        "LoadNormal",
        "LoadOver",
        "StartRun",
        "CancelRun",
        "PushConfig",
        "ShutdownWorker",
        "EndSession",
    ];
    println!("{seen:?}");
    let missing: Vec<_> = wanted.iter().filter(|name| seen.get(**name).is_none_or(|count| *count < 3)).collect();
    assert!(missing.is_empty(), "never seen (or hardly): {missing:?}");
}
