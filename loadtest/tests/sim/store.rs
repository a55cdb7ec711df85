//! A store that is slow, away, or loses answers, over one in memory that outlives crashes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use faas_model::Name;
use faas_store::{
    Abilities, ChangeRecord, Committed, Fate, Fut, Key, Memory, Page, Partition, Read, Row, Slice, Space, Store,
    StoreError, Transactions, Write, WriteId,
};
use tokio::time::{Instant, sleep};

use crate::chance::Chance;

/// How the store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fine,
    /// Some writes lose their answer, some never take effect.
    Shaky,
    /// Nothing can be reached.
    Away,
}

pub(crate) struct Flaky {
    inner: Arc<Memory>,
    weather: AtomicU8,
    chance: Chance,
}

impl std::fmt::Debug for Flaky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flaky")
    }
}

const AWAY: StoreError = StoreError::Unavailable { after: Duration::from_millis(100) };

impl Flaky {
    pub(crate) fn new(inner: Arc<Memory>, chance: Chance) -> Self {
        Self { inner, weather: AtomicU8::new(0), chance }
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.store(weather as u8, Ordering::SeqCst);
    }

    fn is(&self, weather: Weather) -> bool {
        self.weather.load(Ordering::SeqCst) == weather as u8
    }

    /// Takes its time, then fails if the store is away.
    async fn reach(&self) -> Result<(), StoreError> {
        match self.chance.below(8) {
            0..5 => {}
            5 => tokio::task::yield_now().await,
            6 => sleep(self.chance.millis(1, 5)).await,
            _ => sleep(self.chance.millis(5, 40)).await,
        }
        if self.is(Weather::Away) { Err(AWAY) } else { Ok(()) }
    }
}

impl Store for Flaky {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    fn get<'a>(&'a self, key: &'a Key, read: Read, by: Instant) -> Fut<'a, Option<Row>> {
        Box::pin(async move {
            self.reach().await?;
            self.inner.get(key, read, by).await
        })
    }

    fn get_many<'a>(&'a self, keys: &'a [Key], by: Instant) -> Fut<'a, Vec<Option<Row>>> {
        Box::pin(async move {
            self.reach().await?;
            self.inner.get_many(keys, by).await
        })
    }

    fn write(&self, write: Write, by: Instant) -> Fut<'_, Committed> {
        let id = write.id;
        Box::pin(async move {
            self.reach().await?;
            let fault = if self.is(Weather::Shaky) { self.chance.below(12) } else { 12 };
            match fault {
                0 => Err(StoreError::Unknown(id)),
                1 => Err(AWAY),
                2 => {
                    self.inner.write(write, by).await?;
                    Err(StoreError::Unknown(id))
                }
                _ => {
                    let done = self.inner.write(write, by).await;
                    // The answer takes its time as well: a crash may come in between.
                    if self.chance.one_in(4) {
                        sleep(self.chance.millis(1, 10)).await;
                    }
                    done
                }
            }
        })
    }

    fn fate<'a>(&'a self, partition: &'a Partition, id: WriteId, by: Instant) -> Fut<'a, Fate> {
        Box::pin(async move {
            self.reach().await?;
            self.inner.fate(partition, id, by).await
        })
    }

    fn scan<'a>(
        &'a self,
        partition: &'a Partition,
        range: Range<Bytes>,
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Row>> {
        Box::pin(async move {
            self.reach().await?;
            self.inner.scan(partition, range, page, by).await
        })
    }

    fn partitions<'a>(
        &'a self,
        namespace: &'a Name,
        space: Space,
        prefix: &'a [u8],
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Bytes>> {
        Box::pin(async move {
            self.reach().await?;
            self.inner.partitions(namespace, space, prefix, page, by).await
        })
    }

    fn changes<'a>(&'a self, namespace: &'a Name, page: Page, by: Instant) -> Fut<'a, Slice<ChangeRecord>> {
        self.inner.changes(namespace, page, by)
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        self.inner.transactions()
    }
}
