//! `steersman task logs`: what tasks wrote, in order of their ids, also while they run.
//!
//! What always holds: the stdout of tasks goes to stdout, their stderr to stderr, byte for byte; a range comes in the order
//! of its ids, though its first pieces are fetched ahead; what cannot be shown is said on stderr and in the exit code.

use clap::{Args, ValueEnum};
use futures::StreamExt as _;
use steersman_client::v1::{LogStream, ReadLogRequest, ReadLogResponse};
use steersman_client::{Client, codes};

use super::follow::{Follow, write};
use super::{each_id, get, resolve};
use crate::context::Ctx;
use crate::exit::{self, Failure, Outcome};
use crate::units::{self, Ids};
use crate::views;

/// Tasks whose first piece is fetched ahead.
const AHEAD: usize = 32;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// What went to stdout
    Stdout,
    /// What went to stderr
    Stderr,
    /// Each to where it belongs
    Both,
}

/// Options of `task logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman task logs last
  steersman task logs -f 17                    go on until the task is finished
  steersman task logs 1..2000 > sums.txt       the stdout of each, in the order of ids
  steersman task logs 17 --attempt 1 --stream stderr

Outputs live on the worker that ran the attempt, within its bounds.")]
pub struct LogsArgs {
    /// Ids, ranges (1..2000, both ends included), or last
    #[arg(required = true, value_parser = units::ids, value_name = "ID")]
    ids: Vec<Ids>,
    /// Wait for more until the task is finished, over all its attempts
    #[arg(short, long)]
    follow: bool,
    /// Which output [default: both for one task, stdout for several]
    #[arg(long, value_enum)]
    stream: Option<Which>,
    /// Which attempt [default: the last]
    #[arg(long, default_value_t = 0, hide_default_value = true, conflicts_with = "follow", value_name = "N")]
    attempt: u32,
}

/// Runs it.
///
/// # Errors
/// When an output is not there, or as every read.
pub async fn logs(ctx: &Ctx, args: &LogsArgs) -> Outcome {
    let client = ctx.client()?;
    let ids = each_id(&resolve(&client, &args.ids).await?);
    let default = if ids.len() == 1 { Which::Both } else { Which::Stdout };
    let streams: &[LogStream] = match args.stream.unwrap_or(default) {
        Which::Stdout => &[LogStream::Stdout],
        Which::Stderr => &[LogStream::Stderr],
        Which::Both => &[LogStream::Stdout, LogStream::Stderr],
    };
    if args.follow {
        for id in ids {
            Follow::new(ctx, &client, id, streams).to_end().await?;
        }
        return Ok(());
    }
    print_all(ctx, &Reader { client: &client, attempt: args.attempt }, &ids, streams).await
}

async fn print_all(ctx: &Ctx, reader: &Reader<'_>, ids: &[u64], streams: &[LogStream]) -> Outcome {
    let wanted = ids.iter().flat_map(|id| streams.iter().map(move |stream| (*id, *stream)));
    let fetches = wanted.map(|(id, stream)| async move { (id, stream, reader.first(id, stream).await) });
    let mut pieces = std::pin::pin!(futures::stream::iter(fetches).buffered(AHEAD));
    let mut failed = None;
    while let Some((id, stream, first)) = pieces.next().await {
        let done = match first {
            Ok(piece) => reader.print(ctx, id, stream, piece).await,
            Err(failure) => Err(failure),
        };
        match done {
            Err(failure) if failure.exit == exit::REFUSED && ids.len() > 1 => {
                ctx.warn(format!("task {id}: {}", failure.message));
                failed = Some(Failure::silent(exit::REFUSED));
            }
            other => other?,
        }
    }
    failed.map_or(Ok(()), Err)
}

struct Reader<'a> {
    client: &'a Client,
    attempt: u32,
}

impl Reader<'_> {
    async fn first(&self, id: u64, stream: LogStream) -> Outcome<ReadLogResponse> {
        match self.read(id, self.attempt, stream, 0).await {
            Ok(piece) => Ok(piece),
            Err(error) if error.is(codes::LOG_NOT_FOUND) => Err(self.why_not(id, error).await),
            Err(error) => Err(error.into()),
        }
    }

    async fn read(
        &self,
        id: u64,
        attempt: u32,
        stream: LogStream,
        offset: u64,
    ) -> Result<ReadLogResponse, steersman_client::Error> {
        let request = ReadLogRequest { id, attempt, stream: stream.into(), offset, max_bytes: 0, wait_ms: 0 };
        self.client.read_log(request).await
    }

    /// A task that had no attempt yet has no output.
    async fn why_not(&self, id: u64, error: steersman_client::Error) -> Failure {
        match get(self.client, id).await {
            Ok(task) if task.attempts.is_empty() => {
                let message =
                    format!("task {id} has no output: it is {} and was never started", views::task_state(task.state));
                let failure = Failure::coded(exit::REFUSED, &codes::LOG_NOT_FOUND, message);
                if views::is_finished(task.state) {
                    failure
                } else {
                    failure.hint(format!("follow it: steersman task logs -f {id}"))
                }
            }
            _ => error.into(),
        }
    }

    /// Prints a piece and everything after it that is there now.
    async fn print(&self, ctx: &Ctx, id: u64, stream: LogStream, first: ReadLogResponse) -> Outcome {
        if first.dropped > 0 {
            ctx.warn(format!("task {id}: {} bytes were over the worker's bound and are gone", first.dropped));
        }
        let mut piece = first;
        loop {
            write(stream, &piece.data)?;
            if piece.end || piece.data.is_empty() {
                return Ok(());
            }
            piece = self.read(id, piece.attempt, stream, piece.next_offset).await?;
        }
    }
}
