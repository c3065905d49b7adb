//! `steersman task wait`, and waiting with progress for other commands.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use steersman_client::{Client, WaitTotals};

use super::resolve;
use crate::context::Ctx;
use crate::exit::{self, Failure, Outcome};
use crate::table::print_one;
use crate::units::{self, Ids};

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// Options of `task wait`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman task wait last
  steersman task wait 1..2000 --deadline 10m

Exit codes: 0 all succeeded · 3 none of them is known · 4 not finished in time · 6 one failed or was cancelled")]
pub struct WaitArgs {
    /// Ids, ranges (1..2000, both ends included), or last
    #[arg(required = true, value_parser = units::ids, value_name = "ID")]
    ids: Vec<Ids>,
    /// Give up waiting after this long; the tasks go on
    #[arg(long, value_parser = units::duration, value_name = "DURATION")]
    deadline: Option<Duration>,
}

/// Runs it.
///
/// # Errors
/// When one failed, or as every read.
pub async fn wait(ctx: &Ctx, args: &WaitArgs) -> Outcome {
    let client = ctx.client()?;
    let ranges = resolve(&client, &args.ids).await?;
    let totals = wait_for(ctx, &client, &ranges, args.deadline).await?;
    report(ctx, &totals)?;
    verdict(&totals)
}

/// Waits for ranges (first and count) with progress on a terminal.
///
/// # Errors
/// As every read.
pub async fn wait_for(
    ctx: &Ctx,
    client: &Client,
    ranges: &[(u64, u64)],
    patience: Option<Duration>,
) -> Outcome<WaitTotals> {
    let deadline = patience.map(|patience| tokio::time::Instant::now() + patience);
    let mut sum = WaitTotals { done: true, ..WaitTotals::default() };
    for (first, count) in ranges {
        let before = sum.clone();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(tokio::time::Instant::now()));
            let step = left.map_or(PROGRESS, |left| left.min(PROGRESS));
            let part = client.wait(*first, *count, Some(step)).await?;
            sum = added(&before, &part);
            if part.done || left.is_some_and(|left| left.is_zero()) {
                break;
            }
            ctx.note(format!("waiting: {}", line(&sum)));
        }
    }
    Ok(sum)
}

fn added(sum: &WaitTotals, part: &WaitTotals) -> WaitTotals {
    WaitTotals {
        done: sum.done && part.done,
        succeeded: sum.succeeded + part.succeeded,
        failed: sum.failed + part.failed,
        cancelled: sum.cancelled + part.cancelled,
        unfinished: sum.unfinished + part.unfinished,
        gone: sum.gone + part.gone,
        task: part.task.clone(),
        read: part.read,
    }
}

/// Prints how the tasks stand.
///
/// # Errors
/// When nobody reads it any more.
pub fn report(ctx: &Ctx, totals: &WaitTotals) -> Outcome {
    if ctx.output == crate::context::Output::Id {
        return Ok(());
    }
    if !ctx.output.is_json() {
        return ctx.print(line(totals));
    }
    let json = json!({
        "done": totals.done, "succeeded": totals.succeeded, "failed": totals.failed, "cancelled": totals.cancelled,
        "unfinished": totals.unfinished, "gone": totals.gone,
    });
    print_one(ctx, "", &[], &json)
}

/// Numbers that are not zero, in words.
pub fn line(totals: &WaitTotals) -> String {
    let counts = [
        (totals.succeeded, "succeeded"),
        (totals.failed, "failed"),
        (totals.cancelled, "cancelled"),
        (totals.unfinished, "unfinished"),
        (totals.gone, "no longer kept"),
    ];
    let parts: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if parts.is_empty() { "nothing to wait for".to_owned() } else { parts.join(", ") }
}

/// The exit code of a wait.
///
/// # Errors
/// When not all succeeded.
pub fn verdict(totals: &WaitTotals) -> Outcome {
    if totals.failed + totals.cancelled > 0 {
        return Err(Failure::silent(exit::TASK_FAILED));
    }
    if !totals.done {
        let message = format!("not finished in time: {}", line(totals));
        let failure = Failure::coded(exit::UNAVAILABLE, &steersman_client::codes::FAILED_PRECONDITION, message);
        return Err(failure.hint("the tasks go on; see why: steersman task explain ID"));
    }
    if totals.gone > 0 && totals.succeeded == 0 {
        let failure = Failure::coded(exit::REFUSED, &steersman_client::codes::TASK_NOT_FOUND, "none of them is known");
        return Err(failure);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_have_their_exit_codes() {
        let totals = |succeeded, failed, unfinished, gone| WaitTotals {
            done: unfinished == 0,
            succeeded,
            failed,
            unfinished,
            gone,
            ..WaitTotals::default()
        };
        let exit = |totals: WaitTotals| verdict(&totals).err().map(|failure| failure.exit);
        assert_eq!(exit(totals(3, 0, 0, 0)), None);
        assert_eq!(exit(totals(3, 1, 2, 0)), Some(exit::TASK_FAILED));
        assert_eq!(exit(totals(3, 0, 2, 0)), Some(exit::UNAVAILABLE));
        assert_eq!(exit(totals(0, 0, 0, 2)), Some(exit::REFUSED));
        assert_eq!(exit(totals(1, 0, 0, 2)), None);
    }
}
