//! How an office changed hands: the milestones that the new holder saw, and the report that it leaves in the event stream.
//!
//! What always holds: nothing is decided by what is noted here; all times are this master's own monotonic clock. A report is made
//! once per reign, after the workers are back or [`WORKERS_BACK_MAX`] has passed; a reign that ends before leaves none, and a report
//! that is not committed at once is not tried again. It does not know what the former leader did after the last append that
//! arrived here.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use steersman_state::command::Command;
use steersman_state::effect::{ElectionCause, ElectionReport};
use steersman_state::ids::MasterId;
use steersman_world::Clock;
use tokio::time::Instant;

use crate::leader::Reign;

/// A worker that is not back by then did not come back with this change of leader.
const WORKERS_BACK_MAX: Duration = Duration::from_secs(5);
/// Where there is work, the first attempt goes out within a few ms of the first free slot.
const DISPATCH_MAX: Duration = Duration::from_secs(1);
/// A handover that was announced so long ago did not happen.
const HANDOVER_MAX: Duration = Duration::from_secs(1);
/// Between two looks at who is back.
const LOOK: Duration = Duration::from_millis(20);

/// What was noted since a leader was last heard, or since this master lost office.
#[derive(Debug, Clone, Copy, Default)]
struct Course {
    heard: Option<(u64, Instant)>,
    suspected: Option<(ElectionCause, Instant)>,
    asked: Option<Instant>,
    granted: Option<Instant>,
}

/// Notes the milestones of elections on one master. Cheap to clone.
#[derive(Clone)]
pub struct Elections {
    clock: Arc<dyn Clock>,
    course: Arc<Mutex<Course>>,
}

/// When an office was won, and what came before.
#[derive(Debug, Clone, Copy)]
pub struct Won {
    course: Course,
    elected: Instant,
}

impl Elections {
    /// Nothing noted yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, course: Arc::default() }
    }

    /// An append of this leader was accepted: whatever was suspected is over. But for a handover that it has just announced: its
    /// appends travel on another connection and may come later.
    pub fn heard(&self, leader: u64) {
        let now = self.clock.now();
        let mut course = self.course.lock();
        if let (Some((former, _)), Some((ElectionCause::Handover, since))) = (course.heard, course.suspected)
            && former == leader
            && now - since < HANDOVER_MAX
        {
            return;
        }
        *course = Course { heard: Some((leader, now)), ..Course::default() };
    }

    /// There is a reason to ask for votes. The first one counts.
    pub fn suspected(&self, cause: ElectionCause) {
        let now = self.clock.now();
        self.course.lock().suspected.get_or_insert((cause, now));
    }

    /// A vote or pre-vote is asked for; without another reason it is a timer's.
    pub fn asked(&self) {
        let now = self.clock.now();
        let mut course = self.course.lock();
        let cause = if course.heard.is_some() { ElectionCause::Timer } else { ElectionCause::Start };
        course.suspected.get_or_insert((cause, now));
        course.asked.get_or_insert(now);
    }

    /// A vote was granted.
    pub fn granted(&self) {
        self.course.lock().granted = Some(self.clock.now());
    }

    /// The office is held from now on.
    pub fn won(&self) -> Won {
        let course = std::mem::take(&mut *self.course.lock());
        Won { course, elected: self.clock.now() }
    }
}

/// What a reign notes of its first moments.
#[derive(Debug, Default)]
pub struct Beginnings {
    dispatched: Mutex<Option<Instant>>,
    session: Mutex<Option<Instant>>,
}

impl Beginnings {
    /// An attempt goes out to a worker. The first one counts.
    pub fn dispatched(&self, now: Instant) {
        self.dispatched.lock().get_or_insert(now);
    }

    /// A worker's session is open. The latest one counts.
    pub fn session_opened(&self, now: Instant) {
        *self.session.lock() = Some(now);
    }
}

/// Waits for the workers and for the first dispatch, and leaves the report.
pub async fn report(reign: Arc<Reign>, won: Won, workers: usize) {
    let office = reign.office().clone();
    let committed = office.world.clock.now();
    wait(&reign, committed + WORKERS_BACK_MAX, |reign| reign.sessions_open() >= workers).await;
    let dispatch_by = office.world.clock.now() + DISPATCH_MAX;
    wait(&reign, dispatch_by, |reign| reign.beginnings.dispatched.lock().is_some()).await;
    let made = made(&reign, won, committed, workers);
    tracing::info!(cause = ?made.cause, elected_us = made.elected_us, committed_us = made.committed_us, "the office changed hands");
    if let Err(error) = office.proposer.propose(None, Command::ElectionReport(made)).await {
        tracing::debug!(%error, "the report of the election was not committed");
    }
}

async fn wait(reign: &Reign, until: Instant, done: impl Fn(&Reign) -> bool) {
    while !done(reign) && reign.office().world.clock.now() < until {
        tokio::time::sleep(LOOK).await;
    }
}

fn made(reign: &Reign, won: Won, committed: Instant, workers: usize) -> ElectionReport {
    let Won { course, elected } = won;
    let office = reign.office();
    let asked = course.asked.unwrap_or(elected);
    let (cause, suspected) = course.suspected.unwrap_or((ElectionCause::Start, asked));
    let zero = course.heard.map_or(suspected, |(_, at)| at);
    let since = |at: Instant| at.saturating_duration_since(zero).as_micros() as u64;
    let session = *reign.beginnings.session.lock();
    let dispatched = *reign.beginnings.dispatched.lock();
    ElectionReport {
        term: reign.term,
        leader: MasterId(office.proposer.id()),
        former: course.heard.map(|(leader, _)| MasterId(leader)),
        cause,
        suspected_us: since(suspected),
        asked_us: since(asked),
        granted_us: since(course.granted.unwrap_or(elected)),
        elected_us: since(elected),
        committed_us: since(committed),
        dispatched_us: dispatched.map(since),
        workers_back_us: session.map(since),
        workers_believed: workers as u32,
        workers_back: reign.sessions_open() as u32,
        reported_us: since(office.world.clock.now()),
        reported_wall_ms: office.world.clock.wall_ms(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_world::RealClock;

    #[tokio::test(start_paused = true)]
    async fn the_first_reason_counts_and_a_living_leader_wipes_it() {
        let elections = Elections::new(Arc::new(RealClock));
        elections.heard(1);
        elections.suspected(ElectionCause::Reset);
        elections.heard(2);
        tokio::time::advance(Duration::from_millis(250)).await;
        elections.asked();
        elections.suspected(ElectionCause::Handover);
        elections.granted();
        let won = elections.won();
        assert_eq!(won.course.suspected.map(|(cause, _)| cause), Some(ElectionCause::Timer));
        let (former, heard) = won.course.heard.unwrap_or((0, won.elected));
        assert_eq!((former, (won.elected - heard).as_millis()), (2, 250));
        elections.heard(3);
        elections.suspected(ElectionCause::Handover);
        elections.heard(3);
        assert_eq!(elections.won().course.suspected.map(|(cause, _)| cause), Some(ElectionCause::Handover));
        elections.asked();
        let again = elections.won();
        assert_eq!(again.course.suspected.map(|(cause, _)| cause), Some(ElectionCause::Start));
    }
}
