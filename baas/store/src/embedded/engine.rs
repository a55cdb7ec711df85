//! The engine: the only file that knows redb. Five functions stand between it
//! and the rest (`read`, `view`, `commit`, `reopen`, `close`), so that another ordered
//! engine can take its place.
//!
//! redb refuses everything after its first I/O error; [`Engine::reopen`] brings
//! it back without a restart of the process.

use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use fail::fail_point;
use redb::{
    Builder, Database, DatabaseError, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageError, Table,
    TableDefinition,
};

use super::OpenError;

/// One table: the first byte of a key says what it is (see `layout`).
const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("faas");

/// What the engine can fail with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EngineError {
    /// No space is left.
    Full,
    /// An I/O error; `reopen` may help.
    Broken(String),
    /// Stored bytes do not read back.
    Corrupt(String),
    /// Closed, or broken and not yet reopened.
    Closed,
}

/// A transaction that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: EngineError,
    /// Whether it may have taken effect all the same: it failed in its very commit.
    pub(super) maybe_done: bool,
}

impl<E: Into<EngineError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { error: error.into(), maybe_done: false }
    }
}

/// Opens the database again; tests put a failing disk under it.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// One database, open or not.
pub(super) struct Engine {
    opener: Opener,
    open: RwLock<Option<Open>>,
    /// Counts openings, so that one failure seen by many is repaired once.
    openings: AtomicU64,
}

struct Open {
    database: Arc<Database>,
    /// The newest committed state. One snapshot for all reads spares each of them a transaction; it is
    /// replaced with every commit, so it never holds more than one commit's old pages.
    view: Arc<View>,
}

/// Returns the opener of a file; the first opening may have another page cache than the later ones.
pub(super) fn file(path: &Path, first_cache_bytes: usize, cache_bytes: usize) -> Opener {
    let (path, next) = (path.to_owned(), AtomicUsize::new(first_cache_bytes));
    Box::new(move || {
        let cache = next.swap(cache_bytes, Ordering::Relaxed);
        Builder::new().set_cache_size(cache).create(&path)
    })
}

impl Engine {
    /// Opens the database and makes sure that its table is there.
    pub(super) fn open(opener: Opener) -> Result<Self, OpenError> {
        let open = RwLock::new(Some(Open::new(opener()?)?));
        Ok(Self { opener, open, openings: AtomicU64::new(0) })
    }

    /// Reads from the newest committed state.
    pub(super) fn read<T>(&self, f: impl FnOnce(&View) -> Result<T, EngineError>) -> Result<T, EngineError> {
        f(&*self.view()?)
    }

    /// Returns the newest committed state. Nobody holds it while waiting: closing waits for it.
    pub(super) fn view(&self) -> Result<Arc<View>, EngineError> {
        self.opened(|open| Arc::clone(&open.view))
    }

    /// Runs `f` in one write transaction and makes it durable; an error or no change leaves nothing.
    pub(super) fn commit<T>(&self, f: impl FnOnce(&mut Batch<'_>) -> Result<T, EngineError>) -> Result<T, Failed> {
        let database = self.opened(|open| Arc::clone(&open.database))?;
        let (result, view) = commit(&database, f)?;
        if let Some(open) = self.open.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // What was acknowledged is seen by every read that begins afterwards.
            open.view = Arc::new(view);
        }
        Ok(result)
    }

    /// Closes the database and opens it again. Reads wait meanwhile.
    pub(super) fn reopen(&self) -> Result<(), OpenError> {
        let mut guard = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = guard.take() {
            open.close();
        }
        *guard = Some(Open::new((self.opener)()?)?);
        self.openings.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Returns how often the database was reopened.
    pub(super) fn openings(&self) -> u64 {
        self.openings.load(Ordering::Acquire)
    }

    /// Closes the database; everything fails with `Closed` from here on.
    pub(super) fn close(&self) {
        let open = self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(open) = open {
            open.close();
        }
    }

    fn opened<T>(&self, f: impl FnOnce(&Open) -> T) -> Result<T, EngineError> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(f).ok_or(EngineError::Closed)
    }
}

impl Open {
    fn new(database: Database) -> Result<Self, OpenError> {
        let there = database.begin_read().map_err(EngineError::from)?.open_table(TABLE);
        let view = match there {
            Ok(table) => View { table },
            Err(_) => {
                let create = |batch: &mut Batch<'_>| {
                    batch.dirty = true;
                    Ok(())
                };
                commit(&database, create).map_err(|failed| failed.error)?.1
            }
        };
        Ok(Self { database: Arc::new(database), view: Arc::new(view) })
    }

    /// Gives the file and its lock back. Reads that are under way, a few milliseconds at most, end before.
    fn close(self) {
        let Self { database, mut view } = self;
        loop {
            match Arc::try_unwrap(view) {
                Ok(view) => break drop(view),
                Err(shared) => view = shared,
            }
            std::thread::yield_now();
        }
        drop(database);
    }
}

/// Runs `f` in a transaction, makes it durable, and returns the view of what is committed then.
fn commit<T>(
    database: &Database,
    f: impl FnOnce(&mut Batch<'_>) -> Result<T, EngineError>,
) -> Result<(T, View), Failed> {
    let mut transaction = database.begin_write()?;
    // Opening after a kill takes milliseconds instead of a walk through the whole file.
    transaction.set_quick_repair(true);
    let mut batch = Batch { table: transaction.open_table(TABLE)?, dirty: false };
    let result = f(&mut batch)?;
    let dirty = batch.dirty;
    drop(batch);
    let maybe_done = |error: EngineError| Failed { error, maybe_done: true };
    if dirty {
        fail_point!("store-before-commit");
        transaction.commit().map_err(|error| maybe_done(error.into()))?;
        fail_point!("store-after-commit");
    } else {
        transaction.abort().map_err(EngineError::from)?;
    }
    let read = database.begin_read().map_err(|error| maybe_done(error.into()))?;
    let table = read.open_table(TABLE).map_err(|error| maybe_done(error.into()))?;
    Ok((result, View { table }))
}

/// A consistent cut for reading.
pub(super) struct View {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

/// A write transaction; reads see its own changes.
pub(super) struct Batch<'t> {
    table: Table<'t, &'static [u8], &'static [u8]>,
    dirty: bool,
}

impl View {
    pub(super) fn get<T>(&self, key: &[u8], f: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, EngineError> {
        Ok(self.table.get(key)?.map(|guard| f(guard.value())))
    }

    pub(super) fn range(&self, from: &[u8], to: &[u8], visit: impl Visit) -> Result<(), EngineError> {
        range(&self.table, from, to, visit)
    }
}

impl Batch<'_> {
    /// Returns whether anything was changed.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub(super) fn get<T>(&self, key: &[u8], f: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, EngineError> {
        Ok(self.table.get(key)?.map(|guard| f(guard.value())))
    }

    pub(super) fn range(&self, from: &[u8], to: &[u8], visit: impl Visit) -> Result<(), EngineError> {
        range(&self.table, from, to, visit)
    }

    /// Writes a value and shows the old one to `f`.
    pub(super) fn put<T>(
        &mut self,
        key: &[u8],
        value: &[u8],
        f: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, EngineError> {
        self.dirty = true;
        Ok(self.table.insert(key, value)?.map(|old| f(old.value())))
    }

    /// Removes a value and shows it to `f`.
    pub(super) fn remove<T>(&mut self, key: &[u8], f: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, EngineError> {
        let old = self.table.remove(key)?.map(|old| f(old.value()));
        self.dirty |= old.is_some();
        Ok(old)
    }
}

/// Looks at a key and its value and says whether to go on.
pub(super) trait Visit: FnMut(&[u8], &[u8]) -> ControlFlow<()> {}
impl<F: FnMut(&[u8], &[u8]) -> ControlFlow<()>> Visit for F {}

/// Visits the keys from `from` on, before `to`, in byte order.
fn range(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    from: &[u8],
    to: &[u8],
    mut visit: impl Visit,
) -> Result<(), EngineError> {
    if from >= to {
        return Ok(());
    }
    for entry in table.range::<&[u8]>((Bound::Included(from), Bound::Excluded(to)))? {
        let (key, value) = entry?;
        if visit(key.value(), value.value()).is_break() {
            break;
        }
    }
    Ok(())
}

impl From<StorageError> for EngineError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Corrupted(text) => Self::Corrupt(text),
            StorageError::Io(error) if out_of_space(error.kind()) => Self::Full,
            StorageError::DatabaseClosed => Self::Closed,
            other => Self::Broken(other.to_string()),
        }
    }
}

fn out_of_space(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(kind, StorageFull | QuotaExceeded | FileTooLarge)
}

macro_rules! storage_part {
    ($($error:ty: $pattern:path),*) => {$(
        impl From<$error> for EngineError {
            fn from(error: $error) -> Self {
                match error {
                    $pattern(storage) => storage.into(),
                    other => Self::Broken(other.to_string()),
                }
            }
        }
    )*};
}
storage_part!(
    redb::TransactionError: redb::TransactionError::Storage,
    redb::TableError: redb::TableError::Storage,
    redb::CommitError: redb::CommitError::Storage
);

impl From<DatabaseError> for OpenError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::Locked,
            DatabaseError::UpgradeRequired(_) => Self::Format,
            DatabaseError::Storage(StorageError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                Self::Damaged(error.to_string())
            }
            DatabaseError::Storage(StorageError::Io(error)) => Self::Io(error),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<EngineError> for OpenError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Full => Self::Io(std::io::ErrorKind::StorageFull.into()),
            EngineError::Corrupt(text) => Self::Damaged(text),
            EngineError::Broken(text) => Self::Io(std::io::Error::other(text)),
            EngineError::Closed => Self::Io(std::io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Copies bytes out of the engine.
pub(super) fn copied(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
