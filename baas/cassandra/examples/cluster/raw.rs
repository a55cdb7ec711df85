//! The driver alone, with the statements that the store sends: what there is to gain.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use uuid::Uuid;

/// The scope that names of values are listed by in the namespace `default`.
const SCOPE: &[u8] = b"\x02\x07default";

pub(crate) struct Raw {
    session: Session,
    get: PreparedStatement,
    settle: PreparedStatement,
    put: PreparedStatement,
    log: PreparedStatement,
    name: PreparedStatement,
    slot: PreparedStatement,
    part: PreparedStatement,
    /// Slots of ten seconds in which a key was announced last; `u64::MAX` is the slot's own.
    announced: Mutex<HashMap<u64, u64>>,
}

impl Raw {
    pub(crate) async fn open(node: &str, keyspace: &str) -> Self {
        let profile = ExecutionProfile::builder()
            .consistency(Consistency::LocalQuorum)
            .serial_consistency(Some(SerialConsistency::LocalSerial))
            .load_balancing_policy(DefaultPolicy::builder().token_aware(true).build())
            .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
            .build();
        let session = SessionBuilder::new()
            .known_node(node)
            .default_execution_profile_handle(profile.into_handle())
            .pool_size(PoolSize::PerHost(2.try_into().unwrap()))
            .build()
            .await
            .unwrap();
        let prepare = async |text: &str| session.prepare(text.replace("KS", &format!("\"{keyspace}\""))).await.unwrap();
        let mut get = prepare("SELECT value, ver, exp FROM KS.item WHERE part = ? AND kind = 0 AND sort = ?").await;
        get.set_consistency(Consistency::LocalSerial);
        let settle = "INSERT INTO KS.item (part, kind, sort, state) VALUES (?, 1, ?, ?) IF NOT EXISTS USING TTL ?";
        let put = "UPDATE KS.item USING TTL ? SET value = ?, size = ?, ver = ?, exp = ? WHERE part = ? AND kind = 0 AND sort = ?";
        let log = "INSERT INTO KS.item (part, kind, sort, value, size) VALUES (?, 2, ?, ?, ?) USING TTL ?";
        let name = "INSERT INTO KS.name (scope, shard, name, mark) VALUES (?, ?, ?, true)";
        let slot = "INSERT INTO KS.feed_slot (namespace, slot) VALUES (?, ?) USING TTL ?";
        let part = "INSERT INTO KS.feed_part (namespace, slot, part) VALUES (?, ?, ?) USING TTL ?";
        Self {
            settle: prepare(settle).await,
            put: prepare(put).await,
            log: prepare(log).await,
            name: prepare(name).await,
            slot: prepare(slot).await,
            part: prepare(part).await,
            get,
            announced: Mutex::default(),
            session,
        }
    }

    /// Reads a value of the bucket.
    pub(crate) async fn get(&self, key: u64) -> Vec<u8> {
        let read = self.session.execute_unpaged(&self.get, (part_of(key), &b""[..])).await.unwrap();
        let rows = read.into_rows_result().unwrap();
        let row: (Vec<u8>, Vec<u8>, i64) = rows.single_row().unwrap();
        row.0
    }

    /// Writes a value as the store does: announced where that is due, then one conditional batch.
    pub(crate) async fn put(&self, key: u64, value: &[u8]) {
        let part = part_of(key);
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
        let (slot, fresh, fresh_slot) = {
            let slot = now / 10_000_000;
            let mut announced = self.announced.lock().unwrap();
            (slot, announced.insert(key, slot) != Some(slot), announced.insert(u64::MAX, slot) != Some(slot))
        };
        if fresh {
            let at = i64::try_from(slot).unwrap();
            let name = async {
                // Every third slot is the thirty seconds for which a name is trusted.
                if slot % 3 == 0 {
                    let values = (SCOPE, 1_i8, &part[SCOPE.len()..]);
                    self.session.execute_unpaged(&self.name, values).await.unwrap();
                }
            };
            let pointed = async {
                if fresh_slot {
                    self.session.execute_unpaged(&self.slot, ("default", at, 86_460)).await.unwrap();
                }
                self.session.execute_unpaged(&self.part, ("default", at, &part, 86_460)).await.unwrap();
            };
            futures_util::future::join(name, pointed).await;
        }
        let id = Uuid::now_v7();
        let id = id.as_bytes().as_slice();
        let sort = [&now.to_be_bytes()[..], id].concat();
        let record = [&[2, 0, 0, 0, 0][..], &u32::try_from(value.len()).unwrap().to_be_bytes(), value].concat();
        let size = |bytes: &[u8]| i32::try_from(bytes.len()).unwrap();
        let statements = [&self.settle, &self.put, &self.log];
        let statements = statements.map(|statement| BatchStatement::PreparedStatement(statement.clone()));
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements.into());
        batch.set_consistency(Consistency::LocalQuorum);
        batch.set_serial_consistency(Some(SerialConsistency::LocalSerial));
        let values = (
            (&part, id, 1_i8, 3_600),
            (0, value, size(value), id, i64::MAX, &part, &b""[..]),
            (&part, &sort, &record, size(&record), 86_400),
        );
        let done = self.session.batch(&batch, values).await.unwrap();
        let rows = done.into_rows_result().unwrap();
        let row: scylla::value::Row = rows.first_row().unwrap();
        assert_eq!(row.columns[0].as_ref().and_then(scylla::value::CqlValue::as_boolean), Some(true));
    }
}

/// The key of a partition of `item`.
fn part_of(key: u64) -> Vec<u8> {
    [SCOPE, b"bench\0", key.to_string().as_bytes()].concat()
}
