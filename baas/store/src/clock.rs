//! The one wall clock: what expiry is judged by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::WallTime;

/// Tells the wall time; either the system's, or one that a test moves.
///
/// Deadlines never use it: they are `tokio::time::Instant`.
#[derive(Debug, Clone, Default)]
pub struct WallClock {
    manual: Option<Arc<AtomicU64>>,
}

impl WallClock {
    /// Returns the system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// Returns a clock that stands at `start` until it is moved; clones move together.
    #[must_use]
    pub fn manual(start: WallTime) -> Self {
        Self { manual: Some(Arc::new(AtomicU64::new(start.0))) }
    }

    /// Returns the time now.
    #[must_use]
    pub fn now(&self) -> WallTime {
        match &self.manual {
            Some(ms) => WallTime(ms.load(Ordering::SeqCst)),
            None => WallTime(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            ),
        }
    }

    /// Moves a manual clock forward; the system's clock cannot be moved and is left alone.
    pub fn advance(&self, by: Duration) {
        if let Some(ms) = &self.manual {
            ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }
}

impl WallTime {
    /// Returns the time `after` this one, saturating.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Returns whether a row with this expiry is gone at `now`: at its expiry it is.
#[must_use]
pub fn expired(expires: Option<WallTime>, now: WallTime) -> bool {
    expires.is_some_and(|at| at <= now)
}
