//! Acknowledged submits per second: one task of 256 bytes in each call, no workers, so that only the commit counts.

use std::time::{Duration, Instant};

use anyhow::Result;
use steersman_chaos_tests::Cluster;
use steersman_client::Client;
use tokio::task::JoinSet;

use crate::bed::{self, Costs, Meter};
use crate::limits::{CALLERS, Limits, caller_words};
use crate::plan::Plan;
use crate::report::Row;
use crate::say;
use crate::stats::ms;

/// The rows: for each number of callers the rate and the time of one call.
///
/// # Errors
/// If a submit fails.
pub async fn measure(plan: &Plan, limits: &Limits) -> Result<Vec<Row>> {
    let mut all = CALLERS.map(Taken::of);
    for _ in 0..plan.repetitions {
        // A blank cluster each time: the third rate is taken over as many tasks as the first one.
        let mut cluster = Cluster::start(bed::settings(0, 1)).await;
        for taken in &mut all {
            taken.take(&mut cluster, plan.commit_span).await?;
        }
    }
    let rows: Result<Vec<[Row; 2]>> = all.iter().map(|taken| taken.rows(limits)).collect();
    Ok(rows?.into_iter().flatten().collect())
}

struct Taken {
    callers: usize,
    rates: Vec<f64>,
    call_ms: Vec<f64>,
    costs: Vec<Costs>,
}

impl Taken {
    fn of(callers: usize) -> Self {
        Self { callers, rates: Vec::new(), call_ms: Vec::new(), costs: Vec::new() }
    }

    async fn take(&mut self, cluster: &mut Cluster, span: Duration) -> Result<()> {
        let client = bed::client(cluster)?;
        // Opens the connection and finds the leader.
        client.submit(bed::submit_of_256()).await?;
        let before = Meter::read(cluster).await?;
        let began = Instant::now();
        let calls = callers(&client, self.callers, span).await?;
        self.rates.push(calls.len() as f64 / began.elapsed().as_secs_f64());
        self.costs.push(Meter::read(cluster).await?.since(&before, calls.len() as f64));
        self.call_ms.extend(calls);
        say(&format!("  {}: {:.0} per second", caller_words(self.callers), self.rates[self.rates.len() - 1]));
        Ok(())
    }

    fn rows(&self, limits: &Limits) -> Result<[Row; 2]> {
        let words = caller_words(self.callers);
        let rate = Row::new(format!("submits, {words}"), "per second", &self.rates)?.costing(bed::mean(&self.costs));
        let call = Row::new(format!("one submit, {words}"), "ms", &self.call_ms)?;
        let round = "a durable round (a sync and two bare calls)";
        Ok(if self.callers == 1 {
            [rate.against(round, 1_000.0 / limits.round_ms()), call.against(round, limits.round_ms())]
        } else {
            let bare = format!("bare gRPC calls, {words}");
            [rate.against(&bare, limits.calls_per_s(self.callers)), call]
        })
    }
}

/// The time of each acknowledged call, in ms.
async fn callers(client: &Client, callers: usize, span: Duration) -> Result<Vec<f64>> {
    let mut all = JoinSet::new();
    for _ in 0..callers {
        all.spawn(calls(client.clone(), span));
    }
    let mut taken = Vec::new();
    while let Some(calls) = all.join_next().await {
        taken.extend(calls??);
    }
    Ok(taken)
}

async fn calls(client: Client, span: Duration) -> Result<Vec<f64>> {
    let (began, groups) = (Instant::now(), bed::submit_of_256());
    let mut taken = Vec::new();
    while began.elapsed() < span {
        let call = Instant::now();
        client.submit(groups.clone()).await?;
        taken.push(ms(call.elapsed()));
    }
    Ok(taken)
}
