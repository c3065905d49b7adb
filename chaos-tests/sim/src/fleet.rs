//! Runs as processes of their own, some at a time, each within a bound of time: what sweeps and campaigns have in common.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// A simulated run takes seconds; one that does not end is a finding of its own, and must not hold up the others.
pub const RUN_MAX: Duration = Duration::from_secs(240);

/// What a process said, and how it ended.
pub struct Said {
    /// Its exit code, 255 for a signal; `None` if it had to be killed after [`RUN_MAX`].
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// Runs a process to its end, or kills it when [`RUN_MAX`] is over.
///
/// # Errors
/// If it can't be started or waited for.
pub fn bounded(mut command: Command) -> anyhow::Result<Said> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (mut out, mut err) = (child.stdout.take().context("stdout")?, child.stderr.take().context("stderr")?);
    let readers = (std::thread::spawn(move || read_all(&mut out)), std::thread::spawn(move || read_all(&mut err)));
    let began = Instant::now();
    let code = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status.code().unwrap_or(255));
        }
        if began.elapsed() > RUN_MAX {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (out, err) = (readers.0.join(), readers.1.join());
    Ok(Said { code, out: out.unwrap_or_default(), err: err.unwrap_or_default() })
}

fn read_all(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Does all the work, `jobs` pieces at a time and in order, until it is done or `one` says that it is enough (`false`).
pub fn each<T: Sync>(work: &[T], jobs: usize, one: impl Fn(&T) -> bool + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(piece) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !one(piece) {
                        next.store(work.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn all_is_done_once_or_until_it_is_enough() {
        let done = Mutex::new(Vec::new());
        each(&[1, 2, 3, 4, 5], 2, |piece| {
            done.lock().unwrap().push(*piece);
            true
        });
        let mut all = done.into_inner().unwrap();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4, 5]);
        let done = AtomicUsize::new(0);
        each(&[0; 100], 1, |_| done.fetch_add(1, Ordering::Relaxed) < 9);
        assert_eq!(done.into_inner(), 10);
    }

    #[test]
    fn a_process_says_how_it_ended() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 7"]);
        let said = bounded(command).unwrap();
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(7), "out\n", "err\n"));
    }
}
