//! The processes of `steersman dev`: where they listen, how they start, how they end.
//!
//! What always holds: a node lives in a process group of its own, so that Ctrl-C reaches it only through `dev`; its stdin
//! is a pipe from `dev`, so that it ends by itself when `dev` is gone.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};

use super::faults::FaultSet;
use super::state::DevNode;
use crate::exit::{Failure, Outcome};

/// Where a node listens and what it is called. Kept beside the data, so that a restart finds the same addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// `master-1`, `worker-1`, …
    pub name: String,
    /// A master's id; `None` for a worker.
    pub master_id: Option<u64>,
    /// Of a master.
    pub api: String,
    /// Of a master.
    pub raft: String,
    /// Metrics and probes.
    pub http: String,
}

/// All places of one `dev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Masters first.
    pub places: Vec<Place>,
}

const LAYOUT_FILE: &str = "dev-layout.json";

impl Layout {
    /// The layout of a folder that was used before, if it was.
    pub fn load(dir: &Path) -> Outcome<Option<Self>> {
        let path = dir.join(LAYOUT_FILE);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let damaged = |error| Failure::local(format!("{}: {error}", path.display()), "use another --data-dir");
        serde_json::from_str(&text).map(Some).map_err(damaged)
    }

    /// Chooses ports: from `base_port` on, or free ones.
    pub fn choose(masters: u16, workers: u16, base_port: Option<u16>) -> Outcome<Self> {
        let ports = match base_port {
            Some(base) => ports_from(base, masters, workers)?,
            None => free_ports(usize::from(masters) * 3 + usize::from(workers))?,
        };
        let at = |port: u16| format!("127.0.0.1:{port}");
        let (for_masters, for_workers) = ports.split_at(usize::from(masters) * 3);
        let masters = for_masters.chunks_exact(3).zip(1u64..).map(|(ports, id)| Place {
            name: format!("master-{id}"),
            master_id: Some(id),
            api: at(ports[0]),
            raft: at(ports[1]),
            http: at(ports[2]),
        });
        let workers = for_workers.iter().zip(1..).map(|(port, n)| Place {
            name: format!("worker-{n}"),
            master_id: None,
            api: String::new(),
            raft: String::new(),
            http: at(*port),
        });
        Ok(Self { places: masters.chain(workers).collect() })
    }

    /// Writes the layout and a configuration file per node into `dir`.
    pub fn write(&self, dir: &Path, capacity: u32) -> Outcome {
        write_file(&dir.join(LAYOUT_FILE), &serde_json::to_string_pretty(self).unwrap_or_default())?;
        self.places
            .iter()
            .try_for_each(|place| write_file(&config_file(dir, place), &self.config(dir, place, capacity)))
    }

    /// API addresses of the masters.
    pub fn api_addresses(&self) -> Vec<String> {
        self.masters().map(|master| master.api.clone()).collect()
    }

    /// The masters' places.
    pub fn masters(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| place.master_id.is_some())
    }

    fn config(&self, dir: &Path, place: &Place, capacity: u32) -> String {
        let data_dir = toml::Value::from(dir.join(&place.name).display().to_string());
        let Some(id) = place.master_id else {
            let masters = toml::Value::from(self.api_addresses());
            return format!(
                "# Written by steersman dev.\nname = \"{}\"\ndata_dir = {data_dir}\nmasters = {masters}\n\
                 http = \"{}\"\ncapacity = {capacity}\ndrain_deadline_ms = 3000\n",
                place.name, place.http
            );
        };
        let lists = self.masters().map(|master| {
            format!(
                "\n[[masters]]\nid = {}\napi = \"{}\"\nraft = \"{}\"\nhttp = \"{}\"\n",
                master.master_id.unwrap_or(0),
                master.api,
                master.raft,
                master.http
            )
        });
        format!(
            "# Written by steersman dev.\nnode_id = {id}\ncluster = \"dev\"\ndata_dir = {data_dir}\n\n[listen]\n\
             api = \"{}\"\nraft = \"{}\"\nhttp = \"{}\"\n{}",
            place.api,
            place.raft,
            place.http,
            lists.collect::<String>()
        )
    }
}

fn write_file(path: &Path, text: &str) -> Outcome {
    let cannot = |error| Failure::local(format!("cannot write {}: {error}", path.display()), "use another --data-dir");
    fs::write(path, text).map_err(cannot)
}

fn config_file(dir: &Path, place: &Place) -> PathBuf {
    dir.join(format!("{}.toml", place.name))
}

/// Masters at base, base+10, base+20…: API, Raft, HTTP; workers' HTTP after them.
fn ports_from(base: u16, masters: u16, workers: u16) -> Outcome<Vec<u16>> {
    let offsets = (0..masters).flat_map(|n| [n * 10, n * 10 + 1, n * 10 + 2]);
    let offsets = offsets.chain((0..workers).map(|n| masters * 10 + n));
    let too_high = || Failure::usage(format!("--base-port {base} leaves no room below 65536"), "choose a lower one");
    offsets.map(|offset| base.checked_add(offset).ok_or_else(too_high)).collect()
}

/// Ports that nobody listens on at this moment. All are held until the last is found, so that they differ.
fn free_ports(count: usize) -> Outcome<Vec<u16>> {
    let none = |error| Failure::local(format!("cannot find a free port: {error}"), "choose one: --base-port 7400");
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>().map_err(none)?;
    listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()
        .map_err(none)
}

/// A node's process.
pub struct Node {
    /// What it is and where it listens.
    pub place: Place,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// Its process id.
    pub pid: u32,
    /// Frozen by a drill.
    pub paused: bool,
    /// Told to end by a drill.
    pub ending: bool,
    /// What is wrong with it.
    pub faults: FaultSet,
    child: Child,
    /// Held open as long as this value lives; waiting for the child would close it otherwise.
    stdin: Option<ChildStdin>,
}

impl Node {
    /// Starts the node by running this very program.
    pub fn start(dir: &Path, place: &Place) -> Outcome<Self> {
        let (config, log) = (config_file(dir, place), dir.join(format!("{}.log", place.name)));
        let cannot = |what: &str, error: std::io::Error| {
            Failure::local(format!("cannot {what} for {}: {error}", place.name), "see the folder of --data-dir")
        };
        let output =
            File::options().create(true).append(true).open(&log).map_err(|error| cannot("write the log", error))?;
        let errors = output.try_clone().map_err(|error| cannot("write the log", error))?;
        let program = std::env::current_exe().map_err(|error| cannot("find this program", error))?;
        let role = if place.master_id.is_some() { "master" } else { "worker" };
        let mut child = Command::new(program)
            .args([role, "start", "--exit-with-parent", "--faults", "--config"])
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(false)
            .spawn()
            .map_err(|error| cannot("start a process", error))?;
        let stdin = child.stdin.take();
        let (pid, faults) = (child.id().unwrap_or(0), FaultSet::default());
        Ok(Self { place: place.clone(), config, log, pid, paused: false, ending: false, faults, child, stdin })
    }

    /// For the state file.
    pub fn describe(&self) -> DevNode {
        let Place { name, api, raft, http, .. } = self.place.clone();
        DevNode { name, pid: self.pid, api, raft, http, log: self.log.clone() }
    }

    /// Waits for its end, and says how it ended.
    pub async fn ended(&mut self) -> String {
        use std::os::unix::process::ExitStatusExt as _;
        match self.child.wait().await {
            Ok(status) => crate::node::ending_of(status.code(), status.signal()),
            Err(error) => format!("cannot be waited for: {error}"),
        }
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        if let (Some(_), Ok(pid)) = (self.child.id(), i32::try_from(self.pid)) {
            // It may have ended in between: nothing to do then.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Tells it what is wrong with it from now on.
    ///
    /// # Errors
    /// When it does not listen (any more).
    pub async fn inflict(&mut self, faults: FaultSet) -> std::io::Result<()> {
        let stdin = self.stdin.as_mut().ok_or(std::io::ErrorKind::NotConnected)?;
        let line = serde_json::to_string(&faults)? + "\n";
        stdin.write_all(line.as_bytes()).await?;
        stdin.flush().await?;
        self.faults = faults;
        Ok(())
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].iter().map(|line| format!("    {line}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_written_files_are_valid_and_every_port_is_its_own() {
        let dir = Path::new("/tmp/some \"odd\" place");
        for base in [None, Some(7400)] {
            let layout = Layout::choose(3, 2, base).unwrap();
            let ports: std::collections::BTreeSet<&str> = layout
                .places
                .iter()
                .flat_map(|place| [place.api.as_str(), &place.raft, &place.http])
                .filter(|address| !address.is_empty())
                .collect();
            assert_eq!(ports.len(), 11);
            for place in &layout.places {
                let text = layout.config(dir, place, 4);
                match place.master_id {
                    Some(_) => drop(steersman_master::config::MasterConfig::parse(&text, "m").unwrap()),
                    None => drop(steersman_worker::WorkerConfig::parse(&text, "w").unwrap()),
                }
            }
        }
        assert!(ports_from(65_530, 3, 0).is_err());
    }
}
