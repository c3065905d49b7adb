//! Snapshots and encoded batches: consistent while the state goes on, equal for equal states, refused when anything is odd.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Node, ended, hello, reread, spec};
use steersman_state::*;

fn bytes(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    bytes
}

fn busy() -> Node {
    let mut node = Node::default();
    node.submit(spec("array"), 3_000);
    let worker = node.open(hello(1, 1, 40, vec![])).worker;
    for id in 1..20 {
        node.end(worker, 1, TaskId(id), ended(Outcome::Succeeded, 0));
    }
    node
}

#[test]
fn an_image_stays_as_it_is_while_the_state_goes_on() {
    let mut node = busy();
    let (image, before, index) = (node.state.image(), bytes(&node.state.image()), node.index);
    let worker = WorkerId(1);
    for id in 20..60 {
        node.end(worker, 1, TaskId(id), ended(Outcome::Succeeded, 0));
    }
    node.one(Command::Cancel { tasks: (100..2_900).map(TaskId).collect() });
    node.one(Command::EvictWorker { worker: WorkerRef::Id(worker) });
    assert_eq!(image.applied_index(), index);
    assert!(bytes(&image) == before);
    let old = State::read(&mut before.as_slice()).unwrap();
    assert_eq!(old.applied_index(), index);
    assert_ne!(old.digest(), node.state.digest());
}

#[test]
fn an_array_writes_its_spec_once() {
    let node = busy();
    let size = bytes(&node.state.image()).len();
    assert!(size < 3_000 * 30, "{size} bytes for 3,000 tasks");
    let again = reread(&node.state);
    let spec = |id| again.task(TaskId(id)).unwrap().spec;
    assert!(Arc::ptr_eq(&spec(1_500), &spec(2_500)));
}

/// A leader applies what it has in memory, followers what they decoded: who shares which spec must leave no trace.
#[test]
fn p06_sharing_in_memory_leaves_no_trace() {
    let shared = Arc::new(spec("same"));
    let group = || TaskGroup { spec: shared.clone(), count: 2 };
    let submit = Command::Submit { groups: vec![group(), group()] };
    let stamp = Stamp { term: 1, leader: MasterId(1), time_ms: 5, wall_ms: 5, entropy: 0 };
    let batch = Batch { stamp, commands: vec![Envelope { request: None, command: submit }] };
    let (mut leader, mut follower) = (State::new(), State::new());
    for index in 1..4 {
        leader.apply(index, &batch);
        follower.apply(index, &Batch::decode(&batch.encode()).unwrap());
    }
    assert_eq!(leader.digest(), follower.digest());
    assert_eq!(reread(&leader).digest(), reread(&follower).digest());
}

#[test]
fn odd_snapshots_are_refused_by_name() {
    let good = bytes(&busy().state.image());
    let read = |bytes: &[u8]| State::read(&mut &bytes[..]).map(drop).unwrap_err();
    assert!(matches!(read(b""), DecodeError::Length(_)));
    assert!(matches!(read(b"no snapshot at all"), DecodeError::Malformed { .. }));
    let mut newer = good.clone();
    newer[4] = 9;
    assert_eq!(read(&newer), DecodeError::UnknownVersion { what: "snapshot", found: 9, known: SNAPSHOT_VERSION });
    let longer = [&good[..], b"x"].concat();
    assert!(matches!(read(&longer), DecodeError::Length(_)));
    for cut in [good.len() - 1, good.len() / 2, 9, 20] {
        assert!(matches!(read(&good[..cut]), DecodeError::Length(_)), "cut at {cut}");
    }
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(read(&flipped), DecodeError::Checksum { .. }));
    let mut huge = good.clone();
    huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(read(&huge), DecodeError::Length(_)));
}

#[test]
fn odd_batches_are_refused_by_name() {
    let stamp = Stamp { term: 1, leader: MasterId(1), time_ms: 0, wall_ms: 0, entropy: 0 };
    let good = Batch { stamp, commands: vec![] }.encode();
    assert!(matches!(Batch::decode(&[]), Err(DecodeError::Length(_))));
    assert!(matches!(Batch::decode(&good[..3]), Err(DecodeError::Length(_))));
    let mut newer = good.clone();
    newer[0] = 3;
    assert_eq!(Batch::decode(&newer), Err(DecodeError::UnknownVersion { what: "batch", found: 3, known: 2 }));
    let mut longer = good.clone();
    longer.push(0);
    assert!(matches!(Batch::decode(&longer), Err(DecodeError::Checksum { .. })));
    let crc = crc32fast::hash(&longer[5..]);
    longer[1..5].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(Batch::decode(&longer), Err(DecodeError::Malformed { .. })));
}

/// The bytes of a batch are the log's: a change of these is a change of the format.
#[test]
fn the_format_of_a_batch_is_fixed() {
    let stamp = Stamp { term: 3, leader: MasterId(2), time_ms: 1_000, wall_ms: 300, entropy: 7 };
    let request = Some(RequestId([9; 16]));
    let commands = vec![
        Envelope { request: None, command: Command::BeginReign },
        Envelope { request, command: Command::Cancel { tasks: vec![TaskId(1), TaskId(70_000)] } },
        Envelope { request: None, command: Command::SetFormatLevel(1) },
    ];
    let hex: String = Batch { stamp, commands }.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "0252f22b0f0302fbe803fb2c01070300000109090909090909090909090909090909030201fc70110100001001");
}
