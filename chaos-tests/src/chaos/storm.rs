//! The storm: faults are put in force and taken back as the schedule says.
//!
//! What always holds: a fault is in the history from before it can be felt until after it is gone; a worker counts as unreachable
//! from before a fault that may touch it; a class that could not be installed is in the history as skipped. One hand does
//! everything to the bed, one thing after the other, while faults of different lanes are in force side by side.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use steersman_evidence::record::{Fault, Phase, Reach, Record};
use steersman_world::{Entropy as _, SeededEntropy};
use tokio::sync::watch;
use tokio::time::Instant;

use super::ground::Ground;
use super::recorder::Recorder;
use super::schedule::{Deck, Lane, Step, Test};
use super::targets::Targets;
use super::watcher::Complaints;
use crate::nemesis::{Active, Class, Skipped};

/// Between two looks at who can reach whom.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Before a refused fault is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(700);
/// Refusals after which a lane goes on with another class and comes back to this one later.
const REFUSALS_MAX: u32 = 12;
/// A run of every class goes on so much longer than planned, to have had each, before it gives up.
const OVERTIME: f64 = 0.3;

/// One lane's place in its deck.
#[derive(Debug)]
struct Track {
    deck: Deck,
    /// Refused before, to be tried again.
    again: VecDeque<Step>,
    step: Option<Step>,
    refusals: u32,
    active: Option<Active>,
    /// When its next action is due.
    due: Instant,
    numbers: SeededEntropy,
}

/// The storm over one bed.
#[derive(Debug)]
pub struct Storm {
    recorder: Arc<Recorder>,
    targets: Targets,
    complaints: Complaints,
    tracks: BTreeMap<Lane, Track>,
    wanted: BTreeSet<Class>,
    had: BTreeSet<Class>,
    unable: BTreeSet<Class>,
    reach: BTreeMap<String, bool>,
    until: Instant,
    latest: Instant,
    stop: watch::Receiver<bool>,
    /// What is in force, for the progress line.
    shown: Arc<std::sync::Mutex<Vec<String>>>,
}

/// What a storm is made from.
#[derive(Debug)]
pub struct Forces {
    /// Where faults are written down.
    pub recorder: Arc<Recorder>,
    /// Told of new members.
    pub targets: Targets,
    /// Told what the product did wrong.
    pub complaints: Complaints,
    /// True: end now.
    pub stop: watch::Receiver<bool>,
}

impl Storm {
    /// A storm of `time` from now on, without which of `wanted` the run proves nothing.
    pub fn new(forces: Forces, test: &Test, seed: u64, time: Duration, wanted: BTreeSet<Class>) -> Self {
        let (now, classes) = (Instant::now(), test.classes());
        let track = |lane: Lane| Track {
            deck: Deck::new(&classes, lane, seed, *test == Test::All),
            again: VecDeque::new(),
            step: None,
            refusals: 0,
            active: None,
            due: now,
            numbers: SeededEntropy::new(seed ^ (0x57 << 32) ^ lane as u64),
        };
        let tracks = Lane::ALL.iter().map(|lane| (*lane, track(*lane))).collect();
        let Forces { recorder, targets, complaints, stop } = forces;
        let overtime = if *test == Test::All { time.mul_f64(OVERTIME) } else { Duration::ZERO };
        Self {
            recorder,
            targets,
            complaints,
            tracks,
            wanted,
            had: BTreeSet::new(),
            unable: BTreeSet::new(),
            reach: BTreeMap::new(),
            until: now + time,
            latest: now + time + overtime,
            stop,
            shown: Arc::default(),
        }
    }

    /// What is in force at the moment, for whoever shows it.
    pub fn shown(&self) -> Arc<std::sync::Mutex<Vec<String>>> {
        self.shown.clone()
    }

    /// Blows until its time is over or it is stopped, then takes back what is in force. Returns whether the bed is whole.
    pub async fn blow(&mut self, bed: &mut impl Ground) -> bool {
        self.look(bed);
        while self.goes_on() {
            let Some((lane, due)) = self.next() else { break };
            if self.wait(bed, due).await {
                self.act(bed, lane).await;
                self.look_at_nodes(bed);
            }
        }
        let whole = self.mend(bed).await;
        self.look_at_nodes(bed);
        whole
    }

    /// Takes back whatever is in force. Returns whether the bed is whole.
    async fn mend(&mut self, bed: &mut impl Ground) -> bool {
        for lane in Lane::ALL {
            if let Some(active) = self.take_active(lane) {
                self.heal(bed, active).await;
            }
        }
        self.heal_all(bed).await
    }

    fn goes_on(&self) -> bool {
        let now = Instant::now();
        let lacking = self.wanted.iter().any(|class| !self.had.contains(class) && !self.unable.contains(class));
        !*self.stop.borrow() && (now < self.until || (lacking && now < self.latest))
    }

    /// Which lane acts next, and when. In overtime only what is lacking is installed.
    fn next(&self) -> Option<(Lane, Instant)> {
        self.tracks.iter().map(|(lane, track)| (*lane, track.due)).min_by_key(|(_, due)| *due)
    }

    /// Waits for a moment. Returns whether the storm goes on then.
    async fn wait(&mut self, bed: &impl Ground, due: Instant) -> bool {
        let mut stop = self.stop.clone();
        while Instant::now() < due && self.goes_on() {
            self.look(bed);
            let until = due.min(Instant::now() + LOOK_EVERY);
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                _ = stop.wait_for(|stop| *stop) => return false,
            }
        }
        self.goes_on()
    }

    async fn act(&mut self, bed: &mut impl Ground, lane: Lane) {
        if let Some(active) = self.take_active(lane) {
            let calm = self.track(lane).and_then(|track| track.step.take()).map_or(RETRY_AFTER, |step| step.calm);
            self.heal(bed, active).await;
            self.set_due(lane, calm);
            return;
        }
        match self.draw(lane) {
            Some(step) => self.inject(bed, lane, step).await,
            None => self.set_due(lane, Duration::from_secs(3_600)),
        }
    }

    fn track(&mut self, lane: Lane) -> Option<&mut Track> {
        self.tracks.get_mut(&lane)
    }

    fn take_active(&mut self, lane: Lane) -> Option<Active> {
        self.track(lane)?.active.take()
    }

    fn set_due(&mut self, lane: Lane, pause: Duration) {
        if let Some(track) = self.track(lane) {
            track.due = Instant::now() + pause;
        }
    }

    /// The step that the lane is at, or its next one that can be installed at all.
    fn draw(&mut self, lane: Lane) -> Option<Step> {
        let (unable, overtime) = (self.unable.clone(), Instant::now() >= self.until);
        let had = self.had.clone();
        let track = self.tracks.get_mut(&lane)?;
        if let Some(step) = track.step {
            return Some(step);
        }
        // A lane whose classes can all not be installed is empty.
        for _ in 0..2 * Class::all().len() {
            let step = track.again.pop_front().or_else(|| track.deck.draw())?;
            let done = overtime && had.contains(&step.class);
            if !done && !unable.contains(&step.class) {
                track.step = Some(step);
                return Some(step);
            }
        }
        None
    }

    async fn inject(&mut self, bed: &mut impl Ground, lane: Lane, step: Step) {
        let number = self.track(lane).map_or(0, |track| track.numbers.next_u64());
        let mut rng = StdRng::seed_from_u64(number);
        self.brace(bed, step.class);
        let began = self.recorder.now_us();
        let injected = AssertUnwindSafe(bed.inject(step.class, &mut rng)).catch_unwind().await;
        match injected {
            Ok(Ok(active)) => self.in_force(lane, step, active, began),
            Ok(Err(Skipped::NotNow(why))) => self.refused(lane, step, &why),
            Ok(Err(Skipped::Unable(why))) => self.unable(lane, step, why),
            Ok(Err(Skipped::Broken(what))) => {
                self.broken(lane, step, &what);
                self.mend(bed).await;
            }
            Err(panic) => self.unable(lane, step, format!("the harness failed: {}", panic_text(&*panic))),
        }
        self.renew_targets(bed);
        self.look(bed);
    }

    fn in_force(&mut self, lane: Lane, step: Step, active: Active, began_us: u64) {
        self.had.insert(step.class);
        // A fault that is over when it is installed was in force meanwhile.
        let fault = Fault {
            at_us: began_us,
            class: step.class.name().to_owned(),
            target: active.target.clone(),
            phase: Phase::Began,
        };
        self.recorder.record(|_| Record::Fault(fault));
        let hold = if active.at_least.is_zero() { Duration::ZERO } else { step.hold.max(active.at_least) };
        self.set_due(lane, hold);
        if let Some(track) = self.track(lane) {
            track.active = Some(active);
            track.refusals = 0;
        }
        self.show();
    }

    fn refused(&mut self, lane: Lane, step: Step, why: &str) {
        let Some(track) = self.tracks.get_mut(&lane) else { return };
        track.refusals += 1;
        if track.refusals >= REFUSALS_MAX {
            self.recorder.note("nemesis", format!("{} is put off: {why}", step.class));
            track.refusals = 0;
            track.step = None;
            track.again.push_back(step);
            // Something else first.
            if let Some(other) = track.deck.draw() {
                track.again.push_front(other);
            }
        }
        self.set_due(lane, RETRY_AFTER);
    }

    fn unable(&mut self, lane: Lane, step: Step, why: String) {
        self.unable.insert(step.class);
        self.record(step.class, "", Phase::Skipped { why });
        self.give_up(lane);
    }

    fn broken(&mut self, lane: Lane, step: Step, what: &str) {
        self.had.insert(step.class);
        self.recorder.note("nemesis", format!("{}: {what}", step.class));
        self.complaints.add(format!("{}: {what}", step.class));
        self.give_up(lane);
    }

    fn give_up(&mut self, lane: Lane) {
        if let Some(track) = self.track(lane) {
            (track.step, track.refusals) = (None, 0);
        }
        self.set_due(lane, RETRY_AFTER);
    }

    async fn heal(&mut self, bed: &mut impl Ground, active: Active) {
        let (class, target) = (active.class, active.target.clone());
        let healed = AssertUnwindSafe(bed.heal(active)).catch_unwind().await;
        self.record(class, &target, Phase::Ended);
        self.show();
        let failed = match healed {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(panic) => Some(panic_text(&*panic)),
        };
        if let Some(why) = failed {
            self.recorder.note("nemesis", format!("{class} of {target} could not be healed: {why}"));
            self.complaints.add(format!("after {class} of {target} the cluster did not come back: {why}"));
        }
        self.renew_targets(bed);
        self.look(bed);
    }

    async fn heal_all(&mut self, bed: &mut impl Ground) -> bool {
        let healed = AssertUnwindSafe(bed.heal_all()).catch_unwind().await;
        self.renew_targets(bed);
        self.look(bed);
        let why = match healed {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => panic_text(&*panic),
        };
        self.complaints.add(format!("with all faults taken back the cluster did not come back: {why}"));
        false
    }

    fn record(&self, class: Class, target: &str, phase: Phase) {
        let (class, target) = (class.name().to_owned(), target.to_owned());
        self.recorder.record(|at_us| Record::Fault(Fault { at_us, class, target, phase }));
    }

    fn show(&self) {
        let active = self.tracks.values().filter_map(|track| track.active.as_ref());
        let shown: Vec<String> = active.map(|active| format!("{} ({})", active.class, active.target)).collect();
        *self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = shown;
    }

    /// Nodes that ended without a reason.
    fn look_at_nodes(&self, bed: &mut impl Ground) {
        for what in bed.crashed() {
            self.recorder.note("nemesis", what.clone());
            self.complaints.add(what);
        }
    }

    fn renew_targets(&self, bed: &impl Ground) {
        let each = bed.masters().into_iter().map(|id| (id, bed.client_of(id))).collect();
        self.targets.set(bed.client(), each);
    }

    /// Before a fault that may touch workers: until it is known whom it touched, it may be any of them.
    fn brace(&mut self, bed: &impl Ground, class: Class) {
        if touches_workers(class) {
            bed.workers().into_iter().for_each(|worker| self.reaches(worker, false));
        }
    }

    /// Writes down who can reach a majority-side master, where that changed.
    fn look(&mut self, bed: &impl Ground) {
        for worker in bed.workers() {
            let reachable = bed.reachable(&worker);
            self.reaches(worker, reachable);
        }
    }

    fn reaches(&mut self, worker: String, reachable: bool) {
        if self.reach.insert(worker.clone(), reachable) != Some(reachable) {
            self.recorder.record(|at_us| Record::Reach(Reach { at_us, worker, reachable }));
        }
    }
}

/// Whether a class may keep a worker from every master that could lead.
fn touches_workers(class: Class) -> bool {
    let partitions = matches!(class, Class::PartitionHalves | Class::Flapping | Class::Throttle | Class::Loss);
    partitions || class.stops_all() || Lane::of(class) == Lane::Workers
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use steersman_client::{Client, World};
    use steersman_evidence::record::Run;

    use super::*;

    /// A cluster that is not there, and does as it is told.
    #[derive(Debug, Default)]
    struct Stub {
        cut: bool,
        healed: u32,
    }

    impl Ground for Stub {
        async fn inject(&mut self, class: Class, _rng: &mut StdRng) -> Result<Active, Skipped> {
            match class {
                Class::WorkerCut => self.cut = true,
                Class::Kill => return Err(Skipped::NotNow("too early".into())),
                Class::PowerLoss => return Err(Skipped::Unable("not here".into())),
                _ => return Err(Skipped::Broken("it does not hold".into())),
            }
            let (masters, workers) = (BTreeSet::new(), BTreeSet::from(["w1".to_owned()]));
            let (since, at_least) = (std::time::Instant::now(), Duration::from_millis(10));
            Ok(Active { class, target: "w1".into(), masters, workers, since, at_least })
        }

        async fn heal(&mut self, _active: Active) -> anyhow::Result<()> {
            (self.cut, self.healed) = (false, self.healed + 1);
            Ok(())
        }

        async fn heal_all(&mut self) -> anyhow::Result<()> {
            Ok(())
        }

        fn crashed(&mut self) -> Vec<String> {
            Vec::new()
        }

        fn masters(&self) -> Vec<u64> {
            vec![1]
        }

        fn workers(&self) -> Vec<String> {
            vec!["w1".into()]
        }

        fn reachable(&self, _worker: &str) -> bool {
            !self.cut
        }

        fn client(&self) -> Client {
            Client::builder(World::real()).addresses(["127.0.0.1:1"]).build().unwrap()
        }

        fn client_of(&self, _master: u64) -> Client {
            self.client().only("127.0.0.1:1")
        }
    }

    #[tokio::test]
    async fn faults_and_their_marks_are_in_the_history_and_nothing_stays_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let recorder = Arc::new(Recorder::create(&path, Run::default()).unwrap());
        let mut stub = Stub::default();
        let targets = Targets::new(stub.client(), vec![(1, stub.client_of(1))]);
        let (complaints, stop) = (Complaints::default(), watch::Sender::new(false));
        let test = Test::Only(vec![Class::WorkerCut, Class::Kill, Class::PowerLoss, Class::Bridge, Class::Delay]);
        let wanted = test.classes().into_iter().collect();
        let forces = Forces { recorder, targets, complaints: complaints.clone(), stop: stop.subscribe() };
        let mut storm = Storm::new(forces, &test, 1, Duration::from_secs(4), wanted);
        assert!(storm.blow(&mut stub).await);
        assert!(stub.healed > 0 && !stub.cut);
        let text = std::fs::read_to_string(path).unwrap();
        let has = |needle: &str| assert!(text.contains(needle), "{needle} is not in\n{text}");
        has(r#""class":"worker-cut","target":"w1","phase":"began""#);
        has(r#""class":"worker-cut","target":"w1","phase":"ended""#);
        has(r#""class":"power-loss","target":"","phase":{"skipped""#);
        has(r#""worker":"w1","reachable":false"#);
        let last = text.lines().rfind(|line| line.contains("reachable")).unwrap();
        assert!(last.contains("true"), "{last}");
        assert!(complaints.all().0.iter().any(|text| text.contains("it does not hold")), "{:?}", complaints.all());
    }
}
