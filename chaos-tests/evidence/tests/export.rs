//! What a history looks like outside: EDN for Jepsen, and the report.
//!
//! What always holds: the report is one file that loads nothing and lets nothing from a history become markup.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use steersman_evidence::record::*;
use steersman_evidence::report::{Extra, render};
use steersman_evidence::{Bounds, History, check, edn};

fn exported(records: Vec<Record>) -> Vec<String> {
    let mut bytes = Vec::new();
    edn::write(&History::from_records(records), &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn edn_says_what_jepsen_expects() {
    let lines = exported(good());
    assert_eq!((lines.first().unwrap().as_str(), lines.last().unwrap().as_str()), ("[", "]"));
    assert_eq!(lines.len(), 2 + 2 * 15);
    assert_eq!(
        lines[3],
        "{:type :invoke, :f :submit, :value {:request \"r1\", :count 3}, :process 1, :time 9900000000, :index 2}"
    );
    assert_eq!(
        lines[4],
        "{:type :ok, :f :submit, :value {:request \"r1\", :first 1, :count 3, :log-index 10}, :process 1, \
         :time 10100000000, :index 3}"
    );
    let read = lines.iter().find(|line| line.contains(":ok, :f :read,")).unwrap();
    assert!(read.contains(":value [1 {:state :running, :attempts [[1 1 false]]} 11]"), "{read}");
    let mode = lines.iter().find(|line| line.contains(":ok, :f :set-mode")).unwrap();
    assert!(mode.contains(":worker \"w2\", :mode :drain, :log-index 21}"), "{mode}");
    assert!(lines.iter().any(|line| line.contains(":type :fail") && line.contains(":error \"STM-0000\"")));
}

#[test]
fn a_process_ends_with_an_unknown_outcome() {
    let mut records = good();
    records.extend([call(50, 1, 24_000, read(1)), call(51, 2, 24_100, submit("a\"b\\", 1))]);
    let lines = exported(records);
    // Process 1 timed out in operation 8; five processes take the numbers 0 to 5, so it goes on as 7.
    assert!(lines.iter().any(|line| line.contains(":invoke, :f :read, :value [1 nil], :process 7,")), "{lines:#?}");
    let open: Vec<&String> = lines.iter().filter(|line| line.contains(":type :info")).collect();
    assert_eq!(open.len(), 3);
    assert!(open[2].contains("\"a\\\"b\\\\\""), "{open:?}");
}

#[test]
fn the_report_is_whole_and_escaped() {
    let mut records = good();
    let evil = "<script>alert('x')</script>";
    records.push(Record::Note(Note { at_us: 1, who: evil.into(), text: evil.into() }));
    let phase = Phase::Skipped { why: evil.into() };
    records.push(Record::Fault(Fault { at_us: 5, class: evil.into(), target: evil.into(), phase }));
    records.push(Record::Fault(Fault { at_us: 5, class: evil.into(), target: evil.into(), phase: Phase::Began }));
    records.extend([call(50, 6, 17_400, Call::Read { task: 2, stale: false })]);
    records.push(ok(50, 17_500, task(TaskState::Retrying, &[(2, 2)], 13)));
    records.extend([call(51, 6, 17_600, mode(evil, evil, evil)), fail(51, 17_700)]);
    let history = History::from_records(records);
    let verdicts = check(&history, &Bounds::none());
    let extra = Extra { replay: Some(format!("make {evil}")), sections: Vec::new() };
    let html = render(&history, &Bounds::none(), &verdicts, &extra);
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"));
    assert!(!html.contains("<script"), "escaped");
    for word in ["http:", "https:", "src=", "url(", "@import", "NaN", "inf\""] {
        assert!(!html.contains(word), "{word}");
    }
    for part in
        ["Bad: linearizable", "no order of these operations", "term 2", "kill w2", "p95", "unknown", "not reachable"]
    {
        assert!(html.contains(part), "{part}");
    }
    let balanced = |tag: &str| html.matches(&format!("<{tag}")).count() == html.matches(&format!("</{tag}>")).count();
    for tag in ["svg", "section", "table", "figure", "details", "text", "title"] {
        assert!(balanced(tag), "{tag}");
    }
}

#[test]
fn an_empty_history_has_a_report_too() {
    let history = History::default();
    let verdicts = check(&history, &Bounds::none());
    let html = render(&history, &Bounds::none(), &verdicts, &Extra::default());
    assert!(html.contains("fewer than two writes") && !html.contains("NaN"));
}
