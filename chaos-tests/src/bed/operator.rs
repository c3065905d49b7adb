//! What an operator does at a bed: starts what is down, waits until it takes part, replaces what is damaged, changes who the
//! masters are.
//!
//! What always holds: every step looks at what is so and goes on from there, so that an answer that was lost changes nothing;
//! an id is never used twice; each wait has an end and says what was seen last.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::Signal;
use steersman_client::v1::{InfoResponse, MasterRole};
use steersman_client::{Client, worker_ref};

use super::Bed;
use super::books::Harm;
use super::links::Spot;
use crate::cluster::{PATIENCE, Reign};
use crate::nemesis::Class;
use crate::process::Ended;

/// A change of members, snapshot included, on a busy machine.
const CHANGE: Duration = Duration::from_secs(60);
/// One call of such a change.
const CALL: Duration = Duration::from_secs(8);
/// Between two looks.
const EVERY: Duration = Duration::from_millis(25);
/// What of a node's log is quoted.
const LAST_WORDS: usize = 3;

/// The first `Ok` of `look`, or the last error when `within` is over.
///
/// # Errors
/// What was seen last.
pub async fn try_until<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(error) if began.elapsed() > within => {
                return Err(error.context(format!("waited {within:?} for {what}")));
            }
            Err(_) => tokio::time::sleep(EVERY).await,
        }
    }
}

/// How a node ended, and its last lines.
pub fn last_words(ended: &Ended) -> String {
    let lines: Vec<&str> = ended.text.lines().collect();
    let tail = lines[lines.len().saturating_sub(LAST_WORDS)..].join(" | ");
    let how = match (ended.code, ended.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    };
    format!("ended by itself ({how}): {tail}")
}

fn member(info: &InfoResponse, id: u64) -> Option<bool> {
    let of = info.masters.iter().find(|master| master.address.as_ref().is_some_and(|address| address.id == id));
    of.map(|master| master.voter)
}

impl Bed {
    /// Who leads at the moment, as the masters themselves say.
    pub async fn leader(&self) -> Option<Reign> {
        let infos = self.cluster.infos().await;
        let leads = |info: &&InfoResponse| info.role() == MasterRole::Leader && info.ready;
        let terms = infos.iter().filter(|(_, info)| leads(info));
        let reigns = terms.filter_map(|(id, info)| Some(Reign { leader: *id, term: info.leader.as_ref()?.term }));
        reigns.max_by_key(|reign| reign.term)
    }

    fn operator(&self) -> Client {
        self.client().with_timeout(CALL)
    }

    /// Starts a master that does not run. Returns whether it had ended by itself, and how.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_if_down(&mut self, id: u64) -> Result<Option<Ended>> {
        if !self.cluster.master_ids().contains(&id) {
            return Ok(None);
        }
        let process = &mut self.cluster.master(id).process;
        let ended = process.try_ended();
        if process.pid().is_none() {
            process.start()?;
        }
        Ok(ended)
    }

    /// Waits until a master has applied what the others had applied, and knows a leader. If it ends meanwhile with a code
    /// that `class` explains, it is started again.
    ///
    /// # Errors
    /// If it does not come to that, or ends in another way.
    pub async fn wait_takes_part(&mut self, id: u64, class: Option<Class>) -> Result<()> {
        let goal = self.cluster.infos().await.values().map(|info| info.applied_index).max().unwrap_or(0);
        let began = Instant::now();
        loop {
            if let Some(ended) = self.start_if_down(id)?
                && !class.is_some_and(|class| class.explains(&ended))
            {
                bail!("master {id} {}", last_words(&ended));
            }
            let seen = self.cluster.info_of(id).await;
            if seen.as_ref().is_some_and(|info| info.ready && info.applied_index >= goal) {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                let seen = seen.map_or("no answer".to_owned(), |info| {
                    format!("{:?}, ready {}, applied {} of {goal}", info.role(), info.ready, info.applied_index)
                });
                bail!("waited {PATIENCE:?} for master {id} to take part; last seen: {seen}");
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn wait_connected(&self, worker: &str) -> Result<()> {
        let client = self.operator();
        try_until(&format!("worker {worker} to be connected"), PATIENCE, async || {
            let seen = client.worker_get(worker_ref(worker)).await.map_err(|error| anyhow!("{error}"))?.worker;
            if seen.as_ref().is_some_and(|worker| worker.connected) { Ok(()) } else { Err(anyhow!("{seen:?}")) }
        })
        .await
    }

    /// Waits for those whose fault is healed, as far as nothing else keeps them from their part.
    pub(crate) async fn those_back(&mut self, class: Class) -> Result<()> {
        let late = std::mem::take(&mut self.books.late);
        let (fit, mut still) = (self.fit(), Harm::default());
        if fit.is_empty() {
            self.books.late = late;
            return Ok(());
        }
        let mut first_error = Ok(());
        for id in late.masters.into_iter().filter(|id| self.books.voters.contains(id)).collect::<Vec<_>>() {
            // One that another fault holds comes back with that one.
            if self.harms().any(|harm| harm.masters.contains(&id)) || !self.could_be_fit(id) {
                still.masters.insert(id);
                continue;
            }
            let back = self.wait_takes_part(id, Some(class)).await;
            first_error = first_error.and(back);
        }
        for worker in late.workers {
            if self.harms().any(|harm| harm.workers.contains(&worker)) {
                still.workers.insert(worker);
                continue;
            }
            let back = self.wait_connected(&worker).await;
            first_error = first_error.and(back);
        }
        self.books.late = still;
        first_error
    }

    /// Whether its links allow it.
    fn could_be_fit(&self, id: u64) -> bool {
        let others = self.books.voters.iter().filter(|other| **other != id);
        let open = others.filter(|other| self.links().open(Spot::Master(id), Spot::Master(**other))).count();
        open + 1 > self.books.voters.len() / 2
    }

    /// Everybody runs and does their part.
    ///
    /// # Errors
    /// With the first that does not.
    pub(crate) async fn all_take_part(&mut self) -> Result<()> {
        for id in self.masters() {
            self.start_if_down(id)?;
        }
        for name in self.workers() {
            self.start_worker_if_down(&name)?;
        }
        for id in self.masters() {
            self.wait_takes_part(id, None).await?;
        }
        for name in self.workers() {
            self.wait_connected(&name).await?;
        }
        self.books.late = Harm::default();
        Ok(())
    }

    /// Starts a worker that does not run, told of the masters as they are at the moment.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_worker_if_down(&mut self, name: &str) -> Result<()> {
        self.cluster.tell_worker(name)?;
        let process = &mut self.cluster.worker(name).process;
        process.try_ended();
        if process.pid().is_none() {
            process.start()?;
        }
        Ok(())
    }

    /// Removes a master from the members, wherever it is and whatever it does.
    ///
    /// # Errors
    /// If the others do not manage to within a minute.
    pub async fn remove_member(&mut self, id: u64) -> Result<()> {
        let client = self.operator();
        try_until(&format!("master {id} to be no member"), CHANGE, async || {
            let info = client.info().await?;
            if member(&info, id).is_none() {
                return Ok(());
            }
            let leader = info.leader.as_ref().and_then(|info| info.leader.as_ref());
            if leader.is_some_and(|leader| leader.id == id) {
                // A leader cannot be removed.
                client.step_down(0).await?;
            }
            client.remove_master(id).await?;
            Ok(())
        })
        .await?;
        self.books.voters.remove(&id);
        Ok(())
    }

    /// Ends a master that is no member any more, and takes its ground away.
    pub async fn dismiss(&mut self, id: u64) {
        let process = &mut self.cluster.master(id).process;
        if process.runs() {
            process.signal(Signal::SIGTERM);
            let began = Instant::now();
            while process.try_ended().is_none() && began.elapsed() < CALL {
                tokio::time::sleep(EVERY).await;
            }
        }
        self.cluster.take_master_away(id);
        self.ground.retire(Spot::Master(id));
        for name in self.workers() {
            // For its next start only; what it has now is still right while it runs.
            let _ = self.cluster.tell_worker(&name);
        }
    }

    /// Adds a blank master under an id that was never used, lets it catch up, makes it a voter, and returns its id.
    ///
    /// # Errors
    /// If that takes longer than a minute at any step.
    pub async fn add_member(&mut self) -> Result<u64> {
        let id = self.next_master;
        self.next_master += 1;
        self.cluster.put_blank_master(id)?;
        self.cluster.master(id).process.start()?;
        let (client, address) = (self.operator(), self.cluster.master(id).address());
        try_until(&format!("master {id} to be a learner"), CHANGE, async || {
            if member(&client.info().await?, id).is_none() {
                client.add_master(address.clone()).await?;
            }
            Ok(())
        })
        .await?;
        self.wait_caught_up(&client, id).await?;
        try_until(&format!("master {id} to be a voter"), CHANGE, async || {
            match member(&client.info().await?, id) {
                Some(true) => return Ok(()),
                Some(false) => client.promote_master(id).await?,
                None => bail!("it is no member"),
            };
            Ok(())
        })
        .await?;
        self.books.voters.insert(id);
        for name in self.workers() {
            self.cluster.tell_worker(&name)?;
        }
        Ok(id)
    }

    async fn wait_caught_up(&mut self, client: &Client, id: u64) -> Result<()> {
        let goal = client.info().await.map_or(0, |info| info.applied_index);
        let began = Instant::now();
        loop {
            if let Some(ended) = self.cluster.master(id).process.try_ended() {
                bail!("the new master {id} {}", last_words(&ended));
            }
            let own = self.cluster.info_of(id).await;
            if own.as_ref().is_some_and(|info| info.applied_index >= goal) {
                return Ok(());
            }
            if began.elapsed() > CHANGE {
                bail!("master {id} does not catch up: {:?} of {goal}", own.map(|info| info.applied_index));
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Replaces a master whose data is not to be trusted: removes it, adds another under a new id, as `docs/operations.md` says.
    ///
    /// # Errors
    /// If the cluster does not take the change.
    pub async fn replace(&mut self, id: u64) -> Result<u64> {
        if self.cluster.master_ids().contains(&id) {
            // A master that is to go must not act any more.
            let process = &mut self.cluster.master(id).process;
            if process.runs() {
                process.kill();
            }
            process.try_ended();
        }
        self.remove_member(id).await.with_context(|| format!("cannot remove master {id}"))?;
        self.dismiss(id).await;
        self.add_member().await.with_context(|| format!("cannot replace master {id}"))
    }

    /// Reads from the cluster who votes, after a change that did not go to its end.
    pub(crate) async fn look_up_voters(&mut self) {
        let Ok(info) = self.operator().info().await else { return };
        let voters = info.masters.iter().filter(|master| master.voter);
        let ids: BTreeSet<u64> = voters.filter_map(|master| Some(master.address.as_ref()?.id)).collect();
        if !ids.is_empty() {
            self.books.voters = ids;
        }
    }
}
