//! What tasks do here: sleep in steps, log their interval, write to the fenced register with their token, and fail at times.
//!
//! What always holds: an attempt that is dropped (its worker died, or it was cut off) ends its interval; one that could give no
//! sign of life for a while (its worker stood still) ends it at its last sign.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use steersman_proto::v1::{Backoff, Handler as HandlerWork, OnPartition, RetryOn, TaskGroup, TaskSpec, task_spec};
use steersman_worker::{Handler, HandlerContext, HandlerError};
use steersman_world::{Entropy as _, SeededEntropy};

use super::recorder::{Recorder, SILENT_US};
use crate::scope::Scope;

/// Name under which workers offer it.
pub const HANDLER: &str = "work";
/// Between two signs of life.
const STEP: Duration = Duration::from_millis(20);
/// More than the faults of a run can end.
const ATTEMPTS_MAX: u32 = 40;

const EXCLUSIVE: u8 = 1;
const FAILS_FIRST: u8 = 2;
const FAILS_ALWAYS: u8 = 4;
/// Its time counts in steps of 40 ms instead of 10.
const SLOW: u8 = 8;

/// What one worker runs.
pub struct Work {
    /// The worker's name.
    pub worker: String,
    /// Where it logs.
    pub recorder: Recorder,
    /// The worker's process, with which its attempts stand still.
    pub scope: Arc<Scope>,
}

/// Ends the interval, however the attempt ends.
struct Open {
    token: u64,
    recorder: Recorder,
}

impl Drop for Open {
    fn drop(&mut self) {
        let now = self.recorder.now_us();
        let seen = self.recorder.interval_seen(self.token).unwrap_or(now);
        self.recorder.interval_ended(self.token, if now - seen > SILENT_US { seen } else { now });
    }
}

impl Handler for Work {
    fn run(&self, context: HandlerContext) -> BoxFuture<'static, Result<Bytes, HandlerError>> {
        let (worker, recorder) = (self.worker.clone(), self.recorder.clone());
        Box::pin(self.scope.clone().contain(async move {
            let flags = context.payload.first().copied().unwrap_or(0);
            let tens = u64::from(context.payload.get(1).copied().unwrap_or(0));
            let token = context.fencing_token;
            recorder.interval_began(context.task_id, token, &worker, flags & EXCLUSIVE != 0);
            let _open = Open { token, recorder: recorder.clone() };
            let until = tokio::time::Instant::now()
                + Duration::from_millis(if flags & SLOW != 0 { 40 * tens } else { 10 * tens });
            while tokio::time::Instant::now() < until {
                let left = until - tokio::time::Instant::now();
                tokio::time::sleep(left.min(STEP)).await;
                recorder.interval_alive(token);
            }
            if flags & FAILS_ALWAYS != 0 || (flags & FAILS_FIRST != 0 && context.attempt == 1) {
                return Err(HandlerError::new("as it was asked to"));
            }
            if !recorder.fenced_write(context.task_id, token) {
                return Err(HandlerError::new("a newer attempt has written"));
            }
            Ok(Bytes::new())
        }))
    }
}

/// A group of tasks of a random kind.
pub fn group(numbers: &SeededEntropy, count: u32) -> TaskGroup {
    let exclusive = numbers.below(3) == 0;
    let fails = match numbers.below(12) {
        0 => FAILS_FIRST,
        1 => FAILS_ALWAYS,
        _ => 0,
    };
    // Mostly short, some as long as a lease; of the exclusive ones some are longer than a lease and all that follows it.
    let (tens, slow) = match numbers.below(10) {
        0 => (100 + numbers.below(150), exclusive),
        1..=3 => (20 + numbers.below(80), false),
        _ => (1 + numbers.below(20), false),
    };
    group_of(u8::from(exclusive) | fails | if slow { SLOW } else { 0 }, tens as u8, count)
}

/// Many short tasks.
pub fn flood(count: u32) -> TaskGroup {
    group_of(0, 2, count)
}

fn group_of(flags: u8, tens: u8, count: u32) -> TaskGroup {
    let work = HandlerWork { name: HANDLER.to_owned(), payload: vec![flags, tens].into() };
    let exclusive = flags & EXCLUSIVE != 0;
    let spec = TaskSpec {
        work: Some(task_spec::Work::Handler(work)),
        on_partition: if exclusive { OnPartition::Stop } else { OnPartition::Continue }.into(),
        max_attempts: if flags & FAILS_ALWAYS != 0 { 2 } else { ATTEMPTS_MAX },
        retry_on: Some(RetryOn { worker_lost: true, timeout: true, any_exit_code: true, exit_codes: Vec::new() }),
        backoff: Some(Backoff { initial_ms: 200, max_ms: 1_000, factor: 1.5, jitter: 0.2 }),
        ..TaskSpec::default()
    };
    TaskGroup { spec: Some(spec), count }
}
