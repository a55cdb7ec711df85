//! A scenario: what is started, what is sent to it and when, as one TOML file.
//!
//! Unknown keys are errors that name the key.

pub mod time;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::arrivals::Arrivals;

/// Most copies of one function.
pub const COPIES_MAX: usize = 20_000;
/// Most requests that may be on their way at once: each is a connection.
pub const OUTSTANDING_MAX: usize = 20_000;

/// A scenario, checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name, as in the result file.
    pub name: String,
    /// What it is for, one sentence.
    pub about: String,
    /// Seed of every random choice.
    #[serde(default = "one")]
    pub seed: u64,
    /// Time before the first phase that sends as the first phase does and counts nothing.
    #[serde(default, with = "time")]
    pub warmup: Duration,
    /// Longest wait for a whole answer, from the moment it should have been sent.
    #[serde(default = "ten_seconds", with = "time")]
    pub timeout: Duration,
    /// Requests on their way at once; a further one is not sent but counted as `bound`.
    #[serde(default = "two_thousand")]
    pub outstanding_max: usize,
    /// Connections opened before the first request.
    #[serde(default)]
    pub connections_ready: usize,
    /// What is tested.
    #[serde(default)]
    pub target: Target,
    /// What is deployed.
    #[serde(default, rename = "function")]
    pub functions: Vec<Function>,
    /// What is sent.
    #[serde(default, rename = "request")]
    pub requests: Vec<Request>,
    /// When, one phase after the other.
    #[serde(default, rename = "phase")]
    pub phases: Vec<Phase>,
    /// Measures the capacity first, for rates such as `"3x"`.
    pub calibrate: Option<Calibrate>,
    /// Functions, requests and times in the shape of Azure Functions, July 2019.
    pub azure2019: Option<crate::azure::Shape>,
    /// The folder of the file.
    #[serde(skip)]
    pub folder: PathBuf,
    /// SHA-256 of the file, in hexadecimal.
    #[serde(skip)]
    pub digest: String,
}

/// What is tested: a platform started for the run, or something that runs already.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `http://host:port/path` of a running server; `{function}` stands for a function's name. Nothing is deployed.
    pub url: Option<String>,
    /// More flags of `faas up`.
    #[serde(default)]
    pub flags: Vec<String>,
    /// The server's configuration file, as text.
    #[serde(default)]
    pub config: String,
}

/// A function, or many copies of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// Name; copies are called `NAME-0`, `NAME-1`, …
    pub name: String,
    /// The sample it is made of: `hello`, `orders`, `thumbnail` or `work`; default the name.
    pub sample: Option<String>,
    /// Copies; 1 is the function itself.
    #[serde(default = "one_copy")]
    pub copies: usize,
    /// Settings as in `faas.toml`, without `source` and `build`.
    #[serde(default)]
    pub settings: toml::Table,
}

/// One kind of request.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Name in the result; default the function's.
    pub name: Option<String>,
    /// The function; of copies, one of them by chance, all alike.
    pub function: String,
    /// Share of the mix, beside the other weights.
    #[serde(default = "one_weight")]
    pub weight: f64,
    /// Method.
    #[serde(default = "get")]
    pub method: String,
    /// Path and query after the function's own path; `{n}` is a number that never repeats in a run.
    #[serde(default = "root")]
    pub path: String,
    /// Headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Body.
    #[serde(default)]
    pub body: Body,
    /// What a good answer has; default a status below 400.
    #[serde(default)]
    pub expect: Expect,
}

/// A request's body: at most one of these.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// The content of a file, relative to the scenario.
    pub file: Option<PathBuf>,
    /// A text; `{n}` as in the path.
    pub text: Option<String>,
    /// So many bytes of noise.
    pub bytes: Option<usize>,
}

/// What makes an answer a good one.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Its status.
    pub status: Option<u16>,
    /// The bytes of its body.
    pub bytes: Option<u64>,
}

/// A stretch of time with one kind of arrivals.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Name in the result.
    pub name: String,
    /// Length.
    #[serde(with = "time")]
    pub duration: Duration,
    /// When requests are sent; without it there are none.
    pub arrivals: Option<Arrivals>,
}

/// How the capacity is measured: a closed loop of the first request.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibrate {
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// For how long.
    #[serde(with = "time")]
    pub duration: Duration,
}

fn one() -> u64 {
    1
}
fn one_copy() -> usize {
    1
}
fn one_weight() -> f64 {
    1.0
}
fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}
fn two_thousand() -> usize {
    2000
}
fn get() -> String {
    "GET".into()
}
fn root() -> String {
    "/".into()
}

impl Scenario {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// With the file and the key or value that is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read scenario {}", path.display()))?;
        let folder = path.parent().unwrap_or_else(|| Path::new(".")).to_owned();
        Self::parse(&text, folder).with_context(|| format!("scenario {}", path.display()))
    }

    /// Parses and checks the text of a scenario whose files are in `folder`.
    ///
    /// # Errors
    /// With the key or value that is wrong.
    pub fn parse(text: &str, folder: PathBuf) -> Result<Self> {
        let mut scenario: Self = toml::from_str(text).map_err(|e| anyhow::anyhow!("{e}"))?;
        scenario.folder = folder;
        scenario.digest = crate::bytes_of::hex(&Sha256::digest(text));
        scenario.check()?;
        Ok(scenario)
    }

    /// Returns how long the phases take together.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.azure2019.as_ref().map_or_else(|| self.phases.iter().map(|p| p.duration).sum(), |a| a.seconds)
    }

    fn check(&self) -> Result<()> {
        let outstanding = self.outstanding_max;
        ensure!(
            (1..=OUTSTANDING_MAX).contains(&outstanding),
            "outstanding_max is {outstanding}, not 1 to {OUTSTANDING_MAX}"
        );
        ensure!(
            self.connections_ready <= outstanding,
            "connections_ready is {}, above outstanding_max {outstanding}",
            self.connections_ready
        );
        ensure!(!self.timeout.is_zero(), "timeout is 0: no answer could come in time");
        if let Some(shape) = &self.azure2019 {
            let others = !self.functions.is_empty() || !self.requests.is_empty() || !self.phases.is_empty();
            ensure!(!others, "[azure2019] brings its own functions, requests and phases: remove the others");
            return shape.check();
        }
        ensure!(!self.requests.is_empty(), "there is no [[request]]");
        ensure!(!self.phases.is_empty(), "there is no [[phase]]");
        for function in &self.functions {
            let (name, copies) = (&function.name, function.copies);
            ensure!((1..=COPIES_MAX).contains(&copies), "copies of {name:?} is {copies}, not 1 to {COPIES_MAX}");
        }
        self.requests.iter().try_for_each(|r| self.check_request(r))
    }

    fn check_request(&self, request: &Request) -> Result<()> {
        let function = &request.function;
        let known = self.target.url.is_some() || self.functions.iter().any(|f| f.name == *function);
        ensure!(known, "a [[request]] is for function {function:?}, which no [[function]] names");
        let weight = request.weight;
        ensure!(weight.is_finite() && weight > 0.0, "weight of the request to {function:?} is {weight}, not above 0");
        ensure!(request.path.starts_with('/'), "path {:?} does not begin with '/'", request.path);
        http::Method::from_bytes(request.method.as_bytes())
            .with_context(|| format!("method {:?} is none", request.method))?;
        let body = &request.body;
        let kinds = [body.file.is_some(), body.text.is_some(), body.bytes.is_some()];
        ensure!(
            kinds.into_iter().filter(|k| *k).count() <= 1,
            "the body of the request to {function:?} has more than one of file, text and bytes"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
