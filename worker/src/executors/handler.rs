//! Handlers: work that is a Rust function of the embedding service.
//!
//! What always holds: a handler that returns, fails, panics, overstays its timeout or its grace yields exactly one end.
//! Stopping is cooperative first (the cancellation token), then the future is dropped at its next `.await`: a handler that
//! blocks its thread cannot be stopped, so do blocking work with `spawn_blocking` and look at the token.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use steersman_proto::v1::{Outcome, task_spec::Work};
use steersman_proto::worker::v1::Ended;
use steersman_world::Clock;
use tokio_util::sync::CancellationToken;

use super::{Event, EventSender, Executor, ExecutorError, Held, Kill, Run, ended};

/// The wire's bound of a result.
pub const RESULT_BYTES_MAX: usize = 4_096;

/// What a handler is told.
#[derive(Debug, Clone)]
pub struct HandlerContext {
    /// The task.
    pub task_id: u64,
    /// 1, 2, …
    pub attempt: u32,
    /// Unique and rising in the whole cluster: hand it to whatever the handler writes to, and let that refuse older ones.
    pub fencing_token: u64,
    /// The task's place in its array.
    pub array_index: u64,
    /// What the submitter gave.
    pub payload: Bytes,
    /// Set when the attempt should stop; after the task's grace the handler's future is dropped.
    pub cancellation: CancellationToken,
}

/// A handler's own failure; its text is shown to the submitter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HandlerError(pub String);

impl HandlerError {
    /// A failure that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Work by name, for services that embed the worker. At least once: an attempt may run again elsewhere.
pub trait Handler: Send + Sync + 'static {
    /// Does the work; the result is at most [`RESULT_BYTES_MAX`] bytes.
    fn run(&self, ctx: HandlerContext) -> BoxFuture<'static, Result<Bytes, HandlerError>>;
}

impl<F> Handler for F
where
    F: Fn(HandlerContext) -> BoxFuture<'static, Result<Bytes, HandlerError>> + Send + Sync + 'static,
{
    fn run(&self, ctx: HandlerContext) -> BoxFuture<'static, Result<Bytes, HandlerError>> {
        self(ctx)
    }
}

/// Succeeds at once with nothing: for measuring.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noop;

impl Handler for Noop {
    fn run(&self, _ctx: HandlerContext) -> BoxFuture<'static, Result<Bytes, HandlerError>> {
        Box::pin(std::future::ready(Ok(Bytes::new())))
    }
}

/// Returns its payload.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

impl Handler for Echo {
    fn run(&self, ctx: HandlerContext) -> BoxFuture<'static, Result<Bytes, HandlerError>> {
        Box::pin(std::future::ready(Ok(ctx.payload)))
    }
}

/// Told to a running handler from outside.
#[derive(Debug, Default)]
struct Control {
    cancellation: CancellationToken,
    cut: CancellationToken,
    outcome: OnceLock<Outcome>,
}

type Running = Arc<Mutex<BTreeMap<u64, Arc<Control>>>>;

/// Runs handlers on the ambient runtime.
pub struct HandlerExecutor {
    handlers: BTreeMap<String, Arc<dyn Handler>>,
    running: Running,
    events: OnceLock<EventSender>,
    clock: Arc<dyn Clock>,
}

impl HandlerExecutor {
    /// With these handlers; `clock` measures how long they run.
    pub fn new(handlers: BTreeMap<String, Arc<dyn Handler>>, clock: Arc<dyn Clock>) -> Self {
        Self { handlers, running: Running::default(), events: OnceLock::new(), clock }
    }

    fn send(&self, token: u64, ended: Ended) {
        if let Some(events) = self.events.get() {
            let _ = events.send(Event::Ended { token, ended });
        }
    }

    fn unknown(&self, name: &str) -> Ended {
        let known: Vec<&str> = self.handlers.keys().map(String::as_str).collect();
        ended(Outcome::CannotStart, 127, format!("no handler \"{name}\" here; this worker has: {}", known.join(", ")))
    }
}

impl Executor for HandlerExecutor {
    fn open(&self, events: EventSender) -> BoxFuture<'static, Result<Vec<Held>, ExecutorError>> {
        let _ = self.events.set(events);
        Box::pin(async { Ok(Vec::new()) })
    }

    fn start(&self, run: Run) {
        let Some(Work::Handler(work)) = &run.spec.work else {
            return self
                .send(run.token, ended(Outcome::CannotStart, 126, "the task names neither a command nor a handler"));
        };
        let Some(handler) = self.handlers.get(&work.name).cloned() else {
            return self.send(run.token, self.unknown(&work.name));
        };
        let Some(events) = self.events.get().cloned() else { return };
        let control = Arc::new(Control::default());
        self.running.lock().insert(run.token, control.clone());
        let (running, payload, clock) = (self.running.clone(), work.payload.clone(), self.clock.clone());
        tokio::spawn(async move {
            let token = run.token;
            let began = clock.now();
            let mut ended = supervise(handler, payload, run, &control).await;
            ended.ran_ms = clock.now().saturating_duration_since(began).as_millis() as u64;
            running.lock().remove(&token);
            let _ = events.send(Event::Ended { token, ended });
        });
    }

    fn kill(&self, token: u64, kill: Kill) {
        let Some(control) = self.running.lock().get(&token).cloned() else { return };
        let _ = control.outcome.set(kill.outcome);
        control.cancellation.cancel();
        if kill.hard {
            control.cut.cancel();
        }
    }

    fn forget(&self, _tokens: &[u64]) {}
}

async fn supervise(handler: Arc<dyn Handler>, payload: Bytes, run: Run, control: &Control) -> Ended {
    let ctx = HandlerContext {
        task_id: run.task_id,
        attempt: run.attempt,
        fencing_token: run.token,
        array_index: run.array_index,
        payload,
        cancellation: control.cancellation.clone(),
    };
    // Inside the future, so that a panic of `run` itself is caught too.
    let work = AssertUnwindSafe(async move { handler.run(ctx).await }).catch_unwind();
    tokio::pin!(work);
    tokio::select! {
        biased;
        // An end that was asked for stands, as with a process that was signalled, whatever the handler made of it.
        done = &mut work => match control.outcome.get() {
            Some(asked) => return ended(*asked, 0, ""),
            None => return of_result(done),
        },
        () = stop_asked(control, run.timeout()) => {}
    }
    let grace = if control.cut.is_cancelled() { Duration::ZERO } else { run.kill_grace };
    tokio::select! {
        biased;
        _ = &mut work => {}
        () = control.cut.cancelled() => {}
        () = tokio::time::sleep(grace) => {}
    }
    let outcome = control.outcome.get().copied().unwrap_or(Outcome::TimedOut);
    ended(outcome, 0, why(outcome, &run))
}

async fn stop_asked(control: &Control, timeout: Option<Duration>) {
    let Some(timeout) = timeout else { return control.cancellation.cancelled().await };
    if tokio::time::timeout(timeout, control.cancellation.cancelled()).await.is_err() {
        let _ = control.outcome.set(Outcome::TimedOut);
        control.cancellation.cancel();
    }
}

fn why(outcome: Outcome, run: &Run) -> String {
    match outcome {
        Outcome::TimedOut => format!("ran longer than its timeout of {} ms", run.spec.timeout_ms),
        _ => String::new(),
    }
}

fn of_result(done: Result<Result<Bytes, HandlerError>, Box<dyn std::any::Any + Send>>) -> Ended {
    match done {
        Ok(Ok(result)) if result.len() <= RESULT_BYTES_MAX => Ended { result, ..ended(Outcome::Succeeded, 0, "") },
        Ok(Ok(result)) => {
            let text = format!("the result has {} bytes; {RESULT_BYTES_MAX} is the limit", result.len());
            ended(Outcome::HandlerError, 0, text)
        }
        Ok(Err(error)) => ended(Outcome::HandlerError, 0, error.0),
        Err(panic) => ended(Outcome::HandlerError, 0, format!("the handler panicked: {}", panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use steersman_proto::v1::{Handler as Work_, TaskSpec};
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    fn run_of(name: &str, timeout_ms: u64) -> Run {
        let work = Work_ { name: name.into(), payload: Bytes::from_static(b"hi") };
        let spec = TaskSpec { work: Some(Work::Handler(work)), timeout_ms, ..TaskSpec::default() };
        Run { token: 4, task_id: 2, attempt: 1, array_index: 0, spec: spec.into(), kill_grace: Duration::from_secs(2) }
    }

    fn executor() -> (HandlerExecutor, mpsc::UnboundedReceiver<Event>) {
        let mut handlers: BTreeMap<String, Arc<dyn Handler>> = BTreeMap::new();
        handlers.insert("echo".into(), Arc::new(Echo));
        handlers.insert("big".into(), Arc::new(|_| async { Ok(Bytes::from(vec![0; 5_000])) }.boxed()));
        handlers.insert("fail".into(), Arc::new(|_| async { Err(HandlerError::new("no luck")) }.boxed()));
        handlers.insert("panic".into(), Arc::new(|_| async { panic!("ouch {}", 1) }.boxed()));
        handlers.insert("stuck".into(), Arc::new(|_| std::future::pending().boxed()));
        handlers.insert(
            "polite".into(),
            Arc::new(|ctx: HandlerContext| {
                async move {
                    ctx.cancellation.cancelled().await;
                    Ok(Bytes::new())
                }
                .boxed()
            }),
        );
        let executor = HandlerExecutor::new(handlers, Arc::new(steersman_world::RealClock));
        let (events, received) = mpsc::unbounded_channel();
        let _ = executor.open(events).now_or_never().unwrap().unwrap();
        (executor, received)
    }

    async fn end_of(received: &mut mpsc::UnboundedReceiver<Event>) -> Ended {
        match received.recv().await.unwrap() {
            Event::Ended { token: 4, ended } => ended,
            other => panic!("unexpected {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_way_to_end_is_told_apart() {
        let (executor, mut received) = executor();
        for (name, outcome, text) in [
            ("echo", Outcome::Succeeded, ""),
            ("fail", Outcome::HandlerError, "no luck"),
            ("panic", Outcome::HandlerError, "the handler panicked: ouch 1"),
            ("big", Outcome::HandlerError, "the result has 5000 bytes; 4096 is the limit"),
            ("stuck", Outcome::TimedOut, "ran longer than its timeout of 50 ms"),
        ] {
            executor.start(run_of(name, 50));
            let ended = end_of(&mut received).await;
            assert_eq!((ended.outcome(), ended.message.as_str()), (outcome, text), "{name}");
        }
        assert!(executor.running.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_handler_cannot_start_and_the_known_ones_are_named() {
        let (executor, mut received) = executor();
        executor.start(run_of("ekko", 0));
        let ended = end_of(&mut received).await;
        assert_eq!((ended.outcome(), ended.exit_code), (Outcome::CannotStart, 127));
        assert!(ended.message.contains("echo"), "{}", ended.message);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancel_waits_for_the_polite_and_cuts_the_stuck() {
        let (executor, mut received) = executor();
        for (name, hard, waits_ms) in [("polite", false, 0), ("stuck", false, 2_000), ("stuck", true, 0)] {
            executor.start(run_of(name, 0));
            tokio::task::yield_now().await;
            let asked = Instant::now();
            executor.kill(4, Kill { outcome: Outcome::Cancelled, hard });
            assert_eq!(end_of(&mut received).await.outcome(), Outcome::Cancelled);
            assert_eq!(asked.elapsed().as_millis(), waits_ms, "{name} {hard}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hard_kill_overtakes_the_grace() {
        let (executor, mut received) = executor();
        executor.start(run_of("stuck", 0));
        tokio::task::yield_now().await;
        executor.kill(4, Kill { outcome: Outcome::Cancelled, hard: false });
        tokio::task::yield_now().await;
        let asked = Instant::now();
        executor.kill(4, Kill { outcome: Outcome::PartitionStop, hard: true });
        assert_eq!(end_of(&mut received).await.outcome(), Outcome::Cancelled, "the first reason stays");
        assert_eq!(asked.elapsed().as_millis(), 0);
    }
}
