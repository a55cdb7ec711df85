//! A store that fails when it is told to.

use std::sync::Mutex;

use faas_store::{
    Abilities, ChangeRecord, Committed, Fate, Fut, Key, Page, Partition, Read, Row, Slice, Space, StoreError,
    Transactions, Write, WriteId,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;

/// What becomes of the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It takes effect, but the answer is lost.
    LostAnswer,
    /// It does not take effect, and the answer is lost.
    LostWrite,
    /// The store is away.
    Away,
}

/// Passes everything on, save the writes it has faults for.
#[derive(Debug)]
pub(super) struct Flaky {
    inner: Memory,
    /// How many writes to pass on first, and then what.
    faults: Mutex<Option<(usize, Fault)>>,
    /// The write that is to be overtaken.
    held: Mutex<Option<Held>>,
}

/// A write that waits before it is passed on.
#[derive(Debug)]
struct Held {
    /// How many writes to pass on first.
    after: usize,
    reached: oneshot::Sender<()>,
    may_go: oneshot::Receiver<()>,
}

impl Flaky {
    pub(super) fn new() -> Arc<Self> {
        Self::with(Memory::new())
    }

    pub(super) fn with(inner: Memory) -> Arc<Self> {
        Arc::new(Self { inner, faults: Mutex::default(), held: Mutex::default() })
    }

    /// Lets `after` writes pass, then one fail.
    pub(super) fn fail(&self, after: usize, fault: Fault) {
        *self.faults.lock().unwrap() = Some((after, fault));
    }

    /// Runs `change`, and `meanwhile` between what it read and the write it makes of it.
    pub(super) async fn overtaken<A, B>(
        &self,
        change: impl Future<Output = A>,
        meanwhile: impl Future<Output = B>,
    ) -> (A, B) {
        self.overtaken_after(0, change, meanwhile).await
    }

    /// As [`overtaken`](Self::overtaken), before the write that follows the first `after`.
    pub(super) async fn overtaken_after<A, B>(
        &self,
        after: usize,
        change: impl Future<Output = A>,
        meanwhile: impl Future<Output = B>,
    ) -> (A, B) {
        let ((reached, comes), (go, may_go)) = (oneshot::channel(), oneshot::channel());
        *self.held.lock().unwrap() = Some(Held { after, reached, may_go });
        let meanwhile = async {
            comes.await.unwrap();
            let done = meanwhile.await;
            go.send(()).unwrap();
            done
        };
        futures_util::future::join(change, meanwhile).await
    }

    /// Returns whether this write is to be overtaken.
    fn held(&self) -> Option<Held> {
        let mut held = self.held.lock().unwrap();
        match held.as_mut() {
            Some(Held { after, .. }) if *after > 0 => {
                *after -= 1;
                None
            }
            _ => held.take(),
        }
    }

    fn fault(&self) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        match faults.as_mut() {
            Some((0, fault)) => {
                let fault = *fault;
                *faults = None;
                Some(fault)
            }
            Some((after, _)) => {
                *after -= 1;
                None
            }
            None => None,
        }
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
        let id = write.id;
        Box::pin(async move {
            if let Some(Held { reached, may_go, .. }) = self.held() {
                reached.send(()).unwrap();
                may_go.await.unwrap();
            }
            match self.fault() {
                None => self.inner.write(write, by).await,
                Some(Fault::LostAnswer) => {
                    self.inner.write(write, by).await?;
                    Err(StoreError::Unknown(id))
                }
                Some(Fault::LostWrite) => Err(StoreError::Unknown(id)),
                Some(Fault::Away) => Err(StoreError::Unavailable { after: std::time::Duration::ZERO }),
            }
        })
    }

    fn fate<'a>(&'a self, partition: &'a Partition, id: WriteId, by: Instant) -> Fut<'a, Fate> {
        self.inner.fate(partition, id, by)
    }

    fn scan<'a>(
        &'a self,
        partition: &'a Partition,
        range: std::ops::Range<bytes::Bytes>,
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
    ) -> Fut<'a, Slice<bytes::Bytes>> {
        self.inner.partitions(namespace, space, prefix, page, by)
    }

    fn changes<'a>(&'a self, namespace: &'a Name, page: Page, by: Instant) -> Fut<'a, Slice<ChangeRecord>> {
        self.inner.changes(namespace, page, by)
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        self.inner.transactions()
    }
}
