//! Follows a task to its end: its output as it comes, over retries, failovers and lost workers.
//!
//! What always holds: the stdout of the task goes to stdout, its stderr to stderr, byte for byte; the absence of masters or
//! of the worker is said and waited out; it returns the finished task even if its output could not be had.

use std::io::Write as _;
use std::time::Duration;

use steersman_client::v1::{LogStream, ReadLogRequest, Task};
use steersman_client::{Client, codes};
use tokio::sync::watch;

use crate::context::Ctx;
use crate::exit::{Failure, Outcome};
use crate::views;

/// How long one request waits for new bytes, in ms.
const OUTPUT_WAIT_MS: u32 = 5_000;
/// How long one look at the task waits for its end, in ms; doubled from the first look on.
const LOOK_MS: (u64, u64) = (20, 1_000);
/// Before asking again for an output that is not there yet.
const PAUSE: Duration = Duration::from_millis(50);

/// Writes a piece to the stream of the same name.
///
/// # Errors
/// When nobody reads it any more.
pub fn write(stream: LogStream, data: &[u8]) -> Outcome {
    match stream {
        LogStream::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(data)?;
            out.flush()?;
        }
        LogStream::Stderr => std::io::stderr().lock().write_all(data)?,
    }
    Ok(())
}

/// One task that is followed.
pub struct Follow<'a> {
    ctx: &'a Ctx,
    client: &'a Client,
    id: u64,
    streams: &'a [LogStream],
}

impl<'a> Follow<'a> {
    /// Follows these streams of task `id`.
    pub fn new(ctx: &'a Ctx, client: &'a Client, id: u64, streams: &'a [LogStream]) -> Self {
        Self { ctx, client, id, streams }
    }

    /// Shows the output of the current attempt and of every later one. Returns the finished task.
    ///
    /// # Errors
    /// When there is no such task, or nobody reads the output.
    pub async fn to_end(&self) -> Outcome<Task> {
        let task = self.look(0).await?;
        let (sender, receiver) = watch::channel(task);
        let (looked, shown) = tokio::join!(self.look_until_finished(sender), self.show(receiver));
        shown?;
        looked
    }

    async fn look(&self, wait_ms: u64) -> Outcome<Task> {
        let answer = self.client.wait_once(self.id, 1, wait_ms).await?;
        match answer.tasks.into_iter().next() {
            Some(task) => Ok(task),
            None => super::get(self.client, self.id).await,
        }
    }

    async fn look_until_finished(&self, sender: watch::Sender<Task>) -> Outcome<Task> {
        let mut wait_ms = LOOK_MS.0;
        let mut lost = false;
        loop {
            if views::is_finished(sender.borrow().state) {
                return Ok(sender.borrow().clone());
            }
            match self.look(wait_ms).await {
                Ok(task) => {
                    if std::mem::take(&mut lost) {
                        self.ctx.warn(format!(
                            "masters answer again; task {} is {}",
                            self.id,
                            views::task_state(task.state)
                        ));
                    }
                    drop(sender.send_replace(task));
                }
                // Said once, however long it lasts.
                Err(failure) if failure.exit == crate::exit::UNAVAILABLE => {
                    if !std::mem::replace(&mut lost, true) {
                        self.ctx.warn(format!("{}; still waiting for task {}", failure.message, self.id));
                    }
                }
                Err(failure) => return Err(failure),
            }
            if sender.is_closed() {
                return Err(Failure::silent(crate::exit::BROKEN_PIPE));
            }
            wait_ms = (wait_ms * 2).min(LOOK_MS.1);
        }
    }

    async fn show(&self, mut task: watch::Receiver<Task>) -> Outcome {
        let mut shown = 0;
        loop {
            let current = {
                let news = task.wait_for(|task| task.attempts_total > shown || views::is_finished(task.state)).await;
                let Ok(current) = news else { return Ok(()) };
                current.clone()
            };
            if current.attempts_total == shown {
                return Ok(());
            }
            self.announce(&current, shown);
            shown = current.attempts_total;
            let shows = self.streams.iter().map(|stream| self.show_stream(shown, *stream, &task));
            futures::future::try_join_all(shows).await?;
        }
    }

    fn announce(&self, task: &Task, shown: u32) {
        let of = |number: u32| task.attempts.iter().find(|attempt| attempt.number == number);
        let worker = of(task.attempts_total).map_or("?", |attempt| &attempt.worker_name);
        if shown > 0 {
            let why = of(shown).map(views::ending).filter(|why| !why.is_empty()).unwrap_or_else(|| "lost".to_owned());
            let now = task.attempts_total;
            self.ctx.warn(format!("attempt {shown} of task {} ended ({why}); attempt {now} on {worker}", self.id));
        } else {
            self.ctx.note(format!("task {} attempt {} on {worker}", self.id, task.attempts_total));
        }
    }

    async fn show_stream(&self, attempt: u32, stream: LogStream, task: &watch::Receiver<Task>) -> Outcome {
        let mut offset = 0;
        let mut dropped = 0;
        loop {
            let over = is_over(&task.borrow(), attempt);
            let request = ReadLogRequest {
                id: self.id,
                attempt,
                stream: stream.into(),
                offset,
                max_bytes: 0,
                wait_ms: OUTPUT_WAIT_MS,
            };
            match self.client.read_log(request).await {
                Ok(piece) => {
                    write(stream, &piece.data)?;
                    offset = piece.next_offset;
                    if piece.dropped > dropped {
                        self.ctx.warn(format!(
                            "{} bytes were over the worker's bound and are gone",
                            piece.dropped - dropped
                        ));
                        dropped = piece.dropped;
                    }
                    if piece.end {
                        return Ok(());
                    }
                }
                // Asked before it was over, it may have been too early: only an answer of afterwards counts.
                Err(error) if over => return self.give_up(attempt, stream, &error),
                Err(error) if error.is(codes::LOG_NOT_FOUND) || error.is_retryable() => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn give_up(&self, attempt: u32, stream: LogStream, error: &steersman_client::Error) -> Outcome {
        // One warning is enough for two streams of the same attempt.
        if self.streams.first() == Some(&stream) {
            let message = error.message();
            self.ctx.warn(format!("the output of attempt {attempt} of task {} cannot be had: {message}", self.id));
        }
        Ok(())
    }
}

/// No more output can come of this attempt.
fn is_over(task: &Task, attempt: u32) -> bool {
    views::is_finished(task.state) || task.attempts_total > attempt || ended(task, attempt)
}

fn ended(task: &Task, number: u32) -> bool {
    task.attempts.iter().any(|attempt| attempt.number == number && attempt.outcome != 0)
}
