//! `steersman-sim --seed N`: one simulated run; prints its history. The same seed prints the same history, byte for byte.

use clap::Parser;

/// Runs the production masters, workers and client in a simulated world.
#[derive(Parser)]
struct Args {
    /// Everything is derived from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Moves every wall clock by so many ms; must change nothing but what is shown.
    #[arg(long, default_value_t = 0)]
    wall_shift_ms: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let history = steersman_sim::full::run(args.seed, args.wall_shift_ms)?;
    print!("{history}");
    Ok(())
}
