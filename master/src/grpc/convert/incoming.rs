//! Requests on their way in: everything but specs and pages.
//!
//! What always holds: what comes out is within the limits that the state's types don't express themselves. What needs the
//! state to be judged (does the worker exist?) is left to `apply`.

use std::ops::Range;

use bytes::Bytes;
use steersman_proto::v1 as pb;
use steersman_proto::worker::v1 as worker_pb;
use steersman_state::{
    BrakePolicy, Command, Ended, News, OpenSession, Outcome, Report, RequestId, TaskFilter, TaskId, TaskState, Token,
    WorkerId, WorkerMode, WorkerRef, WorkerUid,
};
use steersman_world::Entropy;
use tonic::Status;

use super::checks::{Checks, quoted};
use crate::config::{NodeLimits, is_address};
use crate::node::MemberAddr;

/// Tasks of one wait: all are looked at.
const WAIT_TASKS_MAX: u64 = 1_000_000;
/// A long poll: shorter than what proxies and load balancers allow.
const WAIT_MS_MAX: u64 = 30_000;
/// A long poll for output holds a question at the worker.
const LOG_WAIT_MS_MAX: u32 = 10_000;
/// One piece of output.
const LOG_BYTES_MAX: u32 = 256 << 10;
/// A drain that takes longer is maintenance.
const DRAIN_MS_MAX: u64 = 30 * 24 * 3_600_000;
/// A worker's name, a host's name.
const HOST_BYTES_MAX: usize = 253;
/// Shorter costs more than it tells; longer is no sign of life.
const HEARTBEAT_MS_RANGE: std::ops::RangeInclusive<u32> = 50..=60_000;
/// Attempts that one worker can hold: far above every capacity.
const HELD_MAX: u64 = 1_000_000;
/// A report's message, for people.
const MESSAGE_BYTES_MAX: usize = 1_024;
/// A handler's result; a longer one keeps one byte more, so that the state sees that it was cut.
const RESULT_BYTES_MAX: usize = 4_096;

/// What is asked of the brake. The state checks the policy's ranges.
///
/// # Errors
/// An action that is not known, or no policy where one is set.
pub fn brake_in(request: &pb::SetBrakeRequest) -> Result<Command, Status> {
    use pb::BrakeAction;
    let refused = |field: &str, problem: &str| {
        let mut checks = Checks::default();
        checks.add(field, problem);
        checks.finish(Command::Tick)
    };
    match (request.action(), &request.policy) {
        (BrakeAction::Engage, _) => Ok(Command::EngageBrake),
        (BrakeAction::Release, _) => Ok(Command::ReleaseBrake),
        (BrakeAction::SetPolicy, Some(policy)) => Ok(Command::SetBrakePolicy(BrakePolicy {
            share_percent: policy.share_percent,
            window_ms: policy.window_ms.into(),
            workers_min: policy.workers_min,
        })),
        (BrakeAction::SetPolicy, None) => refused("policy", "is missing: give all of it"),
        (BrakeAction::Unspecified, _) => refused("action", "is missing: SET_POLICY, ENGAGE or RELEASE"),
    }
}

/// A caller's request id; one is made up for a caller that sent none (and then can't retry safely).
///
/// # Errors
/// `INVALID_ARGUMENT` if it is neither empty nor 16 bytes.
pub fn request_id_in(id: &Bytes, entropy: &dyn Entropy) -> Result<RequestId, Status> {
    if id.is_empty() {
        return Ok(RequestId(entropy.next_id()));
    }
    let mut checks = Checks::default();
    let bytes = <[u8; 16]>::try_from(id.as_ref()).unwrap_or_else(|_| {
        checks.add("request_id", format!("{} bytes: send 16 random bytes, the same ones with every retry", id.len()));
        [0; 16]
    });
    checks.finish(RequestId(bytes))
}

/// Whether a stale answer is good enough.
///
/// # Errors
/// `INVALID_ARGUMENT` for an unknown value.
pub fn stale_in(consistency: i32) -> Result<bool, Status> {
    let mut checks = Checks::default();
    let known = checks.known("consistency", consistency);
    checks.finish(known == Some(pb::Consistency::Stale))
}

/// One task's id.
///
/// # Errors
/// `INVALID_ARGUMENT` for 0.
pub fn task_id_in(field: &str, id: u64) -> Result<TaskId, Status> {
    let mut checks = Checks::default();
    if id == 0 {
        checks.add(field, "is 0 or missing: task ids begin at 1");
    }
    checks.finish(TaskId(id))
}

/// Ids of a cancel or a retry.
///
/// # Errors
/// `INVALID_ARGUMENT` for none, too many, or a 0 among them.
pub fn task_ids_in(ids: Vec<u64>, limits: &NodeLimits) -> Result<Vec<TaskId>, Status> {
    let mut checks = Checks::default();
    checks.count("ids", ids.len(), limits.ids_per_call_max, "id");
    if let Some(n) = ids.iter().position(|id| *id == 0) {
        checks.add(format!("ids[{n}]"), "is 0: task ids begin at 1");
    }
    checks.finish(ids.into_iter().map(TaskId).collect())
}

/// Which tasks a list shows.
///
/// # Errors
/// `INVALID_ARGUMENT` for unknown states, a long prefix or an empty range.
pub fn filter_in(filter: Option<pb::TaskFilter>) -> Result<TaskFilter, Status> {
    let pb::TaskFilter { states, name_prefix, worker_id, id_from, id_to } = filter.unwrap_or_default();
    let mut checks = Checks::default();
    checks.text("filter.name_prefix", &name_prefix, 256);
    if id_to != 0 && id_from > id_to {
        checks.add("filter.id_from", format!("{id_from} is after id_to = {id_to}: swap them"));
    }
    let states = states.iter().enumerate().filter_map(|(n, state)| {
        let field = format!("filter.states[{n}]");
        let known = checks.known(&field, *state)?;
        if known == pb::TaskState::Unspecified {
            checks.add(&field, "is unspecified: name a state, or leave the list empty for all");
        }
        state_in(known)
    });
    let states = states.collect();
    let some = |id: u64| (id != 0).then_some(id);
    checks.finish(TaskFilter {
        states,
        name_prefix,
        worker: some(worker_id).map(WorkerId),
        id_from: some(id_from).map(TaskId),
        id_to: some(id_to).map(TaskId),
    })
}

fn state_in(state: pb::TaskState) -> Option<TaskState> {
    Some(match state {
        pb::TaskState::Unspecified => return None,
        pb::TaskState::Pending => TaskState::Pending,
        pb::TaskState::Scheduled => TaskState::Scheduled,
        pb::TaskState::Running => TaskState::Running,
        pb::TaskState::Retrying => TaskState::Retrying,
        pb::TaskState::Succeeded => TaskState::Succeeded,
        pb::TaskState::Failed => TaskState::Failed,
        pb::TaskState::Cancelled => TaskState::Cancelled,
    })
}

/// Which tasks somebody waits for, and for how long (in ms).
///
/// # Errors
/// `INVALID_ARGUMENT` for no first task, too many tasks or too long.
pub fn wait_in(request: pb::WaitRequest) -> Result<(Range<u64>, u64), Status> {
    let pb::WaitRequest { first_id, count, wait_ms } = request;
    let mut checks = Checks::default();
    if first_id == 0 {
        checks.add("first_id", "is 0 or missing: task ids begin at 1");
    }
    checks.range("count", count, 0..=WAIT_TASKS_MAX);
    checks.range("wait_ms", wait_ms, 0..=WAIT_MS_MAX);
    checks.finish((first_id..first_id.saturating_add(count.max(1)), wait_ms))
}

/// What of an attempt's output somebody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuestion {
    /// Which task.
    pub task: TaskId,
    /// Which attempt; the last if absent.
    pub attempt: Option<u32>,
    /// Standard error instead of standard output.
    pub stderr: bool,
    /// First byte.
    pub offset: u64,
    /// 1 to 256 KiB.
    pub max_bytes: u32,
    /// Waits so long for new bytes.
    pub wait_ms: u32,
}

/// A question for output.
///
/// # Errors
/// `INVALID_ARGUMENT` for no task, an unknown stream, or numbers over their limits.
pub fn read_log_in(request: &pb::ReadLogRequest) -> Result<LogQuestion, Status> {
    let mut checks = Checks::default();
    if request.id == 0 {
        checks.add("id", "is 0 or missing: task ids begin at 1");
    }
    checks.range("max_bytes", request.max_bytes, 0..=LOG_BYTES_MAX);
    checks.range("wait_ms", request.wait_ms, 0..=LOG_WAIT_MS_MAX);
    let stream = checks.known("stream", request.stream);
    checks.finish(LogQuestion {
        task: TaskId(request.id),
        attempt: (request.attempt != 0).then_some(request.attempt),
        stderr: stream == Some(pb::LogStream::Stderr),
        offset: request.offset,
        max_bytes: if request.max_bytes == 0 { LOG_BYTES_MAX } else { request.max_bytes },
        wait_ms: request.wait_ms,
    })
}

fn worker_in(worker: Option<pb::WorkerRef>, checks: &mut Checks) -> WorkerRef {
    let pb::WorkerRef { id, name } = worker.unwrap_or_default();
    match (id, name.is_empty()) {
        (0, true) => checks.add("worker", "is missing: give an id or a name"),
        (0, false) => checks.key("worker.name", &name),
        (_, true) => return WorkerRef::Id(WorkerId(id)),
        (_, false) => checks.add("worker", "has an id and a name: give one of them"),
    }
    WorkerRef::Name(name)
}

/// A worker by id or name.
///
/// # Errors
/// `INVALID_ARGUMENT` for neither, both, or a name that no worker can have.
pub fn worker_ref_in(worker: Option<pb::WorkerRef>) -> Result<WorkerRef, Status> {
    let mut checks = Checks::default();
    let worker = worker_in(worker, &mut checks);
    checks.finish(worker)
}

/// Which workers a list shows.
///
/// # Errors
/// `INVALID_ARGUMENT` for an unknown status.
pub fn statuses_in(statuses: &[i32]) -> Result<Vec<pb::WorkerStatus>, Status> {
    let mut checks = Checks::default();
    let known = statuses.iter().enumerate().filter_map(|(n, status)| {
        let field = format!("statuses[{n}]");
        let known = checks.known(&field, *status)?;
        if known == pb::WorkerStatus::Unspecified {
            checks.add(&field, "is unspecified: name a status, or leave the list empty for all");
        }
        Some(known)
    });
    let known = known.collect();
    checks.finish(known)
}

/// Drain, undrain, maintenance.
///
/// # Errors
/// `INVALID_ARGUMENT` for no mode, or a deadline that means nothing.
pub fn set_mode_in(request: pb::SetModeRequest) -> Result<Command, Status> {
    let pb::SetModeRequest { worker, mode, deadline_ms, request_id: _ } = request;
    let mut checks = Checks::default();
    let worker = worker_in(worker, &mut checks);
    let mode = match checks.known("mode", mode) {
        Some(pb::WorkerMode::Active) => WorkerMode::Active,
        Some(pb::WorkerMode::Drain) => WorkerMode::Drain,
        Some(pb::WorkerMode::Maintenance) => WorkerMode::Maintenance,
        Some(pb::WorkerMode::Unspecified) => {
            checks.add("mode", "is missing: choose active, drain or maintenance");
            WorkerMode::Active
        }
        None => WorkerMode::Active,
    };
    checks.range("deadline_ms", deadline_ms, 0..=DRAIN_MS_MAX);
    if deadline_ms != 0 && mode == WorkerMode::Active && !checks.any() {
        checks.add("deadline_ms", "means nothing for active: leave it 0");
    }
    checks.finish(Command::SetWorkerMode { worker, mode, deadline_ms })
}

/// Declares a worker lost.
///
/// # Errors
/// As [`worker_ref_in`].
pub fn evict_in(request: pb::EvictRequest) -> Result<Command, Status> {
    worker_ref_in(request.worker).map(|worker| Command::EvictWorker { worker })
}

/// Ends a worker's process.
///
/// # Errors
/// As [`worker_ref_in`].
pub fn shutdown_in(request: pb::ShutdownRequest) -> Result<Command, Status> {
    worker_ref_in(request.worker).map(|worker| Command::ShutdownWorker { worker, now: request.now })
}

/// A change of a worker's config. `lease_ms` is the cluster's, `limits` this master's.
///
/// # Errors
/// `INVALID_ARGUMENT` for malformed labels, numbers out of range, or nothing to change.
pub fn set_config_in(request: pb::SetConfigRequest, lease_ms: u32, limits: &NodeLimits) -> Result<Command, Status> {
    let pb::SetConfigRequest { worker, capacity, heartbeat_ms, set_labels, remove_labels, request_id: _ } = request;
    let mut checks = Checks::default();
    let worker = worker_in(worker, &mut checks);
    let capacity_max = u32::try_from(limits.capacity_max).unwrap_or(u32::MAX);
    capacity.inspect(|capacity| checks.range("capacity", *capacity, 1..=capacity_max));
    if let Some(beat) = heartbeat_ms {
        // A worker must be able to miss two heartbeats.
        let max = (lease_ms / 3).min(*HEARTBEAT_MS_RANGE.end());
        checks.range("heartbeat_ms", beat, *HEARTBEAT_MS_RANGE.start()..=max);
    }
    let set_labels = checks.labels("set_labels", set_labels);
    for (n, key) in remove_labels.iter().enumerate() {
        let field = format!("remove_labels[{n}]");
        checks.key(&field, key);
        if set_labels.contains_key(key) {
            checks.add(field, format!("{} is also in set_labels: choose one", quoted(key)));
        }
    }
    if capacity.is_none()
        && heartbeat_ms.is_none()
        && set_labels.is_empty()
        && remove_labels.is_empty()
        && !checks.any()
    {
        checks.add("capacity", "nothing is to be changed: set capacity, heartbeat_ms, set_labels or remove_labels");
    }
    checks.finish(Command::SetWorkerConfig { worker, capacity, heartbeat_ms, set_labels, remove_labels })
}

/// A new master.
///
/// # Errors
/// `INVALID_ARGUMENT` for no id or an address that nobody can connect to.
pub fn master_in(master: Option<pb::MasterAddress>) -> Result<MemberAddr, Status> {
    let pb::MasterAddress { id, api, raft, http } = master.unwrap_or_default();
    let mut checks = Checks::default();
    master_id_check("master.id", id, &mut checks);
    for (name, address) in [("api", &api), ("raft", &raft), ("http", &http)] {
        if !is_address(address) {
            let problem = format!("{} is not host:port with a port from 1 to 65535", quoted(address));
            checks.add(format!("master.{name}"), problem);
        }
    }
    checks.finish(MemberAddr { id, api, raft, http })
}

/// A known master's id.
///
/// # Errors
/// `INVALID_ARGUMENT` for 0.
pub fn master_id_in(field: &str, id: u64) -> Result<u64, Status> {
    let mut checks = Checks::default();
    master_id_check(field, id, &mut checks);
    checks.finish(id)
}

fn master_id_check(field: &str, id: u64, checks: &mut Checks) {
    if id == 0 || i64::try_from(id).is_err() {
        checks.add(field, format!("{id} is not the id of a master: ids begin at 1"));
    }
}

/// Where an event stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// After what is applied now.
    Now,
    /// With the oldest kept event.
    Oldest,
    /// With this log index.
    At(u64),
}

/// Where an event stream begins.
///
/// # Errors
/// `INVALID_ARGUMENT` for an index together with `oldest`.
pub fn subscribe_in(request: &pb::SubscribeRequest) -> Result<Begin, Status> {
    let mut checks = Checks::default();
    let begin = match (request.from_index, request.oldest) {
        (0, false) => Begin::Now,
        (0, true) => Begin::Oldest,
        (index, oldest) => {
            if oldest {
                checks.add("oldest", format!("contradicts from_index = {index}: use one of them"));
            }
            Begin::At(index)
        }
    };
    checks.finish(begin)
}

/// A worker's introduction.
///
/// # Errors
/// `INVALID_ARGUMENT` with every malformed field.
pub fn open_session_in(hello: worker_pb::Hello, heartbeat_ms: u64) -> Result<OpenSession, Status> {
    let mut checks = Checks::default();
    checks.key("name", &hello.name);
    let uid = <[u8; 16]>::try_from(hello.uid.as_ref()).unwrap_or_else(|_| {
        checks.add("uid", format!("{} bytes: a worker is known by 16 bytes of its own", hello.uid.len()));
        [0; 16]
    });
    checks.range("incarnation", hello.incarnation, 1..=u64::MAX);
    checks.text("host", &hello.host, HOST_BYTES_MAX);
    checks.range("port", hello.port, 0..=u32::from(u16::MAX));
    checks.range("capacity", hello.capacity, 1..=u32::MAX);
    checks.text("version", &hello.version, HOST_BYTES_MAX);
    let usual = u32::try_from(heartbeat_ms).unwrap_or(u32::MAX);
    let heartbeat_ms = if hello.heartbeat_ms == 0 { usual } else { hello.heartbeat_ms };
    checks.range("heartbeat_ms", heartbeat_ms, HEARTBEAT_MS_RANGE);
    if hello.held_tokens.len() as u64 > HELD_MAX {
        checks.add("held_tokens", format!("{} tokens, the limit is {HELD_MAX}", hello.held_tokens.len()));
    }
    let (labels, resources) = (checks.labels("labels", hello.labels), checks.resources("resources", hello.resources));
    checks.finish(OpenSession {
        name: hello.name,
        uid: WorkerUid(uid),
        incarnation: hello.incarnation,
        opening: hello.opening,
        host: hello.host,
        port: u16::try_from(hello.port).unwrap_or(0),
        capacity: hello.capacity,
        labels,
        resources,
        heartbeat_ms,
        version: hello.version,
        held: hello.held_tokens.into_iter().map(Token).collect(),
    })
}

/// Reports for the log, and the acknowledgement to send once they are committed. Never refuses: a worker would repeat a
/// refused report for ever. What is too long is cut, an outcome that this release does not know counts as a failure.
pub fn reports_in(reports: worker_pb::Reports) -> (Vec<Report>, worker_pb::ReportsAck) {
    let mut ack = worker_pb::ReportsAck::default();
    let mut out = Vec::with_capacity(reports.reports.len());
    for worker_pb::Report { token, task_id, ended } in reports.reports {
        let tokens = if ended.is_some() { &mut ack.tokens } else { &mut ack.started_tokens };
        tokens.push(token);
        let news = ended.map_or(News::Started, |ended| News::Ended(ended_in(ended)));
        out.push(Report { token: Token(token), task: TaskId(task_id), news });
    }
    (out, ack)
}

fn ended_in(ended: worker_pb::Ended) -> Ended {
    let worker_pb::Ended { outcome, exit_code, mut message, result, ran_ms } = ended;
    let known = pb::Outcome::try_from(outcome).ok().and_then(outcome_in);
    let outcome = known.unwrap_or_else(|| {
        message = format!("unknown outcome {outcome}: {message}");
        Outcome::HandlerError
    });
    cut(&mut message, MESSAGE_BYTES_MAX);
    let result = result.slice(..result.len().min(RESULT_BYTES_MAX + 1)).to_vec();
    Ended { outcome, exit_code, message, result, ran_ms }
}

/// Cuts a text at the last whole character within `max` bytes.
fn cut(text: &mut String, max: usize) {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

fn outcome_in(outcome: pb::Outcome) -> Option<Outcome> {
    Some(match outcome {
        pb::Outcome::Unspecified => return None,
        pb::Outcome::Succeeded => Outcome::Succeeded,
        pb::Outcome::Exited => Outcome::Exited,
        pb::Outcome::Signaled => Outcome::Signaled,
        pb::Outcome::TimedOut => Outcome::TimedOut,
        pb::Outcome::CannotStart => Outcome::CannotStart,
        pb::Outcome::HandlerError => Outcome::HandlerError,
        pb::Outcome::WorkerLost => Outcome::WorkerLost,
        pb::Outcome::Cancelled => Outcome::Cancelled,
        pb::Outcome::Deadline => Outcome::Deadline,
        pb::Outcome::PartitionStop => Outcome::PartitionStop,
        pb::Outcome::WorkerShutdown => Outcome::WorkerShutdown,
    })
}
