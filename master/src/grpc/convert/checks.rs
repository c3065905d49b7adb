//! Collects what is wrong with a request, field by field, and the small checks that many fields share.
//!
//! What always holds: a check never stops at the first problem, and what a caller sent is quoted at most
//! [`QUOTED_MAX`] characters long, because error details travel in headers of bounded size.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use steersman_proto::v1 as pb;
use steersman_state::{Labels, Resources};
use tonic::Status;
use tonic_types::FieldViolation;

use crate::grpc::status;

/// Problems that are shown; the rest is counted. Details must fit a header block of 16 KiB.
pub const SHOWN_MAX: usize = 16;
/// Characters of a caller's value that are repeated in a message.
const QUOTED_MAX: usize = 40;
/// Labels of one spec or worker: each is compared on every placement.
const LABELS_MAX: usize = 64;
/// Resource names of one spec.
const RESOURCES_MAX: usize = 32;
/// Length of a label's key, a resource's name and a handler's name.
const KEY_BYTES_MAX: usize = 128;
/// Length of a label's value.
const VALUE_BYTES_MAX: usize = 256;
/// No machine has more of anything that is worth counting.
const AMOUNT_MAX: u64 = 1_000_000_000_000;

/// What is wrong so far.
#[derive(Debug, Default)]
pub struct Checks {
    found: Vec<FieldViolation>,
    more: usize,
}

impl Checks {
    /// Notes a problem: what is wrong, what is allowed and what to do.
    pub fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        if self.found.len() < SHOWN_MAX {
            self.found.push(FieldViolation::new(field, problem));
        } else {
            self.more += 1;
        }
    }

    /// `value`, if nothing was wrong.
    pub fn finish<T>(mut self, value: T) -> Result<T, Status> {
        if self.found.is_empty() {
            return Ok(value);
        }
        if self.more > 0 {
            self.found.push(FieldViolation::new("…", format!("and {} more problems", self.more)));
        }
        Err(status::invalid(self.found))
    }

    /// Whether anything was wrong.
    pub fn any(&self) -> bool {
        !self.found.is_empty()
    }

    /// A number within bounds.
    pub fn range<T: PartialOrd + std::fmt::Display>(&mut self, field: &str, value: T, allowed: RangeInclusive<T>) {
        if !allowed.contains(&value) {
            self.add(field, format!("{value} is out of range: allowed is {} to {}", allowed.start(), allowed.end()));
        }
    }

    /// A list of at least one and at most `max` items.
    pub fn count(&mut self, field: &str, count: usize, max: u64, what: &str) {
        if count == 0 {
            self.add(field, format!("is empty: give at least one {what}"));
        } else if count as u64 > max {
            self.add(field, format!("{count} {what}s, the limit is {max}: split the call"));
        }
    }

    /// A text for people: bounded, no control characters.
    pub fn text(&mut self, field: &str, value: &str, bytes_max: usize) {
        if value.len() > bytes_max {
            self.add(field, format!("{} bytes, the limit is {bytes_max}: shorten it", value.len()));
        }
        if value.chars().any(char::is_control) {
            self.add(field, "contains a control character: use printable text");
        }
    }

    /// A text for the system: no NUL byte.
    pub fn no_nul(&mut self, field: &str, value: &str) {
        if value.contains('\0') {
            self.add(field, "contains a NUL byte, which no program argument, path or variable can carry: remove it");
        }
    }

    /// A key: 1 to 128 letters, digits, `.`, `_`, `-`, `/`, beginning with a letter or digit.
    pub fn key(&mut self, field: &str, key: &str) {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        let begins = key.starts_with(|c: char| c.is_ascii_alphanumeric());
        if key.len() > KEY_BYTES_MAX || !begins || !key.chars().all(plain) {
            self.add(
                field,
                format!(
                    "{} is not a key: use 1 to {KEY_BYTES_MAX} letters, digits, '.', '_', '-' or '/', beginning with a letter or digit",
                    quoted(key)
                ),
            );
        }
    }

    /// Labels without repeated keys.
    pub fn labels(&mut self, field: &str, labels: Vec<pb::Label>) -> Labels {
        if labels.len() > LABELS_MAX {
            self.add(field, format!("{} labels, the limit is {LABELS_MAX}: use fewer", labels.len()));
            return Labels::new();
        }
        let mut out = BTreeMap::new();
        for (n, pb::Label { key, value }) in labels.into_iter().enumerate() {
            self.key(&format!("{field}[{n}].key"), &key);
            self.text(&format!("{field}[{n}].value"), &value, VALUE_BYTES_MAX);
            if out.contains_key(&key) {
                self.add(format!("{field}[{n}].key"), format!("{} is there twice: keep one", quoted(&key)));
            }
            out.insert(key, value);
        }
        out
    }

    /// Resources without repeated names.
    pub fn resources(&mut self, field: &str, resources: Vec<pb::Resource>) -> Resources {
        if resources.len() > RESOURCES_MAX {
            self.add(field, format!("{} resources, the limit is {RESOURCES_MAX}: use fewer", resources.len()));
            return Resources::new();
        }
        let mut out = BTreeMap::new();
        for (n, pb::Resource { name, amount }) in resources.into_iter().enumerate() {
            self.key(&format!("{field}[{n}].name"), &name);
            self.range(&format!("{field}[{n}].amount"), amount, 1..=AMOUNT_MAX);
            if out.contains_key(&name) {
                self.add(format!("{field}[{n}].name"), format!("{} is there twice: keep one", quoted(&name)));
            }
            out.insert(name, amount);
        }
        out
    }

    /// A value of an enum; `None` (with a problem) for one that this version does not know.
    pub fn known<T: TryFrom<i32>>(&mut self, field: &str, value: i32) -> Option<T> {
        let known = T::try_from(value).ok();
        if known.is_none() {
            self.add(field, format!("{value} is not a value that this release knows: use the same release everywhere"));
        }
        known
    }
}

/// A caller's value, shortened, for a message.
pub fn quoted(value: &str) -> String {
    let mut short: String = value.chars().take(QUOTED_MAX).collect();
    if short.len() < value.len() {
        short.push('…');
    }
    format!("{short:?}")
}
