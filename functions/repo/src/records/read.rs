//! Reading functions, aliases and revisions.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use faas_model::{Digest, FunctionName, Name, Revision, RevisionId};
use faas_store::{Partition, Read, Row, Space};
use serde::Deserialize;

use super::{ALIASES, REVISIONS, Records, alias_sort, by, decode, key, namespaces_partition, page};
use super::{partition, range, revision_sort};
use crate::{AliasRecord, FunctionRecord, RepoError};

/// The part of a revision that says which code it needs.
#[derive(Deserialize)]
struct CodeOf {
    code: Digest,
}

impl Records {
    pub(crate) async fn resolve(
        &self,
        function: &FunctionName,
        alias: &Name,
    ) -> Result<(AliasRecord, Arc<Revision>), RepoError> {
        let row = self.store.get(&key(function, alias_sort(alias)), Read::Linearizable, by()).await?;
        let row = row.ok_or_else(|| RepoError::NotFound(format!("alias {alias} of function {function}")))?;
        let record: AliasRecord = decode(&row.value, "alias")?;
        let revision = self.revision(function, &record.revision).await?;
        Ok((record, revision))
    }

    pub(crate) async fn revision(&self, function: &FunctionName, id: &RevisionId) -> Result<Arc<Revision>, RepoError> {
        let row = self.store.get(&key(function, revision_sort(id)), Read::Linearizable, by()).await?;
        let row = row.ok_or_else(|| RepoError::NotFound(format!("revision {} of {function}", id.0.short())))?;
        decode(&row.value, "revision").map(Arc::new)
    }

    pub(crate) async fn revisions(&self, function: &FunctionName) -> Result<Vec<Revision>, RepoError> {
        let rows = self.rows(&partition(function), range(REVISIONS)).await?;
        if rows.is_empty() {
            return Err(RepoError::NotFound(format!("function {function}")));
        }
        let mut revisions: Vec<Revision> =
            rows.iter().map(|row| decode(&row.value, "revision")).collect::<Result<_, _>>()?;
        revisions.sort_by_key(|r| r.version);
        Ok(revisions)
    }

    pub(crate) async fn function(&self, function: &FunctionName) -> Result<FunctionRecord, RepoError> {
        let rows = self.rows(&partition(function), range(ALIASES)).await?;
        let mut aliases = BTreeMap::new();
        for row in rows {
            let alias = std::str::from_utf8(row.sort.get(2..).unwrap_or_default()).ok().and_then(|t| Name::new(t).ok());
            let alias = alias.ok_or_else(|| RepoError::Corrupt(format!("alias row {:?}", row.sort)))?;
            aliases.insert(alias, decode(&row.value, "alias")?);
        }
        if aliases.is_empty() {
            return Err(RepoError::NotFound(format!("function {function}")));
        }
        Ok(FunctionRecord { function: function.clone(), aliases })
    }

    pub(crate) async fn list(&self, namespace: &Name) -> Result<Vec<FunctionRecord>, RepoError> {
        let mut records = Vec::new();
        for function in self.functions(namespace).await? {
            match self.function(&function).await {
                // Half removed: `sweep` takes the rest.
                Err(RepoError::NotFound(_)) => {}
                record => records.push(record?),
            }
        }
        Ok(records)
    }

    pub(crate) async fn namespaces(&self) -> Result<Vec<Name>, RepoError> {
        let rows = self.rows(&namespaces_partition(), Bytes::new()..Bytes::new()).await?;
        let mut names: BTreeSet<Name> = BTreeSet::from([Name::namespace_default()]);
        names.extend(rows.iter().filter_map(|row| Name::new(std::str::from_utf8(&row.sort).ok()?).ok()));
        Ok(names.into_iter().collect())
    }

    pub(crate) async fn code_in_use(&self) -> Result<HashSet<Digest>, RepoError> {
        let mut used = HashSet::new();
        for namespace in self.namespaces().await? {
            for function in self.functions(&namespace).await? {
                for row in self.rows(&partition(&function), range(REVISIONS)).await? {
                    used.insert(decode::<CodeOf>(&row.value, "revision")?.code);
                }
            }
        }
        Ok(used)
    }

    /// Lists every function that has a row, in the order of names.
    pub(super) async fn functions(&self, namespace: &Name) -> Result<BTreeSet<FunctionName>, RepoError> {
        let (mut found, mut after) = (BTreeSet::new(), None);
        loop {
            let slice = self.store.partitions(namespace, Space::Catalog, b"", page(after), by()).await?;
            for name in slice.items.iter().filter(|name| !name.starts_with(b"#")) {
                let text = std::str::from_utf8(name).ok().and_then(|t| Name::new(t).ok());
                let name = text.ok_or_else(|| RepoError::Corrupt(format!("catalog partition {name:?}")))?;
                found.insert(FunctionName::new(namespace.clone(), name));
            }
            after = slice.next;
            if after.is_none() {
                return Ok(found);
            }
        }
    }

    async fn rows(&self, partition: &Partition, range: Range<Bytes>) -> Result<Vec<Row>, RepoError> {
        super::rows(&*self.store, partition, range).await
    }
}
