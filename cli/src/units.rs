//! What people write and read: durations, sizes, labels, resources, ids and ranges of ids.
//!
//! What always holds: an error says what was written and what may be written.

use std::time::Duration;

use steersman_client::v1::{Label, Resource, RetryOn};

/// `300ms`, `5s`, `1h 30m`; a bare number is refused, for nobody knows its unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) && text != "0" {
        return Err(format!("{text:?} has no unit: write {text}s, {text}ms or {text}m"));
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write e.g. 300ms, 5s, 2m, 1h"))
}

/// A duration in whole milliseconds.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    u64::try_from(duration(text)?.as_millis()).map_err(|_| format!("{text:?} is too long"))
}

/// `KEY=VALUE`, the value may be empty.
pub fn label(text: &str) -> Result<Label, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(Label { key: key.to_owned(), value: value.to_owned() }),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

/// `KEY=VALUE`, or `KEY` alone: the value it has here.
pub fn env(text: &str) -> Result<Label, String> {
    if text.contains('=') {
        return label(text);
    }
    match std::env::var(text) {
        Ok(value) => Ok(Label { key: text.to_owned(), value }),
        Err(_) => Err(format!("{text:?} is not set here: write {text}=VALUE")),
    }
}

/// `NAME=AMOUNT`, or `NAME` for one.
pub fn resource(text: &str) -> Result<Resource, String> {
    let (name, amount) = text.split_once('=').unwrap_or((text, "1"));
    match amount.parse() {
        Ok(amount) if !name.is_empty() && amount > 0 => Ok(Resource { name: name.to_owned(), amount }),
        _ => Err(format!("{text:?} is not NAME=AMOUNT with a whole amount of at least 1, e.g. gpu=2")),
    }
}

/// What `--retry-on` accepts.
pub const RETRY_WORDS: [&str; 4] = ["worker-lost", "timeout", "failure", "never"];

/// One word of `--retry-on`: `worker-lost`, `timeout`, `failure` (any exit code or signal), an exit code, or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryWord {
    /// The worker was lost.
    WorkerLost,
    /// The attempt's timeout.
    Timeout,
    /// Any exit code but 0, any signal.
    Failure,
    /// This exit code.
    Exit(i32),
    /// Nothing at all.
    Never,
}

/// Parses one [`RetryWord`].
pub fn retry_word(text: &str) -> Result<RetryWord, String> {
    match text {
        "worker-lost" => Ok(RetryWord::WorkerLost),
        "timeout" => Ok(RetryWord::Timeout),
        "failure" | "any" => Ok(RetryWord::Failure),
        "never" | "none" => Ok(RetryWord::Never),
        code => match code.parse() {
            Ok(code @ 1..=255) => Ok(RetryWord::Exit(code)),
            _ => Err(format!("{text:?} is not one of {}, or an exit code from 1 to 255", RETRY_WORDS.join(", "))),
        },
    }
}

/// The wire's form of some words.
pub fn retry_on(words: &[RetryWord]) -> Result<RetryOn, String> {
    let mut on = RetryOn::default();
    for word in words {
        match word {
            RetryWord::WorkerLost => on.worker_lost = true,
            RetryWord::Timeout => on.timeout = true,
            RetryWord::Failure => on.any_exit_code = true,
            RetryWord::Exit(code) => on.exit_codes.push(*code),
            RetryWord::Never if words.len() > 1 => return Err("never excludes every other word".to_owned()),
            RetryWord::Never => {}
        }
    }
    Ok(on)
}

/// The words for the wire's form.
pub fn retry_words(on: &RetryOn) -> Vec<String> {
    let mut words = Vec::new();
    let flags = [(on.worker_lost, "worker-lost"), (on.timeout, "timeout"), (on.any_exit_code, "failure")];
    words.extend(flags.into_iter().filter(|(set, _)| *set).map(|(_, word)| word.to_owned()));
    words.extend(on.exit_codes.iter().map(ToString::to_string));
    if words.is_empty() { vec!["never".to_owned()] } else { words }
}

/// Ids as they are written: `last`, one, or a range with both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The newest task.
    Last,
    /// From the first to the last of these, both included.
    Range(u64, u64),
}

/// `17`, `1..2000` (both ends included), `last`.
pub fn ids(text: &str) -> Result<Ids, String> {
    let wrong = || format!("{text:?} is not a task id: write a number, a range such as 1..2000, or last");
    if text == "last" {
        return Ok(Ids::Last);
    }
    let number = |part: &str| part.parse::<u64>().ok().filter(|id| *id > 0).ok_or_else(wrong);
    let (from, to) = match text.split_once("..") {
        Some((from, to)) => (number(from)?, number(to.strip_prefix('=').unwrap_or(to))?),
        None => (number(text)?, number(text)?),
    };
    if from > to {
        return Err(format!("{text:?} is an empty range: the first id is greater than the last"));
    }
    Ok(Ids::Range(from, to))
}

/// A range of ids as it is shown.
pub fn range(first: u64, count: u64) -> String {
    if count <= 1 { first.to_string() } else { format!("{first}..{}", first + count - 1) }
}

/// `1.2 s`, `350 ms`, `2 h 5 m`: short, for people.
pub fn short(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{:.1} s", ms as f64 / 1e3),
        10_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} m {} s", ms / 60_000, ms / 1_000 % 60),
        7_200_000..172_800_000 => format!("{} h {} m", ms / 3_600_000, ms / 60_000 % 60),
        _ => format!("{} d {} h", ms / 86_400_000, ms / 3_600_000 % 24),
    }
}

/// `1.5 GiB`: short, for people.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Unix milliseconds as local time; empty for 0.
pub fn local_time(ms: u64) -> String {
    if ms == 0 {
        return String::new();
    }
    let timestamp = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let zoned = timestamp.map(|timestamp| timestamp.to_zoned(jiff::tz::TimeZone::system()));
    zoned.map_or_else(|| ms.to_string(), |zoned| zoned.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// How long ago, from Unix milliseconds; empty for 0.
pub fn ago(ms: u64, now_ms: u64) -> String {
    match now_ms.saturating_sub(ms) {
        _ if ms == 0 => String::new(),
        young @ 0..120_000 => format!("{} s", young / 1_000),
        old => short(old),
    }
}

/// The nearest of `known` to `word`, if any is near.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|candidate| (strsim::jaro_winkler(word, candidate), *candidate));
    scored.filter(|(score, _)| *score > 0.75).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// Standard base64 with padding, for bytes that are not text.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digits = (0..4).map(|n| DIGITS[(group >> (18 - 6 * n) & 63) as usize] as char);
        text.extend(digits.take(chunk.len() + 1));
        text.extend(std::iter::repeat_n('=', 3 - chunk.len()));
    }
    text
}

/// The bytes of [`base64`] text.
pub fn unbase64(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || "is not base64".to_owned();
    let body = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - body.len() > 2 {
        return Err(wrong());
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let mut group = 0u32;
    for (at, c) in body.bytes().enumerate() {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(wrong()),
        };
        group = group << 6 | u32::from(digit);
        if at % 4 > 0 {
            let spare = 6 - 2 * (at % 4) as u32;
            out.push((group >> spare) as u8);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("300ms").unwrap(), Duration::from_millis(300));
        assert_eq!(duration("1h 30m").unwrap(), Duration::from_secs(5_400));
        assert_eq!(duration("0").unwrap(), Duration::ZERO);
        assert!(duration("30").unwrap_err().contains("write 30s"));
        for wrong in ["", "x", "5 parsecs", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_and_resources() {
        assert_eq!(label("a=b=c").unwrap().value, "b=c");
        assert_eq!(label("a=").unwrap().value, "");
        assert!(label("=b").is_err() && label("a").is_err());
        assert_eq!(resource("gpu=2").unwrap().amount, 2);
        assert_eq!(resource("gpu").unwrap().amount, 1);
        for wrong in ["gpu=0", "gpu=-1", "=2", "gpu=two", "gpu=1.5"] {
            assert!(resource(wrong).unwrap_err().contains("gpu=2"), "{wrong}");
        }
        assert_eq!(env("PATH").unwrap().key, "PATH");
        assert!(env("STEERSMAN_NO_SUCH_VARIABLE").unwrap_err().contains("is not set here"));
    }

    #[test]
    fn retry_words_there_and_back() {
        let words: Vec<RetryWord> =
            ["worker-lost", "timeout", "failure", "75"].iter().map(|word| retry_word(word).unwrap()).collect();
        let on = retry_on(&words).unwrap();
        assert_eq!(retry_words(&on), ["worker-lost", "timeout", "failure", "75"]);
        assert_eq!(retry_words(&retry_on(&[RetryWord::Never]).unwrap()), ["never"]);
        assert!(retry_on(&[RetryWord::Never, RetryWord::Timeout]).is_err());
        for wrong in ["0", "256", "sometimes", ""] {
            assert!(retry_word(wrong).unwrap_err().contains("worker-lost"), "{wrong}");
        }
    }

    #[test]
    fn ids_and_ranges() {
        assert_eq!(ids("last").unwrap(), Ids::Last);
        assert_eq!(ids("7").unwrap(), Ids::Range(7, 7));
        assert_eq!(ids("1..2000").unwrap(), Ids::Range(1, 2000));
        assert_eq!(ids("1..=3").unwrap(), Ids::Range(1, 3));
        for wrong in ["0", "", "..", "1..", "..3", "3..1", "a", "-1", "1...3", "99999999999999999999"] {
            assert!(ids(wrong).is_err(), "{wrong}");
        }
        assert_eq!((range(3, 1), range(3, 2)), ("3".to_owned(), "3..4".to_owned()));
    }

    #[test]
    fn base64_there_and_back() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
            assert_eq!(unbase64(coded).unwrap(), plain.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unbase64(&base64(&all)).unwrap(), all);
        for wrong in ["Z", "Zg=", "Zg===", "Z!==", "===="] {
            assert!(unbase64(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn people_read_short_forms() {
        assert_eq!(short(999), "999 ms");
        assert_eq!(short(1_234), "1.2 s");
        assert_eq!(short(61_000), "61 s");
        assert_eq!(short(3_600_000), "60 m 0 s");
        assert_eq!(short(90_000_000), "25 h 0 m");
        assert_eq!((bytes(1_023), bytes(1_536)), ("1023 B".to_owned(), "1.5 KiB".to_owned()));
        assert_eq!(local_time(0), "");
        assert_eq!(nearest("priorty", &["name", "priority"]), Some("priority"));
        assert_eq!(nearest("zzz", &["name", "priority"]), None);
    }
}
