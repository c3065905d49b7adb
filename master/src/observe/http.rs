//! The HTTP listener for machines: `/metrics`, `/livez`, `/readyz`, `/leaderz`.
//!
//! What always holds: a probe answers from memory at once. `/livez` says that the process answers; `/readyz` that it makes
//! progress (a leader with a recent quorum), and if not, why not; `/leaderz` is 200 on the leader only, for load balancers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::metrics::{CONTENT_TYPE, Facts, Peer, Process};
use super::progress;
use crate::node::{Node, NodeStatus, Role};

/// A disk that does not answer by then is left out of a scrape.
const DISK_PATIENCE: Duration = Duration::from_millis(200);
/// Directories below the data directory are not deeper.
const DEPTH_MAX: usize = 4;
/// Clock ticks per second in /proc: 100 on every Linux that people run.
const TICKS_PER_SECOND: f64 = 100.0;

/// The routes of one node.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/leaderz", get(leaderz))
        .with_state(node)
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let data_dir = node.config.data_dir.clone();
    // A stalled disk must not stall the scrape that would show it.
    let measured = tokio::task::spawn_blocking(move || (process(), size_of(&data_dir, 0)));
    let (process, data_bytes) = match tokio::time::timeout(DISK_PATIENCE, measured).await {
        Ok(Ok((process, bytes))) => (process, Some(bytes)),
        _ => (None, None),
    };
    let facts = Facts { process, data_bytes, ..facts(&node) };
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], node.metrics.render(&facts)).into_response()
}

async fn livez(State(node): State<Arc<Node>>) -> Response {
    if node.shutting_down() {
        return (StatusCode::SERVICE_UNAVAILABLE, "going down\n").into_response();
    }
    (StatusCode::OK, "alive\n").into_response()
}

async fn readyz(State(node): State<Arc<Node>>) -> Response {
    let (status, ready) = progress(&node);
    let why = if ready { None } else { Some(why_not_ready(&status, node.shutting_down())) };
    match why {
        None => (StatusCode::OK, format!("ready: {}\n", leader_words(&status))).into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

async fn leaderz(State(node): State<Arc<Node>>) -> Response {
    let status = node.status();
    let code = if node.reign().is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{}\n", leader_words(&status))).into_response()
}

/// The reason in words.
fn why_not_ready(status: &NodeStatus, going_down: bool) -> String {
    let voters = status.members.iter().filter(|member| member.voter).count();
    let need = voters / 2 + 1;
    let age = status.quorum_ack_age_ms;
    match status.leader {
        _ if going_down => "this master is going down".to_owned(),
        _ if status.disk_stalled => {
            let age = status.disk_write_ms;
            format!("the disk has stalled (the write under way is {age} ms old): this master does not lead")
        }
        _ if status.role == Role::Starting => "this master is not (yet) a member of a cluster".to_owned(),
        None => format!("no leader is known; {need} of {voters} masters are needed to elect one"),
        Some(_) if status.role == Role::Leader && age == u64::MAX => {
            format!("this master leads and no quorum ({need} of {voters}) has confirmed it yet")
        }
        Some(_) if status.role == Role::Leader => {
            let age = status.quorum_ack_age_ms;
            format!(
                "this master leads, its reign has not begun or no quorum ({need} of {voters}) confirmed it for {age} ms"
            )
        }
        Some(_) if age == u64::MAX => "the leader was not heard yet".to_owned(),
        Some(_) => {
            format!("the leader was last heard {age} ms ago; {need} of {voters} masters are needed to elect another")
        }
    }
}

fn leader_words(status: &NodeStatus) -> String {
    match &status.leader {
        Some(leader) => format!("master {} at {} leads in term {}", leader.id, leader.api, status.term),
        None => format!("no leader is known (term {})", status.term),
    }
}

/// What the node knows at this moment.
fn facts(node: &Node) -> Facts {
    let (status, ready) = progress(node);
    let (tasks, workers, brake) = {
        let state = node.state.read();
        (state.counts(), state.worker_counts(), state.brake(0))
    };
    let peers = status.members.iter().filter(|member| member.addr.id != node.id);
    let peers = peers.filter_map(|member| {
        let lag_entries = status.last_log.saturating_sub(member.matched_index?);
        Some(Peer { id: member.addr.id, lag_entries, ack_age_ms: member.ack_age_ms })
    });
    node.metrics.waiters(node.waiters.waiting());
    node.metrics.proposals_queued(node.proposals_queued());
    Facts {
        has_leader: status.leader.is_some() && ready,
        is_leader: node.reign().is_some(),
        ready,
        term: status.term,
        applied_index: status.applied,
        committed_index: status.committed,
        last_log_index: status.last_log,
        snapshot_index: status.snapshot,
        quorum_ack_age_ms: (status.quorum_ack_age_ms != u64::MAX).then_some(status.quorum_ack_age_ms),
        peers: peers.collect(),
        tasks,
        workers,
        held: brake.engaged_since_ms.map(|_| brake.held_total),
        uptime_ms: status.uptime_ms,
        store: node.store().map(|store| store.metrics()),
        sessions: node.reign().map_or(0, |reign| reign.sessions_open() as u64),
        process: None,
        data_bytes: None,
    }
}

/// Bytes of all files below a directory.
fn size_of(path: &Path, depth: usize) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() && depth < DEPTH_MAX => size_of(&entry.path(), depth + 1),
        Ok(found) if found.is_file() => found.len(),
        _ => 0,
    };
    entries.flatten().map(size).sum()
}

/// The process as Linux sees it; `None` elsewhere.
fn process() -> Option<Process> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
    let open_files = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
    parse_process(&read("stat")?, &read("status")?, open_files)
}

/// `/proc/self/stat` and `/proc/self/status` (proc(5)). The fields of the first are counted from the end of the program's
/// name, which may contain anything.
fn parse_process(stat: &str, status: &str, open_files: u64) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut times = rest.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    let line = |key: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(key))?;
        value.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let (cpu_seconds, resident_bytes) = (ticks as f64 / TICKS_PER_SECOND, line("VmRSS:")? * 1_024);
    Some(Process { cpu_seconds, threads: line("Threads:")?, resident_bytes, open_files })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::node::{MemberAddr, MemberView};

    fn status(role: Role, leader: bool, age: u64) -> NodeStatus {
        let addr = |id| MemberAddr { id, api: format!("10.0.0.{id}:7400"), ..MemberAddr::default() };
        let member =
            |id| MemberView { addr: addr(id), voter: true, leader: false, matched_index: None, ack_age_ms: None };
        NodeStatus {
            role,
            term: 7,
            leader: leader.then(|| addr(2)),
            members: vec![member(1), member(2), member(3)],
            applied: 0,
            committed: 0,
            last_log: 0,
            snapshot: 0,
            quorum_ack_age_ms: age,
            disk_write_ms: 0,
            disk_stalled: false,
            ready: false,
            uptime_ms: 0,
        }
    }

    #[test]
    fn a_master_that_is_not_ready_says_why() {
        let table = [
            (Role::Follower, false, 5_000, false, "no leader is known; 2 of 3 masters are needed to elect one"),
            (Role::Leader, true, 5_000, false, "no quorum (2 of 3) confirmed it for 5000 ms"),
            (Role::Leader, true, u64::MAX, false, "no quorum (2 of 3) has confirmed it yet"),
            (Role::Follower, true, 5_000, false, "the leader was last heard 5000 ms ago"),
            (Role::Starting, false, 0, false, "not (yet) a member of a cluster"),
            (Role::Follower, true, 0, true, "this master is going down"),
        ];
        for (role, leader, age, going_down, expected) in table {
            let why = why_not_ready(&status(role, leader, age), going_down);
            assert!(why.contains(expected), "{role:?}: {why}");
        }
        let stalled = NodeStatus { disk_stalled: true, disk_write_ms: 2_500, ..status(Role::Follower, true, 10) };
        assert!(why_not_ready(&stalled, false).contains("is 2500 ms old"));
        let ready = NodeStatus { ready: true, ..status(Role::Follower, true, 10) };
        assert_eq!(leader_words(&ready), "master 2 at 10.0.0.2:7400 leads in term 7");
    }

    #[test]
    fn the_process_is_read_whatever_its_name() {
        let stat = "4711 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 150 13 14 15 16 9 18";
        let status = "Name:\tx\nVmRSS:\t    4000 kB\nThreads:\t9\n";
        let process = parse_process(stat, status, 12).unwrap();
        let Process { cpu_seconds, threads, resident_bytes, open_files } = process;
        assert_eq!((cpu_seconds, threads, resident_bytes, open_files), (4.0, 9, 4_096_000, 12));
        assert!(parse_process("garbage", status, 0).is_none());
    }
}
