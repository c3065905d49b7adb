//! Bad requests by table, and that good ones pass unchanged both ways.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use steersman_proto::v1 as pb;
use steersman_proto::worker::v1 as worker_pb;
use steersman_state::{
    Backoff, Command, News, OnPartition, Outcome, RetryOn, TaskId, TaskSpec, Work, WorkerId, WorkerMode, WorkerRef,
};
use steersman_world::SeededEntropy;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::*;
use crate::config::NodeLimits;

fn limits() -> NodeLimits {
    NodeLimits::default()
}

fn command(argv: &[&str]) -> pb::TaskSpec {
    let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
    let command = pb::Command { argv, ..pb::Command::default() };
    pb::TaskSpec { work: Some(pb::task_spec::Work::Command(command)), ..pb::TaskSpec::default() }
}

fn label(key: &str, value: &str) -> pb::Label {
    pb::Label { key: key.to_owned(), value: value.to_owned() }
}

fn submit(spec: pb::TaskSpec) -> Result<(), Status> {
    submit_in(vec![pb::TaskGroup { spec: Some(spec), count: 1 }], &limits()).map(drop)
}

/// A spec that is good but for one change.
fn spoilt(change: impl FnOnce(&mut pb::TaskSpec)) -> Result<(), Status> {
    let mut spec = command(&["true"]);
    change(&mut spec);
    submit(spec)
}

fn worker(id: u64, name: &str) -> Option<pb::WorkerRef> {
    Some(pb::WorkerRef { id, name: name.to_owned() })
}

fn backoff(change: impl FnOnce(&mut pb::Backoff)) -> Result<(), Status> {
    let mut backoff = pb::Backoff::default();
    change(&mut backoff);
    spoilt(|spec| spec.backoff = Some(backoff))
}

fn set_config(change: impl FnOnce(&mut pb::SetConfigRequest)) -> Result<(), Status> {
    let mut request = pb::SetConfigRequest { worker: worker(1, ""), ..pb::SetConfigRequest::default() };
    change(&mut request);
    set_config_in(request, 10_000, &limits()).map(drop)
}

fn set_mode(mode: i32, deadline_ms: u64) -> Result<(), Status> {
    let worker = worker(1, "");
    set_mode_in(pb::SetModeRequest { worker, mode, deadline_ms, ..pb::SetModeRequest::default() }).map(drop)
}

fn hello(change: impl FnOnce(&mut worker_pb::Hello)) -> Result<(), Status> {
    let mut hello = worker_pb::Hello {
        name: "w1".to_owned(),
        uid: Bytes::from_static(&[7; 16]),
        incarnation: 1,
        host: "h".to_owned(),
        capacity: 10,
        ..worker_pb::Hello::default()
    };
    change(&mut hello);
    open_session_in(hello, 1_000).map(drop)
}

fn filter(change: impl FnOnce(&mut pb::TaskFilter)) -> Result<(), Status> {
    let mut filter = pb::TaskFilter::default();
    change(&mut filter);
    filter_in(Some(filter)).map(drop)
}

type Case = (Result<(), Status>, &'static str, &'static str);

/// Groups, and the work of a spec.
fn bad_work() -> Vec<Case> {
    let groups = |n: usize, count| vec![pb::TaskGroup { spec: Some(command(&["true"])), count }; n];
    vec![
        (submit_in(Vec::new(), &limits()).map(drop), "groups", "is empty: give at least one group"),
        (
            submit_in(groups(10_001, 1), &limits()).map(drop),
            "groups",
            "10001 groups, the limit is 10000: split the call",
        ),
        (submit_in(groups(2, 600_000), &limits()).map(drop), "groups", "1200000 tasks, the limit is 1000000"),
        (
            submit_in(vec![pb::TaskGroup::default()], &limits()).map(drop),
            "groups[0].spec",
            "is missing: say what to run",
        ),
        (spoilt(|s| s.work = None), "groups[0].spec.work", "is missing: set a command or a handler"),
        (submit(command(&[])), "groups[0].spec.command.argv", "is empty: give at least one argument"),
        (submit(command(&[""])), "groups[0].spec.command.argv[0]", "is empty: it names the program"),
        (submit(command(&["a", "b\0c"])), "groups[0].spec.command.argv[1]", "contains a NUL byte"),
        (
            spoilt(|s| {
                let command = pb::Command { argv: vec!["a".into()], workdir: "x/y".into(), stdin: Bytes::new() };
                s.work = Some(pb::task_spec::Work::Command(command));
            }),
            "groups[0].spec.command.workdir",
            "\"x/y\" is not absolute: begin with '/', or leave it empty",
        ),
        (
            spoilt(|s| {
                let handler = pb::Handler { name: "-x".into(), payload: Bytes::new() };
                s.work = Some(pb::task_spec::Work::Handler(handler));
            }),
            "groups[0].spec.handler.name",
            "\"-x\" is not a key: use 1 to 128 letters",
        ),
        (
            spoilt(|s| {
                let handler = pb::Handler { name: "h".into(), payload: Bytes::from(vec![0; 1 << 20]) };
                s.work = Some(pb::task_spec::Work::Handler(handler));
            }),
            "groups[0].spec",
            "bytes, the limit is 1048576: put large input into a file",
        ),
    ]
}

/// What a spec says besides the work itself.
fn bad_terms() -> Vec<Case> {
    vec![
        (spoilt(|s| s.name = "n".repeat(257)), "groups[0].spec.name", "257 bytes, the limit is 256: shorten it"),
        (spoilt(|s| s.name = "a\nb".into()), "groups[0].spec.name", "contains a control character"),
        (spoilt(|s| s.priority = 1_001), "groups[0].spec.priority", "1001 is out of range: allowed is -1000 to 1000"),
        (spoilt(|s| s.timeout_ms = u64::MAX), "groups[0].spec.timeout_ms", "is out of range: allowed is 0 to"),
        (spoilt(|s| s.deadline_ms = u64::MAX), "groups[0].spec.deadline_ms", "is out of range: allowed is 0 to"),
        (
            spoilt(|s| s.max_attempts = 1_001),
            "groups[0].spec.max_attempts",
            "1001 is out of range: allowed is 0 to 1000",
        ),
        (spoilt(|s| s.kill_grace_ms = 3_600_001), "groups[0].spec.kill_grace_ms", "allowed is 0 to 3600000"),
        (spoilt(|s| s.on_partition = 9), "groups[0].spec.on_partition", "9 is not a value that this release knows"),
        (spoilt(|s| s.env = vec![label("A=B", "")]), "groups[0].spec.env[0].key", "is not a variable's name"),
        (spoilt(|s| s.env = vec![label("STEERSMAN_X", "")]), "groups[0].spec.env[0].key", "is reserved"),
        (spoilt(|s| s.env = vec![label("A", "x\0")]), "groups[0].spec.env[0].value", "contains a NUL byte"),
        (spoilt(|s| s.env = vec![label("A", ""), label("A", "")]), "groups[0].spec.env[1].key", "is there twice"),
        (spoilt(|s| s.env = vec![label("A", ""); 1_025]), "groups[0].spec.env", "1025 variables, the limit is 1024"),
        (
            spoilt(|s| s.require_labels = vec![label("", "x")]),
            "groups[0].spec.require_labels[0].key",
            "\"\" is not a key",
        ),
        (
            spoilt(|s| s.require_labels = vec![label("zone", &"v".repeat(257))]),
            "groups[0].spec.require_labels[0].value",
            "257 bytes, the limit is 256",
        ),
        (
            spoilt(|s| s.require_resources = vec![pb::Resource { name: "gpu".into(), amount: 0 }]),
            "groups[0].spec.require_resources[0].amount",
            "0 is out of range: allowed is 1 to",
        ),
        (backoff(|b| b.factor = 0.5), "groups[0].spec.backoff.factor", "0.5 is out of range: allowed is 1 to 100"),
        (backoff(|b| b.factor = f64::NAN), "groups[0].spec.backoff.factor", "NaN is out of range"),
        (backoff(|b| b.jitter = 1.5), "groups[0].spec.backoff.jitter", "1.5 is out of range: allowed is 0 to 1"),
        (
            backoff(|b| (b.initial_ms, b.max_ms) = (2_000, 1_000)),
            "groups[0].spec.backoff.initial_ms",
            "2000 is more than max_ms = 1000: lower it",
        ),
        (
            spoilt(|s| s.retry_on = Some(pb::RetryOn { exit_codes: vec![3, 0], ..pb::RetryOn::default() })),
            "groups[0].spec.retry_on.exit_codes[1]",
            "0 is out of range: allowed is 1 to 255",
        ),
    ]
}

fn other_bad_requests() -> Vec<Case> {
    let entropy = SeededEntropy::new(1);
    let wait = |first_id, count, wait_ms| wait_in(pb::WaitRequest { first_id, count, wait_ms }).map(drop);
    let log = |change: fn(&mut pb::ReadLogRequest)| {
        let mut request = pb::ReadLogRequest { id: 1, ..pb::ReadLogRequest::default() };
        change(&mut request);
        read_log_in(&request).map(drop)
    };
    let master = |id, api: &str| {
        let (api, raft, http) = (api.to_owned(), "h:1".to_owned(), "h:2".to_owned());
        master_in(Some(pb::MasterAddress { id, api, raft, http })).map(drop)
    };
    vec![
        (
            request_id_in(&Bytes::from_static(b"short"), &entropy).map(drop),
            "request_id",
            "5 bytes: send 16 random bytes",
        ),
        (stale_in(7).map(drop), "consistency", "7 is not a value that this release knows"),
        (task_id_in("id", 0).map(drop), "id", "is 0 or missing: task ids begin at 1"),
        (task_ids_in(Vec::new(), &limits()).map(drop), "ids", "is empty: give at least one id"),
        (task_ids_in(vec![1; 10_001], &limits()).map(drop), "ids", "10001 ids, the limit is 10000: split the call"),
        (task_ids_in(vec![1, 0], &limits()).map(drop), "ids[1]", "is 0: task ids begin at 1"),
        (filter(|f| f.states = vec![99]), "filter.states[0]", "99 is not a value that this release knows"),
        (filter(|f| f.states = vec![0]), "filter.states[0]", "is unspecified: name a state"),
        (filter(|f| (f.id_from, f.id_to) = (9, 3)), "filter.id_from", "9 is after id_to = 3: swap them"),
        (wait(0, 1, 0), "first_id", "is 0 or missing"),
        (wait(1, 1_000_001, 0), "count", "1000001 is out of range: allowed is 0 to 1000000"),
        (wait(1, 1, 30_001), "wait_ms", "30001 is out of range: allowed is 0 to 30000"),
        (log(|r| r.max_bytes = 262_145), "max_bytes", "262145 is out of range: allowed is 0 to 262144"),
        (log(|r| r.wait_ms = 10_001), "wait_ms", "10001 is out of range: allowed is 0 to 10000"),
        (log(|r| r.stream = 2), "stream", "2 is not a value that this release knows"),
        (worker_ref_in(None).map(drop), "worker", "is missing: give an id or a name"),
        (worker_ref_in(worker(1, "w")).map(drop), "worker", "has an id and a name: give one of them"),
        (worker_ref_in(worker(0, "a b")).map(drop), "worker.name", "\"a b\" is not a key"),
        (statuses_in(&[0]).map(drop), "statuses[0]", "is unspecified: name a status"),
        (set_mode(0, 0), "mode", "is missing: choose active, drain or maintenance"),
        (set_mode(9, 0), "mode", "9 is not a value that this release knows"),
        (set_mode(1, 5), "deadline_ms", "means nothing for active: leave it 0"),
        (set_config(|_| ()), "capacity", "nothing is to be changed"),
        (set_config(|r| r.capacity = Some(0)), "capacity", "0 is out of range: allowed is 1 to 100000"),
        (set_config(|r| r.heartbeat_ms = Some(5_000)), "heartbeat_ms", "5000 is out of range: allowed is 50 to 3333"),
        (
            set_config(|r| (r.set_labels, r.remove_labels) = (vec![label("a", "1")], vec!["a".into()])),
            "remove_labels[0]",
            "\"a\" is also in set_labels: choose one",
        ),
        (master(0, "h:7400"), "master.id", "0 is not the id of a master: ids begin at 1"),
        (master(4, "h:0"), "master.api", "\"h:0\" is not host:port with a port from 1 to 65535"),
        (master_id_in("id", 0).map(drop), "id", "0 is not the id of a master"),
        (
            subscribe_in(&pb::SubscribeRequest { from_index: 5, oldest: true, follow: true }).map(drop),
            "oldest",
            "contradicts from_index = 5: use one of them",
        ),
        (hello(|h| h.name = String::new()), "name", "\"\" is not a key"),
        (hello(|h| h.uid = Bytes::from_static(b"x")), "uid", "1 bytes: a worker is known by 16 bytes"),
        (hello(|h| h.incarnation = 0), "incarnation", "0 is out of range"),
        (hello(|h| h.port = 70_000), "port", "70000 is out of range: allowed is 0 to 65535"),
        (hello(|h| h.capacity = 0), "capacity", "0 is out of range"),
        (hello(|h| h.heartbeat_ms = 1), "heartbeat_ms", "1 is out of range: allowed is 50 to 60000"),
    ]
}

#[test]
fn p15_bad_requests_name_the_field_the_limit_and_the_remedy() {
    for (result, field, problem) in bad_work().into_iter().chain(bad_terms()).chain(other_bad_requests()) {
        let status = result.expect_err(&format!("{field}: {problem}"));
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        let [one] = &violations[..] else { panic!("one problem was made, {violations:?} were found") };
        assert_eq!(one.field, field, "{violations:?}");
        assert!(one.description.contains(problem), "wanted: {problem}\nsaid: {}", one.description);
        assert_eq!(status.message(), format!("{}: {}", one.field, one.description));
        assert_eq!(status.get_details_error_info().unwrap().metadata["code"], "STM-2001");
    }
}

#[test]
fn p15_many_problems_are_told_at_once_and_bounded() {
    let groups = vec![pb::TaskGroup { spec: Some(command(&[""])), count: 1 }; 100];
    let status = submit_in(groups, &limits()).unwrap_err();
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations.len(), checks::SHOWN_MAX + 1);
    assert_eq!(violations[checks::SHOWN_MAX].description, "and 84 more problems");
}

#[test]
fn p15_what_a_caller_sent_is_quoted_short() {
    let status = worker_ref_in(worker(0, &"ä ".repeat(5_000))).unwrap_err();
    assert!(status.message().len() < 400, "{}", status.message().len());
}

#[test]
fn a_short_spec_gets_every_default() {
    let groups = submit_in(vec![pb::TaskGroup { spec: Some(command(&["true"])), count: 0 }], &limits()).unwrap();
    let expected = TaskSpec {
        name: String::new(),
        work: Work::Command { argv: vec!["true".to_owned()], workdir: String::new(), stdin: Vec::new() },
        env: [].into(),
        require_labels: [].into(),
        require_resources: [].into(),
        priority: 0,
        timeout_ms: 0,
        deadline_ms: 0,
        max_attempts: 3,
        backoff: Backoff::default(),
        retry_on: RetryOn::default(),
        on_partition: OnPartition::Continue,
        kill_grace_ms: 5_000,
    };
    assert_eq!(*groups[0].spec, expected);
    assert_eq!(groups[0].count, 1);
}

#[test]
fn a_full_spec_passes_both_ways_unchanged() {
    let spec = TaskSpec {
        name: "render".to_owned(),
        work: Work::Command { argv: vec!["a".into(), String::new()], workdir: "/tmp".into(), stdin: vec![0, 255] },
        env: [("A".to_owned(), "1".to_owned())].into(),
        require_labels: [("zone".to_owned(), "eu".to_owned())].into(),
        require_resources: [("gpu".to_owned(), 2)].into(),
        priority: -7,
        timeout_ms: 1,
        deadline_ms: 2,
        max_attempts: 9,
        backoff: Backoff { initial_ms: 5, max_ms: 50, factor_permille: 1_500, jitter_permille: 333 },
        retry_on: RetryOn { worker_lost: false, timeout: true, any_failure: false, exit_codes: vec![3, 75] },
        on_partition: OnPartition::Stop,
        kill_grace_ms: 42,
    };
    let mut checks = Checks::default();
    let again = spec_in("spec", spec_out(&spec), &limits(), &mut checks);
    checks.finish(()).unwrap();
    assert_eq!(again, spec);
    let handler = TaskSpec { work: Work::Handler { name: "resize".into(), payload: vec![1, 2, 3] }, ..spec };
    let mut checks = Checks::default();
    assert_eq!(spec_in("spec", spec_out(&handler), &limits(), &mut checks), handler);
    checks.finish(()).unwrap();
}

#[test]
fn p02_a_mutation_without_a_request_id_gets_one_and_a_given_one_is_kept() {
    let entropy = SeededEntropy::new(1);
    let made = |id: &Bytes| request_id_in(id, &entropy).unwrap();
    assert_ne!(made(&Bytes::new()), made(&Bytes::new()));
    assert_eq!(made(&Bytes::from_static(&[9; 16])).0, [9; 16]);
}

#[test]
fn commands_on_workers_carry_what_was_asked() {
    let drain = pb::SetModeRequest {
        worker: worker(0, "w1"),
        mode: pb::WorkerMode::Drain.into(),
        deadline_ms: 500,
        ..pb::SetModeRequest::default()
    };
    let by_name = WorkerRef::Name("w1".to_owned());
    let expected = Command::SetWorkerMode { worker: by_name, mode: WorkerMode::Drain, deadline_ms: 500 };
    assert_eq!(set_mode_in(drain).unwrap(), expected);
    let stop = pb::ShutdownRequest { worker: worker(3, ""), now: true, ..pb::ShutdownRequest::default() };
    let expected = Command::ShutdownWorker { worker: WorkerRef::Id(WorkerId(3)), now: true };
    assert_eq!(shutdown_in(stop).unwrap(), expected);
}

#[test]
fn every_report_is_acknowledged_and_a_strange_one_is_a_failure() {
    let ended = |outcome, message: String, result: usize| worker_pb::Ended {
        outcome,
        exit_code: 0,
        message,
        result: vec![1; result].into(),
        ran_ms: 5,
    };
    let report = |token, ended| worker_pb::Report { token, task_id: 1, ended };
    let (reports, ack) = reports_in(worker_pb::Reports {
        reports: vec![
            report(1, None),
            report(2, Some(ended(pb::Outcome::Succeeded.into(), "ä".repeat(1_000), 10_000))),
            report(3, Some(ended(77, "?".to_owned(), 0))),
        ],
    });
    assert_eq!((&ack.started_tokens[..], &ack.tokens[..]), (&[1][..], &[2, 3][..]));
    assert_eq!(reports[0].news, News::Started);
    let News::Ended(long) = &reports[1].news else { panic!("{:?}", reports[1]) };
    assert_eq!((long.message.len(), long.result.len(), long.outcome), (1_024, 4_097, Outcome::Succeeded));
    let News::Ended(strange) = &reports[2].news else { panic!("{:?}", reports[2]) };
    assert_eq!((strange.outcome, strange.message.as_str()), (Outcome::HandlerError, "unknown outcome 77: ?"));
}

#[test]
fn a_range_of_tasks_ends_where_ids_end() {
    let wait = |first_id, count| wait_in(pb::WaitRequest { first_id, count, wait_ms: 5 }).unwrap();
    assert_eq!(wait(7, 0), (7..8, 5));
    assert_eq!(wait(7, 3), (7..10, 5));
    assert_eq!(wait(u64::MAX, 3), (u64::MAX..u64::MAX, 5));
}

#[test]
fn every_state_that_can_be_filtered_by_has_the_same_word_both_ways() {
    let all: Vec<i32> = (1..=7).collect();
    let filter =
        filter_in(Some(pb::TaskFilter { states: all.clone(), id_to: 9, ..pb::TaskFilter::default() })).unwrap();
    let again: Vec<i32> = filter.states.into_iter().map(|state| state_out(state).into()).collect();
    assert_eq!(again, all);
    assert_eq!((filter.id_from, filter.id_to), (None, Some(TaskId(9))));
}
