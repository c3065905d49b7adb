//! Bytes that are no conversation at all, on every listener: they close that connection and nothing else.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use rand::{Rng as _, SeedableRng as _};
use steersman_chaos_tests::poll::until;
use steersman_chaos_tests::{Cluster, PATIENCE, Settings, http};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;

use crate::api::text_of;
use crate::{Table, alive};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Connections that are opened and left alone, at each listener.
const HALF_OPEN: usize = 100;
/// Where the random bytes come from.
const SEED: u64 = 7;

/// A frame of HTTP/2.
fn frame(length: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What nobody should ever send, by name.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let after_preface = |frames: &[Vec<u8>]| [PREFACE.to_vec(), frame(0, 4, 0, 0, &[]), frames.concat()].concat();
    let mut noise = vec![0; 64 << 10];
    rand::rngs::StdRng::seed_from_u64(SEED).fill_bytes(&mut noise);
    let pings: Vec<Vec<u8>> =
        (0..5_000).flat_map(|_| [frame(8, 6, 0, 0, &[1; 8]), frame(4, 3, 0, 1, &[0; 4])]).collect();
    let endless: Vec<Vec<u8>> = (0..200).map(|_| frame(16_384, 9, 0, 1, &[0x41; 16_384])).collect();
    vec![
        ("random bytes", noise.clone()),
        ("zeros", vec![0; 64 << 10]),
        ("a TLS hello", [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &noise[..500]].concat()),
        (
            "HTTP/1.1 with a body that never comes",
            b"POST /steersman.v1.Tasks/Get HTTP/1.1\r\nContent-Length: 9999\r\n\r\n".to_vec(),
        ),
        ("the preface and random bytes", [PREFACE, &noise[..]].concat()),
        ("half a preface", PREFACE[..10].to_vec()),
        ("a frame that is too long", after_preface(&[frame(0xff_ffff, 0, 0, 1, &noise[..1_000])])),
        ("settings on a stream", after_preface(&[frame(0, 4, 0, 5, &[])])),
        ("absurd settings", after_preface(&[frame(6, 4, 0, 0, &[0, 5, 0xff, 0xff, 0xff, 0xff])])),
        ("data on a stream that does not exist", after_preface(&[frame(5, 0, 1, 77, b"hello")])),
        ("headers that cannot be decoded", after_preface(&[frame(8, 1, 5, 1, &[0xff; 8])])),
        ("an endless header", after_preface(&[vec![frame(4, 1, 0, 1, &[0x82; 4])], endless].concat())),
        ("pings and resets without end", after_preface(&pings)),
        ("a reset without a stream", after_preface(&[frame(4, 3, 0, 0, &[0; 4])])),
    ]
}

/// Sends bytes and hangs up, without caring for an answer.
async fn shout(address: &str, bytes: &[u8]) {
    let talk = async {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            // The listener may hang up first.
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), talk).await;
}

fn listeners(cluster: &mut Cluster) -> Vec<String> {
    let mut all = vec![cluster.worker("w1").http()];
    for id in cluster.master_ids() {
        let addresses = cluster.master(id).addresses();
        all.extend([addresses.api, addresses.raft, addresses.http]);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_garbage_on_every_listener_closes_that_connection_and_nothing_else() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let reign = cluster.wait_leader().await;
    for (name, bytes) in nonsense() {
        let listeners = listeners(&mut cluster);
        futures::future::join_all(listeners.iter().map(|address| shout(address, &bytes))).await;
        assert!(cluster.worker("w1").process.runs(), "the worker has ended after {name}");
        for id in cluster.master_ids() {
            assert!(cluster.master(id).process.runs(), "master {id} has ended after {name}");
        }
    }
    alive(&mut cluster).await;
    assert_eq!(cluster.wait_leader().await, reign, "the leader kept its office");
    assert!(!cluster.worker("w1").process.text().contains("panicked at"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_connections_that_are_left_half_open_take_nothing_from_others() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let mut idle = Vec::new();
    for address in listeners(&mut cluster) {
        for n in 0..HALF_OPEN {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            // A third says nothing, a third begins, a third stops in the middle of a request's head.
            let begun: &[u8] = [&b""[..], &PREFACE[..9], &b"GET /livez HTTP/1.1\r\nHost: x\r\nX-"[..]][n % 3];
            let _ = stream.write_all(begun).await;
            idle.push(stream);
        }
    }
    alive(&mut cluster).await;
    for id in cluster.master_ids() {
        let address = cluster.master(id).addresses().http;
        until("the probes to be answered again", PATIENCE, async || {
            let answer = http::get(&address, "/readyz").await?;
            if answer.0 == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    }
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_bad_http_is_answered_as_http() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let mut table = Table::default();
    let addresses = [cluster.master(1).addresses().http, cluster.worker("w1").http()];
    for address in &addresses {
        let get = |path: &'static str| http::get(address, path);
        table.words("an unknown path", &format!("{:?}", get("/nothing").await), &["404"]);
        table.words("a path out of the tree", &format!("{:?}", get("/../../etc/passwd").await), &["40"]);
        for (name, head, status) in [
            ("another method", "POST /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned(), "405"),
            ("a huge header", format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(1 << 20)), "431"),
            (
                "a thousand headers",
                format!("GET /livez HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(1_000)),
                "431",
            ),
            ("no HTTP", "HELLO\r\n\r\n".to_owned(), "400"),
            ("another version", "GET /livez HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ] {
            let answer = http::exchange(address, head.as_bytes()).await.unwrap_or_else(|error| error.into_bytes());
            table.words(name, &String::from_utf8_lossy(&answer), &[status]);
        }
    }
    table.finish(14);
    alive(&mut cluster).await;
}

/// Sends bytes as they are.
#[derive(Debug, Default, Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}

async fn call(channel: Channel, path: &'static str, body: &'static [u8]) -> String {
    let mut grpc = tonic::client::Grpc::new(channel);
    if grpc.ready().await.is_err() {
        return "the channel is broken".to_owned();
    }
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    match grpc.unary(tonic::Request::new(Bytes::from_static(body)), path, RawCodec).await {
        Ok(answer) => format!("it was accepted: {:?}", answer.into_inner()),
        Err(status) => text_of(&status),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p15_messages_that_are_no_protobuf_or_for_nobody_are_refused() {
    let mut cluster = Cluster::start(Settings { workers: 1, ..Settings::default() }).await;
    let mut table = Table::default();
    // A varint without an end; a length beyond the message; a wire type that does not exist; a text that is not UTF-8.
    let broken: [&'static [u8]; 4] = [&[0x08, 0xff, 0xff], &[0x0a, 0x7f, 1], &[0x0f, 1, 2, 3], &[0xff; 64]];
    let api = ["/steersman.v1.Tasks/Submit", "/steersman.v1.Tasks/Get", "/steersman.v1.Cluster/AddMaster"];
    let raft = ["/steersman.raft.v1.Raft/Vote", "/steersman.raft.v1.Raft/Probe"];
    for id in cluster.master_ids() {
        let addresses = cluster.master(id).addresses();
        for (address, paths) in [(addresses.api, &api[..]), (addresses.raft, &raft[..])] {
            let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
            for (path, body) in paths.iter().flat_map(|path| broken.map(|body| (*path, body))) {
                table.words(path, &call(channel.clone(), path, body).await, &["decode"]);
            }
            for path in ["/steersman.v1.Tasks/Explode", "/no.such.Service/Get", "/"] {
                table.words(path, &call(channel.clone(), path, &[]).await, &["Unimplemented"]);
            }
        }
    }
    table.finish(60);
    alive(&mut cluster).await;
}
