//! Stories of the runner, told to executors that only take notes; time is paused.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::executors::{EventSender, ExecutorError};
use crate::facts::NoFacts;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use steersman_proto::v1::{Command, OnPartition, TaskSpec};
use steersman_proto::worker::v1::{Assignment, Report};
use steersman_world::RealClock;

/// Notes what it is told and does nothing.
#[derive(Default)]
struct Noted(Mutex<Vec<String>>);

impl Noted {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Executor for Noted {
    fn open(&self, _: EventSender) -> BoxFuture<'static, Result<Vec<Held>, ExecutorError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn start(&self, run: Run) {
        self.0.lock().push(format!("start {}", run.token));
    }
    fn kill(&self, token: u64, kill: Kill) {
        let how = if kill.hard { "hard" } else { "soft" };
        self.0.lock().push(format!("kill {token} {how} {}", kill.outcome.as_str_name()));
    }
    fn forget(&self, tokens: &[u64]) {
        self.0.lock().push(format!("forget {tokens:?}"));
    }
}

struct Fixture {
    runner: Runner,
    noted: Arc<Noted>,
    lease: Arc<Lease>,
    out: mpsc::Receiver<WorkerMessage>,
}

fn fixture(capacity: u32, held: Vec<Held>) -> Fixture {
    let (noted, lease) = (Arc::new(Noted::default()), Arc::new(Lease::default()));
    let settings = Settings {
        clock: Arc::new(RealClock),
        executors: Executors { handlers: noted.clone(), processes: Some(noted.clone()) },
        lease: lease.clone(),
        metrics: Arc::default(),
        facts: Arc::new(NoFacts),
        capacity,
        kill_grace: Duration::from_secs(5),
    };
    let mut runner = Runner::new(settings, held);
    let (bulk, out) = mpsc::channel(16);
    runner.on_input(
        Input::Welcome { outlet: Outlet { session: 1, bulk }, capacity, drop_tokens: vec![] },
        Instant::now(),
    );
    Fixture { runner, noted, lease, out }
}

fn spec(stop: bool) -> TaskSpec {
    let on_partition = if stop { OnPartition::Stop } else { OnPartition::Continue };
    let work = Some(Work::Command(Command::default()));
    TaskSpec { work, on_partition: on_partition.into(), ..TaskSpec::default() }
}

impl Fixture {
    fn tell(&mut self, input: Input) {
        let now = Instant::now();
        self.runner.on_input(input, now);
        self.runner.start_waiting(now);
    }

    fn assign(&mut self, tokens: impl IntoIterator<Item = u64>, stop: bool) {
        let one = |token| Assignment { task_id: token, token, attempt: 1, array_index: 0, spec: 0 };
        let assignments = tokens.into_iter().map(one).collect();
        self.tell(Input::Assign(AssignTasks { assignments, specs: vec![spec(stop)] }));
    }

    fn ends(&mut self, token: u64) {
        self.runner.on_event(Event::Ended { token, ended: ended(Outcome::Succeeded, 0, "") });
        self.runner.start_waiting(Instant::now());
    }

    fn reported(&mut self) -> Vec<Report> {
        self.runner.send_reports(Instant::now());
        let mut all = Vec::new();
        while let Ok(message) = self.out.try_recv() {
            if let Some(Kind::Reports(reports)) = message.kind {
                all.extend(reports.reports);
            }
        }
        all
    }

    fn reported_ends(&mut self) -> Vec<(u64, Outcome)> {
        let reports = self.reported();
        reports.iter().filter_map(|report| Some((report.token, report.ended.as_ref()?.outcome()))).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_capacity_runs_and_a_dying_attempt_keeps_its_slot() {
    let mut t = fixture(2, vec![]);
    t.assign([1, 2, 3], false);
    assert_eq!(t.noted.take(), ["start 1", "start 2"]);
    t.tell(Input::Cancel(vec![1]));
    assert_eq!(t.noted.take(), ["kill 1 soft OUTCOME_CANCELLED"]);
    t.ends(1);
    assert_eq!(t.noted.take(), ["start 3"]);
    t.tell(Input::Capacity(4));
    t.assign([4], false);
    assert_eq!(t.noted.take(), ["start 4"]);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledged_end_is_forgotten_once_and_never_runs_again() {
    let mut t = fixture(2, vec![]);
    t.assign([1], false);
    t.ends(1);
    assert_eq!(t.reported_ends(), [(1, Outcome::Succeeded)]);
    let ack = ReportsAck { tokens: vec![1, 77], started_tokens: vec![] };
    t.tell(Input::Acknowledged(ack.clone()));
    t.tell(Input::Acknowledged(ack));
    t.assign([1], false);
    assert_eq!(t.noted.take(), ["start 1", "forget [1]"]);
    assert!(t.reported().is_empty());
}

#[tokio::test(start_paused = true)]
async fn p09_a_stop_attempt_does_not_start_after_the_lease_and_is_killed_at_its_end() {
    let mut t = fixture(4, vec![]);
    t.assign([1], true);
    assert_eq!(t.reported_ends(), [(1, Outcome::PartitionStop)], "no lease yet");
    t.lease.renew(Instant::now(), Duration::from_secs(10));
    t.assign([2], true);
    t.assign([3], false);
    tokio::time::advance(Duration::from_millis(7_999)).await;
    t.runner.on_time(Instant::now(), true);
    assert_eq!(t.noted.take(), ["start 2", "start 3"]);
    assert!(t.runner.next_wake().unwrap() <= t.lease.deadline().unwrap(), "it would oversleep the lease");
    tokio::time::advance(Duration::from_millis(1)).await;
    t.runner.on_time(Instant::now(), true);
    t.runner.on_time(Instant::now(), true);
    assert_eq!(t.noted.take(), ["kill 2 hard OUTCOME_PARTITION_STOP"], "once, and only the one that stops");
    t.assign([4], true);
    assert!(t.noted.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_start_is_reported_only_of_what_lasts() {
    let mut t = fixture(4, vec![]);
    t.assign([1, 2], false);
    tokio::time::advance(Duration::from_millis(10)).await;
    t.ends(1);
    tokio::time::advance(Duration::from_millis(10)).await;
    t.runner.on_time(Instant::now(), true);
    let reports = t.reported();
    let told: Vec<(u64, bool)> = reports.iter().map(|report| (report.token, report.ended.is_some())).collect();
    assert_eq!(told, [(1, true), (2, false)]);
}

#[tokio::test(start_paused = true)]
async fn p03_what_an_earlier_process_left_is_held_and_reported() {
    let left = |token, over: bool| Held {
        token,
        task_id: token,
        stops_on_partition: false,
        ran: Duration::from_secs(3),
        pid: 9,
        ended: over.then(|| ended(Outcome::Exited, 3, "")),
    };
    let mut t = fixture(1, vec![left(1, false), left(2, true)]);
    let (reply, held) = oneshot::channel();
    t.tell(Input::Hold(reply));
    assert_eq!(held.await.unwrap(), [1, 2]);
    assert_eq!(t.reported_ends(), [(2, Outcome::Exited)]);
    t.assign([1, 2, 3], false);
    assert!(t.noted.take().is_empty(), "1 has the only slot, 2 is over, 3 waits");
    t.ends(1);
    assert_eq!(t.noted.take(), ["start 3"]);
}

#[tokio::test(start_paused = true)]
async fn dropped_attempts_end_without_a_word() {
    let mut t = fixture(1, vec![]);
    t.assign([1, 2], false);
    let (bulk, out) = mpsc::channel(16);
    t.out = out;
    let outlet = Outlet { session: 2, bulk };
    t.tell(Input::Welcome { outlet, capacity: 1, drop_tokens: vec![1, 2, 3] });
    assert_eq!(t.noted.take(), ["start 1", "kill 1 hard OUTCOME_CANCELLED"]);
    t.ends(1);
    assert!(t.reported().is_empty());
    assert_eq!(t.noted.take(), ["forget [1]"]);
    assert!(t.runner.attempts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_back_what_waits_and_kills_what_runs() {
    let mut t = fixture(1, vec![]);
    t.assign([1, 2], false);
    t.tell(Input::Drain { deadline: Some(Duration::from_secs(3)) });
    assert_eq!(t.runner.finished(Instant::now()), None);
    tokio::time::advance(Duration::from_secs(3)).await;
    t.runner.on_time(Instant::now(), true);
    assert_eq!(t.noted.take(), ["start 1", "kill 1 soft OUTCOME_WORKER_SHUTDOWN"]);
    t.assign([3], false);
    let ends = t.reported_ends();
    assert_eq!(ends, [(2, Outcome::WorkerShutdown), (3, Outcome::WorkerShutdown)]);
    tokio::time::advance(Duration::from_secs(15)).await;
    assert_eq!(t.runner.finished(Instant::now()), Some(false), "it does not wait for ever");
}
