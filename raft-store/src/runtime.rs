//! The runtime under openraft: tokio, except that its randomness can be seeded.
//!
//! openraft draws election timeouts from its runtime's random numbers. On a real machine they are the operating system's;
//! a simulation, which runs everything in one thread, calls [`seed`] first and gets the same numbers in every run. It can
//! also put something of its own around every task of a node ([`around`]): to freeze the node, or to end all of it at once.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// openraft's own limits of time (for a heartbeat's answer, a vote, a hand-over) are multiplied by this. It gives a heartbeat no
/// more than the interval between two of them, and what comes later counts for nothing: an idle leader whose quorum is one
/// interval away would lose its lease, refuse writes, and with them the only other answers that renew it, for as long as the
/// network is so slow. Less than the shortest election timeout, at the defaults: a follower's timer waits for the next heartbeat.
const TIMEOUT_PERCENT: u32 = 250;

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    static AROUND: Cell<Option<Around>> = const { Cell::new(None) };
}

/// From now on this thread's Raft nodes draw from the sequence of `seed`; `None` gives them real randomness again.
pub fn seed(seed: Option<u64>) {
    SEED.set(seed);
}

/// What a simulation puts around a task: the result ends when the task has ended, or before, which ends the task.
pub type Around = fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()>;

/// From now on every task that this thread's Raft nodes spawn goes through `around`; `None` leaves tasks as they are.
pub fn around(around: Option<Around>) {
    AROUND.set(around);
}

/// The task with `around` around it, put there at once. If it is ended before its time, nobody gets its result.
fn surrounded<T>(around: Around, task: T) -> impl Future<Output = T::Output> + OptionalSend + 'static
where
    T: Future + OptionalSend + 'static,
    T::Output: OptionalSend + 'static,
{
    let (done, result) = futures::channel::oneshot::channel();
    let task = around(Box::pin(async move { drop(done.send(task.await)) }));
    async move {
        task.await;
        match result.await {
            Ok(output) => output,
            Err(_) => std::future::pending().await,
        }
    }
}

fn next_rng() -> SmallRng {
    match SEED.get() {
        None => SmallRng::seed_from_u64(rand::rng().next_u64()),
        Some(seed) => {
            let mut rng = SmallRng::seed_from_u64(seed);
            SEED.set(Some(rng.next_u64()));
            rng
        }
    }
}

/// tokio with seedable randomness.
#[derive(Debug)]
pub struct SeamRuntime(TokioRuntime);

impl AsyncRuntime for SeamRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match AROUND.get() {
            None => TokioRuntime::spawn(future),
            Some(around) => TokioRuntime::spawn(surrounded(around, future)),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration * TIMEOUT_PERCENT / 100, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        next_rng()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        TokioRuntime::spawn_blocking(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_longer_than_the_interval_between_two_heartbeats() {
        let after = |ms| tokio::time::sleep(Duration::from_millis(ms));
        assert!(SeamRuntime::timeout(Duration::from_millis(60), after(140)).await.is_ok());
        assert!(SeamRuntime::timeout(Duration::from_millis(60), after(160)).await.is_err());
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let draw = || {
            seed(Some(7));
            let drawn: Vec<u64> = (0..4).map(|_| SeamRuntime::thread_rng().next_u64()).collect();
            seed(None);
            drawn
        };
        assert_eq!(draw(), draw());
        assert!(draw().windows(2).all(|pair| pair[0] != pair[1]));
    }
}
