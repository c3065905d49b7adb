//! The metrics of one master, in OpenMetrics text.
//!
//! What always holds: every name starts with `steersman_`, has a HELP text and, where it has one, its unit as suffix; every
//! label takes its values from a list in the code or from the ids of masters, so no caller can make the number of series
//! grow. Counters and histograms are fed as things happen; what the node knows anyway is handed in at each scrape as
//! [`Facts`].

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use steersman_state::{TaskCounts, WorkerCounts};

use super::store::StoreCollector;

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Label<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Label<N>, Counter>;
type Histograms<const N: usize> = Family<Label<N>, Histogram, fn() -> Histogram>;

/// 100 µs to 13 s, doubling: from a good sync to a cluster in trouble.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 18))
}

/// 1 to 65,536, times four: commands of a batch.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 9))
}

/// Everything that is counted as it happens. All methods are cheap and callable from anywhere.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    batch_commands: Histogram,
    commit: Histogram,
    proposals_failed: Counters<1>,
    proposals_queued: Gauge,
    leader_changes: Counter,
    audits: Counters<1>,
    disk_stalls: Counter,
    dispatch: Histogram,
    runs_sent: Counter,
    reports: Counter,
    stale_reports: Counter,
    heartbeats: Counter,
    workers_lost: Counters<1>,
    load_crossings: Counters<1>,
    waiters: Gauge,
    streams: Gauge,
    forwarded: Counter,
    api: Histograms<2>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All zero.
    pub fn new() -> Self {
        let mut r = Registry::with_prefix("steersman");
        Self {
            batch_commands: histogram(&mut r, "raft_batch_commands", "Commands in one proposed log entry", None, sizes),
            commit: seconds(&mut r, "raft_commit", "From the proposal of a log entry to its apply on the leader"),
            proposals_failed: labelled(
                &mut r,
                "raft_proposals_failed",
                "Proposals that were not answered with success",
            ),
            proposals_queued: gauge(&mut r, "raft_proposals_queued", "Commands that wait for the next log entry"),
            leader_changes: counter(&mut r, "raft_leader_changes", "Changes of leader that this master saw"),
            audits: labelled(&mut r, "raft_audits", "Comparisons of this master's state with the others', by result"),
            disk_stalls: counter(
                &mut r,
                "raft_disk_stalls",
                "Times that this master was unfit because its disk had stalled",
            ),
            dispatch: seconds(&mut r, "scheduler_dispatch", "From the commit of an assignment to its worker's stream"),
            runs_sent: counter(&mut r, "scheduler_runs_sent", "Assignments put on workers' streams, repeats included"),
            reports: counter(&mut r, "scheduler_reports", "Reports of attempts that workers sent"),
            stale_reports: counter(&mut r, "scheduler_stale_reports", "Reports with a token that is not open: echoes"),
            heartbeats: counter(&mut r, "worker_heartbeats", "Heartbeats of workers that this master received"),
            workers_lost: labelled(&mut r, "workers_lost", "Workers that went offline, by reason"),
            load_crossings: labelled(
                &mut r,
                "workers_load_crossings",
                "Workers that crossed a load threshold, by level",
            ),
            waiters: gauge(&mut r, "api_waiters", "Callers that wait for tasks to finish"),
            streams: gauge(&mut r, "api_streams", "Open event streams and leader watches"),
            forwarded: counter(&mut r, "api_forwarded", "Calls that were forwarded to the leader"),
            api: api_family(&mut r),
            registry: r,
        }
    }

    /// One log entry of `commands` commands was committed and applied, `took` after its proposal.
    pub fn proposal_committed(&self, commands: usize, took: Duration) {
        self.batch_commands.observe(commands as f64);
        self.commit.observe(took.as_secs_f64());
    }

    /// A proposal failed; `reason` is a word from a list in the code, e.g. `not_leader`.
    pub fn proposal_failed(&self, reason: &'static str) {
        self.proposals_failed.get_or_create(&[("reason", reason)]).inc();
    }

    /// Commands that wait for the next log entry.
    pub fn proposals_queued(&self, commands: usize) {
        self.proposals_queued.set(signed(commands as u64));
    }

    /// Another leader, or the same in another term.
    pub fn leader_changed(&self) {
        self.leader_changes.inc();
    }

    /// The disk has stalled.
    pub fn disk_stalled(&self) {
        self.disk_stalls.inc();
    }

    /// An audit's digests were compared; `result` is `agree`, `differ`, `wrong` or `unknown`.
    pub fn audited(&self, result: &'static str) {
        self.audits.get_or_create(&[("result", result)]).inc();
    }

    /// An assignment reached its worker's stream so long after its commit.
    pub fn dispatch(&self, took: Duration) {
        self.dispatch.observe(took.as_secs_f64());
    }

    /// So many assignments were put on streams.
    pub fn runs_sent(&self, runs: u64) {
        self.runs_sent.inc_by(runs);
    }

    /// So many reports came in.
    pub fn reports(&self, reports: u64) {
        self.reports.inc_by(reports);
    }

    /// So many of them were echoes.
    pub fn stale_reports(&self, reports: u64) {
        self.stale_reports.inc_by(reports);
    }

    /// A worker's heartbeat.
    pub fn heartbeat(&self) {
        self.heartbeats.inc();
    }

    /// A worker went offline; `reason` is a word from a list in the code: `lease_expired`, `evicted`, `left`.
    pub fn worker_lost(&self, reason: &'static str) {
        self.workers_lost.get_or_create(&[("reason", reason)]).inc();
    }

    /// A worker crossed a load threshold; `level` is `over`, `normal` or `under`.
    pub fn load_crossed(&self, level: &'static str) {
        self.load_crossings.get_or_create(&[("level", level)]).inc();
    }

    /// So many callers wait for tasks.
    pub fn waiters(&self, waiting: usize) {
        self.waiters.set(signed(waiting as u64));
    }

    /// A stream opened. Returns how many are open now.
    pub fn stream_opened(&self) -> u64 {
        u64::try_from(self.streams.inc() + 1).unwrap_or(0)
    }

    /// A stream ended.
    pub fn stream_closed(&self) {
        self.streams.dec();
    }

    /// A call was sent on to the leader.
    pub fn forwarded(&self) {
        self.forwarded.inc();
    }

    /// A call of the API was answered. `method` is one of the known ones, `code` a gRPC code's name.
    pub fn api_call(&self, method: &'static str, code: &'static str, took: Duration) {
        self.api.get_or_create(&[("method", method), ("code", code)]).observe(took.as_secs_f64());
    }

    /// Everything as text, with what the node knows at this moment.
    pub fn render(&self, facts: &Facts) -> String {
        let mut text = String::new();
        let encoded = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &facts.registry()))
            .and_then(|()| encode_eof(&mut text));
        // Writing to a String cannot fail.
        debug_assert!(encoded.is_ok());
        text
    }
}

/// What the node knows at the moment of a scrape.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// A leader is known and makes progress.
    pub has_leader: bool,
    /// It is this master.
    pub is_leader: bool,
    /// A leader with a recent quorum is known.
    pub ready: bool,
    /// Raft's term.
    pub term: u64,
    /// Last applied index.
    pub applied_index: u64,
    /// Last index known to be committed.
    pub committed_index: u64,
    /// Last index of the log.
    pub last_log_index: u64,
    /// Last index in the snapshot.
    pub snapshot_index: u64,
    /// Since a quorum confirmed the leader, or the leader was heard; absent if that never happened.
    pub quorum_ack_age_ms: Option<u64>,
    /// The other members; on the leader only.
    pub peers: Vec<Peer>,
    /// Tasks by state.
    pub tasks: TaskCounts,
    /// Workers by status.
    pub workers: WorkerCounts,
    /// Silent workers that the brake on mass failure holds; absent while it is released.
    pub held: Option<u64>,
    /// Since the start of the node.
    pub uptime_ms: u64,
    /// What the store counts, once it is open.
    pub store: Option<Arc<steersman_raft_store::Metrics>>,
    /// Open sessions of workers; on the leader only.
    pub sessions: u64,
    /// The process as the system sees it; absent where the system does not say.
    pub process: Option<Process>,
    /// Bytes of the data directory, if known.
    pub data_bytes: Option<u64>,
}

/// How far another master is.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its id.
    pub id: u64,
    /// Entries that it does not have yet.
    pub lag_entries: u64,
    /// Since it last answered, if it ever did.
    pub ack_age_ms: Option<u64>,
}

/// The process as the system sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process {
    /// Resident memory.
    pub resident_bytes: u64,
    /// User and system time.
    pub cpu_seconds: f64,
    /// Threads.
    pub threads: u64,
    /// Open files and sockets.
    pub open_files: u64,
}

impl Facts {
    fn registry(&self) -> Registry {
        let mut r = Registry::with_prefix("steersman");
        self.register_raft(&mut r);
        self.register_peers(&mut r);
        self.register_tasks(&mut r);
        self.register_workers(&mut r);
        self.register_process(&mut r);
        r
    }

    fn register_raft(&self, r: &mut Registry) {
        let flag = |on: bool| u64::from(on);
        constant(r, "raft_has_leader", "1 if this master knows a leader that makes progress", flag(self.has_leader));
        constant(r, "raft_is_leader", "1 if this master leads", flag(self.is_leader));
        constant(r, "raft_ready", "1 if a leader with a recent quorum is known", flag(self.ready));
        constant(r, "raft_term", "Current term", self.term);
        constant(r, "raft_applied_index", "Last applied log index", self.applied_index);
        constant(r, "raft_committed_index", "Last log index known to be committed", self.committed_index);
        constant(r, "raft_last_log_index", "Last index of the log", self.last_log_index);
        constant(r, "raft_snapshot_index", "Last log index in the snapshot", self.snapshot_index);
        let entries = self.last_log_index.saturating_sub(self.snapshot_index);
        constant(r, "raft_log_entries", "Log entries after the snapshot", entries);
        let help = "Since a quorum confirmed the leader, or a follower heard it";
        if let Some(age) = self.quorum_ack_age_ms {
            constant_seconds(r, "raft_quorum_ack_age", help, age);
        }
        if let Some(store) = &self.store {
            r.register_collector(Box::new(StoreCollector(store.clone())));
        }
        if let Some(bytes) = self.data_bytes {
            let help = "Files in the data directory: log and snapshots";
            r.register_with_unit("raft_data", help, Unit::Bytes, ConstGauge::new(bytes));
        }
    }

    fn register_peers(&self, r: &mut Registry) {
        let lag = Family::<PeerLabel, Gauge>::default();
        let age = Family::<PeerLabel, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        for peer in &self.peers {
            let label = PeerLabel { peer: peer.id };
            lag.get_or_create(&label).set(signed(peer.lag_entries));
            if let Some(ms) = peer.ack_age_ms {
                age.get_or_create(&label).set(ms as f64 / 1_000.0);
            }
        }
        r.register("raft_peer_lag_entries", "Entries that a member does not have yet (leader only)", lag);
        r.register_with_unit("raft_peer_ack_age", "Since a member last answered (leader only)", Unit::Seconds, age);
    }

    fn register_tasks(&self, r: &mut Registry) {
        let t = &self.tasks;
        let states = [
            ("pending", t.pending),
            ("scheduled", t.scheduled),
            ("running", t.running),
            ("retrying", t.retrying),
            ("succeeded", t.succeeded),
            ("failed", t.failed),
            ("cancelled", t.cancelled),
        ];
        by_label(r, "scheduler_tasks", "Tasks in the state; finished ones as long as they are kept", "state", &states);
        constant(r, "scheduler_queue_tasks", "Tasks that wait for a slot", t.pending);
        total(r, "scheduler_tasks_submitted", "Tasks submitted in the life of the cluster", t.submitted_total);
        total(r, "scheduler_tasks_finished", "Tasks finished in the life of the cluster", t.finished_total);
    }

    fn register_workers(&self, r: &mut Registry) {
        let w = &self.workers;
        let statuses = [
            ("online", u64::from(w.online)),
            ("busy", u64::from(w.busy)),
            ("draining", u64::from(w.draining)),
            ("maintenance", u64::from(w.maintenance)),
            ("offline", u64::from(w.offline)),
        ];
        by_label(r, "workers", "Registered workers by status", "status", &statuses);
        let engaged = u64::from(self.held.is_some());
        constant(r, "workers_brake_engaged", "1 while the brake on mass failure holds", engaged);
        let help = "Silent workers that keep their tasks because the brake holds";
        constant(r, "workers_held", help, self.held.unwrap_or(0));
        constant(r, "workers_capacity_slots", "Slots of all workers that are not offline", w.capacity);
        constant(r, "workers_used_slots", "Slots in use", w.used);
        constant(r, "worker_sessions", "Open sessions of workers with this master (leader only)", self.sessions);
    }

    fn register_process(&self, r: &mut Registry) {
        constant_seconds(r, "process_uptime", "Since the start of the node", self.uptime_ms);
        let Some(p) = self.process else { return };
        r.register_with_unit(
            "process_resident_memory",
            "Resident memory",
            Unit::Bytes,
            ConstGauge::new(p.resident_bytes),
        );
        let cpu = Counter::<f64, std::sync::atomic::AtomicU64>::default();
        cpu.inc_by(p.cpu_seconds);
        r.register_with_unit("process_cpu", "User and system time", Unit::Seconds, cpu);
        constant(r, "process_threads", "Threads", p.threads);
        constant(r, "process_open_files", "Open files and sockets", p.open_files);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    peer: u64,
}

fn counter(r: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    r.register(name, help, counter.clone());
    counter
}

fn labelled(r: &mut Registry, name: &str, help: &str) -> Counters<1> {
    let counters = Counters::default();
    r.register(name, help, counters.clone());
    counters
}

fn gauge(r: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    r.register(name, help, gauge.clone());
    gauge
}

fn seconds(r: &mut Registry, name: &str, help: &str) -> Histogram {
    histogram(r, name, help, Some(Unit::Seconds), durations)
}

fn histogram(r: &mut Registry, name: &str, help: &str, unit: Option<Unit>, make: fn() -> Histogram) -> Histogram {
    let histogram = make();
    match unit {
        Some(unit) => r.register_with_unit(name, help, unit, histogram.clone()),
        None => r.register(name, help, histogram.clone()),
    }
    histogram
}

fn api_family(r: &mut Registry) -> Histograms<2> {
    let family = Histograms::<2>::new_with_constructor(durations);
    let help = "Calls of the API by method and gRPC code; for a stream until its first answer";
    r.register_with_unit("api_call", help, Unit::Seconds, family.clone());
    family
}

fn constant(r: &mut Registry, name: &str, help: &str, value: u64) {
    r.register(name, help, ConstGauge::new(value));
}

fn constant_seconds(r: &mut Registry, name: &str, help: &str, ms: u64) {
    r.register_with_unit(name, help, Unit::Seconds, ConstGauge::new(ms as f64 / 1_000.0));
}

fn total(r: &mut Registry, name: &str, help: &str, value: u64) {
    let counter: Counter = Counter::default();
    counter.inc_by(value);
    r.register(name, help, counter);
}

fn by_label(r: &mut Registry, name: &str, help: &str, label: &'static str, values: &[(&'static str, u64)]) {
    let family = Family::<Label<1>, Gauge>::default();
    for (value, count) in values {
        family.get_or_create(&[(label, *value)]).set(signed(*count));
    }
    r.register(name, help, family);
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    /// Everything fed once, so that every family has a series.
    fn rendered() -> String {
        let metrics = Metrics::new();
        let took = Duration::from_millis(3);
        metrics.proposal_committed(7, took);
        metrics.proposal_failed("not_leader");
        metrics.proposals_queued(3);
        metrics.leader_changed();
        metrics.audited("agree");
        metrics.dispatch(took);
        metrics.runs_sent(2);
        metrics.reports(5);
        metrics.stale_reports(1);
        metrics.heartbeat();
        metrics.worker_lost("lease");
        metrics.load_crossed("over");
        metrics.waiters(4);
        metrics.stream_opened();
        metrics.forwarded();
        metrics.api_call("steersman.v1.Tasks/Submit", "OK", took);
        let store = Arc::new(steersman_raft_store::Metrics::default());
        store.sync_us.record(3_000);
        metrics.render(&Facts {
            has_leader: true,
            term: 4,
            quorum_ack_age_ms: Some(1_500),
            peers: vec![Peer { id: 2, lag_entries: 5, ack_age_ms: Some(20) }],
            tasks: TaskCounts { pending: 6, submitted_total: 9, ..TaskCounts::default() },
            process: Some(Process { resident_bytes: 1 << 20, ..Process::default() }),
            data_bytes: Some(77),
            store: Some(store),
            ..Facts::default()
        })
    }

    #[test]
    fn every_family_is_prefixed_once_described_and_alone() {
        let text = rendered();
        let mut described = BTreeSet::new();
        for line in text.lines().filter(|line| line.starts_with("# HELP ")) {
            let (name, help) = line["# HELP ".len()..].split_once(' ').unwrap();
            assert!(name.starts_with("steersman_") && !name.contains("steersman_steersman"), "{name}");
            assert!(help.len() > 5 && help.ends_with('.') && !help.ends_with(".."), "{name}: {help}");
            assert!(described.insert(name), "{name} is there twice");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let known = described.iter().any(|name| line.starts_with(name));
            assert!(known, "no HELP for {line}");
        }
        assert!(described.len() > 45, "{} families", described.len());
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    }

    #[test]
    fn what_was_fed_is_there_with_its_unit() {
        let text = rendered();
        for line in [
            "steersman_raft_commit_seconds_count 1",
            "steersman_raft_fsync_seconds_sum 0.003",
            "steersman_raft_has_leader 1",
            "steersman_raft_term 4",
            "steersman_raft_leader_changes_total 1",
            "steersman_raft_quorum_ack_age_seconds 1.5",
            "steersman_raft_peer_lag_entries{peer=\"2\"} 5",
            "steersman_raft_data_bytes 77",
            "steersman_scheduler_queue_tasks 6",
            "steersman_scheduler_tasks{state=\"pending\"} 6",
            "steersman_scheduler_tasks_submitted_total 9",
            "steersman_scheduler_stale_reports_total 1",
            "steersman_scheduler_dispatch_seconds_count 1",
            "steersman_workers{status=\"online\"} 0",
            "steersman_workers_lost_total{reason=\"lease\"} 1",
            "steersman_api_call_seconds_count{method=\"steersman.v1.Tasks/Submit\",code=\"OK\"} 1",
            "steersman_process_resident_memory_bytes 1048576",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn durations_carry_seconds_and_sizes_bytes_in_their_names() {
        for line in rendered().lines().filter(|line| line.starts_with("# TYPE ") && line.ends_with(" histogram")) {
            assert!(line.contains("_seconds ") || line.contains("_commands "), "{line}");
        }
    }
}
