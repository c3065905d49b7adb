//! The production masters in simulated worlds, in one thread, from one seed: same seed, same history, byte for byte.

#[cfg(not(tokio_unstable))]
compile_error!("the simulation needs --cfg tokio_unstable (see .cargo/config.toml here): without it nothing repeats");

pub mod fast;
pub mod full;
pub mod machine_clock;
pub mod run;
pub mod sweep;
pub mod timeline;
pub mod weather;
