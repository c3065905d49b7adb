//! Submits that are made at the same time travel together: one message carries many, each with its own request id and its
//! own fate.
//!
//! What always holds: there is no waiting for company: a submit that finds few calls on their way goes at once and alone; what
//! comes meanwhile goes with the next call that may begin, all of it. Whoever stops waiting takes nobody along, and a call
//! for which nobody waits any more is given up. It does not retry, and decides nothing: what a master said is handed back.

use std::collections::VecDeque;

use futures::future::join_all;
use parking_lot::Mutex;
use prost::Message as _;
use steersman_proto::v1::submit_outcome::Fate;
use steersman_proto::v1::{Refusal, SubmitManyRequest, SubmitOutcome, SubmitRequest, SubmitResponse};
use tokio::sync::oneshot;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use crate::channels::Connection;
use crate::tasks::service;

/// Calls on their way at a time, per connection: one is committed while the next one is on its way.
const CALLS_MAX: usize = 2;
/// Submits that one call carries; the masters' own bound.
const SUBMITS_MAX: usize = 1_024;
/// Bytes that one call carries, a single larger submit excepted.
const BYTES_MAX: usize = 1 << 20;
/// A submit of so many bytes is worth a call of its own.
const LARGE: usize = 64 << 10;

type Answer = Result<Response<SubmitResponse>, Status>;

/// What waits for the next call of one connection.
#[derive(Default)]
pub(crate) struct Gather(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Calls on their way.
    calls: usize,
    submits: VecDeque<(SubmitRequest, oneshot::Sender<Answer>)>,
}

/// How a submit goes.
enum Way {
    /// By itself. The place, if it takes one, is free once this is dropped.
    Alone(Box<Request<SubmitRequest>>, Option<Place>),
    /// With others.
    Together(oneshot::Receiver<Answer>),
}

impl Connection {
    /// Submits, alone or along with others.
    pub(crate) async fn submit(self, request: Request<SubmitRequest>) -> Answer {
        match self.way(request) {
            Way::Alone(request, _place) => service(self).submit(*request).await,
            Way::Together(answer) => {
                answer.await.unwrap_or_else(|_| Err(Status::unavailable("the call that carried it was given up")))
            }
        }
    }

    fn way(&self, request: Request<SubmitRequest>) -> Way {
        let submit = request.get_ref();
        if submit.validate_only || submit.encoded_len() >= LARGE {
            return Way::Alone(Box::new(request), None);
        }
        let mut waiting = self.gather.0.lock();
        if waiting.calls < CALLS_MAX {
            waiting.calls += 1;
            return Way::Alone(Box::new(request), Some(Place(self.clone())));
        }
        let (tell, answer) = oneshot::channel();
        waiting.submits.push_back((request.into_inner(), tell));
        Way::Together(answer)
    }
}

/// One of the calls that may be on their way. Freed, it goes to what has gathered meanwhile.
struct Place(Connection);

impl Drop for Place {
    fn drop(&mut self) {
        // Nobody waits for anything any more while the runtime is being torn down.
        let runtime = tokio::runtime::Handle::try_current();
        let (submits, answers) = {
            let mut waiting = self.0.gather.0.lock();
            let gathered = waiting.gathered();
            if gathered.0.is_empty() || runtime.is_err() {
                waiting.calls -= 1;
            }
            gathered
        };
        if let Ok(runtime) = runtime.map_err(drop)
            && !submits.is_empty()
        {
            drop(runtime.spawn(carry(Self(self.0.clone()), submits, answers)));
        }
    }
}

impl Waiting {
    /// What the next call carries: what came first, as far as it fits, without those that have stopped waiting.
    fn gathered(&mut self) -> (Vec<SubmitRequest>, Vec<oneshot::Sender<Answer>>) {
        let (mut submits, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0);
        while submits.len() < SUBMITS_MAX
            && bytes < BYTES_MAX
            && let Some((submit, answer)) = self.submits.pop_front()
        {
            if !answer.is_closed() {
                bytes += submit.encoded_len();
                submits.push(submit);
                answers.push(answer);
            }
        }
        (submits, answers)
    }
}

async fn carry(place: Place, submits: Vec<SubmitRequest>, mut answers: Vec<oneshot::Sender<Answer>>) {
    let mut service = service(place.0.clone());
    let answer = tokio::select! {
        answer = service.submit_many(SubmitManyRequest { submits }) => answer,
        _ = join_all(answers.iter_mut().map(oneshot::Sender::closed)) => return,
    };
    // The next call begins before these callers go on.
    drop(place);
    match answer {
        Ok(answer) => hand_out(answer.into_parts(), answers),
        Err(status) => answers.into_iter().for_each(|answer| drop(answer.send(Err(status.clone())))),
    }
}

/// To each its own. What the master says of itself is told to one of them: all share what the client knows.
fn hand_out(
    (mut metadata, answer, _): (MetadataMap, steersman_proto::v1::SubmitManyResponse, tonic::Extensions),
    answers: Vec<oneshot::Sender<Answer>>,
) {
    let mut outcomes = answer.outcomes.into_iter();
    for answer in answers {
        let outcome = outcomes.next().and_then(|SubmitOutcome { fate }| fate);
        let _ = answer.send(match outcome {
            Some(Fate::Done(done)) => {
                Ok(Response::from_parts(std::mem::take(&mut metadata), done, tonic::Extensions::default()))
            }
            Some(Fate::Refused(Refusal { code, message, details })) => {
                Err(Status::with_details(Code::from_i32(code), message, details))
            }
            None => Err(Status::unknown("the master said nothing of this submit")),
        });
    }
}
