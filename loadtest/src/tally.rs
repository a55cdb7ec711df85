//! What is counted: answers, failures by kind, latencies; in all, by phase and by route.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::latency::{Latencies, Summary};
use crate::plan::Plan;

/// Up to so many routes have histograms of three digits; of more, two digits each.
const EXACT_ROUTES_MAX: usize = 64;

/// How one request ended, seen from the moment it should have been sent.
#[derive(Debug, Clone)]
pub struct End {
    /// Until the last byte of the answer, or the failure.
    pub latency: Duration,
    /// Whether it was a good answer, or the kind of its failure.
    pub verdict: Result<(), String>,
    /// Whether the platform says that an instance was started for it.
    pub cold: bool,
    /// How long the function was told to take.
    pub asked: Option<Duration>,
}

/// Counts of one part of a run.
#[derive(Debug, Clone)]
pub struct Tally {
    good: Latencies,
    every: Latencies,
    cold: Latencies,
    added: Latencies,
    errors: BTreeMap<String, u64>,
}

/// Counts and latencies of one part of a run, as in the result file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Requests that should have been sent.
    pub requests: u64,
    /// Good answers.
    pub good: u64,
    /// Failures by kind.
    pub errors: BTreeMap<String, u64>,
    /// Good answers for which an instance was started.
    pub cold_starts: u64,
    /// Latency of good answers, from the moment they should have been sent.
    pub latency: Summary,
    /// The same with failures, which count as long as they took.
    pub latency_with_failures: Summary,
    /// Latency of the good answers that were cold starts.
    pub cold_latency: Summary,
    /// Latency of good answers beyond what the function was told to take.
    pub added_latency: Summary,
}

impl Tally {
    fn new(digits: u8) -> Self {
        let empty = || Latencies::new(digits);
        Self { good: empty(), every: empty(), cold: empty(), added: empty(), errors: BTreeMap::new() }
    }

    fn count(&mut self, end: &End) {
        self.every.record(end.latency);
        match &end.verdict {
            Ok(()) => {
                self.good.record(end.latency);
                if end.cold {
                    self.cold.record(end.latency);
                }
                if let Some(asked) = end.asked {
                    self.added.record(end.latency.saturating_sub(asked));
                }
            }
            Err(kind) => *self.errors.entry(kind.clone()).or_default() += 1,
        }
    }

    fn part(&self) -> Part {
        let (latency, cold_latency) = (self.good.summary(), self.cold.summary());
        let latency_with_failures = self.every.summary();
        Part {
            requests: latency_with_failures.count,
            good: latency.count,
            errors: self.errors.clone(),
            cold_starts: cold_latency.count,
            latency,
            latency_with_failures,
            cold_latency,
            added_latency: self.added.summary(),
        }
    }
}

/// The counts of a run.
#[derive(Debug, Clone)]
pub struct Tallies {
    total: Tally,
    phases: Vec<Tally>,
    routes: Vec<Option<Tally>>,
    digits: u8,
}

impl Tallies {
    /// Returns empty counts for a plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let digits = if plan.routes.len() > EXACT_ROUTES_MAX { 2 } else { 3 };
        Self {
            total: Tally::new(3),
            phases: plan.phases.iter().map(|_| Tally::new(3)).collect(),
            routes: vec![None; plan.routes.len()],
            digits,
        }
    }

    /// Counts the end of one request.
    pub fn count(&mut self, route: u32, phase: u32, end: &End) {
        self.total.count(end);
        if let Some(phase) = self.phases.get_mut(phase as usize) {
            phase.count(end);
        }
        if let Some(route) = self.routes.get_mut(route as usize) {
            route.get_or_insert_with(|| Tally::new(self.digits)).count(end);
        }
    }

    /// Returns the counts of all.
    #[must_use]
    pub fn total(&self) -> Part {
        self.total.part()
    }

    /// Returns the counts by phase.
    #[must_use]
    pub fn phases(&self, plan: &Plan) -> BTreeMap<String, Part> {
        plan.phases.iter().cloned().zip(self.phases.iter().map(Tally::part)).collect()
    }

    /// Returns the counts by route, without those that were never asked.
    #[must_use]
    pub fn routes(&self, plan: &Plan) -> BTreeMap<String, Part> {
        let parts = plan.routes.iter().zip(&self.routes);
        parts.filter_map(|(route, tally)| Some((route.label.clone(), tally.as_ref()?.part()))).collect()
    }
}
