//! The fenced register: a small server in the runner to which tasks write with the token of their attempt.
//!
//! What always holds: a write is taken exactly if its token is higher than every one that was taken for the same key; each
//! judgement is in the history before the task hears of it. It is a socket in the file system, which a task reaches from any
//! network namespace: a task that is cut off from the masters can still write, and must be fenced off.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use steersman_evidence::record::{FencedWrite, Record};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::recorder::Recorder;

/// How long a task waits for the register: far more than a busy machine needs, and never for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// The server.
#[derive(Debug)]
pub struct Register {
    path: PathBuf,
    server: JoinHandle<()>,
}

impl Register {
    /// Serves at `path` until it is dropped.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn serve(path: &Path, recorder: Arc<Recorder>) -> Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| format!("cannot serve at {}", path.display()))?;
        let server = tokio::spawn(accept(listener, Arc::default(), recorder));
        Ok(Self { path: path.to_owned(), server })
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Register {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The highest token that was taken, of each key.
type Taken = Arc<Mutex<BTreeMap<u64, u64>>>;

async fn accept(listener: UnixListener, taken: Taken, recorder: Arc<Recorder>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (taken, recorder) = (taken.clone(), recorder.clone());
        tokio::spawn(async move {
            // A task that goes away in the middle has been judged all the same.
            let _ = answer(stream, &taken, &recorder).await;
        });
    }
}

async fn answer(mut stream: tokio::net::UnixStream, taken: &Taken, recorder: &Recorder) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    tokio::io::BufReader::new(read).read_line(&mut line).await?;
    let Some((key, token)) = parse(&line) else { return write.write_all(b"malformed\n").await };
    let accepted = judge(taken, recorder, key, token);
    write.write_all(if accepted { b"accepted\n" } else { b"refused\n" }).await
}

fn parse(line: &str) -> Option<(u64, u64)> {
    let (key, token) = line.trim().split_once(' ')?;
    Some((key.parse().ok()?, token.parse().ok()?))
}

fn judge(taken: &Taken, recorder: &Recorder, key: u64, token: u64) -> bool {
    let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
    let highest = taken.entry(key).or_default();
    let accepted = token > *highest;
    *highest = token.max(*highest);
    // Under the lock, so that the file has the order of the judgements.
    recorder.record(|at_us| Record::FencedWrite(FencedWrite { at_us, key, token, accepted }));
    accepted
}

/// A task's write. Returns whether it was taken.
///
/// # Errors
/// If the register is not there or does not answer.
pub fn write(path: &Path, key: u64, token: u64) -> io::Result<bool> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{key} {token}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match line.trim() {
        "accepted" => Ok(true),
        "refused" => Ok(false),
        other => Err(io::Error::other(format!("the register answered {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use steersman_evidence::record::Run;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_older_token_is_refused_and_everything_is_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let history = folder.path().join("history.jsonl");
        let recorder = Arc::new(Recorder::create(&history, Run::default()).unwrap());
        let register = Register::serve(&folder.path().join("fenced.sock"), recorder).unwrap();
        let path = register.path().to_owned();
        let tried = tokio::task::spawn_blocking(move || {
            [(1, 5), (1, 7), (1, 6), (2, 6), (1, 7)].map(|(key, token)| write(&path, key, token).unwrap())
        });
        assert_eq!(tried.await.unwrap(), [true, true, false, true, false]);
        let text = std::fs::read_to_string(&history).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("fenced_write")).count(), 5);
    }
}
