//! The store itself.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use faas_model::Name;
use faas_store::{
    Abilities, ChangeRecord, Committed, Fate, Fut, Key, Page, Partition, Read, Row, Slice, Space, Store, StoreError,
    Transactions, WallClock, Write, WriteId,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cql::Identifier;
use crate::names::Announced;
use crate::session::{Cluster, Statements, Values, connect_in_time};
use crate::together::Together;
use crate::{Config, OpenError, schema, status};

/// Announcements that are remembered, so that they are not made again for every write.
const ANNOUNCED_MAX: usize = 100_000;

/// A store on a cluster of Apache Cassandra. Writes and reads are linearizable within the datacenter.
#[derive(Debug)]
pub struct Cassandra {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) keyspace: Identifier,
    pub(crate) clock: WallClock,
    /// Partitions whose names were announced lately.
    pub(crate) named: Announced,
    /// Partitions that were announced in the present slot.
    pub(crate) pointed: Announced,
    announcing: Arc<Together<(Announcement, Bytes), Values>>,
    pub(crate) outcome_seconds: i32,
    pub(crate) log_seconds: i32,
    /// Most difference of clocks, in microseconds.
    pub(crate) skew: u64,
    /// What ends with the store.
    _watch: JoinSet<()>,
}

impl Cassandra {
    /// Connects to the cluster and checks its schema.
    ///
    /// # Errors
    /// The cluster is away, takes no such user, or has no schema or another one; what to do about it.
    pub async fn open(config: &Config, clock: WallClock) -> Result<Self, OpenError> {
        let keyspace = config.check()?;
        let session = connect_in_time(config).await?;
        schema::check(&session, &keyspace).await?;
        let statements = Statements::prepare(&session, &keyspace).await;
        let statements = statements.map_err(|error| OpenError::Refused(error.to_string()))?;
        let session = Arc::new(session);
        let mut watch = JoinSet::new();
        watch.spawn(status::watch(Arc::clone(&session)));
        let seconds = |time: Duration| i32::try_from(time.as_secs()).unwrap_or(i32::MAX);
        Ok(Self {
            cluster: Arc::new(Cluster::new(session, statements, config)),
            keyspace,
            clock,
            named: Announced::new(ANNOUNCED_MAX),
            pointed: Announced::new(ANNOUNCED_MAX),
            announcing: Arc::default(),
            outcome_seconds: seconds(config.outcome_keep.duration()),
            log_seconds: seconds(config.log_keep.duration()),
            skew: config.clock_skew_max.0 * 1_000,
            _watch: watch,
        })
    }
}

/// What is made known before a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Announcement {
    /// A partition may come to be.
    Name,
    /// Something changes in a slot of time.
    Slot,
    /// A partition changes in a slot of time.
    Part,
}

impl Cassandra {
    /// Makes something known, together with what others make known in the same partition at the same time.
    ///
    /// # Errors
    /// `Unavailable`, `Deadline`.
    pub(crate) async fn announce(
        &self,
        what: Announcement,
        partition: Bytes,
        values: Values,
        by: Instant,
    ) -> Result<(), StoreError> {
        let cluster = self.cluster.clone();
        let request = move |rows: Vec<Values>, by| {
            let cluster = cluster.clone();
            async move {
                let statement = match what {
                    Announcement::Name => &cluster.statements.name_put,
                    Announcement::Slot => &cluster.statements.slot_put,
                    Announcement::Part => &cluster.statements.part_put,
                };
                cluster.announce(statement, &rows, by).await
            }
        };
        self.announcing.send((what, partition), values, by, request).await
    }
}

impl Store for Cassandra {
    fn abilities(&self) -> Abilities {
        Abilities { ordered_partitions: true, global_sequence: false, transactions: false }
    }

    fn get<'a>(&'a self, key: &'a Key, read: Read, by: Instant) -> Fut<'a, Option<Row>> {
        Box::pin(self.do_get(key, read, by))
    }

    fn get_many<'a>(&'a self, keys: &'a [Key], by: Instant) -> Fut<'a, Vec<Option<Row>>> {
        Box::pin(self.do_get_many(keys, by))
    }

    fn write(&self, write: Write, by: Instant) -> Fut<'_, Committed> {
        Box::pin(self.do_write(write, by))
    }

    fn fate<'a>(&'a self, partition: &'a Partition, id: WriteId, by: Instant) -> Fut<'a, Fate> {
        Box::pin(self.do_fate(partition, id, by))
    }

    fn scan<'a>(
        &'a self,
        partition: &'a Partition,
        range: Range<Bytes>,
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Row>> {
        Box::pin(self.do_scan(partition, range, page, by))
    }

    fn partitions<'a>(
        &'a self,
        namespace: &'a Name,
        space: Space,
        prefix: &'a [u8],
        page: Page,
        by: Instant,
    ) -> Fut<'a, Slice<Bytes>> {
        Box::pin(self.do_partitions(namespace, space, prefix, page, by))
    }

    fn changes<'a>(&'a self, namespace: &'a Name, page: Page, by: Instant) -> Fut<'a, Slice<ChangeRecord>> {
        Box::pin(self.do_changes(namespace, page, by))
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        None
    }
}
