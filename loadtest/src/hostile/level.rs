//! What a process holds, and whether it came back to its level.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::cpu;

/// Memory that may stay behind: slots of guests keep up to 1 MiB each, and the allocator its pages.
const RESIDENT_SLACK: u64 = 96 << 20;
/// Descriptors and threads that may come and go meanwhile.
const COUNT_SLACK: usize = 8;
/// How long giving everything back may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process holds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Level {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl Level {
    /// Reads the level of a process.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn of(pid: u32) -> Result<Self> {
        Ok(Self {
            resident_bytes: cpu::resident_bytes(pid)?,
            descriptors: cpu::descriptors(pid)?,
            threads: std::fs::read_dir(format!("/proc/{pid}/task"))?.count(),
        })
    }

    fn is_back_at(&self, before: &Self) -> bool {
        self.resident_bytes <= before.resident_bytes + RESIDENT_SLACK
            && self.descriptors <= before.descriptors + COUNT_SLACK
            && self.threads <= before.threads + COUNT_SLACK
    }

    /// Waits until the process is back at `before`; returns its level then, and whether it is.
    ///
    /// # Errors
    /// When the process is gone.
    pub(super) async fn settle(pid: u32, before: &Self) -> Result<(Self, bool)> {
        let begun = tokio::time::Instant::now();
        loop {
            let now = Self::of(pid)?;
            let back = now.is_back_at(before);
            if back || begun.elapsed() > PATIENCE {
                return Ok((now, back));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Returns the bytes of all files below a folder.
///
/// # Errors
/// When it cannot be read.
pub(super) fn bytes_below(folder: &std::path::Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // A file may be renamed or removed meanwhile.
        let Ok(facts) = entry.metadata() else { continue };
        bytes += if facts.is_dir() { bytes_below(&entry.path())? } else { facts.len() };
    }
    Ok(bytes)
}
