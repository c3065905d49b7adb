//! What several tests share: short ways to build commands, and a cluster of one state with its log.
#![allow(dead_code)]

pub mod feed;
pub mod random;

use std::sync::Arc;

use steersman_state::*;

/// A share of the usual number of cases (256, or what `PROPTEST_CASES` says).
pub fn cases(share: u32) -> proptest::test_runner::Config {
    let usual = proptest::test_runner::Config::default();
    proptest::test_runner::Config { cases: usual.cases / share, ..usual }
}

/// A task that runs `true` and asks for nothing.
pub fn spec(name: &str) -> TaskSpec {
    TaskSpec {
        name: name.into(),
        work: Work::Command { argv: vec!["true".into()], workdir: String::new(), stdin: Vec::new() },
        env: Labels::new(),
        require_labels: Labels::new(),
        require_resources: Resources::new(),
        priority: 0,
        timeout_ms: 0,
        deadline_ms: 0,
        max_attempts: 3,
        backoff: Backoff::default(),
        retry_on: RetryOn::default(),
        on_partition: OnPartition::Continue,
        kill_grace_ms: 5_000,
    }
}

pub fn submit(spec: TaskSpec, count: u32) -> Command {
    Command::Submit { groups: vec![TaskGroup { spec: Arc::new(spec), count }] }
}

/// Worker number `n` introduces itself.
pub fn hello(n: u8, incarnation: u64, capacity: u32, held: Vec<Token>) -> OpenSession {
    OpenSession {
        name: format!("w{n}"),
        uid: WorkerUid([n; 16]),
        incarnation,
        opening: 0,
        host: "localhost".into(),
        port: 0,
        capacity,
        labels: Labels::new(),
        resources: Resources::new(),
        heartbeat_ms: 1_000,
        version: "0.1.0".into(),
        held,
    }
}

pub fn ended(outcome: Outcome, exit_code: i32) -> Ended {
    Ended { outcome, exit_code, message: String::new(), result: Vec::new(), ran_ms: 5 }
}

pub fn report(token: Token, task: TaskId, news: News) -> Report {
    Report { token, task, news }
}

/// One state, fed like a leader would.
pub struct Node {
    pub state: State,
    pub index: u64,
    pub term: u64,
    pub time_ms: u64,
    /// The entries so far: index and batch.
    pub log: Vec<(u64, Batch)>,
}

impl Default for Node {
    fn default() -> Self {
        Self { state: State::new(), index: 0, term: 1, time_ms: 1_000, log: Vec::new() }
    }
}

impl Node {
    /// One batch without request ids.
    pub fn apply(&mut self, commands: Vec<Command>) -> Applied {
        self.apply_envelopes(commands.into_iter().map(|command| Envelope { request: None, command }).collect())
    }

    pub fn apply_envelopes(&mut self, commands: Vec<Envelope>) -> Applied {
        self.index += 1;
        let entropy = self.index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let wall_ms = 1_700_000_000_000 + self.time_ms;
        let stamp = Stamp { term: self.term, leader: MasterId(1), time_ms: self.time_ms, wall_ms, entropy };
        let batch = Batch { stamp, commands };
        let applied = self.state.apply(self.index, &batch);
        self.log.push((self.index, batch));
        if let Err(violation) = self.state.check() {
            panic!("{violation}\nafter {:?}", self.log.last());
        }
        applied
    }

    pub fn one(&mut self, command: Command) -> Reply {
        self.apply(vec![command]).replies.remove(0)
    }

    pub fn submit(&mut self, spec: TaskSpec, count: u32) -> TaskId {
        match self.one(submit(spec, count)) {
            Reply::Submitted { first, .. } => first,
            other => panic!("{other:?}"),
        }
    }

    pub fn open(&mut self, ask: OpenSession) -> SessionOpened {
        match self.one(Command::OpenSession(ask)) {
            Reply::SessionOpened(opened) => opened,
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass, with a tick at its end.
    pub fn pass(&mut self, ms: u64) -> Applied {
        self.time_ms += ms;
        self.apply(vec![Command::Tick])
    }

    /// The token of a task's last attempt.
    pub fn token(&self, task: TaskId) -> Token {
        self.state.task(task).and_then(|task| task.attempts.last().map(|attempt| attempt.token)).unwrap_or_default()
    }

    pub fn task_state(&self, task: TaskId) -> TaskState {
        self.state.task_state(task).unwrap_or_else(|| panic!("no task {task}"))
    }

    /// A worker reports the end of a task's last attempt.
    pub fn end(&mut self, worker: WorkerId, incarnation: u64, task: TaskId, ended: Ended) -> Reply {
        let reports = vec![report(self.token(task), task, News::Ended(ended))];
        self.one(Command::Reports { worker, incarnation, reports })
    }

    pub fn start(&mut self, worker: WorkerId, incarnation: u64, task: TaskId) -> Reply {
        let reports = vec![report(self.token(task), task, News::Started)];
        self.one(Command::Reports { worker, incarnation, reports })
    }
}

/// Through bytes and back.
pub fn reread(state: &State) -> State {
    let mut bytes = Vec::new();
    state.image().write(&mut bytes).unwrap();
    State::read(&mut bytes.as_slice()).unwrap()
}
