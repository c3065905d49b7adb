//! What a worker counts, in Prometheus' words. Labels are bounded: outcomes are an enum, nothing carries ids.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use steersman_proto::v1::Outcome;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// All of a worker's figures; shared by its parts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub assigned: Counter,
    pub assigned_again: Counter,
    pub refused: Counter,
    pub reports_sent: Counter,
    pub sessions_opened: Counter,
    pub heartbeats_acknowledged: Counter,
    pub partition_stops: Counter,
    pub running: Gauge,
    pub waiting: Gauge,
    pub capacity: Gauge,
    pub unacknowledged: Gauge,
    pub connected: Gauge,
    ended: Family<OutcomeLabel, Counter>,
    ended_by_outcome: Mutex<Vec<Option<Counter>>>,
    pub session_open: AtomicBool,
}

impl Metrics {
    /// Counts an end. The counters are looked up once per outcome.
    pub fn count_end(&self, outcome: Outcome) {
        let mut known = self.ended_by_outcome.lock();
        let at = outcome as usize;
        if known.len() <= at {
            known.resize(at + 1, None);
        }
        let name = outcome.as_str_name().trim_start_matches("OUTCOME_");
        known[at].get_or_insert_with(|| self.ended.get_or_create(&OutcomeLabel { outcome: name }).clone()).inc();
    }

    pub fn set_session_open(&self, open: bool) {
        self.session_open.store(open, Ordering::Relaxed);
        self.connected.set(open.into());
    }

    /// The text format.
    pub fn render(&self) -> String {
        let mut registry = Registry::with_prefix("steersman_worker");
        let mut counter = |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        counter("assignments", "Attempts that were assigned to this worker", &self.assigned);
        counter("assignments_repeated", "Assignments of attempts that were already here", &self.assigned_again);
        counter("assignments_refused", "Assignments that were given back because the queue was full", &self.refused);
        counter("reports_sent", "Reports sent, repetitions included", &self.reports_sent);
        counter("sessions_opened", "Sessions that a leader welcomed", &self.sessions_opened);
        counter("heartbeats_acknowledged", "Heartbeats that the leader acknowledged", &self.heartbeats_acknowledged);
        counter("partition_stops", "Attempts killed because the lease ended", &self.partition_stops);
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("attempts_running", "Attempts that run now", &self.running);
        gauge("attempts_waiting", "Assigned attempts that wait for a slot", &self.waiting);
        gauge("capacity_slots", "Slots", &self.capacity);
        gauge("reports_unacknowledged", "Ends that no master has acknowledged yet", &self.unacknowledged);
        gauge("session_open", "1 while a session with a leader is open", &self.connected);
        registry.register("attempts_ended", "Attempts that ended, by outcome", self.ended.clone());
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_ours_and_have_help() {
        let metrics = Metrics::default();
        metrics.count_end(Outcome::Succeeded);
        metrics.count_end(Outcome::Succeeded);
        metrics.running.set(3);
        let text = metrics.render();
        assert!(text.contains("steersman_worker_attempts_ended_total{outcome=\"SUCCEEDED\"} 2"), "{text}");
        assert!(text.contains("steersman_worker_attempts_running 3"), "{text}");
        assert!(text.contains("# HELP steersman_worker_session_open 1 while"), "{text}");
    }
}
