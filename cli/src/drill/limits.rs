//! What a drill may cost: the limits that an operator sets, their defaults, and how figures are held against them.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use steersman_evidence::report::svg::time;

use super::kind::Kind;
use super::measure::Figures;
use crate::units;

/// Limits; whatever is over one of them fails the drill.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Longest time between two acknowledged submits [default: 1s to 5s, by kind]
    #[arg(long, value_parser = units::duration, value_name = "DURATION")]
    max_gap: Option<Duration>,
    /// Acknowledged submits that are gone, or not finished in the end
    #[arg(long, default_value_t = 0, value_name = "N")]
    max_lost: u64,
    /// Tasks given to a second worker while the first attempt still counted
    #[arg(long, default_value_t = 0, value_name = "N")]
    max_twice: u64,
    /// Attempts after a task's first [default: 0; any number where workers are stopped]
    #[arg(long, value_name = "N")]
    max_reruns: Option<u64>,
    /// Workers declared lost that nobody had touched
    #[arg(long, default_value_t = 0, value_name = "N")]
    max_false_lost: u64,
    /// Calls that failed after all the retries of the client
    #[arg(long, default_value_t = 0, value_name = "N")]
    max_errors: u64,
    /// From the healing until all masters and workers are back
    #[arg(long, value_parser = units::duration, default_value = "30s", value_name = "DURATION")]
    max_recovery: Duration,
    /// 99th percentile from submit to finished while the fault was in force [default: no limit]
    #[arg(long, value_parser = units::duration, value_name = "DURATION")]
    max_p99: Option<Duration>,
}

/// What holds for one drill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// In µs.
    pub gap_us: u64,
    /// Tasks.
    pub lost: u64,
    /// Tasks.
    pub twice: u64,
    /// Attempts; absent: any number.
    pub reruns: Option<u64>,
    /// Workers.
    pub false_lost: u64,
    /// Calls.
    pub errors: u64,
    /// In µs.
    pub recovery_us: u64,
    /// In µs; absent: any.
    pub p99_us: Option<u64>,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl LimitArgs {
    /// For one kind.
    pub fn of(&self, kind: Kind) -> Limits {
        Limits {
            gap_us: micros(self.max_gap.unwrap_or(kind.gap_max())),
            lost: self.max_lost,
            twice: self.max_twice,
            reruns: self.max_reruns.or(if kind.stops_workers() { None } else { Some(0) }),
            false_lost: self.max_false_lost,
            errors: self.max_errors,
            recovery_us: micros(self.max_recovery),
            p99_us: self.max_p99.map(micros),
        }
    }
}

/// A figure beside its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Stable word for scripts.
    pub name: &'static str,
    /// For people.
    pub what: &'static str,
    /// The figure.
    pub value: Option<u64>,
    /// The limit; absent: any.
    pub limit: Option<u64>,
    /// Both are times in µs.
    pub is_time: bool,
}

impl Check {
    /// Within its limit. What could not be measured is not.
    pub fn passed(&self) -> bool {
        match (self.value, self.limit) {
            (_, None) => true,
            (Some(value), Some(limit)) => value <= limit,
            (None, Some(_)) => false,
        }
    }

    fn text(&self, number: Option<u64>, none: &str) -> String {
        match number {
            Some(us) if self.is_time => time(us),
            Some(number) => number.to_string(),
            None => none.to_owned(),
        }
    }

    /// The figure in words.
    pub fn value_text(&self) -> String {
        self.text(self.value, "not seen")
    }

    /// The limit in words.
    pub fn limit_text(&self) -> String {
        self.text(self.limit, "any")
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        let unit = if self.is_time { "us" } else { "count" };
        json!({"name": self.name, "value": self.value, "limit": self.limit, "unit": unit, "passed": self.passed()})
    }
}

/// All figures that have limits.
pub fn judge(figures: &Figures, limits: &Limits) -> Vec<Check> {
    let time = |name, what, value, limit| Check { name, what, value, limit, is_time: true };
    let count = |name, what, value: u64, limit| Check { name, what, value: Some(value), limit, is_time: false };
    let mut checks = vec![
        time("gap", "longest time without an acknowledged write", figures.gap_us(), Some(limits.gap_us)),
        count("lost", "acknowledged submits lost or unfinished", figures.lost + figures.unfinished, Some(limits.lost)),
        count("twice", "tasks started twice", figures.twice, Some(limits.twice)),
        count("reruns", "tasks re-run", figures.reruns, limits.reruns),
        count("false_lost", "workers falsely lost", figures.false_lost.len() as u64, Some(limits.false_lost)),
        count("errors", "errors that the client saw", figures.errors.values().sum(), Some(limits.errors)),
        time("recovery", "recovery after the healing", figures.recovery_us, Some(limits.recovery_us)),
    ];
    if limits.p99_us.is_some() {
        let p99 = figures.during.whole.as_ref().map(|quantiles| quantiles.p99_us);
        checks.push(time("p99", "submit to finished during the fault, p99", p99, limits.p99_us));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_within_a_limit() {
        let check = Check { name: "recovery", what: "", value: None, limit: Some(7), is_time: true };
        assert!(!check.passed());
        assert!(Check { limit: None, ..check.clone() }.passed());
        assert!(Check { value: Some(7), ..check.clone() }.passed());
        assert!(!Check { value: Some(8), ..check }.passed());
    }
}
