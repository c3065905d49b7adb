//! Task specs from flags, from JSON lines and from plain lines.
//!
//! What always holds: an unknown or malformed field is refused by name, with the nearest known one; flags are defaults
//! that a JSON line may override; nothing is sent from here.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use steersman_client::v1::{
    Backoff, Command, Handler, Label, OnPartition, Resource, RetryOn, TaskGroup, TaskSpec, task_spec::Work,
};

use crate::exit::{Failure, Outcome};
use crate::units::{self, RetryWord};

/// Fields of a task as JSON.
const FIELDS: [&str; 20] = [
    "name",
    "command",
    "workdir",
    "stdin",
    "stdin_base64",
    "handler",
    "payload",
    "payload_base64",
    "env",
    "require_labels",
    "require_resources",
    "priority",
    "timeout_ms",
    "deadline_ms",
    "max_attempts",
    "backoff",
    "retry_on",
    "on_partition",
    "kill_grace_ms",
    "count",
];
/// Fields of its backoff.
const BACKOFF_FIELDS: [&str; 4] = ["initial_ms", "max_ms", "factor", "jitter"];

/// What a cut-off worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Partition {
    /// Goes on; the task may run twice at a time
    Continue,
    /// Kills the attempt before it can run elsewhere
    Stop,
}

/// The terms of a task.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Task options")]
pub struct SpecArgs {
    /// A name for people; need not be unique
    #[arg(long)]
    pub name: Option<String>,
    /// Set a variable of the task's environment; KEY alone takes the value it has here
    #[arg(long, value_parser = units::env, value_name = "KEY[=VALUE]")]
    pub env: Vec<Label>,
    /// Run only on workers with this label
    #[arg(long, value_parser = units::label, value_name = "KEY=VALUE")]
    pub label: Vec<Label>,
    /// Take countable resources of the worker while running
    #[arg(long, value_parser = units::resource, value_name = "NAME=AMOUNT")]
    pub resource: Vec<Resource>,
    /// -1000 to 1000, higher first
    #[arg(long, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub priority: Option<i32>,
    /// End an attempt that runs longer
    #[arg(long, value_parser = units::duration_ms, value_name = "DURATION")]
    pub attempt_timeout: Option<u64>,
    /// Give the whole task up after this long, counted from its submit
    #[arg(long, value_parser = units::duration_ms, value_name = "DURATION")]
    pub deadline: Option<u64>,
    /// How often it may be tried [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    pub max_attempts: Option<u32>,
    /// What deserves another attempt: worker-lost, timeout, failure, an exit code, or never [default: worker-lost]
    #[arg(long, value_parser = units::retry_word, value_delimiter = ',', value_name = "WHAT")]
    pub retry_on: Vec<RetryWord>,
    /// What a worker that is cut off from the masters does with it
    #[arg(long, value_enum)]
    pub on_partition: Option<Partition>,
    /// Time between SIGTERM and SIGKILL [default: 5s]
    #[arg(long, value_parser = units::duration_ms, value_name = "DURATION")]
    pub kill_grace: Option<u64>,
    /// Directory to run in, on the worker [default: a fresh one of the attempt's own]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run a named handler of an embedding worker instead of a command
    #[arg(long, value_name = "NAME")]
    pub handler: Option<String>,
    /// What the handler is given
    #[arg(long, requires = "handler", value_name = "TEXT")]
    pub payload: Option<String>,
}

impl SpecArgs {
    /// The spec that these flags describe, with `argv` (empty: no command, or a handler).
    ///
    /// # Errors
    /// When flags contradict each other.
    pub fn to_spec(&self, argv: &[String]) -> Outcome<TaskSpec> {
        if self.handler.is_some() && !argv.is_empty() {
            return Err(Failure::usage(
                "a task is a command or a handler, not both",
                "leave out --handler or the command",
            ));
        }
        Ok(TaskSpec {
            name: self.name.clone().unwrap_or_default(),
            work: self.work(argv),
            env: self.env.clone(),
            require_labels: self.label.clone(),
            require_resources: self.resource.clone(),
            priority: self.priority.unwrap_or(0),
            timeout_ms: self.attempt_timeout.unwrap_or(0),
            deadline_ms: self.deadline.unwrap_or(0),
            max_attempts: self.max_attempts.unwrap_or(0),
            backoff: None,
            retry_on: self.retry_on()?,
            on_partition: self.on_partition.map_or(0, Partition::wire),
            kill_grace_ms: self.kill_grace.unwrap_or(0),
        })
    }

    fn work(&self, argv: &[String]) -> Option<Work> {
        if let Some(name) = &self.handler {
            let payload = self.payload.clone().unwrap_or_default().into_bytes().into();
            return Some(Work::Handler(Handler { name: name.clone(), payload }));
        }
        let workdir = self.workdir.clone().unwrap_or_default();
        (!argv.is_empty() || !workdir.is_empty())
            .then(|| Work::Command(Command { argv: argv.to_vec(), workdir, stdin: Default::default() }))
    }

    fn retry_on(&self) -> Outcome<Option<RetryOn>> {
        if self.retry_on.is_empty() {
            return Ok(None);
        }
        let on =
            units::retry_on(&self.retry_on).map_err(|why| Failure::usage(format!("--retry-on: {why}"), "see --help"));
        on.map(Some)
    }
}

impl Partition {
    fn wire(self) -> i32 {
        match self {
            Self::Continue => OnPartition::Continue.into(),
            Self::Stop => OnPartition::Stop.into(),
        }
    }
}

/// A task from one line of JSON; `defaults` come from flags.
pub fn from_json(line: &str, defaults: &TaskSpec) -> Result<TaskGroup, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| format!("is not JSON: {error}"))?;
    let Value::Object(map) = value else {
        return Err("must be a JSON object such as {\"command\": [\"echo\", \"hello\"]}".to_owned());
    };
    let mut spec = defaults.clone();
    let mut count = 1;
    for (key, value) in &map {
        match key.as_str() {
            "count" => count = number(key, value, 1, 1_000_000)? as u32,
            _ => set_field(&mut spec, key, value)?,
        }
    }
    finish_work(&mut spec, &map)?;
    Ok(TaskGroup { spec: Some(spec), count })
}

fn set_field(spec: &mut TaskSpec, key: &str, value: &Value) -> Result<(), String> {
    match key {
        "name" => spec.name = text(key, value)?,
        "env" => merge(&mut spec.env, labels(key, value)?),
        "require_labels" => merge(&mut spec.require_labels, labels(key, value)?),
        "require_resources" => spec.require_resources = resources(key, value)?,
        "priority" => spec.priority = number(key, value, -1000, 1000)? as i32,
        "timeout_ms" => spec.timeout_ms = number(key, value, 0, i64::MAX)? as u64,
        "deadline_ms" => spec.deadline_ms = number(key, value, 0, i64::MAX)? as u64,
        "max_attempts" => spec.max_attempts = number(key, value, 1, 1000)? as u32,
        "kill_grace_ms" => spec.kill_grace_ms = number(key, value, 0, i64::MAX)? as u64,
        "backoff" => spec.backoff = Some(backoff(value)?),
        "retry_on" => spec.retry_on = Some(retry_on(value)?),
        "on_partition" => spec.on_partition = on_partition(value)?,
        // Parts of the work, taken together by `finish_work`.
        "command" | "workdir" | "stdin" | "stdin_base64" | "handler" | "payload" | "payload_base64" => {}
        unknown => return Err(unknown_field(unknown, &FIELDS)),
    }
    Ok(())
}

fn unknown_field(key: &str, known: &[&str]) -> String {
    match units::nearest(key, known) {
        Some(nearest) => format!("there is no field {key:?}; did you mean {nearest:?}?"),
        None => format!("there is no field {key:?}; the fields are {}", known.join(", ")),
    }
}

fn finish_work(spec: &mut TaskSpec, map: &Map<String, Value>) -> Result<(), String> {
    if map.contains_key("handler") {
        if map.contains_key("command") {
            return Err("a task has a \"command\" or a \"handler\", not both".to_owned());
        }
        let name = text("handler", &map["handler"])?;
        spec.work = Some(Work::Handler(Handler { name, payload: bytes(map, "payload")?.unwrap_or_default().into() }));
        return Ok(());
    }
    if matches!(spec.work, Some(Work::Handler(_))) && !map.contains_key("command") {
        return default_handler(spec, map);
    }
    let mut command = match spec.work.take() {
        Some(Work::Command(command)) => command,
        _ => Command::default(),
    };
    if let Some(argv) = map.get("command") {
        command.argv = texts("command", argv)?;
    }
    if let Some(workdir) = map.get("workdir") {
        command.workdir = text("workdir", workdir)?;
    }
    if let Some(stdin) = bytes(map, "stdin")? {
        command.stdin = stdin.into();
    }
    if command.argv.is_empty() {
        return Err("needs a \"command\" (a list of texts, the program first) or a \"handler\"".to_owned());
    }
    spec.work = Some(Work::Command(command));
    Ok(())
}

/// The handler came from `--handler`; the line may bring its payload.
fn default_handler(spec: &mut TaskSpec, map: &Map<String, Value>) -> Result<(), String> {
    if let (Some(Work::Handler(handler)), Some(payload)) = (&mut spec.work, bytes(map, "payload")?) {
        handler.payload = payload.into();
    }
    Ok(())
}

fn bytes(map: &Map<String, Value>, key: &str) -> Result<Option<Vec<u8>>, String> {
    let coded = format!("{key}_base64");
    match (map.get(key), map.get(&coded)) {
        (Some(_), Some(_)) => Err(format!("has both {key:?} and {coded:?}")),
        (Some(plain), None) => text(key, plain).map(|text| Some(text.into_bytes())),
        (None, Some(value)) => {
            units::unbase64(&text(&coded, value)?).map(Some).map_err(|why| format!("field {coded:?} {why}"))
        }
        (None, None) => Ok(None),
    }
}

fn text(key: &str, value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("field {key:?} must be a text, not {value}"))
}

fn texts(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let list = value.as_array().filter(|list| !list.is_empty() && list.iter().all(Value::is_string));
    let list =
        list.ok_or_else(|| format!("field {key:?} must be a list of texts, e.g. [\"echo\", \"hello\"], not {value}"))?;
    list.iter().map(|item| text(key, item)).collect()
}

fn number(key: &str, value: &Value, min: i64, max: i64) -> Result<i64, String> {
    let number = value.as_i64().ok_or_else(|| format!("field {key:?} must be a whole number, not {value}"))?;
    if (min..=max).contains(&number) {
        Ok(number)
    } else {
        Err(format!("field {key:?} is {number}; allowed is {min} to {max}"))
    }
}

fn object<'a>(key: &str, value: &'a Value) -> Result<&'a Map<String, Value>, String> {
    value
        .as_object()
        .ok_or_else(|| format!("field {key:?} must be an object such as {{\"key\": \"value\"}}, not {value}"))
}

fn labels(key: &str, value: &Value) -> Result<Vec<Label>, String> {
    let pairs = object(key, value)?.iter();
    pairs.map(|(name, value)| Ok(Label { key: name.clone(), value: text(&format!("{key}.{name}"), value)? })).collect()
}

fn resources(key: &str, value: &Value) -> Result<Vec<Resource>, String> {
    let pairs = object(key, value)?.iter();
    let one = |(name, value): (&String, &Value)| {
        let amount = number(&format!("{key}.{name}"), value, 1, i64::MAX)? as u64;
        Ok(Resource { name: name.clone(), amount })
    };
    pairs.map(one).collect()
}

/// The line's labels win over those of the flags.
fn merge(into: &mut Vec<Label>, from: Vec<Label>) {
    into.retain(|old| !from.iter().any(|new| new.key == old.key));
    into.extend(from);
}

fn backoff(value: &Value) -> Result<Backoff, String> {
    let mut backoff = Backoff { initial_ms: 1_000, max_ms: 60_000, factor: 2.0, jitter: 0.2 };
    for (key, value) in object("backoff", value)? {
        let name = format!("backoff.{key}");
        let float = || value.as_f64().ok_or_else(|| format!("field {name:?} must be a number, not {value}"));
        match key.as_str() {
            "initial_ms" => backoff.initial_ms = number(&name, value, 0, i64::MAX)? as u64,
            "max_ms" => backoff.max_ms = number(&name, value, 0, i64::MAX)? as u64,
            "factor" => backoff.factor = float()?,
            "jitter" => backoff.jitter = float()?,
            unknown => return Err(format!("backoff: {}", unknown_field(unknown, &BACKOFF_FIELDS))),
        }
    }
    Ok(backoff)
}

fn retry_on(value: &Value) -> Result<RetryOn, String> {
    let wrong = || format!("field \"retry_on\" must be a list such as [\"worker-lost\", \"timeout\", 75], not {value}");
    let mut words = Vec::new();
    for item in value.as_array().ok_or_else(wrong)? {
        let written = item.as_str().map(str::to_owned).unwrap_or_else(|| item.to_string());
        words.push(units::retry_word(&written).map_err(|why| format!("field \"retry_on\": {why}"))?);
    }
    units::retry_on(&words).map_err(|why| format!("field \"retry_on\": {why}"))
}

fn on_partition(value: &Value) -> Result<i32, String> {
    match value.as_str() {
        Some("continue") => Ok(OnPartition::Continue.into()),
        Some("stop") => Ok(OnPartition::Stop.into()),
        _ => Err(format!("field \"on_partition\" must be \"continue\" or \"stop\", not {value}")),
    }
}

/// A command with each `{}` replaced by `line`; without any, the line is its last argument.
pub fn from_line(line: &str, template: &TaskSpec) -> TaskGroup {
    let mut spec = template.clone();
    if let Some(Work::Command(command)) = &mut spec.work {
        if command.argv.iter().any(|arg| arg.contains("{}")) {
            command.argv.iter_mut().for_each(|arg| *arg = arg.replace("{}", line));
        } else {
            command.argv.push(line.to_owned());
        }
    }
    TaskGroup { spec: Some(spec), count: 1 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::views::spec_json;

    fn group(line: &str) -> Result<TaskGroup, String> {
        from_json(line, &TaskSpec::default())
    }

    #[test]
    fn what_is_shown_can_be_submitted_again() {
        let line = r#"{"name":"n","command":["a","b c"],"workdir":"/w","stdin_base64":"/w==","env":{"K":"V"},
            "require_labels":{"zone":"a"},"require_resources":{"gpu":2},"priority":-5,"timeout_ms":1,"deadline_ms":2,
            "max_attempts":4,"backoff":{"initial_ms":5,"factor":1.5},"retry_on":["timeout",75],"on_partition":"stop",
            "kill_grace_ms":9,"count":3}"#;
        let first = group(line).unwrap();
        assert_eq!(first.count, 3);
        let again = group(&spec_json(first.spec.as_ref().unwrap()).to_string()).unwrap();
        assert_eq!(again.spec, first.spec);
        let handler = group(r#"{"handler":"h","payload":"x"}"#).unwrap();
        assert_eq!(group(&spec_json(handler.spec.as_ref().unwrap()).to_string()).unwrap(), handler);
    }

    #[test]
    fn p15_a_wrong_field_is_named_with_the_remedy() {
        for (line, wanted) in [
            (r#"{"command":["a"],"priorty":1}"#, r#"there is no field "priorty"; did you mean "priority"?"#),
            (r#"{"command":["a"],"zzz":1}"#, "the fields are name, command"),
            (r#"{"command":"a b"}"#, r#"field "command" must be a list of texts"#),
            (r#"{"command":[]}"#, "must be a list of texts"),
            (r#"{"command":["a"],"timeout_ms":"30"}"#, r#"field "timeout_ms" must be a whole number, not "30""#),
            (r#"{"command":["a"],"priority":2000}"#, "is 2000; allowed is -1000 to 1000"),
            (r#"{"command":["a"],"env":{"K":1}}"#, r#"field "env.K" must be a text"#),
            (r#"{"command":["a"],"retry_on":["often"]}"#, "is not one of worker-lost, timeout, failure, never"),
            (r#"{"command":["a"],"on_partition":"panic"}"#, r#"must be "continue" or "stop""#),
            (r#"{"command":["a"],"backoff":{"inital_ms":1}}"#, r#"did you mean "initial_ms"?"#),
            (r#"{"command":["a"],"handler":"h"}"#, "not both"),
            (r#"{"command":["a"],"stdin_base64":"!"}"#, "is not base64"),
            (r#"{"name":"n"}"#, r#"needs a "command""#),
            (r#"{"command":["a"]"#, "is not JSON"),
            ("[1]", "must be a JSON object"),
        ] {
            let error = group(line).unwrap_err();
            assert!(error.contains(wanted), "{line}\n  gave {error}\n  not {wanted}");
        }
    }

    #[test]
    fn flags_are_defaults_that_a_line_overrides() {
        let defaults = TaskSpec {
            priority: 7,
            env: vec![Label { key: "A".into(), value: "1".into() }, Label { key: "B".into(), value: "1".into() }],
            ..TaskSpec::default()
        };
        let spec = from_json(r#"{"command":["x"],"env":{"B":"2"}}"#, &defaults).unwrap().spec.unwrap();
        assert_eq!(spec.priority, 7);
        assert_eq!(crate::views::labels_text(&spec.env), "A=1,B=2");
    }

    #[test]
    fn lines_fill_the_braces_or_come_last() {
        let template = |argv: &[&str]| TaskSpec {
            work: Some(Work::Command(Command {
                argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
                ..Command::default()
            })),
            ..TaskSpec::default()
        };
        let argv = |group: TaskGroup| crate::views::work_line(group.spec.as_ref());
        assert_eq!(argv(from_line("f", &template(&["cp", "{}", "{}.bak"]))), "cp f f.bak");
        assert_eq!(argv(from_line("a b", &template(&["sha256sum"]))), "sha256sum 'a b'");
    }
}
