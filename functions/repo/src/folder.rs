//! The repository with its records in a [`Store`] and its code in a folder; where other processes share
//! the store, code is in the store as well and the folder is a cache of it.
//!
//! Layout of the folder (0700): `{digest}` is kept code, `tmp/{uuid}` an upload
//! in flight. One process owns the folder.

use std::collections::HashSet;
use std::fs::{DirBuilder, File};
use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use faas_model::manifest::RuntimeKind;
use faas_model::units::Millis;
use faas_model::{AliasSettings, Digest, FunctionName, FunctionSpec, Hasher, Name, Revision, RevisionId};
use faas_store::{Lease, Store, WallClock};
use fail::fail_point;
use serde::{Deserialize, Serialize};

use crate::files::FileWork;
use crate::hold::Holds;
use crate::journal::Journal;
use crate::records::Records;
use crate::shelf::{self, Shelf};
use crate::{
    AliasRecord, Blob, CodeRepo, Collected, Expect, FunctionRecord, Fut, Kept, News, Published, RepoError, RevisionRef,
    Turn, Upload,
};

/// How long the process that tidies up may be silent before another does it.
const TIDYING: Duration = Duration::from_secs(60);

/// Bounds of the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Largest code, in bytes; default 128 MiB.
    pub code_bytes_max: faas_model::units::ByteSize,
    /// Longest wait for the changes of other processes, 1ms to 10m; default 30 s.
    pub turn_wait: Millis,
    /// Longest time that a change may take once it has its turn, 1s to 10m; default 10 s.
    /// A change whose process died blocks others for as long.
    pub turn_max: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            code_bytes_max: faas_model::units::ByteSize::mib(128),
            turn_wait: Millis::seconds(30),
            turn_max: Millis::seconds(10),
        }
    }
}

/// What processes share beside the records.
#[derive(Debug)]
struct Shared {
    shelf: Shelf,
    journal: Journal,
    /// For who tidies up.
    tidying: Lease,
}

/// Records in a store, code in a folder.
#[derive(Debug)]
pub struct FolderRepo {
    config: Config,
    folder: PathBuf,
    files: FileWork,
    records: Records,
    /// There where other processes share the store.
    shared: Option<Shared>,
    holds: Holds,
    /// Code whose content was compared with its digest by this process.
    verified: Mutex<HashSet<Digest>>,
    /// Held while code appears in or vanishes from the folder.
    changing: tokio::sync::Mutex<()>,
}

impl FolderRepo {
    /// Opens the repository; makes the folder and removes uploads that a crash cut off.
    ///
    /// # Errors
    /// `Disk` when the folder cannot be made or read.
    pub async fn open(folder: impl Into<PathBuf>, config: Config, store: Arc<dyn Store>) -> Result<Self, RepoError> {
        let folder = folder.into();
        let temporary = folder.join("tmp");
        let removed = FileWork::Threads
            .run(move || {
                DirBuilder::new().recursive(true).mode(0o700).create(&temporary)?;
                remove_all(&temporary)
            })
            .await?;
        if removed > 0 {
            tracing::info!(removed, "removed uploads that were cut off");
        }
        let records = Records::new(store);
        let (holds, verified, changing) = Default::default();
        Ok(Self { config, folder, files: FileWork::Threads, records, shared: None, holds, verified, changing })
    }

    /// Shares records and code with other processes over the same store from now on. `clock` tells how old code is.
    #[must_use]
    pub fn sharing(self, store: Arc<dyn Store>, clock: WallClock) -> Self {
        let journal = Journal::new(store.clone(), clock.clone(), &self.config);
        let tidying = Lease::new(store.clone(), "tidy", TIDYING);
        let shared = Shared { journal, tidying, shelf: Shelf::new(store, clock) };
        Self { shared: Some(shared), ..self }
    }

    /// Does the file work on the calling thread from now on: in a simulation no
    /// order of events may depend on other threads. It blocks, so nowhere else.
    #[must_use]
    pub fn on_this_thread(self) -> Self {
        Self { files: FileWork::Here, ..self }
    }

    fn path(&self, code: &Digest) -> PathBuf {
        self.folder.join(code.to_string())
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep_blob(&self, blob: Blob) -> Result<Kept, RepoError> {
        let kept = self.keep_file(blob).await?;
        if let Some(Shared { shelf, .. }) = &self.shared {
            shelf.put(&kept.digest(), kept.path()).await?;
        }
        Ok(kept)
    }

    async fn keep_file(&self, blob: Blob) -> Result<Kept, RepoError> {
        let _changing = self.changing.lock().await;
        let (folder, path, digest) = (self.folder.clone(), self.path(&blob.digest()), blob.digest());
        let kept = self
            .files
            .run(move || {
                let kept = blob.rename(path)?;
                fail_point!("blob-renamed");
                File::open(folder)?.sync_all()?;
                fail_point!("blob-folder-synced");
                Ok(kept)
            })
            .await?;
        self.verified().insert(digest);
        Ok(kept)
    }

    async fn fetch_code(&self, code: Digest) -> Result<PathBuf, RepoError> {
        match (self.fetch_file(code).await, &self.shared) {
            (Err(RepoError::NotFound(_) | RepoError::Corrupt(_)), Some(Shared { shelf, .. })) => {
                let mut upload = self.begin().await?;
                shelf.get(&code, &mut upload).await?;
                let blob = upload.finish().await?;
                if blob.digest() != code {
                    let found = blob.digest().short();
                    return Err(RepoError::Corrupt(format!("shared code {} has the content of {found}", code.short())));
                }
                Ok(self.keep_file(blob).await?.path().to_owned())
            }
            (found, _) => found,
        }
    }

    async fn fetch_file(&self, code: Digest) -> Result<PathBuf, RepoError> {
        let path = self.path(&code);
        if self.verified().contains(&code) {
            return Ok(path);
        }
        let file = path.clone();
        let found = match self.files.run(move || digest_of(&file)).await {
            Err(RepoError::Disk(std::io::ErrorKind::NotFound)) => {
                return Err(RepoError::NotFound(format!("code {}", code.short())));
            }
            found => found?,
        };
        if found != code {
            return Err(RepoError::Corrupt(format!("code {} has the content of {}", code.short(), found.short())));
        }
        self.verified().insert(code);
        Ok(path)
    }

    /// Lists kept code that nobody uses. The caller holds `changing`.
    async fn unused(&self) -> Result<Vec<Digest>, RepoError> {
        // Holds are read before the records: code that is published and let go
        // of in between is then seen by at least one of the two.
        let held = self.holds.held();
        let folder = self.folder.clone();
        let mut kept = self.files.run(move || list(&folder)).await?;
        kept.retain(|digest| !held.contains(digest));
        if kept.is_empty() {
            return Ok(kept);
        }
        let used = self.records.code_in_use().await?;
        kept.retain(|digest| !used.contains(digest));
        Ok(kept)
    }

    async fn drop_code(&self, code: Digest) -> Result<(), RepoError> {
        self.verified().remove(&code);
        fail_point!("blob-remove");
        let path = self.path(&code);
        match self.files.run(move || std::fs::remove_file(path)).await {
            Err(RepoError::Disk(std::io::ErrorKind::NotFound)) => Ok(()),
            other => other,
        }
    }

    async fn discard_code(&self, code: Digest) -> Result<bool, RepoError> {
        let _changing = self.changing.lock().await;
        let unused = !self.holds.held().contains(&code) && !self.records.code_in_use().await?.contains(&code);
        if unused {
            self.drop_code(code).await?;
        }
        Ok(unused)
    }

    async fn collect_code(&self) -> Result<Collected, RepoError> {
        let _changing = self.changing.lock().await;
        self.records.sweep().await?;
        let code = self.unused().await?;
        for digest in &code {
            self.drop_code(*digest).await?;
        }
        Ok(Collected { code })
    }
}

impl FolderRepo {
    async fn end(&self, turn: Turn) -> Result<(), RepoError> {
        match (&self.shared, turn.shared) {
            (Some(Shared { journal, .. }), Some(held)) => journal.done(turn.function(), held).await,
            _ => Ok(()),
        }
    }

    async fn publish_kept(
        &self,
        turn: &Turn,
        spec: &FunctionSpec,
        settings: &AliasSettings,
        code: &Kept,
        expected: Expect,
    ) -> Result<Published, RepoError> {
        if self.shared.is_some() && code.age() > shelf::PUBLISHED_WITHIN {
            return Err(RepoError::Late { after: shelf::PUBLISHED_WITHIN });
        }
        self.records.publish(turn, spec, settings, code, expected).await
    }

    async fn tidy_shelf(&self) -> Result<Collected, RepoError> {
        let Some(Shared { shelf, tidying, .. }) = &self.shared else { return Ok(Collected::default()) };
        if tidying.tick().await?.is_none() {
            return Ok(Collected::default());
        }
        self.records.sweep().await?;
        let stale = shelf.stale().await?;
        let used = self.records.code_in_use().await?;
        Ok(Collected { code: shelf.remove(stale, &used).await? })
    }
}

impl CodeRepo for FolderRepo {
    fn begin(&self) -> Fut<'_, Upload> {
        let path = self.folder.join("tmp").join(uuid::Uuid::now_v7().simple().to_string());
        Box::pin(Upload::create(path, self.files, self.config.code_bytes_max.0, self.holds.clone()))
    }

    fn keep(&self, blob: Blob) -> Fut<'_, Kept> {
        Box::pin(self.keep_blob(blob))
    }

    fn shared(&self) -> bool {
        self.shared.is_some()
    }

    fn turn<'a>(&'a self, function: &'a FunctionName) -> Fut<'a, Turn> {
        Box::pin(async move {
            match &self.shared {
                Some(Shared { journal, .. }) => journal.turn(function).await,
                None => Ok(Turn::new(function.clone(), None)),
            }
        })
    }

    fn done(&self, turn: Turn) -> Fut<'_, ()> {
        Box::pin(self.end(turn))
    }

    fn news(&self, after: u64) -> Fut<'_, News> {
        Box::pin(async move {
            match &self.shared {
                Some(Shared { journal, .. }) => journal.news(after).await,
                None => Ok(News::default()),
            }
        })
    }

    fn foretell<'a>(&'a self, runtime: RuntimeKind, code: &'a Kept) -> Fut<'a, ()> {
        Box::pin(async move {
            match &self.shared {
                Some(Shared { journal, .. }) => journal.foretell(runtime, code.digest()).await,
                None => Ok(()),
            }
        })
    }

    fn changed_beside_turns(&self) -> Fut<'_, ()> {
        Box::pin(async move {
            match &self.shared {
                Some(Shared { journal, .. }) => journal.skip().await,
                None => Ok(()),
            }
        })
    }

    fn publish<'a>(
        &'a self,
        turn: &'a Turn,
        spec: &'a FunctionSpec,
        settings: &'a AliasSettings,
        code: &'a Kept,
        expected: Expect,
    ) -> Fut<'a, Published> {
        Box::pin(self.publish_kept(turn, spec, settings, code, expected))
    }

    fn resolve<'a>(&'a self, function: &'a FunctionName, alias: &'a Name) -> Fut<'a, (AliasRecord, Arc<Revision>)> {
        Box::pin(self.records.resolve(function, alias))
    }

    fn fetch<'a>(&'a self, code: &'a Digest) -> Fut<'a, PathBuf> {
        Box::pin(self.fetch_code(*code))
    }

    fn namespaces(&self) -> Fut<'_, Vec<Name>> {
        Box::pin(self.records.namespaces())
    }

    fn list<'a>(&'a self, namespace: &'a Name) -> Fut<'a, Vec<FunctionRecord>> {
        Box::pin(self.records.list(namespace))
    }

    fn function<'a>(&'a self, function: &'a FunctionName) -> Fut<'a, FunctionRecord> {
        Box::pin(self.records.function(function))
    }

    fn revisions<'a>(&'a self, function: &'a FunctionName) -> Fut<'a, Vec<Revision>> {
        Box::pin(self.records.revisions(function))
    }

    fn revision<'a>(&'a self, function: &'a FunctionName, id: &'a RevisionId) -> Fut<'a, Arc<Revision>> {
        Box::pin(self.records.revision(function, id))
    }

    fn find<'a>(&'a self, function: &'a FunctionName, reference: &'a RevisionRef) -> Fut<'a, Arc<Revision>> {
        Box::pin(async move {
            let revisions = self.records.revisions(function).await?;
            reference.pick(&revisions).map(|revision| Arc::new(revision.clone()))
        })
    }

    fn promote<'a>(
        &'a self,
        turn: &'a Turn,
        alias: &'a Name,
        revision: &'a RevisionId,
        settings: Option<&'a AliasSettings>,
        expected: Expect,
    ) -> Fut<'a, AliasRecord> {
        Box::pin(self.records.promote(turn, alias, revision, settings, expected))
    }

    fn remove<'a>(&'a self, turn: &'a Turn) -> Fut<'a, Vec<Digest>> {
        Box::pin(self.records.remove(turn))
    }

    fn sweep(&self) -> Fut<'_, ()> {
        Box::pin(self.records.sweep())
    }

    fn orphans(&self) -> Fut<'_, Vec<Digest>> {
        Box::pin(async {
            let _changing = self.changing.lock().await;
            self.unused().await
        })
    }

    fn discard<'a>(&'a self, code: &'a Digest) -> Fut<'a, bool> {
        Box::pin(self.discard_code(*code))
    }

    fn collect(&self) -> Fut<'_, Collected> {
        Box::pin(self.collect_code())
    }

    fn tidy(&self) -> Fut<'_, Collected> {
        Box::pin(self.tidy_shelf())
    }
}

fn remove_all(folder: &Path) -> std::io::Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(folder)? {
        std::fs::remove_file(entry?.path())?;
        removed += 1;
    }
    Ok(removed)
}

/// Lists files whose names are digests, in their order; others are not ours.
fn list(folder: &Path) -> std::io::Result<Vec<Digest>> {
    let names = std::fs::read_dir(folder)?.map(|entry| entry.map(|e| e.file_name()));
    let digests = names.filter_map(|name| name.map(|n| n.to_str()?.parse().ok()).transpose());
    let mut digests: Vec<Digest> = digests.collect::<std::io::Result<_>>()?;
    digests.sort_unstable();
    Ok(digests)
}

fn digest_of(path: &Path) -> std::io::Result<Digest> {
    let (mut file, mut hasher, mut buffer) = (File::open(path)?, Hasher::default(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}
