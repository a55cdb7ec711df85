//! Whether this process wants traffic.

use std::sync::Arc;

use tokio::sync::watch;

/// Where a process is in its life; moves only forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Parts are still being opened.
    Starting,
    /// Traffic is welcome.
    Ready,
    /// Calls in progress end; no new ones, please.
    Draining,
}

/// The phase, shared between the process and its `/readyz`.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<Phase>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Starting)))
    }
}

impl Readiness {
    /// Moves to `phase`; a step back is ignored.
    pub fn set(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let forwards = phase > *current;
            *current = phase.max(*current);
            forwards
        });
    }

    /// Returns the phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until the process drains.
    pub(crate) async fn draining(&self) {
        // The sender lives in `self`, so this ends only with the phase.
        self.0.subscribe().wait_for(|phase| *phase == Phase::Draining).await.ok();
    }
}

impl Phase {
    /// Returns the phase as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readiness_never_goes_back() {
        let readiness = Readiness::default();
        assert_eq!(readiness.phase(), Phase::Starting);
        readiness.set(Phase::Draining);
        readiness.set(Phase::Ready);
        assert_eq!(readiness.phase(), Phase::Draining);
        readiness.draining().await;
    }
}
