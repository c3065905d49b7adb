//! Tasks with `on_partition = stop`, which log when they ran.

use std::sync::Arc;

use super::submit::Wish;
use crate::chaos::traffic::{Actor, Pace, Traffic};

pub(super) async fn run(traffic: Arc<Traffic>, rate: f64) {
    let mut actor = Actor::new(&traffic.recorder);
    let mut pace = Pace::new(rate);
    while pace.turn(&traffic).await {
        let work = traffic.ms(1_000, 8_000);
        let wish = Wish::new(&traffic, traffic.places.exclusive(work), 1);
        wish.submit(&mut actor, traffic.targets.mixed(&traffic.entropy)).await;
    }
}
