//! The plan: which pending task goes to which worker next.
//!
//! Tasks are grouped by what they require. Per class there is an ordered queue and the set of workers that can take one
//! more task of it right now, least loaded first; of all classes that have both, the best head goes first. So a class that
//! no worker can serve holds up nobody else, and one placement costs O(log n) for each class that its worker serves.
//!
//! What always holds: all of it is derived from the tables and can be rebuilt; class numbers never reach a reply, an
//! event or a snapshot.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{TaskId, WorkerId};
use crate::ranges::Ranges;
use crate::registry::{Registry, Worker};
use crate::task::TaskSpec;
use crate::worker::{Labels, Resources};

/// Classes that unfinished tasks may have: a worker's change touches each class that it serves.
pub(crate) const CLASSES_MAX: u64 = 1_000;
/// Unused classes are kept up to this many in all, for building one anew asks every worker.
const CLASSES_KEPT: usize = 64;

/// What a task asks of its worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Requirements {
    pub labels: Labels,
    pub resources: Resources,
}

/// Number of a class. Means nothing outside of the plan that gave it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassId(u32);

#[derive(Debug, Clone, Default)]
struct Class {
    needs: Arc<Requirements>,
    /// Unfinished tasks.
    users: u64,
    queue: Ranges,
    /// Workers that can take one more, least loaded first.
    fit: BTreeSet<(u64, WorkerId)>,
    /// Its entry in `Plan::runnable`.
    runnable: Option<(Reverse<i32>, TaskId)>,
}

/// How a worker stands in the `fit` sets.
#[derive(Debug, Clone, Default)]
struct Indexed {
    ratio: Option<u64>,
    classes: Vec<ClassId>,
}

/// All classes. The one without requirements is always there, as number 0.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    classes: Vec<Option<Class>>,
    vacant: Vec<ClassId>,
    by_needs: BTreeMap<Arc<Requirements>, ClassId>,
    /// Classes with unfinished tasks.
    in_use: u64,
    /// Heads of the classes that have a task and a worker.
    runnable: BTreeSet<(Reverse<i32>, TaskId, ClassId)>,
    workers: BTreeMap<WorkerId, Indexed>,
}

/// A task and the worker that gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pick {
    pub class: ClassId,
    pub priority: i32,
    pub task: TaskId,
    pub worker: WorkerId,
}

impl Default for Plan {
    fn default() -> Self {
        let (any, none) = (Class::default(), ClassId(0));
        let by_needs = BTreeMap::from([(any.needs.clone(), none)]);
        let classes = vec![Some(any)];
        let (vacant, runnable, workers) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        Self { classes, vacant, by_needs, in_use: 0, runnable, workers }
    }
}

impl Plan {
    /// The best task that some worker can take now, and the least loaded such worker.
    pub fn next(&self) -> Option<Pick> {
        let &(Reverse(priority), task, class) = self.runnable.first()?;
        let &(_, worker) = self.class(class)?.fit.first()?;
        #[cfg(feature = "seeded-bugs")]
        let worker = self.any_fit(class).unwrap_or(worker);
        Some(Pick { class, priority, task, worker })
    }

    /// Some worker that fits, by the order of a hash that is seeded anew each time.
    #[cfg(feature = "seeded-bugs")]
    #[allow(clippy::disallowed_types)]
    fn any_fit(&self, class: ClassId) -> Option<WorkerId> {
        let fit: std::collections::HashSet<_> = self.class(class)?.fit.iter().map(|&(_, worker)| worker.0).collect();
        let any = fit.into_iter().next().map(WorkerId);
        any.filter(|_| steersman_bugs::planted("apply-by-hash-order"))
    }

    /// What tasks of a class ask for.
    pub fn needs(&self, class: ClassId) -> Arc<Requirements> {
        self.class(class).map(|class| class.needs.clone()).unwrap_or_default()
    }

    /// How many classes would be in use, were tasks of these specs added.
    pub fn in_use_with<'a>(&self, specs: impl Iterator<Item = &'a TaskSpec>) -> u64 {
        let mut new = BTreeSet::new();
        for spec in specs {
            let needs = requirements(spec);
            let known = self.by_needs.get(&needs).and_then(|&id| self.class(id));
            if known.is_none_or(|class| class.users == 0) {
                new.insert(needs);
            }
        }
        self.in_use + new.len() as u64
    }

    /// The class of a spec, with `count` more unfinished tasks.
    pub fn enter(&mut self, spec: &TaskSpec, count: u64, registry: &Registry) -> ClassId {
        let id = self.intern(spec, registry);
        if let Some(class) = self.class_mut(id) {
            let unused = class.users == 0;
            class.users += count;
            self.in_use += u64::from(unused);
        }
        id
    }

    /// One unfinished task less.
    pub fn leave(&mut self, id: ClassId) {
        let Some(class) = self.class_mut(id) else { return };
        class.users = class.users.saturating_sub(1);
        if class.users > 0 {
            return;
        }
        self.in_use = self.in_use.saturating_sub(1);
        if id != ClassId(0) && self.by_needs.len() > CLASSES_KEPT {
            self.forget_class(id);
        }
    }

    /// Tasks `first..=last` wait.
    pub fn push(&mut self, id: ClassId, priority: i32, first: TaskId, last: TaskId) {
        if let Some(class) = self.class_mut(id) {
            class.queue.insert(priority, first.0, last.0);
            self.refresh(id);
        }
    }

    /// A task waits no longer.
    pub fn remove(&mut self, id: ClassId, priority: i32, task: TaskId) {
        if let Some(class) = self.class_mut(id) {
            class.queue.remove(priority, task.0);
            self.refresh(id);
        }
    }

    /// How many of its class go before it.
    pub fn ahead(&self, id: ClassId, priority: i32, task: TaskId) -> u64 {
        self.class(id).map_or(0, |class| class.queue.rank(priority, task.0))
    }

    /// A worker is new, or its labels or resources changed.
    pub fn rematch(&mut self, worker: &Worker) {
        self.forget_worker(worker.id);
        let ids = (0..).map(ClassId).zip(&self.classes);
        let serves = |class: &Class| worker.matches(&class.needs);
        let classes = ids.filter(|(_, class)| class.as_ref().is_some_and(serves)).map(|(id, _)| id).collect();
        self.workers.insert(worker.id, Indexed { ratio: None, classes });
        self.update(worker);
    }

    /// A worker's slots, mode or connection changed.
    pub fn update(&mut self, worker: &Worker) {
        let ratio = worker.takes_work().then(|| worker.ratio());
        let Some(indexed) = self.workers.get_mut(&worker.id) else { return };
        let old = std::mem::replace(&mut indexed.ratio, ratio);
        let classes = std::mem::take(&mut indexed.classes);
        for &id in &classes {
            let Some(class) = self.classes.get_mut(id.0 as usize).and_then(Option::as_mut) else { continue };
            if let Some(old) = old {
                class.fit.remove(&(old, worker.id));
            }
            if let Some(ratio) = ratio.filter(|_| worker.has_free(&class.needs)) {
                class.fit.insert((ratio, worker.id));
            }
            self.refresh(id);
        }
        if let Some(indexed) = self.workers.get_mut(&worker.id) {
            indexed.classes = classes;
        }
    }

    /// A worker left the registry.
    pub fn forget_worker(&mut self, worker: WorkerId) {
        let Some(Indexed { ratio: Some(ratio), classes }) = self.workers.remove(&worker) else { return };
        for id in classes {
            if let Some(class) = self.class_mut(id) {
                class.fit.remove(&(ratio, worker));
                self.refresh(id);
            }
        }
    }

    fn class(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(id.0 as usize)?.as_ref()
    }

    fn class_mut(&mut self, id: ClassId) -> Option<&mut Class> {
        self.classes.get_mut(id.0 as usize)?.as_mut()
    }

    /// Brings a class's entry in `runnable` up to date.
    fn refresh(&mut self, id: ClassId) {
        let Some(class) = self.classes.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        let head = if class.fit.is_empty() { None } else { class.queue.first() };
        if head == class.runnable {
            return;
        }
        if let Some((priority, task)) = std::mem::replace(&mut class.runnable, head) {
            self.runnable.remove(&(priority, task, id));
        }
        if let Some((priority, task)) = head {
            self.runnable.insert((priority, task, id));
        }
    }

    fn intern(&mut self, spec: &TaskSpec, registry: &Registry) -> ClassId {
        if spec.require_labels.is_empty() && spec.require_resources.is_empty() {
            return ClassId(0);
        }
        let needs = requirements(spec);
        if let Some(&id) = self.by_needs.get(&needs) {
            return id;
        }
        let needs = Arc::new(needs);
        let id = self.vacant.pop().unwrap_or(ClassId(self.classes.len() as u32));
        let mut class = Class { needs: needs.clone(), ..Class::default() };
        for (worker, indexed) in &mut self.workers {
            let Some(worker) = registry.get(*worker).filter(|worker| worker.matches(&needs)) else { continue };
            indexed.classes.push(id);
            // With the ratio that it is indexed by: an update that is still to come removes it by that.
            if let Some(ratio) = indexed.ratio.filter(|_| worker.has_free(&needs)) {
                class.fit.insert((ratio, worker.id));
            }
        }
        self.by_needs.insert(needs, id);
        match self.classes.get_mut(id.0 as usize) {
            Some(vacant) => *vacant = Some(class),
            None => self.classes.push(Some(class)),
        }
        id
    }

    fn forget_class(&mut self, id: ClassId) {
        let Some(class) = self.classes.get_mut(id.0 as usize).and_then(Option::take) else { return };
        self.by_needs.remove(&class.needs);
        self.workers.values_mut().for_each(|indexed| indexed.classes.retain(|&other| other != id));
        self.vacant.push(id);
    }

    /// The same plan, whatever its classes are numbered: for comparing it with a rebuilt one.
    pub fn canonical(&self) -> impl PartialEq + std::fmt::Debug + '_ {
        let used = self.classes.iter().flatten().filter(|class| class.users > 0);
        let classes: BTreeMap<_, _> =
            used.map(|class| (&class.needs, (class.users, &class.queue, &class.fit, class.runnable))).collect();
        let runnable: Vec<_> = self.runnable.iter().map(|&(priority, task, _)| (priority, task)).collect();
        let ratios: Vec<_> = self.workers.iter().map(|(id, indexed)| (*id, indexed.ratio)).collect();
        (classes, runnable, ratios, self.in_use)
    }
}

/// An empty map costs nothing to clone.
fn requirements(spec: &TaskSpec) -> Requirements {
    Requirements { labels: spec.require_labels.clone(), resources: normal(&spec.require_resources) }
}

/// Nothing of something is no requirement.
fn normal(resources: &Resources) -> Resources {
    resources.iter().filter(|(_, need)| **need > 0).map(|(key, need)| (key.clone(), *need)).collect()
}
