//! The network, packet by packet: cuts are seen on the links that they cut, weather on all links.

use std::collections::BTreeSet;
use std::time::Duration;

use steersman_chaos_tests::PATIENCE;
use steersman_chaos_tests::bed::Bed;
use steersman_chaos_tests::bed::links::{Counts, Link, Policy, Spot, one_way};
use steersman_chaos_tests::nemesis::{Active, Class};
use steersman_chaos_tests::poll::{until, until_now};

use crate::{Story, wanted};

/// One figure of a link.
type Count = fn(Counts) -> u64;

/// Every directed link between two masters.
fn between_masters(bed: &Bed) -> Vec<Link> {
    let spots: Vec<Spot> = bed.masters().into_iter().map(Spot::Master).collect();
    spots.iter().flat_map(|a| spots.iter().filter(move |b| *b != a).map(move |b| (*a, *b))).collect()
}

/// Waits until so much was counted on a link since now.
async fn counted(bed: &Bed, link: Link, what: &str, count: impl Fn(Counts) -> u64) {
    let before = count(bed.links().counts(link));
    until_now(&format!("{what} from {} to {}", link.0, link.1), PATIENCE, || match bed.links().counts(link) {
        counts if count(counts) > before => Ok(()),
        counts => Err(format!("{counts:?}")),
    })
    .await;
}

/// The links that are cut are those, and packets are seen to die on each of them while others live.
async fn cut(bed: &mut Bed, active: &Active, works: impl Fn(&[Link]) -> bool) {
    let links = between_masters(bed);
    let (cut, open): (Vec<Link>, Vec<Link>) = links.into_iter().partition(|link| bed.links().policy(*link).cut);
    assert!(works(&cut), "{}: {cut:?}", active.target);
    for link in cut {
        counted(bed, link, "a packet that is cut", |counts| counts.cut).await;
    }
    until("a leader whom a majority hears", PATIENCE, async || match bed.leader().await {
        Some(reign) if bed.fit().contains(&reign.leader) => Ok(()),
        other => Err(format!("{other:?} of fit {:?}", bed.fit())),
    })
    .await;
    for link in open {
        // Who hears nobody may have nothing to say to anybody either.
        if bed.fit().contains(&[link.0, link.1].map(id)[0]) && bed.fit().contains(&id(link.1)) {
            counted(bed, link, "a packet that passes", |counts| counts.passed).await;
        }
    }
}

fn id(spot: Spot) -> u64 {
    if let Spot::Master(id) = spot { id } else { 0 }
}

fn touching(links: &[Link]) -> BTreeSet<u64> {
    let first = links.first().map_or(BTreeSet::new(), |link| [id(link.0), id(link.1)].into());
    first.into_iter().filter(|id| links.iter().all(|link| [link.0, link.1].contains(&Spot::Master(*id)))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_cut_what_they_say_and_a_majority_goes_on() {
    let test = "partitions";
    let Some(mut story) = Story::begin(test, wanted(test)).await else { return };
    story
        .through(Class::LeaderIsolated, async |bed, active| {
            let [isolated] = active.masters.iter().copied().collect::<Vec<_>>()[..] else { panic!("{active:?}") };
            assert_eq!(bed.impaired(), [isolated].into());
            assert_eq!(bed.spare(), 0);
            cut(bed, active, |cut| cut.len() == 4 && touching(cut).contains(&isolated)).await;
        })
        .await;
    story
        .through(Class::PartitionOneSided, async |bed, active| {
            cut(bed, active, |cut| cut.len() == 2 && touching(cut).len() == 1).await;
        })
        .await;
    story
        .through(Class::PartitionHalves, async |bed, active| {
            cut(bed, active, |cut| cut.len() == 4 && touching(cut).len() == 1).await;
            for name in active.workers.iter() {
                assert!(!bed.reachable(name), "{name} is cut off");
            }
        })
        .await;
    story
        .through(Class::Bridge, async |bed, active| {
            cut(bed, active, |cut| cut.len() == 2 && touching(cut).len() == 2).await;
            assert_eq!(bed.impaired(), [].into(), "both still see a majority");
        })
        .await;
    story
        .through(Class::Flapping, async |bed, active| {
            let own = Spot::Master(*active.masters.first().unwrap());
            let links = between_masters(bed);
            let link = *links.iter().find(|link| link.0 == own).unwrap();
            for _ in 0..2 {
                counted(bed, link, "a packet that is cut", |counts| counts.cut).await;
                counted(bed, link, "a packet that passes", |counts| counts.passed).await;
            }
        })
        .await;
    story.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_weather_touches_every_link_and_stops_nothing() {
    let test = "weather";
    let Some(mut story) = Story::begin(test, wanted(test)).await else { return };
    let seen: [(Class, Count); 5] = [
        (Class::Delay, |counts| counts.late),
        (Class::Jitter, |counts| counts.late),
        (Class::Loss, |counts| counts.lost),
        (Class::Duplicate, |counts| counts.doubled),
        (Class::Reorder, |counts| counts.overtaken),
    ];
    for (class, count) in seen {
        story
            .through(class, async |bed, _| {
                let leader = bed.cluster().wait_leader().await.leader;
                let other = bed.masters().into_iter().find(|id| *id != leader).unwrap();
                let (own, other) = (Spot::Master(leader), Spot::Master(other));
                for link in [(own, other), (other, own), (Spot::Runner, own)] {
                    counted(bed, link, class.name(), count).await;
                }
            })
            .await;
    }
    let active = story.inject(Class::Throttle).await;
    let own = Spot::Master(*active.masters.first().unwrap());
    let narrow = story.bed.links().policy((Spot::Runner, own));
    assert!(narrow.bytes_per_s > 0);
    let link = between_masters(&story.bed).into_iter().find(|link| link.1 == own).unwrap();
    counted(&story.bed, link, "a packet that waited", |counts| counts.late).await;
    story.heal(active).await;
    story.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_delay_adds_is_seen_by_a_client() {
    let test = "delay";
    let Some(story) = Story::begin(test, wanted(test)).await else { return };
    let (own, masters) = (Spot::Runner, story.bed.masters());
    let spots: Vec<Spot> = masters.iter().copied().map(Spot::Master).collect();
    let client = story.bed.client();
    client.info().await.unwrap();
    let delay = Duration::from_millis(150);
    let policy = steersman_chaos_tests::bed::links::Policy { delay, ..Default::default() };
    let layer = story.bed.links().lay(steersman_chaos_tests::bed::links::between(&[own], &spots, policy));
    let began = std::time::Instant::now();
    client.info().await.unwrap();
    assert!(began.elapsed() >= delay * 2, "there and back took {:?}", began.elapsed());
    story.bed.links().lift(layer);
    story.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_masters_whose_round_trip_is_longer_than_a_heartbeats_interval_go_on() {
    let test = "far-apart";
    let Some(story) = Story::begin(test, wanted(test)).await else { return };
    let spots: Vec<Spot> = story.bed.masters().into_iter().map(Spot::Master).collect();
    let apart = |ms| one_way(&spots, &spots, Policy { delay: Duration::from_millis(ms), ..Policy::default() });
    // Nobody asks for anything, so that no write renews the leader's lease: only its heartbeats do, 90 ms there and back.
    story.load.pause(true);
    let layer = story.bed.links().lay(apart(45));
    tokio::time::sleep(Duration::from_secs(4)).await;
    story.load.pause(false);
    story.load.answered(30).await;
    story.bed.links().lift(layer);
    story.end().await;
}
