//! Panics of simulated tasks, which tokio keeps to itself.
//!
//! What always holds: every panic of the process is noted from [`watch`] on. What it does not do: judge; an engine does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
static KEPT: AtomicBool = AtomicBool::new(false);
static HOOKED: Once = Once::new();

/// What openraft's debug builds assert when entries were purged under a follower that still needs them. Release builds do
/// not, and build an append with a hole instead, which the product does not send (`master/src/wire.rs`, `lacks_purged`).
const PURGED: &str = "to be immediately before the first entry at index";

/// From now on every panic of this process is noted; what was noted before is forgotten.
pub fn watch() {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).clear();
    HOOKED.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let text = panic.to_string();
            let known = is_known(&text);
            SEEN.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            if !known {
                usual(panic);
            }
        }));
    });
}

/// From now on a panic ends its task, and tokio does not hear of it: turmoil would shut the host's runtime down, whose tasks then
/// panic while they are dropped. Whoever wants this looks for panics himself.
pub fn keep() {
    KEPT.store(true, Ordering::Relaxed);
}

/// Whether [`keep`] was asked for.
pub fn are_kept() -> bool {
    KEPT.load(Ordering::Relaxed)
}

/// All of them, in order.
pub fn seen() -> Vec<String> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Whether it is the one that is known.
pub fn is_known(panic: &str) -> bool {
    panic.contains(PURGED)
}
