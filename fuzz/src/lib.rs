//! One function per fuzz target: bytes in, no panic out, and what was accepted survives being written and read again.
//!
//! What always holds: the functions are the whole harness. `targets/` hands them to libFuzzer, which begins with every
//! kept input in `corpus/`. Checksums are not compared in builds with `--cfg fuzzing`, or no fuzzer would ever see what
//! lies behind them. What it does not do: sockets, or anything that takes more than one process.

mod exit;
mod requests;
#[allow(dead_code)]
#[path = "../../cli/src/spec.rs"]
mod spec_file;
#[allow(dead_code)]
#[path = "../../cli/src/units.rs"]
mod units;

pub use requests::{peer, request, session};

use std::cell::OnceCell;
use std::path::PathBuf;

use steersman_client::v1::TaskSpec;
use steersman_master::config::MasterConfig;
use steersman_state::{Batch, State};
use steersman_worker::config::WorkerConfig;
use steersman_worker::executors::journal::Journal;
use steersman_worker::executors::wire::{ToKeeper, ToWorker, take};

/// Length-prefixed log entries (`u16` little endian, then the batch), applied one after the other: whatever a log may hold,
/// `apply` does not panic and leaves a state whose parts agree.
pub fn batch(bytes: &[u8]) {
    let (mut state, mut rest, mut index) = (State::default(), bytes, 0);
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let (frame, tail) = tail.split_at(usize::from(u16::from_le_bytes(*length)).min(tail.len()));
        rest = tail;
        let Ok(batch) = Batch::decode(frame) else { continue };
        assert_eq!(Batch::decode(&batch.encode()).as_ref(), Ok(&batch), "a batch does not survive being written");
        index += 1;
        state.apply(index, &batch);
        state.check().expect("the state's parts agree");
    }
}

/// A state's image, as a snapshot holds it.
pub fn state_image(bytes: &[u8]) {
    let Ok(state) = State::read(&mut &*bytes) else { return };
    let mut written = Vec::new();
    state.image().write(&mut written).expect("memory takes it");
    let again = State::read(&mut &*written).expect("what was written can be read");
    assert_eq!(again.digest(), state.digest(), "a state does not survive being written");
}

/// A log entry as it lies on disk.
pub fn log_record(bytes: &[u8]) {
    steersman_raft_store::fuzzing::log_record(bytes);
}

/// A whole snapshot file, as it lies on disk or comes from a peer.
pub fn snapshot(bytes: &[u8]) {
    let _ = steersman_raft_store::inspect_snapshot(bytes);
}

/// The small files and records: votes, seals, memberships, identities of masters and workers.
pub fn data_files(bytes: &[u8]) {
    steersman_raft_store::fuzzing::small_record(bytes);
    steersman_raft_store::fuzzing::identity(bytes);
    let folder = scratch("worker");
    std::fs::write(folder.join("identity"), bytes).expect("the scratch folder takes files");
    let _ = steersman_worker::identity::Identity::open(&folder, [7; 16]);
}

/// A master's or a worker's configuration file. A good one of a master comes out of `config show` as it went in.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = WorkerConfig::parse(text, "fuzz.toml");
    let Ok(config) = MasterConfig::parse(text, "fuzz.toml") else { return };
    let shown = config.render();
    let again = MasterConfig::parse(&shown, "shown.toml");
    let again = again.unwrap_or_else(|error| panic!("what was shown is refused: {error}\n{shown}"));
    assert_eq!(again.render(), shown);
}

/// One line of a spec file, as JSON and as a plain line.
pub fn spec(bytes: &[u8]) {
    let Ok(line) = std::str::from_utf8(bytes) else { return };
    let _ = spec_file::from_json(line, &TaskSpec::default());
    let _ = spec_file::from_line(line, &TaskSpec::default());
}

/// What a worker and its keeper say to each other, and the keeper's journal.
pub fn keeper(bytes: &[u8]) {
    let (mut asked, mut told) = (0, 0);
    while let Ok(Some(_)) = take::<ToKeeper>(bytes, &mut asked) {}
    while let Ok(Some(_)) = take::<ToWorker>(bytes, &mut told) {}
    let path = scratch("keeper").join("journal");
    std::fs::write(&path, bytes).expect("the scratch folder takes files");
    let (mut journal, found) = Journal::open(&path).expect("any journal can be opened");
    journal.rewrite(&found).expect("the scratch folder takes files");
    let (_, again) = Journal::open(&path).expect("any journal can be opened");
    assert_eq!(again, found, "a journal does not survive being rewritten");
}

/// A folder of this process's own, in memory where there is such a thing.
fn scratch(name: &str) -> PathBuf {
    thread_local!(static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() });
    let make = || {
        let in_memory = tempfile::tempdir_in("/dev/shm");
        in_memory.or_else(|_| tempfile::tempdir()).expect("a scratch folder")
    };
    let folder = FOLDER.with(|folder| folder.get_or_init(make).path().join(name));
    std::fs::create_dir_all(&folder).expect("a scratch folder");
    folder
}
