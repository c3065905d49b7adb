//! `steersman task submit`: one task, an array, or one task per line of input, streamed in batches.
//!
//! What always holds: a batch is submitted whole or not at all; when something fails half way, the message says which tasks
//! exist; with an idempotency key the same input submits nothing twice.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use prost::Message as _;
use serde_json::json;
use steersman_client::v1::{TaskGroup, TaskSpec};
use steersman_client::{Client, RequestId};
use tokio::sync::mpsc;

use super::wait::{report, verdict, wait_for};
use crate::context::{Ctx, Output};
use crate::exit::{Failure, Outcome};
use crate::spec::{SpecArgs, from_json, from_line};
use crate::units;

/// Tasks (as lines of input) in one request; the masters' limit.
const BATCH_LINES: usize = 10_000;
/// Bytes in one request: below the masters' limit of 8 MiB.
const BATCH_BYTES: usize = 7 << 20;
/// Input that pauses this long is submitted as far as it came.
const IDLE: Duration = Duration::from_millis(100);
/// The longest line of input, in bytes: above any task that masters take.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Options of `task submit`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steersman task submit -- sha256sum /etc/hosts
  steersman task submit --array 100 --name sweep -- sh -c 'echo $STEERSMAN_ARRAY_INDEX'
  find /usr -type f | steersman task submit --lines - --wait -- sha256sum {}
  steersman task submit tasks.jsonl --priority 10

  A line of tasks.jsonl:
  {\"name\": \"a\", \"command\": [\"sha256sum\", \"/etc/hosts\"], \"env\": {\"LANG\": \"C\"}, \"retry_on\": [\"worker-lost\", 75]}

  Its fields: name, command, workdir, stdin, stdin_base64, handler, payload, payload_base64, env, require_labels,
  require_resources, priority, timeout_ms, deadline_ms, max_attempts, backoff, retry_on, on_partition, kill_grace_ms, count.
  Flags are defaults for what a line leaves out. `task show -o json` prints a task's spec in the same form.")]
pub struct SubmitArgs {
    /// One task per line; - is stdin. JSON objects, or plain lines with --lines
    #[arg(value_name = "FILE", required_unless_present_any = ["command", "handler"])]
    file: Option<PathBuf>,
    /// Lines are plain text: each becomes a task, with {} in CMD replaced by the line
    #[arg(long, requires = "file", requires = "command")]
    lines: bool,
    /// Submit N equal tasks; each finds its number (0 to N-1) in STEERSMAN_ARRAY_INDEX
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000), conflicts_with = "file", value_name = "N")]
    array: Option<u32>,
    /// Submitting the same input again with this key has no second effect, as long as masters remember it (15 minutes
    /// by default)
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Let the masters check everything, and submit nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until all are finished; exit code 6 if one failed or was cancelled
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    #[command(flatten)]
    spec: SpecArgs,
    /// The program and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// Bad input, a refusal, or as every mutation.
pub async fn submit(ctx: &Ctx, args: &SubmitArgs) -> Outcome {
    if args.file.is_some() && !args.lines && !args.command.is_empty() {
        return Err(Failure::usage("FILE and CMD together need --lines", "add --lines, or leave one of them out"));
    }
    let client = ctx.client()?;
    let spec = args.spec.to_spec(&args.command)?;
    let mut submission = Submission::new(ctx, &client, args);
    match &args.file {
        None => {
            let group = TaskGroup { spec: Some(spec), count: args.array.unwrap_or(1) };
            submission.send(vec![group]).await?;
        }
        Some(file) => submission.send_lines(file, spec).await?,
    }
    let ranges = std::mem::take(&mut submission.ranges);
    if args.dry_run {
        ctx.note(format!("{} tasks would be submitted", submission.count));
        return Ok(());
    }
    finish(ctx, &client, args, &ranges).await
}

async fn finish(ctx: &Ctx, client: &Client, args: &SubmitArgs, ranges: &[(u64, u64)]) -> Outcome {
    print_ids(ctx, ranges)?;
    if ranges.is_empty() {
        ctx.warn("the input has no task: nothing was submitted");
    }
    if !args.wait {
        return Ok(());
    }
    let totals = wait_for(ctx, client, ranges, None).await?;
    if !ctx.output.is_json() {
        report(ctx, &totals)?;
    }
    verdict(&totals)
}

fn print_ids(ctx: &Ctx, ranges: &[(u64, u64)]) -> Outcome {
    let count: u64 = ranges.iter().map(|(_, count)| count).sum();
    match ctx.output {
        Output::Table | Output::Wide => {
            ranges.iter().try_for_each(|(first, count)| ctx.print(units::range(*first, *count)))
        }
        Output::Id => {
            ranges.iter().flat_map(|(first, count)| *first..first + count).try_for_each(|id| ctx.print(id.to_string()))
        }
        Output::Json | Output::Jsonl => {
            let list: Vec<_> = ranges.iter().map(|(first, count)| json!({"first_id": first, "count": count})).collect();
            ctx.print(json!({"count": count, "ranges": list}).to_string())
        }
    }
}

/// The batches of one command.
struct Submission<'a> {
    ctx: &'a Ctx,
    client: &'a Client,
    key: Option<&'a str>,
    dry_run: bool,
    /// First id and count of what was submitted; neighbours are merged.
    ranges: Vec<(u64, u64)>,
    count: u64,
    batches: u64,
}

impl<'a> Submission<'a> {
    fn new(ctx: &'a Ctx, client: &'a Client, args: &'a SubmitArgs) -> Self {
        let (key, dry_run) = (args.idempotency_key.as_deref(), args.dry_run);
        Self { ctx, client, key, dry_run, ranges: Vec::new(), count: 0, batches: 0 }
    }

    async fn send(&mut self, groups: Vec<TaskGroup>) -> Outcome {
        let id = self.request_id();
        self.batches += 1;
        let count: u64 = groups.iter().map(|group| u64::from(group.count.max(1))).sum();
        if self.dry_run {
            self.client.validate(groups).await?;
        } else {
            let answer = self.client.submit_with_id(id, groups).await?;
            self.add(answer.first_id, answer.count);
        }
        self.count += count;
        Ok(())
    }

    fn add(&mut self, first: u64, count: u64) {
        match self.ranges.last_mut() {
            Some((start, length)) if *start + *length == first => *length += count,
            _ => self.ranges.push((first, count)),
        }
    }

    fn request_id(&self) -> RequestId {
        match self.key {
            Some(key) => keyed_id(key, self.batches),
            None => self.client.new_request_id(),
        }
    }

    async fn send_lines(&mut self, file: &Path, spec: TaskSpec) -> Outcome {
        let plain = spec.work.is_some() && self.is_lines(&spec);
        let mut lines = read_lines(file)?;
        let mut batch = Batch::default();
        loop {
            let waiting = !batch.groups.is_empty() && self.key.is_none();
            let line = if waiting { tokio::time::timeout(IDLE, lines.recv()).await } else { Ok(lines.recv().await) };
            match line {
                Err(_idle) => self.flush(&mut batch).await?,
                Ok(None) => return self.flush(&mut batch).await,
                Ok(Some(line)) => {
                    let (number, text) = line.map_err(|failure| self.half_way(failure))?;
                    if text.trim().is_empty() {
                        continue;
                    }
                    let group = if plain { Ok(from_line(&text, &spec)) } else { from_json(&text, &spec) };
                    let group = group.map_err(|why| self.half_way(bad_line(file, number, &why)))?;
                    if batch.is_full_with(&group) {
                        self.flush(&mut batch).await?;
                    }
                    batch.push(group);
                }
            }
        }
    }

    /// Plain lines need a command to go into; JSON lines bring their own.
    fn is_lines(&self, spec: &TaskSpec) -> bool {
        use steersman_client::v1::task_spec::Work;
        matches!(&spec.work, Some(Work::Command(command)) if !command.argv.is_empty())
    }

    async fn flush(&mut self, batch: &mut Batch) -> Outcome {
        let groups = std::mem::take(batch).groups;
        if groups.is_empty() {
            return Ok(());
        }
        let sent = self.send(groups).await;
        sent.map_err(|failure| self.half_way(failure))?;
        if self.batches > 1 || self.count >= BATCH_LINES as u64 {
            self.ctx.note(format!("{} tasks submitted", self.count));
        }
        Ok(())
    }

    /// Says what exists already.
    fn half_way(&self, failure: Failure) -> Failure {
        if self.ranges.is_empty() {
            return failure.after("nothing was submitted");
        }
        let ranges: Vec<String> = self.ranges.iter().map(|(first, count)| units::range(*first, *count)).collect();
        failure.after(format!("{} tasks were submitted before: {}", self.count, ranges.join(", ")))
    }
}

fn bad_line(file: &Path, number: u64, why: &str) -> Failure {
    let name = if file == Path::new("-") { "stdin".to_owned() } else { file.display().to_string() };
    Failure::usage(format!("{name}:{number}: {why}"), "see the form of a line: steersman task submit --help")
}

#[derive(Default)]
struct Batch {
    groups: Vec<TaskGroup>,
    bytes: usize,
    tasks: u64,
}

impl Batch {
    fn is_full_with(&self, group: &TaskGroup) -> bool {
        let tasks = self.tasks + u64::from(group.count);
        let over = self.bytes + group.encoded_len() > BATCH_BYTES || tasks > 1_000_000;
        self.groups.len() >= BATCH_LINES || (over && !self.groups.is_empty())
    }

    fn push(&mut self, group: TaskGroup) {
        // A length prefix and a tag come with each.
        self.bytes += group.encoded_len() + 8;
        self.tasks += u64::from(group.count);
        self.groups.push(group);
    }
}

type Line = Result<(u64, String), Failure>;

/// Lines with their numbers from a thread of its own: a pipe may be slow.
fn read_lines(file: &Path) -> Outcome<mpsc::Receiver<Line>> {
    let reader: Box<dyn std::io::BufRead + Send> = if file == Path::new("-") {
        Box::new(std::io::BufReader::new(std::io::stdin()))
    } else {
        let cannot =
            |error| Failure::usage(format!("cannot read {}: {error}", file.display()), "name a file, or - for stdin");
        Box::new(std::io::BufReader::new(std::fs::File::open(file).map_err(cannot)?))
    };
    let (sender, receiver) = mpsc::channel(BATCH_LINES);
    let name = file.to_owned();
    std::thread::spawn(move || forward_lines(reader, &name, &sender));
    Ok(receiver)
}

fn forward_lines(mut reader: Box<dyn std::io::BufRead + Send>, file: &Path, sender: &mpsc::Sender<Line>) {
    for number in 1.. {
        let line = match next_line(&mut reader) {
            Ok(None) => return,
            Ok(Some(text)) => Ok((number, text)),
            Err(why) => Err(bad_line(file, number, &why)),
        };
        let broken = line.is_err();
        if sender.blocking_send(line).is_err() || broken {
            return;
        }
    }
}

fn next_line(reader: &mut Box<dyn std::io::BufRead + Send>) -> Result<Option<String>, String> {
    let mut bytes = Vec::new();
    let mut limited = std::io::Read::take(reader, LINE_BYTES_MAX as u64);
    let read = limited.read_until(b'\n', &mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if read == 0 {
        return Ok(None);
    }
    if read >= LINE_BYTES_MAX && bytes.last() != Some(&b'\n') {
        return Err(format!("is longer than {}", units::bytes(LINE_BYTES_MAX as u64)));
    }
    let end = bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
    bytes.truncate(end);
    String::from_utf8(bytes).map(Some).map_err(|_| "is not UTF-8".to_owned())
}

/// A request id from a key and the number of the batch: 128-bit FNV-1a, which tells inputs apart and hides nothing.
fn keyed_id(key: &str, batch: u64) -> RequestId {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = key.bytes().chain([0]).chain(batch.to_be_bytes());
    bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn p02_a_key_gives_the_same_request_ids_again_and_others_to_others() {
        assert_eq!(keyed_id("a", 0), keyed_id("a", 0));
        let ids: std::collections::BTreeSet<_> =
            [("a", 0), ("a", 1), ("b", 0), ("", 0), ("a\0", 0)].map(|(key, batch)| keyed_id(key, batch)).into();
        assert_eq!(ids.len(), 5);
    }

    #[test]
    fn lines_are_cut_at_their_ends_and_bad_ones_are_refused() {
        let mut reader: Box<dyn std::io::BufRead + Send> = Box::new(std::io::Cursor::new(b"a b \r\n\n\xff\n".to_vec()));
        assert_eq!(next_line(&mut reader).unwrap().unwrap(), "a b ");
        assert_eq!(next_line(&mut reader).unwrap().unwrap(), "");
        assert_eq!(next_line(&mut reader).unwrap_err(), "is not UTF-8");
        assert_eq!(next_line(&mut reader).unwrap(), None);
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        let mut reader: Box<dyn std::io::BufRead + Send> = Box::new(std::io::Cursor::new(long));
        assert!(next_line(&mut reader).unwrap_err().contains("longer than 4.0 MiB"));
    }

    #[test]
    fn a_batch_is_full_by_count_and_by_bytes() {
        let small = TaskGroup { spec: None, count: 1 };
        let mut batch = Batch::default();
        (0..BATCH_LINES).for_each(|_| batch.push(small.clone()));
        assert!(batch.is_full_with(&small));
        let name = "x".repeat(BATCH_BYTES / 2);
        let big = TaskGroup { spec: Some(TaskSpec { name, ..TaskSpec::default() }), count: 1 };
        let mut batch = Batch::default();
        assert!(!batch.is_full_with(&big));
        batch.push(big.clone());
        batch.push(small.clone());
        assert!(batch.is_full_with(&big));
    }
}
