//! A run as people read it: what befell whom and when, one line each; and as files: one record per line.
//!
//! What always holds: the lines come from the records alone, in their order. Reads, events, digests and intervals are left
//! out: they are evidence, not story.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use steersman_evidence::record::{Answer, Call, Outcome, Phase, Record};

/// Writes a history file.
///
/// # Errors
/// Whatever the disk refuses.
pub fn write_history(path: &Path, records: &[Record]) -> anyhow::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for record in records {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    Ok(())
}

/// The story of a run.
pub fn lines(records: &[Record]) -> Vec<String> {
    let mut calls = BTreeMap::new();
    records.iter().filter_map(|record| line(record, &mut calls)).collect()
}

fn at(at_us: u64, who: &str, what: &str) -> Option<String> {
    Some(format!("{:>9.3}  {who:<10} {what}", at_us as f64 / 1e6))
}

fn line(record: &Record, calls: &mut BTreeMap<u64, (u64, Call)>) -> Option<String> {
    match record {
        Record::Run(run) => Some(format!(
            "{} of seed {}: {} masters, {} workers; {:?}",
            run.kind, run.seed, run.masters, run.workers, run.facts
        )),
        Record::Invoke(invoke) => {
            calls.insert(invoke.op, (invoke.process, invoke.call.clone()));
            None
        }
        Record::Complete(done) => {
            let (process, call) = calls.remove(&done.op)?;
            let text = operation(&call, &done.outcome)?;
            at(done.at_us, &format!("client{process}"), &text)
        }
        Record::Leads(leads) => {
            at(leads.at_us, &format!("m{}", leads.master), &format!("leads in term {}", leads.term))
        }
        Record::Reach(reach) => {
            at(reach.at_us, &reach.worker, if reach.reachable { "can reach a majority" } else { "is cut off or down" })
        }
        Record::Fault(fault) => {
            let what = match &fault.phase {
                Phase::Began => format!("{} begins", fault.class),
                Phase::Ended => format!("{} ends", fault.class),
                Phase::Skipped { why } => format!("{} skipped: {why}", fault.class),
            };
            at(fault.at_us, &fault.target, &what)
        }
        Record::Note(note) => at(note.at_us, &note.who, &note.text),
        Record::FencedWrite(write) if !write.accepted => {
            at(write.at_us, "register", &format!("refused token {} for task {}", write.token, write.key))
        }
        _ => None,
    }
}

/// Mutations, and whatever did not go well.
fn operation(call: &Call, outcome: &Outcome) -> Option<String> {
    let asked = match call {
        Call::Submit { request, count } => format!("submit {} x{count}", short(request)),
        Call::Cancel { request, task } => format!("cancel {} of task {task}", short(request)),
        Call::SetMode { worker, mode, .. } => format!("set {worker} to {mode}"),
        Call::Membership { change, master } => format!("{change} m{master}"),
        Call::Read { task, stale } => format!("read task {task}{}", if *stale { " (stale)" } else { "" }),
        Call::ReadWorkers {} => "read the workers".to_owned(),
    };
    let came = match outcome {
        Outcome::Ok { answer: Answer::Submitted { first, count, index } } => {
            format!("tasks {first}..{} at {index}", first + count)
        }
        Outcome::Ok { answer: Answer::Cancelled { changed, index } } => format!("changed {changed} at {index}"),
        Outcome::Ok { answer: Answer::Done { index } } => format!("done at {index}"),
        Outcome::Ok { .. } => return None,
        Outcome::Fail { error } => format!("failed: {error}"),
        Outcome::Unknown { error } => format!("unknown: {error}"),
    };
    Some(format!("{asked}: {came}"))
}

fn short(request: &str) -> &str {
    request.get(..6).unwrap_or(request)
}
