//! A bed without rights: streams through a proxy, no disks, and a clear word about what it cannot do.

use steersman_chaos_tests::PATIENCE;
use steersman_chaos_tests::bed::links::Spot;
use steersman_chaos_tests::bed::{Network, Wanted};
use steersman_chaos_tests::nemesis::{self, Class, Skipped};
use steersman_chaos_tests::poll::{until, until_now};

use crate::{Story, wanted};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_rights_a_proxy_cuts_and_delays_and_says_what_it_cannot_do() {
    let test = "proxy";
    let wanted = Wanted { network: Some(Network::Proxy), ..wanted(test) };
    let Some(mut story) = Story::begin(test, wanted).await else { return };
    for class in [Class::Loss, Class::Duplicate, Class::Reorder, Class::PowerLoss, Class::PowerLossAll] {
        assert!(class.needs_root());
        match nemesis::inject(&mut story.bed, class, &mut story.dice).await {
            Err(Skipped::Unable(why)) => assert!(why.len() > 20, "{why}"),
            other => panic!("{class}: {other:?}"),
        }
    }
    story
        .through(Class::LeaderIsolated, async |bed, active| {
            let id = *active.masters.first().unwrap();
            let other = bed.masters().into_iter().find(|other| *other != id).unwrap();
            until_now("something to be held", PATIENCE, || {
                let counts = bed.links().counts((Spot::Master(id), Spot::Master(other)));
                if counts.cut > 0 { Ok(()) } else { Err(format!("{counts:?}")) }
            })
            .await;
            until("another leader", PATIENCE, async || match bed.leader().await {
                Some(reign) if reign.leader != id => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
        })
        .await;
    story
        .through(Class::WorkerCut, async |bed, active| {
            let name = active.workers.first().unwrap();
            assert!(!bed.reachable(name));
            bed.cluster().wait_worker(name, steersman_client::v1::WorkerStatus::Offline).await;
        })
        .await;
    for class in [Class::Delay, Class::PartitionHalves, Class::DiskFull, Class::Kill] {
        story.through(class, async |_, _| {}).await;
    }
    story.end().await;
}
