//! The kept events: what happened, entry by entry, in log order.
//!
//! What always holds: indexes rise, an entry is kept whole or not at all, and what was trimmed can be told.

use crate::chain::Chain;
use crate::view::{EventEntry, EventPage};

/// Entries with events, oldest first.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    chain: Chain<EventEntry>,
    /// Events in all entries.
    events: u64,
    /// Log index up to which events are gone.
    trimmed_upto: u64,
}

impl EventLog {
    pub fn restore(trimmed_upto: u64) -> Self {
        Self { trimmed_upto, ..Self::default() }
    }

    /// Adds an entry with events. An index that is not above the last one begins a new log: the old events go. Index 0 is
    /// the membership that formed the cluster; the stream begins at 1.
    pub fn push(&mut self, entry: EventEntry) {
        if entry.index == 0 {
            return;
        }
        let last = self.chain.back().map_or(self.trimmed_upto, |entry| entry.index);
        if entry.index <= last {
            *self = Self::restore(entry.index.saturating_sub(1));
        }
        self.events += entry.events.len() as u64;
        self.chain.push(entry);
    }

    /// Forgets whole entries while there are more events than `max`. The newest always stays.
    pub fn trim(&mut self, max: u64) {
        while self.events > max && self.chain.len() > 1 {
            let Some(oldest) = self.chain.front() else { return };
            self.events -= oldest.events.len() as u64;
            self.trimmed_upto = oldest.index;
            self.chain.drop_front();
        }
    }

    /// All of them are gone, up to `index`.
    pub fn clear(&mut self, index: u64) {
        *self = Self::restore(index);
    }

    pub fn trimmed_upto(&self) -> u64 {
        self.trimmed_upto
    }

    /// Whole entries from `index`, at least one if there is one, until `max_events` are together.
    pub fn page(&self, index: u64, max_events: usize, applied_index: u64) -> EventPage {
        let index = index.max(1);
        let gap = (index <= self.trimmed_upto).then_some((index, self.trimmed_upto));
        let (mut entries, mut events, mut at) = (Vec::new(), 0, self.position(index));
        while let Some(entry) = self.chain.get(at) {
            if events > 0 && events + entry.events.len() > max_events {
                let upto = entries.last().map_or(0, |last: &EventEntry| last.index);
                return EventPage { gap, entries, upto };
            }
            events += entry.events.len();
            entries.push(entry.clone());
            at += 1;
        }
        EventPage { gap, entries, upto: applied_index }
    }

    /// Position of the first entry with this index or a later one.
    fn position(&self, index: u64) -> usize {
        let (mut low, mut high) = (0, self.chain.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.chain.get(middle) {
                Some(entry) if entry.index < index => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    /// A consistent copy.
    pub fn image(&self) -> Chain<EventEntry> {
        self.chain.clone()
    }

    /// Whether indexes rise above what was trimmed and the count is right.
    pub fn holds(&self) -> bool {
        let mut before = self.trimmed_upto;
        let rising = self.chain.iter().all(|entry| std::mem::replace(&mut before, entry.index) < entry.index);
        let events: usize = self.chain.iter().map(|entry| entry.events.len()).sum();
        rising && self.events == events as u64
    }
}
