//! One call of a hostile guest, and what came of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

/// No call of the suite may take longer; each limit of its manifests is far below.
const PATIENCE: Duration = Duration::from_secs(30);
/// Header fields that this client takes of an answer, to see floods of them.
const HEADERS_MAX: usize = 200_000;
/// Bytes of the head that this client takes.
const HEAD_BYTES_MAX: usize = 8 << 20;

/// What came of a call.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// A reason of the platform, `fn:STATUS` for a whole answer of the function, `cut` for one
    /// that broke off, `closed` or `late` for none.
    pub label: String,
    /// Whether the platform speaks, not the function.
    pub by_platform: bool,
    /// The fields of the answer.
    pub headers: HeaderMap,
    /// What there was of the body.
    pub body: Bytes,
    /// From the connection to the end.
    pub time: Duration,
}

/// Calls `path` on a connection of its own.
pub(super) async fn call(authority: &str, path: &str, body: Bytes) -> Outcome {
    let begun = Instant::now();
    let mut outcome = Outcome {
        label: "late".into(),
        by_platform: false,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        time: Duration::ZERO,
    };
    match tokio::time::timeout(PATIENCE, exchange(authority, path, body, &mut outcome)).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => outcome.label = format!("closed: {error:#}"),
    }
    outcome.time = begun.elapsed();
    outcome
}

async fn exchange(authority: &str, path: &str, body: Bytes, outcome: &mut Outcome) -> Result<()> {
    let stream = tokio::net::TcpStream::connect(authority).await.context("no connection")?;
    stream.set_nodelay(true)?;
    let mut client = http1::Builder::new();
    client.max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await?;
    let driver = Driver(tokio::spawn(connection));
    let request = Request::post(path).header("host", authority).body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let (head, mut body) = response.into_parts();
    let mut taken = Vec::new();
    let whole = loop {
        match body.frame().await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    taken.extend_from_slice(bytes);
                }
            }
        }
    };
    drop(driver);
    outcome.by_platform = head.headers.get("x-faas-origin").is_none_or(|origin| origin == "platform");
    outcome.label = match (whole, outcome.by_platform) {
        (false, _) => "cut".into(),
        (true, false) => format!("fn:{}", head.status.as_u16()),
        (true, true) => reason(&taken).with_context(|| format!("{} without a reason", head.status))?,
    };
    outcome.headers = head.headers;
    outcome.body = taken.into();
    Ok(())
}

fn reason(body: &[u8]) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(problem.get("reason")?.as_str()?.to_owned())
}

/// The task of a connection, ended with its call.
struct Driver(tokio::task::JoinHandle<hyper::Result<()>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
