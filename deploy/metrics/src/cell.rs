//! One series each: a count, a level, or a spread over fixed bounds. Plain
//! atomics, written by whoever holds the handle and read by whoever tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{CounterFn, GaugeFn, HistogramFn};

/// Bounds of times, in seconds: from a warm call to the longest stream.
const SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// Bounds of everything that is counted in pieces.
const PIECES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// What a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A series.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    Counter(Arc<Count>),
    Gauge(Arc<Level>),
    Histogram(Arc<Spread>),
}

/// What a series holds at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram { bounds: &'static [f64], counts: Vec<u64>, sum: f64 },
}

#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

/// The bits of a float.
#[derive(Debug, Default)]
pub(crate) struct Level(AtomicU64);

#[derive(Debug)]
pub(crate) struct Spread {
    bounds: &'static [f64],
    /// How many values were at most each bound and over the one before; the last ones over all.
    counts: Box<[AtomicU64]>,
    sum: Level,
}

// Everything is relaxed: numbers of different series need not agree with each other.
impl Level {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn add(&self, value: f64) {
        let added = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure never gives up.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added).ok();
    }

    fn take(&self) -> f64 {
        f64::from_bits(self.0.swap(0, Ordering::Relaxed))
    }
}

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

impl GaugeFn for Level {
    fn increment(&self, value: f64) {
        self.add(value);
    }

    fn decrement(&self, value: f64) {
        self.add(-value);
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl HistogramFn for Spread {
    fn record(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
            self.sum.add(value);
        }
    }
}

impl Cell {
    /// Makes a series; what is spread over times says so in its name.
    pub(crate) fn new(kind: Kind, name: &str) -> Self {
        match kind {
            Kind::Counter => Self::Counter(Arc::default()),
            Kind::Gauge => Self::Gauge(Arc::default()),
            Kind::Histogram => {
                let bounds = if name.ends_with("_seconds") { SECONDS } else { PIECES };
                let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
                Self::Histogram(Arc::new(Spread { bounds, counts, sum: Level::default() }))
            }
        }
    }

    /// Returns whether somebody can still write it.
    pub(crate) fn held(&self) -> bool {
        match self {
            Self::Counter(count) => Arc::strong_count(count) > 1,
            Self::Gauge(level) => Arc::strong_count(level) > 1,
            Self::Histogram(spread) => Arc::strong_count(spread) > 1,
        }
    }

    pub(crate) fn read(&self) -> Value {
        match self {
            Self::Counter(count) => Value::Counter(count.0.load(Ordering::Relaxed)),
            Self::Gauge(level) => Value::Gauge(level.get()),
            Self::Histogram(spread) => Value::Histogram {
                bounds: spread.bounds,
                counts: spread.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
                sum: spread.sum.get(),
            },
        }
    }

    /// Returns what it holds and begins anew; a gauge goes on.
    pub(crate) fn take(&self) -> Value {
        match self {
            Self::Counter(count) => Value::Counter(count.0.swap(0, Ordering::Relaxed)),
            Self::Gauge(_) => self.read(),
            Self::Histogram(spread) => Value::Histogram {
                bounds: spread.bounds,
                counts: spread.counts.iter().map(|count| count.swap(0, Ordering::Relaxed)).collect(),
                sum: spread.sum.take(),
            },
        }
    }

    /// Returns a number that is another after each counted event.
    pub(crate) fn events(&self) -> u64 {
        match self {
            Self::Counter(count) => count.0.load(Ordering::Relaxed),
            Self::Gauge(_) => 0,
            Self::Histogram(spread) => spread.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum(),
        }
    }

    /// Returns whether there is something that a gauge tells of.
    pub(crate) fn stands(&self) -> bool {
        matches!(self, Self::Gauge(level) if level.get() != 0.0)
    }
}

impl Value {
    /// Returns whether nothing was counted, or nothing is there.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Self::Counter(count) => *count == 0,
            Self::Gauge(level) => *level == 0.0,
            Self::Histogram { counts, .. } => counts.iter().all(|count| *count == 0),
        }
    }

    /// Adds what another series of the kind holds.
    pub(crate) fn add(&mut self, other: &Self) {
        match (self, other) {
            (Self::Counter(own), Self::Counter(other)) => *own += other,
            (Self::Gauge(own), Self::Gauge(other)) => *own += other,
            (Self::Histogram { counts, sum, .. }, Self::Histogram { counts: more, sum: further, .. }) => {
                counts.iter_mut().zip(more).for_each(|(own, other)| *own += other);
                *sum += further;
            }
            _ => {}
        }
    }
}
