//! Tasks that write to the fenced register with the token of their attempt.

use std::sync::Arc;

use super::submit::Wish;
use crate::chaos::traffic::{Actor, Pace, Traffic};

/// Of 100 tasks, so many work for longer than a lease: their workers can be lost meanwhile.
const LONG: u64 = 25;

pub(super) async fn run(traffic: Arc<Traffic>, rate: f64) {
    let mut actor = Actor::new(&traffic.recorder);
    let mut pace = Pace::new(rate);
    while pace.turn(&traffic).await {
        let work = if traffic.chance(LONG) { traffic.ms(3_000, 9_000) } else { traffic.ms(20, 400) };
        let wish = Wish::new(&traffic, traffic.places.fenced(work), 1);
        wish.submit(&mut actor, traffic.targets.mixed(&traffic.entropy)).await;
    }
}
