//! The configuration by table: what is refused, with which words, and that the documented file says what the code does.
#![allow(clippy::unwrap_used)]

use super::*;

/// A valid file to be spoilt.
const GOOD: &str = r#"
node_id = 1
data_dir = "data"

[[masters]]
id = 1
api = "127.0.0.1:7400"
raft = "127.0.0.1:7401"
http = "127.0.0.1:7402"
"#;

fn problems(text: &str) -> String {
    match MasterConfig::parse(text, "m.toml") {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(error) => error.to_string(),
    }
}

/// The good file with lines in front of everything, so that line 1 is the first of them.
fn with(head: &str) -> String {
    format!("{head}{GOOD}")
}

/// The good file with sections behind it.
fn and(tail: &str) -> String {
    format!("{GOOD}{tail}\n")
}

#[test]
fn a_good_file_needs_three_things_and_gets_every_default() {
    let config = MasterConfig::parse(GOOD, "m.toml").unwrap();
    assert_eq!(config, MasterConfig::default());
    assert!(config.warnings().is_empty());
}

/// What a file says, and a part of what is said about it.
type Case = (String, &'static str);

/// Keys, types, ranges and pairs of values.
fn bad_keys_and_values() -> Vec<Case> {
    vec![
        (with("node_id = 2\n"), "m.toml:3: not valid TOML: duplicate key"),
        ("node_id = 1\ndata_dir = \n".to_owned(), "m.toml:2: not valid TOML: "),
        (with("nod_id = 3\n"), "m.toml:1: nod_id: unknown key; did you mean \"node_id\"?"),
        (with("colour = 3\n"), "m.toml:1: colour: unknown key; known are node_id, data_dir"),
        (and("[raft]\nheartbeat = 60"), "m.toml:11: raft.heartbeat: unknown key; did you mean \"heartbeat_ms\"?"),
        (and("[rafft]\nheartbeat_ms = 60"), "rafft: unknown key; did you mean \"raft\"?"),
        (and("[raft]\nheartbeat_ms = 5"), "m.toml:11: raft.heartbeat_ms: 5 is out of range: allowed is 10 to 10000 ms"),
        (
            and("[raft]\nheartbeat_ms = \"60\""),
            "m.toml:11: raft.heartbeat_ms: the string \"60\" where a whole number, not negative belongs",
        ),
        (and("[raft]\nheartbeat_ms = -60"), "the number -60 where a whole number, not negative belongs"),
        (and("[raft]\nheartbeat_ms = 1.5"), "a value of type float where a whole number"),
        (and("[raft]\nfast_takeover = 1"), "raft.fast_takeover: the number 1 where true or false belongs"),
        (
            and("[raft]\nheartbeat_ms = 150"),
            "m.toml:10: raft.election_min_ms: 200 is too short for heartbeat_ms = 150: one lost heartbeat would unseat the leader; allowed is 301 ms or more",
        ),
        (and("[raft]\nelection_min_ms = 300"), "raft.election_max_ms: 300 must be greater than election_min_ms = 300"),
        (
            and("[raft]\nkeep_entries = 30000"),
            "raft.keep_entries: 30000 must not be greater than raft.snapshot_entries = 20000",
        ),
        (
            and("[workers]\nlease_ms = 2000"),
            "workers.lease_ms: 2000 is less than three heartbeats of 1000 ms: allowed is 3000 ms or more",
        ),
        (
            and("[limits]\nbatch_bytes_max = 33554432"),
            "limits.batch_bytes_max: 33554432 is out of range: allowed is 65536 to 16777216 bytes",
        ),
        (
            and("[limits]\npayload_bytes_max = 2000000\nsubmit_bytes_max = 1000000"),
            "limits.payload_bytes_max: 2000000 must not be greater than limits.submit_bytes_max = 1000000",
        ),
        (and("[log]\nformat = \"jsn\""), "log.format: \"jsn\" is not one of text, json; did you mean \"json\"?"),
        (and("[log]\nlevel = \"loud\""), "log.level: \"loud\" is not one of error, warn, info, debug, trace"),
        (with("log = 3\n"), "m.toml:1: log: the number 3 where a table belongs: write [log]"),
        (with("cluster = \"a b\"\n"), "m.toml:1: cluster: must be 1 to 64 letters, digits, '-', '_' or '.'"),
    ]
}

/// Listeners, addresses and the initial masters.
fn bad_addresses_and_masters() -> Vec<Case> {
    vec![
        (and("[listen]\napi = \"7400\""), "listen.api: \"7400\" is not host:port"),
        (and("[listen]\napi = \"127.0.0.1:74000\""), "listen.api: \"127.0.0.1:74000\" is not host:port"),
        (
            and("[listen]\nraft = \"127.0.0.1:7400\""),
            "m.toml:11: listen.raft: 127.0.0.1:7400 is also listen.api: each listener needs its own port",
        ),
        (
            and("[listen]\napi = \"0.0.0.0:7400\""),
            "m.toml:11: listen.api: 0.0.0.0:7400 is beyond loopback, and nothing is encrypted or authenticated: listen on 127.0.0.1, or set insecure = true",
        ),
        (
            and("[advertise]\napi = \"0.0.0.0:7400\""),
            "advertise.api: 0.0.0.0:7400: nobody can connect to 0.0.0.0: name the address that others use",
        ),
        (
            and("[advertise]\nraft = \"127.0.0.1:9\""),
            "advertise.raft: 127.0.0.1:9 differs from this master's entry in masters (127.0.0.1:7401)",
        ),
        ("data_dir = \"data\"\njoin = true".to_owned(), "m.toml: node_id: is missing: it has no default"),
        ("node_id = 1\njoin = true".to_owned(), "m.toml: data_dir: is missing: it has no default"),
        ("node_id = 0\ndata_dir = \"data\"\njoin = true".to_owned(), "m.toml:1: node_id: 0 is out of range"),
        ("node_id = 1\ndata_dir = \"\"\njoin = true".to_owned(), "data_dir: is empty: name a directory"),
        (
            "node_id = 1\ndata_dir = \"data\"".to_owned(),
            "masters: empty: list the initial masters as [[masters]], or set join = true",
        ),
        (
            GOOD.replacen("node_id = 1", "node_id = 7", 1),
            "m.toml:2: node_id: 7 is not one of masters (1): add it there, or set join = true",
        ),
        (with("join = true\n"), "m.toml:1: join: true, though node_id = 1 is one of the initial masters"),
        (
            and("[[masters]]\nid = 1\napi = \"10.0.0.2:1\"\nraft = \"10.0.0.2:2\"\nhttp = \"10.0.0.2:3\""),
            "m.toml:11: masters[1].id: 1 is also the id of masters[0]",
        ),
        (
            and("[[masters]]\nid = 2\napi = \"127.0.0.1:7400\"\nraft = \"10.0.0.2:2\"\nhttp = \"10.0.0.2:3\""),
            "m.toml:12: masters[1].api: 127.0.0.1:7400 is also masters[0].api",
        ),
        (
            and("[[masters]]\nid = 2\napi = \"10.0.0.2:1\"\nhttp = \"10.0.0.2:3\""),
            "m.toml:10: masters[1].raft: is missing: it has no default",
        ),
        (and("[[masters]]\nid = 2\napy = \"h:1\""), "masters[1].apy: unknown key; did you mean \"api\"?"),
        (
            GOOD.replacen(":7401\"", ":0\"", 1),
            "masters[0].raft: 127.0.0.1:0: nobody can connect to port 0: name the port that others use",
        ),
        (
            "node_id = 1\ndata_dir = \"data\"\nmasters = 3".to_owned(),
            "m.toml:3: masters: the number 3 where a list of tables belongs: write [[masters]]",
        ),
    ]
}

#[test]
fn p15_bad_files_are_told_line_key_and_remedy() {
    for (text, expected) in bad_keys_and_values().into_iter().chain(bad_addresses_and_masters()) {
        let said = problems(&text);
        assert!(said.contains(expected), "wanted: {expected}\nsaid: {said}\nfile:{text}");
    }
}

#[test]
fn p15_all_problems_are_told_at_once_in_the_order_of_the_file() {
    let said = problems(&and("[raft]\nheartbeat_ms = 1\nelection_min_ms = 1\nx = 1\n[log]\nlevel = \"x\""));
    let lines: Vec<_> = said.lines().map(|line| line.split(": ").nth(1).unwrap()).collect();
    assert_eq!(lines, ["raft.heartbeat_ms", "raft.election_min_ms", "raft.election_min_ms", "raft.x", "log.level"]);
}

#[test]
fn an_open_listener_alone_has_its_own_code() {
    let open = MasterConfig::parse(&and("[listen]\nhttp = \"[::]:7402\""), "m.toml").unwrap_err();
    assert_eq!(open.code(), codes::INSECURE_LISTENER);
    let more = MasterConfig::parse(&and("[listen]\nhttp = \"[::]:7402\"\napi = \"x\""), "m.toml").unwrap_err();
    assert_eq!(more.code(), codes::CONFIG);
}

#[test]
fn insecure_allows_it_and_says_so_loudly() {
    let text = format!("insecure = true\n{}", and("[listen]\napi = \"0.0.0.0:7400\""));
    let config = MasterConfig::parse(&text, "m.toml").unwrap();
    assert_eq!(config.advertise.api, "127.0.0.1:7400", "others use the entry in masters");
    let warnings = config.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].starts_with("listen.api = 0.0.0.0:7400 is neither encrypted nor authenticated"),
        "{warnings:?}"
    );
}

#[test]
fn loopback_has_many_names() {
    for (address, loopback) in [
        ("127.0.0.1:1", true),
        ("127.9.9.9:1", true),
        ("[::1]:1", true),
        ("localhost:1", true),
        ("0.0.0.0:1", false),
        ("[::]:1", false),
        ("10.0.0.1:1", false),
        ("example.org:1", false),
        ("localhost.example.org:1", false),
    ] {
        assert_eq!(is_loopback(address), loopback, "{address}");
    }
}

#[test]
fn what_is_shown_can_be_read_again() {
    let mut config = MasterConfig::default();
    config.raft.heartbeat_ms = 80;
    config.cluster = "blue".to_owned();
    config.log.format = "json".to_owned();
    let again = MasterConfig::parse(&config.render(), "shown").unwrap();
    assert_eq!(again, config);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = MasterConfig::load(Path::new("/nonexistent/m.toml")).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("/nonexistent/m.toml: cannot read the file: "), "{text}");
}

#[test]
fn values_set_in_code_are_checked_too() {
    let mut config = MasterConfig::default();
    config.workers.lease_ms = 1;
    let text = config.validate().unwrap_err().to_string();
    assert!(text.contains("workers.lease_ms: 1 is out of range: allowed is 500 to 3600000 ms"), "{text}");
}

#[test]
fn the_limits_of_a_new_cluster_come_from_here() {
    assert_eq!(MasterConfig::default().limits(), Limits::default());
}

/// Keys of a TOML document, with their values as text.
fn flatten(prefix: &str, value: &toml::Value, keys: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(key, value)| {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            flatten(&path, value, keys);
        }),
        other => {
            keys.insert(prefix.to_owned(), other.to_string());
        }
    }
}

#[test]
fn the_documented_file_has_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/steersman.toml");
    assert_eq!(MasterConfig::load(&path).unwrap(), MasterConfig::default());
    let keys = |text: &str| {
        let mut keys = BTreeMap::new();
        flatten("", &toml::Value::Table(text.parse().unwrap()), &mut keys);
        keys
    };
    let documented = keys(&std::fs::read_to_string(path).unwrap());
    assert_eq!(documented, keys(&MasterConfig::default().render()));
}
