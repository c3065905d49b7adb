//! `steersman task …`: submit tasks and see what becomes of them.

mod follow;
mod list;
mod logs;
pub mod submit;
mod wait;

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use serde_json::json;
use steersman_client::Client;
use steersman_client::v1::{Attempt, ListTasksRequest, Page, Task};

pub use follow::Follow;

use crate::context::Ctx;
use crate::exit::{self, Failure, Outcome};
use crate::table::{Column, Row, col, print_list, print_one};
use crate::units::{self, Ids};
use crate::views;

/// Ids that one cancel or retry request may carry.
const IDS_PER_CALL: usize = 10_000;
/// Ids that one command works on: more is a mistake far more often than a wish.
const IDS_MAX: u64 = 10_000_000;

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// Submit one task, an array, or one task per line of input
    Submit(Box<submit::SubmitArgs>),
    /// List tasks, newest first
    List(list::ListArgs),
    /// Show tasks with everything known about them
    #[command(after_help = "Examples:\n  steersman task show last\n  steersman task show 17 18 -o json")]
    Show(IdArgs),
    /// Wait until tasks are finished; exit code 6 if one of them failed or was cancelled
    Wait(wait::WaitArgs),
    /// Cancel tasks; a finished task keeps its state
    #[command(after_help = "Examples:\n  steersman task cancel last\n  steersman task cancel 17 100..199")]
    Cancel(IdArgs),
    /// Submit failed or cancelled tasks anew, under new ids
    #[command(
        after_help = "Examples:\n  steersman task retry 17\n  steersman task list --state failed -o id | xargs steersman task retry"
    )]
    Retry(IdArgs),
    /// Print what tasks wrote, also while they run
    Logs(logs::LogsArgs),
    /// Show every attempt of a task: where it ran, how it ended
    #[command(after_help = "Examples:\n  steersman task attempts 17\n  steersman task attempts last -o json")]
    Attempts(OneArgs),
    /// Say why a task is not running
    #[command(after_help = "Examples:\n  steersman task explain 17\n  steersman task explain last")]
    Explain(OneArgs),
}

/// One task.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// Its id, or last
    #[arg(value_parser = units::ids, value_name = "ID")]
    id: Ids,
}

/// Some tasks.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// Ids, ranges (1..2000, both ends included), or last
    #[arg(required = true, value_parser = units::ids, value_name = "ID")]
    ids: Vec<Ids>,
}

/// Runs a subcommand.
///
/// # Errors
/// What it ended with.
pub async fn task(ctx: &Ctx, command: TaskCommand) -> Outcome {
    match command {
        TaskCommand::Submit(args) => submit::submit(ctx, &args).await,
        TaskCommand::List(args) => list::list(ctx, &args).await,
        TaskCommand::Show(args) => show(ctx, &args.ids).await,
        TaskCommand::Wait(args) => wait::wait(ctx, &args).await,
        TaskCommand::Cancel(args) => cancel(ctx, &args.ids).await,
        TaskCommand::Retry(args) => retry(ctx, &args.ids).await,
        TaskCommand::Logs(args) => logs::logs(ctx, &args).await,
        TaskCommand::Attempts(args) => attempts(ctx, args.id).await,
        TaskCommand::Explain(args) => explain(ctx, args.id).await,
    }
}

/// Ranges of ids with `last` resolved: first and count, in the order given.
pub async fn resolve(client: &Client, ids: &[Ids]) -> Outcome<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    for id in ids {
        match *id {
            Ids::Range(first, last) => ranges.push((first, last - first + 1)),
            Ids::Last => ranges.push((last_id(client).await?, 1)),
        }
    }
    let count: u64 = ranges.iter().map(|(_, count)| *count).fold(0, u64::saturating_add);
    if count > IDS_MAX {
        let message = format!("these are {count} ids; at most {IDS_MAX} are taken at a time");
        return Err(Failure::usage(message, "give smaller ranges"));
    }
    Ok(ranges)
}

async fn last_id(client: &Client) -> Outcome<u64> {
    let page = Page { page_size: 1, page_token: String::new() };
    let request = ListTasksRequest { page: Some(page), newest_first: true, ..ListTasksRequest::default() };
    let newest = client.list(request).await?.tasks.into_iter().next();
    let none = || Failure::coded(exit::REFUSED, &steersman_client::codes::TASK_NOT_FOUND, "there is no task yet");
    newest.map(|task| task.id).ok_or_else(|| none().hint("submit one: steersman run -- echo hello"))
}

/// Every id once, in the order given.
fn each_id(ranges: &[(u64, u64)]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    ranges.iter().flat_map(|(first, count)| *first..first + count).filter(|id| seen.insert(*id)).collect()
}

/// One task.
pub async fn get(client: &Client, id: u64) -> Outcome<Task> {
    let missing = || Failure::local(format!("the master's answer has no task {id}"), "see steersman version");
    client.get(id).await?.task.ok_or_else(missing)
}

async fn one_task(ctx: &Ctx, id: Ids) -> Outcome<Task> {
    let client = ctx.client()?;
    let id = resolve(&client, &[id]).await?;
    get(&client, id[0].0).await
}

async fn show(ctx: &Ctx, ids: &[Ids]) -> Outcome {
    let client = ctx.client()?;
    let ids = each_id(&resolve(&client, ids).await?);
    let mut missing = None;
    for (n, id) in ids.iter().enumerate() {
        match get(&client, *id).await {
            Ok(task) => {
                if n > 0 && !ctx.output.is_json() {
                    ctx.print("")?;
                }
                print_one(ctx, &id.to_string(), &task_fields(&task), &views::task_json(&task))?;
            }
            Err(failure) if failure.exit == exit::REFUSED && ids.len() > 1 => {
                ctx.warn(&failure.message);
                missing = Some(Failure::silent(exit::REFUSED));
            }
            Err(failure) => return Err(failure),
        }
    }
    missing.map_or(Ok(()), Err)
}

fn task_fields(task: &Task) -> Vec<(&'static str, String)> {
    let spec = task.spec.clone().unwrap_or_default();
    let positive = |n: u64, text: String| if n == 0 { String::new() } else { text };
    let last = task.attempts.last();
    vec![
        ("id", task.id.to_string()),
        ("name", spec.name.clone()),
        ("state", views::task_state(task.state)),
        ("reason", task.reason.clone()),
        ("work", views::work_line(Some(&spec))),
        ("array index", positive(task.array_index, task.array_index.to_string())),
        ("submitted", units::local_time(task.submitted_ms)),
        ("finished", units::local_time(task.finished_ms)),
        ("next attempt", positive(task.next_attempt_in_ms, format!("in {}", units::short(task.next_attempt_in_ms)))),
        ("attempts", format!("{} of {}", task.attempts_total, spec.max_attempts)),
        ("last attempt", last.map(attempt_line).unwrap_or_default()),
        ("env", views::labels_text(&spec.env)),
        ("labels", views::labels_text(&spec.require_labels)),
        (
            "resources",
            spec.require_resources.iter().map(|r| format!("{}={}", r.name, r.amount)).collect::<Vec<_>>().join(","),
        ),
        ("priority", spec.priority.to_string()),
        ("timeout", positive(spec.timeout_ms, format!("{} per attempt", units::short(spec.timeout_ms)))),
        ("deadline", positive(spec.deadline_ms, format!("{} after submit", units::short(spec.deadline_ms)))),
        ("retry on", spec.retry_on.as_ref().map(|on| units::retry_words(on).join(", ")).unwrap_or_default()),
        ("on partition", views::on_partition(spec.on_partition).to_owned()),
        ("result", views::clipped(&String::from_utf8_lossy(&task.result), 200)),
        ("log index", task.log_index.to_string()),
    ]
}

fn attempt_line(attempt: &Attempt) -> String {
    let ending = views::ending(attempt);
    let ending = if ending.is_empty() { "open".to_owned() } else { ending };
    format!("{} on {} (token {}): {ending}", attempt.number, attempt.worker_name, attempt.token)
}

const ATTEMPTS: [Column; 9] = [
    col("ATTEMPT").right(),
    col("TOKEN").right(),
    col("WORKER"),
    col("ENDING"),
    col("TOOK").right(),
    col("ASSIGNED"),
    col("STARTED").wide(),
    col("ENDED"),
    col("MESSAGE"),
];

async fn attempts(ctx: &Ctx, id: Ids) -> Outcome {
    let task = one_task(ctx, id).await?;
    let rows: Vec<Row> = task.attempts.iter().map(attempt_row).collect();
    print_list(ctx, "attempt yet", &ATTEMPTS, &rows)
}

fn attempt_row(attempt: &Attempt) -> Row {
    let began = if attempt.started_ms > 0 { attempt.started_ms } else { attempt.assigned_ms };
    let took = if attempt.ended_ms == 0 { String::new() } else { units::short(attempt.ended_ms.saturating_sub(began)) };
    let ending = views::ending(attempt);
    let cells = vec![
        attempt.number.to_string(),
        attempt.token.to_string(),
        attempt.worker_name.clone(),
        if ending.is_empty() { "open".to_owned() } else { ending },
        took,
        units::local_time(attempt.assigned_ms),
        units::local_time(attempt.started_ms),
        units::local_time(attempt.ended_ms),
        views::clipped(&attempt.message, 80),
    ];
    Row { id: attempt.number.to_string(), cells, json: views::attempt_json(attempt) }
}

async fn explain(ctx: &Ctx, id: Ids) -> Outcome {
    let client = ctx.client()?;
    let id = resolve(&client, &[id]).await?[0].0;
    let why = client.explain(id).await?;
    let reasons: Vec<_> = why
        .reasons
        .iter()
        .map(|reason| json!({"reason": reason.reason, "workers": reason.workers, "detail": reason.detail}))
        .collect();
    let json = json!({
        "id": id, "state": views::task_state(why.state), "summary": why.summary,
        "ahead_in_queue": why.ahead_in_queue, "workers_total": why.workers_total, "reasons": reasons,
    });
    let mut fields =
        vec![("task", id.to_string()), ("state", views::task_state(why.state)), ("why", why.summary.clone())];
    if why.ahead_in_queue > 0 {
        fields.push(("ahead of it", format!("{} pending tasks", why.ahead_in_queue)));
    }
    let lines: Vec<String> = why
        .reasons
        .iter()
        .map(|reason| format!("{} of {}: {} {}", reason.workers, why.workers_total, reason.reason, reason.detail))
        .collect();
    fields.extend(lines.into_iter().map(|line| ("workers", line.trim().to_owned())));
    print_one(ctx, &id.to_string(), &fields, &json)
}

const CANCELLED: [Column; 3] = [col("ID").right(), col("STATE"), col("RESULT")];

async fn cancel(ctx: &Ctx, ids: &[Ids]) -> Outcome {
    let client = ctx.client()?;
    let ids = each_id(&resolve(&client, ids).await?);
    let mut rows = Vec::new();
    let mut refused = 0;
    for part in ids.chunks(IDS_PER_CALL) {
        for result in client.cancel(part.to_vec()).await?.results {
            let state = if result.not_found { String::new() } else { views::task_state(result.state) };
            let word = match (result.not_found, result.cancelled) {
                (true, _) => "no such task",
                (false, true) => "cancelled",
                (false, false) => "finished before",
            };
            refused += usize::from(!result.cancelled);
            let json =
                json!({"id": result.id, "state": state, "cancelled": result.cancelled, "not_found": result.not_found});
            rows.push(Row {
                id: result.id.to_string(),
                cells: vec![result.id.to_string(), state, word.to_owned()],
                json,
            });
        }
    }
    print_list(ctx, "task", &CANCELLED, &rows)?;
    if refused == 0 { Ok(()) } else { Err(Failure::silent(exit::REFUSED)) }
}

const RETRIED: [Column; 3] = [col("ID").right(), col("NEW ID").right(), col("RESULT")];

async fn retry(ctx: &Ctx, ids: &[Ids]) -> Outcome {
    let client = ctx.client()?;
    let ids = each_id(&resolve(&client, ids).await?);
    let mut rows = Vec::new();
    let mut refused = 0;
    for part in ids.chunks(IDS_PER_CALL) {
        for result in client.retry(part.to_vec()).await?.results {
            let done = result.new_id != 0;
            refused += usize::from(!done);
            let new_id = if done { result.new_id.to_string() } else { String::new() };
            let word = if done { "submitted".to_owned() } else { format!("refused: {}", result.refused) };
            let json = json!({"id": result.id, "new_id": result.new_id, "refused": result.refused});
            rows.push(Row { id: new_id.clone(), cells: vec![result.id.to_string(), new_id, word], json });
        }
    }
    rows.retain(|row| ctx.output != crate::context::Output::Id || !row.id.is_empty());
    print_list(ctx, "task", &RETRIED, &rows)?;
    if refused == 0 { Ok(()) } else { Err(Failure::silent(exit::REFUSED)) }
}
