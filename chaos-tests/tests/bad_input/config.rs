//! Configurations that are not valid: every problem with its line and the nearest key, and exit code 78.

use std::fmt::Write as _;

use steersman_chaos_tests::cli::Cli;

use crate::Table;

const MASTER: &str = "\
node_id = 1
data_dir = \"data\"
cluster = \"chaos\"

[listen]
api = \"127.0.0.1:17400\"
raft = \"127.0.0.1:17401\"
http = \"127.0.0.1:17402\"

[[masters]]
id = 1
api = \"127.0.0.1:17400\"
raft = \"127.0.0.1:17401\"
http = \"127.0.0.1:17402\"
";

const WORKER: &str = "name = \"w1\"\ndata_dir = \"data\"\nmasters = [\"127.0.0.1:17400\"]\n";

/// What is replaced by what, and the words of the refusal.
type Row = (&'static str, &'static str, &'static str, &'static [&'static str]);

const MASTERS: &[Row] = &[
    (
        "misspelt key",
        "node_id = 1\n",
        "node_id = 1\nclutser = \"x\"\n",
        &[":2: clutser: unknown key; did you mean \"cluster\"?"],
    ),
    (
        "misspelt key in a section",
        "[listen]\n",
        "[listen]\nrfat = \"x\"\n",
        &["rfat: unknown key; did you mean \"raft\"?"],
    ),
    (
        "key without any likeness",
        "node_id = 1\n",
        "node_id = 1\nzzz = 1\n",
        &[":2: zzz: unknown key; known are node_id"],
    ),
    ("not TOML", "node_id = 1\n", "node_id = = 1\n", &[":1: not valid TOML"]),
    ("required key absent", "node_id = 1\n", "", &["node_id: is missing: it has no default"]),
    ("wrong type", "node_id = 1\n", "node_id = \"one\"\n", &[":1: node_id: the string \"one\" where a whole number"]),
    ("negative number", "node_id = 1\n", "node_id = -1\n", &[":1: node_id: the number -1"]),
    (
        "out of range",
        "[listen]",
        "[raft]\nheartbeat_ms = 5\n[listen]",
        &["raft.heartbeat_ms: 5 is out of range: allowed is 10 to 10000 ms"],
    ),
    (
        "two keys that disagree",
        "[listen]",
        "[raft]\nheartbeat_ms = 150\n[listen]",
        &["raft.election_min_ms: 200 is too short for heartbeat_ms = 150"],
    ),
    (
        "a lease too short",
        "[listen]",
        "[workers]\nlease_ms = 1000\n[listen]",
        &["workers.lease_ms: 1000 is less than three heartbeats"],
    ),
    (
        "a section that is a value",
        "cluster = \"chaos\"",
        "raft = 5",
        &["raft: the number 5 where a table belongs: write [raft]"],
    ),
    (
        "unknown level",
        "[listen]",
        "[log]\nlevel = \"loud\"\n[listen]",
        &["log.level: \"loud\" is not one of error, warn, info, debug, trace"],
    ),
    (
        "beyond loopback",
        "[listen]\napi = \"127.0.0.1:17400\"",
        "[listen]\napi = \"0.0.0.0:17400\"",
        &["STM-3007", "listen.api: 0.0.0.0:17400 is beyond loopback", "insecure = true"],
    ),
    (
        "not host:port",
        "[listen]\napi = \"127.0.0.1:17400\"",
        "[listen]\napi = \"nowhere\"",
        &["listen.api: \"nowhere\" is not host:port"],
    ),
    (
        "one port twice",
        "[listen]\napi = \"127.0.0.1:17400\"",
        "[listen]\napi = \"127.0.0.1:17401\"",
        &["127.0.0.1:17401 is also listen.api"],
    ),
    (
        "not one of the masters",
        "node_id = 1\n",
        "node_id = 2\n",
        &["node_id: 2 is not one of masters (1)", "join = true"],
    ),
    (
        "joins what it forms",
        "node_id = 1\n",
        "node_id = 1\njoin = true\n",
        &["join: true, though node_id = 1 is one of the initial masters"],
    ),
    ("an odd name", "cluster = \"chaos\"", "cluster = \"a b\"", &["cluster: must be 1 to 64 letters"]),
    (
        "two masters of one id",
        "[[masters]]",
        "[[masters]]\nid = 1\napi = \"a:1\"\nraft = \"a:2\"\nhttp = \"a:3\"\n[[masters]]",
        &["is also the id of masters[0]"],
    ),
    (
        "several at once",
        "cluster = \"chaos\"",
        "clster = \"x\"\n[raft]\nheartbeat_ms = 1\nsnapshot_entries = 1",
        &["did you mean \"cluster\"", "raft.heartbeat_ms: 1 is out", "raft.snapshot_entries: 1 is out"],
    ),
];

const WORKERS: &[Row] = &[
    ("misspelt key", "name", "capcity = 3\nname", &[":1: unknown key \"capcity\"; did you mean \"capacity\"?"]),
    ("wrong type", "name = \"w1\"", "name = 1", &[":1: ", "invalid type"]),
    ("no name", "name = \"w1\"\n", "", &["name: has 0 characters; give 1 to 128"]),
    ("no masters", "[\"127.0.0.1:17400\"]", "[]", &["masters: is empty; name at least one host:port"]),
    ("a master without a port", "127.0.0.1:17400", "nowhere", &["\"nowhere\" is not host:port"]),
    ("no capacity", "name", "capacity = 0\nname", &["capacity: is 0; the limits are 1 to"]),
    (
        "beyond loopback",
        "name",
        "http = \"0.0.0.0:80\"\nname",
        &["http: \"0.0.0.0:80\" is beyond loopback", "insecure = true"],
    ),
];

async fn run(table: &mut Table, kind: &str, good: &str, rows: &[Row]) {
    let folder = tempfile::tempdir().unwrap();
    let cli = Cli::new(vec!["127.0.0.1:1".to_owned()], folder.path());
    let file = folder.path().join("bad.toml");
    let path = file.to_str().unwrap();
    for (name, from, to, words) in rows {
        assert!(good.contains(from), "{name}");
        std::fs::write(&file, good.replacen(from, to, 1)).unwrap();
        let start = cli.run(&[kind, "start", "--config", path]).await;
        table.row(&format!("{kind}: {name}"), (Some(start.code), &start.err), 78, words);
        let check = cli.run(&["config", "check", "--kind", kind, path]).await;
        table.row(&format!("config check, {kind}: {name}"), (Some(check.code), &check.err), 7, words);
    }
    let mut made = String::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let _ = write!(made, "{:?} ", entry.unwrap().file_name());
    }
    assert_eq!(made, "\"bad.toml\" ", "nothing was made");
}

#[tokio::test]
async fn p15_bad_configurations_are_refused_with_line_and_nearest_key() {
    let mut table = Table::default();
    run(&mut table, "master", MASTER, MASTERS).await;
    run(&mut table, "worker", WORKER, WORKERS).await;
    let folder = tempfile::tempdir().unwrap();
    let cli = Cli::new(vec![], folder.path());
    for kind in ["master", "worker"] {
        let absent = cli.run(&[kind, "start", "--config", "/no/such/file.toml"]).await;
        table.row("an absent file", (Some(absent.code), &absent.err), 78, &["/no/such/file.toml", "read"]);
    }
    table.finish(50);
}
