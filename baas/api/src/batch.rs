//! The document of `POST /kv/{bucket}?op=batch`.
//!
//! `{"changes": [{"put": KEY, "value": TEXT}, {"put": KEY, "base64": BYTES}, {"delete": KEY}]}`

use bytes::Bytes;
use faas_store::bucket::BatchChange;
use serde::Deserialize;

use crate::base64;

/// Most bytes of the document: 2 MiB of values in base64, and room for keys.
pub(crate) const BODY_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    changes: Vec<Change>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    put: Option<String>,
    delete: Option<String>,
    value: Option<String>,
    base64: Option<String>,
}

/// Reads the document; the error says what is wrong with it.
pub(crate) fn parse(body: &[u8]) -> Result<Vec<BatchChange>, String> {
    let document: Document = serde_json::from_slice(body).map_err(|error| format!("not a batch: {error}"))?;
    document
        .changes
        .into_iter()
        .enumerate()
        .map(|(at, change)| checked(change).map_err(|e| format!("changes[{at}]: {e}")))
        .collect()
}

fn checked(change: Change) -> Result<BatchChange, &'static str> {
    match change {
        Change { put: Some(key), delete: None, value: Some(text), base64: None } => {
            Ok(BatchChange::Put { key, value: Bytes::from(text) })
        }
        Change { put: Some(key), delete: None, value: None, base64: Some(text) } => {
            let bytes = base64::decode(&text).ok_or("base64 is not base64 (RFC 4648, padded)")?;
            Ok(BatchChange::Put { key, value: bytes.into() })
        }
        Change { put: None, delete: Some(key), value: None, base64: None } => Ok(BatchChange::Delete { key }),
        _ => Err("a change is {put, value}, {put, base64} or {delete}"),
    }
}
