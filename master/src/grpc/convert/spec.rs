//! What a caller submits: groups of tasks and their specs.
//!
//! What always holds: a spec that passes can be run by any worker that knows its program or handler, every default is
//! filled in (the state knows none), and its size counts against the limits of this master's configuration.

use std::sync::Arc;

use steersman_proto::v1 as pb;
use steersman_state::{Backoff, Labels, OnPartition, RetryOn, TaskGroup, TaskSpec, Work};
use tonic::Status;

use super::checks::{Checks, quoted};
use crate::config::NodeLimits;

/// A task's name is for people.
const NAME_BYTES_MAX: usize = 256;
/// Linux refuses longer paths.
const PATH_BYTES_MAX: usize = 4_096;
/// Arguments of one command.
const ARGS_MAX: usize = 65_536;
/// Variables of one task.
const ENV_MAX: usize = 1_024;
/// Listed exit codes; there are only 255 that mean failure.
const EXIT_CODES_MAX: usize = 255;
/// Longer than any run: a year and a day.
const LONG_MS: u64 = 366 * 24 * 3_600_000;
/// A grace of more than an hour is no grace.
const GRACE_MS_MAX: u64 = 3_600_000;
/// Each attempt costs a consensus round.
const ATTEMPTS_MAX: u32 = 1_000;
/// Default attempts of a task.
const ATTEMPTS: u32 = 3;
/// Default time between SIGTERM and SIGKILL.
const GRACE_MS: u64 = 5_000;
/// Highest priority, and with a minus the lowest.
const PRIORITY_MAX: i32 = 1_000;
/// Variables that the worker sets itself.
const RESERVED: &str = "STEERSMAN_";

/// The groups of a submit call.
///
/// # Errors
/// `INVALID_ARGUMENT` with every malformed field.
pub fn submit_in(groups: Vec<pb::TaskGroup>, limits: &NodeLimits) -> Result<Vec<TaskGroup>, Status> {
    let mut checks = Checks::default();
    checks.count("groups", groups.len(), limits.submit_groups_max, "group");
    if checks.any() {
        return checks.finish(Vec::new());
    }
    let (mut tasks, mut bytes) = (0u64, 0u64);
    let mut out = Vec::with_capacity(groups.len());
    for (n, pb::TaskGroup { spec, count }) in groups.into_iter().enumerate() {
        let field = format!("groups[{n}].spec");
        let Some(spec) = spec else {
            checks.add(field, "is missing: say what to run");
            continue;
        };
        let spec = spec_in(&field, spec, limits, &mut checks);
        let count = count.max(1);
        tasks += u64::from(count);
        bytes += spec.weight() as u64;
        out.push(TaskGroup { spec: Arc::new(spec), count });
    }
    if tasks > limits.submit_tasks_max {
        checks.add("groups", format!("{tasks} tasks, the limit is {}: split the call", limits.submit_tasks_max));
    }
    if bytes > limits.submit_bytes_max {
        let limit = limits.submit_bytes_max;
        checks.add(
            "groups",
            format!("{bytes} bytes of specs, the limit is {limit}: split the call, or share specs by count"),
        );
    }
    checks.finish(out)
}

/// One spec. Problems go to `checks`; what is returned then is not to be used.
pub fn spec_in(field: &str, spec: pb::TaskSpec, limits: &NodeLimits, checks: &mut Checks) -> TaskSpec {
    let at = |name: &str| format!("{field}.{name}");
    checks.text(&at("name"), &spec.name, NAME_BYTES_MAX);
    checks.range(&at("priority"), spec.priority, -PRIORITY_MAX..=PRIORITY_MAX);
    checks.range(&at("timeout_ms"), spec.timeout_ms, 0..=LONG_MS);
    checks.range(&at("deadline_ms"), spec.deadline_ms, 0..=LONG_MS);
    checks.range(&at("max_attempts"), spec.max_attempts, 0..=ATTEMPTS_MAX);
    checks.range(&at("kill_grace_ms"), spec.kill_grace_ms, 0..=GRACE_MS_MAX);
    let out = TaskSpec {
        work: work_in(field, spec.work, checks),
        env: env_in(&at("env"), spec.env, checks),
        require_labels: checks.labels(&at("require_labels"), spec.require_labels),
        require_resources: checks.resources(&at("require_resources"), spec.require_resources),
        priority: spec.priority,
        timeout_ms: spec.timeout_ms,
        deadline_ms: spec.deadline_ms,
        max_attempts: or(spec.max_attempts, ATTEMPTS),
        backoff: spec.backoff.map_or_else(Backoff::default, |b| backoff_in(&at("backoff"), b, checks)),
        retry_on: spec.retry_on.map_or_else(RetryOn::default, |r| retry_on_in(&at("retry_on"), r, checks)),
        on_partition: on_partition_in(&at("on_partition"), spec.on_partition, checks),
        kill_grace_ms: or(spec.kill_grace_ms, GRACE_MS),
        name: spec.name,
    };
    let (weight, limit) = (out.weight() as u64, limits.payload_bytes_max);
    if weight > limit {
        checks.add(
            field,
            format!("{weight} bytes, the limit is {limit}: put large input into a file or an object store"),
        );
    }
    out
}

fn work_in(field: &str, work: Option<pb::task_spec::Work>, checks: &mut Checks) -> Work {
    match work {
        Some(pb::task_spec::Work::Command(command)) => command_in(&format!("{field}.command"), command, checks),
        Some(pb::task_spec::Work::Handler(handler)) => {
            checks.key(&format!("{field}.handler.name"), &handler.name);
            Work::Handler { name: handler.name, payload: handler.payload.into() }
        }
        None => {
            checks.add(format!("{field}.work"), "is missing: set a command or a handler");
            Work::Handler { name: String::new(), payload: Vec::new() }
        }
    }
}

fn command_in(field: &str, command: pb::Command, checks: &mut Checks) -> Work {
    let pb::Command { argv, workdir, stdin } = command;
    checks.count(&format!("{field}.argv"), argv.len(), ARGS_MAX as u64, "argument");
    if argv.first().is_some_and(String::is_empty) {
        checks.add(format!("{field}.argv[0]"), "is empty: it names the program");
    }
    for (n, argument) in argv.iter().enumerate().filter(|(_, argument)| argument.contains('\0')) {
        checks.no_nul(&format!("{field}.argv[{n}]"), argument);
    }
    let at = format!("{field}.workdir");
    checks.no_nul(&at, &workdir);
    if workdir.len() > PATH_BYTES_MAX {
        checks.add(&at, format!("{} bytes, the limit is {PATH_BYTES_MAX}: use a shorter path", workdir.len()));
    } else if !workdir.is_empty() && !workdir.starts_with('/') {
        checks.add(&at, format!("{} is not absolute: begin with '/', or leave it empty", quoted(&workdir)));
    }
    Work::Command { argv, workdir, stdin: stdin.into() }
}

fn env_in(field: &str, env: Vec<pb::Label>, checks: &mut Checks) -> Labels {
    if env.len() > ENV_MAX {
        checks.add(field, format!("{} variables, the limit is {ENV_MAX}: pass a file instead", env.len()));
        return Labels::new();
    }
    let mut out = Labels::new();
    for (n, pb::Label { key, value }) in env.into_iter().enumerate() {
        let at = format!("{field}[{n}].key");
        if key.is_empty() || key.contains(['=', '\0']) {
            checks.add(&at, format!("{} is not a variable's name: not empty, without '=' and NUL", quoted(&key)));
        } else if key.starts_with(RESERVED) {
            checks.add(
                &at,
                format!("{} is reserved: names beginning with {RESERVED} are set by the worker", quoted(&key)),
            );
        } else if out.contains_key(&key) {
            checks.add(&at, format!("{} is there twice: keep one", quoted(&key)));
        }
        checks.no_nul(&format!("{field}[{n}].value"), &value);
        out.insert(key, value);
    }
    out
}

fn backoff_in(field: &str, backoff: pb::Backoff, checks: &mut Checks) -> Backoff {
    let default = Backoff::default();
    checks.range(&format!("{field}.initial_ms"), backoff.initial_ms, 0..=LONG_MS);
    checks.range(&format!("{field}.max_ms"), backoff.max_ms, 0..=LONG_MS);
    // NaN is in no range; 0 stands for the default.
    if backoff.factor != 0.0 {
        checks.range(&format!("{field}.factor"), backoff.factor, 1.0..=100.0);
    }
    checks.range(&format!("{field}.jitter"), backoff.jitter, 0.0..=1.0);
    let initial_ms = or(backoff.initial_ms, default.initial_ms);
    let max_ms = if backoff.max_ms == 0 { default.max_ms.max(initial_ms) } else { backoff.max_ms };
    if initial_ms > max_ms {
        checks.add(format!("{field}.initial_ms"), format!("{initial_ms} is more than max_ms = {max_ms}: lower it"));
    }
    Backoff {
        initial_ms,
        max_ms,
        factor_permille: permille(backoff.factor, default.factor_permille),
        jitter_permille: permille(backoff.jitter, default.jitter_permille),
    }
}

fn retry_on_in(field: &str, retry_on: pb::RetryOn, checks: &mut Checks) -> RetryOn {
    let pb::RetryOn { worker_lost, timeout, any_exit_code, mut exit_codes } = retry_on;
    if exit_codes.len() > EXIT_CODES_MAX {
        checks.add(format!("{field}.exit_codes"), "more than 255 codes: set any_exit_code instead");
        exit_codes.clear();
    }
    for (n, code) in exit_codes.iter().enumerate() {
        checks.range(&format!("{field}.exit_codes[{n}]"), *code, 1..=255);
    }
    exit_codes.sort_unstable();
    exit_codes.dedup();
    RetryOn { worker_lost, timeout, any_failure: any_exit_code, exit_codes }
}

fn on_partition_in(field: &str, value: i32, checks: &mut Checks) -> OnPartition {
    match checks.known(field, value) {
        Some(pb::OnPartition::Stop) => OnPartition::Stop,
        Some(pb::OnPartition::Continue) | None => OnPartition::Continue,
    }
}

/// The default for zero.
fn or<T: PartialEq + Default>(value: T, default: T) -> T {
    if value == T::default() { default } else { value }
}

/// A share in thousandths; checked to be small before.
fn permille(value: f64, default: u32) -> u32 {
    if value == 0.0 { default } else { (value * 1_000.0).round() as u32 }
}
