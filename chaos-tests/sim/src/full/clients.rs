//! Those who ask: clients that submit, cancel, read and repeat themselves, and followers of the event stream.
//!
//! What always holds: each client has one operation open at a time; a request whose fate is not known is repeated at other
//! masters under its own request id, as is, at times, one that was answered.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use steersman_client::v1::{Consistency, GetTaskRequest, ListTasksRequest, ListWorkersRequest, Page, TaskGroup};
use steersman_client::{Client, EventItem, EventsFrom, RequestId};
use steersman_evidence::record::{Call, Event, Events, Outcome, Record};
use steersman_world::{Entropy as _, SeededEntropy};

use super::cast::Setting;
use super::recorder::Recorder;
use super::work;
use super::world::world;
use crate::clock::NodeClock;
use steersman_evidence::answers::{self, Told};

/// What the run tells its clients.
#[derive(Clone, Default)]
pub struct Wishes {
    /// No new work from now on.
    pub stop: Rc<Cell<bool>>,
    /// Tasks that somebody is to submit at once.
    pub flood: Rc<Cell<u32>>,
    /// Clients that have stopped.
    pub stopped: Rc<Cell<u64>>,
    /// Every task is to be read once more.
    pub read_all: Rc<Cell<bool>>,
    /// That is done.
    pub all_read: Rc<Cell<bool>>,
    /// Changes of the membership, office or registry, one after the other.
    pub errands: Rc<RefCell<std::collections::VecDeque<super::operator::Errand>>>,
    /// One of them is being run.
    pub busy: Rc<Cell<bool>>,
}

/// A client of the cluster with numbers of its own.
pub struct Caller {
    /// Its number in the history.
    pub process: u64,
    /// Its side of the wire.
    pub client: Client,
    /// What it draws from.
    pub numbers: SeededEntropy,
    /// Where it writes.
    pub recorder: Recorder,
    masters: Vec<String>,
}

impl Caller {
    /// Knows the initial masters.
    ///
    /// # Errors
    /// None, as long as addresses are well formed.
    pub fn new(setting: &Setting, recorder: &Recorder, process: u64) -> Result<Self, steersman_client::Error> {
        let seed = setting.seed ^ 0xC11E ^ (process << 20);
        let numbers = SeededEntropy::new(seed ^ 0x5EED);
        let timeout = Duration::from_millis(500 + numbers.below(3_500));
        let client = Client::builder(world(seed, Arc::new(NodeClock::steady(0))))
            .addresses(setting.addresses())
            .timeout(timeout)
            .try_timeout(Duration::from_millis(400))
            .build()?;
        Ok(Self { process, client, numbers, recorder: recorder.clone(), masters: setting.addresses() })
    }

    /// One operation, from invocation to completion.
    pub async fn operate(&self, kind: &str, call: Call, asking: impl Future<Output = Told>) -> Outcome {
        let op = self.recorder.invoke(self.process, None, call);
        let told = asking.await;
        let outcome = told.1.clone();
        self.recorder.complete(op, kind, told);
        outcome
    }

    async fn pause(&self, mean_ms: u64) {
        tokio::time::sleep(Duration::from_millis(1 + self.numbers.below(2 * mean_ms))).await;
    }

    /// The client itself, or one that asks a single master once.
    fn somewhere(&self) -> Client {
        let one = &self.masters[self.numbers.below(self.masters.len() as u64) as usize];
        self.client.only(one).with_timeout(Duration::from_millis(600))
    }

    async fn submit(&self, groups: Vec<TaskGroup>) {
        let (id, count) = (self.client.new_request_id(), groups.iter().map(|group| u64::from(group.count)).sum());
        let mut client = self.client.clone();
        for round in 0..4 {
            let call = Call::Submit { request: hex(id), count };
            let asking = async { answers::submitted(&client.submit_with_id(id, groups.clone()).await) };
            let outcome = self.operate("submit", call, asking).await;
            if let Outcome::Ok { answer: steersman_evidence::record::Answer::Submitted { first, count, .. } } = &outcome
                && round == 0
            {
                self.recorder.learn_tasks(*first, *count);
            }
            if !self.again(&outcome) {
                return;
            }
            client = self.somewhere();
            self.pause(150).await;
        }
    }

    async fn cancel(&self, task: u64) {
        let (id, mut client) = (self.client.new_request_id(), self.client.clone());
        for _ in 0..3 {
            let call = Call::Cancel { request: hex(id), task };
            let asking = async { answers::cancelled(&client.cancel_with_id(id, vec![task]).await) };
            let outcome = self.operate("cancel", call, asking).await;
            if !self.again(&outcome) {
                return;
            }
            client = self.somewhere();
            self.pause(100).await;
        }
    }

    /// Whether to repeat a request: nearly always if its fate is not known, now and then for the sake of it.
    fn again(&self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Unknown { .. } => self.numbers.below(5) > 0,
            Outcome::Fail { .. } => self.numbers.below(3) == 0,
            Outcome::Ok { .. } => self.numbers.below(12) == 0,
        }
    }

    async fn read(&self, task: u64, stale: bool) {
        let client = if stale || self.numbers.below(4) == 0 { self.somewhere() } else { self.client.clone() };
        let consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
        let request = GetTaskRequest { id: task, consistency: consistency.into() };
        let kind = if stale { "read-stale" } else { "read" };
        let asking = async { answers::read(&client.get_with(request).await) };
        self.operate(kind, Call::Read { task, stale }, asking).await;
    }

    async fn read_workers(&self) {
        let request = ListWorkersRequest::default();
        let asking = async { answers::registry(&self.client.worker_list(request).await) };
        self.operate("read-workers", Call::ReadWorkers {}, asking).await;
    }

    async fn anything(&self) {
        let recent = self.recorder.known_task(self.numbers.below(12));
        match (self.numbers.below(20), recent) {
            (0..=5, _) | (_, None) => {
                let count = 1 + self.numbers.below(4) as u32;
                self.submit(vec![work::group(&self.numbers, count)]).await;
            }
            (6..=8, Some(task)) => self.cancel(task).await,
            (9..=14, Some(task)) => self.read(task, false).await,
            (15..=17, Some(task)) => self.read(task, true).await,
            (_, Some(_)) => self.read_workers().await,
        }
    }

    /// Asks for this and that until it is told to stop.
    pub async fn live(self, wishes: Wishes) {
        while !wishes.stop.get() {
            let flood = wishes.flood.take();
            if flood > 0 {
                self.submit(vec![work::flood(flood)]).await;
            }
            self.anything().await;
            self.pause(220).await;
        }
        wishes.stopped.set(wishes.stopped.get() + 1);
    }

    /// Reads every task that there is, page by page, each as if it had been read alone.
    ///
    /// # Errors
    /// If a page could not be read.
    pub async fn read_all(&self) -> Result<(), steersman_client::Error> {
        let mut token = String::new();
        loop {
            let page = Some(Page { page_size: 1_000, page_token: token });
            let invoked = self.recorder.now_us();
            let answer = self.client.list(ListTasksRequest { page, ..ListTasksRequest::default() }).await?;
            for (task, told) in answers::page(&answer) {
                self.recorder.read_of_page(self.process, invoked, task, told);
            }
            token = answer.next_page_token;
            if token.is_empty() {
                return Ok(());
            }
        }
    }

    /// Waits for the end of the run, then reads everything.
    pub async fn audit(self, wishes: Wishes) {
        // Until then it asks nothing, and all masters that it was given may be replaced.
        let _masters = self.client.watch_leader();
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if wishes.read_all.get() && !wishes.all_read.get() && self.read_all().await.is_ok() {
                wishes.all_read.set(true);
            }
        }
    }
}

/// As it stands in the history.
pub fn hex(id: RequestId) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}

/// Follows the event stream for ever; hangs up at times and goes on where it was.
pub async fn follow(setting: Setting, recorder: Recorder, follower: u64) -> Result<(), steersman_client::Error> {
    let caller = Caller::new(&setting, &recorder, 1_000 + follower)?;
    let mut stream = caller.client.events(EventsFrom::Index(1), true);
    loop {
        let patience = Duration::from_millis(2_000 + caller.numbers.below(15_000));
        match tokio::time::timeout(patience, stream.next()).await {
            Ok(Some(Ok(item))) => took(&recorder, follower, item),
            Ok(Some(Err(error))) => {
                recorder.note(format!("follower{follower}"), format!("begins anew: {error}"));
                tokio::time::sleep(Duration::from_millis(200)).await;
                stream = resumed(&caller.client, &stream);
            }
            Ok(None) | Err(_) => {
                recorder.count("followers hung up");
                stream = resumed(&caller.client, &stream);
            }
        }
    }
}

fn resumed(client: &Client, stream: &steersman_client::EventStream) -> steersman_client::EventStream {
    client.events(EventsFrom::Index(stream.next_index().unwrap_or(1)), true)
}

fn took(recorder: &Recorder, follower: u64, item: EventItem) {
    let at_us = recorder.now_us();
    let (index, term, events) = match item {
        EventItem::Batch(batch) => (batch.index, batch.term, batch.events.iter().map(answers::event).collect()),
        EventItem::Gap { from, to } => (to, 0, vec![Event::Gap { from, to }]),
        EventItem::Reconnected { .. } => return recorder.count("followers reconnected"),
        EventItem::Progress { .. } | EventItem::Lost { .. } => return,
    };
    for event in &events {
        if let Event::Worker { change, .. } = event
            && follower == 1
        {
            recorder.count(&format!("worker {change}"));
        }
    }
    recorder.push(Record::Events(Events { follower, at_us, master: None, index, term, events }));
}
