//! The least of HTTP that probes need: one request on one connection, by hand.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer later than this is none.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Status and body of `GET path`.
///
/// # Errors
/// If there is no connection or no answer in time, or it is not HTTP.
pub async fn get(address: &str, path: &str) -> Result<(u16, String), String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes()).await?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| format!("not HTTP: {text:?}"))?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// Sends bytes and reads until the other end closes.
///
/// # Errors
/// If there is no connection, or the other end neither answers nor closes in time.
pub async fn exchange(address: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let talk = async {
        let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        // The other end may close before it has read everything: what it answered until then counts.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        Ok(answer)
    };
    tokio::time::timeout(TIMEOUT, talk).await.map_err(|_| format!("no end within {TIMEOUT:?}"))?
}

/// Whether a probe says yes.
pub async fn is_ok(address: &str, path: &str) -> bool {
    matches!(get(address, path).await, Ok((200, _)))
}

/// The sum of a metric over its labels, as `/metrics` has it; 0 if it is not there.
///
/// # Errors
/// As [`get`].
pub async fn metric(address: &str, name: &str) -> Result<f64, String> {
    let (_, text) = get(address, "/metrics").await?;
    let values = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
