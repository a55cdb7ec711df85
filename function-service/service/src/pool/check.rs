//! The invariants, written once: used by the property test after every step
//! and by the service at every tick, where a violation is counted.

use super::{Pool, State, Time};

impl Pool {
    /// Returns the first invariant that does not hold at `now`, right after a step at `now`.
    ///
    /// Costs a pass over all instances.
    pub(crate) fn violation(&self, now: Time) -> Option<&'static str> {
        let over = |s: &super::Slot| s.busy() > self.limits.concurrency;
        let free = |s: &super::Slot| matches!(s.state, State::Ready { busy, .. } if busy < self.limits.concurrency);
        let overdue = |s: &super::Slot| match s.state {
            State::Ready { busy: 0, idle_since } => idle_since + self.limits.idle <= now,
            _ => false,
        };
        let stale = |s: &super::Slot| {
            let old = self.ended.is_some() || s.generation != self.generation;
            s.state != State::Starting && s.busy() == 0 && (old || matches!(s.state, State::Broken { .. }))
        };
        let checks = [
            ("an instance runs more calls than its concurrency", self.current().any(over)),
            ("there are more instances than scale.max", self.current().count() > self.limits.max),
            ("more calls wait than queue.depth", self.waiting.len() > self.limits.depth.max(1)),
            ("calls wait although an instance has a free place", !self.waiting.is_empty() && self.current().any(free)),
            ("calls wait for nothing", !self.waiting.is_empty() && self.nothing_comes()),
            ("a call waits past its deadline", self.waiting.first_deadline().is_some_and(|d| d <= now)),
            ("calls wait in an ended pool", self.ended.is_some() && !self.waiting.is_empty()),
            ("an instance is idle past its time", self.stoppable() > 0 && self.current().any(overdue)),
            ("an old or broken instance without calls is kept", self.instances.iter().any(stale)),
        ];
        checks.into_iter().find(|(_, broken)| *broken).map(|(what, _)| what)
    }

    /// Checks what costs a pass over all waiting calls. For tests.
    #[cfg(test)]
    pub(crate) fn deep_violation(&self, now: Time) -> Option<&'static str> {
        let sorted = self.instances.windows(2).all(|w| w[0].id < w[1].id);
        match (self.waiting.consistent(), sorted) {
            (false, _) => Some("the two orders of waiting calls differ"),
            (_, false) => Some("instances are out of order"),
            _ => self.violation(now),
        }
    }

    fn nothing_comes(&self) -> bool {
        self.current().next().is_none() && self.paused_until.is_none()
    }
}
