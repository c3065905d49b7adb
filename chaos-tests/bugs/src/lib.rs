//! Seeded bugs: known classes of mistakes that a test build can make on purpose.
//!
//! The product's crates name this one only under their feature `seeded-bugs`, which no build of the product switches on. At
//! most one bug is active in a process: the one that [`plant`] or the environment variable `STEERSMAN_BUG` names. What it
//! does not do: decide whether a bug was caught; that is the campaign's work (`seeded_bugs` in chaos-tests/sim).

mod table;

use std::sync::OnceLock;

pub use table::{BUGS, Bug, Engine, Suite, bug};

/// Name of the environment variable.
pub const VARIABLE: &str = "STEERSMAN_BUG";

static PLANTED: OnceLock<Option<String>> = OnceLock::new();

/// Chooses the bug of this process, before anything asks for it. The first choice stays.
pub fn plant(name: Option<&str>) {
    let _ = PLANTED.set(name.map(str::to_owned));
}

/// Whether this process makes the mistake of that name.
pub fn planted(name: &str) -> bool {
    let chosen = PLANTED.get_or_init(|| std::env::var(VARIABLE).ok().filter(|value| !value.is_empty()));
    chosen.as_deref() == Some(name)
}
