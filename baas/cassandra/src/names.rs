//! Names of partitions: announced before the first write, listed by prefix, dropped long after the last row.
//!
//! A name is dropped only by who lists it, only when no row is left, and only when it was announced long
//! enough ago that no write can still lean on that announcement; a newer one survives, because the drop
//! carries the time of the one that was seen.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use faas_model::Name;
use faas_store::cursor::{self, Kind};
use faas_store::{Page, Partition, Slice, Space, StoreError, expired};
use futures_util::future::try_join_all;
use scylla::value::CqlValue;
use tokio::time::Instant;

use crate::layout;
use crate::session::corrupt;
use crate::store::{Announcement, Cassandra};
use crate::writes::{blob, expiry};

/// Parts into which the names of one scope are divided.
const SHARDS: i8 = 16;
/// How long an announcement is leaned on.
const TRUST: Duration = Duration::from_secs(30);
/// How old an announcement must be to be dropped: longer than it is leaned on and a write may take.
const STALE: Duration = Duration::from_secs(120);
/// Rows looked at in one go to find one that is alive.
const LOOK_ROWS: i32 = 100;

/// What was announced lately; never more than its bound, the whole is forgotten when it is reached.
#[derive(Debug)]
pub(crate) struct Announced {
    max: usize,
    since: Mutex<HashMap<Bytes, Instant>>,
}

impl Announced {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, since: Mutex::default() }
    }

    /// Returns whether it was announced within `trust`.
    pub(crate) fn knows(&self, what: &[u8], trust: Duration) -> bool {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get(what).is_some_and(|at| at.elapsed() < trust)
    }

    /// Notes that it was announced by a request that began `at`.
    pub(crate) fn note(&self, what: Bytes, at: Instant) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.len() >= self.max {
            since.clear();
        }
        since.insert(what, at);
    }
}

impl Cassandra {
    /// Announces a partition, unless that was done just now.
    pub(crate) async fn name(&self, partition: &Partition, by: Instant) -> Result<(), StoreError> {
        let part = layout::part(partition);
        if self.named.knows(&part, TRUST) {
            return Ok(());
        }
        let begun = Instant::now();
        let scope = layout::scope(&partition.namespace, partition.space);
        let shard = shard(&partition.name);
        let values = vec![blob(&scope), CqlValue::TinyInt(shard), blob(&partition.name)];
        let place = [&scope[..], &shard.to_be_bytes()].concat();
        self.announce(Announcement::Name, place.into(), values, by).await?;
        self.named.note(part, begun);
        Ok(())
    }

    pub(crate) async fn do_partitions(
        &self,
        namespace: &Name,
        space: Space,
        prefix: &[u8],
        page: Page,
        by: Instant,
    ) -> Result<Slice<Bytes>, StoreError> {
        faas_store::bounds::page(&page)?;
        let from = match cursor::open(Kind::Partitions, &page)? {
            // The first name after the last one.
            Some(last) if last >= prefix => [last, b"\0"].concat(),
            _ => prefix.to_vec(),
        };
        let scope = layout::scope(namespace, space);
        let shards = (0..SHARDS).map(|shard| self.listed(&scope, shard, &from, prefix, page.rows_max, by));
        let mut names: Vec<_> = try_join_all(shards).await?.into_iter().flatten().collect();
        names.sort();
        let more = names.len() > page.rows_max as usize;
        names.truncate(page.rows_max as usize);
        let mut items = Vec::with_capacity(names.len());
        let (mut bytes, mut last, mut cut) = (0, None, false);
        for chunk in names.chunks(32) {
            let alive = try_join_all(chunk.iter().map(|(name, at)| self.checked(namespace, space, name, *at, by)));
            for ((name, _), alive) in chunk.iter().zip(alive.await?) {
                if alive {
                    bytes += name.len();
                    if bytes > page.bytes_max as usize && !items.is_empty() {
                        cut = true;
                        break;
                    }
                    items.push(name.clone());
                }
                last = Some(name.clone());
            }
            if cut {
                break;
            }
        }
        let next = last.filter(|_| more || cut).map(|name| cursor::seal(Kind::Partitions, &name));
        Ok(Slice { items, next })
    }

    /// Lists names of one shard with when they were announced, in microseconds.
    async fn listed(
        &self,
        scope: &[u8],
        shard: i8,
        from: &[u8],
        prefix: &[u8],
        rows_max: u32,
        by: Instant,
    ) -> Result<Vec<(Bytes, i64)>, StoreError> {
        // One more than asked for tells that there are more.
        let limit = CqlValue::Int(i32::try_from(rows_max).unwrap_or(i32::MAX - 1) + 1);
        let mut values = vec![blob(scope), CqlValue::TinyInt(shard), blob(from)];
        let statements = &self.cluster.statements;
        let statement = match after_all(prefix) {
            Some(end) => {
                values.push(blob(&end));
                &statements.name_list_to
            }
            None => &statements.name_list,
        };
        values.push(limit);
        let rows = self.cluster.read(statement, values, by).await?;
        let mut names = Vec::with_capacity(rows.rows_num());
        for row in rows.rows::<(Vec<u8>, Option<i64>)>().map_err(|e| corrupt(&e))? {
            let (name, at) = row.map_err(|e| corrupt(&e))?;
            names.push((Bytes::from(name), at.unwrap_or(i64::MAX)));
        }
        Ok(names)
    }

    /// Returns whether a partition has a row that is alive; drops the name of one that has none at all.
    async fn checked(
        &self,
        namespace: &Name,
        space: Space,
        name: &Bytes,
        announced: i64,
        by: Instant,
    ) -> Result<bool, StoreError> {
        let partition = Partition { namespace: namespace.clone(), space, name: name.clone() };
        let part = layout::part(&partition);
        let (mut from, mut any) = (Vec::new(), false);
        loop {
            let values = vec![blob(&part), blob(&from), CqlValue::Int(LOOK_ROWS)];
            let rows = self.cluster.read(&self.cluster.statements.lives, values, by).await?;
            let now = self.clock.now();
            for row in rows.rows::<(Vec<u8>, Option<i64>)>().map_err(|e| corrupt(&e))? {
                let (sort, exp) = row.map_err(|e| corrupt(&e))?;
                let Some(exp) = exp else { continue };
                if !expired(expiry(exp), now) {
                    return Ok(true);
                }
                any = true;
                from = [&sort[..], b"\0"].concat();
            }
            if rows.rows_num() < usize::try_from(LOOK_ROWS).unwrap_or(0) {
                break;
            }
        }
        let stale = self.micros().saturating_sub(u64::try_from(STALE.as_micros()).unwrap_or(u64::MAX));
        if !any && announced < i64::try_from(stale).unwrap_or(i64::MAX) {
            let scope = layout::scope(namespace, space);
            let values = vec![CqlValue::BigInt(announced), blob(&scope), CqlValue::TinyInt(shard(name)), blob(name)];
            self.cluster.announce(&self.cluster.statements.name_drop, &[values], by).await?;
        }
        Ok(false)
    }
}

/// Returns where a name is listed: FNV-1a, then the finaliser of MurmurHash3, for names that differ in their last
/// letters only. The hash of std is stable within one build; names must be found by every build.
fn shard(name: &[u8]) -> i8 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let mut hash = name.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^= hash >> 33;
    i8::try_from(hash % u64::from(SHARDS.unsigned_abs())).unwrap_or(0)
}

/// Returns the least text after all that begin with `prefix`; `None` where there is none.
fn after_all(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|b| *b != 0xff)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_text() {
        assert_eq!(after_all(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_all(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!((after_all(b""), after_all(b"\xff\xff")), (None, None));
    }

    #[test]
    fn names_go_to_every_shard_and_always_to_the_same() {
        let mut used = [0; SHARDS as usize];
        for n in 0..1_000 {
            used[usize::try_from(shard(format!("name-{n}").as_bytes())).unwrap()] += 1;
        }
        assert!(used.iter().all(|n| *n > 20), "{used:?}");
        assert_eq!([shard(b"a"), shard(b"orders"), shard(b"")], [11, 9, 6], "stored names are found under these");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_announced_is_known_for_a_while_and_never_more_than_the_bound() {
        let announced = Announced::new(2);
        announced.note(Bytes::from_static(b"a"), Instant::now());
        assert!(announced.knows(b"a", TRUST) && !announced.knows(b"b", TRUST));
        tokio::time::advance(TRUST).await;
        assert!(!announced.knows(b"a", TRUST));
        announced.note(Bytes::from_static(b"b"), Instant::now());
        announced.note(Bytes::from_static(b"c"), Instant::now());
        assert!(announced.knows(b"c", TRUST) && !announced.knows(b"b", TRUST), "the bound of two was reached");
    }
}
