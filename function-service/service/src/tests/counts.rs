//! What is counted, with a recorder of the test's own.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::simple::Simple;
use super::*;

/// Keeps the value of every metric by its name and its outcome, if it has one.
#[derive(Default)]
struct Book(Mutex<HashMap<String, Arc<AtomicU64>>>);

impl Book {
    fn entry(&self, key: &Key) -> Arc<AtomicU64> {
        let outcome = key.labels().find(|l| l.key() == "outcome").map(|l| format!(" {}", l.value()));
        self.0.lock().unwrap().entry(format!("{}{}", key.name(), outcome.unwrap_or_default())).or_default().clone()
    }

    fn count(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).map_or(0, |value| value.load(Ordering::SeqCst))
    }

    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.count(name))
    }
}

impl Recorder for Book {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.entry(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.entry(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_is_counted_once_as_what_it_ended() {
    let book = Book::default();
    let _recorder = metrics::set_default_local_recorder(&book);
    let bench = Bench::new().await;
    bench.deploy("f", "one").await.unwrap();
    let ended = |outcome: &str| book.count(&format!("faas_invocations_total {outcome}"));

    bench.call("f").await.unwrap().response.into_body().collect(100).await.unwrap();
    assert_eq!(ended("ok"), 1);
    let mut body = bench.call("f").await.unwrap().response.into_body();
    assert!(body.frame().await.is_some());
    assert_eq!(ended("ok"), 1, "not before its body ends");
    drop(body);
    assert_eq!((ended("ok"), ended("cancelled")), (1, 1), "dropped before its end");
    bench.follow(Act::Fail(failure(Reason::Crashed)));
    assert_eq!(bench.reason("f").await, Reason::Crashed);
    assert_eq!(ended("crashed"), 1);
    bench.follow(Act::Break);
    assert!(bench.call("f").await.unwrap().response.into_body().collect(100).await.is_err());
    assert_eq!(ended("crashed"), 2);
    bench.follow(Act::Hang);
    drop(tokio::time::timeout(seconds(1), bench.call("f")).await);
    assert_eq!(ended("cancelled"), 2);
    assert_eq!(bench.reason("f").await, Reason::RunTimeout);
    assert_eq!(ended("run_timeout"), 1);
    assert_eq!(book.gauge("faas_instances"), 1.0);
    until(|| book.gauge("faas_instances") == 0.0).await;
    assert_eq!(book.gauge("faas_waiting_invocations"), 0.0);
    assert_eq!((book.count("faas_cold_starts_total"), book.count("faas_invariant_violations_total")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_after_the_announced_length_did_not_cancel() {
    let book = Book::default();
    let _recorder = metrics::set_default_local_recorder(&book);
    // A stream of four bytes that does not end by itself.
    let answer = |_| {
        let data = futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"four")))]);
        let body = http_body_util::StreamBody::new(data.chain(futures_util::stream::pending()));
        let told = http::Response::builder().header(http::header::CONTENT_LENGTH, 4);
        Ok(told.body(Body::stream(body)).unwrap())
    };
    let mut bench = Bench::new().await;
    let told = Simple { answer: Arc::new(answer), broken: false };
    bench.service = open(bench.folder.path(), bench.store.clone(), Arc::new(told)).await;
    bench.deploy("f", "one").await.unwrap();
    let mut body = bench.call("f").await.unwrap().response.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(book.count("faas_invocations_total ok"), 1);
    let mut head = invocation("f");
    *head.request.method_mut() = http::Method::HEAD;
    drop(bench.service.dispatch(head).await.unwrap());
    assert_eq!(book.count("faas_invocations_total ok"), 2, "an answer to HEAD has no body to be read");
}

/// An idle function is its records and a lane that nobody called: what the lane takes is a bar of the density.
#[test]
fn a_lane_that_was_never_called_fits_half_a_kibibyte() {
    let counts = 2 * size_of::<usize>();
    assert!(size_of::<crate::lane::Lane>() + counts <= 512, "{} bytes", size_of::<crate::lane::Lane>());
}
