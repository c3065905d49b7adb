//! Now and then a great array of tasks at once.

use std::sync::Arc;
use std::time::Duration;

use super::submit::Wish;
use crate::chaos::traffic::{Actor, Traffic};
use crate::spec::nothing;

pub(super) async fn run(traffic: Arc<Traffic>, every: Duration, (from, to): (u64, u64)) {
    let mut actor = Actor::new(&traffic.recorder);
    let every_ms = every.as_millis() as u64;
    // The first one soon, so that short runs have one, too.
    let mut pause = traffic.ms(every_ms / 10, every_ms / 4);
    while traffic.pause(pause).await {
        let count = from + traffic.below(to - from + 1);
        let wish = Wish::new(&traffic, nothing(), count as u32);
        wish.submit(&mut actor, (None, traffic.targets.all())).await;
        pause = traffic.ms(every_ms / 2, every_ms * 3 / 2);
    }
}
