//! The list of checks that every [`Store`] passes, unchanged.
//!
//! A check panics with what it found. [`suite`] runs all of them, each on a
//! store of its own and in a namespace that holds nothing else.

mod bounds;
mod concurrency;
mod feed;
mod reads;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use faas_model::Name;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::{
    Change, Committed, Key, Logged, Page, Partition, Read, Require, Row, Slice, Space, Store, StoreError, WallClock,
    WallTime, Write, WriteId,
};

/// A store under test.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The store; empty.
    pub store: Arc<dyn Store>,
    /// The clock that its expiry follows, if tests can move it; otherwise the suite waits.
    pub clock: WallClock,
    /// Whether moving `clock` moves the store's expiry.
    pub clock_moves: bool,
}

/// One check.
pub type Check = fn(Subject) -> BoxFuture<'static, ()>;

macro_rules! checks {
    ($($module:ident::$name:ident,)*) => {
        /// Every check with its name.
        pub const CHECKS: &[(&str, Check)] = &[$((stringify!($name), |subject| $module::$name(subject).boxed()),)*];
    };
}

checks! {
    writes::a_write_is_read_back_with_its_version,
    writes::every_write_gives_a_new_version,
    writes::conditions_hold_or_carry_the_row,
    writes::a_batch_is_all_or_nothing,
    writes::conditions_are_judged_before_any_change,
    writes::a_check_changes_nothing,
    writes::deleting_what_is_not_there_is_no_error,
    writes::an_expired_row_is_absent_everywhere,
    writes::an_overwrite_takes_the_expiry_along,
    writes::namespaces_and_spaces_do_not_meet,
    writes::a_repeat_of_the_same_write_id_is_harmless,
    writes::fate_tells_committed_from_never,
    writes::a_deadline_that_has_passed_writes_nothing,
    writes::transactions_span_partitions_or_are_not_offered,
    reads::many_reads_come_in_the_order_of_the_keys,
    reads::a_scan_is_in_byte_order_within_its_range,
    reads::scan_pages_keep_to_their_bounds_and_join_up,
    reads::a_scan_cursor_outlives_changes_around_it,
    reads::partitions_list_by_prefix,
    reads::partition_pages_join_up,
    reads::a_foreign_cursor_is_refused,
    bounds::every_bound_holds_at_its_edge,
    bounds::malformed_writes_are_refused,
    feed::changes_come_in_order_per_partition,
    feed::the_log_keeps_what_was_asked,
    feed::change_pages_join_up_and_the_end_can_be_resumed,
    concurrency::concurrent_compare_and_set_adds_up,
    concurrency::one_of_many_creators_wins,
    concurrency::a_dropped_write_is_whole_or_absent,
}

/// Runs every check on a store that `make` gives.
pub async fn suite(make: impl AsyncFn() -> Subject) {
    for (name, check) in CHECKS {
        tracing::info!(check = name, "store conformance");
        check(make().await).await;
    }
}

impl Subject {
    /// Returns the subject of a store whose expiry follows `clock`, a manual one.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: WallClock) -> Self {
        Self { store, clock, clock_moves: true }
    }

    async fn pass(&self, time: Duration) {
        if self.clock_moves {
            self.clock.advance(time);
        } else {
            tokio::time::sleep(time + Duration::from_millis(100)).await;
        }
    }

    async fn put(&self, name: &str, sort: &str, value: &str) -> Committed {
        self.write(name, vec![put(sort, value, Require::Nothing)]).await.expect("an unconditional put")
    }

    async fn write(&self, name: &str, changes: Vec<Change>) -> Result<Committed, StoreError> {
        self.store.write(write(name, changes), by()).await
    }

    async fn get(&self, name: &str, sort: &str) -> Option<Row> {
        self.store.get(&key(name, sort), Read::Linearizable, by()).await.expect("a get")
    }

    async fn value(&self, name: &str, sort: &str) -> Option<Bytes> {
        self.get(name, sort).await.map(|row| row.value)
    }

    async fn scan(&self, name: &str, from: &str, to: &str, page: Page) -> Slice<Row> {
        let range = Bytes::copy_from_slice(from.as_bytes())..Bytes::copy_from_slice(to.as_bytes());
        self.store.scan(&partition(name), range, page, by()).await.expect("a scan")
    }

    /// Reads pages until the end and checks that it comes.
    async fn partitions(&self, space: Space, prefix: &[u8], rows_max: u32) -> Vec<Bytes> {
        let (mut all, mut after) = (Vec::new(), None);
        for _ in 0..1_000 {
            let page = Page { after, rows_max, bytes_max: 1 << 20 };
            let slice = self.store.partitions(&namespace(), space, prefix, page, by()).await.expect("a list");
            assert!(slice.items.len() <= rows_max as usize, "{} of {rows_max} rows", slice.items.len());
            all.extend(slice.items);
            after = slice.next;
            if after.is_none() {
                return all;
            }
        }
        panic!("a list has no end");
    }
}

fn namespace() -> Name {
    Name::new("conformance").expect("a name")
}

fn partition(name: &str) -> Partition {
    Partition { namespace: namespace(), space: Space::Value, name: Bytes::copy_from_slice(name.as_bytes()) }
}

fn key(name: &str, sort: &str) -> Key {
    Key { partition: partition(name), sort: Bytes::copy_from_slice(sort.as_bytes()) }
}

fn put(sort: &str, value: &str, require: Require) -> Change {
    let (sort, value) = (Bytes::copy_from_slice(sort.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    Change::Put { sort, value, expires: None, require }
}

fn put_until(sort: &str, value: &str, expires: WallTime) -> Change {
    let (sort, value) = (Bytes::copy_from_slice(sort.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    Change::Put { sort, value, expires: Some(expires), require: Require::Nothing }
}

fn delete(sort: &str, require: Require) -> Change {
    Change::Delete { sort: Bytes::copy_from_slice(sort.as_bytes()), require }
}

fn check(sort: &str, require: Require) -> Change {
    Change::Check { sort: Bytes::copy_from_slice(sort.as_bytes()), require }
}

fn write(name: &str, changes: Vec<Change>) -> Write {
    Write { partition: partition(name), id: WriteId::fresh(), changes, log: Logged::Values }
}

fn page(rows_max: u32) -> Page {
    Page { after: None, rows_max, bytes_max: 1 << 20 }
}

fn by() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn conflict(result: Result<Committed, StoreError>) -> Option<Row> {
    match result {
        Err(StoreError::Conflict(row)) => row,
        other => panic!("expected a conflict, got {other:?}"),
    }
}
