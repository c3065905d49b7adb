//! The production masters in simulated worlds, in one thread, from one seed: same seed, same history, byte for byte.

#[cfg(not(tokio_unstable))]
compile_error!("the simulation needs --cfg tokio_unstable (see .cargo/config.toml here): without it nothing repeats");

mod clock;
pub mod fast;
pub mod fleet;
pub mod full;
pub mod machine_clock;
mod panics;
pub mod run;
mod scope;
pub mod sweep;
pub mod timeline;
pub mod weather;
