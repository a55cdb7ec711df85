//! Stores that are broken on purpose, over the one in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use faas_model::Name;
use faas_store::{
    Abilities, Change, ChangeRecord, Committed, Fate, Fut, Key, Memory, Page, Partition, Read, Require, Row, Slice,
    Space, Store, StoreError, Transactions, Version, Write, WriteId,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::yield_now;
use tokio::time::Instant;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nothing: an answer may get lost, and its write may come late or never.
    LosesAnswers,
    /// A condition is judged before the write has its turn, so that two may hold.
    JudgesEarly,
    /// Some reads tell what was there before.
    ServesOldReads,
    /// Some writes are acknowledged and never made.
    LosesWrites,
    /// Some writes are made again later, as by a repeat under another id.
    WritesTwice,
    /// Some writes are refused and made.
    RefusesWhatItMakes,
    /// Some writes are made and said to have failed.
    DeniesWhatItMade,
}

#[derive(Debug)]
pub(crate) struct Broken {
    inner: Arc<Memory>,
    flaw: Flaw,
    random: Mutex<ChaCha8Rng>,
    /// What each row was before.
    old: Mutex<HashMap<Key, Row>>,
}

impl Broken {
    pub(crate) fn new(flaw: Flaw, seed: u64) -> Self {
        let random = Mutex::new(ChaCha8Rng::seed_from_u64(seed));
        Self { inner: Arc::default(), flaw, random, old: Mutex::default() }
    }

    /// Comes true once in `n` times.
    fn one_in(&self, n: u32) -> bool {
        self.random.lock().unwrap().random_ratio(1, n)
    }

    async fn read(&self, key: &Key, read: Read, by: Instant) -> Result<Option<Row>, StoreError> {
        let row = self.inner.get(key, read, by).await?;
        let before = match &row {
            Some(row) => self.old.lock().unwrap().insert(key.clone(), row.clone()),
            None => None,
        };
        let is_old = self.flaw == Flaw::ServesOldReads && self.one_in(8);
        Ok(if is_old { before.or(row) } else { row })
    }

    async fn make(&self, write: Write, by: Instant) -> Result<Committed, StoreError> {
        let done = Ok(Committed { version: Version(*write.id.0.as_bytes()) });
        match self.flaw {
            Flaw::LosesAnswers if self.one_in(20) => {
                let id = write.id;
                match self.random.lock().unwrap().random_range(0..3) {
                    0 => {}
                    turns => self.later(write, turns * 20),
                }
                Err(StoreError::Unknown(id))
            }
            Flaw::JudgesEarly => {
                let write = self.judged(write, by).await?;
                yield_now().await;
                self.inner.write(write, by).await
            }
            Flaw::LosesWrites if self.one_in(20) => {
                self.judged(write, by).await?;
                done
            }
            Flaw::WritesTwice if self.one_in(10) => {
                let done = self.inner.write(write.clone(), by).await?;
                let mut again = without_conditions(write);
                again.id = WriteId::fresh();
                self.later(again, 20);
                Ok(done)
            }
            Flaw::RefusesWhatItMakes => match self.inner.write(write.clone(), by).await {
                Err(StoreError::Conflict(row)) if self.one_in(4) => {
                    self.inner.write(without_conditions(write), by).await?;
                    Err(StoreError::Conflict(row))
                }
                told => told,
            },
            Flaw::DeniesWhatItMade if self.one_in(20) => {
                self.inner.write(write, by).await?;
                Err(StoreError::Deadline)
            }
            _ => self.inner.write(write, by).await,
        }
    }

    /// Judges the conditions of a write, which is then one without.
    async fn judged(&self, write: Write, by: Instant) -> Result<Write, StoreError> {
        for change in &write.changes {
            let key = Key { partition: write.partition.clone(), sort: change.sort().clone() };
            let row = self.inner.get(&key, Read::Linearizable, by).await?;
            let holds = match change.require() {
                Require::Nothing => true,
                Require::Absent => row.is_none(),
                Require::Present => row.is_some(),
                Require::Version(version) => row.as_ref().is_some_and(|row| row.version == *version),
            };
            if !holds {
                return Err(StoreError::Conflict(row));
            }
        }
        Ok(without_conditions(write))
    }

    /// Makes a write after others had `turns` turns.
    fn later(&self, write: Write, turns: usize) {
        let inner = self.inner.clone();
        tokio::spawn(async move {
            for _ in 0..turns {
                yield_now().await;
            }
            let by = Instant::now() + std::time::Duration::from_secs(60);
            inner.write(write, by).await.ok();
        });
    }
}

fn without_conditions(mut write: Write) -> Write {
    for change in &mut write.changes {
        match change {
            Change::Put { require, .. } | Change::Delete { require, .. } | Change::Check { require, .. } => {
                *require = Require::Nothing;
            }
        }
    }
    write
}

impl Store for Broken {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    fn get<'a>(&'a self, key: &'a Key, read: Read, by: Instant) -> Fut<'a, Option<Row>> {
        Box::pin(self.read(key, read, by))
    }

    fn get_many<'a>(&'a self, keys: &'a [Key], by: Instant) -> Fut<'a, Vec<Option<Row>>> {
        self.inner.get_many(keys, by)
    }

    fn write(&self, write: Write, by: Instant) -> Fut<'_, Committed> {
        Box::pin(self.make(write, by))
    }

    fn fate<'a>(&'a self, partition: &'a Partition, id: WriteId, by: Instant) -> Fut<'a, Fate> {
        self.inner.fate(partition, id, by)
    }

    fn scan<'a>(
        &'a self,
        partition: &'a Partition,
        range: Range<Bytes>,
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Row>> {
        self.inner.scan(partition, range, page, by)
    }

    fn partitions<'a>(
        &'a self,
        namespace: &'a Name,
        space: Space,
        prefix: &'a [u8],
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Bytes>> {
        self.inner.partitions(namespace, space, prefix, page, by)
    }

    fn changes<'a>(&'a self, namespace: &'a Name, page: Page, by: Instant) -> Fut<'a, Slice<ChangeRecord>> {
        self.inner.changes(namespace, page, by)
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        None
    }
}
