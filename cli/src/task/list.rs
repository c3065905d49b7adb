//! `steersman task list`.

use clap::{Args, ValueEnum};
use steersman_client::v1::{Consistency, ListTasksRequest, Page, Task, TaskFilter, TaskState};

use crate::context::Ctx;
use crate::exit::Outcome;
use crate::table::{Column, Row, col, print_list};
use crate::worker::resolve_worker;
use crate::{units, views};

/// The largest page that a master gives.
const PAGE_MAX: usize = 1_000;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    Pending,
    Scheduled,
    Running,
    Retrying,
    Succeeded,
    Failed,
    Cancelled,
}

impl State {
    fn wire(self) -> i32 {
        let state = match self {
            Self::Pending => TaskState::Pending,
            Self::Scheduled => TaskState::Scheduled,
            Self::Running => TaskState::Running,
            Self::Retrying => TaskState::Retrying,
            Self::Succeeded => TaskState::Succeeded,
            Self::Failed => TaskState::Failed,
            Self::Cancelled => TaskState::Cancelled,
        };
        state.into()
    }
}

/// Options of `task list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman task list                          the newest 50
  steersman task list --state failed --all
  steersman task list --worker w1 --state running,scheduled -o wide
  steersman task list --name nightly- --all -o id")]
pub struct ListArgs {
    /// Only tasks in these states
    #[arg(long, value_enum, value_delimiter = ',')]
    state: Vec<State>,
    /// Only tasks whose name begins so
    #[arg(long, value_name = "PREFIX")]
    name: Option<String>,
    /// Only tasks whose open or last attempt is on this worker (id or name)
    #[arg(long)]
    worker: Option<String>,
    /// Only tasks from this id on
    #[arg(long, value_name = "ID")]
    from: Option<u64>,
    /// Only tasks up to this id
    #[arg(long, value_name = "ID")]
    to: Option<u64>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
    /// Every one that is still kept
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Oldest first
    #[arg(long)]
    oldest_first: bool,
    /// Take what the next best master knows, without asking the leader
    #[arg(long)]
    stale: bool,
}

const COLUMNS: [Column; 10] = [
    col("ID").right(),
    col("STATE"),
    col("NAME"),
    col("WORK"),
    col("WORKER"),
    col("ATTEMPTS").right(),
    col("AGE").right(),
    col("PRIORITY").right().wide(),
    col("SUBMITTED").wide(),
    col("REASON"),
];

/// Runs it.
///
/// # Errors
/// As every read.
pub async fn list(ctx: &Ctx, args: &ListArgs) -> Outcome {
    let client = ctx.client()?;
    let worker_id = match &args.worker {
        Some(worker) => resolve_worker(&client, worker).await?.id,
        None => 0,
    };
    let limit = if args.all { usize::MAX } else { args.limit };
    let mut request = first_request(args, worker_id);
    let mut tasks = Vec::new();
    while tasks.len() < limit {
        let page_size = (limit - tasks.len()).min(PAGE_MAX) as u32;
        request.page.get_or_insert_default().page_size = page_size;
        let page = client.list(request.clone()).await?;
        tasks.extend(page.tasks);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page.get_or_insert_default().page_token = page.next_page_token;
    }
    let now_ms = client.world().clock.wall_ms();
    let rows: Vec<Row> = tasks.iter().map(|task| row(ctx, task, now_ms)).collect();
    print_list(ctx, "task", &COLUMNS, &rows)
}

fn first_request(args: &ListArgs, worker_id: u64) -> ListTasksRequest {
    let consistency = if args.stale { Consistency::Stale } else { Consistency::Linearizable };
    ListTasksRequest {
        filter: Some(TaskFilter {
            states: args.state.iter().map(|state| state.wire()).collect(),
            name_prefix: args.name.clone().unwrap_or_default(),
            worker_id,
            id_from: args.from.unwrap_or(0),
            id_to: args.to.unwrap_or(0),
        }),
        page: Some(Page::default()),
        newest_first: !args.oldest_first,
        consistency: consistency.into(),
    }
}

fn row(ctx: &Ctx, task: &Task, now_ms: u64) -> Row {
    let width = if ctx.output == crate::context::Output::Wide { 200 } else { 40 };
    let spec = task.spec.as_ref();
    let cells = vec![
        task.id.to_string(),
        views::task_state(task.state),
        views::clipped(spec.map_or("", |spec| &spec.name), 30),
        views::clipped(&views::work_line(spec), width),
        task.attempts.last().map(|attempt| attempt.worker_name.clone()).unwrap_or_default(),
        task.attempts_total.to_string(),
        units::ago(task.submitted_ms, now_ms),
        spec.map_or(0, |spec| spec.priority).to_string(),
        units::local_time(task.submitted_ms),
        views::clipped(&task.reason, width),
    ];
    Row { id: task.id.to_string(), cells, json: views::task_json(task) }
}
