//! What workers tell of attempts.
//!
//! What always holds: only the attempt that is open at that very worker, in that very process, is heard; everything else
//! is an echo and changes nothing.

use crate::command::{Ended, News, Report};
use crate::effect::{Event, Reply};
use crate::ids::{TaskId, WorkerId};
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
        let Some(slot) = slot.filter(|slot| slot.task == report.task) else { return false };
        let stopping = slot.stopping;
        match &report.news {
            News::Started if stopping => {}
            News::Started => self.started(report.task),
            News::Ended(ended) => {
                self.change_worker(worker, |worker| drop(worker.free(report.token)));
                if !stopping {
                    self.reported_end(report.task, ended);
                }
            }
        }
        true
    }

    /// Exit code 0 is success, whatever word came with it.
    fn reported_end(&mut self, task: TaskId, ended: &Ended) {
        match ended.outcome == Outcome::Exited && ended.exit_code == 0 {
            true => self.end_attempt(task, &Ended { outcome: Outcome::Succeeded, ..ended.clone() }),
            false => self.end_attempt(task, ended),
        }
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
