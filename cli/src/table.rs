//! Lists and single things as tables, JSON or ids.
//!
//! What always holds: without a terminal a table is plain text with spaces between its columns; every list has a JSON
//! form with more in it than the table shows; an empty list is said on stderr, not on stdout.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use crate::context::{Ctx, Output};
use crate::exit::Outcome;

/// A column of a list.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    title: &'static str,
    wide: bool,
    right: bool,
}

/// A column that is always shown.
pub const fn col(title: &'static str) -> Column {
    Column { title, wide: false, right: false }
}

impl Column {
    /// Only with `-o wide`.
    pub const fn wide(self) -> Self {
        Self { wide: true, ..self }
    }

    /// Numbers.
    pub const fn right(self) -> Self {
        Self { right: true, ..self }
    }
}

/// One thing of a list.
#[derive(Debug, Clone)]
pub struct Row {
    /// What `-o id` prints.
    pub id: String,
    /// One per column.
    pub cells: Vec<String>,
    /// What `-o json` prints.
    pub json: Value,
}

/// Prints a list.
///
/// # Errors
/// When nobody reads it any more.
pub fn print_list(ctx: &Ctx, what: &str, columns: &[Column], rows: &[Row]) -> Outcome {
    match ctx.output {
        Output::Json => ctx.print(pretty(&Value::Array(rows.iter().map(|row| row.json.clone()).collect()))),
        Output::Jsonl => rows.iter().try_for_each(|row| ctx.print(row.json.to_string())),
        Output::Id => rows.iter().try_for_each(|row| ctx.print(&row.id)),
        Output::Table | Output::Wide if rows.is_empty() => {
            ctx.note(format!("no {what}"));
            Ok(())
        }
        Output::Table | Output::Wide => ctx.print(render(ctx, columns, rows)),
    }
}

/// A table with a header line, without borders.
pub fn render(ctx: &Ctx, columns: &[Column], rows: &[Row]) -> String {
    let shown: Vec<usize> = (0..columns.len()).filter(|n| !columns[*n].wide || ctx.output == Output::Wide).collect();
    let mut table = plain_table(ctx);
    table.set_header(shown.iter().map(|n| Cell::new(ctx.paint(columns[*n].title, "1"))));
    for row in rows {
        let cell = |n: &usize| row.cells.get(*n).map_or("", String::as_str);
        table.add_row(shown.iter().map(|n| Cell::new(state_colored(ctx, cell(n)))));
    }
    for (at, n) in shown.iter().enumerate() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, 2));
            if columns[*n].right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    trimmed(&table.to_string())
}

/// Prints one thing: names and values, or JSON.
///
/// # Errors
/// When nobody reads it any more.
pub fn print_one(ctx: &Ctx, id: &str, fields: &[(&str, String)], json: &Value) -> Outcome {
    match ctx.output {
        Output::Json => ctx.print(pretty(json)),
        Output::Jsonl => ctx.print(json.to_string()),
        Output::Id => ctx.print(id),
        Output::Table | Output::Wide => ctx.print(fields_text(ctx, fields)),
    }
}

/// Names and values below each other; those without a value are left out.
pub fn fields_text(ctx: &Ctx, fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let filled = fields.iter().filter(|(_, value)| !value.is_empty());
    let line = |(name, value): &(&str, String)| {
        let gap = " ".repeat(width - name.len());
        format!("{}{gap}  {}", ctx.paint(name, "1"), state_colored(ctx, value))
    };
    filled.map(line).collect::<Vec<_>>().join("\n")
}

/// JSON for people.
pub fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

fn plain_table(ctx: &Ctx) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if ctx.is_colored() {
        table.enforce_styling()
    } else {
        table.force_no_tty()
    };
    table
}

fn trimmed(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Words that are states carry their colour.
fn state_colored(ctx: &Ctx, text: &str) -> String {
    let style = match text.split(' ').next().unwrap_or_default() {
        "succeeded" | "online" | "leader" | "ready" => "32",
        "failed" | "offline" | "unreachable" => "31",
        "cancelled" | "draining" | "maintenance" | "retrying" | "candidate" | "starting" => "33",
        "running" | "busy" | "scheduled" => "36",
        _ => return text.to_owned(),
    };
    ctx.paint(text, style)
}
