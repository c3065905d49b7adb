//! Errors on their way to the wire: one place that maps each to its gRPC status, stable code and details.
//!
//! What always holds: every status that a service returns carries `google.rpc.ErrorInfo` with domain `steersman`, the
//! reason and the stable code; whatever is worth a retry also carries `RetryInfo`. Nothing here decides whether an error
//! happened.

use std::collections::HashMap;
use std::time::Duration;

use steersman_proto::codes::{self, Code};
use steersman_state::effect::Rejection;
use tonic::{Code as Grpc, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::leader::streams::SessionError;
use crate::node::{LeaderHint, MemberError};
use crate::propose::ProposeError;

/// Suggested pause before a retry where the cluster is choosing a leader: about one election.
const RETRY_ELECTION: Duration = Duration::from_millis(200);
/// Suggested pause before a retry at a full queue: it drains within a few consensus rounds.
const RETRY_QUEUE: Duration = Duration::from_millis(50);

/// A status with that code. `message` says what happened; the row's hint is appended to the metadata.
pub fn status(code: Code, message: impl Into<String>) -> Status {
    with_metadata(code, message, HashMap::new(), ErrorDetails::new())
}

/// This master does not lead. Without a hint no leader is known either, which is `NO_LEADER`.
pub fn not_leader(hint: Option<&LeaderHint>) -> Status {
    let Some(hint) = hint else {
        return no_leader("no leader is known to this master".to_owned());
    };
    let metadata = HashMap::from([
        ("leader_id".to_owned(), hint.id.to_string()),
        ("leader_api".to_owned(), hint.api.clone()),
        ("term".to_owned(), hint.term.to_string()),
    ]);
    let message = format!("this master does not lead; master {} at {} does (term {})", hint.id, hint.api, hint.term);
    with_metadata(codes::NOT_LEADER, message, metadata, ErrorDetails::new())
}

/// No leader is known. `message` does the arithmetic where it is known.
pub fn no_leader(message: String) -> Status {
    with_metadata(codes::NO_LEADER, message, HashMap::new(), retry_after(RETRY_ELECTION))
}

/// The moment's errors: repeating the request with the same id makes sense.
pub fn status_of_propose(error: &ProposeError) -> Status {
    match error {
        ProposeError::NotLeader(hint) => not_leader(hint.as_ref()),
        ProposeError::NoQuorum => {
            let message = "no quorum of masters confirmed in time: nothing was read or changed";
            with_metadata(codes::NO_QUORUM, message, HashMap::new(), retry_after(RETRY_ELECTION))
        }
        ProposeError::OutcomeUnknown => status(
            codes::OUTCOME_UNKNOWN,
            "no answer from a quorum in time: the change may or may not have happened, and a retry with the same request id finds out",
        ),
        ProposeError::Overloaded { queued, limit } => {
            let message = format!(
                "{queued} commands wait for the log, the limit is {limit} (limits.proposals_queued_max): nothing was changed"
            );
            with_metadata(codes::OVERLOADED, message, HashMap::new(), retry_after(RETRY_QUEUE))
        }
        ProposeError::TooLarge { bytes, limit } => status(
            codes::LIMIT_EXCEEDED,
            format!("the command takes {bytes} bytes, the limit is {limit}: send less at a time"),
        ),
        ProposeError::ShuttingDown => status(codes::SHUTTING_DOWN, "this master is going down: nothing was changed"),
        ProposeError::Failed(why) => {
            status(codes::SHUTTING_DOWN, format!("this master is broken and stops ({why}): ask another one"))
        }
    }
}

/// The caller's errors, decided by the replicated state.
pub fn status_of_rejection(rejection: &Rejection) -> Status {
    let message = rejection.to_string();
    match rejection {
        Rejection::WorkerNotFound(_) => status(codes::WORKER_NOT_FOUND, message),
        Rejection::DuplicateWorker { .. } => status(codes::DUPLICATE_WORKER, message),
        Rejection::StaleIncarnation { .. } => status(codes::STALE_INCARNATION, message),
        Rejection::LimitExceeded { .. } => status(codes::LIMIT_EXCEEDED, message),
        Rejection::Precondition(_) => status(codes::FAILED_PRECONDITION, message),
        // The leader changed between proposal and apply; nothing happened.
        Rejection::OldReign { .. } => no_leader(message),
        Rejection::Invalid { field, problem } => invalid(vec![FieldViolation::new(field.clone(), problem.clone())]),
    }
}

/// Membership changes.
pub fn status_of_member(error: &MemberError) -> Status {
    match error {
        MemberError::Propose(error) => status_of_propose(error),
        MemberError::NotFound(id) => status(codes::MASTER_NOT_FOUND, format!("no master {id} in this cluster")),
        MemberError::Refused(why) => status(codes::MEMBERSHIP, why.clone()),
    }
}

/// What a worker was asked through its session.
pub fn status_of_session(error: &SessionError) -> Status {
    match error {
        SessionError::NotConnected => {
            status(codes::WORKER_UNREACHABLE, "the worker is not connected to the leader at the moment")
        }
        SessionError::Timeout => status(codes::WORKER_UNREACHABLE, "the worker did not answer in time"),
        SessionError::NotFound => status(codes::LOG_NOT_FOUND, "the worker has no output of that attempt (any more)"),
    }
}

/// Malformed fields: `INVALID_ARGUMENT` with one `BadRequest` violation each.
pub fn invalid(violations: Vec<FieldViolation>) -> Status {
    let message: Vec<_> = violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
    let mut details = ErrorDetails::new();
    details.set_bad_request(violations);
    with_metadata(codes::INVALID_ARGUMENT, message.join("; "), HashMap::new(), details)
}

/// The gRPC status code of one of ours.
pub fn grpc_code(code: Code) -> Grpc {
    match code {
        codes::NOT_LEADER | codes::NO_LEADER | codes::NO_QUORUM | codes::SHUTTING_DOWN => Grpc::Unavailable,
        codes::WORKER_UNREACHABLE | codes::UNREACHABLE => Grpc::Unavailable,
        codes::OUTCOME_UNKNOWN => Grpc::DeadlineExceeded,
        codes::OVERLOADED | codes::LIMIT_EXCEEDED => Grpc::ResourceExhausted,
        codes::INVALID_ARGUMENT | codes::WRONG_VERSION => Grpc::InvalidArgument,
        codes::TASK_NOT_FOUND | codes::WORKER_NOT_FOUND | codes::MASTER_NOT_FOUND | codes::LOG_NOT_FOUND => {
            Grpc::NotFound
        }
        codes::DUPLICATE_WORKER => Grpc::AlreadyExists,
        codes::FAILED_PRECONDITION | codes::MEMBERSHIP => Grpc::FailedPrecondition,
        codes::WRONG_CLUSTER | codes::STALE_INCARNATION => Grpc::FailedPrecondition,
        _ => Grpc::Internal,
    }
}

fn retry_after(pause: Duration) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(pause));
    details
}

fn with_metadata(
    code: Code,
    message: impl Into<String>,
    mut metadata: HashMap<String, String>,
    mut details: ErrorDetails,
) -> Status {
    metadata.insert("code".to_owned(), code.id.to_owned());
    metadata.insert("hint".to_owned(), code.hint.to_owned());
    details.set_error_info(code.reason, codes::DOMAIN, metadata);
    Status::with_error_details(grpc_code(code), message, details)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use steersman_state::WorkerId;

    fn check(status: &Status, code: Code, grpc: Grpc) {
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (code.reason, "steersman"), "{status:?}");
        assert_eq!(info.metadata["code"], code.id);
        assert_eq!(status.code(), grpc, "{status:?}");
        assert!(!status.message().is_empty());
    }

    #[test]
    fn every_error_of_the_moment_has_its_code() {
        let hint = LeaderHint { id: 2, api: "h:7400".to_owned(), term: 9 };
        let table = [
            (ProposeError::NotLeader(Some(hint)), codes::NOT_LEADER, Grpc::Unavailable),
            (ProposeError::NotLeader(None), codes::NO_LEADER, Grpc::Unavailable),
            (ProposeError::NoQuorum, codes::NO_QUORUM, Grpc::Unavailable),
            (ProposeError::OutcomeUnknown, codes::OUTCOME_UNKNOWN, Grpc::DeadlineExceeded),
            (ProposeError::Overloaded { queued: 9, limit: 9 }, codes::OVERLOADED, Grpc::ResourceExhausted),
            (ProposeError::TooLarge { bytes: 9, limit: 8 }, codes::LIMIT_EXCEEDED, Grpc::ResourceExhausted),
            (ProposeError::ShuttingDown, codes::SHUTTING_DOWN, Grpc::Unavailable),
            (ProposeError::Failed("disk".to_owned()), codes::SHUTTING_DOWN, Grpc::Unavailable),
        ];
        for (error, code, grpc) in table {
            check(&status_of_propose(&error), code, grpc);
        }
    }

    #[test]
    fn every_rejection_has_its_code() {
        let what = "tasks_unfinished_max".to_owned();
        let table = [
            (Rejection::WorkerNotFound("7".to_owned()), codes::WORKER_NOT_FOUND, Grpc::NotFound),
            (
                Rejection::DuplicateWorker { name: "w".to_owned(), holder: WorkerId(1) },
                codes::DUPLICATE_WORKER,
                Grpc::AlreadyExists,
            ),
            (
                Rejection::StaleIncarnation { worker: WorkerId(1), known: 2, given: 1 },
                codes::STALE_INCARNATION,
                Grpc::FailedPrecondition,
            ),
            (
                Rejection::LimitExceeded { what, asked: 2, have: 9, limit: 10 },
                codes::LIMIT_EXCEEDED,
                Grpc::ResourceExhausted,
            ),
            (Rejection::Precondition("no".to_owned()), codes::FAILED_PRECONDITION, Grpc::FailedPrecondition),
            (Rejection::OldReign { given: 1, now: 2 }, codes::NO_LEADER, Grpc::Unavailable),
            (
                Rejection::Invalid { field: "f".to_owned(), problem: "p".to_owned() },
                codes::INVALID_ARGUMENT,
                Grpc::InvalidArgument,
            ),
        ];
        for (rejection, code, grpc) in table {
            check(&status_of_rejection(&rejection), code, grpc);
        }
    }

    #[test]
    fn every_error_of_members_and_sessions_has_its_code() {
        check(&status_of_member(&MemberError::NotFound(4)), codes::MASTER_NOT_FOUND, Grpc::NotFound);
        let refused = MemberError::Refused("a change is under way".to_owned());
        check(&status_of_member(&refused), codes::MEMBERSHIP, Grpc::FailedPrecondition);
        check(&status_of_session(&SessionError::NotConnected), codes::WORKER_UNREACHABLE, Grpc::Unavailable);
        check(&status_of_session(&SessionError::Timeout), codes::WORKER_UNREACHABLE, Grpc::Unavailable);
        check(&status_of_session(&SessionError::NotFound), codes::LOG_NOT_FOUND, Grpc::NotFound);
    }

    #[test]
    fn a_redirect_says_where_and_in_which_term() {
        let hint = LeaderHint { id: 2, api: "h:7400".to_owned(), term: 9 };
        let info = not_leader(Some(&hint)).get_details_error_info().unwrap();
        let told = ["leader_id", "leader_api", "term"].map(|key| info.metadata[key].as_str());
        assert_eq!(told, ["2", "h:7400", "9"]);
    }

    #[test]
    fn what_is_worth_a_retry_says_after_how_long() {
        let overloaded = status_of_propose(&ProposeError::Overloaded { queued: 1, limit: 1 });
        let pause = overloaded.get_details_retry_info().unwrap().retry_delay;
        assert_eq!(pause, Some(RETRY_QUEUE));
    }
}
