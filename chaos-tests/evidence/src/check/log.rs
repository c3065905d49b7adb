//! The log as all followers of the event stream together tell it: each entry once, and which stretches are known whole.
//!
//! What always holds: of copies that disagree the first one counts, and the disagreement is a problem; an index between a
//! follower's first and last, gaps left out, is known: either it has events, or its entry had none.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::History;
use crate::record::{Event, Events};

/// One entry's events.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Log index.
    pub index: u64,
    /// Term.
    pub term: u64,
    /// When the first follower got it, in µs.
    pub at_us: u64,
    /// What happened.
    pub events: &'a [Event],
}

/// What all followers got.
#[derive(Debug, Default)]
pub struct Log<'a> {
    /// By index.
    pub entries: BTreeMap<u64, Entry<'a>>,
    /// Known stretches, both ends included, apart from each other, in order.
    pub known: Vec<(u64, u64)>,
    /// What is wrong with the streams themselves.
    pub problems: Vec<String>,
    /// Batches that were delivered.
    pub delivered: u64,
}

/// What one follower got.
#[derive(Debug, Default)]
struct Stream {
    follower: u64,
    last: Option<u64>,
    term: u64,
    got: BTreeSet<u64>,
    /// Stretches without a gap.
    known: Vec<(u64, u64)>,
    problems: Vec<String>,
}

impl<'a> Log<'a> {
    /// Merges all followers.
    pub fn of(history: &'a History) -> Self {
        let (mut log, mut streams) = (Self::default(), BTreeMap::new());
        for batch in &history.events {
            let new = || Stream { follower: batch.follower, ..Stream::default() };
            streams.entry(batch.follower).or_insert_with(new).take(batch);
            log.merge(batch);
        }
        for stream in streams.into_values() {
            log.problems.extend(stream.skipped(&log));
            log.problems.extend(stream.problems);
            log.known.extend(stream.known);
        }
        log.known = united(std::mem::take(&mut log.known));
        log
    }

    /// The known stretch that an index lies in.
    pub fn stretch(&self, index: u64) -> Option<(u64, u64)> {
        self.known.iter().copied().find(|(from, to)| (*from..=*to).contains(&index))
    }

    fn merge(&mut self, batch: &'a Events) {
        self.delivered += 1;
        if batch.events.is_empty() || gap_of(batch).is_some() {
            return;
        }
        let Events { index, term, at_us, .. } = *batch;
        let entry = Entry { index, term, at_us, events: &batch.events };
        let first = self.entries.entry(index).or_insert(entry);
        if first.events != entry.events || first.term != term {
            let follower = batch.follower;
            self.problems.push(format!("at {index}: follower {follower} got other events than the follower before it"));
        }
    }
}

impl Stream {
    fn take(&mut self, batch: &Events) {
        if let Some((from, to)) = gap_of(batch) {
            return self.gap(from, to);
        }
        let index = batch.index;
        if batch.events.is_empty() {
            // A mark of progress: everything up to here was delivered.
            return self.reach(index.max(self.last.unwrap_or(index)));
        }
        if let Some(last) = self.last.filter(|last| index <= *last) {
            self.problem(format!("index {index} comes after {last}"));
        }
        if batch.term < self.term {
            self.problem(format!("term {} comes after {} at {index}", batch.term, self.term));
        }
        self.term = self.term.max(batch.term);
        self.got.insert(index);
        self.reach(index.max(self.last.unwrap_or(index)));
    }

    fn reach(&mut self, index: u64) {
        self.last = Some(index);
        match self.known.last_mut() {
            Some((_, to)) => *to = index,
            None => self.known.push((index, index)),
        }
    }

    fn gap(&mut self, from: u64, to: u64) {
        if let Some(last) = self.last.filter(|last| from <= *last) {
            self.problem(format!("a gap from {from} to {to} covers what was delivered up to {last}"));
        }
        if to < from {
            self.problem(format!("a gap from {from} to {to} ends before it begins"));
        }
        self.last = Some(to.max(self.last.unwrap_or(to)));
        // The next stretch begins just behind the gap.
        self.known.push((to + 1, to));
    }

    /// Entries that others got, and that this one missed in between.
    fn skipped(&self, log: &Log<'_>) -> Vec<String> {
        let inside = self.known.iter().filter(|(from, to)| from <= to);
        let entries = inside.flat_map(|(from, to)| log.entries.range(from..=to));
        let missed = entries.filter(|(index, _)| !self.got.contains(index));
        missed.map(|(index, _)| format!("follower {}: the events of {index} were skipped", self.follower)).collect()
    }

    fn problem(&mut self, text: String) {
        self.problems.push(format!("follower {}: {text}", self.follower));
    }
}

fn gap_of(batch: &Events) -> Option<(u64, u64)> {
    batch.events.iter().find_map(|event| match event {
        Event::Gap { from, to } => Some((*from, *to)),
        _ => None,
    })
}

/// Stretches that overlap or touch become one.
fn united(mut known: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    known.retain(|(from, to)| from <= to);
    known.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (from, to) in known {
        match out.last_mut() {
            Some((_, end)) if from <= end.saturating_add(1) => *end = to.max(*end),
            _ => out.push((from, to)),
        }
    }
    out
}
