//! Makes the weather come true: begins each storm at its time, ends it at its time, and starts again whatever stopped.
//!
//! What always holds: every fault that begins is recorded, and so is its end; [`Nemesis::heal`] ends all of them. A master that was
//! wiped is never let back in by itself, only replaced by the operator.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::time::Duration;

use steersman_evidence::record::{Phase, Reach, Record};
use steersman_raft_store::{CrashMode, MemDisk};
use steersman_world::{Entropy as _, SeededEntropy};

use super::cast::{Masters, Setting, Stand, host_master};
use super::clients::Wishes;
use super::links::{Links, Wish};
use super::operator::Errand;
use crate::weather::Storm;

/// How long a supervisor waits before it starts a node again that stopped by itself.
const RESTART_AFTER_MS: u64 = 700;
/// The exit code of a master whose data are not those that the cluster knows (`EX_FOREIGN`).
const EX_FOREIGN: i32 = 75;
/// Exit codes with which a master may end under the faults that are simulated: its disk refused, or it was refused.
const EXPECTED: [i32; 2] = [74, EX_FOREIGN];
/// Masters that a run adds, at most: ids are never used twice.
const ADDED_MAX: u64 = 4;
/// Links slower than this may cost a worker its lease.
const DRIFT_PPM_MAX: u64 = 20_000;

/// A storm that rages.
struct Raging {
    storm: Storm,
    id: u64,
    target: String,
    undo: Undo,
}

/// What ends it, besides its links.
enum Undo {
    Nothing,
    StartMasters(Vec<u64>),
    StartWorker(u64),
    Thaw(String),
    TrueClocks,
    MendDisk(u64),
    Mode(String),
    Flap { side: Vec<String>, rest: Vec<String> },
    Rolling { left: VecDeque<u64>, down: Option<u64> },
    Replace(u64),
}

/// The one who does it.
pub struct Nemesis {
    stand: Stand,
    masters: Masters,
    wishes: Wishes,
    plan: VecDeque<Storm>,
    raging: Vec<Raging>,
    links: Links,
    /// How many faults freeze a host, and the number under which its links are held.
    frozen: BTreeMap<String, (u64, u64)>,
    workers_down: BTreeMap<u64, u64>,
    disks: BTreeMap<u64, u64>,
    down: BTreeMap<u64, u64>,
    restarts: BTreeMap<u64, u64>,
    reach: BTreeMap<u64, bool>,
    next_id: u64,
    added: u64,
    replacing: bool,
}

impl Nemesis {
    /// With a plan.
    pub fn new(stand: &Stand, masters: &Masters, wishes: &Wishes, plan: Vec<Storm>) -> Self {
        Self {
            stand: stand.clone(),
            masters: masters.clone(),
            wishes: wishes.clone(),
            plan: plan.into(),
            raging: Vec::new(),
            links: Links::default(),
            frozen: BTreeMap::new(),
            workers_down: BTreeMap::new(),
            disks: BTreeMap::new(),
            down: BTreeMap::new(),
            restarts: BTreeMap::new(),
            reach: BTreeMap::new(),
            next_id: 0,
            added: 0,
            replacing: false,
        }
    }

    /// One step of time.
    pub fn step(&mut self, sim: &mut turmoil::Sim<'_>) {
        let now_ms = self.stand.recorder.now_us() / 1_000;
        while self.plan.front().is_some_and(|storm| storm.from_ms <= now_ms) {
            if let Some(storm) = self.plan.pop_front() {
                self.begin(sim, storm);
            }
        }
        let (over, raging): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.raging).into_iter().partition(|raging| raging.storm.to_ms <= now_ms);
        self.raging = raging;
        for raging in over {
            self.end(sim, raging);
        }
        self.go_on(sim, now_ms);
        self.look_after_masters(sim, now_ms);
        self.tell_reach();
    }

    /// Ends everything now and plans nothing more.
    pub fn heal(&mut self, sim: &mut turmoil::Sim<'_>) {
        self.plan.clear();
        for raging in std::mem::take(&mut self.raging) {
            self.end(sim, raging);
        }
    }

    fn begin(&mut self, sim: &mut turmoil::Sim<'_>, storm: Storm) {
        let numbers = storm.numbers();
        self.next_id += 1;
        let id = self.next_id;
        match self.strike(sim, id, &storm, &numbers) {
            Some((target, undo)) => {
                self.stand.recorder.fault(storm.class, &target, Phase::Began);
                self.raging.push(Raging { storm, id, target, undo });
            }
            None => self.stand.recorder.note("nemesis", format!("nobody to hit with {}", storm.class)),
        }
    }

    fn end(&mut self, sim: &mut turmoil::Sim<'_>, raging: Raging) {
        self.links.forget(sim, raging.id);
        match raging.undo {
            Undo::Nothing | Undo::Flap { .. } => {}
            Undo::StartMasters(ids) => ids.into_iter().for_each(|id| self.start_master(sim, id)),
            Undo::StartWorker(id) => self.start_worker(sim, id),
            Undo::Thaw(host) => self.thaw(sim, &host),
            Undo::TrueClocks => self.drift(|| 0),
            Undo::MendDisk(id) => self.mend_disk(id),
            Undo::Mode(worker) => self.errand(Errand::Mode(worker, "active")),
            Undo::Rolling { down, .. } => down.into_iter().for_each(|id| self.start_master(sim, id)),
            Undo::Replace(old) => self.replace(sim, old),
        }
        self.stand.recorder.fault(raging.storm.class, &raging.target, Phase::Ended);
    }

    fn strike(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        id: u64,
        storm: &Storm,
        numbers: &SeededEntropy,
    ) -> Option<(String, Undo)> {
        match storm.class {
            "kill" | "kill-several" | "power-loss" | "power-loss-all" | "torn-write" | "rolling-restart" => {
                self.strike_processes(sim, storm.class, numbers)
            }
            "partition" | "partition-one-sided" | "leader-isolated" | "bridge" | "flapping" | "delay" | "stall" => {
                self.strike_links(sim, id, storm.class, numbers)
            }
            "slow-disk" | "stalled-disk" | "failed-sync" | "full-disk" => self.strike_disk(storm.class, numbers),
            "pause" | "clock-jump" | "clock-drift" => self.strike_time(sim, storm.class, numbers),
            "step-down" | "membership" | "wipe" | "worker-mode" | "flood" => {
                self.strike_by_order(sim, storm.class, numbers)
            }
            _ => self.strike_worker(sim, id, storm.class, numbers),
        }
    }

    /// Masters that belong to the cluster and run.
    fn up(&self) -> Vec<u64> {
        let masters = self.masters.borrow();
        let here = masters.iter().filter(|(id, master)| {
            !master.gone && !master.wiped && !master.parked && !self.down.contains_key(id) && master.exit.is_none()
        });
        here.map(|(id, _)| *id).collect()
    }

    fn leader(&self) -> Option<u64> {
        let masters = self.masters.borrow();
        let reigns = masters.iter().filter_map(|(id, master)| Some((master.node.as_ref()?.reign()?.term, *id)));
        reigns.max().map(|(_, id)| id).filter(|id| self.up().contains(id))
    }

    /// The leader half of the time, anybody else otherwise.
    fn victim(&self, numbers: &SeededEntropy) -> Option<u64> {
        let up = self.up();
        match self.leader() {
            Some(leader) if numbers.below(2) == 0 => Some(leader),
            _ => pick(&up, numbers).copied(),
        }
    }

    fn hosts_of_masters(&self) -> Vec<String> {
        self.masters.borrow().iter().filter(|(_, master)| !master.gone).map(|(id, _)| format!("m{id}")).collect()
    }

    fn everybody(&self) -> Vec<String> {
        let mut all = self.hosts_of_masters();
        all.extend((1..=self.stand.setting.workers).map(|id| format!("w{id}")));
        all.extend(super::CALLERS.iter().map(|name| (*name).to_owned()));
        all
    }
}

/// What dies, and how.
impl Nemesis {
    fn strike_processes(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        class: &str,
        numbers: &SeededEntropy,
    ) -> Option<(String, Undo)> {
        let up = self.up();
        let victims: Vec<u64> = match class {
            "power-loss-all" => up,
            "kill-several" => up.into_iter().filter(|_| numbers.below(3) > 0).collect(),
            "rolling-restart" => return Some(("all".to_owned(), Undo::Rolling { left: up.into(), down: None })),
            _ => self.victim(numbers).into_iter().collect(),
        };
        if victims.is_empty() {
            return None;
        }
        for id in &victims {
            let disk = self.disk(*id);
            let mode = crash_mode(class, &disk, numbers);
            self.kill_master(sim, *id, mode, class.starts_with("power") || class == "torn-write");
        }
        Some((names(&victims), Undo::StartMasters(victims)))
    }

    /// A process that is killed closes its connections; a machine that loses power just falls silent.
    fn kill_master(&mut self, sim: &mut turmoil::Sim<'_>, id: u64, mode: CrashMode, silent: bool) {
        *self.down.entry(id).or_default() += 1;
        let host = format!("m{id}");
        let others: Vec<String> = self.everybody().into_iter().filter(|other| *other != host).collect();
        let silence = u64::MAX - id;
        if silent {
            let mut wish = Wish::default();
            wish.cut(std::slice::from_ref(&host), &others);
            self.links.wish(sim, silence, wish);
        }
        self.thaw_all(sim, &host);
        sim.crash(host.as_str());
        self.links.forget(sim, silence);
        if let Some(master) = self.masters.borrow_mut().get_mut(&id) {
            (master.node, master.exit) = (None, None);
            master.disk.crash(mode);
        }
        self.restarts.remove(&id);
        self.stand.recorder.note(host, format!("is down ({mode:?})"));
    }

    fn start_master(&mut self, sim: &mut turmoil::Sim<'_>, id: u64) {
        let Some(times) = self.down.get_mut(&id) else { return };
        *times -= 1;
        if *times > 0 {
            return;
        }
        self.down.remove(&id);
        self.restart(sim, id);
    }

    fn restart(&mut self, sim: &mut turmoil::Sim<'_>, id: u64) {
        let runs = self.masters.borrow_mut().get_mut(&id).is_some_and(|master| {
            (master.node, master.exit, master.parked) = (None, None, false);
            !master.gone
        });
        if runs {
            sim.bounce(format!("m{id}"));
            self.stand.recorder.note(format!("m{id}"), "starts");
        }
    }

    fn disk(&self, id: u64) -> MemDisk {
        self.masters.borrow().get(&id).map(|master| master.disk.clone()).unwrap_or_default()
    }

    /// What a supervisor does: a master that stopped by itself is started again after a while; removed ones are switched off.
    fn look_after_masters(&mut self, sim: &mut turmoil::Sim<'_>, now_ms: u64) {
        let seen: Vec<(u64, Option<i32>, bool, bool)> = {
            let masters = self.masters.borrow();
            let of = |(id, master): (&u64, &super::cast::Master)| {
                (*id, master.exit.as_ref().map(|exit| exit.code), master.wiped, master.gone && !master.parked)
            };
            masters.iter().map(of).collect()
        };
        for (id, exit, wiped, switch_off) in seen {
            if switch_off {
                self.park(sim, id);
            } else if let Some(code) = exit
                && !self.restarts.contains_key(&id)
                && !self.down.contains_key(&id)
            {
                self.stopped_by_itself(sim, id, code, wiped);
                self.restarts.insert(id, now_ms + RESTART_AFTER_MS);
            }
        }
        let due: Vec<u64> = self.restarts.iter().filter(|(_, at)| **at <= now_ms).map(|(id, _)| *id).collect();
        for id in due {
            self.restarts.remove(&id);
            if !self.down.contains_key(&id) {
                self.restart(sim, id);
            }
        }
    }

    fn stopped_by_itself(&mut self, sim: &mut turmoil::Sim<'_>, id: u64, code: i32, wiped: bool) {
        self.stand.recorder.count(&format!("masters stopped with {code}"));
        if !EXPECTED.contains(&code) || (code == EX_FOREIGN && !wiped) {
            self.stand.recorder.problem(format!("m{id} stopped by itself with exit code {code}"));
        }
        // Its process is gone, whatever it has not synced may be too, and its connections are closed.
        let exit = self.masters.borrow().get(&id).and_then(|master| master.exit.clone());
        self.park(sim, id);
        if let Some(master) = self.masters.borrow_mut().get_mut(&id) {
            master.disk.crash(CrashMode::LoseUnsynced);
            master.exit = exit;
        }
    }

    fn park(&mut self, sim: &mut turmoil::Sim<'_>, id: u64) {
        let host = format!("m{id}");
        self.thaw_all(sim, &host);
        if let Some(master) = self.masters.borrow_mut().get_mut(&id) {
            (master.node, master.parked) = (None, true);
        }
        sim.bounce(host);
    }
}

/// What happens on the network.
impl Nemesis {
    fn strike_links(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        id: u64,
        class: &str,
        numbers: &SeededEntropy,
    ) -> Option<(String, Undo)> {
        let (all, masters) = (self.everybody(), self.hosts_of_masters());
        let mut wish = Wish::default();
        let holds = numbers.below(2) == 0;
        let mut undo = Undo::Nothing;
        let target = match class {
            "leader-isolated" => {
                let leader = vec![format!("m{}", self.leader()?)];
                let from: &[String] = if numbers.below(3) == 0 { &masters } else { &all };
                if holds {
                    wish.hold(&leader, from)
                } else {
                    wish.cut(&leader, from)
                }
                leader[0].clone()
            }
            "bridge" => {
                let bridge = numbers.below(masters.len() as u64) as usize;
                let (left, right) = halves(&masters, bridge);
                wish.cut(&left, &right);
                format!("{}|{}|{}", left.join(","), masters[bridge], right.join(","))
            }
            "delay" => {
                let (one, ms) = (format!("m{}", self.victim(numbers)?), 20 + numbers.below(400));
                let whom: &[String] = if numbers.below(3) == 0 { &masters } else { std::slice::from_ref(&one) };
                wish.delay(whom, &all, ms);
                format!("{} by up to {ms} ms", whom.join(","))
            }
            _ => {
                let (side, rest) = split(&all, &masters, numbers);
                match class {
                    "partition-one-sided" => wish.cut_one_way(&side, &rest),
                    "stall" => wish.hold(&side, &rest),
                    _ if holds => wish.hold(&side, &rest),
                    _ => wish.cut(&side, &rest),
                }
                let name = format!("{}|{}", side.join(","), rest.join(","));
                if class == "flapping" {
                    undo = Undo::Flap { side, rest };
                }
                name
            }
        };
        self.links.wish(sim, id, wish);
        Some((target, undo))
    }

    /// What changes within a storm: flapping links, the next master of a rolling restart.
    fn go_on(&mut self, sim: &mut turmoil::Sim<'_>, now_ms: u64) {
        let mut raging = std::mem::take(&mut self.raging);
        for one in &mut raging {
            let since = now_ms.saturating_sub(one.storm.from_ms);
            match &mut one.undo {
                Undo::Flap { side, rest } if since % 400 == 0 => {
                    let mut wish = Wish::default();
                    if since / 400 % 2 == 0 {
                        wish.hold(side, rest);
                    }
                    self.links.wish(sim, one.id, wish);
                }
                Undo::Rolling { left, down } if since % 900 == 0 => self.roll(sim, left, down, since / 900),
                _ => {}
            }
        }
        self.raging = raging;
    }

    fn roll(&mut self, sim: &mut turmoil::Sim<'_>, left: &mut VecDeque<u64>, down: &mut Option<u64>, turn: u64) {
        if let Some(id) = down.take() {
            self.start_master(sim, id);
        } else if turn > 0
            && let Some(id) = left.pop_front()
            && self.up().contains(&id)
        {
            self.kill_master(sim, id, CrashMode::KeepBatches(usize::MAX), false);
            *down = Some(id);
        }
    }
}

/// What happens to disks and time.
impl Nemesis {
    fn strike_disk(&mut self, class: &str, numbers: &SeededEntropy) -> Option<(String, Undo)> {
        let id = self.victim(numbers)?;
        let disk = self.disk(id);
        *self.disks.entry(id).or_default() += 1;
        match class {
            "slow-disk" => disk.set_sync_delay(Duration::from_millis(20 + numbers.below(300))),
            "stalled-disk" => disk.set_sync_delay(Duration::from_millis(3_000 + numbers.below(12_000))),
            "failed-sync" => disk.set_failure(Some(ErrorKind::Other)),
            _ => disk.set_failure(Some(ErrorKind::StorageFull)),
        }
        Some((format!("m{id}"), Undo::MendDisk(id)))
    }

    fn mend_disk(&mut self, id: u64) {
        if let Some(times) = self.disks.get_mut(&id) {
            *times -= 1;
            if *times == 0 {
                self.disks.remove(&id);
                healthy(&self.disk(id), &self.stand.setting, id);
            }
        }
    }

    fn strike_time(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        class: &str,
        numbers: &SeededEntropy,
    ) -> Option<(String, Undo)> {
        let id = self.victim(numbers)?;
        let host = format!("m{id}");
        match class {
            "pause" => self.freeze(sim, &host),
            "clock-jump" => {
                let jump = numbers.below(7_200_000) as i64 - 3_600_000;
                if let Some(clock) = self.stand.hosts.clock(&host) {
                    clock.jump(jump);
                }
                return Some((format!("{host} by {jump} ms"), Undo::Nothing));
            }
            _ => {
                self.drift(|| numbers.below(2 * DRIFT_PPM_MAX) as i64 - DRIFT_PPM_MAX as i64);
                return Some(("all masters".to_owned(), Undo::TrueClocks));
            }
        }
        Some((host.clone(), Undo::Thaw(host)))
    }

    fn freeze(&mut self, sim: &mut turmoil::Sim<'_>, host: &str) {
        if let Some((times, _)) = self.frozen.get_mut(host) {
            *times += 1;
            return;
        }
        self.next_id += 1;
        self.frozen.insert(host.to_owned(), (1, self.next_id));
        self.stand.hosts.freeze(host);
        let mut wish = Wish::default();
        wish.hold(&[host.to_owned()], &self.everybody());
        self.links.wish(sim, self.next_id, wish);
    }

    fn thaw(&mut self, sim: &mut turmoil::Sim<'_>, host: &str) {
        let Some((times, _)) = self.frozen.get_mut(host) else { return };
        *times -= 1;
        if *times == 0 {
            self.thaw_all(sim, host);
        }
    }

    /// Whatever has frozen it. A process that is killed next does not go on before: nothing is polled between two steps.
    fn thaw_all(&mut self, sim: &mut turmoil::Sim<'_>, host: &str) {
        if let Some((_, hold)) = self.frozen.remove(host) {
            self.links.forget(sim, hold);
            self.stand.hosts.thaw(host);
        }
    }

    /// From now on the monotonic clocks of all masters run at rates that `ppm` draws.
    fn drift(&self, ppm: impl Fn() -> i64) {
        for host in self.hosts_of_masters() {
            if let Some(clock) = self.stand.hosts.clock(&host) {
                clock.drift(ppm());
            }
        }
    }
}

/// What operators and clients do on order.
impl Nemesis {
    fn errand(&self, errand: Errand) {
        self.wishes.errands.borrow_mut().push_back(errand);
    }

    fn strike_by_order(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        class: &str,
        numbers: &SeededEntropy,
    ) -> Option<(String, Undo)> {
        match class {
            "step-down" => {
                let to = if numbers.below(2) == 0 { 0 } else { *pick(&self.up(), numbers)? };
                self.errand(Errand::StepDown(to));
                Some((format!("to m{to}"), Undo::Nothing))
            }
            "membership" => self.change_membership(sim, numbers),
            "wipe" => self.wipe(sim, numbers),
            "worker-mode" => {
                let worker = format!("w{}", 1 + numbers.below(self.stand.setting.workers));
                let mode = if numbers.below(2) == 0 { "drain" } else { "maintenance" };
                self.errand(Errand::Mode(worker.clone(), mode));
                Some((format!("{worker} to {mode}"), Undo::Mode(worker)))
            }
            _ => {
                self.wishes.flood.set(100 + numbers.below(300) as u32);
                Some(("all".to_owned(), Undo::Nothing))
            }
        }
    }

    fn new_master(&mut self, sim: &mut turmoil::Sim<'_>) -> Option<u64> {
        if self.added >= ADDED_MAX {
            return None;
        }
        self.added += 1;
        let id = self.stand.setting.masters + self.added;
        host_master(sim, &self.stand, &self.masters, id);
        healthy(&self.disk(id), &self.stand.setting, id);
        Some(id)
    }

    /// One more voter, and another one less.
    fn change_membership(&mut self, sim: &mut turmoil::Sim<'_>, numbers: &SeededEntropy) -> Option<(String, Undo)> {
        if self.replacing || !self.wishes.errands.borrow().is_empty() {
            return None;
        }
        let old = *pick(&self.up(), numbers)?;
        let new = self.new_master(sim)?;
        self.errand(Errand::Add(new));
        self.errand(Errand::Remove(old));
        Some((format!("m{new} for m{old}"), Undo::Nothing))
    }

    /// A voter comes back without its data: it has to be refused. It is replaced when the storm is over.
    fn wipe(&mut self, sim: &mut turmoil::Sim<'_>, numbers: &SeededEntropy) -> Option<(String, Undo)> {
        let everybody_is_up = self.up().len() as u64 >= self.stand.setting.masters;
        let busy = self.wishes.busy.get() || !self.wishes.errands.borrow().is_empty();
        if self.replacing || busy || !everybody_is_up || self.added >= ADDED_MAX {
            return None;
        }
        // One that forms a cluster by itself asks first; one that was added waits to be added, and so learns nothing new.
        let initial: Vec<u64> = self.up().into_iter().filter(|id| *id <= self.stand.setting.masters).collect();
        let id = *pick(&initial, numbers)?;
        self.replacing = true;
        self.kill_master(sim, id, CrashMode::LoseUnsynced, true);
        if let Some(master) = self.masters.borrow_mut().get_mut(&id) {
            (master.disk, master.wiped) = (MemDisk::new(), true);
        }
        self.start_master(sim, id);
        Some((format!("m{id}"), Undo::Replace(id)))
    }

    fn replace(&mut self, sim: &mut turmoil::Sim<'_>, old: u64) {
        self.errand(Errand::Remove(old));
        if let Some(new) = self.new_master(sim) {
            self.errand(Errand::Add(new));
        }
        self.replacing = false;
    }
}

/// What happens to workers.
impl Nemesis {
    fn strike_worker(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        id: u64,
        class: &str,
        numbers: &SeededEntropy,
    ) -> Option<(String, Undo)> {
        let worker = 1 + numbers.below(self.stand.setting.workers);
        let host = format!("w{worker}");
        let (one, masters) = (vec![host.clone()], self.hosts_of_masters());
        let mut wish = Wish::default();
        let mut undo = Undo::Nothing;
        match class {
            "worker-kill" => {
                *self.workers_down.entry(worker).or_default() += 1;
                self.thaw_all(sim, &host);
                sim.crash(host.as_str());
                undo = Undo::StartWorker(worker);
            }
            "worker-pause" => {
                self.freeze(sim, &host);
                undo = Undo::Thaw(host.clone());
            }
            "worker-slow" => wish.delay(&one, &masters, 100 + numbers.below(1_500)),
            _ => match numbers.below(4) {
                0 => wish.cut_one_way(&one, &masters),
                1 => wish.cut_one_way(&masters, &one),
                2 => wish.hold(&one, &masters),
                _ => wish.cut(&one, &masters),
            },
        }
        self.links.wish(sim, id, wish);
        Some((host, undo))
    }

    fn start_worker(&mut self, sim: &mut turmoil::Sim<'_>, id: u64) {
        if let Some(times) = self.workers_down.get_mut(&id) {
            *times -= 1;
            if *times == 0 {
                self.workers_down.remove(&id);
                sim.bounce(format!("w{id}"));
            }
        }
    }

    /// Says of each worker whether it could keep its lease. Only what is certain counts as reachable: a healthy majority of masters
    /// that all see each other and the worker, on healthy disks.
    fn tell_reach(&mut self) {
        let healthy = |id: &u64| !self.disks.contains_key(id) && !self.frozen.contains_key(&format!("m{id}"));
        let (up, all) = (self.up(), self.hosts_of_masters().len());
        let linked = |host: &str| up.iter().all(|id| self.links.healthy(host, &format!("m{id}")));
        let majority = up.len() * 2 > all && up.iter().all(healthy) && up.iter().all(|id| linked(&format!("m{id}")));
        let seen: Vec<(u64, bool)> = (1..=self.stand.setting.workers)
            .map(|id| {
                let host = format!("w{id}");
                let runs = !self.workers_down.contains_key(&id) && !self.frozen.contains_key(&host);
                (id, majority && runs && linked(&host))
            })
            .collect();
        for (id, reachable) in seen {
            if self.reach.insert(id, reachable) != Some(reachable) {
                let (at_us, worker) = (self.stand.recorder.now_us(), format!("w{id}"));
                self.stand.recorder.push(Record::Reach(Reach { at_us, worker, reachable }));
            }
        }
    }
}

/// A disk in good order: its syncs take the time of a good one, a little more or less from node to node.
pub fn healthy(disk: &MemDisk, setting: &Setting, id: u64) {
    disk.set_failure(None);
    disk.set_sync_delay(Duration::from_millis(1 + (setting.seed ^ id) % 3));
}

fn crash_mode(class: &str, disk: &MemDisk, numbers: &SeededEntropy) -> CrashMode {
    let unsynced = disk.unsynced();
    let batches = numbers.below(unsynced.len() as u64 + 1) as usize;
    match class {
        "kill" | "kill-several" => CrashMode::KeepBatches(usize::MAX),
        "torn-write" => match unsynced.get(batches) {
            Some(changes) => CrashMode::Torn { batches, changes: numbers.below(*changes as u64 + 1) as usize },
            None => CrashMode::KeepBatches(batches),
        },
        _ if numbers.below(3) == 0 => CrashMode::KeepBatches(batches),
        _ => CrashMode::LoseUnsynced,
    }
}

fn pick<'a, T>(from: &'a [T], numbers: &SeededEntropy) -> Option<&'a T> {
    from.get(numbers.below((from.len() as u64).max(1)) as usize)
}

fn names(ids: &[u64]) -> String {
    ids.iter().map(|id| format!("m{id}")).collect::<Vec<_>>().join(",")
}

/// Everybody but the bridge, in two halves.
fn halves(masters: &[String], bridge: usize) -> (Vec<String>, Vec<String>) {
    let others: Vec<String> =
        masters.iter().enumerate().filter(|(at, _)| *at != bridge).map(|(_, m)| m.clone()).collect();
    let (left, right) = others.split_at(others.len() / 2);
    (left.to_vec(), right.to_vec())
}

/// Everybody on one of two sides, with at least one master on each.
fn split(all: &[String], masters: &[String], numbers: &SeededEntropy) -> (Vec<String>, Vec<String>) {
    let alone = numbers.below(masters.len() as u64) as usize;
    let other = (alone + 1) % masters.len();
    let side = |host: &String| {
        *host == masters[alone]
            || (*host != masters[other] && numbers.below(if host.starts_with('m') { 2 } else { 3 }) == 0)
    };
    all.iter().cloned().partition(side)
}
