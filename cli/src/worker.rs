//! `steersman worker …`: start a worker, see and steer workers.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use steersman_client::v1::{
    BrakeAction, BrakeInfo, BrakePolicy, Consistency, Label, ListWorkersRequest, Page, Resource, SetConfigRequest,
    Worker, WorkerMode, WorkerRef, WorkerResponse,
};
use steersman_client::{Client, codes, worker_ref};

use crate::context::Ctx;
use crate::exit::{self, Failure, Outcome};
use crate::table::{Column, Row, col, print_list, print_one};
use crate::{units, views};

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// Start a worker in this process
    Start(StartArgs),
    /// List workers
    List(ListArgs),
    /// Show a worker with everything known about it
    #[command(after_help = "Examples:\n  steersman worker show w1\n  steersman worker show 3 -o json")]
    Show(OneArgs),
    /// Let a worker finish what it has and give it nothing new
    Drain(DrainArgs),
    /// Let a drained worker take tasks again
    #[command(after_help = "Example:\n  steersman worker undrain w1")]
    Undrain(OneArgs),
    /// Drain a worker and keep it out until it is undrained
    #[command(after_help = "Example:\n  steersman worker maintenance w1")]
    Maintenance(OneArgs),
    /// Declare a worker lost now: its tasks run elsewhere
    #[command(after_help = "Example:\n  steersman worker evict w1 --yes")]
    Evict(OneArgs),
    /// Change a worker's replicated configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// End a worker's process, after a drain or now
    Shutdown(ShutdownArgs),
    /// Show, release, engage and tune the brake on mass failure
    #[command(subcommand)]
    Brake(BrakeCommand),
    /// Ask a worker itself how it is
    #[command(after_help = "Example:\n  steersman worker check w1")]
    Check(OneArgs),
}

/// `worker brake …`.
#[derive(Debug, Subcommand)]
pub enum BrakeCommand {
    /// Show whether it holds, whom, and what it goes by
    #[command(
        after_help = "Examples:\n  steersman worker brake show\n  steersman worker brake show -o json | jq .held_ids"
    )]
    Show,
    /// Give up the silent workers that it holds: their tasks run elsewhere
    #[command(
        after_help = "Example:\n  steersman worker brake release --yes\n\nIt does not engage again by itself for the length of its window."
    )]
    Release,
    /// Hold every worker that falls silent until it is released, e.g. during work on the network
    #[command(after_help = "Example:\n  steersman worker brake engage")]
    Engage,
    /// Change how many workers may be lost before it engages
    Set(BrakeArgs),
}

/// Options of `worker brake set`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  steersman worker brake set --share 20 --window 2m\n  steersman worker brake set --share 100   no brake"
)]
pub struct BrakeArgs {
    /// Share of the workers that may be lost within the window, in percent; 100: there is no brake
    #[arg(long, value_name = "PERCENT")]
    share: Option<u32>,
    /// Losses count for so long
    #[arg(long, value_parser = units::duration_ms, value_name = "DURATION")]
    window: Option<u64>,
    /// So many workers may be lost within the window in any case
    #[arg(long, value_name = "WORKERS")]
    min: Option<u32>,
}

/// `worker config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Set capacity, heartbeat and labels; it outlives restarts of the worker and of masters
    Set(SetArgs),
}

/// How a worker starts.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman worker start --config worker.toml
  steersman worker start --name w1 --data-dir /var/lib/steersman/w1 --masters 10.0.0.1:7400,10.0.0.2:7400 --capacity 16
  steersman worker start --config worker.toml --label zone=a --resource gpu=2

Flags win over the file. SIGTERM drains first; see every key: steersman config show --kind worker")]
pub struct StartArgs {
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Unique name
    #[arg(long)]
    pub name: Option<String>,
    /// Directory of this worker's own: identity, running attempts, outputs
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// API addresses of masters; one is enough [default: --address]
    #[arg(long, value_delimiter = ',', value_name = "ADDRESSES")]
    pub masters: Vec<String>,
    /// How many attempts run at a time
    #[arg(long, value_name = "SLOTS")]
    pub capacity: Option<u32>,
    /// What tasks may require
    #[arg(long, value_parser = units::label, value_name = "KEY=VALUE")]
    pub label: Vec<Label>,
    /// Countable things that tasks may take
    #[arg(long, value_parser = units::resource, value_name = "NAME=AMOUNT")]
    pub resource: Vec<Resource>,
    /// Where metrics and probes are served, host:port
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<String>,
    /// End when stdin ends: the parent process is gone
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
    /// Take faults from the parent through stdin; on loopback only
    #[arg(long, hide = true, requires = "exit_with_parent")]
    pub faults: bool,
}

/// Options of `worker list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman worker list
  steersman worker list -o wide
  steersman worker list --online -o id")]
pub struct ListArgs {
    /// Leave out workers that are offline
    #[arg(long)]
    online: bool,
    /// Take what the next best master knows, without asking the leader
    #[arg(long)]
    stale: bool,
}

/// One worker.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// Id, name, or the beginning of a name
    worker: String,
}

/// Options of `worker drain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  steersman worker drain w1\n  steersman worker drain w1 --deadline 10m")]
pub struct DrainArgs {
    /// Id, name, or the beginning of a name
    worker: String,
    /// After this long, stop what still runs; it runs elsewhere
    #[arg(long, value_parser = units::duration_ms, value_name = "DURATION")]
    deadline: Option<u64>,
}

/// Options of `worker shutdown`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  steersman worker shutdown w1\n  steersman worker shutdown w1 --now --yes")]
pub struct ShutdownArgs {
    /// Id, name, or the beginning of a name
    worker: String,
    /// Without a drain: what runs is stopped and runs elsewhere
    #[arg(long)]
    now: bool,
}

/// Options of `worker config set`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman worker config set w1 capacity=20
  steersman worker config set w1 heartbeat=500ms label.zone=b
  steersman worker config set w1 label.zone=            remove a label")]
pub struct SetArgs {
    /// Id, name, or the beginning of a name
    worker: String,
    /// capacity=SLOTS, heartbeat=DURATION, label.KEY=VALUE (an empty value removes the label)
    #[arg(required = true, value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Runs a subcommand (but `start`, which brings its own runtime).
///
/// # Errors
/// What it ended with.
pub async fn worker(ctx: &Ctx, command: WorkerCommand) -> Outcome {
    match command {
        WorkerCommand::Start(_) => Ok(()),
        WorkerCommand::List(args) => list(ctx, &args).await,
        WorkerCommand::Show(args) => show(ctx, &args.worker).await,
        WorkerCommand::Drain(args) => set_mode(ctx, &args.worker, WorkerMode::Drain, args.deadline.unwrap_or(0)).await,
        WorkerCommand::Undrain(args) => set_mode(ctx, &args.worker, WorkerMode::Active, 0).await,
        WorkerCommand::Maintenance(args) => set_mode(ctx, &args.worker, WorkerMode::Maintenance, 0).await,
        WorkerCommand::Evict(args) => evict(ctx, &args.worker).await,
        WorkerCommand::Config(ConfigCommand::Set(args)) => set_config(ctx, &args).await,
        WorkerCommand::Shutdown(args) => shutdown(ctx, &args).await,
        WorkerCommand::Brake(command) => brake(ctx, command).await,
        WorkerCommand::Check(args) => check(ctx, &args.worker).await,
    }
}

/// Every worker of the registry.
///
/// # Errors
/// As every read.
pub async fn all_workers(client: &Client, consistency: Consistency) -> Outcome<Vec<Worker>> {
    let mut page = Page { page_size: 1_000, page_token: String::new() };
    let mut workers = Vec::new();
    loop {
        let request =
            ListWorkersRequest { statuses: Vec::new(), page: Some(page.clone()), consistency: consistency.into() };
        let answer = client.worker_list(request).await?;
        workers.extend(answer.workers);
        if answer.next_page_token.is_empty() {
            return Ok(workers);
        }
        page.page_token = answer.next_page_token;
    }
}

/// A worker by id, name, or a beginning that only one name has.
///
/// # Errors
/// When there is none, or more than one.
pub async fn resolve_worker(client: &Client, text: &str) -> Outcome<WorkerRef> {
    let reference = worker_ref(text);
    match client.worker_get(reference.clone()).await {
        Ok(answer) => Ok(WorkerRef { id: answer.worker.map_or(reference.id, |worker| worker.id), name: String::new() }),
        Err(error) if error.is(codes::WORKER_NOT_FOUND) && reference.id == 0 => {
            by_prefix(client, text, error.into()).await
        }
        Err(error) => Err(error.into()),
    }
}

async fn by_prefix(client: &Client, text: &str, missing: Failure) -> Outcome<WorkerRef> {
    let workers = all_workers(client, Consistency::Linearizable).await?;
    let matching: Vec<&Worker> = workers.iter().filter(|worker| worker.name.starts_with(text)).collect();
    match matching.as_slice() {
        [one] => Ok(WorkerRef { id: one.id, name: String::new() }),
        [] => {
            let names: Vec<&str> = workers.iter().map(|worker| worker.name.as_str()).collect();
            let near = units::nearest(text, &names).map(|name| format!("did you mean {name}? "));
            let hint = format!("{}{}", near.unwrap_or_default(), missing.hint);
            Err(missing.hint(hint))
        }
        several => {
            let names: Vec<&str> = several.iter().take(5).map(|worker| worker.name.as_str()).collect();
            let message = format!("{text:?} begins {} workers' names: {}", several.len(), names.join(", "));
            Err(Failure::coded(exit::REFUSED, &codes::WORKER_NOT_FOUND, message)
                .hint("write more of the name, or its id"))
        }
    }
}

const COLUMNS: [Column; 13] = [
    col("ID").right(),
    col("NAME"),
    col("STATUS"),
    col("SLOTS").right(),
    col("CONNECTED"),
    col("LEASE LEFT").right(),
    col("LABELS"),
    col("RESOURCES"),
    col("LOAD").right().wide(),
    col("HOST").wide(),
    col("INCARNATION").right().wide(),
    col("VERSION").wide(),
    col("NOTE"),
];

async fn list(ctx: &Ctx, args: &ListArgs) -> Outcome {
    let client = ctx.client()?;
    let consistency = if args.stale { Consistency::Stale } else { Consistency::Linearizable };
    let mut workers = all_workers(&client, consistency).await?;
    workers.retain(|worker| !args.online || views::worker_status(worker.status) != "offline");
    let rows: Vec<Row> = workers.iter().map(row).collect();
    print_list(ctx, "worker", &COLUMNS, &rows)
}

fn row(worker: &Worker) -> Row {
    let load = worker.load.as_ref();
    let note = if worker.overloaded { "overloaded".to_owned() } else { worker.offline_reason.clone() };
    let cells = vec![
        worker.id.to_string(),
        worker.name.clone(),
        views::worker_status(worker.status),
        format!("{}/{}", worker.used, worker.capacity),
        if worker.connected { "yes" } else { "no" }.to_owned(),
        lease_left(worker),
        views::clipped(&views::labels_text(&worker.labels), 40),
        views::clipped(&views::resources_text(&worker.resources, &worker.resources_used), 40),
        load.map(|load| format!("{:.2}", load.cpu_load_1m)).unwrap_or_default(),
        host(worker),
        worker.incarnation.to_string(),
        worker.version.clone(),
        views::clipped(&note, 60),
    ];
    Row { id: worker.id.to_string(), cells, json: views::worker_json(worker) }
}

fn lease_left(worker: &Worker) -> String {
    if worker.lease_left_ms == 0 { String::new() } else { units::short(worker.lease_left_ms) }
}

fn host(worker: &Worker) -> String {
    if worker.port == 0 { worker.host.clone() } else { format!("{}:{}", worker.host, worker.port) }
}

async fn show(ctx: &Ctx, worker: &str) -> Outcome {
    let client = ctx.client()?;
    let reference = resolve_worker(&client, worker).await?;
    let answer = client.worker_get(reference).await?;
    let missing = || Failure::local("the master's answer has no worker", "see steersman version");
    print_worker(ctx, &answer.worker.ok_or_else(missing)?)
}

fn print_worker(ctx: &Ctx, worker: &Worker) -> Outcome {
    let load = worker.load.as_ref();
    let attempts: Vec<String> = worker.attempts.iter().map(ToString::to_string).collect();
    let fields = [
        ("id", worker.id.to_string()),
        ("name", worker.name.clone()),
        ("status", views::worker_status(worker.status)),
        ("reason", worker.offline_reason.clone()),
        (
            "slots",
            format!(
                "{} of {} used{}",
                worker.used,
                worker.capacity,
                if worker.overloaded { " (overloaded)" } else { "" }
            ),
        ),
        ("labels", views::labels_text(&worker.labels)),
        ("resources", views::resources_text(&worker.resources, &worker.resources_used)),
        ("connected", if worker.connected { "yes" } else { "no" }.to_owned()),
        ("heartbeat", units::short(worker.heartbeat_ms.into())),
        ("lease", units::short(worker.lease_ms.into())),
        ("lease left", lease_left(worker)),
        ("load", load.map(load_line).unwrap_or_default()),
        ("host", host(worker)),
        ("incarnation", worker.incarnation.to_string()),
        ("registered", units::local_time(worker.registered_ms)),
        ("open attempts", attempts.join(", ")),
        ("version", worker.version.clone()),
    ];
    print_one(ctx, &worker.id.to_string(), &fields, &views::worker_json(worker))
}

fn load_line(load: &steersman_client::v1::LoadReport) -> String {
    format!(
        "{:.2} (1 min), memory {} of {} free, disk {} free, {} running, up {}, {} reports not acknowledged",
        load.cpu_load_1m,
        units::bytes(load.memory_available_bytes),
        units::bytes(load.memory_total_bytes),
        units::bytes(load.disk_free_bytes),
        load.running,
        units::short(load.uptime_ms),
        load.reports_unacknowledged,
    )
}

fn print_changed(ctx: &Ctx, answer: &WorkerResponse) -> Outcome {
    match &answer.worker {
        Some(worker) => print_list(ctx, "worker", &COLUMNS, &[row(worker)]),
        None => Ok(()),
    }
}

async fn set_mode(ctx: &Ctx, worker: &str, mode: WorkerMode, deadline_ms: u64) -> Outcome {
    let client = ctx.client()?;
    let reference = resolve_worker(&client, worker).await?;
    print_changed(ctx, &client.worker_set_mode(reference, mode, deadline_ms).await?)
}

async fn evict(ctx: &Ctx, worker: &str) -> Outcome {
    let client = ctx.client()?;
    let reference = resolve_worker(&client, worker).await?;
    ctx.confirm(&format!("Declare worker {worker} lost? What it runs is run again elsewhere."))?;
    print_changed(ctx, &client.worker_evict(reference).await?)
}

async fn shutdown(ctx: &Ctx, args: &ShutdownArgs) -> Outcome {
    let client = ctx.client()?;
    let reference = resolve_worker(&client, &args.worker).await?;
    if args.now {
        ctx.confirm(&format!("End worker {} now? What it runs is stopped and run elsewhere.", args.worker))?;
    }
    print_changed(ctx, &client.worker_shutdown(reference, args.now).await?)
}

async fn set_config(ctx: &Ctx, args: &SetArgs) -> Outcome {
    let client = ctx.client()?;
    let mut request = settings(&args.settings)?;
    request.worker = Some(resolve_worker(&client, &args.worker).await?);
    print_changed(ctx, &client.worker_set_config(request).await?)
}

fn settings(settings: &[String]) -> Outcome<SetConfigRequest> {
    let wrong = |text: &str, why: &str| {
        let hint = "write capacity=SLOTS, heartbeat=DURATION or label.KEY=VALUE";
        Failure::usage(format!("{text:?}: {why}"), hint)
    };
    let mut request = SetConfigRequest::default();
    for setting in settings {
        let (key, value) = setting.split_once('=').ok_or_else(|| wrong(setting, "is not KEY=VALUE"))?;
        match key {
            "capacity" => {
                let slots = value.parse().map_err(|_| wrong(setting, "the capacity is not a whole number"))?;
                request.capacity = Some(slots);
            }
            "heartbeat" => {
                let ms = units::duration_ms(value).map_err(|why| wrong(setting, &why))?;
                request.heartbeat_ms = Some(u32::try_from(ms).map_err(|_| wrong(setting, "is too long"))?);
            }
            _ => match key.strip_prefix("label.").filter(|label| !label.is_empty()) {
                Some(label) if value.is_empty() => request.remove_labels.push(label.to_owned()),
                Some(label) => request.set_labels.push(Label { key: label.to_owned(), value: value.to_owned() }),
                None => return Err(wrong(setting, "there is no such setting")),
            },
        }
    }
    Ok(request)
}

async fn check(ctx: &Ctx, worker: &str) -> Outcome {
    let client = ctx.client()?;
    let reference = resolve_worker(&client, worker).await?;
    let answer = client.worker_check(reference).await?;
    let running: Vec<_> = answer
        .running
        .iter()
        .map(|run| json!({"task_id": run.task_id, "token": run.token, "running_ms": run.running_ms, "pid": run.pid}))
        .collect();
    let json = json!({
        "worker": worker, "load": answer.load.as_ref().map(views::load_json), "running": running,
        "round_trip_us": answer.round_trip_us, "version": answer.version,
    });
    let mut fields = vec![
        ("worker", worker.to_owned()),
        ("answered in", format!("{:.1} ms", answer.round_trip_us as f64 / 1e3)),
        ("load", answer.load.as_ref().map(load_line).unwrap_or_default()),
        ("version", answer.version.clone()),
    ];
    fields.extend(answer.running.iter().map(|run| {
        let place = if run.pid == 0 { "a handler".to_owned() } else { format!("pid {}", run.pid) };
        (
            "running",
            format!("task {} (token {}) for {} as {place}", run.task_id, run.token, units::short(run.running_ms)),
        )
    }));
    print_one(ctx, worker, &fields, &json)
}

async fn brake(ctx: &Ctx, command: BrakeCommand) -> Outcome {
    let client = ctx.client()?;
    let brake = match command {
        BrakeCommand::Show => client.info().await?.brake.unwrap_or_default(),
        BrakeCommand::Engage => client.brake(BrakeAction::Engage, None).await?,
        BrakeCommand::Release => {
            let held = client.info().await?.brake.unwrap_or_default().held;
            ctx.confirm(&format!("Declare {held} silent workers lost, so that their tasks run elsewhere?"))?;
            client.brake(BrakeAction::Release, None).await?
        }
        BrakeCommand::Set(args) => {
            let now = client.info().await?.brake.and_then(|brake| brake.policy).unwrap_or_default();
            let policy = BrakePolicy {
                share_percent: args.share.unwrap_or(now.share_percent),
                window_ms: args.window.map_or(now.window_ms, |ms| u32::try_from(ms).unwrap_or(u32::MAX)),
                workers_min: args.min.unwrap_or(now.workers_min),
            };
            client.brake(BrakeAction::SetPolicy, Some(policy)).await?
        }
    };
    show_brake(ctx, &brake)
}

fn show_brake(ctx: &Ctx, brake: &BrakeInfo) -> Outcome {
    let policy = brake.policy.unwrap_or_default();
    let held: Vec<String> = brake.held_ids.iter().map(u64::to_string).collect();
    let fields = [
        ("brake", views::brake_line(brake)),
        ("held", held.join(", ")),
        ("share", format!("{} %", policy.share_percent)),
        ("window", units::short(policy.window_ms.into())),
        ("in any case", format!("{} workers", policy.workers_min)),
    ];
    let id = if brake.engaged { "engaged" } else { "released" };
    print_one(ctx, id, &fields, &views::brake_json(brake))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_are_parsed_or_refused_with_the_remedy() {
        let given = |texts: &[&str]| settings(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let request = given(&["capacity=20", "heartbeat=500ms", "label.zone=b=c", "label.gone="]).unwrap();
        assert_eq!((request.capacity, request.heartbeat_ms), (Some(20), Some(500)));
        assert_eq!(views::labels_text(&request.set_labels), "zone=b=c");
        assert_eq!(request.remove_labels, ["gone"]);
        for (wrong, wanted) in [
            ("capacity", "is not KEY=VALUE"),
            ("capacity=many", "not a whole number"),
            ("heartbeat=5", "write 5s"),
            ("label.=x", "no such setting"),
            ("colour=red", "no such setting"),
        ] {
            let failure = given(&[wrong]).unwrap_err();
            assert!(failure.message.contains(wanted) && failure.exit == exit::USAGE, "{wrong}: {}", failure.message);
        }
    }
}
