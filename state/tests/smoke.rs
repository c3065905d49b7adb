//! Placeholder until the stories are here.
#![allow(clippy::unwrap_used)]
mod common;
use common::*;
use steersman_state::*;

#[test]
fn submit_assign_report() {
    let mut node = Node::default();
    let first = node.submit(spec("a"), 10);
    let opened = node.open(hello(1, 1, 4, vec![]));
    assert_eq!(node.state.counts().scheduled, 4);
    node.start(opened.worker, 1, first);
    node.end(opened.worker, 1, first, ended(Outcome::Exited, 0));
    assert_eq!(node.task_state(first), TaskState::Succeeded);
    assert_eq!(node.state.counts().scheduled, 4);
    let again = reread(&node.state);
    assert_eq!(again.digest(), node.state.digest());
    println!("{:?}", node.state.explain(TaskId(9)));
    println!("{:?}", node.state.next_timer_ms());
}
