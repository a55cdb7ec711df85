//! What the control API measures of itself.

use std::time::Duration;

use http::{Method, StatusCode};

/// Counts a request and its time; labels are bounded by the known methods and statuses.
pub(crate) fn observe(method: &Method, status: StatusCode, took: Duration) {
    let method = match method.as_str() {
        "GET" => "GET",
        "PUT" => "PUT",
        "POST" => "POST",
        "DELETE" => "DELETE",
        _ => "other",
    };
    let status = match status.as_u16() / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    // The control API is for operators: a look-up per request costs nobody.
    metrics::counter!("faas_control_requests_total", "method" => method, "status" => status).increment(1);
    metrics::histogram!("faas_control_request_seconds", "method" => method).record(took.as_secs_f64());
}

/// Describes the metrics to the recorder.
pub(crate) fn describe() {
    metrics::describe_counter!("faas_control_requests_total", "Requests of the control API");
    metrics::describe_histogram!(
        "faas_control_request_seconds",
        metrics::Unit::Seconds,
        "Time to the head of an answer of the control API"
    );
}
