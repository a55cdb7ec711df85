//! The numbers of egress.

use super::error::Error;

const REQUESTS: &str = "faas_egress_requests_total";
const OPENED: &str = "faas_egress_connections_opened_total";
const OPEN: &str = "faas_egress_connections_open";

pub(super) fn describe() {
    metrics::describe_counter!(REQUESTS, "Requests of functions, by outcome.");
    metrics::describe_counter!(OPENED, "Connections opened for requests of functions.");
    metrics::describe_gauge!(OPEN, "Open connections of functions, idle ones included.");
}

/// Counts a request by what became of it up to the head of its answer.
pub(super) fn ended(outcome: Result<(), &Error>) {
    let outcome = outcome.map_or_else(Error::outcome, |()| "answered");
    metrics::counter!(REQUESTS, "outcome" => outcome).increment(1);
}

/// An open connection, as long as it lives.
#[derive(Debug)]
pub(super) struct Open(());

impl Open {
    pub(super) fn new() -> Self {
        metrics::counter!(OPENED).increment(1);
        metrics::gauge!(OPEN).increment(1.0);
        Self(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!(OPEN).decrement(1.0);
    }
}
