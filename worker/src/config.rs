//! What a worker is told: one TOML table, parsed once, validated as a whole.
//!
//! What always holds: an unknown key is an error that names the line and the nearest known key; [`WorkerConfig::validate`]
//! reports every problem, not only the first. It does not read the environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Every key, for the nearest-key hint.
pub const KEYS: &[&str] = &[
    "name",
    "data_dir",
    "masters",
    "host",
    "port",
    "capacity",
    "labels",
    "resources",
    "heartbeat_ms",
    "output_bytes_max",
    "outputs_bytes_total_max",
    "outputs_kept_max",
    "outputs_kept_ms",
    "kill_grace_ms",
    "drain_deadline_ms",
    "http",
    "insecure",
];

/// All of a worker's configuration. Durations are milliseconds, sizes bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Unique among living workers; 1 to 128 characters.
    pub name: String,
    /// Identity, running attempts and outputs. Belongs to one worker.
    pub data_dir: PathBuf,
    /// `host:port` of the masters' API listeners. One is enough to find the others.
    pub masters: Vec<String>,
    /// Advertised host, for people.
    pub host: String,
    /// Advertised port, for people; 0: none.
    pub port: u16,
    /// Slots offered: how many attempts run at a time. Default 10.
    pub capacity: u32,
    /// What tasks may require of a worker.
    pub labels: BTreeMap<String, String>,
    /// Countable things that tasks may take, e.g. `gpu = 2`.
    pub resources: BTreeMap<String, u64>,
    /// Between two heartbeats. Default 1000; the replicated config wins.
    pub heartbeat_ms: u32,
    /// Kept of each of stdout and stderr of an attempt; past it the oldest bytes are dropped and counted. Default 16 MiB.
    pub output_bytes_max: u64,
    /// All outputs together; past it the oldest finished attempt's output goes. Default 4 GiB.
    pub outputs_bytes_total_max: u64,
    /// Number of finished attempts whose output is kept: bounds the inodes. Default 100,000.
    pub outputs_kept_max: u64,
    /// How long a finished attempt's output is kept, by the monotonic clock of one worker process. Default 7 days.
    pub outputs_kept_ms: u64,
    /// Between SIGTERM and SIGKILL for tasks that do not say. Default 5000.
    pub kill_grace_ms: u64,
    /// How long a graceful shutdown waits for what runs. Default 60000; 0: no deadline.
    pub drain_deadline_ms: u64,
    /// Where `/metrics`, `/livez` and `/readyz` are served; absent: nowhere.
    pub http: Option<String>,
    /// Allows a listener beyond loopback without TLS.
    pub insecure: bool,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            data_dir: PathBuf::new(),
            masters: Vec::new(),
            host: "127.0.0.1".into(),
            port: 0,
            capacity: 10,
            labels: BTreeMap::new(),
            resources: BTreeMap::new(),
            heartbeat_ms: 1_000,
            output_bytes_max: 16 << 20,
            outputs_bytes_total_max: 4 << 30,
            outputs_kept_max: 100_000,
            outputs_kept_ms: 7 * 24 * 3_600_000,
            kill_grace_ms: 5_000,
            drain_deadline_ms: 60_000,
            http: None,
            insecure: false,
        }
    }
}

/// What is wrong with a configuration: one line per problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("\n"))]
pub struct ConfigError {
    /// Each names the key (and the line, where known), what is wrong and the remedy.
    pub problems: Vec<String>,
}

impl ConfigError {
    fn one(problem: String) -> Self {
        Self { problems: vec![problem] }
    }
}

impl WorkerConfig {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// With every problem found.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::one(format!("{}: cannot be read: {error}", path.display())))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses and validates `text`; `origin` is named in errors.
    ///
    /// # Errors
    /// With the line and the nearest known key, or with every problem found.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| explain(&error, text, origin))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks the whole.
    ///
    /// # Errors
    /// With every problem found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        self.check_names(&mut problems);
        self.check_numbers(&mut problems);
        self.check_http(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }

    /// Whether somebody beyond this machine can reach the HTTP listener, unencrypted.
    pub fn listens_beyond_loopback(&self) -> bool {
        self.http.as_deref().is_some_and(|http| !is_loopback(http))
    }

    fn check_names(&self, problems: &mut Vec<String>) {
        if self.name.is_empty() || self.name.len() > 128 {
            problems.push(format!("name: has {} characters; give 1 to 128", self.name.len()));
        }
        if self.data_dir.as_os_str().is_empty() {
            problems.push("data_dir: is not set; name a directory that belongs to this worker alone".into());
        }
        if self.masters.is_empty() {
            problems.push("masters: is empty; name at least one host:port".into());
        }
        for master in &self.masters {
            if !is_host_port(master) {
                problems.push(format!("masters: \"{master}\" is not host:port, e.g. \"127.0.0.1:7400\""));
            }
        }
        for key in self.labels.keys().chain(self.resources.keys()) {
            if key.is_empty() || key.len() > 128 {
                problems.push(format!("labels, resources: the key \"{key}\" must have 1 to 128 characters"));
            }
        }
    }

    fn check_numbers(&self, problems: &mut Vec<String>) {
        let mut within = |key: &str, value: u64, low: u64, high: u64| {
            if value < low || value > high {
                problems.push(format!("{key}: is {value}; the limits are {low} to {high}"));
            }
        };
        within("capacity", self.capacity.into(), 1, 100_000);
        within("heartbeat_ms", self.heartbeat_ms.into(), 10, 60_000);
        within("output_bytes_max", self.output_bytes_max, 4_096, 1 << 40);
        within("outputs_bytes_total_max", self.outputs_bytes_total_max, self.output_bytes_max, 1 << 50);
        within("outputs_kept_max", self.outputs_kept_max, 1, 10_000_000);
        within("outputs_kept_ms", self.outputs_kept_ms, 1_000, 10 * 366 * 24 * 3_600_000);
        within("kill_grace_ms", self.kill_grace_ms, 0, 3_600_000);
        within("drain_deadline_ms", self.drain_deadline_ms, 0, 30 * 24 * 3_600_000);
    }

    fn check_http(&self, problems: &mut Vec<String>) {
        let Some(http) = &self.http else { return };
        if !is_host_port(http) {
            problems.push(format!("http: \"{http}\" is not host:port, e.g. \"127.0.0.1:7410\""));
        } else if !is_loopback(http) && !self.insecure {
            problems.push(format!(
                "http: \"{http}\" is beyond loopback and there is no TLS; listen on 127.0.0.1, or set insecure = true on a trusted network"
            ));
        }
    }
}

fn is_host_port(addr: &str) -> bool {
    addr.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn is_loopback(addr: &str) -> bool {
    match addr.parse::<SocketAddr>() {
        Ok(addr) => addr.ip().is_loopback(),
        Err(_) => addr.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
    }
}

fn explain(error: &toml::de::Error, text: &str, origin: &str) -> ConfigError {
    let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
    let message = match unknown_key(error.message()) {
        Some(key) => format!("unknown key \"{key}\"{}", nearest(key)),
        None => error.message().trim().replace('\n', " "),
    };
    ConfigError::one(format!("{origin}:{line}: {message}"))
}

fn unknown_key(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

fn nearest(key: &str) -> String {
    let best = KEYS.iter().map(|known| (strsim::jaro_winkler(key, known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, known)) if score > 0.75 => format!("; did you mean \"{known}\"?"),
        _ => format!("; the keys are: {}", KEYS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = "name = \"w1\"\ndata_dir = \"/d\"\nmasters = [\"127.0.0.1:7400\"]\n";

    fn problem(text: &str) -> String {
        WorkerConfig::parse(text, "w.toml").unwrap_err().to_string()
    }

    #[test]
    fn a_short_file_gets_the_defaults() {
        let config = WorkerConfig::parse(GOOD, "w.toml").unwrap();
        assert_eq!((config.capacity, config.heartbeat_ms, config.output_bytes_max), (10, 1_000, 16 << 20));
    }

    #[test]
    fn p15_an_unknown_key_names_line_and_nearest() {
        let text = format!("{GOOD}capcity = 3\n");
        assert_eq!(problem(&text), "w.toml:4: unknown key \"capcity\"; did you mean \"capacity\"?");
        assert!(problem(&format!("{GOOD}zzz = 3\n")).contains("the keys are: name, data_dir"));
    }

    #[test]
    fn p15_a_wrong_type_names_the_line() {
        let message = problem(&format!("{GOOD}capacity = \"many\"\n"));
        assert!(message.starts_with("w.toml:4: ") && message.contains("invalid type"), "{message}");
        assert!(problem("name = \n").starts_with("w.toml:1: "));
    }

    #[test]
    fn p15_every_problem_is_told_at_once() {
        let message = problem("capacity = 0\nhttp = \"0.0.0.0:80\"\nmasters = [\"nowhere\"]\n");
        for part in ["name: ", "data_dir: ", "\"nowhere\" is not host:port", "capacity: is 0", "beyond loopback"] {
            assert!(message.contains(part), "{part} is missing in: {message}");
        }
    }

    #[test]
    fn every_key_is_known_to_the_hint() {
        let told = problem(&format!("{GOOD}zzz = 3\n"));
        let parsed: Result<WorkerConfig, _> = toml::from_str("zzz = 1");
        let expected = parsed.unwrap_err().message().to_string();
        let named: Vec<&str> = expected.split('`').skip(3).step_by(2).collect();
        assert_eq!(named, KEYS, "{told}");
    }
}
