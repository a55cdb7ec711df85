//! What is kept of a function between requests: its authority and its metrics.
//! Bounded by the deployed functions.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use faas_invoke::CatalogueWatch;
use faas_model::FunctionName;
use http::StatusCode;
use http::uri::Authority;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tokio::time::Instant;

/// The label of requests that name no deployed function.
const NOBODY: &str = "_none";
/// How many entries of removed functions are kept before they are dropped.
const STALE_MAX: usize = 64;

/// The kept values of one function.
pub(super) struct Known {
    /// `NAME.NAMESPACE.faas.internal`.
    pub(super) authority: Authority,
    /// By the first digit of the status; 0 is unused, and clients that left count as 4.
    answers: [Counter; 6],
    seconds: Histogram,
    in_flight: Gauge,
}

impl Known {
    fn new(label: &str, authority: Authority) -> Self {
        let class = |class: &'static str| counter!("faas_http_requests_total", "function" => label.to_owned(), "class" => class);
        Self {
            authority,
            answers: [class("other"), class("1xx"), class("2xx"), class("3xx"), class("4xx"), class("5xx")],
            seconds: histogram!("faas_http_request_seconds", "function" => label.to_owned()),
            in_flight: gauge!("faas_http_requests_in_flight", "function" => label.to_owned()),
        }
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Known({})", self.authority)
    }
}

/// The kept values of all functions.
#[derive(Debug, Default)]
pub(super) struct Directory {
    functions: RwLock<HashMap<FunctionName, Arc<Known>>>,
    nobody: OnceLock<Arc<Known>>,
}

impl Directory {
    /// Returns the values of a deployed function.
    pub(super) fn get(&self, function: &FunctionName, catalogue: &CatalogueWatch) -> Arc<Known> {
        if let Some(known) = self.functions.read().unwrap_or_else(PoisonError::into_inner).get(function) {
            return known.clone();
        }
        let label = function.to_string();
        let authority = Authority::try_from(format!("{label}.faas.internal"))
            .unwrap_or_else(|_| Authority::from_static("faas.internal"));
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        let catalogue = catalogue.borrow();
        if functions.len() >= catalogue.len() + STALE_MAX {
            functions.retain(|name, _| catalogue.function(name).is_some());
        }
        functions.entry(function.clone()).or_insert_with(|| Arc::new(Known::new(&label, authority))).clone()
    }

    /// Returns the values of requests that name no function.
    pub(super) fn nobody(&self) -> Arc<Known> {
        self.nobody.get_or_init(|| Arc::new(Known::new(NOBODY, Authority::from_static("faas.internal")))).clone()
    }
}

/// Measures one request, whether it is answered or its client leaves.
pub(super) struct Observed {
    known: Arc<Known>,
    started: Instant,
    status: Option<StatusCode>,
}

impl Observed {
    pub(super) fn new(known: Arc<Known>) -> Self {
        known.in_flight.increment(1.0);
        Self { known, started: Instant::now(), status: None }
    }

    /// Records the answer.
    pub(super) fn end(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.known.in_flight.decrement(1.0);
        let class = self.status.map_or(4, |status| usize::from(status.as_u16() / 100));
        if let Some(counter) = self.known.answers.get(class) {
            counter.increment(1);
        }
        self.known.seconds.record(self.started.elapsed().as_secs_f64());
    }
}
