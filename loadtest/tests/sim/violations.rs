//! Counts `faas_invariant_violations_total`, per thread: every seed has its own.

use std::cell::Cell;
use std::sync::{Arc, Once};

use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

thread_local! {
    static SEEN: Cell<u64> = const { Cell::new(0) };
}

/// Returns how many violations this thread has counted.
pub(crate) fn seen() -> u64 {
    SEEN.get()
}

/// Counts from now on.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| assert!(metrics::set_global_recorder(Violations).is_ok(), "nobody else records"));
}

struct Violations;

struct Count;

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        SEEN.set(SEEN.get() + value);
    }

    fn absolute(&self, value: u64) {
        SEEN.set(value);
    }
}

impl Recorder for Violations {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match key.name() {
            "faas_invariant_violations_total" => Counter::from_arc(Arc::new(Count)),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
