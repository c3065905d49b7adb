//! `steersman events`: what happened, in log order, over failovers.
//!
//! What always holds: every event comes once and in log order; trimmed history and lost connections are said on stderr (as
//! JSON lines in the output, too, where a script needs to know of gaps).

use clap::Args;
use serde_json::{Value, json};
use steersman_client::v1::{BrakeChanged, ElectionReport, Event, EventBatch, event::Kind};
use steersman_client::{EventItem, EventsFrom};

use crate::context::{Ctx, Output};
use crate::exit::Outcome;
use crate::table::pretty;
use crate::task::resolve;
use crate::units::{self, Ids};
use crate::views;

/// Options of `events`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman events                       everything that is still kept
  steersman events -f                    from now on, over failovers
  steersman events -f --from 1200        from a log index on
  steersman events -f --task 17
  steersman events -f -o jsonl | jq -c .events[]")]
pub struct EventsArgs {
    /// Go on until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// First log index wanted, oldest, or now [default: oldest, with -f now]
    #[arg(long, value_parser = position, value_name = "INDEX")]
    from: Option<EventsFrom>,
    /// Only events of these tasks: an id, a range, or last
    #[arg(long, value_parser = units::ids, value_name = "ID")]
    task: Option<Ids>,
    /// Only events of this worker
    #[arg(long, value_name = "ID")]
    worker: Option<u64>,
}

fn position(text: &str) -> Result<EventsFrom, String> {
    match text {
        "now" => Ok(EventsFrom::Now),
        "oldest" => Ok(EventsFrom::Oldest),
        index => {
            let index = index.parse().map_err(|_| format!("{text:?} is not a log index, oldest or now"))?;
            Ok(EventsFrom::Index(index))
        }
    }
}

/// Runs it.
///
/// # Errors
/// As every read; with `-f` only until the first connection.
pub async fn events(ctx: &Ctx, args: &EventsArgs) -> Outcome {
    let client = ctx.client()?;
    let tasks = match &args.task {
        Some(ids) => resolve(&client, std::slice::from_ref(ids)).await?.first().copied(),
        None => None,
    };
    let wanted = Wanted { tasks, worker: args.worker };
    let default = if args.follow { EventsFrom::Now } else { EventsFrom::Oldest };
    let mut stream = client.events(args.from.unwrap_or(default), args.follow);
    while let Some(item) = stream.next().await {
        match item? {
            EventItem::Batch(batch) => show_batch(ctx, &wanted, batch)?,
            EventItem::Gap { from, to } => show_gap(ctx, from, to)?,
            EventItem::Progress { .. } => {}
            EventItem::Lost { master, why, next_index } => {
                ctx.warn(format!("lost {master} ({why}); going on from index {next_index}"));
            }
            EventItem::Reconnected { master, next_index, after } => {
                let after = units::short(after.as_millis() as u64);
                ctx.warn(format!("connected to {master} after {after}, from index {next_index}"));
            }
        }
    }
    Ok(())
}

fn show_gap(ctx: &Ctx, from: u64, to: u64) -> Outcome {
    ctx.warn(format!("the events of indexes {from} to {to} are no longer kept"));
    if ctx.output.is_json() { ctx.print(json!({"gap_from": from, "gap_to": to}).to_string()) } else { Ok(()) }
}

fn show_batch(ctx: &Ctx, wanted: &Wanted, mut batch: EventBatch) -> Outcome {
    batch.events.retain(|event| wanted.takes(event));
    if batch.events.is_empty() {
        return Ok(());
    }
    match ctx.output {
        Output::Json => ctx.print(pretty(&batch_json(&batch))),
        Output::Jsonl => ctx.print(batch_json(&batch).to_string()),
        Output::Id => ctx.print(batch.index.to_string()),
        Output::Table | Output::Wide => batch.events.iter().try_for_each(|event| {
            let time = units::local_time(batch.wall_ms);
            let (name, _) = event_json(event);
            let line = format!("{:>8}  {time}  {:<18}  {}", batch.index, name.replace('_', "-"), text(event));
            ctx.print(line.trim_end())
        }),
    }
}

/// What is shown.
struct Wanted {
    /// First id and count.
    tasks: Option<(u64, u64)>,
    worker: Option<u64>,
}

impl Wanted {
    fn takes(&self, event: &Event) -> bool {
        let Some(kind) = &event.kind else { return true };
        let task = self.tasks.is_none_or(|(first, count)| about_tasks(kind, first, count));
        let worker = self.worker.is_none_or(|id| about_worker(kind) == Some(id));
        task && worker
    }
}

fn about_tasks(kind: &Kind, first: u64, count: u64) -> bool {
    let end = first.saturating_add(count);
    match kind {
        Kind::TasksSubmitted(e) => e.first_id < end && first < e.first_id.saturating_add(e.count),
        Kind::TaskAssigned(e) => (first..end).contains(&e.task_id),
        Kind::TaskStarted(e) => (first..end).contains(&e.task_id),
        Kind::AttemptEnded(e) => (first..end).contains(&e.task_id),
        Kind::TaskFinished(e) => (first..end).contains(&e.task_id),
        Kind::TaskRetrying(e) => (first..end).contains(&e.task_id),
        _ => false,
    }
}

fn about_worker(kind: &Kind) -> Option<u64> {
    match kind {
        Kind::TaskAssigned(e) => Some(e.worker_id),
        Kind::WorkerChanged(e) => Some(e.worker_id),
        Kind::WorkerLoad(e) => Some(e.worker_id),
        _ => None,
    }
}

fn batch_json(batch: &EventBatch) -> Value {
    let one = |event: &Event| {
        let (name, body) = event_json(event);
        json!({ name: body })
    };
    let events: Vec<Value> = batch.events.iter().map(one).collect();
    json!({
        "index": batch.index, "term": batch.term, "cluster_ms": batch.cluster_ms, "wall_ms": batch.wall_ms,
        "events": events,
    })
}

/// The wire's name of an event and its fields.
fn event_json(event: &Event) -> (&'static str, Value) {
    match &event.kind {
        Some(Kind::TasksSubmitted(e)) => ("tasks_submitted", json!({"first_id": e.first_id, "count": e.count})),
        Some(Kind::TaskAssigned(e)) => (
            "task_assigned",
            json!({"task_id": e.task_id, "token": e.token, "worker_id": e.worker_id, "attempt": e.attempt}),
        ),
        Some(Kind::TaskStarted(e)) => ("task_started", json!({"task_id": e.task_id, "token": e.token})),
        Some(Kind::AttemptEnded(e)) => (
            "attempt_ended",
            json!({"task_id": e.task_id, "token": e.token, "outcome": views::outcome(e.outcome), "exit_code": e.exit_code}),
        ),
        Some(Kind::TaskFinished(e)) => (
            "task_finished",
            json!({"task_id": e.task_id, "state": views::task_state(e.state), "outcome": views::outcome(e.outcome)}),
        ),
        Some(Kind::TaskRetrying(e)) => ("task_retrying", json!({"task_id": e.task_id, "delay_ms": e.delay_ms})),
        Some(Kind::WorkerChanged(e)) => (
            "worker_changed",
            json!({"worker_id": e.worker_id, "name": e.name, "change": e.change, "reason": e.reason}),
        ),
        Some(Kind::WorkerLoad(e)) => (
            "worker_load",
            json!({
                "worker_id": e.worker_id, "overloaded": e.overloaded, "underloaded": e.underloaded, "used": e.used,
                "capacity": e.capacity,
            }),
        ),
        Some(Kind::LeaderElected(e)) => ("leader_elected", json!({"term": e.term, "master_id": e.master_id})),
        Some(Kind::MembershipChanged(e)) => ("membership_changed", json!({"voters": e.voters, "learners": e.learners})),
        Some(Kind::TasksTrimmed(e)) => ("tasks_trimmed", json!({"count": e.count})),
        Some(Kind::ElectionReport(e)) => ("election_report", election_json(e)),
        Some(Kind::BrakeChanged(e)) => (
            "brake_changed",
            json!({
                "engaged": e.engaged, "manual": e.manual, "silent": e.silent, "workers": e.workers, "lost": e.lost,
            }),
        ),
        // From a newer master.
        None => ("unknown", Value::Null),
    }
}

fn election_json(e: &ElectionReport) -> Value {
    json!({
        "term": e.term, "master_id": e.master_id, "former_id": e.former_id, "cause": e.cause, "planned": e.planned,
        "suspected_us": e.suspected_us, "asked_us": e.asked_us, "granted_us": e.granted_us, "elected_us": e.elected_us,
        "committed_us": e.committed_us, "dispatched_us": e.dispatched_us, "workers_back_us": e.workers_back_us,
        "workers_believed": e.workers_believed, "workers_back": e.workers_back, "reported_us": e.reported_us,
        "reported_wall_ms": e.reported_wall_ms,
    })
}

/// The milestones in words: ms after the former leader was last heard.
fn election_text(e: &ElectionReport) -> String {
    let ms = |us: u64| format!("{:.1}", us as f64 / 1_000.0);
    let optional = |us: Option<u64>| us.map_or_else(|| "none".to_owned(), |us| format!("{} ms", ms(us)));
    let cause = match e.cause.as_str() {
        "handover" => "planned: the office was handed over",
        "reset" => "unplanned: the leader's process was gone",
        "timer" => "unplanned: the leader fell silent",
        "start" => "no leader was heard since the start",
        other => other,
    };
    let former = if e.former_id == 0 { String::new() } else { format!(" after master {}", e.former_id) };
    format!(
        "master {}{former} in term {} ({cause}): suspected {}, votes asked {}, granted {}, elected {}, first commit {}, first \
         dispatch {}, {}",
        e.master_id,
        e.term,
        ms(e.suspected_us),
        ms(e.asked_us),
        ms(e.granted_us),
        ms(e.elected_us),
        ms(e.committed_us),
        optional(e.dispatched_us),
        workers_text(e),
    )
}

/// A cluster's first leader waits for nobody.
fn workers_text(e: &ElectionReport) -> String {
    let when = e.workers_back_us.map_or_else(String::new, |us| format!(" {:.1} ms", us as f64 / 1_000.0));
    let back = e.workers_back;
    match e.workers_believed {
        0 => format!("{back} workers came{when}"),
        all => format!("{back} of {all} workers back{when}"),
    }
}

fn brake_text(e: &BrakeChanged) -> String {
    let who = if e.manual { " by an operator" } else { "" };
    match e.engaged {
        true => {
            format!("brake engaged{who}: {} workers lost, {} left; silent ones keep their tasks", e.silent, e.workers)
        }
        false => format!("brake released{who}: {} silent workers are lost with it", e.lost),
    }
}

/// The fields in words.
fn text(event: &Event) -> String {
    match &event.kind {
        Some(Kind::TasksSubmitted(e)) => format!("tasks {}", units::range(e.first_id, e.count)),
        Some(Kind::TaskAssigned(e)) => {
            format!("task {} to worker {} (attempt {}, token {})", e.task_id, e.worker_id, e.attempt, e.token)
        }
        Some(Kind::TaskStarted(e)) => format!("task {} (token {})", e.task_id, e.token),
        Some(Kind::AttemptEnded(e)) => {
            let code = if e.exit_code == 0 { String::new() } else { format!(" {}", e.exit_code) };
            format!("task {} (token {}): {}{code}", e.task_id, e.token, views::outcome(e.outcome))
        }
        Some(Kind::TaskFinished(e)) => {
            format!("task {} {} ({})", e.task_id, views::task_state(e.state), views::outcome(e.outcome))
        }
        Some(Kind::TaskRetrying(e)) => format!("task {} in {}", e.task_id, units::short(e.delay_ms)),
        Some(Kind::WorkerChanged(e)) => {
            let why = if e.reason.is_empty() { String::new() } else { format!(": {}", e.reason) };
            let name = if e.name.is_empty() { String::new() } else { format!(" ({})", e.name) };
            format!("worker {}{name} {}{why}", e.worker_id, e.change)
        }
        Some(Kind::WorkerLoad(e)) => {
            let word = match (e.overloaded, e.underloaded) {
                (true, _) => "overloaded",
                (_, true) => "underloaded",
                _ => "back to normal",
            };
            format!("worker {} {word}: {} of {} slots", e.worker_id, e.used, e.capacity)
        }
        Some(Kind::LeaderElected(e)) => format!("master {} in term {}", e.master_id, e.term),
        Some(Kind::MembershipChanged(e)) => format!("voters {:?}, learners {:?}", e.voters, e.learners),
        Some(Kind::TasksTrimmed(e)) => format!("{} finished tasks", e.count),
        Some(Kind::ElectionReport(e)) => election_text(e),
        Some(Kind::BrakeChanged(e)) => brake_text(e),
        None => "from a newer master".to_owned(),
    }
}
