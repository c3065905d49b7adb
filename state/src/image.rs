//! A consistent copy of the state, cheap to take, and its bytes: the snapshot.
//!
//! The stream is `STMS`, a version, then frames of `[length][crc32][kind, items…]` and an end frame that counts what
//! came before. Each distinct spec is written once, numbered in the order of first use.
//!
//! What always holds: equal states write equal bytes, whoever shares which spec in memory; reading never panics, never
//! guesses, and ends in a state that passes [`State::check`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;

use bincode::Options;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::brake::Brake;
use crate::chain::Chain;
use crate::codec::{DecodeError, differ, options};
use crate::events::EventLog;
use crate::ids::{TaskId, WorkerId};
use crate::plan::ClassId;
use crate::registry::Worker;
use crate::request::Kept;
use crate::state::{Finished, Head, State};
use crate::table::{Facts, Table, Task};
use crate::task::TaskSpec;
use crate::view::EventEntry;

/// How a snapshot begins.
pub const SNAPSHOT_MAGIC: [u8; 4] = *b"STMS";
/// Version of the snapshot's bytes.
pub const SNAPSHOT_VERSION: u32 = 3;
/// A frame is closed once it is longer than this.
const FRAME_BYTES: usize = 256 << 10;
/// Longest frame that is read: one item is never longer than a batch.
const FRAME_BYTES_MAX: u32 = 128 << 20;

/// A consistent copy of the state at one log index. Cheap to take: it shares everything with the state until that changes.
pub struct Image {
    head: Head,
    tasks: Table,
    workers: BTreeMap<WorkerId, Arc<Worker>>,
    finished: Chain<Finished>,
    replies: Chain<Kept>,
    events: Chain<EventEntry>,
    trimmed_upto: u64,
    brake: Brake,
}

/// Kinds of frames, in the order of the stream; specs and tasks alternate.
mod kind {
    pub const HEAD: u8 = 1;
    pub const SPECS: u8 = 2;
    pub const TASKS: u8 = 3;
    pub const WORKERS: u8 = 4;
    pub const FINISHED: u8 = 5;
    pub const REPLIES: u8 = 6;
    pub const EVENTS: u8 = 7;
    pub const END: u8 = 8;
}

#[derive(Serialize, Deserialize)]
struct Row<'a> {
    id: TaskId,
    /// Number of its spec.
    spec: u64,
    facts: Cow<'a, Facts>,
}

/// Items per kind, for the end frame.
type Totals = [u64; kind::END as usize];

impl State {
    /// A consistent copy, in O(tasks / 64 + workers).
    pub fn image(&self) -> Image {
        Image {
            head: self.head.clone(),
            tasks: self.tasks.clone(),
            workers: self.registry.image(),
            finished: self.finished.clone(),
            replies: self.replies.image(),
            events: self.events.image(),
            trimmed_upto: self.events.trimmed_upto(),
            brake: self.brake.clone(),
        }
    }

    /// A fingerprint of everything: xxh3-128 over the snapshot's bytes. Equal on all masters at an equal applied index.
    pub fn digest(&self) -> u128 {
        self.image().digest()
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    ///
    /// No snapshot, an unknown version, a wrong checksum, a stream that ends too early or goes on after its end, items
    /// that contradict each other, or a failing input.
    pub fn read(input: &mut dyn Read) -> Result<State, DecodeError> {
        let mut reader = Reader { input, parts: Parts::default(), totals: Totals::default(), last_kind: 0 };
        reader.magic()?;
        while reader.frame()? {}
        reader.end_of_input()?;
        let mut state = reader.parts.state;
        state.derive();
        state.check().map_err(|violation| malformed(violation.to_string()))?;
        #[cfg(feature = "seeded-bugs")]
        if steersman_bugs::planted("forget-token-counter-in-snapshot") {
            let held = state.registry.iter().flat_map(|worker| worker.open.keys());
            state.head.last_token = held.max().map_or(0, |token| token.0);
        }
        Ok(state)
    }
}

impl Image {
    /// What a snapshot holds, as a state of its own; what is derived is not in it.
    pub(crate) fn rebuild(&self) -> State {
        let mut state = State { head: self.head.clone(), tasks: self.tasks.clone(), ..State::default() };
        state.events = EventLog::restore(self.trimmed_upto);
        state.finished = self.finished.clone();
        state.brake = self.brake.clone();
        self.workers.values().for_each(|worker| state.registry.insert((**worker).clone()));
        self.replies.iter().for_each(|kept| state.replies.push(kept.clone()));
        self.events.iter().for_each(|entry| state.events.push(entry.clone()));
        state
    }

    /// The log index that it stands at.
    pub fn applied_index(&self) -> u64 {
        self.head.applied_index
    }

    /// [`State::digest`] of the state that it was taken from: to be computed while that goes on.
    pub fn digest(&self) -> u128 {
        struct Hasher(xxhash_rust::xxh3::Xxh3);
        impl Write for Hasher {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut hasher = Hasher(xxhash_rust::xxh3::Xxh3::new());
        // Hashing can't fail; and if encoding ever did, the digest of a part would differ from none.
        let written = self.write(&mut hasher);
        debug_assert!(written.is_ok());
        hasher.0.digest128()
    }

    /// Writes the whole stream.
    ///
    /// # Errors
    ///
    /// Whatever `out` fails with.
    pub fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(&SNAPSHOT_MAGIC)?;
        out.write_all(&SNAPSHOT_VERSION.to_le_bytes())?;
        let mut writer = Writer { out, frame: Vec::new(), totals: Totals::default() };
        writer.item(kind::HEAD, &(&self.head, self.trimmed_upto, &self.brake))?;
        self.write_tasks(&mut writer)?;
        self.workers.values().try_for_each(|worker| writer.item(kind::WORKERS, &**worker))?;
        self.finished.iter().try_for_each(|finished| writer.item(kind::FINISHED, finished))?;
        self.replies.iter().try_for_each(|kept| writer.item(kind::REPLIES, kept))?;
        self.events.iter().try_for_each(|entry| writer.item(kind::EVENTS, entry))?;
        let totals = writer.totals;
        writer.item(kind::END, &totals)?;
        writer.close()
    }

    fn write_tasks(&self, writer: &mut Writer<'_>) -> std::io::Result<()> {
        let (mut specs, mut rows) = (Specs::default(), Vec::new());
        for (id, task) in self.tasks.iter() {
            #[cfg(feature = "seeded-bugs")]
            if task.facts.state == crate::TaskState::Pending && steersman_bugs::planted("snapshot-misses-pending") {
                continue;
            }
            let spec = match specs.number(&task.spec) {
                Ok(known) => known,
                Err(new) => {
                    writer.item(kind::SPECS, &*task.spec)?;
                    new
                }
            };
            rows.push(Row { id, spec, facts: Cow::Borrowed(&task.facts) });
            // Together, so that neither kind has tiny frames.
            if rows.len() == 1_024 {
                rows.drain(..).try_for_each(|row| writer.item(kind::TASKS, &row))?;
            }
        }
        rows.drain(..).try_for_each(|row| writer.item(kind::TASKS, &row))
    }
}

/// Numbers specs by their content, so that sharing in memory leaves no trace in the bytes.
#[derive(Default)]
struct Specs<'a> {
    numbers: BTreeMap<u128, (u64, &'a Arc<TaskSpec>)>,
    /// The last one asked for: an array asks for the same again and again.
    last: Option<(u64, &'a Arc<TaskSpec>)>,
    count: u64,
}

impl<'a> Specs<'a> {
    /// The number of a spec that was written, or the number that it gets when it is written now.
    fn number(&mut self, spec: &'a Arc<TaskSpec>) -> Result<u64, u64> {
        if let Some((number, _)) = self.last.filter(|(_, last)| Arc::ptr_eq(last, spec)) {
            return Ok(number);
        }
        let bytes = options(u64::MAX).serialize(&**spec).unwrap_or_default();
        let next = self.count;
        let entry = self.numbers.entry(xxhash_rust::xxh3::xxh3_128(&bytes));
        let (number, known) = *entry.or_insert((next, spec));
        if number < next && (Arc::ptr_eq(known, spec) || known == spec) {
            self.last = Some((number, spec));
            return Ok(number);
        }
        // New, or (never seen so far) another spec with the same hash, which is simply written again.
        self.count += 1;
        self.last = Some((next, spec));
        Err(next)
    }
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    frame: Vec<u8>,
    totals: Totals,
}

impl Writer<'_> {
    fn item(&mut self, kind: u8, item: &impl Serialize) -> std::io::Result<()> {
        #[cfg(feature = "seeded-bugs")]
        if kind == kind::REPLIES && steersman_bugs::planted("forget-requests-in-snapshot") {
            return Ok(());
        }
        if self.frame.first() != Some(&kind) || self.frame.len() > FRAME_BYTES {
            self.close()?;
            self.frame.push(kind);
        }
        self.totals[usize::from(kind) - 1] += 1;
        options(u64::MAX).serialize_into(&mut self.frame, item).map_err(std::io::Error::other)
    }

    fn close(&mut self) -> std::io::Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.frame.len()).map_err(std::io::Error::other)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&crc32fast::hash(&self.frame).to_le_bytes())?;
        self.out.write_all(&self.frame)?;
        self.frame.clear();
        Ok(())
    }
}

#[derive(Default)]
struct Parts {
    state: State,
    specs: Vec<Arc<TaskSpec>>,
    last_task: TaskId,
    last_worker: WorkerId,
}

struct Reader<'a> {
    input: &'a mut dyn Read,
    parts: Parts,
    totals: Totals,
    last_kind: u8,
}

fn malformed(problem: impl Into<String>) -> DecodeError {
    DecodeError::Malformed { what: "snapshot", problem: problem.into() }
}

impl Reader<'_> {
    fn magic(&mut self) -> Result<(), DecodeError> {
        if self.array::<4>()? != SNAPSHOT_MAGIC {
            return Err(malformed("it does not begin with STMS: this is no snapshot"));
        }
        let found = u32::from_le_bytes(self.array()?);
        match found == SNAPSHOT_VERSION {
            true => Ok(()),
            false => Err(DecodeError::UnknownVersion { what: "snapshot", found, known: SNAPSHOT_VERSION }),
        }
    }

    /// Reads one frame. Says whether another follows.
    fn frame(&mut self) -> Result<bool, DecodeError> {
        let length = u32::from_le_bytes(self.array()?);
        let stored = u32::from_le_bytes(self.array()?);
        if length > FRAME_BYTES_MAX {
            return Err(DecodeError::Length(format!("a frame of {length} bytes, at most {FRAME_BYTES_MAX} are read")));
        }
        let mut body = Vec::new();
        let mut limited = Read::take(&mut *self.input, length.into());
        limited.read_to_end(&mut body).map_err(|error| DecodeError::Io(error.to_string()))?;
        if body.len() < length as usize {
            return Err(DecodeError::Length("the snapshot ends within a frame".into()));
        }
        let computed = crc32fast::hash(&body);
        if differ(stored, computed) {
            return Err(DecodeError::Checksum { what: "snapshot frame", stored, computed });
        }
        let Some((&kind, items)) = body.split_first() else { return Err(malformed("an empty frame")) };
        self.items(kind, items)?;
        Ok(kind != kind::END)
    }

    fn items(&mut self, kind: u8, items: &[u8]) -> Result<(), DecodeError> {
        let alternating = (self.last_kind, kind) == (kind::TASKS, kind::SPECS);
        if kind < self.last_kind && !alternating {
            return Err(malformed("its frames are out of order"));
        }
        self.last_kind = kind;
        match kind {
            kind::HEAD => self.each(kind, items, Parts::head),
            kind::SPECS => self.each(kind, items, Parts::spec),
            kind::TASKS => self.each(kind, items, Parts::row),
            kind::WORKERS => self.each(kind, items, Parts::worker),
            kind::FINISHED => self.each(kind, items, |parts, item| {
                parts.state.finished.push(item);
                Ok(())
            }),
            kind::REPLIES => self.each(kind, items, Parts::reply),
            kind::EVENTS => self.each(kind, items, Parts::event),
            kind::END => {
                let seen = self.totals;
                self.each(kind, items, |_, totals: Totals| match totals == seen && seen[0] == 1 {
                    true => Ok(()),
                    false => Err(malformed("it lacks parts, or has some twice")),
                })
            }
            _ => Err(malformed(format!("unknown kind of frame {kind}"))),
        }
    }

    fn each<T: DeserializeOwned>(
        &mut self,
        kind: u8,
        mut items: &[u8],
        take: impl Fn(&mut Parts, T) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        while !items.is_empty() {
            let limit = items.len() as u64;
            let item = options(limit).deserialize_from(&mut items).map_err(|error| malformed(error.to_string()))?;
            self.totals[usize::from(kind) - 1] += 1;
            take(&mut self.parts, item)?;
        }
        Ok(())
    }

    fn end_of_input(&mut self) -> Result<(), DecodeError> {
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(DecodeError::Length("the snapshot goes on after its end".into())),
            Err(error) => Err(DecodeError::Io(error.to_string())),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => DecodeError::Length("the snapshot ends too early".into()),
            _ => DecodeError::Io(error.to_string()),
        })?;
        Ok(bytes)
    }
}

impl Parts {
    fn head(&mut self, (head, trimmed_upto, brake): (Head, u64, Brake)) -> Result<(), DecodeError> {
        self.state.head = head;
        self.state.brake = brake;
        self.state.events = EventLog::restore(trimmed_upto);
        Ok(())
    }

    fn spec(&mut self, spec: TaskSpec) -> Result<(), DecodeError> {
        self.specs.push(Arc::new(spec));
        Ok(())
    }

    fn row(&mut self, row: Row<'static>) -> Result<(), DecodeError> {
        let spec = usize::try_from(row.spec).ok().and_then(|number| self.specs.get(number));
        let spec = spec.ok_or_else(|| malformed(format!("task {} has no spec", row.id)))?;
        if row.id <= std::mem::replace(&mut self.last_task, row.id) {
            return Err(malformed(format!("task {} is out of order", row.id)));
        }
        let task = Task { spec: spec.clone(), class: ClassId::default(), facts: row.facts.into_owned() };
        self.state.tasks.append(row.id, 1, |_| task.clone());
        Ok(())
    }

    fn worker(&mut self, worker: Worker) -> Result<(), DecodeError> {
        if worker.id <= std::mem::replace(&mut self.last_worker, worker.id) {
            return Err(malformed(format!("worker {} is out of order", worker.id)));
        }
        self.state.registry.insert(worker);
        Ok(())
    }

    fn reply(&mut self, kept: Kept) -> Result<(), DecodeError> {
        self.state.replies.push(kept);
        Ok(())
    }

    fn event(&mut self, entry: EventEntry) -> Result<(), DecodeError> {
        self.state.events.push(entry);
        Ok(())
    }
}
