//! The report as Markdown, and its place in `docs/benchmarks.md`.
//!
//! What always holds: only what stands between a group's markers is replaced, and only for groups that were measured; each
//! block says of which machine, day and commit it is, since blocks may be of different runs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::report::{Report, Row, Section};

/// Where the page is.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md");
const NONE: &str = "–";
const END: &str = "<!-- end of figures -->";
/// Percentiles of fewer values would be the largest value under another name.
const PERCENTILE_OF_MIN: usize = 10;

/// All tables, for the terminal.
pub fn tables(report: &Report) -> String {
    let one = |section: &Section| format!("\n### {}\n\n{}", section.group, figures(section));
    let sections: String = report.sections.iter().map(one).collect();
    format!("{}\n{sections}", taken(report))
}

/// Replaces the blocks of the page.
///
/// # Errors
/// If the page cannot be read or written, or lacks a marker.
pub fn write(report: &Report) -> Result<()> {
    let page = Path::new(PAGE);
    let mut text = std::fs::read_to_string(page).with_context(|| format!("cannot read {PAGE}"))?;
    for section in &report.sections {
        text = with_block(&text, &section.group, &block(report, section))?;
    }
    std::fs::write(page, text).with_context(|| format!("cannot write {PAGE}"))
}

/// The text with a group's block exchanged.
fn with_block(text: &str, group: &str, block: &str) -> Result<String> {
    let begin = format!("<!-- figures: {group} -->");
    ensure!(text.matches(&begin).count() == 1, "{PAGE} needs the marker {begin:?} once");
    let (head, rest) = text.split_once(&begin).context("a marker")?;
    let (_, tail) = rest.split_once(END).with_context(|| format!("{PAGE} lacks {END:?} after {begin:?}"))?;
    Ok(format!("{head}{begin}\n\n{block}\n{END}{tail}"))
}

fn block(report: &Report, section: &Section) -> String {
    format!("{}\n\n{}", taken(report), figures(section))
}

fn taken(report: &Report) -> String {
    let smoke = if report.smoke { "**A smoke run: these figures say nothing about speed.** " } else { "" };
    format!("{smoke}Taken {}.", report.machine.line())
}

fn figures(section: &Section) -> String {
    let mut text = "| | unit | n | min | median | p99 | max | leans on | median / limit |\n".to_owned();
    text += "| --- | --- | --: | --: | --: | --: | --: | --- | --: |\n";
    section.rows.iter().for_each(|row| text += &line(row));
    text + &costs(section)
}

/// A table of what a thousand cost, if any row says so.
fn costs(section: &Section) -> String {
    let rows = || section.rows.iter().filter(|row| !row.costs.is_empty());
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in rows().flat_map(|row| &row.costs) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return String::new();
    }
    let mut text = format!("\n| a thousand of | {} |\n| --- |{}\n", names.join(" | "), " --: |".repeat(names.len()));
    for row in rows() {
        let cost = |name: &&str| {
            row.costs.iter().find(|(known, _)| known == name).map_or(NONE.to_owned(), |(_, v)| number(*v))
        };
        let cells: Vec<String> = names.iter().map(cost).collect();
        let _ = writeln!(text, "| {} | {} |", row.what, cells.join(" | "));
    }
    text
}

fn line(row: &Row) -> String {
    let spread = row.spread;
    let p99 = if spread.n < PERCENTILE_OF_MIN { NONE.to_owned() } else { number(spread.p99) };
    let (of, ratio) = match &row.limit {
        Some(limit) => (format!("{}: {}", limit.of, number(limit.value)), format!("{:.2}", spread.p50 / limit.value)),
        None => (NONE.to_owned(), NONE.to_owned()),
    };
    let [min, median, max] = [spread.min, spread.p50, spread.max].map(number);
    format!("| {} | {} | {} | {min} | {median} | {p99} | {max} | {of} | {ratio} |\n", row.what, row.unit, spread.n)
}

/// Three significant digits below a thousand, whole numbers with commas above.
fn number(value: f64) -> String {
    match value.abs() {
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        size if size < 1_000.0 => format!("{value:.0}"),
        _ => with_commas(value),
    }
}

fn with_commas(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        let left = digits.len() - at;
        if at > 0 && left.is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_have_three_digits_or_commas() {
        let all = [0.0123, 1.234, 12.34, 123.4, 1_234.5, 1_234_567.0, -1_234.0].map(number);
        assert_eq!(all, ["0.012", "1.23", "12.3", "123", "1,234", "1,234,567", "-1,234"]);
    }

    #[test]
    fn only_the_block_between_its_markers_is_exchanged() {
        let page = format!("a\n<!-- figures: x -->\nold\n{END}\nb\n<!-- figures: y -->\nkept\n{END}\nc\n");
        let new = with_block(&page, "x", "new\n").unwrap();
        assert_eq!(new, format!("a\n<!-- figures: x -->\n\nnew\n\n{END}\nb\n<!-- figures: y -->\nkept\n{END}\nc\n"));
        assert!(with_block(&page, "z", "new").is_err());
        assert!(with_block("<!-- figures: x -->\n", "x", "new").is_err());
    }

    #[test]
    fn the_page_has_a_place_for_every_group() {
        let text = std::fs::read_to_string(PAGE).unwrap();
        let groups = <crate::Group as clap::ValueEnum>::value_variants().iter().map(|group| group.name());
        for group in groups.chain(["limits".to_owned()]) {
            with_block(&text, &group, "").unwrap();
        }
    }

    #[test]
    fn a_row_shows_its_limit_and_no_percentile_of_three() {
        let row = Row::new("x", "ms", &[1.0, 2.0, 3.0]).unwrap().against("a sync", 0.5);
        assert_eq!(line(&row), "| x | ms | 3 | 1.00 | 2.00 | – | 3.00 | a sync: 0.500 | 4.00 |\n");
    }
}
