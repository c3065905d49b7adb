//! The least that a state needs to work: for tests of what it costs.

use steersman_state::*;

use super::{ended, hello, report};

/// One state and the index of its last entry.
#[derive(Default)]
pub struct Feed {
    pub state: State,
    pub index: u64,
}

impl Feed {
    /// Applies one entry with these commands.
    pub fn apply(&mut self, commands: Vec<Command>) -> Applied {
        let batch = self.batch(commands);
        self.state.apply(self.index, &batch)
    }

    /// The next entry.
    pub fn batch(&mut self, commands: Vec<Command>) -> Batch {
        self.index += 1;
        let stamp =
            Stamp { term: 1, leader: MasterId(1), time_ms: self.index, wall_ms: self.index, entropy: self.index };
        let commands = commands.into_iter().map(|command| Envelope { request: None, command }).collect();
        Batch { stamp, commands }
    }
}

/// So many workers introduce themselves.
pub fn workers(count: u32, capacity: u32) -> Vec<Command> {
    let open = |n: u32| {
        let mut uid = [0; 16];
        uid[..4].copy_from_slice(&n.to_le_bytes());
        Command::OpenSession(OpenSession {
            name: format!("w{n}"),
            uid: WorkerUid(uid),
            ..hello(0, 1, capacity, vec![])
        })
    };
    (0..count).map(open).collect()
}

/// The report that a run ended well.
pub fn success(effect: Effect) -> Option<Command> {
    let Effect::StartRun(run) = effect else { return None };
    let reports = vec![report(run.token, run.task, News::Ended(ended(Outcome::Succeeded, 0)))];
    Some(Command::Reports { worker: run.worker, incarnation: 1, reports })
}
