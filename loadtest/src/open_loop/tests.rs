//! Honesty: what a server does to its clients must show, and so must what the generator does.

use std::convert::Infallible;

use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;
use crate::scenario::Expect;

/// What a test server does with request `number`.
#[derive(Clone, Copy)]
enum Habit {
    Answer,
    /// Answers nobody between these times after its start.
    Stall(Duration, Duration),
    Problem,
    Never,
    /// Says that eight bytes come, and sends four.
    Cut,
    /// Closes after each answer without saying so.
    Close,
    Cold,
}

async fn serve(habit: Habit) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let begun = Instant::now();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Habit::Cut = habit {
                tokio::spawn(cut(stream));
                continue;
            }
            let keep = !matches!(habit, Habit::Close);
            let service = service_fn(move |request| answer(habit, begun, request));
            tokio::spawn(server::Builder::new().keep_alive(keep).serve_connection(TokioIo::new(stream), service));
        }
    });
    Address { authority, prefix: String::new() }
}

async fn cut(mut stream: tokio::net::TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut head = [0; 1024];
    assert!(stream.read(&mut head).await.unwrap() > 0);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nfour").await.unwrap();
}

async fn answer(
    habit: Habit,
    begun: Instant,
    _: Request<Incoming>,
) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let plain = Response::builder();
    let response = match habit {
        Habit::Stall(from, to) if (from..to).contains(&begun.elapsed()) => {
            tokio::time::sleep_until(begun + to).await;
            plain.body("late".into())
        }
        Habit::Problem => plain.status(429).body("{\"reason\":\"queue_full\"}".into()),
        Habit::Never => std::future::pending().await,
        Habit::Cold => plain
            .header("server-timing", "db;dur=5")
            .header("server-timing", "queue;dur=0.1, load;dur=2.0, run;dur=1")
            .body("cold".into()),
        _ => plain.body("fine".into()),
    };
    Ok(response.unwrap())
}

fn plan(count: usize, pause: Duration) -> Arc<Plan> {
    let route = Route {
        label: "test".into(),
        function: "test".into(),
        method: http::Method::GET,
        path: "/{n}".into(),
        headers: vec![("x-test".into(), "1".into())],
        body: bytes::Bytes::new(),
        numbered: false,
        expect: Expect::default(),
    };
    let shot = |n: usize| Shot { at: pause * u32::try_from(n).unwrap(), route: 0, phase: 0, asked_us: 0 };
    Arc::new(Plan { routes: vec![route], phases: vec!["all".into()], shots: (0..count).map(shot).collect() })
}

const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(10), outstanding_max: 500, connections_ready: 0 };

async fn ask(habit: Habit, plan: Arc<Plan>, bounds: Bounds) -> Report {
    let address = serve(habit).await;
    run(plan, &address, bounds).await.unwrap()
}

#[tokio::test]
async fn a_stall_of_a_second_is_charged_for_everybody_who_would_have_waited() {
    let second = Duration::from_secs(1);
    // 3 s at 200 a second; from 1 s to 2 s nobody is answered: a third of all waits, up to a second.
    let report = ask(Habit::Stall(second, second * 2), plan(600, Duration::from_millis(5)), BOUNDS).await;
    let latency = report.tallies.total().latency;
    assert_eq!(latency.count, 600);
    assert!(latency.p99_us > 900_000 && latency.p999_us > 900_000, "{latency:?}");
    // A closed loop would have one request that waited; here, a sixth of all waited half a second or longer.
    assert!(latency.p90_us > 500_000, "{latency:?}");
    assert!(report.tallies.total().errors.is_empty());
}

#[tokio::test]
async fn every_request_is_sent_at_its_time_and_counted_once() {
    let report = ask(Habit::Answer, plan(500, Duration::from_micros(700)), BOUNDS).await;
    let total = report.tallies.total();
    assert_eq!((total.requests, total.good, total.cold_starts), (500, 500, 0), "{total:?}");
    assert!(report.elapsed >= Duration::from_micros(700) * 499);
    assert_eq!(report.generator.lag.count, 500);
    assert_eq!(report.generator.not_sent, 0);
}

#[tokio::test]
async fn a_bound_that_is_reached_is_told_and_not_hidden() {
    let bounds = Bounds { timeout: Duration::from_millis(300), outstanding_max: 5, ..BOUNDS };
    let report = ask(Habit::Never, plan(20, Duration::from_millis(1)), bounds).await;
    let total = report.tallies.total();
    assert_eq!((total.requests, total.good), (20, 0));
    assert_eq!((total.errors["bound"], total.errors["timeout"]), (15, 5), "{:?}", total.errors);
    assert_eq!(report.generator.not_sent, 15);
    assert!(report.generator.flags.iter().any(|f| f.contains("bound reached: 15")), "{:?}", report.generator.flags);
    assert!(total.latency_with_failures.max_us >= 300_000, "a request that timed out took that long");
}

#[tokio::test]
async fn failures_are_told_by_kind() {
    let few = || plan(10, Duration::from_millis(1));
    let errors = |report: Report| report.tallies.total().errors;
    assert_eq!(errors(ask(Habit::Problem, few(), BOUNDS).await)["429 queue_full"], 10);
    assert_eq!(errors(ask(Habit::Cut, few(), BOUNDS).await)["cut"], 10);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let address = Address { authority: nobody, prefix: String::new() };
    assert_eq!(errors(run(few(), &address, BOUNDS).await.unwrap())["connect: connection refused"], 10);
    let ready = Bounds { connections_ready: 1, ..BOUNDS };
    assert!(run(few(), &address, ready).await.unwrap_err().to_string().contains("no connection"));
}

#[tokio::test]
async fn another_status_and_another_length_than_expected_are_failures() {
    for (expect, kind) in
        [(Expect { status: Some(201), bytes: None }, "200"), (Expect { status: None, bytes: Some(5) }, "4 bytes")]
    {
        let mut plan = Arc::unwrap_or_clone(plan(3, Duration::from_millis(1)));
        plan.routes[0].expect = expect;
        let total = ask(Habit::Answer, Arc::new(plan), BOUNDS).await.tallies.total();
        assert_eq!((total.good, total.errors[kind]), (0, 3), "{:?}", total.errors);
    }
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_no_failure() {
    let total = ask(Habit::Close, plan(200, Duration::from_micros(200)), BOUNDS).await.tallies.total();
    assert_eq!(total.good, 200, "{:?}", total.errors);
}

#[tokio::test]
async fn cold_starts_are_counted_by_the_platforms_own_timing() {
    let total = ask(Habit::Cold, plan(10, Duration::from_millis(1)), BOUNDS).await.tallies.total();
    assert_eq!((total.cold_starts, total.cold_latency.count), (10, 10));
    let timing = |text: &'static str| {
        let mut headers = http::HeaderMap::new();
        headers.insert("server-timing", http::HeaderValue::from_static(text));
        is_cold(&headers)
    };
    assert!(!timing("queue;dur=0.000, run;dur=0.100"));
    assert!(!timing("db;dur=1, cache;dur=2, app;dur=3"), "a function's own phases are none of the platform's");
    assert!(timing("queue;dur=0.000, load;dur=1, link;dur=1, instantiate;dur=1, run;dur=0.100"));
    assert!(!is_cold(&http::HeaderMap::new()));
}

#[tokio::test]
async fn what_is_asked_for_is_taken_off_the_added_latency() {
    let mut plan = Arc::unwrap_or_clone(plan(5, Duration::from_millis(1)));
    for shot in &mut plan.shots {
        shot.asked_us = 3_000_000_000;
    }
    let total = ask(Habit::Answer, Arc::new(plan), BOUNDS).await.tallies.total();
    assert_eq!((total.added_latency.count, total.added_latency.max_us), (5, 0));
}

#[test]
fn a_late_or_busy_generator_flags_itself() {
    let lag = |p99_us| Summary { p99_us, ..Summary::default() };
    assert!(flags(&lag(LAG_P99_US_MAX), CPU_SHARE_MAX, 0).is_empty());
    assert!(flags(&lag(LAG_P99_US_MAX + 1), 0.1, 0)[0].contains("late"));
    assert!(flags(&lag(0), CPU_SHARE_MAX + 0.01, 0)[0].contains("busy"));
    assert!(flags(&lag(0), 0.1, 1)[0].contains("bound"));
}

#[tokio::test]
async fn a_generator_that_is_held_up_reports_its_lag_and_counts_it_as_latency() {
    let address = serve(Habit::Answer).await;
    let hold = async {
        tokio::task::yield_now().await;
        // The one thread of this test computes for a while, as an overloaded generator would.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(200) {
            std::hint::spin_loop();
        }
    };
    let (report, ()) = tokio::join!(run(plan(100, Duration::from_millis(1)), &address, BOUNDS), hold);
    let report = report.unwrap();
    assert!(report.generator.lag.max_us > 80_000, "{:?}", report.generator.lag);
    assert!(report.tallies.total().latency.max_us >= report.generator.lag.p99_us);
    assert!(report.generator.flags[0].contains("generator late"), "{:?}", report.generator.flags);
}
