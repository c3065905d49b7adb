//! `steersman config …`: check files, show what is in force and where it comes from.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use steersman_client::codes::{self, Code};
use steersman_master::config::MasterConfig;
use steersman_worker::WorkerConfig;

use crate::context::Ctx;
use crate::exit::{self, Failure, Outcome};
use crate::table::{Row, col, print_list};
use crate::units;

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration file; exit code 7 if it is not valid
    #[command(
        after_help = "Examples:\n  steersman config check master.toml\n  steersman config check --kind worker w1.toml"
    )]
    Check(CheckArgs),
    /// Show every setting, its value and where it comes from
    #[command(after_help = "\
Examples:
  steersman config show                   how this command line finds its cluster
  steersman config show master.toml
  steersman config show --kind worker     the defaults of a worker")]
    Show(ShowArgs),
}

/// Whose configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// `master start --config`
    Master,
    /// `worker start --config`
    Worker,
}

/// Options of `config check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The file
    file: PathBuf,
    /// Whose configuration it is [default: seen from its keys]
    #[arg(long, value_enum)]
    kind: Option<Kind>,
}

/// Options of `config show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A node's configuration file; without it, this command line's own settings
    file: Option<PathBuf>,
    /// Whose configuration it is [default: seen from its keys]
    #[arg(long, value_enum)]
    kind: Option<Kind>,
}

/// Runs a subcommand.
///
/// # Errors
/// When a file is not valid.
pub fn config(ctx: &Ctx, command: ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Check(args) => check(ctx, &args),
        ConfigCommand::Show(ShowArgs { file: None, kind: None }) => show_own(ctx),
        ConfigCommand::Show(args) => show(ctx, &args),
    }
}

/// A configuration that is not valid, in the words of the node that would refuse it.
pub fn invalid(exit: i32, code: &Code, problems: &str) -> Failure {
    Failure::coded(exit, code, problems.to_owned())
}

fn check(ctx: &Ctx, args: &CheckArgs) -> Outcome {
    let (kind, text) = read(&args.file, args.kind)?;
    let origin = args.file.display().to_string();
    let warnings = match kind {
        Kind::Master => {
            let parsed = MasterConfig::parse(&text, &origin);
            parsed.map_err(|error| invalid(exit::CHECK_FAILED, &error.code(), &error.to_string()))?.warnings()
        }
        Kind::Worker => {
            let parsed = WorkerConfig::parse(&text, &origin);
            parsed.map_err(|error| invalid(exit::CHECK_FAILED, &codes::CONFIG, &error.to_string()))?;
            Vec::new()
        }
    };
    for warning in &warnings {
        ctx.warn(warning);
    }
    if ctx.output.is_json() {
        return ctx.print(json!({"file": origin, "kind": word(kind), "valid": true, "warnings": warnings}).to_string());
    }
    ctx.print(format!("{origin}: valid configuration of a {}", word(kind)))
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Master => "master",
        Kind::Worker => "worker",
    }
}

fn read(file: &Path, kind: Option<Kind>) -> Outcome<(Kind, String)> {
    let cannot =
        |error| Failure::usage(format!("cannot read {}: {error}", file.display()), "name a configuration file");
    let text = std::fs::read_to_string(file).map_err(cannot)?;
    let kind = kind.unwrap_or_else(|| seen_from_keys(&text));
    Ok((kind, text))
}

/// A worker's file names masters as a plain list or has a worker's name; everything else is taken for a master's.
fn seen_from_keys(text: &str) -> Kind {
    let table: toml::Table = text.parse().unwrap_or_default();
    let plain_list = table.get("masters").and_then(toml::Value::as_array);
    let plain_list = plain_list.is_some_and(|list| list.iter().all(toml::Value::is_str) && !list.is_empty());
    if !table.contains_key("node_id") && (plain_list || table.contains_key("name")) {
        Kind::Worker
    } else {
        Kind::Master
    }
}

fn show(ctx: &Ctx, args: &ShowArgs) -> Outcome {
    let (kind, text, origin) = match &args.file {
        Some(file) => {
            let (kind, text) = read(file, args.kind)?;
            (kind, text, file.display().to_string())
        }
        None => (args.kind.unwrap_or(Kind::Master), String::new(), String::new()),
    };
    let effective = effective(kind, &text, &origin)?;
    let given: toml::Table = text.parse().unwrap_or_default();
    let mut rows = Vec::new();
    flatten(&effective, &toml::Value::Table(given), "", &origin, &mut rows);
    print_list(ctx, "setting", &[col("SETTING"), col("VALUE"), col("FROM")], &rows)
}

fn effective(kind: Kind, text: &str, origin: &str) -> Outcome<toml::Value> {
    let bad = |code: &Code, problems: String| invalid(exit::CHECK_FAILED, code, &problems);
    let value = match kind {
        Kind::Master if text.is_empty() => toml::Value::try_from(MasterConfig::default()),
        Kind::Master => {
            toml::Value::try_from(MasterConfig::parse(text, origin).map_err(|e| bad(&e.code(), e.to_string()))?)
        }
        Kind::Worker if text.is_empty() => toml::Value::try_from(WorkerConfig::default()),
        Kind::Worker => {
            toml::Value::try_from(WorkerConfig::parse(text, origin).map_err(|e| bad(&codes::CONFIG, e.to_string()))?)
        }
    };
    value.map_err(|error| Failure::local(format!("cannot be shown: {error}"), "use config check"))
}

/// One row per value; `given` is what the file says at the same place.
fn flatten(value: &toml::Value, given: &toml::Value, path: &str, origin: &str, rows: &mut Vec<Row>) {
    let absent = toml::Value::Boolean(false);
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        toml::Value::Table(table) if !table.is_empty() => {
            for (key, inner) in table {
                flatten(inner, given.get(key).unwrap_or(&absent), &join(key), origin_of(given, key, origin), rows);
            }
        }
        toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
            for (n, inner) in list.iter().enumerate() {
                flatten(inner, given, &format!("{path}[{n}]"), origin, rows);
            }
        }
        value => {
            let from = if origin.is_empty() { "default" } else { origin };
            let json = json!({"setting": path, "value": to_json(value), "from": from});
            rows.push(Row {
                id: path.to_owned(),
                cells: vec![path.to_owned(), value.to_string(), from.to_owned()],
                json,
            });
        }
    }
}

/// The file, if it says something here; a table's own values are looked up one by one.
fn origin_of<'a>(given: &toml::Value, key: &str, origin: &'a str) -> &'a str {
    let said = given.is_array() || given.get(key).is_some();
    if said { origin } else { "" }
}

fn to_json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => json!(text),
        toml::Value::Integer(n) => json!(n),
        toml::Value::Float(n) => json!(n),
        toml::Value::Boolean(b) => json!(b),
        toml::Value::Datetime(t) => json!(t.to_string()),
        toml::Value::Array(list) => Value::Array(list.iter().map(to_json).collect()),
        toml::Value::Table(table) => {
            Value::Object(table.iter().map(|(k, v)| (k.clone(), to_json(v))).collect::<Map<_, _>>())
        }
    }
}

fn show_own(ctx: &Ctx) -> Outcome {
    let (addresses, origin) = ctx.addresses();
    let timeout = units::short(ctx.timeout.as_millis() as u64);
    let rows: Vec<Row> =
        [("address", addresses.join(","), origin.to_string()), ("timeout", timeout, "--timeout".to_owned())]
            .into_iter()
            .map(|(setting, value, from)| Row {
                id: setting.to_owned(),
                json: json!({"setting": setting, "value": value, "from": from}),
                cells: vec![setting.to_owned(), value, from],
            })
            .collect();
    print_list(ctx, "setting", &[col("SETTING"), col("VALUE"), col("FROM")], &rows)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_kind_is_seen_from_the_keys() {
        assert_eq!(seen_from_keys("name = 'w'\nmasters = ['a:1']"), Kind::Worker);
        assert_eq!(seen_from_keys("node_id = 1\ndata_dir = 'd'"), Kind::Master);
        assert_eq!(seen_from_keys("[[masters]]\nid = 1"), Kind::Master);
        assert_eq!(seen_from_keys("not toml"), Kind::Master);
    }

    #[test]
    fn every_setting_says_where_it_comes_from() {
        let text = "name = 'w'\ndata_dir = '/d'\nmasters = ['a:1']\ncapacity = 3\n[labels]\nzone = 'a'\n";
        let effective = effective(Kind::Worker, text, "w.toml").unwrap();
        let mut rows = Vec::new();
        flatten(&effective, &toml::Value::Table(text.parse().unwrap()), "", "w.toml", &mut rows);
        let from = |setting: &str| rows.iter().find(|row| row.id == setting).map(|row| row.cells[2].clone()).unwrap();
        assert_eq!((from("capacity").as_str(), from("labels.zone").as_str()), ("w.toml", "w.toml"));
        assert_eq!(from("heartbeat_ms"), "default");
    }
}
