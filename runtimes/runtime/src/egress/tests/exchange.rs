//! What a request and its answer become on the way.

use futures_util::StreamExt;
use http_body::Frame;
use http_body_util::StreamBody;

use super::*;

#[tokio::test]
async fn a_request_by_name_and_by_address_is_answered() {
    let (bench, server) = (Bench::new(), Server::http().await);
    let sender = bench.sender(&server);
    assert_eq!(sender.text(&server.url("/hello")).await.unwrap(), "hello");
    assert_eq!(sender.text(&format!("http://SERVER.test:{}/hello?q=1", server.port())).await.unwrap(), "hello");
    let head = server.head();
    assert!(head.starts_with("GET /hello?q=1\n"), "origin form: {head}");
    assert!(head.contains(&format!("host: server.test:{}\n", server.port())), "{head}");
    assert_eq!(bench.log("f").await, [""; 0], "nothing is said about what works");
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let (bench, server) = (Bench::new(), Server::http().await);
    let (parts, mut received) = tokio::sync::mpsc::channel(1);
    let body = futures_util::stream::poll_fn(move |cx| received.poll_recv(cx));
    let request = Request::post(server.url("/echo")).body(StreamBody::new(body)).unwrap();
    let sender = bench.sender(&server);
    let answer = sender.send(request, Patience::default()).await.unwrap();
    let mut answer = answer.into_body();
    for n in 0..5 {
        let part = Bytes::from(format!("part {n}"));
        parts.send(Ok::<_, BoxError>(Frame::data(part.clone()))).await.unwrap();
        let back = tokio::time::timeout(LONG, answer.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(back.into_data().unwrap(), part, "each part comes back before the next one goes");
    }
    drop(parts);
    assert!(answer.frame().await.is_none());
    until("the kept connection", || bench.kept() == 1).await;
}

#[tokio::test]
async fn what_belongs_to_one_connection_goes_no_further() {
    let (bench, server) = (Bench::new(), Server::http().await);
    let sender = bench.sender(&server);
    let request = Request::post(server.url("/headers"))
        .header("host", "forged.example")
        .header("connection", "x-named, content-length, close")
        .header("x-named", "1")
        .header("keep-alive", "timeout=5")
        .header("te", "trailers")
        .header("trailer", "x-after")
        .header("transfer-encoding", "chunked")
        .header("upgrade", "websocket")
        .header("expect", "100-continue")
        .header("proxy-authorization", "Basic eA==")
        .header("proxy-connection", "keep-alive")
        .header("http2-settings", "AAMAAABk")
        .header("content-length", "4")
        .header("authorization", "Bearer the-guests-own")
        .body(Full::new(Bytes::from_static(b"body")))
        .unwrap();
    let answer = sender.send(request, Patience::default()).await.unwrap();
    let head = server.head();
    let mut names: Vec<&str> = head.lines().skip(1).filter_map(|line| line.split(':').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "content-length", "host"], "{head}");
    assert!(head.contains(&format!("host: {}\n", server.address)) && head.contains("content-length: 4\n"), "{head}");
    let mut names: Vec<_> = answer.headers().keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "date", "x-kept"]);
}

#[tokio::test]
async fn nothing_is_added_that_the_function_did_not_write() {
    let (bench, server) = (Bench::new(), Server::http().await);
    bench.sender(&server).text(&server.url("/hello")).await.unwrap();
    assert_eq!(server.head(), format!("GET /hello\nhost: {}\n", server.address), "no traceparent, no agent, no token");
}

#[tokio::test]
async fn no_request_can_be_smuggled_within_another() {
    let (bench, server) = (Bench::new(), Server::http().await);
    let sender = bench.sender(&server);
    assert!(http::HeaderValue::from_bytes(b"a\r\nx-smuggled: 1").is_err());
    assert!("/a\r\nx: 1".parse::<http::Uri>().is_err() && "http://a/ HTTP/1.1".parse::<http::Uri>().is_err());
    for lengths in [&["3"][..], &["5"], &["4", "4"], &["4", "40"], &["+4"], &["0x4"], &["4, 4"], &[""], &["-1"]] {
        let mut request = post(&server.url("/echo"), "body");
        for length in lengths {
            request.headers_mut().append("content-length", length.parse().unwrap());
        }
        let failure = sender.send(request, Patience::default()).await.unwrap_err();
        assert_eq!(failure, Error::Length, "{lengths:?}");
    }
    assert_eq!(server.requests(), 0);
    // A body of unknown size that does not keep to its length ends its connection.
    for (length, parts) in [("10", vec!["short"]), ("2", vec!["longer", "than said"])] {
        let parts = futures_util::stream::iter(parts).map(|p| Ok::<_, BoxError>(Frame::data(Bytes::from(p))));
        let request = Request::post(server.url("/echo")).header("content-length", length);
        let request = request.body(StreamBody::new(parts)).unwrap();
        if let Ok(answer) = sender.send(request, Patience::default()).await {
            let echoed = text(answer).await.unwrap_or_default();
            assert!(echoed.len() <= 2 || length == "10", "no more than was said is sent: {echoed}");
        }
    }
    assert_eq!(sender.text(&server.url("/hello")).await.unwrap(), "hello", "the next request is its own");
}

#[tokio::test]
async fn connect_and_trace_are_not_sent() {
    let (bench, server) = (Bench::new(), Server::http().await);
    for method in ["CONNECT", "TRACE"] {
        let request = Request::builder().method(method).uri(server.url("/")).body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(bench.sender(&server).send(request, Patience::default()).await.unwrap_err(), Error::Method);
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_its_target_is_judged_anew() {
    let (bench, server, forbidden) = (Bench::new(), Server::http().await, Server::http().await);
    let sender = bench.sender(&server);
    let answer = sender.get(&server.url(&format!("/redirect?{}", forbidden.url("/secret")))).await.unwrap();
    assert_eq!(answer.status(), 302);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(forbidden.connections(), 0, "the platform follows nothing");
    assert_eq!(sender.failure(&location).await, Error::Denied);
    assert_eq!(forbidden.connections(), 0);
}

#[tokio::test]
async fn answers_that_are_none_are_told_apart() {
    let bench = Bench::with(|config| config.response_head_bytes_max = faas_model::units::ByteSize::kib(16), &[]);
    let cases: [(&'static [u8], Error); 6] = [
        (b"", Error::Terminated),
        (b"\x15\x03\x01\0\x02\x02\x0a", Error::Protocol),
        (b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", Error::Protocol),
        (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", Error::Upgrade),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort", Error::Incomplete),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort", Error::Incomplete),
    ];
    for (answer, expected) in cases {
        let server = Server::raw(answer).await;
        let failure = bench.sender(&server).failure(&server.url("/")).await;
        assert_eq!(failure, expected, "{:?}", String::from_utf8_lossy(answer));
    }
    let server = Server::http().await;
    assert_eq!(bench.sender(&server).failure(&server.url("/large-head")).await, Error::HeadTooLarge);
    let gone = Server::http().await;
    let (sender, url) = (bench.sender(&gone), gone.url("/"));
    drop(gone);
    // The listener closes with its task.
    tokio::task::yield_now().await;
    assert_eq!(sender.failure(&url).await, Error::ConnectRefused);
}
