//! A bad prefix, drawn: one line per operation, with a bar from its invocation to its return.
//!
//! What always holds: places stand for the order of times and not for their distances, so that short operations are seen too.

use crate::report::svg::{self, time};

/// Columns of a drawing in text.
const COLUMNS: usize = 60;

/// Operations that no order explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawing {
    /// What it is about.
    pub title: String,
    /// In order of invocation.
    pub rows: Vec<Row>,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Who asked what, and the answer.
    pub label: String,
    /// When it was invoked, in µs.
    pub from_us: u64,
    /// When it returned; [`u64::MAX`] if its outcome is unknown.
    pub to_us: u64,
    /// The one that can't be explained.
    pub culprit: bool,
}

impl Drawing {
    /// As text.
    pub fn text(&self) -> String {
        let places = self.places();
        let longest = self.rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
        let mut text = self.title.clone();
        for (row, (from, to)) in self.rows.iter().zip(&places) {
            let bar: String = (0..=COLUMNS).map(|at| letter(at, *from, *to)).collect();
            let culprit = if row.culprit { "  <- no order explains this" } else { "" };
            let pad = longest - row.label.chars().count();
            text.push_str(&format!("\n  {}{} {}{culprit}", row.label, " ".repeat(pad), bar.trim_end()));
        }
        text
    }

    /// As a drawing for a report.
    pub fn svg(&self) -> String {
        let share = |place: usize| place as f64 / COLUMNS as f64;
        let drawn = self.rows.iter().zip(self.places()).map(|(row, (from, to))| {
            let colour = match (row.culprit, to) {
                (true, _) => "bad",
                (false, None) => "unknown",
                (false, Some(_)) => "s1",
            };
            let tip = match row.to_us {
                u64::MAX => format!("from {}, outcome unknown", time(row.from_us)),
                to_us => format!("{} to {}", time(row.from_us), time(to_us)),
            };
            svg::Row { label: row.label.clone(), tip, from: share(from), to: to.map(share), colour }
        });
        svg::rows(&drawn.collect::<Vec<_>>())
    }

    /// Columns of each row: where it begins, and where it ends unless it is open.
    fn places(&self) -> Vec<(usize, Option<usize>)> {
        let mut times: Vec<u64> = self.rows.iter().flat_map(|row| [row.from_us, row.to_us]).collect();
        times.sort_unstable();
        times.dedup();
        let last = times.len().max(2) - 1;
        let place = |at_us: u64| times.partition_point(|time| *time < at_us) * (COLUMNS - 2) / last;
        let open = |to_us: u64| (to_us != u64::MAX).then(|| place(to_us));
        self.rows.iter().map(|row| (place(row.from_us), open(row.to_us))).collect()
    }
}

fn letter(at: usize, from: usize, to: Option<usize>) -> char {
    match to {
        _ if at < from => ' ',
        Some(to) if from == to && at == from => '│',
        _ if at == from => '├',
        Some(to) if at == to => '┤',
        Some(to) if at > to => ' ',
        Some(_) => '─',
        None if at > COLUMNS - 3 => '·',
        None => '─',
    }
}
