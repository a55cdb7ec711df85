//! Metrics of one function; the handles are made at its first use and held.
//!
//! Labels: `function` and `outcome`, a closed set. The series go with their handles,
//! which a function holds for as long as it is deployed; how many functions are
//! told by name is the recorder's to bound.
//! Gauges are moved by differences, so that the aliases of a function add up.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use faas_model::{FunctionName, Reason};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// The end of a call: well, or why not.
pub(crate) type Outcome = Result<(), Reason>;

/// The handles of one function.
pub(crate) struct Meters {
    function: String,
    ok: Counter,
    /// By the number of the reason; made when first needed.
    refused: Vec<OnceLock<Counter>>,
    duration: Histogram,
    pub(crate) starts: Counter,
    pub(crate) start_failures: Counter,
    pub(crate) start_duration: Histogram,
    pub(crate) instances: Gauge,
    pub(crate) waiting: Gauge,
    violations: Counter,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meters({})", self.function)
    }
}

impl Meters {
    pub(crate) fn new(name: &FunctionName) -> Self {
        let function = name.to_string();
        let label = || function.clone();
        Self {
            ok: counter!("faas_invocations_total", "function" => label(), "outcome" => "ok"),
            refused: Reason::ALL.iter().map(|_| OnceLock::new()).collect(),
            duration: histogram!("faas_invocation_duration_seconds", "function" => label()),
            starts: counter!("faas_cold_starts_total", "function" => label()),
            start_failures: counter!("faas_start_failures_total", "function" => label()),
            start_duration: histogram!("faas_cold_start_duration_seconds", "function" => label()),
            instances: gauge!("faas_instances", "function" => label()),
            waiting: gauge!("faas_waiting_invocations", "function" => label()),
            violations: counter!("faas_invariant_violations_total", "part" => "pool"),
            function,
        }
    }

    /// Counts a call that ended.
    pub(crate) fn ended(&self, outcome: Outcome, took: Duration) {
        self.duration.record(took.as_secs_f64());
        let Err(reason) = outcome else { return self.ok.increment(1) };
        let Some(cell) = self.refused.get(reason as usize) else { return };
        let made =
            || counter!("faas_invocations_total", "function" => self.function.clone(), "outcome" => reason.as_str());
        cell.get_or_init(made).increment(1);
    }

    /// Counts a broken invariant. It stays 0, or the pool has a fault.
    pub(crate) fn violated(&self, what: &'static str) {
        self.violations.increment(1);
        tracing::error!(function = %self.function, what, "an invariant of the pool does not hold");
    }
}
