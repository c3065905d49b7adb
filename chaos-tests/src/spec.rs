//! Short ways to say what a task does.

use steersman_client::v1::{Command, OnPartition, TaskGroup, TaskSpec, task_spec::Work};

/// A task that runs a program.
pub fn argv(words: &[&str]) -> TaskSpec {
    let argv = words.iter().map(|word| (*word).to_owned()).collect();
    let command = Command { argv, ..Command::default() };
    TaskSpec { work: Some(Work::Command(command)), ..TaskSpec::default() }
}

/// A task that runs a line of shell.
pub fn shell(line: &str) -> TaskSpec {
    argv(&["sh", "-c", line])
}

/// A task that does nothing.
pub fn nothing() -> TaskSpec {
    argv(&["true"])
}

/// `count` tasks of a kind.
pub fn group(spec: TaskSpec, count: u32) -> Vec<TaskGroup> {
    vec![TaskGroup { spec: Some(spec), count }]
}

/// One task.
pub fn one(spec: TaskSpec) -> Vec<TaskGroup> {
    group(spec, 1)
}

/// The same task, which a worker that is cut off has to stop.
#[must_use]
pub fn stopping(spec: TaskSpec) -> TaskSpec {
    TaskSpec { on_partition: OnPartition::Stop.into(), ..spec }
}
