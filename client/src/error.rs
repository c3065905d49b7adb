//! What can go wrong, by whose turn it is, with the arithmetic of who was asked.
//!
//! What always holds: every error has a stable code, a message that stands alone, and a hint that names the next step.

use std::collections::BTreeMap;
use std::fmt;

use steersman_proto::codes::{self, Code};
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::RequestId;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The caller's: the request was refused for good. Not retryable as it is.
    Caller,
    /// The moment's: nothing happened, a retry makes sense.
    Unavailable,
    /// It may or may not have happened. A retry with the same request id has no second effect.
    OutcomeUnknown,
    /// This library was used wrongly; no master was asked.
    Usage,
}

/// One master that was asked and what it answered last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `host:port` of its API.
    pub address: String,
    /// How often it was asked.
    pub tries: u32,
    /// Its last answer, or why there was none.
    pub answer: String,
    /// Whether it was a master's own answer (not a refused connection or a timeout).
    pub answered: bool,
}

/// A field of the request that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path in the request.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// Why a call failed.
#[derive(Debug, Clone)]
pub struct Error(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    class: Class,
    code: String,
    reason: String,
    message: String,
    hint: String,
    grpc: tonic::Code,
    details: BTreeMap<String, String>,
    fields: Vec<FieldViolation>,
    asked: Vec<Asked>,
    request_id: Option<RequestId>,
}

impl Error {
    /// Whose turn it is.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// Stable code, e.g. `STM-1002`.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// Stable word, e.g. `NO_LEADER`.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// What happened, in one sentence.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The next thing to do.
    pub fn hint(&self) -> &str {
        &self.0.hint
    }

    /// The gRPC status code of the last answer.
    pub fn grpc(&self) -> tonic::Code {
        self.0.grpc
    }

    /// What the answering master added: names and values.
    pub fn details(&self) -> &BTreeMap<String, String> {
        &self.0.details
    }

    /// The refused fields, if the master named them.
    pub fn fields(&self) -> &[FieldViolation] {
        &self.0.fields
    }

    /// The masters that were asked.
    pub fn asked(&self) -> &[Asked] {
        &self.0.asked
    }

    /// The request id of the mutation: repeat it with this id, and it has no second effect.
    pub fn request_id(&self) -> Option<RequestId> {
        self.0.request_id
    }

    /// Whether this is that code, e.g. `codes::TASK_NOT_FOUND`.
    pub fn is(&self, code: Code) -> bool {
        self.0.code == code.id
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.class, Class::Unavailable | Class::OutcomeUnknown)
    }

    /// An error of the library's use.
    pub(crate) fn usage(message: &str, hint: &str) -> Self {
        let mut parts = Parts::new(Class::Usage, &codes::INVALID_ARGUMENT, message.to_owned());
        parts.hint = hint.to_owned();
        parts.grpc = tonic::Code::InvalidArgument;
        Self(Box::new(parts))
    }

    /// A master's final refusal.
    pub(crate) fn rejected(address: &str, status: &Status) -> Self {
        let mut parts = Parts::from_status(Class::Caller, status);
        parts.asked = vec![asked_once(address, status)];
        Self(Box::new(parts))
    }

    /// The end of a call that made one try: `sent` says whether the master may have acted on it.
    pub(crate) fn of_one_try(address: &str, status: &Status, sent: bool) -> Self {
        let known = reason_of(status).is_some();
        let mut parts = Parts::from_status(if sent { Class::OutcomeUnknown } else { Class::Unavailable }, status);
        if !known {
            let code = if sent { codes::OUTCOME_UNKNOWN } else { codes::UNREACHABLE };
            parts = Parts::new(parts.class, &code, format!("{address}: {}", answer_text(status)));
            parts.grpc = status.code();
        }
        parts.asked = vec![asked_once(address, status)];
        Self(Box::new(parts))
    }

    /// A stream's end that no reconnect cures, if it is one.
    pub(crate) fn of_stream(status: &Status) -> Option<Self> {
        let code = reason_of(status).and_then(|reason| codes::by_reason(&reason))?;
        let callers = code.id.starts_with("STM-2");
        callers.then(|| Self(Box::new(Parts::from_status(Class::Caller, status))))
    }

    /// The end of a call that ran out of time.
    pub(crate) fn gave_up(class: Class, code: &Code, message: String, last: &Status, asked: Vec<Asked>) -> Self {
        let mut parts = Parts::new(class, code, message);
        parts.grpc = last.code();
        parts.asked = asked;
        Self(Box::new(parts))
    }

    pub(crate) fn with_request_id(mut self, id: RequestId) -> Self {
        self.0.request_id = Some(id);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.0.message, self.0.code, self.0.reason)?;
        for asked in self.0.asked.iter().filter(|_| self.0.class != Class::Caller) {
            write!(f, "; {}: {}", asked.address, asked.answer)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl Parts {
    fn new(class: Class, code: &Code, message: String) -> Self {
        Self {
            class,
            code: code.id.to_owned(),
            reason: code.reason.to_owned(),
            message,
            hint: code.hint.to_owned(),
            grpc: tonic::Code::Unknown,
            details: BTreeMap::new(),
            fields: Vec::new(),
            asked: Vec::new(),
            request_id: None,
        }
    }

    /// From what a master said. A reason that this release does not know keeps the words it came with.
    fn from_status(class: Class, status: &Status) -> Self {
        let details = status.get_error_details();
        let code = reason_of(status).and_then(|reason| codes::by_reason(&reason)).unwrap_or_else(|| by_grpc(status));
        let mut parts = Self::new(class, code, status.message().to_owned());
        parts.grpc = status.code();
        if let Some(info) = details.error_info().filter(|info| info.domain == codes::DOMAIN) {
            parts.reason = info.reason.clone();
            parts.details = info.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            parts.code = parts.details.remove("code").unwrap_or(parts.code);
            parts.hint = parts.details.remove("hint").unwrap_or(parts.hint);
        }
        if let Some(bad) = details.bad_request() {
            let violations = bad.field_violations.iter();
            parts.fields = violations
                .map(|v| FieldViolation { field: v.field.clone(), description: v.description.clone() })
                .collect();
        }
        if parts.message.is_empty() {
            parts.message = format!("{:?}", status.code());
        }
        parts
    }
}

/// The nearest row for a status without our ErrorInfo (from a proxy, an older release, or tonic itself).
fn by_grpc(status: &Status) -> &'static Code {
    use tonic::Code as Grpc;
    match status.code() {
        Grpc::Unimplemented => &codes::WRONG_VERSION,
        Grpc::ResourceExhausted | Grpc::OutOfRange => &codes::LIMIT_EXCEEDED,
        Grpc::InvalidArgument => &codes::INVALID_ARGUMENT,
        Grpc::Unavailable => &codes::UNREACHABLE,
        Grpc::DeadlineExceeded | Grpc::Cancelled | Grpc::Unknown | Grpc::Internal => &codes::OUTCOME_UNKNOWN,
        _ => &codes::FAILED_PRECONDITION,
    }
}

/// The reason that one of our masters gave.
pub(crate) fn reason_of(status: &Status) -> Option<String> {
    status.get_details_error_info().filter(|info| info.domain == codes::DOMAIN).map(|info| info.reason)
}

pub(crate) fn asked_once(address: &str, status: &Status) -> Asked {
    let answered = reason_of(status).is_some();
    Asked { address: address.to_owned(), tries: 1, answer: answer_text(status), answered }
}

/// What a person wants to read of a status.
pub(crate) fn answer_text(status: &Status) -> String {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    let mut text = plain_cause(status.message());
    while let Some(inner) = cause {
        text = plain_cause(&inner.to_string());
        cause = inner.source();
    }
    match reason_of(status) {
        Some(reason) => format!("{reason}: {}", status.message()),
        None if text.is_empty() => format!("{:?}", status.code()),
        None => text,
    }
}

/// Without the ` (os error 111)` that helps nobody, and in lower case as part of a sentence.
pub(crate) fn plain_cause(text: &str) -> String {
    let text = text.split(" (os error").next().unwrap_or(text);
    match text {
        "Connection refused" => "connection refused".to_owned(),
        "Connection reset by peer" => "connection reset".to_owned(),
        "Timeout expired" => "no answer in time".to_owned(),
        other => other.to_owned(),
    }
}
