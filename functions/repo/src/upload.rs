//! Code on its way in: a temporary file that is hashed while it is written.
//!
//! Never more than `code_bytes_max` bytes; a dropped upload leaves no file.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use faas_model::{Digest, Hasher};
use fail::fail_point;
use tokio::time::Instant;

use crate::RepoError;
use crate::files::{FileWork, Output};
use crate::hold::{Hold, Holds};

/// Code being written. Dropping it removes the file.
#[derive(Debug)]
pub struct Upload {
    file: Output,
    temporary: Temporary,
    hasher: Hasher,
    bytes: u64,
    bytes_max: u64,
    holds: Holds,
}

/// Code written whole and flushed to disk, in a temporary file. Dropping it removes the file.
#[derive(Debug)]
pub struct Blob {
    digest: Digest,
    bytes: u64,
    temporary: Temporary,
    hold: Hold,
}

/// Code that is kept under its digest, and will not be collected while this value lives.
#[derive(Debug)]
pub struct Kept {
    digest: Digest,
    bytes: u64,
    path: PathBuf,
    since: Instant,
    /// Given back on drop.
    _hold: Hold,
}

impl Upload {
    pub(crate) async fn create(
        path: PathBuf,
        files: FileWork,
        bytes_max: u64,
        holds: Holds,
    ) -> Result<Self, RepoError> {
        let new = path.clone();
        let open = move || OpenOptions::new().write(true).create_new(true).mode(0o600).open(new);
        let file = files.output(files.run(open).await?);
        let temporary = Temporary { path, renamed: false };
        Ok(Self { file, temporary, hasher: Hasher::default(), bytes: 0, bytes_max, holds })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// `TooLarge` at the first byte over the bound, `Disk` when the file system fails.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), RepoError> {
        let total = self.bytes.saturating_add(bytes.len() as u64);
        if total > self.bytes_max {
            return Err(RepoError::TooLarge { what: "the code", max: self.bytes_max });
        }
        self.bytes = total;
        self.hasher.update(bytes);
        self.file.write(bytes).await?;
        fail_point!("upload-write");
        Ok(())
    }

    /// Returns how many bytes were written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Flushes the file to disk and names its content.
    ///
    /// # Errors
    /// `Disk` when the file system fails.
    pub async fn finish(mut self) -> Result<Blob, RepoError> {
        self.file.sync().await?;
        fail_point!("upload-synced");
        let digest = self.hasher.finish();
        let hold = self.holds.hold(digest);
        Ok(Blob { digest, bytes: self.bytes, temporary: self.temporary, hold })
    }
}

impl Blob {
    /// Returns the digest of the code.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the size of the code.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Renames the file to `path`, in the same file system. Blocks.
    pub(crate) fn rename(mut self, path: PathBuf) -> std::io::Result<Kept> {
        std::fs::rename(&self.temporary.path, &path)?;
        self.temporary.renamed = true;
        Ok(Kept { digest: self.digest, bytes: self.bytes, path, since: Instant::now(), _hold: self.hold })
    }
}

impl Kept {
    /// Returns the digest of the code.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the size of the code.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns how long ago it was kept.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Returns the file that holds the code.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A file that is removed on drop unless it was renamed.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(kind = ?error.kind(), "temporary code file could not be removed; the next start does it");
        }
    }
}
