//! Plots of a history: how long operations took, and how many succeeded, over time.
//!
//! What always holds: an operation counts where it completed; one that nobody saw complete counts as unknown where it was
//! invoked.

use super::svg::{Band, Line, Plot, Scale, Span, Stack, time};
use crate::history::{History, Op};
use crate::record::Outcome;

/// Points that a plot shows at most: more would share pixels.
const BUCKETS_MAX: u64 = 4_000;
const SECOND_US: u64 = 1_000_000;

/// Latency of successful operations per bucket of time: median, 95th percentile and maximum, on a scale of powers of ten.
pub fn latency(history: &History, span: Span, bands: &[Band]) -> String {
    let width_us = bucket_us(span);
    let mut buckets: Vec<Vec<u64>> = vec![Vec::new(); buckets(span, width_us)];
    for op in history.ops.iter().filter(|op| op.answer().is_some()) {
        if let Some(bucket) = buckets.get_mut(place(span, width_us, op.over_us())) {
            bucket.push(op.over_us() - op.began_us());
        }
    }
    buckets.iter_mut().for_each(|bucket| bucket.sort_unstable());
    let line = |name: &str, colour, share: f64| {
        let point = |(at, sorted): (usize, &Vec<u64>)| (middle(span, width_us, at), quantile(sorted, share));
        Line { name: name.to_owned(), colour, points: buckets.iter().enumerate().map(point).collect() }
    };
    let lines = vec![line("p50", "s1", 0.5), line("p95", "s3", 0.95), line("max", "s2", 1.0)];
    let (unit, bands) = ("ms".to_owned(), bands.to_vec());
    Plot { span, unit, scale: Scale::Log, lines, stack: None, bands, height: 220 }.draw()
}

/// Operations per bucket of time, by how they ended.
pub fn throughput(history: &History, span: Span, bands: &[Band]) -> String {
    let width_us = bucket_us(span);
    let mut counts = vec![[0.0; 3]; buckets(span, width_us)];
    for op in &history.ops {
        let (at_us, layer) = ended(op);
        if let Some(count) = counts.get_mut(place(span, width_us, at_us)) {
            count[layer] += 1.0;
        }
    }
    let layers = vec![("ok".to_owned(), "good"), ("fail".to_owned(), "bad"), ("unknown".to_owned(), "unknown")];
    let columns = counts.iter().enumerate();
    let columns = columns.map(|(at, count)| (span.from_us + at as u64 * width_us, count.to_vec())).collect();
    let stack = Some(Stack { layers, width_us, columns });
    let (unit, bands) = (format!("per {}", bucket(span)), bands.to_vec());
    Plot { span, unit, scale: Scale::Linear, lines: Vec::new(), stack, bands, height: 170 }.draw()
}

/// The width of a bucket, in words: a second, unless the run is very short or very long.
pub fn bucket(span: Span) -> String {
    match bucket_us(span) {
        SECOND_US => "second".to_owned(),
        width_us => time(width_us),
    }
}

/// The value below or at which so many of the sorted values lie, in ms.
fn quantile(sorted: &[u64], share: f64) -> Option<f64> {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.clamp(1, sorted.len().max(1)) - 1).map(|us| *us as f64 / 1e3)
}

fn ended(op: &Op) -> (u64, usize) {
    match &op.complete {
        Some(complete) => match complete.outcome {
            Outcome::Ok { .. } => (complete.at_us, 0),
            Outcome::Fail { .. } => (complete.at_us, 1),
            Outcome::Unknown { .. } => (complete.at_us, 2),
        },
        None => (op.began_us(), 2),
    }
}

fn bucket_us(span: Span) -> u64 {
    let length = span.to_us - span.from_us;
    let widths = [SECOND_US / 10, SECOND_US, 10 * SECOND_US, 60 * SECOND_US];
    let enough = |width: &u64| length / width < BUCKETS_MAX && (*width > SECOND_US / 10 || length < 20 * SECOND_US);
    widths.into_iter().find(enough).unwrap_or(length / BUCKETS_MAX + 1)
}

fn buckets(span: Span, width_us: u64) -> usize {
    ((span.to_us - span.from_us) / width_us + 1) as usize
}

fn place(span: Span, width_us: u64, at_us: u64) -> usize {
    at_us.checked_sub(span.from_us).map_or(usize::MAX, |offset| (offset / width_us) as usize)
}

fn middle(span: Span, width_us: u64, at: usize) -> u64 {
    span.from_us + at as u64 * width_us + width_us / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let sorted: Vec<u64> = (1..=100).map(|ms| ms * 1_000).collect();
        let all = [0.5, 0.95, 1.0].map(|share| quantile(&sorted, share));
        assert_eq!(all, [Some(50.0), Some(95.0), Some(100.0)]);
        assert_eq!((quantile(&[], 0.5), quantile(&[7_000], 0.5)), (None, Some(7.0)));
    }

    #[test]
    fn buckets_are_seconds_unless_a_run_is_very_short_or_long() {
        let told = [5, 60, 3_600, 7_200, 200_000].map(|seconds| bucket(Span::new(0, seconds * SECOND_US)));
        assert_eq!(told, ["100 ms", "second", "second", "10 s", "1:00"]);
    }
}
