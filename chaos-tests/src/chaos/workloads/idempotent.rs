//! Submits that are repeated under one request id: at once and later, after an answer and without one, to any master.

use std::sync::Arc;

use super::submit::Wish;
use crate::chaos::traffic::{Actor, Pace, Traffic};
use crate::chaos::work;
use crate::spec::nothing;

/// Tries of one submit, at most.
const TRIES: u64 = 4;
/// Of 100 submits, so many have their first two tries at the same time.
const AT_ONCE: u64 = 30;

pub(super) async fn run(traffic: Arc<Traffic>, rate: f64) {
    let (mut actor, mut other) = (Actor::new(&traffic.recorder), Actor::new(&traffic.recorder));
    let mut pace = Pace::new(rate);
    while pace.turn(&traffic).await {
        let spec = if traffic.chance(70) { nothing() } else { work::sleep(traffic.ms(10, 500)) };
        let wish = Wish::new(&traffic, spec, 1 + traffic.below(3) as u32);
        if traffic.chance(AT_ONCE) {
            let (one, two) = (traffic.targets.mixed(&traffic.entropy), traffic.targets.mixed(&traffic.entropy));
            tokio::join!(wish.submit(&mut actor, one), wish.submit(&mut other, two));
        }
        for _ in 0..1 + traffic.below(TRIES) {
            wish.submit(&mut actor, traffic.targets.mixed(&traffic.entropy)).await;
            if !traffic.pause(traffic.ms(0, 600)).await {
                return;
            }
        }
    }
}
