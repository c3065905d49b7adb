//! Submits that are made at the same time travel together, and yet each has its own fate.
#![allow(clippy::unwrap_used)]

mod fake;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use fake::{Fake, Script, at_once, client, status, submitted};
use futures::future::join_all;
use parking_lot::Mutex;
use steersman_client::codes;
use steersman_client::v1::{Handler, SubmitRequest, TaskGroup, TaskSpec, task_spec::Work};
use tokio::sync::Semaphore;

/// A submit that its payload tells from the others.
fn task(n: u64) -> Vec<TaskGroup> {
    let handler = Handler { name: "h".to_owned(), payload: n.to_be_bytes().to_vec().into() };
    vec![TaskGroup { spec: Some(TaskSpec { work: Some(Work::Handler(handler)), ..TaskSpec::default() }), count: 1 }]
}

fn number(request: &SubmitRequest) -> u64 {
    let Some(Work::Handler(handler)) = &request.groups[0].spec.as_ref().unwrap().work else { panic!("no handler") };
    u64::from_be_bytes(handler.payload.as_ref().try_into().unwrap())
}

#[tokio::test]
async fn submits_of_one_moment_travel_in_few_calls_and_each_gets_its_own_answer() {
    let ids = Arc::new(Mutex::new(HashSet::new()));
    let seen = ids.clone();
    let submit = at_once(move |request: SubmitRequest, _| {
        seen.lock().insert(request.request_id.to_vec());
        match number(&request) {
            n if n % 10 == 3 => Err(status(codes::INVALID_ARGUMENT, tonic::Code::InvalidArgument, &[])),
            n => Ok(submitted(1_000 + n)),
        }
    });
    let fake = Fake::start(Script { submit, ..Script::default() }).await;
    let client = client(&[&fake.address], 5_000);

    let answers = join_all((0..200).map(|n| client.submit(task(n)))).await;
    for (n, answer) in (0..).zip(answers) {
        match answer {
            Ok(answer) => assert_eq!((answer.first_id, n % 10 == 3), (1_000 + n, false)),
            Err(error) => assert!(n % 10 == 3 && error.is(codes::INVALID_ARGUMENT), "{n}: {error}"),
        }
    }
    assert_eq!((ids.lock().len(), fake.calls("submit")), (200, 200), "each has an id of its own");
    let many = fake.calls("submit_many");
    assert!((1..20).contains(&many), "{many} calls for 200 submits");
}

#[tokio::test]
async fn a_submit_alone_goes_alone() {
    let submit = at_once(|request, _| Ok(submitted(number(&request))));
    let fake = Fake::start(Script { submit, ..Script::default() }).await;
    let client = client(&[&fake.address], 5_000);
    for n in 1..20 {
        assert_eq!(client.submit(task(n)).await.unwrap().first_id, n);
    }
    assert_eq!(fake.calls("submit_many"), 0);
}

#[tokio::test]
async fn those_that_are_no_longer_waited_for_hold_up_nobody() {
    let gate = Arc::new(Semaphore::new(0));
    let shut = gate.clone();
    let submit = Some(Arc::new(move |request: SubmitRequest, _: u32| {
        let shut = shut.clone();
        Box::pin(async move {
            // Those below 10 wait until the gate is open.
            if number(&request) < 10 {
                drop(shut.acquire().await);
            }
            Ok(submitted(number(&request)))
        }) as futures::future::BoxFuture<'static, _>
    }) as fake::Answer<_, _>);
    let fake = Fake::start(Script { submit, ..Script::default() }).await;
    let client = client(&[&fake.address], 10_000);
    // The connection is there first, so that the order of what follows is the order of the calls.
    assert_eq!(client.submit(task(99)).await.unwrap().first_id, 99);

    // Both places and a first company are taken by submits that nobody answers; their callers give up.
    let stuck: Vec<_> = (0..6u64)
        .map(|n| {
            tokio::spawn({
                let client = client.clone();
                async move { client.submit(task(n)).await }
            })
        })
        .collect();
    while fake.calls("submit") < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.submit(task(10)).await }
    });
    stuck.iter().for_each(tokio::task::JoinHandle::abort);
    let answer = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert_eq!(answer.unwrap().first_id, 10);
    gate.close();
}
