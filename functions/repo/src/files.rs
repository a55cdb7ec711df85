//! Where blocking file work is done.

use std::fs::File;
use std::io::Write as _;

use tokio::io::AsyncWriteExt as _;

use crate::RepoError;

/// Where blocking file work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileWork {
    /// Off the async threads.
    Threads,
    /// On the calling thread, which it blocks.
    Here,
}

/// A file being written.
#[derive(Debug)]
pub(crate) enum Output {
    /// By tokio's threads.
    Threads(tokio::fs::File),
    /// By the calling thread.
    Here(File),
}

impl FileWork {
    /// Does the work and returns its result.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, RepoError> {
        match self {
            Self::Here => Ok(work()?),
            Self::Threads => match tokio::task::spawn_blocking(work).await {
                Ok(result) => Ok(result?),
                Err(_) => Err(RepoError::Disk(std::io::ErrorKind::Interrupted)),
            },
        }
    }

    /// Returns the writer of a file just made.
    pub(crate) fn output(self, file: File) -> Output {
        match self {
            Self::Threads => Output::Threads(tokio::fs::File::from_std(file)),
            Self::Here => Output::Here(file),
        }
    }
}

impl Output {
    /// Appends bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Threads(file) => file.write_all(bytes).await,
            Self::Here(file) => file.write_all(bytes),
        }
    }

    /// Flushes everything to disk.
    pub(crate) async fn sync(&mut self) -> std::io::Result<()> {
        match self {
            Self::Threads(file) => {
                file.flush().await?;
                file.sync_all().await
            }
            Self::Here(file) => file.sync_all(),
        }
    }
}
