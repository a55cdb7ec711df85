//! The store of one machine: redb under one writer with group commit.
//!
//! - One process may open the file. Acknowledged means durable (fsync).
//! - Reads run inline on the caller's task, from a consistent cut.
//! - A queued write holds part of `queue_bytes_max`; who finds it used up waits
//!   until its deadline.
//! - A version is a sequence number over the whole store, never given twice.
//! - An expired row is absent at once and removed later, in slices; its end is
//!   not in the change log.

mod apply;
mod config;
mod engine;
mod layout;
mod log;
mod metrics;
mod outcomes;
mod reads;
mod status;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use faas_model::Name;
use futures_util::FutureExt;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use self::engine::{Engine, Opener};
use self::metrics::Metrics;
use self::outcomes::Outcomes;
use self::writer::{Claim, Op, Pending, Writer};
use crate::{
    Abilities, ChangeRecord, Committed, Fate, Fut, Key, Page, Partition, Read, Row, Slice, Space, Store, StoreError,
    Transactions, WallClock, Write, WriteId, bounds,
};

pub use self::config::Config;
pub use self::status::Status;

/// When to come back while the file is not open.
const UNAVAILABLE_AFTER: Duration = Duration::from_secs(1);
/// What an operation costs of the queue's bytes beside its own.
const OPERATION_BYTES: usize = 512;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store is open in another process: stop that one first")]
    Locked,
    /// Written by a version that this one cannot read.
    #[error("the store was written by another version of the format")]
    Format,
    /// The file does not read back.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// A setting is out of its bounds.
    #[error("the setting {key} is {value}, it is at least {least}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What it is.
        value: usize,
        /// What it is at least.
        least: usize,
    },
    /// The disk or the file system refused.
    #[error("the store's file cannot be used: {0}")]
    Io(#[from] std::io::Error),
}

/// The embedded store.
///
/// Dropping the last handle lets the writer finish what is queued and end by
/// itself; [`close`](Self::close) waits for it.
pub struct Embedded {
    engine: Arc<Engine>,
    queue: mpsc::Sender<Op>,
    budget: Arc<Semaphore>,
    budget_max: u32,
    clock: WallClock,
    metrics: Arc<Metrics>,
    /// Whether the writer has been asked to repair and has not yet tried.
    repair_asked: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Where the file is.
    path: Option<PathBuf>,
}

impl Embedded {
    /// Opens or creates the file at `path` and starts the writer.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is left running.
    pub fn open(path: &Path, config: Config) -> Result<Self, OpenError> {
        Self::open_with(path, config, WallClock::system())
    }

    /// Opens with a clock that judges expiry.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, config: Config, clock: WallClock) -> Result<Self, OpenError> {
        let cache = config.cache_bytes;
        Self::open_file(path, cache, config, clock)
    }

    /// Opens with the least page cache, for who reads everything once and little after that:
    /// [`forget_pages`](Self::forget_pages) opens it again with the whole one.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_to_read_once(path: &Path, config: Config) -> Result<Self, OpenError> {
        Self::open_file(path, config::CACHE_BYTES_MIN, config, WallClock::system())
    }

    fn open_file(path: &Path, first_cache: usize, config: Config, clock: WallClock) -> Result<Self, OpenError> {
        config.check()?;
        let new = !path.try_exists()?;
        let mut store = Self::start(engine::file(path, first_cache, config.cache_bytes), config, clock)?;
        if new {
            sync_folder(path)?;
        }
        store.path = Some(path.to_owned());
        Ok(store)
    }

    fn start(opener: Opener, config: Config, clock: WallClock) -> Result<Self, OpenError> {
        let engine = Arc::new(Engine::open(opener)?);
        let meta = match writer::read_meta(&engine) {
            Err(engine::EngineError::Corrupt(_)) => return Err(OpenError::Format),
            meta => meta?,
        };
        let budget_max = u32::try_from(config.queue_bytes_max.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let budget = Arc::new(Semaphore::new(budget_max as usize));
        let metrics = Arc::new(Metrics::register());
        metrics.log(&meta);
        let repair_asked = Arc::new(AtomicBool::new(false));
        let (queue, receiver) = mpsc::channel();
        let writer = Writer {
            engine: Arc::clone(&engine),
            queue: receiver,
            budget: Arc::clone(&budget),
            outcomes: Outcomes::new(config.outcomes_max, WallClock::system().now()),
            config,
            clock: clock.clone(),
            meta,
            metrics: Arc::clone(&metrics),
            broken: false,
            doubt: None,
            repair_asked: Arc::clone(&repair_asked),
            repair_at: Instant::now(),
            scratch: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("faas-store".into()).spawn(move || writer.run())?;
        Ok(Self {
            engine,
            queue,
            budget,
            budget_max,
            clock,
            metrics,
            repair_asked,
            thread: Mutex::new(Some(thread)),
            path: None,
        })
    }

    /// Gives the memory of the page cache back: for who has read everything once and will not again soon. The file is
    /// closed and opened again; reads wait meanwhile.
    pub async fn forget_pages(&self) {
        let (done, forgotten) = oneshot::channel();
        if self.queue.send(Op::Forget(done)).is_ok() {
            forgotten.await.ok();
        }
    }

    /// Returns what the store is like now.
    #[must_use]
    pub fn status(&self) -> Status {
        let file = self.path.as_ref().and_then(|path| path.metadata().ok());
        self.metrics.status(file.map(|file| file.len()))
    }

    /// Writes what is queued, closes the file and joins the writer. Everything after it is refused.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Op::Close(done)).is_ok() {
            // The writer closes too when it finds its other end gone.
            closed.await.ok();
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has nothing left to do but return.
            tokio::task::spawn_blocking(move || thread.join()).await.ok();
        }
    }

    /// Queues writes that commit together and waits for the first one's sequence number.
    async fn submit(&self, writes: Vec<Write>, bytes: usize, by: Instant) -> Result<u64, StoreError> {
        let id = writes.first().map_or_else(WriteId::fresh, |write| write.id);
        let cost = u32::try_from(bytes + OPERATION_BYTES * writes.len()).unwrap_or(u32::MAX).min(self.budget_max);
        match self.budget.try_acquire_many(cost) {
            Ok(permit) => permit.forget(),
            Err(_) => match timeout_at(by, self.budget.acquire_many(cost)).await {
                Ok(Ok(permit)) => permit.forget(),
                Ok(Err(_)) => return Err(closed()),
                Err(_) => return Err(StoreError::Deadline),
            },
        }
        let claim = Arc::new(Claim::default());
        let (done, answer) = oneshot::channel();
        let pending = Pending { writes, bytes, cost, claim: Arc::clone(&claim), done };
        // Dropping this future takes a write back that has not begun.
        let claim = TakeBack(claim);
        self.queue.send(Op::Write(pending)).map_err(|_| closed())?;
        match timeout_at(by, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) if claim.0.take_back() => Err(closed()),
            Err(_) if claim.0.take_back() => Err(StoreError::Deadline),
            Ok(Err(_)) | Err(_) => Err(StoreError::Unknown(id)),
        }
    }

    /// Runs a read inline; a broken engine is reported to the writer.
    fn read<T>(&self, by: Instant, f: impl FnOnce(&Engine) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let openings = self.begin_read(by)?;
        let result = f(&self.engine);
        self.end_read(openings, &result);
        result
    }

    /// Returns how often the engine was opened before the read.
    fn begin_read(&self, by: Instant) -> Result<u64, StoreError> {
        if Instant::now() > by {
            return Err(StoreError::Deadline);
        }
        self.metrics.reads.increment(1);
        Ok(self.engine.openings())
    }

    fn end_read<T>(&self, openings: u64, result: &Result<T, StoreError>) {
        let broken = matches!(result, Err(StoreError::Unavailable { .. } | StoreError::Full));
        if broken && !self.repair_asked.swap(true, Ordering::AcqRel) {
            // After close nobody listens, and nothing is to be repaired.
            self.queue.send(Op::Repair { openings }).ok();
        }
    }
}

/// Takes a write back when it is dropped before the writer began it.
struct TakeBack(Arc<Claim>);

impl Drop for TakeBack {
    fn drop(&mut self) {
        self.0.take_back();
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable { after: UNAVAILABLE_AFTER }
}

/// A file is there after a power cut only once its folder is on disk.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => std::fs::File::open(folder)?.sync_all(),
        _ => std::fs::File::open(".")?.sync_all(),
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Store for Embedded {
    fn abilities(&self) -> Abilities {
        Abilities { ordered_partitions: true, global_sequence: true, transactions: true }
    }

    fn get<'a>(&'a self, key: &'a Key, _read: Read, by: Instant) -> Fut<'a, Option<Row>> {
        let row = bounds::key(key).and_then(|()| {
            self.read(by, |engine| reads::get(engine, key, self.clock.now()).map_err(|e| writer::refusal(&e)))
        });
        std::future::ready(row).boxed()
    }

    fn get_many<'a>(&'a self, keys: &'a [Key], by: Instant) -> Fut<'a, Vec<Option<Row>>> {
        async move {
            bounds::keys(keys)?;
            let openings = self.begin_read(by)?;
            let rows = reads::get_many(&self.engine, keys, self.clock.now()).await;
            self.end_read(openings, &rows);
            rows
        }
        .boxed()
    }

    fn write(&self, write: Write, by: Instant) -> Fut<'_, Committed> {
        async move {
            let bytes = bounds::write(&write)?;
            let sequence = self.submit(vec![write], bytes, by).await?;
            Ok(Committed { version: layout::version(sequence) })
        }
        .boxed()
    }

    fn fate<'a>(&'a self, partition: &'a Partition, id: WriteId, by: Instant) -> Fut<'a, Fate> {
        async move {
            bounds::partition(partition)?;
            let (done, answer) = oneshot::channel();
            self.queue.send(Op::Fate(id, done)).map_err(|_| closed())?;
            match timeout_at(by, answer).await {
                Ok(Ok(fate)) => fate,
                Ok(Err(_)) => Err(closed()),
                Err(_) => Err(StoreError::Deadline),
            }
        }
        .boxed()
    }

    fn scan<'a>(
        &'a self,
        partition: &'a Partition,
        range: Range<Bytes>,
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Row>> {
        let slice = bounds::partition(partition)
            .and_then(|()| bounds::page(&page))
            .and_then(|()| self.read(by, |engine| reads::scan(engine, partition, &range, &page, self.clock.now())));
        std::future::ready(slice).boxed()
    }

    fn partitions<'a>(
        &'a self,
        namespace: &'a Name,
        space: Space,
        prefix: &'a [u8],
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Bytes>> {
        let slice = bounds::page(&page).and_then(|()| {
            self.read(by, |engine| reads::partitions(engine, namespace, space, prefix, &page, self.clock.now()))
        });
        std::future::ready(slice).boxed()
    }

    fn changes<'a>(&'a self, namespace: &'a Name, page: Page, by: Instant) -> Fut<'a, Slice<ChangeRecord>> {
        let slice = bounds::page(&page).and_then(|()| self.read(by, |engine| reads::changes(engine, namespace, &page)));
        std::future::ready(slice).boxed()
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
    }
}

impl Transactions for Embedded {
    fn write_all(&self, writes: Vec<Write>, by: Instant) -> Fut<'_, Vec<Committed>> {
        async move {
            let bytes = bounds::transaction(&writes)?;
            let count = writes.len();
            let first = self.submit(writes, bytes, by).await?;
            Ok((first..).take(count).map(|sequence| Committed { version: layout::version(sequence) }).collect())
        }
        .boxed()
    }
}
