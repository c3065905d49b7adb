//! How a checker answers.

use serde::{Deserialize, Serialize};

/// What one checker says of one history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The checker's name, in kebab case: `linearizable`, `one-outcome`, `event-stream`, …
    pub checker: String,
    /// Good, bad or unknown.
    pub finding: Finding,
    /// How many things it looked at: operations, tasks, events, whatever it counts.
    pub examined: u64,
}

/// Good, bad or unknown. A run is good only if every verdict is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "finding", content = "why")]
pub enum Finding {
    /// Nothing wrong was found in enough evidence.
    Good,
    /// These promises were broken, one line (or one drawn prefix) each; never empty.
    Bad(Vec<String>),
    /// Too little was seen to say anything: never reported as passed.
    Unknown(String),
}

impl Verdict {
    /// Good if there are no problems.
    pub fn of(checker: &str, examined: u64, problems: Vec<String>) -> Self {
        let finding = if problems.is_empty() { Finding::Good } else { Finding::Bad(problems) };
        Self { checker: checker.to_owned(), finding, examined }
    }

    /// Whether something is wrong.
    pub fn is_bad(&self) -> bool {
        matches!(self.finding, Finding::Bad(_))
    }
}

/// Whether every verdict is good: the only way in which a run passes. No verdict at all is not good.
pub fn all_good(verdicts: &[Verdict]) -> bool {
    !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.finding == Finding::Good)
}

/// Whether any verdict is bad.
pub fn any_bad(verdicts: &[Verdict]) -> bool {
    verdicts.iter().any(Verdict::is_bad)
}

/// The verdicts as text: one line each, with the findings of the bad ones below them, and one line that sums up.
pub fn summary(verdicts: &[Verdict]) -> String {
    let mut text: String = verdicts.iter().map(told).collect();
    let count = |wanted: fn(&Finding) -> bool| verdicts.iter().filter(|verdict| wanted(&verdict.finding)).count();
    let bad = count(|finding| matches!(finding, Finding::Bad(_)));
    let unknown = count(|finding| matches!(finding, Finding::Unknown(_)));
    let word = match (bad, unknown) {
        _ if verdicts.is_empty() => "UNKNOWN: nothing was checked",
        (0, 0) => "GOOD",
        (0, _) => "UNKNOWN",
        _ => "BAD",
    };
    text.push_str(&format!("{word}: {} good, {bad} bad, {unknown} unknown\n", verdicts.len() - bad - unknown));
    text
}

/// Findings of one verdict that are printed before the rest is only counted: a screen full is read, a flood is not.
const SHOWN_MAX: usize = 20;

fn told(verdict: &Verdict) -> String {
    let Verdict { checker, finding, examined } = verdict;
    match finding {
        Finding::Good if *examined == 0 => format!("good     {checker:<17} nothing to look at\n"),
        Finding::Good => format!("good     {checker:<17} {examined} looked at\n"),
        Finding::Unknown(why) => format!("unknown  {checker:<17} {why}\n"),
        Finding::Bad(lines) => {
            let mut text = format!("BAD      {checker:<17} {} problems in {examined} looked at\n", lines.len());
            for line in lines.iter().take(SHOWN_MAX) {
                line.lines().for_each(|line| text.push_str(&format!("           {line}\n")));
            }
            if lines.len() > SHOWN_MAX {
                text.push_str(&format!("           … and {} more\n", lines.len() - SHOWN_MAX));
            }
            text
        }
    }
}
