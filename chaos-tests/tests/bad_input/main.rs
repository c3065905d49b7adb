//! Bad input, by table: what is given, what is answered (the words, the stable code, the exit code), and that the cluster
//! is alive afterwards and has changed nothing.
//!
//! What always holds: a table is run to its end, and all of its rows that went wrong are shown at once.
#![allow(clippy::unwrap_used)]

mod api;
mod cli;
mod config;
mod data_dir;
mod disk;
mod wire;
mod workers;

use std::fmt::Write as _;

use steersman_chaos_tests::audit::wait_state;
use steersman_chaos_tests::cluster::{Cluster, PATIENCE};
use steersman_chaos_tests::spec::{one, shell};
use steersman_client::v1::TaskState;

/// The rows of a table that went wrong.
#[derive(Debug, Default)]
struct Table {
    rows: usize,
    wrong: String,
}

impl Table {
    /// One row: the exit code and words that must be in the text.
    fn row(&mut self, name: &str, (exit, text): (Option<i32>, &str), wanted_exit: i32, words: &[&str]) {
        self.rows += 1;
        let missing: Vec<&&str> = words.iter().filter(|word| !text.contains(**word)).collect();
        if exit != Some(wanted_exit) || !missing.is_empty() {
            let _ =
                writeln!(self.wrong, "-- {name}: exit {exit:?}, not {wanted_exit}; missing {missing:?} in:\n{text}");
        }
        if text.contains("panicked at") {
            let _ = writeln!(self.wrong, "-- {name}: a panic:\n{text}");
        }
    }

    /// One row that has no exit code.
    fn words(&mut self, name: &str, text: &str, words: &[&str]) {
        self.row(name, (Some(0), text), 0, words);
    }

    /// The end: at least so many rows, and none of them wrong.
    fn finish(self, at_least: usize) {
        assert!(self.wrong.is_empty(), "{}", self.wrong);
        assert!(self.rows >= at_least, "{} rows, not {at_least}", self.rows);
    }
}

/// The cluster lives: every master serves, no node has ended, and a task runs to its end.
async fn alive(cluster: &mut Cluster) {
    for id in cluster.master_ids() {
        if cluster.master(id).process.pid().is_none() {
            continue;
        }
        assert!(cluster.master(id).process.runs(), "master {id} has ended: {}", cluster.master(id).process.text());
        let text = cluster.master(id).process.text();
        assert!(!text.contains("panicked at"), "master {id} has panicked: {text}");
        let client = cluster.client_of(id);
        let task = client.submit(one(shell("exit 0"))).await.unwrap().first_id;
        wait_state(&cluster.client(), task, TaskState::Succeeded, PATIENCE).await;
    }
}
