//! The page of a report: one file with everything in it, from the building blocks that all reports share.
//!
//! What always holds: it loads nothing; times count from the drill's beginning in plots and from the fault in tables.

use std::collections::BTreeMap;

use steersman_evidence::Finding;
use steersman_evidence::report::page::{Cell, Page, Tone, badge, details, figure, table, verbatim};
use steersman_evidence::report::svg::{Band, Bar, Lane, Line, Mark, Plot, Scale, Span, Stack, lanes, time};

use super::course::{Drilled, Result};
use super::history::Sighting;
use super::limits::Check;
use super::measure::{Milestone, submits};
use super::report::{after_fault, latency_cells, stretches};
use crate::units;

/// The picture of the failover shows at least this much around the fault, in µs.
const CLOSE_BEFORE_US: u64 = 150_000;
const CLOSE_AFTER_US: u64 = 400_000;
/// It is not stretched over more than this, in µs: a fault that lasts longer shows in the picture of the whole.
const CLOSE_MAX_US: u64 = 15_000_000;
/// Between two submits that a line of latencies joins.
const PAUSE_US: u64 = 400_000;
/// Columns of the throughput.
const COLUMN_US: u64 = 100_000;

/// The whole file.
pub fn render(drills: &[Drilled]) -> String {
    let names: Vec<&str> = drills.iter().map(|drilled| drilled.kind.name()).collect();
    let title = match &names[..] {
        [one] => format!("Drill: {one}"),
        all => format!("{} drills", all.len()),
    };
    let passed = drills.iter().filter(|drilled| drilled.result == Result::Passed).count();
    let tone = if passed == drills.len() { Tone::Good } else { Tone::Bad };
    let page = Page::new(&title).banner(tone, &banner(drills, passed));
    let page = drills.iter().take(1).fold(page, |page, first| {
        page.paragraph(&format!(
            "Begun {} (local time) by steersman {}. All times are of the drill's own monotonic clock.",
            units::local_time(first.moments.began_wall_ms),
            env!("CARGO_PKG_VERSION")
        ))
    });
    let page = if drills.len() > 1 { page.section("Overview", &overview(drills)) } else { page };
    drills.iter().fold(page, |page, drilled| page.section(drilled.kind.name(), &one(drilled))).render()
}

fn banner(drills: &[Drilled], passed: usize) -> String {
    match drills {
        [one] => match one.result.reasons().first() {
            Some(reason) => format!("{}: {reason}", one.result.word()),
            None => format!(
                "passed: {} without an acknowledged write, {} of {} acknowledged submits lost",
                one.figures.gap_us().map_or_else(|| "unknown time".to_owned(), time),
                one.figures.lost,
                one.figures.acknowledged
            ),
        },
        all => format!("{passed} of {} drills passed", all.len()),
    }
}

fn tone(result: &Result) -> Tone {
    match result {
        Result::Passed => Tone::Good,
        Result::Failed(_) => Tone::Bad,
        Result::Unknown(_) | Result::Interrupted => Tone::Unknown,
    }
}

fn overview(drills: &[Drilled]) -> String {
    let row = |drilled: &Drilled| {
        let value = |name: &str| {
            let check = drilled.checks.iter().find(|check| check.name == name);
            Cell::number(check.map_or_else(String::new, Check::value_text))
        };
        vec![
            Cell::text(drilled.kind.name()),
            Cell::badge(tone(&drilled.result), drilled.result.word()),
            Cell::text(&drilled.victim),
            value("gap"),
            value("lost"),
            value("twice"),
            value("reruns"),
            value("false_lost"),
            value("errors"),
            value("recovery"),
        ]
    };
    let head = [
        "drill",
        "result",
        "on",
        "no writes for",
        "lost",
        "started twice",
        "re-run",
        "falsely lost",
        "errors",
        "recovery",
    ];
    table(&head, &drills.iter().map(row).collect::<Vec<_>>())
}

fn one(drilled: &Drilled) -> String {
    let mut html =
        format!("<p>{} on {}</p>", badge(tone(&drilled.result), drilled.result.word()), escape(&drilled.victim));
    html += &list("Why", &drilled.result.reasons());
    html += &list("Injected", &drilled.how);
    if let Some(close) = close_up(drilled) {
        let text = format!(
            "{}: what each master said of itself every 10 ms, every acknowledged write, and the milestones that \
             the new leader reported. The shaded stretch is the fault, as far as it is shown ({} in all).",
            if drilled.kind.moves_office() { "The failover, close up" } else { "What happened" },
            fault_length(drilled)
        );
        html += &figure(&lanes(close, &swim_lanes(drilled, close), &bands(drilled)), &text);
    }
    html += &figure(
        &latencies(drilled),
        "Latency of each submit (until it was acknowledged) and of each probe (until its task was finished), over the whole drill.",
    );
    html += &figure(&throughput(drilled), "Acknowledged submits per 100 ms.");
    html += &timeline(drilled);
    html += &checks(drilled);
    html += &latency_table(drilled);
    html += &verdicts(drilled);
    html
}

fn escape(text: &str) -> String {
    steersman_evidence::report::page::escape(text)
}

fn list(head: &str, lines: &[String]) -> String {
    lines.iter().map(|line| format!("<p><b>{head}:</b> {}</p>", escape(line))).collect()
}

fn fault_length(drilled: &Drilled) -> String {
    let ends = drilled.moments.struck_us.zip(drilled.moments.healed_us);
    ends.map_or_else(|| "never".to_owned(), |(from, to)| time(to.saturating_sub(from)))
}

/// From shortly before the fault to the last milestone that belongs to it.
fn close_up(drilled: &Drilled) -> Option<Span> {
    let struck_us = drilled.moments.struck_us?;
    let aside = ["healed", "whole", "worker", "master_silent", "master_back"];
    let belongs = |name: &str| !drilled.kind.moves_office() || !aside.contains(&name);
    let milestones = drilled.timeline.iter().filter(|milestone| belongs(milestone.name));
    let first = milestones.clone().map(|milestone| milestone.at_us).min().unwrap_or(struck_us);
    let last = milestones.map(|milestone| milestone.at_us).max().unwrap_or(struck_us);
    let last = last.clamp(struck_us, struck_us + CLOSE_MAX_US);
    let length = last - struck_us;
    let from = first.min(struck_us).max(struck_us.saturating_sub(CLOSE_MAX_US));
    // The words of the last milestones need room to their right.
    Some(Span::new(from.saturating_sub(CLOSE_BEFORE_US.max(length / 12)), last + CLOSE_AFTER_US.max(length / 3)))
}

fn whole(drilled: &Drilled) -> Span {
    Span::new(drilled.moments.loaded_us.saturating_sub(100_000), drilled.moments.unloaded_us)
}

fn bands(drilled: &Drilled) -> Vec<Band> {
    let Some(struck_us) = drilled.moments.struck_us else { return Vec::new() };
    let healed_us = drilled.moments.healed_us.unwrap_or(drilled.moments.unloaded_us);
    vec![Band { span: Span::new(struck_us, healed_us), label: format!("{} on {}", drilled.kind, drilled.victim) }]
}

fn swim_lanes(drilled: &Drilled, span: Span) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = drilled.masters.iter().map(|master| master_lane(drilled, *master)).collect();
    lanes.push(writes_lane(drilled, span));
    lanes.extend(milestone_lanes(drilled, span));
    lanes
}

/// What a master said of itself, as bars.
fn master_lane(drilled: &Drilled, master: u64) -> Lane {
    let seen: Vec<&Sighting> = drilled.seen.sightings.iter().filter(|seen| seen.master == master).collect();
    let end_us = drilled.moments.unloaded_us;
    let bar = |(at, sighting): (usize, &&Sighting)| {
        let to_us = seen.get(at + 1).map_or(end_us, |next| next.at_us);
        let colour = match (sighting.role.as_str(), sighting.ready) {
            ("leader", true) => "good",
            ("leader", false) | ("candidate", _) => "unknown",
            ("silent", _) => "bad",
            (_, true) => "s1",
            _ => "plain",
        };
        let term = if sighting.term == 0 { String::new() } else { format!(" · term {}", sighting.term) };
        let ready = if sighting.ready || sighting.role == "silent" { "" } else { " · not ready" };
        let label = format!("{}{term}{ready}", sighting.role);
        Bar { span: Span::new(sighting.at_us, to_us.max(sighting.at_us)), label, colour, open: false }
    };
    Lane { name: format!("master {master}"), bars: seen.iter().enumerate().map(bar).collect(), marks: Vec::new() }
}

/// Stretches in which writes were acknowledged: a pause over 100 ms ends one.
fn writes_lane(drilled: &Drilled, span: Span) -> Lane {
    let mut acks: Vec<u64> = submits(&drilled.seen).into_iter().map(|(_, acked)| acked).collect();
    acks.sort_unstable();
    let mut bars: Vec<Bar> = Vec::new();
    let mut run: Option<(u64, u64, u64)> = None;
    for at in acks.into_iter().chain([u64::MAX]) {
        run = match run {
            Some((from, to, count)) if at.saturating_sub(to) <= COLUMN_US => Some((from, at, count + 1)),
            ended => {
                bars.extend(ended.map(|(from, to, count)| ack_bar(from, to, count)));
                Some((at, at, 1))
            }
        };
    }
    bars.retain(|bar| bar.span.to_us >= span.from_us && bar.span.from_us <= span.to_us);
    Lane { name: "writes".to_owned(), bars, marks: Vec::new() }
}

fn ack_bar(from: u64, to: u64, count: u64) -> Bar {
    Bar { span: Span::new(from, to), label: format!("{count} acknowledged"), colour: "s4", open: false }
}

/// A lane for who knows of the milestones, so that their words have room.
fn milestone_lanes(drilled: &Drilled, span: Span) -> Vec<Lane> {
    let mut by_source: BTreeMap<&str, Vec<&Milestone>> = BTreeMap::new();
    let shown = |milestone: &&Milestone| (span.from_us..=span.to_us).contains(&milestone.at_us);
    for milestone in drilled.timeline.iter().filter(shown) {
        by_source.entry(&milestone.source).or_default().push(milestone);
    }
    let mut lanes = Vec::new();
    for (source, milestones) in by_source {
        // Milestones that are close together go into rows of their own, so that each word can be read.
        let rows = milestones.len().min(if source.starts_with("master") { 9 } else { 4 }).max(1);
        for row in 0..rows {
            let mine = milestones.iter().skip(row).step_by(rows);
            let marks: Vec<Mark> = mine.map(|milestone| mark(milestone, drilled)).collect();
            let name = if row == 0 { format!("{source} tells") } else { String::new() };
            lanes.push(Lane { name, bars: Vec::new(), marks });
        }
    }
    lanes
}

fn mark(milestone: &Milestone, drilled: &Drilled) -> Mark {
    let colour = match milestone.name {
        "fault" => "bad",
        "healed" | "whole" | "first_commit" | "first_ack" => "good",
        "suspicion" => "unknown",
        _ => "s1",
    };
    let at = after_fault(milestone.at_us, drilled.moments.struck_us.unwrap_or(0));
    Mark { at_us: milestone.at_us, label: format!("{at} {}", milestone.what), colour }
}

fn latencies(drilled: &Drilled) -> String {
    let ms = |us: u64| Some(us as f64 / 1e3);
    let mut acks: Vec<(u64, Option<f64>)> =
        submits(&drilled.seen).into_iter().map(|(began, acked)| (began, ms(acked - began))).collect();
    acks.sort_by_key(|point| point.0);
    let probes = drilled.seen.probes.iter();
    let finished: Vec<(u64, Option<f64>)> =
        probes.map(|probe| (probe.began_us, probe.finished_us.and_then(|at| ms(at - probe.began_us)))).collect();
    let line = |name: &str, colour, points| Line { name: name.to_owned(), colour, points: broken(points) };
    let lines = vec![line("submit to acknowledged", "s1", acks), line("submit to finished", "s2", finished)];
    let (span, bands) = (whole(drilled), bands(drilled));
    Plot { span, unit: "ms".to_owned(), scale: Scale::Log, lines, stack: None, bands, height: 150 }.draw()
}

/// Breaks a line where nothing was asked for a while: no answer lies between.
fn broken(points: Vec<(u64, Option<f64>)>) -> Vec<(u64, Option<f64>)> {
    let mut line: Vec<(u64, Option<f64>)> = Vec::new();
    for point in points {
        if let Some(last) = line.last().copied().filter(|last| point.0.saturating_sub(last.0) > PAUSE_US) {
            line.push((last.0 + 1, None));
        }
        line.push(point);
    }
    line
}

fn throughput(drilled: &Drilled) -> String {
    let span = whole(drilled);
    let mut counts: BTreeMap<u64, f64> = BTreeMap::new();
    for (_, acked) in submits(&drilled.seen) {
        *counts.entry(acked / COLUMN_US * COLUMN_US).or_default() += 1.0;
    }
    let columns = counts.into_iter().map(|(at, count)| (at, vec![count])).collect();
    let layers = vec![("acknowledged".to_owned(), "s4")];
    let stack = Some(Stack { layers, width_us: COLUMN_US, columns });
    let (unit, bands) = ("per 100 ms".to_owned(), bands(drilled));
    Plot { span, unit, scale: Scale::Linear, lines: Vec::new(), stack, bands, height: 80 }.draw()
}

fn timeline(drilled: &Drilled) -> String {
    let struck_us = drilled.moments.struck_us.unwrap_or(0);
    let row = |milestone: &Milestone| {
        vec![
            Cell::number(after_fault(milestone.at_us, struck_us)),
            Cell::text(&milestone.what),
            Cell::text(&milestone.source),
        ]
    };
    let rows: Vec<Vec<Cell>> = drilled.timeline.iter().map(row).collect();
    format!("<h3>Timeline</h3>{}", table(&["after the fault", "what", "known by"], &rows))
}

fn checks(drilled: &Drilled) -> String {
    let row = |check: &Check| {
        let verdict = if check.passed() { Cell::badge(Tone::Good, "ok") } else { Cell::badge(Tone::Bad, "over") };
        vec![Cell::text(check.what), Cell::number(check.value_text()), Cell::number(check.limit_text()), verdict]
    };
    let mut html = format!(
        "<h3>Figures and limits</h3>{}",
        table(&["figure", "seen", "limit", ""], &drilled.checks.iter().map(row).collect::<Vec<_>>())
    );
    if !drilled.figures.errors.is_empty() {
        let row = |(error, count): (&String, &u64)| vec![Cell::text(error), Cell::number(count)];
        html += &table(
            &["error that the client saw", "times"],
            &drilled.figures.errors.iter().map(row).collect::<Vec<_>>(),
        );
    }
    html
}

fn latency_table(drilled: &Drilled) -> String {
    let row = |(name, latency): (&'static str, &super::measure::Latency)| {
        let mut cells = vec![Cell::text(name)];
        cells.extend(latency_cells(latency).into_iter().map(Cell::number));
        cells
    };
    let head = ["latency", "submits", "acknowledged p50", "p99", "finished p50", "p99"];
    format!("<h3>Latency</h3>{}", table(&head, &stretches(&drilled.figures).into_iter().map(row).collect::<Vec<_>>()))
}

fn verdicts(drilled: &Drilled) -> String {
    let row = |verdict: &steersman_evidence::Verdict| {
        let (badge, text) = match &verdict.finding {
            Finding::Good if verdict.examined == 0 => (Cell::badge(Tone::Plain, "nothing to see"), String::new()),
            Finding::Good => (Cell::badge(Tone::Good, "good"), String::new()),
            Finding::Bad(lines) => (Cell::badge(Tone::Bad, "bad"), lines.first().cloned().unwrap_or_default()),
            Finding::Unknown(why) => (Cell::badge(Tone::Unknown, "unknown"), why.clone()),
        };
        vec![Cell::text(&verdict.checker), badge, Cell::number(verdict.examined), Cell::text(text)]
    };
    let rows: Vec<Vec<Cell>> = drilled.verdicts.iter().map(row).collect();
    let mut html =
        format!("<h3>Checkers over the history</h3>{}", table(&["checker", "finding", "looked at", ""], &rows));
    for verdict in &drilled.verdicts {
        if let Finding::Bad(lines) = &verdict.finding {
            html += &details(&format!("all that {} found", verdict.checker), &verbatim(&lines.join("\n")));
        }
    }
    html
}
