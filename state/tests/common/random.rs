//! Random histories: abstract steps that become commands against the state as it stands, hostile ones among them.

use proptest::prelude::*;
use steersman_state::*;

use super::{Node, hello, report, spec};

/// One thing that somebody tries. The numbers pick among what there is.
#[derive(Debug, Clone)]
pub enum Try {
    Submit { kind: u8, count: u8, priority: i8 },
    Cancel(Vec<u8>),
    Retry(Vec<u8>),
    Open { worker: u8, life: u8, forget: u8, capacity: u8 },
    Close { worker: u8, off: u8 },
    Lost { worker: u8, off: u8 },
    Left { worker: u8, off: u8 },
    Mode { worker: u8, mode: u8, deadline_s: u8 },
    Evict(u8),
    Config { worker: u8, capacity: u8, label: u8 },
    Shutdown { worker: u8, now: bool },
    Started { pick: u8 },
    Ended { pick: u8, how: u8 },
    Hostile { worker: u8, token: u8, task: u8, how: u8 },
    Limits { tight: bool },
    Init(u8),
    Level(u8),
    Brake { how: u8, share: u8 },
}

/// One log entry: who proposes, when, what.
#[derive(Debug, Clone)]
pub struct Round {
    /// 0 to 7: same reign, 8: a new one, 9: an old one, 10: an entry without commands, 11: membership.
    pub reign: u8,
    pub pass_ms: u16,
    /// Each with a request id (0 to 15 names one of sixteen, so that some repeat) or without.
    pub tries: Vec<(Option<u8>, Try)>,
}

pub fn rounds(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Round>> {
    let request = prop_oneof![3 => Just(None), 1 => (0..16u8).prop_map(Some)];
    let tries = prop::collection::vec((request, any_try()), 0..6);
    let pass = prop_oneof![4 => 0..50u16, 2 => 0..3_000u16, 1 => 3_000..60_000u16];
    let round = (0..12u8, pass, tries).prop_map(|(reign, pass_ms, tries)| Round { reign, pass_ms, tries });
    prop::collection::vec(round, count)
}

fn any_try() -> impl Strategy<Value = Try> {
    let ids = || prop::collection::vec(any::<u8>(), 0..4);
    prop_oneof![
        6 => (any::<u8>(), 0..8u8, -3..3i8).prop_map(|(kind, count, priority)| Try::Submit { kind, count, priority }),
        2 => ids().prop_map(Try::Cancel),
        1 => ids().prop_map(Try::Retry),
        5 => (0..5u8, 0..8u8, any::<u8>(), 0..6u8)
            .prop_map(|(worker, life, forget, capacity)| Try::Open { worker, life, forget, capacity }),
        1 => (0..5u8, 0..4u8).prop_map(|(worker, off)| Try::Close { worker, off }),
        1 => (0..5u8, 0..4u8).prop_map(|(worker, off)| Try::Lost { worker, off }),
        1 => (0..5u8, 0..4u8).prop_map(|(worker, off)| Try::Left { worker, off }),
        1 => (0..5u8, 0..3u8, 0..20u8).prop_map(|(worker, mode, deadline_s)| Try::Mode { worker, mode, deadline_s }),
        1 => (0..5u8).prop_map(Try::Evict),
        1 => (0..5u8, 0..6u8, 0..3u8).prop_map(|(worker, capacity, label)| Try::Config { worker, capacity, label }),
        1 => (0..5u8, any::<bool>()).prop_map(|(worker, now)| Try::Shutdown { worker, now }),
        6 => any::<u8>().prop_map(|pick| Try::Started { pick }),
        9 => (any::<u8>(), any::<u8>()).prop_map(|(pick, how)| Try::Ended { pick, how }),
        2 => (0..6u8, any::<u8>(), any::<u8>(), any::<u8>())
            .prop_map(|(worker, token, task, how)| Try::Hostile { worker, token, task, how }),
        1 => any::<bool>().prop_map(|tight| Try::Limits { tight }),
        1 => any::<u8>().prop_map(Try::Init),
        1 => any::<u8>().prop_map(Try::Level),
        1 => (0..6u8, any::<u8>()).prop_map(|(how, share)| Try::Brake { how, share }),
    ]
}

/// Small bounds, so that random histories meet them.
pub fn tight_limits() -> Limits {
    Limits {
        tasks_unfinished_max: 30,
        tasks_finished_kept_max: 8,
        tasks_finished_kept_ms: 40_000,
        replies_kept_max: 6,
        replies_kept_ms: 30_000,
        events_kept_max: 40,
        workers_max: 4,
        workers_offline_kept_ms: 20_000,
        capacity_max: 4,
        lease_ms: 5_000,
        attempts_kept_max: 3,
    }
}

/// A batch and how it is proposed, against the state as it stands.
pub fn batch(node: &mut Node, round: &Round) -> Batch {
    node.index += 1;
    node.time_ms += u64::from(round.pass_ms);
    if round.reign == 8 {
        node.term += 1;
    }
    let term = if round.reign == 9 { node.term.saturating_sub(1) } else { node.term };
    let state = &node.state;
    let mut commands: Vec<_> = round
        .tries
        .iter()
        .map(|(id, attempt)| Envelope { request: id.map(|id| RequestId([id; 16])), command: command(state, attempt) })
        .collect();
    if round.reign == 8 && round.pass_ms.is_multiple_of(2) {
        commands.insert(0, Envelope { request: None, command: Command::BeginReign });
    }
    // Now and then a leader whose clock lags behind.
    let time_ms = if round.pass_ms % 5 == 4 { node.time_ms / 2 } else { node.time_ms };
    let entropy = u64::from(round.pass_ms) * 7_919 + node.index;
    let stamp = Stamp { term, leader: MasterId(term % 3), time_ms, wall_ms: 1_700_000_000_000 + time_ms, entropy };
    Batch { stamp, commands }
}

fn nth_task(state: &State, pick: u8) -> TaskId {
    let last = state.last_task_id().0;
    // Mostly one of the latest; sometimes one that never was.
    TaskId((last + 2).saturating_sub(u64::from(pick) % 24))
}

/// Worker, its incarnation, token, task of some open attempt.
fn nth_open(state: &State, pick: u8) -> (WorkerId, u64, Token, TaskId) {
    let (workers, _) = state.list_workers(None, 100);
    let workers = workers.iter().filter_map(|worker| state.worker(worker.id));
    let mut open: Vec<_> =
        workers.flat_map(|w| w.attempts.clone().into_iter().map(move |token| (w.id, w.incarnation, token))).collect();
    if open.is_empty() {
        open.push((WorkerId(1), 1, Token(1)));
    }
    let (worker, incarnation, token) = open[usize::from(pick) % open.len()];
    let (tasks, _) = state.list_tasks(&TaskFilter::default(), None, false, 10_000);
    let of = |task: &&TaskView| task.attempts.iter().any(|attempt| attempt.token == token);
    (worker, incarnation, token, tasks.iter().find(of).map_or(TaskId(1), |task| task.id))
}

pub fn ended(how: u8) -> Ended {
    use Outcome::*;
    let all = [
        Succeeded,
        Succeeded,
        Exited,
        Exited,
        Signaled,
        TimedOut,
        CannotStart,
        HandlerError,
        WorkerLost,
        Cancelled,
        Deadline,
        PartitionStop,
        WorkerShutdown,
    ];
    let result = vec![how; if how > 250 { 5_000 } else { usize::from(how % 3) }];
    let message = if how > 240 { "ä".repeat(900) } else { String::new() };
    let outcome = all[usize::from(how) % all.len()];
    Ended { outcome, exit_code: i32::from(how % 3), message, result, ran_ms: how.into() }
}

fn random_spec(kind: u8, priority: i8) -> TaskSpec {
    let mut spec = spec(if kind.is_multiple_of(3) { "a" } else { "b" });
    spec.priority = if kind == 255 { 5_000 } else { priority.into() };
    spec.max_attempts = u32::from(kind % 4);
    if kind.is_multiple_of(5) {
        spec.require_labels.insert("zone".into(), if kind.is_multiple_of(2) { "a" } else { "b" }.into());
    }
    if kind.is_multiple_of(7) {
        spec.require_resources.insert("gpu".into(), u64::from(kind % 4));
    }
    spec.deadline_ms = if kind.is_multiple_of(6) { 10_000 } else { 0 };
    spec.retry_on = RetryOn {
        worker_lost: !kind.is_multiple_of(11),
        timeout: kind.is_multiple_of(2),
        any_failure: kind.is_multiple_of(4),
        exit_codes: vec![1],
    };
    if kind.is_multiple_of(13) {
        spec.on_partition = OnPartition::Stop;
    }
    if kind.is_multiple_of(9) {
        spec.backoff.initial_ms = 0;
    }
    spec
}

fn open(state: &State, worker: u8, life: u8, forget: u8, capacity: u8) -> Command {
    let known = state.find_worker(&WorkerRef::Name(format!("w{worker}"))).and_then(|id| state.worker(id));
    let (incarnation, mut held) = known.map_or((3, Vec::new()), |known| (known.incarnation, known.attempts));
    let mut place = 0;
    held.retain(|_| {
        place += 1;
        forget & (1 << (place % 8)) == 0
    });
    if forget > 200 {
        held.extend([Token(0), Token(forget.into()), Token(u64::MAX)]);
    }
    let incarnation = match life {
        0 => incarnation.saturating_sub(1),
        1 | 2 => incarnation + 1,
        _ => incarnation,
    };
    let mut ask = hello(worker, incarnation, capacity.into(), held);
    ask.uid = if forget % 23 == 7 { WorkerUid([99; 16]) } else { ask.uid };
    if worker.is_multiple_of(2) {
        ask.labels.insert("zone".into(), if worker == 0 { "a" } else { "b" }.into());
        ask.resources.insert("gpu".into(), 3);
    }
    Command::OpenSession(ask)
}

fn command(state: &State, attempt: &Try) -> Command {
    let id = |worker: &u8| WorkerId(u64::from(*worker));
    let by = |worker: u8| match worker.is_multiple_of(2) {
        true => WorkerRef::Name(format!("w{worker}")),
        false => WorkerRef::Id(WorkerId(worker.into())),
    };
    let life = |worker: WorkerId| state.worker(worker).map_or((1, 1), |known| (known.incarnation, known.session));
    match attempt {
        Try::Submit { kind, count, priority } => super::submit(random_spec(*kind, *priority), (*count).into()),
        Try::Cancel(picks) => Command::Cancel { tasks: picks.iter().map(|pick| nth_task(state, *pick)).collect() },
        Try::Retry(picks) => Command::Retry { tasks: picks.iter().map(|pick| nth_task(state, *pick)).collect() },
        Try::Open { worker, life, forget, capacity } => open(state, *worker, *life, *forget, *capacity),
        Try::Close { worker, off } => {
            let (incarnation, session) = life(id(worker));
            Command::CloseSession { worker: id(worker), incarnation, session: session - u64::from(*off == 1) }
        }
        Try::Lost { worker, off } => {
            let (incarnation, session) = life(id(worker));
            Command::WorkerLost { worker: id(worker), incarnation, session: session - u64::from(*off == 1) }
        }
        Try::Left { worker, off } => {
            let incarnation = life(id(worker)).0 + u64::from(*off == 1) - u64::from(*off == 2);
            Command::WorkerLeft { worker: id(worker), incarnation }
        }
        Try::Mode { worker, mode, deadline_s } => {
            let mode = [WorkerMode::Active, WorkerMode::Drain, WorkerMode::Maintenance][usize::from(*mode)];
            Command::SetWorkerMode { worker: by(*worker), mode, deadline_ms: u64::from(*deadline_s) * 1_000 }
        }
        Try::Evict(worker) => Command::EvictWorker { worker: by(*worker) },
        Try::Config { worker, capacity, label } => {
            let label = Labels::from([("zone".to_owned(), if *label == 0 { "a" } else { "b" }.to_owned())]);
            let (set_labels, remove_labels) =
                if *capacity > 2 { (label, vec![]) } else { (Labels::new(), vec!["zone".to_owned()]) };
            let heartbeat_ms = (*capacity == 5).then_some(4_000);
            let capacity = Some((*capacity).into());
            Command::SetWorkerConfig { worker: by(*worker), capacity, heartbeat_ms, set_labels, remove_labels }
        }
        Try::Shutdown { worker, now } => Command::ShutdownWorker { worker: by(*worker), now: *now },
        Try::Started { pick } => {
            let (worker, incarnation, token, task) = nth_open(state, *pick);
            Command::Reports { worker, incarnation, reports: vec![report(token, task, News::Started)] }
        }
        Try::Ended { pick, how } => {
            let (worker, incarnation, token, task) = nth_open(state, *pick);
            Command::Reports { worker, incarnation, reports: vec![report(token, task, News::Ended(ended(*how)))] }
        }
        Try::Hostile { worker, token, task, how } => {
            let token = Token((*token).into());
            let reports = vec![report(token, nth_task(state, *task), News::Ended(ended(*how))); 2];
            Command::Reports { worker: id(worker), incarnation: life(id(worker)).0, reports }
        }
        Try::Limits { tight } => Command::SetLimits(if *tight { tight_limits() } else { Limits::default() }),
        Try::Init(n) => {
            let limits = if *n == 0 { Limits { lease_ms: 0, ..tight_limits() } } else { tight_limits() };
            Command::InitCluster { cluster_id: format!("c{n}"), limits }
        }
        Try::Brake { how: 0, .. } => Command::EngageBrake,
        Try::Brake { how: 1 | 2, .. } => Command::ReleaseBrake,
        Try::Brake { how, share } => Command::SetBrakePolicy(BrakePolicy {
            share_percent: u32::from(*share) % 110,
            window_ms: if *how == 3 { 500 } else { u64::from(*share) * 400 },
            workers_min: u32::from(*share) % 3,
        }),
        Try::Level(n) => Command::SetFormatLevel((*n / 128).into()),
    }
}
