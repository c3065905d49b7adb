//! Drawings over one time axis: lines, bars, swim-lanes, and shaded bands for what went on meanwhile.
//!
//! What always holds: the result is one `<svg>` element that scales with its page and takes its colours from the page's
//! style sheet; every text is escaped; coordinates are finite whatever the input.

use super::page::escape;

/// Width of every drawing, in its own units: what fits a laptop without scaling.
const WIDTH: f64 = 1120.0;
/// Room for names at the left.
const LEFT: f64 = 136.0;
const RIGHT: f64 = 26.0;
/// Room for the legend above a plot.
const HEAD: f64 = 20.0;
/// Room for the time axis below.
const FOOT: f64 = 26.0;
const LANE: f64 = 26.0;
/// A letter of the bars' size is about so wide.
const LETTER: f64 = 6.3;
/// Rows of band labels above a plot; what does not fit is told by its tooltip alone.
const LABEL_ROWS: usize = 3;
const LABEL_ROW: f64 = 14.0;

/// A stretch of time, in µs: what a drawing shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its beginning.
    pub from_us: u64,
    /// Its end.
    pub to_us: u64,
}

impl Span {
    /// From one time to another; at least 1 µs long.
    pub fn new(from_us: u64, to_us: u64) -> Self {
        Self { from_us, to_us: to_us.max(from_us.saturating_add(1)) }
    }

    fn x(self, at_us: u64) -> f64 {
        let at = at_us.clamp(self.from_us, self.to_us) - self.from_us;
        LEFT + (WIDTH - LEFT - RIGHT) * at as f64 / (self.to_us - self.from_us).max(1) as f64
    }

    fn shows(self, from_us: u64, to_us: u64) -> bool {
        from_us <= self.to_us && to_us >= self.from_us
    }

    /// Times worth a tick: about ten, at round numbers.
    fn ticks(self) -> Vec<u64> {
        let length = self.to_us - self.from_us;
        let step = STEPS_US.iter().copied().find(|step| length / step <= 12).unwrap_or(length.max(1));
        let first = self.from_us.div_ceil(step) * step;
        (0..=12).map(|n| first + n * step).filter(|at| *at <= self.to_us).collect()
    }
}

/// Round distances between ticks, in µs, up to a day.
const STEPS_US: [u64; 29] = [
    1,
    2,
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    3_600_000_000,
    21_600_000_000,
    86_400_000_000,
];

/// A time for people: `950 µs`, `12.5 ms`, `3.2 s`, `4:05`, `1:04:05`.
pub fn time(us: u64) -> String {
    let trimmed = |value: f64, unit: &str| {
        let text = format!("{value:.1}");
        format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
    };
    match us {
        0 => "0".to_owned(),
        1..1_000 => format!("{us} µs"),
        1_000..1_000_000 => trimmed(us as f64 / 1e3, "ms"),
        1_000_000..60_000_000 => trimmed(us as f64 / 1e6, "s"),
        60_000_000..3_600_000_000 => format!("{}:{:02}", us / 60_000_000, us / 1_000_000 % 60),
        _ => format!("{}:{:02}:{:02}", us / 3_600_000_000, us / 60_000_000 % 60, us / 1_000_000 % 60),
    }
}

/// Something that went on behind a plot: shaded over its height, labelled above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Band {
    /// From when to when.
    pub span: Span,
    /// What.
    pub label: String,
}

/// A line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Shown in the legend.
    pub name: String,
    /// Colour: `s1` … `s6`, `good`, `bad`, `unknown`, `plain`.
    pub colour: &'static str,
    /// Time in µs and value; `None` breaks the line.
    pub points: Vec<(u64, Option<f64>)>,
}

/// Columns of a plot, one on top of the other within a series of equal times.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// Name and colour of each layer, lowest first.
    pub layers: Vec<(String, &'static str)>,
    /// Width of a column, in µs.
    pub width_us: u64,
    /// Where each column begins, in µs, and the heights of its layers.
    pub columns: Vec<(u64, Vec<f64>)>,
}

/// How values become heights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// In powers of ten; what is not above zero stands on the axis.
    Log,
}

/// A plot of values over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// What the reader sees.
    pub span: Span,
    /// Beside the axis.
    pub unit: String,
    /// How values become heights.
    pub scale: Scale,
    /// Lines.
    pub lines: Vec<Line>,
    /// Columns, behind the lines.
    pub stack: Option<Stack>,
    /// What went on behind.
    pub bands: Vec<Band>,
    /// Height of the plot itself, in pixels of an unscaled page.
    pub height: u32,
}

/// A bar in a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bar {
    /// From when to when.
    pub span: Span,
    /// In the bar if it fits; in its tooltip always.
    pub label: String,
    /// Colour, as [`Line::colour`].
    pub colour: &'static str,
    /// Its end is not known: drawn dashed.
    pub open: bool,
}

/// A moment in a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// When, in µs.
    pub at_us: u64,
    /// In its tooltip, and beside it if there is room before the next one.
    pub label: String,
    /// Colour, as [`Line::colour`].
    pub colour: &'static str,
}

/// One lane: a name, bars and moments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lane {
    /// At the left.
    pub name: String,
    /// Bars; those that overlap get rows of their own.
    pub bars: Vec<Bar>,
    /// Moments, in a row of their own.
    pub marks: Vec<Mark>,
}

impl Plot {
    /// The drawing.
    pub fn draw(&self) -> String {
        let (labels, rows) = label_rows(self.span, &self.bands, HEAD);
        let top = HEAD + rows as f64 * LABEL_ROW;
        let (height, bottom) = (f64::from(self.height), top + f64::from(self.height));
        let y = Heights { scale: self.scale, range: self.range(), top, height };
        let mut body = self.grid(&y);
        body.push_str(&self.columns(&y, bottom));
        // Over the columns, or these would hide it.
        body.push_str(&shades(self.span, &self.bands, top, bottom));
        body.push_str(&labels);
        self.lines.iter().for_each(|line| body.push_str(&self.line(line, &y)));
        body.push_str(&self.legend());
        body.push_str(&time_axis(self.span, top, bottom));
        frame(bottom + FOOT, &body)
    }

    /// Lowest and highest value that the axis shows.
    fn range(&self) -> (f64, f64) {
        let lines = self.lines.iter().flat_map(|line| line.points.iter().filter_map(|point| point.1));
        let columns = self.stack.iter().flat_map(|stack| stack.columns.iter().map(|(_, parts)| parts.iter().sum()));
        let values: Vec<f64> = lines.chain(columns).filter(|value: &f64| value.is_finite()).collect();
        let high = values.iter().copied().fold(0.0, f64::max);
        match self.scale {
            Scale::Linear => (0.0, nice(high.min(OUTLIER * typical(values)))),
            Scale::Log => {
                let low = values.iter().copied().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
                let low = if low.is_finite() { 10f64.powf(low.log10().floor()) } else { 1.0 };
                (low, 10f64.powf(high.max(low * 10.0).log10().ceil()))
            }
        }
    }

    fn grid(&self, y: &Heights) -> String {
        let mut body =
            format!("<text class=\"quiet end\" x=\"{:.0}\" y=\"13\">{}</text>", LEFT - 8.0, escape(&self.unit));
        for value in y.ticks() {
            let at = y.at(value);
            body.push_str(&format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"quiet end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0,
                short(value)
            ));
        }
        body
    }

    fn columns(&self, y: &Heights, bottom: f64) -> String {
        let Some(stack) = &self.stack else { return String::new() };
        let mut body = String::new();
        for (at_us, parts) in &stack.columns {
            let (from, to) = (self.span.x(*at_us), self.span.x(at_us.saturating_add(stack.width_us)));
            let (mut below, mut sum) = (bottom, 0.0);
            for (part, (_, colour)) in parts.iter().zip(&stack.layers).filter(|(part, _)| **part > 0.0) {
                sum += part;
                let above = y.at(sum);
                // A seam between columns is seen only if they are wide.
                let seam = if to - from > 4.0 { 0.5 } else { 0.0 };
                let (width, high) = ((to - from - seam).max(0.4), (below - above).max(0.0));
                body.push_str(&format!(
                    "<rect class=\"f-{colour} column\" x=\"{from:.1}\" y=\"{above:.1}\" width=\"{width:.1}\" height=\"{high:.1}\"/>"
                ));
                below = above;
            }
            if sum > y.range.1 {
                let at = from.min(WIDTH - RIGHT - 30.0);
                body.push_str(&format!(
                    "<text class=\"quiet\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
                    y.top - 3.0,
                    short(sum)
                ));
            }
        }
        body
    }

    fn line(&self, line: &Line, y: &Heights) -> String {
        let (mut path, mut dots) = (String::new(), String::new());
        let seen = |at: usize| line.points.get(at).and_then(|point| point.1).filter(|value| value.is_finite());
        for (at, (at_us, _)) in line.points.iter().enumerate() {
            let Some(value) = seen(at) else { continue };
            let (x, height) = (self.span.x(*at_us), y.at(value));
            let (before, after) = (at.checked_sub(1).and_then(seen), seen(at + 1));
            path.push_str(&format!("{}{x:.1} {height:.1}", if before.is_some() { 'L' } else { 'M' }));
            if before.is_none() && after.is_none() {
                dots.push_str(&format!(
                    "<circle class=\"f-{}\" cx=\"{x:.1}\" cy=\"{height:.1}\" r=\"2.5\"/>",
                    line.colour
                ));
            }
        }
        format!("<path class=\"line l-{}\" d=\"{path}\"/>{dots}", line.colour)
    }

    fn legend(&self) -> String {
        let layers = self.stack.iter().flat_map(|stack| stack.layers.iter().map(|(name, colour)| (name, *colour)));
        let names = self.lines.iter().map(|line| (&line.name, line.colour)).chain(layers);
        let (mut x, mut body) = (LEFT, String::new());
        for (name, colour) in names {
            body.push_str(&format!(
                "<rect class=\"f-{colour}\" x=\"{x:.1}\" y=\"5\" width=\"12\" height=\"8\" rx=\"2\"/>\
                 <text x=\"{:.1}\" y=\"13\">{}</text>",
                x + 17.0,
                escape(name)
            ));
            x += 36.0 + name.chars().count() as f64 * 6.8;
        }
        body
    }
}

/// Swim-lanes over one time axis, one below the other.
pub fn lanes(span: Span, lanes: &[Lane], bands: &[Band]) -> String {
    let (labels, rows) = label_rows(span, bands, 2.0);
    let top = 4.0 + rows as f64 * LABEL_ROW;
    let packed: Vec<(Vec<usize>, usize)> = lanes.iter().map(rows_of).collect();
    let bottom = top + packed.iter().map(|(_, rows)| lane_height(*rows)).sum::<f64>();
    let mut body = shades(span, bands, top, bottom) + &labels;
    let mut y = top;
    for (lane, (rows, count)) in lanes.iter().zip(&packed) {
        body.push_str(&draw_lane(span, lane, rows, y, lane_height(*count)));
        y += lane_height(*count);
    }
    body.push_str(&time_axis(span, top, bottom));
    frame(bottom + FOOT, &body)
}

/// A row for each bar, below a row for the marks if there are both, and the number of rows.
fn rows_of(lane: &Lane) -> (Vec<usize>, usize) {
    let (mut rows, count) = pack(&lane.bars);
    if lane.marks.is_empty() || lane.bars.is_empty() {
        return (rows, count);
    }
    rows.iter_mut().for_each(|row| *row += 1);
    (rows, count + 1)
}

/// A row of [`rows`]: a text, and a bar between two places from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// At the left, whole.
    pub label: String,
    /// In its tooltip.
    pub tip: String,
    /// Where the bar begins.
    pub from: f64,
    /// Where it ends; `None` if it has no end.
    pub to: Option<f64>,
    /// Colour, as [`Line::colour`].
    pub colour: &'static str,
}

/// Bars beside their texts, one row each, without an axis: for what has an order, but no scale.
pub fn rows(rows: &[Row]) -> String {
    let longest = rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0) as f64;
    let left = (longest * 6.9 + 20.0).min(WIDTH * 0.6);
    let mut body = String::new();
    for (at, row) in rows.iter().enumerate() {
        let (y, room) = (4.0 + at as f64 * LANE, WIDTH - left - RIGHT);
        let (from, to) = (left + room * row.from, left + room * row.to.unwrap_or(1.0));
        let open = if row.to.is_none() { " open" } else { "" };
        body.push_str(&format!(
            "<g><title>{}</title><text x=\"4\" y=\"{:.1}\">{}</text>\
             <line class=\"grid\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
             <rect class=\"f-{colour} l-{colour}{open}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"3\"/></g>",
            escape(&row.tip),
            y + LANE / 2.0 + 1.0,
            escape(&clip(&row.label, left)),
            y + LANE - 3.0,
            y + LANE - 3.0,
            (to - from).max(6.0),
            LANE - 8.0,
            colour = row.colour,
        ));
    }
    frame(8.0 + rows.len() as f64 * LANE, &body)
}

fn lane_height(rows: usize) -> f64 {
    LANE * rows.max(1) as f64 + 4.0
}

fn draw_lane(span: Span, lane: &Lane, rows: &[usize], y: f64, height: f64) -> String {
    let below = y + height;
    let name: String = clip(&lane.name, LEFT - 12.0);
    let mut body = format!(
        "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
         <line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{below:.1}\" y2=\"{below:.1}\"/>",
        LEFT - 8.0,
        y + LANE / 2.0 + 6.0,
        escape(&name),
        WIDTH - RIGHT
    );
    for (bar, row) in lane.bars.iter().zip(rows) {
        if span.shows(bar.span.from_us, bar.span.to_us) {
            body.push_str(&draw_bar(span, bar, y + 4.0 + *row as f64 * LANE));
        }
    }
    let seen: Vec<&Mark> = lane.marks.iter().filter(|mark| span.shows(mark.at_us, mark.at_us)).collect();
    for (at, mark) in seen.iter().enumerate() {
        let next = seen.get(at + 1).map_or(WIDTH - RIGHT, |next| span.x(next.at_us));
        body.push_str(&draw_mark(span, mark, y + 4.0, next));
    }
    body
}

fn draw_bar(span: Span, bar: &Bar, y: f64) -> String {
    let (from, to) = (span.x(bar.span.from_us), span.x(bar.span.to_us));
    let width = (to - from).max(1.5);
    let open = if bar.open { " open" } else { "" };
    let tip = format!("{} ({} to {})", bar.label, time(bar.span.from_us), time(bar.span.to_us));
    let text = clip(&bar.label, width - 8.0);
    // Dashed bars are pale: the letters of the page are readable on them, not those of a badge.
    let class = if bar.open { "quiet" } else { "onbar" };
    format!(
        "<g><title>{}</title><rect class=\"f-{colour} l-{colour}{open}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
         height=\"{:.1}\" rx=\"3\"/><text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
        escape(&tip),
        LANE - 6.0,
        from + 4.0,
        y + LANE / 2.0 + 1.0,
        escape(&text),
        colour = bar.colour,
    )
}

fn draw_mark(span: Span, mark: &Mark, y: f64, next: f64) -> String {
    let x = span.x(mark.at_us);
    let tip = format!("{} at {}", mark.label, time(mark.at_us));
    let text = clip(&mark.label, next - x - 10.0);
    let middle = y + LANE / 2.0 - 3.0;
    format!(
        "<g><title>{}</title><path class=\"f-{}\" d=\"M{x:.1} {:.1}l5 6l-5 6l-5 -6z\"/>\
         <text class=\"quiet\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
        escape(&tip),
        mark.colour,
        middle - 6.0,
        x + 8.0,
        middle + 4.0,
        escape(&text)
    )
}

/// A row for each bar, so that no two in a row overlap, and the number of rows.
fn pack(bars: &[Bar]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..bars.len()).collect();
    order.sort_by_key(|&at| bars[at].span.from_us);
    let (mut ends, mut rows): (Vec<u64>, Vec<usize>) = (Vec::new(), vec![0; bars.len()]);
    for at in order {
        let Span { from_us, to_us } = bars[at].span;
        let row = ends.iter().position(|end| *end <= from_us).unwrap_or(ends.len());
        if row == ends.len() {
            ends.push(0);
        }
        (ends[row], rows[at]) = (to_us, row);
    }
    (rows, ends.len())
}

/// As much of a text as fits a width; nothing if that is less than three letters.
fn clip(text: &str, width: f64) -> String {
    let fits = (width / LETTER).max(0.0) as usize;
    match text.chars().count() {
        count if count <= fits => text.to_owned(),
        _ if fits < 4 => String::new(),
        _ => text.chars().take(fits - 1).chain(['…']).collect(),
    }
}

/// The shading of bands. Where several overlap the ground is shaded once, or many of them would hide the plot; each keeps
/// its edge and its tooltip.
fn shades(span: Span, bands: &[Band], top: f64, bottom: f64) -> String {
    let mut seen: Vec<&Band> = bands.iter().filter(|band| span.shows(band.span.from_us, band.span.to_us)).collect();
    seen.sort_by_key(|band| band.span.from_us);
    let (height, mut body, mut shaded) = (bottom - top, String::new(), f64::MIN);
    for band in &seen {
        let (from, to) = (span.x(band.span.from_us).max(shaded), span.x(band.span.to_us));
        if to > from {
            let width = to - from;
            body.push_str(&format!(
                "<rect class=\"shade\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
            ));
            shaded = to;
        }
    }
    for band in &seen {
        let (from, to) = (span.x(band.span.from_us), span.x(band.span.to_us));
        let tip = format!("{} ({} to {})", band.label, time(band.span.from_us), time(band.span.to_us));
        body.push_str(&format!(
            "<g><title>{}</title><line class=\"edge\" x1=\"{from:.1}\" x2=\"{from:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>\
             <rect fill=\"transparent\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/></g>",
            escape(&tip),
            (to - from).max(3.0)
        ));
    }
    body
}

/// Labels above a plot, as many as fit a few rows, and the number of rows that they take.
fn label_rows(span: Span, bands: &[Band], top: f64) -> (String, usize) {
    let (mut free, mut body) = ([f64::MIN; LABEL_ROWS], String::new());
    let mut seen: Vec<&Band> = bands.iter().filter(|band| span.shows(band.span.from_us, band.span.to_us)).collect();
    seen.sort_by_key(|band| band.span.from_us);
    let mut used = 0;
    for band in seen {
        let width = band.label.chars().count() as f64 * LETTER + 6.0;
        let x = span.x(band.span.from_us).min(WIDTH - RIGHT - width).max(LEFT);
        let Some(row) = free.iter().position(|end| *end <= x) else { continue };
        free[row] = x + width;
        used = used.max(row + 1);
        let y = top + row as f64 * LABEL_ROW + 10.0;
        body.push_str(&format!("<text class=\"quiet\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(&band.label)));
    }
    (body, used)
}

fn time_axis(span: Span, top: f64, bottom: f64) -> String {
    let mut body = format!(
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{LEFT}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>\
         <line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>",
        WIDTH - RIGHT
    );
    for at_us in span.ticks() {
        let x = span.x(at_us);
        body.push_str(&format!(
            "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom:.1}\" y2=\"{:.1}\"/>\
             <text class=\"quiet mid\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 4.0,
            bottom + 17.0,
            time(at_us)
        ));
    }
    body
}

fn frame(height: f64, body: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\">{body}</svg>")
}

/// Values to heights.
struct Heights {
    scale: Scale,
    range: (f64, f64),
    top: f64,
    height: f64,
}

impl Heights {
    fn at(&self, value: f64) -> f64 {
        let (low, high) = self.range;
        let share = match self.scale {
            Scale::Linear => (value - low) / (high - low),
            Scale::Log => (value.max(low).log10() - low.log10()) / (high.log10() - low.log10()),
        };
        self.top + self.height * (1.0 - share.clamp(0.0, 1.0))
    }

    fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.range;
        match self.scale {
            Scale::Linear => (0..=4).map(|n| low + (high - low) * f64::from(n) / 4.0).collect(),
            Scale::Log => {
                let (from, to) = (low.log10().round() as i32, high.log10().round() as i32);
                (from..=to).map(|power| 10f64.powi(power)).collect()
            }
        }
    }
}

/// What so much exceeds what is typical is cut off at the top, with its value beside it, or all the rest would be flat.
const OUTLIER: f64 = 3.0;

/// The value that 49 of 50 do not exceed.
fn typical(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let most = values.len() * 49 / 50;
    values.get(most).or(values.last()).copied().filter(|value| *value > 0.0).unwrap_or(f64::INFINITY)
}

/// The next round number: 1, 2, 4 or 8 times a power of ten (quarters of it are round too).
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 8.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(value)
}

/// A number beside an axis.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e4 => format!("{} k", value / 1e3),
        value if value >= 1.0 => format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        value => format!("{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(from_us: u64, to_us: u64) -> Bar {
        Bar { span: Span::new(from_us, to_us), label: "<b>".into(), colour: "s1", open: false }
    }

    fn plot(points: Vec<(u64, Option<f64>)>, scale: Scale) -> Plot {
        let band = Band { span: Span::new(3, 4), label: "kill <m1>".into() };
        let line = Line { name: "p50 & co".into(), colour: "s1", points };
        let span = Span::new(0, 10);
        Plot { span, unit: "ms".into(), scale, lines: vec![line], stack: None, bands: vec![band], height: 100 }
    }

    #[test]
    fn texts_are_escaped_and_numbers_finite() {
        for scale in [Scale::Linear, Scale::Log] {
            let odd = vec![(0, Some(0.0)), (1, Some(f64::NAN)), (2, None), (99, Some(-3.0)), (5, Some(f64::INFINITY))];
            let svg = plot(odd, scale).draw() + &plot(Vec::new(), scale).draw();
            assert!(svg.contains("kill &lt;m1&gt;") && svg.contains("p50 &amp; co"), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        let lane = Lane { name: "m1 <x>".into(), bars: vec![bar(1, 9)], ..Lane::default() };
        let svg = lanes(Span::new(0, 0), &[lane], &[]);
        assert!(svg.contains("m1 &lt;x&gt;") && !svg.contains("<b>"), "{svg}");
    }

    #[test]
    fn bars_that_overlap_get_rows_of_their_own() {
        assert_eq!(pack(&[bar(0, 10), bar(5, 15), bar(10, 20), bar(12, 13)]), (vec![0, 1, 0, 2], 3));
    }

    #[test]
    fn a_higher_value_stands_higher() {
        for (scale, range) in [(Scale::Linear, (0.0, 100.0)), (Scale::Log, (1.0, 100.0))] {
            let y = Heights { scale, range, top: 10.0, height: 50.0 };
            assert_eq!((y.at(100.0), y.at(range.0)), (10.0, 60.0));
            assert!(y.at(10.0) > y.at(20.0));
        }
    }

    #[test]
    fn one_outlier_does_not_flatten_the_rest() {
        let columns = (0..100).map(|at| (at, vec![if at == 50 { 5_000.0 } else { 40.0 }])).collect();
        let stack = Some(Stack { layers: vec![("ok".into(), "good")], width_us: 1, columns });
        let tall = Plot { stack, span: Span::new(0, 100), ..plot(Vec::new(), Scale::Linear) };
        assert_eq!(tall.range(), (0.0, 200.0));
        assert!(tall.draw().contains(">5000</text>"));
        let few = Plot { stack: None, ..plot(vec![(0, Some(3.0)), (1, Some(9.0))], Scale::Linear) };
        assert_eq!(few.range(), (0.0, 10.0));
    }

    #[test]
    fn times_are_for_people() {
        let told = [0, 950, 12_500, 3_000_000, 245_000_000, 3_845_000_000].map(time);
        assert_eq!(told, ["0", "950 µs", "12.5 ms", "3 s", "4:05", "1:04:05"]);
        assert!((4..=13).contains(&Span::new(0, 3_600_000_000).ticks().len()));
        assert!(Span::new(7, 8).ticks().len() <= 2);
    }
}
