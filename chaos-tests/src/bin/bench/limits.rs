//! What the machine can do by itself: the limits that the figures lean on, measured in the same run.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::echo::Bare;
use crate::plan::Plan;
use crate::report::Row;
use crate::say;
use crate::stats::ms;

/// Callers whose bare rate is taken: those of the commit rows.
pub const CALLERS: [usize; 3] = [1, 16, 256];

/// `1 caller`, `16 callers`.
pub fn caller_words(callers: usize) -> String {
    format!("{callers} caller{}", if callers == 1 { "" } else { "s" })
}

/// The limits, each a row.
#[derive(Debug)]
pub struct Limits {
    sync: Row,
    tcp: Row,
    unary: Row,
    unary_rates: [Row; 3],
    spawn_alone: Row,
    spawn_two: Row,
}

/// Takes all of them.
///
/// # Errors
/// If the disk, loopback or `/bin/true` cannot be used.
pub async fn measure(plan: &Plan) -> Result<Limits> {
    say("limits of the machine …");
    let (tries, span, repetitions) = (plan.limit_tries, plan.limit_span, plan.repetitions);
    let bare = Bare::start().await?;
    let rates = move |threads| (0..repetitions).map(move |_| spawn_rate(threads, span)).collect::<Result<Vec<f64>>>();
    Ok(Limits {
        sync: Row::new("fdatasync of a 4 KiB append", "ms", &blocking(move || syncs(tries)).await?)?,
        tcp: Row::new("loopback TCP round trip", "ms", &blocking(move || round_trips(tries)).await?)?,
        unary: Row::new("bare gRPC call alone", "ms", &bare.alone(tries).await?)?,
        unary_rates: bare_rates(&bare, plan).await?,
        spawn_alone: Row::new(
            "spawn and wait `/bin/true`, one by one",
            "per second",
            &blocking(move || rates(1)).await?,
        )?,
        spawn_two: Row::new(
            "spawn and wait `/bin/true`, two at a time",
            "per second",
            &blocking(move || rates(2)).await?,
        )?,
    })
}

async fn bare_rates(bare: &Bare, plan: &Plan) -> Result<[Row; 3]> {
    let mut rows = Vec::new();
    for callers in CALLERS {
        let mut rates = Vec::new();
        for _ in 0..plan.repetitions {
            rates.push(bare.rate(callers, plan.limit_span).await?);
        }
        rows.push(Row::new(format!("bare gRPC calls, {}", caller_words(callers)), "per second", &rates)?);
    }
    rows.try_into().ok().context("a row for each number of callers")
}

impl Limits {
    /// As rows of the report.
    pub fn rows(&self) -> Vec<Row> {
        let [one, few, many] = &self.unary_rates;
        [&self.sync, &self.tcp, &self.unary, one, few, many, &self.spawn_alone, &self.spawn_two].map(Row::clone).into()
    }

    /// The least that a durable round through a leader takes, in ms: the caller's call, one to a follower, one sync.
    pub fn round_ms(&self) -> f64 {
        self.sync.spread.p50 + 2.0 * self.unary.spread.p50
    }

    /// Starting and reaping one process, in ms.
    pub fn spawn_ms(&self) -> f64 {
        1_000.0 / self.spawn_alone.spread.p50
    }

    /// Processes per second, two at a time.
    pub fn spawn_per_s(&self) -> f64 {
        self.spawn_two.spread.p50
    }

    /// Bare calls per second of so many callers, one of [`CALLERS`].
    pub fn calls_per_s(&self, callers: usize) -> f64 {
        let at = CALLERS.iter().position(|some| *some == callers);
        at.map_or(f64::NAN, |at| self.unary_rates[at].spread.p50)
    }
}

/// Off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// On the disk that the clusters live on.
fn syncs(tries: usize) -> Result<Vec<f64>> {
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
    std::fs::create_dir_all(&runs)?;
    let folder = tempfile::tempdir_in(runs)?;
    let mut file = File::create(folder.path().join("append"))?;
    let page = [7_u8; 4096];
    let one = |_| {
        let began = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        Ok(ms(began.elapsed()))
    };
    (0..tries).map(one).collect()
}

fn round_trips(tries: usize) -> Result<Vec<f64>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    let (mut peer, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    peer.set_nodelay(true)?;
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        while peer.read_exact(&mut byte).and_then(|()| peer.write_all(&byte)).is_ok() {}
    });
    let mut byte = [1];
    let one = |_| {
        let began = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        Ok(ms(began.elapsed()))
    };
    let taken: Result<Vec<f64>> = (0..tries).map(one).collect();
    drop(stream);
    echo.join().ok().context("the echo thread panicked")?;
    taken
}

/// Processes per second that `threads` threads start and reap.
fn spawn_rate(threads: usize, span: Duration) -> Result<f64> {
    let began = Instant::now();
    let one = || {
        let mut count = 0_u32;
        while began.elapsed() < span {
            Command::new("/bin/true").status().context("cannot run /bin/true")?;
            count += 1;
        }
        anyhow::Ok(count)
    };
    let counts: Result<Vec<u32>> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|thread| thread.join().ok().context("a thread panicked")?).collect()
    });
    Ok(f64::from(counts?.iter().sum::<u32>()) / began.elapsed().as_secs_f64())
}
