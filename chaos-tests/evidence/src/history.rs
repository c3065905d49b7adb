//! A run's records, sorted by what they are, with each invocation joined to its completion.
//!
//! What always holds: operations are in order of invocation; what can't be right about the records themselves (a completion
//! without invocation, a torn last line) is kept in [`History::malformed`], and such a history is never called good.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};

use crate::record::{
    Answer, Call, Complete, Digest, Events, FORMAT, Fault, FencedWrite, Installed, Interval, Invoke, Leads, Note,
    Outcome, Reach, Record, Run,
};

/// What was seen in one run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// What run it was; the default if the records don't say.
    pub run: Run,
    /// Operations, in order of invocation.
    pub ops: Vec<Op>,
    /// What followers of the event stream got, in order of arrival.
    pub events: Vec<Events>,
    /// Attempts as workers logged them.
    pub intervals: Vec<Interval>,
    /// Writes to the fenced register, in the order in which it judged them.
    pub fenced: Vec<FencedWrite>,
    /// Digests of masters' states.
    pub digests: Vec<Digest>,
    /// Masters seen to lead.
    pub leads: Vec<Leads>,
    /// Workers cut off or back.
    pub reach: Vec<Reach>,
    /// Faults, in order.
    pub faults: Vec<Fault>,
    /// Snapshots taken over.
    pub installed: Vec<Installed>,
    /// Notes for the timeline.
    pub notes: Vec<Note>,
    /// What is wrong with the records themselves.
    pub malformed: Vec<String>,
    /// The latest time in the records, in µs.
    pub end_us: u64,
}

/// An operation: what was asked and, if it is known, what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Op {
    /// What was asked.
    pub invoke: Invoke,
    /// What came of it; `None` if nobody knows.
    pub complete: Option<Complete>,
}

/// Why bytes are no history.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Bytes could not be read.
    #[error("the history could not be read")]
    Io(#[from] io::Error),
    /// A line is no record.
    #[error("line {line} of the history is no record")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error("the history has format {found}, this program reads format {FORMAT}")]
    Format {
        /// What the first record says.
        found: u32,
    },
}

/// Writes one record as a line. Records of several producers may be written in any order, as long as each operation is
/// invoked before it completes.
///
/// # Errors
/// What the writer said.
pub fn write_record(writer: &mut impl Write, record: &Record) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, record)?;
    writer.write_all(b"\n")
}

impl History {
    /// Sorts and joins.
    pub fn from_records(records: Vec<Record>) -> Self {
        let mut history = Self::default();
        let mut at = HashMap::new();
        let mut runs = 0;
        for record in records {
            history.end_us = history.end_us.max(record.at_us());
            match record {
                Record::Run(run) => {
                    runs += 1;
                    history.run = run;
                }
                Record::Invoke(invoke) => history.invoked(invoke, &mut at),
                Record::Complete(complete) => history.completed(complete, &at),
                other => history.seen(other),
            }
        }
        if runs > 1 {
            history.malformed.push(format!("{runs} runs in one history"));
        }
        history.sort();
        history
    }

    /// Reads JSON lines. A last line that is torn (the writer died) is noted in [`History::malformed`] and left out.
    ///
    /// # Errors
    /// If bytes can't be read, a line is no record, or the format is another one.
    pub fn read(mut reader: impl BufRead) -> Result<Self, ReadError> {
        let (mut records, mut line, mut torn) = (Vec::new(), Vec::new(), None);
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice(&line) {
                Ok(Record::Run(run)) if run.format != FORMAT => return Err(ReadError::Format { found: run.format }),
                Ok(record) => records.push(record),
                Err(_) if !line.ends_with(b"\n") => torn = Some(format!("line {number} is torn")),
                Err(source) => return Err(ReadError::Line { line: number, source }),
            }
        }
        let mut history = Self::from_records(records);
        history.malformed.extend(torn);
        Ok(history)
    }

    /// Writes everything as JSON lines: the run first, then all records by time.
    ///
    /// # Errors
    /// What the writer said.
    pub fn write(&self, mut writer: impl Write) -> io::Result<()> {
        self.records().iter().try_for_each(|record| write_record(&mut writer, record))
    }

    /// Everything as records: the run first, then by time; what has the same time stays in order of kind.
    pub fn records(&self) -> Vec<Record> {
        let invokes = self.ops.iter().map(|op| Record::Invoke(op.invoke.clone()));
        let mut rest: Vec<Record> = invokes.collect();
        rest.extend(self.ops.iter().filter_map(|op| op.complete.clone()).map(Record::Complete));
        rest.extend(self.events.iter().cloned().map(Record::Events));
        rest.extend(self.intervals.iter().cloned().map(Record::Interval));
        rest.extend(self.fenced.iter().cloned().map(Record::FencedWrite));
        rest.extend(self.digests.iter().cloned().map(Record::Digest));
        rest.extend(self.leads.iter().cloned().map(Record::Leads));
        rest.extend(self.reach.iter().cloned().map(Record::Reach));
        rest.extend(self.faults.iter().cloned().map(Record::Fault));
        rest.extend(self.installed.iter().cloned().map(Record::Installed));
        rest.extend(self.notes.iter().cloned().map(Record::Note));
        rest.sort_by_key(Record::at_us);
        rest.insert(0, Record::Run(self.run.clone()));
        rest
    }

    fn invoked(&mut self, invoke: Invoke, at: &mut HashMap<u64, usize>) {
        if at.insert(invoke.op, self.ops.len()).is_some() {
            self.malformed.push(format!("operation {} was invoked twice", invoke.op));
        }
        self.ops.push(Op { invoke, complete: None });
    }

    fn completed(&mut self, complete: Complete, at: &HashMap<u64, usize>) {
        let Some(op) = at.get(&complete.op).and_then(|&at| self.ops.get_mut(at)) else {
            self.malformed.push(format!("operation {} completed, but was not invoked", complete.op));
            return;
        };
        if op.complete.is_some() {
            self.malformed.push(format!("operation {} completed twice", complete.op));
        } else if complete.at_us < op.invoke.at_us {
            self.malformed.push(format!("operation {} completed before it was invoked", complete.op));
        } else {
            op.complete = Some(complete);
        }
    }

    fn seen(&mut self, record: Record) {
        match record {
            Record::Run(_) | Record::Invoke(_) | Record::Complete(_) => {}
            Record::Events(it) => self.events.push(it),
            Record::Interval(it) => self.intervals.push(it),
            Record::FencedWrite(it) => self.fenced.push(it),
            Record::Digest(it) => self.digests.push(it),
            Record::Leads(it) => self.leads.push(it),
            Record::Reach(it) => self.reach.push(it),
            Record::Fault(it) => self.faults.push(it),
            Record::Installed(it) => self.installed.push(it),
            Record::Note(it) => self.notes.push(it),
        }
    }

    /// By time; what has the same time stays in the order in which it was written.
    fn sort(&mut self) {
        self.ops.sort_by_key(|op| op.invoke.at_us);
        self.events.sort_by_key(|it| it.at_us);
        self.fenced.sort_by_key(|it| it.at_us);
        self.leads.sort_by_key(|it| it.at_us);
        self.reach.sort_by_key(|it| it.at_us);
        self.faults.sort_by_key(|it| it.at_us);
        self.notes.sort_by_key(|it| it.at_us);
    }
}

impl Op {
    /// When it was invoked, in µs.
    pub fn began_us(&self) -> u64 {
        self.invoke.at_us
    }

    /// When it surely was over, in µs: [`u64::MAX`] if its outcome is unknown, for it may happen at any later time.
    pub fn over_us(&self) -> u64 {
        match &self.complete {
            Some(Complete { at_us, outcome: Outcome::Ok { .. } | Outcome::Fail { .. }, .. }) => *at_us,
            _ => u64::MAX,
        }
    }

    /// The answer, if it succeeded.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.complete {
            Some(Complete { outcome: Outcome::Ok { answer }, .. }) => Some(answer),
            _ => None,
        }
    }

    /// It surely did not happen.
    pub fn failed(&self) -> bool {
        matches!(&self.complete, Some(Complete { outcome: Outcome::Fail { .. }, .. }))
    }

    /// Nobody knows whether it happened.
    pub fn unknown(&self) -> bool {
        !self.failed() && self.answer().is_none()
    }

    /// The log index of the answer; `None` if it has none.
    pub fn index(&self) -> Option<u64> {
        self.answer().map(Answer::index).filter(|&index| index > 0)
    }

    /// Its request id, if it carries one.
    pub fn request(&self) -> Option<&str> {
        match &self.invoke.call {
            Call::Submit { request, .. } | Call::Cancel { request, .. } | Call::SetMode { request, .. } => {
                Some(request)
            }
            Call::Read { .. } | Call::ReadWorkers {} | Call::Membership { .. } => None,
        }
    }

    /// It goes through the log.
    pub fn is_write(&self) -> bool {
        !matches!(&self.invoke.call, Call::Read { .. } | Call::ReadWorkers {})
    }

    /// It promises to see everything that was acknowledged before it was invoked.
    pub fn is_linearizable(&self) -> bool {
        !matches!(&self.invoke.call, Call::Read { stale: true, .. })
    }

    /// Its kind: `submit`, `cancel`, `read`, `read_stale`, `read_workers`, `set_mode`, `membership`.
    pub fn kind(&self) -> &'static str {
        match &self.invoke.call {
            Call::Submit { .. } => "submit",
            Call::Cancel { .. } => "cancel",
            Call::Read { stale: false, .. } => "read",
            Call::Read { stale: true, .. } => "read_stale",
            Call::ReadWorkers {} => "read_workers",
            Call::SetMode { .. } => "set_mode",
            Call::Membership { .. } => "membership",
        }
    }
}

impl Answer {
    /// The log index that it names; 0 if none.
    pub fn index(&self) -> u64 {
        match self {
            Self::Submitted { index, .. }
            | Self::Cancelled { index, .. }
            | Self::Task { index, .. }
            | Self::Workers { index, .. }
            | Self::Done { index } => *index,
        }
    }
}
