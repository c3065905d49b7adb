//! How a fault comes about: through the door of a `steersman dev`, by the operator's own commands, or, where there is neither, as
//! the planned change that the API can make.
//!
//! What always holds: whatever was struck can be healed with one call, and healing twice does no harm. What is done is said in
//! words, also where it is less than the drill's name promises. Commands of the operator run in a shell; what is put into them
//! (names, addresses) consists of harmless characters, or the drill refuses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use steersman_client::v1::WorkerMode;
use steersman_client::{Client, worker_ref};
use tokio::process::Command;

use super::kind::Kind;
use crate::dev::control::{Ask, Remote};
use crate::dev::faults::FaultSet;
use crate::dev::state::DevState;
use crate::exit::{Failure, Outcome};

/// A command of the operator that takes longer hangs.
const HOOK_MAX: Duration = Duration::from_secs(30);
/// What a clock jumps, in ms: an hour.
const JUMP_MS: i64 = 3_600_000;
/// A worker that is drained gives back after this what still runs, in ms.
const DRAIN_MS: u64 = 2_000;

/// A master or a worker, and where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// `master-1`, or a worker's name.
    pub name: String,
    /// A master's id, or a worker's.
    pub id: u64,
    /// Of a master.
    pub api: String,
    /// Of a master.
    pub raft: String,
    /// Whether it is a master.
    pub master: bool,
    /// A worker's advertised host.
    pub host: String,
}

impl Node {
    fn host(&self) -> &str {
        let of_api = self.api.rsplit_once(':').map_or(self.api.as_str(), |(host, _)| host);
        if self.master { of_api } else { &self.host }
    }
}

/// Everybody.
#[derive(Debug, Clone, Default)]
pub struct Map {
    /// Masters.
    pub masters: Vec<Node>,
    /// Workers that take work.
    pub workers: Vec<Node>,
}

/// The operator's commands for one kind of drill.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Breaks.
    pub inject: String,
    /// Mends. May be empty where the node comes back by itself.
    #[serde(default)]
    pub restore: String,
}

/// A file of hooks: a table per kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks(BTreeMap<String, Hook>);

impl Hooks {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// When it cannot be read, or names a drill that there is not.
    pub fn load(path: &Path) -> Outcome<Self> {
        let wrong = |what: String| {
            Failure::usage(format!("{}: {what}", path.display()), "a table per drill: [leader-kill] inject = \"…\"")
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let hooks: BTreeMap<String, Hook> = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if let Some(odd) = hooks.keys().find(|name| Kind::ALL.iter().all(|kind| kind.name() != *name)) {
            return Err(wrong(format!("there is no drill {odd:?}")));
        }
        Ok(Self(hooks))
    }

    /// From the command line, for any kind.
    pub fn of(kinds: &[Kind], inject: &str, restore: Option<&str>) -> Self {
        let hook = Hook { inject: inject.to_owned(), restore: restore.unwrap_or_default().to_owned() };
        Self(kinds.iter().map(|kind| (kind.name().to_owned(), hook.clone())).collect())
    }

    fn get(&self, kind: Kind) -> Option<&Hook> {
        self.0.get(kind.name())
    }
}

/// What was done.
pub struct Struck {
    /// In words.
    pub how: String,
    /// When, in Unix µs of this machine, where that is known.
    pub wall_us: Option<u64>,
}

/// How this cluster can be broken and mended.
pub enum Means {
    /// Through the door of its `dev`.
    Dev(Box<Remote>),
    /// A cluster of the operator's.
    Real {
        /// What the operator gave.
        hooks: Hooks,
        /// What is to be mended: commands, and workers that are drained.
        undo: Vec<Undo>,
    },
}

/// What mends.
pub enum Undo {
    /// A command of the operator.
    Run(String),
    /// A worker's mode.
    Activate(String),
}

impl Means {
    /// Through a `dev`'s door.
    ///
    /// # Errors
    /// When it does not let us in.
    pub async fn dev(dev: &DevState) -> Outcome<Self> {
        Ok(Self::Dev(Box::new(Remote::connect(&dev.control).await?)))
    }

    /// Of a cluster that is not ours.
    pub fn real(hooks: Hooks) -> Self {
        Self::Real { hooks, undo: Vec::new() }
    }

    /// Whether it is a `dev` cluster.
    pub fn is_dev(&self) -> bool {
        matches!(self, Self::Dev(_))
    }

    /// What the drill will do, in words, or why it can't be done here.
    ///
    /// # Errors
    /// Where the API has nothing that comes near.
    pub fn plan(&self, kind: Kind, victim: &Node) -> Outcome<String> {
        let name = &victim.name;
        let hook = match self {
            Self::Dev(_) => return Ok(on_dev(kind, name)),
            Self::Real { hooks, .. } => hooks.get(kind),
        };
        match (hook, kind) {
            (Some(hook), _) => Ok(format!("on {name}: {}", hook.inject)),
            (None, Kind::LeaderKill | Kind::LeaderPause) => Ok(format!(
                "a planned change of leader away from {name}: processes on other hosts are killed only by --inject or --hooks"
            )),
            (None, Kind::WorkerKill) => Ok(format!(
                "{name} is drained and opened again: processes on other hosts are killed only by --inject or --hooks"
            )),
            (None, Kind::RollingRestart) => Ok(
                "the office goes round by planned changes: processes on other hosts are restarted only by --inject or --hooks"
                    .to_owned(),
            ),
            (None, Kind::Partition | Kind::DiskFull | Kind::ClockJump) => Err(Failure::usage(
                format!("{kind} on a cluster that is not a dev cluster needs commands that break and mend a node"),
                "give --inject 'ssh {host} …' and --restore 'ssh {host} …', or --hooks FILE",
            )),
        }
    }

    /// Breaks something, and says what was done.
    ///
    /// # Errors
    /// When it could not be done; part of it may have been.
    pub async fn strike(&mut self, kind: Kind, victim: &Node, map: &Map, client: &Client) -> Outcome<Struck> {
        let how = match self {
            Self::Dev(remote) => {
                let mut wall_us = 0;
                for ask in asks(kind, victim, map) {
                    wall_us = remote.ask(&ask).await?.wall_us;
                }
                return Ok(Struck { how: on_dev(kind, &victim.name), wall_us: Some(wall_us) });
            }
            Self::Real { hooks, undo } => match hooks.get(kind) {
                Some(hook) => {
                    let (inject, restore) = (filled(&hook.inject, victim, map)?, filled(&hook.restore, victim, map)?);
                    undo.push(Undo::Run(restore));
                    run(&inject).await?;
                    format!("ran: {inject}")
                }
                None if kind == Kind::WorkerKill => {
                    undo.push(Undo::Activate(victim.name.clone()));
                    client.worker_set_mode(worker_ref(&victim.name), WorkerMode::Drain, DRAIN_MS).await?;
                    format!("{} was drained", victim.name)
                }
                None => {
                    let done = client.step_down(0).await?;
                    let to = done.leader.and_then(|told| told.leader).map_or(0, |leader| leader.id);
                    format!("planned change of leader: {} handed over to master-{to}", victim.name)
                }
            },
        };
        Ok(Struck { how, wall_us: None })
    }

    /// The second half of a drill that has one: the clock goes back.
    ///
    /// # Errors
    /// As [`Means::strike`].
    pub async fn strike_again(&mut self, kind: Kind, victim: &Node) -> Outcome<Option<String>> {
        let Self::Dev(remote) = self else { return Ok(None) };
        if kind != Kind::ClockJump {
            return Ok(None);
        }
        let faults = FaultSet { clock_ms: -JUMP_MS, ..FaultSet::default() };
        remote.ask(&Ask::Faults { node: victim.name.clone(), faults }).await?;
        Ok(Some("the wall clock jumped two hours back".to_owned()))
    }

    /// Restarts one node in good order, and says how. On a real cluster without hooks only the office moves.
    ///
    /// # Errors
    /// When it could not be done.
    pub async fn restart(&mut self, node: &Node, map: &Map, client: &Client) -> Outcome<String> {
        match self {
            Self::Dev(remote) => {
                remote.ask(&Ask::Terminate { node: node.name.clone() }).await?;
                remote.ask(&Ask::Start { node: node.name.clone() }).await?;
                Ok(format!("{} was ended with SIGTERM and started again", node.name))
            }
            Self::Real { .. } => Ok(self.strike(Kind::RollingRestart, node, map, client).await?.how),
        }
    }

    /// Mends everything.
    ///
    /// # Errors
    /// What could not be mended: it has to be by hand.
    pub async fn heal(&mut self, client: &Client) -> Outcome {
        match self {
            Self::Dev(remote) => remote.ask(&Ask::Heal).await.map(drop),
            Self::Real { undo, .. } => {
                let mut outcome = Ok(());
                while let Some(next) = undo.pop() {
                    let done = match next {
                        Undo::Run(command) => run(&command).await,
                        Undo::Activate(worker) => {
                            let set = client.worker_set_mode(worker_ref(&worker), WorkerMode::Active, 0).await;
                            set.map(drop).map_err(Failure::from)
                        }
                    };
                    outcome = outcome.and(done);
                }
                outcome
            }
        }
    }
}

fn on_dev(kind: Kind, name: &str) -> String {
    match kind {
        Kind::LeaderKill => format!("SIGKILL to {name}"),
        Kind::LeaderPause => format!("SIGSTOP to {name}"),
        Kind::Partition => format!(
            "every link between {name} and the other masters and all workers was cut in both directions, inside the \
             processes: bytes wait, connects hang"
        ),
        Kind::WorkerKill => {
            format!("SIGKILL to the worker process of {name}; what it ran may run on until its keeper is told")
        }
        Kind::RollingRestart => "every node was ended with SIGTERM and started again, one after the other".to_owned(),
        Kind::DiskFull => {
            format!("every write of {name} to its log and its snapshots fails with ENOSPC, inside the process")
        }
        Kind::ClockJump => format!("the wall clock that {name} reads jumped one hour ahead, inside the process"),
    }
}

/// What `dev` is asked for.
fn asks(kind: Kind, victim: &Node, map: &Map) -> Vec<Ask> {
    let node = victim.name.clone();
    match kind {
        Kind::LeaderKill | Kind::WorkerKill => vec![Ask::Kill { node }],
        Kind::LeaderPause => vec![Ask::Pause { node }],
        Kind::Partition => cuts(victim, map),
        Kind::DiskFull => vec![Ask::Faults { node, faults: FaultSet { disk_full: true, ..FaultSet::default() } }],
        Kind::ClockJump => vec![Ask::Faults { node, faults: FaultSet { clock_ms: JUMP_MS, ..FaultSet::default() } }],
        Kind::RollingRestart => Vec::new(),
    }
}

/// Each end stops dialling the other: a connection has one end that dialled it, so both directions are cut.
fn cuts(victim: &Node, map: &Map) -> Vec<Ask> {
    let cut = |node: &Node, from: Vec<&Node>| {
        let addresses = from.into_iter().flat_map(|other| [other.api.clone(), other.raft.clone()]).collect();
        Ask::Faults { node: node.name.clone(), faults: FaultSet { cut: addresses, ..FaultSet::default() } }
    };
    let others: Vec<&Node> = map.masters.iter().filter(|master| master.name != victim.name).collect();
    let far = others.iter().copied().chain(&map.workers).map(|node| cut(node, vec![victim]));
    let mut asks: Vec<Ask> = far.collect();
    asks.push(cut(victim, others));
    asks
}

/// A command with names and addresses in it. Only harmless characters get into a shell.
fn filled(template: &str, node: &Node, map: &Map) -> Outcome<String> {
    let others = map.masters.iter().filter(|other| other.name != node.name);
    let others: Vec<String> = others.map(|other| other.raft.clone()).collect();
    let values = [
        ("{node}", node.name.clone()),
        ("{id}", node.id.to_string()),
        ("{host}", node.host().to_owned()),
        ("{api}", node.api.clone()),
        ("{raft}", node.raft.clone()),
        ("{others}", others.join(",")),
    ];
    let mut text = template.to_owned();
    for (name, value) in values {
        let harmless = |c: char| c.is_ascii_alphanumeric() || "._:,-[]".contains(c);
        if text.contains(name) && !value.chars().all(harmless) {
            let message = format!("{name} of {} is {value:?}, which does not belong into a shell", node.name);
            return Err(Failure::usage(message, "write a command without it"));
        }
        text = text.replace(name, &value);
    }
    Ok(text)
}

async fn run(command: &str) -> Outcome {
    if command.trim().is_empty() {
        return Ok(());
    }
    let failed = |what: String| Failure::local(format!("`{command}` {what}"), "run it by hand to see why");
    let child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for the drill: what mends has to run to its end.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    let ended = tokio::time::timeout(HOOK_MAX, child.wait_with_output()).await;
    let output = ended.map_err(|_| failed(format!("has not ended within {} s", HOOK_MAX.as_secs())))?;
    let output = output.map_err(|error| failed(format!("was lost: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("ended with {}: {}", output.status, said.lines().next().unwrap_or("it said nothing"))))
}

/// The `dev` whose cluster these masters are, if it runs here.
pub fn dev_of(addresses: &[String]) -> Option<DevState> {
    let dev = DevState::of_running()?;
    let ours = !addresses.is_empty() && addresses.iter().all(|address| dev.addresses.contains(address));
    (ours && dev.control != PathBuf::new()).then_some(dev)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn map() -> Map {
        let master = |id: u64| Node {
            name: format!("master-{id}"),
            id,
            api: format!("10.0.0.{id}:7400"),
            raft: format!("10.0.0.{id}:7401"),
            master: true,
            host: String::new(),
        };
        let worker = Node { name: "w".to_owned(), id: 9, host: "box; rm -rf /".to_owned(), ..Node::default() };
        Map { masters: (1..=3).map(master).collect(), workers: vec![worker] }
    }

    #[test]
    fn a_partition_cuts_both_ends_of_every_link_and_no_other() {
        let map = map();
        let cuts: BTreeMap<String, Vec<String>> = asks(Kind::Partition, &map.masters[0], &map)
            .into_iter()
            .filter_map(|ask| match ask {
                Ask::Faults { node, faults } => Some((node, faults.cut.into_iter().collect())),
                _ => None,
            })
            .collect();
        assert_eq!(cuts["master-1"], ["10.0.0.2:7400", "10.0.0.2:7401", "10.0.0.3:7400", "10.0.0.3:7401"]);
        for far in ["master-2", "master-3", "w"] {
            assert_eq!(cuts[far], ["10.0.0.1:7400", "10.0.0.1:7401"], "{far}");
        }
    }

    #[test]
    fn only_harmless_values_get_into_a_shell() {
        let map = map();
        let text = filled("ssh {host} kill {node} {id} {others}", &map.masters[0], &map).unwrap();
        assert_eq!(text, "ssh 10.0.0.1 kill master-1 1 10.0.0.2:7401,10.0.0.3:7401");
        assert!(filled("ssh {host} reboot", &map.workers[0], &map).is_err());
        assert_eq!(filled("reboot {id}", &map.workers[0], &map).unwrap(), "reboot 9");
    }

    #[test]
    fn a_file_of_hooks_names_drills_that_exist() {
        let dir = std::env::temp_dir().join(format!("steersman-hooks-{}.toml", std::process::id()));
        std::fs::write(&dir, "[leader-kill]\ninject = \"kill {node}\"\n").unwrap();
        let hooks = Hooks::load(&dir).unwrap();
        assert_eq!(hooks.get(Kind::LeaderKill).unwrap().inject, "kill {node}");
        std::fs::write(&dir, "[leader-sneeze]\ninject = \"x\"\n").unwrap();
        assert!(Hooks::load(&dir).err().unwrap().message.contains("leader-sneeze"));
        std::fs::remove_file(dir).unwrap();
    }

    #[tokio::test]
    async fn a_command_that_fails_says_so() {
        let failed = run("echo no such host >&2; exit 3").await.err().unwrap();
        assert!(failed.message.contains("no such host") && failed.message.contains('3'), "{failed:?}");
        assert!(run("true").await.is_ok() && run("  ").await.is_ok());
    }
}
