//! What the CLI's readers need of its `exit` module: an error with a hint.

/// As in the CLI.
pub type Outcome<T> = Result<T, Failure>;

/// As in the CLI, without the rest.
#[derive(Debug)]
pub struct Failure;

impl Failure {
    /// A mistake of the command line.
    pub fn usage(_what: impl Into<String>, _hint: impl Into<String>) -> Self {
        Self
    }
}
