//! The rules of the house, as functions from a source tree to findings.
//!
//! Each module holds one family of rules and its own bad samples, which prove that the rule can fail. `tests/tree.rs`
//! applies them to this repository. Nothing here compiles or parses Rust properly: the scanner knows comments, literals,
//! braces and `#[cfg(test)]`, which is enough for formatted sources, and builds without any dependency.

pub mod docs;
pub mod functions;
pub mod imports;
pub mod map;
pub mod promises;
pub mod scan;
pub mod shape;
pub mod tree;

use std::fmt;

/// One place where a rule is broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path from the root of the repository.
    pub path: String,
    /// From 1; 0 means the whole file.
    pub line: usize,
    /// What is wrong and what to do instead.
    pub message: String,
}

impl Finding {
    /// A finding at `path:line`.
    pub fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// All findings as text, one per line.
pub fn report(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("\n  {finding}")).collect()
}
