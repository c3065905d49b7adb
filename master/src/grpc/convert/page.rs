//! Pages of lists and their opaque tokens.
//!
//! What always holds: a token is only good for the list and the filter that it was made for; any other, and anything
//! made up, is `INVALID_ARGUMENT` and never a page of something else.

use steersman_proto::v1 as pb;
use tonic::Status;

use super::checks::Checks;

/// Largest page.
pub const PAGE_SIZE_MAX: u32 = 1_000;
/// Page size if none is asked for.
const PAGE_SIZE: u32 = 100;
/// First byte of a token.
const TOKEN_VERSION: u8 = 1;
/// Version, list, filter, cursor, checksum.
const TOKEN_BYTES: usize = 1 + 1 + 8 + 8 + 4;

/// Which list a token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PageOf {
    /// Tasks.Task list.
    Tasks = 1,
    /// Workers.
    Workers = 2,
}

/// One page that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// Where the former page ended.
    pub cursor: Option<u64>,
    /// 1 to 1,000.
    pub size: usize,
    list: PageOf,
    filter: u64,
}

impl PageRequest {
    /// Checks a page of `list`; `filter` is any encoding of everything that selects and orders it.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a size over the limit or a foreign token.
    pub fn of(list: PageOf, filter: &[u8], page: Option<pb::Page>) -> Result<Self, Status> {
        let pb::Page { page_size, page_token } = page.unwrap_or_default();
        let mut checks = Checks::default();
        checks.range("page.page_size", page_size, 0..=PAGE_SIZE_MAX);
        let filter = fnv64(filter);
        let cursor = cursor_in(list, filter, &page_token, &mut checks);
        let size = if page_size == 0 { PAGE_SIZE } else { page_size } as usize;
        checks.finish(Self { cursor, size, list, filter })
    }

    /// The token of the page that begins at `cursor`; empty if there is none.
    pub fn token(&self, cursor: Option<u64>) -> String {
        let Some(cursor) = cursor else { return String::new() };
        let mut bytes = vec![TOKEN_VERSION, self.list as u8];
        bytes.extend(self.filter.to_be_bytes());
        bytes.extend(cursor.to_be_bytes());
        let sum = fnv64(&bytes) as u32;
        bytes.extend(sum.to_be_bytes());
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn cursor_in(list: PageOf, filter: u64, token: &str, checks: &mut Checks) -> Option<u64> {
    if token.is_empty() {
        return None;
    }
    match decode(token) {
        Some((of, hash, cursor)) if of == list as u8 && hash == filter => return Some(cursor),
        Some(_) => checks.add(
            "page.page_token",
            "belongs to another list or filter: repeat the call that gave it, or begin with an empty token",
        ),
        None => checks.add("page.page_token", "is not a token of this release: begin with an empty token"),
    }
    None
}

/// List, filter and cursor.
fn decode(token: &str) -> Option<(u8, u64, u64)> {
    if token.len() != 2 * TOKEN_BYTES || !token.is_ascii() {
        return None;
    }
    let mut bytes = [0; TOKEN_BYTES];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(token.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    let (body, sum) = bytes.split_at(TOKEN_BYTES - 4);
    let whole = u32::from_be_bytes(sum.try_into().ok()?) == fnv64(body) as u32;
    let filter = u64::from_be_bytes(body.get(2..10)?.try_into().ok()?);
    let cursor = u64::from_be_bytes(body.get(10..18)?.try_into().ok()?);
    (whole && body[0] == TOKEN_VERSION).then_some((body[1], filter, cursor))
}

/// FNV-1a: enough to tell filters and typing errors apart; a token is no secret.
fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with_token(list: PageOf, filter: &[u8], token: &str) -> Result<PageRequest, Status> {
        PageRequest::of(list, filter, Some(pb::Page { page_size: 10, page_token: token.to_owned() }))
    }

    #[test]
    fn a_token_leads_back_to_its_cursor() {
        let first = PageRequest::of(PageOf::Tasks, b"filter", None).unwrap();
        assert_eq!((first.cursor, first.size), (None, 100));
        for cursor in [0, 1, 4_711, u64::MAX] {
            let token = first.token(Some(cursor));
            assert_eq!(with_token(PageOf::Tasks, b"filter", &token).unwrap().cursor, Some(cursor));
        }
        assert_eq!(first.token(None), "");
    }

    #[test]
    fn p15_foreign_and_made_up_tokens_are_refused() {
        let token = PageRequest::of(PageOf::Tasks, b"filter", None).unwrap().token(Some(7));
        let mut damaged = token.clone();
        damaged.replace_range(30..31, if &token[30..31] == "0" { "1" } else { "0" });
        let cases = [
            (PageOf::Workers, &b"filter"[..], token.as_str(), "another list or filter"),
            (PageOf::Tasks, b"other", &token, "another list or filter"),
            (PageOf::Tasks, b"filter", &damaged, "not a token"),
            (PageOf::Tasks, b"filter", "7", "not a token"),
            (PageOf::Tasks, b"filter", "ääääääääääääääääääääää", "not a token"),
            (PageOf::Tasks, b"filter", &token[2..], "not a token"),
            (PageOf::Tasks, b"filter", &"zz".repeat(TOKEN_BYTES), "not a token"),
        ];
        for (list, filter, token, expected) in cases {
            let status = with_token(list, filter, token).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains(expected), "{token}: {}", status.message());
        }
    }

    #[test]
    fn p15_a_page_has_a_largest_size() {
        let page = pb::Page { page_size: 1_001, page_token: String::new() };
        let status = PageRequest::of(PageOf::Tasks, b"", Some(page)).unwrap_err();
        assert_eq!(status.message(), "page.page_size: 1001 is out of range: allowed is 0 to 1000");
    }
}
