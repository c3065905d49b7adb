//! How a file looks from outside: it begins with a header, and it ends before nobody reads on.

use crate::Finding;
use crate::tree::{Source, Tree};

/// A longer file holds more than one thing.
pub const FILE_LINES_MAX: usize = 800;

/// Files without a `//!` header, or too long.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.sources.iter().flat_map(|source| [header(source), length(source)]).flatten().collect()
}

fn header(source: &Source) -> Option<Finding> {
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let said = first.strip_prefix("//!").is_some_and(|text| text.trim().len() >= 10);
    let message = "begin with a `//!` header: what it is, what always holds, what it does not do";
    (!said).then(|| Finding::new(&source.path, 1, message))
}

fn length(source: &Source) -> Option<Finding> {
    let lines = source.text.lines().count();
    let message = format!("{lines} lines, the limit is {FILE_LINES_MAX}: split it by what it is about");
    (lines > FILE_LINES_MAX).then(|| Finding::new(&source.path, lines, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str) -> Vec<Finding> {
        check(&Tree { sources: vec![Source::new("a/src/b.rs", text)], ..Tree::default() })
    }

    #[test]
    fn a_file_without_header_is_found() {
        assert_eq!(check_text("use std::io;\n//! Too late to be a header.\n").len(), 1);
        assert_eq!(check_text("//! .\n").len(), 1);
        assert_eq!(check_text("").len(), 1);
        assert_eq!(check_text("//! What it is and what holds.\n").len(), 0);
    }

    #[test]
    fn a_file_that_is_too_long_is_found() {
        let header = "//! What it is and what holds.\n";
        assert_eq!(check_text(&format!("{header}{}", "\n".repeat(FILE_LINES_MAX - 1))).len(), 0);
        assert_eq!(check_text(&format!("{header}{}", "\n".repeat(FILE_LINES_MAX))).len(), 1);
    }
}
