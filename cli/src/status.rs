//! `steersman status`: who leads, who follows, what is going on. Works without a leader.
//!
//! What always holds: every known master is asked directly and its answer shown, also when it is none; a missing leader
//! or quorum is said in plain words with the arithmetic, and in the exit code.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use steersman_client::v1::{InfoResponse, MasterRole, TaskCounts, WorkerCounts};
use steersman_client::{Client, Error, codes};

use crate::context::Ctx;
use crate::exit::{self, Failure, Outcome};
use crate::table::{Column, Row, col, pretty, render};
use crate::{units, views};

/// Options of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman status
  steersman status --watch
  steersman status -o json | jq .leader

Exit codes: 0 a leader with a quorum · 4 none")]
pub struct StatusArgs {
    /// Refresh until Ctrl-C, over failovers
    #[arg(short, long)]
    watch: bool,
    /// How often to refresh
    #[arg(long, value_parser = units::duration, default_value = "1s", value_name = "DURATION", requires = "watch")]
    interval: Duration,
}

/// Runs it.
///
/// # Errors
/// When there is no leader with a quorum.
pub async fn status(ctx: &Ctx, args: &StatusArgs) -> Outcome {
    let client = ctx.client()?;
    if !args.watch {
        let picture = Picture::take(&client).await;
        ctx.print(picture.show(ctx))?;
        return picture.verdict();
    }
    loop {
        let picture = Picture::take(&client).await;
        let text = picture.show(ctx);
        if std::io::IsTerminal::is_terminal(&std::io::stdout()) && !ctx.output.is_json() {
            // Home, the text with each line's rest erased, then everything below.
            let lines: Vec<String> = text.lines().map(|line| format!("{line}\x1b[K")).collect();
            ctx.print(format!("\x1b[H{}\n\x1b[J", lines.join("\n")))?;
        } else {
            ctx.print(text)?;
        }
        tokio::time::sleep(args.interval).await;
    }
}

/// One master's answer.
#[derive(Debug)]
pub struct Seen {
    /// Its id; 0 where nobody knows it.
    pub id: u64,
    /// Its API address.
    pub address: String,
    /// What it knows, or why it did not answer.
    pub answer: Result<InfoResponse, Error>,
    /// A voter by the membership; `None` where nobody knows.
    pub voter: Option<bool>,
}

/// What all masters say at one moment.
#[derive(Debug)]
pub struct Picture {
    /// In the order of their ids.
    pub masters: Vec<Seen>,
}

impl Picture {
    /// Asks all known masters at the same time.
    pub async fn take(client: &Client) -> Self {
        Self::from_answers(client.info_all().await)
    }

    /// One entry per master, though it may be known by several addresses.
    fn from_answers(answers: Vec<(String, Result<InfoResponse, Error>)>) -> Self {
        let members = members(&answers);
        let mut by_id = BTreeMap::new();
        let mut strangers = Vec::new();
        for (address, answer) in answers {
            let own = answer.as_ref().ok().and_then(|info| info.self_.as_ref()).map(|own| own.id);
            let listed = members.iter().find(|(_, (api, _))| *api == address).map(|(id, _)| *id);
            match own.or(listed) {
                Some(id) => {
                    let voter = members.get(&id).map(|(_, voter)| *voter);
                    let address = members.get(&id).map_or(address, |(api, _)| api.clone());
                    let seen = Seen { id, address, answer, voter };
                    let better = by_id.get(&id).is_none_or(|old: &Seen| old.answer.is_err());
                    if better {
                        by_id.insert(id, seen);
                    }
                }
                // An address that nobody lists, while masters answer elsewhere: an old or wrong one.
                None => strangers.push(Seen { id: 0, address, answer, voter: None }),
            }
        }
        let mut masters: Vec<Seen> = by_id.into_values().collect();
        masters.extend(strangers);
        Self { masters }
    }

    /// The answers of those that answered.
    pub fn infos(&self) -> impl Iterator<Item = &InfoResponse> {
        self.masters.iter().filter_map(|seen| seen.answer.as_ref().ok())
    }

    /// The leader, if it has a quorum: the one of the newest term that calls itself ready.
    pub fn leader(&self) -> Option<&InfoResponse> {
        let leads = |info: &&InfoResponse| info.role == MasterRole::Leader as i32 && info.ready;
        self.infos().filter(leads).max_by_key(|info| term(info))
    }

    /// The answer that knows most: the leader's, else that of the furthest master.
    pub fn best(&self) -> Option<&InfoResponse> {
        self.leader().or_else(|| self.infos().max_by_key(|info| (term(info), info.applied_index)))
    }

    /// Voters that answered, voters, and how many are needed.
    pub fn arithmetic(&self) -> (usize, usize, usize) {
        let known = self.masters.iter().any(|seen| seen.voter.is_some());
        let counts = |seen: &&Seen| if known { seen.voter == Some(true) } else { true };
        let voters = self.masters.iter().filter(counts).count();
        let up = self.masters.iter().filter(counts).filter(|seen| seen.answer.is_ok()).count();
        (up, voters, voters / 2 + 1)
    }

    /// One line that says how things stand.
    pub fn summary(&self) -> String {
        let (up, voters, needed) = self.arithmetic();
        let masters = if voters == 1 { "master answers" } else { "masters answer" };
        let count = format!("{up} of {voters} {masters}, {needed} needed");
        match self.leader() {
            Some(info) => {
                let id = info.self_.as_ref().map_or(0, |own| own.id);
                format!("master {id} leads in term {}; {count}", term(info))
            }
            None if up == 0 => format!("no master answers: {count}"),
            None if up < needed => format!("no quorum: {count}"),
            None => format!("no leader at the moment: {count}; an election takes well under a second"),
        }
    }

    /// Ok while there is a leader with a quorum.
    ///
    /// # Errors
    /// What is missing.
    pub fn verdict(&self) -> Outcome {
        if self.leader().is_some() {
            return Ok(());
        }
        let (up, _, needed) = self.arithmetic();
        let (code, hint) = match up {
            0 => (codes::UNREACHABLE, "check --address and whether the masters run"),
            _ if up < needed => (codes::NO_QUORUM, "start the masters that do not answer, or mend their network"),
            _ => (codes::NO_LEADER, "look again: steersman status --watch"),
        };
        Err(Failure::coded(exit::UNAVAILABLE, &code, self.summary()).hint(hint))
    }

    fn show(&self, ctx: &Ctx) -> String {
        if ctx.output.is_json() {
            let json = self.to_json();
            return if ctx.output == crate::context::Output::Json { pretty(&json) } else { json.to_string() };
        }
        let furthest = self.infos().map(|info| info.applied_index).max().unwrap_or(0);
        let rows: Vec<Row> = self.masters.iter().map(|seen| master_row(seen, furthest)).collect();
        if ctx.output == crate::context::Output::Id {
            return rows.into_iter().map(|row| row.id).collect::<Vec<_>>().join("\n");
        }
        let mut text = String::new();
        if let Some(best) = self.best() {
            let style = if self.leader().is_some() { "32;1" } else { "31;1" };
            text += &format!("cluster {}: {}\n\n", best.cluster_id, ctx.paint(&self.summary(), style));
        }
        text += &render(ctx, &MASTERS, &rows);
        if let Some(best) = self.best() {
            let source = if self.leader().is_some() { "" } else { "  (as of the furthest master)" };
            text += &format!("\n\ntasks    {}{source}", tasks_line(best.tasks.unwrap_or_default()));
            text += &format!("\nworkers  {}", workers_line(best.workers.unwrap_or_default()));
            if let Some(brake) = best.brake.as_ref().filter(|brake| brake.engaged) {
                text += &format!("\nbrake    {}", ctx.paint(&views::brake_line(brake), "31;1"));
            }
        }
        text
    }

    fn to_json(&self) -> Value {
        let (up, voters, needed) = self.arithmetic();
        let masters: Vec<Value> = self.masters.iter().map(seen_json).collect();
        let best = self.best();
        json!({
            "cluster_id": best.map(|info| info.cluster_id.clone()),
            "leader": self.leader().and_then(|info| info.self_.as_ref()).map(views::address_json),
            "term": best.map(term),
            "summary": self.summary(),
            "masters_up": up, "masters": voters, "masters_needed": needed,
            "answers": masters,
            "tasks": best.and_then(|info| info.tasks.as_ref()).map(views::task_counts_json),
            "workers": best.and_then(|info| info.workers.as_ref()).map(views::worker_counts_json),
            "brake": best.and_then(|info| info.brake.as_ref()).map(views::brake_json),
        })
    }
}

/// Id, API address and vote of each master, as the furthest answer lists them.
fn members(answers: &[(String, Result<InfoResponse, Error>)]) -> BTreeMap<u64, (String, bool)> {
    let infos = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    let furthest = infos.max_by_key(|info| (term(info), info.applied_index));
    let listed = furthest.map(|info| info.masters.as_slice()).unwrap_or_default().iter();
    let entry = |master: &steersman_client::v1::MasterInfo| {
        master.address.as_ref().map(|address| (address.id, (address.api.clone(), master.voter)))
    };
    listed.filter_map(entry).collect()
}

/// The newest term that this master knows.
pub fn term(info: &InfoResponse) -> u64 {
    info.leader.as_ref().map_or(0, |leader| leader.term)
}

const MASTERS: [Column; 12] = [
    col("MASTER").right(),
    col("ADDRESS"),
    col("ROLE"),
    col("TERM").right(),
    col("APPLIED").right(),
    col("LAG").right(),
    col("READY"),
    col("QUORUM AGE").right(),
    col("UPTIME").right(),
    col("SNAPSHOT").right().wide(),
    col("VERSION").wide(),
    col("NOTE"),
];

fn master_row(seen: &Seen, furthest: u64) -> Row {
    let id = if seen.id == 0 { "?".to_owned() } else { seen.id.to_string() };
    let cells = match &seen.answer {
        Ok(info) => vec![
            id.clone(),
            seen.address.clone(),
            views::master_role(info.role),
            term(info).to_string(),
            info.applied_index.to_string(),
            furthest.saturating_sub(info.applied_index).to_string(),
            if info.ready { "ready".to_owned() } else { "no".to_owned() },
            units::short(info.quorum_ack_age_ms),
            units::short(info.uptime_ms),
            info.snapshot_index.to_string(),
            info.version.clone(),
            note(info),
        ],
        Err(error) => {
            let why = error.asked().first().map_or_else(|| error.message().to_owned(), |asked| asked.answer.clone());
            let mut cells = vec![id.clone(), seen.address.clone(), "unreachable".to_owned()];
            cells.resize(MASTERS.len() - 1, String::new());
            cells.push(why);
            cells
        }
    };
    Row { id, cells, json: Value::Null }
}

/// What an operator has to know of a master that answers.
fn note(info: &InfoResponse) -> String {
    match info.disk_stalled {
        true => format!("its disk has stalled for {}", units::short(info.disk_write_ms)),
        false => String::new(),
    }
}

fn seen_json(seen: &Seen) -> Value {
    match &seen.answer {
        Ok(info) => {
            json!({"id": seen.id, "address": seen.address, "voter": seen.voter, "info": views::info_json(info)})
        }
        Err(error) => json!({
            "id": seen.id, "address": seen.address, "voter": seen.voter,
            "error": {"code": error.code(), "reason": error.reason(), "message": error.message()},
        }),
    }
}

fn tasks_line(counts: TaskCounts) -> String {
    format!(
        "{} pending, {} scheduled, {} running, {} retrying; {} succeeded, {} failed, {} cancelled (kept); {} submitted, {} finished in all",
        counts.pending,
        counts.scheduled,
        counts.running,
        counts.retrying,
        counts.succeeded,
        counts.failed,
        counts.cancelled,
        counts.submitted_total,
        counts.finished_total
    )
}

fn workers_line(counts: WorkerCounts) -> String {
    let states = [
        (counts.online, "online"),
        (counts.busy, "busy"),
        (counts.draining, "draining"),
        (counts.maintenance, "in maintenance"),
        (counts.offline, "offline"),
    ];
    let parts: Vec<String> = states.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    let states = if parts.is_empty() { "none".to_owned() } else { parts.join(", ") };
    format!("{states}; {} of {} slots used", counts.used, counts.capacity)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use steersman_client::v1::{LeaderInfo, MasterAddress, MasterInfo};

    use super::*;

    fn address(id: u64) -> MasterAddress {
        MasterAddress { id, api: format!("m{id}:7400"), ..MasterAddress::default() }
    }

    fn info(id: u64, role: MasterRole, ready: bool) -> InfoResponse {
        let masters = (1..=3).map(|id| MasterInfo { address: Some(address(id)), voter: true, ..MasterInfo::default() });
        InfoResponse {
            self_: Some(address(id)),
            role: role.into(),
            ready,
            leader: Some(LeaderInfo { term: 4, leader: None, masters: Vec::new() }),
            masters: masters.collect(),
            applied_index: 10,
            ..InfoResponse::default()
        }
    }

    async fn dead() -> Error {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let client = Client::builder(steersman_client::World::real()).addresses([&address]).build().unwrap();
        client.info_of(&address).await.unwrap_err()
    }

    #[tokio::test]
    async fn the_arithmetic_is_said_for_each_way_to_be_without_a_leader() {
        use MasterRole::{Candidate, Follower, Leader};
        let at = |id: u64| format!("m{id}:7400");
        let picture = |answers| Picture::from_answers(answers);

        let good = picture(vec![
            (at(1), Ok(info(1, Leader, true))),
            (at(2), Ok(info(2, Follower, true))),
            (at(3), Err(dead().await)),
        ]);
        assert_eq!(good.summary(), "master 1 leads in term 4; 2 of 3 masters answer, 2 needed");
        assert!(good.verdict().is_ok());

        let minority =
            picture(vec![(at(1), Ok(info(1, Leader, false))), (at(2), Err(dead().await)), (at(3), Err(dead().await))]);
        assert_eq!(minority.summary(), "no quorum: 1 of 3 masters answer, 2 needed");
        assert_eq!(minority.verdict().unwrap_err().reason, "NO_QUORUM");

        let electing = picture(vec![(at(1), Ok(info(1, Candidate, false))), (at(2), Ok(info(2, Follower, false)))]);
        assert!(electing.summary().starts_with("no leader at the moment: 2 of 2 "), "{}", electing.summary());

        let nobody = picture(vec![(at(1), Err(dead().await))]);
        assert_eq!(nobody.summary(), "no master answers: 0 of 1 master answers, 1 needed");
        assert_eq!(nobody.verdict().unwrap_err().exit, exit::UNAVAILABLE);
    }

    #[tokio::test]
    async fn a_master_known_by_two_addresses_is_one() {
        let twice = vec![
            ("localhost:7400".to_owned(), Ok(info(1, MasterRole::Leader, true))),
            ("m1:7400".to_owned(), Err(dead().await)),
        ];
        let picture = Picture::from_answers(twice);
        assert_eq!(picture.masters.len(), 1);
        assert!(picture.masters[0].answer.is_ok());
    }
}
