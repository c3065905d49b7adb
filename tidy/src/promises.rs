//! Every promise that is kept has a test that names it: `p01_…` for P1, and so on.

use std::collections::BTreeSet;

use crate::Finding;
use crate::functions::functions;
use crate::tree::{Source, Tree};

/// The promises that hold: each has a test that is named for it.
pub const KEPT: &[u32] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Where users read of them.
pub const PAGE: &str = "docs/guarantees.md";
const LIST: &str = "**Tests:**";

/// Names of all tests that carry a promise's number.
pub fn named_tests(tree: &Tree) -> BTreeSet<String> {
    tree.sources.iter().flat_map(tests_of).filter(|name| number(name).is_some()).collect()
}

fn tests_of(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.code.lines().collect();
    functions(source).into_iter().filter(|f| has_test_attribute(&lines, f.line)).map(|f| f.name).collect()
}

/// Is one of the attributes right above line `line` (from 1) a test's?
fn has_test_attribute(lines: &[&str], line: usize) -> bool {
    let above = lines[..line - 1].iter().rev().take_while(|text| {
        let text = text.trim();
        text.is_empty() || text.starts_with("#[") || text.starts_with(')') || text.ends_with(',')
    });
    above.into_iter().any(|text| {
        let text = text.trim();
        text.starts_with("#[") && (text.contains("test]") || text.contains("test("))
    })
}

/// 3 for `p03_late_reports_are_ignored`.
fn number(name: &str) -> Option<u32> {
    let (number, rest) = name.strip_prefix('p')?.split_once('_')?;
    (number.len() == 2 && !rest.is_empty()).then(|| number.parse().ok())?
}

/// Promises without a test, and tests that the page names but nobody wrote.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let tests = named_tests(tree);
    let numbers: BTreeSet<u32> = tests.iter().filter_map(|name| number(name)).collect();
    let mut findings: Vec<Finding> =
        KEPT.iter().filter(|kept| !numbers.contains(kept)).map(|kept| missing(*kept)).collect();
    for page in tree.pages.iter().filter(|page| page.path == PAGE) {
        let unknown = quoted(&page.text).filter(|(_, name)| number(name).is_some() && !tests.contains(*name));
        findings.extend(unknown.map(|(line, name)| Finding::new(PAGE, line, format!("there is no test `{name}`"))));
        if refreshed(tree, &page.text) != page.text {
            findings.push(Finding::new(PAGE, 0, "the lists of tests are not what the tree has: make fix"));
        }
    }
    findings
}

/// The page with the list of tests of each promise brought up to date (`make fix`).
pub fn refreshed(tree: &Tree, page: &str) -> String {
    let tests = named_tests(tree);
    let mut promise = None;
    let mut out = String::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            promise = heading.strip_prefix('P').and_then(|rest| rest.split(':').next()?.parse().ok());
        }
        let list = promise.filter(|_| line.starts_with(LIST)).map(|promise| list_of(&tests, promise));
        out.push_str(&list.unwrap_or_else(|| line.to_owned()));
        out.push('\n');
    }
    out
}

fn list_of(tests: &BTreeSet<String>, promise: u32) -> String {
    let names: Vec<String> =
        tests.iter().filter(|name| number(name) == Some(promise)).map(|name| format!("`{name}`")).collect();
    format!("{LIST} {}.", names.join(", "))
}

fn missing(promise: u32) -> Finding {
    Finding::new(PAGE, 0, format!("P{promise} has no test: none is named `p{promise:02}_…`"))
}

/// Everything between backticks, with its line.
fn quoted(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().flat_map(|(at, line)| line.split('`').skip(1).step_by(2).map(move |name| (at + 1, name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Page;

    fn tree(code: &str, page: &str) -> Tree {
        let sources = vec![Source::new("a/tests/b.rs", code)];
        Tree { sources, pages: vec![Page { path: PAGE.into(), text: page.into() }], ..Tree::default() }
    }

    #[test]
    fn a_promise_without_a_test_is_found() {
        assert_eq!(check(&tree("fn p01_helper() {}", "")).len(), KEPT.len(), "a function is not yet a test");
        let all: String = KEPT.iter().map(|kept| format!("#[test]\nfn p{kept:02}_holds() {{}}\n")).collect();
        assert!(check(&tree(&all, "")).is_empty());
        let some = all.replace("p07_", "q07_");
        assert_eq!(check(&tree(&some, "")).len(), 1);
    }

    #[test]
    fn lists_of_tests_are_made_from_the_tree() {
        let page = "## P2: two\n**Tests:** `p02_old`.\n## Else\n**Tests:** stay\n";
        let made = refreshed(&tree("#[test]\nfn p02_b() {}\n#[test]\nfn p02_a() {}\n", ""), page);
        assert_eq!(made, "## P2: two\n**Tests:** `p02_a`, `p02_b`.\n## Else\n**Tests:** stay\n");
    }

    #[test]
    fn attributes_of_other_test_runners_count() {
        let code =
            "#[tokio::test(flavor = \"current_thread\")]\n#[ignore]\nasync fn p02_a() {}\n#[test]\nfn p03_b() {}";
        let names: Vec<String> = named_tests(&tree(code, "")).into_iter().collect();
        assert_eq!(names, ["p02_a", "p03_b"]);
    }

    #[test]
    fn a_test_that_the_page_names_must_exist() {
        let all: String = KEPT.iter().map(|kept| format!("#[test]\nfn p{kept:02}_holds() {{}}\n")).collect();
        assert!(check(&tree(&all, "see `p01_holds` and `p01_` and `p9`\n")).is_empty());
        assert_eq!(check(&tree(&all, "text\nsee `p01_was_renamed`\n")).len(), 1);
    }
}
