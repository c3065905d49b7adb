//! Requests that are over a limit, malformed or about nothing: each is refused with its field, its limit and the remedy.

use std::future::Future;

use bytes::Bytes;
use steersman_chaos_tests::spec::{argv, group, nothing, one};
use steersman_chaos_tests::{Cluster, Settings};
use steersman_client::v1::tasks_client::TasksClient;
use steersman_client::v1::workers_client::WorkersClient;
use steersman_client::v1::{
    Backoff, CancelRequest, Command, GetTaskRequest, Label, ListTasksRequest, Page, ReadLogRequest, Resource, RetryOn,
    SetConfigRequest, SetModeRequest, SubmitRequest, TaskFilter, TaskGroup, TaskSpec, WaitRequest, WorkerRef,
    task_spec::Work,
};
use tonic::transport::Channel;
use tonic::{Response, Status};
use tonic_types::StatusExt as _;

use crate::{Table, alive};

/// A status with everything that it carries, as one text.
pub fn text_of(status: &Status) -> String {
    let details = status.get_error_details();
    let fields = details.bad_request().map(|bad| format!("{:?}", bad.field_violations)).unwrap_or_default();
    let info = details.error_info().map(|info| format!("{} {:?}", info.reason, info.metadata)).unwrap_or_default();
    format!("{:?}: {} {fields} {info}", status.code(), status.message())
}

async fn refused<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> String {
    match call.await {
        Ok(_) => "it was accepted".to_owned(),
        Err(status) => text_of(&status),
    }
}

/// Specs that are wrong in one thing.
fn bad_specs() -> Vec<(&'static str, TaskSpec, Vec<&'static str>)> {
    let good = nothing();
    let label = |key: &str| Label { key: key.to_owned(), value: "x".to_owned() };
    let backoff = |backoff: Backoff| TaskSpec { backoff: Some(backoff), ..good.clone() };
    let command = |command: Command| TaskSpec { work: Some(Work::Command(command)), ..good.clone() };
    vec![
        ("no work", TaskSpec { work: None, ..good.clone() }, vec!["groups[0].spec.work", "set a command or a handler"]),
        ("no argument", argv(&[]), vec!["spec.command.argv", "at least one argument"]),
        ("an empty program", argv(&[""]), vec!["spec.command.argv[0]", "it names the program"]),
        ("a NUL byte", argv(&["a", "b\0c"]), vec!["spec.command.argv[1]", "NUL byte"]),
        (
            "a relative directory",
            command(Command { workdir: "x".into(), ..Command::default() }),
            vec!["is not absolute"],
        ),
        ("a high priority", TaskSpec { priority: 5_000, ..good.clone() }, vec!["spec.priority", "-1000 to 1000"]),
        ("a reserved variable", TaskSpec { env: vec![label("STEERSMAN_X")], ..good.clone() }, vec!["is reserved"]),
        (
            "a variable twice",
            TaskSpec { env: vec![label("A"), label("A")], ..good.clone() },
            vec!["spec.env[1].key", "twice"],
        ),
        (
            "a label without a key",
            TaskSpec { require_labels: vec![label("")], ..good.clone() },
            vec!["require_labels[0].key"],
        ),
        (
            "a resource of nothing",
            TaskSpec { require_resources: vec![Resource { name: "gpu".into(), amount: 0 }], ..good.clone() },
            vec!["require_resources[0].amount", "0 is out of range"],
        ),
        (
            "an unknown enum value",
            TaskSpec { on_partition: 99, ..good.clone() },
            vec!["spec.on_partition", "99 is not a value"],
        ),
        ("NaN", backoff(Backoff { jitter: f64::NAN, ..Backoff::default() }), vec!["spec.backoff.jitter", "NaN"]),
        ("infinity", backoff(Backoff { factor: f64::INFINITY, ..Backoff::default() }), vec!["spec.backoff.factor"]),
        (
            "a backwards backoff",
            backoff(Backoff { initial_ms: 9, max_ms: 3, ..Backoff::default() }),
            vec!["max_ms = 3"],
        ),
        (
            "an exit code of no process",
            TaskSpec { retry_on: Some(RetryOn { exit_codes: vec![300], ..RetryOn::default() }), ..good.clone() },
            vec!["exit_codes[0]", "1 to 255"],
        ),
        (
            "too many attempts",
            TaskSpec { max_attempts: 100_000, ..good.clone() },
            vec!["spec.max_attempts", "0 to 1000"],
        ),
        ("a century", TaskSpec { timeout_ms: u64::MAX, ..good.clone() }, vec!["spec.timeout_ms"]),
        ("a long name", TaskSpec { name: "n".repeat(5_000), ..good.clone() }, vec!["spec.name", "the limit is 256"]),
        (
            "an oversized payload",
            command(Command { argv: vec!["cat".into()], stdin: vec![7; 2 << 20].into(), ..Command::default() }),
            vec!["the limit is 1048576", "put large input into a file"],
        ),
    ]
}

async fn bad_submits(tasks: &mut TasksClient<Channel>, table: &mut Table) {
    let submit =
        |groups: Vec<TaskGroup>| SubmitRequest { request_id: vec![1; 16].into(), groups, validate_only: false };
    for (name, spec, words) in bad_specs() {
        let mut words = words;
        words.extend(["InvalidArgument", "INVALID_ARGUMENT", "STM-2001"]);
        table.words(name, &refused(tasks.submit(submit(one(spec)))).await, &words);
    }
    let many = |count: usize| vec![TaskGroup { spec: Some(nothing()), count: 1 }; count];
    let rows: Vec<(&str, SubmitRequest, &[&str])> = vec![
        ("no group", submit(vec![]), &["groups", "at least one group"]),
        ("no spec", submit(vec![TaskGroup { spec: None, count: 1 }]), &["groups[0].spec", "is missing"]),
        ("too many groups", submit(many(10_001)), &["10001 groups, the limit is 10000: split the call"]),
        (
            "too many tasks",
            submit(group(nothing(), 2_000_000)),
            &["2000000 tasks, the limit is 1000000: split the call"],
        ),
        (
            "a short request id",
            SubmitRequest { request_id: vec![1; 3].into(), ..submit(one(nothing())) },
            &["request_id", "send 16 random bytes"],
        ),
    ];
    for (name, request, words) in rows {
        table.words(name, &refused(tasks.submit(request)).await, words);
    }
    let stdin = Bytes::from(vec![7; 20 << 20]);
    let huge = TaskSpec {
        work: Some(Work::Command(Command { argv: vec!["cat".into()], stdin, ..Command::default() })),
        ..nothing()
    };
    table.words("a huge message", &refused(tasks.submit(submit(one(huge)))).await, &["OutOfRange", "16777216"]);
}

async fn bad_questions(tasks: &mut TasksClient<Channel>, table: &mut Table) {
    let get = |id, consistency| GetTaskRequest { id, consistency };
    table.words("id 0", &refused(tasks.get(get(0, 0))).await, &["task ids begin at 1"]);
    table.words("unknown id", &refused(tasks.get(get(u64::MAX, 0))).await, &["NotFound", "TASK_NOT_FOUND", "STM-2002"]);
    table.words("unknown consistency", &refused(tasks.get(get(1, 7))).await, &["consistency", "7 is not a value"]);
    let page = |page_size, token: &str| ListTasksRequest {
        page: Some(Page { page_size, page_token: token.to_owned() }),
        ..ListTasksRequest::default()
    };
    let filter = |filter| ListTasksRequest { filter: Some(filter), ..ListTasksRequest::default() };
    let lists: Vec<(&str, ListTasksRequest, &[&str])> = vec![
        ("a huge page", page(1_000_000, ""), &["page.page_size", "0 to 1000"]),
        ("a made-up token", page(1, "../../etc/passwd"), &["page.page_token", "begin with an empty token"]),
        ("an unknown state", filter(TaskFilter { states: vec![99], ..TaskFilter::default() }), &["filter.states[0]"]),
        ("an empty range", filter(TaskFilter { id_from: 9, id_to: 3, ..TaskFilter::default() }), &["swap them"]),
    ];
    for (name, request, words) in lists {
        table.words(name, &refused(tasks.list(request)).await, words);
    }
    let wait = |first_id, count, wait_ms| WaitRequest { first_id, count, wait_ms };
    table.words("a long wait", &refused(tasks.wait(wait(1, 1, 600_000))).await, &["wait_ms", "0 to 30000"]);
    table.words("a wait for too many", &refused(tasks.wait(wait(1, u64::MAX, 0))).await, &["count", "1000000"]);
    let log = |id, max_bytes, stream| ReadLogRequest { id, max_bytes, stream, ..ReadLogRequest::default() };
    table.words("too much output", &refused(tasks.read_log(log(1, 9 << 20, 0))).await, &["max_bytes", "262144"]);
    table.words("an unknown stream", &refused(tasks.read_log(log(1, 0, 9))).await, &["stream", "9 is not a value"]);
    table.words("no task's output", &refused(tasks.read_log(log(77, 0, 0))).await, &["TASK_NOT_FOUND"]);
    let cancel = |ids| CancelRequest { request_id: vec![2; 16].into(), ids };
    table.words("no ids", &refused(tasks.cancel(cancel(vec![]))).await, &["ids", "at least one id"]);
    table.words(
        "too many ids",
        &refused(tasks.cancel(cancel(vec![5; 10_001]))).await,
        &["10001 ids, the limit is 10000"],
    );
}

async fn bad_orders(workers: &mut WorkersClient<Channel>, table: &mut Table) {
    let by_name = |name: &str| Some(WorkerRef { id: 0, name: name.to_owned() });
    let mode = |worker, mode| SetModeRequest { worker, mode, ..SetModeRequest::default() };
    let set = |worker, capacity, heartbeat_ms| SetConfigRequest {
        worker,
        capacity,
        heartbeat_ms,
        ..SetConfigRequest::default()
    };
    let both = Some(WorkerRef { id: 1, name: "w1".to_owned() });
    let modes: Vec<(&str, SetModeRequest, &[&str])> = vec![
        ("no worker", mode(None, 2), &["give an id or a name"]),
        ("two workers", mode(both, 2), &["has an id and a name"]),
        ("no mode", mode(by_name("w1"), 0), &["choose active, drain or maintenance"]),
        ("an unknown mode", mode(by_name("w1"), 42), &["mode", "42 is not a value"]),
        ("an unknown worker", mode(by_name("nobody"), 2), &["NotFound", "WORKER_NOT_FOUND", "nobody"]),
    ];
    for (name, request, words) in modes {
        table.words(name, &refused(workers.set_mode(request)).await, words);
    }
    let sets: Vec<(&str, SetConfigRequest, &[&str])> = vec![
        ("no capacity", set(by_name("w1"), Some(0), None), &["capacity", "0 is out of range"]),
        ("a slow heart", set(by_name("w1"), None, Some(60_000)), &["heartbeat_ms", "out of range"]),
        ("nothing to set", set(by_name("w1"), None, None), &["InvalidArgument"]),
    ];
    for (name, request, words) in sets {
        table.words(name, &refused(workers.set_config(request)).await, words);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_bad_requests_name_the_field_the_limit_and_the_remedy_at_every_master() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let mut table = Table::default();
    for id in cluster.master_ids() {
        let before = cluster.client().info().await.unwrap();
        let api = cluster.master(id).addresses().api;
        let channel = Channel::from_shared(format!("http://{api}")).unwrap().connect().await.unwrap();
        let mut tasks = TasksClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        bad_submits(&mut tasks, &mut table).await;
        bad_questions(&mut tasks, &mut table).await;
        bad_orders(&mut WorkersClient::new(channel), &mut table).await;
        let after = cluster.client().info().await.unwrap();
        assert_eq!(after.tasks, before.tasks, "nothing has changed");
    }
    table.finish(120);
    alive(&mut cluster).await;
}
