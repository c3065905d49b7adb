//! The scanner: Rust source without its comments and literals, and which parts of it are test code.
//!
//! What always holds: output has as many bytes and the same line breaks as the input, so a position in one is a position
//! in the other.

use std::ops::Range;

/// Is `byte` part of an identifier?
pub fn is_ident(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The line (from 1) of a byte position.
pub fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// `source` with comments, strings and character literals replaced by spaces (non-ASCII bytes too).
pub fn code_of(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out: Vec<u8> = bytes.iter().map(|&byte| if byte.is_ascii() { byte } else { b' ' }).collect();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).unwrap_or_default()
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return rest.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |length| at + length);
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(bytes, at);
    }
    if rest[0] == b'"' {
        return quoted_end(bytes, at + 1, b'"');
    }
    if rest[0] == b'\'' {
        return char_end(bytes, at);
    }
    raw_string_end(bytes, at).unwrap_or(at)
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The end of a literal whose text begins at `at` and ends with an unescaped `quote`.
fn quoted_end(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// A character literal, or `at` if the quote begins a lifetime.
fn char_end(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at + 1) {
        Some(b'\\') => quoted_end(bytes, at + 1, b'\''),
        Some(&first) => {
            let width = utf8_width(first);
            if bytes.get(at + 1 + width) == Some(&b'\'') { at + width + 2 } else { at }
        }
        None => at,
    }
}

fn utf8_width(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

/// The end of `r"…"`, `r#"…"#`, `br"…"` and their kin, if one begins at `at`.
fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    if at > 0 && is_ident(bytes[at - 1]) {
        return None;
    }
    let prefix = [&b"r"[..], b"br", b"cr"].into_iter().find(|prefix| bytes[at..].starts_with(prefix))?;
    let after = at + prefix.len();
    let hashes = bytes[after..].iter().take_while(|&&byte| byte == b'#').count();
    if bytes.get(after + hashes) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let body = after + hashes + 1;
    let length = bytes[body..].windows(close.len()).position(|window| window == close)?;
    Some(body + length + close.len())
}

/// Every position where `word` stands in `code`, not preceded by a character of an identifier.
pub fn positions<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(|&at| at == 0 || !is_ident(code.as_bytes()[at - 1]))
}

/// The position after the brace that closes the one at `open`.
pub fn closing_brace(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in code.as_bytes()[open..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return open + offset + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// The items of `code` that exist only in tests: everything behind `#[cfg(test)]`.
pub fn test_items(code: &str) -> Vec<Range<usize>> {
    let marks = ["#[cfg(test)]", "#[cfg(all(test"];
    let mut items: Vec<Range<usize>> = marks
        .iter()
        .flat_map(|mark| code.match_indices(mark).map(|(at, mark)| at..item_end(code, at + mark.len())))
        .collect();
    items.sort_by_key(|item| item.start);
    items
}

fn item_end(code: &str, from: usize) -> usize {
    match code[from..].find(['{', ';']) {
        Some(offset) if code.as_bytes()[from + offset] == b'{' => closing_brace(code, from + offset),
        Some(offset) => from + offset + 1,
        None => code.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_vanish_and_lines_stay() {
        let source = "let a = \"sled::\\\"x\"; // sled::\n/* a /* sled:: */ b */ let c = 'x'; let d: &'a str = r#\"\n\"sled::\"#;\nlet é = b'\\'';";
        let code = code_of(source);
        assert_eq!(code.len(), source.len());
        assert_eq!(code.lines().count(), source.lines().count());
        assert!(!code.contains("sled"), "{code}");
        assert!(code.contains("let c =") && code.contains("&'a str"), "{code}");
    }

    #[test]
    fn words_have_a_left_border() {
        assert_eq!(positions("operand::x; rand::y; a::rand::z", "rand::").count(), 2);
    }

    #[test]
    fn test_items_end_with_their_brace() {
        let code =
            "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { {} } }\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}";
        let found: Vec<&str> = test_items(code).into_iter().map(|item| &code[item]).collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].ends_with("} }") && found[0].contains("fn b"));
        assert!(found[1].ends_with("mod more;"));
    }
}
