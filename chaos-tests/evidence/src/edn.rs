//! Export for Jepsen's own checkers: a vector of operation maps in EDN, with `:invoke`, `:ok`, `:fail` and `:info`.
//!
//! What always holds: operations stand in order of time with a rising `:index`; `:time` is in nanoseconds; a process whose
//! operation ended in `:info` never asks again, as Jepsen demands: its next operation belongs to a new process, numbered
//! `old + n * step` with a step above every process of the run. What is no operation (events, faults) is left out.

use std::collections::HashMap;
use std::io::{self, Write};

use crate::history::History;
use crate::record::{Answer, Call, Complete, Outcome};

/// A half of an operation.
struct Half<'a> {
    at_us: u64,
    /// Completions before invocations of the same time, for one process does one thing after the other.
    invokes: bool,
    process: u64,
    call: &'a Call,
    complete: Option<&'a Complete>,
}

/// Writes the history.
///
/// # Errors
/// What the writer said.
pub fn write(history: &History, writer: &mut impl Write) -> io::Result<()> {
    writeln!(writer, "[")?;
    for (index, half) in halves(history).iter().enumerate() {
        let kind = match half.complete.map(|it| &it.outcome) {
            _ if half.invokes => "invoke",
            Some(Outcome::Ok { .. }) => "ok",
            Some(Outcome::Fail { .. }) => "fail",
            Some(Outcome::Unknown { .. }) | None => "info",
        };
        let (function, mut value) = (function(half.call), asked(half.call));
        let mut error = String::new();
        match half.complete.map(|it| &it.outcome).filter(|_| !half.invokes) {
            Some(Outcome::Ok { answer }) => value = answered(half.call, answer),
            Some(Outcome::Fail { error: text } | Outcome::Unknown { error: text }) => {
                error = format!(", :error {}", quoted(text));
            }
            None => {}
        }
        let (process, time) = (half.process, u128::from(half.at_us) * 1_000);
        writeln!(
            writer,
            "{{:type :{kind}, :f :{function}, :value {value}, :process {process}, :time {time}, :index {index}{error}}}"
        )?;
    }
    writeln!(writer, "]")
}

fn halves(history: &History) -> Vec<Half<'_>> {
    let step = history.ops.iter().map(|op| op.invoke.process).max().unwrap_or(0) + 1;
    let (mut lives, mut halves) = (HashMap::new(), Vec::new());
    for op in &history.ops {
        let life: &mut u64 = lives.entry(op.invoke.process).or_default();
        let process = op.invoke.process + *life * step;
        let (call, complete) = (&op.invoke.call, op.complete.as_ref());
        let at_us = op.invoke.at_us;
        halves.push(Half { at_us, invokes: true, process, call, complete });
        let end_us = complete.map_or(history.end_us, |it| it.at_us).max(at_us);
        halves.push(Half { at_us: end_us, invokes: false, process, call, complete });
        *life += u64::from(op.unknown());
    }
    // Stable: an operation that takes no time is still invoked before it completes.
    halves.sort_by_key(|half| half.at_us);
    halves
}

fn function(call: &Call) -> &'static str {
    match call {
        Call::Submit { .. } => "submit",
        Call::Cancel { .. } => "cancel",
        Call::Read { stale: true, .. } => "read-stale",
        Call::Read { .. } => "read",
        Call::ReadWorkers {} => "read-workers",
        Call::SetMode { .. } => "set-mode",
        Call::Membership { .. } => "membership",
    }
}

fn asked(call: &Call) -> String {
    match call {
        Call::Submit { request, count } => format!("{{:request {}, :count {count}}}", quoted(request)),
        Call::Cancel { request, task } => format!("{{:request {}, :task {task}}}", quoted(request)),
        Call::Read { task, .. } => format!("[{task} nil]"),
        Call::ReadWorkers {} => "nil".to_owned(),
        Call::SetMode { request, worker, mode } => {
            format!("{{:request {}, :worker {}, :mode {}}}", quoted(request), quoted(worker), keyword(mode))
        }
        Call::Membership { change, master } => format!("{{:change {}, :master {master}}}", keyword(change)),
    }
}

fn answered(call: &Call, answer: &Answer) -> String {
    match (call, answer) {
        (Call::Submit { request, .. }, Answer::Submitted { first, count, index }) => {
            format!("{{:request {}, :first {first}, :count {count}, :log-index {index}}}", quoted(request))
        }
        (Call::Cancel { request, task }, Answer::Cancelled { changed, index }) => {
            format!("{{:request {}, :task {task}, :changed {changed}, :log-index {index}}}", quoted(request))
        }
        (Call::Read { task, .. }, Answer::Task { task: None, index }) => format!("[{task} nil {index}]"),
        (Call::Read { task, .. }, Answer::Task { task: Some(view), index }) => {
            let state = format!("{:?}", view.state).to_lowercase();
            let attempts: Vec<String> =
                view.attempts.iter().map(|it| format!("[{} {} {}]", it.token, it.worker, it.ended)).collect();
            format!("[{task} {{:state :{state}, :attempts [{}]}} {index}]", attempts.join(" "))
        }
        (_, Answer::Workers { workers, index }) => {
            let one = |it: &crate::record::WorkerView| {
                let (name, status) = (quoted(&it.name), keyword(&it.status));
                format!(
                    "{{:id {}, :name {name}, :status {status}, :used {}, :capacity {}}}",
                    it.id, it.used, it.capacity
                )
            };
            format!("{{:workers [{}], :log-index {index}}}", workers.iter().map(one).collect::<Vec<_>>().join(" "))
        }
        (call, answer) => {
            let asked = asked(call);
            let open = asked.strip_suffix('}').map(str::to_owned);
            open.map_or(asked, |open| format!("{open}, :log-index {}}}", answer.index()))
        }
    }
}

/// A keyword of what has the shape of one, else a string.
fn keyword(word: &str) -> String {
    let plain = word.starts_with(|c: char| c.is_ascii_alphabetic());
    let plain = plain && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if plain { format!(":{}", word.replace('_', "-")) } else { quoted(word) }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
