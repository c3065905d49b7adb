//! The spread of a handful of values.
//!
//! What always holds: percentiles are values that were measured (nearest rank), never values in between.

use std::time::Duration;

use serde::Serialize;

/// Smallest, middle, nearly largest, largest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many values.
    pub n: usize,
    /// Smallest.
    pub min: f64,
    /// Half are at most so large.
    pub p50: f64,
    /// 99 of 100 are. With fewer than 100 values this is the largest.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of these values; none of an empty list.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = |share: f64| sorted[((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1];
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Self { n: sorted.len(), min, p50: rank(0.5), p99: rank(0.99), max })
    }
}

/// In milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn percentiles_are_of_the_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let spread = Spread::of(&values).unwrap();
        assert_eq!(spread, Spread { n: 200, min: 1.0, p50: 100.0, p99: 198.0, max: 200.0 });
        assert_eq!(Spread::of(&[3.0]).unwrap(), Spread { n: 1, min: 3.0, p50: 3.0, p99: 3.0, max: 3.0 });
        assert_eq!(Spread::of(&[]), None);
    }
}
