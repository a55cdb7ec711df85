//! The versioned, content-addressed code repository: [`CodeRepo`] publishes
//! revisions, points aliases at them, fetches code and removes what nobody uses.
//!
//! **Never knows** runtimes, HTTP or pools.
//!
//! Invariants:
//! - A revision never changes; the same spec with the same code is the same revision.
//! - Publishing and moving an alias is one store write: after a crash the old state or the new one.
//! - A record never names code that is not on disk: code is kept first, removed last.
//! - A file name is made of a digest alone, never of a name that a user chose.
//! - Code of an upload in flight is never collected.
//! - Where several processes share the records, one change is made at a time and each hears of all.

mod error;
mod files;
mod folder;
mod hold;
mod journal;
mod records;
mod reference;
mod shelf;
mod turn;
mod upload;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use faas_model::manifest::RuntimeKind;
use faas_model::{AliasSettings, Digest, FunctionName, FunctionSpec, Name, Revision, RevisionId};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use error::RepoError;
pub use folder::{Config, FolderRepo};
pub use reference::{RevisionRef, RevisionRefError};
pub use turn::{Coming, News, Turn};
pub use upload::{Blob, Kept, Upload};

/// Most aliases of one function.
pub const ALIASES_MAX: usize = 64;

/// Returns whether a partition tells of running processes, and stays behind where everything else is moved.
#[must_use]
pub fn stays_behind(space: faas_store::Space, partition: &[u8]) -> bool {
    space == faas_store::Space::Catalog && partition == journal::PARTITION
}

/// The result of a repository call.
pub type Fut<'a, T> = BoxFuture<'a, Result<T, RepoError>>;

/// What an alias must point to for a change to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Anything or nothing.
    #[default]
    Any,
    /// Nothing: the alias does not exist.
    Absent,
    /// This revision.
    Revision(RevisionId),
}

impl Expect {
    /// Returns whether an alias that points to `current` is as expected.
    #[must_use]
    pub fn holds(&self, current: Option<RevisionId>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => current.is_none(),
            Self::Revision(id) => current == Some(*id),
        }
    }
}

/// Where an alias points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRecord {
    /// The revision.
    pub revision: RevisionId,
    /// That revision's number within the function.
    pub version: u64,
    /// What the alias adds to the revision.
    pub settings: AliasSettings,
    /// The revision it pointed to before, the target of a rollback.
    #[serde(default)]
    pub previous: Option<RevisionId>,
    /// When it was moved or its settings changed, Unix milliseconds.
    pub changed_ms: u64,
}

/// A function and its aliases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionRecord {
    /// Which function.
    pub function: FunctionName,
    /// Its aliases; never empty.
    pub aliases: BTreeMap<Name, AliasRecord>,
}

/// What a publication did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The revision, new or known before.
    pub revision: Arc<Revision>,
    /// Whether the revision is new.
    pub created: bool,
    /// Whether `live` points to another revision than before.
    pub moved: bool,
    /// What `live` is now.
    pub alias: AliasRecord,
}

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Code that no revision needed.
    pub code: Vec<Digest>,
}

/// Keeps code and the records of its revisions.
pub trait CodeRepo: Send + Sync + fmt::Debug {
    /// Begins an upload. Dropping it removes what was written.
    fn begin(&self) -> Fut<'_, Upload>;

    /// Makes uploaded code durable under its digest. Idempotent.
    ///
    /// The result keeps the code from collection until it is dropped.
    fn keep(&self, blob: Blob) -> Fut<'_, Kept>;

    /// Returns whether other processes share the records.
    fn shared(&self) -> bool;

    /// Waits for the turn to change a function, `repo.turn_wait` at most.
    ///
    /// # Errors
    /// `Busy` names the function whose change did not end meanwhile.
    fn turn<'a>(&'a self, function: &'a FunctionName) -> Fut<'a, Turn>;

    /// Ends a turn: the change is told to others.
    ///
    /// # Errors
    /// What the store failed with; others end the turn then, after `repo.turn_max`.
    fn done(&self, turn: Turn) -> Fut<'_, ()>;

    /// Returns which functions changed since the first `after` changes, by any process.
    /// What was changed before is in the records as they are read after this.
    fn news(&self, after: u64) -> Fut<'_, News>;

    /// Tells other processes that the code may be published soon, so that they make it ready meanwhile.
    ///
    /// # Errors
    /// What the store failed with; nothing depends on it.
    fn foretell<'a>(&'a self, runtime: RuntimeKind, code: &'a Kept) -> Fut<'a, ()>;

    /// Tells other processes that records were changed beside all turns: they read everything anew.
    ///
    /// # Errors
    /// What the store failed with.
    fn changed_beside_turns(&self) -> Fut<'_, ()>;

    /// Publishes a revision of the turn's function and points `live` at it, in one store write.
    ///
    /// A revision that exists already is not published again, but `live` still moves.
    ///
    /// # Errors
    /// `Conflict` when `live` is not as `expected`; `Late` when the code was kept too long ago.
    fn publish<'a>(
        &'a self,
        turn: &'a Turn,
        spec: &'a FunctionSpec,
        settings: &'a AliasSettings,
        code: &'a Kept,
        expected: Expect,
    ) -> Fut<'a, Published>;

    /// Returns where an alias points, and that revision.
    ///
    /// # Errors
    /// `NotFound` when there is no such function or alias.
    fn resolve<'a>(&'a self, function: &'a FunctionName, alias: &'a Name) -> Fut<'a, (AliasRecord, Arc<Revision>)>;

    /// Returns a file that holds the code of that digest; verified at the first fetch of this process.
    /// Shared code is brought into this process's folder first.
    ///
    /// # Errors
    /// `NotFound`, or `Corrupt` when the file's content has another digest.
    fn fetch<'a>(&'a self, code: &'a Digest) -> Fut<'a, PathBuf>;

    /// Returns every namespace that has or had a function.
    fn namespaces(&self) -> Fut<'_, Vec<Name>>;

    /// Returns the functions of a namespace, in the order of their names.
    fn list<'a>(&'a self, namespace: &'a Name) -> Fut<'a, Vec<FunctionRecord>>;

    /// Returns the aliases of a function.
    ///
    /// # Errors
    /// `NotFound` when there is no such function.
    fn function<'a>(&'a self, function: &'a FunctionName) -> Fut<'a, FunctionRecord>;

    /// Returns every revision of a function, oldest version first.
    ///
    /// # Errors
    /// `NotFound` when there is no such function.
    fn revisions<'a>(&'a self, function: &'a FunctionName) -> Fut<'a, Vec<Revision>>;

    /// Returns one revision.
    ///
    /// # Errors
    /// `NotFound` when there is no such revision.
    fn revision<'a>(&'a self, function: &'a FunctionName, id: &'a RevisionId) -> Fut<'a, Arc<Revision>>;

    /// Returns the revision that a version number or the beginning of an id names.
    ///
    /// # Errors
    /// `NotFound`, or `Ambiguous` when several ids begin so.
    fn find<'a>(&'a self, function: &'a FunctionName, reference: &'a RevisionRef) -> Fut<'a, Arc<Revision>>;

    /// Points an alias of the turn's function at a revision; without `settings` it keeps its own.
    ///
    /// # Errors
    /// `NotFound` when there is no such revision, `Conflict` when the alias is not as `expected`.
    fn promote<'a>(
        &'a self,
        turn: &'a Turn,
        alias: &'a Name,
        revision: &'a RevisionId,
        settings: Option<&'a AliasSettings>,
        expected: Expect,
    ) -> Fut<'a, AliasRecord>;

    /// Removes the records of the turn's function and returns the code that its revisions used, in the order of digests.
    /// The code itself stays until it is discarded.
    ///
    /// # Errors
    /// `NotFound` when there is no such function.
    fn remove<'a>(&'a self, turn: &'a Turn) -> Fut<'a, Vec<Digest>>;

    /// Ends removals that a crash cut off; what their revisions used is then an orphan.
    fn sweep(&self) -> Fut<'_, ()>;

    /// Returns kept code that no revision and no upload in flight uses, in the order of digests.
    fn orphans(&self) -> Fut<'_, Vec<Digest>>;

    /// Removes kept code unless a revision or an upload in flight uses it; returns whether it is gone.
    fn discard<'a>(&'a self, code: &'a Digest) -> Fut<'a, bool>;

    /// Removes all code that nobody uses, after a [`sweep`](Self::sweep).
    fn collect(&self) -> Fut<'_, Collected>;

    /// Removes what nobody uses any more of the code that processes share; nothing where none is shared.
    /// Does nothing where another process does it already.
    fn tidy(&self) -> Fut<'_, Collected>;
}

#[cfg(test)]
mod tests;
