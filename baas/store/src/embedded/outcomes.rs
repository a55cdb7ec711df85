//! What became of recent writes: bounded, in memory, first in first out.

use std::collections::{HashMap, VecDeque};

use crate::{Fate, StoreError, WallTime, WriteId};

use super::layout::version;

/// What is known of a write id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It took effect with this sequence number.
    Committed(u64),
    /// `fate` said that it never will.
    Fenced,
}

/// The recent outcomes. Never more than `max`.
#[derive(Debug)]
pub(super) struct Outcomes {
    known: HashMap<WriteId, Outcome>,
    order: VecDeque<WriteId>,
    max: usize,
    /// Ids made at or before this time may have been forgotten.
    forgotten: WallTime,
}

impl Outcomes {
    /// Knows nothing of what was before `start`.
    pub(super) fn new(max: usize, start: WallTime) -> Self {
        let forgotten = WallTime(start.0.saturating_sub(1));
        Self { known: HashMap::new(), order: VecDeque::new(), max: max.max(1), forgotten }
    }

    pub(super) fn get(&self, id: WriteId) -> Option<Outcome> {
        self.known.get(&id).copied()
    }

    /// Records an outcome. Writes of one transaction may share an id: the first of them is what counts.
    pub(super) fn record(&mut self, id: WriteId, outcome: Outcome) {
        if matches!(self.get(id), Some(Outcome::Committed(_))) {
            return;
        }
        if self.known.insert(id, outcome).is_some() {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
            self.forgotten = self.forgotten.max(made_at(oldest));
        }
    }

    /// Settles an id for good. Every write queued before has been judged.
    pub(super) fn settle(&mut self, id: WriteId) -> Result<Fate, StoreError> {
        match self.get(id) {
            Some(Outcome::Committed(sequence)) => Ok(Fate::Committed(crate::Committed { version: version(sequence) })),
            Some(Outcome::Fenced) => Ok(Fate::Never),
            None if made_at(id) <= self.forgotten => Err(StoreError::Gone),
            None => {
                self.record(id, Outcome::Fenced);
                Ok(Fate::Never)
            }
        }
    }
}

/// Returns when a version 7 id was made; 0 for any other.
fn made_at(id: WriteId) -> WallTime {
    let (seconds, nanos) = id.0.get_timestamp().map_or((0, 0), |t| t.to_unix());
    WallTime(seconds.saturating_mul(1_000).saturating_add(u64::from(nanos / 1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_committed_or_fenced_or_too_old_to_know() {
        let mut outcomes = Outcomes::new(2, WallTime(0));
        let ids: Vec<_> = (0..4).map(|_| WriteId::fresh()).collect();
        outcomes.record(ids[0], Outcome::Committed(7));
        assert!(matches!(outcomes.settle(ids[0]), Ok(Fate::Committed(c)) if c.version == version(7)));
        assert_eq!(outcomes.settle(ids[3]), Ok(Fate::Never));
        assert_eq!(outcomes.get(ids[3]), Some(Outcome::Fenced));
        outcomes.record(ids[1], Outcome::Committed(8));
        outcomes.record(ids[2], Outcome::Committed(9));
        assert_eq!(outcomes.settle(ids[0]), Err(StoreError::Gone), "forgotten, so not known");
        assert_eq!(outcomes.known.len(), 2);
    }

    #[test]
    fn the_first_outcome_of_an_id_stays() {
        let mut outcomes = Outcomes::new(2, WallTime(0));
        let id = WriteId::fresh();
        outcomes.record(id, Outcome::Committed(7));
        outcomes.record(id, Outcome::Committed(8));
        assert_eq!(outcomes.get(id), Some(Outcome::Committed(7)));
    }

    #[test]
    fn an_id_of_a_former_process_is_gone() {
        let id = WriteId::fresh();
        let mut outcomes = Outcomes::new(8, made_at(id).plus(std::time::Duration::from_secs(1)));
        assert_eq!(outcomes.settle(id), Err(StoreError::Gone));
        assert_eq!(outcomes.settle(WriteId(uuid::Uuid::new_v4())), Err(StoreError::Gone));
    }
}
