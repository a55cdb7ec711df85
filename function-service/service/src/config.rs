//! Settings of the function service.

use faas_model::units::Millis;
use serde::{Deserialize, Serialize};

/// Bounds that hold for every function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Consecutive failed starts from which on starts pause, 1 to 100; default 3.
    pub start_failures_max: u32,
    /// First pause after that many failed starts, 1ms to 1h; each next doubles; default 1 s.
    pub pause_min: Millis,
    /// Longest pause, 1ms to 1h; default 60 s.
    pub pause_max: Millis,
    /// How long a stopping instance may take, 1ms to 10m; default 10 s.
    pub stop: Millis,
    /// Between two looks at what other processes changed, 10ms to 10s; default 250 ms.
    pub follow: Millis,
    /// Between two removals of shared code that nobody uses, 1s to 1h; default 10 min.
    pub tidy: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            start_failures_max: 3,
            pause_min: Millis::seconds(1),
            pause_max: Millis::seconds(60),
            stop: Millis::seconds(10),
            follow: Millis(250),
            tidy: Millis::seconds(600),
        }
    }
}
