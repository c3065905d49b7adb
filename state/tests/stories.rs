//! Stories: every command of the state as a text that can be read, with all that it brings about. Unexpected output
//! fails; `UPDATE_GOLDENFILES=1` writes it anew, to be read before it is committed.
//!
//! A prefix names the request (`r1: submit a`), `[same]` puts a command into one entry with the next, and after every
//! command the invariants are checked and the state goes through its bytes and back.
#![allow(clippy::unwrap_used)]

mod common;

use std::error::Error;
use std::fmt::Write as _;

use common::{Node, hello, report, reread, spec};
use goldenscript::{ArgumentConsumer, Context};
use steersman_state::*;

type Failure = Box<dyn Error>;

#[derive(Default)]
struct Teller {
    node: Node,
    /// Commands that go into one entry with the next.
    waiting: Vec<Envelope>,
}

#[test]
fn stories() {
    let mut paths: Vec<_> = std::fs::read_dir("testscripts").unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 10, "where are the stories? {paths:?}");
    for path in paths {
        println!("{}", path.display());
        goldenscript::run(&mut Teller::default(), path).unwrap();
    }
}

impl goldenscript::Runner for Teller {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, context: &Context) -> Result<String, Failure> {
        let mut args = command.consume_args();
        if let Some(text) = self.look(&command.name, &mut args)? {
            args.reject_next()?;
            return Ok(text);
        }
        let asked = self.command(&command.name, &mut args)?;
        args.reject_next()?;
        let request = context.prefix.as_deref().map(|name| {
            let mut id = [0; 16];
            id.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
            RequestId(id)
        });
        self.waiting.push(Envelope { request, command: asked });
        if context.tags.contains("same") {
            return Ok(String::new());
        }
        let envelopes = std::mem::take(&mut self.waiting);
        let applied = self.node.apply_envelopes(envelopes);
        Ok(self.tell(&applied))
    }

    fn end_command(&mut self, _: &goldenscript::Command, _: &Context) -> Result<String, Failure> {
        self.node.state.check()?;
        let again = reread(&self.node.state);
        match (again.digest(), again.next_timer_ms()) == (self.node.state.digest(), self.node.state.next_timer_ms()) {
            true => Ok(String::new()),
            false => Err("the state differs after its snapshot was read".into()),
        }
    }
}

/// `key=value`, parsed, or the default.
fn get<T: std::str::FromStr>(args: &mut ArgumentConsumer<'_>, key: &str, default: T) -> Result<T, Failure>
where
    T::Err: Error + 'static,
{
    Ok(args.take_key(key).map(str::parse).transpose()?.unwrap_or(default))
}

/// `a@1/b@2` as pairs.
fn pairs(text: Option<&str>) -> Vec<(String, String)> {
    let pair = |pair: &str| pair.split_once('@').map(|(key, value)| (key.to_owned(), value.to_owned()));
    text.unwrap_or_default().split('/').filter_map(pair).collect()
}

fn numbers(text: Option<&str>) -> Result<Vec<u64>, Failure> {
    let text = text.unwrap_or_default();
    Ok(text.split('/').filter(|part| !part.is_empty()).map(str::parse).collect::<Result<_, _>>()?)
}

fn ids(args: &mut ArgumentConsumer<'_>) -> Result<Vec<TaskId>, Failure> {
    let mut ids = Vec::new();
    while let Some(id) = args.next_pos() {
        ids.push(TaskId(id.parse()?));
    }
    Ok(ids)
}

fn task_spec(args: &mut ArgumentConsumer<'_>) -> Result<TaskSpec, Failure> {
    let mut spec = spec(args.next_pos().unwrap_or("t"));
    spec.priority = get(args, "priority", 0)?;
    spec.max_attempts = get(args, "attempts", 3)?;
    spec.deadline_ms = get(args, "deadline", 0)?;
    spec.timeout_ms = get(args, "timeout", 0)?;
    spec.on_partition = if get(args, "stop", false)? { OnPartition::Stop } else { OnPartition::Continue };
    spec.require_labels = pairs(args.take_key("labels")).into_iter().collect();
    for (key, value) in pairs(args.take_key("resources")) {
        spec.require_resources.insert(key, value.parse()?);
    }
    let backoff = numbers(args.take_key("backoff"))?;
    if let [initial_ms, max_ms] = backoff[..] {
        spec.backoff = Backoff { initial_ms, max_ms, factor_permille: 2_000, jitter_permille: 0 };
    }
    if let Some(words) = args.take_key("retry") {
        let word = |word: &str| words.split('/').any(|other| other == word);
        let exit_codes = words.split('/').filter_map(|word| word.parse().ok()).collect();
        let (worker_lost, timeout, any_failure) = (word("lost"), word("timeout"), word("failure"));
        spec.retry_on = RetryOn { worker_lost, timeout, any_failure, exit_codes };
    }
    Ok(spec)
}

fn outcome(word: &str) -> Result<Outcome, Failure> {
    use Outcome::*;
    let all = [
        Succeeded,
        Exited,
        Signaled,
        TimedOut,
        CannotStart,
        HandlerError,
        WorkerLost,
        Cancelled,
        Deadline,
        PartitionStop,
        WorkerShutdown,
    ];
    let found = all.into_iter().find(|outcome| format!("{outcome:?}").eq_ignore_ascii_case(word));
    found.ok_or_else(|| format!("no such outcome: {word}").into())
}

impl Teller {
    fn worker_id(&self, name: &str) -> WorkerId {
        let by_name = WorkerRef::Name(name.to_owned());
        self.node.state.find_worker(&by_name).unwrap_or(WorkerId(name.parse().unwrap_or(99)))
    }

    fn named(&self, args: &mut ArgumentConsumer<'_>) -> WorkerRef {
        let name = args.next_pos().unwrap_or_default();
        name.parse().map_or_else(|_| WorkerRef::Name(name.to_owned()), |id| WorkerRef::Id(WorkerId(id)))
    }

    /// A worker and the life and session that it has, unless others are given.
    fn life(&self, args: &mut ArgumentConsumer<'_>) -> Result<(WorkerId, u64, u64), Failure> {
        let worker = self.worker_id(args.next_pos().unwrap_or_default());
        let known = self.node.state.worker(worker).map_or((1, 1), |known| (known.incarnation, known.session));
        Ok((worker, get(args, "incarnation", known.0)?, get(args, "session", known.1)?))
    }

    fn command(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<Command, Failure> {
        Ok(match name {
            "reign" => {
                self.node.term += get(args, "terms", 1)?;
                Command::BeginReign
            }
            "begin" => Command::BeginReign,
            "pass" => {
                self.node.time_ms += args.next_pos().unwrap_or("0").parse::<u64>()?;
                Command::Tick
            }
            "init" => {
                let cluster_id = args.next_pos().unwrap_or_default().to_owned();
                Command::InitCluster { cluster_id, limits: self.limits(args)? }
            }
            "limits" => Command::SetLimits(self.limits(args)?),
            "level" => Command::SetFormatLevel(args.next_pos().unwrap_or("0").parse()?),
            "submit" => {
                let count = get(args, "count", 1)?;
                common::submit(task_spec(args)?, count)
            }
            "cancel" => Command::Cancel { tasks: ids(args)? },
            "retry" => Command::Retry { tasks: ids(args)? },
            "started" | "ended" => self.report(name, args)?,
            _ => self.worker_command(name, args)?,
        })
    }

    fn worker_command(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<Command, Failure> {
        Ok(match name {
            "open" => self.open(args)?,
            "close" => {
                let (worker, incarnation, session) = self.life(args)?;
                Command::CloseSession { worker, incarnation, session }
            }
            "lost" => {
                let (worker, incarnation, session) = self.life(args)?;
                Command::WorkerLost { worker, incarnation, session }
            }
            "left" => {
                let (worker, incarnation, _) = self.life(args)?;
                Command::WorkerLeft { worker, incarnation }
            }
            "drain" | "undrain" | "maintenance" => {
                let mode = match name {
                    "drain" => WorkerMode::Drain,
                    "undrain" => WorkerMode::Active,
                    _ => WorkerMode::Maintenance,
                };
                Command::SetWorkerMode { worker: self.named(args), mode, deadline_ms: get(args, "deadline", 0)? }
            }
            "brake" => match args.next_pos().unwrap_or_default() {
                "engage" => Command::EngageBrake,
                "release" => Command::ReleaseBrake,
                _ => {
                    let now = self.node.state.brake(0).policy;
                    Command::SetBrakePolicy(BrakePolicy {
                        share_percent: get(args, "share", now.share_percent)?,
                        window_ms: get(args, "window", now.window_ms)?,
                        workers_min: get(args, "min", now.workers_min)?,
                    })
                }
            },
            "evict" => Command::EvictWorker { worker: self.named(args) },
            "shutdown" => Command::ShutdownWorker { worker: self.named(args), now: get(args, "now", false)? },
            "config" => Command::SetWorkerConfig {
                worker: self.named(args),
                capacity: args.take_key("capacity").map(str::parse).transpose()?,
                heartbeat_ms: args.take_key("heartbeat").map(str::parse).transpose()?,
                set_labels: pairs(args.take_key("set")).into_iter().collect(),
                remove_labels: args.take_key("remove").into_iter().map(str::to_owned).collect(),
            },
            other => return Err(format!("no such command: {other}").into()),
        })
    }

    fn open(&mut self, args: &mut ArgumentConsumer<'_>) -> Result<Command, Failure> {
        let name = args.next_pos().unwrap_or_default().to_owned();
        let n: u8 = name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
        let known = self.node.state.worker(self.worker_id(&name));
        let incarnation = get(args, "incarnation", known.map_or(1, |known| known.incarnation))?;
        let capacity = get(args, "capacity", 1)?;
        let held = numbers(args.take_key("held"))?.into_iter().map(Token).collect();
        let mut ask = hello(n, incarnation, capacity, held);
        ask.name = name;
        ask.uid = WorkerUid([get(args, "uid", n)?; 16]);
        ask.labels = pairs(args.take_key("labels")).into_iter().collect();
        for (key, value) in pairs(args.take_key("resources")) {
            ask.resources.insert(key, value.parse()?);
        }
        ask.heartbeat_ms = get(args, "heartbeat", 1_000)?;
        Ok(Command::OpenSession(ask))
    }

    /// By default the worker of the task's last attempt tells of it.
    fn report(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<Command, Failure> {
        let task = TaskId(args.next_pos().unwrap_or("0").parse()?);
        let known = self.node.state.task(task).and_then(|task| task.attempts.last().cloned());
        let (token, worker) = known.map_or((Token(0), WorkerId(0)), |last| (last.token, last.worker));
        let token = Token(get(args, "token", token.0)?);
        let worker = args.take_key("by").map_or(worker, |name| self.worker_id(name));
        let life = self.node.state.worker(worker).map_or(1, |known| known.incarnation);
        let incarnation = get(args, "incarnation", life)?;
        let news = match name {
            "started" => News::Started,
            _ => {
                let exit_code = get(args, "exit", 0)?;
                let word = args.take_key("outcome").unwrap_or(if exit_code == 0 { "succeeded" } else { "exited" });
                let message = args.take_key("message").unwrap_or_default().to_owned();
                let result = vec![b'x'; get(args, "result", 0)?];
                News::Ended(Ended { outcome: outcome(word)?, exit_code, message, result, ran_ms: 5 })
            }
        };
        Ok(Command::Reports { worker, incarnation, reports: vec![report(token, task, news)] })
    }

    fn limits(&self, args: &mut ArgumentConsumer<'_>) -> Result<Limits, Failure> {
        let now = self.node.state.limits().clone();
        Ok(Limits {
            tasks_unfinished_max: get(args, "unfinished", now.tasks_unfinished_max)?,
            tasks_finished_kept_max: get(args, "finished", now.tasks_finished_kept_max)?,
            tasks_finished_kept_ms: get(args, "finished_ms", now.tasks_finished_kept_ms)?,
            replies_kept_max: get(args, "replies", now.replies_kept_max)?,
            replies_kept_ms: get(args, "replies_ms", now.replies_kept_ms)?,
            events_kept_max: get(args, "events", now.events_kept_max)?,
            workers_max: get(args, "workers", now.workers_max)?,
            workers_offline_kept_ms: get(args, "offline_ms", now.workers_offline_kept_ms)?,
            capacity_max: get(args, "capacity", now.capacity_max)?,
            lease_ms: get(args, "lease", now.lease_ms)?,
            attempts_kept_max: get(args, "attempts", now.attempts_kept_max)?,
        })
    }

    /// Entries that are no ordinary batch.
    fn beside(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<Option<Applied>, Failure> {
        Ok(Some(match name {
            "old-reign" => {
                self.node.term -= 1;
                let applied = self.node.apply(vec![common::submit(spec("late"), 1), Command::Tick]);
                self.node.term += 1;
                applied
            }
            "lag" => {
                let behind: u64 = args.next_pos().unwrap_or("0").parse()?;
                self.node.time_ms -= behind;
                let applied = self.node.apply(vec![Command::Tick]);
                self.node.time_ms += behind;
                applied
            }
            "blank" => {
                self.node.index += 1;
                self.node.state.apply_blank(self.node.index, get(args, "term", self.node.term)?)
            }
            "membership" => {
                self.node.index += 1;
                let masters = |text| Ok::<_, Failure>(numbers(text)?.into_iter().map(MasterId).collect());
                let (voters, learners) = (masters(args.next_pos())?, masters(args.take_key("learners"))?);
                self.node.state.apply_membership(self.node.index, self.node.term, voters, learners)
            }
            "restore" => {
                let state = reread(&self.node.state).restored(get(args, "epoch", 1)?);
                self.node.state = state;
                Applied::default()
            }
            _ => return Ok(None),
        }))
    }

    /// Commands that are no ordinary batch, or only look.
    fn look(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<Option<String>, Failure> {
        let mut out = String::new();
        if let Some(applied) = self.beside(name, args)? {
            return Ok(Some(self.tell(&applied)));
        }
        match name {
            "task" => {
                for id in ids(args)? {
                    self.show_task(id, &mut out)?;
                }
            }
            "tasks" => self.show_tasks(args, &mut out)?,
            "workers" => self.show_workers(&mut out)?,
            "show-brake" => self.show_brake(&mut out)?,
            "outstanding" => {
                let worker = self.worker_id(args.next_pos().unwrap_or_default());
                self.node.state.outstanding(worker).iter().try_for_each(|effect| self.tell_effect(effect, &mut out))?;
            }
            "explain" => self.show_explain(args, &mut out)?,
            "events" => self.show_events(args, &mut out)?,
            "timer" => writeln!(out, "now {}, next {:?}", self.node.state.time_ms(), self.node.state.next_timer_ms())?,
            "counts" => {
                let counts = format!("{:?}\n{:?}", self.node.state.counts(), self.node.state.worker_counts());
                writeln!(out, "{counts}")?;
            }
            "remembered" => {
                let mut id = [0; 16];
                id.iter_mut().zip(args.next_pos().unwrap_or_default().bytes()).for_each(|(to, from)| *to = from);
                writeln!(out, "{:?}", self.node.state.remembered(RequestId(id)))?;
            }
            "tally" => {
                let first = TaskId(args.next_pos().unwrap_or("1").parse()?);
                writeln!(out, "{:?}", self.node.state.tally(first, get(args, "count", 1)?))?;
            }
            "head" => {
                let state = &self.node.state;
                writeln!(
                    out,
                    "cluster {:?}, term {}, leader {:?}, level {}, voters {:?}, learners {:?}",
                    state.cluster_id(),
                    state.term(),
                    state.leader().map(|leader| leader.0),
                    state.format_level(),
                    state.voters().iter().map(|id| id.0).collect::<Vec<_>>(),
                    state.learners().iter().map(|id| id.0).collect::<Vec<_>>(),
                )?;
            }
            _ => return Ok(None),
        }
        Ok(Some(out))
    }

    fn show_task(&self, id: TaskId, out: &mut String) -> Result<(), Failure> {
        let Some(task) = self.node.state.task(id) else {
            writeln!(out, "task {id}: not kept")?;
            return Ok(());
        };
        write!(out, "task {id} {:?} {:?}", task.spec.name, task.state)?;
        if let Some(at_ms) = task.next_attempt_at_ms {
            write!(out, ", again at {at_ms}")?;
        }
        if !task.reason.is_empty() {
            write!(out, " ({})", task.reason)?;
        }
        if !task.result.is_empty() {
            write!(out, ", result of {} bytes, cut: {}", task.result.len(), task.result_truncated)?;
        }
        writeln!(out, ", attempts: {}", task.attempts_total)?;
        for attempt in task.attempts {
            let name = &attempt.worker_name;
            writeln!(out, "  {} on {name}, token {}: {:?}", attempt.number, attempt.token, attempt.outcome)?;
        }
        Ok(())
    }

    fn show_tasks(&self, args: &mut ArgumentConsumer<'_>, out: &mut String) -> Result<(), Failure> {
        let states = args.take_key("state").map_or(Ok(vec![]), |word| {
            use TaskState::*;
            let all = [Pending, Scheduled, Running, Retrying, Succeeded, Failed, Cancelled];
            let found = all.into_iter().find(|state| format!("{state:?}").eq_ignore_ascii_case(word));
            found.map(|state| vec![state]).ok_or(format!("no such state: {word}"))
        })?;
        let filter = TaskFilter {
            states,
            name_prefix: args.take_key("name").unwrap_or_default().into(),
            worker: args.take_key("worker").map(|name| self.worker_id(name)),
            id_from: args.take_key("from").map(str::parse).transpose()?.map(TaskId),
            id_to: args.take_key("to").map(str::parse).transpose()?.map(TaskId),
        };
        let cursor = args.take_key("after").map(str::parse).transpose()?.map(TaskId);
        let (newest, limit) = (get(args, "newest", false)?, get(args, "limit", 100)?);
        let (tasks, next) = self.node.state.list_tasks(&filter, cursor, newest, limit);
        for task in tasks {
            writeln!(out, "{} {:?} {:?}[{}]", task.id, task.state, task.spec.name, task.array_index)?;
        }
        if let Some(next) = next {
            writeln!(out, "more after {next}")?;
        }
        Ok(())
    }

    fn show_brake(&self, out: &mut String) -> Result<(), Failure> {
        let brake = self.node.state.brake(100);
        let held: Vec<_> = brake.held.iter().map(|id| id.0).collect();
        let engaged = match (brake.engaged_since_ms, brake.manual) {
            (None, _) => "released".to_owned(),
            (Some(since_ms), manual) => format!("engaged since {since_ms}, manual: {manual}"),
        };
        writeln!(out, "{engaged}, held {held:?}, lost {} of {} allowed", brake.lost, brake.allowed)?;
        Ok(())
    }

    fn show_workers(&self, out: &mut String) -> Result<(), Failure> {
        for worker in self.node.state.list_workers(None, 100).0 {
            let worker = self.node.state.worker(worker.id).unwrap();
            write!(out, "{} {}: {:?} {}/{}", worker.id, worker.name, worker.status, worker.used, worker.capacity)?;
            write!(out, ", life {} session {}", worker.incarnation, worker.session)?;
            write!(out, ", {}connected", if worker.connected { "" } else { "not " })?;
            if let Some(reason) = worker.offline_reason {
                write!(out, ", {reason:?}")?;
            }
            if !worker.labels.is_empty() {
                write!(out, ", labels {:?}", worker.labels)?;
            }
            if !worker.resources.is_empty() {
                write!(out, ", resources {:?} of {:?}", worker.resources_used, worker.resources)?;
            }
            let tokens: Vec<_> = worker.attempts.iter().map(|token| token.0).collect();
            writeln!(out, ", holds {tokens:?}, {:?}, lease {}", worker.load, worker.lease_ms)?;
        }
        Ok(())
    }

    fn show_explain(&self, args: &mut ArgumentConsumer<'_>, out: &mut String) -> Result<(), Failure> {
        let id = TaskId(args.next_pos().unwrap_or("0").parse()?);
        let Some(why) = self.node.state.explain(id) else {
            writeln!(out, "no task {id}")?;
            return Ok(());
        };
        writeln!(out, "{:?}: {}", why.state, why.summary)?;
        for reason in why.reasons {
            writeln!(out, "  {} of {}: {} ({})", reason.workers, why.workers_total, reason.reason, reason.detail)?;
        }
        Ok(())
    }

    fn show_events(&self, args: &mut ArgumentConsumer<'_>, out: &mut String) -> Result<(), Failure> {
        let page = self.node.state.events_from(get(args, "from", 1)?, get(args, "max", 100)?);
        if let Some((low, high)) = page.gap {
            writeln!(out, "gap {low}..={high}")?;
        }
        for entry in page.entries {
            writeln!(out, "index {}, term {}, time {}:", entry.index, entry.term, entry.time_ms)?;
            entry.events.iter().try_for_each(|event| self.tell_event(event, out))?;
        }
        writeln!(out, "upto {}", page.upto)?;
        Ok(())
    }

    /// Replies, then events, then effects.
    fn tell(&self, applied: &Applied) -> String {
        let mut out = String::new();
        for reply in applied.replies.iter().filter(|reply| **reply != Reply::Done) {
            self.tell_reply(reply, &mut out).unwrap();
        }
        applied.events.iter().for_each(|event| self.tell_event(event, &mut out).unwrap());
        applied.effects.iter().for_each(|effect| self.tell_effect(effect, &mut out).unwrap());
        if out.is_empty() {
            out.push_str("nothing\n");
        }
        out
    }

    fn tell_reply(&self, reply: &Reply, out: &mut String) -> Result<(), Failure> {
        match reply {
            Reply::Done => {}
            Reply::Submitted { first, count } => writeln!(out, "submitted {first}..={}", first.0 + count - 1)?,
            Reply::Cancelled(results) => {
                let one = |result: &CancelResult| format!("{} {:?}", result.task, result.state);
                writeln!(out, "cancelled: {}", results.iter().map(one).collect::<Vec<_>>().join(", "))?;
            }
            Reply::Retried(results) => {
                let one = |result: &RetryResult| {
                    format!("{} {:?} as {:?}", result.task, result.state, result.new.map(|id| id.0))
                };
                writeln!(out, "retried: {}", results.iter().map(one).collect::<Vec<_>>().join(", "))?;
            }
            Reply::SessionOpened(opened) => {
                let drop: Vec<_> = opened.drop.iter().map(|token| token.0).collect();
                let config = &opened.config;
                write!(out, "session {} of worker {} opened, drop {drop:?}", opened.session, opened.worker)?;
                writeln!(out, ", config {} with {} slots", config.version, config.capacity)?;
            }
            Reply::Worker(worker) => writeln!(out, "worker {worker}")?,
            Reply::Reported { ignored: 0 } => {}
            Reply::Reported { ignored } => writeln!(out, "{ignored} ignored")?,
            Reply::Rejected(rejection) => writeln!(out, "rejected: {rejection}")?,
        }
        Ok(())
    }

    fn tell_event(&self, event: &Event, out: &mut String) -> Result<(), Failure> {
        match event {
            Event::TasksSubmitted { first, count } => writeln!(out, "- tasks {first}..={}", first.0 + count - 1)?,
            Event::TaskAssigned { task, token, worker, attempt } => {
                writeln!(out, "- task {task} to worker {worker}, attempt {attempt}, token {token}")?;
            }
            Event::TaskStarted { task, .. } => writeln!(out, "- task {task} started")?,
            Event::AttemptEnded { task, token, outcome, exit_code } => {
                writeln!(out, "- task {task}: token {token} ended, {outcome:?} {exit_code}")?;
            }
            Event::TaskFinished { task, state, outcome } => {
                writeln!(out, "- task {task} is {state:?}, {outcome:?}")?;
            }
            Event::TaskRetrying { task, delay_ms } => writeln!(out, "- task {task} again in {delay_ms} ms")?,
            Event::WorkerChanged { worker, change } => writeln!(out, "- worker {worker}: {change:?}")?,
            Event::WorkerLoad { worker, level, used, capacity } => {
                writeln!(out, "- worker {worker}: load {level:?}, {used} of {capacity}")?;
            }
            other => writeln!(out, "- {other:?}")?,
        }
        Ok(())
    }

    fn tell_effect(&self, effect: &Effect, out: &mut String) -> Result<(), Failure> {
        match effect {
            Effect::StartRun(run) => {
                writeln!(out, "> run task {}[{}] on {}, token {}", run.task, run.array_index, run.worker, run.token)?;
            }
            Effect::CancelRun { worker, token } => writeln!(out, "> stop token {token} on {worker}")?,
            Effect::PushConfig { worker, config } => {
                write!(out, "> config {} to {worker}: {} slots", config.version, config.capacity)?;
                writeln!(out, ", heartbeat {}, lease {}", config.heartbeat_ms, config.lease_ms)?;
            }
            Effect::ShutdownWorker { worker, now } => writeln!(out, "> shut down {worker}, now: {now}")?,
            Effect::EndSession { worker, reason } => writeln!(out, "> end the session of {worker}: {reason:?}")?,
        }
        Ok(())
    }
}
