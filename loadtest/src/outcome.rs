//! The result of a run as a file: what was run, on what, and what came out.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::keep_alive::Economy;
use crate::machine::{Machine, Sources};
use crate::open_loop::Generator;
use crate::tally::Part;

/// Version of the format; a reader refuses others.
pub const FORMAT: u32 = 1;

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Version of this format.
    pub format: u32,
    /// Name of the scenario.
    pub scenario: String,
    /// SHA-256 of its file.
    pub scenario_digest: String,
    /// SHA-256 of what was sent when: equal for equal scenario, seed and capacity.
    pub plan_digest: String,
    /// Seed.
    pub seed: u64,
    /// What was tested.
    pub target: String,
    /// Begin, in milliseconds of Unix time.
    pub started_unix_ms: u64,
    /// The machine.
    pub machine: Machine,
    /// The sources.
    pub sources: Sources,
    /// From the first request's time to the last end.
    pub seconds: f64,
    /// Good answers per second.
    pub good_per_second: f64,
    /// Good answers per second of a closed loop before, when the scenario asks for it.
    pub capacity_per_second: Option<f64>,
    /// All requests.
    pub total: Part,
    /// By phase.
    pub phases: BTreeMap<String, Part>,
    /// By route.
    pub routes: BTreeMap<String, Part>,
    /// The generator.
    pub generator: Generator,
    /// The server, when it was started for this run.
    pub server: Option<Server>,
    /// Cold starts and memory beside other ways to keep instances, for a trace.
    pub economy: Option<Economy>,
}

/// What the server took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// CPU time over requests that were sent.
    pub cpu_us_per_request: f64,
    /// Resident memory before.
    pub resident_bytes_before: u64,
    /// Resident memory after.
    pub resident_bytes_after: u64,
    /// Largest resident memory that was seen.
    pub resident_bytes_peak: u64,
}

impl Outcome {
    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it is no result, or one of another format.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no result of `faas-load run`", path.display()))
    }

    /// Parses the text of a result.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        ensure!(format == Some(u64::from(FORMAT)), "its format is {format:?}, not {FORMAT}");
        Ok(serde_json::from_value(value)?)
    }

    /// Returns all failures.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.total.requests - self.total.good
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::latency::Summary;

    pub(crate) fn example() -> Outcome {
        let latency = Summary { count: 90, mean_us: 12.5, p50_us: 10, p90_us: 20, p99_us: 30, p999_us: 40, max_us: 50 };
        let errors = BTreeMap::from([("429 queue_full".to_owned(), 10)]);
        let total = Part { requests: 100, good: 90, errors, cold_starts: 1, latency, ..Part::default() };
        Outcome {
            format: FORMAT,
            scenario: "example".into(),
            scenario_digest: "ab".into(),
            plan_digest: "cd".into(),
            seed: u64::MAX,
            target: "faas".into(),
            started_unix_ms: 1,
            machine: Machine::read().unwrap(),
            sources: Sources::read(None),
            seconds: 2.0,
            good_per_second: 45.0,
            capacity_per_second: Some(0.1),
            phases: BTreeMap::from([("steady".to_owned(), total.clone())]),
            routes: BTreeMap::from([("hello".to_owned(), total.clone())]),
            total,
            generator: Generator { flags: vec!["late".into()], cpu_share: 0.25, ..Generator::default() },
            server: Some(Server { cpu_us_per_request: 12.345, ..Server::default() }),
            economy: None,
        }
    }

    #[test]
    fn a_result_is_the_same_after_writing_and_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        example().write(&path).unwrap();
        assert_eq!(Outcome::read(&path).unwrap(), example());
    }

    #[test]
    fn a_foreign_file_an_unknown_key_and_another_format_are_refused() {
        assert!(Outcome::parse("{}").unwrap_err().to_string().contains("format"));
        let text = serde_json::to_string(&example()).unwrap();
        let newer = text.replace("\"format\":1", "\"format\":2");
        assert!(Outcome::parse(&newer).unwrap_err().to_string().contains("Some(2), not 1"));
        let more = text.replace("\"format\":1", "\"format\":1,\"colour\":1");
        assert!(Outcome::parse(&more).unwrap_err().to_string().contains("colour"));
        let missing = Outcome::read(Path::new("/no/such.json")).unwrap_err();
        assert!(format!("{missing:#}").contains("/no/such.json"));
    }
}
