//! Slow and leaving clients, and the end of a listener: every wait has a bound,
//! a client that leaves cancels, and stopping loses no answer.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    reason = "a test that cannot go on fails, its helpers too"
)]

mod support;

use std::time::Duration;

use faas_gateway::front::Config;
use faas_model::units::Millis;
use support::{Answer, PATIENCE, Server};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

/// Bounds short enough to wait for.
fn short() -> Config {
    Config {
        head_timeout: Millis(300),
        keep_alive: Millis(300),
        body_idle: Millis(300),
        body_total: Millis(900),
        write_idle: Millis(300),
        ..Config::default()
    }
}

async fn server(config: Config) -> Server {
    Server::start(config, Duration::from_secs(2)).await
}

const GOOD: &[u8] = b"GET /function/echo HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_silent_connection_is_closed_without_an_answer() {
    let server = server(short()).await;
    let mut client = server.connect().await;
    let started = Instant::now();
    assert!(client.answer().await.is_none());
    assert!(started.elapsed() >= Duration::from_millis(250) && started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_kept_connection_is_closed_after_its_idle_time() {
    let server = server(short()).await;
    let mut client = server.connect().await;
    client.send(GOOD).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    let started = Instant::now();
    assert!(client.answer().await.is_none());
    assert!(started.elapsed() >= Duration::from_millis(250) && started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_head_that_drips_is_answered_408_at_its_bound_not_per_byte() {
    let server = server(short()).await;
    let mut client = server.connect().await;
    let (started, mut answer) = (Instant::now(), None);
    for byte in [&b"GET /function/echo HTTP/1.1\r\nHost: a\r\nX: "[..], &[b'a'; 100]].concat().chunks(1) {
        client.send(byte).await;
        if let Ok(came) = timeout(Duration::from_millis(20), client.answer()).await {
            answer = came;
            break;
        }
    }
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    let answer = answer.expect("it comes while the head still drips");
    assert_eq!(answer.status, 408, "{answer:?}");
    assert!(answer.body.contains("\"reason\":\"request_timeout\""));
    assert!(client.answer().await.is_none());
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_second_head_that_drips_is_answered_after_the_first_request() {
    let server = server(short()).await;
    let mut client = server.connect().await;
    client.send(&[GOOD, b"GET /function/ec"].concat()).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert_eq!(client.answer().await.unwrap().status, 408);
    assert!(client.answer().await.is_none());
}

#[tokio::test]
async fn a_body_that_stops_is_answered_408() {
    let server = server(short()).await;
    for framing in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let mut client = server.connect().await;
        client.send(format!("POST /function/echo HTTP/1.1\r\nHost: a\r\n{framing}").as_bytes()).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 408, "{framing}: {answer:?}");
        assert!(answer.body.contains("300 ms"), "the idle bound, not the total one: {answer:?}");
        assert!(client.answer().await.is_none());
    }
}

#[tokio::test]
async fn a_body_that_drips_is_answered_408_at_its_total_bound() {
    let server = server(short()).await;
    let mut client = server.connect().await;
    client.send(b"POST /function/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n").await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1200) && client.stream.write_all(b"x").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.status, 408);
    assert!(answer.body.contains("900 ms"), "{answer:?}");
}

#[tokio::test]
async fn a_call_longer_than_the_idle_bounds_is_not_cut() {
    let config = Config { keep_alive: Millis(100), head_timeout: Millis(100), body_idle: Millis(100), ..short() };
    let server = server(config).await;
    let mut client = server.connect().await;
    client.send(b"POST /function/echo/soon HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
    assert_eq!(client.answer().await.unwrap().body, "POST /soon x");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let server = server(short()).await;
    let mut client = server.connect().await;
    client.send(b"GET /function/echo/big HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // The stream never ends by itself: the only end is the cut of the server, seen as an error or an end.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let drained = timeout(PATIENCE, async {
        let mut space = vec![0; 1 << 20];
        let mut total = 0;
        while let Ok(n @ 1..) = tokio::io::AsyncReadExt::read(&mut client.stream, &mut space).await {
            total += n;
        }
        total
    });
    // What the kernel's buffers held, and no more.
    assert!(drained.await.expect("the server goes on writing") < 64 << 20);
}

#[tokio::test]
async fn an_event_of_a_stream_arrives_while_the_stream_is_open() {
    let server = server(Config::default()).await;
    let mut client = server.connect().await;
    client.send(b"GET /function/echo/events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n9\r\ndata: 1\n\n\r\n") {
        let read = tokio::io::AsyncReadExt::read_buf(&mut client.stream, &mut seen);
        assert!(timeout(PATIENCE, read).await.expect("the event is held back").unwrap() > 0);
    }
}

#[tokio::test]
async fn an_upload_over_the_bound_is_refused_before_it_ends() {
    let server = server(Config::default()).await;
    let mut client = server.connect().await;
    client.send(b"POST /function/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 4096], b"\r\n"].concat();
    client.send(&chunk).await;
    // The last chunk is never sent: the answer does not wait for it.
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.status, 413);
    assert!(answer.body.contains("limits.request_bytes of 1000 bytes"), "{answer:?}");
    // A client that goes on sending still gets no reset before it has read its answer.
    client.send(&chunk).await;
    assert!(client.answer().await.is_none());
}

#[tokio::test]
async fn an_upload_announced_over_the_bound_is_refused_without_100_continue() {
    let server = server(Config::default()).await;
    let mut client = server.connect().await;
    client
        .send(b"POST /function/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let mut first = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut client.stream, &mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_call() {
    let server = server(Config::default()).await;
    for request in [
        "GET /function/echo/slow HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /function/echo/slow HTTP/1.1\r\nHost: a\r\n\r\nGET /ha",
    ] {
        let mut client = server.connect().await;
        client.send(request.as_bytes()).await;
        let cancelled = || *server.echo.cancelled.lock().unwrap();
        let before = cancelled();
        let wait_for = |what: &'static str, done: Box<dyn Fn() -> bool>| async move {
            let waited = timeout(PATIENCE, async {
                while !done() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            assert!(waited.await.is_ok(), "{what}");
        };
        let echo = server.echo.clone();
        wait_for("dispatched", Box::new(move || !echo.seen.lock().unwrap().is_empty())).await;
        server.seen();
        drop(client);
        let echo = server.echo.clone();
        wait_for("cancelled", Box::new(move || *echo.cancelled.lock().unwrap() > before)).await;
    }
}

#[tokio::test]
async fn a_half_closed_client_ends_without_hang() {
    let server = server(Config::default()).await;
    for bytes in [
        GOOD,
        b"GET /function/ec",
        b"",
        b"GET / HTTP/1.1\n\n",
        b"POST /function/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab",
    ] {
        let mut client = server.connect().await;
        client.send(bytes).await;
        client.stream.shutdown().await.unwrap();
        let answers = timeout(PATIENCE, client.answers()).await.expect("the server hangs");
        assert!(answers.len() <= 1 && answers.iter().all(|a| matches!(a.status, 200 | 400)), "{bytes:?}: {answers:?}");
    }
}

#[tokio::test]
async fn a_handler_that_panics_costs_one_answer_and_no_connection() {
    let server = server(Config::default()).await;
    let mut client = server.connect().await;
    client.send(b"GET /function/echo/panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.status, 500, "{answer:?}");
    assert!(answer.body.contains("\"reason\":\"internal\"") && !answer.body.contains("as the test asks"));
    client.send(GOOD).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn what_a_refused_client_still_sends_is_thrown_away_up_to_a_bound() {
    let server = server(Config::default()).await;
    let mut client = server.connect().await;
    client.send(b"GET /function/echo HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.answer().await.unwrap().status, 400);
    for _ in 0..8 {
        client.stream.write_all(&[b'x'; 16 << 10]).await.expect("a reset would take the answer away");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let flood = vec![b'x'; 64 << 20];
    assert!(timeout(PATIENCE, client.stream.write_all(&flood)).await.expect("the server cuts it").is_err());
}

#[tokio::test]
async fn connections_over_the_bound_wait_for_a_place() {
    let server = server(Config { connections_max: 2, ..Config::default() }).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    for client in [&mut first, &mut second] {
        client.send(GOOD).await;
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    let mut third = server.connect().await;
    third.send(GOOD).await;
    assert!(timeout(Duration::from_millis(200), third.answer()).await.is_err(), "a third connection was served");
    drop(first);
    assert_eq!(third.answer().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_do_not_hold_up_honest_ones() {
    let server = server(Config { head_timeout: Millis(1000), ..Config::default() }).await;
    let mut slow = Vec::new();
    for number in 0..300 {
        let mut client = server.connect().await;
        client.send(if number % 2 == 0 { b"GET /function/echo HT" } else { b"" }).await;
        slow.push(client);
    }
    let mut honest = server.connect().await;
    let mut worst = Duration::ZERO;
    for _ in 0..200 {
        let started = Instant::now();
        honest.send(GOOD).await;
        assert_eq!(honest.answer().await.unwrap().status, 200);
        worst = worst.max(started.elapsed());
    }
    assert!(worst < Duration::from_millis(250), "{worst:?}");
    for client in &mut slow {
        let answers = client.answers().await;
        assert!(answers.iter().all(|a| a.status == 408), "{answers:?}");
    }
}

#[tokio::test]
async fn stopping_ends_idle_connections_finishes_running_calls_and_accepts_nothing() {
    let server = server(Config::default()).await;
    let (mut idle, mut running) = (server.connect().await, server.connect().await);
    idle.send(GOOD).await;
    assert_eq!(idle.answer().await.unwrap().status, 200);
    running.send(b"GET /function/echo/soon HTTP/1.1\r\nHost: a\r\n\r\n").await;
    while !server.seen().iter().any(|s| s == "GET /soon") {
        tokio::task::yield_now().await;
    }
    server.stop.cancel();
    assert!(idle.answer().await.is_none());
    let answer = running.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "GET /soon "));
    assert!(running.answer().await.is_none());
    timeout(PATIENCE, server.ended).await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn what_runs_after_the_grace_period_is_cut() {
    let server = Server::start(Config::default(), Duration::from_millis(100)).await;
    let mut client = server.connect().await;
    client.send(b"GET /function/echo/slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    while server.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    server.stop.cancel();
    timeout(PATIENCE, server.ended).await.unwrap().unwrap();
    assert_eq!(*server.echo.cancelled.lock().unwrap(), 1);
    assert!(client.answer().await.is_none());
}

/// Sends `head`, then `body` a moment later, `times` times, on one connection for as long as the
/// server does not say that it closes; returns the answers.
async fn post(server: &Server, head: &str, body: &[u8], times: usize) -> Vec<Answer> {
    let mut client = server.connect().await;
    let mut answers: Vec<Answer> = Vec::new();
    for number in 0..times {
        client.send(head.as_bytes()).await;
        if number % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        client.send(body).await;
        let answer = client.answer().await;
        let answer = answer.unwrap_or_else(|| panic!("{head}: request {number} fell into an unannounced close"));
        if answer.closes() {
            client = server.connect().await;
        }
        answers.push(answer);
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_nobody_reads_does_not_cost_the_connection() {
    let server = server(Config::default()).await;
    let body = [b'x'; 20_000];
    let chunked = [b"384\r\n".as_slice(), &[b'x'; 900], b"\r\n0\r\n\r\n"].concat();
    for (target, framing, body, status) in [
        ("echo/unread", "Content-Length: 900", &body[..900], 200),
        ("echo/unread", "Transfer-Encoding: chunked", &chunked, 200),
        ("none", "Content-Length: 20000", &body, 404),
        ("echo", "Content-Length: 20000", &body, 413),
    ] {
        let head = format!("POST /function/{target} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        let answers = post(&server, &head, body, 200).await;
        assert!(answers.iter().all(|a| a.status == status), "{head}");
        let closed = answers.iter().filter(|a| a.closes()).count();
        assert!(closed < 20, "{head}: {closed} of 200 connections were given up");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_says_that_its_connection_closes_when_the_body_is_too_large_to_throw_away() {
    let server = server(Config::default()).await;
    let body = vec![b'x'; 200_000];
    let head = "POST /function/none HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n";
    assert!(post(&server, head, &body, 20).await.iter().all(|a| a.status == 404 && a.closes()));
    let chunks = [b"30d40\r\n".as_slice(), &body, b"\r\n0\r\n\r\n"].concat();
    let head = "POST /function/none HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(post(&server, head, &chunks, 20).await.iter().all(|a| a.status == 404 && a.closes()));
}

#[tokio::test]
async fn an_answer_waits_only_briefly_for_a_body_that_nobody_reads_and_then_says_that_it_closes() {
    let server = server(Config::default()).await;
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut client = server.connect().await;
        let head = format!("POST /function/echo/unread HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n{expect}\r\n");
        let started = Instant::now();
        client.send(head.as_bytes()).await;
        let answer = client.head_answer().await.unwrap();
        assert!(answer.status == 200 && answer.closes(), "{answer:?}");
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_body_dropped_beside_a_streamed_answer_does_not_cost_the_connection() {
    let server = server(Config::default()).await;
    let mut client = server.connect().await;
    client.send(b"POST /function/echo/beside HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n").await;
    let mut seen = Vec::new();
    let mut sent = false;
    while !seen.ends_with(b"GET / ") {
        let read = tokio::io::AsyncReadExt::read_buf(&mut client.stream, &mut seen);
        let bytes = timeout(PATIENCE, read).await.expect("the server hangs").unwrap_or(0);
        assert!(bytes > 0, "unannounced close after {:?}", String::from_utf8_lossy(&seen));
        if !sent && seen.windows(6).any(|w| w == b"beside") {
            sent = true;
            client.send(&[&[b'x'; 900], GOOD].concat()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_costs_no_busy_connection_a_request() {
    for round in 0..5 {
        let server = server(Config::default()).await;
        let mut clients = tokio::task::JoinSet::new();
        for pause in 0..8 {
            let mut client = server.connect().await;
            clients.spawn(async move {
                loop {
                    client.send(GOOD).await;
                    let Some(answer) = client.answer().await else { return false };
                    if answer.closes() {
                        return client.answer().await.is_none();
                    }
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(50 + round)).await;
        server.stop.cancel();
        assert!(clients.join_all().await.into_iter().all(|told| told), "a request fell into an unannounced close");
        timeout(Duration::from_millis(500), server.ended).await.expect("no connection is open").unwrap();
    }
}

#[tokio::test]
async fn stopping_waits_for_idle_connections_as_long_as_lame_duck_and_for_none_not_at_all() {
    let config = Config { lame_duck: Millis(300), ..Config::default() };
    for connections in [0, 2] {
        let server = Server::start(config.clone(), PATIENCE).await;
        let mut idle = Vec::new();
        for used in 0..connections {
            let mut client = server.connect().await;
            if used > 0 {
                client.send(GOOD).await;
                assert!(!client.answer().await.unwrap().closes());
            }
            idle.push(client);
        }
        // Until the listener has taken them all.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let started = Instant::now();
        server.stop.cancel();
        timeout(PATIENCE, server.ended).await.unwrap().unwrap();
        let took = started.elapsed();
        let bound = if idle.is_empty() { 0..200 } else { 250..2000 };
        assert!(bound.contains(&took.as_millis()), "{connections} connections: {took:?}");
    }
}

#[tokio::test]
async fn stopping_answers_what_waits_in_the_backlog() {
    let server = server(Config::default()).await;
    // Blocking connects: this thread is the server's too, so it accepts none of them before the stop.
    let mut clients: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(server.address).unwrap()).collect();
    clients.iter_mut().for_each(|client| std::io::Write::write_all(client, GOOD).unwrap());
    server.stop.cancel();
    timeout(PATIENCE, server.ended).await.unwrap().unwrap();
    for mut client in clients {
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut client, &mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    }
}
