//! A submit, as all workloads make it.

use steersman_client::v1::TaskSpec;
use steersman_client::{Client, RequestId};
use steersman_evidence::record::{Answer, Call, Outcome};

use crate::chaos::traffic::{Actor, Traffic};
use crate::spec::group;
use steersman_evidence::answers;

/// What to submit, and under which request id.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) id: RequestId,
    pub(super) request: String,
    pub(super) spec: TaskSpec,
    pub(super) count: u32,
}

impl Wish {
    pub(super) fn new(traffic: &Traffic, spec: TaskSpec, count: u32) -> Self {
        let (id, request) = traffic.request();
        Self { id, request, spec, count }
    }

    /// Submits it, for the first time or again. Returns the first id if it was acknowledged.
    pub(super) async fn submit(&self, actor: &mut Actor, (master, client): (Option<u64>, Client)) -> Option<u64> {
        let call = Call::Submit { request: self.request.clone(), count: self.count.into() };
        let groups = group(self.spec.clone(), self.count);
        let answer = async { answers::submitted(&client.submit_with_id(self.id, groups).await) };
        match actor.perform(master, call, answer).await {
            Outcome::Ok { answer: Answer::Submitted { first, .. } } => Some(first),
            _ => None,
        }
    }
}
