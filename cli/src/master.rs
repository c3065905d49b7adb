//! `steersman master …`: start a master, see and change who the masters are.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use steersman_client::v1::{MasterAddress, MasterInfo, MembershipResponse};
use steersman_client::{Client, Error, codes};

use crate::context::Ctx;
use crate::exit::{self, Failure, Outcome};
use crate::status::Picture;
use crate::table::{Column, Row, col, print_list, print_one};
use crate::{units, views};

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum MasterCommand {
    /// Start a master in this process
    Start(StartArgs),
    /// List the masters of the membership, with what the leader knows of each
    #[command(after_help = "Examples:\n  steersman master list\n  steersman master list -o wide")]
    List,
    /// Hand leadership to another master
    StepDown(StepDownArgs),
    /// Add a master as a learner: it gets all data and has no vote
    Add(AddArgs),
    /// Make a learner a voter
    #[command(after_help = "Example:\n  steersman master promote 4")]
    Promote(IdArgs),
    /// Remove a master; its id is never used again
    #[command(after_help = "Example:\n  steersman master remove 2 --yes")]
    Remove(IdArgs),
}

/// How a master starts.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman master start --config /etc/steersman/master.toml
  steersman master start --id 1 --data-dir /var/lib/steersman --api 10.0.0.1:7400 --raft 10.0.0.1:7401 \\
      --http 10.0.0.1:7402 --insecure \\
      --peer 2=10.0.0.2:7400,10.0.0.2:7401,10.0.0.2:7402 --peer 3=10.0.0.3:7400,10.0.0.3:7401,10.0.0.3:7402
  steersman master start --config master-4.toml --join     wait to be added: steersman master add

Flags win over the file. SIGTERM hands leadership over first. See every key: steersman config show --kind master")]
pub struct StartArgs {
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which master this is; never used again in this cluster
    #[arg(long)]
    pub id: Option<u64>,
    /// Directory of this master's own: log and snapshots
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where it listens for clients and workers, host:port
    #[arg(long, value_name = "ADDRESS")]
    pub api: Option<String>,
    /// Where it listens for other masters, host:port
    #[arg(long, value_name = "ADDRESS")]
    pub raft: Option<String>,
    /// Where it serves metrics and probes, host:port
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<String>,
    /// Another initial master: ID=API,RAFT,HTTP
    #[arg(long, value_parser = peer, value_name = "PEER")]
    pub peer: Vec<MasterAddress>,
    /// Wait to be added to a running cluster
    #[arg(long)]
    pub join: bool,
    /// Listen beyond loopback though nothing is encrypted or authenticated
    #[arg(long)]
    pub insecure: bool,
    /// End when stdin ends: the parent process is gone
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
    /// Take faults from the parent through stdin; on loopback only
    #[arg(long, hide = true, requires = "exit_with_parent")]
    pub faults: bool,
}

/// Options of `master step-down`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  steersman master step-down\n  steersman master step-down --to 3")]
pub struct StepDownArgs {
    /// The next leader [default: the follower that is furthest]
    #[arg(long, value_name = "ID")]
    to: Option<u64>,
}

/// Options of `master add`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  steersman master add --id 4 --api 10.0.0.4:7400 --raft 10.0.0.4:7401 --http 10.0.0.4:7402
  steersman master promote 4

Start it first, blank, with `steersman master start --join`.")]
pub struct AddArgs {
    /// Its id, never used before in this cluster
    #[arg(long)]
    id: u64,
    /// Where clients and workers reach it, host:port
    #[arg(long, value_name = "ADDRESS")]
    api: String,
    /// Where other masters reach it, host:port
    #[arg(long, value_name = "ADDRESS")]
    raft: String,
    /// Where its metrics and probes are, host:port
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    http: String,
    /// Make it a voter as soon as it has caught up
    #[arg(long)]
    promote: bool,
}

/// One master.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// Its id
    id: u64,
}

/// `ID=API,RAFT,HTTP`.
///
/// # Errors
/// What it should look like.
pub fn peer(text: &str) -> Result<MasterAddress, String> {
    let wrong = || format!("{text:?} is not ID=API,RAFT,HTTP, e.g. 2=10.0.0.2:7400,10.0.0.2:7401,10.0.0.2:7402");
    let (id, addresses) = text.split_once('=').ok_or_else(wrong)?;
    let id = id.parse().map_err(|_| wrong())?;
    match addresses.split(',').collect::<Vec<_>>().as_slice() {
        [api, raft, http] => {
            let own = |address: &&str| (*address).to_owned();
            Ok(MasterAddress { id, api: own(api), raft: own(raft), http: own(http) })
        }
        _ => Err(wrong()),
    }
}

/// Runs a subcommand (but `start`, which brings its own runtime).
///
/// # Errors
/// What it ended with.
pub async fn master(ctx: &Ctx, command: MasterCommand) -> Outcome {
    match command {
        MasterCommand::Start(_) => Ok(()),
        MasterCommand::List => list(ctx).await,
        MasterCommand::StepDown(args) => step_down(ctx, &args).await,
        MasterCommand::Add(args) => add(ctx, &args).await,
        MasterCommand::Promote(args) => changed(ctx, ctx.client()?.promote_master(args.id).await),
        MasterCommand::Remove(args) => {
            ctx.confirm(&format!("Remove master {}? Its id is never used again.", args.id))?;
            changed(ctx, ctx.client()?.remove_master(args.id).await)
        }
    }
}

const COLUMNS: [Column; 8] = [
    col("ID").right(),
    col("VOTE"),
    col("ROLE"),
    col("API"),
    col("RAFT"),
    col("HTTP"),
    col("MATCHED").right(),
    col("LAST ACK").right(),
];

async fn list(ctx: &Ctx) -> Outcome {
    let picture = Picture::take(&ctx.client()?).await;
    let Some(best) = picture.best() else { return picture.verdict() };
    if picture.leader().is_none() {
        ctx.warn(format!("{}; this is what the furthest master knows", picture.summary()));
    }
    print_masters(ctx, &best.masters)
}

fn print_masters(ctx: &Ctx, masters: &[MasterInfo]) -> Outcome {
    let rows: Vec<Row> = masters.iter().map(row).collect();
    print_list(ctx, "master", &COLUMNS, &rows)
}

fn row(master: &MasterInfo) -> Row {
    let address = master.address.clone().unwrap_or_default();
    let cells = vec![
        address.id.to_string(),
        if master.voter { "voter" } else { "learner" }.to_owned(),
        if master.leader { "leader" } else { "" }.to_owned(),
        address.api,
        address.raft,
        address.http,
        master.matched_index.map(|index| index.to_string()).unwrap_or_default(),
        master.ack_age_ms.map(|ms| format!("{} ago", units::short(ms))).unwrap_or_default(),
    ];
    Row { id: address.id.to_string(), cells, json: views::master_json(master) }
}

fn changed(ctx: &Ctx, answer: Result<MembershipResponse, Error>) -> Outcome {
    print_masters(ctx, &answer?.masters)
}

async fn step_down(ctx: &Ctx, args: &StepDownArgs) -> Outcome {
    let client = ctx.client()?;
    let answer = client.step_down(args.to.unwrap_or(0)).await?;
    let leader = answer.leader.clone().unwrap_or_default();
    let address = leader.leader.clone().unwrap_or_default();
    let json = json!({"leader": views::address_json(&address), "term": leader.term, "took_ms": answer.took_ms});
    let fields = [
        ("leader", format!("{} ({})", address.id, address.api)),
        ("term", leader.term.to_string()),
        ("took", units::short(answer.took_ms)),
    ];
    print_one(ctx, &address.id.to_string(), &fields, &json)?;
    match args.to {
        Some(to) if to != address.id => {
            let message = format!("master {} leads now, not master {to}", address.id);
            let failure = Failure::coded(exit::REFUSED, &codes::FAILED_PRECONDITION, message);
            Err(failure.hint(format!("see whether master {to} answers and has caught up: steersman status")))
        }
        _ => Ok(()),
    }
}

async fn add(ctx: &Ctx, args: &AddArgs) -> Outcome {
    let client = ctx.client()?;
    let master = MasterAddress { id: args.id, api: args.api.clone(), raft: args.raft.clone(), http: args.http.clone() };
    let added = client.add_master(master).await?;
    if !args.promote {
        return print_masters(ctx, &added.masters);
    }
    promote_when_ready(ctx, &client, args.id).await
}

async fn promote_when_ready(ctx: &Ctx, client: &Client, id: u64) -> Outcome {
    ctx.note(format!("master {id} was added as a learner; promoting it"));
    match client.promote_master(id).await {
        Ok(answer) => print_masters(ctx, &answer.masters),
        Err(error) => {
            let failure = Failure::from(error).after(format!("master {id} was added as a learner"));
            Err(failure.hint(format!("when it has caught up: steersman master promote {id}")))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn peers_have_an_id_and_three_addresses() {
        let given = peer("2=a:1,b:2,c:3").unwrap();
        assert_eq!((given.id, given.api.as_str(), given.raft.as_str(), given.http.as_str()), (2, "a:1", "b:2", "c:3"));
        for wrong in ["2", "x=a:1,b:2,c:3", "2=a:1,b:2", "2=a:1,b:2,c:3,d:4"] {
            assert!(peer(wrong).unwrap_err().contains("ID=API,RAFT,HTTP"), "{wrong}");
        }
    }
}
