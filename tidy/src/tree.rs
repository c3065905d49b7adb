//! The source tree: every Rust and Markdown file of the repository, read once.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::scan;

/// Folders that are not ours or not source.
const SKIPPED: &[&str] = &["target", ".git", "runs", "proptest-regressions"];

/// One Rust file.
#[derive(Debug, Clone)]
pub struct Source {
    /// Path from the root, with `/`.
    pub path: String,
    /// As written.
    pub text: String,
    /// Without comments and literals, byte for byte in the same places.
    pub code: String,
    /// Byte ranges that exist only in tests.
    pub test_items: Vec<Range<usize>>,
    /// The whole file is test code.
    pub is_test: bool,
}

impl Source {
    /// A file from its text. Whether it is a test is told by its path alone.
    pub fn new(path: &str, text: &str) -> Self {
        let code = scan::code_of(text);
        let test_items = scan::test_items(&code);
        let is_test = path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs");
        Self { path: path.to_owned(), text: text.to_owned(), code, test_items, is_test }
    }

    /// Is the byte position part of test code?
    pub fn in_test(&self, at: usize) -> bool {
        self.is_test || self.test_items.iter().any(|item| item.contains(&at))
    }

    /// The line (from 1) of a byte position.
    pub fn line(&self, at: usize) -> usize {
        scan::line_of(&self.text, at)
    }
}

/// One Markdown file.
#[derive(Debug, Clone)]
pub struct Page {
    /// Path from the root, with `/`.
    pub path: String,
    /// As written.
    pub text: String,
}

/// The whole repository.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// All Rust files, sorted by path.
    pub sources: Vec<Source>,
    /// All Markdown files, sorted by path.
    pub pages: Vec<Page>,
    /// Paths of every file and folder, for links.
    pub paths: BTreeSet<String>,
}

impl Tree {
    /// Reads the repository at `root`.
    ///
    /// # Errors
    /// A folder or a source file cannot be read as UTF-8.
    pub fn load(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.walk(root, root)?;
        tree.sources.sort_by(|a, b| a.path.cmp(&b.path));
        tree.pages.sort_by(|a, b| a.path.cmp(&b.path));
        tree.mark_test_modules();
        Ok(tree)
    }

    fn walk(&mut self, root: &Path, folder: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if SKIPPED.contains(&name.as_str()) {
                continue;
            }
            let path = entry.path();
            self.paths.insert(relative(root, &path));
            if entry.file_type()?.is_dir() {
                self.walk(root, &path)?;
            } else {
                self.read(root, path, &name)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, root: &Path, path: PathBuf, name: &str) -> io::Result<()> {
        let relative = relative(root, &path);
        if name.ends_with(".rs") {
            self.sources.push(Source::new(&relative, &std::fs::read_to_string(path)?));
        } else if name.ends_with(".md") {
            self.pages.push(Page { path: relative, text: std::fs::read_to_string(path)? });
        }
        Ok(())
    }

    /// `#[cfg(test)] mod NAME;` makes NAME's own file test code.
    fn mark_test_modules(&mut self) {
        let modules: Vec<String> = self.sources.iter().flat_map(test_modules).collect();
        for source in &mut self.sources {
            let under = |module: &String| {
                source.path.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            };
            source.is_test |= modules.iter().any(under);
        }
    }
}

/// Paths without extension of the modules that `source` declares for tests only.
fn test_modules(source: &Source) -> Vec<String> {
    let stem = source.path.trim_end_matches(".rs");
    let folder = match stem.rsplit_once('/') {
        Some((folder, "lib" | "main" | "mod")) => folder,
        _ => stem,
    };
    let declared = source.test_items.iter().filter_map(|item| {
        let item = source.code[item.clone()].strip_suffix(';')?;
        let name = item.rsplit_once("mod ")?.1.trim();
        name.bytes().all(scan::is_ident).then(|| format!("{folder}/{name}"))
    });
    declared.collect()
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_declared_for_tests_is_test_code() {
        let mut tree = Tree::default();
        tree.sources.push(Source::new("a/src/lib.rs", "#[cfg(test)]\nmod stories;\nmod real;"));
        tree.sources.push(Source::new("a/src/stories.rs", "fn x() {}"));
        tree.sources.push(Source::new("a/src/stories/deep.rs", "fn x() {}"));
        tree.sources.push(Source::new("a/src/real.rs", "fn x() {}"));
        tree.mark_test_modules();
        let marks: Vec<bool> = tree.sources.iter().map(|source| source.is_test).collect();
        assert_eq!(marks, [false, true, true, false]);
    }
}
