//! Reads of rows.

use std::ops::Range;

use bytes::Bytes;
use faas_store::cursor::{self, Kind};
use faas_store::{Key, Page, Partition, Read, Row, Slice, Store, StoreError, expired};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use scylla::value::CqlValue;
use tokio::time::Instant;

use crate::layout;
use crate::session::corrupt;
use crate::store::Cassandra;
use crate::writes::{blob, expiry, version};

/// Rows that are read without asking for their sizes first: at most 8 MiB.
const UNSIZED_ROWS_MAX: u32 = 8;
/// Reads of one `get_many` on their way at once.
const AT_ONCE: usize = 32;

impl Cassandra {
    pub(crate) async fn do_get(&self, key: &Key, read: Read, by: Instant) -> Result<Option<Row>, StoreError> {
        faas_store::bounds::key(key)?;
        let statement = match read {
            Read::Linearizable => &self.cluster.statements.get,
            Read::Local => &self.cluster.statements.get_local,
        };
        let values = vec![blob(&layout::part(&key.partition)), blob(&key.sort)];
        let rows = self.cluster.read(statement, values, by).await?;
        let found =
            rows.maybe_first_row::<(Option<Vec<u8>>, Option<Vec<u8>>, Option<i64>)>().map_err(|e| corrupt(&e))?;
        let Some((value, ver, exp)) = found else { return Ok(None) };
        self.row(key.sort.clone(), value, ver, exp)
    }

    /// Makes a row of its columns; `None` when it is expired, or only half of it is there any more.
    fn row(
        &self,
        sort: Bytes,
        value: Option<Vec<u8>>,
        ver: Option<Vec<u8>>,
        exp: Option<i64>,
    ) -> Result<Option<Row>, StoreError> {
        let (Some(ver), Some(exp)) = (ver, exp) else { return Ok(None) };
        let (version, expires) = (version(&ver)?, expiry(exp));
        if expired(expires, self.clock.now()) {
            return Ok(None);
        }
        let value = Bytes::from(value.unwrap_or_default());
        Ok(Some(Row { sort, value, version, expires }))
    }

    pub(crate) async fn do_get_many(&self, keys: &[Key], by: Instant) -> Result<Vec<Option<Row>>, StoreError> {
        faas_store::bounds::keys(keys)?;
        let mut rows = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        let each: Vec<_> = keys.iter().map(|key| self.get(key, Read::Linearizable, by)).collect();
        let mut reads = stream::iter(each).buffered(AT_ONCE);
        while let Some(row) = reads.try_next().await? {
            faas_store::bounds::add_to_answer(&mut bytes, row.as_ref())?;
            rows.push(row);
        }
        Ok(rows)
    }

    pub(crate) async fn do_scan(
        &self,
        partition: &Partition,
        range: Range<Bytes>,
        page: Page,
        by: Instant,
    ) -> Result<Slice<Row>, StoreError> {
        faas_store::bounds::partition(partition)?;
        faas_store::bounds::page(&page)?;
        let from = match cursor::open(Kind::Scan, &page)? {
            // The first sort after the last one.
            Some(last) if last >= &range.start[..] => [last, b"\0"].concat(),
            _ => range.start.to_vec(),
        };
        let part = layout::part(partition);
        let rows_max = self.fitting(&part, &from, &page, by).await?;
        let limit = CqlValue::Int(i32::try_from(rows_max).unwrap_or(i32::MAX - 1) + 1);
        let found = self.cluster.read(&self.cluster.statements.scan, vec![blob(&part), blob(&from), limit], by).await?;
        let mut items = Vec::new();
        let (mut last, mut read, mut more) = (None, 0, false);
        type Columns = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>, Option<i64>);
        for row in found.rows::<Columns>().map_err(|e| corrupt(&e))? {
            let (sort, value, ver, exp) = row.map_err(|e| corrupt(&e))?;
            if !range.end.is_empty() && sort >= range.end {
                break;
            }
            if read == rows_max {
                more = true;
                break;
            }
            read += 1;
            let sort = Bytes::from(sort);
            last = Some(sort.clone());
            items.extend(self.row(sort, value, ver, exp)?);
        }
        let next = last.filter(|_| more).map(|sort| cursor::seal(Kind::Scan, &sort));
        Ok(Slice { items, next })
    }

    /// Returns how many rows from `from` on fit a page: at least one, even if it is larger.
    async fn fitting(&self, part: &[u8], from: &[u8], page: &Page, by: Instant) -> Result<u32, StoreError> {
        if page.rows_max <= UNSIZED_ROWS_MAX && page.bytes_max >= UNSIZED_ROWS_MAX << 20 {
            return Ok(page.rows_max);
        }
        let limit = CqlValue::Int(i32::try_from(page.rows_max).unwrap_or(i32::MAX));
        let rows = self.cluster.read(&self.cluster.statements.sizes, vec![blob(part), blob(from), limit], by).await?;
        let (mut fit, mut bytes) = (0_u32, 0_u64);
        for row in rows.rows::<(Vec<u8>, Option<i32>)>().map_err(|e| corrupt(&e))? {
            let (_, size) = row.map_err(|e| corrupt(&e))?;
            bytes += u64::try_from(size.unwrap_or(0)).unwrap_or(0);
            if bytes > u64::from(page.bytes_max) && fit > 0 {
                return Ok(fit);
            }
            fit += 1;
        }
        // What came in the meantime may be read, too: it is counted by the next page.
        Ok(fit.max(1))
    }
}
