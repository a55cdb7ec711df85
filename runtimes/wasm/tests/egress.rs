//! Guests that send requests, end to end: the list of their manifest, the log of their function.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use common::{LONG, Trial, trial, whole};
use faas_model::manifest::EgressRule;
use faas_model::{Body, BodyError};
use faas_runtime::logs::Stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A small HTTP/1.1 server: it echoes a chunked body, redirects, keeps silent, or says hello.
struct Server {
    address: std::net::SocketAddr,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, opened, mut tasks) = (Arc::clone(&connections), Arc::clone(&open), JoinSet::new());
        tasks.spawn(async move {
            let mut all = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                opened.fetch_add(1, Ordering::SeqCst);
                let opened = Arc::clone(&opened);
                all.spawn(async move {
                    serve(stream).await.ok();
                    opened.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, connections, open, _tasks: tasks }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut target = String::new();
        if stream.read_line(&mut target).await? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 2 {
            line.clear();
        }
        let path = target.split(' ').nth(1).unwrap_or_default();
        if path == "/echo" {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            echo(&mut stream).await?;
        } else if path == "/silent" {
            // Until the other side leaves.
            stream.read_line(&mut line).await?;
            return Ok(());
        } else if let Some(to) = path.strip_prefix("/redirect?") {
            let head = format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
        } else {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await?;
        }
    }
}

/// Sends each chunk back as it comes.
async fn echo(stream: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    loop {
        let mut size = String::new();
        stream.read_line(&mut size).await?;
        let length = usize::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).await?;
        stream.write_all(size.as_bytes()).await?;
        stream.write_all(&chunk).await?;
        if length == 0 {
            return Ok(());
        }
    }
}

async fn allowed(namespace: &str, rules: &[&str]) -> Trial {
    let rules = rules.iter().map(|rule| EgressRule::new(rule).unwrap()).collect();
    trial(namespace, |spec| spec.egress = rules).await
}

#[tokio::test]
async fn what_is_not_listed_is_refused_and_the_log_says_what_to_add() {
    let (trial, server) = (allowed("egress-none", &[]).await, Server::start().await);
    for url in [server.url("/"), "https://api.example.com/".into(), "http://169.254.169.254/latest/meta-data".into()] {
        assert_eq!(trial.text(&format!("/fetch/get?{url}")).await.unwrap(), "ErrorCode::HttpRequestDenied", "{url}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    assert!(trial.logged("add \"api.example.com\" to `egress`").await);
    assert!(trial.log().await.iter().all(|line| line.stream == Stream::Platform));
}

#[tokio::test]
async fn a_special_address_is_refused_unless_it_is_named() {
    let server = Server::start().await;
    let port = server.address.port();
    let every = allowed("egress-every", &["*", "*:8080", "*:8081", "*:8181", &format!("*:{port}")]).await;
    let own = [8080, 8081, 8181, port].map(|port| format!("127.0.0.1:{port}"));
    let others = ["localhost", "[::1]", "169.254.169.254", "0.0.0.0", "10.0.0.1", "[::ffff:127.0.0.1]"];
    for host in own.iter().map(String::as_str).chain(others) {
        let answer = every.text(&format!("/fetch/get?http://{host}/")).await.unwrap();
        assert_eq!(answer, "ErrorCode::DestinationIpProhibited", "{host}");
    }
    for odd in ["2130706433", "127.1", "0x7f.1", "user@127.0.0.1"] {
        let answer = every.text(&format!("/fetch/get?http://{odd}:{port}/")).await.unwrap();
        assert_eq!(answer, "ErrorCode::HttpRequestUriInvalid", "{odd}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_listed_is_answered_and_its_connection_serves_the_next_call() {
    let server = Server::start().await;
    let trial = allowed("egress-some", &[&server.address.to_string()]).await;
    for _ in 0..3 {
        assert_eq!(trial.text(&format!("/fetch/get?{}", server.url("/"))).await.unwrap(), "200 with 5 bytes");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let other = allowed("egress-other", &[&server.address.to_string()]).await;
    assert_eq!(other.text(&format!("/fetch/get?{}", server.url("/"))).await.unwrap(), "200 with 5 bytes");
    assert_eq!(server.connections.load(Ordering::SeqCst), 2, "another function, another connection");
}

#[tokio::test]
async fn a_redirect_is_the_guests_to_follow_and_judged_anew() {
    let (server, forbidden) = (Server::start().await, Server::start().await);
    let trial = allowed("egress-redirect", &[&server.address.to_string()]).await;
    for (to, then) in [
        (server.url("/"), "200 with 5 bytes"),
        (forbidden.url("/"), "ErrorCode::HttpRequestDenied"),
        ("http://169.254.169.254/".into(), "ErrorCode::HttpRequestDenied"),
    ] {
        let answer = trial.text(&format!("/fetch/follow?{}", server.url(&format!("/redirect?{to}")))).await.unwrap();
        assert_eq!(answer, format!("302 then {then}"));
    }
    assert_eq!(forbidden.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn bodies_stream_through_a_guest_both_ways() {
    let server = Server::start().await;
    let trial = allowed("egress-relay", &[&server.address.to_string()]).await;
    let (parts, mut received) = tokio::sync::mpsc::channel(1);
    let body = futures_util::stream::poll_fn(move |cx| received.poll_recv(cx));
    let part = |n: usize| Ok::<_, BodyError>(Frame::data(Bytes::from(format!("part {n}"))));
    parts.send(part(0)).await.unwrap();
    let path = format!("/fetch/relay?{}", server.url("/echo"));
    let mut answer = trial.call(&path, Body::stream(StreamBody::new(body))).await.unwrap().into_body();
    for n in 0..5 {
        let back = tokio::time::timeout(LONG, answer.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(back.into_data().unwrap(), format!("part {n}"), "it comes back before the next one goes");
        parts.send(part(n + 1)).await.unwrap();
    }
    drop(parts);
    let rest = whole(answer).await.unwrap();
    assert_eq!(rest, "part 5");
}

#[tokio::test]
async fn a_call_that_ends_takes_its_requests_with_it() {
    let server = Server::start().await;
    let trial = allowed("egress-cut", &[&server.address.to_string()]).await;
    let path = format!("/fetch/get?{}", server.url("/silent"));
    let open = || server.open.load(Ordering::SeqCst);
    let wait = async |count: usize| {
        while open() != count {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        answer = trial.call(&path, "") => panic!("{answer:?}"),
        () = wait(1) => {}
    }
    tokio::time::timeout(LONG, wait(0)).await.expect("the connection ends with the call");
    trial.is_well().await;
}

#[tokio::test]
async fn a_guests_own_patience_and_the_bound_of_a_call_hold() {
    let server = Server::start().await;
    let trial = allowed("egress-bounds", &[&server.address.to_string()]).await;
    let silent = trial.text(&format!("/fetch/impatient?{}", server.url("/silent"))).await.unwrap();
    assert_eq!(silent, "ErrorCode::HttpResponseTimeout");
    let many = trial.text(&format!("/fetch/many?{}", server.url("/"))).await.unwrap();
    assert_eq!(many, "32 answered, 8 refused");
    assert!(trial.logged("egress.requests_per_call_max is 32").await);
}

#[tokio::test]
async fn a_guest_writes_nothing_that_changes_the_frame_of_a_request() {
    let trial = allowed("egress-smuggle", &["*"]).await;
    assert_eq!(trial.text("/fetch/smuggle").await.unwrap(), "0 names, 0 values, 0 paths");
}
