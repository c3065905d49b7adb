//! The event stream that survives its masters.
//!
//! What always holds: batches rise by log index without a repeat or a gap, over any number of reconnections; trimmed
//! history is said with [`EventItem::Gap`]; a lost connection is said, not hidden.

use std::time::Duration;

use futures::stream::Stream;
use steersman_proto::v1::events_client::EventsClient;
use steersman_proto::v1::{EventBatch, SubscribeRequest};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::channels::Connection;
use crate::error::{Error, answer_text};
use crate::redirect::LeaderHint;
use crate::retry::{Backoff, Call, Kind};
use crate::{Class, Client, MESSAGE_BYTES_MAX};

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventsFrom {
    /// What happens from now on.
    Now,
    /// Everything that is still kept.
    Oldest,
    /// This log index and everything after it.
    Index(u64),
}

/// What an [`EventStream`] yields.
#[derive(Debug, Clone, PartialEq)]
pub enum EventItem {
    /// All events of one log entry.
    Batch(EventBatch),
    /// Events of these indexes, both inclusive, were trimmed and are not known any more.
    Gap {
        /// The first missing index.
        from: u64,
        /// The last missing index.
        to: u64,
    },
    /// Everything up to this index was delivered.
    Progress {
        /// The log index.
        index: u64,
    },
    /// The connection was lost; the stream goes on from `next_index` as soon as a master serves it.
    Lost {
        /// The master that served it.
        master: String,
        /// What became of it.
        why: String,
        /// The first index that was not delivered.
        next_index: u64,
    },
    /// The stream goes on.
    Reconnected {
        /// The master that serves it now.
        master: String,
        /// The first index that comes now.
        next_index: u64,
        /// How long it was interrupted.
        after: Duration,
    },
}

/// Events in log order. See the module for what always holds.
pub struct EventStream {
    client: Client,
    from: EventsFrom,
    follow: bool,
    open: Option<(String, Streaming<EventBatch>)>,
    /// The first index that was not delivered yet, once known.
    next_index: Option<u64>,
    ended: bool,
    lost_at: Option<Instant>,
    backoff: Backoff,
    /// Slept before the next connect: the last one broke before it brought anything.
    pause: Option<Instant>,
}

impl Client {
    /// Subscribes from `from`. With `follow` it goes on for ever; without it, it ends when it has caught up. Connects on
    /// the first [`EventStream::next`].
    pub fn events(&self, from: EventsFrom, follow: bool) -> EventStream {
        let next_index = match from {
            EventsFrom::Index(index) => Some(index.max(1)),
            EventsFrom::Now | EventsFrom::Oldest => None,
        };
        EventStream {
            client: self.clone(),
            from,
            follow,
            open: None,
            next_index,
            ended: false,
            lost_at: None,
            backoff: Backoff::default(),
            pause: None,
        }
    }
}

impl Client {
    /// The one master that this client is bound to (see [`Client::only`]): for streams of one's own, with [`Client::channel`].
    pub fn bound_to(&self) -> Option<&str> {
        self.only.as_deref()
    }
}

impl EventStream {
    /// The next item; `None` after the end or an error. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A refusal by the caller's fault, or no master within the client's timeout. A followed stream that was open once
    /// never gives up on masters: it waits for them.
    pub async fn next(&mut self) -> Option<Result<EventItem, Error>> {
        while !self.ended {
            if self.open.is_none() {
                match self.connect().await {
                    Ok(None) => {}
                    Ok(Some(item)) => return Some(Ok(item)),
                    Err(error) => return self.end(error),
                }
            }
            let Some((_, stream)) = &mut self.open else { continue };
            match stream.message().await {
                Ok(Some(batch)) => {
                    if let Some(item) = self.take(batch) {
                        return Some(Ok(item));
                    }
                }
                Ok(None) if !self.follow => self.ended = true,
                Ok(None) => return Some(Ok(self.lost(&Status::unavailable("the master ended the stream")))),
                Err(status) => match Error::of_stream(&status) {
                    Some(error) => return self.end(error),
                    None => return Some(Ok(self.lost(&status))),
                },
            }
        }
        None
    }

    /// The first index that was not delivered yet; `None` until a position is known.
    pub fn next_index(&self) -> Option<u64> {
        self.next_index
    }

    /// As a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<EventItem, Error>> + Send {
        futures::stream::unfold(self, |mut events| async move { events.next().await.map(|item| (item, events)) })
    }

    fn end(&mut self, error: Error) -> Option<Result<EventItem, Error>> {
        self.ended = true;
        Some(Err(error))
    }

    /// Opens the stream at some master. Yields `Reconnected` if it was open before.
    async fn connect(&mut self) -> Result<Option<EventItem>, Error> {
        if let Some(pause) = self.pause {
            tokio::time::sleep_until(pause).await;
            self.pause = None;
        }
        if self.from == EventsFrom::Now && self.next_index.is_none() {
            // Nailed down before subscribing, so that a failover right after it skips nothing.
            self.next_index = Some(self.client.info().await?.applied_index + 1);
        }
        #[cfg(feature = "seeded-bugs")]
        self.misplace();
        let request = SubscribeRequest {
            from_index: self.next_index.unwrap_or(0),
            oldest: self.next_index.is_none(),
            follow: self.follow,
        };
        match self.client.ask(Call::new(Kind::Read).stream(), request, subscribe).await {
            Ok(open) => Ok(self.opened(open)),
            Err(error) if self.lost_at.is_some() && self.follow && error.class() != Class::Caller => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Goes on one entry too late, or one too early.
    #[cfg(feature = "seeded-bugs")]
    fn misplace(&mut self) {
        let Some(next) = self.next_index.filter(|next| *next > 1 && self.lost_at.is_some()) else { return };
        if steersman_bugs::planted("event-skipped-on-resume") {
            self.next_index = Some(next + 1);
        } else if steersman_bugs::planted("event-twice-on-resume") {
            self.next_index = Some(next - 1);
        }
    }

    fn opened(&mut self, open: (String, Streaming<EventBatch>)) -> Option<EventItem> {
        let master = open.0.clone();
        self.open = Some(open);
        let lost_at = self.lost_at.take()?;
        let after = self.client.inner.world.clock.now().saturating_duration_since(lost_at);
        Some(EventItem::Reconnected { master, next_index: self.next_index.unwrap_or(0), after })
    }

    fn lost(&mut self, status: &Status) -> EventItem {
        let now = self.client.inner.world.clock.now();
        let master = self.open.take().map_or_else(String::new, |(master, _)| master);
        self.client.inner.channels.forget(&master);
        self.client.inner.distrust(&master);
        if let Some(hint) = LeaderHint::from_status(status) {
            self.client.inner.learn(&hint);
        }
        self.lost_at = Some(now);
        self.pause = Some(now + self.backoff.pause(&*self.client.inner.world.entropy));
        EventItem::Lost { master, why: answer_text(status), next_index: self.next_index.unwrap_or(0) }
    }

    /// What of a batch is new.
    fn take(&mut self, batch: EventBatch) -> Option<EventItem> {
        self.backoff = Backoff::default();
        let next = self.next_index.unwrap_or(0);
        if batch.gap_to > 0 {
            let (from, to) = (batch.gap_from.max(next), batch.gap_to);
            self.next_index = Some(next.max(to + 1));
            return (from <= to).then_some(EventItem::Gap { from, to });
        }
        if batch.index < next {
            return None;
        }
        self.next_index = Some(batch.index + 1);
        if batch.events.is_empty() {
            return Some(EventItem::Progress { index: batch.index });
        }
        Some(EventItem::Batch(batch))
    }
}

async fn subscribe(
    connection: Connection,
    request: tonic::Request<SubscribeRequest>,
) -> Result<tonic::Response<Streaming<EventBatch>>, Status> {
    EventsClient::new(connection.channel).max_decoding_message_size(MESSAGE_BYTES_MAX).subscribe(request).await
}
