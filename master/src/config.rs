//! A master's configuration: every key with its default, its range and the checks that take two keys.
//!
//! What always holds: a [`MasterConfig`] that came out of [`MasterConfig::parse`] is valid as a whole, and a file that is
//! not valid is told everything that is wrong with it at once, each with its line. `config/steersman.toml` explains every
//! key to people; a test keeps that file equal to this one. Nothing here opens a file but [`MasterConfig::load`], and
//! nothing here decides what the values mean.

mod reader;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use steersman_proto::codes;
use steersman_raft_store::Engine;
use steersman_state::BrakePolicy;
use steersman_state::limits::Limits;

pub use reader::{ConfigError, Problem};
use reader::{Document, Problems, Section, did_you_mean};

/// More voters make every commit slower and no failure likelier to be survived in practice.
const MASTERS_MAX: usize = 9;
/// Text formats of the log.
const LOG_FORMATS: &[&str] = &["text", "json"];
/// Levels of the log.
const LOG_LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];
/// Listeners of one master.
const LISTENERS: &[&str] = &["api", "raft", "http"];

/// A section of numbers and switches: struct, defaults, reading and ranges from one table.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr, $range:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            fn read(mut section: Section<'_>, problems: &mut Problems) -> Self {
                let read = Self { $($field: section.get(stringify!($field), problems).unwrap_or($default),)* };
                section.finish(problems);
                read
            }

            fn check_ranges(&self, section: &str, problems: &mut Problems) {
                $(problems.range(&format!("{section}.{}", stringify!($field)), &self.$field, $range);)*
            }
        }
    };
}

section! {
    /// Raft's clock and the size of its log. Defaults are for a LAN.
    RaftTiming {
        /// Between two heartbeats of the leader.
        heartbeat_ms: u64 = 60, 10..=10_000;
        /// A follower that heard nothing for a random time from here…
        election_min_ms: u64 = 200, 50..=60_000;
        /// …to here stands for election. Also how long a leader's silence protects it from others' candidacies.
        election_max_ms: u64 = 300, 60..=120_000;
        /// Hands the office on as soon as the leader's host refuses connections, instead of waiting for the timers.
        fast_takeover: bool = true, 0..=1;
        /// A snapshot is built after so many entries.
        snapshot_entries: u64 = 20_000, 100..=10_000_000;
        /// So many entries before the snapshot are kept for followers that are a little behind.
        keep_entries: u64 = 2_000, 0..=1_000_000;
        /// Entries in one message to a follower.
        append_entries_max: u64 = 64, 1..=4_096;
        /// Deleted log entries per step: large deletes stall the store.
        purge_batch_entries: u64 = 256, 1..=4_096;
        /// One piece of a snapshot must be acknowledged within this time.
        install_snapshot_timeout_ms: u64 = 20_000, 10_000..=600_000;
        /// A master whose disk has not finished a write for so long gives up its office.
        disk_stall_ms: u64 = 2_000, 100..=60_000;
        /// The leader has the states of all masters compared so often; 0 never.
        audit_interval_ms: u64 = 600_000, 0..=7 * 24 * 3_600_000;
    }
}

section! {
    /// Bounds of one master's queues, messages and requests.
    NodeLimits {
        /// Commands that wait for the log; more are answered OVERLOADED.
        proposals_queued_max: u64 = 100_000, 1..=10_000_000;
        /// Bytes of commands in one log entry.
        batch_bytes_max: u64 = 1 << 20, 64 << 10..=16 << 20;
        /// Commands in one log entry.
        batch_commands_max: u64 = 4_096, 1..=65_536;
        /// One gRPC message.
        message_bytes_max: u64 = 16 << 20, 1 << 20..=64 << 20;
        /// Specs of one submit call, encoded.
        submit_bytes_max: u64 = 8 << 20, 64 << 10..=64 << 20;
        /// Tasks of one submit call.
        submit_tasks_max: u64 = 1_000_000, 1..=10_000_000;
        /// Groups of one submit call.
        submit_groups_max: u64 = 10_000, 1..=100_000;
        /// Command, environment and payload of one task.
        payload_bytes_max: u64 = 1 << 20, 1_024..=8 << 20;
        /// Ids in one cancel or retry call.
        ids_per_call_max: u64 = 10_000, 1..=100_000;
        /// Callers that wait for tasks.
        waiters_max: u64 = 10_000, 1..=1_000_000;
        /// Open event streams, leader watches and snapshot downloads. Every worker keeps a watch at every master.
        streams_max: u64 = 50_000, 1..=1_000_000;
        /// Unfinished tasks in the cluster.
        tasks_unfinished_max: u64 = 10_000_000, 1_000..=100_000_000;
        /// Registered workers, offline ones included.
        workers_max: u64 = 100_000, 1..=1_000_000;
        /// Slots of one worker.
        capacity_max: u64 = 100_000, 1..=1_000_000;
    }
}

section! {
    /// How workers are believed.
    WorkerTiming {
        /// Between two heartbeats, for workers that do not ask for another interval.
        heartbeat_ms: u64 = 1_000, 50..=60_000;
        /// How long a silent worker is believed.
        lease_ms: u64 = 10_000, 500..=3_600_000;
        /// Share of the workers that may be lost within the window before the brake holds; 100: there is no brake.
        brake_share_percent: u64 = 30, 0..=100;
        /// Losses count for so long.
        brake_window_ms: u64 = 60_000, 1_000..=86_400_000;
        /// So many workers may be lost within the window in any case.
        brake_workers_min: u64 = 2, 0..=1_000_000;
    }
}

section! {
    /// How much of the past is kept.
    Retention {
        /// Finished tasks.
        finished_max: u64 = 200_000, 0..=100_000_000;
        /// Finished tasks, by age.
        finished_age_ms: u64 = 24 * 3_600_000, 1_000..=366 * 24 * 3_600_000;
        /// Remembered replies.
        replies_max: u64 = 200_000, 1_000..=10_000_000;
        /// Remembered replies, by age.
        replies_age_ms: u64 = 15 * 60_000, 60_000..=24 * 3_600_000;
        /// Events.
        events_max: u64 = 200_000, 1_000..=10_000_000;
        /// Offline workers that hold nothing, by age.
        workers_offline_age_ms: u64 = 24 * 3_600_000, 60_000..=366 * 24 * 3_600_000;
        /// Attempts remembered in one task.
        attempts_max: u64 = 10, 2..=100;
    }
}

section! {
    /// Going down in good order.
    Shutdown {
        /// Handing leadership to another master.
        transfer_ms: u64 = 2_000, 0..=60_000;
        /// Open calls may take so long to end; then the process ends without them.
        drain_ms: u64 = 5_000, 0..=600_000;
    }
}

/// Where the log goes and how it looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Log {
    /// `text` or `json`.
    pub format: String,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: "text".to_owned(), level: "info".to_owned() }
    }
}

/// `host:port` of the three listeners of a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// Clients and workers.
    pub api: String,
    /// Other masters.
    pub raft: String,
    /// Metrics and probes.
    pub http: String,
}

impl Default for Addresses {
    fn default() -> Self {
        let at = |port: u16| format!("127.0.0.1:{port}");
        Self { api: at(7400), raft: at(7401), http: at(7402) }
    }
}

impl Addresses {
    /// The addresses with the names of their keys.
    pub fn named(&self) -> [(&'static str, &str); 3] {
        [("api", &self.api), ("raft", &self.raft), ("http", &self.http)]
    }
}

/// One of the initial masters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MasterEntry {
    /// Chosen by the operator, never used again.
    pub id: u64,
    /// `host:port` for clients and workers.
    pub api: String,
    /// `host:port` for other masters.
    pub raft: String,
    /// `host:port` for metrics and probes.
    pub http: String,
}

impl MasterEntry {
    /// Its three addresses.
    pub fn addresses(&self) -> Addresses {
        Addresses { api: self.api.clone(), raft: self.raft.clone(), http: self.http.clone() }
    }
}

/// Everything that a master is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MasterConfig {
    /// Which master this is. At least 1, never used again in this cluster.
    pub node_id: u64,
    /// Where its log and snapshots live. One process at a time.
    pub data_dir: PathBuf,
    /// What keeps the log there: sled or fjall. A directory keeps the engine that it began with.
    pub engine: String,
    /// Name of the cluster, the same at all its masters.
    pub cluster: String,
    /// Waits to be added to a running cluster instead of forming one from `masters`.
    pub join: bool,
    /// Allows listeners beyond loopback though nothing is encrypted or authenticated.
    pub insecure: bool,
    /// Where it listens.
    pub listen: Addresses,
    /// Where others reach it. Default: its own entry in `masters`, else `listen`.
    pub advertise: Addresses,
    /// Raft's timing.
    pub raft: RaftTiming,
    /// Bounds of this node.
    pub limits: NodeLimits,
    /// Heartbeats and leases of workers. The lease is the initial replicated one.
    pub workers: WorkerTiming,
    /// Initial replicated limits of the past.
    pub retention: Retention,
    /// The log.
    pub log: Log,
    /// Going down.
    pub shutdown: Shutdown,
    /// The initial masters, the same list at all of them. Only the first start of a cluster uses it.
    pub masters: Vec<MasterEntry>,
}

impl Default for MasterConfig {
    /// One master on loopback with data in `data`: what `config/steersman.toml` shows.
    fn default() -> Self {
        let own = Addresses::default();
        let entry = MasterEntry { id: 1, api: own.api.clone(), raft: own.raft.clone(), http: own.http.clone() };
        Self {
            node_id: 1,
            data_dir: PathBuf::from("data"),
            engine: Engine::default().name().to_owned(),
            cluster: "default".to_owned(),
            join: false,
            insecure: false,
            listen: own.clone(),
            advertise: own,
            raft: RaftTiming::default(),
            limits: NodeLimits::default(),
            workers: WorkerTiming::default(),
            retention: Retention::default(),
            log: Log::default(),
            shutdown: Shutdown::default(),
            masters: vec![entry],
        }
    }
}

impl MasterConfig {
    /// Reads and checks TOML. `origin` is the file's name, for messages.
    ///
    /// # Errors
    /// Every problem there is, each with its line.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let document = Document::parse(text, origin)?;
        let mut problems = Problems::default();
        let config = Self::read(document.root(), &mut problems);
        config.check(&mut problems);
        problems.finish(origin)?;
        Ok(config)
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// If it can't be read, and as [`MasterConfig::parse`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("cannot read the file: {error}");
            let problem = Problem { line: None, key: String::new(), message, code: codes::CONFIG };
            ConfigError { origin: origin.clone(), problems: vec![problem] }
        })?;
        Self::parse(&text, &origin)
    }

    /// Checks a configuration that was built or changed in code.
    ///
    /// # Errors
    /// Every problem there is, without lines.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Problems::default();
        self.check(&mut problems);
        problems.finish("configuration")
    }

    /// What is allowed and yet worth a loud word in the log at the start.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let beyond = self.listen.named().into_iter().filter(|(_, address)| !is_loopback(address));
        for (name, address) in beyond {
            warnings
                .push(format!("listen.{name} = {address} is neither encrypted nor authenticated (insecure = true)"));
        }
        if self.masters.len() > 1 && self.masters.len().is_multiple_of(2) {
            let (n, f) = (self.masters.len(), (self.masters.len() - 1) / 2);
            warnings
                .push(format!("{n} masters survive the failure of {f}, as {} would: an odd number is better", n - 1));
        }
        warnings
    }

    /// The replicated limits that a new cluster starts with. A running cluster keeps those in its log.
    pub fn limits(&self) -> Limits {
        Limits {
            tasks_unfinished_max: self.limits.tasks_unfinished_max,
            tasks_finished_kept_max: self.retention.finished_max,
            tasks_finished_kept_ms: self.retention.finished_age_ms,
            replies_kept_max: self.retention.replies_max,
            replies_kept_ms: self.retention.replies_age_ms,
            events_kept_max: self.retention.events_max,
            workers_max: self.limits.workers_max,
            workers_offline_kept_ms: self.retention.workers_offline_age_ms,
            capacity_max: narrow(self.limits.capacity_max),
            lease_ms: narrow(self.workers.lease_ms),
            attempts_kept_max: narrow(self.retention.attempts_max),
        }
    }

    /// The brake's policy that a new cluster starts with. A running cluster keeps the one in its log.
    pub fn brake_policy(&self) -> BrakePolicy {
        BrakePolicy {
            share_percent: narrow(self.workers.brake_share_percent),
            window_ms: self.workers.brake_window_ms,
            workers_min: narrow(self.workers.brake_workers_min),
        }
    }

    /// What keeps the log; only a checked configuration names one that there is.
    pub fn engine(&self) -> Engine {
        Engine::named(&self.engine).unwrap_or_default()
    }

    /// The whole configuration as TOML, defaults included.
    pub fn render(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
    }

    fn read(mut root: Section<'_>, problems: &mut Problems) -> Self {
        let default = Self::default();
        let node_id = required(&mut root, "node_id", 1, problems);
        let data_dir: String = required(&mut root, "data_dir", "data".to_owned(), problems);
        let masters: Vec<_> =
            root.sections("masters", problems).into_iter().map(|section| read_master(section, problems)).collect();
        let listen = read_addresses(root.section("listen", problems), &default.listen, problems);
        let config = Self {
            node_id,
            data_dir: PathBuf::from(data_dir),
            engine: root.get("engine", problems).unwrap_or(default.engine),
            cluster: root.get("cluster", problems).unwrap_or(default.cluster),
            join: root.get("join", problems).unwrap_or(default.join),
            insecure: root.get("insecure", problems).unwrap_or(default.insecure),
            advertise: read_addresses(
                root.section("advertise", problems),
                &advertised(node_id, &masters, &listen),
                problems,
            ),
            listen,
            raft: RaftTiming::read(root.section("raft", problems), problems),
            limits: NodeLimits::read(root.section("limits", problems), problems),
            workers: WorkerTiming::read(root.section("workers", problems), problems),
            retention: Retention::read(root.section("retention", problems), problems),
            log: read_log(root.section("log", problems), problems),
            shutdown: Shutdown::read(root.section("shutdown", problems), problems),
            masters,
        };
        root.finish(problems);
        config
    }

    fn check(&self, problems: &mut Problems) {
        self.raft.check_ranges("raft", problems);
        self.limits.check_ranges("limits", problems);
        self.workers.check_ranges("workers", problems);
        self.retention.check_ranges("retention", problems);
        self.shutdown.check_ranges("shutdown", problems);
        self.check_identity(problems);
        self.check_timing(problems);
        self.check_sizes(problems);
        self.check_listeners(problems);
        self.check_advertised(problems);
        self.check_masters(problems);
        one_of("engine", &self.engine, &Engine::ALL.map(Engine::name), problems);
        one_of("log.format", &self.log.format, LOG_FORMATS, problems);
        one_of("log.level", &self.log.level, LOG_LEVELS, problems);
    }

    fn check_identity(&self, problems: &mut Problems) {
        // TOML numbers are signed.
        problems.range("node_id", &self.node_id, 1..=i64::MAX as u64);
        if self.data_dir.as_os_str().is_empty() {
            problems.add("data_dir", "is empty: name a directory of this node's own");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.cluster.is_empty() || self.cluster.len() > 64 || !self.cluster.chars().all(plain) {
            problems.add("cluster", "must be 1 to 64 letters, digits, '-', '_' or '.'");
        }
    }

    fn check_timing(&self, problems: &mut Problems) {
        let raft = &self.raft;
        if raft.election_min_ms <= 2 * raft.heartbeat_ms {
            let (min, beat) = (raft.election_min_ms, raft.heartbeat_ms);
            let need = 2 * beat + 1;
            problems.add(
                "raft.election_min_ms",
                format!(
                    "{min} is too short for heartbeat_ms = {beat}: one lost heartbeat would unseat the leader; allowed is {need} ms or more"
                ),
            );
        }
        if raft.election_max_ms <= raft.election_min_ms {
            let (min, max) = (raft.election_min_ms, raft.election_max_ms);
            problems.add("raft.election_max_ms", format!("{max} must be greater than election_min_ms = {min}"));
        }
        let (beat, lease) = (self.workers.heartbeat_ms, self.workers.lease_ms);
        if lease < 3 * beat {
            let need = 3 * beat;
            problems.add(
                "workers.lease_ms",
                format!("{lease} is less than three heartbeats of {beat} ms: allowed is {need} ms or more"),
            );
        }
    }

    fn check_sizes(&self, problems: &mut Problems) {
        let (raft, limits) = (&self.raft, &self.limits);
        let pairs = [
            ("raft.keep_entries", raft.keep_entries, "raft.snapshot_entries", raft.snapshot_entries),
            ("limits.payload_bytes_max", limits.payload_bytes_max, "limits.submit_bytes_max", limits.submit_bytes_max),
            ("limits.submit_bytes_max", limits.submit_bytes_max, "limits.message_bytes_max", limits.message_bytes_max),
            ("limits.batch_bytes_max", limits.batch_bytes_max, "limits.message_bytes_max", limits.message_bytes_max),
            (
                "limits.submit_tasks_max",
                limits.submit_tasks_max,
                "limits.tasks_unfinished_max",
                limits.tasks_unfinished_max,
            ),
        ];
        for (small_key, small, large_key, large) in pairs {
            if small > large {
                problems.add(small_key, format!("{small} must not be greater than {large_key} = {large}"));
            }
        }
    }

    fn check_listeners(&self, problems: &mut Problems) {
        let mut seen = BTreeMap::new();
        for (name, address) in self.listen.named() {
            let key = format!("listen.{name}");
            let Some((_, port)) = checked_address(&key, address, problems) else { continue };
            if !self.insecure && !is_loopback(address) {
                problems.add_coded(
                    &key,
                    format!(
                        "{address} is beyond loopback, and nothing is encrypted or authenticated: listen on 127.0.0.1, or set insecure = true on a trusted network"
                    ),
                    codes::INSECURE_LISTENER,
                );
            }
            if port != 0
                && let Some(other) = seen.insert(address.to_owned(), name)
            {
                problems.add(&key, format!("{address} is also listen.{other}: each listener needs its own port"));
            }
        }
    }

    fn check_advertised(&self, problems: &mut Problems) {
        let entry = self.masters.iter().find(|m| m.id == self.node_id).map(MasterEntry::addresses);
        let listed = entry.as_ref().map(Addresses::named);
        for (n, (name, address)) in self.advertise.named().into_iter().enumerate() {
            let key = format!("advertise.{name}");
            check_reachable(&key, address, problems);
            if let Some((_, listed)) = listed.map(|named| named[n])
                && listed != address
            {
                problems.add(&key, format!("{address} differs from this master's entry in masters ({listed})"));
            }
        }
    }

    fn check_masters(&self, problems: &mut Problems) {
        let known = self.masters.iter().any(|m| m.id == self.node_id);
        let (id, n) = (self.node_id, self.masters.len());
        if self.join && known {
            problems
                .add("join", format!("true, though node_id = {id} is one of the initial masters: do one or the other"));
        } else if !self.join && n == 0 {
            problems.add("masters", "empty: list the initial masters as [[masters]], or set join = true");
        } else if !self.join && !known {
            let ids: Vec<_> = self.masters.iter().map(|m| m.id.to_string()).collect();
            let ids = ids.join(", ");
            problems.add("node_id", format!("{id} is not one of masters ({ids}): add it there, or set join = true"));
        }
        if n > MASTERS_MAX {
            problems.add("masters", format!("{n} masters: allowed are at most {MASTERS_MAX}"));
        }
        self.check_entries(problems);
    }

    fn check_entries(&self, problems: &mut Problems) {
        let (mut ids, mut addresses) = (BTreeMap::new(), BTreeMap::new());
        for (n, master) in self.masters.iter().enumerate() {
            let key = |name: &str| format!("masters[{n}].{name}");
            problems.range(&key("id"), &master.id, 1..=i64::MAX as u64);
            if let Some(other) = ids.insert(master.id, n) {
                problems.add(&key("id"), format!("{} is also the id of masters[{other}]", master.id));
            }
            for (name, address) in master.addresses().named() {
                check_reachable(&key(name), address, problems);
                if let Some(other) = addresses.insert(address.to_owned(), key(name)) {
                    problems.add(&key(name), format!("{address} is also {other}"));
                }
            }
        }
    }
}

/// Where a master is reached if its `advertise` does not say: its own entry, else where it listens.
fn advertised(node_id: u64, masters: &[MasterEntry], listen: &Addresses) -> Addresses {
    masters.iter().find(|m| m.id == node_id).map_or_else(|| listen.clone(), MasterEntry::addresses)
}

fn required<T: reader::Setting>(root: &mut Section<'_>, key: &'static str, stand_in: T, problems: &mut Problems) -> T {
    let before = problems.count();
    let value = root.get(key, problems);
    if value.is_none() && problems.count() == before {
        problems.add(&root.path_of(key), "is missing: it has no default");
    }
    value.unwrap_or(stand_in)
}

fn read_master(mut section: Section<'_>, problems: &mut Problems) -> MasterEntry {
    let entry = MasterEntry {
        id: required(&mut section, "id", 1, problems),
        api: required(&mut section, "api", String::new(), problems),
        raft: required(&mut section, "raft", String::new(), problems),
        http: required(&mut section, "http", String::new(), problems),
    };
    section.finish(problems);
    entry
}

fn read_addresses(mut section: Section<'_>, default: &Addresses, problems: &mut Problems) -> Addresses {
    let [api, raft, http] = [0, 1, 2].map(|n: usize| {
        let given: Option<String> = section.get(LISTENERS[n], problems);
        given.unwrap_or_else(|| default.named()[n].1.to_owned())
    });
    section.finish(problems);
    Addresses { api, raft, http }
}

fn read_log(mut section: Section<'_>, problems: &mut Problems) -> Log {
    let default = Log::default();
    let format = section.get("format", problems).unwrap_or(default.format);
    let level = section.get("level", problems).unwrap_or(default.level);
    section.finish(problems);
    Log { format, level }
}

fn one_of(key: &str, value: &str, allowed: &[&str], problems: &mut Problems) {
    if !allowed.contains(&value) {
        problems.add(key, format!("{value:?} is not one of {}{}", allowed.join(", "), nearest(value, allowed)));
    }
}

fn nearest(value: &str, allowed: &[&str]) -> String {
    let hint = did_you_mean(value, allowed);
    if hint.starts_with("; did") { hint } else { String::new() }
}

/// An address that other hosts connect to.
fn check_reachable(key: &str, address: &str, problems: &mut Problems) {
    if address.is_empty() && problems.has(key) {
        return;
    }
    let Some((host, port)) = checked_address(key, address, problems) else { return };
    if port == 0 {
        problems.add(key, format!("{address}: nobody can connect to port 0: name the port that others use"));
    }
    if matches!(host.as_str(), "0.0.0.0" | "[::]") {
        problems.add(key, format!("{address}: nobody can connect to {host}: name the address that others use"));
    }
}

fn checked_address(key: &str, address: &str, problems: &mut Problems) -> Option<(String, u16)> {
    let split = split_address(address);
    if split.is_none() {
        problems.add(key, format!("{address:?} is not host:port (for IPv6 [::1]:7400), with a port from 0 to 65535"));
    }
    split
}

/// Host and port of `host:port` or `[v6]:port`.
fn split_address(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let v6 = host.starts_with('[') && address.parse::<SocketAddr>().is_ok();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let named = !host.is_empty() && host.len() <= 253 && host.chars().all(plain);
    (v6 || named).then(|| (host.to_owned(), port))
}

/// Whether only this machine can reach it.
fn is_loopback(address: &str) -> bool {
    match address.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => split_address(address).is_some_and(|(host, _)| host == "localhost"),
    }
}

/// The ranges of the sections keep these values within 32 bits; a value that was set in code is cut off.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Whether others can connect to it: `host:port` with a port from 1.
pub(crate) fn is_address(address: &str) -> bool {
    split_address(address).is_some_and(|(_, port)| port != 0)
}

#[cfg(test)]
mod tests;
