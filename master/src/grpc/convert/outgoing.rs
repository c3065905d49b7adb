//! Answers on their way out: views, counts and events in the words of the wire.
//!
//! What always holds: every value has a word; nothing is left out but what the comments in the .proto files name. Whole
//! specs travel with tasks, so lists are cut by size where they are made.

use steersman_proto::v1 as pb;
use steersman_state::{
    AttemptView, Backoff, BrakeChange, BrakeView, CancelResult, ElectionCause, ElectionReport, Event, EventEntry,
    ExplainReason, Explanation, Labels, LoadLevel, OfflineReason, OnPartition, Outcome, Resources, RetryOn,
    RetryResult, TaskCounts, TaskSpec, TaskState, TaskView, Work, WorkerChange, WorkerCounts, WorkerMode, WorkerStatus,
    WorkerView,
};

use crate::node::{LeaderView, MemberAddr, MemberView, ReadStamp, Role};

/// Labels, sorted by key.
pub fn labels_out(labels: &Labels) -> Vec<pb::Label> {
    labels.iter().map(|(key, value)| pb::Label { key: key.clone(), value: value.clone() }).collect()
}

/// Resources, sorted by name.
pub fn resources_out(resources: &Resources) -> Vec<pb::Resource> {
    resources.iter().map(|(name, amount)| pb::Resource { name: name.clone(), amount: *amount }).collect()
}

/// A whole spec.
pub fn spec_out(spec: &TaskSpec) -> pb::TaskSpec {
    pb::TaskSpec {
        name: spec.name.clone(),
        work: Some(work_out(&spec.work)),
        env: labels_out(&spec.env),
        require_labels: labels_out(&spec.require_labels),
        require_resources: resources_out(&spec.require_resources),
        priority: spec.priority,
        timeout_ms: spec.timeout_ms,
        deadline_ms: spec.deadline_ms,
        max_attempts: spec.max_attempts,
        backoff: Some(backoff_out(&spec.backoff)),
        retry_on: Some(retry_on_out(&spec.retry_on)),
        on_partition: on_partition_out(spec.on_partition).into(),
        kill_grace_ms: spec.kill_grace_ms,
    }
}

fn work_out(work: &Work) -> pb::task_spec::Work {
    match work {
        Work::Command { argv, workdir, stdin } => pb::task_spec::Work::Command(pb::Command {
            argv: argv.clone(),
            workdir: workdir.clone(),
            stdin: stdin.clone().into(),
        }),
        Work::Handler { name, payload } => {
            pb::task_spec::Work::Handler(pb::Handler { name: name.clone(), payload: payload.clone().into() })
        }
    }
}

fn backoff_out(backoff: &Backoff) -> pb::Backoff {
    pb::Backoff {
        initial_ms: backoff.initial_ms,
        max_ms: backoff.max_ms,
        factor: f64::from(backoff.factor_permille) / 1_000.0,
        jitter: f64::from(backoff.jitter_permille) / 1_000.0,
    }
}

fn retry_on_out(retry_on: &RetryOn) -> pb::RetryOn {
    pb::RetryOn {
        worker_lost: retry_on.worker_lost,
        timeout: retry_on.timeout,
        any_exit_code: retry_on.any_failure,
        exit_codes: retry_on.exit_codes.clone(),
    }
}

fn on_partition_out(on_partition: OnPartition) -> pb::OnPartition {
    match on_partition {
        OnPartition::Continue => pb::OnPartition::Continue,
        OnPartition::Stop => pb::OnPartition::Stop,
    }
}

/// A task's state.
pub fn state_out(state: TaskState) -> pb::TaskState {
    match state {
        TaskState::Pending => pb::TaskState::Pending,
        TaskState::Scheduled => pb::TaskState::Scheduled,
        TaskState::Running => pb::TaskState::Running,
        TaskState::Retrying => pb::TaskState::Retrying,
        TaskState::Succeeded => pb::TaskState::Succeeded,
        TaskState::Failed => pb::TaskState::Failed,
        TaskState::Cancelled => pb::TaskState::Cancelled,
    }
}

/// How an attempt ended.
pub fn outcome_out(outcome: Outcome) -> pb::Outcome {
    match outcome {
        Outcome::Succeeded => pb::Outcome::Succeeded,
        Outcome::Exited => pb::Outcome::Exited,
        Outcome::Signaled => pb::Outcome::Signaled,
        Outcome::TimedOut => pb::Outcome::TimedOut,
        Outcome::CannotStart => pb::Outcome::CannotStart,
        Outcome::HandlerError => pb::Outcome::HandlerError,
        Outcome::WorkerLost => pb::Outcome::WorkerLost,
        Outcome::Cancelled => pb::Outcome::Cancelled,
        Outcome::Deadline => pb::Outcome::Deadline,
        Outcome::PartitionStop => pb::Outcome::PartitionStop,
        Outcome::WorkerShutdown => pb::Outcome::WorkerShutdown,
    }
}

fn outcome_or_none(outcome: Option<Outcome>) -> i32 {
    outcome.map_or(pb::Outcome::Unspecified, outcome_out).into()
}

/// A task as of cluster time `now_ms`.
pub fn task_out(task: &TaskView, now_ms: u64) -> pb::Task {
    pb::Task {
        id: task.id.0,
        spec: Some(spec_out(&task.spec)),
        state: state_out(task.state).into(),
        array_index: u64::from(task.array_index),
        submitted_ms: task.submitted_ms,
        finished_ms: task.finished_ms,
        next_attempt_in_ms: task.next_attempt_at_ms.map_or(0, |at| at.saturating_sub(now_ms)),
        attempts: task.attempts.iter().map(attempt_out).collect(),
        attempts_total: task.attempts_total,
        reason: task.reason.clone(),
        result: task.result.clone().into(),
        log_index: task.log_index,
    }
}

fn attempt_out(attempt: &AttemptView) -> pb::Attempt {
    pb::Attempt {
        number: attempt.number,
        token: attempt.token.0,
        worker_id: attempt.worker.0,
        worker_name: attempt.worker_name.clone(),
        assigned_ms: attempt.assigned_ms,
        started_ms: attempt.started_ms,
        ended_ms: attempt.ended_ms,
        outcome: outcome_or_none(attempt.outcome),
        exit_code: attempt.exit_code,
        message: attempt.message.clone(),
    }
}

/// What became of one cancel.
pub fn cancelled_out(result: &CancelResult) -> pb::CancelResult {
    pb::CancelResult {
        id: result.task.0,
        state: result.state.map_or(pb::TaskState::Unspecified, state_out).into(),
        cancelled: result.state == Some(TaskState::Cancelled),
        not_found: result.state.is_none(),
    }
}

/// What became of one retry.
pub fn retried_out(result: &RetryResult) -> pb::RetryResult {
    let refused = match (result.new, result.state) {
        (Some(_), _) => String::new(),
        (None, None) => "there is no such task (any more)".to_owned(),
        (None, Some(state)) => {
            let word = format!("{state:?}").to_lowercase();
            format!("it is {word}: only failed and cancelled tasks are submitted anew")
        }
    };
    pb::RetryResult { id: result.task.0, new_id: result.new.map_or(0, |id| id.0), refused }
}

/// Why a task stands where it stands.
pub fn explanation_out(explanation: Explanation, read: pb::ReadInfo) -> pb::ExplainResponse {
    let reason =
        |r: ExplainReason| pb::ExplainReason { reason: r.reason.to_owned(), workers: r.workers, detail: r.detail };
    pb::ExplainResponse {
        state: state_out(explanation.state).into(),
        summary: explanation.summary,
        ahead_in_queue: explanation.ahead_in_queue,
        workers_total: explanation.workers_total,
        reasons: explanation.reasons.into_iter().map(reason).collect(),
        read: Some(read),
    }
}

/// What an operator sees of a worker's status.
pub fn worker_status_out(status: WorkerStatus) -> pb::WorkerStatus {
    match status {
        WorkerStatus::Online => pb::WorkerStatus::Online,
        WorkerStatus::Busy => pb::WorkerStatus::Busy,
        WorkerStatus::Draining => pb::WorkerStatus::Draining,
        WorkerStatus::Maintenance => pb::WorkerStatus::Maintenance,
        WorkerStatus::Offline => pb::WorkerStatus::Offline,
    }
}

fn offline_out(reason: OfflineReason) -> &'static str {
    match reason {
        OfflineReason::Left => "left",
        OfflineReason::LeaseExpired => "lease_expired",
        OfflineReason::Evicted => "evicted",
    }
}

/// A worker without what only the leader knows.
pub fn worker_out(worker: &WorkerView) -> pb::Worker {
    pb::Worker {
        id: worker.id.0,
        name: worker.name.clone(),
        host: worker.host.clone(),
        port: u32::from(worker.port),
        capacity: worker.capacity,
        used: worker.used,
        labels: labels_out(&worker.labels),
        resources: resources_out(&worker.resources),
        resources_used: resources_out(&worker.resources_used),
        status: worker_status_out(worker.status).into(),
        offline_reason: worker.offline_reason.map_or(String::new(), |reason| offline_out(reason).to_owned()),
        incarnation: worker.incarnation,
        heartbeat_ms: worker.heartbeat_ms,
        lease_ms: worker.lease_ms,
        registered_ms: worker.registered_ms,
        lease_left_ms: 0,
        connected: worker.connected,
        load: None,
        version: worker.version.clone(),
        attempts: worker.attempts.iter().map(|token| token.0).collect(),
        overloaded: worker.load == LoadLevel::Over,
    }
}

/// How fresh an answer is.
pub fn read_out(stamp: &ReadStamp, served_by: u64) -> pb::ReadInfo {
    pb::ReadInfo { applied_index: stamp.applied_index, age_ms: stamp.age_ms, served_by, stale: stamp.stale }
}

/// A master's addresses.
pub fn address_out(address: &MemberAddr) -> pb::MasterAddress {
    let MemberAddr { id, api, raft, http } = address.clone();
    pb::MasterAddress { id, api, raft, http }
}

/// Who leads.
pub fn leader_out(view: &LeaderView) -> pb::LeaderInfo {
    let masters = view.members.iter().map(address_out).collect();
    pb::LeaderInfo { term: view.term, leader: view.leader.as_ref().map(address_out), masters }
}

/// A member of the cluster.
pub fn member_out(member: &MemberView) -> pb::MasterInfo {
    pb::MasterInfo {
        address: Some(address_out(&member.addr)),
        voter: member.voter,
        leader: member.leader,
        matched_index: member.matched_index,
        ack_age_ms: member.ack_age_ms,
    }
}

/// What a master is.
pub fn role_out(role: Role) -> pb::MasterRole {
    match role {
        Role::Leader => pb::MasterRole::Leader,
        Role::Follower => pb::MasterRole::Follower,
        Role::Candidate => pb::MasterRole::Candidate,
        Role::Learner => pb::MasterRole::Learner,
        Role::Starting => pb::MasterRole::Starting,
    }
}

/// Tasks by state.
pub fn task_counts_out(counts: &TaskCounts) -> pb::TaskCounts {
    pb::TaskCounts {
        pending: counts.pending,
        scheduled: counts.scheduled,
        running: counts.running,
        retrying: counts.retrying,
        succeeded: counts.succeeded,
        failed: counts.failed,
        cancelled: counts.cancelled,
        submitted_total: counts.submitted_total,
        finished_total: counts.finished_total,
    }
}

/// Workers by status.
pub fn worker_counts_out(counts: &WorkerCounts) -> pb::WorkerCounts {
    pb::WorkerCounts {
        online: counts.online,
        busy: counts.busy,
        draining: counts.draining,
        maintenance: counts.maintenance,
        offline: counts.offline,
        capacity: counts.capacity,
        used: counts.used,
    }
}

/// All events of one log entry.
pub fn entry_out(entry: &EventEntry) -> pb::EventBatch {
    pb::EventBatch {
        index: entry.index,
        term: entry.term,
        cluster_ms: entry.time_ms,
        wall_ms: entry.wall_ms,
        events: entry.events.iter().map(|event| pb::Event { kind: Some(event_out(event)) }).collect(),
        gap_from: 0,
        gap_to: 0,
    }
}

fn event_out(event: &Event) -> pb::event::Kind {
    use pb::event::Kind;
    match event {
        Event::TasksSubmitted { first, count } => {
            Kind::TasksSubmitted(pb::TasksSubmitted { first_id: first.0, count: *count })
        }
        Event::TaskAssigned { task, token, worker, attempt } => Kind::TaskAssigned(pb::TaskAssigned {
            task_id: task.0,
            token: token.0,
            worker_id: worker.0,
            attempt: *attempt,
        }),
        Event::TaskStarted { task, token } => Kind::TaskStarted(pb::TaskStarted { task_id: task.0, token: token.0 }),
        Event::AttemptEnded { task, token, outcome, exit_code } => Kind::AttemptEnded(pb::AttemptEnded {
            task_id: task.0,
            token: token.0,
            outcome: outcome_out(*outcome).into(),
            exit_code: *exit_code,
        }),
        Event::TaskFinished { task, state, outcome } => Kind::TaskFinished(pb::TaskFinished {
            task_id: task.0,
            state: state_out(*state).into(),
            outcome: outcome_or_none(*outcome),
        }),
        Event::TaskRetrying { task, delay_ms } => {
            Kind::TaskRetrying(pb::TaskRetrying { task_id: task.0, delay_ms: *delay_ms })
        }
        Event::WorkerChanged { worker, change } => Kind::WorkerChanged(change_out(worker.0, change)),
        Event::WorkerLoad { worker, level, used, capacity } => Kind::WorkerLoad(pb::WorkerLoad {
            worker_id: worker.0,
            overloaded: *level == LoadLevel::Over,
            underloaded: *level == LoadLevel::Under,
            used: *used,
            capacity: *capacity,
        }),
        Event::LeaderElected { term, leader } => {
            Kind::LeaderElected(pb::LeaderElected { term: *term, master_id: leader.0 })
        }
        Event::MembershipChanged { voters, learners } => Kind::MembershipChanged(pb::MembershipChanged {
            voters: voters.iter().map(|id| id.0).collect(),
            learners: learners.iter().map(|id| id.0).collect(),
        }),
        Event::TasksTrimmed { count } => Kind::TasksTrimmed(pb::TasksTrimmed { count: *count }),
        Event::ElectionReport(report) => Kind::ElectionReport(report_out(report)),
        Event::Brake(change) => Kind::BrakeChanged(brake_change_out(*change)),
    }
}

fn report_out(report: &ElectionReport) -> pb::ElectionReport {
    let cause = match report.cause {
        ElectionCause::Handover => "handover",
        ElectionCause::Reset => "reset",
        ElectionCause::Timer => "timer",
        ElectionCause::Start => "start",
    };
    pb::ElectionReport {
        term: report.term,
        master_id: report.leader.0,
        former_id: report.former.map_or(0, |former| former.0),
        cause: cause.to_owned(),
        planned: report.cause == ElectionCause::Handover,
        suspected_us: report.suspected_us,
        asked_us: report.asked_us,
        granted_us: report.granted_us,
        elected_us: report.elected_us,
        committed_us: report.committed_us,
        dispatched_us: report.dispatched_us,
        workers_back_us: report.workers_back_us,
        workers_believed: report.workers_believed,
        workers_back: report.workers_back,
        reported_us: report.reported_us,
        reported_wall_ms: report.reported_wall_ms,
    }
}

fn brake_change_out(change: BrakeChange) -> pb::BrakeChanged {
    match change {
        BrakeChange::Engaged { manual, silent, workers } => {
            pb::BrakeChanged { engaged: true, manual, silent, workers, lost: 0 }
        }
        BrakeChange::Released { manual, declared } => {
            pb::BrakeChanged { manual, lost: declared, ..pb::BrakeChanged::default() }
        }
    }
}

/// How the brake stands, at this cluster time.
pub fn brake_out(brake: &BrakeView, now_ms: u64) -> pb::BrakeInfo {
    let policy = &brake.policy;
    pb::BrakeInfo {
        engaged: brake.engaged_since_ms.is_some(),
        engaged_for_ms: brake.engaged_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms)),
        manual: brake.manual,
        held: narrow(brake.held_total),
        lost: narrow(brake.lost),
        allowed: narrow(brake.allowed),
        policy: Some(pb::BrakePolicy {
            share_percent: policy.share_percent,
            window_ms: narrow(policy.window_ms),
            workers_min: policy.workers_min,
        }),
        held_ids: brake.held.iter().map(|worker| worker.0).collect(),
    }
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn change_out(worker_id: u64, change: &WorkerChange) -> pb::WorkerChanged {
    let (word, reason) = match change {
        WorkerChange::Registered { .. } => ("registered", ""),
        WorkerChange::Resumed => ("resumed", ""),
        WorkerChange::Disconnected => ("disconnected", ""),
        WorkerChange::Mode(WorkerMode::Active) => ("active", ""),
        WorkerChange::Mode(WorkerMode::Drain) => ("draining", ""),
        WorkerChange::Mode(WorkerMode::Maintenance) => ("maintenance", ""),
        WorkerChange::Config => ("config", ""),
        WorkerChange::Offline(OfflineReason::Left) => ("left", ""),
        WorkerChange::Offline(OfflineReason::LeaseExpired) => ("lost", "its lease ran out"),
        WorkerChange::Held => ("held", "its lease ran out, and the brake keeps its tasks with it"),
        WorkerChange::Offline(OfflineReason::Evicted) => ("evicted", "an operator declared it lost"),
    };
    let name = if let WorkerChange::Registered { name, .. } = change { name.clone() } else { String::new() };
    pb::WorkerChanged { worker_id, name, change: word.to_owned(), reason: reason.to_owned() }
}
