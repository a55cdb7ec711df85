//! Results side by side: medians with their range, and ratios within each round.

use std::fmt::Write;

use crate::outcome::Outcome;

type Value = fn(&Outcome) -> Option<f64>;

/// What is compared; a value that an outcome does not have is left out.
const ROWS: [(&str, Value); 12] = [
    ("good/s", |o| Some(o.good_per_second)),
    ("failed", |o| Some(o.failed() as f64)),
    ("p50 us", |o| positive(o.total.latency.p50_us as f64)),
    ("p90 us", |o| positive(o.total.latency.p90_us as f64)),
    ("p99 us", |o| positive(o.total.latency.p99_us as f64)),
    ("p99.9 us", |o| positive(o.total.latency.p999_us as f64)),
    ("max us", |o| positive(o.total.latency.max_us as f64)),
    ("cold starts", |o| Some(o.total.cold_starts as f64)),
    ("CPU us/request", |o| o.server.as_ref().map(|s| s.cpu_us_per_request)),
    ("peak RSS MiB", |o| o.server.as_ref().map(|s| s.resident_bytes_peak as f64 / f64::from(1 << 20))),
    ("capacity/s", |o| o.capacity_per_second),
    ("generator lag p99 us", |o| Some(o.generator.lag.p99_us as f64)),
];

fn positive(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}

/// The median and the range of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Smallest.
    pub low: f64,
    /// Median; of an even number the mean of the two in the middle.
    pub middle: f64,
    /// Largest.
    pub high: f64,
}

impl Spread {
    /// Returns the spread of `values`, none when there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let upper = *values.get(half)?;
        let middle = if values.len() % 2 == 1 { upper } else { f64::midpoint(*values.get(half - 1)?, upper) };
        Some(Self { low, middle, high })
    }
}

/// Prints the outcomes of targets, `runs[target][round]`, and ratios to the first target.
#[must_use]
pub fn table(names: &[String], runs: &[Vec<Outcome>]) -> String {
    let mut text = warnings(runs);
    let width = names.iter().map(|n| n.chars().count()).max().unwrap_or_default().max(22);
    for (row, value) in ROWS {
        if runs.iter().flatten().all(|o| value(o).is_none()) {
            continue;
        }
        writeln!(text, "{row}").ok();
        for (number, (name, outcomes)) in names.iter().zip(runs).enumerate() {
            let Some(spread) = Spread::of(outcomes.iter().filter_map(value)) else { continue };
            write!(
                text,
                "  {name:<width$} {:>12} ({}-{})",
                short(spread.middle),
                short(spread.low),
                short(spread.high)
            )
            .ok();
            let first = runs.first().filter(|_| number > 0);
            if let Some(ratio) = first.and_then(|f| Spread::of(ratios(outcomes, f, value))) {
                let range = format!("({:.2}-{:.2})", ratio.low, ratio.high);
                write!(text, "   {:.2}x {range}", ratio.middle).ok();
            }
            text.push('\n');
        }
    }
    text
}

/// Ratios within each round: what the machine did to one target in a round it did to the other, too.
fn ratios(outcomes: &[Outcome], first: &[Outcome], value: Value) -> Vec<f64> {
    let pairs = outcomes.iter().zip(first).filter_map(|(o, f)| Some((value(o)?, value(f)?)));
    pairs.filter(|(_, first)| *first != 0.0).map(|(own, first)| own / first).collect()
}

fn warnings(runs: &[Vec<Outcome>]) -> String {
    let mut text = String::new();
    let all: Vec<_> = runs.iter().flatten().collect();
    let differs = |value: fn(&Outcome) -> String| all.windows(2).any(|w| matches!(w, [a, b] if value(a) != value(b)));
    if differs(|o| o.scenario_digest.clone()) {
        text.push_str("warning: the scenarios differ\n");
    }
    if differs(|o| format!("{} {} {}", o.machine.cpu, o.machine.cores, o.machine.kernel)) {
        text.push_str("warning: the machines differ\n");
    }
    for (outcome, flag) in all.iter().flat_map(|o| o.generator.flags.iter().map(move |f| (o, f))) {
        writeln!(text, "warning: {}: {flag}", outcome.target).ok();
    }
    text
}

fn short(value: f64) -> String {
    if value.abs() >= 100.0 || value == value.trunc() { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::tests::example;

    fn outcome(good_per_second: f64) -> Outcome {
        Outcome { good_per_second, ..example() }
    }

    #[test]
    fn ratios_are_those_within_a_round() {
        let runs = vec![vec![outcome(100.0), outcome(200.0)], vec![outcome(200.0), outcome(300.0)]];
        let text = table(&["a".into(), "b".into()], &runs);
        let line = text.lines().find(|l| l.trim_start().starts_with("b ")).unwrap();
        assert!(line.contains("250 (200-300)   1.75x (1.50-2.00)"), "{text}");
    }

    #[test]
    fn doubtful_and_unlike_results_are_told() {
        let other = Outcome { scenario_digest: "other".into(), ..example() };
        let text = table(&["a".into(), "b".into()], &[vec![example()], vec![other]]);
        assert!(text.contains("the scenarios differ") && text.contains("warning: faas: late"), "{text}");
        assert!(!text.contains("the machines differ"), "{text}");
    }

    #[test]
    fn a_spread_has_the_median_of_odd_and_even_numbers() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { low: 1.0, middle: 2.0, high: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { low: 1.0, middle: 2.5, high: 4.0 }));
    }
}
