//! The client follows leaders, retries with the same request id and does its arithmetic: against fake masters.
#![allow(clippy::unwrap_used)]

mod fake;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fake::{Fake, Script, at_once, client, dead_address, mute, never, no_leader, not_leader, status, submitted};
use parking_lot::Mutex;
use steersman_client::v1::{GetTaskResponse, InfoResponse, LeaderInfo, MasterAddress, MasterInfo, StepDownResponse};
use steersman_client::{Class, Client, World, codes};

fn submits(first_id: u64) -> Script {
    Script { submit: at_once(move |_, _| Ok(submitted(first_id))), ..Script::default() }
}

fn refers_to(api: &str, term: u64) -> Script {
    let api = api.to_owned();
    Script { submit: at_once(move |_, _| Err(not_leader(&api, term))), ..Script::default() }
}

#[tokio::test]
async fn a_redirect_is_followed_and_remembered() {
    let leader = Fake::start(submits(7)).await;
    let follower = Fake::start(refers_to(&leader.address, 3)).await;
    let client = client(&[&follower.address], 2_000);

    assert_eq!(client.submit(vec![]).await.unwrap().first_id, 7);
    let known = client.leader().unwrap();
    assert_eq!((known.api.as_str(), known.term, known.id), (leader.address.as_str(), 3, 9));
    assert_eq!(client.submit(vec![]).await.unwrap().first_id, 7);
    assert_eq!((follower.calls("submit"), leader.calls("submit")), (1, 2), "the second goes to the leader at once");
}

#[tokio::test]
async fn a_redirect_of_an_older_term_is_not_followed() {
    let usurper = Fake::start(submits(666)).await;
    let follower = Fake::start(refers_to(&usurper.address, 4)).await;
    let client = client(&[&follower.address], 400);
    assert!(client.learn_leader(&LeaderInfo { term: 5, leader: None, masters: Vec::new() }));

    let error = client.submit(vec![]).await.unwrap_err();
    assert_eq!(usurper.calls("submit"), 0, "{error}");
    assert!(error.is(codes::NO_LEADER), "{error}");
    assert!(follower.calls("submit") > 1);
}

#[tokio::test]
async fn at_most_three_redirects_are_followed_before_a_pause() {
    // Five masters that each refer to the next one, in terms that rise: a circle without an end.
    let masters = Arc::new(Mutex::new(Vec::<String>::new()));
    let log = Arc::new(Mutex::new(Vec::<Instant>::new()));
    let mut fakes = Vec::new();
    for n in 0..5usize {
        let (masters, log) = (masters.clone(), log.clone());
        let submit = at_once(move |_, _| {
            let term = {
                let mut log = log.lock();
                log.push(Instant::now());
                log.len() as u64
            };
            let masters = masters.lock();
            Err(not_leader(&masters[(n + 1) % masters.len()], term))
        });
        fakes.push(Fake::start(Script { submit, ..Script::default() }).await);
    }
    *masters.lock() = fakes.iter().map(|fake| fake.address.clone()).collect();
    let client = client(&[&fakes[0].address], 2_000);

    assert!(client.submit(vec![]).await.is_err());
    let log = log.lock();
    assert!(log.len() >= 8, "it went on after the pause: {}", log.len());
    let pause = log[4].duration_since(log[3]);
    assert!(pause >= Duration::from_millis(9), "after the first ask and three redirects comes a pause: {pause:?}");
}

#[tokio::test]
async fn p02_a_retry_carries_the_same_request_id_to_every_master() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut fakes = Vec::new();
    for n in 0..3u64 {
        let seen = seen.clone();
        let submit = at_once(move |request: steersman_client::v1::SubmitRequest, _| {
            let mut seen = seen.lock();
            seen.push(request.request_id.clone());
            if seen.len() < 6 { Err(tonic::Status::unavailable("reset")) } else { Ok(submitted(n)) }
        });
        fakes.push(Fake::start(Script { submit, ..Script::default() }).await);
    }
    let addresses: Vec<&str> = fakes.iter().map(|fake| fake.address.as_str()).collect();
    let client = client(&addresses, 5_000);

    client.submit(vec![]).await.unwrap();
    let ids: HashSet<_> = seen.lock().iter().cloned().collect();
    assert_eq!((seen.lock().len(), ids.len()), (6, 1));
    assert_eq!(ids.iter().next().unwrap().len(), 16);
    assert!(fakes.iter().all(|fake| fake.calls("submit") == 2), "each master was asked in turn");

    client.submit(vec![]).await.unwrap();
    let ids: HashSet<_> = seen.lock().iter().cloned().collect();
    assert_eq!(ids.len(), 2, "another call has another id");
}

#[tokio::test]
async fn dead_and_mute_masters_are_skipped() {
    let alive = Fake::start(submits(3)).await;
    let (_listener, mute) = mute();
    let dead = dead_address();
    for _ in 0..4 {
        let client = Client::builder(World::real())
            .addresses([dead.as_str(), mute.as_str(), alive.address.as_str()])
            .try_timeout(Duration::from_millis(100))
            .build()
            .unwrap();
        assert_eq!(client.submit(vec![]).await.unwrap().first_id, 3);
    }
}

#[tokio::test]
async fn the_total_deadline_holds_and_the_error_does_the_arithmetic() {
    let (_listener, mute) = mute();
    let dead = dead_address();
    let leaderless = Fake::start(Script { get: at_once(|_, _| Err(no_leader())), ..Script::default() }).await;
    let client = client(&[&dead, &mute, &leaderless.address], 700);

    let began = Instant::now();
    let error = client.get(1).await.unwrap_err();
    let took = began.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_millis(1_500)).contains(&took), "{took:?}");
    assert_eq!(error.class(), Class::Unavailable);
    let answers: Vec<&str> = error.asked().iter().map(|asked| asked.answer.as_str()).collect();
    assert_eq!(error.asked().len(), 3, "{error}");
    assert!(error.message().contains("1 of 3 known masters answered; 2 are needed"), "{error}");
    for wanted in ["connection refused", "no answer within", "NO_LEADER: told to answer NO_LEADER"] {
        assert!(answers.iter().any(|answer| answer.contains(wanted)), "{wanted}: {answers:?}");
    }
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let dead = dead_address();
    let error = client(&[&dead], 300).submit(vec![]).await.unwrap_err();
    assert!(error.is(codes::UNREACHABLE), "{error}");
    assert_eq!(error.class(), Class::Unavailable, "nothing was sent, so the outcome is known");
    assert!(error.message().contains("0 of 1 known master answered"), "{error}");
    assert!(error.to_string().contains(&format!("{dead}: connection refused")), "{error}");
}

#[tokio::test]
async fn the_extra_time_of_a_slow_call_is_not_spent_on_looking_for_a_master() {
    let dead = dead_address();
    let began = Instant::now();
    let error = client(&[&dead], 200).step_down(0).await.unwrap_err();
    assert!(error.is(codes::UNREACHABLE), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_mutation_without_an_answer_has_an_unknown_outcome_and_keeps_its_id() {
    let silent = Fake::start(Script { submit: never(), get: never(), ..Script::default() }).await;
    let client = Client::builder(World::real())
        .addresses([silent.address.as_str()])
        .try_timeout(Duration::from_millis(50))
        .timeout(Duration::from_millis(400))
        .build()
        .unwrap();

    let id = client.new_request_id();
    let error = client.submit_with_id(id, vec![]).await.unwrap_err();
    assert_eq!((error.class(), error.request_id()), (Class::OutcomeUnknown, Some(id)), "{error}");
    assert!(error.is(codes::OUTCOME_UNKNOWN));
    assert!(silent.calls("submit") >= 2, "it was tried again");
    assert_eq!(client.get(1).await.unwrap_err().class(), Class::Unavailable, "a read has no outcome");
}

#[tokio::test]
async fn a_refusal_by_the_callers_fault_is_not_retried() {
    let submit = at_once(|_, _| Err(status(codes::INVALID_ARGUMENT, tonic::Code::InvalidArgument, &[])));
    let get = at_once(|_, _| Err(status(codes::TASK_NOT_FOUND, tonic::Code::NotFound, &[("id", "9".into())])));
    let fake = Fake::start(Script { submit, get, ..Script::default() }).await;
    let client = client(&[&fake.address], 2_000);

    let error = client.submit(vec![]).await.unwrap_err();
    assert_eq!((error.class(), error.code(), error.reason()), (Class::Caller, "STM-2001", "INVALID_ARGUMENT"));
    assert_eq!(error.message(), "told to answer INVALID_ARGUMENT");
    let error = client.get(9).await.unwrap_err();
    assert!(error.is(codes::TASK_NOT_FOUND) && error.grpc() == tonic::Code::NotFound);
    assert_eq!(error.details()["id"], "9");
    assert_eq!((fake.calls("submit"), fake.calls("get")), (1, 1));
}

#[tokio::test]
async fn a_step_down_is_not_repeated_once_it_may_have_happened() {
    let step_down = at_once(|_, n| {
        if n == 0 { Err(no_leader()) } else { Err::<StepDownResponse, _>(tonic::Status::unavailable("reset")) }
    });
    let fake = Fake::start(Script { step_down, ..Script::default() }).await;
    let error = client(&[&fake.address], 2_000).step_down(0).await.unwrap_err();
    assert_eq!(error.class(), Class::OutcomeUnknown, "{error}");
    assert_eq!(fake.calls("step_down"), 2, "a refusal is retried, a reset is not");
}

#[tokio::test]
async fn a_client_bound_to_one_master_neither_retries_nor_follows() {
    let leader = Fake::start(submits(1)).await;
    let follower = Fake::start(refers_to(&leader.address, 1)).await;
    let client = client(&[&leader.address], 2_000);
    let error = client.only(&follower.address).submit(vec![]).await.unwrap_err();
    assert!(error.is(codes::NOT_LEADER), "{error}");
    assert_eq!((follower.calls("submit"), leader.calls("submit")), (1, 0));
}

fn info(id: u64, own: &str, others: &[&str]) -> InfoResponse {
    let address = |id, api: &str| MasterAddress { id, api: api.to_owned(), ..MasterAddress::default() };
    let mut masters = vec![MasterInfo { address: Some(address(id, own)), ..MasterInfo::default() }];
    let others = others.iter().map(|api| MasterInfo { address: Some(address(0, api)), ..MasterInfo::default() });
    masters.extend(others);
    InfoResponse { self_: Some(address(id, own)), masters, ..InfoResponse::default() }
}

#[tokio::test]
async fn info_all_asks_every_master_also_those_it_learns_of() {
    let (a, b) = (Fake::start(Script::default()).await, Fake::start(Script::default()).await);
    let dead = dead_address();
    for (id, fake) in [(1, &a), (2, &b)] {
        let others = [a.address.clone(), b.address.clone(), dead.clone()];
        let own = fake.address.clone();
        fake.set(|script| {
            script.info =
                at_once(move |_, _| Ok(info(id, &own, &others.iter().map(String::as_str).collect::<Vec<_>>())));
        });
    }
    let answers = client(&[&a.address], 2_000).info_all().await;
    let summary: Vec<_> = answers.iter().map(|(address, answer)| (address.clone(), answer.is_ok())).collect();
    assert_eq!(summary, [(a.address.clone(), true), (b.address.clone(), true), (dead, false)]);
}

#[tokio::test]
async fn a_watch_learns_the_leader_by_push() {
    let leader = MasterAddress { id: 2, api: "10.0.0.2:7400".into(), ..MasterAddress::default() };
    let told = LeaderInfo { term: 8, leader: Some(leader), masters: Vec::new() };
    let fake = Fake::start(Script { leader: Some(told), ..Script::default() }).await;
    let client = client(&[&fake.address], 2_000);
    let mut watch = client.watch_leader();
    let leader = tokio::time::timeout(Duration::from_secs(5), watch.leader()).await.unwrap();
    assert_eq!((leader.id, leader.term, leader.api.as_str()), (2, 8, "10.0.0.2:7400"));
    assert!(client.masters().contains(&leader.api));
}

#[tokio::test]
async fn metadata_of_an_answer_names_the_leader() {
    let get = at_once(|_, _| {
        let mut status = tonic::Status::unavailable("going down");
        status.metadata_mut().insert("steersman-term", "6".parse().unwrap());
        status.metadata_mut().insert("steersman-leader-api", "10.0.0.3:7400".parse().unwrap());
        Err::<GetTaskResponse, _>(status)
    });
    let fake = Fake::start(Script { get, ..Script::default() }).await;
    let client = client(&[&fake.address], 100);
    client.only(&fake.address).get(1).await.unwrap_err();
    let leader = client.leader().unwrap();
    assert_eq!((leader.api.as_str(), leader.term), ("10.0.0.3:7400", 6), "what one clone learns serves all");
}

/// Time that passes when it is told to.
struct Jumping(std::sync::atomic::AtomicU64);

impl steersman_world::Clock for Jumping {
    fn now(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + Duration::from_secs(self.0.load(std::sync::atomic::Ordering::Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        0
    }
}

#[tokio::test]
async fn a_client_that_only_submits_learns_who_replaced_the_masters_that_it_knew() {
    let replaced = Fake::start(submits(1)).await;
    let successor = Fake::start(submits(2)).await;
    let address = MasterAddress { id: 2, api: successor.address.clone(), ..MasterAddress::default() };
    let masters = vec![MasterInfo { address: Some(address), ..MasterInfo::default() }];
    let info = InfoResponse { masters, ..InfoResponse::default() };
    replaced.set(|script| script.info = at_once(move |_, _| Ok(info.clone())));
    let clock = Arc::new(Jumping(0.into()));
    let world = World { clock: clock.clone(), ..World::real() };
    let client = Client::builder(world).addresses([&replaced.address]).build().unwrap();

    assert_eq!(client.submit(vec![]).await.unwrap().first_id, 1);
    assert_eq!(replaced.calls("info"), 0, "a client that is gone in a moment asks nothing else");
    clock.0.store(60, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(client.submit(vec![]).await.unwrap().first_id, 1);
    two_are_known(&client).await;
    replaced.set(|script| script.submit = at_once(|_, _| Err(no_leader())));
    assert_eq!(client.submit(vec![]).await.unwrap().first_id, 2);
}

#[tokio::test]
async fn a_client_asks_at_once_who_the_masters_are_when_an_answer_tells_of_a_newer_membership() {
    let successor = MasterAddress { id: 2, api: "10.0.0.2:7400".into(), ..MasterAddress::default() };
    let masters = vec![MasterInfo { address: Some(successor), ..MasterInfo::default() }];
    let info = InfoResponse { masters, ..InfoResponse::default() };
    let info = at_once(move |_, _| Ok(info.clone()));
    let fake = Fake::start(Script { info, membership: Some(7), ..submits(1) }).await;
    let client = client(&[&fake.address], 2_000);

    for _ in 0..3 {
        client.submit(vec![]).await.unwrap();
    }
    assert_eq!(fake.calls("info"), 0, "the first word of a membership is no news, nor is its repetition");
    fake.set(|script| script.membership = Some(9));
    client.submit(vec![]).await.unwrap();
    two_are_known(&client).await;
    assert_eq!(fake.calls("info"), 1);
}

async fn two_are_known(client: &Client) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.masters().len() < 2 {
        assert!(Instant::now() < deadline, "it never asked: {:?}", client.masters());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
