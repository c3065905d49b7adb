//! What is seen of the masters from outside while the storm goes on: who leads, what their state adds up to, what their logs say.
//!
//! What always holds: a master is only believed about itself; what it complains of (a broken invariant, a panic) is kept and
//! makes the run bad. It changes nothing but for the markers of audits.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steersman_client::Client;
use steersman_client::v1::{InfoResponse, MasterRole, VerifyRequest};
use steersman_evidence::record::{Digest, Installed, Leads, Record};
use tokio::task::JoinSet;

use super::recorder::Recorder;
use super::targets::Targets;

/// Between two looks at who leads: a reign that lasts is seen.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A master that does not answer this fast is not worth waiting for.
const LOOK_TIMEOUT: Duration = Duration::from_millis(500);
/// Between two audits: each puts a marker into the log and reads the whole state of every master.
const AUDIT_EVERY: Duration = Duration::from_secs(15);
/// How long a master may take for its digest.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(12);
/// Between two looks at the logs of the nodes.
const LOGS_EVERY: Duration = Duration::from_secs(1);
/// Of a log, at most so much is read at a time, in bytes.
const LOG_PIECE_MAX: u64 = 1 << 20;
/// Complaints that are kept.
const COMPLAINTS_MAX: usize = 200;

/// What the product was seen to do wrong by itself, and how often it was looked at.
#[derive(Debug, Clone, Default)]
pub struct Complaints(Arc<Mutex<(Vec<String>, u64)>>);

impl Complaints {
    /// One more.
    pub fn add(&self, text: String) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.0.len() < COMPLAINTS_MAX && !inner.0.contains(&text) {
            inner.0.push(text);
        }
    }

    /// What began so turned out to be nothing.
    fn withdraw(&self, wrong: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.retain(|text| !wrong(text));
    }

    fn looked(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 += 1;
    }

    /// All of them, and how often somebody looked.
    pub fn all(&self) -> (Vec<String>, u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How the cluster stands, for the progress line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Who leads, with the term.
    pub leader: Option<(u64, u64)>,
    /// Tasks that are not finished.
    pub unfinished: u64,
    /// Log index that the leader has applied.
    pub applied: u64,
}

/// Looks until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    standing: Arc<Mutex<Standing>>,
    _tasks: JoinSet<()>,
}

impl Watcher {
    /// Begins to look. `folder` holds a folder with a `node.log` for each node.
    pub fn start(recorder: &Arc<Recorder>, targets: &Targets, folder: &Path, complaints: &Complaints) -> Self {
        let standing: Arc<Mutex<Standing>> = Arc::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(look(recorder.clone(), targets.clone(), standing.clone()));
        tasks.spawn(audit(recorder.clone(), targets.clone(), complaints.clone()));
        tasks.spawn(read_logs(recorder.clone(), folder.to_owned(), complaints.clone()));
        Self { standing, _tasks: tasks }
    }

    /// How the cluster stands.
    pub fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn look(recorder: Arc<Recorder>, targets: Targets, standing: Arc<Mutex<Standing>>) {
    let mut seen = BTreeMap::new();
    loop {
        let leader = infos(&targets).await.into_iter().filter_map(|info| reign_of(&info)).max_by_key(|seen| seen.1);
        if let Some((master, term, info)) = &leader {
            if seen.insert(*term, *master) != Some(*master) {
                let (master, term) = (*master, *term);
                recorder.record(|at_us| Record::Leads(Leads { at_us, master, term }));
            }
            let now =
                Standing { leader: Some((*master, *term)), unfinished: unfinished(info), applied: info.applied_index };
            *standing.lock().unwrap_or_else(PoisonError::into_inner) = now;
        } else {
            standing.lock().unwrap_or_else(PoisonError::into_inner).leader = None;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn infos(targets: &Targets) -> Vec<InfoResponse> {
    let asks = targets.each().into_iter().map(|(_, client)| async move {
        let client = client.with_timeout(LOOK_TIMEOUT);
        client.info().await.ok()
    });
    futures::future::join_all(asks).await.into_iter().flatten().collect()
}

/// The master, the term, and what it says, if it says that it leads.
fn reign_of(info: &InfoResponse) -> Option<(u64, u64, InfoResponse)> {
    let (own, leader) = (info.self_.as_ref()?.id, info.leader.as_ref()?);
    let leads = info.role() == MasterRole::Leader && leader.leader.as_ref().is_some_and(|leader| leader.id == own);
    leads.then(|| (own, leader.term, info.clone()))
}

/// Tasks that a master has not seen finished.
pub fn unfinished(info: &InfoResponse) -> u64 {
    info.tasks.as_ref().map_or(0, |tasks| tasks.pending + tasks.scheduled + tasks.running + tasks.retrying)
}

async fn audit(recorder: Arc<Recorder>, targets: Targets, complaints: Complaints) {
    loop {
        tokio::time::sleep(AUDIT_EVERY).await;
        audit_once(&recorder, &targets, &complaints, false).await;
    }
}

/// Has every master that answers look at itself at one log index. Returns how many gave a digest.
pub async fn audit_once(recorder: &Recorder, targets: &Targets, complaints: &Complaints, deep: bool) -> usize {
    let Ok(index) = targets.all().audit().await else { return 0 };
    let asks = targets.each().into_iter().map(|(id, client)| async move {
        let request = VerifyRequest { at_index: index, deep };
        verify(recorder, complaints, (id, &client), request).await
    });
    futures::future::join_all(asks).await.into_iter().filter(|told| *told).count()
}

async fn verify(
    recorder: &Recorder,
    complaints: &Complaints,
    (master, client): (u64, &Client),
    request: VerifyRequest,
) -> bool {
    let Some(address) = client.bound_to() else { return false };
    let Ok(Ok(answer)) = tokio::time::timeout(AUDIT_TIMEOUT, client.verify_of(address, request)).await else {
        return false;
    };
    for check in answer.checks.iter().filter(|check| !check.ok) {
        recorder.note(&format!("m{master}"), format!("{} is broken: {}", check.name, check.detail));
        complaints.add(format!("master {master} says that its {} is broken: {}", check.name, check.detail));
    }
    complaints.looked();
    let (index, digest) = (answer.at_index, answer.digest);
    let told = !digest.is_empty();
    if told {
        recorder.record(|at_us| Record::Digest(Digest { at_us, master, index, digest }));
    }
    told
}

/// Follows the logs of all nodes, for what only they tell.
async fn read_logs(recorder: Arc<Recorder>, folder: PathBuf, complaints: Complaints) {
    let mut read = BTreeMap::new();
    loop {
        for (node, path) in logs(&folder) {
            let from = read.entry(node.clone()).or_insert(0);
            let Ok((text, next)) = piece(&path, *from) else { continue };
            *from = next;
            text.lines().for_each(|line| tell(&recorder, &complaints, &node, line));
        }
        tokio::time::sleep(LOGS_EVERY).await;
    }
}

/// Names of the nodes with their logs.
fn logs(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let named = entries.flatten().filter_map(|entry| {
        let log = entry.path().join("node.log");
        log.is_file().then(|| (entry.file_name().to_string_lossy().into_owned(), log))
    });
    named.collect()
}

/// What a log has from a place on, up to its last whole line, and where that ends.
fn piece(path: &Path, from: u64) -> std::io::Result<(String, u64)> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LOG_PIECE_MAX).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    bytes.truncate(whole);
    Ok((String::from_utf8_lossy(&bytes).into_owned(), from + whole as u64))
}

fn tell(recorder: &Recorder, complaints: &Complaints, node: &str, line: &str) {
    if line.contains("took over a snapshot of another master") {
        let number = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
        let index = line.rsplit_once("index").map_or(0, |(_, rest)| number(rest));
        let master = number(node);
        recorder.record(|at_us| Record::Installed(Installed { at_us, master, index }));
    }
    if line.contains("panicked at") {
        recorder.note(node, line);
        complaints.add(format!("{node} panicked: {line}"));
    }
    // A panic inside sled, over damaged data, that the store caught: the node says so, and ends with its named exit code.
    if line.contains("sled panicked: ") {
        let caught = format!("{node} panicked: ");
        complaints.withdraw(|text| text.starts_with(&caught) && text.contains("/sled-0."));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use steersman_evidence::record::Run;

    use super::*;

    #[test]
    fn logs_are_read_line_by_line_and_tell_of_snapshots_and_panics() {
        let folder = tempfile::tempdir().unwrap();
        let history = folder.path().join("history.jsonl");
        let (recorder, complaints) = (Recorder::create(&history, Run::default()).unwrap(), Complaints::default());
        let log = folder.path().join("node.log");
        std::fs::write(&log, "a\nINFO took over a snapshot of another master index=412\nthread 'x' panicked at y")
            .unwrap();
        let (text, next) = piece(&log, 0).unwrap();
        assert_eq!((text.lines().count(), next), (2, text.len() as u64));
        text.lines().for_each(|line| tell(&recorder, &complaints, "m3", line));
        assert_eq!(complaints.all().0.len(), 0);
        tell(&recorder, &complaints, "m3", "thread 'x' panicked at y");
        assert_eq!(complaints.all().0.len(), 1);
        tell(&recorder, &complaints, "m3", "thread 'z' panicked at /sled-0.34.7/src/serialization.rs:662:18:");
        assert_eq!(complaints.all().0.len(), 2);
        tell(
            &recorder,
            &complaints,
            "m3",
            "error: damaged data in log: sled panicked: tried to serialize Uninitialized",
        );
        assert_eq!(complaints.all().0.len(), 1, "the store caught that one, and no other");
        let text = std::fs::read_to_string(history).unwrap();
        assert!(text.contains(r#""master":3,"index":412"#), "{text}");
    }
}
