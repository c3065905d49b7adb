//! `steersman cluster …`: facts, health and snapshots of the cluster as a whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use steersman_client::codes;
use steersman_client::v1::{InfoResponse, MasterAddress};
use steersman_client::{Finding, Verdict};
use steersman_raft_store::{Engine, MasterNode, Restore, SnapshotInfo, StoreError, inspect_snapshot, restore_into};

use crate::context::Ctx;
use crate::exit::{self, Failure, Outcome};
use crate::status::{Picture, term};
use crate::table::{Row, col, print_list, print_one};
use crate::{master, units, views};

/// A replica that is this much behind is worth a warning: some seconds of full load.
const LAG_MAX: u64 = 10_000;

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show what the cluster knows of itself
    #[command(after_help = "Examples:\n  steersman cluster info\n  steersman cluster info -o json")]
    Info,
    /// Check the cluster; exit code 7 if something is wrong, 4 if no master answers
    #[command(after_help = "Examples:\n  steersman cluster health\n  steersman cluster health -q && deploy")]
    Health,
    /// Compare the masters' states and check each one's data; exit code 7 if something is wrong, 4 if too few answer
    #[command(after_help = "\
Examples:
  steersman cluster verify
  steersman cluster verify --deep
  steersman cluster verify -o json | jq '.[] | select(.result != \"ok\")'

Compared are digests of the state at one log index, members and versions; each master checks its invariants and its log.
Work goes on meanwhile. A master whose state is not that of the majority stops by itself, with exit code 70.")]
    Verify(VerifyArgs),
    /// Save, inspect and restore the whole state
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
}

/// `cluster snapshot …`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Save the state of the running cluster into a file
    #[command(
        after_help = "Examples:\n  steersman cluster snapshot save backup.snap\n  steersman cluster snapshot save - | zstd > backup.snap.zst"
    )]
    Save(FileArgs),
    /// Check a snapshot file and say what is in it; needs no cluster
    #[command(after_help = "Example:\n  steersman cluster snapshot inspect backup.snap")]
    Inspect(FileArgs),
    /// Make the data directory of one master of a new cluster from a snapshot file; needs no cluster
    Restore(RestoreArgs),
}

/// Options of `cluster verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Also read every kept log entry and the newest snapshot from each master's disk
    #[arg(long)]
    deep: bool,
}

/// A snapshot file.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// The file; - is stdout or stdin
    file: PathBuf,
}

/// Options of `cluster snapshot restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: stop all old masters; then, with the same file and the same --master list for each new one:
  M='--master 1=10.0.0.1:7400,10.0.0.1:7401,10.0.0.1:7402 --master 2=… --master 3=…'
  steersman cluster snapshot restore backup.snap --id 1 --data-dir /var/lib/steersman $M
  steersman master start --config master-1.toml

What was acknowledged after the snapshot is gone. Fencing tokens go on in a new epoch. Restoring the same file a second time
needs an --epoch higher than the one before (each restore prints its own), or tokens of the two lives could be equal.")]
pub struct RestoreArgs {
    /// The snapshot file
    file: PathBuf,
    /// Which master the directory is for
    #[arg(long)]
    id: u64,
    /// An empty or new directory
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Every master of the new cluster, this one included: ID=API,RAFT,HTTP
    #[arg(long, required = true, value_parser = master::peer, value_name = "MASTER")]
    master: Vec<MasterAddress>,
    /// Name of the cluster [default: the snapshot's]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// What will keep its log, as `engine` in its configuration
    #[arg(long, default_value = "sled", value_parser = ["sled", "fjall"])]
    engine: String,
    /// Epoch of fencing tokens; must be the same for each master [default: one above the snapshot's]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    epoch: u64,
}

/// Runs a subcommand.
///
/// # Errors
/// What it ended with.
pub async fn cluster(ctx: &Ctx, command: ClusterCommand) -> Outcome {
    match command {
        ClusterCommand::Info => info(ctx).await,
        ClusterCommand::Health => health(ctx).await,
        ClusterCommand::Verify(args) => verify(ctx, &args).await,
        ClusterCommand::Snapshot(SnapshotCommand::Save(args)) => save(ctx, &args.file).await,
        ClusterCommand::Snapshot(SnapshotCommand::Inspect(args)) => inspect(ctx, &args.file),
        ClusterCommand::Snapshot(SnapshotCommand::Restore(args)) => restore(ctx, &args).await,
    }
}

async fn info(ctx: &Ctx) -> Outcome {
    let picture = Picture::take(&ctx.client()?).await;
    let Some(best) = picture.best() else { return picture.verdict() };
    let voters = best.masters.iter().filter(|master| master.voter).count();
    let tasks = best.tasks.unwrap_or_default();
    let workers = best.workers.unwrap_or_default();
    let fields = [
        ("cluster", best.cluster_id.clone()),
        ("state", picture.summary()),
        ("masters", format!("{voters} voters, {} learners", best.masters.len() - voters)),
        ("term", term(best).to_string()),
        (
            "log",
            format!("applied {}, committed {}, last {}", best.applied_index, best.committed_index, best.last_log_index),
        ),
        ("snapshot", format!("at index {}", best.snapshot_index)),
        ("unfinished", (tasks.pending + tasks.scheduled + tasks.running + tasks.retrying).to_string()),
        ("submitted", format!("{} ever, {} finished", tasks.submitted_total, tasks.finished_total)),
        ("slots", format!("{} of {} used", workers.used, workers.capacity)),
        ("cluster time", units::short(best.cluster_time_ms)),
        ("format level", best.format_level.to_string()),
        ("version", best.version.clone()),
    ];
    print_one(ctx, &best.cluster_id, &fields, &views::info_json(best))
}

/// One thing that was looked at.
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

async fn health(ctx: &Ctx) -> Outcome {
    let picture = Picture::take(&ctx.client()?).await;
    if picture.best().is_none() {
        return picture.verdict();
    }
    let checks = checks(&picture);
    let bad: Vec<&str> = checks.iter().filter(|check| !check.ok).map(|check| check.name).collect();
    let rows: Vec<Row> = checks.iter().map(check_row).collect();
    print_list(ctx, "check", &[col("CHECK"), col("RESULT"), col("DETAIL")], &rows)?;
    if bad.is_empty() {
        return Ok(());
    }
    let message = format!("{} of {} checks did not pass: {}", bad.len(), checks.len(), bad.join(", "));
    let failure = Failure::coded(exit::CHECK_FAILED, &codes::FAILED_PRECONDITION, message);
    Err(failure.hint("see which masters answer: steersman status"))
}

fn check_row(check: &Check) -> Row {
    let result = if check.ok { "ok" } else { "failed" };
    Row {
        id: check.name.to_owned(),
        cells: vec![check.name.to_owned(), result.to_owned(), check.detail.clone()],
        json: json!({"check": check.name, "ok": check.ok, "detail": check.detail}),
    }
}

fn checks(picture: &Picture) -> Vec<Check> {
    let (up, voters, needed) = picture.arithmetic();
    let best = picture.best().cloned().unwrap_or_default();
    let furthest = picture.infos().map(|info| info.applied_index).max().unwrap_or(0);
    let lag = picture.infos().map(|info| furthest - info.applied_index).max().unwrap_or(0);
    let mut clusters: Vec<&str> = picture.infos().map(|info| info.cluster_id.as_str()).collect();
    clusters.sort_unstable();
    clusters.dedup();
    let mut versions: Vec<&str> = picture.infos().map(|info| info.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    let workers = best.workers.unwrap_or_default();
    let brake = best.brake.clone().unwrap_or_default();
    let stalled: Vec<String> = picture.infos().filter(|info| info.disk_stalled).map(master_of).collect();
    let check = |name, ok, detail| Check { name, ok, detail };
    vec![
        check("leader", picture.leader().is_some(), picture.summary()),
        check("masters", up == voters, format!("{up} of {voters} answer, {needed} needed")),
        check("replicas", lag <= LAG_MAX, format!("the furthest behind lacks {lag} entries")),
        check("brake", !brake.engaged, views::brake_line(&brake)),
        check("disks", stalled.is_empty(), stalled_words(&stalled)),
        check("one cluster", clusters.len() == 1, clusters.join(", ")),
        check("one version", versions.len() == 1, versions.join(", ")),
        check(
            "workers",
            workers.online + workers.busy > 0,
            format!("{} online, {} busy, {} offline", workers.online, workers.busy, workers.offline),
        ),
    ]
}

fn master_of(info: &InfoResponse) -> String {
    info.self_.as_ref().map_or_else(|| "?".to_owned(), |own| own.id.to_string())
}

fn stalled_words(stalled: &[String]) -> String {
    match stalled {
        [] => "all of them write".to_owned(),
        some => format!("stalled at master {}", some.join(", ")),
    }
}

async fn verify(ctx: &Ctx, args: &VerifyArgs) -> Outcome {
    let verification = ctx.client()?.verify(args.deep).await?;
    let findings = verification.findings();
    let rows: Vec<Row> = findings.iter().map(finding_row).collect();
    print_list(ctx, "check", &[col("CHECK"), col("MASTER"), col("RESULT"), col("DETAIL")], &rows)?;
    let (answered, voters) = (verification.answered(), verification.voters().len());
    if answered < voters / 2 + 1 {
        let message = format!("{answered} of {voters} masters answer, {} are needed to compare", voters / 2 + 1);
        return Err(Failure::coded(exit::UNAVAILABLE, &codes::NO_QUORUM, message));
    }
    let bad: Vec<&Finding> = findings.iter().filter(|finding| finding.verdict != Verdict::Ok).collect();
    if bad.is_empty() {
        return Ok(());
    }
    let mut names: Vec<&str> = bad.iter().map(|finding| finding.check).collect();
    names.dedup();
    let message = format!("{} of {} checks did not pass: {}", bad.len(), findings.len(), names.join(", "));
    let failure = Failure::coded(exit::CHECK_FAILED, &codes::FAILED_PRECONDITION, message);
    Err(failure.hint("replace a master whose data is wrong under a new id: see docs/operations.md"))
}

fn finding_row(finding: &Finding) -> Row {
    let (check, result) = (finding.check.to_owned(), finding.verdict.word().to_owned());
    let master = finding.master.map(|master| master.to_string()).unwrap_or_default();
    Row {
        id: check.clone(),
        json: json!({"check": check, "master": finding.master, "result": result, "detail": finding.detail}),
        cells: vec![check, master, result, finding.detail.clone()],
    }
}

async fn save(ctx: &Ctx, file: &Path) -> Outcome {
    let mut download = ctx.client()?.save_snapshot().await?;
    let mut target = Target::open(file)?;
    let (mut bytes, mut index) = (0, 0);
    while let Some(chunk) = download.next().await? {
        index = index.max(chunk.log_index);
        bytes += chunk.data.len() as u64;
        target.write(&chunk.data)?;
    }
    target.finish()?;
    ctx.note(format!("{} from {}, log index {index}", units::bytes(bytes), download.master));
    if file == Path::new("-") {
        return Ok(());
    }
    let json =
        json!({"file": file.display().to_string(), "bytes": bytes, "log_index": index, "master": download.master});
    let fields =
        [("file", file.display().to_string()), ("size", units::bytes(bytes)), ("log index", index.to_string())];
    print_one(ctx, &file.display().to_string(), &fields, &json)
}

/// A file that appears under its name only when it is whole and on disk; or stdout.
enum Target {
    Stdout,
    File { file: File, temporary: PathBuf, name: PathBuf },
}

impl Target {
    fn open(name: &Path) -> Outcome<Self> {
        if name == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let mut temporary = name.as_os_str().to_owned();
        temporary.push(".part");
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|error| cannot("write", &temporary, &error))?;
        Ok(Self::File { file, temporary, name: name.to_owned() })
    }

    fn write(&mut self, data: &[u8]) -> Outcome {
        match self {
            Self::Stdout => Ok(std::io::stdout().write_all(data)?),
            Self::File { file, temporary, .. } => {
                file.write_all(data).map_err(|error| cannot("write", temporary, &error))
            }
        }
    }

    fn finish(self) -> Outcome {
        match self {
            Self::Stdout => Ok(std::io::stdout().flush()?),
            Self::File { file, temporary, name } => {
                let done = file.sync_all().and_then(|()| fs::rename(&temporary, &name));
                done.map_err(|error| cannot("write", &name, &error))
            }
        }
    }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::local(format!("cannot {what} {}: {error}", path.display()), "name a file that can be used")
}

fn inspect(ctx: &Ctx, file: &Path) -> Outcome {
    let found = if file == Path::new("-") {
        inspect_snapshot(std::io::stdin().lock())
    } else {
        inspect_snapshot(std::io::BufReader::new(File::open(file).map_err(|error| cannot("read", file, &error))?))
    };
    print_snapshot(ctx, file, &found.map_err(|error| of_store(&error))?)
}

/// The file's fault, not a node's: it is not the process's end.
fn of_store(error: &StoreError) -> Failure {
    let mut failure = Failure::local(error.to_string(), "see the data and the parameters");
    failure.code = error.code().to_owned();
    failure.reason = error.reason().to_owned();
    failure.hint = match error {
        StoreError::Corrupt { .. } => "the file is damaged or no snapshot: take another one".to_owned(),
        StoreError::Foreign { .. } => "restore into a new directory, under the snapshot's own cluster name".to_owned(),
        StoreError::WrongVersion { .. } => "use the release that wrote it".to_owned(),
        _ => failure.hint,
    };
    failure
}

fn print_snapshot(ctx: &Ctx, file: &Path, info: &SnapshotInfo) -> Outcome {
    let (term, index) = info.header.last.unwrap_or_default();
    let cluster = info.header.cluster.clone().unwrap_or_default();
    let tasks = serde_json::to_value(TaskCounts(info)).unwrap_or(Value::Null);
    let members: Vec<String> = info.header.nodes.iter().map(|(id, node)| format!("{id}={}", node.api)).collect();
    let unfinished = info.tasks.pending + info.tasks.scheduled + info.tasks.running + info.tasks.retrying;
    let kept = info.tasks.succeeded + info.tasks.failed + info.tasks.cancelled;
    let json = json!({
        "file": file.display().to_string(), "bytes": info.bytes, "cluster_id": cluster, "term": term, "log_index": index,
        "masters": members, "tasks": tasks, "wall_ms": info.wall_ms, "cluster_time_ms": info.time_ms,
        "digest": format!("{:032x}", info.digest),
    });
    let fields = [
        ("file", file.display().to_string()),
        ("size", units::bytes(info.bytes)),
        ("cluster", cluster),
        ("log index", format!("{index} (term {term})")),
        ("written at", units::local_time(info.wall_ms)),
        ("masters", members.join(", ")),
        ("tasks", format!("{unfinished} unfinished, {kept} finished and kept")),
        ("digest", format!("{:032x}", info.digest)),
    ];
    print_one(ctx, &index.to_string(), &fields, &json)
}

/// Tasks by state, as JSON.
struct TaskCounts<'a>(&'a SnapshotInfo);

impl serde::Serialize for TaskCounts<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counts = &self.0.tasks;
        let pairs = [
            ("pending", counts.pending),
            ("scheduled", counts.scheduled),
            ("running", counts.running),
            ("retrying", counts.retrying),
            ("succeeded", counts.succeeded),
            ("failed", counts.failed),
            ("cancelled", counts.cancelled),
        ];
        serializer.collect_map(pairs)
    }
}

async fn restore(ctx: &Ctx, args: &RestoreArgs) -> Outcome {
    let file = File::open(&args.file).map_err(|error| cannot("read", &args.file, &error))?;
    let found = inspect_snapshot(std::io::BufReader::new(file)).map_err(|error| of_store(&error))?;
    let restore = parameters(args, &found)?;
    let question = format!("Make {} the data of master {} of a new cluster?", args.data_dir.display(), args.id);
    ctx.confirm(&question)?;
    fs::create_dir_all(&args.data_dir).map_err(|error| cannot("make", &args.data_dir, &error))?;
    let engine = Engine::named(&args.engine).unwrap_or_default();
    let restored = restore_into(&args.data_dir, engine, &args.file, restore).await.map_err(|error| of_store(&error))?;
    print_snapshot(ctx, &args.data_dir, &restored)?;
    ctx.note("restore the other masters from the same file with the same --master list before you start any");
    Ok(())
}

fn parameters(args: &RestoreArgs, found: &SnapshotInfo) -> Outcome<Restore> {
    let Some(cluster) = args.cluster.clone().or_else(|| found.header.cluster.clone()) else {
        return Err(Failure::usage("the snapshot names no cluster", "give its name: --cluster NAME"));
    };
    let store = |id: u64| store_id(found.digest, args.epoch, id);
    let node = |address: &MasterAddress| MasterNode {
        api: address.api.clone(),
        raft: address.raft.clone(),
        http: address.http.clone(),
        store: format!("{:032x}", store(address.id)),
    };
    let members: BTreeMap<u64, MasterNode> = args.master.iter().map(|address| (address.id, node(address))).collect();
    if members.len() != args.master.len() || !members.contains_key(&args.id) {
        let message = format!("the --master list must name master {} and each id once", args.id);
        return Err(Failure::usage(message, "give the same complete list for each master"));
    }
    let created_ms = steersman_client::World::real().clock.wall_ms();
    Ok(Restore { node_id: args.id, members, cluster, epoch: args.epoch, store_id: store(args.id), created_ms })
}

/// The id of a restored data directory. Every member must know those of all others, on whichever host it is restored, so
/// it follows from what they have in common: the state, the epoch and the member's id. 128-bit FNV-1a.
fn store_id(digest: u128, epoch: u64, id: u64) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = digest.to_be_bytes().into_iter().chain(epoch.to_be_bytes()).chain(id.to_be_bytes());
    bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}
