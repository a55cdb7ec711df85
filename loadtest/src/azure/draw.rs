//! Draws functions from the published distributions.
//!
//! Every quantity is drawn by strata (one value from each n-th part of its
//! distribution, in random order), so that small samples keep the shape too.

use rand::Rng;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, LogNormal};
use serde::{Deserialize, Serialize};

/// Share of apps that are called at most once an hour.
const HOURLY_SHARE: f64 = 0.45;
/// Share of apps that are called at most once a minute.
const MINUTELY_SHARE: f64 = 0.814;
/// Share of all invocations that the others make.
const TOP_INVOCATIONS: f64 = 0.996;
/// Calls a day: the rarest app, one an hour, one a minute, the busiest app.
const RARE: f64 = 1.0;
const HOURLY: f64 = 24.0;
pub(super) const MINUTELY: f64 = 1440.0;
const BUSIEST: f64 = 1e8;

/// Lognormal execution time: log-mean and sigma, in seconds; cut at the end.
const DURATION: (f64, f64) = (-0.38, 2.36);
const DURATION_S_MAX: f64 = 60.0;
/// Burr memory: c, k, lambda in MB; cut at the most that a function could get.
const MEMORY: (f64, f64, f64) = (11.652, 0.221, 107.083);
const MEMORY_MIB_MAX: f64 = 1536.0;
/// Share of apps whose pauses vary more than those of a Poisson process.
const BURSTY_SHARE: f64 = 0.40;

/// What calls a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// A request.
    Http,
    /// A message.
    Queue,
    /// An event of another service.
    Event,
    /// A clock.
    Timer,
    /// Another function.
    Orchestration,
    /// Anything else.
    Other,
}

/// Trigger, % of functions, % of invocations.
const TRIGGERS: [(Trigger, f64, f64); 6] = [
    (Trigger::Http, 55.0, 36.0),
    (Trigger::Queue, 15.2, 33.5),
    (Trigger::Event, 2.2, 24.7),
    (Trigger::Timer, 15.6, 2.0),
    (Trigger::Orchestration, 7.0, 2.0),
    (Trigger::Other, 5.0, 1.0),
];

/// One function.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Name, `azure-0` and on.
    pub name: String,
    /// The app it is part of.
    pub app: usize,
    /// Calls a day, on average.
    pub per_day: f64,
    /// What calls it.
    pub trigger: Trigger,
    /// Coefficient of variation of the pauses between calls; 0 for timers.
    pub cv: f64,
    /// Execution time, in seconds.
    pub duration_s: f64,
    /// Memory, in MiB.
    pub memory_mib: f64,
}

/// Draws `count` functions; the last app may be cut short.
pub(super) fn functions(count: usize, seed: u64) -> Vec<Function> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let sizes = app_sizes(count, &mut rng);
    let rates: Vec<f64> = strata(sizes.len(), &mut rng).into_iter().map(app_per_day).collect();
    let memory: Vec<f64> = strata(sizes.len(), &mut rng).into_iter().map(memory_mib).collect();
    let durations = durations(count, &mut rng);
    let mut functions = Vec::with_capacity(count);
    for (app, ((size, per_day), memory_mib)) in sizes.into_iter().zip(rates).zip(memory).enumerate() {
        // The functions of an app share its calls as 1, 1/2, 1/3, …
        let whole: f64 = (1..=size).map(|k| 1.0 / k as f64).sum();
        for k in 1..=size {
            let number = functions.len();
            functions.push(Function {
                name: format!("azure-{number}"),
                app,
                per_day: per_day / k as f64 / whole,
                trigger: Trigger::Other,
                cv: 0.0,
                duration_s: durations.get(number).copied().unwrap_or_default(),
                memory_mib,
            });
        }
    }
    triggers(&mut functions, &mut rng);
    for function in functions.iter_mut().filter(|f| f.trigger != Trigger::Timer) {
        function.cv = variation(&mut rng);
    }
    functions
}

/// Cuts the busiest functions to one common rate, so that all together have `per_day_max`.
pub(super) fn cut(functions: &mut [Function], per_day_max: f64) {
    let total = |cap: f64| functions.iter().map(|f| f.per_day.min(cap)).sum::<f64>();
    if total(f64::INFINITY) <= per_day_max {
        return;
    }
    let cap = bisect(0.0, BUSIEST, |cap| total(cap) > per_day_max);
    for function in functions {
        function.per_day = function.per_day.min(cap);
    }
}

/// One value from each n-th part of 0 to 1, in random order.
fn strata(count: usize, rng: &mut ChaCha12Rng) -> Vec<f64> {
    let mut values: Vec<f64> = (0..count).map(|n| (n as f64 + rng.random::<f64>()) / count as f64).collect();
    values.shuffle(rng);
    values
}

/// Functions per app: 54 % have one, 95 % up to 10, all but 0.04 % up to 100.
fn app_sizes(count: usize, rng: &mut ChaCha12Rng) -> Vec<usize> {
    let mut sizes = Vec::new();
    let mut left = count;
    while left > 0 {
        let place: f64 = rng.random();
        let size = match place {
            p if p < 0.54 => 1.0,
            p if p < 0.95 => log_between(2.0, 11.0, (p - 0.54) / 0.41),
            p if p < 0.9996 => log_between(11.0, 101.0, (p - 0.95) / 0.0496),
            p => log_between(101.0, 1001.0, (p - 0.9996) / 0.0004),
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 1,000")]
        let size = (size as usize).min(left);
        sizes.push(size);
        left -= size;
    }
    sizes
}

/// Returns the calls a day of the app at `place` of all, by quantile: log-uniform
/// up to one a minute, above it a Pareto tail up to [`BUSIEST`].
fn app_per_day(place: f64) -> f64 {
    if place < HOURLY_SHARE {
        return log_between(RARE, HOURLY, place / HOURLY_SHARE);
    }
    if place < MINUTELY_SHARE {
        return log_between(HOURLY, MINUTELY, (place - HOURLY_SHARE) / (MINUTELY_SHARE - HOURLY_SHARE));
    }
    let alpha = tail_alpha();
    let place = (place - MINUTELY_SHARE) / (1.0 - MINUTELY_SHARE);
    let kept = 1.0 - (MINUTELY / BUSIEST).powf(alpha);
    MINUTELY * (1.0 - place * kept).powf(-1.0 / alpha)
}

/// Returns the exponent with which the tail makes [`TOP_INVOCATIONS`] of all calls.
fn tail_alpha() -> f64 {
    let log_mean = |from: f64, to: f64| (to - from) / (to / from).ln();
    let below = HOURLY_SHARE * log_mean(RARE, HOURLY) + (MINUTELY_SHARE - HOURLY_SHARE) * log_mean(HOURLY, MINUTELY);
    let needed = below * TOP_INVOCATIONS / (1.0 - TOP_INVOCATIONS) / (1.0 - MINUTELY_SHARE);
    // The mean of a Pareto distribution that is cut at both ends falls with its exponent.
    let mean = |alpha: f64| {
        let kept = 1.0 - (MINUTELY / BUSIEST).powf(alpha);
        let whole = MINUTELY.powf(1.0 - alpha) - BUSIEST.powf(1.0 - alpha);
        MINUTELY.powf(alpha) / kept * alpha / (alpha - 1.0) * whole
    };
    bisect(0.01, 0.99, |alpha| mean(alpha) < needed)
}

/// Returns where `above` turns from false to true.
fn bisect(mut low: f64, mut high: f64, above: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if above(middle) { high = middle } else { low = middle }
    }
    low
}

fn log_between(from: f64, to: f64, place: f64) -> f64 {
    from * (to / from).powf(place)
}

fn memory_mib(place: f64) -> f64 {
    let (c, k, lambda) = MEMORY;
    let megabytes = lambda * ((1.0 - place).powf(-1.0 / k) - 1.0).powf(1.0 / c);
    (megabytes * 1e6 / f64::from(1 << 20)).clamp(1.0, MEMORY_MIB_MAX)
}

fn durations(count: usize, rng: &mut ChaCha12Rng) -> Vec<f64> {
    let (mean, sigma) = DURATION;
    let Ok(lognormal) = LogNormal::new(mean, sigma) else { return Vec::new() };
    (0..count).map(|_| f64::min(lognormal.sample(rng), DURATION_S_MAX)).collect()
}

/// Gives triggers such that both published columns come out: functions above
/// one call a minute, which make nearly all calls, follow the column of
/// invocations, and the others make up the column of functions.
fn triggers(functions: &mut [Function], rng: &mut ChaCha12Rng) {
    let top = functions.iter().filter(|f| f.per_day > MINUTELY).count() as f64 / functions.len().max(1) as f64;
    let low = TRIGGERS.map(|(trigger, of_functions, of_calls)| (trigger, f64::max(of_functions - of_calls * top, 0.0)));
    let high = TRIGGERS.map(|(trigger, _, of_calls)| (trigger, of_calls));
    for function in functions {
        let weights = if function.per_day > MINUTELY { &high } else { &low };
        let whole: f64 = weights.iter().map(|(_, w)| w).sum();
        let mut place = rng.random::<f64>() * whole;
        let found = weights.iter().find(|(_, weight)| {
            place -= weight;
            place < 0.0
        });
        function.trigger = found.map_or(Trigger::Other, |(trigger, _)| *trigger);
    }
}

/// Draws the variation of a function that is no timer: 1 to 4 as often as makes
/// [`BURSTY_SHARE`] of all, else 0.3 to 1.
fn variation(rng: &mut ChaCha12Rng) -> f64 {
    let timers = TRIGGERS.iter().filter(|t| t.0 == Trigger::Timer).map(|t| t.1).sum::<f64>() / 100.0;
    if rng.random::<f64>() < BURSTY_SHARE / (1.0 - timers) {
        rng.random_range(1.0..4.0)
    } else {
        rng.random_range(0.3..1.0)
    }
}
