//! The one writer: a thread that takes whatever is queued, commits it as one
//! group and acknowledges it afterwards.
//!
//! Never more than `group_writes_max` writes or `group_bytes_max` bytes a
//! group (one oversize write goes alone). Nothing is acknowledged before its
//! commit is durable.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::apply::{Apply, upkeep_due};
use super::engine::{Engine, EngineError, Failed};
use super::layout::{self, Meta};
use super::metrics::Metrics;
use super::outcomes::{Outcome, Outcomes};
use super::{Config, UNAVAILABLE_AFTER};
use crate::{Fate, StoreError, WallClock, Write, WriteId};

/// How long to wait between slices while upkeep has more to do.
const UPKEEP_PAUSE: Duration = Duration::from_millis(20);

/// How long to leave a disk alone that could not be reopened.
const REPAIR_PAUSE: Duration = Duration::from_millis(100);

/// What callers ask of the writer.
pub(super) enum Op {
    Write(Pending),
    Fate(WriteId, oneshot::Sender<Result<Fate, StoreError>>),
    /// A read found the engine broken after so many openings.
    Repair {
        openings: u64,
    },
    /// The pages in memory are not needed any more.
    Forget(oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

/// One queued transaction: one write, or several for all or none.
pub(super) struct Pending {
    pub(super) writes: Vec<Write>,
    pub(super) bytes: usize,
    /// Permits to give back to the queue's budget.
    pub(super) cost: u32,
    pub(super) claim: Arc<Claim>,
    pub(super) done: oneshot::Sender<Result<u64, StoreError>>,
}

/// Who has a queued write: nobody yet, the writer, or its caller who took it back.
#[derive(Debug, Default)]
pub(super) struct Claim(AtomicU8);

impl Claim {
    const QUEUED: u8 = 0;
    const BEGUN: u8 = 1;
    const TAKEN_BACK: u8 = 2;

    /// Returns whether the writer may begin.
    fn begin(&self) -> bool {
        self.take(Self::BEGUN)
    }

    /// Returns whether the write was taken back before it began, so that it never takes effect.
    pub(super) fn take_back(&self) -> bool {
        self.take(Self::TAKEN_BACK)
    }

    fn take(&self, to: u8) -> bool {
        self.0.compare_exchange(Self::QUEUED, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

pub(super) struct Writer {
    pub(super) engine: Arc<Engine>,
    pub(super) queue: Receiver<Op>,
    pub(super) budget: Arc<Semaphore>,
    pub(super) config: Config,
    pub(super) clock: WallClock,
    pub(super) outcomes: Outcomes,
    pub(super) meta: Meta,
    pub(super) metrics: Arc<Metrics>,
    /// The engine refuses everything until it is reopened.
    pub(super) broken: bool,
    /// A group of which it is not known whether it was committed; only while broken.
    pub(super) doubt: Option<Doubt>,
    pub(super) repair_asked: Arc<AtomicBool>,
    /// When to try to repair again.
    pub(super) repair_at: Instant,
    pub(super) scratch: Vec<u8>,
}

/// What a group did if its commit took effect after all.
pub(super) struct Doubt {
    outcomes: Vec<(WriteId, u64)>,
}

/// What reopening found on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// What was acknowledged.
    Same,
    /// The doubtful group too.
    More,
}

type Results = Vec<Result<u64, StoreError>>;

impl Writer {
    /// Runs until closed or until the last handle is gone; what is queued then is still written.
    pub(super) fn run(mut self) {
        let interval = Duration::from_millis(self.config.upkeep_interval_ms.max(1));
        let mut upkeep_at = Instant::now() + interval;
        let closed = loop {
            let next = match self.queue.recv_timeout(upkeep_at.saturating_duration_since(Instant::now())) {
                Ok(op) => self.take(op),
                Err(RecvTimeoutError::Timeout) => Next::Go,
                Err(RecvTimeoutError::Disconnected) => break None,
            };
            if let Next::Close(done) = next {
                break Some(done);
            }
            if Instant::now() >= upkeep_at {
                upkeep_at = Instant::now() + if self.upkeep() { UPKEEP_PAUSE } else { interval };
            }
        };
        self.budget.close();
        self.engine.close();
        info!("store closed");
        if let Some(done) = closed {
            // Whoever asked may have left.
            done.send(()).ok();
        }
    }

    /// Handles one operation, and with a write everything that is queued behind it.
    fn take(&mut self, op: Op) -> Next {
        let mut group = Vec::new();
        let mut bytes = 0;
        let mut op = Some(op);
        while let Some(Op::Write(pending)) = op {
            self.budget.add_permits(pending.cost as usize);
            if pending.claim.begin() {
                bytes += pending.bytes;
                group.push(pending);
            }
            if group.len() >= self.config.group_writes_max || bytes >= self.config.group_bytes_max {
                op = None;
                break;
            }
            op = self.queue.try_recv().ok();
        }
        self.commit(group);
        match op {
            Some(Op::Fate(id, done)) => {
                let settled = if self.broken { self.repair().map(|_| ()) } else { Ok(()) };
                done.send(settled.and_then(|()| self.outcomes.settle(id))).ok();
            }
            Some(Op::Repair { openings }) => {
                self.repair_asked.store(false, Ordering::Release);
                if self.broken || openings == self.engine.openings() {
                    self.broken = true;
                    self.repair().ok();
                }
            }
            Some(Op::Forget(done)) => {
                if !self.broken
                    && let Err(error) = self.engine.reopen()
                {
                    // The next read or write finds it closed, and has it repaired.
                    tracing::warn!(%error, "the store could not be opened again");
                    self.broken = true;
                }
                done.send(()).ok();
            }
            Some(Op::Close(done)) => return Next::Close(done),
            Some(Op::Write(_)) | None => {}
        }
        Next::Go
    }

    /// Commits writes, those that repeat another one of the group after it.
    fn commit(&mut self, mut group: Vec<Pending>) {
        while !group.is_empty() {
            if self.broken
                && let Err(error) = self.repair()
            {
                return answer_all(group, &error);
            }
            group = self.answer_repeats(group);
            let repeats = take_repeats(&mut group);
            if !group.is_empty() {
                self.commit_group(group);
            }
            group = repeats;
        }
    }

    fn commit_group(&mut self, group: Vec<Pending>) {
        let began = Instant::now();
        let before = self.meta;
        let mut results = Vec::with_capacity(group.len());
        match self.transact(&group, &mut results) {
            Ok(()) => {
                self.record(outcomes(&group, &results));
                self.acknowledge(group, results, began);
            }
            Err(failed) => {
                self.meta = before;
                if failed.maybe_done {
                    self.doubt = Some(Doubt { outcomes: outcomes(&group, &results) });
                }
                self.failed(group, results, &failed, began);
            }
        }
    }

    /// Answers writes whose id is already settled; the others are returned.
    fn answer_repeats(&self, mut group: Vec<Pending>) -> Vec<Pending> {
        let settled = |pending: &Pending| pending.writes.first().and_then(|write| self.outcomes.get(write.id));
        if group.iter().all(|pending| settled(pending).is_none()) {
            return group;
        }
        let repeats: Vec<_> = group.extract_if(.., |pending| settled(pending).is_some()).collect();
        for pending in repeats {
            let answer = match settled(&pending) {
                Some(Outcome::Committed(sequence)) => Ok(sequence),
                _ => Err(StoreError::Deadline),
            };
            pending.done.send(answer).ok();
        }
        group
    }

    fn transact(&mut self, group: &[Pending], results: &mut Results) -> Result<(), Failed> {
        let (config, meta, scratch) = (&self.config, &mut self.meta, &mut self.scratch);
        let now = self.clock.now();
        self.engine.commit(|batch| {
            let records_before = meta.log_records;
            let mut apply = Apply { batch, meta, now, scratch };
            for pending in group {
                results.push(apply.writes(&pending.writes)?);
            }
            if apply.batch.is_dirty() {
                // Twice the group's own records, so that a log over its bound shrinks under any load.
                let records = usize::try_from(apply.meta.log_records - records_before).unwrap_or(usize::MAX);
                apply.trim_if_over(config, records.max(group.len()).saturating_mul(2))?;
                apply.seal()?;
            }
            Ok(())
        })
    }

    fn acknowledge(&self, group: Vec<Pending>, results: Results, began: Instant) {
        self.metrics.group(group.len(), began.elapsed(), &self.meta);
        for (pending, result) in group.into_iter().zip(results) {
            if result.is_err() {
                self.metrics.conflicts.increment(1);
            }
            // A caller that left finds the outcome by `fate`.
            pending.done.send(result).ok();
        }
    }

    fn record(&mut self, outcomes: Vec<(WriteId, u64)>) {
        for (id, sequence) in outcomes {
            self.outcomes.record(id, Outcome::Committed(sequence));
        }
    }

    /// Finds out whether a failed commit took effect after all, and answers accordingly.
    fn failed(&mut self, group: Vec<Pending>, results: Results, failed: &Failed, began: Instant) {
        warn!(error = ?failed.error, writes = group.len(), "store commit failed");
        self.metrics.commit_failures.increment(1);
        self.broken = true;
        match self.repair() {
            Ok(Found::More) => self.acknowledge(group, results, began),
            Err(_) if failed.maybe_done => answer_unknown(group),
            Ok(Found::Same) | Err(_) => answer_all(group, &refusal(&failed.error)),
        }
    }

    /// Reopens the engine and settles a doubtful group by what is on disk.
    fn repair(&mut self) -> Result<Found, StoreError> {
        let unavailable = StoreError::Unavailable { after: UNAVAILABLE_AFTER };
        if Instant::now() < self.repair_at {
            return Err(unavailable);
        }
        // Until it has worked.
        self.repair_at = Instant::now() + REPAIR_PAUSE;
        if let Err(error) = self.engine.reopen() {
            error!(%error, "store cannot be reopened");
            return Err(unavailable);
        }
        let meta = match read_meta(&self.engine) {
            Ok(meta) => meta,
            Err(error) => {
                error!(?error, "store cannot be read after reopening");
                return Err(unavailable);
            }
        };
        // Writes that changed nothing took numbers that are not on disk, so less is no news.
        let found = if meta.sequence > self.meta.sequence { Found::More } else { Found::Same };
        if found == Found::More {
            // What was read may be in the page cache only: commit it again before anyone hears of it.
            let sealed = self.engine.commit(|batch| batch.put(layout::META, &meta.encode(), |_| ()));
            if let Err(failed) = sealed {
                error!(error = ?failed.error, "store cannot be sealed after reopening");
                return Err(refusal(&failed.error));
            }
        }
        if let Some(doubt) = self.doubt.take().filter(|_| found == Found::More) {
            self.record(doubt.outcomes);
        }
        self.meta = Meta { sequence: meta.sequence.max(self.meta.sequence), ..meta };
        self.broken = false;
        self.repair_at = Instant::now();
        self.metrics.reopens.increment(1);
        info!("store reopened");
        Ok(found)
    }

    /// Does one slice of sweeping and trimming; returns whether there is more.
    fn upkeep(&mut self) -> bool {
        if self.broken {
            return self.repair().is_err();
        }
        let now = self.clock.now();
        match self.engine.read(|view| upkeep_due(view, &self.meta, now, &self.config)) {
            Ok(false) => return false,
            Ok(true) => {}
            Err(error) => return self.upkeep_failed(&error),
        }
        let before = self.meta;
        let (config, meta, scratch) = (&self.config, &mut self.meta, &mut self.scratch);
        let rows_max = config.upkeep_rows_max.max(1);
        let result = self.engine.commit(|batch| {
            let mut apply = Apply { batch, meta, now, scratch };
            let swept = apply.sweep(rows_max)?;
            let trimmed = apply.trim(config, rows_max)?;
            apply.seal()?;
            Ok((swept, trimmed))
        });
        match result {
            Ok((swept, trimmed)) => {
                self.metrics.expired.increment(swept as u64);
                self.metrics.log(&self.meta);
                swept + trimmed > 0
            }
            Err(failed) => {
                self.meta = before;
                self.upkeep_failed(&failed.error)
            }
        }
    }

    fn upkeep_failed(&mut self, error: &EngineError) -> bool {
        warn!(?error, "store upkeep failed");
        self.broken = true;
        self.repair().ok();
        false
    }
}

enum Next {
    Go,
    Close(oneshot::Sender<()>),
}

/// Returns what `fate` is to know of a group that was committed.
fn outcomes(group: &[Pending], results: &Results) -> Vec<(WriteId, u64)> {
    let done = group.iter().zip(results).filter_map(|(pending, result)| Some((pending, *result.as_ref().ok()?)));
    done.flat_map(|(pending, first)| pending.writes.iter().map(|write| write.id).zip(first..)).collect()
}

/// Takes the writes out whose id another write before them has.
fn take_repeats(group: &mut Vec<Pending>) -> Vec<Pending> {
    let mut seen = HashSet::with_capacity(group.len());
    group.extract_if(.., |pending| pending.writes.first().is_some_and(|write| !seen.insert(write.id))).collect()
}

fn answer_all(group: Vec<Pending>, error: &StoreError) {
    for pending in group {
        pending.done.send(Err(error.clone())).ok();
    }
}

fn answer_unknown(group: Vec<Pending>) {
    for pending in group {
        let id = pending.writes.first().map_or_else(WriteId::fresh, |write| write.id);
        pending.done.send(Err(StoreError::Unknown(id))).ok();
    }
}

/// Reads the counters; a new store has none.
pub(super) fn read_meta(engine: &Engine) -> Result<Meta, EngineError> {
    let meta = engine.read(|view| view.get(layout::META, Meta::decode))?;
    match meta {
        None => Ok(Meta::default()),
        Some(Some(meta)) => Ok(meta),
        Some(None) => Err(EngineError::Corrupt("the store's format is not known to this version".into())),
    }
}

/// Says to a caller why the engine refused; nothing was written.
pub(super) fn refusal(error: &EngineError) -> StoreError {
    match error {
        EngineError::Full => StoreError::Full,
        EngineError::Corrupt(text) => StoreError::Corrupt(text.clone()),
        EngineError::Broken(_) | EngineError::Closed => StoreError::Unavailable { after: UNAVAILABLE_AFTER },
    }
}
