//! The plan against a naive one: priority first, first in first out within, least loaded worker, nobody starved by a task
//! that can't run, nobody overcommitted.
#![allow(clippy::unwrap_used)]

mod common;

use std::cmp::Reverse;

use common::{Node, ended, hello, spec};
use proptest::prelude::*;
use steersman_state::*;

#[derive(Debug, Clone)]
enum Step {
    Submit { zone: Option<u8>, gpus: u8, priority: i8, count: u8 },
    Worker { zone: u8, gpus: u8, capacity: u8 },
    End(u8),
    Mode { worker: u8, active: bool },
    Capacity { worker: u8, capacity: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let zone = prop_oneof![Just(None), (0..3u8).prop_map(Some)];
    let step = prop_oneof![
        4 => (zone, 0..4u8, -1..2i8, 1..6u8)
            .prop_map(|(zone, gpus, priority, count)| Step::Submit { zone, gpus, priority, count }),
        2 => (0..2u8, 0..4u8, 1..5u8).prop_map(|(zone, gpus, capacity)| Step::Worker { zone, gpus, capacity }),
        6 => any::<u8>().prop_map(Step::End),
        1 => (0..6u8, any::<bool>()).prop_map(|(worker, active)| Step::Mode { worker, active }),
        1 => (0..6u8, 1..6u8).prop_map(|(worker, capacity)| Step::Capacity { worker, capacity }),
    ];
    prop::collection::vec(step, 1..60)
}

fn command(node: &Node, step: &Step, workers: &mut u8) -> Command {
    match step {
        Step::Submit { zone, gpus, priority, count } => {
            let mut spec = spec("t");
            spec.priority = (*priority).into();
            spec.require_labels.extend(zone.map(|zone| ("zone".to_owned(), zone.to_string())));
            spec.require_resources.insert("gpu".into(), (*gpus).into());
            common::submit(spec, (*count).into())
        }
        Step::Worker { zone, gpus, capacity } => {
            *workers += 1;
            let mut ask = hello(*workers, 1, (*capacity).into(), vec![]);
            ask.labels.insert("zone".into(), zone.to_string());
            ask.resources.insert("gpu".into(), (*gpus).into());
            Command::OpenSession(ask)
        }
        Step::End(pick) => {
            let (tasks, _) = node.state.list_tasks(&TaskFilter::default(), None, false, 10_000);
            let open: Vec<_> = tasks.iter().filter(|task| task.state == TaskState::Scheduled).collect();
            let Some(task) = open.get(usize::from(*pick) % open.len().max(1)) else { return Command::Tick };
            let attempt = task.attempts.last().unwrap();
            let news = News::Ended(ended(Outcome::Succeeded, 0));
            let reports = vec![common::report(attempt.token, task.id, news)];
            Command::Reports { worker: attempt.worker, incarnation: 1, reports }
        }
        Step::Mode { worker, active } => {
            let mode = if *active { WorkerMode::Active } else { WorkerMode::Maintenance };
            Command::SetWorkerMode { worker: WorkerRef::Id(WorkerId((*worker).into())), mode, deadline_ms: 0 }
        }
        Step::Capacity { worker, capacity } => Command::SetWorkerConfig {
            worker: WorkerRef::Id(WorkerId((*worker).into())),
            capacity: Some((*capacity).into()),
            heartbeat_ms: None,
            set_labels: Labels::new(),
            remove_labels: vec![],
        },
    }
}

fn fits(worker: &WorkerView, spec: &TaskSpec) -> bool {
    let zone = spec.require_labels.iter().all(|(key, value)| worker.labels.get(key) == Some(value));
    let gpu = |of: &Resources| of.get("gpu").copied().unwrap_or(0);
    let room = gpu(&worker.resources_used) + gpu(&spec.require_resources) <= gpu(&worker.resources);
    worker.mode == WorkerMode::Active && worker.used < worker.capacity && zone && room
}

/// Which task goes to which worker, in order: by looking at everybody every time.
fn naive(mut tasks: Vec<TaskView>, mut workers: Vec<WorkerView>) -> Vec<(TaskId, WorkerId)> {
    tasks.sort_by_key(|task| (Reverse(task.spec.priority), task.id));
    let mut placed = Vec::new();
    for task in tasks {
        let able = workers.iter_mut().filter(|worker| fits(worker, &task.spec));
        // Compared as fractions, exactly.
        let best = able.min_by(|a, b| {
            let (left, right) = (a.used * b.capacity, b.used * a.capacity);
            left.cmp(&right).then(a.id.cmp(&b.id))
        });
        let Some(worker) = best else { continue };
        worker.used += 1;
        for (key, need) in &task.spec.require_resources {
            *worker.resources_used.entry(key.clone()).or_default() += need;
        }
        placed.push((task.id, worker.id));
    }
    placed
}

/// Applies the command to a copy that places nothing: its workers are all in maintenance for that moment.
fn unplaced(node: &Node, command: &Command) -> (Vec<TaskView>, Vec<WorkerView>) {
    let mut copy = common::reread(&node.state);
    let stamp = node.log.last().map(|(_, batch)| batch.stamp);
    let stamp = stamp.unwrap_or(Stamp { term: 1, leader: MasterId(1), time_ms: 1_000, wall_ms: 0, entropy: 0 });
    let (before, _) = copy.list_workers(None, 1_000);
    let all = |mode| before.iter().map(move |worker| (worker.id, mode));
    let mode = |(id, mode)| Command::SetWorkerMode { worker: WorkerRef::Id(id), mode, deadline_ms: 0 };
    let mut commands: Vec<_> = all(WorkerMode::Maintenance).map(mode).collect();
    commands.push(command.clone());
    let fresh = WorkerRef::Name(match command {
        Command::OpenSession(ask) => ask.name.clone(),
        _ => String::new(),
    });
    commands.push(Command::SetWorkerMode { worker: fresh, mode: WorkerMode::Maintenance, deadline_ms: 0 });
    if let Command::SetWorkerMode { .. } = command {
        commands.retain(|other| other != command);
    }
    let commands = commands.into_iter().map(|command| Envelope { request: None, command }).collect();
    copy.apply(node.index + 1, &Batch { stamp, commands });
    let modes: std::collections::BTreeMap<_, _> = before.iter().map(|worker| (worker.id, worker.mode)).collect();
    let (mut workers, _) = copy.list_workers(None, 1_000);
    for worker in &mut workers {
        worker.mode = modes.get(&worker.id).copied().unwrap_or(WorkerMode::Active);
        if let Command::SetWorkerMode { worker: WorkerRef::Id(id), mode, .. } = command
            && *id == worker.id
        {
            worker.mode = *mode;
        }
    }
    let filter = TaskFilter { states: vec![TaskState::Pending], ..TaskFilter::default() };
    (copy.list_tasks(&filter, None, false, 10_000).0, workers)
}

proptest! {
    #![proptest_config(common::cases(2))]

    #[test]
    fn the_plan_equals_the_naive_one(steps in steps()) {
        let (mut node, mut workers) = (Node::default(), 0);
        for step in &steps {
            let command = command(&node, step, &mut workers);
            let (tasks, fleet) = unplaced(&node, &command);
            let wanted = naive(tasks, fleet);
            let applied = node.apply(vec![command]);
            let placed: Vec<_> = applied.events.iter().filter_map(|event| match *event {
                Event::TaskAssigned { task, worker, .. } => Some((task, worker)),
                _ => None,
            }).collect();
            prop_assert_eq!(placed, wanted, "after {:?}", step);
        }
    }
}

#[test]
fn a_task_that_cannot_run_holds_up_nobody() {
    let mut node = Node::default();
    let mut greedy = spec("needs a gpu");
    greedy.priority = 1_000;
    greedy.require_resources.insert("gpu".into(), 1);
    let blocked = node.submit(greedy, 1_000);
    let plain = node.submit(spec("plain"), 2);
    let worker = node.open(hello(1, 1, 2, vec![])).worker;
    assert_eq!(node.task_state(blocked), TaskState::Pending);
    assert_eq!(node.state.counts().scheduled, 2);
    node.end(worker, 1, plain, ended(Outcome::Succeeded, 0));
    let why = node.state.explain(TaskId(500)).unwrap();
    assert_eq!((why.ahead_in_queue, why.reasons[0].reason, why.reasons[0].workers), (499, "resource", 1));
}

#[test]
fn different_requirements_are_bounded() {
    let mut node = Node::default();
    let zone = |n: u32| {
        let mut spec = spec("t");
        spec.require_labels.insert("zone".into(), n.to_string());
        TaskGroup { spec: std::sync::Arc::new(spec), count: 1 }
    };
    let full = node.one(Command::Submit { groups: (0..1_000).map(zone).collect() });
    assert!(matches!(full, Reply::Submitted { count: 1_000, .. }), "{full:?}");
    let again = node.one(Command::Submit { groups: vec![zone(7)] });
    assert!(matches!(again, Reply::Submitted { .. }), "{again:?}");
    let over = node.one(Command::Submit { groups: vec![zone(1_000)] });
    assert!(matches!(over, Reply::Rejected(Rejection::LimitExceeded { .. })), "{over:?}");
    node.one(Command::Cancel { tasks: vec![TaskId(1)] });
    let room = node.one(Command::Submit { groups: vec![zone(1_000)] });
    assert!(matches!(room, Reply::Submitted { .. }), "{room:?}");
}
