//! When requests are sent: a schedule that is known before the first one is.
//!
//! Times come from a seed alone, never from answers: the generator is an open loop.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, Exp1, Gamma};
use serde::{Deserialize, Deserializer};

/// Most requests of one schedule; more do not fit the memory of a test machine.
pub const ARRIVALS_MAX: usize = 20_000_000;

/// Requests per second: a number, or a multiple of the measured capacity written `"3x"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Per second.
    PerSecond(f64),
    /// Times what the target did in the calibration.
    OfCapacity(f64),
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(f64),
            Text(String),
        }
        let rate = match Written::deserialize(deserializer)? {
            Written::Number(rate) => Some(Self::PerSecond(rate)),
            Written::Text(text) => text.strip_suffix('x').and_then(|n| n.parse().ok()).map(Self::OfCapacity),
        };
        match rate {
            Some(rate) if rate.number().is_finite() && rate.number() > 0.0 => Ok(rate),
            _ => Err(serde::de::Error::custom("a rate is a number above 0, or a multiple of capacity such as \"3x\"")),
        }
    }
}

impl Rate {
    fn number(self) -> f64 {
        match self {
            Self::PerSecond(n) | Self::OfCapacity(n) => n,
        }
    }

    /// Returns requests per second, given the measured capacity.
    ///
    /// # Errors
    /// When the rate is a multiple of a capacity that was not measured.
    pub fn per_second(self, capacity: Option<f64>) -> Result<f64> {
        match (self, capacity) {
            (Self::PerSecond(rate), _) => Ok(rate),
            (Self::OfCapacity(times), Some(capacity)) => Ok(times * capacity),
            (Self::OfCapacity(times), None) => {
                bail!("rate \"{times}x\" needs a measured capacity: add a [calibrate] table to the scenario")
            }
        }
    }
}

/// How requests arrive during one phase.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Arrivals {
    /// One every `1/rate` seconds.
    Constant {
        /// Requests per second.
        rate: Rate,
    },
    /// Independent clients.
    Poisson {
        /// Requests per second, on average.
        rate: Rate,
    },
    /// Pauses drawn from a gamma distribution: steadier than Poisson below `cv` 1, burstier above.
    Gamma {
        /// Requests per second, on average.
        rate: Rate,
        /// Coefficient of variation of the pauses; 0 is constant, 1 is Poisson.
        cv: f64,
    },
    /// Independent clients whose number changes evenly.
    Ramp {
        /// Requests per second at the begin.
        from: Rate,
        /// Requests per second at the end.
        to: Rate,
    },
    /// Many at the same moment.
    Burst {
        /// Requests at once.
        count: usize,
        /// Pause between two bursts; without it there is one, at the begin.
        #[serde(default, with = "crate::scenario::time::optional")]
        every: Option<Duration>,
    },
    /// The times of a file: one line a request, milliseconds after the begin of
    /// the phase, then optionally a comma and the name of the request.
    Trace {
        /// The file, relative to the scenario.
        file: PathBuf,
    },
}

impl Arrivals {
    /// Returns the times after the phase's begin, ascending and below `length`, of everything but a trace.
    ///
    /// # Errors
    /// When there are too many, or a capacity is needed and missing.
    pub fn schedule(&self, length: Duration, capacity: Option<f64>, rng: &mut ChaCha12Rng) -> Result<Vec<Duration>> {
        let seconds = length.as_secs_f64();
        let times = match self {
            Self::Constant { rate } => renewals(rate.per_second(capacity)?, 0.0, seconds, rng)?,
            Self::Poisson { rate } => renewals(rate.per_second(capacity)?, 1.0, seconds, rng)?,
            Self::Gamma { rate, cv } => renewals(rate.per_second(capacity)?, *cv, seconds, rng)?,
            Self::Ramp { from, to } => ramp(from.per_second(capacity)?, to.per_second(capacity)?, seconds, rng)?,
            Self::Burst { count, every } => return bursts(*count, *every, length),
            Self::Trace { file } => bail!("the times of {} are read with the scenario", file.display()),
        };
        Ok(times.into_iter().map(Duration::from_secs_f64).collect())
    }
}

/// Returns the times of a stationary renewal process within `0..seconds`.
///
/// The first time is the wait until the next renewal as somebody sees it who
/// comes at a random moment: a uniform part of a length-biased pause.
///
/// # Errors
/// When the expected number is above [`ARRIVALS_MAX`].
pub fn renewals(rate: f64, cv: f64, seconds: f64, rng: &mut ChaCha12Rng) -> Result<Vec<f64>> {
    bound(rate * seconds)?;
    ensure!(cv.is_finite() && (0.0..=100.0).contains(&cv), "cv is {cv}, not a number from 0 to 100");
    let mean = 1.0 / rate;
    let part: f64 = rng.random();
    // Below this the pauses are equal for every clock that could tell.
    if cv < 1e-3 {
        return Ok((0..).map(|n| (part + f64::from(n)) * mean).take_while(|t| *t < seconds).collect());
    }
    let shape = 1.0 / (cv * cv);
    let pause = Gamma::new(shape, mean / shape).context("no gamma distribution")?;
    let biased = Gamma::new(shape + 1.0, mean / shape).context("no gamma distribution")?;
    let mut now = part * biased.sample(rng);
    let mut times = Vec::new();
    while now < seconds {
        ensure!(times.len() < ARRIVALS_MAX, "the schedule has more than {ARRIVALS_MAX} requests");
        times.push(now);
        now += pause.sample(rng);
    }
    Ok(times)
}

/// Returns Poisson times whose rate goes evenly from `from` to `to`: unit steps
/// of the expected count, mapped back to time.
fn ramp(from: f64, to: f64, seconds: f64, rng: &mut ChaCha12Rng) -> Result<Vec<f64>> {
    bound((from + to) / 2.0 * seconds)?;
    let slope = (to - from) / seconds;
    let mut expected = 0.0;
    let mut times = Vec::new();
    loop {
        let step: f64 = Exp1.sample(rng);
        expected += step;
        // The root of from·t + slope·t²/2 = expected that stays exact for a slope near 0.
        let square = from * from + 2.0 * slope * expected;
        let time = if square < 0.0 { f64::INFINITY } else { 2.0 * expected / (from + square.sqrt()) };
        if time >= seconds {
            return Ok(times);
        }
        times.push(time);
    }
}

fn bursts(count: usize, every: Option<Duration>, length: Duration) -> Result<Vec<Duration>> {
    let every = every.unwrap_or(Duration::MAX);
    ensure!(!every.is_zero(), "`every` is 0: a burst needs a pause after it");
    bound(count as f64 * (length.as_secs_f64() / every.as_secs_f64()).ceil())?;
    let begins = std::iter::successors(Some(Duration::ZERO), |t| t.checked_add(every)).take_while(|t| *t < length);
    Ok(begins.flat_map(|begin| std::iter::repeat_n(begin, count)).collect())
}

fn bound(expected: f64) -> Result<()> {
    ensure!(
        expected <= ARRIVALS_MAX as f64,
        "the schedule has about {expected:.0} requests, more than {ARRIVALS_MAX}: lower a rate or a duration"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn rng(seed: u64) -> ChaCha12Rng {
        ChaCha12Rng::seed_from_u64(seed)
    }

    fn schedule(arrivals: &Arrivals, seconds: u64, seed: u64) -> Vec<Duration> {
        arrivals.schedule(Duration::from_secs(seconds), None, &mut rng(seed)).unwrap()
    }

    /// Mean and coefficient of variation of the pauses, in seconds.
    fn pauses(times: &[Duration]) -> (f64, f64) {
        let pauses: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
        let mean = pauses.iter().sum::<f64>() / pauses.len() as f64;
        let variance = pauses.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / pauses.len() as f64;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another() {
        for arrivals in [
            Arrivals::Constant { rate: Rate::PerSecond(50.0) },
            Arrivals::Poisson { rate: Rate::PerSecond(50.0) },
            Arrivals::Gamma { rate: Rate::PerSecond(50.0), cv: 2.5 },
            Arrivals::Ramp { from: Rate::PerSecond(1.0), to: Rate::PerSecond(99.0) },
        ] {
            assert_eq!(schedule(&arrivals, 20, 7), schedule(&arrivals, 20, 7), "{arrivals:?}");
            assert_ne!(schedule(&arrivals, 20, 7), schedule(&arrivals, 20, 8), "{arrivals:?}");
        }
    }

    #[test]
    fn pauses_have_the_asked_mean_and_variation() {
        for (arrivals, cv) in [
            (Arrivals::Constant { rate: Rate::PerSecond(100.0) }, 0.0),
            (Arrivals::Poisson { rate: Rate::PerSecond(100.0) }, 1.0),
            (Arrivals::Gamma { rate: Rate::PerSecond(100.0), cv: 0.4 }, 0.4),
            (Arrivals::Gamma { rate: Rate::PerSecond(100.0), cv: 3.0 }, 3.0),
        ] {
            let times = schedule(&arrivals, 2000, 1);
            assert!(times.is_sorted() && times.last().unwrap() < &Duration::from_secs(2000));
            let (mean, found) = pauses(&times);
            assert!((mean - 0.01).abs() < 0.0005, "{arrivals:?}: mean pause {mean} s");
            assert!((found - cv).abs() < 0.05 + cv * 0.03, "{arrivals:?}: cv {found}");
        }
    }

    #[test]
    fn a_renewal_process_is_stationary_from_its_first_moment() {
        // 20,000 processes of 1 per second, watched for half a second: half of them fire once, however bursty.
        for cv in [0.0, 0.5, 1.0, 2.0] {
            let fired: usize = (0..20_000).map(|seed| renewals(1.0, cv, 0.5, &mut rng(seed)).unwrap().len()).sum();
            assert!((fired as f64 / 20_000.0 - 0.5).abs() < 0.03, "cv {cv}: {fired} of 10,000");
        }
    }

    #[test]
    fn a_ramp_begins_and_ends_at_its_rates() {
        for (from, to) in [(10.0, 1000.0), (1000.0, 10.0), (500.0, 500.0)] {
            let times = schedule(&Arrivals::Ramp { from: Rate::PerSecond(from), to: Rate::PerSecond(to) }, 100, 3);
            let within = |a: u64, b: u64| times.iter().filter(|t| (a..b).contains(&t.as_secs())).count() as f64;
            let expected = (from + to) / 2.0 * 100.0;
            assert!((times.len() as f64 - expected).abs() < expected * 0.03, "{} for {expected}", times.len());
            let first = (from + (to - from) * 0.05) * 10.0;
            assert!((within(0, 10) - first).abs() < first * 0.2 + 10.0, "{} for {first}", within(0, 10));
            let last = (to - (to - from) * 0.05) * 10.0;
            assert!((within(90, 100) - last).abs() < last * 0.2 + 10.0, "{} for {last}", within(90, 100));
        }
    }

    #[test]
    fn bursts_are_whole_and_repeat_only_when_told() {
        let once = Arrivals::Burst { count: 3, every: None };
        assert_eq!(schedule(&once, 10, 1), [Duration::ZERO; 3]);
        let twice = Arrivals::Burst { count: 2, every: Some(Duration::from_secs(5)) };
        let five = Duration::from_secs(5);
        assert_eq!(schedule(&twice, 10, 1), [Duration::ZERO, Duration::ZERO, five, five]);
        let never = Arrivals::Burst { count: 2, every: Some(Duration::ZERO) };
        assert!(never.schedule(five, None, &mut rng(1)).unwrap_err().to_string().contains("every"));
    }

    #[test]
    fn too_many_requests_a_wild_cv_and_an_unknown_capacity_are_refused() {
        let second = Duration::from_secs(1);
        let refused = |arrivals: Arrivals| arrivals.schedule(second, None, &mut rng(1)).unwrap_err().to_string();
        let rate = Rate::PerSecond(ARRIVALS_MAX as f64 * 2.0);
        assert!(refused(Arrivals::Poisson { rate }).contains("more than 20000000"));
        assert!(refused(Arrivals::Ramp { from: rate, to: rate }).contains("more than 20000000"));
        assert!(refused(Arrivals::Burst { count: ARRIVALS_MAX + 1, every: None }).contains("more than 20000000"));
        assert!(refused(Arrivals::Gamma { rate: Rate::PerSecond(1.0), cv: -1.0 }).contains("cv is -1"));
        assert!(refused(Arrivals::Poisson { rate: Rate::OfCapacity(3.0) }).contains("[calibrate]"));
        let tripled = Arrivals::Constant { rate: Rate::OfCapacity(3.0) };
        assert_eq!(tripled.schedule(second, Some(10.0), &mut rng(1)).unwrap().len(), 30);
    }
}
