//! Functions made with the tools that authors use: Rust with wstd (WASI 0.2) and the
//! Spin SDK (WASI 0.3), JavaScript, Python and Go. Each is deployed into the real binary,
//! answers, echoes, counts in a bucket and sends requests, where it may.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use faas_loadtest::http::Client;
use faas_loadtest::platform::{Options, Platform};
use faas_loadtest::{bytes_of, samples};
use http::Method;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Calls that a kept store answers in the test.
const CALLS: usize = 20;

#[tokio::test]
async fn rust_with_wstd() {
    check("wstd", "hello from wstd\n", &["never", "sequential"]).await;
}

#[tokio::test]
async fn rust_with_the_spin_sdk() {
    check("spin", "hello from the Spin SDK\n", &["never", "sequential", "concurrent"]).await;
}

#[tokio::test]
async fn javascript_with_componentize_js() {
    // Its engine answers one request in its life.
    check("js", "hello from JavaScript\n", &["never"]).await;
}

#[tokio::test]
async fn python_with_componentize_py() {
    check("python", "hello from Python\n", &["never", "sequential"]).await;
}

#[tokio::test]
async fn stock_go() {
    check("go", "hello from Go\n", &["never", "sequential"]).await;
}

/// Serves one page on loopback to whom it may concern.
async fn page() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer =
                service_fn(|_| async { Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from("a page")))) });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

async fn check(guest: &str, hello: &str, modes: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    // The code of an interpreter takes long to compile, and a build for tests compiles slowly.
    let env = [
        ("FAAS_WASM_COMPILE_CPU", "15m"),
        ("FAAS_WASM_COMPILE_WALL", "30m"),
        // Two pages a call.
        ("FAAS_EGRESS_RESPONSE_BYTES_MAX", "12B"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let platform = Platform::start(folder.path(), Options { env, ..Options::default() }).await.unwrap();
    let (page, client) = (page().await, Client::default());
    for (round, mode) in modes.iter().enumerate() {
        let lines = format!(
            "reuse = \"{mode}\"\nstate = [\"default\"]\negress = [\"http://{page}\"]\n\
             limits = {{ memory = \"256MiB\", cpu = \"20s\" }}\ntimeout = {{ cold = \"5m\", run = \"1m\" }}"
        );
        let at = folder.path().join(mode);
        samples::foreign_manifest(&at, guest, &lines).unwrap();
        platform.deploy(&at).await.unwrap();
        let url = |path: &str| platform.url(&format!("/function/{guest}{path}"));

        for _ in 0..CALLS {
            let answer = client.get(&url("/")).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, hello), "{guest} {mode}");
        }
        let body = Bytes::from(bytes_of::noise(7, 300_000));
        let kind = [("content-type", "application/x-noise")];
        let echo = client.send(Method::POST, &url("/echo"), &kind, body.clone()).await.unwrap();
        assert_eq!((echo.status.as_u16(), echo.body == body), (200, true), "{guest} {mode}: {} bytes", echo.body.len());
        assert_eq!(echo.header("content-type"), "application/x-noise", "{guest} {mode}");

        for count in 1..=3 {
            let answer = client.get(&url("/count?key=visits")).await.unwrap();
            assert_eq!(answer.text(), format!("{}\n", round * 3 + count), "{guest} {mode}");
        }
        // What earlier calls took in is not counted, whatever they share.
        for _ in 0..4 {
            let sent = client.get(&url(&format!("/out?url=http://{page}/"))).await.unwrap();
            assert_eq!((sent.status.as_u16(), sent.text().as_str()), (200, "200 a page"), "{guest} {mode}");
        }
        let own = platform.control("/healthz");
        let refused = client.get(&url(&format!("/out?url={own}"))).await.unwrap();
        assert_eq!(refused.status, 502, "{guest} {mode}: {}", refused.text());
        assert!(refused.text().starts_with("refused: "), "{guest} {mode}: {}", refused.text());
        assert_eq!(client.get(&url("/none")).await.unwrap().status, 404, "{guest} {mode}");
    }
}
