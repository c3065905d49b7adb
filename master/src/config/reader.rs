//! Reads one TOML document key by key and keeps every problem with its line, instead of stopping at the first one.
//!
//! What always holds: a key that nobody asked for is a problem that names the nearest key somebody did ask for; a value
//! of the wrong type is a problem and the default stands in for it, so that reading goes on. It knows no key by itself.

use std::collections::BTreeMap;
use std::fmt;

use steersman_proto::codes::{self, Code};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; absent for what the file does not contain.
    pub line: Option<usize>,
    /// Full path of the key, e.g. `raft.heartbeat_ms`; empty for the file as a whole.
    pub key: String,
    /// What is wrong and what is allowed.
    pub message: String,
    /// Its stable code.
    pub code: Code,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file, or what else it came from.
    pub origin: String,
    /// At least one, in the order of the file.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// The code to show: that of the only kind of problem there is, else `CONFIG`.
    pub fn code(&self) -> Code {
        match self.problems.first() {
            Some(first) if self.problems.iter().all(|p| p.code == first.code) => first.code,
            _ => codes::CONFIG,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            let newline = if n == 0 { "" } else { "\n" };
            write!(f, "{newline}{}", self.origin)?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            if !problem.key.is_empty() {
                write!(f, ": {}", problem.key)?;
            }
            write!(f, ": {}", problem.message)?;
        }
        Ok(())
    }
}

/// Problems found so far, and where each key stands.
#[derive(Debug, Default)]
pub struct Problems {
    lines: BTreeMap<String, usize>,
    found: Vec<Problem>,
}

impl Problems {
    /// Adds a problem of code `CONFIG`.
    pub fn add(&mut self, key: &str, message: impl Into<String>) {
        self.add_coded(key, message, codes::CONFIG);
    }

    /// Adds a problem with its own code.
    pub fn add_coded(&mut self, key: &str, message: impl Into<String>, code: Code) {
        let line = self.line_of(key);
        self.found.push(Problem { line, key: key.to_owned(), message: message.into(), code });
    }

    /// Adds a problem if `value` is a number outside `allowed`.
    pub fn range<T: Setting>(&mut self, key: &str, value: &T, allowed: std::ops::RangeInclusive<u64>) {
        if let Some(number) = value.number()
            && !allowed.contains(&number)
        {
            let (min, max) = (allowed.start(), allowed.end());
            self.add(key, format!("{number} is out of range: allowed is {min} to {max}{}", unit(key)));
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// Whether that very key has one.
    pub fn has(&self, key: &str) -> bool {
        self.found.iter().any(|problem| problem.key == key)
    }

    /// `Err` if there is any problem.
    pub fn finish(mut self, origin: &str) -> Result<(), ConfigError> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|p| p.line.unwrap_or(usize::MAX));
        Err(ConfigError { origin: origin.to_owned(), problems: self.found })
    }

    /// The line of a key, or of the nearest table around it that the file contains.
    fn line_of(&self, key: &str) -> Option<usize> {
        let mut path = key;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Some(*line);
            }
            path = path.rsplit_once('.')?.0;
        }
    }
}

/// The unit that a key's name ends in, in words.
fn unit(key: &str) -> &'static str {
    match key {
        _ if key.ends_with("_ms") => " ms",
        _ if key.contains("_bytes") => " bytes",
        _ => "",
    }
}

/// A value that a key can have.
pub trait Setting: Sized {
    /// What it is called in a message.
    const KIND: &'static str;
    /// The value, if it is of this type.
    fn read(value: &DeValue<'_>) -> Option<Self>;
    /// The value as a number, where it has a range.
    fn number(&self) -> Option<u64>;
}

impl Setting for u64 {
    const KIND: &'static str = "a whole number, not negative";
    fn read(value: &DeValue<'_>) -> Option<Self> {
        let integer = value.as_integer()?;
        u64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }
    fn number(&self) -> Option<u64> {
        Some(*self)
    }
}

impl Setting for bool {
    const KIND: &'static str = "true or false";
    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }
    fn number(&self) -> Option<u64> {
        None
    }
}

impl Setting for String {
    const KIND: &'static str = "a string in quotes";
    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
    fn number(&self) -> Option<u64> {
        None
    }
}

/// A parsed document.
pub struct Document<'a> {
    text: &'a str,
    root: Spanned<DeTable<'a>>,
}

impl<'a> Document<'a> {
    /// Parses `text`.
    ///
    /// # Errors
    /// If it is not TOML: with the line and what the parser says.
    pub fn parse(text: &'a str, origin: &str) -> Result<Self, ConfigError> {
        let root = DeTable::parse(text).map_err(|error| {
            let line = error.span().map(|span| line_at(text, span.start));
            let message = format!("not valid TOML: {}", error.message());
            let problem = Problem { line, key: String::new(), message, code: codes::CONFIG };
            ConfigError { origin: origin.to_owned(), problems: vec![problem] }
        })?;
        Ok(Self { text, root })
    }

    /// The outermost table.
    pub fn root(&self) -> Section<'_> {
        Section { text: self.text, path: String::new(), table: Some(self.root.get_ref()), known: Vec::new() }
    }
}

/// One table of the document. Remembers which keys were asked for.
pub struct Section<'a> {
    text: &'a str,
    path: String,
    table: Option<&'a DeTable<'a>>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The value of `key`, if it is there and of the right type.
    pub fn get<T: Setting>(&mut self, key: &'static str, problems: &mut Problems) -> Option<T> {
        let path = self.path_of(key);
        let value = self.find(key, problems)?;
        let read = T::read(value);
        if read.is_none() {
            problems.add(&path, format!("{} where {} belongs", described(value), T::KIND));
        }
        read
    }

    /// The table under `key`; an empty one if it is not there.
    pub fn section(&mut self, key: &'static str, problems: &mut Problems) -> Section<'a> {
        let path = self.path_of(key);
        let value = self.find(key, problems);
        let table = value.and_then(|value| value.as_table());
        if let (Some(value), None) = (value, table) {
            problems.add(&path, format!("{} where a table belongs: write [{path}]", described(value)));
        }
        Section { text: self.text, path, table, known: Vec::new() }
    }

    /// The tables of the array under `key`.
    pub fn sections(&mut self, key: &'static str, problems: &mut Problems) -> Vec<Section<'a>> {
        let path = self.path_of(key);
        let Some(value) = self.find(key, problems) else { return Vec::new() };
        let Some(array) = value.as_array() else {
            problems.add(&path, format!("{} where a list of tables belongs: write [[{path}]]", described(value)));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (n, item) in array.iter().enumerate() {
            let path = format!("{path}[{n}]");
            problems.lines.insert(path.clone(), line_at(self.text, item.span().start));
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section { text: self.text, path, table: Some(table), known: Vec::new() }),
                None => problems.add(&path, format!("{} where a table belongs", described(item.get_ref()))),
            }
        }
        sections
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self, problems: &mut Problems) {
        let Some(table) = self.table else { return };
        for (key, _) in table {
            let name = key.get_ref();
            if !self.known.contains(&name.as_ref()) {
                let path = self.path_of(name);
                problems.lines.insert(path.clone(), line_at(self.text, key.span().start));
                problems.add(&path, format!("unknown key{}", did_you_mean(name, &self.known)));
            }
        }
    }

    fn find(&mut self, key: &'static str, problems: &mut Problems) -> Option<&'a DeValue<'a>> {
        self.known.push(key);
        let (found, value) = self.table?.get_key_value(key)?;
        problems.lines.insert(self.path_of(key), line_at(self.text, found.span().start));
        Some(value.get_ref())
    }

    /// Full path of one of its keys.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// `; did you mean "x"?`, or what is allowed if nothing is near.
pub fn did_you_mean(word: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|k| (strsim::normalized_damerau_levenshtein(word, k), *k));
    match nearest.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((likeness, nearest)) if likeness >= 0.5 => format!("; did you mean {nearest:?}?"),
        _ => format!("; known are {}", known.join(", ")),
    }
}

fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(integer) => format!("the number {}", integer.as_str()),
        DeValue::String(text) => format!("the string {text:?}"),
        other => format!("a value of type {}", other.type_str()),
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}
