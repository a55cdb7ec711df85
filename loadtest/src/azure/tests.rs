//! The published figures come out of a large sample, and a trace is one for a seed.

use std::collections::BTreeMap;

use super::draw::MINUTELY;
use super::*;

const SAMPLE: usize = 200_000;

fn sample() -> &'static [Function] {
    static SAMPLE_OF_ALL: std::sync::OnceLock<Vec<Function>> = std::sync::OnceLock::new();
    SAMPLE_OF_ALL.get_or_init(|| draw::functions(SAMPLE, 1))
}

fn apps(functions: &[Function]) -> Vec<(usize, f64)> {
    let mut apps: BTreeMap<usize, (usize, f64)> = BTreeMap::new();
    for function in functions {
        let app = apps.entry(function.app).or_default();
        app.0 += 1;
        app.1 += function.per_day;
    }
    apps.into_values().collect()
}

fn share<T>(all: &[T], is: impl Fn(&T) -> bool) -> f64 {
    all.iter().filter(|x| is(x)).count() as f64 / all.len() as f64
}

fn near(what: &str, found: f64, published: f64, tolerance: f64) {
    assert!((found - published).abs() <= tolerance, "{what}: {found:.4}, published {published} (±{tolerance})");
}

#[test]
fn rates_of_apps_are_the_published_ones() {
    let apps = apps(sample());
    near("at most hourly", share(&apps, |a| a.1 <= 24.0), 0.45, 0.005);
    near("at most once a minute", share(&apps, |a| a.1 <= MINUTELY * 1.000_001), 0.814, 0.005);
    let all: f64 = apps.iter().map(|a| a.1).sum();
    let top: f64 = apps.iter().map(|a| a.1).filter(|r| *r > MINUTELY * 1.000_001).sum();
    near("invocations of the busiest 18.6 %", top / all, 0.996, 0.0005);
    let (rarest, busiest) = apps.iter().fold((f64::MAX, 0.0), |(l, h), a| (f64::min(l, a.1), f64::max(h, a.1)));
    assert!(busiest / rarest > 1e7 && busiest <= 1e8 * 1.000_001, "{rarest} to {busiest} span near 8 orders");
}

#[test]
fn the_shape_of_rates_holds_in_a_sample_of_a_thousand() {
    for seed in 0..20 {
        let apps = apps(&draw::functions(1000, seed));
        near("at most hourly", share(&apps, |a| a.1 <= 24.0), 0.45, 0.01);
        near("at most once a minute", share(&apps, |a| a.1 <= MINUTELY * 1.000_001), 0.814, 0.01);
        let all: f64 = apps.iter().map(|a| a.1).sum();
        let top: f64 = apps.iter().map(|a| a.1).filter(|r| *r > MINUTELY * 1.000_001).sum();
        // The few busiest of so few apps decide; the published share is met in the large sample.
        near("invocations of the busiest", top / all, 0.985, 0.015);
    }
}

#[test]
fn apps_have_the_published_numbers_of_functions() {
    let apps = apps(sample());
    near("one function", share(&apps, |a| a.0 == 1), 0.54, 0.01);
    near("up to ten", share(&apps, |a| a.0 <= 10), 0.95, 0.005);
    near("more than a hundred", share(&apps, |a| a.0 > 100), 0.0004, 0.0003);
}

#[test]
fn triggers_have_both_published_columns() {
    let functions = sample();
    let all: f64 = functions.iter().map(|f| f.per_day).sum();
    for (trigger, of_functions, of_calls) in [
        (Trigger::Http, 0.55, 0.36),
        (Trigger::Queue, 0.152, 0.335),
        (Trigger::Event, 0.022, 0.247),
        (Trigger::Timer, 0.156, 0.02),
        (Trigger::Orchestration, 0.07, 0.02),
        (Trigger::Other, 0.05, 0.01),
    ] {
        near(&format!("{trigger:?}, functions"), share(functions, |f| f.trigger == trigger), of_functions, 0.01);
        let calls: f64 = functions.iter().filter(|f| f.trigger == trigger).map(|f| f.per_day).sum();
        // A few functions make most calls, so that the shares vary from sample to sample.
        near(&format!("{trigger:?}, invocations"), calls / all, of_calls, 0.08);
    }
    let timers: Vec<_> = functions.iter().filter(|f| f.trigger == Trigger::Timer).collect();
    let slow = share(&timers, |f| f.per_day <= MINUTELY);
    assert!(slow >= 0.95, "{slow} of the timers fire at most once a minute");
    assert!(timers.iter().all(|f| f.cv == 0.0));
}

#[test]
fn pauses_vary_more_than_poisson_for_two_fifths() {
    near("cv above 1", share(sample(), |f| f.cv > 1.0), 0.40, 0.01);
    assert!(sample().iter().all(|f| f.cv == 0.0 || (0.3..4.0).contains(&f.cv)));
}

#[test]
fn execution_times_are_lognormal_and_cut() {
    let functions = sample();
    // The distribution itself: its median is e^-0.38 s, and 97.1 % are below a minute (published: 96 %).
    near("below the median", share(functions, |f| f.duration_s < (-0.38_f64).exp()), 0.5, 0.005);
    near("below a minute", share(functions, |f| f.duration_s < 60.0), 0.971, 0.005);
    near("below a second", share(functions, |f| f.duration_s < 1.0), 0.564, 0.005);
    let logs: Vec<f64> = functions.iter().map(|f| f.duration_s.ln()).filter(|l| *l < -0.38).collect();
    // Half of the bell: its root mean square about the middle is sigma.
    let sigma = (logs.iter().map(|l| (l + 0.38).powi(2)).sum::<f64>() / logs.len() as f64).sqrt();
    near("sigma", sigma, 2.36, 0.03);
}

#[test]
fn memory_is_burr() {
    let mut memory: Vec<f64> = sample().iter().map(|f| f.memory_mib * 1.048_576).collect();
    memory.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index within the length")]
    let at = |share: f64| memory[(share * memory.len() as f64) as usize];
    // The quantiles of Burr (11.652, 0.221, 107.083); published maxima are 170 MB at half and 400 MB at 90 %.
    near("median", at(0.5), 139.6, 3.0);
    near("90 %", at(0.9), 261.8, 10.0);
    assert!(at(0.5) <= 170.0 && at(0.9) <= 400.0);
}

fn shape(functions: usize, seconds: u64, speedup: f64, rate_max: Option<f64>) -> Shape {
    let seconds = Duration::from_secs(seconds);
    Shape { functions, seconds, speedup, rate_max, memory_divide: 64.0, settings: toml::Table::new() }
}

#[test]
fn a_trace_is_one_for_a_seed_sorted_and_within_its_rate() {
    let shape = shape(200, 60, 60.0, Some(100.0));
    let plan = |seed| shape.population(seed).unwrap().plan();
    assert_eq!(plan(7).digest(), plan(7).digest());
    assert_ne!(plan(7).digest(), plan(8).digest());
    let plan = plan(7);
    assert!(plan.shots.is_sorted_by_key(|s| s.at) && plan.shots.iter().all(|s| s.at < shape.seconds));
    let rate = plan.shots.len() as f64 / 60.0;
    assert!((rate - 100.0).abs() < 25.0, "{rate} requests a second");
    assert!(plan.shots.iter().all(|s| s.asked_us >= 1 && s.asked_us <= 1_000_000), "60 s at 60 times the speed");
    assert!(plan.routes[0].path_of(1, 2500).ends_with("sleep_us=2500"), "{}", plan.routes[0].path_of(1, 2500));
}

#[test]
fn a_cut_touches_only_the_busiest() {
    let whole = shape(1000, 60, 60.0, None).population(3).unwrap().functions;
    let cut = shape(1000, 60, 60.0, Some(200.0)).population(3).unwrap();
    near("rate", cut.rate(), 200.0, 0.01);
    let cap = cut.functions.iter().map(|f| f.per_day).fold(0.0, f64::max);
    for (before, after) in whole.iter().zip(&cut.functions) {
        assert!(after.per_day == before.per_day.min(cap), "{} became {}", before.per_day, after.per_day);
    }
    assert!(shape(10, 60, 60.0, Some(1e9)).population(3).unwrap().rate() < 1e9, "no rate is raised");
}

#[test]
fn a_shape_out_of_bounds_is_refused_by_name() {
    let refused = |shape: Shape| shape.check().unwrap_err().to_string();
    assert!(refused(shape(0, 1, 1.0, None)).contains("functions is 0"));
    assert!(refused(shape(FUNCTIONS_MAX + 1, 1, 1.0, None)).contains("functions is 20001"));
    assert!(refused(shape(1, 0, 1.0, None)).contains("seconds"));
    assert!(refused(shape(1, 1, 0.0, None)).contains("speedup"));
    assert!(refused(shape(1, 1, 1.0, Some(-1.0))).contains("rate_max"));
    assert!(shape(FUNCTIONS_MAX, 1, 1.0, None).check().is_ok());
    let huge = shape(20_000, 100_000, 1000.0, None).population(1).unwrap_err().to_string();
    assert!(huge.contains("rate_max"), "{huge}");
}
