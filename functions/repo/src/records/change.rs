//! Publishing, promoting and removing: each one store write, tried again when
//! somebody else changed the same function in between.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use faas_model::{AliasSettings, Digest, FunctionName, FunctionSpec, Name, Revision, RevisionId};
use faas_store::{Change, Read, Require, Row, WriteId};

use super::{COUNTER, Records, TRIES_MAX, alias_sort, by, decode, encode, key, namespaces_partition, now_ms, page};
use super::{partition, revision_sort};
use crate::{ALIASES_MAX, AliasRecord, Expect, Kept, Published, RepoError, Turn};

impl Records {
    pub(crate) async fn publish(
        &self,
        turn: &Turn,
        spec: &FunctionSpec,
        settings: &AliasSettings,
        code: &Kept,
        expected: Expect,
    ) -> Result<Published, RepoError> {
        let function = turn.function();
        self.know_namespace(&function.namespace).await?;
        let live = Name::alias_live();
        let id = spec.revision_id(&code.digest());
        let mut current = None;
        for _ in 0..TRIES_MAX {
            let keys = [Bytes::from_static(COUNTER), revision_sort(&id), alias_sort(&live)];
            let keys = keys.map(|sort| key(function, sort));
            let rows = self.store.get_many(&keys, by()).await?;
            let [counter, row, alias] = rows.as_slice() else {
                return Err(RepoError::Corrupt("the store gave another number of rows than asked".into()));
            };
            let before = AliasRow::read(alias.as_ref())?;
            current = before.revision();
            if !expected.holds(current) {
                break;
            }
            let (mut changes, revision) = match row {
                Some(row) => {
                    let exists = Change::Check { sort: revision_sort(&id), require: Require::Present };
                    (vec![exists], decode(&row.value, "revision")?)
                }
                None => fresh_revision(function, spec, code, counter.as_ref())?,
            };
            let created = row.is_none();
            let (alias, moved) = (before.pointed_at(&revision, Some(settings)), current != Some(id));
            let revision = Arc::new(revision);
            if !created && before.same(&alias) {
                let alias = before.record.unwrap_or(alias);
                return Ok(Published { revision, created, moved, alias });
            }
            changes.push(before.put(&live, &alias)?);
            if self.write(partition(function), turn.write_id(), changes).await? {
                return Ok(Published { revision, created, moved, alias });
            }
        }
        Err(RepoError::Conflict { current })
    }

    pub(crate) async fn promote(
        &self,
        turn: &Turn,
        alias: &Name,
        id: &RevisionId,
        settings: Option<&AliasSettings>,
        expected: Expect,
    ) -> Result<AliasRecord, RepoError> {
        let function = turn.function();
        let revision = self.revision(function, id).await?;
        let known = self.function(function).await?.aliases;
        if !known.contains_key(alias) && known.len() >= ALIASES_MAX {
            return Err(RepoError::TooLarge { what: "the number of aliases", max: ALIASES_MAX as u64 });
        }
        let mut current = None;
        for _ in 0..TRIES_MAX {
            let row = self.store.get(&key(function, alias_sort(alias)), Read::Linearizable, by()).await?;
            let before = AliasRow::read(row.as_ref())?;
            current = before.revision();
            if !expected.holds(current) {
                break;
            }
            let record = before.pointed_at(&revision, settings);
            if before.same(&record) {
                return Ok(before.record.unwrap_or(record));
            }
            let exists = Change::Check { sort: revision_sort(id), require: Require::Present };
            if self.write(partition(function), turn.write_id(), vec![exists, before.put(alias, &record)?]).await? {
                return Ok(record);
            }
        }
        Err(RepoError::Conflict { current })
    }

    pub(crate) async fn remove(&self, turn: &Turn) -> Result<Vec<Digest>, RepoError> {
        self.function(turn.function()).await?;
        self.remove_rows(turn.function(), Some(turn)).await
    }

    /// Ends removals that a crash cut off: functions with rows, but without aliases.
    pub(crate) async fn sweep(&self) -> Result<(), RepoError> {
        for namespace in self.namespaces().await? {
            for function in self.functions(&namespace).await? {
                if matches!(self.function(&function).await, Err(RepoError::NotFound(_))) {
                    self.remove_rows(&function, None).await?;
                }
            }
        }
        Ok(())
    }

    /// Removes all rows of a function, in slices: in a turn the aliases with the first, else only what was left
    /// without aliases. Who deploys the function anew meanwhile keeps it, with the revisions that are still there.
    async fn remove_rows(&self, function: &FunctionName, mut turn: Option<&Turn>) -> Result<Vec<Digest>, RepoError> {
        let (mut code, mut conflicts, live) = (BTreeSet::new(), 0, alias_sort(&Name::alias_live()));
        while conflicts < TRIES_MAX {
            let all = Bytes::new()..Bytes::new();
            let rows = self.store.scan(&partition(function), all, page(None), by()).await?.items;
            let alive = rows.iter().any(|row| row.sort == live);
            if rows.is_empty() || alive && turn.is_none() {
                return Ok(code.into_iter().collect());
            }
            for row in rows.iter().filter(|row| row.sort.starts_with(b"r/")) {
                code.insert(decode::<Revision>(&row.value, "revision")?.code);
            }
            let absent = (!alive).then(|| Change::Check { sort: live.clone(), require: Require::Absent });
            let delete = |row: Row| Change::Delete { sort: row.sort, require: Require::Version(row.version) };
            let changes = rows.into_iter().map(delete).chain(absent).collect();
            let id = turn.map_or_else(WriteId::fresh, Turn::write_id);
            if self.write(partition(function), id, changes).await? {
                turn = None;
            } else {
                conflicts += 1;
            }
        }
        Err(RepoError::Conflict { current: None })
    }

    /// Records that the namespace is in use, before its first function is.
    async fn know_namespace(&self, namespace: &Name) -> Result<(), RepoError> {
        let sort = Bytes::copy_from_slice(namespace.as_str().as_bytes());
        let at = faas_store::Key { partition: namespaces_partition(), sort: sort.clone() };
        if self.store.get(&at, Read::Local, by()).await?.is_none() {
            let put = Change::Put { sort, value: encode(&())?, expires: None, require: Require::Absent };
            self.write(namespaces_partition(), WriteId::fresh(), vec![put]).await?;
        }
        Ok(())
    }
}

/// Makes the function's next revision, and the changes that publish it.
fn fresh_revision(
    function: &FunctionName,
    spec: &FunctionSpec,
    code: &Kept,
    counter: Option<&Row>,
) -> Result<(Vec<Change>, Revision), RepoError> {
    let version = 1 + counter.map_or(Ok(0), |row| decode::<u64>(&row.value, "counter"))?;
    let revision = Revision {
        id: spec.revision_id(&code.digest()),
        function: function.clone(),
        version,
        code: code.digest(),
        code_bytes: code.bytes(),
        created_ms: now_ms(),
        spec: spec.clone(),
    };
    let require = counter.map_or(Require::Absent, |row| Require::Version(row.version));
    let (count, body) = (encode(&version)?, encode(&revision)?);
    let changes = vec![
        Change::Put { sort: Bytes::from_static(COUNTER), value: count, expires: None, require },
        Change::Put { sort: revision_sort(&revision.id), value: body, expires: None, require: Require::Absent },
    ];
    Ok((changes, revision))
}

/// An alias as it was read, and what must hold for it to be changed.
struct AliasRow {
    record: Option<AliasRecord>,
    require: Require,
}

impl AliasRow {
    fn read(row: Option<&Row>) -> Result<Self, RepoError> {
        let Some(row) = row else { return Ok(Self { record: None, require: Require::Absent }) };
        Ok(Self { record: Some(decode(&row.value, "alias")?), require: Require::Version(row.version) })
    }

    fn revision(&self) -> Option<RevisionId> {
        self.record.as_ref().map(|r| r.revision)
    }

    fn pointed_at(&self, revision: &Revision, settings: Option<&AliasSettings>) -> AliasRecord {
        let old = self.record.as_ref();
        let previous = match old {
            Some(old) if old.revision == revision.id => old.previous,
            old => old.map(|o| o.revision),
        };
        AliasRecord {
            revision: revision.id,
            version: revision.version,
            settings: settings.or_else(|| old.map(|o| &o.settings)).cloned().unwrap_or_default(),
            previous,
            changed_ms: now_ms(),
        }
    }

    fn same(&self, other: &AliasRecord) -> bool {
        self.record.as_ref().is_some_and(|r| r.revision == other.revision && r.settings == other.settings)
    }

    fn put(&self, alias: &Name, record: &AliasRecord) -> Result<Change, RepoError> {
        let value = encode(record)?;
        Ok(Change::Put { sort: alias_sort(alias), value, expires: None, require: self.require.clone() })
    }
}
