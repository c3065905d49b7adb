//! Writes the first inputs of each target into `corpus/`: good ones, made by the product's own encoders, so that a fuzzer
//! begins where random bytes would never get.
//!
//! A fuzz target that does its work before the first input, because instrumented code links with nothing else.
#![no_main]

use std::path::Path;

use prost::Message as _;
use steersman_proto::raft::v1 as raft;
use steersman_proto::v1 as pb;
use steersman_proto::worker::v1 as worker;
use steersman_raft_store::fuzzing;
use steersman_state::command::{
    Batch, Command, Ended, Envelope, News, OpenSession, Report, Stamp, TaskGroup, WorkerMode,
};
use steersman_state::{
    Limits, MasterId, Outcome, RequestId, Resources, State, TaskId, Token, WorkerId, WorkerRef, WorkerUid,
};
use steersman_worker::executors::wire::{self, ToKeeper};

const SPECS: &str = r#"{"name":"n","command":["a","b c"],"workdir":"/w","stdin_base64":"/w==","env":{"K":"V"},"priority":3}
{"handler":"h","payload":"p","require_labels":{"a":"b"},"require_resources":{"gpu":2},"count":5}
{"command":["true"],"backoff":{"initial_ms":5,"max_ms":50,"factor":2.0,"jitter":false},"retry_on":["failure","exit:3"]}
{"command":["true"],"on_partition":"stop","kill_grace_ms":100,"timeout_ms":5,"deadline_ms":6,"max_attempts":2}
just a line of words"#;

libfuzzer_sys::fuzz_target!(
    init: {
        write_all().expect("the corpus can be written");
        std::process::exit(0)
    },
    |_bytes: &[u8]| {}
);

fn write_all() -> std::io::Result<()> {
    let log = log();
    let state = applied(&log);
    let mut image = Vec::new();
    state.image().write(&mut image)?;
    let batches: Vec<Vec<u8>> = log.iter().map(Batch::encode).collect();
    let framed = batches.iter().flat_map(|batch| [&(batch.len() as u16).to_le_bytes()[..], batch].concat()).collect();
    put("batch", &[framed])?;
    put("state_image", &[image])?;
    put("snapshot", &[fuzzing::snapshot_of(&state)])?;
    let records = batches.iter().zip(1..).map(|(batch, index)| fuzzing::log_record_of(index, 1, batch.clone()));
    put("log_record", &records.collect::<Vec<_>>())?;
    let identities = ["steersman identity 1\nnode_id 1\nstore_id 01\ncreated_ms 0\nin_use true\ncrc32 00000000\n"];
    let texts = identities.map(|text| text.as_bytes().to_vec());
    put("data_files", &[fuzzing::small_records(), texts.to_vec()].concat())?;
    put("request", &requests())?;
    put("session", &sessions())?;
    put("peer", &peers(&batches))?;
    let example = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/steersman.toml"))?;
    let worker = b"name = \"w1\"\nmasters = [\"127.0.0.1:7400\"]\ncapacity = 4\n[labels]\na = \"b\"\n".to_vec();
    put("config", &[example, worker])?;
    put("spec", &SPECS.lines().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>())?;
    put("keeper", &keepers())
}

fn put(target: &str, inputs: &[Vec<u8>]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&folder)?;
    for (number, input) in inputs.iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number:02}")), input)?;
    }
    Ok(())
}

fn applied(log: &[Batch]) -> State {
    let mut state = State::default();
    for (batch, index) in log.iter().zip(1..) {
        state.apply(index, batch);
    }
    state
}

/// A short life of a cluster: a worker comes, tasks run, end, are cancelled and retried.
fn log() -> Vec<Batch> {
    let hello = OpenSession {
        name: "w1".to_owned(),
        uid: WorkerUid([1; 16]),
        incarnation: 1,
        opening: 1,
        host: "h".to_owned(),
        port: 1,
        capacity: 2,
        labels: Default::default(),
        resources: Resources::default(),
        heartbeat_ms: 500,
        version: "1".to_owned(),
        held: Vec::new(),
    };
    let ended = Ended { outcome: Outcome::Exited, exit_code: 0, message: String::new(), result: vec![1], ran_ms: 5 };
    let report = |token, news| Report { token: Token(token), task: TaskId(token), news };
    let reports = |reports| Command::Reports { worker: WorkerId(1), incarnation: 1, reports };
    let drain = Command::SetWorkerMode { worker: WorkerRef::Id(WorkerId(1)), mode: WorkerMode::Drain, deadline_ms: 5 };
    let commands = vec![
        vec![Command::BeginReign, Command::InitCluster { cluster_id: "c".to_owned(), limits: Limits::default() }],
        vec![Command::OpenSession(hello)],
        vec![Command::Submit { groups: groups() }],
        vec![reports(vec![report(1, News::Started), report(2, News::Ended(ended))])],
        vec![Command::Cancel { tasks: vec![TaskId(1), TaskId(5)] }, Command::Retry { tasks: vec![TaskId(5)] }],
        vec![drain, Command::CloseSession { worker: WorkerId(1), incarnation: 1, session: 1 }],
        vec![Command::WorkerLost { worker: WorkerId(1), incarnation: 1, session: 1 }, Command::Tick],
    ];
    commands.into_iter().zip(1..).map(|(commands, at)| batch(at, commands)).collect()
}

/// Five tasks, as a client would submit them.
fn groups() -> Vec<TaskGroup> {
    let asked = pb::SubmitRequest::decode(&requests()[0][1..]).unwrap_or_default();
    steersman_master::grpc::convert::submit_in(asked.groups, &Default::default()).unwrap_or_default()
}

fn batch(at: u64, commands: Vec<Command>) -> Batch {
    let stamp = Stamp { term: 1, leader: MasterId(1), time_ms: at * 100, wall_ms: at * 100, entropy: at };
    let envelope = |(command, n)| Envelope { request: (at > 2).then(|| RequestId([n; 16])), command };
    Batch { stamp, commands: commands.into_iter().zip(at as u8..).map(envelope).collect() }
}

fn requests() -> Vec<Vec<u8>> {
    let work = pb::task_spec::Work::Command(pb::Command { argv: vec!["true".to_owned()], ..Default::default() });
    let spec = pb::TaskSpec { name: "n".to_owned(), work: Some(work), ..Default::default() };
    let submit = pb::SubmitRequest { groups: vec![pb::TaskGroup { spec: Some(spec), count: 5 }], ..Default::default() };
    let worker = Some(pb::WorkerRef { id: 1, name: String::new() });
    let mode = pb::SetModeRequest { worker: worker.clone(), mode: 2, deadline_ms: 9, ..Default::default() };
    let config = pb::SetConfigRequest { worker, capacity: Some(4), ..Default::default() };
    let encoded = [(0, submit.encode_to_vec()), (5, mode.encode_to_vec()), (8, config.encode_to_vec())];
    encoded.into_iter().map(|(which, bytes)| [vec![which], bytes].concat()).collect()
}

fn sessions() -> Vec<Vec<u8>> {
    let hello = worker::Hello {
        protocol: 1,
        name: "w".to_owned(),
        uid: vec![1; 16].into(),
        incarnation: 1,
        opening: 1,
        capacity: 2,
        ..Default::default()
    };
    let report = worker::Report { token: 1, task_id: 1, ended: Some(worker::Ended::default()) };
    vec![hello.encode_to_vec(), worker::Reports { reports: vec![report] }.encode_to_vec()]
}

fn peers(batches: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let entry = |(batch, index): (&Vec<u8>, u64)| raft::Entry {
        log_id: Some(raft::LogId { term: 1, index }),
        payload: Some(raft::entry::Payload::Batch(batch.clone().into())),
    };
    let vote = Some(raft::Vote { term: 1, node_id: Some(1), committed: true });
    let append =
        raft::AppendRequest { vote, entries: batches.iter().zip(1..).map(entry).collect(), ..Default::default() };
    vec![append.encode_to_vec()]
}

fn keepers() -> Vec<Vec<u8>> {
    let mut conversation = Vec::new();
    let spawn = wire::Spawn { token: 1, task_id: 1, argv: vec!["true".to_owned()], ..Default::default() };
    wire::put(&mut conversation, &ToKeeper { ask: Some(wire::Ask::Spawn(spawn)) });
    let record =
        wire::Record { entry: Some(wire::Entry::Forgotten(wire::Tokens { tokens: vec![1, 2] })) }.encode_to_vec();
    let journal = [&(record.len() as u32).to_le_bytes()[..], &[0; 4], &record].concat();
    vec![conversation, journal]
}
