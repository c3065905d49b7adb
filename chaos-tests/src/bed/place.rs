//! A place where processes live: a network namespace and a mount namespace, or simply here.
//!
//! What always holds: a namespace is held by a descriptor and by the processes in it, never by a name or a bind mount, so that it
//! is gone when they are, however they ended. Only threads made for the purpose ever enter one: no other thread of this
//! process is moved.

use std::fs::File;
use std::io;
use std::process::{Child, Command};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// Namespaces to be in; `default()` is simply here. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Place {
    network: Option<Arc<File>>,
    mounts: Option<Arc<File>>,
}

impl Place {
    /// A new network namespace, in which `lo` is up and nothing else is, besides the mounts of `self`.
    ///
    /// # Errors
    /// If this process may not make one.
    pub fn with_new_network(&self) -> Result<Self> {
        let made = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            super::ioctls::loopback_up()?;
            File::open("/proc/thread-self/ns/net")
        });
        let network = made.context("cannot make a network namespace")?;
        Ok(Self { network: Some(Arc::new(network)), mounts: self.mounts.clone() })
    }

    /// A new mount namespace from which nothing gets out, besides the network of `self`.
    ///
    /// # Errors
    /// If this process may not make one.
    pub fn with_new_mounts(&self) -> Result<Self> {
        let made = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            File::open("/proc/thread-self/ns/mnt")
        });
        let mounts = made.context("cannot make a mount namespace")?;
        Ok(Self { network: self.network.clone(), mounts: Some(Arc::new(mounts)) })
    }

    /// Does something there, on a thread of its own.
    ///
    /// # Errors
    /// If the place cannot be entered.
    ///
    /// # Panics
    /// If `work` panics.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        if self.network.is_none() && self.mounts.is_none() {
            return Ok(work());
        }
        on_a_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    fn enter(&self) -> io::Result<()> {
        if let Some(network) = &self.network {
            setns(network.as_ref(), CloneFlags::CLONE_NEWNET)?;
        }
        if let Some(mounts) = &self.mounts {
            // A thread that shares its root and working directory with others may not enter.
            let here = std::env::current_dir()?;
            unshare(CloneFlags::CLONE_FS)?;
            setns(mounts.as_ref(), CloneFlags::CLONE_NEWNS)?;
            nix::unistd::chdir(&here)?;
        }
        Ok(())
    }

    /// Starts a process there. Its children stay there.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        self.within(|| command.spawn())?
    }

    /// Runs a tool there that has to succeed.
    ///
    /// # Errors
    /// If it is missing or fails: with what it said.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        // Tools of the system's administrator are not on everybody's path.
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(program);
        command.args(args).env("PATH", path);
        let output = self.within(|| command.output())?.with_context(|| format!("cannot run {program}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(anyhow!("{program} {} failed: {said}", args.join(" ")))
    }
}

/// Threads die with what they entered.
fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn here_is_a_place_too() {
        let here = Place::default();
        assert_eq!(here.within(|| 7).unwrap(), 7);
        assert!(here.run("true", &[]).is_ok());
        let error = here.run("sh", &["-c", "echo no >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("no"), "{error}");
    }

    #[test]
    fn what_happens_in_a_namespace_stays_there() {
        let Ok(place) = Place::default().with_new_network() else {
            eprintln!("SKIPPED what_happens_in_a_namespace_stays_there: no rights to make a network namespace");
            return;
        };
        let interfaces = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let there = place.within(interfaces).unwrap();
        assert_eq!(there.lines().skip(2).count(), 1, "only lo: {there}");
        assert!(place.within(|| std::net::TcpListener::bind("127.0.0.1:1").is_ok()).unwrap(), "lo is up");
        let mut child = place.spawn({
            let mut command = Command::new("sh");
            command.args(["-c", "test $(wc -l < /proc/net/dev) = 3"]);
            command
        });
        assert!(child.as_mut().unwrap().wait().unwrap().success(), "children are there, too");
    }
}
