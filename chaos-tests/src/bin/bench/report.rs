//! What was measured: rows in groups, with the machine they are of.

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::machine::Machine;
use crate::stats::Spread;

/// More raw values than that are left out of the file: the spread says enough.
const RAW_MAX: usize = 100;

/// Something that was measured several times.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What, in words.
    pub what: String,
    /// `ms`, `per second`, `MiB`.
    pub unit: &'static str,
    /// Of all values.
    pub spread: Spread,
    /// The values, if they are few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<f64>,
    /// What the machine alone would take for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Bound>,
    /// What a thousand of it cost: names with their units, and values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<(String, f64)>,
}

/// A limit of the machine that a row can be read against, in the row's unit.
#[derive(Debug, Clone, Serialize)]
pub struct Bound {
    /// What it is made of.
    pub of: String,
    /// Its value in this run.
    pub value: f64,
}

impl Row {
    /// A row of these values.
    ///
    /// # Errors
    /// If there are none.
    pub fn new(what: impl Into<String>, unit: &'static str, values: &[f64]) -> Result<Self> {
        let what = what.into();
        let spread = Spread::of(values).with_context(|| format!("nothing was measured for {what:?}"))?;
        let values = if values.len() <= RAW_MAX { values.to_vec() } else { Vec::new() };
        Ok(Self { what, unit, spread, values, limit: None, costs: Vec::new() })
    }

    /// With the limit that it leans on.
    pub fn against(mut self, of: &str, value: f64) -> Self {
        self.limit = Some(Bound { of: of.to_owned(), value });
        self
    }

    /// With what a thousand of it cost.
    pub fn costing(mut self, costs: impl IntoIterator<Item = (String, f64)>) -> Self {
        self.costs.extend(costs);
        self
    }
}

/// Rows that are measured together.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// Name of the group.
    pub group: String,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// Everything of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Whether this was the tiny version.
    pub smoke: bool,
    /// The limits first.
    pub sections: Vec<Section>,
}

impl Report {
    /// One that knows the machine and its limits.
    pub fn new(machine: Machine, smoke: bool, limits: Vec<Row>) -> Self {
        let mut report = Self { machine, smoke, sections: Vec::new() };
        report.add("limits", limits);
        report
    }

    /// Adds a group.
    pub fn add(&mut self, group: &str, rows: Vec<Row>) {
        self.sections.push(Section { group: group.to_owned(), rows });
    }
}
