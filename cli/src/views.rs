//! Wire messages as JSON and as words, for people and scripts.
//!
//! What always holds: JSON names are the wire's; a task's `spec` has the form that `task submit` reads, so what was shown
//! can be submitted again; enums are lower-case words.

use serde_json::{Map, Value, json};
use steersman_client::v1::{
    self, Attempt, InfoResponse, LoadReport, MasterAddress, MasterInfo, OnPartition, Outcome, Task, TaskSpec,
    TaskState, Worker, WorkerStatus, task_spec::Work,
};

use crate::units;

/// `TASK_STATE_RETRYING` as `retrying`.
pub fn task_state(state: i32) -> String {
    word(TaskState::try_from(state).map(|state| state.as_str_name()), "TASK_STATE_", state)
}

/// `OUTCOME_WORKER_LOST` as `worker-lost`; empty while an attempt is open.
pub fn outcome(outcome: i32) -> String {
    match Outcome::try_from(outcome) {
        Ok(Outcome::Unspecified) => String::new(),
        known => word(known.map(|outcome| outcome.as_str_name()), "OUTCOME_", outcome),
    }
}

/// `WORKER_STATUS_ONLINE` as `online`.
pub fn worker_status(status: i32) -> String {
    word(WorkerStatus::try_from(status).map(|status| status.as_str_name()), "WORKER_STATUS_", status)
}

/// `MASTER_ROLE_LEADER` as `leader`.
pub fn master_role(role: i32) -> String {
    word(v1::MasterRole::try_from(role).map(|role| role.as_str_name()), "MASTER_ROLE_", role)
}

/// A value that a newer master sent stays visible as its number.
fn word<E>(name: Result<&'static str, E>, prefix: &str, number: i32) -> String {
    name.map_or_else(
        |_| format!("unknown-{number}"),
        |name| name.trim_start_matches(prefix).to_lowercase().replace('_', "-"),
    )
}

/// Whether a task never changes again.
pub fn is_finished(state: i32) -> bool {
    let finished = [TaskState::Succeeded, TaskState::Failed, TaskState::Cancelled];
    finished.iter().any(|finished| *finished as i32 == state)
}

/// What a task does, in one line.
pub fn work_line(spec: Option<&TaskSpec>) -> String {
    match spec.and_then(|spec| spec.work.as_ref()) {
        Some(Work::Command(command)) => command.argv.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" "),
        Some(Work::Handler(handler)) => format!("handler {}", handler.name),
        None => String::new(),
    }
}

/// As a shell would want it.
fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,@%+".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) { arg.to_owned() } else { format!("'{}'", arg.replace('\'', "'\\''")) }
}

/// `text` cut to `max` characters.
pub fn clipped(text: &str, max: usize) -> String {
    let flat = text.replace(['\n', '\r', '\t'], " ");
    if flat.chars().count() <= max { flat } else { flat.chars().take(max - 1).chain(['…']).collect() }
}

/// How an attempt ended, in a few words.
pub fn ending(attempt: &Attempt) -> String {
    match Outcome::try_from(attempt.outcome) {
        Ok(Outcome::Exited) => format!("exit code {}", attempt.exit_code),
        Ok(Outcome::Signaled) => format!("signal {}", attempt.exit_code),
        _ => outcome(attempt.outcome),
    }
}

/// A spec in the form that `task submit` reads.
pub fn spec_json(spec: &TaskSpec) -> Value {
    let mut map = Map::new();
    if !spec.name.is_empty() {
        map.insert("name".into(), json!(spec.name));
    }
    work_json(spec, &mut map);
    for (key, labels) in [("env", &spec.env), ("require_labels", &spec.require_labels)] {
        if !labels.is_empty() {
            map.insert(key.into(), labels_json(labels));
        }
    }
    if !spec.require_resources.is_empty() {
        map.insert("require_resources".into(), resources_json(&spec.require_resources));
    }
    let numbers = [
        ("timeout_ms", spec.timeout_ms),
        ("deadline_ms", spec.deadline_ms),
        ("max_attempts", spec.max_attempts.into()),
        ("kill_grace_ms", spec.kill_grace_ms),
    ];
    if spec.priority != 0 {
        map.insert("priority".into(), json!(spec.priority));
    }
    map.extend(numbers.into_iter().filter(|(_, n)| *n != 0).map(|(key, n)| (key.to_owned(), json!(n))));
    if let Some(b) = &spec.backoff {
        let backoff = json!({"initial_ms": b.initial_ms, "max_ms": b.max_ms, "factor": b.factor, "jitter": b.jitter});
        map.insert("backoff".into(), backoff);
    }
    if let Some(on) = &spec.retry_on {
        map.insert("retry_on".into(), json!(units::retry_words(on)));
    }
    map.insert("on_partition".into(), json!(on_partition(spec.on_partition)));
    Value::Object(map)
}

fn work_json(spec: &TaskSpec, map: &mut Map<String, Value>) {
    match &spec.work {
        Some(Work::Command(command)) => {
            map.insert("command".into(), json!(command.argv));
            if !command.workdir.is_empty() {
                map.insert("workdir".into(), json!(command.workdir));
            }
            if !command.stdin.is_empty() {
                let (key, value) = bytes_json("stdin", &command.stdin);
                map.insert(key, value);
            }
        }
        Some(Work::Handler(handler)) => {
            map.insert("handler".into(), json!(handler.name));
            if !handler.payload.is_empty() {
                let (key, value) = bytes_json("payload", &handler.payload);
                map.insert(key, value);
            }
        }
        None => {}
    }
}

/// Text as it is, everything else under `NAME_base64`.
fn bytes_json(name: &str, bytes: &[u8]) -> (String, Value) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (name.to_owned(), json!(text)),
        Err(_) => (format!("{name}_base64"), json!(units::base64(bytes))),
    }
}

/// `continue` or `stop`.
pub fn on_partition(value: i32) -> &'static str {
    if value == OnPartition::Stop as i32 { "stop" } else { "continue" }
}

fn labels_json(labels: &[v1::Label]) -> Value {
    Value::Object(labels.iter().map(|label| (label.key.clone(), json!(label.value))).collect())
}

fn resources_json(resources: &[v1::Resource]) -> Value {
    Value::Object(resources.iter().map(|resource| (resource.name.clone(), json!(resource.amount))).collect())
}

/// `a=b,c=d`.
pub fn labels_text(labels: &[v1::Label]) -> String {
    labels.iter().map(|label| format!("{}={}", label.key, label.value)).collect::<Vec<_>>().join(",")
}

/// `gpu=1/2`: used of what there is.
pub fn resources_text(all: &[v1::Resource], used: &[v1::Resource]) -> String {
    let of = |name: &str| used.iter().find(|resource| resource.name == name).map_or(0, |resource| resource.amount);
    all.iter().map(|r| format!("{}={}/{}", r.name, of(&r.name), r.amount)).collect::<Vec<_>>().join(",")
}

/// A task with all that the wire says of it.
pub fn task_json(task: &Task) -> Value {
    let mut value = json!({
        "id": task.id,
        "state": task_state(task.state),
        "array_index": task.array_index,
        "submitted_ms": task.submitted_ms,
        "finished_ms": task.finished_ms,
        "next_attempt_in_ms": task.next_attempt_in_ms,
        "attempts": task.attempts.iter().map(attempt_json).collect::<Vec<_>>(),
        "attempts_total": task.attempts_total,
        "reason": task.reason,
        "log_index": task.log_index,
        "spec": task.spec.as_ref().map(spec_json),
    });
    if let (false, Some(map)) = (task.result.is_empty(), value.as_object_mut()) {
        let (key, result) = bytes_json("result", &task.result);
        map.insert(key, result);
    }
    value
}

/// An attempt.
pub fn attempt_json(attempt: &Attempt) -> Value {
    json!({
        "number": attempt.number,
        "token": attempt.token,
        "worker_id": attempt.worker_id,
        "worker_name": attempt.worker_name,
        "assigned_ms": attempt.assigned_ms,
        "started_ms": attempt.started_ms,
        "ended_ms": attempt.ended_ms,
        "outcome": outcome(attempt.outcome),
        "exit_code": attempt.exit_code,
        "message": attempt.message,
    })
}

/// A worker.
pub fn worker_json(worker: &Worker) -> Value {
    json!({
        "id": worker.id,
        "name": worker.name,
        "host": worker.host,
        "port": worker.port,
        "status": worker_status(worker.status),
        "offline_reason": worker.offline_reason,
        "capacity": worker.capacity,
        "used": worker.used,
        "overloaded": worker.overloaded,
        "labels": labels_json(&worker.labels),
        "resources": resources_json(&worker.resources),
        "resources_used": resources_json(&worker.resources_used),
        "incarnation": worker.incarnation,
        "heartbeat_ms": worker.heartbeat_ms,
        "lease_ms": worker.lease_ms,
        "lease_left_ms": worker.lease_left_ms,
        "connected": worker.connected,
        "registered_ms": worker.registered_ms,
        "attempts": worker.attempts,
        "load": worker.load.as_ref().map(load_json),
        "version": worker.version,
    })
}

/// What a worker measures of itself.
pub fn load_json(load: &LoadReport) -> Value {
    json!({
        "cpu_load_1m": load.cpu_load_1m,
        "memory_total_bytes": load.memory_total_bytes,
        "memory_available_bytes": load.memory_available_bytes,
        "disk_free_bytes": load.disk_free_bytes,
        "running": load.running,
        "uptime_ms": load.uptime_ms,
        "reports_unacknowledged": load.reports_unacknowledged,
    })
}

/// A master's addresses.
pub fn address_json(address: &MasterAddress) -> Value {
    json!({"id": address.id, "api": address.api, "raft": address.raft, "http": address.http})
}

/// A master as the membership knows it.
pub fn master_json(master: &MasterInfo) -> Value {
    json!({
        "address": master.address.as_ref().map(address_json),
        "voter": master.voter,
        "leader": master.leader,
        "matched_index": master.matched_index,
        "ack_age_ms": master.ack_age_ms,
    })
}

/// What a master knows.
pub fn info_json(info: &InfoResponse) -> Value {
    json!({
        "cluster_id": info.cluster_id,
        "self": info.self_.as_ref().map(address_json),
        "role": master_role(info.role),
        "term": info.leader.as_ref().map_or(0, |leader| leader.term),
        "leader": info.leader.as_ref().and_then(|leader| leader.leader.as_ref()).map(address_json),
        "masters": info.masters.iter().map(master_json).collect::<Vec<_>>(),
        "applied_index": info.applied_index,
        "committed_index": info.committed_index,
        "last_log_index": info.last_log_index,
        "snapshot_index": info.snapshot_index,
        "quorum_ack_age_ms": info.quorum_ack_age_ms,
        "ready": info.ready,
        "tasks": info.tasks.as_ref().map(task_counts_json),
        "workers": info.workers.as_ref().map(worker_counts_json),
        "version": info.version,
        "uptime_ms": info.uptime_ms,
        "cluster_time_ms": info.cluster_time_ms,
        "format_level": info.format_level,
        "disk_stalled": info.disk_stalled,
        "disk_write_ms": info.disk_write_ms,
        "brake": info.brake.as_ref().map(brake_json),
    })
}

/// How the brake on mass failure stands.
pub fn brake_json(brake: &v1::BrakeInfo) -> Value {
    let policy = brake.policy.unwrap_or_default();
    json!({
        "engaged": brake.engaged, "engaged_for_ms": brake.engaged_for_ms, "manual": brake.manual, "held": brake.held,
        "lost": brake.lost, "allowed": brake.allowed, "held_ids": brake.held_ids,
        "share_percent": policy.share_percent, "window_ms": policy.window_ms, "workers_min": policy.workers_min,
    })
}

/// How the brake stands, in one line.
pub fn brake_line(brake: &v1::BrakeInfo) -> String {
    let lost = format!("{} workers lost, {} allowed", brake.lost, brake.allowed);
    if !brake.engaged {
        return format!("released; {lost}");
    }
    let who = if brake.manual { " by an operator" } else { "" };
    let since = units::short(brake.engaged_for_ms);
    format!("ENGAGED{who} for {since}: {} silent workers keep their tasks; {lost}", brake.held)
}

/// Tasks by state.
pub fn task_counts_json(counts: &v1::TaskCounts) -> Value {
    json!({
        "pending": counts.pending, "scheduled": counts.scheduled, "running": counts.running,
        "retrying": counts.retrying, "succeeded": counts.succeeded, "failed": counts.failed,
        "cancelled": counts.cancelled, "submitted_total": counts.submitted_total,
        "finished_total": counts.finished_total,
    })
}

/// Workers by status.
pub fn worker_counts_json(counts: &v1::WorkerCounts) -> Value {
    json!({
        "online": counts.online, "busy": counts.busy, "draining": counts.draining,
        "maintenance": counts.maintenance, "offline": counts.offline, "capacity": counts.capacity,
        "used": counts.used,
    })
}
