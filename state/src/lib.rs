//! The truth: commands, `apply`, effects, placement, views, invariants. Pure and deterministic.
//!
//! Same state, same entry: same state, replies and effects, on every master and every replay. No clock, no randomness, no
//! IO, no async, no logging, no `HashMap`; no panic on any input that a user can send.

mod codec;
pub mod command;
pub mod effect;
pub mod ids;
mod image;
mod invariants;
pub mod limits;
pub mod task;
pub mod view;
pub mod worker;

pub use codec::{BATCH_BYTES_MAX, DecodeError};
pub use command::*;
pub use effect::*;
pub use ids::*;
pub use image::Image;
pub use invariants::Violation;
pub use limits::Limits;
pub use task::*;
pub use view::*;
pub use worker::*;

/// Everything that is replicated.
#[derive(Default)]
pub struct State {
    applied_index: u64,
    term: u64,
    time_ms: u64,
    wall_ms: u64,
    limits: Limits,
}

#[allow(unused_variables, missing_docs)]
impl State {
    pub fn new() -> State {
        Self::default()
    }
    pub fn apply(&mut self, index: u64, batch: &Batch) -> Applied {
        self.applied_index = index;
        Applied { replies: vec![Reply::Done; batch.commands.len()], ..Applied::default() }
    }
    pub fn apply_blank(&mut self, index: u64, term: u64) -> Applied {
        self.applied_index = index;
        Applied::default()
    }
    pub fn apply_membership(
        &mut self,
        index: u64,
        term: u64,
        voters: Vec<MasterId>,
        learners: Vec<MasterId>,
    ) -> Applied {
        self.applied_index = index;
        Applied::default()
    }
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }
    pub fn term(&self) -> u64 {
        self.term
    }
    pub fn leader(&self) -> Option<MasterId> {
        None
    }
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }
    pub fn wall_ms(&self) -> u64 {
        self.wall_ms
    }
    pub fn next_timer_ms(&self) -> Option<u64> {
        None
    }
    pub fn cluster_id(&self) -> Option<&str> {
        None
    }
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
    pub fn format_level(&self) -> u32 {
        0
    }
    pub fn outstanding(&self, worker: WorkerId) -> Vec<Effect> {
        Vec::new()
    }
    pub fn check(&self) -> Result<(), Violation> {
        Ok(())
    }
    pub fn digest(&self) -> u128 {
        0
    }
    pub fn image(&self) -> Image {
        Image::new(self.applied_index)
    }
    pub fn read(input: &mut dyn std::io::Read) -> Result<State, DecodeError> {
        Ok(Self::default())
    }
    pub fn restored(self, epoch: u64) -> State {
        self
    }
    pub fn task(&self, id: TaskId) -> Option<TaskView> {
        None
    }
    pub fn task_state(&self, id: TaskId) -> Option<TaskState> {
        None
    }
    pub fn list_tasks(
        &self,
        filter: &TaskFilter,
        cursor: Option<TaskId>,
        newest_first: bool,
        limit: usize,
    ) -> (Vec<TaskView>, Option<TaskId>) {
        (Vec::new(), None)
    }
    pub fn tally(&self, first: TaskId, count: u64) -> Tally {
        Tally::default()
    }
    pub fn counts(&self) -> TaskCounts {
        TaskCounts::default()
    }
    pub fn worker_counts(&self) -> WorkerCounts {
        WorkerCounts::default()
    }
    pub fn first_task(&self) -> Option<TaskId> {
        None
    }
    pub fn last_task_id(&self) -> TaskId {
        TaskId(0)
    }
    pub fn worker(&self, worker: WorkerId) -> Option<WorkerView> {
        None
    }
    pub fn find_worker(&self, worker: &WorkerRef) -> Option<WorkerId> {
        None
    }
    pub fn list_workers(&self, cursor: Option<WorkerId>, limit: usize) -> (Vec<WorkerView>, Option<WorkerId>) {
        (Vec::new(), None)
    }
    pub fn believed_workers(&self) -> Vec<(WorkerId, u64, u64, bool)> {
        Vec::new()
    }
    pub fn explain(&self, id: TaskId) -> Option<Explanation> {
        None
    }
    pub fn remembered(&self, id: RequestId) -> Option<&Reply> {
        None
    }
    pub fn events_from(&self, index: u64, max_events: usize) -> EventPage {
        EventPage { upto: self.applied_index, ..EventPage::default() }
    }
    pub fn oldest_event_index(&self) -> u64 {
        1
    }
    pub fn voters(&self) -> &[MasterId] {
        &[]
    }
    pub fn learners(&self) -> &[MasterId] {
        &[]
    }
}
