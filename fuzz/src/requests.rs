//! Messages from clients, workers and peers: decoded as gRPC would, then translated at the door.

use bytes::Bytes;
use prost::Message;
use steersman_master::config::NodeLimits;
use steersman_master::grpc::convert;
use steersman_proto::raft::v1 as raft;
use steersman_proto::v1 as pb;
use steersman_proto::worker::v1 as worker;
use steersman_world::SeededEntropy;

fn decode<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(bytes).ok()
}

/// A client's request: the first byte says which.
pub fn request(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let limits = NodeLimits::default();
    match which % 12 {
        0 => submit(bytes, &limits),
        1 => drop(decode::<pb::CancelRequest>(bytes).map(|asked| convert::task_ids_in(asked.ids, &limits))),
        2 => drop(decode::<pb::ListTasksRequest>(bytes).map(list)),
        3 => drop(decode::<pb::WaitRequest>(bytes).map(convert::wait_in)),
        4 => drop(decode::<pb::ReadLogRequest>(bytes).map(|asked| convert::read_log_in(&asked))),
        5 => drop(decode::<pb::SetModeRequest>(bytes).map(convert::set_mode_in)),
        6 => drop(decode::<pb::EvictRequest>(bytes).map(convert::evict_in)),
        7 => drop(decode::<pb::ShutdownRequest>(bytes).map(convert::shutdown_in)),
        8 => drop(decode::<pb::SetConfigRequest>(bytes).map(|asked| convert::set_config_in(asked, 10_000, &limits))),
        9 => drop(decode::<pb::AddMasterRequest>(bytes).map(|asked| convert::master_in(asked.master))),
        10 => drop(decode::<pb::SubscribeRequest>(bytes).map(|asked| convert::subscribe_in(&asked))),
        _ => drop(convert::request_id_in(&Bytes::copy_from_slice(bytes), &SeededEntropy::new(1))),
    }
}

/// What is accepted comes out of the state again in words that are accepted.
fn submit(bytes: &[u8], limits: &NodeLimits) {
    let Some(asked) = decode::<pb::SubmitRequest>(bytes) else { return };
    let Ok(groups) = convert::submit_in(asked.groups, limits) else { return };
    let told =
        groups.iter().map(|group| pb::TaskGroup { spec: Some(convert::spec_out(&group.spec)), count: group.count });
    let again = convert::submit_in(told.collect(), limits);
    assert_eq!(again.ok().as_ref(), Some(&groups), "a spec does not survive being told");
}

fn list(asked: pb::ListTasksRequest) {
    let _ = convert::stale_in(asked.consistency);
    let filter = asked.filter.as_ref().map(Message::encode_to_vec).unwrap_or_default();
    let _ = convert::PageRequest::of(convert::PageOf::Tasks, &filter, asked.page);
    let _ = convert::filter_in(asked.filter);
}

/// What a worker says on its session.
pub fn session(bytes: &[u8]) {
    if let Some(hello) = decode::<worker::Hello>(bytes) {
        let _ = convert::open_session_in(hello, 2_000);
    }
    if let Some(reports) = decode::<worker::Reports>(bytes) {
        let _ = convert::reports_in(reports);
    }
}

/// What a peer says.
pub fn peer(bytes: &[u8]) {
    let append = decode::<raft::AppendRequest>(bytes).unwrap_or_default();
    let vote = decode::<raft::VoteRequest>(bytes).unwrap_or_default();
    steersman_master::fuzzing::peer_message(append, &vote, decode::<raft::Node>(bytes).unwrap_or_default());
}
