//! A service that embeds the worker: its own handlers beside child processes, in one binary.
//!
//! `embedded worker.toml` runs until Ctrl-C or SIGTERM. The first line of `main` lets this program be its own keeper of
//! processes; a service that offers only handlers leaves it out, and `.processes(..)` too.

use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use futures::future::BoxFuture;
use steersman_worker::{
    Echo, Handler, HandlerContext, HandlerError, KeeperCommand, Noop, Worker, WorkerConfig, keeper,
};
use steersman_world::World;

/// Adds up the numbers of its payload, one per line; stops when it is cancelled.
struct Sum;

impl Handler for Sum {
    fn run(&self, ctx: HandlerContext) -> BoxFuture<'static, Result<Bytes, HandlerError>> {
        Box::pin(async move {
            let text = std::str::from_utf8(&ctx.payload).map_err(|_| HandlerError::new("the payload is not text"))?;
            let mut sum = 0u64;
            for line in text.lines() {
                let number: u64 = line.parse().map_err(|_| HandlerError::new(format!("not a number: {line}")))?;
                sum = sum.checked_add(number).ok_or_else(|| HandlerError::new("the sum is too large"))?;
                if ctx.cancellation.is_cancelled() {
                    return Err(HandlerError::new("cancelled"));
                }
            }
            // Whatever a handler writes elsewhere should carry the fencing token, so that an older attempt is refused there.
            Ok(Bytes::from(sum.to_string()))
        })
    }
}

async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn main() -> ExitCode {
    if let Some(code) = keeper::run_if_asked() {
        return ExitCode::from(code as u8);
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: embedded WORKER.toml");
        return ExitCode::from(2);
    };
    match run(Path::new(&path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code() as u8)
        }
    }
}

fn run(path: &Path) -> Result<(), steersman_worker::WorkerError> {
    let config = WorkerConfig::load(path)?;
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| steersman_worker::WorkerError::Internal(error.to_string()))?;
    let worker = Worker::builder(config, World::real())
        .handler("sum", Sum)
        .handler("noop", Noop)
        .handler("echo", Echo)
        .processes(KeeperCommand::this_program())
        .build();
    runtime.block_on(worker.run(asked_to_end()))
}
