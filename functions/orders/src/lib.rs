//! Takes orders by HTTP and by message, and keeps totals that are right.
//!
//! **Never knows** which platform or store it runs on: it needs
//! `wasi:http/incoming-handler` and `wasi:keyvalue` 0.2.0-draft2, nothing else.
//! Invariants: an order id names one order for ever; a message counts once per
//! event id (`ce-source`, `ce-id`), however often it is delivered; totals are
//! computed from exactly those records, so they have nothing to disagree with.

pub mod api;
pub mod http;
mod ledger;
mod order;
pub mod state;
mod totals;

#[cfg(target_arch = "wasm32")]
mod keyvalue;
#[cfg(test)]
mod tests;

/// Longest request body, in bytes.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// Answers one call with the buckets of the host.
#[cfg(target_arch = "wasm32")]
#[must_use]
pub fn handle(request: http::Request) -> http::Response {
    api::handle(&request, &keyvalue::Host, &keyvalue::random_id)
}

/// Returns an RFC 9457 problem.
fn problem(status: u16, title: &str, detail: &str) -> http::Response {
    let body = serde_json::json!({ "type": "about:blank", "status": status, "title": title, "detail": detail });
    http::Response::new(status, "application/problem+json", body.to_string())
}
