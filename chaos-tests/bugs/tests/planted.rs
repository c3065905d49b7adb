//! The table of seeded bugs against the product's source: every name is planted where the table says, under the feature
//! alone, and no crate has the feature by default.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use steersman_bugs::BUGS;

/// The crates in which bugs are planted.
const CRATES: &[&str] = &["state", "raft-store", "master", "worker", "client"];
const ASKS: &str = "steersman_bugs::planted(\"";
const GATE: &str = "#[cfg(feature = \"seeded-bugs\")]";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Names that the product's source asks for, and in which files.
fn asked() -> BTreeMap<String, BTreeSet<String>> {
    let (root, mut found) = (root(), Vec::new());
    CRATES.iter().for_each(|name| sources(&root.join(name).join("src"), &mut found));
    let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(&root).unwrap().display().to_string();
        for after in text.split(ASKS).skip(1) {
            let name = after.split('"').next().unwrap().to_owned();
            asked.entry(name).or_default().insert(file.clone());
        }
    }
    asked
}

#[test]
fn every_bug_is_planted_where_the_table_says_and_nowhere_else() {
    let table: BTreeMap<String, BTreeSet<String>> = BUGS
        .iter()
        .map(|bug| (bug.name.to_owned(), bug.planted_in.iter().map(|file| (*file).to_owned()).collect()))
        .collect();
    assert_eq!(table.len(), BUGS.len(), "a name stands twice in the table");
    assert_eq!(asked(), table);
}

/// The item or statement that asks begins with the gate: looking back from the question, the gate comes before any blank
/// line and before any other item.
#[test]
fn nothing_is_asked_outside_of_the_feature() {
    for file in asked().into_values().flatten().collect::<BTreeSet<_>>() {
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        for (at, _) in text.match_indices("steersman_bugs::") {
            let before = &text[..at];
            let block = &before[before.rfind("\n\n").unwrap_or(0)..];
            assert!(block.contains(GATE), "{file}: asks for a bug outside of the feature:{block}");
        }
    }
}

#[test]
fn no_crate_has_the_feature_by_default() {
    for name in CRATES {
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("steersman-bugs = { workspace = true, optional = true }"), "{name}");
        assert!(!manifest.lines().any(|line| line.trim_start().starts_with("default")), "{name} has default features");
    }
}
