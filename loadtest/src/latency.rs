//! Latencies in a histogram: microseconds, never more than an hour, three digits (or two for one of many routes).

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency that is told apart from longer ones, in microseconds.
pub const LATENCY_US_MAX: u64 = 3_600_000_000;

/// A histogram of latencies.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

/// What a histogram says, in microseconds. All zero when it is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Values.
    pub count: u64,
    /// Mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: u64,
    /// 90 of 100 are not above.
    pub p90_us: u64,
    /// 99 of 100 are not above.
    pub p99_us: u64,
    /// 999 of 1,000 are not above.
    pub p999_us: u64,
    /// Largest.
    pub max_us: u64,
}

impl Latencies {
    /// Returns an empty histogram of `digits` significant digits, 1 to 5.
    ///
    /// # Panics
    /// When the digits are out of bounds.
    #[must_use]
    pub fn new(digits: u8) -> Self {
        let mut histogram = Histogram::new(digits).expect("one to five digits");
        // Grows with its largest value: a thousand routes keep a thousand small ones.
        histogram.auto(true);
        Self(histogram)
    }

    /// Adds a latency; one beyond [`LATENCY_US_MAX`] counts as that.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.record(micros.min(LATENCY_US_MAX)).expect("the histogram grows up to the bound");
    }

    /// Returns the value that `share` (0 to 1) of all are not above, in microseconds.
    #[must_use]
    pub fn quantile_us(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share)
    }

    /// Returns what the histogram says.
    #[must_use]
    pub fn summary(&self) -> Summary {
        if self.0.is_empty() {
            return Summary::default();
        }
        Summary {
            count: self.0.len(),
            mean_us: (self.0.mean() * 10.0).round() / 10.0,
            p50_us: self.quantile_us(0.5),
            p90_us: self.quantile_us(0.9),
            p99_us: self.quantile_us(0.99),
            p999_us: self.quantile_us(0.999),
            max_us: self.0.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The value at 1-based rank ⌈share × n⌉ of the sorted values.
    fn exact(sorted: &[u64], share: f64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank within the length")]
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1]
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_an_exact_sort_within_the_digits(
            mut values in prop::collection::vec(0u64..LATENCY_US_MAX, 1..500),
        ) {
            let mut latencies = Latencies::new(3);
            for value in &values {
                latencies.record(Duration::from_micros(*value));
            }
            values.sort_unstable();
            let summary = latencies.summary();
            for (share, found) in
                [(0.5, summary.p50_us), (0.9, summary.p90_us), (0.99, summary.p99_us), (0.999, summary.p999_us), (1.0, summary.max_us)]
            {
                let exact = exact(&values, share);
                prop_assert!(found >= exact && found as f64 <= exact as f64 * 1.001 + 1.0, "{share}: {found} for {exact}");
            }
            prop_assert_eq!(summary.count, values.len() as u64);
        }
    }

    #[test]
    fn an_empty_histogram_is_all_zero_and_a_huge_value_is_the_bound() {
        let mut latencies = Latencies::new(3);
        assert_eq!(latencies.summary(), Summary::default());
        latencies.record(Duration::MAX);
        assert_eq!(latencies.summary().count, 1);
        assert!(latencies.summary().max_us.abs_diff(LATENCY_US_MAX) < LATENCY_US_MAX / 1000);
    }
}
