//! The bare call: a gRPC server in a process of its own that answers a submit at once, and calls to it.
//!
//! What always holds: the messages and the transport are the product's; nothing is decided, stored or sent on. What a
//! submit takes longer than this call is Steersman's.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use steersman_client::World;
use steersman_client::v1::tasks_client::TasksClient;
use steersman_client::v1::tasks_server::{Tasks, TasksServer};
use steersman_client::v1::*;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::bed;
use crate::stats::ms;

/// Serves until it is killed; says its address first, on stdout.
///
/// # Errors
/// If it cannot listen.
pub async fn serve() -> Result<()> {
    let incoming = World::real().net.bind("127.0.0.1:0".into()).await?;
    println!("{}", incoming.local);
    let server = tonic::transport::Server::builder().add_service(TasksServer::new(Echo));
    server.serve_with_incoming(incoming.stream).await.context("the bare server ended")
}

struct Echo;

/// Calls that nobody makes here.
macro_rules! absent {
    ($($name:ident: $request:ty => $response:ty),* $(,)?) => {
        #[tonic::async_trait]
        impl Tasks for Echo {
            async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
                let count = request.into_inner().groups.len() as u64;
                Ok(Response::new(SubmitResponse { first_id: 1, count, log_index: 1 }))
            }

            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("only submit is measured"))
            })*
        }
    };
}

absent! {
    submit_many: SubmitManyRequest => SubmitManyResponse,
    get: GetTaskRequest => GetTaskResponse,
    list: ListTasksRequest => ListTasksResponse,
    cancel: CancelRequest => CancelResponse,
    retry: RetryRequest => RetryResponse,
    wait: WaitRequest => WaitResponse,
    explain: ExplainRequest => ExplainResponse,
    read_log: ReadLogRequest => ReadLogResponse,
}

/// The server's process and a connection to it.
pub struct Bare {
    channel: Channel,
    _server: Child,
}

impl Bare {
    /// Starts this very program as a server.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--echo").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut server = command.spawn().context("cannot start the bare server")?;
        let stdout = server.stdout.take().context("the bare server has no stdout")?;
        let address = BufReader::new(stdout).lines().next_line().await?.context("the bare server said nothing")?;
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        Ok(Self { channel, _server: server })
    }

    /// Time of one call alone, in ms, so many times.
    ///
    /// # Errors
    /// If a call fails.
    pub async fn alone(&self, tries: usize) -> Result<Vec<f64>> {
        let mut taken = Vec::with_capacity(tries);
        for _ in 0..tries {
            let began = Instant::now();
            call(self.channel.clone()).await?;
            taken.push(ms(began.elapsed()));
        }
        Ok(taken)
    }

    /// Calls per second of so many callers.
    ///
    /// # Errors
    /// If a call fails.
    pub async fn rate(&self, callers: usize, span: Duration) -> Result<f64> {
        let began = Instant::now();
        let one = |_| {
            let channel = self.channel.clone();
            tokio::spawn(async move {
                let mut calls = 0_u64;
                while began.elapsed() < span {
                    call(channel.clone()).await?;
                    calls += 1;
                }
                anyhow::Ok(calls)
            })
        };
        let mut all: futures::stream::FuturesUnordered<_> = (0..callers).map(one).collect();
        let mut calls = 0;
        while let Some(count) = all.next().await {
            calls += count??;
        }
        Ok(calls as f64 / began.elapsed().as_secs_f64())
    }
}

async fn call(channel: Channel) -> Result<()> {
    let request = SubmitRequest { request_id: vec![0; 16].into(), groups: bed::submit_of_256(), validate_only: false };
    TasksClient::new(channel).submit(request).await?;
    Ok(())
}
