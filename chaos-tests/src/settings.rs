//! What a test's cluster is like, and the configuration files that say so to its nodes.
//!
//! What always holds: everything that is not set here is the product's default, Raft's timing included; only leases and
//! heartbeats of workers are short, so that tests are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::ports::Port;
use crate::process::Launch;

/// Name of the cluster in all configurations.
pub const CLUSTER: &str = "chaos";

/// What a cluster is like.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Initial masters, with the ids 1, 2, …
    pub masters: u64,
    /// Workers, named `w1`, `w2`, …
    pub workers: usize,
    /// Slots of each worker.
    pub capacity: u32,
    /// Between two heartbeats of a worker.
    pub heartbeat_ms: u64,
    /// How long a silent worker is believed.
    pub lease_ms: u64,
    /// Further keys of the masters' configuration, e.g. `("raft.snapshot_entries", "100")`.
    pub master_keys: Vec<(&'static str, &'static str)>,
    /// Further keys of the workers' configuration, as they stand in the file.
    pub worker_lines: Vec<&'static str>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            masters: 3,
            workers: 2,
            capacity: 4,
            heartbeat_ms: 250,
            lease_ms: 2_000,
            master_keys: Vec::new(),
            worker_lines: Vec::new(),
        }
    }
}

impl Settings {
    /// The lease as a duration.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// The file of one master that is reached where it listens. `roster` are the initial masters; empty for one that joins.
    pub fn master_config(&self, id: u64, data: &Path, own: &Addresses, roster: &[(u64, Addresses)]) -> String {
        self.lodged_master_config(id, &Lodging::new(data, own), roster)
    }

    /// The file of one master that lives anywhere.
    pub fn lodged_master_config(&self, id: u64, lodging: &Lodging, roster: &[(u64, Addresses)]) -> String {
        let Lodging { data, listen, advertise, insecure, .. } = lodging;
        let mut text = format!("node_id = {id}\ndata_dir = \"{}\"\ncluster = \"{CLUSTER}\"\n", data.display());
        if *insecure {
            text += "insecure = true\n";
        }
        if roster.is_empty() {
            text += "join = true\n";
        }
        // Keys of no section come first, under the empty name.
        for (name, keys) in self.sections() {
            if !name.is_empty() {
                let _ = writeln!(text, "\n[{name}]");
            }
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        let _ = write!(text, "\n[listen]\n{}", listen.lines());
        if advertise != listen {
            let _ = write!(text, "\n[advertise]\n{}", advertise.lines());
        }
        for (id, addresses) in roster {
            let _ = write!(text, "\n[[masters]]\nid = {id}\n{}", addresses.lines());
        }
        text
    }

    fn sections(&self) -> BTreeMap<&str, BTreeMap<&str, String>> {
        let mut sections: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
        let mut set = |path: &'static str, value: String| {
            let (section, key) = path.split_once('.').unwrap_or(("", path));
            sections.entry(section).or_default().insert(key, value);
        };
        set("workers.heartbeat_ms", self.heartbeat_ms.to_string());
        set("workers.lease_ms", self.lease_ms.to_string());
        set("shutdown.drain_ms", "1000".to_owned());
        for (path, value) in &self.master_keys {
            set(path, (*value).to_owned());
        }
        sections
    }

    /// The file of one worker.
    pub fn worker_config(&self, name: &str, data: &Path, http: &str, masters: &[String]) -> String {
        let mut text = format!(
            "name = \"{name}\"\ndata_dir = \"{}\"\nmasters = {masters:?}\ncapacity = {}\nheartbeat_ms = {}\nhttp = \"{http}\"\n",
            data.display(),
            self.capacity,
            self.heartbeat_ms,
        );
        for line in &self.worker_lines {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// Where a node lives, apart from its folder.
#[derive(Debug)]
pub struct Lodging {
    /// Its data directory.
    pub data: PathBuf,
    /// Where it listens; of a worker only `http`.
    pub listen: Addresses,
    /// Where others reach it.
    pub advertise: Addresses,
    /// Whether it listens beyond loopback.
    pub insecure: bool,
    /// How its process is started.
    pub launch: Launch,
    /// Kept as long as it lives there.
    pub ports: Vec<Port>,
}

impl Lodging {
    /// Here, on loopback, reached where it listens.
    pub fn new(data: &Path, listen: &Addresses) -> Self {
        let (data, listen, advertise) = (data.to_owned(), listen.clone(), listen.clone());
        Self { data, listen, advertise, insecure: false, launch: Launch::default(), ports: Vec::new() }
    }

    /// Here, on free ports of loopback, with its data below `folder`.
    ///
    /// # Errors
    /// As [`Port::take`].
    pub fn here(folder: &Path) -> Result<Self> {
        let Ports([api, raft, http]) = Ports::take()?;
        let listen = Addresses { api: api.address(), raft: raft.address(), http: http.address() };
        let mut lodging = Self::new(&folder.join("data"), &listen);
        lodging.ports = vec![api, raft, http];
        Ok(lodging)
    }
}

/// The three listeners of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Clients and workers.
    pub api: String,
    /// Other masters.
    pub raft: String,
    /// Metrics and probes.
    pub http: String,
}

impl Addresses {
    fn lines(&self) -> String {
        format!("api = \"{}\"\nraft = \"{}\"\nhttp = \"{}\"\n", self.api, self.raft, self.http)
    }
}

/// The ports behind [`Addresses`].
#[derive(Debug)]
pub struct Ports([Port; 3]);

impl Ports {
    /// Takes three.
    ///
    /// # Errors
    /// As [`Port::take`].
    pub fn take() -> Result<Self> {
        Ok(Self([Port::take()?, Port::take()?, Port::take()?]))
    }

    /// As addresses.
    pub fn addresses(&self) -> Addresses {
        let [api, raft, http] = &self.0;
        Addresses { api: api.address(), raft: raft.address(), http: http.address() }
    }
}
