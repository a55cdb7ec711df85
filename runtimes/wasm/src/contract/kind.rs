//! The contracts by name. Knows no engine, so that `loadtest/fuzz` reads the check of components without one.

use std::fmt;

/// What a component exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Contract {
    /// `wasi:http/incoming-handler` 0.2: one call at a time.
    #[serde(rename = "0.2")]
    Handler02,
    /// `wasi:http/handler` 0.3: several calls at a time.
    #[serde(rename = "0.3")]
    Handler03,
}

impl Contract {
    pub(crate) const ALL: [Self; 2] = [Self::Handler02, Self::Handler03];
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handler02 => "wasi:http/incoming-handler 0.2",
            Self::Handler03 => "wasi:http/handler 0.3",
        })
    }
}
