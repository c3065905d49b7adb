//! Who may name what. The list of rooms is [`RULES`], here and nowhere else.

use crate::Finding;
use crate::scan;
use crate::tree::{Source, Tree};

/// Where a word may stand.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// Only in files whose path begins so.
    Only(&'static [&'static str]),
    /// Anywhere but in files whose path begins so.
    NotIn(&'static [&'static str]),
    /// Within the first prefix only in files that begin with one of the others; elsewhere freely.
    Within(&'static str, &'static [&'static str]),
}

/// One word and its rooms.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The word as it stands in code.
    pub word: &'static str,
    /// Not this word: the longer form that is harmless.
    pub except: &'static str,
    /// Where it may stand.
    pub place: Place,
    /// Test code may name it anywhere.
    pub tests_may: bool,
    /// Why, for the one who broke it.
    pub why: &'static str,
}

const OPENRAFT_ROOMS: &[&str] = &[
    "raft-store/",
    "master/src/node.rs",
    "master/src/network.rs",
    "master/src/propose.rs",
    "master/src/raft_service.rs",
    "master/src/reads.rs",
    "master/src/leader/mod.rs",
    // The rest of the node's Raft side: putting it together, forming the cluster, taking over, its words on the wire.
    "master/src/start.rs",
    "master/src/bootstrap.rs",
    "master/src/takeover.rs",
    "master/src/wire.rs",
    // A master over any network, and the simulated network itself.
    "master/src/bare.rs",
    "chaos-tests/sim/src/fast/",
];
const WIRE_ROOMS: &[&str] = &[
    "master/src/grpc/",
    "master/src/network.rs",
    "master/src/raft_service.rs",
    "master/src/leader/streams",
    // What masters say to each other.
    "master/src/audit.rs",
    "master/src/bootstrap.rs",
    "master/src/reads.rs",
    "master/src/wire.rs",
    // Compiled under `cfg(fuzzing)` alone.
    "master/src/fuzzing.rs",
];
const WORLD_ROOMS: &[&str] = &["world/", "cli/", "chaos-tests/"];
/// The store measures its own syncs with tokio's clock, which a simulation owns; its disk is a seam of its own.
const CLOCK_ROOMS: &[&str] = &["world/", "cli/", "chaos-tests/", "raft-store/"];
/// `runtime` is the seam of openraft's randomness; `recovery` names a new directory when the caller gave no name.
const RANDOM_ROOMS: &[&str] =
    &["world/", "cli/", "chaos-tests/", "raft-store/src/runtime.rs", "raft-store/src/recovery.rs"];
/// Where mistakes can be planted, each under the feature `seeded-bugs` (chaos-tests/bugs/tests/planted.rs sees to that):
/// also in `state`, which stays pure in every other build.
const BUG_ROOMS: &[&str] = &["state/", "raft-store/", "master/", "worker/", "client/", "chaos-tests/"];
const ANYHOW_ROOMS: &[&str] = &["cli/src/main.rs", "chaos-tests/"];

const fn rule(word: &'static str, place: Place, tests_may: bool, why: &'static str) -> Rule {
    Rule { word, except: "", place, tests_may, why }
}

const ONE_DOOR: &str = "openraft is an alpha: its types stay in the few files of imports::OPENRAFT_ROOMS";
const PURE: &str = "state is pure: no IO, no time, no async, no logging";
const SEAMS: &str =
    "clocks and randomness come in through steersman_world, so that a simulated node runs the same code";

/// Every rule.
pub const RULES: &[Rule] = &[
    rule("openraft::", Place::Only(OPENRAFT_ROOMS), false, ONE_DOOR),
    rule("openraft_rt::", Place::Only(OPENRAFT_ROOMS), false, ONE_DOOR),
    rule("openraft_rt_tokio::", Place::Only(OPENRAFT_ROOMS), false, ONE_DOOR),
    rule("sled::", Place::Only(&["raft-store/"]), false, "only raft-store knows the disk"),
    rule("tonic::", Place::NotIn(&["state/", "raft-store/"]), false, "no wire below the master"),
    rule("prost::", Place::NotIn(&["state/", "raft-store/"]), false, "no wire below the master"),
    Rule {
        word: "steersman_proto::",
        except: "steersman_proto::codes",
        place: Place::Within("master/src/", WIRE_ROOMS),
        tests_may: true,
        why: "wire types stop at the door: translate in grpc/convert.rs",
    },
    rule("SystemTime", Place::Only(WORLD_ROOMS), true, SEAMS),
    rule("Instant::now", Place::Only(CLOCK_ROOMS), true, SEAMS),
    rule("rand::", Place::Only(RANDOM_ROOMS), true, SEAMS),
    rule(
        "anyhow",
        Place::Only(ANYHOW_ROOMS),
        true,
        "libraries name their errors (thiserror); anyhow is for main and tests",
    ),
    rule("steersman_bugs::", Place::Only(BUG_ROOMS), false, "mistakes are planted in test builds, never in the binary"),
    rule("std::time", Place::NotIn(&["state/"]), true, PURE),
    rule("std::fs", Place::NotIn(&["state/"]), true, PURE),
    rule("std::net", Place::NotIn(&["state/"]), true, PURE),
    rule("std::env", Place::NotIn(&["state/"]), true, PURE),
    rule("std::thread", Place::NotIn(&["state/"]), true, PURE),
    rule("tokio::", Place::NotIn(&["state/"]), true, PURE),
    rule("tracing::", Place::NotIn(&["state/"]), true, PURE),
];

/// Every place where a word stands outside of its rooms.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.sources.iter().flat_map(|source| RULES.iter().flat_map(|rule| check_rule(source, rule))).collect()
}

fn check_rule(source: &Source, rule: &Rule) -> Vec<Finding> {
    if allowed(&source.path, rule.place) {
        return Vec::new();
    }
    let strangers = scan::positions(&source.code, rule.word)
        .filter(|&at| rule.except.is_empty() || !source.code[at..].starts_with(rule.except))
        .filter(|&at| !(rule.tests_may && source.in_test(at)));
    strangers
        .map(|at| Finding::new(&source.path, source.line(at), format!("names `{}`: {}", rule.word, rule.why)))
        .collect()
}

fn allowed(path: &str, place: Place) -> bool {
    let one_of = |rooms: &[&str]| rooms.iter().any(|room| path.starts_with(room));
    match place {
        Place::Only(rooms) => one_of(rooms),
        Place::NotIn(rooms) => !one_of(rooms),
        Place::Within(scope, rooms) => !path.starts_with(scope) || one_of(rooms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&Tree { sources: vec![Source::new(path, text)], ..Tree::default() }).len()
    }

    #[test]
    fn a_word_outside_its_rooms_is_found() {
        for (path, text) in [
            ("master/src/leader/heartbeats.rs", "use openraft::Raft;"),
            ("client/src/lib.rs", "fn f() { openraft_rt::x() }"),
            ("master/src/node.rs", "use sled::Db;"),
            ("state/src/view.rs", "use tonic::Status;"),
            ("raft-store/src/log.rs", "fn f() -> tonic::Status {}"),
            ("master/src/leader/scheduler.rs", "use steersman_proto::v1::Task;"),
            ("worker/src/session.rs", "let t = std::time::SystemTime::now();"),
            ("master/src/propose.rs", "let t = tokio::time::Instant::now();"),
            ("client/src/retry.rs", "let r = rand::random();"),
            ("worker/src/config.rs", "use anyhow::Result;"),
            ("state/src/apply.rs", "use std::fs::File;"),
            ("state/src/apply.rs", "tracing::info!();"),
            ("cli/src/main.rs", "if steersman_bugs::planted(\"x\") {}"),
        ] {
            assert!(findings(path, text) > 0, "not found: {path}: {text}");
        }
    }

    #[test]
    fn a_word_in_its_rooms_is_fine() {
        for (path, text) in [
            ("master/src/node.rs", "use openraft::Raft;"),
            ("state/src/plan.rs", "if steersman_bugs::planted(\"x\") {}"),
            ("raft-store/tests/suite.rs", "use openraft::testing; use sled::Db;"),
            ("master/src/grpc/convert.rs", "use steersman_proto::v1::Task;"),
            ("master/src/leader/streams.rs", "use steersman_proto::worker::v1;"),
            ("master/src/exit.rs", "use steersman_proto::codes::CONFIG;"),
            ("worker/src/session.rs", "use steersman_proto::v1;"),
            ("world/src/clock.rs", "SystemTime::now()"),
            ("worker/src/lib.rs", "#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }"),
            ("worker/src/lib.rs", "// SystemTime and openraft:: in a comment"),
            ("cli/src/main.rs", "fn main() -> anyhow::Result<()> {}"),
        ] {
            assert_eq!(findings(path, text), 0, "{path}: {text}");
        }
    }

    #[test]
    fn tests_may_not_break_the_rules_about_crates() {
        assert!(findings("master/src/lib.rs", "#[cfg(test)]\nmod tests { use openraft::Raft; }") > 0);
        assert!(findings("cli/tests/x.rs", "use sled::Db;") > 0);
    }
}
