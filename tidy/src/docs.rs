//! Pages that do not lie about each other: links resolve, decisions have their three parts, tables name what exists.

use std::collections::BTreeSet;

use crate::Finding;
use crate::tree::{Page, Source, Tree};

const DECISIONS: &str = "docs/decisions/";
const PARTS: [&str; 3] = ["## Context", "## Decision", "## Consequences"];
/// A decision fits a page.
const DECISION_LINES_MAX: usize = 60;

/// All findings of this module.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tree.pages.iter().flat_map(|page| links(tree, page)).collect();
    findings.extend(tree.pages.iter().flat_map(|page| named_files(tree, page)));
    findings.extend(decisions(tree));
    findings.extend(error_codes(tree));
    findings
}

/// Links to files and headings that do not exist.
fn links(tree: &Tree, page: &Page) -> Vec<Finding> {
    let prose = prose_of(&page.text);
    let targets = prose.iter().flat_map(|(line, text)| link_targets(text).map(move |target| (*line, target)));
    let broken = targets.filter(|(_, target)| !resolves(tree, page, target));
    broken.map(|(line, target)| Finding::new(&page.path, line, format!("the link `{target}` leads nowhere"))).collect()
}

/// Files named in inline code (`state/src/apply.rs`) that do not exist.
fn named_files(tree: &Tree, page: &Page) -> Vec<Finding> {
    let named = unfenced(&page.text).flat_map(|(line, text)| {
        text.split('`').skip(1).step_by(2).filter(|name| is_file_name(name)).map(move |name| (line, name))
    });
    let missing = named.filter(|(_, name)| {
        let beside = join(&page.path, name).unwrap_or_default();
        !tree.paths.contains(*name) && !tree.paths.contains(&beside)
    });
    missing.map(|(line, name)| Finding::new(&page.path, line, format!("there is no file `{name}`"))).collect()
}

fn is_file_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let ours = [".rs", ".toml", ".proto", ".md"].iter().any(|end| name.ends_with(end));
    ours && name.contains('/') && !name.starts_with('/') && name.chars().all(plain)
}

/// Lines outside of code blocks, with their numbers.
fn unfenced(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fence && !fenced).then_some((at + 1, line))
    })
}

/// Lines outside of code blocks, with their numbers, without inline code.
fn prose_of(text: &str) -> Vec<(usize, String)> {
    unfenced(text).map(|(at, line)| (at, line.split('`').step_by(2).collect::<Vec<_>>().join(" "))).collect()
}

fn link_targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

fn resolves(tree: &Tree, page: &Page, target: &str) -> bool {
    if target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { Some(page.path.clone()) } else { join(&page.path, file) };
    let Some(path) = path else { return false };
    if anchor.is_empty() {
        return tree.paths.contains(path.trim_end_matches('/'));
    }
    tree.pages.iter().find(|other| other.path == path).is_some_and(|other| anchors(&other.text).contains(anchor))
}

/// `file` as seen from the page at `from`; none if it leaves the repository.
fn join(from: &str, file: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in file.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The anchors of a page's headings, as Markdown renderers make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| slug(line.trim_start_matches('#').trim())).collect()
}

fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Decision pages are numbered without holes and have Context, Decision, Consequences, in that order.
fn decisions(tree: &Tree) -> Vec<Finding> {
    let pages: Vec<&Page> = tree.pages.iter().filter(|page| page.path.starts_with(DECISIONS)).collect();
    let numbers = pages.iter().enumerate().filter_map(|(at, page)| {
        let expected = format!("{DECISIONS}{:04}-", at + 1);
        (!page.path.starts_with(&expected))
            .then(|| Finding::new(&page.path, 0, format!("should begin with {expected}")))
    });
    numbers.chain(pages.iter().flat_map(|page| decision_parts(page))).collect()
}

fn decision_parts(page: &Page) -> Vec<Finding> {
    let at: Vec<Option<usize>> = PARTS.iter().map(|part| page.text.lines().position(|line| line == *part)).collect();
    let mut findings = Vec::new();
    if at.iter().any(Option::is_none) || !at.is_sorted() {
        findings.push(Finding::new(&page.path, 0, format!("needs {PARTS:?}, in this order")));
    }
    let lines = page.text.lines().count();
    if lines > DECISION_LINES_MAX {
        findings.push(Finding::new(&page.path, lines, format!("{lines} lines: a decision fits {DECISION_LINES_MAX}")));
    }
    findings
}

/// Every error code of `proto/src/codes.rs` is in the operator's table, and the table has no other.
fn error_codes(tree: &Tree) -> Vec<Finding> {
    let (source, page) = ("proto/src/codes.rs", "docs/operations.md");
    let codes: BTreeSet<&str> = tree.sources.iter().filter(|s| s.path == source).flat_map(declared_codes).collect();
    let table = tree.pages.iter().filter(|p| p.path == page).flat_map(|p| p.text.lines());
    let told: BTreeSet<&str> = table.filter_map(|line| line.strip_prefix("| `STM-")).map(|rest| &rest[..4]).collect();
    let untold = codes.difference(&told).map(|code| Finding::new(page, 0, format!("STM-{code} is not in the table")));
    let unknown = told.difference(&codes).map(|code| Finding::new(page, 0, format!("there is no STM-{code}")));
    untold.chain(unknown).collect()
}

fn declared_codes(source: &Source) -> impl Iterator<Item = &str> {
    source.text.split("= \"STM-").skip(1).filter_map(|rest| rest.get(..4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(path: &str, text: &str) -> Page {
        Page { path: path.into(), text: text.into() }
    }

    fn tree(pages: &[(&str, &str)]) -> Tree {
        let pages: Vec<Page> = pages.iter().map(|(path, text)| page(path, text)).collect();
        let paths = pages.iter().map(|page| page.path.clone()).collect();
        Tree { pages, paths, ..Tree::default() }
    }

    #[test]
    fn a_broken_link_is_found() {
        let good = "[a](docs/b.md) [b](docs/b.md#two-words) [c](https://x.y) `[no](link)`\n```\n[no](link)\n```";
        let target = "# B\n## Two words\n[up](../a.md) [self](#b)";
        assert!(check(&tree(&[("a.md", good), ("docs/b.md", target)])).is_empty());
        for bad in ["[x](b.md)", "[x](docs/b.md#three)", "[x](../../up.md)", "[x](docs/c.md \"title\")"] {
            assert_eq!(check(&tree(&[("a.md", bad), ("docs/b.md", target)])).len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_file_that_is_named_and_missing_is_found() {
        let fine = "`docs/b.md` `b.md` `/etc/x.toml` `a b/c.rs`\n```\n`docs/no.md`\n```";
        assert!(check(&tree(&[("a.md", fine), ("docs/b.md", "`a.md`")])).is_empty());
        assert_eq!(check(&tree(&[("a.md", "see `state/src/gone.rs`")])).len(), 1);
    }

    #[test]
    fn a_decision_without_its_parts_is_found() {
        let whole = "# Title\n## Context\n## Decision\n## Consequences\n";
        assert!(check(&tree(&[("docs/decisions/0001-a.md", whole)])).is_empty());
        let missing = whole.replace("## Decision\n", "");
        assert_eq!(check(&tree(&[("docs/decisions/0001-a.md", &missing)])).len(), 1);
        let swapped = "## Decision\n## Context\n## Consequences\n";
        assert_eq!(check(&tree(&[("docs/decisions/0001-a.md", swapped)])).len(), 1);
        let hole = [("docs/decisions/0001-a.md", whole), ("docs/decisions/0003-b.md", whole)];
        assert_eq!(check(&tree(&hole)).len(), 1);
        let long = format!("{whole}{}", "\n".repeat(DECISION_LINES_MAX));
        assert_eq!(check(&tree(&[("docs/decisions/0001-a.md", &long)])).len(), 1);
    }

    #[test]
    fn an_error_code_that_is_not_told_is_found() {
        let mut tree = tree(&[("docs/operations.md", "| `STM-1001` | X |\n| `STM-9999` | Y |")]);
        tree.sources.push(Source::new("proto/src/codes.rs", "A = \"STM-1001\", \"a\"; B = \"STM-1002\", \"b\";"));
        assert_eq!(check(&tree).len(), 2);
    }
}
