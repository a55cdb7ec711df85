//! The metrics of the door, registered once.

use std::time::Duration;

use http::StatusCode;
use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram};

/// The label of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Get,
    Put,
    Delete,
    Increment,
    Batch,
    List,
    /// Refused before it was known what was wanted.
    None,
}

struct Series {
    ok: Counter,
    client_error: Counter,
    server_error: Counter,
    seconds: Histogram,
}

pub(crate) struct Metrics {
    get: Series,
    put: Series,
    delete: Series,
    increment: Series,
    batch: Series,
    list: Series,
    none: Series,
}

impl Metrics {
    pub(crate) fn register() -> Self {
        describe_counter!("faas_kv_requests_total", "Requests of the key-value door by operation and outcome");
        describe_histogram!("faas_kv_request_seconds", Unit::Seconds, "Time of a request of the key-value door");
        Self {
            get: series("get"),
            put: series("put"),
            delete: series("delete"),
            increment: series("incr"),
            batch: series("batch"),
            list: series("list"),
            none: series("none"),
        }
    }

    pub(crate) fn answered(&self, op: Op, status: StatusCode, took: Duration) {
        let series = match op {
            Op::Get => &self.get,
            Op::Put => &self.put,
            Op::Delete => &self.delete,
            Op::Increment => &self.increment,
            Op::Batch => &self.batch,
            Op::List => &self.list,
            Op::None => &self.none,
        };
        match status.as_u16() {
            ..400 => series.ok.increment(1),
            400..500 => series.client_error.increment(1),
            500.. => series.server_error.increment(1),
        }
        series.seconds.record(took.as_secs_f64());
    }
}

fn series(op: &'static str) -> Series {
    Series {
        ok: counter!("faas_kv_requests_total", "op" => op, "outcome" => "ok"),
        client_error: counter!("faas_kv_requests_total", "op" => op, "outcome" => "client_error"),
        server_error: counter!("faas_kv_requests_total", "op" => op, "outcome" => "server_error"),
        seconds: histogram!("faas_kv_request_seconds", "op" => op),
    }
}
