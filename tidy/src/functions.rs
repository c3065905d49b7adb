//! How long functions are: a crude counter, and a ratchet that only ever goes down.
//!
//! A function's length is the number of lines from its `fn` to its closing brace, both included. Median and ninth decile are
//! taken over production code; the longest counts everywhere.

use crate::Finding;
use crate::scan;
use crate::tree::{Source, Tree};

/// The ratchet. Lower a number when the tree has become better; never raise one.
#[derive(Debug, Clone, Copy)]
pub struct Ratchet {
    /// Half of all functions are at most so long.
    pub median: usize,
    /// Nine of ten are.
    pub ninth_decile: usize,
    /// All are, but those of [`EXCUSED`].
    pub longest: usize,
}

/// What holds for this repository.
pub const RATCHET: Ratchet = Ratchet { median: 10, ninth_decile: 35, longest: 70 };

/// Longer functions that have a reason: path, name, reason. An entry that is no longer needed is a finding.
pub const EXCUSED: &[(&str, &str, &str)] = &[];

/// One function with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Path of its file.
    pub path: String,
    /// Line of its `fn`.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// Lines from `fn` to the closing brace.
    pub lines: usize,
    /// Exists only in tests.
    pub is_test: bool,
}

/// All functions with a body in one file, in order.
pub fn functions(source: &Source) -> Vec<Function> {
    scan::positions(&source.code, "fn ").filter_map(|at| function_at(source, at)).collect()
}

fn function_at(source: &Source, at: usize) -> Option<Function> {
    let rest = &source.code[at + 3..];
    let name: String = rest.bytes().take_while(|&byte| scan::is_ident(byte)).map(char::from).collect();
    let open = body_start(&source.code, at + 3 + name.len())?;
    let line = source.line(at);
    let lines = source.line(scan::closing_brace(&source.code, open)) - line + 1;
    (!name.is_empty()).then(|| Function { path: source.path.clone(), line, name, lines, is_test: source.in_test(at) })
}

/// The brace that opens the body; none for a declaration without one.
fn body_start(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, byte) in code.as_bytes()[from..].iter().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(from + offset),
            b';' if depth == 0 => return None,
            _ if depth < 0 => return None,
            _ => {}
        }
    }
    None
}

/// What was measured, to be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Production functions.
    pub count: usize,
    /// Their median.
    pub median: usize,
    /// Their ninth decile.
    pub ninth_decile: usize,
}

/// Median and ninth decile of the production functions; zeros if there are none.
pub fn measure(all: &[Function]) -> Measured {
    let mut lines: Vec<usize> = all.iter().filter(|f| !f.is_test).map(|f| f.lines).collect();
    lines.sort_unstable();
    let share = |tenths: usize| lines.get((lines.len() * tenths).div_ceil(10).saturating_sub(1)).copied().unwrap_or(0);
    Measured { count: lines.len(), median: share(5), ninth_decile: share(9) }
}

/// Everything that is over the ratchet.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let all: Vec<Function> = tree.sources.iter().flat_map(functions).collect();
    check_functions(&all, RATCHET, EXCUSED)
}

fn check_functions(all: &[Function], ratchet: Ratchet, excused: &[(&str, &str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let measured = measure(all);
    for (what, is, may) in
        [("half", measured.median, ratchet.median), ("nine of ten", measured.ninth_decile, ratchet.ninth_decile)]
    {
        if is > may {
            findings.push(Finding::new(
                "(all)",
                0,
                format!("{what} of the functions must be within {may} lines: {is}"),
            ));
        }
    }
    let excuse = |f: &Function| excused.iter().any(|(path, name, _)| f.path == *path && f.name == *name);
    let long = |f: &&Function| f.lines > ratchet.longest;
    findings.extend(all.iter().filter(long).filter(|f| !excuse(f)).map(|f| too_long(f, ratchet.longest)));
    let needed =
        |(path, name, _): &&(&str, &str, &str)| all.iter().filter(long).any(|f| f.path == *path && f.name == *name);
    findings.extend(excused.iter().filter(|entry| !needed(entry)).map(|(path, name, _)| {
        Finding::new(path, 0, format!("functions::EXCUSED names `{name}`, which needs no excuse: remove the entry"))
    }));
    findings
}

fn too_long(function: &Function, limit: usize) -> Finding {
    let Function { path, line, name, lines, .. } = function;
    Finding::new(path, *line, format!("fn {name} has {lines} lines, the limit is {limit}: give its parts names"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "//! Sample.\nfn one() {}\ntrait T { fn declared(&self) -> [u8; 2]; }\npub async fn five(\n    a: [u8; 3],\n) -> u8 {\n    a[0]\n}\ntype F = fn (u8) -> u8;\n#[cfg(test)]\nmod tests {\n    fn story() {\n    }\n}\n";

    fn sample(lines: usize) -> Function {
        Function { path: "a.rs".into(), line: 1, name: "long".into(), lines, is_test: false }
    }

    #[test]
    fn functions_are_counted_with_their_signature() {
        let found = functions(&Source::new("a/src/b.rs", SAMPLE));
        let short: Vec<(&str, usize, bool)> = found.iter().map(|f| (f.name.as_str(), f.lines, f.is_test)).collect();
        assert_eq!(short, [("one", 1, false), ("five", 5, false), ("story", 2, true)]);
    }

    #[test]
    fn median_and_decile_are_of_production_code() {
        let mut all: Vec<Function> = (1..=10).map(sample).collect();
        all.push(Function { is_test: true, ..sample(60) });
        assert_eq!(measure(&all), Measured { count: 10, median: 5, ninth_decile: 9 });
    }

    #[test]
    fn each_bound_can_be_broken() {
        let ratchet = Ratchet { median: 3, ninth_decile: 10, longest: 20 };
        let found = |lines: &[usize]| {
            let all: Vec<Function> = lines.iter().copied().map(sample).collect();
            check_functions(&all, ratchet, &[]).len()
        };
        assert_eq!(found(&[1, 2, 3, 3, 3, 3, 3, 3, 3, 20]), 0);
        assert_eq!(found(&[4, 4, 4]), 1);
        assert_eq!(found(&[1, 1, 1, 11, 11]), 1);
        assert_eq!(found(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 21]), 1);
    }

    #[test]
    fn an_excuse_holds_only_as_long_as_it_is_needed() {
        let ratchet = Ratchet { median: 100, ninth_decile: 100, longest: 20 };
        let excused = [("a.rs", "long", "a table")];
        assert!(check_functions(&[sample(21)], ratchet, &excused).is_empty());
        assert_eq!(check_functions(&[sample(20)], ratchet, &excused).len(), 1);
    }
}
