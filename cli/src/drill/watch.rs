//! Watches the cluster while it is drilled: every master's own word every few ms, and the event stream.
//!
//! What always holds: it only looks; what it sees is in the history; it ends when it is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use steersman_client::v1::{InfoResponse, MasterRole, event::Kind as Wire};
use steersman_client::{Client, EventItem, EventsFrom};
use tokio::task::JoinSet;

use super::history::{Recorder, Sighting};
use crate::views;

/// Between two looks at a master: well under the fastest takeover.
const EVERY: Duration = Duration::from_millis(10);
/// A look that takes longer was in vain.
const ANSWER_MAX: Duration = Duration::from_millis(250);
/// So many looks in vain, one after the other, and a master is silent: on a busy machine one says nothing. A refusal says it at once.
const MISSES: u32 = 2;

/// What each master said last.
type Latest = Arc<Mutex<BTreeMap<u64, Sighting>>>;

/// Looks on until it is dropped.
pub struct Watch {
    latest: Latest,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Begins. `masters` are ids and addresses; `workers` names by id; events come from after log index `from`.
    pub fn start(
        client: &Client,
        masters: &[(u64, String)],
        workers: BTreeMap<u64, String>,
        from: u64,
        recorder: &Recorder,
    ) -> Self {
        let (latest, led, mut tasks) = (Latest::default(), Arc::default(), JoinSet::new());
        for (id, address) in masters {
            let looker = Looker {
                id: *id,
                // Its own deadline would look like a refusal.
                client: client.only(address).with_timeout(ANSWER_MAX * 4),
                address: address.clone(),
                recorder: recorder.clone(),
                latest: latest.clone(),
                led: Arc::clone(&led),
            };
            tasks.spawn(looker.run());
        }
        tasks.spawn(follow(client.clone(), workers, from, recorder.clone()));
        Self { latest, _tasks: tasks }
    }

    /// The master that leads and can serve, if one other than `former` does; the newest term wins.
    pub fn leader(&self) -> Option<Sighting> {
        let latest = self.latest.lock();
        latest.values().filter(|seen| seen.role == "leader" && seen.ready).max_by_key(|seen| seen.term).cloned()
    }
}

struct Looker {
    id: u64,
    client: Client,
    address: String,
    recorder: Recorder,
    latest: Latest,
    /// Masters and terms that were seen to lead.
    led: Arc<Mutex<BTreeSet<(u64, u64)>>>,
}

impl Looker {
    async fn run(self) {
        // When the first of the looks in vain began, and how many there were.
        let mut missed = None;
        loop {
            let began_us = self.recorder.now_us();
            let asked = tokio::time::timeout(ANSWER_MAX, self.client.info()).await;
            let in_time = self.recorder.now_us() - began_us < ANSWER_MAX.as_micros() as u64;
            match asked {
                Ok(Ok(info)) => {
                    missed = None;
                    self.note(self.sighting(&info));
                }
                _ => {
                    let (since_us, misses) = missed.unwrap_or((began_us, 0));
                    missed = Some((since_us, misses + 1));
                    // A channel that ran out of time may be wedged.
                    self.client.drop_channel(&self.address);
                    if in_time || misses + 1 >= MISSES {
                        self.note(Sighting {
                            at_us: since_us,
                            master: self.id,
                            role: "silent".to_owned(),
                            term: 0,
                            ready: false,
                        });
                    }
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    fn sighting(&self, info: &InfoResponse) -> Sighting {
        let (at_us, master) = (self.recorder.now_us(), self.id);
        let term = info.leader.as_ref().map_or(0, |leader| leader.term);
        Sighting { at_us, master, role: views::master_role(info.role), term, ready: info.ready }
    }

    fn note(&self, seen: Sighting) {
        let changed = {
            let mut latest = self.latest.lock();
            let told = |old: &Sighting| (old.role.clone(), old.term, old.ready);
            let changed = latest.get(&self.id).is_none_or(|old| told(old) != told(&seen));
            latest.insert(self.id, seen.clone());
            changed
        };
        if changed {
            let first = seen.role == views::master_role(MasterRole::Leader as i32)
                && self.led.lock().insert((self.id, seen.term));
            self.recorder.sighted(seen, first);
        }
    }
}

async fn follow(client: Client, mut workers: BTreeMap<u64, String>, from: u64, recorder: Recorder) {
    loop {
        let mut stream = client.events(EventsFrom::Index(from + 1), true);
        while let Some(item) = stream.next().await {
            match item {
                Ok(EventItem::Batch(batch)) => {
                    for kind in batch.events.iter().filter_map(|event| event.kind.as_ref()) {
                        note_worker(kind, &mut workers, &recorder);
                    }
                    recorder.arrived(batch);
                }
                Ok(EventItem::Gap { from, to }) => recorder.gap(from, to),
                Ok(EventItem::Lost { master, why, .. }) => recorder.note(format!("event stream: lost {master}: {why}")),
                Ok(EventItem::Reconnected { master, .. }) => recorder.note(format!("event stream: now from {master}")),
                Ok(EventItem::Progress { .. }) => {}
                Err(error) => return recorder.note(format!("event stream: {}", error.message())),
            }
        }
    }
}

/// Counts a worker that was declared lost though nobody had touched it.
fn note_worker(kind: &Wire, workers: &mut BTreeMap<u64, String>, recorder: &Recorder) {
    let Wire::WorkerChanged(change) = kind else { return };
    if !change.name.is_empty() {
        workers.insert(change.worker_id, change.name.clone());
    }
    let name = workers.get(&change.worker_id).map_or("", String::as_str);
    if change.change == "lost" && !recorder.live().struck.lock().contains(name) {
        recorder.live().false_lost.fetch_add(1, Ordering::Relaxed);
    }
}
