//! Shape checks. The edge makes them too, with better words; `apply` trusts nobody.

use crate::brake::BrakePolicy;
use crate::command::{OpenSession, TaskGroup};
use crate::effect::Rejection;
use crate::limits::Limits;
use crate::task::TaskSpec;
use crate::worker::Labels;

use super::{SUBMIT_GROUPS_MAX, SUBMIT_TASKS_MAX};

/// Longest name of a worker, host or cluster, in bytes: a DNS name and a bit.
pub const NAME_BYTES_MAX: usize = 256;
/// Labels or resources of one worker or spec.
pub const LABELS_MAX: usize = 256;
/// Longest key or value of a label, in bytes.
pub const LABEL_BYTES_MAX: usize = 1 << 10;
/// Heartbeat intervals that make sense, in ms.
pub const HEARTBEAT_MS: std::ops::RangeInclusive<u32> = 10..=600_000;
/// Priorities.
pub const PRIORITY: std::ops::RangeInclusive<i32> = -1_000..=1_000;

pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Rejection {
    Rejection::Invalid { field: field.into(), problem: problem.into() }
}

/// Checks a submit's shape and counts its tasks.
pub fn groups(groups: &[TaskGroup]) -> Result<u64, Rejection> {
    if groups.is_empty() || groups.len() > SUBMIT_GROUPS_MAX {
        return Err(invalid("groups", format!("{} given, 1 to {SUBMIT_GROUPS_MAX} allowed", groups.len())));
    }
    let total: u64 = groups.iter().map(|group| u64::from(group.count)).sum();
    if total > SUBMIT_TASKS_MAX {
        return Err(invalid("groups", format!("{total} tasks in one submit, at most {SUBMIT_TASKS_MAX} allowed")));
    }
    for (number, group) in groups.iter().enumerate() {
        if group.count == 0 {
            return Err(invalid(format!("groups[{number}].count"), "at least 1"));
        }
        spec(&group.spec).map_err(|(field, problem)| invalid(format!("groups[{number}].spec.{field}"), problem))?;
    }
    Ok(total)
}

fn spec(spec: &TaskSpec) -> Result<(), (&'static str, String)> {
    if !PRIORITY.contains(&spec.priority) {
        return Err(("priority", format!("{} given, -1000 to 1000 allowed", spec.priority)));
    }
    if spec.max_attempts == 0 {
        return Err(("max_attempts", "at least 1".into()));
    }
    if spec.backoff.jitter_permille > 1_000 {
        return Err(("backoff.jitter_permille", format!("{} given, at most 1000", spec.backoff.jitter_permille)));
    }
    labels(&spec.require_labels).map_err(|problem| ("require_labels", problem))?;
    match spec.require_resources.len() > LABELS_MAX {
        true => Err(("require_resources", format!("at most {LABELS_MAX}"))),
        false => Ok(()),
    }
}

fn labels(labels: &Labels) -> Result<(), String> {
    if labels.len() > LABELS_MAX {
        return Err(format!("{} given, at most {LABELS_MAX}", labels.len()));
    }
    let long = |(key, value): (&String, &String)| {
        key.is_empty() || key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX
    };
    match labels.iter().any(long) {
        true => Err(format!("keys have 1 to {LABEL_BYTES_MAX} bytes, values at most {LABEL_BYTES_MAX}")),
        false => Ok(()),
    }
}

/// Labels that an operator sets.
pub fn set_labels(given: &Labels) -> Result<(), Rejection> {
    labels(given).map_err(|problem| invalid("set_labels", problem))
}

/// A worker's introduction. `known`: one that is registered is clamped later instead of refused, for it may hold work.
pub fn session(ask: &OpenSession, known: bool, limits: &Limits) -> Result<(), Rejection> {
    if ask.name.is_empty() || ask.name.len() > NAME_BYTES_MAX {
        return Err(invalid("name", format!("1 to {NAME_BYTES_MAX} bytes")));
    }
    if ask.host.len() > NAME_BYTES_MAX || ask.version.len() > NAME_BYTES_MAX {
        return Err(invalid("host, version", format!("at most {NAME_BYTES_MAX} bytes")));
    }
    labels(&ask.labels).map_err(|problem| invalid("labels", problem))?;
    if ask.resources.len() > LABELS_MAX || ask.resources.keys().any(|key| key.len() > LABEL_BYTES_MAX) {
        return Err(invalid("resources", format!("at most {LABELS_MAX}, of at most {LABEL_BYTES_MAX} bytes")));
    }
    if known {
        return Ok(());
    }
    capacity(ask.capacity, limits)?;
    heartbeat(ask.heartbeat_ms)
}

pub fn capacity(capacity: u32, limits: &Limits) -> Result<(), Rejection> {
    match (1..=limits.capacity_max).contains(&capacity) {
        true => Ok(()),
        false => Err(invalid("capacity", format!("{capacity} given, 1 to {} allowed", limits.capacity_max))),
    }
}

pub fn heartbeat(heartbeat_ms: u32) -> Result<(), Rejection> {
    match HEARTBEAT_MS.contains(&heartbeat_ms) {
        true => Ok(()),
        false => {
            let (low, high) = HEARTBEAT_MS.into_inner();
            Err(invalid("heartbeat_ms", format!("{heartbeat_ms} given, {low} to {high} allowed")))
        }
    }
}

/// Limits under which a cluster can work at all.
pub fn limits(limits: &Limits) -> Result<(), Rejection> {
    let least = [
        ("tasks_unfinished_max", limits.tasks_unfinished_max, 1),
        ("replies_kept_max", limits.replies_kept_max, 1),
        ("events_kept_max", limits.events_kept_max, 1),
        ("workers_max", limits.workers_max, 1),
        ("capacity_max", limits.capacity_max.into(), 1),
        ("lease_ms", limits.lease_ms.into(), 100),
        ("attempts_kept_max", limits.attempts_kept_max.into(), 2),
    ];
    match least.into_iter().find(|&(_, value, least)| value < least) {
        Some((field, value, least)) => Err(invalid(field, format!("{value} given, at least {least}"))),
        None => Ok(()),
    }
}

/// A window between a second and a day; a share in percent.
pub(super) fn brake_policy(policy: &BrakePolicy) -> Result<(), Rejection> {
    if policy.share_percent > 100 {
        return Err(invalid("share_percent", format!("{}: allowed are 0 to 100", policy.share_percent)));
    }
    if !(1_000..=86_400_000).contains(&policy.window_ms) {
        return Err(invalid("window_ms", format!("{}: allowed are 1000 to 86400000", policy.window_ms)));
    }
    Ok(())
}
