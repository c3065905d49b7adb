//! The report of a run: verdicts first, then what went wrong, then pictures, then facts.
//!
//! What always holds: it shows the verdicts that it is given and judges nothing itself.

use std::collections::BTreeMap;

use super::page::{Cell, Page, Tone, badge, details, escape, figure, table, verbatim};
use super::svg::{Lane, Span, lanes, time};
use super::timeline::Force;
use super::{plots, timeline};
use crate::bounds::Bounds;
use crate::check::linearizable;
use crate::history::History;
use crate::verdict::{Finding, Verdict, all_good, any_bad};

/// Lines of one bad verdict, and rows of one table, that are shown.
const LINES_MAX: usize = 30;
const ROWS_MAX: usize = 500;

/// What a report shows besides the history.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// A command that makes the same run again.
    pub replay: Option<String>,
    /// Sections of its own, each a heading and HTML from the building blocks.
    pub sections: Vec<(String, String)>,
}

/// The whole file.
pub fn render(history: &History, bounds: &Bounds, verdicts: &[Verdict], extra: &Extra) -> String {
    let run = &history.run;
    let forces = timeline::forces(history);
    let mut page =
        Page::new(&format!("{} run, seed {}", kind(&run.kind), run.seed)).banner(tone(verdicts), &word(verdicts));
    if let Some(replay) = &extra.replay {
        page = page.section("The same run again", &verbatim(replay));
    }
    page = page.section("Verdicts", &verdict_table(verdicts));
    let bad = failures(history, bounds, verdicts);
    if !bad.is_empty() {
        page = page.section("What is wrong", &bad);
    }
    page = page.section("Timeline", &pictures(history, &forces));
    for (heading, html) in &extra.sections {
        page = page.section(heading, html);
    }
    page.section("Faults", &fault_table(&forces))
        .section("Operations", &operation_table(history))
        .section("Facts", &fact_table(history))
        .section("Notes", &notes(history))
        .render()
}

fn kind(kind: &str) -> String {
    match kind {
        "" => "Unnamed".to_owned(),
        "sim" => "Simulation".to_owned(),
        "fast" => "Fast simulation".to_owned(),
        "chaos" => "Chaos".to_owned(),
        "drill" => "Drill".to_owned(),
        other => other.to_owned(),
    }
}

fn tone(verdicts: &[Verdict]) -> Tone {
    match (any_bad(verdicts), all_good(verdicts)) {
        (true, _) => Tone::Bad,
        (_, true) => Tone::Good,
        _ => Tone::Unknown,
    }
}

fn word(verdicts: &[Verdict]) -> String {
    let names = |wanted: fn(&Finding) -> bool| {
        let names: Vec<&str> = verdicts.iter().filter(|it| wanted(&it.finding)).map(|it| it.checker.as_str()).collect();
        names.join(", ")
    };
    match tone(verdicts) {
        Tone::Bad => format!("Bad: {}", names(|finding| matches!(finding, Finding::Bad(_)))),
        Tone::Good => format!("Good: all {} verdicts", verdicts.len()),
        _ => format!("Unknown, so not passed: {}", names(|finding| matches!(finding, Finding::Unknown(_)))),
    }
}

fn verdict_table(verdicts: &[Verdict]) -> String {
    let row = |verdict: &Verdict| {
        let (tone, word, why) = match &verdict.finding {
            Finding::Good if verdict.examined == 0 => (Tone::Plain, "good", "nothing to look at".to_owned()),
            Finding::Good => (Tone::Good, "good", String::new()),
            Finding::Unknown(why) => (Tone::Unknown, "unknown", why.clone()),
            Finding::Bad(lines) => {
                (Tone::Bad, "bad", lines.first().and_then(|line| line.lines().next()).unwrap_or("").to_owned())
            }
        };
        vec![Cell::text(&verdict.checker), Cell::badge(tone, word), Cell::number(verdict.examined), Cell::text(why)]
    };
    let mut order: Vec<&Verdict> = verdicts.iter().collect();
    order.sort_by_key(|verdict| match verdict.finding {
        Finding::Bad(_) => 0,
        Finding::Unknown(_) => 1,
        Finding::Good => 2,
    });
    table(&["checker", "verdict", "looked at", "why"], &order.into_iter().map(row).collect::<Vec<_>>())
}

fn failures(history: &History, bounds: &Bounds, verdicts: &[Verdict]) -> String {
    let mut html = String::new();
    for verdict in verdicts {
        let Finding::Bad(lines) = &verdict.finding else { continue };
        html.push_str(&format!("<h3>{} {}</h3>", escape(&verdict.checker), badge(Tone::Bad, "bad")));
        if verdict.checker == "linearizable" {
            for drawing in linearizable::drawings(history, bounds) {
                let caption =
                    format!("{}. Operations stand in the order of their times; distances mean nothing.", drawing.title);
                html.push_str(&figure(&drawing.svg(), &caption));
            }
        }
        let shown: Vec<&str> = lines.iter().take(LINES_MAX).map(String::as_str).collect();
        let rest = lines.len().saturating_sub(LINES_MAX);
        let more = if rest > 0 { format!("\n… and {rest} more") } else { String::new() };
        html.push_str(&verbatim(&(shown.join("\n") + &more)));
    }
    html
}

fn pictures(history: &History, forces: &[Force]) -> String {
    let (span, bands) = (Span::new(0, history.end_us), timeline::bands(forces));
    let bucket = plots::bucket(span);
    let mut html = figure(
        &plots::latency(history, span, &bands),
        &format!("Latency of successful operations, per {bucket}, powers of ten. Shaded: faults in force."),
    );
    html.push_str(&figure(
        &plots::throughput(history, span, &bands),
        &format!("Operations that ended, per {bucket}. Those whose end nobody saw count where they began."),
    ));
    let mut drawn = |all: &[Lane], caption: &str| {
        if !all.is_empty() {
            html.push_str(&figure(&lanes(span, all, &[]), caption));
        }
    };
    drawn(
        &timeline::reigns(history),
        "Who led, and in which term: from when it was first seen until a newer term was.",
    );
    drawn(&timeline::faults(forces), "Faults by class.");
    drawn(&timeline::workers(history), "Workers: when they could not reach a majority, and what the log said of them.");
    html
}

fn fault_table(forces: &[Force]) -> String {
    let row = |force: &Force| {
        let state = match (&force.skipped, force.to_us) {
            (Some(_), _) => Cell::badge(Tone::Unknown, "skipped"),
            (None, Some(_)) => Cell::text("healed"),
            (None, None) => Cell::text("a moment, or not healed"),
        };
        let lasted = force.to_us.map_or(String::new(), |to_us| time(to_us - force.from_us));
        vec![
            Cell::text(&force.class),
            Cell::text(&force.target),
            Cell::number(time(force.from_us)),
            Cell::number(lasted),
            state,
            Cell::text(force.skipped.clone().unwrap_or_default()),
        ]
    };
    let rows: Vec<_> = forces.iter().take(ROWS_MAX).map(row).collect();
    let all = table(&["class", "target", "from", "lasted", "", "why skipped"], &rows);
    if forces.len() > 20 { details(&format!("{} faults", forces.len()), &all) } else { all }
}

fn operation_table(history: &History) -> String {
    let mut counts: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for op in &history.ops {
        let count = counts.entry(op.kind()).or_default();
        count[if op.answer().is_some() {
            0
        } else if op.failed() {
            1
        } else {
            2
        }] += 1;
    }
    let mut rows = Vec::new();
    for (kind, count) in counts {
        let numbers = count.into_iter().chain([count.iter().sum()]).map(Cell::number);
        rows.push([Cell::text(kind)].into_iter().chain(numbers).collect());
    }
    table(&["kind", "ok", "fail", "unknown", "all"], &rows)
}

fn fact_table(history: &History) -> String {
    let run = &history.run;
    let mut facts: Vec<(String, String)> = vec![
        ("version".into(), run.version.clone()),
        ("began (UTC)".into(), if run.began_wall_ms > 0 { date(run.began_wall_ms) } else { String::new() }),
        ("lasted".into(), time(history.end_us)),
        ("masters, workers".into(), format!("{}, {}", run.masters, run.workers)),
        ("operations".into(), history.ops.len().to_string()),
        ("entries delivered to followers of events".into(), history.events.len().to_string()),
        ("attempts logged by workers".into(), history.intervals.len().to_string()),
        ("longest time without a successful write".into(), silence(history)),
        ("faults wanted".into(), run.faults_wanted.join(", ")),
    ];
    facts.extend(run.facts.iter().map(|(name, value)| (name.clone(), value.clone())));
    facts.retain(|(_, value)| !value.is_empty());
    let rows: Vec<_> = facts.into_iter().map(|(name, value)| vec![Cell::text(name), Cell::text(value)]).collect();
    table(&["", ""], &rows)
}

/// The longest stretch between two successful writes, and where it was.
fn silence(history: &History) -> String {
    let writes = history.ops.iter().filter(|op| op.is_write() && op.answer().is_some());
    let mut done: Vec<u64> = writes.map(|op| op.over_us()).collect();
    done.sort_unstable();
    let longest = done.windows(2).map(|pair| (pair[1] - pair[0], pair[0])).max();
    longest.map_or("fewer than two writes".to_owned(), |(us, from)| format!("{} (from {})", time(us), time(from)))
}

fn notes(history: &History) -> String {
    let row = |note: &crate::record::Note| {
        vec![Cell::number(time(note.at_us)), Cell::text(&note.who), Cell::text(&note.text)]
    };
    let rows: Vec<_> = history.notes.iter().take(ROWS_MAX).map(row).collect();
    details(&format!("{} notes", history.notes.len()), &table(&["at", "who", "what"], &rows))
}

/// Date and time of a Unix time (Howard Hinnant, "chrono-compatible low-level date algorithms": civil_from_days).
fn date(unix_ms: u64) -> String {
    let (days, second) = (unix_ms / 86_400_000, unix_ms / 1_000 % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let moved = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * moved + 2) / 5 + 1, if moved < 10 { moved + 3 } else { moved - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_right() {
        let told = [0, 951_827_696_000, 1_709_251_199_999, 1_764_000_000_000].map(date);
        assert_eq!(told, ["1970-01-01 00:00:00", "2000-02-29 12:34:56", "2024-02-29 23:59:59", "2025-11-24 16:00:00"]);
    }
}
