//! Reports, kept until acknowledged and sent again until then.
//!
//! What always holds: an end is forgotten only by its acknowledgement (or because the cluster dropped the attempt); each
//! operation costs O(log n), none walks over everything except [`Reports::resend_all`], once per session. Not here: how
//! ends survive the process; that is the keeper's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use steersman_proto::worker::v1::{Ended, Report};
use tokio::time::Instant;

/// What was sent and not acknowledged within this time is sent again; then after twice as long, up to four times: masters
/// that are slow to commit must not be buried under repetitions.
pub(crate) const RESEND_AFTER: Duration = Duration::from_secs(1);
const RESEND_FACTOR_MAX: u32 = 4;
/// Reports in one message: about 64 KiB on the wire when they carry no text.
pub(crate) const PER_MESSAGE_MAX: usize = 4_096;
/// Text and results in one message: a master may take as little as 1 MiB at a time.
pub(crate) const BYTES_PER_MESSAGE_MAX: usize = 512 * 1024;

#[derive(Debug)]
struct Pending {
    report: Report,
    queued: bool,
    due: Option<Instant>,
    times_sent: u32,
}

impl Pending {
    fn text_bytes(&self) -> usize {
        self.report.ended.as_ref().map_or(0, |ended| ended.message.len() + ended.result.len())
    }
}

/// One report per token: its end replaces its start. A token is queued at most once.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    pending: BTreeMap<u64, Pending>,
    to_send: VecDeque<u64>,
    /// Sent and unacknowledged: when each is to be sent again.
    due: BTreeSet<(Instant, u64)>,
    ended: usize,
}

impl Reports {
    /// The attempt has started.
    pub fn started(&mut self, token: u64, task_id: u64) {
        if !self.pending.contains_key(&token) {
            self.put(Report { token, task_id, ended: None });
        }
    }

    /// The attempt is over. A second end of a token is ignored: the first one may already be committed.
    pub fn ended(&mut self, token: u64, task_id: u64, ended: Ended) {
        if self.has_end(token) {
            return;
        }
        self.put(Report { token, task_id, ended: Some(ended) });
        self.ended += 1;
    }

    fn put(&mut self, report: Report) {
        let token = report.token;
        let queued = self.take_out(token).is_some_and(|old| old.queued);
        self.pending.insert(token, Pending { report, queued, due: None, times_sent: 0 });
        self.queue(token);
    }

    fn take_out(&mut self, token: u64) -> Option<Pending> {
        let pending = self.pending.remove(&token)?;
        if let Some(due) = pending.due {
            self.due.remove(&(due, token));
        }
        Some(pending)
    }

    fn queue(&mut self, token: u64) {
        if let Some(pending) = self.pending.get_mut(&token).filter(|pending| !pending.queued) {
            pending.queued = true;
            self.to_send.push_back(token);
        }
    }

    /// Whether an unacknowledged end of `token` is kept.
    pub fn has_end(&self, token: u64) -> bool {
        self.pending.get(&token).is_some_and(|pending| pending.report.ended.is_some())
    }

    /// Sends the end of `token` again, now.
    pub fn resend(&mut self, token: u64) {
        if self.has_end(token) {
            self.queue(token);
        }
    }

    /// An end was committed. True if it was kept here.
    pub fn acknowledge_end(&mut self, token: u64) -> bool {
        let known = self.has_end(token);
        if known {
            self.take_out(token);
            self.ended -= 1;
        }
        known
    }

    /// A start was committed.
    pub fn acknowledge_start(&mut self, token: u64) {
        if self.pending.get(&token).is_some_and(|pending| pending.report.ended.is_none()) {
            self.take_out(token);
        }
    }

    /// The cluster no longer wants to hear of it. True if an end was kept.
    pub fn forget(&mut self, token: u64) -> bool {
        self.acknowledge_start(token);
        self.acknowledge_end(token)
    }

    /// A new session: everything is to be sent once more, oldest first.
    pub fn resend_all(&mut self) {
        self.due.clear();
        self.to_send = self.pending.keys().copied().collect();
        for pending in self.pending.values_mut() {
            (pending.queued, pending.due, pending.times_sent) = (true, None, 0);
        }
    }

    /// Queues what has waited too long for its acknowledgement.
    pub fn resend_due(&mut self, now: Instant) {
        while let Some((_, token)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.pop_first();
            self.queue(token);
        }
    }

    /// When [`Self::resend_due`] has something to do at the earliest.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whether something waits to be sent.
    pub fn wants_to_send(&self) -> bool {
        !self.to_send.is_empty()
    }

    /// The next message's worth, noted as sent at `now`.
    pub fn take(&mut self, now: Instant) -> Vec<Report> {
        let mut batch = Vec::with_capacity(self.to_send.len().min(PER_MESSAGE_MAX));
        let mut bytes = 0;
        while batch.len() < PER_MESSAGE_MAX && bytes < BYTES_PER_MESSAGE_MAX {
            let Some(token) = self.to_send.pop_front() else { break };
            let Some(pending) = self.pending.get_mut(&token) else { continue };
            bytes += pending.text_bytes();
            let due = now + RESEND_AFTER * (1 << pending.times_sent).min(RESEND_FACTOR_MAX);
            pending.queued = false;
            pending.times_sent = (pending.times_sent + 1).min(8);
            if let Some(old) = pending.due.replace(due) {
                self.due.remove(&(old, token));
            }
            self.due.insert((due, token));
            batch.push(pending.report.clone());
        }
        batch
    }

    /// Tokens of kept ends, rising.
    pub fn ended_tokens(&self) -> impl Iterator<Item = u64> + '_ {
        self.pending.iter().filter(|(_, pending)| pending.report.ended.is_some()).map(|(token, _)| *token)
    }

    /// How many ends wait for their acknowledgement.
    pub fn ended_len(&self) -> usize {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(batch: &[Report]) -> Vec<u64> {
        batch.iter().map(|report| report.token).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_sent_again_until_acknowledged() {
        let mut reports = Reports::default();
        let start = Instant::now();
        reports.ended(5, 1, Ended::default());
        assert_eq!(tokens(&reports.take(start)), [5]);
        reports.resend_due(start + Duration::from_millis(999));
        assert!(!reports.wants_to_send());
        reports.resend_due(start + RESEND_AFTER);
        assert_eq!(tokens(&reports.take(start + RESEND_AFTER)), [5]);
        assert!(reports.acknowledge_end(5));
        reports.resend_due(start + RESEND_AFTER * 3);
        assert!(!reports.wants_to_send() && reports.ended_len() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_session_sends_everything_once() {
        let mut reports = Reports::default();
        let now = Instant::now();
        reports.ended(2, 1, Ended::default());
        reports.take(now);
        reports.ended(1, 1, Ended::default());
        reports.started(3, 1);
        reports.resend_all();
        assert_eq!(tokens(&reports.take(now)), [1, 2, 3]);
        assert_eq!(reports.ended_tokens().collect::<Vec<_>>(), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_replaces_its_start_and_the_first_end_stays() {
        let mut reports = Reports::default();
        let now = Instant::now();
        reports.started(1, 9);
        reports.ended(1, 9, Ended { exit_code: 3, ..Ended::default() });
        reports.ended(1, 9, Ended { exit_code: 4, ..Ended::default() });
        reports.started(1, 9);
        let batch = reports.take(now);
        let codes: Vec<_> = batch.iter().map(|report| report.ended.as_ref().map(|ended| ended.exit_code)).collect();
        assert_eq!(codes, [Some(3)]);
        reports.acknowledge_start(1);
        assert!(reports.has_end(1), "the start's acknowledgement must not take the end along");
    }

    #[tokio::test(start_paused = true)]
    async fn repetitions_grow_rarer_up_to_a_bound() {
        let mut reports = Reports::default();
        let start = Instant::now();
        let mut now = start;
        reports.ended(1, 1, Ended::default());
        let mut gaps = Vec::new();
        for _ in 0..5 {
            assert_eq!(reports.take(now).len(), 1);
            let due = reports.next_due().unwrap_or(now);
            gaps.push((due - now).as_secs());
            now = due;
            reports.resend_due(now);
        }
        assert_eq!(gaps, [1, 2, 4, 4, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn long_texts_make_smaller_messages() {
        let mut reports = Reports::default();
        for token in 0..1_000 {
            reports.ended(token, token, Ended { message: "x".repeat(1_024), ..Ended::default() });
        }
        let batch = reports.take(Instant::now());
        assert_eq!(batch.len(), BYTES_PER_MESSAGE_MAX / 1_024);
        assert!(reports.wants_to_send());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_bounded() {
        let mut reports = Reports::default();
        for token in 0..=PER_MESSAGE_MAX as u64 {
            reports.ended(token, token, Ended::default());
        }
        assert_eq!(reports.take(Instant::now()).len(), PER_MESSAGE_MAX);
        assert_eq!(reports.take(Instant::now()).len(), 1);
    }
}
