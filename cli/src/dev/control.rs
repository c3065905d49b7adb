//! The door of a running `steersman dev` for `steersman drill`: a socket in its data folder, over which nodes are killed, frozen,
//! started again, and told to do faults to themselves.
//!
//! What always holds: only this user's processes are heard; one drill at a time; whatever a drill has broken heals when its
//! connection ends, however it ends. One JSON line per question and per answer, in turn.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::faults::FaultSet;
use crate::exit::{Failure, Outcome};

/// A socket's path may have 107 bytes on Linux.
const PATH_BYTES_MAX: usize = 107;
const FILE: &str = "control.sock";

/// What a drill can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum Ask {
    /// A drill has come. Sent by the door itself.
    Begin,
    /// SIGKILL.
    Kill {
        /// `master-1`, `worker-1`, …
        node: String,
    },
    /// SIGTERM.
    Terminate {
        /// Which.
        node: String,
    },
    /// SIGSTOP.
    Pause {
        /// Which.
        node: String,
    },
    /// SIGCONT.
    Resume {
        /// Which.
        node: String,
    },
    /// Starts it, if it does not run.
    Start {
        /// Which.
        node: String,
    },
    /// Replaces what is wrong with it.
    Faults {
        /// Which.
        node: String,
        /// All of it.
        faults: FaultSet,
    },
    /// Everything that was broken since the drill came is mended.
    Heal,
    /// The drill has gone. Sent by the door itself.
    End,
}

/// What `dev` says to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Process id of the node that was meant; 0 where it does not run.
    pub pid: u32,
    /// Why it was not done; empty if it was.
    pub error: String,
    /// Unix time in µs at which it was done.
    #[serde(default)]
    pub wall_us: u64,
}

/// A question and where its answer goes.
pub type Asked = (Ask, oneshot::Sender<Answer>);

/// Where the socket of a `dev` with this folder is.
pub fn path_in(dir: &Path) -> PathBuf {
    let path = dir.join(FILE);
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return path;
    }
    std::env::temp_dir().join(format!("steersman-dev-{}.sock", std::process::id()))
}

/// Opens the door. It is open as long as the receiver lives.
///
/// # Errors
/// When the socket cannot be made.
pub fn open(path: &Path) -> io::Result<mpsc::Receiver<Asked>> {
    // A leftover of an earlier run: nobody listens there, for the folder is ours.
    drop(std::fs::remove_file(path));
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let (asks, asked) = mpsc::channel(1);
    tokio::spawn(listen(listener, asks));
    Ok(asked)
}

async fn listen(listener: UnixListener, asks: mpsc::Sender<Asked>) {
    let one = Arc::new(Semaphore::new(1));
    while !asks.is_closed() {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = asks.closed() => return,
        };
        let Ok((mut stream, _)) = accepted else { continue };
        let own = rustix::process::getuid().as_raw();
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == own) {
            continue;
        }
        let Ok(turn) = one.clone().try_acquire_owned() else {
            let busy = Answer { error: "another drill is under way".to_owned(), ..Answer::default() };
            drop(stream.write_all(line(&busy).as_bytes()).await);
            continue;
        };
        let asks = asks.clone();
        tokio::spawn(async move {
            let _turn = turn;
            drop(serve(stream, &asks).await);
            drop(ask(&asks, Ask::End).await);
        });
    }
}

async fn serve(stream: UnixStream, asks: &mpsc::Sender<Asked>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let hello = ask(asks, Ask::Begin).await;
    write.write_all(line(&hello).as_bytes()).await?;
    while let Some(text) = lines.next_line().await? {
        let answer = match serde_json::from_str(&text) {
            Ok(question) => ask(asks, question).await,
            Err(error) => Answer { error: format!("not understood: {error}"), ..Answer::default() },
        };
        write.write_all(line(&answer).as_bytes()).await?;
    }
    Ok(())
}

async fn ask(asks: &mpsc::Sender<Asked>, question: Ask) -> Answer {
    let (answer, answered) = oneshot::channel();
    let sent = asks.send((question, answer)).await.is_ok();
    let gone = || Answer { error: "steersman dev is ending".to_owned(), ..Answer::default() };
    if sent { answered.await.unwrap_or_else(|_| gone()) } else { gone() }
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

/// A drill's end of the door. What it broke heals when this is dropped.
pub struct Remote {
    lines: tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    write: tokio::net::unix::OwnedWriteHalf,
}

impl Remote {
    /// Comes in.
    ///
    /// # Errors
    /// When nobody is there, or another drill is under way.
    pub async fn connect(path: &Path) -> Outcome<Self> {
        let connected = UnixStream::connect(path).await;
        let (read, write) = connected.map_err(|error| lost(&error))?.into_split();
        let mut remote = Self { lines: BufReader::new(read).lines(), write };
        remote.answer().await?;
        Ok(remote)
    }

    /// Asks for something, and waits until it is done.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn ask(&mut self, question: &Ask) -> Outcome<Answer> {
        self.write.write_all(line(question).as_bytes()).await.map_err(|error| lost(&error))?;
        self.answer().await
    }

    async fn answer(&mut self) -> Outcome<Answer> {
        let text = self.lines.next_line().await.map_err(|error| lost(&error))?;
        let text = text.ok_or_else(|| lost(&"it closed the connection"))?;
        let answer: Answer = serde_json::from_str(&text).map_err(|error| lost(&error))?;
        if answer.error.is_empty() {
            return Ok(answer);
        }
        Err(Failure::local(format!("steersman dev refused: {}", answer.error), "see what steersman dev says"))
    }
}

fn lost(error: &impl std::fmt::Display) -> Failure {
    Failure::local(format!("cannot talk to steersman dev: {error}"), "is it of this version, and does it still run?")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn one_drill_at_a_time_and_its_end_heals() {
        let dir = std::env::temp_dir().join(format!("steersman-control-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = path_in(&dir);
        let mut asked = open(&path).unwrap();
        let seen = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some((ask, answer)) = asked.recv().await {
                let error = if matches!(ask, Ask::Pause { .. }) { "no such node".to_owned() } else { String::new() };
                let last = ask == Ask::End;
                seen.push(ask);
                answer.send(Answer { pid: 7, error, wall_us: 1 }).unwrap();
                if last {
                    break;
                }
            }
            seen
        });
        let mut first = Remote::connect(&path).await.unwrap();
        let kill = Ask::Kill { node: "master-1".to_owned() };
        assert_eq!(first.ask(&kill).await.unwrap().pid, 7);
        let refused = first.ask(&Ask::Pause { node: "x".to_owned() }).await.err().unwrap();
        assert!(refused.message.contains("no such node"), "{refused:?}");
        let second = Remote::connect(&path).await.err().unwrap();
        assert!(second.message.contains("another drill is under way"), "{second:?}");
        drop(first);
        let seen = seen.await.unwrap();
        assert_eq!(seen, [Ask::Begin, kill, Ask::Pause { node: "x".to_owned() }, Ask::End]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
