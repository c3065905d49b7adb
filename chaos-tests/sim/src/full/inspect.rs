//! Looks into the masters while they run: invariants, digests, offices, snapshots taken over.
//!
//! What always holds: each log index is checked on the first master that is seen there, and each master's digest is taken at every
//! index that is a multiple of [`DIGEST_EVERY`] at which it is seen. Looking changes nothing.

use std::collections::BTreeMap;

use steersman_evidence::record::{Digest, Installed, Leads, Record};

use super::cast::{Master, Masters};
use super::recorder::Recorder;

/// Digests cost as much as writing a snapshot.
const DIGEST_EVERY: u64 = 8;

/// What was seen so far.
#[derive(Default)]
pub struct Inspector {
    applied: BTreeMap<u64, u64>,
    reign: BTreeMap<u64, u64>,
    lives: BTreeMap<u64, u64>,
    /// Where each master's newest snapshot stands, and how many it has built.
    snapshots: BTreeMap<u64, (u64, u64)>,
    checked: u64,
    digests: BTreeMap<u64, (u64, u128)>,
}

impl Inspector {
    /// Looks at all masters that run.
    pub fn look(&mut self, masters: &Masters, recorder: &Recorder) {
        for (id, master) in masters.borrow().iter() {
            if let Some(node) = &master.node {
                self.look_at(*id, master, node, recorder);
            } else {
                self.applied.remove(id);
                self.reign.remove(id);
            }
        }
    }

    fn look_at(&mut self, id: u64, master: &Master, node: &steersman_master::node::Node, recorder: &Recorder) {
        let reign = node.reign().map(|reign| reign.term);
        if let Some(term) = reign
            && self.reign.insert(id, term) != Some(term)
        {
            recorder.count("reigns");
            recorder.push(Record::Leads(Leads { at_us: recorder.now_us(), master: id, term }));
        }
        if reign.is_none() {
            self.reign.remove(&id);
        }
        let index = node.state.read().applied_index();
        let fresh = self.lives.insert(id, master.lives) != Some(master.lives);
        let before = self.applied.insert(id, index).unwrap_or(0);
        if before == index {
            return;
        }
        self.look_at_snapshots(id, fresh, node, recorder);
        if fresh {
            recorder.count("masters started");
        } else if index < before {
            recorder.problem(format!("m{id} went back from index {before} to {index} without a restart"));
        }
        if index > self.checked {
            self.checked = index;
            if let Err(violation) = node.state.read().check() {
                recorder.problem(format!("m{id} at index {index}: {violation}"));
            }
        }
        if index % DIGEST_EVERY == 0 {
            self.digest(id, index, node.state.read().digest(), recorder);
        }
    }

    /// A newer snapshot that this master has not built came from another one.
    fn look_at_snapshots(&mut self, id: u64, fresh: bool, node: &steersman_master::node::Node, recorder: &Recorder) {
        let Some(metrics) = node.store().map(|store| store.metrics()) else { return };
        let index = metrics.snapshot_index.load(std::sync::atomic::Ordering::Relaxed);
        let built = metrics.snapshot_us.count();
        let (before, built_before) = self.snapshots.insert(id, (index, built)).unwrap_or_default();
        if index > before && !fresh {
            recorder.count(if built == built_before { "snapshots installed" } else { "snapshots built" });
            if built == built_before {
                recorder.push(Record::Installed(Installed { at_us: recorder.now_us(), master: id, index }));
            }
        }
    }

    fn digest(&mut self, master: u64, index: u64, digest: u128, recorder: &Recorder) {
        let text = format!("{digest:032x}");
        recorder.push(Record::Digest(Digest { at_us: recorder.now_us(), master, index, digest: text }));
        let (other, same) = *self.digests.entry(index).or_insert((master, digest));
        if same != digest {
            recorder.problem(format!("m{master} and m{other} differ at index {index}"));
        }
    }

    /// Whether all of `ids` stand at one index with one digest, and with everything in order.
    pub fn agreed(&mut self, masters: &Masters, ids: &[u64], recorder: &Recorder) -> bool {
        let masters = masters.borrow();
        let nodes: Vec<_> = ids.iter().filter_map(|id| masters.get(id)?.node.clone().map(|node| (*id, node))).collect();
        let indexes: Vec<u64> = nodes.iter().map(|(_, node)| node.state.read().applied_index()).collect();
        if nodes.len() != ids.len() || indexes.windows(2).any(|pair| pair[0] != pair[1]) {
            return false;
        }
        for (id, node) in &nodes {
            let state = node.state.read();
            self.digest(*id, state.applied_index(), state.digest(), recorder);
            if let Err(violation) = state.check() {
                recorder.problem(format!("m{id} at the end: {violation}"));
            }
        }
        true
    }
}
