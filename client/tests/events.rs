//! The event stream resumes over masters without a repeat or a gap.
#![allow(clippy::unwrap_used)]

mod fake;

use std::sync::Arc;

use fake::{Fake, Script, at_once, batch, client, status};
use steersman_client::v1::{EventBatch, InfoResponse};
use steersman_client::{Class, EventItem, EventStream, EventsFrom, codes};
use tonic::Status;

fn broken() -> Result<EventBatch, Status> {
    Err(Status::unavailable("connection reset"))
}

async fn collect(mut events: EventStream, items: usize) -> Vec<EventItem> {
    let mut seen = Vec::new();
    while seen.len() < items {
        let Some(item) = tokio::time::timeout(std::time::Duration::from_secs(10), events.next()).await.unwrap() else {
            break;
        };
        seen.push(item.unwrap());
    }
    seen
}

fn indexes(items: &[EventItem]) -> Vec<u64> {
    items.iter().filter_map(|item| if let EventItem::Batch(batch) = item { Some(batch.index) } else { None }).collect()
}

#[tokio::test]
async fn p08_events_resume_without_repeat_or_gap() {
    // Each connection brings three batches from where it was asked to begin, the first of them a repeat, and breaks.
    let script = Script {
        events: Some(Arc::new(|request, _| {
            let from = request.from_index;
            let repeat = from.saturating_sub(1).max(1);
            vec![Ok(batch(repeat)), Ok(batch(from)), Ok(batch(from + 1)), broken()]
        })),
        ..Script::default()
    };
    let (a, b) = (Fake::start(script.clone()).await, Fake::start(script).await);
    let client = client(&[&a.address, &b.address], 2_000);
    let items = collect(client.events(EventsFrom::Index(5), true), 22).await;

    let seen = indexes(&items);
    assert_eq!(seen, (5..5 + seen.len() as u64).collect::<Vec<_>>(), "{items:?}");
    let lost = items.iter().filter(|item| matches!(item, EventItem::Lost { .. })).count();
    let back = items.iter().filter(|item| matches!(item, EventItem::Reconnected { .. })).count();
    assert!(lost >= 5 && back >= 4, "{lost} {back}");
    assert!(a.calls("subscribe") > 0 && b.calls("subscribe") > 0, "another master goes on");
}

#[tokio::test]
async fn p08_trimmed_history_is_said_once() {
    let script = Script {
        events: Some(Arc::new(|request, _| {
            let gap = EventBatch { gap_from: 1, gap_to: 9, ..EventBatch::default() };
            match request.from_index {
                0 => vec![Ok(gap), Ok(batch(10)), broken()],
                from => {
                    vec![Ok(EventBatch { gap_from: 5, gap_to: from + 1, ..EventBatch::default() }), Ok(batch(from + 2))]
                }
            }
        })),
        ..Script::default()
    };
    let fake = Fake::start(script).await;
    let items = collect(client(&[&fake.address], 2_000).events(EventsFrom::Oldest, true), 6).await;
    assert_eq!(items[0], EventItem::Gap { from: 1, to: 9 });
    assert_eq!(items[4], EventItem::Gap { from: 11, to: 12 }, "only what was not delivered: {items:?}");
    assert_eq!(indexes(&items), [10, 13]);
}

#[tokio::test]
async fn from_now_is_nailed_down_before_the_first_connection() {
    let script = Script {
        info: at_once(|_, n| Ok(InfoResponse { applied_index: 41 + u64::from(n) * 100, ..InfoResponse::default() })),
        events: Some(Arc::new(|request, n| if n == 0 { vec![broken()] } else { vec![Ok(batch(request.from_index))] })),
        ..Script::default()
    };
    let fake = Fake::start(script).await;
    let items = collect(client(&[&fake.address], 2_000).events(EventsFrom::Now, true), 3).await;
    assert_eq!(indexes(&items), [42]);
    assert_eq!(fake.calls("info"), 1);
}

#[tokio::test]
async fn without_follow_it_ends_and_refusals_end_it() {
    let script = Script {
        events: Some(Arc::new(|_, _| vec![Ok(batch(1)), Ok(EventBatch { index: 2, ..EventBatch::default() })])),
        ..Script::default()
    };
    let fake = Fake::start(script).await;
    let client = client(&[&fake.address], 2_000);
    let items = collect(client.events(EventsFrom::Index(1), false), 99).await;
    assert_eq!(items, [EventItem::Batch(batch(1)), EventItem::Progress { index: 2 }]);

    fake.set(|script| {
        let refusal = || Err(status(codes::INVALID_ARGUMENT, tonic::Code::InvalidArgument, &[]));
        script.events = Some(Arc::new(move |_, _| vec![refusal()]));
    });
    let mut events = client.events(EventsFrom::Index(1), true);
    assert_eq!(events.next().await.unwrap().unwrap_err().class(), Class::Caller);
    assert!(events.next().await.is_none());
}
