//! The worker registry: every worker that is known, and finding one by id, name or identity.
//!
//! What always holds: an offline worker holds nothing and is not connected; at most one worker of a name is not offline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{WorkerMode, WorkerRef};
use crate::effect::{LoadLevel, WorkerConfig};
use crate::ids::{TaskId, Token, WorkerId, WorkerUid};
use crate::limits::Limits;
use crate::plan::Requirements;
use crate::worker::{Labels, OfflineReason, Resources, WorkerStatus};

/// Load is compared as used * RATIO_ONE / capacity.
const RATIO_ONE: u64 = 1 << 20;

/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Worker {
    pub id: WorkerId,
    pub name: String,
    pub uid: WorkerUid,
    pub incarnation: u64,
    /// The last of this incarnation that was opened: [`crate::command::OpenSession::opening`].
    pub opening: u64,
    pub session: u64,
    pub connected: bool,
    pub host: String,
    pub port: u16,
    pub version: String,
    /// Wall time.
    pub registered_ms: u64,
    pub offered: Offered,
    pub set: Overrides,
    pub config_version: u64,
    pub resources: Resources,
    pub mode: WorkerMode,
    pub drain_at_ms: Option<u64>,
    pub shutdown: Option<bool>,
    pub offline: Option<Offline>,
    pub load: LoadLevel,
    /// Another level and since when (cluster time) it holds without being announced.
    pub load_next: Option<(LoadLevel, u64)>,
    pub open: BTreeMap<Token, Slot>,
    /// Derived from `open`.
    #[serde(skip)]
    pub resources_used: Resources,
    /// Derived from `offered` and `set`.
    #[serde(skip)]
    pub labels: Labels,
}

/// What the worker asks for itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Offered {
    pub capacity: u32,
    pub heartbeat_ms: u32,
    pub labels: Labels,
}

/// What operators have decided instead.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Overrides {
    pub capacity: Option<u32>,
    pub heartbeat_ms: Option<u32>,
    /// `None` removes a label.
    pub labels: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offline {
    pub reason: OfflineReason,
    /// Cluster time.
    pub since_ms: u64,
}

/// A slot in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Slot {
    pub task: TaskId,
    /// What it takes from the worker, also when its task is long trimmed.
    pub needs: Arc<Requirements>,
    pub wish: Wish,
}

/// What the cluster wants of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wish {
    /// That it runs.
    Run,
    /// That it stops and its task runs elsewhere, but not before its end is known: the task must never run twice at a time.
    GiveBack,
    /// That it stops: its task has no use for it any more. The slot is free when its end is reported.
    Stop,
}

impl Worker {
    pub fn used(&self) -> u32 {
        self.open.len() as u32
    }

    pub fn capacity(&self) -> u32 {
        self.set.capacity.unwrap_or(self.offered.capacity)
    }

    pub fn heartbeat_ms(&self) -> u32 {
        self.set.heartbeat_ms.unwrap_or(self.offered.heartbeat_ms)
    }

    /// Three missed heartbeats, or the limit if that is more.
    pub fn lease_ms(&self, limits: &Limits) -> u32 {
        limits.lease_ms.max(self.heartbeat_ms().saturating_mul(3))
    }

    pub fn config(&self, limits: &Limits) -> WorkerConfig {
        WorkerConfig {
            version: self.config_version,
            capacity: self.capacity(),
            heartbeat_ms: self.heartbeat_ms(),
            lease_ms: self.lease_ms(limits),
            labels: self.labels.clone(),
        }
    }

    pub fn status(&self) -> WorkerStatus {
        match self.mode {
            _ if self.offline.is_some() => WorkerStatus::Offline,
            WorkerMode::Maintenance => WorkerStatus::Maintenance,
            WorkerMode::Drain => WorkerStatus::Draining,
            WorkerMode::Active if self.shutdown.is_some() => WorkerStatus::Draining,
            WorkerMode::Active if self.used() >= self.capacity() => WorkerStatus::Busy,
            WorkerMode::Active => WorkerStatus::Online,
        }
    }

    /// May get work now, as far as slots go.
    pub fn takes_work(&self) -> bool {
        #[cfg(feature = "seeded-bugs")]
        if self.takes_work_by_mistake() {
            return true;
        }
        self.connected && self.status() == WorkerStatus::Online
    }

    #[cfg(feature = "seeded-bugs")]
    fn takes_work_by_mistake(&self) -> bool {
        let free = self.used() < self.capacity();
        match self.status() {
            WorkerStatus::Draining => self.connected && free && steersman_bugs::planted("place-on-draining"),
            WorkerStatus::Offline => free && steersman_bugs::planted("place-on-lost"),
            WorkerStatus::Busy => {
                self.connected && self.used() == self.capacity() && steersman_bugs::planted("exceed-capacity")
            }
            _ => false,
        }
    }

    /// Load against capacity: who has least gets the next task.
    pub fn ratio(&self) -> u64 {
        u64::from(self.used()) * RATIO_ONE / u64::from(self.capacity().max(1))
    }

    /// Carries what is required, were it idle.
    pub fn matches(&self, needs: &Requirements) -> bool {
        let carries = |(key, value): (&String, &String)| self.labels.get(key) == Some(value);
        needs.labels.iter().all(carries) && needs.resources.iter().all(|(key, &need)| need <= self.total(key))
    }

    /// Has the resources free now.
    pub fn has_free(&self, needs: &Requirements) -> bool {
        let taken = |key: &String| self.resources_used.get(key).copied().unwrap_or(0);
        needs.resources.iter().all(|(key, &need)| taken(key).saturating_add(need) <= self.total(key))
    }

    fn total(&self, key: &String) -> u64 {
        self.resources.get(key).copied().unwrap_or(0)
    }

    pub fn take(&mut self, token: Token, slot: Slot) {
        for (key, &need) in &slot.needs.resources {
            let used = self.resources_used.entry(key.clone()).or_default();
            *used = used.saturating_add(need);
        }
        self.open.insert(token, slot);
    }

    pub fn free(&mut self, token: Token) -> Option<Slot> {
        let slot = self.open.remove(&token)?;
        for (key, &need) in &slot.needs.resources {
            if let Some(used) = self.resources_used.get_mut(key) {
                *used = used.saturating_sub(need);
            }
        }
        self.resources_used.retain(|_, used| *used > 0);
        Some(slot)
    }

    /// Computes what is derived.
    pub fn derive(&mut self) {
        self.labels = self.offered.labels.clone();
        for (key, value) in &self.set.labels {
            match value {
                Some(value) => self.labels.insert(key.clone(), value.clone()),
                None => self.labels.remove(key),
            };
        }
        self.resources_used.clear();
        for (key, &need) in self.open.values().flat_map(|slot| &slot.needs.resources) {
            let used = self.resources_used.entry(key.clone()).or_default();
            *used = used.saturating_add(need);
        }
        self.resources_used.retain(|_, used| *used > 0);
    }
}

/// All workers.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    workers: BTreeMap<WorkerId, Arc<Worker>>,
    uids: BTreeMap<WorkerUid, WorkerId>,
    names: BTreeMap<String, BTreeSet<WorkerId>>,
}

impl Registry {
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    pub fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id).map(|worker| &**worker)
    }

    /// Not for changing a name or a uid.
    pub fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(&id).map(Arc::make_mut)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().map(|worker| &**worker)
    }

    /// After `id`, in order.
    pub fn after(&self, id: WorkerId) -> impl Iterator<Item = &Worker> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.workers.range((Excluded(id), Unbounded)).map(|(_, worker)| &**worker)
    }

    pub fn ids(&self) -> Vec<WorkerId> {
        self.workers.keys().copied().collect()
    }

    /// A consistent copy.
    pub fn image(&self) -> BTreeMap<WorkerId, Arc<Worker>> {
        self.workers.clone()
    }

    pub fn by_uid(&self, uid: &WorkerUid) -> Option<WorkerId> {
        self.uids.get(uid).copied()
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Worker> {
        self.names.get(name).into_iter().flatten().filter_map(|&id| self.get(id))
    }

    /// Who of this name is not offline.
    pub fn living(&self, name: &str) -> Option<WorkerId> {
        self.named(name).find(|worker| worker.offline.is_none()).map(|worker| worker.id)
    }

    /// By name: the one whose session is the newest.
    pub fn find(&self, worker: &WorkerRef) -> Option<WorkerId> {
        match worker {
            WorkerRef::Id(id) => self.workers.contains_key(id).then_some(*id),
            WorkerRef::Name(name) => self.named(name).max_by_key(|worker| worker.session).map(|worker| worker.id),
        }
    }

    /// Adds one. Its id and its uid must be new.
    pub fn insert(&mut self, mut worker: Worker) {
        worker.derive();
        self.uids.insert(worker.uid, worker.id);
        self.names.entry(worker.name.clone()).or_default().insert(worker.id);
        self.workers.insert(worker.id, Arc::new(worker));
    }

    pub fn rename(&mut self, id: WorkerId, name: &str) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.name != name) else { return };
        let old = std::mem::replace(&mut Arc::make_mut(worker).name, name.to_owned());
        self.unname(&old, id);
        self.names.entry(name.to_owned()).or_default().insert(id);
    }

    fn unname(&mut self, name: &str, id: WorkerId) {
        let Some(ids) = self.names.get_mut(name) else { return };
        ids.remove(&id);
        if ids.is_empty() {
            self.names.remove(name);
        }
    }

    pub fn remove(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.remove(&id) else { return };
        self.uids.remove(&worker.uid);
        self.unname(&worker.name, id);
    }

    /// Whether uids and names lead to the workers and nowhere else, and what is derived in each is right.
    pub fn indexes_hold(&self) -> bool {
        let mut fresh = Registry::default();
        self.iter().for_each(|worker| fresh.insert(worker.clone()));
        fresh.workers == self.workers && fresh.uids == self.uids && fresh.names == self.names
    }
}
