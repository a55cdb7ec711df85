//! One line of an export.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use faas_model::{Digest, Name};
use faas_store::Space;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The version of the format.
pub(crate) const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Line {
    /// The first.
    Head { format: u32 },
    /// Code follows in pieces.
    Code { digest: Digest, bytes: u64 },
    /// A piece of the code that was named last.
    Piece { data: Base64 },
    /// A row of the store.
    Row(Row),
    /// The last: how many lines came before, and the SHA-256 of all of them.
    End { lines: u64, digest: Digest },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) namespace: Name,
    pub(crate) space: Space,
    pub(crate) partition: Base64,
    #[serde(default, skip_serializing_if = "Base64::is_empty")]
    pub(crate) sort: Base64,
    pub(crate) value: Base64,
    /// When it ceases to exist, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_ms: Option<u64>,
}

/// Bytes, in base64 (RFC 4648 §4).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Base64(pub(crate) Bytes);

impl Base64 {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}
