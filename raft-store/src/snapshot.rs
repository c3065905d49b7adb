//! Snapshot files: a header (where it stands, who the members are), the state's image, and a trailer with the length and
//! a CRC of everything. The same bytes lie on disk, travel to a peer and are what an operator saves.
//!
//! What always holds: a file gets its name only when it is whole and on the device; reading checks every byte before
//! anything is believed; memory is bounded by one chunk on both ends of a transfer. What it does not do: decide when.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bincode::Options as _;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use steersman_state::{DecodeError, Image, State, TaskCounts, WorkerCounts};

use crate::disk::{Disk, DiskFile, DiskWriter, Lane};
use crate::error::StoreError;
use crate::offload;
use crate::record::{MembershipRecord, Point, RAFT_SCHEMA, differ, options};
use crate::types::{LogId, MasterNode, SnapshotMeta};

/// Where they lie in the data directory.
pub const FOLDER: &str = "snapshots";
const SUFFIX: &str = ".snap";
const TEMPORARY: &str = ".tmp";
const MAGIC: &[u8; 8] = b"STEERSNP";
const END: &[u8; 4] = b"END\n";
/// `[length of all before it u64][crc of all before it u32]["END\n"]`.
const TRAILER: usize = 16;
/// A header holds a membership: nothing comes near this.
const HEADER_BYTES_MAX: u32 = 16 << 20;
const BUFFER: usize = 256 * 1024;

/// What a snapshot says about itself before its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// The cluster whose state it is, if it had a name yet.
    pub cluster: Option<String>,
    /// Who wrote it.
    pub node_id: u64,
    /// Term and index of the last entry in it.
    pub last: Option<(u64, u64)>,
    /// Term and index of the entry that brought the membership.
    pub membership_at: Option<(u64, u64)>,
    /// Voters; two sets while a change is under way.
    pub voters: Vec<std::collections::BTreeSet<u64>>,
    /// Every member's addresses, learners included.
    pub nodes: BTreeMap<u64, MasterNode>,
}

fn pair(id: &LogId) -> (u64, u64) {
    let point = Point::from(id);
    (point.term, point.index)
}

fn point((term, index): (u64, u64)) -> Point {
    Point { term, index }
}

impl SnapshotHeader {
    pub(crate) fn new(meta: &SnapshotMeta, cluster: Option<String>, node_id: u64) -> Self {
        let membership = MembershipRecord::from(meta.last_membership.membership());
        Self {
            cluster,
            node_id,
            last: meta.last_log_id.as_ref().map(pair),
            membership_at: meta.last_membership.log_id().as_ref().map(pair),
            voters: membership.configs,
            nodes: membership.nodes,
        }
    }

    /// As openraft has it.
    ///
    /// # Errors
    /// If the membership makes no sense.
    pub fn meta(&self) -> Result<SnapshotMeta, StoreError> {
        let membership = MembershipRecord { configs: self.voters.clone(), nodes: self.nodes.clone() };
        let stored = membership.stored(self.membership_at.map(point)).map_err(|error| error.at("snapshot"))?;
        Ok(SnapshotMeta { last_log_id: self.last.map(|last| point(last).into()), last_membership: stored })
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        // Writing to memory can't fail.
        let written = options(u64::MAX).serialize_into(&mut body, self);
        debug_assert!(written.is_ok());
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&RAFT_SCHEMA.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.append(&mut body);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn read(input: &mut dyn Read) -> Result<Self, StoreError> {
        let mut head = [0; 16];
        input.read_exact(&mut head).map_err(|_| bad("too short for a snapshot"))?;
        if head[..8] != MAGIC[..] {
            return Err(bad("not a snapshot of Steersman"));
        }
        let [found, length] =
            [8, 12].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        if found != RAFT_SCHEMA {
            return Err(StoreError::WrongVersion { place: "snapshot".into(), found, known: RAFT_SCHEMA });
        }
        if length > HEADER_BYTES_MAX {
            return Err(bad("header too long"));
        }
        let mut body = vec![0; length as usize + 4];
        input.read_exact(&mut body).map_err(|_| bad("cut off in its header"))?;
        let (body, crc) = body.split_at(length as usize);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head);
        hasher.update(body);
        if differ(crc, &hasher.finalize().to_le_bytes()) {
            return Err(bad("checksum mismatch in its header"));
        }
        options(HEADER_BYTES_MAX.into()).deserialize(body).map_err(|error| bad(format!("header: {error}")))
    }
}

fn bad(problem: impl Into<String>) -> StoreError {
    StoreError::corrupt("snapshot", problem)
}

/// A damaged or unknown image, as the store's error.
pub(crate) fn state_error(error: DecodeError, place: impl Into<String>) -> StoreError {
    match error {
        DecodeError::UnknownVersion { found, known, .. } => {
            StoreError::WrongVersion { place: place.into(), found, known }
        }
        other => StoreError::corrupt(place, other.to_string()),
    }
}

/// Counts and checks what passes through.
struct Summing<T> {
    inner: T,
    length: u64,
    crc: crc32fast::Hasher,
}

impl<T> Summing<T> {
    fn new(inner: T) -> Self {
        Self { inner, length: 0, crc: crc32fast::Hasher::new() }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.crc.update(bytes);
    }

    fn trailer(&self) -> [u8; TRAILER] {
        let mut trailer = [0; TRAILER];
        trailer[..8].copy_from_slice(&self.length.to_le_bytes());
        trailer[8..12].copy_from_slice(&self.crc.clone().finalize().to_le_bytes());
        trailer[12..].copy_from_slice(END);
        trailer
    }
}

impl<T: Write> Write for Summing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.pass(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Gives everything but the last [`TRAILER`] bytes, whatever the length, and sums what it gives.
struct Body<R> {
    inner: Summing<R>,
    held: Vec<u8>,
    ended: bool,
}

impl<R: Read> Body<R> {
    fn new(inner: R) -> Self {
        Self { inner: Summing::new(inner), held: Vec::new(), ended: false }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        while !self.ended && self.held.len() <= TRAILER {
            match self.inner.inner.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => self.held.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Once everything was read: whether the trailer agrees.
    fn check(mut self) -> Result<u64, StoreError> {
        io::copy(&mut self, &mut io::sink()).map_err(|error| StoreError::disk("read", "snapshot", error))?;
        if differ(&self.held, &self.inner.trailer()) {
            return Err(bad("cut off, or its checksum does not match"));
        }
        Ok(self.inner.length + TRAILER as u64)
    }
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.held.len() <= TRAILER {
            self.fill()?;
        }
        let count = self.held.len().saturating_sub(TRAILER).min(buffer.len());
        buffer[..count].copy_from_slice(&self.held[..count]);
        self.inner.pass(&buffer[..count]);
        self.held.drain(..count);
        Ok(count)
    }
}

/// Reads a whole snapshot: header, state, and the check of every byte. Returns its length, too.
pub(crate) fn read_snapshot(input: impl Read) -> Result<(SnapshotHeader, State, u64), StoreError> {
    let mut body = Body::new(input);
    let header = SnapshotHeader::read(&mut body)?;
    let state = State::read(&mut BufReader::with_capacity(BUFFER, &mut body));
    // The checksum of the whole tells damage from a disagreement between two parts of this program.
    let length = body.check()?;
    let state = state.map_err(|error| state_error(error, "snapshot"))?;
    Ok((header, state, length))
}

/// Checks every byte of a snapshot without building its state.
fn verify(input: impl Read) -> Result<SnapshotHeader, StoreError> {
    let mut body = Body::new(input);
    let header = SnapshotHeader::read(&mut body)?;
    body.check()?;
    Ok(header)
}

/// Writes a whole snapshot and leaves it on the device. Returns its length.
pub(crate) fn write_snapshot(out: Box<dyn DiskWriter>, header: &SnapshotHeader, image: &Image) -> io::Result<u64> {
    let mut out = Summing::new(BufWriter::with_capacity(BUFFER, out));
    out.write_all(&header.encode())?;
    image.write(&mut out)?;
    let trailer = out.trailer();
    out.write_all(&trailer)?;
    let length = out.length;
    let mut file = out.inner.into_inner().map_err(|error| error.into_error())?;
    file.sync()?;
    Ok(length)
}

/// Name of the snapshot that stands there.
pub(crate) fn file_name(last: Option<(u64, u64)>) -> String {
    let (term, index) = last.unwrap_or_default();
    format!("{FOLDER}/{term}-{index}{SUFFIX}")
}

/// Snapshots on a disk, oldest first, and leftovers of unfinished ones.
pub(crate) struct Listing {
    pub whole: Vec<String>,
    pub leftovers: Vec<String>,
}

/// What lies in the snapshot folder.
pub(crate) fn listing(disk: &dyn Disk) -> Result<Listing, StoreError> {
    let place = || format!("{}/{FOLDER}", disk.place());
    let names = disk.list(FOLDER).map_err(|error| StoreError::disk("list", place(), error))?;
    let mut whole = Vec::new();
    let mut leftovers = Vec::new();
    for name in names {
        let stem = name.strip_suffix(SUFFIX).and_then(|stem| stem.split_once('-'));
        let parsed = stem.and_then(|(term, index)| Some((term.parse::<u64>().ok()?, index.parse::<u64>().ok()?)));
        match parsed {
            Some((term, index)) => whole.push((index, term, format!("{FOLDER}/{name}"))),
            None if name.ends_with(TEMPORARY) => leftovers.push(format!("{FOLDER}/{name}")),
            None => tracing::warn!(name, "a foreign file among the snapshots is left alone"),
        }
    }
    whole.sort();
    Ok(Listing { whole: whole.into_iter().map(|(_, _, name)| name).collect(), leftovers })
}

/// A name for a file in the making, unique in this process.
pub(crate) fn temporary_name(purpose: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{FOLDER}/{purpose}-{}{TEMPORARY}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A snapshot's bytes, to be read once from the beginning. Stays readable when a newer snapshot replaces the file.
pub struct SnapshotData {
    disk: Arc<dyn Disk>,
    file: Option<Box<dyn DiskFile>>,
    name: String,
    header: SnapshotHeader,
    size: u64,
    crc: crc32fast::Hasher,
}

impl std::fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "snapshot({}, {} bytes)", self.name, self.size)
    }
}

impl SnapshotData {
    pub(crate) fn open(disk: Arc<dyn Disk>, name: String) -> Result<Self, StoreError> {
        let place = format!("{}/{name}", disk.place());
        let error = |error| StoreError::disk("open", &place, error);
        let file = disk.open_file(&name).map_err(error)?;
        let size = file.size().map_err(error)?;
        let header = SnapshotHeader::read(&mut file.reopen().map_err(error)?)?;
        Ok(Self { disk, file: Some(file), name, header, size, crc: crc32fast::Hasher::new() })
    }

    /// What it says about itself.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Where it stands, as openraft has it.
    ///
    /// # Errors
    /// If its membership makes no sense.
    pub fn meta(&self) -> Result<SnapshotMeta, StoreError> {
        self.header.meta()
    }

    /// All its bytes, also those that were read already.
    pub fn len(&self) -> u64 {
        self.size
    }

    /// Never true: even the state of an empty cluster has a header.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// CRC-32 of the bytes that [`Self::next_chunk`] gave so far.
    pub fn crc(&self) -> u32 {
        self.crc.clone().finalize()
    }

    /// The next bytes, at most `max` of them; `None` at the end.
    ///
    /// # Errors
    /// If the disk fails. Nothing more can be read then.
    pub async fn next_chunk(&mut self, max: usize) -> io::Result<Option<Bytes>> {
        let mut file = self.file.take().ok_or_else(|| io::Error::other("the snapshot could not be read on"))?;
        let (file, chunk) = offload(&self.disk, Lane::Transfer, move || {
            let mut chunk = Vec::with_capacity(max);
            let read = (&mut file).take(max as u64).read_to_end(&mut chunk);
            read.map_err(|error| StoreError::disk("read", "snapshot", error))?;
            Ok((file, Bytes::from(chunk)))
        })
        .await?;
        self.file = Some(file);
        self.crc.update(&chunk);
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_on(&self, disk: &Arc<dyn Disk>) -> bool {
        Arc::ptr_eq(&self.disk, disk)
    }

    /// Received, and not yet installed under its final name.
    pub(crate) fn is_temporary(&self) -> bool {
        self.name.ends_with(TEMPORARY)
    }

    /// A reader of the whole file, wherever this one stands.
    pub(crate) fn reader(&self) -> Result<Box<dyn DiskFile>, StoreError> {
        let file = self.file.as_ref().ok_or_else(|| bad("it could not be read"))?;
        file.reopen().map_err(|error| StoreError::disk("read", &self.name, error))
    }
}

impl Drop for SnapshotData {
    /// A received file that was not installed is of no use to anybody; an installed one has another name by now.
    fn drop(&mut self) {
        if self.is_temporary() {
            let (disk, name) = (self.disk.clone(), std::mem::take(&mut self.name));
            self.disk.offload(Lane::Transfer, Box::new(move || drop(disk.remove_file(&name))));
        }
    }
}

/// Takes a snapshot that comes in pieces into a file of the data directory. Dropping it removes the file.
pub struct SnapshotReceiver {
    disk: Arc<dyn Disk>,
    name: String,
    file: Option<Box<dyn DiskWriter>>,
    crc: crc32fast::Hasher,
    received: u64,
    finished: bool,
}

impl SnapshotReceiver {
    /// Nothing is written before the first bytes come.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        let name = temporary_name("receiving");
        Self { disk, name, file: None, crc: crc32fast::Hasher::new(), received: 0, finished: false }
    }

    /// Bytes so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// If the disk refuses; the transfer can't go on then.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let begun = self.file.take();
        if begun.is_none() && self.received > 0 {
            return Err(StoreError::Closed);
        }
        self.crc.update(bytes);
        self.received += bytes.len() as u64;
        let (disk, name, bytes) = (self.disk.clone(), self.name.clone(), bytes.to_vec());
        let file = offload(&self.disk, Lane::Transfer, move || {
            let place = || format!("{}/{name}", disk.place());
            let create = || disk.create_file(&name).map_err(|error| StoreError::disk("create", place(), error));
            let mut file = begun.map_or_else(create, Ok)?;
            file.write_all(&bytes).map_err(|error| StoreError::disk("write", place(), error))?;
            Ok(file)
        })
        .await?;
        self.file = Some(file);
        Ok(())
    }

    /// All is here: syncs it, checks it against the sender's `crc` and its own trailer, and makes it a snapshot that
    /// openraft can install.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is not what was sent, or whatever the disk refuses.
    pub async fn finish(mut self, crc: u32) -> Result<SnapshotData, StoreError> {
        let computed = self.crc.clone().finalize();
        if computed != crc {
            return Err(bad(format!("received with checksum {computed:08x}, sent with {crc:08x}")));
        }
        let mut file = self.file.take().ok_or_else(|| bad("nothing was received"))?;
        let (disk, name) = (self.disk.clone(), self.name.clone());
        let received = offload(&self.disk, Lane::Transfer, move || {
            file.sync().map_err(|error| StoreError::disk("sync", &name, error))?;
            drop(file);
            let data = SnapshotData::open(disk, name)?;
            verify(data.reader()?)?;
            Ok(data)
        })
        .await?;
        self.finished = true;
        Ok(received)
    }
}

impl Drop for SnapshotReceiver {
    fn drop(&mut self) {
        if !self.finished {
            let (disk, name) = (self.disk.clone(), std::mem::take(&mut self.name));
            self.disk.offload(Lane::Transfer, Box::new(move || drop(disk.remove_file(&name))));
        }
    }
}

/// What a snapshot file holds, for an operator.
#[derive(Debug, Clone)]
pub struct SnapshotInfo {
    /// What it says about itself.
    pub header: SnapshotHeader,
    /// Size in bytes.
    pub bytes: u64,
    /// Tasks by state.
    pub tasks: TaskCounts,
    /// Workers by status.
    pub workers: WorkerCounts,
    /// Digest of the state: equal states have equal ones.
    pub digest: u128,
    /// Cluster time in ms.
    pub time_ms: u64,
    /// Wall time of its last entry, Unix ms.
    pub wall_ms: u64,
}

/// Reads and checks a whole snapshot from a file or a stream. Blocks.
///
/// # Errors
/// If it is damaged, cut off, no snapshot, or of an unknown version.
pub fn inspect_snapshot(input: impl Read) -> Result<SnapshotInfo, StoreError> {
    let (header, state, bytes) = read_snapshot(input)?;
    Ok(info(header, &state, bytes))
}

pub(crate) fn info(header: SnapshotHeader, state: &State, bytes: u64) -> SnapshotInfo {
    SnapshotInfo {
        header,
        bytes,
        tasks: state.counts(),
        workers: state.worker_counts(),
        digest: state.digest(),
        time_ms: state.time_ms(),
        wall_ms: state.wall_ms(),
    }
}
