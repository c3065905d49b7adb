//! The rules of the house, applied to this repository. Each failure says where and what to do.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use steersman_tidy::tree::Tree;
use steersman_tidy::{Finding, docs, functions, imports, map, promises, report, shape};

fn tree() -> Tree {
    let tree = Tree::load(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap();
    assert!(tree.sources.len() > 30 && tree.pages.len() > 5, "the walk found too little: it would pass by mistake");
    tree
}

fn assert_tidy(findings: &[Finding]) {
    assert!(findings.is_empty(), "{} findings:{}", findings.len(), report(findings));
}

#[test]
fn names_stay_in_their_rooms() {
    assert_tidy(&imports::check(&tree()));
}

#[test]
fn files_have_a_header_and_an_end() {
    assert_tidy(&shape::check(&tree()));
}

#[test]
fn functions_fit_the_screen() {
    let tree = tree();
    let all: Vec<functions::Function> = tree.sources.iter().flat_map(functions::functions).collect();
    println!("{:?}", functions::measure(&all));
    assert_tidy(&functions::check(&tree));
}

#[test]
fn kept_promises_have_tests() {
    assert_tidy(&promises::check(&tree()));
}

#[test]
fn pages_tell_what_exists() {
    assert_tidy(&docs::check(&tree()));
}

#[test]
fn the_code_map_is_what_the_files_say() {
    assert_tidy(&map::check(&tree()));
}
