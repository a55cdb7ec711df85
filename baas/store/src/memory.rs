//! A store in memory for tests, as strict as the weakest real one.
//!
//! It promises nothing beyond the seam: no transactions, versions that are not
//! in order, partitions in scrambled order (but for [`Space::Value`]), a change
//! log in shards whose order holds within a partition only. Code that works
//! here does not lean on embedded habits.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{Bound as Edge, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use faas_model::Name;
use futures_util::FutureExt;
use tokio::time::Instant;

use crate::clock::expired;
use crate::cursor::{self, Kind};
use crate::{
    Abilities, Change, ChangeRecord, ChangedRow, Committed, Fate, Fut, Key, Logged, Page, Partition, Read, Require,
    Row, Slice, Space, Store, StoreError, Transactions, Version, WallClock, WallTime, Write, WriteId, bounds,
};

/// Shards of the change log.
const SHARDS: usize = 4;

/// A partition-strict store in memory.
#[derive(Default)]
pub struct Memory {
    clock: WallClock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<Partition, BTreeMap<Bytes, Row>>,
    log: [Vec<ChangeRecord>; SHARDS],
    committed: HashMap<WriteId, Committed>,
    fenced: HashSet<WriteId>,
}

impl Memory {
    /// Returns an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns an empty store whose expiry follows `clock`.
    #[must_use]
    pub fn with_clock(clock: WallClock) -> Self {
        Self { clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl State {
    fn row(&self, partition: &Partition, sort: &Bytes, now: WallTime) -> Option<&Row> {
        self.rows.get(partition)?.get(sort).filter(|row| !expired(row.expires, now))
    }

    fn write(&mut self, write: &Write, now: WallTime) -> Result<Committed, StoreError> {
        if let Some(done) = self.committed.get(&write.id) {
            return Ok(done.clone());
        }
        if self.fenced.contains(&write.id) {
            return Err(StoreError::Deadline);
        }
        for change in &write.changes {
            let current = self.row(&write.partition, change.sort(), now);
            let holds = match change.require() {
                Require::Nothing => true,
                Require::Absent => current.is_none(),
                Require::Present => current.is_some(),
                Require::Version(version) => current.is_some_and(|row| row.version == *version),
            };
            if !holds {
                return Err(StoreError::Conflict(current.cloned()));
            }
        }
        let version = Version(*write.id.0.as_bytes());
        self.apply(write, version);
        let done = Committed { version };
        self.committed.insert(write.id, done.clone());
        Ok(done)
    }

    fn apply(&mut self, write: &Write, version: Version) {
        let rows = self.rows.entry(write.partition.clone()).or_default();
        let mut changed = Vec::new();
        for change in &write.changes {
            match change {
                Change::Put { sort, value, expires, .. } => {
                    let row = Row { sort: sort.clone(), value: value.clone(), version, expires: *expires };
                    rows.insert(sort.clone(), row);
                    let value = (write.log == Logged::Values).then(|| value.clone());
                    changed.push(ChangedRow { sort: sort.clone(), value, removed: false });
                }
                Change::Delete { sort, .. } => {
                    if rows.remove(sort).is_some() {
                        changed.push(ChangedRow { sort: sort.clone(), value: None, removed: true });
                    }
                }
                Change::Check { .. } => {}
            }
        }
        if rows.is_empty() {
            self.rows.remove(&write.partition);
        }
        if write.log != Logged::No && !changed.is_empty() {
            let record = ChangeRecord { partition: write.partition.clone(), id: write.id, version, rows: changed };
            let shard = usize::try_from(scramble(&write.partition) % SHARDS as u64).unwrap_or_default();
            if let Some(log) = self.log.get_mut(shard) {
                log.push(record);
            }
        }
    }
}

fn scramble(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Takes items until the page is full; says whether any were left.
fn take<T>(page: &Page, items: impl Iterator<Item = T>, bytes: impl Fn(&T) -> usize) -> (Vec<T>, bool) {
    let (mut taken, mut total) = (Vec::new(), 0);
    for item in items {
        total += bytes(&item);
        let full = taken.len() >= page.rows_max as usize || total > page.bytes_max as usize;
        if full && !taken.is_empty() {
            return (taken, true);
        }
        taken.push(item);
    }
    (taken, false)
}

impl Store for Memory {
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn get<'a>(&'a self, key: &'a Key, _read: Read, by: Instant) -> Fut<'a, Option<Row>> {
        async move {
            bounds::key(key)?;
            turn(by).await?;
            Ok(self.state().row(&key.partition, &key.sort, self.clock.now()).cloned())
        }
        .boxed()
    }

    fn get_many<'a>(&'a self, keys: &'a [Key], by: Instant) -> Fut<'a, Vec<Option<Row>>> {
        async move {
            bounds::keys(keys)?;
            let mut rows = Vec::with_capacity(keys.len());
            let mut bytes = 0;
            for key in keys {
                let row = self.get(key, Read::Linearizable, by).await?;
                bounds::add_to_answer(&mut bytes, row.as_ref())?;
                rows.push(row);
            }
            Ok(rows)
        }
        .boxed()
    }

    fn write(&self, write: Write, by: Instant) -> Fut<'_, Committed> {
        async move {
            bounds::write(&write)?;
            turn(by).await?;
            let now = self.clock.now();
            let done = self.state().write(&write, now);
            // The answer may get lost after the effect, as on a real store.
            tokio::task::yield_now().await;
            done
        }
        .boxed()
    }

    fn fate<'a>(&'a self, partition: &'a Partition, id: WriteId, by: Instant) -> Fut<'a, Fate> {
        async move {
            bounds::partition(partition)?;
            turn(by).await?;
            let mut state = self.state();
            if let Some(done) = state.committed.get(&id) {
                return Ok(Fate::Committed(done.clone()));
            }
            state.fenced.insert(id);
            Ok(Fate::Never)
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
        async move {
            bounds::partition(partition)?;
            bounds::page(&page)?;
            let from = match cursor::open(Kind::Scan, &page)? {
                Some(after) if after >= &range.start[..] => Edge::Excluded(Bytes::copy_from_slice(after)),
                _ => Edge::Included(range.start.clone()),
            };
            turn(by).await?;
            let now = self.clock.now();
            let state = self.state();
            let Some(rows) = state.rows.get(partition) else { return Ok(Slice { items: Vec::new(), next: None }) };
            let within = |sort: &Bytes| range.end.is_empty() || sort < &range.end;
            let live = rows
                .range((from, Edge::Unbounded))
                .map(|(_, row)| row)
                .take_while(|row| within(&row.sort))
                .filter(|row| !expired(row.expires, now))
                .cloned();
            let (items, more) = take(&page, live, |row| row.value.len());
            let next = items.last().filter(|_| more).map(|row| cursor::seal(Kind::Scan, &row.sort));
            Ok(Slice { items, next })
        }
        .boxed()
    }

    fn partitions<'a>(
        &'a self,
        namespace: &'a Name,
        space: Space,
        prefix: &'a [u8],
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Bytes>> {
        async move {
            bounds::page(&page)?;
            turn(by).await?;
            let after = cursor::open(Kind::Partitions, &page)?;
            let now = self.clock.now();
            let state = self.state();
            let mut names: Vec<_> = state
                .rows
                .iter()
                .filter(|(of, _)| of.namespace == *namespace && of.space == space && of.name.starts_with(prefix))
                .filter(|(_, rows)| rows.values().any(|row| !expired(row.expires, now)))
                .map(|(of, _)| (place(space, &of.name), of.name.clone()))
                .filter(|(place, _)| after.is_none_or(|after| &place[..] > after))
                .collect();
            names.sort();
            let (items, more) = take(&page, names.into_iter(), |(_, name)| name.len());
            let next = items.last().filter(|_| more).map(|(place, _)| cursor::seal(Kind::Partitions, place));
            Ok(Slice { items: items.into_iter().map(|(_, name)| name).collect(), next })
        }
        .boxed()
    }

    fn changes<'a>(&'a self, namespace: &'a Name, page: Page, by: Instant) -> Fut<'a, Slice<ChangeRecord>> {
        async move {
            bounds::page(&page)?;
            turn(by).await?;
            let mut at = match cursor::open(Kind::Changes, &page)? {
                None => [0; SHARDS],
                Some(bytes) => positions(bytes).ok_or(cursor::FOREIGN)?,
            };
            let state = self.state();
            let mut items = Vec::new();
            // The last shard first, so that nobody takes the order of shards for an order of time.
            for (log, position) in state.log.iter().zip(at.iter_mut()).rev() {
                for record in log.iter().skip(usize::try_from(*position).unwrap_or(usize::MAX)) {
                    if items.len() >= page.rows_max as usize {
                        break;
                    }
                    *position += 1;
                    if record.partition.namespace == *namespace {
                        items.push(record.clone());
                    }
                }
            }
            let bytes: Vec<u8> = at.iter().flat_map(|position| position.to_be_bytes()).collect();
            Ok(Slice { items, next: Some(cursor::seal(Kind::Changes, &bytes)) })
        }
        .boxed()
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        None
    }
}

/// Lets others run, so that tests see interleavings, and keeps the deadline.
async fn turn(by: Instant) -> Result<(), StoreError> {
    tokio::task::yield_now().await;
    if Instant::now() > by { Err(StoreError::Deadline) } else { Ok(()) }
}

/// Returns what partitions are ordered by: a hash before the name, but for `Space::Value`.
fn place(space: Space, name: &Bytes) -> Vec<u8> {
    let mut place = Vec::with_capacity(8 + name.len());
    if space != Space::Value {
        place.extend_from_slice(&scramble(name).to_be_bytes());
    }
    place.extend_from_slice(name);
    place
}

fn positions(bytes: &[u8]) -> Option<[u64; SHARDS]> {
    let mut at = [0; SHARDS];
    let (chunks, []) = bytes.as_chunks::<8>() else { return None };
    if chunks.len() != SHARDS {
        return None;
    }
    for (position, chunk) in at.iter_mut().zip(chunks) {
        *position = u64::from_be_bytes(*chunk);
    }
    Some(at)
}
