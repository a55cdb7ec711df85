//! The manifest `faas.toml`: what a function is, needs, may do and is triggered by.
//!
//! Bounds: see [`check`](FunctionSpec::check); every one is named in its error.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Millis};
use crate::{AliasSettings, Digest, Name, RevisionId};

/// Largest manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 64 << 10;
/// Most functions of one manifest.
pub const FUNCTIONS_MAX: usize = 64;

/// A whole `faas.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The functions by name.
    pub functions: BTreeMap<Name, Source>,
}

/// A function as its author writes it: where the code is, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// Path of the built component, relative to the manifest. Stays with the author.
    pub source: Option<String>,
    /// How to build it. Stays with the author.
    pub build: Option<Build>,
    /// Which runtime runs it.
    pub runtime: RuntimeKind,
    /// Values the function reads through `wasi:config/store` and its environment.
    pub env: BTreeMap<String, String>,
    /// What one call may use.
    pub limits: Limits,
    /// How many instances and calls there may be.
    pub scale: Scale,
    /// How many calls may wait, and how long.
    pub queue: Queue,
    /// How long each phase may take.
    pub timeout: Timeout,
    /// How failed messages are tried again.
    pub retry: Retry,
    /// Whether an instance may serve more than one call.
    pub reuse: Reuse,
    /// A path that must answer below 500 before a deploy goes live.
    pub probe: Option<String>,
    /// The state buckets this function may open. Others do not exist for it.
    pub state: BTreeSet<Name>,
    /// Where the function may send requests. Everything else is refused.
    pub egress: BTreeSet<EgressRule>,
    /// What invokes the function beside `/function/NAME`.
    pub trigger: Triggers,
}

/// A build step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// The command, run by the shell of the author's machine in the manifest's folder.
    pub command: String,
    /// Globs of files whose change calls for a new build.
    #[serde(default)]
    pub watch: Vec<String>,
}

/// The kinds of runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// A WebAssembly component that exports `wasi:http/incoming-handler` 0.2 or `wasi:http/handler` 0.3.
    #[default]
    Wasm,
}

/// What one call may use at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Linear memory of one call, 64 KiB to 4 GiB; default 128 MiB.
    pub memory: ByteSize,
    /// CPU time of one call, in steps of 10 ms; default 10 s.
    pub cpu: Millis,
    /// Request body, at most 1 GiB; default 16 MiB.
    pub request_bytes: ByteSize,
    /// Answer body, at most 1 GiB; default 64 MiB.
    pub response_bytes: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(128),
            cpu: Millis::seconds(10),
            request_bytes: ByteSize::mib(16),
            response_bytes: ByteSize::mib(64),
        }
    }
}

/// How many instances and parallel calls there may be. A setting of the alias, not of the revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scale {
    /// Instances kept without traffic; default 0.
    pub min: u32,
    /// Instances at most, 1 to 1000; default 10.
    pub max: u32,
    /// Parallel calls of one instance, 1 to 1000; default 100. Always 1 with `reuse = "sequential"`.
    pub concurrency: u32,
    /// How long an instance without calls is kept; default 60 s.
    pub idle: Millis,
}

impl Default for Scale {
    fn default() -> Self {
        Self { min: 0, max: 10, concurrency: 100, idle: Millis::seconds(60) }
    }
}

/// How many calls may wait for a free instance, and how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// Waiting calls at most, 0 to 100,000; default 1,000.
    pub depth: u32,
    /// Longest wait; default 10 s.
    pub wait: Millis,
}

impl Default for Queue {
    fn default() -> Self {
        Self { depth: 1000, wait: Millis::seconds(10) }
    }
}

/// How long each phase may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeout {
    /// A cold start; default 30 s.
    pub cold: Millis,
    /// From the call's start to the head of the answer, and the work after its last byte; default 30 s.
    pub run: Millis,
    /// The whole body of the answer; default 15 min.
    pub stream: Millis,
    /// Between two bytes of a body; default 60 s.
    pub idle: Millis,
    /// From SIGTERM to the cut of running calls; default 10 s.
    pub grace: Millis,
}

impl Default for Timeout {
    fn default() -> Self {
        Self {
            cold: Millis::seconds(30),
            run: Millis::seconds(30),
            stream: Millis::seconds(15 * 60),
            idle: Millis::seconds(60),
            grace: Millis::seconds(10),
        }
    }
}

/// How a failed message is tried again before it is dead-lettered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Tries in all, 1 to 100; default 5.
    pub attempts: u32,
    /// First pause; each next doubles, rounded to a tier; default 1 s.
    pub min: Millis,
    /// Longest pause; default 60 s.
    pub max: Millis,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 5, min: Millis::seconds(1), max: Millis::seconds(60) }
    }
}

/// Whether an instance may serve more than one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Reuse {
    /// A fresh store per call: nothing of one call is seen by another.
    #[default]
    Never,
    /// One store per instance, one call at a time: what a call leaves in memory, the next one finds.
    Sequential,
    /// One store per instance, several calls at a time; only for components of WASI 0.3.
    Concurrent,
}

impl Reuse {
    /// Returns how many calls an instance takes at once, where the alias allows `concurrency`.
    #[must_use]
    pub fn concurrency(self, concurrency: u32) -> u32 {
        if self == Self::Sequential { 1 } else { concurrency.max(1) }
    }
}

/// What invokes a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Triggers {
    /// Routes and hosts of its own.
    pub http: Vec<HttpTrigger>,
    /// Queues of a broker.
    pub amqp: Vec<AmqpTrigger>,
}

/// A route of the function listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTrigger {
    /// An absolute path, exact (`/orders`) or with everything below it (`/orders/*`).
    pub route: String,
    /// Host names the route is for; empty means every host.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Methods the route is for; empty means every method.
    #[serde(default)]
    pub methods: Vec<String>,
}

/// A queue of a broker (RabbitMQ, AMQP 0-9-1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmqpTrigger {
    /// The broker's name in the server configuration; default `default`.
    #[serde(default = "broker_default")]
    pub broker: Name,
    /// The queue's name, 1 to 200 bytes.
    pub queue: String,
    /// Whether the platform declares the queue, its dead-letter exchange and queue, and the retry tiers.
    #[serde(default)]
    pub declare: bool,
    /// An exchange to bind the declared queue to.
    #[serde(default)]
    pub exchange: Option<String>,
    /// Routing keys of that binding; empty means the queue's name.
    #[serde(default)]
    pub bindings: Vec<String>,
    /// Where messages go that cannot be handled; default `{queue}.dlx`.
    #[serde(default)]
    pub dead_letter_exchange: Option<String>,
    /// Unacknowledged messages at most, 1 to 1000; default 32.
    #[serde(default = "prefetch_default")]
    pub prefetch: u16,
}

impl AmqpTrigger {
    /// Returns the exchange for messages that cannot be handled.
    #[must_use]
    pub fn dead_letter_exchange(&self) -> String {
        self.dead_letter_exchange.clone().unwrap_or_else(|| format!("{}.dlx", self.queue))
    }
}

fn broker_default() -> Name {
    Name::namespace_default()
}

fn prefetch_default() -> u16 {
    32
}

/// What a revision is: everything of the manifest that changes what the code
/// does, without what belongs to the author's machine and to the alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionSpec {
    /// Which runtime runs it.
    pub runtime: RuntimeKind,
    /// Values the function reads.
    pub env: BTreeMap<String, String>,
    /// What one call may use.
    pub limits: Limits,
    /// How many calls may wait, and how long.
    pub queue: Queue,
    /// How long each phase may take.
    pub timeout: Timeout,
    /// How failed messages are tried again.
    pub retry: Retry,
    /// Whether an instance may serve more than one call.
    pub reuse: Reuse,
    /// A path that must answer below 500 before a deploy goes live.
    pub probe: Option<String>,
    /// The granted state buckets.
    pub state: BTreeSet<Name>,
    /// Where it may send requests.
    pub egress: BTreeSet<EgressRule>,
    /// What invokes the function.
    pub trigger: Triggers,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not TOML, an unknown key or a wrong type.
    #[error("{0}")]
    Syntax(String),
    /// A value outside its bounds.
    #[error("{key} = {value} is out of bounds: {expected}")]
    Bound {
        /// Where the value stands.
        key: &'static str,
        /// The value.
        value: String,
        /// What is allowed.
        expected: &'static str,
    },
}

impl Manifest {
    /// Reads a `faas.toml` and checks every bound.
    ///
    /// # Errors
    /// [`ManifestError`]; unknown keys are errors that name the nearest known key.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(check::bound("manifest size", text.len(), "at most 64 KiB"));
        }
        let manifest: Self =
            toml::from_str(text).map_err(|e| ManifestError::Syntax(with_nearest_key(&e.to_string())))?;
        if manifest.functions.is_empty() || manifest.functions.len() > FUNCTIONS_MAX {
            return Err(check::bound("number of functions", manifest.functions.len(), "1 to 64"));
        }
        for source in manifest.functions.values() {
            source.spec().check()?;
            source.settings().check()?;
            source.spec().check_with(&source.settings())?;
        }
        Ok(manifest)
    }
}

impl Source {
    /// Returns what the revision is made of.
    #[must_use]
    pub fn spec(&self) -> FunctionSpec {
        FunctionSpec {
            runtime: self.runtime,
            env: self.env.clone(),
            limits: self.limits.clone(),
            queue: self.queue.clone(),
            timeout: self.timeout.clone(),
            retry: self.retry.clone(),
            reuse: self.reuse,
            probe: self.probe.clone(),
            state: self.state.clone(),
            egress: self.egress.clone(),
            trigger: self.trigger.clone(),
        }
    }

    /// Returns the settings of the alias.
    #[must_use]
    pub fn settings(&self) -> AliasSettings {
        AliasSettings { scale: self.scale.clone() }
    }
}

impl FunctionSpec {
    /// Returns the canonical bytes: JSON with every default written out and keys in declared order.
    ///
    /// # Panics
    /// Never: the type has no map with keys that are not text.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a spec is plain data with text keys")
    }

    /// Returns the identity of this spec with code of digest `code`.
    #[must_use]
    pub fn revision_id(&self, code: &Digest) -> RevisionId {
        RevisionId::of(&self.canonical(), code)
    }
}

/// Adds "did you mean" to serde's message about an unknown field.
///
/// serde writes ``unknown field `x`, expected one of `a`, `b` ``; the nearest by
/// Damerau-Levenshtein distance is named when it is close.
#[must_use]
pub fn with_nearest_key(message: &str) -> String {
    let message = message.trim_end();
    let Some((_, tail)) = message.split_once("unknown field `") else { return message.to_owned() };
    let mut quoted = tail.split('`');
    let unknown = quoted.next().unwrap_or_default();
    let known = quoted.skip(1).step_by(2);
    let nearest = known.map(|k| (strsim::damerau_levenshtein(unknown, k), k)).min();
    match nearest {
        Some((distance, key)) if distance <= 3 => format!("{message}; did you mean `{key}`?"),
        _ => message.to_owned(),
    }
}

mod check;
mod egress;

pub use egress::{EGRESS_ENTRIES_MAX, EgressError, EgressRule, EgressScheme, Host, Hosts};

#[cfg(test)]
mod tests;
