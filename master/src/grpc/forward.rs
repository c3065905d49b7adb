//! One hop to the leader: how a call that only the leader can answer is answered by any master.
//!
//! What always holds: a call is forwarded at most once (its metadata says so), with the same request id, and the answer
//! tells the caller who leads. Without a leader a call waits a short, jittered time and is tried once more, because most
//! elections are over by then. A forwarded call whose connection broke in the middle is *outcome unknown*.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use steersman_proto::codes;
use steersman_state::{Command, Reply, RequestId};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::status::{no_leader, not_leader, status, status_of_propose, status_of_rejection};
use crate::leader::Reign;
use crate::node::{LeaderHint, Node};
use crate::propose::ProposeError;

/// Set on a forwarded call: it is not forwarded again.
const FORWARDED: &str = "steersman-forwarded";
/// Waiting for a leader: at least so long, and at most twice as long. About one election.
const ELECTION_WAIT_MS: u64 = 100;

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

/// Why a call can't be answered here.
pub enum Elsewhere {
    /// The leader can: forward it.
    Leader(LeaderHint),
    /// Nobody can, or it was refused: this is the answer.
    Refused(Status),
}

impl From<Status> for Elsewhere {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl Edge {
    /// The edge of one node.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// Proposes a command; waits once for a leader if there is none.
    ///
    /// # Errors
    /// [`Elsewhere`] if another master leads or the command is refused.
    pub async fn commit(&self, request: RequestId, command: Command) -> Result<Done, Elsewhere> {
        let mut outcome = self.node.propose(Some(request), command.clone()).await;
        if matches!(outcome, Err(ProposeError::NotLeader(None))) {
            outcome = match self.await_leader().await {
                Some(hint) => Err(ProposeError::NotLeader(Some(hint))),
                None => self.node.propose(Some(request), command).await,
            };
        }
        match outcome {
            Ok(committed) => match committed.reply {
                Reply::Rejected(rejection) => Err(status_of_rejection(&rejection).into()),
                reply => Ok(Done { reply, log_index: committed.index }),
            },
            Err(error) => Err(self.elsewhere(&error)),
        }
    }

    /// The reign of this master; waits once for a leader if there is none.
    ///
    /// # Errors
    /// [`Elsewhere`] if another master leads, or none.
    pub async fn reign(&self) -> Result<Arc<Reign>, Elsewhere> {
        if let Some(reign) = self.node.reign() {
            return Ok(reign);
        }
        let hint = match self.node.leader_hint() {
            Some(hint) => Some(hint),
            None => self.await_leader().await,
        };
        match (self.node.reign(), hint) {
            (Some(reign), _) => Ok(reign),
            (None, Some(hint)) => Err(Elsewhere::Leader(hint)),
            (None, None) => Err(Elsewhere::Refused(self.no_leader())),
        }
    }

    /// Where the answer to this error is.
    pub fn elsewhere(&self, error: &ProposeError) -> Elsewhere {
        match error {
            ProposeError::NotLeader(Some(hint)) => Elsewhere::Leader(hint.clone()),
            ProposeError::NotLeader(None) => Elsewhere::Refused(self.no_leader()),
            other => Elsewhere::Refused(status_of_propose(other)),
        }
    }

    /// The error of a read, with the arithmetic if there is no leader.
    pub fn refused(&self, error: &ProposeError) -> Status {
        match error {
            ProposeError::NotLeader(None) => self.no_leader(),
            other => status_of_propose(other),
        }
    }

    /// Waits a jittered moment until a leader shows itself. `None` if none did, or if it is this master.
    pub async fn await_leader(&self) -> Option<LeaderHint> {
        let wait = ELECTION_WAIT_MS + self.node.world.entropy.below(ELECTION_WAIT_MS);
        let mut leader = self.node.leader_watch();
        let shown = leader.wait_for(|view| view.leader.is_some());
        let _ = tokio::time::timeout(Duration::from_millis(wait), shown).await;
        self.node.leader_hint().filter(|hint| hint.id != self.node.id)
    }

    /// `NO_LEADER` with what this master knows.
    pub fn no_leader(&self) -> Status {
        let status = self.node.status();
        let voters = status.members.iter().filter(|member| member.voter).count();
        if voters == 0 {
            return no_leader("this master is not (yet) a member of a cluster".to_owned());
        }
        let (need, id) = (voters / 2 + 1, self.node.id);
        let heard = match status.quorum_ack_age_ms {
            u64::MAX => "has not heard from a leader since its start".to_owned(),
            age => format!("last heard from a leader or a quorum {age} ms ago"),
        };
        no_leader(format!("no leader: {need} of {voters} masters are needed to elect one; master {id} {heard}"))
    }

    /// Answers here, or at the leader: `here` says where, `there` asks it. The answer's metadata tell who leads.
    ///
    /// # Errors
    /// What the answering master said; `NOT_LEADER` instead of a second hop.
    pub async fn answer<Q, A, H, T>(
        &self,
        request: Request<Q>,
        here: impl FnOnce(Q) -> H,
        there: impl FnOnce(Channel, Request<Q>) -> T,
    ) -> Result<Response<A>, Status>
    where
        Q: Clone,
        H: Future<Output = Result<A, Elsewhere>>,
        T: Future<Output = Result<Response<A>, Status>>,
    {
        let forwarded = request.metadata().contains_key(FORWARDED);
        let question = request.get_ref().clone();
        let hint = match here(question).await {
            Ok(answer) => return Ok(Response::new(answer)),
            Err(Elsewhere::Refused(status)) => return Err(status),
            Err(Elsewhere::Leader(hint)) => hint,
        };
        if forwarded {
            return Err(not_leader(Some(&hint)));
        }
        self.node.metrics.forwarded();
        let request = outbound(request, Duration::from_millis(self.node.config.raft.propose_timeout_ms));
        let channel = self.node.peer_channel(&hint.api);
        let answer = there(channel, request).await;
        answer.map(|answer| told(answer, &hint)).map_err(|error| self.broken(error, &hint))
    }

    /// A refusal of the leader as it is; a failure of the connection as what it means for the caller.
    fn broken(&self, error: Status, hint: &LeaderHint) -> Status {
        use tonic_types::StatusExt as _;
        if error.get_details_error_info().is_some() {
            return error;
        }
        self.node.drop_peer_channel(&hint.api);
        let (id, api) = (hint.id, &hint.api);
        if was_never_sent(&error) {
            return no_leader(format!("master {id} at {api} led a moment ago and can't be reached"));
        }
        status(codes::OUTCOME_UNKNOWN, format!("the connection to the leader, master {id} at {api}, broke: {}", error.message()))
    }
}

/// The request for the leader: guarded against a second hop, and never waiting for ever.
fn outbound<Q>(request: Request<Q>, timeout: Duration) -> Request<Q> {
    let mut forward = Request::new(request.into_inner());
    forward.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
    // The leader gives up first and says why; the margin is for the way back.
    forward.set_timeout(timeout + Duration::from_secs(1));
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
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        source = cause.source();
    }
    false
}
