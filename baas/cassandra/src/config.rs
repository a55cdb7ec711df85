//! What the store is told.

use std::collections::BTreeMap;
use std::fmt;

use faas_model::units::{ByteSize, Millis};
use serde::{Deserialize, Serialize};

use crate::cql::{self, Identifier, IdentifierError};

/// How to reach a cluster and how much to ask of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Some nodes of the cluster, `host:port`; the others are found by them.
    pub nodes: Vec<String>,
    /// The keyspace; made by `faas baas migrate`.
    pub keyspace: String,
    /// The datacenter whose nodes are asked; empty where there is one only.
    pub datacenter: String,
    /// User; empty where the cluster asks for none.
    pub user: String,
    /// Password of the user; never written.
    #[serde(serialize_with = "nothing")]
    pub password: String,
    /// Copies of each row by datacenter, for `faas baas migrate` on a new keyspace.
    pub replication: BTreeMap<String, u8>,
    /// Longest wait for one answer of the cluster.
    pub request_timeout: Millis,
    /// Longest wait for a connection.
    pub connect_timeout: Millis,
    /// How long a start waits for a cluster that is away.
    pub start_wait: Millis,
    /// Requests to the cluster at once, at most; more wait for their turn.
    pub in_flight_max: u32,
    /// Connections to each node.
    pub connections_per_node: u32,
    /// Failures in a row after which the cluster is left alone for a while.
    pub breaker_failures: u32,
    /// How long it is left alone before one request tries again.
    pub breaker_pause: Millis,
    /// How long the outcome of a write is known, and a repeat of it harmless.
    pub outcome_keep: Millis,
    /// How long the change log is kept.
    pub log_keep: Millis,
    /// Most difference between the clocks of the nodes and of this machine.
    pub clock_skew_max: Millis,
    /// How old what a plain read of a value tells may be; 0 keeps nothing, and every read is linearizable.
    pub cache_age_max: Millis,
    /// Bytes that are kept for such reads, at most.
    pub cache_bytes_max: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nodes: vec!["127.0.0.1:9042".into()],
            keyspace: "faas".into(),
            datacenter: String::new(),
            user: String::new(),
            password: String::new(),
            replication: BTreeMap::new(),
            request_timeout: Millis(5_000),
            connect_timeout: Millis(2_000),
            start_wait: Millis(30_000),
            in_flight_max: 1_024,
            connections_per_node: 2,
            breaker_failures: 8,
            breaker_pause: Millis(500),
            outcome_keep: Millis(3_600_000),
            log_keep: Millis(86_400_000),
            clock_skew_max: Millis(1_000),
            cache_age_max: Millis(0),
            cache_bytes_max: ByteSize::mib(64),
        }
    }
}

/// Writes nothing of a secret.
fn nothing<S: serde::Serializer>(_secret: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("")
}

// The password stays out of logs.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("nodes", &self.nodes)
            .field("keyspace", &self.keyspace)
            .field("datacenter", &self.datacenter)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a [`Config`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No node is named.
    #[error("nodes names no node: name at least one as host:port")]
    NoNodes,
    /// A name is not one.
    #[error("{key}: {error}")]
    Name {
        /// Which key.
        key: &'static str,
        /// What is wrong.
        error: IdentifierError,
    },
    /// A number is out of its bounds.
    #[error("{key} = {value} is out of bounds: use {min} to {max}")]
    Bounds {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
}

impl Config {
    /// Checks every key and returns the keyspace's name.
    ///
    /// # Errors
    /// What is wrong, with the key and its value.
    pub(crate) fn check(&self) -> Result<Identifier, ConfigError> {
        if self.nodes.is_empty() {
            return Err(ConfigError::NoNodes);
        }
        let named = |key, text: &str| Identifier::new(text).map_err(|error| ConfigError::Name { key, error });
        let keyspace = named("keyspace", &self.keyspace)?;
        for (datacenter, copies) in &self.replication {
            cql::datacenter(datacenter).map_err(|error| ConfigError::Name { key: "replication", error })?;
            bounds("replication", (*copies).into(), 1, 15)?;
        }
        for (key, value, min, max) in [
            ("request_timeout", self.request_timeout.0, 100, 60_000),
            ("connect_timeout", self.connect_timeout.0, 100, 60_000),
            ("start_wait", self.start_wait.0, 0, 3_600_000),
            ("in_flight_max", self.in_flight_max.into(), 1, 100_000),
            ("connections_per_node", self.connections_per_node.into(), 1, 64),
            ("breaker_failures", self.breaker_failures.into(), 1, 10_000),
            ("breaker_pause", self.breaker_pause.0, 10, 60_000),
            // Longer than any write takes, and than the bound of Cassandra's own times to live.
            ("outcome_keep", self.outcome_keep.0, 60_000, 30 * 86_400_000),
            ("log_keep", self.log_keep.0, 60_000, 365 * 86_400_000),
            ("clock_skew_max", self.clock_skew_max.0, 1, 60_000),
            ("cache_age_max", self.cache_age_max.0, 0, 3_600_000),
            ("cache_bytes_max", self.cache_bytes_max.0, 1 << 20, 64 << 30),
        ] {
            bounds(key, value, min, max)?;
        }
        Ok(keyspace)
    }
}

fn bounds(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError::Bounds { key, value, min, max }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_in_order_and_each_key_holds_its_bounds() {
        assert_eq!(Config::default().check().unwrap().as_str(), "faas");
        let with = |set: fn(&mut Config)| {
            let mut config = Config::default();
            set(&mut config);
            config.check().err().map(|error| error.to_string())
        };
        assert_eq!(with(|c| c.in_flight_max = 1), None);
        assert_eq!(with(|c| c.in_flight_max = 100_000), None);
        let told = with(|c| c.in_flight_max = 0).unwrap();
        assert!(told.contains("in_flight_max = 0") && told.contains("1 to 100000"), "{told}");
        assert!(with(|c| c.in_flight_max = 100_001).is_some());
        assert!(with(|c| c.request_timeout = Millis(99)).unwrap().contains("request_timeout = 99"));
        assert_eq!(with(|c| c.cache_age_max = Millis(3_600_000)), None);
        assert!(with(|c| c.cache_age_max = Millis(3_600_001)).unwrap().contains("cache_age_max = 3600001"));
        assert_eq!(with(|c| c.cache_bytes_max = ByteSize(1 << 20)), None);
        assert!(with(|c| c.cache_bytes_max = ByteSize((1 << 20) - 1)).unwrap().contains("cache_bytes_max = 1048575"));
        assert!(with(|c| c.nodes.clear()).unwrap().contains("host:port"));
        assert!(with(|c| c.keyspace = "a b".into()).unwrap().contains("keyspace"));
        assert!(with(|c| c.replication = [("dc1".into(), 0)].into()).unwrap().contains("replication = 0"));
        assert!(with(|c| c.replication = [("dc'1".into(), 3)].into()).unwrap().contains("replication"));
    }

    #[test]
    fn a_password_is_not_shown() {
        let config = Config { password: "hidden".into(), ..Config::default() };
        assert!(!format!("{config:?}").contains("hidden"));
        assert!(!serde_json::to_string(&config).unwrap().contains("hidden"));
    }
}
