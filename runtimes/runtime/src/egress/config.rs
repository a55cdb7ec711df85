//! The settings of egress, as plain data.

use std::path::PathBuf;

use faas_model::units::{ByteSize, Millis};
use serde::{Deserialize, Serialize};

/// Bounds of what functions send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A file of certificates (PEM) that are trusted beside those of the machine; empty for none.
    pub ca_file: PathBuf,
    /// Requests of one call that run at once at most, 1 to 10,000.
    pub requests_per_call_max: usize,
    /// Requests of one function that run at once at most, 1 to 100,000.
    pub requests_per_function_max: usize,
    /// Requests of all functions that run at once at most, 1 to 100,000.
    pub requests_max: usize,
    /// Bodies of all requests of one call together.
    pub request_bytes_max: ByteSize,
    /// Bodies of all answers to one call together.
    pub response_bytes_max: ByteSize,
    /// Head of one answer, 8 KiB to 1 MiB.
    pub response_head_bytes_max: ByteSize,
    /// From the resolved name to the open connection, TLS included.
    pub connect_timeout: Millis,
    /// From the sending of a request to the head of its answer.
    pub first_byte_timeout: Millis,
    /// Between two pieces of an answer.
    pub between_bytes_timeout: Millis,
    /// How long a connection without a request is kept.
    pub keep_alive: Millis,
    /// Connections without a request that are kept for one function, 0 to 1,000.
    pub idle_per_function_max: usize,
    /// Connections without a request that are kept for all functions, 0 to 10,000.
    pub idle_max: usize,
    /// How long a name may take to resolve.
    pub lookup_timeout: Millis,
    /// Names that are resolved at once at most, 1 to 512; a quarter of them for one function.
    pub lookups_max: usize,
    /// Names that are remembered, 0 to 65,536.
    pub names_max: usize,
    /// How long a name is remembered.
    pub name_age_max: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ca_file: PathBuf::new(),
            requests_per_call_max: 32,
            requests_per_function_max: 256,
            requests_max: 1024,
            request_bytes_max: ByteSize::mib(64),
            response_bytes_max: ByteSize::mib(64),
            response_head_bytes_max: ByteSize::kib(64),
            connect_timeout: Millis::seconds(10),
            first_byte_timeout: Millis::seconds(60),
            between_bytes_timeout: Millis::seconds(60),
            keep_alive: Millis::seconds(30),
            idle_per_function_max: 16,
            idle_max: 256,
            lookup_timeout: Millis::seconds(5),
            lookups_max: 32,
            names_max: 1024,
            name_age_max: Millis::seconds(10),
        }
    }
}
