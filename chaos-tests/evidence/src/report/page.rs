//! A page: title, verdict, sections, tables and figures, with the style sheet that all reports share.
//!
//! What always holds: arguments named `text` are escaped here; arguments named `html` come from this module or from
//! [`super::svg`]. A page loads nothing.

/// What a mark means; the style sheet gives it its colour in light and dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As promised.
    Good,
    /// Broken.
    Bad,
    /// Doubtful: too little seen, or outcome unknown.
    Unknown,
    /// Neither.
    Plain,
}

impl Tone {
    /// The class in the style sheet.
    pub fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
            Self::Plain => "plain",
        }
    }
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Option<Tone>,
    number: bool,
}

impl Cell {
    /// Plain text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: None, number: false }
    }

    /// A number: right-aligned, digits of equal width.
    pub fn number(text: impl ToString) -> Self {
        Self { text: text.to_string(), tone: None, number: true }
    }

    /// A word on a coloured ground.
    pub fn badge(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Some(tone), number: false }
    }

    fn html(&self) -> String {
        let class = if self.number { " class=\"n\"" } else { "" };
        match self.tone {
            Some(tone) => format!("<td{class}>{}</td>", badge(tone, &self.text)),
            None => format!("<td{class}>{}</td>", escape(&self.text)),
        }
    }
}

/// A page under construction.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// With its title, which is also its first heading.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), body: format!("<h1>{}</h1>\n", escape(title)) }
    }

    /// The one sentence that sums up, on a coloured ground.
    #[must_use]
    pub fn banner(mut self, tone: Tone, text: &str) -> Self {
        self.body.push_str(&format!("<p class=\"banner {}\">{}</p>\n", tone.class(), escape(text)));
        self
    }

    /// A paragraph.
    #[must_use]
    pub fn paragraph(mut self, text: &str) -> Self {
        self.body.push_str(&format!("<p>{}</p>\n", escape(text)));
        self
    }

    /// A section: heading and what stands below it.
    #[must_use]
    pub fn section(mut self, heading: &str, html: &str) -> Self {
        self.body.push_str(&format!("<section>\n<h2>{}</h2>\n{html}\n</section>\n", escape(heading)));
        self
    }

    /// The whole file.
    pub fn render(&self) -> String {
        let title = escape(&self.title);
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             </head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
            self.body
        )
    }
}

/// Text for HTML and SVG, in elements and in quoted attributes. Control characters are replaced: XML has no word for them.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A word on a coloured ground.
pub fn badge(tone: Tone, text: &str) -> String {
    format!("<span class=\"badge {}\">{}</span>", tone.class(), escape(text))
}

/// A table with a heading row. An empty table is a sentence that says so.
pub fn table(head: &[&str], rows: &[Vec<Cell>]) -> String {
    if rows.is_empty() {
        return "<p class=\"quiet\">None.</p>".to_owned();
    }
    // A heading stands over its column as the column does.
    let numbers: Vec<bool> = rows[0].iter().map(|cell| cell.number).collect();
    let class = |at: usize| if numbers.get(at) == Some(&true) { " class=\"n\"" } else { "" };
    let head = head.iter().enumerate();
    let heads: String = head.map(|(at, text)| format!("<th{}>{}</th>", class(at), escape(text))).collect();
    let row = |cells: &Vec<Cell>| format!("<tr>{}</tr>\n", cells.iter().map(Cell::html).collect::<String>());
    let rows: String = rows.iter().map(row).collect();
    format!("<div class=\"wide\"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>")
}

/// A drawing (from [`super::svg`]) with a caption below it.
pub fn figure(html: &str, text: &str) -> String {
    format!("<figure>{html}<figcaption>{}</figcaption></figure>", escape(text))
}

/// Text as it stands, in letters of equal width.
pub fn verbatim(text: &str) -> String {
    format!("<pre>{}</pre>", escape(text))
}

/// Something long that opens on a click (without a script).
pub fn details(text: &str, html: &str) -> String {
    format!("<details><summary>{}</summary>{html}</details>", escape(text))
}

/// Colours: text and lines reach a contrast of 4.5 on their ground in both schemes; good, bad and unknown differ in
/// lightness too, so that they can be told apart without colour.
const STYLE: &str = "
:root { --paper:#fcfcfa; --card:#ffffff; --ink:#1d2330; --quiet:#5b6474; --line:#d7dae0; --grid:#e8eaee;
  --good:#1f7a4d; --bad:#b3261e; --unknown:#9a6700; --plain:#4b5563; --s1:#1f5fbf; --s2:#b4560c; --s3:#7a3fb0;
  --s4:#0f7b83; --s5:#a02c6b; --s6:#596b00; --shade:#b3261e; --onbadge:#ffffff; }
@media (prefers-color-scheme: dark) { :root { --paper:#14171d; --card:#1b1f27; --ink:#e6e8ec; --quiet:#9aa3b2;
  --line:#343a46; --grid:#272c36; --good:#5cc98f; --bad:#ff8a80; --unknown:#e3b341; --plain:#a5adba; --s1:#7fb0ff;
  --s2:#f0a35e; --s3:#c9a0f5; --s4:#5fd0d8; --s5:#f29ac4; --s6:#bccf5a; --shade:#ff8a80; --onbadge:#14171d; } }
* { box-sizing:border-box }
body { margin:0; background:var(--paper); color:var(--ink); font:15px/1.5 system-ui,-apple-system,\"Segoe UI\",sans-serif }
main { max-width:1180px; margin:0 auto; padding:24px 20px 64px }
h1 { font-size:24px; line-height:1.25; margin:0 0 12px } h2 { font-size:17px; margin:32px 0 10px }
p { margin:8px 0; max-width:80ch } .quiet, figcaption { color:var(--quiet); font-size:13px }
.banner { max-width:none; padding:10px 14px; border-left:5px solid; background:var(--card); font-weight:600 }
.banner.good { border-color:var(--good) } .banner.bad { border-color:var(--bad) }
.banner.unknown { border-color:var(--unknown) } .banner.plain { border-color:var(--plain) }
.badge { display:inline-block; padding:0 8px; border-radius:9px; font-size:12px; line-height:19px; font-weight:600;
  color:var(--onbadge); white-space:nowrap }
.badge.good { background:var(--good) } .badge.bad { background:var(--bad) }
.badge.unknown { background:var(--unknown) } .badge.plain { background:var(--plain) }
.wide { overflow-x:auto } table { border-collapse:collapse; min-width:55%; background:var(--card); font-size:14px }
th { text-align:left; font-weight:600; color:var(--quiet); font-size:12px }
th, td { padding:5px 10px; border-bottom:1px solid var(--line); vertical-align:top; overflow-wrap:break-word }
th.n, td.n { text-align:right } td.n { font-variant-numeric:tabular-nums; white-space:nowrap }
figure { margin:10px 0 18px; background:var(--card); border:1px solid var(--line); border-radius:6px; padding:10px }
figcaption { margin-top:6px } svg { display:block; width:100%; height:auto }
pre { background:var(--card); border:1px solid var(--line); border-radius:6px; padding:10px; overflow-x:auto;
  font:12px/1.45 ui-monospace,\"DejaVu Sans Mono\",Menlo,monospace }
details { margin:6px 0 } summary { cursor:pointer }
svg text { fill:var(--ink); font:12px system-ui,-apple-system,\"Segoe UI\",sans-serif }
svg text.quiet { fill:var(--quiet); font-size:11px } svg text.end { text-anchor:end } svg text.mid { text-anchor:middle }
svg text.strong { font-weight:600 } svg text.onbar { fill:var(--onbadge); font-size:11px }
svg .grid { stroke:var(--grid); stroke-width:1 } svg .axis { stroke:var(--line); stroke-width:1 }
svg .line { fill:none; stroke-width:1.7; stroke-linejoin:round } svg .shade { fill:var(--shade); opacity:.11 }
svg .edge { stroke:var(--shade); stroke-width:1; opacity:.45 }
svg .f-good { fill:var(--good) } svg .f-bad { fill:var(--bad) } svg .f-unknown { fill:var(--unknown) }
svg .f-plain { fill:var(--plain) } svg .f-s1 { fill:var(--s1) } svg .f-s2 { fill:var(--s2) } svg .f-s3 { fill:var(--s3) }
svg .f-s4 { fill:var(--s4) } svg .f-s5 { fill:var(--s5) } svg .f-s6 { fill:var(--s6) }
svg .l-good { stroke:var(--good) } svg .l-bad { stroke:var(--bad) } svg .l-unknown { stroke:var(--unknown) }
svg .l-plain { stroke:var(--plain) } svg .l-s1 { stroke:var(--s1) } svg .l-s2 { stroke:var(--s2) }
svg .l-s3 { stroke:var(--s3) } svg .l-s4 { stroke:var(--s4) } svg .l-s5 { stroke:var(--s5) } svg .l-s6 { stroke:var(--s6) }
svg .column { shape-rendering:crispEdges } svg .open { stroke-dasharray:4 3; fill-opacity:.35 }
@media print { body { background:#fff } details > * { display:block } }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let evil = "<script>alert(\"x\")</script> & 'y' \u{1b}[31m";
        let page = Page::new(evil)
            .banner(Tone::Bad, evil)
            .paragraph(evil)
            .section(evil, &table(&[evil], &[vec![Cell::text(evil), Cell::badge(Tone::Good, evil)]]))
            .section("rest", &(figure("", evil) + &verbatim(evil) + &details(evil, "")))
            .render();
        assert!(!page.contains("<script") && !page.contains('\u{1b}'), "{page}");
        assert_eq!(page.matches("&lt;script&gt;alert(&quot;x&quot;)").count(), 11);
    }

    #[test]
    fn a_page_loads_nothing() {
        let page = Page::new("a run").render();
        for word in ["http:", "https:", "src=", "url(", "@import", "<link", "<script"] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn an_empty_table_says_so() {
        assert!(table(&["a"], &[]).contains("None."));
    }
}
