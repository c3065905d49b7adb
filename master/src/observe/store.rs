//! The store's own counters in the words of Prometheus.
//!
//! What always holds: nothing is counted here; each scrape reads what `steersman-raft-store` counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use steersman_raft_store::metrics::{Histogram, Metrics};

/// Finest bucket: 64 µs, below every sync.
const FIRST_US: u64 = 1 << 6;
/// Coarsest bucket: 16.8 s; what takes longer is a fault.
const LAST_US: u64 = 1 << 24;

/// Shows one store.
pub struct StoreCollector(pub Arc<Metrics>);

impl fmt::Debug for StoreCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreCollector")
    }
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let store = &self.0;
        let durations = [
            ("raft_fsync", "One sync of the log to the device.", &store.sync_us),
            ("raft_append", "From the arrival of log entries to their being durable.", &store.append_us),
            ("raft_apply", "Applying one log entry to the state.", &store.apply_us),
            ("raft_snapshot_pause", "Standstill of apply while a snapshot's image is taken.", &store.image_us),
            ("raft_snapshot_write", "Writing one snapshot.", &store.snapshot_us),
        ];
        for (name, help, histogram) in durations {
            seconds(&mut encoder, name, help, histogram)?;
        }
        counter(&mut encoder, "raft_written", "Given to the disk.", Some(&Unit::Bytes), &store.written_bytes)?;
        counter(&mut encoder, "raft_entries_written", "Log entries written.", None, &store.entries_written)?;
        counter(
            &mut encoder,
            "raft_entries_purged",
            "Log entries deleted after a snapshot.",
            None,
            &store.entries_purged,
        )?;
        counter(&mut encoder, "raft_entries_read", "Log entries read from disk.", None, &store.entries_read)?;
        gauge(&mut encoder, "raft_recent", "Log entries in memory.", &Unit::Bytes, load(&store.recent_bytes))?;
        gauge(
            &mut encoder,
            "raft_snapshot",
            "Size of the newest snapshot.",
            &Unit::Bytes,
            load(&store.snapshot_bytes),
        )?;
        let help = "Age of the write that is under way: a stalled disk shows here first.";
        gauge(&mut encoder, "raft_disk_stalled", help, &Unit::Seconds, store.stalled_for().as_secs_f64())
    }
}

fn seconds(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
    let buckets = buckets(&histogram.cumulative());
    let count = buckets.iter().map(|(_, count)| count).sum();
    let sum = histogram.sum() as f64 / 1e6;
    encoder
        .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

/// Bounds in seconds with the values in each bucket, from cumulative counts with bounds in µs; the last is open.
fn buckets(cumulative: &[(u64, u64)]) -> Vec<(f64, u64)> {
    let mut before = 0;
    let mut step = |bound: f64, upto: u64| {
        let count = upto.saturating_sub(before);
        before = before.max(upto);
        (bound, count)
    };
    let shown = cumulative.iter().filter(|(us, _)| (FIRST_US..=LAST_US).contains(us));
    let mut buckets: Vec<_> = shown.map(|(us, upto)| step(*us as f64 / 1e6, *upto)).collect();
    buckets.push(step(f64::MAX, cumulative.last().map_or(0, |(_, all)| *all)));
    buckets
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: &AtomicU64,
) -> fmt::Result {
    let counter = ConstCounter::new(value.load(Ordering::Relaxed));
    counter.encode(encoder.encode_descriptor(name, help, unit, MetricType::Counter)?)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, unit: &Unit, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, Some(unit), MetricType::Gauge)?)
}

fn load(value: &AtomicU64) -> f64 {
    value.load(Ordering::Relaxed) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_below_and_above_the_shown_buckets_are_not_lost() {
        let histogram = Histogram::default();
        for us in [3, 50, 70, 1_000_000, 60_000_000] {
            histogram.record(us);
        }
        let buckets = buckets(&histogram.cumulative());
        assert_eq!(buckets.first(), Some(&(0.000_064, 2)));
        assert_eq!(buckets.last(), Some(&(f64::MAX, 1)));
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 5);
    }
}
