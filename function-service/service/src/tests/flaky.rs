//! A store that takes no write when it is told so.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use faas_store::{
    Abilities, ChangeRecord, Committed, Fate, Fut, Key, Page, Partition, Read, Row, Slice, Space, StoreError,
    Transactions, Write, WriteId,
};
use tokio::time::Instant;

use super::*;

/// Passes everything on, save writes while it is away and scans while it is blind.
#[derive(Debug)]
pub(super) struct Flaky {
    inner: Arc<Memory>,
    away: AtomicBool,
    blind: AtomicBool,
    /// Nobody knows what becomes of writes of the function of this name.
    vague: Mutex<Option<&'static str>>,
}

impl Flaky {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(Memory::new()),
            away: AtomicBool::new(false),
            blind: AtomicBool::new(false),
            vague: Mutex::default(),
        })
    }

    pub(super) fn away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub(super) fn blind(&self, blind: bool) {
        self.blind.store(blind, Ordering::SeqCst);
    }

    /// Makes writes of a function, and what became of them, unknown.
    pub(super) fn vague(&self, function: Option<&'static str>) {
        *self.vague.lock().unwrap() = function;
    }

    fn is_vague(&self, partition: &Partition) -> bool {
        self.vague.lock().unwrap().is_some_and(|function| partition.name == function.as_bytes())
    }

    /// Returns the store as another process sees it.
    pub(super) fn beyond(&self) -> Arc<dyn Store> {
        self.inner.clone()
    }
}

impl Store for Flaky {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    fn get<'a>(&'a self, key: &'a Key, read: Read, by: Instant) -> Fut<'a, Option<Row>> {
        self.inner.get(key, read, by)
    }

    fn get_many<'a>(&'a self, keys: &'a [Key], by: Instant) -> Fut<'a, Vec<Option<Row>>> {
        self.inner.get_many(keys, by)
    }

    fn write(&self, write: Write, by: Instant) -> Fut<'_, Committed> {
        if self.away.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Unavailable { after: Duration::ZERO }) });
        }
        if self.is_vague(&write.partition) {
            return Box::pin(async move { Err(StoreError::Unknown(write.id)) });
        }
        self.inner.write(write, by)
    }

    fn fate<'a>(&'a self, partition: &'a Partition, id: WriteId, by: Instant) -> Fut<'a, Fate> {
        if self.is_vague(partition) {
            return Box::pin(async { Err(StoreError::Unavailable { after: Duration::ZERO }) });
        }
        self.inner.fate(partition, id, by)
    }

    fn scan<'a>(
        &'a self,
        partition: &'a Partition,
        range: std::ops::Range<Bytes>,
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Row>> {
        if self.blind.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Unavailable { after: Duration::ZERO }) });
        }
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
        self.inner.transactions()
    }
}
