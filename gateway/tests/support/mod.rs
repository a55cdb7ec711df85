//! A real listener with an echo behind it, and a client that writes raw bytes.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use faas_gateway::{front, http as door};
use faas_invoke::{Dispatch, Invocation, InvokeError, Reply, Timings};
use faas_model::units::ByteSize;
use faas_model::{AliasSettings, Body, Catalogue, Component, Digest, Entry, FunctionName, FunctionSpec, Reason};
use faas_model::{Revision, RevisionId};
use futures_util::future::BoxFuture;
use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Body bound of the function `echo`.
pub const REQUEST_BYTES: u64 = 1000;
/// Nothing in a test may take longer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Answers with method, path and body; `/slow` waits for a cut, `/big` streams without end,
/// `/events` sends one event and keeps the stream open, `/unread` answers without a look at the body,
/// `/beside` streams an answer and drops the body with its first frame, `/panic` panics.
#[derive(Debug, Default)]
pub struct Echo {
    /// Method and path of every dispatch.
    pub seen: Mutex<Vec<String>>,
    /// How many calls were dropped before their end.
    pub cancelled: Arc<Mutex<usize>>,
}

/// Counts a call that is dropped before it has finished.
struct Cut {
    count: Arc<Mutex<usize>>,
    finished: bool,
}

impl Drop for Cut {
    fn drop(&mut self) {
        if !self.finished {
            *self.count.lock().unwrap() += 1;
        }
    }
}

impl Dispatch for Echo {
    fn dispatch(&self, invocation: Invocation) -> BoxFuture<'_, Result<Reply, InvokeError>> {
        let (parts, body) = invocation.request.into_parts();
        let path = parts.uri.path_and_query().unwrap().to_string();
        self.seen.lock().unwrap().push(format!("{} {path}", parts.method));
        let mut guard = Cut { count: self.cancelled.clone(), finished: false };
        Box::pin(async move {
            // Named here, so that it lives as long as the future.
            let guard = &mut guard;
            assert_ne!(path, "/panic", "as the test asks");
            if path == "/slow" {
                std::future::pending::<()>().await;
            }
            if path == "/soon" {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            if path == "/unread" || path == "/beside" {
                guard.finished = true;
                let answer = if path == "/unread" { Body::from("ok") } else { beside(body) };
                let revision = RevisionId(Digest::of(b"echo"));
                return Ok(Reply { response: Response::new(answer), timings: Timings::default(), revision });
            }
            let bytes = body.collect(1 << 30).await;
            guard.finished = true;
            let bytes = bytes.map_err(|e| InvokeError::new(Component::Function, Reason::Crashed, e.to_string()))?;
            let mut response = Response::new(match path.as_str() {
                "/big" => endless(),
                "/events" => one_and_wait(),
                _ => Body::from(format!("{} {path} {}", parts.method, String::from_utf8_lossy(&bytes))),
            });
            *response.status_mut() = StatusCode::OK;
            Ok(Reply { response, timings: Timings::default(), revision: RevisionId(Digest::of(b"echo")) })
        })
    }
}

fn endless() -> Body {
    let frame = || Ok(http_body::Frame::data(bytes::Bytes::from_static(&[b'x'; 16384])));
    Body::stream(http_body_util::StreamBody::new(futures_util::stream::repeat_with(frame)))
}

fn beside(upload: Body) -> Body {
    let frame = futures_util::stream::once(async move {
        drop(upload);
        Ok(http_body::Frame::data(bytes::Bytes::from_static(b"beside")))
    });
    Body::stream(http_body_util::StreamBody::new(frame))
}

fn one_and_wait() -> Body {
    let first = futures_util::stream::iter([Ok(http_body::Frame::data(bytes::Bytes::from_static(b"data: 1\n\n")))]);
    Body::stream(http_body_util::StreamBody::new(futures_util::StreamExt::chain(
        first,
        futures_util::stream::pending(),
    )))
}

/// A catalogue with the one function `echo`.
pub fn catalogue() -> Catalogue {
    let function = FunctionName::in_default("echo").unwrap();
    let code = Digest::of(b"echo");
    let mut spec = FunctionSpec::default();
    spec.limits.request_bytes = ByteSize(REQUEST_BYTES);
    let live = Revision {
        id: RevisionId(code),
        function: function.clone(),
        version: 1,
        code,
        code_bytes: 1,
        created_ms: 0,
        spec,
    };
    Catalogue::new([Entry {
        function,
        live: Arc::new(live),
        settings: AliasSettings::default(),
        aliases: BTreeMap::new(),
    }])
}

/// A listener that runs until it is stopped.
pub struct Server {
    pub address: SocketAddr,
    pub echo: Arc<Echo>,
    pub stop: CancellationToken,
    pub ended: tokio::task::JoinHandle<()>,
    _catalogue: tokio::sync::watch::Sender<Arc<Catalogue>>,
}

impl Server {
    pub async fn start(config: front::Config, grace: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, catalogue) = tokio::sync::watch::channel(Arc::new(catalogue()));
        let echo = Arc::new(Echo::default());
        let stop = CancellationToken::new();
        let handler = door::handler(door::Config::default(), echo.clone(), catalogue);
        let serving = front::serve(listener, config, Component::Gateway, handler, stop.clone(), grace);
        Self { address, echo, stop, ended: tokio::spawn(serving), _catalogue: sender }
    }

    pub async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        // A body that follows its head must not wait for the head's acknowledgement.
        stream.set_nodelay(true).unwrap();
        Client { stream, unread: Vec::new() }
    }

    /// Returns what the dispatcher saw since the last look.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.echo.seen.lock().unwrap())
    }
}

/// One parsed answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Returns whether the server says that the connection ends with this answer.
    pub fn closes(&self) -> bool {
        self.head.to_ascii_lowercase().contains("\r\nconnection: close\r\n")
    }
}

/// A raw connection.
pub struct Client {
    pub stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    /// Writes; a server that has closed already is no failure of the test.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the server takes bytes");
    }

    /// Returns the next answer, or nothing when the connection ends before one.
    pub async fn answer(&mut self) -> Option<Answer> {
        loop {
            if let Some((answer, used)) = parse(&self.unread) {
                self.unread.drain(..used);
                // 100 Continue comes before its answer.
                if answer.status >= 200 {
                    return Some(answer);
                }
                continue;
            }
            if !self.read_more().await {
                assert!(self.unread.is_empty(), "half an answer: {:?}", String::from_utf8_lossy(&self.unread));
                return None;
            }
        }
    }

    /// Returns the next answer, taken to have no body.
    pub async fn head_answer(&mut self) -> Option<Answer> {
        loop {
            if let Some(end) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8(self.unread.drain(..end + 4).collect()).unwrap();
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return Some(Answer { status, head, body: String::new() });
            }
            if !self.read_more().await {
                return None;
            }
        }
    }

    /// Returns every answer up to the server's close.
    pub async fn answers(&mut self) -> Vec<Answer> {
        let mut all = Vec::new();
        while let Some(answer) = self.answer().await {
            all.push(answer);
        }
        all
    }

    async fn read_more(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await;
        let bytes = read.expect("the server hangs").unwrap_or(0);
        bytes > 0
    }
}

fn parse(bytes: &[u8]) -> Option<(Answer, usize)> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let lower = head.to_ascii_lowercase();
    let field = |name: &str| lower.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let (body, used) = if let Some(length) = field("content-length:") {
        let length: usize = length.parse().unwrap();
        (bytes.get(end..end + length)?.to_vec(), end + length)
    } else if field("transfer-encoding:") == Some("chunked") {
        let (mut at, mut body) = (end, Vec::new());
        loop {
            let line = bytes[at..].windows(2).position(|w| w == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line]).unwrap(), 16).unwrap();
            at += line + 2;
            body.extend_from_slice(bytes.get(at..at + size)?);
            bytes.get(at + size..at + size + 2)?;
            at += size + 2;
            if size == 0 {
                break (body, at);
            }
        }
    } else {
        (Vec::new(), end)
    };
    Some((Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() }, used))
}
