//! Real masters and workers on real disks, and everything that happens to them. Each test is named for what it shows.
//!
//! What always holds: tests look only from outside and never sleep to wait; every storm ends with the same audit (nothing
//! acknowledged is lost, no task has two accepted outcomes, the history is sound).
#![allow(clippy::unwrap_used)]

mod brake;
mod events;
mod failover;
mod late_reports;
mod membership;
mod reads;
mod requests;
mod restarts;
mod stall;
mod verify;
mod workers;
