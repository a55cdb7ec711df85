//! A trace in the shape of Azure Functions, July 2019, made from the published figures.
//!
//! Source: Shahrad et al., "Serverless in the Wild", USENIX ATC 2020, section 3.
//! 45 % of apps are called at most hourly, 81.4 % at most once a minute; the
//! 18.6 % above make 99.6 % of the invocations. Execution time is lognormal
//! (-0.38, 2.36) in seconds, cut at 60; memory is Burr (11.652, 0.221, 107.083)
//! in MB. Time runs `speedup` times as fast: rates are multiplied, durations
//! divided, and so must a keep-alive be that is compared.

mod draw;

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use serde::Deserialize;

use crate::arrivals::{ARRIVALS_MAX, renewals};
use crate::keep_alive::Life;
use crate::plan::{Plan, Route, Shot};
use crate::scenario::Expect;

pub use draw::{Function, Trigger};

/// Most functions of one population.
pub const FUNCTIONS_MAX: usize = 20_000;
/// Seconds of a day.
pub const DAY_S: f64 = 86_400.0;
/// The keep-alive to compare with, in seconds of the trace's own time.
pub const FIXED_KEEP_ALIVE_S: f64 = 600.0;

/// What a scenario says about the trace.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Functions.
    pub functions: usize,
    /// Length of the run, by the clock.
    #[serde(with = "crate::scenario::time")]
    pub seconds: Duration,
    /// How much faster time runs.
    pub speedup: f64,
    /// Requests per second at most, on average; the busiest functions are cut to a common rate until it holds.
    pub rate_max: Option<f64>,
    /// A function touches its memory divided by this, so that a trace fits a test machine.
    #[serde(default = "sixty_four")]
    pub memory_divide: f64,
    /// More settings of every function, as in `faas.toml`.
    #[serde(default)]
    pub settings: toml::Table,
}

fn sixty_four() -> f64 {
    64.0
}

/// The functions of a trace and what each does.
#[derive(Debug, Clone)]
pub struct Population {
    /// Functions.
    pub functions: Vec<Function>,
    shape: Shape,
    seed: u64,
}

impl Shape {
    /// Checks the values.
    ///
    /// # Errors
    /// With the value that is out of bounds.
    pub fn check(&self) -> Result<()> {
        let functions = self.functions;
        ensure!((1..=FUNCTIONS_MAX).contains(&functions), "functions is {functions}, not 1 to {FUNCTIONS_MAX}");
        ensure!(!self.seconds.is_zero(), "seconds is 0");
        for (name, value) in [
            ("speedup", self.speedup),
            ("memory_divide", self.memory_divide),
            ("rate_max", self.rate_max.unwrap_or(1.0)),
        ] {
            ensure!(value.is_finite() && value > 0.0, "{name} is {value}, not above 0");
        }
        Ok(())
    }

    /// Draws the functions.
    ///
    /// # Errors
    /// When the trace would have too many requests.
    pub fn population(&self, seed: u64) -> Result<Population> {
        let mut functions = draw::functions(self.functions, seed);
        if let Some(max) = self.rate_max {
            draw::cut(&mut functions, max * DAY_S / self.speedup);
        }
        let population = Population { functions, shape: self.clone(), seed };
        let expected = population.rate() * self.seconds.as_secs_f64();
        ensure!(
            expected <= ARRIVALS_MAX as f64,
            "the trace has about {expected:.0} requests, more than {ARRIVALS_MAX}: set rate_max"
        );
        Ok(population)
    }

    /// Returns the settings with which `function` is deployed.
    #[must_use]
    pub fn settings(&self, function: &Function) -> toml::Table {
        let mut settings = self.settings.clone();
        let limits = settings.entry("limits").or_insert_with(|| toml::Table::new().into());
        if let Some(limits) = limits.as_table_mut() {
            // The guest's own code and stack take about a MiB and a half.
            let memory_mib = self.touch_kib(function) / 1024 + 4;
            limits.insert("memory".into(), format!("{memory_mib}MiB").into());
        }
        settings
    }

    fn touch_kib(&self, function: &Function) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of KiB")]
        let kib = (function.memory_mib * 1024.0 / self.memory_divide) as u64;
        kib
    }
}

impl Population {
    /// Returns requests per second by the clock, expected.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.functions.iter().map(|f| f.per_day).sum::<f64>() / DAY_S * self.shape.speedup
    }

    /// Returns the times of one function's calls, in seconds by the clock.
    fn times(&self, number: usize, function: &Function) -> Vec<f64> {
        let mut rng = ChaCha12Rng::seed_from_u64(self.seed);
        // Stream 0 drew the functions.
        rng.set_stream(number as u64 + 1);
        let rate = function.per_day / DAY_S * self.shape.speedup;
        renewals(rate, function.cv, self.shape.seconds.as_secs_f64(), &mut rng).unwrap_or_default()
    }

    fn asked_s(&self, function: &Function) -> f64 {
        function.duration_s / self.shape.speedup
    }

    /// Returns what is sent when.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut plan = Plan { routes: Vec::new(), phases: vec!["azure2019".into()], shots: Vec::new() };
        for (route, function) in self.functions.iter().enumerate() {
            plan.routes.push(self.route(function));
            let route = u32::try_from(route).unwrap_or(u32::MAX);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 60 s in microseconds")]
            let asked_us = ((self.asked_s(function) * 1e6) as u32).max(1);
            let times = self.times(route as usize, function);
            plan.shots.extend(times.into_iter().map(|t| Shot {
                at: Duration::from_secs_f64(t),
                route,
                phase: 0,
                asked_us,
            }));
        }
        plan.shots.sort_by_key(|s| (s.at, s.route));
        plan
    }

    /// Returns the calls of each function, for a simulation.
    #[must_use]
    pub fn lives(&self) -> Vec<Life> {
        let life = |(number, function): (usize, &Function)| {
            let asked = self.asked_s(function);
            let calls = self.times(number, function).into_iter().map(|t| (t, t + asked)).collect();
            Life { memory_mib: function.memory_mib, calls }
        };
        self.functions.iter().enumerate().map(life).collect()
    }

    fn route(&self, function: &Function) -> Route {
        Route {
            label: function.name.clone(),
            function: function.name.clone(),
            method: http::Method::GET,
            path: format!("/?touch_kib={}&sleep_us={{us}}", self.shape.touch_kib(function)),
            headers: Vec::new(),
            body: bytes::Bytes::new(),
            numbered: false,
            expect: Expect { status: Some(200), bytes: None },
        }
    }
}

#[cfg(test)]
mod tests;
