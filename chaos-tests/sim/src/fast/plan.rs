//! What one run is: sizes, timings and settings, drawn from the seed.

use std::fmt::Write as _;

use steersman_master::config::MasterConfig;
use steersman_world::{Entropy as _, SeededEntropy};

use crate::run::Options;

/// Workers' places begin after this.
pub const WORKERS_AT: u64 = 1_000;
/// Clients' places begin after this.
pub const CLIENTS_AT: u64 = 2_000;

/// A run's plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything is derived from it.
    pub seed: u64,
    /// Masters at the beginning.
    pub masters: u64,
    /// Workers.
    pub workers: u64,
    /// Clients that submit, cancel and read.
    pub clients: u64,
    /// Simulated seconds under faults.
    pub seconds: u64,
    /// A snapshot after so many entries.
    pub snapshot_entries: u64,
    /// Entries kept before a snapshot.
    pub keep_entries: u64,
    /// Workers' heartbeats.
    pub heartbeat_ms: u64,
    /// How long a silent worker is believed.
    pub lease_ms: u64,
    /// Events that are kept.
    pub events_max: u64,
    /// Whether survivors take over at once when a leader's process dies.
    pub fast_takeover: bool,
    /// Faults only of these classes; empty means all.
    pub faults: Vec<String>,
    /// Every wall clock is so far ahead.
    pub wall_shift_ms: u64,
}

impl Plan {
    /// The plan of a seed, as far as the options leave it open.
    pub fn draw(seed: u64, options: &Options) -> Self {
        let numbers = SeededEntropy::new(seed ^ 0x9A1A);
        let masters = if numbers.below(3) == 0 { 5 } else { 3 };
        Self {
            seed,
            masters: options.masters.unwrap_or(masters),
            workers: 2 + numbers.below(3),
            clients: 3 + numbers.below(3),
            seconds: options.seconds.unwrap_or(60),
            snapshot_entries: 100 + numbers.below(300),
            keep_entries: numbers.below(60),
            heartbeat_ms: 200 + numbers.below(200),
            lease_ms: 1_500 + numbers.below(1_500),
            events_max: if numbers.below(3) == 0 { 1_000 } else { 200_000 },
            fast_takeover: numbers.below(4) > 0,
            faults: options.faults.clone(),
            wall_shift_ms: options.wall_shift_ms,
        }
    }

    /// The configuration of one master; `joins` if it is added later.
    ///
    /// # Errors
    /// If the product refuses it: then this plan is wrong.
    pub fn config(&self, id: u64, joins: bool) -> anyhow::Result<MasterConfig> {
        let mut text = format!("node_id = {id}\ninsecure = true\ndata_dir = \"unused\"\njoin = {joins}\n");
        for (section, name) in [("listen", "0.0.0.0"), ("advertise", &*format!("m{id}"))] {
            write!(text, "[{section}]\napi = \"{name}:7400\"\nraft = \"{name}:7401\"\nhttp = \"{name}:7402\"\n")?;
        }
        for id in 1..=self.masters {
            write!(
                text,
                "[[masters]]\nid = {id}\napi = \"m{id}:7400\"\nraft = \"m{id}:7401\"\nhttp = \"m{id}:7402\"\n"
            )?;
        }
        let Self { snapshot_entries, keep_entries, heartbeat_ms, lease_ms, events_max, fast_takeover, .. } = self;
        write!(text, "[raft]\nsnapshot_entries = {snapshot_entries}\nkeep_entries = {keep_entries}\n")?;
        write!(text, "fast_takeover = {fast_takeover}\n[retention]\nevents_max = {events_max}\n")?;
        write!(text, "[workers]\nheartbeat_ms = {heartbeat_ms}\nlease_ms = {lease_ms}\n")?;
        Ok(MasterConfig::parse(&text, "simulated")?)
    }
}
