//! The session: one stream with the leader, found again whenever it breaks or the office changes hands.
//!
//! What always holds: Hello tells every held token; heartbeats have their own task and their own lane past bulk messages, so
//! work never delays them; the lease is renewed only from the moment a heartbeat was SENT; a stream whose heartbeats stay
//! unanswered for three intervals is dropped; a newer leader is followed at once. It decides nothing about attempts: it
//! carries messages between the leader and the runner.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::Mutex;
use steersman_proto::codes;
use steersman_proto::v1::workers_client::WorkersClient;
use steersman_proto::v1::{Label, Resource, SetModeRequest, WorkerMode, WorkerRef};
use steersman_proto::worker::v1::session_client::SessionClient;
use steersman_proto::worker::v1::{
    ConfigApplied, Heartbeat, Hello, LogReply, MasterMessage, ReadLog, UpdateConfig, Welcome, WorkerMessage,
    master_message, worker_message::Kind,
};
use steersman_world::World;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use crate::config::WorkerConfig;
use crate::error::WorkerError;
use crate::executors::{Executor, LogAsk};
use crate::facts::Facts;
use crate::identity::Identity;
use crate::lease::{Lease, usable};
use crate::masters::{MESSAGE_BYTES_MAX, Masters, backoff};
use crate::metrics::Metrics;
use crate::runner::{Input, Outlet};

/// Version of the conversation.
const PROTOCOL: u32 = 1;
/// How long a leader may take to accept the stream and to commit the registration. A worker that knows its lease waits half
/// of it at most: a hello that was lost with its connection must not cost the lease.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// Heartbeats without an answer before the stream is given up; sooner if half of the lease is over by then: a connection that
/// died without a word must leave time for another.
const HEARTBEATS_MISSED_MAX: u32 = 3;
/// Never give up sooner than this, however short the interval.
const SILENCE_MIN: Duration = Duration::from_millis(500);
/// Messages of reports and log pieces on their way: beyond it they gather and go out in larger ones.
const BULK_LANE: usize = 4;
/// Heartbeats and answers.
const URGENT_LANE: usize = 64;
/// Log reads at a time.
const LOG_READS_MAX: usize = 64;
/// Longest wait of a log read.
const LOG_WAIT_MAX: Duration = Duration::from_secs(10);
/// Without a session for this long, what was heard of terms is doubted.
const DOUBT_AFTER: Duration = Duration::from_secs(15);
/// How long an orderly end waits for the leader to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the session asks of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopAsk {
    /// Finish what runs, at most for so long.
    Drain(Option<Duration>),
    /// Kill what runs.
    Now,
}

/// What the session is given at birth.
pub(crate) struct Settings {
    pub config: Arc<WorkerConfig>,
    pub world: World,
    pub identity: Identity,
    pub masters: Masters,
    pub lease: Arc<Lease>,
    pub metrics: Arc<Metrics>,
    pub facts: Arc<dyn Facts>,
    pub processes: Option<Arc<dyn Executor>>,
    pub inputs: mpsc::Sender<Input>,
    /// The leader asks the process to end.
    pub stop_asked: mpsc::Sender<StopAsk>,
    /// True once a drain has begun.
    pub draining: watch::Receiver<bool>,
    /// The runner has said goodbye: close.
    pub finish: CancellationToken,
}

/// See the module.
pub(crate) struct Session {
    settings: Settings,
    number: u64,
    /// A leader has welcomed this process: refusals may be transient from now on.
    welcomed: bool,
    /// How long the next welcome is waited for.
    patience: Duration,
    /// The last session lived for a heartbeat at least: its end is the first failure, not one more.
    settled: bool,
    log_reads: Arc<Semaphore>,
}

/// How one stream ended.
enum End {
    /// The worker is done.
    Finished,
    /// Somebody else leads.
    Moved,
    /// The master answered, but not with a welcome: try again after a while.
    Refused(String),
    /// The connection is not to be trusted any more: try again after a while, with another.
    Broken(String),
    /// Never try again.
    Fatal(WorkerError),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Broken(format!("{:?}: {}", status.code(), status.message()))
    }
}

// ---- finding the leader ---------------------------------------------------------------------------------------------

impl Session {
    /// With nothing open.
    pub fn new(settings: Settings) -> Self {
        let log_reads = Arc::new(Semaphore::new(LOG_READS_MAX));
        Self { settings, number: 0, welcomed: false, patience: WELCOME_TIMEOUT, settled: false, log_reads }
    }

    /// Opens sessions until the worker is done.
    ///
    /// # Errors
    /// When the masters refuse this worker for good.
    pub async fn run(mut self) -> Result<(), WorkerError> {
        let (mut failures, mut moves) = (0u32, 0u32);
        loop {
            let Some(leader) = self.leader().await else { return Ok(()) };
            self.settled = false;
            let end = self.one(&leader).await;
            self.settings.metrics.set_session_open(false);
            let _ = self.settings.inputs.send(Input::Closed { session: self.number }).await;
            if matches!(end, End::Broken(_)) {
                self.settings.masters.reset(&leader);
            }
            match end {
                End::Finished => return Ok(()),
                End::Fatal(error) => return Err(error),
                End::Moved => moves += 1,
                End::Refused(why) | End::Broken(why) => {
                    tracing::warn!(%leader, %why, "the session with the leader broke");
                    failures = if self.settled { 1 } else { failures + 1 };
                    moves = 0;
                    self.pause(&leader, failures).await;
                }
            }
            // Redirects are followed at once, but not in circles.
            if moves > 3 {
                moves = 0;
                self.pause("", failures + 1).await;
            }
        }
    }

    /// Who leads; waits until somebody does. `None` when the worker is done.
    async fn leader(&self) -> Option<String> {
        let mut view = self.settings.masters.subscribe();
        loop {
            if let Some(leader) = view.borrow_and_update().leader.clone() {
                return Some(leader);
            }
            tokio::select! {
                () = self.settings.finish.cancelled() => return None,
                _ = view.changed() => {}
                () = tokio::time::sleep(DOUBT_AFTER) => self.settings.masters.doubt(),
            }
        }
    }

    /// Waits, unless another leader is named meanwhile.
    async fn pause(&self, leader: &str, failures: u32) {
        let mut view = self.settings.masters.subscribe();
        let other = view.wait_for(|view| view.leader.as_deref().is_some_and(|other| other != leader));
        // However often it failed: a quarter of the patience leaves room for several tries within a lease.
        let wait = backoff(&self.settings.world, failures).min(self.patience / 4);
        let _ = tokio::time::timeout(wait, other).await;
        // Knocked in vain for long: perhaps nobody leads there any more, and the news was lost.
        if failures > 0 && failures.is_multiple_of(16) {
            self.settings.masters.doubt();
        }
    }
}

// ---- one stream -----------------------------------------------------------------------------------------------------

/// What is shared by the parts of one open stream.
struct Open {
    leader: String,
    channel: Channel,
    urgent: mpsc::Sender<WorkerMessage>,
    bulk: mpsc::Sender<WorkerMessage>,
    /// Heartbeats sent and not answered: number, when, the executor's clock.
    in_flight: Arc<Mutex<VecDeque<(u64, Instant, u64)>>>,
    beat: watch::Sender<Duration>,
    lease: Duration,
    term: u64,
    last_ack: Instant,
}

impl Session {
    /// One stream, from its opening to its end.
    async fn one(&mut self, leader: &str) -> End {
        self.number += 1;
        let (mut open, mut messages) = match self.open(leader).await {
            Ok(opened) => opened,
            Err(end) => return end,
        };
        let _beats = self.start_heartbeats(&open);
        let _drain = self.watch_drain(&open);
        tracing::info!(%leader, term = open.term, "session open");
        self.settings.metrics.sessions_opened.inc();
        self.settings.metrics.set_session_open(true);
        let end = self.converse(&mut open, &mut messages).await;
        if matches!(end, End::Finished) {
            drop((open, _beats, _drain));
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, async { while let Ok(Some(_)) = messages.message().await {} })
                .await;
        }
        end
    }

    async fn open(&mut self, leader: &str) -> Result<(Open, Streaming<MasterMessage>), End> {
        let channel = self.settings.masters.channel(leader);
        let channel = channel.ok_or_else(|| End::Broken(format!("\"{leader}\" is not an address")))?;
        let (urgent, urgent_out) = mpsc::channel(URGENT_LANE);
        let (bulk, bulk_out) = mpsc::channel(BULK_LANE);
        let hello = self.hello().await.ok_or(End::Finished)?;
        let (sent, stamp) = (self.settings.world.clock.now(), self.stamp());
        let first = futures::stream::iter([WorkerMessage { kind: Some(Kind::Hello(hello)) }]);
        // The urgent lane is always looked at first.
        let lanes = futures::stream::select_with_strategy(
            ReceiverStream::new(urgent_out),
            ReceiverStream::new(bulk_out),
            |_: &mut ()| futures::stream::PollNext::Left,
        );
        let mut client = SessionClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let opening = async {
            let mut messages = client.open(first.chain(lanes)).await?.into_inner();
            let first = messages.message().await?;
            Ok::<_, Status>((messages, first))
        };
        // A master that froze lets its connections hang: news of another leader is not kept waiting for its welcome.
        let mut news = self.settings.masters.subscribe();
        let other = news.wait_for(|view| view.leader.as_deref().is_some_and(|other| other != leader));
        let welcome = tokio::select! {
            welcome = tokio::time::timeout(self.patience, opening) => welcome,
            _ = other => return Err(End::Moved),
        };
        let (messages, first) = match welcome {
            Ok(opened) => opened.map_err(|status| self.refused(leader, &status))?,
            Err(_) => return Err(End::Broken(format!("no welcome within {} ms", self.patience.as_millis()))),
        };
        let Some(MasterMessage { kind: Some(master_message::Kind::Welcome(welcome)) }) = first else {
            return Err(End::Broken("the leader did not begin with a welcome".into()));
        };
        let mut open = Open {
            leader: leader.to_owned(),
            channel,
            urgent,
            bulk,
            in_flight: Arc::default(),
            beat: watch::Sender::new(Duration::from_millis(self.settings.config.heartbeat_ms.into())),
            lease: Duration::from_millis(welcome.lease_ms.into()),
            term: welcome.term,
            last_ack: self.settings.world.clock.now(),
        };
        self.on_welcome(&mut open, welcome, sent, stamp).await?;
        Ok((open, messages))
    }

    async fn hello(&self) -> Option<Hello> {
        let (reply, held) = oneshot::channel();
        self.settings.inputs.send(Input::Hold(reply)).await.ok()?;
        let (config, identity) = (&self.settings.config, &self.settings.identity);
        Some(Hello {
            protocol: PROTOCOL,
            cluster_id: identity.cluster_id().to_owned(),
            name: config.name.clone(),
            uid: identity.uid().to_vec().into(),
            incarnation: identity.incarnation(),
            opening: self.number,
            host: config.host.clone(),
            port: config.port.into(),
            capacity: config.capacity,
            labels: config.labels.iter().map(|(key, value)| Label { key: key.clone(), value: value.clone() }).collect(),
            resources: config.resources.iter().map(|(name, n)| Resource { name: name.clone(), amount: *n }).collect(),
            held_tokens: held.await.ok()?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            heartbeat_ms: config.heartbeat_ms,
        })
    }

    fn stamp(&self) -> u64 {
        self.settings.processes.as_ref().map_or(0, |processes| processes.stamp_ms())
    }

    fn renew(&self, sent: Instant, stamp: u64, lease: Duration) {
        self.settings.lease.renew(sent, lease);
        if let Some(processes) = &self.settings.processes {
            processes.renew_lease(stamp, usable(lease));
        }
    }

    async fn on_welcome(&mut self, open: &mut Open, welcome: Welcome, sent: Instant, stamp: u64) -> Result<(), End> {
        let known = self.settings.identity.cluster_id();
        if !known.is_empty() && known != welcome.cluster_id {
            let message = format!("it is cluster {}, this worker's data_dir belongs to {known}", welcome.cluster_id);
            return Err(self.fatal_or_later(&open.leader, codes::WRONG_CLUSTER.reason, message));
        }
        self.settings.identity.join(&welcome.cluster_id).map_err(End::Fatal)?;
        self.welcomed = true;
        self.patience = (open.lease / 2).clamp(SILENCE_MIN, WELCOME_TIMEOUT);
        self.settings.masters.learn(welcome.term, Some(open.leader.clone()));
        self.settings.masters.follow(welcome.masters.iter().map(|master| master.api.as_str()));
        self.renew(sent, stamp, open.lease);
        if welcome.heartbeat_ms > 0 {
            open.beat.send_replace(Duration::from_millis(welcome.heartbeat_ms.into()));
        }
        let capacity = if welcome.capacity > 0 { welcome.capacity } else { self.settings.config.capacity };
        let outlet = Outlet { session: self.number, bulk: open.bulk.clone() };
        let input = Input::Welcome { outlet, capacity, drop_tokens: welcome.drop_tokens };
        self.settings.inputs.send(input).await.map_err(|_| End::Finished)
    }
}

// ---- refusals -------------------------------------------------------------------------------------------------------

impl Session {
    /// What the leader's refusal means: a redirect, a reason to try later, or the end.
    fn refused(&self, leader: &str, status: &Status) -> End {
        let details = status.get_error_details();
        let Some(info) = details.error_info().filter(|info| info.domain == codes::DOMAIN) else {
            return status.clone().into();
        };
        if info.reason == codes::NOT_LEADER.reason {
            let term = info.metadata.get("term").and_then(|term| term.parse().ok()).unwrap_or(0);
            return self.redirected(leader, term, info.metadata.get("leader_api").cloned());
        }
        let lasting = [
            codes::WRONG_CLUSTER,
            codes::WRONG_VERSION,
            codes::DUPLICATE_WORKER,
            codes::STALE_INCARNATION,
            codes::INVALID_ARGUMENT,
            codes::LIMIT_EXCEEDED,
        ];
        if lasting.iter().any(|code| code.reason == info.reason) {
            return self.fatal_or_later(leader, &info.reason, status.message().to_owned());
        }
        End::Refused(format!("{}: {}", info.reason, status.message()))
    }

    /// Who was welcomed before holds work: it is not given up for one master's refusal, except that a newer process exists.
    fn fatal_or_later(&self, leader: &str, reason: &str, message: String) -> End {
        if self.welcomed && reason != codes::STALE_INCARNATION.reason {
            return End::Refused(format!("{reason}: {message}"));
        }
        End::Fatal(WorkerError::Refused { leader: leader.to_owned(), reason: reason.to_owned(), message })
    }

    fn redirected(&self, asked: &str, term: u64, to: Option<String>) -> End {
        match to {
            Some(to) if to != asked => {
                self.settings.masters.learn(term, Some(to));
                let view = self.settings.masters.subscribe().borrow().clone();
                if view.leader.as_deref() == Some(asked) {
                    return End::Refused(format!("it does not lead, but the newest news (term {}) says so", view.term));
                }
                End::Moved
            }
            _ => End::Refused("it does not lead and knows nobody who does".into()),
        }
    }
}

// ---- talking --------------------------------------------------------------------------------------------------------

impl Session {
    async fn converse(&mut self, open: &mut Open, messages: &mut Streaming<MasterMessage>) -> End {
        let mut view = self.settings.masters.subscribe();
        // What was learned while the stream was being opened counts too.
        view.mark_changed();
        let finish = self.settings.finish.clone();
        loop {
            let silence = silence(*open.beat.borrow(), open.lease);
            let silent_at = open.last_ack + silence;
            tokio::select! {
                message = messages.message() => match message {
                    Ok(Some(message)) => {
                        if self.on_message(open, message).await.is_err() {
                            return End::Finished;
                        }
                    }
                    Ok(None) => return End::Broken("the leader closed it".into()),
                    Err(status) => return self.refused(&open.leader, &status),
                },
                _ = view.changed() => {
                    let news = view.borrow_and_update().clone();
                    if news.term > open.term && news.leader.as_deref().is_some_and(|leader| leader != open.leader) {
                        return End::Moved;
                    }
                }
                () = tokio::time::sleep_until(silent_at) => {
                    return End::Broken(format!("no heartbeat was answered for {} ms", silence.as_millis()));
                }
                () = finish.cancelled() => return End::Finished,
            }
        }
    }

    /// `Err` when the runner is gone.
    async fn on_message(&mut self, open: &mut Open, message: MasterMessage) -> Result<(), ()> {
        use master_message::Kind as From;
        let input = match message.kind {
            Some(From::HeartbeatAck(ack)) => {
                self.on_heartbeat_ack(open, ack.seq);
                return Ok(());
            }
            Some(From::Assign(assign)) => Input::Assign(assign),
            Some(From::Cancel(cancel)) => Input::Cancel(cancel.tokens),
            Some(From::ReportsAck(ack)) => Input::Acknowledged(ack),
            Some(From::UpdateConfig(update)) => self.on_update_config(open, &update),
            Some(From::HealthCheck(check)) => Input::Health { nonce: check.nonce, reply: open.urgent.clone() },
            Some(From::ReadLog(read)) => {
                self.on_read_log(open, read);
                return Ok(());
            }
            Some(From::Shutdown(shutdown)) => {
                let deadline = (shutdown.deadline_ms > 0).then(|| Duration::from_millis(shutdown.deadline_ms));
                let ask = if shutdown.now { StopAsk::Now } else { StopAsk::Drain(deadline) };
                tracing::info!(?ask, "the leader asks this worker to end");
                // A full queue already holds the same wish.
                let _ = self.settings.stop_asked.try_send(ask);
                return Ok(());
            }
            // A welcome in the middle or a message of a later version: nothing to do.
            Some(From::Welcome(_)) | None => return Ok(()),
        };
        self.settings.inputs.send(input).await.map_err(|_| ())
    }

    fn on_heartbeat_ack(&mut self, open: &mut Open, seq: u64) {
        // The first one is sent at once, the second after an interval.
        self.settled |= seq > 1;
        let mut in_flight = open.in_flight.lock();
        while let Some((number, sent, stamp)) = in_flight.front().copied().filter(|(number, ..)| *number <= seq) {
            in_flight.pop_front();
            if number == seq {
                self.renew(sent, stamp, open.lease);
                self.settings.metrics.heartbeats_acknowledged.inc();
                open.last_ack = self.settings.world.clock.now();
            }
        }
    }

    fn on_update_config(&self, open: &Open, update: &UpdateConfig) -> Input {
        if update.heartbeat_ms > 0 {
            open.beat.send_replace(Duration::from_millis(update.heartbeat_ms.into()));
        }
        let applied = ConfigApplied { version: update.version };
        let _ = open.urgent.try_send(WorkerMessage { kind: Some(Kind::ConfigApplied(applied)) });
        tracing::info!(version = update.version, capacity = update.capacity, "new configuration from the leader");
        Input::Capacity(if update.capacity > 0 { update.capacity } else { self.settings.config.capacity })
    }

    fn on_read_log(&self, open: &Open, read: ReadLog) {
        let bulk = open.bulk.clone();
        let (Some(processes), Ok(permit)) = (&self.settings.processes, self.log_reads.clone().try_acquire_owned())
        else {
            // Too many at a time: an empty piece, so the reader asks again. No processes: there is no output.
            let not_found = self.settings.processes.is_none();
            let reply = LogReply { nonce: read.nonce, next_offset: read.offset, not_found, ..LogReply::default() };
            let _ = open.urgent.try_send(WorkerMessage { kind: Some(Kind::Log(reply)) });
            return;
        };
        let piece = processes.read_log(LogAsk {
            token: read.token,
            stream: read.stream(),
            offset: read.offset,
            max_bytes: if read.max_bytes == 0 { usize::MAX } else { read.max_bytes as usize },
            wait: Duration::from_millis(read.wait_ms.into()).min(LOG_WAIT_MAX),
        });
        tokio::spawn(async move {
            let piece = tokio::select! {
                piece = piece => piece,
                () = bulk.closed() => return,
            };
            let reply = LogReply {
                nonce: read.nonce,
                data: piece.data,
                next_offset: piece.next_offset,
                end: piece.end,
                dropped: piece.dropped,
                not_found: piece.not_found,
            };
            let _ = bulk.send(WorkerMessage { kind: Some(Kind::Log(reply)) }).await;
            drop(permit);
        });
    }
}

fn silence(beat: Duration, lease: Duration) -> Duration {
    // One answer that is late is no silence, however short the lease.
    (beat * HEARTBEATS_MISSED_MAX).min(lease / 2).max(beat * 3 / 2).max(SILENCE_MIN)
}

// ---- heartbeats and draining ----------------------------------------------------------------------------------------

impl Session {
    fn start_heartbeats(&self, open: &Open) -> AbortOnDropHandle<()> {
        let mut beat = open.beat.subscribe();
        let (urgent, in_flight) = (open.urgent.clone(), open.in_flight.clone());
        let (clock, processes) = (self.settings.world.clock.clone(), self.settings.processes.clone());
        let (facts, metrics) = (self.settings.facts.clone(), self.settings.metrics.clone());
        let began = clock.now();
        AbortOnDropHandle::new(tokio::spawn(async move {
            for seq in 1.. {
                let (sent, stamp) = (clock.now(), processes.as_ref().map_or(0, |processes| processes.stamp_ms()));
                let mut load = facts.load();
                load.running = metrics.running.get() as u32;
                load.reports_unacknowledged = metrics.unacknowledged.get() as u64;
                load.uptime_ms = sent.saturating_duration_since(began).as_millis() as u64;
                let message = WorkerMessage { kind: Some(Kind::Heartbeat(Heartbeat { seq, load: Some(load) })) };
                if urgent.try_send(message).is_ok() {
                    in_flight.lock().push_back((seq, sent, stamp));
                }
                let interval = *beat.borrow_and_update();
                // A changed interval counts from the beat that was just sent.
                let _ = tokio::time::timeout_at(sent + interval, beat.changed()).await;
            }
        }))
    }

    /// While this worker drains, the leader is asked to give it nothing new.
    fn watch_drain(&self, open: &Open) -> AbortOnDropHandle<()> {
        let mut draining = self.settings.draining.clone();
        let channel = open.channel.clone();
        let request = SetModeRequest {
            request_id: self.settings.world.entropy.next_id().to_vec().into(),
            worker: Some(WorkerRef { id: 0, name: self.settings.config.name.clone() }),
            mode: WorkerMode::Drain.into(),
            deadline_ms: 0,
        };
        AbortOnDropHandle::new(tokio::spawn(async move {
            if draining.wait_for(|draining| *draining).await.is_err() {
                return;
            }
            // A failure breaks nothing: the next session asks again, and what is still assigned is run or given back.
            if let Err(status) = WorkersClient::new(channel).set_mode(request).await {
                tracing::warn!(%status, "the leader could not be told that this worker drains");
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_connection_leaves_half_of_the_lease_for_another() {
        let ms = Duration::from_millis;
        assert_eq!(silence(ms(1_000), ms(10_000)), ms(3_000), "three heartbeats where the lease is long");
        assert_eq!(silence(ms(450), ms(1_690)), ms(845), "half of a short lease");
        assert_eq!(silence(ms(2_000), ms(3_000)), ms(3_000), "but never less than a heartbeat and a half");
        assert_eq!(silence(ms(20), ms(100)), SILENCE_MIN);
    }
}
