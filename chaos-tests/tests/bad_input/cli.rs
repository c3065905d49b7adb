//! Command lines that cannot mean anything, or mean something that is not there.

use steersman_chaos_tests::{Cluster, Settings};

use crate::{Table, alive};

/// Arguments, stdin, exit code, words.
type Row = (&'static [&'static str], &'static str, i32, &'static [&'static str]);

const ROWS: &[Row] = &[
    (&["tusk", "list"], "", 2, &["unrecognized subcommand", "task"]),
    (&["task", "list", "--colour"], "", 2, &["unexpected argument"]),
    (&["task", "list", "-o", "xml"], "", 2, &["xml", "jsonl"]),
    (&["task", "list", "--timeout", "5"], "", 2, &["write 5s"]),
    (&["--address", "a:b", "task", "list"], "", 2, &["address \"a:b\"", "host:port"]),
    (
        &["--address", "127.0.0.1:1", "--timeout", "1s", "task", "list"],
        "",
        4,
        &["STM-1007", "127.0.0.1:1", "connection refused"],
    ),
    (&["task", "show", "0"], "", 2, &["\"0\" is not a task id"]),
    (&["task", "show", "9..3"], "", 2, &["is an empty range"]),
    (&["task", "show", "999999"], "", 3, &["STM-2002", "999999", "steersman task list"]),
    (&["task", "explain", "999999"], "", 3, &["STM-2002"]),
    (&["task", "logs", "999999"], "", 3, &["STM-2002"]),
    (&["task", "cancel", "999999"], "", 3, &["no such task"]),
    (&["task", "retry", "999999"], "", 3, &["refused: "]),
    (&["task", "submit"], "", 2, &["required"]),
    (&["task", "submit", "--lines", "--", "true"], "", 2, &["required"]),
    (&["task", "submit", "--priority", "5000", "--", "true"], "", 2, &["5000 is not in -1000..=1000"]),
    (&["task", "submit", "--env", "=x", "--", "true"], "", 2, &["=x"]),
    (
        &["task", "submit", "--env", "STEERSMAN_TASK_ID=7", "--", "true"],
        "",
        2,
        &["STM-2001", "is reserved", "spec.env[0].key"],
    ),
    (
        &["task", "submit", "--workdir", "here", "--", "true"],
        "",
        2,
        &["STM-2001", "is not absolute", "spec.command.workdir"],
    ),
    (&["task", "submit", "--resource", "gpu=none", "--", "true"], "", 2, &["gpu=2"]),
    (&["task", "submit", "--retry-on", "sometimes", "--", "true"], "", 2, &["worker-lost"]),
    (
        &["task", "submit", "-"],
        "{\"comand\": [\"true\"]}\n",
        2,
        &["stdin:1: there is no field \"comand\"; did you mean \"command\"?", "nothing was submitted"],
    ),
    (
        &["task", "submit", "-"],
        "{\"command\": [\"true\"]}\n{nonsense\n",
        2,
        &["stdin:2: is not JSON", "nothing was submitted"],
    ),
    (&["task", "submit", "-"], "{\"command\": \"true\"}\n", 2, &["stdin:1: field \"command\" must be a list of texts"]),
    (&["task", "submit", "/no/such/file"], "", 2, &["/no/such/file"]),
    (&["worker", "show", "nobody"], "", 3, &["STM-2003", "nobody", "steersman worker list"]),
    (&["worker", "drain", "nobody"], "", 3, &["STM-2003"]),
    (&["worker", "config", "set", "w1", "--capacity", "0"], "", 2, &["capacity"]),
    (&["master", "remove", "9", "--yes"], "", 3, &["STM-2009", "9", "steersman master list"]),
    (&["master", "remove", "2"], "", 2, &["needs a confirmation", "--yes"]),
    (&["master", "promote", "9"], "", 3, &["STM-2009"]),
    (&["master", "step-down", "--to", "9"], "", 3, &["STM-2009"]),
    (&["master", "add", "--id", "9", "--api", "x", "--raft", "y"], "", 2, &["STM-2001", "master.api"]),
    (&["master", "start"], "", 2, &["--config FILE"]),
    (&["worker", "start", "--name", "x"], "", 2, &["--data-dir"]),
    (&["cluster", "snapshot", "inspect", "/etc/hostname"], "", 1, &["STM-3002", "too short for a snapshot"]),
    (&["explain", "STM-9999"], "", 3, &["STM-9999"]),
    (&["run", "--address", "127.0.0.1:1", "--timeout", "1s", "--", "true"], "", 125, &["STM-1007"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_bad_command_lines_say_what_is_wrong_and_the_next_step() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let (cli, mut table) = (cluster.cli(), Table::default());
    for (args, input, exit, words) in ROWS {
        let said = cli.feed(args, input.as_bytes()).await;
        let text = format!("{}{}", said.out, said.err);
        table.row(&args.join(" "), (Some(said.code), &text), *exit, words);
    }
    let json = cli.run(&["-o", "json", "task", "show", "999999"]).await;
    let error: serde_json::Value = serde_json::from_str(&json.err).unwrap();
    table.words(
        "errors as JSON",
        &error.to_string(),
        &["\"code\":\"STM-2002\"", "\"reason\":\"TASK_NOT_FOUND\"", "\"hint\":"],
    );
    table.finish(35);
    let submitted = cluster.client().info().await.unwrap().tasks.unwrap().submitted_total;
    assert_eq!(submitted, 0, "bad input submits nothing");
    alive(&mut cluster).await;
}
