//! Followers of the event stream: one through the client crate, some that read what masters send as it is, and one that goes back
//! to an older index now and then.
//!
//! What always holds: a follower's number stays the same over all its reconnections, so that what it got in all adds up to one
//! stream; who begins anew at an older index gets a new number. Nothing that arrives is left out, repeats included.

use std::sync::Arc;
use std::time::Duration;

use steersman_client::v1::events_client::EventsClient;
use steersman_client::v1::{EventBatch, SubscribeRequest};
use steersman_client::{Client, EventItem, EventsFrom};
use steersman_evidence::record::{Event, Events, Record};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Streaming;

use crate::chaos::recorder::Recorder;
use crate::chaos::traffic::Traffic;
use steersman_evidence::answers;

/// Followers that read what masters send.
const RAW: u32 = 2;
/// A raw follower changes its master after so long, in ms, at the latest.
const STAYS_MS: (u64, u64) = (8_000, 40_000);
/// Without a word from its master it goes elsewhere: masters send progress marks far more often when there is anything to tell.
const SILENCE: Duration = Duration::from_secs(5);
/// Pause after a master that does not serve.
const AGAIN: Duration = Duration::from_millis(200);
/// How far back the one that goes back goes, in entries, and how often.
const BACK: u64 = 300;
const BACK_EVERY_MS: (u64, u64) = (20_000, 60_000);

/// The index after which a follower is done, once it is known.
type Goal = watch::Receiver<Option<u64>>;

pub(super) fn start(traffic: &Arc<Traffic>, goal: &watch::Sender<Option<u64>>) -> JoinSet<()> {
    let mut set = JoinSet::new();
    set.spawn(polite(traffic.clone(), goal.subscribe()));
    for _ in 0..RAW {
        set.spawn(raw(traffic.clone(), goal.subscribe()));
    }
    set.spawn(goes_back(traffic.clone(), goal.subscribe()));
    set
}

/// One follower's place in the stream.
struct Place {
    recorder: Arc<Recorder>,
    follower: u64,
    /// First index that has not come yet; 0 at the beginning.
    next: u64,
}

impl Place {
    fn new(recorder: &Arc<Recorder>, next: u64) -> Self {
        Self { recorder: recorder.clone(), follower: recorder.new_follower(), next }
    }

    fn reached(&self, goal: &Goal) -> bool {
        goal.borrow().is_some_and(|goal| self.next > goal)
    }

    fn take(&mut self, master: Option<u64>, batch: &EventBatch) {
        if batch.gap_to > 0 {
            return self.gap(master, batch.gap_from, batch.gap_to);
        }
        self.next = self.next.max(batch.index + 1);
        if !batch.events.is_empty() {
            let events = batch.events.iter().map(answers::event).collect();
            self.write(master, batch.index, batch.term, events);
        }
    }

    fn gap(&mut self, master: Option<u64>, from: u64, to: u64) {
        self.next = self.next.max(to + 1);
        self.write(master, to, 0, vec![Event::Gap { from, to }]);
    }

    fn write(&self, master: Option<u64>, index: u64, term: u64, events: Vec<Event>) {
        let follower = self.follower;
        self.recorder.record(|at_us| Record::Events(Events { follower, at_us, master, index, term, events }));
    }
}

/// Follows through the client crate, which finds a master by itself.
async fn polite(traffic: Arc<Traffic>, mut goal: Goal) {
    let mut place = Place::new(&traffic.recorder, 0);
    loop {
        let from = if place.next == 0 { EventsFrom::Oldest } else { EventsFrom::Index(place.next) };
        let mut stream = traffic.targets.all().events(from, true);
        loop {
            let item = tokio::select! {
                item = stream.next() => item,
                _ = goal.changed() => None,
            };
            match item {
                Some(Ok(EventItem::Batch(batch))) => place.take(None, &batch),
                Some(Ok(EventItem::Gap { from, to })) => place.gap(None, from, to),
                Some(Ok(EventItem::Progress { index })) => place.next = place.next.max(index + 1),
                Some(Ok(EventItem::Lost { .. } | EventItem::Reconnected { .. })) => {}
                Some(Err(_)) | None => break,
            }
            if place.reached(&goal) {
                return;
            }
        }
        if place.reached(&goal) {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Follows what masters send, one master after another.
async fn raw(traffic: Arc<Traffic>, goal: Goal) {
    let mut place = Place::new(&traffic.recorder, 0);
    while !place.reached(&goal) {
        let (master, client) = traffic.targets.some(&traffic.entropy);
        let stays = Instant::now() + traffic.ms(STAYS_MS.0, STAYS_MS.1);
        if let Some(stream) = subscribe(&client, place.next, true).await {
            drain(stream, &mut place, master, stays, &goal).await;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Reads a piece of the past again, each time as a follower of its own.
async fn goes_back(traffic: Arc<Traffic>, goal: Goal) {
    while traffic.pause(traffic.ms(BACK_EVERY_MS.0, BACK_EVERY_MS.1)).await {
        let (master, client) = traffic.targets.some(&traffic.entropy);
        let Ok(info) = client.info().await else { continue };
        let from = info.applied_index.saturating_sub(traffic.below(BACK)).max(1);
        let mut place = Place::new(&traffic.recorder, from);
        if let Some(stream) = subscribe(&client, from, false).await {
            drain(stream, &mut place, master, Instant::now() + SILENCE, &goal).await;
        }
    }
}

async fn subscribe(client: &Client, next: u64, follow: bool) -> Option<Streaming<EventBatch>> {
    let open = async {
        let channel = client.channel(client.bound_to()?).await.ok()?;
        let request = SubscribeRequest { from_index: next, oldest: next == 0, follow };
        let mut service = EventsClient::new(channel).max_decoding_message_size(steersman_client::MESSAGE_BYTES_MAX);
        Some(service.subscribe(request).await.ok()?.into_inner())
    };
    tokio::time::timeout(SILENCE, open).await.ok()?
}

/// Takes what comes until the stream ends or falls silent, `stays` is over or the goal is reached.
async fn drain(mut stream: Streaming<EventBatch>, place: &mut Place, master: u64, stays: Instant, goal: &Goal) {
    while !place.reached(goal) {
        let until = stays.min(Instant::now() + SILENCE);
        match tokio::time::timeout_at(until, stream.message()).await {
            Ok(Ok(Some(batch))) => place.take(Some(master), &batch),
            _ => return,
        }
    }
}
