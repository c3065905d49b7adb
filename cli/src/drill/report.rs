//! What a drill reports: tables for the terminal, JSON for scripts, files for those who want to be shown.
//!
//! What always holds: times in the timeline count from the fault; JSON carries µs and stable words.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use steersman_evidence::report::svg::time;
use steersman_evidence::{Finding, summary, write_record};

use super::course::{Drilled, Result};
use super::measure::{Latency, Milestone, Quantiles};
use super::page;
use crate::context::{Ctx, Output};
use crate::exit::{Failure, Outcome};
use crate::table::{Row, col, pretty, render};

/// Prints all of it.
///
/// # Errors
/// When nobody reads.
pub fn print(ctx: &Ctx, drills: &[Drilled]) -> Outcome {
    match ctx.output {
        Output::Json => ctx.print(pretty(&all_json(drills))),
        Output::Jsonl => drills.iter().try_for_each(|drilled| ctx.print(json_of(drilled).to_string())),
        Output::Id => drills.iter().try_for_each(|drilled| ctx.print(drilled.result.word())),
        Output::Table | Output::Wide => drills.iter().try_for_each(|drilled| ctx.print(text(ctx, drilled))),
    }
}

/// µs after the fault, with a sign.
pub fn after_fault(at_us: u64, struck_us: u64) -> String {
    let sign = if at_us >= struck_us { '+' } else { '-' };
    match at_us.abs_diff(struck_us) {
        us if us < 1_000_000 => format!("{sign}{}", time(us)),
        // A failover's last milestones are ms apart, also when its first ones took seconds.
        us => format!("{sign}{:.3} s", us as f64 / 1e6),
    }
}

fn text(ctx: &Ctx, drilled: &Drilled) -> String {
    let style = if drilled.result == Result::Passed { "32;1" } else { "31;1" };
    let word = ctx.paint(&drilled.result.word().to_uppercase(), style);
    let mut text = format!("drill {} on {}: {word}\n", drilled.kind, drilled.victim);
    for reason in drilled.result.reasons() {
        text += &format!("  {reason}\n");
    }
    for how in &drilled.how {
        text += &format!("  injected: {how}\n");
    }
    text += &format!("\n{}\n", timeline_text(ctx, drilled));
    text += &format!("\n{}\n", checks_text(ctx, drilled));
    text += &format!("\n{}\n", latency_text(ctx, drilled));
    for (error, count) in &drilled.figures.errors {
        text += &format!("\nerror {error}: {count} times");
    }
    let checkers = summary(&drilled.verdicts);
    text += &format!("\ncheckers over the history: {}\n", checkers.lines().last().unwrap_or_default());
    for verdict in drilled.verdicts.iter().filter(|verdict| verdict.is_bad()) {
        if let Finding::Bad(lines) = &verdict.finding {
            text += &format!("  {}: {}\n", verdict.checker, lines.first().map_or("", String::as_str));
        }
    }
    text
}

fn timeline_text(ctx: &Ctx, drilled: &Drilled) -> String {
    let Some(struck_us) = drilled.moments.struck_us else { return "nothing was broken".to_owned() };
    let row = |milestone: &Milestone| {
        let cells = vec![after_fault(milestone.at_us, struck_us), milestone.what.clone(), milestone.source.clone()];
        Row { id: String::new(), cells, json: Value::Null }
    };
    let rows: Vec<Row> = drilled.timeline.iter().map(row).collect();
    render(ctx, &[col("AFTER THE FAULT").right(), col("WHAT"), col("KNOWN BY")], &rows)
}

fn checks_text(ctx: &Ctx, drilled: &Drilled) -> String {
    let row = |check: &super::limits::Check| {
        let verdict = if check.passed() { ctx.paint("ok", "32") } else { ctx.paint("OVER", "31;1") };
        let cells = vec![check.what.to_owned(), check.value_text(), check.limit_text(), verdict];
        Row { id: String::new(), cells, json: Value::Null }
    };
    let rows: Vec<Row> = drilled.checks.iter().map(row).collect();
    render(ctx, &[col("FIGURE"), col("SEEN").right(), col("LIMIT").right(), col("")], &rows)
}

fn latency_text(ctx: &Ctx, drilled: &Drilled) -> String {
    let figures = &drilled.figures;
    let rows: Vec<Row> = stretches(figures)
        .into_iter()
        .map(|(name, latency)| {
            let mut cells = vec![name.to_owned()];
            cells.extend(latency_cells(latency));
            Row { id: String::new(), cells, json: Value::Null }
        })
        .collect();
    let columns = [
        col("LATENCY"),
        col("SUBMITS").right(),
        col("ACK P50").right(),
        col("ACK P99").right(),
        col("FINISHED P50").right(),
        col("FINISHED P99").right(),
    ];
    render(ctx, &columns, &rows)
}

/// The three stretches with their names.
pub fn stretches(figures: &super::measure::Figures) -> [(&'static str, &Latency); 3] {
    [("before the fault", &figures.before), ("until all were back", &figures.during), ("after", &figures.after)]
}

/// Count, and two quantiles of each latency.
pub fn latency_cells(latency: &Latency) -> Vec<String> {
    let cell = |quantiles: &Option<Quantiles>, pick: fn(&Quantiles) -> u64| {
        quantiles.as_ref().map_or_else(|| "-".to_owned(), |quantiles| time(pick(quantiles)))
    };
    vec![
        latency.ack.as_ref().map_or(0, |ack| ack.count).to_string(),
        cell(&latency.ack, |q| q.p50_us),
        cell(&latency.ack, |q| q.p99_us),
        cell(&latency.whole, |q| q.p50_us),
        cell(&latency.whole, |q| q.p99_us),
    ]
}

fn all_json(drills: &[Drilled]) -> Value {
    let passed = drills.iter().all(|drilled| drilled.result == Result::Passed);
    json!({"passed": passed, "drills": drills.iter().map(json_of).collect::<Vec<_>>()})
}

fn quantiles_json(quantiles: &Option<Quantiles>) -> Value {
    let Some(q) = quantiles else { return Value::Null };
    json!({"count": q.count, "p50_us": q.p50_us, "p99_us": q.p99_us, "max_us": q.max_us})
}

fn json_of(drilled: &Drilled) -> Value {
    let (figures, moments) = (&drilled.figures, &drilled.moments);
    let struck_us = moments.struck_us.unwrap_or(0);
    let relative = |at_us: u64| i64::try_from(at_us).unwrap_or(i64::MAX) - i64::try_from(struck_us).unwrap_or(0);
    let line = drilled.timeline.iter().map(|milestone| {
        json!({
            "after_fault_us": relative(milestone.at_us), "name": milestone.name, "what": milestone.what,
            "source": milestone.source,
        })
    });
    let latency =
        |latency: &Latency| json!({"ack": quantiles_json(&latency.ack), "finished": quantiles_json(&latency.whole)});
    let verdicts = drilled
        .verdicts
        .iter()
        .map(|verdict| json!({"checker": verdict.checker, "finding": verdict.finding, "examined": verdict.examined}));
    let elected = figures.elected.iter().map(|(term, master)| json!({"term": term, "master": master}));
    json!({
        "drill": drilled.kind.name(),
        "victim": drilled.victim,
        "injected": drilled.how,
        "result": drilled.result.word(),
        "reasons": drilled.result.reasons(),
        "began_wall_ms": moments.began_wall_ms,
        "fault_lasted_us": moments.struck_us.zip(moments.healed_us).map(|(from, to)| to.saturating_sub(from)),
        "acknowledged": figures.acknowledged,
        "lost": figures.lost,
        "unfinished": figures.unfinished,
        "false_lost": figures.false_lost,
        "errors": figures.errors,
        "elected": elected.collect::<Vec<_>>(),
        "checks": drilled.checks.iter().map(super::limits::Check::json).collect::<Vec<_>>(),
        "latency": {
            "before": latency(&figures.before), "during": latency(&figures.during), "after": latency(&figures.after),
        },
        "timeline": line.collect::<Vec<_>>(),
        "verdicts": verdicts.collect::<Vec<_>>(),
    })
}

/// Writes the page, the JSON, and a history for each drill. Returns the page's path.
///
/// # Errors
/// When a file cannot be written.
pub fn write(dir: &Path, drills: &[Drilled]) -> Outcome<PathBuf> {
    let cannot = |path: &Path, error: std::io::Error| {
        Failure::local(format!("cannot write {}: {error}", path.display()), "use another --report")
    };
    fs::create_dir_all(dir).map_err(|error| cannot(dir, error))?;
    for drilled in drills {
        let path = dir.join(format!("{}.jsonl", drilled.kind));
        write_history(&path, drilled).map_err(|error| cannot(&path, error))?;
    }
    let json = dir.join("drill.json");
    fs::write(&json, pretty(&all_json(drills)) + "\n").map_err(|error| cannot(&json, error))?;
    let html = dir.join("drill.html");
    fs::write(&html, page::render(drills)).map_err(|error| cannot(&html, error))?;
    Ok(html)
}

fn write_history(path: &Path, drilled: &Drilled) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    for record in &drilled.seen.records {
        write_record(&mut file, record)?;
    }
    file.flush()
}
