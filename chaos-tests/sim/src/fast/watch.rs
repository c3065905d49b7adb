//! The witness on each master: hears every applied entry and compares it with what the others applied.
//!
//! What always holds: each index is one term and one list of events, on every master, for ever; digests at equal indexes are
//! equal; a term has one leader; a master's own indexes have no holes; the state's invariants hold. What differs is a problem
//! of the run at the moment in which it is seen.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use steersman_evidence::record::{Digest, Installed, Leads, Record};
use steersman_raft_store::{ApplyObserver, SharedState};
use steersman_state::effect::{Applied, Event, WorkerChange};
use steersman_state::worker::OfflineReason;

use super::hub::Hub;

/// The invariants of the whole state are checked at each so manieth index of a master: O(n) each time.
const CHECK_EVERY: u64 = 16;
/// Digests are compared at these indexes: O(n) too.
const DIGEST_EVERY: u64 = 64;

/// What was committed, as the first master that applied it told.
#[derive(Default)]
pub struct Truth {
    entries: Mutex<BTreeMap<u64, (u64, Arc<[Event]>)>>,
    digests: Mutex<BTreeMap<u64, u128>>,
    leaders: Mutex<BTreeMap<u64, u64>>,
}

impl Truth {
    /// The highest index that any master ever applied.
    pub fn highest(&self) -> u64 {
        self.entries.lock().last_key_value().map_or(0, |(index, _)| *index)
    }

    /// Terms that had a leader.
    pub fn terms(&self) -> u64 {
        self.leaders.lock().len() as u64
    }
}

/// Hears what one life of a master applies.
pub struct Witness {
    hub: Arc<Hub>,
    id: u64,
    /// Set once the store is open.
    pub state: OnceLock<SharedState>,
    last: Mutex<Option<u64>>,
}

impl Witness {
    /// Of master `id`.
    pub fn new(hub: Arc<Hub>, id: u64) -> Arc<Self> {
        Arc::new(Self { hub, id, state: OnceLock::new(), last: Mutex::new(None) })
    }

    /// This master leads this term.
    pub fn leads(&self, term: u64) {
        let known = self.hub.truth.leaders.lock().insert(term, self.id);
        let id = self.id;
        match known {
            None => {
                self.hub.journal.count("election");
                let at_us = self.hub.journal.now_us();
                self.hub.journal.push(Record::Leads(Leads { at_us, master: id, term }));
            }
            Some(other) if other != id => {
                self.hub.journal.problem(format!("term {term} has two leaders: m{other} and m{id}"));
            }
            Some(_) => {}
        }
    }

    /// Compares the state's digest at its index with the others', now.
    pub fn compare(&self) {
        let Some(state) = self.state.get() else { return };
        let (index, digest) = {
            let state = state.read();
            (state.applied_index(), state.digest())
        };
        let known = *self.hub.truth.digests.lock().entry(index).or_insert(digest);
        let (at_us, master) = (self.hub.journal.now_us(), self.id);
        let digest_text = format!("{digest:032x}");
        self.hub.journal.push(Record::Digest(Digest { at_us, master, index, digest: digest_text }));
        if known != digest {
            self.hub.journal.problem(format!("m{master} differs from another master at index {index}"));
        }
        self.hub.journal.count("digest compared");
    }

    fn check(&self) {
        let Some(state) = self.state.get() else { return };
        let checked = state.read().check();
        if let Err(violation) = checked {
            self.hub.journal.problem(format!("m{}: {violation}", self.id));
        }
    }

    fn entry(&self, index: u64, term: u64, events: &Arc<[Event]>) {
        let mut entries = self.hub.truth.entries.lock();
        let first = !entries.contains_key(&index);
        let (known_term, known_events) = entries.entry(index).or_insert_with(|| (term, events.clone())).clone();
        drop(entries);
        let id = self.id;
        if known_term != term {
            let what = format!(
                "entry {index} is of term {term} on m{id} and of term {known_term} elsewhere: a committed entry vanished"
            );
            self.hub.journal.problem(what);
        } else if known_events != *events {
            let what = format!("entry {index} brought other events on m{id}: {events:?} instead of {known_events:?}");
            self.hub.journal.problem(what);
        }
        if first {
            self.count(events);
        }
    }

    fn count(&self, events: &[Event]) {
        for event in events {
            match event {
                Event::WorkerChanged { change: WorkerChange::Offline(OfflineReason::LeaseExpired), .. } => {
                    self.hub.journal.count("lease expiry");
                }
                Event::TaskAssigned { .. } => self.hub.journal.count("assignment"),
                Event::TaskRetrying { .. } => self.hub.journal.count("retry"),
                Event::TaskFinished { .. } => self.hub.journal.count("task finished"),
                _ => {}
            }
        }
    }
}

impl ApplyObserver for Witness {
    fn applied(&self, index: u64, term: u64, applied: &Applied) {
        let last = self.last.lock().replace(index);
        if let Some(last) = last.filter(|last| last + 1 != index) {
            self.hub.journal.problem(format!("m{} applied {index} after {last}", self.id));
        }
        self.entry(index, term, &applied.events);
        if index % CHECK_EVERY == self.id % CHECK_EVERY {
            self.check();
        }
        if index.is_multiple_of(DIGEST_EVERY) {
            self.compare();
        }
    }

    fn installed(&self, index: u64) {
        *self.last.lock() = Some(index);
        if self.state.get().is_none() {
            return; // its own snapshot, at the start
        }
        self.hub.journal.count("snapshot install");
        let at_us = self.hub.journal.now_us();
        self.hub.journal.push(Record::Installed(Installed { at_us, master: self.id, index }));
        self.check();
        self.compare();
    }
}
