//! `steersman.v1.Events`: what happened, once, in log order, from any index still kept, on any master.
//!
//! What always holds: indexes rise; what was trimmed is named by a gap marker before anything after it; a piece of the
//! stream is read under a short lock and sent without one; a caller that reads slowly costs one piece of memory and holds
//! nothing back. The stream ends with `UNAVAILABLE` when the node goes down, and goes on at another master from the index
//! after the last one.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream};
use steersman_proto::codes;
use steersman_proto::v1::{self as pb, events_server::Events};
use steersman_state::EventPage;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::convert::{self, Begin};
use super::status::status;
use crate::node::Node;

/// Events that are copied under one read lock.
const PAGE_EVENTS_MAX: usize = 1_024;
/// A stream without events tells how far it is so often.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// The service.
pub struct EventsApi {
    node: Arc<Node>,
}

impl EventsApi {
    /// The service of one node.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

/// One open stream; counted while it lives.
pub struct StreamGuard(Arc<Node>);

impl StreamGuard {
    /// Counts a stream in.
    ///
    /// # Errors
    /// `OVERLOADED` if there are too many.
    pub fn open(node: &Arc<Node>) -> Result<Self, Status> {
        let guard = Self(node.clone());
        let (open, limit) = (node.metrics.stream_opened(), node.config.limits.streams_max);
        if open > limit {
            let message = format!("{limit} streams are open, which is the limit (limits.streams_max)");
            return Err(status(codes::OVERLOADED, message));
        }
        Ok(guard)
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.metrics.stream_closed();
    }
}

type Batches = Pin<Box<dyn Stream<Item = Result<pb::EventBatch, Status>> + Send>>;

#[tonic::async_trait]
impl Events for EventsApi {
    type SubscribeStream = Batches;

    async fn subscribe(&self, request: Request<pb::SubscribeRequest>) -> Result<Response<Batches>, Status> {
        let request = request.into_inner();
        let begin = convert::subscribe_in(&request)?;
        let guard = StreamGuard::open(&self.node)?;
        if !request.follow {
            // "Caught up" means with what was acknowledged before the call; without a quorum, with what is here.
            let _ = self.node.read(false).await;
        }
        let follower = Follower::begin(self.node.clone(), begin, request.follow, guard);
        let batches = stream::unfold(Some(follower), |follower| async move {
            let mut follower = follower?;
            match follower.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(follower))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(batches)))
    }
}

/// One subscriber's place in the stream.
struct Follower {
    node: Arc<Node>,
    applied: watch::Receiver<u64>,
    /// Read, not yet sent.
    queue: VecDeque<pb::EventBatch>,
    /// Next index to read.
    next: u64,
    /// Where it ends; absent if it follows for ever.
    end: Option<u64>,
    /// The last index that the subscriber was told of.
    told: u64,
    told_at: Instant,
    _guard: StreamGuard,
}

impl Follower {
    fn begin(node: Arc<Node>, begin: Begin, follow: bool, guard: StreamGuard) -> Self {
        let (applied_index, oldest) = {
            let state = node.state.read();
            (state.applied_index(), state.oldest_event_index())
        };
        let next = match begin {
            Begin::Now => applied_index + 1,
            Begin::Oldest => oldest,
            Begin::At(index) => index,
        };
        let (applied, told_at) = (node.applied_watch(), node.world.clock.now());
        let end = (!follow).then_some(applied_index);
        Self { node, applied, queue: VecDeque::new(), next, end, told: next.saturating_sub(1), told_at, _guard: guard }
    }

    /// The next message; `None` at the end.
    async fn next(&mut self) -> Result<Option<pb::EventBatch>, Status> {
        loop {
            if let Some(batch) = self.queue.pop_front() {
                self.told = self.told.max(batch.index).max(batch.gap_to);
                self.told_at = self.node.world.clock.now();
                return Ok(Some(batch));
            }
            if self.node.shutting_down() {
                return Err(status(codes::SHUTTING_DOWN, "this master is going down: go on at another one"));
            }
            self.applied.borrow_and_update();
            if self.read() {
                continue;
            }
            if self.end.is_some_and(|end| self.next > end) {
                return Ok(None);
            }
            self.wait().await;
        }
    }

    /// Reads the next piece; true if it brought something to send.
    fn read(&mut self) -> bool {
        if let Some(page) = self.page() {
            self.next = self.next.max(page.upto + 1);
            self.queue.extend(batches(&page));
        }
        !self.queue.is_empty() || self.mark()
    }

    fn page(&self) -> Option<EventPage> {
        let state = self.node.state.read();
        (state.applied_index() >= self.next).then(|| state.events_from(self.next, PAGE_EVENTS_MAX))
    }

    /// A progress mark, if one is due: at the end of what there is, or once in a while.
    fn mark(&mut self) -> bool {
        let upto = self.next - 1;
        let caught_up = self.end.is_some_and(|end| self.next > end);
        let due = self.node.world.clock.now() >= self.told_at + MARK_EVERY;
        let news = upto > self.told && (due || caught_up);
        if news {
            self.queue.push_back(pb::EventBatch { index: upto, ..pb::EventBatch::default() });
        }
        news
    }

    /// Until something was applied, a mark is due, or the node goes down.
    async fn wait(&mut self) {
        if *self.applied.borrow() >= self.next {
            return;
        }
        let behind = self.next - 1 > self.told;
        // As a length of time: a sleep is on tokio's clock, which is not this node's in a simulation.
        let until_mark = (self.told_at + MARK_EVERY).saturating_duration_since(self.node.world.clock.now());
        tokio::select! {
            // The sender lives as long as the node.
            _ = self.applied.changed() => {}
            () = tokio::time::sleep(until_mark), if behind => {}
            () = self.node.going_down() => {}
        }
    }
}

/// A page in the words of the wire: the gap first.
fn batches(page: &EventPage) -> Vec<pb::EventBatch> {
    let gap = page.gap.map(|(gap_from, gap_to)| pb::EventBatch { gap_from, gap_to, ..pb::EventBatch::default() });
    gap.into_iter().chain(page.entries.iter().map(convert::entry_out)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_state::{Event, EventEntry};

    #[test]
    fn p08_a_gap_is_told_before_what_follows_it() {
        let entry = EventEntry {
            index: 12,
            term: 3,
            time_ms: 5,
            wall_ms: 6,
            events: vec![Event::TasksTrimmed { count: 2 }].into(),
        };
        let page = EventPage { gap: Some((4, 11)), entries: vec![entry], upto: 12 };
        let seen: Vec<_> = batches(&page).iter().map(|b| (b.gap_from, b.gap_to, b.index, b.events.len())).collect();
        assert_eq!(seen, [(4, 11, 0, 0), (0, 0, 12, 1)]);
    }
}
