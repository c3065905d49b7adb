//! Reports, kept until acknowledged and sent again until then.
//!
//! What always holds: an end is forgotten only by its acknowledgement (or because the cluster dropped the attempt); each
//! operation costs O(log n), none walks over everything except [`Reports::resend_all`], once per session. Not here: how
//! ends survive the process; that is the keeper's.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use steersman_proto::worker::v1::{Ended, Report};
use tokio::time::Instant;

/// What was sent and not acknowledged within this time is sent again.
pub(crate) const RESEND_AFTER: Duration = Duration::from_secs(1);
/// Reports in one message: about 64 KiB on the wire when they carry no text.
pub(crate) const PER_MESSAGE_MAX: usize = 4_096;

#[derive(Debug)]
struct Pending {
    report: Report,
    queued: bool,
    sent_at: Option<Instant>,
}

/// One report per token: its end replaces its start. A token is queued at most once.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    pending: BTreeMap<u64, Pending>,
    to_send: VecDeque<u64>,
    sent: VecDeque<(Instant, u64)>,
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
        let queued = self.pending.get(&token).is_some_and(|old| old.queued);
        self.pending.insert(token, Pending { report, queued, sent_at: None });
        self.queue(token);
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
            self.pending.remove(&token);
            self.ended -= 1;
        }
        known
    }

    /// A start was committed.
    pub fn acknowledge_start(&mut self, token: u64) {
        if self.pending.get(&token).is_some_and(|pending| pending.report.ended.is_none()) {
            self.pending.remove(&token);
        }
    }

    /// The cluster no longer wants to hear of it. True if an end was kept.
    pub fn forget(&mut self, token: u64) -> bool {
        self.acknowledge_start(token);
        self.acknowledge_end(token)
    }

    /// A new session: everything is to be sent once more, oldest first.
    pub fn resend_all(&mut self) {
        self.sent.clear();
        self.to_send = self.pending.keys().copied().collect();
        self.pending.values_mut().for_each(|pending| pending.queued = true);
    }

    /// Queues what has waited too long for its acknowledgement.
    pub fn resend_due(&mut self, now: Instant) {
        while let Some(&(at, token)) = self.sent.front() {
            if at + RESEND_AFTER > now {
                break;
            }
            self.sent.pop_front();
            if self.pending.get(&token).is_some_and(|pending| pending.sent_at == Some(at)) {
                self.queue(token);
            }
        }
    }

    /// When [`Self::resend_due`] has something to do at the earliest.
    pub fn next_due(&self) -> Option<Instant> {
        self.sent.front().map(|(at, _)| *at + RESEND_AFTER)
    }

    /// Whether something waits to be sent.
    pub fn wants_to_send(&self) -> bool {
        !self.to_send.is_empty()
    }

    /// The next message's worth, noted as sent at `now`.
    pub fn take(&mut self, now: Instant) -> Vec<Report> {
        let mut batch = Vec::with_capacity(self.to_send.len().min(PER_MESSAGE_MAX));
        while batch.len() < PER_MESSAGE_MAX {
            let Some(token) = self.to_send.pop_front() else { break };
            if let Some(pending) = self.pending.get_mut(&token) {
                pending.queued = false;
                pending.sent_at = Some(now);
                batch.push(pending.report.clone());
                self.sent.push_back((now, token));
            }
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
    async fn a_message_is_bounded() {
        let mut reports = Reports::default();
        for token in 0..=PER_MESSAGE_MAX as u64 {
            reports.ended(token, token, Ended::default());
        }
        assert_eq!(reports.take(Instant::now()).len(), PER_MESSAGE_MAX);
        assert_eq!(reports.take(Instant::now()).len(), 1);
    }
}
