//! Directed links between places, and what the weather does to messages on them.
//!
//! What always holds: a message's fate is drawn from the seed when it is sent; a cut drops it silently, as a dead cable
//! does. Weather is a set of faults in force, each with the links that it concerns; healing is taking it out again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use steersman_world::{Entropy as _, SeededEntropy};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Where a process is: masters 1.., workers 1001.., clients 2001...
pub type Place = u64;

/// A lost segment is sent again after so long, where a connection carries it.
const RETRANSMIT: Duration = Duration::from_millis(200);

/// Which links a fault concerns.
#[derive(Debug, Clone)]
pub enum Which {
    /// All of them.
    All,
    /// These.
    Pairs(BTreeSet<(Place, Place)>),
}

/// What happens there.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// Nothing passes.
    Cut,
    /// So many ms more, drawn anew for each message.
    Delay(u64, u64),
    /// So many of a thousand are lost.
    Loss(u64),
    /// So many of a thousand arrive twice, the second time up to a second later.
    Twice(u64),
    /// So many of a thousand are held back and overtaken.
    Reorder(u64),
}

/// What becomes of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Dropped by a cut.
    Cut,
    /// Lost on the way.
    Lost,
    /// Arrives after so long; perhaps once more after so long.
    Arrives(Duration, Option<Duration>),
}

/// All links.
pub struct Links {
    faults: Mutex<BTreeMap<u64, (Which, Trouble)>>,
    numbers: SeededEntropy,
}

impl Which {
    fn has(&self, from: Place, to: Place) -> bool {
        match self {
            Self::All => true,
            Self::Pairs(pairs) => pairs.contains(&(from, to)),
        }
    }
}

impl Links {
    /// Fair weather.
    pub fn new(seed: u64) -> Self {
        Self { faults: Mutex::default(), numbers: SeededEntropy::new(seed) }
    }

    /// A fault comes into force under a number of the caller's.
    pub fn trouble(&self, number: u64, which: Which, trouble: Trouble) {
        self.faults.lock().insert(number, (which, trouble));
    }

    /// It is healed.
    pub fn heal(&self, number: u64) {
        self.faults.lock().remove(&number);
    }

    /// Whether messages pass from one place to another.
    pub fn open(&self, from: Place, to: Place) -> bool {
        !self.faults.lock().values().any(|(which, trouble)| matches!(trouble, Trouble::Cut) && which.has(from, to))
    }

    /// Draws what becomes of a message.
    pub fn fate(&self, from: Place, to: Place) -> Fate {
        let mut delay = self.numbers.below(5).div_ceil(3);
        let mut again = None;
        let (mut lost, mut cut) = (false, false);
        for (which, trouble) in self.faults.lock().values().filter(|(which, _)| which.has(from, to)) {
            let _ = which;
            match *trouble {
                Trouble::Cut => cut = true,
                Trouble::Delay(least, most) => delay += least + self.numbers.below(most - least + 1),
                Trouble::Loss(share) => lost |= self.numbers.below(1_000) < share,
                Trouble::Twice(share) if self.numbers.below(1_000) < share => {
                    again = Some(Duration::from_millis(1 + self.numbers.below(1_000)));
                }
                Trouble::Reorder(share) if self.numbers.below(1_000) < share => delay += 5 + self.numbers.below(60),
                Trouble::Twice(_) | Trouble::Reorder(_) => {}
            }
        }
        match (cut, lost) {
            (true, _) => Fate::Cut,
            (_, true) => Fate::Lost,
            _ => Fate::Arrives(Duration::from_millis(delay), again),
        }
    }

    /// Carries one message: returns when it arrives, or false at once if it never does.
    pub async fn carry(&self, from: Place, to: Place) -> bool {
        match self.fate(from, to) {
            Fate::Cut | Fate::Lost => false,
            Fate::Arrives(after, _) => {
                if !after.is_zero() {
                    tokio::time::sleep(after).await;
                }
                self.open(from, to)
            }
        }
    }
}

struct Flow<T> {
    queue: VecDeque<(Instant, T)>,
    /// Nothing that is sent arrives any more, and nobody is told: as after a cut.
    silent: bool,
    closed: bool,
    last: Option<Instant>,
}

/// One direction of a connection: in order, nothing lost but by a cut, which ends it without telling the other side.
pub struct Pipe<T> {
    links: Arc<Links>,
    from: Place,
    to: Place,
    flow: Arc<(Mutex<Flow<T>>, Notify)>,
}

/// Where a pipe comes out.
pub struct Mouth<T>(Arc<(Mutex<Flow<T>>, Notify)>);

/// A pipe and its end.
pub fn pipe<T>(links: Arc<Links>, from: Place, to: Place) -> (Pipe<T>, Mouth<T>) {
    let flow = Flow { queue: VecDeque::new(), silent: false, closed: false, last: None };
    let flow = Arc::new((Mutex::new(flow), Notify::new()));
    (Pipe { links, from, to, flow: flow.clone() }, Mouth(flow))
}

impl<T> Pipe<T> {
    /// Puts something on its way. False if the other end is gone.
    pub fn send(&self, item: T) -> bool {
        let mut flow = self.flow.0.lock();
        if flow.closed {
            return false;
        }
        let after = match self.links.fate(self.from, self.to) {
            Fate::Cut => {
                flow.silent = true;
                return true;
            }
            Fate::Lost => RETRANSMIT,
            Fate::Arrives(after, _) => after,
        };
        if flow.silent {
            return true;
        }
        let arrives = flow.last.map_or(Instant::now() + after, |last| last.max(Instant::now() + after));
        flow.last = Some(arrives);
        flow.queue.push_back((arrives, item));
        drop(flow);
        self.flow.1.notify_one();
        true
    }
}

impl<T> Drop for Pipe<T> {
    fn drop(&mut self) {
        self.flow.0.lock().closed = true;
        self.flow.1.notify_one();
    }
}

impl<T> Drop for Mouth<T> {
    fn drop(&mut self) {
        self.0.0.lock().closed = true;
    }
}

impl<T> Mouth<T> {
    /// The next that arrives; `None` once the sender is gone and everything has arrived.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            let head = {
                let flow = self.0.0.lock();
                match flow.queue.front() {
                    Some((arrives, _)) => Some(*arrives),
                    None if flow.closed => return None,
                    None => None,
                }
            };
            match head {
                Some(arrives) if arrives <= Instant::now() => {
                    return self.0.0.lock().queue.pop_front().map(|(_, item)| item);
                }
                Some(arrives) => tokio::time::sleep_until(arrives).await,
                None => self.0.1.notified().await,
            }
        }
    }
}
