//! Watches a server while it is under load: memory, and the instances that a platform keeps.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cpu;
use crate::http::Client;
use crate::platform::Platform;

/// Pause between two looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What was seen, integrated over time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Largest resident memory.
    pub resident_bytes_peak: u64,
    /// Resident memory above that at the begin, times its seconds, in MiB·s.
    pub resident_mib_seconds: f64,
    /// Instances times their seconds, by function; empty without a platform.
    #[serde(skip)]
    pub instance_seconds: BTreeMap<String, f64>,
    /// Looks that failed.
    pub looks_failed: u64,
}

/// A running watch.
#[derive(Debug)]
pub struct Watch {
    task: JoinHandle<Seen>,
    stop: tokio::sync::oneshot::Sender<()>,
}

/// Where a platform tells its metrics, and with which token.
#[derive(Debug, Clone)]
pub struct Metrics {
    url: String,
    authorization: String,
}

impl Metrics {
    /// Returns where `platform` tells its metrics.
    ///
    /// # Errors
    /// When its token cannot be read.
    pub fn of(platform: &Platform) -> anyhow::Result<Self> {
        Ok(Self { url: platform.control("/metrics"), authorization: format!("Bearer {}", platform.token()?) })
    }
}

impl Watch {
    /// Begins to watch process `pid` and, when given, the platform's instances.
    #[must_use]
    pub fn begin(pid: u32, metrics: Option<Metrics>) -> Self {
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let client = Client::default();
            let base = cpu::resident_bytes(pid).unwrap_or_default();
            let mut seen = Seen { resident_bytes_peak: base, ..Seen::default() };
            let mut last = Instant::now();
            loop {
                let end = tokio::time::timeout(LOOK_EVERY, &mut stopped).await.is_ok();
                let passed = last.elapsed().as_secs_f64();
                last = Instant::now();
                seen.memory(pid, base, passed);
                if let Some(metrics) = &metrics {
                    seen.instances(&client, metrics, passed).await;
                }
                if end {
                    return seen;
                }
            }
        });
        Self { task, stop }
    }

    /// Looks once more and returns what was seen.
    pub async fn end(self) -> Seen {
        self.stop.send(()).ok();
        self.task.await.unwrap_or_default()
    }
}

impl Seen {
    fn memory(&mut self, pid: u32, base: u64, passed: f64) {
        match cpu::resident_bytes(pid) {
            Ok(now) => {
                self.resident_bytes_peak = self.resident_bytes_peak.max(now);
                self.resident_mib_seconds += now.saturating_sub(base) as f64 / f64::from(1 << 20) * passed;
            }
            Err(_) => self.looks_failed += 1,
        }
    }

    async fn instances(&mut self, client: &Client, metrics: &Metrics, passed: f64) {
        let headers = [("authorization", metrics.authorization.as_str())];
        let answer = client.send(http::Method::GET, &metrics.url, &headers, "").await;
        match answer {
            Ok(answer) if answer.status == 200 => {
                for (function, instances) in gauges(&answer.text(), "faas_instances") {
                    *self.instance_seconds.entry(function).or_default() += instances * passed;
                }
            }
            _ => self.looks_failed += 1,
        }
    }
}

/// Returns the values of a metric by function (its label is `NAME.NAMESPACE`), from the Prometheus text format.
fn gauges(text: &str, name: &str) -> Vec<(String, f64)> {
    let lines = text.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix('{'));
    let parsed = lines.filter_map(|rest| {
        let (labels, value) = rest.rsplit_once('}')?;
        let function = labels.split(',').find_map(|l| l.trim().strip_prefix("function=\""))?;
        let name = function.trim_end_matches('"').split('.').next()?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_read_by_function() {
        let text = "# TYPE faas_instances gauge\nfaas_instances{function=\"a.default\"} 2\nfaas_instances_other{function=\"x\"} 9\n\
                    faas_instances{part=\"p\",function=\"b\"} 0.5\nfaas_instances 7\n";
        let expected = vec![("a".to_owned(), 2.0), ("b".to_owned(), 0.5)];
        assert_eq!(gauges(text, "faas_instances"), expected);
    }

    #[tokio::test]
    async fn memory_of_a_process_is_seen_and_a_gone_one_is_told() {
        let watch = Watch::begin(std::process::id(), None);
        let seen = watch.end().await;
        assert!(seen.resident_bytes_peak > 1 << 20 && seen.looks_failed == 0, "{seen:?}");
        assert!(Watch::begin(u32::MAX >> 1, None).end().await.looks_failed > 0);
    }
}
