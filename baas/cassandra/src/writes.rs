//! Conditional writes by lightweight transactions, and what became of them.
//!
//! A write is one batch in one partition: its rows with their conditions, the record of the change log,
//! and an outcome row under the id of the write that must not be there yet. So a repeat changes nothing,
//! and whoever wants to know an outcome asks for that row, or puts one there that says "never".

use std::time::Duration;

use bytes::Bytes;
use faas_store::{
    Committed, Fate, Key, Logged, Partition, Read, Row, Store, StoreError, Version, WallTime, Write, WriteId,
};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlValue;
use tokio::time::Instant;

use crate::layout::{self, Outcome};
use crate::plan::{Condition, Effect, Plan, Seen, Sight, seconds_to_live};
use crate::session::{Failed, Values, corrupt, wait};
use crate::store::Cassandra;

/// What is stored as the expiry of a row that has none.
pub(crate) const NEVER: i64 = i64::MAX;

pub(crate) fn blob(bytes: &[u8]) -> CqlValue {
    CqlValue::Blob(bytes.to_vec())
}

pub(crate) fn big(n: u64) -> CqlValue {
    CqlValue::BigInt(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Reads the expiry of a row.
pub(crate) fn expiry(stored: i64) -> Option<WallTime> {
    (stored != NEVER).then(|| WallTime(u64::try_from(stored).unwrap_or(0)))
}

/// Reads a version.
pub(crate) fn version(stored: &[u8]) -> Result<Version, StoreError> {
    stored.try_into().map(Version).map_err(|_| StoreError::Corrupt("a version does not have 16 bytes".into()))
}

impl Cassandra {
    pub(crate) async fn do_write(&self, write: Write, by: Instant) -> Result<Committed, StoreError> {
        faas_store::bounds::write(&write)?;
        if Instant::now() >= by {
            return Err(StoreError::Deadline);
        }
        self.foretell(&write, by).await?;
        let done = Committed { version: Version(*write.id.0.as_bytes()) };
        let mut plan = Plan::blind(&write);
        let mut pause = Duration::from_millis(1);
        // Whether some try may have had its effect.
        let mut sent = false;
        loop {
            let ready = match plan.take() {
                Some(plan) => plan,
                None => match self.look(&write, by).await {
                    Ok(Look::Settled(Outcome::Committed)) => return Ok(done),
                    Ok(Look::Settled(Outcome::Fenced)) => return Err(StoreError::Deadline),
                    Ok(Look::Refused(row)) => return Err(StoreError::Conflict(row)),
                    Ok(Look::Plan(plan)) => plan,
                    Err(_) if sent => return Err(StoreError::Unknown(write.id)),
                    Err(error) => return Err(error),
                },
            };
            match self.make(&write, &ready, by).await {
                Ok(true) => return Ok(done),
                Ok(false) => {}
                Err(Failed::Unknown) => {
                    sent = true;
                    let later = StoreError::Unavailable { after: pause };
                    wait(&mut pause, by, later).await.map_err(|_| StoreError::Unknown(write.id))?;
                }
                Err(Failed::Unsent(error)) => {
                    let told = if sent { StoreError::Unknown(write.id) } else { error.clone() };
                    wait(&mut pause, by, error).await.map_err(|_| told)?;
                }
            }
        }
    }

    /// Makes known that the partition may come to be, and that it may change.
    async fn foretell(&self, write: &Write, by: Instant) -> Result<(), StoreError> {
        let logged = async { if write.log == Logged::No { Ok(()) } else { self.point(&write.partition, by).await } };
        let (named, pointed) = futures_util::future::join(self.name(&write.partition, by), logged).await;
        named.and(pointed)
    }

    /// Looks at the rows of a write and at its outcome, and plans anew.
    async fn look(&self, write: &Write, by: Instant) -> Result<Look, StoreError> {
        loop {
            if let Some(outcome) = self.outcome(&write.partition, write.id, by).await? {
                return Ok(Look::Settled(outcome));
            }
            let seen = self.see(write, by).await?;
            let now = self.clock.now();
            let at = match Plan::on(write, &seen, now) {
                Ok(plan) => return Ok(Look::Plan(plan)),
                Err(at) => at,
            };
            // The caller is told the row as it is, if it still stands in the way.
            let Some(change) = write.changes.get(at) else { continue };
            let key = Key { partition: write.partition.clone(), sort: change.sort().clone() };
            let row = self.get(&key, Read::Linearizable, by).await?;
            let is = |row: &Row| Seen { version: row.version, expires: row.expires };
            let mut seen = seen;
            seen.remove(change.sort());
            seen.extend(row.as_ref().map(|row| (change.sort().clone(), is(row))));
            if Plan::on(write, &seen, now).err() != Some(at) {
                continue;
            }
            // A try whose answer was lost may have made the very row that stands in the way.
            return Ok(match self.outcome(&write.partition, write.id, by).await? {
                Some(outcome) => Look::Settled(outcome),
                None => Look::Refused(row),
            });
        }
    }

    async fn see(&self, write: &Write, by: Instant) -> Result<Sight, StoreError> {
        let sorts = write.changes.iter().map(|change| blob(change.sort())).collect();
        let values = vec![blob(&layout::part(&write.partition)), CqlValue::List(sorts)];
        let rows = self.cluster.read(&self.cluster.statements.see, values, by).await?;
        let mut seen = Sight::with_capacity(rows.rows_num());
        for row in rows.rows::<(Vec<u8>, Option<Vec<u8>>, Option<i64>)>().map_err(|e| corrupt(&e))? {
            let (sort, ver, exp) = row.map_err(|e| corrupt(&e))?;
            let (Some(ver), Some(exp)) = (ver, exp) else { continue };
            seen.insert(Bytes::from(sort), Seen { version: version(&ver)?, expires: expiry(exp) });
        }
        Ok(seen)
    }

    async fn outcome(&self, partition: &Partition, id: WriteId, by: Instant) -> Result<Option<Outcome>, StoreError> {
        let values = vec![blob(&layout::part(partition)), blob(id.0.as_bytes())];
        let rows = self.cluster.read(&self.cluster.statements.outcome, values, by).await?;
        let row = rows.maybe_first_row::<(Option<i8>,)>().map_err(|e| corrupt(&e))?;
        row.and_then(|(state,)| state).map(Outcome::read).transpose()
    }

    /// Has the cluster judge and make a plan; tells whether it did.
    async fn make(&self, write: &Write, plan: &Plan, by: Instant) -> Result<bool, Failed> {
        let (statements, all) = (&self.cluster.statements, plan.steps.len() + 2);
        let part = layout::part(&write.partition);
        let now = self.clock.now();
        let (mut texts, mut values) = (Vec::with_capacity(all), Vec::with_capacity(all));
        let mut add = |text: &PreparedStatement, each: Values| {
            texts.push(text.clone());
            values.push(each);
        };
        add(&statements.settle, self.settling(&part, write.id, Outcome::Committed));
        for step in &plan.steps {
            let at = index(&step.condition);
            let (text, mut each) = match &step.effect {
                Effect::Put { value, expires } => {
                    let live = seconds_to_live(*expires, now).map_err(Failed::Unsent)?;
                    let size = i32::try_from(value.len()).unwrap_or(i32::MAX);
                    let exp = expires.map_or(CqlValue::BigInt(NEVER), |at| big(at.0.min(NEVER as u64 - 1)));
                    let ver = blob(write.id.0.as_bytes());
                    let set = vec![CqlValue::Int(live), blob(value), CqlValue::Int(size), ver, exp];
                    (statements.put.get(at), set)
                }
                Effect::Delete => (statements.delete.get(at), Vec::new()),
                // What is to be checked for nothing is not checked.
                Effect::Check if at == 0 => continue,
                Effect::Check => (statements.check.get(at - 1), Vec::new()),
            };
            each.extend([blob(&part), blob(&step.sort)]);
            each.extend(judged_by(&step.condition, now));
            if let Some(text) = text {
                add(text, each);
            }
        }
        if let Some(rows) = &plan.log {
            let sort = layout::change_sort(self.micros(), write.id.0.as_bytes());
            let record = layout::put_changes(rows);
            let size = i32::try_from(record.len()).unwrap_or(i32::MAX);
            let live = CqlValue::Int(self.log_seconds);
            add(&statements.log, vec![blob(&part), blob(&sort), blob(&record), CqlValue::Int(size), live]);
        }
        self.cluster.judge(texts, values, by).await
    }

    fn settling(&self, part: &[u8], id: WriteId, outcome: Outcome) -> Values {
        let state = CqlValue::TinyInt(outcome as i8);
        vec![blob(part), blob(id.0.as_bytes()), state, CqlValue::Int(self.outcome_seconds)]
    }

    pub(crate) async fn do_fate(&self, partition: &Partition, id: WriteId, by: Instant) -> Result<Fate, StoreError> {
        faas_store::bounds::partition(partition)?;
        let made = id.0.get_timestamp().map_or(0, |time| time.to_unix().0);
        let forgotten = (self.clock.now().0 / 1_000).saturating_sub(u64::try_from(self.outcome_seconds).unwrap_or(0));
        if made <= forgotten {
            return Err(StoreError::Gone);
        }
        let committed = || Fate::Committed(Committed { version: Version(*id.0.as_bytes()) });
        let part = layout::part(partition);
        let mut pause = Duration::from_millis(1);
        loop {
            let never = self.settling(&part, id, Outcome::Fenced);
            match self.cluster.judge(vec![self.cluster.statements.settle.clone()], vec![never], by).await {
                Ok(true) => return Ok(Fate::Never),
                Ok(false) => match self.outcome(partition, id, by).await? {
                    Some(Outcome::Committed) => return Ok(committed()),
                    Some(Outcome::Fenced) => return Ok(Fate::Never),
                    None => {}
                },
                // Saying "never" twice says it once.
                Err(Failed::Unknown) => {
                    let later = StoreError::Unavailable { after: pause };
                    wait(&mut pause, by, later).await?;
                }
                Err(Failed::Unsent(error)) => wait(&mut pause, by, error).await?,
            }
        }
    }
}

/// What a look at the rows of a write leads to.
enum Look {
    /// It is settled already.
    Settled(Outcome),
    /// A condition does not hold.
    Refused(Option<Row>),
    /// It may be tried.
    Plan(Plan),
}

/// Returns which of the prepared statements has the condition.
fn index(condition: &Condition) -> usize {
    match condition {
        Condition::None => 0,
        Condition::Absent => 1,
        Condition::Present => 2,
        Condition::Version(_) => 3,
        Condition::Exactly(_) => 4,
    }
}

/// Returns the values of a condition.
fn judged_by(condition: &Condition, now: WallTime) -> Values {
    match condition {
        Condition::None | Condition::Absent => Vec::new(),
        Condition::Present => vec![big(now.0)],
        Condition::Version(version) => vec![blob(&version.0), big(now.0)],
        Condition::Exactly(version) => vec![blob(&version.0)],
    }
}
