//! CPU time and memory of a process and its threads, from `/proc`.

use std::time::Duration;

use anyhow::{Context, Result};

/// Returns user and system time of a process so far.
///
/// Sums `schedstat` over the threads (nanoseconds); threads that ended are
/// missing, so measure servers with a fixed set of them.
///
/// # Errors
/// When the process is gone.
pub fn time_of(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0u64;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanoseconds += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Returns the resident memory of a process, in bytes.
///
/// # Errors
/// When the process is gone.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no value")?.parse()?;
    Ok(kib << 10)
}

/// Returns the number of open descriptors of a process.
///
/// # Errors
/// When the process is gone.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
