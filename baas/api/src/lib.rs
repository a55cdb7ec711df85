//! The state doors over a `Store`: the key-value door `/kv/{bucket}/{key}`.
//!
//! **Never knows** Cassandra, redb, Wasm or listeners: it turns one HTTP
//! request into one answer.
//!
//! - Nothing is answered without a valid token; the namespace comes from the
//!   token alone.
//! - A key is percent-decoded UTF-8 of 1 to 1,024 bytes; everything after
//!   `/kv/{bucket}/` belongs to it, slashes included. A value has at most 1 MiB.
//! - The `ETag` is the version, opaque to clients.
//! - A 2xx for a write means durable.

mod answer;
mod auth;
mod base64;
mod batch;
mod door;
mod metrics;
mod route;
#[cfg(test)]
mod tests;

pub use auth::Auth;
pub use door::{Config, Door};
