//! How a command ends: exit codes, and one kind of error with everything that a person or a script wants to know.
//!
//! What always holds: an error names what happened, who was asked and what they answered, and the next command to type;
//! with `-o json` it is one JSON object on stderr. Exit codes never change their meaning.

use serde_json::json;
use steersman_client::codes::{self, Code};
use steersman_client::{Asked, Class, Error};

use crate::context::{Ctx, Origin};

/// Everything went well.
pub const OK: i32 = 0;
/// An error of no other kind.
pub const OTHER: i32 = 1;
/// The command line or the input is wrong.
pub const USAGE: i32 = 2;
/// Not found, precondition, conflict.
pub const REFUSED: i32 = 3;
/// No leader, no quorum, no answer in time: retrying makes sense.
pub const UNAVAILABLE: i32 = 4;
/// Not allowed.
pub const AUTH: i32 = 5;
/// A task that was waited for failed or was cancelled.
pub const TASK_FAILED: i32 = 6;
/// A check did not pass.
pub const CHECK_FAILED: i32 = 7;
/// `run`: Steersman failed, not the task.
pub const RUN_FAILED: i32 = 125;
/// Ended by Ctrl-C.
pub const INTERRUPTED: i32 = 130;
/// The reader of our output went away, as a shell shows SIGPIPE.
pub const BROKEN_PIPE: i32 = 141;

/// Why a command ended without success.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The process's exit code.
    pub exit: i32,
    /// Empty for an end that needs no words, such as a failed task that was shown already.
    pub message: String,
    /// Stable code, e.g. `STM-1002`.
    pub code: String,
    /// Stable word, e.g. `NO_LEADER`.
    pub reason: String,
    /// The next thing to do.
    pub hint: String,
    /// What only some failures have.
    pub details: Box<Details>,
}

/// What a master's answer adds to a failure.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// Masters that were asked.
    pub asked: Vec<Asked>,
    /// Refused fields: path and what is wrong.
    pub fields: Vec<(String, String)>,
    /// What a mutation can be repeated with.
    pub request_id: Option<[u8; 16]>,
}

/// The result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with a row of the table of codes.
    pub fn coded(exit: i32, code: &Code, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            code: code.id.to_owned(),
            reason: code.reason.to_owned(),
            hint: code.hint.to_owned(),
            details: Box::default(),
        }
    }

    /// A wrong command line or input.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::coded(USAGE, &codes::INVALID_ARGUMENT, message).hint(hint)
    }

    /// Something on this machine, such as a file that cannot be read.
    pub fn local(message: impl Into<String>, hint: impl Into<String>) -> Self {
        let mut failure = Self::coded(OTHER, &codes::FAILED_PRECONDITION, message).hint(hint);
        failure.code.clear();
        failure.reason = "LOCAL".to_owned();
        failure
    }

    /// An end with this exit code that was explained already.
    pub fn silent(exit: i32) -> Self {
        let mut failure = Self::local("", "");
        failure.exit = exit;
        failure
    }

    /// With another hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// With another exit code.
    #[must_use]
    pub fn exit(mut self, exit: i32) -> Self {
        self.exit = exit;
        self
    }

    /// With what was done before it happened.
    #[must_use]
    pub fn after(mut self, done: impl AsRef<str>) -> Self {
        self.message = format!("{}; {}", self.message, done.as_ref());
        self
    }

    /// Writes it to stderr, as text or as one JSON object.
    pub fn print(&self, json: bool, ctx_red: impl Fn(&str) -> String) {
        if self.message.is_empty() {
            return;
        }
        if json {
            eprintln!("{}", self.to_json());
        } else {
            eprint!("{}", self.to_text(ctx_red));
        }
    }

    fn to_json(&self) -> serde_json::Value {
        let asked: Vec<_> = self.details.asked.iter().map(asked_json).collect();
        let mut object = json!({
            "code": self.code, "reason": self.reason, "message": self.message, "hint": self.hint,
        });
        let mut add = |key: &str, value: serde_json::Value| {
            if let Some(map) = object.as_object_mut() {
                map.insert(key.to_owned(), value);
            }
        };
        if !asked.is_empty() {
            add("asked", json!(asked));
        }
        if !self.details.fields.is_empty() {
            let fields: Vec<_> =
                self.details.fields.iter().map(|(f, d)| json!({"field": f, "description": d})).collect();
            add("fields", json!(fields));
        }
        if let Some(id) = self.details.request_id {
            add("request_id", json!(hex(&id)));
        }
        object
    }

    fn to_text(&self, red: impl Fn(&str) -> String) -> String {
        let mut text = format!("{} {}\n", red("error:"), self.message);
        let width = self.details.asked.iter().map(|asked| asked.address.len()).max().unwrap_or(0);
        for asked in &self.details.asked {
            let tries = if asked.tries > 1 { format!(" ({} tries)", asked.tries) } else { String::new() };
            text += &format!("  asked {:width$}  {}{tries}\n", asked.address, asked.answer);
        }
        for (field, description) in &self.details.fields {
            text += &format!("  field {field}: {description}\n");
        }
        if let Some(id) = self.details.request_id {
            text += &format!("  request id {}\n", hex(&id));
        }
        if !self.hint.is_empty() {
            text += &format!("  hint  {}\n", self.hint);
        }
        if !self.code.is_empty() {
            text += &format!("  code  {} {} (more: steersman explain {})\n", self.code, self.reason, self.code);
        }
        text
    }
}

fn asked_json(asked: &Asked) -> serde_json::Value {
    json!({"address": asked.address, "tries": asked.tries, "answer": asked.answer, "answered": asked.answered})
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let caller = error.class() == Class::Caller;
        let fields = error.fields().iter().map(|f| (f.field.clone(), f.description.clone())).collect();
        Self {
            exit: exit_of(&error),
            message: error.message().to_owned(),
            code: error.code().to_owned(),
            reason: error.reason().to_owned(),
            hint: error.hint().to_owned(),
            details: Box::new(Details {
                // A refusal is the cluster's, not that master's.
                asked: if caller { Vec::new() } else { error.asked().to_vec() },
                fields,
                request_id: error.request_id().filter(|_| error.class() == Class::OutcomeUnknown),
            }),
        }
    }
}

fn exit_of(error: &Error) -> i32 {
    use tonic::Code as Grpc;
    match (error.class(), error.grpc()) {
        (Class::Usage, _) => USAGE,
        (Class::Unavailable | Class::OutcomeUnknown, _) => UNAVAILABLE,
        (Class::Caller, Grpc::Unauthenticated | Grpc::PermissionDenied) => AUTH,
        (Class::Caller, Grpc::InvalidArgument) => USAGE,
        (Class::Caller, Grpc::Unimplemented) => OTHER,
        (Class::Caller, _) => REFUSED,
    }
}

impl From<std::io::Error> for Failure {
    /// Of writing to stdout: everything else is mapped where it happens, with the file's name.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::silent(BROKEN_PIPE);
        }
        Self::local(format!("cannot write the output: {error}"), "see whether the disk is full")
    }
}

/// Ends the process's main function: prints the failure, if any, and gives the exit code.
pub fn finish(ctx: &Ctx, outcome: Outcome) -> i32 {
    match outcome {
        Ok(()) => OK,
        Err(mut failure) => {
            if failure.code == codes::UNREACHABLE.id && ctx.addresses().1 == Origin::Default {
                failure.hint = "start a cluster: steersman dev; or name a master: --address HOST:PORT".to_owned();
            }
            failure.print(ctx.output.is_json(), |text| ctx.paint_err(text, "31;1"));
            failure.exit
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn json_errors_have_the_four_fields() {
        let failure = Failure::coded(UNAVAILABLE, &codes::NO_LEADER, "nobody leads");
        let json = failure.to_json();
        for key in ["code", "reason", "message", "hint"] {
            assert!(json[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {json}");
        }
        assert!(json.get("asked").is_none());
    }

    #[test]
    fn text_errors_say_who_answered_what_and_the_next_step() {
        let mut failure = Failure::coded(UNAVAILABLE, &codes::UNREACHABLE, "no master answered");
        failure.details.asked =
            vec![Asked { address: "a:1".into(), tries: 3, answer: "connection refused".into(), answered: false }];
        let text = failure.to_text(str::to_owned);
        assert!(text.starts_with("error: no master answered\n"), "{text}");
        assert!(text.contains("asked a:1  connection refused (3 tries)"), "{text}");
        assert!(text.contains("hint  check --address"), "{text}");
        assert!(text.contains("STM-1007 UNREACHABLE (more: steersman explain STM-1007)"), "{text}");
    }
}
