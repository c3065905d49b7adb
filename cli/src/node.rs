//! `master start` and `worker start`: a node in this process, its log, its signals and its exit code.
//!
//! What always holds: flags win over the file; SIGTERM, SIGINT and the end of the parent ask for an orderly end, a second
//! signal ends the process at once; a node that cannot go on says why in one message and ends with its own exit code.

use std::future::Future;
use std::io::BufRead as _;
use std::sync::Arc;

use steersman_client::World;
use steersman_client::codes;
use steersman_master::NodeError;
use steersman_master::config::{Addresses, MasterConfig, MasterEntry};
use steersman_raft_store::{Disk, RealDisk};
use steersman_worker::{Echo, KeeperCommand, Noop, Worker, WorkerConfig, WorkerError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::config::invalid;
use crate::context::Ctx;
use crate::dev::faults::Faults;
use crate::exit::{self, Failure, Outcome};
use crate::{master, worker};

/// The environment variable that overrides the level of the log, e.g. `debug` or `steersman_master=trace,warn`.
const LOG_ENV: &str = "STEERSMAN_LOG";
/// Of a configuration that is not valid.
const EX_CONFIG: i32 = 78;

/// A command's own log, for `-vv`.
pub fn log_to_stderr(verbosity: u8) {
    let default = if verbosity >= 2 { "steersman_client=debug,warn" } else { "error" };
    start_log("text", default);
}

fn start_log(format: &str, level: &str) {
    let filter = EnvFilter::try_from_env(LOG_ENV).unwrap_or_else(|_| EnvFilter::new(directives(level)));
    let color = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(color);
    // Fails only if there is a log already.
    let started = if format == "json" { log.json().try_init() } else { log.try_init() };
    drop(started);
}

/// A plain level is about Steersman. openraft tells every failed heartbeat to a dead peer, many a second: only its errors are
/// shown, until somebody asks for more.
fn directives(level: &str) -> String {
    match level {
        "debug" => "debug,openraft=info,h2=info,hyper=info,tonic=info,tower=info,sled=info".to_owned(),
        "error" | "warn" | "info" => format!("{level},openraft=error"),
        other => other.to_owned(),
    }
}

/// Runs a master until it is told to end.
///
/// # Errors
/// Why it could not go on, with the exit code of that.
pub fn start_master(ctx: &Ctx, args: &master::StartArgs) -> Outcome {
    let config = master_config(args)?;
    start_log(&config.log.format, &config.log.level);
    for warning in config.warnings() {
        ctx.warn(warning);
    }
    let (parent, faults) = (args.exit_with_parent, master_faults(args, &config)?);
    let real = RealDisk::new(&config.data_dir).kept_by(config.engine());
    run_node(async move {
        let (disk, world): (Arc<dyn Disk>, World) = match &faults {
            Some(faults) => (Arc::new(faults.disk(real)), faults.world(World::real())),
            None => (Arc::new(real), World::real()),
        };
        let ended = steersman_master::run_on(disk, config, world, asked_to_end(parent, faults)).await;
        ended.map_err(|error| of_master(&error))
    })
}

/// Faults are for masters that nobody reaches from another machine.
fn master_faults(args: &master::StartArgs, config: &MasterConfig) -> Outcome<Option<Faults>> {
    if !args.faults {
        return Ok(None);
    }
    let addresses = [&config.listen, &config.advertise].into_iter().flat_map(|at| [&at.api, &at.raft, &at.http]);
    Faults::on_loopback(addresses.map(String::as_str)).map(Some)
}

fn worker_faults(args: &worker::StartArgs, config: &WorkerConfig) -> Outcome<Option<Faults>> {
    if !args.faults {
        return Ok(None);
    }
    let addresses = config.masters.iter().chain(&config.http);
    Faults::on_loopback(addresses.map(String::as_str)).map(Some)
}

/// Runs a worker until it is told to end.
///
/// # Errors
/// Why it could not go on, with the exit code of that.
pub fn start_worker(ctx: &Ctx, args: &worker::StartArgs) -> Outcome {
    let config = worker_config(ctx, args)?;
    start_log("text", "info");
    let (parent, faults) = (args.exit_with_parent, worker_faults(args, &config)?);
    run_node(async move {
        let world = faults.as_ref().map_or_else(World::real, |faults| faults.world(World::real()));
        let built = Worker::builder(config, world)
            .handler("noop", Noop)
            .handler("echo", Echo)
            .processes(KeeperCommand::this_program())
            .build();
        built.run(asked_to_end(parent, faults)).await.map_err(|error| of_worker(&error))
    })
}

fn run_node(node: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::local(format!("cannot start: {error}"), "see ulimit -a"))?;
    let outcome = runtime.block_on(node);
    runtime.shutdown_background();
    outcome
}

fn of_master(error: &NodeError) -> Failure {
    Failure::coded(error.exit_code(), &error.code(), error.to_string())
}

fn of_worker(error: &WorkerError) -> Failure {
    let code = match error {
        WorkerError::Config(_) => codes::CONFIG,
        WorkerError::Disk { .. } => codes::DISK,
        WorkerError::Locked { .. } => codes::FOREIGN_DATA,
        WorkerError::Corrupt { .. } => codes::CORRUPT_DATA,
        WorkerError::Refused { reason, .. } => codes::by_reason(reason).copied().unwrap_or(codes::FAILED_PRECONDITION),
        WorkerError::Listen { .. } => codes::PORT_IN_USE,
        WorkerError::Keeper(_) | WorkerError::Internal(_) => codes::INVARIANT,
    };
    Failure::coded(error.exit_code(), &code, error.to_string())
}

/// Resolves at the first SIGTERM, SIGINT, or (if so wished) the end of stdin. A second signal ends the process at once.
async fn asked_to_end(with_parent: bool, faults: Option<Faults>) {
    let (sender, mut asked) = mpsc::channel(1);
    let signals = [(SignalKind::terminate(), 143), (SignalKind::interrupt(), exit::INTERRUPTED)];
    for (kind, code) in signals {
        let sender = sender.clone();
        match signal(kind) {
            Ok(mut stream) => drop(tokio::spawn(async move {
                stream.recv().await;
                if sender.try_send("signal").is_err() {
                    std::process::exit(code);
                }
                stream.recv().await;
                std::process::exit(code);
            })),
            Err(error) => tracing::warn!(%error, "cannot watch for signals"),
        }
    }
    if with_parent {
        std::thread::spawn(move || {
            read_to_end_of_stdin(faults.as_ref());
            // A full channel means that the end was asked for already.
            let _ = sender.try_send("the parent process is gone");
        });
    }
    let why = asked.recv().await.unwrap_or("nobody can ask any more");
    tracing::info!(why, "ending");
}

/// What the parent writes is of interest only to a node that takes faults.
fn read_to_end_of_stdin(faults: Option<&Faults>) {
    let mut line = Vec::new();
    let mut stdin = std::io::stdin().lock();
    while matches!(stdin.read_until(b'\n', &mut line), Ok(n) if n > 0) {
        if let Some(faults) = faults {
            faults.obey(&String::from_utf8_lossy(&line));
        }
        line.clear();
    }
}

fn master_config(args: &master::StartArgs) -> Outcome<MasterConfig> {
    let refused = |error: steersman_master::config::ConfigError| invalid(EX_CONFIG, &error.code(), &error.to_string());
    let mut config = match &args.config {
        Some(file) => MasterConfig::load(file).map_err(refused)?,
        None if args.data_dir.is_none() => {
            return Err(Failure::usage(
                "a master needs --config FILE, or at least --data-dir DIR",
                "see --help for both forms",
            ));
        }
        None => MasterConfig { masters: Vec::new(), ..MasterConfig::default() },
    };
    apply_master_flags(&mut config, args);
    config.validate().map_err(refused)?;
    Ok(config)
}

fn apply_master_flags(config: &mut MasterConfig, args: &master::StartArgs) {
    config.node_id = args.id.unwrap_or(config.node_id);
    config.data_dir = args.data_dir.clone().unwrap_or_else(|| config.data_dir.clone());
    config.join |= args.join;
    config.insecure |= args.insecure;
    let Addresses { api, raft, http } = &mut config.listen;
    let Addresses { api: api_out, raft: raft_out, http: http_out } = &mut config.advertise;
    for (flag, listen, advertise) in
        [(&args.api, api, api_out), (&args.raft, raft, raft_out), (&args.http, http, http_out)]
    {
        if let Some(flag) = flag {
            listen.clone_from(flag);
            advertise.clone_from(flag);
        }
    }
    config.masters.extend(args.peer.iter().map(|peer| MasterEntry {
        id: peer.id,
        api: peer.api.clone(),
        raft: peer.raft.clone(),
        http: peer.http.clone(),
    }));
    if args.config.is_none() && !config.join {
        let own = config.advertise.clone();
        config.masters.push(MasterEntry { id: config.node_id, api: own.api, raft: own.raft, http: own.http });
        config.masters.sort_by_key(|master| master.id);
    }
}

fn worker_config(ctx: &Ctx, args: &worker::StartArgs) -> Outcome<WorkerConfig> {
    let refused = |error: steersman_worker::config::ConfigError| invalid(EX_CONFIG, &codes::CONFIG, &error.to_string());
    let mut config = match &args.config {
        Some(file) => WorkerConfig::load(file).map_err(refused)?,
        None if args.data_dir.is_none() || args.name.is_none() => {
            let message = "a worker needs --config FILE, or at least --name NAME and --data-dir DIR";
            return Err(Failure::usage(message, "see --help for both forms"));
        }
        None => WorkerConfig { masters: ctx.addresses().0, ..WorkerConfig::default() },
    };
    apply_worker_flags(&mut config, args);
    config.validate().map_err(refused)?;
    Ok(config)
}

fn apply_worker_flags(config: &mut WorkerConfig, args: &worker::StartArgs) {
    config.name = args.name.clone().unwrap_or_else(|| config.name.clone());
    config.data_dir = args.data_dir.clone().unwrap_or_else(|| config.data_dir.clone());
    config.capacity = args.capacity.unwrap_or(config.capacity);
    if !args.masters.is_empty() {
        config.masters.clone_from(&args.masters);
    }
    if args.http.is_some() {
        config.http.clone_from(&args.http);
    }
    config.labels.extend(args.label.iter().map(|label| (label.key.clone(), label.value.clone())));
    config.resources.extend(args.resource.iter().map(|resource| (resource.name.clone(), resource.amount)));
}

/// For messages of `dev`.
pub fn ending_of(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(0), _) => "ended".to_owned(),
        (Some(code), _) => format!("ended with exit code {code}"),
        (_, Some(9)) => "was killed (SIGKILL)".to_owned(),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        _ => "ended".to_owned(),
    }
}
