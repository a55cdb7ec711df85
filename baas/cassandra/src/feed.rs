//! The change log: in order per partition, found by slots of ten seconds in which partitions changed.
//!
//! A write announces its partition in the present slot before it is made, and puts its record into the
//! partition with the write itself. A reader takes the announcements, then reads the records of each
//! announced partition with a serial read: what that does not show can only be made later, with a later
//! time of the cluster's. So everything up to the moment the announcements were read is complete, less the
//! difference of clocks; what is given beyond that moment is remembered in the cursor.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use faas_model::Name;
use faas_store::cursor::{self, Kind};
use faas_store::{ChangeRecord, Page, Partition, Slice, StoreError, Version, WriteId};
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use scylla::value::CqlValue;
use tokio::time::Instant;
use uuid::Uuid;

use crate::layout;
use crate::session::corrupt;
use crate::store::{Announcement, Cassandra};
use crate::writes::{big, blob};

/// Microseconds of one slot.
const SLOT: u64 = 10_000_000;
/// Longest time from the announcement of a write to its effect, in microseconds: the longest that Cassandra keeps a
/// request (`native_transport_timeout`, 12 s) and what a transaction takes then.
const ATTEMPT_MAX: u64 = 20_000_000;
/// Slots looked at in one go.
const SLOTS_MAX: i32 = 10_000;
/// Partitions of a slot listed in one go.
const PARTS: i32 = 1_000;
/// Records of a partition looked at in one go.
const RECORDS: i32 = 10_000;
/// Partitions and records read at once.
const AT_ONCE: usize = 32;
/// Records that a cursor remembers.
const REMEMBERED_MAX: usize = 200;

/// Where a reader stands: all up to a time was given, and some later ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Position {
    /// In microseconds of the cluster.
    until: u64,
    /// Time and id (its last 8 bytes) of those that were given and are later.
    given: Vec<(u64, u64)>,
}

/// A record that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    /// When it took effect, in microseconds of the cluster; the order within its partition.
    time: u64,
    part: Bytes,
    sort: Bytes,
    size: u64,
}

impl Found {
    fn mark(&self) -> (u64, u64) {
        (self.time, self.sort.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }

    fn id(&self) -> Result<Uuid, StoreError> {
        let id = self.sort.last_chunk::<16>().copied();
        id.map(Uuid::from_bytes).ok_or_else(|| StoreError::Corrupt("a recorded change has no id".into()))
    }
}

impl Position {
    fn seal(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(8 + 16 * self.given.len());
        bytes.put_u64(self.until);
        for (time, id) in &self.given {
            bytes.put_u64(*time);
            bytes.put_u64(*id);
        }
        bytes.freeze()
    }

    fn open(bytes: &[u8]) -> Option<Self> {
        let (chunks, []) = bytes.as_chunks::<8>() else { return None };
        let mut numbers = chunks.iter().map(|chunk| u64::from_be_bytes(*chunk));
        let until = numbers.next()?;
        let mut given = Vec::new();
        while let Some(time) = numbers.next() {
            given.push((time, numbers.next()?));
        }
        (given.len() <= 2 * REMEMBERED_MAX).then_some(Self { until, given })
    }

    /// Chooses what to give of what was found, and where the reader stands then. Up to `reach` everything was found.
    fn give(&self, mut found: Vec<Found>, reach: u64, page: &Page) -> (Vec<Found>, Self) {
        let known: HashSet<_> = self.given.iter().copied().collect();
        found.retain(|one| one.time > self.until && !known.contains(&one.mark()));
        found.sort();
        let mut beyond = self.given.iter().filter(|(time, _)| *time > reach).count();
        let (mut take, mut bytes) = (0, 0);
        for one in &found {
            bytes += one.size;
            beyond += usize::from(one.time > reach);
            let full = take >= page.rows_max as usize || bytes > u64::from(page.bytes_max) && take > 0;
            if full || beyond > REMEMBERED_MAX {
                break;
            }
            take += 1;
        }
        let left = found.get(take).map_or(u64::MAX, |first| first.time.saturating_sub(1));
        found.truncate(take);
        let until = reach.min(left).max(self.until);
        let mut given: Vec<_> = self.given.iter().copied().chain(found.iter().map(Found::mark)).collect();
        given.retain(|(time, _)| *time > until);
        (found, Self { until, given })
    }
}

impl Cassandra {
    /// Returns the time now, in microseconds.
    pub(crate) fn micros(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// Announces that a partition is about to change.
    pub(crate) async fn point(&self, partition: &Partition, by: Instant) -> Result<(), StoreError> {
        let (slot, part, namespace) = (self.micros() / SLOT, layout::part(partition), partition.namespace.as_str());
        let live = CqlValue::Int(self.log_seconds.saturating_add(60));
        let mut key = BytesMut::with_capacity(8 + part.len());
        key.put_u64(slot);
        let (trust, place) = (Duration::from_micros(SLOT), Bytes::copy_from_slice(namespace.as_bytes()));
        // The slot itself, under the name of its namespace: no key of a partition begins like this.
        let slot_key = [&key[..], b"\0", namespace.as_bytes()].concat();
        if !self.pointed.knows(&slot_key, trust) {
            let values = vec![CqlValue::Text(namespace.to_owned()), big(slot), live.clone()];
            self.announce(Announcement::Slot, place.clone(), values, by).await?;
            self.pointed.note(slot_key.into(), Instant::now());
        }
        key.put_slice(&part);
        if !self.pointed.knows(&key, trust) {
            let values = vec![CqlValue::Text(namespace.to_owned()), big(slot), blob(&part), live];
            let place = [&slot.to_be_bytes()[..], &place].concat();
            self.announce(Announcement::Part, place.into(), values, by).await?;
            self.pointed.note(key.freeze(), Instant::now());
        }
        Ok(())
    }

    pub(crate) async fn do_changes(
        &self,
        namespace: &Name,
        page: Page,
        by: Instant,
    ) -> Result<Slice<ChangeRecord>, StoreError> {
        faas_store::bounds::page(&page)?;
        let now = self.micros();
        let oldest = now.saturating_sub(u64::try_from(self.log_seconds).unwrap_or(0) * 1_000_000);
        let position = match cursor::open(Kind::Changes, &page)? {
            None => Position { until: oldest, given: Vec::new() },
            Some(bytes) => Position::open(bytes).ok_or(cursor::FOREIGN)?,
        };
        if position.until < oldest {
            return Err(StoreError::Gone);
        }
        let (found, reach) = self.find(namespace, &position, now, page.rows_max as usize, by).await?;
        let (given, position) = position.give(found, reach, &page);
        let reads: Vec<_> = given.iter().map(|one| self.record(one, by).boxed()).collect();
        let records: Vec<_> = stream::iter(reads).buffered(AT_ONCE).try_collect().await?;
        let next = Some(cursor::seal(Kind::Changes, &position.seal()));
        Ok(Slice { items: records.into_iter().flatten().collect(), next })
    }

    /// Finds records after a position, and says up to when all are found.
    async fn find(
        &self,
        namespace: &Name,
        position: &Position,
        now: u64,
        enough: usize,
        by: Instant,
    ) -> Result<(Vec<Found>, u64), StoreError> {
        let mut reach = now.saturating_sub(self.skew);
        let since = position.until.saturating_sub(ATTEMPT_MAX + self.skew);
        let values = vec![CqlValue::Text(namespace.as_str().to_owned()), big(since / SLOT), CqlValue::Int(SLOTS_MAX)];
        let slots = self.cluster.read(&self.cluster.statements.slot_list, values, by).await?;
        let (mut found, mut visited, mut fresh, mut last) = (Vec::new(), HashSet::new(), 0, 0);
        let full = slots.rows_num() >= usize::try_from(SLOTS_MAX).unwrap_or(0);
        for slot in slots.rows::<(i64,)>().map_err(|e| corrupt(&e))? {
            let (slot,) = slot.map_err(|e| corrupt(&e))?;
            last = u64::try_from(slot).unwrap_or(0);
            if fresh >= enough {
                reach = reach.min((last * SLOT).saturating_sub(self.skew));
                break;
            }
            let parts = self.parts(namespace, slot, by).await?;
            let new: Vec<_> = parts.into_iter().filter(|part| visited.insert(part.clone())).collect();
            let visits: Vec<_> = new.iter().map(|part| self.visit(part, since, by).boxed()).collect();
            let mut visits = stream::iter(visits).buffer_unordered(AT_ONCE);
            while let Some((records, complete)) = visits.try_next().await? {
                reach = reach.min(complete);
                let is_fresh = |one: &&Found| one.time > position.until && !position.given.contains(&one.mark());
                fresh += records.iter().filter(is_fresh).count();
                found.extend(records);
            }
        }
        if full {
            reach = reach.min((last * SLOT).saturating_sub(self.skew));
        }
        Ok((found, reach))
    }

    /// Lists the partitions that changed in a slot.
    async fn parts(&self, namespace: &Name, slot: i64, by: Instant) -> Result<Vec<Bytes>, StoreError> {
        let mut parts: Vec<Bytes> = Vec::new();
        loop {
            let after = parts.last().map_or(&[][..], |part| &part[..]);
            let namespace = CqlValue::Text(namespace.as_str().to_owned());
            let values = vec![namespace, CqlValue::BigInt(slot), blob(after), CqlValue::Int(PARTS)];
            let rows = self.cluster.read(&self.cluster.statements.part_list, values, by).await?;
            for row in rows.rows::<(Vec<u8>,)>().map_err(|e| corrupt(&e))? {
                parts.push(row.map_err(|e| corrupt(&e))?.0.into());
            }
            if rows.rows_num() < usize::try_from(PARTS).unwrap_or(0) {
                return Ok(parts);
            }
        }
    }

    /// Looks at the records of a partition that were tried since `since`; says up to when they are all there.
    async fn visit(&self, part: &Bytes, since: u64, by: Instant) -> Result<(Vec<Found>, u64), StoreError> {
        let from = layout::change_sort(since, &[0; 16]);
        let values = vec![blob(part), blob(&from), CqlValue::Int(RECORDS)];
        let rows = self.cluster.read(&self.cluster.statements.change_list, values, by).await?;
        let mut found = Vec::with_capacity(rows.rows_num());
        for row in rows.rows::<(Vec<u8>, Option<i32>, Option<i64>)>().map_err(|e| corrupt(&e))? {
            let (sort, size, time) = row.map_err(|e| corrupt(&e))?;
            let Some(time) = time.and_then(|time| u64::try_from(time).ok()) else { continue };
            let size = u64::try_from(size.unwrap_or(0)).unwrap_or(0);
            found.push(Found { time, part: part.clone(), sort: sort.into(), size });
        }
        let full = found.len() >= usize::try_from(RECORDS).unwrap_or(0);
        let tried = |one: &Found| one.sort.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let complete = found.last().filter(|_| full).map_or(u64::MAX, |last| tried(last).saturating_sub(self.skew));
        Ok((found, complete))
    }

    /// Reads a record; `None` when the cluster forgot it just now.
    async fn record(&self, found: &Found, by: Instant) -> Result<Option<ChangeRecord>, StoreError> {
        let values = vec![blob(&found.part), blob(&found.sort)];
        let rows = self.cluster.read(&self.cluster.statements.change_get, values, by).await?;
        let value = rows.maybe_first_row::<(Option<Vec<u8>>,)>().map_err(|e| corrupt(&e))?;
        let Some(value) = value.and_then(|(value,)| value) else { return Ok(None) };
        let id = found.id()?;
        let (partition, rows) = (layout::partition(&found.part)?, layout::changes(value.into())?);
        Ok(Some(ChangeRecord { partition, id: WriteId(id), version: Version(*id.as_bytes()), rows }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(time: u64, part: &'static str, id: u8) -> Found {
        let part = Bytes::from_static(part.as_bytes());
        Found { time, part, sort: layout::change_sort(time, &[id; 16]), size: 10 }
    }

    fn page(rows_max: u32, bytes_max: u32) -> Page {
        Page { after: None, rows_max, bytes_max }
    }

    fn times(found: &[Found]) -> Vec<u64> {
        found.iter().map(|one| one.time).collect()
    }

    #[test]
    fn what_is_given_once_is_not_given_again_and_what_comes_late_is() {
        let start = Position { until: 100, given: Vec::new() };
        let all = vec![found(150, "b", 2), found(90, "a", 1), found(120, "a", 3)];
        let (given, position) = start.give(all.clone(), 130, &page(10, 1000));
        assert_eq!(times(&given), [120, 150], "in the order of time, nothing from before");
        assert_eq!(position.until, 130);
        let mut later = all;
        // Its clock was behind: it comes after the other was given, with an earlier time.
        later.push(found(140, "c", 4));
        let (given, position) = position.give(later.clone(), 160, &page(10, 1000));
        assert_eq!((times(&given), position.clone()), (vec![140], Position { until: 160, given: Vec::new() }));
        assert_eq!(position.give(later, 170, &page(10, 1000)).0, []);
    }

    #[test]
    fn pages_join_up_over_records_of_one_time() {
        let all: Vec<_> = ["a", "b", "c", "d"].into_iter().zip(1..).map(|(part, id)| found(120, part, id)).collect();
        let mut position = Position { until: 100, given: Vec::new() };
        let mut seen = Vec::new();
        for _ in 0..4 {
            let (given, next) = position.give(all.clone(), 200, &page(1, 1000));
            seen.extend(given.into_iter().map(|one| one.part));
            position = next;
        }
        assert_eq!(seen, ["a", "b", "c", "d"]);
        assert_eq!((position.until, position.given.len()), (200, 0));
    }

    #[test]
    fn a_page_keeps_its_bounds_and_a_cursor_its_size() {
        let all: Vec<_> = (0..500_u16).map(|n| found(1_000 + u64::from(n), "p", 1)).collect();
        let start = Position { until: 100, given: Vec::new() };
        assert_eq!(start.give(all.clone(), 5_000, &page(7, 1000)).0.len(), 7);
        assert_eq!(start.give(all.clone(), 5_000, &page(100, 25)).0.len(), 2);
        assert_eq!(start.give(all.clone(), 5_000, &page(100, 1)).0.len(), 1, "at least one comes all the same");
        let (given, position) = start.give(all.clone(), 500, &page(1_000, u32::MAX));
        assert_eq!((given.len(), position.given.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert!(position.seal().len() < 4_000);
        assert_eq!(Position::open(&position.seal()), Some(position.clone()));
        let (given, _) = position.give(all, 5_000, &page(1_000, u32::MAX));
        assert_eq!(given.len(), 300, "none is lost");
    }

    #[test]
    fn a_foreign_position_is_refused() {
        for bad in [&b""[..], b"1234567", &[0; 16], &[0; 8 + 16 * (2 * REMEMBERED_MAX + 1)]] {
            assert_eq!(Position::open(bad), None, "{} bytes", bad.len());
        }
    }
}
