//! Connections between requests, and their end.

use super::*;

#[tokio::test]
async fn the_second_request_uses_the_connection_of_the_first() {
    let (bench, server) = (Bench::new(), Server::http().await);
    for call in 0..3 {
        let sender = bench.sender(&server);
        for _ in 0..3 {
            assert_eq!(sender.text(&server.url("/size?100000")).await.unwrap().len(), 100_000);
        }
        assert_eq!((server.connections(), bench.kept()), (1, 1), "call {call}");
    }
    assert_eq!(server.requests(), 9);
}

#[tokio::test]
async fn no_function_gets_the_connection_of_another() {
    let (bench, server) = (Bench::new(), Server::http().await);
    let rule = server.address.to_string();
    for (function, connections) in [("one", 1), ("two", 2), ("one", 2), ("two", 2)] {
        bench.sender_of(function, &[&rule]).text(&server.url("/")).await.unwrap();
        assert_eq!(server.connections(), connections, "{function}");
    }
}

#[tokio::test]
async fn a_name_and_an_address_have_connections_of_their_own() {
    let (bench, server) = (Bench::new(), Server::http().await);
    let sender = bench.sender(&server);
    sender.text(&server.url("/")).await.unwrap();
    sender.text(&format!("http://server.test:{}/", server.port())).await.unwrap();
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_kept_connection_is_judged_by_the_list_of_who_takes_it() {
    let (bench, server) = (Bench::new(), Server::http().await);
    let url = format!("http://server.test:{}/", server.port());
    bench.sender(&server).text(&url).await.unwrap();
    assert_eq!(bench.kept(), 1);
    // The next revision names the host alone, no longer its address.
    let next = bench.sender_of("f", &[&format!("server.test:{}", server.port())]);
    assert_eq!(next.failure(&url).await, Error::AddressRefused { kind: "loopback" });
    assert_eq!((server.requests(), bench.kept()), (1, 0));
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced() {
    let server = Server::raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
    let bench = Bench::new();
    let sender = bench.sender(&server);
    for n in 1..=3 {
        assert_eq!(sender.text(&server.url("/")).await.unwrap(), "hello");
        assert_eq!(server.connections(), n);
        until("the end of the connection", || server.open() == 0).await;
    }
}

#[tokio::test]
async fn idle_connections_end_with_their_time_and_nothing_watches_none() {
    let bench = Bench::with(|config| config.keep_alive = Millis(30), &[]);
    let server = Server::http().await;
    bench.sender(&server).text(&server.url("/")).await.unwrap();
    until("the end of the idle connection", || server.open() == 0).await;
    until("the end of the watch", || bench.kept() == 0 && !bench.egress.shared.pool.is_watched()).await;
    bench.sender(&server).text(&server.url("/")).await.unwrap();
    until("the end of the second", || server.open() == 0 && server.connections() == 2).await;
}

#[tokio::test]
async fn no_more_are_kept_than_may_be() {
    let bounds = |config: &mut Config| (config.idle_per_function_max, config.idle_max) = (2, 3);
    let (bench, server) = (Bench::with(bounds, &[]), Server::http().await);
    let rule = server.address.to_string();
    for (function, kept) in [("one", 2), ("two", 3), ("three", 3)] {
        let sender = bench.sender_of(function, &[&rule]);
        let answers =
            futures_util::future::join_all((0..4).map(|_| async { sender.get(&server.url("/")).await.unwrap() }));
        for answer in answers.await {
            text(answer).await.unwrap();
        }
        assert_eq!(bench.kept(), kept, "{function}");
    }
    until("the end of the others", || server.open() == 3).await;
    let none = Bench::with(|config| config.idle_max = 0, &[]);
    none.sender(&server).text(&server.url("/")).await.unwrap();
    assert_eq!(none.kept(), 0);
}

#[tokio::test]
async fn a_request_that_is_dropped_closes_its_connection_and_frees_its_place() {
    let bench = Bench::with(|config| config.requests_per_call_max = 1, &[]);
    let server = Server::http().await;
    let sender = bench.sender(&server);
    let (url, seen) = (server.url("/silent"), || server.requests() == 1 && server.open() == 1);
    tokio::select! {
        answer = sender.get(&url) => panic!("{answer:?}"),
        () = until("the request", seen) => {}
    }
    until("the close", || server.open() == 0).await;
    assert_eq!(sender.text(&server.url("/")).await.unwrap(), "hello");
}

#[tokio::test]
async fn an_answer_that_is_dropped_before_its_end_closes_its_connection() {
    let bench = Bench::with(|config| config.requests_per_call_max = 1, &[]);
    let server = Server::http().await;
    let sender = bench.sender(&server);
    let mut body = sender.get(&server.url("/pause")).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
    let busy = sender.failure(&server.url("/")).await;
    assert!(matches!(busy, Error::Busy { .. }), "the place is the answer's until its end: {busy}");
    drop(body);
    until("the close", || server.open() == 0).await;
    assert_eq!(bench.kept(), 0);
    assert_eq!(sender.text(&server.url("/")).await.unwrap(), "hello");
}

#[tokio::test]
async fn an_answer_without_a_body_leaves_its_connection_at_once() {
    let (bench, server) = (Bench::new(), Server::http().await);
    let sender = bench.sender(&server);
    let head = Request::head(server.url("/size?50")).body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send(head, Patience::default()).await.unwrap();
    assert_eq!((answer.headers()["content-length"].to_str().unwrap(), bench.kept()), ("50", 1));
    drop(answer);
    assert_eq!(sender.text(&server.url("/")).await.unwrap(), "hello");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_answer_that_is_dropped_ends_the_upload_that_is_still_going() {
    let (bench, server) = (Bench::new(), Server::http().await);
    let (parts, mut received) = tokio::sync::mpsc::channel(1);
    let body = futures_util::stream::poll_fn(move |cx| received.poll_recv(cx));
    let request = Request::post(server.url("/echo")).body(http_body_util::StreamBody::new(body)).unwrap();
    parts.send(Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(b"part")))).await.unwrap();
    let mut answer = bench.sender(&server).send(request, Patience::default()).await.unwrap().into_body();
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
    drop(answer);
    tokio::time::timeout(LONG, parts.closed()).await.expect("nobody takes further parts");
    until("the close", || server.open() == 0).await;
}

#[tokio::test]
async fn a_request_that_is_dropped_is_gone_though_its_server_reads_nothing() {
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = deaf.local_addr().unwrap();
    let (parts, mut received) = tokio::sync::mpsc::channel(1);
    let body = futures_util::stream::poll_fn(move |cx| received.poll_recv(cx));
    let request = Request::post(format!("http://{address}/")).body(http_body_util::StreamBody::new(body)).unwrap();
    let sender = Bench::new().sender_of("f", &[&address.to_string()]);
    let part = Bytes::from(vec![0; 64 << 10]);
    let full = async {
        // Until every buffer on the way is full.
        let next = || parts.send(Ok::<_, BoxError>(http_body::Frame::data(part.clone())));
        while tokio::time::timeout(Duration::from_millis(300), next()).await.is_ok() {}
    };
    tokio::select! {
        answer = sender.send(request, Patience::default()) => panic!("{answer:?}"),
        () = full => {}
    }
    tokio::time::timeout(LONG, parts.closed()).await.expect("nothing of the request is left");
}
