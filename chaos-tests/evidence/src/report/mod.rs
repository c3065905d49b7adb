//! Reports: one self-contained HTML file, without a script and without the network, readable in light and dark.
//!
//! What always holds: everything that comes from a history is escaped; [`page`] and [`svg`] are building blocks that know
//! nothing of histories, so that other reports (drills) look the same; [`plots`] and [`timeline`] draw any history.

pub mod page;
pub mod plots;
mod run;
pub mod svg;
pub mod timeline;

pub use run::{Extra, render};
