//! One hop to the leader: how a call that only the leader can answer is answered by any master.
//!
//! What always holds: a call is forwarded at most once (its metadata says so), as it came, and the answer tells the caller
//! who leads. Without a leader a call waits a short, jittered time first, because most elections are over by then. If
//! leadership moves while this master answers, the caller is redirected. A forwarded mutation whose connection broke in
//! the middle is *outcome unknown*.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use steersman_proto::codes;
use steersman_state::{Command, Reply, RequestId};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_types::StatusExt as _;

use super::status::{no_leader, not_leader, status, status_of_propose, status_of_rejection};
use crate::leader::Reign;
use crate::node::{LeaderHint, Node};
use crate::propose::ProposeError;

/// Set on a forwarded call: it is not forwarded again.
const FORWARDED: &str = "steersman-forwarded";
/// The leader gives up on a commit after 5 s and says why; the margin is for the way back.
const LEADER_PATIENCE: Duration = Duration::from_secs(6);

/// What the services share.
#[derive(Clone)]
pub struct Edge {
    /// The node.
    pub node: Arc<Node>,
}

/// A committed command's reply and log index.
pub struct Done {
    /// What `apply` answered; never a rejection.
    pub reply: Reply,
    /// Where it is in the log.
    pub log_index: u64,
}

/// What kind of call is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// It changes something, and carries the id that makes a retry harmless: a broken connection leaves its outcome unknown.
    Mutation,
    /// It changes something and must not be repeated.
    Once,
    /// It only asks, and may take so long by itself.
    Question(Duration),
}

impl Hop {
    fn patience(self) -> Duration {
        match self {
            Self::Mutation | Self::Once => LEADER_PATIENCE,
            Self::Question(own) => LEADER_PATIENCE + own,
        }
    }
}

impl Edge {
    /// The edge of one node.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// Proposes a command; if there is no leader, waits once for one.
    ///
    /// # Errors
    /// `NOT_LEADER` if another master leads now; else what refused it.
    pub async fn commit(&self, request: RequestId, command: Command) -> Result<Done, Status> {
        let mut outcome = self.node.propose(Some(request), command.clone()).await;
        if matches!(outcome, Err(ProposeError::NotLeader(None))) {
            outcome = match self.node.await_leader().await {
                Some(hint) => Err(ProposeError::NotLeader(Some(hint))),
                None => self.node.propose(Some(request), command).await,
            };
        }
        let committed = outcome.map_err(|error| self.refused(&error))?;
        match committed.reply {
            Reply::Rejected(rejection) => Err(status_of_rejection(&rejection)),
            reply => Ok(Done { reply, log_index: committed.index }),
        }
    }

    /// The reign of this master.
    ///
    /// # Errors
    /// `NOT_LEADER` or `NO_LEADER` if it has none.
    pub fn reign(&self) -> Result<Arc<Reign>, Status> {
        self.node.reign().ok_or_else(|| self.refused(&ProposeError::NotLeader(self.node.leader_hint())))
    }

    /// An error of the node as a status, with the arithmetic if there is no leader.
    pub fn refused(&self, error: &ProposeError) -> Status {
        match error {
            ProposeError::NotLeader(None) => self.no_leader(),
            other => status_of_propose(other),
        }
    }

    /// Answers here if this master leads, else at the leader. A forwarded answer's metadata tell who that is.
    ///
    /// # Errors
    /// What the answering master said; `NOT_LEADER` instead of a second hop.
    pub async fn answer<Q, A, H, T>(
        &self,
        hop: Hop,
        request: Request<Q>,
        here: impl FnOnce(Q) -> H,
        there: impl FnOnce(Channel, Request<Q>) -> T,
    ) -> Result<Response<A>, Status>
    where
        H: Future<Output = Result<A, Status>>,
        T: Future<Output = Result<Response<A>, Status>>,
    {
        let Some(hint) = self.leader_elsewhere().await else {
            return here(request.into_inner()).await.map(Response::new);
        };
        if request.metadata().contains_key(FORWARDED) {
            return Err(not_leader(Some(&hint)));
        }
        self.node.metrics.forwarded();
        let request = outbound(request, hop.patience());
        let answer = tokio::select! {
            answer = there(self.node.peer_channel(&hint.api), request) => answer,
            newer = self.another_leads(&hint), if hop != Hop::Once => return Err(not_leader(Some(&newer))),
        };
        answer.map(|answer| told(answer, &hint)).map_err(|error| self.broken(error, hop, &hint))
    }

    /// Resolves when a leader of a newer term than that one is known: whoever waits for that one may wait for ever.
    async fn another_leads(&self, than: &LeaderHint) -> LeaderHint {
        let mut leader = self.node.leader_watch();
        let newer = leader.wait_for(|view| view.term > than.term && view.leader.is_some()).await;
        let found = newer.ok().and_then(|view| {
            let leader = view.leader.clone()?;
            Some(LeaderHint { id: leader.id, api: leader.api, term: view.term })
        });
        match found {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }

    async fn leader_elsewhere(&self) -> Option<LeaderHint> {
        if self.node.reign().is_some() {
            return None;
        }
        match self.node.leader_hint() {
            Some(hint) => Some(hint),
            None => self.node.await_leader().await,
        }
    }

    /// A refusal of the leader as it is; a failure of the connection as what it means for the caller.
    fn broken(&self, error: Status, hop: Hop, hint: &LeaderHint) -> Status {
        if error.get_details_error_info().is_some() {
            return error;
        }
        self.node.drop_peer_channel(&hint.api);
        let (id, api) = (hint.id, &hint.api);
        if was_never_sent(&error) || matches!(hop, Hop::Question(_)) {
            let (message, need) = (error.message(), self.arithmetic());
            return no_leader(format!("master {id} at {api} led a moment ago and does not answer ({message}): {need}"));
        }
        let message = format!("the connection to the leader, master {id} at {api}, broke: {}", error.message());
        status(codes::OUTCOME_UNKNOWN, message)
    }

    /// `NO_LEADER` with what this master knows.
    fn no_leader(&self) -> Status {
        no_leader(format!("no leader: {}", self.arithmetic()))
    }

    /// How many masters an election needs, and when this one last saw that many at work.
    fn arithmetic(&self) -> String {
        let status = self.node.status();
        let voters = status.members.iter().filter(|member| member.voter).count();
        if voters == 0 {
            return "this master is not (yet) a member of a cluster".to_owned();
        }
        let (need, id) = (voters / 2 + 1, self.node.id);
        let heard = match status.quorum_ack_age_ms {
            u64::MAX => "has not heard from a leader since its start".to_owned(),
            age => format!("last heard from a leader or a quorum {age} ms ago"),
        };
        format!("{need} of {voters} masters are needed to elect one; master {id} {heard}")
    }
}

/// The request for the leader: guarded against a second hop, and never waiting for ever.
fn outbound<Q>(request: Request<Q>, patience: Duration) -> Request<Q> {
    let mut forward = Request::new(request.into_inner());
    forward.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
    forward.set_timeout(patience);
    forward
}

/// Adds who leads to an answer.
fn told<A>(mut answer: Response<A>, hint: &LeaderHint) -> Response<A> {
    let metadata = answer.metadata_mut();
    tell(metadata, "steersman-leader-id", &hint.id.to_string());
    tell(metadata, "steersman-leader-api", &hint.api);
    tell(metadata, "steersman-term", &hint.term.to_string());
    answer
}

fn tell(metadata: &mut MetadataMap, key: &'static str, value: &str) {
    // An address that is no header value can't be told; the answer is good all the same.
    if let Ok(value) = MetadataValue::try_from(value) {
        metadata.insert(key, value);
    }
}

/// Whether the connection failed before the request could have left.
fn was_never_sent(error: &Status) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        source = cause.source();
    }
    false
}
