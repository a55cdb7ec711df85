//! What other ways to keep instances would have cost on the same trace, computed exactly.
//!
//! A function has one instance, which takes any number of calls at once; a call
//! that finds none starts it cold. Memory counts from the start to the end.

use serde::{Deserialize, Serialize};

/// The calls of one function.
#[derive(Debug, Clone, PartialEq)]
pub struct Life {
    /// Memory of its instance.
    pub memory_mib: f64,
    /// Begin and end of each call in seconds, ascending by begin.
    pub calls: Vec<(f64, f64)>,
}

/// What keeping instances cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Calls that started an instance.
    pub cold_starts: u64,
    /// The same over all calls.
    pub cold_share: f64,
    /// Seconds of instances.
    pub instance_seconds: f64,
    /// Seconds of instances times the memory their functions have in the trace.
    pub instance_mib_seconds: f64,
}

/// A platform beside a fixed keep-alive and beside one that knows the future.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Economy {
    /// Calls of the trace.
    pub calls: u64,
    /// The platform, as measured; none when it was not started for the run.
    pub platform: Option<Cost>,
    /// Memory that the platform really took beyond that at the begin, times its seconds.
    pub platform_resident_mib_seconds: Option<f64>,
    /// Ten minutes for every instance, by simulation.
    pub fixed_ten_minutes: Cost,
    /// Fewest cold starts, over all calls, that any choice could have with the memory of the fixed one.
    pub oracle_cold_share_at_fixed_memory: f64,
    /// Least memory with which any choice could have the cold starts of the fixed one.
    pub oracle_mib_seconds_at_fixed_cold_starts: f64,
    /// Fewest cold starts, over all calls, that any choice could have with the memory of the platform.
    pub oracle_cold_share_at_platform_memory: Option<f64>,
}

/// A stretch in which a function has at least one call.
struct Busy {
    begin: f64,
    end: f64,
}

impl Life {
    fn busy(&self) -> Vec<Busy> {
        let mut stretches: Vec<Busy> = Vec::new();
        for (begin, end) in &self.calls {
            match stretches.last_mut() {
                Some(last) if *begin <= last.end => last.end = last.end.max(*end),
                _ => stretches.push(Busy { begin: *begin, end: *end }),
            }
        }
        stretches
    }
}

/// Returns the calls of all.
#[must_use]
pub fn calls(lives: &[Life]) -> u64 {
    lives.iter().map(|l| l.calls.len() as u64).sum()
}

/// Returns the share that `cold_starts` have in the calls of all.
#[must_use]
pub fn cold_share(lives: &[Life], cold_starts: u64) -> f64 {
    cold_starts as f64 / calls(lives).max(1) as f64
}

/// Simulates instances that are kept `keep_s` after their last call, until `horizon_s` at most.
#[must_use]
pub fn fixed(lives: &[Life], keep_s: f64, horizon_s: f64) -> Cost {
    let mut cost = Cost::default();
    for life in lives {
        let mut seconds = 0.0;
        let busy = life.busy();
        for (number, stretch) in busy.iter().enumerate() {
            let until = busy.get(number + 1).map_or_else(|| horizon_s.max(stretch.end), |next| next.begin);
            seconds += (stretch.end + keep_s).min(until) - stretch.begin;
            // An instance that ends at the very moment of a call was there for it.
            let warm = number > 0 && busy.get(number - 1).is_some_and(|b| stretch.begin <= b.end + keep_s);
            cost.cold_starts += u64::from(!warm);
        }
        cost.instance_seconds += seconds;
        cost.instance_mib_seconds += seconds * life.memory_mib;
    }
    cost.cold_share = cold_share(lives, cost.cold_starts);
    cost
}

/// What a choice that knows the future can do: each pause between two calls is
/// either bridged, which costs its memory and saves one cold start, or not. All
/// save the same, so the cheapest pauses first is optimal.
#[derive(Debug, Clone)]
pub struct Oracle {
    /// Memory of the calls themselves, which nobody can save.
    base_mib_seconds: f64,
    /// Cold starts when no pause is bridged.
    cold_starts_max: u64,
    /// What bridging costs, ascending.
    pauses: Vec<f64>,
}

impl Oracle {
    /// Looks at a whole trace.
    #[must_use]
    pub fn of(lives: &[Life]) -> Self {
        let mut oracle = Self { base_mib_seconds: 0.0, cold_starts_max: 0, pauses: Vec::new() };
        for life in lives {
            let busy = life.busy();
            oracle.base_mib_seconds += busy.iter().map(|b| (b.end - b.begin) * life.memory_mib).sum::<f64>();
            oracle.cold_starts_max += busy.len() as u64;
            let pauses = busy.iter().zip(busy.iter().skip(1));
            oracle.pauses.extend(pauses.map(|(a, b)| (b.begin - a.end) * life.memory_mib));
        }
        oracle.pauses.sort_by(f64::total_cmp);
        oracle
    }

    /// Returns the fewest cold starts with so much memory.
    #[must_use]
    pub fn cold_starts(&self, mib_seconds: f64) -> u64 {
        let mut left = mib_seconds - self.base_mib_seconds;
        let bridged = self.pauses.iter().take_while(|pause| {
            left -= **pause;
            left >= 0.0
        });
        self.cold_starts_max - bridged.count() as u64
    }

    /// Returns the least memory with at most so many cold starts; all that can be saved when they are fewer than possible.
    #[must_use]
    pub fn mib_seconds(&self, cold_starts: u64) -> f64 {
        let bridged = usize::try_from(self.cold_starts_max.saturating_sub(cold_starts)).unwrap_or(usize::MAX);
        self.base_mib_seconds + self.pauses.iter().take(bridged).sum::<f64>()
    }
}

/// Puts a platform beside the others.
#[must_use]
pub fn economy(lives: &[Life], keep_s: f64, horizon_s: f64, platform: Option<Cost>) -> Economy {
    let oracle = Oracle::of(lives);
    let fixed = fixed(lives, keep_s, horizon_s);
    let share = |mib_seconds: f64| cold_share(lives, oracle.cold_starts(mib_seconds));
    Economy {
        calls: calls(lives),
        platform,
        platform_resident_mib_seconds: None,
        fixed_ten_minutes: fixed,
        oracle_cold_share_at_fixed_memory: share(fixed.instance_mib_seconds),
        oracle_mib_seconds_at_fixed_cold_starts: oracle.mib_seconds(fixed.cold_starts),
        oracle_cold_share_at_platform_memory: platform.map(|p| share(p.instance_mib_seconds)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn life(memory_mib: f64, calls: &[(f64, f64)]) -> Life {
        Life { memory_mib, calls: calls.to_vec() }
    }

    #[test]
    fn a_small_trace_costs_what_a_hand_computes() {
        // Calls at 0-1, 5-6 (overlapped by 5.5-7) and 20-21; kept for 5 s until 22.
        let lives = [life(10.0, &[(0.0, 1.0), (5.0, 6.0), (5.5, 7.0), (20.0, 21.0)])];
        let cost = fixed(&lives, 5.0, 22.0);
        // 0 to 12, then 20 to 22 instead of 26.
        assert_eq!((cost.cold_starts, cost.instance_seconds, cost.instance_mib_seconds), (2, 14.0, 140.0));
        assert_eq!(cost.cold_share, 0.5);
        let oracle = Oracle::of(&lives);
        assert_eq!(oracle.base_mib_seconds, 40.0);
        assert_eq!((oracle.cold_starts(40.0), oracle.cold_starts(79.9), oracle.cold_starts(80.0)), (3, 3, 2));
        assert_eq!((oracle.cold_starts(209.9), oracle.cold_starts(210.0)), (2, 1));
        assert_eq!((oracle.mib_seconds(3), oracle.mib_seconds(2), oracle.mib_seconds(0)), (40.0, 80.0, 210.0));
    }

    #[test]
    fn a_call_at_the_very_end_of_an_instance_is_warm() {
        let lives = [life(1.0, &[(0.0, 1.0), (6.0, 7.0)])];
        assert_eq!(fixed(&lives, 5.0, 100.0).cold_starts, 1);
        assert_eq!(fixed(&lives, 4.999, 100.0).cold_starts, 2);
        assert_eq!(fixed(&[], 5.0, 100.0), Cost::default());
    }

    fn lives() -> impl Strategy<Value = Vec<Life>> {
        let calls = prop::collection::vec((0.0..100.0f64, 0.0..5.0f64), 0..12);
        let life = (1.0..200.0f64, calls).prop_map(|(memory_mib, mut calls)| {
            calls.sort_by(|a, b| a.0.total_cmp(&b.0));
            Life { memory_mib, calls: calls.into_iter().map(|(at, took)| (at, at + took)).collect() }
        });
        prop::collection::vec(life, 0..6)
    }

    proptest! {
        #[test]
        fn the_oracle_is_never_worse_than_any_fixed_keep_alive(lives in lives(), keep in 0.0..50.0f64) {
            let (cost, oracle) = (fixed(&lives, keep, 200.0), Oracle::of(&lives));
            prop_assert!(oracle.cold_starts(cost.instance_mib_seconds + 1e-6) <= cost.cold_starts);
            prop_assert!(oracle.mib_seconds(cost.cold_starts) <= cost.instance_mib_seconds + 1e-6);
            prop_assert!(cost.cold_starts <= calls(&lives));
        }

        #[test]
        fn keeping_longer_never_starts_more_and_never_costs_less(lives in lives(), keep in 0.0..50.0f64, more in 0.0..50.0f64) {
            let (short, long) = (fixed(&lives, keep, 300.0), fixed(&lives, keep + more, 300.0));
            prop_assert!(long.cold_starts <= short.cold_starts);
            prop_assert!(long.instance_seconds >= short.instance_seconds - 1e-9);
        }
    }
}
