//! The identity of one invocation and the headers that carry it.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Names one invocation: a UUID version 7 (RFC 9562 §5.7), so ids sort by time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(pub Uuid);

impl CallId {
    /// Returns a fresh id.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0.as_hyphenated(), f)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for CallId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::parse_str(text).map(Self)
    }
}

/// What made an event. The platform sets it; clients cannot forge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TriggerKind {
    /// An HTTP request on the function listener.
    Http,
    /// A message of a broker's queue.
    Amqp,
    /// The control API: a probe at deploy or `faas invoke`.
    Control,
}

impl TriggerKind {
    /// Returns the value of the `x-faas-trigger` header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Amqp => "amqp",
            Self::Control => "control",
        }
    }
}

/// Header names of the public surface, in one place.
pub mod headers {
    /// The call id, on every answer.
    pub const CALL_ID: &str = "x-call-id";
    /// `platform` or `function`: who made the answer.
    pub const ORIGIN: &str = "x-faas-origin";
    /// The revision that answered, the first 12 hex digits of its id.
    pub const REVISION: &str = "x-faas-revision";
    /// What made the event; set by the platform, stripped from clients.
    pub const TRIGGER: &str = "x-faas-trigger";
    /// When the platform will give up, absolute Unix time in milliseconds.
    pub const DEADLINE_MS: &str = "x-faas-deadline-ms";
    /// Queue, cold-start phases and run of this call (W3C Server Timing).
    pub const SERVER_TIMING: &str = "server-timing";
    /// The number of tries before this one, on messages that are retried.
    pub const ATTEMPTS: &str = "x-faas-attempts";
    /// The type of the store behind the key-value door, `embedded` or `cassandra`, on every answer of it.
    pub const STORE: &str = "faas-store";
    /// Prefix of the platform's own headers, which clients may not send to functions.
    pub const PLATFORM_PREFIX: &str = "x-faas-";
}
