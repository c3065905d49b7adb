//! A model fleet against the state: effects, reports and sessions get lost at random, workers and leaders die, and in the
//! end everything finishes, because what still matters is in `outstanding()` and in what workers hold.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Node, ended, hello, report, spec};
use proptest::prelude::*;
use steersman_state::*;

const WORKERS: u8 = 4;

/// What a worker process knows: the attempts that it has and how they ended, until that is acknowledged.
#[derive(Default)]
struct Hand {
    incarnation: u64,
    alive: bool,
    id: Option<WorkerId>,
    /// Token to task and, once it is over, its end.
    held: BTreeMap<Token, (TaskId, Option<Ended>)>,
}

/// The cluster, its fleet, and the dice.
struct World {
    node: Node,
    hands: Vec<Hand>,
    dice: u64,
    /// Out of 100, how many messages are lost.
    loss: u64,
    /// Effects of `apply` are lost altogether: only what is outstanding is delivered.
    mute: bool,
    /// How often each attempt was begun by a worker.
    begun: BTreeMap<Token, u32>,
}

impl World {
    fn new(seed: u64, loss: u64) -> Self {
        let hands = (0..WORKERS).map(|_| Hand { incarnation: 1, alive: true, ..Hand::default() }).collect();
        Self { node: Node::default(), hands, dice: seed | 1, loss, mute: false, begun: BTreeMap::new() }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    fn lost(&mut self) -> bool {
        self.roll(100) < self.loss
    }

    fn do_it(&mut self, command: Command) -> Reply {
        let applied = self.node.apply(vec![command]);
        if !self.mute {
            self.deliver(applied.effects);
        }
        applied.replies.into_iter().next().unwrap()
    }

    /// Effects reach the workers, or do not.
    fn deliver(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if self.lost() {
                continue;
            }
            match effect {
                Effect::StartRun(run) => self.start(&run),
                Effect::CancelRun { worker, token } => self.stop(worker, token),
                _ => {}
            }
        }
    }

    fn hand(&mut self, worker: WorkerId) -> Option<&mut Hand> {
        self.hands.iter_mut().find(|hand| hand.alive && hand.id == Some(worker))
    }

    fn start(&mut self, run: &Run) {
        let other = |hand: &&Hand| hand.id != Some(run.worker);
        let others = self.hands.iter().filter(other).flat_map(|hand| hand.held.values());
        let twice = others.filter(|(task, end)| *task == run.task && end.is_none()).count();
        assert!(twice == 0 || run.spec.on_partition == OnPartition::Continue, "task {} runs twice at a time", run.task);
        let Some(hand) = self.hand(run.worker) else { return };
        if hand.held.contains_key(&run.token) {
            return;
        }
        hand.held.insert(run.token, (run.task, None));
        *self.begun.entry(run.token).or_default() += 1;
    }

    /// Cut off: what must never run twice at a time is stopped before the lease is over.
    fn obey_contracts(&mut self, n: usize) {
        for (task, end) in self.hands[n].held.values_mut() {
            if self.node.state.task(*task).is_some_and(|task| task.spec.on_partition == OnPartition::Stop) {
                end.get_or_insert_with(|| ended(Outcome::PartitionStop, 0));
            }
        }
    }

    fn stop(&mut self, worker: WorkerId, token: Token) {
        let Some(hand) = self.hand(worker) else { return };
        // Also if it never came: then that is the news.
        let (_, end) = hand.held.entry(token).or_insert((TaskId(0), None));
        end.get_or_insert_with(|| ended(Outcome::Cancelled, 0));
    }

    /// A worker's session begins again. Its leader sends what is outstanding.
    fn resume(&mut self, n: usize) {
        let hand = &self.hands[n];
        if !hand.alive {
            return;
        }
        let held = hand.held.keys().copied().collect();
        let ask = hello(n as u8 + 1, hand.incarnation, 3, held);
        let reply = self.do_it(Command::OpenSession(ask));
        let Reply::SessionOpened(opened) = reply else { panic!("{reply:?}") };
        let hand = &mut self.hands[n];
        hand.id = Some(opened.worker);
        for token in opened.drop {
            hand.held.remove(&token);
        }
        let outstanding = self.node.state.outstanding(opened.worker);
        self.deliver(outstanding);
    }

    /// What runs gets on; what is over is reported, again and again until that is acknowledged.
    fn work(&mut self, n: usize) {
        let Some(worker) = self.hands[n].id.filter(|_| self.hands[n].alive) else { return };
        let running: Vec<_> =
            self.hands[n].held.iter().map(|(token, (task, end))| (*token, *task, end.clone())).collect();
        let mut reports = Vec::new();
        for (token, task, end) in running {
            match (end, self.roll(4)) {
                (Some(end), _) => reports.push(report(token, task, News::Ended(end))),
                (None, 0) => reports.push(report(token, task, News::Started)),
                (None, 1 | 2) => {
                    let good = self.roll(5) > 0;
                    let end = if good { ended(Outcome::Succeeded, 0) } else { ended(Outcome::Exited, 3) };
                    self.hands[n].held.insert(token, (task, Some(end)));
                }
                (None, _) => {}
            }
        }
        if reports.is_empty() || self.lost() {
            return;
        }
        let over: Vec<_> =
            reports.iter().filter(|it| matches!(it.news, News::Ended(_))).map(|report| report.token).collect();
        let incarnation = self.hands[n].incarnation;
        self.do_it(Command::Reports { worker, incarnation, reports });
        if !self.lost() {
            over.iter().for_each(|token| drop(self.hands[n].held.remove(token)));
        }
    }

    /// Something goes wrong, or somebody wants something.
    fn trouble(&mut self) {
        let n = self.roll(u64::from(WORKERS)) as usize;
        let known = self.hands[n].id.and_then(|id| self.node.state.worker(id));
        match (self.roll(12), known) {
            (0, _) => {
                // A new leader, which nobody told anything.
                self.node.term += 1;
                self.do_it(Command::BeginReign);
            }
            (1, Some(known)) => {
                let (worker, incarnation, session) = (known.id, known.incarnation, known.session);
                self.do_it(Command::CloseSession { worker, incarnation, session });
            }
            (2, Some(known)) => {
                let (worker, incarnation, session) = (known.id, known.incarnation, known.session);
                self.obey_contracts(n);
                self.do_it(Command::WorkerLost { worker, incarnation, session });
            }
            (3, _) => {
                // The process dies with all that it held, and another follows.
                let hand = &mut self.hands[n];
                hand.incarnation += 1;
                hand.held.clear();
            }
            (4, _) => {
                // Restarts and still knows some of its children.
                self.hands[n].incarnation += 1;
                let mut odd = false;
                self.hands[n].held.retain(|_, _| {
                    odd = !odd;
                    odd
                });
            }
            (5 | 6, _) => {
                let task = TaskId(1 + self.roll(self.node.state.last_task_id().0.max(1)));
                self.do_it(Command::Cancel { tasks: vec![task] });
            }
            (7, Some(known)) => {
                let (worker, mode) = (WorkerRef::Id(known.id), WorkerMode::Drain);
                self.do_it(Command::SetWorkerMode { worker, mode, deadline_ms: 500 });
            }
            (8, Some(known)) => {
                let (worker, mode) = (WorkerRef::Id(known.id), WorkerMode::Active);
                self.do_it(Command::SetWorkerMode { worker, mode, deadline_ms: 0 });
            }
            (_, _) => self.resume(n),
        }
    }

    fn tick(&mut self, ms: u64) {
        let effects = self.node.pass(ms).effects;
        self.deliver(effects);
    }

    /// A new leader finds everything in the state: sessions resume, effects of `apply` are all lost, and only what
    /// `outstanding()` lists reaches the workers.
    fn finish(&mut self) {
        self.node.term += 1;
        self.node.apply(vec![Command::BeginReign]);
        (self.loss, self.mute) = (0, true);
        for n in 0..self.hands.len() {
            self.resume(n);
            let worker = WorkerRef::Id(self.hands[n].id.unwrap());
            self.do_it(Command::SetWorkerMode { worker, mode: WorkerMode::Active, deadline_ms: 0 });
        }
        for _ in 0..400 {
            if self.node.state.counts().unfinished() == 0 && self.hands.iter().all(|hand| hand.held.is_empty()) {
                return;
            }
            for n in 0..self.hands.len() {
                let outstanding = self.node.state.outstanding(self.hands[n].id.unwrap());
                self.deliver(outstanding);
                self.work(n);
            }
            self.node.pass(10_000);
        }
        panic!("not finished: {:?}\n{:?}", self.node.state.counts(), self.node.state.list_workers(None, 9));
    }
}

fn some_spec(kind: u64) -> TaskSpec {
    let mut spec = spec("t");
    spec.max_attempts = 1 + (kind % 5) as u32;
    spec.priority = (kind % 3) as i32;
    spec.retry_on.any_failure = kind.is_multiple_of(2);
    if kind.is_multiple_of(3) {
        spec.on_partition = OnPartition::Stop;
    }
    spec.deadline_ms = if kind.is_multiple_of(7) { 60_000 } else { 0 };
    spec
}

proptest! {
    #![proptest_config(common::cases(2))]

    #[test]
    fn p01_p03_p04_p09_lost_effects_are_outstanding_and_everything_finishes(seed in any::<u64>(), loss in 0..70u64) {
        let mut world = World::new(seed, loss);
        (0..usize::from(WORKERS)).for_each(|n| world.resume(n));
        for _ in 0..60 {
            match world.roll(8) {
                0 => {
                    let (kind, count) = (world.roll(64), 1 + world.roll(6) as u32);
                    world.do_it(common::submit(some_spec(kind), count));
                }
                1 => world.trouble(),
                2 => {
                    let ms = world.roll(2_000);
                    world.tick(ms);
                }
                n => world.work(n as usize % usize::from(WORKERS)),
            }
        }
        world.finish();
        // p03: no worker ever began one attempt twice, and each task has one outcome.
        prop_assert!(world.begun.values().all(|times| *times == 1));
        let mut outcomes = BTreeMap::<TaskId, u32>::new();
        for entry in world.node.state.events_from(1, usize::MAX).entries {
            for event in entry.events.iter() {
                if let Event::TaskFinished { task, .. } = event {
                    *outcomes.entry(*task).or_default() += 1;
                }
            }
        }
        prop_assert!(outcomes.values().all(|count| *count == 1));
        prop_assert_eq!(outcomes.len() as u64, world.node.state.last_task_id().0);
        for worker in world.node.state.list_workers(None, 9).0 {
            prop_assert_eq!(worker.used, 0, "a slot leaked");
        }
    }
}
