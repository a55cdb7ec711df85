//! The records: one key per order or event, written once and never changed.
//!
//! A record is one line, `TOTAL_CENTS CUSTOMER`, which is all that totals need,
//! then JSON. The key alone decides what is the same thing.

use serde::Serialize;

use crate::order::Order;
use crate::state::{Bucket, State, StateError};

/// Longest key; the store allows 1 KiB.
const KEY_BYTES_MAX: usize = 1024;

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// It is new.
    Now,
    /// There is one; here is its JSON.
    Before(Vec<u8>),
}

/// What names an event: `source` and `id` of its CloudEvents attributes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct EventId<'a> {
    /// The attribute `source`.
    pub source: &'a str,
    /// The attribute `id`.
    pub id: &'a str,
}

impl EventId<'_> {
    /// Returns the key of the event; none if it would be too long.
    ///
    /// Different events have different keys: the encoded parts hold no `/`.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        let key = format!("{}/{}", encode(self.source), encode(self.id));
        (key.len() <= KEY_BYTES_MAX).then_some(key)
    }
}

/// Percent-encodes all but letters, digits, `.`, `_` and `-`.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Records an order under `key`, once: of many calls with the same key exactly one records.
///
/// # Errors
/// [`StateError`]; then it may be recorded or not, and the same call again settles it.
pub fn record(
    state: &dyn State,
    bucket: Bucket,
    key: &str,
    order: &Order,
    json: &[u8],
) -> Result<Recorded, StateError> {
    let line = format!("{} {}\n", order.total_cents, order.customer);
    let record = [line.as_bytes(), json].concat();
    let present = state.create(bucket, key, &record)?;
    Ok(present.map_or(Recorded::Now, |present| Recorded::Before(json_of(&present).to_vec())))
}

/// Returns the JSON of a record.
#[must_use]
pub fn json_of(record: &[u8]) -> &[u8] {
    let line = record.iter().position(|b| *b == b'\n').map_or(record.len(), |at| at + 1);
    record.get(line..).unwrap_or_default()
}

/// Returns the total in cents and the customer of a record; none if it is no record.
#[must_use]
pub fn sum_of(record: &[u8]) -> Option<(u64, &str)> {
    let line = record.split(|b| *b == b'\n').next()?;
    let (cents, customer) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    Some((cents.parse().ok()?, customer))
}
