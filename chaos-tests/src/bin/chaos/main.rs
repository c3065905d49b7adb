//! `steersman-chaos`: real clusters under real faults, judged by what was seen.
//!
//! What always holds: nothing is claimed here that was not judged by `steersman-evidence`.

fn main() {}
