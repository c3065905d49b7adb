//! Data that is damaged or gone, and members that change.

use steersman_chaos_tests::PATIENCE;
use steersman_chaos_tests::nemesis::Class;

use crate::{Story, wanted};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_a_wiped_master_is_refused_although_all_whom_its_configuration_names_are_gone() {
    let test = "stranger";
    let Some(mut story) = Story::begin(test, wanted(test)).await else { return };
    for id in [1, 2] {
        story.bed.replace(id).await.unwrap();
    }
    story.load.answered(3).await;
    let cluster = story.bed.cluster();
    cluster.kill_master(3);
    cluster.wipe_master(3);
    cluster.start_master(3);
    let ended = cluster.master(3).process.ended(PATIENCE).await;
    assert_eq!(ended.code, Some(75), "{}", ended.text);
    assert!(ended.text.contains("its data directory is new"), "{}", ended.text);
    story.bed.replace(3).await.unwrap();
    story.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_damaged_and_wiped_masters_are_replaced_and_members_change() {
    let test = "members";
    let Some(mut story) = Story::begin(test, wanted(test)).await else { return };
    for class in [Class::WipeRejoin, Class::BitFlip, Class::Truncate, Class::BitFlip, Class::Truncate] {
        let before = story.bed.masters();
        let active = story.inject(class).await;
        let id = *active.masters.first().unwrap();
        if class == Class::WipeRejoin {
            assert!(active.target.contains("refused"), "{}", active.target);
        }
        story.heal(active).await;
        let after = story.bed.masters();
        assert!(!after.contains(&id) && after.len() == before.len(), "{before:?} {after:?}");
    }
    let before = story.bed.masters();
    story
        .through(Class::Membership, async |bed, _| {
            let after = bed.masters();
            assert!(after.len() == 3 && after != before, "{before:?} {after:?}");
            let info = bed.client().info().await.unwrap();
            let mut told: Vec<u64> =
                info.masters.iter().filter_map(|master| Some(master.address.as_ref()?.id)).collect();
            told.sort_unstable();
            assert_eq!(told, after, "the books are right");
        })
        .await;
    story.end().await;
}
