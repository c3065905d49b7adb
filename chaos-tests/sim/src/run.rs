//! What every engine takes and gives back.

use std::collections::BTreeMap;

use steersman_evidence::record::Record;
use steersman_evidence::verdict::Verdict;

/// What a run is asked to be. Whatever is `None` is drawn from the seed.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How many masters: 3 or 5.
    pub masters: Option<u64>,
    /// Simulated seconds under faults; the time to heal and drain comes on top.
    pub seconds: Option<u64>,
    /// Only these classes of fault; empty means all.
    pub faults: Vec<String>,
    /// Moves every wall clock by so many ms; must change nothing but what is shown.
    pub wall_shift_ms: u64,
}

/// What a run left behind.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Everything that was seen, in order: the same seed gives the same, byte for byte.
    pub records: Vec<Record>,
    /// What the checkers say.
    pub verdicts: Vec<Verdict>,
    /// What was covered, by name: elections, lease expiries, snapshot installs, operations of each kind, faults of each class.
    pub coverage: BTreeMap<String, u64>,
    /// Simulated ms.
    pub simulated_ms: u64,
}
