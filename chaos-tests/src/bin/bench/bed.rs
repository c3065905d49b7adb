//! The test bed: clusters with the product's default settings, what is submitted to them, and what they spend.
//!
//! What always holds: leases, heartbeats and Raft's timing are the product's defaults; a new cluster is blank.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use steersman_chaos_tests::poll::until;
use steersman_chaos_tests::spec::{group, one};
use steersman_chaos_tests::{Cluster, PATIENCE, Settings, http};
use steersman_client::v1::{Handler, TaskGroup, TaskSpec, task_spec::Work};
use steersman_client::{Client, World};

/// A payload as big as the values that the commit rates of others were taken with.
const PAYLOAD_BYTES: usize = 256;
/// Longer than any run that goes well.
const FINISH: Duration = Duration::from_secs(300);

/// The product's defaults, with so many workers of so many slots.
pub fn settings(workers: usize, capacity: u32) -> Settings {
    Settings { workers, capacity, heartbeat_ms: 1_000, lease_ms: 10_000, ..Settings::default() }
}

/// A client as users build it.
///
/// # Errors
/// Never with addresses of a cluster's.
pub fn client(cluster: &Cluster) -> Result<Client> {
    Ok(Client::builder(World::real()).addresses(cluster.addresses()).build()?)
}

/// A task for the handler that does nothing, with a payload.
pub fn noop(payload: Vec<u8>) -> TaskSpec {
    let handler = Handler { name: "noop".to_owned(), payload: payload.into() };
    TaskSpec { work: Some(Work::Handler(handler)), ..TaskSpec::default() }
}

/// What the commit rates submit: one task.
pub fn submit_of_256() -> Vec<TaskGroup> {
    one(noop(vec![7; PAYLOAD_BYTES]))
}

/// How many tasks come in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One spec for all of them.
    Array,
    /// Each has its own.
    Specs,
}

impl Shape {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Array => "arrays",
            Self::Specs => "single specs",
        }
    }

    /// Groups of `count` tasks for the handler that does nothing; `from` tells one call's payloads from another's.
    pub fn groups(self, from: u32, count: u32) -> Vec<TaskGroup> {
        match self {
            Self::Array => group(noop(Vec::new()), count),
            Self::Specs => (from..from + count).flat_map(|n| one(noop(n.to_be_bytes().to_vec()))).collect(),
        }
    }
}

/// Submits `total` tasks, `batch` in each call. Returns the first id and count of each call.
///
/// # Errors
/// What the cluster answered instead.
pub async fn fill(client: &Client, shape: Shape, total: u32, batch: u32) -> Result<Vec<(u64, u64)>> {
    let mut calls = Vec::new();
    for from in (0..total).step_by(batch as usize) {
        let answer = client.submit(shape.groups(from, batch.min(total - from))).await?;
        calls.push((answer.first_id, answer.count));
    }
    Ok(calls)
}

/// Waits until all of them have succeeded. Those that are no longer kept are covered by the count of all finished ones.
///
/// # Errors
/// If one did not, or the time is up.
pub async fn finish(client: &Client, calls: &[(u64, u64)]) -> Result<()> {
    for (first, count) in calls {
        let totals = client.wait(*first, *count, Some(FINISH)).await?;
        let good = totals.done && totals.failed + totals.cancelled == 0 && totals.succeeded + totals.gone == *count;
        ensure!(good, "not all tasks of {first}..+{count} succeeded: {totals:?}");
    }
    Ok(())
}

/// Fails unless every task that was ever submitted is finished, by the cluster's own count.
///
/// # Errors
/// If not.
pub async fn none_left(client: &Client) -> Result<()> {
    let tasks = client.info().await?.tasks.context("no counts of tasks")?;
    let (submitted, finished) = (tasks.submitted_total, tasks.finished_total);
    ensure!(submitted == finished, "{finished} of {submitted} tasks are finished");
    Ok(())
}

/// Waits until every master is ready and follows the same leader, all have applied the same, and all workers are there.
pub async fn whole(cluster: &Cluster) {
    let masters = cluster.master_ids().len();
    until("a whole cluster", PATIENCE, async || {
        let infos = cluster.infos().await;
        let terms: Vec<Option<u64>> = infos.values().map(|info| info.leader.as_ref().map(|l| l.term)).collect();
        let one_term = terms.iter().all(|term| term.is_some() && *term == terms[0]);
        let all = infos.len() == masters && infos.values().all(|info| info.ready);
        if all && one_term { Ok(()) } else { Err(format!("{} of {masters} masters, terms {terms:?}", infos.len())) }
    })
    .await;
    cluster.wait_workers(cluster.settings.workers).await;
    cluster.wait_agreement().await;
}

/// Resident memory of each master, in MiB.
///
/// # Errors
/// If one does not run.
pub fn resident_mib(cluster: &mut Cluster) -> Result<Vec<f64>> {
    let ids = cluster.master_ids();
    let one = |id| {
        let pid = cluster.master(id).process.pid().context("a master does not run")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1_024.0)
    };
    ids.into_iter().map(one).collect()
}

/// What a cluster has spent until a moment.
#[derive(Debug)]
pub struct Meter {
    at: Instant,
    cpu_s: BTreeMap<&'static str, f64>,
    counts: BTreeMap<&'static str, f64>,
}

/// What a thousand of something cost: names with their units, and values.
pub type Costs = Vec<(String, f64)>;

/// The mean of each cost over several runs.
pub fn mean(runs: &[Costs]) -> Costs {
    let names = runs.iter().flatten().map(|(name, _)| name).collect::<BTreeSet<_>>();
    let of = |name: &String| {
        let values: Vec<f64> = runs.iter().flatten().filter(|(known, _)| known == name).map(|(_, v)| *v).collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    names.into_iter().map(|name| (name.clone(), of(name))).collect()
}

/// Counters of the leader that say what consensus cost: name, factor, metric.
const COUNTERS: [(&str, f64, &str); 4] = [
    ("log entries", 1.0, "steersman_raft_last_log_index"),
    ("commands", 1.0, "steersman_raft_batch_commands_sum"),
    ("syncs", 1.0, "steersman_raft_fsync_seconds_count"),
    ("ms in syncs", 1e3, "steersman_raft_fsync_seconds_sum"),
];

impl Meter {
    /// Reads it.
    ///
    /// # Errors
    /// If the leader's metrics cannot be read.
    pub async fn read(cluster: &mut Cluster) -> Result<Self> {
        let leader = cluster.wait_leader().await.leader;
        let mut cpu_s = BTreeMap::from([("this client", spent_s(std::process::id()))]);
        for id in cluster.master_ids() {
            let spent: f64 = cluster.master(id).process.pid().map_or(0.0, spent_s);
            *cpu_s.entry(if id == leader { "the leader" } else { "both followers" }).or_default() += spent;
        }
        for n in 1..=cluster.settings.workers {
            let pids = cluster.worker(&format!("w{n}")).process.all_pids();
            *cpu_s.entry("the workers").or_default() += pids.into_iter().map(spent_s).sum::<f64>();
        }
        let address = cluster.master(leader).addresses().http;
        let (_, text) = http::get(&address, "/metrics").await.map_err(anyhow::Error::msg)?;
        let mut counts = BTreeMap::new();
        for (name, factor, metric) in COUNTERS {
            counts.insert(name, factor * sum_of(metric, &text));
        }
        Ok(Self { at: Instant::now(), cpu_s, counts })
    }

    /// What was spent since `before`, in ms and numbers, for each thousand of `things`.
    pub fn since(&self, before: &Self, things: f64) -> Costs {
        let per_thousand = 1_000.0 / things;
        let less = |now: &BTreeMap<&'static str, f64>, then: &BTreeMap<&'static str, f64>, name| {
            (now.get(name).unwrap_or(&0.0) - then.get(name).unwrap_or(&0.0)) * per_thousand
        };
        let cpu =
            self.cpu_s.keys().map(|name| (format!("CPU ms of {name}"), less(&self.cpu_s, &before.cpu_s, name) * 1e3));
        let counts = COUNTERS.iter().map(|(name, ..)| ((*name).to_owned(), less(&self.counts, &before.counts, name)));
        let wall = (self.at - before.at).as_secs_f64() * 1e3 * per_thousand;
        std::iter::once(("wall ms".to_owned(), wall)).chain(cpu).chain(counts).collect()
    }
}

/// The sum of a metric over its labels; 0 if it is not there.
fn sum_of(metric: &str, text: &str) -> f64 {
    let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(metric));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Processor time of a process and its reaped children, in seconds; 0 if it is gone.
fn spent_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    ticks(&stat) / rustix::param::clock_ticks_per_second() as f64
}

/// utime, stime, cutime, cstime of `/proc/PID/stat`: the 14th to the 17th field.
fn ticks(stat: &str) -> f64 {
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_a_name_with_spaces_and_brackets() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 1";
        assert!((ticks(stat) - 127.0).abs() < 1e-9);
        assert!(ticks("") == 0.0);
    }

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text = "# HELP a_b x\na_b{x=\"1 2\"} 3\na_b{x=\"2\"} 4.5\na_b_c 9\n";
        assert!((sum_of("a_b", text) - 7.5).abs() < 1e-9);
    }

    #[test]
    fn shapes_have_the_tasks_that_they_say() {
        let count = |shape: Shape| -> u32 { shape.groups(20, 10).iter().map(|group| group.count.max(1)).sum() };
        assert_eq!((count(Shape::Array), count(Shape::Specs)), (10, 10));
        assert_eq!((Shape::Array.groups(0, 10).len(), Shape::Specs.groups(0, 10).len()), (1, 10));
    }
}
