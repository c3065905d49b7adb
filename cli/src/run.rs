//! `steersman run`: a command on some worker as if it ran here.
//!
//! What always holds: the task's stdout and stderr come out here byte for byte; the exit code is the task's own, or 125 when
//! Steersman failed; Ctrl-C cancels the task before it ends this command.

use std::io::Read as _;

use clap::Args;
use steersman_client::Client;
use steersman_client::v1::{LogStream, Outcome as Ending, Task, TaskGroup, TaskState, task_spec::Work};

use crate::context::Ctx;
use crate::exit::{self, Failure, Outcome};
use crate::spec::SpecArgs;
use crate::task::Follow;
use crate::{units, views};

/// What stdin may hold: the masters' default for one task.
const STDIN_BYTES_MAX: u64 = 1 << 20;

/// Options of `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman run -- echo hello
  steersman run --label zone=a --resource gpu=1 -- ./train.sh
  steersman run --retry-on worker-lost,75 --max-attempts 5 -- ./flaky.sh
  sort data.txt | steersman run --stdin -- uniq -c

Exit codes:
  The task's own; 124 its attempt ran out of time; 126 cannot be executed; 127 not found; 128+n ended by signal n;
  125 Steersman failed or the task ended otherwise; 130 Ctrl-C (the task is cancelled).")]
pub struct RunArgs {
    /// Send what stdin holds (at most 1 MiB) to the task's stdin
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Print the task's id and do not wait
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    spec: SpecArgs,
    /// The program and its arguments
    #[arg(last = true, value_name = "CMD", required_unless_present = "handler")]
    command: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// With the task's exit code, or why it could not be run.
pub async fn run(ctx: &Ctx, args: &RunArgs) -> Outcome {
    let client = ctx.client()?;
    let group = group(args)?;
    let submitted = tokio::select! {
        submitted = client.submit(vec![group]) => submitted,
        Ok(()) = tokio::signal::ctrl_c() => return Err(Failure::silent(exit::INTERRUPTED)),
    };
    let id = submitted.map_err(|error| Failure::from(error).exit(exit::RUN_FAILED))?.first_id;
    if args.detach {
        return ctx.print(id.to_string());
    }
    ctx.note(format!("task {id} submitted"));
    let follow = Follow::new(ctx, &client, id, &[LogStream::Stdout, LogStream::Stderr]);
    tokio::select! {
        task = follow.to_end() => conclude(ctx, &task.map_err(of_us)?),
        Ok(()) = tokio::signal::ctrl_c() => Err(cancel(ctx, &client, id).await),
    }
}

/// Steersman's own failures are told from the task's; a closed pipe stays what it is.
fn of_us(failure: Failure) -> Failure {
    if failure.exit == exit::BROKEN_PIPE { failure } else { failure.exit(exit::RUN_FAILED) }
}

fn group(args: &RunArgs) -> Outcome<TaskGroup> {
    let mut spec = args.spec.to_spec(&args.command)?;
    if args.stdin {
        let input = read_stdin()?;
        match &mut spec.work {
            Some(Work::Command(command)) => command.stdin = input.into(),
            Some(Work::Handler(handler)) => handler.payload = input.into(),
            None => {}
        }
    }
    Ok(TaskGroup { spec: Some(spec), count: 1 })
}

fn read_stdin() -> Outcome<Vec<u8>> {
    let mut input = Vec::new();
    let read = std::io::stdin().lock().take(STDIN_BYTES_MAX + 1).read_to_end(&mut input);
    let failed =
        |error| Failure::local(format!("cannot read stdin: {error}"), "leave out --stdin").exit(exit::RUN_FAILED);
    read.map_err(failed)?;
    if input.len() as u64 > STDIN_BYTES_MAX {
        let limit = units::bytes(STDIN_BYTES_MAX);
        let failure = Failure::usage(format!("stdin is longer than {limit}"), "put it where the worker can read it");
        return Err(failure.exit(exit::RUN_FAILED));
    }
    Ok(input)
}

async fn cancel(ctx: &Ctx, client: &Client, id: u64) -> Failure {
    ctx.note(format!("cancelling task {id}; once more to leave it"));
    let cancelled = tokio::select! {
        cancelled = client.cancel(vec![id]) => cancelled,
        Ok(()) = tokio::signal::ctrl_c() => return Failure::silent(exit::INTERRUPTED),
    };
    match cancelled {
        Ok(_) => ctx.note(format!("task {id} cancelled")),
        Err(error) => ctx.warn(format!("task {id} may still run: {error}; cancel it: steersman task cancel {id}")),
    }
    Failure::silent(exit::INTERRUPTED)
}

/// The exit code of a finished task, with a word to the person if it is not the task's own.
fn conclude(ctx: &Ctx, task: &Task) -> Outcome {
    let code = exit_code(task);
    match code {
        0 => return Ok(()),
        exit::RUN_FAILED | 124 | 126 | 127 => {
            let state = views::task_state(task.state);
            ctx.warn(format!("task {} {state}: {}", task.id, why(task)));
        }
        _ => ctx.note(format!("task {}: {}", task.id, task.attempts.last().map(views::ending).unwrap_or_default())),
    }
    Err(Failure::silent(code))
}

fn why(task: &Task) -> String {
    let message = task.attempts.last().map(|attempt| attempt.message.clone()).filter(|message| !message.is_empty());
    match message {
        Some(message) if !task.reason.contains(&message) => format!("{} ({message})", task.reason),
        _ => task.reason.clone(),
    }
}

fn exit_code(task: &Task) -> i32 {
    if task.state == TaskState::Succeeded as i32 {
        return exit::OK;
    }
    let Some(last) = task.attempts.last().filter(|_| task.state == TaskState::Failed as i32) else {
        return exit::RUN_FAILED;
    };
    match Ending::try_from(last.outcome) {
        // A process ends with 1 to 255; anything else is a worker's mistake and must not look like success.
        Ok(Ending::Exited) if (1..=255).contains(&last.exit_code) => last.exit_code,
        Ok(Ending::Signaled) => 128 + (last.exit_code & 0x7f),
        Ok(Ending::CannotStart) if matches!(last.exit_code, 126 | 127) => last.exit_code,
        Ok(Ending::TimedOut) => 124,
        Ok(Ending::HandlerError) => 1,
        _ => exit::RUN_FAILED,
    }
}

#[cfg(test)]
mod tests {
    use steersman_client::v1::Attempt;

    use super::*;

    #[test]
    fn exit_codes_are_the_tasks_own_or_say_why() {
        let task = |state: TaskState, outcome: Ending, exit_code| Task {
            state: state.into(),
            attempts: vec![Attempt { outcome: outcome.into(), exit_code, ..Attempt::default() }],
            ..Task::default()
        };
        for (outcome, code, wanted) in [
            (Ending::Exited, 3, 3),
            (Ending::Exited, 255, 255),
            (Ending::Exited, 0, 125),
            (Ending::Signaled, 9, 137),
            (Ending::CannotStart, 127, 127),
            (Ending::CannotStart, 126, 126),
            (Ending::CannotStart, 1, 125),
            (Ending::TimedOut, 0, 124),
            (Ending::WorkerLost, 0, 125),
            (Ending::Deadline, 0, 125),
        ] {
            assert_eq!(exit_code(&task(TaskState::Failed, outcome, code)), wanted, "{outcome:?} {code}");
        }
        assert_eq!(exit_code(&task(TaskState::Succeeded, Ending::Succeeded, 0)), 0);
        assert_eq!(exit_code(&task(TaskState::Cancelled, Ending::Cancelled, 0)), 125);
        assert_eq!(exit_code(&Task { state: TaskState::Failed.into(), ..Task::default() }), 125);
    }
}
