//! The code map of ARCHITECTURE.md: one line per source file, taken from the first sentence of its header.
//!
//! What always holds: between its markers the page says what the files say of themselves, no more and no less. `make fix`
//! writes it, the tidy test only compares. It does not decide what is worth reading first; the prose around it does.

use crate::Finding;
use crate::tree::{Source, Tree};

/// The page that has the map.
pub const PAGE: &str = "ARCHITECTURE.md";
const END: &str = "<!-- end of map -->";

/// The page with every map brought up to date.
pub fn refreshed(tree: &Tree, page: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in page.lines() {
        inside &= line != END;
        if !inside {
            out.push_str(line);
            out.push('\n');
        }
        if let Some(krate) = line.strip_prefix("<!-- map of ").and_then(|rest| rest.strip_suffix(" -->")) {
            inside = true;
            out.push_str(&map_of(tree, krate));
        }
    }
    out
}

fn map_of(tree: &Tree, krate: &str) -> String {
    let folder = format!("{krate}/src/");
    let files = tree.sources.iter().filter_map(|source| Some((source, source.path.strip_prefix(&folder)?)));
    let lines = files.filter(|(source, _)| !source.is_test);
    lines.map(|(source, name)| format!("- [{name}]({}): {}\n", source.path, first_sentence(source))).collect()
}

/// The first sentence of the header, without its full stop and without link brackets.
fn first_sentence(source: &Source) -> String {
    let header = source.text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let paragraph: Vec<&str> = header.take_while(|line| !line.is_empty()).collect();
    let text = paragraph.join(" ").replace("[`", "`").replace("`]", "`");
    let end =
        text.match_indices(". ").find(|(at, _)| starts_sentence(&text[at + 2..])).map_or(text.len(), |(at, _)| at);
    text[..end].trim_end_matches('.').to_owned()
}

fn starts_sentence(text: &str) -> bool {
    text.chars().next().is_some_and(|c| c.is_uppercase() || c == '`')
}

/// A map that is not what the files say.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let stale = tree.pages.iter().filter(|page| page.path == PAGE && refreshed(tree, &page.text) != page.text);
    stale
        .map(|page| Finding::new(&page.path, 0, "the code map is not what the files say of themselves: make fix"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Page;

    const PAGE_TEXT: &str = "# Map\n<!-- map of a -->\nold\n<!-- end of map -->\nprose\n";

    fn tree(text: &str) -> Tree {
        let header = "//! What [`X`] is, e.g. so: it\n//! does. More of it.\n//!\n//! What holds.\n";
        let sources = vec![
            Source::new("a/src/b.rs", header),
            Source::new("a/src/tests.rs", "//! Only in tests."),
            Source::new("c/src/d.rs", "//! Another crate's."),
        ];
        Tree { sources, pages: vec![Page { path: PAGE.into(), text: text.into() }], ..Tree::default() }
    }

    #[test]
    fn the_map_is_made_from_first_sentences() {
        let tree = tree(PAGE_TEXT);
        let made = refreshed(&tree, PAGE_TEXT);
        let line = "- [b.rs](a/src/b.rs): What `X` is, e.g. so: it does\n";
        assert_eq!(made, format!("# Map\n<!-- map of a -->\n{line}<!-- end of map -->\nprose\n"));
    }

    #[test]
    fn a_stale_map_is_found_and_a_fresh_one_is_not() {
        assert_eq!(check(&tree(PAGE_TEXT)).len(), 1);
        let fresh = refreshed(&tree(PAGE_TEXT), PAGE_TEXT);
        assert!(check(&tree(&fresh)).is_empty());
    }
}
