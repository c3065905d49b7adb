//! What a worker and its keeper say to each other over the socket, and what the keeper writes down.
//!
//! Frames: a little-endian `u32` length, then one prost message. What always holds: fields are only ever added (a keeper
//! outlives an upgrade of its worker), and a frame is at most [`FRAME_BYTES_MAX`].

use std::collections::BTreeMap;

use prost::Message;

/// Longest frame: a task's stdin and environment fit (a whole submit is at most 8 MiB), a length from garbage does not.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// Version of the conversation.
pub const VERSION: u32 = 1;

/// From the worker.
#[derive(Clone, PartialEq, Message)]
pub struct ToKeeper {
    /// One of these.
    #[prost(oneof = "Ask", tags = "1, 2, 3, 4, 5")]
    pub ask: Option<Ask>,
}

/// What a worker can ask.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Ask {
    /// Start a child.
    #[prost(message, tag = "1")]
    Spawn(Spawn),
    /// End a child.
    #[prost(message, tag = "2")]
    Kill(KillAttempt),
    /// Attempts that stop on a partition may run until then.
    #[prost(message, tag = "3")]
    Lease(LeaseUntil),
    /// These ends are acknowledged.
    #[prost(message, tag = "4")]
    Forget(Tokens),
    /// End as soon as there is nothing left to keep.
    #[prost(bool, tag = "5")]
    Quit(bool),
}

/// A child to start.
#[derive(Clone, PartialEq, Message)]
pub struct Spawn {
    /// The attempt.
    #[prost(uint64, tag = "1")]
    pub token: u64,
    /// Its task.
    #[prost(uint64, tag = "2")]
    pub task_id: u64,
    /// Program and arguments.
    #[prost(string, repeated, tag = "3")]
    pub argv: Vec<String>,
    /// The whole environment.
    #[prost(btree_map = "string, string", tag = "4")]
    pub env: BTreeMap<String, String>,
    /// Empty: the attempt's own directory.
    #[prost(string, tag = "5")]
    pub workdir: String,
    /// Empty: /dev/null.
    #[prost(bytes = "vec", tag = "6")]
    pub stdin: Vec<u8>,
    /// 0: none.
    #[prost(uint64, tag = "7")]
    pub timeout_ms: u64,
    /// Between SIGTERM and SIGKILL.
    #[prost(uint64, tag = "8")]
    pub kill_grace_ms: u64,
    /// Killed when the lease ends.
    #[prost(bool, tag = "9")]
    pub stops_on_partition: bool,
    /// Bound of each of stdout and stderr.
    #[prost(uint64, tag = "10")]
    pub output_bytes_max: u64,
}

/// A child to end.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct KillAttempt {
    /// The attempt.
    #[prost(uint64, tag = "1")]
    pub token: u64,
    /// What its end will say (`steersman.v1.Outcome`).
    #[prost(int32, tag = "2")]
    pub outcome: i32,
    /// Without grace.
    #[prost(bool, tag = "3")]
    pub hard: bool,
}

/// A point on the boot-time clock.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct LeaseUntil {
    /// In milliseconds.
    #[prost(uint64, tag = "1")]
    pub boot_ms: u64,
}

/// Some attempts.
#[derive(Clone, PartialEq, Message)]
pub struct Tokens {
    /// By token.
    #[prost(uint64, repeated, tag = "1")]
    pub tokens: Vec<u64>,
}

/// From the keeper.
#[derive(Clone, PartialEq, Message)]
pub struct ToWorker {
    /// One of these.
    #[prost(oneof = "Tell", tags = "1, 2, 3")]
    pub tell: Option<Tell>,
}

/// What a keeper can tell.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Tell {
    /// First, on every connection.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// A child runs.
    #[prost(message, tag = "2")]
    Spawned(Spawned),
    /// A child is over.
    #[prost(message, tag = "3")]
    Ended(Ended),
}

/// All that the keeper has.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// [`VERSION`].
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Children that run, and those that wait to be started.
    #[prost(message, repeated, tag = "2")]
    pub running: Vec<Running>,
    /// Ends not yet acknowledged.
    #[prost(message, repeated, tag = "3")]
    pub ended: Vec<Ended>,
}

/// A child that runs.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Running {
    /// The attempt.
    #[prost(uint64, tag = "1")]
    pub token: u64,
    /// Its task.
    #[prost(uint64, tag = "2")]
    pub task_id: u64,
    /// Its process; 0 if it waits to be started.
    #[prost(int32, tag = "3")]
    pub pid: i32,
    /// For how long.
    #[prost(uint64, tag = "4")]
    pub ran_ms: u64,
    /// Killed when the lease ends.
    #[prost(bool, tag = "5")]
    pub stops_on_partition: bool,
}

/// A child that was started.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Spawned {
    /// The attempt.
    #[prost(uint64, tag = "1")]
    pub token: u64,
    /// Its process.
    #[prost(int32, tag = "2")]
    pub pid: i32,
}

/// A child that is over.
#[derive(Clone, PartialEq, Message)]
pub struct Ended {
    /// The attempt.
    #[prost(uint64, tag = "1")]
    pub token: u64,
    /// Its task.
    #[prost(uint64, tag = "2")]
    pub task_id: u64,
    /// `steersman.v1.Outcome`.
    #[prost(int32, tag = "3")]
    pub outcome: i32,
    /// Exit code, or the signal's number.
    #[prost(int32, tag = "4")]
    pub exit_code: i32,
    /// For people.
    #[prost(string, tag = "5")]
    pub message: String,
    /// For how long.
    #[prost(uint64, tag = "6")]
    pub ran_ms: u64,
}

/// One line of the keeper's journal.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// One of these.
    #[prost(oneof = "Entry", tags = "1, 2, 3")]
    pub entry: Option<Entry>,
}

/// What the keeper writes down.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Entry {
    /// Written before a child is started.
    #[prost(message, tag = "1")]
    Starting(Running),
    /// Written when it is over.
    #[prost(message, tag = "2")]
    Ended(Ended),
    /// Written when its end was acknowledged.
    #[prost(message, tag = "3")]
    Forgotten(Tokens),
}

/// Appends a frame to `out`.
pub fn put(out: &mut Vec<u8>, message: &impl Message) {
    let len = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    // A Vec grows: encoding into it does not fail.
    let _ = message.encode(out);
}

/// Takes the first whole frame from `input`, starting at `*at`, which moves past it. `None`: more bytes are needed.
///
/// # Errors
/// When the bytes are not a frame of that message.
pub fn take<M: Message + Default>(input: &[u8], at: &mut usize) -> Result<Option<M>, String> {
    let rest = &input[*at..];
    let Some(head) = rest.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*head) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(format!("a frame of {len} bytes; {FRAME_BYTES_MAX} is the limit"));
    }
    let Some(body) = rest.get(4..4 + len) else { return Ok(None) };
    let message = M::decode(body).map_err(|error| format!("not a frame of this version: {error}"))?;
    *at += 4 + len;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let spawn = Spawn { token: 7, argv: vec!["true".into()], stdin: vec![1, 2], ..Spawn::default() };
        let mut bytes = Vec::new();
        put(&mut bytes, &ToKeeper { ask: Some(Ask::Spawn(spawn.clone())) });
        put(&mut bytes, &ToKeeper { ask: Some(Ask::Quit(true)) });
        for cut in 0..bytes.len() {
            let mut at = 0;
            while take::<ToKeeper>(&bytes[..cut], &mut at).unwrap().is_some() {}
            assert!(at <= cut);
        }
        let mut at = 0;
        let first = take::<ToKeeper>(&bytes, &mut at).unwrap().unwrap();
        assert_eq!(first.ask, Some(Ask::Spawn(spawn)));
        assert_eq!(take::<ToKeeper>(&bytes, &mut at).unwrap().unwrap().ask, Some(Ask::Quit(true)));
        assert_eq!(at, bytes.len());
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(take::<ToKeeper>(&[255; 64], &mut 0).is_err());
        assert!(take::<ToKeeper>(&[2, 0, 0, 0, 7, 7], &mut 0).is_err());
    }
}
