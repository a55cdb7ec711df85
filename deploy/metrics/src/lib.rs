//! What this process measures, as Prometheus text: the recorder behind the
//! `metrics` facade, made for thousands of functions that come and go.
//!
//! **Never knows** what is measured, HTTP, or what a function is beyond the
//! label `function`.
//!
//! Invariants:
//! - Recording takes no lock and allocates nothing.
//! - Never more than [`Config::functions_max`] functions have series of their
//!   own. What the others count is told under the function `_other`, so that sums
//!   over functions are whole: the overflow attribute of OpenTelemetry's
//!   cardinality limit, save that a place is not given for ever.
//! - A function that is not deployed is not told. A series that went away and
//!   comes back begins at 0, as after a restart.

mod cell;
mod registry;
mod text;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use faas_model::units::Millis;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SetRecorderError, SharedString, Unit};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::cell::{Cell, Kind};
use crate::registry::Registry;

/// The function under which those without series of their own are told. No name begins so.
pub const OTHER: &str = "_other";

/// Bounds of what is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Functions with series of their own at most, 0 to 100,000; default 1,000. Each is about 80 lines, 6 KiB.
    pub functions_max: u32,
    /// How long a function without a call and without an instance keeps its place when others want it; default 10m.
    pub function_idle: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Self { functions_max: 1000, function_idle: Millis::seconds(600) }
    }
}

/// The recorder and what prints it. Clones share everything.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// Returns a recorder of nothing yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { registry: Arc::new(Mutex::new(Registry::new(config))) }
    }

    /// Makes it the recorder of this process.
    ///
    /// # Errors
    /// When there is one already.
    pub fn install(&self) -> Result<(), SetRecorderError<Self>> {
        metrics::set_global_recorder(self.clone())
    }

    /// Returns everything in Prometheus' text format, version 0.0.4, of the functions that `deployed` knows by
    /// their label. Takes milliseconds for each thousand of them.
    #[must_use]
    pub fn text(&self, deployed: impl Fn(&str) -> bool) -> String {
        // Numbers are read and written without the lock, which a cold start may wait for.
        let told = self.lock().look(Instant::now(), &deployed);
        text::write(told)
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self, name: &KeyName, description: &SharedString) {
        self.lock().describe(name.as_str(), description);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Recorder for Metrics {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&key, &description);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&key, &description);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&key, &description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.lock().cell(key, Kind::Counter) {
            Cell::Counter(count) => Counter::from_arc(count),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.lock().cell(key, Kind::Gauge) {
            Cell::Gauge(level) => Gauge::from_arc(level),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.lock().cell(key, Kind::Histogram) {
            Cell::Histogram(spread) => Histogram::from_arc(spread),
            _ => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests;
