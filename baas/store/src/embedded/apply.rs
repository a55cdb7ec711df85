//! What one group of writes does to the tree, inside its transaction.

use std::ops::ControlFlow;

use tokio::time::{Duration, Instant};

use super::engine::{Batch, EngineError, View};
use super::layout::{self, Header, Meta};
use super::{Config, log};
use crate::clock::expired;
use crate::{Change, Logged, Require, Row, StoreError, WallTime, Write};

/// Longest time of one slice of upkeep, so that it never stalls the writes behind it.
const SLICE: Duration = Duration::from_millis(10);

/// One transaction on the tree with the counters it moves.
pub(super) struct Apply<'a, 't> {
    pub(super) batch: &'a mut Batch<'t>,
    pub(super) meta: &'a mut Meta,
    pub(super) now: WallTime,
    /// Reused for every row value.
    pub(super) scratch: &'a mut Vec<u8>,
}

impl Apply<'_, '_> {
    /// Judges all conditions of all writes, then applies all or none.
    ///
    /// Returns the sequence number of the first write; the others follow it.
    /// The outer error breaks the whole group, the inner one is this caller's.
    pub(super) fn writes(&mut self, writes: &[Write]) -> Result<Result<u64, StoreError>, EngineError> {
        for write in writes {
            for change in &write.changes {
                let key = layout::row_key(&write.partition, change.sort());
                if let Err(current) = self.judge(&key, change)? {
                    return Ok(Err(StoreError::Conflict(current)));
                }
            }
        }
        let first = self.meta.sequence + 1;
        for write in writes {
            self.meta.sequence += 1;
            self.apply(write, self.meta.sequence)?;
        }
        Ok(Ok(first))
    }

    /// Returns the current row if the condition does not hold.
    fn judge(&self, key: &[u8], change: &Change) -> Result<Result<(), Option<Row>>, EngineError> {
        let require = change.require();
        if *require == Require::Nothing {
            return Ok(Ok(()));
        }
        let now = self.now;
        let verdict = self.batch.get(key, |stored| -> Result<_, EngineError> {
            let (header, _) = layout::split_row(stored)?;
            if holds(require, (!expired(header.expires, now)).then_some(header)) {
                return Ok(Ok(()));
            }
            Ok(Err(layout::live_row(change.sort(), stored, now)?))
        })?;
        verdict.unwrap_or_else(|| Ok(if holds(require, None) { Ok(()) } else { Err(None) }))
    }

    fn apply(&mut self, write: &Write, sequence: u64) -> Result<(), EngineError> {
        let mut record = (write.log != Logged::No).then(|| log::Record::new(&write.partition, write.id, self.now));
        for change in &write.changes {
            let key = layout::row_key(&write.partition, change.sort());
            match change {
                Change::Put { sort, value, expires, .. } => {
                    self.put(&key, Header { sequence, expires: *expires }, value)?;
                    if let Some(record) = &mut record {
                        record.put(sort, (write.log == Logged::Values).then_some(value));
                    }
                }
                Change::Delete { sort, .. } => {
                    if self.remove(&key)?
                        && let Some(record) = &mut record
                    {
                        record.removed(sort);
                    }
                }
                Change::Check { .. } => {}
            }
        }
        if let Some(record) = record.and_then(log::Record::finish) {
            self.meta.log_records += 1;
            self.meta.log_bytes += record.len() as u64;
            self.batch.put(&layout::log_key(sequence), &record, |_| ())?;
        }
        Ok(())
    }

    fn put(&mut self, key: &[u8], header: Header, value: &[u8]) -> Result<(), EngineError> {
        layout::row_value(self.scratch, header, value);
        let old = self.batch.put(key, self.scratch, |stored| layout::split_row(stored).map(|(old, _)| old))?;
        self.forget_expiry(key, old.transpose()?)?;
        if let Some(at) = header.expires {
            self.batch.put(&layout::expiry_key(at, key), &[], |_| ())?;
        }
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<bool, EngineError> {
        let old = self.batch.remove(key, |stored| layout::split_row(stored).map(|(old, _)| old))?.transpose()?;
        self.forget_expiry(key, old)?;
        Ok(old.is_some())
    }

    fn forget_expiry(&mut self, key: &[u8], old: Option<Header>) -> Result<(), EngineError> {
        if let Some(at) = old.and_then(|old| old.expires) {
            self.batch.remove(&layout::expiry_key(at, key), |_| ())?;
        }
        Ok(())
    }

    /// Writes the counters; the last step of every transaction that changed something.
    pub(super) fn seal(&mut self) -> Result<(), EngineError> {
        self.batch.put(layout::META, &self.meta.encode(), |_| ())?;
        Ok(())
    }

    /// Removes at most `rows_max` expired rows; returns how many.
    pub(super) fn sweep(&mut self, rows_max: usize) -> Result<usize, EngineError> {
        let began = Instant::now();
        let mut due = Vec::new();
        self.batch.range(&layout::expiry_key(WallTime(0), &[]), &due_end(self.now), |key, _| {
            due.push(key.to_vec());
            if due.len() < rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let mut swept = 0;
        for entry in &due {
            let Some((_, row)) = layout::split_expiry(entry) else {
                return Err(EngineError::Corrupt("an expiry entry has no time".into()));
            };
            // The entry of an overwritten row went with the overwrite, so the row is the expired one.
            self.batch.remove(entry, |_| ())?;
            self.batch.remove(row, |_| ())?;
            swept += 1;
            if began.elapsed() > SLICE {
                break;
            }
        }
        Ok(swept)
    }

    /// Trims after a group; looks at nothing while the log is within its bounds.
    pub(super) fn trim_if_over(&mut self, config: &Config, rows_max: usize) -> Result<(), EngineError> {
        if self.meta.log_records > config.log_records_max || self.meta.log_bytes > config.log_bytes_max {
            self.trim(config, rows_max)?;
        }
        Ok(())
    }

    /// Removes at most `rows_max` of the oldest log records that are over a bound; returns how many.
    pub(super) fn trim(&mut self, config: &Config, rows_max: usize) -> Result<usize, EngineError> {
        let oldest = WallTime(self.now.0.saturating_sub(config.log_age_max_s.saturating_mul(1_000)));
        let mut meta = *self.meta;
        let mut over = Vec::new();
        self.batch.range(&layout::log_key(0), layout::LOG_END, |key, record| {
            let bound = meta.log_records > config.log_records_max || meta.log_bytes > config.log_bytes_max;
            let too_old = log::written_at(record).is_some_and(|at| at < oldest);
            if over.len() >= rows_max || !(bound || too_old) {
                return ControlFlow::Break(());
            }
            meta.log_records = meta.log_records.saturating_sub(1);
            meta.log_bytes = meta.log_bytes.saturating_sub(record.len() as u64);
            meta.log_trimmed = layout::log_sequence(key).unwrap_or(meta.log_trimmed);
            over.push(key.to_vec());
            ControlFlow::Continue(())
        })?;
        for key in &over {
            self.batch.remove(key, |_| ())?;
        }
        *self.meta = meta;
        Ok(over.len())
    }
}

fn holds(require: &Require, current: Option<Header>) -> bool {
    match require {
        Require::Nothing => true,
        Require::Absent => current.is_none(),
        Require::Present => current.is_some(),
        Require::Version(version) => current.is_some_and(|header| layout::version(header.sequence) == *version),
    }
}

/// Returns the first expiry key that is not due at `now`.
fn due_end(now: WallTime) -> Vec<u8> {
    layout::expiry_key(WallTime(now.0.saturating_add(1)), &[])
}

/// Returns whether a sweep or a trim would find something, without a write transaction.
pub(super) fn upkeep_due(view: &View, meta: &Meta, now: WallTime, config: &Config) -> Result<bool, EngineError> {
    if meta.log_records > config.log_records_max || meta.log_bytes > config.log_bytes_max {
        return Ok(true);
    }
    let mut due = false;
    view.range(&layout::expiry_key(WallTime(0), &[]), &due_end(now), |_, _| {
        due = true;
        ControlFlow::Break(())
    })?;
    let oldest = WallTime(now.0.saturating_sub(config.log_age_max_s.saturating_mul(1_000)));
    view.range(&layout::log_key(0), layout::LOG_END, |_, record| {
        due |= log::written_at(record).is_some_and(|at| at < oldest);
        ControlFlow::Break(())
    })?;
    Ok(due)
}
