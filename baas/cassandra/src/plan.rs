//! What a write asks of the cluster: pure, from the write and from what was seen of its rows.

use std::collections::HashMap;

use bytes::Bytes;
use faas_store::{Change, ChangedRow, Logged, Require, StoreError, Version, WallTime, Write, expired};

/// A row as it was seen, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) version: Version,
    pub(crate) expires: Option<WallTime>,
}

/// What was seen of the rows that a write names; those not in it were not there.
pub(crate) type Sight = HashMap<Bytes, Seen>;

/// What must hold when the cluster judges one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing.
    None,
    /// No row, not even an expired one that is still stored.
    Absent,
    /// A row that is not expired.
    Present,
    /// A row of this version that is not expired.
    Version(Version),
    /// A row of this version, expired or not.
    Exactly(Version),
}

/// What is done to one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It is written.
    Put { value: Bytes, expires: Option<WallTime> },
    /// It is removed.
    Delete,
    /// Nothing.
    Check,
}

/// One row of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) sort: Bytes,
    pub(crate) effect: Effect,
    pub(crate) condition: Condition,
}

/// A write that the cluster can judge and make in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// The rows that the change log is told of; `None` where it is told nothing.
    pub(crate) log: Option<Vec<ChangedRow>>,
}

impl Plan {
    /// Plans a write without having looked; `None` where it cannot be said without.
    pub(crate) fn blind(write: &Write) -> Option<Self> {
        let logged = write.log != Logged::No;
        // The log tells of rows that were removed, not of those that were not there.
        if logged && write.changes.iter().any(|change| matches!(change, Change::Delete { .. })) {
            return None;
        }
        let steps = write.changes.iter().map(|change| step(change, condition(change.require()))).collect();
        Some(Self { steps, log: log(write, |_| true) })
    }

    /// Plans a write on rows that were seen at `now`: it takes effect only if they are still so.
    ///
    /// # Errors
    /// `Err` is the place of the first change whose condition did not hold.
    pub(crate) fn on(write: &Write, seen: &Sight, now: WallTime) -> Result<Self, usize> {
        let mut steps = Vec::with_capacity(write.changes.len());
        for (at, change) in write.changes.iter().enumerate() {
            let stored = seen.get(change.sort());
            let alive = stored.filter(|row| !expired(row.expires, now));
            if !holds(change.require(), alive) {
                return Err(at);
            }
            let unconditional = *change.require() == Require::Nothing && !matches!(change, Change::Delete { .. });
            let condition = match stored {
                _ if unconditional => Condition::None,
                None => Condition::Absent,
                // What is alive may expire before the cluster judges it; what is expired stays so.
                Some(row) if alive.is_some() => Condition::Version(row.version),
                Some(row) => Condition::Exactly(row.version),
            };
            steps.push(step(change, condition));
        }
        let log = log(write, |sort| seen.get(sort).is_some_and(|row| !expired(row.expires, now)));
        Ok(Self { steps, log })
    }
}

fn holds(require: &Require, row: Option<&Seen>) -> bool {
    match require {
        Require::Nothing => true,
        Require::Absent => row.is_none(),
        Require::Present => row.is_some(),
        Require::Version(version) => row.is_some_and(|row| row.version == *version),
    }
}

fn condition(require: &Require) -> Condition {
    match require {
        Require::Nothing => Condition::None,
        Require::Absent => Condition::Absent,
        Require::Present => Condition::Present,
        Require::Version(version) => Condition::Version(*version),
    }
}

fn step(change: &Change, condition: Condition) -> Step {
    let effect = match change {
        Change::Put { value, expires, .. } => Effect::Put { value: value.clone(), expires: *expires },
        Change::Delete { .. } => Effect::Delete,
        Change::Check { .. } => Effect::Check,
    };
    Step { sort: change.sort().clone(), effect, condition }
}

/// Returns what the log is told of a write.
fn log(write: &Write, was_there: impl Fn(&Bytes) -> bool) -> Option<Vec<ChangedRow>> {
    if write.log == Logged::No {
        return None;
    }
    let told = |change: &Change| match change {
        Change::Put { sort, value, .. } => {
            let value = (write.log == Logged::Values).then(|| value.clone());
            Some(ChangedRow { sort: sort.clone(), value, removed: false })
        }
        Change::Delete { sort, .. } if was_there(sort) => {
            Some(ChangedRow { sort: sort.clone(), value: None, removed: true })
        }
        Change::Delete { .. } | Change::Check { .. } => None,
    };
    let rows: Vec<_> = write.changes.iter().filter_map(told).collect();
    (!rows.is_empty()).then_some(rows)
}

/// Returns the seconds after which the cluster may forget a row that expires: never before it is expired.
///
/// # Errors
/// `Invalid` for an expiry that is further away than Cassandra can count.
pub(crate) fn seconds_to_live(expires: Option<WallTime>, now: WallTime) -> Result<i32, StoreError> {
    /// Cassandra's own bound: 20 years.
    const SECONDS_MAX: u64 = 20 * 365 * 86_400;
    let Some(expires) = expires else { return Ok(0) };
    // The row is judged by its expiry, so that a clock that is ahead forgets none too early.
    let seconds = expires.0.saturating_sub(now.0).div_ceil(1_000) + 60;
    if seconds > SECONDS_MAX {
        return Ok(0);
    }
    i32::try_from(seconds).map_err(|_| StoreError::Invalid("the expiry is too far away"))
}

#[cfg(test)]
mod tests {
    use faas_model::Name;
    use faas_store::{Partition, Space, WriteId};

    use super::*;

    const V: Version = Version([1; 16]);
    const NOW: WallTime = WallTime(1_000);

    fn write(changes: Vec<Change>, log: Logged) -> Write {
        let partition =
            Partition { namespace: Name::namespace_default(), space: Space::Value, name: Bytes::from_static(b"p") };
        Write { partition, id: WriteId::fresh(), changes, log }
    }

    fn put(require: Require) -> Change {
        Change::Put { sort: Bytes::from_static(b"a"), value: Bytes::from_static(b"v"), expires: None, require }
    }

    fn delete(require: Require) -> Change {
        Change::Delete { sort: Bytes::from_static(b"a"), require }
    }

    fn seen(expires: Option<u64>) -> Sight {
        let row = Seen { version: V, expires: expires.map(WallTime) };
        HashMap::from([(Bytes::from_static(b"a"), row)])
    }

    fn condition_on(change: Change, sight: &Sight) -> Result<Condition, usize> {
        Plan::on(&write(vec![change], Logged::No), sight, NOW).map(|plan| plan.steps[0].condition.clone())
    }

    #[test]
    fn what_was_seen_alive_must_be_alive_and_what_was_expired_must_be_the_same() {
        assert_eq!(condition_on(put(Require::Present), &seen(None)), Ok(Condition::Version(V)));
        assert_eq!(condition_on(put(Require::Version(V)), &seen(Some(1_001))), Ok(Condition::Version(V)));
        assert_eq!(condition_on(put(Require::Absent), &seen(Some(1_000))), Ok(Condition::Exactly(V)));
        assert_eq!(condition_on(put(Require::Absent), &Sight::new()), Ok(Condition::Absent));
        assert_eq!(condition_on(put(Require::Nothing), &seen(None)), Ok(Condition::None));
    }

    #[test]
    fn the_first_condition_that_does_not_hold_is_named() {
        assert_eq!(condition_on(put(Require::Absent), &seen(None)), Err(0));
        assert_eq!(condition_on(put(Require::Present), &seen(Some(1_000))), Err(0));
        assert_eq!(condition_on(put(Require::Version(Version([2; 16]))), &seen(None)), Err(0));
        let both = write(
            vec![Change::Check { sort: Bytes::from_static(b"b"), require: Require::Absent }, put(Require::Absent)],
            Logged::No,
        );
        assert_eq!(Plan::on(&both, &seen(None), NOW), Err(1));
    }

    #[test]
    fn a_delete_is_logged_only_where_a_row_was_and_has_to_look_first() {
        let logged = write(vec![delete(Require::Nothing)], Logged::Values);
        assert_eq!(Plan::blind(&logged), None);
        let removed = Plan::on(&logged, &seen(None), NOW).unwrap();
        assert!(removed.log.unwrap()[0].removed);
        assert_eq!(removed.steps[0].condition, Condition::Version(V), "what is told must be what happens");
        let none = Plan::on(&logged, &Sight::new(), NOW).unwrap();
        assert_eq!((none.log, &none.steps[0].condition), (None, &Condition::Absent));
        assert!(Plan::blind(&write(vec![delete(Require::Nothing)], Logged::No)).is_some());
    }

    #[test]
    fn the_cluster_forgets_a_row_only_after_its_expiry() {
        let live = |expires| seconds_to_live(Some(WallTime(expires)), NOW);
        assert_eq!((live(1_000), live(1_001), live(3_000)), (Ok(60), Ok(61), Ok(62)));
        assert_eq!(seconds_to_live(None, NOW), Ok(0));
        assert_eq!(live(0), Ok(60), "what is expired already is kept for those who look at it");
        assert_eq!(live(u64::MAX), Ok(0), "further away than Cassandra counts: the expiry alone judges");
    }
}
