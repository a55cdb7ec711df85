//! The settings of the embedded store.

use serde::{Deserialize, Serialize};

use super::OpenError;

/// Smallest page cache, in bytes.
pub(super) const CACHE_BYTES_MIN: usize = 1 << 20;

/// Settings of the embedded store. Since 0.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Bytes of the engine's page cache; resident memory under load is about twice that. At least 1 MiB.
    pub cache_bytes: usize,
    /// Writes of one group commit at most. 1 or more.
    pub group_writes_max: usize,
    /// Bytes of one group commit, after which no more writes join it.
    pub group_bytes_max: usize,
    /// Bytes of all writes that wait for the writer; more wait in line until their deadlines.
    pub queue_bytes_max: usize,
    /// Recent writes whose outcome `fate` still knows. 1 or more.
    pub outcomes_max: usize,
    /// Records that the change log keeps at most.
    pub log_records_max: u64,
    /// Bytes that the change log keeps at most.
    pub log_bytes_max: u64,
    /// Seconds that a record of the change log is kept at most.
    pub log_age_max_s: u64,
    /// Milliseconds between looks for expired rows and old records.
    pub upkeep_interval_ms: u64,
    /// Rows that one slice of upkeep removes at most.
    pub upkeep_rows_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache_bytes: 32 << 20,
            group_writes_max: 1024,
            group_bytes_max: 4 << 20,
            queue_bytes_max: 32 << 20,
            outcomes_max: 65_536,
            log_records_max: 100_000,
            log_bytes_max: 256 << 20,
            log_age_max_s: 86_400,
            upkeep_interval_ms: 1_000,
            upkeep_rows_max: 500,
        }
    }
}

impl Config {
    /// Returns which setting is out of its bounds, if one is.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let least = [
            ("cache_bytes", self.cache_bytes, CACHE_BYTES_MIN),
            ("group_writes_max", self.group_writes_max, 1),
            ("outcomes_max", self.outcomes_max, 1),
        ];
        match least.into_iter().find(|(_, value, least)| value < least) {
            Some((key, value, least)) => Err(OpenError::Setting { key, value, least }),
            None => Ok(()),
        }
    }
}
