//! Swim-lanes of a history: who led, which faults were in force, what became of the workers.
//!
//! What always holds: a reign is drawn from when it was first seen until another one was; a fault without an end is drawn as a
//! moment, for many faults are only moments.

use std::collections::BTreeMap;

use super::svg::{Band, Bar, Lane, Mark, Span};
use crate::history::History;
use crate::record::{Event, Phase};

/// Workers that get a lane.
const WORKERS_MAX: usize = 16;
const COLOURS: [&str; 6] = ["s1", "s2", "s3", "s4", "s5", "s6"];

/// A fault from beginning to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Force {
    /// Class.
    pub class: String,
    /// On what.
    pub target: String,
    /// When it began, in µs.
    pub from_us: u64,
    /// When it was healed, in µs.
    pub to_us: Option<u64>,
    /// Why it was not installed.
    pub skipped: Option<String>,
}

/// Faults, each beginning joined to its end.
pub fn forces(history: &History) -> Vec<Force> {
    let mut out: Vec<Force> = Vec::new();
    for fault in &history.faults {
        let new = |skipped: Option<String>| Force {
            class: fault.class.clone(),
            target: fault.target.clone(),
            from_us: fault.at_us,
            to_us: None,
            skipped,
        };
        match &fault.phase {
            Phase::Began => out.push(new(None)),
            Phase::Skipped { why } => out.push(new(Some(why.clone()))),
            Phase::Ended => {
                let open = |it: &&mut Force| (&it.class, &it.target) == (&fault.class, &fault.target);
                let open = out.iter_mut().rev().filter(|it| it.to_us.is_none() && it.skipped.is_none()).find(open);
                if let Some(force) = open {
                    force.to_us = Some(fault.at_us);
                }
            }
        }
    }
    out
}

/// Faults as shading behind plots.
pub fn bands(forces: &[Force]) -> Vec<Band> {
    let real = forces.iter().filter(|force| force.skipped.is_none());
    let band = |force: &Force| Band {
        span: Span::new(force.from_us, force.to_us.unwrap_or(force.from_us)),
        label: format!("{} {}", force.class, force.target),
    };
    real.map(band).collect()
}

/// A lane for each master: its reigns. Terms are in the bars.
pub fn reigns(history: &History) -> Vec<Lane> {
    let mut seen: Vec<(u64, u64, u64)> = history.leads.iter().map(|it| (it.at_us, it.term, it.master)).collect();
    for batch in &history.events {
        seen.extend(batch.events.iter().filter_map(|event| match event {
            Event::Leader { term, master } => Some((batch.at_us, *term, *master)),
            _ => None,
        }));
    }
    // Each term from when it was first seen; one that is told late does not end a newer one.
    seen.sort_unstable_by_key(|(at_us, term, _)| (*term, *at_us));
    seen.dedup_by_key(|it| (it.1, it.2));
    let mut lanes: BTreeMap<u64, Lane> = BTreeMap::new();
    for master in 1..=history.run.masters.min(64) {
        lanes.insert(master, Lane { name: format!("master {master}"), ..Lane::default() });
    }
    for (at, (from_us, term, master)) in seen.iter().enumerate() {
        let next = seen[at + 1..].iter().find(|later| later.1 > *term).map_or(history.end_us, |later| later.0);
        let lane = lanes.entry(*master).or_insert_with(|| Lane { name: format!("master {master}"), ..Lane::default() });
        let colour = COLOURS[(*master as usize).wrapping_sub(1) % COLOURS.len()];
        let span = Span::new(*from_us, next.max(*from_us));
        lane.bars.push(Bar { span, label: format!("term {term}"), colour, open: false });
    }
    lanes.into_values().collect()
}

/// A lane for each class of fault.
pub fn faults(forces: &[Force]) -> Vec<Lane> {
    let mut lanes: BTreeMap<&str, Lane> = BTreeMap::new();
    for force in forces.iter().filter(|force| force.skipped.is_none()) {
        let lane = lanes.entry(&force.class).or_insert_with(|| Lane { name: force.class.clone(), ..Lane::default() });
        match force.to_us {
            Some(to_us) => {
                let span = Span::new(force.from_us, to_us);
                lane.bars.push(Bar { span, label: force.target.clone(), colour: "bad", open: false });
            }
            None => lane.marks.push(Mark { at_us: force.from_us, label: force.target.clone(), colour: "bad" }),
        }
    }
    lanes.into_values().collect()
}

/// A lane for each worker: when it was cut off, and what the log said of it.
pub fn workers(history: &History) -> Vec<Lane> {
    let mut lanes: BTreeMap<String, Lane> = BTreeMap::new();
    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    for it in &history.reach {
        let lane = lane_of(&mut lanes, &it.worker);
        match lane.bars.last_mut().filter(|bar| bar.open) {
            Some(bar) if it.reachable => {
                (bar.span, bar.open) = (Span::new(bar.span.from_us, it.at_us), false);
            }
            None if !it.reachable => {
                let span = Span::new(it.at_us, history.end_us);
                lane.bars.push(Bar { span, label: "not reachable".to_owned(), colour: "plain", open: true });
            }
            _ => {}
        }
    }
    let mut told = std::collections::BTreeSet::new();
    for batch in &history.events {
        for event in &batch.events {
            let Event::Worker { worker, name, change } = event else { continue };
            if !name.is_empty() {
                names.insert(*worker, name.clone());
            }
            let Some(colour) = colour_of(change).filter(|_| told.insert((batch.index, *worker, change))) else {
                continue;
            };
            let name = names.get(worker).cloned().unwrap_or_else(|| format!("worker {worker}"));
            let mark = Mark { at_us: batch.at_us, label: change.clone(), colour };
            lane_of(&mut lanes, &name).marks.push(mark);
        }
    }
    lanes.into_values().take(WORKERS_MAX).collect()
}

fn lane_of<'a>(lanes: &'a mut BTreeMap<String, Lane>, name: &str) -> &'a mut Lane {
    lanes.entry(name.to_owned()).or_insert_with(|| Lane { name: name.to_owned(), ..Lane::default() })
}

/// Changes that are worth a mark.
fn colour_of(change: &str) -> Option<&'static str> {
    match change {
        "registered" => Some("good"),
        "lost" | "evicted" => Some("bad"),
        "left" | "draining" | "maintenance" | "active" => Some("plain"),
        _ => None,
    }
}
