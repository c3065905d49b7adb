//! One logical call: tries at one master after another until an answer or the total deadline.
//!
//! What always holds: the request (with its id) is the same in every try; a refusal that is the caller's ends the call at
//! once; at most three redirects are followed without a pause; a call that must not run twice is never repeated once a
//! master may have acted on it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use steersman_proto::codes::{self, Code};
use steersman_world::Entropy;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::channels::Connection;
use crate::error::{Asked, Class, Error, answer_text, asked_once, reason_of};
use crate::redirect::LeaderHint;
use crate::{Client, RequestId};

/// Redirects that are followed without a pause.
const REDIRECTS_MAX: u32 = 3;
/// The shortest pause after all masters failed: less would only heat an election.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest: about one takeover.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// No try is shorter: a loopback answer fits, and an overdue call still gets its last word.
const TRY_MIN: Duration = Duration::from_millis(1);
/// So often a client that is in use and meets no trouble asks who the masters are.
const MEET_EVERY: Duration = Duration::from_secs(5);
/// The server learns of a deadline this much later than ours, so that our own words end the try.
const SERVER_GRACE: Duration = Duration::from_millis(50);
/// A last round with less time than this for each master is not begun for a change that surely has not happened yet: a
/// master waits up to 200 ms for a leader before it refuses, and to cut it short would make a sure refusal an unknown outcome.
const LAST_TRY_MIN: Duration = Duration::from_millis(300);
/// How long a worker that is not connected is waited for: a resumed session takes far less after a failover.
const WORKER_PATIENCE: Duration = Duration::from_secs(3);

/// What may be done with a request whose fate is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any master, as often as it takes.
    Read,
    /// Carries this request id: as often as it takes, the leader first.
    Mutation(RequestId),
    /// Must not run twice: repeated only if it surely was not run. The leader first.
    Once,
}

/// How one logical call is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    /// Added to the time of each try and of the whole: the request itself waits or is large.
    pub(crate) extra: Duration,
    /// A stream is opened: its time is not bounded once it is open.
    pub(crate) stream: bool,
}

impl Call {
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, extra: Duration::ZERO, stream: false }
    }

    pub(crate) fn extra(mut self, extra: Duration) -> Self {
        self.extra = extra;
        self
    }

    pub(crate) fn stream(mut self) -> Self {
        self.stream = true;
        self
    }
}

/// Pauses that grow, each fully random up to its bound, so that callers spread.
#[derive(Debug, Default)]
pub(crate) struct Backoff(u32);

impl Backoff {
    pub(crate) fn pause(&mut self, entropy: &dyn Entropy) -> Duration {
        let bound = (PAUSE_MIN * 2u32.saturating_pow(self.0 + 1)).min(PAUSE_MAX);
        self.0 = (self.0 + 1).min(16);
        let spread = (bound - PAUSE_MIN).as_micros() as u64;
        PAUSE_MIN + Duration::from_micros(entropy.below(spread + 1))
    }
}

/// A try without an answer to return.
pub(crate) struct Miss {
    pub(crate) status: Status,
    /// The master may have got the request.
    sent: bool,
    timed_out: bool,
}

/// What a status means for the call.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The caller's: ends the call.
    Final,
    /// This master refused for the moment; nothing happened.
    NotHere,
    /// The leader refused for the moment: the others would only ask it again.
    NotNow,
    /// It may have happened.
    Unknown,
}

fn verdict(status: &Status, sent: bool) -> Verdict {
    match reason_of(status).as_deref().and_then(codes::by_reason) {
        Some(&codes::NOT_LEADER | &codes::NO_LEADER | &codes::SHUTTING_DOWN) => Verdict::NotHere,
        Some(&codes::OVERLOADED | &codes::WORKER_UNREACHABLE) => Verdict::NotNow,
        Some(&codes::UNREACHABLE | &codes::NO_QUORUM | &codes::OUTCOME_UNKNOWN) => Verdict::Unknown,
        Some(_) => Verdict::Final,
        None if !sent => Verdict::NotHere,
        None => verdict_by_grpc(status),
    }
}

/// For a status that no master of ours wrote: of the transport, or of something in between.
fn verdict_by_grpc(status: &Status) -> Verdict {
    use tonic::Code as Grpc;
    match status.code() {
        Grpc::Unavailable
        | Grpc::DeadlineExceeded
        | Grpc::Unknown
        | Grpc::Internal
        | Grpc::Cancelled
        | Grpc::Aborted => Verdict::Unknown,
        _ => Verdict::Final,
    }
}

impl Client {
    /// Makes a logical call and returns the answer with the address of the master that gave it.
    pub(crate) async fn ask<Q, A, F, Fut>(&self, call: Call, request: Q, send: F) -> Result<(String, A), Error>
    where
        Q: Clone,
        F: Fn(Connection, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let mut quest = Quest::new(self, call);
        loop {
            let address = quest.next_master();
            match self.try_at(&address, &call, quest.try_time(), request.clone(), &send).await {
                Ok(answer) => return Ok((address, answer)),
                Err(miss) => {
                    self.inner.stale.store(true, Ordering::Relaxed);
                    match quest.after(&address, miss)? {
                        Duration::ZERO => {}
                        pause => tokio::time::sleep(pause).await,
                    }
                }
            }
        }
    }

    /// [`Client::ask`] where nobody cares who answered.
    pub(crate) async fn unary<Q, A, F, Fut>(&self, call: Call, request: Q, send: F) -> Result<A, Error>
    where
        Q: Clone,
        F: Fn(Connection, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        Ok(self.ask(call, request, send).await?.1)
    }

    async fn try_at<Q, A, F, Fut>(
        &self,
        address: &str,
        call: &Call,
        time: Duration,
        request: Q,
        send: &F,
    ) -> Result<A, Miss>
    where
        F: Fn(Connection, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let connection = match tokio::time::timeout(time, self.inner.channels.get(address)).await {
            Ok(connected) => connected.map_err(|status| Miss { status, sent: false, timed_out: false })?,
            Err(_) => return Err(Miss { status: no_answer(time), sent: false, timed_out: true }),
        };
        let mut request = Request::new(request);
        if !call.stream {
            request.set_timeout(time + SERVER_GRACE);
        }
        match tokio::time::timeout(time, send(connection, request)).await {
            Ok(Ok(response)) => {
                self.note_metadata(response.metadata());
                self.meet_masters(address);
                Ok(response.into_inner())
            }
            Ok(Err(status)) => Err(Miss { status, sent: true, timed_out: false }),
            Err(_) => Err(Miss { status: no_answer(time), sent: true, timed_out: true }),
        }
    }

    fn note_metadata(&self, metadata: &tonic::metadata::MetadataMap) {
        if let Some(hint) = LeaderHint::from_metadata(metadata) {
            self.inner.learn(&hint);
        }
        let told = metadata.get("steersman-membership").and_then(|index| index.to_str().ok()?.parse().ok());
        let known = self.inner.membership.fetch_max(told.unwrap_or(0), Ordering::Relaxed);
        if known != 0 && told > Some(known) {
            self.inner.stale.store(true, Ordering::Relaxed);
        }
    }

    /// After a try that failed, after a change of the membership, and now and then, behind the caller's back: who the
    /// masters are by now. Answers name the leader alone, and a client that only ever followed leaders would be lost once
    /// all whom it knew were replaced.
    fn meet_masters(&self, address: &str) {
        if self.only.is_some() {
            return;
        }
        let (now, stale) = (self.inner.world.clock.now(), self.inner.stale.swap(false, Ordering::Relaxed));
        let due = {
            let mut met = self.inner.met.lock();
            let due = stale || now.saturating_duration_since(*met) >= MEET_EVERY;
            *met = if due { now } else { *met };
            due
        };
        if due {
            let (client, address) = (self.clone(), address.to_owned());
            tokio::spawn(async move { client.info_of(&address).await });
        }
    }
}

fn no_answer(time: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {} ms", time.as_millis()))
}

/// The course of one logical call.
struct Quest<'a> {
    client: &'a Client,
    call: Call,
    began: Instant,
    deadline: Instant,
    /// Some master got the request: only then may the call take its extra time.
    reached: bool,
    /// Where a redirect points.
    next: Option<String>,
    /// Masters that failed since the last pause.
    failed: BTreeSet<String>,
    redirects: u32,
    timeouts: u32,
    backoff: Backoff,
    trail: BTreeMap<String, Asked>,
    /// Some try may have taken effect.
    maybe_done: bool,
}

impl<'a> Quest<'a> {
    fn new(client: &'a Client, call: Call) -> Self {
        let began = client.inner.world.clock.now();
        Self {
            client,
            call,
            began,
            deadline: began + client.timeout + call.extra,
            reached: false,
            next: None,
            failed: BTreeSet::new(),
            redirects: 0,
            timeouts: 0,
            backoff: Backoff::default(),
            trail: BTreeMap::new(),
            maybe_done: false,
        }
    }

    fn next_master(&mut self) -> String {
        if let Some(only) = &self.client.only {
            return only.to_string();
        }
        if let Some(next) = self.next.take() {
            return next;
        }
        let prefer_leader = self.call.kind != Kind::Read;
        let masters = self.client.inner.masters.lock();
        masters.pick(prefer_leader, &self.failed).unwrap_or_else(|| masters.all().swap_remove(0))
    }

    /// How long the next try may take: longer after tries that ran out of time, never beyond the deadline, and not so long
    /// that a mute master would use up what the untried ones need.
    fn try_time(&self) -> Duration {
        let base = self.client.inner.settings.try_timeout * 2u32.pow(self.timeouts.min(3));
        let known = self.client.inner.masters.lock().count();
        let untried = known.saturating_sub(self.failed.len()).max(1) as u32;
        let share = self.left().saturating_sub(self.call.extra) / untried;
        (base.min(share) + self.call.extra).min(self.left()).max(TRY_MIN)
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(self.client.inner.world.clock.now())
    }

    /// What follows a miss at `address`: a pause (maybe none) before the next try, or the end of the call.
    fn after(&mut self, address: &str, miss: Miss) -> Result<Duration, Error> {
        let verdict = verdict(&miss.status, miss.sent);
        let hint = LeaderHint::from_status(&miss.status);
        let trusted = hint.as_ref().is_some_and(|hint| self.client.inner.learn(hint));
        if verdict == Verdict::Final {
            return Err(self.named(Error::rejected(address, &miss.status)));
        }
        self.note(address, &miss, &verdict);
        let unknown = verdict == Verdict::Unknown && miss.sent;
        if self.client.only.is_some() {
            let unknown = unknown && self.call.kind != Kind::Read;
            return Err(self.named(Error::of_one_try(address, &miss.status, unknown)));
        }
        if self.left().is_zero() || (unknown && self.call.kind == Kind::Once) || self.worker_is_away(&miss.status) {
            return Err(self.give_up(address, &miss.status));
        }
        match hint.and_then(|hint| hint.api).filter(|_| trusted) {
            Some(api) if self.follow(address, &api) => Ok(Duration::ZERO),
            _ if verdict == Verdict::NotNow => self.pause(address, &miss.status),
            _ => self.elsewhere(address, &miss.status),
        }
    }

    /// Books the miss: who answered what, and whether the channel is still good.
    fn note(&mut self, address: &str, miss: &Miss, verdict: &Verdict) {
        let asked = asked_once(address, &miss.status);
        let entry = self.trail.entry(address.to_owned()).or_insert_with(|| Asked { tries: 0, ..asked.clone() });
        *entry = Asked { tries: entry.tries + 1, ..asked };
        self.maybe_done |= miss.sent && *verdict == Verdict::Unknown;
        self.reached |= miss.sent;
        self.timeouts += u32::from(miss.timed_out);
        if !entry.answered {
            self.client.inner.channels.forget(address);
        }
        if *verdict != Verdict::NotNow {
            self.client.inner.distrust(address);
        }
    }

    /// Follows a redirect, unless it leads where this round has been or there were too many.
    fn follow(&mut self, from: &str, api: &str) -> bool {
        let fresh = api != from && !self.failed.contains(api) && self.redirects < REDIRECTS_MAX;
        if fresh {
            self.redirects += 1;
            self.next = Some(api.to_owned());
            self.failed.insert(from.to_owned());
        }
        fresh
    }

    fn elsewhere(&mut self, address: &str, status: &Status) -> Result<Duration, Error> {
        self.failed.insert(address.to_owned());
        let untried = self.client.inner.masters.lock().pick(false, &self.failed).is_some();
        if untried && self.redirects < REDIRECTS_MAX { Ok(Duration::ZERO) } else { self.pause(address, status) }
    }

    /// Every known master failed: a new round after a pause.
    fn pause(&mut self, address: &str, status: &Status) -> Result<Duration, Error> {
        self.redirects = 0;
        self.failed.clear();
        let pause = self.backoff.pause(&*self.client.inner.world.entropy);
        let known = self.client.inner.masters.lock().count() as u32;
        let sure = self.call.kind != Kind::Read && !self.maybe_done;
        let least = if sure { (LAST_TRY_MIN * known).min(self.client.timeout / 4) } else { Duration::ZERO };
        let unused = least + if self.reached { Duration::ZERO } else { self.call.extra };
        if pause < self.left().saturating_sub(unused) { Ok(pause) } else { Err(self.give_up(address, status)) }
    }

    fn worker_is_away(&self, status: &Status) -> bool {
        let waited = self.client.inner.world.clock.now().saturating_duration_since(self.began);
        waited >= WORKER_PATIENCE && reason_of(status).as_deref() == Some(codes::WORKER_UNREACHABLE.reason)
    }

    fn give_up(&self, address: &str, last: &Status) -> Error {
        let asked: Vec<Asked> = self.trail.values().cloned().collect();
        let answered = asked.iter().filter(|asked| asked.answered).count();
        let mutation = self.call.kind != Kind::Read;
        if mutation && self.maybe_done {
            let message = format!("the outcome is unknown: no confirmation within {}", self.waited());
            return self.named(Error::gave_up(Class::OutcomeUnknown, &codes::OUTCOME_UNKNOWN, message, last, asked));
        }
        let code = self.code_of_failure(last, answered);
        let message = match code {
            codes::WORKER_UNREACHABLE | codes::OVERLOADED => last.message().to_owned(),
            _ => self.arithmetic(&asked, answered),
        };
        tracing::debug!(address, status = answer_text(last), "gave up");
        self.named(Error::gave_up(Class::Unavailable, &code, message, last, asked))
    }

    fn code_of_failure(&self, last: &Status, answered: usize) -> Code {
        let said = reason_of(last).and_then(|reason| codes::by_reason(&reason)).copied();
        match said {
            _ if answered == 0 => codes::UNREACHABLE,
            Some(code) if code == codes::NOT_LEADER => codes::NO_LEADER,
            Some(code) => code,
            None => codes::NO_LEADER,
        }
    }

    /// `no master answered within 10 s: 0 of 3 known masters answered; 2 are needed`.
    fn arithmetic(&self, asked: &[Asked], answered: usize) -> String {
        let known = self.client.inner.masters.lock().count().max(asked.len());
        let what = if answered == 0 { "no master answered" } else { "no master could serve the request" };
        let need = known / 2 + 1;
        let needed = if known > 1 { format!("; {need} are needed") } else { String::new() };
        let masters = if known == 1 { "known master" } else { "known masters" };
        format!("{what} within {}: {answered} of {known} {masters} answered{needed}", self.waited())
    }

    fn waited(&self) -> String {
        let waited = self.client.inner.world.clock.now().saturating_duration_since(self.began);
        if waited < Duration::from_secs(1) {
            format!("{} ms", waited.as_millis())
        } else {
            format!("{:.1} s", waited.as_secs_f64())
        }
    }

    fn named(&self, error: Error) -> Error {
        match self.call.kind {
            Kind::Mutation(id) => error.with_request_id(id),
            Kind::Read | Kind::Once => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use steersman_world::SeededEntropy;

    use super::*;

    #[test]
    fn pauses_stay_within_their_bounds_and_spread() {
        let entropy = SeededEntropy::new(7);
        let mut seen = BTreeSet::new();
        for _ in 0..100 {
            let mut backoff = Backoff::default();
            assert!(backoff.pause(&entropy) <= PAUSE_MIN * 2);
            for _ in 0..40 {
                let pause = backoff.pause(&entropy);
                assert!((PAUSE_MIN..=PAUSE_MAX).contains(&pause), "{pause:?}");
                seen.insert(pause);
            }
        }
        assert!(seen.len() > 1000, "jitter spreads the pauses: {}", seen.len());
    }

    #[test]
    fn a_status_of_the_transport_is_unknown_only_if_something_was_sent() {
        assert_eq!(verdict(&Status::unavailable("connection refused"), false), Verdict::NotHere);
        assert_eq!(verdict(&Status::unavailable("reset"), true), Verdict::Unknown);
        assert_eq!(verdict(&Status::invalid_argument("no"), true), Verdict::Final);
        assert_eq!(verdict(&Status::unimplemented("no"), true), Verdict::Final);
    }
}
