//! What workers tell of attempts.
//!
//! What always holds: only the attempt that is open at that very worker, in that very process, is heard; everything else
//! is an echo and changes nothing.

use crate::command::{Ended, News, Report};
use crate::effect::{Event, Reply};
use crate::ids::{TaskId, WorkerId};
use crate::registry::{Slot, Wish};
use crate::task::{Outcome, TaskState};

use super::Step;

impl Step<'_> {
    pub(super) fn reports(&mut self, worker: WorkerId, incarnation: u64, reports: &[Report]) -> Reply {
        let known = self.state.registry.get(worker).is_some_and(|worker| worker.incarnation == incarnation);
        let heard = |report: &&Report| known && self.report(worker, report);
        let heard = reports.iter().filter(heard).count();
        Reply::Reported { ignored: (reports.len() - heard) as u32 }
    }

    /// Says whether the attempt is open.
    fn report(&mut self, worker: WorkerId, report: &Report) -> bool {
        let slot = self.state.registry.get(worker).and_then(|worker| worker.open.get(&report.token));
        let meant = |slot: &&Slot| slot.task == report.task || report.task == TaskId(0);
        let Some(slot) = slot.filter(meant) else {
            #[cfg(feature = "seeded-bugs")]
            return self.mistake_echo(report);
            #[cfg(not(feature = "seeded-bugs"))]
            return false;
        };
        let (task, wish) = (slot.task, slot.wish);
        match &report.news {
            News::Started if wish == Wish::Stop => {}
            News::Started => self.started(task),
            News::Ended(ended) => {
                self.change_worker(worker, |worker| drop(worker.free(report.token)));
                if wish != Wish::Stop {
                    self.reported_end(task, ended, wish);
                }
                #[cfg(feature = "seeded-bugs")]
                if wish == Wish::Stop && ended.exit_code == 0 && steersman_bugs::planted("success-overtakes-cancel") {
                    self.finish_again(task, TaskState::Succeeded);
                }
            }
        }
        true
    }

    /// What should be an echo counts after all: for the attempt that is open now, or for a task that has finished.
    #[cfg(feature = "seeded-bugs")]
    fn mistake_echo(&mut self, report: &Report) -> bool {
        let Some(task) = self.state.tasks.get(report.task) else { return false };
        if let Some((worker, token)) = task.open().map(|open| (open.worker, open.token)) {
            return steersman_bugs::planted("accept-old-report")
                && token != report.token
                && self.report(worker, &Report { token, ..report.clone() });
        }
        let ended = matches!(report.news, News::Ended(_)) && task.facts.state.is_finished();
        if ended && steersman_bugs::planted("repeated-report-ends-twice") {
            self.finish_again(report.task, TaskState::Failed);
        }
        false
    }

    /// Overwrites how a task has ended.
    #[cfg(feature = "seeded-bugs")]
    fn finish_again(&mut self, task: TaskId, state: TaskState) {
        self.set_state(task, state);
        self.events.push(Event::TaskFinished { task, state, outcome: None });
    }

    /// Exit code 0 is success, whatever word came with it; and what was given back was not cancelled by a caller.
    fn reported_end(&mut self, task: TaskId, ended: &Ended, wish: Wish) {
        let outcome = match ended.outcome {
            Outcome::Exited if ended.exit_code == 0 => Outcome::Succeeded,
            Outcome::Cancelled if wish == Wish::GiveBack => Outcome::WorkerShutdown,
            _ => return self.end_attempt(task, ended),
        };
        self.end_attempt(task, &Ended { outcome, ..ended.clone() });
    }

    fn started(&mut self, id: TaskId) {
        let wall_ms = self.stamp.wall_ms;
        let Some(task) = self.state.tasks.get_mut(id).filter(|task| task.facts.state == TaskState::Scheduled) else {
            return;
        };
        let Some(open) = task.open_mut() else { return };
        open.started_ms = wall_ms;
        let token = open.token;
        self.set_state(id, TaskState::Running);
        self.events.push(Event::TaskStarted { task: id, token });
    }
}
