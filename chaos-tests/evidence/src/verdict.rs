//! How a checker answers.

use serde::{Deserialize, Serialize};

/// What one checker says of one history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The checker's name, in kebab case: `linearizable`, `one-outcome`, `event-stream`, …
    pub checker: String,
    /// Good, bad or unknown.
    pub finding: Finding,
    /// How many things it looked at: operations, tasks, events, whatever it counts.
    pub examined: u64,
}

/// Good, bad or unknown. A run is good only if every verdict is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "finding", content = "why")]
pub enum Finding {
    /// Nothing wrong was found in enough evidence.
    Good,
    /// These promises were broken, one line (or one drawn prefix) each; never empty.
    Bad(Vec<String>),
    /// Too little was seen to say anything: never reported as passed.
    Unknown(String),
}

impl Verdict {
    /// Good if there are no problems.
    pub fn of(checker: &str, examined: u64, problems: Vec<String>) -> Self {
        let finding = if problems.is_empty() { Finding::Good } else { Finding::Bad(problems) };
        Self { checker: checker.to_owned(), finding, examined }
    }

    /// Whether something is wrong.
    pub fn is_bad(&self) -> bool {
        matches!(self.finding, Finding::Bad(_))
    }
}
