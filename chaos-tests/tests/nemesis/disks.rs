//! Disks: no power, no space, no speed, no truth.

use std::fs::File;
use std::io::Write as _;

use steersman_chaos_tests::PATIENCE;
use steersman_chaos_tests::bed::links::Spot;
use steersman_chaos_tests::bed::orders::Done;
use steersman_chaos_tests::bed::{Bed, Wanted};
use steersman_chaos_tests::nemesis::Class;
use steersman_chaos_tests::poll::until_now;

use crate::{Story, wanted};

/// A new file on a master's disk that nobody syncs. (An old one that is written anew is synced by ext4 itself.)
fn write_unsynced(bed: &Bed, id: u64, name: &str) {
    let footing = bed.footing(Spot::Master(id)).unwrap();
    let path = footing.disk.as_ref().unwrap().path().join(name);
    let write = || File::create(&path).and_then(|mut file| file.write_all(b"unsynced"));
    footing.place.within(write).unwrap().unwrap();
}

fn what_is_left(bed: &Bed, id: u64, name: &str) -> Option<Vec<u8>> {
    let footing = bed.footing(Spot::Master(id)).unwrap();
    let path = footing.disk.as_ref().unwrap().path().join(name);
    footing.place.within(|| std::fs::read(&path).ok()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_a_power_loss_of_one_and_of_all_takes_only_what_was_not_synced() {
    let test = "power";
    let wanted = Wanted { separate_disks: true, ..wanted(test) };
    let Some(mut story) = Story::begin(test, wanted).await else { return };
    for (round, class) in [Class::PowerLoss, Class::PowerLossAll, Class::PowerLoss].into_iter().enumerate() {
        let (ids, name) = (story.bed.masters(), format!("unsynced-{round}"));
        ids.iter().for_each(|id| write_unsynced(&story.bed, *id, &name));
        let active = story.inject(class).await;
        for id in &active.masters {
            assert!(story.bed.cluster().info_of(*id).await.is_none());
            assert_eq!(story.bed.cluster().master(*id).process.pid(), None);
        }
        let hit = active.masters.clone();
        story.heal(active).await;
        for id in hit {
            assert_ne!(
                what_is_left(&story.bed, id, &name).as_deref(),
                Some(&b"unsynced"[..]),
                "{class} of master {id} took nothing"
            );
        }
    }
    story.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_full_slow_and_failing_disks_of_one_master_are_survived() {
    let test = "disks";
    let wanted = Wanted { separate_disks: true, ..wanted(test) };
    let Some(mut story) = Story::begin(test, wanted).await else { return };
    for (class, done) in [
        (Class::DiskSlow, Done::WritesDelayed),
        (Class::SyncSlow, Done::SyncsDelayed),
        (Class::SyncFails, Done::SyncsFailed),
    ] {
        let before: Vec<u64> = counts(&story.bed, done);
        let active = story.inject(class).await;
        until_now(&format!("{done:?}"), PATIENCE, || match counts(&story.bed, done) {
            now if now != before => Ok(()),
            now => Err(format!("{now:?}")),
        })
        .await;
        assert_eq!(story.bed.impaired(), active.masters);
        story.load.answered(3).await;
        story.heal(active).await;
    }
    let active = story.inject(Class::DiskFull).await;
    let footing = story.bed.footing(Spot::Master(*active.masters.first().unwrap())).unwrap();
    let path = footing.disk.as_ref().unwrap().path().join("more");
    let more = footing.place.within(|| std::fs::write(path, [1; 65_536])).unwrap();
    assert_eq!(more.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    story.load.answered(3).await;
    story.heal(active).await;
    story.end().await;
}

fn counts(bed: &Bed, done: Done) -> Vec<u64> {
    bed.masters().into_iter().map(|id| bed.order(Spot::Master(id), |orders| orders.count(done)).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_a_lying_disk_of_one_master_costs_nothing_that_was_acknowledged() {
    let test = "lies";
    let wanted = Wanted { separate_disks: true, ..wanted(test) };
    let Some(mut story) = Story::begin(test, wanted).await else { return };
    let (mut synced, mut lost) = (false, false);
    // Half of the lies end in a power loss: both endings are told.
    for _ in 0..8 {
        let active = story.inject(Class::SyncLies).await;
        let (id, by_power) = (*active.masters.first().unwrap(), active.target.contains("power"));
        let lied = story.bed.order(Spot::Master(id), |orders| orders.count(Done::SyncsLied)).unwrap();
        assert!(lied > 0);
        story.heal(active).await;
        assert_eq!(story.bed.masters().contains(&id), !by_power, "who lost its word is replaced");
        (synced, lost) = (synced || !by_power, lost || by_power);
        if synced && lost {
            break;
        }
    }
    assert!(synced && lost);
    story.end().await;
}
